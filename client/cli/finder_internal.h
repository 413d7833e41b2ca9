// SPDX-License-Identifier: Apache-2.0
/*
 * The two finders behind client/cli/finder.h.
 */
#ifndef TM_CLI_FINDER_INTERNAL_H
#define TM_CLI_FINDER_INTERNAL_H

#include "client/cli/finder.h"

#define TM_FINDER_ABOUT_BYTES 512

struct tm_finder {
    tm_finder_options_t options;
    uint32_t capacity;
    char about[TM_FINDER_ABOUT_BYTES];
    void *state;
    tm_status_t (*submit)(tm_finder_t *finder, size_t tag, const tm_columns_t *event,
                          tm_error_t *err);
    tm_status_t (*next)(tm_finder_t *finder, tm_found_t *found, tm_error_t *err);
    void (*close)(tm_finder_t *finder); /* frees the state; also after a failed open */
};

/* Each fills a zeroed finder (options set) or fails; close is called in both cases. */
tm_status_t tm_finder_open_engine(tm_finder_t *finder, tm_error_t *err);
tm_status_t tm_finder_open_broker(tm_finder_t *finder, tm_error_t *err);

#endif
