// SPDX-License-Identifier: Apache-2.0
/*
 * trackmill-broker over TCP: the ordinary day, and the failures of ordinary peers.
 */
#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/protocol/broker/peer.h"

enum { BODY_BYTES = 1 << 20, TTL_MS = 60000 };

static broker_t broker;

#define START(...) broker_start(&broker, (const char *const[]){__VA_ARGS__, NULL})
/* Peers that the test must keep alive by hand are gone after 20 × 100 ms. */
#define FAST "--heartbeat", "100ms"

static int teardown(void **state) {
    (void)state;
    broker_clean(&broker);
    tm_procs_kill_all();
    return 0;
}

static void test_welcome(void **state) {
    (void)state;
    START("--max-payload", "1M");
    peer_t client, monitor;
    peer_client(&broker, &client);
    assert_int_equal(client.m.heartbeat_ms, TM_HEARTBEAT_MS);
    assert_int_equal(client.m.liveness, TM_LIVENESS);
    assert_int_equal(client.m.window, TM_CLIENT_WINDOW);
    assert_int_equal(client.m.max_payload, 1 << 20);
    assert_true(client.m.epoch);
    peer_t worker;
    peer_worker(&broker, &worker, "gnn", "1");
    assert_int_equal(worker.m.epoch, client.m.epoch);
    peer_connect(&broker, &monitor, broker.clients); // no HELLO
    peer_say(&monitor, TM_CMD_STATUS);
    peer_expect(&monitor, TM_CMD_REPORT);
    assert_int_equal(monitor.m.clients, 1);
    assert_int_equal(monitor.m.workers, 1);
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
    tm_error_t error;
    assert_int_equal(tm_models_decode(monitor.m.models, models, &n_models, &error), TM_OK);
    assert_int_equal(n_models, 1);
    assert_string_equal(models[0].name, "gnn");
    peer_close(&monitor);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_request(void **state) {
    (void)state;
    START("--log-level", "debug");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 1);
    peer_request(&client, 1, "gnn", TTL_MS, 90000); // a megabyte and more
    tm_id_t attempt = peer_expect_dispatch(&worker);
    assert_int_equal(worker.m.attempt, 1);
    assert_memory_equal(worker.m.model.data, "gnn@1", 5);
    assert_in_range(worker.m.ttl_ms, 1, TTL_MS);
    tm_columns_t columns;
    tm_error_t error;
    assert_int_equal(tm_payload_decode(worker.m.columns, zmq_msg_data(&worker.frame[2]),
                                       zmq_msg_size(&worker.frame[2]), &columns, &error),
                     TM_OK);
    assert_int_equal(columns.column[2].n, 90000);
    assert_true(tm_column_get(&columns.column[2], 89999) == 90000.5);
    peer_say_id(&worker, TM_CMD_STARTED, attempt);
    peer_result(&worker, attempt, 0.75f);
    peer_expect_answer(&client, 1, 0.75f);
    assert_memory_equal(client.m.model.data, "gnn@1", 5);
    assert_memory_equal(client.m.worker.data, "hand", 4);
    assert_int_equal(client.m.attempt, 1);
    assert_true(client.m.service_us > 0);
    tm_timings_t timings;
    assert_int_equal(tm_times_decode(client.m.times, &timings, &error), TM_OK);
    assert_string_equal(timings.stage[0].name, "sleep");
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_ipv6_and_ipc(void **state) {
    (void)state;
    char path[64], option[80];
    snprintf(path, sizeof path, "/tmp/tm-test-broker-%d", (int)getpid());
    snprintf(option, sizeof option, "ipc://%s", path);
    START("--client-endpoint", option);
    const char *comma = strchr(broker.clients, ',');
    assert_non_null(comma);
    peer_t client;
    peer_connect(&broker, &client, comma + 1);
    peer_say(&client, TM_CMD_STATUS);
    peer_expect(&client, TM_CMD_REPORT);
    peer_close(&client);
    broker_stop(&broker);
    unlink(path);
}

static void test_credit_is_obeyed(void **state) {
    (void)state;
    START("--io-threads", "2");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    for (uint64_t i = 1; i <= 5; i++)
        peer_request(&client, i, "", TTL_MS, 3);
    peer_expect_nothing(&worker);
    peer_credit(&worker, 2);
    tm_id_t first = peer_expect_dispatch(&worker);
    peer_expect_dispatch(&worker);
    peer_expect_nothing(&worker);
    peer_result(&worker, first, 0.5f);
    peer_expect_answer(&client, 1, 0.5f);
    peer_expect_nothing(&worker);
    peer_credit(&worker, 1);
    peer_expect_dispatch(&worker);
    peer_close(&worker);
    peer_close(&client);
    tm_proc_signal(&broker.proc, SIGTERM); // two signals: it does not wait for the rest
    tm_test_sleep_ms(100);
    broker_stop(&broker);
}

static void test_priorities(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_client(&broker, &client);
    for (uint64_t i = 1; i <= 3; i++)
        peer_request_priority(&client, i, 3 - i); // 2, 1, 0
    peer_say(&client, TM_CMD_STATUS);
    peer_expect(&client, TM_CMD_REPORT);
    assert_int_equal(client.m.queued, 3);
    peer_worker(&broker, &worker, "gnn", "1");
    for (uint64_t i = 3; i >= 1; i--) {
        peer_credit(&worker, 1);
        peer_result(&worker, peer_expect_dispatch(&worker), 0.5f);
        peer_expect_answer(&client, i, 0.5f);
    }
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_busy(void **state) {
    (void)state;
    START("--queue-requests", "2", "--drain-timeout", "0");
    peer_t client;
    peer_client(&broker, &client);
    for (uint64_t i = 1; i <= 3; i++)
        peer_request(&client, i, "gnn", TTL_MS, 3);
    peer_expect_error(&client, 3, TM_E_BUSY);
    assert_true(client.m.set & TM_FIELD(RETRY_AFTER_MS));
    assert_true(client.m.retry_after_ms >= TM_RETRY_AFTER_MS);
    peer_say_id(&client, TM_CMD_CANCEL, (tm_id_t){client.origin, 1});
    peer_expect_error(&client, 1, TM_E_CANCELLED);
    peer_request(&client, 4, "gnn", TTL_MS, 3); // there is room again
    peer_expect_nothing(&client);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_deadlines(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_request(&client, 1, "gnn", 200, 3);
    peer_expect_error(&client, 1, TM_E_NO_MODEL);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_request(&client, 2, "gnn", 200, 3);
    peer_expect_error(&client, 2, TM_E_DEADLINE);
    peer_credit(&worker, 1);
    peer_request(&client, 3, "gnn", 500, 3);
    tm_id_t attempt = peer_expect_dispatch(&worker);
    peer_say_id(&worker, TM_CMD_STARTED, attempt);
    peer_expect_error(&client, 3, TM_E_DEADLINE);
    peer_expect(&worker, TM_CMD_REVOKE);
    assert_int_equal(worker.m.id.serial, attempt.serial);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

/* Waits for a message to `to` while `alive` says HEARTBEAT, so that only silence kills others. */
static void expect_while(peer_t *to, tm_command_t command, peer_t *client) {
    for (uint64_t until_ms = tm_test_now_ms() + PATIENCE_MS; tm_test_now_ms() < until_ms;) {
        peer_say(to, TM_CMD_HEARTBEAT);
        peer_say(client, TM_CMD_PING);
        if (peer_receive(to, 50)) {
            assert_int_equal(to->m.command, command);
            return;
        }
    }
    fail_msg("no %s came", tm_command_name(command));
}

static void test_dead_worker(void **state) {
    (void)state;
    START(FAST);
    peer_t client, dead, alive;
    peer_client(&broker, &client);
    peer_worker(&broker, &dead, "gnn", "1");
    peer_credit(&dead, 1);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&dead);
    peer_say_id(&dead, TM_CMD_STARTED, attempt);
    peer_worker(&broker, &alive, "gnn", "1");
    peer_credit(&alive, 1);
    peer_close(&dead);
    expect_while(&alive, TM_CMD_DISPATCH, &client);
    assert_int_equal(alive.m.attempt, 2);
    assert_int_not_equal(alive.m.id.serial, attempt.serial);
    peer_result(&alive, alive.m.id, 0.25f);
    peer_expect_answer(&client, 1, 0.25f);
    assert_int_equal(client.m.attempt, 2);
    peer_close(&alive);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_hung_worker(void **state) {
    (void)state;
    START("--attempt-timeout", "300ms");
    peer_t client, hung, other;
    peer_client(&broker, &client);
    peer_worker(&broker, &hung, "gnn", "1");
    peer_credit(&hung, 2);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&hung);
    peer_say_id(&hung, TM_CMD_STARTED, attempt);
    peer_expect(&hung, TM_CMD_REVOKE);
    peer_worker(&broker, &other, "gnn", "1");
    peer_credit(&other, 1);
    peer_expect_dispatch(&other);
    peer_result(&hung, attempt, 0.125f); // after all
    peer_expect_answer(&client, 1, 0.125f);
    peer_expect(&other, TM_CMD_REVOKE);
    peer_close(&other);
    peer_close(&hung);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_failed(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 10);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    peer_failed(&worker, peer_expect_dispatch(&worker), TM_E_BAD_EVENT, "x[2] is not finite");
    peer_expect_error(&client, 1, TM_E_BAD_EVENT);
    assert_memory_equal(client.m.text.data, "x[2] is not finite", client.m.text.bytes);
    peer_request(&client, 2, "gnn", TTL_MS, 3);
    for (int i = 0; i < TM_ATTEMPTS_MAX; i++)
        peer_failed(&worker, peer_expect_dispatch(&worker), TM_E_BACKEND, "no");
    peer_expect_error(&client, 2, TM_E_ATTEMPTS);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

static void test_duplicates(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t old, new, worker;
    peer_client(&broker, &old);
    peer_client(&broker, &new);
    new.origin = old.origin;
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 5);
    peer_request(&old, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&worker);
    peer_request(&old, 1, "gnn", TTL_MS, 3);
    peer_request(&new, 1, "gnn", TTL_MS, 3);
    peer_expect_nothing(&worker);
    peer_result(&worker, attempt, 0.5f);
    peer_result(&worker, attempt, 0.5f);
    peer_expect_answer(&new, 1, 0.5f);
    peer_expect_nothing(&new);
    peer_expect_nothing(&old);
    peer_close(&worker);
    peer_close(&new);
    peer_close(&old);
    broker_stop(&broker);
}

static void test_client_vanishes(void **state) {
    (void)state;
    START(FAST);
    peer_t client, witness, worker;
    peer_client(&broker, &client);
    peer_client(&broker, &witness);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 1);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&worker);
    peer_close(&client);
    expect_while(&worker, TM_CMD_REVOKE, &witness);
    assert_int_equal(worker.m.id.serial, attempt.serial);
    peer_result(&worker, attempt, 0.5f); // lands nowhere
    peer_say(&witness, TM_CMD_STATUS);
    peer_expect(&witness, TM_CMD_REPORT);
    assert_int_equal(witness.m.clients, 1);
    assert_int_equal(witness.m.running, 0);
    peer_close(&worker);
    peer_close(&witness);
    broker_stop(&broker);
}

static void test_model_hash(void **state) {
    (void)state;
    START("--io-threads", "1");
    peer_t first, second;
    peer_worker(&broker, &first, "gnn", "1");
    peer_connect(&broker, &second, broker.workers);
    peer_register(&second, "gnn", "1", 2);
    peer_expect_error(&second, 0, TM_E_MODEL_HASH);
    peer_close(&second);
    peer_close(&first);
    broker_stop(&broker);
}

static void test_drain(void **state) {
    (void)state;
    START("--io-threads", "1");
    static char body[BODY_BYTES];
    peer_t client, worker, newcomer;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 1);
    assert_int_equal(http_get(broker.http, "GET", "/readyz", body, sizeof body), 200);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&worker);
    tm_proc_signal(&broker.proc, SIGTERM);
    for (int status = 200; status != 503; tm_test_sleep_ms(20))
        status = http_get(broker.http, "GET", "/readyz", body, sizeof body);
    assert_int_equal(http_get(broker.http, "GET", "/livez", body, sizeof body), 200);
    peer_request(&client, 2, "gnn", TTL_MS, 3);
    peer_expect_error(&client, 2, TM_E_DRAINING);
    peer_connect(&broker, &newcomer, broker.clients);
    tm_message_t m = {.command = TM_CMD_HELLO};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("test/1"));
    peer_send(&newcomer, &m, NULL, 0);
    peer_expect_error(&newcomer, 0, TM_E_DRAINING);
    peer_result(&worker, attempt, 0.5f);
    peer_expect_answer(&client, 1, 0.5f);
    peer_expect(&client, TM_CMD_BYE);
    peer_expect(&worker, TM_CMD_BYE);
    assert_true(tm_proc_wait(&broker.proc, PATIENCE_MS));
    assert_int_equal(broker.proc.code, 0);
    peer_close(&newcomer);
    peer_close(&worker);
    peer_close(&client);
    broker_clean(&broker);
}

