// SPDX-License-Identifier: Apache-2.0
/* nn/cuda/blas.cu without cuBLAS. */
#include "nn/cuda/gpu.cuh"

tm_status_t tm_gpu_blas_open(tm_gpu_t *, tm_error_t *) {
    return TM_OK;
}

void tm_gpu_blas_close(tm_gpu_t *) {
}

template <typename T> static float value_of(T v);
template <> float value_of<float>(float v) {
    return v;
}
template <> float value_of<__half>(__half v) {
    return __half2float(v);
}

template <typename T>
static void multiply(const T *a, uint32_t lda, uint32_t rows, uint32_t k, const T *w, uint32_t ldw,
                     uint32_t out, bool accumulate, float *c) {
    for (size_t i = 0; i < rows; i++) {
        for (size_t j = 0; j < out; j++) {
            float sum = accumulate ? c[i * out + j] : 0;
            for (uint32_t x = 0; x < k; x++) {
                sum += value_of(a[i * lda + x]) * value_of(w[j * ldw + x]);
            }
            c[i * out + j] = sum;
        }
    }
}

tm_status_t tm_gpu_multiply(tm_gpu_t *, tm_gpu_type_t type, const void *a, uint32_t lda,
                            uint32_t rows, uint32_t k, const void *w, uint32_t ldw, uint32_t out,
                            bool accumulate, float *c, tm_error_t *) {
    if (type == TM_GPU_F16) {
        multiply((const __half *)a, lda, rows, k, (const __half *)w, ldw, out, accumulate, c);
    } else {
        multiply((const float *)a, lda, rows, k, (const float *)w, ldw, out, accumulate, c);
    }
    return TM_OK;
}
