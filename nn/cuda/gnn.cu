// SPDX-License-Identifier: Apache-2.0
/*
 * Node states and what is added up over edges are fp32, edge states gpu->type: there are some ten
 * times as many edges as nodes, and sums over the thousands of edges that a node can have would leave
 * the range of fp16.
 */
#include "nn/cuda/mlp.cuh"

#define WARPS_PER_BLOCK (TM_GPU_THREADS / TM_GPU_WARP)

/* One event's graph and states. */
typedef struct {
    tm_gpu_t *gpu;
    tm_error_t *err;
    const tm_points_t *points;
    const tm_edges_t *edges;
    const uint32_t *src_offsets; /* [n + 1]: edges that start at a node */
    const uint32_t *dst_offsets; /* [n + 1]: those that end there are by_dst[dst_offsets[i] …] */
    const uint32_t *by_dst;      /* [edges->n], in the order of the edges */
    float *x, *x_next;           /* [n, x_width] */
    const float *x0, *m;
    void *e; /* [edges->n, e_width] of gpu->type */
    const void *e0;
    uint32_t x_width, e_width;
} graph_t;

/* ---- the graph ---- */

/* offsets[i] = the number of keys below i, for sorted keys; [n + 1] */
static __global__ void find_offsets(const uint32_t *keys, uint32_t n_keys, uint32_t n,
                                    uint32_t *offsets) {
    uint64_t i = tm_gpu_thread();
    if (i > n) {
        return;
    }
    uint32_t low = 0;
    uint32_t high = n_keys;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (keys[middle] < i) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    offsets[i] = low;
}

static tm_status_t index_edges(graph_t *g) {
    tm_gpu_t *gpu = g->gpu;
    uint32_t n = g->points->n;
    uint32_t n_edges = g->edges->n;
    uint32_t *src_offsets = NULL;
    uint32_t *dst_offsets = NULL;
    uint32_t *sorted = NULL;
    uint32_t *numbers = NULL;
    uint32_t *by_dst = NULL;
    unsigned blocks = tm_gpu_blocks((uint64_t)n + 1, TM_GPU_THREADS);
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SRC_OFFSETS, (size_t)n + 1, &src_offsets, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_DST_OFFSETS, (size_t)n + 1, &dst_offsets, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SORTED_DST, n_edges, &sorted, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EDGE_NUMBERS, n_edges, &numbers, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_BY_DST, n_edges, &by_dst, g->err));
    TM_TRY(tm_gpu_count_up(gpu, numbers, n_edges, g->err));
    TM_TRY(tm_gpu_sort_u32(gpu, g->edges->dst, sorted, numbers, by_dst, n_edges, tm_gpu_bits(n),
                           g->err));
    find_offsets<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(g->edges->src, n_edges, n,
                                                             src_offsets);
    TM_TRY(tm_gpu_launched(gpu, "edge index", g->err));
    find_offsets<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(sorted, n_edges, n, dst_offsets);
    TM_TRY(tm_gpu_launched(gpu, "edge index", g->err));
    g->src_offsets = src_offsets;
    g->dst_offsets = dst_offsets;
    g->by_dst = by_dst;
    return TM_OK;
}

/* ---- aggregation: a warp per node, edges in their order ---- */

typedef enum { SUM, MAX, MEAN } aggregation_t;

static __device__ inline float load(const float *p) {
    return *p;
}

static __device__ inline float load(const __half *p) {
    return __half2float(*p);
}

/* by_dst NULL: edges are in the order of the offsets */
template <typename T>
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    aggregate(const T *e, uint32_t width, const uint32_t *offsets, const uint32_t *order,
              uint32_t n, aggregation_t kind, float *out) {
    uint64_t node = tm_gpu_thread() / TM_GPU_WARP;
    if (node >= n) {
        return;
    }
    uint32_t begin = offsets[node];
    uint32_t end = offsets[node + 1];
    for (uint32_t c = threadIdx.x % TM_GPU_WARP; c < width; c += TM_GPU_WARP) {
        float result = 0;
        for (uint32_t k = begin; k < end; k++) {
            uint64_t edge = order ? order[k] : k;
            float v = load(e + edge * width + c);
            result = kind != MAX ? result + v : k == begin || v > result ? v : result;
        }
        out[node * width + c] = kind == MEAN && end > begin ? result / (end - begin) : result;
    }
}

