// SPDX-License-Identifier: Apache-2.0
/*
 * The CPU device context and its stages, one per file of this folder. nn/stages.h is the contract.
 *
 * Every parallel loop of the engine runs over blocks of fixed size that are computed by one thread
 * each and write to places of their own: that, and nothing else, makes results independent of the
 * number of threads.
 */
#ifndef TM_NN_CPU_CPU_H
#define TM_NN_CPU_CPU_H

#include "nn/cpu/kernels.h"
#include "nn/cpu/memory.h"
#include "nn/stages.h"
#include "nn/tracks_post.h"

typedef struct tm_radius tm_radius_t; /* nn/cpu/radius.c */

typedef struct {
    tm_device_t device; /* must come first: stages get a tm_device_t and cast */
    const tm_kernels_t *kernels;
    int threads_max; /* asked for */
    int threads;     /* used for the present event: see tm_cpu_choose_threads */

    tm_buffer_t scratch; /* threads_max * scratch_bytes: see tm_cpu_scratch */
    size_t scratch_bytes;
    tm_buffer_t table_a, table_b; /* mlp: the first layer's products per node */

    tm_buffer_t points, features, column;         /* features */
    tm_buffer_t selected;                         /* features of the running stage */
    tm_buffer_t embedding;                        /* embed */
    tm_radius_t *radius;                          /* radius */
    tm_buffer_t src, dst;                         /* radius */
    tm_buffer_t kept_src, kept_dst, kept_logits;  /* filter */
    tm_buffer_t chunk_logits;                     /* filter */
    tm_buffer_t x, x_next, x0, e, e0, m, weights; /* gnn */
    tm_buffer_t src_offsets, dst_offsets, by_dst; /* gnn */
    tm_buffer_t logits;                           /* gnn */
    tm_buffer_t order, used;                      /* tracks */
    tm_buffer_t link_src, link_dst, link_logits;  /* tracks */
    tm_post_t *post;                              /* tracks */
} tm_cpu_t;

/* Whether the caller wants the event no more. */
static inline bool tm_cpu_cancelled(const tm_cpu_t *cpu) {
    return cpu->device.cancelled && *cpu->device.cancelled;
}

/* TM_OK, or TM_E_CANCELLED with its text. */
tm_status_t tm_cpu_check_cancelled(const tm_cpu_t *cpu, tm_error_t *err);

/* Sets how many threads an event of n points is worth. Few points are done sooner by one thread than
 * two threads meet, the more so where other programs keep a processor busy. */
void tm_cpu_choose_threads(tm_cpu_t *cpu, uint32_t n);

/* Makes every thread's scratch at least this large; called outside parallel regions. */
tm_status_t tm_cpu_scratch_reserve(tm_cpu_t *cpu, size_t bytes, tm_error_t *err);
/* The calling thread's scratch, inside a parallel region. */
void *tm_cpu_scratch(const tm_cpu_t *cpu);

/* The features that a stage asks for: [n, list->n], gathered into cpu->selected, or `features`
 * itself where the list is all of them in order. Valid until the next call. */
tm_status_t tm_cpu_select_features(tm_cpu_t *cpu, const tm_feature_list_t *list, uint32_t n,
                                   const float *features, const float **out, tm_error_t *err);

tm_radius_t *tm_radius_new(int threads); /* NULL: no memory */
void tm_radius_destroy(tm_radius_t **p);

tm_status_t tm_cpu_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err);
tm_status_t tm_cpu_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err);
tm_status_t tm_cpu_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err);
tm_status_t tm_cpu_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err);
tm_status_t tm_cpu_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err);
tm_status_t tm_cpu_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err);

#endif
