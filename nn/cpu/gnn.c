// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "nn/cpu/mlp.h"

/* Nodes taken by one thread at a time where no MLP decides. */
#define NODE_BLOCK 256

/* One event's graph and states. */
typedef struct {
    tm_cpu_t *cpu;
    const tm_points_t *points;
    tm_edges_t edges;
    const uint32_t *src_offsets; /* [n + 1]: edges that start at a node */
    const uint32_t *dst_offsets; /* [n + 1]: those that end there are by_dst[dst_offsets[i] …] */
    const uint32_t *by_dst;      /* [edges.n], in the order of the edges */
    const float *x, *x0, *e, *e0, *m;
    uint32_t x_width, e_width; /* of x and m, of e */
} tm_graph_t;

/* ---- the graph ---- */

static tm_status_t index_edges(tm_graph_t *g, tm_error_t *err) {
    tm_cpu_t *cpu = g->cpu;
    uint32_t n = g->points->n;
    tm_status_t status =
        tm_buffer_reserve(&cpu->src_offsets, (size_t)n + 1, sizeof(uint32_t), "edge index", err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->dst_offsets, (size_t)n + 1, sizeof(uint32_t), "edge index",
                                   err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->by_dst, g->edges.n, sizeof(uint32_t), "edge index", err);
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t *src_offsets = cpu->src_offsets.data;
    uint32_t *dst_offsets = cpu->dst_offsets.data;
    uint32_t *by_dst = cpu->by_dst.data;
    memset(src_offsets, 0, ((size_t)n + 1) * sizeof *src_offsets);
    memset(dst_offsets, 0, ((size_t)n + 1) * sizeof *dst_offsets);
    for (uint32_t k = 0; k < g->edges.n; k++) {
        src_offsets[g->edges.src[k] + 1]++;
        dst_offsets[g->edges.dst[k]]++;
    }
    uint32_t sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        src_offsets[i + 1] += src_offsets[i];
        sum += dst_offsets[i];
        dst_offsets[i] = sum; /* the end of node i's edges; the fill moves it to their start */
    }
    dst_offsets[n] = sum;
    for (uint32_t k = g->edges.n; k-- > 0;) {
        by_dst[--dst_offsets[g->edges.dst[k]]] = k; /* backwards: keeps the order, ends at starts */
    }
    g->src_offsets = src_offsets;
    g->dst_offsets = dst_offsets;
    g->by_dst = by_dst;
    return TM_OK;
}

/* ---- inputs by name ---- */

static tm_part_t indexed(const tm_graph_t *g, const float *data, uint32_t width, bool source) {
    return (tm_part_t){.kind = TM_PART_INDEXED,
                       .width = width,
                       .data = data,
                       .data_rows = g->points->n,
                       .index = source ? g->edges.src : g->edges.dst};
}

static tm_part_t row_wise(const float *data, uint32_t width) {
    return (tm_part_t){.kind = TM_PART_ROWS, .width = width, .data = data};
}

static tm_part_t aggregated(const tm_graph_t *g, tm_part_kind_t kind, bool source) {
    return (tm_part_t){.kind = kind,
                       .width = g->e_width,
                       .data = g->e,
                       .offsets = source ? g->src_offsets : g->dst_offsets,
                       .order = source ? NULL : g->by_dst};
}

static tm_part_t part_of(const tm_graph_t *g, tm_input_kind_t input) {
    switch (input) {
    case TM_IN_X_SRC:
        return indexed(g, g->x, g->x_width, true);
    case TM_IN_X_DST:
        return indexed(g, g->x, g->x_width, false);
    case TM_IN_X0_SRC:
        return indexed(g, g->x0, g->x_width, true);
    case TM_IN_X0_DST:
        return indexed(g, g->x0, g->x_width, false);
    case TM_IN_EDGE_FEATURES:
        return (tm_part_t){.kind = TM_PART_EDGE_FEATURES,
                           .width = g->cpu->device.pipeline->n_edge_features,
                           .points = g->points,
                           .src = g->edges.src,
                           .dst = g->edges.dst};
    case TM_IN_E:
        return row_wise(g->e, g->e_width);
    case TM_IN_E0:
        return row_wise(g->e0, g->e_width);
    case TM_IN_X:
    case TM_IN_H:
        return row_wise(g->x, g->x_width);
    case TM_IN_X0:
        return row_wise(g->x0, g->x_width);
    case TM_IN_M:
        return row_wise(g->m, g->x_width);
    case TM_IN_SUM_DST:
        return aggregated(g, TM_PART_SUM, false);
    case TM_IN_SUM_SRC:
        return aggregated(g, TM_PART_SUM, true);
    case TM_IN_MAX_DST:
        return aggregated(g, TM_PART_MAX, false);
    case TM_IN_MAX_SRC:
        return aggregated(g, TM_PART_MAX, true);
    case TM_IN_MEAN_DST:
        return aggregated(g, TM_PART_MEAN, false);
    case TM_IN_MEAN_SRC:
        return aggregated(g, TM_PART_MEAN, true);
    }
    return (tm_part_t){0};
}

