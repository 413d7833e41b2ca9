// SPDX-License-Identifier: Apache-2.0
#include <assert.h>

#include "broker/core/state.h"

/* ---- queues ---- */

void tm_queue_push(tm_sched_t *s, tm_request_t *r, bool at_head) {
    tm_link_t *queue = &r->lane->queue[r->priority];
    if (at_head)
        tm_list_push_front(queue, &r->in_queue);
    else
        tm_list_push_back(queue, &r->in_queue);
    r->state = TM_REQUEST_QUEUED;
    r->lane->queued++;
    s->stats.queued++;
    tm_lanes_update(s, r->lane);
}

void tm_queue_remove(tm_sched_t *s, tm_request_t *r) {
    assert(r->state == TM_REQUEST_QUEUED);
    tm_list_remove(&r->in_queue);
    r->state = TM_REQUEST_OUTSTANDING;
    r->lane->queued--;
    s->stats.queued--;
    tm_lanes_update(s, r->lane);
}

/* ---- workers ---- */

/* Adds (+1) or takes away (-1) the worker's share of its models' counts. */
static void count_usable(tm_sched_t *s, tm_session_t *w, int sign) {
    if (w->draining)
        return;
    s->stats.slots += (uint64_t)((int64_t)sign * (int64_t)w->slots);
    for (uint32_t i = 0; i < w->n_models; i++) {
        w->models[i]->usable += (uint32_t)sign;
        w->models[i]->paused += w->paused ? (uint32_t)sign : 0;
    }
}

void tm_worker_update(tm_sched_t *s, tm_session_t *w) {
    bool ready = w->credit && !w->draining && !w->paused;
    if (ready == w->is_ready)
        return;
    w->is_ready = ready;
    for (uint32_t i = 0; i < w->n_models; i++)
        w->models[i]->ready += ready ? 1u : ~0u;
    if (ready)
        tm_list_push_back(&s->ready, &w->ready);
    else
        tm_list_remove(&w->ready);
}

static void find_least_payload(tm_sched_t *s) {
    s->least_max_payload = UINT64_MAX;
    TM_LIST_EACH(&s->workers, it, after) {
        const tm_session_t *w = TM_LIST_ITEM(it, tm_session_t, all);
        if (w->n_models && w->max_payload < s->least_max_payload)
            s->least_max_payload = w->max_payload;
    }
}

void tm_worker_join(tm_sched_t *s, tm_session_t *w) {
    for (uint32_t i = 0; i < w->n_models; i++)
        w->models[i]->living++;
    count_usable(s, w, 1);
    find_least_payload(s);
    tm_lanes_resolve(s);
}

void tm_worker_leave(tm_sched_t *s, tm_session_t *w) {
    w->credit = 0;
    tm_worker_update(s, w);
    count_usable(s, w, -1);
    for (uint32_t i = 0; i < w->n_models; i++)
        w->models[i]->living--;
    w->n_models = 0;
    find_least_payload(s);
    tm_lanes_resolve(s);
}

void tm_worker_set_draining(tm_sched_t *s, tm_session_t *w) {
    if (w->draining)
        return;
    count_usable(s, w, -1);
    w->draining = true;
    tm_worker_update(s, w);
    tm_lanes_resolve(s);
}

void tm_worker_pause(tm_sched_t *s, tm_session_t *w, uint64_t now_us, bool hung) {
    enum { DOUBLINGS_MAX = 4 };
    if (w->draining)
        return;
    for (uint32_t i = 0; i < w->n_models && !hung && !w->paused; i++)
        if (2 * (w->models[i]->paused + 1) > w->models[i]->usable)
            return; // when most workers fail, it is the events or the model, not the workers
    uint32_t doublings = w->pauses < DOUBLINGS_MAX ? w->pauses : DOUBLINGS_MAX;
    w->pauses++;
    w->paused_until_us = now_us + ((s->config.worker_pause_ms * 1000) << doublings);
    if (w->paused)
        return;
    s->stats.workers_paused++;
    count_usable(s, w, -1);
    w->paused = true;
    count_usable(s, w, 1);
    tm_worker_update(s, w);
}

void tm_worker_resume(tm_sched_t *s, tm_session_t *w) {
    if (!w->paused)
        return;
    count_usable(s, w, -1);
    w->paused = false;
    count_usable(s, w, 1);
    tm_worker_update(s, w);
}

bool tm_worker_serves(const tm_session_t *w, uint64_t model_uid) {
    for (uint32_t i = 0; i < w->n_models; i++)
        if (w->models[i]->uid == model_uid)
            return true;
    return false;
}

/* ---- attempts ---- */

void tm_attempt_detach(tm_sched_t *s, tm_request_t *r) {
    tm_session_t *w = r->worker;
    tm_list_remove(&r->of_worker);
    tm_list_remove(&r->in_running);
    w->n_requests--;
    w->started -= r->started;
    s->stats.running--;
    r->started = false;
    r->worker = NULL;
}

static bool takes(const tm_session_t *w, const tm_request_t *r, const tm_model_t *model) {
    return r->bytes <= w->max_payload && tm_worker_serves(w, model->uid);
}

