// SPDX-License-Identifier: Apache-2.0
#include "tests/bench/relay/peers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

#include "wire/message.h"

enum { BURST = 100, REPLY_BYTES = 64, HWM = 1000, FRAMES_MAX = 5, ID_BYTES = 5 };

static void die(const char *what) {
    fprintf(stderr, "bench_relay: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(EXIT_FAILURE);
}

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void *open_socket(int type, const char *endpoint) {
    static void *context;
    if (!context)
        context = zmq_ctx_new();
    void *socket = zmq_socket(context, type);
    int hwm = HWM, linger = 0;
    if (!socket)
        die("socket");
    zmq_setsockopt(socket, ZMQ_SNDHWM, &hwm, sizeof hwm);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &hwm, sizeof hwm);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    if (type == ZMQ_DEALER ? zmq_connect(socket, endpoint) : zmq_bind(socket, endpoint))
        die(endpoint);
    return socket;
}

/* ---- the bare relay ---- */

/* Takes a message as it is: frames in msg, their number returned; 0: none. */
static int take(void *socket, zmq_msg_t *msg, int flags) {
    int n = 0;
    do {
        zmq_msg_init(&msg[n]);
        if (zmq_msg_recv(&msg[n], socket, flags) < 0)
            return 0;
        n++;
    } while (zmq_msg_more(&msg[n - 1]) && n < FRAMES_MAX);
    return n;
}

static void give(void *socket, zmq_msg_t *msg, int n) {
    for (int i = 0; i < n; i++)
        if (zmq_msg_send(&msg[i], socket, i + 1 < n ? ZMQ_SNDMORE : 0) < 0)
            zmq_msg_close(&msg[i]);
}

/* [client id][payload] → [worker id][client id][payload], and back. */
void bare_relay(int ready_fd) {
    void *clients = open_socket(ZMQ_ROUTER, "tcp://127.0.0.1:*");
    void *workers = open_socket(ZMQ_ROUTER, "tcp://127.0.0.1:*");
    char a[128], b[128];
    size_t a_bytes = sizeof a, b_bytes = sizeof b;
    zmq_getsockopt(clients, ZMQ_LAST_ENDPOINT, a, &a_bytes);
    zmq_getsockopt(workers, ZMQ_LAST_ENDPOINT, b, &b_bytes);
    dprintf(ready_fd, "%s %s\n", a, b);
    uint8_t worker[ID_BYTES];
    zmq_msg_t msg[FRAMES_MAX];
    zmq_pollitem_t items[] = {{workers, 0, ZMQ_POLLIN, 0}, {clients, 0, ZMQ_POLLIN, 0}};
    int known = 0;
    for (;;) {
        // until a worker is there, clients wait
        zmq_poll(items, known ? 2 : 1, -1);
        for (int i = 0; i < BURST && items[0].revents; i++) {
            int n = take(workers, msg, ZMQ_DONTWAIT);
            if (!n)
                break;
            memcpy(worker, zmq_msg_data(&msg[0]), sizeof worker);
            known = 1;
            zmq_msg_close(&msg[0]);
            if (n == 3)
                give(clients, &msg[1], 2);
            else
                zmq_msg_close(&msg[1]);
        }
        for (int i = 0; i < BURST && known && items[1].revents; i++) {
            int n = take(clients, msg, ZMQ_DONTWAIT);
            if (!n)
                break;
            zmq_send(workers, worker, sizeof worker, ZMQ_SNDMORE);
            give(workers, msg, n);
        }
    }
}

void bare_worker(const char *endpoint) {
    void *socket = open_socket(ZMQ_DEALER, endpoint);
    char reply[REPLY_BYTES] = "";
    zmq_msg_t msg[FRAMES_MAX];
    zmq_send(socket, "", 0, 0); // here I am
    for (;;) {
        int n = take(socket, msg, 0);
        if (n != 2)
            continue;
        zmq_msg_send(&msg[0], socket, ZMQ_SNDMORE);
        zmq_msg_close(&msg[1]);
        zmq_send(socket, reply, sizeof reply, 0);
    }
}

