// SPDX-License-Identifier: Apache-2.0
/*
 * The interaction network in one cooperative kernel. Its blocks run all at once, one a processor, and
 * wait for each other between phases: encoders, steps, output. What every step needs of weights is in
 * shared memory once for all steps.
 *
 * Nodes: a warp takes 16 of them. It adds up the edges of each in their order, then comes the node
 * MLP, the residual, and the products of the new states with the columns of the edge MLP that belong
 * to source and target ("tables"): W·[xs, xd, e] = (Ws·x)[src] + (Wd·x)[dst] + We·e.
 * Edges: a warp takes 16 of them: tables, the product with e, the rest of the MLP, the residual; in
 * the last step the output MLP right behind it.
 *
 * Both update with the node states of before the step, as docs/model-file.md has it: there are two
 * generations of tables, and where nodes and edges of a step run side by side (if nodes go first and
 * their weights fit beside each other) two of edge states.
 *
 * Node states are fp32, tables and edge states fp16, all in lane order (gnn_parts.cuh).
 */
#include <assert.h>
#include <cooperative_groups.h>
#include <string.h>

#include "nn/cuda/fused/gnn_parts.cuh"

namespace cg = cooperative_groups;

#define ROWS TM_GNN_ROWS
#define STAGE_ROWS_MIN (4u * ROWS) /* what 16 edges need: tables, states, states to keep */
#define STAGE_ROWS_MAX 160u
#define NONE (-1)

/* Of a processor. Registers decide: 12 have 168 of them, 16 have 128 and not quite enough. */
#ifndef TM_GNN_WARPS
#define TM_GNN_WARPS 12
#endif
#define WARPS_64 TM_GNN_WARPS
#define WARPS_128 8
template <int H> constexpr int WARPS_MAX = H == 64 ? WARPS_64 : WARPS_128;

/* ---- what the kernel gets ---- */

/* MLPs, and tables that have an image of their own. The first ones are of nodes. */
enum {
    NODE_ENCODER,
    NODE_MLP,
    LAST_NODE_MLP,
    ENCODER_TABLES,
    EDGE_TABLES,
    OUTPUT_TABLES,
    NODE_NETS,
    EDGE_ENCODER = NODE_NETS,
    EDGE_MLP,
    OUTPUT,
    NETS
};

/* What goes in before a node MLP, and the tables behind it. */
typedef struct {
    uint32_t n_parts;
    tm_fused_node_part_t part[TM_INPUTS_MAX];
    tm_fused_tables_t tables;
} node_net_t;

/* An MLP's image in shared memory. */
typedef struct {
    int net; /* NONE: none */
    uint32_t at;
} image_t;

#define EXTRA_TABLES_MAX 2

/* What all blocks do between two waits for each other. Slots and generations are those of even steps;
 * in odd ones they are exchanged. */
typedef struct {
    image_t nodes, edges, output;
    image_t extra[EXTRA_TABLES_MAX]; /* more tables of the nodes' new states */
    uint32_t extra_slot[EXTRA_TABLES_MAX];
    bool encode;       /* from features, not from states */
    bool lists[2];     /* node inputs over the edges that end there, that start there */
    bool update_edges; /* else their states are only looked at */
    uint32_t node_slot, edge_slot, output_slot; /* where tables are */
    uint32_t e_from, e_to;                      /* generations */
} phase_t;

#define PHASE_BYTES 128u /* of shared memory */
static_assert(sizeof(phase_t) <= PHASE_BYTES, "room");

/* Encoders, a step (all but the last), the last step and the output: each in up to three. */
#define PHASES_MAX 12

typedef struct {
    const tm_fused_counts_t *counts;
    uint32_t capacity;     /* of edges */
    const float *features; /* [n, 16] */
    float *x, *x0;         /* x0 NULL: nobody wants it */
    const uint32_t *src_offsets, *dst_offsets, *by_dst;
    tm_gpu_edge_features_t edge_features;
    const float4 *place;
    const uint32_t *src, *dst;
    __half *tables;
    __half *e[2], *e0;
    float *logits;
    bool with_e0;
    bool node_residual, edge_residual;
    bool two_generations;

    tm_fused_mlp_t mlp[NETS];
    node_net_t node[NODE_NETS];
    phase_t phase[PHASES_MAX];
    uint32_t n_first, n_repeated,
        n_last; /* phases: of encoders, of each step but the last, behind */
    uint32_t steps;
    uint32_t stage_at, stage_rows; /* in shared memory; rows of each warp */
} network_t;

