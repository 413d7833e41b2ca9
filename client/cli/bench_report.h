// SPDX-License-Identifier: Apache-2.0
/*
 * What `bench` prints: a table for people, lines of a CSV file, one JSON document.
 *
 * The columns of the CSV file are explained in docs/benchmarks.md. The machine is named by its
 * processor and the number of cores, never by its host name.
 */
#ifndef TM_CLI_BENCH_REPORT_H
#define TM_CLI_BENCH_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "client/cli/bench_load.h"

/* In milliseconds unless the name says otherwise; NaN where nothing was answered. Quantiles are
 * nearest rank: a latency that some event really had. */
typedef struct {
    double seconds, events_per_s, points_per_s;
    double p50, p90, p99, max;                 /* total: submit to answer, seen by the caller */
    double queue, service, stages, overhead;   /* medians; overhead = total - stages, per event */
    double sent_per_point, received_per_point; /* bytes */
    double
        bytes_per_s;   /* requests and answers; each goes into the broker once and out of it once */
    double differing;  /* mean share of tracks without a twin in the reference */
    double load_cpu_s; /* processor time of the processes that made the load */
} tm_bench_figures_t;

/* What all lines of one command have in common. */
typedef struct {
    char machine[128]; /* "AMD EPYC 7763 64-Core Processor" */
    long cores;
    char date[24]; /* UTC: 2025-01-31T12:00:00Z */
    char mix[TM_EVENT_NAME_BYTES + 16];
    bool service; /* brokers asked, rather than engines in this process */
    bool open;    /* the open loop */
    bool evenly;  /* its arrivals evenly spaced */
    uint32_t n_events;
    double mean_points;
} tm_bench_setting_t;

/* The machine and the time are found out here. */
void tm_bench_setting_make(const tm_bench_events_t *events, bool service, tm_bench_setting_t *out);

/* Sorts the point's samples by their times, in turn. */
void tm_bench_figures_make(tm_bench_point_t *point, const tm_bench_meter_t *meter,
                           tm_bench_figures_t *out);

void tm_bench_print_titles(FILE *out, const tm_bench_setting_t *setting);
/* One line, and one more for each GPU and each watched process. */
void tm_bench_print_row(FILE *out, const tm_bench_setting_t *setting, const tm_bench_point_t *point,
                        const tm_bench_meter_t *meter, const tm_bench_figures_t *f);

/* "deadline=3;busy=1", or "". Returns `out`. */
const char *tm_bench_failures(const tm_bench_point_t *point, char *out, size_t bytes);

/* Opens to append, with a line of titles if the file is new. TM_E_FILE: it cannot be written, or has
 * other columns. */
tm_status_t tm_bench_csv_open(const char *path, FILE **out, tm_error_t *err);
void tm_bench_csv_row(FILE *out, const tm_bench_setting_t *setting, const tm_bench_point_t *point,
                      const tm_bench_meter_t *meter, const tm_bench_figures_t *f);

/* NULL: no memory. */
json_t *tm_bench_setting_json(const tm_bench_setting_t *setting);
json_t *tm_bench_row_json(const tm_bench_point_t *point, const tm_bench_meter_t *meter,
                          const tm_bench_figures_t *f);

#endif
