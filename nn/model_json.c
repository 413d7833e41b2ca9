// SPDX-License-Identifier: Apache-2.0
#include "nn/model_json.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PATH_BYTES 160
#define SHOWN_MAX 48 /* bytes of a foreign string that a text shows */
#define LIST_BYTES 200

/* A foreign string, fit to stand in a text: printable ASCII of bounded length. */
typedef struct {
    char text[SHOWN_MAX + 4];
} shown_t;

static shown_t show(const char *string) {
    shown_t shown;
    size_t n = 0;
    for (; n < SHOWN_MAX && string[n] != '\0'; n++) {
        shown.text[n] = (char)(string[n] < ' ' || string[n] > '~' ? '?' : string[n]);
    }
    shown.text[n] = '\0';
    if (string[n] != '\0') {
        strcpy(shown.text + n, "...");
    }
    return shown;
}

tm_status_t tm_json_parse(const char *text, size_t bytes, const char *what, json_t **out,
                          tm_error_t *err) {
    json_error_t problem = {0};
    *out = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (*out != NULL) {
        return TM_OK;
    }
    /* where an allocation fails, most of the library's functions leave no text */
    if (problem.text[0] == '\0' || json_error_code(&problem) == json_error_out_of_memory) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory for %s", what);
    }
    return tm_error_set(err, TM_E_MODEL_FILE, "%s is no valid JSON, line %d, column %d: %s", what,
                        problem.line, problem.column, problem.text);
}

/* Appends the way to the node; what does not fit is cut. */
static void append_path(const tm_node_t *node, char path[PATH_BYTES]) {
    if (node->parent == NULL) {
        return;
    }
    append_path(node->parent, path);
    size_t used = strlen(path);
    if (node->key != NULL) {
        snprintf(path + used, PATH_BYTES - used, "%s%s", used > 0 ? "." : "", show(node->key).text);
    } else {
        snprintf(path + used, PATH_BYTES - used, "[%zu]", node->index);
    }
}

tm_status_t tm_node_fail(const tm_node_t *node, tm_error_t *err, const char *format, ...) {
    char path[PATH_BYTES] = "";
    char text[TM_ERROR_TEXT_BYTES];
    append_path(node, path);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return tm_error_set(err, TM_E_MODEL_FILE, "%s: %s", path[0] != '\0' ? path : "pipeline", text);
}

static const char *type_name(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    case JSON_NULL:
        break;
    }
    return "null";
}

static tm_status_t fail_type(const tm_node_t *node, const char *wanted, tm_error_t *err) {
    return tm_node_fail(node, err, "%s where %s is expected", type_name(node->value), wanted);
}

static void join_words(const char *const *words, size_t count, char list[LIST_BYTES]) {
    list[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(list);
        snprintf(list + used, LIST_BYTES - used, "%s%s", i > 0 ? ", " : "", words[i]);
    }
}

tm_status_t tm_node_check_object(const tm_node_t *node, const char *const *known, size_t count,
                                 tm_error_t *err) {
    if (!json_is_object(node->value)) {
        return fail_type(node, "an object", err);
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)node->value, key, value) {
        bool found = false;
        for (size_t i = 0; i < count && !found; i++) {
            found = strcmp(key, known[i]) == 0;
        }
        if (!found) {
            tm_node_t child = {.parent = node, .key = key, .value = value};
            char list[LIST_BYTES];
            join_words(known, count, list);
            return tm_node_fail(&child, err, "unknown key; known here: %s", list);
        }
    }
    return TM_OK;
}

bool tm_node_has(const tm_node_t *node, const char *key) {
    return json_object_get(node->value, key) != NULL;
}

tm_status_t tm_node_get(const tm_node_t *node, const char *key, tm_node_t *child, tm_error_t *err) {
    *child = (tm_node_t){.parent = node, .key = key, .value = json_object_get(node->value, key)};
    if (child->value == NULL) {
        return tm_node_fail(child, err, "this key is missing");
    }
    return TM_OK;
}

tm_status_t tm_node_list(const tm_node_t *node, size_t min, size_t max, size_t *count,
                         tm_error_t *err) {
    if (!json_is_array(node->value)) {
        return fail_type(node, "a list", err);
    }
    *count = json_array_size(node->value);
    if (*count < min || *count > max) {
        return tm_node_fail(node, err, "a list of %zu; %zu to %zu are allowed", *count, min, max);
    }
    return TM_OK;
}

tm_node_t tm_node_item(const tm_node_t *list, size_t index) {
    return (tm_node_t){.parent = list, .index = index, .value = json_array_get(list->value, index)};
}

tm_status_t tm_node_string(const tm_node_t *node, const char **out, tm_error_t *err) {
    *out = json_string_value(node->value);
    return *out != NULL ? TM_OK : fail_type(node, "a string", err);
}

tm_status_t tm_node_get_string(const tm_node_t *node, const char *key, const char **out,
                               tm_error_t *err) {
    tm_node_t child;
    tm_status_t status = tm_node_get(node, key, &child, err);
    return status != TM_OK ? status : tm_node_string(&child, out, err);
}

tm_status_t tm_node_get_bool(const tm_node_t *node, const char *key, bool *out, tm_error_t *err) {
    tm_node_t child;
    tm_status_t status = tm_node_get(node, key, &child, err);
    if (status != TM_OK) {
        return status;
    }
    if (!json_is_boolean(child.value)) {
        return fail_type(&child, "true or false", err);
    }
    *out = json_is_true(child.value);
    return TM_OK;
}

tm_status_t tm_node_get_float(const tm_node_t *node, const char *key, double min, double max,
                              float *out, tm_error_t *err) {
    tm_node_t child;
    tm_status_t status = tm_node_get(node, key, &child, err);
    if (status != TM_OK) {
        return status;
    }
    if (!json_is_number(child.value)) {
        return fail_type(&child, "a number", err);
    }
    double value = json_number_value(child.value);
    if (!(value >= min && value <= max)) {
        return tm_node_fail(&child, err, "%g is outside %g to %g", value, min, max);
    }
    *out = (float)value;
    return TM_OK;
}

tm_status_t tm_node_get_uint(const tm_node_t *node, const char *key, uint32_t min, uint32_t max,
                             uint32_t *out, tm_error_t *err) {
    tm_node_t child;
    tm_status_t status = tm_node_get(node, key, &child, err);
    if (status != TM_OK) {
        return status;
    }
    if (!json_is_integer(child.value)) {
        return fail_type(&child, "an integer", err);
    }
    json_int_t value = json_integer_value(child.value);
    if (value < (json_int_t)min || value > (json_int_t)max) {
        return tm_node_fail(&child, err, "%" PRId64 " is outside %" PRIu32 " to %" PRIu32,
                            (int64_t)value, min, max);
    }
    *out = (uint32_t)value;
    return TM_OK;
}

tm_status_t tm_node_word(const tm_node_t *node, const char *const *words, size_t count, size_t *out,
                         tm_error_t *err) {
    const char *text = NULL;
    tm_status_t status = tm_node_string(node, &text, err);
    if (status != TM_OK) {
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return TM_OK;
        }
    }
    char list[LIST_BYTES];
    join_words(words, count, list);
    return tm_node_fail(node, err, "\"%s\" is none of: %s", show(text).text, list);
}

tm_status_t tm_node_get_word(const tm_node_t *node, const char *key, const char *const *words,
                             size_t count, size_t *out, tm_error_t *err) {
    tm_node_t child;
    tm_status_t status = tm_node_get(node, key, &child, err);
    return status != TM_OK ? status : tm_node_word(&child, words, count, out, err);
}
