// SPDX-License-Identifier: Apache-2.0
#include "nn/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "nn/model_json.h"

#define LENGTH_BYTES 8
#define METADATA_KEY "__metadata__"

struct tm_safetensors {
    json_t *header; /* owns the names */
    json_t *metadata;
    const uint8_t *data;
    uint64_t data_bytes;
    uint32_t count;
    tm_tensor_t *tensor;
};

static uint64_t read_u64(const uint8_t *bytes) {
    uint64_t value = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) {
        value = value << 8 | bytes[i];
    }
    return value;
}

static tm_status_t check_name(const char *name, tm_error_t *err) {
    size_t length = strlen(name);
    if (length == 0 || length > TM_TENSOR_NAME_MAX) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "a tensor name of %zu bytes: 1 to %d bytes are allowed", length,
                            TM_TENSOR_NAME_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if (name[i] <= ' ' || name[i] > '~') {
            return tm_error_set(err, TM_E_MODEL_FILE,
                                "byte %zu of a tensor name is 0x%02x: only printable ASCII "
                                "without spaces is allowed",
                                i, (unsigned)(unsigned char)name[i]);
        }
    }
    return TM_OK;
}

static tm_status_t read_type(const char *name, const json_t *entry, tm_type_t *type,
                             tm_error_t *err) {
    static const struct {
        const char *name;
        tm_type_t type;
    } types[] = {{"F16", TM_F16}, {"F32", TM_F32}, {"F64", TM_F64}};
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (text == NULL) {
        return tm_error_set(err, TM_E_MODEL_FILE, "tensor %s: dtype is missing or no string", name);
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcmp(text, types[i].name) == 0) {
            *type = types[i].type;
            return TM_OK;
        }
    }
    return tm_error_set(err, TM_E_MODEL_FILE,
                        "tensor %s: dtype %.16s is not supported; convert it to F32", name, text);
}

static tm_status_t read_shape(const char *name, const json_t *entry, tm_tensor_t *tensor,
                              tm_error_t *err) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) {
        return tm_error_set(err, TM_E_MODEL_FILE, "tensor %s: shape is missing or no list", name);
    }
    size_t rank = json_array_size(shape);
    if (rank == 0 || rank > TM_TENSOR_RANK_MAX) {
        return tm_error_set(err, TM_E_MODEL_FILE, "tensor %s: %zu dimensions; 1 to %d are allowed",
                            name, rank, TM_TENSOR_RANK_MAX);
    }
    tensor->rank = (uint32_t)rank;
    tensor->elements = 1;
    for (size_t i = 0; i < rank; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 1) {
            return tm_error_set(err, TM_E_MODEL_FILE,
                                "tensor %s: shape[%zu] is no integer of at least 1", name, i);
        }
        tensor->shape[i] = (uint64_t)json_integer_value(size);
        if (__builtin_mul_overflow(tensor->elements, tensor->shape[i], &tensor->elements)) {
            return tm_error_set(err, TM_E_MODEL_FILE, "tensor %s: the shape's product overflows",
                                name);
        }
    }
    return TM_OK;
}

static tm_status_t read_place(const tm_safetensors_t *file, const char *name, const json_t *entry,
                              tm_tensor_t *tensor, tm_error_t *err) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0);
    const json_t *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "tensor %s: data_offsets is missing or no list of two integers", name);
    }
    json_int_t begin = json_integer_value(first);
    json_int_t end = json_integer_value(last);
    if (begin < 0 || end < begin || (uint64_t)end > file->data_bytes) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "tensor %s: data_offsets [%" PRId64 ", %" PRId64
                            "] are not inside the %" PRIu64 " bytes of data",
                            name, (int64_t)begin, (int64_t)end, file->data_bytes);
    }
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(tensor->elements, (uint64_t)tm_type_bytes(tensor->type), &bytes) ||
        bytes != (uint64_t)(end - begin)) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "tensor %s: its data has %" PRId64 " bytes, its shape asks for %" PRIu64
                            " elements of %" PRIu32 " bytes",
                            name, (int64_t)(end - begin), tensor->elements,
                            tm_type_bytes(tensor->type));
    }
    tensor->data = file->data + begin;
    return TM_OK;
}

static tm_status_t read_tensor(const tm_safetensors_t *file, const char *name, const json_t *entry,
                               tm_tensor_t *tensor, tm_error_t *err) {
    tm_status_t status = check_name(name, err);
    if (status != TM_OK) {
        return status;
    }
    tensor->name = name;
    if (!json_is_object(entry) || json_object_size(entry) != 3) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "tensor %s: its header entry must have the keys dtype, shape and "
                            "data_offsets and no other",
                            name);
    }
    status = read_type(name, entry, &tensor->type, err);
    if (status == TM_OK) {
        status = read_shape(name, entry, tensor, err);
    }
    if (status == TM_OK) {
        status = read_place(file, name, entry, tensor, err);
    }
    return status;
}

static int compare_place(const void *a, const void *b) {
    const tm_tensor_t *left = a;
    const tm_tensor_t *right = b;
    return (left->data > right->data) - (left->data < right->data);
}

