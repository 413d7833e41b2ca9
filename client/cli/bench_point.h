// SPDX-License-Identifier: Apache-2.0
/*
 * What one measurement of `bench` gave: counts, and the times of each answer.
 *
 * Each process that makes load fills a point of its own; they are sent through a pipe and added up.
 * Threads: none of its own; the caller locks.
 */
#ifndef TM_CLI_BENCH_POINT_H
#define TM_CLI_BENCH_POINT_H

#include <stddef.h>
#include <stdint.h>

#include "client/cli/bench_agree.h"
#include "wire/error.h"
#include "wire/limits.h"

#define TM_BENCH_CODES 128 /* more than there are in tm_status_t */

typedef struct {
    uint64_t total_us, queue_us, service_us, stages_us;
} tm_bench_sample_t;

/* Closed loop: answers inside the window count. Open loop: answers to arrivals that were due inside
 * the window have their times counted, whenever they come; answers that come inside the window make
 * the rate. Disagreement is looked for in every answer. No pointer but `sample`, so that it travels
 * as it is. */
typedef struct {
    uint32_t in_flight, callers, threads; /* threads: of each engine, 0 with brokers */
    uint32_t processes;
    double rate; /* arrivals per second that were wanted; 0: closed loop */
    uint64_t window_us;
    tm_bench_sample_t *sample; /* of answers with tracks, in no order */
    size_t n, room;
    uint64_t answered;                           /* with tracks, inside the window */
    uint64_t points, sent_bytes, received_bytes; /* of these */
    uint64_t retried;                            /* of the samples: more than one attempt */
    uint64_t offered, late,
        unsent; /* open loop: due in the window; of these sent late, not at all */
    uint64_t late_max_us;
    uint64_t failed[TM_BENCH_CODES], n_failed; /* by tm_status_t */
    tm_error_t failure;                        /* the first */
    uint64_t compared;                         /* answers that were held against a reference */
    double differing_sum, differing_max;       /* share of tracks without a twin */
    double score_difference;                   /* the greatest, of tracks that have a twin */
    uint64_t mismatches;
    tm_error_t mismatch; /* the first */
    char model[2 * TM_NAME_MAX + 2];
} tm_bench_point_t;

tm_status_t tm_bench_point_sample(tm_bench_point_t *point, const tm_bench_sample_t *sample,
                                  tm_error_t *err);
void tm_bench_point_fail(tm_bench_point_t *point, tm_status_t status, const tm_error_t *error);
void tm_bench_point_agree(tm_bench_point_t *point, const tm_bench_agreement_t *agreement);

/* Adds what another process counted. */
tm_status_t tm_bench_point_merge(tm_bench_point_t *point, const tm_bench_point_t *other,
                                 tm_error_t *err);
void tm_bench_point_clear(tm_bench_point_t *point);

/* Writes all of it, samples too, to a pipe. */
tm_status_t tm_bench_point_write(const tm_bench_point_t *point, int fd, tm_error_t *err);
/* The reverse, from bytes. False: they are not whole. *point has memory of its own. */
bool tm_bench_point_read(tm_bench_point_t *point, const void *bytes, size_t n);

#endif
