// SPDX-License-Identifier: Apache-2.0
/*
 * The fused path: a whole batch of events through the pipeline in one submission, without a word
 * from the host in between. docs/engine.md says which models it can run.
 *
 * A batch is one event of any size, or several smaller ones whose points lie behind one another. Sizes
 * that only the GPU knows (edges, edges kept) stay in its memory; kernels read them there, buffers
 * have a capacity, and what did not fit sets a flag that the host sees with the result: it then makes
 * the buffers larger and runs the batch again.
 *
 * A point has a row, its place in its event's columns (+ the event's first row in the batch), and a
 * node, its place in the order of the search: points that are near each other in the embedding have
 * nodes near each other, so that what is gathered by node comes from the caches. Everything between
 * the embedding and the tracks is numbered by node.
 *
 * Every launch may be captured into a CUDA graph: nothing allocates, synchronises or depends on
 * values that change from batch to batch, except by pointers to GPU memory.
 */
#ifndef TM_NN_CUDA_FUSED_FUSED_CUH
#define TM_NN_CUDA_FUSED_FUSED_CUH

#include "nn/cuda/gpu.cuh"

/* Events of a batch. */
#define TM_FUSED_EVENTS_MAX TM_ENGINE_BATCH_MAX
/* An event of more points is put in order for the search; smaller ones are searched in the order of
 * their rows. It depends on the event alone, so that an event's answer does not depend on the events
 * beside it. Events of both kinds do not share a batch. */
#define TM_FUSED_SMALL_POINTS TM_ENGINE_SMALL_POINTS
/* Events of a batch that are put in order. */
#define TM_FUSED_ORDERED_MAX (TM_ENGINE_BATCH_POINTS / TM_ENGINE_SMALL_POINTS)
/* Bits of a row number: TM_POINTS_MAX fits. */
#define TM_FUSED_ROW_BITS 22

/* ---- memory: one block per engine, cut up anew for every capacity ---- */

typedef struct {
    char *base; /* NULL: only adds up */
    size_t used;
} tm_fused_arena_t;

template <typename T> T *tm_fused_take(tm_fused_arena_t *arena, size_t count) {
    const size_t alignment = 256;
    T *at = arena->base ? (T *)(arena->base + arena->used) : NULL;
    arena->used += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    return at;
}

/* ---- what is on the GPU for one batch ---- */

typedef struct {
    uint32_t points, events, tiles; /* tiles: of TM_GPU_TILE points */
    uint32_t edges;                 /* of the radius graph */
    uint32_t kept;                  /* edges behind the filter */
} tm_fused_capacity_t;

/* A tile of the search: up to TM_GPU_TILE nodes of one event, and that event's tiles. */
typedef struct {
    uint32_t first, count;
    uint32_t event_first, event_end; /* tiles */
} tm_fused_tile_t;

/* What did not fit, or did not go, bit by bit. */
enum {
    /* counts.edges: how many there are, or at least a lower bound above the capacity */
    TM_FUSED_EDGES_FULL = 1,
    /* counts.kept: likewise */
    TM_FUSED_KEPT_FULL = 2,
    /* a node has more edges than the fused path sorts: the general path must do it */
    TM_FUSED_DEGREE_FULL = 4,
    /* a candidate has more points than the fused path puts in order: likewise */
    TM_FUSED_TRACK_FULL = 8,
};

typedef struct {
    /* written by the host before the batch */
    uint32_t n_points, n_events, n_tiles;
    /* zeroed by the host, written by kernels */
    uint32_t n_edges, n_kept, n_tracks, n_indices, n_track_edges;
    uint32_t flags;
    uint32_t bad_feature, bad_row; /* complements of the first value that is not finite; 0: none */
    uint32_t taken[3];             /* whether a round of the track builder had an edge left */
    uint32_t n_links;              /* edges that the builder took, for the steps behind it */
} tm_fused_counts_t;

/* The event of a row, or of a node: event_rows [n_events + 1] are the first rows of events. */
static __device__ inline uint32_t tm_fused_event_of(const tm_fused_counts_t *counts,
                                                    const uint32_t *event_rows, uint32_t row) {
    uint32_t low = 0;
    uint32_t high = counts->n_events;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (event_rows[middle] <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Edges by node, sorted by source, then target. */
typedef struct {
    uint32_t *src, *dst; /* [capacity] */
    uint32_t *offsets;   /* [points + 1]: edges of a source; valid up to n_points */
} tm_fused_edges_t;

#endif
