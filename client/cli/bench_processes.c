// SPDX-License-Identifier: Apache-2.0
/* Load from several processes: children that send what they counted through a pipe. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/cli/bench_internal.h"
#include "client/cli/interrupt.h"

#define READ_BYTES (1u << 16)

/* What comes before the point. */
typedef struct {
    tm_status_t status;
    tm_error_t error;
} verdict_t;

typedef struct {
    pid_t pid;
    int fd; /* -1: all was read */
    char *bytes;
    size_t n, room;
} child_t;

static _Noreturn void be_child(tm_bench_run_t *run, uint32_t first, uint32_t callers, int fd) {
    tm_error_t error = {0};
    verdict_t verdict = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tm_bench_call_all(run, first, callers);
    verdict.status = run->status;
    verdict.error = run->error;
    bool reported = write(fd, &verdict, sizeof verdict) == (ssize_t)sizeof verdict &&
                    tm_bench_point_write(run->point, fd, &error) == TM_OK;
    _exit(reported ? EXIT_SUCCESS : EXIT_FAILURE);
}

static tm_status_t start_child(tm_bench_run_t *run, uint32_t first, uint32_t callers,
                               child_t *child, tm_error_t *err) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) {
        return tm_error_set(err, TM_E_SYSTEM, "no pipe for a load process: %s", strerror(errno));
    }
    child->pid = fork();
    if (child->pid == 0) {
        close(fds[0]);
        be_child(run, first, callers, fds[1]);
    }
    close(fds[1]);
    child->fd = fds[0];
    return child->pid > 0 ? TM_OK
                          : tm_error_set(err, TM_E_SYSTEM, "no load process: %s", strerror(errno));
}

/* Reads what there is; closes at the end. False: no memory, or a read that failed. */
static bool read_some(child_t *child) {
    if (child->n + READ_BYTES > child->room) {
        size_t room = 2 * child->room + READ_BYTES;
        char *grown = realloc(child->bytes, room);
        if (!grown) {
            return false;
        }
        child->bytes = grown;
        child->room = room;
    }
    ssize_t got = read(child->fd, child->bytes + child->n, child->room - child->n);
    if (got > 0) {
        child->n += (size_t)got;
    } else if (got == 0) {
        close(child->fd);
        child->fd = -1;
    }
    return got >= 0 || errno == EINTR;
}

/* Until all have said all. A child that ends early stops the others: it may be waited for. */
static tm_status_t read_all(tm_bench_run_t *run, child_t *child, uint32_t n, tm_error_t *err) {
    struct pollfd fds[TM_BENCH_PROCESSES_MAX];
    for (uint32_t open = n; open > 0;) {
        for (uint32_t i = 0; i < n; i++) {
            fds[i] = (struct pollfd){.fd = child[i].fd, .events = POLLIN};
        }
        if (poll(fds, n, TM_BENCH_POLL_MS) < 0 && errno != EINTR) {
            return tm_error_set(err, TM_E_SYSTEM, "poll: %s", strerror(errno));
        }
        if (tm_interrupt_signal()) {
            tm_bench_window_stop(run->window);
            return TM_OK; /* the children are ended, not waited for */
        }
        for (uint32_t i = 0; i < n; i++) {
            if (child[i].fd < 0 || !(fds[i].revents & (POLLIN | POLLHUP | POLLERR))) {
                continue;
            }
            if (!read_some(&child[i])) {
                return tm_error_set(err, TM_E_SYSTEM, "a load process's report cannot be read");
            }
            if (child[i].fd < 0) {
                open--;
                if (child[i].n < sizeof(verdict_t)) {
                    tm_bench_window_stop(run->window);
                }
            }
        }
    }
    return TM_OK;
}

static tm_status_t add_up(tm_bench_run_t *run, const child_t *child, tm_error_t *err) {
    verdict_t verdict;
    tm_bench_point_t point;
    if (child->n < sizeof verdict) {
        return tm_error_set(err, TM_E_SYSTEM, "load process %d died", (int)child->pid);
    }
    memcpy(&verdict, child->bytes, sizeof verdict);
    if (verdict.status != TM_OK) {
        *err = verdict.error;
        return verdict.status;
    }
    if (!tm_bench_point_read(&point, child->bytes + sizeof verdict, child->n - sizeof verdict)) {
        return tm_error_set(err, TM_E_SYSTEM, "load process %d: its report is not whole",
                            (int)child->pid);
    }
    tm_status_t status = tm_bench_point_merge(run->point, &point, err);
    tm_bench_point_clear(&point);
    return status;
}

tm_status_t tm_bench_processes_run(tm_bench_run_t *run, uint32_t callers, tm_bench_meter_t *meter,
                                   tm_error_t *err) {
    uint32_t n = run->point->processes, first = 0, started = 0;
    bool metering = false;
    tm_status_t status = TM_OK;
    child_t *child = calloc(n, sizeof *child);
    if (!child) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u load processes", n);
    }
    meter->load.n = 0;
    /* before any thread of ours begins */
    for (; started < n && status == TM_OK; started++) {
        uint32_t its = callers / n + (started < callers % n);
        child[started].fd = -1;
        status = start_child(run, first, its, &child[started], err);
        first += its;
        if (status == TM_OK) {
            status = tm_bench_watch_add(&meter->load, child[started].pid, err);
        }
    }
    if (status == TM_OK) {
        status = tm_bench_meter_start(meter, run->window, err);
        metering = status == TM_OK;
    }
    if (status == TM_OK) {
        status = read_all(run, child, started, err);
    }
    if (metering) {
        tm_bench_meter_stop(meter);
    }
    for (uint32_t i = 0; i < started && status == TM_OK && !tm_interrupt_signal(); i++) {
        status = add_up(run, &child[i], err);
    }
    for (uint32_t i = 0; i < started; i++) {
        if (child[i].fd >= 0) {
            close(child[i].fd);
        }
        if (child[i].pid > 0) {
            kill(child[i].pid,
                 SIGKILL); /* one that has reported is gone already, or will not mind */
            waitpid(child[i].pid, NULL, 0);
        }
        free(child[i].bytes);
    }
    free(child);
    return status;
}
