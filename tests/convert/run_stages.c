// SPDX-License-Identifier: Apache-2.0
/*
 * Runs the networks of a model on a given event and given edges; for test_torch_model.py.
 *
 *   run_stages MODEL FOLDER
 *
 * FOLDER has x.npy, y.npy, z.npy and a file for each further column of the model (f4 [n]), and
 * edges.npy (i8 [2, E], by source, then target). For the CPU and the reference it gets
 * embedding.<cpu|ref>, filter.<…> and gnn.<…>: raw float32 of [n, dim] and [E]. The filter must keep
 * every edge: its cut has to be 0.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/stages.h"
#include "tests/golden/npy.h"

#define PATH_MAX_BYTES 1024

static void die(const char *what) {
    fprintf(stderr, "run_stages: %s\n", what);
    exit(EXIT_FAILURE);
}

static void check(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        die(err->text);
    }
}

static tm_npy_t load(const char *folder, const char *name) {
    char path[PATH_MAX_BYTES];
    tm_npy_t npy;
    snprintf(path, sizeof path, "%s/%s.npy", folder, name);
    if (!tm_npy_read(path, &npy)) {
        die(path);
    }
    return npy;
}

static void add_column(tm_columns_t *columns, const char *folder, const char *name) {
    tm_npy_t npy = load(folder, name);
    tm_error_t err = {0};
    float *values = malloc((npy.size + 1) * sizeof *values);
    if (!values) {
        die("no memory");
    }
    for (size_t i = 0; i < npy.size; i++) {
        values[i] = (float)npy.values[i];
    }
    check(tm_columns_add(columns, name, TM_F32, npy.size, values, &err), &err);
    tm_npy_free(&npy);
}

static void save(const char *folder, const char *what, const char *stages, const float *values,
                 size_t n) {
    char path[PATH_MAX_BYTES];
    snprintf(path, sizeof path, "%s/%s.%s", folder, what, stages);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(values, sizeof *values, n, f) != n || fclose(f) != 0) {
        die(path);
    }
}

static void run(const tm_stages_t *stages, const tm_pipeline_t *p, const tm_columns_t *event,
                const tm_edges_t *edges, const char *folder) {
    tm_error_t err = {0};
    tm_device_t *device = NULL;
    tm_points_t points;
    const float *features, *embedding, *logits;
    uint32_t n = 0;
    check(stages->open(p, 2, &device, &err), &err);
    check(tm_event_check(event, &n, &err), &err);
    check(stages->features(device, event, n, &points, &features, &err), &err);
    check(stages->embed(device, n, features, &embedding, &err), &err);
    save(folder, "embedding", stages->name, embedding, (size_t)n * p->embed.mlp.out);
    if (p->filter.present) {
        tm_edges_t kept;
        check(stages->filter(device, &points, features, edges, &kept, &logits, &err), &err);
        if (kept.n != edges->n) {
            die("the filter dropped edges");
        }
        save(folder, "filter", stages->name, logits, kept.n);
    }
    if (p->gnn.kind != TM_GNN_NONE) {
        check(stages->gnn(device, &points, features, edges, &logits, &err), &err);
        save(folder, "gnn", stages->name, logits, edges->n);
    }
    stages->close(&device);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        die("usage: run_stages MODEL FOLDER");
    }
    tm_error_t err = {0};
    tm_model_t *model = NULL;
    check(tm_model_load(argv[1], &model, &err), &err);
    const tm_model_info_t *info = tm_model_info(model);
    tm_columns_t event = {.count = 0};
    add_column(&event, argv[2], "x");
    add_column(&event, argv[2], "y");
    add_column(&event, argv[2], "z");
    for (uint32_t i = 0; i < info->n_columns; i++) {
        add_column(&event, argv[2], info->columns[i]);
    }
    tm_npy_t npy = load(argv[2], "edges");
    uint32_t n = (uint32_t)npy.shape[1];
    uint32_t *rows = malloc((2 * (size_t)n + 1) * sizeof *rows);
    if (!rows) {
        die("no memory");
    }
    for (size_t i = 0; i < 2 * (size_t)n; i++) {
        rows[i] = (uint32_t)npy.values[i];
    }
    tm_npy_free(&npy);
    const tm_edges_t edges = {.n = n, .src = rows, .dst = rows + n};
    run(&tm_stages_cpu, tm_model_pipeline(model), &event, &edges, argv[2]);
    run(&tm_stages_ref, tm_model_pipeline(model), &event, &edges, argv[2]);
    for (uint32_t i = 0; i < event.count; i++) {
        free((void *)event.column[i].data);
    }
    free(rows);
    tm_model_destroy(&model);
    return EXIT_SUCCESS;
}