/* ---- tiles ---- */

typedef enum { NOTHING, NODES, EDGES, END } tile_kind_t;

/* 16 nodes or edges. */
typedef struct {
    tile_kind_t kind;
    uint32_t first;
    /* nodes: lane i ≤ 16 knows where the edges from and to node i begin; edges: lane i < 16 knows the
     * source of edge i, lane 16 + i its target */
    uint32_t from, to;
} tile_t;

/* The tiles of a phase. Those of nodes are spread among those of edges: nodes and the edges at them
 * are then worked on at about the same time. */
typedef struct {
    uint32_t n_points, n_kept;
    uint32_t n;     /* tiles */
    uint64_t share; /* of nodes, of 2^32 */
    bool lists;
} tiles_t;

static __device__ tiles_t tiles_of(const network_t &a, const phase_t &p) {
    tiles_t tiles;
    tiles.n_points = a.counts->n_points;
    tiles.n_kept = tm_fused_kept_count(a.counts, a.capacity);
    const uint32_t nodes = p.nodes.net == NONE ? 0 : (tiles.n_points + ROWS - 1) / ROWS;
    const uint32_t edges = p.edges.net == NONE ? 0 : (tiles.n_kept + ROWS - 1) / ROWS;
    tiles.n = nodes + edges;
    tiles.share = tiles.n > 0 ? (((uint64_t)nodes << 32) + tiles.n - 1) / tiles.n : 0;
    tiles.lists = p.lists[0] || p.lists[1];
    return tiles;
}

static __device__ tile_t tile_of(const network_t &a, const tiles_t &tiles, uint32_t number) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    tile_t tile = {END, 0, 0, 0};
    if (number >= tiles.n) {
        return tile;
    }
    const uint32_t before = (uint32_t)(number * tiles.share >> 32);
    const uint32_t behind = (uint32_t)((number + 1) * tiles.share >> 32);
    if (behind > before) {
        tile.kind = NODES;
        tile.first = before * ROWS;
        const uint32_t node =
            tile.first + lane < tiles.n_points ? tile.first + lane : tiles.n_points;
        if (tiles.lists && tiles.n_kept > 0) {
            tile.from = a.src_offsets[node];
            tile.to = a.dst_offsets[node];
        }
    } else {
        tile.kind = EDGES;
        tile.first = (number - before) * ROWS;
        const uint32_t edge = tile.first + lane % ROWS;
        tile.from = (lane < ROWS ? a.src : a.dst)[edge < tiles.n_kept ? edge : tiles.n_kept - 1];
    }
    return tile;
}

/* ---- a warp ---- */

/* What a warp knows in a phase. */
typedef struct {
    char *shared; /* images */
    char *stage;
    uint4 *kept;     /* of this lane: the old states of edges */
    uint32_t parity; /* of the step */
    const __half *e_from;
    __half *e_to;
} warp_t;

/* The lists of a tile of nodes: of edges that end there, and of those that start there. */
static __device__ void lists_of(const network_t &a, const warp_t &w, const tile_t &tile,
                                uint32_t row_bytes, tm_gnn_list_t (&list)[2]) {
    const uint32_t room = (a.stage_rows - ROWS) / 2;
    list[0] = {w.e_from, a.by_dst, w.stage, room, tile.to, 0};
    list[1] = {w.e_from, NULL, w.stage + room * row_bytes, room, tile.from, 0};
#pragma unroll
    for (int k = 0; k < 2; k++) {
        list[k].held = __shfl_sync(TM_GPU_WARP_MASK, list[k].offset, 0);
    }
}

/* Starts to copy what a tile gathers. */
template <int H>
static __device__ void fetch(const network_t &a, const phase_t &p, const warp_t &w,
                             const tile_t &tile, uint32_t n_kept) {
    if (tile.kind == NODES && !p.encode) {
        tm_gnn_list_t list[2];
        lists_of(a, w, tile, tm_gnn_size<H>::ROW_BYTES, list);
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (p.lists[k]) {
                tm_gnn_fetch<H>(list[k], list[k].held);
            }
        }
    } else if (tile.kind == EDGES) {
        const uint32_t slot = p.edge_slot ^ 2 * w.parity;
        const __half *tables = p.update_edges ? a.tables + slot * H : NULL;
        tm_gnn_copy_edges<H>(w.stage, tables, a.tables + (slot + 1) * H,
                             p.encode ? NULL : w.e_from + (size_t)tile.first * H, tile.from,
                             n_kept - tile.first);
    }
    __pipeline_commit();
}

