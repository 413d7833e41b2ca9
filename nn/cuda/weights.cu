// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "nn/cuda/mlp.cuh"

#define ALIGNMENT 256
#define MLPS_MAX (5 + 2 * TM_GNN_STEPS_MAX)
#define HALF_MAX 65504.0f

/* What will be copied to the GPU in one piece. */
typedef struct {
    char *data;
    size_t bytes, capacity;
} image_t;

/* Appends zeroed bytes and says where; NULL: no memory. */
static void *append(image_t *image, size_t bytes, size_t *offset) {
    size_t at = (image->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (at + bytes > image->capacity) {
        size_t capacity = 2 * (at + bytes);
        char *data = (char *)realloc(image->data, capacity);
        if (!data) {
            return NULL;
        }
        image->data = data;
        image->capacity = capacity;
    }
    memset(image->data + image->bytes, 0, at + bytes - image->bytes);
    image->bytes = at + bytes;
    *offset = at;
    return image->data + at;
}

static bool append_f32(image_t *image, const float *values, size_t n, size_t *offset) {
    void *to = append(image, n * sizeof *values, offset);
    if (to) {
        memcpy(to, values, n * sizeof *values);
    }
    return to != NULL;
}

static bool append_f16(image_t *image, const float *values, size_t n, size_t *offset) {
    __half *to = (__half *)append(image, n * sizeof *to, offset);
    for (size_t i = 0; i < n && to; i++) {
        to[i] = __float2half_rn(values[i]);
    }
    return to != NULL;
}

/* Batch normalisation at inference is one multiplication and one addition per column. */
static bool append_batch_norm(image_t *image, const tm_op_t *from, tm_gpu_op_t *op) {
    float *gain = (float *)append(image, from->out * sizeof *gain, &op->gain);
    for (uint32_t i = 0; i < from->out && gain; i++) {
        gain[i] = (float)(from->weight[i] / sqrt((double)from->var[i] + (double)from->eps));
    }
    float *shift = gain ? (float *)append(image, from->out * sizeof *shift, &op->shift) : NULL;
    for (uint32_t i = 0; i < from->out && shift; i++) {
        double scale = from->weight[i] / sqrt((double)from->var[i] + (double)from->eps);
        shift[i] = (float)(from->bias[i] - from->mean[i] * scale);
    }
    return shift != NULL;
}

static bool append_linear(image_t *image, const tm_op_t *from, bool half, tm_gpu_layer_t *layer) {
    size_t n = (size_t)from->in * from->out;
    layer->linear = true;
    return append_f32(image, from->weight, n, &layer->w32) &&
           (!half || append_f16(image, from->weight, n, &layer->w16)) &&
           (!from->bias || append_f32(image, from->bias, from->out, &layer->bias));
}

static bool append_op(image_t *image, const tm_op_t *from, tm_gpu_op_t *op) {
    *op = (tm_gpu_op_t){
        .kind = from->kind, .gain = TM_GPU_NOWHERE, .shift = TM_GPU_NOWHERE, .eps = from->eps};
    if (from->kind == TM_OP_BATCH_NORM) {
        return append_batch_norm(image, from, op);
    }
    return from->kind != TM_OP_LAYER_NORM ||
           (append_f32(image, from->weight, from->out, &op->gain) &&
            append_f32(image, from->bias, from->out, &op->shift));
}

static tm_gpu_layer_t *begin_layer(tm_gpu_mlp_t *mlp, uint32_t in, uint32_t out) {
    tm_gpu_layer_t *layer = &mlp->layer[mlp->n_layers++];
    layer->linear = false;
    layer->in = in;
    layer->out = out;
    layer->w32 = layer->w16 = layer->bias = TM_GPU_NOWHERE;
    layer->n_ops = 0;
    return layer;
}

/* Cuts the list of operations into layers. */
static bool append_mlp(image_t *image, const tm_mlp_t *from, bool half, tm_gpu_mlp_t *mlp) {
    mlp->n_layers = 0;
    mlp->in = from->in;
    mlp->out = from->out;
    mlp->max_width = from->max_width;
    if (from->out == 0) {
        return true; /* the pipeline has no such MLP */
    }
    tm_gpu_layer_t *layer = NULL;
    for (uint32_t k = 0; k < from->n_ops; k++) {
        const tm_op_t *op = &from->op[k];
        if (op->kind == TM_OP_LINEAR) {
            layer = begin_layer(mlp, op->in, op->out);
            if (!append_linear(image, op, half, layer)) {
                return false;
            }
            continue;
        }
        if (!layer || layer->n_ops == TM_GPU_EPILOGUE_OPS) {
            layer = begin_layer(mlp, op->in, op->out);
        }
        if (!append_op(image, op, &layer->op[layer->n_ops++])) {
            return false;
        }
    }
    if (!layer) {
        begin_layer(mlp, from->in, from->out); /* no operation at all: a copy */
    }
    return true;
}

/* The greatest value that can leave the operation when none above `bound` enters it. */
static double bound_after(const tm_op_t *op, double bound) {
    bool sums = op->kind == TM_OP_LINEAR || op->kind == TM_OP_BATCH_NORM;
    if (sums && !isfinite(bound)) {
        return INFINITY;
    }
    double greatest = 0;
    for (uint32_t i = 0; i < op->out; i++) {
        double value = bound;
        if (op->kind == TM_OP_LINEAR) {
            value = op->bias ? fabs(op->bias[i]) : 0;
            for (uint32_t j = 0; j < op->in; j++) {
                value += fabs(op->weight[(size_t)i * op->in + j]) * bound;
            }
        } else if (op->kind == TM_OP_LAYER_NORM) { /* a normalised row is no longer than √width */
            value = fabs(op->weight[i]) * sqrt((double)op->out) + fabs(op->bias[i]);
        } else if (op->kind == TM_OP_BATCH_NORM) {
            double gain = fabs(op->weight[i]) / sqrt((double)op->var[i] + (double)op->eps);
            value = gain * (bound + fabs(op->mean[i])) + fabs(op->bias[i]);
        } else if (op->kind == TM_OP_TANH || op->kind == TM_OP_SIGMOID) {
            value = 1;
        }
        greatest = value > greatest ? value : greatest;
    }
    return greatest;
}

/* Whether fp16 can hold the weights and what passes between the layers, whatever the event: nothing
 * is known of what enters the MLP, so an operation with bounded results must come before the second
 * product (plain ReLU is none, nor is batch normalisation with statistics of the past). *result
 * becomes the greatest value that can come out. */
static bool fits_half(const tm_mlp_t *mlp, double *result) {
    double bound = INFINITY;
    bool first = true;
    for (uint32_t k = 0; k < mlp->n_ops; k++) {
        const tm_op_t *op = &mlp->op[k];
        size_t n = op->kind == TM_OP_LINEAR ? (size_t)op->in * op->out : 0;
        if (n > 0 && !first && !(bound <= HALF_MAX)) {
            return false;
        }
        first = first && n == 0;
        for (size_t i = 0; i < n; i++) {
            if (!(fabsf(op->weight[i]) <= HALF_MAX)) {
                return false;
            }
        }
        bound = bound_after(op, bound);
    }
    *result = bound;
    return true;
}

/* Edge states are kept in fp16, and with a residual they add up from step to step. */
static bool edge_states_fit_half(const tm_pipeline_t *p, double encoded, double updated) {
    double steps = p->gnn.edge_residual ? p->gnn.steps : 1;
    return p->gnn.kind != TM_GNN_INTERACTION ||
           (encoded <= HALF_MAX && updated <= HALF_MAX && encoded + steps * updated <= HALF_MAX);
}

/* An MLP of the pipeline and its place on the GPU. */
typedef struct {
    const tm_mlp_t *from;
    tm_gpu_mlp_t *to;
} mlp_t;

/* All MLPs of the pipeline, after room was made for those of the steps; returns how many, or 0: no
 * memory. The first is the edge encoder, then come the n_weights edge MLPs. */
static size_t list_mlps(tm_gpu_t *gpu, mlp_t mlps[MLPS_MAX]) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    const uint32_t n_weights = p->gnn.n_weights;
    if (n_weights > 0) {
        gpu->node_mlp = (tm_gpu_mlp_t *)calloc(n_weights, sizeof *gpu->node_mlp);
        gpu->edge_mlp = (tm_gpu_mlp_t *)calloc(n_weights, sizeof *gpu->edge_mlp);
        if (!gpu->node_mlp || !gpu->edge_mlp) {
            return 0;
        }
    }
    size_t n = 0;
    mlps[n++] = {&p->gnn.edge_encoder, &gpu->edge_encoder};
    for (uint32_t step = 0; step < n_weights; step++) {
        mlps[n++] = {&p->gnn.edge_mlp[step], &gpu->edge_mlp[step]};
    }
    for (uint32_t step = 0; step < n_weights; step++) {
        mlps[n++] = {&p->gnn.node_mlp[step], &gpu->node_mlp[step]};
    }
    mlps[n++] = {&p->embed.mlp, &gpu->embed};
    mlps[n++] = {&p->filter.mlp, &gpu->filter};
    mlps[n++] = {&p->gnn.node_encoder, &gpu->node_encoder};
    mlps[n++] = {&p->gnn.output, &gpu->output};
    return n;
}