static tm_status_t run(const tm_graph_t *g, const tm_mlp_t *mlp, const tm_inputs_t *inputs,
                       uint32_t rows, const float *residual, float *out, tm_error_t *err) {
    tm_part_t parts[TM_INPUTS_MAX];
    for (uint32_t k = 0; k < inputs->n; k++) {
        parts[k] = part_of(g, inputs->part[k]);
    }
    return tm_cpu_mlp(g->cpu, mlp, parts, inputs->n, rows, residual, out, err);
}

static bool uses(const tm_inputs_t *inputs, tm_input_kind_t a, tm_input_kind_t b) {
    for (uint32_t k = 0; k < inputs->n; k++) {
        if (inputs->part[k] == a || inputs->part[k] == b) {
            return true;
        }
    }
    return false;
}

/* ---- interaction network ---- */

/* Encodes nodes and edges; keeps the encoders' outputs where a later input asks for them. */
static tm_status_t encode(tm_graph_t *g, const float *features, tm_error_t *err) {
    tm_cpu_t *cpu = g->cpu;
    const tm_pipeline_t *p = cpu->device.pipeline;
    size_t n = g->points->n;
    size_t node_floats = n * p->gnn.node_encoder.out;
    size_t edge_floats = (size_t)g->edges.n * p->gnn.edge_encoder.out;
    tm_status_t status = tm_buffer_reserve(&cpu->x, node_floats, sizeof(float), "node states", err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->x_next, node_floats, sizeof(float), "node states", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->e, edge_floats, sizeof(float), "edge states", err);
    }
    if (status != TM_OK) {
        return status;
    }
    tm_part_t input = row_wise(features, p->gnn.node_encoder.in);
    status = tm_cpu_mlp(cpu, &p->gnn.node_encoder, &input, 1, g->points->n, NULL, cpu->x.data, err);
    if (status != TM_OK) {
        return status;
    }
    g->x = cpu->x.data;
    g->x0 = g->x; /* all that edge_encoder can mean by it */
    g->e = cpu->e.data;
    g->e0 = g->e;
    g->x_width = p->gnn.node_encoder.out;
    g->e_width = p->gnn.edge_encoder.out;
    status = run(g, &p->gnn.edge_encoder, &p->gnn.edge_encoder_inputs, g->edges.n, NULL,
                 cpu->e.data, err);
    if (status != TM_OK) {
        return status;
    }
    if (uses(&p->gnn.node_inputs, TM_IN_X0, TM_IN_X0) ||
        uses(&p->gnn.edge_inputs, TM_IN_X0_SRC, TM_IN_X0_DST) ||
        uses(&p->gnn.output_inputs, TM_IN_X0_SRC, TM_IN_X0_DST)) {
        status = tm_buffer_reserve(&cpu->x0, node_floats, sizeof(float), "node states", err);
        if (status != TM_OK) {
            return status;
        }
        memcpy(cpu->x0.data, cpu->x.data, node_floats * sizeof(float));
        g->x0 = cpu->x0.data;
    }
    if (uses(&p->gnn.edge_inputs, TM_IN_E0, TM_IN_E0) ||
        uses(&p->gnn.output_inputs, TM_IN_E0, TM_IN_E0)) {
        status = tm_buffer_reserve(&cpu->e0, edge_floats, sizeof(float), "edge states", err);
        if (status != TM_OK) {
            return status;
        }
        memcpy(cpu->e0.data, cpu->e.data, edge_floats * sizeof(float));
        g->e0 = cpu->e0.data;
    }
    return TM_OK;
}

static tm_status_t update_nodes(const tm_graph_t *g, uint32_t step, tm_error_t *err) {
    const tm_pipeline_t *p = g->cpu->device.pipeline;
    return run(g, &p->gnn.node_mlp[tm_gnn_weights_of(p, step)], &p->gnn.node_inputs, g->points->n,
               p->gnn.node_residual ? g->x : NULL, g->cpu->x_next.data, err);
}

/* In place: an edge's new state depends on no other edge's. */
static tm_status_t update_edges(const tm_graph_t *g, uint32_t step, tm_error_t *err) {
    const tm_pipeline_t *p = g->cpu->device.pipeline;
    return run(g, &p->gnn.edge_mlp[tm_gnn_weights_of(p, step)], &p->gnn.edge_inputs, g->edges.n,
               p->gnn.edge_residual ? g->e : NULL, g->cpu->e.data, err);
}

static tm_status_t interaction(tm_graph_t *g, const float *features, float *logits,
                               tm_error_t *err) {
    tm_cpu_t *cpu = g->cpu;
    const tm_pipeline_t *p = cpu->device.pipeline;
    bool node_first = p->gnn.order == TM_ORDER_NODE_FIRST;
    tm_status_t status = encode(g, features, err);
    for (uint32_t step = 0; step < p->gnn.steps && status == TM_OK; step++) {
        status = node_first ? update_nodes(g, step, err) : update_edges(g, step, err);
        if (status == TM_OK) {
            status = node_first ? update_edges(g, step, err) : update_nodes(g, step, err);
        }
        tm_buffer_t old = cpu->x;
        cpu->x = cpu->x_next;
        cpu->x_next = old;
        g->x = cpu->x.data;
    }
    if (status != TM_OK) {
        return status;
    }
    return run(g, &p->gnn.output, &p->gnn.output_inputs, g->edges.n, NULL, logits, err);
}

