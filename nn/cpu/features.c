// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <string.h>

#include "nn/cpu/cpu.h"

#define LEAST_R_MM 1e-3

/* Raw coordinates, [n] each, in one buffer. */
typedef struct {
    float *x, *y, *z, *r, *phi, *eta, *rho;
} tm_raw_t;
#define RAW_ARRAYS 7

static void derive(const tm_raw_t *raw, uint32_t n, int threads) {
    /* in double precision: it costs little here and leaves no doubt about the last bits */
#pragma omp parallel for num_threads(threads) schedule(static)
    for (uint32_t i = 0; i < n; i++) {
        double x = raw->x[i];
        double y = raw->y[i];
        double z = raw->z[i];
        double r = sqrt(x * x + y * y);
        raw->r[i] = (float)r;
        raw->phi[i] = (float)atan2(y, x);
        raw->eta[i] = (float)asinh(z / (r > LEAST_R_MM ? r : LEAST_R_MM));
        raw->rho[i] = (float)sqrt(r * r + z * z);
    }
}

/* The raw value of a feature at one point; `column` is the input column where there is one. */
static double raw_value(tm_feature_kind_t kind, const tm_raw_t *raw, const float *column,
                        uint32_t i) {
    switch (kind) {
    case TM_F_X:
        return raw->x[i];
    case TM_F_Y:
        return raw->y[i];
    case TM_F_Z:
        return raw->z[i];
    case TM_F_R:
        return raw->r[i];
    case TM_F_PHI:
        return raw->phi[i];
    case TM_F_ETA:
        return raw->eta[i];
    case TM_F_THETA:
        return atan2(raw->r[i], raw->z[i]);
    case TM_F_RHO:
        return raw->rho[i];
    case TM_F_COS_PHI:
        return raw->r[i] > 0 ? raw->x[i] / raw->r[i] : 1;
    case TM_F_SIN_PHI:
        return raw->r[i] > 0 ? raw->y[i] / raw->r[i] : 0;
    case TM_F_COLUMN:
        return column[i];
    case TM_F_LOG_COLUMN:
        return isnan(column[i]) ? NAN : log1p(column[i] > 0 ? column[i] : 0);
    }
    return NAN;
}

static tm_status_t fill_feature(const tm_cpu_t *cpu, const tm_raw_t *raw, const float *column,
                                uint32_t n, uint32_t k, float *out, tm_error_t *err) {
    const tm_feature_t *feature = &cpu->device.pipeline->feature[k];
    uint32_t stride = cpu->device.pipeline->n_features;
    uint32_t bad = n; /* the first row with a value that is not finite */
#pragma omp parallel for num_threads(cpu->threads) schedule(static) reduction(min : bad)
    for (uint32_t i = 0; i < n; i++) {
        double raw_v = raw_value(feature->kind, raw, column, i);
        float v = (float)(raw_v / (double)feature->scale);
        if (feature->clamp > 0) {
            v = v > feature->clamp ? feature->clamp : v;
            v = v < -feature->clamp ? -feature->clamp : v;
        }
        out[(size_t)i * stride + k] = v;
        if (!isfinite(raw_v) || !isfinite(v)) {
            bad = i < bad ? i : bad;
        }
    }
    if (bad < n) {
        return tm_error_set(err, TM_E_BAD_EVENT,
                            "column '%s', row %u: the feature made of it is not a finite number",
                            column ? feature->column : "x, y, z", bad);
    }
    return TM_OK;
}

tm_status_t tm_cpu_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_pipeline_t *pipeline = device->pipeline;
    tm_cpu_choose_threads(cpu, n);
    tm_status_t status =
        tm_buffer_reserve(&cpu->points, (size_t)n * RAW_ARRAYS, sizeof(float), "coordinates", err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->features, (size_t)n * pipeline->n_features, sizeof(float),
                                   "features", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->column, n, sizeof(float), "a column", err);
    }
    if (status != TM_OK) {
        return status;
    }
    float *base = cpu->points.data;
    tm_raw_t raw = {base,
                    base + n,
                    base + 2 * (size_t)n,
                    base + 3 * (size_t)n,
                    base + 4 * (size_t)n,
                    base + 5 * (size_t)n,
                    base + 6 * (size_t)n};
    const char *names[3] = {"x", "y", "z"};
    float *positions[3] = {raw.x, raw.y, raw.z};
    for (int k = 0; k < 3; k++) {
        const tm_column_t *column = tm_columns_find(event, names[k]);
        if (!column) {
            return tm_error_set(err, TM_E_MISSING_COLUMN, "the event has no column '%s'", names[k]);
        }
        tm_column_to_f32(column, positions[k]);
    }
    derive(&raw, n, cpu->threads);
    for (uint32_t k = 0; k < pipeline->n_features; k++) {
        const tm_feature_t *feature = &pipeline->feature[k];
        const float *values = NULL;
        if (feature->kind == TM_F_COLUMN || feature->kind == TM_F_LOG_COLUMN) {
            const tm_column_t *column = tm_columns_find(event, feature->column);
            if (!column) {
                return tm_error_set(err, TM_E_MISSING_COLUMN,
                                    "the model needs column '%s', which the event lacks",
                                    feature->column);
            }
            tm_column_to_f32(column, cpu->column.data);
            values = cpu->column.data;
        }
        status = fill_feature(cpu, &raw, values, n, k, cpu->features.data, err);
        if (status != TM_OK) {
            return status;
        }
    }
    *points = (tm_points_t){
        .n = n, .r = raw.r, .phi = raw.phi, .z = raw.z, .eta = raw.eta, .rho = raw.rho};
    *features = cpu->features.data;
    return TM_OK;
}
