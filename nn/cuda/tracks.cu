// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "nn/cuda/components.cuh"

/* Rounds of the best_edges builder between two looks at whether they still take edges. */
#define ROUNDS_AT_ONCE 8
#define NO_TRACK UINT64_MAX

/* Places in the context's counters. */
enum { COUNT_TAKEN, COUNT_TRACKS, COUNT_INDICES, COUNT_EDGES };

typedef unsigned long long u64_t; /* what atomics take */

/* ---- edges ---- */

static __global__ void cut_edges(const float *logits, uint32_t n, double least,
                                 tm_gpu_edge_state_t state, uint8_t *states) {
    uint64_t i = tm_gpu_thread();
    if (i < n) {
        states[i] = (double)logits[i] > least ? state : TM_GPU_EDGE_DROPPED;
    }
}

/* best_out, best_in: the best key at each node, 0: none yet, or all ones: the node has its edge */
static __global__ void propose(const tm_edges_t edges, const float *logits, const uint8_t *states,
                               u64_t *best_out, u64_t *best_in) {
    uint64_t i = tm_gpu_thread();
    if (i < edges.n && states[i] == TM_GPU_EDGE_CANDIDATE) {
        u64_t key = tm_gpu_edge_key(logits[i], (uint32_t)i);
        atomicMax(&best_out[edges.src[i]], key);
        atomicMax(&best_in[edges.dst[i]], key);
    }
}

static __global__ void take(const tm_edges_t edges, const float *logits, uint8_t *states,
                            const u64_t *best_out, const u64_t *best_in, uint8_t *outgoing,
                            uint8_t *incoming, u64_t *taken) {
    uint64_t i = tm_gpu_thread();
    if (i >= edges.n || states[i] != TM_GPU_EDGE_CANDIDATE) {
        return;
    }
    uint32_t a = edges.src[i];
    uint32_t b = edges.dst[i];
    u64_t key = tm_gpu_edge_key(logits[i], (uint32_t)i);
    if (best_out[a] == key && best_in[b] == key) {
        states[i] = TM_GPU_EDGE_TAKEN;
        outgoing[a] = 1; /* by this edge alone: keys differ */
        incoming[b] = 1;
        atomicAdd(taken, 1ull);
    }
}

static __global__ void drop(const tm_edges_t edges, uint8_t *states, const uint8_t *outgoing,
                            const uint8_t *incoming) {
    uint64_t i = tm_gpu_thread();
    if (i < edges.n && states[i] == TM_GPU_EDGE_CANDIDATE &&
        (outgoing[edges.src[i]] || incoming[edges.dst[i]])) {
        states[i] = TM_GPU_EDGE_DROPPED;
    }
}

/* ---- components ---- */

static __global__ void join(const tm_edges_t edges, const uint8_t *states, uint32_t *parent) {
    uint64_t i = tm_gpu_thread();
    if (i >= edges.n || states[i] != TM_GPU_EDGE_TAKEN) {
        return;
    }
    tm_gpu_join(parent, edges.src[i], edges.dst[i]);
}

/* Nothing writes to parent meanwhile but this: labels come out whole. */
static __global__ void label_points(const uint32_t *parent, uint32_t n, uint32_t *labels,
                                    uint32_t *sizes) {
    uint64_t i = tm_gpu_thread();
    if (i < n) {
        uint32_t root = (uint32_t)i;
        while (parent[root] != root) {
            root = parent[root];
        }
        labels[i] = root;
        atomicAdd(&sizes[root], 1u);
    }
}

static __global__ void add_scores(const tm_edges_t edges, const float *logits,
                                  const uint8_t *states, const uint32_t *labels, uint32_t *n_edges,
                                  u64_t *sums, u64_t *taken) {
    uint64_t i = tm_gpu_thread();
    if (i < edges.n && states[i] == TM_GPU_EDGE_TAKEN) {
        uint32_t root = labels[edges.src[i]];
        double score = 1 / (1 + exp(-(double)logits[i]));
        atomicAdd(&n_edges[root], 1u);
        atomicAdd(&sums[root], (u64_t)llrint(score * TM_GPU_SCORE_UNIT));
        atomicAdd(taken, 1ull);
    }
}

