// SPDX-License-Identifier: Apache-2.0
/*
 * The fused path of the GPU engine, stage by stage against the CPU on real events:
 *
 *   test_fused [--quick] [EVENT…]
 *
 * Each of its stages is compared with the CPU's on the same input: the CPU's radius search gets the
 * GPU's embedding, its network the GPU's edges, its track builder the GPU's logits. Exits with 77 and
 * says why where there is no GPU. TM_DATA names the folder of the events and TM_MODEL the model file,
 * if not tests/data and weights/standard.safetensors.
 */
#include "tests/gpu/compare.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/event_file.h"
#include "nn/cuda/cuda.h"
#include "nn/pipeline.h"
#include "tests/support/model_zoo.h"

#define SKIPPED 77
#define STAGE_LIMIT 3e-3  /* relative: what fp16 may lose in a stage */
#define RANDOM_LIMIT 9e-3 /* the same of random weights, whose logits are close to 0 */
#define FLIPPED_MAX 1e-3  /* share of edge decisions that precision may change */
#define CUT_DISTANCE 0.05 /* from the cut, where a decision changed */
#define D2_SLACK 1e-6     /* from r², where neighbours differ */
#define SCORE_SLACK 1e-5f
#define START_SLACK 1e-4f
#define LARGE_POINTS 500000 /* TM_LARGE_POINTS overrides */
#define EVENTS_MAX 32

typedef struct {
    uint32_t src, dst;
    float logit;
} edge_t;

static const tm_pipeline_t *pipeline;
static tm_model_t *model;
static tm_event_file_t events[EVENTS_MAX];
static uint32_t n_events;
static bool is_quick; /* for checkers and the emulator, which are slow */

static void *must_alloc(size_t bytes) {
    void *p = malloc(bytes > 0 ? bytes : 1);
    assert_non_null(p);
    return p;
}

static void *fetch(tm_device_t *gpu, const void *from, size_t bytes) {
    tm_error_t err = {0};
    void *to = must_alloc(bytes);
    TM_MUST(tm_cuda_download(gpu, from, bytes, to, &err));
    return to;
}

static tm_device_t *open_gpu(void) {
    tm_error_t err = {0};
    tm_device_t *gpu = NULL;
    tm_cuda_options_t options = {0};
    TM_MUST(tm_cuda_open(pipeline, &options, &gpu, &err));
    return gpu;
}

/* One event, or several, at once. */
static void find(tm_device_t *gpu, const tm_columns_t *const *columns, const uint32_t *n,
                 uint32_t count, tm_tracks_t *tracks) {
    tm_error_t err = {0};
    tm_engine_item_t items[TM_ENGINE_BATCH_MAX];
    bool ran = false;
    for (uint32_t i = 0; i < count; i++) {
        items[i] = (tm_engine_item_t){.event = columns[i], .n_points = n[i], .tracks = &tracks[i]};
    }
    TM_MUST(gpu->stages->find(gpu, items, count, &ran, &err));
    assert_true(ran);
}

static void find_one(tm_device_t *gpu, const tm_columns_t *columns, uint32_t n,
                     tm_tracks_t *tracks) {
    find(gpu, &columns, &n, 1, tracks);
}

static void assert_same_starts(const tm_tracks_t *a, const tm_tracks_t *b, bool exact) {
    const float *const of_a[] = {a->starts.pt, a->starts.phi, a->starts.eta, a->starts.d0,
                                 a->starts.z0};
    const float *const of_b[] = {b->starts.pt, b->starts.phi, b->starts.eta, b->starts.d0,
                                 b->starts.z0};
    assert_int_equal(a->starts.charge != NULL, b->starts.charge != NULL);
    for (uint32_t t = 0; a->starts.charge && t < a->n_tracks; t++) {
        assert_int_equal(a->starts.charge[t], b->starts.charge[t]);
        for (size_t k = 0; k < sizeof of_a / sizeof of_a[0]; k++) {
            const float x = of_a[k][t];
            const float y = of_b[k][t];
            if (exact ? x != y : fabsf(x - y) > START_SLACK * (1 + fabsf(y))) {
                fail_msg("track %u: start value %zu: %g and %g", t, k, (double)x, (double)y);
            }
        }
    }
}

