// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/oracle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 160, WORKERS = 48, PAYLOADS = 65536, ACTIONS = 4096, ATTEMPTS = 65536 };

/* Looking for work left lying is slow, and what is left lying stays: not after every call. */
enum { IDLE_CHECK_EVERY = 4 };

typedef struct {
    bool used;
    tm_id_t id;
    tm_peer_t client;
    char model[TM_MODEL_REF_MAX + 1];
    uint64_t priority, bytes, deadline_us, arrived_us, seq;
    uint32_t payload;
    uint32_t started, failed; /* failed: some worker must be avoided, order does not hold */
    bool released;            /* its client went: FORGET must follow in the same call */
    bool requeued;            /* stands at the head out of turn */
    uint32_t attempt;         /* index of the one that is on; 0: queued */
} request_t;

typedef struct {
    tm_peer_t peer; /* 0: free */
    uint64_t credit, max_payload, seen_us;
    bool draining;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
} worker_t;

typedef struct {
    uint64_t serial;
    uint32_t request; /* index; its id tells whether it is still the same */
    tm_id_t request_id;
    tm_peer_t worker;
    bool on, started;
    uint64_t started_us;
} attempt_t;

typedef struct {
    bool held, request;
} payload_t;

struct oracle {
    uint64_t seed, now_us, seq;
    tm_sched_config_t config;
    tm_sched_t *s;
    uint64_t calls, n_actions_seen, strangers; /* strangers: REQUESTs without a session */
    request_t requests[REQUESTS];
    worker_t workers[WORKERS];
    payload_t payloads[PAYLOADS];
    uint32_t n_payloads;
    attempt_t *attempts; /* from 1 */
    uint32_t n_attempts;
    oracle_action_t actions[ACTIONS];
    uint32_t n_actions;
    bool draining;
    /* about the call under way */
    tm_id_t refusable; /* this request may be refused */
    bool refused;
    const char *call;
};

void oracle_fail(const oracle_t *o, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "seed %llu, call %llu (%s), t = %.3f s: ", (unsigned long long)o->seed,
            (unsigned long long)o->calls, o->call ? o->call : "?", (double)o->now_us / 1e6);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    abort();
}

#define CHECK(o, condition, ...) \
    do { \
        if (!(condition)) \
            oracle_fail(o, __VA_ARGS__); \
    } while (0)

static bool same_id(tm_id_t a, tm_id_t b) {
    return a.origin == b.origin && a.serial == b.serial;
}

static request_t *find_request(oracle_t *o, tm_id_t id) {
    for (int i = 0; i < REQUESTS; i++)
        if (o->requests[i].used && same_id(o->requests[i].id, id))
            return &o->requests[i];
    return NULL;
}

static worker_t *find_worker(oracle_t *o, tm_peer_t peer) {
    for (int i = 0; i < WORKERS; i++)
        if (o->workers[i].peer == peer)
            return &o->workers[i];
    return NULL;
}

/* The attempt of that id, if its request still lives. */
static attempt_t *find_attempt(oracle_t *o, tm_id_t id) {
    if (id.origin != o->config.epoch)
        return NULL;
    for (uint32_t i = o->n_attempts; i; i--)
        if (o->attempts[i].serial == id.serial) {
            attempt_t *a = &o->attempts[i];
            const request_t *r = &o->requests[a->request];
            return r->used && same_id(r->id, a->request_id) ? a : NULL;
        }
    return NULL;
}

static void *payload_new(oracle_t *o, bool request) {
    CHECK(o, o->n_payloads + 1 < PAYLOADS, "the simulator needs more payloads");
    o->payloads[++o->n_payloads] = (payload_t){.held = true, .request = request};
    return (void *)(uintptr_t)o->n_payloads;
}

static void check_payload(const oracle_t *o, const void *payload) {
    uintptr_t number = (uintptr_t)payload;
    CHECK(o, number >= 1 && number <= o->n_payloads, "a payload that never was");
    CHECK(o, o->payloads[number].held, "payload %zu is used after its release", (size_t)number);
}

/* ---- what came out ---- */

static bool words_fit(const char *words, const tm_model_id_t *id) {
    char full[TM_MODEL_REF_MAX + 1];
    snprintf(full, sizeof full, "%s@%s", id->name, id->version);
    return !words[0] || !strcmp(words, id->name) || !strcmp(words, full);
}

