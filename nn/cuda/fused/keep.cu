// SPDX-License-Identifier: Apache-2.0
/*
 * The edges whose bit the filter set move together, in their order, and are indexed by target: one
 * cooperative kernel.
 */
#include "nn/cuda/fused/grid.cuh"
#include "nn/cuda/fused/stages.cuh"

namespace cg = cooperative_groups;

#define WORD_EDGES TM_GPU_WARP
#define WORDS_AT_ONCE 4u /* that a warp has on their way */

typedef struct {
    tm_fused_counts_t *counts;
    uint32_t edge_capacity, kept_capacity;
    const uint32_t *words; /* a bit per edge */
    uint32_t *places;      /* bits before each word */
    tm_fused_edges_t edges, kept;
    uint32_t *dst_counts, *dst_offsets;
    uint32_t *unsorted, *by_dst;
    uint32_t *block_sums;
} keep_t;

static __device__ uint32_t kept_before(const keep_t &t, uint32_t edge) {
    const uint32_t bit = edge % WORD_EDGES;
    const uint32_t before = t.places[edge / WORD_EDGES];
    return bit ? before + __popc(t.words[edge / WORD_EDGES] & ((1u << bit) - 1)) : before;
}

/* Moves the edges of the words [begin, end), whose places are known: a warp per word, a lane per edge. */
static __device__ void move_edges(const keep_t &t, uint32_t begin, uint32_t end) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    for (uint32_t first = begin + threadIdx.x / TM_GPU_WARP * WORDS_AT_ONCE; first < end;
         first += TM_GRID_WARPS * WORDS_AT_ONCE) {
        uint32_t src[WORDS_AT_ONCE];
        uint32_t dst[WORDS_AT_ONCE];
        uint32_t at[WORDS_AT_ONCE];
#pragma unroll
        for (uint32_t k = 0; k < WORDS_AT_ONCE; k++) {
            const uint32_t word = first + k < end ? t.words[first + k] : 0;
            at[k] = UINT32_MAX;
            if (word >> lane & 1) {
                const uint32_t edge = (first + k) * WORD_EDGES + lane;
                at[k] = t.places[first + k] + __popc(word & ((1u << lane) - 1));
                src[k] = t.edges.src[edge];
                dst[k] = t.edges.dst[edge];
            }
        }
#pragma unroll
        for (uint32_t k = 0; k < WORDS_AT_ONCE; k++) {
            if (at[k] < t.kept_capacity) {
                t.kept.src[at[k]] = src[k];
                t.kept.dst[at[k]] = dst[k];
                atomicAdd(&t.dst_counts[dst[k]], 1u);
            }
        }
    }
}

static __global__ void __launch_bounds__(TM_GRID_THREADS, TM_GRID_BLOCKS_PER_PROCESSOR)
    keep(const keep_t t) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n_edges = tm_fused_edge_count(t.counts, t.edge_capacity);
    const uint32_t n_words = (n_edges + WORD_EDGES - 1) / WORD_EDGES;
    const uint32_t n_points = t.counts->n_points;
    const uint32_t first = blockIdx.x * TM_GRID_THREADS + threadIdx.x;
    const uint32_t stride = gridDim.x * TM_GRID_THREADS;
    const auto bits = [&t](uint32_t i) { return (uint32_t)__popc(t.words[i]); };

    for (uint32_t i = first; i < n_points; i += stride) {
        t.dst_counts[i] = 0;
    }
    tm_grid_add_up(n_words, t.block_sums, bits);
    grid.sync();
    const uint32_t n_kept = tm_grid_prefix(
        n_words, t.block_sums, bits, [&t](uint32_t i, uint32_t before) { t.places[i] = before; });
    const tm_grid_piece_t piece = tm_grid_piece(n_words);
    move_edges(t, piece.begin, piece.end);
    if (first == 0) {
        t.places[n_words] = n_kept; /* where the last nodes without edges begin */
        t.counts->n_kept = n_kept;
        if (n_kept > t.kept_capacity) {
            atomicOr(&t.counts->flags, (uint32_t)TM_FUSED_KEPT_FULL);
        }
    }
    /* where edges did not all fit there are no lists */
    const uint32_t m = n_kept <= t.kept_capacity ? n_kept : 0;
    const auto degree = [&t, m](uint32_t i) { return m > 0 ? t.dst_counts[i] : 0u; };
    grid.sync();
    for (uint32_t i = first; i <= n_points; i += stride) {
        const uint32_t before = kept_before(t, min(t.edges.offsets[i], n_edges));
        t.kept.offsets[i] = min(before, t.kept_capacity);
    }
    tm_grid_add_up(n_points, t.block_sums, degree);
    grid.sync();
    tm_grid_prefix(n_points, t.block_sums, degree,
                   [&t](uint32_t i, uint32_t before) { t.dst_offsets[i] = before; });
    if (first == 0) {
        t.dst_offsets[n_points] = m;
    }
    grid.sync();
    /* into the lists in any order; each then finds its place by the number of lower ones */
    for (uint32_t i = first; i < m; i += stride) {
        const uint32_t to = t.kept.dst[i];
        t.unsorted[t.dst_offsets[to] + atomicSub(&t.dst_counts[to], 1u) - 1] = i;
    }
    grid.sync();
    for (uint32_t i = first; i < m; i += stride) {
        const uint32_t edge = t.unsorted[i];
        const uint32_t to = t.kept.dst[edge];
        const uint32_t begin = t.dst_offsets[to];
        const uint32_t end = t.dst_offsets[to + 1];
        uint32_t lower = 0;
        for (uint32_t k = begin; k < end; k++) {
            lower += t.unsorted[k] < edge;
        }
        t.by_dst[begin + lower] = edge;
    }
}

cudaError_t tm_fused_keep(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    keep_t t = {.counts = &plan->header->counts,
                .edge_capacity = plan->capacity.edges,
                .kept_capacity = plan->capacity.kept,
                .words = plan->keep_words,
                .places = plan->keep_places,
                .edges = plan->edges,
                .kept = plan->kept,
                .dst_counts = plan->dst_counts,
                .dst_offsets = plan->dst_offsets,
                .unsorted = plan->dst_unsorted,
                .by_dst = plan->by_dst,
                .block_sums = plan->block_sums};
    void *arguments[] = {&t};
    return cudaLaunchCooperativeKernel((const void *)keep, dim3(tm_grid_blocks(c->processors)),
                                       dim3(TM_GRID_THREADS), arguments, 0, c->stream);
}
