// SPDX-License-Identifier: Apache-2.0
/*
 * One attempt of one request, from DISPATCH to RESULT or FAILED.
 *
 * Threads: an attempt has one owner at a time: the session's thread, then the thread of the slot
 * that runs it, then the session's again. Only `cancelled` is shared, and accessed atomically.
 */
#ifndef TM_WORKER_ATTEMPT_H
#define TM_WORKER_ATTEMPT_H

#include <stdbool.h>
#include <zmq.h>

#include "worker/backend.h"

typedef struct tm_attempt {
    tm_id_t id;
    uint32_t link;        /* which broker sent it */
    uint64_t session;     /* and under which registration there */
    uint32_t model;       /* index into the models served */
    uint64_t deadline_ms; /* tm_clock_ms(); not started after it */
    zmq_msg_t payload;    /* frame 2 of DISPATCH */
    tm_slice_t columns;   /* its descriptor, in columns_bytes */
    uint8_t columns_bytes[TM_COLUMNS_FIELD_MAX];
    uint64_t rows; /* of the first column, as it claims; UINT64_MAX: that cannot be read */
    bool alone;    /* an attempt at this request failed before: it shares no run with others */

    bool started; /* a slot began to compute it */
    bool revoked; /* nobody waits for the outcome */
    int cancelled;

    tm_error_t error; /* outcome; code TM_OK: the answer below is there */
    zmq_msg_t answer; /* frame 2 of RESULT */
    tm_slice_t answer_columns;
    uint8_t answer_columns_bytes[TM_COLUMNS_FIELD_MAX];
    tm_slice_t times;
    uint8_t times_bytes[TM_TIMES_FIELD_MAX];

    struct tm_attempt *next; /* of the list that the owner keeps it in */
} tm_attempt_t;

/* Copies the descriptor; *payload is moved into the attempt (emptied) on success. */
tm_status_t tm_attempt_new(tm_slice_t columns, zmq_msg_t *payload, tm_attempt_t **out,
                           tm_error_t *err);
void tm_attempt_destroy(tm_attempt_t **p);

/* Asks a running attempt to stop. */
void tm_attempt_cancel(tm_attempt_t *attempt);

/* Decodes the payload, runs the back end on it and encodes the answer; the outcome is in ->error.
 * Codes that must not leave the process become TM_E_BACKEND. Called by the slot's thread. */
void tm_attempt_run(tm_attempt_t *attempt, const tm_backend_t *backend, void *slot);

/* Room for the attempts of one batch: of one slot, for its thread. */
typedef struct tm_attempt_room tm_attempt_room_t;

/* most: attempts of a batch, 2 … TM_BACKEND_BATCH_MAX. NULL: no memory. */
tm_attempt_room_t *tm_attempt_room_new(uint32_t most);
void tm_attempt_room_destroy(tm_attempt_room_t **p);

/* The same as tm_attempt_run for n attempts of one model, together. One that is cancelled before it
 * begins is left out (TM_E_CANCELLED); one that cannot be decoded ends by itself. */
void tm_attempt_run_batch(tm_attempt_t *const *attempts, uint32_t n, const tm_backend_t *backend,
                          void *slot, tm_attempt_room_t *room);

#endif
