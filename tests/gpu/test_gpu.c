// SPDX-License-Identifier: Apache-2.0
/*
 * The GPU's stages against the reference and the CPU, on fresh random input (TM_SEED repeats it).
 *
 *   test_gpu [quick]     quick: small inputs only, for running under a memory checker
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
#include "tests/gpu/host_stages.h"
#include "tests/support/model_zoo.h"

#define SKIPPED 77
#define SINGLE_LIMIT 3e-5 /* relative: what fp32 loses */
#define HALF_LIMIT 3e-3   /* what fp16 may lose */
#define D2_SLACK 1e-6
#define CUT_SLACK 1e-4
#define FLIPPED_MAX 1e-3 /* share of edge decisions that precision may change */

static const tm_stages_t *const gpus[] = {&tm_host_stages_single, &tm_host_stages_half};
static bool is_quick; /* the memory checker is slow: fewer rounds */
static const double limits[] = {SINGLE_LIMIT, HALF_LIMIT};
static double worst[2]; /* of all comparisons, per precision */
static char worst_what[2][160];

/* ‖a − b‖ / ‖b‖ within the limit of the precision; `least` is the size that values have at least: logits
 * of random weights may all lie close to 0, and mean no more then than those around 1. */
static void compare_from(double least, int precision, const float *a, const float *b, size_t n,
                         const char *what) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    double scale = fmax(sqrt(norm), least * sqrt((double)n));
    double relative = n > 0 ? sqrt(difference) / (scale + 1e-30) : 0;
    if (relative > worst[precision]) {
        worst[precision] = relative;
        snprintf(worst_what[precision], sizeof worst_what[precision], "%s", what);
    }
    if (!(relative < limits[precision])) {
        fail_msg("%s, %s: relative difference %g of %zu values, limit %g", gpus[precision]->name,
                 what, relative, n, limits[precision]);
    }
}

static void compare(int precision, const float *a, const float *b, size_t n, const char *what) {
    compare_from(0, precision, a, b, n, what);
}

static void compare_logits(int precision, const float *a, const float *b, size_t n,
                           const char *what) {
    compare_from(1, precision, a, b, n, what);
}

