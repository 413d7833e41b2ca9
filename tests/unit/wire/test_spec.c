// SPDX-License-Identifier: Apache-2.0
/*
 * wire/SPEC.md against the code: its tables and constants, and every test vector in it. The vectors
 * were not made by the code under test.
 */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/f16.h"
#include "wire/schema.h"

enum { FILE_BYTES_MAX = 1 << 20, CELLS_MAX = 8, CELL_BYTES = 512, FRAME_BYTES_MAX = 8192 };

static char *file_read(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) {
        fail_msg("cannot open %s: run the test in the root of the source tree", path);
    }
    char *text = malloc(FILE_BYTES_MAX);
    assert_non_null(text);
    size_t bytes = fread(text, 1, FILE_BYTES_MAX, file);
    assert_true(bytes < FILE_BYTES_MAX);
    text[bytes] = '\0';
    fclose(file);
    return text;
}

static int spec_open(void **state) {
    *state = file_read("wire/SPEC.md");
    return 0;
}

static int spec_close(void **state) {
    free(*state);
    return 0;
}

/* ---- tables ---- */

typedef struct {
    int count;
    char cell[CELLS_MAX][CELL_BYTES];
} row_t;

/* The text after a heading, which must be there. */
static const char *section(const char *spec, const char *heading) {
    char line[80];
    snprintf(line, sizeof line, "\n%s\n", heading);
    const char *at = strstr(spec, line);
    if (!at) {
        fail_msg("no section '%s'", heading);
    }
    return at + strlen(line);
}

/* The next line of the table at *at, without its head; false behind the last. Cells lose the spaces
 * around them and all backticks. */
static bool row_next(const char **at, row_t *row) {
    const char *p = *at;
    while (*p && *p != '|') { /* on to the table, but not beyond the section */
        if (*p == '#') {
            return false;
        }
        p = strchr(p, '\n');
        if (!p) {
            return false;
        }
        p++;
    }
    memset(row, 0, sizeof *row);
    for (p++; *p && *p != '\n'; p++) {
        assert_true(row->count < CELLS_MAX);
        char *cell = row->cell[row->count++];
        size_t length = 0;
        for (; *p && *p != '|'; p++) {
            if (*p != '`' && (*p != ' ' || length > 0)) {
                assert_true(length < CELL_BYTES - 1);
                cell[length++] = *p;
            }
        }
        while (length > 0 && cell[length - 1] == ' ') {
            cell[--length] = '\0';
        }
    }
    *at = *p ? p + 1 : p;
    return true;
}

/* The same, for a table whose head is skipped: two lines. */
static const char *table(const char *spec, const char *heading, row_t *row) {
    const char *at = section(spec, heading);
    assert_true(row_next(&at, row) && row_next(&at, row));
    assert_memory_equal(row->cell[0], "---", 3);
    return at;
}

/* Whether the table has ended at `at` (row_next would go on to the next one). */
static bool in_table(const char *at) {
    return *at == '|';
}

static void test_field_table(void **state) {
    static const char *const kinds[] = {"uint", "str", "str", "model", "bin", "array"};
    row_t row;
    const char *at = table(*state, "## Fields", &row);
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        const tm_field_rule_t *rule = tm_schema_field(i);
        char range[64];
        assert_true(in_table(at) && row_next(&at, &row));
        assert_int_equal(row.count, 4);
        assert_string_equal(row.cell[0], rule->name);
        assert_string_equal(row.cell[1], kinds[rule->kind]);
        snprintf(range, sizeof range, "%llu…%llu", (unsigned long long)rule->min,
                 (unsigned long long)rule->max);
        assert_string_equal(row.cell[2], range);
    }
    assert_false(in_table(at));
}

/* The index of the field of that name. */
static unsigned field_index(const char *name) {
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        if (strcmp(tm_schema_field(i)->name, name) == 0) {
            return i;
        }
    }
    fail_msg("no field %s", name);
    return 0;
}

