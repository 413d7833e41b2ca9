// SPDX-License-Identifier: Apache-2.0
#include "broker/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static const char *const names[] = {"error", "warn", "info", "debug"};
static tm_log_level_t threshold = TM_LOG_INFO;

void tm_log_set_level(tm_log_level_t level) {
    threshold = level;
}

bool tm_log_enabled(tm_log_level_t level) {
    return level <= threshold;
}

bool tm_log_level_parse(const char *name, tm_log_level_t *level) {
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(name, names[i])) {
            *level = (tm_log_level_t)i;
            return true;
        }
    return false;
}

void tm_log(tm_log_level_t level, const char *format, ...) {
    if (!tm_log_enabled(level))
        return;
    char line[LINE_BYTES];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t at = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    at += (size_t)snprintf(line + at, sizeof line - at, ".%03ldZ %-5s ", now.tv_nsec / 1000000,
                           names[level]);
    va_list arguments;
    va_start(arguments, format);
    int bytes = vsnprintf(line + at, sizeof line - at, format, arguments);
    va_end(arguments);
    size_t end = at + (bytes > 0 ? (size_t)bytes : 0);
    if (end > sizeof line - 2)
        end = sizeof line - 2;
    for (size_t i = at; i < end; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
            line[i] = '?';
    line[end] = '\n';
    // nothing sensible is left to do when the log itself cannot be written
    ssize_t written = write(STDERR_FILENO, line, end + 1);
    (void)written;
}
