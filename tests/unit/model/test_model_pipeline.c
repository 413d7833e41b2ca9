// SPDX-License-Identifier: Apache-2.0
/* Every key of the pipeline: what is refused, with which words, and what is just allowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline_edit.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define SEED 3

typedef struct {
    const char *path;
    const char *json; /* NULL: the key is taken away */
    const char *text; /* how the error goes on behind the file's name; NULL: the file loads */
} edit_t;

/* Applies each edit alone to a fresh copy of the entry. */
static void run_edits(const char *entry, const edit_t *edits, size_t count) {
    for (size_t i = 0; i < count; i++) {
        tm_model_writer_t *w = tm_model_writer_new(SEED);
        tm_model_t *model = NULL;
        tm_error_t err = {0};
        const char *json = tm_pipeline_edit(w, entry, edits[i].path, edits[i].json);
        tm_status_t status = tm_writer_load(w, json, "a/b.safetensors", &model, &err);
        char wanted[TM_ERROR_TEXT_BYTES];
        snprintf(wanted, sizeof wanted, "a/b.safetensors: %s",
                 edits[i].text != NULL ? edits[i].text : "");
        bool right = edits[i].text == NULL
                         ? status == TM_OK
                         : status == TM_E_MODEL_FILE &&
                               strncmp(err.text, wanted, strlen(wanted)) == 0 && model == NULL;
        if (!right) {
            fail_msg("%s = %s: status %d, text \"%s\", wanted \"%s\"", edits[i].path,
                     edits[i].json != NULL ? edits[i].json : "(taken away)", status,
                     status != TM_OK ? err.text : "", wanted);
        }
        tm_model_destroy(&model);
        tm_model_writer_destroy(&w);
    }
}

static void test_top(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"format", NULL, "format: this key is missing"},
        {"format", "2", "format: 2 is outside 1 to 1"},
        {"format", "1.0", "format: a number where an integer is expected"},
        {"format", "\"1\"", "format: a string where an integer is expected"},
        {"name", NULL, "name: this key is missing"},
        {"name", "7", "name: a number where a string is expected"},
        {"name", "\"\"", "name: 1 to 63 of "},
        {"name", "\"with space\"", "name: 1 to 63 of "},
        {"name", "\"a@b\"", "name: 1 to 63 of "},
        {"name", "\"0123456789012345678901234567890123456789012345678901234567890123\"",
         "name: 1 to 63 of "},
        {"name", "\"A.b_c-9\"", NULL},
        {"name", "\"012345678901234567890123456789012345678901234567890123456789012\"", NULL},
        {"version", NULL, "version: this key is missing"},
        {"version", "1", "version: a number where a string is expected"},
        {"version", "\"1/2\"", "version: 1 to 63 of "},
        {"description", NULL, NULL},
        {"description", "null", "description: null where a string is expected"},
        {"comment", "1", "comment: unknown key; known here: format, name, version"},
        {"weird\tkéy", "1", "weird?k??y: unknown key"},
        {"embed", NULL, "embed: this key is missing"},
        {"embed", "[]", "embed: a list where an object is expected"},
        {"radius", NULL, "radius: this key is missing"},
        {"radius", "0.5", "radius: a number where an object is expected"},
        {"filter", "null", "filter: null where an object is expected"},
        {"gnn", "null", "gnn: null where an object is expected"},
        {"gnn", "\"interaction\"", "gnn: a string where an object is expected"},
        {"tracks", NULL, "tracks: this key is missing"},
        {"tracks", "true", "tracks: true or false where an object is expected"},
        {"features", NULL, "features: this key is missing"},
    };
    run_edits("standard", edits, COUNT(edits));
}

