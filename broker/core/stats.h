// SPDX-License-Identifier: Apache-2.0
/*
 * What the scheduler counts. Plain numbers, so that a snapshot is an assignment.
 */
#ifndef TM_BROKER_CORE_STATS_H
#define TM_BROKER_CORE_STATS_H

#include <stdint.h>

#include "wire/error.h"

/* Upper bounds of the histograms' buckets in microseconds; one more bucket holds the rest. */
#define TM_HISTOGRAM_BOUNDS_US \
    { \
        500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, \
            5000000, 10000000, 30000000, 60000000, 120000000 \
    }
#define TM_HISTOGRAM_BOUNDS 17

typedef struct {
    uint64_t count, sum_us;
    uint64_t bucket[TM_HISTOGRAM_BOUNDS + 1]; /* each sample is in one bucket (not cumulative) */
} tm_histogram_t;

void tm_histogram_add(tm_histogram_t *histogram, uint64_t us);
/* Upper bound of bucket i < TM_HISTOGRAM_BOUNDS. */
uint64_t tm_histogram_bound_us(uint32_t i);

/* Error codes below this are counted one by one. */
#define TM_STATS_CODES 32

typedef struct {
    /* requests: received = accepted + duplicates + refused[…] + not from a session
     *           accepted = answered + failed[…] + dropped + in flight now */
    uint64_t received, accepted, duplicates, answered, dropped;
    uint64_t refused[TM_STATS_CODES]; /* by code, before acceptance */
    uint64_t failed[TM_STATS_CODES];  /* by code, after acceptance */
    uint64_t bytes_in, bytes_out;     /* payloads of accepted requests and of answers */
    /* attempts: dispatched = resulted + failed + timed_out + requeued + revoked + running now */
    uint64_t dispatched, started, resulted, attempts_failed, timed_out, requeued, revoked;
    uint64_t late; /* RESULT, FAILED or STARTED of an attempt that is no more */
    /* peers */
    uint64_t clients_seen, clients_lost, workers_seen, workers_lost, workers_paused, unknown_peers;
    uint64_t registers_refused;
    tm_histogram_t queue_wait, service;
    /* now */
    uint64_t in_flight, queued, running, held_bytes, clients, workers, slots;
} tm_stats_t;

#endif
