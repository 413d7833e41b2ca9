// SPDX-License-Identifier: Apache-2.0
/*
 * A real broker and peers played by hand: raw DEALER sockets that say what the test tells them.
 * Everything that goes wrong on the test's own side fails the test.
 */
#ifndef TM_TESTS_BROKER_PEER_H
#define TM_TESTS_BROKER_PEER_H

#include <zmq.h>

#include "tests/chaos/proc.h"
#include "wire/message.h"

#define PATIENCE_MS 20000u /* for what must come */
#define QUIET_MS 300u      /* for what must not */

typedef struct {
    tm_proc_t proc;
    void *context;
    char clients[128], workers[128], http[128];
} broker_t;

/* Starts trackmill-broker on free ports with these further arguments (NULL-terminated, may be
 * NULL) and waits until it is ready. */
void broker_start(broker_t *broker, const char *const *arguments);
/* SIGTERM, expects a clean exit, frees. */
void broker_stop(broker_t *broker);
/* Tears down whatever a failed test left. */
void broker_clean(broker_t *broker);

typedef struct {
    void *socket;
    uint64_t origin;
    /* the last message received */
    zmq_msg_t frame[TM_FRAMES_MAX];
    int n_frames;
    tm_message_t m;
} peer_t;

/* A DEALER connected to that endpoint, without a word said. */
void peer_connect(broker_t *broker, peer_t *peer, const char *endpoint);
void peer_close(peer_t *peer); /* at once: nothing lingers */

/* HELLO, WELCOME. */
void peer_client(broker_t *broker, peer_t *peer);
/* REGISTER with one model of hash 1, 1, …; WELCOME. */
void peer_worker(broker_t *broker, peer_t *peer, const char *model, const char *version);
void peer_register(peer_t *peer, const char *model, const char *version, uint8_t hash);

void peer_send(peer_t *peer, const tm_message_t *m, const void *payload, size_t bytes);
void peer_send_raw(peer_t *peer, int n_frames, const void *const data[], const size_t bytes[]);
void peer_say(peer_t *peer, tm_command_t command); /* no id, no fields */
void peer_say_id(peer_t *peer, tm_command_t command, tm_id_t id);
void peer_credit(peer_t *peer, uint64_t credit);
/* An event of n points whose coordinates count up from `serial`. */
void peer_request(peer_t *peer, uint64_t serial, const char *model, uint64_t ttl_ms, uint32_t n);
void peer_request_priority(peer_t *peer, uint64_t serial, uint64_t priority);
/* One track with a payload that tells `mark` back. */
void peer_result(peer_t *peer, tm_id_t attempt, float mark);
void peer_failed(peer_t *peer, tm_id_t attempt, tm_status_t code, const char *text);

/* The next message other than PING and PONG is in peer->m; false: none came in that time. */
bool peer_receive(peer_t *peer, uint64_t timeout_ms);
/* It must come, and be this command. */
void peer_expect(peer_t *peer, tm_command_t command);
void peer_expect_error(peer_t *peer, uint64_t serial, tm_status_t code);
void peer_expect_answer(peer_t *peer, uint64_t serial, float mark);
/* Returns the attempt's id. */
tm_id_t peer_expect_dispatch(peer_t *peer);
void peer_expect_nothing(peer_t *peer);

/* GET (or another method) over a plain socket. Returns the status; body: room bytes, a string. */
int http_get(const char *address, const char *method, const char *path, char *body, size_t room);

#endif
