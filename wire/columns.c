// SPDX-License-Identifier: Apache-2.0
#include "wire/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "wire/f16.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "arrays travel as they lie in memory, and they travel little-endian");

static const char *type_name(tm_type_t type) {
    static const char *const names[] = {"?",   "u8",  "i8",  "u16", "i16", "f16",
                                        "u32", "i32", "f32", "u64", "i64", "f64"};
    return tm_type_bytes(type) ? names[type] : names[0];
}

uint32_t tm_type_bytes(tm_type_t type) {
    switch (type) {
    case TM_U8:
    case TM_I8:
        return 1;
    case TM_U16:
    case TM_I16:
    case TM_F16:
        return 2;
    case TM_U32:
    case TM_I32:
    case TM_F32:
        return 4;
    case TM_U64:
    case TM_I64:
    case TM_F64:
        return 8;
    }
    return 0;
}

const tm_column_t *tm_columns_find(const tm_columns_t *columns, const char *name) {
    for (uint32_t i = 0; i < columns->count; i++) {
        if (strcmp(columns->column[i].name, name) == 0) {
            return &columns->column[i];
        }
    }
    return NULL;
}

static bool name_valid(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length <= TM_COLUMN_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == length;
}

tm_status_t tm_columns_add(tm_columns_t *columns, const char *name, tm_type_t type, uint64_t n,
                           const void *data, tm_error_t *err) {
    if (!name || !name_valid(name)) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "column name '%.40s': must be 1 to %d of a-z, 0-9 and _",
                            name ? name : "", TM_COLUMN_NAME_MAX);
    }
    if (tm_type_bytes(type) == 0) {
        return tm_error_set(err, TM_E_ARGUMENT, "column %s: unknown element type %d", name,
                            (int)type);
    }
    if (n > 0 && !data) {
        return tm_error_set(err, TM_E_ARGUMENT, "column %s: no data", name);
    }
    if (tm_columns_find(columns, name)) {
        return tm_error_set(err, TM_E_ARGUMENT, "column %s: there already", name);
    }
    if (columns->count >= TM_COLUMNS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "column %s: more than %d columns", name,
                            TM_COLUMNS_MAX);
    }
    tm_column_t *column = &columns->column[columns->count++];
    *column = (tm_column_t){.type = type, .n = n, .data = data};
    strcpy(column->name, name);
    return TM_OK;
}

double tm_column_get(const tm_column_t *column, uint64_t row) {
    switch (column->type) {
    case TM_U8:
        return ((const uint8_t *)column->data)[row];
    case TM_I8:
        return ((const int8_t *)column->data)[row];
    case TM_U16:
        return ((const uint16_t *)column->data)[row];
    case TM_I16:
        return ((const int16_t *)column->data)[row];
    case TM_F16:
        return (double)tm_f16_to_f32(((const uint16_t *)column->data)[row]);
    case TM_U32:
        return ((const uint32_t *)column->data)[row];
    case TM_I32:
        return ((const int32_t *)column->data)[row];
    case TM_F32:
        return (double)((const float *)column->data)[row];
    case TM_U64:
        return (double)((const uint64_t *)column->data)[row];
    case TM_I64:
        return (double)((const int64_t *)column->data)[row];
    case TM_F64:
        return ((const double *)column->data)[row];
    }
    return NAN;
}

void tm_column_to_f32(const tm_column_t *column, float *out) {
    if (column->type == TM_F32) {
        if (column->n > 0) {
            memcpy(out, column->data, column->n * sizeof(float));
        }
        return;
    }
    for (uint64_t i = 0; i < column->n; i++) {
        out[i] = (float)tm_column_get(column, i);
    }
}

