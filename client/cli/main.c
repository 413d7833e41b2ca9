// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <string.h>

#include "client/cli/cli.h"

static const struct {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"find", "find the track candidates of events, here or with a service", tm_cmd_find},
    {"score", "compare found tracks with the truth", tm_cmd_score},
    {"display", "draw an event and its tracks as SVG", tm_cmd_display},
    {"status", "ask brokers what they are doing", tm_cmd_status},
    {"bench", "measure events per second and latency, here or of a service", tm_cmd_bench},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static void print_help(void) {
    printf("trackmill " TM_VERSION ": track finding for high-energy physics\n\n"
           "Usage: trackmill COMMAND [options] …\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        printf("  %-10s%s\n", commands[i].name, commands[i].about);
    }
    printf("\n  trackmill COMMAND --help   options and examples of a command\n"
           "  trackmill --version        the version\n"
           "\nExit status: 0 all is well, 1 something failed, 2 wrong usage, 130 interrupted.\n"
           "\nExamples:\n"
           "  trackmill find --out found pu200/*.npz.xz\n"
           "  trackmill score --tracks found pu200/*.npz.xz\n"
           "  trackmill display --tracks found --out event.svg pu200/event000000001.npz.xz\n"
           "  trackmill status --broker tcp://broker:5570\n");
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : "";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help();
        return TM_EXIT_OK;
    }
    if (strcmp(word, "--version") == 0) {
        puts("trackmill " TM_VERSION);
        return TM_EXIT_OK;
    }
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(word, commands[i].name) == 0) {
            int code = commands[i].run(argc - 1, argv + 1);
            if (fflush(stdout) != 0 || ferror(stdout)) {
                tm_cli_complain("standard output cannot be written");
                return code ? code : TM_EXIT_FAILED;
            }
            return code;
        }
    }
    if (*word) {
        tm_cli_complain(
            "%s: no such command: find, score, display, status or bench; see trackmill --help",
            word);
    } else {
        tm_cli_complain("no command: find, score, display, status or bench; see trackmill --help");
    }
    return TM_EXIT_USAGE;
}
