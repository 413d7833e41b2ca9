// SPDX-License-Identifier: Apache-2.0
/* The gnn back end with models of random weights: what it answers is what the engine finds. */
#include "tests/unit/nn/sample.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/model_zoo.h"
#include "worker/backend.h"

#define N_POINTS 300
#define N_MODELS 2

static char folder[] = "/tmp/trackmill-test-XXXXXX";
static char path[N_MODELS][64];
static tm_sample_event_t event;
static tm_sample_event_t other_event;

static int setup(void **unused) {
    (void)unused;
    if (mkdtemp(folder) == NULL) {
        return -1;
    }
    for (int i = 0; i < N_MODELS; i++) {
        assert_non_null(tm_zoo[i].name);
        tm_model_writer_t *w = tm_model_writer_new((uint64_t)i + 1);
        const char *json = tm_zoo[i].build(w);
        snprintf(path[i], sizeof path[i], "%s/%d.safetensors", folder, i);
        tm_model_writer_save(w, json, path[i]);
        tm_model_writer_destroy(&w);
    }
    uint64_t seed = tm_sample_seed();
    tm_sample_event(&event, N_POINTS, &seed);
    tm_sample_event(&other_event, N_POINTS, &seed);
    return 0;
}

static int teardown(void **unused) {
    (void)unused;
    for (int i = 0; i < N_MODELS; i++) {
        unlink(path[i]);
    }
    rmdir(folder);
    tm_sample_event_clear(&event);
    tm_sample_event_clear(&other_event);
    return 0;
}

static void *load(int n, tm_model_id_t *models) {
    const char *arguments[] = {path[0], path[1]};
    uint32_t n_models = 0;
    void *state = NULL;
    tm_error_t err = {0};
    if (tm_backend_gnn.load(arguments, n, 1, "cpu", &state, models, &n_models, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(n_models, n);
    return state;
}

/* What the engine itself says. */
static void find_directly(int i, const tm_columns_t *columns, tm_tracks_t *tracks) {
    tm_model_t *model;
    tm_engine_t *engine;
    tm_engine_options_t options = {.threads = 1, .device = "cpu"};
    tm_error_t err;
    assert_int_equal(tm_model_load(path[i], &model, &err), TM_OK);
    assert_int_equal(tm_engine_new(model, &options, &engine, &err), TM_OK);
    assert_int_equal(tm_engine_find(engine, columns, NULL, tracks, NULL, NULL, &err), TM_OK);
    tm_engine_destroy(&engine);
    tm_model_destroy(&model);
}

static void assert_answer(const tm_backend_result_t *result, const tm_tracks_t *wanted) {
    tm_tracks_t tracks;
    tm_error_t err = {0};
    assert_int_equal(tm_tracks_from_columns(&result->columns, N_POINTS, &tracks, &err), TM_OK);
    tm_sample_assert_same_tracks(&tracks, wanted);
    tm_tracks_clear(&tracks);
}

static void test_models(void **unused) {
    (void)unused;
    tm_model_id_t models[TM_MODELS_MAX];
    void *state = load(N_MODELS, models);
    for (int i = 0; i < N_MODELS; i++) {
        assert_string_equal(models[i].name, tm_zoo[i].name);
    }
    assert_memory_not_equal(models[0].hash, models[1].hash, TM_HASH_BYTES);
    assert_string_equal(tm_backend_gnn.device(state), "cpu, 1 thread");

    void *slot;
    tm_error_t err;
    const int cancelled = 0;
    uint32_t n_tracks = 0;
    assert_int_equal(tm_backend_gnn.open(state, &slot, &err), TM_OK);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < N_MODELS; i++) {
            tm_tracks_t wanted;
            tm_backend_result_t result = {0};
            const tm_columns_t *columns = round == 0 ? &event.columns : &other_event.columns;
            find_directly((int)i, columns, &wanted);
            assert_int_equal(tm_backend_gnn.run(slot, i, columns, &cancelled, &result, &err),
                             TM_OK);
            assert_answer(&result, &wanted);
            assert_true(result.timings.count > 0);
            n_tracks += wanted.n_tracks;
            tm_tracks_clear(&wanted);
        }
    }
    assert_true(n_tracks > 0); /* else nothing was compared */
    tm_backend_gnn.close(&slot);
    tm_backend_gnn.unload(&state);
}

static void test_bad_events(void **unused) {
    (void)unused;
    tm_model_id_t models[TM_MODELS_MAX];
    void *state = load(1, models);
    void *slot;
    tm_error_t err;
    const int cancelled = 0, already = 1;
    assert_int_equal(tm_backend_gnn.open(state, &slot, &err), TM_OK);
    tm_backend_result_t result = {0};

    assert_int_equal(tm_backend_gnn.run(slot, 0, &event.columns, &already, &result, &err),
                     TM_E_CANCELLED);
    tm_columns_t none = {0};
    tm_status_t status = tm_backend_gnn.run(slot, 0, &none, &cancelled, &result, &err);
    assert_true(status == TM_E_BAD_EVENT || status == TM_E_MISSING_COLUMN);
    float bad[2] = {1.0f, (float)(0.0 / 0.0)};
    tm_columns_t nan = {0};
    tm_columns_add(&nan, "x", TM_F32, 2, bad, &err);
    tm_columns_add(&nan, "y", TM_F32, 2, bad, &err);
    tm_columns_add(&nan, "z", TM_F32, 2, bad, &err);
    assert_int_equal(tm_backend_gnn.run(slot, 0, &nan, &cancelled, &result, &err), TM_E_BAD_EVENT);

    tm_tracks_t wanted; /* and the slot is as good as before */
    find_directly(0, &event.columns, &wanted);
    assert_int_equal(tm_backend_gnn.run(slot, 0, &event.columns, &cancelled, &result, &err), TM_OK);
    assert_answer(&result, &wanted);
    tm_tracks_clear(&wanted);
    tm_backend_gnn.close(&slot);
    tm_backend_gnn.unload(&state);
}

