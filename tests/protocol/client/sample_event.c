// SPDX-License-Identifier: Apache-2.0
#include "sample_event.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "fake_broker.h"

void sample_event_make(sample_event_t *event, uint32_t n_points) {
    *event = (sample_event_t){0};
    event->x = malloc(n_points * sizeof(float));
    event->y = malloc(n_points * sizeof(float));
    event->z = malloc(n_points * sizeof(float));
    assert_true(event->x && event->y && event->z);
    for (uint32_t i = 0; i < n_points; i++) {
        float angle = 0.01f * (float)i;
        event->x[i] = 500.0f * cosf(angle);
        event->y[i] = 500.0f * sinf(angle);
        event->z[i] = 0.1f * (float)(i % 10000);
    }
    assert_int_equal(tm_columns_add(&event->columns, "x", TM_F32, n_points, event->x, NULL), TM_OK);
    assert_int_equal(tm_columns_add(&event->columns, "y", TM_F32, n_points, event->y, NULL), TM_OK);
    assert_int_equal(tm_columns_add(&event->columns, "z", TM_F32, n_points, event->z, NULL), TM_OK);
}

void sample_event_free(sample_event_t *event) {
    free(event->x);
    free(event->y);
    free(event->z);
    *event = (sample_event_t){0};
}

uint64_t sample_submit(tm_client_t *client, uint32_t ttl_ms) {
    sample_event_t event;
    sample_event_make(&event, SAMPLE_POINTS);
    uint64_t id = 0;
    tm_error_t error;
    tm_request_options_t options = {.ttl_ms = ttl_ms, .priority = TM_PRIORITY_DEFAULT};
    if (tm_client_submit(client, &event.columns, &options, &id, &error))
        fail_msg("submit: %s", error.text);
    sample_event_free(&event);
    assert_int_not_equal(id, 0);
    return id;
}

tm_answer_t *sample_wait(tm_client_t *client, uint64_t id) {
    tm_answer_t *answer = NULL;
    tm_error_t error;
    if (tm_client_wait(client, id, PATIENCE_MS, &answer, &error))
        fail_msg("wait: %s", error.text);
    if (!answer)
        fail_msg("no answer to request %llu", (unsigned long long)id);
    assert_int_equal(answer->id, id);
    return answer;
}

void sample_expect(tm_client_t *client, uint64_t id, tm_status_t status) {
    tm_answer_t *answer = sample_wait(client, id);
    if (answer->status != status)
        fail_msg("request %llu: %s instead of %s: %s", (unsigned long long)id,
                 tm_status_name(answer->status), tm_status_name(status), answer->error.text);
    tm_answer_destroy(&answer);
}
