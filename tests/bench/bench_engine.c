// SPDX-License-Identifier: Apache-2.0
/*
 * Times every stage of the engine: CSV with the median of several runs of each.
 *
 *   bench_engine [--model FILE] [--threads N] [--repeat N] [--random POINTS]… [EVENT]…
 *
 * Without a model file the weights are random, in the shape of the standard model, with the radius
 * and the filter's cut chosen per event so that graphs have the standard model's usual size. EVENT is
 * anything that tm_event_file_read takes; --random makes points along helices.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/event_file.h"
#include "nn/model.h"
#include "nn/stages.h"
#include "tests/support/model_writer.h"

#define REPEAT_DEFAULT 5
#define REPEAT_MAX 1000
#define SEED 20240601u
/* What the standard model makes of an event: edges per point after the radius search, and the share
 * that the filter keeps. */
#define RADIUS_EDGES_PER_POINT 33.0
#define FILTER_KEEPS 0.114
#define SAMPLE_PAIRS 2000000u
#define POINTS_PER_HELIX 10u

typedef struct {
    const char *model_path;
    int threads, repeat;
} options_t;

static void die(const char *what, const tm_error_t *err) {
    fprintf(stderr, "bench_engine: %s%s%s\n", what, err ? ": " : "", err ? err->text : "");
    exit(1);
}

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static double uniform(uint64_t *state) {
    return (double)next_random(state) / (double)(1u << 31);
}

/* ---- events ---- */

/* Points on helices from near the origin, smeared; the columns that the standard model needs. */
static void make_event(uint32_t n, tm_columns_t *event, float *memory) {
    static const char *const names[] = {"x", "y", "z", "size_loc0", "size_loc1", "charge"};
    uint64_t state = SEED;
    double phi = 0;
    double curvature = 0;
    double slope = 0;
    double z0 = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i % POINTS_PER_HELIX == 0) {
            phi = 2 * acos(-1) * uniform(&state);
            curvature = (uniform(&state) - 0.5) * 1e-3;
            slope = sinh(6 * (uniform(&state) - 0.5));
            z0 = 150 * (uniform(&state) - 0.5);
        }
        double r = 30 + 100 * (i % POINTS_PER_HELIX);
        double at = phi + curvature * r;
        memory[i] = (float)(r * cos(at));
        memory[n + i] = (float)(r * sin(at));
        memory[2 * (size_t)n + i] = (float)(z0 + slope * r);
        memory[3 * (size_t)n + i] = (float)(1 + next_random(&state) % 3);
        memory[4 * (size_t)n + i] = (float)(1 + next_random(&state) % 5);
        memory[5 * (size_t)n + i] = (float)(0.1 + uniform(&state));
    }
    for (size_t c = 0; c < 6; c++) {
        tm_error_t err = {0};
        if (tm_columns_add(event, names[c], TM_F32, n, memory + c * n, &err) != TM_OK) {
            die("making an event", &err);
        }
    }
}

/* ---- random weights ---- */

