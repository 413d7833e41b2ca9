// SPDX-License-Identifier: Apache-2.0
/*
 * The interaction network, three kernels a step. Nodes and edges both update with the node states of
 * before the step, as docs/model-file.md has it, so there are two generations of tables: while edges
 * read one, nodes have written the other.
 *
 * sums: what the edges of a node come to, added up in their order, in fp32; eight lanes a node, so that
 * as many loads are under way as the GPU can hold.
 * nodes: a warp takes 16 nodes: the node MLP, the residual, and the products of the new states with the
 * columns of the edge MLP that belong to source and target ("tables"):
 * W·[xs, xd, e] = (Ws·x)[src] + (Wd·x)[dst] + We·e.
 * edges: a warp takes 16 edges: tables, the product with e, the rest of the MLP, the residual; in the
 * last step the output MLP right behind it.
 *
 * Node states are fp32 (and fp16 beside them, as the operand of the next product), tables, sums and
 * edge states fp16, all in lane order (mma.cuh). One block fills a processor: the weights are then
 * there once, fetched while the last blocks of the kernel before still run.
 */
#include "nn/cuda/fused/edges.cuh"

#define ROWS TM_MMA_ROWS
#define TABLES_MAX TM_FUSED_TABLES_MAX
#define SUMS_THREADS 256
#define SUMS_BLOCKS 6 /* per processor */
#define SUMS_AHEAD 4  /* edges that are on their way at once */

/* Warps of a block: as many as the registers of a processor take. */
template <int H> constexpr int NODE_WARPS = H == 64 ? 16 : 8;
template <int H> constexpr int EDGE_WARPS = H == 64 ? 16 : 8;

/* ---- sums over edges ---- */

typedef struct {
    const tm_fused_counts_t *counts;
    const __half *e;
    const uint32_t *src_offsets, *dst_offsets, *by_dst;
    uint32_t n_parts; /* that are over edges */
    tm_fused_node_part_t part[TM_INPUTS_MAX];
    __half *sums; /* [n, n_parts, H] */
} sums_t;

static __device__ void add_word(float (&sum)[2], tm_fused_node_kind_t kind, uint32_t word) {
    const float2 f = tm_mma_unpack(word);
    sum[0] = kind == TM_FUSED_MAX ? fmaxf(sum[0], f.x) : sum[0] + f.x;
    sum[1] = kind == TM_FUSED_MAX ? fmaxf(sum[1], f.y) : sum[1] + f.y;
}

/* fp16 ends at 65504 */
static __device__ uint32_t pack_sum(const float (&sum)[2], float scale) {
    return tm_mma_pack(fminf(fmaxf(sum[0] * scale, -65504.0f), 65504.0f),
                       fminf(fmaxf(sum[1] * scale, -65504.0f), 65504.0f));
}

