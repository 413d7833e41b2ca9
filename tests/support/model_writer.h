// SPDX-License-Identifier: Apache-2.0
/*
 * Builds model files in memory for tests: tensors with random or given values, in the layout that
 * weights/convert/safetensors_io.py writes too (sorted by name, no gap, padded header).
 *
 *     tm_model_writer_t *w = tm_model_writer_new(1);
 *     uint32_t widths[] = {32, 32, 8};
 *     const char *ops = tm_model_writer_mlp(w, "embed", 3, widths, 3, &style);
 *     … a pipeline in JSON that has `ops` as the embedding's MLP …
 *     uint8_t *file = tm_model_writer_bytes(w, json, &bytes);
 *     tm_model_from_memory(file, bytes, "test", &model, &err);
 *
 * For tests only: whatever goes wrong in here (no memory, a name twice) ends the program with a
 * line on stderr. Same seed and same calls: same bytes.
 */
#ifndef TM_TESTS_MODEL_WRITER_H
#define TM_TESTS_MODEL_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/pipeline.h"

typedef struct tm_model_writer tm_model_writer_t;

tm_model_writer_t *tm_model_writer_new(uint64_t seed);
void tm_model_writer_destroy(tm_model_writer_t **p);

/* Adds a tensor of type TM_F16, TM_F32 or TM_F64. `values`: one double per element, converted;
 * NULL: random ones, uniform in ±amplitude. A tensor of that name is replaced. F16 takes only values
 * that it holds exactly or 0 (this is no converter): random F16 tensors are multiples of 1/64. */
void tm_model_writer_tensor(tm_model_writer_t *w, const char *name, tm_type_t type, uint32_t rank,
                            const uint64_t *shape, const double *values, double amplitude);
void tm_model_writer_remove(tm_model_writer_t *w, const char *name);

/* `<base>.weight` [out, in] and, with `bias`, `<base>.bias`: uniform in ±1/sqrt(in). */
void tm_model_writer_linear(tm_model_writer_t *w, const char *base, uint32_t in, uint32_t out,
                            bool bias);
/* The tensors of TM_OP_LAYER_NORM or TM_OP_BATCH_NORM, around 1 and 0. */
void tm_model_writer_norm(tm_model_writer_t *w, const char *base, tm_op_kind_t kind,
                          uint32_t width);

typedef struct {
    tm_op_kind_t activation; /* TM_OP_RELU … TM_OP_GELU */
    bool norm;
    tm_op_kind_t norm_kind; /* where norm: behind each linear but the last one */
    bool last_activation;   /* the last linear too has the norm and the activation */
} tm_mlp_style_t;

/* A chain of linear layers of the given output widths, `<base>.0`, `<base>.1` …, with norms
 * `<base>.n0` …. Returns its list of operations as JSON text, owned by the writer. */
const char *tm_model_writer_mlp(tm_model_writer_t *w, const char *base, uint32_t in,
                                const uint32_t *widths, size_t n_widths,
                                const tm_mlp_style_t *style);

/* Text that the writer owns, for putting a pipeline together. */
const char *tm_model_writer_text(tm_model_writer_t *w, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The bytes of the file; free() them. */
uint8_t *tm_model_writer_bytes(const tm_model_writer_t *w, const char *pipeline_json,
                               size_t *bytes);
/* Writes them to a file. */
void tm_model_writer_save(const tm_model_writer_t *w, const char *pipeline_json, const char *path);

#endif
