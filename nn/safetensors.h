// SPDX-License-Identifier: Apache-2.0
/*
 * The safetensors container, read strictly: u64 little-endian length of the header, a JSON header
 * that names each tensor's type, shape and place, then the data.
 *
 * Refused: a duplicate key, a type other than F16, F32 and F64, a tensor without elements, offsets
 * outside the data, tensors that overlap, bytes that belong to no tensor, a length that is not the
 * shape's product. The format is described at https://github.com/huggingface/safetensors.
 *
 * Threads: a parsed container is read-only and may be shared.
 */
#ifndef TM_NN_SAFETENSORS_H
#define TM_NN_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "wire/columns.h"
#include "wire/error.h"

#define TM_SAFETENSORS_HEADER_MAX (1u << 20) /* bytes of the JSON header */
#define TM_TENSORS_MAX 4096
#define TM_TENSOR_RANK_MAX 8
#define TM_TENSOR_NAME_MAX 127 /* bytes, all of them printable ASCII without the space */

typedef struct tm_safetensors tm_safetensors_t;

typedef struct {
    const char *name;
    tm_type_t type; /* TM_F16, TM_F32 or TM_F64 */
    uint32_t rank;  /* 1 to TM_TENSOR_RANK_MAX */
    uint64_t shape[TM_TENSOR_RANK_MAX];
    uint64_t elements;   /* product of the shape, at least 1 */
    const uint8_t *data; /* borrowed from the parsed bytes; not aligned */
} tm_tensor_t;

/* Parses `bytes` bytes, which are borrowed for the life of *out. TM_E_MODEL_FILE: the text names the
 * tensor; TM_E_NO_MEMORY. */
tm_status_t tm_safetensors_parse(const void *data, size_t bytes, tm_safetensors_t **out,
                                 tm_error_t *err);
void tm_safetensors_destroy(tm_safetensors_t **p);

/* Tensors in the order of their data. Borrowed from the container. */
uint32_t tm_safetensors_count(const tm_safetensors_t *file);
const tm_tensor_t *tm_safetensors_at(const tm_safetensors_t *file, uint32_t i);

/* Number of keys of __metadata__ (0 where there is none), and the value of one of them or NULL. */
size_t tm_safetensors_metadata_count(const tm_safetensors_t *file);
const char *tm_safetensors_metadata(const tm_safetensors_t *file, const char *key);

#endif
