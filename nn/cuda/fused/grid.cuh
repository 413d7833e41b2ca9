// SPDX-License-Identifier: Apache-2.0
/*
 * Cooperative kernels: their blocks run all at once and wait for each other between phases (grid.sync of
 * cooperative_groups), so that many small steps need one launch.
 *
 * Sums over a whole array in such a kernel go by pieces of the array, one per block: tm_grid_add_up,
 * then grid.sync, then tm_grid_prefix. All threads of all blocks call them; the blocks have
 * TM_GRID_THREADS threads.
 */
#ifndef TM_NN_CUDA_FUSED_GRID_CUH
#define TM_NN_CUDA_FUSED_GRID_CUH

#include <cooperative_groups.h>
#include <cub/block/block_scan.cuh>

#include "nn/cuda/gpu.cuh"

#define TM_GRID_THREADS 512
#define TM_GRID_BLOCKS_PER_PROCESSOR 2
#define TM_GRID_WARPS (TM_GRID_THREADS / TM_GPU_WARP) /* of a block */

static inline uint32_t tm_grid_blocks(int processors) {
    return (uint32_t)processors * TM_GRID_BLOCKS_PER_PROCESSOR;
}

/* The block's part of [0, n). */
typedef struct {
    uint32_t begin, end;
} tm_grid_piece_t;

static __device__ inline tm_grid_piece_t tm_grid_piece(uint32_t n) {
    const uint32_t length = (n + gridDim.x - 1) / gridDim.x;
    const uint32_t begin = min(blockIdx.x * length, n);
    return (tm_grid_piece_t){begin, min(begin + length, n)};
}

/* block_sums[block] = the sum of value(i) over the block's piece of [0, n) */
template <typename Value>
static __device__ void tm_grid_add_up(uint32_t n, uint32_t *block_sums, Value value) {
    __shared__ uint32_t sum;
    const tm_grid_piece_t piece = tm_grid_piece(n);
    uint32_t mine = 0;
    if (threadIdx.x == 0) {
        sum = 0;
    }
    __syncthreads();
    for (uint32_t i = piece.begin + threadIdx.x; i < piece.end; i += TM_GRID_THREADS) {
        mine += value(i);
    }
    mine = __reduce_add_sync(TM_GPU_WARP_MASK, mine);
    if (threadIdx.x % TM_GPU_WARP == 0) {
        atomicAdd(&sum, mine);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        block_sums[blockIdx.x] = sum;
    }
}

/* put(i, value(0) + … + value(i − 1)) for the block's piece of [0, n); returns the sum of all. A block
 * sees what its threads have put. */
template <typename Value, typename Put>
static __device__ uint32_t tm_grid_prefix(uint32_t n, const uint32_t *block_sums, Value value,
                                          Put put) {
    typedef cub::BlockScan<uint32_t, TM_GRID_THREADS> scan_t;
    __shared__ typename scan_t::TempStorage memory;
    __shared__ uint32_t sum_before, sum_of_all;
    const auto add = [](uint32_t a, uint32_t b) { return a + b; };
    const tm_grid_piece_t piece = tm_grid_piece(n);
    uint32_t before = 0;
    uint32_t all = 0;
    if (threadIdx.x == 0) {
        sum_before = sum_of_all = 0;
    }
    for (uint32_t b = threadIdx.x; b < gridDim.x; b += TM_GRID_THREADS) {
        const uint32_t sum = block_sums[b];
        all += sum;
        before += b < blockIdx.x ? sum : 0;
    }
    before = __reduce_add_sync(TM_GPU_WARP_MASK, before);
    all = __reduce_add_sync(TM_GPU_WARP_MASK, all);
    __syncthreads();
    if (threadIdx.x % TM_GPU_WARP == 0) {
        atomicAdd(&sum_before, before);
        atomicAdd(&sum_of_all, all);
    }
    __syncthreads();
    before = sum_before;
    all = sum_of_all;
    for (uint32_t first = piece.begin; first < piece.end; first += TM_GRID_THREADS) {
        const uint32_t i = first + threadIdx.x;
        uint32_t own;
        uint32_t sum;
        scan_t(memory).ExclusiveScan(i < piece.end ? value(i) : 0u, own, 0u, add, sum);
        if (i < piece.end) {
            put(i, before + own);
        }
        before += sum;
        __syncthreads();
    }
    __syncthreads();
    return all;
}

#endif
