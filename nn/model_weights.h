// SPDX-License-Identifier: Apache-2.0
/*
 * The tensors of a model file as float32, and which of them the pipeline has asked for. Internal to
 * the model file loader.
 */
#ifndef TM_NN_MODEL_WEIGHTS_H
#define TM_NN_MODEL_WEIGHTS_H

#include <stdbool.h>

#include "nn/safetensors.h"

#define TM_WEIGHTS_ALIGNMENT 64 /* bytes; of every tensor's values */

typedef struct tm_weights tm_weights_t;

typedef struct {
    const tm_tensor_t *tensor; /* name and shape; borrowed from the container */
    const float *values;       /* owned by the weights; aligned */
} tm_weight_t;

/* Converts every tensor. TM_E_MODEL_FILE: a value is not finite (as float32). The container is
 * borrowed until tm_weights_forget_file. */
tm_status_t tm_weights_new(const tm_safetensors_t *file, tm_weights_t **out, tm_error_t *err);
void tm_weights_destroy(tm_weights_t **p);

/* Finds a tensor and notes that it is used; `learned` ones count as parameters. False: no such. */
bool tm_weights_use(tm_weights_t *weights, const char *name, bool learned, tm_weight_t *out);

/* The first tensor that was never used, or NULL. */
const tm_tensor_t *tm_weights_unused(const tm_weights_t *weights);

/* Elements of all used learned tensors, each counted once. */
uint64_t tm_weights_parameters(const tm_weights_t *weights);

/* Drops what refers to the container; the values stay. */
void tm_weights_forget_file(tm_weights_t *weights);

#endif
