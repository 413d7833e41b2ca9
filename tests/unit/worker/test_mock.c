// SPDX-License-Identifier: Apache-2.0
/* The mock back end: its settings, and that its answer tells which event it belongs to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "worker/backends/mock.h"
#include "worker/clock.h"

#define N_POINTS 23

static tm_status_t load(const char *a, const char *b, void **state, tm_model_id_t *model,
                        tm_error_t *err) {
    const char *arguments[] = {a, b};
    int n = (a != NULL ? 1 : 0) + (b != NULL ? 1 : 0);
    uint32_t n_models = 0;
    tm_status_t status = tm_backend_mock.load(arguments, n, 1, NULL, state, model, &n_models, err);
    if (status == TM_OK) {
        assert_int_equal(n_models, 1);
    }
    return status;
}

static void make_event(tm_columns_t *event, float x[N_POINTS], float first) {
    memset(event, 0, sizeof *event);
    for (int i = 0; i < N_POINTS; i++) {
        x[i] = first + (float)i;
    }
    tm_error_t err;
    assert_int_equal(tm_columns_add(event, "x", TM_F32, N_POINTS, x, &err), TM_OK);
    assert_int_equal(tm_columns_add(event, "y", TM_F32, N_POINTS, x, &err), TM_OK);
    assert_int_equal(tm_columns_add(event, "z", TM_F32, N_POINTS, x, &err), TM_OK);
}

static void test_settings(void **unused) {
    (void)unused;
    static const char *const bad[] = {
        "time_ms",       "time_ms=",    "time_ms=5-2",    "time_ms=-1",        "time_ms=1-",
        "fail_rate=1.5", "fail_rate=x", "nonsense=1",     "bytes=4294967296",  "name=",
        "hash=-1",       "checksum=ja", "crash_rate=nan", "time_ms=1,bytes=x",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        void *state = NULL;
        tm_model_id_t model;
        tm_error_t err = {0};
        assert_int_equal(load(bad[i], NULL, &state, &model, &err), TM_E_ARGUMENT);
        assert_true(err.text[0] != '\0');
        assert_null(state);
    }
}

static void test_identity(void **unused) {
    (void)unused;
    void *a, *b, *c;
    tm_model_id_t model_a, model_b, model_c;
    tm_error_t err;
    assert_int_equal(load(NULL, NULL, &a, &model_a, &err), TM_OK);
    assert_int_equal(load("name=alpha,version=7", "hash=1", &b, &model_b, &err), TM_OK);
    assert_int_equal(load("hash=1", NULL, &c, &model_c, &err), TM_OK);
    assert_string_equal(model_a.name, "mock");
    assert_string_equal(model_a.version, "1");
    assert_string_equal(model_b.name, "alpha");
    assert_string_equal(model_b.version, "7");
    assert_memory_not_equal(model_a.hash, model_b.hash, TM_HASH_BYTES);
    assert_memory_equal(model_b.hash, model_c.hash, TM_HASH_BYTES);
    tm_backend_mock.unload(&a);
    tm_backend_mock.unload(&b);
    tm_backend_mock.unload(&c);
}

static void test_answer(void **unused) {
    (void)unused;
    void *state, *slot;
    tm_model_id_t model;
    tm_error_t err;
    const int cancelled = 0;
    assert_int_equal(load("bytes=100", NULL, &state, &model, &err), TM_OK);
    assert_int_equal(tm_backend_mock.open(state, &slot, &err), TM_OK);
    float last_score = -1;
    for (int round = 0; round < 3; round++) {
        tm_columns_t event;
        float x[N_POINTS];
        make_event(&event, x, (float)round);
        tm_backend_result_t result = {0};
        assert_int_equal(tm_backend_mock.run(slot, 0, &event, &cancelled, &result, &err), TM_OK);
        assert_int_equal(tm_columns_find(&result.columns, "padding")->n, 100);
        result.columns.count--; /* the padding is no part of the tracks */
        tm_tracks_t tracks;
        assert_int_equal(tm_tracks_from_columns(&result.columns, N_POINTS, &tracks, &err), TM_OK);
        assert_int_equal(tracks.n_tracks, 3);
        float score = tm_mock_score(tm_mock_checksum(&event));
        assert_true(tracks.scores[0] == score && tracks.scores[2] == score);
        assert_true(score != last_score);
        last_score = score;
        assert_int_equal(result.timings.count, 1);
        tm_tracks_clear(&tracks);
    }
    tm_columns_t empty = {0};
    tm_backend_result_t result = {0};
    assert_int_equal(tm_backend_mock.run(slot, 0, &empty, &cancelled, &result, &err), TM_OK);
    assert_int_equal(tm_columns_find(&result.columns, "scores")->n, 0);
    tm_backend_mock.close(&slot);
    tm_backend_mock.unload(&state);
}