static void test_features(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"features", "[]", "features: a list of 0; 1 to 64 are allowed"},
        {"features", "{}", "features: an object where a list is expected"},
        {"features[1]", "\"r\"", "features[1]: a string where an object is expected"},
        {"features[1].nmae", "\"r\"", "features[1].nmae: unknown key; known here: name, scale, "},
        {"features[1].name", NULL, "features[1].name: this key is missing"},
        {"features[1].name", "3", "features[1].name: a number where a string is expected"},
        {"features[1].name", "\"Charge\"", "features[1].name: no feature, and no input column"},
        {"features[1].name", "\"\"", "features[1].name: no feature"},
        {"features[1].name", "\"log_\"", "features[1].name: no feature"},
        {"features[1].name", "\"a23456789012345678901234567890123\"",
         "features[1].name: no feature, and no input column: those have 1 to 31 of"},
        {"features[1].name", "\"log_r\"", "features[1].name: the logarithm is for input columns"},
        {"features[1].name", "\"module_id\"", "features[1].name: module_id is an identifier"},
        {"features[1].name", "\"r\"", "features[1]: r is in the list already"},
        {"features[1].name", "\"a234567890123456789012345678901\"", NULL},
        {"features[1].name", "\"log_z\"", NULL},
        {"features[1].name", "\"eta\"", NULL},
        {"features[1].scale", NULL, "features[1].scale: this key is missing"},
        {"features[1].scale", "0", "features[1].scale: 0 is outside 1e-12 to 1e+12"},
        {"features[1].scale", "-1", "features[1].scale: -1 is outside"},
        {"features[1].scale", "1e13", "features[1].scale: 1e+13 is outside"},
        {"features[1].scale", "\"1\"", "features[1].scale: a string where a number is expected"},
        {"features[1].scale", "1e12", NULL},
        {"features[1].clamp", "0", "features[1].clamp: 0 is outside"},
        {"features[1].clamp", "0.5", NULL},
        {"features[6]", "{\"name\": \"eta\", \"scale\": 1}",
         "embed.mlp[0].tensor: tensor embed.0.weight has shape [64, 6], so it takes 6 values, but "
         "7 come in"},
        {"edge_features", NULL, "filter.inputs[2]: \"edge_features\" is none of: x_src, x_dst"},
        {"edge_features", "[]", "filter.inputs[2]: \"edge_features\" is none of: x_src, x_dst"},
        {"edge_features", "3", "edge_features: a number where a list is expected"},
        {"edge_features[0].name", "\"slope\"", "edge_features[0].name: \"slope\" is none of: dr, "},
        {"edge_features[0].name", "\"dz\"", "edge_features[2]: dz is in the list already"},
        {"edge_features[0].name", "\"phi_slope\"", NULL},
        {"edge_features[0].scale", "1e-13", "edge_features[0].scale: 1e-13 is outside"},
        {"edge_features[0].clip", "1", "edge_features[0].clip: unknown key"},
    };
    run_edits("standard", edits, COUNT(edits));
}

static void test_too_many(void **state) {
    (void)state;
    char many_features[65 * 40] = "[";
    char many_columns[65 * 40] = "[";
    char many_ops[70 * 20] = "[";
    for (int i = 0; i < 65; i++) {
        sprintf(many_features + strlen(many_features), "%s{\"name\": \"x\", \"scale\": 1}",
                i > 0 ? "," : "");
        sprintf(many_ops + strlen(many_ops), "%s{\"op\": \"relu\"}", i > 0 ? "," : "");
    }
    strcat(many_features, "]");
    strcat(many_ops, "]");
    for (int i = 0; i < 30; i++) {
        sprintf(many_columns + strlen(many_columns), "%s{\"name\": \"c%d\", \"scale\": 1}",
                i > 0 ? "," : "", i);
    }
    strcat(many_columns, "]");
    char many_edge_features[17 * 40] = "[";
    for (int i = 0; i < 17; i++) {
        sprintf(many_edge_features + strlen(many_edge_features),
                "%s{\"name\": \"dr\", \"scale\": 1}", i > 0 ? "," : "");
    }
    strcat(many_edge_features, "]");
    const edit_t edits[] = {
        {"features", many_features, "features: a list of 65; 1 to 64 are allowed"},
        {"edge_features", many_edge_features, "edge_features: a list of 17; 0 to 16 are allowed"},
        {"embed.mlp", many_ops, "embed.mlp: a list of 65; 1 to 64 are allowed"},
    };
    run_edits("standard", edits, COUNT(edits));

    /* 30 columns beside x, y, z: one more than an event has room for */
    tm_model_writer_t *w = tm_model_writer_new(SEED);
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    const char *json = tm_pipeline_edit(w, "vanilla_filter", "features", many_columns);
    tm_model_writer_linear(w, "embed.0", 30, 32, true);
    tm_model_writer_linear(w, "input_layer", 60, 96, true);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_E_MODEL_FILE);
    assert_string_equal(
        err.text, "m: features: 30 input columns; an event has room for 29 beside x, y and z");
    /* x, y and z are in every event, also where a feature takes their logarithm */
    strcpy(strstr(many_columns, "c29"), "log_x\", \"scale\": 1}]");
    json = tm_pipeline_edit(w, "vanilla_filter", "features", many_columns);
    tm_model_writer_linear(w, "embed.0", 30, 32, true);
    tm_model_writer_linear(w, "input_layer", 60, 96, true);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_OK);
    assert_int_equal(tm_model_info(model)->n_columns, 29);
    tm_model_destroy(&model);
    tm_model_writer_destroy(&w);
}

