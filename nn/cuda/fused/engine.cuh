// SPDX-License-Identifier: Apache-2.0
/*
 * The fused path of one context: weights, memory, graphs, and batches through it.
 */
#ifndef TM_NN_CUDA_FUSED_ENGINE_CUH
#define TM_NN_CUDA_FUSED_ENGINE_CUH

#include "nn/cuda/gpu.cuh"

/* *out stays NULL where the pipeline or the precision is not for the fused path. */
tm_status_t tm_fused_open(tm_gpu_t *gpu, tm_fused_t **out, tm_error_t *err);
void tm_fused_close(tm_gpu_t *gpu, tm_fused_t **p);

/* nn/stages.h, find. */
tm_status_t tm_fused_find(tm_gpu_t *gpu, tm_fused_t *fused, tm_engine_item_t *items, uint32_t n,
                          bool *ran, tm_error_t *err);

/* nn/cuda/cuda.h, tm_cuda_view; false: there was no batch */
bool tm_fused_view(const tm_fused_t *fused, tm_cuda_view_t *view);

#endif
