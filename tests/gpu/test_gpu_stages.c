// SPDX-License-Identifier: Apache-2.0
/*
 * The GPU's stages, each for itself, against the reference and the CPU on fresh random input (TM_SEED
 * repeats it): networks of random weights, radius search, track building.
 *
 *   test_gpu_stages [quick]     quick: small inputs only, for running under a memory checker
 *
 * Exits with 77 and says why where there is no GPU.
 */
#include "tests/unit/nn/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpu/compare.h"
#include "tests/gpu/host_stages.h"
#include "tests/support/model_zoo.h"

#define D2_SLACK 1e-6
#define CUT_SLACK 1e-4

static bool is_quick; /* the memory checker is slow: fewer rounds */

/* ---- features, embed, filter, gnn ---- */

typedef struct {
    const char *name; /* of the model */
    const tm_pipeline_t *pipeline;
    const tm_columns_t *columns;
    uint32_t n;
    const tm_edges_t *edges;
} case_t;

static void compare_filter(const case_t *c, int precision, const tm_points_t *points,
                           const float *features, const char *what) {
    tm_error_t err = {0};
    tm_pipeline_t all = *c->pipeline;
    all.filter.cut = 0;
    tm_device_t *gpu = tm_sample_open(tm_compare_stages[precision], &all, 1);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, &all, 1);
    tm_edges_t kept_a, kept_b;
    const float *a, *b;
    TM_MUST(gpu->stages->filter(gpu, points, features, c->edges, &kept_a, &a, &err));
    TM_MUST(ref->stages->filter(ref, points, features, c->edges, &kept_b, &b, &err));
    tm_sample_assert_same_edges(&kept_a, c->edges);
    tm_sample_assert_same_edges(&kept_b, c->edges);
    tm_compare_logits(precision, a, b, c->edges->n, what);
    /* with a cut in the middle: those above it, in order, with the same logits */
    tm_pipeline_t half = *c->pipeline;
    half.filter.cut = c->edges->n > 0 ? (float)(1 / (1 + exp(-(double)a[c->edges->n / 2]))) : 0.5f;
    tm_device_t *cut = tm_sample_open(tm_compare_stages[precision], &half, 1);
    const float *logits;
    tm_edges_t kept;
    TM_MUST(cut->stages->filter(cut, points, features, c->edges, &kept, &logits, &err));
    double least = log((double)half.filter.cut / (1 - (double)half.filter.cut));
    uint32_t at = 0;
    for (uint32_t k = 0; k < c->edges->n; k++) {
        if ((double)a[k] > least) {
            assert_true(at < kept.n);
            assert_int_equal(kept.src[at], c->edges->src[k]);
            assert_int_equal(kept.dst[at], c->edges->dst[k]);
            assert_true(logits[at++] == a[k]);
        }
    }
    assert_int_equal(at, kept.n);
    gpu->stages->close(&gpu);
    ref->stages->close(&ref);
    cut->stages->close(&cut);
}