/* exact: every byte; else as close as two ways of arithmetic come */
static void assert_same_tracks(const tm_tracks_t *a, const tm_tracks_t *b, bool exact) {
    assert_int_equal(a->n_tracks, b->n_tracks);
    if (a->n_tracks == 0) {
        return;
    }
    assert_memory_equal(a->offsets, b->offsets, (a->n_tracks + 1) * sizeof *a->offsets);
    assert_memory_equal(a->indices, b->indices, a->offsets[a->n_tracks] * sizeof *a->indices);
    for (uint32_t t = 0; t < a->n_tracks; t++) {
        if (exact ? a->scores[t] != b->scores[t]
                  : fabsf(a->scores[t] - b->scores[t]) > SCORE_SLACK) {
            fail_msg("track %u: scores %g and %g", t, (double)a->scores[t], (double)b->scores[t]);
        }
    }
    assert_same_starts(a, b, exact);
}

static double relative(const float *a, const float *b, size_t n) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return n > 0 ? sqrt(difference) / (sqrt(norm) + 1e-30) : 0;
}

static int by_ends(const void *p, const void *q) {
    const edge_t *a = p;
    const edge_t *b = q;
    return a->src != b->src ? (a->src > b->src ? 1 : -1) : (a->dst > b->dst) - (a->dst < b->dst);
}

/* Edges of the GPU by row, sorted. */
static edge_t *edges_by_row(tm_device_t *gpu, uint32_t n, const uint32_t *src, const uint32_t *dst,
                            const float *logits, const uint32_t *order) {
    uint32_t *from = fetch(gpu, src, n * sizeof *from);
    uint32_t *to = fetch(gpu, dst, n * sizeof *to);
    float *values = logits ? fetch(gpu, logits, n * sizeof *values) : NULL;
    edge_t *edges = must_alloc(n * sizeof *edges);
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && (from[i] < from[i - 1] || (from[i] == from[i - 1] && to[i] <= to[i - 1]))) {
            fail_msg("edge %u is not behind edge %u", i, i - 1);
        }
        edges[i] = (edge_t){order[from[i]], order[to[i]], values ? values[i] : 0};
    }
    qsort(edges, n, sizeof *edges, by_ends);
    free(from);
    free(to);
    free(values);
    return edges;
}

static double distance2(const float *embedding, uint32_t a, uint32_t b) {
    uint32_t dim = pipeline->embed.mlp.out;
    double d2 = 0;
    for (uint32_t d = 0; d < dim; d++) {
        double x = (double)embedding[(size_t)a * dim + d] - (double)embedding[(size_t)b * dim + d];
        d2 += x * x;
    }
    return d2;
}

