// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/finder_internal.h"
#include "client/cli/interrupt.h"
#include "client/cli/model_path.h"
#include "nn/engine.h"

typedef struct {
    tm_model_t *model;
    tm_engine_t *engine;
    bool pending;
    size_t tag;
    tm_columns_t event;
} state_t;

static tm_status_t submit(tm_finder_t *finder, size_t tag, const tm_columns_t *event,
                          tm_error_t *err) {
    state_t *state = finder->state;
    uint32_t n_points;
    tm_status_t status = tm_event_check(event, &n_points, err); /* as libtrackmill does */
    if (status == TM_OK) {
        state->event = *event;
        state->tag = tag;
        state->pending = true;
    }
    return status;
}

static tm_status_t next(tm_finder_t *finder, tm_found_t *found, tm_error_t *err) {
    state_t *state = finder->state;
    if (!state->pending) {
        return tm_error_set(err, TM_E_NOT_FOUND, "nothing was submitted");
    }
    state->pending = false;
    const tm_model_info_t *info = tm_model_info(state->model);
    found->tag = state->tag;
    found->attempt = 1;
    snprintf(found->model, sizeof found->model, "%s@%s", info->name, info->version);
    memcpy(found->hash, info->hash, sizeof found->hash);
    uint64_t start_us = tm_cli_now_us();
    tm_interrupt_arm(finder->options.deadline_ms);
    found->status = tm_engine_find(state->engine, &state->event, tm_interrupt_flag(),
                                   &found->tracks, &found->timings, NULL, &found->error);
    bool late = tm_interrupt_disarm();
    found->total_us = found->service_us = tm_cli_now_us() - start_us;
    if (found->status == TM_E_CANCELLED && tm_interrupt_signal()) {
        return tm_error_set(err, TM_E_INTERRUPTED, "interrupted");
    }
    if (found->status == TM_E_CANCELLED && late) {
        found->status = tm_error_set(&found->error, TM_E_DEADLINE,
                                     "not finished within %g s: allow more with --deadline",
                                     finder->options.deadline_ms / 1e3);
    }
    return TM_OK;
}

static void close_engine(tm_finder_t *finder) {
    state_t *state = finder->state;
    if (state) {
        tm_engine_destroy(&state->engine);
        tm_model_destroy(&state->model);
        free(state);
    }
}

tm_status_t tm_finder_open_engine(tm_finder_t *finder, tm_error_t *err) {
    char *path = NULL;
    finder->submit = submit;
    finder->next = next;
    finder->close = close_engine;
    finder->capacity = 1;
    state_t *state = finder->state = calloc(1, sizeof *state);
    tm_status_t status =
        state ? TM_OK : tm_error_set(err, TM_E_NO_MEMORY, "no memory for the engine");
    if (status == TM_OK) {
        status = tm_model_path_find(finder->options.model, &path, err);
    }
    if (status == TM_OK) {
        status = tm_model_load(path, &state->model, err);
    }
    free(path);
    if (status != TM_OK) {
        return status;
    }
    const tm_model_info_t *info = tm_model_info(state->model);
    const char *version =
        tm_model_is_file(finder->options.model) ? NULL : strchr(finder->options.model, '@');
    if (version && strcmp(version + 1, info->version) != 0) {
        return tm_error_set(err, TM_E_NOT_FOUND, "model %s: the file has version %s",
                            finder->options.model, info->version);
    }
    const tm_engine_options_t options = {.threads = (int)finder->options.threads,
                                         .device = finder->options.device};
    char device[2 * TM_NAME_MAX];
    status = tm_engine_describe(&options, device, sizeof device, err);
    if (status != TM_OK) {
        return status;
    }
    snprintf(finder->about, sizeof finder->about, "%s@%s, embedded engine on %s", info->name,
             info->version, device);
    return tm_engine_new(state->model, &options, &state->engine, err);
}
