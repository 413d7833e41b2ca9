// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/cursor.h"
#include "wire/limits.h"

/* A value in hex, in a malloc'd buffer of exactly its size, so that sanitizers see any overrun. */
typedef struct {
    uint8_t *data;
    size_t bytes;
} bytes_t;

static bytes_t from_hex(const char *hex) {
    bytes_t b = {malloc(strlen(hex) / 2 + 1), 0};
    assert_non_null(b.data);
    for (; *hex; hex += *hex == ' ' ? 1 : 2) {
        if (*hex != ' ') {
            char pair[3] = {hex[0], hex[1], 0};
            b.data[b.bytes++] = (uint8_t)strtoul(pair, NULL, 16);
        }
    }
    uint8_t *exact = realloc(b.data, b.bytes > 0 ? b.bytes : 1);
    assert_non_null(exact);
    b.data = exact;
    return b;
}

static bool skips(const char *hex, unsigned depth) {
    bytes_t b = from_hex(hex);
    tm_cursor_t cursor = tm_cursor(b.data, b.bytes);
    bool ok = tm_cursor_skip(&cursor, depth);
    assert_ptr_equal(cursor.at, ok ? b.data + b.bytes : b.data); /* what is refused stays unread */
    free(b.data);
    return ok;
}

/* Every encoding of msgpack once, with its kind. */
static const struct {
    const char *hex;
    tm_token_kind_t kind;
    uint64_t number;
    uint32_t count;
} tokens[] = {
    {"00", TM_TOKEN_UINT, 0, 0},
    {"7f", TM_TOKEN_UINT, 127, 0},
    {"cc ff", TM_TOKEN_UINT, 255, 0},
    {"cd 0100", TM_TOKEN_UINT, 256, 0},
    {"ce 00010000", TM_TOKEN_UINT, 65536, 0},
    {"cf ffffffffffffffff", TM_TOKEN_UINT, UINT64_MAX, 0},
    {"d0 7f", TM_TOKEN_UINT, 127, 0},
    {"d1 7fff", TM_TOKEN_UINT, 32767, 0},
    {"d2 7fffffff", TM_TOKEN_UINT, INT32_MAX, 0},
    {"d3 7fffffffffffffff", TM_TOKEN_UINT, INT64_MAX, 0},
    {"e0", TM_TOKEN_NEGATIVE, 0, 0},
    {"ff", TM_TOKEN_NEGATIVE, 0, 0},
    {"d0 80", TM_TOKEN_NEGATIVE, 0x80, 0},
    {"d1 8000", TM_TOKEN_NEGATIVE, 0x8000, 0},
    {"d2 ffffffff", TM_TOKEN_NEGATIVE, 0xffffffff, 0},
    {"d3 8000000000000000", TM_TOKEN_NEGATIVE, 0x8000000000000000, 0},
    {"c0", TM_TOKEN_NIL, 0, 0},
    {"c2", TM_TOKEN_BOOL, 0, 0},
    {"c3", TM_TOKEN_BOOL, 1, 0},
    {"ca 3f800000", TM_TOKEN_FLOAT, 0x3f800000, 0},
    {"cb 7ff8000000000000", TM_TOKEN_FLOAT, 0x7ff8000000000000, 0},
    {"a0", TM_TOKEN_STR, 0, 0},
    {"a3 616263", TM_TOKEN_STR, 0, 3},
    {"d9 01 61", TM_TOKEN_STR, 0, 1},
    {"da 0002 6162", TM_TOKEN_STR, 0, 2},
    {"db 00000001 61", TM_TOKEN_STR, 0, 1},
    {"c4 00", TM_TOKEN_BIN, 0, 0},
    {"c4 02 ffff", TM_TOKEN_BIN, 0, 2},
    {"c5 0001 00", TM_TOKEN_BIN, 0, 1},
    {"c6 00000001 00", TM_TOKEN_BIN, 0, 1},
    {"d4 05 01", TM_TOKEN_EXT, 0, 1},
    {"d5 05 0102", TM_TOKEN_EXT, 0, 2},
    {"d6 ff 01020304", TM_TOKEN_EXT, 0, 4},
    {"d7 ff 0102030405060708", TM_TOKEN_EXT, 0, 8},
    {"d8 05 0102030405060708090a0b0c0d0e0f10", TM_TOKEN_EXT, 0, 16},
    {"c7 00 05", TM_TOKEN_EXT, 0, 0},
    {"c7 01 05 aa", TM_TOKEN_EXT, 0, 1},
    {"c8 0001 05 aa", TM_TOKEN_EXT, 0, 1},
    {"c9 00000001 05 aa", TM_TOKEN_EXT, 0, 1},
    {"90", TM_TOKEN_ARRAY, 0, 0},
    {"dc 0000", TM_TOKEN_ARRAY, 0, 0},
    {"dd 00000000", TM_TOKEN_ARRAY, 0, 0},
    {"80", TM_TOKEN_MAP, 0, 0},
    {"de 0000", TM_TOKEN_MAP, 0, 0},
    {"df 00000000", TM_TOKEN_MAP, 0, 0},
};

