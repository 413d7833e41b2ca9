// SPDX-License-Identifier: Apache-2.0
/*
 * From logits to track candidates in one cooperative kernel: its blocks run all at once and wait for
 * each other between the phases. Rules and result are those of nn/cuda/tracks.cu; components and
 * tracks are numbered by row.
 */
#include <cooperative_groups.h>
#include <cub/block/block_scan.cuh>

#include "nn/cuda/components.cuh"
#include "nn/cuda/fused/stages.cuh"

namespace cg = cooperative_groups;

#define THREADS 512
#define BLOCKS_PER_PROCESSOR 2
#define HELD 4 /* edges of a thread in registers, or on their way at once */
#define HASTY_ROUNDS 2

typedef unsigned long long u64_t;

typedef struct {
    tm_fused_counts_t *counts;
    uint32_t capacity; /* kept edges */
    bool best_edges;
    uint32_t min_points;
    double least;
    const uint32_t *src, *dst, *order;
    const float *logits, *rho;
    u64_t *best;     /* [2][2][capacity.points]: out and in, for even and odd rounds */
    uint32_t points; /* capacity */
    uint8_t *edge_states;
    uint8_t *has_edge; /* [2][points]: out and in */
    uint32_t *parent, *labels, *sizes, *edge_counts;
    u64_t *sums;
    uint32_t *numbers, *places, *block_sums, *members;
    uint32_t *offsets, *indices;
    float *scores;
    uint32_t *link_src, *link_dst; /* NULL: no links are asked for */
    float *link_logits;
} tracks_t;

/* An edge of a thread while it is in question. The first few of a thread's stay in registers. */
typedef struct {
    uint32_t src, dst;
    float logit;
    bool candidate;
} edge_t;

static __device__ edge_t read_edge(const tracks_t &t, uint32_t i, uint32_t m) {
    edge_t e = {};
    if (i < m) {
        e = {t.src[i], t.dst[i], t.logits[i], t.edge_states[i] == TM_GPU_EDGE_CANDIDATE};
    }
    return e;
}

/* Whether the edge is still in question: then it stands for election at both ends. */
static __device__ bool stand(const tracks_t &t, u64_t *best_out, u64_t *best_in, uint32_t i,
                             edge_t *e) {
    if (!e->candidate) {
        return false;
    }
    if (t.has_edge[e->src] || t.has_edge[t.points + e->dst]) {
        t.edge_states[i] = TM_GPU_EDGE_DROPPED;
        e->candidate = false;
        return false;
    }
    const u64_t key = tm_gpu_edge_key(e->logit, i);
    atomicMax(&best_out[e->src], key);
    atomicMax(&best_in[e->dst], key);
    return true;
}

static __device__ void take_if_best(const tracks_t &t, const u64_t *best_out, const u64_t *best_in,
                                    uint32_t i, edge_t *e) {
    if (e->candidate) {
        const u64_t key = tm_gpu_edge_key(e->logit, i);
        if (best_out[e->src] == key && best_in[e->dst] == key) {
            t.edge_states[i] = TM_GPU_EDGE_TAKEN;
            t.has_edge[e->src] = 1;
            t.has_edge[t.points + e->dst] = 1;
            e->candidate = false;
        }
    }
}

