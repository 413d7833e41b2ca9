// SPDX-License-Identifier: Apache-2.0
#include "broker/core/index.h"

#include <assert.h>
#include <stdlib.h>

enum { FIRST_CELLS = 64 };

static uint64_t mix(uint64_t x) {
    // the finalizer of splitmix64: every input bit reaches every output bit
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint32_t home(const tm_index_t *index, uint64_t a, uint64_t b) {
    return (uint32_t)mix(mix(a ^ index->seed) + b) & index->mask;
}

void tm_index_init(tm_index_t *index, uint64_t seed) {
    *index = (tm_index_t){.seed = mix(seed + 1)};
}

void tm_index_clear(tm_index_t *index) {
    free(index->cells);
    *index = (tm_index_t){.seed = index->seed};
}

tm_status_t tm_index_reserve(tm_index_t *index, uint32_t count) {
    uint64_t cells = index->cells ? (uint64_t)index->mask + 1 : 0;
    if (2 * (uint64_t)count <= cells)
        return TM_OK;
    uint64_t wanted = cells ? cells : FIRST_CELLS;
    while (wanted < 2 * (uint64_t)count)
        wanted *= 2;
    tm_index_t grown = {.seed = index->seed, .mask = (uint32_t)(wanted - 1)};
    grown.cells = calloc(wanted, sizeof *grown.cells);
    if (!grown.cells)
        return TM_E_NO_MEMORY;
    for (uint64_t i = 0; i < cells; i++) {
        const tm_index_cell_t *cell = &index->cells[i];
        if (cell->value)
            tm_index_insert(&grown, cell->a, cell->b, cell->value);
    }
    free(index->cells);
    *index = grown;
    return TM_OK;
}

void *tm_index_find(const tm_index_t *index, uint64_t a, uint64_t b) {
    if (!index->cells)
        return NULL;
    for (uint32_t i = home(index, a, b);; i = (i + 1) & index->mask) {
        const tm_index_cell_t *cell = &index->cells[i];
        if (!cell->value || (cell->a == a && cell->b == b))
            return cell->value;
    }
}

void tm_index_insert(tm_index_t *index, uint64_t a, uint64_t b, void *value) {
    assert(value && index->cells && index->count < index->mask);
    uint32_t i = home(index, a, b);
    while (index->cells[i].value) {
        assert(index->cells[i].a != a || index->cells[i].b != b);
        i = (i + 1) & index->mask;
    }
    index->cells[i] = (tm_index_cell_t){a, b, value};
    index->count++;
}

void tm_index_remove(tm_index_t *index, uint64_t a, uint64_t b) {
    if (!index->cells)
        return;
    uint32_t hole = home(index, a, b);
    while (index->cells[hole].value && (index->cells[hole].a != a || index->cells[hole].b != b))
        hole = (hole + 1) & index->mask;
    if (!index->cells[hole].value)
        return;
    // move later members of the run into the hole unless that would put them before their home
    for (uint32_t i = (hole + 1) & index->mask; index->cells[i].value; i = (i + 1) & index->mask) {
        uint32_t at = home(index, index->cells[i].a, index->cells[i].b);
        if (((i - at) & index->mask) >= ((i - hole) & index->mask)) {
            index->cells[hole] = index->cells[i];
            hole = i;
        }
    }
    index->cells[hole].value = NULL;
    index->count--;
}

uint64_t tm_index_hash_bytes(uint64_t seed, const void *data, size_t bytes) {
    const uint8_t *byte = data;
    uint64_t hash = mix(seed ^ bytes);
    for (size_t i = 0; i < bytes; i++)
        hash = mix(hash + byte[i] + 1);
    return hash;
}
