// SPDX-License-Identifier: Apache-2.0
/*
 * The interaction network, two kernels a step. Both update with the node states of before the step, as
 * docs/model-file.md has it, so there are two generations of tables: while edges read one, nodes have
 * written the other.
 *
 * nodes: a warp takes 16 nodes. Four lanes add up the edges of a node in their order, in fp32; then
 * the node MLP, the residual, and the products of the new states with the columns of the edge MLP
 * that belong to source and target ("tables"): W·[xs, xd, e] = (Ws·x)[src] + (Wd·x)[dst] + We·e.
 * edges: a warp takes 16 edges: tables, the product with e, the rest of the MLP, the residual; in the
 * last step the output MLP right behind it.
 *
 * Node states are fp32, tables and edge states fp16, all in lane order (mma.cuh).
 */
#include "nn/cuda/fused/edges.cuh"

#define WARPS 8
#define THREADS (WARPS * TM_GPU_WARP)
#define ROWS TM_MMA_ROWS
#define TABLES_MAX TM_FUSED_TABLES_MAX

/* ---- nodes ---- */

typedef struct {
    tm_fused_node_mlp_t net;
    const tm_fused_counts_t *counts;
    bool encode; /* from features, not from states */
    bool residual;
    bool keep_first;       /* also into x0 */
    const float *features; /* [n, 16] */
    float *x, *x0;
    const __half *e;
    const uint32_t *src_offsets, *dst_offsets, *by_dst;
    __half *tables;
    uint32_t slot; /* where the tables go */
} nodes_t;

template <int H> static __device__ float *state_of(float *x, uint32_t node) {
    return x + (size_t)node * H + threadIdx.x % 4 * (H / 4);
}

/* rows.a = node states, in fp16 */
template <int H>
static __device__ void load_states(tm_fused_rows<H, 1> &rows, const float *x,
                                   const uint32_t (&node)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 *from = (const float4 *)state_of<H>((float *)x, node[h]);
#pragma unroll
        for (int i = 0; i < H / 16; i++) {
            float4 v = from[i];
            rows.a[0][i][h] = tm_mma_pack(v.x, v.y);
            rows.a[0][i][2 + h] = tm_mma_pack(v.z, v.w);
        }
    }
}

/* rows.a = what the edges of each node come to. order NULL: edges lie in the order of offsets */
template <int H>
static __device__ void gather_edges(tm_fused_rows<H, 1> &rows, tm_fused_node_kind_t kind,
                                    const __half *e, const uint32_t *offsets, const uint32_t *order,
                                    const uint32_t (&node)[2]) {
    const int q = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t begin = offsets[node[h]];
        const uint32_t end = offsets[node[h] + 1];
        float sum[H / 4];
#pragma unroll
        for (int i = 0; i < H / 4; i++) {
            sum[i] = kind == TM_FUSED_MAX && end > begin ? -INFINITY : 0;
        }
#pragma unroll 2
        for (uint32_t k = begin; k < end; k++) {
            const uint4 *from =
                (const uint4 *)(e + (size_t)(order ? order[k] : k) * H) + q * (H / 32);
#pragma unroll
            for (int i = 0; i < H / 32; i++) {
                const uint4 v = from[i];
                const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 f = tm_mma_unpack(word[j]);
                    float &a = sum[8 * i + 2 * j];
                    float &b = sum[8 * i + 2 * j + 1];
                    a = kind == TM_FUSED_MAX ? fmaxf(a, f.x) : a + f.x;
                    b = kind == TM_FUSED_MAX ? fmaxf(b, f.y) : b + f.y;
                }
            }
        }
        const float scale = kind == TM_FUSED_SUM                   ? TM_FUSED_SUM_SCALE
                            : kind == TM_FUSED_MEAN && end > begin ? 1.0f / (float)(end - begin)
                                                                   : 1;
#pragma unroll
        for (int i = 0; i < H / 4; i++) { /* fp16 ends at 65504 */
            sum[i] = fminf(fmaxf(sum[i] * scale, -65504.0f), 65504.0f);
        }