/* ---- residual attention network ---- */

/* m[i] = Σ over edges into i of w·h_src + Σ over edges out of i of w·h_dst */
static void weigh_neighbours(const tm_graph_t *g, const float *weights, float *m) {
    const tm_kernels_t *kernels = g->cpu->kernels;
    uint32_t n = g->points->n;
    size_t width = g->x_width;
#pragma omp parallel for num_threads(g->cpu->threads) schedule(dynamic, NODE_BLOCK)
    for (uint32_t i = 0; i < n; i++) {
        float *out = m + i * width;
        memset(out, 0, width * sizeof *out);
        for (uint32_t k = g->dst_offsets[i]; k < g->dst_offsets[i + 1]; k++) {
            uint32_t edge = g->by_dst[k];
            kernels->add_scaled(out, g->x + g->edges.src[edge] * width, weights[edge], width);
        }
        for (uint32_t edge = g->src_offsets[i]; edge < g->src_offsets[i + 1]; edge++) {
            kernels->add_scaled(out, g->x + g->edges.dst[edge] * width, weights[edge], width);
        }
    }
}

/* h[i] = old[i] + [update[i], features[i]], old NULL: h[i] = [update[i], features[i]] */
static void join_features(const float *old, const float *update, uint32_t update_width,
                          const float *features, uint32_t features_width, uint32_t n, float *h) {
    size_t width = (size_t)update_width + features_width;
    for (size_t i = 0; i < n; i++) {
        const float *u = update + i * update_width;
        const float *f = features + i * features_width;
        float *out = h + i * width;
        for (size_t k = 0; k < width; k++) {
            float base = old ? old[i * width + k] : 0;
            out[k] = base + (k < update_width ? u[k] : f[k - update_width]);
        }
    }
}

static tm_status_t resagnn(tm_graph_t *g, const float *features, float *logits, tm_error_t *err) {
    tm_cpu_t *cpu = g->cpu;
    const tm_pipeline_t *p = cpu->device.pipeline;
    const tm_inputs_t edge_inputs = {.n = 2, .part = {TM_IN_X_SRC, TM_IN_X_DST}};
    uint32_t n = g->points->n;
    uint32_t encoded = p->gnn.node_encoder.out;
    uint32_t features_width = p->gnn.features.n;
    g->x_width = encoded + features_width;
    size_t node_floats = (size_t)n * g->x_width;
    tm_buffer_t *buffers[] = {&cpu->x, &cpu->x_next, &cpu->m};
    tm_status_t status = TM_OK;
    for (int k = 0; k < 3 && status == TM_OK; k++) {
        status = tm_buffer_reserve(buffers[k], node_floats, sizeof(float), "node states", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->weights, g->edges.n, sizeof(float), "edge weights", err);
    }
    if (status != TM_OK) {
        return status;
    }
    float *h = cpu->x.data;
    float *update = cpu->x_next.data;
    float *m = cpu->m.data;
    float *weights = cpu->weights.data;
    tm_part_t input = row_wise(features, p->gnn.node_encoder.in);
    status = tm_cpu_mlp(cpu, &p->gnn.node_encoder, &input, 1, n, NULL, update, err);
    if (status != TM_OK) {
        return status;
    }
    join_features(NULL, update, encoded, features, features_width, n, h);
    g->x = h;
    g->m = m;
    for (uint32_t step = 0; step < p->gnn.steps; step++) {
        status = run(g, p->gnn.edge_mlp, &edge_inputs, g->edges.n, NULL, weights, err);
        if (status != TM_OK) {
            return status;
        }
        cpu->kernels->epilogue(weights, 1, g->edges.n, NULL, NULL, NULL, 0, TM_ACT_SIGMOID);
        weigh_neighbours(g, weights, m);
        status = run(g, p->gnn.node_mlp, &p->gnn.node_inputs, n, NULL, update, err);
        if (status != TM_OK) {
            return status;
        }
        join_features(h, update, encoded, features, features_width, n, h);
    }
    return run(g, p->gnn.edge_mlp, &edge_inputs, g->edges.n, NULL, logits, err);
}

tm_status_t tm_cpu_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    tm_graph_t graph = {.cpu = cpu, .points = points, .edges = *edges};
    const float *input = NULL;
    tm_status_t status = tm_cpu_select_features(cpu, &device->pipeline->gnn.features, points->n,
                                                features, &input, err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->logits, edges->n, sizeof(float), "logits", err);
    }
    if (status == TM_OK) {
        status = index_edges(&graph, err);
    }
    if (status == TM_OK) {
        status = device->pipeline->gnn.kind == TM_GNN_RESAGNN
                     ? resagnn(&graph, input, cpu->logits.data, err)
                     : interaction(&graph, input, cpu->logits.data, err);
    }
    if (status == TM_OK) {
        *logits = cpu->logits.data;
    }
    return status;
}
