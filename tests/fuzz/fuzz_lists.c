// SPDX-License-Identifier: Apache-2.0
/*
 * The fields "times" and "models". Input: one byte that says which, then the field.
 *
 * What is accepted must survive encoding and decoding.
 */
#include <string.h>

#include "fuzz.h"

static void check_times(tm_slice_t field) {
    tm_timings_t timings, back;
    tm_error_t err = {0};
    uint8_t out[TM_TIMES_FIELD_MAX];
    tm_slice_t again;
    if (tm_times_decode(field, &timings, &err) != TM_OK) {
        FUZZ_CHECK(err.code == TM_E_MALFORMED && err.text[0] && timings.count == 0);
        return;
    }
    FUZZ_CHECK(tm_times_encode(&timings, out, &again, &err) == TM_OK);
    FUZZ_CHECK(tm_times_decode(again, &back, &err) == TM_OK);
    FUZZ_CHECK(back.count == timings.count);
    for (uint32_t i = 0; i < back.count; i++) {
        FUZZ_CHECK(strcmp(back.stage[i].name, timings.stage[i].name) == 0);
        FUZZ_CHECK(back.stage[i].us == timings.stage[i].us);
    }
}

static void check_models(tm_slice_t field) {
    tm_model_id_t models[TM_MODELS_MAX], back[TM_MODELS_MAX];
    uint32_t count, count_back;
    tm_error_t err = {0};
    uint8_t out[TM_MODELS_FIELD_MAX];
    tm_slice_t again;
    if (tm_models_decode(field, models, &count, &err) != TM_OK) {
        FUZZ_CHECK(err.code == TM_E_MALFORMED && err.text[0] && count == 0);
        return;
    }
    FUZZ_CHECK(tm_models_encode(models, count, out, &again, &err) == TM_OK);
    FUZZ_CHECK(tm_models_decode(again, back, &count_back, &err) == TM_OK);
    FUZZ_CHECK(count_back == count);
    for (uint32_t i = 0; i < count; i++) {
        FUZZ_CHECK(strcmp(back[i].name, models[i].name) == 0);
        FUZZ_CHECK(strcmp(back[i].version, models[i].version) == 0);
        FUZZ_CHECK(memcmp(back[i].hash, models[i].hash, TM_HASH_BYTES) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes == 0 || bytes > FUZZ_BYTES_MAX) {
        return 0;
    }
    tm_slice_t field = {(const char *)data + 1, (uint32_t)(bytes - 1)};
    if (data[0] & 1) {
        check_models(field);
    } else {
        check_times(field);
    }
    return 0;
}

size_t fuzz_seed(sample_rng_t *rng, uint8_t *out) {
    static sample_t sample;
    bool extreme = sample_below(rng, 8) == 0;
    out[0] = sample_below(rng, 2) == 0;
    sample_message(rng, tm_schema_command(out[0] ? TM_CMD_REPORT : TM_CMD_RESULT), extreme,
                   &sample);
    tm_slice_t field = out[0] ? sample.m.models : sample.m.times;
    memcpy(out + 1, field.data, field.bytes);
    return 1 + field.bytes;
}
