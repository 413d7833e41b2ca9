// SPDX-License-Identifier: Apache-2.0
/* The client library with real brokers and workers. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_clock.h"
#include "service.h"

#define PATIENCE_MS 30000
#define BATCH 24

typedef struct {
    uint64_t id[BATCH];
    uint32_t n_points[BATCH], checksum[BATCH];
} batch_t;

static service_t service;

static void submit(tm_client_t *client, batch_t *batch, uint32_t n_points) {
    for (uint32_t i = 0; i < BATCH; i++) {
        service_event_t event;
        tm_error_t error;
        assert_true(service_event_make(&event, n_points + i, i));
        batch->n_points[i] = n_points + i;
        batch->checksum[i] = event.checksum;
        if (tm_client_submit(client, &event.columns, NULL, &batch->id[i], &error))
            fail_msg("%s", error.text);
        service_event_free(&event);
    }
}

/* All answers, each the right one; returns the highest attempt number. */
static uint32_t expect_all(tm_client_t *client, const batch_t *batch) {
    uint32_t attempts = 0;
    for (int i = 0; i < BATCH; i++) {
        tm_answer_t *answer;
        tm_error_t error;
        if (tm_client_wait(client, batch->id[i], PATIENCE_MS, &answer, &error))
            fail_msg("%s", error.text);
        assert_non_null(answer);
        if (answer->status)
            fail_msg("request %d: %s: %s", i, tm_status_name(answer->status), answer->error.text);
        assert_true(service_tracks_fit(&answer->tracks, batch->n_points[i], batch->checksum[i]));
        assert_string_equal(answer->model, "mock@1");
        attempts = answer->attempt > attempts ? answer->attempt : attempts;
        tm_answer_destroy(&answer);
    }
    return attempts;
}

static int teardown(void **state) {
    (void)state;
    service_stop(&service, false);
    return 0;
}

static void test_events_come_back_as_tracks(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 1, 2, "time_ms=0-5");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 5); /* as small as a frame that libzmq does not align */
    expect_all(client, &batch);
    submit(client, &batch, 30000);
    expect_all(client, &batch);
    tm_client_destroy(&client);
}

static void test_status_counts_what_was_done(void **state) {
    (void)state;
    batch_t batch;
    tm_broker_report_t report;
    tm_error_t error;
    service_start(&service, 1, 2, "time_ms=0");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 100);
    expect_all(client, &batch);
    if (tm_broker_status(service.clients[0], PATIENCE_MS, &report, &error))
        fail_msg("%s", error.text);
    assert_int_equal(report.workers, 2);
    assert_int_equal(report.clients, 1);
    assert_int_equal(report.answered, BATCH);
    assert_int_equal(report.n_models, 1);
    assert_string_equal(report.models[0].name, "mock");
    tm_client_destroy(&client);
}

static void test_killed_broker_loses_nothing(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 2, 2, "time_ms=20-60");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 2000);
    tm_test_sleep_ms(100); /* some are answered, some run, some wait */
    tm_proc_kill(&service.broker[0]);
    expect_all(client, &batch);
    /* the other one goes, the first comes back */
    service_start_broker(&service, 0);
    submit(client, &batch, 2000);
    tm_test_sleep_ms(100);
    tm_proc_kill(&service.broker[1]);
    expect_all(client, &batch);
    tm_client_destroy(&client);
}

static void test_only_broker_restarts(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 1, 2, "time_ms=20-60");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 2000);
    tm_test_sleep_ms(100);
    tm_proc_kill(&service.broker[0]);
    service_start_broker(&service, 0);
    expect_all(client, &batch);
    tm_client_destroy(&client);
}

static void test_stopped_broker_is_left(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 2, 2, "time_ms=20-60");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 2000);
    tm_test_sleep_ms(100);
    tm_proc_signal(&service.broker[0], SIGSTOP); /* its connection stays, it says nothing */
    expect_all(client, &batch);
    tm_proc_signal(&service.broker[0], SIGCONT);
    tm_client_destroy(&client);
}

static void test_draining_broker_hands_over(void **state) {
    (void)state;
    batch_t before, after;
    service_start(&service, 2, 2, "time_ms=20-60");
    tm_client_t *client = service_client(&service);
    submit(client, &before, 2000);
    tm_test_sleep_ms(100);
    tm_proc_signal(&service.broker[0], SIGTERM);
    submit(client, &after, 2000);
    expect_all(client, &after);
    expect_all(client, &before);
    assert_int_equal(tm_client_in_flight(client), 0);
    tm_client_destroy(&client);
    assert_true(tm_proc_wait(&service.broker[0], PATIENCE_MS));
    assert_int_equal(service.broker[0].code, 0);
}

static void test_killed_worker_is_tried_again_elsewhere(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 1, 2, "time_ms=50-100");
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 2000);
    tm_test_sleep_ms(150);
    tm_proc_kill(&service.worker[0]);
    assert_true(expect_all(client, &batch) >= 2);
    tm_client_destroy(&client);
}

static void test_full_broker_takes_all_in_the_end(void **state) {
    (void)state;
    batch_t batch;
    service_start(&service, 1, 1, "time_ms=20");
    tm_proc_kill(&service.broker[0]);
    service.queue = "2";
    service_start_broker(&service, 0);
    assert_true(tm_proc_wait_for(&service.worker[0], "registered", 2, PATIENCE_MS));
    tm_client_t *client = service_client(&service);
    submit(client, &batch, 500); /* far more than the queue and the worker hold */
    expect_all(client, &batch);
    tm_client_destroy(&client);
}

static void test_broker_without_workers_says_so_at_the_deadline(void **state) {
    (void)state;
    service_event_t event;
    tm_answer_t *answer;
    uint64_t id;
    service_start(&service, 1, 0, "");
    tm_client_t *client = service_client(&service);
    assert_true(service_event_make(&event, 100, 1));
    tm_request_options_t options = {.model = "metric@3", .ttl_ms = 500};
    uint64_t start_us = tm_client_now_us();
    assert_int_equal(tm_client_submit(client, &event.columns, &options, &id, NULL), TM_OK);
    service_event_free(&event);
    assert_int_equal(tm_client_wait(client, id, PATIENCE_MS, &answer, NULL), TM_OK);
    assert_non_null(answer);
    /* the broker's own verdict, which names the reason, not the client's */
    if (answer->status != TM_E_NO_MODEL)
        fail_msg("%s: %s", tm_status_name(answer->status), answer->error.text);
    assert_true(tm_client_now_us() - start_us >= 500 * TM_US_PER_MS);
    tm_answer_destroy(&answer);
    tm_client_destroy(&client);
}

int main(void) {
#define TEST(name) cmocka_unit_test_teardown(name, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_events_come_back_as_tracks),
        TEST(test_status_counts_what_was_done),
        TEST(test_killed_broker_loses_nothing),
        TEST(test_only_broker_restarts),
        TEST(test_stopped_broker_is_left),
        TEST(test_draining_broker_hands_over),
        TEST(test_killed_worker_is_tried_again_elsewhere),
        TEST(test_full_broker_takes_all_in_the_end),
        TEST(test_broker_without_workers_says_so_at_the_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
