// SPDX-License-Identifier: Apache-2.0
/* The edges whose bit the filter set move together, in their order, and are indexed by target. */
#include <cub/device/device_scan.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include "nn/cuda/fused/stages.cuh"

#define EDGES_PER_WORD 32

struct bits_t {
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    const uint32_t *words;
    __device__ uint32_t operator()(uint32_t i) const {
        uint32_t n = tm_fused_edge_count(counts, capacity);
        return i < (n + EDGES_PER_WORD - 1) / EDGES_PER_WORD ? __popc(words[i]) : 0;
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
    return capacity->edges / EDGES_PER_WORD + 2;
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
    uint32_t bit = edge % EDGES_PER_WORD;
    uint32_t before = places[edge / EDGES_PER_WORD];
    return bit ? before + __popc(words[edge / EDGES_PER_WORD] & ((1u << bit) - 1)) : before;
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
        uint32_t word = words[i / EDGES_PER_WORD];
        if (word >> i % EDGES_PER_WORD & 1) {
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
