// SPDX-License-Identifier: Apache-2.0
/*
 * Whole programs that are killed, stopped and restarted while work is under way: a real broker, real
 * workers with the mock back end, and libtrackmill in this process. Whatever happens, every request
 * is answered exactly once, with the answer that belongs to it.
 *
 * With the first argument "client" the program is a client that submits and waits, to be killed.
 * TM_CHAOS_SEED repeats the random part of a run.
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
#include <unistd.h>

#include "client/trackmill.h"
#include "tests/chaos/proc.h"
#include "worker/backends/mock.h"

#define START_MS 20000u   /* for a program to come up */
#define ANSWERS_MS 60000u /* for all requests to be answered, whatever has happened */
#define LIVENESS_MS ((uint64_t)TM_HEARTBEAT_MS * TM_LIVENESS)
#define WORKERS_MAX 64
#define REQUESTS_MAX 20000
#define N_POINTS 12

/* ---- the cast; static, so that a failed test can be cleaned up after ---- */

static struct {
    tm_proc_t process;
    int client_port, worker_port;
    char clients[64], workers[64];
} broker[2];

static tm_proc_t worker[WORKERS_MAX];
static tm_proc_t other_client;
static tm_client_t *client;

typedef struct {
    uint64_t id;
    float score;
    int answers;
} request_t;

static request_t request[REQUESTS_MAX];
static int n_requests, n_answered, most_attempts;

static void start_broker(int b) {
    if (broker[b].client_port == 0) {
        broker[b].client_port = tm_test_free_port();
        broker[b].worker_port = tm_test_free_port();
        snprintf(broker[b].clients, sizeof broker[b].clients, "tcp://127.0.0.1:%d",
                 broker[b].client_port);
        snprintf(broker[b].workers, sizeof broker[b].workers, "tcp://127.0.0.1:%d",
                 broker[b].worker_port);
    }
    const char *argv[] = {TM_BROKER_PROGRAM,
                          "--client-endpoint",
                          broker[b].clients,
                          "--worker-endpoint",
                          broker[b].workers,
                          "--http",
                          "off",
                          NULL};
    tm_proc_start(&broker[b].process, argv);
    assert_true(tm_proc_wait_for(&broker[b].process, "ready ", 1, START_MS));
}

/* Starts a worker for all brokers that have been started; does not wait. */
static void launch_worker(int w, const char *settings, const char *slots) {
    char brokers[160];
    snprintf(brokers, sizeof brokers, "%s%s%s", broker[0].workers,
             broker[1].client_port != 0 ? "," : "", broker[1].workers);
    const char *argv[] = {TM_WORKER_PROGRAM, "--broker", brokers, "--backend",   "mock",  "--model",
                          settings,          "--slots",  slots,   "--log-level", "debug", NULL};
    tm_proc_start(&worker[w], argv);
}

static void start_worker(int w, const char *settings, const char *slots) {
    launch_worker(w, settings, slots);
    assert_true(
        tm_proc_wait_for(&worker[w], "registered ", broker[1].client_port != 0 ? 2 : 1, START_MS));
}

static void start_client(void) {
    char brokers[160];
    tm_error_t error = {0};
    snprintf(brokers, sizeof brokers, "%s%s%s", broker[0].clients,
             broker[1].client_port != 0 ? "," : "", broker[1].clients);
    if (tm_client_new(brokers, NULL, &client, &error) != TM_OK) {
        fail_msg("%s", error.text);
    }
}

static int setup(void **unused) {
    (void)unused;
    memset(broker, 0, sizeof broker);
    memset(worker, 0, sizeof worker);
    memset(&other_client, 0, sizeof other_client);
    n_requests = n_answered = most_attempts = 0;
    client = NULL;
    start_broker(0);
    start_client();
    return 0;
}

static int teardown(void **unused) {
    (void)unused;
    bool show = getenv("TM_CHAOS_SHOW") != NULL;
    tm_client_destroy(&client);
    for (int w = 0; w < WORKERS_MAX; w++) {
        tm_proc_clear(&worker[w], show);
    }
    tm_proc_clear(&other_client, show);
    tm_proc_clear(&broker[0].process, show);
    tm_proc_clear(&broker[1].process, show);
    tm_procs_kill_all();
    return 0;
}

/* ---- requests ---- */

