// SPDX-License-Identifier: Apache-2.0
/*
 * The GPU engine as a whole, by its general path: engines side by side and events of all sizes (random
 * ones, TM_SEED repeats them), what is refused, and the shipped model's physics beside the CPU's.
 *
 *   test_gpu_engine [quick]     quick: small events only, for running under a memory checker
 *
 * Exits with 77 and says why where there is no GPU. TM_DATA names the folder of the events and
 * TM_MODEL the model file, if not tests/data and weights/standard.safetensors.
 */
#include "tests/unit/nn/sample.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/event_file.h"
#include "client/score.h"
#include "tests/gpu/compare.h"
#include "tests/gpu/host_stages.h"
#include "tests/support/model_zoo.h"

#define FLIPPED_MAX 1e-3 /* share of edge decisions that precision may change */

static bool is_quick; /* the memory checker is slow: small events alone */

/* ---- whole engines ---- */

static void find(tm_engine_t *engine, const tm_columns_t *event, tm_tracks_t *tracks,
                 tm_engine_counts_t *counts) {
    tm_error_t err = {0};
    TM_MUST(tm_engine_find(engine, event, NULL, tracks, NULL, counts, &err));
}

static bool identical(const tm_tracks_t *a, const tm_tracks_t *b) {
    return a->n_tracks == b->n_tracks && a->n_points == b->n_points &&
           memcmp(a->offsets, b->offsets, (a->n_tracks + 1) * sizeof *a->offsets) == 0 &&
           memcmp(a->indices, b->indices, a->offsets[a->n_tracks] * sizeof *a->indices) == 0 &&
           memcmp(a->scores, b->scores, a->n_tracks * sizeof *a->scores) == 0;
}

/* A random model whose graphs are of a sensible size. */
static tm_pipeline_t tamed(const tm_model_t *model) {
    tm_pipeline_t p = *tm_model_pipeline(model);
    p.radius.r = p.embed.normalize ? 0.2f : p.radius.r;
    p.filter.cut = 0.4f;
    p.tracks.cut = 0.4f;
    return p;
}

typedef struct {
    const tm_pipeline_t *pipeline;
    const tm_columns_t *event;
    tm_tracks_t tracks;
    tm_status_t status;
    tm_error_t err;
} thread_t;

static void *run_thread(void *argument) {
    thread_t *t = argument;
    tm_engine_t *engine = NULL;
    t->status = tm_engine_new_on(&tm_stages_cuda_one_by_one, t->pipeline, NULL, &engine, &t->err);
    for (int k = 0; k < 3 && t->status == TM_OK; k++) {
        tm_tracks_clear(&t->tracks);
        t->status = tm_engine_find(engine, t->event, NULL, &t->tracks, NULL, NULL, &t->err);
    }
    tm_engine_destroy(&engine);
    return NULL;
}

static void same_bytes(const tm_pipeline_t *pipeline, const tm_columns_t *event) {
    enum { THREADS = 3 };
    thread_t thread[THREADS] = {0};
    pthread_t id[THREADS];
    tm_engine_t *engine = NULL;
    tm_tracks_t first = {0};
    tm_error_t err = {0};
    TM_MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, pipeline, NULL, &engine, &err));
    find(engine, event, &first, NULL);
    for (int k = 0; k < 2; k++) {
        tm_tracks_t again = {0};
        find(engine, event, &again, NULL);
        assert_true(identical(&first, &again));
        tm_tracks_clear(&again);
    }
    for (int k = 0; k < THREADS; k++) {
        thread[k].pipeline = pipeline;
        thread[k].event = event;
        assert_int_equal(pthread_create(&id[k], NULL, run_thread, &thread[k]), 0);
    }
    for (int k = 0; k < THREADS; k++) {
        pthread_join(id[k], NULL);
        if (thread[k].status != TM_OK) {
            fail_msg("thread %d: %s", k, thread[k].err.text);
        }
        assert_true(identical(&first, &thread[k].tracks));
        tm_tracks_clear(&thread[k].tracks);
    }
    tm_tracks_clear(&first);
    tm_engine_destroy(&engine);
}

