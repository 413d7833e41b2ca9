// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_report.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/cli.h"

#define US_PER_MS 1e3
#define US_PER_S 1e6
#define LINE_BYTES 1024
#define FAILURES_BYTES 512
#define LABEL_WIDTH 28

static const char csv_titles[] =
    "date,version,machine,cores,mode,model,mix,events,mean_points,in_flight,callers,threads,"
    "seconds,answers,events_per_s,points_per_s,p50_ms,p90_ms,p99_ms,max_ms,queue_ms,service_ms,"
    "stages_ms,overhead_ms,sent_bytes_per_point,received_bytes_per_point,retried,failed,failures,"
    "mismatches,loop,processes,rate,offered,late,late_max_ms,unsent,bytes_per_s,differing_mean,"
    "differing_max,score_difference,load_cpu_s,gpus,gpu_busy,watched_cpu_s,watched_peak_mib,"
    "watched_faults\n";

/* ---- the setting ---- */

static void find_machine(char *out, size_t bytes) {
    char line[512];
    snprintf(out, bytes, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", strlen("model name")) == 0 && colon) {
            char *name = colon + 1 + strspn(colon + 1, " \t");
            name[strcspn(name, "\n,\"")] = '\0'; /* what would break a line of CSV */
            if (*name) {
                snprintf(out, bytes, "%s", name);
            }
            break;
        }
    }
    if (file) {
        fclose(file);
    }
}

void tm_bench_setting_make(const tm_bench_events_t *events, bool service, tm_bench_setting_t *out) {
    time_t now = time(NULL);
    struct tm utc;
    *out = (tm_bench_setting_t){.service = service, .n_events = events->n};
    find_machine(out->machine, sizeof out->machine);
    out->cores = sysconf(_SC_NPROCESSORS_ONLN);
    strftime(out->date, sizeof out->date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    tm_bench_events_name(events, out->mix, sizeof out->mix);
    for (char *c = out->mix; *c; c++) {
        *c = *c == ',' || *c == '"' ? '_' : *c;
    }
    out->mean_points = (double)events->points / events->n;
}

/* ---- figures ---- */

#define BY(field) \
    static int by_##field(const void *a, const void *b) { \
        uint64_t x = ((const tm_bench_sample_t *)a)->field; \
        uint64_t y = ((const tm_bench_sample_t *)b)->field; \
        return (x > y) - (x < y); \
    }
BY(queue_us)
BY(service_us)
BY(stages_us)
BY(total_us)

static uint64_t overhead_us(const tm_bench_sample_t *s) {
    return s->total_us > s->stages_us ? s->total_us - s->stages_us : 0;
}

static int by_overhead(const void *a, const void *b) {
    uint64_t x = overhead_us(a), y = overhead_us(b);
    return (x > y) - (x < y);
}

/* The sample that a share `q` of all does not exceed: nearest rank. n > 0 */
static const tm_bench_sample_t *at(const tm_bench_point_t *point, double q) {
    size_t rank = (size_t)ceil(q * (double)point->n);
    return &point->sample[rank > 0 ? rank - 1 : 0];
}

static void sort(tm_bench_point_t *point, int (*by)(const void *, const void *)) {
    qsort(point->sample, point->n, sizeof *point->sample, by);
}

void tm_bench_figures_make(tm_bench_point_t *point, const tm_bench_meter_t *meter,
                           tm_bench_figures_t *f) {
    double window_s = (double)point->window_us / US_PER_S;
    *f = (tm_bench_figures_t){.seconds = window_s};
    f->differing = point->compared ? point->differing_sum / (double)point->compared : NAN;
    f->bytes_per_s =
        window_s > 0 ? (double)(point->sent_bytes + point->received_bytes) / window_s : NAN;
    for (uint32_t i = 0; i < meter->load.n; i++) {
        f->load_cpu_s += tm_bench_watch_cpu_s(&meter->load.process[i]);
    }
    f->events_per_s = window_s > 0 ? (double)point->answered / window_s : NAN;
    f->points_per_s = window_s > 0 ? (double)point->points / window_s : NAN;
    f->sent_per_point = point->points ? (double)point->sent_bytes / (double)point->points : NAN;
    f->received_per_point =
        point->points ? (double)point->received_bytes / (double)point->points : NAN;
    if (point->n == 0) {
        f->p50 = f->p90 = f->p99 = f->max = NAN;
        f->queue = f->service = f->stages = f->overhead = NAN;
        return;
    }
    sort(point, by_queue_us);
    f->queue = (double)at(point, 0.5)->queue_us / US_PER_MS;
    sort(point, by_service_us);
    f->service = (double)at(point, 0.5)->service_us / US_PER_MS;
    sort(point, by_stages_us);
    f->stages = (double)at(point, 0.5)->stages_us / US_PER_MS;
    sort(point, by_overhead);
    f->overhead = (double)overhead_us(at(point, 0.5)) / US_PER_MS;
    sort(point, by_total_us);
    f->p50 = (double)at(point, 0.5)->total_us / US_PER_MS;
    f->p90 = (double)at(point, 0.9)->total_us / US_PER_MS;
    f->p99 = (double)at(point, 0.99)->total_us / US_PER_MS;
    f->max = (double)at(point, 1)->total_us / US_PER_MS;
}

