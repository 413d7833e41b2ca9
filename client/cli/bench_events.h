// SPDX-License-Identifier: Apache-2.0
/*
 * The events of a benchmark, and the answers that they should get.
 *
 * The reference of an event is the answer of the embedded engine or, without an engine, the first
 * answer that came. An answer is right when it has the same candidates (the same space points in the
 * same order) with scores within TM_BENCH_SCORE_TOLERANCE, made with the same weights.
 *
 * Threads: check may be called from several; everything else before they start.
 */
#ifndef TM_CLI_BENCH_EVENTS_H
#define TM_CLI_BENCH_EVENTS_H

#include <pthread.h>

#include "client/event_file.h"
#include "nn/engine.h"

/* Scores are sums of floats, which another processor may round elsewhere. */
#define TM_BENCH_SCORE_TOLERANCE 1e-3f

typedef struct {
    tm_event_file_t file;
    tm_columns_t columns; /* what is sent; borrowed from file */
    uint32_t n_points;
    bool known; /* the reference is there */
    tm_tracks_t reference;
    uint8_t hash[TM_HASH_BYTES]; /* of its weights */
} tm_bench_event_t;

typedef struct {
    tm_bench_event_t *event;
    uint32_t n;
    uint64_t points; /* of all */
    pthread_mutex_t lock;
} tm_bench_events_t;

/* Reads the files and checks that they can be sent. Without the module ids unless with_module_id. */
tm_status_t tm_bench_events_read(char *const *paths, int n, bool with_module_id,
                                 tm_bench_events_t *out, tm_error_t *err);
/* Safe on what a failed read left, and on a zeroed struct. */
void tm_bench_events_clear(tm_bench_events_t *events);

/* Makes the references with an engine of so many threads (0: all). TM_E_INTERRUPTED: a signal. */
tm_status_t tm_bench_events_solve(tm_bench_events_t *events, const tm_model_t *model,
                                  uint32_t threads, tm_error_t *err);

/* Whether `tracks`, found with the weights of that hash, are right for event i. If there is no
 * reference yet they become it (and tracks is emptied). False: why says in one line what differs. */
bool tm_bench_events_check(tm_bench_events_t *events, uint32_t i, tm_tracks_t *tracks,
                           const uint8_t hash[TM_HASH_BYTES], tm_error_t *why);

/* "event000000040", or "event000000040+4" for five of them. */
void tm_bench_events_name(const tm_bench_events_t *events, char *out, size_t bytes);

#endif
