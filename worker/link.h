// SPDX-License-Identifier: Apache-2.0
/*
 * A link: the worker's side of the conversation with one broker. It registers, keeps the heartbeat,
 * notices silence, and registers anew on a fresh socket after a back-off. What the attempts mean is
 * the session's business.
 *
 *   waiting ──retry──► connecting ──WELCOME──► ready ──silence, unknown_peer──► waiting
 *                          │ no WELCOME ► waiting         └─ tm_link_close ► closed
 *                          └ ERROR version, model_hash ► refused
 *
 * Threads: one owner thread; it alone touches the socket. Nothing here blocks.
 */
#ifndef TM_WORKER_LINK_H
#define TM_WORKER_LINK_H

#include <zmq.h>

#include "wire/message.h"

typedef struct tm_link tm_link_t;

typedef enum {
    TM_LINK_WAITING,    /* no socket; the next try comes at tm_link_due_ms */
    TM_LINK_CONNECTING, /* REGISTER is on its way */
    TM_LINK_READY,      /* WELCOME is there */
    TM_LINK_REFUSED,    /* this broker will not have this worker; no further try */
    TM_LINK_CLOSED,
} tm_link_state_t;

/* What the worker says of itself. Strings and arrays are borrowed for the link's life. */
typedef struct {
    const char *name;
    const char *backend;
    const char *device;
    const tm_model_id_t *models;
    uint32_t n_models;
    uint32_t slots;
} tm_link_identity_t;

/* Called from tm_link_receive and tm_link_tick. They may call tm_link_send, not close or destroy. */
typedef struct {
    void *user;
    void (*registered)(void *user, uint32_t link);
    /* The registration is over: the broker gives what it had sent to other workers. */
    void (*lost)(void *user, uint32_t link);
    /* Strings of *m and *payload are borrowed; a callee that wants the payload moves it out. */
    void (*dispatch)(void *user, uint32_t link, const tm_message_t *m, zmq_msg_t *payload);
    /* A DISPATCH of which only the id can be read. */
    void (*undecodable)(void *user, uint32_t link, const tm_id_t *id, const tm_error_t *why);
    void (*revoke)(void *user, uint32_t link, const tm_id_t *id);
    /* Attempts of this link that run now, for HEARTBEAT. */
    uint32_t (*running)(void *user, uint32_t link);
} tm_link_handler_t;

/* `index` names the link in the callbacks. endpoint, identity and handler are borrowed. Begins to
 * connect at once. TM_E_ARGUMENT: libzmq does not take the endpoint. */
tm_status_t tm_link_new(void *zmq_context, uint32_t index, const char *endpoint,
                        const tm_link_identity_t *identity, const tm_link_handler_t *handler,
                        tm_link_t **out, tm_error_t *err);
/* Closes the socket; what is unsent is dropped unless tm_link_close came before. */
void tm_link_destroy(tm_link_t **p);

tm_link_state_t tm_link_state(const tm_link_t *link);
const char *tm_link_endpoint(const tm_link_t *link);
/* Counts registrations; attempts remember under which one they came. */
uint64_t tm_link_session(const tm_link_t *link);
/* The broker's run, from its last WELCOME: attempts of that run have it as id.origin. */
uint64_t tm_link_epoch(const tm_link_t *link);
/* Bytes of the largest payload that the broker takes; set from WELCOME on. */
uint64_t tm_link_max_payload(const tm_link_t *link);
/* TM_LINK_REFUSED: why, one line, for the caller to tell. */
const char *tm_link_refusal(const tm_link_t *link);

/* What to give zmq_poll: the socket (NULL: none now) and the events to wait for. */
void *tm_link_socket(const tm_link_t *link);
short tm_link_events(const tm_link_t *link);
/* When tm_link_tick has something to do; UINT64_MAX: not by itself. */
uint64_t tm_link_due_ms(const tm_link_t *link);

/* Reads what has arrived, up to a burst. */
void tm_link_receive(tm_link_t *link, uint64_t now_ms);
/* Timers: retry, HEARTBEAT, silence. Sends what is queued. */
void tm_link_tick(tm_link_t *link, uint64_t now_ms);

/* Queues a message and sends as much as libzmq takes now; tm_link_tick sends the rest. *payload
 * (NULL: none) is moved out; the caller still closes it. A message that cannot be encoded is logged
 * and dropped; in any state but READY it is dropped without a word: there is nobody to hear it. */
void tm_link_send(tm_link_t *link, const tm_message_t *m, zmq_msg_t *payload);

/* Whether all that was queued has been given to libzmq. */
bool tm_link_flushed(const tm_link_t *link);
/* No more messages in or out. linger_ms: how long libzmq may still send what it was given. */
void tm_link_close(tm_link_t *link, int linger_ms);

#endif
