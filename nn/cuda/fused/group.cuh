// SPDX-License-Identifier: Apache-2.0
/*
 * Rows through the layers of an MLP by warpgroups: four warps take 64 rows, each warp 16 of them,
 * as tm_fused_rows<H, 1> (mma.cuh). On sm_90a a k step of all columns is one wgmma, which leaves the warp
 * free and lets the products of one group run beside the activations of others; elsewhere the same is
 * done with mma.sync.
 *
 * An image for groups lies in shared memory and differs from those of mma.cuh:
 * - weights of a k step are [columns / 8][2 halves of k][8 columns][8 of k] halves;
 * - the bias is among them: a last k step whose places 8 and 9 hold it as hi + lo, and whose operand
 *   holds ones there (tm_group_ones);
 * - the weights of the dot product are a layer of 8 columns, the first two of them hi and lo.
 */
#ifndef TM_NN_CUDA_FUSED_GROUP_CUH
#define TM_NN_CUDA_FUSED_GROUP_CUH

#include "nn/cuda/fused/mma.cuh"

#define TM_GROUP_WARPS 4
#define TM_GROUP_BIAS_PLACE 8 /* of the k step that holds the bias: hi, and lo behind it */
#define TM_GROUP_DOT_COLUMNS 8

/* What belongs at places 8 + 2·q and the next of a step with the bias. */
static __device__ inline uint32_t tm_group_ones(void) {
    return threadIdx.x % 4 == 0 ? 0x3c003c00u : 0;
}

/* The image into shared memory, by the whole block, with the barrier behind it. */
static __device__ inline void tm_group_load_image(uint4 *shared, const tm_fused_mlp_t &mlp) {
    tm_fused_load_image(shared, mlp);
#ifdef TM_PTX_GROUP
    tm_ptx_group_publish();
#endif
    __syncthreads();
}

/* c = K k steps of operand times weights [K][TILES][2][8][8] */
template <int K, int TILES>
static __device__ inline void tm_group_multiply(float (&c)[TILES][4], uint32_t (&operand)[K][4],
                                                const __half *w) {
    constexpr int STEP = TILES * 8 * TM_MMA_K;
#ifdef TM_PTX_GROUP
    const uint64_t matrices = tm_ptx_group_matrices(w);
#pragma unroll
    for (int k = 0; k < K; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            tm_ptx_pin(operand[k][i]);
        }
    }
    tm_ptx_group_begin();
    tm_ptx_group_first(c, operand[0], matrices);
#pragma unroll
    for (int k = 1; k < K; k++) {
        tm_ptx_group_add(c, operand[k], matrices + k * (STEP * sizeof(__half) / 16));
    }
    tm_ptx_group_wait();
#pragma unroll
    for (int t = 0; t < TILES; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            tm_ptx_pin(c[t][i]);
        }
    }
#else
    constexpr int LOAD = TILES > 1 ? 2 : 1; /* tiles, or else steps, of a load */
    const __half *row = w + threadIdx.x % TM_GPU_WARP * 8;
    static_assert(TILES % 2 == 0 || K % 2 == 0, "a load brings two");
#pragma unroll
    for (int k = 0; k < K; k += 2 / LOAD) {
#pragma unroll
        for (int t = 0; t < TILES; t += LOAD) {
            uint32_t b[4];
            tm_ptx_load_matrices(b, row + k * STEP + t * 8 * TM_MMA_K);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int kk = TILES > 1 ? k : k + i;
                const int tt = TILES > 1 ? t + i : t;
                const uint32_t(&a)[4] = operand[kk];
                if (kk == 0) {
                    tm_ptx_mma_first(c[tt], a[0], a[1], a[2], a[3], b[2 * i], b[2 * i + 1]);
                } else {
                    tm_ptx_mma(c[tt], a[0], a[1], a[2], a[3], b[2 * i], b[2 * i + 1]);
                }
            }
        }
    }
#endif
}

/* c = H inputs in rows.a, and the bias, times the weights of a layer behind the first */
template <int H>
static __device__ inline void tm_group_multiply_rows(tm_fused_rows<H, 1> &rows, const __half *w) {
    constexpr int STEPS = H / TM_MMA_K;
    uint32_t operand[STEPS + 1][4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            operand[k][i] = rows.a[0][k][i];
        }
        operand[STEPS][i] = i < 2 ? 0 : tm_group_ones();
    }
    tm_group_multiply(rows.c[0], operand, w);
}

/* The dot product of each row in rows.a, in the lanes with q = 0: dots[h] of row g + 8·h */
template <int H>
static __device__ inline void tm_group_dot(tm_fused_rows<H, 1> &rows, const char *image,
                                           const tm_fused_mlp_t &mlp, float (&dots)[2]) {
    float sums[1][4];
    tm_group_multiply(sums, rows.a[0], (const __half *)(image + mlp.dot));
    dots[0] = sums[0][0] + sums[0][1] + mlp.dot_bias;
    dots[1] = sums[0][2] + sums[0][3] + mlp.dot_bias;
}

#endif
