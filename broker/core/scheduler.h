// SPDX-License-Identifier: Apache-2.0
/*
 * The scheduler: which worker gets which request, and what becomes of it.
 *
 * A pure state machine. Calls tell it what happened (a message came, time passed, a peer is gone);
 * each leaves a list of actions (send this, release that), which the caller takes with
 * tm_sched_next until it is empty, before the next call. No socket, no clock, no log; memory grows
 * in slabs when a new peer or request comes, and only there can it run out (the newcomer is then
 * refused as busy).
 *
 * Peers are numbers that the caller chooses, never 0, one per connection; a client and a worker
 * never share a number. Payloads are the caller's handles: tm_sched_client_request and
 * tm_sched_worker_result take them over, TM_ACTION_RELEASE gives them back, each exactly once.
 * Times are microseconds of a monotonic clock; `now_us` never runs backwards.
 *
 * Promises (wire/SPEC.md, "Broker"; tests/sim checks them over random schedules):
 *  - an accepted request has exactly one ANSWER or ERROR, unless its client goes first;
 *  - at most attempts_max STARTED attempts of one request; a dead or hung worker's requests go back
 *    to the head of their class, and to another worker if there is one;
 *  - never more DISPATCHes to a worker than it gave credit for;
 *  - order: priority class, then arrival; a request rises one class per ageing_ms of waiting;
 *  - never a payload larger than the worker takes;
 *  - worker: least loaded (outstanding per slot), then least recently used.
 *
 * Threads: one owner thread.
 */
#ifndef TM_BROKER_CORE_SCHEDULER_H
#define TM_BROKER_CORE_SCHEDULER_H

#include "broker/core/stats.h"
#include "wire/message.h"

typedef uint64_t tm_peer_t;
typedef struct tm_sched tm_sched_t;

typedef struct {
    uint64_t epoch; /* random, not 0: names this run's attempts, seeds the hashes */
    uint64_t heartbeat_ms, liveness;
    uint64_t attempt_timeout_ms; /* from STARTED */
    uint32_t attempts_max;       /* started attempts of one request */
    uint32_t worker_failures_max;
    uint64_t worker_pause_ms;    /* first pause; doubles while the worker fails on, to 16 times */
    uint64_t ageing_ms;          /* 0: strict classes */
    uint32_t queue_max_requests; /* requests that wait for a worker */
    uint64_t queue_max_bytes;    /* payloads held, running ones included */
    uint64_t payload_max_bytes;  /* of one request */
    uint32_t client_window, clients_max, workers_max;
} tm_sched_config_t;

/* A request rises one priority class per this much waiting, so that class 2 never starves. */
#define TM_AGEING_MS 10000

/* The values of wire/limits.h; epoch is left 0. */
void tm_sched_config_default(tm_sched_config_t *config);

/* TM_E_ARGUMENT: epoch 0 or a limit of 0. */
tm_status_t tm_sched_new(const tm_sched_config_t *config, uint64_t now_us, tm_sched_t **out,
                         tm_error_t *err);
/* Call tm_sched_shutdown first, so that the payloads have been released. */
void tm_sched_destroy(tm_sched_t **p);

/* ---- what came out ---- */

typedef enum {
    TM_ACTION_WELCOME = 1,
    TM_ACTION_PING,
    TM_ACTION_PONG,
    TM_ACTION_BYE,
    TM_ACTION_ERROR,    /* id, code, text, retry_after_ms (TM_E_BUSY, TM_E_DRAINING) */
    TM_ACTION_ANSWER,   /* id, payload, model, worker, attempt, queue_us, service_us */
    TM_ACTION_DISPATCH, /* id (the attempt's), payload, model, ttl_ms, priority, attempt */
    TM_ACTION_REVOKE,   /* id (the attempt's) */
    TM_ACTION_RELEASE,  /* payload: no action will name it again */
    TM_ACTION_FORGET,   /* the peer's session ended: drop what waits to be sent to it; text */
} tm_action_kind_t;

typedef struct {
    tm_action_kind_t kind;
    tm_status_t code;
    tm_peer_t peer;
    tm_id_t id;
    void *payload;
    uint64_t retry_after_ms, ttl_ms, priority, attempt, queue_us, service_us;
    const tm_model_id_t *model; /* borrowed until the next call, as is worker */
    const char *worker;
    char text[TM_TEXT_MAX + 1];
} tm_action_t;

/* The next action, borrowed until the next call of any kind; NULL when all are done. */
const tm_action_t *tm_sched_next(tm_sched_t *s);

