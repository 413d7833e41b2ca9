// SPDX-License-Identifier: Apache-2.0
#include "tests/support/model_writer.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/safetensors.h"
#include "wire/columns.h"

#define F16_STEP (1.0 / 64) /* random half-precision values are multiples of this */

typedef struct {
    char *name;
    tm_type_t type;
    uint32_t rank;
    uint64_t shape[TM_TENSOR_RANK_MAX];
    size_t bytes;
    void *data;
} entry_t;

struct tm_model_writer {
    uint64_t state;
    size_t n_entries;
    entry_t *entry;
    size_t n_texts;
    char **text;
};

static _Noreturn void fail(const char *what, const char *name) {
    fprintf(stderr, "model_writer: %s: %s\n", what, name);
    exit(EXIT_FAILURE);
}

static void *need(void *pointer) {
    if (pointer == NULL) {
        fail("out of memory", "");
    }
    return pointer;
}

/* SplitMix64: https://prng.di.unimi.it/splitmix64.c */
static double uniform(tm_model_writer_t *w) {
    uint64_t z = (w->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-52 - 1.0;
}

tm_model_writer_t *tm_model_writer_new(uint64_t seed) {
    tm_model_writer_t *w = need(calloc(1, sizeof *w));
    w->state = seed;
    return w;
}

void tm_model_writer_destroy(tm_model_writer_t **p) {
    if (*p == NULL) {
        return;
    }
    for (size_t i = 0; i < (*p)->n_entries; i++) {
        free((*p)->entry[i].name);
        free((*p)->entry[i].data);
    }
    for (size_t i = 0; i < (*p)->n_texts; i++) {
        free((*p)->text[i]);
    }
    free((*p)->entry);
    free((*p)->text);
    free(*p);
    *p = NULL;
}

/* Half precision of a value that needs no rounding: 0, or ±1.m · 2^e with 10 bits of m. */
static uint16_t exact_half(double value, const char *name) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value) || isinf(value)) {
        return (uint16_t)(sign | 0x7c00 | (isnan(value) ? 1 : 0));
    }
    if (value == 0) {
        return sign;
    }
    int exponent = 0;
    double mantissa = frexp(fabs(value), &exponent) * 2 - 1; /* in [0, 1) */
    double bits = mantissa * 1024;
    if (bits != floor(bits) || exponent - 1 < -14 || exponent - 1 > 15) {
        fail("not exact in half precision", name);
    }
    return (uint16_t)(sign | (exponent - 1 + 15) << 10 | (int)bits);
}

static void store(entry_t *entry, size_t i, double value) {
    switch (entry->type) {
    case TM_F16:
        ((uint16_t *)entry->data)[i] = exact_half(value, entry->name);
        break;
    case TM_F32:
        ((float *)entry->data)[i] = (float)value;
        break;
    case TM_F64:
        ((double *)entry->data)[i] = value;
        break;
    default:
        fail("a type that model files do not have", entry->name);
    }
}

void tm_model_writer_remove(tm_model_writer_t *w, const char *name) {
    for (size_t i = 0; i < w->n_entries; i++) {
        if (strcmp(w->entry[i].name, name) == 0) {
            free(w->entry[i].name);
            free(w->entry[i].data);
            w->n_entries--;
            memmove(&w->entry[i], &w->entry[i + 1], (w->n_entries - i) * sizeof *w->entry);
            return;
        }
    }
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const entry_t *)a)->name, ((const entry_t *)b)->name);
}

void tm_model_writer_tensor(tm_model_writer_t *w, const char *name, tm_type_t type, uint32_t rank,
                            const uint64_t *shape, const double *values, double amplitude) {
    tm_model_writer_remove(w, name);
    entry_t entry = {.name = need(strdup(name)), .type = type, .rank = rank};
    size_t elements = 1;
    if (rank > TM_TENSOR_RANK_MAX) {
        fail("rank too high", name);
    }
    for (uint32_t i = 0; i < rank; i++) {
        entry.shape[i] = shape[i];
        elements *= shape[i];
    }
    entry.bytes = elements * tm_type_bytes(type);
    entry.data = need(malloc(entry.bytes + 1));
    for (size_t i = 0; i < elements; i++) {
        double value = values != NULL ? values[i] : amplitude * uniform(w);
        if (values == NULL && type == TM_F16) {
            value = rint(value / F16_STEP) * F16_STEP;
        }
        store(&entry, i, value);
    }
    w->entry = need(realloc(w->entry, (w->n_entries + 1) * sizeof *w->entry));
    w->entry[w->n_entries++] = entry;
    qsort(w->entry, w->n_entries, sizeof *w->entry, compare_names);
}

const char *tm_model_writer_text(tm_model_writer_t *w, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) {
        fail("out of memory", format);
    }
    va_end(args);
    w->text = need(realloc(w->text, (w->n_texts + 1) * sizeof *w->text));
    w->text[w->n_texts++] = text;
    return text;
}

/* `<base><suffix>` [width], uniform in middle ± amplitude. */
static void add_vector(tm_model_writer_t *w, const char *base, const char *suffix, uint64_t width,
                       double middle, double amplitude) {
    double *values = need(malloc((width + 1) * sizeof *values));
    for (uint64_t i = 0; i < width; i++) {
        values[i] = middle + amplitude * uniform(w);
    }
    tm_model_writer_tensor(w, tm_model_writer_text(w, "%s%s", base, suffix), TM_F32, 1, &width,
                           values, 0);
    free(values);
}

