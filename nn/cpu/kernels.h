// SPDX-License-Identifier: Apache-2.0
/*
 * The inner loops of the CPU engine, compiled once per instruction set and chosen at run time
 * (or for this machine alone under TM_NATIVE). Everything here is plain C that compilers vectorise.
 *
 * Thread-safe: no state. All arrays are borrowed and row-major unless said otherwise.
 */
#ifndef TM_NN_CPU_KERNELS_H
#define TM_NN_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "nn/pipeline.h"
#include "nn/stages.h"

/* Points of one tile of the radius search: one bit each in a mask. */
#define TM_TILE 64
/* Boxes tested at a time. */
#define TM_BOX_GROUP 8
/* Edges whose features are computed at a time. */
#define TM_EDGE_BLOCK 256

typedef enum {
    TM_ACT_NONE,
    TM_ACT_RELU,
    TM_ACT_SILU,
    TM_ACT_TANH,
    TM_ACT_SIGMOID,
    TM_ACT_GELU
} tm_act_t;

typedef struct {
    const char *name; /* of the instruction set, for reports */

    /* block [rows, width], in place: + bias, then layer norm (gain, shift, eps), then activation.
     * bias NULL: none; gain NULL: no norm. */
    void (*epilogue)(float *block, size_t rows, size_t width, const float *bias, const float *gain,
                     const float *shift, float eps, tm_act_t act);

    /* block [rows, width], in place: x · scale + shift, per column. */
    void (*affine)(float *block, size_t rows, size_t width, const float *scale, const float *shift);

    /* out[i] = a[i, :] · w + bias: a linear layer with one output. */
    void (*matvec)(const float *a, size_t rows, size_t width, const float *w, float bias,
                   float *out);

    /* block [rows, width] = table_a[index_a[i], :] (+ table_b[index_b[i], :] unless NULL). */
    void (*gather)(float *block, size_t rows, size_t width, const float *table_a,
                   const uint32_t *index_a, const float *table_b, const uint32_t *index_b);

    /* out[i] += x[i] */
    void (*add)(float *out, const float *x, size_t n);
    /* out[i] += w · x[i] */
    void (*add_scaled)(float *out, const float *x, float w, size_t n);
    /* out[i] = max(out[i], x[i]) */
    void (*maximum)(float *out, const float *x, size_t n);

    /* Each row of block divided by max(its norm, 1e-12). Returns the first row with a value that is
     * not finite, or rows. */
    size_t (*normalize)(float *block, size_t rows, size_t width, int divide);

    /* Squared distances from query [dims] to the TM_TILE points of tile [dims, TM_TILE] into d2;
     * dims is a multiple of 4. Bit j of the result: d2[j] <= r2 and key[j] >= least_key. */
    uint64_t (*tile_hits)(const float *query, const float *tile, size_t dims, float r2,
                          const float *key, float least_key, float *d2);

    /* Which of n boxes come within r2 (squared) of query [dims] and have key >= least_key: their
     * names[] into out, in order; returns their number. boxes: in groups of TM_BOX_GROUP, each
     * [dims, 2 (low, high), TM_BOX_GROUP]; key is filled up to a whole group with −infinity. */
    uint32_t (*boxes_reached)(const float *query, const float *boxes, uint32_t n, size_t dims,
                              float r2, const float *key, float least_key, const uint32_t *names,
                              uint32_t *out);

    /* Features of edges src[i] → dst[i] into out[i * stride …]. */
    void (*edge_features)(const tm_pipeline_t *pipeline, const tm_points_t *points,
                          const uint32_t *src, const uint32_t *dst, size_t rows, float *out,
                          size_t stride);
} tm_kernels_t;

/* The best set that this processor runs. */
const tm_kernels_t *tm_cpu_kernels(void);

#endif
