// SPDX-License-Identifier: Apache-2.0
/*
 * The scheduler's own records, shared by the files of broker/core and nobody else.
 *
 * request: QUEUED in one class of its lane, or OUTSTANDING in the list of one worker (STARTED or
 * not). lane: requests that name the same model in the same words; resolved to a model whenever the
 * workers change. worker: in `ready` while it can take a DISPATCH.
 */
#ifndef TM_BROKER_CORE_STATE_H
#define TM_BROKER_CORE_STATE_H

#include "broker/core/index.h"
#include "broker/core/list.h"
#include "broker/core/scheduler.h"
#include "broker/core/slab.h"

/* Attempts that a request remembers: their late results are still good. */
#define TM_ATTEMPTS_KEPT 4
/* Workers that failed a request, of which it remembers the last ones. */
#define TM_AVOID_MAX 4
/* Models of which one broker keeps statistics; one whose workers have all gone makes room. */
#define TM_SCHED_MODELS_MAX 1024
/* Bits of an attempt's serial that hold the slot of its request. */
#define TM_SLOT_BITS 24

typedef struct tm_model tm_model_t;
typedef struct tm_lane tm_lane_t;
typedef struct tm_session tm_session_t;
typedef struct tm_request tm_request_t;

struct tm_model {
    tm_link_t all;
    uint32_t slot;
    uint64_t uid;
    tm_model_id_t id;
    uint32_t living; /* workers that serve it */
    uint32_t usable; /* … and are not draining */
    uint32_t paused; /* … of these, paused */
    uint32_t ready;  /* … of these, ready */
    uint64_t answered, failed;
    tm_histogram_t queue_wait, service;
};

struct tm_lane {
    tm_link_t all, in_servable;
    uint32_t slot;
    uint64_t key[2];
    char name[TM_NAME_MAX + 1], version[TM_NAME_MAX + 1]; /* "" : any */
    tm_model_t *model;                                    /* NULL: nobody serves it now */
    tm_link_t queue[TM_PRIORITIES];
    uint64_t lost_seq;        /* requests up to this one have seen a worker of the model go */
    uint32_t queued, members; /* members: outstanding ones included */
};

/* A client or a worker. */
struct tm_session {
    tm_link_t all;
    uint32_t slot;
    tm_peer_t peer;
    uint64_t uid;
    bool is_worker;
    uint64_t seen_us;
    char name[TM_NAME_MAX + 1], software[TM_SOFTWARE_MAX + 1];
    /* client: its requests in flight; worker: its outstanding attempts, oldest first */
    tm_link_t requests;
    uint32_t n_requests;
    /* worker only */
    char device[TM_NAME_MAX + 1], backend[TM_NAME_MAX + 1];
    uint32_t slots, credit, started, n_models;
    uint64_t max_payload;
    tm_model_t *models[TM_MODELS_MAX];
    tm_link_t ready;
    bool is_ready, draining, paused;
    uint64_t paused_until_us, pinged_us, progress_us, used;
    uint32_t failures, pauses; /* consecutive */
    uint64_t answered, failed, timed_out;
};

typedef struct {
    uint64_t serial, model_uid, number, dispatched_us;
} tm_attempt_t;

typedef enum { TM_REQUEST_FREE = 0, TM_REQUEST_QUEUED, TM_REQUEST_OUTSTANDING } tm_request_state_t;

struct tm_request {
    tm_request_state_t state;
    bool started;
    uint8_t priority;
    uint32_t slot, heap_at;
    uint32_t attempts, started_attempts, n_avoid;
    tm_id_t id;
    uint64_t seq; /* order of arrival */
    uint64_t arrived_us, deadline_us, started_us;
    uint64_t bytes;
    void *payload;
    tm_session_t *client, *worker;
    tm_lane_t *lane;
    tm_link_t of_client, of_worker, in_queue, in_running;
    tm_attempt_t attempt[TM_ATTEMPTS_KEPT]; /* attempt n is at n % TM_ATTEMPTS_KEPT */
    uint64_t avoid[TM_AVOID_MAX];           /* uids of workers */
};

struct tm_sched {
    tm_sched_config_t config;
    uint64_t start_us;
    bool draining;
    tm_stats_t stats;
    uint64_t next_uid, next_seq, next_attempt, next_use;
    uint64_t mean_service_us; /* moving average of STARTED to RESULT; 0: none yet */

    tm_slab_t models_slab, lanes_slab, sessions_slab, requests_slab;
    tm_index_t peers, requests, lanes;
    tm_link_t models, all_lanes, clients, workers;
    uint64_t least_max_payload; /* of all workers: every one takes events up to this */
    tm_link_t ready;            /* workers that can take a DISPATCH */
    tm_link_t servable;         /* lanes that have queued requests and a model */
    tm_link_t running;          /* started attempts, oldest first: all have the same timeout */
    tm_request_t **heap;        /* by deadline, the first falls due first */
    uint32_t heap_count, heap_room;

