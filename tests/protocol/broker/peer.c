// SPDX-License-Identifier: Apache-2.0
#include "tests/protocol/broker/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { POINTS_MAX = 100000, ARGUMENTS_MAX = 32 };

/* ---- the broker ---- */

void broker_start(broker_t *broker, const char *const *arguments) {
    const char *argv[ARGUMENTS_MAX] = {TM_BROKER_PROGRAM,   "--client-endpoint",
                                       "tcp://127.0.0.1:*", "--worker-endpoint",
                                       "tcp://127.0.0.1:*", "--http",
                                       "127.0.0.1:0"};
    int argc = 7;
    while (arguments && *arguments && argc < ARGUMENTS_MAX - 1)
        argv[argc++] = *arguments++;
    memset(broker, 0, sizeof *broker);
    tm_proc_start(&broker->proc, argv);
    assert_true(tm_proc_wait_for(&broker->proc, "\n", 1, PATIENCE_MS));
    char *line = tm_proc_text(&broker->proc, false);
    assert_int_equal(sscanf(line, "ready clients=%127s workers=%127s http=%127s", broker->clients,
                            broker->workers, broker->http),
                     3);
    free(line);
    broker->context = zmq_ctx_new();
    assert_non_null(broker->context);
}

void broker_stop(broker_t *broker) {
    tm_proc_signal(&broker->proc, SIGTERM);
    assert_true(tm_proc_wait(&broker->proc, PATIENCE_MS));
    assert_int_equal(broker->proc.code, 0);
    broker_clean(broker);
}

void broker_clean(broker_t *broker) {
    tm_proc_clear(&broker->proc, false);
    if (broker->context)
        zmq_ctx_term(broker->context);
    broker->context = NULL;
}

/* ---- peers ---- */

void peer_connect(broker_t *broker, peer_t *peer, const char *endpoint) {
    static uint64_t next_origin = 1000;
    memset(peer, 0, sizeof *peer);
    peer->origin = ++next_origin;
    peer->socket = zmq_socket(broker->context, ZMQ_DEALER);
    assert_non_null(peer->socket);
    int zero = 0;
    zmq_setsockopt(peer->socket, ZMQ_LINGER, &zero, sizeof zero);
    assert_int_equal(zmq_connect(peer->socket, endpoint), 0);
}

static void drop_frames(peer_t *peer) {
    for (int i = 0; i < peer->n_frames; i++)
        zmq_msg_close(&peer->frame[i]);
    peer->n_frames = 0;
}

void peer_close(peer_t *peer) {
    drop_frames(peer);
    zmq_close(peer->socket);
    peer->socket = NULL;
}

void peer_send_raw(peer_t *peer, int n_frames, const void *const data[], const size_t bytes[]) {
    for (int i = 0; i < n_frames; i++) {
        int flags = i + 1 < n_frames ? ZMQ_SNDMORE : 0;
        assert_int_equal(zmq_send(peer->socket, data[i], bytes[i], flags), bytes[i]);
    }
}

void peer_send(peer_t *peer, const tm_message_t *m, const void *payload, size_t bytes) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error;
    if (tm_message_encode(m, header, map, &map_bytes, &error))
        fail_msg("%s", error.text);
    const void *data[] = {header, map, payload};
    const size_t sizes[] = {sizeof header, map_bytes, bytes};
    peer_send_raw(peer, tm_command_has_payload(m->command) ? 3 : 2, data, sizes);
}

void peer_say_id(peer_t *peer, tm_command_t command, tm_id_t id) {
    tm_message_t m = {.command = command, .id = id};
    peer_send(peer, &m, NULL, 0);
}

void peer_say(peer_t *peer, tm_command_t command) {
    peer_say_id(peer, command, (tm_id_t){0, 0});
}

void peer_client(broker_t *broker, peer_t *peer) {
    peer_connect(broker, peer, broker->clients);
    tm_message_t m = {.command = TM_CMD_HELLO};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("test/1"));
    peer_send(peer, &m, NULL, 0);
    peer_expect(peer, TM_CMD_WELCOME);
}

void peer_register(peer_t *peer, const char *model, const char *version, uint8_t hash) {
    tm_model_id_t id = {0};
    snprintf(id.name, sizeof id.name, "%s", model);
    snprintf(id.version, sizeof id.version, "%s", version);
    memset(id.hash, hash, sizeof id.hash);
    uint8_t buffer[TM_MODELS_FIELD_MAX];
    tm_slice_t models;
    tm_error_t error;
    assert_int_equal(tm_models_encode(&id, 1, buffer, &models, &error), TM_OK);
    tm_message_t m = {.command = TM_CMD_REGISTER};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("test/1"));
    TM_SET_SLICE(&m, NAME, name, tm_slice("hand"));
    TM_SET_SLICE(&m, DEVICE, device, tm_slice("cpu"));
    TM_SET_SLICE(&m, BACKEND, backend, tm_slice("mock"));
    TM_SET_UINT(&m, MAX_PAYLOAD, max_payload, TM_PAYLOAD_MAX_BYTES);
    TM_SET_UINT(&m, SLOTS, slots, 1);
    TM_SET_SLICE(&m, MODELS, models, models);
    peer_send(peer, &m, NULL, 0);
}