#pragma unroll
        for (int k = 0; k < H / 16; k++) {
            rows.a[0][k][h] = tm_mma_pack(sum[4 * k], sum[4 * k + 1]);
            rows.a[0][k][2 + h] = tm_mma_pack(sum[4 * k + 2], sum[4 * k + 3]);
        }
    }
}

/* rows.c += the features' product, split into high and low halves */
template <int H>
static __device__ void multiply_features(tm_fused_rows<H, 1> &rows, const float *features,
                                         const uint32_t (&node)[2], const uint4 *w) {
    const int q = threadIdx.x % 4;
    uint32_t high[1][4];
    uint32_t low[1][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 v = ((const float4 *)(features + (size_t)node[h] * TM_FUSED_FEATURES_MAX))[q];
        high[0][h] = tm_mma_pack(v.x, v.y);
        high[0][2 + h] = tm_mma_pack(v.z, v.w);
        const float2 a = tm_mma_unpack(high[0][h]);
        const float2 b = tm_mma_unpack(high[0][2 + h]);
        low[0][h] = tm_mma_pack(v.x - a.x, v.y - a.y);
        low[0][2 + h] = tm_mma_pack(v.z - b.x, v.w - b.y);
    }
    constexpr int STEP = H / 16 * TM_GPU_WARP;
    rows.step(high, w);
    rows.step(low, w + STEP);
    rows.step(high, w + 2 * STEP);
}

template <int H> static __global__ void __launch_bounds__(THREADS) nodes(const nodes_t a) {
    extern __shared__ __align__(16) char image[];
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int g = threadIdx.x % TM_GPU_WARP / 4;
    const uint32_t n = a.counts->n_points;
    const tm_fused_mlp_t &mlp = a.net.mlp;
    constexpr int STEPS = H / TM_MMA_K;
    constexpr int PART = STEPS * (H / 16) * TM_GPU_WARP; /* uint4 of the weights of H inputs */
    tm_fused_load_image((uint4 *)image, mlp);
    __syncthreads();
    for (uint32_t first = (blockIdx.x * WARPS + warp) * ROWS; first < n;
         first += gridDim.x * WARPS * ROWS) {
        uint32_t node[2];
        bool valid[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            valid[h] = first + h * 8 + g < n;
            node[h] = valid[h] ? first + h * 8 + g : n - 1;
        }
        tm_fused_rows<H, 1> rows;
        if (mlp.n_layers > 0) {
            const uint4 *w = (const uint4 *)(image + mlp.layer[0].w);
            rows.set_bias(image, mlp.layer[0].bias);
            if (a.encode) {
                multiply_features(rows, a.features, node, w);
            }
            for (uint32_t p = 0; p < a.net.n_parts; p++) {
                const tm_fused_node_part_t part = a.net.part[p];
                if (part.kind == TM_FUSED_X || part.kind == TM_FUSED_X0) {
                    load_states(rows, part.kind == TM_FUSED_X ? a.x : a.x0, node);
                } else {
                    gather_edges(rows, part.kind, a.e, part.at_src ? a.src_offsets : a.dst_offsets,
                                 part.at_src ? (const uint32_t *)NULL : a.by_dst, node);
                }
                rows.multiply(w + p * PART);
            }
            rows.run_rest(image, mlp);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 *state = (float4 *)state_of<H>(a.x, node[h]);
                float4 *state0 = (float4 *)state_of<H>(a.x0, node[h]);
#pragma unroll
                for (int i = 0; i < H / 16; i++) {
                    float4 v = a.residual ? state[i] : make_float4(0, 0, 0, 0);
                    v.x = rows.c[0][2 * i][2 * h] += v.x;
                    v.y = rows.c[0][2 * i][2 * h + 1] += v.y;
                    v.z = rows.c[0][2 * i + 1][2 * h] += v.z;
                    v.w = rows.c[0][2 * i + 1][2 * h + 1] += v.w;
                    if (valid[h]) {
                        state[i] = v;
                        if (a.keep_first) {
                            state0[i] = v;
                        }
                    }
                }
            }
            rows.pack();
        } else {
            load_states(rows, a.x, node);
        }
        for (uint32_t t = 0; t < a.net.tables.n; t++) {
            const tm_fused_layer_t &layer = a.net.tables.table[t];
            const uint32_t slot = a.slot + t;
            tm_fused_rows<H, 1> products;
            products.set_bias(image, layer.bias);
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                products.step(reinterpret_cast<const uint32_t(&)[1][4]>(rows.a[0][k]),
                              (const uint4 *)(image + layer.w) + k * (H / 16) * TM_GPU_WARP);
            }
            if (a.net.tables.with_x0) {
                load_states(products, a.x0, node);
                products.multiply((const uint4 *)(image + layer.w) + PART);
            }
            products.pack();
            products.store([&](int, int h) {
                return valid[h] ? a.tables + ((size_t)node[h] * TABLES_MAX + slot) * H
                                : (__half *)NULL;
            });
        }
    }
}

