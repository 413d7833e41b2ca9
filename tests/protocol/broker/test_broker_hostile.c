// SPDX-License-Identifier: Apache-2.0
/*
 * trackmill-broker and peers that break the rules: whatever they do, they are told so once, and
 * everybody else is served as before.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "tests/protocol/broker/peer.h"

enum { TTL_MS = 60000 };

static broker_t broker;

#define START(...) broker_start(&broker, (const char *const[]){__VA_ARGS__, NULL})

static int teardown(void **state) {
    (void)state;
    broker_clean(&broker);
    tm_procs_kill_all();
    return 0;
}

/* Good peers are still served. */
static void check_service(void) {
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "good", "1");
    peer_credit(&worker, 1);
    peer_request(&client, 1, "good", TTL_MS, 3);
    peer_result(&worker, peer_expect_dispatch(&worker), 0.5f);
    peer_expect_answer(&client, 1, 0.5f);
    peer_say(&client, TM_CMD_BYE);
    peer_say(&worker, TM_CMD_BYE);
    // the BYEs must leave before the sockets close
    peer_say(&client, TM_CMD_STATUS);
    peer_expect(&client, TM_CMD_REPORT);
    peer_close(&worker);
    peer_close(&client);
}

static void test_strangers(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_connect(&broker, &client, broker.clients);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    peer_expect_error(&client, 0, TM_E_UNKNOWN_PEER);
    peer_say(&client, TM_CMD_PING);
    peer_expect_error(&client, 0, TM_E_UNKNOWN_PEER);
    peer_say_id(&client, TM_CMD_CANCEL, (tm_id_t){client.origin, 1});
    peer_expect_error(&client, 0, TM_E_UNKNOWN_PEER);
    peer_say(&client, TM_CMD_BYE);
    peer_expect_nothing(&client);
    peer_connect(&broker, &worker, broker.workers);
    peer_credit(&worker, 5);
    peer_expect_error(&worker, 0, TM_E_UNKNOWN_PEER);
    peer_say(&worker, TM_CMD_HEARTBEAT);
    peer_expect_error(&worker, 0, TM_E_UNKNOWN_PEER);
    peer_result(&worker, (tm_id_t){1, 2}, 0.5f);
    peer_expect_error(&worker, 0, TM_E_UNKNOWN_PEER);
    check_service();
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_wrong_side(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_register(&client, "gnn", "1", 1);
    peer_expect_error(&client, 0, TM_E_UNEXPECTED);
    peer_result(&client, (tm_id_t){1, 2}, 0.5f);
    peer_expect_error(&client, 0, TM_E_UNEXPECTED);
    peer_request(&worker, 7, "gnn", TTL_MS, 3);
    peer_expect_error(&worker, 7, TM_E_UNEXPECTED);
    peer_say(&worker, TM_CMD_STATUS);
    peer_expect_error(&worker, 0, TM_E_UNEXPECTED);
    // an ERROR is never answered
    tm_message_t m = {.command = TM_CMD_ERROR};
    TM_SET_UINT(&m, CODE, code, TM_E_MALFORMED);
    TM_SET_SLICE(&m, TEXT, text, tm_slice("you!"));
    peer_send(&client, &m, NULL, 0);
    peer_send(&worker, &m, NULL, 0);
    peer_expect_nothing(&client);
    peer_expect_nothing(&worker);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

/* A header of this command and version, id 0/0 or origin/serial. */
static void make_header(uint8_t *header, uint8_t version, uint8_t command, uint64_t origin,
                        uint64_t serial) {
    memset(header, 0, TM_HEADER_BYTES);
    memcpy(header, "TMIL", 4);
    header[4] = version;
    header[5] = command;
    memcpy(header + 8, &origin, 8);
    memcpy(header + 16, &serial, 8);
}

static void test_garbage(void **state) {
    (void)state;
    START("--log-level", "debug");
    const char *const endpoints[] = {broker.clients, broker.workers};
    for (int side = 0; side < 2; side++) {
        peer_t peer;
        peer_connect(&broker, &peer, endpoints[side]);
        uint8_t ping[TM_HEADER_BYTES], unknown[TM_HEADER_BYTES], junk[300];
        make_header(ping, TM_PROTOCOL_VERSION, TM_CMD_PING, 0, 0);
        make_header(unknown, TM_PROTOCOL_VERSION, 0x77, 0, 0);
        for (size_t i = 0; i < sizeof junk; i++)
            junk[i] = (uint8_t)(i * 37 + 11);
        const uint8_t empty_map = 0x80;
        const struct {
            int n;
            const void *data[3];
            size_t bytes[3];
        } messages[] = {
            {1, {ping}, {sizeof ping}},
            {1, {""}, {0}},
            {2, {"", ""}, {0, 0}},
            {3, {junk, junk, junk}, {sizeof junk, sizeof junk, sizeof junk}},
            {2, {junk, &empty_map}, {TM_HEADER_BYTES, 1}},
            {2, {unknown, &empty_map}, {sizeof unknown, 1}},
            {2, {ping, "\xdd\xff\xff\xff\xff\xc0"}, {sizeof ping, 6}},
            {2, {ping, "\xdf\xff\xff\xff\xff\xc0"}, {sizeof ping, 6}},
            {2, {ping, ""}, {sizeof ping, 0}},
            {3, {ping, &empty_map, junk}, {sizeof ping, 1, sizeof junk}},
        };
        for (size_t i = 0; i < sizeof messages / sizeof messages[0]; i++) {
            peer_send_raw(&peer, messages[i].n, messages[i].data, messages[i].bytes);
            peer_expect_error(&peer, 0, TM_E_MALFORMED);
        }
        peer_close(&peer);
    }
    check_service();
    broker_stop(&broker);
}

static void test_random_bytes(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t peers[2];
    peer_client(&broker, &peers[0]);
    peer_worker(&broker, &peers[1], "gnn", "1");
    srand(4711);
    for (int round = 0; round < 4000; round++) {
        uint8_t bytes[4][64];
        const void *data[4];
        size_t sizes[4];
        int n = 1 + rand() % 4;
        for (int i = 0; i < n; i++) {
            sizes[i] = (size_t)rand() % sizeof bytes[i];
            for (size_t b = 0; b < sizes[i]; b++)
                bytes[i][b] = (uint8_t)rand();
            data[i] = bytes[i];
        }
        if (rand() % 4) { // most get past the header
            make_header(bytes[0], TM_PROTOCOL_VERSION, (uint8_t)(rand() % 0x30), rand() % 2 ? 1 : 0,
                        rand() % 2 ? 1 : 0);
            sizes[0] = TM_HEADER_BYTES;
        }
        peer_send_raw(&peers[rand() % 2], n, data, sizes);
    }
    check_service();
    peer_close(&peers[1]);
    peer_close(&peers[0]);
    broker_stop(&broker);
}

static void test_too_many_frames(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t peer;
    peer_client(&broker, &peer);
    enum { FRAMES = 500 };
    static const void *data[FRAMES];
    static size_t sizes[FRAMES];
    for (int i = 0; i < FRAMES; i++) {
        data[i] = "12345678";
        sizes[i] = 8;
    }
    for (int i = 0; i < 20; i++) {
        peer_send_raw(&peer, FRAMES, data, sizes);
        peer_expect_error(&peer, 0, TM_E_MALFORMED);
    }
    peer_say(&peer, TM_CMD_STATUS); // the next message is read from its beginning
    peer_expect(&peer, TM_CMD_REPORT);
    peer_close(&peer);
    broker_stop(&broker);
}

static void test_broken_request_is_ended(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client;
    peer_client(&broker, &client);
    uint8_t header[TM_HEADER_BYTES];
    make_header(header, TM_PROTOCOL_VERSION, TM_CMD_REQUEST, client.origin, 5);
    const void *data[] = {header, "\x80", "payload"}; // no columns
    const size_t sizes[] = {sizeof header, 1, 7};
    peer_send_raw(&client, 3, data, sizes);
    peer_expect_error(&client, 5, TM_E_MALFORMED);
    peer_send_raw(&client, 2, data, sizes); // no payload
    peer_expect_error(&client, 5, TM_E_MALFORMED);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_broken_result_fails_the_attempt(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 5);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    for (int i = 0; i < TM_ATTEMPTS_MAX; i++) {
        tm_id_t attempt = peer_expect_dispatch(&worker);
        uint8_t header[TM_HEADER_BYTES];
        make_header(header, TM_PROTOCOL_VERSION, TM_CMD_RESULT, attempt.origin, attempt.serial);
        const void *data[] = {header, "\xc0", ""};
        const size_t sizes[] = {sizeof header, 1, 0};
        peer_send_raw(&worker, 3, data, sizes);
        peer_expect_error(&worker, 0, TM_E_MALFORMED);
    }
    peer_expect_error(&client, 1, TM_E_ATTEMPTS);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_other_version(void **state) {
    (void)state;
    START("--io-threads", "1");
    const char *const endpoints[] = {broker.clients, broker.workers};
    for (int side = 0; side < 2; side++) {
        peer_t peer;
        peer_connect(&broker, &peer, endpoints[side]);
        uint8_t header[TM_HEADER_BYTES];
        const void *data[] = {header, "whatever"};
        const size_t sizes[] = {sizeof header, 8};
        make_header(header, TM_PROTOCOL_VERSION + 1, TM_CMD_HELLO, 0, 0);
        peer_send_raw(&peer, 2, data, sizes);
        peer_expect_error(&peer, 0, TM_E_VERSION);
        assert_int_equal(peer.m.protocol, TM_PROTOCOL_VERSION);
        make_header(header, TM_PROTOCOL_VERSION + 1, TM_CMD_BYE, 0, 0);
        peer_send_raw(&peer, 2, data, sizes);
        peer_expect_nothing(&peer);
        peer_close(&peer);
    }
    broker_stop(&broker);
}

static void test_too_large(void **state) {
    (void)state;
    START("--max-payload", "1000");
    peer_t client;
    peer_client(&broker, &client);
    peer_request(&client, 1, "gnn", TTL_MS, 100); // 1200 bytes: beyond the limit, below the cut
    peer_expect_error(&client, 1, TM_E_TOO_LARGE);
    peer_request(&client, 2, "gnn", TTL_MS, 1000); // the connection is cut
    peer_expect_nothing(&client);
    check_service();
    peer_close(&client);
    broker_stop(&broker);
}

static void test_enormous(void **state) {
    (void)state;
    START("--io-threads", "1");
    // zero pages: nothing of this is in memory, and only the announcement is read
    size_t bytes = (size_t)TM_PAYLOAD_MAX_BYTES + (1u << 20);
    void *zeros = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(zeros != MAP_FAILED);
    peer_t client;
    peer_client(&broker, &client);
    zmq_msg_t frame;
    uint8_t header[TM_HEADER_BYTES];
    make_header(header, TM_PROTOCOL_VERSION, TM_CMD_REQUEST, client.origin, 1);
    zmq_send(client.socket, header, sizeof header, ZMQ_SNDMORE);
    zmq_send(client.socket, "\x80", 1, ZMQ_SNDMORE);
    assert_int_equal(zmq_msg_init_data(&frame, zeros, bytes, NULL, NULL), 0);
    assert_int_equal(zmq_msg_send(&frame, client.socket, 0), bytes);
    check_service();
    peer_close(&client);
    assert_int_equal(zmq_ctx_term(broker.context), 0); // before the pages go
    broker.context = NULL;
    munmap(zeros, bytes);
    broker_stop(&broker);
}

static void test_own_routing_id(void **state) {
    (void)state;
    START("--io-threads", "1");
    const char *const ids[] = {"me", "12345"};
    for (int i = 0; i < 2; i++) {
        peer_t peer;
        memset(&peer, 0, sizeof peer);
        peer.socket = zmq_socket(broker.context, ZMQ_DEALER);
        int zero = 0;
        zmq_setsockopt(peer.socket, ZMQ_LINGER, &zero, sizeof zero);
        zmq_setsockopt(peer.socket, ZMQ_ROUTING_ID, ids[i], strlen(ids[i]));
        assert_int_equal(zmq_connect(peer.socket, broker.clients), 0);
        peer_say(&peer, TM_CMD_STATUS);
        peer_expect_nothing(&peer);
        peer_close(&peer);
    }
    check_service();
    broker_stop(&broker);
}

static void test_a_client_that_does_not_read(void **state) {
    (void)state;
    START("--log-level", "debug");
    peer_t deaf;
    peer_client(&broker, &deaf);
    int timeout_ms = 2000;
    zmq_setsockopt(deaf.socket, ZMQ_SNDTIMEO, &timeout_ms, sizeof timeout_ms);
    uint8_t header[TM_HEADER_BYTES];
    make_header(header, TM_PROTOCOL_VERSION, TM_CMD_STATUS, 0, 0);
    for (int i = 0; i < 100000; i++)
        if (zmq_send(deaf.socket, header, sizeof header, ZMQ_SNDMORE) < 0 ||
            zmq_send(deaf.socket, "\x80", 1, 0) < 0)
            break;
    check_service(); // the flood is read, and nobody waits for the one who caused it
    peer_close(&deaf);
    broker_stop(&broker);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_strangers),
        TEST(test_wrong_side),
        TEST(test_garbage),
        TEST(test_random_bytes),
        TEST(test_too_many_frames),
        TEST(test_broken_request_is_ended),
        TEST(test_broken_result_fails_the_attempt),
        TEST(test_other_version),
        TEST(test_too_large),
        TEST(test_enormous),
        TEST(test_own_routing_id),
        TEST(test_a_client_that_does_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
