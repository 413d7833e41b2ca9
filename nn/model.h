// SPDX-License-Identifier: Apache-2.0
/*
 * The model file loader: what nn/engine.h does not show of it.
 */
#ifndef TM_NN_MODEL_H
#define TM_NN_MODEL_H

#include <stddef.h>

#include "nn/engine.h"

#define TM_MODEL_FILE_MAX_BYTES (1ull << 30)
#define TM_MODEL_METADATA_KEY "trackmill"

/* Like tm_model_load, from bytes in memory, which are copied: they may go afterwards. `label` stands
 * for the file's name in the text of an error. */
tm_status_t tm_model_from_memory(const void *data, size_t bytes, const char *label,
                                 tm_model_t **out, tm_error_t *err);

#endif