static bool serves(const worker_t *w, const tm_model_id_t *id) {
    for (uint32_t i = 0; i < w->n_models; i++)
        if (!memcmp(&w->models[i], id, sizeof *id))
            return true;
    return false;
}

static void end_attempt(oracle_t *o, request_t *r) {
    if (r->attempt)
        o->attempts[r->attempt].on = false;
    r->attempt = 0;
}

static void on_dispatch(oracle_t *o, const tm_action_t *action) {
    worker_t *w = find_worker(o, action->peer);
    CHECK(o, w, "DISPATCH to a worker without a session");
    CHECK(o, !w->draining, "DISPATCH to a draining worker");
    CHECK(o, w->credit, "DISPATCH beyond credit");
    w->credit--;
    check_payload(o, action->payload);
    request_t *r = NULL;
    for (int i = 0; i < REQUESTS; i++)
        if (o->requests[i].used && o->requests[i].payload == (uintptr_t)action->payload)
            r = &o->requests[i];
    CHECK(o, r, "DISPATCH of no request");
    CHECK(o, !r->attempt, "DISPATCH while another attempt is on");
    CHECK(o, serves(w, action->model), "the worker does not serve the model");
    CHECK(o, words_fit(r->model, action->model), "the request asked for %s, not %s@%s", r->model,
          action->model->name, action->model->version);
    CHECK(o, r->bytes <= w->max_payload, "too large for the worker");
    CHECK(o, r->deadline_us > o->now_us, "dispatched after the deadline");
    CHECK(o, action->ttl_ms && action->ttl_ms <= (r->deadline_us - o->now_us + 999) / 1000,
          "ttl_ms %llu", (unsigned long long)action->ttl_ms);
    CHECK(o, action->id.origin == o->config.epoch, "the attempt's origin is not the epoch");
    for (uint32_t i = 1; i <= o->n_attempts; i++)
        CHECK(o, o->attempts[i].serial != action->id.serial, "two attempts of one id");
    // order: nobody of the same words was overtaken who could have gone in the same place
    for (int i = 0; i < REQUESTS && !o->config.ageing_ms; i++) {
        const request_t *q = &o->requests[i];
        if (!q->used || q == r || q->attempt || q->failed || q->requeued || r->requeued ||
            q->bytes > w->max_payload || strcmp(q->model, r->model))
            continue;
        CHECK(o, q->priority > r->priority || (q->priority == r->priority && q->seq > r->seq),
              "request %llu overtook %llu", (unsigned long long)r->id.serial,
              (unsigned long long)q->id.serial);
    }
    CHECK(o, o->n_attempts + 1 < ATTEMPTS, "the simulator needs more attempts");
    o->attempts[++o->n_attempts] = (attempt_t){
        .serial = action->id.serial,
        .request = (uint32_t)(r - o->requests),
        .request_id = r->id,
        .worker = action->peer,
        .on = true,
    };
    r->attempt = o->n_attempts;
}

static void on_terminal(oracle_t *o, const tm_action_t *action) {
    if (!action->id.origin && !action->id.serial)
        return; // about the session
    if (!o->refused && same_id(action->id, o->refusable) && action->kind == TM_ACTION_ERROR) {
        o->refused = true;
        return;
    }
    request_t *r = find_request(o, action->id);
    CHECK(o, r, "a second terminal answer to %llu", (unsigned long long)action->id.serial);
    CHECK(o, r->client == action->peer, "the answer went to an old connection");
    if (action->kind == TM_ACTION_ANSWER) {
        check_payload(o, action->payload);
        CHECK(o, !o->payloads[(uintptr_t)action->payload].request, "its own event as an answer");
        CHECK(o, words_fit(r->model, action->model), "answered by another model");
    } else if (action->code == TM_E_ATTEMPTS) {
        CHECK(o, r->started == o->config.attempts_max, "gave up after %u attempts", r->started);
    } else if (action->code == TM_E_DEADLINE || action->code == TM_E_NO_MODEL) {
        CHECK(o, r->deadline_us <= o->now_us, "deadline called early");
    }
    CHECK(o, r->started <= o->config.attempts_max, "%u attempts started", r->started);
    r->used = false;
}

