// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/failing_malloc.h"

#include <stdbool.h>
#include <stddef.h>

void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);

static uint64_t random_state, failures;

void failing_malloc_set(uint64_t seed) {
    random_state = seed;
}

uint64_t failing_malloc_count(void) {
    return failures;
}

static bool fails(void) {
    if (!random_state)
        return false;
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    bool now = random_state >> 60 == 0;
    failures += now;
    return now;
}

void *__wrap_calloc(size_t count, size_t bytes) {
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_realloc(void *old, size_t bytes) {
    return fails() ? NULL : __real_realloc(old, bytes);
}
