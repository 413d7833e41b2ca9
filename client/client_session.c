// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "client/client_answer.h"
#include "client/client_clock.h"
#include "client/client_internal.h"

/* a broker that forgets us so often in a row, without an answer between, is not a broker */
#define UNKNOWNS_MAX 3
#define BURST 100 /* messages taken in before the timers get their turn */
#define BUSY_JITTER_MAX_MS 10000
#define BUSY_DOUBLINGS_MAX 6
#define TEXT_BYTES 200
/* for "%.*s" */
#define TEXT_ARGS(m) (int)(m)->text.bytes, (m)->text.bytes ? (m)->text.data : ""

static uint64_t ms(uint64_t value) {
    return value * TM_US_PER_MS;
}

static bool is_open(const tm_session_t *session) {
    return session->link.socket != NULL;
}

static tm_status_t say(tm_client_t *client, tm_session_t *session, tm_command_t command,
                       uint64_t serial, uint64_t now_us, tm_error_t *err) {
    tm_message_t message = {.command = command};
    if (command == TM_CMD_HELLO)
        message = tm_client_hello(client);
    else if (serial)
        message.id = (tm_id_t){.origin = client->origin, .serial = serial};
    session->spoke_us = now_us;
    return tm_link_send(&session->link, &message, NULL, NULL, err);
}

/* ---- beginnings and ends ---- */

void tm_session_start(tm_client_t *client, tm_session_t *session, uint64_t at_us) {
    tm_link_close(&session->link, 0);
    *session = (tm_session_t){.state = TM_SESSION_DELAY, .timer_us = at_us};
    session->endpoint = tm_brokers_endpoint(client->brokers, tm_brokers_current(client->brokers));
    TAILQ_INIT(&session->sent);
}

/* Everything sent goes back to the queues, the oldest to their heads. */
static void requeue_all(tm_client_t *client, tm_session_t *session) {
    tm_request_t *request;
    while ((request = TAILQ_LAST(&session->sent, tm_request_list)))
        tm_client_requeue(client, request);
}

static void close_session(tm_client_t *client, tm_session_t *session, int linger_ms) {
    requeue_all(client, session);
    tm_link_close(&session->link, linger_ms);
    session->state = TM_SESSION_NONE;
}

void tm_session_end(tm_client_t *client, tm_session_t *session) {
    bool known = session->state == TM_SESSION_UP || session->state == TM_SESSION_LEAVING;
    if (known)
        say(client, session, TM_CMD_BYE, 0, tm_client_now_us(), NULL);
    close_session(client, session, known ? TM_CLIENT_LINGER_MS : 0);
}

/* The broker is of no use: on to the next one. */
static void fail(tm_client_t *client, tm_session_t *session, tm_status_t code, const char *words) {
    bool leaving = session->state == TM_SESSION_LEAVING;
    close_session(client, session, 0);
    if (leaving)
        return;
    uint32_t wait_ms = tm_brokers_fail(client->brokers, code, "%s", words);
    tm_session_start(client, session, tm_client_now_us() + ms(wait_ms));
}

/* The broker drains: it keeps what it holds, the next broker gets the rest. */
static void leave(tm_client_t *client, tm_session_t *session) {
    tm_session_t *next = session, *other = &client->sessions[1 - client->active];
    if (session->state == TM_SESSION_LEAVING)
        return;
    if (session->n_sent == 0) {
        tm_session_end(client, session);
    } else if (other->state == TM_SESSION_LEAVING) {
        /* Two brokers drain at a time: the second one only gets nothing new until either is done,
         * then this is called again. */
        session->allowed = 0;
        return;
    } else {
        session->state = TM_SESSION_LEAVING;
        client->active = 1 - client->active;
        next = other;
    }
    uint32_t wait_ms = tm_brokers_fail(client->brokers, TM_E_DRAINING, "is shutting down");
    tm_session_start(client, next, tm_client_now_us() + ms(wait_ms));
}

