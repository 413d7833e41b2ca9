// SPDX-License-Identifier: Apache-2.0
/*
 * A scheduler with a clock of its own, for tests that read like conversations: say something, then
 * expect what came out, in order. rig_done fails the test if anything came out that nobody expected
 * or if a payload was not released exactly once.
 */
#ifndef TM_TEST_BROKER_RIG_H
#define TM_TEST_BROKER_RIG_H

#include "broker/core/scheduler.h"

#define RIG_ACTIONS 4096
#define RIG_PAYLOADS 8192
#define RIG_ORIGIN 0xc0ffeeu
#define RIG_TTL_MS 1000000u

typedef struct {
    tm_sched_t *s;
    tm_sched_config_t config;
    uint64_t now_us;
    tm_action_t out[RIG_ACTIONS];
    uint32_t n_out, read;
    uint32_t released[RIG_PAYLOADS], n_payloads;
    tm_id_t attempt; /* of the last DISPATCH expected */
} rig_t;

/* A rig with the defaults of wire/limits.h, which `change` (may be NULL) may alter. */
rig_t *rig_new(void (*change)(tm_sched_config_t *config));
/* Shuts down, checks the payloads, frees. */
void rig_end(rig_t *rig);

void rig_pass_ms(rig_t *rig, uint64_t ms); /* time passes in ticks of 100 ms; all peers PING */
void rig_tick(rig_t *rig);

/* ---- saying ---- */

void rig_hello(rig_t *rig, tm_peer_t peer); /* and takes the WELCOME */
void rig_request(rig_t *rig, tm_peer_t peer, uint64_t serial, const char *model, uint64_t priority);
void rig_request_full(rig_t *rig, tm_peer_t peer, uint64_t serial, const char *model,
                      uint64_t priority, uint64_t ttl_ms, uint64_t bytes);
void rig_cancel(rig_t *rig, tm_peer_t peer, uint64_t serial);
/* Registers with one model "name@version" of a hash that is all `hash` bytes; takes the WELCOME. */
void rig_worker(rig_t *rig, tm_peer_t peer, const char *model, uint8_t hash, uint32_t slots);
void rig_register(rig_t *rig, tm_peer_t peer, const char *model, uint8_t hash, uint32_t slots,
                  uint64_t max_payload);
void rig_credit(rig_t *rig, tm_peer_t peer, uint32_t credit);
void rig_started(rig_t *rig, tm_peer_t peer, tm_id_t attempt);
void rig_result(rig_t *rig, tm_peer_t peer, tm_id_t attempt);
void rig_failed(rig_t *rig, tm_peer_t peer, tm_id_t attempt, tm_status_t code);
void rig_gone(rig_t *rig, tm_peer_t peer);

/* ---- expecting ---- */

/* The next action, RELEASEs and PINGs left out; fails the test if there is none. */
const tm_action_t *rig_next(rig_t *rig);
void rig_silent(rig_t *rig); /* nothing more came out */
/* DISPATCH to that worker; returns the attempt's id. model: "name@version" or NULL: any. */
tm_id_t rig_dispatched(rig_t *rig, tm_peer_t worker, const char *model);
void rig_answered(rig_t *rig, tm_peer_t client, uint64_t serial);
const tm_action_t *rig_error(rig_t *rig, tm_peer_t peer, uint64_t serial, tm_status_t code);
void rig_revoked(rig_t *rig, tm_peer_t worker, tm_id_t attempt);
void rig_forgotten(rig_t *rig, tm_peer_t peer);

#endif