tm_status_t tm_gpu_weights_load(tm_gpu_t *gpu, tm_cuda_precision_t precision, tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    mlp_t mlps[MLPS_MAX];
    const size_t n_mlps = list_mlps(gpu, mlps);
    bool half = precision == TM_CUDA_HALF;
    double encoded = 0;
    double updated = 0; /* by the step that adds most */
    for (size_t k = 0; k < n_mlps; k++) {
        double result = 0;
        half = half && fits_half(mlps[k].from, &result);
        if (k == 0) {
            encoded = result;
        } else if (k <= p->gnn.n_weights && result > updated) {
            updated = result;
        }
    }
    half = half && edge_states_fit_half(p, encoded, updated);
    gpu->type = half ? TM_GPU_F16 : TM_GPU_F32;
    image_t image = {};
    bool ok = n_mlps > 0;
    for (size_t k = 0; k < n_mlps && ok; k++) {
        ok = append_mlp(&image, mlps[k].from, half, mlps[k].to);
    }
    char *weights = NULL;
    tm_status_t status = ok ? TM_OK : tm_error_set(err, TM_E_NO_MEMORY, "no memory for weights");
    if (status == TM_OK) {
        status = tm_gpu_reserve(gpu, TM_GPU_WEIGHTS, image.bytes, &weights, err);
    }
    if (status == TM_OK && image.bytes > 0) {
        status = tm_gpu_check(
            gpu,
            cudaMemcpyAsync(weights, image.data, image.bytes, cudaMemcpyHostToDevice, gpu->stream),
            "the weights", err);
    }
    if (status == TM_OK) {
        status = tm_gpu_wait(gpu, "the weights", err);
    }
    free(image.data);
    return status;
}
