// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/mlp.cuh"

#define LEAST_NORM 1e-12f

/* *bad: the complement of the first row that is not finite; 0: none */
static __global__ void normalize(float *embedding, uint32_t n, uint32_t dim, bool divide,
                                 unsigned long long *bad) {
    uint64_t i = tm_gpu_thread();
    if (i >= n) {
        return;
    }
    float *row = embedding + i * dim;
    float squares = 0;
    for (uint32_t d = 0; d < dim; d++) {
        squares += row[d] * row[d];
    }
    float norm = sqrtf(squares);
    norm = norm > LEAST_NORM ? norm : LEAST_NORM;
    bool finite = isfinite(squares);
    for (uint32_t d = 0; d < dim && divide; d++) {
        row[d] /= norm;
    }
    if (!finite) {
        atomicMax(bad, ~(unsigned long long)i);
    }
}

tm_status_t tm_gpu_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    uint32_t dim = p->embed.mlp.out;
    const float *input = NULL;
    float *out = NULL;
    uint64_t *scalars = NULL;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EMBEDDING, (size_t)n * dim, &out, err));
    TM_TRY(tm_gpu_select_features(gpu, &p->embed.features, n, features, &input, err));
    tm_gpu_mlp_call_t call = {};
    call.mlp = &gpu->embed;
    call.rows = n;
    call.n_parts = 1;
    call.part[0] = (tm_gpu_part_t){TM_GPU_PART_ROWS, TM_GPU_F32, p->embed.mlp.in, input};
    call.out_type = TM_GPU_F32;
    call.out = out;
    TM_TRY(tm_gpu_mlp_run(gpu, &call, err));
    if (n > 0) {
        TM_TRY(tm_gpu_scalars_reset(gpu, &scalars, err));
        normalize<<<tm_gpu_blocks(n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
            out, n, dim, p->embed.normalize, (unsigned long long *)scalars);
        TM_TRY(tm_gpu_launched(gpu, "embedding", err));
        TM_TRY(tm_gpu_scalars_read(gpu, "embedding", err));
        if (gpu->host_scalars[0] != 0) {
            return tm_error_set(err, TM_E_BAD_EVENT,
                                "space point %u has no finite embedding: its values are far from "
                                "what the model knows",
                                (uint32_t)~gpu->host_scalars[0]);
        }
    }
    *embedding = out;
    return TM_OK;
}
