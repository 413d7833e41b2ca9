// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client/cli/bench_internal.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"

/* ---- counting ---- */

void tm_bench_give_up(tm_bench_run_t *run, tm_status_t status, const tm_error_t *error) {
    pthread_mutex_lock(&run->lock);
    if (run->status == TM_OK) {
        run->status = status;
        run->error = *error;
    }
    pthread_mutex_unlock(&run->lock);
    tm_bench_window_stop(run->window);
}

static tm_status_t count(tm_bench_run_t *run, const tm_bench_answer_t *answer, bool inside,
                         tm_error_t *err) {
    tm_bench_point_t *point = run->point;
    bool counted = run->window->timed ? answer->due_inside : inside;
    if (answer->status != TM_OK) {
        if (counted) {
            tm_bench_point_fail(point, answer->status, answer->error);
        }
        return TM_OK;
    }
    if (inside) {
        point->answered++;
        point->points += run->events->event[answer->event].n_points;
        point->sent_bytes += answer->sent_bytes;
        point->received_bytes += answer->received_bytes;
    }
    snprintf(point->model, sizeof point->model, "%s", answer->model);
    if (!counted) {
        return TM_OK;
    }
    point->retried += answer->attempt > 1;
    return tm_bench_point_sample(point, &answer->sample, err);
}

void tm_bench_take(tm_bench_run_t *run, const tm_bench_answer_t *answer) {
    tm_error_t why = {0};
    tm_bench_agreement_t agreement;
    bool found = answer->status == TM_OK;
    uint64_t now_us = tm_cli_now_us();
    bool right = !found || tm_bench_events_check(run->events, answer->event, answer->tracks,
                                                 answer->hash, &agreement, &why);
    bool inside = tm_bench_window_count(run->window, now_us) == TM_BENCH_WINDOW;
    pthread_mutex_lock(&run->lock);
    if (found) {
        tm_bench_point_agree(run->point, &agreement);
    }
    if (!right && run->point->mismatches++ == 0) {
        run->point->mismatch = why;
    }
    tm_status_t status = count(run, answer, inside, &why);
    pthread_mutex_unlock(&run->lock);
    if (status != TM_OK) {
        tm_bench_give_up(run, status, &why);
    }
}

uint64_t tm_bench_sum_stages(const tm_timings_t *timings) {
    uint64_t us = 0;
    for (uint32_t i = 0; i < timings->count; i++) {
        us += timings->stage[i].us;
    }
    return us;
}

void tm_bench_take_from_broker(tm_bench_run_t *run, uint32_t event, bool due_inside,
                               uint64_t total_us, tm_answer_t *got) {
    const tm_bench_answer_t answer = {.event = event,
                                      .due_inside = due_inside,
                                      .status = got->status,
                                      .error = &got->error,
                                      .tracks = &got->tracks,
                                      .hash = got->hash,
                                      .model = got->model,
                                      .attempt = got->attempt,
                                      .sample = {.total_us = total_us,
                                                 .queue_us = got->queue_us,
                                                 .service_us = got->service_us,
                                                 .stages_us = tm_bench_sum_stages(&got->timings)},
                                      .sent_bytes = got->sent_bytes,
                                      .received_bytes = got->received_bytes};
    tm_bench_take(run, &answer);
}

uint32_t tm_bench_next_event(tm_bench_run_t *run) {
    return atomic_fetch_add(&run->window->next_event, 1) % run->events->n;
}

/* ---- callers ---- */

/* "a,b,c" begun at another of its entries: "b,c,a". Allocated; NULL: no memory. */
static char *turn_list(const char *list, uint32_t turns) {
    uint32_t entries = 1;
    for (const char *p = list; *p; p++) {
        entries += *p == ',';
    }
    const char *begin = list;
    for (uint32_t i = 0; i < turns % entries; i++) {
        begin = strchr(begin, ',') + 1;
    }
    char *turned = NULL;
    int length = begin == list ? asprintf(&turned, "%s", list)
                               : asprintf(&turned, "%s,%.*s", begin, (int)(begin - list) - 1, list);
    return length < 0 ? NULL : turned;
}

tm_status_t tm_bench_client_new(const tm_bench_caller_t *caller, tm_client_t **out,
                                tm_error_t *err) {
    const tm_bench_load_t *load = caller->run->load;
    const tm_client_options_t options = {.max_bytes =
                                             (uint64_t)caller->in_flight * TM_PAYLOAD_MAX_BYTES};
    char *brokers = turn_list(load->brokers, load->spread ? caller->index : 0);
    tm_status_t status = brokers ? tm_client_new(brokers, &options, out, err)
                                 : tm_error_set(err, TM_E_NO_MEMORY, "no memory for a client");
    free(brokers);
    return status;
}