#define MUST(call) \
    do { \
        tm_status_t status_ = (call); \
        if (status_ != TM_OK) { \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, tm_status_name(status_), err.text); \
        } \
    } while (0)

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
    tm_device_t *gpu = tm_sample_open(gpus[precision], &all, 1);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, &all, 1);
    tm_edges_t kept_a, kept_b;
    const float *a, *b;
    MUST(gpu->stages->filter(gpu, points, features, c->edges, &kept_a, &a, &err));
    MUST(ref->stages->filter(ref, points, features, c->edges, &kept_b, &b, &err));
    tm_sample_assert_same_edges(&kept_a, c->edges);
    tm_sample_assert_same_edges(&kept_b, c->edges);
    compare_logits(precision, a, b, c->edges->n, what);
    /* with a cut in the middle: those above it, in order, with the same logits */
    tm_pipeline_t half = *c->pipeline;
    half.filter.cut = c->edges->n > 0 ? (float)(1 / (1 + exp(-(double)a[c->edges->n / 2]))) : 0.5f;
    tm_device_t *cut = tm_sample_open(gpus[precision], &half, 1);
    const float *logits;
    tm_edges_t kept;
    MUST(cut->stages->filter(cut, points, features, c->edges, &kept, &logits, &err));
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
    tm_device_t *gpu = tm_sample_open(gpus[precision], p, 1);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, p, 1);
    tm_points_t points, want;
    const float *features, *want_features, *a, *b;
    MUST(gpu->stages->features(gpu, c->columns, n, &points, &features, &err));
    MUST(ref->stages->features(ref, c->columns, n, &want, &want_features, &err));
    compare(0, features, want_features, (size_t)n * p->n_features, "features");
    compare(0, points.r, want.r, n, "r");
    compare(0, points.phi, want.phi, n, "phi");
    compare(0, points.z, want.z, n, "z");
    compare(0, points.eta, want.eta, n, "eta");
    compare(0, points.rho, want.rho, n, "rho");
    snprintf(what, sizeof what, "embedding of %s, %u points", c->name, n);
    MUST(gpu->stages->embed(gpu, n, want_features, &a, &err));
    MUST(ref->stages->embed(ref, n, want_features, &b, &err));
    compare(precision, a, b, (size_t)n * p->embed.mlp.out, what);
    if (p->filter.present) {
        snprintf(what, sizeof what, "filter of %s, %u edges", c->name, c->edges->n);
        compare_filter(c, precision, &want, want_features, what);
    }
    if (p->gnn.kind != TM_GNN_NONE) {
        snprintf(what, sizeof what, "gnn of %s, %u points, %u edges", c->name, n, c->edges->n);
        MUST(gpu->stages->gnn(gpu, &want, want_features, c->edges, &a, &err));
        MUST(ref->stages->gnn(ref, &want, want_features, c->edges, &b, &err));
        compare_logits(precision, a, b, c->edges->n, what);
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
    for (int precision = 0; precision < 2; precision++) {
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
    compare_case(&c, 0);
    compare_case(&c, 1);
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
        MUST(gpu->stages->embed(gpu, N, features, &a, &err));
        MUST(ref->stages->embed(ref, N, features, &b, &err));
        compare(0, a, b, (size_t)N * TM_SAMPLE_LAYERS_OUT, "operations in any order");
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
        for (int precision = 0; precision < 2; precision++) {
            tm_error_t err = {0};
            char what[64];
            snprintf(what, sizeof what, "a layer %u wide", width);
            tm_device_t *gpu = tm_sample_open(gpus[precision], &p, 1);
            tm_device_t *ref = tm_sample_open(&tm_stages_ref, &p, 1);
            const float *a, *b;
            MUST(gpu->stages->embed(gpu, N, features, &a, &err));
            MUST(ref->stages->embed(ref, N, features, &b, &err));
            compare(precision, a, b, (size_t)N * 3, what);
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
    MUST(gpu->stages->radius(gpu, points, e, &a, &err));
    MUST(ref->stages->radius(ref, points, e, &b, &err));
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
    MUST(gpu->stages->radius(gpu, &points, e, &edges, &err));
    assert_int_equal(edges.n, 100 * 99 / 2);
    gpu->stages->close(&gpu);
    free(e);
    free((void *)(uintptr_t)points.r);
}

/* ---- tracks ---- */

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
            tm_error_t err = {0};
            tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, &p, 1);
            tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, &p, 1);
            tm_tracks_t a = {0};
            tm_tracks_t b = {0};
            uint64_t a_edges, b_edges;
            MUST(gpu->stages->tracks(gpu, &points, &edges, logits, &a, &a_edges, &err));
            MUST(cpu->stages->tracks(cpu, &points, &edges, logits, &b, &b_edges, &err));
            tm_sample_assert_same_tracks(&a, &b);
            assert_int_equal(a_edges, b_edges);
            tm_tracks_clear(&a);
            tm_tracks_clear(&b);
            gpu->stages->close(&gpu);
            cpu->stages->close(&cpu);
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
    tm_error_t err = {0};
    tm_device_t *gpu = tm_sample_open(&tm_host_stages_half, &p, 1);
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, &p, 1);
    tm_tracks_t a = {0};
    tm_tracks_t b = {0};
    uint64_t a_edges, b_edges;
    MUST(gpu->stages->tracks(gpu, &points, &edges, logits, &a, &a_edges, &err));
    MUST(cpu->stages->tracks(cpu, &points, &edges, logits, &b, &b_edges, &err));
    tm_sample_assert_same_tracks(&a, &b);
    assert_int_equal(a_edges, b_edges);
    tm_tracks_clear(&a);
    tm_tracks_clear(&b);
    gpu->stages->close(&gpu);
    cpu->stages->close(&cpu);
    free((void *)(uintptr_t)points.r);
}

/* ---- whole engines ---- */

