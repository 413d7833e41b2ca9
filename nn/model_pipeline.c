// SPDX-License-Identifier: Apache-2.0
#include "nn/model_pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "nn/model_mlp.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define INPUT_KINDS (TM_IN_M + 1)

/* In the order of tm_input_kind_t. */
static const char *const input_names[INPUT_KINDS] = {
    "x_src",   "x_dst",   "x0_src",  "x0_dst",  "edge_features", "e",        "e0", "x", "x0",
    "sum_dst", "sum_src", "max_dst", "max_src", "mean_dst",      "mean_src", "h",  "m"};

/* What the readers of all stages work on. */
typedef struct {
    const tm_node_t *root;
    tm_weights_t *weights;
    tm_pipeline_t *p;
    tm_error_t *err;
} reader_t;

/* Width of each input that a stage may name; 0: it may not. */
typedef struct {
    uint32_t of[INPUT_KINDS];
} widths_t;

/* Reads a list of inputs, each at most once, and adds up their widths. */
static tm_status_t read_inputs(reader_t *r, const tm_node_t *stage, const char *key,
                               const widths_t *widths, tm_inputs_t *inputs, uint32_t *width) {
    const char *allowed[INPUT_KINDS];
    tm_input_kind_t kinds[INPUT_KINDS];
    size_t n_allowed = 0;
    for (size_t i = 0; i < INPUT_KINDS; i++) {
        if (widths->of[i] > 0) {
            allowed[n_allowed] = input_names[i];
            kinds[n_allowed++] = (tm_input_kind_t)i;
        }
    }
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(stage, key, &list, r->err);
    if (status == TM_OK) {
        status = tm_node_list(&list, 1, TM_INPUTS_MAX, &count, r->err);
    }
    if (status != TM_OK) {
        return status;
    }
    bool seen[INPUT_KINDS] = {false};
    *width = 0;
    for (size_t i = 0; i < count; i++) {
        tm_node_t node = tm_node_item(&list, i);
        size_t word = 0;
        status = tm_node_word(&node, allowed, n_allowed, &word, r->err);
        if (status != TM_OK) {
            return status;
        }
        if (seen[word]) {
            return tm_node_fail(&node, r->err, "%s is in the list already", allowed[word]);
        }
        seen[word] = true;
        inputs->part[i] = kinds[word];
        *width += widths->of[kinds[word]];
    }
    inputs->n = (uint32_t)count;
    return TM_OK;
}

/* The MLP under mlp_key, of a step or TM_NO_STEP, fed by the concatenation of the inputs under
 * inputs_key. */
static tm_status_t read_fed_mlp(reader_t *r, const tm_node_t *stage, const char *inputs_key,
                                const char *mlp_key, uint32_t step, const widths_t *widths,
                                uint32_t out, tm_inputs_t *inputs, tm_mlp_t *mlp) {
    uint32_t width = 0;
    tm_status_t status = read_inputs(r, stage, inputs_key, widths, inputs, &width);
    if (status == TM_OK) {
        status = tm_mlp_read(stage, mlp_key, step, width, out, r->weights, mlp, r->err);
    }
    return status;
}

/* Reads the key into *out where it is there; else *out stays. */
static tm_status_t read_optional_float(reader_t *r, const tm_node_t *stage, const char *key,
                                       double max, float *out) {
    return tm_node_has(stage, key) ? tm_node_get_float(stage, key, 0, max, out, r->err) : TM_OK;
}

static tm_status_t read_embed(reader_t *r) {
    static const char *const keys[] = {"features", "mlp", "normalize"};
    tm_node_t stage;
    tm_status_t status = tm_node_get(r->root, "embed", &stage, r->err);
    if (status == TM_OK) {
        status = tm_node_check_object(&stage, keys, COUNT(keys), r->err);
    }
    if (status == TM_OK) {
        status = tm_feature_list_read(r->root, &stage, r->p, &r->p->embed.features, r->err);
    }
    if (status == TM_OK) {
        status = tm_mlp_read(&stage, "mlp", TM_NO_STEP, r->p->embed.features.n, 0, r->weights,
                             &r->p->embed.mlp, r->err);
    }
    if (status == TM_OK && r->p->embed.mlp.out > TM_EMBED_DIM_MAX) {
        return tm_node_fail(&stage, r->err, "%u dimensions; at most %d are allowed",
                            r->p->embed.mlp.out, TM_EMBED_DIM_MAX);
    }
    if (status == TM_OK) {
        status = tm_node_get_bool(&stage, "normalize", &r->p->embed.normalize, r->err);
    }
    return status;
}

