// SPDX-License-Identifier: Apache-2.0
/*
 * What workers say: tm_sched_worker_*.
 */
#include <stdio.h>
#include <string.h>

#include "broker/core/state.h"

/* ---- REGISTER ---- */

/* Why the worker cannot be taken; TM_OK if it can. text: room for TM_TEXT_MAX + 1. */
static tm_status_t check_worker(tm_sched_t *s, const tm_sched_worker_t *worker, char *text) {
    const size_t room = TM_TEXT_MAX + 1;
    if (!worker->slots || worker->slots > TM_SLOTS_MAX || !worker->max_payload ||
        !worker->n_models || worker->n_models > TM_MODELS_MAX) {
        snprintf(text, room, "a worker has 1 to %d slots and 1 to %d models", TM_SLOTS_MAX,
                 TM_MODELS_MAX);
        return TM_E_MALFORMED;
    }
    for (uint32_t i = 0; i < worker->n_models; i++) {
        const tm_model_id_t *id = &worker->models[i];
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(id->name, worker->models[j].name) &&
                !strcmp(id->version, worker->models[j].version)) {
                snprintf(text, room, "model %s@%s is listed twice", id->name, id->version);
                return TM_E_MALFORMED;
            }
        const tm_model_t *model = tm_models_find(s, id->name, id->version);
        if (model && model->living && memcmp(model->id.hash, id->hash, TM_HASH_BYTES)) {
            snprintf(text, room,
                     "model %s@%s is served here with other weights (%02x%02x%02x%02x… here, "
                     "%02x%02x%02x%02x… offered): give the new file a new version",
                     id->name, id->version, model->id.hash[0], model->id.hash[1], model->id.hash[2],
                     model->id.hash[3], id->hash[0], id->hash[1], id->hash[2], id->hash[3]);
            return TM_E_MODEL_HASH;
        }
    }
    return TM_OK;
}

void tm_sched_worker_register(tm_sched_t *s, uint64_t now_us, tm_peer_t peer,
                              const tm_sched_worker_t *worker) {
    tm_session_t *w = tm_session_find(s, peer);
    if (w)
        tm_session_end(s, w, "the worker registered anew");
    char text[TM_TEXT_MAX + 1];
    tm_status_t status = check_worker(s, worker, text);
    if (!status && s->draining) {
        status = TM_E_DRAINING;
        snprintf(text, sizeof text, "the broker is shutting down");
    }
    if (status) {
        s->stats.registers_refused++;
        tm_session_refuse(s, peer, status, text);
        goto done;
    }
    if (s->stats.workers >= s->config.workers_max || !(w = tm_session_new(s, now_us, peer, true))) {
        s->stats.registers_refused++;
        tm_session_refuse(s, peer, TM_E_BUSY, "too many workers are connected");
        goto done;
    }
    w->slots = (uint32_t)worker->slots;
    w->max_payload = worker->max_payload;
    tm_slice_copy(w->name, sizeof w->name, worker->name);
    tm_slice_copy(w->software, sizeof w->software, worker->software);
    tm_slice_copy(w->device, sizeof w->device, worker->device);
    tm_slice_copy(w->backend, sizeof w->backend, worker->backend);
    for (uint32_t i = 0; i < worker->n_models; i++) {
        w->models[w->n_models] = tm_models_get(s, &worker->models[i]);
        if (!w->models[w->n_models]) {
            s->stats.registers_refused++;
            while (w->n_models)
                w->models[--w->n_models]->living--;
            tm_worker_join(s, w);
            tm_session_end(s, w, "refused");
            tm_session_refuse(s, peer, TM_E_BUSY, "too many models are served here");
            goto done;
        }
        // keeps the entry from being recycled by the next tm_models_get
        w->models[w->n_models++]->living++;
    }
    for (uint32_t i = 0; i < w->n_models; i++)
        w->models[i]->living--;
    tm_worker_join(s, w);
    tm_actions_add(s, TM_ACTION_WELCOME, peer);
done:
    tm_sched_finish_call(s, now_us);
}

/* ---- small talk ---- */

void tm_sched_worker_heartbeat(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_sched_heard(s, now_us, peer);
    tm_sched_finish_call(s, now_us);
}

void tm_sched_worker_credit(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, uint64_t credit) {
    tm_session_t *w = tm_sched_heard(s, now_us, peer);
    if (w) {
        // one that grants more than the limit of a single message has lost count
        uint64_t room = TM_CREDIT_MAX - w->credit;
        w->credit += (uint32_t)(credit < room ? credit : room);
        tm_worker_update(s, w);
    }
    tm_sched_finish_call(s, now_us);
}

void tm_sched_worker_drain(tm_sched_t *s, uint64_t now_us, tm_peer_t peer) {
    tm_session_t *w = tm_sched_heard(s, now_us, peer);
    if (w)
        tm_worker_set_draining(s, w);
    tm_sched_finish_call(s, now_us);
}

/* ---- attempts ---- */

/* The request whose current attempt this is, if it is this worker's; NULL (and counted) if not. */
static tm_request_t *current_of(tm_sched_t *s, const tm_session_t *w, tm_id_t id) {
    tm_attempt_t *attempt;
    tm_request_t *r = tm_requests_find_attempt(s, id, &attempt);
    if (r && r->worker == w && attempt == tm_attempt_current(r))
        return r;
    s->stats.late++;
    return NULL;
}

