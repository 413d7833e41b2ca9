// SPDX-License-Identifier: Apache-2.0
/*
 * The embedding: a block takes 64 points through all layers. Their activations stay in shared memory
 * in fp16; each of the 8 warps computes its eighth of a layer's columns for all 64 points and reads
 * its part of the weights, which no other warp wants, from the L2 cache into registers. Where the
 * layers are narrower a processor holds two blocks, which find each other's weights in its own cache.
 */
#include "nn/cuda/fused/stages.cuh"

#define ROWS 64
#define M_TILES (ROWS / TM_MMA_ROWS)
#define WARPS 8
#define THREADS (WARPS * TM_GPU_WARP)
#define PAD 8 /* halves, so that rows begin in different banks */
#define OUT 16
#define LEAST_NORM 1e-12f

template <int D> struct shared_t {
    __half a[ROWS][D + PAD];
    float squares[WARPS][ROWS];
    float out[ROWS][OUT];
};

/* The choice is made once, not per value: a hundred copies of it would not fit the instruction cache. */
template <int TILES, typename F> static __device__ void each(float (&c)[M_TILES][TILES][4], F f) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int t = 0; t < TILES; t++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                c[m][t][i] = f(c[m][t][i]);
            }
        }
    }
}

template <int TILES>
static __device__ void activate(float (&c)[M_TILES][TILES][4], tm_fused_act_t act) {
    switch (act) {
    case TM_FUSED_NONE:
        break;
    case TM_FUSED_RELU:
        each(c, [](float v) { return fmaxf(v, 0); });
        break;
    case TM_FUSED_SILU:
        each(c, [](float v) { return tm_fused_silu(v); });
        break;
    case TM_FUSED_TANH:
        each(c, [](float v) { return tm_ptx_tanh(v); });
        break;
    case TM_FUSED_SIGMOID:
        each(c, [](float v) { return fmaf(0.5f, tm_ptx_tanh(v), 0.5f); });
        break;
    case TM_FUSED_GELU:
        each(c, [](float v) { return 0.5f * v * (1 + erff(v * 0.70710678f)); });
        break;
    }
}

/* One hidden layer, in place. */
template <int D>
static __device__ void run_layer(shared_t<D> &s, const char *image, const tm_fused_layer_t &layer) {
    constexpr int TILES = D / WARPS / 8; /* of 8 columns, per warp */
    constexpr int PAIRS = TILES / 2;
    constexpr int AHEAD = 2;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const int q = lane % 4;
    const uint4 *w = (const uint4 *)(image + layer.w) + warp * PAIRS * TM_GPU_WARP + lane;
    constexpr int STEP = D / 16 * TM_GPU_WARP; /* uint4 of a k step */
    const float2 *bias = (const float2 *)(image + layer.bias) + warp * TILES * 4 + q;
    float c[M_TILES][TILES][4];
    uint4 b[AHEAD][PAIRS];
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        float2 v = bias[4 * t];
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            c[m][t][0] = c[m][t][2] = v.x;
            c[m][t][1] = c[m][t][3] = v.y;
        }
    }
    const uint32_t steps = layer.k_steps;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
#pragma unroll
        for (int p = 0; p < PAIRS; p++) {
            if (i < (int)steps) {
                b[i][p] = w[(size_t)i * STEP + p * TM_GPU_WARP];
            }
        }
    }
    const __half *rows = &s.a[lane % 16][lane / 16 * 8];
    for (uint32_t k = 0; k < steps; k += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (k + i < steps) {
                uint32_t a[M_TILES][4];
#pragma unroll
                for (int m = 0; m < M_TILES; m++) {
                    tm_ptx_load_matrices(a[m],
                                         rows + m * TM_MMA_ROWS * (D + PAD) + (k + i) * TM_MMA_K);
                }
                uint4 now[PAIRS];
#pragma unroll
                for (int p = 0; p < PAIRS; p++) {
                    now[p] = b[i][p];
                    if (k + i + AHEAD < steps) {
                        b[i][p] = w[(size_t)(k + i + AHEAD) * STEP + p * TM_GPU_WARP];
                    }
                }
#pragma unroll
                for (int p = 0; p < PAIRS; p++) {
#pragma unroll
                    for (int m = 0; m < M_TILES; m++) {
                        tm_mma(c[m][2 * p], a[m], now[p].x, now[p].y);
                        tm_mma(c[m][2 * p + 1], a[m], now[p].z, now[p].w);
                    }
                }
            }
        }
    }
    if (layer.norm) {
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float squares = 0;
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    squares = fmaf(c[m][t][2 * h], c[m][t][2 * h], squares);
                    squares = fmaf(c[m][t][2 * h + 1], c[m][t][2 * h + 1], squares);
                }
                squares += __shfl_xor_sync(TM_GPU_WARP_MASK, squares, 1);
                squares += __shfl_xor_sync(TM_GPU_WARP_MASK, squares, 2);
                if (q == 0) {
                    s.squares[warp][m * TM_MMA_ROWS + h * 8 + g] = squares;
                }
            }
        }
    }
    __syncthreads(); /* squares are there, and nobody reads the activations any more */
    if (layer.norm) {
        const float4 *norm = (const float4 *)(image + layer.norm) + warp * TILES * 4 + q;
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float squares = 0;
#pragma unroll
                for (int i = 0; i < WARPS; i++) {
                    squares += s.squares[i][m * TM_MMA_ROWS + h * 8 + g];
                }
                const float scale = rsqrtf(fmaf(squares, 1.0f / D, layer.eps));
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    c[m][t][2 * h] *= scale;
                    c[m][t][2 * h + 1] *= scale;
                }
            }
        }
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const float4 n = norm[4 * t];
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    c[m][t][2 * h] = fmaf(c[m][t][2 * h], n.x, n.y);
                    c[m][t][2 * h + 1] = fmaf(c[m][t][2 * h + 1], n.z, n.w);
                }
            }
        }
    }
    activate(c, layer.act);
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                *(uint32_t *)&s.a[m * TM_MMA_ROWS + h * 8 + g][(warp * TILES + t) * 8 + 2 * q] =
                    tm_mma_pack(c[m][t][2 * h], c[m][t][2 * h + 1]);
            }
        }
    }
    __syncthreads();
}