static void hello(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    tm_error_t error;
    session->state = TM_SESSION_HELLO;
    session->timer_us = now_us + ms(client->hello_ms);
    if (say(client, session, TM_CMD_HELLO, 0, now_us, &error))
        fail(client, session, TM_E_SYSTEM, error.text);
}

static void connect_now(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    tm_error_t error;
    tm_brokers_connecting(client->brokers);
    if (tm_link_open(&session->link, client->context, session->endpoint, &error)) {
        fail(client, session, TM_E_SYSTEM, error.text);
        return;
    }
    hello(client, session, now_us);
}

/* ---- time ---- */

static uint64_t silence_limit_us(const tm_session_t *session) {
    return ms((uint64_t)session->heartbeat_ms * session->liveness);
}

static uint64_t dead_at_us(const tm_session_t *session) {
    uint64_t from = session->loaned_us > session->heard_us ? session->loaned_us : session->heard_us;
    uint64_t at = from + silence_limit_us(session);
    uint64_t patience = silence_limit_us(session);
    if (patience < ms(TM_CLIENT_STALL_MAX_MS))
        patience = ms(TM_CLIENT_STALL_MAX_MS);
    uint64_t latest = session->heard_us + patience;
    return at < latest ? at : latest;
}

static uint64_t ping_at_us(const tm_session_t *session) {
    uint64_t quiet = session->heard_us < session->spoke_us ? session->heard_us : session->spoke_us;
    uint64_t since = quiet > session->pinged_us ? quiet : session->pinged_us;
    return since + ms(session->heartbeat_ms);
}

static void keep_alive(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    if (atomic_load(&client->loans) > 0)
        session->loaned_us = now_us;
    if (now_us >= dead_at_us(session)) {
        char words[TEXT_BYTES];
        snprintf(words, sizeof words, "fell silent for %" PRIu64 " ms",
                 (now_us - session->heard_us) / TM_US_PER_MS);
        fail(client, session, TM_E_NO_BROKER, words);
    } else if (now_us >= ping_at_us(session)) {
        session->pinged_us = now_us;
        say(client, session, TM_CMD_PING, 0, now_us, NULL);
    }
}

void tm_session_step(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    char words[TEXT_BYTES];
    switch (session->state) {
    case TM_SESSION_NONE:
        return;
    case TM_SESSION_DELAY:
        if (now_us >= session->timer_us)
            connect_now(client, session, now_us);
        return;
    case TM_SESSION_HELLO:
        if (now_us < session->timer_us)
            return;
        snprintf(words, sizeof words, "%s within %" PRIu32 " ms",
                 session->accepted ? "accepted the connection but said no WELCOME"
                                   : "accepted no connection",
                 client->hello_ms);
        fail(client, session, TM_E_NO_BROKER, words);
        return;
    case TM_SESSION_LEAVING:
        if (session->n_sent == 0)
            tm_session_end(client, session);
        else
            keep_alive(client, session, now_us);
        return;
    case TM_SESSION_UP:
        if (session->allowed == 0)
            leave(client, session);
        if (session->state == TM_SESSION_UP)
            keep_alive(client, session, now_us);
        return;
    }
}

uint64_t tm_session_next_us(const tm_client_t *client, const tm_session_t *session,
                            uint64_t now_us) {
    uint64_t dead, next;
    switch (session->state) {
    case TM_SESSION_NONE:
        return UINT64_MAX;
    case TM_SESSION_DELAY:
    case TM_SESSION_HELLO:
        return session->timer_us;
    case TM_SESSION_LEAVING:
    case TM_SESSION_UP:
        dead = dead_at_us(session), next = ping_at_us(session);
        next = dead < next ? dead : next;
        /* requests wait for the end of the pause */
        if (session->pause_us > now_us && session->pause_us < next) {
            for (int i = 0; i < TM_PRIORITIES; i++) {
                if (!TAILQ_EMPTY(&client->pending[i]))
                    return session->pause_us;
            }
        }
        return next;
    }
    return UINT64_MAX;
}

