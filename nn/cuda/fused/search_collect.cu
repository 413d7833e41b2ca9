// SPDX-License-Identifier: Apache-2.0
/* Edges by source, sorted by target, from the list in which the search left them. */
#include <cub/device/device_scan.cuh>

#include "nn/cuda/fused/search_parts.cuh"

#define SORT_BLOCK_THREADS 512u
#define WARP_SORT_MAX (8 * TM_GPU_WARP) /* targets of a node that a warp sorts */

/* ---- edges by source ---- */

static __device__ bool all_fit(const tm_fused_search_t &s) {
    return s.counters[TM_SEARCH_FOUND] <= s.capacity.edges &&
           s.counters[TM_SEARCH_ITEMS] <= s.items_max && s.counters[TM_SEARCH_TOO_MANY] == 0;
}

/* Says how many edges there are and puts targets from the list beside their source. Where something
 * does not fit, there are no edges. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    place_listed(const tm_fused_search_t s, const tm_fused_search_input_t in,
                 const tm_fused_edges_t edges) {
    const unsigned long long n = s.counters[TM_SEARCH_FOUND];
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    const bool fit = all_fit(s);
    const bool full = n > s.capacity.edges;
    if (tm_gpu_thread() == 0) {
        in.counts->n_edges = !fit && !full ? 0 : n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
        if (full) {
            atomicOr(&in.counts->flags, (uint32_t)TM_FUSED_EDGES_FULL);
        }
        if (s.counters[TM_SEARCH_ITEMS] > s.items_max || s.counters[TM_SEARCH_TOO_MANY]) {
            atomicOr(&in.counts->flags, (uint32_t)TM_FUSED_DEGREE_FULL);
        }
    }
    if (!fit) {
        for (uint64_t i = tm_gpu_thread(); i < s.capacity.edges; i += step) {
            edges.src[i] = 0;
            edges.dst[i] = 0;
        }
        for (uint64_t i = tm_gpu_thread(); i <= s.capacity.points; i += step) {
            edges.offsets[i] = 0;
        }
        return;
    }
    const unsigned long long listed = s.counters[TM_SEARCH_LISTED];
    for (uint64_t i = tm_gpu_thread(); i < listed; i += step) {
        const uint64_t edge = s.list[i];
        const uint32_t rank = (uint32_t)edge & TM_SEARCH_RANK_MAX;
        const uint32_t target = (uint32_t)(edge >> TM_SEARCH_RANK_BITS) & TM_SEARCH_ROW_MASK;
        const uint32_t source = (uint32_t)(edge >> (TM_SEARCH_RANK_BITS + TM_FUSED_ROW_BITS));
        s.more_targets[edges.offsets[source] + rank] = target;
    }
}

static __device__ uint32_t target_of(const tm_fused_search_t &s, uint32_t node, uint32_t first,
                                     uint32_t rank) {
    return rank < TM_SEARCH_SLOTS ? s.targets[(size_t)node * TM_SEARCH_SLOTS + rank]
                                  : s.more_targets[first + rank];
}

/* Bitonic sort of 32 N values of a warp; value e of lane l is number 32 e + l. */
template <int N> static __device__ void sort_warp(uint32_t (&v)[N]) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
#pragma unroll
    for (uint32_t k = 2; k <= 32 * N; k *= 2) {
#pragma unroll
        for (uint32_t j = k / 2; j > 0; j /= 2) {
            if (j >= TM_GPU_WARP) {
#pragma unroll
                for (uint32_t e = 0; e < N; e++) {
                    const uint32_t other = e ^ (j / TM_GPU_WARP);
                    if (other > e) {
                        const bool up = (e * TM_GPU_WARP & k) == 0;
                        const uint32_t least = min(v[e], v[other]);
                        const uint32_t most = max(v[e], v[other]);
                        v[e] = up ? least : most;
                        v[other] = up ? most : least;
                    }
                }
            } else {
#pragma unroll
                for (uint32_t e = 0; e < N; e++) {
                    const uint32_t at = e * TM_GPU_WARP + lane;
                    const uint32_t other = __shfl_xor_sync(TM_GPU_WARP_MASK, v[e], j);
                    v[e] = ((at & j) == 0) == ((at & k) == 0) ? min(v[e], other) : max(v[e], other);
                }
            }
        }
    }
}

template <int N>
static __device__ void sort_node(const tm_fused_search_t &s, const tm_fused_edges_t &edges,
                                 uint32_t node, uint32_t first, uint32_t count) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    uint32_t v[N];
#pragma unroll
    for (uint32_t e = 0; e < N; e++) {
        const uint32_t i = e * TM_GPU_WARP + lane;
        v[e] = i < count ? target_of(s, node, first, i) : UINT32_MAX;
    }
    sort_warp<N>(v);
