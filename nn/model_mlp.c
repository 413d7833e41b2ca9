// SPDX-License-Identifier: Apache-2.0
#include "nn/model_mlp.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define SUFFIX_MAX 16
#define SHAPE_BYTES 64
#define STEP "{step}"

/* In the order of tm_op_kind_t. */
static const char *const op_names[] = {"linear", "layer_norm", "batch_norm", "relu",
                                       "silu",   "tanh",       "sigmoid",    "gelu"};

static void print_shape(const tm_tensor_t *tensor, char text[SHAPE_BYTES]) {
    size_t used = 0;
    for (uint32_t i = 0; i < tensor->rank && used < SHAPE_BYTES; i++) {
        int n = snprintf(text + used, SHAPE_BYTES - used, "%s%" PRIu64, i > 0 ? ", " : "[",
                         tensor->shape[i]);
        used += (size_t)n;
    }
    if (used < SHAPE_BYTES) {
        snprintf(text + used, SHAPE_BYTES - used, "]");
    }
}

/* Finds the tensor `<tensor><suffix>`; `place` is the operation's "tensor" key. */
static tm_status_t use_tensor(const tm_node_t *place, const char *base, const char *suffix,
                              bool learned, tm_weights_t *weights, tm_weight_t *weight,
                              tm_error_t *err) {
    char name[TM_TENSOR_NAME_MAX + SUFFIX_MAX];
    int length = snprintf(name, sizeof name, "%s%s", base, suffix);
    assert(length > 0 && (size_t)length < sizeof name);
    (void)length;
    if (!tm_weights_use(weights, name, learned, weight)) {
        return tm_node_fail(place, err, "the file has no tensor %s", name);
    }
    return TM_OK;
}

/* A vector of `width` elements. */
static tm_status_t use_vector(const tm_node_t *place, const char *base, const char *suffix,
                              bool learned, uint32_t width, tm_weights_t *weights,
                              const float **values, tm_error_t *err) {
    tm_weight_t weight;
    tm_status_t status = use_tensor(place, base, suffix, learned, weights, &weight, err);
    if (status != TM_OK) {
        return status;
    }
    if (weight.tensor->rank != 1 || weight.tensor->shape[0] != width) {
        char shape[SHAPE_BYTES];
        print_shape(weight.tensor, shape);
        return tm_node_fail(place, err, "tensor %s has shape %s where [%" PRIu32 "] is expected",
                            weight.tensor->name, shape, width);
    }
    *values = weight.values;
    return TM_OK;
}

static tm_status_t read_linear(const tm_node_t *node, const tm_node_t *place, const char *base,
                               tm_weights_t *weights, tm_op_t *op, tm_error_t *err) {
    bool bias = true;
    if (tm_node_has(node, "bias")) {
        tm_status_t status = tm_node_get_bool(node, "bias", &bias, err);
        if (status != TM_OK) {
            return status;
        }
    }
    tm_weight_t weight;
    tm_status_t status = use_tensor(place, base, ".weight", true, weights, &weight, err);
    if (status != TM_OK) {
        return status;
    }
    char shape[SHAPE_BYTES];
    print_shape(weight.tensor, shape);
    if (weight.tensor->rank != 2) {
        return tm_node_fail(place, err, "tensor %s has shape %s where [out, in] is expected",
                            weight.tensor->name, shape);
    }
    if (weight.tensor->shape[1] != op->in) {
        return tm_node_fail(place, err,
                            "tensor %s has shape %s, so it takes %" PRIu64 " values, but %" PRIu32
                            " come in",
                            weight.tensor->name, shape, weight.tensor->shape[1], op->in);
    }
    if (weight.tensor->shape[0] > TM_WIDTH_MAX) {
        return tm_node_fail(place, err, "tensor %s has shape %s; at most %d neurons are allowed",
                            weight.tensor->name, shape, TM_WIDTH_MAX);
    }
    op->out = (uint32_t)weight.tensor->shape[0];
    op->weight = weight.values;
    return bias ? use_vector(place, base, ".bias", true, op->out, weights, &op->bias, err) : TM_OK;
}

static tm_status_t read_norm(const tm_node_t *node, const tm_node_t *place, const char *base,
                             tm_weights_t *weights, tm_op_t *op, tm_error_t *err) {
    op->eps = TM_EPS_DEFAULT;
    if (tm_node_has(node, "eps")) {
        tm_status_t status = tm_node_get_float(node, "eps", TM_EPS_MIN, TM_EPS_MAX, &op->eps, err);
        if (status != TM_OK) {
            return status;
        }
    }
    const struct {
        const char *suffix;
        bool learned;
        const float **values;
    } parts[] = {{".weight", true, &op->weight},
                 {".bias", true, &op->bias},
                 {".running_mean", false, &op->mean},
                 {".running_var", false, &op->var}};
    size_t count = op->kind == TM_OP_BATCH_NORM ? COUNT(parts) : 2;
    for (size_t i = 0; i < count; i++) {
        tm_status_t status = use_vector(place, base, parts[i].suffix, parts[i].learned, op->in,
                                        weights, parts[i].values, err);
        if (status != TM_OK) {
            return status;
        }
    }
    for (uint32_t i = 0; op->var != NULL && i < op->in; i++) {
        if (op->var[i] < 0) {
            return tm_node_fail(place, err,
                                "tensor %s.running_var: element %" PRIu32 " is negative", base, i);
        }
    }
    return TM_OK;
}

