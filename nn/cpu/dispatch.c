// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/kernels.h"

extern const tm_kernels_t tm_kernels_base;
#ifdef TM_KERNELS_X86_V3
extern const tm_kernels_t tm_kernels_x86_v3;
#endif

const tm_kernels_t *tm_cpu_kernels(void) {
#ifdef TM_KERNELS_X86_V3
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
        return &tm_kernels_x86_v3;
    }
#endif
    return &tm_kernels_base;
}
