// SPDX-License-Identifier: Apache-2.0
#include "nn/model_weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    size_t start; /* of the values, in floats */
    bool used;
    bool learned;
} entry_t;

struct tm_weights {
    const tm_safetensors_t *file;
    entry_t *entry; /* one per tensor of the file */
    float *values;
};

/* Elements rounded up so that the next tensor is aligned too. */
static size_t padded(uint64_t elements) {
    const size_t unit = TM_WEIGHTS_ALIGNMENT / sizeof(float);
    return (elements + unit - 1) / unit * unit;
}

static tm_status_t convert(const tm_tensor_t *tensor, float *out, tm_error_t *err) {
    size_t bytes = tensor->elements * tm_type_bytes(tensor->type);
    if (tensor->type == TM_F32) {
        memcpy(out, tensor->data, bytes);
    } else {
        /* the data of a file may start at any byte, a column may not */
        void *aligned = malloc(bytes);
        if (aligned == NULL) {
            return tm_error_set(err, TM_E_NO_MEMORY, "out of memory for tensor %s", tensor->name);
        }
        memcpy(aligned, tensor->data, bytes);
        tm_column_t column = {.type = tensor->type, .n = tensor->elements, .data = aligned};
        tm_column_to_f32(&column, out);
        free(aligned);
    }
    for (uint64_t i = 0; i < tensor->elements; i++) {
        if (!isfinite(out[i])) {
            return tm_error_set(err, TM_E_MODEL_FILE,
                                "tensor %s: element %" PRIu64 " is not finite as float32",
                                tensor->name, i);
        }
    }
    return TM_OK;
}

tm_status_t tm_weights_new(const tm_safetensors_t *file, tm_weights_t **out, tm_error_t *err) {
    *out = NULL;
    uint32_t count = tm_safetensors_count(file);
    tm_weights_t *weights = calloc(1, sizeof *weights);
    if (weights == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    }
    weights->file = file;
    weights->entry = calloc((size_t)count + 1, sizeof *weights->entry);
    size_t floats = 0; /* cannot overflow: the elements are bytes of a file in memory */
    for (uint32_t i = 0; weights->entry != NULL && i < count; i++) {
        weights->entry[i].start = floats;
        floats += padded(tm_safetensors_at(file, i)->elements);
    }
    if (weights->entry != NULL) {
        weights->values =
            aligned_alloc(TM_WEIGHTS_ALIGNMENT, padded(floats + 1) * sizeof *weights->values);
    }
    tm_status_t status = TM_OK;
    if (weights->values == NULL) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "out of memory for %zu weights", floats);
    }
    for (uint32_t i = 0; status == TM_OK && i < count; i++) {
        status =
            convert(tm_safetensors_at(file, i), weights->values + weights->entry[i].start, err);
    }
    if (status == TM_OK) {
        *out = weights;
        weights = NULL;
    }
    tm_weights_destroy(&weights);
    return status;
}

void tm_weights_destroy(tm_weights_t **p) {
    if (*p != NULL) {
        free((*p)->entry);
        free((*p)->values);
        free(*p);
        *p = NULL;
    }
}

bool tm_weights_use(tm_weights_t *weights, const char *name, bool learned, tm_weight_t *out) {
    for (uint32_t i = 0; i < tm_safetensors_count(weights->file); i++) {
        const tm_tensor_t *tensor = tm_safetensors_at(weights->file, i);
        if (strcmp(tensor->name, name) == 0) {
            weights->entry[i].used = true;
            weights->entry[i].learned = weights->entry[i].learned || learned;
            out->tensor = tensor;
            out->values = weights->values + weights->entry[i].start;
            return true;
        }
    }
    return false;
}

const tm_tensor_t *tm_weights_unused(const tm_weights_t *weights) {
    for (uint32_t i = 0; i < tm_safetensors_count(weights->file); i++) {
        if (!weights->entry[i].used) {
            return tm_safetensors_at(weights->file, i);
        }
    }
    return NULL;
}

uint64_t tm_weights_parameters(const tm_weights_t *weights) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < tm_safetensors_count(weights->file); i++) {
        if (weights->entry[i].learned) {
            sum += tm_safetensors_at(weights->file, i)->elements;
        }
    }
    return sum;
}

void tm_weights_forget_file(tm_weights_t *weights) {
    weights->file = NULL;
    free(weights->entry);
    weights->entry = NULL;
}
