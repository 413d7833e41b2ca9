// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <msgpack/pack.h>

#include "sample.h"
#include "wire/pack.h"
#include "wire/text.h"

static void assert_ok(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        fail_msg("%s: %s", tm_status_name(status), err->text);
    }
}

static void assert_same_field(const tm_message_t *a, const tm_message_t *b, unsigned index) {
    const tm_field_rule_t *rule = tm_schema_field(index);
    const char *in_a = (const char *)a + rule->offset, *in_b = (const char *)b + rule->offset;
    if (rule->kind == TM_KIND_UINT) {
        assert_memory_equal(in_a, in_b, sizeof(uint64_t));
        return;
    }
    tm_slice_t slice_a, slice_b;
    memcpy(&slice_a, in_a, sizeof slice_a);
    memcpy(&slice_b, in_b, sizeof slice_b);
    assert_int_equal(slice_a.bytes, slice_b.bytes);
    if (slice_a.bytes > 0) {
        assert_memory_equal(slice_a.data, slice_b.data, slice_a.bytes);
    }
}

static void test_round_trip_of_every_command(void **state) {
    (void)state;
    sample_rng_t rng = {3};
    sample_t *sample = malloc(sizeof *sample);
    assert_non_null(sample);
    const tm_command_rule_t *command;
    for (unsigned c = 0; (command = tm_schema_command_at(c)) != NULL; c++) {
        for (int round = 0; round < 300; round++) {
            uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
            uint8_t header_again[TM_HEADER_BYTES], map_again[TM_MAP_MAX_BYTES];
            size_t bytes, bytes_again;
            tm_message_t m;
            tm_error_t err;
            sample_message(&rng, command, round == 0, sample);
            assert_ok(tm_message_encode(&sample->m, header, map, &bytes, &err), &err);

            tm_frame_t frames[3] = {
                {header, sizeof header}, {map, bytes}, {sample->payload, sample->payload_bytes}};
            size_t count = command->payload ? 3 : 2;
            assert_ok(tm_message_decode_frames(frames, count, &m, &err), &err);
            assert_int_equal(m.command, sample->m.command);
            assert_true(m.id.origin == sample->m.id.origin && m.id.serial == sample->m.id.serial);
            assert_true(m.set == sample->m.set);
            for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
                assert_same_field(&sample->m, &m, i);
            }
            assert_ok(tm_message_encode(&m, header_again, map_again, &bytes_again, &err), &err);
            assert_memory_equal(header, header_again, sizeof header);
            assert_int_equal(bytes, bytes_again);
            assert_memory_equal(map, map_again, bytes);

            /* with one frame more or less it is malformed, but still known by its id */
            tm_message_t bad;
            assert_int_equal(tm_message_decode_frames(frames, count - 1, &bad, &err),
                             TM_E_MALFORMED);
            assert_int_equal(bad.command, sample->m.command);
            assert_true(bad.id.serial == sample->m.id.serial);
            tm_frame_t more[4] = {frames[0], frames[1], frames[2], {NULL, 0}};
            assert_int_equal(tm_message_decode_frames(more, count + 1, &bad, &err), TM_E_MALFORMED);
            assert_int_equal(tm_message_decode_frames(frames, 0, &bad, &err), TM_E_MALFORMED);
            assert_int_equal(bad.command, 0);
        }
    }
    free(sample);
}

/* Each required field of each command, called by another name. */
static void test_every_required_field_is_missed(void **state) {
    (void)state;
    sample_rng_t rng = {7};
    sample_t *sample = malloc(sizeof *sample);
    assert_non_null(sample);
    const tm_command_rule_t *command;
    for (unsigned c = 0; (command = tm_schema_command_at(c)) != NULL; c++) {
        for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
            if (!(command->required >> i & 1)) {
                continue;
            }
            uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
            size_t bytes;
            tm_message_t m;
            tm_error_t err;
            char key[32], says[64];
            sample_message(&rng, command, false, sample);
            assert_ok(tm_message_encode(&sample->m, header, map, &bytes, &err), &err);
            const char *name = tm_schema_field(i)->name;
            snprintf(key, sizeof key, "%c%s", (int)(0xa0 | strlen(name)), name);
            uint8_t *at = memmem(map, bytes, key, strlen(key));
            assert_non_null(at);
            at[1] = 'Q';
            assert_int_equal(tm_message_decode(header, sizeof header, map, bytes, &m, &err),
                             TM_E_MALFORMED);
            snprintf(says, sizeof says, "%s: %s is missing", command->name, name);
            assert_string_equal(err.text, says);
            sample->m.set &= ~(1ull << i);
            assert_int_equal(tm_message_encode(&sample->m, header, map, &bytes, &err),
                             TM_E_ARGUMENT);
            assert_string_equal(err.text, says);
        }
    }
    free(sample);
}

