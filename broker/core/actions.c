// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/state.h"

/* What one call can add: a tick may revoke, dispatch or end each request and leave each peer. */
enum { PER_REQUEST = 4, PER_SESSION = 3, PER_CALL = 16 };

tm_status_t tm_actions_reserve(tm_sched_t *s) {
    size_t wanted = (size_t)PER_REQUEST * s->requests_slab.capacity +
                    (size_t)PER_SESSION * s->sessions_slab.capacity + PER_CALL;
    if (wanted <= s->actions_room)
        return TM_OK;
    tm_action_t *actions = realloc(s->actions, wanted * sizeof *actions);
    if (!actions)
        return TM_E_NO_MEMORY;
    s->actions = actions;
    s->actions_room = (uint32_t)wanted;
    return TM_OK;
}

tm_action_t *tm_actions_add(tm_sched_t *s, tm_action_kind_t kind, tm_peer_t peer) {
    assert(s->actions_count < s->actions_room);
    tm_action_t *action = &s->actions[s->actions_count++];
    // the text is large and mostly unused: everything before it is cleared
    memset(action, 0, offsetof(tm_action_t, text) + 1);
    action->kind = kind;
    action->peer = peer;
    return action;
}

void tm_actions_error(tm_sched_t *s, tm_peer_t peer, tm_id_t id, tm_status_t code,
                      const char *format, ...) {
    tm_action_t *action = tm_actions_add(s, TM_ACTION_ERROR, peer);
    action->id = id;
    action->code = code;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(action->text, sizeof action->text, format, arguments);
    va_end(arguments);
}

void tm_actions_release(tm_sched_t *s, void *payload) {
    if (payload)
        tm_actions_add(s, TM_ACTION_RELEASE, 0)->payload = payload;
}

const tm_action_t *tm_sched_next(tm_sched_t *s) {
    if (s->actions_done < s->actions_count)
        return &s->actions[s->actions_done++];
    s->actions_done = s->actions_count = 0;
    return NULL;
}