const char *tm_bench_failures(const tm_bench_point_t *point, char *out, size_t bytes) {
    size_t used = 0;
    out[0] = '\0';
    for (int code = 0; code < TM_BENCH_CODES && used < bytes; code++) {
        if (point->failed[code]) {
            used += (size_t)snprintf(out + used, bytes - used, "%s%s=%" PRIu64, used ? ";" : "",
                                     tm_status_name((tm_status_t)code), point->failed[code]);
        }
    }
    return out;
}

/* ---- the table ---- */

void tm_bench_print_titles(FILE *out, const tm_bench_setting_t *setting) {
    fprintf(out, "%9s %9s %12s %9s %9s %9s %9s %9s %9s %9s %9s  %s\n",
            setting->open ? "offered/s" : "in flight", "events/s", "points/s", "p50 ms", "p90 ms",
            "p99 ms", "max ms", "queue ms", "service", "overhead", "answers", "failures");
}

static void print_ms(FILE *out, double ms) {
    if (isnan(ms)) {
        fprintf(out, " %9s", "-");
    } else {
        fprintf(out, " %9.*f", ms < 10 ? 3 : ms < 1000 ? 2 : 0, ms);
    }
}

/* What follows a row: who was how busy meanwhile. */
static void print_meter(FILE *out, const tm_bench_meter_t *meter) {
    for (uint32_t i = 0; i < tm_bench_gpu_count(meter->gpu); i++) {
        double busy = tm_bench_gpu_busy(meter->gpu, i);
        fprintf(out, "%9s GPU %-3u %-*s ", "", i, LABEL_WIDTH, tm_bench_gpu_name(meter->gpu, i));
        if (isnan(busy)) {
            fprintf(out, "%9s busy\n", "-");
        } else {
            fprintf(out, "%7.1f %% busy\n", busy);
        }
    }
    for (uint32_t i = 0; i < meter->watch.n; i++) {
        const tm_bench_watched_t *p = &meter->watch.process[i];
        double cores = meter->seconds > 0 ? tm_bench_watch_cpu_s(p) / meter->seconds : 0;
        fprintf(out, "%9s %-7d %-*s %7.2f cores, peak %.1f MiB%s\n", "", (int)p->pid, LABEL_WIDTH,
                p->name, cores, p->peak_mib, p->gone ? ", gone" : "");
    }
}

void tm_bench_print_row(FILE *out, const tm_bench_setting_t *setting, const tm_bench_point_t *point,
                        const tm_bench_meter_t *meter, const tm_bench_figures_t *f) {
    char text[TM_CLI_NUMBER_BYTES], failures[FAILURES_BYTES];
    const double times[] = {f->p50, f->p90, f->p99, f->max, f->queue, f->service, f->overhead};
    if (setting->open) {
        fprintf(out, "%9.1f", point->rate);
    } else {
        fprintf(out, "%9u", point->in_flight);
    }
    fprintf(out, " %9.*f %12s", f->events_per_s < 100 ? 3 : 1, f->events_per_s,
            tm_cli_thousands((uint64_t)(f->points_per_s + 0.5), text));
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        print_ms(out, times[i]);
    }
    fprintf(out, " %9zu  %s", point->n,
            point->n_failed ? tm_bench_failures(point, failures, sizeof failures) : "none");
    if (point->late || point->unsent) {
        fprintf(out, ", %" PRIu64 " late, %" PRIu64 " unsent", point->late, point->unsent);
    }
    if (point->differing_max > 0) {
        fprintf(out, ", tracks differ by %.3g %%", 100 * f->differing);
    }
    if (point->mismatches) {
        fprintf(out, ", %" PRIu64 " wrong answers", point->mismatches);
    }
    fputc('\n', out);
    print_meter(out, meter);
    fflush(out);
}

