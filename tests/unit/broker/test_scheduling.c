// SPDX-License-Identifier: Apache-2.0
/*
 * Who gets what, when all goes well: sessions, models, credit, order, bounds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/broker/rig.h"

enum { CLIENT = 1, OTHER_CLIENT = 2, W1 = 11, W2 = 12, W3 = 13 };

static void test_one_request(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_silent(rig); // no credit yet
    rig->now_us += 2000;
    rig_credit(rig, W1, 1);
    tm_id_t attempt = rig_dispatched(rig, W1, "gnn@1");
    rig_started(rig, W1, attempt);
    rig->now_us += 3000;
    tm_sched_worker_result(rig->s, rig->now_us, W1, attempt, (void *)(uintptr_t)++rig->n_payloads,
                           10);
    const tm_action_t *answer = tm_sched_next(rig->s);
    assert_int_equal(answer->kind, TM_ACTION_ANSWER);
    assert_int_equal(answer->peer, CLIENT);
    assert_int_equal(answer->queue_us, 2000);
    assert_int_equal(answer->service_us, 3000);
    assert_int_equal(answer->attempt, 1);
    assert_string_equal(answer->worker, "w11");
    assert_string_equal(answer->model->name, "gnn");
    assert_ptr_equal(answer->payload, (void *)(uintptr_t)2);
    rig_tick(rig); // takes the two releases
    const tm_stats_t *stats = tm_sched_stats(rig->s);
    assert_int_equal(stats->answered, 1);
    assert_int_equal(stats->in_flight, 0);
    assert_int_equal(stats->service.sum_us, 3000);
    rig_end(rig);
}

static void test_strangers(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_error(rig, CLIENT, 0, TM_E_UNKNOWN_PEER);
    rig_credit(rig, W1, 1);
    rig_error(rig, W1, 0, TM_E_UNKNOWN_PEER);
    rig_result(rig, W1, (tm_id_t){77, 1 << 24});
    rig_error(rig, W1, 0, TM_E_UNKNOWN_PEER);
    tm_sched_ping(rig->s, rig->now_us, CLIENT);
    rig_tick(rig);
    rig_error(rig, CLIENT, 0, TM_E_UNKNOWN_PEER);
    assert_int_equal(tm_sched_stats(rig->s)->unknown_peers, 4);
    rig_end(rig);
}

static void test_hash_must_agree(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_register(rig, W2, "gnn@1", 2, 1, 1000);
    const tm_action_t *action = rig_error(rig, W2, 0, TM_E_MODEL_HASH);
    assert_non_null(strstr(action->text, "gnn@1"));
    rig_credit(rig, W2, 1); // no session came of it
    rig_error(rig, W2, 0, TM_E_UNKNOWN_PEER);
    rig_worker(rig, W2, "gnn@2", 2, 1);
    rig_worker(rig, W3, "gnn@1", 1, 1);
    // when the last worker with the old weights is gone, the new ones may take the name
    rig_gone(rig, W1);
    rig_forgotten(rig, W1);
    rig_register(rig, W1, "gnn@1", 3, 1, 1000);
    rig_error(rig, W1, 0, TM_E_MODEL_HASH);
    rig_gone(rig, W3);
    rig_forgotten(rig, W3);
    rig_worker(rig, W1, "gnn@1", 3, 1);
    rig_end(rig);
}

static void test_model_words(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1.9", 1, 4);
    rig_credit(rig, W1, 4);
    rig_request(rig, CLIENT, 1, "", 1);
    rig_dispatched(rig, W1, "gnn@1.9");
    rig_worker(rig, W2, "gnn@1.10", 2, 4);
    rig_credit(rig, W2, 4);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    rig_dispatched(rig, W2, "gnn@1.10"); // 1.10 is higher than 1.9
    rig_request(rig, CLIENT, 3, "gnn@1.9", 1);
    rig_dispatched(rig, W1, "gnn@1.9");
    rig_request(rig, CLIENT, 4, "", 1);
    rig_dispatched(rig, W2, "gnn@1.10");
    rig_worker(rig, W3, "ckf@7", 3, 4);
    rig_credit(rig, W3, 4);
    rig_request(rig, CLIENT, 5, "", 1);
    rig_error(rig, CLIENT, 5, TM_E_NO_MODEL);
    rig_request(rig, CLIENT, 6, "ckf", 1);
    rig_dispatched(rig, W3, "ckf@7");
    rig_request(rig, CLIENT, 7, "gnn@", 1);
    rig_error(rig, CLIENT, 7, TM_E_MALFORMED);
    rig_request(rig, CLIENT, 8, "@1", 1);
    rig_error(rig, CLIENT, 8, TM_E_MALFORMED);
    // nobody serves it yet; then somebody does
    rig_request(rig, CLIENT, 9, "new", 1);
    rig_silent(rig);
    rig_worker(rig, 14, "new@1", 4, 1);
    rig_credit(rig, 14, 1);
    rig_dispatched(rig, 14, "new@1");
    // when the higher version goes, the name means the lower one again
    rig_gone(rig, W2);
    rig_forgotten(rig, W2);
    rig_dispatched(rig, W1, "gnn@1.9"); // request 2
    rig_silent(rig);                    // request 4 named none, and since ckf came there are two
    rig_gone(rig, W3);
    rig_forgotten(rig, W3);
    rig_silent(rig); // "new" is another one
    rig_gone(rig, 14);
    rig_forgotten(rig, 14);
    rig_dispatched(rig, W1, "gnn@1.9"); // request 4: gnn is the only one again
    rig_end(rig);
}

static void test_credit(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 2);
    for (uint64_t i = 1; i <= 10; i++)
        rig_request(rig, CLIENT, i, "gnn", 1);
    rig_credit(rig, W1, 3);
    tm_id_t attempts[3];
    for (int i = 0; i < 3; i++)
        attempts[i] = rig_dispatched(rig, W1, NULL);
    rig_silent(rig);
    rig_result(rig, W1, attempts[1]); // a result is not a credit
    rig_answered(rig, CLIENT, 2);
    rig_silent(rig);
    rig_credit(rig, W1, 1);
    rig_dispatched(rig, W1, NULL);
    rig_silent(rig);
    rig_end(rig);
}

static void test_credit_is_bounded(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_worker(rig, W1, "gnn@1", 1, 2);
    for (int i = 0; i < 4; i++)
        rig_credit(rig, W1, 200);
    tm_worker_view_t view;
    assert_int_equal(tm_sched_view_workers(rig->s, rig->now_us, &view, 1), 1);
    assert_int_equal(view.credit, TM_CREDIT_MAX);
    rig_end(rig);
}

/* The serials in the order in which they come back from one worker, one at a time. */
static void run_in_order(rig_t *rig, const uint64_t *serials, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        rig_credit(rig, W1, 1);
        tm_id_t attempt = rig_dispatched(rig, W1, NULL);
        rig_result(rig, W1, attempt);
        rig_answered(rig, CLIENT, serials[i]);
    }
}

