// SPDX-License-Identifier: Apache-2.0
#include "pipeline_edit.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/model.h"

#define PART_MAX 64

static _Noreturn void fail(const char *what, const char *path) {
    fprintf(stderr, "pipeline_edit: %s: %s\n", what, path);
    exit(EXIT_FAILURE);
}

/* Cuts the first part off the path: a key, or an index (then *key is empty). */
static const char *next_part(const char *path, char key[PART_MAX], size_t *index) {
    key[0] = '\0';
    if (*path == '[') {
        char *end = NULL;
        *index = strtoul(path + 1, &end, 10);
        path = end + 1;
    } else {
        size_t n = strcspn(path, ".[");
        snprintf(key, PART_MAX, "%.*s", (int)n, path);
        path += n;
    }
    return *path == '.' ? path + 1 : path;
}

static int change(json_t *parent, const char *key, size_t index, json_t *value) {
    if (json_is_object(parent)) {
        return value != NULL ? json_object_set(parent, key, value) : json_object_del(parent, key);
    }
    if (value == NULL) {
        return json_array_remove(parent, index);
    }
    return index < json_array_size(parent) ? json_array_set(parent, index, value)
                                           : json_array_append(parent, value);
}

const char *tm_pipeline_edit(tm_model_writer_t *w, const char *entry, const char *path,
                             const char *json) {
    const tm_zoo_entry_t *zoo = tm_zoo;
    while (zoo->name != NULL && strcmp(zoo->name, entry) != 0) {
        zoo++;
    }
    if (zoo->name == NULL) {
        fail("no such entry", entry);
    }
    json_t *root = json_loads(zoo->build(w), 0, NULL);
    json_t *value = json != NULL ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
    if (root == NULL || (json != NULL && value == NULL)) {
        fail("no JSON", path);
    }
    json_t *parent = root;
    char key[PART_MAX];
    size_t index = 0;
    const char *rest = next_part(path, key, &index);
    while (*rest != '\0' && parent != NULL) {
        parent = key[0] != '\0' ? json_object_get(parent, key) : json_array_get(parent, index);
        rest = next_part(rest, key, &index);
    }
    if (parent == NULL || change(parent, key, index, value) != 0) {
        fail("leads nowhere", path);
    }
    char *text = json_dumps(root, 0);
    const char *owned = tm_model_writer_text(w, "%s", text);
    free(text);
    json_decref(value);
    json_decref(root);
    return owned;
}

tm_status_t tm_writer_load(const tm_model_writer_t *w, const char *pipeline_json, const char *label,
                           tm_model_t **out, tm_error_t *err) {
    size_t bytes = 0;
    uint8_t *data = tm_model_writer_bytes(w, pipeline_json, &bytes);
    tm_status_t status = tm_model_from_memory(data, bytes, label, out, err);
    free(data);
    return status;
}
