// SPDX-License-Identifier: Apache-2.0
/*
 * The engine: space points in, track candidates out, with the model of one file.
 *
 * A tm_model_t is read-only after loading and may be shared by any number of engines and threads.
 * A tm_engine_t holds the buffers of one event at a time: one per slot, used by one thread at a
 * time. Same model, same event: same bytes out, whatever the number of threads.
 */
#ifndef TM_NN_ENGINE_H
#define TM_NN_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "wire/columns.h"
#include "wire/error.h"

typedef struct tm_model tm_model_t;
typedef struct tm_engine tm_engine_t;

/* Loads and checks a safetensors model file (docs/model-file.md). The text of an error names the
 * file, the tensor or metadata key, and what is wrong with it. */
tm_status_t tm_model_load(const char *path, tm_model_t **out, tm_error_t *err);
void tm_model_destroy(tm_model_t **p); /* after every engine made from it */

typedef struct {
    const char *name;    /* from the metadata: "standard" */
    const char *version; /* "1" */
    uint8_t hash[32];    /* SHA-256 of the file */
    uint64_t parameters;
    uint32_t n_columns; /* input columns that the features need beyond x, y, z */
    const char *const *columns;
} tm_model_info_t;

/* Borrowed from the model. */
const tm_model_info_t *tm_model_info(const tm_model_t *model);

typedef struct {
    int threads; /* OpenMP threads of this engine; 0: as many as the process may use */
    /* "cpu", "cuda:0" (a GPU by its number), "cuda" (the first); NULL or "auto": a GPU where the machine
     * has one and the engine was built for it, else the CPU */
    const char *device;
} tm_engine_options_t;

/* What tm_engine_new takes for these options here, in words: "cuda:0 NVIDIA H200", "cpu, 4 threads"
 * ("cpu" where threads is 0). TM_E_ARGUMENT: no such device is known; TM_E_BACKEND: there is no such
 * GPU, or this program was built without CUDA. The text says how to mend it. */
tm_status_t tm_engine_describe(const tm_engine_options_t *options, char *text, size_t bytes,
                               tm_error_t *err);

tm_status_t tm_engine_new(const tm_model_t *model, const tm_engine_options_t *options,
                          tm_engine_t **out, tm_error_t *err);
void tm_engine_destroy(tm_engine_t **p);

/* Sizes of the last event's graph, for reports and benchmarks. */
typedef struct {
    uint64_t radius_edges; /* after the radius search and its geometric cuts */
    uint64_t filter_edges; /* after the filter */
    uint64_t track_edges;  /* after the edge cut and the track builder */
} tm_engine_counts_t;

/* Finds the track candidates of one event. The columns are only read. *tracks is overwritten: free
 * it with tm_tracks_clear. timings and counts may be NULL. 0 points or no edges: no tracks, TM_OK.
 * TM_E_BAD_EVENT, TM_E_MISSING_COLUMN: the event; TM_E_NO_MEMORY: it is too large for this machine.
 * `cancelled` (may be NULL) is polled between stages; when it turns non-zero: TM_E_CANCELLED. */
tm_status_t tm_engine_find(tm_engine_t *engine, const tm_columns_t *event,
                           const volatile int *cancelled, tm_tracks_t *tracks,
                           tm_timings_t *timings, tm_engine_counts_t *counts, tm_error_t *err);

/* One event of a batch, and what became of it. */
typedef struct {
    const tm_columns_t *event; /* only read */
    tm_tracks_t *tracks;       /* overwritten; empty unless status is TM_OK */
    tm_timings_t *timings;     /* may be NULL; of the whole batch where its events ran together */
    tm_engine_counts_t counts; /* zeros where events ran together */
    uint32_t n_points;         /* set by the engine */
    tm_status_t status;
    tm_error_t err;
} tm_engine_item_t;

/* Events of at most so many points, together at most so many, are worth running together; small
 * ones and others apart. */
#define TM_ENGINE_SMALL_POINTS 8192u
#define TM_ENGINE_TOGETHER_POINTS 49152u
#define TM_ENGINE_BATCH_POINTS 114688u
#define TM_ENGINE_BATCH_MAX 64u

/* Finds the tracks of n events, 1 to TM_ENGINE_BATCH_MAX; together where the device can. Each gets
 * the bytes that it would get alone. */
void tm_engine_find_batch(tm_engine_t *engine, tm_engine_item_t *items, uint32_t n);

#endif
