// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "worker/options.h"

#define ARGUMENTS_MAX 32

/* Splits `line` at blanks into an argv of its own. */
static tm_status_t parse(const char *line, tm_options_t *options, tm_error_t *err) {
    static char copy[2048];
    char *argv[ARGUMENTS_MAX + 1];
    int argc = 0;
    char program[] = "trackmill-worker";
    argv[argc++] = program;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *save = NULL, *item = strtok_r(copy, " ", &save); item != NULL;
         item = strtok_r(NULL, " ", &save)) {
        assert_true(argc < ARGUMENTS_MAX);
        argv[argc++] = item;
    }
    argv[argc] = NULL;
    return tm_options_parse(argc, argv, options, err);
}

static void test_defaults(void **unused) {
    (void)unused;
    static tm_options_t options;
    tm_error_t err;
    assert_int_equal(parse("", &options, &err), TM_OK);
    assert_int_equal(options.session.n_brokers, 1);
    assert_string_equal(options.session.broker[0], TM_DEFAULT_WORKER_ENDPOINT);
    assert_int_equal(options.session.identity.slots, 1);
    assert_int_equal(options.batch, 0); /* the back end chooses */
    assert_int_equal(options.session.attempt_timeout_ms, TM_ATTEMPT_TIMEOUT_MS);
    assert_int_equal(options.session.connect_timeout_ms, 0);
    assert_int_equal(options.session.exit_when_idle_ms, 0);
    assert_true(options.threads >= 1);
    assert_null(options.device);
    assert_true(strlen(options.session.identity.name) > 0);
}

static void test_all(void **unused) {
    (void)unused;
    static tm_options_t options;
    tm_error_t err;
    assert_int_equal(parse("--broker tcp://a:1,tcp://b:2 --backend mock --broker tcp://c:3 "
                           "--model time_ms=1 --model bytes=2 --slots 3 --batch 7 --threads 5 "
                           "--device cuda:1 --name w "
                           "--attempt-timeout 7 --connect-timeout 8 --exit-when-idle 9",
                           &options, &err),
                     TM_OK);
    assert_int_equal(options.session.n_brokers, 3);
    assert_string_equal(options.session.broker[0], "tcp://a:1");
    assert_string_equal(options.session.broker[1], "tcp://b:2");
    assert_string_equal(options.session.broker[2], "tcp://c:3");
    assert_string_equal(options.backend->name, "mock");
    assert_int_equal(options.n_models, 2);
    assert_string_equal(options.model[1], "bytes=2");
    assert_int_equal(options.session.identity.slots, 3);
    assert_int_equal(options.batch, 7);
    assert_int_equal(options.threads, 5);
    assert_string_equal(options.device, "cuda:1");
    assert_string_equal(options.session.identity.name, "w");
    assert_int_equal(options.session.attempt_timeout_ms, 7000);
    assert_int_equal(options.session.connect_timeout_ms, 8000);
    assert_int_equal(options.session.exit_when_idle_ms, 9000);
}

static void test_bad(void **unused) {
    (void)unused;
    static const char *const lines[] = {
        "--slots 0",
        "--slots 65",
        "--slots 2x",
        "--slots -1",
        "--threads 0",
        "--batch 0",
        "--batch 65",
        "--attempt-timeout 0",
        "--attempt-timeout 99999999999999999999",
        "--broker ,",
        "--broker tcp://a:1,tcp://a:1",
        "--backend torch",
        "--log-level loud",
        "--name 0123456789012345678901234567890123456789012345678901234567890123",
        "stray",
        "--no-such-option",
        "--broker 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        static tm_options_t options;
        tm_error_t err = {0};
        assert_int_equal(parse(lines[i], &options, &err), TM_E_ARGUMENT);
        assert_true(err.text[0] != '\0');
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_all),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
