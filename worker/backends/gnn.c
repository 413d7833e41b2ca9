// SPDX-License-Identifier: Apache-2.0
/* The gnn back end: model files and the engine of nn/. Each slot has one engine per model, made
 * when the slot first meets the model, for an engine's buffers grow to the largest event seen. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/engine.h"
#include "worker/backend.h"

#define DEVICE_MAX_BYTES 64
/* Small events that a GPU computes together unless told otherwise; a processor gains nothing by it. */
#define GPU_BATCH 16

_Static_assert(TM_BACKEND_BATCH_MAX <= TM_ENGINE_BATCH_MAX, "the engine takes every batch");

typedef struct {
    tm_model_t *model[TM_MODELS_MAX];
    uint32_t n;
    tm_engine_options_t options; /* device: borrowed from the caller of load */
    char device[DEVICE_MAX_BYTES];
} gnn_t;

typedef struct {
    const gnn_t *gnn;
    tm_engine_t *engine[TM_MODELS_MAX];
    tm_tracks_t tracks[TM_BACKEND_BATCH_MAX]; /* of the last run */
    uint32_t n_tracks;                        /* how many of them may hold something */
    tm_engine_item_t item[TM_BACKEND_BATCH_MAX];
} gnn_slot_t;

static void gnn_unload(void **state) {
    gnn_t *gnn = *state;
    if (gnn == NULL) {
        return;
    }
    for (uint32_t i = 0; i < gnn->n; i++) {
        tm_model_destroy(&gnn->model[i]);
    }
    free(gnn);
    *state = NULL;
}

static tm_status_t load_one(gnn_t *gnn, const char *path, tm_model_id_t *models, tm_error_t *err) {
    tm_status_t status = tm_model_load(path, &gnn->model[gnn->n], err);
    if (status != TM_OK) {
        return status;
    }
    const tm_model_info_t *info = tm_model_info(gnn->model[gnn->n]);
    tm_model_id_t *id = &models[gnn->n++];
    memset(id, 0, sizeof *id);
    if (strlen(info->name) > TM_NAME_MAX || strlen(info->version) > TM_NAME_MAX) {
        return tm_error_set(err, TM_E_MODEL_FILE, "%s: name or version longer than %d bytes", path,
                            TM_NAME_MAX);
    }
    memcpy(id->name, info->name, strlen(info->name));
    memcpy(id->version, info->version, strlen(info->version));
    memcpy(id->hash, info->hash, sizeof id->hash);
    for (tm_model_id_t *other = models; other < id; other++) {
        if (strcmp(other->name, id->name) == 0 && strcmp(other->version, id->version) == 0) {
            return tm_error_set(err, TM_E_ARGUMENT, "%s: model %s@%s was given before", path,
                                id->name, id->version);
        }
    }
    return TM_OK;
}

static tm_status_t gnn_load(const char *const *arguments, int n_arguments, int threads_per_slot,
                            const char *device, void **state, tm_model_id_t *models,
                            uint32_t *n_models, tm_error_t *err) {
    if (n_arguments < 1 || n_arguments > TM_MODELS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "%d model files: the gnn back end needs 1 to %d (--model FILE)",
                            n_arguments, TM_MODELS_MAX);
    }
    gnn_t *gnn = calloc(1, sizeof *gnn);
    if (gnn == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the gnn back end");
    }
    void *made = gnn;
    gnn->options.threads = threads_per_slot;
    gnn->options.device = device;
    tm_status_t status = tm_engine_describe(&gnn->options, gnn->device, sizeof gnn->device, err);
    if (status != TM_OK) {
        gnn_unload(&made);
        return status;
    }
    for (int i = 0; i < n_arguments; i++) {
        status = load_one(gnn, arguments[i], models, err);
        if (status != TM_OK) {
            gnn_unload(&made);
            return status;
        }
    }
    *n_models = gnn->n;
    *state = gnn;
    return TM_OK;
}

static const char *gnn_device(void *state) {
    const gnn_t *gnn = state;
    return gnn->device;
}