    tm_action_t *actions; /* actions_done … actions_count wait for the caller */
    uint32_t actions_done, actions_count, actions_room;
};

/* ---- actions.c ---- */

/* Room for everything that one call may add with these many requests and sessions. */
tm_status_t tm_actions_reserve(tm_sched_t *s);
tm_action_t *tm_actions_add(tm_sched_t *s, tm_action_kind_t kind, tm_peer_t peer);
void tm_actions_error(tm_sched_t *s, tm_peer_t peer, tm_id_t id, tm_status_t code,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));
void tm_actions_release(tm_sched_t *s, void *payload);

/* ---- models.c ---- */

tm_model_t *tm_models_find(tm_sched_t *s, const char *name, const char *version);
/* Like find, but makes an entry; NULL: no memory, or too many. */
tm_model_t *tm_models_get(tm_sched_t *s, const tm_model_id_t *id);
/* The model that these words mean now, or NULL. *ambiguous: no name was given and there are several. */
tm_model_t *tm_models_resolve(tm_sched_t *s, const char *name, const char *version,
                              bool *ambiguous);
/* The lane for these words, made if need be; NULL: no memory. */
tm_lane_t *tm_lanes_get(tm_sched_t *s, const char *name, const char *version);
/* After a model gained its first usable worker or lost its last. */
void tm_lanes_resolve(tm_sched_t *s);
void tm_lanes_leave(tm_sched_t *s, tm_lane_t *lane);
/* After `queued` or `model` changed. */
void tm_lanes_update(tm_sched_t *s, tm_lane_t *lane);

/* ---- dispatch.c ---- */

void tm_queue_push(tm_sched_t *s, tm_request_t *r, bool at_head);
void tm_queue_remove(tm_sched_t *s, tm_request_t *r);
/* Sends whatever can be sent. */
void tm_dispatch_pump(tm_sched_t *s, uint64_t now_us);
/* Takes an outstanding attempt from its worker; the request is then nowhere. */
void tm_attempt_detach(tm_sched_t *s, tm_request_t *r);
tm_attempt_t *tm_attempt_current(tm_request_t *r);
/* Recomputes whether the worker can take a DISPATCH. */
void tm_worker_update(tm_sched_t *s, tm_session_t *w);
/* Counts the worker in or out of its models. */
void tm_worker_join(tm_sched_t *s, tm_session_t *w);
void tm_worker_leave(tm_sched_t *s, tm_session_t *w);
void tm_worker_set_draining(tm_sched_t *s, tm_session_t *w);
/* hung: at once; otherwise only if at most half of each of its models' workers are then paused. */
void tm_worker_pause(tm_sched_t *s, tm_session_t *w, uint64_t now_us, bool hung);
void tm_worker_resume(tm_sched_t *s, tm_session_t *w);
bool tm_worker_serves(const tm_session_t *w, uint64_t model_uid);
/* Whether some worker of its model, ready or not, takes a payload of that size. */
bool tm_worker_exists_for(tm_sched_t *s, const tm_request_t *r);

/* ---- requests.c ---- */

tm_status_t tm_requests_reserve(tm_sched_t *s);
tm_request_t *tm_requests_find_attempt(tm_sched_t *s, tm_id_t id, tm_attempt_t **attempt);
/* Takes the request out of everything, releases its payload and frees it. With revoke, the worker
 * that has it is told. */
void tm_request_finish(tm_sched_t *s, tm_request_t *r, bool revoke);
void tm_request_fail(tm_sched_t *s, tm_request_t *r, bool revoke, tm_status_t code,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
/* After a lost attempt (already detached): back to the head, or ERROR attempts. */
void tm_request_retry(tm_sched_t *s, tm_request_t *r, const char *why);
void tm_request_avoid(tm_request_t *r, const tm_session_t *w);
/* The heap of deadlines; tm_requests_reserve makes its room. */
void tm_heap_add(tm_sched_t *s, tm_request_t *r);
void tm_heap_remove(tm_sched_t *s, tm_request_t *r);

/* ---- scheduler.c ---- */

tm_session_t *tm_session_find(tm_sched_t *s, tm_peer_t peer);
/* NULL: no memory. */
tm_session_t *tm_session_new(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, bool is_worker);
void tm_session_refuse(tm_sched_t *s, tm_peer_t peer, tm_status_t code, const char *text);
/* Its requests are dropped (client) or requeued (worker: because of `why`). */
void tm_session_end(tm_sched_t *s, tm_session_t *session, const char *why);
/* The peer's session, marked as heard of; a stranger is told and NULL returned. */
tm_session_t *tm_sched_heard(tm_sched_t *s, uint64_t now_us, tm_peer_t peer);
/* Every call ends here: what fell due meanwhile, then whatever can be sent. */
void tm_sched_finish_call(tm_sched_t *s, uint64_t now_us);

#endif
