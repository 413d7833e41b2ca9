// SPDX-License-Identifier: Apache-2.0
/* The container: what is refused, with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nn/safetensors.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define LENGTH_BYTES 8

/* A container of the header and so many bytes of data 0, 1, 2 …, in a block of exactly its size, so
 * that a sanitizer sees any byte read beyond it. free() it. */
static uint8_t *raw_file(uint64_t header_length, const char *header, size_t data_bytes,
                         size_t *bytes) {
    size_t n = strlen(header);
    *bytes = LENGTH_BYTES + n + data_bytes;
    uint8_t *file = malloc(*bytes);
    assert_non_null(file);
    for (int i = 0; i < LENGTH_BYTES; i++) {
        file[i] = (uint8_t)(header_length >> 8 * i);
    }
    memcpy(file + LENGTH_BYTES, header, n);
    for (size_t i = 0; i < data_bytes; i++) {
        file[LENGTH_BYTES + n + i] = (uint8_t)i;
    }
    return file;
}

/* Parses and expects a refusal that begins with `text`, or success where it is NULL. */
static void expect(uint64_t header_length, const char *header, size_t data_bytes,
                   const char *text) {
    size_t bytes = 0;
    uint8_t *data = raw_file(header_length, header, data_bytes, &bytes);
    tm_safetensors_t *file = NULL;
    tm_error_t err = {0};
    tm_status_t status = tm_safetensors_parse(data, bytes, &file, &err);
    if (text == NULL ? status != TM_OK
                     : status != TM_E_MODEL_FILE || file != NULL ||
                           strncmp(err.text, text, strlen(text)) != 0) {
        fail_msg("%.200s: status %d \"%s\", wanted \"%s\"", header, status,
                 status != TM_OK ? err.text : "", text != NULL ? text : "success");
    }
    tm_safetensors_destroy(&file);
    free(data);
}

#define TENSOR(name, type, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

static void test_reads(void **state) {
    (void)state;
    /* not in the order of the data, and data that starts at an odd byte */
    static const char header[] = "{" TENSOR("b", "F16", "[3]", 24, 30) "," TENSOR(
        "a", "F32", "[2,3]", 0, 24) ",\"__metadata__\":{\"k\":\"v\"}," TENSOR("c", "F64", "[1,1]",
                                                                              30, 38) "}  ";
    size_t bytes = 0;
    uint8_t *data = raw_file(strlen(header), header, 38, &bytes);
    tm_safetensors_t *file = NULL;
    tm_error_t err = {0};
    assert_int_equal(tm_safetensors_parse(data, bytes, &file, &err), TM_OK);
    assert_int_equal(tm_safetensors_count(file), 3);
    const tm_tensor_t *a = tm_safetensors_at(file, 0);
    const tm_tensor_t *b = tm_safetensors_at(file, 1);
    const tm_tensor_t *c = tm_safetensors_at(file, 2);
    assert_string_equal(a->name, "a");
    assert_string_equal(b->name, "b");
    assert_string_equal(c->name, "c");
    assert_int_equal(a->type, TM_F32);
    assert_int_equal(b->type, TM_F16);
    assert_int_equal(c->type, TM_F64);
    assert_int_equal(a->rank, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->elements, 6);
    assert_int_equal(b->elements, 3);
    assert_int_equal(c->elements, 1);
    assert_int_equal(a->data[0], 0);
    assert_int_equal(b->data[0], 24);
    assert_int_equal(c->data[7], 37);
    assert_int_equal(tm_safetensors_metadata_count(file), 1);
    assert_string_equal(tm_safetensors_metadata(file, "k"), "v");
    assert_null(tm_safetensors_metadata(file, "l"));
    tm_safetensors_destroy(&file);
    assert_null(file);
    tm_safetensors_destroy(&file);
    free(data);

    expect(2, "{}", 0, NULL);
}

