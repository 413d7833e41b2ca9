// SPDX-License-Identifier: Apache-2.0
/* What `trackmill bench` counts: agreement of track candidates, points, windows, processes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/cli/bench_point.h"
#include "client/cli/bench_watch.h"
#include "client/cli/bench_window.h"

enum { POINTS = 12 };

static void assert_near(double a, double b, double tolerance) {
    assert_true(fabs(a - b) <= tolerance);
}

/* ---- agreement ---- */

static tm_tracks_t make(uint32_t n_tracks, const uint32_t *lengths, const uint32_t *indices) {
    tm_tracks_t tracks;
    tm_error_t error;
    uint32_t n = 0;
    for (uint32_t t = 0; t < n_tracks; t++)
        n += lengths[t];
    assert_int_equal(tm_tracks_alloc(&tracks, POINTS, n_tracks, n, &error), TM_OK);
    tracks.offsets[0] = 0;
    for (uint32_t t = 0; t < n_tracks; t++) {
        tracks.offsets[t + 1] = tracks.offsets[t] + lengths[t];
        tracks.scores[t] = 0.5f;
    }
    memcpy(tracks.indices, indices, n * sizeof *indices);
    return tracks;
}

static tm_bench_agreement_t agree(const tm_tracks_t *tracks, const tm_tracks_t *reference) {
    uint32_t owner[POINTS];
    tm_bench_agreement_t agreement;
    tm_bench_agree_owners(reference, owner);
    tm_bench_agree(tracks, reference, owner, &agreement);
    return agreement;
}

