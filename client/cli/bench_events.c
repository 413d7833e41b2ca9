// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_events.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/interrupt.h"

static void choose_columns(tm_bench_event_t *event, bool with_module_id) {
    const tm_columns_t *all = &event->file.columns;
    event->columns = (tm_columns_t){0};
    for (uint32_t i = 0; i < all->count; i++) {
        if (with_module_id || strcmp(all->column[i].name, "module_id") != 0) {
            event->columns.column[event->columns.count++] = all->column[i];
        }
    }
}

tm_status_t tm_bench_events_read(char *const *paths, int n, bool with_module_id,
                                 tm_bench_events_t *out, tm_error_t *err) {
    *out = (tm_bench_events_t){.lock = PTHREAD_MUTEX_INITIALIZER};
    out->event = calloc((size_t)n, sizeof *out->event);
    if (!out->event) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %d events", n);
    }
    for (int i = 0; i < n; i++) {
        tm_bench_event_t *event = &out->event[i];
        tm_status_t status = tm_event_file_read(paths[i], &event->file, err);
        if (status != TM_OK) {
            return status;
        }
        out->n++;
        choose_columns(event, with_module_id);
        status = tm_event_check(&event->columns, &event->n_points, err);
        if (status != TM_OK) {
            tm_error_prefix(err, "%s: ", paths[i]);
            return status;
        }
        /* room for an owner of each: nothing is allocated while the load runs */
        event->owner = malloc(((size_t)event->n_points + 1) * sizeof *event->owner);
        if (!event->owner) {
            return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", paths[i]);
        }
        out->points += event->n_points;
    }
    return TM_OK;
}

void tm_bench_events_clear(tm_bench_events_t *events) {
    for (uint32_t i = 0; i < events->n; i++) {
        tm_event_file_clear(&events->event[i].file);
        tm_tracks_clear(&events->event[i].reference);
        free(events->event[i].owner);
    }
    free(events->event);
    events->event = NULL;
    events->n = 0;
}

static void become_reference(tm_bench_event_t *event, const uint8_t hash[TM_HASH_BYTES]) {
    memcpy(event->hash, hash, sizeof event->hash);
    tm_bench_agree_owners(&event->reference, event->owner);
    event->known = true;
}

tm_status_t tm_bench_events_solve(tm_bench_events_t *events, const tm_model_t *model,
                                  const tm_engine_options_t *options, tm_error_t *err) {
    tm_engine_t *engine = NULL;
    tm_status_t status = tm_engine_new(model, options, &engine, err);
    for (uint32_t i = 0; i < events->n && status == TM_OK; i++) {
        tm_bench_event_t *event = &events->event[i];
        status = tm_engine_find(engine, &event->columns, tm_interrupt_flag(), &event->reference,
                                NULL, NULL, err);
        if (status == TM_OK) {
            become_reference(event, tm_model_info(model)->hash);
        } else if (tm_interrupt_signal()) {
            status = tm_error_set(err, TM_E_INTERRUPTED, "interrupted");
        } else {
            tm_error_prefix(err, "%s: ", event->file.name);
        }
    }
    tm_engine_destroy(&engine);
    return status;
}

static bool same_tracks(const tm_tracks_t *a, const tm_tracks_t *b, tm_error_t *why) {
    if (a->n_tracks != b->n_tracks) {
        tm_error_set(why, TM_E_BACKEND, "%u candidates instead of %u", a->n_tracks, b->n_tracks);
        return false;
    }
    for (uint32_t t = 0; t < a->n_tracks; t++) {
        uint32_t n = b->offsets[t + 1] - b->offsets[t];
        if (a->offsets[t + 1] - a->offsets[t] != n ||
            memcmp(a->indices + a->offsets[t], b->indices + b->offsets[t],
                   n * sizeof *a->indices) != 0) {
            tm_error_set(why, TM_E_BACKEND, "candidate %u has other space points", t);
            return false;
        }
        if (!(fabsf(a->scores[t] - b->scores[t]) <= TM_BENCH_SCORE_TOLERANCE)) {
            tm_error_set(why, TM_E_BACKEND, "candidate %u has score %.6f instead of %.6f", t,
                         (double)a->scores[t], (double)b->scores[t]);
            return false;
        }
    }
    return true;
}

/* The usual case, without a look at owners. */
static bool same_points(const tm_tracks_t *a, const tm_tracks_t *b) {
    return a->n_tracks == b->n_tracks &&
           memcmp(a->offsets, b->offsets, ((size_t)a->n_tracks + 1) * sizeof *a->offsets) == 0 &&
           memcmp(a->indices, b->indices, a->offsets[a->n_tracks] * sizeof *a->indices) == 0;
}

static void agree(const tm_bench_event_t *event, const tm_tracks_t *tracks,
                  tm_bench_agreement_t *out) {
    if (!same_points(tracks, &event->reference)) {
        tm_bench_agree(tracks, &event->reference, event->owner, out);
        return;
    }
    out->all = 2 * (uint64_t)tracks->n_tracks;
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        float difference = fabsf(tracks->scores[t] - event->reference.scores[t]);
        if (!((double)difference <= out->score_difference)) {
            out->score_difference = (double)difference;
        }
    }
}

static bool near_enough(const tm_bench_agreement_t *agreement, double tolerance, tm_error_t *why) {
    if (agreement->differing <= tolerance) {
        return true;
    }
    tm_error_set(why, TM_E_BACKEND,
                 "%.4g %% of the candidates differ (%llu of %llu have no twin), %.4g %% may",
                 100 * agreement->differing, (unsigned long long)agreement->lone,
                 (unsigned long long)agreement->all, 100 * tolerance);
    return false;
}

bool tm_bench_events_check(tm_bench_events_t *events, uint32_t i, tm_tracks_t *tracks,
                           const uint8_t hash[TM_HASH_BYTES], tm_bench_agreement_t *agreement,
                           tm_error_t *why) {
    tm_bench_event_t *event = &events->event[i];
    *agreement = (tm_bench_agreement_t){0};
    pthread_mutex_lock(&events->lock);
    bool first = !event->known;
    if (first) {
        event->reference = *tracks;
        *tracks = (tm_tracks_t){0};
        become_reference(event, hash);
    }
    pthread_mutex_unlock(&events->lock);
    if (first) {
        return true;
    }
    agree(event, tracks, agreement);
    bool same = memcmp(event->hash, hash, sizeof event->hash) == 0;
    if (!same) {
        tm_error_set(why, TM_E_MODEL_HASH, "the answer was made with other weights");
    } else if (events->tolerance > 0) {
        same = near_enough(agreement, events->tolerance, why);
    } else {
        same = same_tracks(tracks, &event->reference, why);
    }
    if (!same) {
        tm_error_prefix(why, "%s: ", event->file.name);
    }
    return same;
}

void tm_bench_events_name(const tm_bench_events_t *events, char *out, size_t bytes) {
    if (events->n == 1) {
        snprintf(out, bytes, "%s", events->event[0].file.name);
    } else {
        snprintf(out, bytes, "%s+%u", events->event[0].file.name, events->n - 1);
    }
}
