// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "client/event/build.h"

/* Space points by measurement. A strip space point has two measurements, and a strip measurement may
 * be in several space points: `same` chains these. */
typedef struct {
    tm_idmap_t first; /* measurement → first row */
    uint32_t *same;   /* row → next row of the measurement, or TM_IDMAP_NONE */
} by_measurement_t;

static tm_status_t index_measurements(const uint64_t *id, uint32_t n, by_measurement_t *out,
                                      tm_error_t *err) {
    out->same = malloc(((size_t)n + 1) * sizeof *out->same);
    tm_status_t status = out->same ? tm_idmap_init(&out->first, n, err)
                                   : tm_error_set(err, TM_E_NO_MEMORY, "no memory");
    for (uint32_t i = 0; status == TM_OK && i < n; i++) {
        out->same[i] = TM_IDMAP_NONE;
        if (id[i] == UINT64_MAX) { /* no second measurement */
            continue;
        }
        uint32_t first = tm_idmap_add(&out->first, id[i], i);
        if (first != i) { /* the order behind the first does not matter */
            out->same[i] = out->same[first];
            out->same[first] = i;
        }
    }
    return status;
}

static void clear_index(by_measurement_t *index) {
    tm_idmap_clear(&index->first);
    free(index->same);
}

/* Reads the points; *one and *two index their measurements. */
static tm_status_t read_points(tm_csv_t *csv, tm_event_file_t *event, by_measurement_t *one,
                               by_measurement_t *two, tm_error_t *err) {
    enum { X, Y, Z, ID, ID2, GEOMETRY, COUNT };
    bool plain = tm_csv_has(csv, "x"); /* as ACTS writes it; its reader wants sp_x … */
    bool numbered = tm_csv_has(csv, "measurement_id_1");
    tm_csv_field_t fields[COUNT] = {
        [X] = {plain ? "x" : "sp_x", TM_CSV_F32, true, NULL},
        [Y] = {plain ? "y" : "sp_y", TM_CSV_F32, true, NULL},
        [Z] = {plain ? "z" : "sp_z", TM_CSV_F32, true, NULL},
        [ID] = {numbered ? "measurement_id_1" : "measurement_id", TM_CSV_ID, true, NULL},
        [ID2] = {"measurement_id_2", TM_CSV_ID, false, NULL},
        [GEOMETRY] = {numbered ? "geometry_id_1" : "geometry_id", TM_CSV_ID, false, NULL},
    };
    float *position[3];
    uint32_t n;
    tm_status_t status = tm_csv_read(csv, fields, COUNT, TM_POINTS_MAX, &n, err);
    if (status != TM_OK) {
        return status;
    }
    event->n_points = n;
    for (int c = 0; c < 3; c++) {
        position[c] = tm_build_alloc(event, n, sizeof *position[c], err);
        if (!position[c]) {
            return TM_E_NO_MEMORY;
        }
        memcpy(position[c], fields[X + c].data, n * sizeof *position[c]);
    }
    event->hit_id = tm_build_alloc(event, n, sizeof *event->hit_id, err);
    if (!event->hit_id) {
        return TM_E_NO_MEMORY;
    }
    memcpy(event->hit_id, fields[ID].data, n * sizeof *event->hit_id);
    status = tm_build_positions(event, position[0], position[1], position[2],
                                (tm_source_t){csv->path, true}, err);
    if (status == TM_OK && fields[GEOMETRY].data) {
        uint64_t *module = tm_build_alloc(event, n, sizeof *module, err);
        if (!module) {
            return TM_E_NO_MEMORY;
        }
        memcpy(module, fields[GEOMETRY].data, n * sizeof *module);
        status = tm_columns_add(&event->columns, "module_id", TM_U64, n, module, err);
    }
    if (status == TM_OK) {
        status = index_measurements(event->hit_id, n, one, err);
    }
    if (status == TM_OK && fields[ID2].data) {
        status = index_measurements(fields[ID2].data, n, two, err);
    }
    return status;
}