static void identical_runs(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    tm_sample_event_t event;
    tm_sample_event(&event, 3000, &random);
    tm_model_t *model = tm_zoo_load("standard", seed);
    tm_pipeline_t p = tamed(model);
    same_bytes(&p, &event.columns);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

/* One context through events of all sizes answers each as a fresh one does. */
static void buffers_grow(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    const uint32_t sizes[] = {0, 1, 3, 10, is_quick ? 100 : 2500, 50, 0, is_quick ? 300 : 4000, 2};
    static const char *const names[] = {"resagnn_small", "standard", "acorn_recurrent"};
    for (size_t m = 0; m < (is_quick ? 1 : 3); m++) {
        tm_model_t *model = tm_zoo_load(names[m], seed);
        tm_pipeline_t p = tamed(model);
        tm_error_t err = {0};
        tm_engine_t *old = NULL;
        TM_MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, &p, NULL, &old, &err));
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            tm_sample_event_t event;
            tm_sample_event(&event, sizes[k], &random);
            tm_engine_t *fresh = NULL;
            tm_tracks_t a = {0};
            tm_tracks_t b = {0};
            TM_MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, &p, NULL, &fresh, &err));
            find(old, &event.columns, &a, NULL);
            find(fresh, &event.columns, &b, NULL);
            assert_true(identical(&a, &b));
            tm_tracks_clear(&a);
            tm_tracks_clear(&b);
            tm_engine_destroy(&fresh);
            tm_sample_event_clear(&event);
        }
        tm_engine_destroy(&old);
        tm_model_destroy(&model);
    }
}

/* ---- errors ---- */

static void refuses_events(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load("standard", seed);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    tm_sample_event_t event;
    tm_sample_event(&event, 50, &random);
    tm_error_t err = {0};
    tm_error_t cpu_err = {0};
    tm_device_t *gpu = NULL;
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, p, 1);
    tm_points_t points;
    const float *features;
    TM_MUST(tm_stages_cuda.open(p, 0, &gpu, &err));
    tm_columns_t few = event.columns;
    few.count = 3;
    assert_int_equal(tm_stages_cuda.features(gpu, &few, 50, &points, &features, &err),
                     TM_E_MISSING_COLUMN);
    event.memory[3 * 50 + 17] = NAN; /* size_loc0 */
    event.memory[3 * 50 + 31] = NAN;
    assert_int_equal(tm_stages_cuda.features(gpu, &event.columns, 50, &points, &features, &err),
                     TM_E_BAD_EVENT);
    assert_int_equal(tm_stages_cpu.features(cpu, &event.columns, 50, &points, &features, &cpu_err),
                     TM_E_BAD_EVENT);
    assert_string_equal(err.text, cpu_err.text);
    event.memory[3 * 50 + 17] = 1;
    event.memory[3 * 50 + 31] = 1;
    volatile int cancelled = 1;
    gpu->cancelled = &cancelled;
    assert_int_equal(tm_stages_cuda.features(gpu, &event.columns, 50, &points, &features, &err),
                     TM_E_CANCELLED);
    gpu->cancelled = NULL;
    TM_MUST(tm_stages_cuda.features(gpu, &event.columns, 50, &points, &features, &err));
    tm_stages_cuda.close(&gpu);
    tm_stages_cpu.close(&cpu);
    const tm_cuda_options_t no_such = {.ordinal = 99};
    assert_int_equal(tm_cuda_open(p, &no_such, &gpu, &err), TM_E_BACKEND);
    assert_non_null(strstr(err.text, "cuda:99"));
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

