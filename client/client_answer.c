// SPDX-License-Identifier: Apache-2.0
#include "client/client_answer.h"

#include <string.h>

tm_status_t tm_answer_decode(const tm_message_t *message, const void *payload, size_t payload_bytes,
                             uint32_t n_points, tm_answer_t *answer, tm_error_t *err) {
    if (!payload)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an answer of %zu bytes",
                            payload_bytes);
    tm_columns_t columns;
    tm_tracks_t tracks = {0};
    tm_timings_t timings = {0};
    tm_status_t status = tm_payload_decode(message->columns, payload, payload_bytes, &columns, err);
    if (!status)
        status = tm_tracks_from_columns(&columns, n_points, &tracks, err);
    if (!status && message->set & TM_FIELD(TIMES))
        status = tm_times_decode(message->times, &timings, err);
    if (status) {
        tm_tracks_clear(&tracks);
        /* what is wrong inside an answer is the sender's fault, whatever the check calls it */
        if (status != TM_E_NO_MEMORY)
            status = TM_E_MALFORMED;
        if (err)
            err->code = status;
        return status;
    }
    answer->tracks = tracks;
    answer->timings = timings;
    tm_slice_copy(answer->model, sizeof answer->model, message->model);
    tm_slice_copy(answer->worker, sizeof answer->worker, message->worker);
    memcpy(answer->hash, message->hash.data, sizeof answer->hash);
    answer->attempt = message->attempt > UINT32_MAX ? UINT32_MAX : (uint32_t)message->attempt;
    answer->queue_us = message->queue_us;
    answer->service_us = message->service_us;
    return TM_OK;
}

tm_status_t tm_answer_error_code(const tm_message_t *message) {
    if (message->code == 0 || message->code > TM_CODE_MAX)
        return TM_E_MALFORMED;
    return (tm_status_t)message->code;
}
