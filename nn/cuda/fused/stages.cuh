// SPDX-License-Identifier: Apache-2.0
/*
 * The kernels of the fused path, in the order in which they run. Each function only launches, into a
 * stream that may be capturing; buffers are those of tm_fused_plan_t, sizes come from plan->counts.
 */
#ifndef TM_NN_CUDA_FUSED_STAGES_CUH
#define TM_NN_CUDA_FUSED_STAGES_CUH

#include "nn/cuda/edge_features.cuh"
#include "nn/cuda/fused/fused.cuh"
#include "nn/cuda/fused/model.cuh"
#include "nn/cuda/fused/search.cuh"

/* How a column lies in the upload. */
typedef struct {
    tm_type_t type;  /* TM_U8, TM_I8, TM_U16, TM_I16, TM_F16 or TM_F32 */
    uint64_t offset; /* bytes */
} tm_fused_column_t;

#define TM_FUSED_COLUMNS_MAX (3 + TM_FEATURES_MAX)

/* What the host writes before each batch, in one piece with the columns behind it. */
typedef struct {
    tm_fused_counts_t counts;
    uint32_t event_rows[TM_FUSED_EVENTS_MAX + 1];   /* first rows of the events, and of none */
    tm_fused_column_t column[TM_FUSED_COLUMNS_MAX]; /* x, y, z, then those that features ask for */
} tm_fused_header_t;

/* All buffers of a slot, cut out of one block. Points by row unless said otherwise. */
typedef struct {
    tm_fused_capacity_t capacity;
    bool ordered; /* its events have more than TM_FUSED_SMALL_POINTS points */

    /* what is uploaded, in one piece */
    tm_fused_header_t *header;
    tm_fused_tile_t *tiles; /* [capacity.tiles] */
    char *columns;

    float4 *row_place;
    float *row_rho;
    float *row_features; /* [points, n_features] */
    float *embedding;    /* [points, dim] */

    uint32_t *order; /* row of a node */
    float4 *node_place;
    __half *filter_x;    /* [points, 16] by node */
    float *gnn_features; /* [points, 16] by node */

    tm_fused_search_t search; /* search.cu's own */
    tm_fused_edges_t edges;

    uint32_t *keep_words;  /* a bit per edge of the radius graph */
    uint32_t *keep_places; /* bits before each word */
    tm_fused_edges_t kept;
    uint32_t *dst_counts, *dst_offsets; /* [points + 1] */
    uint32_t *dst_unsorted, *by_dst;    /* [kept] */

    float *x;            /* [points, H] by node, in lane order, as are the next */
    __half *x_half, *x0; /* [points, H] */
    __half *sums;        /* [points, n_sums, H] */
    __half *tables;      /* [points, 4, H] */
    __half *e, *e0;      /* [kept, H] */
    float *logits;       /* [kept] */

    unsigned long long *best;                        /* [2, 2, points]: best keys of a round */
    uint8_t *has_edge;                               /* [2, points] */
    uint8_t *edge_states;                            /* [kept] */
    uint32_t *parent, *labels, *sizes, *edge_counts; /* [points] by row */
    unsigned long long *score_sums;                  /* [points] */
    uint32_t *track_numbers, *track_places;          /* [points] */
    uint32_t *block_sums;                            /* [2, blocks], for keep too */
    uint32_t *members;                               /* [points] */
    uint32_t *link_src,
        *link_dst; /* [kept] rows, for the steps behind the builder; NULL: there are none */
    float *link_logits;
    uint32_t *result; /* offsets [points + 1], scores [points], indices [points], in that order */
} tm_fused_plan_t;

/* Everything that a launch needs to know. */
typedef struct {
    const tm_pipeline_t *pipeline;
    const tm_fused_model_t *model;
    cudaStream_t stream;
    int processors;    /* of the GPU */
    bool launch_early; /* it lets a kernel begin while the one before it ends */
} tm_fused_context_t;

/* features.cu: columns → coordinates and features by row; then by node */
cudaError_t tm_fused_features(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
cudaError_t tm_fused_to_nodes(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
/* embed.cu: features → embedding, by row */
cudaError_t tm_fused_embed(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
/* filter.cu: edges → keep_words */
cudaError_t tm_fused_filter(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
/* keep.cu: keep_words → kept, dst_offsets, by_dst */
cudaError_t tm_fused_keep(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
/* gnn.cu: kept → logits */
cudaError_t tm_fused_gnn(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
/* tracks.cu: logits → result. A candidate's points are put in order by counting, each against all
 * others: beyond so many TM_FUSED_TRACK_FULL is set instead. */
#define TM_FUSED_TRACK_POINTS_MAX 16384u
cudaError_t tm_fused_tracks(const tm_fused_context_t *c, const tm_fused_plan_t *plan);
uint32_t tm_fused_tracks_blocks(int processors);

/* Kernels that use more shared memory than is free to all must say so once per GPU. */
cudaError_t tm_fused_prepare(const tm_fused_model_t *model);
cudaError_t tm_fused_prepare_embed(const tm_fused_model_t *model);
cudaError_t tm_fused_prepare_filter(const tm_fused_model_t *model);
cudaError_t tm_fused_prepare_gnn(const tm_fused_model_t *model);
/* Shared memory of a block. */
size_t tm_fused_embed_bytes(const tm_fused_model_t *model);
size_t tm_fused_filter_bytes(const tm_fused_model_t *model);
size_t tm_fused_gnn_bytes(const tm_fused_model_t *model);

/* 0 where they did not fit: the batch is done again, and nothing of use is there. */
static __device__ inline uint32_t tm_fused_edge_count(const tm_fused_counts_t *counts,
                                                      uint32_t capacity) {
    return counts->n_edges <= capacity ? counts->n_edges : 0;
}

static __device__ inline uint32_t tm_fused_kept_count(const tm_fused_counts_t *counts,
                                                      uint32_t capacity) {
    return counts->n_kept <= capacity ? counts->n_kept : 0;
}

#endif
