// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "client/event/build.h"

/* Copies a field's values into the arena: the event outlives the table. */
static void *keep(tm_event_file_t *event, const tm_csv_field_t *field, uint32_t n, size_t size,
                  tm_error_t *err) {
    void *copy = tm_build_alloc(event, n, size, err);
    if (copy) {
        memcpy(copy, field->data, n * size);
    }
    return copy;
}

static tm_status_t read_hits(tm_csv_t *csv, tm_event_file_t *event, tm_idmap_t *rows,
                             tm_error_t *err) {
    enum { ID, X, Y, Z, VOLUME, LAYER, MODULE, COUNT };
    tm_csv_field_t fields[COUNT] = {
        [ID] = {"hit_id", TM_CSV_ID, true, NULL},
        [X] = {"x", TM_CSV_F32, true, NULL},
        [Y] = {"y", TM_CSV_F32, true, NULL},
        [Z] = {"z", TM_CSV_F32, true, NULL},
        [VOLUME] = {"volume_id", TM_CSV_ID, false, NULL},
        [LAYER] = {"layer_id", TM_CSV_ID, false, NULL},
        [MODULE] = {"module_id", TM_CSV_ID, false, NULL},
    };
    uint32_t n, twice;
    tm_status_t status = tm_csv_read(csv, fields, COUNT, TM_POINTS_MAX, &n, err);
    if (status != TM_OK) {
        return status;
    }
    event->n_points = n;
    float *x = keep(event, &fields[X], n, sizeof *x, err);
    float *y = keep(event, &fields[Y], n, sizeof *y, err);
    float *z = keep(event, &fields[Z], n, sizeof *z, err);
    event->hit_id = keep(event, &fields[ID], n, sizeof *event->hit_id, err);
    if (!x || !y || !z || !event->hit_id) {
        return TM_E_NO_MEMORY;
    }
    status = tm_build_positions(event, x, y, z, (tm_source_t){csv->path, true}, err);
    if (status == TM_OK) {
        status = tm_build_idmap(event->hit_id, n, rows, &twice, err);
    }
    if (status == TM_OK && twice != TM_IDMAP_NONE) {
        return tm_error_set(err, TM_E_FILE, "%s: line %u: hit_id %llu is there twice", csv->path,
                            tm_csv_line(twice), (unsigned long long)event->hit_id[twice]);
    }
    if (status != TM_OK || !fields[VOLUME].data || !fields[LAYER].data || !fields[MODULE].data) {
        return status;
    }
    uint64_t *module = tm_build_alloc(event, n, sizeof *module, err);
    if (!module) {
        return TM_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < n; i++) {
        module[i] = tm_build_module_id(((const uint64_t *)fields[VOLUME].data)[i],
                                       ((const uint64_t *)fields[LAYER].data)[i],
                                       ((const uint64_t *)fields[MODULE].data)[i]);
    }
    return tm_columns_add(&event->columns, "module_id", TM_U64, n, module, err);
}

/* The space point rows of hit ids, in place of nothing: TM_IDMAP_NONE where the event lacks the hit
 * (files are often cut down hits first). All lacking means that the files do not belong together. */
static tm_status_t rows_of(const tm_csv_t *csv, const tm_idmap_t *rows, const uint64_t *ids,
                           uint32_t n, uint32_t **out, tm_error_t *err) {
    uint32_t known = 0;
    uint32_t *row = malloc(((size_t)n + 1) * sizeof *row);
    *out = row;
    if (!row) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %u rows", csv->path, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        row[i] = tm_idmap_find(rows, ids[i]);
        known += row[i] != TM_IDMAP_NONE;
    }
    if (n > 0 && known == 0 && rows->n > 0) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: none of its %u rows names a hit of the event: do the files belong "
                            "together?",
                            csv->path, n);
    }
    return TM_OK;
}

