// SPDX-License-Identifier: Apache-2.0
/*
 * The worker's log: one line per event on stderr, with the time (UTC) and the level. The level is
 * set once before any thread starts; tm_log may be called from any thread.
 */
#ifndef TM_WORKER_LOG_H
#define TM_WORKER_LOG_H

#include <stdbool.h>

typedef enum { TM_LOG_ERROR, TM_LOG_WARN, TM_LOG_INFO, TM_LOG_DEBUG } tm_log_level_t;

/* "error", "warn", "info", "debug". False: no such level, nothing changed. */
bool tm_log_set_level(const char *name);

void tm_log(tm_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
