// SPDX-License-Identifier: Apache-2.0
/*
 * How busy this machine's NVIDIA GPUs are, by NVML.
 *
 * NVML is the driver's library: it is looked for when the program runs (libnvidia-ml.so.1), and where
 * there is none there are simply no GPUs. Busy is NVML's own figure: percent of its last sampling
 * period (a sixth of a second to a second, by model) during which at least one kernel ran, averaged
 * here over many samples.
 *
 * Threads: one at a time.
 */
#ifndef TM_CLI_BENCH_GPU_H
#define TM_CLI_BENCH_GPU_H

#include <stdint.h>

#define TM_BENCH_GPUS_MAX 64

typedef struct tm_bench_gpu tm_bench_gpu_t;

/* NULL: no NVML, or no GPU. */
tm_bench_gpu_t *tm_bench_gpu_new(void);
void tm_bench_gpu_destroy(tm_bench_gpu_t **p);

/* 0 for NULL. */
uint32_t tm_bench_gpu_count(const tm_bench_gpu_t *gpu);
const char *tm_bench_gpu_name(const tm_bench_gpu_t *gpu, uint32_t i);

/* Forgets the samples; takes one; percent on average since, NaN without any. */
void tm_bench_gpu_reset(tm_bench_gpu_t *gpu);
void tm_bench_gpu_sample(tm_bench_gpu_t *gpu);
double tm_bench_gpu_busy(const tm_bench_gpu_t *gpu, uint32_t i);

#endif
