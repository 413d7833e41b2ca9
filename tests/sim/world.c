// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/failing_malloc.h"

enum {
    CLIENTS = 4,
    WORKERS = 6,
    OPEN_REQUESTS = 24, /* of one client */
    HELD = 16,          /* attempts at one worker */
    EVENTS = 4096,
    LATENCY_MAX_US = 3000,
    STEPS_BEFORE_DRAIN = 900,
    STEPS_AFTER_DRAIN = 150,
};

typedef enum {
    TO_BROKER, /* a message of `peer` arrives */
    TO_PEER,   /* an action arrives at `peer` */
    TICK,
    CLIENT_STEP, /* index */
    WORKER_STEP,
    COMPUTED, /* an attempt at a worker is through */
} event_kind_t;

typedef enum {
    HELLO,
    REQUEST,
    CANCEL,
    PING,
    BYE,
    REGISTER,
    HEARTBEAT,
    CREDIT,
    STARTED,
    RESULT,
    FAILED,
    DRAIN,
} message_kind_t;

typedef struct {
    uint64_t at_us, order;
    event_kind_t kind;
    uint32_t index;
    tm_peer_t peer;
    message_kind_t message;
    oracle_action_t action;
    tm_id_t id;
    uint64_t number;
    uint32_t open; /* REQUEST: index of the request */
} event_t;

typedef struct {
    bool used;
    uint64_t serial, priority, ttl_ms, bytes;
    const char *model;
} open_t;

/* A client or a worker; its peer number changes with each connection. */
typedef struct {
    tm_peer_t peer;
    bool connected, welcome, silent;
    uint64_t arrives_us[2]; /* when the last message of each direction arrives: order is kept */
    /* client */
    uint64_t origin, next_serial;
    open_t open[OPEN_REQUESTS];
    /* worker */
    uint32_t slots, running, variant;
    uint64_t max_payload;
    bool draining;
    struct {
        tm_id_t id; /* serial 0: free */
        bool started, unwanted;
    } held[HELD];
} node_t;

typedef struct {
    uint64_t seed, random, now_us, order, next_peer;
    tm_sched_config_t config;
    oracle_t *oracle;
    node_t nodes[CLIENTS + WORKERS];
    uint32_t n_clients, n_workers, trouble; /* trouble: percent of bad luck */
    event_t *heap;
    uint32_t n_events;
    tm_peer_t gone[64];
    uint32_t n_gone;
    tm_id_t last_attempt;
} world_t;

/* ---- chance ---- */

