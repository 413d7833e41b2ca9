// SPDX-License-Identifier: Apache-2.0
/* Every stage of the CPU against the reference, for every architecture of the zoo. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/model_zoo.h"
#include "tests/unit/nn/sample.h"

#define LIMIT 1e-5 /* relative, of float32 */
#define POINTS 150
#define EDGES 600

/* Both devices on one pipeline. */
typedef struct {
    tm_device_t *cpu, *ref;
} pair_t;

static pair_t open_both(const tm_pipeline_t *p) {
    return (pair_t){tm_sample_open(&tm_stages_cpu, p, 2), tm_sample_open(&tm_stages_ref, p, 1)};
}

static void close_both(pair_t *pair) {
    tm_stages_cpu.close(&pair->cpu);
    tm_stages_ref.close(&pair->ref);
}

/* Whether a logit is so close to the cut that rounding decides. */
static bool near_cut(float logit, float cut) {
    return fabs(1 / (1 + exp(-(double)logit)) - (double)cut) < 1e-5;
}

static void compare_filter(const tm_pipeline_t *p, const tm_points_t *points, const float *features,
                           const tm_edges_t *edges) {
    tm_pipeline_t all = *p;
    all.filter.cut = 0;
    tm_error_t err = {0};
    tm_edges_t kept_a, kept_b;
    const float *a, *b;
    pair_t pair = open_both(&all);
    assert_int_equal(tm_stages_cpu.filter(pair.cpu, points, features, edges, &kept_a, &a, &err),
                     TM_OK);
    assert_int_equal(tm_stages_ref.filter(pair.ref, points, features, edges, &kept_b, &b, &err),
                     TM_OK);
    tm_sample_assert_same_edges(&kept_a, edges);
    tm_sample_assert_same_edges(&kept_b, edges);
    tm_sample_assert_close(a, b, edges->n, LIMIT, "filter logits");

    /* with a cut in the middle: the same edges, in order, with the same logits */
    tm_pipeline_t half = *p;
    half.filter.cut = edges->n > 0 ? (float)(1 / (1 + exp(-(double)a[edges->n / 2]))) : 0.5f;
    pair_t cut = open_both(&half);
    const float *logits;
    assert_int_equal(tm_stages_cpu.filter(cut.cpu, points, features, edges, &kept_a, &logits, &err),
                     TM_OK);
    uint32_t at = 0;
    for (uint32_t k = 0; k < edges->n; k++) {
        bool here =
            at < kept_a.n && kept_a.src[at] == edges->src[k] && kept_a.dst[at] == edges->dst[k];
        bool wanted = 1 / (1 + exp(-(double)b[k])) > (double)half.filter.cut;
        if (here != wanted && !near_cut(b[k], half.filter.cut)) {
            fail_msg("edge %u with logit %g, cut %g", k, (double)b[k], (double)half.filter.cut);
        }
        if (here) {
            assert_true(logits[at++] == a[k]);
        }
    }
    assert_int_equal(at, kept_a.n);
    close_both(&cut);
    close_both(&pair);
}

