// SPDX-License-Identifier: Apache-2.0
#include "client/event/build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wire/f16.h"

#define F16_MIN_NORMAL 6.103515625e-05f
#define F16_MAX 65504.0f

void *tm_build_alloc(tm_event_file_t *event, size_t count, size_t size, tm_error_t *err) {
    void *memory = tm_arena_alloc(event->memory, count, size);
    if (!memory) {
        tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %zu elements", event->name, count);
    }
    return memory;
}

tm_status_t tm_build_positions(tm_event_file_t *event, const float *x, const float *y,
                               const float *z, tm_source_t source, tm_error_t *err) {
    static const char *const names[] = {"x", "y", "z"};
    const float *const values[] = {x, y, z};
    for (int c = 0; c < 3; c++) {
        for (uint32_t i = 0; i < event->n_points; i++) {
            if (!(fabsf(values[c][i]) <= (float)TM_POSITION_MAX_MM)) {
                return tm_error_set(
                    err, TM_E_FILE, "%s: %s %u, column %s: %g is no position within ±%g mm",
                    source.path, source.lines ? "line" : "row", source.lines ? tm_csv_line(i) : i,
                    names[c], (double)values[c][i], TM_POSITION_MAX_MM);
            }
        }
        tm_status_t status =
            tm_columns_add(&event->columns, names[c], TM_F32, event->n_points, values[c], err);
        if (status != TM_OK) {
            return status;
        }
    }
    return TM_OK;
}

tm_status_t tm_build_charge(tm_event_file_t *event, const float *charge, tm_error_t *err) {
    bool fits = true;
    for (uint32_t i = 0; i < event->n_points; i++) {
        float size = fabsf(charge[i]);
        fits = fits && (size == 0 || (size >= F16_MIN_NORMAL && size <= F16_MAX));
    }
    if (!fits) {
        return tm_columns_add(&event->columns, "charge", TM_F32, event->n_points, charge, err);
    }
    uint16_t *half = tm_build_alloc(event, event->n_points, sizeof *half, err);
    if (!half) {
        return TM_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        half[i] = tm_f32_to_f16(charge[i]);
    }
    return tm_columns_add(&event->columns, "charge", TM_F16, event->n_points, half, err);
}

uint64_t tm_build_module_id(uint64_t volume, uint64_t layer, uint64_t module) {
    return (volume & 0xFF) << 56 | (layer & 0xFFF) << 36 | (module & 0xFFFFF) << 8;
}

/* Adds a column of small counts in the least type that holds them. */
static tm_status_t add_counts(tm_event_file_t *event, const char *name, const uint64_t *count,
                              tm_error_t *err) {
    uint32_t n = event->n_points;
    bool wide = false;
    for (uint32_t i = 0; i < n; i++) {
        wide = wide || count[i] > UINT8_MAX;
    }
    void *data = tm_build_alloc(event, n, wide ? sizeof(uint16_t) : sizeof(uint8_t), err);
    if (!data) {
        return TM_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (wide) {
            ((uint16_t *)data)[i] = (uint16_t)(count[i] > UINT16_MAX ? UINT16_MAX : count[i]);
        } else {
            ((uint8_t *)data)[i] = (uint8_t)count[i];
        }
    }
    return tm_columns_add(&event->columns, name, wide ? TM_U16 : TM_U8, n, data, err);
}

