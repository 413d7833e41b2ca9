// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sample.h"

static void assert_ok(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        fail_msg("%s: %s", tm_status_name(status), err->text);
    }
}

static void assert_says(tm_status_t status, tm_status_t expected, const tm_error_t *err,
                        const char *says) {
    assert_int_equal(status, expected);
    assert_int_equal(err->code, expected);
    if (!strstr(err->text, says)) {
        fail_msg("'%s' does not say '%s'", err->text, says);
    }
}

/* ---- columns ---- */

static void test_payload_there_and_back(void **state) {
    (void)state;
    sample_rng_t rng = {6};
    sample_t *sample = malloc(sizeof *sample);
    assert_non_null(sample);
    for (int round = 0; round < 500; round++) {
        tm_columns_t back;
        tm_error_t err;
        sample_message(&rng, tm_schema_command(TM_CMD_REQUEST), round == 0, sample);
        const tm_columns_t *columns = &sample->columns;
        assert_int_equal(sample->payload_bytes % TM_PAYLOAD_ALIGN, 0);
        /* a buffer of exactly that size, for the sanitizers */
        void *payload = malloc(sample->payload_bytes > 0 ? sample->payload_bytes : 1);
        assert_non_null(payload);
        memcpy(payload, sample->payload, sample->payload_bytes);
        assert_ok(tm_payload_decode(sample->m.columns, payload, sample->payload_bytes, &back, &err),
                  &err);
        assert_int_equal(back.count, columns->count);
        for (uint32_t i = 0; i < back.count; i++) {
            const tm_column_t *a = &columns->column[i], *b = &back.column[i];
            assert_string_equal(a->name, b->name);
            assert_int_equal(a->type, b->type);
            assert_true(a->n == b->n);
            assert_int_equal((uintptr_t)b->data % TM_PAYLOAD_ALIGN, 0);
            if (a->n > 0) {
                assert_memory_equal(a->data, b->data, a->n * tm_type_bytes(a->type));
            }
        }
        /* any other length is refused, and a cut descriptor too */
        if (sample->payload_bytes > 0) {
            assert_int_equal(tm_payload_decode(sample->m.columns, payload,
                                               sample->payload_bytes - 1, &back, &err),
                             TM_E_MALFORMED);
            assert_int_equal(back.count, 0);
        }
        assert_int_equal(tm_payload_decode(sample->m.columns, sample->payload,
                                           sample->payload_bytes + 8, &back, &err),
                         TM_E_MALFORMED);
        for (uint32_t cut = 0; cut < sample->m.columns.bytes; cut++) {
            tm_slice_t part = {sample->m.columns.data, cut};
            assert_int_equal(tm_payload_decode(part, payload, sample->payload_bytes, &back, &err),
                             TM_E_MALFORMED);
        }
        free(payload);
    }
    free(sample);
}

static void refused(const char *field, size_t field_bytes, size_t payload_bytes, const char *says) {
    static const _Alignas(8) uint8_t zeros[64];
    tm_columns_t columns;
    tm_error_t err = {0};
    tm_slice_t slice = {field, (uint32_t)field_bytes};
    assert_true(payload_bytes <= sizeof zeros);
    assert_says(tm_payload_decode(slice, zeros, payload_bytes, &columns, &err), TM_E_MALFORMED,
                &err, says);
    assert_int_equal(columns.count, 0);
}

#define REFUSED(field, payload_bytes, says) refused(field, sizeof(field) - 1, payload_bytes, says)