static void test_priorities_and_fifo(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    const uint64_t priorities[] = {2, 1, 0, 2, 1, 0};
    for (uint64_t i = 0; i < 6; i++) // two lanes ("gnn" and "gnn@1"), one order
        rig_request(rig, CLIENT, i + 1, i % 2 ? "gnn" : "gnn@1", priorities[i]);
    run_in_order(rig, (const uint64_t[]){3, 6, 2, 5, 1, 4}, 6);
    rig_end(rig);
}

static void test_ageing(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 2);
    rig_pass_ms(rig, TM_AGEING_MS + 100);
    rig_request(rig, CLIENT, 2, "gnn", 0);
    rig_request(rig, CLIENT, 3, "gnn", 1);
    run_in_order(rig, (const uint64_t[]){2, 1, 3}, 3); // 1 rose to class 1, and is older than 3
    rig_request(rig, CLIENT, 4, "gnn", 2);
    rig_pass_ms(rig, 2 * TM_AGEING_MS + 100);
    rig_request(rig, CLIENT, 5, "gnn", 0);
    run_in_order(rig, (const uint64_t[]){4, 5}, 2);
    rig_end(rig);
}

static void test_least_loaded_then_least_recent(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 4);
    rig_worker(rig, W2, "gnn@1", 1, 1);
    rig_credit(rig, W1, 8);
    rig_credit(rig, W2, 2);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t first = rig_dispatched(rig, W1, NULL); // none used yet: the first to come
    rig_request(rig, CLIENT, 2, "gnn", 1);
    tm_id_t second = rig_dispatched(rig, W2, NULL); // 0/1 < 1/4
    rig_request(rig, CLIENT, 3, "gnn", 1);
    rig_dispatched(rig, W1, NULL); // 1/4 < 1/1
    rig_request(rig, CLIENT, 4, "gnn", 1);
    rig_dispatched(rig, W1, NULL); // 2/4 < 1/1
    rig_request(rig, CLIENT, 5, "gnn", 1);
    rig_dispatched(rig, W1, NULL); // 3/4 < 1/1
    rig_request(rig, CLIENT, 6, "gnn", 1);
    rig_dispatched(rig, W2, NULL); // 4/4 = 1/1: W2 was used less recently
    rig_result(rig, W1, first);
    rig_answered(rig, CLIENT, 1);
    rig_result(rig, W2, second);
    rig_answered(rig, CLIENT, 2);
    rig_end(rig);
}

