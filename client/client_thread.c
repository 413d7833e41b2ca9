// SPDX-License-Identifier: Apache-2.0
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client/client_clock.h"
#include "client/client_internal.h"

/* Deadlines are looked through no more often than this: the queues can be long. */
#define DEADLINE_STEP_US 5000

/* ---- one request ---- */

/* Out of the list that it is in. */
static void detach(tm_client_t *client, tm_request_t *request) {
    if (request->session) {
        TAILQ_REMOVE(&request->session->sent, request, link);
        request->session->n_sent--;
        request->session = NULL;
    } else {
        TAILQ_REMOVE(&client->pending[request->priority], request, link);
    }
}

void tm_client_requeue(tm_client_t *client, tm_request_t *request) {
    tm_request_list_t *pending = &client->pending[request->priority];
    detach(client, request);
    /* only what was requeued before it is older: the walk is no longer than a window */
    tm_request_t *younger = TAILQ_FIRST(pending);
    while (younger && younger->serial < request->serial)
        younger = TAILQ_NEXT(younger, link);
    if (younger)
        TAILQ_INSERT_BEFORE(younger, request, link);
    else
        TAILQ_INSERT_TAIL(pending, request, link);
}

tm_request_t *tm_client_find(tm_client_t *client, uint64_t serial) {
    pthread_mutex_lock(&client->lock);
    tm_request_t *request = tm_request_table_find(&client->table, serial);
    bool open = request && !request->answered;
    pthread_mutex_unlock(&client->lock);
    return open ? request : NULL;
}

/* eventfd's counter is only ever 0 or 1 here, so that write and read cannot block */
static void signal_fd(int fd) {
    uint64_t one = 1;
    ssize_t written = write(fd, &one, sizeof one);
    (void)written;
}

static uint64_t answer_bytes(const tm_answer_t *answer) {
    const tm_tracks_t *tracks = &answer->tracks;
    if (!tracks->offsets)
        return 0;
    return sizeof *tracks->indices * (uint64_t)tracks->offsets[tracks->n_tracks] +
           (sizeof *tracks->offsets + sizeof *tracks->scores) * (uint64_t)tracks->n_tracks;
}

void tm_client_complete(tm_client_t *client, tm_request_t *request) {
    tm_answer_t *answer = request->answer;
    detach(client, request);
    tm_request_drop_event(request);
    answer->id = request->serial;
    answer->total_us = tm_client_now_us() - request->submit_us;

    pthread_mutex_lock(&client->lock);
    if (request->cancelled) {
        /* whatever came of it meanwhile: its caller was told that it is cancelled */
        TAILQ_REMOVE(&client->cancels, request, cancel_link);
        tm_tracks_clear(&answer->tracks);
        answer->status =
            tm_error_set(&answer->error, TM_E_CANCELLED, "cancelled by tm_client_cancel");
    }
    client->held_bytes -= request->held_bytes;
    request->held_bytes = answer_bytes(answer);
    client->held_bytes += request->held_bytes;
    request->answered = true;
    if (TAILQ_EMPTY(&client->done))
        signal_fd(client->done_fd);
    TAILQ_INSERT_TAIL(&client->done, request, done_link);
    pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
}

