// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernels of post.cu and post_join.cu share.
 */
#ifndef TM_NN_CUDA_FUSED_POST_PARTS_CUH
#define TM_NN_CUDA_FUSED_POST_PARTS_CUH

#include "nn/cuda/fused/post_fit.cuh"

#define TM_FUSED_POST_THREADS 256 /* of a block */
#define TM_FUSED_POST_WARPS (TM_FUSED_POST_THREADS / TM_GPU_WARP)
#define TM_FUSED_POST_GROUPS (TM_FUSED_POST_THREADS / TM_FUSED_FIT_LANES)
#define TM_FUSED_POST_BLOCKS 2 /* per processor */
#define TM_FUSED_POST_PHI_CELLS 64
#define TM_FUSED_POST_ETA_CELLS 64
#define TM_FUSED_POST_CELL_ROW (TM_FUSED_POST_ETA_CELLS + 1) /* one more: where the last one ends */
#define TM_FUSED_POST_EVENT_CELLS (TM_FUSED_POST_PHI_CELLS * TM_FUSED_POST_CELL_ROW)

/* What the kernels are told. */
typedef struct {
    tm_fused_post_t b;
    tm_fused_rules_t rules;
    tm_fused_counts_t *counts;
    const uint32_t *event_rows;
    const float4 *row_place;
    const float *rho;
    const uint32_t *link_src, *link_dst;
    const float *link_logits;
    uint32_t links;  /* capacity */
    uint32_t around; /* cells of phi on each side that a continuation may start in */
    float sure;      /* links from this logit on are not split */
    uint32_t *offsets, *indices;
    float *track_scores;
} tm_fused_post_work_t;

#define TM_FUSED_POST_ALL(i, n) \
    for (uint32_t i = blockIdx.x * TM_FUSED_POST_THREADS + threadIdx.x; i < (n); \
         i += gridDim.x * TM_FUSED_POST_THREADS)

static __device__ inline tm_fused_run_t tm_fused_post_run(const tm_fused_post_work_t &p,
                                                          const uint32_t *rows, uint32_t n) {
    return {p.b.place, rows, NULL, n, n};
}

/* What the groups of a thread's warp share, of a block's. */
typedef tm_fused_fit::exchange_t tm_fused_post_exchange_t;

static __device__ inline uint32_t tm_fused_post_lane(void) {
    return threadIdx.x % TM_GPU_WARP;
}

/* The number of the warp in the grid, and how many there are. */
static __device__ inline uint32_t tm_fused_post_warp(void) {
    return blockIdx.x * TM_FUSED_POST_WARPS + threadIdx.x / TM_GPU_WARP;
}

static __device__ inline uint32_t tm_fused_post_warps(void) {
    return gridDim.x * TM_FUSED_POST_WARPS;
}

/* Blocks that can wait for each other: all kernels here have so many. */
static inline uint32_t tm_fused_post_blocks(int processors) {
    const uint32_t blocks = TM_FUSED_POST_BLOCKS * (uint32_t)processors;
    return blocks < TM_FUSED_POST_BLOCKS_MAX ? blocks : TM_FUSED_POST_BLOCKS_MAX;
}

/* post_join.cu: chains → more links between them. Launches only. */
cudaError_t tm_fused_post_join(const tm_fused_context_t *c, const tm_fused_post_work_t *work);

#endif
