// SPDX-License-Identifier: Apache-2.0
/* Which models the fused path runs. */
#include "nn/cuda/fused/layers.cuh"
#include "nn/cuda/fused/post.cuh"

static bool activation_of(tm_op_kind_t kind, tm_fused_act_t *act) {
    switch (kind) {
    case TM_OP_RELU:
        *act = TM_FUSED_RELU;
        return true;
    case TM_OP_SILU:
        *act = TM_FUSED_SILU;
        return true;
    case TM_OP_TANH:
        *act = TM_FUSED_TANH;
        return true;
    case TM_OP_SIGMOID:
        *act = TM_FUSED_SIGMOID;
        return true;
    case TM_OP_GELU:
        *act = TM_FUSED_GELU;
        return true;
    default:
        return false;
    }
}

bool tm_fused_units_of(const tm_mlp_t *mlp, tm_fused_units_t *units) {
    units->n = 0;
    for (uint32_t k = 0; k < mlp->n_ops; k++) {
        const tm_op_t *op = &mlp->op[k];
        tm_fused_unit_t *unit = units->n > 0 ? &units->unit[units->n - 1] : NULL;
        bool norm = op->kind == TM_OP_LAYER_NORM || op->kind == TM_OP_BATCH_NORM;
        tm_fused_act_t act = TM_FUSED_NONE;
        if (op->kind == TM_OP_LINEAR) {
            if (units->n > TM_FUSED_LAYERS_MAX) {
                return false;
            }
            units->unit[units->n++] = (tm_fused_unit_t){op, NULL, TM_FUSED_NONE};
        } else if (norm && unit && !unit->norm && unit->act == TM_FUSED_NONE) {
            unit->norm = op;
        } else if (activation_of(op->kind, &act) && unit && unit->act == TM_FUSED_NONE) {
            unit->act = act;
        } else {
            return false;
        }
    }
    return units->n > 0;
}

/* All layers `width` wide, and perhaps a plain last one to `last` values. */
static bool widths_are(const tm_fused_units_t *units, uint32_t width, uint32_t last) {
    for (uint32_t k = 0; k < units->n; k++) {
        const tm_fused_unit_t *unit = &units->unit[k];
        bool plain = !unit->norm && unit->act == TM_FUSED_NONE;
        bool is_last = last > 0 && k + 1 == units->n;
        if (is_last ? unit->linear->out != last || !plain : unit->linear->out != width) {
            return false;
        }
    }
    return units->n > (last > 0 ? 1u : 0u);
}

/* Layers that the kernels of nodes and edges run, `width` wide. */
static bool is_square(const tm_mlp_t *mlp, uint32_t width) {
    tm_fused_units_t units;
    return tm_fused_units_of(mlp, &units) && units.n <= TM_FUSED_LAYERS_MAX &&
           widths_are(&units, width, 0);
}

static bool only(const tm_inputs_t *inputs, const tm_input_kind_t *allowed, uint32_t n) {
    for (uint32_t k = 0; k < inputs->n; k++) {
        bool found = false;
        for (uint32_t i = 0; i < n; i++) {
            found = found || inputs->part[k] == allowed[i];
        }
        if (!found) {
            return false;
        }
    }
    return true;
}

bool tm_fused_has_input(const tm_inputs_t *inputs, tm_input_kind_t part) {
    for (uint32_t k = 0; k < inputs->n; k++) {
        if (inputs->part[k] == part) {
            return true;
        }
    }
    return false;
}

static bool narrow(uint32_t width) {
    return width == 64 || width == TM_FUSED_NARROW_MAX;
}

static bool has_twice(const tm_pipeline_t *p) {
    for (uint32_t i = 0; i < p->n_edge_features; i++) {
        for (uint32_t k = 0; k < i; k++) {
            if (p->edge_feature[i].kind == p->edge_feature[k].kind) {
                return true;
            }
        }
    }
    return false;
}

