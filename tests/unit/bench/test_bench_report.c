// SPDX-License-Identifier: Apache-2.0
/* The figures of `trackmill bench`, and how it compares answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "client/cli/bench_report.h"

#define N 200

static void test_figures(void **state) {
    (void)state;
    tm_bench_sample_t sample[N];
    tm_bench_point_t point = {.sample = sample, .n = N, .points = 1000, .window_us = 4000000};
    tm_bench_figures_t f;
    point.sent_bytes = 16000;
    point.received_bytes = 4500;
    for (uint64_t i = 0; i < N; i++) { /* 1 … 200 ms, shuffled */
        uint64_t rank = i * 77 % N + 1;
        sample[i] = (tm_bench_sample_t){.total_us = 1000 * rank,
                                        .queue_us = 1000 * (N + 1 - rank),
                                        .service_us = 500 * rank,
                                        .stages_us = 1000 * rank - 10 * rank};
    }
    tm_bench_figures_make(&point, &f);
    assert_true(f.p50 == 100 && f.p90 == 180 && f.p99 == 198 && f.max == 200);
    assert_true(f.queue == 100 && f.service == 50 && f.stages == 99);
    assert_true(f.overhead == 1);
    assert_true(f.events_per_s == 50 && f.points_per_s == 250 && f.seconds == 4);
    assert_true(f.sent_per_point == 16 && f.received_per_point == 4.5);
}

static void test_figures_of_few(void **state) {
    (void)state;
    tm_bench_sample_t sample[2] = {{.total_us = 5000, .stages_us = 6000}, {.total_us = 3000}};
    tm_bench_point_t point = {.sample = sample, .n = 2, .window_us = 1000000};
    tm_bench_figures_t f;
    tm_bench_figures_make(&point, &f);
    assert_true(f.p50 == 3 && f.p90 == 5 && f.p99 == 5 && f.max == 5);
    assert_true(f.overhead == 0); /* a clock of another machine never makes it negative */
    point.n = 1;
    tm_bench_figures_make(&point, &f);
    assert_true(f.p50 == f.max);
    point.n = 0;
    tm_bench_figures_make(&point, &f);
    assert_true(isnan(f.p50) && isnan(f.overhead) && isnan(f.sent_per_point));
    assert_true(f.events_per_s == 0);
}

static void test_failures(void **state) {
    (void)state;
    char text[64], little[8];
    tm_bench_point_t point = {0};
    assert_string_equal(tm_bench_failures(&point, text, sizeof text), "");
    point.failed[TM_E_NO_BROKER] = 2;
    point.failed[TM_E_BUSY] = 11;
    assert_string_equal(tm_bench_failures(&point, text, sizeof text), "busy=11;no_broker=2");
    assert_int_equal(strlen(tm_bench_failures(&point, little, sizeof little)), sizeof little - 1);
}

/* Two candidates: 0 1 2 and 3 4. */
static tm_tracks_t tracks_make(void) {
    tm_tracks_t tracks;
    assert_int_equal(tm_tracks_alloc(&tracks, 5, 2, 5, NULL), TM_OK);
    memcpy(tracks.offsets, (const uint32_t[]){0, 3, 5}, 3 * sizeof(uint32_t));
    memcpy(tracks.indices, (const uint32_t[]){0, 1, 2, 3, 4}, 5 * sizeof(uint32_t));
    tracks.scores[0] = 0.5f;
    tracks.scores[1] = 0.75f;
    return tracks;
}

static void test_check(void **state) {
    (void)state;
    tm_bench_event_t event = {.n_points = 5};
    tm_bench_events_t events = {.event = &event, .n = 1, .lock = PTHREAD_MUTEX_INITIALIZER};
    uint8_t hash[TM_HASH_BYTES] = {1}, other[TM_HASH_BYTES] = {2};
    tm_error_t why;
    tm_tracks_t tracks = tracks_make();
    strcpy(event.file.name, "event7");

    assert_true(tm_bench_events_check(&events, 0, &tracks, hash, &why)); /* becomes the reference */
    assert_null(tracks.offsets);
    tracks = tracks_make();
    assert_true(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    tracks.scores[1] += 0.5f * TM_BENCH_SCORE_TOLERANCE;
    assert_true(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    assert_false(tm_bench_events_check(&events, 0, &tracks, other, &why));
    assert_non_null(strstr(why.text, "event7: "));
    tracks.scores[1] = NAN;
    assert_false(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    tracks.scores[1] = 0.8f;
    assert_false(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    assert_non_null(strstr(why.text, "candidate 1 has score"));
    tracks.scores[1] = 0.75f;
    tracks.indices[0] = 1;
    tracks.indices[1] = 0;
    assert_false(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    assert_non_null(strstr(why.text, "candidate 0"));
    tracks.indices[0] = 0;
    tracks.indices[1] = 1;
    tracks.offsets[1] = 2;
    assert_false(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    tracks.offsets[1] = 3;
    tracks.n_tracks = 1;
    assert_false(tm_bench_events_check(&events, 0, &tracks, hash, &why));
    assert_non_null(strstr(why.text, "1 candidates instead of 2"));
    tm_tracks_clear(&tracks);
    tm_tracks_clear(&event.reference);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_figures_of_few),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
