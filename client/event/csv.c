// SPDX-License-Identifier: Apache-2.0
#include "client/event/csv.h"

#include <stdlib.h>
#include <string.h>

#include "client/event/number.h"

#define SHOWN_BYTES 24 /* of a bad cell in an error text */

static size_t element_bytes(tm_csv_kind_t kind) {
    return kind == TM_CSV_F32 ? sizeof(float) : sizeof(uint64_t);
}

/* End of the line that starts at p, without CR; *next: start of the line after it. */
static const char *line_end(const char *p, const char *end, const char **next) {
    const char *newline = memchr(p, '\n', (size_t)(end - p));
    *next = newline ? newline + 1 : end;
    newline = newline ? newline : end;
    return newline > p && newline[-1] == '\r' ? newline - 1 : newline;
}

static tm_status_t read_header(tm_csv_t *csv, tm_error_t *err) {
    static const char bom[] = "\xEF\xBB\xBF";
    const char *p = csv->blob.data, *end = p + csv->blob.bytes;
    if (csv->blob.bytes >= sizeof bom - 1 && memcmp(p, bom, sizeof bom - 1) == 0) {
        p += sizeof bom - 1;
    }
    const char *stop = line_end(p, end, &csv->body);
    if (p == stop) {
        return tm_error_set(err, TM_E_FILE, "%s: line 1: empty; a line of column names is wanted",
                            csv->path);
    }
    for (;;) {
        const char *comma = memchr(p, ',', (size_t)(stop - p));
        const char *last = comma ? comma : stop;
        const char *first = p;
        while (first < last && (*first == ' ' || *first == '"')) {
            first++;
        }
        while (last > first && (last[-1] == ' ' || last[-1] == '"')) {
            last--;
        }
        if (csv->n_columns == TM_CSV_COLUMNS_MAX) {
            return tm_error_set(err, TM_E_FILE, "%s: line 1: more than %d columns", csv->path,
                                TM_CSV_COLUMNS_MAX);
        }
        csv->column[csv->n_columns].name = first;
        csv->column[csv->n_columns++].bytes = (uint32_t)(last - first);
        if (!comma) {
            return TM_OK;
        }
        p = comma + 1;
    }
}

tm_status_t tm_csv_open_blob(const char *path, tm_blob_t *blob, tm_csv_t *csv, tm_error_t *err) {
    *csv = (tm_csv_t){.blob = *blob, .path = strdup(path)};
    *blob = (tm_blob_t){0};
    tm_status_t status = csv->path ? read_header(csv, err)
                                   : tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    if (status != TM_OK) {
        tm_csv_close(csv);
    }
    return status;
}

tm_status_t tm_csv_open(const char *path, tm_csv_t *csv, tm_error_t *err) {
    *csv = (tm_csv_t){0};
    tm_blob_t blob;
    tm_status_t status = tm_blob_read(path, &blob, err);
    return status == TM_OK ? tm_csv_open_blob(path, &blob, csv, err) : status;
}

void tm_csv_close(tm_csv_t *csv) {
    for (uint32_t i = 0; i < csv->n_owned; i++) {
        free(csv->owned[i]);
    }
    tm_blob_clear(&csv->blob);
    free(csv->path);
    *csv = (tm_csv_t){0};
}

static bool named(const tm_csv_t *csv, uint32_t column, const char *name) {
    size_t n = strlen(name);
    return csv->column[column].bytes == n && memcmp(csv->column[column].name, name, n) == 0;
}

bool tm_csv_has(const tm_csv_t *csv, const char *column) {
    for (uint32_t c = 0; c < csv->n_columns; c++) {
        if (named(csv, c, column)) {
            return true;
        }
    }
    return false;
}

static bool parse_cell(tm_csv_kind_t kind, const char *p, const char *end, void *data,
                       uint32_t row) {
    switch (kind) {
    case TM_CSV_F32:
        return tm_number_f32(p, end, (float *)data + row);
    case TM_CSV_F64:
        return tm_number_f64(p, end, (double *)data + row);
    case TM_CSV_I64:
        return tm_number_i64(p, end, (int64_t *)data + row);
    case TM_CSV_ID:
        if (end - p == 2 && p[0] == '-' && p[1] == '1') {
            ((uint64_t *)data)[row] = UINT64_MAX;
            return true;
        }
        return tm_number_u64(p, end, (uint64_t *)data + row);
    }
    return false;
}

static tm_status_t bad_cell(const tm_csv_t *csv, const tm_csv_field_t *field, uint32_t row,
                            const char *p, const char *end, tm_error_t *err) {
    bool whole = field->kind == TM_CSV_I64 || field->kind == TM_CSV_ID;
    int shown = (int)(end - p > SHOWN_BYTES ? SHOWN_BYTES : end - p);
    return tm_error_set(err, TM_E_FILE, "%s: line %u, column %s: '%.*s' is not a %s number",
                        csv->path, tm_csv_line(row), field->name, shown, p,
                        whole ? "whole" : "finite");
}