static tm_status_t read_cells(const char *path, const tm_idmap_t *rows, tm_event_file_t *event,
                              tm_error_t *err) {
    enum { ID, CH0, CH1, VALUE, COUNT };
    tm_csv_field_t fields[COUNT] = {
        [ID] = {"hit_id", TM_CSV_ID, true, NULL},
        [CH0] = {"ch0", TM_CSV_I64, true, NULL},
        [CH1] = {"ch1", TM_CSV_I64, true, NULL},
        [VALUE] = {"value", TM_CSV_F32, true, NULL},
    };
    tm_csv_t csv;
    uint32_t n = 0, *row = NULL;
    tm_status_t status = tm_csv_open(path, &csv, err);
    if (status == TM_OK) {
        status = tm_csv_read(&csv, fields, COUNT, TM_CELLS_MAX, &n, err);
    }
    if (status == TM_OK) {
        status = rows_of(&csv, rows, fields[ID].data, n, &row, err);
    }
    if (status == TM_OK) {
        status = tm_build_clusters(event,
                                   &(tm_cells_t){.n = n,
                                                 .row = row,
                                                 .channel0 = fields[CH0].data,
                                                 .channel1 = fields[CH1].data,
                                                 .value = fields[VALUE].data},
                                   err);
    }
    free(row);
    tm_csv_close(&csv);
    return status;
}

static tm_status_t read_truth(const char *path, const char *particles_path, const tm_idmap_t *rows,
                              tm_event_file_t *event, tm_error_t *err) {
    enum { ID, WEIGHT, PARTICLE };
    tm_csv_field_t fields[TM_CSV_FIELDS_MAX] = {
        [ID] = {"hit_id", TM_CSV_ID, true, NULL},
        [WEIGHT] = {"weight", TM_CSV_F32, false, NULL},
    };
    tm_csv_t csv;
    tm_idmap_t particles = {0};
    tm_link_t *links = NULL;
    uint64_t *id;
    uint32_t n_fields = PARTICLE, n = 0, n_links = 0, *row = NULL, *particle = NULL;
    tm_status_t status = tm_csv_open(path, &csv, err);
    if (status != TM_OK) {
        return status;
    }
    status = tm_build_particles(event, particles_path, false, &particles, err);
    if (status == TM_OK) {
        status = tm_build_id_fields(&csv, fields, &n_fields, err);
    }
    if (status == TM_OK) {
        status = tm_csv_read(&csv, fields, n_fields, TM_CELLS_MAX, &n, err);
    }
    if (status == TM_OK) {
        status = tm_build_id_pack(&csv, fields + PARTICLE, n, &id, err);
    }
    if (status == TM_OK) {
        status = rows_of(&csv, rows, fields[ID].data, n, &row, err);
    }
    if (status == TM_OK) {
        status = tm_build_particle_index(event, &particles, path, id, n, &particle, err);
    }
    if (status != TM_OK) {
        goto end;
    }
    links = malloc(((size_t)n + 1) * sizeof *links);
    if (fields[WEIGHT].data) {
        event->hit_weight = tm_build_alloc(event, event->n_points, sizeof *event->hit_weight, err);
    }
    if (!links || (fields[WEIGHT].data && !event->hit_weight)) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
        goto end;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (row[i] == TM_IDMAP_NONE) {
            continue;
        }
        if (event->hit_weight) {
            event->hit_weight[row[i]] = ((const float *)fields[WEIGHT].data)[i];
        }
        if (particle[i] != TM_IDMAP_NONE) { /* else noise */
            links[n_links++] = (tm_link_t){row[i], particle[i]};
        }
    }
    status = tm_build_links(event, links, n_links, err);
end:
    free(links);
    free(row);
    free(particle);
    tm_idmap_clear(&particles);
    tm_csv_close(&csv);
    return status;
}

tm_status_t tm_event_read_trackml(tm_csv_t *hits, const char *prefix, tm_event_file_t *event,
                                  tm_error_t *err) {
    static const char *const cells_names[] = {"-cells.csv", NULL};
    static const char *const truth_names[] = {"-truth.csv", NULL};
    static const char *const particles_names[] = {"-particles.csv", "-fatras-particles.csv", NULL};
    tm_idmap_t rows = {0};
    char *cells = prefix ? tm_build_sibling(prefix, cells_names) : NULL;
    char *truth = prefix ? tm_build_sibling(prefix, truth_names) : NULL;
    char *particles = prefix ? tm_build_sibling(prefix, particles_names) : NULL;
    tm_status_t status = read_hits(hits, event, &rows, err);
    if (status == TM_OK && cells) {
        status = read_cells(cells, &rows, event, err);
    }
    if (status == TM_OK && truth && particles) {
        status = read_truth(truth, particles, &rows, event, err);
    }
    tm_idmap_clear(&rows);
    free(cells);
    free(truth);
    free(particles);
    return status;
}
