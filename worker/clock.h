// SPDX-License-Identifier: Apache-2.0
/* The monotonic clock that every deadline and timeout of the worker is counted on. */
#ifndef TM_WORKER_CLOCK_H
#define TM_WORKER_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t tm_clock_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static inline uint64_t tm_clock_ms(void) {
    return tm_clock_us() / 1000u;
}

#endif
