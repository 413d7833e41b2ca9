// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/state.h"
#include "wire/schema.h"

/* Hints of BUSY answers stay below this, whatever the queue. */
#define RETRY_AFTER_MAX_MS 30000u

static const tm_id_t no_id = {0, 0};

/* ---- life ---- */

void tm_sched_config_default(tm_sched_config_t *config) {
    *config = (tm_sched_config_t){
        .heartbeat_ms = TM_HEARTBEAT_MS,
        .liveness = TM_LIVENESS,
        .attempt_timeout_ms = TM_ATTEMPT_TIMEOUT_MS,
        .attempts_max = TM_ATTEMPTS_MAX,
        .worker_failures_max = TM_WORKER_FAILURES_MAX,
        .worker_pause_ms = TM_WORKER_PAUSE_MS,
        .ageing_ms = TM_AGEING_MS,
        .queue_max_requests = TM_QUEUE_MAX_REQUESTS,
        .queue_max_bytes = TM_QUEUE_MAX_BYTES,
        .payload_max_bytes = TM_PAYLOAD_MAX_BYTES,
        .client_window = TM_CLIENT_WINDOW,
        .clients_max = TM_CLIENTS_MAX,
        .workers_max = TM_WORKERS_MAX,
    };
}

tm_status_t tm_sched_new(const tm_sched_config_t *config, uint64_t now_us, tm_sched_t **out,
                         tm_error_t *err) {
    *out = NULL;
    if (!config->epoch || !config->heartbeat_ms || !config->liveness ||
        !config->attempt_timeout_ms || !config->attempts_max || !config->worker_failures_max ||
        !config->worker_pause_ms || !config->queue_max_requests || !config->queue_max_bytes ||
        !config->payload_max_bytes || !config->client_window || !config->clients_max ||
        !config->workers_max)
        return tm_error_set(err, TM_E_ARGUMENT, "scheduler: a setting is 0");
    tm_sched_t *s = calloc(1, sizeof *s);
    if (!s)
        return tm_error_set(err, TM_E_NO_MEMORY, "scheduler: out of memory");
    s->config = *config;
    s->start_us = now_us;
    tm_slab_init(&s->models_slab, sizeof(tm_model_t));
    tm_slab_init(&s->lanes_slab, sizeof(tm_lane_t));
    tm_slab_init(&s->sessions_slab, sizeof(tm_session_t));
    tm_slab_init(&s->requests_slab, sizeof(tm_request_t));
    tm_index_init(&s->peers, config->epoch);
    tm_index_init(&s->requests, config->epoch);
    tm_index_init(&s->lanes, config->epoch);
    tm_link_t *const heads[] = {&s->models, &s->all_lanes, &s->clients, &s->workers,
                                &s->ready,  &s->servable,  &s->running};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++)
        tm_list_init(heads[i]);
    if (tm_actions_reserve(s)) {
        tm_sched_destroy(&s);
        return tm_error_set(err, TM_E_NO_MEMORY, "scheduler: out of memory");
    }
    *out = s;
    return TM_OK;
}

void tm_sched_destroy(tm_sched_t **p) {
    tm_sched_t *s = *p;
    if (!s)
        return;
    assert(!s->stats.in_flight);
    tm_slab_clear(&s->models_slab);
    tm_slab_clear(&s->lanes_slab);
    tm_slab_clear(&s->sessions_slab);
    tm_slab_clear(&s->requests_slab);
    tm_index_clear(&s->peers);
    tm_index_clear(&s->requests);
    tm_index_clear(&s->lanes);
    free(s->heap);
    free(s->actions);
    free(s);
    *p = NULL;
}

/* ---- sessions ---- */

tm_session_t *tm_session_find(tm_sched_t *s, tm_peer_t peer) {
    return tm_index_find(&s->peers, peer, 0);
}

tm_session_t *tm_sched_heard(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_session_t *session = tm_session_find(s, peer);
    if (session) {
        session->seen_us = now_us;
    } else {
        s->stats.unknown_peers++;
        tm_actions_error(s, peer, no_id, TM_E_UNKNOWN_PEER,
                         "no session on this connection: say HELLO or REGISTER first");
    }
    return session;
}

