// SPDX-License-Identifier: Apache-2.0
/*
 * The instructions that CUDA C++ has no name for (PTX ISA, "Warp-level matrix instructions"). A warp
 * calls them together. tests/emulator has the same functions in plain C++.
 */
#ifndef TM_NN_CUDA_FUSED_PTX_CUH
#define TM_NN_CUDA_FUSED_PTX_CUH

#include <cuda_fp16.h>
#include <stdint.h>

/* c += a·b, mma.m16n8k16: fp16 times fp16, added up in fp32 */
static __device__ inline void tm_ptx_mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* c = a·b */
static __device__ inline void tm_ptx_mma_first(float (&c)[4], uint32_t a0, uint32_t a1,
                                               uint32_t a2, uint32_t a3, uint32_t b0,
                                               uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "f"(0.0f));
}

/* Four 8×8 matrices of halves from shared memory: lane i names row i % 8 of matrix i / 8. */
static __device__ inline void tm_ptx_load_matrices(uint32_t (&a)[4], const __half *row) {
    uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address));
}

/* To 2^-11 or so. */
static __device__ inline float tm_ptx_tanh(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