static tm_status_t read_radius(reader_t *r) {
    static const char *const keys[] = {"r", "k", "direction", "dphi_max", "z0_max", "z0_min_dr"};
    static const char *const directions[] = {"outward", "index"}; /* as tm_direction_t */
    tm_node_t stage;
    size_t direction = 0;
    tm_status_t status = tm_node_get(r->root, "radius", &stage, r->err);
    if (status == TM_OK) {
        status = tm_node_check_object(&stage, keys, COUNT(keys), r->err);
    }
    if (status == TM_OK) {
        status =
            tm_node_get_float(&stage, "r", TM_RADIUS_MIN, TM_RADIUS_MAX, &r->p->radius.r, r->err);
    }
    if (status == TM_OK && tm_node_has(&stage, "k")) {
        status = tm_node_get_uint(&stage, "k", 0, TM_RADIUS_K_MAX, &r->p->radius.k, r->err);
    }
    if (status == TM_OK) {
        status = tm_node_get_word(&stage, "direction", directions, COUNT(directions), &direction,
                                  r->err);
    }
    r->p->radius.direction = (tm_direction_t)direction;
    if (status == TM_OK) {
        status =
            read_optional_float(r, &stage, "dphi_max", TM_DPHI_CUT_MAX, &r->p->radius.dphi_max);
    }
    if (status == TM_OK) {
        status =
            read_optional_float(r, &stage, "z0_max", TM_LENGTH_CUT_MAX_MM, &r->p->radius.z0_max);
    }
    if (status == TM_OK) {
        status = read_optional_float(r, &stage, "z0_min_dr", TM_LENGTH_CUT_MAX_MM,
                                     &r->p->radius.z0_min_dr);
    }
    return status;
}

static tm_status_t read_filter(reader_t *r) {
    static const char *const keys[] = {"features", "inputs", "mlp", "cut"};
    tm_node_t stage;
    r->p->filter.present = tm_node_has(r->root, "filter");
    if (!r->p->filter.present) {
        return TM_OK;
    }
    tm_status_t status = tm_node_get(r->root, "filter", &stage, r->err);
    if (status == TM_OK) {
        status = tm_node_check_object(&stage, keys, COUNT(keys), r->err);
    }
    if (status == TM_OK) {
        status = tm_feature_list_read(r->root, &stage, r->p, &r->p->filter.features, r->err);
    }
    if (status == TM_OK) {
        widths_t widths = {{0}};
        widths.of[TM_IN_X_SRC] = widths.of[TM_IN_X_DST] = r->p->filter.features.n;
        widths.of[TM_IN_EDGE_FEATURES] = r->p->n_edge_features;
        status = read_fed_mlp(r, &stage, "inputs", "mlp", TM_NO_STEP, &widths, 1,
                              &r->p->filter.inputs, &r->p->filter.mlp);
    }
    if (status == TM_OK) {
        status = tm_node_get_float(&stage, "cut", 0, TM_SCORE_CUT_MAX, &r->p->filter.cut, r->err);
    }
    return status;
}

/* What both kinds of gnn have; the node encoder's width is its output's. */
static tm_status_t read_gnn_start(reader_t *r, const tm_node_t *stage) {
    tm_status_t status = tm_feature_list_read(r->root, stage, r->p, &r->p->gnn.features, r->err);
    if (status == TM_OK) {
        status = tm_node_get_uint(stage, "steps", 1, TM_GNN_STEPS_MAX, &r->p->gnn.steps, r->err);
    }
    if (status == TM_OK) {
        status = tm_mlp_read(stage, "node_encoder", TM_NO_STEP, r->p->gnn.features.n, 0, r->weights,
                             &r->p->gnn.node_encoder, r->err);
    }
    return status;
}

/* Room for the MLPs of so many steps. */
static tm_status_t reserve_steps(reader_t *r, uint32_t n) {
    r->p->gnn.node_mlp = calloc(n, sizeof *r->p->gnn.node_mlp);
    r->p->gnn.edge_mlp = calloc(n, sizeof *r->p->gnn.edge_mlp);
    if (r->p->gnn.node_mlp == NULL || r->p->gnn.edge_mlp == NULL) {
        return tm_error_set(r->err, TM_E_NO_MEMORY, "out of memory");
    }
    r->p->gnn.n_weights = n;
    return TM_OK;
}

/* The MLPs of an interaction network. The state of a node keeps its width over the steps, and so
 * does that of an edge, whether or not it is added to the update. */