tm_session_t *tm_session_new(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, bool is_worker) {
    if (tm_slab_reserve(&s->sessions_slab) || tm_actions_reserve(s) ||
        tm_index_reserve(&s->peers, s->peers.count + 1))
        return NULL;
    uint32_t slot;
    tm_session_t *session = tm_slab_take(&s->sessions_slab, &slot);
    session->slot = slot;
    session->peer = peer;
    session->uid = ++s->next_uid;
    session->is_worker = is_worker;
    session->seen_us = session->pinged_us = session->progress_us = now_us;
    tm_list_init(&session->requests);
    tm_list_init(&session->ready);
    tm_list_push_back(is_worker ? &s->workers : &s->clients, &session->all);
    tm_index_insert(&s->peers, peer, 0, session);
    if (is_worker) {
        s->stats.workers++;
        s->stats.workers_seen++;
    } else {
        s->stats.clients++;
        s->stats.clients_seen++;
    }
    return session;
}

void tm_session_end(tm_sched_t *s, tm_session_t *session, const char *why) {
    if (session->is_worker) {
        tm_worker_leave(s, session);
        // newest first, so that the oldest ends up at the very head
        while (!tm_list_empty(&session->requests)) {
            tm_request_t *r = TM_LIST_ITEM(session->requests.prev, tm_request_t, of_worker);
            tm_attempt_detach(s, r);
            s->stats.requeued++;
            tm_request_retry(s, r, why);
        }
        s->stats.workers--;
    } else {
        while (!tm_list_empty(&session->requests)) {
            tm_request_t *r = TM_LIST_ITEM(session->requests.next, tm_request_t, of_client);
            s->stats.dropped++;
            tm_request_finish(s, r, true);
        }
        s->stats.clients--;
    }
    tm_action_t *action = tm_actions_add(s, TM_ACTION_FORGET, session->peer);
    snprintf(action->text, sizeof action->text, "%s: %s", session->name, why);
    tm_index_remove(&s->peers, session->peer, 0);
    tm_list_remove(&session->all);
    tm_slab_put(&s->sessions_slab, session->slot);
}

void tm_session_refuse(tm_sched_t *s, tm_peer_t peer, tm_status_t code, const char *text) {
    tm_actions_error(s, peer, no_id, code, "%s", text);
    if (code == TM_E_BUSY)
        s->actions[s->actions_count - 1].retry_after_ms = TM_RECONNECT_MAX_MS;
}

void tm_sched_finish_call(tm_sched_t *s, uint64_t now_us) {
    while (s->heap_count && s->heap[0]->deadline_us <= now_us) {
        tm_request_t *r = s->heap[0];
        bool queued = r->state == TM_REQUEST_QUEUED;
        if (queued && !r->lane->model && r->seq > r->lane->lost_seq)
            tm_request_fail(s, r, false, TM_E_NO_MODEL,
                            "no worker serves the model '%s%s%s' and the deadline has passed",
                            r->lane->name, r->lane->version[0] ? "@" : "", r->lane->version);
        else if (queued && r->lane->model && !tm_worker_exists_for(s, r))
            tm_request_fail(s, r, false, TM_E_TOO_LARGE,
                            "no worker of the model '%s' takes an event of %llu bytes",
                            r->lane->name, (unsigned long long)r->bytes);
        else
            tm_request_fail(s, r, true, TM_E_DEADLINE, "the deadline passed while the request %s",
                            r->state == TM_REQUEST_QUEUED ? "was queued"
                            : r->started                  ? "was running"
                                                          : "waited at a worker");
    }
    tm_dispatch_pump(s, now_us);
}

/* ---- clients ---- */

void tm_sched_client_hello(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_slice_t name,
                           tm_slice_t software) {
    tm_session_t *c = tm_session_find(s, peer);
    if (!c && s->draining) {
        tm_session_refuse(s, peer, TM_E_DRAINING, "the broker is shutting down: try the next one");
        return;
    }
    if (!c) {
        if (s->stats.clients >= s->config.clients_max ||
            !(c = tm_session_new(s, now_us, peer, false))) {
            tm_session_refuse(s, peer, TM_E_BUSY, "too many clients are connected");
            return;
        }
    }
    c->seen_us = now_us;
    tm_slice_copy(c->name, sizeof c->name, name);
    tm_slice_copy(c->software, sizeof c->software, software);
    tm_actions_add(s, TM_ACTION_WELCOME, peer);
    tm_sched_finish_call(s, now_us);
}