/* Equal but for pairs at the radius itself. */
static uint32_t compare_neighbours(const edge_t *gpu, uint32_t n_gpu, const tm_edges_t *cpu,
                                   const float *embedding) {
    double r2 = (double)pipeline->radius.r * (double)pipeline->radius.r;
    uint32_t i = 0;
    uint32_t k = 0;
    uint32_t differences = 0;
    while (i < n_gpu || k < cpu->n) {
        edge_t a = i < n_gpu ? gpu[i] : (edge_t){UINT32_MAX, UINT32_MAX, 0};
        edge_t b = k < cpu->n ? (edge_t){cpu->src[k], cpu->dst[k], 0}
                              : (edge_t){UINT32_MAX, UINT32_MAX, 0};
        int order = by_ends(&a, &b);
        if (order == 0) {
            i++;
            k++;
            continue;
        }
        edge_t only = order < 0 ? a : b;
        double d2 = distance2(embedding, only.src, only.dst);
        if (fabs(d2 - r2) > D2_SLACK) {
            fail_msg("edge %u -> %u is the %s's alone: d2 - r2 = %g", only.src, only.dst,
                     order < 0 ? "GPU" : "CPU", d2 - r2);
        }
        differences++;
        i += order < 0;
        k += order > 0;
    }
    return differences;
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* Which edges stay: the CPU's decisions on the GPU's edges. */
static double compare_filter(const tm_points_t *points, const float *features, const edge_t *all,
                             uint32_t n_all, const edge_t *kept, uint32_t n_kept) {
    tm_error_t err = {0};
    uint32_t *src = must_alloc(n_all * sizeof *src);
    uint32_t *dst = must_alloc(n_all * sizeof *dst);
    for (uint32_t i = 0; i < n_all; i++) {
        src[i] = all[i].src;
        dst[i] = all[i].dst;
    }
    tm_pipeline_t open_cut = *pipeline;
    open_cut.filter.cut = 0;
    tm_device_t *scorer = NULL;
    TM_MUST(tm_stages_cpu.open(&open_cut, 0, &scorer, &err));
    tm_edges_t edges = {.n = n_all, .src = src, .dst = dst};
    tm_edges_t same;
    const float *logits;
    TM_MUST(scorer->stages->filter(scorer, points, features, &edges, &same, &logits, &err));
    assert_int_equal(same.n, n_all);
    uint32_t flipped = 0;
    uint32_t k = 0;
    for (uint32_t i = 0; i < n_all; i++) {
        bool by_gpu = k < n_kept && by_ends(&all[i], &kept[k]) == 0;
        double score = sigmoid((double)logits[i]);
        bool by_cpu = score > (double)pipeline->filter.cut;
        k += by_gpu;
        if (by_gpu != by_cpu) {
            flipped++;
            if (fabs(score - (double)pipeline->filter.cut) > CUT_DISTANCE) {
                fail_msg("edge %u -> %u of score %g", all[i].src, all[i].dst, score);
            }
        }
    }
    assert_int_equal(k, n_kept);
    scorer->stages->close(&scorer);
    free(src);
    free(dst);
    return n_all > 0 ? (double)flipped / n_all : 0;
}

/* strict: also how many decisions changed, which says nothing about random weights. */
static void check_event(const char *name, const tm_columns_t *columns, uint32_t n_points,
                        bool strict) {
    tm_error_t err = {0};
    tm_device_t *gpu = open_gpu();
    tm_device_t *cpu = NULL;
    tm_tracks_t tracks = {0};
    tm_tracks_t cpu_tracks = {0};
    tm_cuda_view_t view;
    tm_points_t points;
    const float *features;
    const float *want;
    uint32_t dim = pipeline->embed.mlp.out;
    uint64_t ignored;
    find_one(gpu, columns, n_points, &tracks);
    assert_true(tm_cuda_view(gpu, &view));
    assert_int_equal(view.n_points, n_points);
    TM_MUST(tm_stages_cpu.open(pipeline, 0, &cpu, &err));
    TM_MUST(cpu->stages->features(cpu, columns, n_points, &points, &features, &err));
    TM_MUST(cpu->stages->embed(cpu, n_points, features, &want, &err));
    float *embedding = fetch(gpu, view.embedding, (size_t)n_points * dim * sizeof *embedding);
    double embed_error = relative(embedding, want, (size_t)n_points * dim);

    uint32_t *order = fetch(gpu, view.order, n_points * sizeof *order);
    uint8_t *seen = calloc(n_points + 1u, 1);
    assert_non_null(seen);
    for (uint32_t i = 0; i < n_points; i++) {
        assert_true(order[i] < n_points && !seen[order[i]]);
        seen[order[i]] = 1;
    }
    free(seen);
    edge_t *all = edges_by_row(gpu, view.n_edges, view.src, view.dst, NULL, order);
    edge_t *kept = edges_by_row(gpu, view.n_kept, view.kept_src, view.kept_dst, view.logits, order);
    tm_edges_t edges;
    TM_MUST(cpu->stages->radius(cpu, &points, embedding, &edges, &err));
    uint32_t at_radius = compare_neighbours(all, view.n_edges, &edges, embedding);
    double flipped = pipeline->filter.present
                         ? compare_filter(&points, features, all, view.n_edges, kept, view.n_kept)
                         : 0;
    assert_true(pipeline->filter.present || view.n_kept == view.n_edges);

    uint32_t *src = must_alloc(view.n_kept * sizeof *src);
    uint32_t *dst = must_alloc(view.n_kept * sizeof *dst);
    float *logits = must_alloc(view.n_kept * sizeof *logits);
    for (uint32_t i = 0; i < view.n_kept; i++) {
        src[i] = kept[i].src;
        dst[i] = kept[i].dst;
        logits[i] = kept[i].logit;
    }
    tm_edges_t graph = {.n = view.n_kept, .src = src, .dst = dst};
    const float *want_logits;
    TM_MUST(cpu->stages->gnn(cpu, &points, features, &graph, &want_logits, &err));
    double gnn_error = relative(logits, want_logits, view.n_kept);
    uint32_t cut_flips = 0;
    for (uint32_t i = 0; i < view.n_kept; i++) {
        double a = sigmoid((double)logits[i]);
        double b = sigmoid((double)want_logits[i]);
        cut_flips += (a > (double)pipeline->tracks.cut) != (b > (double)pipeline->tracks.cut);
    }
    TM_MUST(cpu->stages->tracks(cpu, &points, &graph, logits, &cpu_tracks, &ignored, &err));
    printf("%s: %u points, %u edges, %u kept, %u tracks; embedding %.1e, at the radius %u, filter "
           "flipped %.1e, logits %.1e, cut flipped %.1e\n",
           name, n_points, view.n_edges, view.n_kept, tracks.n_tracks, embed_error, at_radius,
           flipped, gnn_error, view.n_kept > 0 ? (double)cut_flips / view.n_kept : 0);
    assert_true(embed_error < STAGE_LIMIT);
    assert_true(!strict || flipped < FLIPPED_MAX);
    assert_true(gnn_error < (strict ? STAGE_LIMIT : RANDOM_LIMIT));
    assert_same_tracks(&tracks, &cpu_tracks, false);
    tm_tracks_clear(&tracks);
    tm_tracks_clear(&cpu_tracks);
    gpu->stages->close(&gpu);
    cpu->stages->close(&cpu);
    free(embedding);
    free(order);
    free(all);
    free(kept);
    free(src);
    free(dst);
    free(logits);
}

static void test_stages(void **state) {
    (void)state;
    for (uint32_t i = 0; i < n_events; i++) {
        check_event(events[i].name, &events[i].columns, events[i].n_points, true);
    }
}

/* Other models that the fused path runs, with random weights, on random events. */
static void test_other_models(void **state) {
    (void)state;
    static const char *const names[] = {"fused_concat", "fused_wide", "fused_chained",
                                        "fused_steps", "fused_wide_steps"};
    uint64_t seed = tm_sample_seed();
    const tm_pipeline_t *standard = pipeline;
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        tm_model_t *other = tm_zoo_load(names[k], seed);
        tm_sample_event_t event;
        uint32_t n = is_quick ? 300 : 12000;
        tm_sample_event(&event, n, &seed);
        pipeline = tm_model_pipeline(other);
        check_event(names[k], &event.columns, n, false);
        tm_sample_event_clear(&event);
        tm_model_destroy(&other);
    }
    pipeline = standard;
}

