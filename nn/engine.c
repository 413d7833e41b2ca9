// SPDX-License-Identifier: Apache-2.0
#include "nn/engine.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nn/stages.h"
#ifdef TM_HAVE_CUDA
#include "nn/cuda/cuda.h"
#endif

#define NO_GPU (-1)

struct tm_engine {
    const tm_stages_t *stages;
    const tm_pipeline_t *pipeline;
    tm_device_t *device;
};

/* One event on its way through the stages. */
typedef struct {
    tm_engine_t *engine;
    const volatile int *cancelled;
    tm_timings_t *timings;
    uint64_t started_us;
    tm_error_t *err;
} run_t;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Ends a stage: notes its time, and whether the next one is still wanted. */
static tm_status_t end_stage(run_t *run, const char *name, tm_status_t status) {
    uint64_t now = now_us();
    if (run->timings) {
        tm_timings_add(run->timings, name, now - run->started_us);
    }
    run->started_us = now;
    if (status == TM_OK && run->cancelled && *run->cancelled) {
        return tm_error_set(run->err, TM_E_CANCELLED, "cancelled after stage '%s'", name);
    }
    return status;
}

/* ---- devices ---- */

#ifdef TM_HAVE_CUDA
static int count_gpus(tm_error_t *err) {
    return tm_cuda_count(err);
}

static tm_status_t open_gpu(const tm_pipeline_t *pipeline, int ordinal, tm_device_t **out,
                            tm_error_t *err) {
    const tm_cuda_options_t options = {.ordinal = ordinal};
    return tm_cuda_open(pipeline, &options, out, err);
}

static void name_gpu(int ordinal, char *name, size_t bytes) {
    tm_cuda_name(ordinal, name, bytes);
}
#else
static int count_gpus(tm_error_t *err) {
    tm_error_set(err, TM_E_BACKEND,
                 "no GPU: this program was built without CUDA (cmake -DTM_CUDA=ON)");
    return 0;
}

static tm_status_t open_gpu(const tm_pipeline_t *pipeline, int ordinal, tm_device_t **out,
                            tm_error_t *err) {
    (void)pipeline;
    (void)ordinal;
    (void)out;
    count_gpus(err);
    return TM_E_BACKEND;
}

static void name_gpu(int ordinal, char *name, size_t bytes) {
    (void)ordinal;
    snprintf(name, bytes, "unknown");
}
#endif

/* The GPU that the options ask for, or NO_GPU for the CPU. */
static tm_status_t choose_device(const tm_engine_options_t *options, int *ordinal,
                                 tm_error_t *err) {
    const char *device = options && options->device ? options->device : "auto";
    *ordinal = NO_GPU;
    if (strcmp(device, "cpu") == 0) {
        return TM_OK;
    }
    if (strcmp(device, "auto") == 0) {
        *ordinal = count_gpus(NULL) > 0 ? 0 : NO_GPU;
        return TM_OK;
    }
    long number = 0;
    char *end = NULL;
    if (strncmp(device, "cuda:", 5) == 0 && device[5] >= '0' && device[5] <= '9') {
        errno = 0;
        number = strtol(device + 5, &end, 10);
    }
    bool known = strcmp(device, "cuda") == 0 || (end && !*end && !errno && number <= INT_MAX);
    if (!known) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "device '%s': say auto, cpu, cuda or cuda:N with N from 0", device);
    }
    int count = count_gpus(err);
    if (count == 0) {
        return TM_E_BACKEND;
    }
    if (number >= count) {
        return tm_error_set(err, TM_E_BACKEND, "device '%s': this machine has cuda:0 to cuda:%d",
                            device, count - 1);
    }
    *ordinal = (int)number;
    return TM_OK;
}

tm_status_t tm_engine_describe(const tm_engine_options_t *options, char *text, size_t bytes,
                               tm_error_t *err) {
    int ordinal = NO_GPU;
    int threads = options ? options->threads : 0;
    tm_status_t status = choose_device(options, &ordinal, err);
    if (status != TM_OK) {
        return status;
    }
    if (ordinal != NO_GPU) {
        char name[TM_NAME_MAX];
        name_gpu(ordinal, name, sizeof name);
        snprintf(text, bytes, "cuda:%d %s", ordinal, name);
    } else if (threads > 0) {
        snprintf(text, bytes, "cpu, %d thread%s", threads, threads == 1 ? "" : "s");
    } else {
        snprintf(text, bytes, "cpu");
    }
    return TM_OK;
}