static void on_forget(oracle_t *o, tm_peer_t peer) {
    worker_t *w = find_worker(o, peer);
    if (w) {
        w->peer = 0;
        for (int i = 0; i < REQUESTS; i++) {
            request_t *r = &o->requests[i];
            if (r->used && r->attempt && o->attempts[r->attempt].worker == peer) {
                end_attempt(o, r);
                r->requeued = true;
            }
        }
    }
    for (int i = 0; i < REQUESTS; i++)
        if (o->requests[i].used && o->requests[i].client == peer)
            o->requests[i].used = false;
}

static void on_revoke(oracle_t *o, const tm_action_t *action) {
    for (uint32_t i = o->n_attempts; i; i--) {
        attempt_t *a = &o->attempts[i];
        if (a->serial != action->id.serial)
            continue;
        CHECK(o, a->on && a->worker == action->peer, "REVOKE of an attempt that is not on");
        a->on = false;
        request_t *r = &o->requests[a->request];
        if (r->used && same_id(r->id, a->request_id)) {
            r->failed += a->started; // its worker is avoided from now on
            r->requeued = true;
            end_attempt(o, r);
        }
        return;
    }
    oracle_fail(o, "REVOKE of an attempt that never was");
}

static void on_release(oracle_t *o, const tm_action_t *action) {
    check_payload(o, action->payload);
    o->payloads[(uintptr_t)action->payload].held = false;
    for (int i = 0; i < REQUESTS; i++)
        if (o->requests[i].used && o->requests[i].payload == (uintptr_t)action->payload)
            o->requests[i].released = true;
}

static void on_action(oracle_t *o, const tm_action_t *action) {
    switch (action->kind) {
    case TM_ACTION_DISPATCH:
        on_dispatch(o, action);
        break;
    case TM_ACTION_ANSWER:
    case TM_ACTION_ERROR:
        on_terminal(o, action);
        break;
    case TM_ACTION_FORGET:
        on_forget(o, action->peer);
        break;
    case TM_ACTION_REVOKE:
        on_revoke(o, action);
        break;
    default:
        break;
    }
}

/* ---- what must hold between calls ---- */

static void check_counters(oracle_t *o) {
    const tm_stats_t *s = tm_sched_stats(o->s);
    uint64_t refused = 0, failed = 0, in_flight = 0, queued = 0, bytes = 0, workers = 0;
    for (int i = 0; i < TM_STATS_CODES; i++) {
        refused += s->refused[i];
        failed += s->failed[i];
    }
    for (int i = 0; i < REQUESTS; i++) {
        const request_t *r = &o->requests[i];
        CHECK(o, !r->used || !r->released, "the event of a living request was released");
        in_flight += r->used;
        queued += r->used && !r->attempt;
        bytes += r->used ? r->bytes : 0;
    }
    for (int i = 0; i < WORKERS; i++)
        workers += o->workers[i].peer != 0;
    CHECK(o, s->in_flight == in_flight, "in_flight %llu, not %llu",
          (unsigned long long)s->in_flight, (unsigned long long)in_flight);
    CHECK(o, s->queued == queued, "queued %llu, not %llu", (unsigned long long)s->queued,
          (unsigned long long)queued);
    CHECK(o, s->running == in_flight - queued, "running %llu", (unsigned long long)s->running);
    CHECK(o, s->held_bytes == bytes, "held_bytes");
    CHECK(o, s->workers == workers, "workers");
    CHECK(o, bytes <= o->config.queue_max_bytes, "more bytes than allowed");
    CHECK(o, s->received == s->accepted + s->duplicates + refused + o->strangers,
          "received requests do not add up");
    CHECK(o, s->accepted == s->answered + failed + s->dropped + s->in_flight,
          "accepted requests do not add up");
    CHECK(o,
          s->dispatched == s->resulted + s->attempts_failed + s->timed_out + s->requeued +
                               s->revoked + s->running,
          "attempts do not add up");
}

/* Nothing waits that a worker could take. */
static void check_idle_workers(oracle_t *o) {
    tm_worker_view_t views[WORKERS];
    uint32_t n_views = tm_sched_view_workers(o->s, o->now_us, views, WORKERS);
    for (uint32_t v = 0; v < n_views; v++) {
        const worker_t *w = find_worker(o, views[v].peer);
        CHECK(o, w, "a worker that should be gone");
        CHECK(o, views[v].credit == w->credit, "credit %u, not %llu", views[v].credit,
              (unsigned long long)w->credit);
        CHECK(o, views[v].draining == w->draining, "draining differs");
        if (!w->credit || w->draining || views[v].paused)
            continue;
        for (int i = 0; i < REQUESTS; i++) {
            const request_t *r = &o->requests[i];
            if (!r->used || r->attempt || r->failed || r->bytes > w->max_payload ||
                !strchr(r->model, '@'))
                continue;
            for (uint32_t m = 0; m < w->n_models; m++)
                CHECK(o, !words_fit(r->model, &w->models[m]),
                      "request %llu waits though worker %llx has credit %llu",
                      (unsigned long long)r->id.serial, (unsigned long long)w->peer,
                      (unsigned long long)w->credit);
        }
    }
}