/* Parses one line's wanted cells into row `row`. */
static tm_status_t read_row(const tm_csv_t *csv, const tm_csv_field_t *const *wanted, uint32_t row,
                            const char *p, const char *stop, tm_error_t *err) {
    for (uint32_t c = 0; c < csv->n_columns; c++) {
        const char *comma = memchr(p, ',', (size_t)(stop - p));
        const char *end = comma ? comma : stop;
        if (!comma != (c + 1 == csv->n_columns)) {
            return tm_error_set(
                err, TM_E_FILE, "%s: line %u: %s than %u cells, as many as line 1 has names",
                csv->path, tm_csv_line(row), comma ? "more" : "fewer", csv->n_columns);
        }
        if (wanted[c] && !parse_cell(wanted[c]->kind, p, end, wanted[c]->data, row)) {
            return bad_cell(csv, wanted[c], row, p, end, err);
        }
        p = end + 1;
    }
    return TM_OK;
}

/* Finds the header column of each field. */
static tm_status_t bind_fields(const tm_csv_t *csv, tm_csv_field_t *fields, uint32_t n_fields,
                               tm_csv_field_t **wanted, tm_error_t *err) {
    for (uint32_t f = 0; f < n_fields; f++) {
        bool found = false;
        fields[f].data = NULL;
        for (uint32_t c = 0; c < csv->n_columns; c++) {
            if (!named(csv, c, fields[f].name)) {
                continue;
            }
            if (found) {
                return tm_error_set(err, TM_E_FILE, "%s: line 1: column %s is there twice",
                                    csv->path, fields[f].name);
            }
            wanted[c] = &fields[f];
            found = true;
        }
        if (!found && fields[f].required) {
            return tm_error_set(err, TM_E_FILE, "%s: line 1: column %s is missing", csv->path,
                                fields[f].name);
        }
    }
    return TM_OK;
}

/* (Re)allocates the fields' arrays for `rows` rows. */
static tm_status_t reserve(tm_csv_t *csv, tm_csv_field_t **wanted, uint32_t rows, tm_error_t *err) {
    uint32_t slot = 0;
    for (uint32_t c = 0; c < csv->n_columns; c++) {
        if (!wanted[c]) {
            continue;
        }
        void *data = realloc(csv->owned[slot], (size_t)rows * element_bytes(wanted[c]->kind));
        if (!data) {
            return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %u rows", csv->path, rows);
        }
        wanted[c]->data = csv->owned[slot++] = data;
        csv->n_owned = slot > csv->n_owned ? slot : csv->n_owned;
    }
    return TM_OK;
}

tm_status_t tm_csv_read(tm_csv_t *csv, tm_csv_field_t *fields, uint32_t n_fields, uint32_t max_rows,
                        uint32_t *n_rows, tm_error_t *err) {
    tm_csv_field_t *wanted[TM_CSV_COLUMNS_MAX] = {NULL};
    const char *end = csv->blob.data + csv->blob.bytes;
    const char *p = csv->body, *next;
    uint32_t row = 0, capacity = 0;
    tm_status_t status = n_fields <= TM_CSV_FIELDS_MAX && csv->n_owned == 0
                             ? bind_fields(csv, fields, n_fields, wanted, err)
                             : tm_error_set(err, TM_E_ARGUMENT, "%s: fields", csv->path);
    while (status == TM_OK) {
        const char *stop = line_end(p, end, &next);
        if (p == end) {
            break;
        }
        if (p == stop) { /* blank: all the rest must be */
            while (p < end && (*p == '\n' || *p == '\r')) {
                p++;
            }
            if (p < end) {
                status =
                    tm_error_set(err, TM_E_FILE, "%s: line %u: blank", csv->path, tm_csv_line(row));
            }
            break;
        }
        if (row == max_rows) {
            return tm_error_set(err, TM_E_FILE, "%s: more than %u rows", csv->path, max_rows);
        }
        if (row == capacity) {
            /* the first line's length tells how many there may be */
            size_t guess = (size_t)(end - p) / (size_t)(next - p) + 16;
            guess = row == 0 ? guess : 2 * (size_t)row;
            capacity = guess > max_rows ? max_rows : (uint32_t)guess;
            status = reserve(csv, wanted, capacity, err);
        }
        if (status == TM_OK) {
            status = read_row(csv, (const tm_csv_field_t *const *)wanted, row, p, stop, err);
        }
        row++;
        p = next;
    }
    if (status == TM_OK && row == 0) {
        status = reserve(csv, wanted, 1, err); /* so that a column that is there is not NULL */
    }
    *n_rows = row;
    return status;
}
