// SPDX-License-Identifier: Apache-2.0
/* The calls of the runtime that nn/cuda makes. One "GPU", whose memory is the host's. */
#ifndef TM_EMULATOR_CUDA_RUNTIME_H
#define TM_EMULATOR_CUDA_RUNTIME_H

#include <memory>
#include <vector>

#include "emulator.h"

#define CUDART_VERSION 13000

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100
} cudaError_t;

typedef tm_emulator::stream_t *cudaStream_t;
typedef struct tm_emulator_graph *cudaGraph_t;
typedef struct tm_emulator_graph *cudaGraphExec_t;
typedef struct tm_emulator_event *cudaEvent_t;

enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventRecordExternal = 1 };
typedef enum { cudaStreamCaptureModeThreadLocal } cudaStreamCaptureMode;
typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize } cudaFuncAttribute;
typedef enum {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrCooperativeLaunch,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrMaxSharedMemoryPerBlockOptin
} cudaDeviceAttr;

struct cudaDeviceProp {
    char name[256];
};

cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int ordinal);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int ordinal);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaMemGetInfo(size_t *available, size_t *total);

cudaError_t tm_emulator_malloc(void **out, size_t bytes);
template <typename T> cudaError_t cudaMalloc(T **out, size_t bytes) {
    return tm_emulator_malloc((void **)out, bytes);
}
template <typename T> cudaError_t cudaMallocHost(T **out, size_t bytes) {
    return tm_emulator_malloc((void **)out, bytes);
}
cudaError_t cudaFree(void *data);
cudaError_t cudaFreeHost(void *data);
cudaError_t cudaMemset(void *to, int value, size_t bytes);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t bytes, size_t rows, int kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemset2DAsync(void *to, size_t pitch, int value, size_t bytes, size_t rows,
                              cudaStream_t stream);

cudaError_t cudaStreamCreate(cudaStream_t *out);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);

cudaError_t cudaEventCreate(cudaEvent_t *out);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

template <typename K> cudaError_t cudaFuncSetAttribute(K *, cudaFuncAttribute, int) {
    return cudaSuccess;
}
template <typename K>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, K *, int, size_t) {
    *blocks = 1;
    return cudaSuccess;
}
/* The translator gives every cooperative kernel its type back. */
template <typename P>
cudaError_t tm_emulator_launch_cooperative(void (*kernel)(P), dim3, dim3 block, void **arguments,
                                           size_t shared_bytes, cudaStream_t stream) {
    const std::decay_t<P> argument = *(std::decay_t<P> *)arguments[0];
    tm_emulator::submit(stream, [=] {
        tm_emulator::launch_cooperative_now(block, shared_bytes, [&] { kernel(argument); });
    });
    return cudaSuccess;
}

#endif
