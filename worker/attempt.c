// SPDX-License-Identifier: Apache-2.0
#include "worker/attempt.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/cursor.h"

#define WIRE_CODE_LIMIT 100 /* codes from here on never leave the process (wire/error.h) */
#define PAYLOAD_ALIGNMENT 8u

struct tm_attempt_room {
    tm_columns_t event[TM_BACKEND_BATCH_MAX];
    void *copy[TM_BACKEND_BATCH_MAX];
    tm_attempt_t *of_item[TM_BACKEND_BATCH_MAX];
    tm_backend_item_t item[]; /* most */
};

/* From the descriptor alone; whether the payload keeps the promise is seen when it is decoded. */
static uint64_t claimed_rows(tm_slice_t columns) {
    tm_cursor_t cursor = tm_cursor(columns.data, columns.bytes);
    uint32_t count, bytes;
    const char *name;
    uint64_t type, n;
    bool good = tm_cursor_get_array(&cursor, &count) && count > 0 &&
                tm_cursor_get_array(&cursor, &count) && tm_cursor_get_str(&cursor, &name, &bytes) &&
                tm_cursor_get_uint(&cursor, &type) && tm_cursor_get_uint(&cursor, &n);
    return good ? n : UINT64_MAX;
}

tm_status_t tm_attempt_new(tm_slice_t columns, zmq_msg_t *payload, tm_attempt_t **out,
                           tm_error_t *err) {
    *out = NULL;
    if (columns.bytes > TM_COLUMNS_FIELD_MAX) {
        return tm_error_set(err, TM_E_MALFORMED, "column descriptor of %u bytes", columns.bytes);
    }
    tm_attempt_t *attempt = malloc(sizeof *attempt);
    if (attempt == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for another attempt");
    }
    /* not calloc: most of the struct is buffers that are written before they are read */
    attempt->id = (tm_id_t){0, 0};
    attempt->link = 0;
    attempt->session = 0;
    attempt->model = 0;
    attempt->deadline_ms = UINT64_MAX;
    attempt->alone = false;
    attempt->started = false;
    attempt->revoked = false;
    attempt->cancelled = 0;
    attempt->next = NULL;
    attempt->error.code = TM_OK;
    attempt->error.text[0] = '\0';
    if (columns.bytes > 0) {
        memcpy(attempt->columns_bytes, columns.data, columns.bytes);
    }
    attempt->columns = (tm_slice_t){(const char *)attempt->columns_bytes, columns.bytes};
    attempt->rows = claimed_rows(attempt->columns);
    attempt->answer_columns = (tm_slice_t){NULL, 0};
    attempt->times = (tm_slice_t){NULL, 0};
    zmq_msg_init(&attempt->payload);
    zmq_msg_init(&attempt->answer);
    zmq_msg_move(&attempt->payload, payload);
    *out = attempt;
    return TM_OK;
}

void tm_attempt_destroy(tm_attempt_t **p) {
    if (*p == NULL) {
        return;
    }
    zmq_msg_close(&(*p)->payload);
    zmq_msg_close(&(*p)->answer);
    free(*p);
    *p = NULL;
}

void tm_attempt_cancel(tm_attempt_t *attempt) {
    __atomic_store_n(&attempt->cancelled, 1, __ATOMIC_RELAXED);
}

/* libzmq hands small frames out as pointers into its receive buffer, at any address; columns need
 * theirs aligned. Large frames have a buffer of their own and are not copied. */
static tm_status_t align_payload(zmq_msg_t *payload, void **copy, tm_error_t *err) {
    *copy = NULL;
    size_t bytes = zmq_msg_size(payload);
    if (((uintptr_t)zmq_msg_data(payload) & (PAYLOAD_ALIGNMENT - 1)) == 0 || bytes == 0) {
        return TM_OK;
    }
    *copy = malloc(bytes);
    if (*copy == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a payload of %zu bytes", bytes);
    }
    memcpy(*copy, zmq_msg_data(payload), bytes);
    return TM_OK;
}