/* m[i] = Σ over edges into i of w·h_src + Σ over edges out of i of w·h_dst, with w = sigmoid(logit) */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    weigh_neighbours(const float *h, uint32_t width, const float *weights,
                     const uint32_t *src_offsets, const uint32_t *dst_offsets,
                     const uint32_t *by_dst, const uint32_t *src, const uint32_t *dst, uint32_t n,
                     float *m) {
    uint64_t node = tm_gpu_thread() / TM_GPU_WARP;
    if (node >= n) {
        return;
    }
    for (uint32_t c = threadIdx.x % TM_GPU_WARP; c < width; c += TM_GPU_WARP) {
        float sum = 0;
        for (uint32_t k = dst_offsets[node]; k < dst_offsets[node + 1]; k++) {
            uint32_t edge = by_dst[k];
            sum += weights[edge] * h[(uint64_t)src[edge] * width + c];
        }
        for (uint32_t edge = src_offsets[node]; edge < src_offsets[node + 1]; edge++) {
            sum += weights[edge] * h[(uint64_t)dst[edge] * width + c];
        }
        m[node * width + c] = sum;
    }
}

static __global__ void to_weights(float *logits, uint32_t n) {
    uint64_t i = tm_gpu_thread();
    if (i < n) {
        logits[i] = 1 / (1 + expf(-logits[i]));
    }
}

/* h = (h +) [update, features] */
static __global__ void join_features(float *h, const float *update, uint32_t update_width,
                                     const float *features, uint32_t features_width, uint32_t n,
                                     bool add) {
    uint64_t i = tm_gpu_thread();
    uint32_t width = update_width + features_width;
    if (i >= (uint64_t)n * width) {
        return;
    }
    uint64_t row = i / width;
    uint32_t c = (uint32_t)(i % width);
    float v = c < update_width ? update[row * update_width + c]
                               : features[row * features_width + c - update_width];
    h[i] = add ? h[i] + v : v;
}

/* ---- inputs by name ---- */

static tm_gpu_part_t part_f32(tm_gpu_part_kind_t kind, uint32_t width, const float *data) {
    return (tm_gpu_part_t){kind, TM_GPU_F32, width, data};
}

/* Adds up the edges at one end of each node into `out` [n, e_width]. */
static tm_status_t aggregate_edges(const graph_t *g, tm_input_kind_t input, float *out) {
    bool at_src = input == TM_IN_SUM_SRC || input == TM_IN_MAX_SRC || input == TM_IN_MEAN_SRC;
    aggregation_t kind = input == TM_IN_SUM_SRC || input == TM_IN_SUM_DST   ? SUM
                         : input == TM_IN_MAX_SRC || input == TM_IN_MAX_DST ? MAX
                                                                            : MEAN;
    const uint32_t *offsets = at_src ? g->src_offsets : g->dst_offsets;
    const uint32_t *order = at_src ? NULL : g->by_dst;
    uint32_t n = g->points->n;
    unsigned blocks = tm_gpu_blocks(n, WARPS_PER_BLOCK);
    if (g->gpu->type == TM_GPU_F16) {
        aggregate<<<blocks, TM_GPU_THREADS, 0, g->gpu->stream>>>((const __half *)g->e, g->e_width,
                                                                 offsets, order, n, kind, out);
    } else {
        aggregate<<<blocks, TM_GPU_THREADS, 0, g->gpu->stream>>>((const float *)g->e, g->e_width,
                                                                 offsets, order, n, kind, out);
    }
    return tm_gpu_launched(g->gpu, "aggregation", g->err);
}

