// SPDX-License-Identifier: Apache-2.0
#ifndef TM_EMULATOR_CUB_DEVICE_RADIX_SORT_CUH
#define TM_EMULATOR_CUB_DEVICE_RADIX_SORT_CUH

#include <algorithm>
#include <numeric>

#include "cuda_runtime.h"

namespace cub {

struct DeviceRadixSort {
    template <typename Key, typename Value, typename N>
    static cudaError_t SortPairs(void *memory, size_t &bytes, const Key *keys, Key *keys_out,
                                 const Value *values, Value *values_out, N n, int begin = 0,
                                 int end = 8 * sizeof(Key), cudaStream_t stream = NULL) {
        if (!memory) {
            bytes = 1;
            return cudaSuccess;
        }
        tm_emulator::submit(stream, [=] {
            const int width = end - begin;
            const uint64_t mask = width >= 64 ? ~0ull : (1ull << width) - 1;
            std::vector<size_t> order((size_t)n);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [=](size_t a, size_t b) {
                return ((uint64_t)keys[a] >> begin & mask) < ((uint64_t)keys[b] >> begin & mask);
            });
            for (size_t i = 0; i < order.size(); i++) {
                keys_out[i] = keys[order[i]];
                if (values) {
                    values_out[i] = values[order[i]];
                }
            }
        });
        return cudaSuccess;
    }
    template <typename Key, typename N>
    static cudaError_t SortKeys(void *memory, size_t &bytes, const Key *keys, Key *keys_out, N n,
                                int begin, int end, cudaStream_t stream) {
        return SortPairs(memory, bytes, keys, keys_out, (const Key *)nullptr, (Key *)nullptr, n,
                         begin, end, stream);
    }
};

} // namespace cub

#endif
