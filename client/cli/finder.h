// SPDX-License-Identifier: Apache-2.0
/*
 * One way to find tracks, whoever does it: the engine in this process, or workers behind a broker.
 * Both see the same columns, so they answer with the same tracks.
 *
 * Use: submit up to `capacity` events, take as many answers with next. One thread.
 */
#ifndef TM_CLI_FINDER_H
#define TM_CLI_FINDER_H

#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

/* The answer for one event. */
typedef struct {
    size_t tag; /* as given to submit */
    tm_status_t status;
    tm_error_t error;
    tm_tracks_t tracks; /* empty unless status is TM_OK */
    tm_timings_t timings;
    char model[2 * TM_NAME_MAX + 2]; /* "name@version" */
    uint8_t hash[TM_HASH_BYTES];
    char worker[TM_NAME_MAX + 1]; /* empty: this process */
    uint32_t attempt;
    uint64_t queue_us, service_us, total_us;
    uint64_t sent_bytes, received_bytes;
} tm_found_t;

typedef struct tm_finder tm_finder_t;

typedef struct {
    const char *model;    /* name, name@version or file */
    const char *brokers;  /* NULL: the embedded engine */
    uint32_t deadline_ms; /* per event */
    uint32_t in_flight;   /* events at a broker at once */
    uint32_t threads;     /* of the engine; 0: all */
    const char *device;   /* of the engine (tm_engine_options_t); NULL: chosen here */
    bool with_module_id;  /* send the module ids along */
} tm_finder_options_t;

tm_status_t tm_finder_new(const tm_finder_options_t *options, tm_finder_t **out, tm_error_t *err);
void tm_finder_destroy(tm_finder_t **p);

/* Events that may be submitted and not yet answered. */
uint32_t tm_finder_capacity(const tm_finder_t *finder);
/* "standard@1, embedded engine": for people; borrowed. */
const char *tm_finder_about(const tm_finder_t *finder);

/* The columns must stay until their answer is there. What is wrong with the event may be said here or
 * in the answer. */
tm_status_t tm_finder_submit(tm_finder_t *finder, size_t tag, const tm_columns_t *event,
                             tm_error_t *err);

/* Waits for an answer of any event. TM_E_INTERRUPTED: a signal came (tm_interrupt_signal), *found is
 * empty; TM_E_NOT_FOUND: nothing was submitted. An event that failed is an answer too: TM_OK. */
tm_status_t tm_finder_next(tm_finder_t *finder, tm_found_t *found, tm_error_t *err);

#endif