static void compare_case(const case_t *c, int precision) {
    tm_error_t err = {0};
    const tm_pipeline_t *p = c->pipeline;
    uint32_t n = c->n;
    char what[128];
    tm_device_t *gpu = tm_sample_open(tm_compare_stages[precision], p, 1);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, p, 1);
    tm_points_t points, want;
    const float *features, *want_features, *a, *b;
    TM_MUST(gpu->stages->features(gpu, c->columns, n, &points, &features, &err));
    TM_MUST(ref->stages->features(ref, c->columns, n, &want, &want_features, &err));
    tm_compare(TM_COMPARE_SINGLE, features, want_features, (size_t)n * p->n_features, "features");
    tm_compare(TM_COMPARE_SINGLE, points.r, want.r, n, "r");
    tm_compare(TM_COMPARE_SINGLE, points.phi, want.phi, n, "phi");
    tm_compare(TM_COMPARE_SINGLE, points.z, want.z, n, "z");
    tm_compare(TM_COMPARE_SINGLE, points.eta, want.eta, n, "eta");
    tm_compare(TM_COMPARE_SINGLE, points.rho, want.rho, n, "rho");
    snprintf(what, sizeof what, "embedding of %s, %u points", c->name, n);
    TM_MUST(gpu->stages->embed(gpu, n, want_features, &a, &err));
    TM_MUST(ref->stages->embed(ref, n, want_features, &b, &err));
    tm_compare(precision, a, b, (size_t)n * p->embed.mlp.out, what);
    if (p->filter.present) {
        snprintf(what, sizeof what, "filter of %s, %u edges", c->name, c->edges->n);
        compare_filter(c, precision, &want, want_features, what);
    }
    if (p->gnn.kind != TM_GNN_NONE) {
        snprintf(what, sizeof what, "gnn of %s, %u points, %u edges", c->name, n, c->edges->n);
        TM_MUST(gpu->stages->gnn(gpu, &want, want_features, c->edges, &a, &err));
        TM_MUST(ref->stages->gnn(ref, &want, want_features, c->edges, &b, &err));
        tm_compare_logits(precision, a, b, c->edges->n, what);
    }
    gpu->stages->close(&gpu);
    ref->stages->close(&ref);
}

static void compare_model(const char *name, uint64_t seed, uint32_t n, uint32_t n_edges,
                          const tm_pipeline_t *changed) {
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load(name, seed);
    tm_sample_event_t event;
    tm_sample_event(&event, n, &random);
    tm_edges_t edges = tm_sample_edges(n, n_edges, &random);
    case_t c = {.name = name,
                .pipeline = changed ? changed : tm_model_pipeline(model),
                .columns = &event.columns,
                .n = n,
                .edges = &edges};
    for (int precision = 0; precision < TM_COMPARE_PRECISIONS; precision++) {
        compare_case(&c, precision);
    }
    free((void *)(uintptr_t)edges.src);
    free((void *)(uintptr_t)edges.dst);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

static void every_architecture(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name; entry++) {
        compare_model(entry->name, seed, 150, 600, NULL);
    }
}

static void every_size(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    static const char *const names[] = {"standard", "acorn_recurrent", "resagnn_small"};
    for (size_t k = 0; k < 3; k += is_quick ? 2 : 1) {
        compare_model(names[k], seed, 300, 40, NULL);
        compare_model(names[k], seed, 25, 500, NULL);
        for (uint32_t n = 0; n < 4; n++) {
            compare_model(names[k], seed, n, 2 * n, NULL);
        }
    }
}

/* More rows than a chunk of wide layers has. */
static void many_rows(void **state) {
    (void)state;
    compare_model("standard", tm_sample_seed(), 9000, 12000, NULL);
}

static void every_option(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    tm_model_t *model = tm_zoo_load("standard", seed);
    for (uint32_t k = 0; k < TM_SAMPLE_OPTIONS; k++) {
        tm_pipeline_t p = *tm_model_pipeline(model);
        tm_sample_option(k, &p);
        compare_model("standard", seed, 80, 300, &p);
    }
    tm_model_destroy(&model);
}

