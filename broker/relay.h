// SPDX-License-Identifier: Apache-2.0
/*
 * Relay: the broker's own thread. It turns messages into calls of the scheduler and the scheduler's
 * actions into messages, and never waits for a peer. Payloads pass by reference, never read.
 *
 * Threads: all calls from one thread.
 */
#ifndef TM_BROKER_RELAY_H
#define TM_BROKER_RELAY_H

#include "broker/exchange.h"
#include "broker/options.h"

typedef struct tm_relay tm_relay_t;

/* Binds both ROUTER sockets. options and exchange (NULL: no HTTP) are borrowed until destroy. */
tm_status_t tm_relay_new(const tm_options_t *options, tm_exchange_t *exchange, tm_relay_t **out,
                         tm_error_t *err);
/* Waits a moment for the last messages to leave. */
void tm_relay_destroy(tm_relay_t **p);

const char *tm_relay_client_endpoints(const tm_relay_t *relay);
const char *tm_relay_worker_endpoints(const tm_relay_t *relay);

/* Runs until drained after the first signal, or until the second one. signal_fd: a signalfd of
 * SIGTERM and SIGINT. */
tm_status_t tm_relay_run(tm_relay_t *relay, int signal_fd, tm_error_t *err);

#endif
