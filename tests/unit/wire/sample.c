// SPDX-License-Identifier: Apache-2.0
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sample_next(sample_rng_t *rng) {
    uint64_t z = rng->state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint64_t sample_below(sample_rng_t *rng, uint64_t bound) {
    return sample_next(rng) % bound;
}

uint64_t sample_between(sample_rng_t *rng, uint64_t min, uint64_t max) {
    uint64_t span = max - min;
    switch (sample_below(rng, 5)) {
    case 0:
        return min;
    case 1:
        return max;
    case 2: /* of any magnitude */
        span &= UINT64_MAX >> sample_below(rng, 64);
        break;
    default:
        break;
    }
    return min + (span == UINT64_MAX ? sample_next(rng) : sample_below(rng, span + 1));
}

/* A sample that cannot be made is a broken test, not a finding. */
static void must(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        fprintf(stderr, "sample: %s\n", err->text);
        abort();
    }
}

static tm_slice_t random_text(sample_rng_t *rng, sample_t *sample, const char *alphabet,
                              size_t bytes) {
    size_t letters = strlen(alphabet);
    char *start = sample->text + sample->text_used;
    for (size_t i = 0; i < bytes; i++) {
        start[i] = alphabet[sample_below(rng, letters)];
    }
    sample->text_used += bytes;
    return (tm_slice_t){start, (uint32_t)bytes};
}

static const char name_letters[] = "abcXYZ019._-";

static tm_slice_t random_ref(sample_rng_t *rng, sample_t *sample, bool resolved, bool extreme) {
    size_t name = extreme ? TM_NAME_MAX : 1 + sample_below(rng, TM_NAME_MAX);
    size_t version = extreme ? TM_NAME_MAX : 1 + sample_below(rng, TM_NAME_MAX);
    if (!resolved && !extreme && sample_below(rng, 4) == 0) {
        return (tm_slice_t){0};
    }
    tm_slice_t ref = random_text(rng, sample, name_letters, name);
    if (resolved || extreme || sample_below(rng, 2) == 0) {
        random_text(rng, sample, "@", 1);
        random_text(rng, sample, name_letters, version);
        ref.bytes += (uint32_t)(1 + version);
    }
    return ref;
}

static void random_columns(sample_rng_t *rng, sample_t *sample, bool extreme) {
    tm_error_t err;
    uint32_t count = extreme ? TM_COLUMNS_MAX : (uint32_t)sample_below(rng, TM_COLUMNS_MAX + 1);
    for (size_t i = 0; i < sizeof sample->data; i++) {
        sample->data[i] = (uint8_t)sample_next(rng);
    }
    for (uint32_t i = 0; i < count; i++) {
        char name[TM_COLUMN_NAME_MAX + 1];
        int used = snprintf(name, sizeof name, "c%u_", i);
        size_t length = extreme ? TM_COLUMN_NAME_MAX : (size_t)used + sample_below(rng, 20);
        memset(name + used, 'x', length - (size_t)used);
        name[length] = '\0';
        tm_type_t type = (tm_type_t)(TM_U8 + sample_below(rng, TM_F64));
        must(
            tm_columns_add(&sample->columns, name, type, sample_below(rng, 32), sample->data, &err),
            &err);
    }
    sample->payload_bytes = tm_payload_bytes(&sample->columns);
    must(tm_payload_encode(&sample->columns, sample->payload, sample->columns_field,
                           &sample->m.columns, &err),
         &err);
}

static void random_times(sample_rng_t *rng, sample_t *sample, bool extreme) {
    tm_error_t err;
    tm_timings_t timings = {0};
    uint64_t count = extreme ? TM_STAGES_MAX : sample_below(rng, TM_STAGES_MAX + 1);
    for (uint64_t i = 0; i < count; i++) {
        tm_timings_add(&timings, extreme ? "fifteen_letters" : "stage",
                       extreme ? UINT32_MAX : sample_next(rng));
    }
    must(tm_times_encode(&timings, sample->times_field, &sample->m.times, &err), &err);
}

