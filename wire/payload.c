// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "wire/cursor.h"
#include "wire/message.h"
#include "wire/pack.h"
#include "wire/schema.h"
#include "wire/text.h"

static size_t align_up(size_t bytes) {
    return (bytes + TM_PAYLOAD_ALIGN - 1) / TM_PAYLOAD_ALIGN * TM_PAYLOAD_ALIGN;
}

/* ---- columns and payload ---- */

size_t tm_payload_bytes(const tm_columns_t *columns) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < columns->count; i++) {
        const tm_column_t *column = &columns->column[i];
        bytes += align_up((size_t)column->n * tm_type_bytes(column->type));
    }
    return bytes;
}

tm_status_t tm_payload_encode(const tm_columns_t *columns, void *out, uint8_t *columns_field,
                              tm_slice_t *field, tm_error_t *err) {
    tm_pack_t pack;
    msgpack_packer packer;
    uint8_t *at = out;
    size_t left = TM_PAYLOAD_MAX_BYTES;
    if (columns->count > TM_COLUMNS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "columns: %u of them, at most %d", columns->count,
                            TM_COLUMNS_MAX);
    }
    tm_pack_start(&pack, &packer, columns_field, TM_COLUMNS_FIELD_MAX);
    msgpack_pack_array(&packer, columns->count);
    for (uint32_t i = 0; i < columns->count; i++) {
        const tm_column_t *column = &columns->column[i];
        uint32_t size = tm_type_bytes(column->type);
        if (size == 0 || column->n > left / size) {
            return tm_error_set(err, size == 0 ? TM_E_ARGUMENT : TM_E_TOO_LARGE,
                                size == 0 ? "column %s: unknown element type"
                                          : "column %s: the payload exceeds 256 MiB with it",
                                column->name);
        }
        size_t bytes = (size_t)column->n * size, padded = align_up(bytes);
        msgpack_pack_array(&packer, 3);
        msgpack_pack_str_with_body(&packer, column->name, strlen(column->name));
        msgpack_pack_uint64(&packer, (uint64_t)column->type);
        msgpack_pack_uint64(&packer, column->n);
        if (bytes > 0) {
            memcpy(at, column->data, bytes);
            memset(at + bytes, 0, padded - bytes);
            at += padded;
        }
        left -= padded;
    }
    if (pack.full) {
        return tm_error_set(err, TM_E_ARGUMENT, "columns: the names take too much room");
    }
    *field = (tm_slice_t){(const char *)columns_field, (uint32_t)pack.size};
    return TM_OK;
}

/* The head of a raw field: an array of at most `max` entries. */
static tm_status_t raw_open(tm_cursor_t *cursor, const char *what, uint32_t max, uint32_t *count,
                            tm_error_t *err) {
    if (!tm_cursor_get_array(cursor, count)) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: not an array", what);
    }
    if (*count > max) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: %u entries, at most %u are taken", what,
                            *count, max);
    }
    return TM_OK;
}

static tm_status_t raw_close(const tm_cursor_t *cursor, const char *what, tm_error_t *err) {
    if (!tm_cursor_at_end(cursor)) {
        return tm_error_set(err, TM_E_MALFORMED, "%s: bytes after the array", what);
    }
    return TM_OK;
}

/* The head of an entry: an array of exactly `size` values. */
static bool entry_open(tm_cursor_t *cursor, uint32_t size) {
    uint32_t count;
    return tm_cursor_get_array(cursor, &count) && count == size;
}

