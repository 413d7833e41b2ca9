// SPDX-License-Identifier: Apache-2.0
/*
 * Small events together, in the real program with the mock back end: what it tells a broker played by
 * the test (credit, order, REVOKE, DRAIN), and what becomes of a batch behind a real broker when its
 * worker dies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/trackmill.h"
#include "tests/chaos/proc.h"
#include "tests/protocol/worker/fake_broker.h"

#define PATIENCE_MS 20000u
#define ANSWER_MS 60000
#define SERIALS_MAX 1000
#define SMALL_ROWS 12u
#define LARGE_ROWS 8193u /* one more than the mock back end runs together */
#define BATCH 4u
#define BASE_CREDIT 2u           /* one slot and one that waits */
#define FULL_CREDIT (2u * BATCH) /* a batch that runs and one that waits */
#define WORKERS_MAX 4
#define INNOCENTS 60
#define WARM_UP 200
#define VICTIMS 32

static tm_fake_broker_t broker;
static tm_proc_t real_broker, worker[WORKERS_MAX];
static tm_client_t *client;
static char clients[64], workers[64];

/* ---- a broker played by the test ---- */

typedef enum { UNKNOWN, SENT, STARTED, ANSWERED, REFUSED, REVOKED } state_t;

static struct {
    state_t state[SERIALS_MAX];
    uint64_t n_sent;                  /* serials 1 … n_sent */
    uint64_t unused, held, running;   /* credit; attempts at the worker; those that run */
    uint64_t most_held, most_running; /* unused and held together; at any time */
    uint64_t last_started;
    bool drained, bye;
} seen;

static int setup(void **unused) {
    (void)unused;
    memset(&broker, 0, sizeof broker);
    memset(&real_broker, 0, sizeof real_broker);
    memset(worker, 0, sizeof worker);
    memset(&seen, 0, sizeof seen);
    client = NULL;
    return 0;
}

static int teardown(void **unused) {
    (void)unused;
    tm_client_destroy(&client);
    for (int w = 0; w < WORKERS_MAX; w++) {
        tm_proc_clear(&worker[w], false);
    }
    tm_proc_clear(&real_broker, false);
    tm_procs_kill_all();
    tm_fake_stop(&broker);
    return 0;
}

static void start_worker(int w, const char *endpoint, const char *settings, const char *batch) {
    const char *argv[] = {TM_WORKER_PROGRAM, "--broker", endpoint,  "--backend", "mock",
                          "--model",         settings,   "--batch", batch,       NULL};
    tm_proc_start(&worker[w], argv);
}

static void start_registered(const char *settings) {
    tm_fake_start(&broker, NULL);
    start_worker(0, broker.endpoint, settings, "4");
    tm_fake_welcome(&broker);
    seen.unused = tm_fake_expect_credit(&broker);
    assert_int_equal(seen.unused, BASE_CREDIT); /* as without batches */
}

static void add_xyz(tm_columns_t *event, const float *x, uint64_t rows) {
    static const char *const names[] = {"x", "y", "z"};
    tm_error_t error;
    memset(event, 0, sizeof *event);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(tm_columns_add(event, names[i], TM_F32, rows, x, &error), TM_OK);
    }
}

static void dispatch(uint64_t rows, uint64_t attempt) {
    static const float zeros[LARGE_ROWS];
    tm_columns_t event;
    tm_error_t error;
    uint8_t field[TM_COLUMNS_FIELD_MAX];
    uint64_t serial = ++seen.n_sent;
    assert_true(serial < SERIALS_MAX);
    add_xyz(&event, zeros, rows);
    size_t bytes = tm_payload_bytes(&event);
    void *payload = malloc(bytes);
    assert_non_null(payload);
    tm_message_t m = {.command = TM_CMD_DISPATCH, .id = {broker.epoch, serial}};
    assert_int_equal(tm_payload_encode(&event, payload, field, &m.columns, &error), TM_OK);
    m.set |= TM_FIELD(COLUMNS);
    TM_SET_SLICE(&m, MODEL, model, tm_slice("mock@1"));
    TM_SET_UINT(&m, TTL_MS, ttl_ms, 60000);
    TM_SET_UINT(&m, ATTEMPT, attempt, attempt);
    tm_fake_send(&broker, &m, payload, bytes);
    free(payload);
    seen.state[serial] = SENT;
    seen.unused--;
    seen.held++;
}

static void use_all_credit(uint64_t rows) {
    while (seen.unused > 0) {
        dispatch(rows, 1);
    }
}

static void send_revoke(uint64_t serial) {
    tm_message_t m = {.command = TM_CMD_REVOKE, .id = {broker.epoch, serial}};
    tm_fake_send(&broker, &m, NULL, 0);
    seen.running -= seen.state[serial] == STARTED ? 1 : 0;
    seen.held--;
    seen.state[serial] = REVOKED;
}

