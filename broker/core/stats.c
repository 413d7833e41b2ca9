// SPDX-License-Identifier: Apache-2.0
#include "broker/core/stats.h"

static const uint64_t bounds_us[] = TM_HISTOGRAM_BOUNDS_US;
_Static_assert(sizeof bounds_us / sizeof bounds_us[0] == TM_HISTOGRAM_BOUNDS, "count the bounds");

void tm_histogram_add(tm_histogram_t *histogram, uint64_t us) {
    uint32_t i = 0;
    while (i < TM_HISTOGRAM_BOUNDS && us > bounds_us[i])
        i++;
    histogram->bucket[i]++;
    histogram->count++;
    histogram->sum_us += us;
}

uint64_t tm_histogram_bound_us(uint32_t i) {
    return bounds_us[i];
}