/* The first n points of an event. */
static void cut_columns(const tm_columns_t *from, uint64_t first, uint32_t n, tm_columns_t *to) {
    *to = *from;
    for (uint32_t k = 0; k < to->count; k++) {
        to->column[k].data =
            (const char *)to->column[k].data + first * tm_type_bytes(to->column[k].type);
        to->column[k].n = n;
    }
}

static void test_few_points(void **state) {
    (void)state;
    tm_device_t *gpu = open_gpu();
    for (uint32_t n = 1; n <= (is_quick ? 140 : 300); n = n < 4 ? n + 1 : n * 3) {
        tm_columns_t columns;
        tm_tracks_t a = {0};
        tm_tracks_t b = {0};
        cut_columns(&events[n_events - 1].columns, 0, n, &columns);
        find_one(gpu, &columns, n, &a);
        find_one(gpu, &columns, n, &b);
        assert_int_equal(a.n_points, n);
        assert_same_tracks(&a, &b, true);
        tm_tracks_clear(&a);
        tm_tracks_clear(&b);
    }
    gpu->stages->close(&gpu);
}

/* Same bytes: run after run, in another context, and at the same time in three. */
typedef struct {
    tm_device_t *gpu;
    const tm_event_file_t *event;
    const tm_tracks_t *want;
    const char *failure; /* NULL: none */
    tm_error_t err;
} runner_t;

static void *run_often(void *argument) {
    runner_t *r = argument;
    for (int k = 0; k < (is_quick ? 1 : 20) && !r->failure; k++) {
        tm_tracks_t tracks = {0};
        bool ran = false;
        tm_engine_item_t item = {
            .event = &r->event->columns, .n_points = r->event->n_points, .tracks = &tracks};
        if (r->gpu->stages->find(r->gpu, &item, 1, &ran, &r->err) != TM_OK) {
            r->failure = r->err.text;
        } else if (!ran) {
            r->failure = "it did not run";
        } else if (tracks.n_tracks != r->want->n_tracks ||
                   memcmp(tracks.indices, r->want->indices,
                          r->want->offsets[r->want->n_tracks] * sizeof *tracks.indices) != 0 ||
                   memcmp(tracks.scores, r->want->scores,
                          r->want->n_tracks * sizeof *tracks.scores) != 0) {
            r->failure = "other tracks";
        }
        tm_tracks_clear(&tracks);
    }
    return NULL;
}

