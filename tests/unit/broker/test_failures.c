// SPDX-License-Identifier: Apache-2.0
/*
 * What becomes of requests when workers die, hang, fail or leave, clients go, and time runs out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/broker/rig.h"

enum { CLIENT = 1, W1 = 11, W2 = 12, W3 = 13, W4 = 14 };

static rig_t *rig_with_workers(uint32_t count) {
    rig_t *rig = rig_new(NULL);
    rig_hello(rig, CLIENT);
    for (uint32_t i = 0; i < count; i++)
        rig_worker(rig, W1 + i, "gnn@1", 1, 2);
    return rig;
}

static void test_dead_worker_requeues_at_head(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    for (uint64_t i = 1; i <= 4; i++)
        rig_request(rig, CLIENT, i, "gnn", 1);
    rig_credit(rig, W1, 2);
    tm_id_t first = rig_dispatched(rig, W1, NULL);
    rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, first);
    rig_gone(rig, W1);
    rig_forgotten(rig, W1);
    for (uint64_t i = 1; i <= 4; i++) { // 1 and 2 again, before 3 and 4
        rig_credit(rig, W2, 1);
        rig_result(rig, W2, rig_dispatched(rig, W2, NULL));
        rig_answered(rig, CLIENT, i);
    }
    assert_int_equal(tm_sched_stats(rig->s)->requeued, 2);
    rig_end(rig);
}

static void test_only_started_attempts_count(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(0);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    for (int started = 0; started < TM_ATTEMPTS_MAX;) {
        rig_worker(rig, W1, "gnn@1", 1, 1);
        rig_credit(rig, W1, 1);
        tm_id_t attempt = rig_dispatched(rig, W1, NULL);
        static int round;
        if (round++ % 3 == 2) { // two of three die before they start
            rig_started(rig, W1, attempt);
            rig_started(rig, W1, attempt); // saying it twice is one start
            started++;
        }
        rig_gone(rig, W1);
        if (started == TM_ATTEMPTS_MAX) {
            const tm_action_t *error = rig_error(rig, CLIENT, 1, TM_E_ATTEMPTS);
            assert_non_null(strstr(error->text, "3 attempts"));
        }
        rig_forgotten(rig, W1);
    }
    assert_int_equal(tm_sched_stats(rig->s)->dispatched, 9);
    rig_end(rig);
}

static void test_failed_goes_elsewhere(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 3);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, attempt);
    rig_failed(rig, W1, attempt, TM_E_BACKEND);
    rig_silent(rig); // W1 has credit, but W2 has not failed it yet
    rig_request(rig, CLIENT, 2, "gnn", 1);
    rig_dispatched(rig, W1, NULL); // others pass by
    rig_credit(rig, W2, 1);
    attempt = rig_dispatched(rig, W2, NULL);
    rig_result(rig, W2, attempt);
    rig_answered(rig, CLIENT, 1);
    rig_end(rig);
}

static void test_failed_comes_back_if_nobody_else(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 3);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    for (int i = 0; i < TM_ATTEMPTS_MAX; i++) // without STARTED: it counts all the same
        rig_failed(rig, W1, rig_dispatched(rig, W1, NULL), TM_E_NO_MEMORY);
    const tm_action_t *error = rig_error(rig, CLIENT, 1, TM_E_ATTEMPTS);
    assert_non_null(strstr(error->text, "so it went"));
    assert_non_null(strstr(error->text, "w11"));
    rig_end(rig);
}

static void test_event_faults_are_final(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 10);
    const tm_status_t codes[] = {TM_E_BAD_EVENT, TM_E_MISSING_COLUMN, TM_E_MALFORMED};
    for (uint64_t i = 0; i < 3; i++) {
        rig_request(rig, CLIENT, i + 1, "gnn", 1);
        rig_failed(rig, W1, rig_dispatched(rig, W1, NULL), codes[i]);
        const tm_action_t *error = rig_error(rig, CLIENT, i + 1, codes[i]);
        assert_string_equal(error->text, "so it went");
    }
    tm_worker_view_t view[2];
    tm_sched_view_workers(rig->s, rig->now_us, view, 2);
    assert_int_equal(view[0].failures, 0); // not the worker's fault
    rig_end(rig);
}

static void test_handed_back_unstarted(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 3);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_failed(rig, W1, rig_dispatched(rig, W1, NULL), TM_E_DRAINING);
    rig_silent(rig); // W1 has credit left, but it is leaving
    rig_credit(rig, W2, 1);
    rig_dispatched(rig, W2, NULL);
    assert_int_equal(tm_sched_stats(rig->s)->started, 0);
    rig_end(rig);
}

static void test_drain_of_worker(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 3);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    tm_sched_worker_drain(rig->s, rig->now_us, W1);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    rig_silent(rig);
    rig_result(rig, W1, attempt); // what it holds it finishes
    rig_answered(rig, CLIENT, 1);
    tm_sched_bye(rig->s, rig->now_us, W1);
    rig_tick(rig);
    rig_forgotten(rig, W1);
    rig_worker(rig, W2, "gnn@1", 2, 1); // the last one gone: new weights may come
    rig_credit(rig, W2, 1);
    rig_dispatched(rig, W2, NULL);
    rig_end(rig);
}

static void test_hung_attempt(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 2);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    tm_id_t hung = rig_dispatched(rig, W1, NULL), waiting = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, hung);
    rig_pass_ms(rig, TM_ATTEMPT_TIMEOUT_MS - 100); // heartbeats go on all the time
    rig_silent(rig);
    rig_pass_ms(rig, 100);
    rig_revoked(rig, W1, hung);
    rig_revoked(rig, W1, waiting); // what it had prefetched goes elsewhere, too
    rig_credit(rig, W1, 1);
    rig_silent(rig); // paused
    rig_credit(rig, W2, 2);
    tm_id_t again = rig_dispatched(rig, W2, NULL), other = rig_dispatched(rig, W2, NULL);
    // the hung worker wakes up: its result is as good as any, and comes first
    rig_result(rig, W1, hung);
    rig_answered(rig, CLIENT, 1);
    rig_revoked(rig, W2, again);
    rig_result(rig, W2, again);
    rig_result(rig, W2, other);
    rig_answered(rig, CLIENT, 2);
    assert_int_equal(tm_sched_stats(rig->s)->late, 1);
    assert_int_equal(tm_sched_stats(rig->s)->timed_out, 1);
    rig_request(rig, CLIENT, 3, "gnn", 1);
    rig_dispatched(rig, W1, NULL); // the result ended its pause
    rig_end(rig);
}

static void test_late_result_of_a_queued_request(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, attempt);
    rig_pass_ms(rig, TM_ATTEMPT_TIMEOUT_MS);
    rig_revoked(rig, W1, attempt);
    // its connection broke meanwhile; it comes back over a new one and delivers
    rig_worker(rig, W2, "gnn@1", 1, 1);
    rig_result(rig, W2, attempt);
    rig_answered(rig, CLIENT, 1);
    // a worker of another model cannot answer
    rig_credit(rig, W2, 1);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    attempt = rig_dispatched(rig, W2, NULL);
    rig_worker(rig, W3, "gnn@2", 1, 1);
    rig_result(rig, W3, attempt);
    rig_silent(rig);
    rig_end(rig);
}

static void test_stuck_worker(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL); // never STARTED
    rig_pass_ms(rig, TM_ATTEMPT_TIMEOUT_MS + 200);
    rig_revoked(rig, W1, attempt);
    rig_credit(rig, W2, 1);
    rig_dispatched(rig, W2, NULL);
    assert_int_equal(tm_sched_stats(rig->s)->started, 0);
    rig_end(rig);
}

/* A worker fails whatever it gets, `times` times; somebody else finishes it. */
static void fail_often(rig_t *rig, tm_peer_t bad, tm_peer_t good, int times, uint64_t *serial) {
    for (int i = 0; i < times; i++) {
        rig_request(rig, CLIENT, ++*serial, "gnn", 1);
        rig_credit(rig, bad, 1);
        rig_failed(rig, bad, rig_dispatched(rig, bad, NULL), TM_E_BACKEND);
        rig_credit(rig, good, 1);
        rig_result(rig, good, rig_dispatched(rig, good, NULL));
        rig_answered(rig, CLIENT, *serial);
    }
}