static void high_degree(void **state) {
    (void)state;
    enum { N = 1300 };
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load("standard", seed);
    tm_sample_event_t event;
    tm_sample_event(&event, N, &random);
    tm_edges_t edges = tm_sample_hubs(N);
    case_t c = {"standard, degree 1299", tm_model_pipeline(model), &event.columns, N, &edges};
    compare_case(&c, TM_COMPARE_SINGLE);
    compare_case(&c, TM_COMPARE_HALF);
    free((void *)edges.src);
    free((void *)edges.dst);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

static void every_operation(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    enum { N = 77 };
    static tm_sample_weights_t weights;
    float features[N * TM_SAMPLE_LAYERS_WIDTH];
    for (int round = 0; round < 60; round++) {
        tm_pipeline_t p;
        tm_sample_layers(&p, &weights, &random);
        for (uint32_t i = 0; i < N * p.n_features; i++) {
            features[i] = (float)tm_sample_normal(&random);
        }
        tm_error_t err = {0};
        tm_device_t *gpu = tm_sample_open(&tm_host_stages_single, &p, 1);
        tm_device_t *ref = tm_sample_open(&tm_stages_ref, &p, 1);
        const float *a, *b;
        TM_MUST(gpu->stages->embed(gpu, N, features, &a, &err));
        TM_MUST(ref->stages->embed(ref, N, features, &b, &err));
        tm_compare(TM_COMPARE_SINGLE, a, b, (size_t)N * TM_SAMPLE_LAYERS_OUT,
                   "operations in any order");
        gpu->stages->close(&gpu);
        ref->stages->close(&ref);
    }
}

/* Layers of every width class of the kernels. */
static void every_width(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    static const uint32_t widths[] = {1,   33,  64,  65,   128,  129, 256,
                                      257, 512, 513, 1024, 1025, 2100};
    enum { N = 40 };
    for (size_t k = 0; k < sizeof widths / sizeof widths[0]; k++) {
        uint32_t width = widths[k];
        float *weight = malloc((size_t)width * 8 * sizeof *weight);
        float *gain = malloc(2 * width * sizeof *gain);
        float features[N * 4];
        assert_true(weight && gain);
        for (uint32_t i = 0; i < 8 * width; i++) {
            weight[i] = (float)(tm_sample_normal(&random) / 3);
        }
        for (uint32_t i = 0; i < 2 * width; i++) {
            gain[i] = (float)(1 + 0.2 * tm_sample_normal(&random));
        }
        for (uint32_t i = 0; i < N * 4; i++) {
            features[i] = (float)tm_sample_normal(&random);
        }
        tm_pipeline_t p = {.n_features = 4};
        tm_mlp_t *mlp = &p.embed.mlp;
        *mlp = (tm_mlp_t){.n_ops = 4, .in = 4, .out = 3, .max_width = width > 4 ? width : 4};
        mlp->op[0] = (tm_op_t){.kind = TM_OP_LINEAR, .in = 4, .out = width, .weight = weight};
        mlp->op[1] = (tm_op_t){.kind = width > 1 ? TM_OP_LAYER_NORM : TM_OP_TANH,
                               .in = width,
                               .out = width,
                               .weight = gain,
                               .bias = gain + width,
                               .eps = 1e-5f};
        mlp->op[2] = (tm_op_t){.kind = TM_OP_SILU, .in = width, .out = width};
        mlp->op[3] = (tm_op_t){
            .kind = TM_OP_LINEAR, .in = width, .out = 3, .weight = weight + 4 * (size_t)width};
        p.embed.features = (tm_feature_list_t){.n = 4, .index = {0, 1, 2, 3}};
        for (int precision = 0; precision < TM_COMPARE_PRECISIONS; precision++) {
            tm_error_t err = {0};
            char what[64];
            snprintf(what, sizeof what, "a layer %u wide", width);
            tm_device_t *gpu = tm_sample_open(tm_compare_stages[precision], &p, 1);
            tm_device_t *ref = tm_sample_open(&tm_stages_ref, &p, 1);
            const float *a, *b;
            TM_MUST(gpu->stages->embed(gpu, N, features, &a, &err));
            TM_MUST(ref->stages->embed(ref, N, features, &b, &err));
            tm_compare(precision, a, b, (size_t)N * 3, what);
            gpu->stages->close(&gpu);
            ref->stages->close(&ref);
        }
        free(weight);
        free(gain);
    }
}

/* ---- radius ---- */

static tm_pipeline_t radius_pipeline(uint32_t dim, float r, uint32_t k, tm_direction_t direction) {
    tm_pipeline_t p = {0};
    p.embed.mlp.out = dim;
    p.radius.r = r;
    p.radius.k = k;
    p.radius.direction = direction;
    return p;
}

static bool on_the_edge(const tm_pipeline_t *p, const tm_points_t *pt, const float *e, uint32_t a,
                        uint32_t b) {
    double r2 = (double)p->radius.r * (double)p->radius.r;
    double d2 = 0;
    for (uint32_t d = 0; d < p->embed.mlp.out; d++) {
        double u = (double)e[(size_t)a * p->embed.mlp.out + d] -
                   (double)e[(size_t)b * p->embed.mlp.out + d];
        d2 += u * u;
    }
    double dphi = fabs((double)pt->phi[b] - (double)pt->phi[a]);
    dphi = dphi > acos(-1) ? 2 * acos(-1) - dphi : dphi;
    double dr = (double)pt->r[b] - (double)pt->r[a];
    double z0 = (double)pt->z[a] -
                (double)pt->r[a] * ((double)pt->z[b] - (double)pt->z[a]) / fmax(dr, 1e-3);
    return fabs(d2 - r2) < D2_SLACK * (1 + r2) ||
           fabs(dphi - (double)p->radius.dphi_max) < CUT_SLACK ||
           fabs(dr - (double)p->radius.z0_min_dr) < CUT_SLACK ||
           fabs(fabs(z0) - (double)p->radius.z0_max) < CUT_SLACK * (1 + fabs(z0));
}

/* Returns the number of edges. `exact`: no pair may be decided by rounding. */
static uint32_t compare_radius(const tm_pipeline_t *p, const tm_points_t *points, const float *e,
                               const tm_stages_t *other, bool exact) {
    tm_error_t err = {0};
    tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, p, 1);
    tm_device_t *ref = tm_sample_open(other, p, 2);
    tm_edges_t a, b;
    TM_MUST(gpu->stages->radius(gpu, points, e, &a, &err));
    TM_MUST(ref->stages->radius(ref, points, e, &b, &err));
    uint32_t i = 0;
    uint32_t j = 0;
    while (i < a.n || j < b.n) {
        uint64_t x = i < a.n ? (uint64_t)a.src[i] << 32 | a.dst[i] : UINT64_MAX;
        uint64_t y = j < b.n ? (uint64_t)b.src[j] << 32 | b.dst[j] : UINT64_MAX;
        uint64_t least = x < y ? x : y;
        if (i > 0 && i < a.n) {
            assert_true(((uint64_t)a.src[i - 1] << 32 | a.dst[i - 1]) < x);
        }
        if (x != y &&
            (exact || !on_the_edge(p, points, e, (uint32_t)(least >> 32), (uint32_t)least))) {
            fail_msg("edge %u-%u is in %s alone (dim %u, %u points, k %u)", (uint32_t)(least >> 32),
                     (uint32_t)least, x < y ? "cuda" : other->name, p->embed.mlp.out, points->n,
                     p->radius.k);
        }
        i += x == least;
        j += y == least;
    }
    uint32_t count = a.n;
    gpu->stages->close(&gpu);
    ref->stages->close(&ref);
    return count;
}

