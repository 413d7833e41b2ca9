// SPDX-License-Identifier: Apache-2.0
/*
 * numpy archives (.npz) from memory: a zip file of .npy arrays, stored or deflated.
 *
 * Strict: .npy versions 1 and 2, one dimension, C order, little-endian integers and floats of
 * 1 to 8 bytes; the element count must match the member's size exactly, and libzip checks the CRC.
 *
 * Ownership: the archive borrows the bytes it was opened on; arrays live in the caller's arena.
 * Threads: none shared. Errors: TM_E_FILE; texts name the file and the array.
 */
#ifndef TM_CLIENT_EVENT_NPZ_H
#define TM_CLIENT_EVENT_NPZ_H

#include "client/event/arena.h"
#include "wire/columns.h"

typedef struct tm_npz tm_npz_t;

/* `path` appears in error texts (borrowed until destroyed), as do the bytes. */
tm_status_t tm_npz_open(const char *path, const void *bytes, size_t n, tm_npz_t **out,
                        tm_error_t *err);
void tm_npz_destroy(tm_npz_t **p);

bool tm_npz_has(const tm_npz_t *npz, const char *name);

/* Loads array `name` (without ".npy") into *array: name, type, n, data (in the arena).
 * max_count: more elements are refused. */
tm_status_t tm_npz_read(tm_npz_t *npz, const char *name, uint64_t max_count, tm_arena_t *arena,
                        tm_column_t *array, tm_error_t *err);

#endif