tm_status_t tm_build_clusters(tm_event_file_t *event, const tm_cells_t *cells, tm_error_t *err) {
    typedef struct {
        int64_t low0, high0, low1, high1;
    } extent_t;
    tm_status_t status = TM_E_NO_MEMORY;
    uint32_t n = event->n_points;
    extent_t *extent = calloc((size_t)n + 1, sizeof *extent);
    uint64_t *count = calloc((size_t)n + 1, sizeof *count);
    uint64_t *size = calloc((size_t)n + 1, sizeof *size);
    float *charge = tm_build_alloc(event, n, sizeof *charge, err);
    double *sum = calloc((size_t)n + 1, sizeof *sum);
    if (!extent || !count || !size || !charge || !sum) {
        tm_error_set(err, status, "%s: no memory for %u clusters", event->name, n);
        goto end;
    }
    for (uint32_t i = 0; i < cells->n; i++) {
        int64_t c0 = cells->channel0[i], c1 = cells->channel1[i];
        for (uint32_t row = cells->row[i]; row != TM_IDMAP_NONE;
             row = cells->same ? cells->same[row] : TM_IDMAP_NONE) {
            extent_t *e = &extent[row];
            if (count[row]++ == 0) {
                *e = (extent_t){c0, c0, c1, c1};
            }
            e->low0 = c0 < e->low0 ? c0 : e->low0;
            e->high0 = c0 > e->high0 ? c0 : e->high0;
            e->low1 = c1 < e->low1 ? c1 : e->low1;
            e->high1 = c1 > e->high1 ? c1 : e->high1;
            sum[row] += (double)cells->value[i];
        }
    }
    status = add_counts(event, "n_cells", count, err);
    for (uint32_t i = 0; i < n; i++) {
        /* unsigned: the difference of two extreme channels may not fit a signed number */
        size[i] = count[i] ? (uint64_t)extent[i].high0 - (uint64_t)extent[i].low0 + 1 : 0;
        charge[i] = (float)sum[i];
    }
    if (status == TM_OK) {
        status = add_counts(event, "size_loc0", size, err);
    }
    for (uint32_t i = 0; i < n; i++) {
        size[i] = count[i] ? (uint64_t)extent[i].high1 - (uint64_t)extent[i].low1 + 1 : 0;
    }
    if (status == TM_OK) {
        status = add_counts(event, "size_loc1", size, err);
    }
    if (status == TM_OK) {
        status = tm_build_charge(event, charge, err);
    }
end:
    free(extent);
    free(count);
    free(size);
    free(sum);
    return status;
}

tm_status_t tm_build_links(tm_event_file_t *event, const tm_link_t *links, uint32_t n_links,
                           tm_error_t *err) {
    uint32_t n = event->n_points;
    uint32_t *offset = tm_build_alloc(event, (size_t)n + 1, sizeof *offset, err);
    uint32_t *particle = tm_build_alloc(event, n_links, sizeof *particle, err);
    uint32_t *used = calloc((size_t)n + 1, sizeof *used);
    if (!offset || !particle || !used) {
        free(used);
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for its truth", event->name);
    }
    for (uint32_t i = 0; i < n_links; i++) {
        offset[links[i].point + 1]++;
    }
    for (uint32_t i = 0; i < n; i++) {
        offset[i + 1] += offset[i];
    }
    for (uint32_t i = 0; i < n_links; i++) {
        uint32_t point = links[i].point;
        uint32_t *first = particle + offset[point];
        bool known = false;
        for (uint32_t k = 0; k < used[point]; k++) {
            known = known || first[k] == links[i].particle;
        }
        if (!known) {
            first[used[point]++] = links[i].particle;
            event->particles[links[i].particle].n_hits++;
        }
    }
    /* close the gaps that pairs given twice have left */
    uint32_t end = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t begin = offset[i];
        offset[i] = end;
        memmove(particle + end, particle + begin, used[i] * sizeof *particle);
        end += used[i];
    }
    offset[n] = end;
    free(used);
    event->link_offset = offset;
    event->link_particle = particle;
    event->has_truth = true;
    return TM_OK;
}

tm_status_t tm_build_idmap(const uint64_t *ids, uint32_t n, tm_idmap_t *map, uint32_t *twice,
                           tm_error_t *err) {
    *twice = TM_IDMAP_NONE;
    tm_status_t status = tm_idmap_init(map, n, err);
    for (uint32_t i = 0; status == TM_OK && i < n; i++) {
        if (tm_idmap_add(map, ids[i], i) != i && *twice == TM_IDMAP_NONE) {
            *twice = i;
        }
    }
    return status;
}

