// SPDX-License-Identifier: Apache-2.0
#include "nn/model_pipeline.h"

#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define LOG_PREFIX "log_"

/* In the order of tm_feature_kind_t; any other name is an input column. */
static const char *const derived_names[] = {"x",   "y",     "z",   "r",       "phi",
                                            "eta", "theta", "rho", "cos_phi", "sin_phi"};

/* In the order of tm_edge_feature_kind_t. */
static const char *const edge_feature_names[] = {"dr", "dphi",      "dz",        "deta",
                                                 "z0", "curvature", "phi_slope", "rphi_slope"};

static const char *const feature_keys[] = {"name", "scale", "clamp"};

static bool is_column_name(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length <= TM_COLUMN_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == length;
}

static bool find_derived(const char *name, size_t *index) {
    for (size_t i = 0; i < COUNT(derived_names); i++) {
        if (strcmp(name, derived_names[i]) == 0) {
            *index = i;
            return true;
        }
    }
    return false;
}

/* "scale" and "clamp", which nodes and edges have in common. */
static tm_status_t read_scale(const tm_node_t *node, float *scale, float *clamp, tm_error_t *err) {
    tm_status_t status = tm_node_get_float(node, "scale", TM_SCALE_MIN, TM_SCALE_MAX, scale, err);
    if (status == TM_OK && tm_node_has(node, "clamp")) {
        status = tm_node_get_float(node, "clamp", TM_SCALE_MIN, TM_SCALE_MAX, clamp, err);
    }
    return status;
}

/* Two entries of one name would make the sub-lists of the stages ambiguous. */
static tm_status_t check_distinct(const tm_node_t *list, size_t index, const char *name,
                                  tm_error_t *err) {
    for (size_t i = 0; i < index; i++) {
        const json_t *entry = json_array_get(list->value, i);
        const json_t *value = json_is_object(entry) ? json_object_get(entry, "name") : entry;
        if (json_is_string(value) && strcmp(json_string_value(value), name) == 0) {
            tm_node_t node = tm_node_item(list, index);
            return tm_node_fail(&node, err, "%s is in the list already", name);
        }
    }
    return TM_OK;
}

static tm_status_t read_feature_name(const tm_node_t *node, tm_feature_t *feature,
                                     tm_error_t *err) {
    tm_node_t place;
    const char *name = NULL;
    tm_status_t status = tm_node_get(node, "name", &place, err);
    if (status == TM_OK) {
        status = tm_node_string(&place, &name, err);
    }
    if (status != TM_OK) {
        return status;
    }
    size_t derived = 0;
    if (find_derived(name, &derived)) {
        feature->kind = (tm_feature_kind_t)derived;
        return TM_OK;
    }
    bool log = strncmp(name, LOG_PREFIX, strlen(LOG_PREFIX)) == 0;
    const char *column = log ? name + strlen(LOG_PREFIX) : name;
    if (!is_column_name(column)) {
        return tm_node_fail(&place, err,
                            "no feature, and no input column: those have 1 to %d of a-z 0-9 _",
                            TM_COLUMN_NAME_MAX);
    }
    if (find_derived(column, &derived) && derived > TM_F_Z) {
        return tm_node_fail(&place, err, "the logarithm is for input columns; %s is none", column);
    }
    if (strcmp(column, "module_id") == 0) {
        return tm_node_fail(&place, err, "module_id is an identifier and no feature");
    }
    feature->kind = log ? TM_F_LOG_COLUMN : TM_F_COLUMN;
    strcpy(feature->column, column);
    return TM_OK;
}

tm_status_t tm_features_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err) {
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(root, "features", &list, err);
    if (status == TM_OK) {
        status = tm_node_list(&list, 1, TM_FEATURES_MAX, &count, err);
    }
    for (size_t i = 0; status == TM_OK && i < count; i++) {
        tm_feature_t *feature = &pipeline->feature[i];
        tm_node_t node = tm_node_item(&list, i);
        status = tm_node_check_object(&node, feature_keys, COUNT(feature_keys), err);
        if (status == TM_OK) {
            status = read_feature_name(&node, feature, err);
        }
        if (status == TM_OK) {
            status = read_scale(&node, &feature->scale, &feature->clamp, err);
        }
        if (status == TM_OK) {
            const char *name = json_string_value(json_object_get(node.value, "name"));
            status = check_distinct(&list, i, name, err);
        }
    }
    pipeline->n_features = (uint32_t)count;
    return status;
}

tm_status_t tm_edge_features_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err) {
    if (!tm_node_has(root, "edge_features")) {
        return TM_OK;
    }
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(root, "edge_features", &list, err);
    if (status == TM_OK) {
        status = tm_node_list(&list, 0, TM_EDGE_FEATURES_MAX, &count, err);
    }
    for (size_t i = 0; status == TM_OK && i < count; i++) {
        tm_edge_feature_t *feature = &pipeline->edge_feature[i];
        tm_node_t node = tm_node_item(&list, i);
        size_t kind = 0;
        status = tm_node_check_object(&node, feature_keys, COUNT(feature_keys), err);
        if (status == TM_OK) {
            status = tm_node_get_word(&node, "name", edge_feature_names, COUNT(edge_feature_names),
                                      &kind, err);
        }
        if (status == TM_OK) {
            feature->kind = (tm_edge_feature_kind_t)kind;
            status = read_scale(&node, &feature->scale, &feature->clamp, err);
        }
        if (status == TM_OK) {
            status = check_distinct(&list, i, edge_feature_names[kind], err);
        }
    }
    pipeline->n_edge_features = (uint32_t)count;
    return status;
}

tm_status_t tm_feature_list_read(const tm_node_t *root, const tm_node_t *stage,
                                 const tm_pipeline_t *pipeline, tm_feature_list_t *list,
                                 tm_error_t *err) {
    const char *names[TM_FEATURES_MAX];
    const json_t *features = json_object_get(root->value, "features");
    for (uint32_t i = 0; i < pipeline->n_features; i++) {
        names[i] = json_string_value(json_object_get(json_array_get(features, i), "name"));
        list->index[i] = (uint8_t)i;
    }
    list->n = pipeline->n_features;
    if (!tm_node_has(stage, "features")) {
        return TM_OK;
    }
    tm_node_t place;
    size_t count = 0;
    tm_status_t status = tm_node_get(stage, "features", &place, err);
    if (status == TM_OK) {
        status = tm_node_list(&place, 1, pipeline->n_features, &count, err);
    }
    for (size_t i = 0; status == TM_OK && i < count; i++) {
        tm_node_t node = tm_node_item(&place, i);
        size_t index = 0;
        status = tm_node_word(&node, names, pipeline->n_features, &index, err);
        if (status == TM_OK) {
            status = check_distinct(&place, i, names[index], err);
        }
        list->index[i] = (uint8_t)index;
    }
    list->n = (uint32_t)count;
    return status;
}
