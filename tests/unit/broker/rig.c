// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/broker/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { TICK_MS = 100, PEERS_MAX = 64 };

/* Takes what came out; releases are only counted. */
static void collect(rig_t *rig) {
    for (const tm_action_t *action; (action = tm_sched_next(rig->s));) {
        if (action->kind == TM_ACTION_RELEASE) {
            uintptr_t payload = (uintptr_t)action->payload;
            assert_in_range(payload, 1, rig->n_payloads);
            assert_int_equal(rig->released[payload - 1]++, 0);
        } else if (action->kind != TM_ACTION_PING && action->kind != TM_ACTION_PONG) {
            assert_true(rig->n_out < RIG_ACTIONS);
            rig->out[rig->n_out++] = *action;
        }
    }
}

static void *payload_new(rig_t *rig) {
    assert_true(rig->n_payloads < RIG_PAYLOADS);
    return (void *)(uintptr_t)++rig->n_payloads;
}

rig_t *rig_new(void (*change)(tm_sched_config_t *config)) {
    rig_t *rig = calloc(1, sizeof *rig);
    assert_non_null(rig);
    tm_sched_config_default(&rig->config);
    rig->config.epoch = 77;
    if (change)
        change(&rig->config);
    rig->now_us = 5000000;
    tm_error_t error;
    assert_int_equal(tm_sched_new(&rig->config, rig->now_us, &rig->s, &error), TM_OK);
    return rig;
}

void rig_end(rig_t *rig) {
    rig_silent(rig);
    tm_sched_shutdown(rig->s, rig->now_us);
    collect(rig);
    const tm_stats_t *stats = tm_sched_stats(rig->s);
    assert_int_equal(stats->in_flight, 0);
    assert_int_equal(stats->queued, 0);
    assert_int_equal(stats->running, 0);
    assert_int_equal(stats->held_bytes, 0);
    assert_int_equal(stats->clients, 0);
    assert_int_equal(stats->workers, 0);
    assert_int_equal(stats->slots, 0);
    for (uint32_t i = 0; i < rig->n_payloads; i++)
        assert_int_equal(rig->released[i], 1);
    tm_sched_destroy(&rig->s);
    free(rig);
}

void rig_tick(rig_t *rig) {
    tm_sched_tick(rig->s, rig->now_us);
    collect(rig);
}

void rig_pass_ms(rig_t *rig, uint64_t ms) {
    while (ms) {
        uint64_t step = ms < TICK_MS ? ms : TICK_MS;
        ms -= step;
        rig->now_us += step * 1000;
        for (tm_peer_t peer = 1; peer <= PEERS_MAX; peer++)
            tm_sched_touch(rig->s, rig->now_us, peer);
        rig_tick(rig);
    }
}

/* ---- saying ---- */

void rig_hello(rig_t *rig, tm_peer_t peer) {
    tm_sched_client_hello(rig->s, rig->now_us, peer, tm_slice("client"), tm_slice("test/1"));
    collect(rig);
    const tm_action_t *action = rig_next(rig);
    assert_int_equal(action->kind, TM_ACTION_WELCOME);
    assert_int_equal(action->peer, peer);
}

void rig_request_full(rig_t *rig, tm_peer_t peer, uint64_t serial, const char *model,
                      uint64_t priority, uint64_t ttl_ms, uint64_t bytes) {
    tm_sched_request_t request = {
        .id = {RIG_ORIGIN, serial},
        .model = tm_slice(model),
        .ttl_ms = ttl_ms,
        .priority = priority,
        .payload_bytes = bytes,
        .payload = payload_new(rig),
    };
    tm_sched_client_request(rig->s, rig->now_us, peer, &request);
    collect(rig);
}

void rig_request(rig_t *rig, tm_peer_t peer, uint64_t serial, const char *model,
                 uint64_t priority) {
    rig_request_full(rig, peer, serial, model, priority, RIG_TTL_MS, 100);
}

void rig_cancel(rig_t *rig, tm_peer_t peer, uint64_t serial) {
    tm_sched_client_cancel(rig->s, rig->now_us, peer, (tm_id_t){RIG_ORIGIN, serial});
    collect(rig);
}

void rig_register(rig_t *rig, tm_peer_t peer, const char *model, uint8_t hash, uint32_t slots,
                  uint64_t max_payload) {
    tm_model_id_t id = {0};
    assert_int_equal(sscanf(model, "%63[^@]@%63s", id.name, id.version), 2);
    memset(id.hash, hash, sizeof id.hash);
    char name[TM_NAME_MAX + 1];
    snprintf(name, sizeof name, "w%llu", (unsigned long long)peer);
    tm_sched_worker_t worker = {
        .name = tm_slice(name),
        .software = tm_slice("test/1"),
        .device = tm_slice("cpu"),
        .backend = tm_slice("mock"),
        .slots = slots,
        .max_payload = max_payload,
        .n_models = 1,
        .models = &id,
    };
    tm_sched_worker_register(rig->s, rig->now_us, peer, &worker);
    collect(rig);
}

