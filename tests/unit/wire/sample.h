// SPDX-License-Identifier: Apache-2.0
/* Random but reproducible messages, columns and mutations, for the tests and fuzzers of wire/. */
#ifndef TM_TESTS_WIRE_SAMPLE_H
#define TM_TESTS_WIRE_SAMPLE_H

#include "wire/message.h"
#include "wire/schema.h"

/* splitmix64: every state is a good one. */
typedef struct {
    uint64_t state;
} sample_rng_t;

uint64_t sample_next(sample_rng_t *rng);
/* From 0 to bound - 1; bound > 0. */
uint64_t sample_below(sample_rng_t *rng, uint64_t bound);
/* From min to max, with the two ends and small numbers much more often than their share. */
uint64_t sample_between(sample_rng_t *rng, uint64_t min, uint64_t max);

/* A message and everything it borrows. Do not copy: it points into itself. */
typedef struct {
    tm_message_t m;
    size_t text_used;
    char text[4096];
    uint8_t columns_field[TM_COLUMNS_FIELD_MAX];
    uint8_t times_field[TM_TIMES_FIELD_MAX];
    uint8_t models_field[TM_MODELS_FIELD_MAX];
    tm_columns_t columns;
    _Alignas(8) uint8_t data[8192]; /* what the columns borrow */
    size_t payload_bytes;
    _Alignas(8) uint8_t payload[2 * 8192];
} sample_t;

/* Random values in every required and about half of the optional fields of the command. `extreme`:
 * every field, strings and arrays as long as allowed. */
void sample_message(sample_rng_t *rng, const tm_command_rule_t *command, bool extreme,
                    sample_t *sample);

/* Changes, removes, inserts or repeats some bytes of data[0 … bytes); returns the new length, at most
 * room. */
size_t sample_mutate(sample_rng_t *rng, uint8_t *data, size_t bytes, size_t room);

#endif