static void test_command_table(void **state) {
    static const char *const ids[] = {"zero", "set", "either"};
    row_t row;
    const char *at = table(*state, "## Commands", &row);
    const tm_command_rule_t *rule;
    for (unsigned i = 0; (rule = tm_schema_command_at(i)) != NULL; i++) {
        char number[8], heading[40];
        assert_true(in_table(at) && row_next(&at, &row));
        assert_int_equal(row.count, 6);
        snprintf(number, sizeof number, "0x%02x", (unsigned)rule->command);
        assert_string_equal(row.cell[0], number);
        assert_string_equal(row.cell[1], rule->name);
        assert_string_equal(row.cell[3], ids[rule->id]);
        assert_string_equal(row.cell[4], rule->payload ? "yes" : "no");
        uint64_t required = 0, optional = 0;
        char *rest = row.cell[5], *word;
        while ((word = strtok_r(rest, " ", &rest)) != NULL) {
            size_t length = strlen(word);
            if (strncmp(word, "**", 2) == 0) {
                assert_true(length > 4);
                word[length - 2] = '\0';
                required |= 1ull << field_index(word + 2);
            } else {
                optional |= 1ull << field_index(word);
            }
        }
        if (required != rule->required || optional != rule->optional) {
            fail_msg("%s: the fields differ", rule->name);
        }
        /* each has its own section, alone or with its partner */
        snprintf(heading, sizeof heading, "\n### %s", rule->name);
        if (!strstr(*state, heading) && rule->command != TM_CMD_PONG &&
            rule->command != TM_CMD_REPORT) {
            fail_msg("no section for %s", rule->name);
        }
    }
    assert_false(in_table(at));
}

static void test_error_table(void **state) {
    row_t row;
    const char *at = table(*state, "## Error codes", &row);
    int next = 1;
    while (in_table(at) && row_next(&at, &row)) {
        int code = atoi(row.cell[0]);
        for (; next < code; next++) { /* none is left out */
            assert_string_equal(tm_status_name((tm_status_t)next), "unknown");
        }
        next = code + 1;
        assert_string_equal(row.cell[1], tm_status_name((tm_status_t)code));
        assert_string_equal(row.cell[2], tm_status_retryable((tm_status_t)code) ? "yes" : "no");
    }
    for (; next <= TM_CODE_MAX; next++) {
        assert_string_equal(tm_status_name((tm_status_t)next), "unknown");
    }
}

static const char *const type_names[] = {"u8",  "i8",  "u16", "i16", "f16", "u32",
                                         "i32", "f32", "u64", "i64", "f64"};

static void test_type_table(void **state) {
    row_t row;
    const char *at = table(*state, "## Payload", &row);
    for (int type = TM_U8; type <= TM_F64; type++) {
        assert_true(in_table(at) && row_next(&at, &row));
        assert_int_equal(atoi(row.cell[0]), type);
        assert_string_equal(row.cell[1], type_names[type - TM_U8]);
        assert_int_equal(atoi(row.cell[2]), tm_type_bytes((tm_type_t)type));
    }
    assert_false(in_table(at));
}

