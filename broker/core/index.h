// SPDX-License-Identifier: Apache-2.0
/*
 * Index: a hash table from a 128-bit key to a pointer, open addressing with linear probing. The hash
 * is seeded, because the keys come from peers. It grows only in tm_index_reserve, so that an
 * insertion never fails.
 *
 * Threads: belongs to its owner.
 */
#ifndef TM_BROKER_CORE_INDEX_H
#define TM_BROKER_CORE_INDEX_H

#include <stdint.h>

#include "wire/error.h"

typedef struct {
    uint64_t a, b;
    void *value; /* NULL: empty cell */
} tm_index_cell_t;

typedef struct {
    uint64_t seed;
    uint32_t count, mask; /* mask + 1 cells, when there are any */
    tm_index_cell_t *cells;
} tm_index_t;

void tm_index_init(tm_index_t *index, uint64_t seed);
void tm_index_clear(tm_index_t *index);

/* Makes room for `count` keys in all. TM_E_NO_MEMORY leaves the index as it was. */
tm_status_t tm_index_reserve(tm_index_t *index, uint32_t count);

/* The value of the key, or NULL. */
void *tm_index_find(const tm_index_t *index, uint64_t a, uint64_t b);
/* The key must not be there yet; the value must not be NULL; room must have been reserved. */
void tm_index_insert(tm_index_t *index, uint64_t a, uint64_t b, void *value);
/* Does nothing if the key is not there. */
void tm_index_remove(tm_index_t *index, uint64_t a, uint64_t b);

/* A hash of bytes for use as a key. */
uint64_t tm_index_hash_bytes(uint64_t seed, const void *data, size_t bytes);

#endif
