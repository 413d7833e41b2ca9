// SPDX-License-Identifier: Apache-2.0
#include "tests/support/model_zoo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/model.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const tm_mlp_style_t plain_relu = {.activation = TM_OP_RELU};
static const tm_mlp_style_t plain_tanh = {.activation = TM_OP_TANH};
static const tm_mlp_style_t layer_norm_relu = {
    .activation = TM_OP_RELU, .norm = true, .norm_kind = TM_OP_LAYER_NORM};
static const tm_mlp_style_t layer_norm_relu_all = {
    .activation = TM_OP_RELU, .norm = true, .norm_kind = TM_OP_LAYER_NORM, .last_activation = true};
static const tm_mlp_style_t batch_norm_silu_all = {
    .activation = TM_OP_SILU, .norm = true, .norm_kind = TM_OP_BATCH_NORM, .last_activation = true};

static const tm_mlp_style_t batch_norm_silu = {
    .activation = TM_OP_SILU, .norm = true, .norm_kind = TM_OP_BATCH_NORM};

/* r, phi, z as public models scale them. */
#define CYLINDRICAL \
    "[{\"name\": \"r\", \"scale\": 1000}, {\"name\": \"phi\", \"scale\": 3.14159265}, " \
    "{\"name\": \"z\", \"scale\": 1000}]"

#define MLP(w, base, in, style, ...) \
    tm_model_writer_mlp(w, base, in, (const uint32_t[]){__VA_ARGS__}, \
                        COUNT(((const uint32_t[]){__VA_ARGS__})), style)

/* MLPs `<base>.0`, `<base>.1` … of so many steps and the list of operations of them all; 0: one MLP
 * `<base>` that the steps share. */
static const char *mlp_of_steps(tm_model_writer_t *w, const char *base, uint32_t steps, uint32_t in,
                                const tm_mlp_style_t *style, const uint32_t *widths,
                                size_t n_widths) {
    const char *ops = NULL;
    for (uint32_t step = steps; step-- > 0;) {
        const char *own = tm_model_writer_text(w, "%s.%u", base, step);
        ops = tm_model_writer_mlp(w, own, in, widths, n_widths, style);
    }
    if (ops == NULL) {
        return tm_model_writer_mlp(w, base, in, widths, n_widths, style);
    }
    const char *first = tm_model_writer_text(w, "\"%s.0.", base);
    const char *said = "";
    for (const char *at; (at = strstr(ops, first)) != NULL; ops = at + strlen(first)) {
        said = tm_model_writer_text(w, "%s%.*s\"%s.{step}.", said, (int)(at - ops), ops, base);
    }
    return tm_model_writer_text(w, "%s%s", said, ops);
}

#define MLP_OF_STEPS(w, base, steps, in, style, ...) \
    mlp_of_steps(w, base, steps, in, style, (const uint32_t[]){__VA_ARGS__}, \
                 COUNT(((const uint32_t[]){__VA_ARGS__})))

/* The stages around a graph network that is the point of its entry. */
static const char *complete(tm_model_writer_t *w, const char *name, const char *middle) {
    const char *embed = MLP(w, "embed", 3, &plain_tanh, 32, 8);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"%s\", \"version\": \"1\", \"features\": " CYLINDRICAL ","
        " \"embed\": {\"mlp\": %s, \"normalize\": true},"
        " \"radius\": {\"r\": 0.2, \"k\": 32, \"direction\": \"outward\"}, %s,"
        " \"tracks\": {\"cut\": 0.5, \"builder\": \"components\", \"min_points\": 3}}",
        name, embed, middle);
}

