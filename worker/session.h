// SPDX-License-Identifier: Apache-2.0
/*
 * The session: a worker's life from the first REGISTER to the last BYE. It joins the links (one per
 * broker) with the slots, grants credit, watches over attempts, and drains.
 *
 * Credit: the worker holds at most one attempt more than it has slots, so that the next event is
 * there when a slot gets free. This total is split among the brokers where the worker is registered
 * (at least 1 each), anew whenever one comes or goes.
 *
 * Slots that run events together (tm_slots_together) want more, or there is never a batch to take;
 * but large events must not pile up here while another worker is free, and credit cannot be taken
 * back. So a broker gets more only while it uses all that it has and sends nothing but events that run
 * together: each time an attempt ends and no credit is left unused, its extra doubles, up to a batch of
 * events like the last one for each slot and one that waits; each time some is left, the extra falls by
 * one; the first event that runs alone ends it. What can still come then is the last grant, a batch or so.
 *
 * A registration that is lost (silence, a new run of the broker) makes the broker give its attempts
 * to other workers: those that wait here are dropped; those that run go on, and their results are
 * sent if the same run of the broker has registered this worker again by then, for a late result
 * may still be the first. Attempts of an earlier run of the broker are cancelled and dropped.
 *
 * Drain (SIGTERM, SIGINT, SIGUSR1): DRAIN to the brokers, attempts that have not started are handed
 * back (FAILED draining), the running ones finish, BYE. A second SIGTERM or SIGINT leaves at once.
 *
 * Threads: tm_session_run owns the sockets and never computes; the slots compute. Call
 * tm_signals_catch before.
 */
#ifndef TM_WORKER_SESSION_H
#define TM_WORKER_SESSION_H

#include "worker/link.h"
#include "worker/slots.h"

#define TM_SESSION_BROKERS_MAX 16

/* Exit codes of the program. */
enum {
    TM_EXIT_OK = 0,      /* drained */
    TM_EXIT_FAILURE = 1, /* could not start, or no broker will have this worker */
    TM_EXIT_USAGE = 2,
    TM_EXIT_HUNG = 3,   /* an attempt ran too long; nothing in this process can mend that */
    TM_EXIT_KILLED = 4, /* left at once, at the second signal */
};

typedef struct {
    const char *broker[TM_SESSION_BROKERS_MAX];
    uint32_t n_brokers;
    tm_link_identity_t identity;
    uint64_t attempt_timeout_ms; /* watchdog, from the start in a slot */
    uint64_t connect_timeout_ms; /* until the first WELCOME; 0: for ever */
    uint64_t exit_when_idle_ms;  /* drain after so long without an attempt; 0: never */
} tm_session_options_t;

/* Runs until drained or hopeless; returns the exit code. Prints "registered broker=ENDPOINT" on
 * stdout at each WELCOME. slots is borrowed, as is everything in *options. When the watchdog finds a
 * hung slot, the process ends in here: nothing can clean up behind a hung thread. */
int tm_session_run(const tm_session_options_t *options, tm_slots_t *slots);

#endif