/* aggregates: room for [n, e_width] per input of that sort */
static tm_status_t part_of(const graph_t *g, tm_input_kind_t input, float **aggregates,
                           tm_gpu_part_t *part) {
    tm_gpu_type_t type = g->gpu->type;
    switch (input) {
    case TM_IN_X_SRC:
        *part = part_f32(TM_GPU_PART_SRC, g->x_width, g->x);
        break;
    case TM_IN_X_DST:
        *part = part_f32(TM_GPU_PART_DST, g->x_width, g->x);
        break;
    case TM_IN_X0_SRC:
        *part = part_f32(TM_GPU_PART_SRC, g->x_width, g->x0);
        break;
    case TM_IN_X0_DST:
        *part = part_f32(TM_GPU_PART_DST, g->x_width, g->x0);
        break;
    case TM_IN_EDGE_FEATURES:
        *part = part_f32(TM_GPU_PART_EDGE_FEATURES, g->gpu->device.pipeline->n_edge_features, NULL);
        break;
    case TM_IN_E:
        *part = (tm_gpu_part_t){TM_GPU_PART_ROWS, type, g->e_width, g->e};
        break;
    case TM_IN_E0:
        *part = (tm_gpu_part_t){TM_GPU_PART_ROWS, type, g->e_width, g->e0};
        break;
    case TM_IN_X:
    case TM_IN_H:
        *part = part_f32(TM_GPU_PART_ROWS, g->x_width, g->x);
        break;
    case TM_IN_X0:
        *part = part_f32(TM_GPU_PART_ROWS, g->x_width, g->x0);
        break;
    case TM_IN_M:
        *part = part_f32(TM_GPU_PART_ROWS, g->x_width, g->m);
        break;
    case TM_IN_SUM_DST:
    case TM_IN_SUM_SRC:
    case TM_IN_MAX_DST:
    case TM_IN_MAX_SRC:
    case TM_IN_MEAN_DST:
    case TM_IN_MEAN_SRC:
        TM_TRY(aggregate_edges(g, input, *aggregates));
        *part = part_f32(TM_GPU_PART_ROWS, g->e_width, *aggregates);
        *aggregates += (size_t)g->points->n * g->e_width;
        break;
    }
    return TM_OK;
}

static tm_status_t run(const graph_t *g, const tm_gpu_mlp_t *mlp, const tm_inputs_t *inputs,
                       uint32_t rows, const void *residual, tm_gpu_type_t out_type, void *out) {
    float *aggregates = (float *)g->gpu->buffer[TM_GPU_AGGREGATES].data;
    tm_gpu_mlp_call_t call = {};
    if (rows == 0) {
        return TM_OK;
    }
    call.mlp = mlp;
    call.rows = rows;
    call.n_parts = inputs->n;
    for (uint32_t k = 0; k < inputs->n; k++) {
        TM_TRY(part_of(g, inputs->part[k], &aggregates, &call.part[k]));
    }
    call.points = g->points;
    call.edges = g->edges;
    call.residual = residual;
    call.out_type = out_type;
    call.out = out;
    return tm_gpu_mlp_run(g->gpu, &call, g->err);
}

static tm_status_t encode_nodes(const graph_t *g, const float *features, float *out) {
    tm_gpu_mlp_call_t call = {};
    call.mlp = &g->gpu->node_encoder;
    call.rows = g->points->n;
    call.n_parts = 1;
    call.part[0] = part_f32(TM_GPU_PART_ROWS, g->gpu->node_encoder.in, features);
    call.out_type = TM_GPU_F32;
    call.out = out;
    return tm_gpu_mlp_run(g->gpu, &call, g->err);
}

static tm_status_t copy(const graph_t *g, void *to, const void *from, size_t bytes) {
    return tm_gpu_check(g->gpu,
                        cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, g->gpu->stream),
                        "states", g->err);
}

/* ---- interaction network ---- */

static bool uses(const tm_inputs_t *inputs, tm_input_kind_t a, tm_input_kind_t b) {
    for (uint32_t k = 0; k < inputs->n; k++) {
        if (inputs->part[k] == a || inputs->part[k] == b) {
            return true;
        }
    }
    return false;
}

