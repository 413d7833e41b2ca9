// SPDX-License-Identifier: Apache-2.0
#include "wire/f16.h"

#include <string.h>

float tm_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 0x1fu;
    uint32_t mantissa = half & 0x3ffu;
    float value;
    if (exponent == 0) { /* zero or subnormal: mantissa * 2^-24, exact in binary32 */
        value = (float)mantissa * 0x1p-24f;
        return sign ? -value : value;
    }
    uint32_t bits = exponent == 0x1f ? sign | 0x7f800000u | mantissa << 13
                                     : sign | (exponent + 112) << 23 | mantissa << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}

uint16_t tm_f32_to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t half;
    if (magnitude > 0x7f800000u) { /* NaN, quiet */
        half = 0x7e00u;
    } else if (magnitude >= 0x477ff000u) { /* 65520 and more round to infinity */
        half = 0x7c00u;
    } else if (magnitude < 0x38800000u) { /* below 2^-14: subnormal */
        float absolute;
        memcpy(&absolute, &magnitude, sizeof absolute);
        /* Adding 0.5 leaves multiples of 2^-24 in the mantissa, rounded by the processor. */
        float shifted = absolute + 0.5f;
        uint32_t shifted_bits;
        memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
        half = shifted_bits - 0x3f000000u;
    } else {
        uint32_t odd = (magnitude >> 13) & 1u;
        half = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
    }
    return (uint16_t)(sign | half);
}