void tm_model_writer_linear(tm_model_writer_t *w, const char *base, uint32_t in, uint32_t out,
                            bool bias) {
    double amplitude = 1 / sqrt(in);
    tm_model_writer_tensor(w, tm_model_writer_text(w, "%s.weight", base), TM_F32, 2,
                           (uint64_t[]){out, in}, NULL, amplitude);
    if (bias) {
        add_vector(w, base, ".bias", out, 0, amplitude);
    }
}

void tm_model_writer_norm(tm_model_writer_t *w, const char *base, tm_op_kind_t kind,
                          uint32_t width) {
    add_vector(w, base, ".weight", width, 1, 0.2);
    add_vector(w, base, ".bias", width, 0, 0.2);
    if (kind == TM_OP_BATCH_NORM) {
        add_vector(w, base, ".running_mean", width, 0, 0.2);
        add_vector(w, base, ".running_var", width, 1, 0.5);
    }
}

const char *tm_model_writer_mlp(tm_model_writer_t *w, const char *base, uint32_t in,
                                const uint32_t *widths, size_t n_widths,
                                const tm_mlp_style_t *style) {
    static const char *const names[] = {[TM_OP_LAYER_NORM] = "layer_norm",
                                        [TM_OP_BATCH_NORM] = "batch_norm",
                                        [TM_OP_RELU] = "relu",
                                        [TM_OP_SILU] = "silu",
                                        [TM_OP_TANH] = "tanh",
                                        [TM_OP_SIGMOID] = "sigmoid",
                                        [TM_OP_GELU] = "gelu"};
    const char *ops = "";
    for (size_t i = 0; i < n_widths; i++) {
        const char *linear = tm_model_writer_text(w, "%s.%zu", base, i);
        tm_model_writer_linear(w, linear, i > 0 ? widths[i - 1] : in, widths[i], true);
        ops = tm_model_writer_text(w, "%s%s{\"op\": \"linear\", \"tensor\": \"%s\"}", ops,
                                   i > 0 ? ", " : "", linear);
        if (i + 1 == n_widths && !style->last_activation) {
            continue;
        }
        if (style->norm) {
            const char *norm = tm_model_writer_text(w, "%s.n%zu", base, i);
            tm_model_writer_norm(w, norm, style->norm_kind, widths[i]);
            ops = tm_model_writer_text(w, "%s, {\"op\": \"%s\", \"tensor\": \"%s\"}", ops,
                                       names[style->norm_kind], norm);
        }
        ops = tm_model_writer_text(w, "%s, {\"op\": \"%s\"}", ops, names[style->activation]);
    }
    return tm_model_writer_text(w, "[%s]", ops);
}

static char *dump_header(const tm_model_writer_t *w, const char *pipeline_json) {
    static const char *const types[] = {[TM_F16] = "F16", [TM_F32] = "F32", [TM_F64] = "F64"};
    json_t *header = need(json_object());
    json_t *metadata = json_pack("{s:s}", "trackmill", pipeline_json);
    if (metadata == NULL || json_object_set_new(header, "__metadata__", metadata) != 0) {
        fail("the pipeline is no UTF-8", pipeline_json);
    }
    size_t offset = 0;
    for (size_t i = 0; i < w->n_entries; i++) {
        const entry_t *entry = &w->entry[i];
        json_t *shape = need(json_array());
        for (uint32_t d = 0; d < entry->rank; d++) {
            json_array_append_new(shape, json_integer((json_int_t)entry->shape[d]));
        }
        json_t *value =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", types[entry->type], "shape", shape,
                      "data_offsets", (json_int_t)offset, (json_int_t)(offset + entry->bytes));
        if (value == NULL || json_object_set_new(header, entry->name, value) != 0) {
            fail("cannot be put into the header", entry->name);
        }
        offset += entry->bytes;
    }
    char *text = need(json_dumps(header, JSON_COMPACT));
    json_decref(header);
    return text;
}

uint8_t *tm_model_writer_bytes(const tm_model_writer_t *w, const char *pipeline_json,
                               size_t *bytes) {
    char *header = dump_header(w, pipeline_json);
    size_t text_bytes = strlen(header);
    size_t header_bytes = (text_bytes + 7) / 8 * 8;
    size_t data_bytes = 0;
    for (size_t i = 0; i < w->n_entries; i++) {
        data_bytes += w->entry[i].bytes;
    }
    *bytes = 8 + header_bytes + data_bytes;
    uint8_t *out = need(malloc(*bytes));
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)((uint64_t)header_bytes >> 8 * i);
    }
    memset(out + 8, ' ', header_bytes);
    memcpy(out + 8, header, text_bytes);
    size_t offset = 8 + header_bytes;
    for (size_t i = 0; i < w->n_entries; i++) {
        memcpy(out + offset, w->entry[i].data, w->entry[i].bytes);
        offset += w->entry[i].bytes;
    }
    free(header);
    return out;
}

void tm_model_writer_save(const tm_model_writer_t *w, const char *pipeline_json, const char *path) {
    size_t bytes = 0;
    uint8_t *data = tm_model_writer_bytes(w, pipeline_json, &bytes);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) {
        fail("cannot be written", path);
    }
    free(data);
}
