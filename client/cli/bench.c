// SPDX-License-Identifier: Apache-2.0
/* `trackmill bench`: how many events per second, and how long each takes. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/bench_report.h"
#include "client/cli/cli.h"
#include "client/cli/interrupt.h"
#include "client/cli/model_path.h"
#include "client/cli/options.h"

#define MS_PER_S 1000.0
#define SIGNAL_EXIT 128
#define POINTS_MAX 64 /* concurrencies of one command */
#define CLIENTS_MAX 256

typedef struct {
    const char *model, *brokers, *in_flight, *csv;
    uint32_t clients, threads;
    double seconds, warm_up_s, ttl_s;
    bool no_reference, with_module_id, json;
} options_t;

typedef struct {
    const options_t *options;
    uint32_t in_flight[POINTS_MAX];
    uint32_t n;
    tm_model_t *model; /* of the engine, NULL without one */
    char model_name[2 * TM_NAME_MAX + 2];
    tm_bench_events_t events;
    tm_bench_setting_t setting;
    FILE *csv;
    json_t *rows;
    bool bad;
} run_t;

static const tm_usage_t usage = {
    .usage = "bench [options] EVENT...",
    .about =
        "Measures how many events per second are found and how long each takes, with engines in\n"
        "this process or, with --broker, with a service. A closed loop: N events are under way\n"
        "all the time, for each N of --in-flight. EVENTs are taken in turn, as often as needed.\n"
        "\n"
        "Every answer is compared with the embedded engine's answer for its event or, with\n"
        "--no-reference, with the first answer for it. A wrong answer is a failure.\n"
        "\n"
        "Columns: times are medians unless they say otherwise. service: at the worker, seen by\n"
        "the broker. overhead: from submit to answer, less the worker's stages.",
    .examples =
        "  trackmill bench event000000040.npz.xz\n"
        "  trackmill bench --broker tcp://broker:5570 --in-flight 1,2,4,8,16 --seconds 30 \\\n"
        "      --csv service.csv pu200/*.npz.xz\n"
        "  trackmill bench --broker tcp://broker:5570 --no-reference --model mock "
        "event000000040.npz.xz\n",
};

/* "1,2,4,8" */
static bool parse_in_flight(const char *text, run_t *run) {
    const char *p = text;
    for (;;) {
        char *end;
        errno = 0;
        unsigned long value = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || errno || value < 1 || value > TM_CLIENT_WINDOW ||
            (*end && *end != ',')) {
            tm_cli_complain("--in-flight %s: numbers from 1 to %d separated by commas are wanted",
                            text, TM_CLIENT_WINDOW);
            return false;
        }
        if (run->n == POINTS_MAX) {
            tm_cli_complain("--in-flight %s: at most %d numbers", text, POINTS_MAX);
            return false;
        }
        run->in_flight[run->n++] = (uint32_t)value;
        if (!*end) {
            return true;
        }
        p = end + 1;
    }
}

static tm_status_t load_model(run_t *run, tm_error_t *err) {
    const char *wanted = run->options->model ? run->options->model : TM_MODEL_DEFAULT;
    char *path = NULL;
    tm_status_t status = tm_model_path_find(wanted, &path, err);
    if (status == TM_OK) {
        status = tm_model_load(path, &run->model, err);
    }
    free(path);
    if (status != TM_OK) {
        return status;
    }
    const tm_model_info_t *info = tm_model_info(run->model);
    snprintf(run->model_name, sizeof run->model_name, "%s@%s", info->name, info->version);
    const char *version = tm_model_is_file(wanted) ? NULL : strchr(wanted, '@');
    if (version && strcmp(version + 1, info->version) != 0) {
        return tm_error_set(err, TM_E_NOT_FOUND, "model %s: the file has version %s", wanted,
                            info->version);
    }
    return TM_OK;
}

static tm_status_t measure(run_t *run, uint32_t in_flight, tm_error_t *err) {
    const options_t *o = run->options;
    const tm_bench_load_t load = {
        .brokers = o->brokers,
        .model = run->model ? run->model_name : o->model,
        .clients = o->clients,
        .ttl_ms = (uint32_t)(o->ttl_s * MS_PER_S),
        .engine_model = run->model,
        .threads = o->threads,
        .warm_up_s = o->warm_up_s,
        .seconds = o->seconds,
    };
    tm_bench_point_t point;
    tm_bench_figures_t figures;
    tm_status_t status = tm_bench_load_run(&load, &run->events, in_flight, &point, err);
    if (status == TM_OK) {
        tm_bench_figures_make(&point, &figures);
        if (o->json) {
            json_array_append_new(run->rows, tm_bench_row_json(&point, &figures));
        } else {
            tm_bench_print_row(stdout, &point, &figures);
        }
        if (run->csv) {
            tm_bench_csv_row(run->csv, &run->setting, &point, &figures);
            fflush(run->csv);
        }
        if (point.n_failed) {
            tm_cli_complain("%u in flight: %llu events failed, the first: %s", in_flight,
                            (unsigned long long)point.n_failed, point.failure.text);
        }
        if (point.mismatches) {
            tm_cli_complain("%u in flight: %llu wrong answers, the first: %s", in_flight,
                            (unsigned long long)point.mismatches, point.mismatch.text);
        }
        run->bad = run->bad || point.n_failed || point.mismatches;
    }
    tm_bench_point_clear(&point);
    return status;
}

