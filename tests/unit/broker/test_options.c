// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of trackmill-broker.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/options.h"

enum { WORDS_MAX = 16 };

static tm_status_t parse(const char *const *words, tm_options_t *options, tm_error_t *error) {
    static char copy[WORDS_MAX][128];
    char *argv[WORDS_MAX + 2] = {(char *)(uintptr_t) "trackmill-broker"};
    int argc = 1;
    for (; words[argc - 1]; argc++)
        argv[argc] = strcpy(copy[argc], words[argc - 1]);
    tm_options_next_t next;
    return tm_options_parse(argc, argv, options, &next, error);
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL}, &options, &error)

static void test_defaults(void **state) {
    (void)state;
    tm_options_t options;
    tm_error_t error;
    assert_int_equal(parse((const char *const[]){NULL}, &options, &error), TM_OK);
    assert_int_equal(options.n_client_endpoints, 1);
    assert_string_equal(options.client_endpoints[0], TM_DEFAULT_CLIENT_ENDPOINT);
    assert_string_equal(options.worker_endpoints[0], TM_DEFAULT_WORKER_ENDPOINT);
    assert_string_equal(options.http_host, "127.0.0.1");
    assert_string_equal(options.http_port, "5572");
    assert_in_range(options.io_threads, 1, 4);
    assert_int_equal(options.sched.queue_max_requests, TM_QUEUE_MAX_REQUESTS);
    assert_int_equal(options.drain_timeout_ms, TM_DRAIN_TIMEOUT_MS);
}

static void test_values(void **state) {
    (void)state;
    tm_options_t options;
    tm_error_t error;
    assert_int_equal(PARSE("--client-endpoint", "tcp://[::1]:1", "--client-endpoint=ipc:///x",
                           "--http", "[::1]:80", "--queue-bytes", "1.5K"),
                     TM_OK);
    assert_int_equal(options.n_client_endpoints, 2);
    assert_string_equal(options.client_endpoints[1], "ipc:///x");
    assert_string_equal(options.http_host, "::1");
    assert_int_equal(options.sched.queue_max_bytes, 1536);
    assert_int_equal(PARSE("--http", "off", "--attempt-timeout", "500ms", "--heartbeat", "0.2",
                           "--drain-timeout", "2m", "--io-threads", "3", "--queue-requests", "7",
                           "--log-level", "debug"),
                     TM_OK);
    assert_string_equal(options.http_host, "");
    assert_int_equal(options.sched.attempt_timeout_ms, 500);
    assert_int_equal(options.sched.heartbeat_ms, 200);
    assert_int_equal(options.drain_timeout_ms, 120000);
    assert_int_equal(options.io_threads, 3);
    assert_int_equal(options.sched.queue_max_requests, 7);
    assert_int_equal(options.log_level, TM_LOG_DEBUG);
}

static void test_nonsense(void **state) {
    (void)state;
    tm_options_t options;
    tm_error_t error;
    static const char *const wrong[][3] = {
        {"--queue-bytes", "much", "much"},
        {"--queue-bytes", "1T", "1T"},
        {"--queue-requests", "0", "out of range"},
        {"--queue-requests", "-1", "out of range"},
        {"--queue-requests", "nan", "nan"},
        {"--io-threads", "65", "out of range"},
        {"--heartbeat", "1ms", "out of range"},
        {"--attempt-timeout", "", "--attempt-timeout"},
        {"--http", "127.0.0.1", "ADDR:PORT"},
        {"--http", "127.0.0.1:99999", "ADDR:PORT"},
        {"--http", ":80", "ADDR:PORT"},
        {"--client-endpoint", "127.0.0.1:5570", "tcp://"},
        {"--log-level", "loud", "loud"},
        {"--no-such", "x", "--no-such"},
        {"--log-level", "info", NULL},
    };
    for (int i = 0; wrong[i][2]; i++) {
        assert_int_equal(PARSE(wrong[i][0], wrong[i][1]), TM_E_ARGUMENT);
        if (!strstr(error.text, wrong[i][2]))
            fail_msg("%s %s: %s", wrong[i][0], wrong[i][1], error.text);
    }
    assert_int_equal(PARSE("stray"), TM_E_ARGUMENT);
    assert_int_equal(PARSE("--http"), TM_E_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
