// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_answer.h"

/* An ANSWER as it is after decoding: one track of three of four space points. */
typedef struct {
    tm_message_t m;
    uint8_t columns[TM_MAP_MAX_BYTES], times[TM_MAP_MAX_BYTES];
    _Alignas(8) uint8_t payload[64];
    size_t payload_bytes;
} sample_t;

static void make(sample_t *s) {
    static const char hash[TM_HASH_BYTES] = {1, 2, 3};
    uint32_t offsets[] = {0, 3}, indices[] = {3, 1, 0};
    float scores[] = {0.75f};
    tm_tracks_t tracks = {
        .n_points = 4, .n_tracks = 1, .offsets = offsets, .indices = indices, .scores = scores};
    tm_columns_t columns = {0};
    tm_timings_t timings = {0};
    memset(s, 0, sizeof *s);
    tm_timings_add(&timings, "embed", 11);
    assert_int_equal(tm_tracks_to_columns(&tracks, &columns, NULL), TM_OK);
    s->payload_bytes = tm_payload_bytes(&columns);
    assert_in_range(s->payload_bytes, 1, sizeof s->payload);
    assert_int_equal(tm_payload_encode(&columns, s->payload, s->columns, &s->m.columns, NULL),
                     TM_OK);
    assert_int_equal(tm_times_encode(&timings, s->times, &s->m.times, NULL), TM_OK);
    s->m.set = TM_FIELD(COLUMNS) | TM_FIELD(TIMES);
    s->m.model = tm_slice("metric@3");
    s->m.worker = tm_slice("w1");
    s->m.hash = (tm_slice_t){hash, sizeof hash};
    s->m.attempt = 2;
}

static tm_status_t decode(const sample_t *s, uint32_t n_points, tm_answer_t *answer) {
    tm_error_t error;
    memset(answer, 0, sizeof *answer);
    return tm_answer_decode(&s->m, s->payload, s->payload_bytes, n_points, answer, &error);
}

static void test_sound_answer_is_taken_whole(void **state) {
    (void)state;
    sample_t s;
    tm_answer_t answer;
    make(&s);
    assert_int_equal(decode(&s, 4, &answer), TM_OK);
    memset(&s, 0xff, sizeof s); /* nothing of it is borrowed */
    assert_int_equal(answer.tracks.n_tracks, 1);
    assert_int_equal(answer.tracks.indices[0], 3);
    assert_string_equal(answer.model, "metric@3");
    assert_string_equal(answer.worker, "w1");
    assert_int_equal(answer.hash[2], 3);
    assert_string_equal(answer.timings.stage[0].name, "embed");
    assert_int_equal(answer.timings.stage[0].us, 11);
    tm_tracks_clear(&answer.tracks);
}

static void test_answer_to_another_event_is_refused(void **state) {
    (void)state;
    sample_t s;
    tm_answer_t answer;
    make(&s);
    assert_int_equal(decode(&s, 3, &answer), TM_E_MALFORMED);
    assert_null(answer.tracks.offsets);
}

/* Every byte of the answer changed, every length cut: an answer or an error, never more. */
static void test_damaged_answers_never_crash(void **state) {
    (void)state;
    sample_t s;
    tm_answer_t answer;
    make(&s);
    size_t payload_bytes = s.payload_bytes, bad = 0, cut = 0;
    uint32_t columns_bytes = s.m.columns.bytes, times_bytes = s.m.times.bytes;
    for (int flip = 1; flip < 256; flip <<= 1) {
        for (size_t i = 0; i < payload_bytes + columns_bytes + times_bytes; i++) {
            make(&s);
            uint8_t *at = i < payload_bytes ? s.payload + i
                          : i < payload_bytes + columns_bytes
                              ? s.columns + (i - payload_bytes)
                              : s.times + (i - payload_bytes - columns_bytes);
            *at = (uint8_t)(*at ^ flip);
            bad += decode(&s, 4, &answer) != TM_OK;
            tm_tracks_clear(&answer.tracks);
        }
    }
    assert_true(bad > 100);
    for (size_t i = 0; i < payload_bytes; i++) {
        make(&s);
        s.payload_bytes = i;
        cut += decode(&s, 4, &answer) == TM_E_MALFORMED;
    }
    assert_int_equal(cut, payload_bytes);
    for (uint32_t i = 0; i < columns_bytes; i++) {
        make(&s);
        s.m.columns.bytes = i;
        assert_int_equal(decode(&s, 4, &answer), TM_E_MALFORMED);
    }
}

static void test_no_memory_for_the_payload_is_said(void **state) {
    (void)state;
    sample_t s;
    tm_answer_t answer = {0};
    tm_error_t error;
    make(&s);
    assert_int_equal(tm_answer_decode(&s.m, NULL, s.payload_bytes, 4, &answer, &error),
                     TM_E_NO_MEMORY);
}

static void test_codes_of_errors(void **state) {
    (void)state;
    tm_message_t m = {.command = TM_CMD_ERROR, .code = TM_E_BACKEND};
    assert_int_equal(tm_answer_error_code(&m), TM_E_BACKEND);
    m.code = 0;
    assert_int_equal(tm_answer_error_code(&m), TM_E_MALFORMED);
    m.code = TM_E_CLOSED; /* codes of a process do not travel */
    assert_int_equal(tm_answer_error_code(&m), TM_E_MALFORMED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound_answer_is_taken_whole),
        cmocka_unit_test(test_answer_to_another_event_is_refused),
        cmocka_unit_test(test_damaged_answers_never_crash),
        cmocka_unit_test(test_no_memory_for_the_payload_is_said),
        cmocka_unit_test(test_codes_of_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
