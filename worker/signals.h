// SPDX-License-Identifier: Apache-2.0
/*
 * The signals of the worker. SIGTERM, SIGINT and SIGUSR1 ask it to drain; the second SIGTERM or
 * SIGINT ends the process at once, from within the handler, so that it works whatever the other
 * threads are doing.
 *
 * A handler and not signalfd: libraries such as OpenBLAS start threads before main, which do not
 * block the signals and would take them away with their default action.
 */
#ifndef TM_WORKER_SIGNALS_H
#define TM_WORKER_SIGNALS_H

#include "wire/error.h"

/* Call once, early in main. */
tm_status_t tm_signals_catch(tm_error_t *err);

/* Becomes readable when a signal has come; -1 before tm_signals_catch. */
int tm_signals_fd(void);

/* The name of the next signal that has come ("SIGTERM"); NULL: none. Does not wait. */
const char *tm_signals_next(void);

#endif
