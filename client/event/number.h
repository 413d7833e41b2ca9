// SPDX-License-Identifier: Apache-2.0
/*
 * Decimal numbers from text, faster than strtod and just as exact: numbers of up to 19 digits and
 * small exponents are put together from two exact doubles (W. D. Clinger, PLDI 1990), all others go
 * to strtod/strtof. Threads: pure functions (the locale's decimal point must be ".").
 */
#ifndef TM_CLIENT_EVENT_NUMBER_H
#define TM_CLIENT_EVENT_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Each reads the number that fills [p, end) exactly; *end must not be a digit or letter (a comma, a
 * line's end or NUL). False: no number, not finite, out of range, or something after it. */
bool tm_number_f64(const char *p, const char *end, double *out);
bool tm_number_f32(const char *p, const char *end, float *out);
bool tm_number_i64(const char *p, const char *end, int64_t *out);
bool tm_number_u64(const char *p, const char *end, uint64_t *out);

#endif