static void test_header_length(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        const char *text;
    } cases[] = {
        {0, "the header does not begin with '{'"},
        {1, "the header is no valid JSON"},
        {3, "header length 3, but only 2 bytes follow: the file was cut off"},
        {1u << 20, "header length 1048576, but only 2 bytes follow"},
        {(1u << 20) + 1, "header length 1048577: at most 1048576 bytes are allowed"},
        {1ull << 63, "header length 9223372036854775808: at most"},
        {(1ull << 63) - 1, "header length 9223372036854775807: at most"},
        {UINT64_MAX, "header length 18446744073709551615: at most"},
        {UINT64_MAX - 7, "header length 18446744073709551608: at most"},
        {UINT32_MAX, "header length 4294967295: at most"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        expect(cases[i].length, "{}", 0, cases[i].text);
    }
    for (size_t bytes = 0; bytes < LENGTH_BYTES; bytes++) {
        uint8_t *data = calloc(1, bytes + 1);
        assert_non_null(data);
        tm_safetensors_t *file = NULL;
        tm_error_t err = {0};
        assert_int_equal(tm_safetensors_parse(data, bytes, &file, &err), TM_E_MODEL_FILE);
        assert_non_null(strstr(err.text, "too short for a safetensors file"));
        free(data);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *text;
    } cases[] = {
        {" {}", 0, "the header does not begin with '{'"},
        {"[]", 0, "the header does not begin with '{'"},
        {"{}x", 0, "the header is no valid JSON"},
        {"{\"a\":", 0, "the header is no valid JSON"},
        {"{\"\\ud800\":1}", 0, "the header is no valid JSON"},
        {"{\"a\\u0000b\":1}", 0, "the header is no valid JSON"},
        {"{\"\xff\":1}", 0, "the header is no valid JSON"},
        {"{\"a\":1e999}", 0, "the header is no valid JSON"},
        {"{\"a\":99999999999999999999}", 0, "the header is no valid JSON"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("a", "F32", "[1]", 4, 8) "}", 8,
         "the header is no valid JSON, line 1, column "},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "the header is no valid JSON, line 1, column "},
        {"{\"__metadata__\":3}", 0, "__metadata__ is no object"},
        {"{\"__metadata__\":{\"k\":3}}", 0, "__metadata__.k is no string"},
        {"{\"a\":3}", 0, "tensor a: its header entry must have the keys"},
        {"{\"a\":{}}", 0, "tensor a: its header entry must have the keys"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor a: its header entry must"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4,
         "tensor a: its header entry must have the keys"},
        {"{\"a\":{\"type\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "tensor a: dtype is missing or no string"},
        {"{\"a\":{\"dtype\":5,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "tensor a: dtype is missing or no string"},
        {"{" TENSOR("a", "BF16", "[2]", 0, 4) "}", 4, "tensor a: dtype BF16 is not supported"},
        {"{" TENSOR("a", "I64", "[1]", 0, 8) "}", 8, "tensor a: dtype I64 is not supported"},
        {"{" TENSOR("a", "f32", "[1]", 0, 4) "}", 4, "tensor a: dtype f32 is not supported"},
        {"{" TENSOR("a", "F32", "3", 0, 4) "}", 4, "tensor a: shape is missing or no list"},
        {"{" TENSOR("a", "F32", "[]", 0, 4) "}", 4, "tensor a: 0 dimensions; 1 to 8"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "tensor a: 9 dimensions"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1]", 0, 4) "}", 4, NULL},
        {"{" TENSOR("a", "F32", "[1,0]", 0, 0) "}", 0, "tensor a: shape[1] is no integer of at"},
        {"{" TENSOR("a", "F32", "[-1]", 0, 4) "}", 4, "tensor a: shape[0] is no integer of at"},
        {"{" TENSOR("a", "F32", "[1.0]", 0, 4) "}", 4, "tensor a: shape[0] is no integer of at"},
        {"{" TENSOR("a", "F32", "[\"1\"]", 0, 4) "}", 4, "tensor a: shape[0] is no integer"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 4) "}", 4,
         "tensor a: the shape's product overflows"},
        /* the product fits, times four it wraps around to 4 */
        {"{" TENSOR("a", "F32", "[4611686018427387905]", 0, 4) "}", 4,
         "tensor a: its data has 4 bytes, its shape asks for 4611686018427387905 elements"},
        {"{" TENSOR("a", "F32", "[2]", 0, 4) "}", 4,
         "tensor a: its data has 4 bytes, its shape asks for 2 elements of 4 bytes"},
        {"{" TENSOR("a", "F32", "[1]", 0, 8) "}", 8, "tensor a: its data has 8 bytes"},
        {"{" TENSOR("a", "F64", "[1]", 0, 4) "}", 4, "tensor a: its data has 4 bytes"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 3,
         "tensor a: data_offsets [0, 4] are not inside"},
        {"{" TENSOR("a", "F32", "[1]", 4, 0) "}", 4,
         "tensor a: data_offsets [4, 0] are not inside"},
        {"{" TENSOR("a", "F32", "[1]", -4, 0) "}", 4, "tensor a: data_offsets [-4, 0] are not"},
        {"{" TENSOR("a", "F32", "[1]", 9223372036854775803, 9223372036854775807) "}", 4,
         "tensor a: data_offsets [9223372036854775803, 9223372036854775807] are not inside"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
         "tensor a: data_offsets is missing or no list of two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4,
         "tensor a: data_offsets is missing or no list of two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4,
         "tensor a: data_offsets is missing or no list of two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{}}}", 4,
         "tensor a: data_offsets is missing or no list of two integers"},
        {"{" TENSOR("a", "F32", "[2]", 0, 8) "," TENSOR("b", "F32", "[2]", 4, 12) "}", 12,
         "tensor b: its data overlaps that of tensor a"},
        {"{" TENSOR("a", "F32", "[2]", 0, 8) "," TENSOR("b", "F32", "[1]", 4, 8) "}", 8,
         "tensor b: its data overlaps that of tensor a"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 8, 12) "}", 12,
         "tensor b: 4 bytes before its data belong to no tensor"},
        {"{" TENSOR("a", "F32", "[1]", 4, 8) "}", 8,
         "tensor a: 4 bytes before its data belong to no tensor"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 5,
         "1 bytes behind the last tensor belong to no tensor"},
        {"{}", 1, "1 bytes behind the last tensor"},
        {"{" TENSOR("", "F32", "[1]", 0, 4) "}", 4, "a tensor name of 0 bytes"},
        {"{" TENSOR("a b", "F32", "[1]", 0, 4) "}", 4, "byte 1 of a tensor name is 0x20"},
        {"{" TENSOR("\xc3\xa9", "F32", "[1]", 0, 4) "}", 4, "byte 0 of a tensor name is 0xc3"},
        {"{" TENSOR("a\\n", "F32", "[1]", 0, 4) "}", 4, "byte 1 of a tensor name is 0x0a"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        expect(strlen(cases[i].header), cases[i].header, cases[i].data_bytes, cases[i].text);
    }
    /* the same place twice: which of the two is named is not said */
    expect(strlen("{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 0, 4) "}"),
           "{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 0, 4) "}", 4,
           "tensor ");
}

