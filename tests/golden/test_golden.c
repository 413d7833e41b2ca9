// SPDX-License-Identifier: Apache-2.0
/*
 * Single stages against data of public repositories, on the CPU and in the reference. The data lie in
 * the folder named by TM_SHARED (else ../shared beside the source tree); where they are not, these
 * tests are skipped. shared/golden/README.md says where each case comes from.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nn/stages.h"
#include "tests/golden/npy.h"

static const tm_stages_t *const all_stages[] = {&tm_stages_cpu, &tm_stages_ref};
#define N_STAGES (sizeof all_stages / sizeof all_stages[0])

/* Opens golden/<name>, or skips the test. */
static tm_npy_t load(const char *name) {
    const char *shared = getenv("TM_SHARED");
    char path[1024];
    tm_npy_t npy;
    snprintf(path, sizeof path, "%s/golden/%s.npy", shared ? shared : "../shared", name);
    if (!tm_npy_read(path, &npy)) {
        print_message("skipped: no golden data at %s\n", path);
        skip();
    }
    return npy;
}

static float *to_floats(const tm_npy_t *npy) {
    float *out = malloc((npy->size + 1) * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < npy->size; i++) {
        out[i] = (float)npy->values[i];
    }
    return out;
}

/* Points about which nothing is known but their number. */
static tm_points_t blank_points(uint32_t n) {
    float *zeros = calloc(n + 1, sizeof *zeros);
    assert_non_null(zeros);
    return (tm_points_t){.n = n, .r = zeros, .phi = zeros, .z = zeros, .eta = zeros, .rho = zeros};
}

static tm_device_t *open_device(const tm_stages_t *stages, const tm_pipeline_t *p) {
    tm_device_t *device = NULL;
    tm_error_t err = {0};
    assert_int_equal(stages->open(p, 2, &device, &err), TM_OK);
    return device;
}

/* ---- edges as sets ---- */

/* An edge and where it was. */
typedef struct {
    uint32_t src, dst, place;
} edge_t;

static int compare_edges(const void *a, const void *b) {
    const edge_t *x = a;
    const edge_t *y = b;
    if (x->src != y->src) {
        return x->src < y->src ? -1 : 1;
    }
    return (x->dst > y->dst) - (x->dst < y->dst);
}

/* The edges of an array [2, E], sorted. */
static edge_t *sorted_edges(const tm_npy_t *npy) {
    assert_int_equal(npy->rank, 2);
    assert_int_equal(npy->shape[0], 2);
    size_t n = npy->shape[1];
    edge_t *list = malloc((n + 1) * sizeof *list);
    assert_non_null(list);
    for (size_t k = 0; k < n; k++) {
        list[k] = (edge_t){(uint32_t)npy->values[k], (uint32_t)npy->values[n + k], (uint32_t)k};
    }
    qsort(list, n, sizeof *list, compare_edges);
    return list;
}

static tm_edges_t split(const edge_t *list, uint32_t n) {
    uint32_t *src = malloc((n + 1) * sizeof *src);
    uint32_t *dst = malloc((n + 1) * sizeof *dst);
    assert_true(src && dst);
    for (uint32_t k = 0; k < n; k++) {
        src[k] = list[k].src;
        dst[k] = list[k].dst;
    }
    return (tm_edges_t){.n = n, .src = src, .dst = dst};
}

/* ---- A: all pairs within a radius, as FRNN found them ---- */

static void check_radius(const char *name, uint32_t k) {
    tm_npy_t npy = load("A_frnn/embedding");
    tm_npy_t stored = load(name);
    float *embedding = to_floats(&npy);
    edge_t *want = sorted_edges(&stored);
    tm_points_t points = blank_points((uint32_t)npy.shape[0]);
    tm_pipeline_t p = {0};
    p.embed.mlp.out = (uint32_t)npy.shape[1];
    p.radius.r = 1.6f;
    p.radius.k = k;
    p.radius.direction = TM_DIRECTION_INDEX;
    for (size_t s = 0; s < N_STAGES; s++) {
        tm_device_t *device = open_device(all_stages[s], &p);
        tm_error_t err = {0};
        tm_edges_t got;
        assert_int_equal(all_stages[s]->radius(device, &points, embedding, &got, &err), TM_OK);
        assert_int_equal(got.n, stored.shape[1]);
        for (uint32_t e = 0; e < got.n; e++) {
            assert_int_equal(got.src[e], want[e].src);
            assert_int_equal(got.dst[e], want[e].dst);
        }
        all_stages[s]->close(&device);
    }
    free((void *)points.r);
    free(want);
    free(embedding);
    tm_npy_free(&stored);
    tm_npy_free(&npy);
}