/* Rounds of mutual best edges, until none is left. Each round takes the best of all that are left. */
static __device__ void take_best_edges(const tracks_t &t, uint32_t n, uint32_t m,
                                       cg::grid_group grid) {
    const uint32_t first = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t stride = gridDim.x * THREADS;
    edge_t held[HELD];
#pragma unroll
    for (uint32_t k = 0; k < HELD; k++) {
        held[k] = read_edge(t, first + k * stride, m);
    }
    for (uint32_t round = 0;; round++) {
        u64_t *best_out = t.best + (size_t)(round % 2) * 2 * t.points;
        u64_t *best_in = best_out + t.points;
        u64_t *next = t.best + (size_t)((round + 1) % 2) * 2 * t.points;
        bool left = false;
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            left |= stand(t, best_out, best_in, first + k * stride, &held[k]);
        }
        for (uint32_t i = first + HELD * stride; i < m; i += stride) {
            edge_t e = read_edge(t, i, m);
            left |= stand(t, best_out, best_in, i, &e);
        }
        for (uint32_t i = first; i < n; i += stride) {
            next[i] = 0;
            next[t.points + i] = 0;
        }
        if (first == 0) {
            t.counts->taken[(round + 1) % 3] = 0;
        }
        if (__syncthreads_or(left) && threadIdx.x == 0) {
            atomicOr(&t.counts->taken[round % 3], 1u);
        }
        grid.sync();
        if (*(volatile uint32_t *)&t.counts->taken[round % 3] == 0) {
            break;
        }
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            take_if_best(t, best_out, best_in, first + k * stride, &held[k]);
        }
        for (uint32_t i = first + HELD * stride; i < m; i += stride) {
            edge_t e = read_edge(t, i, m);
            take_if_best(t, best_out, best_in, i, &e);
        }
        grid.sync();
    }
}

static __device__ bool is_taken(const tracks_t &t, uint32_t i) {
    return t.best_edges ? t.edge_states[i] == TM_GPU_EDGE_TAKEN : (double)t.logits[i] > t.least;
}

/* Calls f(a, b) with the rows that each taken edge joins. What is to be read of several edges of a thread is on
 * its way at once. */
template <typename F> static __device__ void for_taken_edges(const tracks_t &t, uint32_t m, F f) {
    const uint32_t stride = gridDim.x * THREADS;
    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < m; i += HELD * stride) {
        uint32_t a[HELD];
        uint32_t b[HELD];
        uint32_t above_a[HELD];
        uint32_t above_b[HELD];
        bool taken[HELD];
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            const uint32_t edge = i + k * stride;
            taken[k] = edge < m && is_taken(t, edge);
            a[k] = taken[k] ? t.order[t.src[edge]] : 0;
            b[k] = taken[k] ? t.order[t.dst[edge]] : 0;
        }
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            const volatile uint32_t *parent = t.parent;
            above_a[k] = parent[a[k]];
            above_b[k] = parent[b[k]];
        }
#pragma unroll
        for (uint32_t k = 0; k < HELD; k++) {
            if (taken[k] && above_a[k] != above_b[k]) {
                f(above_a[k], above_b[k]);
            }
        }
    }
}

/* Union-find over the edges taken. Most edges of a track join what others have joined, and threads that put
 * one root under another get into each other's way. So at first each row goes under the least of those above
 * its neighbours, twice: only the least of what threads say at once counts, nobody waits, and some edges are
 * forgotten. Then all edges are gone through as they should be, and hardly any joins something. */
static __device__ void join_edges(const tracks_t &t, uint32_t n, uint32_t m, cg::grid_group grid) {
    for (int round = 0; round < HASTY_ROUNDS; round++) {
        for_taken_edges(
            t, m, [&t](uint32_t a, uint32_t b) { atomicMin(&t.parent[max(a, b)], min(a, b)); });
        grid.sync();
        for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) {
            const uint32_t root = tm_gpu_find_root(t.parent, i);
            t.parent[i] = root;
        }
        grid.sync();
    }
    for_taken_edges(t, m, [&t](uint32_t a, uint32_t b) { tm_gpu_join(t.parent, a, b); });
    grid.sync();
}

static __device__ bool is_track(const tracks_t &t, uint32_t row) {
    return t.labels[row] == row && t.sizes[row] >= t.min_points;
}

