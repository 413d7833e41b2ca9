// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/columns.h"
#include "wire/f16.h"

static void assert_ok(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        fail_msg("%s: %s", tm_status_name(status), err->text);
    }
}

static void assert_says(tm_status_t status, tm_status_t expected, const tm_error_t *err,
                        const char *says) {
    assert_int_equal(status, expected);
    assert_int_equal(err->code, expected);
    if (!strstr(err->text, says)) {
        fail_msg("'%s' does not say '%s'", err->text, says);
    }
}

/* ---- binary16 ---- */

/* The value of a half by its definition. */
static double half_value(uint16_t half) {
    int exponent = half >> 10 & 0x1f;
    double mantissa = half & 0x3ff;
    double magnitude = exponent == 0      ? ldexp(mantissa, -24)
                       : exponent == 0x1f ? (mantissa > 0 ? NAN : INFINITY)
                                          : ldexp(1024 + mantissa, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void test_every_half(void **state) {
    (void)state;
    for (uint32_t half = 0; half <= UINT16_MAX; half++) {
        double expected = half_value((uint16_t)half);
        float value = tm_f16_to_f32((uint16_t)half);
        if (isnan(expected)) {
            assert_true(isnan(value));
            assert_true(isnan(tm_f16_to_f32(tm_f32_to_f16(value))));
            continue;
        }
        assert_true((double)value == expected);
        assert_int_equal(signbit(value) != 0, half >> 15);
        assert_int_equal(tm_f32_to_f16(value), half);
    }
}

static void test_halves_round_to_nearest_even(void **state) {
    (void)state;
    for (uint32_t half = 0; half < 0x7c00; half++) {
        /* between two neighbours: below, at and above the middle */
        double low = half_value((uint16_t)half);
        double high = half == 0x7bff ? 65536.0 : half_value((uint16_t)(half + 1));
        float middle = (float)((low + high) / 2); /* exact: one bit more than a half has */
        uint16_t even = (uint16_t)(half & 1 ? half + 1 : half);
        assert_int_equal(tm_f32_to_f16(middle), even);
        assert_int_equal(tm_f32_to_f16(nextafterf(middle, 0)), half);
        assert_int_equal(tm_f32_to_f16(nextafterf(middle, INFINITY)), half + 1);
        assert_int_equal(tm_f32_to_f16(-middle), even | 0x8000);
    }
    assert_int_equal(tm_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(tm_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(tm_f32_to_f16(1e-30f), 0);
    assert_int_equal(tm_f32_to_f16(65519.0f), 0x7bff);
    assert_int_equal(tm_f32_to_f16(65520.0f), 0x7c00);
}

/* ---- columns ---- */

static void test_type_sizes(void **state) {
    (void)state;
    static const uint32_t sizes[] = {0, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8, 0};
    for (int type = 0; type < 13; type++) {
        assert_int_equal(tm_type_bytes((tm_type_t)type), sizes[type]);
    }
    assert_int_equal(tm_type_bytes((tm_type_t)-1), 0);
}

static void test_add_and_find(void **state) {
    (void)state;
    static const float data[2];
    tm_columns_t columns = {0};
    tm_error_t err;
    char longest[TM_COLUMN_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[TM_COLUMN_NAME_MAX + 1] = '\0';

    assert_ok(tm_columns_add(&columns, "size_loc0", TM_F32, 2, data, &err), &err);
    assert_ptr_equal(tm_columns_find(&columns, "size_loc0"), &columns.column[0]);
    assert_null(tm_columns_find(&columns, "size_loc"));
    assert_says(tm_columns_add(&columns, "size_loc0", TM_F32, 2, data, &err), TM_E_ARGUMENT, &err,
                "there already");
    assert_says(tm_columns_add(&columns, "", TM_F32, 2, data, &err), TM_E_ARGUMENT, &err, "name");
    assert_says(tm_columns_add(&columns, NULL, TM_F32, 2, data, &err), TM_E_ARGUMENT, &err, "name");
    assert_says(tm_columns_add(&columns, "X", TM_F32, 2, data, &err), TM_E_ARGUMENT, &err, "name");
    assert_says(tm_columns_add(&columns, "a b", TM_F32, 2, data, &err), TM_E_ARGUMENT, &err,
                "name");
    assert_says(tm_columns_add(&columns, longest, TM_F32, 2, data, &err), TM_E_ARGUMENT, &err,
                "name");
    assert_says(tm_columns_add(&columns, "x", (tm_type_t)0, 2, data, &err), TM_E_ARGUMENT, &err,
                "type");
    assert_says(tm_columns_add(&columns, "x", (tm_type_t)12, 2, data, &err), TM_E_ARGUMENT, &err,
                "type");
    assert_says(tm_columns_add(&columns, "x", TM_F32, 1, NULL, &err), TM_E_ARGUMENT, &err,
                "no data");
    assert_int_equal(columns.count, 1);
    longest[TM_COLUMN_NAME_MAX] = '\0';
    assert_ok(tm_columns_add(&columns, longest, TM_U8, 0, NULL, &err), &err);
    assert_ptr_equal(tm_columns_find(&columns, longest), &columns.column[1]);

    while (columns.count < TM_COLUMNS_MAX) {
        char name[8] = {'c', (char)('a' + columns.count / 26), (char)('a' + columns.count % 26)};
        assert_ok(tm_columns_add(&columns, name, TM_U8, 0, NULL, &err), &err);
    }
    assert_says(tm_columns_add(&columns, "one_more", TM_U8, 0, NULL, &err), TM_E_ARGUMENT, &err,
                "more than 32");
}

static void test_get_converts_every_type(void **state) {
    (void)state;
    static const uint8_t u8[] = {7, 255};
    static const int8_t i8[] = {7, -128};
    static const uint16_t u16[] = {7, 65535}, f16[] = {0x4700, 0xb800}; /* 7, -0.5 */
    static const int16_t i16[] = {7, -32768};
    static const uint32_t u32[] = {7, UINT32_MAX};
    static const int32_t i32[] = {7, INT32_MIN};
    static const float f32[] = {7, -0.5f};
    static const uint64_t u64[] = {7, 1ull << 53};
    static const int64_t i64[] = {7, -(1ll << 53)};
    static const double f64[] = {7, 1e300};
    const struct {
        tm_type_t type;
        const void *data;
        double last;
    } each[] = {
        {TM_U8, u8, 255},
        {TM_I8, i8, -128},
        {TM_U16, u16, 65535},
        {TM_I16, i16, -32768},
        {TM_F16, f16, -0.5},
        {TM_U32, u32, 4294967295.0},
        {TM_I32, i32, -2147483648.},
        {TM_F32, f32, -0.5},
        {TM_U64, u64, 9007199254740992.0},
        {TM_I64, i64, -9007199254740992.0},
        {TM_F64, f64, 1e300},
    };
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        tm_column_t column = {.name = "c", .type = each[i].type, .n = 2, .data = each[i].data};
        assert_true(tm_column_get(&column, 0) == 7.0);
        assert_true(tm_column_get(&column, 1) == each[i].last);
        float out[3] = {0, 0, 42};
        tm_column_to_f32(&column, out);
        assert_true(out[0] == 7.0f);
        assert_true(out[1] == (float)each[i].last);
        assert_true(out[2] == 42.0f);
    }
}

/* ---- events ---- */

enum { ROWS = 4 };

typedef struct {
    float x[ROWS], y[ROWS], z[ROWS];
    tm_columns_t columns;
} event_t;

static void event_make(event_t *event) {
    tm_error_t err;
    *event = (event_t){.x = {1, 2, 3, 4}, .y = {-1, -2, -3, -4}, .z = {0, 100, 1e5f, -1e5f}};
    assert_ok(tm_columns_add(&event->columns, "x", TM_F32, ROWS, event->x, &err), &err);
    assert_ok(tm_columns_add(&event->columns, "y", TM_F32, ROWS, event->y, &err), &err);
    assert_ok(tm_columns_add(&event->columns, "z", TM_F32, ROWS, event->z, &err), &err);
}

static void test_event_is_taken(void **state) {
    (void)state;
    static const uint8_t cells[ROWS];
    event_t event;
    uint32_t n = 0;
    tm_error_t err;
    event_make(&event);
    assert_ok(tm_event_check(&event.columns, &n, &err), &err);
    assert_int_equal(n, ROWS);
    assert_ok(tm_columns_add(&event.columns, "n_cells", TM_U8, ROWS, cells, &err), &err);
    assert_ok(tm_event_check(&event.columns, &n, &err), &err);
    for (uint32_t i = 0; i < event.columns.count; i++) {
        event.columns.column[i].n = 0;
    }
    assert_ok(tm_event_check(&event.columns, &n, &err), &err);
    assert_int_equal(n, 0);
}

static void test_event_is_refused(void **state) {
    (void)state;
    static const uint8_t cells[ROWS];
    static const double y[ROWS];
    event_t event;
    uint32_t n = 77;
    tm_error_t err;

    for (uint32_t i = 0; i < 3; i++) {
        event_make(&event);
        event.columns.column[i].name[0] = 'q';
        assert_says(tm_event_check(&event.columns, &n, &err), TM_E_MISSING_COLUMN, &err,
                    i == 0   ? "no column x"
                    : i == 1 ? "no column y"
                             : "no column z");
        event_make(&event);
        event.columns.column[i].n = ROWS - 1;
        assert_says(tm_event_check(&event.columns, &n, &err), TM_E_BAD_EVENT, &err, "equal");
    }
    event_make(&event);
    assert_ok(tm_columns_add(&event.columns, "n_cells", TM_U8, ROWS - 1, cells, &err), &err);
    assert_says(tm_event_check(&event.columns, &n, &err), TM_E_BAD_EVENT, &err,
                "n_cells has 3 rows, x has 4");
    event_make(&event);
    event.columns.column[1].type = TM_F64;
    event.columns.column[1].data = y;
    assert_says(tm_event_check(&event.columns, &n, &err), TM_E_BAD_EVENT, &err, "y is f64");

    static const float bad[] = {NAN, INFINITY, -INFINITY, 100001.0f, -100001.0f};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        event_make(&event);
        event.y[ROWS - 1] = bad[i];
        assert_says(tm_event_check(&event.columns, &n, &err), TM_E_BAD_EVENT, &err,
                    "column y, row 3");
    }
    event_make(&event);
    for (uint32_t i = 0; i < 3; i++) {
        event.columns.column[i].n = (uint64_t)TM_POINTS_MAX + 1; /* refused before it is read */
    }
    assert_says(tm_event_check(&event.columns, &n, &err), TM_E_BAD_EVENT, &err, "at most 4000000");
    tm_columns_t none = {0};
    assert_says(tm_event_check(&none, &n, &err), TM_E_MISSING_COLUMN, &err, "no column x");
    assert_int_equal(n, 77);
}

/* ---- tracks ---- */

static void test_tracks_there_and_back(void **state) {
    (void)state;
    tm_tracks_t tracks, back;
    tm_columns_t columns;
    tm_error_t err;
    uint32_t n_tracks[] = {0, 1, 3};
    for (size_t k = 0; k < 3; k++) {
        assert_ok(tm_tracks_alloc(&tracks, 9, n_tracks[k], 2 * n_tracks[k], &err), &err);
        for (uint32_t t = 0; t < n_tracks[k]; t++) {
            tracks.offsets[t + 1] = 2 * t + 2;
            tracks.indices[2 * t] = 8 - t;
            tracks.indices[2 * t + 1] = t;
            tracks.scores[t] = (float)t / 2;
        }
        memset(&columns, 0xff, sizeof columns); /* overwritten, not appended to */
        assert_ok(tm_tracks_to_columns(&tracks, &columns, &err), &err);
        assert_int_equal(columns.count, 3);
        assert_ok(tm_tracks_from_columns(&columns, 9, &back, &err), &err);
        assert_int_equal(back.n_points, 9);
        assert_int_equal(back.n_tracks, n_tracks[k]);
        assert_true(back.offsets != tracks.offsets);
        assert_memory_equal(back.offsets, tracks.offsets, (n_tracks[k] + 1) * sizeof(uint32_t));
        if (n_tracks[k] > 0) {
            assert_memory_equal(back.indices, tracks.indices, 2 * n_tracks[k] * sizeof(uint32_t));
            assert_memory_equal(back.scores, tracks.scores, n_tracks[k] * sizeof(float));
        }
        tm_tracks_clear(&tracks);
        tm_tracks_clear(&back);
        tm_tracks_clear(&back); /* safe on a zeroed struct */
        assert_null(back.offsets);
    }
}

static void test_start_values_there_and_back(void **state) {
    (void)state;
    tm_tracks_t tracks, back;
    tm_columns_t columns;
    tm_error_t err;
    for (uint32_t n = 0; n < 4; n++) {
        assert_ok(tm_tracks_alloc(&tracks, 9, n, 0, &err), &err);
        assert_ok(tm_tracks_add_starts(&tracks, &err), &err);
        float *const real[] = {tracks.starts.pt, tracks.starts.phi, tracks.starts.eta,
                               tracks.starts.d0, tracks.starts.z0};
        for (uint32_t t = 0; t < n; t++) {
            tracks.starts.charge[t] = (int8_t)(t % 3) - 1;
            for (int k = 0; k < 5; k++) {
                real[k][t] = (float)(10 * k) + (float)t;
            }
        }
        assert_ok(tm_tracks_to_columns(&tracks, &columns, &err), &err);
        assert_int_equal(columns.count, 9);
        assert_ok(tm_tracks_from_columns(&columns, 9, &back, &err), &err);
        assert_non_null(back.starts.charge);
        const float *const got[] = {back.starts.pt, back.starts.phi, back.starts.eta,
                                    back.starts.d0, back.starts.z0};
        for (uint32_t t = 0; t < n; t++) {
            assert_int_equal(back.starts.charge[t], tracks.starts.charge[t]);
            for (int k = 0; k < 5; k++) {
                assert_float_equal(got[k][t], real[k][t], 0);
            }
        }
        tm_tracks_clear(&tracks);
        tm_tracks_clear(&back);
        assert_null(back.starts.charge);
    }
}

typedef struct {
    uint32_t offsets[4], indices[5];
    float scores[3], starts[3];
    int8_t charge[3];
    tm_columns_t columns;
} answer_t;

/* answer_make, and start values. */
static void answer_make(answer_t *answer);
static void answer_make_with_starts(answer_t *answer) {
    static const char *const names[] = {"pt", "phi", "eta", "d0", "z0"};
    tm_error_t err;
    answer_make(answer);
    for (int k = 0; k < 5; k++) {
        assert_ok(tm_columns_add(&answer->columns, names[k], TM_F32, 3, answer->starts, &err),
                  &err);
    }
    assert_ok(tm_columns_add(&answer->columns, "charge", TM_I8, 3, answer->charge, &err), &err);
}

static void answer_make(answer_t *answer) {
    tm_error_t err;
    *answer =
        (answer_t){.offsets = {0, 2, 2, 5}, .indices = {0, 9, 1, 2, 3}, .scores = {0, 0.5f, 1}};
    assert_ok(tm_columns_add(&answer->columns, "offsets", TM_U32, 4, answer->offsets, &err), &err);
    assert_ok(tm_columns_add(&answer->columns, "indices", TM_U32, 5, answer->indices, &err), &err);
    assert_ok(tm_columns_add(&answer->columns, "scores", TM_F32, 3, answer->scores, &err), &err);
}

static void answer_refused(const answer_t *answer, const char *says) {
    tm_tracks_t tracks;
    tm_error_t err;
    memset(&tracks, 0xff, sizeof tracks);
    assert_says(tm_tracks_from_columns(&answer->columns, 10, &tracks, &err), TM_E_MALFORMED, &err,
                says);
    assert_null(tracks.offsets);
    assert_null(tracks.indices);
    assert_null(tracks.scores);
}

static void test_bad_start_values_are_refused(void **state) {
    (void)state;
    answer_t answer;
    tm_tracks_t tracks;
    tm_error_t err;
    answer_make_with_starts(&answer);
    assert_ok(tm_tracks_from_columns(&answer.columns, 10, &tracks, &err), &err);
    tm_tracks_clear(&tracks);
    for (uint32_t i = 3; i < 9; i++) {
        answer_make_with_starts(&answer);
        answer.columns.column[i].name[0] = 'q';
        answer_refused(&answer, "no column");
        answer_make_with_starts(&answer);
        answer.columns.column[i].type = TM_U8;
        answer_refused(&answer, "is u8, must be");
        answer_make_with_starts(&answer);
        answer.columns.column[i].n = 2;
        answer_refused(&answer, "for 3 candidates");
    }
    answer_make_with_starts(&answer);
    answer.starts[1] = NAN;
    answer_refused(&answer, "pt 1 is not finite");
    answer_make_with_starts(&answer);
    answer.charge[2] = 2;
    answer_refused(&answer, "charge 2 is 2");
}

static void test_bad_tracks_are_refused(void **state) {
    (void)state;
    answer_t answer;
    tm_tracks_t tracks;
    tm_error_t err;
    answer_make(&answer);
    assert_ok(tm_tracks_from_columns(&answer.columns, 10, &tracks, &err), &err);
    tm_tracks_clear(&tracks);

    for (uint32_t i = 0; i < 3; i++) {
        answer_make(&answer);
        answer.columns.column[i].name[0] = 'q';
        answer_refused(&answer, "no column");
        answer_make(&answer);
        answer.columns.column[i].type = TM_I32;
        answer_refused(&answer, "is i32, must be");
    }
    answer_make(&answer);
    answer.columns.column[0].n = 0;
    answer_refused(&answer, "0 offsets");
    answer_make(&answer);
    answer.columns.column[0].n = 3;
    answer_refused(&answer, "3 offsets for 3 scores");
    answer_make(&answer);
    answer.columns.column[2].n = 2;
    answer_refused(&answer, "4 offsets for 2 scores");
    answer_make(&answer);
    answer.columns.column[1].n = 4;
    answer_refused(&answer, "must be from 0 to 4");
    answer_make(&answer);
    answer.columns.column[1].n = 11;
    answer_refused(&answer, "11 indices for 10");
    answer_make(&answer);
    answer.offsets[0] = 1;
    answer_refused(&answer, "offsets run from 1");
    answer_make(&answer);
    answer.offsets[3] = 6;
    answer_refused(&answer, "to 6");
    answer_make(&answer);
    answer.offsets[1] = 3;
    answer_refused(&answer, "offset 2 is 2, after 3");
    answer_make(&answer);
    answer.offsets[1] = UINT32_MAX;
    answer_refused(&answer, "offset 2 is 2");
    answer_make(&answer);
    answer.indices[1] = 10;
    answer_refused(&answer, "index 1 is 10");
    answer_make(&answer);
    answer.indices[4] = 0;
    answer_refused(&answer, "space point 0 is in two");
    static const float bad[] = {NAN, INFINITY, -0.001f, 1.001f};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        answer_make(&answer);
        answer.scores[2] = bad[i];
        answer_refused(&answer, "score 2");
    }
}

static void test_timings(void **state) {
    (void)state;
    tm_timings_t timings = {0};
    tm_timings_add(&timings, "a name of more than fifteen letters", UINT64_MAX);
    assert_string_equal(timings.stage[0].name, "a name of more ");
    assert_int_equal(timings.stage[0].us, UINT32_MAX);
    for (int i = 1; i < TM_STAGES_MAX + 5; i++) {
        tm_timings_add(&timings, "gnn", (uint64_t)i);
    }
    assert_int_equal(timings.count, TM_STAGES_MAX);
    assert_int_equal(timings.stage[TM_STAGES_MAX - 1].us, TM_STAGES_MAX - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half),
        cmocka_unit_test(test_halves_round_to_nearest_even),
        cmocka_unit_test(test_type_sizes),
        cmocka_unit_test(test_add_and_find),
        cmocka_unit_test(test_get_converts_every_type),
        cmocka_unit_test(test_event_is_taken),
        cmocka_unit_test(test_event_is_refused),
        cmocka_unit_test(test_tracks_there_and_back),
        cmocka_unit_test(test_start_values_there_and_back),
        cmocka_unit_test(test_bad_start_values_are_refused),
        cmocka_unit_test(test_bad_tracks_are_refused),
        cmocka_unit_test(test_timings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
