// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_load.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/interrupt.h"
#include "client/trackmill.h"

#define POLL_MS 100 /* how long a signal may go unseen */
#define US_PER_S 1e6
#define FIRST_ROOM 1024

typedef enum { PHASE_WARM_UP, PHASE_WINDOW, PHASE_OVER } phase_t;

typedef struct {
    const tm_bench_load_t *load;
    tm_bench_events_t *events;
    tm_bench_point_t *point;
    atomic_uint next_event;
    atomic_bool stop;
    pthread_mutex_t lock; /* of all below and of *point */
    phase_t phase;
    uint64_t phase_us;    /* when it began */
    uint64_t phase_count; /* answers since */
    tm_status_t status;
    tm_error_t error;
} run_t;

typedef struct {
    run_t *run;
    pthread_t thread;
    bool started;
    uint32_t in_flight;
} caller_t;

/* One answer, from wherever. */
typedef struct {
    uint32_t event;
    tm_status_t status;
    const tm_error_t *error;
    tm_tracks_t *tracks;
    const uint8_t *hash;
    const char *model;
    uint32_t attempt;
    tm_bench_sample_t sample;
    uint64_t sent_bytes, received_bytes;
} answer_t;

/* ---- counting ---- */

static void give_up(run_t *run, tm_status_t status, const tm_error_t *error) {
    pthread_mutex_lock(&run->lock);
    if (run->status == TM_OK) {
        run->status = status;
        run->error = *error;
    }
    pthread_mutex_unlock(&run->lock);
    atomic_store(&run->stop, true);
}

static tm_status_t count_success(tm_bench_point_t *point, const answer_t *answer, uint32_t n_points,
                                 tm_error_t *err) {
    if (point->n == point->room) {
        size_t room = point->room ? 2 * point->room : FIRST_ROOM;
        tm_bench_sample_t *grown = realloc(point->sample, room * sizeof *grown);
        if (!grown) {
            return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %zu samples", room);
        }
        point->sample = grown;
        point->room = room;
    }
    point->sample[point->n++] = answer->sample;
    point->points += n_points;
    point->sent_bytes += answer->sent_bytes;
    point->received_bytes += answer->received_bytes;
    point->retried += answer->attempt > 1;
    snprintf(point->model, sizeof point->model, "%s", answer->model);
    return TM_OK;
}

static void count_failure(tm_bench_point_t *point, const answer_t *answer) {
    if (point->n_failed++ == 0) {
        point->failure = *answer->error;
    }
    if ((unsigned)answer->status < TM_BENCH_CODES) {
        point->failed[answer->status]++;
    }
}

/* The answer that ends a phase belongs to it. */
static void advance(run_t *run) {
    const tm_bench_load_t *load = run->load;
    uint64_t now_us = tm_cli_now_us();
    double wanted_s = run->phase == PHASE_WARM_UP ? load->warm_up_s : load->seconds;
    run->phase_count++;
    if (run->phase == PHASE_OVER || run->phase_count < run->point->in_flight ||
        (double)(now_us - run->phase_us) < wanted_s * US_PER_S) {
        return;
    }
    if (run->phase == PHASE_WINDOW) {
        run->point->window_us = now_us - run->phase_us;
        atomic_store(&run->stop, true);
    }
    run->phase = run->phase == PHASE_WARM_UP ? PHASE_WINDOW : PHASE_OVER;
    run->phase_us = now_us;
    run->phase_count = 0;
}

static void take_answer(run_t *run, const answer_t *answer) {
    tm_error_t why = {0};
    tm_status_t status = TM_OK;
    uint32_t n_points = run->events->event[answer->event].n_points;
    bool right =
        answer->status != TM_OK ||
        tm_bench_events_check(run->events, answer->event, answer->tracks, answer->hash, &why);
    pthread_mutex_lock(&run->lock);
    if (!right && run->point->mismatches++ == 0) {
        run->point->mismatch = why;
    }
    if (run->phase == PHASE_WINDOW && answer->status == TM_OK) {
        status = count_success(run->point, answer, n_points, &why);
    } else if (run->phase == PHASE_WINDOW) {
        count_failure(run->point, answer);
    }
    advance(run);
    pthread_mutex_unlock(&run->lock);
    if (status != TM_OK) {
        give_up(run, status, &why);
    }
}

