// SPDX-License-Identifier: Apache-2.0
/*
 * The events of a benchmark, and the answers that they should get.
 *
 * The reference of an event is the answer of the embedded engine or, without an engine, the first
 * answer that came. An answer is right when it was made with the same weights and
 *   tolerance 0: has the same candidates (the same space points in the same order) with scores within
 *                TM_BENCH_SCORE_TOLERANCE;
 *   above 0:     at most this share of candidates differs (client/cli/bench_agree.h). For devices that
 *                round differently: a few edges fall on the other side of a cut.
 *
 * Threads: check may be called from several; everything else before they start.
 */
#ifndef TM_CLI_BENCH_EVENTS_H
#define TM_CLI_BENCH_EVENTS_H

#include <pthread.h>

#include "client/cli/bench_agree.h"
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
    uint32_t *owner;             /* of each space point in the reference: tm_bench_agree_owners */
    uint8_t hash[TM_HASH_BYTES]; /* of its weights */
} tm_bench_event_t;

typedef struct {
    tm_bench_event_t *event;
    uint32_t n;
    uint64_t points;  /* of all */
    double tolerance; /* share of candidates that may differ; set before check is called */
    pthread_mutex_t lock;
} tm_bench_events_t;

/* Reads the files and checks that they can be sent. Without the module ids unless with_module_id. */
tm_status_t tm_bench_events_read(char *const *paths, int n, bool with_module_id,
                                 tm_bench_events_t *out, tm_error_t *err);
/* Safe on what a failed read left, and on a zeroed struct. */
void tm_bench_events_clear(tm_bench_events_t *events);

/* Makes the references with such an engine. TM_E_INTERRUPTED: a signal. */
tm_status_t tm_bench_events_solve(tm_bench_events_t *events, const tm_model_t *model,
                                  const tm_engine_options_t *options, tm_error_t *err);

/* Whether `tracks`, found with the weights of that hash, are right for event i, and how far they
 * agree. If there is no reference yet they become it (and tracks is emptied). False: why says in one
 * line what differs. */
bool tm_bench_events_check(tm_bench_events_t *events, uint32_t i, tm_tracks_t *tracks,
                           const uint8_t hash[TM_HASH_BYTES], tm_bench_agreement_t *agreement,
                           tm_error_t *why);

/* "event000000040", or "event000000040+4" for five of them. */
void tm_bench_events_name(const tm_bench_events_t *events, char *out, size_t bytes);

#endif
