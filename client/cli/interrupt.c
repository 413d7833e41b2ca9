// SPDX-License-Identifier: Apache-2.0
#include "client/cli/interrupt.h"

#include <signal.h>
#include <stddef.h>
#include <sys/time.h>

#define MS_PER_S 1000
#define US_PER_MS 1000

static volatile int flag;
static volatile sig_atomic_t interrupted, late;

static void on_signal(int number) {
    if (number == SIGALRM) {
        late = 1;
    } else {
        interrupted = number;
    }
    flag = 1;
}

void tm_interrupt_install(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
}

const volatile int *tm_interrupt_flag(void) {
    return &flag;
}

int tm_interrupt_signal(void) {
    return interrupted;
}

void tm_interrupt_arm(uint32_t ms) {
    late = 0;
    setitimer(ITIMER_REAL,
              &(struct itimerval){
                  .it_value = {.tv_sec = ms / MS_PER_S, .tv_usec = (ms % MS_PER_S) * US_PER_MS}},
              NULL);
}

bool tm_interrupt_disarm(void) {
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    bool was_late = late;
    late = 0;
    flag = interrupted != 0;
    return was_late;
}