/* The largest message of each command fits, whatever encoding a peer chooses for the raw fields. */
static void test_the_largest_maps_fit(void **state) {
    (void)state;
    const tm_command_rule_t *command;
    for (unsigned c = 0; (command = tm_schema_command_at(c)) != NULL; c++) {
        uint64_t bytes = 3; /* map 16 */
        for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
            if ((command->required | command->optional) >> i & 1) {
                const tm_field_rule_t *rule = tm_schema_field(i);
                bytes += 1 + strlen(rule->name);
                bytes += rule->kind == TM_KIND_UINT  ? 9
                         : rule->kind == TM_KIND_RAW ? rule->max
                                                     : 3 + rule->max;
            }
        }
        assert_in_range(bytes, 1, TM_MAP_MAX_BYTES);
    }
}

/* A HELLO with every byte cut off at the end, in a buffer of exactly that size. */
static void test_truncation_at_every_byte(void **state) {
    (void)state;
    sample_rng_t rng = {4};
    sample_t *sample = malloc(sizeof *sample);
    assert_non_null(sample);
    const tm_command_rule_t *command;
    for (unsigned c = 0; (command = tm_schema_command_at(c)) != NULL; c++) {
        uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
        size_t bytes;
        tm_message_t m;
        tm_error_t err;
        sample_message(&rng, command, true, sample);
        assert_ok(tm_message_encode(&sample->m, header, map, &bytes, &err), &err);
        for (size_t cut = 0; cut < bytes; cut++) {
            uint8_t *part = malloc(cut > 0 ? cut : 1);
            assert_non_null(part);
            memcpy(part, map, cut);
            assert_int_equal(tm_message_decode(header, sizeof header, part, cut, &m, &err),
                             TM_E_MALFORMED);
            assert_true(m.set == 0);
            assert_int_equal(m.command, command->command);
            free(part);
        }
        for (size_t cut = 0; cut < sizeof header; cut++) {
            uint8_t *part = malloc(cut > 0 ? cut : 1);
            assert_non_null(part);
            memcpy(part, header, cut);
            assert_int_equal(tm_message_decode(part, cut, map, bytes, &m, &err), TM_E_MALFORMED);
            assert_int_equal(m.command, 0);
            free(part);
        }
        /* and one byte too many, on either frame */
        uint8_t long_header[TM_HEADER_BYTES + 1] = {0};
        memcpy(long_header, header, sizeof header);
        assert_int_equal(tm_message_decode(long_header, sizeof long_header, map, bytes, &m, &err),
                         TM_E_MALFORMED);
        if (bytes < sizeof map) {
            map[bytes] = 0xc0;
            assert_int_equal(tm_message_decode(header, sizeof header, map, bytes + 1, &m, &err),
                             TM_E_MALFORMED);
        }
    }
    free(sample);
}

/* ---- maps packed by hand ---- */

typedef struct {
    tm_pack_t pack;
    msgpack_packer packer;
    uint8_t data[TM_MAP_MAX_BYTES + 16];
} hand_t;

static void hand_start(hand_t *hand, size_t pairs) {
    tm_pack_start(&hand->pack, &hand->packer, hand->data, sizeof hand->data);
    msgpack_pack_map(&hand->packer, pairs);
}

static void hand_key(hand_t *hand, const char *key) {
    msgpack_pack_str_with_body(&hand->packer, key, strlen(key));
}

static void hand_str(hand_t *hand, const char *key, const char *value) {
    hand_key(hand, key);
    msgpack_pack_str_with_body(&hand->packer, value, strlen(value));
}

