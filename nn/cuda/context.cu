// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/cuda/fused/engine.cuh"
#include "nn/cuda/gpu.cuh"
#include "nn/cuda/mlp.cuh"

#define LEAST_MAJOR 8 /* compute capability */
/* Buffers are larger than asked for by this part, so that events of nearly equal size do not all grow
 * them; steps of this size keep the number of distinct sizes down. */
#define SPARE_DIVISOR 4
#define STEP_BYTES 512
#define LARGE_STEP_BYTES ((size_t)2 << 20)

/* ---- errors ---- */

tm_status_t tm_gpu_check(tm_gpu_t *gpu, cudaError_t error, const char *what, tm_error_t *err) {
    if (error == cudaSuccess) {
        return TM_OK;
    }
    (void)cudaGetLastError(); /* forget it, where the driver can */
    if (error == cudaErrorMemoryAllocation) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %s", gpu->name, what);
    }
    gpu->dead = true;
    return tm_error_set(err, TM_E_BACKEND, "%s: %s (%s): the process must be restarted", gpu->name,
                        cudaGetErrorString(error), what);
}

tm_status_t tm_gpu_cancelled(const tm_gpu_t *gpu, tm_error_t *err) {
    return gpu->device.cancelled && *gpu->device.cancelled
               ? tm_error_set(err, TM_E_CANCELLED, "cancelled")
               : TM_OK;
}

tm_status_t tm_gpu_enter(tm_gpu_t *gpu, tm_error_t *err) {
    if (gpu->dead) {
        return tm_error_set(err, TM_E_BACKEND,
                            "%s failed on an earlier event: the process must be restarted",
                            gpu->name);
    }
    TM_TRY(tm_gpu_cancelled(gpu, err));
    return tm_gpu_check(gpu, cudaSetDevice(gpu->ordinal), "choosing the GPU", err);
}

tm_status_t tm_gpu_wait(tm_gpu_t *gpu, const char *stage, tm_error_t *err) {
    return tm_gpu_check(gpu, cudaStreamSynchronize(gpu->stream), stage, err);
}

/* ---- memory ---- */

static const char *buffer_name(tm_gpu_buffer_id_t id) {
    static const char *const names[] = {
#define X(name, what) what,
        TM_GPU_BUFFERS(X)
#undef X
    };
    return names[id];
}

static void free_buffer(tm_gpu_t *gpu, tm_gpu_buffer_t *buffer) {
    if (buffer->data) {
        (void)cudaFree(buffer->data); /* waits for the kernels that still use it */
        gpu->memory_used -= buffer->bytes;
    }
    buffer->data = NULL;
    buffer->bytes = 0;
}

static cudaError_t allocate(tm_gpu_t *gpu, tm_gpu_buffer_t *buffer, size_t bytes) {
    if (gpu->memory_max > 0 && bytes > gpu->memory_max - gpu->memory_used) {
        return cudaErrorMemoryAllocation;
    }
    cudaError_t error = cudaMalloc(&buffer->data, bytes);
    if (error == cudaSuccess) {
        buffer->bytes = bytes;
        gpu->memory_used += bytes;
    } else {
        buffer->data = NULL;
        (void)cudaGetLastError();
    }
    return error;
}

