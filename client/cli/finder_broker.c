// SPDX-License-Identifier: Apache-2.0
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/finder_internal.h"
#include "client/cli/interrupt.h"
#include "client/cli/model_path.h"
#include "client/trackmill.h"
#include "nn/engine.h"

#define POLL_MS 100 /* how long a signal may go unseen */
#define HEX_SHOWN 6 /* bytes of a hash in error texts */

typedef struct {
    uint64_t id; /* 0: free */
    size_t tag;
} request_t;

typedef struct {
    tm_client_t *client;
    char model[2 * TM_NAME_MAX + 2]; /* what is asked for */
    bool check_hash;
    uint8_t hash[TM_HASH_BYTES];
    request_t *request; /* options.in_flight of them */
} state_t;

static tm_status_t submit(tm_finder_t *finder, size_t tag, const tm_columns_t *event,
                          tm_error_t *err) {
    state_t *state = finder->state;
    uint64_t id;
    request_t *free_one = NULL;
    for (uint32_t i = 0; i < finder->capacity && !free_one; i++) {
        free_one = state->request[i].id ? NULL : &state->request[i];
    }
    if (!free_one) {
        return tm_error_set(err, TM_E_BUSY, "all requests are in flight");
    }
    tm_status_t status =
        tm_client_submit(state->client, event,
                         &(tm_request_options_t){.model = state->model,
                                                 .ttl_ms = finder->options.deadline_ms,
                                                 .priority = TM_PRIORITY_DEFAULT},
                         &id, err);
    if (status == TM_OK) {
        *free_one = (request_t){id, tag};
    }
    return status;
}

static void check_weights(const state_t *state, tm_found_t *found) {
    char ours[2 * HEX_SHOWN + 1], theirs[2 * HEX_SHOWN + 1];
    if (!state->check_hash || memcmp(found->hash, state->hash, sizeof found->hash) == 0) {
        return;
    }
    for (int i = 0; i < HEX_SHOWN; i++) {
        snprintf(ours + 2 * i, 3, "%02x", state->hash[i]);
        snprintf(theirs + 2 * i, 3, "%02x", found->hash[i]);
    }
    found->status = tm_error_set(&found->error, TM_E_MODEL_HASH,
                                 "%s answered with other weights of %s (%s…) than the file's (%s…)",
                                 found->worker, found->model, theirs, ours);
    tm_tracks_clear(&found->tracks);
}

static tm_status_t next(tm_finder_t *finder, tm_found_t *found, tm_error_t *err) {
    state_t *state = finder->state;
    tm_answer_t *answer = NULL;
    while (!answer) {
        if (tm_interrupt_signal()) {
            return tm_error_set(err, TM_E_INTERRUPTED, "interrupted");
        }
        tm_status_t status = tm_client_poll(state->client, POLL_MS, &answer, err);
        if (status != TM_OK) {
            return status;
        }
    }
    for (uint32_t i = 0; i < finder->capacity; i++) {
        if (state->request[i].id == answer->id) {
            found->tag = state->request[i].tag;
            state->request[i].id = 0;
        }
    }
    found->status = answer->status;
    found->error = answer->error;
    found->tracks = answer->tracks;
    answer->tracks = (tm_tracks_t){0}; /* taken */
    found->timings = answer->timings;
    memcpy(found->model, answer->model, sizeof found->model);
    memcpy(found->hash, answer->hash, sizeof found->hash);
    memcpy(found->worker, answer->worker, sizeof found->worker);
    found->attempt = answer->attempt;
    found->queue_us = answer->queue_us;
    found->service_us = answer->service_us;
    found->total_us = answer->total_us;
    found->sent_bytes = answer->sent_bytes;
    found->received_bytes = answer->received_bytes;
    tm_answer_destroy(&answer);
    if (found->status == TM_OK) {
        check_weights(state, found);
    }
    return TM_OK;
}

static void close_broker(tm_finder_t *finder) {
    state_t *state = finder->state;
    if (state) {
        tm_client_destroy(&state->client);
        free(state->request);
        free(state);
    }
}

/* A file asks for the model that it is, and for these weights. */
static tm_status_t choose_model(state_t *state, const char *wanted, tm_error_t *err) {
    if (!tm_model_is_file(wanted)) {
        if (strlen(wanted) >= sizeof state->model) {
            return tm_error_set(err, TM_E_ARGUMENT, "model name too long: %.80s…", wanted);
        }
        strcpy(state->model, wanted);
        return TM_OK;
    }
    tm_model_t *model = NULL;
    tm_status_t status = tm_model_load(wanted, &model, err);
    if (status == TM_OK) {
        const tm_model_info_t *info = tm_model_info(model);
        snprintf(state->model, sizeof state->model, "%s@%s", info->name, info->version);
        memcpy(state->hash, info->hash, sizeof state->hash);
        state->check_hash = true;
    }
    tm_model_destroy(&model);
    return status;
}

tm_status_t tm_finder_open_broker(tm_finder_t *finder, tm_error_t *err) {
    finder->submit = submit;
    finder->next = next;
    finder->close = close_broker;
    finder->capacity = finder->options.in_flight;
    state_t *state = finder->state = calloc(1, sizeof *state);
    if (state) {
        state->request = calloc(finder->capacity, sizeof *state->request);
    }
    if (!state || !state->request) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the client");
    }
    tm_status_t status = choose_model(state, finder->options.model, err);
    if (status != TM_OK) {
        return status;
    }
    snprintf(finder->about, sizeof finder->about, "%s, brokers %.120s", state->model,
             finder->options.brokers);
    /* room for every event in flight: submit never says that the client is full */
    tm_client_options_t options = {.max_bytes = (uint64_t)finder->capacity * TM_PAYLOAD_MAX_BYTES};
    return tm_client_new(finder->options.brokers, &options, &state->client, err);
}
