// SPDX-License-Identifier: Apache-2.0
/* The client's only clock: CLOCK_MONOTONIC, in microseconds. Deadlines never follow the wall clock. */
#ifndef TM_CLIENT_CLOCK_H
#define TM_CLIENT_CLOCK_H

#include <stdint.h>
#include <time.h>

#define TM_US_PER_MS 1000u

static inline uint64_t tm_client_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

#endif