tm_status_t tm_gpu_reserve_bytes(tm_gpu_t *gpu, tm_gpu_buffer_id_t id, size_t count,
                                 size_t element_bytes, void **out, tm_error_t *err) {
    tm_gpu_buffer_t *buffer = &gpu->buffer[id];
    size_t bytes = 0;
    *out = NULL;
    if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes > SIZE_MAX / 4) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: %zu elements of %zu bytes are too many",
                            buffer_name(id), count, element_bytes);
    }
    if (bytes > buffer->bytes || !buffer->data) {
        free_buffer(gpu, buffer);
        size_t step = bytes > LARGE_STEP_BYTES ? LARGE_STEP_BYTES : STEP_BYTES;
        size_t exact = (bytes / step + 1) * step;
        size_t spare = (bytes + bytes / SPARE_DIVISOR) / step * step + step;
        cudaError_t error = allocate(gpu, buffer, spare);
        if (error == cudaErrorMemoryAllocation) {
            error = allocate(gpu, buffer, exact);
        }
        if (error == cudaErrorMemoryAllocation) {
            size_t available = 0;
            size_t total = 0;
            if (cudaMemGetInfo(&available, &total) != cudaSuccess) {
                (void)cudaGetLastError();
            }
            return tm_error_set(
                err, TM_E_NO_MEMORY,
                "%s needs %zu MiB but %s has only %zu MiB left for this engine", buffer_name(id),
                exact >> 20, gpu->name,
                (gpu->memory_max > 0 ? gpu->memory_max - gpu->memory_used : available) >> 20);
        }
        TM_TRY(tm_gpu_check(gpu, error, buffer_name(id), err));
    }
    *out = buffer->data;
    return TM_OK;
}

tm_status_t tm_gpu_staging(tm_gpu_t *gpu, size_t bytes, void **out, tm_error_t *err) {
    *out = NULL;
    if (bytes > gpu->staging_bytes || !gpu->staging) {
        if (gpu->staging) {
            TM_TRY(tm_gpu_check(gpu, cudaFreeHost(gpu->staging), "pinned memory", err));
        }
        gpu->staging = NULL;
        gpu->staging_bytes = 0;
        size_t spare = bytes + bytes / SPARE_DIVISOR + STEP_BYTES;
        TM_TRY(tm_gpu_check(gpu, cudaMallocHost(&gpu->staging, spare), "pinned memory", err));
        gpu->staging_bytes = spare;
    }
    *out = gpu->staging;
    return TM_OK;
}

tm_status_t tm_gpu_scalars_reset(tm_gpu_t *gpu, uint64_t **scalars, tm_error_t *err) {
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SCALARS, TM_GPU_SCALAR_COUNT, scalars, err));
    return tm_gpu_check(
        gpu, cudaMemsetAsync(*scalars, 0, TM_GPU_SCALAR_COUNT * sizeof(uint64_t), gpu->stream),
        "counters", err);
}

tm_status_t tm_gpu_scalars_read(tm_gpu_t *gpu, const char *what, tm_error_t *err) {
    TM_TRY(tm_gpu_check(gpu,
                        cudaMemcpyAsync(gpu->host_scalars, gpu->buffer[TM_GPU_SCALARS].data,
                                        TM_GPU_SCALAR_COUNT * sizeof(uint64_t),
                                        cudaMemcpyDeviceToHost, gpu->stream),
                        what, err));
    return tm_gpu_wait(gpu, what, err);
}

tm_status_t tm_gpu_read_u64(tm_gpu_t *gpu, const uint64_t *from, uint64_t *value, const char *what,
                            tm_error_t *err) {
    TM_TRY(tm_gpu_check(
        gpu,
        cudaMemcpyAsync(gpu->host_scalars, from, sizeof *from, cudaMemcpyDeviceToHost, gpu->stream),
        what, err));
    TM_TRY(tm_gpu_wait(gpu, what, err));
    *value = gpu->host_scalars[0];
    return TM_OK;
}

/* ---- GPUs ---- */

int tm_cuda_count(tm_error_t *err) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count > 0) {
        return count;
    }
    (void)cudaGetLastError();
    int driver = 0;
    int wanted = CUDART_VERSION / 1000;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) {
        (void)cudaGetLastError();
    }
    if (driver == 0) {
        tm_error_set(err, TM_E_BACKEND, "no GPU: this machine has no NVIDIA driver");
    } else if (error == cudaErrorInsufficientDriver) {
        tm_error_set(err, TM_E_BACKEND,
                     "no GPU: the NVIDIA driver knows CUDA %d.%d, this program needs %d.0: install "
                     "a newer driver",
                     driver / 1000, driver % 1000 / 10, wanted);
    } else if (error == cudaSuccess || error == cudaErrorNoDevice) {
        tm_error_set(err, TM_E_BACKEND,
                     "no GPU: the driver sees none (is CUDA_VISIBLE_DEVICES empty?)");
    } else {
        tm_error_set(err, TM_E_BACKEND, "no GPU: %s", cudaGetErrorString(error));
    }
    return 0;
}