/* Norm and activation of the first product of an MLP, then its other layers. */
template <int H>
static __device__ void run_layers(tm_fused_rows<H, 1> &rows, const char *image,
                                  const tm_fused_mlp_t &mlp) {
#pragma unroll 1 /* all of finish() is there once */
    for (uint32_t l = 0; l < mlp.n_layers; l++) {
        const tm_fused_layer_t &layer = mlp.layer[l];
        if (l > 0) {
            rows.pack();
            rows.set_bias(image, layer.bias);
            rows.multiply((const uint4 *)(image + layer.w));
        }
        rows.finish(image, layer);
    }
}

/* rows.c += features of 16 inputs times weights, both split into high and low halves */
template <int H>
static __device__ void multiply_split(tm_fused_rows<H, 1> &rows, const uint32_t (&high)[1][4],
                                      const uint32_t (&low)[1][4], const uint4 *w) {
    constexpr int STEP = H / 16 * TM_GPU_WARP;
    rows.step(high, w);
    rows.step(low, w + STEP);
    rows.step(high, w + 2 * STEP);
}

/* ---- nodes ---- */

/* Rows g and g + 8 of a tile; where there are none, the last one again. */
static __device__ void rows_of(const tile_t &tile, uint32_t n, uint32_t (&row)[2],
                               bool (&valid)[2]) {
    const uint32_t g = threadIdx.x % TM_GPU_WARP / 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        valid[h] = tile.first + h * 8 + g < n;
        row[h] = valid[h] ? tile.first + h * 8 + g : n - 1;
    }
}

template <int H>
static __device__ void multiply_node_features(tm_fused_rows<H, 1> &rows, const float *features,
                                              const uint32_t (&node)[2], const uint4 *w) {
    uint32_t high[1][4];
    uint32_t low[1][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 v =
            ((const float4 *)(features + (size_t)node[h] * TM_FUSED_FEATURES_MAX))[threadIdx.x % 4];
        high[0][h] = tm_mma_pack(v.x, v.y);
        high[0][2 + h] = tm_mma_pack(v.z, v.w);
        const float2 a = tm_mma_unpack(high[0][h]);
        const float2 b = tm_mma_unpack(high[0][2 + h]);
        low[0][h] = tm_mma_pack(v.x - a.x, v.y - a.y);
        low[0][2 + h] = tm_mma_pack(v.z - b.x, v.w - b.y);
    }
    multiply_split(rows, high, low, w);
}

/* The first product of the node MLP. */
template <int H>
static __device__ void node_inputs(tm_fused_rows<H, 1> &rows, const network_t &a, const phase_t &p,
                                   const warp_t &w, const tile_t &tile, const uint32_t (&node)[2]) {
    const tm_fused_layer_t &layer = a.mlp[p.nodes.net].layer[0];
    const node_net_t &net = a.node[p.nodes.net];
    const char *image = w.shared + p.nodes.at;
    const uint4 *weights = (const uint4 *)(image + layer.w);
    tm_gnn_list_t list[2];
    lists_of(a, w, tile, tm_gnn_size<H>::ROW_BYTES, list);
    rows.set_bias(image, layer.bias);
    if (p.encode) {
        multiply_node_features(rows, a.features, node, weights);
        return;
    }
    for (uint32_t k = 0; k < net.n_parts; k++) {
        const tm_fused_node_part_t part = net.part[k];
        if (part.kind == TM_FUSED_X || part.kind == TM_FUSED_X0) {
            tm_gnn_load_states(rows, part.kind == TM_FUSED_X ? a.x : a.x0, node);
        } else if (part.at_src) {
            tm_gnn_gather(rows, part.kind, list[1]);
        } else {
            tm_gnn_gather(rows, part.kind, list[0]);
        }
        rows.multiply(weights + k * tm_gnn_size<H>::PART);
    }
}

