// SPDX-License-Identifier: Apache-2.0
/*
 * Chains of space points, as the best_edges builder makes them, and the steps that change them.
 * Internal to nn/tracks_post.h, which has the contract; docs/model-file.md says what each step does.
 */
#ifndef TM_NN_TRACKS_CHAINS_H
#define TM_NN_TRACKS_CHAINS_H

#include "nn/cpu/memory.h"
#include "nn/tracks_fit.h"

#define TM_NO_POINT UINT32_MAX

/* The links between points, and from them lists of chains. All arrays belong to the tm_post_t. */
typedef struct {
    const tm_pipeline_t *pipeline;
    const tm_points_t *points;
    const volatile int *cancelled;
    int threads;
    uint32_t *next, *prev;     /* [points->n]: TM_NO_POINT where there is none */
    float *logit;              /* [points->n]: of the link to next */
    tm_fit_point_t *fit_point; /* [points->n]: of points with a link */
    uint32_t n;                /* chains listed */
    uint32_t *offsets, *rows; /* chain c: rows[offsets[c]] … rows[offsets[c + 1] − 1], outward */
    tm_buffer_t *scratch;     /* for the running step */
} tm_chains_t;

/* Lists the chains of at least `least` (≥ 2) points, in the order of their first points' rows. */
void tm_chains_list(tm_chains_t *chains, uint32_t least);

void tm_chains_link(tm_chains_t *chains, uint32_t from, uint32_t to, float logit);
/* Breaks the link behind this point, which has one. */
void tm_chains_break(tm_chains_t *chains, uint32_t from);

/* The steps, on the chains listed; the list is out of date afterwards. */
tm_status_t tm_chains_split(tm_chains_t *chains, tm_error_t *err);
void tm_chains_select(tm_chains_t *chains);
tm_status_t tm_chains_join(tm_chains_t *chains, tm_error_t *err);

#endif
