// SPDX-License-Identifier: Apache-2.0
#include "client/event/arena.h"

#include <stdint.h>
#include <stdlib.h>

typedef struct block {
    struct block *next;
    max_align_t memory[];
} block_t;

struct tm_arena {
    block_t *first;
};

tm_arena_t *tm_arena_new(void) {
    return calloc(1, sizeof(tm_arena_t));
}

void *tm_arena_alloc(tm_arena_t *arena, size_t count, size_t size) {
    if (size != 0 && count > (SIZE_MAX - sizeof(block_t)) / size) {
        return NULL;
    }
    block_t *block = calloc(1, sizeof *block + count * size);
    if (!block) {
        return NULL;
    }
    block->next = arena->first;
    arena->first = block;
    return block->memory;
}

void tm_arena_destroy(tm_arena_t **p) {
    if (!*p) {
        return;
    }
    for (block_t *block = (*p)->first; block;) {
        block_t *next = block->next;
        free(block);
        block = next;
    }
    free(*p);
    *p = NULL;
}
