// SPDX-License-Identifier: Apache-2.0
#include "worker/session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/clock.h"
#include "worker/log.h"
#include "worker/signals.h"

#define LINGER_MS 2000        /* how long libzmq may still send the last results and BYE */
#define FLUSH_TIMEOUT_MS 5000 /* and how long it may take to accept them from us */
#define TICK_MAX_MS 1000u     /* least frequency of the loop, whatever the timers say */

typedef enum { RUNNING, DRAINING, LEAVING } phase_t;

typedef struct {
    tm_link_t *link;
    uint32_t granted;  /* credit that the broker has and has not used */
    uint32_t extra;    /* attempts held for it beyond its share, while its events run together */
    uint32_t together; /* events like its last one that do; 1: none */
    bool ended;        /* an attempt has, since credit was granted last */
    bool refusal_told;
} broker_t;

typedef struct {
    const tm_session_options_t *options;
    tm_slots_t *slots;
    void *context;
    tm_link_handler_t link_handler;
    tm_slots_handler_t slots_handler;
    broker_t broker[TM_SESSION_BROKERS_MAX];
    uint32_t n_brokers;
    phase_t phase;
    bool registered; /* some broker said WELCOME, once */
    uint64_t begin_ms, idle_since_ms, leave_ms;
} session_t;

/* ---- answers ---- */

static void send_failed(session_t *s, uint32_t link, const tm_id_t *id, const tm_error_t *error) {
    tm_message_t m = {.command = TM_CMD_FAILED, .id = *id};
    TM_SET_UINT(&m, CODE, code, error->code);
    TM_SET_SLICE(&m, TEXT, text, tm_slice(error->text));
    tm_link_send(s->broker[link].link, &m, NULL);
}

static void send_result(session_t *s, tm_attempt_t *attempt) {
    tm_link_t *link = s->broker[attempt->link].link;
    size_t bytes = zmq_msg_size(&attempt->answer);
    if (bytes > tm_link_max_payload(link)) {
        tm_error_set(&attempt->error, TM_E_TOO_LARGE,
                     "the answer takes %zu bytes, the broker's limit is %" PRIu64, bytes,
                     tm_link_max_payload(link));
        send_failed(s, attempt->link, &attempt->id, &attempt->error);
        return;
    }
    tm_message_t m = {.command = TM_CMD_RESULT, .id = attempt->id};
    TM_SET_SLICE(&m, COLUMNS, columns, attempt->answer_columns);
    TM_SET_SLICE(&m, TIMES, times, attempt->times);
    tm_link_send(link, &m, &attempt->answer);
}

/* Takes a waiting attempt back to its broker. */
static void hand_back(session_t *s, tm_attempt_t *attempt, tm_status_t code, const char *text) {
    tm_error_set(&attempt->error, code, "%s", text);
    send_failed(s, attempt->link, &attempt->id, &attempt->error);
    tm_attempt_destroy(&attempt);
}

/* ---- from the slots ---- */

static void on_starting(void *user, const tm_attempt_t *attempt) {
    session_t *s = user;
    tm_message_t m = {.command = TM_CMD_STARTED, .id = attempt->id};
    tm_link_send(s->broker[attempt->link].link, &m, NULL);
}

static void on_ended(void *user, tm_attempt_t *attempt) {
    session_t *s = user;
    const tm_link_t *link = s->broker[attempt->link].link;
    bool same_session = attempt->session == tm_link_session(link);
    bool same_run = attempt->id.origin == tm_link_epoch(link);
    tm_log(TM_LOG_DEBUG, "attempt %" PRIx64 "/%" PRIu64 " ended: %s%s", attempt->id.origin,
           attempt->id.serial,
           attempt->error.code == TM_OK ? "ok" : tm_status_name(attempt->error.code),
           attempt->revoked ? " (revoked)" : "");
    if (!attempt->revoked) {
        if (attempt->error.code == TM_OK && same_run) {
            send_result(s, attempt);
        } else if (attempt->error.code != TM_OK && same_session) {
            send_failed(s, attempt->link, &attempt->id, &attempt->error);
        }
    }
    s->broker[attempt->link].ended = true;
    tm_attempt_destroy(&attempt);
    s->idle_since_ms = tm_clock_ms();
}