static void test_failures(void **unused) {
    (void)unused;
    void *state, *slot;
    tm_model_id_t model;
    tm_error_t err;
    const int cancelled = 0, already = 1;
    tm_columns_t event;
    float x[N_POINTS];
    make_event(&event, x, 0);
    tm_backend_result_t result = {0};

    assert_int_equal(load("fail_on=z", NULL, &state, &model, &err), TM_OK);
    assert_int_equal(tm_backend_mock.open(state, &slot, &err), TM_OK);
    assert_int_equal(tm_backend_mock.run(slot, 0, &event, &cancelled, &result, &err), TM_E_BACKEND);
    event.count = 2; /* no z any more */
    assert_int_equal(tm_backend_mock.run(slot, 0, &event, &cancelled, &result, &err), TM_OK);
    tm_backend_mock.close(&slot);
    tm_backend_mock.unload(&state);

    assert_int_equal(load("time_ms=60000", NULL, &state, &model, &err), TM_OK);
    assert_int_equal(tm_backend_mock.open(state, &slot, &err), TM_OK);
    assert_int_equal(tm_backend_mock.run(slot, 0, &event, &already, &result, &err), TM_E_CANCELLED);
    tm_backend_mock.close(&slot);
    tm_backend_mock.unload(&state);
}

static void test_batch(void **unused) {
    (void)unused;
    enum { N = 3 };
    void *state, *slot;
    tm_model_id_t model;
    tm_error_t err;
    const int cancelled = 0;
    tm_columns_t event[N];
    float x[N][N_POINTS];
    static tm_backend_item_t items[N];
    assert_int_equal(load("time_ms=20,fail_on=w", NULL, &state, &model, &err), TM_OK);
    assert_int_equal(tm_backend_mock.open(state, &slot, &err), TM_OK);
    memset(items, 0, sizeof items);
    for (int i = 0; i < N; i++) {
        make_event(&event[i], x[i], (float)i);
        items[i].in = &event[i];
        items[i].cancelled = &cancelled;
    }
    assert_int_equal(tm_columns_add(&event[1], "w", TM_F32, N_POINTS, x[1], &err), TM_OK);
    tm_backend_mock.run_batch(slot, 0, items, N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(items[i].status, i == 1 ? TM_E_BACKEND : TM_OK);
        if (i == 1) {
            assert_string_equal(items[i].err.text, "mock failure, as it was set to");
            continue;
        }
        tm_tracks_t tracks;
        assert_int_equal(tm_tracks_from_columns(&items[i].out.columns, N_POINTS, &tracks, &err),
                         TM_OK);
        assert_true(tracks.scores[0] == tm_mock_score(tm_mock_checksum(&event[i])));
        assert_int_equal(items[i].out.timings.count, 1);
        assert_true(items[i].out.timings.stage[0].us >= 20000);
        tm_tracks_clear(&tracks);
    }
    tm_backend_mock.close(&slot);
    tm_backend_mock.unload(&state);
}

static void test_time(void **unused) {
    (void)unused;
    void *state, *slot;
    tm_model_id_t model;
    tm_error_t err;
    const int cancelled = 0;
    tm_columns_t event;
    float x[N_POINTS];
    make_event(&event, x, 0);
    tm_backend_result_t result = {0};
    assert_int_equal(load("time_ms=30-40", NULL, &state, &model, &err), TM_OK);
    assert_int_equal(tm_backend_mock.open(state, &slot, &err), TM_OK);
    uint64_t begin_us = tm_clock_us();
    assert_int_equal(tm_backend_mock.run(slot, 0, &event, &cancelled, &result, &err), TM_OK);
    assert_true(tm_clock_us() - begin_us >= 30000);
    tm_backend_mock.close(&slot);
    tm_backend_mock.unload(&state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settings), cmocka_unit_test(test_identity),
        cmocka_unit_test(test_answer),   cmocka_unit_test(test_failures),
        cmocka_unit_test(test_time),     cmocka_unit_test(test_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
