// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_brokers.h"
#include "wire/limits.h"

static void test_list_is_taken_apart(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    assert_int_equal(tm_brokers_new(" tcp://a:1,tcp://[::1]:2 ,ipc:///run/x", 1, &brokers, NULL),
                     TM_OK);
    assert_int_equal(tm_brokers_count(brokers), 3);
    assert_string_equal(tm_brokers_endpoint(brokers, 0), "tcp://a:1");
    assert_string_equal(tm_brokers_endpoint(brokers, 1), "tcp://[::1]:2");
    assert_string_equal(tm_brokers_endpoint(brokers, 2), "ipc:///run/x");
    tm_brokers_destroy(&brokers);
    assert_null(brokers);
    tm_brokers_destroy(&brokers);
    tm_error_t error;
    assert_int_equal(tm_brokers_new("tcp://a:1,tcp://b:x", 1, &brokers, &error), TM_E_ARGUMENT);
    assert_non_null(strstr(error.text, "'tcp://b:x'"));
    assert_int_equal(tm_brokers_new("tcp://a:1,", 1, &brokers, &error), TM_E_ARGUMENT);
}

static void test_round_goes_on_at_once_then_waits_longer(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    assert_int_equal(tm_brokers_new("tcp://a:1,tcp://b:1", 1, &brokers, NULL), TM_OK);
    uint32_t expected = TM_RECONNECT_MIN_MS;
    for (int round = 0; round < 12; round++) {
        assert_int_equal(tm_brokers_current(brokers), 0);
        assert_int_equal(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), 0);
        assert_int_equal(tm_brokers_current(brokers), 1);
        assert_in_range(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), expected / 2, expected);
        expected = 2 * expected > TM_RECONNECT_MAX_MS ? TM_RECONNECT_MAX_MS : 2 * expected;
    }
    /* a WELCOME is not enough to begin anew, an answer is */
    tm_brokers_welcome(brokers);
    tm_brokers_fail(brokers, TM_E_NO_BROKER, "no");
    assert_in_range(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), TM_RECONNECT_MAX_MS / 2,
                    TM_RECONNECT_MAX_MS);
    tm_brokers_proved(brokers);
    assert_int_equal(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), 0);
    assert_in_range(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), TM_RECONNECT_MIN_MS / 2,
                    TM_RECONNECT_MIN_MS);
    tm_brokers_destroy(&brokers);
}

static void test_hint_of_a_busy_broker_is_heeded(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    assert_int_equal(tm_brokers_new("tcp://a:1,tcp://b:1", 1, &brokers, NULL), TM_OK);
    tm_brokers_hint(brokers, 3000);
    assert_int_equal(tm_brokers_fail(brokers, TM_E_BUSY, "is full"), 0); /* b may have room */
    assert_in_range(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), 3000,
                    3000 + TM_RECONNECT_MIN_MS);
    tm_brokers_fail(brokers, TM_E_NO_BROKER, "no");
    assert_in_range(tm_brokers_fail(brokers, TM_E_NO_BROKER, "no"), TM_RECONNECT_MIN_MS,
                    2 * TM_RECONNECT_MIN_MS);
    tm_brokers_destroy(&brokers);
}

static void test_words_name_every_broker(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    char text[256], small[16];
    assert_int_equal(tm_brokers_new("tcp://a:1,tcp://b:1", 1, &brokers, NULL), TM_OK);
    tm_brokers_describe(brokers, text, sizeof text);
    assert_string_equal(text, "tcp://a:1 has not been tried yet; tcp://b:1 has not been tried yet");
    tm_brokers_fail(brokers, TM_E_NO_BROKER, "refuses %s", "connections");
    tm_brokers_note(brokers, "is slow");
    tm_brokers_describe(brokers, text, sizeof text);
    assert_string_equal(text, "tcp://a:1 refuses connections; tcp://b:1 is slow");
    tm_brokers_describe(brokers, small, sizeof small);
    assert_string_equal(small, "tcp://a:1 refus");
    tm_brokers_destroy(&brokers);
}

static void test_another_try_does_not_unsay_the_last_word(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    char text[256];
    assert_int_equal(tm_brokers_new("tcp://a:1", 1, &brokers, NULL), TM_OK);
    tm_brokers_connecting(brokers);
    tm_brokers_describe(brokers, text, sizeof text);
    assert_string_equal(text, "tcp://a:1 has not accepted a connection yet");
    tm_brokers_fail(brokers, TM_E_NO_BROKER, "refuses connections");
    tm_brokers_connecting(brokers);
    tm_brokers_describe(brokers, text, sizeof text);
    assert_string_equal(text, "tcp://a:1 refuses connections");
    tm_brokers_destroy(&brokers);
}

static void test_version_must_be_everybodys_last_word(void **state) {
    (void)state;
    tm_brokers_t *brokers;
    assert_int_equal(tm_brokers_new("tcp://a:1,tcp://b:1", 1, &brokers, NULL), TM_OK);
    assert_false(tm_brokers_none_speaks_our_version(brokers));
    tm_brokers_fail(brokers, TM_E_VERSION, "v2");
    assert_false(tm_brokers_none_speaks_our_version(brokers));
    tm_brokers_fail(brokers, TM_E_VERSION, "v2");
    assert_true(tm_brokers_none_speaks_our_version(brokers));
    tm_brokers_welcome(brokers);
    assert_false(tm_brokers_none_speaks_our_version(brokers));
    tm_brokers_fail(brokers, TM_E_NO_BROKER, "gone");
    assert_false(tm_brokers_none_speaks_our_version(brokers));
    tm_brokers_destroy(&brokers);
}

static void test_random_numbers_fill_their_range(void **state) {
    (void)state;
    uint64_t seed = 42, sum = 0;
    uint32_t seen[4] = {0};
    for (int i = 0; i < 4000; i++) {
        uint32_t value = tm_random_upto(&seed, 3);
        assert_in_range(value, 0, 3);
        seen[value]++;
        sum += tm_random_upto(&seed, UINT32_MAX) >> 16;
    }
    for (int i = 0; i < 4; i++)
        assert_in_range(seen[i], 850, 1150);
    assert_in_range(sum / 4000, 30000, 35500);
    assert_int_equal(tm_random_upto(&seed, 0), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list_is_taken_apart),
        cmocka_unit_test(test_round_goes_on_at_once_then_waits_longer),
        cmocka_unit_test(test_hint_of_a_busy_broker_is_heeded),
        cmocka_unit_test(test_words_name_every_broker),
        cmocka_unit_test(test_another_try_does_not_unsay_the_last_word),
        cmocka_unit_test(test_version_must_be_everybodys_last_word),
        cmocka_unit_test(test_random_numbers_fill_their_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