/* This project's own: every stage, edge features, geometric cuts, best edges. */
static const char *build_standard(tm_model_writer_t *w) {
    enum { H = 32, FEATURES = 6, EDGE_FEATURES = 6 };
    const char *embed = MLP(w, "embed", FEATURES, &plain_relu, 64, 64, 8);
    const char *filter = MLP(w, "filter", 2 * FEATURES + EDGE_FEATURES, &plain_relu, 48, 48, 1);
    const char *node_encoder = MLP(w, "gnn.node_encoder", FEATURES, &layer_norm_relu, H, H);
    const char *edge_encoder =
        MLP(w, "gnn.edge_encoder", 2 * H + EDGE_FEATURES, &layer_norm_relu, H, H);
    const char *node = MLP(w, "gnn.node", 3 * H, &layer_norm_relu, H, H);
    const char *edge = MLP(w, "gnn.edge", 3 * H, &layer_norm_relu, H, H);
    const char *output = MLP(w, "gnn.output", 3 * H, &layer_norm_relu, H, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"standard\", \"version\": \"1\", \"description\": \"random\","
        " \"features\": [{\"name\": \"r\", \"scale\": 1000},"
        " {\"name\": \"cos_phi\", \"scale\": 1}, {\"name\": \"sin_phi\", \"scale\": 1},"
        " {\"name\": \"z\", \"scale\": 1000}, {\"name\": \"size_loc0\", \"scale\": 10},"
        " {\"name\": \"log_charge\", \"scale\": 5, \"clamp\": 3}],"
        " \"edge_features\": [{\"name\": \"dr\", \"scale\": 100},"
        " {\"name\": \"dphi\", \"scale\": 0.1}, {\"name\": \"dz\", \"scale\": 100},"
        " {\"name\": \"deta\", \"scale\": 0.2}, {\"name\": \"z0\", \"scale\": 50, \"clamp\": 10},"
        " {\"name\": \"curvature\", \"scale\": 0.000333333333, \"clamp\": 10}],"
        " \"embed\": {\"mlp\": %s, \"normalize\": true},"
        " \"radius\": {\"r\": 0.2, \"k\": 0, \"direction\": \"outward\", \"dphi_max\": 0.5,"
        " \"z0_max\": 500, \"z0_min_dr\": 20},"
        " \"filter\": {\"inputs\": [\"x_src\", \"x_dst\", \"edge_features\"], \"mlp\": %s,"
        " \"cut\": 0.3},"
        " \"gnn\": {\"kind\": \"interaction\", \"steps\": 4, \"order\": \"node_first\","
        " \"node_encoder\": %s,"
        " \"edge_encoder_inputs\": [\"x_src\", \"x_dst\", \"edge_features\"],"
        " \"edge_encoder\": %s,"
        " \"node_inputs\": [\"x\", \"sum_dst\", \"sum_src\"], \"node_mlp\": %s,"
        " \"node_residual\": true,"
        " \"edge_inputs\": [\"x_src\", \"x_dst\", \"e\"], \"edge_mlp\": %s,"
        " \"edge_residual\": true,"
        " \"output_inputs\": [\"x_src\", \"x_dst\", \"e\"], \"output\": %s},"
        " \"tracks\": {\"cut\": 0.2, \"builder\": \"best_edges\", \"min_points\": 3}}",
        embed, filter, node_encoder, edge_encoder, node, edge, output);
}

/* InteractionGNN of the ACTS models for the Open Data Detector: [max, sum] at the target. */
static const char *build_interaction_acts(tm_model_writer_t *w) {
    enum { H = 128 };
    const char *node_encoder = MLP(w, "node_encoder", 3, &layer_norm_relu, H, H, H, H, H);
    const char *edge_encoder = MLP(w, "edge_encoder", 2 * H, &layer_norm_relu, H, H, H, H, H);
    const char *node = MLP(w, "node_network", 3 * H, &layer_norm_relu, H, H, H, H, H);
    const char *edge = MLP(w, "edge_network", 3 * H, &layer_norm_relu, H, H, H, H, H);
    const char *output = MLP(w, "output", 3 * H, &layer_norm_relu, H, H, H, H, H, 1);
    return complete(
        w, "interaction_acts",
        tm_model_writer_text(
            w,
            "\"gnn\": {\"kind\": \"interaction\", \"steps\": 8, \"order\": \"node_first\","
            " \"node_encoder\": %s, \"edge_encoder_inputs\": [\"x_src\", \"x_dst\"],"
            " \"edge_encoder\": %s, \"node_inputs\": [\"x\", \"max_dst\", \"sum_dst\"],"
            " \"node_mlp\": %s, \"node_residual\": true,"
            " \"edge_inputs\": [\"x_src\", \"x_dst\", \"e\"], \"edge_mlp\": %s,"
            " \"edge_residual\": true, \"output_inputs\": [\"x_src\", \"x_dst\", \"e\"],"
            " \"output\": %s}",
            node_encoder, edge_encoder, node, edge, output));
}

/* ACORN's RecurrentInteractionGNN2 with concat: the encoders' outputs come in at every step; the
 * output is its edge_decoder followed by its edge_output_transform. */
