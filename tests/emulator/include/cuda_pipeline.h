// SPDX-License-Identifier: Apache-2.0
/* Asynchronous copies to shared memory: they happen when the thread that asked for them waits, so that
 * whoever does not wait finds what was there before. */
#ifndef TM_EMULATOR_CUDA_PIPELINE_H
#define TM_EMULATOR_CUDA_PIPELINE_H

#include "emulator.h"

static inline void __pipeline_memcpy_async(void *to, const void *from, size_t bytes) {
    tm_emulator::self().copies.push_back({to, from, bytes});
}

static inline void __pipeline_commit(void) {
}

/* All of them, whatever `groups` may stay under way. */
static inline void __pipeline_wait_prior(size_t groups) {
    (void)groups;
    for (const tm_emulator::copy_t &copy : tm_emulator::self().copies) {
        memcpy(copy.to, copy.from, copy.bytes);
    }
    tm_emulator::self().copies.clear();
}

#endif
