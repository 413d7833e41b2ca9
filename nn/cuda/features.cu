// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/cuda/gpu.cuh"

#define LEAST_R_MM 1e-3
#define COORDINATES 5 /* r, phi, z, eta, rho */

/* The model's features, and which of the uploaded columns each is made of. */
typedef struct {
    uint32_t n;
    struct {
        tm_feature_kind_t kind;
        uint32_t column;
        float scale, clamp;
    } feature[TM_FEATURES_MAX];
} list_t;

/* columns: x, y, z and those that features ask for, [n] each */
static __global__ void derive(const float *columns, uint32_t n, float *points) {
    uint64_t i = tm_gpu_thread();
    if (i >= n) {
        return;
    }
    /* in double precision: it costs little here and leaves no doubt about the last bits */
    double x = columns[i];
    double y = columns[n + i];
    double z = columns[2 * (uint64_t)n + i];
    double r = sqrt(x * x + y * y);
    points[i] = (float)r;
    points[n + i] = (float)atan2(y, x);
    points[2 * (uint64_t)n + i] = (float)z;
    points[3 * (uint64_t)n + i] = (float)asinh(z / (r > LEAST_R_MM ? r : LEAST_R_MM));
    points[4 * (uint64_t)n + i] = (float)sqrt(r * r + z * z);
}

static __device__ double raw_value(tm_feature_kind_t kind, const float *columns, uint32_t column,
                                   const tm_points_t *p, uint64_t i) {
    uint64_t n = p->n;
    double value = columns[column * n + i];
    switch (kind) {
    case TM_F_X:
        return columns[i];
    case TM_F_Y:
        return columns[n + i];
    case TM_F_Z:
        return p->z[i];
    case TM_F_R:
        return p->r[i];
    case TM_F_PHI:
        return p->phi[i];
    case TM_F_ETA:
        return p->eta[i];
    case TM_F_THETA:
        return atan2((double)p->r[i], (double)p->z[i]);
    case TM_F_RHO:
        return p->rho[i];
    case TM_F_COS_PHI:
        return p->r[i] > 0 ? columns[i] / p->r[i] : 1;
    case TM_F_SIN_PHI:
        return p->r[i] > 0 ? columns[n + i] / p->r[i] : 0;
    case TM_F_COLUMN:
        return value;
    case TM_F_LOG_COLUMN:
        return isnan(value) ? value : log1p(value > 0 ? value : 0.0);
    }
    return NAN;
}

/* *bad: the complement of (feature << 32 | row) of the first value that is not finite; 0: none */
static __global__ void fill(const list_t list, const float *columns, tm_points_t points,
                            float *features, unsigned long long *bad) {
    uint64_t i = tm_gpu_thread();
    if (i >= points.n) {
        return;
    }
    for (uint32_t k = 0; k < list.n; k++) {
        double raw = raw_value(list.feature[k].kind, columns, list.feature[k].column, &points, i);
        float clamp = list.feature[k].clamp;
        float v = (float)(raw / (double)list.feature[k].scale);
        if (clamp > 0) {
            v = v > clamp ? clamp : v;
            v = v < -clamp ? -clamp : v;
        }
        features[i * list.n + k] = v;
        if (!isfinite(raw) || !isfinite(v)) {
            atomicMax(bad, ~((unsigned long long)k << 32 | i));
        }
    }
}

/* Finds every column that is wanted. *n_columns: their number. */
static tm_status_t choose(const tm_pipeline_t *p, const tm_columns_t *event,
                          const tm_column_t **columns, uint32_t *n_columns, list_t *list,
                          tm_error_t *err) {
    static const char *const names[3] = {"x", "y", "z"};
    uint32_t count = 0;
    for (; count < 3; count++) {
        columns[count] = tm_columns_find(event, names[count]);
        if (!columns[count]) {
            return tm_error_set(err, TM_E_MISSING_COLUMN, "the event has no column '%s'",
                                names[count]);
        }
    }
    list->n = p->n_features;
    for (uint32_t k = 0; k < p->n_features; k++) {
        const tm_feature_t *feature = &p->feature[k];
        list->feature[k].kind = feature->kind;
        list->feature[k].column = 0;
        list->feature[k].scale = feature->scale;
        list->feature[k].clamp = feature->clamp;
        if (feature->kind == TM_F_COLUMN || feature->kind == TM_F_LOG_COLUMN) {
            list->feature[k].column = count;
            columns[count] = tm_columns_find(event, feature->column);
            if (!columns[count++]) {
                return tm_error_set(err, TM_E_MISSING_COLUMN,
                                    "the model needs column '%s', which the event lacks",
                                    feature->column);
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
    bool column = feature->kind == TM_F_COLUMN || feature->kind == TM_F_LOG_COLUMN;
    return tm_error_set(err, TM_E_BAD_EVENT,
                        "column '%s', row %u: the feature made of it is not a finite number",
                        column ? feature->column : "x, y, z", (uint32_t)~bad);
}

tm_status_t tm_gpu_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    const tm_column_t *wanted[3 + TM_FEATURES_MAX];
    uint32_t n_columns = 0;
    list_t list = {};
    float *columns = NULL;
    float *coordinates = NULL;
    float *out = NULL;
    void *staging = NULL;
    uint64_t *scalars = NULL;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(choose(p, event, wanted, &n_columns, &list, err));
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
        unsigned blocks = tm_gpu_blocks(n, TM_GPU_THREADS);
        derive<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(columns, n, coordinates);
        TM_TRY(tm_gpu_launched(gpu, "coordinates", err));
        fill<<<blocks, TM_GPU_THREADS, 0, gpu->stream>>>(list, columns, made, out,
                                                         (unsigned long long *)scalars);
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
