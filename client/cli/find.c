// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/cli/cli.h"
#include "client/cli/finder.h"
#include "client/cli/interrupt.h"
#include "client/cli/model_path.h"
#include "client/cli/options.h"
#include "client/cli/report.h"

#define MS_PER_S 1000.0
#define US_PER_S 1e6
#define SIGNAL_EXIT 128

typedef tm_status_t (*write_tracks_t)(const char *path, const tm_event_file_t *event,
                                      const tm_tracks_t *tracks, tm_error_t *err);

typedef struct {
    tm_finder_options_t finder;
    tm_score_options_t selection;
    double deadline_s;
    const char *out, *format;
    write_tracks_t write;
    bool candidates, quiet, json;
} options_t;

typedef enum { EVENT_WAITS, EVENT_SUBMITTED, EVENT_DONE } event_state_t;

typedef struct {
    event_state_t state;
    tm_event_file_t event; /* loaded while submitted */
    tm_row_t row;
} job_t;

typedef struct {
    const options_t *options;
    tm_finder_t *finder;
    job_t *job;
    size_t n, n_started, n_done, n_shown, n_failed, in_flight;
    uint64_t start_us;
    tm_table_t table;
    tm_score_t score;
    uint64_t points, tracks, total_us, wall_us;
    bool progress;
} run_t;

static const tm_usage_t usage = {
    .usage = "find [options] EVENT...",
    .about = "Finds the track candidates of collision events, with the engine in this process or,\n"
             "with --broker, with the workers of a service: the same tracks either way.\n"
             "\n"
             "EVENT is an .npz or .npz.xz file, a TrackML …-hits.csv[.gz], an ACTS\n"
             "…-spacepoint.csv[.gz], or the common start of such files (docs/formats.md).",
    .examples = "  trackmill find event000000001.npz.xz\n"
                "  trackmill find --out found pu200/*.npz.xz\n"
                "  trackmill find --broker tcp://a:5570,tcp://b:5570 --in-flight 8 --out found "
                "*-hits.csv.gz\n",
};

/* ---- one event ---- */

static void fail(run_t *run, job_t *job, tm_status_t status, const tm_error_t *error) {
    job->row.status = status;
    job->row.error = *error;
    job->state = EVENT_DONE;
    run->n_done++;
    run->n_failed++;
    tm_event_file_clear(&job->event);
}

static void start_event(run_t *run, size_t i) {
    job_t *job = &run->job[i];
    tm_error_t error = {0};
    tm_status_t status = tm_event_file_read(job->row.path, &job->event, &error);
    if (status == TM_OK) {
        job->row.n_points = job->event.n_points;
        memcpy(job->row.name, job->event.name, sizeof job->row.name);
        status = tm_finder_submit(run->finder, i, &job->event.columns, &error);
        if (status != TM_OK) {
            tm_error_prefix(&error, "%s: ", job->row.path);
        }
    }
    if (status != TM_OK) {
        fail(run, job, status, &error);
        return;
    }
    job->state = EVENT_SUBMITTED;
    run->in_flight++;
}

/* The second file: the candidates themselves. */
static tm_status_t write_candidates(const run_t *run, const job_t *job, const tm_tracks_t *tracks,
                                    tm_error_t *error) {
    char *path = tm_cli_candidates_path(run->options->out, job->event.name);
    tm_status_t status = path ? tm_tracks_write_candidates(path, tracks, error)
                              : tm_error_set(error, TM_E_NO_MEMORY, "%s: no memory", job->row.path);
    free(path);
    return status;
}

static void finish_event(run_t *run, tm_found_t *found) {
    job_t *job = &run->job[found->tag];
    tm_error_t error = found->error;
    tm_status_t status = found->status;
    run->in_flight--;
    if (status != TM_OK) {
        tm_error_prefix(&error, "%s: ", job->row.path);
    }
    if (status == TM_OK && run->options->out) {
        job->row.output = tm_cli_tracks_path(run->options->out, job->event.name);
        status = job->row.output
                     ? run->options->write(job->row.output, &job->event, &found->tracks, &error)
                     : tm_error_set(&error, TM_E_NO_MEMORY, "%s: no memory", job->row.path);
    }
    if (status == TM_OK && run->options->out && run->options->candidates) {
        status = write_candidates(run, job, &found->tracks, &error);
    }
    if (status == TM_OK && job->event.has_truth) {
        status = tm_score_event(&job->event, &found->tracks, &run->options->selection,
                                &job->row.score, NULL, &error);
        job->row.scored = status == TM_OK;
    }
    job->row.n_tracks = found->tracks.n_tracks;
    tm_tracks_clear(&found->tracks);
    if (status != TM_OK) {
        fail(run, job, status, &error);
        return;
    }
    job->row.found = *found;
    job->state = EVENT_DONE;
    run->n_done++;
    tm_event_file_clear(&job->event);
}