/* ---- CSV ---- */

tm_status_t tm_bench_csv_open(const char *path, FILE **out, tm_error_t *err) {
    char line[LINE_BYTES];
    FILE *file = *out = fopen(path, "a+");
    if (!file) {
        return tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
    }
    rewind(file);
    if (!fgets(line, sizeof line, file)) {
        fputs(csv_titles, file);
    } else if (strcmp(line, csv_titles) != 0) {
        fclose(file);
        *out = NULL;
        return tm_error_set(
            err, TM_E_FILE,
            "%s: line 1: its columns are not those of this program: name a new file", path);
    }
    fseek(file, 0, SEEK_END); /* between reading and writing */
    return TM_OK;
}

static void csv_number(FILE *out, const char *format, double value) {
    if (!isnan(value)) {
        fprintf(out, format, value);
    }
    fputc(',', out);
}

/* A column of several values: "NAME=VALUE;NAME=VALUE,". */
static void csv_watched(FILE *out, const tm_bench_watch_t *watch,
                        double (*value)(const tm_bench_watched_t *)) {
    for (uint32_t i = 0; i < watch->n; i++) {
        fprintf(out, "%s%s:%d=%.6g", i ? ";" : "", watch->process[i].name,
                (int)watch->process[i].pid, value(&watch->process[i]));
    }
}

static double peak_of(const tm_bench_watched_t *process) {
    return process->peak_mib;
}

static double faults_of(const tm_bench_watched_t *process) {
    return (double)tm_bench_watch_faults(process);
}

static void csv_gpus(FILE *out, const tm_bench_gpu_t *gpu) {
    for (uint32_t i = 0; i < tm_bench_gpu_count(gpu); i++) {
        fprintf(out, "%s%s", i ? ";" : "", tm_bench_gpu_name(gpu, i));
    }
    fputc(',', out);
    for (uint32_t i = 0; i < tm_bench_gpu_count(gpu); i++) {
        double busy = tm_bench_gpu_busy(gpu, i);
        fputs(i ? ";" : "", out);
        if (!isnan(busy)) {
            fprintf(out, "%.1f", busy);
        }
    }
    fputc(',', out);
}

void tm_bench_csv_row(FILE *out, const tm_bench_setting_t *setting, const tm_bench_point_t *point,
                      const tm_bench_meter_t *meter, const tm_bench_figures_t *f) {
    char failures[FAILURES_BYTES];
    fprintf(out, "%s,%s,%s,%ld,%s,%s,%s,%u,%.0f,%u,%u,%u,", setting->date, TM_VERSION,
            setting->machine, setting->cores, setting->service ? "service" : "embedded",
            point->model, setting->mix, setting->n_events, setting->mean_points, point->in_flight,
            point->callers, point->threads);
    fprintf(out, "%.3f,%zu,", f->seconds, point->n);
    csv_number(out, "%.4f", f->events_per_s);
    csv_number(out, "%.0f", f->points_per_s);
    const double times[] = {f->p50,   f->p90,     f->p99,    f->max,
                            f->queue, f->service, f->stages, f->overhead};
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        csv_number(out, "%.3f", times[i]);
    }
    csv_number(out, "%.4f", f->sent_per_point);
    csv_number(out, "%.4f", f->received_per_point);
    fprintf(out, "%" PRIu64 ",%" PRIu64 ",%s,%" PRIu64 ",", point->retried, point->n_failed,
            tm_bench_failures(point, failures, sizeof failures), point->mismatches);
    fprintf(out, "%s,%u,",
            !setting->open    ? "closed"
            : setting->evenly ? "fixed"
                              : "poisson",
            point->processes);
    if (setting->open) {
        fprintf(out, "%.6g,%" PRIu64 ",%" PRIu64 ",%.3f,%" PRIu64 ",", point->rate, point->offered,
                point->late, (double)point->late_max_us / US_PER_MS, point->unsent);
    } else {
        fputs(",,,,,", out);
    }
    csv_number(out, "%.0f", f->bytes_per_s);
    csv_number(out, "%.6f", f->differing);
    csv_number(out, "%.6f", point->differing_max);
    csv_number(out, "%.6f", point->score_difference);
    csv_number(out, "%.3f", f->load_cpu_s);
    csv_gpus(out, meter->gpu);
    csv_watched(out, &meter->watch, tm_bench_watch_cpu_s);
    fputc(',', out);
    csv_watched(out, &meter->watch, peak_of);
    fputc(',', out);
    csv_watched(out, &meter->watch, faults_of);
    fputc('\n', out);
}