/* When a place in the queue is likely to be free: half the queue's time at the measured rate. */
static uint64_t retry_after_ms(const tm_sched_t *s) {
    if (!s->stats.slots)
        return TM_RECONNECT_MAX_MS;
    uint64_t ms = s->stats.queued * s->mean_service_us / s->stats.slots / 2000;
    return ms < TM_RETRY_AFTER_MS    ? TM_RETRY_AFTER_MS
           : ms > RETRY_AFTER_MAX_MS ? RETRY_AFTER_MAX_MS
                                     : ms;
}

/* Splits "name@version" or "name"; false: it is neither. */
static bool split_model(tm_slice_t words, char name[TM_NAME_MAX + 1],
                        char version[TM_NAME_MAX + 1]) {
    name[0] = version[0] = 0;
    if (!words.bytes)
        return true;
    const char *at = memchr(words.data, '@', words.bytes);
    tm_slice_t first = {words.data, at ? (uint32_t)(at - words.data) : words.bytes};
    tm_slice_t second = {at ? at + 1 : NULL, at ? words.bytes - first.bytes - 1 : 0};
    if (!tm_model_ref_valid(words.data, words.bytes, false))
        return false;
    tm_slice_copy(name, TM_NAME_MAX + 1, first);
    tm_slice_copy(version, TM_NAME_MAX + 1, second);
    return true;
}

/* Why the request cannot be accepted; TM_OK if it can. *text is what the client is told. */
static tm_status_t check_request(tm_sched_t *s, const tm_session_t *c, const tm_sched_request_t *q,
                                 char name[TM_NAME_MAX + 1], char version[TM_NAME_MAX + 1],
                                 const char **text) {
    bool ambiguous = false;
    if (s->draining)
        return *text = "the broker is shutting down: try the next one", TM_E_DRAINING;
    if (!q->id.origin || !q->id.serial || q->priority >= TM_PRIORITIES)
        return *text = "the request's id is 0 or its priority is not 0, 1 or 2", TM_E_MALFORMED;
    if (!split_model(q->model, name, version))
        return *text = "the model is not \"name\" or \"name@version\"", TM_E_MALFORMED;
    if (q->payload_bytes > s->config.payload_max_bytes ||
        q->payload_bytes > s->config.queue_max_bytes)
        return *text = "the event is larger than this broker takes (max_payload)", TM_E_TOO_LARGE;
    if (!q->ttl_ms)
        return *text = "the request came with no time left", TM_E_DEADLINE;
    if (c->n_requests >= s->config.client_window)
        return *text = "the window is full: wait for answers", TM_E_BUSY;
    if (s->stats.queued >= s->config.queue_max_requests ||
        s->stats.held_bytes + q->payload_bytes > s->config.queue_max_bytes)
        return *text = "the queue is full", TM_E_BUSY;
    tm_models_resolve(s, name, version, &ambiguous);
    if (ambiguous)
        return *text = "several models are served here: name one", TM_E_NO_MODEL;
    if (tm_requests_reserve(s))
        return *text = "the broker is out of memory", TM_E_BUSY;
    return TM_OK;
}

