// SPDX-License-Identifier: Apache-2.0
#include "tests/protocol/worker/fake_broker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "tests/chaos/proc.h"

#define PATIENCE_MS 20000u

void tm_fake_start(tm_fake_broker_t *broker, const char *endpoint) {
    memset(broker, 0, sizeof *broker);
    broker->epoch = 0x1234;
    broker->heartbeat_ms = 100;
    broker->liveness = 50;
    broker->context = zmq_ctx_new();
    broker->socket = zmq_socket(broker->context, ZMQ_ROUTER);
    assert_non_null(broker->socket);
    int linger = 0;
    zmq_setsockopt(broker->socket, ZMQ_LINGER, &linger, sizeof linger);
    assert_int_equal(zmq_bind(broker->socket, endpoint != NULL ? endpoint : "tcp://127.0.0.1:*"),
                     0);
    size_t bytes = sizeof broker->endpoint;
    zmq_getsockopt(broker->socket, ZMQ_LAST_ENDPOINT, broker->endpoint, &bytes);
}

void tm_fake_stop(tm_fake_broker_t *broker) {
    if (broker->context != NULL) {
        zmq_close(broker->socket);
        zmq_ctx_term(broker->context);
        broker->context = NULL;
    }
}

void tm_fake_clear(tm_fake_message_t *message) {
    for (int i = 0; i < message->n_frames; i++) {
        zmq_msg_close(&message->frame[i]);
    }
    message->n_frames = 0;
}

/* One message, whatever it is. */
static bool receive_any(tm_fake_broker_t *broker, tm_fake_message_t *message, long timeout_ms) {
    zmq_pollitem_t item = {.socket = broker->socket, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, timeout_ms) <= 0) {
        return false;
    }
    int rc = zmq_recv(broker->socket, message->peer, sizeof message->peer, 0);
    assert_int_equal(rc, 5); /* a generated routing id: workers must not choose their own */
    message->peer_bytes = (size_t)rc;
    message->n_frames = 0;
    tm_frame_t frames[TM_FRAMES_MAX];
    int more = 1;
    while (more) {
        assert_true(message->n_frames < TM_FRAMES_MAX);
        zmq_msg_t *frame = &message->frame[message->n_frames];
        zmq_msg_init(frame);
        assert_true(zmq_msg_recv(frame, broker->socket, 0) >= 0);
        frames[message->n_frames++] = (tm_frame_t){zmq_msg_data(frame), zmq_msg_size(frame)};
        more = zmq_msg_more(frame);
    }
    tm_error_t error = {0};
    if (tm_message_decode_frames(frames, (size_t)message->n_frames, &message->m, &error) != TM_OK) {
        fail_msg("the worker sent a bad message: %s", error.text);
    }
    return true;
}

/* From now on messages go to who sent this one. */
static void take_peer(tm_fake_broker_t *broker, const tm_fake_message_t *message) {
    memcpy(broker->worker, message->peer, message->peer_bytes);
    broker->worker_bytes = message->peer_bytes;
}

static void ping_if_due(tm_fake_broker_t *broker) {
    uint64_t now_ms = tm_test_now_ms();
    if (!broker->mute && broker->worker_bytes > 0 && now_ms >= broker->next_ping_ms) {
        broker->next_ping_ms = now_ms + broker->heartbeat_ms;
        tm_fake_send(broker, &(tm_message_t){.command = TM_CMD_PING}, NULL, 0);
    }
}

bool tm_fake_receive(tm_fake_broker_t *broker, tm_fake_message_t *message, uint64_t timeout_ms) {
    uint64_t limit_ms = tm_test_now_ms() + timeout_ms;
    for (;;) {
        ping_if_due(broker);
        uint64_t now_ms = tm_test_now_ms();
        uint64_t left_ms = now_ms < limit_ms ? limit_ms - now_ms : 0;
        long step_ms = left_ms < 20 ? (long)left_ms : 20;
        if (receive_any(broker, message, step_ms)) {
            if (broker->forgetful && message->m.command != TM_CMD_REGISTER) {
                take_peer(broker, message);
                broker->forgetful = false;
                tm_fake_clear(message);
                tm_fake_error(broker, TM_E_UNKNOWN_PEER, "who are you");
                continue;
            }
            switch (message->m.command) {
            case TM_CMD_HEARTBEAT:
                broker->heartbeats++;
                break;
            case TM_CMD_PING:
            case TM_CMD_PONG:
                break;
            default:
                return true;
            }
            tm_fake_clear(message);
        } else if (left_ms == 0) {
            return false;
        }
    }
}