/* ---- from the links ---- */

static void on_registered(void *user, uint32_t index) {
    session_t *s = user;
    const tm_link_t *link = s->broker[index].link;
    s->registered = true;
    s->broker[index].granted = s->broker[index].extra = 0;
    uint32_t old = tm_slots_cancel_old(s->slots, index, tm_link_epoch(link));
    if (old > 0) {
        tm_log(TM_LOG_INFO, "broker %s is a new run: cancelled %u attempts of the last one",
               tm_link_endpoint(link), old);
    }
    printf("registered broker=%s\n", tm_link_endpoint(link));
    fflush(stdout);
}

static void on_lost(void *user, uint32_t index) {
    session_t *s = user;
    s->broker[index].granted = 0;
    tm_attempt_t *attempt;
    while ((attempt = tm_slots_take(s->slots, index, NULL)) != NULL) {
        tm_attempt_destroy(&attempt);
    }
}

/* The broker names models as "name@version"; plain "name" is taken if only one version is here. */
static bool find_model(const tm_link_identity_t *identity, tm_slice_t wanted, uint32_t *out) {
    uint32_t found = 0;
    for (uint32_t i = 0; i < identity->n_models; i++) {
        char full[TM_MODEL_REF_MAX + 1];
        const tm_model_id_t *model = &identity->models[i];
        snprintf(full, sizeof full, "%s@%s", model->name, model->version);
        bool exact = strlen(full) == wanted.bytes && memcmp(full, wanted.data, wanted.bytes) == 0;
        bool by_name =
            strlen(model->name) == wanted.bytes && memcmp(full, wanted.data, wanted.bytes) == 0;
        if (exact || by_name) {
            *out = i;
            found++;
        }
        if (exact) {
            return true;
        }
    }
    return found == 1;
}

static void take_credit(broker_t *broker) {
    if (broker->granted > 0) {
        broker->granted--;
    }
}

static void on_dispatch(void *user, uint32_t index, const tm_message_t *m, zmq_msg_t *payload) {
    session_t *s = user;
    broker_t *broker = &s->broker[index];
    tm_error_t error;
    tm_attempt_t *attempt;
    uint32_t model;
    if (s->phase != RUNNING) {
        tm_error_set(&error, TM_E_DRAINING, "the worker is leaving");
        send_failed(s, index, &m->id, &error);
        return;
    }
    if (broker->granted == 0) {
        tm_error_set(&error, TM_E_BUSY, "dispatched without credit");
        send_failed(s, index, &m->id, &error);
        return;
    }
    take_credit(broker);
    if (!find_model(&s->options->identity, m->model, &model)) {
        tm_error_set(&error, TM_E_NO_MODEL, "this worker does not serve %.*s", (int)m->model.bytes,
                     m->model.data);
        send_failed(s, index, &m->id, &error);
        return;
    }
    if (tm_attempt_new(m->columns, payload, &attempt, &error) != TM_OK) {
        send_failed(s, index, &m->id, &error);
        return;
    }
    attempt->id = m->id;
    attempt->link = index;
    attempt->session = tm_link_session(broker->link);
    attempt->model = model;
    attempt->deadline_ms = tm_clock_ms() + m->ttl_ms;
    attempt->alone = m->attempt > 1;
    broker->together = tm_slots_together(s->slots, attempt);
    broker->extra = broker->together > 1 ? broker->extra : 0;
    tm_slots_submit(s->slots, attempt);
}

static void on_undecodable(void *user, uint32_t index, const tm_id_t *id, const tm_error_t *why) {
    session_t *s = user;
    take_credit(&s->broker[index]);
    send_failed(s, index, id, why);
}

