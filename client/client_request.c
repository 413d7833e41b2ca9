// SPDX-License-Identifier: Apache-2.0
#include "client/client_request.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 64u

void tm_blob_unref(tm_blob_t *blob) {
    if (blob && atomic_fetch_sub(&blob->refs, 1) == 1)
        free(blob);
}

/* What libzmq hands back when it has sent a message. */
typedef struct {
    tm_blob_t *blob;
    atomic_uint *held;
} loan_t;

static void end_loan(void *data, void *hint) {
    (void)data;
    loan_t *loan = hint;
    tm_blob_unref(loan->blob);
    atomic_fetch_sub(loan->held, 1);
    free(loan);
}

tm_status_t tm_blob_message(tm_blob_t *blob, atomic_uint *held, zmq_msg_t *message,
                            tm_error_t *err) {
    loan_t *loan = malloc(sizeof *loan);
    if (!loan || zmq_msg_init_data(message, blob->data, blob->bytes, end_loan, loan)) {
        free(loan);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory to send a request");
    }
    *loan = (loan_t){.blob = blob, .held = held};
    atomic_fetch_add(&blob->refs, 1);
    atomic_fetch_add(held, 1);
    return TM_OK;
}

tm_status_t tm_request_new(const tm_columns_t *event, uint32_t n_points, tm_request_t **out,
                           tm_error_t *err) {
    *out = NULL;
    uint8_t columns[TM_MAP_MAX_BYTES];
    tm_slice_t field;
    size_t bytes = tm_payload_bytes(event);
    if (bytes > TM_PAYLOAD_MAX_BYTES)
        return tm_error_set(err, TM_E_TOO_LARGE,
                            "the event is %zu bytes, a request carries at most %u: use smaller "
                            "column types or drop columns that the model does not read",
                            bytes, TM_PAYLOAD_MAX_BYTES);
    tm_request_t *request = calloc(1, sizeof *request);
    if (!request)
        goto no_memory;
    request->n_points = n_points;
    request->answer = calloc(1, sizeof *request->answer);
    request->payload = malloc(sizeof *request->payload + bytes);
    if (!request->answer || !request->payload)
        goto no_memory;
    atomic_init(&request->payload->refs, 1);
    request->payload->bytes = bytes;
    tm_status_t status = tm_payload_encode(event, request->payload->data, columns, &field, err);
    if (status) {
        tm_request_destroy(&request);
        return status;
    }
    request->columns = malloc(field.bytes);
    if (!request->columns)
        goto no_memory;
    memcpy(request->columns, field.data, field.bytes);
    request->columns_bytes = field.bytes;
    *out = request;
    return TM_OK;
no_memory:
    tm_request_destroy(&request);
    return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an event of %zu bytes", bytes);
}

void tm_request_drop_event(tm_request_t *request) {
    tm_blob_unref(request->payload);
    request->payload = NULL;
    free(request->columns);
    request->columns = NULL;
}

void tm_request_destroy(tm_request_t **p) {
    if (!p || !*p)
        return;
    tm_request_drop_event(*p);
    tm_answer_destroy(&(*p)->answer);
    free(*p);
    *p = NULL;
}

void tm_answer_destroy(tm_answer_t **p) {
    if (!p || !*p)
        return;
    tm_tracks_clear(&(*p)->tracks);
    free(*p);
    *p = NULL;
}

/* Serials count up from 1, so their low bits spread evenly. */
static tm_request_t **bucket_of(const tm_request_table_t *table, uint64_t serial) {
    return &table->buckets[serial & (table->n_buckets - 1)];
}

static tm_status_t grow(tm_request_table_t *table, tm_error_t *err) {
    uint32_t n_buckets = table->n_buckets ? 2 * table->n_buckets : BUCKETS_MIN;
    tm_request_table_t grown = {.count = table->count, .n_buckets = n_buckets};
    grown.buckets = calloc(n_buckets, sizeof(tm_request_t *));
    if (!grown.buckets)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u requests", n_buckets);
    for (uint32_t i = 0; i < table->n_buckets; i++) {
        tm_request_t *next;
        for (tm_request_t *request = table->buckets[i]; request; request = next) {
            next = request->bucket_next;
            tm_request_t **bucket = bucket_of(&grown, request->serial);
            request->bucket_next = *bucket;
            *bucket = request;
        }
    }
    free(table->buckets);
    *table = grown;
    return TM_OK;
}

tm_status_t tm_request_table_add(tm_request_table_t *table, tm_request_t *request,
                                 tm_error_t *err) {
    if (table->count == table->n_buckets) {
        tm_status_t status = grow(table, err);
        if (status)
            return status;
    }
    tm_request_t **bucket = bucket_of(table, request->serial);
    request->bucket_next = *bucket;
    *bucket = request;
    table->count++;
    return TM_OK;
}

tm_request_t *tm_request_table_find(const tm_request_table_t *table, uint64_t serial) {
    if (table->n_buckets == 0)
        return NULL;
    tm_request_t *request = *bucket_of(table, serial);
    while (request && request->serial != serial)
        request = request->bucket_next;
    return request;
}

void tm_request_table_remove(tm_request_table_t *table, tm_request_t *request) {
    tm_request_t **at = bucket_of(table, request->serial);
    while (*at != request) {
        assert(*at);
        at = &(*at)->bucket_next;
    }
    *at = request->bucket_next;
    table->count--;
}

void tm_request_table_clear(tm_request_table_t *table) {
    for (uint32_t i = 0; i < table->n_buckets; i++) {
        tm_request_t *next;
        for (tm_request_t *request = table->buckets[i]; request; request = next) {
            next = request->bucket_next;
            tm_request_destroy(&request);
        }
    }
    free(table->buckets);
    *table = (tm_request_table_t){0};
}
