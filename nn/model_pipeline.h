// SPDX-License-Identifier: Apache-2.0
/*
 * Reading the pipeline of a model file (docs/model-file.md) from its JSON. Internal to the loader.
 */
#ifndef TM_NN_MODEL_PIPELINE_H
#define TM_NN_MODEL_PIPELINE_H

#include "nn/model_json.h"
#include "nn/model_weights.h"
#include "nn/pipeline.h"

#define TM_MODEL_FORMAT 1

/* Ranges that the file's values must keep to; docs/model-file.md prints them. */
#define TM_SCALE_MIN 1e-12
#define TM_SCALE_MAX 1e12
#define TM_RADIUS_MIN 1e-6
#define TM_RADIUS_MAX 1e6
#define TM_RADIUS_K_MAX 65535
#define TM_DPHI_CUT_MAX 10.0
#define TM_LENGTH_CUT_MAX_MM 1e6
#define TM_SCORE_CUT_MAX 0.999999 /* sigmoid(logit) > 1 would never hold */
#define TM_MIN_POINTS_MIN 2
#define TM_MIN_POINTS_MAX 1000

typedef struct {
    const char *name, *version; /* borrowed from the JSON */
} tm_pipeline_names_t;

/* Reads and checks the whole object. *pipeline borrows from the weights; tm_pipeline_clear it, after
 * a failure too. */
tm_status_t tm_pipeline_read(const json_t *json, tm_weights_t *weights, tm_pipeline_t *pipeline,
                             tm_pipeline_names_t *names, tm_error_t *err);
void tm_pipeline_clear(tm_pipeline_t *pipeline);

/* The stages' feature lists; model_features.c. */
tm_status_t tm_features_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err);
tm_status_t tm_edge_features_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err);
/* The "features" of a stage, or all of the model's where it has none. `names` are the model's. */
tm_status_t tm_feature_list_read(const tm_node_t *root, const tm_node_t *stage,
                                 const tm_pipeline_t *pipeline, tm_feature_list_t *list,
                                 tm_error_t *err);

/* The tracks section, after all that it refers to; model_tracks.c. */
tm_status_t tm_tracks_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err);

#endif
