// SPDX-License-Identifier: Apache-2.0
#include "wire/cursor.h"

#include "wire/limits.h"

tm_cursor_t tm_cursor(const void *data, size_t bytes) {
    const uint8_t *at = data;
    return (tm_cursor_t){.at = at, .end = bytes > 0 ? at + bytes : at};
}

bool tm_cursor_at_end(const tm_cursor_t *cursor) {
    return cursor->at == cursor->end;
}

/* A big-endian number of `width` bytes. */
static bool take_number(tm_cursor_t *cursor, unsigned width, uint64_t *number) {
    if ((size_t)(cursor->end - cursor->at) < width) {
        return false;
    }
    *number = 0;
    for (unsigned i = 0; i < width; i++) {
        *number = *number << 8 | *cursor->at++;
    }
    return true;
}

/* token->count bytes after the head. */
static bool take_bytes(tm_cursor_t *cursor, tm_token_t *token) {
    if ((size_t)(cursor->end - cursor->at) < token->count) {
        return false;
    }
    token->data = cursor->at;
    cursor->at += token->count;
    return true;
}

/* A count in `width` bytes (0: it is in token->count already), and what it counts. */
static bool take_counted(tm_cursor_t *cursor, unsigned width, tm_token_kind_t kind,
                         tm_token_t *token) {
    uint64_t count = token->count;
    if (width > 0 && !take_number(cursor, width, &count)) {
        return false;
    }
    token->kind = kind;
    token->count = (uint32_t)count;
    size_t left = (size_t)(cursor->end - cursor->at);
    if (kind == TM_TOKEN_ARRAY) {
        return token->count <= left;
    }
    if (kind == TM_TOKEN_MAP) {
        return token->count <= left / 2;
    }
    if (kind == TM_TOKEN_EXT) {
        uint64_t type;
        if (!take_number(cursor, 1, &type)) {
            return false;
        }
    }
    return take_bytes(cursor, token);
}

static bool take_signed(tm_cursor_t *cursor, unsigned width, tm_token_t *token) {
    if (!take_number(cursor, width, &token->number)) {
        return false;
    }
    bool negative = token->number >> (8 * width - 1);
    token->kind = negative ? TM_TOKEN_NEGATIVE : TM_TOKEN_UINT;
    return true;
}

/* Advances the cursor even if it fails; tm_cursor_next puts it back. */
static bool take_token(tm_cursor_t *cursor, tm_token_t *token) {
    *token = (tm_token_t){0};
    if (cursor->at == cursor->end) {
        return false;
    }
    uint8_t head = *cursor->at++;
    if (head <= 0x7f) { /* positive fixint */
        token->kind = TM_TOKEN_UINT;
        token->number = head;
        return true;
    }
    if (head <= 0x8f) { /* fixmap */
        token->count = head & 0x0fu;
        return take_counted(cursor, 0, TM_TOKEN_MAP, token);
    }
    if (head <= 0x9f) { /* fixarray */
        token->count = head & 0x0fu;
        return take_counted(cursor, 0, TM_TOKEN_ARRAY, token);
    }
    if (head <= 0xbf) { /* fixstr */
        token->count = head & 0x1fu;
        return take_counted(cursor, 0, TM_TOKEN_STR, token);
    }
    if (head >= 0xe0) { /* negative fixint */
        token->kind = TM_TOKEN_NEGATIVE;
        return true;
    }
    switch (head) {
    case 0xc0:
        token->kind = TM_TOKEN_NIL;
        return true;
    case 0xc2:
    case 0xc3:
        token->kind = TM_TOKEN_BOOL;
        token->number = head & 1u;
        return true;
    case 0xc4: /* bin 8, 16, 32 */
    case 0xc5:
    case 0xc6:
        return take_counted(cursor, 1u << (head - 0xc4), TM_TOKEN_BIN, token);
    case 0xc7: /* ext 8, 16, 32 */
    case 0xc8:
    case 0xc9:
        return take_counted(cursor, 1u << (head - 0xc7), TM_TOKEN_EXT, token);
    case 0xca: /* float 32, 64 */
    case 0xcb:
        token->kind = TM_TOKEN_FLOAT;
        return take_number(cursor, head == 0xca ? 4 : 8, &token->number);
    case 0xcc: /* uint 8, 16, 32, 64 */
    case 0xcd:
    case 0xce:
    case 0xcf:
        token->kind = TM_TOKEN_UINT;
        return take_number(cursor, 1u << (head - 0xcc), &token->number);
    case 0xd0: /* int 8, 16, 32, 64 */
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return take_signed(cursor, 1u << (head - 0xd0), token);
    case 0xd4: /* fixext 1, 2, 4, 8, 16 */
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        token->count = 1u << (head - 0xd4);
        return take_counted(cursor, 0, TM_TOKEN_EXT, token);
    case 0xd9: /* str 8, 16, 32 */
    case 0xda:
    case 0xdb:
        return take_counted(cursor, 1u << (head - 0xd9), TM_TOKEN_STR, token);
    case 0xdc: /* array 16, 32 */
    case 0xdd:
        return take_counted(cursor, head == 0xdc ? 2 : 4, TM_TOKEN_ARRAY, token);
    case 0xde: /* map 16, 32 */
    case 0xdf:
        return take_counted(cursor, head == 0xde ? 2 : 4, TM_TOKEN_MAP, token);
    default: /* 0xc1 is no msgpack */
        return false;
    }
}