static void check_times(oracle_t *o) {
    for (int i = 0; i < WORKERS; i++)
        CHECK(o,
              !o->workers[i].peer || o->now_us - o->workers[i].seen_us <=
                                         o->config.heartbeat_ms * o->config.liveness * 1000,
              "a silent worker is still there");
    for (int i = 0; i < REQUESTS; i++) {
        const request_t *r = &o->requests[i];
        if (!r->used)
            continue;
        CHECK(o, r->deadline_us > o->now_us, "request %llu outlived its deadline",
              (unsigned long long)r->id.serial);
        const attempt_t *a = &o->attempts[r->attempt];
        CHECK(o,
              !r->attempt || !a->started ||
                  a->started_us + o->config.attempt_timeout_ms * 1000 > o->now_us,
              "an attempt outlived its timeout");
    }
}

static void begin(oracle_t *o, uint64_t now_us, tm_peer_t peer, const char *call) {
    CHECK(o, now_us >= o->now_us, "the clock ran backwards");
    o->now_us = now_us;
    o->call = call;
    o->calls++;
    o->n_actions = 0;
    o->refused = false;
    worker_t *w = peer ? find_worker(o, peer) : NULL;
    if (w)
        w->seen_us = now_us;
}

static void finish(oracle_t *o) {
    for (const tm_action_t *action; (action = tm_sched_next(o->s));) {
        o->n_actions_seen++;
        if (action->kind == TM_ACTION_RELEASE) {
            on_release(o, action);
            continue;
        }
        on_action(o, action);
        CHECK(o, o->n_actions < ACTIONS, "too many actions in one call");
        o->actions[o->n_actions++] =
            (oracle_action_t){action->kind, action->peer, action->id, action->code};
    }
    o->refusable = (tm_id_t){0, 0};
    check_counters(o);
    if (o->calls % IDLE_CHECK_EVERY == 0)
        check_idle_workers(o);
}

/* ---- calls ---- */

oracle_t *oracle_new(uint64_t seed, const tm_sched_config_t *config, tm_sched_t *sched) {
    static oracle_t *recycled; // megabytes that every schedule needs: cleared, not allocated anew
    if (!recycled) {
        recycled = calloc(1, sizeof *recycled);
        attempt_t *attempts = calloc(ATTEMPTS, sizeof *attempts);
        if (!recycled || !attempts)
            abort();
        recycled->attempts = attempts;
    }
    oracle_t *o = recycled;
    attempt_t *attempts = o->attempts;
    memset(o->requests, 0, sizeof o->requests);
    memset(o->workers, 0, sizeof o->workers);
    o->attempts = attempts;
    o->n_attempts = o->n_payloads = o->n_actions = 0;
    o->calls = o->n_actions_seen = o->strangers = o->now_us = o->seq = 0;
    o->draining = false;
    o->refusable = (tm_id_t){0, 0};
    o->seed = seed;
    o->config = *config;
    o->s = sched;
    return o;
}

void oracle_hello(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "hello");
    tm_sched_client_hello(o->s, now_us, peer, tm_slice("client"), tm_slice("sim/1"));
    finish(o);
}

