// SPDX-License-Identifier: Apache-2.0
/*
 * Runs an MLP over rows whose input is a concatenation of parts.
 *
 * Rows are taken in blocks of a size that depends on the MLP alone; one thread takes a block through
 * all layers while it is in its cache, gathering the parts as it goes, so that nothing of size
 * rows · width is ever materialised but the output. Where the first layer is linear and a part is
 * looked up in a smaller table (node states by an edge's source or target), the part's product with
 * its columns of the weight is computed once per row of the table and gathered instead:
 * W·[e, xs, xd] = We·e + (Ws·x)[src] + (Wd·x)[dst].
 */
#ifndef TM_NN_CPU_MLP_H
#define TM_NN_CPU_MLP_H

#include "nn/cpu/cpu.h"

typedef enum {
    TM_PART_ROWS,          /* data[i, :] */
    TM_PART_INDEXED,       /* data[index[i], :] of a table of data_rows */
    TM_PART_EDGE_FEATURES, /* of points at src[i], dst[i] */
    TM_PART_SUM,           /* over the edges k in [offsets[i], offsets[i+1]) of data[order[k], :] */
    TM_PART_MAX,           /* order NULL: data[k, :] */
    TM_PART_MEAN
} tm_part_kind_t;

typedef struct {
    tm_part_kind_t kind;
    uint32_t width;
    const float *data;
    const uint32_t *index;
    uint32_t data_rows;
    const uint32_t *offsets, *order;
    const tm_points_t *points;
    const uint32_t *src, *dst;
} tm_part_t;

/* out [rows, mlp->out] = mlp(parts), + residual [rows, mlp->out] unless NULL (may be out itself).
 * out may also be a part of kind ROWS, as each row is read before it is written; else no overlap.
 * n_parts <= TM_INPUTS_MAX; the widths of the parts add up to mlp->in. */
tm_status_t tm_cpu_mlp(tm_cpu_t *cpu, const tm_mlp_t *mlp, const tm_part_t *parts, uint32_t n_parts,
                       uint32_t rows, const float *residual, float *out, tm_error_t *err);

#endif