static void test_failing_worker_pauses(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(4);
    uint64_t serial = 0;
    fail_often(rig, W1, W4, TM_WORKER_FAILURES_MAX, &serial);
    fail_often(rig, W2, W4, TM_WORKER_FAILURES_MAX, &serial);
    fail_often(rig, W3, W4, TM_WORKER_FAILURES_MAX, &serial);
    tm_worker_view_t view[4];
    assert_int_equal(tm_sched_view_workers(rig->s, rig->now_us, view, 4), 4);
    assert_true(view[0].paused && view[1].paused);
    assert_false(view[2].paused); // never more than half of the pool
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, ++serial, "gnn", 1);
    rig_silent(rig);
    rig_pass_ms(rig, TM_WORKER_PAUSE_MS);
    rig_dispatched(rig, W1, NULL); // the pause is over
    rig_failed(rig, W1, rig->attempt, TM_E_BACKEND);
    tm_sched_view_workers(rig->s, rig->now_us, view, 4);
    assert_true(view[0].paused); // one more failure: twice as long
    rig_pass_ms(rig, 2 * TM_WORKER_PAUSE_MS - 1000);
    tm_sched_view_workers(rig->s, rig->now_us, view, 4);
    assert_true(view[0].paused);
    rig_pass_ms(rig, 1100);
    tm_sched_view_workers(rig->s, rig->now_us, view, 4);
    assert_false(view[0].paused);
    rig_end(rig);
}