static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_PROCESSOR)
    find_tracks(const tracks_t t) {
    typedef cub::BlockScan<uint2, THREADS> scan_t;
    __shared__ typename scan_t::TempStorage scan_memory;
    __shared__ uint2 base;
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = t.counts->n_points;
    const uint32_t m = tm_fused_kept_count(t.counts, t.capacity);
    const uint32_t first = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t stride = gridDim.x * THREADS;
    const auto add = [](uint2 a, uint2 b) { return make_uint2(a.x + b.x, a.y + b.y); };
    for (uint32_t i = first; i < n; i += stride) {
        t.parent[i] = i;
        t.sizes[i] = t.edge_counts[i] = 0;
        t.sums[i] = 0;
        t.best[i] = t.best[t.points + i] = 0;
        t.has_edge[i] = t.has_edge[t.points + i] = 0;
    }
    for (uint32_t i = first; i < m && t.best_edges; i += stride) {
        t.edge_states[i] =
            (double)t.logits[i] > t.least ? TM_GPU_EDGE_CANDIDATE : TM_GPU_EDGE_DROPPED;
    }
    if (first == 0) {
        t.counts->taken[0] = 0;
    }
    grid.sync();
    if (t.best_edges) {
        take_best_edges(t, n, m, grid);
    }
    if (t.link_src) { /* in any order, for the steps that follow */
        for (uint32_t i = first; i < m; i += stride) {
            if (is_taken(t, i)) {
                const uint32_t at = atomicAdd(&t.counts->n_links, 1u);
                t.link_src[at] = t.order[t.src[i]];
                t.link_dst[at] = t.order[t.dst[i]];
                t.link_logits[at] = t.logits[i];
            }
        }
        return;
    }
    join_edges(t, n, m, grid);
    for (uint32_t i = first; i < n; i += stride) {
        const uint32_t root = tm_gpu_find_root(t.parent, i);
        t.labels[i] = root;
        atomicAdd(&t.sizes[root], 1u);
    }
    grid.sync();
    for (uint32_t i = first; i < m; i += stride) {
        if (is_taken(t, i)) {
            const uint32_t root = t.labels[t.order[t.src[i]]];
            const double score = 1 / (1 + exp(-(double)t.logits[i]));
            atomicAdd(&t.edge_counts[root], 1u);
            atomicAdd(&t.sums[root], (u64_t)llrint(score * TM_GPU_SCORE_UNIT));
        }
    }
    /* tracks and their points, counted by blocks that have a piece of the rows each */
    const uint32_t piece = (n + gridDim.x - 1) / gridDim.x;
    const uint32_t begin = blockIdx.x * piece < n ? blockIdx.x * piece : n;
    const uint32_t end = begin + piece < n ? begin + piece : n;
    uint2 mine = make_uint2(0, 0);
    for (uint32_t i = begin + threadIdx.x; i < end; i += THREADS) {
        if (is_track(t, i)) {
            mine = add(mine, make_uint2(1, t.sizes[i]));
            if (t.sizes[i] > TM_FUSED_TRACK_POINTS_MAX) {
                atomicOr(&t.counts->flags, (uint32_t)TM_FUSED_TRACK_FULL);
            }
        }
    }
    uint2 total;
    uint2 ignored;
    scan_t(scan_memory).ExclusiveScan(mine, ignored, make_uint2(0, 0), add, total);
    if (threadIdx.x == 0) {
        t.block_sums[2 * blockIdx.x] = total.x;
        t.block_sums[2 * blockIdx.x + 1] = total.y;
    }
    grid.sync();
    mine = make_uint2(0, 0);
    for (uint32_t b = threadIdx.x; b < blockIdx.x; b += THREADS) {
        mine = add(mine, make_uint2(t.block_sums[2 * b], t.block_sums[2 * b + 1]));
    }
    __syncthreads();
    scan_t(scan_memory).ExclusiveScan(mine, ignored, make_uint2(0, 0), add, total);
    if (threadIdx.x == 0) {
        base = total;
    }
    __syncthreads();
    for (uint32_t row = begin; row < end; row += THREADS) {
        const uint32_t i = row + threadIdx.x;
        const bool track = i < end && is_track(t, i);
        uint2 before;
        scan_t(scan_memory)
            .ExclusiveScan(track ? make_uint2(1, t.sizes[i]) : make_uint2(0, 0), before,
                           make_uint2(0, 0), add, total);
        before = add(before, base);
        if (track) {
            uint32_t n_edges = t.edge_counts[i];
            t.numbers[i] = before.x;
            t.places[i] = before.y;
            t.offsets[before.x] = before.y;
            t.scores[before.x] =
                n_edges > 0 ? (float)((double)t.sums[i] / TM_GPU_SCORE_UNIT / n_edges) : 0;
            atomicAdd(&t.counts->n_track_edges, n_edges);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            base = add(base, total);
        }
        __syncthreads();
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
        t.counts->n_tracks = base.x;
        t.counts->n_indices = base.y;
        t.offsets[base.x] = base.y;
    }
    grid.sync();
    /* a root is its own parent: from there the next places of its track are counted */
    for (uint32_t i = first; i < n; i += stride) {
        uint32_t root = t.labels[i];
        if (t.sizes[root] >= t.min_points) {
            uint32_t at = atomicAdd(&t.parent[root], 1u) - root;
            t.members[t.places[root] + at] = i;
        }
    }
    grid.sync();
    if (*(volatile uint32_t *)&t.counts->flags & TM_FUSED_TRACK_FULL) {
        return;
    }
    const uint32_t n_indices = t.counts->n_indices;
    for (uint32_t p = first; p < n_indices; p += stride) {
        const uint32_t row = t.members[p];
        const uint32_t root = t.labels[row];
        const uint32_t from = t.places[root];
        const uint32_t to = from + t.sizes[root];
        const float rho = t.rho[row];
        uint32_t rank = 0;
        for (uint32_t k = from; k < to; k++) {
            const uint32_t other = t.members[k];
            const float other_rho = t.rho[other];
            rank += other_rho < rho || (other_rho == rho && other < row);
        }
        t.indices[from + rank] = row;
    }
}

