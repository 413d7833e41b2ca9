// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer entry for the model file loader: any bytes are refused with a text or give a model in
 * which everything that a stage relies on holds. tests/unit/model/test_fuzz_model.c drives the same
 * entry with seeded mutations where there is no libFuzzer.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/model.h"
#include "nn/pipeline.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Not assert: it must hold in every kind of build. */
#define MUST(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

/* Reads every value, so that a sanitizer sees a pointer that leads too far. */
static void check_values(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        MUST(values[i] - values[i] == 0);
    }
}

static void check_mlp(const tm_mlp_t *mlp, uint32_t in, uint32_t out) {
    MUST(mlp->n_ops >= 1 && mlp->n_ops <= TM_OPS_MAX && mlp->in == in);
    uint32_t width = in;
    for (uint32_t i = 0; i < mlp->n_ops; i++) {
        const tm_op_t *op = &mlp->op[i];
        MUST(op->in == width && op->out >= 1 && op->out <= TM_WIDTH_MAX);
        MUST(op->kind == TM_OP_LINEAR || op->out == op->in);
        if (op->kind == TM_OP_LINEAR) {
            check_values(op->weight, (size_t)op->in * op->out);
            check_values(op->bias, op->bias != NULL ? op->out : 0);
        }
        if (op->kind == TM_OP_LAYER_NORM || op->kind == TM_OP_BATCH_NORM) {
            check_values(op->weight, op->out);
            check_values(op->bias, op->out);
            MUST(op->eps > 0);
        }
        if (op->kind == TM_OP_BATCH_NORM) {
            check_values(op->mean, op->out);
            check_values(op->var, op->out);
        }
        width = op->out;
        MUST(width <= mlp->max_width);
    }
    MUST(mlp->out == width && in <= mlp->max_width && (out == 0 || out == width));
}

static uint32_t input_width(const tm_pipeline_t *p, const tm_inputs_t *inputs, uint32_t x,
                            uint32_t e) {
    uint32_t width = 0;
    MUST(inputs->n >= 1 && inputs->n <= TM_INPUTS_MAX);
    for (uint32_t i = 0; i < inputs->n; i++) {
        switch (inputs->part[i]) {
        case TM_IN_X_SRC:
        case TM_IN_X_DST:
        case TM_IN_X0_SRC:
        case TM_IN_X0_DST:
        case TM_IN_X:
        case TM_IN_X0:
        case TM_IN_H:
        case TM_IN_M:
            MUST(x > 0);
            width += x;
            break;
        case TM_IN_EDGE_FEATURES:
            MUST(p->n_edge_features > 0);
            width += p->n_edge_features;
            break;
        default:
            MUST(e > 0);
            width += e;
            break;
        }
    }
    return width;
}

static void check_list(const tm_pipeline_t *p, const tm_feature_list_t *list) {
    MUST(list->n >= 1 && list->n <= p->n_features);
    for (uint32_t i = 0; i < list->n; i++) {
        MUST(list->index[i] < p->n_features);
    }
}

static void check_gnn(const tm_pipeline_t *p) {
    if (p->gnn.kind == TM_GNN_NONE) {
        MUST(p->filter.present);
        return;
    }
    check_list(p, &p->gnn.features);
    check_mlp(&p->gnn.node_encoder, p->gnn.features.n, 0);
    uint32_t x = p->gnn.node_encoder.out;
    MUST(p->gnn.steps >= 1);
    if (p->gnn.kind == TM_GNN_RESAGNN) {
        uint32_t h = x + p->gnn.features.n;
        MUST(p->gnn.n_weights == 1);
        check_mlp(p->gnn.node_mlp, input_width(p, &p->gnn.node_inputs, h, 0), x);
        check_mlp(p->gnn.edge_mlp, 2 * h, 1);
        return;
    }
    check_mlp(&p->gnn.edge_encoder, input_width(p, &p->gnn.edge_encoder_inputs, x, 0), 0);
    uint32_t e = p->gnn.edge_encoder.out;
    MUST(p->gnn.n_weights == 1 || p->gnn.n_weights == p->gnn.steps);
    for (uint32_t step = 0; step < p->gnn.n_weights; step++) {
        check_mlp(&p->gnn.node_mlp[step], input_width(p, &p->gnn.node_inputs, x, e), x);
        check_mlp(&p->gnn.edge_mlp[step], input_width(p, &p->gnn.edge_inputs, x, e), e);
    }
    check_mlp(&p->gnn.output, input_width(p, &p->gnn.output_inputs, x, e), 1);
}

static void check_model(const tm_model_t *model) {
    const tm_pipeline_t *p = tm_model_pipeline(model);
    const tm_model_info_t *info = tm_model_info(model);
    MUST(strlen(info->name) >= 1 && strlen(info->name) <= TM_NAME_MAX);
    MUST(strlen(info->version) >= 1 && strlen(info->version) <= TM_NAME_MAX);
    MUST(info->n_columns <= TM_COLUMNS_MAX);
    for (uint32_t i = 0; i < info->n_columns; i++) {
        MUST(strlen(info->columns[i]) >= 1 && strlen(info->columns[i]) <= TM_COLUMN_NAME_MAX);
    }
    MUST(p->n_features >= 1 && p->n_features <= TM_FEATURES_MAX);
    for (uint32_t i = 0; i < p->n_features; i++) {
        MUST(p->feature[i].scale > 0 && p->feature[i].clamp >= 0);
    }
    MUST(p->n_edge_features <= TM_EDGE_FEATURES_MAX);
    for (uint32_t i = 0; i < p->n_edge_features; i++) {
        MUST(p->edge_feature[i].scale > 0 && p->edge_feature[i].clamp >= 0);
    }
    check_list(p, &p->embed.features);
    check_mlp(&p->embed.mlp, p->embed.features.n, 0);
    MUST(p->embed.mlp.out <= TM_EMBED_DIM_MAX);
    MUST(p->radius.r > 0 && p->radius.dphi_max >= 0 && p->radius.z0_max >= 0 &&
         p->radius.z0_min_dr >= 0);
    if (p->filter.present) {
        check_list(p, &p->filter.features);
        check_mlp(&p->filter.mlp, input_width(p, &p->filter.inputs, p->filter.features.n, 0), 1);
        MUST(p->filter.cut >= 0 && p->filter.cut < 1);
    }
    check_gnn(p);
    MUST(p->tracks.cut >= 0 && p->tracks.cut < 1 && p->tracks.min_points >= 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    tm_status_t status = tm_model_from_memory(data, size, "fuzz", &model, &err);
    if (status == TM_OK) {
        check_model(model);
    } else {
        MUST(model == NULL && err.code == status);
        MUST(strncmp(err.text, "fuzz: ", 6) == 0 && err.text[6] != '\0');
        MUST(strchr(err.text, '\n') == NULL && strlen(err.text) < sizeof err.text);
    }
    tm_model_destroy(&model);
    return 0;
}