static void test_drain_timeout(void **state) {
    (void)state;
    START("--drain-timeout", "200ms");
    peer_t client;
    peer_client(&broker, &client);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    peer_say(&client, TM_CMD_STATUS);
    peer_expect(&client, TM_CMD_REPORT);
    tm_proc_signal(&broker.proc, SIGINT);
    peer_expect_error(&client, 1, TM_E_DRAINING);
    peer_expect(&client, TM_CMD_BYE);
    assert_true(tm_proc_wait(&broker.proc, PATIENCE_MS));
    assert_int_equal(broker.proc.code, 0);
    peer_close(&client);
    broker_clean(&broker);
}

static void test_http(void **state) {
    (void)state;
    START("--io-threads", "1");
    static char body[BODY_BYTES];
    peer_t client, worker;
    peer_client(&broker, &client);
    peer_worker(&broker, &worker, "gnn", "1");
    peer_credit(&worker, 3);
    peer_request(&client, 1, "gnn", TTL_MS, 3);
    tm_id_t attempt = peer_expect_dispatch(&worker);
    peer_result(&worker, attempt, 0.5f);
    peer_expect_answer(&client, 1, 0.5f);
    assert_int_equal(http_get(broker.http, "GET", "/livez", body, sizeof body), 200);
    assert_int_equal(http_get(broker.http, "GET", "/metrics", body, sizeof body), 200);
    static const char *const lines[] = {
        "\ntrackmill_requests_answered_total 1\n",
        "\ntrackmill_workers 1\n",
        "\ntrackmill_service_seconds_bucket{le=\"+Inf\"} 1\n",
        "\ntrackmill_service_seconds_count 1\n",
        "\ntrackmill_model_answered_total{model=\"gnn\",version=\"1\"} 1\n",
        "\ntrackmill_model_service_seconds_count{model=\"gnn\",version=\"1\"} 1\n",
        "trackmill_worker_credit{worker=\"hand\",peer=",
        "# TYPE trackmill_queue_wait_seconds histogram\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        if (!strstr(body, lines[i]))
            fail_msg("not in /metrics: %s", lines[i]);
    assert_int_equal(http_get(broker.http, "GET", "/stats", body, sizeof body), 200);
    json_error_t error;
    json_t *root = json_loads(body, 0, &error);
    assert_non_null(root);
    json_t *first = json_array_get(json_object_get(root, "workers"), 0);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "hand");
    assert_int_equal(json_integer_value(json_object_get(first, "credit")), 2);
    json_t *requests = json_object_get(root, "requests");
    assert_int_equal(json_integer_value(json_object_get(requests, "answered")), 1);
    json_decref(root);
    assert_int_equal(http_get(broker.http, "GET", "/nothing", body, sizeof body), 404);
    assert_int_equal(http_get(broker.http, "DELETE", "/stats", body, sizeof body), 405);
    peer_close(&worker);
    peer_close(&client);
    broker_stop(&broker);
}

