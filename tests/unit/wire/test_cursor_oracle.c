// SPDX-License-Identifier: Apache-2.0
/*
 * The cursor against msgpack-c on random and mutated input: what the cursor accepts, msgpack-c
 * accepts too, with the same end and the same content. The reverse does not hold (the cursor limits
 * depth), but where msgpack-c reads a value that is no deeper than allowed, the cursor must read it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <msgpack.h>

#include "sample.h"
#include "wire/cursor.h"

enum { INPUT_MAX_BYTES = 256, ROUNDS = 200000 };

/* Depth of the containers in an object; 0 for a scalar. */
static unsigned object_depth(const msgpack_object *object) {
    unsigned deepest = 0;
    if (object->type == MSGPACK_OBJECT_ARRAY) {
        for (uint32_t i = 0; i < object->via.array.size; i++) {
            unsigned depth = object_depth(&object->via.array.ptr[i]);
            deepest = depth > deepest ? depth : deepest;
        }
        return deepest + 1;
    }
    if (object->type == MSGPACK_OBJECT_MAP) {
        for (uint32_t i = 0; i < object->via.map.size; i++) {
            unsigned key = object_depth(&object->via.map.ptr[i].key);
            unsigned value = object_depth(&object->via.map.ptr[i].val);
            deepest = key > deepest ? key : deepest;
            deepest = value > deepest ? value : deepest;
        }
        return deepest + 1;
    }
    return 0;
}

/* Reads with the cursor what msgpack-c found, token by token. */
static void same_content(tm_cursor_t *cursor, const msgpack_object *object) {
    tm_token_t token;
    assert_true(tm_cursor_next(cursor, &token));
    switch (object->type) {
    case MSGPACK_OBJECT_NIL:
        assert_int_equal(token.kind, TM_TOKEN_NIL);
        break;
    case MSGPACK_OBJECT_BOOLEAN:
        assert_int_equal(token.kind, TM_TOKEN_BOOL);
        assert_int_equal(token.number, object->via.boolean);
        break;
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        assert_int_equal(token.kind, TM_TOKEN_UINT);
        assert_true(token.number == object->via.u64);
        break;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        assert_int_equal(token.kind, TM_TOKEN_NEGATIVE);
        break;
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
        assert_int_equal(token.kind, TM_TOKEN_FLOAT);
        break;
    case MSGPACK_OBJECT_STR:
        assert_int_equal(token.kind, TM_TOKEN_STR);
        assert_int_equal(token.count, object->via.str.size);
        assert_memory_equal(token.data, object->via.str.ptr, token.count);
        break;
    case MSGPACK_OBJECT_BIN:
        assert_int_equal(token.kind, TM_TOKEN_BIN);
        assert_int_equal(token.count, object->via.bin.size);
        assert_memory_equal(token.data, object->via.bin.ptr, token.count);
        break;
    case MSGPACK_OBJECT_EXT:
        assert_int_equal(token.kind, TM_TOKEN_EXT);
        assert_int_equal(token.count, object->via.ext.size);
        break;
    case MSGPACK_OBJECT_ARRAY:
        assert_int_equal(token.kind, TM_TOKEN_ARRAY);
        assert_int_equal(token.count, object->via.array.size);
        for (uint32_t i = 0; i < token.count; i++) {
            same_content(cursor, &object->via.array.ptr[i]);
        }
        break;
    case MSGPACK_OBJECT_MAP:
        assert_int_equal(token.kind, TM_TOKEN_MAP);
        assert_int_equal(token.count, object->via.map.size);
        for (uint32_t i = 0; i < token.count; i++) {
            same_content(cursor, &object->via.map.ptr[i].key);
            same_content(cursor, &object->via.map.ptr[i].val);
        }
        break;
    }
}

/* Whether a container claims more than a few thousand elements: msgpack-c would reserve them all. */
static bool claims_much(const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i + 4 < bytes; i++) {
        if ((data[i] == 0xdd || data[i] == 0xdf) &&
            (data[i + 1] != 0 || data[i + 2] != 0 || data[i + 3] > 0x0f)) {
            return true;
        }
    }
    return false;
}

