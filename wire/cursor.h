// SPDX-License-Identifier: Apache-2.0
/*
 * Reads msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md) without building objects:
 * no allocation, no recursion, and no length or count is believed before it has been compared with
 * the bytes that are left. (The stock unpacker reserves memory by the claimed count: six bytes make
 * it reserve gigabytes.)
 *
 * Every function returns false, and leaves the cursor where it was, if the next value is cut off,
 * broken or of another type. Strings and binaries point into the input.
 *
 * Threads: a cursor belongs to its caller; the functions share no state.
 */
#ifndef TM_WIRE_CURSOR_H
#define TM_WIRE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} tm_cursor_t;

typedef enum {
    TM_TOKEN_NIL,
    TM_TOKEN_BOOL,
    TM_TOKEN_UINT,     /* any integer >= 0, in whatever encoding: number */
    TM_TOKEN_NEGATIVE, /* any integer < 0 */
    TM_TOKEN_FLOAT,
    TM_TOKEN_STR,   /* data, count bytes */
    TM_TOKEN_BIN,   /* data, count bytes */
    TM_TOKEN_EXT,   /* data, count bytes (without the type) */
    TM_TOKEN_ARRAY, /* head only; count elements follow */
    TM_TOKEN_MAP,   /* head only; count pairs follow */
} tm_token_kind_t;

typedef struct {
    tm_token_kind_t kind;
    uint32_t count;
    uint64_t number;
    const uint8_t *data;
} tm_token_t;

tm_cursor_t tm_cursor(const void *data, size_t bytes);
bool tm_cursor_at_end(const tm_cursor_t *cursor);

/* One token: a whole scalar, string or binary, or the head of a container. A container whose count
 * exceeds the bytes left (an element has at least one) is refused. */
bool tm_cursor_next(tm_cursor_t *cursor, tm_token_t *token);

/* One whole value with everything in it; containers may nest up to `depth` deep (0: none allowed). */
bool tm_cursor_skip(tm_cursor_t *cursor, unsigned depth);

bool tm_cursor_get_uint(tm_cursor_t *cursor, uint64_t *number);
bool tm_cursor_get_str(tm_cursor_t *cursor, const char **data, uint32_t *bytes);
bool tm_cursor_get_bin(tm_cursor_t *cursor, const uint8_t **data, uint32_t *bytes);
bool tm_cursor_get_array(tm_cursor_t *cursor, uint32_t *count);
bool tm_cursor_get_map(tm_cursor_t *cursor, uint32_t *pairs);

#endif