static void test_agreement(void **state) {
    (void)state;
    tm_tracks_t reference =
        make(3, (uint32_t[]){4, 3, 3}, (uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    tm_tracks_t same = make(3, (uint32_t[]){3, 4, 3}, (uint32_t[]){9, 8, 7, 3, 2, 1, 0, 4, 5, 6});
    tm_tracks_t split =
        make(4, (uint32_t[]){2, 2, 3, 3}, (uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    tm_tracks_t merged = make(2, (uint32_t[]){7, 3}, (uint32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    tm_tracks_t longer =
        make(3, (uint32_t[]){5, 3, 3}, (uint32_t[]){0, 1, 2, 3, 10, 4, 5, 6, 7, 8, 9});
    tm_tracks_t swapped =
        make(3, (uint32_t[]){4, 3, 3}, (uint32_t[]){0, 1, 2, 4, 3, 5, 6, 7, 8, 9});
    tm_tracks_t none = make(0, NULL, (uint32_t[]){0});
    same.scores[1] = 0.75f;
    tm_bench_agreement_t a = agree(&same, &reference); /* order does not matter */
    assert_int_equal(a.lone, 0);
    assert_int_equal(a.all, 6);
    assert_near(a.differing, 0, 0);
    assert_near(a.score_difference, 0.25, 1e-9);
    const struct {
        const tm_tracks_t *tracks;
        uint64_t lone, all;
    } cases[] = {{&reference, 0, 6}, {&split, 3, 7},   {&merged, 3, 5},
                 {&longer, 2, 6},    {&swapped, 4, 6}, {&none, 3, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int turn = 0; turn < 2; turn++) { /* the same from both sides */
            a = turn ? agree(&reference, cases[i].tracks) : agree(cases[i].tracks, &reference);
            assert_int_equal(a.lone, cases[i].lone);
            assert_int_equal(a.all, cases[i].all);
            assert_near(a.differing, (double)a.lone / (double)a.all, 1e-12);
        }
    }
    a = agree(&none, &none);
    assert_near(a.differing, 0, 0);
    tm_tracks_t *all[] = {&reference, &same, &split, &merged, &longer, &swapped, &none};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        tm_tracks_clear(all[i]);
}

/* ---- points ---- */

static void test_points_travel_and_add_up(void **state) {
    (void)state;
    enum { SAMPLES = 3000 }; /* more than a pipe holds at once would block: the reader is a child */
    tm_error_t error = {.text = "the first failure"};
    tm_bench_point_t sent = {.in_flight = 3, .answered = SAMPLES, .model = "m@1"}, got, sum = {0};
    for (uint64_t i = 0; i < SAMPLES; i++)
        assert_int_equal(tm_bench_point_sample(&sent, &(tm_bench_sample_t){i, 2 * i, 0, 1}, &error),
                         TM_OK);
    tm_bench_point_fail(&sent, TM_E_BUSY, &error);
    tm_bench_point_fail(&sent, TM_E_DEADLINE, &(tm_error_t){.text = "the second"});
    tm_bench_point_agree(&sent, &(tm_bench_agreement_t){.differing = 0.25});
    tm_bench_point_agree(&sent,
                         &(tm_bench_agreement_t){.differing = 0.75, .score_difference = 0.5});
    sent.late_max_us = 77;

    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(tm_bench_point_write(&sent, fds[1], &error) == TM_OK ? 0 : 1);
    close(fds[1]);
    size_t n = 0, room = 1 << 20;
    char *bytes = malloc(room);
    for (ssize_t some; (some = read(fds[0], bytes + n, room - n)) > 0;)
        n += (size_t)some;
    close(fds[0]);
    int ended;
    waitpid(child, &ended, 0);
    assert_int_equal(ended, 0);

    assert_false(tm_bench_point_read(&got, bytes, n - 1));
    assert_false(tm_bench_point_read(&got, bytes, 10));
    for (int i = 0; i < 2; i++) {
        assert_true(tm_bench_point_read(&got, bytes, n));
        assert_int_equal(tm_bench_point_merge(&sum, &got, &error), TM_OK);
        tm_bench_point_clear(&got);
    }
    assert_int_equal(sum.n, 2 * SAMPLES);
    assert_int_equal(sum.sample[SAMPLES + 5].queue_us, 10);
    assert_int_equal(sum.answered, 2 * SAMPLES);
    assert_int_equal(sum.n_failed, 4);
    assert_int_equal(sum.failed[TM_E_BUSY], 2);
    assert_string_equal(sum.failure.text, "the first failure");
    assert_string_equal(sum.model, "m@1");
    assert_int_equal(sum.compared, 4);
    assert_near(sum.differing_sum, 2, 1e-12);
    assert_near(sum.differing_max, 0.75, 0);
    assert_int_equal(sum.late_max_us, 77);
    tm_bench_point_clear(&sum);
    tm_bench_point_clear(&sent);
    free(bytes);
}

/* ---- windows ---- */

static void test_counted_window(void **state) {
    (void)state;
    tm_bench_window_t w;
    tm_bench_window_init(&w, 1, 2, 3, false, 1);
    assert_true(tm_bench_window_arrive(&w));
    uint64_t start = atomic_load(&w.start_us), second = 1000000;
    assert_int_equal(tm_bench_window_phase(&w, start + 100 * second), TM_BENCH_WARM_UP);
    /* time alone does not end the warm-up: three answers are wanted */
    assert_int_equal(tm_bench_window_count(&w, start + 5 * second), TM_BENCH_WARM_UP);
    assert_int_equal(tm_bench_window_count(&w, start + 6 * second), TM_BENCH_WARM_UP);
    assert_int_equal(tm_bench_window_count(&w, start + 7 * second), TM_BENCH_WARM_UP);
    assert_int_equal(atomic_load(&w.open_us), start + 7 * second);
    /* answers alone do not end the window: two seconds are wanted; the last one still belongs to it */
    for (int i = 1; i <= 4; i++)
        assert_int_equal(tm_bench_window_count(&w, start + 7 * second + (uint64_t)i),
                         TM_BENCH_WINDOW);
    assert_int_equal(tm_bench_window_count(&w, start + 9 * second), TM_BENCH_WINDOW);
    assert_int_equal(tm_bench_window_phase(&w, start + 9 * second), TM_BENCH_OVER);
    assert_int_equal(tm_bench_window_count(&w, start + 10 * second), TM_BENCH_OVER);
    assert_int_equal(atomic_load(&w.close_us) - atomic_load(&w.open_us), 2 * second);
}

static void test_timed_window(void **state) {
    (void)state;
    tm_bench_window_t w;
    tm_bench_window_init(&w, 1, 2, 3, true, 1);
    assert_true(tm_bench_window_arrive(&w));
    uint64_t start = atomic_load(&w.start_us), second = 1000000;
    assert_int_equal(tm_bench_window_count(&w, start + second - 1), TM_BENCH_WARM_UP);
    assert_int_equal(tm_bench_window_count(&w, start + second), TM_BENCH_WINDOW);
    assert_int_equal(tm_bench_window_count(&w, start + 3 * second - 1), TM_BENCH_WINDOW);
    assert_int_equal(tm_bench_window_count(&w, start + 3 * second), TM_BENCH_OVER);
}

static void test_nobody_waits_for_the_stopped(void **state) {
    (void)state;
    tm_bench_window_t w;
    tm_bench_window_init(&w, 1, 2, 3, true, 2); /* the second caller never comes */
    tm_bench_window_stop(&w);
    assert_false(tm_bench_window_arrive(&w));
    assert_true(tm_bench_window_stopped(&w));
}

/* ---- processes ---- */

static void test_watch(void **state) {
    (void)state;
    tm_error_t error;
    static tm_bench_watch_t watch;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) != 0);
    }
    assert_int_equal(tm_bench_watch_add(&watch, getpid(), &error), TM_OK);
    assert_int_equal(tm_bench_watch_add(&watch, child, &error), TM_OK);
    assert_string_equal(watch.process[0].name, "test_bench");
    tm_bench_watch_look(&watch, true);
    /* some work, counted by its own clock: the kernel counts in ticks of 10 ms */
    clock_t until = clock() + CLOCKS_PER_SEC / 5;
    while (clock() < until)
        ;
    tm_bench_watch_look(&watch, false);
    assert_true(tm_bench_watch_cpu_s(&watch.process[0]) > 0.1);
    assert_true(watch.process[0].peak_mib > 0.5);
    assert_false(watch.process[1].gone);
    close(fds[1]);
    waitpid(child, NULL, 0);
    tm_bench_watch_look(&watch, false);
    assert_true(watch.process[1].gone);
    assert_int_equal(tm_bench_watch_add(&watch, child, &error), TM_E_ARGUMENT);
    assert_int_equal(watch.n, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_agreement),      cmocka_unit_test(test_points_travel_and_add_up),
        cmocka_unit_test(test_counted_window), cmocka_unit_test(test_timed_window),
        cmocka_unit_test(test_watch),          cmocka_unit_test(test_nobody_waits_for_the_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
