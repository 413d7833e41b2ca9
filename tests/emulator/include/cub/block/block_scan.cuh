// SPDX-License-Identifier: Apache-2.0
#ifndef TM_EMULATOR_CUB_BLOCK_SCAN_CUH
#define TM_EMULATOR_CUB_BLOCK_SCAN_CUH

#include "emulator.h"

namespace cub {

template <typename T, int THREADS> struct BlockScan {
    struct TempStorage {
        T values[THREADS];
    };
    TempStorage &memory;
    explicit BlockScan(TempStorage &memory_) : memory(memory_) {
    }
    template <typename Add> void ExclusiveScan(T mine, T &before, T initial, Add add, T &total) {
        memory.values[threadIdx.x] = mine;
        tm_emulator::wait_for_block();
        T sum = initial;
        for (int i = 0; i < THREADS; i++) {
            if (i == (int)threadIdx.x) {
                before = sum;
            }
            sum = add(sum, memory.values[i]);
        }
        total = sum;
        tm_emulator::wait_for_block();
    }
};

} // namespace cub

#endif
