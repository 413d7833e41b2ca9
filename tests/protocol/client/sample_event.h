// SPDX-License-Identifier: Apache-2.0
/* Events to send in tests: n space points on a spiral. */
#ifndef TM_TESTS_SAMPLE_EVENT_H
#define TM_TESTS_SAMPLE_EVENT_H

#include "client/trackmill.h"

#define SAMPLE_POINTS 5

typedef struct {
    tm_columns_t columns;
    float *x, *y, *z;
} sample_event_t;

void sample_event_make(sample_event_t *event, uint32_t n_points);
void sample_event_free(sample_event_t *event);

/* Submits an event of SAMPLE_POINTS points, which must be taken; ttl_ms 0: the usual one. */
uint64_t sample_submit(tm_client_t *client, uint32_t ttl_ms);
/* The answer of that request, which must come; the caller destroys it. */
tm_answer_t *sample_wait(tm_client_t *client, uint64_t id);
/* The answer must come and have that status. */
void sample_expect(tm_client_t *client, uint64_t id, tm_status_t status);

#endif