static uint64_t any(world_t *w) {
    uint64_t x = w->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t below(world_t *w, uint64_t limit) {
    return any(w) % limit;
}

static bool percent(world_t *w, uint64_t chance) {
    return below(w, 100) < chance;
}

/* Bad luck: `per_mille` of it when trouble is at 100. */
static bool trouble(world_t *w, uint64_t per_mille) {
    return below(w, 100000) < per_mille * w->trouble;
}

/* ---- events ---- */

static bool sooner(const event_t *a, const event_t *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static void schedule(world_t *w, event_t event, uint64_t at_us) {
    if (w->n_events == EVENTS)
        return; // as if lost on the way
    event.at_us = at_us;
    event.order = ++w->order;
    uint32_t i = w->n_events++;
    for (; i && sooner(&event, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = event;
}

static event_t next_event(world_t *w) {
    event_t first = w->heap[0], last = w->heap[--w->n_events];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < w->n_events; i = child) {
        if (child + 1 < w->n_events && sooner(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!sooner(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return first;
}

static node_t *node_of(world_t *w, tm_peer_t peer) {
    for (uint32_t i = 0; i < CLIENTS + WORKERS; i++)
        if (w->nodes[i].peer == peer && w->nodes[i].connected)
            return &w->nodes[i];
    return NULL;
}

static bool is_worker(const world_t *w, const node_t *node) {
    return node >= &w->nodes[CLIENTS];
}

static uint64_t arrival(world_t *w, node_t *node, int direction) {
    uint64_t at_us = w->now_us + below(w, LATENCY_MAX_US);
    if (at_us < node->arrives_us[direction])
        at_us = node->arrives_us[direction];
    return node->arrives_us[direction] = at_us;
}

static void say(world_t *w, node_t *node, message_kind_t message, tm_id_t id, uint64_t number,
                uint32_t open) {
    if (!node->connected || node->silent || trouble(w, 2))
        return;
    event_t event = {.kind = TO_BROKER,
                     .peer = node->peer,
                     .index = (uint32_t)(node - w->nodes),
                     .message = message,
                     .id = id,
                     .number = number,
                     .open = open};
    schedule(w, event, arrival(w, node, 0));
}

static const tm_id_t no_id = {0, 0};

static void connect_node(world_t *w, node_t *node) {
    node->peer = ++w->next_peer;
    node->connected = true;
    node->welcome = node->silent = false;
    node->arrives_us[0] = node->arrives_us[1] = w->now_us;
    say(w, node, is_worker(w, node) ? REGISTER : HELLO, no_id, 0, 0);
}

/* ---- clients ---- */

static const char *const models[] = {"gnn", "gnn@1", "gnn@2", "ckf@1", "ckf", "", "ghost"};

static void new_request(world_t *w, node_t *client) {
    for (uint32_t i = 0; i < OPEN_REQUESTS; i++) {
        open_t *open = &client->open[i];
        if (open->used)
            continue;
        *open = (open_t){
            .used = true,
            .serial = ++client->next_serial,
            .priority = below(w, TM_PRIORITIES),
            .ttl_ms = percent(w, 80) ? 2000 + below(w, 20000) : below(w, 300),
            .bytes = percent(w, 95) ? 1 + below(w, 100) : below(w, 2000),
            .model = models[percent(w, 70) ? below(w, 3) : below(w, 7)],
        };
        say(w, client, REQUEST, (tm_id_t){client->origin, open->serial}, 0, i);
        return;
    }
}

static void client_hears(world_t *w, node_t *client, const oracle_action_t *action) {
    if (action->kind == TM_ACTION_WELCOME) {
        client->welcome = true;
        for (uint32_t i = 0; i < OPEN_REQUESTS; i++)
            if (client->open[i].used)
                say(w, client, REQUEST, (tm_id_t){client->origin, client->open[i].serial}, 0, i);
    } else if (action->kind == TM_ACTION_ERROR && !action->id.serial) {
        if (action->code == TM_E_UNKNOWN_PEER)
            say(w, client, HELLO, no_id, 0, 0);
    } else if (action->kind == TM_ACTION_ERROR || action->kind == TM_ACTION_ANSWER) {
        for (uint32_t i = 0; i < OPEN_REQUESTS; i++)
            if (client->open[i].used && client->open[i].serial == action->id.serial) {
                // busy: some try again, under the same id
                if (action->code == TM_E_BUSY && action->kind == TM_ACTION_ERROR && percent(w, 50))
                    say(w, client, REQUEST, action->id, 0, i);
                else
                    client->open[i].used = false;
            }
    }
}

static void client_step(world_t *w, node_t *client) {
    if (!client->connected) {
        if (percent(w, 30))
            connect_node(w, client);
        return;
    }
    uint32_t some = (uint32_t)below(w, OPEN_REQUESTS);
    tm_id_t id = {client->origin, client->open[some].serial};
    if (trouble(w, 10))
        client->silent = true;
    if (trouble(w, 10))
        client->connected = false; // the broker may or may not notice
    if (trouble(w, 5)) {
        say(w, client, BYE, no_id, 0, 0);
        client->connected = false;
    }
    if (client->silent && percent(w, 20))
        client->connected = client->silent = false;
    uint64_t burst = percent(w, 10) ? below(w, 12) : below(w, 3);
    while (burst--)
        new_request(w, client);
    if (client->open[some].used && percent(w, 10))
        say(w, client, CANCEL, id, 0, 0);
    else if (client->open[some].used && percent(w, 10))
        say(w, client, REQUEST, id, 0, some);
    if (percent(w, 50))
        say(w, client, PING, no_id, 0, 0);
}

/* ---- workers ---- */

static void start_next(world_t *w, node_t *worker) {
    for (uint32_t i = 0; i < HELD && worker->running < worker->slots; i++) {
        if (!worker->held[i].id.serial || worker->held[i].started)
            continue;
        worker->held[i].started = true;
        worker->running++;
        if (!percent(w, 3)) // forgetful
            say(w, worker, STARTED, worker->held[i].id, 0, 0);
        if (trouble(w, 20))
            continue; // hangs for ever; its heartbeats go on
        uint64_t us = percent(w, 90) ? below(w, 200000) : below(w, 4000000);
        schedule(w,
                 (event_t){.kind = COMPUTED,
                           .index = (uint32_t)(worker - w->nodes),
                           .peer = worker->peer,
                           .id = worker->held[i].id},
                 w->now_us + us);
    }
}

static void let_go(world_t *w, node_t *worker, uint32_t i) {
    worker->running -= worker->held[i].started;
    memset(&worker->held[i], 0, sizeof worker->held[i]);
    if (!worker->draining)
        say(w, worker, CREDIT, no_id, 1, 0);
    start_next(w, worker);
}

static void worker_hears(world_t *w, node_t *worker, const oracle_action_t *action) {
    uint32_t i = 0;
    switch (action->kind) {
    case TM_ACTION_WELCOME:
        worker->welcome = true;
        worker->running = 0;
        memset(worker->held, 0, sizeof worker->held);
        say(w, worker, CREDIT, no_id, worker->slots + 1, 0);
        break;
    case TM_ACTION_ERROR:
        if (action->code == TM_E_UNKNOWN_PEER && percent(w, 80))
            say(w, worker, REGISTER, no_id, 0, 0);
        if (action->code == TM_E_MODEL_HASH)
            worker->variant = 0;
        break;
    case TM_ACTION_DISPATCH:
        w->last_attempt = action->id;
        if (worker->draining && percent(w, 50)) {
            say(w, worker, FAILED, action->id, TM_E_DRAINING, 0);
            break;
        }
        while (i < HELD && worker->held[i].id.serial)
            i++;
        if (i < HELD)
            worker->held[i].id = action->id;
        start_next(w, worker);
        break;
    case TM_ACTION_REVOKE:
        for (; i < HELD; i++)
            if (worker->held[i].id.serial == action->id.serial &&
                (!worker->held[i].started || percent(w, 50)))
                let_go(w, worker, i);
        break;
    default:
        break;
    }
}

static void computed(world_t *w, node_t *worker, tm_id_t id) {
    uint32_t i = 0;
    while (i < HELD && worker->held[i].id.serial != id.serial)
        i++;
    if (i == HELD)
        return;
    if (trouble(w, 60)) {
        static const tm_status_t codes[] = {TM_E_BACKEND,   TM_E_BACKEND,   TM_E_NO_MEMORY,
                                            TM_E_BAD_EVENT, TM_E_TOO_LARGE, 99};
        say(w, worker, FAILED, id, codes[below(w, 6)], 0);
    } else {
        say(w, worker, RESULT, id, 0, 0);
        if (trouble(w, 10))
            say(w, worker, RESULT, id, 0, 0);
    }
    let_go(w, worker, i);
}

static void worker_step(world_t *w, node_t *worker) {
    if (!worker->connected) {
        if (percent(w, 30)) {
            worker->draining = false;
            worker->variant = percent(w, 10);
            connect_node(w, worker);
        }
        return;
    }
    if (!worker->silent)
        say(w, worker, HEARTBEAT, no_id, 0, 0);
    if (trouble(w, 8))
        worker->silent = true; // the network eats what it says
    else if (worker->silent && percent(w, 15))
        worker->silent = false; // and comes back
    if (trouble(w, 10))
        worker->connected = false; // killed
    if (trouble(w, 4))
        say(w, worker, REGISTER, no_id, 0, 0); // anew
    if (trouble(w, 4))
        say(w, worker, RESULT, w->last_attempt, 0, 0); // somebody's
    if (trouble(w, 4))
        say(w, worker, FAILED, (tm_id_t){w->config.epoch, any(w)}, TM_E_BACKEND, 0);
    if (trouble(w, 5)) {
        worker->draining = true;
        say(w, worker, DRAIN, no_id, 0, 0);
    }
    if (worker->draining && !worker->running && percent(w, 30)) {
        say(w, worker, BYE, no_id, 0, 0);
        worker->connected = false;
    }
}

/* ---- the broker's side ---- */

static void take_actions(world_t *w) {
    uint32_t count;
    const oracle_action_t *actions = oracle_actions(w->oracle, &count);
    for (uint32_t i = 0; i < count; i++) {
        node_t *node = node_of(w, actions[i].peer);
        if (actions[i].kind == TM_ACTION_FORGET)
            continue;
        if (!node) {
            // the socket says that there is no such peer, or a dying pipe swallows the message
            if (w->n_gone < 64 && percent(w, 50))
                w->gone[w->n_gone++] = actions[i].peer;
            continue;
        }
        if (trouble(w, 2))
            continue;
        schedule(w,
                 (event_t){.kind = TO_PEER,
                           .peer = node->peer,
                           .index = (uint32_t)(node - w->nodes),
                           .action = actions[i]},
                 arrival(w, node, 1));
    }
}

static void take_all_actions(world_t *w) {
    take_actions(w);
    while (w->n_gone) {
        oracle_gone(w->oracle, w->now_us, w->gone[--w->n_gone]);
        take_actions(w);
    }
}

static void do_register(world_t *w, const event_t *e, const node_t *worker) {
    tm_model_id_t ids[2] = {{.name = "gnn"}, {.name = "ckf", .version = "1"}};
    // the variant is a file of other weights under the same name
    snprintf(ids[0].version, sizeof ids[0].version, "%u", 1 + e->index % 2);
    memset(ids[0].hash, (int)(1 + worker->variant), TM_HASH_BYTES);
    oracle_register(w->oracle, w->now_us, e->peer, worker->slots, worker->max_payload, ids,
                    1 + e->index % 3 / 2);
}

static void at_broker(world_t *w, const event_t *e) {
    oracle_t *o = w->oracle;
    node_t *node = &w->nodes[e->index];
    const open_t *open = &node->open[e->open];
    switch (e->message) {
    case HELLO:
        oracle_hello(o, w->now_us, e->peer);
        break;
    case REQUEST:
        if (open->used && open->serial == e->id.serial)
            oracle_request(o, w->now_us, e->peer, e->id, open->model, open->priority, open->ttl_ms,
                           open->bytes);
        break;
    case CANCEL:
        oracle_cancel(o, w->now_us, e->peer, e->id);
        break;
    case PING:
        oracle_ping(o, w->now_us, e->peer);
        break;
    case BYE:
        oracle_bye(o, w->now_us, e->peer);
        break;
    case REGISTER:
        do_register(w, e, node);
        break;
    case HEARTBEAT:
        oracle_heartbeat(o, w->now_us, e->peer);
        break;
    case CREDIT:
        oracle_credit(o, w->now_us, e->peer, e->number);
        break;
    case STARTED:
        oracle_started(o, w->now_us, e->peer, e->id);
        break;
    case RESULT:
        oracle_result(o, w->now_us, e->peer, e->id);
        break;
    case FAILED:
        oracle_failed(o, w->now_us, e->peer, e->id, (tm_status_t)e->number);
        break;
    case DRAIN:
        oracle_worker_drain(o, w->now_us, e->peer);
        break;
    }
    take_all_actions(w);
}

static void handle(world_t *w, const event_t *e) {
    node_t *node = &w->nodes[e->index];
    bool same = node->connected && node->peer == e->peer;
    switch (e->kind) {
    case TO_BROKER:
        at_broker(w, e); // even if the sender is gone by now
        break;
    case TO_PEER:
        if (same && is_worker(w, node))
            worker_hears(w, node, &e->action);
        else if (same)
            client_hears(w, node, &e->action);
        break;
    case TICK:
        oracle_tick(w->oracle, w->now_us);
        take_all_actions(w);
        schedule(w, *e, w->now_us + w->config.heartbeat_ms * 100);
        break;
    case CLIENT_STEP:
        client_step(w, node);
        schedule(w, *e, w->now_us + below(w, 400000));
        break;
    case WORKER_STEP:
        worker_step(w, node);
        schedule(w, *e, w->now_us + w->config.heartbeat_ms * 900);
        break;
    case COMPUTED:
        if (same)
            computed(w, node, e->id);
        break;
    }
}

static void set_up(world_t *w) {
    tm_sched_config_t *config = &w->config;
    tm_sched_config_default(config);
    config->epoch = any(w) | 1;
    config->heartbeat_ms = 100 + below(w, 900);
    config->attempt_timeout_ms = 300 + below(w, 5000);
    config->attempts_max = 1 + (uint32_t)below(w, 4);
    config->worker_failures_max = 1 + (uint32_t)below(w, 5);
    config->worker_pause_ms = 100 + below(w, 3000);
    config->ageing_ms = percent(w, 50) ? 0 : 100 + below(w, 3000);
    config->queue_max_requests = percent(w, 50) ? 1 + (uint32_t)below(w, 20) : 4096;
    config->queue_max_bytes = percent(w, 30) ? 100 + below(w, 3000) : TM_QUEUE_MAX_BYTES;
    config->payload_max_bytes = 1500;
    config->client_window = 1 + (uint32_t)below(w, 20);
    config->clients_max = percent(w, 80) ? 100 : 2;
    config->workers_max = percent(w, 80) ? 50 : 2;
    w->trouble = percent(w, 20) ? 0 : (uint32_t)below(w, 300);
    w->n_clients = 1 + (uint32_t)below(w, CLIENTS);
    w->n_workers = (uint32_t)below(w, WORKERS + 1);
    for (uint32_t i = 0; i < CLIENTS; i++)
        w->nodes[i].origin = any(w) | 1;
    for (uint32_t i = CLIENTS; i < CLIENTS + WORKERS; i++) {
        w->nodes[i].slots = 1 + (uint32_t)below(w, 4);
        w->nodes[i].max_payload = percent(w, 80) ? TM_PAYLOAD_MAX_BYTES : 1 + below(w, 100);
    }
}

void world_run(uint64_t seed, oracle_totals_t *totals) {
    static event_t heap[EVENTS];
    world_t world = {.seed = seed, .random = seed * 0x2545f4914f6cdd1du, .heap = heap};
    world_t *w = &world;
    set_up(w);
    w->now_us = 1 + below(w, 1u << 30);
    tm_sched_t *sched;
    tm_error_t error;
    if (tm_sched_new(&w->config, w->now_us, &sched, &error)) {
        fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, error.text);
        abort();
    }
    w->oracle = oracle_new(seed, &w->config, sched);
    // in some schedules memory runs out now and then
    failing_malloc_set(percent(w, 10) ? seed : 0);
    schedule(w, (event_t){.kind = TICK}, w->now_us);
    for (uint32_t i = 0; i < w->n_clients; i++)
        schedule(w, (event_t){.kind = CLIENT_STEP, .index = i}, w->now_us + below(w, 1000000));
    for (uint32_t i = CLIENTS; i < CLIENTS + w->n_workers; i++)
        schedule(w, (event_t){.kind = WORKER_STEP, .index = i}, w->now_us + below(w, 1000000));
    uint64_t steps = STEPS_BEFORE_DRAIN / 2 + below(w, STEPS_BEFORE_DRAIN);
    for (uint64_t step = 0; step < steps + STEPS_AFTER_DRAIN; step++) {
        if (step == steps) {
            oracle_drain(w->oracle, w->now_us);
            take_all_actions(w);
        }
        event_t event = next_event(w);
        w->now_us = event.at_us;
        handle(w, &event);
    }
    failing_malloc_set(0);
    oracle_end(w->oracle, w->now_us);
    oracle_add_totals(w->oracle, totals);
    tm_sched_destroy(&sched);
}
