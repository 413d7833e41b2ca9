// SPDX-License-Identifier: Apache-2.0
/*
 * Views of the scheduler for reports, metrics and tests: tm_sched_view_* and friends.
 */
#include <stdio.h>
#include <string.h>

#include "broker/core/state.h"

const tm_sched_config_t *tm_sched_config(const tm_sched_t *s) {
    return &s->config;
}

const tm_stats_t *tm_sched_stats(const tm_sched_t *s) {
    return &s->stats;
}

bool tm_sched_draining(const tm_sched_t *s) {
    return s->draining;
}

uint64_t tm_sched_start_us(const tm_sched_t *s) {
    return s->start_us;
}

uint32_t tm_sched_served_models(const tm_sched_t *s, tm_model_id_t *out, uint32_t room) {
    uint32_t count = 0;
    TM_LIST_EACH(&s->models, it, after) {
        const tm_model_t *model = TM_LIST_ITEM(it, tm_model_t, all);
        if (model->usable && count < room)
            out[count++] = model->id;
    }
    return count;
}

uint32_t tm_sched_view_models(const tm_sched_t *s, tm_model_view_t *out, uint32_t room) {
    uint32_t count = 0;
    TM_LIST_EACH(&s->models, it, after) {
        const tm_model_t *model = TM_LIST_ITEM(it, tm_model_t, all);
        if (count == room)
            break;
        tm_model_view_t *view = &out[count++];
        *view = (tm_model_view_t){
            .id = model->id,
            .workers = model->usable,
            .available = model->ready,
            .paused = model->paused,
            .answered = model->answered,
            .failed = model->failed,
            .queue_wait = model->queue_wait,
            .service = model->service,
        };
        TM_LIST_EACH(&s->servable, at, next) {
            const tm_lane_t *lane = TM_LIST_ITEM(at, tm_lane_t, in_servable);
            view->queued += lane->model == model ? lane->queued : 0;
        }
    }
    return count;
}

uint32_t tm_sched_view_workers(const tm_sched_t *s, uint64_t now_us, tm_worker_view_t *out,
                               uint32_t room) {
    uint32_t count = 0;
    TM_LIST_EACH(&s->workers, it, after) {
        const tm_session_t *w = TM_LIST_ITEM(it, tm_session_t, all);
        if (count == room)
            break;
        tm_worker_view_t *view = &out[count++];
        *view = (tm_worker_view_t){
            .peer = w->peer,
            .slots = w->slots,
            .credit = w->credit,
            .outstanding = w->n_requests,
            .running = w->started,
            .failures = w->failures,
            .draining = w->draining,
            .paused = w->paused,
            .answered = w->answered,
            .failed = w->failed,
            .timed_out = w->timed_out,
            .silent_ms = (now_us - w->seen_us) / 1000,
            .n_models = w->n_models,
        };
        strcpy(view->name, w->name); // same sizes
        strcpy(view->software, w->software);
        strcpy(view->device, w->device);
        strcpy(view->backend, w->backend);
        if (w->n_models)
            snprintf(view->model, sizeof view->model, "%s@%s", w->models[0]->id.name,
                     w->models[0]->id.version);
    }
    return count;
}