static uint32_t next_event(run_t *run) {
    return atomic_fetch_add(&run->next_event, 1) % run->events->n;
}

static uint64_t sum_stages(const tm_timings_t *timings) {
    uint64_t us = 0;
    for (uint32_t i = 0; i < timings->count; i++) {
        us += timings->stage[i].us;
    }
    return us;
}

static bool stopped(run_t *run) {
    return atomic_load(&run->stop) || tm_interrupt_signal();
}

/* ---- an engine ---- */

static void *call_engine(void *argument) {
    caller_t *caller = argument;
    run_t *run = caller->run;
    const tm_model_info_t *info = tm_model_info(run->load->engine_model);
    tm_engine_t *engine = NULL;
    tm_error_t error = {0};
    char model[2 * TM_NAME_MAX + 2];
    snprintf(model, sizeof model, "%s@%s", info->name, info->version);
    const tm_engine_options_t options = {.threads = (int)run->point->threads};
    tm_status_t status = tm_engine_new(run->load->engine_model, &options, &engine, &error);
    if (status != TM_OK) {
        give_up(run, status, &error);
    }
    while (!stopped(run)) {
        tm_timings_t timings = {0};
        tm_tracks_t tracks = {0};
        uint32_t event = next_event(run);
        uint64_t start_us = tm_cli_now_us();
        status = tm_engine_find(engine, &run->events->event[event].columns, tm_interrupt_flag(),
                                &tracks, &timings, NULL, &error);
        uint64_t total_us = tm_cli_now_us() - start_us;
        if (status == TM_E_CANCELLED && tm_interrupt_signal()) {
            break;
        }
        answer_t answer = {.event = event,
                           .status = status,
                           .error = &error,
                           .tracks = &tracks,
                           .hash = info->hash,
                           .model = model,
                           .attempt = 1,
                           .sample = {.total_us = total_us,
                                      .service_us = total_us,
                                      .stages_us = sum_stages(&timings)}};
        take_answer(run, &answer);
        tm_tracks_clear(&tracks);
    }
    tm_engine_destroy(&engine);
    return NULL;
}

/* ---- a client of brokers ---- */

typedef struct {
    uint64_t id;
    uint32_t event;
} request_t;

static tm_status_t send_one(run_t *run, tm_client_t *client, request_t *request, tm_error_t *err) {
    const tm_request_options_t options = {
        .model = run->load->model, .ttl_ms = run->load->ttl_ms, .priority = TM_PRIORITY_DEFAULT};
    request->event = next_event(run);
    return tm_client_submit(client, &run->events->event[request->event].columns, &options,
                            &request->id, err);
}

static void take_from_broker(run_t *run, const request_t *request, tm_answer_t *got) {
    answer_t answer = {.event = request->event,
                       .status = got->status,
                       .error = &got->error,
                       .tracks = &got->tracks,
                       .hash = got->hash,
                       .model = got->model,
                       .attempt = got->attempt,
                       .sample = {.total_us = got->total_us,
                                  .queue_us = got->queue_us,
                                  .service_us = got->service_us,
                                  .stages_us = sum_stages(&got->timings)},
                       .sent_bytes = got->sent_bytes,
                       .received_bytes = got->received_bytes};
    take_answer(run, &answer);
}