void peer_worker(broker_t *broker, peer_t *peer, const char *model, const char *version) {
    peer_connect(broker, peer, broker->workers);
    peer_register(peer, model, version, 1);
    peer_expect(peer, TM_CMD_WELCOME);
}

void peer_credit(peer_t *peer, uint64_t credit) {
    tm_message_t m = {.command = TM_CMD_CREDIT};
    TM_SET_UINT(&m, CREDIT, credit, credit);
    peer_send(peer, &m, NULL, 0);
}

static void send_request(peer_t *peer, tm_message_t *m, uint32_t n) {
    static float x[POINTS_MAX], y[POINTS_MAX], z[POINTS_MAX];
    assert_true(n <= POINTS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        x[i] = (float)(m->id.serial + i);
        y[i] = x[i] + 0.25f;
        z[i] = x[i] + 0.5f;
    }
    tm_columns_t columns = {0};
    tm_error_t error;
    tm_columns_add(&columns, "x", TM_F32, n, x, &error);
    tm_columns_add(&columns, "y", TM_F32, n, y, &error);
    tm_columns_add(&columns, "z", TM_F32, n, z, &error);
    size_t bytes = tm_payload_bytes(&columns);
    void *payload = calloc(1, bytes + 1);
    uint8_t buffer[TM_COLUMNS_FIELD_MAX];
    tm_slice_t field;
    assert_int_equal(tm_payload_encode(&columns, payload, buffer, &field, &error), TM_OK);
    TM_SET_SLICE(m, COLUMNS, columns, field);
    peer_send(peer, m, payload, bytes);
    free(payload);
}

void peer_request(peer_t *peer, uint64_t serial, const char *model, uint64_t ttl_ms, uint32_t n) {
    tm_message_t m = {.command = TM_CMD_REQUEST, .id = {peer->origin, serial}};
    TM_SET_SLICE(&m, MODEL, model, tm_slice(model));
    TM_SET_UINT(&m, TTL_MS, ttl_ms, ttl_ms);
    send_request(peer, &m, n);
}

void peer_request_priority(peer_t *peer, uint64_t serial, uint64_t priority) {
    tm_message_t m = {.command = TM_CMD_REQUEST, .id = {peer->origin, serial}};
    TM_SET_UINT(&m, PRIORITY, priority, priority); // and the defaults of all else
    send_request(peer, &m, 3);
}

void peer_result(peer_t *peer, tm_id_t attempt, float mark) {
    uint32_t offsets[] = {0, 1}, indices[] = {0};
    float scores[] = {mark};
    tm_tracks_t tracks = {
        .n_points = 1, .n_tracks = 1, .offsets = offsets, .indices = indices, .scores = scores};
    tm_columns_t columns = {0};
    tm_timings_t timings = {0};
    tm_error_t error;
    tm_timings_add(&timings, "sleep", 7);
    assert_int_equal(tm_tracks_to_columns(&tracks, &columns, &error), TM_OK);
    size_t bytes = tm_payload_bytes(&columns);
    uint8_t *payload = calloc(1, bytes), buffer[TM_COLUMNS_FIELD_MAX], times[TM_TIMES_FIELD_MAX];
    tm_slice_t field, times_field;
    assert_int_equal(tm_payload_encode(&columns, payload, buffer, &field, &error), TM_OK);
    assert_int_equal(tm_times_encode(&timings, times, &times_field, &error), TM_OK);
    tm_message_t m = {.command = TM_CMD_RESULT, .id = attempt};
    TM_SET_SLICE(&m, COLUMNS, columns, field);
    TM_SET_SLICE(&m, TIMES, times, times_field);
    peer_send(peer, &m, payload, bytes);
    free(payload);
}

void peer_failed(peer_t *peer, tm_id_t attempt, tm_status_t code, const char *text) {
    tm_message_t m = {.command = TM_CMD_FAILED, .id = attempt};
    TM_SET_UINT(&m, CODE, code, code);
    TM_SET_SLICE(&m, TEXT, text, tm_slice(text));
    peer_send(peer, &m, NULL, 0);
}

/* ---- receiving ---- */