static void a_radius(void **state) {
    (void)state;
    check_radius("A_frnn/edges_stored", 0);
    check_radius("A_frnn/edges_stored", 500);
}

static void a_radius_nearest(void **state) {
    (void)state;
    check_radius("A_frnn/derived_edges_r1.6_K5", 5);
    check_radius("A_frnn/derived_edges_r1.6_K10", 10);
    check_radius("A_frnn/derived_edges_r1.6_K20", 20);
}

/* ---- B: the public ResAGNN ---- */

#define TENSORS_MAX 64

typedef struct {
    float *tensors[TENSORS_MAX];
    size_t n;
} weights_t;

static const float *tensor(weights_t *w, const char *base, int layer, const char *suffix,
                           tm_npy_t *shape) {
    char name[128];
    snprintf(name, sizeof name, "B_gnn_hsf/weights/%s.%d.%s", base, layer, suffix);
    tm_npy_t npy = load(name);
    float *values = to_floats(&npy);
    assert_true(w->n < TENSORS_MAX);
    w->tensors[w->n++] = values;
    *shape = npy;
    shape->values = NULL;
    tm_npy_free(&npy);
    return values;
}

/* `hidden` times linear, layer norm, ReLU, and one more linear where `last`; numbered as in
 * nn.Sequential. */
static tm_mlp_t read_mlp(weights_t *w, const char *base, int hidden, bool last) {
    tm_mlp_t mlp = {0};
    for (int k = 0; k < hidden + last; k++) {
        tm_npy_t shape;
        tm_op_t *linear = &mlp.op[mlp.n_ops++];
        linear->kind = TM_OP_LINEAR;
        linear->weight = tensor(w, base, 3 * k, "weight", &shape);
        linear->out = (uint32_t)shape.shape[0];
        linear->in = (uint32_t)shape.shape[1];
        linear->bias = tensor(w, base, 3 * k, "bias", &shape);
        mlp.in = k == 0 ? linear->in : mlp.in;
        mlp.out = linear->out;
        mlp.max_width = mlp.max_width > linear->in ? mlp.max_width : linear->in;
        mlp.max_width = mlp.max_width > linear->out ? mlp.max_width : linear->out;
        if (k < hidden) {
            tm_op_t *norm = &mlp.op[mlp.n_ops++];
            *norm =
                (tm_op_t){.kind = TM_OP_LAYER_NORM, .in = mlp.out, .out = mlp.out, .eps = 1e-5f};
            norm->weight = tensor(w, base, 3 * k + 1, "weight", &shape);
            norm->bias = tensor(w, base, 3 * k + 1, "bias", &shape);
            mlp.op[mlp.n_ops++] = (tm_op_t){.kind = TM_OP_RELU, .in = mlp.out, .out = mlp.out};
        }
    }
    return mlp;
}

