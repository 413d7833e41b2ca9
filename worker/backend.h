// SPDX-License-Identifier: Apache-2.0
/*
 * The interface between a worker and what it serves. A back end is one tm_backend_t: a table of
 * functions. The worker knows nothing of tracks: it hands columns in and columns out.
 *
 * Life: load once (main thread) → open once per slot (the slot's own thread) → run, many times
 * (same thread) → close → unload. `run` of different slots runs concurrently.
 *
 * Several small requests of one model may run together, if the back end has `run_batch`; see
 * worker/slots.h for which ones.
 */
#ifndef TM_WORKER_BACKEND_H
#define TM_WORKER_BACKEND_H

#include "wire/message.h"

#define TM_BACKEND_BATCH_MAX 64u /* requests that run together */

typedef struct {
    tm_columns_t columns; /* the answer; borrowed from the slot until its next run or close */
    tm_timings_t timings;
} tm_backend_result_t;

/* One request of a batch, and what became of it. */
typedef struct {
    const tm_columns_t *in;        /* borrowed, only read */
    const volatile int *cancelled; /* as that of `run`; to stop for it is a matter of taste here */
    tm_backend_result_t out;       /* zeroed by the caller */
    tm_status_t status;            /* set for every item: the codes of `run` */
    tm_error_t err;
} tm_backend_item_t;

typedef struct tm_backend {
    const char *name; /* "gnn", "mock" */

    /* Loads what is shared by all slots. `arguments` are the strings of the repeated option --model
     * (files for gnn, "key=value" settings for mock); `device` that of --device ("cuda:0"), or NULL,
     * borrowed until unload.
     * On success *state is the back end's own and
     * *models and *n_models (room for TM_MODELS_MAX) say what it serves. */
    tm_status_t (*load)(const char *const *arguments, int n_arguments, int threads_per_slot,
                        const char *device, void **state, tm_model_id_t *models, uint32_t *n_models,
                        tm_error_t *err);
    /* "cpu, 2 threads", "cuda:0 NVIDIA H200": for people; borrowed from the state. */
    const char *(*device)(void *state);
    tm_status_t (*open)(void *state, void **slot, tm_error_t *err);
    /* One request for models[model]. *cancelled turns non-zero when the answer is not wanted any
     * more: return TM_E_CANCELLED as soon as convenient. Codes: TM_E_BAD_EVENT and
     * TM_E_MISSING_COLUMN end the request; TM_E_BACKEND and TM_E_NO_MEMORY send it elsewhere. */
    tm_status_t (*run)(void *slot, uint32_t model, const tm_columns_t *in,
                       const volatile int *cancelled, tm_backend_result_t *out, tm_error_t *err);

    /* The following five may be left out: one request at a time then.
     * n requests (1 … TM_BACKEND_BATCH_MAX) for models[model] together. Each gets the answer, and
     * the status, that it would get alone: a bad one fails by itself. */
    void (*run_batch)(void *slot, uint32_t model, tm_backend_item_t *items, uint32_t n);
    /* Only requests with at most so many rows do; and so many rows of all that run together. */
    uint64_t batch_rows, batch_rows_all;
    /* How many together gain most on its device; 1 … TM_BACKEND_BATCH_MAX. */
    uint32_t (*batch)(void *state);

    void (*close)(void **slot);
    void (*unload)(void **state);
} tm_backend_t;

extern const tm_backend_t tm_backend_gnn;
extern const tm_backend_t tm_backend_mock;

#endif
