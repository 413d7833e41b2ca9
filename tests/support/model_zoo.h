// SPDX-License-Identifier: Apache-2.0
/*
 * The architectures that public track finding models have, each as a complete model file with random
 * weights: for tests of the loader and of the stages.
 */
#ifndef TM_TESTS_MODEL_ZOO_H
#define TM_TESTS_MODEL_ZOO_H

#include "tests/support/model_writer.h"

typedef struct {
    const char *name; /* also the name of the model */
    const char *what; /* one line */
    const char *(*build)(tm_model_writer_t *w);
} tm_zoo_entry_t;

/* NULL-terminated by name. `build` adds the tensors and returns the pipeline's JSON, which the
 * writer owns. */
extern const tm_zoo_entry_t tm_zoo[];

/* The entry of that name, loaded; ends the program where that fails. tm_model_destroy it. */
tm_model_t *tm_zoo_load(const char *name, uint64_t seed);

#endif