static tm_status_t reserve_states(graph_t *g) {
    tm_gpu_t *gpu = g->gpu;
    size_t nodes = (size_t)g->points->n * g->x_width;
    size_t edges = (size_t)g->edges->n * g->e_width;
    float *aggregates = NULL;
    uint32_t n_aggregates = gpu->device.pipeline->gnn.node_inputs.n;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_X, nodes, &g->x, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_X_NEXT, nodes, &g->x_next, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_AGGREGATES, (size_t)g->points->n * g->e_width * n_aggregates,
                          &aggregates, g->err));
    return tm_gpu_reserve_bytes(gpu, TM_GPU_E, edges, tm_gpu_type_bytes(gpu->type), &g->e, g->err);
}

/* Encodes nodes and edges; keeps the encoders' outputs where a later input asks for them. */
static tm_status_t encode(graph_t *g, const float *features) {
    tm_gpu_t *gpu = g->gpu;
    const tm_pipeline_t *p = gpu->device.pipeline;
    size_t node_bytes = (size_t)g->points->n * g->x_width * sizeof(float);
    size_t edge_bytes = (size_t)g->edges->n * g->e_width * tm_gpu_type_bytes(gpu->type);
    TM_TRY(encode_nodes(g, features, g->x));
    g->x0 = g->x; /* all that edge_encoder can mean by it */
    g->e0 = g->e;
    TM_TRY(run(g, &gpu->edge_encoder, &p->gnn.edge_encoder_inputs, g->edges->n, NULL, gpu->type,
               g->e));
    if (uses(&p->gnn.node_inputs, TM_IN_X0, TM_IN_X0) ||
        uses(&p->gnn.edge_inputs, TM_IN_X0_SRC, TM_IN_X0_DST) ||
        uses(&p->gnn.output_inputs, TM_IN_X0_SRC, TM_IN_X0_DST)) {
        void *x0 = NULL;
        TM_TRY(tm_gpu_reserve_bytes(gpu, TM_GPU_X0, node_bytes, 1, &x0, g->err));
        TM_TRY(copy(g, x0, g->x, node_bytes));
        g->x0 = (const float *)x0;
    }
    if (uses(&p->gnn.edge_inputs, TM_IN_E0, TM_IN_E0) ||
        uses(&p->gnn.output_inputs, TM_IN_E0, TM_IN_E0)) {
        void *e0 = NULL;
        TM_TRY(tm_gpu_reserve_bytes(gpu, TM_GPU_E0, edge_bytes, 1, &e0, g->err));
        TM_TRY(copy(g, e0, g->e, edge_bytes));
        g->e0 = e0;
    }
    return TM_OK;
}

static tm_status_t update_nodes(const graph_t *g, uint32_t step) {
    const tm_pipeline_t *p = g->gpu->device.pipeline;
    return run(g, &g->gpu->node_mlp[tm_gnn_weights_of(p, step)], &p->gnn.node_inputs, g->points->n,
               p->gnn.node_residual ? g->x : NULL, TM_GPU_F32, g->x_next);
}

/* In place: an edge's new state depends on no other edge's. */
static tm_status_t update_edges(const graph_t *g, uint32_t step) {
    const tm_pipeline_t *p = g->gpu->device.pipeline;
    return run(g, &g->gpu->edge_mlp[tm_gnn_weights_of(p, step)], &p->gnn.edge_inputs, g->edges->n,
               p->gnn.edge_residual ? g->e : NULL, g->gpu->type, g->e);
}

static tm_status_t interaction(graph_t *g, const float *features, float *logits) {
    const tm_pipeline_t *p = g->gpu->device.pipeline;
    bool node_first = p->gnn.order == TM_ORDER_NODE_FIRST;
    g->x_width = p->gnn.node_encoder.out;
    g->e_width = p->gnn.edge_encoder.out;
    TM_TRY(reserve_states(g));
    TM_TRY(encode(g, features));
    for (uint32_t step = 0; step < p->gnn.steps; step++) {
        TM_TRY(node_first ? update_nodes(g, step) : update_edges(g, step));
        TM_TRY(node_first ? update_edges(g, step) : update_nodes(g, step));
        float *swap = g->x;
        g->x = g->x_next;
        g->x_next = swap;
    }
    return run(g, &g->gpu->output, &p->gnn.output_inputs, g->edges->n, NULL, TM_GPU_F32, logits);
}

