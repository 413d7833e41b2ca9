// SPDX-License-Identifier: Apache-2.0
/* nn/cuda/fused/ptx.cuh in C++: what lane 4·g + q holds is in the PTX ISA's figures of mma.m16n8k16. */
#ifndef TM_NN_CUDA_FUSED_PTX_CUH
#define TM_NN_CUDA_FUSED_PTX_CUH

#include "cuda_fp16.h"
#include "cuda_runtime.h"

struct tm_emulator_operands {
    uint32_t a[4], b[2];
};

/* All of a product: c[lane] of a 16 × 16 times 16 × 8. */
static inline void tm_emulator_multiply(const tm_emulator_operands *of, float4 *c) {
    static const float *const values = tm_emulator_half_values();
    float a[16][16];
    float b[16][8];
    float sums[16][8] = {};
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4;
        const int q = lane % 4;
        for (int i = 0; i < 2; i++) {
            a[g][2 * q + i] = values[of[lane].a[0] >> 16 * i & 0xffff];
            a[g + 8][2 * q + i] = values[of[lane].a[1] >> 16 * i & 0xffff];
            a[g][2 * q + 8 + i] = values[of[lane].a[2] >> 16 * i & 0xffff];
            a[g + 8][2 * q + 8 + i] = values[of[lane].a[3] >> 16 * i & 0xffff];
            b[2 * q + i][g] = values[of[lane].b[0] >> 16 * i & 0xffff];
            b[2 * q + 8 + i][g] = values[of[lane].b[1] >> 16 * i & 0xffff];
        }
    }
    for (int row = 0; row < 16; row++) {
        for (int k = 0; k < 16; k++) {
            for (int column = 0; column < 8; column++) {
                sums[row][column] += a[row][k] * b[k][column];
            }
        }
    }
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4;
        const int q = lane % 4;
        c[lane] = make_float4(sums[g][2 * q], sums[g][2 * q + 1], sums[g + 8][2 * q],
                              sums[g + 8][2 * q + 1]);
    }
}

static inline void tm_ptx_mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1) {
    const tm_emulator_operands mine = {{a0, a1, a2, a3}, {b0, b1}};
    const float4 sums = tm_emulator::exchange_all<tm_emulator_operands, float4>(
        mine, [](const tm_emulator_operands *all, float4 *out) { tm_emulator_multiply(all, out); });
    c[0] += sums.x;
    c[1] += sums.y;
    c[2] += sums.z;
    c[3] += sums.w;
}

static inline void tm_ptx_mma_first(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
    c[0] = c[1] = c[2] = c[3] = 0;
    tm_ptx_mma(c, a0, a1, a2, a3, b0, b1);
}

static inline void tm_ptx_load_matrices(uint32_t (&a)[4], const __half *row) {
    const int lane = tm_emulator::self().lane;
    uint4 words = tm_emulator::exchange(row, [=](auto of) {
        uint32_t word[4];
        for (int m = 0; m < 4; m++) {
            memcpy(&word[m], of(8 * m + lane / 4) + lane % 4 * 2, sizeof word[m]);
        }
        return make_uint4(word[0], word[1], word[2], word[3]);
    });
    a[0] = words.x;
    a[1] = words.y;
    a[2] = words.z;
    a[3] = words.w;
}

static inline float tm_ptx_tanh(float x) {
    return tanhf(x);
}

template <typename A>
static cudaError_t tm_ptx_launch_early(void (*kernel)(A), bool, dim3 blocks, unsigned threads,
                                       size_t shared_bytes, cudaStream_t stream, const A &a) {
    tm_emulator::launch(blocks, dim3(threads), shared_bytes, stream, kernel, a);
    return cudaSuccess;
}

static inline void tm_ptx_wait_for_others(void) {
}

static inline void tm_ptx_let_others_begin(void) {
}

#endif
