// SPDX-License-Identifier: Apache-2.0
/*
 * Where the weights of a model name are.
 */
#ifndef TM_CLI_MODEL_PATH_H
#define TM_CLI_MODEL_PATH_H

#include <stdbool.h>

#include "wire/error.h"

#define TM_MODEL_DEFAULT "standard"
#define TM_MODEL_FOLDER_ENV "TRACKMILL_WEIGHTS"

/* Whether `model` means a file rather than a name: it has a slash or ends with ".safetensors". */
bool tm_model_is_file(const char *model);

/* The file of a model: `model` itself if it means a file, else NAME.safetensors ("NAME@VERSION": NAME)
 * in the first of these folders that has it: $TRACKMILL_WEIGHTS; share/trackmill/weights where the
 * program is installed; weights/ beside the program or in a folder above it (source and build trees).
 * *path: allocated. TM_E_NOT_FOUND: the text lists the places. */
tm_status_t tm_model_path_find(const char *model, char **path, tm_error_t *err);

#endif
