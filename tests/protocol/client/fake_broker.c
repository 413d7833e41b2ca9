// SPDX-License-Identifier: Apache-2.0
#include "fake_broker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void fake_open(fake_broker_t *broker) {
    fake_open_at(broker, "tcp://127.0.0.1:*");
}

void fake_open_at(fake_broker_t *broker, const char *endpoint) {
    int off = 0, on = 1;
    size_t bytes = sizeof broker->endpoint;
    broker->context = zmq_ctx_new();
    broker->router = zmq_socket(broker->context, ZMQ_ROUTER);
    assert_non_null(broker->router);
    zmq_setsockopt(broker->router, ZMQ_LINGER, &off, sizeof off);
    zmq_setsockopt(broker->router, ZMQ_ROUTER_MANDATORY, &on, sizeof on);
    if (broker->narrow) {
        int little = 32768, one = 1;
        zmq_setsockopt(broker->router, ZMQ_RCVHWM, &one, sizeof one);
        zmq_setsockopt(broker->router, ZMQ_RCVBUF, &little, sizeof little);
    }
    int rc = -1;
    /* the kernel may hold on to a port for a moment */
    for (int i = 0; i < PATIENCE_MS / 10 && rc; i++) {
        rc = zmq_bind(broker->router, endpoint);
        if (rc)
            zmq_poll(NULL, 0, 10);
    }
    assert_int_equal(rc, 0);
    zmq_getsockopt(broker->router, ZMQ_LAST_ENDPOINT, broker->endpoint, &bytes);
}

void fake_close(fake_broker_t *broker) {
    if (!broker->context)
        return;
    zmq_close(broker->router);
    zmq_ctx_term(broker->context);
    broker->context = broker->router = NULL;
}

bool fake_receive_any(fake_broker_t *broker, int timeout_ms, fake_message_t *message) {
    zmq_pollitem_t item = {.socket = broker->router, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, timeout_ms) <= 0)
        return false;
    zmq_msg_init(&message->peer);
    assert_true(zmq_msg_recv(&message->peer, broker->router, 0) > 0);
    tm_link_t link = {.socket = broker->router};
    assert_true(tm_link_receive(&link, &message->frames));
    tm_error_t error;
    if (tm_received_decode(&message->frames, &message->m, &error))
        fail_msg("the client sent nonsense: %s", error.text);
    return true;
}

bool fake_receive(fake_broker_t *broker, int timeout_ms, fake_message_t *message) {
    while (fake_receive_any(broker, timeout_ms, message)) {
        if (message->m.command != TM_CMD_PING)
            return true;
        tm_message_t pong = {.command = TM_CMD_PONG};
        fake_send(broker, message, &pong, NULL, 0);
        fake_clear(message);
    }
    return false;
}

void fake_expect(fake_broker_t *broker, tm_command_t command, fake_message_t *message) {
    if (!fake_receive(broker, PATIENCE_MS, message))
        fail_msg("no %s came", tm_command_name(command));
    if (message->m.command != command)
        fail_msg("%s came instead of %s", tm_command_name(message->m.command),
                 tm_command_name(command));
}

void fake_expect_only(fake_broker_t *broker, tm_command_t command) {
    fake_message_t message;
    fake_expect(broker, command, &message);
    fake_clear(&message);
}

void fake_expect_nothing(fake_broker_t *broker, int time_ms) {
    fake_message_t message;
    if (fake_receive(broker, time_ms, &message))
        fail_msg("%s came, nothing was due", tm_command_name(message.m.command));
}

void fake_clear(fake_message_t *message) {
    zmq_msg_close(&message->peer);
    tm_received_clear(&message->frames);
}

void fake_send_raw(fake_broker_t *broker, const fake_message_t *to, int count,
                   const void *const frames[], const size_t sizes[]) {
    zmq_msg_t *peer = (zmq_msg_t *)&to->peer;
    int rc = zmq_send(broker->router, zmq_msg_data(peer), zmq_msg_size(peer), ZMQ_SNDMORE);
    if (rc < 0 && broker->lenient)
        return;
    assert_true(rc > 0);
    for (int i = 0; i < count; i++)
        assert_true(
            zmq_send(broker->router, frames[i], sizes[i], i + 1 < count ? ZMQ_SNDMORE : 0) >= 0);
}