static const char *build_acorn_recurrent(tm_model_writer_t *w) {
    enum { H = 64, EDGE_FEATURES = 6 };
    const char *embed = MLP(w, "embed", 3, &plain_tanh, 32, 12);
    const char *node_encoder = MLP(w, "node_encoder", 3, &batch_norm_silu_all, H, H, H);
    const char *edge_encoder = MLP(w, "edge_encoder", EDGE_FEATURES, &batch_norm_silu_all, H, H, H);
    const char *node = MLP(w, "node_network", 4 * H, &batch_norm_silu_all, H, H, H);
    const char *edge = MLP(w, "edge_network", 6 * H, &batch_norm_silu_all, H, H, H);
    const char *output = MLP(w, "output", H, &batch_norm_silu, H, H, H, H, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"acorn_recurrent\", \"version\": \"1\","
        " \"features\": " CYLINDRICAL ","
        " \"edge_features\": [{\"name\": \"dr\", \"scale\": 1000},"
        " {\"name\": \"dphi\", \"scale\": 3.14159265}, {\"name\": \"dz\", \"scale\": 1000},"
        " {\"name\": \"deta\", \"scale\": 1}, {\"name\": \"phi_slope\", \"scale\": 0.00314159265},"
        " {\"name\": \"rphi_slope\", \"scale\": 3.14159265}],"
        " \"embed\": {\"mlp\": %s, \"normalize\": false},"
        " \"radius\": {\"r\": 0.1, \"k\": 100, \"direction\": \"outward\"},"
        " \"gnn\": {\"kind\": \"interaction\", \"steps\": 8, \"order\": \"edge_first\","
        " \"node_encoder\": %s, \"edge_encoder_inputs\": [\"edge_features\"],"
        " \"edge_encoder\": %s,"
        " \"node_inputs\": [\"sum_dst\", \"sum_src\", \"x\", \"x0\"],"
        " \"node_mlp\": %s, \"node_residual\": false,"
        " \"edge_inputs\": [\"e\", \"e0\", \"x_src\", \"x0_src\", \"x_dst\", \"x0_dst\"],"
        " \"edge_mlp\": %s, \"edge_residual\": false,"
        " \"output_inputs\": [\"e\"], \"output\": %s},"
        " \"tracks\": {\"cut\": 0.5, \"builder\": \"best_edges\", \"min_points\": 3}}",
        embed, node_encoder, edge_encoder, node, edge, output);
}

/* ResAGNN of exatrkx-service; `inputs` is the order in which the node network takes its parts. */
static const char *build_resagnn_of(tm_model_writer_t *w, const char *name, uint32_t width,
                                    uint32_t steps, const char *inputs) {
    uint32_t h = width + 3;
    const char *encoder = MLP(w, "input_network", 3, &layer_norm_relu_all, width, width, width);
    const char *edge = MLP(w, "edge_network", 2 * h, &layer_norm_relu, h, h, h, 1);
    const char *node = MLP(w, "node_network", 2 * h, &layer_norm_relu, width, width, width);
    return complete(w, name,
                    tm_model_writer_text(w,
                                         "\"gnn\": {\"kind\": \"resagnn\", \"steps\": %u,"
                                         " \"node_encoder\": %s, \"edge_mlp\": %s,"
                                         " \"node_mlp\": %s%s}",
                                         steps, encoder, edge, node, inputs));
}

static const char *build_resagnn(tm_model_writer_t *w) {
    return build_resagnn_of(w, "resagnn", 64, 8, "");
}

static const char *build_resagnn_small(tm_model_writer_t *w) {
    return build_resagnn_of(w, "resagnn_small", 8, 4, ", \"node_inputs\": [\"h\", \"m\"]");
}

/* VanillaFilter alone: one LayerNorm shared by all layers, no activation behind the first one. */
static const char *build_vanilla_filter(tm_model_writer_t *w) {
    enum { H = 96, LAYERS = 3 };
    const char *ops = "{\"op\": \"linear\", \"tensor\": \"input_layer\"}";
    tm_model_writer_linear(w, "input_layer", 2 * 3, H, true);
    tm_model_writer_norm(w, "layernorm", TM_OP_LAYER_NORM, H);
    for (int i = 0; i < LAYERS; i++) {
        const char *layer = tm_model_writer_text(w, "layers.%d", i);
        tm_model_writer_linear(w, layer, H, H, true);
        ops = tm_model_writer_text(w,
                                   "%s, {\"op\": \"linear\", \"tensor\": \"%s\"},"
                                   " {\"op\": \"tanh\"},"
                                   " {\"op\": \"layer_norm\", \"tensor\": \"layernorm\"}",
                                   ops, layer);
    }
    tm_model_writer_linear(w, "output_layer", H, 1, true);
    return complete(w, "vanilla_filter",
                    tm_model_writer_text(w,
                                         "\"filter\": {\"inputs\": [\"x_src\", \"x_dst\"],"
                                         " \"mlp\": [%s, {\"op\": \"linear\","
                                         " \"tensor\": \"output_layer\"}], \"cut\": 0.21}",
                                         ops));
}