static void hand_raw(hand_t *hand, const char *key, const void *value, size_t bytes) {
    hand_key(hand, key);
    tm_pack_write(&hand->pack, value, bytes);
}

static void make_header(tm_command_t command, uint64_t origin, uint64_t serial,
                        uint8_t header[TM_HEADER_BYTES]) {
    memset(header, 0, TM_HEADER_BYTES);
    memcpy(header, "TMIL", 4);
    header[4] = TM_PROTOCOL_VERSION;
    header[5] = (uint8_t)command;
    for (int i = 0; i < 8; i++) {
        header[8 + i] = (uint8_t)(origin >> (8 * i));
        header[16 + i] = (uint8_t)(serial >> (8 * i));
    }
}

static tm_status_t hand_decode(const hand_t *hand, tm_command_t command, tm_message_t *m,
                               tm_error_t *err) {
    uint8_t header[TM_HEADER_BYTES];
    tm_id_rule_t id = tm_schema_command(command)->id;
    make_header(command, id == TM_ID_SET ? 7 : 0, id == TM_ID_SET ? 9 : 0, header);
    assert_false(hand->pack.full);
    /* in a buffer of exactly its size, for the sanitizers */
    uint8_t *map = malloc(hand->pack.size);
    assert_non_null(map);
    memcpy(map, hand->data, hand->pack.size);
    tm_status_t status = tm_message_decode(header, sizeof header, map, hand->pack.size, m, err);
    free(map);
    return status;
}

static void assert_malformed(const hand_t *hand, tm_command_t command, const char *says) {
    tm_message_t m;
    tm_error_t err = {0};
    assert_int_equal(hand_decode(hand, command, &m, &err), TM_E_MALFORMED);
    if (!strstr(err.text, says)) {
        fail_msg("'%s' does not say '%s'", err.text, says);
    }
}

static void test_unknown_fields_are_skipped(void **state) {
    (void)state;
    hand_t hand;
    tm_message_t m;
    tm_error_t err;
    hand_start(&hand, 6);
    hand_raw(&hand, "future", "\x92\x01\x81\xa1k\x93\x01\x02\xc0", 9);
    hand_str(&hand, "software", "x/1");
    hand_raw(&hand, "ttl_ms", "\xc0", 1); /* a field of other commands is unknown here */
    hand_raw(&hand, "", "\xca\x7f\xc0\x00\x00", 5);
    hand_raw(&hand, "future", "\x01", 1); /* even twice */
    hand_raw(&hand, "softwar", "\x01", 1);
    assert_ok(hand_decode(&hand, TM_CMD_HELLO, &m, &err), &err);
    assert_true(m.set == TM_FIELD(SOFTWARE));
    assert_int_equal(m.software.bytes, 3);
}

static void test_unknown_fields_must_be_sound(void **state) {
    (void)state;
    static const struct {
        const char *value;
        size_t bytes;
    } broken[] = {
        {"\xc1", 1},
        {"\xdd\xff\xff\xff\xff", 5},
        {"\xdf\xff\xff\xff\xff", 5},
        {"\x91\x91\x91\x91\x01", 5}, /* with the map itself one too deep */
        {"\xdb\x00\x00\x10\x00", 5},
        {"\x91", 1},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        hand_t hand;
        hand_start(&hand, 2);
        hand_str(&hand, "software", "x/1");
        hand_raw(&hand, "future", broken[i].value, broken[i].bytes);
        assert_malformed(&hand, TM_CMD_HELLO, "HELLO: the value of key 1");
    }
}