static tm_status_t encode_answer(tm_attempt_t *attempt, const tm_backend_result_t *result) {
    tm_error_t *err = &attempt->error;
    size_t bytes = tm_payload_bytes(&result->columns);
    if (bytes > TM_PAYLOAD_MAX_BYTES) {
        return tm_error_set(err, TM_E_TOO_LARGE, "the answer would take %zu bytes, the limit is %u",
                            bytes, TM_PAYLOAD_MAX_BYTES);
    }
    zmq_msg_close(&attempt->answer);
    if (zmq_msg_init_size(&attempt->answer, bytes) != 0) {
        zmq_msg_init(&attempt->answer);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an answer of %zu bytes", bytes);
    }
    tm_status_t status =
        tm_payload_encode(&result->columns, zmq_msg_data(&attempt->answer),
                          attempt->answer_columns_bytes, &attempt->answer_columns, err);
    if (status == TM_OK) {
        status = tm_times_encode(&result->timings, attempt->times_bytes, &attempt->times, err);
    }
    return status;
}

static tm_status_t decode_event(tm_attempt_t *attempt, tm_columns_t *event, void **copy) {
    tm_error_t *err = &attempt->error;
    tm_status_t status = align_payload(&attempt->payload, copy, err);
    if (status == TM_OK) {
        const void *bytes = *copy != NULL ? *copy : zmq_msg_data(&attempt->payload);
        status =
            tm_payload_decode(attempt->columns, bytes, zmq_msg_size(&attempt->payload), event, err);
    }
    return status;
}

static void finish(tm_attempt_t *attempt, tm_status_t status) {
    attempt->error.code = status >= WIRE_CODE_LIMIT ? TM_E_BACKEND : status;
    /* the event may be large and the answer may wait for the network: let the event go now */
    zmq_msg_close(&attempt->payload);
    zmq_msg_init(&attempt->payload);
}

void tm_attempt_run(tm_attempt_t *attempt, const tm_backend_t *backend, void *slot) {
    tm_columns_t event;
    tm_backend_result_t result;
    memset(&result, 0, sizeof result);
    void *copy = NULL;

    tm_status_t status = decode_event(attempt, &event, &copy);
    if (status == TM_OK) {
        status = backend->run(slot, attempt->model, &event, &attempt->cancelled, &result,
                              &attempt->error);
    }
    if (status == TM_OK) {
        status = encode_answer(attempt, &result);
    }
    free(copy);
    finish(attempt, status);
}

/* ---- several together ---- */

tm_attempt_room_t *tm_attempt_room_new(uint32_t most) {
    assert(most <= TM_BACKEND_BATCH_MAX);
    tm_attempt_room_t *room = NULL;
    return calloc(1, sizeof *room + most * sizeof room->item[0]);
}

void tm_attempt_room_destroy(tm_attempt_room_t **p) {
    free(*p);
    *p = NULL;
}

void tm_attempt_run_batch(tm_attempt_t *const *attempts, uint32_t n, const tm_backend_t *backend,
                          void *slot, tm_attempt_room_t *room) {
    uint32_t n_items = 0;
    for (uint32_t i = 0; i < n; i++) {
        tm_attempt_t *attempt = attempts[i];
        tm_status_t status = TM_OK;
        room->copy[n_items] = NULL;
        if (__atomic_load_n(&attempt->cancelled, __ATOMIC_RELAXED) != 0) {
            status = tm_error_set(&attempt->error, TM_E_CANCELLED, "cancelled before it began");
        } else {
            status = decode_event(attempt, &room->event[n_items], &room->copy[n_items]);
        }
        if (status != TM_OK) {
            free(room->copy[n_items]);
            finish(attempt, status);
            continue;
        }
        tm_backend_item_t *item = &room->item[n_items];
        memset(item, 0, sizeof *item);
        item->in = &room->event[n_items];
        item->cancelled = &attempt->cancelled;
        room->of_item[n_items++] = attempt;
    }
    if (n_items > 0) {
        backend->run_batch(slot, room->of_item[0]->model, room->item, n_items);
    }
    for (uint32_t i = 0; i < n_items; i++) {
        tm_attempt_t *attempt = room->of_item[i];
        tm_backend_item_t *item = &room->item[i];
        tm_status_t status = item->status;
        if (status == TM_OK) {
            status = encode_answer(attempt, &item->out);
        } else {
            attempt->error = item->err;
        }
        free(room->copy[i]);
        finish(attempt, status);
    }
}
