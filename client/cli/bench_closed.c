// SPDX-License-Identifier: Apache-2.0
/* Callers of a closed loop: an engine, or a client of brokers that keeps some events under way. */
#include <stdio.h>
#include <stdlib.h>

#include "client/cli/bench_internal.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"

/* ---- an engine ---- */

static void find_one(tm_bench_run_t *run, tm_engine_t *engine, const char *model) {
    tm_error_t error = {0};
    tm_timings_t timings = {0};
    tm_tracks_t tracks = {0};
    uint32_t event = tm_bench_next_event(run);
    uint64_t start_us = tm_cli_now_us();
    tm_status_t status = tm_engine_find(engine, &run->events->event[event].columns,
                                        tm_interrupt_flag(), &tracks, &timings, NULL, &error);
    uint64_t total_us = tm_cli_now_us() - start_us;
    if (status != TM_E_CANCELLED || !tm_interrupt_signal()) {
        const tm_bench_answer_t answer = {.event = event,
                                          .status = status,
                                          .error = &error,
                                          .tracks = &tracks,
                                          .hash = tm_model_info(run->load->engine_model)->hash,
                                          .model = model,
                                          .attempt = 1,
                                          .sample = {.total_us = total_us,
                                                     .service_us = total_us,
                                                     .stages_us = tm_bench_sum_stages(&timings)}};
        tm_bench_take(run, &answer);
    }
    tm_tracks_clear(&tracks);
}

void *tm_bench_call_engine(void *argument) {
    tm_bench_caller_t *caller = argument;
    tm_bench_run_t *run = caller->run;
    const tm_model_info_t *info = tm_model_info(run->load->engine_model);
    tm_engine_t *engine = NULL;
    tm_error_t error = {0};
    char model[2 * TM_NAME_MAX + 2];
    snprintf(model, sizeof model, "%s@%s", info->name, info->version);
    const tm_engine_options_t options = {.threads = (int)run->point->threads,
                                         .device = run->load->device};
    tm_status_t status = tm_engine_new(run->load->engine_model, &options, &engine, &error);
    if (status != TM_OK) {
        tm_bench_give_up(run, status, &error);
    } else if (tm_bench_window_arrive(run->window)) {
        while (!tm_bench_window_stopped(run->window)) {
            find_one(run, engine, model);
        }
    }
    tm_engine_destroy(&engine);
    return NULL;
}

/* ---- a client of brokers ---- */

typedef struct {
    uint64_t id;
    uint32_t event;
} request_t;

static tm_status_t send_one(tm_bench_run_t *run, tm_client_t *client, request_t *request,
                            tm_error_t *err) {
    request->event = tm_bench_next_event(run);
    return tm_bench_submit(run, client, request->event, &request->id, err);
}

/* Takes answers, and sends another event for each, until all is over and nothing is under way. */
static tm_status_t converse(tm_bench_run_t *run, tm_client_t *client, request_t *request,
                            uint32_t n, tm_error_t *err) {
    tm_status_t status = TM_OK;
    for (uint32_t i = 0; i < n && status == TM_OK; i++) {
        status = send_one(run, client, &request[i], err);
    }
    while (status == TM_OK && !tm_interrupt_signal()) {
        tm_answer_t *got = NULL;
        status = tm_client_poll(client, TM_BENCH_POLL_MS, &got, err);
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
        tm_bench_take_from_broker(run, its->event, false, got->total_us, got);
        tm_answer_destroy(&got);
        its->id = 0;
        if (!tm_bench_window_stopped(run->window)) {
            status = send_one(run, client, its, err);
        }
    }
    return status;
}

void *tm_bench_call_closed(void *argument) {
    tm_bench_caller_t *caller = argument;
    tm_bench_run_t *run = caller->run;
    tm_client_t *client = NULL;
    tm_error_t error = {0};
    tm_status_t status = TM_OK;
    request_t *request = calloc(caller->in_flight, sizeof *request);
    if (!request) {
        status = tm_error_set(&error, TM_E_NO_MEMORY, "no memory for requests");
    }
    if (status == TM_OK) {
        status = tm_bench_client_new(caller, &client, &error);
    }
    if (status == TM_OK && tm_bench_window_arrive(run->window)) {
        status = converse(run, client, request, caller->in_flight, &error);
    }
    if (status != TM_OK) {
        tm_bench_give_up(run, status, &error);
    }
    tm_client_destroy(&client);
    free(request);
    return NULL;
}