static void on_revoke(void *user, uint32_t index, const tm_id_t *id) {
    session_t *s = user;
    tm_attempt_t *attempt = tm_slots_take(s->slots, index, id);
    if (attempt != NULL) {
        tm_attempt_destroy(&attempt);
    } else {
        tm_slots_cancel(s->slots, index, id);
    }
}

static uint32_t on_running(void *user, uint32_t index) {
    session_t *s = user;
    return tm_slots_running(s->slots, index);
}

/* ---- credit ---- */

static void adapt_extra(const session_t *s, broker_t *broker) {
    uint32_t slots = s->options->identity.slots;
    uint32_t most = (slots + 1) * (broker->together > 1 ? broker->together : 1);
    most = (most < TM_CREDIT_MAX ? most : TM_CREDIT_MAX) - (slots + 1);
    broker->extra = broker->extra < most ? broker->extra : most;
    if (broker->granted == 0 && broker->together > 1) {
        broker->extra = 2 * broker->extra + 1 < most ? 2 * broker->extra + 1 : most;
    } else if (broker->granted > 0 && broker->extra > 0) {
        broker->extra--;
    }
}

/* Grants each broker what is missing to its share. A share that has shrunk takes effect as attempts
 * end, for credit cannot be taken back. */
static void grant_credit(session_t *s) {
    uint32_t n_ready = 0, rank = 0;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        n_ready += tm_link_state(s->broker[i].link) == TM_LINK_READY ? 1 : 0;
    }
    uint32_t total = s->options->identity.slots + 1;
    for (uint32_t i = 0; i < s->n_brokers && s->phase == RUNNING; i++) {
        broker_t *broker = &s->broker[i];
        if (tm_link_state(broker->link) != TM_LINK_READY) {
            continue;
        }
        uint32_t share = total / n_ready + (rank++ < total % n_ready ? 1 : 0);
        share = share > 0 ? share : 1;
        if (broker->ended) {
            broker->ended = false;
            adapt_extra(s, broker);
        }
        share += broker->granted == 0 ? broker->extra : 0;
        uint32_t held =
            broker->granted + tm_slots_waiting(s->slots, i) + tm_slots_running(s->slots, i);
        if (held < share) {
            tm_message_t m = {.command = TM_CMD_CREDIT};
            TM_SET_UINT(&m, CREDIT, credit, share - held);
            broker->granted += share - held;
            tm_link_send(broker->link, &m, NULL);
        }
    }
}

/* ---- drain ---- */

static void begin_drain(session_t *s, const char *why) {
    tm_log(TM_LOG_INFO, "%s: draining, %u attempts running", why,
           tm_slots_running(s->slots, TM_ANY_LINK));
    s->phase = DRAINING;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        tm_message_t m = {.command = TM_CMD_DRAIN};
        TM_SET_SLICE(&m, TEXT, text, tm_slice(why));
        tm_link_send(s->broker[i].link, &m, NULL);
    }
    tm_attempt_t *attempt;
    while ((attempt = tm_slots_take(s->slots, TM_ANY_LINK, NULL)) != NULL) {
        hand_back(s, attempt, TM_E_DRAINING, "the worker is leaving");
    }
}

/* One step of leaving; true when done. */
static bool step_drain(session_t *s, uint64_t now_ms) {
    /* a broker that is away now gets nothing more from us; without any, nobody waits for results */
    uint32_t n_ready = 0;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        tm_link_state_t state = tm_link_state(s->broker[i].link);
        if (state == TM_LINK_WAITING || state == TM_LINK_CONNECTING) {
            tm_link_close(s->broker[i].link, 0);
        }
        n_ready += state == TM_LINK_READY ? 1 : 0;
    }
    if (n_ready == 0) {
        tm_slots_cancel(s->slots, TM_ANY_LINK, NULL);
    }
    if (s->phase == DRAINING && tm_slots_running(s->slots, TM_ANY_LINK) == 0) {
        s->phase = LEAVING;
        s->leave_ms = now_ms + FLUSH_TIMEOUT_MS;
        for (uint32_t i = 0; i < s->n_brokers; i++) {
            tm_message_t bye = {.command = TM_CMD_BYE};
            tm_link_send(s->broker[i].link, &bye, NULL);
        }
    }
    if (s->phase != LEAVING) {
        return false;
    }
    bool done = true;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        tm_link_t *link = s->broker[i].link;
        if (tm_link_state(link) == TM_LINK_READY) {
            if (tm_link_flushed(link) || now_ms >= s->leave_ms) {
                tm_link_close(link, LINGER_MS);
            } else {
                done = false;
            }
        }
    }
    return done;
}