void tm_client_fail(tm_client_t *client, tm_request_t *request, tm_status_t code,
                    const char *format, ...) {
    char text[TM_ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    request->answer->status = tm_error_set(&request->answer->error, code, "%s", text);
    tm_client_complete(client, request);
}

/* ---- queues ---- */

static tm_session_t *active_session(tm_client_t *client) {
    return &client->sessions[client->active];
}

/* Takes over what callers have queued. *cancelled: a request to end, or NULL. false: the client
 * stops. */
static bool take_inbox(tm_client_t *client, tm_request_t **cancelled) {
    uint64_t drained;
    pthread_mutex_lock(&client->lock);
    if (client->woken && read(client->wake_fd, &drained, sizeof drained) > 0)
        client->woken = false;
    tm_request_t *request;
    while ((request = TAILQ_FIRST(&client->inbox))) {
        TAILQ_REMOVE(&client->inbox, request, link);
        TAILQ_INSERT_TAIL(&client->pending[request->priority], request, link);
        if (request->deadline_us < client->next_deadline_us)
            client->next_deadline_us = request->deadline_us;
    }
    *cancelled = TAILQ_FIRST(&client->cancels);
    bool stop = client->stop;
    pthread_mutex_unlock(&client->lock);
    return !stop;
}

/* false: the client stops. */
static bool take_orders(tm_client_t *client) {
    tm_request_t *cancelled;
    bool go;
    while ((go = take_inbox(client, &cancelled)) && cancelled) {
        if (cancelled->session)
            tm_session_cancel(client, cancelled->session, cancelled);
        tm_client_complete(client, cancelled); /* puts the words and takes it off the list */
    }
    return go;
}

static void expire(tm_client_t *client, tm_request_t *request) {
    char brokers[TM_ERROR_TEXT_BYTES];
    tm_session_t *session = request->session;
    const char *current = active_session(client)->endpoint;
    bool up = active_session(client)->state == TM_SESSION_UP;
    tm_brokers_describe(client->brokers, brokers, sizeof brokers);
    if (session) {
        tm_session_cancel(client, session, request);
        tm_client_fail(client, request, TM_E_DEADLINE,
                       "the deadline of %" PRIu32 " ms passed without an answer of %s",
                       request->ttl_ms, session->endpoint);
    } else if (request->busy) {
        tm_client_fail(client, request, TM_E_BUSY,
                       "the deadline of %" PRIu32
                       " ms passed while every try met a busy broker: %s",
                       request->ttl_ms, brokers);
    } else if (up) {
        tm_client_fail(client, request, TM_E_DEADLINE,
                       "the deadline of %" PRIu32
                       " ms passed while the request waited in this client: %s has as many "
                       "requests as its window of %" PRIu32 " allows",
                       request->ttl_ms, current, active_session(client)->window);
    } else if (request->sends > 0) {
        tm_client_fail(client, request, TM_E_DEADLINE,
                       "the deadline of %" PRIu32
                       " ms passed; the broker that had the request is gone: %s",
                       request->ttl_ms, brokers);
    } else {
        tm_client_fail(client, request, TM_E_NO_BROKER,
                       "no broker took the request within its %" PRIu32 " ms: %s", request->ttl_ms,
                       brokers);
    }
}

/* Ends what is over in one list; returns the earliest deadline left, grace included. */
static uint64_t expire_list(tm_client_t *client, tm_request_list_t *list, uint64_t grace_us,
                            uint64_t now_us, uint64_t earliest) {
    tm_request_t *next;
    for (tm_request_t *request = TAILQ_FIRST(list); request; request = next) {
        next = TAILQ_NEXT(request, link);
        uint64_t end_us = request->deadline_us + grace_us;
        if (now_us >= end_us)
            expire(client, request);
        else if (end_us < earliest)
            earliest = end_us;
    }
    return earliest;
}

static void step_deadlines(tm_client_t *client, uint64_t now_us) {
    if (now_us < client->next_deadline_us)
        return;
    uint64_t earliest = UINT64_MAX;
    for (int i = 0; i < TM_PRIORITIES; i++)
        earliest = expire_list(client, &client->pending[i], 0, now_us, earliest);
    for (int i = 0; i < 2; i++) {
        if (client->sessions[i].state != TM_SESSION_NONE)
            earliest = expire_list(client, &client->sessions[i].sent,
                                   TM_CLIENT_GRACE_MS * TM_US_PER_MS, now_us, earliest);
    }
    if (earliest < now_us + DEADLINE_STEP_US)
        earliest = now_us + DEADLINE_STEP_US;
    client->next_deadline_us = earliest;
}

static void send_pending(tm_client_t *client, uint64_t now_us) {
    for (int i = 0; i < TM_PRIORITIES; i++) {
        tm_request_t *next;
        for (tm_request_t *request = TAILQ_FIRST(&client->pending[i]);
             request && tm_session_ready(active_session(client), now_us); request = next) {
            next = TAILQ_NEXT(request, link);
            if (now_us < request->deadline_us) /* else the deadlines' next step ends it */
                tm_session_send(client, active_session(client), request, now_us);
        }
    }
}

/* No use in waiting for the deadlines when no broker can understand us. */
static void fail_all_for_version(tm_client_t *client) {
    char brokers[TM_ERROR_TEXT_BYTES];
    tm_brokers_describe(client->brokers, brokers, sizeof brokers);
    for (int i = 0; i < TM_PRIORITIES; i++) {
        tm_request_t *request;
        while ((request = TAILQ_FIRST(&client->pending[i])))
            tm_client_fail(client, request, TM_E_VERSION, "%s", brokers);
    }
}

/* ---- the loop ---- */

static void wait_for_something(tm_client_t *client, uint64_t now_us) {
    zmq_pollitem_t items[5] = {{.fd = client->wake_fd, .events = ZMQ_POLLIN}};
    int count = 1;
    uint64_t next_us = client->next_deadline_us;
    for (int i = 0; i < 2; i++) {
        const tm_session_t *session = &client->sessions[i];
        uint64_t at_us = tm_session_next_us(client, session, now_us);
        next_us = at_us < next_us ? at_us : next_us;
        if (session->link.socket) {
            items[count++] = (zmq_pollitem_t){.socket = session->link.socket, .events = ZMQ_POLLIN};
            items[count++] =
                (zmq_pollitem_t){.socket = session->link.monitor, .events = ZMQ_POLLIN};
        }
    }
    long timeout_ms = 0;
    if (next_us > now_us) {
        uint64_t left_ms = (next_us - now_us + TM_US_PER_MS - 1) / TM_US_PER_MS;
        timeout_ms = left_ms > INT_MAX ? INT_MAX : (long)left_ms;
    }
    zmq_poll(items, count, timeout_ms); /* an interrupted wait only comes round again */
}

void *tm_client_thread(void *argument) {
    tm_client_t *client = argument;
    client->next_deadline_us = UINT64_MAX;
    for (int i = 0; i < TM_PRIORITIES; i++)
        TAILQ_INIT(&client->pending[i]);
    for (int i = 0; i < 2; i++)
        TAILQ_INIT(&client->sessions[i].sent);
    tm_session_start(client, active_session(client), tm_client_now_us());

    while (take_orders(client)) {
        uint64_t now_us = tm_client_now_us();
        for (int i = 0; i < 2; i++) {
            tm_session_receive(client, &client->sessions[i], now_us);
            tm_session_step(client, &client->sessions[i], now_us);
        }
        step_deadlines(client, now_us);
        if (tm_brokers_none_speaks_our_version(client->brokers))
            fail_all_for_version(client);
        send_pending(client, now_us);
        wait_for_something(client, tm_client_now_us());
    }
    for (int i = 0; i < 2; i++)
        tm_session_end(client, &client->sessions[i]);
    return NULL;
}