template <int H>
static __global__ void __launch_bounds__(SUMS_THREADS) sums(const __grid_constant__ sums_t a) {
    constexpr uint32_t LANES = H / 8; /* 16 bytes each */
    constexpr uint32_t NODES = SUMS_THREADS / LANES;
    tm_ptx_let_others_begin();
    tm_ptx_wait_for_others();
    const uint32_t n = a.counts->n_points;
    const uint32_t lane = threadIdx.x % LANES;
    const tm_fused_node_part_t part = a.part[blockIdx.y];
    const uint32_t *offsets = part.at_src ? a.src_offsets : a.dst_offsets;
    const uint4 *e = (const uint4 *)a.e + lane;
    for (uint32_t node = blockIdx.x * NODES + threadIdx.x / LANES; node < n;
         node += gridDim.x * NODES) {
        const uint32_t begin = offsets[node];
        const uint32_t end = offsets[node + 1];
        float sum[4][2];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sum[j][0] = sum[j][1] = part.kind == TM_FUSED_MAX && end > begin ? -INFINITY : 0;
        }
        for (uint32_t k = begin; k < end; k += SUMS_AHEAD) {
            uint4 v[SUMS_AHEAD];
#pragma unroll
            for (int i = 0; i < SUMS_AHEAD; i++) {
                if (k + i < end) {
                    v[i] = e[(size_t)(part.at_src ? k + i : a.by_dst[k + i]) * LANES];
                }
            }
#pragma unroll
            for (int i = 0; i < SUMS_AHEAD; i++) {
                if (k + i < end) {
                    add_word(sum[0], part.kind, v[i].x);
                    add_word(sum[1], part.kind, v[i].y);
                    add_word(sum[2], part.kind, v[i].z);
                    add_word(sum[3], part.kind, v[i].w);
                }
            }
        }
        const float scale = part.kind == TM_FUSED_SUM ? TM_FUSED_SUM_SCALE
                            : part.kind == TM_FUSED_MEAN && end > begin
                                ? 1.0f / (float)(end - begin)
                                : 1;
        ((uint4 *)a.sums)[((size_t)node * a.n_parts + blockIdx.y) * LANES + lane] =
            make_uint4(pack_sum(sum[0], scale), pack_sum(sum[1], scale), pack_sum(sum[2], scale),
                       pack_sum(sum[3], scale));
    }
}

/* ---- nodes ---- */

typedef struct {
    tm_fused_node_mlp_t net;
    const tm_fused_counts_t *counts;
    bool encode; /* from features, not from states */
    bool residual;
    bool keep_first;       /* also into x0 */
    const float *features; /* [n, 16] */
    float *x;
    __half *x_half, *x0; /* [n, H] */
    const __half *sums;  /* [n, n_sums, H] */
    uint32_t n_sums;
    __half *tables;
    uint32_t slot; /* where the tables go; more of them in the slots behind it, then from 0 on */
} nodes_t;

/* Rows of H halves that a node MLP takes in. */
template <int H> struct operand_t {
    uint32_t a[1][H / 16][4];

    __device__ void load(const __half *from, size_t stride, const uint32_t (&node)[2]) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            tm_fused_load_row(a[0], h, from + node[h] * stride);
        }
    }
};

