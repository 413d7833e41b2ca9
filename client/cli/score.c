// SPDX-License-Identifier: Apache-2.0
#include "client/score.h"

#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/options.h"
#include "client/cli/plot.h"
#include "client/cli/report.h"

static const tm_usage_t usage = {
    .usage = "score [options] EVENT TRACKS\n       trackmill score [options] --tracks DIR EVENT...",
    .about = "Compares found tracks with the truth of the events: efficiency and fakes by double\n"
             "majority and by other definitions, the TrackML score (docs/metrics.md). TRACKS is a "
             "file as `find` writes it in\n"
             "any of its formats; with --tracks, DIR/<event>-tracks.csv.",
    .examples = "  trackmill score event000000001.npz.xz found/event000000001-tracks.csv\n"
                "  trackmill score --tracks found --bins pu200/*.npz.xz\n"
                "  trackmill score --tracks found --plot score.svg pu200/*.npz.xz\n"
                "  trackmill score --tracks found --pt 2 --min-track-hits 5 --json *-hits.csv.gz\n",
};

typedef struct {
    tm_score_options_t selection;
    const char *tracks, *plot;
    bool bins, json, quiet;
} options_t;

static void score_one(const char *path, const char *tracks_path, const options_t *options,
                      tm_row_t *row) {
    tm_event_file_t event = {0};
    tm_tracks_t tracks = {0};
    row->path = path;
    tm_event_file_name(path, row->name);
    row->status = tm_event_file_read(path, &event, &row->error);
    if (row->status == TM_OK && !tracks_path) {
        row->output = tm_cli_tracks_path(options->tracks, event.name);
        tracks_path = row->output;
    }
    if (row->status == TM_OK && !tracks_path) {
        row->status = tm_error_set(&row->error, TM_E_NO_MEMORY, "%s: no memory", path);
    }
    if (row->status == TM_OK) {
        row->status = tm_tracks_read_csv(tracks_path, &event, &tracks, &row->error);
    }
    if (row->status == TM_OK) {
        row->status =
            tm_score_event(&event, &tracks, &options->selection, &row->score, NULL, &row->error);
        if (row->status != TM_OK && !event.has_truth) {
            tm_error_set(
                &row->error, row->status,
                "%s: no truth to compare with: it needs a particle array (npz), -truth and "
                "-particles files (TrackML) or -measurement-simhit-map, -simhits and "
                "-particles files (ACTS)",
                path);
        }
    }
    row->scored = row->status == TM_OK;
    row->n_points = event.n_points;
    row->n_tracks = tracks.n_tracks;
    tm_tracks_clear(&tracks);
    tm_event_file_clear(&event);
}

static int score_all(char **paths, int n, const char *tracks_path, const options_t *options) {
    int failed = 0;
    tm_table_t table = {.with_score = true, .name_width = (int)strlen("event")};
    tm_score_t sum = {0};
    json_t *events = json_array();
    for (int i = 0; i < n; i++) {
        char name[TM_EVENT_NAME_BYTES];
        tm_event_file_name(paths[i], name);
        int width = (int)strlen(name);
        table.name_width = width > table.name_width ? width : table.name_width;
    }
    for (int i = 0; i < n; i++) {
        tm_row_t row = {0};
        score_one(paths[i], tracks_path, options, &row);
        json_array_append_new(events, tm_report_row_json(&row));
        if (row.status != TM_OK) {
            failed++;
            tm_cli_complain("%s", row.error.text);
        } else {
            tm_score_add(&sum, &row.score);
            if (!options->json) {
                tm_table_print(&table, stdout, &row);
            }
        }
        free(row.output);
    }
    if (options->json) {
        json_t *document = json_pack("{sO so}", "events", events, "total",
                                     sum.events ? tm_report_score_json(&sum) : json_null());
        json_dumpf(document, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
        putchar('\n');
        json_decref(document);
    } else if (sum.events) {
        putchar('\n');
        tm_report_score(stdout, &sum, &options->selection, options->bins);
    }
    json_decref(events);
    tm_error_t error = {0};
    if (options->plot && sum.events &&
        tm_plot_score(options->plot, &sum, &options->selection, &error) != TM_OK) {
        failed++;
        tm_cli_complain("%s", error.text);
    }
    return failed ? TM_EXIT_FAILED : TM_EXIT_OK;
}

int tm_cmd_score(int argc, char **argv) {
    options_t options = {.selection = TM_SCORE_DEFAULTS};
    const tm_option_t table[] = {
        {"tracks", "DIR", "folder with <event>-tracks.csv of each event", TM_OPTION_TEXT,
         &options.tracks, 0, 0},
        {"bins", NULL, "efficiency in bins of pT, |eta| and origin", TM_OPTION_FLAG, &options.bins,
         0, 0},
        {"plot", "FILE", "draw efficiency and fakes against pT and eta (SVG)", TM_OPTION_TEXT,
         &options.plot, 0, 0},
        {"json", NULL, "print one JSON document", TM_OPTION_FLAG, &options.json, 0, 0},
        TM_SELECTION_OPTIONS(&options.selection),
    };
    int first, code;
    if (!tm_options_parse(argc, argv, table, sizeof table / sizeof table[0], &usage, &first,
                          &code)) {
        return code;
    }
    if (options.tracks && first == argc) {
        tm_cli_complain("score: no event named; see trackmill score --help");
        return TM_EXIT_USAGE;
    }
    if (!options.tracks && argc - first != 2) {
        tm_cli_complain("score: an event and its tracks are wanted, or --tracks DIR and events; "
                        "see trackmill score --help");
        return TM_EXIT_USAGE;
    }
    if (options.tracks && !tm_cli_names_differ(argv + first, argc - first)) {
        return TM_EXIT_USAGE;
    }
    return score_all(argv + first, options.tracks ? argc - first : 1,
                     options.tracks ? NULL : argv[first + 1], &options);
}
