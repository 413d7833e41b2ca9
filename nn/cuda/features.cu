// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/feature_list.cuh"

#define COORDINATES 5 /* r, phi, z, eta, rho */

/* columns: x, y, z and those that features ask for, [n] each. coordinates: [COORDINATES, n].
 * *bad: the complement of (feature << 32 | row) of the first value that is not finite; 0: none */
static __global__ void make_features(const tm_gpu_feature_list_t list, const float *columns,
                                     uint64_t n, float *coordinates, float *features,
                                     unsigned long long *bad) {
    const uint64_t i = tm_gpu_thread();
    if (i >= n) {
        return;
    }
    const double x = columns[i];
    const double y = columns[n + i];
    const double z = columns[2 * n + i];
    const tm_feature_kind_t kinds[COORDINATES] = {TM_F_R, TM_F_PHI, TM_F_Z, TM_F_ETA, TM_F_RHO};
    for (uint32_t k = 0; k < COORDINATES; k++) {
        coordinates[k * n + i] = (float)tm_gpu_feature_of_place(kinds[k], x, y, z);
    }
    for (uint32_t k = 0; k < list.n; k++) {
        const tm_gpu_feature_t &f = list.feature[k];
        const double raw = tm_gpu_feature_has_column(f.kind)
                               ? tm_gpu_feature_of_column(f.kind, columns[f.column * n + i])
                               : tm_gpu_feature_of_place(f.kind, x, y, z);
        bool finite;
        features[i * list.n + k] = tm_gpu_feature_scaled(f, raw, &finite);
        if (!finite) {
            atomicMax(bad, ~((unsigned long long)k << 32 | i));
        }
    }
}

/* Finds every column that is wanted. *n_columns: their number. */
static tm_status_t choose(const tm_pipeline_t *p, const tm_gpu_feature_list_t *list,
                          const tm_columns_t *event, const tm_column_t **columns,
                          uint32_t *n_columns, tm_error_t *err) {
    static const char *const names[TM_GPU_PLACE_COLUMNS] = {"x", "y", "z"};
    uint32_t count = 0;
    for (; count < TM_GPU_PLACE_COLUMNS; count++) {
        columns[count] = tm_columns_find(event, names[count]);
        if (!columns[count]) {
            return tm_error_set(err, TM_E_MISSING_COLUMN, "the event has no column '%s'",
                                names[count]);
        }
    }
    for (uint32_t k = 0; k < list->n; k++) {
        if (tm_gpu_feature_has_column(list->feature[k].kind)) {
            columns[count] = tm_columns_find(event, p->feature[k].column);
            if (!columns[count++]) {
                return tm_error_set(err, TM_E_MISSING_COLUMN,
                                    "the model needs column '%s', which the event lacks",
                                    p->feature[k].column);
            }
        }
    }
    *n_columns = count;
    return TM_OK;
}

static tm_status_t check_finite(tm_gpu_t *gpu, tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    TM_TRY(tm_gpu_scalars_read(gpu, "features", err));
    uint64_t bad = gpu->host_scalars[0];
    if (bad == 0) {
        return TM_OK;
    }
    const tm_feature_t *feature = &p->feature[~bad >> 32];
    return tm_error_set(
        err, TM_E_BAD_EVENT, "column '%s', row %u: the feature made of it is not a finite number",
        tm_gpu_feature_has_column(feature->kind) ? feature->column : "x, y, z", (uint32_t)~bad);
}

tm_status_t tm_gpu_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    const tm_gpu_feature_list_t list = tm_gpu_feature_list(p);
    const tm_column_t *wanted[TM_GPU_PLACE_COLUMNS + TM_FEATURES_MAX];
    uint32_t n_columns = 0;
    float *columns = NULL;
    float *coordinates = NULL;
    float *out = NULL;
    void *staging = NULL;
    uint64_t *scalars = NULL;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(choose(p, &list, event, wanted, &n_columns, err));
    size_t bytes = (size_t)n_columns * n * sizeof(float);
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_COLUMNS, (size_t)n_columns * n, &columns, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_POINTS, COORDINATES * (size_t)n, &coordinates, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_FEATURES, (size_t)n * p->n_features, &out, err));
    TM_TRY(tm_gpu_staging(gpu, bytes, &staging, err));
    const float *c = coordinates;
    tm_points_t made = {.n = n,
                        .r = c,
                        .phi = c + n,
                        .z = c + 2 * (size_t)n,
                        .eta = c + 3 * (size_t)n,
                        .rho = c + 4 * (size_t)n};
    if (n > 0) {
        for (uint32_t k = 0; k < n_columns; k++) {
            tm_column_to_f32(wanted[k], (float *)staging + (size_t)k * n);
        }
        TM_TRY(tm_gpu_check(
            gpu, cudaMemcpyAsync(columns, staging, bytes, cudaMemcpyHostToDevice, gpu->stream),
            "columns", err));
        TM_TRY(tm_gpu_scalars_reset(gpu, &scalars, err));
        make_features<<<tm_gpu_blocks(n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
            list, columns, n, coordinates, out, (unsigned long long *)scalars);
        TM_TRY(tm_gpu_launched(gpu, "features", err));
        TM_TRY(check_finite(gpu, err));
    }
    *points = made;
    *features = out;
    return TM_OK;
}

/* ---- the features of one stage ---- */

static __global__ void select(const float *features, uint32_t n, uint32_t all,
                              tm_feature_list_t list, float *out) {
    uint64_t i = tm_gpu_thread();
    if (i < (uint64_t)n * list.n) {
        out[i] = features[i / list.n * all + list.index[i % list.n]];
    }
}

tm_status_t tm_gpu_select_features(tm_gpu_t *gpu, const tm_feature_list_t *list, uint32_t n,
                                   const float *features, const float **out, tm_error_t *err) {
    uint32_t all = gpu->device.pipeline->n_features;
    bool identity = list->n == all;
    for (uint32_t k = 0; k < list->n && identity; k++) {
        identity = list->index[k] == k;
    }
    *out = features;
    if (identity || n == 0 || list->n == 0) {
        return TM_OK;
    }
    float *selected = NULL;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SELECTED, (size_t)n * list->n, &selected, err));
    select<<<tm_gpu_blocks((uint64_t)n * list->n, TM_GPU_THREADS), TM_GPU_THREADS, 0,
             gpu->stream>>>(features, n, all, *list, selected);
    *out = selected;
    return tm_gpu_launched(gpu, "features of a stage", err);
}
