// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/ref/ref.h"

double tm_ref_sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static void linear(const tm_op_t *op, const double *in, double *out) {
    for (uint32_t o = 0; o < op->out; o++) {
        double sum = op->bias ? (double)op->bias[o] : 0;
        for (uint32_t i = 0; i < op->in; i++) {
            sum += (double)op->weight[(size_t)o * op->in + i] * in[i];
        }
        out[o] = sum;
    }
}

static void layer_norm(const tm_op_t *op, const double *in, double *out) {
    double mean = 0;
    double variance = 0;
    for (uint32_t i = 0; i < op->in; i++) {
        mean += in[i] / op->in;
    }
    for (uint32_t i = 0; i < op->in; i++) {
        variance += (in[i] - mean) * (in[i] - mean) / op->in;
    }
    for (uint32_t i = 0; i < op->in; i++) {
        double normal = (in[i] - mean) / sqrt(variance + (double)op->eps);
        out[i] = normal * (double)op->weight[i] + (double)op->bias[i];
    }
}

static void batch_norm(const tm_op_t *op, const double *in, double *out) {
    for (uint32_t i = 0; i < op->in; i++) {
        double normal = (in[i] - (double)op->mean[i]) / sqrt((double)op->var[i] + (double)op->eps);
        out[i] = normal * (double)op->weight[i] + (double)op->bias[i];
    }
}

static double activate(tm_op_kind_t kind, double x) {
    switch (kind) {
    case TM_OP_RELU:
        return x > 0 ? x : 0;
    case TM_OP_SILU:
        return x * tm_ref_sigmoid(x);
    case TM_OP_TANH:
        return tanh(x);
    case TM_OP_SIGMOID:
        return tm_ref_sigmoid(x);
    case TM_OP_GELU:
        return x * 0.5 * (1 + erf(x / sqrt(2)));
    case TM_OP_LINEAR:
    case TM_OP_LAYER_NORM:
    case TM_OP_BATCH_NORM:
        break;
    }
    return x;
}

tm_status_t tm_ref_mlp(const tm_mlp_t *mlp, const double *in, double *out, tm_error_t *err) {
    double *x = malloc(mlp->max_width * sizeof *x);
    double *y = malloc(mlp->max_width * sizeof *y);
    if (!x || !y) {
        free(x);
        free(y);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a layer");
    }
    memcpy(x, in, mlp->in * sizeof *x);
    for (uint32_t k = 0; k < mlp->n_ops; k++) {
        const tm_op_t *op = &mlp->op[k];
        if (op->kind == TM_OP_LINEAR) {
            linear(op, x, y);
        } else if (op->kind == TM_OP_LAYER_NORM) {
            layer_norm(op, x, y);
        } else if (op->kind == TM_OP_BATCH_NORM) {
            batch_norm(op, x, y);
        } else {
            for (uint32_t i = 0; i < op->in; i++) {
                y[i] = activate(op->kind, x[i]);
            }
        }
        double *swap = x;
        x = y;
        y = swap;
    }
    memcpy(out, x, mlp->out * sizeof *out);
    free(x);
    free(y);
    return TM_OK;
}