void fake_send(fake_broker_t *broker, const fake_message_t *to, const tm_message_t *m,
               const void *payload, size_t payload_bytes) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error;
    if (tm_message_encode(m, header, map, &map_bytes, &error))
        fail_msg("the test's own message: %s", error.text);
    fake_send_raw(broker, to, payload ? 3 : 2, (const void *const[]){header, map, payload},
                  (const size_t[]){sizeof header, map_bytes, payload_bytes});
}

void fake_error(fake_broker_t *broker, const fake_message_t *to, bool of_request, tm_status_t code,
                const char *text, int retry_after_ms) {
    tm_message_t m = {.command = TM_CMD_ERROR};
    if (of_request)
        m.id = to->m.id;
    TM_SET_UINT(&m, CODE, code, code);
    TM_SET_SLICE(&m, TEXT, text, tm_slice(text));
    if (retry_after_ms >= 0)
        TM_SET_UINT(&m, RETRY_AFTER_MS, retry_after_ms, retry_after_ms);
    fake_send(broker, to, &m, NULL, 0);
}

void fake_welcome(fake_broker_t *broker, const fake_welcome_t *terms, fake_message_t *hello) {
    fake_message_t own, *message = hello ? hello : &own;
    fake_welcome_t usual = {0};
    terms = terms ? terms : &usual;
    fake_expect(broker, TM_CMD_HELLO, message);
    tm_message_t m = {.command = TM_CMD_WELCOME};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("fake/1"));
    TM_SET_UINT(&m, EPOCH, epoch, 7);
    TM_SET_UINT(&m, HEARTBEAT_MS, heartbeat_ms,
                terms->heartbeat_ms ? terms->heartbeat_ms : TM_HEARTBEAT_MS);
    TM_SET_UINT(&m, LIVENESS, liveness, terms->liveness ? terms->liveness : TM_LIVENESS);
    TM_SET_UINT(&m, MAX_PAYLOAD, max_payload,
                terms->max_payload ? terms->max_payload : TM_PAYLOAD_MAX_BYTES);
    TM_SET_UINT(&m, WINDOW, window, terms->window ? terms->window : TM_CLIENT_WINDOW);
    fake_send(broker, message, &m, NULL, 0);
    if (!hello)
        fake_clear(message);
}

void fake_answer_columns(fake_broker_t *broker, const fake_message_t *request,
                         const tm_columns_t *columns) {
    uint8_t field[TM_MAP_MAX_BYTES], times_field[TM_MAP_MAX_BYTES], hash[TM_HASH_BYTES];
    tm_message_t m = {.command = TM_CMD_ANSWER, .id = request->m.id};
    tm_slice_t slice;
    size_t bytes = tm_payload_bytes(columns);
    void *payload = malloc(bytes + 1);
    assert_non_null(payload);
    assert_int_equal(tm_payload_encode(columns, payload, field, &slice, NULL), TM_OK);
    TM_SET_SLICE(&m, COLUMNS, columns, slice);
    tm_timings_t times = {0};
    tm_timings_add(&times, "gnn", 1234);
    assert_int_equal(tm_times_encode(&times, times_field, &slice, NULL), TM_OK);
    TM_SET_SLICE(&m, TIMES, times, slice);
    TM_SET_SLICE(&m, MODEL, model, tm_slice("fake@1"));
    memset(hash, 0xab, sizeof hash);
    TM_SET_SLICE(&m, HASH, hash, ((tm_slice_t){(const char *)hash, sizeof hash}));
    TM_SET_SLICE(&m, WORKER, worker, tm_slice("worker-1"));
    TM_SET_UINT(&m, ATTEMPT, attempt, 2);
    TM_SET_UINT(&m, QUEUE_US, queue_us, 10);
    TM_SET_UINT(&m, SERVICE_US, service_us, 20);
    fake_send(broker, request, &m, payload, bytes);
    free(payload);
}

void fake_answer(fake_broker_t *broker, const fake_message_t *request) {
    uint32_t offsets[] = {0, 3}, indices[] = {0, 1, 2};
    float scores[] = {0.5f};
    tm_tracks_t tracks = {
        .n_points = 3, .n_tracks = 1, .offsets = offsets, .indices = indices, .scores = scores};
    tm_columns_t columns = {0};
    assert_int_equal(tm_tracks_to_columns(&tracks, &columns, NULL), TM_OK);
    fake_answer_columns(broker, request, &columns);
}