/* ---- life ---- */

/* Takes the device, also on failure. */
static tm_status_t wrap(const tm_pipeline_t *pipeline, tm_device_t *device, tm_engine_t **out,
                        tm_error_t *err) {
    tm_engine_t *engine = calloc(1, sizeof *engine);
    if (!engine) {
        device->stages->close(&device);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    engine->stages = device->stages;
    engine->pipeline = pipeline;
    engine->device = device;
    *out = engine;
    return TM_OK;
}

tm_status_t tm_engine_new_on(const tm_stages_t *stages, const tm_pipeline_t *pipeline,
                             const tm_engine_options_t *options, tm_engine_t **out,
                             tm_error_t *err) {
    tm_device_t *device = NULL;
    tm_status_t status = stages->open(pipeline, options ? options->threads : 0, &device, err);
    return status == TM_OK ? wrap(pipeline, device, out, err) : status;
}

tm_status_t tm_engine_new(const tm_model_t *model, const tm_engine_options_t *options,
                          tm_engine_t **out, tm_error_t *err) {
    const tm_pipeline_t *pipeline = tm_model_pipeline(model);
    int ordinal = NO_GPU;
    tm_device_t *device = NULL;
    tm_status_t status = choose_device(options, &ordinal, err);
    if (status == TM_OK && ordinal == NO_GPU) {
        return tm_engine_new_on(&tm_stages_cpu, pipeline, options, out, err);
    }
    if (status == TM_OK) {
        status = open_gpu(pipeline, ordinal, &device, err);
    }
    return status == TM_OK ? wrap(pipeline, device, out, err) : status;
}

void tm_engine_destroy(tm_engine_t **p) {
    if (*p) {
        (*p)->stages->close(&(*p)->device);
        free(*p);
        *p = NULL;
    }
}

/* From points to scored edges. */
static tm_status_t score_edges(run_t *run, const tm_columns_t *event, uint32_t n,
                               tm_points_t *points, tm_edges_t *edges, const float **logits,
                               tm_engine_counts_t *counts) {
    const tm_stages_t *stages = run->engine->stages;
    const tm_pipeline_t *pipeline = run->engine->pipeline;
    tm_device_t *device = run->engine->device;
    const float *features = NULL;
    const float *embedding = NULL;
    tm_status_t status = stages->features(device, event, n, points, &features, run->err);
    status = end_stage(run, "features", status);
    if (status == TM_OK) {
        status = stages->embed(device, n, features, &embedding, run->err);
        status = end_stage(run, "embed", status);
    }
    if (status == TM_OK) {
        status = stages->radius(device, points, embedding, edges, run->err);
        status = end_stage(run, "radius", status);
        counts->radius_edges = edges->n;
    }
    if (status == TM_OK && pipeline->filter.present) {
        tm_edges_t kept = {0};
        status = stages->filter(device, points, features, edges, &kept, logits, run->err);
        status = end_stage(run, "filter", status);
        *edges = kept;
    }
    counts->filter_edges = edges->n;
    if (status == TM_OK && pipeline->gnn.kind != TM_GNN_NONE) {
        status = stages->gnn(device, points, features, edges, logits, run->err);
        status = end_stage(run, "gnn", status);
    }
    return status;
}

/* The stages one by one. n: points. */
static tm_status_t find_by_stages(run_t *run, const tm_columns_t *event, uint32_t n,
                                  tm_tracks_t *tracks, tm_engine_counts_t *counts) {
    tm_points_t points = {0};
    tm_edges_t edges = {0};
    const float *logits = NULL;
    tm_engine_t *engine = run->engine;
    tm_status_t status = score_edges(run, event, n, &points, &edges, &logits, counts);
    if (status == TM_OK) {
        status = engine->stages->tracks(engine->device, &points, &edges, logits, tracks,
                                        &counts->track_edges, run->err);
        status = end_stage(run, "tracks", status);
    }
    return status;
}

tm_status_t tm_engine_find(tm_engine_t *engine, const tm_columns_t *event,
                           const volatile int *cancelled, tm_tracks_t *tracks,
                           tm_timings_t *timings, tm_engine_counts_t *counts, tm_error_t *err) {
    run_t run = {.engine = engine,
                 .cancelled = cancelled,
                 .timings = timings,
                 .started_us = now_us(),
                 .err = err};
    tm_engine_counts_t own_counts = {0};
    uint32_t n = 0;
    bool ran = false;
    *tracks = (tm_tracks_t){0};
    if (timings) {
        timings->count = 0;
    }
    tm_status_t status = tm_event_check(event, &n, err);
    if (status == TM_OK && cancelled && *cancelled) {
        status = tm_error_set(err, TM_E_CANCELLED, "cancelled before the first stage");
    }
    engine->device->cancelled = cancelled;
    if (status == TM_OK && engine->stages->find) {
        tm_engine_item_t item = {
            .event = event, .tracks = tracks, .timings = timings, .n_points = n};
        status = engine->stages->find(engine->device, &item, 1, &ran, err);
        own_counts = item.counts;
    }
    if (status == TM_OK && !ran) {
        run.started_us = now_us();
        status = find_by_stages(&run, event, n, tracks, &own_counts);
    }
    engine->device->cancelled = NULL;
    if (status != TM_OK) {
        tm_tracks_clear(tracks);
    }
    if (counts) {
        *counts = own_counts;
    }
    return status;
}

static void find_alone(tm_engine_t *engine, tm_engine_item_t *item) {
    item->status = tm_engine_find(engine, item->event, NULL, item->tracks, item->timings,
                                  &item->counts, &item->err);
}

/* Whether small or not: those of one kind can be computed together. */
typedef enum { KIND_ALONE, KIND_SMALL, KIND_OTHER } kind_t;

static kind_t kind_of(const tm_engine_t *engine, tm_engine_item_t *item) {
    tm_error_t err = {0};
    if (!engine->stages->find || tm_event_check(item->event, &item->n_points, &err) != TM_OK ||
        item->n_points > TM_ENGINE_TOGETHER_POINTS) {
        return KIND_ALONE;
    }
    return item->n_points <= TM_ENGINE_SMALL_POINTS ? KIND_SMALL : KIND_OTHER;
}

static void find_together(tm_engine_t *engine, tm_engine_item_t *items, uint32_t n) {
    bool ran = false;
    for (uint32_t i = 0; i < n; i++) {
        *items[i].tracks = (tm_tracks_t){0};
        items[i].counts = (tm_engine_counts_t){0};
        items[i].status = TM_OK;
        if (items[i].timings) {
            items[i].timings->count = 0;
        }
    }
    if (n > 1) {
        tm_error_t err = {0};
        tm_status_t status = engine->stages->find(engine->device, items, n, &ran, &err);
        ran = ran && status == TM_OK;
        for (uint32_t i = 0; i < n && !ran; i++) {
            tm_tracks_clear(items[i].tracks);
        }
    }
    /* one bad event must not spoil the others: each by itself then */
    for (uint32_t i = 0; i < n && !ran; i++) {
        find_alone(engine, &items[i]);
    }
}

void tm_engine_find_batch(tm_engine_t *engine, tm_engine_item_t *items, uint32_t n) {
    kind_t kind[TM_ENGINE_BATCH_MAX];
    bool done[TM_ENGINE_BATCH_MAX] = {0};
    tm_engine_item_t some[TM_ENGINE_BATCH_MAX];
    uint32_t place[TM_ENGINE_BATCH_MAX];
    assert(n <= TM_ENGINE_BATCH_MAX);
    for (uint32_t i = 0; i < n; i++) {
        kind[i] = kind_of(engine, &items[i]);
    }
    for (uint32_t first = 0; first < n; first++) {
        uint64_t points = 0;
        uint32_t n_some = 0;
        for (uint32_t i = first; i < n && !done[first]; i++) {
            bool fits = i == first || (kind[i] == kind[first] && kind[i] != KIND_ALONE &&
                                       points + items[i].n_points <= TM_ENGINE_BATCH_POINTS);
            if (!done[i] && fits) {
                points += items[i].n_points;
                place[n_some] = i;
                some[n_some++] = items[i];
            }
        }
        find_together(engine, some, n_some);
        for (uint32_t k = 0; k < n_some; k++) {
            items[place[k]] = some[k];
            done[place[k]] = true;
        }
    }
}