static void test_embed_and_radius(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"embed.mlp", NULL, "embed.mlp: this key is missing"},
        {"embed.mlp", "[]", "embed.mlp: a list of 0; 1 to 64 are allowed"},
        {"embed.normalize", NULL, "embed.normalize: this key is missing"},
        {"embed.normalize", "1", "embed.normalize: a number where true or false is expected"},
        {"embed.normalize", "false", NULL},
        {"embed.dim", "8", "embed.dim: unknown key; known here: features, mlp, normalize"},
        {"embed.mlp[4]", NULL, "embed: 64 dimensions; at most 16 are allowed"},
        {"embed.features", "[]", "embed.features: a list of 0; 1 to 6 are allowed"},
        {"embed.features", "[\"r\", \"eta\"]", "embed.features[1]: \"eta\" is none of: r, cos_phi"},
        {"embed.features", "[\"r\", \"z\", \"r\"]", "embed.features[2]: r is in the list already"},
        {"embed.features", "[\"r\", 2]", "embed.features[1]: a number where a string is expected"},
        {"embed.features", "[\"r\", \"z\"]",
         "embed.mlp[0].tensor: tensor embed.0.weight has shape [64, 6], so it takes 6 values, but "
         "2 come in"},
        {"embed.features",
         "[\"z\", \"r\", \"log_charge\", \"cos_phi\", \"sin_phi\", \"size_loc0\"]", NULL},
        {"radius.r", NULL, "radius.r: this key is missing"},
        {"radius.r", "0", "radius.r: 0 is outside 1e-06 to 1e+06"},
        {"radius.r", "1e-6", NULL},
        {"radius.r", "1e7", "radius.r: 1e+07 is outside"},
        {"radius.r", "true", "radius.r: true or false where a number is expected"},
        {"radius.k", NULL, NULL},
        {"radius.k", "65535", NULL},
        {"radius.k", "65536", "radius.k: 65536 is outside 0 to 65535"},
        {"radius.k", "-1", "radius.k: -1 is outside"},
        {"radius.k", "10.5", "radius.k: a number where an integer is expected"},
        {"radius.direction", NULL, "radius.direction: this key is missing"},
        {"radius.direction", "\"inward\"",
         "radius.direction: \"inward\" is none of: outward, index"},
        {"radius.direction", "\"index\"", NULL},
        {"radius.dphi_max", NULL, NULL},
        {"radius.dphi_max", "-0.1", "radius.dphi_max: -0.1 is outside 0 to 10"},
        {"radius.dphi_max", "0", NULL},
        {"radius.z0_max", NULL, NULL},
        {"radius.z0_max", "-1", "radius.z0_max: -1 is outside 0 to 1e+06"},
        {"radius.z0_min_dr", "1000001", "radius.z0_min_dr: 1e+06 is outside"},
        {"radius.z0min", "1", "radius.z0min: unknown key"},
    };
    run_edits("standard", edits, COUNT(edits));
}

