// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/host_stages.h"

#include <stdlib.h>

#define KEPT_MAX 64

typedef struct {
    tm_device_t device; /* must come first */
    tm_device_t *gpu;
    void *host[KEPT_MAX]; /* arrays handed out */
    uint32_t n_host;
    void *on_gpu[KEPT_MAX]; /* inputs of the running stage */
    uint32_t n_gpu;
    tm_status_t status; /* of the first transfer that failed */
} context_t;

static const void *up(context_t *c, const void *data, size_t bytes, tm_error_t *err) {
    void *to = NULL;
    if (c->status == TM_OK) {
        c->status = tm_cuda_upload(c->gpu, data, bytes, &to, err);
    }
    if (to) {
        c->on_gpu[c->n_gpu++] = to;
    }
    return to;
}

static void *down(context_t *c, const void *data, size_t bytes, tm_error_t *err) {
    void *to = calloc(bytes + 1, 1);
    if (!to || c->n_host == KEPT_MAX) {
        abort();
    }
    c->host[c->n_host++] = to;
    if (c->status == TM_OK) {
        c->status = tm_cuda_download(c->gpu, data, bytes, to, err);
    }
    return to;
}

static void begin(context_t *c) {
    c->status = TM_OK;
    c->gpu->cancelled = c->device.cancelled;
}

static tm_status_t end(context_t *c) {
    while (c->n_gpu > 0) {
        tm_cuda_free(c->gpu, &c->on_gpu[--c->n_gpu]);
    }
    return c->status;
}

static tm_points_t up_points(context_t *c, const tm_points_t *p, tm_error_t *err) {
    size_t bytes = p->n * sizeof(float);
    return (tm_points_t){.n = p->n,
                         .r = up(c, p->r, bytes, err),
                         .phi = up(c, p->phi, bytes, err),
                         .z = up(c, p->z, bytes, err),
                         .eta = up(c, p->eta, bytes, err),
                         .rho = up(c, p->rho, bytes, err)};
}

static tm_edges_t up_edges(context_t *c, const tm_edges_t *e, tm_error_t *err) {
    return (tm_edges_t){.n = e->n,
                        .src = up(c, e->src, e->n * sizeof *e->src, err),
                        .dst = up(c, e->dst, e->n * sizeof *e->dst, err)};
}

static tm_edges_t down_edges(context_t *c, const tm_edges_t *e, tm_error_t *err) {
    return (tm_edges_t){.n = e->n,
                        .src = down(c, e->src, e->n * sizeof *e->src, err),
                        .dst = down(c, e->dst, e->n * sizeof *e->dst, err)};
}

static tm_status_t open_as(const tm_stages_t *stages, tm_cuda_precision_t precision,
                           const tm_pipeline_t *pipeline, tm_device_t **out, tm_error_t *err) {
    const tm_cuda_options_t options = {.precision = precision};
    context_t *c = calloc(1, sizeof *c);
    if (!c) {
        abort();
    }
    c->device.stages = stages;
    c->device.pipeline = pipeline;
    tm_status_t status = tm_cuda_open(pipeline, &options, &c->gpu, err);
    if (status != TM_OK) {
        free(c);
        return status;
    }
    *out = &c->device;
    return TM_OK;
}

static tm_status_t open_half(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                             tm_error_t *err) {
    (void)threads;
    return open_as(&tm_host_stages_half, TM_CUDA_HALF, pipeline, out, err);
}

static tm_status_t open_single(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                               tm_error_t *err) {
    (void)threads;
    return open_as(&tm_host_stages_single, TM_CUDA_SINGLE, pipeline, out, err);
}

static void close_host(tm_device_t **p) {
    context_t *c = (context_t *)*p;
    while (c->n_host > 0) {
        free(c->host[--c->n_host]);
    }
    tm_stages_cuda.close(&c->gpu);
    free(c);
    *p = NULL;
}

