// SPDX-License-Identifier: Apache-2.0
/* Halves, rounded as the GPU rounds them. */
#ifndef TM_EMULATOR_CUDA_FP16_H
#define TM_EMULATOR_CUDA_FP16_H

#include "emulator.h"

/* IEEE 754 binary16, to nearest even; by hand, for processors without F16C. */
static inline uint16_t tm_emulator_half_bits(float value) {
    uint32_t bits = __float_as_uint(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* from 65520 on */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 rounds to a multiple of 2^-24 */
        float rounded = __uint_as_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (__float_as_uint(rounded) - 0x3f000000u));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

static inline float tm_emulator_half_value(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) {
        return __uint_as_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    }
    if (magnitude < 0x400u) {
        float value = (float)magnitude * 0x1p-24f;
        return sign ? -value : value;
    }
    return __uint_as_float(sign | ((magnitude << 13) + 0x38000000u));
}

/* The values of all 65536 halves. */
const float *tm_emulator_half_values(void);

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

static inline __half __float2half_rn(float v) {
    return {tm_emulator_half_bits(v)};
}
static inline float __half2float(__half h) {
    return tm_emulator_half_value(h.bits);
}
static inline unsigned short __half_as_ushort(__half h) {
    return h.bits;
}
static inline __half __ushort_as_half(unsigned short bits) {
    return {bits};
}
static inline __half2 __floats2half2_rn(float x, float y) {
    return {__float2half_rn(x), __float2half_rn(y)};
}
static inline float2 __half22float2(__half2 h) {
    return {__half2float(h.x), __half2float(h.y)};
}

#endif