tm_status_t tm_event_check(const tm_columns_t *event, uint32_t *n_points, tm_error_t *err) {
    static const char *const positions[] = {"x", "y", "z"};
    const tm_column_t *position[3];
    for (int i = 0; i < 3; i++) {
        position[i] = tm_columns_find(event, positions[i]);
        if (!position[i]) {
            return tm_error_set(err, TM_E_MISSING_COLUMN,
                                "event: no column %s; x, y and z (f32, mm) are required",
                                positions[i]);
        }
        if (position[i]->type != TM_F32) {
            return tm_error_set(err, TM_E_BAD_EVENT,
                                "event: column %s is %s; positions must be f32, in mm",
                                positions[i], type_name(position[i]->type));
        }
    }
    uint64_t n = position[0]->n;
    for (uint32_t i = 0; i < event->count; i++) {
        if (event->column[i].n != n) {
            return tm_error_set(err, TM_E_BAD_EVENT,
                                "event: column %s has %llu rows, x has %llu; they must be equal",
                                event->column[i].name, (unsigned long long)event->column[i].n,
                                (unsigned long long)n);
        }
    }
    if (n > TM_POINTS_MAX) {
        return tm_error_set(err, TM_E_BAD_EVENT, "event: %llu space points, at most %u are taken",
                            (unsigned long long)n, TM_POINTS_MAX);
    }
    for (int i = 0; i < 3; i++) {
        const float *value = position[i]->data;
        for (uint64_t row = 0; row < n; row++) {
            /* written so that NaN fails it too */
            if (!(fabsf(value[row]) <= (float)TM_POSITION_MAX_MM)) {
                return tm_error_set(
                    err, TM_E_BAD_EVENT, "event: column %s, row %llu: %g is not within ±%g mm",
                    positions[i], (unsigned long long)row, (double)value[row], TM_POSITION_MAX_MM);
            }
        }
    }
    *n_points = (uint32_t)n;
    return TM_OK;
}

tm_status_t tm_tracks_alloc(tm_tracks_t *tracks, uint32_t n_points, uint32_t n_tracks,
                            uint32_t n_indices, tm_error_t *err) {
    *tracks = (tm_tracks_t){.n_points = n_points, .n_tracks = n_tracks};
    /* one more everywhere: offsets need it, the others are never empty allocations */
    tracks->offsets = calloc((size_t)n_tracks + 1, sizeof *tracks->offsets);
    tracks->indices = calloc((size_t)n_indices + 1, sizeof *tracks->indices);
    tracks->scores = calloc((size_t)n_tracks + 1, sizeof *tracks->scores);
    if (!tracks->offsets || !tracks->indices || !tracks->scores) {
        tm_tracks_clear(tracks);
        return tm_error_set(err, TM_E_NO_MEMORY,
                            "tracks: no memory for %u candidates over %u space points", n_tracks,
                            n_indices);
    }
    return TM_OK;
}

/* The columns of start values: all of f32 but the last. */
enum { STARTS_REAL = 5, STARTS = 6 };
static const char *const starts_names[STARTS] = {"pt", "phi", "eta", "d0", "z0", "charge"};

static void starts_arrays(const tm_starts_t *starts, float *real[STARTS_REAL]) {
    real[0] = starts->pt;
    real[1] = starts->phi;
    real[2] = starts->eta;
    real[3] = starts->d0;
    real[4] = starts->z0;
}

tm_status_t tm_tracks_add_starts(tm_tracks_t *tracks, tm_error_t *err) {
    size_t n = (size_t)tracks->n_tracks + 1; /* never an empty allocation */
    float *real = calloc(n, STARTS_REAL * sizeof *real);
    int8_t *charge = calloc(n, sizeof *charge);
    if (!real || !charge) {
        free(real);
        free(charge);
        return tm_error_set(err, TM_E_NO_MEMORY, "tracks: no memory for start values of %u",
                            tracks->n_tracks);
    }
    tracks->starts = (tm_starts_t){.pt = real,
                                   .phi = real + n,
                                   .eta = real + 2 * n,
                                   .d0 = real + 3 * n,
                                   .z0 = real + 4 * n,
                                   .charge = charge};
    return TM_OK;
}

void tm_tracks_clear(tm_tracks_t *tracks) {
    free(tracks->starts.pt); /* and the others of f32 behind it */
    free(tracks->starts.charge);
    free(tracks->offsets);
    free(tracks->indices);
    free(tracks->scores);
    *tracks = (tm_tracks_t){0};
}