static const char *obstacle(const tm_pipeline_t *p) {
    static const tm_input_kind_t filter_parts[] = {TM_IN_X_SRC, TM_IN_X_DST, TM_IN_EDGE_FEATURES};
    static const tm_input_kind_t node_parts[] = {TM_IN_X,        TM_IN_X0,      TM_IN_SUM_DST,
                                                 TM_IN_SUM_SRC,  TM_IN_MAX_DST, TM_IN_MAX_SRC,
                                                 TM_IN_MEAN_DST, TM_IN_MEAN_SRC};
    static const tm_input_kind_t edge_parts[] = {TM_IN_X_SRC,  TM_IN_X_DST, TM_IN_X0_SRC,
                                                 TM_IN_X0_DST, TM_IN_E,     TM_IN_E0};
    static const tm_input_kind_t out_parts[] = {TM_IN_X_SRC, TM_IN_X_DST, TM_IN_X0_SRC,
                                                TM_IN_X0_DST, TM_IN_E};
    tm_fused_units_t units;
    uint32_t width = p->gnn.node_encoder.out;
    if (p->n_edge_features > TM_FUSED_FEATURES_MAX || p->embed.features.n > TM_FUSED_FEATURES_MAX ||
        p->filter.features.n > TM_FUSED_FEATURES_MAX || p->gnn.features.n > TM_FUSED_FEATURES_MAX) {
        return "more than 16 features";
    }
    if (!tm_fused_search_can_run(p)) {
        return "the radius search";
    }
    if (!tm_fused_units_of(&p->embed.mlp, &units) || units.n > TM_FUSED_LAYERS_MAX ||
        p->embed.mlp.out == 1 ||
        !(units.unit[0].linear->out == 128 || units.unit[0].linear->out == 256 ||
          units.unit[0].linear->out == 512) ||
        !widths_are(&units, units.unit[0].linear->out, p->embed.mlp.out)) {
        return "the embedding's layers";
    }
    if (p->filter.present &&
        (!tm_fused_units_of(&p->filter.mlp, &units) || !narrow(units.unit[0].linear->out) ||
         !widths_are(&units, units.unit[0].linear->out, 1) ||
         !only(&p->filter.inputs, filter_parts, 3))) {
        return "the filter's layers";
    }
    if (p->filter.present && tm_fused_has_input(&p->filter.inputs, TM_IN_EDGE_FEATURES) &&
        has_twice(p)) {
        return "an edge feature twice";
    }
    if (p->gnn.kind != TM_GNN_INTERACTION || p->gnn.steps == 0 || !narrow(width)) {
        return "the kind of gnn";
    }
    bool square = is_square(&p->gnn.node_encoder, width) && is_square(&p->gnn.edge_encoder, width);
    for (uint32_t step = 0; step < p->gnn.n_weights; step++) {
        square = square && is_square(&p->gnn.node_mlp[step], width) &&
                 is_square(&p->gnn.edge_mlp[step], width);
    }
    if (!square || !tm_fused_units_of(&p->gnn.output, &units) || !widths_are(&units, width, 1)) {
        return "the gnn's layers";
    }
    if (!only(&p->gnn.edge_encoder_inputs, filter_parts, 3) ||
        !only(&p->gnn.node_inputs, node_parts, 8) || !only(&p->gnn.edge_inputs, edge_parts, 6) ||
        !tm_fused_has_input(&p->gnn.edge_inputs, TM_IN_E) ||
        !only(&p->gnn.output_inputs, out_parts, 5) ||
        !tm_fused_has_input(&p->gnn.output_inputs, TM_IN_E)) {
        return "the gnn's inputs";
    }
    if ((tm_post_wanted(p) || p->tracks.fit.present) && !tm_fused_post_can_run(p)) {
        return "the steps behind the track builder";
    }
    return NULL;
}

bool tm_fused_can_run(const tm_pipeline_t *pipeline, const char **why) {
    const char *reason = obstacle(pipeline);
    if (why) {
        *why = reason;
    }
    return !reason;
}