/* New states from rows.c, and rows.a for the tables. */
template <int H>
static __device__ void node_states(tm_fused_rows<H, 1> &rows, const network_t &a, const phase_t &p,
                                   const uint32_t (&node)[2], const bool (&valid)[2]) {
    const bool residual = a.node_residual && !p.encode;
    const bool first = p.encode && a.x0;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float4 *state = tm_gnn_state<H>(a.x, node[h]);
        float4 *state0 = tm_gnn_state<H>(a.x0, node[h]);
        float4 old[H / 16];
#pragma unroll
        for (int i = 0; i < H / 16; i++) {
            old[i] = residual ? state[4 * i] : make_float4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < H / 16; i++) {
            float4 v = old[i];
            v.x = rows.c[0][2 * i][2 * h] += v.x;
            v.y = rows.c[0][2 * i][2 * h + 1] += v.y;
            v.z = rows.c[0][2 * i + 1][2 * h] += v.z;
            v.w = rows.c[0][2 * i + 1][2 * h + 1] += v.w;
            if (valid[h]) {
                state[4 * i] = v;
                if (first) {
                    state0[4 * i] = v;
                }
            }
        }
    }
    rows.pack();
}

/* Tables of the states in rows.a. */
template <int H>
static __device__ void make_tables(const tm_fused_rows<H, 1> &rows, const network_t &a,
                                   const char *image, const tm_fused_tables_t &tables,
                                   uint32_t slot, const uint32_t (&node)[2],
                                   const bool (&valid)[2]) {
    for (uint32_t t = 0; t < tables.n; t++) {
        const tm_fused_layer_t &layer = tables.table[t];
        const uint4 *weights = (const uint4 *)(image + layer.w);
        tm_fused_rows<H, 1> products;
        products.set_bias(image, layer.bias);
#pragma unroll
        for (int k = 0; k < tm_gnn_size<H>::STEPS; k++) {
            products.step(reinterpret_cast<const uint32_t(&)[1][4]>(rows.a[0][k]),
                          weights + k * (H / 16) * TM_GPU_WARP);
        }
        if (tables.with_x0) {
            tm_gnn_load_states(products, a.x0, node);
            products.multiply(weights + tm_gnn_size<H>::PART);
        }
        products.pack();
        tm_gnn_store(products, [&](int h) {
            return valid[h] ? a.tables + ((size_t)node[h] * TM_FUSED_TABLES_MAX + slot + t) * H
                            : (__half *)NULL;
        });
    }
}

template <int H>
static __device__ void finish_nodes(tm_fused_rows<H, 1> &rows, const network_t &a, const phase_t &p,
                                    const warp_t &w, const uint32_t (&node)[2],
                                    const bool (&valid)[2]) {
    if (a.mlp[p.nodes.net].n_layers > 0) {
        node_states(rows, a, p, node, valid);
    } else {
        tm_gnn_load_states(rows, a.x, node);
    }
    for (int k = -1; k < EXTRA_TABLES_MAX; k++) {
        const image_t image = k < 0 ? p.nodes : p.extra[k];
        if (image.net != NONE) {
            make_tables(rows, a, w.shared + image.at, a.node[image.net].tables,
                        k < 0 ? p.node_slot ^ 2 * w.parity : p.extra_slot[k], node, valid);
        }
    }
}

/* ---- edges ---- */

typedef struct {
    __half high[ROWS][TM_FUSED_FEATURES_MAX];
    __half low[ROWS][TM_FUSED_FEATURES_MAX];
} staged_features_t;

