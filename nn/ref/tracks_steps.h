// SPDX-License-Identifier: Apache-2.0
/*
 * The fit and the steps behind the track builder once more, as plainly as docs/model-file.md states
 * them: every pair of chains, rounds until nothing changes.
 */
#ifndef TM_NN_REF_TRACKS_STEPS_H
#define TM_NN_REF_TRACKS_STEPS_H

#include "nn/stages.h"

#define TM_REF_NONE UINT32_MAX

/* Links between points: next and prev [points->n], TM_REF_NONE where there is none, and the logit of
 * the link to next. */
typedef struct {
    const tm_pipeline_t *pipeline;
    const tm_points_t *points;
    uint32_t *next, *prev;
    float *logit;
} tm_ref_links_t;

/* Split, join, select, where the pipeline has them. TM_E_NO_MEMORY. */
tm_status_t tm_ref_track_steps(tm_ref_links_t *links, tm_error_t *err);

/* What the fit of some points gives. */
typedef struct {
    double chi2_circle, chi2_line; /* per degree of freedom; 0 where there is none */
    double curvature, cot_theta;
    double phi, d0, z0; /* at the point of closest approach to the z axis */
} tm_ref_fit_t;

/* kinks: with the errors of the start values. false: the points have no fit. */
bool tm_ref_fit(const tm_pipeline_t *pipeline, const tm_points_t *points, const uint32_t *row,
                uint32_t n, bool kinks, tm_ref_fit_t *fit);

#endif
