// SPDX-License-Identifier: Apache-2.0
/*
 * The oracle: an independent, slow and simple account of what a scheduler was told and what it
 * said. Every call goes through it; it stops the program with the schedule's seed when the
 * scheduler breaks a promise of broker/core/scheduler.h.
 *
 * Checked: each payload is released exactly once and not used afterwards; an accepted request has
 * one terminal answer, on its newest connection, unless its client went; no DISPATCH beyond credit,
 * to a draining or departed worker, of another model, too large, or while another attempt of the
 * request is on; started attempts within the limit; deadlines and attempt timeouts kept; bounds of
 * queue, bytes and window; order within a class; no work left lying while a worker could take it;
 * the counters add up.
 */
#ifndef TM_SIM_ORACLE_H
#define TM_SIM_ORACLE_H

#include "broker/core/scheduler.h"

typedef struct oracle oracle_t;

oracle_t *oracle_new(uint64_t seed, const tm_sched_config_t *config, tm_sched_t *sched);
/* Shuts the scheduler down and checks that nothing is left. */
void oracle_end(oracle_t *o, uint64_t now_us);

/* Stops with "seed …: …". */
void oracle_fail(const oracle_t *o, const char *format, ...) __attribute__((format(printf, 2, 3)))
__attribute__((noreturn));

/* Each makes the call and checks what came out; the actions (without RELEASE) are then in
 * oracle_actions until the next call. */
void oracle_hello(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_request(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id, const char *model,
                    uint64_t priority, uint64_t ttl_ms, uint64_t bytes);
void oracle_cancel(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t id);
void oracle_register(oracle_t *o, uint64_t now_us, tm_peer_t peer, uint32_t slots,
                     uint64_t max_payload, const tm_model_id_t *models, uint32_t n_models);
void oracle_heartbeat(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_credit(oracle_t *o, uint64_t now_us, tm_peer_t peer, uint64_t credit);
void oracle_started(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t attempt);
void oracle_result(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t attempt);
void oracle_failed(oracle_t *o, uint64_t now_us, tm_peer_t peer, tm_id_t attempt, tm_status_t code);
void oracle_worker_drain(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_ping(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_bye(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_gone(oracle_t *o, uint64_t now_us, tm_peer_t peer);
void oracle_tick(oracle_t *o, uint64_t now_us);
void oracle_drain(oracle_t *o, uint64_t now_us);

typedef struct {
    tm_action_kind_t kind;
    tm_peer_t peer;
    tm_id_t id;
    tm_status_t code;
} oracle_action_t;

const oracle_action_t *oracle_actions(const oracle_t *o, uint32_t *count);

/* What the schedules reached, summed up: to see that they reach everything. */
typedef struct {
    uint64_t calls, actions;
    tm_stats_t stats;
} oracle_totals_t;
void oracle_add_totals(const oracle_t *o, oracle_totals_t *totals);

#endif
