// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "wire/error.h"
#include "wire/text.h"

static void test_set_formats_and_returns_the_code(void **state) {
    (void)state;
    tm_error_t err;
    assert_int_equal(tm_error_set(&err, TM_E_BUSY, "queue of %d full", 7), TM_E_BUSY);
    assert_int_equal(err.code, TM_E_BUSY);
    assert_string_equal(err.text, "queue of 7 full");
    assert_int_equal(tm_error_set(NULL, TM_E_FILE, "nobody listens"), TM_E_FILE);
    tm_error_prefix(NULL, "nor here");
}

static void test_set_makes_one_clean_line(void **state) {
    (void)state;
    tm_error_t err;
    tm_error_set(&err, TM_E_FILE,
                 "a\nb\rc\x1b[31md\x7f"
                 "e");
    assert_string_equal(err.text, "a?b?c?[31md?e");
    tm_error_set(&err, TM_E_FILE,
                 "caf\xc3\xa9 \xc2\x9b"
                 "1m"); /* é stays, the C1 control CSI goes */
    assert_string_equal(err.text, "caf\xc3\xa9 ??1m");
    tm_error_set(&err, TM_E_FILE, "caf\xe9 \xc3\xa9"); /* Latin-1 in it: no UTF-8 */
    assert_string_equal(err.text, "caf? ??");
}

static void test_long_text_is_cut_between_characters(void **state) {
    (void)state;
    tm_error_t err;
    char text[2 * TM_ERROR_TEXT_BYTES];
    for (size_t shift = 0; shift < 4; shift++) { /* a 4-byte character at every alignment */
        memset(text, 'a', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4) {
            memcpy(text + i, "\xf0\x9f\x92\xa5", 5);
        }
        tm_error_set(&err, TM_E_FILE, "%s", text);
        size_t bytes = strlen(err.text);
        assert_in_range(bytes, TM_ERROR_TEXT_BYTES - 4, TM_ERROR_TEXT_BYTES - 1);
        assert_true(tm_text_valid(err.text, bytes));
        assert_memory_equal(err.text, text, bytes);
        assert_null(strchr(err.text, '?'));
    }
}

static void test_prefix_goes_before(void **state) {
    (void)state;
    tm_error_t err;
    tm_error_set(&err, TM_E_FILE, "no array x");
    tm_error_prefix(&err, "%s: ", "event.npz");
    assert_string_equal(err.text, "event.npz: no array x");
    assert_int_equal(err.code, TM_E_FILE);
    for (int i = 0; i < 200; i++) {
        tm_error_prefix(&err, "%d: ", i);
    }
    assert_int_equal(strlen(err.text), TM_ERROR_TEXT_BYTES - 1);
    assert_memory_equal(err.text, "199: 198: ", 10);
}

static void test_names_are_distinct(void **state) {
    (void)state;
    int known = 0;
    for (int a = 0; a < 200; a++) {
        const char *name = tm_status_name((tm_status_t)a);
        assert_non_null(name);
        if (strcmp(name, "unknown") == 0) {
            assert_false(tm_status_retryable((tm_status_t)a));
            continue;
        }
        known++;
        for (int b = 0; b < a; b++) {
            assert_string_not_equal(name, tm_status_name((tm_status_t)b));
        }
    }
    assert_int_equal(known, 25);
    assert_string_equal(tm_status_name(TM_E_DEADLINE), "deadline");
    assert_string_equal(tm_status_name((tm_status_t)-1), "unknown");
}

static void test_retryable(void **state) {
    (void)state;
    assert_true(tm_status_retryable(TM_E_BUSY));
    assert_true(tm_status_retryable(TM_E_DRAINING));
    assert_true(tm_status_retryable(TM_E_BACKEND));
    assert_true(tm_status_retryable(TM_E_NO_MEMORY));
    assert_true(tm_status_retryable(TM_E_NO_BROKER));
    assert_false(tm_status_retryable(TM_OK));
    assert_false(tm_status_retryable(TM_E_BAD_EVENT));
    assert_false(tm_status_retryable(TM_E_MISSING_COLUMN));
    assert_false(tm_status_retryable(TM_E_ATTEMPTS));
    assert_false(tm_status_retryable(TM_E_MALFORMED));
    assert_false(tm_status_retryable(TM_E_CANCELLED));
}

static bool valid(const char *text) {
    return tm_text_valid(text, strlen(text));
}

static void test_text_valid(void **state) {
    (void)state;
    assert_true(valid(""));
    assert_true(valid("plain ~"));
    assert_true(valid("\xc2\xa0\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"));
    assert_false(tm_text_valid("a\0b", 3));
    assert_false(valid("\t"));
    assert_false(valid("\x7f"));
    assert_false(valid("\xc2\x80"));         /* C1 control */
    assert_false(valid("\x80"));             /* continuation alone */
    assert_false(valid("\xc3"));             /* cut off */
    assert_false(valid("\xc0\xaf"));         /* overlong / */
    assert_false(valid("\xe0\x9f\xbf"));     /* overlong */
    assert_false(valid("\xf0\x8f\xbf\xbf")); /* overlong */
    assert_false(valid("\xed\xa0\x80"));     /* surrogate */
    assert_false(valid("\xf4\x90\x80\x80")); /* beyond U+10FFFF */
    assert_false(valid("\xf8\x88\x80\x80\x80"));
    assert_false(valid("\xff"));
}

static void test_text_mend_always_yields_valid_text(void **state) {
    (void)state;
    uint32_t seed = 1;
    for (int round = 0; round < 20000; round++) {
        char text[12];
        for (size_t i = 0; i < sizeof text; i++) {
            seed = seed * 1664525u + 1013904223u;
            text[i] = (char)(seed >> 24);
        }
        size_t max = (size_t)round % (sizeof text + 1);
        size_t bytes = tm_text_mend(text, sizeof text, max);
        assert_true(bytes <= max);
        assert_true(tm_text_valid(text, bytes));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_formats_and_returns_the_code),
        cmocka_unit_test(test_set_makes_one_clean_line),
        cmocka_unit_test(test_long_text_is_cut_between_characters),
        cmocka_unit_test(test_prefix_goes_before),
        cmocka_unit_test(test_names_are_distinct),
        cmocka_unit_test(test_retryable),
        cmocka_unit_test(test_text_valid),
        cmocka_unit_test(test_text_mend_always_yields_valid_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
