// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/cuda/fused/stages.cuh"

#define LEAST_R_MM 1e-3

/* The model's features, and which of the uploaded columns each is made of. */
typedef struct {
    uint32_t n;
    struct {
        tm_feature_kind_t kind;
        uint32_t column;
        float scale, clamp;
    } feature[TM_FEATURES_MAX];
} list_t;

static __device__ float column_value(const tm_fused_header_t *header, const char *columns,
                                     uint32_t column, uint64_t row) {
    const char *from = columns + header->column[column].offset;
    switch (header->column[column].type) {
    case TM_U8:
        return ((const uint8_t *)from)[row];
    case TM_I8:
        return ((const int8_t *)from)[row];
    case TM_U16:
        return ((const uint16_t *)from)[row];
    case TM_I16:
        return ((const int16_t *)from)[row];
    case TM_F16:
        return __half2float(((const __half *)from)[row]);
    default:
        return ((const float *)from)[row];
    }
}

/* As nn/cuda/features.cu has it: in double precision, which costs little here. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    make_features(const list_t list, tm_fused_header_t *header, const char *columns, float4 *place,
                  float *rho_of, float *features) {
    uint64_t i = tm_gpu_thread();
    if (i >= header->counts.n_points) {
        return;
    }
    double x = column_value(header, columns, 0, i);
    double y = column_value(header, columns, 1, i);
    double z = column_value(header, columns, 2, i);
    double radius = sqrt(x * x + y * y);
    float r = (float)radius;
    float phi = (float)atan2(y, x);
    float eta = (float)asinh(z / (radius > LEAST_R_MM ? radius : LEAST_R_MM));
    float rho = (float)sqrt(radius * radius + z * z);
    place[i] = make_float4(r, phi, (float)z, eta);
    rho_of[i] = rho;
    for (uint32_t k = 0; k < list.n; k++) {
        double raw = NAN;
        double value = 0;
        switch (list.feature[k].kind) {
        case TM_F_X:
            raw = x;
            break;
        case TM_F_Y:
            raw = y;
            break;
        case TM_F_Z:
            raw = z;
            break;
        case TM_F_R:
            raw = r;
            break;
        case TM_F_PHI:
            raw = phi;
            break;
        case TM_F_ETA:
            raw = eta;
            break;
        case TM_F_THETA:
            raw = atan2((double)r, z);
            break;
        case TM_F_RHO:
            raw = rho;
            break;
        case TM_F_COS_PHI:
            raw = r > 0 ? x / r : 1;
            break;
        case TM_F_SIN_PHI:
            raw = r > 0 ? y / r : 0;
            break;
        case TM_F_COLUMN:
            raw = column_value(header, columns, list.feature[k].column, i);
            break;
        case TM_F_LOG_COLUMN:
            value = column_value(header, columns, list.feature[k].column, i);
            raw = isnan(value) ? value : log1p(value > 0 ? value : 0.0);
            break;
        }
        float clamp = list.feature[k].clamp;
        float v = (float)(raw / (double)list.feature[k].scale);
        if (clamp > 0) {
            v = v > clamp ? clamp : v;
            v = v < -clamp ? -clamp : v;
        }
        features[i * list.n + k] = v;
        if (!isfinite(raw) || !isfinite(v)) {
            atomicMax(&header->counts.bad_feature, ~(k << TM_FUSED_ROW_BITS | (uint32_t)i));
        }
    }
}

cudaError_t tm_fused_features(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    list_t list = {};
    uint32_t column = 3;
    list.n = c->pipeline->n_features;
    for (uint32_t k = 0; k < list.n; k++) {
        const tm_feature_t *f = &c->pipeline->feature[k];
        bool wants = f->kind == TM_F_COLUMN || f->kind == TM_F_LOG_COLUMN;
        list.feature[k].kind = f->kind;
        list.feature[k].column = wants ? column++ : 0;
        list.feature[k].scale = f->scale;
        list.feature[k].clamp = f->clamp;
    }
    make_features<<<tm_gpu_blocks(plan->capacity.points, TM_GPU_THREADS), TM_GPU_THREADS, 0,
                    c->stream>>>(list, plan->header, plan->columns, plan->row_place, plan->row_rho,
                                 plan->row_features);
    return cudaGetLastError();
}

/* ---- by node ---- */

static __global__ void __launch_bounds__(TM_GPU_THREADS)
    gather(const tm_fused_counts_t *counts, const uint32_t *order, const float4 *row_place,
           const float *row_features, uint32_t n_features, const tm_feature_list_t filter,
           const tm_feature_list_t gnn, float4 *node_place, __half *filter_x, float *gnn_features) {
    uint64_t node = tm_gpu_thread();
    if (node >= counts->n_points) {
        return;
    }
    uint64_t row = order[node];
    node_place[node] = row_place[row];
    for (uint32_t k = 0; k < TM_FUSED_FEATURES_MAX; k++) {
        filter_x[node * TM_FUSED_FEATURES_MAX + k] =
            __float2half_rn(k < filter.n ? row_features[row * n_features + filter.index[k]] : 0);
    }
    for (uint32_t k = 0; k < TM_FUSED_FEATURES_MAX; k++) {
        gnn_features[node * TM_FUSED_FEATURES_MAX + k] =
            k < gnn.n ? row_features[row * n_features + gnn.index[k]] : 0;
    }
}

cudaError_t tm_fused_to_nodes(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    gather<<<tm_gpu_blocks(plan->capacity.points, TM_GPU_THREADS), TM_GPU_THREADS, 0, c->stream>>>(
        &plan->header->counts, plan->order, plan->row_place, plan->row_features,
        c->pipeline->n_features, c->pipeline->filter.features, c->pipeline->gnn.features,
        plan->node_place, plan->filter_x, plan->gnn_features);
    return cudaGetLastError();
}
