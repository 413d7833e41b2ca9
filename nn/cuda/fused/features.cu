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

/* What the feature is made of, before its scale. As nn/cuda/features.cu has it: in double precision,
 * which costs little here, of geometry in single precision. */
static __device__ double raw_value(const tm_fused_header_t *header, const char *columns,
                                   tm_feature_kind_t kind, uint32_t column, uint64_t row) {
    if (kind == TM_F_COLUMN) {
        return column_value(header, columns, column, row);
    }
    if (kind == TM_F_LOG_COLUMN) {
        const double value = column_value(header, columns, column, row);
        return isnan(value) ? value : log1p(value > 0 ? value : 0.0);
    }
    const double x = column_value(header, columns, 0, row);
    const double y = column_value(header, columns, 1, row);
    const double z = column_value(header, columns, 2, row);
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
        return (float)asinh(z / (radius > LEAST_R_MM ? radius : LEAST_R_MM));
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

/* A thread per point and feature, one feature per row of blocks; behind the features comes the place. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    make_features(const list_t list, tm_fused_header_t *header, const char *columns, float4 *place,
                  float *rho, float *features) {
    const uint64_t i = tm_gpu_thread();
    const uint32_t k = blockIdx.y;
    if (i >= header->counts.n_points) {
        return;
    }
    if (k == list.n) {
        const float far = (float)raw_value(header, columns, TM_F_RHO, 0, i);
        place[i] = make_float4((float)raw_value(header, columns, TM_F_R, 0, i),
                               (float)raw_value(header, columns, TM_F_PHI, 0, i),
                               (float)raw_value(header, columns, TM_F_Z, 0, i),
                               (float)raw_value(header, columns, TM_F_ETA, 0, i));
        rho[i] = far;
        return;
    }
    const double raw = raw_value(header, columns, list.feature[k].kind, list.feature[k].column, i);
    const float clamp = list.feature[k].clamp;
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
    const dim3 grid(tm_gpu_blocks(plan->capacity.points, TM_GPU_THREADS), list.n + 1);
    make_features<<<grid, TM_GPU_THREADS, 0, c->stream>>>(
        list, plan->header, plan->columns, plan->row_place, plan->row_rho, plan->row_features);
    return cudaGetLastError();
}

/* ---- by node ---- */

#define QUARTER 4
#define QUARTERS (TM_FUSED_FEATURES_MAX / QUARTER)

static __device__ uint32_t pack(float a, float b) {
    return (uint32_t)__half_as_ushort(__float2half_rn(a)) |
           (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16;
}

static __device__ float4 quarter_of(const tm_feature_list_t &list, const float *features,
                                    uint32_t first) {
    float v[QUARTER];
#pragma unroll
    for (uint32_t k = 0; k < QUARTER; k++) {
        v[k] = first + k < list.n ? features[list.index[first + k]] : 0;
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* QUARTERS threads per node */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    gather(const tm_fused_counts_t *counts, const uint32_t *order, const float4 *row_place,
           const float *row_features, uint32_t n_features, const tm_feature_list_t filter,
           const tm_feature_list_t gnn, float4 *node_place, uint2 *filter_x, float4 *gnn_features) {
    const uint64_t at = tm_gpu_thread();
    const uint64_t node = at / QUARTERS;
    const uint32_t quarter = (uint32_t)(at % QUARTERS);
    if (node >= counts->n_points) {
        return;
    }
    const uint64_t row = order[node];
    const float *features = row_features + row * n_features;
    const float4 v = quarter_of(filter, features, quarter * QUARTER);
    const float4 w = quarter_of(gnn, features, quarter * QUARTER);
    const float4 place = row_place[row];
    filter_x[at] = make_uint2(pack(v.x, v.y), pack(v.z, v.w));
    gnn_features[at] = w;
    if (quarter == 0) {
        node_place[node] = place;
    }
}

cudaError_t tm_fused_to_nodes(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    gather<<<tm_gpu_blocks((uint64_t)plan->capacity.points * QUARTERS, TM_GPU_THREADS),
             TM_GPU_THREADS, 0, c->stream>>>(
        &plan->header->counts, plan->order, plan->row_place, plan->row_features,
        c->pipeline->n_features, c->pipeline->filter.features, c->pipeline->gnn.features,
        plan->node_place, (uint2 *)plan->filter_x, (float4 *)plan->gnn_features);
    return cudaGetLastError();
}