void tm_cuda_name(int ordinal, char *name, size_t bytes) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, ordinal) == cudaSuccess) {
        snprintf(name, bytes, "%s", properties.name);
    } else {
        (void)cudaGetLastError();
        snprintf(name, bytes, "unknown");
    }
}

/* ---- life ---- */

static void cuda_close(tm_device_t **p) {
    tm_gpu_t *gpu = (tm_gpu_t *)*p;
    if (!gpu) {
        return;
    }
    /* on the way out nothing can be done about errors; forget them, for the runtime remembers */
    (void)cudaSetDevice(gpu->ordinal);
    if (gpu->stream) {
        (void)cudaStreamSynchronize(gpu->stream);
    }
    tm_fused_close(gpu, &gpu->fused);
    tm_gpu_blas_close(gpu);
    tm_post_destroy(&gpu->post);
    for (int i = 0; i < TM_GPU_BUFFER_COUNT; i++) {
        free_buffer(gpu, &gpu->buffer[i]);
    }
    if (gpu->staging) {
        (void)cudaFreeHost(gpu->staging);
    }
    if (gpu->host_scalars) {
        (void)cudaFreeHost(gpu->host_scalars);
    }
    if (gpu->stream) {
        (void)cudaStreamDestroy(gpu->stream);
    }
    (void)cudaGetLastError();
    free(gpu->node_mlp);
    free(gpu->edge_mlp);
    free(gpu);
    *p = NULL;
}

static tm_status_t check_gpu(const tm_gpu_t *gpu, tm_error_t *err) {
    int count = tm_cuda_count(err);
    if (count == 0) {
        return TM_E_BACKEND;
    }
    if (gpu->ordinal < 0 || gpu->ordinal >= count) {
        return tm_error_set(err, TM_E_BACKEND, "no GPU %s: this machine has cuda:0 to cuda:%d",
                            gpu->name, count - 1);
    }
    int major = 0;
    cudaError_t error =
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gpu->ordinal);
    if (error == cudaSuccess && major < LEAST_MAJOR) {
        return tm_error_set(err, TM_E_BACKEND,
                            "%s has compute capability %d: the engine needs %d or later", gpu->name,
                            major, LEAST_MAJOR);
    }
    return TM_OK;
}

static tm_status_t prepare(tm_gpu_t *gpu, const tm_cuda_options_t *options, tm_error_t *err) {
    TM_TRY(check_gpu(gpu, err));
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_check(gpu, cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking),
                        "a stream", err));
    TM_TRY(tm_gpu_check(
        gpu, cudaMallocHost((void **)&gpu->host_scalars, TM_GPU_SCALAR_COUNT * sizeof(uint64_t)),
        "pinned memory", err));
    TM_TRY(tm_gpu_weights_load(gpu, options->precision, err));
    const tm_pipeline_t *p = gpu->device.pipeline;
    if (tm_post_wanted(p) || p->tracks.fit.present) {
        gpu->post = tm_post_new();
        if (!gpu->post) {
            return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
        }
    }
    if (!options->one_by_one) {
        TM_TRY(tm_fused_open(gpu, &gpu->fused, err));
    }
    if (!gpu->fused) { /* better no worker than one that fails at its first event */
        TM_TRY(tm_gpu_blas_open(gpu, err));
    }
    return tm_gpu_wait(gpu, "loading the weights", err);
}