static void test_ops(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"gnn.node_mlp[0]", "\"relu\"", "gnn.node_mlp[0]: a string where an object is expected"},
        {"gnn.node_mlp[0].op", NULL, "gnn.node_mlp[0].op: this key is missing"},
        {"gnn.node_mlp[0].op", "\"conv\"",
         "gnn.node_mlp[0].op: \"conv\" is none of: linear, layer"},
        {"gnn.node_mlp[0].tensor", NULL, "gnn.node_mlp[0].tensor: this key is missing"},
        {"gnn.node_mlp[0].tensor", "5", "gnn.node_mlp[0].tensor: a number where a string"},
        {"gnn.node_mlp[0].tensor", "\"gnn.nodes.0\"",
         "gnn.node_mlp[0].tensor: the file has no tensor gnn.nodes.0.weight"},
        {"gnn.node_mlp[0].tensor",
         "\"0123456789012345678901234567890123456789012345678901234567890123456789"
         "0123456789012345678901234567890123456789012345678901234567890123456789\"",
         "gnn.node_mlp[0].tensor: a tensor name has at most 127 bytes"},
        {"gnn.node_mlp[0].bias", "false",
         "tensor gnn.node.0.bias: nothing in the pipeline uses it"},
        {"gnn.node_mlp[0].bias", "0", "gnn.node_mlp[0].bias: a number where true or false"},
        {"gnn.node_mlp[0].eps", "1e-5",
         "gnn.node_mlp[0].eps: unknown key; known here: op, tensor, bias"},
        {"gnn.node_mlp[1].bias", "true",
         "gnn.node_mlp[1].bias: unknown key; known here: op, tensor, eps"},
        {"gnn.node_mlp[1].eps", "0", "gnn.node_mlp[1].eps: 0 is outside 1e-12 to 1"},
        {"gnn.node_mlp[1].eps", "1.5", "gnn.node_mlp[1].eps: 1.5 is outside"},
        {"gnn.node_mlp[1].eps", "1e-12", NULL},
        {"gnn.node_mlp[1].op", "\"batch_norm\"",
         "gnn.node_mlp[1].tensor: the file has no tensor gnn.node.n0.running_mean"},
        {"gnn.node_mlp[1].tensor", "\"embed.0\"",
         "gnn.node_mlp[1].tensor: tensor embed.0.weight has shape [64, 6] where [32] is expected"},
        {"gnn.node_mlp[0].tensor", "\"gnn.node.n0\"",
         "gnn.node_mlp[0].tensor: tensor gnn.node.n0.weight has shape [32] where [out, in]"},
        {"gnn.node_mlp[2].tensor", "\"x\"", "gnn.node_mlp[2].tensor: unknown key; known here: op"},
        {"gnn.node_mlp[2].op", "\"gelu\"", NULL},
        {"gnn.node_mlp[2].op", "\"sigmoid\"", NULL},
        {"gnn.node_mlp[2].units", "1", "gnn.node_mlp[2].units: unknown key"},
        {"gnn.node_mlp[4]", "{\"op\": \"tanh\"}", NULL},
    };
    run_edits("standard", edits, COUNT(edits));
}

static void test_filter_and_tracks(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"filter", NULL, "tensor filter.0.bias: nothing in the pipeline uses it"},
        {"filter.inputs", NULL, "filter.inputs: this key is missing"},
        {"filter.inputs", "[]", "filter.inputs: a list of 0; 1 to 8 are allowed"},
        {"filter.inputs", "[\"x_src\", \"x_dst\"]",
         "filter.mlp[0].tensor: tensor filter.0.weight has shape [48, 18], so it takes 18 values, "
         "but 12 come in"},
        {"filter.inputs[1]", "\"e\"",
         "filter.inputs[1]: \"e\" is none of: x_src, x_dst, edge_features"},
        {"filter.inputs[1]", "\"x_src\"", "filter.inputs[1]: x_src is in the list already"},
        {"filter.inputs", "[\"edge_features\", \"x_dst\", \"x_src\"]", NULL},
        {"filter.mlp[4]", NULL, "filter.mlp: 48 values come out where 1 are expected"},
        {"filter.cut", NULL, "filter.cut: this key is missing"},
        {"filter.cut", "1", "filter.cut: 1 is outside 0 to 0.999999"},
        {"filter.cut", "-0.1", "filter.cut: -0.1 is outside"},
        {"filter.cut", "0", NULL},
        {"filter.threshold", "0", "filter.threshold: unknown key"},
        {"tracks.cut", NULL, "tracks.cut: this key is missing"},
        {"tracks.cut", "1", "tracks.cut: 1 is outside"},
        {"tracks.cut", "0", NULL},
        {"tracks.builder", NULL, "tracks.builder: this key is missing"},
        {"tracks.builder", "\"walk\"",
         "tracks.builder: \"walk\" is none of: components, best_edges"},
        {"tracks.builder", "\"components\"", NULL},
        {"tracks.min_points", NULL, "tracks.min_points: this key is missing"},
        {"tracks.min_points", "1", "tracks.min_points: 1 is outside 2 to 1000"},
        {"tracks.min_points", "1001", "tracks.min_points: 1001 is outside"},
        {"tracks.min_points", "1000", NULL},
        {"tracks.min_points", "3.0", "tracks.min_points: a number where an integer"},
        {"tracks.max", "1", "tracks.max: unknown key"},
    };
    run_edits("standard", edits, COUNT(edits));
    static const edit_t alone[] = {
        {"filter", NULL, "pipeline: neither filter nor gnn: nothing would score the edges"},
    };
    run_edits("vanilla_filter", alone, COUNT(alone));
}