char *tm_build_sibling(const char *prefix, const char *const *endings) {
    static const char *const packings[] = {"", ".gz", ".xz"};
    for (size_t i = 0; endings[i]; i++) {
        for (size_t k = 0; k < sizeof packings / sizeof packings[0]; k++) {
            char *path;
            if (asprintf(&path, "%s%s%s", prefix, endings[i], packings[k]) < 0) {
                return NULL;
            }
            if (access(path, F_OK) == 0) {
                return path;
            }
            free(path);
        }
    }
    return NULL;
}

/* ---- particle identifiers ---- */

static const struct {
    const char *name;
    unsigned bits, shift;
} id_part[TM_ID_FIELDS] = {{"particle_id_pv", 12, 52},
                           {"particle_id_sv", 12, 40},
                           {"particle_id_part", 16, 24},
                           {"particle_id_gen", 8, 16},
                           {"particle_id_subpart", 16, 0}};

tm_status_t tm_build_id_fields(const tm_csv_t *csv, tm_csv_field_t *fields, uint32_t *n_fields,
                               tm_error_t *err) {
    if (tm_csv_has(csv, "particle_id")) {
        fields[(*n_fields)++] = (tm_csv_field_t){"particle_id", TM_CSV_ID, true, NULL};
        return TM_OK;
    }
    if (!tm_csv_has(csv, id_part[0].name)) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: line 1: no column particle_id (nor particle_id_pv, _sv, …)",
                            csv->path);
    }
    for (int i = 0; i < TM_ID_FIELDS; i++) {
        fields[(*n_fields)++] = (tm_csv_field_t){id_part[i].name, TM_CSV_ID, true, NULL};
    }
    return TM_OK;
}

tm_status_t tm_build_id_pack(const tm_csv_t *csv, const tm_csv_field_t *fields, uint32_t n_rows,
                             uint64_t **ids, tm_error_t *err) {
    *ids = fields[0].data;
    if (strcmp(fields[0].name, "particle_id") == 0) {
        return TM_OK;
    }
    for (uint32_t row = 0; row < n_rows; row++) {
        uint64_t id = 0;
        for (int i = 0; i < TM_ID_FIELDS; i++) {
            uint64_t part = ((const uint64_t *)fields[i].data)[row];
            if (part >> id_part[i].bits) {
                return tm_error_set(
                    err, TM_E_FILE, "%s: line %u, column %s: %llu does not fit %u bits", csv->path,
                    tm_csv_line(row), id_part[i].name, (unsigned long long)part, id_part[i].bits);
            }
            id |= part << id_part[i].shift;
        }
        (*ids)[row] = id;
    }
    return TM_OK;
}

