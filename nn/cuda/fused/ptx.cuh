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
static __device__ inline void tm_ptx_mma_first(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                               uint32_t a3, uint32_t b0, uint32_t b1) {
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

/*
 * Products of a warpgroup (four warps, the first of them a multiple of four), sm_90a alone: wgmma with
 * A, 64 rows of 16 halves, in registers (warp w has rows 16·w and on, as mma.m16n8k16 has them) and B
 * in shared memory. B is [columns / 8][2 halves of k][8 columns][8 of k] halves: matrices of 128
 * contiguous bytes, no swizzle (PTX ISA, "Asynchronous warpgroup-level matrix multiply-accumulate").
 *
 * Between tm_ptx_group_begin and tm_ptx_group_wait nobody may touch the operands and results; the
 * pins keep the compiler from moving what touches them in between.
 */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define TM_PTX_GROUP 1

#define TM_PTX_COLUMN_STRIDE 256ull /* bytes between matrices of neighbouring 8 columns */
#define TM_PTX_K_STRIDE 128ull      /* and of the two halves of k */
#define TM_PTX_ADDRESS_MASK 0x3ffffu

/* What wgmma calls a matrix descriptor; in all its parts addresses count in 16 bytes. */
static __device__ inline uint64_t tm_ptx_group_matrices(const void *b) {
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(b) & TM_PTX_ADDRESS_MASK;
    return address >> 4 | TM_PTX_K_STRIDE >> 4 << 16 | TM_PTX_COLUMN_STRIDE >> 4 << 32;
}

/* What this thread wrote to shared memory may be read as B by whoever passes the next barrier. */
static __device__ inline void tm_ptx_group_publish(void) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ inline void tm_ptx_pin(uint32_t &word) {
    asm volatile("" : "+r"(word)::"memory");
}

static __device__ inline void tm_ptx_pin(float &value) {
    asm volatile("" : "+f"(value)::"memory");
}

static __device__ inline void tm_ptx_group_begin(void) {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void tm_ptx_group_wait(void) {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

#define TM_PTX_1(how, c, t) how(c[t][0]), how(c[t][1]), how(c[t][2]), how(c[t][3])
#define TM_PTX_4(how, c, t) \
    TM_PTX_1(how, c, t), TM_PTX_1(how, c, t + 1), TM_PTX_1(how, c, t + 2), TM_PTX_1(how, c, t + 3)
#define TM_PTX_8(how, c, t) TM_PTX_4(how, c, t), TM_PTX_4(how, c, t + 4)
#define TM_PTX_WORDS_4 "%0,%1,%2,%3"
#define TM_PTX_WORDS_32 \
    TM_PTX_WORDS_4 ",%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
                   "%24,%25,%26,%27,%28,%29,%30,%31"
#define TM_PTX_WORDS_64 \
    TM_PTX_WORDS_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49," \
                    "%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
/* D = A·B (+ D): n is the number of columns; a is where the operand numbers of A begin */
#define TM_PTX_GROUP_TEXT(n, words, a0, a1, a2, a3, b, add) \
    "{.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n" \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.f16.f16 {" words "}, {" a0 "," a1 "," a2 "," a3 \
    "}, " b ", p, 1, 1, 0;\n}"
#define TM_PTX_GROUP_MMA(tiles, n, words, all, a0, a1, a2, a3, b) \
    static __device__ inline void tm_ptx_group_first(float(&c)[tiles][4], const uint32_t(&a)[4], \
                                                     uint64_t matrices) { \
        asm volatile(TM_PTX_GROUP_TEXT(n, words, a0, a1, a2, a3, b, "0") \
                     : all("=f", c, 0) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrices)); \
    } \
    static __device__ inline void tm_ptx_group_add(float(&c)[tiles][4], const uint32_t(&a)[4], \
                                                   uint64_t matrices) { \
        asm volatile(TM_PTX_GROUP_TEXT(n, words, a0, a1, a2, a3, b, "1") \
                     : all("+f", c, 0) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(matrices)); \
    }
#define TM_PTX_16(how, c, t) TM_PTX_8(how, c, t), TM_PTX_8(how, c, t + 8)
TM_PTX_GROUP_MMA(1, "8", TM_PTX_WORDS_4, TM_PTX_1, "%4", "%5", "%6", "%7", "%8")
TM_PTX_GROUP_MMA(8, "64", TM_PTX_WORDS_32, TM_PTX_8, "%32", "%33", "%34", "%35", "%36")
TM_PTX_GROUP_MMA(16, "128", TM_PTX_WORDS_64, TM_PTX_16, "%64", "%65", "%66", "%67", "%68")
#endif

/* Launches a kernel that may begin while the one before it in the stream still runs ("programmatic
 * dependent launch", CUDA C++ Programming Guide; compute capability 9.0, elsewhere it begins behind
 * it). Before tm_ptx_wait_for_others it must not look at anything that kernels write. */
template <typename A>
static cudaError_t tm_ptx_launch_early(void (*kernel)(A), bool early, dim3 blocks, unsigned threads,
                                       size_t shared_bytes, cudaStream_t stream, const A &a) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = early ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, a);
}

/* Until all that the kernels before this one wrote is there. */
static __device__ inline void tm_ptx_wait_for_others(void) {
#if __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

/* The next kernel may begin where there is room. */
static __device__ inline void tm_ptx_let_others_begin(void) {
#if __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

#endif