/* A wide embedding of 44 features; filter and gnn look at three of them. */
static const char *build_embedding_wide(tm_model_writer_t *w) {
    enum { H = 512, DERIVED = 10, COLUMNS = 17, FEATURES = DERIVED + 2 * COLUMNS };
    static const char *const derived[DERIVED] = {"x",   "y",     "z",   "r",       "phi",
                                                 "eta", "theta", "rho", "cos_phi", "sin_phi"};
    const char *features = "{\"name\": \"x\", \"scale\": 1000}";
    for (int i = 1; i < DERIVED; i++) {
        features = tm_model_writer_text(w, "%s, {\"name\": \"%s\", \"scale\": %d}", features,
                                        derived[i], i < 4 || i == 7 ? 1000 : 1);
    }
    for (int i = 0; i < COLUMNS; i++) {
        features = tm_model_writer_text(w,
                                        "%s, {\"name\": \"c%d\", \"scale\": 10, \"clamp\": 5},"
                                        " {\"name\": \"log_c%d\", \"scale\": 2}",
                                        features, i, i);
    }
    static const tm_mlp_style_t gelu = {
        .activation = TM_OP_GELU, .norm = true, .norm_kind = TM_OP_LAYER_NORM};
    static const tm_mlp_style_t sigmoid = {.activation = TM_OP_SIGMOID};
    const char *embed = MLP(w, "embed", FEATURES, &gelu, H, H, H, H, 14);
    const char *filter = MLP(w, "filter", 2 * 3, &sigmoid, 16, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"embedding_wide\", \"version\": \"1\", \"features\": [%s],"
        " \"embed\": {\"mlp\": %s, \"normalize\": true},"
        " \"radius\": {\"r\": 0.3, \"k\": 20, \"direction\": \"index\"},"
        " \"filter\": {\"features\": [\"r\", \"phi\", \"z\"], \"inputs\": [\"x_dst\", \"x_src\"],"
        " \"mlp\": %s, \"cut\": 0.1},"
        " \"tracks\": {\"cut\": 0.4, \"builder\": \"components\", \"min_points\": 2}}",
        features, embed, filter);
}

static const tm_mlp_style_t layer_norm_silu = {
    .activation = TM_OP_SILU, .norm = true, .norm_kind = TM_OP_LAYER_NORM};
static const tm_mlp_style_t layer_norm_tanh_all = {
    .activation = TM_OP_TANH, .norm = true, .norm_kind = TM_OP_LAYER_NORM, .last_activation = true};
static const tm_mlp_style_t layer_norm_gelu_all = {
    .activation = TM_OP_GELU, .norm = true, .norm_kind = TM_OP_LAYER_NORM, .last_activation = true};

#define SLOPES \
    "[{\"name\": \"dr\", \"scale\": 1000}, {\"name\": \"dphi\", \"scale\": 0.5}," \
    " {\"name\": \"dz\", \"scale\": 1000}, {\"name\": \"rphi_slope\", \"scale\": 1, \"clamp\": " \
    "5}]"

/* What the GPU's fused path can run besides the standard model: without a filter, everything
 * concatenated, edges first, width 64. */
