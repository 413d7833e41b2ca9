// SPDX-License-Identifier: Apache-2.0
/*
 * One connection to one broker: a DEALER socket and libzmq's reports about it.
 *
 * A link never reconnects by itself: a new connection is a new peer to the broker, so whoever owns
 * the link closes it, opens the next one and says HELLO again.
 *
 * Threads: the thread that opened a link is the only one to use it.
 */
#ifndef TM_CLIENT_LINK_H
#define TM_CLIENT_LINK_H

#include <stdbool.h>
#include <zmq.h>

#include "wire/message.h"

typedef struct {
    void *socket;  /* DEALER; NULL: not open. Readable: tm_link_receive */
    void *monitor; /* readable: tm_link_events */
} tm_link_t;

/* Starts to connect; does not wait. TM_E_SYSTEM. */
tm_status_t tm_link_open(tm_link_t *link, void *context, const char *endpoint, tm_error_t *err);
/* Messages not sent yet get up to linger_ms (when the context ends). Safe on a closed link. */
void tm_link_close(tm_link_t *link, int linger_ms);

#define TM_LINK_ACCEPTED 1u /* connected and through the ZMTP handshake */
#define TM_LINK_LOST 2u     /* cannot connect, or the connection broke */
/* What happened since the last call: bits of the above. */
unsigned tm_link_events(tm_link_t *link);

/* Sends one message. payload may be NULL, else it is sent and left empty, whatever the outcome.
 * *bytes (may be NULL): header, map and payload. Never waits. */
tm_status_t tm_link_send(tm_link_t *link, const tm_message_t *message, zmq_msg_t *payload,
                         size_t *bytes, tm_error_t *err);

/* A received message: its frames, and the payload at an address that is a multiple of 8. */
typedef struct {
    zmq_msg_t header, map, payload;
    uint32_t frames;      /* 1 … TM_FRAMES_MAX; more were dropped: TM_FRAMES_MAX + 1 */
    void *aligned;        /* a copy of the payload, when libzmq's own bytes were not aligned */
    const void *columns;  /* the payload, or NULL */
    size_t columns_bytes; /* of the payload */
    size_t bytes;         /* of all frames */
} tm_received_t;

/* The next message that has arrived whole. false: none. On true, tm_received_clear it. */
bool tm_link_receive(tm_link_t *link, tm_received_t *received);
void tm_received_clear(tm_received_t *received);
/* Checks the number of frames and decodes header and map, as tm_message_decode_frames does. */
tm_status_t tm_received_decode(tm_received_t *received, tm_message_t *message, tm_error_t *err);

#endif
