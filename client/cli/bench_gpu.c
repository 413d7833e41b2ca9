// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_gpu.h"

#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIBRARY "libnvidia-ml.so.1"
#define NAME_BYTES 96 /* NVML_DEVICE_NAME_V2_BUFFER_SIZE */

/* Of NVML's interface as its reference manual gives it; it has no header on most machines. */
typedef int nvml_return_t; /* 0: success */
typedef void *nvml_device_t;
typedef struct {
    unsigned gpu, memory; /* percent */
} nvml_utilization_t;

typedef struct {
    nvml_device_t device;
    char name[NAME_BYTES];
    double sum;
    uint64_t samples;
} gpu_t;

struct tm_bench_gpu {
    void *library;
    bool started;
    nvml_return_t (*shutdown)(void);
    nvml_return_t (*utilization)(nvml_device_t, nvml_utilization_t *);
    uint32_t n;
    gpu_t gpu[TM_BENCH_GPUS_MAX];
};

/* A function pointer from dlsym, which gives an object pointer: ISO C knows no cast for that. */
static bool find(void *library, const char *name, void *function, size_t bytes) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, bytes);
    return symbol != NULL;
}

static bool open_library(tm_bench_gpu_t *gpu) {
    nvml_return_t (*init)(void), (*count)(unsigned *), (*at)(unsigned, nvml_device_t *),
        (*name)(nvml_device_t, char *, unsigned);
    unsigned n = 0;
    gpu->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *library = gpu->library;
    if (!library || !find(library, "nvmlInit_v2", &init, sizeof init) ||
        !find(library, "nvmlShutdown", &gpu->shutdown, sizeof gpu->shutdown) ||
        !find(library, "nvmlDeviceGetCount_v2", &count, sizeof count) ||
        !find(library, "nvmlDeviceGetHandleByIndex_v2", &at, sizeof at) ||
        !find(library, "nvmlDeviceGetName", &name, sizeof name) ||
        !find(library, "nvmlDeviceGetUtilizationRates", &gpu->utilization,
              sizeof gpu->utilization) ||
        init() != 0) {
        return false;
    }
    gpu->started = true;
    if (count(&n) != 0) {
        return false;
    }
    for (unsigned i = 0; i < n && gpu->n < TM_BENCH_GPUS_MAX; i++) {
        gpu_t *one = &gpu->gpu[gpu->n];
        if (at(i, &one->device) != 0) {
            continue; /* one that this process may not see */
        }
        if (name(one->device, one->name, sizeof one->name) != 0) {
            snprintf(one->name, sizeof one->name, "GPU");
        }
        one->name[strcspn(one->name, ",;\"\n")] = '\0'; /* what would break a line of CSV */
        gpu->n++;
    }
    return gpu->n > 0;
}

tm_bench_gpu_t *tm_bench_gpu_new(void) {
    tm_bench_gpu_t *gpu = calloc(1, sizeof *gpu);
    if (gpu && !open_library(gpu)) {
        tm_bench_gpu_destroy(&gpu);
    }
    return gpu;
}

void tm_bench_gpu_destroy(tm_bench_gpu_t **p) {
    tm_bench_gpu_t *gpu = *p;
    if (!gpu) {
        return;
    }
    if (gpu->started) {
        gpu->shutdown();
    }
    if (gpu->library) {
        dlclose(gpu->library);
    }
    free(gpu);
    *p = NULL;
}

uint32_t tm_bench_gpu_count(const tm_bench_gpu_t *gpu) {
    return gpu ? gpu->n : 0;
}

const char *tm_bench_gpu_name(const tm_bench_gpu_t *gpu, uint32_t i) {
    return gpu->gpu[i].name;
}

void tm_bench_gpu_reset(tm_bench_gpu_t *gpu) {
    for (uint32_t i = 0; i < tm_bench_gpu_count(gpu); i++) {
        gpu->gpu[i].sum = 0;
        gpu->gpu[i].samples = 0;
    }
}

void tm_bench_gpu_sample(tm_bench_gpu_t *gpu) {
    for (uint32_t i = 0; i < tm_bench_gpu_count(gpu); i++) {
        nvml_utilization_t now;
        if (gpu->utilization(gpu->gpu[i].device, &now) == 0) {
            gpu->gpu[i].sum += now.gpu;
            gpu->gpu[i].samples++;
        }
    }
}

double tm_bench_gpu_busy(const tm_bench_gpu_t *gpu, uint32_t i) {
    const gpu_t *one = &gpu->gpu[i];
    return one->samples ? one->sum / (double)one->samples : NAN;
}
