// SPDX-License-Identifier: Apache-2.0
/*
 * What the readers of all formats share: filling a tm_event_file_t and checking it.
 * The event's arena (event->memory) owns every array. Threads: none shared.
 */
#ifndef TM_CLIENT_EVENT_BUILD_H
#define TM_CLIENT_EVENT_BUILD_H

#include "client/event/arena.h"
#include "client/event/csv.h"
#include "client/event/idmap.h"
#include "client/event_file.h"

#define TM_PARTICLES_MAX 16000000u /* of one event's truth */
#define TM_CELLS_MAX 100000000u    /* of one event */

/* Where a row stands in the input, for error texts: lines of a CSV file count from 1 with a header
 * line, rows of an array from 0. */
typedef struct {
    const char *path;
    bool lines;
} tm_source_t;

/* Zeroed memory from the event's arena; NULL: *err says that there is none. */
void *tm_build_alloc(tm_event_file_t *event, size_t count, size_t size, tm_error_t *err);

/* Adds columns x, y, z (n = event->n_points floats each, in the arena or static), after checking that
 * each value is finite and within TM_POSITION_MAX_MM. */
tm_status_t tm_build_positions(tm_event_file_t *event, const float *x, const float *y,
                               const float *z, tm_source_t source, tm_error_t *err);

/* Adds column "charge": f16 where every value is 0 or a normal f16, f32 otherwise. */
tm_status_t tm_build_charge(tm_event_file_t *event, const float *charge, tm_error_t *err);

/* ACTS's packing of a geometry identifier. */
uint64_t tm_build_module_id(uint64_t volume, uint64_t layer, uint64_t module);

/* Cells of clusters → columns n_cells, size_loc0, size_loc1 (u8, or u16 if one does not fit;
 * saturating) and charge (sum of values in order of the file). row[i]: the space point of cell i, or
 * TM_IDMAP_NONE. */
typedef struct {
    uint32_t n;
    const uint32_t *row;
    const uint32_t
        *same; /* the next space point of the same cluster, or TM_IDMAP_NONE; NULL: none */
    const int64_t *channel0, *channel1;
    const float *value;
} tm_cells_t;
tm_status_t tm_build_clusters(tm_event_file_t *event, const tm_cells_t *cells, tm_error_t *err);

/* Links in order of importance → link_offset, link_particle and the particles' n_hits. A pair that is
 * there twice counts once. */
typedef struct {
    uint32_t point, particle;
} tm_link_t;
tm_status_t tm_build_links(tm_event_file_t *event, const tm_link_t *links, uint32_t n_links,
                           tm_error_t *err);

/* Makes room for identifiers ids[0 … n) and maps each to its row. *twice: the first row whose id an
 * earlier row has, or TM_IDMAP_NONE. */
tm_status_t tm_build_idmap(const uint64_t *ids, uint32_t n, tm_idmap_t *map, uint32_t *twice,
                           tm_error_t *err);

/* Reads a particle table (TrackML's or ACTS's columns) into event->particles and maps id → index. */
tm_status_t tm_build_particles(tm_event_file_t *event, const char *path, bool acts, tm_idmap_t *ids,
                               tm_error_t *err);

/* The particle index of each id; 0 means none: TM_IDMAP_NONE. Ids that the table lacks (tables are
 * often cut down to the particles of interest) become particles without momentum, which no selection
 * takes; but if it lacks them all, the files do not belong together. *index: allocated, free it. */
tm_status_t tm_build_particle_index(tm_event_file_t *event, tm_idmap_t *ids, const char *path,
                                    const uint64_t *id, uint32_t n, uint32_t **index,
                                    tm_error_t *err);

/* ---- files beside each other ---- */

/* "<prefix><ending>", plain or with .gz or .xz: the first of the endings that exists, as an allocated
 * string (free it); NULL: none. `endings` is NULL-terminated. */
char *tm_build_sibling(const char *prefix, const char *const *endings);

/* Particle identifiers in either form: one column `particle_id`, or five. Adds the fields that are in
 * the file to fields[*n_fields …]. After reading, tm_build_id_pack makes u64 ids (ACTS's 64-bit
 * barcode: 12, 12, 16, 8, 16 bits) in the first field's place. */
#define TM_ID_FIELDS 5
tm_status_t tm_build_id_fields(const tm_csv_t *csv, tm_csv_field_t *fields, uint32_t *n_fields,
                               tm_error_t *err);
tm_status_t tm_build_id_pack(const tm_csv_t *csv, const tm_csv_field_t *fields, uint32_t n_rows,
                             uint64_t **ids, tm_error_t *err);

/* ---- the readers ---- */

/* Each fills a fresh event (name and arena set). `prefix` is NULL when the name of `path` does not
 * end as the format's names do: then nothing beside it is looked for. */
tm_status_t tm_event_read_npz(const char *path, const tm_blob_t *blob, tm_event_file_t *event,
                              tm_error_t *err);
tm_status_t tm_event_read_trackml(tm_csv_t *hits, const char *prefix, tm_event_file_t *event,
                                  tm_error_t *err);
tm_status_t tm_event_read_acts(tm_csv_t *points, const char *prefix, tm_event_file_t *event,
                               tm_error_t *err);

#endif
