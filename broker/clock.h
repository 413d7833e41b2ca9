// SPDX-License-Identifier: Apache-2.0
/*
 * The monotonic clock of the broker, in microseconds.
 */
#ifndef TM_BROKER_CLOCK_H
#define TM_BROKER_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t tm_clock_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

#endif