template <int H>
static __device__ void multiply_edge_features(tm_fused_rows<H, 1> &rows, const network_t &a,
                                              const warp_t &w, const tile_t &tile,
                                              const uint4 *weights) {
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const int q = lane % 4;
    /* where the states would be */
    staged_features_t *staged =
        (staged_features_t *)(w.stage + 2 * ROWS * tm_gnn_size<H>::ROW_BYTES);
    static_assert(sizeof(staged_features_t) <= ROWS * tm_gnn_size<H>::ROW_BYTES, "room");
    const uint32_t to = __shfl_sync(TM_GPU_WARP_MASK, tile.from, ROWS + lane % ROWS);
    if (lane < ROWS) {
        tm_fused_edge_features(a.edge_features, a.place[tile.from], a.place[to], staged->high[lane],
                               staged->low[lane]);
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
    multiply_split(rows, high, low, weights);
}

/* The first product of the edge MLP; the bias is in the table of the sources. Where states are not
 * updated, rows.a = e. */
template <int H>
static __device__ void edge_inputs(tm_fused_rows<H, 1> &rows, const network_t &a, const phase_t &p,
                                   const warp_t &w, const tile_t &tile, const uint32_t (&edge)[2]) {
    const uint4 *weights = (const uint4 *)(w.shared + p.edges.at + a.mlp[p.edges.net].layer[0].w);
    const char *stage = w.stage;
    if (!p.encode) {
        tm_gnn_set_operand(rows, [&](int h, int i) {
            const uint4 piece = tm_gnn_staged<H>(stage, 2, h, i);
            w.kept[(h * tm_gnn_size<H>::OWN + i) * TM_GPU_WARP] = piece;
            return piece;
        });
    }
    if (!p.update_edges) {
        return;
    }
    tm_gnn_set_sum(
        rows, [&](int h, int i) { return tm_gnn_staged<H>(stage, 0, h, i); },
        [&](int h, int i) { return tm_gnn_staged<H>(stage, 1, h, i); });
    if (p.encode) {
        multiply_edge_features(rows, a, w, tile, weights);
        return;
    }
    rows.multiply(weights);
    if (a.with_e0) {
        tm_gnn_set_operand(rows, [&](int h, int i) {
            return ((const uint4 *)(a.e0 + (size_t)edge[h] * H))[4 * i + threadIdx.x % 4];
        });
        rows.multiply(weights + tm_gnn_size<H>::PART);
    }
}

/* New states of edges from rows.c, into memory and rows.a. */
template <int H>
static __device__ void finish_edges(tm_fused_rows<H, 1> &rows, const network_t &a, const phase_t &p,
                                    const warp_t &w, const uint32_t (&edge)[2],
                                    const bool (&valid)[2]) {
    if (a.edge_residual && !p.encode) {
        tm_gnn_set_operand(rows, [&](int h, int i) {
            return w.kept[(h * tm_gnn_size<H>::OWN + i) * TM_GPU_WARP];
        });
        rows.add_operand(rows.a);
    }
    rows.pack();
    tm_gnn_store(rows,
                 [&](int h) { return valid[h] ? w.e_to + (size_t)edge[h] * H : (__half *)NULL; });
    if (p.encode && a.e0) {
        tm_gnn_store(rows,
                     [&](int h) { return valid[h] ? a.e0 + (size_t)edge[h] * H : (__half *)NULL; });
    }
}

/* The first product of the output MLP, of the states in rows.a. */
template <int H>
static __device__ void output_inputs(tm_fused_rows<H, 1> &rows, const network_t &a,
                                     const phase_t &p, const warp_t &w, const tile_t &tile) {
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const uint32_t slot = p.output_slot ^ 2 * w.parity;
    const uint4 *from[2];
    const uint4 *to[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t src = __shfl_sync(TM_GPU_WARP_MASK, tile.from, h * 8 + g);
        const uint32_t dst = __shfl_sync(TM_GPU_WARP_MASK, tile.from, ROWS + h * 8 + g);
        from[h] = (const uint4 *)(a.tables + ((size_t)src * TM_FUSED_TABLES_MAX + slot) * H);
        to[h] = (const uint4 *)(a.tables + ((size_t)dst * TM_FUSED_TABLES_MAX + slot + 1) * H);
    }
    tm_gnn_set_sum(
        rows, [&](int h, int i) { return from[h][4 * i + lane % 4]; },
        [&](int h, int i) { return to[h][4 * i + lane % 4]; });
    rows.multiply((const uint4 *)(w.shared + p.output.at + a.mlp[OUTPUT].layer[0].w));
}

template <int H>
static __device__ void write_logits(const tm_fused_rows<H, 1> &rows, const network_t &a,
                                    const char *image, const uint32_t (&edge)[2],
                                    const bool (&valid)[2]) {
    float dots[1][2];
    rows.dot(image, a.mlp[OUTPUT], dots);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (threadIdx.x % 4 == 0 && valid[h]) {
            a.logits[edge[h]] = dots[0][h];
        }
    }
}

/* ---- phases ---- */