/* The numbers of limits.h. The test says when one is missing here. */
static const struct {
    const char *name;
    unsigned long long value;
} limits[] = {
#define L(name) \
    { #name, (unsigned long long)(name) }
    L(TM_PROTOCOL_VERSION),   L(TM_HEADER_BYTES),       L(TM_MAP_MAX_BYTES),
    L(TM_MAP_MAX_DEPTH),      L(TM_PAYLOAD_MAX_BYTES),  L(TM_PAYLOAD_ALIGN),
    L(TM_FRAMES_MAX),         L(TM_NAME_MAX),           L(TM_SOFTWARE_MAX),
    L(TM_CODE_MAX),           L(TM_HASH_BYTES),         L(TM_TEXT_MAX),
    L(TM_COLUMN_NAME_MAX),    L(TM_STAGE_NAME_MAX),     L(TM_MODEL_REF_MAX),
    L(TM_COLUMNS_FIELD_MAX),  L(TM_TIMES_FIELD_MAX),    L(TM_MODELS_FIELD_MAX),
    L(TM_COLUMNS_MAX),        L(TM_STAGES_MAX),         L(TM_MODELS_MAX),
    L(TM_SLOTS_MAX),          L(TM_CREDIT_MAX),         L(TM_WINDOW_MAX),
    L(TM_COUNT_MAX),          L(TM_POINTS_MAX),         L(TM_POSITION_MAX_MM),
    L(TM_HEARTBEAT_MIN_MS),   L(TM_HEARTBEAT_MAX_MS),   L(TM_LIVENESS_MAX),
    L(TM_HEARTBEAT_MS),       L(TM_LIVENESS),           L(TM_HELLO_TIMEOUT_MS),
    L(TM_RECONNECT_MIN_MS),   L(TM_RECONNECT_MAX_MS),   L(TM_TTL_DEFAULT_MS),
    L(TM_TTL_MAX_MS),         L(TM_ATTEMPT_TIMEOUT_MS), L(TM_DRAIN_TIMEOUT_MS),
    L(TM_RETRY_AFTER_MS),     L(TM_ATTEMPTS_MAX),       L(TM_WORKER_FAILURES_MAX),
    L(TM_WORKER_PAUSE_MS),    L(TM_PRIORITIES),         L(TM_PRIORITY_DEFAULT),
    L(TM_QUEUE_MAX_REQUESTS), L(TM_QUEUE_MAX_BYTES),    L(TM_CLIENT_WINDOW),
    L(TM_CLIENTS_MAX),        L(TM_WORKERS_MAX),
#undef L
};
enum { LIMITS = sizeof limits / sizeof limits[0] };

static int limit_find(const char *name, size_t bytes) {
    for (int i = 0; i < LIMITS; i++) {
        if (strlen(limits[i].name) == bytes && memcmp(limits[i].name, name, bytes) == 0) {
            return i;
        }
    }
    return -1;
}

static void test_constants(void **state) {
    row_t row;
    bool printed[LIMITS] = {false};
    const char *at = table(*state, "## Limits and timing", &row);
    while (in_table(at) && row_next(&at, &row)) {
        int i = limit_find(row.cell[0], strlen(row.cell[0]));
        if (i < 0) {
            fail_msg("%s is not in limits.h", row.cell[0]);
        }
        assert_false(printed[i]);
        printed[i] = true;
        if (strtoull(row.cell[1], NULL, 10) != limits[i].value) {
            fail_msg("%s is %llu, the specification says %s", limits[i].name, limits[i].value,
                     row.cell[1]);
        }
    }
    for (int i = 0; i < LIMITS; i++) {
        if (!printed[i]) {
            fail_msg("%s is not in the specification", limits[i].name);
        }
    }
    /* and limits.h has no others; texts (endpoints) are named in the prose */
    char *header = file_read("wire/limits.h");
    int found = 0;
    for (const char *p = header; (p = strstr(p, "#define TM_")) != NULL;) {
        p += strlen("#define ");
        size_t bytes = strcspn(p, " \n");
        const char *value = p + bytes + strspn(p + bytes, " \\\n");
        if (strncmp(p, "TM_WIRE_LIMITS_H", bytes) == 0) {
            continue;
        }
        if (*value == '"') {
            char endpoint[80];
            snprintf(endpoint, sizeof endpoint, "%.*s", (int)strcspn(value + 1, "\""), value + 1);
            if (strncmp(endpoint, "tcp:", 4) == 0 && !strstr(*state, endpoint)) {
                fail_msg("%s is not in the specification", endpoint);
            }
            continue;
        }
        if (limit_find(p, bytes) < 0) {
            fail_msg("%.*s of limits.h is not in this test", (int)bytes, p);
        }
        found++;
    }
    free(header);
    assert_int_equal(found, LIMITS);
}

/* Constants that the prose names exist. */
static void test_prose_names_constants_that_exist(void **state) {
    for (const char *p = *state; (p = strstr(p, "`TM_")) != NULL;) {
        p++;
        size_t bytes = strcspn(p, "`");
        if (limit_find(p, bytes) < 0) {
            fail_msg("%.*s is not in limits.h", (int)bytes, p);
        }
        p += bytes;
    }
}

/* ---- vectors ---- */

typedef struct {
    size_t count;
    tm_frame_t frame[4];
    _Alignas(8) uint8_t data[4][FRAME_BYTES_MAX];
} frames_t;

static size_t unhex(const char *hex, uint8_t *out, size_t room) {
    size_t bytes = strlen(hex) / 2;
    assert_int_equal(strlen(hex) % 2, 0);
    assert_true(bytes <= room);
    for (size_t i = 0; i < bytes; i++) {
        unsigned value;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &value), 1);
        out[i] = (uint8_t)value;
    }
    return bytes;
}

