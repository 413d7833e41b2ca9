// SPDX-License-Identifier: Apache-2.0
/*
 * The filter: a warp takes 32 edges through all layers in registers and writes one bit for each. Then
 * the edges whose bit is set move together, in their order, and are indexed by target.
 */
#include <cub/device/device_scan.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include "nn/cuda/fused/edges.cuh"

#define EDGES_PER_WARP 32
#define M_TILES (EDGES_PER_WARP / TM_MMA_ROWS)
#define WARPS 8
#define THREADS (WARPS * TM_GPU_WARP)

typedef struct {
    __half x[EDGES_PER_WARP][TM_FUSED_FEATURES_MAX];
} staged_t;

typedef struct {
    tm_fused_mlp_t mlp;
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    tm_gpu_edge_features_t list;
    const float4 *place;
    const __half *x;
    const uint32_t *src, *dst;
    double least;
    uint32_t *words;
} filter_t;

template <int H> static __global__ void __launch_bounds__(THREADS, 1) filter(const filter_t f) {
    extern __shared__ __align__(16) char memory[];
    const char *image = memory;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const int q = lane % 4;
    staged_t *staged = (staged_t *)(memory + f.mlp.bytes) + warp;
    tm_fused_load_image((uint4 *)memory, f.mlp);
    __syncthreads();
    const uint32_t n = tm_fused_edge_count(f.counts, f.capacity);
    const uint4 *w = (const uint4 *)(image + f.mlp.layer[0].w);
    constexpr int STEP = H / 16 * TM_GPU_WARP;
    for (uint64_t first = ((uint64_t)blockIdx.x * WARPS + warp) * EDGES_PER_WARP; first < n;
         first += (uint64_t)gridDim.x * WARPS * EDGES_PER_WARP) {
        const uint64_t edge = first + lane < n ? first + lane : n - 1;
        const uint32_t a = f.src[edge];
        const uint32_t b = f.dst[edge];
        tm_fused_edge_features(f.list, f.place[a], f.place[b], staged->x[lane], NULL);
        __syncwarp();
        tm_fused_rows<H, M_TILES> rows;
        rows.set_bias(image, f.mlp.layer[0].bias);
#pragma unroll
        for (int k = 0; k < 3; k++) {
            uint32_t operand[M_TILES][4];
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int row = m * TM_MMA_ROWS + h * 8 + g;
                    const uint32_t node = __shfl_sync(TM_GPU_WARP_MASK, k == 0 ? a : b, row);
                    const uint2 v =
                        k < 2 ? ((const uint2 *)(f.x + (size_t)node * TM_FUSED_FEATURES_MAX))[q]
                              : ((const uint2 *)staged->x[row])[q];
                    operand[m][h] = v.x;
                    operand[m][2 + h] = v.y;
                }
            }
            rows.step(operand, w + k * STEP);
        }
        __syncwarp(); /* the next edges overwrite what was staged */
        rows.run_rest(image, f.mlp);
        float dots[M_TILES][2];
        rows.dot(image, f.mlp, dots);
        /* lane 4·g + q takes row 8·q + g, then lane i gets row i */
        const float mine = q == 0   ? dots[0][0]
                           : q == 1 ? dots[0][1]
                           : q == 2 ? dots[1][0]
                                    : dots[1][1];
        const float logit = __shfl_sync(TM_GPU_WARP_MASK, mine, lane % 8 * 4 + lane / 8);
        const bool keep = first + lane < n && (double)logit > f.least;
        const uint32_t word = __ballot_sync(TM_GPU_WARP_MASK, keep);
        if (lane == 0) {
            f.words[first / EDGES_PER_WARP] = word;
        }
    }
}

size_t tm_fused_filter_bytes(const tm_fused_model_t *model) {
    return model->filter.bytes + WARPS * sizeof(staged_t);
}

template <int H>
static cudaError_t launch(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    filter_t f = {.mlp = c->model->filter,
                  .counts = &plan->header->counts,
                  .capacity = plan->capacity.edges,
                  .list = {},
                  .place = plan->node_place,
                  .x = plan->filter_x,
                  .src = plan->edges.src,
                  .dst = plan->edges.dst,
                  .least = tm_gpu_least_logit(c->pipeline->filter.cut),
                  .words = plan->keep_words};
    tm_gpu_edge_features_of(c->pipeline, &f.list);
    filter<H><<<c->processors, THREADS, tm_fused_filter_bytes(c->model), c->stream>>>(f);
    return cudaGetLastError();
}

/* Without a filter all edges stay. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    keep_all(const tm_fused_counts_t *counts, uint32_t capacity, uint32_t *words) {
    const uint32_t n = tm_fused_edge_count(counts, capacity);
    for (uint64_t i = tm_gpu_thread() * EDGES_PER_WARP; i < n;
         i += (uint64_t)gridDim.x * blockDim.x * EDGES_PER_WARP) {
        words[i / EDGES_PER_WARP] = n - i < EDGES_PER_WARP ? (1u << (n - i)) - 1 : TM_GPU_WARP_MASK;
    }
}

cudaError_t tm_fused_filter(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    if (c->model->filter_width == 0) {
        keep_all<<<c->processors, TM_GPU_THREADS, 0, c->stream>>>(
            &plan->header->counts, plan->capacity.edges, plan->keep_words);
        return cudaGetLastError();
    }
    return c->model->filter_width == 64 ? launch<64>(c, plan) : launch<128>(c, plan);
}

cudaError_t tm_fused_prepare_filter(const tm_fused_model_t *model) {
    if (model->filter_width == 0) {
        return cudaSuccess;
    }
    return model->filter_width == 64
               ? cudaFuncSetAttribute(filter<64>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)tm_fused_filter_bytes(model))
               : cudaFuncSetAttribute(filter<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)tm_fused_filter_bytes(model));
}