static void radius_finds_all(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    static const uint32_t sizes[] = {0, 1, 2, 3, 127, 128, 129, 256, 700};
    uint32_t total = 0;
    for (uint32_t dim = 1; dim <= TM_EMBED_DIM_MAX; dim++) {
        uint32_t n = sizes[dim * 5 % 9];
        for (int variant = 0; variant < 2; variant++, n = 700 - n) {
            tm_points_t points = tm_sample_points(n, &random);
            float *e = tm_sample_cloud(n, dim, &random);
            tm_pipeline_t p = radius_pipeline(dim, 0.55f * sqrtf((float)dim), 0,
                                              variant ? TM_DIRECTION_INDEX : TM_DIRECTION_OUTWARD);
            total += compare_radius(&p, &points, e, &tm_stages_ref, false);
            p.radius.dphi_max = 0.7f;
            p.radius.z0_max = 300;
            p.radius.z0_min_dr = 50;
            total += compare_radius(&p, &points, e, &tm_stages_ref, false);
            free(e);
            free((void *)(uintptr_t)points.r);
        }
    }
    assert_true(total > 1000);
}

static void radius_large(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (uint32_t n = 5000; n <= 40000; n *= 8) {
        tm_points_t points = tm_sample_points(n, &random);
        float *e = tm_sample_cloud(n, 3, &random);
        tm_pipeline_t p = radius_pipeline(3, n > 5000 ? 0.1f : 0.3f, 0, TM_DIRECTION_OUTWARD);
        assert_true(compare_radius(&p, &points, e, &tm_stages_cpu, false) > 10000);
        free(e);
        free((void *)(uintptr_t)points.r);
    }
}

