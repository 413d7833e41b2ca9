// SPDX-License-Identifier: Apache-2.0
/* A pretended libnvidia-ml.so.1 for tests on machines without a GPU: three GPUs, of which the third
 * cannot tell how busy it is. Each time it is asked, the first is by turns 100 % and 50 % busy. */
#include <stdint.h>
#include <stdio.h>

enum { GPUS = 3, NOT_SUPPORTED = 3 };

typedef struct {
    unsigned gpu, memory;
} utilization_t;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetName(void *device, char *name, unsigned bytes);
int nvmlDeviceGetUtilizationRates(void *device, utilization_t *utilization);

static char devices[GPUS];

int nvmlInit_v2(void) {
    return 0;
}

int nvmlShutdown(void) {
    return 0;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = GPUS;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = &devices[index];
    return 0;
}

int nvmlDeviceGetName(void *device, char *name, unsigned bytes) {
    snprintf(name, bytes, "Pretended GPU, model %d", (int)((char *)device - devices));
    return 0;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization_t *utilization) {
    static unsigned asked;
    if (device == &devices[2])
        return NOT_SUPPORTED;
    utilization->gpu = device == &devices[1] ? 25 : asked++ % 2 ? 50 : 100;
    utilization->memory = 0;
    return 0;
}
