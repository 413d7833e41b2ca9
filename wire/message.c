// SPDX-License-Identifier: Apache-2.0
#include "wire/message.h"

#include <string.h>

#include "wire/cursor.h"
#include "wire/pack.h"
#include "wire/schema.h"
#include "wire/text.h"

_Static_assert(TM_FIELD_COUNT <= 64, "tm_message_t.set has one bit per field");

static const char magic[4] = {'T', 'M', 'I', 'L'};

/* Where things are in the header. */
enum { AT_MAGIC = 0, AT_VERSION = 4, AT_COMMAND = 5, AT_FLAGS = 6, AT_ORIGIN = 8, AT_SERIAL = 16 };

static uint64_t *field_number(const tm_message_t *m, const tm_field_rule_t *rule) {
    return (uint64_t *)(void *)((char *)(uintptr_t)m + rule->offset);
}

static tm_slice_t *field_slice(const tm_message_t *m, const tm_field_rule_t *rule) {
    return (tm_slice_t *)(void *)((char *)(uintptr_t)m + rule->offset);
}

bool tm_command_has_payload(tm_command_t command) {
    const tm_command_rule_t *rule = tm_schema_command(command);
    return rule && rule->payload;
}

const char *tm_command_name(tm_command_t command) {
    const tm_command_rule_t *rule = tm_schema_command(command);
    return rule ? rule->name : NULL;
}

tm_slice_t tm_slice(const char *string) {
    return (tm_slice_t){.data = string, .bytes = string ? (uint32_t)strlen(string) : 0};
}

void tm_slice_copy(char *out, size_t bytes, tm_slice_t slice) {
    size_t length = slice.bytes < bytes - 1 ? slice.bytes : bytes - 1;
    if (length > 0) {
        memcpy(out, slice.data, length);
    }
    out[length] = '\0';
}

/* Whether the slice is one msgpack array and nothing else, nested no deeper than a map allows. */
static bool raw_valid(tm_slice_t slice) {
    tm_cursor_t cursor = tm_cursor(slice.data, slice.bytes);
    tm_cursor_t whole = cursor;
    uint32_t count;
    return tm_cursor_get_array(&cursor, &count) && tm_cursor_skip(&whole, TM_MAP_MAX_DEPTH - 1) &&
           tm_cursor_at_end(&whole);
}

/* The rules that hold for a value whichever way it travels. `code` is what a breach is. */
static tm_status_t value_check(const tm_command_rule_t *command, const tm_field_rule_t *rule,
                               const tm_message_t *m, tm_status_t code, tm_error_t *err) {
    if (rule->kind == TM_KIND_UINT) {
        uint64_t number = *field_number(m, rule);
        if (number < rule->min || number > rule->max) {
            return tm_error_set(err, code, "%s: %s is %llu, must be %llu to %llu", command->name,
                                rule->name, (unsigned long long)number,
                                (unsigned long long)rule->min, (unsigned long long)rule->max);
        }
        return TM_OK;
    }
    tm_slice_t slice = *field_slice(m, rule);
    if (slice.bytes < rule->min || slice.bytes > rule->max) {
        return tm_error_set(err, code, "%s: %s has %u bytes, must have %llu to %llu", command->name,
                            rule->name, slice.bytes, (unsigned long long)rule->min,
                            (unsigned long long)rule->max);
    }
    switch (rule->kind) {
    case TM_KIND_STR:
    case TM_KIND_TEXT:
        if (!tm_text_valid(slice.data, slice.bytes)) {
            return tm_error_set(err, code, "%s: %s is not UTF-8 or has control characters",
                                command->name, rule->name);
        }
        break;
    case TM_KIND_REF:
        if ((slice.bytes > 0 || command->resolved) &&
            !tm_model_ref_valid(slice.data, slice.bytes, command->resolved)) {
            return tm_error_set(err, code, "%s: %s must be %sname@version of A-Z a-z 0-9 . _ -",
                                command->name, rule->name,
                                command->resolved ? "" : "empty, name or ");
        }
        break;
    case TM_KIND_RAW:
        if (!raw_valid(slice)) {
            return tm_error_set(err, code, "%s: %s is not one msgpack array", command->name,
                                rule->name);
        }
        break;
    default:
        break;
    }
    return TM_OK;
}