static void random_models(sample_rng_t *rng, sample_t *sample, bool extreme) {
    tm_error_t err;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t count = extreme ? TM_MODELS_MAX : (uint32_t)sample_below(rng, TM_MODELS_MAX + 1);
    memset(models, 0, sizeof models);
    for (uint32_t i = 0; i < count; i++) {
        int used = snprintf(models[i].name, sizeof models[i].name, "model-%u", i);
        size_t length = extreme ? TM_NAME_MAX : (size_t)used;
        memset(models[i].name + used, 'm', length - (size_t)used);
        memset(models[i].version, '1', extreme ? TM_NAME_MAX : 1 + sample_below(rng, 5));
        for (size_t k = 0; k < TM_HASH_BYTES; k++) {
            models[i].hash[k] = (uint8_t)sample_next(rng);
        }
    }
    must(tm_models_encode(models, count, sample->models_field, &sample->m.models, &err), &err);
}

static void random_field(sample_rng_t *rng, const tm_command_rule_t *command,
                         const tm_field_rule_t *rule, bool extreme, sample_t *sample) {
    void *field = (char *)&sample->m + rule->offset;
    uint64_t length = extreme ? rule->max : sample_between(rng, rule->min, rule->max);
    switch (rule->kind) {
    case TM_KIND_UINT: {
        uint64_t number = extreme ? rule->max : sample_between(rng, rule->min, rule->max);
        memcpy(field, &number, sizeof number);
        return;
    }
    case TM_KIND_STR:
    case TM_KIND_TEXT:
    case TM_KIND_BIN: {
        tm_slice_t slice = random_text(rng, sample, "az AZ09/:@~!", length);
        memcpy(field, &slice, sizeof slice);
        return;
    }
    case TM_KIND_REF: {
        tm_slice_t slice = random_ref(rng, sample, command->resolved, extreme);
        memcpy(field, &slice, sizeof slice);
        return;
    }
    case TM_KIND_RAW:
        if (field == &sample->m.columns) {
            random_columns(rng, sample, extreme);
        } else if (field == &sample->m.times) {
            random_times(rng, sample, extreme);
        } else {
            random_models(rng, sample, extreme);
        }
        return;
    }
}

void sample_message(sample_rng_t *rng, const tm_command_rule_t *command, bool extreme,
                    sample_t *sample) {
    memset(sample, 0, sizeof *sample);
    sample->m.command = command->command;
    bool with_id = command->id == TM_ID_SET ||
                   (command->id == TM_ID_EITHER && (extreme || sample_below(rng, 2) == 0));
    if (with_id) {
        sample->m.id.origin = sample_between(rng, 1, UINT64_MAX);
        sample->m.id.serial = sample_between(rng, 1, UINT64_MAX);
    }
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        bool required = command->required >> i & 1, optional = command->optional >> i & 1;
        if (required || (optional && (extreme || sample_below(rng, 2) == 0))) {
            random_field(rng, command, tm_schema_field(i), extreme, sample);
            sample->m.set |= 1ull << i;
        }
    }
}

size_t sample_mutate(sample_rng_t *rng, uint8_t *data, size_t bytes, size_t room) {
    /* heads of msgpack values that promise more than there is, and numbers at the edges */
    static const uint8_t nasty[] = {0x00, 0x01, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                    0xc0, 0xc1, 0xc4, 0xc6, 0xc7, 0xc9, 0xca, 0xcf, 0xd3,
                                    0xd8, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff};
    uint64_t rounds = 1 + sample_below(rng, 4);
    for (uint64_t i = 0; i < rounds; i++) {
        size_t at = bytes > 0 ? sample_below(rng, bytes) : 0;
        size_t run = 1 + sample_below(rng, 8);
        switch (sample_below(rng, 6)) {
        case 0: /* one bit */
            if (bytes > 0) {
                data[at] ^= (uint8_t)(1u << sample_below(rng, 8));
            }
            break;
        case 1:
            if (bytes > 0) {
                data[at] = nasty[sample_below(rng, sizeof nasty)];
            }
            break;
        case 2: /* cut the end off */
            bytes = at;
            break;
        case 3: /* remove a run */
            run = run < bytes - at ? run : bytes - at;
            memmove(data + at, data + at + run, bytes - at - run);
            bytes -= run;
            break;
        case 4: /* insert random bytes */
            if (bytes + run <= room) {
                memmove(data + at + run, data + at, bytes - at);
                for (size_t k = 0; k < run; k++) {
                    data[at + k] = (uint8_t)sample_next(rng);
                }
                bytes += run;
            }
            break;
        default: /* repeat a run elsewhere */
            if (bytes > 0) {
                size_t to = sample_below(rng, bytes);
                run = run < bytes - at ? run : bytes - at;
                run = run < bytes - to ? run : bytes - to;
                memmove(data + to, data + at, run);
            }
            break;
        }
    }
    return bytes;
}
