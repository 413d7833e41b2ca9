// SPDX-License-Identifier: Apache-2.0
/*
 * Rows of node and edge states on their way between memory and the products of a warp (gnn.cu).
 *
 * Rows of H values ("lane order") are pieces of four words, piece 4·i + q being the i-th of lanes with
 * q = lane % 4: four lanes read 64 bytes in a row at once. In fp16 a piece is words 4·i … 4·i + 3 of
 * what a lane holds of a row (mma.cuh), word t being columns 8·t + 2·q and the next; in fp32 it is
 * words 2·i and 2·i + 1.
 *
 * What is gathered comes by asynchronous copies into a warp's own part of shared memory, the stage:
 * rows of H halves, one behind the other. A warp starts the copies of its next tile before it works
 * on the products of the present one.
 */
#ifndef TM_NN_CUDA_FUSED_GNN_PARTS_CUH
#define TM_NN_CUDA_FUSED_GNN_PARTS_CUH

#include <cuda_pipeline.h>

#include "nn/cuda/fused/edges.cuh"

#define TM_GNN_ROWS TM_MMA_ROWS
#define TM_GNN_PIECE_BYTES 16

template <int H> struct tm_gnn_size {
    static constexpr int ROW_BYTES = H * (int)sizeof(__half);
    static constexpr int PIECES = ROW_BYTES / TM_GNN_PIECE_BYTES; /* of a row */
    static constexpr int OWN = H / 32;                            /* of a lane */
    static constexpr int STEPS = H / TM_MMA_K;
    static constexpr int PART =
        STEPS * (H / 16) * TM_GPU_WARP; /* uint4 of the weights of H inputs */
};

/* The warp copies a piece of a row per lane. */
static __device__ inline void tm_gnn_copy(char *to, const __half *from) {
    __pipeline_memcpy_async(to, from, TM_GNN_PIECE_BYTES);
}

/* ---- rows in memory ---- */

template <int H> static __device__ float4 *tm_gnn_state(float *x, uint32_t node) {
    return (float4 *)(x + (size_t)node * H) + threadIdx.x % 4;
}

/* rows.a = node states, in fp16 */
template <int H>
static __device__ void tm_gnn_load_states(tm_fused_rows<H, 1> &rows, const float *x,
                                          const uint32_t (&node)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float4 *from = tm_gnn_state<H>((float *)x, node[h]);
#pragma unroll
        for (int i = 0; i < H / 16; i++) {
            const float4 v = from[4 * i];
            rows.a[0][i][h] = tm_mma_pack(v.x, v.y);
            rows.a[0][i][2 + h] = tm_mma_pack(v.z, v.w);
        }
    }
}

/* Writes rows.a; row(h) says where row g + 8·h begins, or NULL. */
template <int H, typename Row>
static __device__ void tm_gnn_store(const tm_fused_rows<H, 1> &rows, Row row) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        __half *begin = row(h);
        if (!begin) {
            continue;
        }
        uint4 *to = (uint4 *)begin + threadIdx.x % 4;
#pragma unroll
        for (int i = 0; i < tm_gnn_size<H>::OWN; i++) {
            to[4 * i] = make_uint4(rows.a[0][2 * i][h], rows.a[0][2 * i][2 + h],
                                   rows.a[0][2 * i + 1][h], rows.a[0][2 * i + 1][2 + h]);
        }
    }
}

/* rows.a = pieces of halves: piece(h, i) is the i-th of row g + 8·h */
template <int H, typename Piece>
static __device__ void tm_gnn_set_operand(tm_fused_rows<H, 1> &rows, Piece piece) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int i = 0; i < tm_gnn_size<H>::OWN; i++) {
            const uint4 v = piece(h, i);
            rows.a[0][2 * i][h] = v.x;
            rows.a[0][2 * i][2 + h] = v.y;
            rows.a[0][2 * i + 1][h] = v.z;
            rows.a[0][2 * i + 1][2 + h] = v.w;
        }
    }
}