/* Cells of each point's first measurement. */
static tm_status_t read_cells(const char *path, const by_measurement_t *measurements,
                              tm_event_file_t *event, tm_error_t *err) {
    enum { CH0, CH1, VALUE, ID, GEOMETRY, COUNT };
    tm_csv_field_t fields[COUNT] = {
        [CH0] = {"channel0", TM_CSV_I64, true, NULL},
        [CH1] = {"channel1", TM_CSV_I64, true, NULL},
        [VALUE] = {"value", TM_CSV_F32, true, NULL},
        [ID] = {"measurement_id", TM_CSV_ID, true, NULL},
        [GEOMETRY] = {"geometry_id", TM_CSV_ID, false, NULL},
    };
    tm_csv_t csv;
    uint32_t n = 0, known = 0, *row = NULL;
    tm_status_t status = tm_csv_open(path, &csv, err);
    if (status == TM_OK && !tm_csv_has(&csv, "measurement_id") && tm_csv_has(&csv, "hit_id")) {
        fields[ID].name = "hit_id"; /* the same number, in files of older versions */
    }
    if (status == TM_OK) {
        status = tm_csv_read(&csv, fields, COUNT, TM_CELLS_MAX, &n, err);
    }
    if (status != TM_OK) {
        goto end;
    }
    row = malloc(((size_t)n + 1) * sizeof *row);
    if (!row) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %u cells", path, n);
        goto end;
    }
    for (uint32_t i = 0; i < n; i++) {
        row[i] = tm_idmap_find(&measurements->first, ((const uint64_t *)fields[ID].data)[i]);
        known += row[i] != TM_IDMAP_NONE;
    }
    if (n > 0 && known == 0 && event->n_points > 0) {
        status = tm_error_set(err, TM_E_FILE,
                              "%s: none of its %u rows belongs to a space point of the event: do "
                              "the files belong together?",
                              path, n);
        goto end;
    }
    status = tm_build_clusters(event,
                               &(tm_cells_t){.n = n,
                                             .row = row,
                                             .same = measurements->same,
                                             .channel0 = fields[CH0].data,
                                             .channel1 = fields[CH1].data,
                                             .value = fields[VALUE].data},
                               err);
    if (status == TM_OK && fields[GEOMETRY].data &&
        !tm_columns_find(&event->columns, "module_id")) {
        uint64_t *module = tm_build_alloc(event, event->n_points, sizeof *module, err);
        if (!module) {
            status = TM_E_NO_MEMORY;
            goto end;
        }
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t r = row[i]; r != TM_IDMAP_NONE; r = measurements->same[r]) {
                module[r] = ((const uint64_t *)fields[GEOMETRY].data)[i];
            }
        }
        status = tm_columns_add(&event->columns, "module_id", TM_U64, event->n_points, module, err);
    }
end:
    free(row);
    tm_csv_close(&csv);
    return status;
}

/* The particle ids of the simulated hits, in the order of the file. */
static tm_status_t read_simhits(const char *path, tm_csv_t *csv, uint64_t **particle, uint32_t *n,
                                tm_error_t *err) {
    tm_csv_field_t fields[TM_ID_FIELDS];
    uint32_t n_fields = 0;
    tm_status_t status = tm_csv_open(path, csv, err);
    if (status == TM_OK) {
        status = tm_build_id_fields(csv, fields, &n_fields, err);
    }
    if (status == TM_OK) {
        status = tm_csv_read(csv, fields, n_fields, TM_CELLS_MAX, n, err);
    }
    if (status == TM_OK) {
        status = tm_build_id_pack(csv, fields, *n, particle, err);
    }
    return status;
}

/* Appends the links of all space points whose measurement (first or second) has simulated hits. */
static tm_status_t add_links(const by_measurement_t *index, const tm_csv_field_t *map,
                             uint32_t n_map, const uint32_t *particle, tm_link_t **links,
                             uint32_t *n_links, uint32_t *capacity) {
    for (uint32_t i = 0; i < n_map; i++) {
        uint64_t hit = ((const uint64_t *)map[1].data)[i];
        uint32_t r = tm_idmap_find(&index->first, ((const uint64_t *)map[0].data)[i]);
        for (; r != TM_IDMAP_NONE && particle[hit] != TM_IDMAP_NONE; r = index->same[r]) {
            if (*n_links == *capacity) {
                uint32_t wanted = *capacity ? 2 * *capacity : n_map + 16;
                tm_link_t *grown = realloc(*links, (size_t)wanted * sizeof **links);
                if (!grown) {
                    return TM_E_NO_MEMORY;
                }
                *links = grown;
                *capacity = wanted;
            }
            (*links)[(*n_links)++] = (tm_link_t){r, particle[hit]};
        }
    }
    return TM_OK;
}

