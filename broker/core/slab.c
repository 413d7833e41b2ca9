// SPDX-License-Identifier: Apache-2.0
#include "broker/core/slab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tm_slab_init(tm_slab_t *slab, size_t item_bytes) {
    *slab = (tm_slab_t){.item_bytes = item_bytes};
}

void tm_slab_clear(tm_slab_t *slab) {
    for (uint32_t i = 0; i < slab->n_chunks; i++)
        free(slab->chunks[i]);
    free(slab->chunks);
    free(slab->free_slots);
    tm_slab_init(slab, slab->item_bytes);
}

tm_status_t tm_slab_reserve(tm_slab_t *slab) {
    if (slab->used < slab->capacity)
        return TM_OK;
    void **chunks = realloc(slab->chunks, (slab->n_chunks + 1) * sizeof *chunks);
    if (!chunks)
        return TM_E_NO_MEMORY;
    slab->chunks = chunks;
    size_t capacity = (size_t)slab->capacity + TM_SLAB_CHUNK;
    uint32_t *free_slots = realloc(slab->free_slots, capacity * sizeof *free_slots);
    if (!free_slots)
        return TM_E_NO_MEMORY;
    slab->free_slots = free_slots;
    void *chunk = calloc(TM_SLAB_CHUNK, slab->item_bytes);
    if (!chunk)
        return TM_E_NO_MEMORY;
    slab->chunks[slab->n_chunks++] = chunk;
    // the stack is empty here (all slots are in use); low numbers come out first
    for (uint32_t i = 0; i < TM_SLAB_CHUNK; i++)
        slab->free_slots[i] = slab->capacity + TM_SLAB_CHUNK - 1 - i;
    slab->capacity = (uint32_t)capacity;
    return TM_OK;
}

void *tm_slab_take(tm_slab_t *slab, uint32_t *slot) {
    assert(slab->used < slab->capacity);
    *slot = slab->free_slots[slab->capacity - slab->used - 1];
    slab->used++;
    return memset(tm_slab_get(slab, *slot), 0, slab->item_bytes);
}

void tm_slab_put(tm_slab_t *slab, uint32_t slot) {
    assert(slab->used > 0 && slot < slab->capacity);
    slab->used--;
    slab->free_slots[slab->capacity - slab->used - 1] = slot;
}

void *tm_slab_get(const tm_slab_t *slab, uint32_t slot) {
    if (slot >= slab->capacity)
        return NULL;
    return (char *)slab->chunks[slot / TM_SLAB_CHUNK] + (slot % TM_SLAB_CHUNK) * slab->item_bytes;
}
