// SPDX-License-Identifier: Apache-2.0
#include "client/cli/finder.h"

#include <stdlib.h>
#include <string.h>

#include "client/cli/finder_internal.h"

tm_status_t tm_finder_new(const tm_finder_options_t *options, tm_finder_t **out, tm_error_t *err) {
    tm_finder_t *finder = calloc(1, sizeof *finder);
    *out = finder;
    if (!finder) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory");
    }
    finder->options = *options;
    tm_status_t status =
        options->brokers ? tm_finder_open_broker(finder, err) : tm_finder_open_engine(finder, err);
    if (status != TM_OK) {
        tm_finder_destroy(out);
    }
    return status;
}

void tm_finder_destroy(tm_finder_t **p) {
    if (!*p) {
        return;
    }
    if ((*p)->close) {
        (*p)->close(*p);
    }
    free(*p);
    *p = NULL;
}

uint32_t tm_finder_capacity(const tm_finder_t *finder) {
    return finder->capacity;
}

const char *tm_finder_about(const tm_finder_t *finder) {
    return finder->about;
}

tm_status_t tm_finder_submit(tm_finder_t *finder, size_t tag, const tm_columns_t *event,
                             tm_error_t *err) {
    if (finder->options.with_module_id || !tm_columns_find(event, "module_id")) {
        return finder->submit(finder, tag, event, err);
    }
    tm_columns_t slim = {0}; /* the module id is a third of all bytes, and no gnn model reads it */
    for (uint32_t i = 0; i < event->count; i++) {
        if (strcmp(event->column[i].name, "module_id") != 0) {
            slim.column[slim.count++] = event->column[i];
        }
    }
    return finder->submit(finder, tag, &slim, err);
}

tm_status_t tm_finder_next(tm_finder_t *finder, tm_found_t *found, tm_error_t *err) {
    *found = (tm_found_t){0};
    return finder->next(finder, found, err);
}
