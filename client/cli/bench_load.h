// SPDX-License-Identifier: Apache-2.0
/*
 * The load of a benchmark.
 *
 * Closed loop: so many events are under way all the time; each answer makes the next request. The
 * window is counted (client/cli/bench_window.h): every engine has met an event before, and slow ones
 * are measured, too.
 *
 * Open loop: events arrive by a schedule of their own, Poisson or evenly spaced, whether the service
 * keeps up or not. Times count from the scheduled arrival, so that a service that stalls cannot hide
 * it by slowing its load down. An arrival that cannot be sent at its time, because as many events
 * are under way as may be or because this machine is too busy, is sent as soon as possible: it is
 * late. What there is no room for when the window closes is unsent.
 *
 * Requests under way when the window closes are waited for, so that they do not disturb what comes
 * next. Callers are threads with one client handle or one engine each, in one or more processes.
 */
#ifndef TM_CLI_BENCH_LOAD_H
#define TM_CLI_BENCH_LOAD_H

#include "client/cli/bench_events.h"
#include "client/cli/bench_meter.h"
#include "client/cli/bench_point.h"

#define TM_BENCH_LATE_MS 10 /* sent so long after its scheduled time, an arrival is late */

#define TM_BENCH_PROCESSES_MAX 64

typedef struct {
    const char *brokers;            /* NULL: engines in this process */
    const char *model;              /* asked of the brokers; NULL: the only one there is */
    uint32_t clients;               /* handles at most; each has a thread of its own */
    uint32_t processes;             /* that share the clients, at most the above; 1: this one */
    uint32_t ttl_ms;                /* brokers only */
    const tm_model_t *engine_model; /* engines: what they run */
    const char *device;             /* engines: on what; NULL: what there is */
    uint32_t threads;               /* engines: of each; 0: the processors shared out */
    double warm_up_s, seconds;
    double rate; /* brokers only: arrivals per second of all; 0: closed loop */
    bool evenly; /* arrivals evenly spaced, not by chance */
    bool spread; /* each caller begins with another broker of the list */
} tm_bench_load_t;

/* One measurement. in_flight: events under way, in the open loop at most. The meter runs while the
 * window is open; its `load` is filled here. TM_E_INTERRUPTED: a signal came; other errors: it could
 * not be measured. *point is to be cleared in any case. */
tm_status_t tm_bench_load_run(const tm_bench_load_t *load, tm_bench_events_t *events,
                              uint32_t in_flight, tm_bench_meter_t *meter, tm_bench_point_t *point,
                              tm_error_t *err);

#endif