static void test_same_bytes(void **state) {
    (void)state;
    const tm_event_file_t *event = &events[n_events - 1];
    tm_tracks_t want = {0};
    runner_t runner[3];
    pthread_t thread[3];
    tm_device_t *gpu = open_gpu();
    find_one(gpu, &event->columns, event->n_points, &want);
    gpu->stages->close(&gpu);
    for (int k = 0; k < 3; k++) {
        runner[k] = (runner_t){.gpu = open_gpu(), .event = event, .want = &want};
        assert_int_equal(pthread_create(&thread[k], NULL, run_often, &runner[k]), 0);
    }
    for (int k = 0; k < 3; k++) {
        pthread_join(thread[k], NULL);
        if (runner[k].failure) {
            fail_msg("context %d: %s", k, runner[k].failure);
        }
        runner[k].gpu->stages->close(&runner[k].gpu);
    }
    tm_tracks_clear(&want);
}

/* Pieces of events of many sizes, together and alone. */
static void test_batches(void **state) {
    (void)state;
    tm_device_t *gpu = open_gpu();
    const uint32_t most = is_quick ? 8 : TM_ENGINE_BATCH_MAX;
    const uint32_t most_points = is_quick ? 150 : 2500;
    for (uint32_t count = 2; count <= most; count *= 2) {
        tm_columns_t columns[TM_ENGINE_BATCH_MAX];
        const tm_columns_t *pointers[TM_ENGINE_BATCH_MAX];
        uint32_t n[TM_ENGINE_BATCH_MAX];
        tm_tracks_t together[TM_ENGINE_BATCH_MAX] = {0};
        uint32_t n_tracks = 0;
        for (uint32_t i = 0; i < count; i++) {
            const tm_event_file_t *event = &events[i % n_events];
            uint32_t wanted = i == 3 ? 0 : (i * 977 + count) % most_points + 1;
            n[i] = event->n_points < wanted ? event->n_points : wanted;
            uint32_t spare = event->n_points - n[i];
            cut_columns(&event->columns, spare / 2, n[i], &columns[i]);
            pointers[i] = &columns[i];
        }
        find(gpu, pointers, n, count, together);
        for (uint32_t i = 0; i < count; i++) {
            tm_tracks_t alone = {0};
            if (n[i] > 0) {
                find_one(gpu, pointers[i], n[i], &alone);
                assert_int_equal(together[i].n_points, n[i]);
            }
            assert_same_tracks(&together[i], &alone, true);
            n_tracks += together[i].n_tracks;
            tm_tracks_clear(&alone);
            tm_tracks_clear(&together[i]);
        }
        assert_true(n_tracks > 0);
    }
    gpu->stages->close(&gpu);
}

/* Larger ones, which are put in order for the search: alone, of both kinds together, more than fit. */
static void test_larger_batches(void **state) {
    (void)state;
    static const uint32_t sizes[] = {8193, 300, 20000, 9000, 1, 21647, 8192, 12000};
    enum { COUNT = sizeof sizes / sizeof sizes[0] };
    if (is_quick && !getenv("TM_LARGE_POINTS")) {
        skip();
    }
    tm_error_t err = {0};
    tm_engine_t *engine = NULL;
    tm_columns_t columns[2 * COUNT];
    tm_tracks_t together[2 * COUNT] = {0};
    tm_engine_item_t items[2 * COUNT] = {0};
    uint32_t n_tracks = 0;
    TM_MUST(tm_engine_new_on(&tm_stages_cuda, pipeline, NULL, &engine, &err));
    for (uint32_t i = 0; i < 2 * COUNT; i++) {
        const tm_event_file_t *event = &events[i % n_events];
        uint32_t n = event->n_points < sizes[i % COUNT] ? event->n_points : sizes[i % COUNT];
        cut_columns(&event->columns, (event->n_points - n) / 2, n, &columns[i]);
        items[i] = (tm_engine_item_t){.event = &columns[i], .tracks = &together[i]};
    }
    tm_engine_find_batch(engine, items, 2 * COUNT);
    for (uint32_t i = 0; i < 2 * COUNT; i++) {
        tm_tracks_t alone = {0};
        assert_int_equal(items[i].status, TM_OK);
        TM_MUST(tm_engine_find(engine, &columns[i], NULL, &alone, NULL, NULL, &err));
        assert_same_tracks(&together[i], &alone, true);
        n_tracks += alone.n_tracks;
        tm_tracks_clear(&alone);
        tm_tracks_clear(&together[i]);
    }
    assert_true(n_tracks > 0);
    tm_engine_destroy(&engine);
}