void tm_sched_client_request(tm_sched_t *s, uint64_t now_us, tm_peer_t peer,
                             const tm_sched_request_t *q) {
    s->stats.received++;
    tm_session_t *c = tm_sched_heard(s, now_us, peer);
    tm_request_t *r = c ? tm_index_find(&s->requests, q->id.origin, q->id.serial) : NULL;
    if (!c || r) {
        // the same request again, perhaps over a new connection: that is where the answer goes
        if (r) {
            s->stats.duplicates++;
            tm_list_remove(&r->of_client);
            r->client->n_requests--;
            r->client = c;
            c->n_requests++;
            tm_list_push_back(&c->requests, &r->of_client);
        }
        tm_actions_release(s, q->payload);
        tm_sched_finish_call(s, now_us);
        return;
    }

    char name[TM_NAME_MAX + 1], version[TM_NAME_MAX + 1];
    const char *text = NULL;
    tm_status_t status = check_request(s, c, q, name, version, &text);
    tm_lane_t *lane = status ? NULL : tm_lanes_get(s, name, version);
    if (!status && !lane)
        status = TM_E_BUSY, text = "the broker is out of memory";
    if (status) {
        s->stats.refused[status]++;
        tm_actions_error(s, peer, q->id, status, "%s", text);
        if (status == TM_E_BUSY)
            s->actions[s->actions_count - 1].retry_after_ms = retry_after_ms(s);
        tm_actions_release(s, q->payload);
        tm_sched_finish_call(s, now_us);
        return;
    }

    uint32_t slot;
    r = tm_slab_take(&s->requests_slab, &slot);
    r->slot = slot;
    r->id = q->id;
    r->seq = ++s->next_seq;
    r->priority = (uint8_t)q->priority;
    r->arrived_us = now_us;
    r->deadline_us = now_us + (q->ttl_ms < TM_TTL_MAX_MS ? q->ttl_ms : TM_TTL_MAX_MS) * 1000;
    r->bytes = q->payload_bytes;
    r->payload = q->payload;
    r->client = c;
    r->lane = lane;
    lane->members++;
    tm_list_init(&r->in_running);
    tm_list_init(&r->of_worker);
    tm_list_push_back(&c->requests, &r->of_client);
    c->n_requests++;
    tm_heap_add(s, r);
    tm_index_insert(&s->requests, r->id.origin, r->id.serial, r);
    s->stats.accepted++;
    s->stats.in_flight++;
    s->stats.bytes_in += r->bytes;
    s->stats.held_bytes += r->bytes;
    tm_queue_push(s, r, false);
    tm_sched_finish_call(s, now_us);
}

void tm_sched_client_cancel(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id) {
    tm_session_t *c = tm_sched_heard(s, now_us, peer);
    tm_request_t *r = c ? tm_index_find(&s->requests, id.origin, id.serial) : NULL;
    // over another connection it would be the newest one, but then the request came there too
    if (r && r->client == c)
        tm_request_fail(s, r, true, TM_E_CANCELLED, "cancelled by the client");
    tm_sched_finish_call(s, now_us);
}

/* ---- both sides ---- */

void tm_sched_ping(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    if (tm_sched_heard(s, now_us, peer))
        tm_actions_add(s, TM_ACTION_PONG, peer);
    tm_sched_finish_call(s, now_us);
}

void tm_sched_pong(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_sched_heard(s, now_us, peer);
    tm_sched_finish_call(s, now_us);
}

void tm_sched_bye(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_session_t *session = tm_session_find(s, peer);
    if (session)
        tm_session_end(s, session, session->is_worker ? "the worker left" : "the client left");
    tm_sched_finish_call(s, now_us);
}

void tm_sched_gone(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_session_t *session = tm_session_find(s, peer);
    if (session) {
        if (session->is_worker)
            s->stats.workers_lost++;
        else
            s->stats.clients_lost++;
        tm_session_end(s, session,
                       session->is_worker ? "the worker's connection broke"
                                          : "the client's connection broke");
    }
    tm_sched_finish_call(s, now_us);
}

bool tm_sched_knows(const tm_sched_t *s, tm_peer_t peer) {
    return tm_index_find(&s->peers, peer, 0) != NULL;
}

void tm_sched_touch(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_session_t *session = tm_session_find(s, peer);
    if (session)
        session->seen_us = now_us;
}

void tm_sched_complain(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_status_t code,
                       const char *text) {
    tm_sched_touch(s, now_us, peer);
    tm_actions_error(s, peer, no_id, code, "%s", text);
    tm_sched_finish_call(s, now_us);
}

/* ---- time ---- */

/* Its prefetched requests would wait as long as the hung one did: they go to others. */
static void move_unstarted(tm_sched_t *s, tm_session_t *w) {
    for (tm_link_t *it = w->requests.prev, *before = it->prev; it != &w->requests;
         it = before, before = it->prev) {
        tm_request_t *r = TM_LIST_ITEM(it, tm_request_t, of_worker);
        if (r->started)
            continue;
        tm_action_t *action = tm_actions_add(s, TM_ACTION_REVOKE, w->peer);
        action->id = (tm_id_t){s->config.epoch, tm_attempt_current(r)->serial};
        tm_attempt_detach(s, r);
        s->stats.requeued++;
        tm_queue_push(s, r, true);
    }
}

