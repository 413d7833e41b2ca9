// SPDX-License-Identifier: Apache-2.0
/*
 * Command lines from a table: getopt_long does the reading, the table also makes the help.
 */
#ifndef TM_CLI_OPTIONS_H
#define TM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "client/score.h"

typedef enum {
    TM_OPTION_FLAG,   /* bool *: becomes true */
    TM_OPTION_TEXT,   /* const char **: borrowed from argv */
    TM_OPTION_COUNT,  /* uint32_t * */
    TM_OPTION_NUMBER, /* double * */
} tm_option_kind_t;

typedef struct {
    const char *name;     /* long name; NULL: `help` is a heading */
    const char *argument; /* shown after the name; NULL for flags */
    const char *help;
    tm_option_kind_t kind;
    void *value;
    double least, most; /* of counts and numbers */
} tm_option_t;

typedef struct {
    const char *usage;    /* "find [options] EVENT…" */
    const char *about;    /* paragraphs under it */
    const char *examples; /* lines at the end; indented already */
} tm_usage_t;

/* Reads argv; --help prints the help on stdout. Returns true to go on, with *first the index of the
 * first operand (operands are moved to the end of argv); false: leave with *exit_code. */
bool tm_options_parse(int argc, char **argv, const tm_option_t *options, int n_options,
                      const tm_usage_t *usage, int *first, int *exit_code);

/* The selection options of find, score and display. */
#define TM_SELECTION_OPTIONS(s) \
    { \
        NULL, NULL, "Which particles should be found (with truth in the event files)", 0, NULL, \
        0,    0}, \
        {"pt", "GEV", "transverse momentum above this (0.9)", TM_OPTION_NUMBER, &(s)->pt_min_gev, \
         0,    1e6}, \
        {"eta", "ETA", "pseudorapidity |eta| below this (4)", TM_OPTION_NUMBER, &(s)->eta_max, \
         0,     100}, \
        {"radius", \
         "MM", \
         "made closer to the beam line than this (any)", \
         TM_OPTION_NUMBER, \
         &(s)->radius_max_mm, \
         0, \
         1e30}, \
        {"hits", "N", "with at least so many space points (3)", TM_OPTION_COUNT, &(s)->hits_min, \
         1,      1e6}, \
        {"neutral", NULL, "neutral particles too", TM_OPTION_FLAG, &(s)->neutral_too, 0, 0}, \
        {"secondaries", \
         NULL, \
         "particles made in the detector too", \
         TM_OPTION_FLAG, \
         &(s)->secondaries_too, \
         0, \
         0}, \
        {"min-track-hits", \
         "N", \
         "count tracks from so many space points on (3)", \
         TM_OPTION_COUNT, \
         &(s)->track_hits_min, \
         1, \
         1e6}, \
    { \
        "first-particle", NULL, "a point of merged clusters belongs to its first particle alone", \
            TM_OPTION_FLAG, &(s)->first_only, 0, 0 \
    }

#endif