static void on_signal(session_t *s) {
    const char *name;
    while ((name = tm_signals_next()) != NULL) {
        if (s->phase == RUNNING) {
            begin_drain(s, name);
        }
    }
}

/* ---- watch ---- */

static void watch(session_t *s, uint64_t now_ms) {
    uint64_t since_ms = 0;
    const tm_attempt_t *oldest = tm_slots_oldest(s->slots, &since_ms);
    if (oldest == NULL || now_ms - since_ms < s->options->attempt_timeout_ms) {
        return;
    }
    /* a hung kernel or library call cannot be stopped from inside; a new process can start afresh.
     * The brokers notice by the missing heartbeat */
    tm_log(TM_LOG_ERROR,
           "attempt %" PRIx64 "/%" PRIu64 " has been running for %" PRIu64
           " ms, beyond --attempt-timeout: the back end hangs; leaving, start the worker again",
           oldest->id.origin, oldest->id.serial, now_ms - since_ms);
    _exit(TM_EXIT_HUNG);
}

/* True: nothing is left to hope for; the reason is on stderr. */
static bool hopeless(session_t *s, uint64_t now_ms) {
    uint32_t refused = 0;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        refused += tm_link_state(s->broker[i].link) == TM_LINK_REFUSED ? 1 : 0;
    }
    bool all = refused == s->n_brokers;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        broker_t *broker = &s->broker[i];
        if (tm_link_state(broker->link) != TM_LINK_REFUSED || broker->refusal_told) {
            continue;
        }
        broker->refusal_told = true;
        if (all) { /* whatever the log is set to */
            fprintf(stderr, "trackmill-worker: %s\n", tm_link_refusal(broker->link));
        } else {
            tm_log(TM_LOG_ERROR, "%s; going on with the others", tm_link_refusal(broker->link));
        }
    }
    if (all) {
        return true;
    }
    uint64_t limit_ms = s->options->connect_timeout_ms;
    if (!s->registered && limit_ms > 0 && now_ms - s->begin_ms >= limit_ms) {
        fprintf(stderr,
                "trackmill-worker: no broker answered within %" PRIu64 " s (%s%s): is it "
                "running, and is --broker its worker port?\n",
                limit_ms / 1000u, s->options->broker[0], s->n_brokers > 1 ? ", …" : "");
        return true;
    }
    return false;
}

/* ---- the loop ---- */

static void earlier(uint64_t *due_ms, uint64_t when_ms) {
    if (when_ms < *due_ms) {
        *due_ms = when_ms;
    }
}

static uint64_t next_due_ms(const session_t *s, uint64_t now_ms) {
    uint64_t due_ms = now_ms + TICK_MAX_MS, since_ms;
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        earlier(&due_ms, tm_link_due_ms(s->broker[i].link));
    }
    if (tm_slots_oldest(s->slots, &since_ms) != NULL) {
        earlier(&due_ms, since_ms + s->options->attempt_timeout_ms);
    }
    if (s->options->exit_when_idle_ms > 0 && s->phase == RUNNING) {
        earlier(&due_ms, s->idle_since_ms + s->options->exit_when_idle_ms);
    }
    if (!s->registered && s->options->connect_timeout_ms > 0) {
        earlier(&due_ms, s->begin_ms + s->options->connect_timeout_ms);
    }
    return due_ms > now_ms ? due_ms : now_ms;
}