static const char *build_concat(tm_model_writer_t *w, const char *name, bool own) {
    enum { H = 64, EDGE_FEATURES = 4, STEPS = 3 };
    const char *embed = MLP(w, "embed", 3, &layer_norm_silu, 128, 128, 12);
    const char *node_encoder = MLP(w, "node_encoder", 3, &layer_norm_tanh_all, H, H, H);
    const char *edge_encoder = MLP(w, "edge_encoder", EDGE_FEATURES, &layer_norm_tanh_all, H, H);
    const char *node =
        MLP_OF_STEPS(w, "node_network", own ? STEPS : 0, 4 * H, &layer_norm_tanh_all, H, H, H);
    const char *edge =
        MLP_OF_STEPS(w, "edge_network", own ? STEPS : 0, 6 * H, &layer_norm_tanh_all, H, H, H);
    const char *output = MLP(w, "output", H, &layer_norm_silu, H, H, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"%s\", \"version\": \"1\","
        " \"features\": " CYLINDRICAL ", \"edge_features\": " SLOPES ","
        " \"embed\": {\"mlp\": %s, \"normalize\": false},"
        " \"radius\": {\"r\": 0.15, \"direction\": \"index\"},"
        " \"gnn\": {\"kind\": \"interaction\", \"steps\": %d, \"order\": \"edge_first\","
        " \"node_encoder\": %s, \"edge_encoder_inputs\": [\"edge_features\"],"
        " \"edge_encoder\": %s,"
        " \"node_inputs\": [\"sum_dst\", \"mean_src\", \"x\", \"x0\"],"
        " \"node_mlp\": %s, \"node_residual\": false,"
        " \"edge_inputs\": [\"e\", \"e0\", \"x_src\", \"x0_src\", \"x_dst\", \"x0_dst\"],"
        " \"edge_mlp\": %s, \"edge_residual\": false,"
        " \"output_inputs\": [\"e\"], \"output\": %s},"
        " \"tracks\": {\"cut\": 0.5, \"builder\": \"best_edges\", \"min_points\": 3}}",
        name, embed, STEPS, node_encoder, edge_encoder, node, edge, output);
}

static const char *build_fused_concat(tm_model_writer_t *w) {
    return build_concat(w, "fused_concat", false);
}

/* ACORN's ChainedInteractionGNN2: every step has weights of its own. */
static const char *build_fused_chained(tm_model_writer_t *w) {
    return build_concat(w, "fused_chained", true);
}

/* The standard network with weights of its own for every step, behind a small embedding. */
static const char *build_fused_steps(tm_model_writer_t *w) {
    enum { H = 64, EDGE_FEATURES = 4, STEPS = 3 };
    const char *embed = MLP(w, "embed", 3, &layer_norm_relu, 128, 8);
    const char *node_encoder = MLP(w, "node_encoder", 3, &layer_norm_relu_all, H, H);
    const char *edge_encoder =
        MLP(w, "edge_encoder", 2 * H + EDGE_FEATURES, &layer_norm_relu_all, H, H);
    const char *node = MLP_OF_STEPS(w, "node_network", STEPS, 3 * H, &layer_norm_relu_all, H, H);
    const char *edge = MLP_OF_STEPS(w, "edge_network", STEPS, 3 * H, &layer_norm_relu_all, H, H);
    const char *output = MLP(w, "output", 3 * H, &layer_norm_relu, H, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"fused_steps\", \"version\": \"1\","
        " \"features\": " CYLINDRICAL ", \"edge_features\": " SLOPES ","
        " \"embed\": {\"mlp\": %s, \"normalize\": true},"
        " \"radius\": {\"r\": 0.2, \"direction\": \"outward\"},"
        " \"gnn\": {\"kind\": \"interaction\", \"steps\": %d, \"order\": \"node_first\","
        " \"node_encoder\": %s,"
        " \"edge_encoder_inputs\": [\"x_src\", \"x_dst\", \"edge_features\"],"
        " \"edge_encoder\": %s,"
        " \"node_inputs\": [\"x\", \"sum_dst\", \"sum_src\"],"
        " \"node_mlp\": %s, \"node_residual\": true,"
        " \"edge_inputs\": [\"x_src\", \"x_dst\", \"e\"], \"edge_mlp\": %s,"
        " \"edge_residual\": true, \"output_inputs\": [\"x_src\", \"x_dst\", \"e\"],"
        " \"output\": %s},"
        " \"tracks\": {\"cut\": 0.5, \"builder\": \"best_edges\", \"min_points\": 3}}",
        embed, STEPS, node_encoder, edge_encoder, node, edge, output);
}

