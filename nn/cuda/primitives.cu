// SPDX-License-Identifier: Apache-2.0
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "nn/cuda/gpu.cuh"

/* cub asks to be called twice: for the size of its working memory, and to work. */
template <typename Call>
static tm_status_t twice(tm_gpu_t *gpu, const char *what, tm_error_t *err, Call call) {
    size_t bytes = 0;
    char *memory = NULL;
    TM_TRY(tm_gpu_check(gpu, call(NULL, bytes), what, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_CUB, bytes > 0 ? bytes : 1, &memory, err));
    return tm_gpu_check(gpu, call(memory, bytes), what, err);
}

template <typename Key, typename Value>
static tm_status_t sort_pairs(tm_gpu_t *gpu, const Key *keys, Key *keys_out, const Value *values,
                              Value *values_out, size_t n, int bits, tm_error_t *err) {
    if (n == 0) {
        return TM_OK;
    }
    return twice(gpu, "sorting", err, [&](void *memory, size_t &bytes) {
        return cub::DeviceRadixSort::SortPairs(memory, bytes, keys, keys_out, values, values_out,
                                               (int64_t)n, 0, bits, gpu->stream);
    });
}

tm_status_t tm_gpu_sort_u32(tm_gpu_t *gpu, const uint32_t *keys, uint32_t *keys_out,
                            const uint32_t *values, uint32_t *values_out, size_t n, int bits,
                            tm_error_t *err) {
    return sort_pairs(gpu, keys, keys_out, values, values_out, n, bits, err);
}

tm_status_t tm_gpu_sort_u32_u64(tm_gpu_t *gpu, const uint32_t *keys, uint32_t *keys_out,
                                const uint64_t *values, uint64_t *values_out, size_t n, int bits,
                                tm_error_t *err) {
    return sort_pairs(gpu, keys, keys_out, values, values_out, n, bits, err);
}

tm_status_t tm_gpu_sort_u64_u32(tm_gpu_t *gpu, const uint64_t *keys, uint64_t *keys_out,
                                const uint32_t *values, uint32_t *values_out, size_t n, int bits,
                                tm_error_t *err) {
    return sort_pairs(gpu, keys, keys_out, values, values_out, n, bits, err);
}

tm_status_t tm_gpu_sort_u64(tm_gpu_t *gpu, const uint64_t *keys, uint64_t *keys_out, size_t n,
                            int bits, tm_error_t *err) {
    if (n == 0) {
        return TM_OK;
    }
    return twice(gpu, "sorting", err, [&](void *memory, size_t &bytes) {
        return cub::DeviceRadixSort::SortKeys(memory, bytes, keys, keys_out, (int64_t)n, 0, bits,
                                              gpu->stream);
    });
}

template <typename T>
static tm_status_t scan(tm_gpu_t *gpu, const T *in, T *out, size_t n, tm_error_t *err) {
    if (n == 0) {
        return TM_OK;
    }
    return twice(gpu, "adding up", err, [&](void *memory, size_t &bytes) {
        return cub::DeviceScan::ExclusiveSum(memory, bytes, in, out, (int64_t)n, gpu->stream);
    });
}

tm_status_t tm_gpu_scan_u32(tm_gpu_t *gpu, const uint32_t *in, uint32_t *out, size_t n,
                            tm_error_t *err) {
    return scan(gpu, in, out, n, err);
}

tm_status_t tm_gpu_scan_u64(tm_gpu_t *gpu, const uint64_t *in, uint64_t *out, size_t n,
                            tm_error_t *err) {
    return scan(gpu, in, out, n, err);
}

static __global__ void count_up(uint32_t *numbers, uint32_t n) {
    uint64_t i = tm_gpu_thread();
    if (i < n) {
        numbers[i] = (uint32_t)i;
    }
}

tm_status_t tm_gpu_count_up(tm_gpu_t *gpu, uint32_t *numbers, uint32_t n, tm_error_t *err) {
    if (n == 0) {
        return TM_OK;
    }
    count_up<<<tm_gpu_blocks(n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(numbers, n);
    return tm_gpu_launched(gpu, "numbering", err);
}