static int wait_for_something(session_t *s) {
    zmq_pollitem_t item[TM_SESSION_BROKERS_MAX + 2];
    int n = 0;
    item[n++] = (zmq_pollitem_t){.fd = tm_signals_fd(), .events = ZMQ_POLLIN};
    item[n++] = (zmq_pollitem_t){.fd = tm_slots_fd(s->slots), .events = ZMQ_POLLIN};
    for (uint32_t i = 0; i < s->n_brokers; i++) {
        tm_link_t *link = s->broker[i].link;
        if (tm_link_socket(link) != NULL) {
            item[n++] =
                (zmq_pollitem_t){.socket = tm_link_socket(link), .events = tm_link_events(link)};
        }
    }
    uint64_t now_ms = tm_clock_ms();
    if (zmq_poll(item, n, (long)(next_due_ms(s, now_ms) - now_ms)) < 0 && errno != EINTR) {
        tm_log(TM_LOG_ERROR, "cannot wait for messages: %s", zmq_strerror(errno));
        return -1;
    }
    return 0;
}

static int run(session_t *s) {
    for (;;) {
        if (wait_for_something(s) != 0) {
            return TM_EXIT_FAILURE;
        }
        uint64_t now_ms = tm_clock_ms();
        on_signal(s);
        for (uint32_t i = 0; i < s->n_brokers; i++) {
            tm_link_receive(s->broker[i].link, now_ms);
        }
        tm_slots_pump(s->slots, now_ms, &s->slots_handler);
        grant_credit(s);
        for (uint32_t i = 0; i < s->n_brokers; i++) {
            tm_link_tick(s->broker[i].link, now_ms);
        }
        watch(s, now_ms);
        if (s->phase != RUNNING) {
            if (step_drain(s, now_ms)) {
                return TM_EXIT_OK;
            }
            continue;
        }
        if (hopeless(s, now_ms)) {
            return TM_EXIT_FAILURE;
        }
        bool busy = tm_slots_running(s->slots, TM_ANY_LINK) > 0;
        if (busy) {
            s->idle_since_ms = now_ms;
        } else if (s->options->exit_when_idle_ms > 0 &&
                   now_ms - s->idle_since_ms >= s->options->exit_when_idle_ms) {
            begin_drain(s, "idle for as long as --exit-when-idle allows");
        }
    }
}

int tm_session_run(const tm_session_options_t *options, tm_slots_t *slots) {
    session_t s = {.options = options, .slots = slots};
    s.link_handler = (tm_link_handler_t){
        .user = &s,
        .registered = on_registered,
        .lost = on_lost,
        .dispatch = on_dispatch,
        .undecodable = on_undecodable,
        .revoke = on_revoke,
        .running = on_running,
    };
    s.slots_handler = (tm_slots_handler_t){.user = &s, .starting = on_starting, .ended = on_ended};
    s.begin_ms = s.idle_since_ms = tm_clock_ms();
    int code = TM_EXIT_FAILURE;
    tm_error_t error;

    s.context = zmq_ctx_new();
    if (s.context == NULL) {
        fprintf(stderr, "trackmill-worker: cannot start: %s\n", zmq_strerror(errno));
        goto done;
    }
    for (uint32_t i = 0; i < options->n_brokers; i++) {
        if (tm_link_new(s.context, i, options->broker[i], &options->identity, &s.link_handler,
                        &s.broker[i].link, &error) != TM_OK) {
            fprintf(stderr, "trackmill-worker: %s\n", error.text);
            goto done;
        }
        s.n_brokers = i + 1;
        tm_log(TM_LOG_INFO, "broker %s: registering", options->broker[i]);
    }
    code = run(&s);
done:
    for (uint32_t i = 0; i < s.n_brokers; i++) {
        tm_link_destroy(&s.broker[i].link);
    }
    if (s.context != NULL) {
        zmq_ctx_term(s.context); /* waits for LINGER_MS at most */
    }
    return code;
}
