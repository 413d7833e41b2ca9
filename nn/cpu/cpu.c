// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/cpu.h"

#include <cblas.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_LINE 64
#define POINTS_PER_THREAD 500

tm_status_t tm_cpu_check_cancelled(const tm_cpu_t *cpu, tm_error_t *err) {
    return tm_cpu_cancelled(cpu) ? tm_error_set(err, TM_E_CANCELLED, "cancelled") : TM_OK;
}

void tm_cpu_choose_threads(tm_cpu_t *cpu, uint32_t n) {
    uint32_t worth = n / POINTS_PER_THREAD + 1;
    cpu->threads = worth < (uint32_t)cpu->threads_max ? (int)worth : cpu->threads_max;
}

tm_status_t tm_cpu_scratch_reserve(tm_cpu_t *cpu, size_t bytes, tm_error_t *err) {
    size_t each = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    if (each <= cpu->scratch_bytes) {
        return TM_OK;
    }
    tm_status_t status =
        tm_buffer_reserve(&cpu->scratch, (size_t)cpu->threads_max, each, "working memory", err);
    cpu->scratch_bytes = status == TM_OK ? each : 0;
    return status;
}

void *tm_cpu_scratch(const tm_cpu_t *cpu) {
    return (char *)cpu->scratch.data + (size_t)omp_get_thread_num() * cpu->scratch_bytes;
}

tm_status_t tm_cpu_select_features(tm_cpu_t *cpu, const tm_feature_list_t *list, uint32_t n,
                                   const float *features, const float **out, tm_error_t *err) {
    uint32_t all = cpu->device.pipeline->n_features;
    bool identity = list->n == all;
    for (uint32_t k = 0; k < list->n && identity; k++) {
        identity = list->index[k] == k;
    }
    if (identity) {
        *out = features;
        return TM_OK;
    }
    tm_status_t status = tm_buffer_reserve(&cpu->selected, (size_t)n * list->n, sizeof(float),
                                           "features of a stage", err);
    if (status != TM_OK) {
        return status;
    }
    float *selected = cpu->selected.data;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < list->n; k++) {
            selected[i * list->n + k] = features[i * all + list->index[k]];
        }
    }
    *out = selected;
    return TM_OK;
}

static void cpu_close(tm_device_t **p) {
    if (!*p) {
        return;
    }
    tm_cpu_t *cpu = (tm_cpu_t *)*p;
    tm_buffer_t *buffers[] = {
        &cpu->scratch,  &cpu->table_a,     &cpu->table_b,     &cpu->points,       &cpu->features,
        &cpu->column,   &cpu->selected,    &cpu->embedding,   &cpu->src,          &cpu->dst,
        &cpu->kept_src, &cpu->kept_dst,    &cpu->kept_logits, &cpu->chunk_logits, &cpu->x,
        &cpu->x_next,   &cpu->x0,          &cpu->e,           &cpu->e0,           &cpu->m,
        &cpu->weights,  &cpu->src_offsets, &cpu->dst_offsets, &cpu->by_dst,       &cpu->logits,
        &cpu->order,    &cpu->used,        &cpu->link_src,    &cpu->link_dst,     &cpu->link_logits,
    };
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        tm_buffer_free(buffers[i]);
    }
    tm_radius_destroy(&cpu->radius);
    tm_post_destroy(&cpu->post);
    free(cpu);
    *p = NULL;
}

static tm_status_t cpu_open(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                            tm_error_t *err) {
    if (threads < 0) {
        return tm_error_set(err, TM_E_ARGUMENT, "%d threads asked of the engine", threads);
    }
    tm_cpu_t *cpu = calloc(1, sizeof *cpu);
    if (!cpu) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    cpu->device.stages = &tm_stages_cpu;
    cpu->device.pipeline = pipeline;
    cpu->kernels = tm_cpu_kernels();
    cpu->threads_max = threads > 0 ? threads : omp_get_max_threads();
    cpu->threads = cpu->threads_max;
    cpu->radius = tm_radius_new(cpu->threads_max);
    cpu->post = tm_post_new();
    if (!cpu->radius || !cpu->post) {
        tm_radius_destroy(&cpu->radius);
        tm_post_destroy(&cpu->post);
        free(cpu);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    /* Blocks are spread over our own threads; BLAS must not start more under each of them. The
     * setting is the whole process's, as this library offers no other in Debian 12. */
    openblas_set_num_threads(1);
    *out = &cpu->device;
    return TM_OK;
}

const tm_stages_t tm_stages_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .features = tm_cpu_features,
    .embed = tm_cpu_embed,
    .radius = tm_cpu_radius,
    .filter = tm_cpu_filter,
    .gnn = tm_cpu_gnn,
    .tracks = tm_cpu_tracks,
};
