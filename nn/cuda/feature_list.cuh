// SPDX-License-Identifier: Apache-2.0
/* What both paths agree on about the features of points: which uploaded columns they are made of, and
 * their values, as nn/cpu/features.c has them. */
#ifndef TM_NN_CUDA_FEATURE_LIST_CUH
#define TM_NN_CUDA_FEATURE_LIST_CUH

#include <math.h>

#include "nn/cuda/gpu.cuh"

#define TM_GPU_PLACE_COLUMNS 3 /* x, y, z come first */

typedef struct {
    tm_feature_kind_t kind;
    uint32_t column; /* of the uploaded ones, if not made of x, y, z */
    float scale, clamp;
} tm_gpu_feature_t;

typedef struct {
    uint32_t n;
    tm_gpu_feature_t feature[TM_FEATURES_MAX];
} tm_gpu_feature_list_t;

static __host__ __device__ inline bool tm_gpu_feature_has_column(tm_feature_kind_t kind) {
    return kind == TM_F_COLUMN || kind == TM_F_LOG_COLUMN;
}

/* The model's features; each that is made of a column has one of its own, behind x, y, z in order. */
static inline tm_gpu_feature_list_t tm_gpu_feature_list(const tm_pipeline_t *p) {
    tm_gpu_feature_list_t list = {};
    uint32_t column = TM_GPU_PLACE_COLUMNS;
    list.n = p->n_features;
    for (uint32_t k = 0; k < list.n; k++) {
        const tm_feature_t *f = &p->feature[k];
        list.feature[k].kind = f->kind;
        list.feature[k].column = tm_gpu_feature_has_column(f->kind) ? column++ : 0;
        list.feature[k].scale = f->scale;
        list.feature[k].clamp = f->clamp;
    }
    return list;
}

/* The raw value of a feature that has a column. */
static __device__ inline double tm_gpu_feature_of_column(tm_feature_kind_t kind, double value) {
    return kind == TM_F_COLUMN || isnan(value) ? value : log1p(value > 0 ? value : 0.0);
}

/* The raw value of any other, in mm and radians. In double precision, of geometry in single precision:
 * it costs little here and leaves no doubt about the last bits. */
static __device__ inline double tm_gpu_feature_of_place(tm_feature_kind_t kind, double x, double y,
                                                        double z) {
    const double least_r = 1e-3;
    const double radius = sqrt(x * x + y * y);
    const float r = (float)radius;
    switch (kind) {
    case TM_F_X:
        return x;
    case TM_F_Y:
        return y;
    case TM_F_Z:
        return z;
    case TM_F_R:
        return r;
    case TM_F_PHI:
        return (float)atan2(y, x);
    case TM_F_ETA:
        return (float)asinh(z / (radius > least_r ? radius : least_r));
    case TM_F_THETA:
        return atan2((double)r, z);
    case TM_F_RHO:
        return (float)sqrt(radius * radius + z * z);
    case TM_F_COS_PHI:
        return r > 0 ? x / r : 1;
    case TM_F_SIN_PHI:
        return r > 0 ? y / r : 0;
    default:
        return NAN;
    }
}

/* The feature of a raw value, and whether it is a finite number, as the raw value must be too. */
static __device__ inline float tm_gpu_feature_scaled(const tm_gpu_feature_t &f, double raw,
                                                     bool *finite) {
    float v = (float)(raw / (double)f.scale);
    if (f.clamp > 0) {
        v = v > f.clamp ? f.clamp : v;
        v = v < -f.clamp ? -f.clamp : v;
    }
    *finite = isfinite(raw) && isfinite(v);
    return v;
}

#endif
