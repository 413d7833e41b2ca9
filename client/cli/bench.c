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
#define IN_FLIGHT_MAX 65536
#define OPEN_IN_FLIGHT "256" /* of an open loop: what a stalled service can make us hold */
#define LEAST_RATE 0.001
#define RATE_MAX 1e6
#define WHAT_BYTES 64

typedef struct {
    const char *model, *brokers, *in_flight, *csv, *device, *rates, *arrivals, *watch;
    uint32_t clients, processes, threads;
    double seconds, warm_up_s, ttl_s, tolerance;
    bool no_reference, with_module_id, json, spread;
} options_t;

typedef struct {
    const options_t *options;
    double in_flight[POINTS_MAX], rate[POINTS_MAX];
    uint32_t n, n_rates;
    tm_model_t *model; /* of the engine, NULL without one */
    char model_name[2 * TM_NAME_MAX + 2];
    tm_bench_events_t events;
    tm_bench_setting_t setting;
    tm_bench_meter_t meter;
    FILE *csv;
    json_t *rows;
    bool bad;
} run_t;

static const tm_usage_t usage = {
    .usage = "bench [options] EVENT...",
    .about =
        "Measures how many events per second are found and how long each takes, with engines in\n"
        "this process or, with --broker, with a service. EVENTs are taken in turn, as often as\n"
        "needed. A closed loop: N events are under way all the time, for each N of --in-flight.\n"
        "An open loop, with --rate: events arrive whether the service keeps up or not, and times\n"
        "count from the scheduled arrival. Late: sent more than 10 ms after it. Unsent: not sent\n"
        "before the measurement ended.\n"
        "\n"
        "Every answer is compared with the embedded engine's answer for its event or, with\n"
        "--no-reference, with the first answer for it. A wrong answer is a failure.\n"
        "\n"
        "How busy this machine's NVIDIA GPUs are meanwhile is shown where there are any.\n"
        "\n"
        "Columns: times are medians unless they say otherwise. service: at the worker, seen by\n"
        "the broker. overhead: from submit to answer, less the worker's stages.",
    .examples =
        "  trackmill bench event000000040.npz.xz\n"
        "  trackmill bench --broker tcp://broker:5570 --in-flight 1,2,4,8,16 --seconds 30 \\\n"
        "      --csv service.csv pu200/*.npz.xz\n"
        "  trackmill bench --broker tcp://broker:5570 --rate 50,100,200 --clients 4 "
        "pu200/*.npz.xz\n"
        "  trackmill bench --broker tcp://broker:5570 --no-reference --model mock "
        "event000000040.npz.xz\n",
};

/* "1,2,4,8" */
static bool parse_list(const char *option, const char *text, bool whole, double most, double *list,
                       uint32_t *n) {
    const char *p = text;
    for (*n = 0;;) {
        char *end;
        double value = strtod(p, &end);
        if (*p < '0' || *p > '9' || !(value >= (whole ? 1 : LEAST_RATE)) || value > most ||
            (whole && value != (double)(uint32_t)value) || (*end && *end != ',')) {
            tm_cli_complain("--%s %s: numbers from %g to %g separated by commas are wanted", option,
                            text, whole ? 1 : LEAST_RATE, most);
            return false;
        }
        if (*n == POINTS_MAX) {
            tm_cli_complain("--%s %s: at most %d numbers", option, text, POINTS_MAX);
            return false;
        }
        list[(*n)++] = value;
        if (!*end) {
            return true;
        }
        p = end + 1;
    }
}