static void test_broken_maps(void **state) {
    (void)state;
    hand_t hand;
    hand_start(&hand, 2);
    hand_str(&hand, "software", "x/1");
    hand_str(&hand, "software", "x/2");
    assert_malformed(&hand, TM_CMD_HELLO, "software is there twice");
    hand_start(&hand, 0);
    assert_malformed(&hand, TM_CMD_HELLO, "software is missing");
    hand_start(&hand, 1);
    msgpack_pack_int(&hand.packer, 1);
    msgpack_pack_int(&hand.packer, 2);
    assert_malformed(&hand, TM_CMD_HELLO, "key 0");
    tm_pack_start(&hand.pack, &hand.packer, hand.data, sizeof hand.data);
    msgpack_pack_array(&hand.packer, 0);
    assert_malformed(&hand, TM_CMD_HELLO, "not a msgpack map");
    hand_start(&hand, 1);
    hand_str(&hand, "software", "x/1");
    msgpack_pack_nil(&hand.packer);
    assert_malformed(&hand, TM_CMD_HELLO, "1 bytes after the map");
    hand_start(&hand, 5);
    hand_str(&hand, "software", "x/1");
    assert_malformed(&hand, TM_CMD_HELLO, "cut off");
    /* longer than a map may be, though well-formed */
    hand_start(&hand, 2);
    hand_str(&hand, "software", "x/1");
    hand_key(&hand, "f");
    size_t left = TM_MAP_MAX_BYTES + 1 - hand.pack.size - 3;
    msgpack_pack_bin(&hand.packer, left);
    hand.pack.size += left;
    assert_int_equal(hand.pack.size, TM_MAP_MAX_BYTES + 1);
    assert_malformed(&hand, TM_CMD_HELLO, "4097 bytes");
}