static tm_status_t cuda_find(tm_device_t *device, tm_engine_item_t *items, uint32_t n, bool *ran,
                             tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    *ran = false;
    return gpu->fused ? tm_fused_find(gpu, gpu->fused, items, n, ran, err) : TM_OK;
}

tm_status_t tm_cuda_open(const tm_pipeline_t *pipeline, const tm_cuda_options_t *options,
                         tm_device_t **out, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)calloc(1, sizeof *gpu);
    if (!gpu) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    gpu->device.stages = &tm_stages_cuda;
    gpu->device.pipeline = pipeline;
    gpu->ordinal = options->ordinal;
    gpu->memory_max = options->memory_max_bytes;
    snprintf(gpu->name, sizeof gpu->name, "cuda:%d", gpu->ordinal);
    tm_status_t status = prepare(gpu, options, err);
    tm_device_t *device = &gpu->device;
    if (status != TM_OK) {
        cuda_close(&device);
        return status;
    }
    *out = device;
    return TM_OK;
}

static tm_status_t cuda_open(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                             tm_error_t *err) {
    (void)threads;
    tm_cuda_options_t options = {};
    return tm_cuda_open(pipeline, &options, out, err);
}

static tm_status_t cuda_open_one_by_one(const tm_pipeline_t *pipeline, int threads,
                                        tm_device_t **out, tm_error_t *err) {
    (void)threads;
    tm_cuda_options_t options = {.one_by_one = true};
    return tm_cuda_open(pipeline, &options, out, err);
}

size_t tm_cuda_memory_bytes(const tm_device_t *device) {
    return ((const tm_gpu_t *)device)->memory_used;
}

/* ---- for tests and tools ---- */

bool tm_cuda_view(const tm_device_t *device, tm_cuda_view_t *view) {
    const tm_gpu_t *gpu = (const tm_gpu_t *)device;
    return gpu->fused && tm_fused_view(gpu->fused, view);
}

tm_status_t tm_cuda_upload(tm_device_t *device, const void *data, size_t bytes, void **out,
                           tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    void *memory = NULL;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_check(gpu, cudaMalloc(&memory, bytes > 0 ? bytes : 1), "an array", err));
    cudaError_t error =
        bytes > 0 ? cudaMemcpy(memory, data, bytes, cudaMemcpyHostToDevice) : cudaSuccess;
    if (error == cudaSuccess) { /* the context's stream does not wait for the default one */
        error = cudaDeviceSynchronize();
    }
    if (error != cudaSuccess) {
        (void)cudaFree(memory);
        return tm_gpu_check(gpu, error, "an upload", err);
    }
    *out = memory;
    return TM_OK;
}

tm_status_t tm_cuda_download(tm_device_t *device, const void *data, size_t bytes, void *out,
                             tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    TM_TRY(tm_gpu_enter(gpu, err));
    TM_TRY(tm_gpu_wait(gpu, "a download", err));
    return bytes == 0 ? TM_OK
                      : tm_gpu_check(gpu, cudaMemcpy(out, data, bytes, cudaMemcpyDeviceToHost),
                                     "a download", err);
}

void tm_cuda_free(tm_device_t *device, void **p) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    (void)cudaSetDevice(gpu->ordinal);
    (void)cudaFree(*p);
    *p = NULL;
}

static constexpr tm_stages_t stages_of(const char *name, decltype(tm_stages_t::open) open) {
    return {
        .name = name,
        .open = open,
        .close = cuda_close,
        .features = tm_gpu_features,
        .embed = tm_gpu_embed,
        .radius = tm_gpu_radius,
        .filter = tm_gpu_filter,
        .gnn = tm_gpu_gnn,
        .tracks = tm_gpu_tracks,
        .find = cuda_find,
    };
}

extern "C" const tm_stages_t tm_stages_cuda = stages_of("cuda", cuda_open);
extern "C" const tm_stages_t tm_stages_cuda_one_by_one =
    stages_of("cuda, one by one", cuda_open_one_by_one);