static bool id_valid(tm_id_rule_t rule, tm_id_t id) {
    bool zero = id.origin == 0 && id.serial == 0;
    bool set = id.origin != 0 && id.serial != 0;
    return rule == TM_ID_ZERO ? zero : rule == TM_ID_SET ? set : zero || set;
}

static const char *id_text(tm_id_rule_t rule) {
    return rule == TM_ID_ZERO  ? "must be 0/0"
           : rule == TM_ID_SET ? "neither number may be 0"
                               : "must be 0/0 or both set";
}

/* ---- decoding ---- */

static uint64_t read_le64(const uint8_t *p) {
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | p[i];
    }
    return value;
}

static tm_status_t header_decode(const uint8_t *header, size_t bytes, tm_message_t *m,
                                 const tm_command_rule_t **rule, tm_error_t *err) {
    if (bytes != TM_HEADER_BYTES) {
        return tm_error_set(err, TM_E_MALFORMED, "header: %zu bytes, must be %d", bytes,
                            TM_HEADER_BYTES);
    }
    if (memcmp(header + AT_MAGIC, magic, sizeof magic) != 0) {
        return tm_error_set(err, TM_E_MALFORMED, "header: does not begin with TMIL");
    }
    tm_id_t id = {read_le64(header + AT_ORIGIN), read_le64(header + AT_SERIAL)};
    tm_command_t command = (tm_command_t)header[AT_COMMAND];
    if (header[AT_VERSION] != TM_PROTOCOL_VERSION) {
        m->command = command;
        m->id = id;
        return tm_error_set(err, TM_E_VERSION,
                            "the peer speaks protocol version %u, this side %u: "
                            "update the older of the two",
                            (unsigned)header[AT_VERSION], TM_PROTOCOL_VERSION);
    }
    if (header[AT_FLAGS] != 0 || header[AT_FLAGS + 1] != 0) {
        return tm_error_set(err, TM_E_MALFORMED, "header: flags are 0x%02x%02x, must be 0",
                            (unsigned)header[AT_FLAGS + 1], (unsigned)header[AT_FLAGS]);
    }
    *rule = tm_schema_command(command);
    if (!*rule) {
        return tm_error_set(err, TM_E_MALFORMED, "header: 0x%02x is no command", (unsigned)command);
    }
    if (!id_valid((*rule)->id, id)) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: id %llx/%llu: %s", (*rule)->name,
                            (unsigned long long)id.origin, (unsigned long long)id.serial,
                            id_text((*rule)->id));
    }
    m->command = command;
    m->id = id;
    return TM_OK;
}

/* The field of that name if the command has it, else TM_FIELD_COUNT. */
static unsigned field_lookup(const tm_command_rule_t *command, const char *name, uint32_t bytes) {
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        const char *known = tm_schema_field(i)->name;
        if (((command->required | command->optional) >> i & 1) && strlen(known) == bytes &&
            memcmp(known, name, bytes) == 0) {
            return i;
        }
    }
    return TM_FIELD_COUNT;
}

static tm_status_t value_decode(tm_cursor_t *cursor, const tm_command_rule_t *command,
                                const tm_field_rule_t *rule, tm_message_t *m, tm_error_t *err) {
    tm_slice_t slice = {0};
    const uint8_t *start = cursor->at;
    bool ok = false;
    switch (rule->kind) {
    case TM_KIND_UINT:
        ok = tm_cursor_get_uint(cursor, field_number(m, rule));
        break;
    case TM_KIND_STR:
    case TM_KIND_TEXT:
    case TM_KIND_REF:
        ok = tm_cursor_get_str(cursor, &slice.data, &slice.bytes);
        break;
    case TM_KIND_BIN: {
        const uint8_t *data;
        ok = tm_cursor_get_bin(cursor, &data, &slice.bytes);
        slice.data = ok ? (const char *)data : NULL;
        break;
    }
    case TM_KIND_RAW:
        ok = tm_cursor_skip(cursor, TM_MAP_MAX_DEPTH - 1);
        slice = (tm_slice_t){(const char *)start, (uint32_t)(cursor->at - start)};
        break;
    }
    if (!ok) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: %s is cut off or of the wrong type",
                            command->name, rule->name);
    }
    if (rule->kind != TM_KIND_UINT) {
        *field_slice(m, rule) = slice;
    }
    return value_check(command, rule, m, TM_E_MALFORMED, err);
}

