// SPDX-License-Identifier: Apache-2.0
/*
 * A model of the zoo with one value of its pipeline changed, for tests that expect a refusal.
 */
#ifndef TM_TESTS_PIPELINE_EDIT_H
#define TM_TESTS_PIPELINE_EDIT_H

#include "tests/support/model_zoo.h"

/* The pipeline of a zoo entry with the value at `path` ("gnn.node_mlp[2].tensor") replaced by the
 * JSON text, or taken away where that is NULL. An index at a list's length appends. Owned by the
 * writer, which gets the entry's tensors. A path that leads nowhere ends the program. */
const char *tm_pipeline_edit(tm_model_writer_t *w, const char *entry, const char *path,
                             const char *json);

/* Loads what the writer holds. */
tm_status_t tm_writer_load(const tm_model_writer_t *w, const char *pipeline_json, const char *label,
                           tm_model_t **out, tm_error_t *err);

#endif
