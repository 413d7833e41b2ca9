// SPDX-License-Identifier: Apache-2.0
#include "broker/relay.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "broker/cargo.h"
#include "broker/clock.h"
#include "broker/port.h"

#define MY_SOFTWARE "trackmill/" TM_VERSION

enum {
    BURST = 100,        /* messages taken from one socket before the other has its turn */
    FLUSH_MS = 5,       /* how often full pipes are tried again */
    LINGER_MS = 2000,   /* how long the last messages may take to leave */
    TICKS_PER_BEAT = 10 /* ticks per heartbeat */
};

struct tm_relay {
    const tm_options_t *options;
    tm_exchange_t *exchange;
    void *context;
    tm_port_t *clients, *workers;
    tm_sched_t *sched;
    uint64_t now_us, ticked_us, drain_until_us;
    uint64_t messages[2], malformed;
    bool leaving;
    tm_peer_t *gone; /* found while sending, told to the scheduler afterwards */
    uint32_t n_gone, gone_room;
};

/* ---- life ---- */

tm_status_t tm_relay_new(const tm_options_t *options, tm_exchange_t *exchange, tm_relay_t **out,
                         tm_error_t *err) {
    *out = NULL;
    if (sodium_init() < 0)
        return tm_error_set(err, TM_E_SYSTEM, "libsodium: no source of random numbers");
    tm_relay_t *relay = calloc(1, sizeof *relay);
    if (!relay)
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    relay->options = options;
    relay->exchange = exchange;
    relay->now_us = tm_clock_now_us();
    tm_sched_config_t config = options->sched;
    if (config.payload_max_bytes > config.queue_max_bytes)
        config.payload_max_bytes = config.queue_max_bytes; // more could never be held
    do
        randombytes_buf(&config.epoch, sizeof config.epoch);
    while (!config.epoch);
    tm_status_t status = tm_sched_new(&config, relay->now_us, &relay->sched, err);
    if (status)
        goto done;
    relay->context = zmq_ctx_new();
    if (!relay->context) {
        status = tm_error_set(err, TM_E_SYSTEM, "libzmq: %s", zmq_strerror(zmq_errno()));
        goto done;
    }
    zmq_ctx_set(relay->context, ZMQ_IO_THREADS, options->io_threads);
    status =
        tm_port_new(relay->context, false, options->client_endpoints, options->n_client_endpoints,
                    config.payload_max_bytes, LINGER_MS, &relay->clients, err);
    if (!status)
        status = tm_port_new(relay->context, true, options->worker_endpoints,
                             options->n_worker_endpoints, config.payload_max_bytes, LINGER_MS,
                             &relay->workers, err);
done:
    if (status)
        tm_relay_destroy(&relay);
    *out = relay;
    return status;
}

void tm_relay_destroy(tm_relay_t **p) {
    tm_relay_t *relay = *p;
    if (!relay)
        return;
    tm_port_destroy(&relay->clients);
    tm_port_destroy(&relay->workers);
    if (relay->context)
        while (zmq_ctx_term(relay->context) && zmq_errno() == EINTR)
            ;
    tm_sched_destroy(&relay->sched);
    free(relay->gone);
    free(relay);
    *p = NULL;
}

const char *tm_relay_client_endpoints(const tm_relay_t *relay) {
    return tm_port_endpoints(relay->clients);
}

const char *tm_relay_worker_endpoints(const tm_relay_t *relay) {
    return tm_port_endpoints(relay->workers);
}

/* ---- actions ---- */

static void note_gone(tm_relay_t *relay, tm_peer_t peer) {
    if (relay->n_gone == relay->gone_room) {
        uint32_t room = relay->gone_room ? 2 * relay->gone_room : 64;
        tm_peer_t *gone = realloc(relay->gone, room * sizeof *gone);
        if (!gone)
            return; // its silence will tell
        relay->gone = gone;
        relay->gone_room = room;
    }
    relay->gone[relay->n_gone++] = peer;
}

static tm_port_t *port_of(const tm_relay_t *relay, tm_peer_t peer) {
    return tm_port_is_worker(peer) ? relay->workers : relay->clients;
}