/* ---- sending ---- */

bool tm_session_ready(const tm_session_t *session, uint64_t now_us) {
    return session->state == TM_SESSION_UP && session->n_sent < session->allowed &&
           now_us >= session->pause_us;
}

void tm_session_send(tm_client_t *client, tm_session_t *session, tm_request_t *request,
                     uint64_t now_us) {
    if (request->payload->bytes > session->max_payload) {
        tm_client_fail(client, request, TM_E_TOO_LARGE,
                       "the event is %zu bytes, %s takes at most %" PRIu64
                       ": use smaller column types or drop columns that the model does not read",
                       request->payload->bytes, session->endpoint, session->max_payload);
        return;
    }
    tm_message_t message = {.command = TM_CMD_REQUEST};
    message.id = (tm_id_t){.origin = client->origin, .serial = request->serial};
    tm_slice_t columns = {(const char *)request->columns, request->columns_bytes};
    TM_SET_SLICE(&message, COLUMNS, columns, columns);
    if (request->model[0])
        TM_SET_SLICE(&message, MODEL, model, tm_slice(request->model));
    /* rounded up: a verdict before the deadline would be none */
    uint64_t left_us = request->deadline_us - now_us;
    TM_SET_UINT(&message, TTL_MS, ttl_ms, (left_us + TM_US_PER_MS - 1) / TM_US_PER_MS);
    TM_SET_UINT(&message, PRIORITY, priority, request->priority);

    tm_error_t error;
    zmq_msg_t payload;
    size_t bytes = 0;
    tm_status_t status = tm_blob_message(request->payload, &client->loans, &payload, &error);
    if (!status) {
        status = tm_link_send(&session->link, &message, &payload, &bytes, &error);
        if (status == TM_E_SYSTEM) { /* the connection, not the request: it stays pending */
            fail(client, session, TM_E_SYSTEM, error.text);
            return;
        }
    }
    if (status) {
        tm_client_fail(client, request, status, "%s", error.text);
        return;
    }
    TAILQ_REMOVE(&client->pending[request->priority], request, link);
    TAILQ_INSERT_TAIL(&session->sent, request, link);
    session->n_sent++;
    session->spoke_us = now_us;
    session->loaned_us = now_us;
    request->session = session;
    request->sends++;
    request->busy = false;
    request->answer->sent_bytes = bytes;
}

void tm_session_cancel(tm_client_t *client, tm_session_t *session, const tm_request_t *request) {
    if (is_open(session))
        say(client, session, TM_CMD_CANCEL, request->serial, tm_client_now_us(), NULL);
}

/* ---- receiving ---- */

static void on_welcome(tm_client_t *client, tm_session_t *session, const tm_message_t *m) {
    if (session->state != TM_SESSION_HELLO)
        return;
    session->state = TM_SESSION_UP;
    session->heartbeat_ms = m->heartbeat_ms && m->heartbeat_ms <= TM_TTL_MAX_MS
                                ? (uint32_t)m->heartbeat_ms
                                : TM_HEARTBEAT_MS;
    session->liveness =
        m->liveness && m->liveness <= UINT16_MAX ? (uint32_t)m->liveness : TM_LIVENESS;
    /* nought would mean that we may never ask */
    session->window = m->window == 0           ? 1
                      : m->window > UINT32_MAX ? UINT32_MAX
                                               : (uint32_t)m->window;
    session->allowed = session->window;
    session->max_payload = m->max_payload ? m->max_payload : TM_PAYLOAD_MAX_BYTES;
    session->pause_us = 0;
    tm_brokers_welcome(client->brokers);
}

static void on_forgotten(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    if (session->state == TM_SESSION_HELLO)
        return; /* about something sent before the HELLO that is under way */
    if (session->state == TM_SESSION_LEAVING || ++session->unknowns > UNKNOWNS_MAX) {
        fail(client, session, TM_E_UNKNOWN_PEER, "keeps forgetting this client");
        return;
    }
    requeue_all(client, session);
    hello(client, session, now_us);
}