/* ---- tracks ---- */

/* [n + 1] each: whether a point is the root of a track, and of how many points */
static __global__ void flag_tracks(const uint32_t *labels, const uint32_t *sizes, uint32_t n,
                                   uint32_t min_points, uint32_t *flags, uint32_t *lengths) {
    uint64_t i = tm_gpu_thread();
    if (i <= n) {
        bool track = i < n && labels[i] == i && sizes[i] >= min_points;
        flags[i] = track;
        lengths[i] = track ? sizes[i] : 0;
    }
}

/* keys: (number of the track, rho) of each point, NO_TRACK where it has none. offsets, scores [n + 1]:
 * of the tracks. */
static __global__ void write_tracks(const uint32_t *labels, const float *rho, uint32_t n,
                                    const uint32_t *flags, const uint32_t *numbers,
                                    const uint32_t *places, const uint32_t *n_edges,
                                    const u64_t *sums, uint64_t *keys, uint32_t *offsets,
                                    float *scores, u64_t *counts) {
    uint64_t i = tm_gpu_thread();
    if (i > n) {
        return;
    }
    if (i == n) {
        offsets[numbers[n]] = places[n];
        counts[COUNT_TRACKS] = numbers[n];
        counts[COUNT_INDICES] = places[n];
        return;
    }
    uint32_t root = labels[i];
    keys[i] =
        flags[root] ? (uint64_t)numbers[root] << 32 | tm_gpu_ordered(rho[i] + 0.0f) : NO_TRACK;
    if (flags[i]) {
        offsets[numbers[i]] = places[i];
        scores[numbers[i]] =
            n_edges[i] > 0 ? (float)((double)sums[i] / TM_GPU_SCORE_UNIT / n_edges[i]) : 0;
    }
}

/* ---- the stage ---- */

typedef struct {
    tm_gpu_t *gpu;
    tm_error_t *err;
    uint32_t n; /* points */
    const tm_points_t *points;
    const tm_edges_t *edges;
    const float *logits;
    uint8_t *states;   /* [edges->n] */
    uint32_t *labels;  /* [n] */
    uint32_t *sizes;   /* [n] by root, and behind them [n]: edges */
    u64_t *sums;       /* [n] by root: scores */
    uint64_t *scalars; /* [TM_GPU_SCALAR_COUNT] */
} work_t;

static tm_status_t zero(const work_t *w, void *data, size_t bytes) {
    return tm_gpu_check(w->gpu, cudaMemsetAsync(data, 0, bytes, w->gpu->stream), "tracks", w->err);
}

/* Rounds as docs/model-file.md has them, until one takes nothing. */
static tm_status_t take_best_edges(const work_t *w) {
    tm_gpu_t *gpu = w->gpu;
    size_t n = w->n;
    u64_t *best = NULL;
    unsigned blocks = tm_gpu_blocks(w->edges->n, TM_GPU_THREADS);
    /* best out and in, then one byte each: whether the node has its edge */
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_BEST, 2 * n + (2 * n + 7) / 8, &best, w->err));
    u64_t *best_out = best;
    u64_t *best_in = best + n;
    uint8_t *outgoing = (uint8_t *)(best + 2 * n);
    uint8_t *incoming = outgoing + n;
    TM_TRY(zero(w, outgoing, 2 * n));
    do {
        TM_TRY(tm_gpu_cancelled(gpu, w->err));
        for (int round = 0; round < ROUNDS_AT_ONCE; round++) {
            TM_TRY(zero(w, best, 2 * n * sizeof *best));
            TM_TRY(zero(w, &w->scalars[COUNT_TAKEN], sizeof(uint64_t)));
            propose<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(*w->edges, w->logits, w->states,
                                                                best_out, best_in);
            TM_TRY(tm_gpu_launched(gpu, "best edges", w->err));
            take<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(*w->edges, w->logits, w->states,
                                                             best_out, best_in, outgoing, incoming,
                                                             (u64_t *)&w->scalars[COUNT_TAKEN]);
            TM_TRY(tm_gpu_launched(gpu, "best edges", w->err));
            drop<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(*w->edges, w->states, outgoing,
                                                             incoming);
            TM_TRY(tm_gpu_launched(gpu, "best edges", w->err));
        }
        TM_TRY(tm_gpu_scalars_read(gpu, "best edges", w->err));
    } while (gpu->host_scalars[COUNT_TAKEN] > 0);
    return TM_OK;
}