static void send_to(tm_relay_t *relay, tm_peer_t peer, const tm_message_t *m, zmq_msg_t *payload) {
    if (!tm_port_send(port_of(relay, peer), peer, m, payload))
        note_gone(relay, peer);
}

static void fill_welcome(const tm_relay_t *relay, const tm_action_t *action, tm_message_t *m) {
    const tm_sched_config_t *config = tm_sched_config(relay->sched);
    m->command = TM_CMD_WELCOME;
    TM_SET_SLICE(m, SOFTWARE, software, tm_slice(MY_SOFTWARE));
    TM_SET_UINT(m, EPOCH, epoch, config->epoch);
    TM_SET_UINT(m, HEARTBEAT_MS, heartbeat_ms, config->heartbeat_ms);
    TM_SET_UINT(m, LIVENESS, liveness, config->liveness);
    TM_SET_UINT(m, MAX_PAYLOAD, max_payload, config->payload_max_bytes);
    if (!tm_port_is_worker(action->peer))
        TM_SET_UINT(m, WINDOW, window, config->client_window);
}

static void fill_error(const tm_action_t *action, tm_message_t *m) {
    m->command = TM_CMD_ERROR;
    TM_SET_UINT(m, CODE, code, action->code);
    TM_SET_SLICE(m, TEXT, text, tm_slice(action->text));
    if (action->code == TM_E_BUSY)
        TM_SET_UINT(m, RETRY_AFTER_MS, retry_after_ms, action->retry_after_ms);
    if (action->code == TM_E_VERSION)
        TM_SET_UINT(m, PROTOCOL, protocol, TM_PROTOCOL_VERSION);
    bool of_request = action->id.origin || action->id.serial;
    tm_log_level_t level = action->code == TM_E_MODEL_HASH ? TM_LOG_WARN : TM_LOG_DEBUG;
    if (tm_log_enabled(level))
        tm_log(level, "%s %" PRIx64 "%s: %s: %s",
               tm_port_is_worker(action->peer) ? "worker" : "client", action->peer,
               of_request ? ", request" : "", tm_status_name(action->code), action->text);
}

/* model: room for the words. */
static void fill_model(const tm_action_t *action, tm_message_t *m,
                       char model[TM_MODEL_REF_MAX + 1]) {
    snprintf(model, TM_MODEL_REF_MAX + 1, "%s@%s", action->model->name, action->model->version);
    TM_SET_SLICE(m, MODEL, model, tm_slice(model));
}

static void execute(tm_relay_t *relay, const tm_action_t *action) {
    tm_message_t m = {.id = action->id};
    char model[TM_MODEL_REF_MAX + 1];
    tm_cargo_t *cargo = action->payload;
    switch (action->kind) {
    case TM_ACTION_WELCOME:
        fill_welcome(relay, action, &m);
        break;
    case TM_ACTION_PING:
        m.command = TM_CMD_PING;
        break;
    case TM_ACTION_PONG:
        m.command = TM_CMD_PONG;
        break;
    case TM_ACTION_BYE:
        m.command = TM_CMD_BYE;
        break;
    case TM_ACTION_REVOKE:
        m.command = TM_CMD_REVOKE;
        break;
    case TM_ACTION_ERROR:
        fill_error(action, &m);
        break;
    case TM_ACTION_ANSWER:
        m.command = TM_CMD_ANSWER;
        fill_model(action, &m, model);
        TM_SET_SLICE(&m, HASH, hash,
                     ((tm_slice_t){(const char *)action->model->hash, TM_HASH_BYTES}));
        TM_SET_UINT(&m, ATTEMPT, attempt, action->attempt);
        TM_SET_SLICE(&m, COLUMNS, columns, cargo->columns);
        TM_SET_SLICE(&m, TIMES, times, cargo->times);
        TM_SET_UINT(&m, QUEUE_US, queue_us, action->queue_us);
        TM_SET_UINT(&m, SERVICE_US, service_us, action->service_us);
        TM_SET_SLICE(&m, WORKER, worker, tm_slice(action->worker));
        break;
    case TM_ACTION_DISPATCH:
        m.command = TM_CMD_DISPATCH;
        fill_model(action, &m, model);
        TM_SET_UINT(&m, TTL_MS, ttl_ms, action->ttl_ms);
        TM_SET_UINT(&m, ATTEMPT, attempt, action->attempt);
        TM_SET_SLICE(&m, COLUMNS, columns, cargo->columns);
        break;
    case TM_ACTION_RELEASE:
        tm_cargo_destroy(cargo);
        return;
    case TM_ACTION_FORGET:
        // the last words to everybody still have to leave
        if (!relay->leaving)
            tm_port_forget(port_of(relay, action->peer), action->peer);
        tm_log(TM_LOG_INFO, "%s %" PRIx64 " %s",
               tm_port_is_worker(action->peer) ? "worker" : "client", action->peer, action->text);
        return;
    }
    send_to(relay, action->peer, &m, cargo ? &cargo->payload : NULL);
}