/* Takes answers, and sends another event for each, until all is over and nothing is under way. */
static tm_status_t converse(run_t *run, tm_client_t *client, request_t *request, uint32_t n,
                            tm_error_t *err) {
    tm_status_t status = TM_OK;
    for (uint32_t i = 0; i < n && status == TM_OK; i++) {
        status = send_one(run, client, &request[i], err);
    }
    while (status == TM_OK && !tm_interrupt_signal()) {
        tm_answer_t *got = NULL;
        status = tm_client_poll(client, POLL_MS, &got, err);
        if (status == TM_E_NOT_FOUND) {
            return TM_OK;
        }
        if (!got) {
            continue;
        }
        request_t *its = request;
        while (its < request + n && its->id != got->id) {
            its++;
        }
        if (its == request + n) {
            tm_answer_destroy(&got);
            return tm_error_set(err, TM_E_UNEXPECTED, "an answer to no request of ours");
        }
        take_from_broker(run, its, got);
        tm_answer_destroy(&got);
        its->id = 0;
        if (!stopped(run)) {
            status = send_one(run, client, its, err);
        }
    }
    return status;
}

static void *call_broker(void *argument) {
    caller_t *caller = argument;
    run_t *run = caller->run;
    tm_client_t *client = NULL;
    tm_error_t error = {0};
    tm_status_t status = TM_OK;
    request_t *request = calloc(caller->in_flight, sizeof *request);
    /* room for every event under way: submit never says that the client is full */
    tm_client_options_t options = {.max_bytes = (uint64_t)caller->in_flight * TM_PAYLOAD_MAX_BYTES};
    if (!request) {
        status = tm_error_set(&error, TM_E_NO_MEMORY, "no memory for requests");
    }
    if (status == TM_OK) {
        status = tm_client_new(run->load->brokers, &options, &client, &error);
    }
    if (status == TM_OK) {
        status = converse(run, client, request, caller->in_flight, &error);
    }
    if (status != TM_OK) {
        give_up(run, status, &error);
    }
    tm_client_destroy(&client);
    free(request);
    return NULL;
}

/* ---- all of them ---- */

static uint32_t share_threads(const tm_bench_load_t *load, uint32_t in_flight) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t each = processors > (long)in_flight ? (uint32_t)processors / in_flight : 1;
    return load->threads ? load->threads : each;
}

tm_status_t tm_bench_load_run(const tm_bench_load_t *load, tm_bench_events_t *events,
                              uint32_t in_flight, tm_bench_point_t *point, tm_error_t *err) {
    uint32_t n = load->brokers && load->clients < in_flight ? load->clients : in_flight;
    *point = (tm_bench_point_t){.in_flight = in_flight,
                                .callers = n,
                                .threads = load->brokers ? 0 : share_threads(load, in_flight)};
    run_t run = {.load = load, .events = events, .point = point, .phase_us = tm_cli_now_us()};
    caller_t *caller = calloc(n, sizeof *caller);
    if (!caller) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u callers", n);
    }
    pthread_mutex_init(&run.lock, NULL);
    for (uint32_t i = 0; i < n; i++) {
        caller[i].run = &run;
        caller[i].in_flight = in_flight / n + (i < in_flight % n);
        int fault = pthread_create(&caller[i].thread, NULL,
                                   load->brokers ? call_broker : call_engine, &caller[i]);
        caller[i].started = fault == 0;
        if (fault) {
            tm_error_t error;
            tm_error_set(&error, TM_E_SYSTEM, "no thread for a caller: %s", strerror(fault));
            give_up(&run, TM_E_SYSTEM, &error);
            break;
        }
    }
    for (uint32_t i = 0; i < n && caller[i].started; i++) {
        pthread_join(caller[i].thread, NULL);
    }
    pthread_mutex_destroy(&run.lock);
    free(caller);
    if (tm_interrupt_signal()) {
        return tm_error_set(err, TM_E_INTERRUPTED, "interrupted");
    }
    if (run.status != TM_OK) {
        *err = run.error;
    }
    return run.status;
}

void tm_bench_point_clear(tm_bench_point_t *point) {
    free(point->sample);
    *point = (tm_bench_point_t){0};
}