bool tm_cursor_next(tm_cursor_t *cursor, tm_token_t *token) {
    tm_cursor_t ahead = *cursor;
    if (!take_token(&ahead, token)) {
        return false;
    }
    *cursor = ahead;
    return true;
}

bool tm_cursor_skip(tm_cursor_t *cursor, unsigned depth) {
    uint64_t open[TM_MAP_MAX_DEPTH + 1]; /* values still to come at each level */
    tm_cursor_t ahead = *cursor;
    unsigned level = 0;
    if (depth > TM_MAP_MAX_DEPTH) {
        depth = TM_MAP_MAX_DEPTH;
    }
    open[0] = 1;
    for (;;) {
        while (open[level] == 0) {
            if (level == 0) {
                *cursor = ahead;
                return true;
            }
            level--;
        }
        tm_token_t token;
        if (!take_token(&ahead, &token)) {
            return false;
        }
        open[level]--;
        if (token.kind == TM_TOKEN_ARRAY || token.kind == TM_TOKEN_MAP) {
            if (level == depth) {
                return false;
            }
            open[++level] = token.kind == TM_TOKEN_MAP ? 2ull * token.count : token.count;
        }
    }
}

/* The next token if it is of that kind. */
static bool take_kind(tm_cursor_t *cursor, tm_token_kind_t kind, tm_token_t *token) {
    tm_cursor_t ahead = *cursor;
    if (!take_token(&ahead, token) || token->kind != kind) {
        return false;
    }
    *cursor = ahead;
    return true;
}

bool tm_cursor_get_uint(tm_cursor_t *cursor, uint64_t *number) {
    tm_token_t token;
    if (!take_kind(cursor, TM_TOKEN_UINT, &token)) {
        return false;
    }
    *number = token.number;
    return true;
}

bool tm_cursor_get_str(tm_cursor_t *cursor, const char **data, uint32_t *bytes) {
    tm_token_t token;
    if (!take_kind(cursor, TM_TOKEN_STR, &token)) {
        return false;
    }
    *data = (const char *)token.data;
    *bytes = token.count;
    return true;
}

bool tm_cursor_get_bin(tm_cursor_t *cursor, const uint8_t **data, uint32_t *bytes) {
    tm_token_t token;
    if (!take_kind(cursor, TM_TOKEN_BIN, &token)) {
        return false;
    }
    *data = token.data;
    *bytes = token.count;
    return true;
}

bool tm_cursor_get_array(tm_cursor_t *cursor, uint32_t *count) {
    tm_token_t token;
    if (!take_kind(cursor, TM_TOKEN_ARRAY, &token)) {
        return false;
    }
    *count = token.count;
    return true;
}

bool tm_cursor_get_map(tm_cursor_t *cursor, uint32_t *pairs) {
    tm_token_t token;
    if (!take_kind(cursor, TM_TOKEN_MAP, &token)) {
        return false;
    }
    *pairs = token.count;
    return true;
}
