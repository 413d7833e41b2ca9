// SPDX-License-Identifier: Apache-2.0
#include "worker/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static tm_log_level_t log_level = TM_LOG_INFO;

bool tm_log_set_level(const char *name) {
    for (int i = 0; i <= TM_LOG_DEBUG; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            log_level = (tm_log_level_t)i;
            return true;
        }
    }
    return false;
}

void tm_log(tm_log_level_t level, const char *format, ...) {
    if (level > log_level) {
        return;
    }
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    char stamp[32];
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    /* one call, so that lines of several threads do not mix */
    fprintf(stderr, "%s.%03ldZ %s %s\n", stamp, now.tv_nsec / 1000000, level_names[level], line);
}
