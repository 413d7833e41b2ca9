// SPDX-License-Identifier: Apache-2.0
/*
 * Intrusive doubly linked ring: a tm_link_t inside the item, another one as the head. An unlinked
 * item points to itself, so that removing it twice does no harm.
 */
#ifndef TM_BROKER_CORE_LIST_H
#define TM_BROKER_CORE_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tm_link {
    struct tm_link *prev, *next;
} tm_link_t;

/* The item that holds `link` as its member `member`. */
#define TM_LIST_ITEM(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* Walks a list; the current item may be removed (and freed) in the body. */
#define TM_LIST_EACH(head, it, after) \
    for (tm_link_t *it = (head)->next, *after = it->next; it != (head); \
         it = after, after = it->next)

static inline void tm_list_init(tm_link_t *link) {
    link->prev = link->next = link;
}

static inline bool tm_list_empty(const tm_link_t *head) {
    return head->next == head;
}

static inline void tm_list_remove(tm_link_t *link) {
    link->prev->next = link->next;
    link->next->prev = link->prev;
    tm_list_init(link);
}

static inline void tm_list_push_back(tm_link_t *head, tm_link_t *link) {
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}

static inline void tm_list_push_front(tm_link_t *head, tm_link_t *link) {
    tm_list_push_back(head->next, link);
}

#endif