tm_status_t tm_payload_decode(tm_slice_t field, const void *payload, size_t payload_bytes,
                              tm_columns_t *columns, tm_error_t *err) {
    static const uint8_t nothing[TM_PAYLOAD_ALIGN];
    const uint8_t *at = payload_bytes > 0 ? payload : nothing;
    size_t left = payload_bytes;
    columns->count = 0;
    if ((uintptr_t)at % TM_PAYLOAD_ALIGN != 0 && payload_bytes > 0) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "payload: not aligned to %d bytes; use tm_payload_aligned",
                            TM_PAYLOAD_ALIGN);
    }
    tm_cursor_t cursor = tm_cursor(field.data, field.bytes);
    uint32_t count;
    tm_status_t status = raw_open(&cursor, "columns", TM_COLUMNS_MAX, &count, err);
    for (uint32_t i = 0; status == TM_OK && i < count; i++) {
        char name[TM_COLUMN_NAME_MAX + 1];
        const char *text;
        uint32_t bytes;
        uint64_t type, n;
        if (!entry_open(&cursor, 3) || !tm_cursor_get_str(&cursor, &text, &bytes) ||
            !tm_cursor_get_uint(&cursor, &type) || !tm_cursor_get_uint(&cursor, &n)) {
            status =
                tm_error_set(err, TM_E_MALFORMED, "columns: entry %u is not [name, type, n]", i);
            break;
        }
        if (bytes > TM_COLUMN_NAME_MAX || memchr(text, '\0', bytes)) {
            status = tm_error_set(err, TM_E_MALFORMED, "columns: entry %u: bad name", i);
            break;
        }
        memcpy(name, text, bytes);
        name[bytes] = '\0';
        uint32_t size = type <= TM_F64 ? tm_type_bytes((tm_type_t)type) : 0;
        if (size == 0) {
            status = tm_error_set(err, TM_E_MALFORMED, "columns: entry %u: %llu is no type", i,
                                  (unsigned long long)type);
            break;
        }
        /* compared by division, because n * size may overflow */
        if (n > left / size || align_up((size_t)n * size) > left) {
            status = tm_error_set(err, TM_E_MALFORMED,
                                  "payload: entry %u claims %llu elements of %u bytes, "
                                  "%zu bytes are left",
                                  i, (unsigned long long)n, size, left);
            break;
        }
        size_t used = (size_t)n * size, padded = align_up(used);
        for (size_t k = used; k < padded; k++) {
            if (at[k] != 0 && status == TM_OK) {
                status = tm_error_set(err, TM_E_MALFORMED,
                                      "payload: the padding after entry %u is not zero", i);
            }
        }
        if (status == TM_OK) {
            status = tm_columns_add(columns, name, (tm_type_t)type, n, at, err);
            if (status != TM_OK) { /* a bad name or one that is there twice: the peer's doing */
                status = TM_E_MALFORMED;
                if (err) {
                    err->code = status;
                }
            }
        }
        at += padded;
        left -= padded;
    }
    if (status == TM_OK) {
        status = raw_close(&cursor, "columns", err);
    }
    if (status == TM_OK && left != 0) {
        status = tm_error_set(err, TM_E_MALFORMED,
                              "payload: %zu bytes more than the columns account for", left);
    }
    if (status != TM_OK) {
        columns->count = 0;
    }
    return status;
}

const void *tm_payload_aligned(const void *payload, size_t payload_bytes, void **copy,
                               tm_error_t *err) {
    *copy = NULL;
    if ((uintptr_t)payload % TM_PAYLOAD_ALIGN == 0 && payload) {
        return payload;
    }
    *copy = malloc(payload_bytes > 0 ? payload_bytes : 1);
    if (!*copy) {
        tm_error_set(err, TM_E_NO_MEMORY, "payload: no memory for %zu bytes", payload_bytes);
        return NULL;
    }
    if (payload_bytes > 0) {
        memcpy(*copy, payload, payload_bytes);
    }
    return *copy;
}

/* ---- times ---- */

tm_status_t tm_times_encode(const tm_timings_t *timings, uint8_t *out, tm_slice_t *field,
                            tm_error_t *err) {
    tm_pack_t pack;
    msgpack_packer packer;
    if (timings->count > TM_STAGES_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "times: %u stages, at most %d", timings->count,
                            TM_STAGES_MAX);
    }
    tm_pack_start(&pack, &packer, out, TM_TIMES_FIELD_MAX);
    msgpack_pack_array(&packer, timings->count);
    for (uint32_t i = 0; i < timings->count; i++) {
        size_t bytes = strlen(timings->stage[i].name);
        if (bytes == 0 || !tm_text_valid(timings->stage[i].name, bytes)) {
            return tm_error_set(err, TM_E_ARGUMENT, "times: stage %u has no proper name", i);
        }
        msgpack_pack_array(&packer, 2);
        msgpack_pack_str_with_body(&packer, timings->stage[i].name, bytes);
        msgpack_pack_uint32(&packer, timings->stage[i].us);
    }
    *field = (tm_slice_t){(const char *)out, (uint32_t)pack.size};
    return TM_OK;
}

