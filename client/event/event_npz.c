// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/event/build.h"
#include "client/event/npz.h"

#define UM_PER_MM 1000.0
#define CHARGE_UNITS 1000.0 /* charge_e3 counts thousandths */

typedef struct {
    tm_npz_t *npz;
    const char *path;
    tm_event_file_t *event;
    bool sized; /* n_points is known: by the array called size_name */
    char size_name[TM_COLUMN_NAME_MAX + 1];
} reader_t;

static bool is_whole(tm_type_t type) {
    return type != TM_F16 && type != TM_F32 && type != TM_F64;
}

static bool is_signed(tm_type_t type) {
    return type == TM_I8 || type == TM_I16 || type == TM_I32 || type == TM_I64;
}

/* Reads an array with an element per space point. */
static tm_status_t read_points(reader_t *r, const char *name, bool whole, tm_column_t *array,
                               tm_error_t *err) {
    tm_status_t status = tm_npz_read(r->npz, name, TM_POINTS_MAX, r->event->memory, array, err);
    if (status != TM_OK) {
        return status;
    }
    if (whole && !is_whole(array->type)) {
        return tm_error_set(err, TM_E_FILE, "%s: array %s: whole numbers are wanted", r->path,
                            name);
    }
    if (!r->sized) {
        r->sized = true;
        r->event->n_points = (uint32_t)array->n;
        snprintf(r->size_name, sizeof r->size_name, "%s", name);
    } else if (array->n != r->event->n_points) {
        return tm_error_set(
            err, TM_E_FILE, "%s: array %s has %llu elements, array %s has %u: they must be equal",
            r->path, name, (unsigned long long)array->n, r->size_name, r->event->n_points);
    }
    return TM_OK;
}

static tm_status_t read_positions(reader_t *r, tm_error_t *err) {
    static const char *const names[2][3] = {{"x", "y", "z"}, {"x_um", "y_um", "z_um"}};
    bool micrometres = tm_npz_has(r->npz, names[1][0]);
    if (!micrometres && !tm_npz_has(r->npz, names[0][0])) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: neither array x_um nor x: positions are x_um y_um z_um (µm) or "
                            "x y z (mm)",
                            r->path);
    }
    float *mm[3];
    for (int c = 0; c < 3; c++) {
        tm_column_t array;
        tm_status_t status = read_points(r, names[micrometres][c], micrometres, &array, err);
        if (status != TM_OK) {
            return status;
        }
        mm[c] = tm_build_alloc(r->event, array.n, sizeof *mm[c], err);
        if (!mm[c]) {
            return TM_E_NO_MEMORY;
        }
        for (uint64_t i = 0; i < array.n; i++) {
            double value = tm_column_get(&array, i);
            mm[c][i] = (float)(micrometres ? value / UM_PER_MM : value);
        }
    }
    return tm_build_positions(r->event, mm[0], mm[1], mm[2], (tm_source_t){r->path, false}, err);
}

/* Cluster columns keep the type that they have in the file. */
static tm_status_t read_clusters(reader_t *r, tm_error_t *err) {
    static const char *const names[] = {"n_cells", "size_loc0", "size_loc1", "charge"};
    tm_status_t status = TM_OK;
    tm_column_t array;
    for (size_t i = 0; status == TM_OK && i < sizeof names / sizeof names[0]; i++) {
        if (!tm_npz_has(r->npz, names[i])) {
            continue;
        }
        status = read_points(r, names[i], false, &array, err);
        for (uint64_t k = 0; status == TM_OK && k < array.n; k++) {
            if (!is_whole(array.type) && !isfinite(tm_column_get(&array, k))) {
                status = tm_error_set(err, TM_E_FILE, "%s: array %s, row %llu: not finite", r->path,
                                      names[i], (unsigned long long)k);
            }
        }
        if (status == TM_OK) {
            status =
                tm_columns_add(&r->event->columns, names[i], array.type, array.n, array.data, err);
        }
    }
    if (status != TM_OK || tm_npz_has(r->npz, "charge") || !tm_npz_has(r->npz, "charge_e3")) {
        return status;
    }
    status = read_points(r, "charge_e3", true, &array, err);
    float *charge = status == TM_OK ? tm_build_alloc(r->event, array.n, sizeof *charge, err) : NULL;
    if (!charge) {
        return status == TM_OK ? TM_E_NO_MEMORY : status;
    }
    for (uint64_t i = 0; i < array.n; i++) {
        charge[i] = (float)(tm_column_get(&array, i) / CHARGE_UNITS);
    }
    return tm_build_charge(r->event, charge, err);
}