uint32_t tm_fused_tracks_blocks(int processors) {
    return (uint32_t)processors * BLOCKS_PER_PROCESSOR;
}

cudaError_t tm_fused_tracks(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_pipeline_t *p = c->pipeline;
    size_t points = plan->capacity.points;
    tracks_t t = {};
    t.counts = &plan->header->counts;
    t.capacity = plan->capacity.kept;
    t.best_edges = p->tracks.builder == TM_BUILDER_BEST_EDGES;
    t.min_points = p->tracks.min_points;
    t.least = tm_gpu_least_logit(p->tracks.cut);
    t.src = plan->kept.src;
    t.dst = plan->kept.dst;
    t.order = plan->order;
    t.logits = plan->logits;
    t.rho = plan->row_rho;
    t.best = plan->best;
    t.points = plan->capacity.points;
    t.edge_states = plan->edge_states;
    t.has_edge = plan->has_edge;
    t.parent = plan->parent;
    t.labels = plan->labels;
    t.sizes = plan->sizes;
    t.edge_counts = plan->edge_counts;
    t.sums = plan->score_sums;
    t.numbers = plan->track_numbers;
    t.places = plan->track_places;
    t.block_sums = plan->block_sums;
    t.members = plan->members;
    t.offsets = plan->result;
    t.scores = (float *)(plan->result + points + 1);
    t.indices = plan->result + 2 * points + 1;
    t.link_src = plan->link_src;
    t.link_dst = plan->link_dst;
    t.link_logits = plan->link_logits;
    void *arguments[] = {&t};
    return cudaLaunchCooperativeKernel((const void *)find_tracks,
                                       dim3(tm_fused_tracks_blocks(c->processors)), dim3(THREADS),
                                       arguments, 0, c->stream);
}
