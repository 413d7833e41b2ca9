// SPDX-License-Identifier: Apache-2.0
/*
 * The meter: a thread that looks at GPUs and watched processes while the window of a load is open.
 *
 * It notices within TM_BENCH_METER_NAP_MS that the window opened or closed.
 */
#ifndef TM_CLI_BENCH_METER_H
#define TM_CLI_BENCH_METER_H

#include <pthread.h>

#include "client/cli/bench_gpu.h"
#include "client/cli/bench_watch.h"
#include "client/cli/bench_window.h"

#define TM_BENCH_METER_NAP_MS 10

typedef struct {
    tm_bench_gpu_t *gpu; /* borrowed; NULL: none */
    tm_bench_watch_t watch;
    tm_bench_watch_t load; /* the processes that make the load, this one among them */
    double seconds;        /* between the first look and the last */
    const tm_bench_window_t *window;
    pthread_t thread;
    atomic_bool done;
} tm_bench_meter_t;

/* Starts the thread; *meter (zeroed but for gpu, watch and load) is its own until stop. */
tm_status_t tm_bench_meter_start(tm_bench_meter_t *meter, const tm_bench_window_t *window,
                                 tm_error_t *err);
void tm_bench_meter_stop(tm_bench_meter_t *meter);

#endif