tm_status_t tm_times_decode(tm_slice_t field, tm_timings_t *timings, tm_error_t *err) {
    tm_cursor_t cursor = tm_cursor(field.data, field.bytes);
    uint32_t count;
    timings->count = 0;
    tm_status_t status = raw_open(&cursor, "times", TM_STAGES_MAX, &count, err);
    for (uint32_t i = 0; status == TM_OK && i < count; i++) {
        const char *name;
        uint32_t bytes;
        uint64_t us;
        if (!entry_open(&cursor, 2) || !tm_cursor_get_str(&cursor, &name, &bytes) ||
            !tm_cursor_get_uint(&cursor, &us)) {
            status = tm_error_set(err, TM_E_MALFORMED, "times: entry %u is not [name, us]", i);
        } else if (bytes == 0 || bytes > TM_STAGE_NAME_MAX || !tm_text_valid(name, bytes) ||
                   us > UINT32_MAX) {
            status = tm_error_set(err, TM_E_MALFORMED, "times: entry %u is out of range", i);
        } else {
            memcpy(timings->stage[i].name, name, bytes);
            timings->stage[i].name[bytes] = '\0';
            timings->stage[i].us = (uint32_t)us;
            timings->count = i + 1;
        }
    }
    if (status == TM_OK) {
        status = raw_close(&cursor, "times", err);
    }
    if (status != TM_OK) {
        timings->count = 0;
    }
    return status;
}

/* ---- models ---- */

static tm_status_t model_check(const tm_model_id_t *models, uint32_t i, tm_status_t code,
                               tm_error_t *err) {
    const tm_model_id_t *model = &models[i];
    if (!tm_model_name_valid(model->name, strlen(model->name)) ||
        !tm_model_name_valid(model->version, strlen(model->version))) {
        return tm_error_set(err, code,
                            "models: entry %u: name and version must be 1 to %d of "
                            "A-Z a-z 0-9 . _ -",
                            i, TM_NAME_MAX);
    }
    for (uint32_t k = 0; k < i; k++) {
        if (strcmp(models[k].name, model->name) == 0 &&
            strcmp(models[k].version, model->version) == 0) {
            return tm_error_set(err, code, "models: %s@%s is there twice", model->name,
                                model->version);
        }
    }
    return TM_OK;
}

tm_status_t tm_models_encode(const tm_model_id_t *models, uint32_t count, uint8_t *out,
                             tm_slice_t *field, tm_error_t *err) {
    tm_pack_t pack;
    msgpack_packer packer;
    if (count > TM_MODELS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "models: %u of them, at most %d", count,
                            TM_MODELS_MAX);
    }
    tm_pack_start(&pack, &packer, out, TM_MODELS_FIELD_MAX);
    msgpack_pack_array(&packer, count);
    for (uint32_t i = 0; i < count; i++) {
        tm_status_t status = model_check(models, i, TM_E_ARGUMENT, err);
        if (status != TM_OK) {
            return status;
        }
        msgpack_pack_array(&packer, 3);
        msgpack_pack_str_with_body(&packer, models[i].name, strlen(models[i].name));
        msgpack_pack_str_with_body(&packer, models[i].version, strlen(models[i].version));
        msgpack_pack_bin_with_body(&packer, models[i].hash, TM_HASH_BYTES);
    }
    *field = (tm_slice_t){(const char *)out, (uint32_t)pack.size};
    return TM_OK;
}

tm_status_t tm_models_decode(tm_slice_t field, tm_model_id_t *models, uint32_t *count,
                             tm_error_t *err) {
    tm_cursor_t cursor = tm_cursor(field.data, field.bytes);
    uint32_t claimed;
    *count = 0;
    tm_status_t status = raw_open(&cursor, "models", TM_MODELS_MAX, &claimed, err);
    for (uint32_t i = 0; status == TM_OK && i < claimed; i++) {
        tm_slice_t name, version;
        const uint8_t *hash;
        uint32_t hash_bytes;
        if (!entry_open(&cursor, 3) || !tm_cursor_get_str(&cursor, &name.data, &name.bytes) ||
            !tm_cursor_get_str(&cursor, &version.data, &version.bytes) ||
            !tm_cursor_get_bin(&cursor, &hash, &hash_bytes) || hash_bytes != TM_HASH_BYTES ||
            name.bytes > TM_NAME_MAX || version.bytes > TM_NAME_MAX) {
            status = tm_error_set(err, TM_E_MALFORMED,
                                  "models: entry %u is not [name, version, hash]", i);
            break;
        }
        /* an embedded NUL would hide the rest of a name from model_check */
        if (!tm_model_name_valid(name.data, name.bytes) ||
            !tm_model_name_valid(version.data, version.bytes)) {
            name.bytes = version.bytes = 0;
        }
        tm_slice_copy(models[i].name, sizeof models[i].name, name);
        tm_slice_copy(models[i].version, sizeof models[i].version, version);
        memcpy(models[i].hash, hash, TM_HASH_BYTES);
        status = model_check(models, i, TM_E_MALFORMED, err);
    }
    if (status == TM_OK) {
        status = raw_close(&cursor, "models", err);
    }
    if (status == TM_OK) {
        *count = claimed;
    }
    return status;
}
