// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/nn/sample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXTRA_COLUMNS 17
#define FEW_VALUES 64

uint64_t tm_sample_seed(void) {
    const char *given = getenv("TM_SEED");
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    uint64_t seed =
        given ? strtoull(given, NULL, 10) : (uint64_t)t.tv_sec * 1000003u + (uint64_t)t.tv_nsec;
    print_message("TM_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}

static uint64_t next(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

double tm_sample_uniform(uint64_t *state) {
    return (double)(next(state) >> 11) / 9007199254740992.0;
}

uint32_t tm_sample_below(uint64_t *state, uint32_t n) {
    return (uint32_t)(next(state) % n);
}

double tm_sample_normal(uint64_t *state) {
    double u = 1 - tm_sample_uniform(state);
    return sqrt(-2 * log(u)) * cos(2 * acos(-1) * tm_sample_uniform(state));
}

static void *allocate(size_t count, size_t bytes) {
    void *p = calloc(count > 0 ? count : 1, bytes);
    assert_non_null(p);
    return p;
}

void tm_sample_event(tm_sample_event_t *event, uint32_t n, uint64_t *state) {
    static const char *const names[] = {"x", "y", "z", "size_loc0", "size_loc1", "charge"};
    memset(event, 0, sizeof *event);
    float *m = event->memory = allocate((size_t)(6 + EXTRA_COLUMNS) * n, sizeof *m);
    double phi = 0;
    double slope = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i % 8 == 0) {
            phi = 2 * acos(-1) * tm_sample_uniform(state);
            slope = sinh(4 * (tm_sample_uniform(state) - 0.5));
        }
        double r = 30 + 110 * (i % 8) + tm_sample_uniform(state);
        m[i] = (float)(r * cos(phi + 2e-4 * r));
        m[n + i] = (float)(r * sin(phi + 2e-4 * r));
        m[2 * (size_t)n + i] = (float)(slope * r + 50 * tm_sample_normal(state));
        m[3 * (size_t)n + i] = (float)(1 + tm_sample_below(state, 5));
        m[4 * (size_t)n + i] = (float)(1 + tm_sample_below(state, 9));
        for (size_t c = 5; c < 6 + EXTRA_COLUMNS; c++) {
            m[c * n + i] = (float)tm_sample_normal(state);
        }
    }
    for (size_t c = 0; c < 6 + EXTRA_COLUMNS; c++) {
        char extra[16];
        snprintf(extra, sizeof extra, "c%d", (int)c - 6);
        tm_error_t err = {0};
        tm_status_t status =
            tm_columns_add(&event->columns, c < 6 ? names[c] : extra, TM_F32, n, m + c * n, &err);
        assert_int_equal(status, TM_OK);
    }
}

void tm_sample_event_clear(tm_sample_event_t *event) {
    free(event->memory);
    memset(event, 0, sizeof *event);
}

tm_points_t tm_sample_points(uint32_t n, uint64_t *state) {
    float *m = allocate(5 * (size_t)n, sizeof *m);
    for (uint32_t i = 0; i < n; i++) {
        double r = 30 + 970 * tm_sample_uniform(state);
        double z = 500 * tm_sample_normal(state);
        m[i] = (float)r;
        m[n + i] = (float)(2 * acos(-1) * (tm_sample_uniform(state) - 0.5));
        m[2 * (size_t)n + i] = (float)z;
        m[3 * (size_t)n + i] = (float)asinh(z / r);
        m[4 * (size_t)n + i] = (float)sqrt(r * r + z * z);
    }
    return (tm_points_t){.n = n,
                         .r = m,
                         .phi = m + n,
                         .z = m + 2 * (size_t)n,
                         .eta = m + 3 * (size_t)n,
                         .rho = m + 4 * (size_t)n};
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

float *tm_sample_cloud(uint32_t n, uint32_t dim, uint64_t *state) {
    float *e = calloc((size_t)n * dim + 1, sizeof *e);
    assert_non_null(e);
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        e[i] = (float)tm_sample_normal(state);
    }
    return e;
}

tm_edges_t tm_sample_edges(uint32_t n, uint32_t n_edges, uint64_t *state) {
    uint64_t *keys = allocate(n_edges, sizeof *keys);
    uint32_t *src = allocate(n_edges, sizeof *src);
    uint32_t *dst = allocate(n_edges, sizeof *dst);
    uint32_t count = 0;
    for (uint32_t k = 0; k < n_edges && n > 1; k++) {
        uint32_t a = tm_sample_below(state, n);
        uint32_t b = tm_sample_below(state, n);
        keys[k] = (uint64_t)a << 32 | (a == b ? (b + 1) % n : b);
    }
    if (n > 1) {
        qsort(keys, n_edges, sizeof *keys, compare_u64);
        for (uint32_t k = 0; k < n_edges; k++) {
            if (k == 0 || keys[k] != keys[k - 1]) {
                src[count] = (uint32_t)(keys[k] >> 32);
                dst[count++] = (uint32_t)keys[k];
            }
        }
    }
    free(keys);
    return (tm_edges_t){.n = count, .src = src, .dst = dst};
}

tm_edges_t tm_sample_hubs(uint32_t n) {
    uint32_t *src = malloc(2 * (size_t)n * sizeof *src);
    uint32_t *dst = malloc(2 * (size_t)n * sizeof *dst);
    uint32_t count = 0;
    assert_true(src && dst);
    for (uint32_t i = 1; i < n; i++) {
        src[count] = 0;
        dst[count++] = i;
    }
    for (uint32_t i = 1; i + 1 < n; i++) {
        src[count] = i;
        dst[count++] = n - 1;
    }
    return (tm_edges_t){.n = count, .src = src, .dst = dst};
}

static void set_inputs(tm_inputs_t *inputs, const tm_input_kind_t *kinds) {
    inputs->n = 3;
    memcpy(inputs->part, kinds, 3 * sizeof *kinds);
}

void tm_sample_option(uint32_t option, tm_pipeline_t *pipeline) {
    static const tm_input_kind_t nodes[][3] = {
        {TM_IN_X0, TM_IN_MEAN_DST, TM_IN_MAX_SRC},
        {TM_IN_MAX_DST, TM_IN_MEAN_SRC, TM_IN_X},
        {TM_IN_SUM_SRC, TM_IN_MAX_DST, TM_IN_X0},
    };
    static const tm_input_kind_t edges[][3] = {
        {TM_IN_E0, TM_IN_X0_SRC, TM_IN_X_DST},
        {TM_IN_X0_DST, TM_IN_E, TM_IN_X0_SRC},
        {TM_IN_X_SRC, TM_IN_X0_SRC, TM_IN_E},
    };
    uint32_t bits = option / 3;
    set_inputs(&pipeline->gnn.node_inputs, nodes[option % 3]);
    set_inputs(&pipeline->gnn.edge_inputs, edges[option % 3]);
    set_inputs(&pipeline->gnn.output_inputs, edges[(option + 1) % 3]);
    pipeline->gnn.order = bits & 1 ? TM_ORDER_EDGE_FIRST : TM_ORDER_NODE_FIRST;
    pipeline->gnn.node_residual = bits & 2;
    pipeline->gnn.edge_residual = bits & 4;
}

void tm_sample_layers(tm_pipeline_t *pipeline, tm_sample_weights_t *weights, uint64_t *state) {
    for (uint32_t i = 0; i < TM_SAMPLE_LAYERS_WIDTH * TM_SAMPLE_LAYERS_WIDTH; i++) {
        weights->weight[i] = (float)(tm_sample_normal(state) / 5);
    }
    for (uint32_t i = 0; i < TM_SAMPLE_LAYERS_WIDTH; i++) {
        weights->gain[i] = (float)(1 + 0.1 * tm_sample_normal(state));
        weights->bias[i] = (float)(0.1 * tm_sample_normal(state));
        weights->mean[i] = (float)(0.1 * tm_sample_normal(state));
        weights->var[i] = (float)(0.5 + tm_sample_uniform(state));
    }
    *pipeline = (tm_pipeline_t){0};
    tm_mlp_t *mlp = &pipeline->embed.mlp;
    /* a norm of one value says nothing but its sign: from two on */
    mlp->in = mlp->out = mlp->max_width = 2 + tm_sample_below(state, 19);
    mlp->n_ops = 1 + tm_sample_below(state, 12);
    for (uint32_t k = 0; k < mlp->n_ops; k++) {
        tm_op_t *op = &mlp->op[k];
        bool last = k + 1 == mlp->n_ops;
        op->kind = last ? TM_OP_LINEAR : (tm_op_kind_t)tm_sample_below(state, TM_OP_GELU + 1);
        op->in = op->out = mlp->out;
        if (op->kind == TM_OP_LINEAR) {
            op->out = last ? TM_SAMPLE_LAYERS_OUT
                           : 2 + tm_sample_below(state, TM_SAMPLE_LAYERS_WIDTH - 2);
            op->weight = weights->weight;
            op->bias = tm_sample_below(state, 3) ? weights->bias : NULL;
        } else if (op->kind == TM_OP_LAYER_NORM || op->kind == TM_OP_BATCH_NORM) {
            op->weight = weights->gain;
            op->bias = weights->bias;
            op->mean = weights->mean;
            op->var = weights->var;
            op->eps = 1e-3f;
        }
        mlp->out = op->out;
        mlp->max_width = op->out > mlp->max_width ? op->out : mlp->max_width;
    }
    pipeline->n_features = pipeline->embed.features.n = mlp->in;
    for (uint32_t k = 0; k < mlp->in; k++) {
        pipeline->embed.features.index[k] = (uint8_t)(mlp->in - 1 - k);
    }
}

void tm_sample_assert_close(const float *a, const float *b, size_t n, double limit,
                            const char *what) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    /* a few values that happen to be near 0 say nothing about relative accuracy */
    norm = n < FEW_VALUES && norm < 1 ? 1 : norm;
    double relative = sqrt(difference) / (norm > 0 ? sqrt(norm) : 1);
    if (!(relative < limit)) {
        fail_msg("%s: relative difference %g of %zu values, %g allowed", what, relative, n, limit);
    }
}