static void small_queue(tm_sched_config_t *config) {
    config->queue_max_requests = 4;
    config->queue_max_bytes = 1000;
    config->client_window = 6;
}

static void test_bounds(void **state) {
    (void)state;
    rig_t *rig = rig_new(small_queue);
    rig_hello(rig, CLIENT);
    rig_hello(rig, OTHER_CLIENT);
    for (uint64_t i = 1; i <= 4; i++)
        rig_request(rig, CLIENT, i, "gnn", 1);
    rig_silent(rig);
    rig_request(rig, CLIENT, 5, "gnn", 1);
    const tm_action_t *busy = rig_error(rig, CLIENT, 5, TM_E_BUSY); // 4 are queued
    assert_int_equal(busy->retry_after_ms, TM_RECONNECT_MAX_MS);    // no worker at all
    rig_worker(rig, W1, "gnn@1", 1, 8);
    rig_credit(rig, W1, 3);
    for (int i = 0; i < 3; i++)
        rig_dispatched(rig, W1, NULL);
    rig_request(rig, CLIENT, 6, "gnn", 1); // one queued, three out, window of six
    rig_request(rig, CLIENT, 7, "gnn", 1);
    rig_silent(rig);
    rig_request(rig, CLIENT, 8, "gnn", 1);
    busy = rig_error(rig, CLIENT, 8, TM_E_BUSY); // the window
    assert_int_equal(busy->retry_after_ms, TM_RETRY_AFTER_MS);
    rig_request_full(rig, OTHER_CLIENT, 9, "gnn", 1, RIG_TTL_MS, 401);
    rig_error(rig, OTHER_CLIENT, 9, TM_E_BUSY); // 600 + 401 bytes
    rig_request_full(rig, OTHER_CLIENT, 10, "gnn", 1, RIG_TTL_MS, 400);
    rig_silent(rig);
    rig_request_full(rig, OTHER_CLIENT, 11, "gnn", 1, RIG_TTL_MS, 1001);
    rig_error(rig, OTHER_CLIENT, 11, TM_E_TOO_LARGE); // could never fit
    const tm_stats_t *stats = tm_sched_stats(rig->s);
    assert_int_equal(stats->refused[TM_E_BUSY], 3);
    assert_int_equal(stats->held_bytes, 1000);
    rig_end(rig);
}

static void test_retry_hint_follows_rate(void **state) {
    (void)state;
    rig_t *rig = rig_new(small_queue);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, attempt);
    rig_pass_ms(rig, 4000);
    rig_result(rig, W1, attempt);
    rig_answered(rig, CLIENT, 1);
    for (uint64_t i = 2; i <= 5; i++)
        rig_request(rig, CLIENT, i, "gnn", 1);
    rig_request(rig, CLIENT, 6, "gnn", 1);
    const tm_action_t *busy = rig_error(rig, CLIENT, 6, TM_E_BUSY);
    assert_int_equal(busy->retry_after_ms, 8000); // half of 4 requests of 4 s on one slot
    rig_end(rig);
}

