// SPDX-License-Identifier: Apache-2.0
/* Edge features as operands of the first layer. */
#ifndef TM_NN_CUDA_FUSED_EDGES_CUH
#define TM_NN_CUDA_FUSED_EDGES_CUH

#include "nn/cuda/fused/stages.cuh"

/* One feature of a → b, by the formulas of docs/model-file.md, from (r, phi, z, eta) of both. */
static __device__ inline float tm_fused_edge_feature(tm_edge_feature_kind_t kind, float4 a,
                                                     float4 b) {
    float dr = b.x - a.x;
    float dphi = tm_gpu_wrap(b.y - a.y);
    float dz = b.z - a.z;
    float s = tm_gpu_guarded(dr);
    switch (kind) {
    case TM_EF_DR:
        return dr;
    case TM_EF_DPHI:
        return dphi;
    case TM_EF_DZ:
        return dz;
    case TM_EF_DETA:
        return b.w - a.w;
    case TM_EF_Z0:
        return a.z - a.x * __fdividef(dz, s);
    case TM_EF_CURVATURE:
        return __fdividef(dphi, s);
    case TM_EF_PHI_SLOPE:
        return dr == 0 ? 0 : __fdividef(dphi, dr);
    case TM_EF_RPHI_SLOPE:
        return dr == 0 ? 0 : __fdividef(dphi, dr) * (a.x + b.x) * 0.5f;
    }
    return NAN;
}

/* The features of an edge, as two rows of 16 halves: high[k] + low[k] is the value. */
static __device__ inline void tm_fused_edge_features(const tm_gpu_edge_features_t &list, float4 a,
                                                     float4 b, __half *high, __half *low) {
#pragma unroll
    for (int k = 0; k < TM_FUSED_FEATURES_MAX; k++) {
        float v = 0;
        if (k < (int)list.n) {
            v = tm_fused_edge_feature(list.feature[k].kind, a, b) * (1 / list.feature[k].scale);
            float clamp = list.feature[k].clamp;
            if (clamp > 0) {
                v = fminf(fmaxf(v, -clamp), clamp);
            }
        }
        high[k] = __float2half_rn(v);
        if (low) {
            low[k] = __float2half_rn(v - __half2float(high[k]));
        }
    }
}

#endif