static void test_bad_files(void **unused) {
    (void)unused;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n;
    void *state = NULL;
    tm_error_t err = {0};
    const char *missing[] = {path[0], "/nonexistent/model.safetensors"};
    assert_int_not_equal(tm_backend_gnn.load(missing, 2, 1, "cpu", &state, models, &n, &err),
                         TM_OK);
    assert_non_null(strstr(err.text, "/nonexistent/model.safetensors"));
    const char *twice[] = {path[0], path[0]};
    assert_int_equal(tm_backend_gnn.load(twice, 2, 1, "cpu", &state, models, &n, &err),
                     TM_E_ARGUMENT);
    assert_non_null(strstr(err.text, "was given before"));
    assert_int_equal(tm_backend_gnn.load(NULL, 0, 1, "cpu", &state, models, &n, &err),
                     TM_E_ARGUMENT);
    assert_null(state);
    assert_int_equal(tm_backend_gnn.load(missing, 1, 1, "abacus", &state, models, &n, &err),
                     TM_E_ARGUMENT);
    assert_non_null(strstr(err.text, "abacus"));
    /* whatever this machine has, so many GPUs it has not */
    assert_int_equal(tm_backend_gnn.load(missing, 1, 1, "cuda:999", &state, models, &n, &err),
                     TM_E_BACKEND);
    assert_null(state);
}

/* Good and bad events together: each gets what it would get alone. */
static void test_batch(void **unused) {
    (void)unused;
    tm_model_id_t models[TM_MODELS_MAX];
    void *state = load(1, models);
    void *slot;
    tm_error_t err;
    const int cancelled = 0;
    enum { N = 4 };
    static tm_backend_item_t items[N];
    tm_tracks_t wanted[N] = {0};
    tm_columns_t none = {0};
    const tm_columns_t *in[N] = {&event.columns, &none, &other_event.columns, &event.columns};
    assert_int_equal(tm_backend_gnn.open(state, &slot, &err), TM_OK);
    uint32_t n_tracks = 0;
    for (int round = 0; round < 2; round++) {
        memset(items, 0, sizeof items);
        for (int i = 0; i < N; i++) {
            items[i].in = in[i];
            items[i].cancelled = &cancelled;
        }
        tm_backend_gnn.run_batch(slot, 0, items, N);
        for (int i = 0; i < N; i++) {
            if (in[i] == &none) {
                assert_int_equal(items[i].status, TM_E_MISSING_COLUMN);
                assert_true(items[i].err.text[0] != '\0');
                continue;
            }
            assert_int_equal(items[i].status, TM_OK);
            find_directly(0, in[i], &wanted[i]);
            assert_answer(&items[i].out, &wanted[i]);
            assert_true(items[i].out.timings.count > 0);
            n_tracks += wanted[i].n_tracks;
            tm_tracks_clear(&wanted[i]);
        }
    }
    assert_true(n_tracks > 0);
    memset(items, 0, sizeof items);
    items[0].in = &none; /* none is left to run */
    items[0].cancelled = &cancelled;
    tm_backend_gnn.run_batch(slot, 0, items, 1);
    assert_int_equal(items[0].status, TM_E_MISSING_COLUMN);
    tm_backend_gnn.close(&slot);
    tm_backend_gnn.unload(&state);
}

typedef struct {
    void *state;
    const tm_columns_t *columns;
    const tm_tracks_t *wanted;
    bool good;
} parallel_t;

static void *run_one(void *argument) {
    parallel_t *p = argument;
    void *slot;
    tm_error_t err;
    const int cancelled = 0;
    p->good = tm_backend_gnn.open(p->state, &slot, &err) == TM_OK;
    for (int i = 0; i < 5 && p->good; i++) {
        tm_backend_result_t result = {0};
        tm_tracks_t got = {0};
        p->good = tm_backend_gnn.run(slot, 0, p->columns, &cancelled, &result, &err) == TM_OK &&
                  tm_tracks_from_columns(&result.columns, N_POINTS, &got, &err) == TM_OK &&
                  got.n_tracks == p->wanted->n_tracks &&
                  memcmp(got.offsets, p->wanted->offsets,
                         (got.n_tracks + 1) * sizeof *got.offsets) == 0 &&
                  memcmp(got.indices, p->wanted->indices,
                         got.offsets[got.n_tracks] * sizeof *got.indices) == 0;
        tm_tracks_clear(&got);
    }
    tm_backend_gnn.close(&slot);
    return NULL;
}

static void test_two_slots(void **unused) {
    (void)unused;
    tm_model_id_t models[TM_MODELS_MAX];
    void *state = load(1, models);
    tm_tracks_t wanted[2];
    find_directly(0, &event.columns, &wanted[0]);
    find_directly(0, &other_event.columns, &wanted[1]);
    parallel_t p[2] = {
        {.state = state, .columns = &event.columns, .wanted = &wanted[0]},
        {.state = state, .columns = &other_event.columns, .wanted = &wanted[1]},
    };
    pthread_t thread[2];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, run_one, &p[i]), 0);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
        assert_true(p[i].good);
        tm_tracks_clear(&wanted[i]);
    }
    tm_backend_gnn.unload(&state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models),    cmocka_unit_test(test_bad_events),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_two_slots),
        cmocka_unit_test(test_batch),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