static tm_status_t read_module_ids(reader_t *r, tm_error_t *err) {
    static const char *const names[] = {"volume", "layer", "module"};
    tm_status_t status;
    tm_column_t part[3];
    if (tm_npz_has(r->npz, "module_id")) {
        status = read_points(r, "module_id", true, &part[0], err);
        if (status == TM_OK && part[0].type != TM_U64) {
            status =
                tm_error_set(err, TM_E_FILE, "%s: array module_id: must be u8 (64 bits)", r->path);
        }
        return status == TM_OK ? tm_columns_add(&r->event->columns, "module_id", TM_U64, part[0].n,
                                                part[0].data, err)
                               : status;
    }
    for (int i = 0; i < 3; i++) {
        if (!tm_npz_has(r->npz, names[i])) {
            return TM_OK;
        }
        status = read_points(r, names[i], true, &part[i], err);
        if (status != TM_OK) {
            return status;
        }
    }
    uint64_t *id = tm_build_alloc(r->event, r->event->n_points, sizeof *id, err);
    if (!id) {
        return TM_E_NO_MEMORY;
    }
    for (uint32_t i = 0; i < r->event->n_points; i++) {
        uint64_t number[3];
        for (int k = 0; k < 3; k++) {
            double value = tm_column_get(&part[k], i);
            if (value < 0 || value > 0xFFFFF) {
                return tm_error_set(err, TM_E_FILE, "%s: array %s, row %u: %.0f is out of range",
                                    r->path, names[k], i, value);
            }
            number[k] = (uint64_t)value;
        }
        id[i] = tm_build_module_id(number[0], number[1], number[2]);
    }
    return tm_columns_add(&r->event->columns, "module_id", TM_U64, r->event->n_points, id, err);
}

/* Reads a p_* array; all have the length of the first, p_px. */
static tm_status_t read_particle_array(reader_t *r, const char *name, bool required,
                                       tm_column_t *array, tm_error_t *err) {
    *array = (tm_column_t){0};
    if (!required && !tm_npz_has(r->npz, name)) {
        return TM_OK;
    }
    tm_status_t status = tm_npz_read(r->npz, name, TM_PARTICLES_MAX, r->event->memory, array, err);
    if (status != TM_OK) {
        return status;
    }
    if (!r->event->particles) {
        r->event->particles = tm_build_alloc(r->event, array->n, sizeof *r->event->particles, err);
        r->event->n_particles = (uint32_t)array->n;
        return r->event->particles ? TM_OK : TM_E_NO_MEMORY;
    }
    if (array->n != r->event->n_particles) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: array %s has %llu elements, array p_px has %u: they must be equal",
                            r->path, name, (unsigned long long)array->n, r->event->n_particles);
    }
    return TM_OK;
}

static tm_status_t read_particles(reader_t *r, tm_error_t *err) {
    enum { PX, PY, PZ, Q, VX, VY, VZ, PDG, PROCESS, COUNT };
    static const struct {
        const char *name;
        bool required;
    } arrays[COUNT] = {{"p_px", true},  {"p_py", true},   {"p_pz", true},
                       {"p_q", true},   {"p_vx", false},  {"p_vy", false},
                       {"p_vz", false}, {"p_pdg", false}, {"p_process", false}};
    tm_column_t a[COUNT];
    for (int k = 0; k < COUNT; k++) {
        tm_status_t status = read_particle_array(r, arrays[k].name, arrays[k].required, &a[k], err);
        if (status != TM_OK) {
            return status;
        }
    }
#define VALUE(k) (a[k].data ? tm_column_get(&a[k], i) : 0)
    for (uint32_t i = 0; i < r->event->n_particles; i++) {
        double pdg = VALUE(PDG);
        r->event->particles[i] = (tm_particle_t){
            .id = (uint64_t)i + 1,
            .pdg = fabs(pdg) <= INT32_MAX ? (int32_t)pdg : 0,
            .charge = (float)VALUE(Q),
            .vx = (float)VALUE(VX),
            .vy = (float)VALUE(VY),
            .vz = (float)VALUE(VZ),
            .px = (float)VALUE(PX),
            .py = (float)VALUE(PY),
            .pz = (float)VALUE(PZ),
            .generated = VALUE(PROCESS) == 0,
        };
    }
#undef VALUE
    return TM_OK;
}