static uint32_t gnn_batch(void *state) {
    const gnn_t *gnn = state;
    return strncmp(gnn->device, "cuda", strlen("cuda")) == 0 ? GPU_BATCH : 1;
}

static void clear_tracks(gnn_slot_t *slot) {
    while (slot->n_tracks > 0) {
        tm_tracks_clear(&slot->tracks[--slot->n_tracks]);
    }
}

static void gnn_close(void **handle) {
    gnn_slot_t *slot = *handle;
    for (uint32_t i = 0; i < TM_MODELS_MAX; i++) {
        tm_engine_destroy(&slot->engine[i]);
    }
    clear_tracks(slot);
    free(slot);
    *handle = NULL;
}

static tm_status_t gnn_open(void *state, void **handle, tm_error_t *err) {
    gnn_slot_t *slot = calloc(1, sizeof *slot);
    if (slot == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a slot");
    }
    slot->gnn = state;
    *handle = slot;
    return TM_OK;
}

static tm_status_t ensure_engine(gnn_slot_t *slot, uint32_t model, tm_error_t *err) {
    if (slot->engine[model] != NULL) {
        return TM_OK;
    }
    return tm_engine_new(slot->gnn->model[model], &slot->gnn->options, &slot->engine[model], err);
}

static tm_status_t gnn_run(void *handle, uint32_t model, const tm_columns_t *in,
                           const volatile int *cancelled, tm_backend_result_t *out,
                           tm_error_t *err) {
    gnn_slot_t *slot = handle;
    tm_status_t status = ensure_engine(slot, model, err);
    if (status == TM_OK) {
        clear_tracks(slot);
        slot->n_tracks = 1;
        out->timings.count = 0;
        status = tm_engine_find(slot->engine[model], in, cancelled, &slot->tracks[0], &out->timings,
                                NULL, err);
    }
    if (status == TM_OK) {
        out->columns.count = 0;
        status = tm_tracks_to_columns(&slot->tracks[0], &out->columns, err);
    }
    return status;
}

/* Events that the engine would refuse stay out: one of them would make it take all one by one. */
static void gnn_run_batch(void *handle, uint32_t model, tm_backend_item_t *items, uint32_t n) {
    gnn_slot_t *slot = handle;
    tm_backend_item_t *of_engine_item[TM_BACKEND_BATCH_MAX];
    uint32_t n_good = 0;
    clear_tracks(slot);
    for (uint32_t i = 0; i < n; i++) {
        tm_backend_item_t *item = &items[i];
        uint32_t n_points;
        item->status = ensure_engine(slot, model, &item->err);
        if (item->status == TM_OK) {
            item->status = tm_event_check(item->in, &n_points, &item->err);
        }
        if (item->status == TM_OK) {
            slot->item[n_good] = (tm_engine_item_t){
                .event = item->in, .tracks = &slot->tracks[n_good], .timings = &item->out.timings};
            of_engine_item[n_good++] = item;
        }
    }
    if (n_good > 0) {
        slot->n_tracks = n_good;
        tm_engine_find_batch(slot->engine[model], slot->item, n_good);
    }
    for (uint32_t i = 0; i < n_good; i++) {
        tm_backend_item_t *item = of_engine_item[i];
        item->status = slot->item[i].status;
        item->err = slot->item[i].err;
        if (item->status == TM_OK) {
            item->status = tm_tracks_to_columns(&slot->tracks[i], &item->out.columns, &item->err);
        }
    }
}

const tm_backend_t tm_backend_gnn = {
    .name = "gnn",
    .load = gnn_load,
    .device = gnn_device,
    .open = gnn_open,
    .run = gnn_run,
    .run_batch = gnn_run_batch,
    .batch_rows = TM_ENGINE_TOGETHER_POINTS,
    .batch_rows_all = TM_ENGINE_BATCH_POINTS,
    .batch = gnn_batch,
    .close = gnn_close,
    .unload = gnn_unload,
};
