// SPDX-License-Identifier: Apache-2.0
/*
 * Frames 0 and 1. Input: one byte n, then the map. n picks the n-th command with a sound header; if
 * there is no n-th command the header is the first TM_HEADER_BYTES of the rest.
 *
 * Whatever is accepted must have its required fields in range, and can be sent on: encoding it and
 * decoding that gives the same message.
 */
#include <string.h>

#include "fuzz.h"
#include "wire/text.h"

/* The header that encoding gives: of a message whose map does not matter. */
static void sound_header(const tm_command_rule_t *rule, uint8_t header[TM_HEADER_BYTES]) {
    memset(header, 0, TM_HEADER_BYTES);
    memcpy(header, "TMIL", 4);
    header[4] = TM_PROTOCOL_VERSION;
    header[5] = (uint8_t)rule->command;
    header[8] = header[16] = rule->id == TM_ID_SET;
}

static void check_accepted(const tm_message_t *m) {
    const tm_command_rule_t *rule = tm_schema_command(m->command);
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES], again[TM_MAP_MAX_BYTES];
    size_t bytes, bytes_again;
    tm_message_t back;
    tm_error_t err;
    FUZZ_CHECK(rule && (m->set & rule->required) == rule->required);
    FUZZ_CHECK((m->set & ~(rule->required | rule->optional)) == 0);
    FUZZ_CHECK(tm_message_encode(m, header, map, &bytes, &err) == TM_OK);
    FUZZ_CHECK(tm_message_decode(header, sizeof header, map, bytes, &back, &err) == TM_OK);
    FUZZ_CHECK(back.command == m->command && back.set == m->set);
    FUZZ_CHECK(back.id.origin == m->id.origin && back.id.serial == m->id.serial);
    FUZZ_CHECK(tm_message_encode(&back, header, again, &bytes_again, &err) == TM_OK);
    FUZZ_CHECK(bytes == bytes_again && memcmp(map, again, bytes) == 0);

    tm_timings_t timings;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
    if (m->set & TM_FIELD(TIMES)) {
        (void)tm_times_decode(m->times, &timings, &err);
    }
    if (m->set & TM_FIELD(MODELS)) {
        (void)tm_models_decode(m->models, models, &n_models, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    uint8_t header[TM_HEADER_BYTES];
    size_t header_bytes = sizeof header;
    if (bytes == 0) {
        return 0;
    }
    const tm_command_rule_t *rule = tm_schema_command_at(*data++);
    bytes--;
    if (rule) {
        sound_header(rule, header);
    } else {
        header_bytes = bytes < sizeof header ? bytes : sizeof header;
        memcpy(header, data, header_bytes);
        data += header_bytes;
        bytes -= header_bytes;
    }
    tm_message_t m;
    tm_error_t err = {0};
    tm_status_t status = tm_message_decode(header, header_bytes, data, bytes, &m, &err);
    if (status == TM_OK) {
        check_accepted(&m);
    } else {
        FUZZ_CHECK(status == TM_E_MALFORMED || status == TM_E_VERSION);
        FUZZ_CHECK(m.set == 0);
        FUZZ_CHECK(err.code == status && err.text[0]);
        FUZZ_CHECK(tm_text_valid(err.text, strlen(err.text)));
    }
    return 0;
}

size_t fuzz_seed(sample_rng_t *rng, uint8_t *out) {
    static sample_t sample;
    unsigned commands = 0;
    while (tm_schema_command_at(commands)) {
        commands++;
    }
    unsigned index = (unsigned)sample_below(rng, commands);
    sample_message(rng, tm_schema_command_at(index), sample_below(rng, 16) == 0, &sample);
    bool own_header = sample_below(rng, 4) == 0;
    uint8_t header[TM_HEADER_BYTES], *map = out + 1 + (own_header ? sizeof header : 0);
    size_t bytes;
    tm_error_t err;
    FUZZ_CHECK(tm_message_encode(&sample.m, header, map, &bytes, &err) == TM_OK);
    out[0] = own_header ? UINT8_MAX : (uint8_t)index;
    if (own_header) {
        memcpy(out + 1, header, sizeof header);
    }
    return (size_t)(map - out) + bytes;
}
