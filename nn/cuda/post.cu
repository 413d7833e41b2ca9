// SPDX-License-Identifier: Apache-2.0

#include "nn/cuda/gpu.cuh"

/* Of the host, for the steps behind the track builder of one context. */
#define POST_THREADS 4

tm_status_t tm_gpu_post_edges(tm_gpu_t *gpu, const tm_points_t *points, const tm_edges_t *edges,
                              const float *logits, const uint8_t *states, uint8_t taken,
                              tm_tracks_t *tracks, uint64_t *track_edges, tm_error_t *err) {
    const size_t n = points->n;
    const size_t m = edges->n;
    enum { R, PHI, Z, RHO, SRC, DST, LOGITS, STATES, ARRAYS };
    const struct {
        const void *from;
        size_t bytes;
    } arrays[ARRAYS] = {{points->r, n * sizeof(float)},     {points->phi, n * sizeof(float)},
                        {points->z, n * sizeof(float)},     {points->rho, n * sizeof(float)},
                        {edges->src, m * sizeof(uint32_t)}, {edges->dst, m * sizeof(uint32_t)},
                        {logits, m * sizeof(float)},        {states, m}};
    size_t bytes = 0;
    for (int k = 0; k < ARRAYS; k++) {
        bytes += arrays[k].bytes;
    }
    void *staging = NULL;
    TM_TRY(tm_gpu_staging(gpu, bytes, &staging, err));
    char *at = (char *)staging;
    char *array[ARRAYS];
    for (int k = 0; k < ARRAYS; at += arrays[k].bytes, k++) {
        array[k] = at;
        if (arrays[k].bytes > 0) {
            TM_TRY(tm_gpu_check(gpu,
                                cudaMemcpyAsync(at, arrays[k].from, arrays[k].bytes,
                                                cudaMemcpyDeviceToHost, gpu->stream),
                                "tracks", err));
        }
    }
    TM_TRY(tm_gpu_wait(gpu, "tracks", err));
    uint32_t *src = (uint32_t *)array[SRC];
    uint32_t *dst = (uint32_t *)array[DST];
    float *link_logits = (float *)array[LOGITS];
    uint32_t n_links = 0;
    for (size_t i = 0; i < m; i++) {
        if ((uint8_t)array[STATES][i] == taken) {
            src[n_links] = src[i];
            dst[n_links] = dst[i];
            link_logits[n_links++] = link_logits[i];
        }
    }
    tm_points_t host = {.n = points->n,
                        .r = (const float *)array[R],
                        .phi = (const float *)array[PHI],
                        .z = (const float *)array[Z],
                        .eta = NULL,
                        .rho = (const float *)array[RHO]};
    tm_links_t links = {n_links, src, dst, link_logits};
    return tm_post_run(gpu->post, gpu->device.pipeline, &host, &links, POST_THREADS,
                       gpu->device.cancelled, tracks, track_edges, err);
}