static void test_deadlines(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 1);
    rig_request_full(rig, CLIENT, 1, "gnn", 1, 500, 100);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, attempt);
    rig_request_full(rig, CLIENT, 2, "gnn", 1, 400, 100);
    rig_request_full(rig, CLIENT, 3, "nosuch@9", 1, 300, 100);
    assert_int_equal(tm_sched_next_us(rig->s), rig->now_us + 300000);
    rig_pass_ms(rig, 299);
    rig_silent(rig);
    rig_pass_ms(rig, 1);
    const tm_action_t *error = rig_error(rig, CLIENT, 3, TM_E_NO_MODEL);
    assert_non_null(strstr(error->text, "nosuch@9"));
    rig_pass_ms(rig, 100);
    rig_error(rig, CLIENT, 2, TM_E_DEADLINE);
    rig_pass_ms(rig, 100);
    rig_error(rig, CLIENT, 1, TM_E_DEADLINE);
    rig_revoked(rig, W1, attempt);
    rig_request_full(rig, CLIENT, 4, "gnn", 1, 0, 100);
    rig_error(rig, CLIENT, 4, TM_E_DEADLINE);
    // what is over is not dispatched, tick or not
    rig_request_full(rig, CLIENT, 5, "gnn", 1, 50, 100);
    rig->now_us += 50000;
    rig_credit(rig, W1, 1);
    rig_error(rig, CLIENT, 5, TM_E_DEADLINE);
    rig_silent(rig);
    rig_end(rig);
}

static void test_deadline_after_the_worker_left(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_request_full(rig, CLIENT, 1, "gnn", 1, 500, 100);
    rig_gone(rig, W1);
    rig_forgotten(rig, W1);
    rig_request_full(rig, CLIENT, 2, "gnn", 1, 500, 100);
    rig_pass_ms(rig, 500);
    // the first one could have run, had its time not been too short; the second one never could
    const tm_status_t codes[] = {TM_E_DEADLINE, TM_E_NO_MODEL};
    for (int i = 0; i < 2; i++) {
        const tm_action_t *error = rig_next(rig);
        assert_int_equal(error->code, codes[error->id.serial - 1]);
    }
    rig_end(rig);
}

static void test_refusals_do_not_pause(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(2);
    rig_credit(rig, W1, 20);
    for (uint64_t i = 1; i <= 2 * TM_WORKER_FAILURES_MAX; i++) {
        rig_request(rig, CLIENT, i, "gnn", 1);
        rig_failed(rig, W1, rig_dispatched(rig, W1, NULL), TM_E_DEADLINE);
    }
    tm_worker_view_t view[2];
    tm_sched_view_workers(rig->s, rig->now_us, view, 2);
    assert_int_equal(view[0].failures, 0);
    assert_int_equal(view[0].failed, 2 * TM_WORKER_FAILURES_MAX);
    assert_false(view[0].paused);
    rig_end(rig);
}

static void test_ttl_travels(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_request_full(rig, CLIENT, 1, "gnn", 1, 1000, 100);
    rig_pass_ms(rig, 300);
    rig_credit(rig, W1, 1);
    const tm_action_t *dispatch = rig_next(rig);
    assert_int_equal(dispatch->kind, TM_ACTION_DISPATCH);
    assert_int_equal(dispatch->ttl_ms, 700);
    rig_end(rig);
}

static void test_client_goes(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_request(rig, CLIENT, 2, "gnn", 1);
    tm_sched_bye(rig->s, rig->now_us, CLIENT);
    rig_tick(rig);
    rig_revoked(rig, W1, attempt);
    rig_forgotten(rig, CLIENT);
    rig_result(rig, W1, attempt);
    rig_silent(rig);
    assert_int_equal(tm_sched_stats(rig->s)->dropped, 2);
    rig_end(rig);
}