/* Too large an event is refused by name; the next one is answered. */
static void runs_out_of_memory(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load("standard", seed);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    tm_sample_event_t small, large;
    tm_sample_event(&small, 60, &random);
    tm_sample_event(&large, 200000, &random);
    const tm_cuda_options_t options = {.memory_max_bytes = (size_t)48 << 20};
    tm_device_t *gpu = NULL;
    tm_error_t err = {0};
    tm_points_t points;
    const float *features, *embedding;
    TM_MUST(tm_cuda_open(p, &options, &gpu, &err));
    tm_status_t status =
        tm_stages_cuda.features(gpu, &large.columns, 200000, &points, &features, &err);
    if (status == TM_OK) {
        status = tm_stages_cuda.embed(gpu, 200000, features, &embedding, &err);
    }
    assert_int_equal(status, TM_E_NO_MEMORY);
    print_message("%s\n", err.text);
    TM_MUST(tm_stages_cuda.features(gpu, &small.columns, 60, &points, &features, &err));
    assert_true(tm_cuda_memory_bytes(gpu) <= options.memory_max_bytes);
    tm_stages_cuda.close(&gpu);
    tm_sample_event_clear(&small);
    tm_sample_event_clear(&large);
    tm_model_destroy(&model);
}

static void chooses_devices(void **state) {
    (void)state;
    tm_error_t err = {0};
    char text[128];
    TM_MUST(
        tm_engine_describe(&(tm_engine_options_t){.device = "cuda:0"}, text, sizeof text, &err));
    assert_true(strncmp(text, "cuda:0 ", 7) == 0);
    print_message("%s\n", text);
    TM_MUST(tm_engine_describe(NULL, text, sizeof text, &err));
    assert_true(strncmp(text, "cuda:0 ", 7) == 0);
    assert_int_equal(
        tm_engine_describe(&(tm_engine_options_t){.device = "cuda:77"}, text, sizeof text, &err),
        TM_E_BACKEND);
}

/* ---- the shipped model on events with truth ---- */

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

/* Scores the CPU's graph on both devices and counts edges on different sides of the cuts. */
static void count_flips(const tm_pipeline_t *p, const tm_columns_t *event, uint32_t n) {
    tm_error_t err = {0};
    tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, p, 1);
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, p, 0);
    tm_points_t points;
    const float *features, *ea, *eb, *fa, *fb, *ga, *gb;
    tm_edges_t edges, ka, kb;
    TM_MUST(cpu->stages->features(cpu, event, n, &points, &features, &err));
    TM_MUST(cpu->stages->embed(cpu, n, features, &eb, &err));
    TM_MUST(gpu->stages->embed(gpu, n, features, &ea, &err));
    tm_compare(TM_COMPARE_HALF, ea, eb, (size_t)n * p->embed.mlp.out,
               "embedding of the standard model");
    TM_MUST(cpu->stages->radius(cpu, &points, eb, &edges, &err));
    TM_MUST(cpu->stages->filter(cpu, &points, features, &edges, &kb, &fb, &err));
    TM_MUST(gpu->stages->filter(gpu, &points, features, &edges, &ka, &fa, &err));
    uint32_t flips = 0;
    for (uint32_t i = 0, j = 0; i < ka.n || j < kb.n;) {
        uint64_t x = i < ka.n ? (uint64_t)ka.src[i] << 32 | ka.dst[i] : UINT64_MAX;
        uint64_t y = j < kb.n ? (uint64_t)kb.src[j] << 32 | kb.dst[j] : UINT64_MAX;
        flips += x != y;
        i += x <= y;
        j += y <= x;
    }
    TM_MUST(cpu->stages->gnn(cpu, &points, features, &kb, &gb, &err));
    TM_MUST(gpu->stages->gnn(gpu, &points, features, &kb, &ga, &err));
    tm_compare(TM_COMPARE_HALF, ga, gb, kb.n, "gnn of the standard model");
    uint32_t gnn_flips = 0;
    double least = log((double)p->tracks.cut / (1 - (double)p->tracks.cut));
    for (uint32_t k = 0; k < kb.n; k++) {
        gnn_flips += ((double)ga[k] > least) != ((double)gb[k] > least);
    }
    print_message("  flipped: %u of %u by the filter, %u of %u by the gnn\n", flips, edges.n,
                  gnn_flips, kb.n);
    assert_true(flips <= 1 + FLIPPED_MAX * edges.n);
    assert_true(gnn_flips <= 1 + FLIPPED_MAX * kb.n);
    gpu->stages->close(&gpu);
    cpu->stages->close(&cpu);
}

