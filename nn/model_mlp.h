// SPDX-License-Identifier: Apache-2.0
/*
 * Reading one MLP of the pipeline: its list of operations, checked against the shapes of the tensors
 * that they name. Where every step of a graph network has weights of its own, "{step}" stands for
 * the number of the step, from 0, in the names of their tensors. Internal to the model file loader.
 */
#ifndef TM_NN_MODEL_MLP_H
#define TM_NN_MODEL_MLP_H

#include "nn/model_json.h"
#include "nn/model_weights.h"
#include "nn/pipeline.h"

#define TM_EPS_DEFAULT 1e-5f
#define TM_EPS_MIN 1e-12
#define TM_EPS_MAX 1.0

#define TM_NO_STEP UINT32_MAX

/* Whether a tensor that the list under `key` of `stage` names has a step in its name. */
bool tm_mlp_has_steps(const tm_node_t *stage, const char *key);

/* Reads the list of operations under `key` of `stage`, for a step or TM_NO_STEP. `in` is the width of
 * what comes in, 1 to TM_WIDTH_MAX; `out` the width that must come out, or 0: any. *mlp borrows from
 * the weights. */
tm_status_t tm_mlp_read(const tm_node_t *stage, const char *key, uint32_t step, uint32_t in,
                        uint32_t out, tm_weights_t *weights, tm_mlp_t *mlp, tm_error_t *err);

#endif