static bool receive_any(peer_t *peer, long timeout_ms) {
    zmq_pollitem_t item = {peer->socket, 0, ZMQ_POLLIN, 0};
    if (zmq_poll(&item, 1, timeout_ms) <= 0)
        return false;
    drop_frames(peer);
    tm_frame_t frames[TM_FRAMES_MAX];
    bool more = true;
    while (more) {
        assert_true(peer->n_frames < TM_FRAMES_MAX);
        zmq_msg_t *frame = &peer->frame[peer->n_frames];
        zmq_msg_init(frame);
        assert_true(zmq_msg_recv(frame, peer->socket, 0) >= 0);
        frames[peer->n_frames++] = (tm_frame_t){zmq_msg_data(frame), zmq_msg_size(frame)};
        more = zmq_msg_more(frame);
    }
    tm_error_t error;
    if (tm_message_decode_frames(frames, (size_t)peer->n_frames, &peer->m, &error))
        fail_msg("the broker sent nonsense: %s", error.text);
    return true;
}

bool peer_receive(peer_t *peer, uint64_t timeout_ms) {
    uint64_t until_ms = tm_test_now_ms() + timeout_ms;
    for (uint64_t now_ms; (now_ms = tm_test_now_ms()) < until_ms;)
        if (receive_any(peer, (long)(until_ms - now_ms)) && peer->m.command != TM_CMD_PING &&
            peer->m.command != TM_CMD_PONG)
            return true;
    return false;
}

void peer_expect(peer_t *peer, tm_command_t command) {
    if (!peer_receive(peer, PATIENCE_MS))
        fail_msg("no %s came", tm_command_name(command));
    if (peer->m.command != command)
        fail_msg("%s came instead of %s: code %d, %.*s", tm_command_name(peer->m.command),
                 tm_command_name(command), (int)peer->m.code, (int)peer->m.text.bytes,
                 peer->m.text.data);
}

void peer_expect_error(peer_t *peer, uint64_t serial, tm_status_t code) {
    peer_expect(peer, TM_CMD_ERROR);
    if (peer->m.code != code)
        fail_msg("error %s instead of %s: %.*s", tm_status_name((tm_status_t)peer->m.code),
                 tm_status_name(code), (int)peer->m.text.bytes, peer->m.text.data);
    assert_int_equal(peer->m.id.serial, serial);
    assert_int_equal(peer->m.id.origin, serial ? peer->origin : 0);
    assert_true(peer->m.text.bytes > 0);
}

void peer_expect_answer(peer_t *peer, uint64_t serial, float mark) {
    peer_expect(peer, TM_CMD_ANSWER);
    assert_int_equal(peer->m.id.origin, peer->origin);
    assert_int_equal(peer->m.id.serial, serial);
    void *copy;
    tm_error_t error;
    size_t bytes = zmq_msg_size(&peer->frame[2]);
    const void *payload = tm_payload_aligned(zmq_msg_data(&peer->frame[2]), bytes, &copy, &error);
    tm_columns_t columns;
    assert_int_equal(tm_payload_decode(peer->m.columns, payload, bytes, &columns, &error), TM_OK);
    assert_true((float)tm_column_get(tm_columns_find(&columns, "scores"), 0) == mark);
    free(copy);
}

tm_id_t peer_expect_dispatch(peer_t *peer) {
    peer_expect(peer, TM_CMD_DISPATCH);
    return peer->m.id;
}

void peer_expect_nothing(peer_t *peer) {
    if (peer_receive(peer, QUIET_MS))
        fail_msg("unexpected %s: code %d, %.*s", tm_command_name(peer->m.command),
                 (int)peer->m.code, (int)peer->m.text.bytes, peer->m.text.data);
}

/* ---- HTTP ---- */

int http_get(const char *address, const char *method, const char *path, char *body, size_t room) {
    char host[64] = "", request[256];
    int port = 0, status = 0;
    assert_int_equal(sscanf(address, "%63[^:]:%d", host, &port), 2);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    assert_int_equal(inet_pton(AF_INET, host, &to.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    int bytes = snprintf(request, sizeof request,
                         "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);
    assert_int_equal(write(fd, request, (size_t)bytes), bytes);
    size_t got = 0;
    char *all = malloc(room);
    for (ssize_t n; got < room - 1 && (n = read(fd, all + got, room - 1 - got)) > 0;)
        got += (size_t)n;
    close(fd);
    all[got] = 0;
    assert_int_equal(sscanf(all, "HTTP/1.1 %d", &status), 1);
    const char *blank = strstr(all, "\r\n\r\n");
    snprintf(body, room, "%s", blank ? blank + 4 : "");
    free(all);
    return status;
}
