// SPDX-License-Identifier: Apache-2.0
/*
 * The broker's log: one line per event on stderr, "2026-11-23T08:28:07.123Z info  text". Control
 * bytes in the text become '?', so that a peer's name cannot forge lines.
 *
 * Threads: any; a line is written with one call. The level is set before threads start.
 */
#ifndef TM_BROKER_LOG_H
#define TM_BROKER_LOG_H

#include <stdbool.h>

typedef enum { TM_LOG_ERROR, TM_LOG_WARN, TM_LOG_INFO, TM_LOG_DEBUG } tm_log_level_t;

void tm_log_set_level(tm_log_level_t level);
bool tm_log_enabled(tm_log_level_t level);
/* False: no such name ("error", "warn", "info", "debug"). */
bool tm_log_level_parse(const char *name, tm_log_level_t *level);
void tm_log(tm_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
