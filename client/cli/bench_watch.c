// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_watch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATH_BYTES 64
#define TEXT_BYTES 4096
#define KIB_PER_MIB 1024.0

/* The whole of a small file of /proc; false: it is not there. */
static bool read_proc(pid_t pid, const char *what, char *text, size_t bytes) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    FILE *file = fopen(path, "r");
    if (!file) {
        return false;
    }
    size_t n = fread(text, 1, bytes - 1, file);
    fclose(file);
    text[n] = '\0';
    return n > 0;
}

/* Fields of /proc/PID/stat, see proc(5); the second one, in parentheses, may contain anything. */
static bool read_stat(pid_t pid, uint64_t *faults, uint64_t *ticks, uint64_t *began, char *state) {
    char text[TEXT_BYTES];
    uint64_t user, system;
    char *rest;
    return read_proc(pid, "stat", text, sizeof text) && (rest = strrchr(text, ')')) &&
           sscanf(rest + 1,
                  " %c %*d %*d %*d %*d %*d %*u %" SCNu64 " %*u %*u %*u %" SCNu64 " %" SCNu64
                  " %*d %*d %*d %*d %*d %*d %" SCNu64,
                  state, faults, &user, &system, began) == 5 &&
           (*ticks = user + system, true);
}

static void name_it(tm_bench_watched_t *process) {
    char text[TEXT_BYTES];
    const char *name = "process";
    if (read_proc(process->pid, "cmdline", text, sizeof text)) {
        char *slash = strrchr(text, '/'); /* of argv[0]: it ends with a NUL */
        name = slash ? slash + 1 : text;
    }
    snprintf(process->name, sizeof process->name, "%.*s", TM_BENCH_WATCH_NAME_BYTES - 1, name);
    process->name[strcspn(process->name, ",;:=\"\n ")] = '\0'; /* what would break a line of CSV */
}

static void look_at(tm_bench_watched_t *process, bool start) {
    char text[TEXT_BYTES], state;
    uint64_t ticks, faults, began;
    if (process->gone) {
        return;
    }
    if (!read_stat(process->pid, &faults, &ticks, &began, &state) || state == 'Z' ||
        (process->began_ticks && began != process->began_ticks)) {
        process->gone = true;
        return;
    }
    process->began_ticks = began;
    process->now_s = (double)ticks / (double)sysconf(_SC_CLK_TCK);
    process->faults_now = faults;
    if (start) {
        process->start_s = process->now_s;
        process->faults_start = faults;
    }
    char *peak =
        read_proc(process->pid, "status", text, sizeof text) ? strstr(text, "VmHWM:") : NULL;
    if (peak) {
        process->peak_mib = strtod(peak + strlen("VmHWM:"), NULL) / KIB_PER_MIB;
    }
}

tm_status_t tm_bench_watch_add(tm_bench_watch_t *watch, pid_t pid, tm_error_t *err) {
    if (watch->n == TM_BENCH_WATCHED_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "--watch: at most %d processes",
                            TM_BENCH_WATCHED_MAX);
    }
    tm_bench_watched_t *process = &watch->process[watch->n];
    *process = (tm_bench_watched_t){.pid = pid};
    look_at(process, true);
    if (process->gone) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "--watch %d: there is no such process on this machine", (int)pid);
    }
    name_it(process);
    watch->n++;
    return TM_OK;
}

tm_status_t tm_bench_watch_parse(const char *list, tm_bench_watch_t *watch, tm_error_t *err) {
    const char *p = list;
    for (;;) {
        char *end;
        errno = 0;
        long pid = strtol(p, &end, 10);
        if (*p < '0' || *p > '9' || errno || pid < 1 || pid > INT32_MAX || (*end && *end != ',')) {
            return tm_error_set(err, TM_E_ARGUMENT,
                                "--watch %s: process numbers separated by commas are wanted", list);
        }
        tm_status_t status = tm_bench_watch_add(watch, (pid_t)pid, err);
        if (status != TM_OK || !*end) {
            return status;
        }
        p = end + 1;
    }
}

void tm_bench_watch_look(tm_bench_watch_t *watch, bool start) {
    for (uint32_t i = 0; i < watch->n; i++) {
        look_at(&watch->process[i], start);
    }
}

double tm_bench_watch_cpu_s(const tm_bench_watched_t *process) {
    return process->now_s - process->start_s;
}

uint64_t tm_bench_watch_faults(const tm_bench_watched_t *process) {
    return process->faults_now - process->faults_start;
}