tm_status_t tm_bench_submit(tm_bench_run_t *run, tm_client_t *client, uint32_t event, uint64_t *id,
                            tm_error_t *err) {
    const tm_request_options_t options = {
        .model = run->load->model, .ttl_ms = run->load->ttl_ms, .priority = TM_PRIORITY_DEFAULT};
    return tm_client_submit(client, &run->events->event[event].columns, &options, id, err);
}

static uint32_t share(uint32_t all, uint32_t parts, uint32_t index) {
    return all / parts + (index < all % parts);
}

void tm_bench_call_all(tm_bench_run_t *run, uint32_t first, uint32_t callers) {
    const tm_bench_load_t *load = run->load;
    void *(*function)(void *) = !load->brokers   ? tm_bench_call_engine
                                : load->rate > 0 ? tm_bench_call_open
                                                 : tm_bench_call_closed;
    tm_error_t error;
    uint32_t started = 0;
    tm_bench_caller_t *caller = calloc(callers, sizeof *caller);
    if (!caller) {
        tm_error_set(&error, TM_E_NO_MEMORY, "no memory for %u callers", callers);
        tm_bench_give_up(run, TM_E_NO_MEMORY, &error);
        return;
    }
    for (; started < callers; started++) {
        tm_bench_caller_t *one = &caller[started];
        one->run = run;
        one->index = first + started;
        one->in_flight = share(run->point->in_flight, run->window->callers, one->index);
        int fault = pthread_create(&one->thread, NULL, function, one);
        if (fault) {
            tm_error_set(&error, TM_E_SYSTEM, "no thread for a caller: %s", strerror(fault));
            tm_bench_give_up(run, TM_E_SYSTEM, &error);
            break;
        }
    }
    for (uint32_t i = 0; i < started; i++) {
        pthread_join(caller[i].thread, NULL);
    }
    free(caller);
}

/* ---- all of it ---- */

static uint32_t share_threads(const tm_bench_load_t *load, uint32_t in_flight) {
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t each = processors > (long)in_flight ? (uint32_t)processors / in_flight : 1;
    return load->threads ? load->threads : each;
}

static void run_here(tm_bench_run_t *run, tm_bench_meter_t *meter, tm_error_t *err) {
    meter->load.n = 0;
    tm_status_t status = tm_bench_watch_add(&meter->load, getpid(), err);
    if (status == TM_OK) {
        status = tm_bench_meter_start(meter, run->window, err);
    }
    if (status != TM_OK) {
        tm_bench_give_up(run, status, err);
        return;
    }
    tm_bench_call_all(run, 0, run->window->callers);
    tm_bench_meter_stop(meter);
}

static void run_it(tm_bench_run_t *run, tm_bench_meter_t *meter, tm_error_t *err) {
    if (run->point->processes == 1) {
        run_here(run, meter, err);
        return;
    }
    tm_status_t status = tm_bench_processes_run(run, run->window->callers, meter, err);
    if (status != TM_OK) {
        tm_bench_give_up(run, status, err);
    }
}

static uint32_t least_of(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}

tm_status_t tm_bench_load_run(const tm_bench_load_t *load, tm_bench_events_t *events,
                              uint32_t in_flight, tm_bench_meter_t *meter, tm_bench_point_t *point,
                              tm_error_t *err) {
    uint32_t callers = load->brokers ? least_of(load->clients, in_flight) : in_flight;
    *point = (tm_bench_point_t){.in_flight = in_flight,
                                .callers = callers,
                                .processes = load->brokers ? least_of(load->processes, callers) : 1,
                                .threads = load->brokers ? 0 : share_threads(load, in_flight),
                                .rate = load->rate};
    tm_bench_window_t *window =
        mmap(NULL, sizeof *window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (window == MAP_FAILED) {
        return tm_error_set(err, TM_E_SYSTEM, "no shared memory: %s", strerror(errno));
    }
    tm_bench_window_init(window, load->warm_up_s, load->seconds, in_flight, load->rate > 0,
                         callers);
    tm_bench_run_t run = {.load = load, .events = events, .window = window, .point = point};
    pthread_mutex_init(&run.lock, NULL);
    run_it(&run, meter, err);
    pthread_mutex_destroy(&run.lock);
    uint64_t open_us = atomic_load(&window->open_us), close_us = atomic_load(&window->close_us);
    point->window_us = close_us > open_us && close_us != UINT64_MAX ? close_us - open_us : 0;
    munmap(window, sizeof *window);
    if (tm_interrupt_signal()) {
        return tm_error_set(err, TM_E_INTERRUPTED, "interrupted");
    }
    if (run.status != TM_OK) {
        *err = run.error;
    }
    return run.status;
}