/* An event that no other request has; `mark` adds a column of that name. */
static void make_event(tm_columns_t *event, float x[N_POINTS], int serial, const char *mark) {
    tm_error_t error;
    memset(event, 0, sizeof *event);
    for (int i = 0; i < N_POINTS; i++) {
        x[i] = (float)serial + (float)i / 64.0f;
    }
    assert_int_equal(tm_columns_add(event, "x", TM_F32, N_POINTS, x, &error), TM_OK);
    assert_int_equal(tm_columns_add(event, "y", TM_F32, N_POINTS, x, &error), TM_OK);
    assert_int_equal(tm_columns_add(event, "z", TM_F32, N_POINTS, x, &error), TM_OK);
    if (mark != NULL) {
        assert_int_equal(tm_columns_add(event, mark, TM_F32, N_POINTS, x, &error), TM_OK);
    }
}

static void submit(int n, const char *mark) {
    for (int i = 0; i < n; i++) {
        tm_columns_t event;
        float x[N_POINTS];
        tm_error_t error = {0};
        assert_true(n_requests < REQUESTS_MAX);
        make_event(&event, x, n_requests + 1, mark);
        request_t *r = &request[n_requests];
        *r = (request_t){.score = tm_mock_score(tm_mock_checksum(&event))};
        tm_request_options_t options = {.ttl_ms = 10 * ANSWERS_MS, .priority = 1};
        if (tm_client_submit(client, &event, &options, &r->id, &error) != TM_OK) {
            fail_msg("submit: %s", error.text);
        }
        n_requests++;
    }
}

static request_t *find(uint64_t id) {
    for (int i = 0; i < n_requests; i++) {
        if (request[i].id == id) {
            return &request[i];
        }
    }
    fail_msg("an answer to a request that was never made");
    return NULL;
}

/* Takes one answer if there is one within timeout_ms and checks that it is the right one. */
static bool take_answer(int timeout_ms, tm_status_t expected) {
    tm_answer_t *answer = NULL;
    tm_error_t error = {0};
    tm_status_t status = tm_client_poll(client, timeout_ms, &answer, &error);
    if (answer == NULL) {
        assert_true(status == TM_OK || status == TM_E_NOT_FOUND);
        return false;
    }
    request_t *r = find(answer->id);
    r->answers++;
    n_answered++;
    assert_int_equal(r->answers, 1);
    if (answer->status != expected) {
        fail_msg("request %d: %s (%s)", (int)(r - request), tm_status_name(answer->status),
                 answer->error.text);
    }
    if (answer->status == TM_OK) {
        assert_int_equal(answer->tracks.n_points, N_POINTS);
        assert_int_equal(answer->tracks.n_tracks, 2);
        assert_true(answer->tracks.scores[0] == r->score);
        most_attempts = (int)answer->attempt > most_attempts ? (int)answer->attempt : most_attempts;
    }
    tm_answer_destroy(&answer);
    return true;
}

static void take_all_answers(void) {
    uint64_t limit_ms = tm_test_now_ms() + ANSWERS_MS;
    while (n_answered < n_requests) {
        if (tm_test_now_ms() >= limit_ms) {
            fail_msg("%d of %d requests are not answered", n_requests - n_answered, n_requests);
        }
        take_answer(200, TM_OK);
    }
    assert_false(take_answer(0, TM_OK));
    assert_int_equal(tm_client_in_flight(client), 0);
}

static void report(tm_broker_report_t *out) {
    tm_error_t error = {0};
    if (tm_broker_status(broker[0].clients, START_MS, out, &error) != TM_OK) {
        fail_msg("%s", error.text);
    }
}

static void wait_for_running(uint64_t n) {
    tm_broker_report_t r;
    uint64_t limit_ms = tm_test_now_ms() + START_MS;
    for (report(&r); r.running < n; report(&r)) {
        assert_true(tm_test_now_ms() < limit_ms);
        tm_test_sleep_ms(10);
    }
}

/* The broker holds nothing any more, and `workers` workers. */
static void wait_for_rest(uint64_t workers) {
    tm_broker_report_t r;
    uint64_t limit_ms = tm_test_now_ms() + START_MS;
    for (report(&r); r.running > 0 || r.queued > 0 || r.workers != workers; report(&r)) {
        if (tm_test_now_ms() >= limit_ms) {
            fail_msg("running %d, queued %d, workers %d", (int)r.running, (int)r.queued,
                     (int)r.workers);
        }
        tm_test_sleep_ms(20);
    }
}

/* ---- the scenes ---- */

