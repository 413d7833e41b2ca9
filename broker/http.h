// SPDX-License-Identifier: Apache-2.0
/*
 * HTTP: /livez, /readyz, /metrics (Prometheus text) and /stats (JSON), in a thread of its own.
 *
 * /livez answers 200 while the broker's thread answers, /readyz while it also takes requests.
 */
#ifndef TM_BROKER_HTTP_H
#define TM_BROKER_HTTP_H

#include "broker/exchange.h"

typedef struct tm_http tm_http_t;

/* Listens on host:port (port "0": a free one) and starts the thread. exchange: borrowed. */
tm_status_t tm_http_new(const char *host, const char *port, tm_exchange_t *exchange,
                        tm_http_t **out, tm_error_t *err);
/* Joins the thread. */
void tm_http_destroy(tm_http_t **p);

/* "127.0.0.1:5572", with the real port. */
const char *tm_http_address(const tm_http_t *http);

#endif
