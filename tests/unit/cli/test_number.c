// SPDX-License-Identifier: Apache-2.0
// Numbers from text: exactly what strtod and strtof make of them, and nothing else.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/event/number.h"
#include "tests/unit/cli/scratch.h"

static void same_as_strtod(const char *text) {
    const char *end = text + strlen(text);
    double d, d_wanted = strtod(text, NULL);
    float f, f_wanted = strtof(text, NULL);
    if (!tm_number_f64(text, end, &d) || memcmp(&d, &d_wanted, sizeof d) != 0) {
        fail_msg("f64 of %s", text);
    }
    if (!tm_number_f32(text, end, &f) || memcmp(&f, &f_wanted, sizeof f) != 0) {
        fail_msg("f32 of %s: %.9g, not %.9g", text, (double)f, (double)f_wanted);
    }
}

static void test_known(void **state) {
    (void)state;
    static const char *const texts[] = {
        "0", "-0", "1", "-1.5", "+2.25", ".5", "5.", "1e3", "1E-3", "1e+3", "-0.0", "1e-45",
        "1e-40", "3.4028234e38", "1.17549435e-38", "1.1754942e-38", "9007199254740993",
        "12345678901234567890", "0.1", "0.30000000000000004", "1e22", "1e23", "123456789e-30",
        /* half-way between two floats, and just beside */
        "16777217", "16777219", "1.000000059604644775390625", "1.0000000596046447753906251",
        "1.0000000596046447753906249", "33554433", "8388608.5", "8388609.5"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        same_as_strtod(texts[i]);
    }
}

static void test_random(void **state) {
    (void)state;
    uint64_t seed = 20261123;
    char text[64];
    for (int i = 0; i < 300000; i++) {
        uint32_t digits = scratch_random(&seed) % 20 + 1;
        uint64_t mantissa = (uint64_t)scratch_random(&seed) << 32 | scratch_random(&seed);
        mantissa = digits < 20 ? mantissa % (uint64_t)strtod("1e19", NULL) : mantissa;
        snprintf(text, sizeof text, "%llu", (unsigned long long)mantissa);
        text[digits < strlen(text) ? digits : strlen(text)] = '\0';
        size_t n = strlen(text), point = scratch_random(&seed) % (n + 1);
        memmove(text + point + 1, text + point, n - point + 1);
        text[point] = '.';
        if (scratch_random(&seed) % 3 == 0) {
            snprintf(text + strlen(text), 8, "e%d", (int)(scratch_random(&seed) % 50) - 30);
        }
        same_as_strtod(text);
    }
}

static void test_refused(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",   " ", "x", "nan",   "inf", "-inf",  "1x",  "1 ",    " 1",  "0x10",    "1e",
        "e5", ".", "-", "1e400", "--1", "1.2.3", "1,2", "1e5.0", "+-1", "infinity"};
    double d;
    float f;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const char *end = texts[i] + strlen(texts[i]);
        if (tm_number_f64(texts[i], end, &d) || tm_number_f32(texts[i], end, &f)) {
            fail_msg("'%s' was taken for a number", texts[i]);
        }
    }
    const char *large = "1e39";
    assert_false(tm_number_f32(large, large + strlen(large), &f));
}

static void test_cell_ends_at_comma(void **state) {
    (void)state;
    const char *line = "1.25,3e2,0.1234567890123456789,7";
    double d;
    assert_true(tm_number_f64(line, line + 4, &d));
    assert_true(d == 1.25);
    assert_true(tm_number_f64(line + 9, line + 30, &d));
    assert_true(d == 0.1234567890123456789);
}

static bool u64(const char *text, uint64_t *out) {
    return tm_number_u64(text, text + strlen(text), out);
}

static bool i64(const char *text, int64_t *out) {
    return tm_number_i64(text, text + strlen(text), out);
}

static void test_whole(void **state) {
    (void)state;
    uint64_t u;
    int64_t i;
    assert_true(u64("18446744073709551615", &u) && u == UINT64_MAX);
    assert_true(u64("0", &u) && u == 0);
    assert_false(u64("18446744073709551616", &u));
    assert_false(u64("99999999999999999999", &u));
    assert_false(u64("-1", &u));
    assert_false(u64("1.0", &u));
    assert_false(u64("", &u));
    assert_true(i64("-9223372036854775808", &i) && i == INT64_MIN);
    assert_true(i64("9223372036854775807", &i) && i == INT64_MAX);
    assert_false(i64("9223372036854775808", &i));
    assert_false(i64("-9223372036854775809", &i));
    assert_false(i64("-", &i));
    assert_false(i64("+1", &i));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),   cmocka_unit_test(test_random),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_cell_ends_at_comma),
        cmocka_unit_test(test_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