static void test_wrong_types_and_ranges(void **state) {
    (void)state;
    static const struct {
        tm_command_t command;
        const char *key, *value;
        size_t bytes;
        const char *says;
    } wrong[] = {
        {TM_CMD_HELLO, "software", "\x01", 1, "wrong type"},
        {TM_CMD_HELLO, "software", "\xc4\x01x", 3, "wrong type"},
        {TM_CMD_HELLO, "software", "\xa0", 1, "0 bytes"},
        {TM_CMD_HELLO, "software", "\xa1\n", 2, "control"},
        {TM_CMD_HELLO, "software", "\xa1\xff", 2, "UTF-8"},
        {TM_CMD_HELLO, "software", "\xa2x\0", 3, "control"},
        {TM_CMD_CREDIT, "credit", "\xca\x3f\x80\x00\x00", 5, "wrong type"}, /* 1.0 */
        {TM_CMD_CREDIT, "credit", "\xcb\x3f\xf0\0\0\0\0\0\0", 9, "wrong type"},
        {TM_CMD_CREDIT, "credit", "\xff", 1, "wrong type"}, /* -1 */
        {TM_CMD_CREDIT, "credit", "\xd3\xff\xff\xff\xff\xff\xff\xff\xff", 9, "wrong type"},
        {TM_CMD_CREDIT, "credit", "\xc3", 1, "wrong type"},
        {TM_CMD_CREDIT, "credit", "\xc0", 1, "wrong type"},
        {TM_CMD_CREDIT, "credit",
         "\xa1"
         "1",
         2, "wrong type"},
        {TM_CMD_CREDIT, "credit", "\x00", 1, "must be 1 to 256"},
        {TM_CMD_CREDIT, "credit", "\xcd\x01\x01", 3, "must be 1 to 256"},
        {TM_CMD_CREDIT, "credit", "\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9, "must be 1 to 256"},
        {TM_CMD_REQUEST, "ttl_ms", "\x00", 1, "must be 1 to 86400000"},
        {TM_CMD_REQUEST, "priority", "\x03", 1, "must be 0 to 2"},
        {TM_CMD_REQUEST, "model", "\xa2@1", 3, "name@version"},
        {TM_CMD_REQUEST, "model", "\xa2m@", 3, "name@version"},
        {TM_CMD_REQUEST, "model", "\xa5m@1@2", 6, "name@version"},
        {TM_CMD_REQUEST, "model", "\xa3m n", 4, "name@version"},
        {TM_CMD_REQUEST, "columns", "\x80", 1, "not one msgpack array"},
        {TM_CMD_REQUEST, "columns", "\x91\x91\x91\x90", 4, "wrong type"}, /* too deep */
        {TM_CMD_DISPATCH, "model", "\xa1m", 2, "must be name@version"},
        {TM_CMD_DISPATCH, "model", "\xa0", 1, "must be name@version"},
        {TM_CMD_ANSWER, "hash", "\xc4\x01x", 3, "1 bytes"},
        {TM_CMD_ANSWER, "hash", "\xa1x", 2, "wrong type"},
        {TM_CMD_ERROR, "code", "\x00", 1, "must be 1 to 99"},
        {TM_CMD_ERROR, "code", "\x64", 1, "must be 1 to 99"},
        {TM_CMD_WELCOME, "epoch", "\x00", 1, "must be 1"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        hand_t hand;
        hand_start(&hand, 1);
        hand_raw(&hand, wrong[i].key, wrong[i].value, wrong[i].bytes);
        assert_malformed(&hand, wrong[i].command, wrong[i].says);
    }
}

static void test_other_encodings_of_the_same_value(void **state) {
    (void)state;
    static const struct {
        const char *value;
        size_t bytes;
    } five[] = {{"\x05", 1},
                {"\xcc\x05", 2},
                {"\xcd\x00\x05", 3},
                {"\xce\x00\x00\x00\x05", 5},
                {"\xcf\0\0\0\0\0\0\0\x05", 9},
                {"\xd0\x05", 2},
                {"\xd1\x00\x05", 3},
                {"\xd2\x00\x00\x00\x05", 5},
                {"\xd3\0\0\0\0\0\0\0\x05", 9}};
    for (size_t i = 0; i < sizeof five / sizeof five[0]; i++) {
        hand_t hand;
        tm_message_t m;
        tm_error_t err;
        tm_pack_start(&hand.pack, &hand.packer, hand.data, sizeof hand.data);
        tm_pack_write(&hand.pack,
                      "\xdf\x00\x00\x00\x01\xdb\x00\x00\x00\x06"
                      "credit",
                      16);
        tm_pack_write(&hand.pack, five[i].value, five[i].bytes);
        assert_ok(hand_decode(&hand, TM_CMD_CREDIT, &m, &err), &err);
        assert_int_equal(m.credit, 5);
    }
}

/* ---- the header ---- */

static tm_status_t decode_header(const uint8_t *header, tm_message_t *m, tm_error_t *err) {
    static const uint8_t empty_map = 0x80;
    return tm_message_decode(header, TM_HEADER_BYTES, &empty_map, 1, m, err);
}

static void test_header(void **state) {
    (void)state;
    uint8_t header[TM_HEADER_BYTES];
    tm_message_t m;
    tm_error_t err;
    make_header(TM_CMD_CANCEL, 0x0102030405060708u, 5, header);
    assert_ok(decode_header(header, &m, &err), &err);
    assert_true(m.id.origin == 0x0102030405060708u && m.id.serial == 5);

    for (int i = 0; i < 4; i++) { /* magic */
        header[i] ^= 0x20;
        assert_int_equal(decode_header(header, &m, &err), TM_E_MALFORMED);
        header[i] ^= 0x20;
    }
    for (int bit = 0; bit < 16; bit++) { /* flags */
        header[6 + bit / 8] = (uint8_t)(1 << bit % 8);
        assert_int_equal(decode_header(header, &m, &err), TM_E_MALFORMED);
        assert_int_equal(m.command, 0);
        header[6 + bit / 8] = 0;
    }
    for (int command = 0; command < 256; command++) {
        header[5] = (uint8_t)command;
        tm_status_t status = decode_header(header, &m, &err);
        const tm_command_rule_t *rule = tm_schema_command((tm_command_t)command);
        if (!rule) {
            assert_int_equal(status, TM_E_MALFORMED);
            assert_non_null(strstr(err.text, "no command"));
            assert_null(tm_command_name((tm_command_t)command));
            assert_false(tm_command_has_payload((tm_command_t)command));
        }
    }
}

static void test_other_versions(void **state) {
    (void)state;
    uint8_t header[TM_HEADER_BYTES];
    for (int version = 0; version < 256; version++) {
        tm_message_t m;
        tm_error_t err;
        make_header(TM_CMD_REQUEST, 3, 4, header);
        header[4] = (uint8_t)version;
        header[7] = 0x80; /* flags of a later version do not matter */
        tm_status_t status = decode_header(header, &m, &err);
        if (version != TM_PROTOCOL_VERSION) {
            assert_int_equal(status, TM_E_VERSION);
            assert_int_equal(m.command, TM_CMD_REQUEST);
            assert_true(m.id.origin == 3 && m.id.serial == 4);
            /* the rest is not looked at: one frame or five */
            tm_frame_t frames[5] = {{header, sizeof header}};
            assert_int_equal(tm_message_decode_frames(frames, 1, &m, &err), TM_E_VERSION);
            assert_int_equal(tm_message_decode_frames(frames, 5, &m, &err), TM_E_VERSION);
        } else {
            assert_int_equal(status, TM_E_MALFORMED);
        }
    }
}

static void test_ids(void **state) {
    (void)state;
    const tm_command_rule_t *command;
    for (unsigned c = 0; (command = tm_schema_command_at(c)) != NULL; c++) {
        for (int kind = 0; kind < 4; kind++) { /* 0/0, 0/1, 1/0, 1/1 */
            uint8_t header[TM_HEADER_BYTES];
            tm_message_t m;
            tm_error_t err = {0};
            make_header(command->command, kind >> 1 & 1, kind & 1, header);
            bool allowed = command->id == TM_ID_ZERO  ? kind == 0
                           : command->id == TM_ID_SET ? kind == 3
                                                      : kind == 0 || kind == 3;
            tm_status_t status = decode_header(header, &m, &err);
            if (!allowed) {
                assert_int_equal(status, TM_E_MALFORMED);
                assert_non_null(strstr(err.text, ": id "));
            } else if (status != TM_OK) {
                assert_non_null(strstr(err.text, "missing"));
            }
        }
    }
}

/* ---- encoding ---- */

static void test_encode_refuses_our_own_mistakes(void **state) {
    (void)state;
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t bytes;
    tm_error_t err;
    tm_message_t m = {.command = TM_CMD_HELLO};
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    assert_string_equal(err.text, "HELLO: software is missing");
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("x/1"));
    assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
    TM_SET_UINT(&m, CREDIT, credit, 1);
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    assert_string_equal(err.text, "HELLO: has no field credit");
    m.set &= ~TM_FIELD(CREDIT);
    m.id.serial = 1;
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    m.id.serial = 0;
    char longer[TM_SOFTWARE_MAX + 2];
    memset(longer, 'x', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice(longer));
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    longer[TM_SOFTWARE_MAX] = '\0';
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice(longer));
    assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("two\nlines"));
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);

    m = (tm_message_t){.command = TM_CMD_REQUEST, .id = {1, 1}};
    TM_SET_SLICE(&m, COLUMNS, columns, ((tm_slice_t){"\x91", 1}));
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    TM_SET_SLICE(&m, COLUMNS, columns, ((tm_slice_t){"\x90\x90", 2}));
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
    TM_SET_SLICE(&m, COLUMNS, columns, ((tm_slice_t){"\x90", 1}));
    assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
    m.command = (tm_command_t)0x7f;
    assert_int_equal(tm_message_encode(&m, header, map, &bytes, &err), TM_E_ARGUMENT);
}