/* ---- JSON ---- */

json_t *tm_bench_setting_json(const tm_bench_setting_t *setting) {
    return json_pack("{ss ss ss sI ss ss ss sI sf}", "date", setting->date, "version", TM_VERSION,
                     "machine", setting->machine, "cores", (json_int_t)setting->cores, "mode",
                     setting->service ? "service" : "embedded", "loop",
                     !setting->open    ? "closed"
                     : setting->evenly ? "fixed"
                                       : "poisson",
                     "mix", setting->mix, "events", (json_int_t)setting->n_events, "mean_points",
                     setting->mean_points);
}

static json_t *number(double value) {
    return isnan(value) ? json_null() : json_real(value);
}

static json_t *gpus_json(const tm_bench_gpu_t *gpu) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < tm_bench_gpu_count(gpu); i++) {
        json_array_append_new(list, json_pack("{si ss so}", "index", (int)i, "name",
                                              tm_bench_gpu_name(gpu, i), "busy_percent",
                                              number(tm_bench_gpu_busy(gpu, i))));
    }
    return list;
}

static json_t *watched_json(const tm_bench_meter_t *meter) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < meter->watch.n; i++) {
        const tm_bench_watched_t *p = &meter->watch.process[i];
        json_array_append_new(
            list, json_pack("{si ss sf sf sI sb}", "pid", (int)p->pid, "name", p->name, "cpu_s",
                            tm_bench_watch_cpu_s(p), "peak_mib", p->peak_mib, "faults",
                            (json_int_t)tm_bench_watch_faults(p), "gone", (int)p->gone));
    }
    return list;
}

json_t *tm_bench_row_json(const tm_bench_point_t *point, const tm_bench_meter_t *meter,
                          const tm_bench_figures_t *f) {
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"seconds", f->seconds},
                   {"events_per_s", f->events_per_s},
                   {"points_per_s", f->points_per_s},
                   {"p50_ms", f->p50},
                   {"p90_ms", f->p90},
                   {"p99_ms", f->p99},
                   {"max_ms", f->max},
                   {"queue_ms", f->queue},
                   {"service_ms", f->service},
                   {"stages_ms", f->stages},
                   {"overhead_ms", f->overhead},
                   {"sent_bytes_per_point", f->sent_per_point},
                   {"received_bytes_per_point", f->received_per_point},
                   {"bytes_per_s", f->bytes_per_s},
                   {"differing_mean", f->differing},
                   {"differing_max", point->differing_max},
                   {"score_difference", point->score_difference},
                   {"load_cpu_s", f->load_cpu_s}};
    json_t *failures = json_object();
    for (int code = 0; code < TM_BENCH_CODES; code++) {
        if (point->failed[code]) {
            json_object_set_new(failures, tm_status_name((tm_status_t)code),
                                json_integer((json_int_t)point->failed[code]));
        }
    }
    json_t *row = json_pack("{si si si ss sI sI sI sI so}", "in_flight", (int)point->in_flight,
                            "callers", (int)point->callers, "threads", (int)point->threads, "model",
                            point->model, "answers", (json_int_t)point->n, "retried",
                            (json_int_t)point->retried, "mismatches", (json_int_t)point->mismatches,
                            "failed", (json_int_t)point->n_failed, "failures", failures);
    if (point->rate > 0) {
        json_t *open =
            json_pack("{sf sI sI sf sI}", "rate", point->rate, "offered",
                      (json_int_t)point->offered, "late", (json_int_t)point->late, "late_max_ms",
                      (double)point->late_max_us / US_PER_MS, "unsent", (json_int_t)point->unsent);
        json_object_update_missing(row, open);
        json_decref(open);
    }
    json_object_set_new(row, "processes", json_integer(point->processes));
    json_object_set_new(row, "gpus", gpus_json(meter->gpu));
    json_object_set_new(row, "watched", watched_json(meter));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        json_object_set_new(row, numbers[i].name, number(numbers[i].value));
    }
    return row;
}
