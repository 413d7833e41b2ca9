// SPDX-License-Identifier: Apache-2.0
#include "client/cli/cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/event_file.h"

void tm_cli_complain(const char *format, ...) {
    va_list arguments;
    fflush(stdout); /* keeps the order on a terminal */
    fputs("trackmill: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

char *tm_cli_tracks_path(const char *folder, const char *event) {
    char *path;
    return asprintf(&path, "%s/%s-tracks.csv", folder, event) < 0 ? NULL : path;
}

char *tm_cli_candidates_path(const char *folder, const char *event) {
    char *path;
    return asprintf(&path, "%s/%s-candidates.csv", folder, event) < 0 ? NULL : path;
}

typedef struct {
    char name[TM_EVENT_NAME_BYTES];
    const char *path;
} named_t;

static int by_name(const void *a, const void *b) {
    return strcmp(((const named_t *)a)->name, ((const named_t *)b)->name);
}

bool tm_cli_names_differ(char *const *paths, int n) {
    bool differ = true;
    named_t *names = calloc((size_t)n + 1, sizeof *names);
    if (!names) {
        tm_cli_complain("no memory for %d events", n);
        return false;
    }
    for (int i = 0; i < n; i++) {
        tm_event_file_name(paths[i], names[i].name);
        names[i].path = paths[i];
    }
    qsort(names, (size_t)n, sizeof *names, by_name);
    for (int i = 1; i < n && differ; i++) {
        if (strcmp(names[i - 1].name, names[i].name) == 0) {
            tm_cli_complain("%s and %s have the same name, so their tracks would share a file: use "
                            "one folder for each",
                            names[i - 1].path, names[i].path);
            differ = false;
        }
    }
    free(names);
    return differ;
}

const char *tm_cli_thousands(uint64_t number, char out[TM_CLI_NUMBER_BYTES]) {
    char digits[TM_CLI_NUMBER_BYTES];
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    char *p = out;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) {
            *p++ = ',';
        }
        *p++ = digits[i];
    }
    *p = '\0';
    return out;
}

const char *tm_cli_percent(double rate, char out[TM_CLI_NUMBER_BYTES]) {
    if (isnan(rate)) {
        snprintf(out, TM_CLI_NUMBER_BYTES, "-");
    } else {
        snprintf(out, TM_CLI_NUMBER_BYTES, "%.2f %%", 100 * rate);
    }
    return out;
}

uint64_t tm_cli_now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}
