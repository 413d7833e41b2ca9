// SPDX-License-Identifier: Apache-2.0
/*
 * Runs an MLP over rows whose input is a concatenation of parts.
 *
 * Rows are taken in chunks, so that memory is bounded. A linear layer is cuBLAS products of the parts
 * with their columns of the weight, added up in fp32, and one kernel (a warp per row) for the bias,
 * the norms and the activations that follow. Parts that are looked up per node (x by an edge's source
 * or target) are multiplied once per node, and that kernel gathers the products:
 * W·[e, xs, xd] = We·e + (Ws·x)[src] + (Wd·x)[dst]. Narrow parts are gathered before the product.
 *
 * Between layers, rows are of gpu->type; values beyond the range of fp16 become its largest.
 */
#ifndef TM_NN_CUDA_MLP_CUH
#define TM_NN_CUDA_MLP_CUH

#include "nn/cuda/gpu.cuh"

typedef enum {
    TM_GPU_PART_ROWS,         /* data[i, :] */
    TM_GPU_PART_SRC,          /* data[edges->src[i], :], fp32 [points->n, width] */
    TM_GPU_PART_DST,          /* data[edges->dst[i], :], likewise */
    TM_GPU_PART_EDGE_FEATURES /* of edges, computed from points */
} tm_gpu_part_kind_t;

typedef struct {
    tm_gpu_part_kind_t kind;
    tm_gpu_type_t type; /* of data; ROWS only, others are fp32 */
    uint32_t width;
    const void *data;
} tm_gpu_part_t;

typedef struct {
    const tm_gpu_mlp_t *mlp;
    uint32_t rows;
    uint32_t n_parts; /* whose widths add up to mlp->in */
    tm_gpu_part_t part[TM_INPUTS_MAX];
    const tm_points_t *points; /* where a part wants them, like edges */
    const tm_edges_t *edges;   /* rows of them */
    tm_gpu_type_t out_type;
    void *out;            /* [rows, mlp->out]; may be the data of a ROWS part, or the residual */
    const void *residual; /* of out_type, added to the output; or NULL */
} tm_gpu_mlp_call_t;

tm_status_t tm_gpu_mlp_run(tm_gpu_t *gpu, const tm_gpu_mlp_call_t *call, tm_error_t *err);

/* Brings all weights of the pipeline to the GPU and sets gpu->type and gpu's MLPs. */
tm_status_t tm_gpu_weights_load(tm_gpu_t *gpu, tm_cuda_precision_t precision, tm_error_t *err);

#endif