static void on_busy(tm_client_t *client, tm_session_t *session, tm_request_t *request,
                    const tm_message_t *m, uint64_t now_us) {
    uint64_t hint_ms = m->set & TM_FIELD(RETRY_AFTER_MS) ? m->retry_after_ms : TM_RETRY_AFTER_MS;
    uint64_t left_ms =
        request->deadline_us > now_us ? (request->deadline_us - now_us) / TM_US_PER_MS : 0;
    if (hint_ms >= left_ms) {
        tm_client_fail(client, request, TM_E_BUSY,
                       "%s is busy%s%.*s, and its deadline of %" PRIu32
                       " ms leaves no time to ask again in %" PRIu64 " ms",
                       session->endpoint, m->text.bytes ? ": " : "", TEXT_ARGS(m), request->ttl_ms,
                       hint_ms);
        return;
    }
    tm_client_requeue(client, request);
    request->busy = true;
    if (session->allowed > 0)
        session->allowed = session->n_sent > 1 ? session->n_sent : 1;
    if (session->pause_us > now_us)
        return; /* one pause for all that were turned away together */
    uint32_t doublings =
        session->busy_in_a_row < BUSY_DOUBLINGS_MAX ? session->busy_in_a_row : BUSY_DOUBLINGS_MAX;
    session->busy_in_a_row++;
    uint64_t jitter_ms = (hint_ms ? hint_ms : 1) << doublings;
    if (jitter_ms > BUSY_JITTER_MAX_MS)
        jitter_ms = BUSY_JITTER_MAX_MS;
    if (jitter_ms > (left_ms - hint_ms) / 2)
        jitter_ms = (left_ms - hint_ms) / 2;
    uint64_t wait_us = ms(hint_ms) + tm_random_upto(&client->random, (uint32_t)ms(jitter_ms));
    session->pause_us = now_us + wait_us;
}

static void answered(tm_client_t *client, tm_session_t *session) {
    session->busy_in_a_row = session->unknowns = 0;
    if (session->allowed > 0 && session->allowed < session->window)
        session->allowed++;
    if (session == &client->sessions[client->active])
        tm_brokers_proved(client->brokers);
}

static void on_session_error(tm_client_t *client, tm_session_t *session, tm_status_t code,
                             const tm_message_t *m) {
    char words[TEXT_BYTES];
    if (code == TM_E_DRAINING) {
        leave(client, session);
        return;
    }
    if (code == TM_E_VERSION && m->set & TM_FIELD(PROTOCOL))
        snprintf(words, sizeof words,
                 "speaks protocol version %" PRIu64 ", this client speaks version %d", m->protocol,
                 TM_PROTOCOL_VERSION);
    else
        snprintf(words, sizeof words, "said %s%s%.*s", tm_status_name(code),
                 m->text.bytes ? ": " : "", TEXT_ARGS(m));
    if (m->set & TM_FIELD(RETRY_AFTER_MS) && session->state != TM_SESSION_LEAVING)
        tm_brokers_hint(client->brokers, (uint32_t)m->retry_after_ms);
    fail(client, session, code, words);
}

/* The request without an answer that the message is about, or NULL. */
static tm_request_t *request_of(tm_client_t *client, const tm_message_t *m) {
    return m->id.origin == client->origin ? tm_client_find(client, m->id.serial) : NULL;
}