static void take_message(void) {
    tm_fake_message_t message;
    assert_true(tm_fake_receive(&broker, &message, PATIENCE_MS));
    const tm_message_t *m = &message.m;
    uint64_t serial = m->id.serial;
    assert_true(serial <= seen.n_sent);
    state_t *state = &seen.state[serial];
    switch (m->command) {
    case TM_CMD_CREDIT:
        seen.unused += m->credit;
        break;
    case TM_CMD_STARTED:
        assert_int_equal(*state, SENT);
        *state = STARTED;
        seen.running++;
        seen.last_started = serial;
        break;
    case TM_CMD_RESULT:
        assert_int_equal(*state, STARTED);
        *state = ANSWERED;
        seen.running--;
        seen.held--;
        break;
    case TM_CMD_FAILED:
        assert_int_equal(*state, SENT);
        assert_int_equal(m->code, TM_E_DRAINING);
        *state = REFUSED;
        seen.held--;
        break;
    case TM_CMD_DRAIN:
        seen.drained = true;
        break;
    case TM_CMD_BYE:
        seen.bye = true;
        break;
    default:
        fail_msg("unexpected %s", tm_command_name(m->command));
    }
    tm_fake_clear(&message);
    uint64_t total = seen.unused + seen.held;
    seen.most_held = total > seen.most_held ? total : seen.most_held;
    seen.most_running = seen.running > seen.most_running ? seen.running : seen.most_running;
    assert_true(seen.running <= BATCH);
}

/* Small events, as many as the worker asks for, until a full batch runs and others wait. */
static void fill_up(void) {
    use_all_credit(SMALL_ROWS);
    while (seen.running < BATCH || seen.held < BATCH + 2) {
        take_message();
        use_all_credit(SMALL_ROWS);
    }
}

/* Credit grows while small events come, and falls back when a large one does. */
static void test_credit(void **unused) {
    (void)unused;
    start_registered("time_ms=10");
    while (seen.most_held < FULL_CREDIT || seen.n_sent < 100) {
        use_all_credit(SMALL_ROWS);
        take_message();
    }
    assert_int_equal(seen.most_running, BATCH);
    while (seen.held > 0) {
        take_message();
    }
    assert_int_equal(seen.most_held, FULL_CREDIT); /* and never more */
    uint64_t left = seen.unused;
    assert_in_range(left, 1, FULL_CREDIT);

    for (uint64_t i = 0; i < left; i++) {
        dispatch(LARGE_ROWS, 1);
    }
    seen.most_running = 0;
    while (seen.held > 0) {
        take_message();
    }
    seen.most_held = 0;
    for (int i = 0; i < 20; i++) {
        use_all_credit(LARGE_ROWS);
        take_message();
    }
    assert_int_equal(seen.most_held, BASE_CREDIT);
    assert_int_equal(seen.most_running, 1); /* large events run alone */
}

/* A slow service with one event at a time asks for no more than it ever did. */
static void test_credit_when_idle(void **unused) {
    (void)unused;
    start_registered("time_ms=0");
    for (int i = 0; i < 20; i++) {
        dispatch(SMALL_ROWS, 1);
        while (seen.held > 0 || seen.unused < BASE_CREDIT) {
            take_message();
        }
    }
    assert_int_equal(seen.most_held, BASE_CREDIT);
}

/* Those tried before run alone, so that a deadly one has no company the second time. */
static void test_second_attempts(void **unused) {
    (void)unused;
    start_registered("time_ms=10");
    fill_up();
    uint64_t first = seen.n_sent + 1;
    while (seen.n_sent < first + 10 || seen.held > 0) {
        while (seen.unused > 0 && seen.n_sent < first + 10) {
            dispatch(SMALL_ROWS, 2);
        }
        take_message();
        assert_true(seen.last_started < first || seen.running <= 1);
    }
}

static void test_revoke(void **unused) {
    (void)unused;
    start_registered("time_ms=300");
    fill_up();
    uint64_t runs = 0, waits = 0;
    for (uint64_t i = 1; i <= seen.n_sent; i++) {
        runs = seen.state[i] == STARTED ? i : runs;
        waits = seen.state[i] == SENT ? i : waits;
    }
    send_revoke(runs);
    send_revoke(waits);
    while (seen.held > 0) {
        take_message(); /* which fails at a word of either of the two */
    }
}

static void test_drain(void **unused) {
    (void)unused;
    start_registered("time_ms=300");
    fill_up();
    assert_true(seen.last_started < seen.n_sent);
    tm_proc_signal(&worker[0], SIGTERM);
    while (!seen.bye) {
        take_message();
    }
    assert_true(seen.drained);
    assert_int_equal(seen.held, 0);
    for (uint64_t i = 1; i <= seen.n_sent; i++) {
        assert_int_equal(seen.state[i], i <= seen.last_started ? ANSWERED : REFUSED);
    }
    assert_true(tm_proc_wait(&worker[0], PATIENCE_MS));
    assert_int_equal(worker[0].code, 0);
}

