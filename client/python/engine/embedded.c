// SPDX-License-Identifier: Apache-2.0
#include "client/python/engine/embedded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/engine.h"

struct tm_embedded {
    tm_model_t *model;
    tm_engine_t *engine;
    tm_tracks_t tracks;
    tm_timings_t timings;
    char name[2 * TM_NAME_MAX + 2];
    char hash[2 * TM_HASH_BYTES + 1];
    char device[2 * TM_NAME_MAX];
    char columns[TM_COLUMNS_MAX * (TM_COLUMN_NAME_MAX + 1) + 1];
};

/* The status, with its text for the caller. */
static int say(tm_status_t status, const tm_error_t *error, char *text, size_t bytes) {
    if (status != TM_OK && bytes > 0) {
        snprintf(text, bytes, "%s", error->text);
    }
    return (int)status;
}

int tm_embedded_abi(void) {
    return TM_EMBEDDED_ABI;
}

static void describe_model(tm_embedded_t *e) {
    const tm_model_info_t *info = tm_model_info(e->model);
    snprintf(e->name, sizeof e->name, "%s@%s", info->name, info->version);
    for (size_t i = 0; i < TM_HASH_BYTES; i++) {
        snprintf(e->hash + 2 * i, 3, "%02x", info->hash[i]);
    }
    size_t at = 0;
    for (uint32_t i = 0; i < info->n_columns && at < sizeof e->columns; i++) {
        at += (size_t)snprintf(e->columns + at, sizeof e->columns - at, "%s%s", i ? " " : "",
                               info->columns[i]);
    }
}

int tm_embedded_open(const char *path, const char *device, int threads, tm_embedded_t **out,
                     char *text, size_t text_bytes) {
    const tm_engine_options_t options = {.threads = threads, .device = device};
    tm_error_t error = {0};
    tm_embedded_t *e = *out = calloc(1, sizeof *e);
    tm_status_t status = e ? TM_OK : tm_error_set(&error, TM_E_NO_MEMORY, "no memory");
    if (status == TM_OK) {
        status = tm_model_load(path, &e->model, &error);
    }
    if (status == TM_OK) {
        describe_model(e);
        status = tm_engine_describe(&options, e->device, sizeof e->device, &error);
    }
    if (status == TM_OK) {
        status = tm_engine_new(e->model, &options, &e->engine, &error);
    }
    if (status != TM_OK) {
        tm_embedded_close(out);
    }
    return say(status, &error, text, text_bytes);
}

void tm_embedded_close(tm_embedded_t **p) {
    if (!*p) {
        return;
    }
    tm_tracks_clear(&(*p)->tracks);
    tm_engine_destroy(&(*p)->engine);
    tm_model_destroy(&(*p)->model);
    free(*p);
    *p = NULL;
}

const char *tm_embedded_model(const tm_embedded_t *e) {
    return e->name;
}

const char *tm_embedded_hash(const tm_embedded_t *e) {
    return e->hash;
}

const char *tm_embedded_columns(const tm_embedded_t *e) {
    return e->columns;
}

const char *tm_embedded_device(const tm_embedded_t *e) {
    return e->device;
}

int tm_embedded_find(tm_embedded_t *e, uint64_t n_points, uint32_t n_columns,
                     const char *const *names, const uint32_t *types, const void *const *data,
                     char *text, size_t text_bytes) {
    tm_error_t error = {0};
    tm_columns_t event = {0};
    tm_status_t status = TM_OK;
    uint32_t checked;
    tm_tracks_clear(&e->tracks);
    e->timings = (tm_timings_t){0};
    for (uint32_t i = 0; i < n_columns && status == TM_OK; i++) {
        status = tm_columns_add(&event, names[i], (tm_type_t)types[i], n_points, data[i], &error);
    }
    if (status == TM_OK) {
        status = tm_event_check(&event, &checked, &error);
    }
    if (status == TM_OK) {
        status = tm_engine_find(e->engine, &event, NULL, &e->tracks, &e->timings, NULL, &error);
    }
    return say(status, &error, text, text_bytes);
}

uint32_t tm_embedded_tracks(const tm_embedded_t *e, const uint32_t **offsets,
                            const uint32_t **indices, const float **scores) {
    *offsets = e->tracks.offsets;
    *indices = e->tracks.indices;
    *scores = e->tracks.scores;
    return e->tracks.n_tracks;
}

int tm_embedded_starts(const tm_embedded_t *e, const float **pt, const float **phi,
                       const float **eta, const float **d0, const float **z0,
                       const int8_t **charge) {
    const tm_starts_t *starts = &e->tracks.starts;
    *pt = starts->pt;
    *phi = starts->phi;
    *eta = starts->eta;
    *d0 = starts->d0;
    *z0 = starts->z0;
    *charge = starts->charge;
    return starts->pt != NULL;
}

const char *tm_embedded_stage(const tm_embedded_t *e, uint32_t i, uint32_t *us) {
    if (i >= e->timings.count) {
        return NULL;
    }
    *us = e->timings.stage[i].us;
    return e->timings.stage[i].name;
}