static tm_status_t read_interaction_mlps(reader_t *r, const tm_node_t *stage) {
    widths_t encoder = {{0}};
    const uint32_t x = r->p->gnn.node_encoder.out;
    encoder.of[TM_IN_X_SRC] = encoder.of[TM_IN_X_DST] = x;
    encoder.of[TM_IN_EDGE_FEATURES] = r->p->n_edge_features;
    tm_status_t status =
        read_fed_mlp(r, stage, "edge_encoder_inputs", "edge_encoder", TM_NO_STEP, &encoder, 0,
                     &r->p->gnn.edge_encoder_inputs, &r->p->gnn.edge_encoder);
    if (status != TM_OK) {
        return status;
    }
    const uint32_t e = r->p->gnn.edge_encoder.out;
    widths_t edge = encoder;
    edge.of[TM_IN_X0_SRC] = edge.of[TM_IN_X0_DST] = x;
    edge.of[TM_IN_E] = edge.of[TM_IN_E0] = e;
    widths_t node = {{0}};
    node.of[TM_IN_X] = node.of[TM_IN_X0] = x;
    for (int i = TM_IN_SUM_DST; i <= TM_IN_MEAN_SRC; i++) {
        node.of[i] = e;
    }
    bool own = tm_mlp_has_steps(stage, "node_mlp") || tm_mlp_has_steps(stage, "edge_mlp");
    status = reserve_steps(r, own ? r->p->gnn.steps : 1);
    for (uint32_t step = 0; step < r->p->gnn.n_weights && status == TM_OK; step++) {
        status = read_fed_mlp(r, stage, "node_inputs", "node_mlp", own ? step : TM_NO_STEP, &node,
                              x, &r->p->gnn.node_inputs, &r->p->gnn.node_mlp[step]);
        if (status == TM_OK) {
            status = read_fed_mlp(r, stage, "edge_inputs", "edge_mlp", own ? step : TM_NO_STEP,
                                  &edge, e, &r->p->gnn.edge_inputs, &r->p->gnn.edge_mlp[step]);
        }
    }
    if (status == TM_OK) {
        status = read_fed_mlp(r, stage, "output_inputs", "output", TM_NO_STEP, &edge, 1,
                              &r->p->gnn.output_inputs, &r->p->gnn.output);
    }
    return status;
}

static tm_status_t read_interaction(reader_t *r, const tm_node_t *stage) {
    static const char *const keys[] = {
        "kind",         "features",      "steps",         "order",         "node_encoder",
        "edge_encoder", "node_mlp",      "edge_mlp",      "output",        "node_inputs",
        "edge_inputs",  "output_inputs", "node_residual", "edge_residual", "edge_encoder_inputs"};
    static const char *const orders[] = {"node_first", "edge_first"}; /* as tm_order_t */
    size_t order = 0;
    tm_status_t status = tm_node_check_object(stage, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status = tm_node_get_word(stage, "order", orders, COUNT(orders), &order, r->err);
    }
    r->p->gnn.order = (tm_order_t)order;
    if (status == TM_OK) {
        status = tm_node_get_bool(stage, "node_residual", &r->p->gnn.node_residual, r->err);
    }
    if (status == TM_OK) {
        status = tm_node_get_bool(stage, "edge_residual", &r->p->gnn.edge_residual, r->err);
    }
    if (status == TM_OK) {
        status = read_gnn_start(r, stage);
    }
    if (status == TM_OK) {
        status = read_interaction_mlps(r, stage);
    }
    return status;
}

static tm_status_t read_resagnn(reader_t *r, const tm_node_t *stage) {
    static const char *const keys[] = {"kind",         "features", "steps",   "node_inputs",
                                       "node_encoder", "node_mlp", "edge_mlp"};
    tm_status_t status = tm_node_check_object(stage, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status = read_gnn_start(r, stage);
    }
    if (status != TM_OK) {
        return status;
    }
    const uint32_t encoded = r->p->gnn.node_encoder.out;
    const uint32_t h = encoded + r->p->gnn.features.n;
    uint32_t width = 2 * h;
    r->p->gnn.node_inputs = (tm_inputs_t){.n = 2, .part = {TM_IN_M, TM_IN_H}};
    if (tm_node_has(stage, "node_inputs")) {
        widths_t widths = {{0}};
        widths.of[TM_IN_H] = widths.of[TM_IN_M] = h;
        status = read_inputs(r, stage, "node_inputs", &widths, &r->p->gnn.node_inputs, &width);
        if (status == TM_OK && r->p->gnn.node_inputs.n != 2) {
            return tm_node_fail(stage, r->err, "node_inputs must have both h and m");
        }
    }
    if (status == TM_OK) {
        status = reserve_steps(r, 1);
    }
    if (status == TM_OK) {
        status = tm_mlp_read(stage, "node_mlp", TM_NO_STEP, width, encoded, r->weights,
                             r->p->gnn.node_mlp, r->err);
    }
    if (status == TM_OK) {
        status = tm_mlp_read(stage, "edge_mlp", TM_NO_STEP, 2 * h, 1, r->weights,
                             r->p->gnn.edge_mlp, r->err);
    }
    return status;
}

