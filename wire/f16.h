// SPDX-License-Identifier: Apache-2.0
/*
 * IEEE 754 binary16 to and from binary32, by hand: _Float16 is not in every compiler we build with.
 *
 * Threads: pure functions.
 */
#ifndef TM_WIRE_F16_H
#define TM_WIRE_F16_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Exact. A NaN stays a NaN. */
float tm_f16_to_f32(uint16_t half);

/* Rounds to nearest, ties to even; beyond 65504 (after rounding) it becomes infinite. */
uint16_t tm_f32_to_f16(float value);

#ifdef __cplusplus
}
#endif
#endif