/* Carries out what the scheduler wants, and what follows from peers found gone on the way. */
static void execute_all(tm_relay_t *relay) {
    for (;;) {
        for (const tm_action_t *action; (action = tm_sched_next(relay->sched));)
            execute(relay, action);
        if (!relay->n_gone)
            return;
        tm_sched_gone(relay->sched, relay->now_us, relay->gone[--relay->n_gone]);
    }
}

/* ---- messages ---- */

/* Outside the scheduler: the answer to one request that never reached it. */
static void refuse_request(tm_relay_t *relay, tm_peer_t peer, tm_id_t id, tm_status_t code,
                           const char *text) {
    tm_action_t action = {.kind = TM_ACTION_ERROR, .peer = peer, .id = id, .code = code};
    snprintf(action.text, sizeof action.text, "%s", text);
    action.retry_after_ms = TM_RETRY_AFTER_MS;
    tm_sched_touch(relay->sched, relay->now_us, peer);
    execute(relay, &action);
}

/* About a message that cannot be taken: one ERROR, with the id of a REQUEST, else with id 0. */
static void complain(tm_relay_t *relay, tm_peer_t peer, const tm_message_t *m, tm_status_t code,
                     const char *text) {
    if (m->command == TM_CMD_REQUEST && code != TM_E_VERSION && m->id.origin && m->id.serial)
        refuse_request(relay, peer, m->id, code, text);
    else
        tm_sched_complain(relay->sched, relay->now_us, peer, code, text);
}

static void handle_request(tm_relay_t *relay, const tm_message_t *m, tm_inbound_t *in) {
    tm_cargo_t *cargo = NULL;
    uint64_t bytes = zmq_msg_size(&in->frame[2]);
    cargo = tm_cargo_new(&in->frame[2], m->columns, (tm_slice_t){NULL, 0});
    if (!cargo) {
        refuse_request(relay, in->peer, m->id, TM_E_BUSY, "the broker is out of memory");
        return;
    }
    tm_sched_request_t request = {
        .id = m->id,
        .model = m->model,
        .ttl_ms = m->set & TM_FIELD(TTL_MS) ? m->ttl_ms : TM_TTL_DEFAULT_MS,
        .priority = m->set & TM_FIELD(PRIORITY) ? m->priority : TM_PRIORITY_DEFAULT,
        .payload_bytes = bytes,
        .payload = cargo,
    };
    tm_sched_client_request(relay->sched, relay->now_us, in->peer, &request);
}

static void handle_status(tm_relay_t *relay, tm_peer_t peer) {
    tm_sched_touch(relay->sched, relay->now_us, peer);
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models = tm_sched_served_models(relay->sched, models, TM_MODELS_MAX);
    uint8_t buffer[TM_MODELS_FIELD_MAX];
    tm_slice_t field;
    tm_error_t error;
    if (tm_models_encode(models, n_models, buffer, &field, &error)) {
        tm_log(TM_LOG_ERROR, "report: %s", error.text);
        return;
    }
    const tm_stats_t *stats = tm_sched_stats(relay->sched);
    tm_message_t m = {.command = TM_CMD_REPORT};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice(MY_SOFTWARE));
    TM_SET_SLICE(&m, MODELS, models, field);
    TM_SET_UINT(&m, RUNNING, running, stats->running);
    TM_SET_UINT(&m, QUEUED, queued, stats->queued);
    TM_SET_UINT(&m, WORKERS, workers, stats->workers);
    TM_SET_UINT(&m, CLIENTS, clients, stats->clients);
    TM_SET_UINT(&m, ANSWERED, answered, stats->answered);
    TM_SET_UINT(&m, UPTIME_MS, uptime_ms, (relay->now_us - tm_sched_start_us(relay->sched)) / 1000);
    send_to(relay, peer, &m, NULL);
}