static tm_status_t find_components(work_t *w) {
    tm_gpu_t *gpu = w->gpu;
    uint32_t *parent = NULL;
    size_t n = w->n;
    unsigned edge_blocks = tm_gpu_blocks(w->edges->n, TM_GPU_THREADS);
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_PARENT, 2 * n, &parent, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SIZES, 2 * n, &w->sizes, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SCORES, n, &w->sums, w->err));
    w->labels = parent + n;
    TM_TRY(tm_gpu_count_up(gpu, parent, w->n, w->err));
    TM_TRY(zero(w, w->sizes, 2 * n * sizeof *w->sizes));
    TM_TRY(zero(w, w->sums, n * sizeof *w->sums));
    if (edge_blocks > 0) {
        join<<<edge_blocks, TM_GPU_THREADS, 0, gpu->stream>>>(*w->edges, w->states, parent);
        TM_TRY(tm_gpu_launched(gpu, "components", w->err));
    }
    label_points<<<tm_gpu_blocks(n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
        parent, w->n, w->labels, w->sizes);
    TM_TRY(tm_gpu_launched(gpu, "components", w->err));
    if (edge_blocks == 0) {
        return TM_OK;
    }
    add_scores<<<edge_blocks, TM_GPU_THREADS, 0, gpu->stream>>>(*w->edges, w->logits, w->states,
                                                                w->labels, w->sizes + n, w->sums,
                                                                (u64_t *)&w->scalars[COUNT_EDGES]);
    return tm_gpu_launched(gpu, "components", w->err);
}

static tm_status_t download(const work_t *w, const uint32_t *indices, const uint32_t *offsets,
                            const float *scores, tm_tracks_t *tracks) {
    tm_gpu_t *gpu = w->gpu;
    uint32_t n_tracks = (uint32_t)gpu->host_scalars[COUNT_TRACKS];
    uint32_t n_indices = (uint32_t)gpu->host_scalars[COUNT_INDICES];
    void *staging = NULL;
    const struct {
        const void *from;
        size_t bytes;
    } arrays[] = {{indices, n_indices * sizeof *indices},
                  {offsets, ((size_t)n_tracks + 1) * sizeof *offsets},
                  {scores, n_tracks * sizeof *scores}};
    size_t bytes = arrays[0].bytes + arrays[1].bytes + arrays[2].bytes;
    TM_TRY(tm_gpu_staging(gpu, bytes, &staging, w->err));
    char *at = (char *)staging;
    for (int k = 0; k < 3; at += arrays[k].bytes, k++) {
        if (arrays[k].bytes > 0) {
            TM_TRY(tm_gpu_check(gpu,
                                cudaMemcpyAsync(at, arrays[k].from, arrays[k].bytes,
                                                cudaMemcpyDeviceToHost, gpu->stream),
                                "tracks", w->err));
        }
    }
    TM_TRY(tm_gpu_wait(gpu, "tracks", w->err));
    TM_TRY(tm_tracks_alloc(tracks, w->n, n_tracks, n_indices, w->err));
    at = (char *)staging;
    memcpy(tracks->indices, at, arrays[0].bytes);
    memcpy(tracks->offsets, at + arrays[0].bytes, arrays[1].bytes);
    memcpy(tracks->scores, at + arrays[0].bytes + arrays[1].bytes, arrays[2].bytes);
    return TM_OK;
}