void oracle_request(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id, const char *model,
                    uint64_t priority, uint64_t ttl_ms, uint64_t bytes) {
    begin(o, now_us, peer, "request");
    tm_stats_t before = *tm_sched_stats(o->s);
    o->strangers += !tm_sched_knows(o->s, peer);
    request_t *known = find_request(o, id);
    tm_sched_request_t request = {.id = id,
                                  .model = tm_slice(model),
                                  .ttl_ms = ttl_ms,
                                  .priority = priority,
                                  .payload_bytes = bytes,
                                  .payload = payload_new(o, true)};
    tm_sched_client_request(o->s, now_us, peer, &request);
    const tm_stats_t *after = tm_sched_stats(o->s);
    if (after->accepted > before.accepted) {
        CHECK(o, !known, "a duplicate was accepted again");
        CHECK(o, before.queued < o->config.queue_max_requests, "accepted into a full queue");
        CHECK(o, !o->draining, "accepted while draining");
        uint32_t window = 0;
        request_t *r = NULL;
        for (int i = REQUESTS; i--;) {
            window += o->requests[i].used && o->requests[i].client == peer;
            r = o->requests[i].used ? r : &o->requests[i];
        }
        CHECK(o, window < o->config.client_window, "accepted beyond the window");
        CHECK(o, r, "the simulator needs more requests");
        *r = (request_t){.used = true,
                         .id = id,
                         .client = peer,
                         .priority = priority,
                         .bytes = bytes,
                         .arrived_us = now_us,
                         .deadline_us = now_us + ttl_ms * 1000,
                         .seq = ++o->seq,
                         .payload = o->n_payloads};
        snprintf(r->model, sizeof r->model, "%s", model);
    } else if (after->duplicates > before.duplicates) {
        CHECK(o, known, "joined to a request that is not in flight");
        known->client = peer;
    } else if (!known) {
        o->refusable = id;
    }
    finish(o);
    CHECK(o, o->refused || find_request(o, id) || o->n_actions, "a request vanished");
}

void oracle_cancel(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id) {
    begin(o, now_us, peer, "cancel");
    const request_t *r = find_request(o, id);
    bool due = r && r->client == peer;
    tm_sched_client_cancel(o->s, now_us, peer, id);
    finish(o);
    CHECK(o, !due || !find_request(o, id), "cancelled, and still in flight");
}

void oracle_register(oracle_t *o, uint64_t now_us, tm_peer_t peer, uint32_t slots,
                     uint64_t max_payload, const tm_model_id_t *models, uint32_t n_models) {
    begin(o, now_us, peer, "register");
    char name[TM_NAME_MAX + 1];
    snprintf(name, sizeof name, "worker-%llx", (unsigned long long)peer);
    tm_sched_worker_t worker = {.name = tm_slice(name),
                                .software = tm_slice("sim/1"),
                                .device = tm_slice("cpu"),
                                .backend = tm_slice("mock"),
                                .slots = slots,
                                .max_payload = max_payload,
                                .n_models = n_models,
                                .models = models};
    uint64_t seen = tm_sched_stats(o->s)->workers_seen;
    worker_t *old = find_worker(o, peer);
    tm_sched_worker_register(o->s, now_us, peer, &worker);
    if (old)
        on_forget(o, peer); // comes out once more, and does no harm
    bool taken = tm_sched_stats(o->s)->workers_seen > seen;
    worker_t *w = taken ? find_worker(o, 0) : NULL;
    CHECK(o, !taken || w, "the simulator needs more workers");
    // the FORGET of the old session must not take the new one along
    const tm_action_t *action = old ? tm_sched_next(o->s) : NULL;
    while (action && action->kind != TM_ACTION_FORGET) {
        if (action->kind == TM_ACTION_RELEASE)
            on_release(o, action);
        else
            on_action(o, action);
        action = tm_sched_next(o->s);
    }
    CHECK(o, !old || action, "the old session was not forgotten");
    if (taken) {
        *w = (worker_t){
            .peer = peer, .seen_us = now_us, .max_payload = max_payload, .n_models = n_models};
        memcpy(w->models, models, n_models * sizeof *models);
        for (int i = 0; i < WORKERS; i++)
            for (uint32_t a = 0; a < o->workers[i].n_models && o->workers[i].peer; a++)
                for (uint32_t b = 0; b < n_models; b++)
                    CHECK(o,
                          strcmp(o->workers[i].models[a].name, models[b].name) ||
                              strcmp(o->workers[i].models[a].version, models[b].version) ||
                              !memcmp(o->workers[i].models[a].hash, models[b].hash, TM_HASH_BYTES),
                          "two weights under one name");
    }
    finish(o);
    if (!taken && n_models) {
        // refused in the end although a session was begun: it is gone again
        worker_t *left = find_worker(o, peer);
        CHECK(o, !left, "refused, and still there");
    }
}

void oracle_heartbeat(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "heartbeat");
    tm_sched_worker_heartbeat(o->s, now_us, peer);
    finish(o);
}