static void b_resagnn(void **state) {
    (void)state;
    tm_npy_t x = load("B_gnn_hsf/x");
    tm_npy_t edges_npy = load("B_gnn_hsf/edges");
    tm_npy_t stored = load("B_gnn_hsf/logits_stored");
    tm_npy_t torch = load("B_gnn_hsf/logits_torch113_f32");
    tm_npy_t exact = load("B_gnn_hsf/logits_numpy_f64");
    weights_t w = {.n = 0};
    tm_pipeline_t p = {.n_features = 3};
    p.gnn.kind = TM_GNN_RESAGNN;
    p.gnn.features = (tm_feature_list_t){.n = 3, .index = {0, 1, 2}};
    p.gnn.steps = 8;
    p.gnn.node_encoder = read_mlp(&w, "input_network", 3, false);
    tm_mlp_t edge_mlp = read_mlp(&w, "edge_network.network", 3, true);
    tm_mlp_t node_mlp = read_mlp(&w, "node_network.network", 2, true);
    p.gnn.n_weights = 1;
    p.gnn.edge_mlp = &edge_mlp;
    p.gnn.node_mlp = &node_mlp;
    p.gnn.node_inputs = (tm_inputs_t){.n = 2, .part = {TM_IN_M, TM_IN_H}};
    float *features = to_floats(&x);
    edge_t *list = sorted_edges(&edges_npy);
    uint32_t n_edges = (uint32_t)edges_npy.shape[1];
    tm_edges_t edges = split(list, n_edges);
    tm_points_t points = blank_points((uint32_t)x.shape[0]);
    for (size_t s = 0; s < N_STAGES; s++) {
        tm_device_t *device = open_device(all_stages[s], &p);
        tm_error_t err = {0};
        const float *logits;
        assert_int_equal(all_stages[s]->gnn(device, &points, features, &edges, &logits, &err),
                         TM_OK);
        double difference = 0;
        double norm = 0;
        double largest = 0;
        for (uint32_t k = 0; k < n_edges; k++) {
            uint32_t place = list[k].place;
            double got = (double)logits[k];
            assert_true(fabs(got - stored.values[place]) < 1e-3);
            assert_true(fabs(got - torch.values[place]) < 1e-3);
            double d = got - exact.values[place];
            difference += d * d;
            norm += exact.values[place] * exact.values[place];
            largest = fmax(largest, fabs(d));
        }
        print_message("%s: largest difference from float64 %.2g, relative norm %.2g\n",
                      all_stages[s]->name, largest, sqrt(difference / norm));
        assert_true(sqrt(difference / norm) < 1e-5);
        all_stages[s]->close(&device);
    }
    free((void *)points.r);
    free((void *)edges.src);
    free((void *)edges.dst);
    free(list);
    free(features);
    for (size_t k = 0; k < w.n; k++) {
        free(w.tensors[k]);
    }
    tm_npy_free(&x);
    tm_npy_free(&edges_npy);
    tm_npy_free(&stored);
    tm_npy_free(&torch);
    tm_npy_free(&exact);
}

/* ---- C: connected components ---- */

/* Components of at least min_points vertices. (The public labels, which lose the last vertex, have 28
 * of at least 3; with it there are 29.) */
static uint32_t components_of(const tm_npy_t *labels, uint32_t min_points) {
    uint32_t count = 0;
    for (size_t label = 0; label < labels->size; label++) {
        uint32_t vertices = 0;
        for (size_t i = 0; i < labels->size; i++) {
            vertices += labels->values[i] == (double)label;
        }
        count += vertices >= min_points;
    }
    return count;
}

static void c_components(void **state) {
    (void)state;
    tm_npy_t edges_npy = load("C_wcc/edges");
    tm_npy_t logits_npy = load("C_wcc/logits");
    tm_npy_t labels = load("C_wcc/labels_min_vertex");
    uint32_t n = (uint32_t)labels.size;
    edge_t *list = sorted_edges(&edges_npy);
    tm_edges_t edges = split(list, (uint32_t)edges_npy.shape[1]);
    float *logits = malloc(edges.n * sizeof *logits);
    assert_non_null(logits);
    for (uint32_t k = 0; k < edges.n; k++) {
        logits[k] = (float)logits_npy.values[list[k].place];
    }
    tm_points_t points = blank_points(n);
    tm_pipeline_t p = {0};
    p.tracks.builder = TM_BUILDER_COMPONENTS;
    p.tracks.cut = 0.75f;
    for (size_t s = 0; s < N_STAGES; s++) {
        for (uint32_t min_points = 1; min_points <= 3; min_points += 2) {
            p.tracks.min_points = min_points;
            tm_device_t *device = open_device(all_stages[s], &p);
            tm_error_t err = {0};
            tm_tracks_t tracks = {0};
            uint64_t taken = 0;
            assert_int_equal(
                all_stages[s]->tracks(device, &points, &edges, logits, &tracks, &taken, &err),
                TM_OK);
            assert_int_equal(taken, 457);
            assert_int_equal(tracks.n_tracks, components_of(&labels, min_points));
            uint32_t labelled = 0;
            for (uint32_t t = 0; t < tracks.n_tracks; t++) {
                uint32_t least = tracks.indices[tracks.offsets[t]]; /* no rho: by row */
                for (uint32_t i = tracks.offsets[t]; i < tracks.offsets[t + 1]; i++, labelled++) {
                    assert_int_equal((uint32_t)labels.values[tracks.indices[i]], least);
                }
            }
            assert_true(min_points > 1 || (labelled == n && tracks.n_tracks == 37));
            tm_tracks_clear(&tracks);
            all_stages[s]->close(&device);
        }
    }
    free((void *)points.r);
    free((void *)edges.src);
    free((void *)edges.dst);
    free(list);
    free(logits);
    tm_npy_free(&edges_npy);
    tm_npy_free(&logits_npy);
    tm_npy_free(&labels);
}