static void test_duplicates_join(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_hello(rig, OTHER_CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_credit(rig, W1, 5);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_silent(rig);
    rig_request(rig, OTHER_CLIENT, 1, "gnn", 1); // the same client over a new connection
    rig_silent(rig);
    assert_int_equal(tm_sched_stats(rig->s)->duplicates, 2);
    rig_gone(rig, CLIENT); // the old connection takes nothing with it
    rig_forgotten(rig, CLIENT);
    rig_result(rig, W1, attempt);
    rig_answered(rig, OTHER_CLIENT, 1);
    rig_silent(rig);
    // after the answer the id is free again
    rig_request(rig, OTHER_CLIENT, 1, "gnn", 1);
    rig_dispatched(rig, W1, NULL);
    rig_end(rig);
}

static void test_cancel(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_hello(rig, OTHER_CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    rig_cancel(rig, OTHER_CLIENT, 2); // not its own
    rig_silent(rig);
    rig_cancel(rig, CLIENT, 2);
    rig_error(rig, CLIENT, 2, TM_E_CANCELLED);
    rig_cancel(rig, CLIENT, 1);
    rig_error(rig, CLIENT, 1, TM_E_CANCELLED);
    rig_revoked(rig, W1, attempt);
    rig_cancel(rig, CLIENT, 1);
    rig_silent(rig);
    rig_result(rig, W1, attempt); // too late
    rig_silent(rig);
    assert_int_equal(tm_sched_stats(rig->s)->late, 1);
    rig_end(rig);
}

static void few_peers(tm_sched_config_t *config) {
    config->clients_max = 1;
    config->workers_max = 1;
}

static void test_session_limits(void **state) {
    (void)state;
    rig_t *rig = rig_new(few_peers);
    rig_hello(rig, CLIENT);
    rig_hello(rig, CLIENT); // again: welcome again
    tm_sched_client_hello(rig->s, rig->now_us, OTHER_CLIENT, tm_slice("x"), tm_slice("y"));
    rig_tick(rig);
    rig_error(rig, OTHER_CLIENT, 0, TM_E_BUSY);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_register(rig, W2, "gnn@1", 1, 1, 1000);
    rig_error(rig, W2, 0, TM_E_BUSY);
    rig_end(rig);
}

static void test_large_events_pass_small_workers_by(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_register(rig, W1, "gnn@1", 1, 1, 500);
    assert_int_equal(rig_next(rig)->kind, TM_ACTION_WELCOME);
    rig_credit(rig, W1, 1);
    rig_request_full(rig, CLIENT, 1, "gnn", 1, 1000, 501);
    rig_silent(rig);
    rig_request_full(rig, CLIENT, 2, "gnn", 1, RIG_TTL_MS, 500); // passes it by
    rig_dispatched(rig, W1, NULL);
    rig_pass_ms(rig, 1000);
    rig_error(rig, CLIENT, 1, TM_E_TOO_LARGE);
    rig_request_full(rig, CLIENT, 3, "gnn", 1, RIG_TTL_MS, 501);
    rig_worker(rig, W2, "gnn@1", 1, 1);
    rig_credit(rig, W2, 1);
    rig_dispatched(rig, W2, NULL);
    rig_end(rig);
}

static void test_draining(void **state) {
    (void)state;
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    tm_sched_drain(rig->s, rig->now_us);
    rig_request(rig, CLIENT, 3, "gnn", 1);
    rig_error(rig, CLIENT, 3, TM_E_DRAINING);
    rig_request(rig, CLIENT, 1, "gnn", 1); // one of those accepted: joins
    rig_silent(rig);
    rig_hello(rig, CLIENT); // known already: welcome
    tm_sched_client_hello(rig->s, rig->now_us, OTHER_CLIENT, tm_slice("x"), tm_slice("y"));
    rig_tick(rig);
    rig_error(rig, OTHER_CLIENT, 0, TM_E_DRAINING);
    rig_register(rig, W2, "gnn@1", 1, 1, 1000);
    rig_error(rig, W2, 0, TM_E_DRAINING);
    rig_credit(rig, W1, 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_result(rig, W1, attempt);
    rig_answered(rig, CLIENT, 1);
    assert_int_equal(tm_sched_stats(rig->s)->in_flight, 1);
    tm_sched_shutdown(rig->s, rig->now_us);
    rig_tick(rig);
    rig_error(rig, CLIENT, 2, TM_E_DRAINING);
    const tm_peer_t peers[] = {CLIENT, W1};
    for (int i = 0; i < 2; i++) {
        const tm_action_t *bye = rig_next(rig);
        assert_int_equal(bye->kind, TM_ACTION_BYE);
        assert_int_equal(bye->peer, peers[i]);
        rig_forgotten(rig, peers[i]);
    }
    rig_end(rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request),
        cmocka_unit_test(test_strangers),
        cmocka_unit_test(test_hash_must_agree),
        cmocka_unit_test(test_model_words),
        cmocka_unit_test(test_credit),
        cmocka_unit_test(test_credit_is_bounded),
        cmocka_unit_test(test_priorities_and_fifo),
        cmocka_unit_test(test_ageing),
        cmocka_unit_test(test_least_loaded_then_least_recent),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_retry_hint_follows_rate),
        cmocka_unit_test(test_duplicates_join),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_session_limits),
        cmocka_unit_test(test_large_events_pass_small_workers_by),
        cmocka_unit_test(test_draining),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