static const char *text_of(const json_t *vector, const char *key) {
    const char *text = json_string_value(json_object_get(vector, key));
    if (!text) {
        fail_msg("a vector has no %s", key);
    }
    return text;
}

static void frames_of(const json_t *vector, frames_t *frames) {
    const json_t *list = json_object_get(vector, "frames");
    frames->count = json_array_size(list);
    assert_in_range(frames->count, 1, 4);
    for (size_t i = 0; i < frames->count; i++) {
        const char *hex = json_string_value(json_array_get(list, i));
        assert_non_null(hex);
        frames->frame[i].data = frames->data[i];
        frames->frame[i].bytes = unhex(hex, frames->data[i], FRAME_BYTES_MAX);
    }
}

/* What a program that uses everything in the message would find. */
static tm_status_t decode_all(const frames_t *frames, tm_message_t *m, tm_columns_t *columns,
                              tm_timings_t *timings, tm_model_id_t *models, uint32_t *n_models,
                              tm_error_t *err) {
    tm_status_t status = tm_message_decode_frames(frames->frame, frames->count, m, err);
    if (status == TM_OK && m->set & TM_FIELD(COLUMNS)) {
        status = tm_payload_decode(m->columns, frames->frame[2].data, frames->frame[2].bytes,
                                   columns, err);
    }
    if (status == TM_OK && m->set & TM_FIELD(TIMES)) {
        status = tm_times_decode(m->times, timings, err);
    }
    if (status == TM_OK && m->set & TM_FIELD(MODELS)) {
        status = tm_models_decode(m->models, models, n_models, err);
    }
    return status;
}

/* One element, written as the type says. */
static void element_write(tm_type_t type, const json_t *value, uint8_t *out) {
    double real = json_number_value(value);
    json_int_t whole = json_integer_value(value);
    float single = (float)real;
    uint16_t half = tm_f32_to_f16(single);
    assert_true(json_is_number(value));
    const void *from = &whole; /* little-endian: the low bytes of any integer */
    if (type == TM_F16) {
        from = &half;
    } else if (type == TM_F32) {
        from = &single;
    } else if (type == TM_F64) {
        from = &real;
    } else {
        assert_true(json_is_integer(value));
    }
    memcpy(out, from, tm_type_bytes(type));
}

/* The message as the vector's members describe it, with what it borrows. */
typedef struct {
    tm_message_t m;
    tm_columns_t columns;
    size_t payload_bytes, used;
    _Alignas(8) uint8_t elements[FRAME_BYTES_MAX];
    _Alignas(8) uint8_t payload[FRAME_BYTES_MAX];
    uint8_t hash[TM_HASH_BYTES];
    uint8_t columns_field[TM_COLUMNS_FIELD_MAX];
    uint8_t times_field[TM_TIMES_FIELD_MAX];
    uint8_t models_field[TM_MODELS_FIELD_MAX];
} described_t;