/* A tracks section with these steps behind "cut", "builder" and "min_points". */
#define STEPS(rest) "{\"cut\": 0.4, \"builder\": \"best_edges\", \"min_points\": 3, " rest "}"
#define ZONE "{\"sigma_phi\": 0.03, \"sigma_z\": 0.5}"
#define FIT_OF(rest, zones) "\"fit\": {\"field_tesla\": 2, " rest "\"zones\": " zones "}"
#define FIT FIT_OF("\"scattering\": 0.08, ", "[" ZONE "]")
#define JOIN_OF(weights) \
    "\"join\": {\"dphi\": 0.2, \"dcot\": 0.1, \"chi2\": 200, \"weights\": " weights "}"
#define JOIN JOIN_OF("[1, 2, 3, 4, 5, 6, -7.5]")

static void test_track_steps(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"tracks", STEPS(FIT), NULL},
        {"tracks", STEPS(FIT ", \"split\": {\"score\": 0.9, \"chi2\": 8}, " JOIN), NULL},
        {"tracks", STEPS("\"select\": {\"points\": 4, \"score\": 0.8}"), NULL},
        {"tracks", STEPS("\"walk\": {}"), "tracks.walk: unknown key"},
        {"tracks", STEPS("\"fit\": 2"), "tracks.fit: a number where an object is expected"},
        {"tracks", STEPS(FIT_OF("", "[" ZONE "]")), "tracks.fit.scattering: this key is missing"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 0, ", "[" ZONE "]")),
         "tracks.fit.scattering: 0 is outside"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, \"ends\": 1, ", "[" ZONE "]")),
         "tracks.fit.ends: 1 is outside 2 to 32"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, \"kink\": -1, ", "[" ZONE "]")),
         "tracks.fit.kink: -1 is outside"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, ", "[]")), "tracks.fit.zones: "},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, ", "[{\"sigma_phi\": 1}]")),
         "tracks.fit.zones[0]: sigma_r and sigma_z are both 0"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, ", "[{\"sigma_z\": 1}]")),
         "tracks.fit.zones[0].sigma_phi: this key is missing"},
        {"tracks", STEPS(FIT_OF("\"scattering\": 1, ", "[" ZONE ", {\"r\": 1}]")),
         "tracks.fit.zones[1].r: unknown key"},
        {"tracks", STEPS("\"fit\": {\"field_tesla\": 0, \"scattering\": 1, \"zones\": [" ZONE "]}"),
         "tracks.fit: field_tesla is 0"},
        {"tracks", STEPS("\"split\": {\"score\": 0.9, \"chi2\": 8}"),
         "tracks.split: needs tracks.fit"},
        {"tracks", STEPS(FIT ", \"split\": {\"score\": 2, \"chi2\": 8}"),
         "tracks.split.score: 2 is outside 0 to 1"},
        {"tracks", STEPS(FIT ", \"split\": {\"score\": 1, \"chi2\": 0}"),
         "tracks.split.chi2: 0 is outside"},
        {"tracks", STEPS("\"select\": {\"points\": 1, \"score\": 0.8}"),
         "tracks.select.points: 1 is outside 2 to 1000"},
        {"tracks", STEPS("\"select\": {\"points\": 4}"),
         "tracks.select.score: this key is missing"},
        {"tracks", STEPS(JOIN), "tracks.join: needs tracks.fit"},
        {"tracks", STEPS(FIT ", " JOIN_OF("[1, 2, 3]")), "tracks.join.weights: "},
        {"tracks", STEPS(FIT ", " JOIN_OF("[1, 2, 3, 4, 5, 6, \"7\"]")),
         "tracks.join.weights[6]: a number is expected"},
        {"tracks", STEPS(FIT ", " JOIN_OF("[1, 2, 3, 4, 5, 6, 1e4]")),
         "tracks.join.weights[6]: 10000 is outside"},
        {"tracks",
         "{\"cut\": 0.4, \"builder\": \"components\", \"min_points\": 3, \"select\": "
         "{\"points\": 4, \"score\": 0.8}}",
         "tracks.select: works on what the builder best_edges makes, no other"},
        {"tracks", "{\"cut\": 0.4, \"builder\": \"components\", \"min_points\": 3, " FIT "}", NULL},
    };
    run_edits("standard", edits, COUNT(edits));
    static const edit_t by_index[] = {
        {"tracks", STEPS("\"select\": {\"points\": 4, \"score\": 0.8}"),
         "tracks.select: works on edges whose radius.direction is outward"},
    };
    run_edits("embedding_wide", by_index, COUNT(by_index));
}