tm_status_t tm_build_particles(tm_event_file_t *event, const char *path, bool acts, tm_idmap_t *ids,
                               tm_error_t *err) {
    enum { PX, PY, PZ, Q, VX, VY, VZ, TYPE, PROCESS, ID };
    tm_csv_field_t fields[TM_CSV_FIELDS_MAX] = {
        [PX] = {"px", TM_CSV_F32, true, NULL},
        [PY] = {"py", TM_CSV_F32, true, NULL},
        [PZ] = {"pz", TM_CSV_F32, true, NULL},
        [Q] = {"q", TM_CSV_F32, true, NULL},
        [VX] = {"vx", TM_CSV_F32, false, NULL},
        [VY] = {"vy", TM_CSV_F32, false, NULL},
        [VZ] = {"vz", TM_CSV_F32, false, NULL},
        [TYPE] = {"particle_type", TM_CSV_I64, false, NULL},
        [PROCESS] = {"process", TM_CSV_I64, false, NULL},
    };
    uint32_t n_fields = ID, n = 0, twice;
    uint64_t *id = NULL;
    tm_csv_t csv;
    tm_status_t status = tm_csv_open(path, &csv, err);
    if (status != TM_OK) {
        return status;
    }
    status = tm_build_id_fields(&csv, fields, &n_fields, err);
    if (status == TM_OK) {
        status = tm_csv_read(&csv, fields, n_fields, TM_PARTICLES_MAX, &n, err);
    }
    if (status == TM_OK) {
        status = tm_build_id_pack(&csv, fields + ID, n, &id, err);
    }
    if (status == TM_OK) {
        status = tm_build_idmap(id, n, ids, &twice, err);
    }
    if (status != TM_OK) {
        goto end;
    }
    if (twice != TM_IDMAP_NONE) {
        status = tm_error_set(err, TM_E_FILE, "%s: line %u: particle %llu is there twice", path,
                              tm_csv_line(twice), (unsigned long long)id[twice]);
        goto end;
    }
    event->particles = tm_build_alloc(event, n, sizeof *event->particles, err);
    if (!event->particles) {
        status = TM_E_NO_MEMORY;
        goto end;
    }
    event->n_particles = n;
#define VALUE(field, type, row) (fields[field].data ? ((const type *)fields[field].data)[row] : 0)
    for (uint32_t i = 0; i < n; i++) {
        int64_t pdg = VALUE(TYPE, int64_t, i);
        /* without the process, the barcode tells: generation and sub-particle are 0 at first */
        bool generated = fields[PROCESS].data ? VALUE(PROCESS, int64_t, i) == 0
                                              : !acts || (id[i] & 0xFFFFFF) == 0;
        event->particles[i] = (tm_particle_t){
            .id = id[i],
            .pdg = pdg >= INT32_MIN && pdg <= INT32_MAX ? (int32_t)pdg : 0,
            .charge = VALUE(Q, float, i),
            .vx = VALUE(VX, float, i),
            .vy = VALUE(VY, float, i),
            .vz = VALUE(VZ, float, i),
            .px = VALUE(PX, float, i),
            .py = VALUE(PY, float, i),
            .pz = VALUE(PZ, float, i),
            .generated = generated,
        };
    }
#undef VALUE
end:
    tm_csv_close(&csv);
    return status;
}

tm_status_t tm_build_particle_index(tm_event_file_t *event, tm_idmap_t *ids, const char *path,
                                    const uint64_t *id, uint32_t n, uint32_t **index,
                                    tm_error_t *err) {
    tm_idmap_t all = {0};
    tm_particle_t *particles;
    uint32_t n_known = 0, n_unknown = 0;
    tm_status_t status = TM_OK;
    *index = malloc(((size_t)n + 1) * sizeof **index);
    if (!*index) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %u rows", path, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        (*index)[i] = id[i] ? tm_idmap_find(ids, id[i]) : TM_IDMAP_NONE;
        n_known += (*index)[i] != TM_IDMAP_NONE;
        n_unknown += id[i] && (*index)[i] == TM_IDMAP_NONE;
    }
    if (n_unknown == 0) {
        return TM_OK;
    }
    if (n_known == 0) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: none of its particles is in the particle table: do the files "
                            "belong together?",
                            path);
    }
    particles =
        tm_build_alloc(event, (size_t)event->n_particles + n_unknown, sizeof *particles, err);
    status = particles ? tm_idmap_init(&all, event->n_particles + n_unknown, err) : TM_E_NO_MEMORY;
    if (status != TM_OK) {
        return status;
    }
    for (uint32_t i = 0; i < event->n_particles; i++) {
        particles[i] = event->particles[i];
        tm_idmap_add(&all, particles[i].id, i);
    }
    event->particles = particles;
    for (uint32_t i = 0; i < n; i++) {
        if (id[i] && (*index)[i] == TM_IDMAP_NONE) {
            (*index)[i] = tm_idmap_add(&all, id[i], event->n_particles);
            if ((*index)[i] == event->n_particles) {
                particles[event->n_particles++].id = id[i];
            }
        }
    }
    tm_idmap_clear(ids);
    *ids = all;
    return TM_OK;
}
