// SPDX-License-Identifier: Apache-2.0
/*
 * Exchange: how the HTTP thread gets to see the scheduler without touching it. It asks; the broker's
 * thread, woken through a descriptor in its poll, fills the snapshot.
 *
 * Threads: tm_exchange_ask from the HTTP thread (one at a time), tm_exchange_serve from the broker's.
 */
#ifndef TM_BROKER_EXCHANGE_H
#define TM_BROKER_EXCHANGE_H

#include "broker/core/scheduler.h"

/* Entries beyond these are left out of a snapshot (and of the metrics). */
#define TM_SNAPSHOT_MODELS 64
#define TM_SNAPSHOT_WORKERS TM_WORKERS_MAX

typedef struct {
    uint64_t uptime_ms, epoch;
    bool draining;
    uint64_t messages[2], malformed; /* received: from clients, from workers; not understood */
    uint64_t queue_max_requests, queue_max_bytes;
    tm_stats_t stats;
    uint32_t n_models, n_workers;
    tm_model_view_t model[TM_SNAPSHOT_MODELS];
    tm_worker_view_t worker[TM_SNAPSHOT_WORKERS];
} tm_snapshot_t;

typedef struct tm_exchange tm_exchange_t;

tm_status_t tm_exchange_new(tm_exchange_t **out, tm_error_t *err);
/* After the HTTP thread has ended. */
void tm_exchange_destroy(tm_exchange_t **p);

/* A fresh snapshot, borrowed until the next ask; NULL: the broker's thread did not answer within
 * timeout_ms, it is stuck or gone. */
const tm_snapshot_t *tm_exchange_ask(tm_exchange_t *exchange, uint32_t timeout_ms);

/* Readable when somebody has asked. */
int tm_exchange_fd(const tm_exchange_t *exchange);
/* If somebody has asked: the snapshot to fill in; then call tm_exchange_serve_end. Else NULL. */
tm_snapshot_t *tm_exchange_serve(tm_exchange_t *exchange);
void tm_exchange_serve_end(tm_exchange_t *exchange);

#endif
