// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/mlp.cuh"

static __global__ void flag(const float *logits, uint32_t n, double least, uint32_t *flags) {
    uint64_t i = tm_gpu_thread();
    if (i <= n) { /* one more, whose place is the number kept */
        flags[i] = i < n && (double)logits[i] > least;
    }
}

static __global__ void compact(const uint32_t *flags, const uint32_t *places, uint32_t n,
                               const uint32_t *src, const uint32_t *dst, const float *logits,
                               uint32_t *kept_src, uint32_t *kept_dst, float *kept_logits,
                               unsigned long long *count) {
    uint64_t i = tm_gpu_thread();
    if (i < n && flags[i]) {
        uint32_t at = places[i];
        kept_src[at] = src[i];
        kept_dst[at] = dst[i];
        kept_logits[at] = logits[i];
    }
    if (i == n) {
        *count = places[n];
    }
}

static tm_status_t score(tm_gpu_t *gpu, const tm_points_t *points, const float *features,
                         const tm_edges_t *edges, float *logits, tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    const float *x = NULL;
    TM_TRY(tm_gpu_select_features(gpu, &p->filter.features, points->n, features, &x, err));
    tm_gpu_mlp_call_t call = {};
    call.mlp = &gpu->filter;
    call.rows = edges->n;
    call.n_parts = p->filter.inputs.n;
    for (uint32_t k = 0; k < call.n_parts; k++) {
        tm_input_kind_t input = p->filter.inputs.part[k];
        call.part[k] =
            input == TM_IN_EDGE_FEATURES
                ? (tm_gpu_part_t){TM_GPU_PART_EDGE_FEATURES, TM_GPU_F32, p->n_edge_features, NULL}
                : (tm_gpu_part_t){input == TM_IN_X_SRC ? TM_GPU_PART_SRC : TM_GPU_PART_DST,
                                  TM_GPU_F32, p->filter.features.n, x};
    }
    call.points = points;
    call.edges = edges;
    call.out_type = TM_GPU_F32;
    call.out = logits;
    return tm_gpu_mlp_run(gpu, &call, err);
}

tm_status_t tm_gpu_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    uint32_t n = edges->n;
    float *all = NULL;
    float *kept_logits = NULL;
    uint32_t *flags = NULL;
    uint32_t *places = NULL;
    uint32_t *kept_src = NULL;
    uint32_t *kept_dst = NULL;
    uint64_t *scalars = NULL;
    uint32_t n_kept = 0;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_FILTER_LOGITS, n, &all, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_KEPT_FLAGS, (size_t)n + 1, &flags, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_KEPT_PLACES, (size_t)n + 1, &places, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_KEPT_SRC, n, &kept_src, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_KEPT_DST, n, &kept_dst, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_KEPT_LOGITS, n, &kept_logits, err));
    if (n > 0) {
        TM_TRY(score(gpu, points, features, edges, all, err));
        unsigned blocks = tm_gpu_blocks((uint64_t)n + 1, TM_GPU_THREADS);
        flag<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(
            all, n, tm_gpu_least_logit(device->pipeline->filter.cut), flags);
        TM_TRY(tm_gpu_launched(gpu, "the filter's cut", err));
        TM_TRY(tm_gpu_scan_u32(gpu, flags, places, (size_t)n + 1, err));
        TM_TRY(tm_gpu_scalars_reset(gpu, &scalars, err));
        compact<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(
            flags, places, n, edges->src, edges->dst, all, kept_src, kept_dst, kept_logits,
            (unsigned long long *)scalars);
        TM_TRY(tm_gpu_launched(gpu, "the filter's cut", err));
        TM_TRY(tm_gpu_scalars_read(gpu, "the filter", err));
        n_kept = (uint32_t)gpu->host_scalars[0];
    }
    *kept = (tm_edges_t){.n = n_kept, .src = kept_src, .dst = kept_dst};
    *logits = kept_logits;
    return TM_OK;
}