/* ---- edges ---- */

typedef struct {
    tm_fused_mlp_t mlp, output;
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    bool encode; /* from edge features, not from states */
    bool residual;
    bool keep_first; /* also into e0 */
    bool with_e0;
    bool update; /* the states; else they are only looked at */
    bool score;  /* the output MLP follows */
    tm_gpu_edge_features_t list;
    const float4 *place;
    const uint32_t *src, *dst;
    const __half *tables;
    uint32_t slot, output_slot; /* where the tables are */
    __half *e, *e0;
    float *logits;
} edges_t;

typedef struct {
    __half high[ROWS][TM_FUSED_FEATURES_MAX];
    __half low[ROWS][TM_FUSED_FEATURES_MAX];
} staged_t;

template <int H>
static __device__ void multiply_edge_features(tm_fused_rows<H, 1> &rows, const edges_t &a,
                                              staged_t *staged, uint32_t first, uint32_t n,
                                              const uint4 *w) {
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const int q = lane % 4;
    if (lane < ROWS) {
        const uint32_t edge = first + lane < n ? first + lane : n - 1;
        tm_fused_edge_features(a.list, a.place[a.src[edge]], a.place[a.dst[edge]],
                               staged->high[lane], staged->low[lane]);
    }
    __syncwarp();
    uint32_t high[1][4];
    uint32_t low[1][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint2 u = ((const uint2 *)staged->high[h * 8 + g])[q];
        const uint2 v = ((const uint2 *)staged->low[h * 8 + g])[q];
        high[0][h] = u.x;
        high[0][2 + h] = u.y;
        low[0][h] = v.x;
        low[0][2 + h] = v.y;
    }
    __syncwarp();
    constexpr int STEP = H / 16 * TM_GPU_WARP;
    rows.step(high, w);
    rows.step(low, w + STEP);
    rows.step(high, w + 2 * STEP);
}

