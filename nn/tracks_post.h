// SPDX-License-Identifier: Apache-2.0
/*
 * From the edges that a track builder took to track candidates: the steps after the builder that the
 * model file may ask for (split, select, join: docs/model-file.md, "tracks"), the candidates in their
 * order, and the start values of each.
 *
 * On the host, for every device: a device brings the taken edges and its points' r, phi, z and rho to
 * host memory and calls tm_post_run. The steps are rounds of local decisions, so a device may as well
 * do them itself; the answers must be the same.
 *
 * A tm_post_t holds the buffers of one event at a time and is used by one thread at a time; inside,
 * loops run on up to `threads` OpenMP threads. Same input, same bytes, for any number of them.
 */
#ifndef TM_NN_TRACKS_POST_H
#define TM_NN_TRACKS_POST_H

#include "nn/stages.h"

typedef struct tm_post tm_post_t;

/* Edges that the builder took, in any order. With best_edges no point is twice a source or twice a
 * target, and the edges make no ring. */
typedef struct {
    uint32_t n;
    const uint32_t *src, *dst;
    const float *logits;
} tm_links_t;

tm_post_t *tm_post_new(void); /* NULL: no memory */
void tm_post_destroy(tm_post_t **p);

/* Whether the pipeline has steps, which a device without tm_post_run would leave out. */
bool tm_post_wanted(const tm_pipeline_t *pipeline);

/* points: n, r, phi, z and rho in host memory (r, phi and z are read only where the pipeline has a
 * fit). *tracks is overwritten (tm_tracks_clear frees it): candidates of at least min_points by least
 * point, points by rho, then row; start values where the pipeline has a fit. *n_links: links that
 * hold the candidates, shorter ones included. cancelled is polled, may be NULL.
 * TM_E_NO_MEMORY, TM_E_CANCELLED. */
tm_status_t tm_post_run(tm_post_t *post, const tm_pipeline_t *pipeline, const tm_points_t *points,
                        const tm_links_t *links, int threads, const volatile int *cancelled,
                        tm_tracks_t *tracks, uint64_t *n_links, tm_error_t *err);

#endif
