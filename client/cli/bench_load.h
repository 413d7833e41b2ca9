// SPDX-License-Identifier: Apache-2.0
/*
 * A closed loop: so many events are under way all the time; each answer makes the next request.
 *
 * The measured window opens with the answer that ends the warm-up and closes with the first answer
 * after its time, so that a rate is answers over the time between answers however long an event
 * takes. Warm-up and window both see at least as many answers as events are under way: every
 * engine has met an event before, and slow ones are measured, too. Requests under way when the window
 * closes are waited for, so that they do not disturb what comes next.
 */
#ifndef TM_CLI_BENCH_LOAD_H
#define TM_CLI_BENCH_LOAD_H

#include "client/cli/bench_events.h"

#define TM_BENCH_CODES 128 /* more than there are in tm_status_t */

typedef struct {
    const char *brokers;            /* NULL: engines in this process */
    const char *model;              /* asked of the brokers; NULL: the only one there is */
    uint32_t clients;               /* handles at most; each has a thread of its own */
    uint32_t ttl_ms;                /* brokers only */
    const tm_model_t *engine_model; /* engines: what they run */
    uint32_t threads;               /* engines: of each; 0: the processors shared out */
    double warm_up_s, seconds;
} tm_bench_load_t;

typedef struct {
    uint64_t total_us, queue_us, service_us, stages_us;
} tm_bench_sample_t;

/* What one concurrency gave. Only answers inside the window count, but for mismatches, which are
 * looked for in every answer. */
typedef struct {
    uint32_t in_flight, callers, threads; /* threads: of each engine, 0 with brokers */
    uint64_t window_us;
    tm_bench_sample_t *sample; /* of answers with tracks, in no order */
    size_t n, room;
    uint64_t points, sent_bytes, received_bytes; /* of these */
    uint64_t retried;                            /* of these: more than one attempt */
    uint64_t failed[TM_BENCH_CODES], n_failed;   /* by tm_status_t */
    tm_error_t failure;                          /* the first */
    uint64_t mismatches;
    tm_error_t mismatch; /* the first */
    char model[2 * TM_NAME_MAX + 2];
} tm_bench_point_t;

/* Measures one concurrency. TM_E_INTERRUPTED: a signal came; other errors: it could not be measured.
 * *point is to be cleared in any case. */
tm_status_t tm_bench_load_run(const tm_bench_load_t *load, tm_bench_events_t *events,
                              uint32_t in_flight, tm_bench_point_t *point, tm_error_t *err);
void tm_bench_point_clear(tm_bench_point_t *point);

#endif
