// SPDX-License-Identifier: Apache-2.0
/*
 * From the broker's ANSWER to the caller's tm_answer_t: everything is checked here, nothing is
 * trusted; what does not fit together becomes an error that says what.
 *
 * Threads: pure functions.
 */
#ifndef TM_CLIENT_ANSWER_H
#define TM_CLIENT_ANSWER_H

#include "client/trackmill.h"

/* Fills tracks, model, hash, worker and times from a decoded ANSWER to an event of n_points space points.
 * payload: 8-byte aligned, NULL when there was no memory for it. On failure *answer has no tracks:
 * TM_E_MALFORMED, TM_E_NO_MEMORY. */
tm_status_t tm_answer_decode(const tm_message_t *message, const void *payload, size_t payload_bytes,
                             uint32_t n_points, tm_answer_t *answer, tm_error_t *err);

/* The status that an ERROR message stands for: a code of the wire, else TM_E_MALFORMED. */
tm_status_t tm_answer_error_code(const tm_message_t *message);

#endif
