// SPDX-License-Identifier: Apache-2.0
/*
 * Rows through the layers of an MLP on tensor cores, without leaving the registers.
 *
 * A warp takes 16·MT rows at a time. A layer is mma.sync m16n8k16 (fp16 times fp16, added up in fp32):
 * the rows are the A operand, the weights B. In this layout lane 4·g + q holds of rows g and g + 8 the
 * columns 8·t + 2·q and the next, for every t; what leaves a layer so lies exactly as the A operand of
 * the next one wants it (PTX ISA, "Matrix fragments for mma.m16n8k16").
 *
 * Rows of H values in memory ("lane order") are pieces of 16 bytes, by turns of the four lanes of a
 * row: each holds the next values of its lane in the order of t. A lane so reads and writes whole pieces,
 * and the four of a row whole sectors of the cache.
 *
 * Layer norms need no mean: the weights were centred when they were packed (pack.cu), so that the
 * values of a row add up to nothing before the norm.
 */
#ifndef TM_NN_CUDA_FUSED_MMA_CUH
#define TM_NN_CUDA_FUSED_MMA_CUH

#include "nn/cuda/fused/ptx.cuh"
#include "nn/cuda/gpu.cuh"

#define TM_MMA_ROWS 16
#define TM_MMA_K 16
#define TM_FUSED_LAYERS_MAX 6

/* Activations; what SILU and SIGMOID halve was halved when the weights were packed. */
typedef enum {
    TM_FUSED_NONE,
    TM_FUSED_RELU,
    TM_FUSED_SILU, /* of twice the value */
    TM_FUSED_TANH,
    TM_FUSED_SIGMOID, /* of twice the value */
    TM_FUSED_GELU
} tm_fused_act_t;

/* A packed layer: byte offsets into the image of its MLP. */
typedef struct {
    uint32_t k_steps; /* of 16 inputs */
    uint32_t w;       /* uint4 [k_steps][out / 16][32] */
    uint32_t bias;    /* float2 [out / 2] */
    uint32_t norm;    /* float4 [out / 2]: gain, shift of two columns; 0: no norm */
    float eps;
    tm_fused_act_t act;
} tm_fused_layer_t;

/* A packed MLP. Where the last layer has one output, it is a dot product: float2 [H / 2] at `dot`,
 * and dot_bias; it is not among the layers then. An image for groups is another (group.cuh). */
typedef struct {
    const uint4 *image; /* on the GPU */
    uint32_t bytes;
    uint32_t n_layers;
    tm_fused_layer_t layer[TM_FUSED_LAYERS_MAX];
    uint32_t dot;
    float dot_bias;
} tm_fused_mlp_t;

static __device__ inline uint32_t tm_mma_pack(float a, float b) {
    __half2 h = __floats2half2_rn(a, b);
    return *(uint32_t *)&h;
}

static __device__ inline float2 tm_mma_unpack(uint32_t word) {
    return __half22float2(*(__half2 *)&word);
}

static __device__ inline void tm_mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1) {
    tm_ptx_mma(c, a[0], a[1], a[2], a[3], b0, b1);
}

/* The image into shared memory, by the whole block. */
static __device__ inline void tm_fused_load_image(uint4 *shared, const tm_fused_mlp_t &mlp) {
    for (uint32_t i = threadIdx.x; i < mlp.bytes / sizeof(uint4); i += blockDim.x) {
        shared[i] = mlp.image[i];
    }
}

/* Row g + 8·h of an operand of K k steps = a row of 16·K halves in lane order. */
template <int K>
static __device__ inline void tm_fused_load_row(uint32_t (&a)[K][4], int h, const __half *row) {
    const uint4 *from = (const uint4 *)row + threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < K / 2; i++) {
        const uint4 v = from[4 * i];
        a[2 * i][h] = v.x;
        a[2 * i][2 + h] = v.y;
        a[2 * i + 1][h] = v.z;
        a[2 * i + 1][2 + h] = v.w;
    }
}

