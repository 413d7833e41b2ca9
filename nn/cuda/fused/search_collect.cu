// SPDX-License-Identifier: Apache-2.0
/*
 * Edges by source, sorted by target, from where the search left them: one cooperative kernel. A warp
 * sorts the targets of four nodes at a time if none has many, those of one otherwise; what a node has
 * beyond its slots lies in a list and is put beside it first.
 */
#include "nn/cuda/fused/grid.cuh"
#include "nn/cuda/fused/search_parts.cuh"

namespace cg = cooperative_groups;

#define NODES_AT_ONCE 4u
#define WARP_SORT_MAX (8 * TM_GPU_WARP) /* targets of a node that a warp sorts */

typedef struct {
    tm_fused_search_t s;
    tm_fused_counts_t *counts;
    tm_fused_edges_t edges;
} collect_t;

/* Says how many edges there are. Where something does not fit, there are none: false. */
static __device__ bool all_fit(const collect_t &t) {
    const tm_fused_search_t &s = t.s;
    const unsigned long long n = s.counters[TM_SEARCH_FOUND];
    const uint64_t step = (uint64_t)gridDim.x * TM_GRID_THREADS;
    const bool edges_full = n > s.capacity.edges;
    const bool others_full =
        s.counters[TM_SEARCH_ITEMS] > s.items_max || s.counters[TM_SEARCH_TOO_MANY];
    if (tm_gpu_thread() == 0) {
        t.counts->n_edges = others_full && !edges_full ? 0
                            : n < UINT32_MAX           ? (uint32_t)n
                                                       : UINT32_MAX;
        if (edges_full) {
            atomicOr(&t.counts->flags, (uint32_t)TM_FUSED_EDGES_FULL);
        }
        if (others_full) {
            atomicOr(&t.counts->flags, (uint32_t)TM_FUSED_DEGREE_FULL);
        }
    }
    if (!edges_full && !others_full) {
        return true;
    }
    for (uint64_t i = tm_gpu_thread(); i < s.capacity.edges; i += step) {
        t.edges.src[i] = 0;
        t.edges.dst[i] = 0;
    }
    for (uint64_t i = tm_gpu_thread(); i <= s.capacity.points; i += step) {
        t.edges.offsets[i] = 0;
    }
    return false;
}

/* Targets from the list, beside their source. */
static __device__ void place_listed(const collect_t &t, unsigned long long listed) {
    for (uint64_t i = tm_gpu_thread(); i < listed; i += (uint64_t)gridDim.x * TM_GRID_THREADS) {
        const uint64_t edge = t.s.list[i];
        const uint32_t rank = (uint32_t)edge & TM_SEARCH_RANK_MAX;
        const uint32_t target = (uint32_t)(edge >> TM_SEARCH_RANK_BITS) & TM_SEARCH_ROW_MASK;
        const uint32_t source = (uint32_t)(edge >> (TM_SEARCH_RANK_BITS + TM_FUSED_ROW_BITS));
        t.s.more_targets[t.edges.offsets[source] + rank] = target;
    }
}

static __device__ uint32_t target_of(const collect_t &t, uint32_t node, uint32_t first,
                                     uint32_t rank) {
    return rank < TM_SEARCH_SLOTS ? t.s.targets[(size_t)node * TM_SEARCH_SLOTS + rank]
                                  : t.s.more_targets[first + rank];
}

/* ---- a warp's sorts ---- */

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

/* NODES nodes from `node` on, whose edges begin at first[k] and are at most 32 N. */
template <int NODES, int N>
static __device__ void sort_nodes(const collect_t &t, uint32_t node, const uint32_t *first,
                                  const uint32_t *count) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    uint32_t v[NODES][N];
#pragma unroll
    for (uint32_t k = 0; k < NODES; k++) {
#pragma unroll
        for (uint32_t e = 0; e < N; e++) {
            const uint32_t i = e * TM_GPU_WARP + lane;
            v[k][e] = i < count[k] ? target_of(t, node + k, first[k], i) : UINT32_MAX;
        }
    }
#pragma unroll
    for (uint32_t k = 0; k < NODES; k++) {
        sort_warp<N>(v[k]);
    }
#pragma unroll
    for (uint32_t k = 0; k < NODES; k++) {
#pragma unroll
        for (uint32_t e = 0; e < N; e++) {
            const uint32_t i = e * TM_GPU_WARP + lane;
            if (i < count[k]) {
                t.edges.dst[first[k] + i] = v[k][e];
                t.edges.src[first[k] + i] = node + k;
            }
        }
    }
}

