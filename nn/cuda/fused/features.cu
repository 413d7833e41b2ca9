// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/feature_list.cuh"
#include "nn/cuda/fused/stages.cuh"

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

/* A thread per point and feature, one feature per row of blocks; behind the features comes the place. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    make_features(const tm_gpu_feature_list_t list, tm_fused_header_t *header, const char *columns,
                  float4 *place, float *rho, float *features) {
    const uint64_t i = tm_gpu_thread();
    const uint32_t k = blockIdx.y;
    if (i >= header->counts.n_points) {
        return;
    }
    double raw;
    if (k < list.n && tm_gpu_feature_has_column(list.feature[k].kind)) {
        const tm_gpu_feature_t &f = list.feature[k];
        raw = tm_gpu_feature_of_column(f.kind, column_value(header, columns, f.column, i));
    } else {
        const double x = column_value(header, columns, 0, i);
        const double y = column_value(header, columns, 1, i);
        const double z = column_value(header, columns, 2, i);
        if (k == list.n) {
            place[i] = make_float4((float)tm_gpu_feature_of_place(TM_F_R, x, y, z),
                                   (float)tm_gpu_feature_of_place(TM_F_PHI, x, y, z), (float)z,
                                   (float)tm_gpu_feature_of_place(TM_F_ETA, x, y, z));
            rho[i] = (float)tm_gpu_feature_of_place(TM_F_RHO, x, y, z);
            return;
        }
        raw = tm_gpu_feature_of_place(list.feature[k].kind, x, y, z);
    }
    bool finite;
    features[i * list.n + k] = tm_gpu_feature_scaled(list.feature[k], raw, &finite);
    if (!finite) {
        atomicMax(&header->counts.bad_feature, ~(k << TM_FUSED_ROW_BITS | (uint32_t)i));
    }
}

cudaError_t tm_fused_features(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    const tm_gpu_feature_list_t list = tm_gpu_feature_list(c->pipeline);
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
