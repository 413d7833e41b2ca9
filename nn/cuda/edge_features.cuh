// SPDX-License-Identifier: Apache-2.0
/* Edge features and geometry, by the formulas of docs/model-file.md, in fp32. */
#ifndef TM_NN_CUDA_EDGE_FEATURES_CUH
#define TM_NN_CUDA_EDGE_FEATURES_CUH

#include "nn/cuda/gpu.cuh"

#define TM_GPU_PI 3.14159265358979f
#define TM_GPU_LEAST_DR_MM 2.0f

typedef struct {
    uint32_t n;
    tm_edge_feature_t feature[TM_EDGE_FEATURES_MAX];
} tm_gpu_edge_features_t;

static inline void tm_gpu_edge_features_of(const tm_pipeline_t *pipeline,
                                           tm_gpu_edge_features_t *list) {
    list->n = pipeline->n_edge_features;
    for (uint32_t k = 0; k < list->n; k++) {
        list->feature[k] = pipeline->edge_feature[k];
    }
}

/* A difference of two angles in (−π, π], in that range too. */
static __device__ inline float tm_gpu_wrap(float dphi) {
    dphi = dphi > TM_GPU_PI ? dphi - 2 * TM_GPU_PI : dphi;
    return dphi <= -TM_GPU_PI ? dphi + 2 * TM_GPU_PI : dphi;
}

static __device__ inline float tm_gpu_dphi(const tm_points_t *points, uint32_t a, uint32_t b) {
    return tm_gpu_wrap(points->phi[b] - points->phi[a]);
}

/* What is divided by: dr, kept away from 0. */
static __device__ inline float tm_gpu_guarded(float dr) {
    float s = fabsf(dr) < TM_GPU_LEAST_DR_MM ? TM_GPU_LEAST_DR_MM : fabsf(dr);
    return dr < 0 ? -s : s;
}

static __device__ inline float tm_gpu_edge_feature(tm_edge_feature_kind_t kind,
                                                   const tm_points_t *points, uint32_t a,
                                                   uint32_t b) {
    float ra = points->r[a];
    float rb = points->r[b];
    float dr = rb - ra;
    float dz = points->z[b] - points->z[a];
    float s = tm_gpu_guarded(dr);
    switch (kind) {
    case TM_EF_DR:
        return dr;
    case TM_EF_DPHI:
        return tm_gpu_dphi(points, a, b);
    case TM_EF_DZ:
        return dz;
    case TM_EF_DETA:
        return points->eta[b] - points->eta[a];
    case TM_EF_Z0:
        return points->z[a] - ra * dz / s;
    case TM_EF_CURVATURE:
        return tm_gpu_dphi(points, a, b) / s;
    case TM_EF_PHI_SLOPE:
        return dr == 0 ? 0 : tm_gpu_dphi(points, a, b) / dr;
    case TM_EF_RPHI_SLOPE:
        return dr == 0 ? 0 : tm_gpu_dphi(points, a, b) / dr * (ra + rb) * 0.5f;
    }
    return NAN;
}

/* Features of a → b into out [list->n]. */
static __device__ inline void tm_gpu_edge_features(const tm_gpu_edge_features_t *list,
                                                   const tm_points_t *points, uint32_t a,
                                                   uint32_t b, float *out) {
    for (uint32_t k = 0; k < list->n; k++) {
        const tm_edge_feature_t f = list->feature[k];
        float v = tm_gpu_edge_feature(f.kind, points, a, b) / f.scale;
        if (f.clamp > 0) {
            v = v > f.clamp ? f.clamp : v;
            v = v < -f.clamp ? -f.clamp : v;
        }
        out[k] = v;
    }
}

#endif