template <int H>
static __device__ void run_phase(const network_t &a, const phase_t &p, uint32_t parity,
                                 char *shared) {
    const uint32_t warp = threadIdx.x / TM_GPU_WARP;
    const uint32_t generation = a.two_generations ? parity : 0;
    const tiles_t tiles = tiles_of(a, p);
    warp_t w;
    w.shared = shared;
    w.stage = shared + a.stage_at + warp * a.stage_rows * tm_gnn_size<H>::ROW_BYTES;
    w.kept = (uint4 *)(w.stage + (a.stage_rows - ROWS) * tm_gnn_size<H>::ROW_BYTES) +
             threadIdx.x % TM_GPU_WARP;
    w.parity = parity;
    w.e_from = a.e[p.e_from ^ generation];
    w.e_to = a.e[p.e_to ^ generation];
    /* neighbours in number go to different processors: the last ones so spread over all */
    uint32_t number = warp * gridDim.x + blockIdx.x;
    const uint32_t stride = gridDim.x * (blockDim.x / TM_GPU_WARP);
    tile_t tile = {NOTHING, 0, 0, 0};
    tile_t next = tile_of(a, tiles, number);
    while (tile.kind != END) {
        const bool is_node = tile.kind == NODES;
        const image_t image = is_node ? p.nodes : p.edges;
        const bool runs =
            is_node ? a.mlp[image.net].n_layers > 0 : tile.kind == EDGES && p.update_edges;
        uint32_t row[2];
        bool valid[2];
        tm_fused_rows<H, 1> rows;
        rows_of(tile, is_node ? tiles.n_points : tiles.n_kept, row, valid);
        __pipeline_wait_prior(0);
        __syncwarp();
        if (is_node && runs) {
            node_inputs(rows, a, p, w, tile, row);
        } else if (tile.kind == EDGES) {
            edge_inputs(rows, a, p, w, tile, row);
        }
        __syncwarp(); /* the stage is free */
        fetch<H>(a, p, w, next, tiles.n_kept);
        number += stride;
        const tile_t after = tile_of(a, tiles, number);
        const bool scores = tile.kind == EDGES && p.output.net != NONE;
#pragma unroll 1
        for (bool output = false;; output = true) {
            const image_t of = output ? p.output : image;
            if (output || runs) {
                run_layers(rows, shared + of.at, a.mlp[of.net]);
            }
            if (output) {
                write_logits(rows, a, shared + of.at, row, valid);
                break;
            }
            if (is_node) {
                finish_nodes(rows, a, p, w, row, valid);
            } else if (runs) {
                finish_edges(rows, a, p, w, row, valid);
            }
            if (!scores) {
                break;
            }
            output_inputs(rows, a, p, w, tile);
        }
        tile = next;
        next = after;
    }
}

/* The phase and its images into shared memory. There nothing is read before it is wanted: of values
 * among the kernel's arguments the compiler fills registers. */
static __device__ void load_phase(const network_t &a, const phase_t &p, char *shared) {
    if (threadIdx.x == 0) {
        *(phase_t *)shared = p;
    }
    for (int k = 0; k < 3 + EXTRA_TABLES_MAX; k++) {
        const image_t image = k == 0   ? p.nodes
                              : k == 1 ? p.edges
                              : k == 2 ? p.output
                                       : p.extra[k - 3];
        if (image.net != NONE) {
            tm_fused_load_image((uint4 *)(shared + image.at), a.mlp[image.net]);
        }
    }
}

template <int H>
static __global__ void __launch_bounds__((H == 64 ? WARPS_64 : WARPS_128) * TM_GPU_WARP, 1)
    run_network(const network_t a) {
    extern __shared__ __align__(16) char shared[];
    const uint32_t repeated = a.n_repeated * (a.steps - 1);
    const uint32_t n = a.n_first + repeated + a.n_last;
    uint32_t present = PHASES_MAX; /* the phase whose images are there */
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t behind = k < a.n_first ? 0 : k - a.n_first;
        const bool last = behind >= repeated;
        const uint32_t step = k < a.n_first ? 0 : last ? a.steps - 1 : behind / a.n_repeated;
        const uint32_t number = k < a.n_first ? k
                                : last        ? k - repeated + a.n_repeated
                                              : a.n_first + behind % a.n_repeated;
        if (number != present) { /* while others are still busy */
            load_phase(a, a.phase[number], shared);
            present = number;
        }
        if (k > 0) {
            cg::this_grid().sync();
        } else {
            __syncthreads();
        }
        run_phase<H>(a, *(const phase_t *)shared, step % 2, shared);
        __syncthreads();
    }
}

/* ---- on the host ---- */

/* What there is of shared memory for images, and for images beside which half the warps have room. */
typedef struct {
    size_t all, roomy;
} budget_t;

static size_t stage_bytes(const tm_fused_model_t *model, uint32_t rows) {
    return rows * model->gnn_width * sizeof(__half);
}

static uint32_t warps_max(const tm_fused_model_t *model) {
    return model->gnn_width == 64 ? WARPS_MAX<64> : WARPS_MAX<128>;
}

