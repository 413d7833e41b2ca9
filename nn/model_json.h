// SPDX-License-Identifier: Apache-2.0
/*
 * Reading JSON values with the place of each at hand, so that every complaint says where:
 * "gnn.node_mlp[2].tensor: …". Internal to the model file loader.
 *
 * A node is a value and the way to it; it lives on the reader's stack and borrows its parent, its
 * key and its value. Every function returns TM_E_MODEL_FILE with a text on a value that it refuses.
 */
#ifndef TM_NN_MODEL_JSON_H
#define TM_NN_MODEL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/error.h"

typedef struct tm_node {
    const struct tm_node *parent; /* NULL: the whole object */
    const char *key;              /* in an object; NULL in a list */
    size_t index;                 /* in a list */
    const json_t *value;
} tm_node_t;

/* Parses text from outside; a key that is there twice is refused. `what` names it in the text of an
 * error. *out is taken by the caller: json_decref. TM_E_MODEL_FILE, TM_E_NO_MEMORY. */
tm_status_t tm_json_parse(const char *text, size_t bytes, const char *what, json_t **out,
                          tm_error_t *err);

/* Fills *err with the place of the node and the text. Returns TM_E_MODEL_FILE. */
tm_status_t tm_node_fail(const tm_node_t *node, tm_error_t *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Checks that the node is an object whose keys are all in `known` (count of them). */
tm_status_t tm_node_check_object(const tm_node_t *node, const char *const *known, size_t count,
                                 tm_error_t *err);

/* Whether the object has the key. */
bool tm_node_has(const tm_node_t *node, const char *key);

/* The value of a key that must be there. The child borrows `node`. */
tm_status_t tm_node_get(const tm_node_t *node, const char *key, tm_node_t *child, tm_error_t *err);

/* Checks that the node is a list of min to max values; *count says how many. */
tm_status_t tm_node_list(const tm_node_t *node, size_t min, size_t max, size_t *count,
                         tm_error_t *err);
tm_node_t tm_node_item(const tm_node_t *list, size_t index);

/* The node itself as a string; borrowed from the JSON. */
tm_status_t tm_node_string(const tm_node_t *node, const char **out, tm_error_t *err);

/* Values of keys that must be there. Numbers: min <= value <= max, both ends allowed. */
tm_status_t tm_node_get_string(const tm_node_t *node, const char *key, const char **out,
                               tm_error_t *err);
tm_status_t tm_node_get_bool(const tm_node_t *node, const char *key, bool *out, tm_error_t *err);
tm_status_t tm_node_get_float(const tm_node_t *node, const char *key, double min, double max,
                              float *out, tm_error_t *err);
tm_status_t tm_node_get_uint(const tm_node_t *node, const char *key, uint32_t min, uint32_t max,
                             uint32_t *out, tm_error_t *err);
/* *out: the index of the string in `words`. */
tm_status_t tm_node_get_word(const tm_node_t *node, const char *key, const char *const *words,
                             size_t count, size_t *out, tm_error_t *err);

/* The node itself, a string, as an index of `words`. */
tm_status_t tm_node_word(const tm_node_t *node, const char *const *words, size_t count, size_t *out,
                         tm_error_t *err);

#endif