static void handle_client(tm_relay_t *relay, const tm_message_t *m, tm_inbound_t *in) {
    tm_sched_t *s = relay->sched;
    switch (m->command) {
    case TM_CMD_HELLO:
        tm_log(TM_LOG_INFO, "client %" PRIx64 " says HELLO: %.*s, %.*s", in->peer,
               (int)m->name.bytes, m->name.data, (int)m->software.bytes, m->software.data);
        tm_sched_client_hello(s, relay->now_us, in->peer, m->name, m->software);
        break;
    case TM_CMD_REQUEST:
        handle_request(relay, m, in);
        break;
    case TM_CMD_CANCEL:
        tm_sched_client_cancel(s, relay->now_us, in->peer, m->id);
        break;
    case TM_CMD_STATUS:
        handle_status(relay, in->peer);
        break;
    default:
        complain(relay, in->peer, m, TM_E_UNEXPECTED, "this command is not for a client to send");
    }
}

static void handle_register(tm_relay_t *relay, const tm_message_t *m, tm_inbound_t *in) {
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
    tm_error_t error;
    if (tm_models_decode(m->models, models, &n_models, &error)) {
        relay->malformed++;
        complain(relay, in->peer, m, TM_E_MALFORMED, error.text);
        return;
    }
    tm_log(TM_LOG_INFO,
           "worker %" PRIx64 " registers: %.*s, %.*s, %.*s, %" PRIu64 " slots, %s@%s%s", in->peer,
           (int)m->name.bytes, m->name.data, (int)m->software.bytes, m->software.data,
           (int)m->device.bytes, m->device.data, m->slots, n_models ? models[0].name : "",
           n_models ? models[0].version : "", n_models > 1 ? " and others" : "");
    tm_sched_worker_t worker = {
        .name = m->name,
        .software = m->software,
        .device = m->device,
        .backend = m->backend,
        .slots = m->slots,
        .max_payload = m->max_payload,
        .n_models = n_models,
        .models = models,
    };
    tm_sched_worker_register(relay->sched, relay->now_us, in->peer, &worker);
}

static void handle_worker(tm_relay_t *relay, const tm_message_t *m, tm_inbound_t *in) {
    tm_sched_t *s = relay->sched;
    tm_cargo_t *cargo;
    uint64_t bytes;
    switch (m->command) {
    case TM_CMD_REGISTER:
        handle_register(relay, m, in);
        break;
    case TM_CMD_HEARTBEAT:
        tm_sched_worker_heartbeat(s, relay->now_us, in->peer);
        break;
    case TM_CMD_CREDIT:
        tm_sched_worker_credit(s, relay->now_us, in->peer, m->credit);
        break;
    case TM_CMD_STARTED:
        tm_sched_worker_started(s, relay->now_us, in->peer, m->id);
        break;
    case TM_CMD_RESULT:
        bytes = zmq_msg_size(&in->frame[2]);
        cargo = tm_cargo_new(&in->frame[2], m->columns, m->times);
        if (cargo)
            tm_sched_worker_result(s, relay->now_us, in->peer, m->id, cargo, bytes);
        else
            tm_sched_worker_failed(s, relay->now_us, in->peer, m->id, TM_E_NO_MEMORY,
                                   tm_slice("the broker has no memory for the result"));
        break;
    case TM_CMD_FAILED:
        tm_sched_worker_failed(s, relay->now_us, in->peer, m->id, m->code, m->text);
        break;
    case TM_CMD_DRAIN:
        tm_sched_worker_drain(s, relay->now_us, in->peer);
        break;
    default:
        complain(relay, in->peer, m, TM_E_UNEXPECTED, "this command is not for a worker to send");
    }
}