static void test_every_encoding(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        bytes_t b = from_hex(tokens[i].hex);
        tm_cursor_t cursor = tm_cursor(b.data, b.bytes);
        tm_token_t token;
        assert_true(tm_cursor_next(&cursor, &token));
        assert_true(tm_cursor_at_end(&cursor));
        assert_int_equal(token.kind, tokens[i].kind);
        assert_int_equal(token.count, tokens[i].count);
        if (tokens[i].number > 0) {
            assert_true(token.number == tokens[i].number);
        }
        free(b.data);

        /* cut off at every byte: refused, and the cursor has not moved */
        for (size_t cut = 0; cut < b.bytes; cut++) {
            bytes_t whole = from_hex(tokens[i].hex);
            uint8_t *part = malloc(cut > 0 ? cut : 1);
            assert_non_null(part);
            memcpy(part, whole.data, cut);
            cursor = tm_cursor(part, cut);
            assert_false(tm_cursor_next(&cursor, &token));
            assert_ptr_equal(cursor.at, part);
            assert_false(tm_cursor_skip(&cursor, TM_MAP_MAX_DEPTH));
            assert_ptr_equal(cursor.at, part);
            free(part);
            free(whole.data);
        }
    }
}

static void test_hostile_counts(void **state) {
    (void)state;
    static const char *const hostile[] = {
        "dd ffffffff",
        "dd ffffffff c0",
        "dd 08000000 c0",
        "df ffffffff c0 c0",
        "df 80000000 c0c0",
        "dc ffff c0c0",
        "de ffff c0c0",
        "db ffffffff 61",
        "c6 ffffffff 00",
        "c9 ffffffff 05",
        "9f c0",
        "8f c0c0",
        "df 00000002 c0c0c0",
        "dd 00000003 c0c0",
        "bf 61",
        "c1",
        "",
    };
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++) {
        assert_false(skips(hostile[i], TM_MAP_MAX_DEPTH));
        /* nor does anybody get to see the count */
        bytes_t b = from_hex(hostile[i]);
        tm_cursor_t cursor = tm_cursor(b.data, b.bytes);
        tm_token_t token;
        assert_false(tm_cursor_next(&cursor, &token));
        free(b.data);
    }
}

static void test_depth(void **state) {
    (void)state;
    assert_true(skips("c0", 0));
    assert_false(skips("90", 0));
    assert_true(skips("90", 1));
    assert_true(skips("91 c0", 1));
    assert_false(skips("91 90", 1));
    assert_true(skips("91 91 91 90", 4));
    assert_false(skips("91 91 91 91 90", 4));
    assert_true(skips("92 91 91 90 82 01 02 03 93 01 02 03", 4));
    assert_true(skips("94 90 90 80 91 80", 3));
    /* more than any depth there is: clamped, not overrun */
    assert_false(skips("91 91 91 91 90", 1000));

    uint8_t bomb[TM_MAP_MAX_BYTES];
    memset(bomb, 0x91, sizeof bomb);
    tm_cursor_t cursor = tm_cursor(bomb, sizeof bomb);
    assert_false(tm_cursor_skip(&cursor, TM_MAP_MAX_DEPTH));
    memset(bomb, 0x81, sizeof bomb);
    cursor = tm_cursor(bomb, sizeof bomb);
    assert_false(tm_cursor_skip(&cursor, TM_MAP_MAX_DEPTH));
}

static void test_skip_leaves_what_follows(void **state) {
    (void)state;
    bytes_t b = from_hex("82 a161 01 a162 92 02 03 2a");
    tm_cursor_t cursor = tm_cursor(b.data, b.bytes);
    uint64_t number = 0;
    assert_true(tm_cursor_skip(&cursor, 2));
    assert_true(tm_cursor_get_uint(&cursor, &number));
    assert_int_equal(number, 42);
    assert_true(tm_cursor_at_end(&cursor));
    assert_false(tm_cursor_skip(&cursor, 2));
    free(b.data);
}

static void test_getters_take_their_type_only(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        bytes_t b = from_hex(tokens[i].hex);
        tm_token_kind_t kind = tokens[i].kind;
        uint64_t number;
        uint32_t count;
        const char *text;
        const uint8_t *data;
        tm_cursor_t cursor = tm_cursor(b.data, b.bytes);
        assert_int_equal(tm_cursor_get_uint(&cursor, &number), kind == TM_TOKEN_UINT);
        assert_true((cursor.at == b.data) == (kind != TM_TOKEN_UINT));
        cursor = tm_cursor(b.data, b.bytes);
        assert_int_equal(tm_cursor_get_str(&cursor, &text, &count), kind == TM_TOKEN_STR);
        assert_true((cursor.at == b.data) == (kind != TM_TOKEN_STR));
        cursor = tm_cursor(b.data, b.bytes);
        assert_int_equal(tm_cursor_get_bin(&cursor, &data, &count), kind == TM_TOKEN_BIN);
        assert_true((cursor.at == b.data) == (kind != TM_TOKEN_BIN));
        cursor = tm_cursor(b.data, b.bytes);
        assert_int_equal(tm_cursor_get_array(&cursor, &count), kind == TM_TOKEN_ARRAY);
        assert_true((cursor.at == b.data) == (kind != TM_TOKEN_ARRAY));
        cursor = tm_cursor(b.data, b.bytes);
        assert_int_equal(tm_cursor_get_map(&cursor, &count), kind == TM_TOKEN_MAP);
        assert_true((cursor.at == b.data) == (kind != TM_TOKEN_MAP));
        free(b.data);
    }
}

static void test_nothing_at_all(void **state) {
    (void)state;
    tm_cursor_t cursor = tm_cursor(NULL, 0);
    tm_token_t token;
    assert_true(tm_cursor_at_end(&cursor));
    assert_false(tm_cursor_next(&cursor, &token));
    assert_false(tm_cursor_skip(&cursor, 4));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_encoding),
        cmocka_unit_test(test_hostile_counts),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_skip_leaves_what_follows),
        cmocka_unit_test(test_getters_take_their_type_only),
        cmocka_unit_test(test_nothing_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