static tm_status_t prepare(run_t *run, char **paths, int n, tm_error_t *err) {
    const options_t *o = run->options;
    tm_status_t status = tm_bench_events_read(paths, n, o->with_module_id, &run->events, err);
    bool file = o->model && tm_model_is_file(o->model);
    if (status == TM_OK && (!o->brokers || !o->no_reference || file)) {
        status = load_model(run, err);
    }
    if (status == TM_OK && !o->no_reference) {
        status = tm_bench_events_solve(&run->events, run->model, o->threads, err);
    }
    if (status == TM_OK && o->csv) {
        status = tm_bench_csv_open(o->csv, &run->csv, err);
    }
    return status;
}

static void print_head(const run_t *run) {
    char text[TM_CLI_NUMBER_BYTES];
    const tm_bench_setting_t *s = &run->setting;
    printf("%s, %ld cores; %s", s->machine, s->cores,
           s->service ? "brokers " : "engines in this process");
    printf("%s; %u event%s of %s space points%s\n\n", s->service ? run->options->brokers : "",
           s->n_events, s->n_events == 1 ? "" : "s",
           tm_cli_thousands((uint64_t)(s->mean_points + 0.5), text),
           s->n_events == 1 ? "" : " on average");
    tm_bench_print_titles(stdout);
    fflush(stdout);
}

static void print_json(run_t *run) {
    json_t *document = tm_bench_setting_json(&run->setting);
    json_object_set(document, "points", run->rows);
    json_dumpf(document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    putchar('\n');
    json_decref(document);
}

static int bench(run_t *run, char **paths, int n) {
    tm_error_t error = {0};
    int code = TM_EXIT_FAILED;
    tm_interrupt_install();
    tm_status_t status = prepare(run, paths, n, &error);
    if (status == TM_OK) {
        run->rows = json_array();
        tm_bench_setting_make(&run->events, run->options->brokers != NULL, &run->setting);
        if (!run->options->json) {
            print_head(run);
        }
        for (uint32_t i = 0; i < run->n && status == TM_OK; i++) {
            status = measure(run, run->in_flight[i], &error);
        }
        if (run->options->json) {
            print_json(run);
        }
    }
    if (run->csv && (fflush(run->csv) != 0 || ferror(run->csv))) {
        tm_cli_complain("%s: cannot be written", run->options->csv);
        run->bad = true;
    }
    if (status == TM_E_INTERRUPTED && tm_interrupt_signal()) {
        tm_cli_complain("interrupted");
        code = SIGNAL_EXIT + tm_interrupt_signal();
    } else if (status != TM_OK) {
        tm_cli_complain("%s", error.text);
    } else if (!run->bad) {
        code = TM_EXIT_OK;
    }
    return code;
}

int tm_cmd_bench(int argc, char **argv) {
    options_t options = {.in_flight = "1",
                         .clients = 1,
                         .seconds = 10,
                         .warm_up_s = 1,
                         .ttl_s = TM_TTL_DEFAULT_MS / MS_PER_S};
    const tm_option_t table[] = {
        {"model", "NAME|FILE", "weights: a name, NAME@VERSION or a file (standard)", TM_OPTION_TEXT,
         &options.model, 0, 0},
        {"broker", "LIST", "ask the service: endpoints separated by commas", TM_OPTION_TEXT,
         &options.brokers, 0, 0},
        {"in-flight", "LIST", "events under way, one measurement each: 1,2,4,8 (1)", TM_OPTION_TEXT,
         &options.in_flight, 0, 0},
        {"seconds", "S", "of each measurement; longer if events are slow (10)", TM_OPTION_NUMBER,
         &options.seconds, 0.01, 86400},
        {"warm-up", "S", "before each measurement, not counted (1)", TM_OPTION_NUMBER,
         &options.warm_up_s, 0, 86400},
        {"clients", "N", "connections that share the events under way (1)", TM_OPTION_COUNT,
         &options.clients, 1, CLIENTS_MAX},
        {"ttl", "SECONDS", "deadline of each event at the service (60)", TM_OPTION_NUMBER,
         &options.ttl_s, 0.001, TM_TTL_MAX_MS / MS_PER_S},
        {"threads", "N", "of each embedded engine (0: the cores shared out)", TM_OPTION_COUNT,
         &options.threads, 0, 1024},
        {"no-reference", NULL, "compare with the first answer, not with the embedded engine's",
         TM_OPTION_FLAG, &options.no_reference, 0, 0},
        {"with-module-id", NULL, "send the module ids too (for other back ends)", TM_OPTION_FLAG,
         &options.with_module_id, 0, 0},
        {"csv", "FILE", "append a line for each measurement", TM_OPTION_TEXT, &options.csv, 0, 0},
        {"json", NULL, "print one JSON document", TM_OPTION_FLAG, &options.json, 0, 0},
    };
    int first, code;
    if (!tm_options_parse(argc, argv, table, sizeof table / sizeof table[0], &usage, &first,
                          &code)) {
        return code;
    }
    if (first == argc) {
        tm_cli_complain("bench: no event named; see trackmill bench --help");
        return TM_EXIT_USAGE;
    }
    run_t run = {.options = &options};
    if (!parse_in_flight(options.in_flight, &run)) {
        return TM_EXIT_USAGE;
    }
    code = bench(&run, argv + first, argc - first);
    if (run.csv) {
        fclose(run.csv);
    }
    json_decref(run.rows);
    tm_bench_events_clear(&run.events);
    tm_model_destroy(&run.model);
    return code;
}
