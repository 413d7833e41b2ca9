// SPDX-License-Identifier: Apache-2.0
/*
 * What every fuzz target has. With libFuzzer (TM_FUZZ) LLVMFuzzerTestOneInput is called with what the
 * fuzzer invents; as a plain test, replay.c calls it with seeds and with mutations of them.
 */
#ifndef TM_TESTS_FUZZ_H
#define TM_TESTS_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "sample.h"

#define FUZZ_BYTES_MAX 16384

/* Stops the program where an invariant does not hold; unlike assert also in release builds. */
#define FUZZ_CHECK(condition) \
    ((condition) ? (void)0 \
                 : (fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition), \
                    abort()))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Writes a random valid input (room: FUZZ_BYTES_MAX); returns its length. */
size_t fuzz_seed(sample_rng_t *rng, uint8_t *out);

#endif
