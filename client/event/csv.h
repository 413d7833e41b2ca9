// SPDX-License-Identifier: Apache-2.0
/*
 * Comma-separated numbers with a header line, read as typed columns by name.
 *
 * The file may be gzip- or xz-compressed. The first line names the columns; every further line has
 * as many cells. LF or CRLF; blank lines only at the end; so row i stands in line i + 2. Numbers are
 * read exactly as strtof/strtod read them; NaN, infinity, overflow and trailing text are refused.
 * Columns that nobody asked for are not looked at.
 *
 * Ownership: the table owns everything; tm_csv_close frees it. Threads: none shared.
 * Errors: TM_E_FILE; texts name the file, the line and the column.
 */
#ifndef TM_CLIENT_EVENT_CSV_H
#define TM_CLIENT_EVENT_CSV_H

#include <stdint.h>

#include "client/event/blob.h"

#define TM_CSV_COLUMNS_MAX 64 /* in a file */
#define TM_CSV_FIELDS_MAX 16  /* asked for at once */

typedef enum {
    TM_CSV_F32, /* float */
    TM_CSV_F64, /* double */
    TM_CSV_I64, /* int64_t */
    TM_CSV_ID,  /* uint64_t; -1 is read as UINT64_MAX ("none") */
} tm_csv_kind_t;

typedef struct {
    const char *name;
    tm_csv_kind_t kind;
    bool required;
    void *data; /* out: one element per row, owned by the table; NULL: no such column */
} tm_csv_field_t;

typedef struct {
    char *path;
    tm_blob_t blob;
    uint32_t n_columns;
    struct {
        const char *name; /* in the blob */
        uint32_t bytes;
    } column[TM_CSV_COLUMNS_MAX];
    const char *body; /* first byte after the header line */
    uint32_t n_owned;
    void *owned[TM_CSV_FIELDS_MAX];
} tm_csv_t;

/* Reads the file and its header line. *csv is overwritten; after an error it is empty. */
tm_status_t tm_csv_open(const char *path, tm_csv_t *csv, tm_error_t *err);
/* The same from bytes in memory; the blob is taken, in case of an error too. */
tm_status_t tm_csv_open_blob(const char *path, tm_blob_t *blob, tm_csv_t *csv, tm_error_t *err);
void tm_csv_close(tm_csv_t *csv);

bool tm_csv_has(const tm_csv_t *csv, const char *column);

/* Reads the fields' columns, at most TM_CSV_FIELDS_MAX; once per table. More than max_rows rows are
 * refused. */
tm_status_t tm_csv_read(tm_csv_t *csv, tm_csv_field_t *fields, uint32_t n_fields, uint32_t max_rows,
                        uint32_t *n_rows, tm_error_t *err);

/* The line of a row, for error texts. */
static inline uint32_t tm_csv_line(uint32_t row) {
    return row + 2;
}

#endif