static tm_status_t map_decode(const void *map, size_t bytes, const tm_command_rule_t *command,
                              tm_message_t *m, tm_error_t *err) {
    if (bytes > TM_MAP_MAX_BYTES) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: map of %zu bytes, at most %d are taken",
                            command->name, bytes, TM_MAP_MAX_BYTES);
    }
    tm_cursor_t cursor = tm_cursor(map, bytes);
    uint32_t pairs;
    if (!tm_cursor_get_map(&cursor, &pairs)) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: frame 1 is not a msgpack map", command->name);
    }
    for (uint32_t i = 0; i < pairs; i++) {
        const char *key;
        uint32_t key_bytes;
        if (!tm_cursor_get_str(&cursor, &key, &key_bytes)) {
            return tm_error_set(err, TM_E_MALFORMED, "%s: key %u is cut off or not a string",
                                command->name, i);
        }
        unsigned index = field_lookup(command, key, key_bytes);
        if (index == TM_FIELD_COUNT) {
            if (!tm_cursor_skip(&cursor, TM_MAP_MAX_DEPTH - 1)) {
                return tm_error_set(err, TM_E_MALFORMED,
                                    "%s: the value of key %u is cut off, broken or nested too deep",
                                    command->name, i);
            }
            continue;
        }
        const tm_field_rule_t *rule = tm_schema_field(index);
        if (m->set >> index & 1) {
            return tm_error_set(err, TM_E_MALFORMED, "%s: %s is there twice", command->name,
                                rule->name);
        }
        tm_status_t status = value_decode(&cursor, command, rule, m, err);
        if (status != TM_OK) {
            return status;
        }
        m->set |= 1ull << index;
    }
    if (!tm_cursor_at_end(&cursor)) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: %zu bytes after the map", command->name,
                            (size_t)(cursor.end - cursor.at));
    }
    return TM_OK;
}

/* TM_OK, or `code` and the first required field that is not there. */
static tm_status_t required_check(const tm_command_rule_t *command, uint64_t set, tm_status_t code,
                                  tm_error_t *err) {
    uint64_t missing = command->required & ~set;
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        if (missing >> i & 1) {
            return tm_error_set(err, code, "%s: %s is missing", command->name,
                                tm_schema_field(i)->name);
        }
    }
    return TM_OK;
}

tm_status_t tm_message_decode(const void *header, size_t header_bytes, const void *map,
                              size_t map_bytes, tm_message_t *m, tm_error_t *err) {
    const tm_command_rule_t *command = NULL;
    memset(m, 0, sizeof *m);
    tm_status_t status = header_decode(header, header_bytes, m, &command, err);
    if (status != TM_OK) {
        return status;
    }
    status = map_decode(map, map_bytes, command, m, err);
    if (status == TM_OK) {
        status = required_check(command, m->set, TM_E_MALFORMED, err);
    }
    if (status != TM_OK) { /* nobody shall use half a message */
        *m = (tm_message_t){.command = m->command, .id = m->id};
    }
    return status;
}

tm_status_t tm_message_decode_frames(const tm_frame_t *frames, size_t count, tm_message_t *m,
                                     tm_error_t *err) {
    static const tm_frame_t none = {0};
    const tm_frame_t *header = count > 0 ? &frames[0] : &none;
    const tm_frame_t *map = count > 1 ? &frames[1] : &none;
    tm_status_t status =
        tm_message_decode(header->data, header->bytes, map->data, map->bytes, m, err);
    if (status != TM_OK) {
        return status;
    }
    size_t expected = tm_command_has_payload(m->command) ? TM_FRAMES_MAX : TM_FRAMES_MAX - 1;
    if (count != expected) {
        *m = (tm_message_t){.command = m->command, .id = m->id};
        return tm_error_set(err, TM_E_MALFORMED, "%s: %zu frames, must be %zu",
                            tm_command_name(m->command), count, expected);
    }
    if (count == TM_FRAMES_MAX && frames[2].bytes > TM_PAYLOAD_MAX_BYTES) {
        return tm_error_set(err, TM_E_TOO_LARGE, "%s: payload of %zu bytes, at most %u are taken",
                            tm_command_name(m->command), frames[2].bytes, TM_PAYLOAD_MAX_BYTES);
    }
    return TM_OK;
}