/* ---- behind a real broker ---- */

static void start_service(void) {
    snprintf(clients, sizeof clients, "tcp://127.0.0.1:%d", tm_test_free_port());
    snprintf(workers, sizeof workers, "tcp://127.0.0.1:%d", tm_test_free_port());
    const char *argv[] = {TM_BROKER_PROGRAM,
                          "--client-endpoint",
                          clients,
                          "--worker-endpoint",
                          workers,
                          "--http",
                          "off",
                          "--heartbeat",
                          "300ms", /* a dead worker is missed the sooner */
                          NULL};
    tm_error_t error = {0};
    tm_proc_start(&real_broker, argv);
    assert_true(tm_proc_wait_for(&real_broker, "ready ", 1, PATIENCE_MS));
    if (tm_client_new(clients, NULL, &client, &error) != TM_OK) {
        fail_msg("%s", error.text);
    }
}

static uint64_t submit(const char *mark) {
    float x[SMALL_ROWS] = {0};
    tm_columns_t event;
    tm_error_t error = {0};
    uint64_t id;
    tm_request_options_t options = {.ttl_ms = ANSWER_MS, .priority = 1};
    add_xyz(&event, x, SMALL_ROWS);
    if (mark != NULL) {
        assert_int_equal(tm_columns_add(&event, mark, TM_F32, SMALL_ROWS, x, &error), TM_OK);
    }
    if (tm_client_submit(client, &event, &options, &id, &error) != TM_OK) {
        fail_msg("%s", error.text);
    }
    return id;
}

static void expect_answer(uint64_t id, tm_status_t status) {
    tm_answer_t *answer = NULL;
    tm_error_t error = {0};
    if (tm_client_wait(client, id, ANSWER_MS, &answer, &error) != TM_OK) {
        fail_msg("no answer: %s", error.text);
    }
    if (answer->status != status) {
        fail_msg("%s instead of %s: %s", tm_status_name(answer->status), tm_status_name(status),
                 answer->error.text);
    }
    if (status == TM_OK) {
        assert_int_equal(answer->tracks.n_points, SMALL_ROWS);
        assert_true(answer->timings.count >= 1);
    }
    tm_answer_destroy(&answer);
}

/* Enough small events that the workers have asked for more than their first credit. */
static void warm_up(void) {
    uint64_t id[WARM_UP];
    for (int i = 0; i < WARM_UP; i++) {
        id[i] = submit(NULL);
    }
    for (int i = 0; i < WARM_UP; i++) {
        expect_answer(id[i], TM_OK);
    }
}

static void wait_for_running(uint64_t n) {
    tm_broker_report_t report;
    tm_error_t error = {0};
    uint64_t limit_ms = tm_test_now_ms() + PATIENCE_MS;
    do {
        assert_true(tm_test_now_ms() < limit_ms);
        assert_int_equal(tm_broker_status(clients, PATIENCE_MS, &report, &error), TM_OK);
    } while (report.running < n);
}

static void test_killed(void **unused) {
    (void)unused;
    start_service();
    start_worker(0, workers, "time_ms=100", "8");
    warm_up();
    uint64_t id[VICTIMS];
    for (int i = 0; i < VICTIMS; i++) {
        id[i] = submit(NULL);
    }
    wait_for_running(4); /* more than one event at a time */
    tm_proc_kill(&worker[0]);
    start_worker(1, workers, "time_ms=1", "8");
    for (int i = 0; i < VICTIMS; i++) {
        expect_answer(id[i], TM_OK);
    }
}

/* One event that kills its workers goes down alone, after TM_ATTEMPTS_MAX of them. */
static void test_deadly_event(void **unused) {
    (void)unused;
    start_service();
    for (int w = 0; w < WORKERS_MAX; w++) {
        start_worker(w, workers, "time_ms=20,crash_on=w", "8");
        assert_true(tm_proc_wait_for(&worker[w], "registered ", 1, PATIENCE_MS));
    }
    warm_up();
    uint64_t id[INNOCENTS], deadly = 0;
    for (int i = 0; i < INNOCENTS; i++) {
        if (i == INNOCENTS / 2) {
            deadly = submit("w");
        }
        id[i] = submit(NULL);
    }
    for (int i = 0; i < INNOCENTS; i++) {
        expect_answer(id[i], TM_OK);
    }
    expect_answer(deadly, TM_E_ATTEMPTS);
}

#define WITH_CLEANUP(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_CLEANUP(test_credit),          WITH_CLEANUP(test_credit_when_idle),
        WITH_CLEANUP(test_second_attempts), WITH_CLEANUP(test_revoke),
        WITH_CLEANUP(test_drain),           WITH_CLEANUP(test_killed),
        WITH_CLEANUP(test_deadly_event),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