static void test_bad_descriptors(void **state) {
    (void)state;
    REFUSED("\xc0", 0, "not an array");
    REFUSED("\x80", 0, "not an array");
    REFUSED("", 0, "not an array");
    REFUSED("\x90\x90", 0, "after the array");
    REFUSED("\x91\xc0", 0, "[name, type, n]");
    REFUSED("\x91\x92\xa1x\x08", 0, "[name, type, n]");
    REFUSED("\x91\x94\xa1x\x08\x00\x00", 0, "[name, type, n]");
    REFUSED("\x91\x93\x01\x08\x00", 0, "[name, type, n]");
    REFUSED("\x91\x93\xa1x\xc0\x00", 0, "[name, type, n]");
    REFUSED("\x91\x93\xa1x\x08\xff", 0, "[name, type, n]");
    REFUSED("\x91\x93\xa1x\x08\xca\x3f\x80\x00\x00", 8, "[name, type, n]");
    REFUSED("\x91\x93\xa1x\x00\x00", 0, "no type");
    REFUSED("\x91\x93\xa1x\x0c\x00", 0, "no type");
    REFUSED("\x91\x93\xa1x\xce\x00\x01\x00\x08\x00", 0, "no type");     /* 8 in the low byte */
    REFUSED("\x91\x93\xa1x\xcf\0\0\0\x01\0\0\0\x08\x00", 0, "no type"); /* 8 in the low word */
    REFUSED("\x91\x93\xa0\x08\x00", 0, "name");
    REFUSED("\x91\x93\xa1X\x08\x00", 0, "name");
    REFUSED("\x91\x93\xa2x\0\x08\x00", 0, "name");
    REFUSED("\x91\x93\xd9\x20"
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x08\x00",
            0, "name"); /* 32 letters */
    REFUSED("\x92\x93\xa1x\x08\x01\x93\xa1x\x08\x01", 16, "there already");
    REFUSED("\xdc\x00\x21\x93\xa1x\x08\x00\x93\xa1x\x08\x00\x93\xa1x\x08\x00\x93\xa1x\x08\x00"
            "\x93\xa1x\x08\x00\x93\xa1x\x08\x00\x93\xa1x\x08\x00",
            0, "33 entries");
    REFUSED("\xdd\xff\xff\xff\xff", 0, "not an array");
}