/* A message that the codec refused. A broken RESULT is the end of its attempt all the same. */
static void handle_broken(tm_relay_t *relay, const tm_message_t *m, tm_peer_t peer,
                          const tm_error_t *error) {
    relay->malformed++;
    bool result = m->command == TM_CMD_RESULT && tm_port_is_worker(peer) &&
                  error->code != TM_E_VERSION && tm_sched_knows(relay->sched, peer);
    // no answer to those, lest two peers complain about each other for ever
    if (m->command == TM_CMD_BYE || m->command == TM_CMD_ERROR)
        tm_sched_touch(relay->sched, relay->now_us, peer);
    else
        complain(relay, peer, m, error->code, error->text);
    if (result) {
        execute_all(relay);
        tm_sched_worker_failed(relay->sched, relay->now_us, peer, m->id, TM_E_BACKEND,
                               tm_slice("its RESULT was malformed"));
    }
}

static void handle(tm_relay_t *relay, tm_inbound_t *in) {
    tm_frame_t frames[TM_FRAMES_MAX];
    for (uint32_t i = 0; i < in->n_frames && i < TM_FRAMES_MAX; i++)
        frames[i] = (tm_frame_t){zmq_msg_data(&in->frame[i]), zmq_msg_size(&in->frame[i])};
    tm_message_t m;
    tm_error_t error;
    bool worker = tm_port_is_worker(in->peer);
    relay->messages[worker]++;
    if (tm_message_decode_frames(frames, in->n_frames, &m, &error)) {
        handle_broken(relay, &m, in->peer, &error);
    } else if (m.command == TM_CMD_PING) {
        tm_sched_ping(relay->sched, relay->now_us, in->peer);
    } else if (m.command == TM_CMD_PONG) {
        tm_sched_pong(relay->sched, relay->now_us, in->peer);
    } else if (m.command == TM_CMD_BYE) {
        tm_sched_bye(relay->sched, relay->now_us, in->peer);
    } else if (m.command == TM_CMD_ERROR) {
        tm_sched_touch(relay->sched, relay->now_us, in->peer); // peers have none to send
    } else if (worker) {
        handle_worker(relay, &m, in);
    } else {
        handle_client(relay, &m, in);
    }
    execute_all(relay); // before the message goes: actions may borrow from it
}

static void take_burst(tm_relay_t *relay, tm_port_t *port) {
    tm_inbound_t in;
    relay->now_us = tm_clock_now_us();
    for (int i = 0; i < BURST && tm_port_receive(port, &in); i++) {
        handle(relay, &in);
        tm_inbound_close(&in);
    }
}

/* ---- the loop ---- */

static void serve_snapshot(tm_relay_t *relay) {
    tm_snapshot_t *snapshot = tm_exchange_serve(relay->exchange);
    if (!snapshot)
        return;
    const tm_sched_config_t *config = tm_sched_config(relay->sched);
    snapshot->uptime_ms = (relay->now_us - tm_sched_start_us(relay->sched)) / 1000;
    snapshot->epoch = config->epoch;
    snapshot->draining = tm_sched_draining(relay->sched);
    snapshot->messages[0] = relay->messages[0];
    snapshot->messages[1] = relay->messages[1];
    snapshot->malformed = relay->malformed;
    snapshot->queue_max_requests = config->queue_max_requests;
    snapshot->queue_max_bytes = config->queue_max_bytes;
    snapshot->stats = *tm_sched_stats(relay->sched);
    snapshot->n_models = tm_sched_view_models(relay->sched, snapshot->model, TM_SNAPSHOT_MODELS);
    snapshot->n_workers =
        tm_sched_view_workers(relay->sched, relay->now_us, snapshot->worker, TM_SNAPSHOT_WORKERS);
    tm_exchange_serve_end(relay->exchange);
}

