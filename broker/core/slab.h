// SPDX-License-Identifier: Apache-2.0
/*
 * Slab: items of one size, taken and given back without malloc; memory grows by whole chunks, never
 * moves and is never returned before the end. A slot's memory stays readable after it was put back,
 * so that a stale number can be looked up and found stale.
 *
 * Threads: belongs to its owner.
 */
#ifndef TM_BROKER_CORE_SLAB_H
#define TM_BROKER_CORE_SLAB_H

#include <stdint.h>

#include "wire/error.h"

#define TM_SLAB_CHUNK 128u

typedef struct {
    size_t item_bytes;
    uint32_t capacity, used, n_chunks;
    void **chunks;
    uint32_t *free_slots; /* stack of capacity - used slots */
} tm_slab_t;

void tm_slab_init(tm_slab_t *slab, size_t item_bytes);
void tm_slab_clear(tm_slab_t *slab);

/* Makes sure that the next tm_slab_take succeeds. TM_E_NO_MEMORY leaves the slab as it was. */
tm_status_t tm_slab_reserve(tm_slab_t *slab);

/* A zeroed item; *slot is its number. Call tm_slab_reserve first. */
void *tm_slab_take(tm_slab_t *slab, uint32_t *slot);
void tm_slab_put(tm_slab_t *slab, uint32_t slot);

/* The item of that slot, in use or not; NULL beyond the capacity. */
void *tm_slab_get(const tm_slab_t *slab, uint32_t slot);

#endif
