// SPDX-License-Identifier: Apache-2.0
/*
 * What order.cu, search_place.cu, search.cu and search_collect.cu share.
 *
 * A slot is a place in a tile, TM_GPU_TILE of them per tile, used or not; 16 slots are a group, the
 * columns of one product, and 64 a row set, the rows of a warp.
 */
#ifndef TM_NN_CUDA_FUSED_SEARCH_PARTS_CUH
#define TM_NN_CUDA_FUSED_SEARCH_PARTS_CUH

#include "nn/cuda/fused/search.cuh"

#define TM_SEARCH_GROUP 16u
#define TM_SEARCH_GROUPS (TM_GPU_TILE / TM_SEARCH_GROUP)
#define TM_SEARCH_ROWS 64u
#define TM_SEARCH_ROW_SETS (TM_GPU_TILE / TM_SEARCH_ROWS)
#define TM_SEARCH_ROW_GROUPS (TM_SEARCH_ROWS / TM_SEARCH_GROUP)
/* A block of the search takes an item at a time: row sets against some of the tiles of a chunk. Its
 * warps take a row set each, or, where there are few tiles (fine items), share one row set and take
 * every fourth group of the columns. Bits of an item: number of the row set / row sets of an item (28),
 * number of the chunk (28), which of its tiles (8). */
#define TM_SEARCH_WARPS 4u
#define TM_SEARCH_ITEM_ROW_TILES (TM_SEARCH_WARPS / TM_SEARCH_ROW_SETS)
#define TM_SEARCH_ITEM_TILES 8u
#define TM_SEARCH_CHUNK_BITS 28
#define TM_SEARCH_FINE_TILES 448u   /* of the batch: up to here items are fine */
#define TM_SEARCH_BOX_SLACK 1.0001f /* as in the general path */
#define TM_SEARCH_TERMS 16u         /* of one step of a product */
#define TM_SEARCH_EXTRA_TERMS 4u
#define TM_SEARCH_NOBODY UINT32_MAX /* the node of an unused slot */
/* Blocks of kernels that take as many turns as there is work. */
#define TM_SEARCH_BLOCKS_PER_PROCESSOR 8u

/*
 * What fp16 may get wrong of d^2 - r^2, in units of r^2, is at most a share of |x|^2 + |y|^2 and a
 * constant. Rounding to fp16 (11 bits) changes each x y by at most 2^-10 (1 + 2^-12) |x y|, so twice
 * the sum by at most 2^-10 (|x|^2 + |y|^2); operands that carry the remainder leave 2^-20 of it.
 * Norms have at least 21 bits. Products are exact, sums lose less than 2^-17 of the terms, and values
 * below fp16's normal range 2^-22. Shares and constant are generous for all that.
 */
#define TM_SEARCH_PLAIN_SHARE (1.02f / 1024 + 1.0f / 16384)
#define TM_SEARCH_SPLIT_SHARE (1.0f / 16384)

/* Targets of a source that have their place beside each other before it is known how many there are;
 * further ones go to a list: source, target, number among the targets of the source. */
#define TM_SEARCH_SLOTS 128u
#define TM_SEARCH_RANK_BITS (64 - 2 * TM_FUSED_ROW_BITS)
#define TM_SEARCH_RANK_MAX ((1u << TM_SEARCH_RANK_BITS) - 1)
#define TM_SEARCH_ROW_MASK ((1u << TM_FUSED_ROW_BITS) - 1)
static_assert(TM_FUSED_DEGREE_MAX < TM_SEARCH_RANK_MAX, "ranks that count are held");

enum {
    TM_SEARCH_FOUND,  /* edges */
    TM_SEARCH_LISTED, /* those that are in the list, or would be */
    TM_SEARCH_ITEMS,
    TM_SEARCH_NEXT_ITEM,
    TM_SEARCH_LARGE_NODES,
    TM_SEARCH_TOO_MANY, /* not 0: a source has more than TM_FUSED_DEGREE_MAX edges */
    TM_SEARCH_COUNTERS
};

/* Of two intervals of phi: how far they are apart on the circle, or less. */
static __device__ inline float tm_search_phi_gap(float low, float high, float other_low,
                                                 float other_high) {
    const float turn = 6.28318531f;
    float direct = fmaxf(other_low - high, low - other_high);
    float around = turn - (fmaxf(high, other_high) - fminf(low, other_low));
    return fminf(direct, around);
}

/* d2 and the square of the gap between two intervals. */
static __device__ inline float tm_search_add_gap(float d2, float low, float high, float other_low,
                                                 float other_high) {
    float gap = fmaxf(fmaxf(other_low - high, low - other_high), 0);
    return fmaf(gap, gap, d2);
}

/* Steps in which an event is sorted by phi; those of a crowd are sorted in another way. */
#define TM_SEARCH_STEPS 65536u
#define TM_SEARCH_CROWD 64u

/* order.cu */
cudaError_t tm_fused_order_prepare(void);

#endif