/* Part p of the inputs; sum: how many parts before it were over edges. */
template <int H>
static __device__ void load_part(operand_t<H> &operand, const nodes_t &a, uint32_t p, uint32_t &sum,
                                 const uint32_t (&node)[2]) {
    const tm_fused_node_kind_t kind = a.net.part[p].kind;
    if (kind == TM_FUSED_X || kind == TM_FUSED_X0) {
        operand.load(kind == TM_FUSED_X ? a.x_half : a.x0, H, node);
    } else {
        operand.load(a.sums + (size_t)sum++ * H, (size_t)a.n_sums * H, node);
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
    rows.step_split(high, low, w);
}

template <int H>
static __global__ void __launch_bounds__(NODE_WARPS<H> *TM_GPU_WARP, 1)
    nodes(const __grid_constant__ nodes_t a) {
    extern __shared__ __align__(16) char image[];
    constexpr int WARPS = NODE_WARPS<H>;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int g = threadIdx.x % TM_GPU_WARP / 4;
    const tm_fused_mlp_t &mlp = a.net.mlp;
    constexpr int STEPS = H / TM_MMA_K;
    constexpr int PART = STEPS * (H / 16) * TM_GPU_WARP; /* uint4 of the weights of H inputs */
    tm_ptx_let_others_begin();
    tm_fused_load_image((uint4 *)image, mlp);
    __syncthreads();
    tm_ptx_wait_for_others();
    const uint32_t n = a.counts->n_points;
    for (uint32_t first = (warp * gridDim.x + blockIdx.x) * ROWS; first < n;
         first += gridDim.x * WARPS * ROWS) {
        uint32_t node[2];
        bool valid[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            valid[h] = first + h * 8 + g < n;
            node[h] = valid[h] ? first + h * 8 + g : n - 1;
        }
        tm_fused_rows<H, 1> rows;
        operand_t<H> operand;
        if (mlp.n_layers > 0) {
            const uint4 *w = (const uint4 *)(image + mlp.layer[0].w);
            operand_t<H> next; /* is on its way while the one before is multiplied */
            uint32_t sum = 0;
            if (a.net.n_parts > 0 && !a.encode) {
                load_part(next, a, 0, sum, node);
            }
            rows.set_bias(image, mlp.layer[0].bias);
            if (a.encode) {
                multiply_features(rows, a.features, node, w);
            }
            for (uint32_t p = 0; p < a.net.n_parts; p++) {
                operand = next;
                if (p + 1 < a.net.n_parts) {
                    load_part(next, a, p + 1, sum, node);
                }
                rows.multiply(operand.a, w + p * PART);
            }
            rows.run_rest(image, mlp);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float4 *state = (float4 *)(a.x + (size_t)node[h] * H) + threadIdx.x % 4;
#pragma unroll
                for (int i = 0; i < H / 16; i++) {
                    float4 v = a.residual ? state[4 * i] : make_float4(0, 0, 0, 0);
                    v.x = rows.c[0][2 * i][2 * h] += v.x;
                    v.y = rows.c[0][2 * i][2 * h + 1] += v.y;
                    v.z = rows.c[0][2 * i + 1][2 * h] += v.z;
                    v.w = rows.c[0][2 * i + 1][2 * h + 1] += v.w;
                    if (valid[h]) {
                        state[4 * i] = v;
                    }
                }
            }
            rows.pack();
            rows.store([&](int, int h) {
                return valid[h] ? a.x_half + (size_t)node[h] * H : (__half *)NULL;
            });
            if (a.keep_first) {
                rows.store([&](int, int h) {
                    return valid[h] ? a.x0 + (size_t)node[h] * H : (__half *)NULL;
                });
            }
        } else {
            rows.load([&](int, int h) { return a.x_half + (size_t)node[h] * H; });
        }
        if (a.net.tables.with_x0) {
            operand.load(a.x0, H, node);
        }
        for (uint32_t t = 0; t < a.net.tables.n; t++) {
            const tm_fused_layer_t &layer = a.net.tables.table[t];
            const uint32_t slot = (a.slot + t) % TABLES_MAX;
            const uint4 *w = (const uint4 *)(image + layer.w);
            tm_fused_rows<H, 1> products;
            products.set_bias(image, layer.bias);
            products.multiply(rows.a, w);
            if (a.net.tables.with_x0) {
                products.multiply(operand.a, w + PART);
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
    rows.step_split(high, low, w);
}

template <int H>
static __global__ void __launch_bounds__(EDGE_WARPS<H> *TM_GPU_WARP, 1)
    edges(const __grid_constant__ edges_t a) {
    extern __shared__ __align__(16) char image[];
    constexpr int WARPS = EDGE_WARPS<H>;
    const char *output = image + a.mlp.bytes;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    staged_t *staged = (staged_t *)(output + (a.score ? a.output.bytes : 0)) + warp;
    constexpr int STEPS = H / TM_MMA_K;
    constexpr int PART = STEPS * (H / 16) * TM_GPU_WARP;
    tm_ptx_let_others_begin();
    tm_fused_load_image((uint4 *)image, a.mlp);
    if (a.score) {
        tm_fused_load_image((uint4 *)output, a.output);
    }
    __syncthreads();
    tm_ptx_wait_for_others();
    const uint32_t n = tm_fused_kept_count(a.counts, a.capacity);
    const uint32_t stride = gridDim.x * WARPS * ROWS;
    uint32_t first = (warp * gridDim.x + blockIdx.x) * ROWS;
    uint32_t next_from[2]; /* of the edges behind these: the tables wait for them */
    uint32_t next_to[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t edge = first + h * 8 + g < n ? first + h * 8 + g : n - 1;
        next_from[h] = n > 0 ? a.src[edge] : 0;
        next_to[h] = n > 0 ? a.dst[edge] : 0;
    }
    for (; first < n; first += stride) {
        uint32_t edge[2];
        uint32_t from[2];
        uint32_t to[2];
        bool valid[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            valid[h] = first + h * 8 + g < n;
            edge[h] = valid[h] ? first + h * 8 + g : n - 1;
            from[h] = next_from[h];
            to[h] = next_to[h];
            const uint32_t next =
                first + stride + h * 8 + g < n ? first + stride + h * 8 + g : n - 1;
            next_from[h] = a.src[next];
            next_to[h] = a.dst[next];
        }
        const uint4 *w = (const uint4 *)(image + a.mlp.layer[0].w);
        tm_fused_rows<H, 1> rows;
        operand_t<H> before; /* e, for the residual too */
        if (!a.encode) {
            before.load(a.e, H, edge);
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
                rows.multiply(before.a, w);
                if (a.with_e0) {
                    operand_t<H> e0;
                    e0.load(a.e0, H, edge);
                    rows.multiply(e0.a, w + PART);
                }
            }
            rows.run_rest(image, a.mlp);
            if (a.residual && !a.encode) {
                rows.add_operand(before.a);
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
            if (!a.update) {
                rows.load([&](int, int h) { return a.e + (size_t)edge[h] * H; });
            }
            rows.each([](float) { return 0.0f; });
            rows.add([&](int, int h) {
                return a.tables + ((size_t)from[h] * TABLES_MAX + a.output_slot) * H;
            });
            rows.add([&](int, int h) {
                return a.tables + ((size_t)to[h] * TABLES_MAX + a.output_slot + 1) * H;
            });
            rows.multiply(rows.a, (const uint4 *)(output + a.output.layer[0].w));
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

template <int H>
static size_t edges_bytes(const tm_fused_mlp_t *mlp, const tm_fused_mlp_t *output) {
    return mlp->bytes + (output ? output->bytes : 0) + EDGE_WARPS<H> * sizeof(staged_t);
}

template <int H> static cudaError_t launch_nodes(const tm_fused_context_t *c, const nodes_t *a) {
    /* an encoder follows an event, which is no kernel */
    return tm_ptx_launch_early(nodes<H>, c->launch_early && !a->encode, c->processors,
                               NODE_WARPS<H> * TM_GPU_WARP, a->net.mlp.bytes, c->stream, *a);
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
    const size_t bytes = edges_bytes<H>(&a->mlp, a->score ? &a->output : NULL);
    return tm_ptx_launch_early(edges<H>, c->launch_early, c->processors,
                               EDGE_WARPS<H> * TM_GPU_WARP, bytes, c->stream, *a);
}

template <int H>
static cudaError_t launch_sums(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    sums_t a = {};
    a.counts = &plan->header->counts;
    a.e = plan->e;
    a.src_offsets = plan->kept.offsets;
    a.dst_offsets = plan->dst_offsets;
    a.by_dst = plan->by_dst;
    a.sums = plan->sums;
    const tm_fused_node_mlp_t *net = &c->model->last_node_mlp; /* all steps take in the same */
    for (uint32_t p = 0; p < net->n_parts; p++) {
        if (net->part[p].kind != TM_FUSED_X && net->part[p].kind != TM_FUSED_X0) {
            a.part[a.n_parts++] = net->part[p];
        }
    }
    if (a.n_parts == 0) {
        return cudaSuccess;
    }
    const unsigned blocks = (unsigned)c->processors * ((SUMS_BLOCKS + a.n_parts - 1) / a.n_parts);
    return tm_ptx_launch_early(sums<H>, c->launch_early, dim3(blocks, a.n_parts), SUMS_THREADS, 0,
                               c->stream, a);
}

template <int H> static cudaError_t run(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_pipeline_t *p = c->pipeline;
    const tm_fused_model_t *model = c->model;
    nodes_t node = {};
    node.counts = &plan->header->counts;
    node.features = plan->gnn_features;
    node.x = plan->x;
    node.x_half = plan->x_half;
    node.x0 = plan->x0;
    node.sums = plan->sums;
    node.n_sums = model->n_sums;
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
    node.slot = 2;
    cudaError_t error = launch_nodes<H>(c, &node);
    node.encode = node.keep_first = false;
    if (!model->encoder_together) {
        error = error == cudaSuccess ? launch_tables<H>(c, node, &model->encoder_tables, 2) : error;
        error = error == cudaSuccess ? launch_tables<H>(c, node, &model->step[0].edge_tables, 0)
                                     : error;
    }
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
    edge.output = model->output;
    edge.with_e0 = model->with_e0;
    for (uint32_t step = 0; step < p->gnn.steps && error == cudaSuccess; step++) {
        bool last = step + 1 == p->gnn.steps;
        const tm_fused_step_t *own = &model->step[tm_gnn_weights_of(p, step)];
        const tm_fused_step_t *next = &model->step[last ? 0 : tm_gnn_weights_of(p, step + 1)];
        node.net = last ? model->last_node_mlp : own->node_mlp;
        edge.mlp = own->edge_mlp;
        edge.slot = step % 2 * 2;
        node.slot = edge.output_slot = 2 - edge.slot;
        /* edges that go first are scored at the end: the output wants the nodes' last states */
        edge.score = last && !model->edge_first;
        if (model->edge_first) {
            error = launch_edges<H>(c, &edge);
        }
        error = error == cudaSuccess ? launch_sums<H>(c, plan) : error;
        error = error == cudaSuccess ? launch_nodes<H>(c, &node) : error;
        if (error == cudaSuccess && model->tables_apart) {
            error = launch_tables<H>(c, node, last ? &model->output_tables : &next->edge_tables,
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
    const tm_fused_node_mlp_t *nets[] = {&model->node_encoder, &model->last_node_mlp,
                                         &model->encoder_tables, &model->output_tables};
    size_t most = 0;
    for (uint32_t step = 0; step < model->n_steps; step++) {
        const tm_fused_step_t *own = &model->step[step];
        most = own->node_mlp.mlp.bytes > most ? own->node_mlp.mlp.bytes : most;
        most = own->edge_tables.mlp.bytes > most ? own->edge_tables.mlp.bytes : most;
    }
    for (const tm_fused_node_mlp_t *net : nets) {
        most = net->mlp.bytes > most ? net->mlp.bytes : most;
    }
    return most;
}

template <int H> static size_t most_edge_bytes(const tm_fused_model_t *model) {
    size_t most = edges_bytes<H>(&model->edge_encoder, NULL);
    for (uint32_t step = 0; step < model->n_steps; step++) { /* in the last one with the output */
        size_t bytes = edges_bytes<H>(&model->step[step].edge_mlp, &model->output);
        most = bytes > most ? bytes : most;
    }
    return most;
}

size_t tm_fused_gnn_bytes(const tm_fused_model_t *model) {
    size_t of_nodes = most_node_bytes(model);
    size_t of_edges =
        model->gnn_width == 64 ? most_edge_bytes<64>(model) : most_edge_bytes<128>(model);
    return of_nodes > of_edges ? of_nodes : of_edges;
}

template <int H> static cudaError_t prepare(const tm_fused_model_t *model) {
    cudaError_t error = cudaFuncSetAttribute(nodes<H>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)most_node_bytes(model));
    return error == cudaSuccess
               ? cudaFuncSetAttribute(edges<H>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)most_edge_bytes<H>(model))
               : error;
}

cudaError_t tm_fused_prepare_gnn(const tm_fused_model_t *model) {
    return model->gnn_width == 64 ? prepare<64>(model) : prepare<128>(model);
}
