// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/ref/ref.h"

static double raw_value(const tm_feature_t *feature, const tm_columns_t *event, uint32_t row) {
    double x = tm_column_get(tm_columns_find(event, "x"), row);
    double y = tm_column_get(tm_columns_find(event, "y"), row);
    double z = tm_column_get(tm_columns_find(event, "z"), row);
    double r = sqrt(x * x + y * y);
    switch (feature->kind) {
    case TM_F_X:
        return x;
    case TM_F_Y:
        return y;
    case TM_F_Z:
        return z;
    case TM_F_R:
        return r;
    case TM_F_PHI:
        return atan2(y, x);
    case TM_F_ETA:
        return asinh(z / fmax(r, 1e-3));
    case TM_F_THETA:
        return atan2(r, z);
    case TM_F_RHO:
        return sqrt(r * r + z * z);
    case TM_F_COS_PHI:
        return r > 0 ? x / r : 1;
    case TM_F_SIN_PHI:
        return r > 0 ? y / r : 0;
    case TM_F_COLUMN:
        return tm_column_get(tm_columns_find(event, feature->column), row);
    case TM_F_LOG_COLUMN:
        return log(1 + fmax(tm_column_get(tm_columns_find(event, feature->column), row), 0));
    }
    return NAN;
}

tm_status_t tm_ref_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err) {
    tm_ref_t *ref = (tm_ref_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    for (uint32_t k = 0; k < p->n_features; k++) {
        const tm_feature_t *f = &p->feature[k];
        bool column = f->kind == TM_F_COLUMN || f->kind == TM_F_LOG_COLUMN;
        if (column && !tm_columns_find(event, f->column)) {
            return tm_error_set(err, TM_E_MISSING_COLUMN, "the event has no column '%s'",
                                f->column);
        }
    }
    const tm_feature_kind_t kinds[] = {TM_F_R, TM_F_PHI, TM_F_Z, TM_F_ETA, TM_F_RHO};
    tm_status_t status = tm_ref_renew(&ref->coordinates, 5 * (size_t)n, sizeof(float), err);
    if (status == TM_OK) {
        status = tm_ref_renew(&ref->features, (size_t)n * p->n_features, sizeof(float), err);
    }
    if (status != TM_OK) {
        return status;
    }
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t c = 0; c < 5; c++) {
            const tm_feature_t raw = {.kind = kinds[c]};
            ref->coordinates[(size_t)c * n + i] = (float)raw_value(&raw, event, i);
        }
        for (uint32_t k = 0; k < p->n_features; k++) {
            const tm_feature_t *f = &p->feature[k];
            double value = raw_value(f, event, i) / (double)f->scale;
            if (f->clamp > 0) {
                value = fmin(fmax(value, -(double)f->clamp), (double)f->clamp);
            }
            if (!isfinite(value)) {
                return tm_error_set(err, TM_E_BAD_EVENT, "feature %u of row %u is not finite", k,
                                    i);
            }
            ref->features[(size_t)i * p->n_features + k] = (float)value;
        }
    }
    const float *c = ref->coordinates;
    *points = (tm_points_t){.n = n,
                            .r = c,
                            .phi = c + n,
                            .z = c + 2 * (size_t)n,
                            .eta = c + 3 * (size_t)n,
                            .rho = c + 4 * (size_t)n};
    *features = ref->features;
    return TM_OK;
}

tm_status_t tm_ref_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err) {
    tm_ref_t *ref = (tm_ref_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    uint32_t dim = p->embed.mlp.out;
    tm_status_t status = tm_ref_renew(&ref->embedding, (size_t)n * dim, sizeof(float), err);
    for (uint32_t i = 0; i < n && status == TM_OK; i++) {
        double in[TM_FEATURES_MAX];
        double out[TM_EMBED_DIM_MAX];
        for (uint32_t k = 0; k < p->embed.features.n; k++) {
            in[k] = (double)features[(size_t)i * p->n_features + p->embed.features.index[k]];
        }
        status = tm_ref_mlp(&p->embed.mlp, in, out, err);
        double squares = 0;
        for (uint32_t d = 0; d < dim && status == TM_OK; d++) {
            squares += out[d] * out[d];
        }
        double norm = p->embed.normalize ? fmax(sqrt(squares), 1e-12) : 1;
        for (uint32_t d = 0; d < dim && status == TM_OK; d++) {
            ref->embedding[(size_t)i * dim + d] = (float)(out[d] / norm);
        }
        if (status == TM_OK && !isfinite(squares)) {
            status = tm_error_set(err, TM_E_BAD_EVENT, "the embedding of row %u is not finite", i);
        }
    }
    *embedding = ref->embedding;
    return status;
}
