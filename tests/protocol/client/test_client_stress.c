// SPDX-License-Identifier: Apache-2.0
/*
 * A seeded storm: several threads submit events with random deadlines and priorities and cancel some
 * of them, while brokers and workers are killed, stopped, drained and started again. Whatever
 * happens, every request gets exactly one answer, in time, and tracks are those of its own event.
 *
 * TM_SEED and TM_STRESS_S choose another storm and its length.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "client/client_brokers.h"
#include "client/client_clock.h"
#include "service.h"

#define THREADS 4
#define SECONDS_DEFAULT 10
#define HOLD 16 /* requests that a thread has under way */
#define POINTS_MAX 4000
#define TTL_MIN_MS 50
#define TTL_MAX_MS 4000
/* A loaded machine may be late; a request that hangs is seconds later than this. */
#define LATENESS_MS 2000

typedef struct {
    tm_client_t *client;
    uint64_t random;
    const atomic_bool *stop;
    uint32_t submitted, refused, ok, cancelled, deadline, no_broker, busy, other;
    uint32_t wrong_tracks, late, twice, lost;
} user_t;

typedef struct {
    uint64_t id;
    uint32_t n_points, checksum, ttl_ms;
    bool cancelled;
} open_t;

static bool submit_one(user_t *user, open_t *open) {
    service_event_t event;
    tm_error_t error;
    uint32_t n_points = 1 + tm_random_upto(&user->random, POINTS_MAX - 1);
    if (!service_event_make(&event, n_points, tm_random_upto(&user->random, UINT32_MAX)))
        return false;
    tm_request_options_t options = {
        .ttl_ms = TTL_MIN_MS + tm_random_upto(&user->random, TTL_MAX_MS - TTL_MIN_MS),
        .priority = tm_random_upto(&user->random, TM_PRIORITIES - 1)};
    *open = (open_t){.n_points = n_points, .checksum = event.checksum, .ttl_ms = options.ttl_ms};
    tm_status_t status =
        tm_client_submit(user->client, &event.columns, &options, &open->id, &error);
    service_event_free(&event);
    user->submitted += status == TM_OK;
    user->refused += status != TM_OK;
    return status == TM_OK;
}

static void judge(user_t *user, const open_t *open, const tm_answer_t *answer) {
    switch (answer->status) {
    case TM_OK:
        user->ok++;
        user->wrong_tracks += !service_tracks_fit(&answer->tracks, open->n_points, open->checksum);
        break;
    case TM_E_CANCELLED:
        user->cancelled++;
        user->other += !open->cancelled;
        break;
    case TM_E_DEADLINE:
    case TM_E_NO_MODEL: /* what the broker calls it while no worker is there */
        user->deadline++;
        break;
    case TM_E_NO_BROKER:
        user->no_broker++;
        break;
    case TM_E_BUSY:
        user->busy++;
        break;
    default: /* three workers may die of killing, not of the event */
        user->other += answer->status != TM_E_ATTEMPTS;
        if (answer->status != TM_E_ATTEMPTS)
            fprintf(stderr, "%s: %s\n", tm_status_name(answer->status), answer->error.text);
    }
}

static void *use(void *argument) {
    user_t *user = argument;
    open_t open[HOLD];
    int n = 0;
    while (!*user->stop || n > 0) {
        while (n < HOLD && !*user->stop && submit_one(user, &open[n]))
            n++;
        if (n == 0)
            continue;
        int i = (int)tm_random_upto(&user->random, (uint32_t)n - 1);
        if (tm_random_upto(&user->random, 9) == 0) {
            open[i].cancelled = true;
            if (tm_client_cancel(user->client, open[i].id, NULL))
                user->lost++;
        }
        tm_answer_t *answer = NULL, *again = NULL;
        if (tm_client_wait(user->client, open[i].id, TTL_MAX_MS + LATENESS_MS, &answer, NULL) ||
            !answer) {
            user->lost++;
        } else {
            user->late += answer->total_us > (open[i].ttl_ms + LATENESS_MS) * TM_US_PER_MS;
            judge(user, &open[i], answer);
            user->twice +=
                tm_client_wait(user->client, open[i].id, 0, &again, NULL) != TM_E_NOT_FOUND;
        }
        tm_answer_destroy(&answer);
        tm_answer_destroy(&again);
        open[i] = open[--n];
    }
    return NULL;
}

