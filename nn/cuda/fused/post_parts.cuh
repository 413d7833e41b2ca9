// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernels of post.cu and post_join.cu share.
 */
#ifndef TM_NN_CUDA_FUSED_POST_PARTS_CUH
#define TM_NN_CUDA_FUSED_POST_PARTS_CUH

#include <cub/block/block_scan.cuh>

#include "nn/cuda/fused/post_fit.cuh"

#define TM_FUSED_POST_THREADS 256          /* of a block */
#define TM_FUSED_POST_BLOCKS 4             /* per processor */
#define TM_FUSED_POST_COOPERATIVE_BLOCKS 2 /* … that wait for each other */
#define TM_FUSED_POST_PHI_CELLS 64
#define TM_FUSED_POST_ETA_CELLS 64
#define TM_FUSED_POST_CELL_ROW (TM_FUSED_POST_ETA_CELLS + 1) /* one more: where the last one ends */
#define TM_FUSED_POST_EVENT_CELLS (TM_FUSED_POST_PHI_CELLS * TM_FUSED_POST_CELL_ROW)

/* What the kernels are told. */
typedef struct {
    tm_fused_post_t b;
    tm_fused_rules_t rules;
    tm_fused_counts_t *counts;
    const tm_fused_tile_t *tiles;
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

/* A place for each thread's items behind *counter. All threads of a block call it together. */
static __device__ inline uint32_t tm_fused_post_place(uint32_t mine, uint32_t *counter) {
    typedef cub::BlockScan<uint32_t, TM_FUSED_POST_THREADS> scan_t;
    __shared__ typename scan_t::TempStorage memory;
    __shared__ uint32_t base;
    const auto add = [](uint32_t a, uint32_t b) { return a + b; };
    uint32_t before = 0;
    uint32_t total = 0;
    scan_t(memory).ExclusiveScan(mine, before, 0u, add, total);
    if (threadIdx.x == 0) {
        base = total > 0 ? atomicAdd(counter, total) : 0;
    }
    __syncthreads();
    before += base;
    __syncthreads();
    return before;
}

static __device__ inline tm_fused_run_t tm_fused_post_run(const tm_fused_post_work_t &p,
                                                          const uint32_t *rows, uint32_t n) {
    return {p.b.place, rows, NULL, n, n};
}

/* post_join.cu: chains → more links between them. Launches only. */
cudaError_t tm_fused_post_join(const tm_fused_context_t *c, const tm_fused_post_work_t *work);

#endif
