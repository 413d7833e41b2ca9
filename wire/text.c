// SPDX-License-Identifier: Apache-2.0
#include "wire/text.h"

#include <stdint.h>

/* Length of the well-formed UTF-8 character at `data`, 0 if there is none. *code: its number. */
static size_t utf8_next(const unsigned char *data, size_t bytes, uint32_t *code) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char head = data[0];
    size_t length = head < 0x80             ? 1
                    : (head & 0xe0) == 0xc0 ? 2
                    : (head & 0xf0) == 0xe0 ? 3
                    : (head & 0xf8) == 0xf0 ? 4
                                            : 0;
    if (length == 0 || length > bytes) {
        return 0;
    }
    uint32_t c = length == 1 ? head : head & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((data[i] & 0xc0) != 0x80) {
            return 0;
        }
        c = c << 6 | (data[i] & 0x3f);
    }
    if (c < least[length] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) {
        return 0; /* overlong, beyond Unicode, or half a surrogate pair */
    }
    *code = c;
    return length;
}

static bool is_control(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

bool tm_text_valid(const char *data, size_t bytes) {
    const unsigned char *p = (const unsigned char *)data;
    for (size_t i = 0; i < bytes;) {
        uint32_t code;
        size_t length = utf8_next(p + i, bytes - i, &code);
        if (length == 0 || is_control(code)) {
            return false;
        }
        i += length;
    }
    return true;
}

size_t tm_text_mend(char *data, size_t bytes, size_t max) {
    unsigned char *p = (unsigned char *)data;
    if (bytes > max) {
        bytes = max;
        while (bytes > 0 && (p[bytes] & 0xc0) == 0x80) {
            bytes--;
        }
    }
    bool broken = false;
    for (size_t i = 0; i < bytes;) {
        uint32_t code;
        size_t length = utf8_next(p + i, bytes - i, &code);
        broken = broken || length == 0;
        for (size_t k = 0; length > 0 && is_control(code) && k < length; k++) {
            p[i + k] = '?';
        }
        i += length > 0 ? length : 1;
    }
    for (size_t i = 0; broken && i < bytes; i++) {
        p[i] = p[i] < 0x80 ? p[i] : '?';
    }
    return bytes;
}