/* ---- residual attention network ---- */

static tm_status_t join(const graph_t *g, const float *features, bool add) {
    const tm_pipeline_t *p = g->gpu->device.pipeline;
    uint64_t elements = (uint64_t)g->points->n * g->x_width;
    if (elements == 0) {
        return TM_OK;
    }
    join_features<<<tm_gpu_blocks(elements, TM_GPU_THREADS), TM_GPU_THREADS, 0, g->gpu->stream>>>(
        g->x, g->x_next, p->gnn.node_encoder.out, features, p->gnn.features.n, g->points->n, add);
    return tm_gpu_launched(g->gpu, "node states", g->err);
}

static tm_status_t attend(const graph_t *g, float *weights, float *m) {
    cudaStream_t stream = g->gpu->stream;
    uint32_t n = g->points->n;
    to_weights<<<tm_gpu_blocks(g->edges->n, TM_GPU_THREADS), TM_GPU_THREADS, 0, stream>>>(
        weights, g->edges->n);
    TM_TRY(tm_gpu_launched(g->gpu, "edge weights", g->err));
    weigh_neighbours<<<tm_gpu_blocks(n, WARPS_PER_BLOCK), TM_GPU_THREADS, 0, stream>>>(
        g->x, g->x_width, weights, g->src_offsets, g->dst_offsets, g->by_dst, g->edges->src,
        g->edges->dst, n, m);
    return tm_gpu_launched(g->gpu, "aggregation", g->err);
}

static tm_status_t resagnn(graph_t *g, const float *features, float *logits) {
    tm_gpu_t *gpu = g->gpu;
    const tm_pipeline_t *p = gpu->device.pipeline;
    const tm_inputs_t edge_inputs = {.n = 2, .part = {TM_IN_X_SRC, TM_IN_X_DST}};
    uint32_t n = g->points->n;
    float *m = NULL;
    float *weights = NULL;
    g->x_width = p->gnn.node_encoder.out + p->gnn.features.n;
    size_t nodes = (size_t)n * g->x_width;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_X, nodes, &g->x, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_X_NEXT, nodes, &g->x_next, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_M, nodes, &m, g->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EDGE_WEIGHTS, g->edges->n, &weights, g->err));
    g->m = m;
    TM_TRY(encode_nodes(g, features, g->x_next));
    TM_TRY(join(g, features, false));
    for (uint32_t step = 0; step < p->gnn.steps; step++) {
        TM_TRY(run(g, gpu->edge_mlp, &edge_inputs, g->edges->n, NULL, TM_GPU_F32, weights));
        TM_TRY(attend(g, weights, m));
        TM_TRY(run(g, gpu->node_mlp, &p->gnn.node_inputs, n, NULL, TM_GPU_F32, g->x_next));
        TM_TRY(join(g, features, true));
    }
    return run(g, gpu->edge_mlp, &edge_inputs, g->edges->n, NULL, TM_GPU_F32, logits);
}

tm_status_t tm_gpu_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    graph_t graph = {};
    const float *input = NULL;
    float *out = NULL;
    graph.gpu = gpu;
    graph.err = err;
    graph.points = points;
    graph.edges = edges;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_LOGITS, edges->n, &out, err));
    if (edges->n > 0) {
        TM_TRY(tm_gpu_select_features(gpu, &p->gnn.features, points->n, features, &input, err));
        TM_TRY(index_edges(&graph));
        TM_TRY(p->gnn.kind == TM_GNN_RESAGNN ? resagnn(&graph, input, out)
                                             : interaction(&graph, input, out));
        TM_TRY(tm_gpu_wait(gpu, "the gnn", err));
    }
    *logits = out;
    return TM_OK;
}