template <int H> static __global__ void __launch_bounds__(THREADS) edges(const edges_t a) {
    extern __shared__ __align__(16) char image[];
    const char *output = image + a.mlp.bytes;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    staged_t *staged = (staged_t *)(output + (a.score ? a.output.bytes : 0)) + warp;
    const uint32_t n = tm_fused_kept_count(a.counts, a.capacity);
    constexpr int STEPS = H / TM_MMA_K;
    constexpr int PART = STEPS * (H / 16) * TM_GPU_WARP;
    tm_fused_load_image((uint4 *)image, a.mlp);
    if (a.score) {
        tm_fused_load_image((uint4 *)output, a.output);
    }
    __syncthreads();
    for (uint32_t first = (blockIdx.x * WARPS + warp) * ROWS; first < n;
         first += gridDim.x * WARPS * ROWS) {
        uint32_t edge[2];
        uint32_t from[2];
        uint32_t to[2];
        bool valid[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            valid[h] = first + h * 8 + g < n;
            edge[h] = valid[h] ? first + h * 8 + g : n - 1;
            from[h] = a.src[edge[h]];
            to[h] = a.dst[edge[h]];
        }
        const uint4 *w = (const uint4 *)(image + a.mlp.layer[0].w);
        tm_fused_rows<H, 1> rows;
        uint32_t before[1][STEPS][4]; /* e, for the residual */
        if (!a.encode) {
            rows.load([&](int, int h) { return a.e + (size_t)edge[h] * H; });
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    before[0][k][i] = rows.a[0][k][i];
                }
            }
        }
        if (a.update) {
            rows.each([](float) { return 0.0f; }); /* the bias is in the table of the sources */
            rows.add(
                [&](int, int h) { return a.tables + ((size_t)from[h] * TABLES_MAX + a.slot) * H; });
            rows.add([&](int, int h) {
                return a.tables + ((size_t)to[h] * TABLES_MAX + a.slot + 1) * H;
            });
            if (a.encode) {
                multiply_edge_features(rows, a, staged, first, n, w);
            } else {
                rows.multiply(w);
                if (a.with_e0) {
                    rows.load([&](int, int h) { return a.e0 + (size_t)edge[h] * H; });
                    rows.multiply(w + PART);
                }
            }
            rows.run_rest(image, a.mlp);
            if (a.residual && !a.encode) {
                rows.add_operand(before);
            }
            rows.pack();
            rows.store(
                [&](int, int h) { return valid[h] ? a.e + (size_t)edge[h] * H : (__half *)NULL; });
            if (a.keep_first) {
                rows.store([&](int, int h) {
                    return valid[h] ? a.e0 + (size_t)edge[h] * H : (__half *)NULL;
                });
            }
        }
        if (a.score) {
            float dots[1][2];
            rows.each([](float) { return 0.0f; });
            rows.add([&](int, int h) {
                return a.tables + ((size_t)from[h] * TABLES_MAX + a.output_slot) * H;
            });
            rows.add([&](int, int h) {
                return a.tables + ((size_t)to[h] * TABLES_MAX + a.output_slot + 1) * H;
            });
            rows.multiply((const uint4 *)(output + a.output.layer[0].w));
            rows.run_rest(output, a.output);
            rows.dot(output, a.output, dots);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                if (lane % 4 == 0 && valid[h]) {
                    a.logits[edge[h]] = dots[0][h];
                }
            }
        }
    }
}

/* ---- the network ---- */

static size_t edges_bytes(const tm_fused_mlp_t *mlp, const tm_fused_mlp_t *output) {
    return mlp->bytes + (output ? output->bytes : 0) + WARPS * sizeof(staged_t);
}

/* Blocks that run at once. */
template <typename Kernel>
static cudaError_t resident_blocks(Kernel kernel, size_t bytes, int processors, int *blocks) {
    int per_processor = 0;
    cudaError_t error =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, THREADS, bytes);
    *blocks = processors * (per_processor > 0 ? per_processor : 1);
    return error;
}

template <int H> static cudaError_t launch_nodes(const tm_fused_context_t *c, const nodes_t *a) {
    int blocks = 0;
    cudaError_t error = resident_blocks(nodes<H>, a->net.mlp.bytes, c->processors, &blocks);
    if (error == cudaSuccess) {
        nodes<H><<<blocks, THREADS, a->net.mlp.bytes, c->stream>>>(*a);
        error = cudaGetLastError();
    }
    return error;
}

/* Tables that have an image of their own. */
template <int H>
static cudaError_t launch_tables(const tm_fused_context_t *c, nodes_t a,
                                 const tm_fused_node_mlp_t *tables, uint32_t slot) {
    a.net = *tables;
    a.slot = slot;
    return launch_nodes<H>(c, &a);
}

template <int H> static cudaError_t launch_edges(const tm_fused_context_t *c, const edges_t *a) {
    int blocks = 0;
    size_t bytes = edges_bytes(&a->mlp, a->score ? &a->output : NULL);
    cudaError_t error = resident_blocks(edges<H>, bytes, c->processors, &blocks);
    if (error == cudaSuccess) {
        edges<H><<<blocks, THREADS, bytes, c->stream>>>(*a);
        error = cudaGetLastError();
    }
    return error;
}

