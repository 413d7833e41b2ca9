// SPDX-License-Identifier: Apache-2.0
/* What the GPU's tests in CUDA share: reports of failures, and random numbers that TM_SEED repeats. */
#ifndef TM_TESTS_GPU_PLAIN_CUH
#define TM_TESTS_GPU_PLAIN_CUH

#include <math.h>
#include <numeric>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <utility>
#include <vector>

#define SKIPPED 77 /* exit code where there is no GPU */

static int failures;
static uint64_t random_state;

/* Says what failed, and goes on. */
#define FAIL(...) \
    do { \
        printf("FAILED: " __VA_ARGS__); \
        printf("\n"); \
        fflush(stdout); \
        failures++; \
    } while (0)

#define CUDA(call) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) { \
            printf("FAILED: %s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_)); \
            exit(1); \
        } \
    } while (0)

/* Seeds the random numbers, by TM_SEED or the time, and says how. */
static inline void seed_random(void) {
    const char *seed = getenv("TM_SEED");
    random_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("TM_SEED=%llu\n", (unsigned long long)random_state);
}

/* In [0, 1): SplitMix64. */
static inline double uniform(void) {
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static inline uint32_t below(uint32_t n) {
    return (uint32_t)(uniform() * n);
}

/* 0 to n - 1 in any order. */
static inline std::vector<uint32_t> shuffled(uint32_t n) {
    std::vector<uint32_t> v(n);
    std::iota(v.begin(), v.end(), 0);
    for (uint32_t i = n; i-- > 1;) {
        std::swap(v[i], v[below(i + 1)]);
    }
    return v;
}

static inline double normal(void) {
    return sqrt(-2 * log(1 - uniform())) * cos(2 * acos(-1) * uniform());
}

#endif
