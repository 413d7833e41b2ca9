// SPDX-License-Identifier: Apache-2.0
/*
 * The stages on NVIDIA GPUs (compute capability 8.0 and later). nn/stages.h is the contract;
 * docs/engine.md says how the GPU does it.
 *
 * Arrays that stages take and hand out lie in the memory of the GPU; event columns and tracks on the
 * host. Each stage has finished when it returns. A context has one stream and its own buffers, which
 * are kept from event to event and grow when an event is larger than all before.
 *
 * Errors beyond those of the stages: TM_E_BACKEND. A context that met an error which the driver does
 * not recover from (a fault in a kernel, of the hardware) answers everything with TM_E_BACKEND
 * "…: the process must be restarted". After TM_E_NO_MEMORY it goes on as before.
 *
 * Threads: any number of contexts, each used by one thread at a time, on any number of GPUs.
 */
#ifndef TM_NN_CUDA_CUDA_H
#define TM_NN_CUDA_CUDA_H

#include "nn/stages.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    TM_CUDA_HALF, /* layers multiply fp16 and add up in fp32 */
    TM_CUDA_SINGLE /* fp32 throughout: for tests, and chosen for models that fp16 cannot hold (docs/engine.md) */
} tm_cuda_precision_t;

typedef struct {
    int ordinal; /* which GPU */
    tm_cuda_precision_t precision;
    size_t memory_max_bytes; /* of GPU memory that the context may take; 0: what there is */
    bool one_by_one; /* no fused path (docs/engine.md), even where the model allows it: for tests */
} tm_cuda_options_t;

/* How many GPUs there are that the engine can use. 0: none, and *err (may be NULL) says why and how to
 * mend it, with TM_E_BACKEND. */
int tm_cuda_count(tm_error_t *err);

/* "NVIDIA H200" of the GPU `ordinal` into name, cut to fit; "unknown" where it cannot be asked. */
void tm_cuda_name(int ordinal, char *name, size_t bytes);

/* A context for one pipeline, which is borrowed until tm_stages_cuda.close. TM_E_BACKEND: no such
 * GPU, too old, or cuBLAS is missing (which a model that takes the fused path needs only for events
 * that leave it). */
tm_status_t tm_cuda_open(const tm_pipeline_t *pipeline, const tm_cuda_options_t *options,
                         tm_device_t **out, tm_error_t *err);

/* GPU memory that the context holds. */
size_t tm_cuda_memory_bytes(const tm_device_t *device);

/* For tests: what there was of the last batch that went through all stages at once, in GPU memory and
 * valid until the next one. Between embedding and tracks, points are numbered as `nodes`. */
typedef struct {
    uint32_t n_points, n_edges, n_kept;
    const float *embedding;                          /* [n_points, dim] by row */
    const uint32_t *order;                           /* row of a node */
    const uint32_t *src, *dst, *kept_src, *kept_dst; /* nodes */
    const float *logits;                             /* [n_kept] */
} tm_cuda_view_t;

/* False: the model goes stage by stage, or there was no batch yet. */
bool tm_cuda_view(const tm_device_t *device, tm_cuda_view_t *view);

/* For tests and tools: arrays to and from the GPU of a context. *out: tm_cuda_free it. */
tm_status_t tm_cuda_upload(tm_device_t *device, const void *data, size_t bytes, void **out,
                           tm_error_t *err);
tm_status_t tm_cuda_download(tm_device_t *device, const void *data, size_t bytes, void *out,
                             tm_error_t *err);
void tm_cuda_free(tm_device_t *device, void **p);

/* open: on the first GPU, in fp16; `threads` means nothing here. */
extern const tm_stages_t tm_stages_cuda;
extern const tm_stages_t tm_stages_cuda_one_by_one; /* opens contexts without the fused path */

#ifdef __cplusplus
}
#endif
#endif
