// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_meter.h"

#include <string.h>
#include <time.h>

#include "client/cli/cli.h"

#define US_PER_S 1e6
#define NS_PER_MS 1000000L
#define SAMPLE_US 100000 /* NVML's own figure changes no faster */

static void look(tm_bench_meter_t *meter, bool start) {
    tm_bench_watch_look(&meter->watch, start);
    tm_bench_watch_look(&meter->load, start);
}

static void *measure(void *argument) {
    tm_bench_meter_t *meter = argument;
    uint64_t began_us = 0, sampled_us = 0;
    bool open = false;
    while (!atomic_load(&meter->done)) {
        nanosleep(&(struct timespec){.tv_nsec = TM_BENCH_METER_NAP_MS * NS_PER_MS}, NULL);
        uint64_t now_us = tm_cli_now_us();
        tm_bench_phase_t phase = tm_bench_window_phase(meter->window, now_us);
        if (phase == TM_BENCH_WARM_UP) {
            continue;
        }
        if (!open) {
            open = true;
            began_us = now_us;
            look(meter, true);
            tm_bench_gpu_reset(meter->gpu);
        } else if (phase == TM_BENCH_OVER || now_us - sampled_us >= SAMPLE_US) {
            sampled_us = now_us;
            look(meter, false);
            tm_bench_gpu_sample(meter->gpu);
            meter->seconds = (double)(now_us - began_us) / US_PER_S;
        }
        if (phase == TM_BENCH_OVER && meter->seconds > 0) {
            break;
        }
    }
    return NULL;
}

tm_status_t tm_bench_meter_start(tm_bench_meter_t *meter, const tm_bench_window_t *window,
                                 tm_error_t *err) {
    meter->window = window;
    meter->seconds = 0;
    atomic_init(&meter->done, false);
    int fault = pthread_create(&meter->thread, NULL, measure, meter);
    return fault ? tm_error_set(err, TM_E_SYSTEM, "no thread for the meter: %s", strerror(fault))
                 : TM_OK;
}

void tm_bench_meter_stop(tm_bench_meter_t *meter) {
    atomic_store(&meter->done, true);
    pthread_join(meter->thread, NULL);
}