/* Through the engine: a bad event in a batch fails alone. */
static void test_bad_event_in_batch(void **state) {
    (void)state;
    tm_error_t err = {0};
    tm_engine_t *engine = NULL;
    tm_columns_t columns[3];
    tm_tracks_t tracks[3] = {0};
    tm_engine_item_t items[3] = {0};
    const tm_columns_t *whole = &events[n_events - 1].columns;
    TM_MUST(tm_engine_new_on(&tm_stages_cuda, pipeline, NULL, &engine, &err));
    const uint32_t n = events[n_events - 1].n_points / 3;
    const uint32_t bad = n / 2;
    char place[32];
    for (uint32_t i = 0; i < 3; i++) {
        cut_columns(whole, n * i, n, &columns[i]);
        items[i] = (tm_engine_item_t){.event = &columns[i], .tracks = &tracks[i]};
    }
    float *charges = must_alloc(n * sizeof *charges);
    for (uint32_t k = 0; k < columns[1].count; k++) {
        if (strcmp(columns[1].column[k].name, "charge") == 0) {
            tm_column_to_f32(&columns[1].column[k], charges);
            charges[bad] = NAN;
            columns[1].column[k].type = TM_F32;
            columns[1].column[k].data = charges;
        }
    }
    tm_engine_find_batch(engine, items, 3);
    assert_int_equal(items[0].status, TM_OK);
    assert_int_equal(items[2].status, TM_OK);
    assert_int_equal(items[1].status, TM_E_BAD_EVENT);
    snprintf(place, sizeof place, "row %u", bad);
    assert_non_null(strstr(items[1].err.text, place));
    free(charges);
    for (uint32_t i = 0; i < 3; i++) {
        tm_tracks_clear(&tracks[i]);
    }
    tm_engine_destroy(&engine);
}

/* A candidate of more points than the fused path puts in order: it leaves the event to the general
 * path. With a fair cut there is none. */
static void test_large_candidate(void **state) {
    (void)state;
    if (is_quick) {
        skip();
    }
    const tm_event_file_t *event = &events[3];
    const tm_pipeline_t *standard = pipeline;
    tm_pipeline_t loose = *pipeline;
    memset(&loose.tracks, 0, sizeof loose.tracks);
    loose.tracks.builder = TM_BUILDER_COMPONENTS;
    loose.tracks.min_points = 3;
    for (int round = 0; round < 2; round++) {
        loose.filter.cut = round == 0 ? 0 : standard->filter.cut;
        loose.tracks.cut = round == 0 ? 0 : standard->tracks.cut;
        pipeline = &loose;
        tm_device_t *gpu = open_gpu();
        tm_error_t err = {0};
        tm_tracks_t tracks = {0};
        tm_engine_item_t item = {
            .event = &event->columns, .n_points = event->n_points, .tracks = &tracks};
        bool ran = false;
        TM_MUST(gpu->stages->find(gpu, &item, 1, &ran, &err));
        assert_int_equal(ran, round == 1);
        assert_int_equal(tracks.n_tracks > 0, ran);
        tm_tracks_clear(&tracks);
        gpu->stages->close(&gpu);
        pipeline = standard;
    }
}