/* ---- all of them ---- */

static void show_progress(const run_t *run) {
    if (run->progress) {
        fprintf(stderr, "\r\033[K%zu of %zu events, %zu in flight, %.0f s", run->n_done, run->n,
                run->in_flight, (double)(tm_cli_now_us() - run->start_us) / US_PER_S);
        fflush(stderr);
    }
}

static void clear_progress(const run_t *run) {
    if (run->progress) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

/* Prints, in the order of the command line, what has been done. */
static void show_rows(run_t *run) {
    while (run->n_shown < run->n && run->job[run->n_shown].state == EVENT_DONE) {
        const tm_row_t *row = &run->job[run->n_shown++].row;
        clear_progress(run);
        if (row->status != TM_OK) {
            tm_cli_complain("%s", row->error.text);
            continue;
        }
        run->points += row->n_points;
        run->tracks += row->n_tracks;
        run->total_us += row->found.total_us;
        if (row->scored) {
            tm_score_add(&run->score, &row->score);
        }
        if (!run->options->quiet && !run->options->json) {
            tm_table_print(&run->table, stdout, row);
        }
    }
}

static void print_total(const run_t *run) {
    char a[TM_CLI_NUMBER_BYTES], b[TM_CLI_NUMBER_BYTES];
    size_t n = run->n_shown - run->n_failed;
    if (n > 1) {
        printf("\n%zu events, %s space points, %s candidates", n, tm_cli_thousands(run->points, a),
               tm_cli_thousands(run->tracks, b));
        if (run->score.events) {
            printf("; efficiency %s", tm_cli_percent(tm_score_efficiency(&run->score), a));
            printf(", fakes %s", tm_cli_percent(tm_score_hard_fakes(&run->score), a));
        }
        printf("\n%.1f ms per event on average, %.3g events/s",
               (double)run->total_us / (double)n / (US_PER_S / MS_PER_S),
               (double)n / ((double)run->wall_us / US_PER_S));
    }
    if (n > 0) {
        printf("%s%s\n", n > 1 ? ", " : "\n", tm_finder_about(run->finder));
    }
}

static void print_json(const run_t *run) {
    json_t *events = json_array();
    for (size_t i = 0; i < run->n_shown; i++) {
        json_array_append_new(events, tm_report_row_json(&run->job[i].row));
    }
    json_t *document =
        json_pack("{so s{si si sI sI sf so}}", "events", events, "total", "events",
                  (int)(run->n_shown - run->n_failed), "failed", (int)run->n_failed, "space_points",
                  (json_int_t)run->points, "candidates", (json_int_t)run->tracks, "wall_s",
                  (double)run->wall_us / US_PER_S, "score",
                  run->score.events ? tm_report_score_json(&run->score) : json_null());
    json_dumpf(document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    putchar('\n');
    json_decref(document);
}

static int run_all(run_t *run) {
    tm_error_t error = {0};
    tm_status_t status = TM_OK;
    run->start_us = tm_cli_now_us();
    while (run->n_done < run->n && status == TM_OK) {
        while (run->n_started < run->n && run->in_flight < tm_finder_capacity(run->finder) &&
               !tm_interrupt_signal()) {
            show_progress(run);
            start_event(run, run->n_started++);
            show_rows(run);
        }
        if (run->in_flight > 0) {
            tm_found_t found;
            show_progress(run);
            status = tm_finder_next(run->finder, &found, &error);
            if (status == TM_OK) {
                finish_event(run, &found);
                show_rows(run);
            }
        } else if (tm_interrupt_signal()) {
            status = TM_E_INTERRUPTED;
        }
    }
    run->wall_us = tm_cli_now_us() - run->start_us;
    clear_progress(run);
    if (run->options->json) {
        print_json(run);
    } else if (!run->options->quiet) {
        print_total(run);
    }
    if (status == TM_E_INTERRUPTED) {
        tm_cli_complain("interrupted: %zu of %zu events done", run->n_done, run->n);
        return SIGNAL_EXIT + tm_interrupt_signal();
    }
    if (status != TM_OK) {
        tm_cli_complain("%s", error.text);
    }
    return status != TM_OK || run->n_failed ? TM_EXIT_FAILED : TM_EXIT_OK;
}

static bool choose_format(options_t *options) {
    static const struct {
        const char *name;
        write_tracks_t write;
    } formats[] = {{"tracks", tm_tracks_write_csv},
                   {"trackml", tm_tracks_write_trackml},
                   {"acts", tm_tracks_write_acts}};
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        if (strcmp(options->format, formats[i].name) == 0) {
            options->write = formats[i].write;
            return true;
        }
    }
    tm_cli_complain("--format %s: tracks, trackml or acts", options->format);
    return false;
}

static bool prepare_folder(const char *folder) {
    struct stat info;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        tm_cli_complain("%s: cannot be made: %s", folder, strerror(errno));
        return false;
    }
    if (stat(folder, &info) != 0 || !S_ISDIR(info.st_mode)) {
        tm_cli_complain("%s: not a folder", folder);
        return false;
    }
    return true;
}