/* rows.c = the sum of two rows of halves */
template <int H, typename First, typename Second>
static __device__ void tm_gnn_set_sum(tm_fused_rows<H, 1> &rows, First first, Second second) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
#pragma unroll
        for (int i = 0; i < tm_gnn_size<H>::OWN; i++) {
            const uint4 u = first(h, i);
            const uint4 v = second(h, i);
            const uint32_t of_first[4] = {u.x, u.y, u.z, u.w};
            const uint32_t of_second[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 a = tm_mma_unpack(of_first[j]);
                const float2 b = tm_mma_unpack(of_second[j]);
                rows.c[0][4 * i + j][2 * h] = a.x + b.x;
                rows.c[0][4 * i + j][2 * h + 1] = a.y + b.y;
            }
        }
    }
}

/* ---- edges of 16 nodes ---- */

/* Starts to copy rows begin … begin + count − 1 of a list of edges; order NULL: it is all edges in
 * their order. */
template <int H>
static __device__ void tm_gnn_copy_list(char *stage, const __half *e, const uint32_t *order,
                                        uint32_t begin, uint32_t count) {
    constexpr int PIECES = tm_gnn_size<H>::PIECES;
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t piece = lane % PIECES;
    for (uint32_t base = 0; base < count; base += TM_GPU_WARP) {
        const uint32_t place = base + lane < count ? begin + base + lane : begin;
        const uint32_t mine = order ? order[place] : place;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const uint32_t row = (i * TM_GPU_WARP + lane) / PIECES;
            const uint32_t edge = __shfl_sync(TM_GPU_WARP_MASK, mine, (int)row);
            if (base + row < count) {
                tm_gnn_copy(stage + (base + row) * tm_gnn_size<H>::ROW_BYTES +
                                piece * TM_GNN_PIECE_BYTES,
                            e + (size_t)edge * H + piece * (TM_GNN_PIECE_BYTES / sizeof(__half)));
            }
        }
    }
}

/* The edges of 16 nodes in one direction, and which of them are on the stage. */
typedef struct {
    const __half *e;
    const uint32_t *order;
    char *stage;
    uint32_t room;   /* rows of the stage */
    uint32_t offset; /* lane i ≤ 16: where the edges of node i begin */
    uint32_t held;   /* the first one on the stage */
} tm_gnn_list_t;

/* Has the list's edges from `at` on put on the stage, up to its room; they come later. */
template <int H> static __device__ void tm_gnn_fetch(tm_gnn_list_t &list, uint32_t at) {
    const uint32_t end = __shfl_sync(TM_GPU_WARP_MASK, list.offset, TM_GNN_ROWS);
    const uint32_t count = end - at < list.room ? end - at : list.room;
    tm_gnn_copy_list<H>(list.stage, list.e, list.order, at, count);
    list.held = at;
}

