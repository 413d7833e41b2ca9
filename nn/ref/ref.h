// SPDX-License-Identifier: Apache-2.0
/*
 * The stages once more, as plainly as docs/model-file.md states them: double precision, one row
 * after the other, every pair of points. Slow on purpose; tests compare every device with it.
 */
#ifndef TM_NN_REF_REF_H
#define TM_NN_REF_REF_H

#include "nn/stages.h"

/* Arrays that the stages hand out, each replaced when its stage runs again. */
typedef struct {
    tm_device_t device; /* must come first */
    float *coordinates, *features, *embedding;
    uint32_t *src, *dst;           /* radius */
    uint32_t *kept_src, *kept_dst; /* filter */
    float *filter_logits, *gnn_logits;
} tm_ref_t;

/* Frees *array and puts count zeroed elements in its place; never NULL on success. */
tm_status_t tm_ref_renew(void *array, size_t count, size_t element_bytes, tm_error_t *err);

/* out [mlp->out] = mlp(in [mlp->in]). TM_E_NO_MEMORY. out may be in. */
tm_status_t tm_ref_mlp(const tm_mlp_t *mlp, const double *in, double *out, tm_error_t *err);

double tm_ref_sigmoid(double x);
double tm_ref_wrap_phi(double dphi); /* into (−π, π] */

/* The model's edge features of a → b into out [n_edge_features]. */
void tm_ref_edge_features(const tm_pipeline_t *pipeline, const tm_points_t *points, uint32_t a,
                          uint32_t b, double *out);

tm_status_t tm_ref_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err);
tm_status_t tm_ref_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err);
tm_status_t tm_ref_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err);
tm_status_t tm_ref_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err);
tm_status_t tm_ref_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err);
tm_status_t tm_ref_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err);

#endif