static cudaError_t budget_of(const tm_fused_model_t *model, budget_t *budget) {
    int ordinal = 0;
    int bytes = 0;
    cudaError_t error = cudaGetDevice(&ordinal);
    error = error == cudaSuccess
                ? cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal)
                : error;
    const size_t stages = warps_max(model) / 2 * stage_bytes(model, STAGE_ROWS_MIN);
    budget->all = (size_t)bytes;
    budget->roomy = budget->all > stages ? budget->all - stages : 0;
    return error;
}

static void add_net(network_t *a, int number, const tm_fused_node_mlp_t *net) {
    a->mlp[number] = net->mlp;
    a->node[number].n_parts = net->n_parts;
    memcpy(a->node[number].part, net->part, sizeof net->part);
    a->node[number].tables = net->tables;
}

static phase_t *add_phase(network_t *a, uint32_t *n) {
    assert(*n < PHASES_MAX);
    phase_t *p = &a->phase[(*n)++];
    *p = (phase_t){};
    p->nodes.net = p->edges.net = p->output.net = NONE;
    for (int k = 0; k < EXTRA_TABLES_MAX; k++) {
        p->extra[k].net = NONE;
    }
    return p;
}

static void add_nodes(const network_t *a, phase_t *p, int net, uint32_t slot) {
    p->nodes.net = net;
    p->node_slot = slot;
    for (uint32_t k = 0; k < a->node[net].n_parts; k++) {
        const tm_fused_node_part_t *part = &a->node[net].part[k];
        if (part->kind != TM_FUSED_X && part->kind != TM_FUSED_X0) {
            p->lists[part->at_src] = true;
        }
    }
}

static void add_edges(phase_t *p, int net, uint32_t slot) {
    p->edges.net = net;
    p->edge_slot = slot;
    p->update_edges = true;
}

/* Slots of even steps: edges read the tables at 0, nodes write those at 2. */
static void add_step(const tm_fused_model_t *model, const budget_t *budget, bool last, network_t *a,
                     uint32_t *n) {
    const int net = last ? LAST_NODE_MLP : NODE_MLP;
    phase_t *edges = NULL;
    if (model->edge_first) {
        edges = add_phase(a, n);
    }
    phase_t *nodes = add_phase(a, n);
    add_nodes(a, nodes, net, 2);
    if (!model->edge_first && !last && tm_fused_gnn_generations(model) == 2 &&
        a->mlp[net].bytes + a->mlp[EDGE_MLP].bytes <= budget->roomy) {
        edges = nodes; /* side by side */
        edges->e_to = 1;
        a->two_generations = true;
    }
    if (model->tables_apart) {
        add_nodes(a, add_phase(a, n), last ? OUTPUT_TABLES : EDGE_TABLES, 2);
    }
    if (!edges) {
        edges = add_phase(a, n);
    }
    add_edges(edges, EDGE_MLP, 0);
    if (last) {
        /* edges that go first are scored at the end: the output wants the nodes' last states */
        phase_t *scored = model->edge_first ? add_phase(a, n) : edges;
        scored->edges.net = EDGE_MLP;
        scored->output.net = OUTPUT;
        scored->output_slot = 2;
    }
}

static void add_encoders(const tm_fused_model_t *model, const budget_t *budget, network_t *a,
                         uint32_t *n) {
    static const int tables[EXTRA_TABLES_MAX] = {ENCODER_TABLES, EDGE_TABLES};
    static const uint32_t slot[EXTRA_TABLES_MAX] = {2, 0};
    const size_t together = (size_t)a->mlp[NODE_ENCODER].bytes + a->mlp[ENCODER_TABLES].bytes +
                            a->mlp[EDGE_TABLES].bytes;
    phase_t *p = add_phase(a, n);
    add_nodes(a, p, NODE_ENCODER, 0);
    p->encode = true;
    for (int k = 0; k < EXTRA_TABLES_MAX; k++) {
        if (together <= budget->roomy) {
            p->extra[k].net = tables[k];
            p->extra_slot[k] = slot[k];
        } else {
            add_nodes(a, add_phase(a, n), tables[k], slot[k]);
        }
    }
    p = add_phase(a, n);
    add_edges(p, EDGE_ENCODER, 2);
    p->encode = true;
    (void)model;
}

/* The phase, then one image behind the other; returns their end. */
static uint32_t place_images(const network_t *a, phase_t *p) {
    image_t *images[] = {&p->nodes, &p->edges, &p->output, &p->extra[0], &p->extra[1]};
    uint32_t used = PHASE_BYTES;
    for (image_t *image : images) {
        if (image->net != NONE) {
            image->at = used;
            used += a->mlp[image->net].bytes;
        }
    }
    return used;
}

