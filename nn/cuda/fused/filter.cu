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

/* ---- the edges that stay ---- */

struct bits_t {
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    const uint32_t *words;
    __device__ uint32_t operator()(uint32_t i) const {
        uint32_t n = tm_fused_edge_count(counts, capacity);
        return i < (n + EDGES_PER_WARP - 1) / EDGES_PER_WARP ? __popc(words[i]) : 0;
    }
};

struct degree_t {
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    const uint32_t *degrees;
    __device__ uint32_t operator()(uint32_t i) const {
        /* where edges did not all fit there are no lists */
        return i < counts->n_points && counts->n_kept <= capacity ? degrees[i] : 0;
    }
};

template <typename F>
static cudaError_t scan(void *memory, size_t &bytes, F f, uint32_t *out, uint32_t n,
                        cudaStream_t stream) {
    auto in = thrust::make_transform_iterator(thrust::make_counting_iterator(0u), f);
    return cub::DeviceScan::ExclusiveSum(memory, bytes, in, out, n, stream);
}

static uint32_t word_count(const tm_fused_capacity_t *capacity) {
    return capacity->edges / EDGES_PER_WARP + 2;
}

size_t tm_fused_keep_cub_bytes(const tm_fused_capacity_t *capacity) {
    size_t a = 0;
    size_t b = 0;
    (void)scan(NULL, a, bits_t{}, NULL, word_count(capacity), NULL);
    (void)scan(NULL, b, degree_t{}, NULL, capacity->points + 1, NULL);
    return a > b ? a : b;
}

static __device__ uint32_t kept_before(uint32_t edge, const uint32_t *words,
                                       const uint32_t *places) {
    uint32_t bit = edge % EDGES_PER_WARP;
    uint32_t before = places[edge / EDGES_PER_WARP];
    return bit ? before + __popc(words[edge / EDGES_PER_WARP] & ((1u << bit) - 1)) : before;
}

/* dst_counts: zeroed, [points] */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    compact(tm_fused_counts_t *counts, uint32_t edge_capacity, uint32_t kept_capacity,
            const uint32_t *words, const uint32_t *places, const tm_fused_edges_t edges,
            tm_fused_edges_t kept, uint32_t *dst_counts) {
    const uint32_t n = tm_fused_edge_count(counts, edge_capacity);
    const uint32_t n_points = counts->n_points;
    const uint32_t stride = gridDim.x * blockDim.x;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        uint32_t word = words[i / EDGES_PER_WARP];
        if (word >> i % EDGES_PER_WARP & 1) {
            uint32_t at = kept_before(i, words, places);
            if (at < kept_capacity) {
                uint32_t to = edges.dst[i];
                kept.src[at] = edges.src[i];
                kept.dst[at] = to;
                atomicAdd(&dst_counts[to], 1u);
            }
        }
    }
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i <= n_points; i += stride) {
        uint32_t begin = edges.offsets[i] < n ? edges.offsets[i] : n;
        uint32_t before = kept_before(begin, words, places);
        kept.offsets[i] = before < kept_capacity ? before : kept_capacity;
        if (i == n_points) {
            counts->n_kept = before;
            if (before > kept_capacity) {
                atomicOr(&counts->flags, TM_FUSED_KEPT_FULL);
            }
        }
    }
}

/* Puts every edge into the list of its target, in any order; counts go back to 0. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    scatter(const tm_fused_counts_t *counts, uint32_t capacity, const uint32_t *dst,
            const uint32_t *dst_offsets, uint32_t *dst_counts, uint32_t *unsorted) {
    const uint32_t n = tm_fused_kept_count(counts, capacity);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint32_t to = dst[i];
        unsorted[dst_offsets[to] + atomicSub(&dst_counts[to], 1u) - 1] = i;
    }
}

/* Orders each list: an edge's place is the number of lower ones. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    order_lists(const tm_fused_counts_t *counts, uint32_t capacity, const uint32_t *dst,
                const uint32_t *dst_offsets, const uint32_t *unsorted, uint32_t *by_dst) {
    const uint32_t n = tm_fused_kept_count(counts, capacity);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        uint32_t edge = unsorted[i];
        uint32_t to = dst[edge];
        uint32_t begin = dst_offsets[to];
        uint32_t end = dst_offsets[to + 1];
        uint32_t lower = 0;
        for (uint32_t k = begin; k < end; k++) {
            lower += unsorted[k] < edge;
        }
        by_dst[begin + lower] = edge;
    }
}

cudaError_t tm_fused_keep(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_fused_counts_t *counts = &plan->header->counts;
    const tm_fused_capacity_t *capacity = &plan->capacity;
    size_t bytes = plan->cub_bytes;
    const int blocks = 4 * c->processors;
    cudaError_t error = cudaMemsetAsync(
        plan->dst_counts, 0, ((size_t)capacity->points + 1) * sizeof(uint32_t), c->stream);
    if (error == cudaSuccess) {
        error = scan(plan->cub, bytes, bits_t{counts, capacity->edges, plan->keep_words},
                     plan->keep_places, word_count(capacity), c->stream);
    }
    if (error == cudaSuccess) {
        compact<<<blocks, TM_GPU_THREADS, 0, c->stream>>>(
            &plan->header->counts, capacity->edges, capacity->kept, plan->keep_words,
            plan->keep_places, plan->edges, plan->kept, plan->dst_counts);
        error = cudaGetLastError();
    }
    bytes = plan->cub_bytes;
    if (error == cudaSuccess) {
        error = scan(plan->cub, bytes, degree_t{counts, capacity->kept, plan->dst_counts},
                     plan->dst_offsets, capacity->points + 1, c->stream);
    }
    if (error == cudaSuccess) {
        scatter<<<blocks, TM_GPU_THREADS, 0, c->stream>>>(counts, capacity->kept, plan->kept.dst,
                                                          plan->dst_offsets, plan->dst_counts,
                                                          plan->dst_unsorted);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess) {
        order_lists<<<blocks, TM_GPU_THREADS, 0, c->stream>>>(counts, capacity->kept,
                                                              plan->kept.dst, plan->dst_offsets,
                                                              plan->dst_unsorted, plan->by_dst);
        error = cudaGetLastError();
    }
    return error;
}
