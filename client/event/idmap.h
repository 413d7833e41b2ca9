// SPDX-License-Identifier: Apache-2.0
/*
 * From 64-bit identifiers of a file to row numbers: an open-addressing hash table of fixed size.
 * Threads: lookups may run concurrently.
 */
#ifndef TM_CLIENT_EVENT_IDMAP_H
#define TM_CLIENT_EVENT_IDMAP_H

#include <stdint.h>

#include "wire/error.h"

#define TM_IDMAP_NONE UINT32_MAX

typedef struct {
    uint64_t *key;
    uint32_t *row; /* TM_IDMAP_NONE: empty */
    uint64_t mask;
    uint32_t n, limit;
} tm_idmap_t;

/* Room for `capacity` identifiers (< 2^31). *map is overwritten, not freed. */
tm_status_t tm_idmap_init(tm_idmap_t *map, uint32_t capacity, tm_error_t *err);
/* Row of the identifier, or TM_IDMAP_NONE. */
uint32_t tm_idmap_find(const tm_idmap_t *map, uint64_t id);
/* Adds id → row unless the id is there already. Returns the row that the map has for it now.
 * No more than `capacity` different identifiers may be added. */
uint32_t tm_idmap_add(tm_idmap_t *map, uint64_t id, uint32_t row);
void tm_idmap_clear(tm_idmap_t *map);

#endif