void tm_fake_expect(tm_fake_broker_t *broker, tm_command_t command, tm_fake_message_t *message) {
    if (!tm_fake_receive(broker, message, PATIENCE_MS)) {
        fail_msg("waited in vain for %s", tm_command_name(command));
    }
    if (message->m.command != command) {
        fail_msg("expected %s, got %s (code %d)", tm_command_name(command),
                 tm_command_name(message->m.command), (int)message->m.code);
    }
}

uint64_t tm_fake_expect_credit(tm_fake_broker_t *broker) {
    tm_fake_message_t message;
    tm_fake_expect(broker, TM_CMD_CREDIT, &message);
    uint64_t credit = message.m.credit;
    tm_fake_clear(&message);
    return credit;
}

void tm_fake_send_raw(tm_fake_broker_t *broker, const void *const frame[], const size_t bytes[],
                      int n_frames) {
    zmq_send(broker->socket, broker->worker, broker->worker_bytes, ZMQ_SNDMORE);
    for (int i = 0; i < n_frames; i++) {
        zmq_send(broker->socket, frame[i], bytes[i], i + 1 < n_frames ? ZMQ_SNDMORE : 0);
    }
}

void tm_fake_send(tm_fake_broker_t *broker, const tm_message_t *m, const void *payload,
                  size_t payload_bytes) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error = {0};
    if (tm_message_encode(m, header, map, &map_bytes, &error) != TM_OK) {
        fail_msg("the test cannot encode: %s", error.text);
    }
    const void *frame[] = {header, map, payload};
    const size_t bytes[] = {sizeof header, map_bytes, payload_bytes};
    tm_fake_send_raw(broker, frame, bytes, payload != NULL ? 3 : 2);
}

void tm_fake_expect_register(tm_fake_broker_t *broker) {
    tm_fake_message_t message;
    tm_fake_expect(broker, TM_CMD_REGISTER, &message);
    take_peer(broker, &message);
    broker->registers++;
    tm_fake_clear(&message);
}

void tm_fake_welcome(tm_fake_broker_t *broker) {
    tm_fake_expect_register(broker);
    tm_message_t m = {.command = TM_CMD_WELCOME};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("fake/1"));
    TM_SET_UINT(&m, EPOCH, epoch, broker->epoch);
    TM_SET_UINT(&m, HEARTBEAT_MS, heartbeat_ms, broker->heartbeat_ms);
    TM_SET_UINT(&m, LIVENESS, liveness, broker->liveness);
    TM_SET_UINT(&m, MAX_PAYLOAD, max_payload, TM_PAYLOAD_MAX_BYTES);
    tm_fake_send(broker, &m, NULL, 0);
}

void tm_fake_error(tm_fake_broker_t *broker, tm_status_t code, const char *text) {
    tm_message_t m = {.command = TM_CMD_ERROR};
    TM_SET_UINT(&m, CODE, code, code);
    TM_SET_SLICE(&m, TEXT, text, tm_slice(text));
    tm_fake_send(broker, &m, NULL, 0);
}

void tm_fake_dispatch(tm_fake_broker_t *broker, uint64_t serial, float value, uint64_t ttl_ms) {
    float zero = 0;
    tm_columns_t event = {0};
    tm_error_t error;
    assert_int_equal(tm_columns_add(&event, "x", TM_F32, 1, &value, &error), TM_OK);
    assert_int_equal(tm_columns_add(&event, "y", TM_F32, 1, &zero, &error), TM_OK);
    assert_int_equal(tm_columns_add(&event, "z", TM_F32, 1, &zero, &error), TM_OK);
    uint8_t payload[64], field[TM_COLUMNS_FIELD_MAX];
    assert_true(tm_payload_bytes(&event) <= sizeof payload);
    tm_message_t m = {.command = TM_CMD_DISPATCH, .id = {broker->epoch, serial}};
    assert_int_equal(tm_payload_encode(&event, payload, field, &m.columns, &error), TM_OK);
    m.set |= TM_FIELD(COLUMNS);
    TM_SET_SLICE(&m, MODEL, model, tm_slice("mock@1"));
    TM_SET_UINT(&m, TTL_MS, ttl_ms, ttl_ms);
    TM_SET_UINT(&m, ATTEMPT, attempt, 1);
    tm_fake_send(broker, &m, payload, tm_payload_bytes(&event));
}
