// SPDX-License-Identifier: Apache-2.0
/*
 * libtrackmill: find the tracks of collision events on remote workers.
 *
 *     tm_client_t *client;
 *     tm_error_t error;
 *     if (tm_client_new("tcp://broker-a:5570,tcp://broker-b:5570", NULL, &client, &error)) …
 *     uint64_t id;
 *     tm_client_submit(client, &event, NULL, &id, &error);      // copies the event, does not wait
 *     tm_answer_t *answer;
 *     tm_client_wait(client, id, -1, &answer, &error);          // its tracks, or why not
 *     … answer->tracks …
 *     tm_answer_destroy(&answer);
 *     tm_client_destroy(&client);
 *
 * Every submitted request gets exactly one answer: tracks, or an error within its deadline. The
 * client keeps the event until then; when a broker dies it sends the request again, under the same
 * id, to the next broker of the list. A handle may be used from several threads; it runs one thread
 * of its own that owns the socket. After fork() a child must not use its parent's handle.
 */
#ifndef TRACKMILL_H
#define TRACKMILL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* inside, because C++ programs call functions of theirs too */
#include "wire/columns.h"
#include "wire/error.h"
#include "wire/message.h"

typedef struct tm_client tm_client_t;

typedef struct {
    const char *name;   /* shown in the broker's logs; NULL: host:pid */
    uint32_t hello_ms;  /* how long a broker may take to answer; 0: TM_HELLO_TIMEOUT_MS */
    uint64_t max_bytes; /* events held at most, bytes; submit says TM_E_BUSY beyond; 0: 1 GiB */
} tm_client_options_t;

/* brokers: endpoints of libzmq, separated by commas. Does not wait for a connection. */
tm_status_t tm_client_new(const char *brokers, const tm_client_options_t *options,
                          tm_client_t **out, tm_error_t *err);
/* Cancels what is in flight, says BYE, joins the thread. */
void tm_client_destroy(tm_client_t **p);

typedef struct {
    const char *model; /* "name", "name@version"; NULL: the only model there is */
    uint32_t ttl_ms;   /* deadline from now; 0: TM_TTL_DEFAULT_MS */
    uint32_t priority; /* 0 … 2, lower first; TM_PRIORITY_DEFAULT when options are NULL */
} tm_request_options_t;

/* Copies the event and queues it. Checks it first: what tm_event_check refuses never travels.
 * TM_E_BUSY: max_bytes reached, take some answers first. */
tm_status_t tm_client_submit(tm_client_t *client, const tm_columns_t *event,
                             const tm_request_options_t *options, uint64_t *id, tm_error_t *err);

typedef struct {
    uint64_t id;
    tm_status_t status; /* TM_OK: tracks are there */
    tm_error_t error;   /* otherwise: why not */
    tm_tracks_t tracks;
    char model[2 * TM_NAME_MAX + 2]; /* "name@version" */
    uint8_t hash[TM_HASH_BYTES];     /* SHA-256 of the model file */
    char worker[TM_NAME_MAX + 1];
    uint32_t attempt;    /* 1: the first worker answered */
    uint64_t queue_us;   /* in the broker */
    uint64_t service_us; /* dispatch to result, seen by the broker */
    uint64_t total_us;   /* submit to answer, seen by the client */
    uint64_t sent_bytes,
        received_bytes;   /* payload, map and header of this request and its answer */
    tm_timings_t timings; /* stages in the worker */
} tm_answer_t;

void tm_answer_destroy(tm_answer_t **p);

/* The next answer of any request, in order of arrival. timeout_ms: 0 does not wait, -1 waits as long
 * as anything is in flight. *out is NULL when there is none: status TM_E_NOT_FOUND when nothing is in
 * flight, TM_OK when the time ran out. */
tm_status_t tm_client_poll(tm_client_t *client, int timeout_ms, tm_answer_t **out, tm_error_t *err);

/* The answer of that request. As poll; TM_E_NOT_FOUND: no such request, or its answer was taken. */
tm_status_t tm_client_wait(tm_client_t *client, uint64_t id, int timeout_ms, tm_answer_t **out,
                           tm_error_t *err);

/* The request's answer becomes TM_E_CANCELLED, unless it is there already. */
tm_status_t tm_client_cancel(tm_client_t *client, uint64_t id, tm_error_t *err);

/* Readable (POLLIN) while answers are waiting to be polled; for poll/epoll/asyncio. Do not read it. */
int tm_client_fd(const tm_client_t *client);

/* Requests without an answer taken. */
uint32_t tm_client_in_flight(const tm_client_t *client);

/* What one broker says of itself. Makes its own short connection; needs no client. */
typedef struct {
    char broker[256];
    char software[TM_SOFTWARE_MAX + 1];
    uint64_t uptime_ms, queued, running, workers, clients, answered;
    uint32_t n_models;
    tm_model_id_t models[TM_MODELS_MAX];
} tm_broker_report_t;

tm_status_t tm_broker_status(const char *broker, uint32_t timeout_ms, tm_broker_report_t *report,
                             tm_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
