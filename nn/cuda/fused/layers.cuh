// SPDX-License-Identifier: Apache-2.0
/*
 * A model file's layers as the fused kernels see them.
 */
#ifndef TM_NN_CUDA_FUSED_LAYERS_CUH
#define TM_NN_CUDA_FUSED_LAYERS_CUH

#include "nn/cuda/fused/model.cuh"

#define TM_FUSED_NARROW_MAX 128u /* the widest of the fused filter and gnn */

/* A linear operation, and the norm and activation that follow it. */
typedef struct {
    const tm_op_t *linear;
    const tm_op_t *norm; /* LAYER_NORM, BATCH_NORM or NULL */
    tm_fused_act_t act;
} tm_fused_unit_t;

typedef struct {
    uint32_t n;
    tm_fused_unit_t unit[TM_FUSED_LAYERS_MAX + 1];
} tm_fused_units_t;

/* Linear, norm?, activation?, again and again; false: another order, which is for the general path. */
bool tm_fused_units_of(const tm_mlp_t *mlp, tm_fused_units_t *units);

/* Whether the part is among the inputs. */
bool tm_fused_has_input(const tm_inputs_t *inputs, tm_input_kind_t part);

#endif
