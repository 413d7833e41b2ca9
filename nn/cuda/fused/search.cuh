// SPDX-License-Identifier: Apache-2.0
/*
 * The radius search of the fused path: exactly the edges of nn/cuda/radius.cu, for models without a
 * cap on neighbours. Nothing here allocates or waits; every launch may be captured.
 *
 * tm_fused_order numbers the points of an event: those of a larger one so that 16 nodes in turn are
 * close to each other, first in phi (the cut on dphi rules out more pairs than anything else), then,
 * within strips of phi, in the embedding. Points of small events stay in the order of their rows.
 *
 * tm_fused_search tests 64 x 16 nodes at a time on tensor cores: with rows (-2x, |x|^2 - r^2/2, 1) and
 * columns (y, 1, |y|^2 - r^2/2) a product is d^2 - r^2, less a margin for fp16; its sign tells
 * candidates. These are tested again in fp32, with the arithmetic of the general path. Groups whose
 * boxes are further apart than the cuts allow are left out. Edges are found in no particular order and
 * put beside their source where an atomic says; then those of each source are sorted: the result is
 * the same from run to run.
 *
 * Source: the products are those of FaSTED (arXiv 2508.21230).
 */
#ifndef TM_NN_CUDA_FUSED_SEARCH_CUH
#define TM_NN_CUDA_FUSED_SEARCH_CUH

#include "nn/cuda/fused/fused.cuh"

/* Edges of one source that the fused path sorts; beyond: TM_FUSED_DEGREE_FULL. */
#define TM_FUSED_DEGREE_MAX 8192u

/* What a batch is searched with. Everything lies in GPU memory. */
typedef struct {
    tm_fused_counts_t *counts;    /* reads n_points, n_events, n_tiles; writes n_edges and flags */
    const uint32_t *event_rows;   /* [n_events + 1] */
    const tm_fused_tile_t *tiles; /* [n_tiles] */
    const float *embedding;       /* [points, dim] by row */
    const float4 *place;          /* r, phi, z, eta by row */
    const float *rho;             /* by row */
} tm_fused_search_input_t;

/* Buffers and numbers of the search; cut by tm_fused_search_plan, and private to order.cu and search*.cu,
 * which share search_parts.cuh. */
typedef struct {
    tm_fused_capacity_t capacity;
    int processors;
    uint32_t dim, quads; /* dimensions; the same in float4 */
    bool split;          /* operands carry the fp16 remainder of each coordinate */
    uint32_t k_steps;    /* of 16 terms, per product */
    float r2, inverse_r;
    tm_direction_t direction;
    float dphi_max, z0_max, z0_min_dr;
    float phi_reach; /* dphi of pairs that the boxes let through; INFINITY: no cut */

    /* order */
    uint32_t events_max;            /* that can be put in order together */
    uint32_t *keys;                 /* [points] */
    uint32_t *rows_unsorted, *rows; /* [points] */
    uint32_t *steps, *step_begins;  /* [events_max TM_SEARCH_STEPS + 1] */
    uint32_t *crowded;              /* number, then steps of more than TM_SEARCH_CROWD points */
    uint32_t *bounds; /* [2, TM_EMBED_DIM_MAX] least and most per dimension, ordered */

    /* by slot: place in a tile, TM_GPU_TILE per tile */
    float4 *records;                 /* [slots, quads + 2] */
    uint4 *rows_half, *columns_half; /* [slots / 16, k_steps, 32]: operands A and B */
    float *row_boxes;                /* [slots / 64, 4 quads + 1, 2]: embedding, phi */
    float *group_low, *group_high;   /* [4 quads + 1, slots / 16] */
    float *tile_low, *tile_high;     /* [4 quads + 1, tiles] */
    uint64_t *items;                 /* [items_max]: work of the search */
    uint32_t items_max;
    unsigned long long *counters; /* [TM_SEARCH_COUNTERS] */
    uint32_t *block_sums;         /* [tm_grid_blocks] */
    uint32_t *degrees;            /* [points] edges of a source */
    uint32_t *targets;            /* [points, TM_SEARCH_SLOTS] of a source, unsorted */
    uint64_t *list;               /* [edges] those that found no place there */
    uint32_t *more_targets;       /* [edges] the same, beside their source */
    uint32_t *large_nodes;        /* [points] with more targets than slots */
} tm_fused_search_t;

/* Whether the search does what this pipeline asks for. If not, the general path does. */
bool tm_fused_search_can_run(const tm_pipeline_t *pipeline);

/* Cuts the buffers of a search for such capacities out of the arena (whose base may be NULL: then it
 * only adds up). A GPU must be there, and current: `processors` are its multiprocessors. */
cudaError_t tm_fused_search_plan(const tm_pipeline_t *pipeline, const tm_fused_capacity_t *capacity,
                                 int processors, tm_fused_arena_t *arena, tm_fused_search_t *out);

/* Once per GPU, before the first launch: kernels that want more shared memory than is free to all. */
cudaError_t tm_fused_search_prepare(void);

/* Whether this search puts several events in order together. */
bool tm_fused_orders_many(const tm_pipeline_t *pipeline);

/* order [points]: row of a node. ordered: the events of the batch have more than TM_FUSED_SMALL_POINTS
 * points; several, at most TM_FUSED_ORDERED_MAX, only if tm_fused_orders_many. */
cudaError_t tm_fused_order(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                           bool ordered, uint32_t *order, cudaStream_t stream);

/* order: as tm_fused_order left it. Edges are between nodes. Where they do not fit, counts->n_edges is
 * what room is wanted for (TM_FUSED_EDGES_FULL) or 0 (TM_FUSED_DEGREE_FULL alone: a source has too many,
 * or there are more tiles near each other than the search lists), and `edges` holds zeros: nothing may be
 * done with them. */
cudaError_t tm_fused_search(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                            const uint32_t *order, const tm_fused_edges_t *edges,
                            cudaStream_t stream);

/* The parts of tm_fused_search, in this order: operands, boxes and work items; unsorted edges; edges
 * by source. */
cudaError_t tm_fused_search_place(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                  const uint32_t *order, cudaStream_t stream);
cudaError_t tm_fused_search_find(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                 cudaStream_t stream);
cudaError_t tm_fused_search_collect(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                    const tm_fused_edges_t *edges, cudaStream_t stream);

#endif
