// SPDX-License-Identifier: Apache-2.0
/*
 * A request on its way through the client: the encoded event, kept until the answer is there, and
 * the answer, whose memory is taken at the start so that no request can end without one.
 *
 * Threads: tm_blob_unref from any (libzmq calls it in its I/O thread); the rest as each says.
 */
#ifndef TM_CLIENT_REQUEST_H
#define TM_CLIENT_REQUEST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <zmq.h>

#include "client/trackmill.h"

/* The payload frame, shared between the request and messages that libzmq has not sent yet. */
typedef struct {
    atomic_uint refs;
    size_t bytes;
    _Alignas(16) uint8_t data[];
} tm_blob_t;

void tm_blob_unref(tm_blob_t *blob);
/* A message that borrows the blob until libzmq has sent it; until then *held is one more. */
tm_status_t tm_blob_message(tm_blob_t *blob, atomic_uint *held, zmq_msg_t *message,
                            tm_error_t *err);

struct tm_session;

typedef struct tm_request {
    /* fixed from the start */
    uint64_t serial;
    uint32_t n_points, ttl_ms, priority;
    uint64_t submit_us, deadline_us;
    uint64_t held_bytes; /* counted against max_bytes until the answer is there */
    char model[2 * TM_NAME_MAX + 2];
    tm_blob_t *payload;
    uint8_t *columns; /* the "columns" field that describes the payload */
    uint32_t columns_bytes;

    /* of the client's thread */
    TAILQ_ENTRY(tm_request) link; /* in its session's `sent`, else in `pending` */
    struct tm_session *session;   /* where it was sent; NULL: pending */
    uint32_t sends;
    bool busy; /* the last broker that had it said BUSY */

    /* under the client's lock */
    bool cancelled, answered;
    TAILQ_ENTRY(tm_request) cancel_link, done_link;
    struct tm_request *bucket_next;

    tm_answer_t *answer; /* of the client's thread until `answered`, then under the lock */
} tm_request_t;

TAILQ_HEAD(tm_request_list, tm_request);
typedef struct tm_request_list tm_request_list_t;

/* Encodes the event; serial and times are left 0. The event was checked: n_points rows. */
tm_status_t tm_request_new(const tm_columns_t *event, uint32_t n_points, tm_request_t **out,
                           tm_error_t *err);
/* The answer goes too, unless it was taken. */
void tm_request_destroy(tm_request_t **p);
/* Lets go of the event, which nobody needs once the answer is there. */
void tm_request_drop_event(tm_request_t *request);

/* Requests by serial. Zeroed is empty. */
typedef struct {
    tm_request_t **buckets;
    uint32_t count, n_buckets; /* n_buckets: 0 or a power of two */
} tm_request_table_t;

tm_status_t tm_request_table_add(tm_request_table_t *table, tm_request_t *request, tm_error_t *err);
tm_request_t *tm_request_table_find(const tm_request_table_t *table, uint64_t serial);
/* The request must be there. */
void tm_request_table_remove(tm_request_table_t *table, tm_request_t *request);
/* Destroys all that is left. */
void tm_request_table_clear(tm_request_table_t *table);

#endif
