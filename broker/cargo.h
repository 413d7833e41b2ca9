// SPDX-License-Identifier: Apache-2.0
/*
 * Cargo: what a request or a result carries besides what the scheduler reads: the payload frame
 * (shared with libzmq, never copied) and the raw fields that describe it. The scheduler sees it as
 * an opaque handle and gives it back exactly once.
 *
 * Threads: belongs to the relay.
 */
#ifndef TM_BROKER_CARGO_H
#define TM_BROKER_CARGO_H

#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "wire/message.h"

typedef struct {
    zmq_msg_t payload;
    tm_slice_t columns, times; /* into bytes */
    char bytes[];
} tm_cargo_t;

/* Takes the frame over. NULL: no memory, the frame is left alone. */
static inline tm_cargo_t *tm_cargo_new(zmq_msg_t *payload, tm_slice_t columns, tm_slice_t times) {
    tm_cargo_t *cargo = malloc(sizeof *cargo + columns.bytes + times.bytes);
    if (!cargo)
        return NULL;
    zmq_msg_init(&cargo->payload);
    zmq_msg_move(&cargo->payload, payload);
    if (columns.bytes)
        memcpy(cargo->bytes, columns.data, columns.bytes);
    if (times.bytes)
        memcpy(cargo->bytes + columns.bytes, times.data, times.bytes);
    cargo->columns = (tm_slice_t){cargo->bytes, columns.bytes};
    cargo->times = (tm_slice_t){cargo->bytes + columns.bytes, times.bytes};
    return cargo;
}

static inline void tm_cargo_destroy(tm_cargo_t *cargo) {
    zmq_msg_close(&cargo->payload);
    free(cargo);
}

#endif