static tm_status_t features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **out, tm_error_t *err) {
    context_t *c = (context_t *)device;
    tm_points_t p;
    const float *f;
    begin(c);
    c->status = tm_stages_cuda.features(c->gpu, event, n, &p, &f, err);
    if (c->status == TM_OK) {
        size_t bytes = n * sizeof(float);
        *points = (tm_points_t){.n = n,
                                .r = down(c, p.r, bytes, err),
                                .phi = down(c, p.phi, bytes, err),
                                .z = down(c, p.z, bytes, err),
                                .eta = down(c, p.eta, bytes, err),
                                .rho = down(c, p.rho, bytes, err)};
        *out = down(c, f, bytes * device->pipeline->n_features, err);
    }
    return end(c);
}

static tm_status_t embed(tm_device_t *device, uint32_t n, const float *in, const float **out,
                         tm_error_t *err) {
    context_t *c = (context_t *)device;
    const float *embedding;
    begin(c);
    const float *f = up(c, in, n * device->pipeline->n_features * sizeof(float), err);
    if (c->status == TM_OK) {
        c->status = tm_stages_cuda.embed(c->gpu, n, f, &embedding, err);
    }
    if (c->status == TM_OK) {
        *out = down(c, embedding, (size_t)n * device->pipeline->embed.mlp.out * sizeof(float), err);
    }
    return end(c);
}

static tm_status_t radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err) {
    context_t *c = (context_t *)device;
    tm_edges_t found;
    begin(c);
    tm_points_t p = up_points(c, points, err);
    size_t bytes = (size_t)points->n * device->pipeline->embed.mlp.out * sizeof(float);
    const float *e = up(c, embedding, bytes, err);
    if (c->status == TM_OK) {
        c->status = tm_stages_cuda.radius(c->gpu, &p, e, &found, err);
    }
    if (c->status == TM_OK) {
        *edges = down_edges(c, &found, err);
    }
    return end(c);
}

static tm_status_t filter(tm_device_t *device, const tm_points_t *points, const float *in,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err) {
    context_t *c = (context_t *)device;
    tm_edges_t k;
    const float *l;
    begin(c);
    tm_points_t p = up_points(c, points, err);
    tm_edges_t e = up_edges(c, edges, err);
    const float *f = up(c, in, points->n * device->pipeline->n_features * sizeof(float), err);
    if (c->status == TM_OK) {
        c->status = tm_stages_cuda.filter(c->gpu, &p, f, &e, &k, &l, err);
    }
    if (c->status == TM_OK) {
        *kept = down_edges(c, &k, err);
        *logits = down(c, l, k.n * sizeof *l, err);
    }
    return end(c);
}

static tm_status_t gnn(tm_device_t *device, const tm_points_t *points, const float *in,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err) {
    context_t *c = (context_t *)device;
    const float *l;
    begin(c);
    tm_points_t p = up_points(c, points, err);
    tm_edges_t e = up_edges(c, edges, err);
    const float *f = up(c, in, points->n * device->pipeline->n_features * sizeof(float), err);
    if (c->status == TM_OK) {
        c->status = tm_stages_cuda.gnn(c->gpu, &p, f, &e, &l, err);
    }
    if (c->status == TM_OK) {
        *logits = down(c, l, e.n * sizeof *l, err);
    }
    return end(c);
}

static tm_status_t tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *out, uint64_t *track_edges,
                          tm_error_t *err) {
    context_t *c = (context_t *)device;
    begin(c);
    tm_points_t p = up_points(c, points, err);
    tm_edges_t e = up_edges(c, edges, err);
    const float *l = up(c, logits, edges->n * sizeof *logits, err);
    if (c->status == TM_OK) {
        c->status = tm_stages_cuda.tracks(c->gpu, &p, &e, l, out, track_edges, err);
    }
    return end(c);
}

#define STAGES(label, opener) \
    { \
        .name = label, .open = opener, .close = close_host, .features = features, .embed = embed, \
        .radius = radius, .filter = filter, .gnn = gnn, .tracks = tracks \
    }
const tm_stages_t tm_host_stages_half = STAGES("cuda, fp16", open_half);
const tm_stages_t tm_host_stages_single = STAGES("cuda, fp32", open_single);