/* An event of copies of another one, turned: more points than any before. */
static void test_large_event(void **state) {
    (void)state;
    if (is_quick && !getenv("TM_LARGE_POINTS")) {
        skip();
    }
    const tm_event_file_t *event = &events[n_events - 1];
    const char *wanted = getenv("TM_LARGE_POINTS");
    const uint32_t copies = (wanted ? (uint32_t)atoi(wanted) : LARGE_POINTS) / event->n_points + 1;
    const uint32_t n = copies * event->n_points;
    tm_columns_t columns = event->columns;
    tm_tracks_t a = {0};
    tm_tracks_t b = {0};
    float *data[TM_COLUMNS_MAX];
    float *source[3];
    assert_string_equal(columns.column[0].name, "x");
    for (uint32_t k = 0; k < columns.count; k++) {
        const tm_column_t *from = &event->columns.column[k];
        data[k] = must_alloc((size_t)n * sizeof(float));
        for (uint32_t c = 0; c < copies; c++) {
            tm_column_to_f32(from, data[k] + (size_t)c * event->n_points);
        }
        columns.column[k].type = TM_F32;
        columns.column[k].n = n;
        columns.column[k].data = data[k];
        for (int d = 0; d < 3; d++) {
            static const char *const names[] = {"x", "y", "z"};
            if (strcmp(from->name, names[d]) == 0) {
                source[d] = data[k];
            }
        }
    }
    for (uint32_t c = 0; c < copies; c++) {
        double angle = 6.283185307 * c / copies;
        for (uint32_t i = c * event->n_points; i < (c + 1) * event->n_points; i++) {
            double x = (double)source[0][i];
            double y = (double)source[1][i];
            source[0][i] = (float)(x * cos(angle) - y * sin(angle));
            source[1][i] = (float)(x * sin(angle) + y * cos(angle));
        }
    }
    tm_device_t *gpu = open_gpu();
    tm_cuda_view_t view;
    find_one(gpu, &columns, n, &a);
    assert_true(tm_cuda_view(gpu, &view));
    printf("%u points: %u edges, %u kept, %u tracks, %zu MiB\n", n, view.n_edges, view.n_kept,
           a.n_tracks, tm_cuda_memory_bytes(gpu) >> 20);
    find_one(gpu, &columns, n, &b);
    assert_true(a.n_tracks > 0);
    assert_same_tracks(&a, &b, true);
    /* and the small one behind it, in what the large one left */
    tm_tracks_t c = {0};
    tm_tracks_t d = {0};
    find_one(gpu, &event->columns, event->n_points, &c);
    tm_device_t *fresh = open_gpu();
    find_one(fresh, &event->columns, event->n_points, &d);
    assert_same_tracks(&c, &d, true);
    tm_tracks_clear(&a);
    tm_tracks_clear(&b);
    tm_tracks_clear(&c);
    tm_tracks_clear(&d);
    gpu->stages->close(&gpu);
    fresh->stages->close(&fresh);
    for (uint32_t k = 0; k < columns.count; k++) {
        free(data[k]);
    }
}

static void read_event(const char *path) {
    tm_error_t err = {0};
    if (n_events < EVENTS_MAX && tm_event_file_read(path, &events[n_events], &err) != TM_OK) {
        fprintf(stderr, "test_fused: %s: %s\n", path, err.text);
        exit(1);
    }
    n_events += n_events < EVENTS_MAX;
}

int main(int argc, char **argv) {
    static const char *const names[] = {"event000000001", "event000000010", "event000000020",
                                        "event000000040"};
    tm_error_t err = {0};
    const char *folder = getenv("TM_DATA") ? getenv("TM_DATA") : "tests/data";
    const char *file = getenv("TM_MODEL") ? getenv("TM_MODEL") : "weights/standard.safetensors";
    is_quick = argc > 1 && strcmp(argv[1], "--quick") == 0;
    if (tm_cuda_count(&err) == 0) {
        printf("skipped: %s\n", err.text);
        return SKIPPED;
    }
    if (tm_model_load(file, &model, &err) != TM_OK) {
        fprintf(stderr, "test_fused: %s\n", err.text);
        return 1;
    }
    pipeline = tm_model_pipeline(model);
    for (int k = 0; k < (is_quick ? 3 : 4); k++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s.npz.xz", folder, names[k]);
        read_event(path);
    }
    for (int k = is_quick ? 2 : 1; k < argc; k++) {
        read_event(argv[k]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stages),         cmocka_unit_test(test_other_models),
        cmocka_unit_test(test_few_points),     cmocka_unit_test(test_batches),
        cmocka_unit_test(test_larger_batches), cmocka_unit_test(test_bad_event_in_batch),
        cmocka_unit_test(test_same_bytes),     cmocka_unit_test(test_large_candidate),
        cmocka_unit_test(test_large_event),
    };
    int failed = is_quick ? cmocka_run_group_tests_name("fused, quick", tests, NULL, NULL)
                          : cmocka_run_group_tests_name("fused", tests, NULL, NULL);
    for (uint32_t i = 0; i < n_events; i++) {
        tm_event_file_clear(&events[i]);
    }
    tm_model_destroy(&model);
    return failed;
}
