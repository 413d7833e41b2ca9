// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/ref/ref.h"

/* Widest concatenation before an MLP. */
#define INPUT_MAX TM_WIDTH_MAX

/* States of all nodes [n, x_width] and edges [E, e_width]. */
typedef struct {
    const tm_pipeline_t *p;
    const tm_points_t *points;
    const tm_edges_t *edges;
    uint32_t x_width, e_width;
    double *x, *x0, *x_next, *e, *e0, *e_next, *m;
    double *in; /* [INPUT_MAX] */
} states_t;

/* ---- inputs ---- */

/* Adds up (or takes the largest, or the mean) over the edges at one end of the node. */
static void aggregate(const states_t *s, tm_input_kind_t kind, uint32_t node, double *out) {
    bool at_dst = kind == TM_IN_SUM_DST || kind == TM_IN_MAX_DST || kind == TM_IN_MEAN_DST;
    bool max = kind == TM_IN_MAX_DST || kind == TM_IN_MAX_SRC;
    bool mean = kind == TM_IN_MEAN_DST || kind == TM_IN_MEAN_SRC;
    uint32_t count = 0;
    for (uint32_t k = 0; k < s->e_width; k++) {
        out[k] = 0;
    }
    for (uint32_t e = 0; e < s->edges->n; e++) {
        if ((at_dst ? s->edges->dst[e] : s->edges->src[e]) != node) {
            continue;
        }
        for (uint32_t k = 0; k < s->e_width; k++) {
            double value = s->e[(size_t)e * s->e_width + k];
            out[k] = max ? (count == 0 ? value : fmax(out[k], value)) : out[k] + value;
        }
        count++;
    }
    for (uint32_t k = 0; k < s->e_width && mean && count > 0; k++) {
        out[k] /= count;
    }
}

/* Copies one part of the input of node or edge `row` to out and returns its width. */
static uint32_t gather(const states_t *s, tm_input_kind_t kind, uint32_t row, double *out) {
    const double *from = NULL;
    uint32_t width = s->x_width;
    size_t at = row;
    switch (kind) {
    case TM_IN_X_SRC:
    case TM_IN_X0_SRC:
        from = kind == TM_IN_X_SRC ? s->x : s->x0;
        at = s->edges->src[row];
        break;
    case TM_IN_X_DST:
    case TM_IN_X0_DST:
        from = kind == TM_IN_X_DST ? s->x : s->x0;
        at = s->edges->dst[row];
        break;
    case TM_IN_EDGE_FEATURES:
        tm_ref_edge_features(s->p, s->points, s->edges->src[row], s->edges->dst[row], out);
        return s->p->n_edge_features;
    case TM_IN_E:
    case TM_IN_E0:
        from = kind == TM_IN_E ? s->e : s->e0;
        width = s->e_width;
        break;
    case TM_IN_X:
    case TM_IN_H:
        from = s->x;
        break;
    case TM_IN_X0:
        from = s->x0;
        break;
    case TM_IN_M:
        from = s->m;
        break;
    case TM_IN_SUM_DST:
    case TM_IN_SUM_SRC:
    case TM_IN_MAX_DST:
    case TM_IN_MAX_SRC:
    case TM_IN_MEAN_DST:
    case TM_IN_MEAN_SRC:
        aggregate(s, kind, row, out);
        return s->e_width;
    }
    memcpy(out, from + at * width, width * sizeof *out);
    return width;
}

/* out [rows, mlp->out] = mlp(inputs) (+ residual, where not NULL) */
static tm_status_t run(states_t *s, const tm_mlp_t *mlp, const tm_inputs_t *inputs, uint32_t rows,
                       const double *residual, double *out, tm_error_t *err) {
    for (uint32_t i = 0; i < rows; i++) {
        uint32_t width = 0;
        for (uint32_t k = 0; k < inputs->n; k++) {
            width += gather(s, inputs->part[k], i, s->in + width);
        }
        double *row = out + (size_t)i * mlp->out;
        tm_status_t status = tm_ref_mlp(mlp, s->in, row, err);
        if (status != TM_OK) {
            return status;
        }
        for (uint32_t k = 0; k < mlp->out && residual; k++) {
            row[k] += residual[(size_t)i * mlp->out + k];
        }
    }
    return TM_OK;
}

static void swap(double **a, double **b) {
    double *c = *a;
    *a = *b;
    *b = c;
}

/* ---- the two kinds ---- */

static tm_status_t update_nodes(states_t *s, uint32_t step, tm_error_t *err) {
    return run(s, &s->p->gnn.node_mlp[tm_gnn_weights_of(s->p, step)], &s->p->gnn.node_inputs,
               s->points->n, s->p->gnn.node_residual ? s->x : NULL, s->x_next, err);
}

static tm_status_t update_edges(states_t *s, uint32_t step, tm_error_t *err) {
    tm_status_t status =
        run(s, &s->p->gnn.edge_mlp[tm_gnn_weights_of(s->p, step)], &s->p->gnn.edge_inputs,
            s->edges->n, s->p->gnn.edge_residual ? s->e : NULL, s->e_next, err);
    swap(&s->e, &s->e_next);
    return status;
}