/* True: leave at once. */
static bool take_signal(tm_relay_t *relay, int signal_fd) {
    char info[128]; // a struct signalfd_siginfo
    if (read(signal_fd, info, sizeof info) <= 0)
        return false;
    if (tm_sched_draining(relay->sched)) {
        tm_log(TM_LOG_WARN, "second signal: leaving at once");
        return true;
    }
    tm_log(TM_LOG_INFO, "draining: %" PRIu64 " requests in flight, at most %" PRIu64 " ms",
           tm_sched_stats(relay->sched)->in_flight, relay->options->drain_timeout_ms);
    relay->drain_until_us = relay->now_us + relay->options->drain_timeout_ms * 1000;
    tm_sched_drain(relay->sched, relay->now_us);
    execute_all(relay);
    return false;
}

static void flush(tm_relay_t *relay) {
    tm_port_t *const ports[] = {relay->clients, relay->workers};
    for (int i = 0; i < 2; i++)
        for (tm_peer_t peer; (peer = tm_port_flush(ports[i]));)
            note_gone(relay, peer);
    execute_all(relay);
}

static bool flush_pending(const tm_relay_t *relay) {
    return tm_port_pending(relay->clients) || tm_port_pending(relay->workers);
}

static long poll_timeout_ms(const tm_relay_t *relay, uint64_t tick_us) {
    uint64_t now_us = tm_clock_now_us();
    uint64_t until_us = relay->ticked_us + tick_us;
    uint64_t due_us = tm_sched_next_us(relay->sched);
    until_us = due_us < until_us ? due_us : until_us;
    if (flush_pending(relay) && now_us + FLUSH_MS * 1000 < until_us)
        return FLUSH_MS;
    return until_us > now_us ? (long)((until_us - now_us + 999) / 1000) : 0;
}

/* Last words, and a moment for slow readers to take theirs. */
static void leave(tm_relay_t *relay) {
    relay->now_us = tm_clock_now_us();
    relay->leaving = true;
    tm_sched_shutdown(relay->sched, relay->now_us);
    execute_all(relay);
    uint64_t until_us = relay->now_us + LINGER_MS * 1000;
    while (flush_pending(relay) && tm_clock_now_us() < until_us) {
        flush(relay);
        usleep(FLUSH_MS * 1000);
    }
}

tm_status_t tm_relay_run(tm_relay_t *relay, int signal_fd, tm_error_t *err) {
    enum { CLIENTS, WORKERS, SIGNALS, ASKED, ITEMS };
    zmq_pollitem_t items[ITEMS] = {
        [CLIENTS] = {tm_port_socket(relay->clients), 0, ZMQ_POLLIN, 0},
        [WORKERS] = {tm_port_socket(relay->workers), 0, ZMQ_POLLIN, 0},
        [SIGNALS] = {NULL, signal_fd, ZMQ_POLLIN, 0},
        [ASKED] = {NULL, relay->exchange ? tm_exchange_fd(relay->exchange) : -1, ZMQ_POLLIN, 0},
    };
    const uint64_t tick_us = relay->options->sched.heartbeat_ms * 1000 / TICKS_PER_BEAT;
    tm_status_t status = TM_OK;
    relay->ticked_us = tm_clock_now_us();
    for (;;) {
        int ready =
            zmq_poll(items, relay->exchange ? ITEMS : ASKED, poll_timeout_ms(relay, tick_us));
        if (ready < 0 && zmq_errno() != EINTR) {
            status = tm_error_set(err, TM_E_SYSTEM, "zmq_poll: %s", zmq_strerror(zmq_errno()));
            break;
        }
        relay->now_us = tm_clock_now_us();
        if (ready > 0) {
            if (items[WORKERS].revents)
                take_burst(relay, relay->workers);
            if (items[CLIENTS].revents)
                take_burst(relay, relay->clients);
            if (items[SIGNALS].revents && take_signal(relay, signal_fd))
                break;
            if (relay->exchange && items[ASKED].revents)
                serve_snapshot(relay);
        }
        if (flush_pending(relay))
            flush(relay);
        if (relay->now_us >= relay->ticked_us + tick_us ||
            relay->now_us >= tm_sched_next_us(relay->sched)) {
            relay->ticked_us = relay->now_us;
            tm_sched_tick(relay->sched, relay->now_us);
            execute_all(relay);
        }
        if (tm_sched_draining(relay->sched) &&
            (!tm_sched_stats(relay->sched)->in_flight || relay->now_us >= relay->drain_until_us))
            break;
    }
    leave(relay);
    return status;
}
