// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/cpu/mlp.h"

/* Edges whose logits are held at a time. */
#define CHUNK_EDGES (1u << 18)

static void make_parts(const tm_cpu_t *cpu, const tm_points_t *points, const float *x,
                       uint32_t width, const tm_edges_t *edges, tm_part_t *parts) {
    const tm_inputs_t *inputs = &cpu->device.pipeline->filter.inputs;
    for (uint32_t k = 0; k < inputs->n; k++) {
        bool source = inputs->part[k] == TM_IN_X_SRC;
        if (inputs->part[k] == TM_IN_EDGE_FEATURES) {
            parts[k] = (tm_part_t){.kind = TM_PART_EDGE_FEATURES,
                                   .width = cpu->device.pipeline->n_edge_features,
                                   .points = points,
                                   .src = edges->src,
                                   .dst = edges->dst};
        } else {
            parts[k] = (tm_part_t){.kind = TM_PART_INDEXED,
                                   .width = width,
                                   .data = x,
                                   .data_rows = points->n,
                                   .index = source ? edges->src : edges->dst};
        }
    }
}

tm_status_t tm_cpu_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_pipeline_t *pipeline = device->pipeline;
    const tm_feature_list_t *list = &pipeline->filter.features;
    uint32_t n_kept = 0;
    const float *x = NULL;
    uint32_t chunk_max = edges->n < CHUNK_EDGES ? edges->n : CHUNK_EDGES;
    tm_status_t status = tm_cpu_select_features(cpu, list, points->n, features, &x, err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->chunk_logits, chunk_max, sizeof(float), "logits", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->kept_src, edges->n, sizeof(uint32_t), "edges", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->kept_dst, edges->n, sizeof(uint32_t), "edges", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->kept_logits, edges->n, sizeof(float), "logits", err);
    }
    if (status != TM_OK) {
        return status;
    }
    /* sigmoid(logit) > cut, without a sigmoid per edge */
    double cut = pipeline->filter.cut;
    double least = cut <= 0 ? -INFINITY : cut >= 1 ? INFINITY : log(cut / (1 - cut));
    float *chunk_logits = cpu->chunk_logits.data;
    uint32_t *kept_src = cpu->kept_src.data;
    uint32_t *kept_dst = cpu->kept_dst.data;
    float *kept_logits = cpu->kept_logits.data;
    for (uint32_t start = 0; start < edges->n; start += CHUNK_EDGES) {
        uint32_t left = edges->n - start;
        tm_edges_t chunk = {.n = left < CHUNK_EDGES ? left : CHUNK_EDGES,
                            .src = edges->src + start,
                            .dst = edges->dst + start};
        tm_part_t parts[TM_INPUTS_MAX];
        make_parts(cpu, points, x, list->n, &chunk, parts);
        status = tm_cpu_mlp(cpu, &pipeline->filter.mlp, parts, pipeline->filter.inputs.n, chunk.n,
                            NULL, chunk_logits, err);
        if (status != TM_OK) {
            return status;
        }
        for (uint32_t i = 0; i < chunk.n; i++) {
            if ((double)chunk_logits[i] > least) {
                kept_src[n_kept] = chunk.src[i];
                kept_dst[n_kept] = chunk.dst[i];
                kept_logits[n_kept] = chunk_logits[i];
                n_kept++;
            }
        }
    }
    *kept = (tm_edges_t){.n = n_kept, .src = kept_src, .dst = kept_dst};
    *logits = kept_logits;
    return TM_OK;
}