/* Points on a lattice: distances are exact, so ties must be settled as documented. */
static void radius_ties_and_cap(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    enum { N = 500 };
    for (uint32_t dim = 1; dim <= 6; dim += is_quick ? 4 : 1) {
        tm_points_t points = tm_sample_points(N, &random);
        float *rho = (float *)(uintptr_t)points.rho;
        float e[N * 6];
        for (uint32_t i = 0; i < N; i++) {
            rho[i] = (float)tm_sample_below(&random, 5);
            for (uint32_t d = 0; d < dim; d++) {
                e[i * dim + d] = (float)tm_sample_below(&random, 1 + 12 / dim);
            }
        }
        for (uint32_t k = 0; k < 40; k += is_quick ? 13 : 1 + k / 2) {
            tm_pipeline_t p =
                radius_pipeline(dim, 2, k, k % 2 ? TM_DIRECTION_INDEX : TM_DIRECTION_OUTWARD);
            compare_radius(&p, &points, e, &tm_stages_ref, true);
        }
        free((void *)(uintptr_t)points.r);
    }
}

static void radius_all_equal(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    enum { N = 1500 };
    tm_points_t points = tm_sample_points(N, &random);
    static float e[N * 4];
    tm_pipeline_t p = radius_pipeline(4, 0.1f, 0, TM_DIRECTION_INDEX);
    assert_int_equal(compare_radius(&p, &points, e, &tm_stages_cpu, true), N * (N - 1) / 2);
    p.radius.direction = TM_DIRECTION_OUTWARD;
    compare_radius(&p, &points, e, &tm_stages_cpu, true);
    p.radius.k = 7;
    compare_radius(&p, &points, e, &tm_stages_cpu, true);
    free((void *)(uintptr_t)points.r);
}

/* More edges than the engine takes: refused, and the context goes on. */
static void radius_too_many(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    uint32_t n = 30000;
    tm_points_t points = tm_sample_points(n, &random);
    float *e = calloc(n, sizeof *e);
    assert_non_null(e);
    tm_pipeline_t p = radius_pipeline(1, 1, 0, TM_DIRECTION_INDEX);
    tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, &p, 1);
    tm_error_t err = {0};
    tm_edges_t edges;
    assert_int_equal(gpu->stages->radius(gpu, &points, e, &edges, &err), TM_E_NO_MEMORY);
    points.n = 100;
    TM_MUST(gpu->stages->radius(gpu, &points, e, &edges, &err));
    assert_int_equal(edges.n, 100 * 99 / 2);
    gpu->stages->close(&gpu);
    free(e);
    free((void *)(uintptr_t)points.r);
}

/* ---- tracks ---- */

/* The GPU's tracks are those of the CPU, and as many edges are taken. */
static void compare_tracks(const tm_pipeline_t *p, const tm_points_t *points,
                           const tm_edges_t *edges, const float *logits) {
    tm_error_t err = {0};
    tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, p, 1);
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, p, 1);
    tm_tracks_t a = {0};
    tm_tracks_t b = {0};
    uint64_t a_edges, b_edges;
    TM_MUST(gpu->stages->tracks(gpu, points, edges, logits, &a, &a_edges, &err));
    TM_MUST(cpu->stages->tracks(cpu, points, edges, logits, &b, &b_edges, &err));
    tm_sample_assert_same_tracks(&a, &b);
    assert_int_equal(a_edges, b_edges);
    tm_tracks_clear(&a);
    tm_tracks_clear(&b);
    gpu->stages->close(&gpu);
    cpu->stages->close(&cpu);
}

