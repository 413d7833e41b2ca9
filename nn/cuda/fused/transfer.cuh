// SPDX-License-Identifier: Apache-2.0
/*
 * A batch on its way to the GPU and its tracks on their way back, both through one piece of pinned
 * memory: the answer overwrites the events, which are there no more when it comes.
 */
#ifndef TM_NN_CUDA_FUSED_TRANSFER_CUH
#define TM_NN_CUDA_FUSED_TRANSFER_CUH

#include "nn/cuda/fused/post.cuh"

/* The columns that a model asks for: x, y, z, then those of its features. */
typedef struct {
    uint32_t n_columns;
    const char *name[TM_FUSED_COLUMNS_MAX]; /* borrowed from the pipeline */
} tm_fused_wanted_t;

/* Tracks of a whole batch as they came down, by row of the batch; borrowed from the pinned memory. */
typedef struct {
    const tm_fused_counts_t *counts;
    const uint32_t *offsets, *indices;
    const float *scores;
    const float *starts[5]; /* pt, phi, eta, d0, z0; NULL where the model has no fit */
    const int8_t *charge;
} tm_fused_result_t;

void tm_fused_wanted_columns(const tm_pipeline_t *p, tm_fused_wanted_t *wanted);

/* TM_E_MISSING_COLUMN */
tm_status_t tm_fused_check_columns(const tm_fused_wanted_t *wanted, const tm_columns_t *event,
                                   tm_error_t *err);

/* Bytes of GPU memory for the columns of n points. */
size_t tm_fused_columns_bytes(const tm_fused_wanted_t *wanted, size_t n);

/* Bytes of pinned memory for a batch of the plan's capacity, up or down. */
size_t tm_fused_transfer_bytes(const tm_fused_wanted_t *wanted, const tm_fused_plan_t *plan,
                               const tm_fused_post_t *post, const tm_pipeline_t *p);

/* Puts header, tiles and columns of n events into the stream; returns while they are on their way. */
tm_status_t tm_fused_upload(tm_gpu_t *gpu, const tm_fused_wanted_t *wanted,
                            const tm_fused_plan_t *plan, const tm_engine_item_t *items, uint32_t n,
                            char *pinned, tm_error_t *err);

/* Fetches the answer for n_points points, and waits for it. post: as in the plan's bucket */
tm_status_t tm_fused_download(tm_gpu_t *gpu, const tm_fused_plan_t *plan,
                              const tm_fused_post_t *post, uint32_t n_points, char *pinned,
                              tm_fused_result_t *result, tm_error_t *err);

/* Zeros where answers go. All that an answer can hold comes down, and what is behind the tracks that
 * there are would else be memory that nobody wrote. */
tm_status_t tm_fused_clear_answer(tm_gpu_t *gpu, const tm_fused_plan_t *plan,
                                  const tm_fused_post_t *post, tm_error_t *err);

/* Each event's tracks. TM_E_NO_MEMORY: items before that one have theirs. */
tm_status_t tm_fused_hand_out(const tm_fused_result_t *result, tm_engine_item_t *items, uint32_t n,
                              tm_error_t *err);

#endif