static void test_worker_killed(void **unused) {
    (void)unused;
    start_worker(0, "time_ms=500", "2");
    submit(6, NULL);
    wait_for_running(2);
    tm_proc_kill(&worker[0]);
    start_worker(1, "time_ms=10", "2");
    take_all_answers();
    assert_int_equal(most_attempts, 2);
    wait_for_rest(1);
}

static void test_drain_loses_nothing(void **unused) {
    (void)unused;
    start_worker(0, "time_ms=100", "2");
    start_worker(1, "time_ms=100", "2");
    submit(40, NULL);
    wait_for_running(4);
    tm_proc_signal(&worker[0], SIGTERM);
    assert_true(tm_proc_wait(&worker[0], START_MS));
    assert_int_equal(worker[0].code, 0);
    take_all_answers();
    /* nothing had to be done twice; waiting ones may have been handed from one to the other */
    assert_int_equal(tm_proc_count_err(&worker[0], " ended: ok") +
                         tm_proc_count_err(&worker[1], " ended: ok"),
                     40);
    wait_for_rest(1);
}

static void test_worker_hangs(void **unused) {
    (void)unused;
    start_worker(0, "time_ms=1000", "1");
    submit(3, NULL);
    wait_for_running(1);
    tm_proc_signal(&worker[0], SIGSTOP);
    uint64_t begin_ms = tm_test_now_ms();
    start_worker(1, "time_ms=10", "1");
    take_all_answers();
    uint64_t spent_ms = tm_test_now_ms() - begin_ms;
    assert_true(spent_ms >= LIVENESS_MS / 2); /* else it was not stopped in the middle of one */
    assert_true(spent_ms <= LIVENESS_MS + 1000u + 5000u);
    assert_int_equal(most_attempts, 2);

    tm_proc_signal(&worker[0], SIGCONT); /* its late answer has nowhere to go */
    wait_for_rest(2);
    assert_true(tm_proc_wait_for(&worker[0], "registered ", 2, START_MS));
    submit(20, NULL);
    take_all_answers(); /* none twice, none wrong */
}

static void test_broker_restarted(void **unused) {
    (void)unused;
    start_worker(0, "time_ms=50", "1");
    start_worker(1, "time_ms=50", "1");
    submit(40, NULL);
    while (n_answered < 5) {
        take_answer(200, TM_OK);
    }
    tm_proc_kill(&broker[0].process);
    tm_test_sleep_ms(500);
    tm_proc_clear(&broker[0].process, false);
    start_broker(0);
    take_all_answers();
    assert_true(tm_proc_wait_for(&worker[0], "registered ", 2, START_MS));
    assert_true(tm_proc_wait_for(&worker[1], "registered ", 2, START_MS));
    wait_for_rest(2);
}

static void test_client_killed(void **unused) {
    (void)unused;
    start_worker(0, "time_ms=300", "1");
    const char *argv[] = {"/proc/self/exe", "client", broker[0].clients, NULL};
    tm_proc_start(&other_client, argv);
    assert_true(tm_proc_wait_for(&other_client, "submitted", 1, START_MS));
    wait_for_running(1);
    tm_proc_kill(&other_client);
    submit(3, NULL);
    take_all_answers();
    wait_for_rest(1); /* what the dead client wanted is gone, sooner or later */
    assert_true(tm_proc_count(&worker[0], "registered ") == 1);
    submit(3, NULL);
    take_all_answers();
}

static void test_second_broker(void **unused) {
    (void)unused;
    tm_client_destroy(&client);
    start_broker(1);
    start_client();
    start_worker(0, "time_ms=50", "1");
    submit(30, NULL);
    while (n_answered < 5) {
        take_answer(200, TM_OK);
    }
    tm_proc_kill(&broker[0].process);
    take_all_answers();
    submit(10, NULL);
    take_all_answers();
}

/* An event that kills whoever touches it takes three workers with it, and no more. */
static void test_poison(void **unused) {
    (void)unused;
    for (int w = 0; w < 5; w++) {
        start_worker(w, "time_ms=100,crash_on=poison", "1");
    }
    submit(1, "poison");
    uint64_t limit_ms = tm_test_now_ms() + ANSWERS_MS;
    while (!take_answer(200, TM_E_ATTEMPTS)) {
        assert_true(tm_test_now_ms() < limit_ms);
    }
    int dead = 0;
    for (int w = 0; w < 5; w++) {
        dead += tm_proc_wait(&worker[w], 0) ? 1 : 0;
    }
    assert_int_equal(dead, TM_ATTEMPTS_MAX);
    submit(10, NULL);
    take_all_answers();
    wait_for_rest(2);
}