/* Node states are in s->x at the start: the encoder's output. */
static tm_status_t interaction(states_t *s, double *logits, tm_error_t *err) {
    const tm_pipeline_t *p = s->p;
    memcpy(s->x0, s->x, (size_t)s->points->n * s->x_width * sizeof *s->x);
    tm_status_t status =
        run(s, &p->gnn.edge_encoder, &p->gnn.edge_encoder_inputs, s->edges->n, NULL, s->e, err);
    memcpy(s->e0, s->e, (size_t)s->edges->n * s->e_width * sizeof *s->e);
    for (uint32_t step = 0; step < p->gnn.steps && status == TM_OK; step++) {
        if (p->gnn.order == TM_ORDER_NODE_FIRST) {
            status = update_nodes(s, step, err);
            status = status == TM_OK ? update_edges(s, step, err) : status;
        } else {
            status = update_edges(s, step, err);
            status = status == TM_OK ? update_nodes(s, step, err) : status;
        }
        swap(&s->x, &s->x_next);
    }
    return status == TM_OK
               ? run(s, &p->gnn.output, &p->gnn.output_inputs, s->edges->n, NULL, logits, err)
               : status;
}

/* x is h here: [encoded, features], x_width wide. s->x_next holds the encoded part at the start. */
static void join_features(states_t *s, uint32_t encoded, const float *features, bool add) {
    for (uint32_t i = 0; i < s->points->n; i++) {
        for (uint32_t k = 0; k < s->x_width; k++) {
            double *h = &s->x[(size_t)i * s->x_width + k];
            double value = k < encoded ? s->x_next[(size_t)i * encoded + k]
                                       : (double)features[(size_t)i * s->p->n_features +
                                                          s->p->gnn.features.index[k - encoded]];
            *h = add ? *h + value : value;
        }
    }
}

static tm_status_t resagnn(states_t *s, const float *features, double *logits, tm_error_t *err) {
    const tm_pipeline_t *p = s->p;
    const tm_inputs_t edge_inputs = {.n = 2, .part = {TM_IN_X_SRC, TM_IN_X_DST}};
    uint32_t encoded = p->gnn.node_encoder.out;
    size_t width = s->x_width;
    tm_status_t status = TM_OK;
    join_features(s, encoded, features, false);
    for (uint32_t step = 0; step < p->gnn.steps && status == TM_OK; step++) {
        status = run(s, p->gnn.edge_mlp, &edge_inputs, s->edges->n, NULL, logits, err);
        if (status != TM_OK) {
            return status;
        }
        memset(s->m, 0, s->points->n * width * sizeof *s->m);
        for (uint32_t e = 0; e < s->edges->n; e++) {
            double w = tm_ref_sigmoid(logits[e]);
            size_t a = s->edges->src[e];
            size_t b = s->edges->dst[e];
            for (size_t k = 0; k < width; k++) {
                s->m[b * width + k] += w * s->x[a * width + k];
                s->m[a * width + k] += w * s->x[b * width + k];
            }
        }
        status = run(s, p->gnn.node_mlp, &p->gnn.node_inputs, s->points->n, NULL, s->x_next, err);
        join_features(s, encoded, features, true);
    }
    return status == TM_OK ? run(s, p->gnn.edge_mlp, &edge_inputs, s->edges->n, NULL, logits, err)
                           : status;
}

static tm_status_t encode_nodes(const states_t *s, const float *features, double *out,
                                tm_error_t *err) {
    const tm_pipeline_t *p = s->p;
    tm_status_t status = TM_OK;
    for (uint32_t i = 0; i < s->points->n && status == TM_OK; i++) {
        for (uint32_t k = 0; k < p->gnn.features.n; k++) {
            s->in[k] = (double)features[(size_t)i * p->n_features + p->gnn.features.index[k]];
        }
        status =
            tm_ref_mlp(&p->gnn.node_encoder, s->in, out + (size_t)i * p->gnn.node_encoder.out, err);
    }
    return status;
}

tm_status_t tm_ref_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **out, tm_error_t *err) {
    tm_ref_t *ref = (tm_ref_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    bool residual = p->gnn.kind == TM_GNN_RESAGNN;
    states_t s = {.p = p, .points = points, .edges = edges};
    s.x_width = p->gnn.node_encoder.out + (residual ? p->gnn.features.n : 0);
    s.e_width = residual ? 1 : p->gnn.edge_encoder.out;
    size_t nodes = (size_t)points->n * s.x_width;
    size_t states = (size_t)edges->n * s.e_width;
    double *logits = NULL;
    const struct {
        double **array;
        size_t count;
    } arrays[] = {{&s.x, nodes},       {&s.x0, nodes},     {&s.x_next, nodes},
                  {&s.m, nodes},       {&s.e, states},     {&s.e0, states},
                  {&s.e_next, states}, {&s.in, INPUT_MAX}, {&logits, edges->n}};
    const size_t n_arrays = sizeof arrays / sizeof arrays[0];
    tm_status_t status = tm_ref_renew(&ref->gnn_logits, edges->n, sizeof(float), err);
    for (size_t k = 0; k < n_arrays && status == TM_OK; k++) {
        status = tm_ref_renew(arrays[k].array, arrays[k].count, sizeof(double), err);
    }
    if (status == TM_OK) {
        status = encode_nodes(&s, features, residual ? s.x_next : s.x, err);
    }
    if (status == TM_OK) {
        status = residual ? resagnn(&s, features, logits, err) : interaction(&s, logits, err);
    }
    for (uint32_t e = 0; e < edges->n && status == TM_OK; e++) {
        ref->gnn_logits[e] = (float)logits[e];
    }
    for (size_t k = 0; k < n_arrays; k++) {
        free(*arrays[k].array);
    }
    *out = ref->gnn_logits;
    return status;
}
