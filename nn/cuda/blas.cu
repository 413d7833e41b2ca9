// SPDX-License-Identifier: Apache-2.0
/*
 * cuBLAS is loaded when a context needs it, not when the program starts: the same program then runs
 * where there is no GPU and no CUDA, and models that take the fused path start without mapping half a
 * gigabyte of kernels.
 */
#include <cublas_v2.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>

#include "nn/cuda/gpu.cuh"

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)
#define LIBRARY "libcublas.so." TEXT(CUBLAS_VER_MAJOR)
/* What NVIDIA advises for sm_90. Our own, so that results do not depend on what else runs. */
#define WORKSPACE_BYTES ((size_t)32 << 20)

#define FUNCTIONS(X) \
    X(cublasCreate_v2) \
    X(cublasDestroy_v2) \
    X(cublasSetStream_v2) \
    X(cublasSetWorkspace_v2) \
    X(cublasSetMathMode)

/* spelt out, as C++ sees several of that name */
typedef cublasStatus_t (*gemm_t)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                 int, const void *, const void *, cudaDataType, int, const void *,
                                 cudaDataType, int, const void *, void *, cudaDataType, int,
                                 cublasComputeType_t, cublasGemmAlgo_t);

struct tm_gpu_blas {
    void *library;
    cublasHandle_t handle;
#define X(name) decltype(&name) name##_;
    FUNCTIONS(X)
#undef X
    gemm_t gemm;
};

static tm_status_t check(tm_gpu_t *gpu, cublasStatus_t status, const char *what, tm_error_t *err) {
    if (status == CUBLAS_STATUS_SUCCESS) {
        return TM_OK;
    }
    if (status == CUBLAS_STATUS_ALLOC_FAILED) {
        (void)cudaGetLastError();
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for cuBLAS (%s)", gpu->name, what);
    }
    gpu->dead = true;
    return tm_error_set(err, TM_E_BACKEND,
                        "%s: cuBLAS status %d (%s): the process must be restarted", gpu->name,
                        (int)status, what);
}

static tm_status_t load(tm_gpu_blas_t *blas, tm_error_t *err) {
    blas->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!blas->library) {
        return tm_error_set(err, TM_E_BACKEND,
                            "cuBLAS cannot be loaded (%s): install the CUDA %d libraries or name "
                            "their folder in LD_LIBRARY_PATH",
                            dlerror(), CUBLAS_VER_MAJOR);
    }
#define X(name) \
    blas->name##_ = (decltype(&name))dlsym(blas->library, #name); \
    if (!blas->name##_) { \
        return tm_error_set(err, TM_E_BACKEND, "%s has no %s: install CUDA %d", LIBRARY, #name, \
                            CUBLAS_VER_MAJOR); \
    }
    FUNCTIONS(X)
#undef X
    blas->gemm = (gemm_t)dlsym(blas->library, "cublasGemmEx");
    return blas->gemm ? TM_OK
                      : tm_error_set(err, TM_E_BACKEND, "%s has no cublasGemmEx: install CUDA %d",
                                     LIBRARY, CUBLAS_VER_MAJOR);
}

static tm_status_t start(tm_gpu_t *gpu, tm_error_t *err) {
    gpu->blas = (tm_gpu_blas_t *)calloc(1, sizeof *gpu->blas);
    if (!gpu->blas) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for cuBLAS");
    }
    tm_gpu_blas_t *blas = gpu->blas;
    char *workspace = NULL;
    TM_TRY(load(blas, err));
    TM_TRY(check(gpu, blas->cublasCreate_v2_(&blas->handle), "starting", err));
    TM_TRY(check(gpu, blas->cublasSetStream_v2_(blas->handle, gpu->stream), "stream", err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_BLAS, WORKSPACE_BYTES, &workspace, err));
    TM_TRY(check(gpu, blas->cublasSetWorkspace_v2_(blas->handle, workspace, WORKSPACE_BYTES),
                 "working memory", err));
    return check(gpu, blas->cublasSetMathMode_(blas->handle, CUBLAS_DEFAULT_MATH), "mode", err);
}

tm_status_t tm_gpu_blas_open(tm_gpu_t *gpu, tm_error_t *err) {
    if (gpu->blas) {
        return TM_OK;
    }
    tm_status_t status = start(gpu, err);
    if (status != TM_OK) {
        tm_gpu_blas_close(gpu);
    }
    return status;
}

void tm_gpu_blas_close(tm_gpu_t *gpu) {
    if (gpu->blas) {
        if (gpu->blas->handle) {
            (void)gpu->blas->cublasDestroy_v2_(gpu->blas->handle);
        }
        /* the library stays loaded: the driver keeps references into it */
        free(gpu->blas);
        gpu->blas = NULL;
    }
}

tm_status_t tm_gpu_multiply(tm_gpu_t *gpu, tm_gpu_type_t type, const void *a, uint32_t lda,
                            uint32_t rows, uint32_t k, const void *w, uint32_t ldw, uint32_t out,
                            bool accumulate, float *c, tm_error_t *err) {
    TM_TRY(tm_gpu_blas_open(gpu, err));
    const float one = 1;
    const float beta = accumulate ? 1 : 0;
    cudaDataType_t data = type == TM_GPU_F16 ? CUDA_R_16F : CUDA_R_32F;
    /* cuBLAS counts columns first: there our c is cᵀ [out, rows] = w · aᵀ */
    return check(gpu,
                 gpu->blas->gemm(gpu->blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)out, (int)rows,
                                 (int)k, &one, w, data, (int)ldw, a, data, (int)lda, &beta, c,
                                 CUDA_R_32F, (int)out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                 "a layer", err);
}