static void standard_model(void **state) {
    (void)state;
    static const char *const names[] = {"event000000001", "event000000010", "event000000020",
                                        "event000000040", "event000000041"};
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    TM_MUST(tm_model_load(setting("TM_MODEL", "weights/standard.safetensors"), &model, &err));
    const tm_pipeline_t *p = tm_model_pipeline(model);
    tm_engine_t *gpu = NULL;
    tm_engine_t *cpu = NULL;
    const tm_score_options_t selection = TM_SCORE_DEFAULTS;
    tm_score_t sum_gpu = {0};
    tm_score_t sum_cpu = {0};
    TM_MUST(tm_engine_new(model, &(tm_engine_options_t){.device = "cuda"}, &gpu, &err));
    TM_MUST(tm_engine_new(model, &(tm_engine_options_t){.device = "cpu"}, &cpu, &err));
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        char path[512];
        tm_event_file_t event = {0};
        snprintf(path, sizeof path, "%s/%s.npz.xz", setting("TM_DATA", "tests/data"), names[k]);
        TM_MUST(tm_event_file_read(path, &event, &err));
        tm_tracks_t a = {0};
        tm_tracks_t b = {0};
        tm_engine_counts_t ca, cb;
        find(gpu, &event.columns, &a, &ca);
        find(cpu, &event.columns, &b, &cb);
        print_message("%s: %u points; cuda %llu, %llu, %llu edges, %u tracks; cpu %llu, %llu, "
                      "%llu edges, %u tracks\n",
                      names[k], event.n_points, (unsigned long long)ca.radius_edges,
                      (unsigned long long)ca.filter_edges, (unsigned long long)ca.track_edges,
                      a.n_tracks, (unsigned long long)cb.radius_edges,
                      (unsigned long long)cb.filter_edges, (unsigned long long)cb.track_edges,
                      b.n_tracks);
        if (event.has_truth) {
            tm_score_t one = {0};
            TM_MUST(tm_score_event(&event, &a, &selection, &one, NULL, &err));
            tm_score_add(&sum_gpu, &one);
            memset(&one, 0, sizeof one);
            TM_MUST(tm_score_event(&event, &b, &selection, &one, NULL, &err));
            tm_score_add(&sum_cpu, &one);
        }
        count_flips(p, &event.columns, event.n_points);
        if (k == 3) {
            same_bytes(p, &event.columns);
        }
        tm_tracks_clear(&a);
        tm_tracks_clear(&b);
        tm_event_file_clear(&event);
    }
    double efficiency = tm_score_efficiency(&sum_gpu);
    double fakes = tm_score_fakes(&sum_gpu);
    print_message("efficiency cuda %.4f cpu %.4f, fakes cuda %.4f cpu %.4f\n", efficiency,
                  tm_score_efficiency(&sum_cpu), fakes, tm_score_fakes(&sum_cpu));
    assert_true(fabs(efficiency - tm_score_efficiency(&sum_cpu)) < 0.005);
    assert_true(fabs(fakes - tm_score_fakes(&sum_cpu)) < 0.005);
    tm_engine_destroy(&gpu);
    tm_engine_destroy(&cpu);
    tm_model_destroy(&model);
}
int main(int argc, char **argv) {
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(chooses_devices),
        cmocka_unit_test(refuses_events),
        cmocka_unit_test(buffers_grow),
        cmocka_unit_test(runs_out_of_memory),
    };
    const struct CMUnitTest all[] = {
        cmocka_unit_test(chooses_devices),    cmocka_unit_test(refuses_events),
        cmocka_unit_test(identical_runs),     cmocka_unit_test(buffers_grow),
        cmocka_unit_test(runs_out_of_memory), cmocka_unit_test(standard_model),
    };
    tm_compare_need_gpu();
    is_quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    int failed = is_quick ? cmocka_run_group_tests(quick, NULL, NULL)
                          : cmocka_run_group_tests(all, NULL, NULL);
    tm_compare_report();
    return failed > 0 ? 1 : 0;
}