static void test_interaction(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"gnn.kind", NULL, "gnn.kind: this key is missing"},
        {"gnn.kind", "\"gcn\"", "gnn.kind: \"gcn\" is none of: interaction, resagnn"},
        {"gnn.kind", "\"resagnn\"", "gnn."},
        {"gnn.steps", NULL, "gnn.steps: this key is missing"},
        {"gnn.steps", "0", "gnn.steps: 0 is outside 1 to 64"},
        {"gnn.steps", "65", "gnn.steps: 65 is outside"},
        {"gnn.steps", "64", NULL},
        {"gnn.steps", "9223372036854775807", "gnn.steps: 9223372036854775807 is outside"},
        {"gnn.order", NULL, "gnn.order: this key is missing"},
        {"gnn.order", "\"both\"", "gnn.order: \"both\" is none of: node_first, edge_first"},
        {"gnn.order", "\"edge_first\"", NULL},
        {"gnn.node_encoder", NULL, "gnn.node_encoder: this key is missing"},
        {"gnn.edge_encoder", NULL, "gnn.edge_encoder: this key is missing"},
        {"gnn.node_mlp", NULL, "gnn.node_mlp: this key is missing"},
        {"gnn.edge_mlp", NULL, "gnn.edge_mlp: this key is missing"},
        {"gnn.output", NULL, "gnn.output: this key is missing"},
        {"gnn.edge_encoder_inputs", NULL, "gnn.edge_encoder_inputs: this key is missing"},
        {"gnn.node_inputs", NULL, "gnn.node_inputs: this key is missing"},
        {"gnn.edge_inputs", NULL, "gnn.edge_inputs: this key is missing"},
        {"gnn.output_inputs", NULL, "gnn.output_inputs: this key is missing"},
        {"gnn.node_residual", NULL, "gnn.node_residual: this key is missing"},
        {"gnn.edge_residual", "\"yes\"", "gnn.edge_residual: a string where true or false"},
        {"gnn.node_residual", "false", NULL},
        {"gnn.heads", "4", "gnn.heads: unknown key"},
        {"gnn.edge_encoder_inputs[0]", "\"e\"",
         "gnn.edge_encoder_inputs[0]: \"e\" is none of: x_src, x_dst, edge_features"},
        {"gnn.node_inputs[1]", "\"e\"", "gnn.node_inputs[1]: \"e\" is none of: x, x0, sum_dst, "},
        {"gnn.node_inputs[1]", "\"mean_src\"", NULL},
        {"gnn.node_inputs[1]", "\"x0\"", NULL},
        {"gnn.node_inputs[1]", "\"x\"", "gnn.node_inputs[1]: x is in the list already"},
        {"gnn.node_inputs[1]", "\"h\"", "gnn.node_inputs[1]: \"h\" is none of: x, x0"},
        {"gnn.node_inputs", "[\"x\", \"sum_dst\"]",
         "gnn.node_mlp[0].tensor: tensor gnn.node.0.weight has shape [32, 96], so it takes 96 "
         "values, but 64 come in"},
        {"gnn.edge_inputs[2]", "\"e0\"", NULL},
        {"gnn.edge_inputs[2]", "\"sum_dst\"",
         "gnn.edge_inputs[2]: \"sum_dst\" is none of: x_src, "},
        {"gnn.edge_inputs[2]", "\"edge_features\"",
         "gnn.edge_mlp[0].tensor: tensor gnn.edge.0.weight has shape [32, 96], so it takes 96 "
         "values, but 70 come in"},
        {"gnn.output_inputs[0]", "\"x0_src\"", NULL},
        {"gnn.output[3]", NULL, "gnn.output: 32 values come out where 1 are expected"},
        {"gnn.features", "[\"r\"]",
         "gnn.node_encoder[0].tensor: tensor gnn.node_encoder.0.weight has shape [32, 6], so it "
         "takes 6 values, but 1 come in"},
    };
    run_edits("standard", edits, COUNT(edits));
}