static void test_text_is_mended(void **state) {
    (void)state;
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t bytes;
    tm_error_t err;
    tm_message_t m = {.command = TM_CMD_ERROR}, back;
    char text[2 * TM_TEXT_MAX + 1], copy[TM_TEXT_MAX + 1];
    TM_SET_UINT(&m, CODE, code, TM_E_BACKEND);

    for (size_t shift = 0; shift < 3; shift++) { /* a 3-byte character across the limit */
        memset(text, 'a', shift);
        for (size_t i = shift; i + 3 < sizeof text; i += 3) {
            memcpy(text + i, "\xe2\x82\xac", 4);
        }
        TM_SET_SLICE(&m, TEXT, text, tm_slice(text));
        assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
        assert_ok(tm_message_decode(header, sizeof header, map, bytes, &back, &err), &err);
        assert_in_range(back.text.bytes, TM_TEXT_MAX - 2, TM_TEXT_MAX);
        assert_memory_equal(back.text.data, text, back.text.bytes);
    }
    TM_SET_SLICE(&m, TEXT, text, tm_slice("line 1\nline \xe9"));
    assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
    assert_ok(tm_message_decode(header, sizeof header, map, bytes, &back, &err), &err);
    tm_slice_copy(copy, sizeof copy, back.text);
    assert_string_equal(copy, "line 1?line ?");
    TM_SET_SLICE(&m, TEXT, text, tm_slice(NULL));
    assert_ok(tm_message_encode(&m, header, map, &bytes, &err), &err);
    assert_ok(tm_message_decode(header, sizeof header, map, bytes, &back, &err), &err);
    assert_int_equal(back.text.bytes, 0);
}

