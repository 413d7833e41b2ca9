// SPDX-License-Identifier: Apache-2.0
/* The engine as a whole: what comes out, again and again, in any number of threads. */
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/model_zoo.h"
#include "tests/unit/nn/sample.h"

#define POINTS 1000

static tm_engine_t *open_engine(const tm_pipeline_t *p, int threads) {
    const tm_engine_options_t options = {.threads = threads};
    tm_engine_t *engine = NULL;
    tm_error_t err = {0};
    if (tm_engine_new_on(&tm_stages_cpu, p, &options, &engine, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
    return engine;
}

static void find(tm_engine_t *engine, const tm_sample_event_t *event, tm_tracks_t *tracks,
                 tm_engine_counts_t *counts) {
    tm_error_t err = {0};
    if (tm_engine_find(engine, &event->columns, NULL, tracks, NULL, counts, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
}

static bool same_bytes(const tm_tracks_t *a, const tm_tracks_t *b) {
    return a->n_points == b->n_points && a->n_tracks == b->n_tracks &&
           memcmp(a->offsets, b->offsets, (a->n_tracks + 1) * sizeof *a->offsets) == 0 &&
           memcmp(a->indices, b->indices, a->offsets[a->n_tracks] * sizeof *a->indices) == 0 &&
           memcmp(a->scores, b->scores, a->n_tracks * sizeof *a->scores) == 0;
}

/* A model whose graphs are of a reasonable size for random weights: the radius is cut down until
 * each point has some tens of edges, and every cut is in the middle of its scores. */
static tm_pipeline_t tame(const tm_model_t *model, const tm_sample_event_t *event) {
    tm_pipeline_t p = *tm_model_pipeline(model);
    p.filter.cut = 0;
    p.tracks.cut = 0;
    tm_device_t *device = tm_sample_open(&tm_stages_cpu, &p, 2);
    tm_error_t err = {0};
    tm_points_t points;
    tm_edges_t edges, kept;
    const float *features, *embedding, *logits = NULL;
    uint32_t n = (uint32_t)event->columns.column[0].n;
    assert_int_equal(tm_stages_cpu.features(device, &event->columns, n, &points, &features, &err),
                     TM_OK);
    assert_int_equal(tm_stages_cpu.embed(device, n, features, &embedding, &err), TM_OK);
    do {
        p.radius.r /= 1.5f;
        assert_int_equal(tm_stages_cpu.radius(device, &points, embedding, &edges, &err), TM_OK);
    } while (edges.n > 20 * n);
    assert_true(edges.n > 0);
    kept = edges;
    if (p.filter.present) {
        assert_int_equal(
            tm_stages_cpu.filter(device, &points, features, &edges, &kept, &logits, &err), TM_OK);
        p.filter.cut = (float)(1 / (1 + exp(-(double)logits[kept.n / 2]))) - 1e-5f;
        assert_int_equal(
            tm_stages_cpu.filter(device, &points, features, &edges, &kept, &logits, &err), TM_OK);
    }
    if (p.gnn.kind != TM_GNN_NONE) {
        assert_int_equal(tm_stages_cpu.gnn(device, &points, features, &kept, &logits, &err), TM_OK);
    }
    p.tracks.cut = (float)(1 / (1 + exp(-(double)logits[kept.n / 3]))) - 1e-4f;
    tm_stages_cpu.close(&device);
    return p;
}

static void same_bytes_for_any_threads(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name; entry++) {
        uint64_t random = seed;
        tm_sample_event_t event;
        tm_sample_event(&event, POINTS, &random);
        tm_model_t *model = tm_zoo_load(entry->name, seed);
        tm_pipeline_t p = tame(model, &event);
        tm_tracks_t want = {0};
        tm_engine_counts_t want_counts, counts;
        tm_engine_t *one = open_engine(&p, 1);
        find(one, &event, &want, &want_counts);
        print_message("%s: %llu, %llu, %llu edges, %u tracks\n", entry->name,
                      (unsigned long long)want_counts.radius_edges,
                      (unsigned long long)want_counts.filter_edges,
                      (unsigned long long)want_counts.track_edges, want.n_tracks);
        assert_true(want_counts.radius_edges >= want_counts.filter_edges);
        assert_true(want_counts.filter_edges >= want_counts.track_edges);
        assert_true(want_counts.track_edges > 0);
        for (int threads = 1; threads <= 4; threads *= 2) {
            tm_engine_t *engine = threads == 1 ? one : open_engine(&p, threads);
            for (int run = 0; run < 2; run++) {
                tm_tracks_t got = {0};
                find(engine, &event, &got, &counts);
                assert_true(same_bytes(&got, &want));
                assert_memory_equal(&counts, &want_counts, sizeof counts);
                tm_tracks_clear(&got);
            }
            tm_engine_destroy(&engine);
        }
        tm_tracks_clear(&want);
        tm_model_destroy(&model);
        tm_sample_event_clear(&event);
    }
}

typedef struct {
    const tm_pipeline_t *pipeline;
    const tm_sample_event_t *event;
    const tm_tracks_t *want;
    int threads;
    bool same;
} worker_t;

static void *run_worker(void *argument) {
    worker_t *w = argument;
    const tm_engine_options_t options = {.threads = w->threads};
    tm_engine_t *engine = NULL;
    w->same = tm_engine_new_on(&tm_stages_cpu, w->pipeline, &options, &engine, NULL) == TM_OK;
    for (int run = 0; run < 4 && w->same; run++) {
        tm_tracks_t got = {0};
        w->same =
            tm_engine_find(engine, &w->event->columns, NULL, &got, NULL, NULL, NULL) == TM_OK &&
            same_bytes(&got, w->want);
        tm_tracks_clear(&got);
    }
    tm_engine_destroy(&engine);
    return NULL;
}

static void two_engines_at_once(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    tm_sample_event_t event[2];
    tm_tracks_t want[2] = {{0}};
    worker_t workers[2];
    pthread_t threads[2];
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load("standard", seed);
    tm_sample_event(&event[0], POINTS, &random);
    tm_sample_event(&event[1], POINTS / 3, &random);
    tm_pipeline_t p = tame(model, &event[0]);
    tm_engine_t *engine = open_engine(&p, 1);
    for (int k = 0; k < 2; k++) {
        find(engine, &event[k], &want[k], NULL);
        workers[k] = (worker_t){&p, &event[k], &want[k], 1 + k, false};
    }
    for (int k = 0; k < 2; k++) {
        assert_int_equal(pthread_create(&threads[k], NULL, run_worker, &workers[k]), 0);
    }
    for (int k = 0; k < 2; k++) {
        pthread_join(threads[k], NULL);
        assert_true(workers[k].same);
        tm_tracks_clear(&want[k]);
        tm_sample_event_clear(&event[k]);
    }
    tm_engine_destroy(&engine);
    tm_model_destroy(&model);
}

/* The same engine for events of 0, 1, 2, 3 and many points, large and small in turn. */
static void any_number_of_points(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    static const uint32_t sizes[] = {0, 1, 2, 3, 400, 2, 0, 65, 1, 200};
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name; entry++) {
        tm_model_t *model = tm_zoo_load(entry->name, 7);
        tm_sample_event_t big;
        tm_sample_event(&big, 400, &random);
        tm_pipeline_t p = tame(model, &big);
        tm_sample_event_clear(&big);
        tm_engine_t *engine = open_engine(&p, 2);
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            tm_sample_event_t event;
            tm_sample_event(&event, sizes[k], &random);
            tm_tracks_t tracks = {0};
            tm_engine_counts_t counts;
            find(engine, &event, &tracks, &counts);
            assert_int_equal(tracks.n_points, sizes[k]);
            assert_true(sizes[k] > 1 || tracks.n_tracks == 0);
            assert_non_null(tracks.offsets);
            tm_tracks_clear(&tracks);
            tm_sample_event_clear(&event);
        }
        tm_engine_destroy(&engine);
        tm_model_destroy(&model);
    }
}

static void all_points_equal(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    tm_model_t *model = tm_zoo_load("standard", 3);
    tm_sample_event_t event;
    tm_sample_event(&event, 400, &random);
    for (uint32_t c = 0; c < event.columns.count; c++) {
        float *values = event.memory + (size_t)c * 400;
        for (int i = 1; i < 400; i++) {
            values[i] = values[0];
        }
    }
    tm_pipeline_t p = *tm_model_pipeline(model);
    p.filter.cut = 0;
    p.tracks.cut = 0;
    tm_engine_t *engine = open_engine(&p, 2);
    tm_tracks_t tracks = {0};
    tm_engine_counts_t counts;
    find(engine, &event, &tracks, &counts);
    assert_int_equal(counts.radius_edges, 400 * 399 / 2);
    assert_int_equal(counts.filter_edges, 400 * 399 / 2);
    assert_in_range(counts.track_edges, 200, 399); /* no point twice at the start or end of one */
    assert_true(tracks.n_tracks >= 1);
    tm_tracks_clear(&tracks);
    tm_engine_destroy(&engine);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

static void bad_events_are_told(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    tm_model_t *model = tm_zoo_load("standard", 3);
    tm_engine_t *engine = NULL;
    tm_error_t err = {0};
    const tm_engine_options_t two = {.threads = 2};
    const tm_engine_options_t negative = {.threads = -1};
    assert_int_equal(tm_engine_new(model, &negative, &engine, &err), TM_E_ARGUMENT);
    assert_null(engine);
    assert_int_equal(tm_engine_new(model, &two, &engine, &err), TM_OK);
    tm_sample_event_t event;
    tm_sample_event(&event, 100, &random);
    tm_tracks_t tracks;

    tm_columns_t some = event.columns;
    some.count = 4; /* no charge */
    assert_int_equal(tm_engine_find(engine, &some, NULL, &tracks, NULL, NULL, &err),
                     TM_E_MISSING_COLUMN);
    assert_non_null(strstr(err.text, "charge"));
    assert_null(tracks.offsets);
    some.count = 2; /* no z */
    assert_int_equal(tm_engine_find(engine, &some, NULL, &tracks, NULL, NULL, &err),
                     TM_E_MISSING_COLUMN);

    float *charge = event.memory + 5 * 100;
    charge[42] = NAN;
    assert_int_equal(tm_engine_find(engine, &event.columns, NULL, &tracks, NULL, NULL, &err),
                     TM_E_BAD_EVENT);
    assert_non_null(strstr(err.text, "charge"));
    assert_non_null(strstr(err.text, "42"));
    charge[42] = INFINITY; /* clamped, but still no number that a detector gives */
    assert_int_equal(tm_engine_find(engine, &event.columns, NULL, &tracks, NULL, NULL, &err),
                     TM_E_BAD_EVENT);
    charge[42] = 1;
    event.memory[3 * 100 + 7] = 3e38f; /* size_loc0: finite, and overflows in the first layer */
    tm_status_t status = tm_engine_find(engine, &event.columns, NULL, &tracks, NULL, NULL, &err);
    assert_int_equal(status, TM_E_BAD_EVENT);
    assert_non_null(strstr(err.text, "7"));
    event.memory[3 * 100 + 7] = 1;
    event.memory[0] = NAN; /* x */
    assert_int_equal(tm_engine_find(engine, &event.columns, NULL, &tracks, NULL, NULL, &err),
                     TM_E_BAD_EVENT);
    event.memory[0] = 10;
    assert_int_equal(tm_engine_find(engine, &event.columns, NULL, &tracks, NULL, NULL, &err),
                     TM_OK); /* the engine is none the worse for it */
    tm_tracks_clear(&tracks);
    tm_sample_event_clear(&event);
    tm_engine_destroy(&engine);
    tm_model_destroy(&model);
}

static void reports_times_and_stops(void **state) {
    (void)state;
    static const char *const stages[] = {"features", "embed", "radius", "filter", "gnn", "tracks"};
    uint64_t random = tm_sample_seed();
    tm_model_t *model = tm_zoo_load("standard", 3);
    tm_engine_t *engine = NULL;
    tm_error_t err = {0};
    tm_sample_event_t event;
    tm_sample_event(&event, 200, &random);
    assert_int_equal(tm_engine_new(model, NULL, &engine, &err), TM_OK);
    tm_tracks_t tracks;
    tm_timings_t timings;
    tm_engine_counts_t counts;
    assert_int_equal(tm_engine_find(engine, &event.columns, NULL, &tracks, &timings, &counts, &err),
                     TM_OK);
    assert_int_equal(timings.count, 6);
    for (uint32_t k = 0; k < 6; k++) {
        assert_string_equal(timings.stage[k].name, stages[k]);
    }
    tm_tracks_clear(&tracks);

    const volatile int cancelled = 1;
    assert_int_equal(
        tm_engine_find(engine, &event.columns, &cancelled, &tracks, &timings, &counts, &err),
        TM_E_CANCELLED);
    assert_null(tracks.offsets);
    assert_int_equal(timings.count, 0);
    tm_engine_destroy(&engine);
    assert_null(engine);
    tm_engine_destroy(&engine);

    /* inside the stages that run long */
    tm_device_t *device = tm_sample_open(&tm_stages_cpu, tm_model_pipeline(model), 2);
    tm_points_t points;
    const float *features, *out;
    tm_edges_t kept;
    tm_edges_t edges = tm_sample_edges(200, 1000, &random);
    assert_int_equal(tm_stages_cpu.features(device, &event.columns, 200, &points, &features, &err),
                     TM_OK);
    device->cancelled = &cancelled;
    assert_int_equal(tm_stages_cpu.embed(device, 200, features, &out, &err), TM_E_CANCELLED);
    assert_int_equal(tm_stages_cpu.filter(device, &points, features, &edges, &kept, &out, &err),
                     TM_E_CANCELLED);
    assert_int_equal(tm_stages_cpu.gnn(device, &points, features, &edges, &out, &err),
                     TM_E_CANCELLED);
    tm_stages_cpu.close(&device);
    free((void *)edges.src);
    free((void *)edges.dst);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes_for_any_threads), cmocka_unit_test(two_engines_at_once),
        cmocka_unit_test(any_number_of_points),       cmocka_unit_test(all_points_equal),
        cmocka_unit_test(bad_events_are_told),        cmocka_unit_test(reports_times_and_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