static void on_error(tm_client_t *client, tm_session_t *session, const tm_message_t *m,
                     size_t bytes, uint64_t now_us) {
    tm_status_t code = tm_answer_error_code(m);
    if (code == TM_E_UNKNOWN_PEER) {
        on_forgotten(client, session, now_us);
        return;
    }
    if (code == TM_E_VERSION || (m->id.origin == 0 && m->id.serial == 0)) {
        on_session_error(client, session, code, m);
        return;
    }
    tm_request_t *request = request_of(client, m);
    if (!request || request->session != session) {
        /* a late one, about a request that has its answer or went elsewhere */
    } else if (code == TM_E_BUSY) {
        on_busy(client, session, request, m, now_us);
    } else if (code == TM_E_DRAINING) {
        tm_client_requeue(client, request);
        leave(client, session);
    } else {
        answered(client, session);
        request->answer->received_bytes = bytes;
        if (m->text.bytes)
            tm_client_fail(client, request, code, "%.*s", TEXT_ARGS(m));
        else
            tm_client_fail(client, request, code, "%s said %s", session->endpoint,
                           tm_status_name(code));
    }
}

static void on_answer(tm_client_t *client, tm_session_t *session, const tm_message_t *m,
                      const tm_received_t *received) {
    tm_request_t *request = request_of(client, m);
    if (!request)
        return; /* late: it has its answer */
    tm_error_t error;
    tm_status_t status = tm_answer_decode(m, received->columns, received->columns_bytes,
                                          request->n_points, request->answer, &error);
    request->answer->received_bytes = received->bytes;
    answered(client, session);
    if (status)
        tm_client_fail(client, request, status, "the answer of %s is unusable: %s",
                       session->endpoint, error.text);
    else
        tm_client_complete(client, request);
}

/* SPEC.md, "Malformed messages": it ends its request if it was to end it, else it is ignored. */
static void on_unreadable(tm_client_t *client, tm_session_t *session, const tm_message_t *m,
                          const tm_error_t *error) {
    bool terminal = m->command == TM_CMD_ANSWER || m->command == TM_CMD_ERROR;
    tm_request_t *request = terminal ? request_of(client, m) : NULL;
    if (request)
        tm_client_fail(client, request, error->code, "the answer of %s is unusable: %s",
                       session->endpoint, error->text);
}

/* May close the link. */
static void on_message(tm_client_t *client, tm_session_t *session, tm_received_t *received,
                       uint64_t now_us) {
    tm_message_t m;
    tm_error_t error;
    tm_status_t status = tm_received_decode(received, &m, &error);
    if (status == TM_E_VERSION) {
        fail(client, session, status, error.text);
        return;
    }
    if (status) {
        on_unreadable(client, session, &m, &error);
        return;
    }
    switch (m.command) {
    case TM_CMD_WELCOME:
        on_welcome(client, session, &m);
        return;
    case TM_CMD_PING:
        say(client, session, TM_CMD_PONG, 0, now_us, NULL);
        return;
    case TM_CMD_BYE:
        fail(client, session, TM_E_NO_BROKER, "said BYE");
        return;
    case TM_CMD_ERROR:
        on_error(client, session, &m, received->bytes, now_us);
        return;
    case TM_CMD_ANSWER:
        on_answer(client, session, &m, received);
        return;
    default: /* PONG said all it has to say by arriving; others are not for clients */
        return;
    }
}

void tm_session_receive(tm_client_t *client, tm_session_t *session, uint64_t now_us) {
    if (!is_open(session))
        return;
    /* Asked before the messages are taken in: what the broker said before it went is not lost. */
    unsigned events = tm_link_events(&session->link);
    if (events & TM_LINK_ACCEPTED) {
        session->accepted = true;
        if (session->state == TM_SESSION_HELLO)
            tm_brokers_note(client->brokers,
                            "accepted the connection but has not said WELCOME yet");
    }
    if (events & TM_LINK_LOST)
        session->lost = true;
    void *socket = session->link.socket;
    tm_received_t received;
    for (int i = 0; i < BURST; i++) {
        if (!tm_link_receive(&session->link, &received)) {
            if (session->lost)
                fail(client, session, TM_E_NO_BROKER,
                     session->accepted ? "closed the connection" : "refuses connections");
            return;
        }
        session->heard_us = now_us;
        on_message(client, session, &received, now_us);
        tm_received_clear(&received);
        if (session->link.socket != socket)
            return;
    }
}
