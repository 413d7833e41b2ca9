// SPDX-License-Identifier: Apache-2.0
/*
 * What the sub-commands of `trackmill` share: exit codes, the entry points and a few small functions.
 * Texts for people go to stderr with one "trackmill: " line per fault; results go to stdout.
 */
#ifndef TM_CLI_CLI_H
#define TM_CLI_CLI_H

#include <stdint.h>

#include "wire/error.h"

/* Exit codes, as documented in --help. Stopped by a signal: 128 + its number (Ctrl-C: 130). */
enum {
    TM_EXIT_OK = 0,
    TM_EXIT_FAILED = 1, /* an event, a file or a broker failed */
    TM_EXIT_USAGE = 2,  /* the command line is wrong */
};

/* argv[0] is the sub-command's name. Each returns the exit code. */
int tm_cmd_find(int argc, char **argv);
int tm_cmd_score(int argc, char **argv);
int tm_cmd_display(int argc, char **argv);
int tm_cmd_status(int argc, char **argv);
int tm_cmd_bench(int argc, char **argv);

/* "trackmill: <text>\n" on stderr. */
void tm_cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* "DIR/EVENT-tracks.csv", allocated; NULL: no memory. */
char *tm_cli_tracks_path(const char *folder, const char *event);
/* "DIR/EVENT-candidates.csv", likewise. */
char *tm_cli_candidates_path(const char *folder, const char *event);

/* Events that would share a name in one folder: complains and returns false. */
bool tm_cli_names_differ(char *const *paths, int n);

/* The number with thousands separated: "156,654". Returns `out`. */
#define TM_CLI_NUMBER_BYTES 32
const char *tm_cli_thousands(uint64_t number, char out[TM_CLI_NUMBER_BYTES]);
/* A rate in percent, "99.54 %", or "-" for NaN. Returns `out`. */
const char *tm_cli_percent(double rate, char out[TM_CLI_NUMBER_BYTES]);

/* Monotonic clock, microseconds. */
uint64_t tm_cli_now_us(void);

#endif
