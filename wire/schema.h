// SPDX-License-Identifier: Apache-2.0
/*
 * What each field may hold, and which command may and must carry which field: the tables that
 * message.c decodes and encodes by, and that wire/SPEC.md prints.
 *
 * Threads: constant tables.
 */
#ifndef TM_WIRE_SCHEMA_H
#define TM_WIRE_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/message.h"

typedef enum {
    TM_KIND_UINT, /* uint64_t from min to max */
    TM_KIND_STR,  /* tm_slice_t, min to max bytes that tm_text_valid takes */
    TM_KIND_TEXT, /* the same, but mended instead of refused when it is encoded */
    TM_KIND_REF,  /* tm_slice_t: "name" or "name@version", or nothing where the command allows it */
    TM_KIND_BIN,  /* tm_slice_t, min to max bytes */
    TM_KIND_RAW,  /* tm_slice_t: one msgpack array, max bytes, not looked into */
} tm_field_kind_t;

typedef struct {
    const char *name;
    tm_field_kind_t kind;
    size_t offset; /* in tm_message_t */
    uint64_t min, max;
} tm_field_rule_t;

typedef enum {
    TM_ID_ZERO,   /* both numbers are 0 */
    TM_ID_SET,    /* neither number is 0 */
    TM_ID_EITHER, /* both or neither */
} tm_id_rule_t;

typedef struct {
    tm_command_t command;
    const char *name;
    tm_id_rule_t id;
    bool payload;
    bool resolved;               /* its model must be "name@version" */
    uint64_t required, optional; /* TM_FIELD(…) */
} tm_command_rule_t;

/* index: 0 … TM_FIELD_COUNT - 1, in the order of TM_FIELDS. */
const tm_field_rule_t *tm_schema_field(unsigned index);
/* NULL for a number that is no command. */
const tm_command_rule_t *tm_schema_command(tm_command_t command);
/* The index-th command in order of number; NULL past the last. */
const tm_command_rule_t *tm_schema_command_at(unsigned index);

/* 1 to TM_NAME_MAX of [A-Za-z0-9._-]: a model's name or version. */
bool tm_model_name_valid(const char *data, size_t bytes);
/* "name" or "name@version"; `resolved`: only the latter. */
bool tm_model_ref_valid(const char *data, size_t bytes, bool resolved);

#endif
