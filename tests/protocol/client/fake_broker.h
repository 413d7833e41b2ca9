// SPDX-License-Identifier: Apache-2.0
/*
 * A broker that a test plays by hand: the test's own thread receives what the client sends and
 * answers what it likes. The client has a thread of its own, so the two take turns without sleeps.
 * Every function fails the test when something goes wrong.
 */
#ifndef TM_TESTS_FAKE_BROKER_H
#define TM_TESTS_FAKE_BROKER_H

#include <stdbool.h>

#include "client/client_link.h"

#define PATIENCE_MS 10000 /* for anything that must happen */

typedef struct {
    void *context, *router;
    char endpoint[64];
    bool lenient; /* a client that has gone is no reason to fail */
    bool narrow;  /* set before fake_open: takes hardly a message in before it is received */
} fake_broker_t;

typedef struct {
    zmq_msg_t peer; /* the connection that it came over */
    tm_received_t frames;
    tm_message_t m;
} fake_message_t;

/* On a free port of the loopback. The struct is zeroed but for `lenient` and `narrow`. */
void fake_open(fake_broker_t *broker);
/* On that endpoint, which may just have been closed. */
void fake_open_at(fake_broker_t *broker, const char *endpoint);
/* Drops every connection, as when the process dies. Safe when closed. */
void fake_close(fake_broker_t *broker);

/* The next message, PINGs included. false: none within the time. */
bool fake_receive_any(fake_broker_t *broker, int timeout_ms, fake_message_t *message);
/* The same, but PINGs are answered and skipped. */
bool fake_receive(fake_broker_t *broker, int timeout_ms, fake_message_t *message);
/* The next message but PING must be that command. */
void fake_expect(fake_broker_t *broker, tm_command_t command, fake_message_t *message);
/* Expects the command and forgets it. */
void fake_expect_only(fake_broker_t *broker, tm_command_t command);
/* Nothing but PINGs comes within the time. */
void fake_expect_nothing(fake_broker_t *broker, int time_ms);
void fake_clear(fake_message_t *message);

/* Sends over the connection of `to`. */
void fake_send(fake_broker_t *broker, const fake_message_t *to, const tm_message_t *m,
               const void *payload, size_t payload_bytes);
/* Any frames at all; sizes[i] bytes each. */
void fake_send_raw(fake_broker_t *broker, const fake_message_t *to, int count,
                   const void *const frames[], const size_t sizes[]);
void fake_error(fake_broker_t *broker, const fake_message_t *to, bool of_request, tm_status_t code,
                const char *text, int retry_after_ms);

typedef struct {
    uint32_t window, heartbeat_ms, liveness;
    uint64_t max_payload;
} fake_welcome_t;
/* Expects HELLO and says WELCOME; zeros in `terms` (or NULL) are the usual values. `hello` may be
 * NULL, else the caller clears it. */
void fake_welcome(fake_broker_t *broker, const fake_welcome_t *terms, fake_message_t *hello);

/* An ANSWER: one track of the event's first three space points. */
void fake_answer(fake_broker_t *broker, const fake_message_t *request);
/* The ANSWER of these columns, sound or not. */
void fake_answer_columns(fake_broker_t *broker, const fake_message_t *request,
                         const tm_columns_t *columns);

#endif
