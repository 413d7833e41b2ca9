// SPDX-License-Identifier: Apache-2.0
#include "client/event/idmap.h"

#include <assert.h>
#include <stdlib.h>

tm_status_t tm_idmap_init(tm_idmap_t *map, uint32_t capacity, tm_error_t *err) {
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)capacity) {
        slots *= 2;
    }
    *map = (tm_idmap_t){.mask = slots - 1, .limit = capacity};
    map->key = malloc(slots * sizeof *map->key);
    map->row = malloc(slots * sizeof *map->row);
    if (!map->key || !map->row) {
        tm_idmap_clear(map);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u identifiers", capacity);
    }
    for (uint64_t i = 0; i < slots; i++) {
        map->row[i] = TM_IDMAP_NONE;
    }
    return TM_OK;
}

/* The slot that holds the id, or the empty one where it belongs. */
static uint64_t slot_of(const tm_idmap_t *map, uint64_t id) {
    uint64_t h = id; /* splitmix64's finisher: particle ids differ in their high bits alone */
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9u;
    h = (h ^ (h >> 27)) * 0x94D049BB133111EBu;
    h ^= h >> 31;
    uint64_t i = h & map->mask;
    while (map->row[i] != TM_IDMAP_NONE && map->key[i] != id) {
        i = (i + 1) & map->mask;
    }
    return i;
}

uint32_t tm_idmap_find(const tm_idmap_t *map, uint64_t id) {
    return map->row[slot_of(map, id)];
}

uint32_t tm_idmap_add(tm_idmap_t *map, uint64_t id, uint32_t row) {
    uint64_t i = slot_of(map, id);
    if (map->row[i] == TM_IDMAP_NONE) {
        assert(map->n < map->limit && row != TM_IDMAP_NONE);
        map->key[i] = id;
        map->row[i] = row;
        map->n++;
    }
    return map->row[i];
}

void tm_idmap_clear(tm_idmap_t *map) {
    free(map->key);
    free(map->row);
    *map = (tm_idmap_t){0};
}