static void test_slice_copy(void **state) {
    (void)state;
    char out[4];
    tm_slice_copy(out, sizeof out, tm_slice("ab"));
    assert_string_equal(out, "ab");
    tm_slice_copy(out, sizeof out, tm_slice("abcdef"));
    assert_string_equal(out, "abc");
    tm_slice_copy(out, sizeof out, (tm_slice_t){0});
    assert_string_equal(out, "");
    tm_slice_copy(out, 1, tm_slice("abc"));
    assert_string_equal(out, "");
}

static void test_too_large_a_payload(void **state) {
    (void)state;
    uint8_t header[TM_HEADER_BYTES];
    tm_message_t m;
    tm_error_t err;
    make_header(TM_CMD_REQUEST, 3, 4, header);
    tm_frame_t frames[3] = {{header, sizeof header},
                            {"\x81\xa7"
                             "columns\x90",
                             10},
                            {NULL, (size_t)TM_PAYLOAD_MAX_BYTES + 1}}; /* not read */
    assert_int_equal(tm_message_decode_frames(frames, 3, &m, &err), TM_E_TOO_LARGE);
    assert_true(m.set == TM_FIELD(COLUMNS) && m.id.serial == 4);
    frames[2].bytes--;
    assert_ok(tm_message_decode_frames(frames, 3, &m, &err), &err);
}

/* Whatever is accepted can be sent on. */
static void test_mutated_messages(void **state) {
    (void)state;
    sample_rng_t rng = {5};
    sample_t *sample = malloc(sizeof *sample);
    assert_non_null(sample);
    size_t accepted = 0, refused = 0;
    for (int round = 0; round < 20000; round++) {
        uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES], again[TM_MAP_MAX_BYTES];
        size_t bytes, bytes_again;
        tm_message_t m;
        tm_error_t err;
        unsigned count = 0;
        while (tm_schema_command_at(count)) {
            count++;
        }
        sample_message(&rng, tm_schema_command_at((unsigned)sample_below(&rng, count)), false,
                       sample);
        assert_ok(tm_message_encode(&sample->m, header, map, &bytes, &err), &err);
        bytes = sample_mutate(&rng, map, bytes, sizeof map);
        if (sample_below(&rng, 8) == 0) {
            sample_mutate(&rng, header, sizeof header, sizeof header);
        }
        tm_status_t status = tm_message_decode(header, sizeof header, map, bytes, &m, &err);
        if (status == TM_OK) {
            accepted++;
            assert_ok(tm_message_encode(&m, header, again, &bytes_again, &err), &err);
        } else {
            refused++;
            assert_true(status == TM_E_MALFORMED || status == TM_E_VERSION);
            assert_true(tm_text_valid(err.text, strlen(err.text)) && err.text[0]);
            assert_true(m.set == 0);
        }
    }
    assert_true(accepted > 1000 && refused > 1000);
    free(sample);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_of_every_command),
        cmocka_unit_test(test_every_required_field_is_missed),
        cmocka_unit_test(test_the_largest_maps_fit),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_unknown_fields_are_skipped),
        cmocka_unit_test(test_unknown_fields_must_be_sound),
        cmocka_unit_test(test_broken_maps),
        cmocka_unit_test(test_wrong_types_and_ranges),
        cmocka_unit_test(test_other_encodings_of_the_same_value),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_other_versions),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_encode_refuses_our_own_mistakes),
        cmocka_unit_test(test_text_is_mended),
        cmocka_unit_test(test_slice_copy),
        cmocka_unit_test(test_too_large_a_payload),
        cmocka_unit_test(test_mutated_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