static tm_status_t assemble(const work_t *w, tm_tracks_t *tracks, uint64_t *track_edges) {
    tm_gpu_t *gpu = w->gpu;
    size_t n = w->n;
    uint32_t *flags = NULL;
    uint32_t *numbers = NULL;
    uint32_t *lengths = NULL;
    uint32_t *places = NULL;
    uint64_t *keys = NULL;
    uint64_t *keys_out = NULL;
    uint32_t *rows = NULL;
    uint32_t *rows_out = NULL;
    uint32_t *offsets = NULL;
    unsigned blocks = tm_gpu_blocks(n + 1, TM_GPU_THREADS);
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_FLAGS, n + 1, &flags, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_NUMBERS, n + 1, &numbers, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_SIZES, n + 1, &lengths, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_OFFSETS, n + 1, &places, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_KEYS, n, &keys, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_KEYS_NEXT, n, &keys_out, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_POINTS, n, &rows, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_POINTS_NEXT, n, &rows_out, w->err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_RESULT, 2 * (n + 1), &offsets, w->err));
    float *scores = (float *)(offsets + n + 1);
    flag_tracks<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(
        w->labels, w->sizes, w->n, gpu->device.pipeline->tracks.min_points, flags, lengths);
    TM_TRY(tm_gpu_launched(gpu, "tracks", w->err));
    TM_TRY(tm_gpu_scan_u32(gpu, flags, numbers, n + 1, w->err));
    TM_TRY(tm_gpu_scan_u32(gpu, lengths, places, n + 1, w->err));
    write_tracks<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(
        w->labels, w->points->rho, w->n, flags, numbers, places, w->sizes + n, w->sums, keys,
        offsets, scores, (u64_t *)w->scalars);
    TM_TRY(tm_gpu_launched(gpu, "tracks", w->err));
    TM_TRY(tm_gpu_count_up(gpu, rows, w->n, w->err));
    /* stable, so that points of equal rho stay in the order of their rows */
    TM_TRY(tm_gpu_sort_u64_u32(gpu, keys, keys_out, rows, rows_out, n, 64, w->err));
    TM_TRY(tm_gpu_scalars_read(gpu, "tracks", w->err));
    *track_edges = gpu->host_scalars[COUNT_EDGES];
    return download(w, rows_out, offsets, scores, tracks);
}

tm_status_t tm_gpu_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    bool best_edges = p->tracks.builder == TM_BUILDER_BEST_EDGES;
    work_t w = {};
    w.gpu = gpu;
    w.err = err;
    w.n = points->n;
    w.points = points;
    w.edges = edges;
    w.logits = logits;
    *track_edges = 0;
    TM_TRY(tm_gpu_enter(gpu, err));
    /* without edges every component is one point, which a model may still call a track */
    if (points->n == 0 || (edges->n == 0 && p->tracks.min_points > 1)) {
        return tm_tracks_alloc(tracks, points->n, 0, 0, err);
    }
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TRACK_EDGES, edges->n, &w.states, err));
    TM_TRY(tm_gpu_scalars_reset(gpu, &w.scalars, err));
    if (edges->n > 0) {
        cut_edges<<<tm_gpu_blocks(edges->n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
            logits, edges->n, tm_gpu_least_logit(p->tracks.cut),
            best_edges ? TM_GPU_EDGE_CANDIDATE : TM_GPU_EDGE_TAKEN, w.states);
        TM_TRY(tm_gpu_launched(gpu, "the cut", err));
        if (best_edges) {
            TM_TRY(take_best_edges(&w));
        }
    }
    if (gpu->post) {
        return tm_gpu_post_edges(gpu, points, edges, logits, w.states, TM_GPU_EDGE_TAKEN, tracks,
                                 track_edges, err);
    }
    TM_TRY(find_components(&w));
    return assemble(&w, tracks, track_edges);
}