/* Runs the program to its end; returns its exit code and what it wrote. */
static int run(const char *const *argv, char **out, char **err) {
    tm_proc_t proc = {0};
    tm_proc_start(&proc, argv);
    assert_true(tm_proc_wait(&proc, PATIENCE_MS));
    int code = proc.code;
    *out = tm_proc_text(&proc, false);
    *err = tm_proc_text(&proc, true);
    tm_proc_clear(&proc, false);
    return code;
}

static int count_lines(const char *text) {
    int lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

static void test_command_line(void **state) {
    (void)state;
    START("--io-threads", "1");
    char *out, *err;
    const char *const taken[] = {TM_BROKER_PROGRAM,
                                 "--client-endpoint",
                                 broker.clients,
                                 "--worker-endpoint",
                                 "tcp://127.0.0.1:*",
                                 "--http",
                                 "off",
                                 NULL};
    assert_int_equal(run(taken, &out, &err), 1);
    assert_string_equal(out, "");
    assert_int_equal(count_lines(err), 1);
    assert_non_null(strstr(err, broker.clients));
    assert_non_null(strstr(err, "in use"));
    free(out), free(err);
    const char *const http[] = {TM_BROKER_PROGRAM,   "--client-endpoint",
                                "tcp://127.0.0.1:*", "--worker-endpoint",
                                "tcp://127.0.0.1:*", "--http",
                                broker.http,         NULL};
    assert_int_equal(run(http, &out, &err), 1);
    assert_int_equal(count_lines(err), 1);
    assert_non_null(strstr(err, broker.http));
    free(out), free(err);
    const char *const bad[] = {TM_BROKER_PROGRAM, "--queue-bytes", "lots", NULL};
    assert_int_equal(run(bad, &out, &err), 1);
    assert_int_equal(count_lines(err), 1);
    assert_non_null(strstr(err, "lots"));
    free(out), free(err);
    const char *const help[] = {TM_BROKER_PROGRAM, "--help", NULL};
    assert_int_equal(run(help, &out, &err), 0);
    assert_non_null(strstr(out, "examples:"));
    free(out), free(err);
    const char *const version[] = {TM_BROKER_PROGRAM, "--version", NULL};
    assert_int_equal(run(version, &out, &err), 0);
    assert_memory_equal(out, "trackmill-broker ", 17);
    free(out), free(err);
    assert_int_equal(tm_proc_count_err(&broker.proc, "no authentication"), 0);
    broker_stop(&broker);
    broker_start(&broker, (const char *const[]){"--client-endpoint", "tcp://*:*", NULL});
    assert_int_equal(tm_proc_count_err(&broker.proc, "no authentication"), 1);
    broker_stop(&broker);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_welcome),       TEST(test_request),
        TEST(test_ipv6_and_ipc),  TEST(test_credit_is_obeyed),
        TEST(test_priorities),    TEST(test_busy),
        TEST(test_deadlines),     TEST(test_dead_worker),
        TEST(test_hung_worker),   TEST(test_failed),
        TEST(test_duplicates),    TEST(test_client_vanishes),
        TEST(test_model_hash),    TEST(test_drain),
        TEST(test_drain_timeout), TEST(test_http),
        TEST(test_command_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