/* The last layer: a warp per 16 points, to at most 16 values. */
template <int D>
static __device__ void run_last(shared_t<D> &s, const char *image, const tm_fused_layer_t &layer) {
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    if (warp < M_TILES) {
        const uint4 *w = (const uint4 *)(image + layer.w) + lane;
        const float2 *bias = (const float2 *)(image + layer.bias) + lane % 4;
        float c[2][4];
        for (int t = 0; t < 2; t++) {
            c[t][0] = c[t][2] = bias[4 * t].x;
            c[t][1] = c[t][3] = bias[4 * t].y;
        }
#pragma unroll 8
        for (uint32_t k = 0; k < D / TM_MMA_K; k++) {
            uint32_t a[4];
            uint4 b = w[k * TM_GPU_WARP];
            tm_ptx_load_matrices(
                a, &s.a[warp * TM_MMA_ROWS + lane % 16][k * TM_MMA_K + lane / 16 * 8]);
            tm_mma(c[0], a, b.x, b.y);
            tm_mma(c[1], a, b.z, b.w);
        }
        for (int t = 0; t < 2; t++) {
            for (int i = 0; i < 4; i++) {
                s.out[warp * TM_MMA_ROWS + i / 2 * 8 + lane / 4][8 * t + 2 * (lane % 4) + i % 2] =
                    c[t][i];
            }
        }
    }
    __syncthreads();
}

template <int D>
static __global__ void __launch_bounds__(THREADS, D == 512 ? 1 : 2)
    embed(const tm_fused_mlp_t mlp, tm_fused_counts_t *counts, const float *features,
          uint32_t n_features, const tm_feature_list_t list, uint32_t dim, bool divide,
          float *embedding) {
    extern __shared__ __align__(16) char memory[];
    shared_t<D> &s = *(shared_t<D> *)memory;
    const char *image = (const char *)mlp.image;
    const uint64_t first = (uint64_t)blockIdx.x * ROWS;
    const uint32_t n = counts->n_points;
    if (first >= n) {
        return;
    }
    /* the features in the order in which pack.cu's from_memory takes them, split into hi, lo, hi */
    for (int i = threadIdx.x; i < ROWS * TM_MMA_K; i += THREADS) {
        const int row = i / TM_MMA_K;
        const int p = i % TM_MMA_K;
        const int k = 2 * (p / 4) + p % 2 + 8 * (p % 4 / 2);
        float v = first + row < n && p < (int)list.n
                      ? features[(first + row) * n_features + list.index[p]]
                      : 0;
        __half high = __float2half_rn(v);
        s.a[row][k] = high;
        s.a[row][TM_MMA_K + k] = __float2half_rn(v - __half2float(high));
        s.a[row][2 * TM_MMA_K + k] = high;
    }
    __syncthreads();
    for (uint32_t l = 0; l + 1 < mlp.n_layers; l++) {
        run_layer<D>(s, image, mlp.layer[l]);
    }
    run_last<D>(s, image, mlp.layer[mlp.n_layers - 1]);
    const int row = threadIdx.x;
    if (row < ROWS && first + row < n) {
        float squares = 0;
        for (uint32_t d = 0; d < dim; d++) {
            squares = fmaf(s.out[row][d], s.out[row][d], squares);
        }
        float norm = sqrtf(squares);
        norm = norm > LEAST_NORM ? norm : LEAST_NORM;
        for (uint32_t d = 0; d < dim; d++) {
            embedding[(first + row) * dim + d] = divide ? s.out[row][d] / norm : s.out[row][d];
        }
        if (!isfinite(squares)) {
            atomicMax(&counts->bad_row, ~(uint32_t)(first + row));
        }
    }
}

template <int D>
static cudaError_t launch(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    embed<D>
        <<<tm_gpu_blocks(plan->capacity.points, ROWS), THREADS, sizeof(shared_t<D>), c->stream>>>(
            c->model->embed, &plan->header->counts, plan->row_features, c->pipeline->n_features,
            c->pipeline->embed.features, c->pipeline->embed.mlp.out, c->pipeline->embed.normalize,
            plan->embedding);
    return cudaGetLastError();
}

cudaError_t tm_fused_embed(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    switch (c->model->embed_width) {
    case 128:
        return launch<128>(c, plan);
    case 256:
        return launch<256>(c, plan);
    default:
        return launch<512>(c, plan);
    }
}

size_t tm_fused_embed_bytes(const tm_fused_model_t *model) {
    return model->embed_width == 128   ? sizeof(shared_t<128>)
           : model->embed_width == 256 ? sizeof(shared_t<256>)
                                       : sizeof(shared_t<512>);
}

template <int D> static cudaError_t prepare(void) {
    return cudaFuncSetAttribute(embed<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                sizeof(shared_t<D>));
}

cudaError_t tm_fused_prepare_embed(const tm_fused_model_t *model) {
    return model->embed_width == 128   ? prepare<128>()
           : model->embed_width == 256 ? prepare<256>()
                                       : prepare<512>();
}