/* rows.a = what the edges of each node come to, added up in fp32 in their order. */
template <int H>
static __device__ void tm_gnn_gather(tm_fused_rows<H, 1> &rows, tm_fused_node_kind_t kind,
                                     tm_gnn_list_t &list) {
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        /* of this lane's node, and of the eight nodes that are added up beside each other */
        const uint32_t begin = __shfl_sync(TM_GPU_WARP_MASK, list.offset, h * 8 + g);
        const uint32_t end = __shfl_sync(TM_GPU_WARP_MASK, list.offset, h * 8 + g + 1);
        uint32_t at = __shfl_sync(TM_GPU_WARP_MASK, list.offset, h * 8);
        const uint32_t last = __shfl_sync(TM_GPU_WARP_MASK, list.offset, h * 8 + 8);
        float sum[H / 4];
#pragma unroll
        for (int i = 0; i < H / 4; i++) {
            sum[i] = kind == TM_FUSED_MAX && end > begin ? -INFINITY : 0;
        }
        while (at < last) {
            if (at - list.held >= list.room) { /* before it, or behind */
                __syncwarp();
                tm_gnn_fetch<H>(list, at);
                __pipeline_commit();
                __pipeline_wait_prior(0);
                __syncwarp();
            }
            const uint32_t behind = last - list.held < list.room ? last : list.held + list.room;
            const uint32_t until = end < behind ? end : behind;
            for (uint32_t k = begin > at ? begin : at; k < until; k++) {
                const uint4 *row =
                    (const uint4 *)(list.stage + (k - list.held) * tm_gnn_size<H>::ROW_BYTES) +
                    lane % 4;
#pragma unroll
                for (int i = 0; i < tm_gnn_size<H>::OWN; i++) {
                    /* every other row begins with the other piece: no bank is asked twice */
                    const uint4 v = row[4 * (i ^ (g & 1))];
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
            at = behind;
        }
        const float scale = kind == TM_FUSED_SUM                   ? TM_FUSED_SUM_SCALE
                            : kind == TM_FUSED_MEAN && end > begin ? 1.0f / (float)(end - begin)
                                                                   : 1;
        uint32_t word[H / 8];
#pragma unroll
        for (int t = 0; t < H / 8; t++) { /* fp16 ends at 65504 */
            word[t] = tm_mma_pack(fminf(fmaxf(sum[2 * t] * scale, -65504.0f), 65504.0f),
                                  fminf(fmaxf(sum[2 * t + 1] * scale, -65504.0f), 65504.0f));
        }
#pragma unroll
        for (int k = 0; k < H / 16; k++) {
            const int other = k ^ 2; /* of the piece beside */
            rows.a[0][k][h] = g & 1 ? word[2 * other] : word[2 * k];
            rows.a[0][k][2 + h] = g & 1 ? word[2 * other + 1] : word[2 * k + 1];
        }
    }
}

/* ---- 16 edges ---- */

/* The stage of 16 edges: table rows of their sources, of their targets, then their states. The pieces
 * of every other row are exchanged, so that reading them asks no bank twice. */
static __device__ inline uint32_t tm_gnn_staged_piece(uint32_t row, uint32_t piece) {
    return piece ^ (row & 1) << 2;
}

/* Starts to copy. Lane i < 16 knows the source of edge i, lane 16 + i its target. tables, e: NULL, or
 * where the rows of node 0 and of the first edge are; there are n edges. */
template <int H>
static __device__ void tm_gnn_copy_edges(char *stage, const __half *of_sources,
                                         const __half *of_targets, const __half *e, uint32_t ends,
                                         uint32_t n) {
    constexpr int PIECES = tm_gnn_size<H>::PIECES;
    constexpr int ROW_BYTES = tm_gnn_size<H>::ROW_BYTES;
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t piece = lane % PIECES;
    const uint32_t column = piece * (TM_GNN_PIECE_BYTES / sizeof(__half));
#pragma unroll
    for (int i = 0; i < TM_GNN_ROWS * PIECES / TM_GPU_WARP; i++) {
        const uint32_t row = (i * TM_GPU_WARP + lane) / PIECES;
        const uint32_t src = __shfl_sync(TM_GPU_WARP_MASK, ends, (int)row);
        const uint32_t dst = __shfl_sync(TM_GPU_WARP_MASK, ends, (int)(TM_GNN_ROWS + row));
        const uint32_t edge = row < n ? row : n - 1;
        char *to = stage + row * ROW_BYTES + tm_gnn_staged_piece(row, piece) * TM_GNN_PIECE_BYTES;
        if (of_sources) {
            tm_gnn_copy(to, of_sources + (size_t)src * (TM_FUSED_TABLES_MAX * H) + column);
            tm_gnn_copy(to + TM_GNN_ROWS * ROW_BYTES,
                        of_targets + (size_t)dst * (TM_FUSED_TABLES_MAX * H) + column);
        }
        if (e) {
            tm_gnn_copy(to + 2 * TM_GNN_ROWS * ROW_BYTES, e + (size_t)edge * H + column);
        }
    }
}

/* A lane's i-th piece of row g + 8·h of the stage's part 0, 1 or 2. */
template <int H>
static __device__ inline uint4 tm_gnn_staged(const char *stage, int part, int h, int i) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t row = h * 8 + lane / 4;
    return (
        (const uint4 *)(stage +
                        (part * TM_GNN_ROWS + row) *
                            tm_gnn_size<H>::ROW_BYTES))[tm_gnn_staged_piece(row, 4 * i + lane % 4)];
}

#endif