static void test_steps(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"gnn.steps", "3", NULL},
        {"gnn.steps", "4",
         "gnn.node_mlp[0].tensor: the file has no tensor node_network.3.0.weight"},
        {"gnn.steps", "2", "tensor edge_network.2."},
        {"gnn.edge_mlp[0].tensor", "\"edge_network.0.0\"", "tensor edge_network.1.0."},
        {"gnn.edge_mlp[0].tensor", "\"edge_network.{step}.1\"",
         "gnn.edge_mlp[0].tensor: tensor edge_network.0.1.weight has shape [64, 64], so it takes"},
        {"gnn.edge_mlp[0].tensor", "\"edge_network.{step}.{step}\"",
         "gnn.edge_mlp[0].tensor: the file has no tensor edge_network.0.{step}.weight"},
        {"gnn.edge_mlp[0].tensor", "5", "gnn.edge_mlp[0].tensor: a number where a string"},
        {"gnn.edge_mlp[0]", "5", "gnn.edge_mlp[0]: a number where an object"},
        {"gnn.edge_mlp", "5", "gnn.edge_mlp: a number where a list"},
        {"gnn.output[0].tensor", "\"output.{step}\"",
         "gnn.output[0].tensor: {step} stands for the number of a step, which only node_mlp and "
         "edge_mlp of an interaction gnn have"},
        {"embed.mlp[0].tensor", "\"{step}\"",
         "embed.mlp[0].tensor: {step} stands for the number of a step"},
    };
    run_edits("fused_steps", edits, COUNT(edits));
}

static void test_resagnn(void **state) {
    (void)state;
    static const edit_t edits[] = {
        {"gnn.edge_mlp[0].tensor", "\"edge_network.{step}\"",
         "gnn.edge_mlp[0].tensor: {step} stands for the number of a step"},
        {"gnn.order", "\"node_first\"",
         "gnn.order: unknown key; known here: kind, features, steps"},
        {"gnn.output", "[]", "gnn.output: unknown key"},
        {"gnn.steps", "0", "gnn.steps: 0 is outside"},
        {"gnn.node_inputs", NULL, NULL},
        {"gnn.node_inputs", "[\"m\", \"h\"]", NULL},
        {"gnn.node_inputs", "[\"h\"]", "gnn: node_inputs must have both h and m"},
        {"gnn.node_inputs", "[\"x\", \"m\"]", "gnn.node_inputs[0]: \"x\" is none of: h, m"},
        {"gnn.node_mlp[6]", NULL, "tensor node_network.2.bias: nothing in the pipeline uses it"},
        {"gnn.node_mlp", NULL, "gnn.node_mlp: this key is missing"},
        {"gnn.edge_mlp", NULL, "gnn.edge_mlp: this key is missing"},
        {"gnn.edge_mlp[9]", NULL, "gnn.edge_mlp: 11 values come out where 1 are expected"},
        {"gnn.node_mlp[6].tensor", "\"edge_network.9\"",
         "gnn.node_mlp[6].tensor: the file has no tensor edge_network.9.weight"},
    };
    run_edits("resagnn_small", edits, COUNT(edits));
}

