// SPDX-License-Identifier: Apache-2.0
#include "client/event/number.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_MANTISSA (1ull << DBL_MANT_DIG) /* integers up to here are doubles */
#define EXACT_POWER 22                        /* 10^22 is the largest power that is a double */

static const double power[EXACT_POWER + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                              1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                              1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* True when the number's form allows the exact short cut. A number of another form, or no number,
 * is left to strtod. */
static bool fast_f64(const char *p, const char *end, double *out) {
    uint64_t mantissa = 0;
    int scale = 0, exponent = 0;
    bool negative = p < end && *p == '-';
    bool point = false, digits = false;
    if (p < end && (*p == '-' || *p == '+')) {
        p++;
    }
    for (; p < end && (is_digit(*p) || (*p == '.' && !point)); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        if (mantissa >= EXACT_MANTISSA / 10) {
            return false;
        }
        mantissa = 10 * mantissa + (uint64_t)(*p - '0');
        scale -= point;
        digits = true;
    }
    if (!digits) {
        return false;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        bool down = p < end && *p == '-';
        if (p < end && (*p == '-' || *p == '+')) {
            p++;
        }
        if (p == end) {
            return false;
        }
        for (; p < end && is_digit(*p) && exponent < 1000; p++) {
            exponent = 10 * exponent + (*p - '0');
        }
        exponent = down ? -exponent : exponent;
    }
    exponent += scale;
    if (p != end || exponent < -EXACT_POWER || exponent > EXACT_POWER) {
        return false;
    }
    double value = (double)mantissa;
    value = exponent < 0 ? value / power[-exponent] : value * power[exponent];
    *out = negative ? -value : value;
    return true;
}

/* strtod also takes leading blanks, hexadecimal numbers, "inf" and "nan": not here. */
static bool plausible(const char *p, const char *end) {
    for (; p < end; p++) {
        if (!is_digit(*p) && !strchr("+-.eE", *p)) {
            return false;
        }
    }
    return true;
}

bool tm_number_f64(const char *p, const char *end, double *out) {
    if (fast_f64(p, end, out)) {
        return true;
    }
    char *stop;
    if (p == end || !plausible(p, end)) {
        return false;
    }
    *out = strtod(p, &stop);
    return stop == end && isfinite(*out);
}

bool tm_number_f32(const char *p, const char *end, float *out) {
    double value;
    if (fast_f64(p, end, &value)) {
        /* Rounding twice differs from rounding once only if the first lands half-way between two
         * floats; numbers outside float's normal range round elsewhere. */
        uint64_t bits;
        memcpy(&bits, &value, sizeof bits);
        double size = fabs(value);
        bool half_way = (bits & 0x1FFFFFFFu) == 0x10000000u;
        if (value == 0 || (!half_way && size >= (double)FLT_MIN && size <= (double)FLT_MAX)) {
            *out = (float)value;
            return true;
        }
    }
    char *stop;
    if (p == end || !plausible(p, end)) {
        return false;
    }
    *out = strtof(p, &stop);
    return stop == end && isfinite(*out);
}

bool tm_number_u64(const char *p, const char *end, uint64_t *out) {
    uint64_t value = 0;
    if (p == end) {
        return false;
    }
    for (; p < end; p++) {
        if (!is_digit(*p)) {
            return false;
        }
        uint64_t digit = (uint64_t)(*p - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = 10 * value + digit;
    }
    *out = value;
    return true;
}

bool tm_number_i64(const char *p, const char *end, int64_t *out) {
    uint64_t size;
    bool negative = p < end && *p == '-';
    if (!tm_number_u64(p + negative, end, &size) || size > (uint64_t)INT64_MAX + negative) {
        return false;
    }
    *out = negative ? (int64_t)(0 - size) : (int64_t)size;
    return true;
}
