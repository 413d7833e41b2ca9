// SPDX-License-Identifier: Apache-2.0
/*
 * Slots: the threads that compute, and the attempts that wait for one of them.
 *
 * Threads: all functions are called by one thread, the session's. Each slot has a thread of its own
 * that opens the back end, runs one attempt after the other, and touches nothing else. Attempts
 * travel between them under one mutex; the end of an attempt makes the descriptor of tm_slots_fd
 * readable, so that the session can sleep in zmq_poll.
 *
 * Batches: a slot that gets free takes the oldest waiting attempt, and with it up to batch − 1 others
 * of the same model, oldest first, as the back end's limits allow (tm_slots_together); free slots share
 * what waits evenly, and none waits for more to come. The attempts of a batch start and end together; each
 * has its own outcome. An attempt at a request that failed before (->alone) runs by itself: if it was
 * one event that killed a worker, its neighbours must not be there when it kills the next.
 */
#ifndef TM_WORKER_SLOTS_H
#define TM_WORKER_SLOTS_H

#include "worker/attempt.h"

typedef struct tm_slots tm_slots_t;

#define TM_ANY_LINK UINT32_MAX

/* Starts n threads (1 … TM_SLOTS_MAX) and waits until the back end is open in each. On failure of
 * one, all are stopped and its error is returned. backend and state are borrowed. batch: attempts
 * that run together at most, 1 … TM_BACKEND_BATCH_MAX; more than 1 needs the back end's run_batch. */
tm_status_t tm_slots_new(const tm_backend_t *backend, void *state, uint32_t n, uint32_t batch,
                         tm_slots_t **out, tm_error_t *err);
/* Drops what waits, cancels what runs, and waits for the threads: for ever if one hangs. */
void tm_slots_destroy(tm_slots_t **p);

/* Readable when an attempt has ended; tm_slots_pump empties it. */
int tm_slots_fd(const tm_slots_t *slots);

/* How many events like the attempt's run together at most; 1: it runs alone. */
uint32_t tm_slots_together(const tm_slots_t *slots, const tm_attempt_t *attempt);

/* Puts an attempt (taken) at the end of the queue. It starts at a later tm_slots_pump. */
void tm_slots_submit(tm_slots_t *slots, tm_attempt_t *attempt);

typedef struct {
    void *user;
    /* A slot is about to begin: borrowed, and not yet visible to its thread. */
    void (*starting)(void *user, const tm_attempt_t *attempt);
    /* It has ended (->error says how), or its deadline passed in the queue (->started is false).
     * Taken by the callee. */
    void (*ended)(void *user, tm_attempt_t *attempt);
} tm_slots_handler_t;

/* Reports what has ended and gives waiting attempts, oldest first, to free slots. The callbacks may
 * submit, take and cancel, but not pump. */
void tm_slots_pump(tm_slots_t *slots, uint64_t now_ms, const tm_slots_handler_t *handler);

/* The oldest waiting attempt of that link (or TM_ANY_LINK) and id (NULL: any), taken from the queue
 * by the caller; NULL if there is none. */
tm_attempt_t *tm_slots_take(tm_slots_t *slots, uint32_t link, const tm_id_t *id);

/* Cancels the running attempts of that link and id (as above) and marks them as revoked; they still
 * end through `ended`. Returns how many. */
uint32_t tm_slots_cancel(tm_slots_t *slots, uint32_t link, const tm_id_t *id);
/* The same for those of that link whose id.origin is not `epoch`. */
uint32_t tm_slots_cancel_old(tm_slots_t *slots, uint32_t link, uint64_t epoch);

uint32_t tm_slots_waiting(const tm_slots_t *slots, uint32_t link);
uint32_t tm_slots_running(const tm_slots_t *slots, uint32_t link);

/* The attempt that has been running longest, borrowed, and since when; NULL: none runs. */
const tm_attempt_t *tm_slots_oldest(const tm_slots_t *slots, uint64_t *since_ms);

#endif