/* The lists, and what of the options goes together. False: said what does not. */
static bool understand(run_t *run) {
    const options_t *o = run->options;
    const char *in_flight = o->in_flight ? o->in_flight : o->rates ? OPEN_IN_FLIGHT : "1";
    if (!parse_list("in-flight", in_flight, true, IN_FLIGHT_MAX, run->in_flight, &run->n) ||
        (o->rates && !parse_list("rate", o->rates, false, RATE_MAX, run->rate, &run->n_rates))) {
        return false;
    }
    bool evenly = strcmp(o->arrivals, "fixed") == 0;
    if (!evenly && strcmp(o->arrivals, "poisson") != 0) {
        tm_cli_complain("--arrivals %s: poisson or fixed", o->arrivals);
        return false;
    }
    if (o->rates && !o->brokers) {
        tm_cli_complain("--rate: events arrive at a service: name it with --broker");
        return false;
    }
    if (o->rates && run->n != 1) {
        tm_cli_complain("--in-flight %s: one number with --rate, the most under way", in_flight);
        return false;
    }
    for (uint32_t i = 0; i < run->n; i++) {
        if (run->in_flight[i] > (double)o->clients * TM_CLIENT_WINDOW) {
            tm_cli_complain("--in-flight %s: a client has at most %d events under way: raise "
                            "--clients",
                            in_flight, TM_CLIENT_WINDOW);
            return false;
        }
    }
    if (o->processes > o->clients) {
        tm_cli_complain("--processes %u: more than --clients %u, which they share", o->processes,
                        o->clients);
        return false;
    }
    return true;
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

/* rate: 0 for a closed loop */
static tm_status_t measure(run_t *run, uint32_t in_flight, double rate, tm_error_t *err) {
    const options_t *o = run->options;
    const tm_bench_load_t load = {
        .brokers = o->brokers,
        .model = run->model ? run->model_name : o->model,
        .clients = o->clients,
        .processes = o->processes,
        .ttl_ms = (uint32_t)(o->ttl_s * MS_PER_S),
        .engine_model = run->model,
        .device = o->device,
        .threads = o->threads,
        .warm_up_s = o->warm_up_s,
        .seconds = o->seconds,
        .rate = rate,
        .evenly = run->setting.evenly,
        .spread = o->spread,
    };
    char what[WHAT_BYTES];
    snprintf(what, sizeof what, rate > 0 ? "%g/s" : "%g in flight", rate > 0 ? rate : in_flight);
    tm_bench_point_t point;
    tm_bench_figures_t figures;
    tm_status_t status =
        tm_bench_load_run(&load, &run->events, in_flight, &run->meter, &point, err);
    if (status == TM_OK) {
        tm_bench_figures_make(&point, &run->meter, &figures);
        if (o->json) {
            json_array_append_new(run->rows, tm_bench_row_json(&point, &run->meter, &figures));
        } else {
            tm_bench_print_row(stdout, &run->setting, &point, &run->meter, &figures);
        }
        if (run->csv) {
            tm_bench_csv_row(run->csv, &run->setting, &point, &run->meter, &figures);
            fflush(run->csv);
        }
        if (point.n_failed) {
            tm_cli_complain("%s: %llu events failed, the first: %s", what,
                            (unsigned long long)point.n_failed, point.failure.text);
        }
        if (point.mismatches) {
            tm_cli_complain("%s: %llu wrong answers, the first: %s", what,
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
    run->events.tolerance = o->tolerance;
    if (status == TM_OK && o->watch) {
        status = tm_bench_watch_parse(o->watch, &run->meter.watch, err);
    }
    bool file = o->model && tm_model_is_file(o->model);
    if (status == TM_OK && (!o->brokers || !o->no_reference || file)) {
        status = load_model(run, err);
    }
    if (status == TM_OK && !o->no_reference) {
        const tm_engine_options_t options = {.threads = (int)o->threads, .device = o->device};
        status = tm_bench_events_solve(&run->events, run->model, &options, err);
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
    tm_bench_print_titles(stdout, s);
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
        run->setting.open = run->n_rates > 0;
        run->setting.evenly = strcmp(run->options->arrivals, "fixed") == 0;
        run->meter.gpu = tm_bench_gpu_new();
        if (!run->options->json) {
            print_head(run);
        }
        for (uint32_t i = 0; i < run->n_rates && status == TM_OK; i++) {
            status = measure(run, (uint32_t)run->in_flight[0], run->rate[i], &error);
        }
        for (uint32_t i = 0; i < run->n && !run->n_rates && status == TM_OK; i++) {
            status = measure(run, (uint32_t)run->in_flight[i], 0, &error);
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
    options_t options = {.arrivals = "poisson",
                         .clients = 1,
                         .processes = 1,
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
        {"rate", "LIST",
         "open loop: so many events arrive per second, one\nmeasurement each; --in-flight is then "
         "the most under\nway (" OPEN_IN_FLIGHT ")",
         TM_OPTION_TEXT, &options.rates, 0, 0},
        {"arrivals", "KIND", "of the open loop: poisson or fixed (poisson)", TM_OPTION_TEXT,
         &options.arrivals, 0, 0},
        {"seconds", "S", "of each measurement; longer if events are slow (10)", TM_OPTION_NUMBER,
         &options.seconds, 0.01, 86400},
        {"warm-up", "S", "before each measurement, not counted (1)", TM_OPTION_NUMBER,
         &options.warm_up_s, 0, 86400},
        {"clients", "N", "connections that share the events under way (1)", TM_OPTION_COUNT,
         &options.clients, 1, CLIENTS_MAX},
        {"processes", "N", "that make the load and share the clients (1)", TM_OPTION_COUNT,
         &options.processes, 1, TM_BENCH_PROCESSES_MAX},
        {"spread", NULL, "each client begins with another broker of the list", TM_OPTION_FLAG,
         &options.spread, 0, 0},
        {"ttl", "SECONDS", "deadline of each event at the service (60)", TM_OPTION_NUMBER,
         &options.ttl_s, 0.001, TM_TTL_MAX_MS / MS_PER_S},
        {"threads", "N", "of each embedded engine (0: the cores shared out)", TM_OPTION_COUNT,
         &options.threads, 0, 1024},
        {"device", "DEVICE", "of the embedded engine: auto, cpu, cuda or cuda:N (auto)",
         TM_OPTION_TEXT, &options.device, 0, 0},
        {"tolerance", "SHARE",
         "of the tracks that may differ from the reference, for\ndevices that round differently "
         "(0)",
         TM_OPTION_NUMBER, &options.tolerance, 0, 1},
        {"watch", "PIDS", "processes of this machine whose cores and memory to show: 12,34",
         TM_OPTION_TEXT, &options.watch, 0, 0},
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
    if (!understand(&run)) {
        return TM_EXIT_USAGE;
    }
    code = bench(&run, argv + first, argc - first);
    if (run.csv) {
        fclose(run.csv);
    }
    json_decref(run.rows);
    tm_bench_gpu_destroy(&run.meter.gpu);
    tm_bench_events_clear(&run.events);
    tm_model_destroy(&run.model);
    return code;
}
