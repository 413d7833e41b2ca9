// SPDX-License-Identifier: Apache-2.0
// CSV tables: typed columns by name; every fault names file, line and column.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/event/csv.h"
#include "tests/unit/cli/scratch.h"

static tm_status_t read_ab(const char *path, tm_csv_t *csv, tm_csv_field_t fields[2], uint32_t *n,
                           tm_error_t *err) {
    fields[0] = (tm_csv_field_t){"a", TM_CSV_I64, true, NULL};
    fields[1] = (tm_csv_field_t){"b", TM_CSV_F32, false, NULL};
    tm_status_t status = tm_csv_open(path, csv, err);
    return status == TM_OK ? tm_csv_read(csv, fields, 2, 1000, n, err) : status;
}

static void good(const char *text, uint32_t rows, int64_t last_a, float last_b) {
    tm_csv_t csv;
    tm_csv_field_t fields[2];
    tm_error_t err = {0};
    uint32_t n = 99;
    tm_status_t status = read_ab(scratch_text("good.csv", text), &csv, fields, &n, &err);
    if (status != TM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(n, rows);
    assert_non_null(fields[0].data);
    if (rows) {
        assert_int_equal(((int64_t *)fields[0].data)[rows - 1], last_a);
        if (fields[1].data) {
            assert_true(((float *)fields[1].data)[rows - 1] == last_b);
        }
    }
    tm_csv_close(&csv);
}

static void bad(const char *text, size_t bytes, const char *where) {
    tm_csv_t csv;
    tm_csv_field_t fields[2];
    tm_error_t err = {0};
    uint32_t n;
    const char *path = scratch_write("bad.csv", text, bytes);
    tm_status_t status = read_ab(path, &csv, fields, &n, &err);
    assert_int_equal(status, TM_E_FILE);
    assert_int_equal(err.code, TM_E_FILE);
    assert_non_null(strstr(err.text, path));
    if (!strstr(err.text, where)) {
        fail_msg("'%s' lacks '%s'", err.text, where);
    }
    tm_csv_close(&csv);
}
#define BAD(text, where) bad(text, sizeof(text) - 1, where)

static void test_good(void **state) {
    (void)state;
    good("a,b\n1,2.5\n-3,4\n", 2, -3, 4);
    good("a,b\n1,2.5\n-3,4", 2, -3, 4);                /* no newline at the end */
    good("a,b\r\n1,2.5\r\n-3,4\r\n\r\n", 2, -3, 4);    /* CRLF, blank end */
    good("\xEF\xBB\xBF\"b\", a ,c\n1,2,x\n", 1, 2, 1); /* BOM, order, quotes, a column to skip */
    good("a\n7\n", 1, 7, 0);                           /* b is optional */
    good("a,b\n", 0, 0, 0);
    good("a,b", 0, 0, 0);
}

static void test_bad(void **state) {
    (void)state;
    BAD("", "line 1");
    BAD("\n1,2\n", "line 1");
    BAD("b,c\n1,2\n", "column a is missing");
    BAD("a,b,a\n1,2,3\n", "column a is there twice");
    BAD("a,b\n1,2\n3\n", "line 3: fewer");
    BAD("a,b\n1,2,3\n", "line 2: more");
    BAD("a,b\n1,2\n\n3,4\n", "line 3: blank");
    BAD("a,b\n1,2\nx,4\n", "line 3, column a: 'x'");
    BAD("a,b\n1,2\n1,nan\n", "line 3, column b: 'nan'");
    BAD("a,b\n1,inf\n", "line 2, column b");
    BAD("a,b\n1,\n", "line 2, column b: ''");
    BAD("a,b\n1.5,2\n", "whole number");
    BAD("a,b\n1,2\0\n", "line 2, column b");
    BAD("a,b\n99999999999999999999999,2\n", "line 2, column a");
    BAD("a,b\n1,2 \n", "line 2, column b");
}

static void test_too_many(void **state) {
    (void)state;
    char text[8192] = "a\n";
    for (int i = 0; i < 1001; i++) {
        strcat(text, "1\n");
    }
    bad(text, strlen(text), "more than 1000 rows");
    memset(text, ',', 100);
    text[100] = '\0';
    bad(text, 100, "more than 64 columns");
}

static void test_id(void **state) {
    (void)state;
    tm_csv_t csv;
    tm_csv_field_t field = {"id", TM_CSV_ID, true, NULL};
    tm_error_t err = {0};
    uint32_t n;
    assert_int_equal(
        tm_csv_open(scratch_text("id.csv", "id\n-1\n18446744073709551615\n5\n"), &csv, &err),
        TM_OK);
    assert_int_equal(tm_csv_read(&csv, &field, 1, 10, &n, &err), TM_OK);
    const uint64_t *id = field.data;
    assert_true(n == 3 && id[0] == UINT64_MAX && id[1] == UINT64_MAX && id[2] == 5);
    tm_csv_close(&csv);
}

static void test_many_rows(void **state) {
    (void)state;
    const uint32_t rows = 50000;
    char *text = malloc(rows * 16 + 16), *p = text;
    assert_non_null(text);
    p += sprintf(p, "a,b\n1000000000,0.125\n"); /* a long first line: the guess is too small */
    for (uint32_t i = 1; i < rows; i++) {
        p += sprintf(p, "%u,%u\n", i % 10, i % 7);
    }
    tm_csv_t csv;
    tm_csv_field_t fields[] = {{"b", TM_CSV_F64, true, NULL}, {"a", TM_CSV_I64, true, NULL}};
    tm_error_t err = {0};
    uint32_t n;
    assert_int_equal(tm_csv_open(scratch_gzip("many.csv", text, (size_t)(p - text)), &csv, &err),
                     TM_OK);
    assert_int_equal(tm_csv_read(&csv, fields, 2, rows, &n, &err), TM_OK);
    assert_int_equal(n, rows);
    assert_int_equal(((int64_t *)fields[1].data)[0], 1000000000);
    for (uint32_t i = 1; i < rows; i++) {
        assert_int_equal(((int64_t *)fields[1].data)[i], i % 10);
        assert_true(((double *)fields[0].data)[i] == i % 7);
    }
    tm_csv_close(&csv);
    free(text);
}

static void test_packed(void **state) {
    (void)state;
    static const char text[] = "a,b\n1,2\n3,4\n";
    size_t n;
    tm_blob_t blob;
    tm_error_t err = {0};
    char *paths[] = {strdup(scratch_gzip("t.gz", text, strlen(text))),
                     strdup(scratch_xz("t.xz", text, strlen(text)))};
    for (int i = 0; i < 2; i++) {
        if (tm_blob_read(paths[i], &blob, &err) != TM_OK) {
            fail_msg("%s", err.text);
        }
        assert_string_equal(blob.data, text);
        tm_blob_clear(&blob);
        /* cut anywhere: an error that names the file, or (too short to be known) plain bytes */
        char *bytes = scratch_read(paths[i], &n);
        for (size_t cut = 8; cut < n; cut++) {
            const char *path = scratch_write("cut", bytes, cut);
            assert_int_equal(tm_blob_read(path, &blob, &err), TM_E_FILE);
            assert_non_null(strstr(err.text, path));
        }
        for (size_t at = 6; at < n; at++) { /* no flip may crash; a wrong text may not come out */
            bytes[at] = (char)~bytes[at];
            if (tm_blob_read(scratch_write("flip", bytes, n), &blob, &err) == TM_OK) {
                assert_string_equal(blob.data, text);
                tm_blob_clear(&blob);
            }
            bytes[at] = (char)~bytes[at];
        }
        free(bytes);
    }
    /* gzip members strung together are one text */
    char *one = scratch_read(paths[0], &n), *two = malloc(2 * n);
    memcpy(two, one, n);
    memcpy(two + n, one, n);
    assert_int_equal(tm_blob_read(scratch_write("two.gz", two, 2 * n), &blob, &err), TM_OK);
    assert_int_equal(blob.bytes, 2 * strlen(text));
    tm_blob_clear(&blob);
    free(one);
    free(two);
    free(paths[0]);
    free(paths[1]);
}

static void test_no_file(void **state) {
    (void)state;
    tm_blob_t blob;
    tm_error_t err = {0};
    assert_int_equal(tm_blob_read(scratch_path("absent"), &blob, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "absent: No such file"));
    assert_int_equal(tm_blob_read(scratch_path("."), &blob, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "not a regular file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),      cmocka_unit_test(test_bad),
        cmocka_unit_test(test_too_many),  cmocka_unit_test(test_id),
        cmocka_unit_test(test_many_rows), cmocka_unit_test(test_packed),
        cmocka_unit_test(test_no_file),
    };
    return cmocka_run_group_tests(tests, scratch_start, scratch_stop);
}