void tm_sample_assert_same_edges(const tm_edges_t *a, const tm_edges_t *b) {
    assert_int_equal(a->n, b->n);
    for (uint32_t k = 0; k < a->n; k++) {
        if (a->src[k] != b->src[k] || a->dst[k] != b->dst[k]) {
            fail_msg("edge %u: %u-%u and %u-%u", k, a->src[k], a->dst[k], b->src[k], b->dst[k]);
        }
    }
}

void tm_sample_assert_same_tracks(const tm_tracks_t *a, const tm_tracks_t *b) {
    assert_int_equal(a->n_points, b->n_points);
    assert_int_equal(a->n_tracks, b->n_tracks);
    for (uint32_t t = 0; t <= a->n_tracks; t++) {
        assert_int_equal(a->offsets[t], b->offsets[t]);
    }
    for (uint32_t i = 0; i < a->offsets[a->n_tracks]; i++) {
        assert_int_equal(a->indices[i], b->indices[i]);
    }
    for (uint32_t t = 0; t < a->n_tracks; t++) {
        assert_true(fabs((double)a->scores[t] - (double)b->scores[t]) < 1e-6);
    }
}

tm_device_t *tm_sample_open(const tm_stages_t *stages, const tm_pipeline_t *pipeline, int threads) {
    tm_device_t *device = NULL;
    tm_error_t err = {0};
    tm_status_t status = stages->open(pipeline, threads, &device, &err);
    if (status != TM_OK) {
        fail_msg("%s", err.text);
    }
    return device;
}