/* The same for width 128: maxima, batch norm in the filter, components. */
static const char *build_wide(tm_model_writer_t *w, const char *name, bool own) {
    enum { H = 128, EDGE_FEATURES = 4, STEPS = 2 };
    const char *embed = MLP(w, "embed", 3, &layer_norm_relu, 256, 256, 6);
    const char *filter = MLP(w, "filter", 6 + EDGE_FEATURES, &layer_norm_silu, H, H, 1);
    const char *node_encoder = MLP(w, "node_encoder", 3, &layer_norm_gelu_all, H, H);
    const char *edge_encoder =
        MLP(w, "edge_encoder", 2 * H + EDGE_FEATURES, &layer_norm_gelu_all, H, H);
    const char *node =
        MLP_OF_STEPS(w, "node_network", own ? STEPS : 0, 4 * H, &layer_norm_gelu_all, H, H);
    const char *edge =
        MLP_OF_STEPS(w, "edge_network", own ? STEPS : 0, 3 * H, &layer_norm_gelu_all, H, H);
    const char *output = MLP(w, "output", 3 * H, &layer_norm_relu, H, H, 1);
    return tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"%s\", \"version\": \"1\","
        " \"features\": " CYLINDRICAL ", \"edge_features\": " SLOPES ","
        " \"embed\": {\"mlp\": %s, \"normalize\": true},"
        " \"radius\": {\"r\": 0.2, \"direction\": \"outward\"},"
        " \"filter\": {\"inputs\": [\"edge_features\", \"x_dst\", \"x_src\"], \"mlp\": %s,"
        " \"cut\": 0.45},"
        " \"gnn\": {\"kind\": \"interaction\", \"steps\": %d, \"order\": \"node_first\","
        " \"node_encoder\": %s,"
        " \"edge_encoder_inputs\": [\"edge_features\", \"x_src\", \"x_dst\"],"
        " \"edge_encoder\": %s,"
        " \"node_inputs\": [\"x\", \"max_dst\", \"sum_src\", \"mean_dst\"],"
        " \"node_mlp\": %s, \"node_residual\": true,"
        " \"edge_inputs\": [\"x_dst\", \"x_src\", \"e\"], \"edge_mlp\": %s,"
        " \"edge_residual\": true, \"output_inputs\": [\"x_src\", \"x_dst\", \"e\"],"
        " \"output\": %s},"
        " \"tracks\": {\"cut\": 0.4, \"builder\": \"components\", \"min_points\": 2}}",
        name, embed, filter, STEPS, node_encoder, edge_encoder, node, edge, output);
}

static const char *build_fused_wide(tm_model_writer_t *w) {
    return build_wide(w, "fused_wide", false);
}

static const char *build_fused_wide_steps(tm_model_writer_t *w) {
    return build_wide(w, "fused_wide_steps", true);
}

const tm_zoo_entry_t tm_zoo[] = {
    {"standard", "every stage, cluster columns and edge features", build_standard},
    {"interaction_acts", "InteractionGNN of the ACTS models", build_interaction_acts},
    {"acorn_recurrent", "RecurrentInteractionGNN2 of ACORN with concat", build_acorn_recurrent},
    {"resagnn", "ResAGNN of exatrkx-service", build_resagnn},
    {"resagnn_small", "ResAGNN, node network on [h, m]", build_resagnn_small},
    {"vanilla_filter", "VanillaFilter with one shared LayerNorm, no gnn", build_vanilla_filter},
    {"embedding_wide", "44 features, 4 x 512, a sub-list for the filter", build_embedding_wide},
    {"fused_concat", "width 64, all concatenated, edges first, no filter", build_fused_concat},
    {"fused_wide", "width 128, maxima and means", build_fused_wide},
    {"fused_chained", "fused_concat with own weights for every step", build_fused_chained},
    {"fused_steps", "width 64, own weights for every step", build_fused_steps},
    {"fused_wide_steps", "fused_wide with own weights for every step", build_fused_wide_steps},
    {NULL, NULL, NULL},
};

tm_model_t *tm_zoo_load(const char *name, uint64_t seed) {
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name != NULL; entry++) {
        if (strcmp(entry->name, name) != 0) {
            continue;
        }
        tm_model_writer_t *w = tm_model_writer_new(seed);
        const char *json = entry->build(w);
        size_t bytes = 0;
        uint8_t *data = tm_model_writer_bytes(w, json, &bytes);
        tm_model_t *model = NULL;
        tm_error_t err;
        if (tm_model_from_memory(data, bytes, name, &model, &err) != TM_OK) {
            fprintf(stderr, "model_zoo: %s\n", err.text);
            exit(EXIT_FAILURE);
        }
        free(data);
        tm_model_writer_destroy(&w);
        return model;
    }
    fprintf(stderr, "model_zoo: no entry %s\n", name);
    exit(EXIT_FAILURE);
}
