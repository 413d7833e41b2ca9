// SPDX-License-Identifier: Apache-2.0
/*
 * Columns: named, typed arrays, and the track candidates found from them.
 *
 * An event is a set of columns of equal length, one row per space point; `x`, `y`, `z` (mm) are
 * required, the cluster columns are optional:
 *
 *   name       type                meaning
 *   x y z      f32                 space point position, mm
 *   n_cells    any number          cells of the cluster
 *   size_loc0  any number          extent of the cluster in local 0, in cells
 *   size_loc1  any number          extent in local 1, in cells
 *   charge     any number          summed activation of the cells (simulated data: path length, mm)
 *   module_id  u64                 geometry identifier of the module (carried, not used by the gnn)
 *
 * On the wire the positions are f32 in mm. A column borrows its array: whoever made it frees it
 * after the last use of the tm_columns_t. Arrays on the wire are little-endian and start at
 * multiples of 8 bytes (wire/SPEC.md, "Payload").
 */
#ifndef TM_WIRE_COLUMNS_H
#define TM_WIRE_COLUMNS_H

#include <stdint.h>

#include "wire/error.h"
#include "wire/limits.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Element types; the numbers are those on the wire. */
typedef enum {
    TM_U8 = 1,
    TM_I8 = 2,
    TM_U16 = 3,
    TM_I16 = 4,
    TM_F16 = 5,
    TM_U32 = 6,
    TM_I32 = 7,
    TM_F32 = 8,
    TM_U64 = 9,
    TM_I64 = 10,
    TM_F64 = 11,
} tm_type_t;

typedef struct {
    char name[TM_COLUMN_NAME_MAX + 1]; /* [a-z0-9_]+, NUL-terminated */
    tm_type_t type;
    uint64_t n;       /* elements */
    const void *data; /* borrowed; n * tm_type_bytes(type) bytes, aligned to the element */
} tm_column_t;

typedef struct {
    uint32_t count;
    tm_column_t column[TM_COLUMNS_MAX];
} tm_columns_t;

/* Bytes of one element; 0 for a number that is no type. */
uint32_t tm_type_bytes(tm_type_t type);

/* The column of that name, or NULL. Borrowed from *columns. */
const tm_column_t *tm_columns_find(const tm_columns_t *columns, const char *name);

/* Appends a column. TM_E_ARGUMENT: bad name, name already there, unknown type, too many columns. */
tm_status_t tm_columns_add(tm_columns_t *columns, const char *name, tm_type_t type, uint64_t n,
                           const void *data, tm_error_t *err);

/* Element `row` of any column as a double (f16 included). row < column->n. */
double tm_column_get(const tm_column_t *column, uint64_t row);

/* Converts a whole column into out[0 … column->n). out is borrowed, room for column->n floats. */
void tm_column_to_f32(const tm_column_t *column, float *out);

/* Checks what holds for every event, whatever the back end: x, y, z present, all columns of equal
 * length, at most TM_POINTS_MAX rows, positions finite and within TM_POSITION_MAX_MM. The text names
 * the column and the row. *n_points is set on success. */
tm_status_t tm_event_check(const tm_columns_t *event, uint32_t *n_points, tm_error_t *err);

/* Start values for a fit of each candidate, at its point of closest approach to the z axis; good to
 * some per cent of pT and some tenths of a millimetre (docs/formats.md). charge 0: this candidate has
 * none, and zeros. Arrays of n_tracks, or all NULL. */
typedef struct {
    float *pt;      /* GeV */
    float *phi;     /* of the momentum, radians */
    float *eta;     /* of the momentum */
    float *d0;      /* mm: −x·sin φ + y·cos φ of that point */
    float *z0;      /* mm */
    int8_t *charge; /* e, −1 or 1 */
} tm_starts_t;

/* Track candidates as compressed sparse rows, and the label of each space point.
 * Tracks are ordered by their least space point index; the space points of a track are ordered as
 * the back end found them (the gnn: outward from the origin). */
typedef struct {
    uint32_t n_points; /* space points of the event */
    uint32_t n_tracks;
    uint32_t *offsets; /* n_tracks + 1; track t is indices[offsets[t] … offsets[t+1]) */
    uint32_t *indices; /* offsets[n_tracks]; space point rows, each at most once */
    float *scores;     /* n_tracks, in [0, 1]: mean edge score of the candidate */
    tm_starts_t starts;
} tm_tracks_t;

/* Allocates for n_tracks candidates over n_indices points. *tracks is overwritten, not freed. */
tm_status_t tm_tracks_alloc(tm_tracks_t *tracks, uint32_t n_points, uint32_t n_tracks,
                            uint32_t n_indices, tm_error_t *err);
/* Adds start values, zeros all, to tracks without. */
tm_status_t tm_tracks_add_starts(tm_tracks_t *tracks, tm_error_t *err);
/* Frees the arrays and zeroes the struct. Safe on a zeroed struct. */
void tm_tracks_clear(tm_tracks_t *tracks);

/* Columns "offsets" (u32), "indices" (u32), "scores" (f32) that borrow from *tracks; with start values
 * also "pt", "phi", "eta", "d0", "z0" (f32) and "charge" (i8). */
tm_status_t tm_tracks_to_columns(const tm_tracks_t *tracks, tm_columns_t *columns, tm_error_t *err);

/* The reverse, checking everything (types, monotonic offsets, indices < n_points, none twice, start
 * values of all six columns or none, finite); copies, so that the columns may go. */
tm_status_t tm_tracks_from_columns(const tm_columns_t *columns, uint32_t n_points,
                                   tm_tracks_t *tracks, tm_error_t *err);

/* How long each stage took, in the order in which they ran. */
typedef struct {
    uint32_t count;
    struct {
        char name[TM_STAGE_NAME_MAX + 1];
        uint32_t us;
    } stage[TM_STAGES_MAX];
} tm_timings_t;

/* Appends a stage; one too many is dropped silently (timings are information, not results). */
void tm_timings_add(tm_timings_t *timings, const char *name, uint64_t us);

#ifdef __cplusplus
}
#endif
#endif