/* One blow at a random victim; what is down comes back. */
static void strike(service_t *service, uint64_t *random) {
    int b = (int)tm_random_upto(random, (uint32_t)service->n_brokers - 1);
    int w = (int)tm_random_upto(random, (uint32_t)service->n_workers - 1);
    switch (tm_random_upto(random, 5)) {
    case 0:
        tm_proc_kill(&service->broker[b]);
        break;
    case 1:
        tm_proc_signal(&service->broker[b], SIGTERM);
        break;
    case 2:
        tm_proc_signal(&service->broker[b], SIGSTOP);
        break;
    case 3:
        tm_proc_kill(&service->worker[w]);
        break;
    case 4:
        tm_proc_signal(&service->worker[w], SIGTERM);
        break;
    default:
        break;
    }
    /* at times longer than the heartbeats of a stopped broker are waited for: 5 times 200 ms */
    tm_test_sleep_ms(tm_random_upto(random, 1500));
    for (int i = 0; i < service->n_brokers; i++) {
        tm_proc_signal(&service->broker[i], SIGCONT);
        if (tm_proc_wait(&service->broker[i], 0))
            service_start_broker(service, i);
    }
    for (int i = 0; i < service->n_workers; i++) {
        if (tm_proc_wait(&service->worker[i], 0))
            service_start_worker(service, i);
    }
    tm_test_sleep_ms(tm_random_upto(random, 300));
}

static uint64_t number_from(const char *variable, uint64_t otherwise) {
    const char *text = getenv(variable);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

static void test_storm(void **state) {
    (void)state;
    service_t service;
    uint64_t seed = number_from("TM_SEED", 1), random = seed;
    uint64_t end_ms = tm_test_now_ms() + 1000 * number_from("TM_STRESS_S", SECONDS_DEFAULT);
    atomic_bool stop = false;
    user_t users[THREADS], sum = {0};
    pthread_t threads[THREADS];
    service_start(&service, 2, 2, "time_ms=0-10");
    tm_client_t *client = service_client(&service);
    for (int i = 0; i < THREADS; i++) {
        users[i] = (user_t){.client = client, .random = seed + (uint64_t)i + 1, .stop = &stop};
        assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    while (tm_test_now_ms() < end_ms)
        strike(&service, &random);
    stop = true;
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum.submitted += users[i].submitted, sum.refused += users[i].refused;
        sum.ok += users[i].ok, sum.cancelled += users[i].cancelled;
        sum.deadline += users[i].deadline, sum.no_broker += users[i].no_broker;
        sum.busy += users[i].busy, sum.other += users[i].other;
        sum.wrong_tracks += users[i].wrong_tracks, sum.late += users[i].late;
        sum.twice += users[i].twice, sum.lost += users[i].lost;
    }
    printf("seed %llu: %u requests: %u tracks, %u cancelled, %u deadline, %u no broker, %u busy\n",
           (unsigned long long)seed, sum.submitted, sum.ok, sum.cancelled, sum.deadline,
           sum.no_broker, sum.busy);
    uint32_t left = tm_client_in_flight(client);
    tm_client_destroy(&client);
    service_stop(&service, false);
    assert_int_equal(left, 0);
    assert_int_equal(sum.refused, 0);
    assert_int_equal(sum.lost, 0);
    assert_int_equal(sum.twice, 0);
    assert_int_equal(sum.late, 0);
    assert_int_equal(sum.wrong_tracks, 0);
    assert_int_equal(sum.other, 0);
    assert_true(sum.ok > 0);
}

static int teardown(void **state) {
    (void)state;
    tm_procs_kill_all();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(test_storm, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