static void test_silence(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    uint64_t limit_us = TM_HEARTBEAT_MS * TM_LIVENESS * 1000;
    rig->now_us += limit_us;
    tm_sched_touch(rig->s, rig->now_us, CLIENT);
    rig_tick(rig);
    rig_silent(rig);
    rig->now_us += 1;
    rig_tick(rig);
    rig_forgotten(rig, W1);
    tm_sched_worker_heartbeat(rig->s, rig->now_us, W1);
    rig_tick(rig);
    rig_error(rig, W1, 0, TM_E_UNKNOWN_PEER);
    rig_worker(rig, W1, "gnn@1", 1, 1);
    rig_credit(rig, W1, 1);
    rig_dispatched(rig, W1, NULL);
    assert_int_not_equal(rig->attempt.serial, attempt.serial);
    rig->now_us += limit_us;
    tm_sched_worker_heartbeat(rig->s, rig->now_us, W1);
    rig_tick(rig);
    rig_revoked(rig, W1, rig->attempt);
    rig_forgotten(rig, CLIENT);
    assert_int_equal(tm_sched_stats(rig->s)->workers_lost, 1);
    assert_int_equal(tm_sched_stats(rig->s)->clients_lost, 1);
    rig_end(rig);
}

static void test_workers_are_pinged(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    int pings = 0;
    for (int i = 0; i < 30; i++) {
        rig->now_us += 100000;
        tm_sched_touch(rig->s, rig->now_us, CLIENT);
        tm_sched_touch(rig->s, rig->now_us, W1);
        tm_sched_tick(rig->s, rig->now_us);
        for (const tm_action_t *action; (action = tm_sched_next(rig->s));) {
            assert_int_equal(action->kind, TM_ACTION_PING);
            assert_int_equal(action->peer, W1);
            pings++;
        }
    }
    assert_int_equal(pings, 3);
    rig_end(rig);
}

static void test_registering_anew(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 2);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    rig_started(rig, W1, attempt);
    rig_register(rig, W1, "gnn@1", 1, 1, 1000);
    rig_forgotten(rig, W1);
    assert_int_equal(rig_next(rig)->kind, TM_ACTION_WELCOME);
    rig_silent(rig); // the old credit is void
    rig_failed(rig, W1, attempt, TM_E_BACKEND);
    rig_silent(rig); // not its attempt any more
    rig_credit(rig, W1, 1);
    rig_dispatched(rig, W1, NULL);
    rig_end(rig);
}

static void test_nonsense_ids(void **state) {
    (void)state;
    rig_t *rig = rig_with_workers(1);
    rig_credit(rig, W1, 1);
    rig_request(rig, CLIENT, 1, "gnn", 1);
    tm_id_t attempt = rig_dispatched(rig, W1, NULL);
    const tm_id_t wrong[] = {{attempt.origin + 1, attempt.serial},
                             {attempt.origin, attempt.serial + (1u << 24)},
                             {attempt.origin, attempt.serial + 1},
                             {attempt.origin, UINT64_MAX},
                             {0, 0}};
    for (int i = 0; i < 5; i++) {
        rig_started(rig, W1, wrong[i]);
        rig_failed(rig, W1, wrong[i], TM_E_BACKEND);
        rig_result(rig, W1, wrong[i]);
    }
    rig_silent(rig);
    assert_int_equal(tm_sched_stats(rig->s)->late, 15);
    rig_result(rig, W1, attempt);
    rig_answered(rig, CLIENT, 1);
    rig_result(rig, W1, attempt); // twice
    rig_silent(rig);
    rig_end(rig);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_worker_requeues_at_head),
        cmocka_unit_test(test_only_started_attempts_count),
        cmocka_unit_test(test_failed_goes_elsewhere),
        cmocka_unit_test(test_failed_comes_back_if_nobody_else),
        cmocka_unit_test(test_event_faults_are_final),
        cmocka_unit_test(test_handed_back_unstarted),
        cmocka_unit_test(test_drain_of_worker),
        cmocka_unit_test(test_hung_attempt),
        cmocka_unit_test(test_late_result_of_a_queued_request),
        cmocka_unit_test(test_stuck_worker),
        cmocka_unit_test(test_failing_worker_pauses),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_deadline_after_the_worker_left),
        cmocka_unit_test(test_refusals_do_not_pause),
        cmocka_unit_test(test_ttl_travels),
        cmocka_unit_test(test_client_goes),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_workers_are_pinged),
        cmocka_unit_test(test_registering_anew),
        cmocka_unit_test(test_nonsense_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