/* All nodes, but of those with more targets than slots only the numbers. */
static __device__ void sort_most(const collect_t &t, uint32_t n) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t warps = gridDim.x * TM_GRID_WARPS;
    for (uint32_t node = (uint32_t)(tm_gpu_thread() / TM_GPU_WARP) * NODES_AT_ONCE; node < n;
         node += warps * NODES_AT_ONCE) {
        const uint32_t own = t.edges.offsets[min(node + min(lane, NODES_AT_ONCE), n)];
        uint32_t first[NODES_AT_ONCE];
        uint32_t count[NODES_AT_ONCE];
        uint32_t most = 0;
#pragma unroll
        for (uint32_t k = 0; k < NODES_AT_ONCE; k++) {
            first[k] = __shfl_sync(TM_GPU_WARP_MASK, own, k);
            count[k] = __shfl_sync(TM_GPU_WARP_MASK, own, k + 1) - first[k];
            most = max(most, count[k]);
        }
        if (most <= TM_GPU_WARP) {
            sort_nodes<NODES_AT_ONCE, 1>(t, node, first, count);
        } else if (most <= 2 * TM_GPU_WARP) {
            sort_nodes<NODES_AT_ONCE, 2>(t, node, first, count);
        } else {
#pragma unroll
            for (uint32_t k = 0; k < NODES_AT_ONCE; k++) {
                if (count[k] <= TM_GPU_WARP) {
                    sort_nodes<1, 1>(t, node + k, first + k, count + k);
                } else if (count[k] <= TM_SEARCH_SLOTS) {
                    sort_nodes<1, TM_SEARCH_SLOTS / TM_GPU_WARP>(t, node + k, first + k, count + k);
                } else if (lane == 0) {
                    t.s.large_nodes[atomicAdd(&t.s.counters[TM_SEARCH_LARGE_NODES], 1ull)] =
                        node + k;
                }
            }
        }
    }
}

/* ---- nodes with many edges ---- */

/* A block sorts the targets of a node in shared memory. */
static __device__ void sort_large(const collect_t &t, uint32_t *v, uint32_t node, uint32_t first,
                                  uint32_t count) {
    uint32_t length = WARP_SORT_MAX;
    while (length < count) {
        length *= 2;
    }
    __syncthreads(); /* the node before is written */
    for (uint32_t k = threadIdx.x; k < length; k += TM_GRID_THREADS) {
        v[k] = k < count ? target_of(t, node, first, k) : UINT32_MAX;
    }
    for (uint32_t k = 2; k <= length; k *= 2) {
        for (uint32_t j = k / 2; j > 0; j /= 2) {
            __syncthreads();
            for (uint32_t p = threadIdx.x; p < length / 2; p += TM_GRID_THREADS) {
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
    for (uint32_t k = threadIdx.x; k < count; k += TM_GRID_THREADS) {
        t.edges.dst[first + k] = v[k];
        t.edges.src[first + k] = node;
    }
}

static __device__ void sort_rest(const collect_t &t, uint32_t n_large) {
    __shared__ uint32_t v[TM_FUSED_DEGREE_MAX];
    for (uint32_t i = (uint32_t)(tm_gpu_thread() / TM_GPU_WARP); i < n_large;
         i += gridDim.x * TM_GRID_WARPS) {
        const uint32_t node = t.s.large_nodes[i];
        const uint32_t first = t.edges.offsets[node];
        const uint32_t count = t.edges.offsets[node + 1] - first;
        if (count <= WARP_SORT_MAX) {
            sort_nodes<1, WARP_SORT_MAX / TM_GPU_WARP>(t, node, &first, &count);
        }
    }
    for (uint32_t i = blockIdx.x; i < n_large; i += gridDim.x) {
        const uint32_t node = t.s.large_nodes[i];
        const uint32_t first = t.edges.offsets[node];
        const uint32_t count = t.edges.offsets[node + 1] - first;
        if (count > WARP_SORT_MAX) {
            sort_large(t, v, node, first, count);
        }
    }
}

/* ---- the stage ---- */

static __global__ void __launch_bounds__(TM_GRID_THREADS, TM_GRID_BLOCKS_PER_PROCESSOR)
    collect(const collect_t t) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = t.counts->n_points;
    const unsigned long long listed = t.s.counters[TM_SEARCH_LISTED];
    const auto degree = [&t](uint32_t i) { return t.s.degrees[i]; };
    if (!all_fit(t)) {
        return;
    }
    tm_grid_add_up(n, t.s.block_sums, degree);
    grid.sync();
    const uint32_t n_edges =
        tm_grid_prefix(n, t.s.block_sums, degree,
                       [&t](uint32_t i, uint32_t before) { t.edges.offsets[i] = before; });
    if (tm_gpu_thread() == 0) {
        t.edges.offsets[n] = n_edges;
    }
    grid.sync();
    place_listed(t, listed);
    sort_most(t, n);
    if (listed == 0) {
        return; /* all found room in their slots */
    }
    grid.sync();
    sort_rest(t, (uint32_t)t.s.counters[TM_SEARCH_LARGE_NODES]);
}

cudaError_t tm_fused_search_collect(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                    const tm_fused_edges_t *edges, cudaStream_t stream) {
    if (s->capacity.tiles == 0) {
        return cudaMemsetAsync(edges->offsets, 0, sizeof *edges->offsets, stream);
    }
    collect_t t = {.s = *s, .counts = in->counts, .edges = *edges};
    void *arguments[] = {&t};
    return cudaLaunchCooperativeKernel((const void *)collect, dim3(tm_grid_blocks(s->processors)),
                                       dim3(TM_GRID_THREADS), arguments, 0, stream);
}