static void compare_model(const char *name, uint64_t seed, uint32_t n, uint32_t n_edges,
                          tm_pipeline_t *changed) {
    print_message("%s: %u points, %u edges\n", name, n, n_edges);
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load(name, seed);
    const tm_pipeline_t *p = changed ? changed : tm_model_pipeline(model);
    tm_error_t err = {0};
    tm_sample_event_t event;
    tm_sample_event(&event, n, &random);
    tm_edges_t edges = tm_sample_edges(n, n_edges, &random);
    pair_t pair = open_both(p);
    tm_points_t points, want_points;
    const float *features, *want_features, *embedding, *want_embedding;
    assert_int_equal(tm_stages_cpu.features(pair.cpu, &event.columns, n, &points, &features, &err),
                     TM_OK);
    assert_int_equal(
        tm_stages_ref.features(pair.ref, &event.columns, n, &want_points, &want_features, &err),
        TM_OK);
    tm_sample_assert_close(features, want_features, (size_t)n * p->n_features, LIMIT, "features");
    tm_sample_assert_close(points.r, want_points.r, n, LIMIT, "r");
    tm_sample_assert_close(points.phi, want_points.phi, n, LIMIT, "phi");
    tm_sample_assert_close(points.z, want_points.z, n, LIMIT, "z");
    tm_sample_assert_close(points.eta, want_points.eta, n, LIMIT, "eta");
    tm_sample_assert_close(points.rho, want_points.rho, n, LIMIT, "rho");

    assert_int_equal(tm_stages_cpu.embed(pair.cpu, n, features, &embedding, &err), TM_OK);
    assert_int_equal(tm_stages_ref.embed(pair.ref, n, features, &want_embedding, &err), TM_OK);
    tm_sample_assert_close(embedding, want_embedding, (size_t)n * p->embed.mlp.out, LIMIT,
                           "embedding");
    if (p->filter.present) {
        compare_filter(p, &points, features, &edges);
    }
    if (p->gnn.kind != TM_GNN_NONE) {
        const float *logits, *want_logits;
        assert_int_equal(tm_stages_cpu.gnn(pair.cpu, &points, features, &edges, &logits, &err),
                         TM_OK);
        assert_int_equal(tm_stages_ref.gnn(pair.ref, &points, features, &edges, &want_logits, &err),
                         TM_OK);
        tm_sample_assert_close(logits, want_logits, edges.n, LIMIT, "gnn logits");
    }
    close_both(&pair);
    free((void *)edges.src);
    free((void *)edges.dst);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

static void every_architecture(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name; entry++) {
        compare_model(entry->name, seed, POINTS, EDGES, NULL);
    }
}

/* Few edges for many points (no split first layer), few points for many edges, and next to none. */
static void every_size(void **state) {
    (void)state;
    uint64_t seed = tm_sample_seed();
    static const char *const names[] = {"standard", "acorn_recurrent", "resagnn_small"};
    for (size_t k = 0; k < 3; k++) {
        compare_model(names[k], seed, 300, 40, NULL);
        compare_model(names[k], seed, 25, 500, NULL);
        for (uint32_t n = 0; n < 4; n++) {
            compare_model(names[k], seed, n, 2 * n, NULL);
        }
    }
}

/* All aggregations, orders and residuals: the inputs of one model, exchanged for others as wide. */
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

/* A node with more edges than a block has rows. */
static void high_degree(void **state) {
    (void)state;
    enum { N = 1300 };
    uint64_t seed = tm_sample_seed();
    uint64_t random = seed;
    tm_model_t *model = tm_zoo_load("standard", seed);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    tm_sample_event_t event;
    tm_sample_event(&event, N, &random);
    tm_edges_t edges = tm_sample_hubs(N);
    pair_t pair = open_both(p);
    tm_error_t err = {0};
    tm_points_t points;
    const float *features, *logits, *want;
    assert_int_equal(tm_stages_cpu.features(pair.cpu, &event.columns, N, &points, &features, &err),
                     TM_OK);
    assert_int_equal(tm_stages_cpu.gnn(pair.cpu, &points, features, &edges, &logits, &err), TM_OK);
    assert_int_equal(tm_stages_ref.gnn(pair.ref, &points, features, &edges, &want, &err), TM_OK);
    tm_sample_assert_close(logits, want, edges.n, LIMIT, "gnn logits");
    close_both(&pair);
    free((void *)edges.src);
    free((void *)edges.dst);
    tm_sample_event_clear(&event);
    tm_model_destroy(&model);
}

/* Layers in any order, also those that no model of the zoo has. */
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
        pair_t pair = open_both(&p);
        tm_error_t err = {0};
        const float *a, *b;
        assert_int_equal(tm_stages_cpu.embed(pair.cpu, N, features, &a, &err), TM_OK);
        assert_int_equal(tm_stages_ref.embed(pair.ref, N, features, &b, &err), TM_OK);
        tm_sample_assert_close(a, b, N * TM_SAMPLE_LAYERS_OUT, LIMIT, "operations");
        close_both(&pair);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_architecture), cmocka_unit_test(every_size),
        cmocka_unit_test(every_option),       cmocka_unit_test(high_degree),
        cmocka_unit_test(every_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
