// SPDX-License-Identifier: Apache-2.0
/*
 * Zeroed allocations that are freed together: what a tm_event_file_t owns.
 * Threads: none shared.
 */
#ifndef TM_CLIENT_EVENT_ARENA_H
#define TM_CLIENT_EVENT_ARENA_H

#include <stddef.h>

typedef struct tm_arena tm_arena_t;

/* NULL: no memory. */
tm_arena_t *tm_arena_new(void);
/* count * size zeroed bytes (0 bytes: a pointer all the same), aligned for any type; NULL: no memory or overflow. */
void *tm_arena_alloc(tm_arena_t *arena, size_t count, size_t size);
void tm_arena_destroy(tm_arena_t **p);

#endif