/* Nets and phases. */
static void add_all(const tm_fused_model_t *model, const budget_t *budget, network_t *a) {
    add_net(a, NODE_ENCODER, &model->node_encoder);
    add_net(a, NODE_MLP, &model->node_mlp);
    add_net(a, LAST_NODE_MLP, &model->last_node_mlp);
    add_net(a, ENCODER_TABLES, &model->encoder_tables);
    add_net(a, EDGE_TABLES, &model->edge_tables);
    add_net(a, OUTPUT_TABLES, &model->output_tables);
    a->mlp[EDGE_ENCODER] = model->edge_encoder;
    a->mlp[EDGE_MLP] = model->edge_mlp;
    a->mlp[OUTPUT] = model->output;
    a->with_e0 = model->with_e0;
    uint32_t n = 0;
    add_encoders(model, budget, a, &n);
    a->n_first = n;
    add_step(model, budget, false, a, &n);
    a->n_repeated = n - a->n_first;
    add_step(model, budget, true, a, &n);
    a->n_last = n - a->n_first - a->n_repeated;
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t end = place_images(a, &a->phase[k]);
        a->stage_at = end > a->stage_at ? end : a->stage_at;
    }
}

uint32_t tm_fused_gnn_generations(const tm_fused_model_t *model) {
    return model->gnn_width == 64 && !model->edge_first ? 2 : 1;
}

size_t tm_fused_gnn_bytes(const tm_fused_model_t *model) {
    const budget_t nothing = {};
    network_t a = {};
    add_all(model, &nothing, &a);
    return a.stage_at + stage_bytes(model, STAGE_ROWS_MIN);
}

template <int H>
static cudaError_t launch(const tm_fused_context_t *c, const budget_t *budget, network_t *a) {
    const size_t left = budget->all - a->stage_at;
    const size_t most = left / stage_bytes(c->model, STAGE_ROWS_MIN);
    const uint32_t warps = most < WARPS_MAX<H> ? (uint32_t)most : WARPS_MAX<H>;
    if (warps == 0) {
        return cudaErrorInvalidValue;
    }
    const size_t rows = left / (warps * stage_bytes(c->model, 1));
    a->stage_rows = rows < STAGE_ROWS_MAX ? (uint32_t)rows : STAGE_ROWS_MAX;
    const size_t bytes = a->stage_at + warps * stage_bytes(c->model, a->stage_rows);
    const dim3 threads = dim3(warps * TM_GPU_WARP);
    void *arguments[] = {a};
    return cudaLaunchCooperativeKernel((const void *)run_network<H>, dim3(c->processors), threads,
                                       arguments, bytes, c->stream);
}

cudaError_t tm_fused_gnn(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_pipeline_t *p = c->pipeline;
    budget_t budget;
    network_t a = {};
    cudaError_t error = budget_of(c->model, &budget);
    if (error != cudaSuccess) {
        return error;
    }
    a.counts = &plan->header->counts;
    a.capacity = plan->capacity.kept;
    a.features = plan->gnn_features;
    a.x = plan->x;
    a.x0 = plan->x0;
    a.src_offsets = plan->kept.offsets;
    a.dst_offsets = plan->dst_offsets;
    a.by_dst = plan->by_dst;
    a.place = plan->node_place;
    a.src = plan->kept.src;
    a.dst = plan->kept.dst;
    a.tables = plan->tables;
    a.e[0] = plan->e;
    a.e[1] = plan->e + (size_t)plan->capacity.kept * c->model->gnn_width;
    a.e0 = plan->e0;
    a.logits = plan->logits;
    tm_gpu_edge_features_of(p, &a.edge_features);
    a.steps = p->gnn.steps;
    a.node_residual = p->gnn.node_residual;
    a.edge_residual = p->gnn.edge_residual;
    add_all(c->model, &budget, &a);
    return c->model->gnn_width == 64 ? launch<64>(c, &budget, &a) : launch<128>(c, &budget, &a);
}

template <int H> static cudaError_t prepare(const budget_t *budget) {
    return cudaFuncSetAttribute(run_network<H>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)budget->all);
}

cudaError_t tm_fused_prepare_gnn(const tm_fused_model_t *model) {
    budget_t budget;
    cudaError_t error = budget_of(model, &budget);
    if (error != cudaSuccess) {
        return error;
    }
    return model->gnn_width == 64 ? prepare<64>(&budget) : prepare<128>(&budget);
}