static void describe_columns(const json_t *list, const json_t *values, described_t *d) {
    tm_error_t err;
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry) {
        const char *name = json_string_value(json_array_get(entry, 0));
        tm_type_t type = (tm_type_t)json_integer_value(json_array_get(entry, 1));
        size_t n = (size_t)json_integer_value(json_array_get(entry, 2));
        const json_t *elements = json_object_get(values, name);
        uint8_t *data = d->elements + d->used;
        assert_int_equal(json_array_size(elements), n);
        for (size_t k = 0; k < n; k++) {
            element_write(type, json_array_get(elements, k), data + k * tm_type_bytes(type));
        }
        d->used += (n + 1) * sizeof(uint64_t);
        assert_true(d->used <= sizeof d->elements);
        assert_int_equal(tm_columns_add(&d->columns, name, type, n, data, &err), TM_OK);
    }
    d->payload_bytes = tm_payload_bytes(&d->columns);
    assert_true(d->payload_bytes <= sizeof d->payload);
    assert_int_equal(
        tm_payload_encode(&d->columns, d->payload, d->columns_field, &d->m.columns, &err), TM_OK);
}

static void describe_times(const json_t *list, described_t *d) {
    tm_timings_t timings = {0};
    tm_error_t err;
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry) {
        tm_timings_add(&timings, json_string_value(json_array_get(entry, 0)),
                       (uint64_t)json_integer_value(json_array_get(entry, 1)));
    }
    assert_int_equal(tm_times_encode(&timings, d->times_field, &d->m.times, &err), TM_OK);
}

static void describe_models(const json_t *list, described_t *d) {
    tm_model_id_t models[TM_MODELS_MAX];
    tm_error_t err;
    size_t i;
    const json_t *entry;
    json_array_foreach(list, i, entry) {
        assert_true(i < TM_MODELS_MAX);
        snprintf(models[i].name, sizeof models[i].name, "%s",
                 json_string_value(json_array_get(entry, 0)));
        snprintf(models[i].version, sizeof models[i].version, "%s",
                 json_string_value(json_array_get(entry, 1)));
        unhex(json_string_value(json_array_get(entry, 2)), models[i].hash, TM_HASH_BYTES);
    }
    assert_int_equal(tm_models_encode(models, (uint32_t)json_array_size(list), d->models_field,
                                      &d->m.models, &err),
                     TM_OK);
}

static void describe(const json_t *vector, described_t *d) {
    memset(d, 0, sizeof *d);
    const tm_command_rule_t *rule = NULL;
    for (unsigned i = 0; (rule = tm_schema_command_at(i)) != NULL; i++) {
        if (strcmp(rule->name, text_of(vector, "command")) == 0) {
            break;
        }
    }
    assert_non_null(rule);
    d->m.command = rule->command;
    d->m.id.origin = strtoull(text_of(vector, "origin"), NULL, 16);
    d->m.id.serial = strtoull(text_of(vector, "serial"), NULL, 16);

    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(vector, "fields"), key, value) {
        unsigned index = field_index(key);
        const tm_field_rule_t *field = tm_schema_field(index);
        void *to = (char *)&d->m + field->offset;
        d->m.set |= 1ull << index;
        if (field->kind == TM_KIND_UINT) {
            assert_true(json_is_integer(value));
            uint64_t number = (uint64_t)json_integer_value(value);
            memcpy(to, &number, sizeof number);
        } else if (field->kind == TM_KIND_BIN) {
            d->m.hash.bytes = (uint32_t)unhex(json_string_value(value), d->hash, sizeof d->hash);
            d->m.hash.data = (const char *)d->hash;
        } else if (field->kind == TM_KIND_RAW) {
            if (index == TM_FIELD_INDEX_COLUMNS) {
                describe_columns(value, json_object_get(vector, "values"), d);
            } else if (index == TM_FIELD_INDEX_TIMES) {
                describe_times(value, d);
            } else {
                describe_models(value, d);
            }
        } else {
            tm_slice_t slice = {json_string_value(value), (uint32_t)json_string_length(value)};
            memcpy(to, &slice, sizeof slice);
        }
    }
}

