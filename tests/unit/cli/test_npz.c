// SPDX-License-Identifier: Apache-2.0
// numpy archives: strict headers, exact lengths, checked sums; no damage crashes the reader.
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/event/blob.h"
#include "client/event/npz.h"
#include "tests/unit/cli/scratch.h"

static const int32_t three[] = {1, -2, 3};

static tm_status_t read_one(const char *path, const char *name, tm_column_t *array,
                            tm_arena_t *arena, tm_error_t *err) {
    tm_blob_t blob;
    tm_npz_t *npz;
    tm_status_t status = tm_blob_read(path, &blob, err);
    if (status != TM_OK) {
        return status;
    }
    status = tm_npz_open(path, blob.data, blob.bytes, &npz, err);
    if (status == TM_OK) {
        status = tm_npz_read(npz, name, 100, arena, array, err);
    }
    tm_npz_destroy(&npz);
    tm_blob_clear(&blob);
    return status;
}

static void test_types(void **state) {
    (void)state;
    static const uint8_t u1[] = {0, 255};
    static const int8_t i1[] = {-128, 127};
    static const uint16_t u2[] = {1, 65535}, f2[] = {0x3C00, 0xC000};
    static const int16_t i2[] = {-32768, 5};
    static const uint32_t u4[] = {1, 4294967295u};
    static const float f4[] = {0.5f, -1e30f};
    static const double f8[] = {0.1, -1e300};
    static const uint64_t u8[] = {1, UINT64_MAX};
    static const int64_t i8[] = {INT64_MIN, 7};
    const npy_t arrays[] = {NPY("u1", "|u1", u1),    NPY("i1", "|i1", i1), NPY("u2", "<u2", u2),
                            NPY("i2", "<i2", i2),    NPY("f2", "<f2", f2), NPY("u4", "<u4", u4),
                            NPY("i4", "<i4", three), NPY("f4", "<f4", f4), NPY("f8", "<f8", f8),
                            NPY("u8", "<u8", u8),    NPY("i8", "<i8", i8)};
    static const tm_type_t types[] = {TM_U8,  TM_I8,  TM_U16, TM_I16, TM_F16, TM_U32,
                                      TM_I32, TM_F32, TM_F64, TM_U64, TM_I64};
    const size_t n = sizeof arrays / sizeof arrays[0];
    for (int deflate = 0; deflate < 2; deflate++) {
        const char *path = scratch_npz("types.npz", arrays, n, deflate);
        for (size_t i = 0; i < n; i++) {
            tm_arena_t *arena = tm_arena_new();
            tm_column_t array;
            tm_error_t err = {0};
            if (read_one(path, arrays[i].name, &array, arena, &err) != TM_OK) {
                fail_msg("%s", err.text);
            }
            assert_int_equal(array.type, types[i]);
            assert_int_equal(array.n, arrays[i].count);
            assert_memory_equal(array.data, arrays[i].data, arrays[i].bytes);
            assert_string_equal(array.name, arrays[i].name);
            tm_arena_destroy(&arena);
        }
    }
}

static void refused(npy_t array, const char *why) {
    tm_arena_t *arena = tm_arena_new();
    tm_column_t column;
    tm_error_t err = {0};
    array.name = "a";
    const char *path = scratch_npz("refused.npz", &array, 1, false);
    assert_int_equal(read_one(path, "a", &column, arena, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "refused.npz: array a"));
    if (!strstr(err.text, why)) {
        fail_msg("'%s' lacks '%s'", err.text, why);
    }
    tm_arena_destroy(&arena);
}

static void test_refused(void **state) {
    (void)state;
#define HEADER(text, why) \
    refused((npy_t){.header = text, .data = three, .bytes = sizeof three}, why)
    HEADER("{'descr': '>i4', 'fortran_order': False, 'shape': (3,), }", "'>i4'");
    HEADER("{'descr': '|b1', 'fortran_order': False, 'shape': (12,), }", "'|b1'");
    HEADER("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "'|O'");
    HEADER("{'descr': '<i4', 'fortran_order': True, 'shape': (3,), }", "Fortran");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 1), }", "2 dimensions");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (), }", "0 dimensions");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }", "4 elements");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", "2 elements");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (18446744073709551615,), }",
           "malformed");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387907,), }",
           "4611686018427387907 elements");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (-3,), }", "malformed");
    HEADER("{'descr': '<i4', 'fortran_order': Maybe, 'shape': (3,), }", "malformed");
    HEADER("{'descr': '<i4', 'fortran_order': False, }", "malformed");
    HEADER("{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (3,), }",
           "malformed");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), 'more': 1}", "malformed");
    HEADER("{'descr': [('x', '<i4')], 'fortran_order': False, 'shape': (3,), }", "malformed");
    HEADER("{'descr': '<i4', 'fortran_order': False, 'shape': (3,), } x", "malformed");
    HEADER("", "malformed");
    refused((npy_t){.descr = "<i4", .count = 3, .data = three, .bytes = sizeof three, .version = 3},
            "version 3");
    static const uint8_t many[101];
    refused((npy_t){.descr = "|u1", .count = 101, .data = many, .bytes = 101}, "101 elements");
}

static void test_missing_and_version_2(void **state) {
    (void)state;
    tm_arena_t *arena = tm_arena_new();
    tm_column_t column;
    tm_error_t err = {0};
    npy_t array = NPY("a", "<i4", three);
    array.version = 2;
    const char *path = scratch_npz("two.npz", &array, 1, false);
    assert_int_equal(read_one(path, "a", &column, arena, &err), TM_OK);
    assert_true(tm_column_get(&column, 1) == -2);
    assert_int_equal(read_one(path, "b", &column, arena, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "array b is missing"));
    tm_arena_destroy(&arena);
}

/* Cut at every length and with every byte changed: an error, or the very same numbers. */
static void test_damage(void **state) {
    (void)state;
    for (int deflate = 0; deflate < 2; deflate++) {
        size_t n;
        const npy_t array = NPY("a", "<i4", three);
        char *bytes = scratch_read(scratch_npz("whole.npz", &array, 1, deflate), &n);
        for (size_t i = 0; i < 2 * n; i++) {
            tm_arena_t *arena = tm_arena_new();
            tm_column_t column;
            tm_error_t err = {0};
            size_t at = i % n;
            char was = bytes[at];
            bytes[at] = i < n ? was : (char)(was ^ 0x40);
            const char *path = scratch_write("damaged.npz", bytes, i < n ? at : n);
            if (read_one(path, "a", &column, arena, &err) == TM_OK) {
                assert_true(i >= n); /* some bytes, like dates, mean nothing to us */
                assert_int_equal(column.n, 3);
                assert_memory_equal(column.data, three, sizeof three);
            } else {
                assert_non_null(strstr(err.text, "damaged.npz"));
            }
            bytes[at] = was;
            tm_arena_destroy(&arena);
        }
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_missing_and_version_2),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, scratch_start, scratch_stop);
}