static tm_status_t read_gnn(reader_t *r) {
    static const char *const kinds[] = {"interaction", "resagnn"};
    tm_node_t stage;
    size_t kind = 0;
    r->p->gnn.kind = TM_GNN_NONE;
    if (!tm_node_has(r->root, "gnn")) {
        return r->p->filter.present
                   ? TM_OK
                   : tm_node_fail(r->root, r->err,
                                  "neither filter nor gnn: nothing would score the edges");
    }
    tm_status_t status = tm_node_get(r->root, "gnn", &stage, r->err);
    if (status == TM_OK && !json_is_object(stage.value)) {
        return tm_node_check_object(&stage, NULL, 0, r->err);
    }
    if (status == TM_OK) {
        status = tm_node_get_word(&stage, "kind", kinds, COUNT(kinds), &kind, r->err);
    }
    if (status != TM_OK) {
        return status;
    }
    r->p->gnn.kind = kind == 0 ? TM_GNN_INTERACTION : TM_GNN_RESAGNN;
    return kind == 0 ? read_interaction(r, &stage) : read_resagnn(r, &stage);
}

/* A name that the service can announce (wire/message.h, tm_model_id_t). */
static tm_status_t read_name(reader_t *r, const char *key, const char **out) {
    tm_node_t node;
    tm_status_t status = tm_node_get(r->root, key, &node, r->err);
    if (status == TM_OK) {
        status = tm_node_string(&node, out, r->err);
    }
    if (status != TM_OK) {
        return status;
    }
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789._-";
    size_t length = strlen(*out);
    if (length == 0 || length > TM_NAME_MAX || strspn(*out, allowed) != length) {
        return tm_node_fail(&node, r->err, "1 to %d of A-Z a-z 0-9 . _ - are allowed", TM_NAME_MAX);
    }
    return TM_OK;
}

static tm_status_t check_description(reader_t *r) {
    const char *text = NULL;
    if (!tm_node_has(r->root, "description")) {
        return TM_OK;
    }
    tm_node_t node;
    tm_status_t status = tm_node_get(r->root, "description", &node, r->err);
    if (status == TM_OK) {
        status = tm_node_string(&node, &text, r->err);
    }
    if (status == TM_OK && strlen(text) > TM_TEXT_MAX) {
        return tm_node_fail(&node, r->err, "longer than %d bytes", TM_TEXT_MAX);
    }
    return status;
}

static tm_status_t read_identity(reader_t *r, tm_pipeline_names_t *names) {
    static const char *const keys[] = {"format",        "name",  "version", "description",
                                       "features",      "embed", "radius",  "filter",
                                       "edge_features", "gnn",   "tracks"};
    if (!json_is_object(r->root->value)) {
        return tm_node_check_object(r->root, keys, COUNT(keys), r->err);
    }
    /* first, since a later format may well have keys that this program does not know */
    uint32_t format = 0;
    tm_status_t status =
        tm_node_get_uint(r->root, "format", TM_MODEL_FORMAT, TM_MODEL_FORMAT, &format, r->err);
    if (status == TM_OK) {
        status = tm_node_check_object(r->root, keys, COUNT(keys), r->err);
    }
    if (status == TM_OK) {
        status = read_name(r, "name", &names->name);
    }
    if (status == TM_OK) {
        status = read_name(r, "version", &names->version);
    }
    if (status == TM_OK) {
        status = check_description(r);
    }
    return status;
}

tm_status_t tm_pipeline_read(const json_t *json, tm_weights_t *weights, tm_pipeline_t *pipeline,
                             tm_pipeline_names_t *names, tm_error_t *err) {
    tm_node_t root = {.value = json};
    reader_t reader = {.root = &root, .weights = weights, .p = pipeline, .err = err};
    *pipeline = (tm_pipeline_t){0};
    tm_status_t status = read_identity(&reader, names);
    if (status == TM_OK) {
        status = tm_features_read(&root, pipeline, err);
    }
    if (status == TM_OK) {
        status = tm_edge_features_read(&root, pipeline, err);
    }
    if (status == TM_OK) {
        status = read_embed(&reader);
    }
    if (status == TM_OK) {
        status = read_radius(&reader);
    }
    if (status == TM_OK) {
        status = read_filter(&reader);
    }
    if (status == TM_OK) {
        status = read_gnn(&reader);
    }
    if (status == TM_OK) {
        status = tm_tracks_read(&root, pipeline, err);
    }
    return status;
}

void tm_pipeline_clear(tm_pipeline_t *pipeline) {
    free(pipeline->gnn.node_mlp);
    free(pipeline->gnn.edge_mlp);
    *pipeline = (tm_pipeline_t){0};
}
