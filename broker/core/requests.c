// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/core/state.h"

tm_status_t tm_requests_reserve(tm_sched_t *s) {
    if (s->requests_slab.used >= (1u << TM_SLOT_BITS) - TM_SLAB_CHUNK ||
        tm_slab_reserve(&s->requests_slab) ||
        tm_index_reserve(&s->requests, s->requests.count + 1) || tm_actions_reserve(s))
        return TM_E_NO_MEMORY;
    if (s->heap_room < s->requests_slab.capacity) {
        tm_request_t **heap = realloc(s->heap, s->requests_slab.capacity * sizeof(*heap));
        if (!heap)
            return TM_E_NO_MEMORY;
        s->heap = heap;
        s->heap_room = s->requests_slab.capacity;
    }
    return TM_OK;
}

tm_request_t *tm_requests_find_attempt(tm_sched_t *s, tm_id_t id, tm_attempt_t **attempt) {
    if (id.origin != s->config.epoch)
        return NULL;
    tm_request_t *r =
        tm_slab_get(&s->requests_slab, (uint32_t)(id.serial & ((1u << TM_SLOT_BITS) - 1)));
    if (!r || r->state == TM_REQUEST_FREE)
        return NULL;
    for (uint32_t i = 0; i < TM_ATTEMPTS_KEPT; i++)
        if (r->attempt[i].number && r->attempt[i].serial == id.serial) {
            *attempt = &r->attempt[i];
            return r;
        }
    return NULL;
}

tm_attempt_t *tm_attempt_current(tm_request_t *r) {
    return &r->attempt[r->attempts % TM_ATTEMPTS_KEPT];
}

void tm_request_finish(tm_sched_t *s, tm_request_t *r, bool revoke) {
    if (r->state == TM_REQUEST_QUEUED)
        tm_queue_remove(s, r);
    else if (r->worker) {
        if (revoke) {
            tm_action_t *action = tm_actions_add(s, TM_ACTION_REVOKE, r->worker->peer);
            action->id = (tm_id_t){s->config.epoch, tm_attempt_current(r)->serial};
            s->stats.revoked++;
        }
        tm_attempt_detach(s, r);
    }
    tm_list_remove(&r->of_client);
    r->client->n_requests--;
    tm_heap_remove(s, r);
    tm_index_remove(&s->requests, r->id.origin, r->id.serial);
    tm_lanes_leave(s, r->lane);
    s->stats.held_bytes -= r->bytes;
    s->stats.in_flight--;
    tm_actions_release(s, r->payload);
    r->state = TM_REQUEST_FREE;
    tm_slab_put(&s->requests_slab, r->slot);
}

void tm_request_fail(tm_sched_t *s, tm_request_t *r, bool revoke, tm_status_t code,
                     const char *format, ...) {
    char text[TM_TEXT_MAX + 1];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tm_actions_error(s, r->client->peer, r->id, code, "%s", text);
    s->stats.failed[code < TM_STATS_CODES ? code : 0]++;
    tm_request_finish(s, r, revoke);
}

void tm_request_retry(tm_sched_t *s, tm_request_t *r, const char *why) {
    if (r->started_attempts >= s->config.attempts_max)
        tm_request_fail(s, r, false, TM_E_ATTEMPTS, "%u attempts failed, the last because %s",
                        r->started_attempts, why);
    else
        tm_queue_push(s, r, true);
}

void tm_request_avoid(tm_request_t *r, const tm_session_t *w) {
    for (uint32_t i = 0; i < r->n_avoid && i < TM_AVOID_MAX; i++)
        if (r->avoid[i] == w->uid)
            return;
    r->avoid[r->n_avoid++ % TM_AVOID_MAX] = w->uid;
}

/* ---- the heap of deadlines ---- */

static void place(tm_sched_t *s, uint32_t at, tm_request_t *r) {
    s->heap[at] = r;
    r->heap_at = at;
}

static void sift(tm_sched_t *s, uint32_t at, tm_request_t *r) {
    while (at > 0 && s->heap[(at - 1) / 2]->deadline_us > r->deadline_us) {
        place(s, at, s->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < s->heap_count &&
            s->heap[child + 1]->deadline_us < s->heap[child]->deadline_us)
            child++;
        if (child >= s->heap_count || s->heap[child]->deadline_us >= r->deadline_us)
            break;
        place(s, at, s->heap[child]);
        at = child;
    }
    place(s, at, r);
}

void tm_heap_add(tm_sched_t *s, tm_request_t *r) {
    assert(s->heap_count < s->heap_room);
    s->heap_count++;
    sift(s, s->heap_count - 1, r);
}

void tm_heap_remove(tm_sched_t *s, tm_request_t *r) {
    assert(s->heap[r->heap_at] == r);
    tm_request_t *last = s->heap[--s->heap_count];
    if (last != r)
        sift(s, r->heap_at, last);
}
