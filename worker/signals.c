// SPDX-License-Identifier: Apache-2.0
#include "worker/signals.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "worker/session.h"

/* A handler has no argument of ours: this is the one place for what it needs. */
static int pipe_fd[2] = {-1, -1};
static int times_told;

static void on_signal(int number) {
    int saved = errno;
    if (number != SIGUSR1 && __atomic_add_fetch(&times_told, 1, __ATOMIC_RELAXED) > 1) {
        static const char text[] = "trackmill-worker: second signal, leaving at once\n";
        ssize_t told = write(STDERR_FILENO, text, sizeof text - 1);
        (void)told;
        _exit(TM_EXIT_KILLED);
    }
    char byte = (char)number;
    ssize_t written = write(pipe_fd[1], &byte, 1); /* full: there is enough to read already */
    (void)written;
    errno = saved;
}

tm_status_t tm_signals_catch(tm_error_t *err) {
    if (pipe2(pipe_fd, O_CLOEXEC | O_NONBLOCK) != 0) {
        return tm_error_set(err, TM_E_SYSTEM, "cannot make a pipe: %s", strerror(errno));
    }
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigfillset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    return TM_OK;
}

int tm_signals_fd(void) {
    return pipe_fd[0];
}

const char *tm_signals_next(void) {
    char number;
    if (read(pipe_fd[0], &number, 1) != 1) {
        return NULL;
    }
    return number == SIGTERM ? "SIGTERM" : number == SIGINT ? "SIGINT" : "SIGUSR1";
}