template <int H> static cudaError_t run(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_pipeline_t *p = c->pipeline;
    const tm_fused_model_t *model = c->model;
    nodes_t node = {};
    node.counts = &plan->header->counts;
    node.features = plan->gnn_features;
    node.x = plan->x;
    node.x0 = plan->x0;
    node.e = plan->e;
    node.src_offsets = plan->kept.offsets;
    node.dst_offsets = plan->dst_offsets;
    node.by_dst = plan->by_dst;
    node.tables = plan->tables;
    edges_t edge = {};
    edge.counts = &plan->header->counts;
    edge.update = true;
    edge.capacity = plan->capacity.kept;
    edge.place = plan->node_place;
    edge.src = plan->kept.src;
    edge.dst = plan->kept.dst;
    edge.tables = plan->tables;
    edge.e = plan->e;
    edge.e0 = plan->e0;
    edge.logits = plan->logits;
    tm_gpu_edge_features_of(p, &edge.list);

    node.net = model->node_encoder;
    node.encode = true;
    node.keep_first = plan->x0 != NULL;
    cudaError_t error = launch_nodes<H>(c, &node);
    node.encode = node.keep_first = false;
    error = error == cudaSuccess ? launch_tables<H>(c, node, &model->encoder_tables, 2) : error;
    error = error == cudaSuccess ? launch_tables<H>(c, node, &model->edge_tables, 0) : error;
    if (error == cudaSuccess) {
        edge.mlp = model->edge_encoder;
        edge.encode = true;
        edge.keep_first = plan->e0 != NULL;
        edge.slot = 2;
        error = launch_edges<H>(c, &edge);
    }
    edge.encode = edge.keep_first = false;
    node.residual = p->gnn.node_residual;
    edge.residual = p->gnn.edge_residual;
    edge.mlp = model->edge_mlp;
    edge.output = model->output;
    edge.with_e0 = model->with_e0;
    for (uint32_t step = 0; step < p->gnn.steps && error == cudaSuccess; step++) {
        bool last = step + 1 == p->gnn.steps;
        node.net = last ? model->last_node_mlp : model->node_mlp;
        edge.slot = step % 2 * 2;
        node.slot = edge.output_slot = 2 - edge.slot;
        /* edges that go first are scored at the end: the output wants the nodes' last states */
        edge.score = last && !model->edge_first;
        if (model->edge_first) {
            error = launch_edges<H>(c, &edge);
        }
        error = error == cudaSuccess ? launch_nodes<H>(c, &node) : error;
        if (error == cudaSuccess && model->tables_apart) {
            error = launch_tables<H>(c, node, last ? &model->output_tables : &model->edge_tables,
                                     node.slot);
        }
        if (error == cudaSuccess && !model->edge_first) {
            error = launch_edges<H>(c, &edge);
        }
    }
    if (error == cudaSuccess && model->edge_first) {
        edge.update = false;
        edge.score = true;
        error = launch_edges<H>(c, &edge);
    }
    return error;
}

cudaError_t tm_fused_gnn(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    return c->model->gnn_width == 64 ? run<64>(c, plan) : run<128>(c, plan);
}

static size_t most_node_bytes(const tm_fused_model_t *model) {
    const tm_fused_node_mlp_t *nets[] = {&model->node_encoder,  &model->node_mlp,
                                         &model->last_node_mlp, &model->encoder_tables,
                                         &model->edge_tables,   &model->output_tables};
    size_t most = 0;
    for (const tm_fused_node_mlp_t *net : nets) {
        most = net->mlp.bytes > most ? net->mlp.bytes : most;
    }
    return most;
}

static size_t most_edge_bytes(const tm_fused_model_t *model) {
    size_t last = edges_bytes(&model->edge_mlp, &model->output);
    size_t encoder = edges_bytes(&model->edge_encoder, NULL);
    return encoder > last ? encoder : last;
}

size_t tm_fused_gnn_bytes(const tm_fused_model_t *model) {
    size_t of_nodes = most_node_bytes(model);
    size_t of_edges = most_edge_bytes(model);
    return of_nodes > of_edges ? of_nodes : of_edges;
}

template <int H> static cudaError_t prepare(const tm_fused_model_t *model) {
    cudaError_t error = cudaFuncSetAttribute(nodes<H>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)most_node_bytes(model));
    return error == cudaSuccess
               ? cudaFuncSetAttribute(edges<H>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)most_edge_bytes(model))
               : error;
}

cudaError_t tm_fused_prepare_gnn(const tm_fused_model_t *model) {
    return model->gnn_width == 64 ? prepare<64>(model) : prepare<128>(model);
}
