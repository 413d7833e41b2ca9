// SPDX-License-Identifier: Apache-2.0
/*
 * Child processes for tests. Whatever happens to the test, nothing outlives it: a child is killed
 * when its parent dies (PR_SET_PDEATHSIG), and tm_procs_kill_all belongs in every teardown. Output
 * goes to files in memory, so that no child ever blocks on a full pipe.
 *
 * Threads: the thread that starts a child must live as long as the child; use the main thread.
 */
#ifndef TM_TESTS_CHAOS_PROC_H
#define TM_TESTS_CHAOS_PROC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct {
    pid_t pid; /* 0: not running (any more) */
    int out, err;
    int code; /* exit code, or -signal; valid once it has ended */
} tm_proc_t;

/* Starts argv[0] (a path), NULL-terminated list. Fails the test if that is not possible. */
void tm_proc_start(tm_proc_t *proc, const char *const argv[]);
void tm_proc_signal(const tm_proc_t *proc, int number);
/* Waits for its end; false: it is still running after timeout_ms. The code is in ->code. */
bool tm_proc_wait(tm_proc_t *proc, uint64_t timeout_ms);
/* SIGKILL and wait. Does nothing if it has ended. Its output stays readable. */
void tm_proc_kill(tm_proc_t *proc);
/* Kills, shows the output on stderr if `show`, and closes everything. Safe on a zeroed struct. */
void tm_proc_clear(tm_proc_t *proc, bool show);

/* How often `text` is in stdout so far. */
int tm_proc_count(const tm_proc_t *proc, const char *text);
/* The same for stderr. */
int tm_proc_count_err(const tm_proc_t *proc, const char *text);
/* Waits until it is there n times; false: not within timeout_ms, or the process ended before. */
bool tm_proc_wait_for(tm_proc_t *proc, const char *text, int n, uint64_t timeout_ms);
/* The whole of stdout or stderr, a string to free. */
char *tm_proc_text(const tm_proc_t *proc, bool err);

/* Kills every child that was started and has not ended. */
void tm_procs_kill_all(void);

uint64_t tm_test_now_ms(void);
void tm_test_sleep_ms(uint64_t ms);

/* A TCP port of the loopback that nobody listens on now. */
int tm_test_free_port(void);

#endif
