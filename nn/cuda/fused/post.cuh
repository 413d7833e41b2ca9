// SPDX-License-Identifier: Apache-2.0
/*
 * The GPU twin of nn/tracks_post.h: from the links that the track builder took to track candidates
 * with start values, for a whole batch, by the rules of docs/model-file.md, "tracks".
 *
 * Kernels only, into a stream that may be capturing. Nothing is allocated, nothing waits for the host,
 * and sizes are read from GPU memory. Events of a batch never mix. The same links give the same bytes,
 * in whatever order they lie: integer atomics alone, ties go to the lower row.
 *
 * Arithmetic is that of nn/tracks_*.c in double precision and in the same order, compiled without
 * fused multiply-add. What differs from the CPU are the last bits of sin, cos, asin, asinh, atan2, exp
 * and log, so a decision may differ where a χ² or a score is within some 1e-12 of its limit.
 */
#ifndef TM_NN_CUDA_FUSED_POST_CUH
#define TM_NN_CUDA_FUSED_POST_CUH

#include "nn/cuda/fused/stages.cuh"

extern "C" {
#include "nn/tracks_fit.h"
}

/* Continuations that a chain keeps, as in nn/tracks_join.c. */
#define TM_FUSED_POST_PARTNERS 8

/* What a chain looks like from both its ends. */
typedef struct {
    double curvature, cot_theta;
    double phi_start, phi_end;
    float rho_start, rho_end;
    uint32_t first; /* its first row: chains in this order are in the CPU's */
    uint32_t cell;  /* that it starts in; TM_FUSED_POST_NONE: it has no fit */
} tm_fused_shape_t;

#define TM_FUSED_POST_NONE UINT32_MAX

/* Sums of blocks: so many blocks a kernel has at most. */
#define TM_FUSED_POST_BLOCKS_MAX 1024

/* Sizes on the GPU. */
typedef struct {
    unsigned long long listed; /* builder's chains << 32 | rows in them */
    uint32_t n_chains, n_members, n_active;
    uint32_t chosen[3], tied[3]; /* whether a round had a choice, and equal scores */
} tm_fused_post_counts_t;

/* Buffers from the engine's arena. Chains are in no order; a chain of join has three points or more. */
typedef struct {
    tm_fused_post_counts_t *counts;
    uint32_t *next, *prev; /* [points] by row; TM_FUSED_POST_NONE: there is none */
    float *logit;          /* [points] of the link to next */
    tm_fit_point_t *place; /* [points] of rows with a link; only where there is a fit */
    /* split: chains as they come from the builder, one behind the other */
    uint2 *listed;     /* [points / 2 + 1]: from, to (exclusive) in rows */
    uint32_t *rows;    /* [points] */
    uint8_t *last;     /* [points]: the chain ends behind this place */
    uint2 *window;     /* [points] of doubtful links, by place: the places it was last judged by */
    uint32_t *stretch; /* [points] of those that do not fit: where their chain begins; else NONE */
    unsigned long long *worst; /* [points] by first place of a chain */
    /* join */
    uint2 *chain;                   /* [chains]: from, to (exclusive) in rows */
    tm_fused_shape_t *shape;        /* [chains] */
    uint32_t *cells;                /* [events, phi, eta + 1]: where their members begin */
    uint32_t *members;              /* [chains] */
    double *scores;                 /* [chains, PARTNERS], best first */
    uint32_t *partners;             /* [chains, PARTNERS]: chains */
    uint32_t *active;               /* [chains]: those with partners */
    uint32_t *n_partners, *choice;  /* [chains] */
    unsigned long long *best_score; /* [2, chains]: offered in an even, an odd round */
    uint32_t *best_from;            /* [2, chains] */
    uint8_t *has_next, *has_prev;   /* [chains] */
    uint32_t chains;                /* capacity */
    /* candidates, at their least row */
    uint32_t *sizes, *heads;        /* [points]: 0: none begins here; outermost first row */
    float *means;                   /* [points] */
    unsigned long long *block_sums; /* [TM_FUSED_POST_BLOCKS_MAX]: candidates << 32 | points */
    /* start values by candidate, [points] each; NULL where the pipeline has no fit */
    float *pt, *phi, *eta, *d0, *z0; /* as tm_starts_t */
    int8_t *charge;                  /* 0: none */
} tm_fused_post_t;

/* Whether the pipeline's links are chains that go outward, which is all that this knows. */
bool tm_fused_post_can_run(const tm_pipeline_t *pipeline);

/* Cuts the buffers out of the arena, or only adds up. */
cudaError_t tm_fused_post_plan(const tm_pipeline_t *pipeline, const tm_fused_capacity_t *capacity,
                               tm_fused_arena_t *arena, tm_fused_post_t *post);

/* Reads of the plan: counts (n_points, n_events, n_links), event_rows, row_place (r, phi, z),
 * row_rho, link_src, link_dst, link_logits: each row at most once a source and once a target, links
 * going outward (rho, then row). Where the batch has a flag or a bad value there are no candidates.
 *
 * Writes plan->result as tm_fused_tracks does (offsets, scores, indices: candidates by least row, their
 * points by rho, then row), counts->n_tracks, n_indices and n_track_edges (all links that are left, of
 * shorter chains too), and the start values. */
cudaError_t tm_fused_post(const tm_fused_context_t *c, const tm_fused_plan_t *plan,
                          const tm_fused_post_t *post);

#endif
