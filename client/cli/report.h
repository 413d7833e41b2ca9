// SPDX-License-Identifier: Apache-2.0
/*
 * What `find` and `score` print: a table for people, or one JSON document for programs.
 */
#ifndef TM_CLI_REPORT_H
#define TM_CLI_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "client/cli/finder.h"
#include "client/score.h"

/* One event's results. */
typedef struct {
    char name[TM_EVENT_NAME_BYTES];
    const char *path; /* of the event */
    tm_status_t status;
    tm_error_t error; /* unless TM_OK */
    uint32_t n_points, n_tracks;
    bool scored;
    tm_score_t score;
    char *output;     /* tracks file, or NULL; allocated */
    tm_found_t found; /* without the tracks; zeroed for `score` */
} tm_row_t;

typedef struct {
    int name_width;
    bool with_times;     /* find */
    bool with_score;     /* columns of rates */
    tm_timings_t stages; /* columns: the stages of the first event answered */
    bool headed;         /* the column titles are printed */
} tm_table_t;

/* Prints the row (and before the first one, the titles). */
void tm_table_print(tm_table_t *table, FILE *out, const tm_row_t *row);

/* The lines under the table of `score`, in words. */
void tm_report_score(FILE *out, const tm_score_t *score, const tm_score_options_t *options,
                     bool with_bins);

/* JSON objects; NULL: no memory. */
json_t *tm_report_row_json(const tm_row_t *row);
json_t *tm_report_score_json(const tm_score_t *score);

#endif