static int name_width(char *const *paths, int n) {
    size_t width = strlen("event");
    for (int i = 0; i < n; i++) {
        char name[TM_EVENT_NAME_BYTES];
        tm_event_file_name(paths[i], name);
        width = strlen(name) > width ? strlen(name) : width;
    }
    return (int)width;
}

static int find(const options_t *options, char **paths, int n) {
    tm_error_t error = {0};
    run_t run = {.options = options, .n = (size_t)n};
    run.table =
        (tm_table_t){.name_width = name_width(paths, n), .with_times = true, .with_score = true};
    run.progress = !options->quiet && !options->json && isatty(STDERR_FILENO);
    run.job = calloc((size_t)n, sizeof *run.job);
    if (!run.job) {
        tm_cli_complain("no memory for %d events", n);
        return TM_EXIT_FAILED;
    }
    for (int i = 0; i < n; i++) {
        run.job[i].row.path = paths[i];
        tm_event_file_name(paths[i], run.job[i].row.name);
    }
    int code = TM_EXIT_FAILED;
    tm_interrupt_install();
    if (tm_finder_new(&options->finder, &run.finder, &error) == TM_OK) {
        code = run_all(&run);
    } else {
        tm_cli_complain("%s", error.text);
    }
    tm_finder_destroy(&run.finder); /* before the events whose columns it may still borrow */
    for (int i = 0; i < n; i++) {
        tm_event_file_clear(&run.job[i].event);
        free(run.job[i].row.output);
    }
    free(run.job);
    return code;
}

int tm_cmd_find(int argc, char **argv) {
    options_t options = {
        .finder = {.model = TM_MODEL_DEFAULT, .in_flight = 4},
        .selection = TM_SCORE_DEFAULTS,
        .deadline_s = TM_TTL_DEFAULT_MS / MS_PER_S,
        .format = "tracks",
    };
    const tm_option_t table[] = {
        {"model", "NAME|FILE", "weights: a name, NAME@VERSION or a file (standard)", TM_OPTION_TEXT,
         &options.finder.model, 0, 0},
        {"broker", "LIST", "ask the service: endpoints separated by commas", TM_OPTION_TEXT,
         &options.finder.brokers, 0, 0},
        {"out", "DIR", "write DIR/<event>-tracks.csv", TM_OPTION_TEXT, &options.out, 0, 0},
        {"format", "FORMAT", "of these files: tracks, trackml or acts (tracks)", TM_OPTION_TEXT,
         &options.format, 0, 0},
        {"candidates", NULL, "write DIR/<event>-candidates.csv too: score and start values of each",
         TM_OPTION_FLAG, &options.candidates, 0, 0},
        {"deadline", "SECONDS", "for each event (60)", TM_OPTION_NUMBER, &options.deadline_s, 0.001,
         TM_TTL_MAX_MS / MS_PER_S},
        {"in-flight", "N", "events at the broker at once (4)", TM_OPTION_COUNT,
         &options.finder.in_flight, 1, TM_CLIENT_WINDOW},
        {"threads", "N", "of the embedded engine (0: all)", TM_OPTION_COUNT,
         &options.finder.threads, 0, 1024},
        {"device", "DEVICE", "of the embedded engine: auto, cpu, cuda or cuda:N (auto)",
         TM_OPTION_TEXT, &options.finder.device, 0, 0},
        {"with-module-id", NULL, "send the module ids too (for other back ends)", TM_OPTION_FLAG,
         &options.finder.with_module_id, 0, 0},
        {"quiet", NULL, "print nothing but faults", TM_OPTION_FLAG, &options.quiet, 0, 0},
        {"json", NULL, "print one JSON document", TM_OPTION_FLAG, &options.json, 0, 0},
        TM_SELECTION_OPTIONS(&options.selection),
    };
    int first, code;
    if (!tm_options_parse(argc, argv, table, sizeof table / sizeof table[0], &usage, &first,
                          &code)) {
        return code;
    }
    if (first == argc) {
        tm_cli_complain("find: no event named; see trackmill find --help");
        return TM_EXIT_USAGE;
    }
    if (options.candidates && !options.out) {
        tm_cli_complain("find: --candidates wants --out, the folder to write to");
        return TM_EXIT_USAGE;
    }
    options.finder.deadline_ms = (uint32_t)(options.deadline_s * MS_PER_S);
    if (!choose_format(&options) ||
        (options.out && !tm_cli_names_differ(argv + first, argc - first))) {
        return TM_EXIT_USAGE;
    }
    if (options.out && !prepare_folder(options.out)) {
        return TM_EXIT_FAILED;
    }
    return find(&options, argv + first, argc - first);
}