template <int H, int MT> struct tm_fused_rows {
    float c[MT][H / 8][4];     /* results of a layer */
    uint32_t a[MT][H / 16][4]; /* operand of the next */

    __device__ void set_bias(const char *image, uint32_t offset) {
        const float2 *bias = (const float2 *)(image + offset);
        const int q = threadIdx.x % 4;
#pragma unroll
        for (int t = 0; t < H / 8; t++) {
            float2 b = bias[4 * t + q];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                c[m][t][0] = c[m][t][2] = b.x;
                c[m][t][1] = c[m][t][3] = b.y;
            }
        }
    }

    /* c += one k step of weights times operand */
    __device__ void step(const uint32_t (&operand)[MT][4], const uint4 *w) {
        const int lane = threadIdx.x % TM_GPU_WARP;
#pragma unroll
        for (int p = 0; p < H / 16; p++) {
            uint4 b = w[p * TM_GPU_WARP + lane];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                tm_mma(c[m][2 * p], operand[m], b.x, b.y);
                tm_mma(c[m][2 * p + 1], operand[m], b.z, b.w);
            }
        }
    }

    /* c += inputs in two halves times weights [3] k steps, which are split likewise (model.cuh) */
    __device__ void step_split(const uint32_t (&high)[MT][4], const uint32_t (&low)[MT][4],
                               const uint4 *w) {
        constexpr int STEP = H / 16 * TM_GPU_WARP;
        step(high, w);
        step(low, w + STEP);
        step(high, w + 2 * STEP);
    }

    /* c += H inputs times weights [H / 16] k steps */
    __device__ void multiply(const uint32_t (&inputs)[MT][H / 16][4], const uint4 *w) {
#pragma unroll
        for (int k = 0; k < H / 16; k++) {
            uint32_t operand[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    operand[m][i] = inputs[m][k][i];
                }
            }
            step(operand, w + k * (H / 16) * TM_GPU_WARP);
        }
    }

    /* norm and activation of c */
    __device__ void finish(const char *image, const tm_fused_layer_t &layer) {
        const int q = threadIdx.x % 4;
        if (layer.norm) {
            const float4 *norm = (const float4 *)(image + layer.norm);
            float scale[MT][2];
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float of[2] = {0, 0}; /* two, as one would wait for itself */
#pragma unroll
                    for (int t = 0; t < H / 8; t++) {
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            of[i] = fmaf(c[m][t][2 * h + i], c[m][t][2 * h + i], of[i]);
                        }
                    }
                    float squares = of[0] + of[1];
                    squares += __shfl_xor_sync(TM_GPU_WARP_MASK, squares, 1);
                    squares += __shfl_xor_sync(TM_GPU_WARP_MASK, squares, 2);
                    scale[m][h] = rsqrtf(fmaf(squares, 1.0f / H, layer.eps));
                }
            }
