// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of the load share: the run of one process, its callers, and how answers are counted.
 */
#ifndef TM_CLI_BENCH_INTERNAL_H
#define TM_CLI_BENCH_INTERNAL_H

#include "client/cli/bench_load.h"
#include "client/trackmill.h"

#define TM_BENCH_POLL_MS 100 /* how long a signal may go unseen */

/* Of one process. */
typedef struct {
    const tm_bench_load_t *load;
    tm_bench_events_t *events;
    tm_bench_window_t *window; /* shared by all processes */
    tm_bench_point_t *point;
    pthread_mutex_t lock; /* of *point, status, error */
    tm_status_t status;
    tm_error_t error;
} tm_bench_run_t;

typedef struct {
    tm_bench_run_t *run;
    pthread_t thread;
    uint32_t index; /* among the callers of all processes */
    uint32_t in_flight;
} tm_bench_caller_t;

/* One answer, from wherever. */
typedef struct {
    uint32_t event;
    bool due_inside; /* open loop: its arrival was due inside the window */
    tm_status_t status;
    const tm_error_t *error;
    tm_tracks_t *tracks;
    const uint8_t *hash;
    const char *model;
    uint32_t attempt;
    tm_bench_sample_t sample;
    uint64_t sent_bytes, received_bytes;
} tm_bench_answer_t;

/* Compares and counts it. */
void tm_bench_take(tm_bench_run_t *run, const tm_bench_answer_t *answer);
/* As take; total_us: submit (or scheduled arrival) to answer. */
void tm_bench_take_from_broker(tm_bench_run_t *run, uint32_t event, bool due_inside,
                               uint64_t total_us, tm_answer_t *got);
uint64_t tm_bench_sum_stages(const tm_timings_t *timings);
uint32_t tm_bench_next_event(tm_bench_run_t *run);
/* Ends the whole run; the first one's reason is kept. */
void tm_bench_give_up(tm_bench_run_t *run, tm_status_t status, const tm_error_t *error);

/* A handle with room for every event under way: submit never says that the client is full. */
tm_status_t tm_bench_client_new(const tm_bench_caller_t *caller, tm_client_t **out,
                                tm_error_t *err);
tm_status_t tm_bench_submit(tm_bench_run_t *run, tm_client_t *client, uint32_t event, uint64_t *id,
                            tm_error_t *err);

/* Threads' functions; the argument is a tm_bench_caller_t. */
void *tm_bench_call_engine(void *argument);
void *tm_bench_call_closed(void *argument);
void *tm_bench_call_open(void *argument);

/* Runs `callers` callers, of which this process's first has that index, and waits for them. */
void tm_bench_call_all(tm_bench_run_t *run, uint32_t first, uint32_t callers);

/* The same in run->load->processes children. Their points are added to *run->point; meter->load
 * names them. */
tm_status_t tm_bench_processes_run(tm_bench_run_t *run, uint32_t callers, tm_bench_meter_t *meter,
                                   tm_error_t *err);

#endif