static void assert_same_value(const tm_message_t *a, const tm_message_t *b, unsigned index) {
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

static void check_message(const json_t *vector, const frames_t *frames) {
    const char *name = text_of(vector, "name");
    static described_t d;
    tm_message_t m;
    tm_columns_t columns = {0};
    tm_timings_t timings;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
    tm_error_t err;
    describe(vector, &d);
    if (decode_all(frames, &m, &columns, &timings, models, &n_models, &err) != TM_OK) {
        fail_msg("vector %s: %s", name, err.text);
    }
    assert_int_equal(m.command, d.m.command);
    assert_true(m.id.origin == d.m.id.origin && m.id.serial == d.m.id.serial);
    if (m.set != d.m.set) {
        fail_msg("vector %s: other fields are there", name);
    }
    for (unsigned i = 0; i < TM_FIELD_COUNT; i++) {
        assert_same_value(&m, &d.m, i);
    }
    if (tm_command_has_payload(m.command)) {
        assert_int_equal(frames->count, 3);
        assert_int_equal(frames->frame[2].bytes, d.payload_bytes);
        assert_memory_equal(frames->data[2], d.payload, d.payload_bytes);
    }
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    if (tm_message_encode(&d.m, header, map, &map_bytes, &err) != TM_OK) {
        fail_msg("vector %s: %s", name, err.text);
    }
    assert_memory_equal(header, frames->data[0], sizeof header);
    bool same = map_bytes == frames->frame[1].bytes && memcmp(map, frames->data[1], map_bytes) == 0;
    bool canonical = !json_is_false(json_object_get(vector, "canonical"));
    if (same != canonical) {
        fail_msg("vector %s: the map is %s", name, same ? "canonical" : "not the same");
    }
}

static void check_refused(const json_t *vector, const frames_t *frames) {
    tm_message_t m;
    tm_columns_t columns;
    tm_timings_t timings;
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n_models;
    tm_error_t err = {0};
    tm_status_t status = decode_all(frames, &m, &columns, &timings, models, &n_models, &err);
    if (strcmp(tm_status_name(status), text_of(vector, "refuse")) != 0) {
        fail_msg("vector %s: %s (%s), not %s", text_of(vector, "name"), tm_status_name(status),
                 err.text, text_of(vector, "refuse"));
    }
    assert_true(err.text[0] != '\0');
}

static void test_vectors(void **state) {
    static const char open[] = "\n```vector\n";
    static frames_t frames;
    uint64_t seen = 0; /* bits by index of command */
    int messages = 0, refused = 0;
    for (const char *p = *state; (p = strstr(p, open)) != NULL;) {
        p += strlen(open);
        const char *end = strstr(p, "\n```");
        assert_non_null(end);
        json_error_t error;
        json_t *vector = json_loadb(p, (size_t)(end - p), JSON_REJECT_DUPLICATES, &error);
        if (!vector) {
            fail_msg("no JSON: %s in %.60s…", error.text, p);
        }
        frames_of(vector, &frames);
        if (json_object_get(vector, "refuse")) {
            check_refused(vector, &frames);
            refused++;
        } else {
            check_message(vector, &frames);
            messages++;
            for (unsigned i = 0; tm_schema_command_at(i); i++) {
                if (strcmp(tm_schema_command_at(i)->name, text_of(vector, "command")) == 0) {
                    seen |= 1ull << i;
                }
            }
        }
        json_decref(vector);
    }
    for (unsigned i = 0; tm_schema_command_at(i); i++) {
        if (!(seen >> i & 1)) {
            fail_msg("no vector of %s", tm_schema_command_at(i)->name);
        }
    }
    assert_true(messages >= 20 && refused >= 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_field_table), cmocka_unit_test(test_command_table),
        cmocka_unit_test(test_error_table), cmocka_unit_test(test_type_table),
        cmocka_unit_test(test_constants),   cmocka_unit_test(test_prose_names_constants_that_exist),
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, spec_open, spec_close);
}
