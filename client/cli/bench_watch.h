// SPDX-License-Identifier: Apache-2.0
/*
 * What processes of this machine cost while a load runs: processor time and peak memory, from /proc.
 *
 * Processor time is of all threads, user and system, in the kernel's ticks of 10 ms. Peak memory is
 * the kernel's VmHWM: the most that was ever resident since the process began. A process that ends
 * keeps what was seen of it last.
 *
 * Threads: one at a time.
 */
#ifndef TM_CLI_BENCH_WATCH_H
#define TM_CLI_BENCH_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "wire/error.h"

#define TM_BENCH_WATCHED_MAX 128
#define TM_BENCH_WATCH_NAME_BYTES 40

typedef struct {
    pid_t pid;
    char name[TM_BENCH_WATCH_NAME_BYTES]; /* of the program: "trackmill-broker" */
    uint64_t began_ticks;                 /* tells it from a later process of the same number */
    double start_s, now_s;                /* processor time at the window's start, and last seen */
    uint64_t faults_start, faults_now;    /* minor page faults: memory got from the kernel */
    double peak_mib;
    bool gone;
} tm_bench_watched_t;

typedef struct {
    uint32_t n;
    tm_bench_watched_t process[TM_BENCH_WATCHED_MAX];
} tm_bench_watch_t;

/* "1234,1235" */
tm_status_t tm_bench_watch_parse(const char *list, tm_bench_watch_t *watch, tm_error_t *err);
/* TM_E_ARGUMENT: there is no such process, or too many are watched. */
tm_status_t tm_bench_watch_add(tm_bench_watch_t *watch, pid_t pid, tm_error_t *err);

/* Looks at all of them; `start`: the window begins with this. */
void tm_bench_watch_look(tm_bench_watch_t *watch, bool start);

/* Since the start: processor seconds, minor page faults. */
double tm_bench_watch_cpu_s(const tm_bench_watched_t *process);
uint64_t tm_bench_watch_faults(const tm_bench_watched_t *process);

#endif