static void mark_started(tm_sched_t *s, tm_request_t *r, uint64_t now_us) {
    r->started = true;
    r->started_us = now_us;
    r->started_attempts++;
    r->worker->started++;
    s->stats.started++;
    tm_list_push_back(&s->running, &r->in_running);
}

void tm_sched_worker_started(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id) {
    tm_session_t *w = tm_sched_heard(s, now_us, peer);
    tm_request_t *r = w ? current_of(s, w, id) : NULL;
    if (r && !r->started) {
        w->progress_us = now_us;
        mark_started(s, r, now_us);
    }
    tm_sched_finish_call(s, now_us);
}

static tm_model_t *model_of(const tm_session_t *w, uint64_t uid) {
    for (uint32_t i = 0; i < w->n_models; i++)
        if (w->models[i]->uid == uid)
            return w->models[i];
    return NULL;
}

void tm_sched_worker_result(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id,
                            void *payload, uint64_t payload_bytes) {
    tm_session_t *w = tm_sched_heard(s, now_us, peer);
    tm_attempt_t *attempt = NULL;
    tm_request_t *r = w ? tm_requests_find_attempt(s, id, &attempt) : NULL;
    tm_model_t *model = r ? model_of(w, attempt->model_uid) : NULL;
    if (!model) {
        s->stats.late += w != NULL;
        tm_actions_release(s, payload);
        tm_sched_finish_call(s, now_us);
        return;
    }

    tm_attempt_t done = *attempt;
    if (attempt == tm_attempt_current(r) && r->worker == w) {
        if (r->started) {
            // an eighth: fast enough to follow a change of model, slow enough to smooth events
            uint64_t us = now_us - r->started_us, mean = s->mean_service_us;
            s->mean_service_us = mean ? mean - mean / 8 + us / 8 : us;
        }
        s->stats.resulted++;
        tm_attempt_detach(s, r);
    }
    w->progress_us = now_us;
    w->failures = w->pauses = 0;
    tm_worker_resume(s, w);
    w->answered++;
    model->answered++;

    tm_action_t *action = tm_actions_add(s, TM_ACTION_ANSWER, r->client->peer);
    action->id = r->id;
    action->payload = payload;
    action->model = &model->id;
    action->worker = w->name;
    action->attempt = done.number;
    action->queue_us = done.dispatched_us - r->arrived_us;
    action->service_us = now_us - done.dispatched_us;
    tm_histogram_add(&s->stats.queue_wait, action->queue_us);
    tm_histogram_add(&s->stats.service, action->service_us);
    tm_histogram_add(&model->queue_wait, action->queue_us);
    tm_histogram_add(&model->service, action->service_us);
    s->stats.answered++;
    s->stats.bytes_out += payload_bytes;
    tm_actions_release(s, payload);
    tm_request_finish(s, r, true); // whoever else is at it need not go on
    tm_sched_finish_call(s, now_us);
}

/* The fault is in the event: no other worker will do better. */
static bool is_final(uint64_t code) {
    return code == TM_E_BAD_EVENT || code == TM_E_MISSING_COLUMN || code == TM_E_MALFORMED;
}

/* Refusals that say nothing about the worker's health. */
static bool is_workers_fault(uint64_t code) {
    return code != TM_E_DEADLINE && code != TM_E_CANCELLED && code != TM_E_BUSY &&
           code != TM_E_TOO_LARGE;
}

void tm_sched_worker_failed(tm_sched_t *s, uint64_t now_us, tm_peer_t peer, tm_id_t id,
                            uint64_t code, tm_slice_t text) {
    tm_session_t *w = tm_sched_heard(s, now_us, peer);
    tm_request_t *r = w ? current_of(s, w, id) : NULL;
    if (!r) {
        tm_sched_finish_call(s, now_us);
        return;
    }
    char words[TM_TEXT_MAX + 1];
    tm_slice_copy(words, sizeof words, text);
    w->progress_us = now_us;
    if (code == TM_E_DRAINING) {
        // handed back untouched; it wants nothing more
        tm_attempt_detach(s, r);
        s->stats.requeued++;
        tm_worker_set_draining(s, w);
        tm_request_retry(s, r, "the worker left");
        tm_sched_finish_call(s, now_us);
        return;
    }
    if (!r->started) {
        s->stats.started++; // STARTED may be left out before a quick failure
        r->started_attempts++;
    }
    tm_model_t *model = model_of(w, tm_attempt_current(r)->model_uid);
    if (model)
        model->failed++;
    s->stats.attempts_failed++;
    w->failed++;
    tm_attempt_detach(s, r);
    if (is_final(code)) {
        tm_request_fail(s, r, false, (tm_status_t)code, "%s", words);
    } else {
        tm_request_avoid(r, w);
        if (is_workers_fault(code) && ++w->failures >= s->config.worker_failures_max)
            tm_worker_pause(s, w, now_us, false);
        char why[2 * TM_TEXT_MAX];
        snprintf(why, sizeof why, "worker %s said %s: %s", w->name,
                 tm_status_name((tm_status_t)code), words);
        tm_request_retry(s, r, why);
    }
    tm_sched_finish_call(s, now_us);
}