static void test_lengths_that_do_not_add_up(void **state) {
    (void)state;
    REFUSED("\x91\x93\xa1x\x08\x02", 0, "claims 2 elements");
    REFUSED("\x91\x93\xa1x\x08\x01", 4, "claims 1 elements"); /* the padding is not there */
    REFUSED("\x91\x93\xa1x\x08\x01", 16, "8 bytes more");
    REFUSED("\x90", 8, "8 bytes more");
    REFUSED("\x91\x93\xa1x\x08\x00", 1, "1 bytes more");
    /* each fits, both together do not: the second may not overlap the first */
    REFUSED("\x92\x93\xa1x\x08\x04\x93\xa1y\x08\x04", 16, "entry 1 claims 4");
    REFUSED("\x92\x93\xa1x\x08\x03\x93\xa1y\x08\x03", 24, "entry 1 claims 3");
    /* n * size overflows 64 bits, to 0, to 8 and to just below */
    REFUSED("\x91\x93\xa1x\x08\xcf\x40\0\0\0\0\0\0\0", 0, "claims 4611686018427387904");
    REFUSED("\x91\x93\xa1x\x08\xcf\x40\0\0\0\0\0\0\x02", 8, "claims 4611686018427387906");
    REFUSED("\x91\x93\xa1x\x0b\xcf\x20\0\0\0\0\0\0\x01", 8, "claims 2305843009213693953");
    REFUSED("\x91\x93\xa1x\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 0, "claims 1844674407370955");
    REFUSED("\x91\x93\xa1x\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xf9", 8, "claims 1844674407370955");
}

static void test_padding_must_be_zero(void **state) {
    (void)state;
    tm_columns_t columns;
    tm_error_t err;
    tm_slice_t field = {"\x91\x93\xa1x\x01\x03", 6};
    _Alignas(8) uint8_t payload[8] = {1, 2, 3};
    assert_ok(tm_payload_decode(field, payload, 8, &columns, &err), &err);
    for (size_t i = 3; i < 8; i++) {
        payload[i] = 0x80;
        assert_says(tm_payload_decode(field, payload, 8, &columns, &err), TM_E_MALFORMED, &err,
                    "padding");
        payload[i] = 0;
    }
}

static void test_misaligned_payloads(void **state) {
    (void)state;
    static const tm_slice_t field = {"\x91\x93\xa1x\x08\x02", 6};
    _Alignas(8) uint8_t buffer[24] = {0};
    for (size_t shift = 0; shift < 16; shift++) {
        tm_columns_t columns;
        tm_error_t err;
        void *copy;
        const float value[2] = {1.5f, -2};
        memset(buffer, 0, sizeof buffer);
        memcpy(buffer + shift, value, sizeof value);
        tm_status_t status = tm_payload_decode(field, buffer + shift, 8, &columns, &err);
        assert_int_equal(status, shift % 8 == 0 ? TM_OK : TM_E_ARGUMENT);
        const void *aligned = tm_payload_aligned(buffer + shift, 8, &copy, &err);
        assert_non_null(aligned);
        assert_ptr_equal(aligned, shift % 8 == 0 ? (void *)(buffer + shift) : copy);
        assert_ok(tm_payload_decode(field, aligned, 8, &columns, &err), &err);
        assert_true(tm_column_get(&columns.column[0], 1) == -2.0);
        free(copy);
    }
    /* nothing is aligned well enough wherever it is */
    tm_columns_t columns;
    tm_error_t err;
    void *copy;
    assert_ok(tm_payload_decode((tm_slice_t){"\x90", 1}, NULL, 0, &columns, &err), &err);
    assert_ok(tm_payload_decode((tm_slice_t){"\x90", 1}, buffer + 1, 0, &columns, &err), &err);
    assert_non_null(tm_payload_aligned(NULL, 0, &copy, &err));
    free(copy);
}

static void test_encode_refuses_too_much(void **state) {
    (void)state;
    static uint8_t field[TM_COLUMNS_FIELD_MAX];
    tm_slice_t slice;
    tm_error_t err;
    tm_columns_t columns = {0};
    uint8_t byte = 0;
    /* refused before anything of this size is read */
    assert_ok(tm_columns_add(&columns, "x", TM_F64, TM_PAYLOAD_MAX_BYTES / 8 + 1, &byte, &err),
              &err);
    assert_says(tm_payload_encode(&columns, &byte, field, &slice, &err), TM_E_TOO_LARGE, &err,
                "column x");
    columns.column[0].n = UINT64_MAX / 8 + 2; /* overflows to 8 */
    assert_says(tm_payload_encode(&columns, &byte, field, &slice, &err), TM_E_TOO_LARGE, &err,
                "column x");
    columns.column[0].type = (tm_type_t)99;
    assert_says(tm_payload_encode(&columns, &byte, field, &slice, &err), TM_E_ARGUMENT, &err,
                "type");
    columns.count = TM_COLUMNS_MAX + 1;
    assert_says(tm_payload_encode(&columns, &byte, field, &slice, &err), TM_E_ARGUMENT, &err,
                "at most 32");
}

/* ---- times ---- */

static void test_times(void **state) {
    (void)state;
    uint8_t out[TM_TIMES_FIELD_MAX];
    tm_slice_t field;
    tm_timings_t timings = {0}, back;
    tm_error_t err;
    assert_ok(tm_times_encode(&timings, out, &field, &err), &err);
    assert_ok(tm_times_decode(field, &back, &err), &err);
    assert_int_equal(back.count, 0);
    for (uint64_t i = 0; i < TM_STAGES_MAX; i++) {
        tm_timings_add(&timings, i % 2 ? "fifteen_letters" : "e", i << 2 * i);
    }
    assert_ok(tm_times_encode(&timings, out, &field, &err), &err);
    memset(&back, 0xff, sizeof back);
    assert_ok(tm_times_decode(field, &back, &err), &err);
    assert_int_equal(back.count, TM_STAGES_MAX);
    for (uint32_t i = 0; i < back.count; i++) {
        assert_string_equal(back.stage[i].name, timings.stage[i].name);
        assert_int_equal(back.stage[i].us, timings.stage[i].us);
    }
    for (uint32_t cut = 0; cut < field.bytes; cut++) {
        assert_int_equal(tm_times_decode((tm_slice_t){field.data, cut}, &back, &err),
                         TM_E_MALFORMED);
        assert_int_equal(back.count, 0);
    }
    timings.stage[3].name[0] = '\0';
    assert_int_equal(tm_times_encode(&timings, out, &field, &err), TM_E_ARGUMENT);
    timings.stage[3].name[0] = '\n';
    assert_int_equal(tm_times_encode(&timings, out, &field, &err), TM_E_ARGUMENT);
    timings.count = TM_STAGES_MAX + 1;
    assert_int_equal(tm_times_encode(&timings, out, &field, &err), TM_E_ARGUMENT);
}

static void test_bad_times(void **state) {
    (void)state;
    static const struct {
        const char *field;
        uint32_t bytes;
    } bad[] = {
        {"\xc0", 1},
        {"\x91\x90", 2},
        {"\x91\x91\xa1x", 4},
        {"\x91\x93\xa1x\x01\x01", 6},
        {"\x91\x92\x01\x01", 4},
        {"\x91\x92\xa1x\xff", 5},
        {"\x91\x92\xa0\x01", 4},
        {"\x91\x92\xa1\n\x01", 5},
        {"\x91\x92\xb0sixteen_letters_\x01", 20},
        {"\x91\x92\xa1x\xcf\0\0\0\x01\0\0\0\0", 13},
        {"\x91\x92\xa1x\xca\0\0\0\0", 9},
        {"\x90\xc0", 2},
        {"\xdc\x00\x11\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", 20},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tm_timings_t timings;
        tm_error_t err;
        tm_slice_t field = {bad[i].field, bad[i].bytes};
        assert_int_equal(tm_times_decode(field, &timings, &err), TM_E_MALFORMED);
        assert_int_equal(timings.count, 0);
    }
}

/* ---- models ---- */

static void test_models(void **state) {
    (void)state;
    uint8_t out[TM_MODELS_FIELD_MAX];
    tm_slice_t field;
    tm_model_id_t models[TM_MODELS_MAX] = {0}, back[TM_MODELS_MAX];
    uint32_t count;
    tm_error_t err;
    for (uint32_t i = 0; i < TM_MODELS_MAX; i++) {
        memset(models[i].name, 'a' + (int)i / 2, TM_NAME_MAX);
        memset(models[i].version, '0' + (int)i % 2, 1 + i);
        memset(models[i].hash, (int)i, TM_HASH_BYTES);
    }
    for (uint32_t n = 0; n <= TM_MODELS_MAX; n += 8) {
        assert_ok(tm_models_encode(models, n, out, &field, &err), &err);
        assert_ok(tm_models_decode(field, back, &count, &err), &err);
        assert_int_equal(count, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_string_equal(back[i].name, models[i].name);
            assert_string_equal(back[i].version, models[i].version);
            assert_memory_equal(back[i].hash, models[i].hash, TM_HASH_BYTES);
        }
    }
    for (uint32_t cut = 0; cut < field.bytes; cut++) {
        assert_int_equal(tm_models_decode((tm_slice_t){field.data, cut}, back, &count, &err),
                         TM_E_MALFORMED);
        assert_int_equal(count, 0);
    }
    assert_int_equal(tm_models_encode(models, TM_MODELS_MAX + 1, out, &field, &err), TM_E_ARGUMENT);
    models[5] = models[2];
    assert_says(tm_models_encode(models, 8, out, &field, &err), TM_E_ARGUMENT, &err, "twice");
    strcpy(models[5].name, "a@b");
    assert_says(tm_models_encode(models, 8, out, &field, &err), TM_E_ARGUMENT, &err, "entry 5");
}

#define HASH32 \
    "\xc4\x20" \
    "0123456789abcdef0123456789abcdef"

static void test_bad_models(void **state) {
    (void)state;
#define BAD(s) \
    { s, sizeof(s) - 1 }
    static const struct {
        const char *field;
        uint32_t bytes;
    } bad[] = {
        BAD("\xc0"),
        BAD("\x91\x92\xa1m\xa1"
            "1"),
        BAD("\x91\x93\xa1m\xa1"
            "1\xc4\x01x"),
        BAD("\x91\x93\xa1m\xa1"
            "1\xa1x"),
        BAD("\x91\x93\xa1m\x01" HASH32),
        BAD("\x91\x93\xa0\xa1"
            "1" HASH32),
        BAD("\x91\x93\xa1m\xa0" HASH32),
        BAD("\x91\x93\xa2m\0\xa1"
            "1" HASH32),
        BAD("\x91\x93\xa1 \xa1"
            "1" HASH32),
        BAD("\x92\x93\xa1m\xa1"
            "1" HASH32 "\x93\xa1m\xa1"
            "1" HASH32),
        BAD("\x91\x93\xa1m\xa1"
            "1" HASH32 "\xc0"),
        BAD("\x91\x93\xd9\x40"
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "\xa1"
            "1" HASH32),
    };
#undef BAD
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        tm_model_id_t models[TM_MODELS_MAX];
        uint32_t count;
        tm_error_t err;
        tm_slice_t field = {bad[i].field, bad[i].bytes};
        assert_int_equal(tm_models_decode(field, models, &count, &err), TM_E_MALFORMED);
        assert_int_equal(count, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_payload_there_and_back),
        cmocka_unit_test(test_bad_descriptors),
        cmocka_unit_test(test_lengths_that_do_not_add_up),
        cmocka_unit_test(test_padding_must_be_zero),
        cmocka_unit_test(test_misaligned_payloads),
        cmocka_unit_test(test_encode_refuses_too_much),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_bad_times),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_bad_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