tm_status_t tm_tracks_to_columns(const tm_tracks_t *tracks, tm_columns_t *columns,
                                 tm_error_t *err) {
    columns->count = 0;
    tm_status_t status = tm_columns_add(columns, "offsets", TM_U32, (uint64_t)tracks->n_tracks + 1,
                                        tracks->offsets, err);
    if (status == TM_OK) {
        status = tm_columns_add(columns, "indices", TM_U32, tracks->offsets[tracks->n_tracks],
                                tracks->indices, err);
    }
    if (status == TM_OK) {
        status = tm_columns_add(columns, "scores", TM_F32, tracks->n_tracks, tracks->scores, err);
    }
    if (tracks->starts.charge) {
        float *real[STARTS_REAL];
        starts_arrays(&tracks->starts, real);
        for (int k = 0; k < STARTS_REAL && status == TM_OK; k++) {
            status =
                tm_columns_add(columns, starts_names[k], TM_F32, tracks->n_tracks, real[k], err);
        }
        if (status == TM_OK) {
            status = tm_columns_add(columns, starts_names[STARTS_REAL], TM_I8, tracks->n_tracks,
                                    tracks->starts.charge, err);
        }
    }
    return status;
}

/* Finds a column of that type, TM_E_MALFORMED if there is none. */
static tm_status_t tracks_column(const tm_columns_t *columns, const char *name, tm_type_t type,
                                 const tm_column_t **out, tm_error_t *err) {
    *out = tm_columns_find(columns, name);
    if (!*out) {
        return tm_error_set(err, TM_E_MALFORMED, "tracks: no column %s", name);
    }
    if ((*out)->type != type) {
        return tm_error_set(err, TM_E_MALFORMED, "tracks: column %s is %s, must be %s", name,
                            type_name((*out)->type), type_name(type));
    }
    return TM_OK;
}

/* The columns of start values, all or none (*there), each right in itself. */
static tm_status_t starts_columns(const tm_columns_t *columns, uint64_t n_tracks,
                                  const tm_column_t *column[STARTS], bool *there, tm_error_t *err) {
    *there = false;
    for (int k = 0; k < STARTS; k++) {
        *there |= tm_columns_find(columns, starts_names[k]) != NULL;
    }
    for (int k = 0; k < STARTS && *there; k++) {
        tm_type_t type = k < STARTS_REAL ? TM_F32 : TM_I8;
        tm_status_t status = tracks_column(columns, starts_names[k], type, &column[k], err);
        if (status != TM_OK) {
            return status;
        }
        if (column[k]->n != n_tracks) {
            return tm_error_set(err, TM_E_MALFORMED, "tracks: %llu of %s for %llu candidates",
                                (unsigned long long)column[k]->n, starts_names[k],
                                (unsigned long long)n_tracks);
        }
    }
    for (uint64_t t = 0; t < n_tracks && *there; t++) {
        for (int k = 0; k < STARTS_REAL; k++) {
            float value = ((const float *)column[k]->data)[t];
            if (!isfinite(value)) {
                return tm_error_set(err, TM_E_MALFORMED, "tracks: %s %llu is not finite",
                                    starts_names[k], (unsigned long long)t);
            }
        }
        int8_t charge = ((const int8_t *)column[STARTS_REAL]->data)[t];
        if (charge < -1 || charge > 1) {
            return tm_error_set(err, TM_E_MALFORMED, "tracks: charge %llu is %d, must be -1 to 1",
                                (unsigned long long)t, charge);
        }
    }
    return TM_OK;
}

static tm_status_t copy_starts(const tm_column_t *const column[STARTS], tm_tracks_t *tracks,
                               tm_error_t *err) {
    tm_status_t status = tm_tracks_add_starts(tracks, err);
    if (status != TM_OK || tracks->n_tracks == 0) {
        return status;
    }
    float *real[STARTS_REAL];
    starts_arrays(&tracks->starts, real);
    for (int k = 0; k < STARTS_REAL; k++) {
        memcpy(real[k], column[k]->data, tracks->n_tracks * sizeof *real[k]);
    }
    memcpy(tracks->starts.charge, column[STARTS_REAL]->data, tracks->n_tracks);
    return TM_OK;
}

