// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>

#include "client/cli/cli.h"
#include "client/cli/drawing.h"
#include "client/cli/options.h"

static const tm_usage_t usage = {
    .usage = "display [options] EVENT [TRACKS] --out FILE.svg",
    .about = "Draws the event's space points and tracks across and along the beam. With the truth\n"
             "in the event's files, missed particles and fake tracks are told apart; without\n"
             "TRACKS (or --tracks DIR), the particles themselves are drawn.",
    .examples = "  trackmill display event000000001.npz.xz found/event000000001-tracks.csv --out "
                "event.svg\n"
                "  trackmill display --tracks found --pt 2 --out event.svg event000000001.npz.xz\n"
                "  trackmill display --r-max 200 --z-max 800 --out inside.svg "
                "event000000001-hits.csv.gz\n",
};

static tm_status_t display(const char *event_path, const char *tracks_path, const char *folder,
                           const char *out, const tm_drawing_options_t *options, tm_error_t *err) {
    tm_event_file_t event = {0};
    tm_tracks_t tracks = {0};
    char *made = NULL;
    tm_status_t status = tm_event_file_read(event_path, &event, err);
    if (status == TM_OK && folder) {
        tracks_path = made = tm_cli_tracks_path(folder, event.name);
        status = made ? TM_OK : tm_error_set(err, TM_E_NO_MEMORY, "no memory");
    }
    if (status == TM_OK && tracks_path) {
        status = tm_tracks_read_csv(tracks_path, &event, &tracks, err);
    }
    if (status == TM_OK) {
        status = tm_drawing_write(out, &event, tracks_path ? &tracks : NULL, options, err);
    }
    free(made);
    tm_tracks_clear(&tracks);
    tm_event_file_clear(&event);
    return status;
}

int tm_cmd_display(int argc, char **argv) {
    tm_drawing_options_t options = {.selection = TM_SCORE_DEFAULTS};
    const char *folder = NULL, *out = NULL;
    const tm_option_t table[] = {
        {"out", "FILE.svg", "the drawing (required)", TM_OPTION_TEXT, &out, 0, 0},
        {"tracks", "DIR", "folder with <event>-tracks.csv", TM_OPTION_TEXT, &folder, 0, 0},
        {"r-max", "MM", "show points up to this radius (all)", TM_OPTION_NUMBER, &options.r_max_mm,
         0.001, 1e6},
        {"z-max", "MM", "show points up to this |z| (all)", TM_OPTION_NUMBER, &options.z_max_mm,
         0.001, 1e6},
        TM_SELECTION_OPTIONS(&options.selection),
    };
    int first, code;
    if (!tm_options_parse(argc, argv, table, sizeof table / sizeof table[0], &usage, &first,
                          &code)) {
        return code;
    }
    int n = argc - first;
    if (!out || n < 1 || n > 2 || (folder && n > 1)) {
        tm_cli_complain("display: %s; see trackmill display --help",
                        !out    ? "--out FILE.svg is wanted"
                        : n < 1 ? "no event named"
                                : "one event and one file of tracks are drawn");
        return TM_EXIT_USAGE;
    }
    tm_error_t error = {0};
    if (display(argv[first], n > 1 ? argv[first + 1] : NULL, folder, out, &options, &error) !=
        TM_OK) {
        tm_cli_complain("%s", error.text);
        return TM_EXIT_FAILED;
    }
    return TM_EXIT_OK;
}
