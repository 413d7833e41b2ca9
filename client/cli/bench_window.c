// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_window.h"

#include <time.h>

#include "client/cli/cli.h"
#include "client/cli/interrupt.h"

#define US_PER_S 1e6
#define ARRIVE_NAP_NS 200000L
#define NEVER UINT64_MAX

void tm_bench_window_init(tm_bench_window_t *window, double warm_up_s, double seconds,
                          uint32_t least, bool timed, uint32_t callers) {
    window->warm_up_us = (uint64_t)(warm_up_s * US_PER_S);
    window->window_us = (uint64_t)(seconds * US_PER_S);
    window->least = least;
    window->timed = timed;
    window->callers = callers;
    atomic_init(&window->arrived, 0);
    atomic_init(&window->start_us, NEVER);
    atomic_init(&window->open_us, NEVER);
    atomic_init(&window->close_us, NEVER);
    atomic_init(&window->warm_up_count, 0);
    atomic_init(&window->window_count, 0);
    atomic_init(&window->next_event, 0);
    atomic_init(&window->stop, false);
}

static void start_clock(tm_bench_window_t *window) {
    uint64_t now_us = tm_cli_now_us();
    if (window->timed) {
        atomic_store(&window->open_us, now_us + window->warm_up_us);
        atomic_store(&window->close_us, now_us + window->warm_up_us + window->window_us);
    }
    atomic_store(&window->start_us, now_us); /* last: the others wait for it */
}

bool tm_bench_window_arrive(tm_bench_window_t *window) {
    if (atomic_fetch_add(&window->arrived, 1) + 1 == window->callers) {
        start_clock(window);
    }
    while (atomic_load(&window->start_us) == NEVER) {
        if (atomic_load(&window->stop) || tm_interrupt_signal()) {
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = ARRIVE_NAP_NS}, NULL);
    }
    return true;
}

tm_bench_phase_t tm_bench_window_phase(const tm_bench_window_t *window, uint64_t now_us) {
    return now_us < atomic_load(&window->open_us)    ? TM_BENCH_WARM_UP
           : now_us < atomic_load(&window->close_us) ? TM_BENCH_WINDOW
                                                     : TM_BENCH_OVER;
}

tm_bench_phase_t tm_bench_window_count(tm_bench_window_t *window, uint64_t now_us) {
    tm_bench_phase_t phase = tm_bench_window_phase(window, now_us);
    if (window->timed || phase == TM_BENCH_OVER) {
        return phase;
    }
    bool warm = phase == TM_BENCH_WARM_UP;
    uint64_t began_us =
        warm ? atomic_load(&window->start_us) : (uint64_t)atomic_load(&window->open_us);
    uint64_t count = atomic_fetch_add(warm ? &window->warm_up_count : &window->window_count, 1) + 1;
    uint64_t wanted_us = warm ? window->warm_up_us : window->window_us;
    /* another caller's later answer may have ended the phase already: then began_us is beyond */
    if (count >= window->least && now_us >= began_us && now_us - began_us >= wanted_us) {
        uint_fast64_t never = NEVER;
        atomic_compare_exchange_strong(warm ? &window->open_us : &window->close_us, &never, now_us);
    }
    return phase;
}

void tm_bench_window_stop(tm_bench_window_t *window) {
    atomic_store(&window->stop, true);
}

bool tm_bench_window_stopped(const tm_bench_window_t *window) {
    return atomic_load(&window->stop) || tm_interrupt_signal() ||
           tm_bench_window_phase(window, tm_cli_now_us()) == TM_BENCH_OVER;
}