tm_status_t tm_tracks_from_columns(const tm_columns_t *columns, uint32_t n_points,
                                   tm_tracks_t *tracks, tm_error_t *err) {
    *tracks = (tm_tracks_t){0};
    const tm_column_t *start[STARTS] = {0};
    bool with_starts = false;
    uint8_t *seen = NULL; /* one bit per space point */
    const tm_column_t *offsets, *indices, *scores;
    tm_status_t status = tracks_column(columns, "offsets", TM_U32, &offsets, err);
    if (status == TM_OK) {
        status = tracks_column(columns, "indices", TM_U32, &indices, err);
    }
    if (status == TM_OK) {
        status = tracks_column(columns, "scores", TM_F32, &scores, err);
    }
    if (status != TM_OK) {
        return status;
    }
    /* Each candidate may be empty but each space point is in one at most, so n_points bounds the
     * indices; the offsets are bounded by the payload they came in. */
    if (offsets->n == 0 || offsets->n - 1 != scores->n || scores->n > UINT32_MAX - 1) {
        return tm_error_set(err, TM_E_MALFORMED,
                            "tracks: %llu offsets for %llu scores, must be one more",
                            (unsigned long long)offsets->n, (unsigned long long)scores->n);
    }
    if (indices->n > n_points) {
        return tm_error_set(err, TM_E_MALFORMED, "tracks: %llu indices for %u space points",
                            (unsigned long long)indices->n, n_points);
    }
    uint32_t n_tracks = (uint32_t)scores->n, n_indices = (uint32_t)indices->n;
    const uint32_t *offset = offsets->data, *index = indices->data;
    const float *score = scores->data;
    if (offset[0] != 0 || offset[n_tracks] != n_indices) {
        return tm_error_set(err, TM_E_MALFORMED,
                            "tracks: offsets run from %u to %u, must be from 0 to %u", offset[0],
                            offset[n_tracks], n_indices);
    }
    for (uint32_t t = 0; t < n_tracks; t++) {
        if (offset[t] > offset[t + 1]) {
            return tm_error_set(err, TM_E_MALFORMED, "tracks: offset %u is %u, after %u", t + 1,
                                offset[t + 1], offset[t]);
        }
        if (!(score[t] >= 0.0f && score[t] <= 1.0f)) {
            return tm_error_set(err, TM_E_MALFORMED, "tracks: score %u is %g, must be 0 to 1", t,
                                (double)score[t]);
        }
    }
    status = starts_columns(columns, n_tracks, start, &with_starts, err);
    if (status != TM_OK) {
        return status;
    }
    seen = calloc((size_t)n_points / 8 + 1, 1);
    if (!seen) {
        return tm_error_set(err, TM_E_NO_MEMORY, "tracks: no memory to check %u space points",
                            n_points);
    }
    for (uint32_t i = 0; i < n_indices; i++) {
        if (index[i] >= n_points) {
            status = tm_error_set(err, TM_E_MALFORMED,
                                  "tracks: index %u is %u, the event has %u space points", i,
                                  index[i], n_points);
            goto cleanup;
        }
        uint8_t bit = (uint8_t)(1u << (index[i] & 7u));
        if (seen[index[i] / 8] & bit) {
            status = tm_error_set(err, TM_E_MALFORMED,
                                  "tracks: space point %u is in two candidates", index[i]);
            goto cleanup;
        }
        seen[index[i] / 8] |= bit;
    }
    status = tm_tracks_alloc(tracks, n_points, n_tracks, n_indices, err);
    if (status != TM_OK) {
        goto cleanup;
    }
    memcpy(tracks->offsets, offset, ((size_t)n_tracks + 1) * sizeof *offset);
    if (n_indices > 0) {
        memcpy(tracks->indices, index, n_indices * sizeof *index);
    }
    if (n_tracks > 0) {
        memcpy(tracks->scores, score, n_tracks * sizeof *score);
    }
    if (with_starts) {
        status = copy_starts(start, tracks, err);
    }
cleanup:
    if (status != TM_OK) {
        tm_tracks_clear(tracks);
    }
    free(seen);
    return status;
}

void tm_timings_add(tm_timings_t *timings, const char *name, uint64_t us) {
    if (timings->count >= TM_STAGES_MAX) {
        return;
    }
    size_t length = strlen(name);
    if (length > TM_STAGE_NAME_MAX) {
        length = TM_STAGE_NAME_MAX;
    }
    memcpy(timings->stage[timings->count].name, name, length);
    timings->stage[timings->count].name[length] = '\0';
    timings->stage[timings->count].us = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
    timings->count++;
}