/* The heartbeat of a worker with a hung slot goes on; its watchdog ends it. */
static void test_hung_slot(void **unused) {
    (void)unused;
    const char *argv[] = {TM_WORKER_PROGRAM,
                          "--broker",
                          broker[0].workers,
                          "--backend",
                          "mock",
                          "--model",
                          "time_ms=1,hang_on=y",
                          "--attempt-timeout",
                          "1",
                          NULL};
    tm_proc_start(&worker[0], argv);
    assert_true(tm_proc_wait_for(&worker[0], "registered ", 1, START_MS));
    submit(1, NULL);
    assert_true(tm_proc_wait(&worker[0], START_MS));
    assert_int_equal(worker[0].code, 3);
    start_worker(1, "time_ms=1", "1");
    take_all_answers();
    assert_int_equal(most_attempts, 2);
}

/* Workers join, drain and are killed at random for 10 s, under load. */
static void test_churn(void **unused) {
    (void)unused;
    const uint64_t duration_ms = 10000;
    const int alive_target = 4, in_flight_target = 50;
    const char *text = getenv("TM_CHAOS_SEED");
    unsigned seed = text != NULL ? (unsigned)strtoul(text, NULL, 10) : (unsigned)getpid();
    print_message("churn: TM_CHAOS_SEED=%u\n", seed);
    uint64_t begin_ms = tm_test_now_ms(), next_ms = begin_ms;
    int next = 0, killed = 0, drained = 0, alive[WORKERS_MAX], n_alive = 0;
    while (tm_test_now_ms() - begin_ms < duration_ms) {
        if (tm_test_now_ms() >= next_ms) {
            next_ms += 200 + (uint64_t)rand_r(&seed) % 400;
            if (n_alive == alive_target) {
                int i = rand_r(&seed) % n_alive;
                /* rarely SIGKILL: three of them must not meet the same request */
                bool kill_it = rand_r(&seed) % 4 == 0;
                tm_proc_signal(&worker[alive[i]], kill_it ? SIGKILL : SIGTERM);
                killed += kill_it ? 1 : 0;
                drained += kill_it ? 0 : 1;
                alive[i] = alive[--n_alive];
            }
            while (n_alive < alive_target && next < WORKERS_MAX) {
                launch_worker(next, "time_ms=1-8", "2");
                alive[n_alive++] = next++;
            }
        }
        int want = in_flight_target - (n_requests - n_answered);
        if (want > 0 && n_requests + want <= REQUESTS_MAX) {
            submit(want, NULL);
        }
        take_answer(5, TM_OK);
    }
    take_all_answers();
    print_message("churn: %d requests answered; workers: %d started, %d killed, %d drained\n",
                  n_answered, next, killed, drained);
    assert_true(n_answered > 100);
    assert_true(drained > 0);
    for (int w = 0; w < next; w++) {
        tm_proc_signal(&worker[w], SIGTERM);
    }
    for (int w = 0; w < next; w++) {
        assert_true(tm_proc_wait(&worker[w], START_MS));
        /* one that was told to leave before it could listen dies of the signal */
        bool unborn = worker[w].code == -SIGTERM && tm_proc_count(&worker[w], "ready ") == 0;
        assert_true(worker[w].code == 0 || worker[w].code == -SIGKILL || unborn);
    }
}

/* ---- the client that is killed ---- */

static int be_a_client(const char *brokers) {
    tm_client_t *own;
    tm_error_t error;
    if (tm_client_new(brokers, NULL, &own, &error) != TM_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    for (int i = 0; i < 20; i++) {
        tm_columns_t event;
        float x[N_POINTS];
        uint64_t id;
        make_event(&event, x, i, NULL);
        if (tm_client_submit(own, &event, NULL, &id, &error) != TM_OK) {
            fprintf(stderr, "%s\n", error.text);
            return 1;
        }
    }
    puts("submitted");
    fflush(stdout);
    for (;;) {
        pause();
    }
}

#define SCENE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(int argc, char *argv[]) {
    if (argc == 3 && strcmp(argv[1], "client") == 0) {
        return be_a_client(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        SCENE(test_worker_killed),    SCENE(test_drain_loses_nothing), SCENE(test_worker_hangs),
        SCENE(test_broker_restarted), SCENE(test_client_killed),       SCENE(test_second_broker),
        SCENE(test_poison),           SCENE(test_hung_slot),           SCENE(test_churn),
    };
    if (argc == 2) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