#pragma unroll
            for (int t = 0; t < H / 8; t++) {
                float4 n = norm[4 * t + q];
#pragma unroll
                for (int m = 0; m < MT; m++) {
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        c[m][t][2 * h] = fmaf(c[m][t][2 * h] * scale[m][h], n.x, n.y);
                        c[m][t][2 * h + 1] = fmaf(c[m][t][2 * h + 1] * scale[m][h], n.z, n.w);
                    }
                }
            }
        }
        activate(layer.act);
    }

    template <typename F> __device__ void each(F f) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int t = 0; t < H / 8; t++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    c[m][t][i] = f(c[m][t][i]);
                }
            }
        }
    }

    __device__ void activate(tm_fused_act_t act);

    /* a = c, in fp16 */
    __device__ void pack() {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int k = 0; k < H / 16; k++) {
                a[m][k][0] = tm_mma_pack(c[m][2 * k][0], c[m][2 * k][1]);
                a[m][k][1] = tm_mma_pack(c[m][2 * k][2], c[m][2 * k][3]);
                a[m][k][2] = tm_mma_pack(c[m][2 * k + 1][0], c[m][2 * k + 1][1]);
                a[m][k][3] = tm_mma_pack(c[m][2 * k + 1][2], c[m][2 * k + 1][3]);
            }
        }
    }

    /* a = rows in lane order: row(m, h) says where row g + 8·h of tile m begins */
    template <typename Row> __device__ void load(Row row) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                tm_fused_load_row(a[m], h, row(m, h));
            }
        }
    }

    /* writes a to rows in lane order */
    template <typename Row> __device__ void store(Row row) const {
        const int q = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                __half *begin = row(m, h);
                if (!begin) {
                    continue;
                }
                uint4 *to = (uint4 *)begin + q;
#pragma unroll
                for (int i = 0; i < H / 32; i++) {
                    const uint32_t *even = a[m][2 * i];
                    const uint32_t *odd = a[m][2 * i + 1];
                    to[4 * i] = make_uint4(even[h], even[2 + h], odd[h], odd[2 + h]);
                }
            }
        }
    }

    /* c += rows in lane order */
    template <typename Row> __device__ void add(Row row) {
        const int q = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint4 *from = (const uint4 *)row(m, h) + q;
#pragma unroll
                for (int i = 0; i < H / 32; i++) {
                    uint4 v = from[4 * i];
                    add_word(m, 4 * i, h, v.x);
                    add_word(m, 4 * i + 1, h, v.y);
                    add_word(m, 4 * i + 2, h, v.z);
                    add_word(m, 4 * i + 3, h, v.w);
                }
            }
        }
    }

    __device__ void add_word(int m, int t, int h, uint32_t word) {
        float2 v = tm_mma_unpack(word);
        c[m][t][2 * h] += v.x;
        c[m][t][2 * h + 1] += v.y;
    }

    /* c += a, which still is the operand that the layers began with */
    __device__ void add_operand(const uint32_t (&operand)[MT][H / 16][4]) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int k = 0; k < H / 16; k++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    add_word(m, 2 * k + i / 2, i % 2, operand[m][k][i]);
                }
            }
        }
    }

    /* The dot product of each row: dots[m][h], in all lanes of a row. */
    __device__ void dot(const char *image, const tm_fused_mlp_t &mlp, float (&dots)[MT][2]) const {
        const float2 *w = (const float2 *)(image + mlp.dot);
        const int q = threadIdx.x % 4;
#pragma unroll
        for (int m = 0; m < MT; m++) {
            dots[m][0] = dots[m][1] = 0;
        }
#pragma unroll
        for (int t = 0; t < H / 8; t++) {
            float2 v = w[4 * t + q];
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    dots[m][h] = fmaf(c[m][t][2 * h], v.x, dots[m][h]);
                    dots[m][h] = fmaf(c[m][t][2 * h + 1], v.y, dots[m][h]);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                dots[m][h] += __shfl_xor_sync(TM_GPU_WARP_MASK, dots[m][h], 1);
                dots[m][h] += __shfl_xor_sync(TM_GPU_WARP_MASK, dots[m][h], 2);
                dots[m][h] += mlp.dot_bias;
            }
        }
    }

    /* What follows the first product of an MLP: its norm, and all layers behind it. */
    __device__ void run_rest(const char *image, const tm_fused_mlp_t &mlp) {
        finish(image, mlp.layer[0]);
        for (uint32_t l = 1; l < mlp.n_layers; l++) {
            pack();
            set_bias(image, mlp.layer[l].bias);
            multiply(a, (const uint4 *)(image + mlp.layer[l].w));
            finish(image, mlp.layer[l]);
        }
    }
};

/* x · sigmoid(x) of half of x; exp and the division are the GPU's approximations: relative error 2^-21 or so */
static __device__ inline float tm_fused_silu(float half_x) {
    float x = 2 * half_x;
    return __fdividef(x, 1 + __expf(-x));
}

template <int H, int MT> __device__ inline void tm_fused_rows<H, MT>::activate(tm_fused_act_t act) {
    switch (act) {
    case TM_FUSED_NONE:
        break;
    case TM_FUSED_RELU:
        each([](float v) { return fmaxf(v, 0); });
        break;
    case TM_FUSED_SILU:
        each([](float v) { return fmaf(v, tm_ptx_tanh(v), v); });
        break;
    case TM_FUSED_TANH:
        each([](float v) { return tm_ptx_tanh(v); });
        break;
    case TM_FUSED_SIGMOID:
        each([](float v) { return fmaf(0.5f, tm_ptx_tanh(v), 0.5f); });
        break;
    case TM_FUSED_GELU:
        each([](float v) { return 0.5f * v * (1 + erff(v * 0.70710678f)); });
        break;
    }
}

#endif
