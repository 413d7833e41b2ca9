// SPDX-License-Identifier: Apache-2.0
/*
 * Buffers that keep their memory from event to event and refuse to grow beyond what the machine
 * (or the control group of the process) has left, so that a monstrous event is answered with
 * TM_E_NO_MEMORY and not by the kernel killing the worker.
 *
 * A tm_buffer_t is zeroed by its owner before first use and freed with tm_buffer_free.
 */
#ifndef TM_NN_CPU_MEMORY_H
#define TM_NN_CPU_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "wire/error.h"

typedef struct {
    void *data; /* aligned to 64 bytes */
    size_t bytes;
} tm_buffer_t;

/* Makes room for count elements of element_bytes each. What was in the buffer is lost when it has
 * to grow. TM_E_NO_MEMORY names `what`. */
tm_status_t tm_buffer_reserve(tm_buffer_t *buffer, size_t count, size_t element_bytes,
                              const char *what, tm_error_t *err);
void tm_buffer_free(tm_buffer_t *buffer);

/* TM_E_NO_MEMORY where `bytes` more would take nearly all that is left. */
tm_status_t tm_memory_check(size_t bytes, const char *what, tm_error_t *err);

/* Bytes that the process can still take without being killed, as far as the system tells: the
 * lesser of MemAvailable and what the control group leaves. SIZE_MAX where nothing is known. */
size_t tm_memory_available(void);

#endif