static void find(tm_engine_t *engine, const tm_columns_t *event, tm_tracks_t *tracks,
                 tm_engine_counts_t *counts) {
    tm_error_t err = {0};
    MUST(tm_engine_find(engine, event, NULL, tracks, NULL, counts, &err));
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
    MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, pipeline, NULL, &engine, &err));
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
    static const uint32_t sizes[] = {0, 1, 3, 10, 2500, 50, 0, 4000, 2};
    static const char *const names[] = {"standard", "acorn_recurrent", "resagnn_small"};
    for (size_t m = 0; m < 3; m++) {
        tm_model_t *model = tm_zoo_load(names[m], seed);
        tm_pipeline_t p = tamed(model);
        tm_error_t err = {0};
        tm_engine_t *old = NULL;
        MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, &p, NULL, &old, &err));
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
            tm_sample_event_t event;
            tm_sample_event(&event, sizes[k], &random);
            tm_engine_t *fresh = NULL;
            tm_tracks_t a = {0};
            tm_tracks_t b = {0};
            MUST(tm_engine_new_on(&tm_stages_cuda_one_by_one, &p, NULL, &fresh, &err));
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
    MUST(tm_stages_cuda.open(p, 0, &gpu, &err));
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
    MUST(tm_stages_cuda.features(gpu, &event.columns, 50, &points, &features, &err));
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
    MUST(tm_cuda_open(p, &options, &gpu, &err));
    tm_status_t status =
        tm_stages_cuda.features(gpu, &large.columns, 200000, &points, &features, &err);
    if (status == TM_OK) {
        status = tm_stages_cuda.embed(gpu, 200000, features, &embedding, &err);
    }
    assert_int_equal(status, TM_E_NO_MEMORY);
    print_message("%s\n", err.text);
    MUST(tm_stages_cuda.features(gpu, &small.columns, 60, &points, &features, &err));
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
    MUST(tm_engine_describe(&(tm_engine_options_t){.device = "cuda:0"}, text, sizeof text, &err));
    assert_true(strncmp(text, "cuda:0 ", 7) == 0);
    print_message("%s\n", text);
    MUST(tm_engine_describe(NULL, text, sizeof text, &err));
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
    MUST(cpu->stages->features(cpu, event, n, &points, &features, &err));
    MUST(cpu->stages->embed(cpu, n, features, &eb, &err));
    MUST(gpu->stages->embed(gpu, n, features, &ea, &err));
    compare(1, ea, eb, (size_t)n * p->embed.mlp.out, "embedding of the standard model");
    MUST(cpu->stages->radius(cpu, &points, eb, &edges, &err));
    MUST(cpu->stages->filter(cpu, &points, features, &edges, &kb, &fb, &err));
    MUST(gpu->stages->filter(gpu, &points, features, &edges, &ka, &fa, &err));
    uint32_t flips = 0;
    for (uint32_t i = 0, j = 0; i < ka.n || j < kb.n;) {
        uint64_t x = i < ka.n ? (uint64_t)ka.src[i] << 32 | ka.dst[i] : UINT64_MAX;
        uint64_t y = j < kb.n ? (uint64_t)kb.src[j] << 32 | kb.dst[j] : UINT64_MAX;
        flips += x != y;
        i += x <= y;
        j += y <= x;
    }
    MUST(cpu->stages->gnn(cpu, &points, features, &kb, &gb, &err));
    MUST(gpu->stages->gnn(gpu, &points, features, &kb, &ga, &err));
    compare(1, ga, gb, kb.n, "gnn of the standard model");
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
    MUST(tm_model_load(setting("TM_MODEL", "weights/standard.safetensors"), &model, &err));
    const tm_pipeline_t *p = tm_model_pipeline(model);
    tm_engine_t *gpu = NULL;
    tm_engine_t *cpu = NULL;
    const tm_score_options_t selection = TM_SCORE_DEFAULTS;
    tm_score_t sum_gpu = {0};
    tm_score_t sum_cpu = {0};
    MUST(tm_engine_new(model, &(tm_engine_options_t){.device = "cuda"}, &gpu, &err));
    MUST(tm_engine_new(model, &(tm_engine_options_t){.device = "cpu"}, &cpu, &err));
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++) {
        char path[512];
        tm_event_file_t event = {0};
        snprintf(path, sizeof path, "%s/%s.npz.xz", setting("TM_DATA", "tests/data"), names[k]);
        MUST(tm_event_file_read(path, &event, &err));
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
            MUST(tm_score_event(&event, &a, &selection, &one, NULL, &err));
            tm_score_add(&sum_gpu, &one);
            memset(&one, 0, sizeof one);
            MUST(tm_score_event(&event, &b, &selection, &one, NULL, &err));
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
    tm_error_t err = {0};
    if (tm_cuda_count(&err) == 0) {
        printf("skipped: %s\n", err.text);
        return SKIPPED;
    }
    const struct CMUnitTest quick[] = {
        cmocka_unit_test(refuses_events),      cmocka_unit_test(every_size),
        cmocka_unit_test(radius_ties_and_cap), cmocka_unit_test(same_tracks_as_cpu),
        cmocka_unit_test(high_degree),
    };
    const struct CMUnitTest all[] = {
        cmocka_unit_test(chooses_devices),    cmocka_unit_test(refuses_events),
        cmocka_unit_test(every_operation),    cmocka_unit_test(every_width),
        cmocka_unit_test(every_architecture), cmocka_unit_test(every_size),
        cmocka_unit_test(every_option),       cmocka_unit_test(high_degree),
        cmocka_unit_test(many_rows),          cmocka_unit_test(radius_finds_all),
        cmocka_unit_test(radius_large),       cmocka_unit_test(radius_ties_and_cap),
        cmocka_unit_test(radius_all_equal),   cmocka_unit_test(radius_too_many),
        cmocka_unit_test(same_tracks_as_cpu), cmocka_unit_test(long_chain),
        cmocka_unit_test(identical_runs),     cmocka_unit_test(buffers_grow),
        cmocka_unit_test(runs_out_of_memory), cmocka_unit_test(standard_model),
    };
    is_quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    int failed = is_quick ? cmocka_run_group_tests(quick, NULL, NULL)
                          : cmocka_run_group_tests(all, NULL, NULL);
    printf("largest differences: fp32 %.2g (%s), fp16 %.2g (%s)\n", worst[0], worst_what[0],
           worst[1], worst_what[1]);
    return failed > 0 ? 1 : 0;
}
