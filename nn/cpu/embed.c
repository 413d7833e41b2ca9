// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/mlp.h"

#define CHECK_ROWS 1024

tm_status_t tm_cpu_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_mlp_t *mlp = &device->pipeline->embed.mlp;
    const float *input = NULL;
    tm_status_t status =
        tm_buffer_reserve(&cpu->embedding, (size_t)n * mlp->out, sizeof(float), "embedding", err);
    if (status == TM_OK) {
        status = tm_cpu_select_features(cpu, &device->pipeline->embed.features, n, features, &input,
                                        err);
    }
    if (status != TM_OK) {
        return status;
    }
    float *out = cpu->embedding.data;
    tm_part_t part = {.kind = TM_PART_ROWS, .width = mlp->in, .data = input};
    status = tm_cpu_mlp(cpu, mlp, &part, 1, n, NULL, out, err);
    if (status != TM_OK) {
        return status;
    }
    for (uint32_t row = 0; row < n; row += CHECK_ROWS) {
        uint32_t rows = n - row < CHECK_ROWS ? n - row : CHECK_ROWS;
        size_t bad = cpu->kernels->normalize(out + (size_t)row * mlp->out, rows, mlp->out,
                                             device->pipeline->embed.normalize);
        if (bad < rows) {
            return tm_error_set(err, TM_E_BAD_EVENT,
                                "space point %u has no finite embedding: its values are far from "
                                "what the model knows",
                                row + (uint32_t)bad);
        }
    }
    *embedding = out;
    return TM_OK;
}