/* Returns whether the cursor accepted. */
static bool compare(const uint8_t *data, size_t bytes) {
    tm_cursor_t cursor = tm_cursor(data, bytes);
    bool accepted = tm_cursor_skip(&cursor, TM_MAP_MAX_DEPTH);
    if (claims_much(data, bytes) && !accepted) {
        return false; /* nothing to learn, and gigabytes to pay */
    }
    msgpack_unpacked unpacked;
    msgpack_unpacked_init(&unpacked);
    size_t end = 0;
    msgpack_unpack_return result = msgpack_unpack_next(&unpacked, (const char *)data, bytes, &end);
    if (accepted) {
        assert_int_equal(result, MSGPACK_UNPACK_SUCCESS);
        assert_int_equal(end, cursor.at - data);
        tm_cursor_t again = tm_cursor(data, bytes);
        same_content(&again, &unpacked.data);
        assert_ptr_equal(again.at, cursor.at);
    } else if (result == MSGPACK_UNPACK_SUCCESS) {
        assert_true(object_depth(&unpacked.data) > TM_MAP_MAX_DEPTH);
    }
    msgpack_unpacked_destroy(&unpacked);
    return accepted;
}

static void test_random_bytes(void **state) {
    (void)state;
    sample_rng_t rng = {1};
    size_t accepted = 0;
    for (int round = 0; round < ROUNDS; round++) {
        size_t bytes = sample_below(&rng, 32);
        uint8_t *data = malloc(bytes + 1);
        assert_non_null(data);
        for (size_t i = 0; i < bytes; i++) {
            data[i] = (uint8_t)sample_next(&rng);
        }
        accepted += compare(data, bytes);
        free(data);
    }
    assert_in_range(accepted, ROUNDS / 10, ROUNDS - ROUNDS / 10); /* it saw both sides */
}

/* Packs a random value; containers only while depth > 0. */
static void pack_random(sample_rng_t *rng, msgpack_packer *packer, unsigned depth) {
    static const char filler[40] = "forty bytes that may become a string..";
    size_t bytes = sample_below(rng, sizeof filler);
    switch (sample_below(rng, depth > 0 ? 10 : 8)) {
    case 0:
        msgpack_pack_nil(packer);
        break;
    case 1:
        msgpack_pack_true(packer);
        break;
    case 2:
        msgpack_pack_uint64(packer, sample_between(rng, 0, UINT64_MAX));
        break;
    case 3:
        msgpack_pack_int64(packer, -(int64_t)sample_between(rng, 0, INT64_MAX));
        break;
    case 4:
        msgpack_pack_double(packer, (double)sample_next(rng));
        break;
    case 5:
        msgpack_pack_str_with_body(packer, filler, bytes);
        break;
    case 6:
        msgpack_pack_bin_with_body(packer, filler, bytes);
        break;
    case 7:
        msgpack_pack_ext_with_body(packer, filler, bytes, 5);
        break;
    case 8: {
        size_t count = sample_below(rng, 5);
        msgpack_pack_array(packer, count);
        for (size_t i = 0; i < count; i++) {
            pack_random(rng, packer, depth - 1);
        }
        break;
    }
    default: {
        size_t count = sample_below(rng, 4);
        msgpack_pack_map(packer, count);
        for (size_t i = 0; i < 2 * count; i++) {
            pack_random(rng, packer, depth - 1);
        }
        break;
    }
    }
}

static void test_packed_and_mutated_values(void **state) {
    (void)state;
    sample_rng_t rng = {2};
    size_t accepted = 0, refused = 0;
    msgpack_sbuffer buffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&buffer);
    msgpack_packer_init(&packer, &buffer, msgpack_sbuffer_write);
    for (int round = 0; round < ROUNDS / 4; round++) {
        msgpack_sbuffer_clear(&buffer);
        pack_random(&rng, &packer, 6);
        compare((const uint8_t *)buffer.data, buffer.size);
        uint8_t data[INPUT_MAX_BYTES];
        size_t bytes = buffer.size < sizeof data ? buffer.size : sizeof data;
        memcpy(data, buffer.data, bytes);
        for (int k = 0; k < 4; k++) {
            bytes = sample_mutate(&rng, data, bytes, sizeof data);
            uint8_t *exact = malloc(bytes + 1);
            assert_non_null(exact);
            memcpy(exact, data, bytes);
            *(compare(exact, bytes) ? &accepted : &refused) += 1;
            free(exact);
        }
    }
    msgpack_sbuffer_destroy(&buffer);
    assert_true(accepted > ROUNDS / 10);
    assert_true(refused > ROUNDS / 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_packed_and_mutated_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