/* Every byte of the data belongs to exactly one tensor. */
static tm_status_t check_layout(const tm_safetensors_t *file, tm_error_t *err) {
    uint64_t end = 0;
    const char *before = "the start of the data";
    for (uint32_t i = 0; i < file->count; i++) {
        const tm_tensor_t *tensor = &file->tensor[i];
        uint64_t begin = (uint64_t)(tensor->data - file->data);
        if (begin < end) {
            return tm_error_set(err, TM_E_MODEL_FILE,
                                "tensor %s: its data overlaps that of tensor %s", tensor->name,
                                before);
        }
        if (begin > end) {
            return tm_error_set(err, TM_E_MODEL_FILE,
                                "tensor %s: %" PRIu64 " bytes before its data belong to no tensor",
                                tensor->name, begin - end);
        }
        end = begin + tensor->elements * tm_type_bytes(tensor->type);
        before = tensor->name;
    }
    if (end != file->data_bytes) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "%" PRIu64 " bytes behind the last tensor belong to no tensor",
                            file->data_bytes - end);
    }
    return TM_OK;
}

static tm_status_t read_metadata(tm_safetensors_t *file, tm_error_t *err) {
    file->metadata = json_object_get(file->header, METADATA_KEY);
    if (file->metadata == NULL) {
        return TM_OK;
    }
    if (!json_is_object(file->metadata)) {
        return tm_error_set(err, TM_E_MODEL_FILE, METADATA_KEY " is no object");
    }
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach(file->metadata, key, value) {
        if (!json_is_string(value)) {
            return tm_error_set(err, TM_E_MODEL_FILE, METADATA_KEY ".%.32s is no string", key);
        }
    }
    return TM_OK;
}

static tm_status_t read_header(tm_safetensors_t *file, const char *text, size_t bytes,
                               tm_error_t *err) {
    if (bytes == 0 || text[0] != '{') {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "the header does not begin with '{': no safetensors file");
    }
    tm_status_t status = tm_json_parse(text, bytes, "the header", &file->header, err);
    if (status == TM_OK) {
        status = read_metadata(file, err);
    }
    if (status != TM_OK) {
        return status;
    }
    size_t count = json_object_size(file->header) - (file->metadata != NULL ? 1 : 0);
    if (count > TM_TENSORS_MAX) {
        return tm_error_set(err, TM_E_MODEL_FILE, "%zu tensors; at most %d are allowed", count,
                            TM_TENSORS_MAX);
    }
    file->tensor = calloc(count + 1, sizeof *file->tensor);
    if (file->tensor == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory for %zu tensors", count);
    }
    const char *name = NULL;
    json_t *entry = NULL;
    json_object_foreach(file->header, name, entry) {
        if (strcmp(name, METADATA_KEY) == 0) {
            continue;
        }
        status = read_tensor(file, name, entry, &file->tensor[file->count], err);
        if (status != TM_OK) {
            return status;
        }
        file->count++;
    }
    qsort(file->tensor, file->count, sizeof *file->tensor, compare_place);
    return check_layout(file, err);
}

tm_status_t tm_safetensors_parse(const void *data, size_t bytes, tm_safetensors_t **out,
                                 tm_error_t *err) {
    *out = NULL;
    const uint8_t *start = data;
    if (bytes < LENGTH_BYTES) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "only %zu bytes: too short for a safetensors file", bytes);
    }
    uint64_t header_bytes = read_u64(start);
    if (header_bytes > TM_SAFETENSORS_HEADER_MAX) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "header length %" PRIu64 ": at most %u bytes are allowed; is this a "
                            "safetensors file?",
                            header_bytes, TM_SAFETENSORS_HEADER_MAX);
    }
    if (header_bytes > bytes - LENGTH_BYTES) {
        return tm_error_set(err, TM_E_MODEL_FILE,
                            "header length %" PRIu64
                            ", but only %zu bytes follow: the file was cut off",
                            header_bytes, bytes - LENGTH_BYTES);
    }
    tm_safetensors_t *file = calloc(1, sizeof *file);
    if (file == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    }
    file->data = start + LENGTH_BYTES + header_bytes;
    file->data_bytes = bytes - LENGTH_BYTES - header_bytes;
    tm_status_t status =
        read_header(file, (const char *)start + LENGTH_BYTES, (size_t)header_bytes, err);
    if (status == TM_OK) {
        *out = file;
        file = NULL;
    }
    tm_safetensors_destroy(&file);
    return status;
}

void tm_safetensors_destroy(tm_safetensors_t **p) {
    if (*p != NULL) {
        json_decref((*p)->header);
        free((*p)->tensor);
        free(*p);
        *p = NULL;
    }
}

uint32_t tm_safetensors_count(const tm_safetensors_t *file) {
    return file->count;
}

const tm_tensor_t *tm_safetensors_at(const tm_safetensors_t *file, uint32_t i) {
    return &file->tensor[i];
}

size_t tm_safetensors_metadata_count(const tm_safetensors_t *file) {
    return json_object_size(file->metadata);
}

const char *tm_safetensors_metadata(const tm_safetensors_t *file, const char *key) {
    return json_string_value(json_object_get(file->metadata, key));
}