/* One truth index; false: none (negative), or *err is set. */
static bool take_index(reader_t *r, const tm_column_t *array, uint64_t row, uint32_t limit,
                       const char *of, uint32_t *out, tm_status_t *status, tm_error_t *err) {
    double value = tm_column_get(array, row);
    if (is_signed(array->type) && value < 0) {
        return false;
    }
    if (value >= limit) {
        *status = tm_error_set(err, TM_E_FILE, "%s: array %s, row %llu: %.0f, but there are %u %s",
                               r->path, array->name, (unsigned long long)row, value, limit, of);
        return false;
    }
    *out = (uint32_t)value;
    return true;
}

static tm_status_t read_links(reader_t *r, tm_error_t *err) {
    tm_event_file_t *event = r->event;
    tm_column_t main, hit = {0}, particle = {0};
    tm_status_t status = read_points(r, "particle", true, &main, err);
    if (status == TM_OK && tm_npz_has(r->npz, "extra_hit")) {
        status = tm_npz_read(r->npz, "extra_hit", TM_POINTS_MAX, event->memory, &hit, err);
        if (status == TM_OK) {
            status =
                tm_npz_read(r->npz, "extra_particle", TM_POINTS_MAX, event->memory, &particle, err);
        }
        if (status == TM_OK && hit.n != particle.n) {
            status =
                tm_error_set(err, TM_E_FILE,
                             "%s: array extra_hit has %llu elements, array extra_particle has "
                             "%llu: they must be equal",
                             r->path, (unsigned long long)hit.n, (unsigned long long)particle.n);
        }
        if (status == TM_OK && (!is_whole(hit.type) || !is_whole(particle.type))) {
            status = tm_error_set(err, TM_E_FILE,
                                  "%s: arrays extra_hit, extra_particle: whole numbers are wanted",
                                  r->path);
        }
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t n = 0;
    tm_link_t *links = calloc(main.n + hit.n + 1, sizeof *links);
    if (!links) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for its truth", r->path);
    }
    for (uint32_t i = 0; i < main.n && status == TM_OK; i++) {
        if (take_index(r, &main, i, event->n_particles, "particles", &links[n].particle, &status,
                       err)) {
            links[n++].point = i;
        }
    }
    for (uint64_t i = 0; i < hit.n && status == TM_OK; i++) {
        if (take_index(r, &hit, i, event->n_points, "space points", &links[n].point, &status,
                       err) &&
            take_index(r, &particle, i, event->n_particles, "particles", &links[n].particle,
                       &status, err)) {
            n++;
        }
    }
    if (status == TM_OK) {
        status = tm_build_links(event, links, n, err);
    }
    free(links);
    return status;
}

tm_status_t tm_event_read_npz(const char *path, const tm_blob_t *blob, tm_event_file_t *event,
                              tm_error_t *err) {
    reader_t r = {.path = path, .event = event};
    tm_status_t status = tm_npz_open(path, blob->data, blob->bytes, &r.npz, err);
    if (status == TM_OK) {
        status = read_positions(&r, err);
    }
    if (status == TM_OK) {
        status = read_clusters(&r, err);
    }
    if (status == TM_OK) {
        status = read_module_ids(&r, err);
    }
    if (status == TM_OK && tm_npz_has(r.npz, "particle")) {
        status = read_particles(&r, err);
        if (status == TM_OK) {
            status = read_links(&r, err);
        }
    }
    if (status == TM_OK) {
        event->hit_id = tm_build_alloc(event, event->n_points, sizeof *event->hit_id, err);
        status = event->hit_id ? TM_OK : TM_E_NO_MEMORY;
    }
    for (uint32_t i = 0; status == TM_OK && i < event->n_points; i++) {
        event->hit_id[i] = i;
    }
    tm_npz_destroy(&r.npz);
    return status;
}