void oracle_credit(oracle_t *o, uint64_t now_us, tm_peer_t peer, uint64_t credit) {
    begin(o, now_us, peer, "credit");
    worker_t *w = find_worker(o, peer);
    if (w)
        w->credit = w->credit + credit < TM_CREDIT_MAX ? w->credit + credit : TM_CREDIT_MAX;
    tm_sched_worker_credit(o->s, now_us, peer, credit);
    finish(o);
}

void oracle_started(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id) {
    begin(o, now_us, peer, "started");
    attempt_t *a = find_attempt(o, id);
    if (a && a->on && a->worker == peer && find_worker(o, peer) && !a->started) {
        a->started = true;
        a->started_us = now_us;
        o->requests[a->request].started++;
    }
    tm_sched_worker_started(o->s, now_us, peer, id);
    finish(o);
}

void oracle_result(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id) {
    begin(o, now_us, peer, "result");
    attempt_t *a = find_attempt(o, id);
    bool mine = a && a->on && a->worker == peer && find_worker(o, peer);
    tm_id_t request = a ? a->request_id : (tm_id_t){0, 0};
    if (mine)
        end_attempt(o, &o->requests[a->request]);
    tm_sched_worker_result(o->s, now_us, peer, id, payload_new(o, false), 10);
    finish(o);
    CHECK(o, !mine || !find_request(o, request), "a valid result was not the end");
}

void oracle_failed(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id, tm_status_t code) {
    begin(o, now_us, peer, "failed");
    attempt_t *a = find_attempt(o, id);
    worker_t *w = find_worker(o, peer);
    if (a && a->on && a->worker == peer && w) {
        request_t *r = &o->requests[a->request];
        if (code == TM_E_DRAINING) {
            w->draining = true;
        } else {
            r->started += !a->started;
            r->failed++;
        }
        r->requeued = true; // unless that was the last attempt
        end_attempt(o, r);
    }
    tm_sched_worker_failed(o->s, now_us, peer, id, code, tm_slice("as the simulator wished"));
    finish(o);
}

void oracle_worker_drain(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "worker drain");
    worker_t *w = find_worker(o, peer);
    if (w)
        w->draining = true;
    tm_sched_worker_drain(o->s, now_us, peer);
    finish(o);
}

void oracle_ping(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "ping");
    tm_sched_ping(o->s, now_us, peer);
    finish(o);
}

void oracle_bye(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "bye");
    tm_sched_bye(o->s, now_us, peer);
    finish(o);
}

void oracle_gone(oracle_t *o, uint64_t now_us, tm_peer_t peer) {
    begin(o, now_us, peer, "gone");
    tm_sched_gone(o->s, now_us, peer);
    finish(o);
}

void oracle_tick(oracle_t *o, uint64_t now_us) {
    begin(o, now_us, 0, "tick");
    tm_sched_tick(o->s, now_us);
    finish(o);
    check_times(o);
    CHECK(o, tm_sched_next_us(o->s) > now_us, "something due was left undone");
}

void oracle_drain(oracle_t *o, uint64_t now_us) {
    begin(o, now_us, 0, "drain");
    o->draining = true;
    tm_sched_drain(o->s, now_us);
    finish(o);
}

void oracle_end(oracle_t *o, uint64_t now_us) {
    begin(o, now_us, 0, "shutdown");
    tm_sched_shutdown(o->s, now_us);
    finish(o);
    for (int i = 0; i < REQUESTS; i++)
        CHECK(o, !o->requests[i].used, "request %llu never had an answer",
              (unsigned long long)o->requests[i].id.serial);
    for (uint32_t i = 1; i <= o->n_payloads; i++)
        CHECK(o, !o->payloads[i].held, "payload %u was never released", i);
    const tm_stats_t *s = tm_sched_stats(o->s);
    CHECK(o, !s->clients && !s->workers && !s->slots, "sessions are left");
}

const oracle_action_t *oracle_actions(const oracle_t *o, uint32_t *count) {
    *count = o->n_actions;
    return o->actions;
}

void oracle_add_totals(const oracle_t *o, oracle_totals_t *totals) {
    const uint64_t *from = (const uint64_t *)tm_sched_stats(o->s);
    uint64_t *to = (uint64_t *)&totals->stats;
    for (size_t i = 0; i < sizeof totals->stats / sizeof *to; i++) // all members are uint64_t
        to[i] += from[i];
    totals->calls += o->calls;
    totals->actions += o->n_actions_seen;
}
