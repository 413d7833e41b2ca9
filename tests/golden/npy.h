// SPDX-License-Identifier: Apache-2.0
/* Reads numpy .npy files (format 1.0, C order, f4 f8 i8) as doubles; for tests. */
#ifndef TM_TESTS_NPY_H
#define TM_TESTS_NPY_H

#include <stdbool.h>
#include <stddef.h>

#define TM_NPY_RANK_MAX 4

typedef struct {
    size_t rank, shape[TM_NPY_RANK_MAX], size;
    double *values; /* owned: tm_npy_free */
} tm_npy_t;

/* false: the file is not there. Anything wrong in it ends the program with a line on stderr. */
bool tm_npy_read(const char *path, tm_npy_t *out);
void tm_npy_free(tm_npy_t *npy);

#endif
