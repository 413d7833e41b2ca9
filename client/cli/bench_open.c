// SPDX-License-Identifier: Apache-2.0
/* A caller of the open loop: events leave by a schedule, answers come when they come. */
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/bench_internal.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"

#define US_PER_MS 1000u
#define US_PER_S 1e6
#define NS_PER_US 1000
#define NS_PER_S 1000000000
#define SEED 0xd1342543de82ef95u /* the same schedule in each run; far apart for two callers */

typedef struct {
    uint64_t id; /* 0: free */
    uint32_t event;
    double due_us;
    uint64_t sent_us;
} request_t;

typedef struct {
    tm_bench_run_t *run;
    tm_client_t *client;
    request_t *request;
    uint32_t room, under_way;
    uint64_t random;
    double step_us; /* between arrivals of this caller, on average */
    double due_us;  /* the next one's scheduled time */
    double open_us, close_us;
} loop_t;

/* ---- the schedule ---- */

/* splitmix64 */
static double next_uniform(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Callers have a share of the rate each: Poisson processes add up to one, and evenly spaced ones
 * begin one after the other. */
static void begin_schedule(loop_t *loop, const tm_bench_caller_t *caller) {
    const tm_bench_window_t *window = loop->run->window;
    double callers = window->callers, rate = loop->run->load->rate;
    loop->step_us = callers / rate * US_PER_S;
    loop->random = (caller->index + 1) * SEED;
    loop->open_us = (double)atomic_load(&window->open_us);
    loop->close_us = (double)atomic_load(&window->close_us);
    loop->due_us = (double)atomic_load(&window->start_us);
    loop->due_us += loop->run->load->evenly ? loop->step_us * caller->index / callers
                                            : -log1p(-next_uniform(&loop->random)) * loop->step_us;
}

static void next_arrival(loop_t *loop) {
    loop->due_us += loop->run->load->evenly ? loop->step_us
                                            : -log1p(-next_uniform(&loop->random)) * loop->step_us;
}

static bool due_inside(const loop_t *loop, double due_us) {
    return due_us >= loop->open_us && due_us < loop->close_us;
}

/* ---- sending ---- */

static void count_arrival(loop_t *loop, bool sent, uint64_t late_us) {
    tm_bench_run_t *run = loop->run;
    pthread_mutex_lock(&run->lock);
    run->point->offered++;
    if (!sent) {
        run->point->unsent++;
    } else if (late_us > TM_BENCH_LATE_MS * US_PER_MS) {
        run->point->late++;
    }
    if (sent && late_us > run->point->late_max_us) {
        run->point->late_max_us = late_us;
    }
    pthread_mutex_unlock(&run->lock);
}

/* All that is due and that there is room for. */
static tm_status_t send_due(loop_t *loop, tm_error_t *err) {
    tm_status_t status = TM_OK;
    uint64_t now_us = tm_cli_now_us();
    while (status == TM_OK && loop->due_us <= (double)now_us && loop->due_us < loop->close_us &&
           loop->under_way < loop->room) {
        request_t *request = loop->request;
        while (request->id) {
            request++;
        }
        request->event = tm_bench_next_event(loop->run);
        request->due_us = loop->due_us;
        request->sent_us = now_us;
        status = tm_bench_submit(loop->run, loop->client, request->event, &request->id, err);
        if (status == TM_OK) {
            loop->under_way++;
            if (due_inside(loop, loop->due_us)) {
                count_arrival(loop, true, now_us - (uint64_t)loop->due_us);
            }
            next_arrival(loop);
        }
        now_us = tm_cli_now_us();
    }
    return status;
}

/* ---- receiving ---- */

static tm_status_t take_answers(loop_t *loop, tm_error_t *err) {
    for (;;) {
        tm_answer_t *got = NULL;
        tm_status_t status = tm_client_poll(loop->client, 0, &got, err);
        if (!got) {
            return status == TM_E_NOT_FOUND ? TM_OK : status;
        }
        request_t *its = loop->request;
        while (its < loop->request + loop->room && its->id != got->id) {
            its++;
        }
        if (its == loop->request + loop->room) {
            tm_answer_destroy(&got);
            return tm_error_set(err, TM_E_UNEXPECTED, "an answer to no request of ours");
        }
        uint64_t late_us = its->sent_us - (uint64_t)its->due_us;
        tm_bench_take_from_broker(loop->run, its->event, due_inside(loop, its->due_us),
                                  late_us + got->total_us, got);
        tm_answer_destroy(&got);
        its->id = 0;
        loop->under_way--;
    }
}

/* Until an answer is there, or an arrival is due that there is room for. */
static tm_status_t wait_for_something(loop_t *loop, tm_error_t *err) {
    double now_us = (double)tm_cli_now_us();
    double wait_us = TM_BENCH_POLL_MS * US_PER_MS;
    if (loop->under_way < loop->room && loop->due_us < loop->close_us &&
        loop->due_us - now_us < wait_us) {
        wait_us = loop->due_us - now_us;
    } else if (loop->close_us > now_us && loop->close_us - now_us < wait_us) {
        wait_us = loop->close_us - now_us;
    }
    int64_t ns = wait_us > 0 ? (int64_t)(wait_us * NS_PER_US) : 0;
    struct pollfd fd = {.fd = tm_client_fd(loop->client), .events = POLLIN};
    const struct timespec time = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    if (ppoll(&fd, 1, &time, NULL) < 0 && errno != EINTR) {
        return tm_error_set(err, TM_E_SYSTEM, "ppoll: %s", strerror(errno));
    }
    return TM_OK;
}

static tm_status_t converse(loop_t *loop, tm_error_t *err) {
    tm_status_t status = TM_OK;
    bool closed = false;
    while (status == TM_OK && !tm_interrupt_signal()) {
        bool over = tm_bench_window_stopped(loop->run->window);
        if (closed && !loop->under_way) {
            break;
        }
        if (!closed && !atomic_load(&loop->run->window->stop)) {
            status = send_due(loop, err); /* once more at the end: we may have woken late */
        }
        closed = over;
        if (status == TM_OK) {
            status = wait_for_something(loop, err);
        }
        if (status == TM_OK) {
            status = take_answers(loop, err);
        }
    }
    for (; loop->due_us < loop->close_us; next_arrival(loop)) {
        if (due_inside(loop, loop->due_us)) {
            count_arrival(loop, false, 0);
        }
    }
    return status;
}

void *tm_bench_call_open(void *argument) {
    tm_bench_caller_t *caller = argument;
    tm_bench_run_t *run = caller->run;
    tm_error_t error = {0};
    tm_status_t status = TM_OK;
    loop_t loop = {.run = run,
                   .room = caller->in_flight,
                   .request = calloc(caller->in_flight, sizeof *loop.request)};
    if (!loop.request) {
        status = tm_error_set(&error, TM_E_NO_MEMORY, "no memory for requests");
    }
    if (status == TM_OK) {
        status = tm_bench_client_new(caller, &loop.client, &error);
    }
    if (status == TM_OK && tm_bench_window_arrive(run->window)) {
        begin_schedule(&loop, caller);
        status = converse(&loop, &error);
    }
    if (status != TM_OK) {
        tm_bench_give_up(run, status, &error);
    }
    tm_client_destroy(&loop.client);
    free(loop.request);
    return NULL;
}
