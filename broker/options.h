// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of trackmill-broker.
 */
#ifndef TM_BROKER_OPTIONS_H
#define TM_BROKER_OPTIONS_H

#include "broker/core/scheduler.h"
#include "broker/log.h"

#define TM_ENDPOINTS_MAX 16

typedef struct {
    const char *client_endpoints[TM_ENDPOINTS_MAX], *worker_endpoints[TM_ENDPOINTS_MAX];
    uint32_t n_client_endpoints, n_worker_endpoints;
    char http_host[256]; /* "": no HTTP */
    char http_port[16];
    int io_threads;
    uint64_t drain_timeout_ms;
    tm_log_level_t log_level;
    tm_sched_config_t sched; /* epoch left 0 */
} tm_options_t;

typedef enum { TM_OPTIONS_RUN, TM_OPTIONS_EXIT } tm_options_next_t;

/* Parses. TM_OPTIONS_EXIT in *next: --help or --version was asked for and printed on stdout.
 * TM_E_ARGUMENT: the text says what is wrong with which option. Strings are borrowed from argv. */
tm_status_t tm_options_parse(int argc, char **argv, tm_options_t *options, tm_options_next_t *next,
                             tm_error_t *err);

#endif