double bare_client(const char *endpoint, size_t bytes, uint32_t window, double seconds) {
    void *socket = open_socket(ZMQ_DEALER, endpoint);
    char *payload = calloc(1, bytes);
    uint32_t out = 0;
    uint64_t answers = 0;
    double begun = seconds_now(), now = begun;
    zmq_msg_t msg[FRAMES_MAX];
    while (now - begun < seconds) {
        for (; out < window; out++)
            zmq_send(socket, payload, bytes, 0);
        int n = take(socket, msg, 0);
        for (int i = 0; i < n; i++)
            zmq_msg_close(&msg[i]);
        out--;
        answers++;
        now = seconds_now();
    }
    free(payload);
    zmq_close(socket);
    return (double)answers / (now - begun);
}

/* ---- trackmill ---- */

static void send_message(void *socket, const tm_message_t *m, const void *payload, size_t bytes) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error;
    if (tm_message_encode(m, header, map, &map_bytes, &error)) {
        fprintf(stderr, "bench_relay: %s\n", error.text);
        exit(EXIT_FAILURE);
    }
    zmq_send(socket, header, sizeof header, ZMQ_SNDMORE);
    zmq_send(socket, map, map_bytes, payload ? ZMQ_SNDMORE : 0);
    if (payload)
        zmq_send(socket, payload, bytes, 0);
}

/* The next message that is not PING or PONG; PINGs are answered. */
static void receive_message(void *socket, zmq_msg_t *msg, int *n, tm_message_t *m) {
    for (;;) {
        *n = take(socket, msg, 0);
        tm_frame_t frames[FRAMES_MAX];
        for (int i = 0; i < *n; i++)
            frames[i] = (tm_frame_t){zmq_msg_data(&msg[i]), zmq_msg_size(&msg[i])};
        tm_error_t error;
        if (tm_message_decode_frames(frames, (size_t)*n, m, &error)) {
            fprintf(stderr, "bench_relay: %s\n", error.text);
            exit(EXIT_FAILURE);
        }
        if (m->command != TM_CMD_PING && m->command != TM_CMD_PONG)
            return;
        tm_message_t pong = {.command = TM_CMD_PONG};
        if (m->command == TM_CMD_PING)
            send_message(socket, &pong, NULL, 0);
        for (int i = 0; i < *n; i++)
            zmq_msg_close(&msg[i]);
    }
}

static void close_all(zmq_msg_t *msg, int n) {
    for (int i = 0; i < n; i++)
        zmq_msg_close(&msg[i]);
}

