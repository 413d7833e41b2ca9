// SPDX-License-Identifier: Apache-2.0
/*
 * Port: one ROUTER socket and what waits to be sent over it.
 *
 * No call ever blocks. A message for a peer whose pipe is full waits in the peer's outbox, bounded
 * in bytes and messages; a peer that overflows it, or whose connection is gone, is reported so that
 * the caller can drop it. Peers are named by numbers made from their routing ids, which libzmq
 * chooses; a peer that brought a routing id of its own is ignored.
 *
 * Threads: belongs to the thread that made it.
 */
#ifndef TM_BROKER_PORT_H
#define TM_BROKER_PORT_H

#include <zmq.h>

#include "broker/core/scheduler.h"
#include "broker/options.h"

typedef struct tm_port tm_port_t;

/* Binds to all endpoints. A peer that sends a frame beyond max_payload (and beyond what a map may
 * have) is cut off by libzmq. TM_E_SYSTEM names the endpoint that cannot be bound, and why.
 * linger_ms: how long closing waits for the last messages. */
tm_status_t tm_port_new(void *context, bool workers, const char *const *endpoints,
                        uint32_t n_endpoints, uint64_t max_payload, int linger_ms, tm_port_t **out,
                        tm_error_t *err);
void tm_port_destroy(tm_port_t **p);

/* Which side the peer is on. */
bool tm_port_is_worker(tm_peer_t peer);

void *tm_port_socket(const tm_port_t *port);
/* The endpoints really bound, separated by commas. */
const char *tm_port_endpoints(const tm_port_t *port);

typedef struct {
    tm_peer_t peer;
    uint32_t n_frames; /* routing id left out; more than TM_FRAMES_MAX: the rest was thrown away */
    zmq_msg_t frame[TM_FRAMES_MAX];
} tm_inbound_t;

/* The next message, if there is one. Close it with tm_inbound_close. */
bool tm_port_receive(tm_port_t *port, tm_inbound_t *in);
void tm_inbound_close(tm_inbound_t *in);

/* Sends, or leaves in the outbox. payload: borrowed (its bytes are shared), NULL for none. False:
 * the peer is gone or does not read. TM_E_ARGUMENT of the codec is a bug of ours and asserts. */
bool tm_port_send(tm_port_t *port, tm_peer_t peer, const tm_message_t *m, zmq_msg_t *payload);

/* Whether anything waits in an outbox. */
bool tm_port_pending(const tm_port_t *port);
/* Tries to send what waits. Returns a peer that turned out to be gone (call again), 0 when done. */
tm_peer_t tm_port_flush(tm_port_t *port);
/* Drops what waits for the peer. */
void tm_port_forget(tm_port_t *port, tm_peer_t peer);

#endif
