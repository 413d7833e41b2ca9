// SPDX-License-Identifier: Apache-2.0
/*
 * The measured window of a benchmark, as all threads and processes that make its load see it.
 *
 * Counted (closed loop): the window opens with the answer that ends the warm-up and closes with the
 * first answer after its time, so that a rate is answers over the time between answers however long
 * an event takes; warm-up and window both see at least `least` answers. Timed (open loop): it opens
 * and closes by the clock.
 *
 * Threads, processes: all state is atomic; the struct may lie in shared memory. Nobody waits for a
 * lock, so that a process that dies leaves nobody behind.
 */
#ifndef TM_CLI_BENCH_WINDOW_H
#define TM_CLI_BENCH_WINDOW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum { TM_BENCH_WARM_UP, TM_BENCH_WINDOW, TM_BENCH_OVER } tm_bench_phase_t;

typedef struct {
    uint64_t warm_up_us, window_us; /* how long each lasts */
    uint32_t least;                 /* answers in each; counted only */
    bool timed;
    uint32_t callers; /* who must have arrived before anything begins */
    atomic_uint arrived;
    atomic_uint_fast64_t start_us, open_us, close_us; /* UINT64_MAX: not yet */
    atomic_uint_fast64_t warm_up_count, window_count;
    atomic_uint next_event; /* events are taken in turn by all callers */
    atomic_bool stop;       /* something failed, or all is over */
} tm_bench_window_t;

void tm_bench_window_init(tm_bench_window_t *window, double warm_up_s, double seconds,
                          uint32_t least, bool timed, uint32_t callers);

/* Waits until all callers have arrived; the last one starts the clock. False: stopped meanwhile. */
bool tm_bench_window_arrive(tm_bench_window_t *window);

tm_bench_phase_t tm_bench_window_phase(const tm_bench_window_t *window, uint64_t now_us);

/* One answer, at that time; returns the phase that it belongs to, which it may end. */
tm_bench_phase_t tm_bench_window_count(tm_bench_window_t *window, uint64_t now_us);

void tm_bench_window_stop(tm_bench_window_t *window);
/* Stopped, over, or a signal came. */
bool tm_bench_window_stopped(const tm_bench_window_t *window);

#endif
