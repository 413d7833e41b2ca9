// SPDX-License-Identifier: Apache-2.0
/* A broker that does what the test tells it: one ROUTER socket and the messages that came in. */
#ifndef TM_TESTS_FAKE_BROKER_H
#define TM_TESTS_FAKE_BROKER_H

#include <stdbool.h>
#include <zmq.h>

#include "wire/message.h"

#define TM_FAKE_PEER_MAX 32

/* A message as received; m's slices point into the frames. */
typedef struct {
    uint8_t peer[TM_FAKE_PEER_MAX];
    size_t peer_bytes;
    zmq_msg_t frame[TM_FRAMES_MAX];
    int n_frames;
    tm_message_t m;
} tm_fake_message_t;

typedef struct {
    void *context, *socket;
    char endpoint[128];
    uint64_t epoch, heartbeat_ms, liveness;
    bool mute;                        /* sends no PING while it waits */
    bool forgetful;                   /* answers ERROR unknown_peer to all but REGISTER, once */
    uint8_t worker[TM_FAKE_PEER_MAX]; /* who said REGISTER last: messages go there */
    size_t worker_bytes;
    uint64_t next_ping_ms;
    int heartbeats, registers; /* received */
} tm_fake_broker_t;

/* endpoint: NULL for any port of the loopback. */
void tm_fake_start(tm_fake_broker_t *broker, const char *endpoint);
void tm_fake_stop(tm_fake_broker_t *broker);

/* The next message that is not HEARTBEAT, PING or PONG (those are counted and answered). False: none
 * within timeout_ms. Every message received must be sound, or the test fails. */
bool tm_fake_receive(tm_fake_broker_t *broker, tm_fake_message_t *message, uint64_t timeout_ms);
/* The next one, which must be `command` and come within 20 s. */
void tm_fake_expect(tm_fake_broker_t *broker, tm_command_t command, tm_fake_message_t *message);
/* The same, thrown away; returns its credit field. */
uint64_t tm_fake_expect_credit(tm_fake_broker_t *broker);
void tm_fake_clear(tm_fake_message_t *message);

void tm_fake_send(tm_fake_broker_t *broker, const tm_message_t *m, const void *payload,
                  size_t payload_bytes);
void tm_fake_send_raw(tm_fake_broker_t *broker, const void *const frame[], const size_t bytes[],
                      int n_frames);
/* Expects REGISTER; messages go to its sender from now on. */
void tm_fake_expect_register(tm_fake_broker_t *broker);
/* The same, and answers WELCOME. */
void tm_fake_welcome(tm_fake_broker_t *broker);
void tm_fake_error(tm_fake_broker_t *broker, tm_status_t code, const char *text);
/* A DISPATCH of an event with one x, y, z: (value, 0, 0). The attempt's id is epoch/serial. */
void tm_fake_dispatch(tm_fake_broker_t *broker, uint64_t serial, float value, uint64_t ttl_ms);

#endif