/* Reads the name of a tensor, with the number of the step where the file leaves room for it. */
static tm_status_t read_base(const tm_node_t *place, uint32_t step,
                             char base[TM_TENSOR_NAME_MAX + 1], tm_error_t *err) {
    const char *text = NULL;
    tm_status_t status = tm_node_string(place, &text, err);
    if (status != TM_OK) {
        return status;
    }
    const char *room = strstr(text, STEP);
    if (room != NULL && step == TM_NO_STEP) {
        return tm_node_fail(place, err,
                            STEP " stands for the number of a step, which only node_mlp and "
                                 "edge_mlp of an interaction gnn have");
    }
    int length = room == NULL ? snprintf(base, TM_TENSOR_NAME_MAX + 1, "%s", text)
                              : snprintf(base, TM_TENSOR_NAME_MAX + 1, "%.*s%" PRIu32 "%s",
                                         (int)(room - text), text, step, room + strlen(STEP));
    if (length < 0 || length > TM_TENSOR_NAME_MAX) {
        return tm_node_fail(place, err, "a tensor name has at most %d bytes", TM_TENSOR_NAME_MAX);
    }
    return TM_OK;
}

static tm_status_t read_op(const tm_node_t *node, uint32_t step, uint32_t in, tm_weights_t *weights,
                           tm_op_t *op, tm_error_t *err) {
    static const char *const all_keys[] = {"op", "tensor", "bias", "eps"};
    static const char *const linear_keys[] = {"op", "tensor", "bias"};
    static const char *const norm_keys[] = {"op", "tensor", "eps"};
    size_t kind = 0;
    tm_status_t status = tm_node_check_object(node, all_keys, COUNT(all_keys), err);
    if (status == TM_OK) {
        status = tm_node_get_word(node, "op", op_names, COUNT(op_names), &kind, err);
    }
    if (status != TM_OK) {
        return status;
    }
    *op = (tm_op_t){.kind = (tm_op_kind_t)kind, .in = in, .out = in};
    bool linear = op->kind == TM_OP_LINEAR;
    bool norm = op->kind == TM_OP_LAYER_NORM || op->kind == TM_OP_BATCH_NORM;
    if (!linear && !norm) {
        return tm_node_check_object(node, all_keys, 1, err);
    }
    status = tm_node_check_object(node, linear ? linear_keys : norm_keys, 3, err);
    if (status != TM_OK) {
        return status;
    }
    tm_node_t place;
    char base[TM_TENSOR_NAME_MAX + 1];
    status = tm_node_get(node, "tensor", &place, err);
    if (status == TM_OK) {
        status = read_base(&place, step, base, err);
    }
    if (status != TM_OK) {
        return status;
    }
    return linear ? read_linear(node, &place, base, weights, op, err)
                  : read_norm(node, &place, base, weights, op, err);
}

bool tm_mlp_has_steps(const tm_node_t *stage, const char *key) {
    size_t i = 0;
    const json_t *op = NULL;
    json_array_foreach(json_object_get(stage->value, key), i, op) {
        const char *base = json_string_value(json_object_get(op, "tensor"));
        if (base != NULL && strstr(base, STEP) != NULL) {
            return true;
        }
    }
    return false;
}

tm_status_t tm_mlp_read(const tm_node_t *stage, const char *key, uint32_t step, uint32_t in,
                        uint32_t out, tm_weights_t *weights, tm_mlp_t *mlp, tm_error_t *err) {
    assert(in > 0);
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(stage, key, &list, err);
    if (status == TM_OK) {
        status = tm_node_list(&list, 1, TM_OPS_MAX, &count, err);
    }
    if (status != TM_OK) {
        return status;
    }
    if (in > TM_WIDTH_MAX) {
        return tm_node_fail(&list, err, "%" PRIu32 " values come in; at most %d are allowed", in,
                            TM_WIDTH_MAX);
    }
    *mlp = (tm_mlp_t){.n_ops = (uint32_t)count, .in = in, .out = in, .max_width = in};
    for (size_t i = 0; i < count; i++) {
        tm_node_t node = tm_node_item(&list, i);
        status = read_op(&node, step, mlp->out, weights, &mlp->op[i], err);
        if (status != TM_OK) {
            return status;
        }
        mlp->out = mlp->op[i].out;
        if (mlp->out > mlp->max_width) {
            mlp->max_width = mlp->out;
        }
    }
    if (out != 0 && mlp->out != out) {
        return tm_node_fail(&list, err,
                            "%" PRIu32 " values come out where %" PRIu32 " are expected", mlp->out,
                            out);
    }
    return TM_OK;
}