static void test_limits(void **state) {
    (void)state;
    /* TM_TENSORS_MAX tensors are taken, one more is not */
    const size_t room = 100 * (TM_TENSORS_MAX + 1);
    char *header = malloc(room);
    assert_non_null(header);
    for (int extra = 0; extra < 2; extra++) {
        size_t count = TM_TENSORS_MAX + (size_t)extra;
        size_t used = (size_t)snprintf(header, room, "{");
        for (size_t i = 0; i < count; i++) {
            used += (size_t)snprintf(header + used, room - used,
                                     "%s\"t%zu\":{\"dtype\":\"F16\",\"shape\":[1],"
                                     "\"data_offsets\":[%zu,%zu]}",
                                     i > 0 ? "," : "", i, 2 * i, 2 * i + 2);
        }
        used += (size_t)snprintf(header + used, room - used, "}");
        expect(used, header, 2 * count,
               extra == 0 ? NULL : "4097 tensors; at most 4096 are allowed");
    }
    /* deep nesting ends at the JSON library's limit, not the stack's */
    for (size_t i = 0; i < room - 1; i++) {
        header[i] = '[';
    }
    header[room - 1] = '\0';
    memcpy(header, "{\"a\":", 5);
    expect(room - 1, header, 0, "the header is no valid JSON");
    free(header);

    char name[TM_TENSOR_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    for (int extra = 0; extra < 2; extra++) {
        char text[400];
        name[TM_TENSOR_NAME_MAX + extra] = '\0';
        snprintf(text, sizeof text,
                 "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
        expect(strlen(text), text, 4,
               extra == 0 ? NULL : "a tensor name of 128 bytes: 1 to 127 bytes are allowed");
        name[TM_TENSOR_NAME_MAX + extra] = 'n';
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads),
        cmocka_unit_test(test_header_length),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