void rig_worker(rig_t *rig, tm_peer_t peer, const char *model, uint8_t hash, uint32_t slots) {
    rig_register(rig, peer, model, hash, slots, TM_PAYLOAD_MAX_BYTES);
    const tm_action_t *action = rig_next(rig);
    assert_int_equal(action->kind, TM_ACTION_WELCOME);
    assert_int_equal(action->peer, peer);
}

void rig_credit(rig_t *rig, tm_peer_t peer, uint32_t credit) {
    tm_sched_worker_credit(rig->s, rig->now_us, peer, credit);
    collect(rig);
}

void rig_started(rig_t *rig, tm_peer_t peer, tm_id_t attempt) {
    tm_sched_worker_started(rig->s, rig->now_us, peer, attempt);
    collect(rig);
}

void rig_result(rig_t *rig, tm_peer_t peer, tm_id_t attempt) {
    tm_sched_worker_result(rig->s, rig->now_us, peer, attempt, payload_new(rig), 10);
    collect(rig);
}

void rig_failed(rig_t *rig, tm_peer_t peer, tm_id_t attempt, tm_status_t code) {
    tm_sched_worker_failed(rig->s, rig->now_us, peer, attempt, code, tm_slice("so it went"));
    collect(rig);
}

void rig_gone(rig_t *rig, tm_peer_t peer) {
    tm_sched_gone(rig->s, rig->now_us, peer);
    collect(rig);
}

/* ---- expecting ---- */

const tm_action_t *rig_next(rig_t *rig) {
    if (rig->read == rig->n_out)
        fail_msg("nothing came out");
    const tm_action_t *action = &rig->out[rig->read++];
    if (rig->read == rig->n_out)
        rig->read = rig->n_out = 0; // `action` stays readable until the next collect
    return action;
}

void rig_silent(rig_t *rig) {
    if (rig->read != rig->n_out)
        fail_msg("unexpected action %d to peer %llu, code %d: %s", rig->out[rig->read].kind,
                 (unsigned long long)rig->out[rig->read].peer, rig->out[rig->read].code,
                 rig->out[rig->read].text);
}

tm_id_t rig_dispatched(rig_t *rig, tm_peer_t worker, const char *model) {
    const tm_action_t *action = rig_next(rig);
    assert_int_equal(action->kind, TM_ACTION_DISPATCH);
    assert_int_equal(action->peer, worker);
    assert_int_equal(action->id.origin, rig->config.epoch);
    assert_non_null(action->payload);
    char words[TM_MODEL_REF_MAX + 1];
    snprintf(words, sizeof words, "%s@%s", action->model->name, action->model->version);
    if (model)
        assert_string_equal(words, model);
    return rig->attempt = action->id;
}

static void expect(rig_t *rig, const tm_action_t *action, tm_action_kind_t kind, tm_peer_t peer) {
    (void)rig;
    if (action->kind != kind || action->peer != peer)
        fail_msg("action %d to %llu instead of %d to %llu: code %d, %s", action->kind,
                 (unsigned long long)action->peer, kind, (unsigned long long)peer, action->code,
                 action->text);
}

void rig_answered(rig_t *rig, tm_peer_t client, uint64_t serial) {
    const tm_action_t *action = rig_next(rig);
    expect(rig, action, TM_ACTION_ANSWER, client);
    assert_int_equal(action->id.origin, RIG_ORIGIN);
    assert_int_equal(action->id.serial, serial);
    assert_non_null(action->payload);
}

const tm_action_t *rig_error(rig_t *rig, tm_peer_t peer, uint64_t serial, tm_status_t code) {
    const tm_action_t *action = rig_next(rig);
    expect(rig, action, TM_ACTION_ERROR, peer);
    assert_int_equal(action->id.origin, serial ? RIG_ORIGIN : 0);
    assert_int_equal(action->id.serial, serial);
    if (action->code != code)
        fail_msg("error %s instead of %s: %s", tm_status_name(action->code), tm_status_name(code),
                 action->text);
    assert_true(action->text[0]);
    return action;
}

void rig_revoked(rig_t *rig, tm_peer_t worker, tm_id_t attempt) {
    const tm_action_t *action = rig_next(rig);
    expect(rig, action, TM_ACTION_REVOKE, worker);
    assert_int_equal(action->id.serial, attempt.serial);
}

void rig_forgotten(rig_t *rig, tm_peer_t peer) {
    expect(rig, rig_next(rig), TM_ACTION_FORGET, peer);
}