/* A layer of TM_WIDTH_MAX neurons is allowed, two of them side by side are not. */
static void test_widest(void **state) {
    (void)state;
    static const uint64_t bias[] = {TM_WIDTH_MAX};
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const char *json = tm_pipeline_edit(w, "standard", "gnn.node_encoder",
                                        "[{\"op\": \"linear\", \"tensor\": \"wide\"}]");
    tm_model_writer_linear(w, "wide", 6, TM_WIDTH_MAX, true);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_E_MODEL_FILE);
    assert_string_equal(err.text,
                        "m: gnn.edge_encoder: 16390 values come in; at most 8192 are allowed");
    tm_model_writer_destroy(&w);

    w = tm_model_writer_new(SEED);
    json = tm_pipeline_edit(w, "vanilla_filter", "embed.mlp",
                            "[{\"op\": \"linear\", \"tensor\": \"embed.0\"}, {\"op\": \"relu\"},"
                            " {\"op\": \"linear\", \"tensor\": \"embed.1\", \"bias\": false}]");
    tm_model_writer_remove(w, "embed.1.bias");
    tm_model_writer_linear(w, "embed.0", 3, TM_WIDTH_MAX, true);
    tm_model_writer_linear(w, "embed.1", TM_WIDTH_MAX, 16, false);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_OK);
    assert_int_equal(tm_model_pipeline(model)->embed.mlp.max_width, TM_WIDTH_MAX);
    assert_null(tm_model_pipeline(model)->embed.mlp.op[2].bias);
    tm_model_destroy(&model);

    tm_model_writer_tensor(w, "embed.0.bias", TM_F32, 2, (uint64_t[]){TM_WIDTH_MAX, 1}, NULL, 1);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_E_MODEL_FILE);
    assert_string_equal(err.text, "m: embed.mlp[0].tensor: tensor embed.0.bias has shape [8192, 1] "
                                  "where [8192] is expected");
    tm_model_writer_tensor(w, "embed.0.bias", TM_F32, 1, bias, NULL, 1);
    assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_OK);
    tm_model_destroy(&model);
    tm_model_writer_destroy(&w);
}

/* Widths that must agree over the steps, with tensors that fit everywhere else. */
static void test_state_widths(void **state) {
    (void)state;
    static const struct {
        const char *tensor;
        uint32_t in, out;
        const char *text;
    } cases[] = {
        {"gnn.node.1", 32, 31, "gnn.node_mlp: 31 values come out where 32 are expected"},
        {"gnn.edge.1", 32, 33, "gnn.edge_mlp: 33 values come out where 32 are expected"},
        {"gnn.output.1", 32, 2, "gnn.output: 2 values come out where 1 are expected"},
        {"filter.2", 48, 2, "filter.mlp: 2 values come out where 1 are expected"},
        {"embed.2", 64, 17, "embed: 17 dimensions; at most 16 are allowed"},
        {"gnn.edge_encoder.1", 32, 16,
         "gnn.node_mlp[0].tensor: tensor gnn.node.0.weight has shape [32, 96], so it takes 96 "
         "values, but 64 come in"},
        {"embed.0", 6, 8193,
         "embed.mlp[0].tensor: tensor embed.0.weight has shape [8193, 6]; at most 8192 neurons"},
        {"embed.1", 63, 64,
         "embed.mlp[2].tensor: tensor embed.1.weight has shape [64, 63], so it takes 63 values, "
         "but 64 come in"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        tm_model_writer_t *w = tm_model_writer_new(SEED);
        tm_model_t *model = NULL;
        tm_error_t err = {0};
        const char *json = tm_pipeline_edit(w, "standard", "version", "\"2\"");
        tm_model_writer_linear(w, cases[i].tensor, cases[i].in, cases[i].out, true);
        assert_int_equal(tm_writer_load(w, json, "m", &model, &err), TM_E_MODEL_FILE);
        if (strncmp(err.text + 3, cases[i].text, strlen(cases[i].text)) != 0) {
            fail_msg("%s: got \"%s\"", cases[i].tensor, err.text);
        }
        tm_model_writer_destroy(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_top),         cmocka_unit_test(test_features),
        cmocka_unit_test(test_too_many),    cmocka_unit_test(test_embed_and_radius),
        cmocka_unit_test(test_ops),         cmocka_unit_test(test_filter_and_tracks),
        cmocka_unit_test(test_track_steps), cmocka_unit_test(test_interaction),
        cmocka_unit_test(test_steps),       cmocka_unit_test(test_resagnn),
        cmocka_unit_test(test_widest),      cmocka_unit_test(test_state_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