typedef struct {
    char *map, *simhits, *particles;
} truth_paths_t;

static tm_status_t read_truth(const truth_paths_t *paths, const by_measurement_t *one,
                              const by_measurement_t *two, tm_event_file_t *event,
                              tm_error_t *err) {
    tm_csv_field_t fields[] = {{"measurement_id", TM_CSV_ID, true, NULL},
                               {"hit_id", TM_CSV_ID, true, NULL}};
    tm_csv_t map = {0}, simhits = {0};
    tm_idmap_t particles = {0};
    tm_link_t *links = NULL;
    uint64_t *id = NULL;
    uint32_t n_map = 0, n_hits = 0, n_links = 0, capacity = 0, *particle = NULL;
    tm_status_t status = tm_build_particles(event, paths->particles, true, &particles, err);
    if (status == TM_OK) {
        status = read_simhits(paths->simhits, &simhits, &id, &n_hits, err);
    }
    if (status == TM_OK) {
        status =
            tm_build_particle_index(event, &particles, paths->simhits, id, n_hits, &particle, err);
    }
    if (status == TM_OK) {
        status = tm_csv_open(paths->map, &map, err);
    }
    if (status == TM_OK) {
        status = tm_csv_read(&map, fields, 2, TM_CELLS_MAX, &n_map, err);
    }
    for (uint32_t i = 0; status == TM_OK && i < n_map; i++) {
        uint64_t hit = ((const uint64_t *)fields[1].data)[i];
        if (hit >= n_hits) {
            status = tm_error_set(
                err, TM_E_FILE, "%s: line %u, column hit_id: %llu, but %s has %u hits", paths->map,
                tm_csv_line(i), (unsigned long long)hit, paths->simhits, n_hits);
        }
    }
    if (status == TM_OK) {
        status = add_links(one, fields, n_map, particle, &links, &n_links, &capacity);
        if (status == TM_OK && two->same) {
            status = add_links(two, fields, n_map, particle, &links, &n_links, &capacity);
        }
        if (status != TM_OK) {
            tm_error_set(err, status, "%s: no memory for its truth", paths->map);
        }
    }
    if (status == TM_OK) {
        status = tm_build_links(event, links, n_links, err);
    }
    free(links);
    free(particle);
    tm_idmap_clear(&particles);
    tm_csv_close(&map);
    tm_csv_close(&simhits);
    return status;
}

tm_status_t tm_event_read_acts(tm_csv_t *points, const char *prefix, tm_event_file_t *event,
                               tm_error_t *err) {
    static const char *const cells_names[] = {"-cells.csv", NULL};
    static const char *const map_names[] = {"-measurement-simhit-map.csv", NULL};
    static const char *const simhits_names[] = {"-simhits.csv", "-hits.csv", NULL};
    static const char *const particles_names[] = {
        "-particles_simulated.csv", "-particles_initial.csv",   "-particles.csv",
        "-particles_input.csv",     "-particles_generated.csv", NULL};
    by_measurement_t one = {0}, two = {0};
    truth_paths_t truth = {0};
    char *cells = NULL;
    if (prefix) {
        cells = tm_build_sibling(prefix, cells_names);
        truth.map = tm_build_sibling(prefix, map_names);
        truth.simhits = tm_build_sibling(prefix, simhits_names);
        truth.particles = tm_build_sibling(prefix, particles_names);
    }
    tm_status_t status = read_points(points, event, &one, &two, err);
    if (status == TM_OK && cells) {
        status = read_cells(cells, &one, event, err);
    }
    if (status == TM_OK && truth.map && truth.simhits && truth.particles) {
        status = read_truth(&truth, &one, &two, event, err);
    }
    clear_index(&one);
    clear_index(&two);
    free(cells);
    free(truth.map);
    free(truth.simhits);
    free(truth.particles);
    return status;
}
