// SPDX-License-Identifier: Apache-2.0
/*
 * A snapshot as text: for Prometheus, and as JSON.
 */
#ifndef TM_BROKER_METRICS_H
#define TM_BROKER_METRICS_H

#include "broker/exchange.h"

/* Prometheus text format 0.0.4. A malloc'd string, NULL without memory. */
char *tm_metrics_text(const tm_snapshot_t *snapshot);
/* One JSON object. A malloc'd string, NULL without memory. */
char *tm_metrics_json(const tm_snapshot_t *snapshot);

#endif