static void expire_attempts(tm_sched_t *s, uint64_t now_us) {
    uint64_t timeout_us = s->config.attempt_timeout_ms * 1000;
    while (!tm_list_empty(&s->running)) {
        tm_request_t *r = TM_LIST_ITEM(s->running.next, tm_request_t, in_running);
        if (r->started_us + timeout_us > now_us)
            break;
        tm_session_t *w = r->worker;
        tm_action_t *action = tm_actions_add(s, TM_ACTION_REVOKE, w->peer);
        action->id = (tm_id_t){s->config.epoch, tm_attempt_current(r)->serial};
        tm_attempt_detach(s, r);
        s->stats.timed_out++;
        w->timed_out++;
        tm_request_avoid(r, w);
        tm_worker_pause(s, w, now_us, true);
        move_unstarted(s, w);
        tm_request_retry(s, r, "the worker hung");
    }
}

static void tick_worker(tm_sched_t *s, tm_session_t *w, uint64_t now_us) {
    uint64_t heartbeat_us = s->config.heartbeat_ms * 1000;
    if (now_us - w->seen_us > heartbeat_us * s->config.liveness) {
        s->stats.workers_lost++;
        tm_session_end(s, w, "the worker fell silent");
        return;
    }
    if (w->paused && now_us >= w->paused_until_us)
        tm_worker_resume(s, w);
    // it holds work, starts none and says nothing of it
    if (w->n_requests && !w->started &&
        now_us - w->progress_us > s->config.attempt_timeout_ms * 1000) {
        w->progress_us = now_us;
        tm_worker_pause(s, w, now_us, true);
        move_unstarted(s, w);
    }
    if (now_us - w->pinged_us >= heartbeat_us) {
        w->pinged_us = now_us;
        tm_actions_add(s, TM_ACTION_PING, w->peer);
    }
}

void tm_sched_tick(tm_sched_t *s, uint64_t now_us) {
    expire_attempts(s, now_us);
    TM_LIST_EACH(&s->workers, it, after)
    tick_worker(s, TM_LIST_ITEM(it, tm_session_t, all), now_us);
    uint64_t silence_us = s->config.heartbeat_ms * 1000 * s->config.liveness;
    TM_LIST_EACH(&s->clients, it, after) {
        tm_session_t *c = TM_LIST_ITEM(it, tm_session_t, all);
        if (now_us - c->seen_us > silence_us) {
            s->stats.clients_lost++;
            tm_session_end(s, c, "the client fell silent");
        }
    }
    tm_sched_finish_call(s, now_us);
}

uint64_t tm_sched_next_us(const tm_sched_t *s) {
    uint64_t next_us = s->heap_count ? s->heap[0]->deadline_us : UINT64_MAX;
    if (!tm_list_empty(&s->running)) {
        const tm_request_t *r = TM_LIST_ITEM(s->running.next, tm_request_t, in_running);
        uint64_t due_us = r->started_us + s->config.attempt_timeout_ms * 1000;
        next_us = due_us < next_us ? due_us : next_us;
    }
    return next_us;
}

void tm_sched_drain(tm_sched_t *s, uint64_t now_us) {
    s->draining = true;
    tm_sched_finish_call(s, now_us);
}

void tm_sched_shutdown(tm_sched_t *s, uint64_t now_us) {
    (void)now_us;
    s->draining = true;
    while (s->heap_count)
        tm_request_fail(s, s->heap[0], true, TM_E_DRAINING,
                        "the broker is shutting down: try the next one");
    tm_link_t *const heads[] = {&s->clients, &s->workers};
    for (int i = 0; i < 2; i++)
        while (!tm_list_empty(heads[i])) {
            tm_session_t *session = TM_LIST_ITEM(heads[i]->next, tm_session_t, all);
            tm_actions_add(s, TM_ACTION_BYE, session->peer);
            tm_session_end(s, session, "the broker leaves");
        }
}