static tm_model_t *random_model(void) {
    static const tm_mlp_style_t inner = {
        .activation = TM_OP_SILU, .norm = true, .norm_kind = TM_OP_LAYER_NORM};
    tm_mlp_style_t all = inner;
    all.last_activation = true;
    tm_model_writer_t *w = tm_model_writer_new(SEED);
    const uint32_t embed[] = {512, 512, 512, 512, 8};
    const uint32_t filter[] = {128, 128, 128, 1};
    const uint32_t hidden[] = {64, 64};
    const uint32_t output[] = {64, 1};
    const char *json = tm_model_writer_text(
        w,
        "{\"format\": 1, \"name\": \"random\", \"version\": \"1\", \"features\": ["
        "{\"name\": \"r\", \"scale\": 1000}, {\"name\": \"phi\", \"scale\": 3.14159265},"
        "{\"name\": \"z\", \"scale\": 1000}, {\"name\": \"size_loc0\", \"scale\": 10},"
        "{\"name\": \"size_loc1\", \"scale\": 10}, {\"name\": \"log_charge\", \"scale\": 5}],"
        "\"edge_features\": [{\"name\": \"dr\", \"scale\": 100},"
        "{\"name\": \"dphi\", \"scale\": 0.1}, {\"name\": \"dz\", \"scale\": 100},"
        "{\"name\": \"deta\", \"scale\": 0.2}, {\"name\": \"z0\", \"scale\": 50, \"clamp\": 10},"
        "{\"name\": \"curvature\", \"scale\": 0.000333333333, \"clamp\": 10}],"
        "\"embed\": {\"mlp\": %s, \"normalize\": true},"
        "\"radius\": {\"r\": 0.5, \"k\": 0, \"direction\": \"outward\"},"
        "\"filter\": {\"inputs\": [\"x_src\", \"x_dst\", \"edge_features\"], \"mlp\": %s,"
        "\"cut\": 0.5}, \"gnn\": {\"kind\": \"interaction\", \"steps\": 8,"
        "\"order\": \"node_first\", \"node_encoder\": %s,"
        "\"edge_encoder_inputs\": [\"x_src\", \"x_dst\", \"edge_features\"],"
        "\"edge_encoder\": %s, \"node_inputs\": [\"x\", \"sum_dst\", \"sum_src\"],"
        "\"node_mlp\": %s, \"node_residual\": true,"
        "\"edge_inputs\": [\"x_src\", \"x_dst\", \"e\"], \"edge_mlp\": %s,"
        "\"edge_residual\": true, \"output_inputs\": [\"x_src\", \"x_dst\", \"e\"],"
        "\"output\": %s},"
        "\"tracks\": {\"cut\": 0.2, \"builder\": \"best_edges\", \"min_points\": 3}}",
        tm_model_writer_mlp(w, "embed", 6, embed, 5, &inner),
        tm_model_writer_mlp(w, "filter", 18, filter, 4, &inner),
        tm_model_writer_mlp(w, "node_encoder", 6, hidden, 2, &all),
        tm_model_writer_mlp(w, "edge_encoder", 134, hidden, 2, &all),
        tm_model_writer_mlp(w, "node", 192, hidden, 2, &all),
        tm_model_writer_mlp(w, "edge", 192, hidden, 2, &all),
        tm_model_writer_mlp(w, "output", 192, output, 2, &inner));
    size_t bytes = 0;
    uint8_t *file = tm_model_writer_bytes(w, json, &bytes);
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    if (tm_model_from_memory(file, bytes, "random weights", &model, &err) != TM_OK) {
        die("random weights", &err);
    }
    free(file);
    tm_model_writer_destroy(&w);
    return model;
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Chooses radius and filter cut so that the graph of this event has the usual size. */
static void fit_cuts(tm_pipeline_t *p, const tm_columns_t *event, int threads) {
    tm_error_t err = {0};
    tm_device_t *device = NULL;
    tm_points_t points;
    tm_edges_t edges, kept;
    const float *features, *embedding, *logits;
    uint32_t n = 0;
    if (tm_event_check(event, &n, &err) != TM_OK ||
        tm_stages_cpu.open(p, threads, &device, &err) != TM_OK ||
        tm_stages_cpu.features(device, event, n, &points, &features, &err) != TM_OK ||
        tm_stages_cpu.embed(device, n, features, &embedding, &err) != TM_OK) {
        die("fitting the cuts", &err);
    }
    float *sample = malloc(SAMPLE_PAIRS * sizeof *sample);
    if (!sample || n < 2) {
        die("fitting the cuts: no memory, or no points", NULL);
    }
    uint64_t state = SEED;
    for (uint32_t k = 0; k < SAMPLE_PAIRS; k++) {
        const float *a = embedding + next_random(&state) % n * p->embed.mlp.out;
        const float *b = embedding + next_random(&state) % n * p->embed.mlp.out;
        sample[k] = 0;
        for (uint32_t d = 0; d < p->embed.mlp.out; d++) {
            sample[k] += (a[d] - b[d]) * (a[d] - b[d]);
        }
    }
    qsort(sample, SAMPLE_PAIRS, sizeof *sample, compare_floats);
    double share = 2 * RADIUS_EDGES_PER_POINT / n;
    share = share < 1 ? share : 1;
    p->radius.r = sqrtf(sample[(size_t)(share * (SAMPLE_PAIRS - 1))]);
    free(sample);
    p->filter.cut = 0;
    if (tm_stages_cpu.radius(device, &points, embedding, &edges, &err) != TM_OK ||
        tm_stages_cpu.filter(device, &points, features, &edges, &kept, &logits, &err) != TM_OK) {
        die("fitting the cuts", &err);
    }
    float *sorted = malloc((kept.n + 1) * sizeof *sorted);
    if (!sorted || kept.n == 0) {
        die("fitting the cuts: no memory, or no edges", NULL);
    }
    memcpy(sorted, logits, kept.n * sizeof *sorted);
    qsort(sorted, kept.n, sizeof *sorted, compare_floats);
    double logit = (double)sorted[(size_t)((1 - FILTER_KEEPS) * (kept.n - 1))];
    p->filter.cut = (float)(1 / (1 + exp(-logit)));
    free(sorted);
    tm_stages_cpu.close(&device);
}

/* ---- runs ---- */

static int compare_times(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t median(uint32_t *times, int n) {
    qsort(times, (size_t)n, sizeof *times, compare_times);
    return times[n / 2];
}

static void machine_name(char *name, size_t bytes) {
    snprintf(name, bytes, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            colon[strcspn(colon, "\n,")] = '\0';
            snprintf(name, bytes, "%s", colon + 2);
            break;
        }
    }
    if (f) {
        fclose(f);
    }
}

static void bench(const tm_pipeline_t *pipeline, const options_t *o, const char *event_name,
                  const tm_columns_t *event) {
    static uint32_t times[TM_STAGES_MAX + 1][REPEAT_MAX];
    const tm_engine_options_t options = {.threads = o->threads};
    tm_engine_t *engine = NULL;
    tm_engine_counts_t counts = {0};
    tm_timings_t timings = {0};
    tm_error_t err = {0};
    uint32_t n_tracks = 0;
    if (tm_engine_new_on(&tm_stages_cpu, pipeline, &options, &engine, &err) != TM_OK) {
        die("engine", &err);
    }
    /* the first run only makes the buffers */
    for (int run = -1; run < o->repeat; run++) {
        tm_tracks_t tracks = {0};
        if (tm_engine_find(engine, event, NULL, &tracks, &timings, &counts, &err) != TM_OK) {
            die(event_name, &err);
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
    char machine[128];
    machine_name(machine, sizeof machine);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t n = tm_columns_find(event, "x")->n;
    for (uint32_t s = 0; s <= timings.count; s++) {
        printf("%s,%ld,%d,%s,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%u,%s,%.3f\n", machine, cores,
               o->threads, event_name, n, counts.radius_edges, counts.filter_edges, n_tracks,
               s < timings.count ? timings.stage[s].name : "total",
               median(times[s], o->repeat) / 1000.0);
    }
    fflush(stdout);
    tm_engine_destroy(&engine);
}

static void bench_event(const tm_model_t *model, const options_t *o, const char *name,
                        const tm_columns_t *event) {
    tm_pipeline_t pipeline = *tm_model_pipeline(model);
    if (!o->model_path) {
        fit_cuts(&pipeline, event, o->threads);
    }
    bench(&pipeline, o, name, event);
}

static long number(const char *text, long max) {
    char *end = NULL;
    errno = 0;
    long value = strtol(text ? text : "", &end, 10);
    if (!text || errno || *end || end == text || value < 1 || value > max) {
        fprintf(stderr, "bench_engine: '%s' is no number from 1 to %ld\n", text ? text : "", max);
        exit(2);
    }
    return value;
}

static void bench_random(const tm_model_t *model, const options_t *o, uint32_t n) {
    float *memory = malloc(6 * (size_t)n * sizeof *memory);
    if (!memory) {
        die("no memory for random points", NULL);
    }
    tm_columns_t event = {0};
    char name[32];
    snprintf(name, sizeof name, "random%u", n);
    make_event(n, &event, memory);
    bench_event(model, o, name, &event);
    free(memory);
}

static void bench_file(const tm_model_t *model, const options_t *o, const char *path) {
    tm_event_file_t file = {0};
    tm_error_t err = {0};
    if (tm_event_file_read(path, &file, &err) != TM_OK) {
        die(path, &err);
    }
    bench_event(model, o, file.name, &file.columns);
    tm_event_file_clear(&file);
}

int main(int argc, char **argv) {
    options_t o = {.threads = (int)sysconf(_SC_NPROCESSORS_ONLN), .repeat = REPEAT_DEFAULT};
    tm_model_t *model = NULL;
    tm_error_t err = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--model") == 0) {
            o.model_path = argv[++i];
        } else if (strcmp(argv[i], "--threads") == 0) {
            o.threads = (int)number(argv[++i], 1024);
        } else if (strcmp(argv[i], "--repeat") == 0) {
            o.repeat = (int)number(argv[++i], REPEAT_MAX);
        } else if (strcmp(argv[i], "--random") == 0) {
            i++;
        } else if (argv[i][0] == '-') {
            fprintf(stderr, "usage: bench_engine [--model FILE] [--threads N] [--repeat N] "
                            "[--random POINTS]... [EVENT]...\n");
            return 2;
        }
    }
    if (!o.model_path) {
        model = random_model();
    } else if (tm_model_load(o.model_path, &model, &err) != TM_OK) {
        die("model", &err);
    }
    printf("machine,cores,threads,event,points,radius_edges,filter_edges,tracks,stage,median_ms\n");
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--random") == 0) {
            bench_random(model, &o, (uint32_t)number(argv[++i], TM_POINTS_MAX));
        } else if (argv[i][0] == '-') {
            i++;
        } else {
            bench_file(model, &o, argv[i]);
        }
    }
    tm_model_destroy(&model);
    return 0;
}
