// SPDX-License-Identifier: Apache-2.0
#include "client/cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"

#define HELP_COLUMN 26
#define FIRST_OPTION 1000 /* getopt's value of options[0]: beyond all characters */

static void print_help(const tm_option_t *options, int n, const tm_usage_t *usage) {
    printf("Usage: trackmill %s\n\n%s\n", usage->usage, usage->about);
    printf("\nOptions:\n");
    for (int i = 0; i < n; i++) {
        if (!options[i].name) {
            printf("\n%s:\n", options[i].help);
            continue;
        }
        int width = printf("  --%s%s%s", options[i].name, options[i].argument ? " " : "",
                           options[i].argument ? options[i].argument : "");
        if (width > HELP_COLUMN - 2) {
            printf("\n%*s", HELP_COLUMN, "");
        } else {
            printf("%*s", HELP_COLUMN - width, "");
        }
        for (const char *p = options[i].help; *p; p++) {
            putchar(*p);
            if (*p == '\n') {
                printf("%*s", HELP_COLUMN, "");
            }
        }
        putchar('\n');
    }
    printf("  %-*s%s\n", HELP_COLUMN - 2, "--help", "this text");
    printf("\nExamples:\n%s", usage->examples);
    printf("\nExit status: 0 all is well, 1 something failed, 2 wrong usage, 130 interrupted.\n");
}

/* Stores the argument of one option; false: it is wrong, and that has been said. */
static bool store(const tm_option_t *option, const char *text) {
    char *end;
    errno = 0;
    switch (option->kind) {
    case TM_OPTION_FLAG:
        *(bool *)option->value = true;
        return true;
    case TM_OPTION_TEXT:
        *(const char **)option->value = text;
        return true;
    case TM_OPTION_COUNT: {
        unsigned long long count = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || (double)count < option->least ||
            (double)count > option->most) {
            tm_cli_complain("--%s %s: a whole number from %.0f to %.0f is wanted", option->name,
                            text, option->least, option->most);
            return false;
        }
        *(uint32_t *)option->value = (uint32_t)count;
        return true;
    }
    case TM_OPTION_NUMBER: {
        double number = strtod(text, &end);
        if (end == text || *end || !isfinite(number) || number < option->least ||
            number > option->most) {
            tm_cli_complain("--%s %s: a number from %g to %g is wanted", option->name, text,
                            option->least, option->most);
            return false;
        }
        *(double *)option->value = number;
        return true;
    }
    }
    return false;
}

bool tm_options_parse(int argc, char **argv, const tm_option_t *options, int n_options,
                      const tm_usage_t *usage, int *first, int *exit_code) {
    *exit_code = TM_EXIT_USAGE;
    struct option *table = calloc((size_t)n_options + 2, sizeof *table);
    if (!table) {
        tm_cli_complain("no memory");
        *exit_code = TM_EXIT_FAILED;
        return false;
    }
    int n = 0;
    for (int i = 0; i < n_options; i++) {
        if (options[i].name) {
            table[n++] =
                (struct option){options[i].name,
                                options[i].kind == TM_OPTION_FLAG ? no_argument : required_argument,
                                NULL, FIRST_OPTION + i};
        }
    }
    table[n] = (struct option){"help", no_argument, NULL, 'h'};
    bool go_on = true;
    opterr = 0;
    optind = 1;
    for (;;) {
        int at = optind;
        int c = getopt_long(argc, argv, ":h", table, NULL);
        if (c == -1) {
            break;
        }
        if (c == 'h') {
            print_help(options, n_options, usage);
            *exit_code = TM_EXIT_OK;
            go_on = false;
            break;
        }
        if (c == ':') {
            tm_cli_complain("%s %s: wants a value; see trackmill %s --help", argv[0],
                            argv[optind - 1], argv[0]);
            go_on = false;
            break;
        }
        if (c < FIRST_OPTION) {
            const char *word = optind > at ? argv[optind - 1] : argv[at];
            tm_cli_complain("%s: unknown or ambiguous option %s; see trackmill %s --help", argv[0],
                            word, argv[0]);
            go_on = false;
            break;
        }
        if (!store(&options[c - FIRST_OPTION], optarg)) {
            go_on = false;
            break;
        }
    }
    free(table);
    *first = optind;
    return go_on;
}