bool tm_worker_exists_for(tm_sched_t *s, const tm_request_t *r) {
    TM_LIST_EACH(&s->workers, it, after)
    if (takes(TM_LIST_ITEM(it, tm_session_t, all), r, r->lane->model))
        return true;
    return false;
}

static bool avoids(const tm_request_t *r, const tm_session_t *w) {
    for (uint32_t i = 0; i < r->n_avoid && i < TM_AVOID_MAX; i++)
        if (r->avoid[i] == w->uid)
            return true;
    return false;
}

/* Whether a worker that has not failed this request could take it sooner or later. */
static bool others_exist(tm_sched_t *s, const tm_request_t *r, const tm_model_t *model) {
    TM_LIST_EACH(&s->workers, it, after) {
        const tm_session_t *w = TM_LIST_ITEM(it, tm_session_t, all);
        if (!w->draining && !w->paused && !avoids(r, w) && takes(w, r, model))
            return true;
    }
    return false;
}

static bool is_better(const tm_session_t *a, const tm_session_t *b) {
    uint64_t load_a = (uint64_t)a->n_requests * b->slots;
    uint64_t load_b = (uint64_t)b->n_requests * a->slots;
    return load_a != load_b ? load_a < load_b : a->used < b->used;
}

/* The worker for this request now, or NULL. */
static tm_session_t *pick_worker(tm_sched_t *s, const tm_request_t *r, const tm_model_t *model) {
    tm_session_t *best = NULL, *avoided = NULL;
    TM_LIST_EACH(&s->ready, it, after) {
        tm_session_t *w = TM_LIST_ITEM(it, tm_session_t, ready);
        if (!takes(w, r, model))
            continue;
        tm_session_t **choice = r->n_avoid && avoids(r, w) ? &avoided : &best;
        if (!*choice || is_better(w, *choice))
            *choice = w;
    }
    if (!best && avoided && !others_exist(s, r, model))
        best = avoided;
    return best;
}

/* ---- the choice ---- */

static uint64_t class_now(const tm_sched_t *s, const tm_request_t *r, uint64_t now_us) {
    uint64_t risen =
        s->config.ageing_ms ? (now_us - r->arrived_us) / (s->config.ageing_ms * 1000) : 0;
    return risen < r->priority ? r->priority - risen : 0;
}

/* The first request of the queue that some ready worker can take. Passed by are only those that
 * avoid a worker, few and at the head, and those too large for some worker. */
static tm_request_t *first_of(tm_sched_t *s, const tm_lane_t *lane, const tm_link_t *queue) {
    TM_LIST_EACH(queue, it, after) {
        tm_request_t *r = TM_LIST_ITEM(it, tm_request_t, in_queue);
        bool picky = r->n_avoid || r->bytes > s->least_max_payload;
        if (!picky || pick_worker(s, r, lane->model))
            return r;
    }
    return NULL;
}

static tm_request_t *pick_request(tm_sched_t *s, uint64_t now_us) {
    tm_request_t *best = NULL;
    uint64_t best_class = 0;
    TM_LIST_EACH(&s->servable, it, after) {
        const tm_lane_t *lane = TM_LIST_ITEM(it, tm_lane_t, in_servable);
        for (int i = 0; i < TM_PRIORITIES && lane->model->ready; i++) {
            tm_request_t *r = first_of(s, lane, &lane->queue[i]);
            if (!r)
                continue;
            uint64_t class = class_now(s, r, now_us);
            if (!best || class < best_class || (class == best_class && r->seq < best->seq)) {
                best = r;
                best_class = class;
            }
        }
    }
    return best;
}

static void dispatch(tm_sched_t *s, tm_request_t *r, tm_session_t *w, uint64_t now_us) {
    tm_model_t *model = r->lane->model;
    tm_queue_remove(s, r);
    r->attempts++;
    tm_attempt_t *attempt = tm_attempt_current(r);
    *attempt = (tm_attempt_t){
        .serial = (++s->next_attempt << TM_SLOT_BITS) | r->slot,
        .model_uid = model->uid,
        .number = r->attempts,
        .dispatched_us = now_us,
    };
    r->worker = w;
    tm_list_push_back(&w->requests, &r->of_worker);
    if (!w->n_requests++)
        w->progress_us = now_us;
    w->used = ++s->next_use;
    w->credit--;
    tm_worker_update(s, w);
    s->stats.dispatched++;
    s->stats.running++;

    tm_action_t *action = tm_actions_add(s, TM_ACTION_DISPATCH, w->peer);
    action->id = (tm_id_t){s->config.epoch, attempt->serial};
    action->payload = r->payload;
    action->model = &model->id;
    action->worker = w->name;
    action->priority = r->priority;
    action->attempt = r->attempts;
    // a started millisecond counts as whole: 0 would mean no time at all
    action->ttl_ms = (r->deadline_us - now_us + 999) / 1000;
}

void tm_dispatch_pump(tm_sched_t *s, uint64_t now_us) {
    while (!tm_list_empty(&s->ready) && !tm_list_empty(&s->servable)) {
        tm_request_t *r = pick_request(s, now_us);
        if (!r)
            return;
        dispatch(s, r, pick_worker(s, r, r->lane->model), now_us);
    }
}