/* ---- encoding ---- */

static void write_le64(uint8_t *p, uint64_t value) {
    for (int i = 0; i < 8; i++) {
        p[i] = (uint8_t)(value >> (8 * i));
    }
}

static void value_pack(tm_pack_t *pack, msgpack_packer *packer, const tm_message_t *m,
                       const tm_field_rule_t *rule) {
    if (rule->kind == TM_KIND_UINT) {
        msgpack_pack_uint64(packer, *field_number(m, rule));
        return;
    }
    tm_slice_t slice = *field_slice(m, rule);
    switch (rule->kind) {
    case TM_KIND_BIN:
        msgpack_pack_bin_with_body(packer, slice.data, slice.bytes);
        break;
    case TM_KIND_RAW:
        tm_pack_write(pack, slice.data, slice.bytes);
        break;
    default:
        msgpack_pack_str_with_body(packer, slice.data, slice.bytes);
        break;
    }
}

tm_status_t tm_message_encode(const tm_message_t *m, uint8_t header[TM_HEADER_BYTES],
                              uint8_t map[TM_MAP_MAX_BYTES], size_t *map_bytes, tm_error_t *err) {
    const tm_command_rule_t *command = tm_schema_command(m->command);
    if (!command) {
        return tm_error_set(err, TM_E_ARGUMENT, "0x%02x is no command", (unsigned)m->command);
    }
    if (!id_valid(command->id, m->id)) {
        return tm_error_set(err, TM_E_ARGUMENT, "%s: id %llx/%llu: %s", command->name,
                            (unsigned long long)m->id.origin, (unsigned long long)m->id.serial,
                            id_text(command->id));
    }
    tm_status_t status = required_check(command, m->set, TM_E_ARGUMENT, err);
    if (status != TM_OK) {
        return status;
    }
    tm_message_t copy = *m;
    char text[TM_TEXT_MAX + 4]; /* more than the limit, so that mending sees where to cut */
    if (copy.set & TM_FIELD(TEXT)) {
        size_t bytes = copy.text.bytes < sizeof text ? copy.text.bytes : sizeof text;
        if (bytes > 0) {
            memcpy(text, copy.text.data, bytes);
        }
        copy.text = (tm_slice_t){text, (uint32_t)tm_text_mend(text, bytes, TM_TEXT_MAX)};
    }

    tm_pack_t pack;
    msgpack_packer packer;
    tm_pack_start(&pack, &packer, map, TM_MAP_MAX_BYTES);
    msgpack_pack_map(&packer, (size_t)__builtin_popcountll(copy.set));
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        if (!(copy.set >> i & 1)) {
            continue;
        }
        const tm_field_rule_t *rule = tm_schema_field(i);
        if (!((command->required | command->optional) >> i & 1)) {
            return tm_error_set(err, TM_E_ARGUMENT, "%s: has no field %s", command->name,
                                rule->name);
        }
        status = value_check(command, rule, &copy, TM_E_ARGUMENT, err);
        if (status != TM_OK) {
            return status;
        }
        msgpack_pack_str_with_body(&packer, rule->name, strlen(rule->name));
        value_pack(&pack, &packer, &copy, rule);
    }
    if (pack.full) {
        return tm_error_set(err, TM_E_ARGUMENT, "%s: the fields take more than %d bytes",
                            command->name, TM_MAP_MAX_BYTES);
    }
    *map_bytes = pack.size;

    memset(header, 0, TM_HEADER_BYTES);
    memcpy(header + AT_MAGIC, magic, sizeof magic);
    header[AT_VERSION] = TM_PROTOCOL_VERSION;
    header[AT_COMMAND] = (uint8_t)m->command;
    write_le64(header + AT_ORIGIN, m->id.origin);
    write_le64(header + AT_SERIAL, m->id.serial);
    return TM_OK;
}
