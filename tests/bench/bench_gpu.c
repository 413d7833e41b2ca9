// SPDX-License-Identifier: Apache-2.0
/*
 * Times every stage of the engine on a GPU: CSV with the median of several runs of each.
 *
 *   bench_gpu MODEL [--device NAME | --one-by-one] [--repeat N] EVENT…
 *
 * EVENT is anything that tm_event_file_read takes. The first runs, which make the buffers, are not
 * counted. Times are those that a worker reports: a stage's time ends when its results are there.
 * --one-by-one: stage by stage on the first GPU, even where the model allows the fused path.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/event_file.h"
#include "nn/cuda/cuda.h"
#include "nn/engine.h"
#include "nn/pipeline.h"

#define REPEAT_DEFAULT 20
#define REPEAT_MAX 1000
#define WARM_UP 3

static void die(const char *what, const tm_error_t *err) {
    fprintf(stderr, "bench_gpu: %s: %s\n", what, err->text);
    exit(1);
}

static int compare_times(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double median_ms(uint32_t *times, int n) {
    qsort(times, (size_t)n, sizeof *times, compare_times);
    return times[n / 2] / 1000.0;
}

static void bench(tm_engine_t *engine, const char *device, const tm_event_file_t *event,
                  int repeat) {
    static uint32_t times[TM_STAGES_MAX + 1][REPEAT_MAX];
    tm_engine_counts_t counts = {0};
    tm_timings_t timings = {0};
    tm_error_t err = {0};
    uint32_t n_tracks = 0;
    for (int run = -WARM_UP; run < repeat; run++) {
        tm_tracks_t tracks = {0};
        if (tm_engine_find(engine, &event->columns, NULL, &tracks, &timings, &counts, &err) !=
            TM_OK) {
            die(event->name, &err);
        }
        n_tracks = tracks.n_tracks;
        tm_tracks_clear(&tracks);
        uint32_t total = 0;
        for (uint32_t s = 0; s < timings.count && run >= 0; s++) {
            times[s][run] = timings.stage[s].us;
            total += timings.stage[s].us;
        }
        if (run >= 0) {
            times[timings.count][run] = total;
        }
    }
    for (uint32_t s = 0; s <= timings.count; s++) {
        printf("%s,%s,%u,%" PRIu64 ",%" PRIu64 ",%u,%s,%.3f\n", device, event->name,
               event->n_points, counts.radius_edges, counts.filter_edges, n_tracks,
               s < timings.count ? timings.stage[s].name : "total", median_ms(times[s], repeat));
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    tm_engine_options_t options = {.device = "cuda"};
    int repeat = REPEAT_DEFAULT;
    bool one_by_one = false;
    tm_model_t *model = NULL;
    tm_engine_t *engine = NULL;
    tm_error_t err = {0};
    char device[128];
    if (argc < 3) {
        fprintf(stderr,
                "usage: bench_gpu MODEL [--device NAME | --one-by-one] [--repeat N] EVENT...\n");
        return 2;
    }
    if (tm_model_load(argv[1], &model, &err) != TM_OK) {
        die("model", &err);
    }
    for (int i = 2; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--device") == 0) {
            options.device = argv[i + 1];
        } else if (strcmp(argv[i], "--one-by-one") == 0) {
            one_by_one = true;
        } else if (strcmp(argv[i], "--repeat") == 0) {
            repeat = atoi(argv[i + 1]);
        }
    }
    if (repeat < 1 || repeat > REPEAT_MAX) {
        fprintf(stderr, "bench_gpu: --repeat takes 1 to %d\n", REPEAT_MAX);
        return 2;
    }
    if (tm_engine_describe(&options, device, sizeof device, &err) != TM_OK ||
        (one_by_one ? tm_engine_new_on(&tm_stages_cuda_one_by_one, tm_model_pipeline(model), NULL,
                                       &engine, &err)
                    : tm_engine_new(model, &options, &engine, &err)) != TM_OK) {
        die("engine", &err);
    }
    printf("device,event,points,radius_edges,filter_edges,tracks,stage,median_ms\n");
    for (int i = 2; i < argc; i++) {
        if (argv[i][0] == '-') {
            i += strcmp(argv[i], "--one-by-one") != 0;
            continue;
        }
        tm_event_file_t event = {0};
        if (tm_event_file_read(argv[i], &event, &err) != TM_OK) {
            die(argv[i], &err);
        }
        bench(engine, device, &event, repeat);
        tm_event_file_clear(&event);
    }
    tm_engine_destroy(&engine);
    tm_model_destroy(&model);
    return 0;
}