/* ---- clients ---- */

void tm_sched_client_hello(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_slice_t name,
                           tm_slice_t software);

typedef struct {
    tm_id_t id;
    tm_slice_t model; /* "name", "name@version" or empty */
    uint64_t ttl_ms, priority;
    uint64_t payload_bytes;
    void *payload; /* taken */
} tm_sched_request_t;

void tm_sched_client_request(tm_sched_t *s, uint64_t now_us, tm_peer_t peer,
                             const tm_sched_request_t *request);
/* A request that is not in flight has had its answer: nothing is sent. */
void tm_sched_client_cancel(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id);

/* ---- workers ---- */

typedef struct {
    tm_slice_t name, software, device, backend;
    uint64_t slots, max_payload;
    uint32_t n_models;
    const tm_model_id_t *models;
} tm_sched_worker_t;

/* A second REGISTER on a connection replaces the first: its attempts are requeued. */
void tm_sched_worker_register(tm_sched_t *s, uint64_t now_us, tm_peer_t peer,
                              const tm_sched_worker_t *worker);
void tm_sched_worker_heartbeat(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
void tm_sched_worker_credit(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, uint64_t credit);
void tm_sched_worker_started(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id);
/* The handle is taken. A late result still wins if its request has no answer yet and the worker
 * serves the model that the attempt was for. */
void tm_sched_worker_result(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id,
                            void *payload, uint64_t payload_bytes);
void tm_sched_worker_failed(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id,
                            uint64_t code, tm_slice_t text);
void tm_sched_worker_drain(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);

/* ---- both ---- */

void tm_sched_ping(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
void tm_sched_pong(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
/* The peer said BYE. */
void tm_sched_bye(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
/* Its connection is gone, or it does not read what it is sent. */
void tm_sched_gone(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
/* The peer sent something that breaks the rules: it is told (id 0), its session stays. */
void tm_sched_complain(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_status_t code,
                       const char *text);

/* Whether the peer has a session. */
bool tm_sched_knows(const tm_sched_t *s, tm_peer_t peer);
/* It said something that needs no scheduling; a stranger may, too. */
void tm_sched_touch(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);

/* Deadlines, timeouts, liveness, pings. Call at least every heartbeat_ms / 10. */
void tm_sched_tick(tm_sched_t *s, uint64_t now_us);
/* When the next deadline or attempt timeout falls due; UINT64_MAX: none. */
uint64_t tm_sched_next_us(const tm_sched_t *s);

/* From now on new requests are refused as draining; those accepted go on. */
void tm_sched_drain(tm_sched_t *s, uint64_t now_us);
/* Every accepted request is answered by ERROR draining, every peer gets BYE. */
void tm_sched_shutdown(tm_sched_t *s, uint64_t now_us);

/* ---- views ---- */

const tm_sched_config_t *tm_sched_config(const tm_sched_t *s);
const tm_stats_t *tm_sched_stats(const tm_sched_t *s);
bool tm_sched_draining(const tm_sched_t *s);
uint64_t tm_sched_start_us(const tm_sched_t *s);

typedef struct {
    tm_model_id_t id;
    uint32_t workers, available, paused; /* workers: living, not draining */
    uint64_t queued;                     /* requests that would go to this model now */
    uint64_t answered, failed;           /* attempts */
    tm_histogram_t queue_wait, service;
} tm_model_view_t;

typedef struct {
    tm_peer_t peer;
    char name[TM_NAME_MAX + 1], software[TM_SOFTWARE_MAX + 1], device[TM_NAME_MAX + 1],
        backend[TM_NAME_MAX + 1];
    uint32_t slots, credit, outstanding, running, failures;
    bool draining, paused;
    uint64_t answered, failed, timed_out, silent_ms;
    uint32_t n_models;
    char model[2 * TM_NAME_MAX + 2]; /* the first one, "name@version" */
} tm_worker_view_t;

/* What REPORT lists: models with a worker that is not draining. At most `room`; returns how many. */
uint32_t tm_sched_served_models(const tm_sched_t *s, tm_model_id_t *out, uint32_t room);
/* Copies at most `room` entries; returns how many. */
uint32_t tm_sched_view_models(const tm_sched_t *s, tm_model_view_t *out, uint32_t room);
uint32_t tm_sched_view_workers(const tm_sched_t *s, uint64_t now_us, tm_worker_view_t *out,
                               uint32_t room);

#endif