static void same_tracks_as_cpu(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (int round = 0; round < (is_quick ? 7 : 40); round++) {
        uint32_t n = round < 4 ? (uint32_t)round : 1 + tm_sample_below(&random, 3000);
        tm_points_t points = tm_sample_points(n, &random);
        tm_edges_t edges = tm_sample_edges(n, tm_sample_below(&random, 3 * n + 1), &random);
        float *logits = calloc(edges.n + 1, sizeof *logits);
        float *rho = (float *)(uintptr_t)points.rho;
        assert_non_null(logits);
        for (uint32_t k = 0; k < edges.n; k++) { /* many equal ones, also 0 and −0 */
            double x = tm_sample_normal(&random) * 2;
            logits[k] = (float)(round % 2 ? x : rint(x));
        }
        for (uint32_t i = 0; i < n && round % 3 == 0; i++) {
            rho[i] = (float)tm_sample_below(&random, 9);
        }
        for (int builder = 0; builder < 2; builder++) {
            tm_pipeline_t p = {0};
            p.tracks.builder = builder ? TM_BUILDER_BEST_EDGES : TM_BUILDER_COMPONENTS;
            p.tracks.cut = round % 5 == 0 ? 0 : 0.5f;
            p.tracks.min_points = 2 + (uint32_t)round % 3;
            compare_tracks(&p, &points, &edges, logits);
        }
        free(logits);
        free((void *)(uintptr_t)points.r);
        free((void *)(uintptr_t)edges.src);
        free((void *)(uintptr_t)edges.dst);
    }
}

/* A chain whose edges get better along it: one edge is settled per round. */
static void long_chain(void **state) {
    (void)state;
    enum { N = 700 };
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(N, &random);
    static uint32_t src[2 * N], dst[2 * N];
    static float logits[2 * N];
    uint32_t count = 0;
    for (uint32_t i = 0; i + 2 < N; i++) {
        for (uint32_t step = 1; step < 3; step++) {
            src[count] = i;
            dst[count] = i + step;
            logits[count] = 1 + (float)count * 0.001f;
            count++;
        }
    }
    tm_edges_t edges = {.n = count, .src = src, .dst = dst};
    tm_pipeline_t p = {0};
    p.tracks.builder = TM_BUILDER_BEST_EDGES;
    p.tracks.min_points = 3;
    compare_tracks(&p, &points, &edges, logits);
    free((void *)(uintptr_t)points.r);
}

int main(int argc, char **argv) {
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(every_size),
        cmocka_unit_test(radius_ties_and_cap),
        cmocka_unit_test(same_tracks_as_cpu),
        cmocka_unit_test(high_degree),
    };
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_operation),    cmocka_unit_test(every_width),
        cmocka_unit_test(every_architecture), cmocka_unit_test(every_size),
        cmocka_unit_test(every_option),       cmocka_unit_test(high_degree),
        cmocka_unit_test(many_rows),          cmocka_unit_test(radius_finds_all),
        cmocka_unit_test(radius_large),       cmocka_unit_test(radius_ties_and_cap),
        cmocka_unit_test(radius_all_equal),   cmocka_unit_test(radius_too_many),
        cmocka_unit_test(same_tracks_as_cpu), cmocka_unit_test(long_chain),
    };
    tm_compare_need_gpu();
    is_quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    int failed = is_quick ? cmocka_run_group_tests(quick, NULL, NULL)
                          : cmocka_run_group_tests(all, NULL, NULL);
    tm_compare_report();
    return failed > 0 ? 1 : 0;
}