#pragma unroll
    for (uint32_t e = 0; e < N; e++) {
        const uint32_t i = e * TM_GPU_WARP + lane;
        if (i < count) {
            edges.dst[first + i] = v[e];
            edges.src[first + i] = node;
        }
    }
}

/* A warp per node at a time. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    sort_nodes(const tm_fused_search_t s, const tm_fused_search_input_t in,
               const tm_fused_edges_t edges) {
    if (!all_fit(s)) {
        return;
    }
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint64_t warps = (uint64_t)gridDim.x * (TM_GPU_THREADS / TM_GPU_WARP);
    const uint32_t n = in.counts->n_points;
    for (uint64_t node = tm_gpu_thread() / TM_GPU_WARP; node < n; node += warps) {
        const uint32_t first = edges.offsets[node];
        const uint32_t count = edges.offsets[node + 1] - first;
        if (count == 0) {
            continue;
        }
        if (count <= 32) {
            sort_node<1>(s, edges, (uint32_t)node, first, count);
        } else if (count <= 64) {
            sort_node<2>(s, edges, (uint32_t)node, first, count);
        } else if (count <= 128) {
            sort_node<4>(s, edges, (uint32_t)node, first, count);
        } else if (count <= WARP_SORT_MAX) {
            sort_node<8>(s, edges, (uint32_t)node, first, count);
        } else if (lane == 0) {
            s.large_nodes[atomicAdd(&s.counters[TM_SEARCH_LARGE_NODES], 1ull)] = (uint32_t)node;
        }
    }
}

/* A block per node with many edges. */
static __global__ void __launch_bounds__(SORT_BLOCK_THREADS)
    sort_large_nodes(const tm_fused_search_t s, const tm_fused_edges_t edges) {
    __shared__ uint32_t v[TM_FUSED_DEGREE_MAX];
    if (!all_fit(s)) {
        return;
    }
    for (unsigned long long i = blockIdx.x; i < s.counters[TM_SEARCH_LARGE_NODES]; i += gridDim.x) {
        const uint32_t node = s.large_nodes[i];
        const uint32_t first = edges.offsets[node];
        const uint32_t count = edges.offsets[node + 1] - first;
        uint32_t length = WARP_SORT_MAX;
        while (length < count) {
            length *= 2;
        }
        __syncthreads(); /* the node before is written */
        for (uint32_t k = threadIdx.x; k < length; k += SORT_BLOCK_THREADS) {
            v[k] = k < count ? target_of(s, node, first, k) : UINT32_MAX;
        }
        for (uint32_t k = 2; k <= length; k *= 2) {
            for (uint32_t j = k / 2; j > 0; j /= 2) {
                __syncthreads();
                for (uint32_t p = threadIdx.x; p < length / 2; p += SORT_BLOCK_THREADS) {
                    const uint32_t low = 2 * p - (p & (j - 1));
                    const uint32_t a = v[low];
                    const uint32_t b = v[low + j];
                    const bool up = (low & k) == 0;
                    v[low] = up ? min(a, b) : max(a, b);
                    v[low + j] = up ? max(a, b) : min(a, b);
                }
            }
        }
        __syncthreads();
        for (uint32_t k = threadIdx.x; k < count; k += SORT_BLOCK_THREADS) {
            edges.dst[first + k] = v[k];
            edges.src[first + k] = node;
        }
    }
}

/* ---- launches ---- */

cudaError_t tm_fused_collect_cub_bytes(uint32_t capacity, size_t *bytes) {
    *bytes = 0;
    return cub::DeviceScan::ExclusiveSum(NULL, *bytes, (const uint32_t *)NULL, (uint32_t *)NULL,
                                         (int64_t)capacity + 1);
}

cudaError_t tm_fused_search_collect(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                    const tm_fused_edges_t *edges, cudaStream_t stream) {
    const unsigned blocks = (unsigned)s->processors * TM_SEARCH_BLOCKS_PER_PROCESSOR;
    if (s->capacity.tiles == 0) {
        return cudaMemsetAsync(edges->offsets, 0, sizeof *edges->offsets, stream);
    }
    size_t bytes = s->cub_bytes;
    cudaError_t error = cub::DeviceScan::ExclusiveSum(s->cub, bytes, s->degrees, edges->offsets,
                                                      (int64_t)s->capacity.points + 1, stream);
    if (error != cudaSuccess) {
        return error;
    }
    place_listed<<<blocks, TM_GPU_THREADS, 0, stream>>>(*s, *in, *edges);
    sort_nodes<<<blocks, TM_GPU_THREADS, 0, stream>>>(*s, *in, *edges);
    sort_large_nodes<<<(unsigned)s->processors, SORT_BLOCK_THREADS, 0, stream>>>(*s, *edges);
    return cudaGetLastError();
}