void trackmill_worker(const char *endpoint, uint32_t window) {
    void *socket = open_socket(ZMQ_DEALER, endpoint);
    tm_model_id_t model = {.name = "echo", .version = "1"};
    uint8_t buffer[TM_MODELS_FIELD_MAX], columns[TM_COLUMNS_FIELD_MAX], times[TM_TIMES_FIELD_MAX];
    uint8_t reply[REPLY_BYTES] = {0};
    tm_slice_t models, columns_field, times_field;
    tm_error_t error;
    tm_timings_t timings = {0};
    tm_columns_t one = {0};
    tm_models_encode(&model, 1, buffer, &models, &error);
    tm_times_encode(&timings, times, &times_field, &error);
    tm_columns_add(&one, "bytes", TM_U8, sizeof reply, reply, &error);
    uint8_t payload[REPLY_BYTES];
    tm_payload_encode(&one, payload, columns, &columns_field, &error);
    tm_message_t hello = {.command = TM_CMD_REGISTER};
    TM_SET_SLICE(&hello, SOFTWARE, software, tm_slice("bench/1"));
    TM_SET_SLICE(&hello, NAME, name, tm_slice("echo"));
    TM_SET_SLICE(&hello, DEVICE, device, tm_slice("cpu"));
    TM_SET_SLICE(&hello, BACKEND, backend, tm_slice("echo"));
    TM_SET_UINT(&hello, MAX_PAYLOAD, max_payload, TM_PAYLOAD_MAX_BYTES);
    TM_SET_UINT(&hello, SLOTS, slots, window < TM_SLOTS_MAX ? window : TM_SLOTS_MAX);
    TM_SET_SLICE(&hello, MODELS, models, models);
    send_message(socket, &hello, NULL, 0);
    zmq_msg_t msg[FRAMES_MAX];
    int n;
    tm_message_t m, credit = {.command = TM_CMD_CREDIT};
    for (;;) {
        receive_message(socket, msg, &n, &m);
        if (m.command == TM_CMD_WELCOME) {
            TM_SET_UINT(&credit, CREDIT, credit, window + 1);
            send_message(socket, &credit, NULL, 0);
            credit.credit = 1;
        } else if (m.command == TM_CMD_DISPATCH) {
            tm_message_t started = {.command = TM_CMD_STARTED, .id = m.id};
            send_message(socket, &started, NULL, 0);
            tm_message_t result = {.command = TM_CMD_RESULT, .id = m.id};
            TM_SET_SLICE(&result, COLUMNS, columns, columns_field);
            TM_SET_SLICE(&result, TIMES, times, times_field);
            send_message(socket, &result, payload, sizeof payload);
            send_message(socket, &credit, NULL, 0);
        }
        close_all(msg, n);
    }
}

double trackmill_client(const char *endpoint, size_t bytes, uint32_t window, double seconds) {
    void *socket = open_socket(ZMQ_DEALER, endpoint);
    uint8_t *array = calloc(1, bytes), *payload = calloc(1, bytes), field[TM_COLUMNS_FIELD_MAX];
    tm_columns_t columns = {0};
    tm_slice_t columns_field;
    tm_error_t error;
    tm_columns_add(&columns, "bytes", TM_U8, bytes, array, &error);
    tm_payload_encode(&columns, payload, field, &columns_field, &error);
    tm_message_t hello = {.command = TM_CMD_HELLO}, m;
    TM_SET_SLICE(&hello, SOFTWARE, software, tm_slice("bench/1"));
    send_message(socket, &hello, NULL, 0);
    zmq_msg_t msg[FRAMES_MAX];
    int n;
    receive_message(socket, msg, &n, &m);
    close_all(msg, n);
    tm_message_t request = {.command = TM_CMD_REQUEST, .id = {(uint64_t)getpid(), 0}};
    TM_SET_SLICE(&request, MODEL, model, tm_slice("echo"));
    TM_SET_SLICE(&request, COLUMNS, columns, columns_field);
    uint32_t out = 0;
    uint64_t answers = 0;
    double begun = seconds_now(), now = begun;
    while (now - begun < seconds) {
        for (; out < window; out++) {
            request.id.serial++;
            send_message(socket, &request, payload, bytes);
        }
        receive_message(socket, msg, &n, &m);
        if (m.command != TM_CMD_ANSWER) {
            fprintf(stderr, "bench_relay: %s instead of ANSWER: %.*s\n", tm_command_name(m.command),
                    (int)m.text.bytes, m.text.data);
            exit(EXIT_FAILURE);
        }
        close_all(msg, n);
        out--;
        answers++;
        now = seconds_now();
    }
    tm_message_t bye = {.command = TM_CMD_BYE};
    send_message(socket, &bye, NULL, 0);
    // the BYE has left when the answer to this is there (or its ERROR: the session is over)
    tm_message_t status = {.command = TM_CMD_STATUS};
    send_message(socket, &status, NULL, 0);
    do {
        receive_message(socket, msg, &n, &m);
        close_all(msg, n);
    } while (m.command != TM_CMD_REPORT);
    free(array);
    free(payload);
    zmq_close(socket);
    return (double)answers / (now - begun);
}
