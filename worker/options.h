// SPDX-License-Identifier: Apache-2.0
/* The command line of trackmill-worker. */
#ifndef TM_WORKER_OPTIONS_H
#define TM_WORKER_OPTIONS_H

#include "worker/session.h"

#define TM_OPTIONS_ARGUMENTS_MAX 64 /* --model */
#define TM_OPTIONS_TEXT_MAX 4096    /* of all brokers together */

typedef struct {
    tm_session_options_t session; /* identity: name and slots only */
    const tm_backend_t *backend;
    const char *model[TM_OPTIONS_ARGUMENTS_MAX]; /* borrowed from argv */
    int n_models;
    int threads;        /* per slot */
    uint32_t batch;     /* events run together at most; 0: the back end chooses */
    const char *device; /* borrowed from argv; NULL: the back end chooses */
    bool help, version;
    char name[TM_NAME_MAX + 1];
    char brokers[TM_OPTIONS_TEXT_MAX]; /* what session.broker points into */
} tm_options_t;

/* Reads argv; an error's text says which option and what it should be. *options keeps pointers into
 * itself: do not copy it. */
tm_status_t tm_options_parse(int argc, char *argv[], tm_options_t *options, tm_error_t *err);

extern const char tm_options_help[];

#endif