/* ---- D0: the cut on the filter's logits ---- */

/* Puts given logits through the filter stage: edge k starts at a point of its own, whose one feature
 * is the logit, and the filter is the identity on it. */
static void check_filter(const tm_npy_t *in, const float *logits, const tm_npy_t *out) {
    uint32_t n = (uint32_t)in->shape[1];
    const float one = 1;
    tm_pipeline_t p = {.n_features = 1};
    p.filter.present = true;
    p.filter.cut = 0.21f;
    p.filter.features = (tm_feature_list_t){.n = 1, .index = {0}};
    p.filter.inputs = (tm_inputs_t){.n = 1, .part = {TM_IN_X_SRC}};
    p.filter.mlp = (tm_mlp_t){.n_ops = 1, .in = 1, .out = 1, .max_width = 1};
    p.filter.mlp.op[0] = (tm_op_t){.kind = TM_OP_LINEAR, .in = 1, .out = 1, .weight = &one};
    uint32_t *rows = malloc(n * sizeof *rows);
    assert_non_null(rows);
    for (uint32_t k = 0; k < n; k++) {
        rows[k] = k;
    }
    tm_edges_t edges = {.n = n, .src = rows, .dst = rows};
    tm_points_t points = blank_points(n);
    for (size_t s = 0; s < N_STAGES; s++) {
        tm_device_t *device = open_device(all_stages[s], &p);
        tm_error_t err = {0};
        tm_edges_t kept;
        const float *kept_logits;
        assert_int_equal(
            all_stages[s]->filter(device, &points, logits, &edges, &kept, &kept_logits, &err),
            TM_OK);
        assert_int_equal(kept.n, out->shape[1]);
        for (uint32_t k = 0; k < kept.n; k++) {
            assert_true(in->values[kept.src[k]] == out->values[k]);
            assert_true(in->values[n + kept.src[k]] == out->values[kept.n + k]);
            assert_true(kept_logits[k] == logits[kept.src[k]]);
        }
        all_stages[s]->close(&device);
    }
    free((void *)points.r);
    free(rows);
}

static void d0_filter(void **state) {
    (void)state;
    tm_npy_t in = load("D0_applyfilter/edges_in");
    tm_npy_t logits_npy = load("D0_applyfilter/filter_logits_stored");
    tm_npy_t out = load("D0_applyfilter/edges_out_stored");
    float *logits = to_floats(&logits_npy);
    assert_int_equal(out.shape[1], 584);
    check_filter(&in, logits, &out);
    free(logits);
    tm_npy_free(&in);
    tm_npy_free(&logits_npy);
    tm_npy_free(&out);
}

static void d0_filter_of_probabilities(void **state) {
    (void)state;
    tm_npy_t in = load("D0_applyfilter/case2_edges_in");
    tm_npy_t probabilities = load("D0_applyfilter/case2_filter_probs_stored");
    tm_npy_t out = load("D0_applyfilter/case2_edges_out_stored");
    for (size_t k = 0; k < probabilities.size; k++) {
        probabilities.values[k] = log(probabilities.values[k] / (1 - probabilities.values[k]));
    }
    float *logits = to_floats(&probabilities);
    assert_int_equal(out.shape[1], 579);
    check_filter(&in, logits, &out);
    free(logits);
    tm_npy_free(&in);
    tm_npy_free(&probabilities);
    tm_npy_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_radius),  cmocka_unit_test(a_radius_nearest),
        cmocka_unit_test(b_resagnn), cmocka_unit_test(c_components),
        cmocka_unit_test(d0_filter), cmocka_unit_test(d0_filter_of_probabilities),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
