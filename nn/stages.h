// SPDX-License-Identifier: Apache-2.0
/*
 * The stages of the pipeline, with the signatures that they have on every device.
 *
 *   features   columns of the event      → raw coordinates and scaled node features
 *   embed      features [n, F]           → embedding [n, dim]
 *   radius     embedding                 → directed edges, cut by geometry
 *   filter     edges                     → the edges that stay, and their logits
 *   gnn        edges                     → a logit per edge
 *   tracks     edges and logits          → track candidates (on the host)
 *
 * docs/model-file.md says what each stage computes; docs/engine.md how the CPU does it. A device
 * context (tm_device_t) is made for one pipeline, holds the buffers of one event and is used by one
 * thread at a time. Arrays are row-major and lie in the memory of the device. Every array that a
 * stage hands out belongs to the context and is valid until the same stage runs again there; arrays
 * handed in are borrowed for the call. Nothing is handed out on failure.
 *
 * Errors of all stages: TM_E_NO_MEMORY (the text says for what and how much), TM_E_CANCELLED.
 * n = 0 and no edges are ordinary input everywhere.
 *
 * Results do not depend on the number of threads: same input, same bytes.
 */
#ifndef TM_NN_STAGES_H
#define TM_NN_STAGES_H

#include "nn/engine.h"
#include "nn/pipeline.h"

/* Edges of one event beyond which the radius stage gives up: 12 bytes each are 3 GB. */
#define TM_RADIUS_EDGES_MAX (1u << 28)

typedef struct tm_stages tm_stages_t;

/* What every device context begins with. */
typedef struct {
    const tm_stages_t *stages;
    const tm_pipeline_t *pipeline;
    const volatile int *cancelled; /* set by the caller before an event; polled; may be NULL */
} tm_device_t;

/* Raw coordinates that edges are cut and described with: mm, radians. */
typedef struct {
    uint32_t n;
    const float *r, *phi, *z, *eta, *rho;
} tm_points_t;

/* Edges, sorted by source, then target; no edge twice. */
typedef struct {
    uint32_t n;
    const uint32_t *src, *dst;
} tm_edges_t;

struct tm_stages {
    const char *name; /* "cpu" */

    /* threads 0: as many as the process may use. The pipeline is borrowed until close. */
    tm_status_t (*open)(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                        tm_error_t *err);
    void (*close)(tm_device_t **p);

    /* event: checked by tm_event_check, n rows. *features: [n, pipeline->n_features].
     * TM_E_MISSING_COLUMN; TM_E_BAD_EVENT: a value is not finite (the text names column and row). */
    tm_status_t (*features)(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err);

    /* *embedding: [n, pipeline->embed.mlp.out], normalised where the pipeline says so.
     * TM_E_BAD_EVENT: a row of it is not finite. */
    tm_status_t (*embed)(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err);

    /* TM_E_NO_MEMORY also beyond TM_RADIUS_EDGES_MAX edges. */
    tm_status_t (*radius)(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err);

    /* Keeps the order of the edges. *logits: [kept->n]. Only where pipeline->filter.present. */
    tm_status_t (*filter)(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err);

    /* *logits: [edges->n]. Only where pipeline->gnn.kind is not TM_GNN_NONE. */
    tm_status_t (*gnn)(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err);

    /* logits: [edges->n]; the best of two edges is the one with the higher logit. *tracks is
     * overwritten (tm_tracks_clear frees it): candidates by least point, points by rho, then row.
     * *track_edges: edges that the builder took. */
    tm_status_t (*tracks)(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err);

    /* All stages at once, where a device can do that better than one by one; else NULL. items: checked,
     * with n_points set; several of them are all small (TM_ENGINE_SMALL_POINTS) or all not, and within
     * the limits of nn/engine.h. On success and *ran they all have their tracks, timings and (of one event) counts. Not *ran: the stages have to go one by
     * one. On failure nothing is handed out, and *err may be due to any of the events. */
    tm_status_t (*find)(tm_device_t *device, tm_engine_item_t *items, uint32_t n, bool *ran,
                        tm_error_t *err);
};

extern const tm_stages_t tm_stages_cpu; /* nn/cpu: OpenMP and OpenBLAS, float32 */
extern const tm_stages_t tm_stages_ref; /* nn/ref: plain float64, for tests (target tm_nn_ref) */

/* An engine on given stages, for tests and benchmarks; the pipeline is borrowed until destroy.
 * tm_engine_new is this with the stages of the best device and the model's pipeline. */
tm_status_t tm_engine_new_on(const tm_stages_t *stages, const tm_pipeline_t *pipeline,
                             const tm_engine_options_t *options, tm_engine_t **out,
                             tm_error_t *err);

#endif
