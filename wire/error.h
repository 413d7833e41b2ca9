// SPDX-License-Identifier: Apache-2.0
/*
 * Status codes and error texts, shared by every room of the house.
 *
 * A fallible function returns a tm_status_t (0 is success) and, where the caller can use the
 * detail, fills a tm_error_t with one line that says what went wrong, where, and how to mend it.
 * Codes below 100 travel on the wire under the same numbers (wire/SPEC.md, "Error codes"); codes
 * from 100 on never leave the process.
 *
 * Threads: a tm_error_t belongs to its caller; the functions share no state.
 */
#ifndef TM_WIRE_ERROR_H
#define TM_WIRE_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    TM_OK = 0,
    /* protocol: the peer and we do not understand each other */
    TM_E_VERSION = 1,      /* protocol versions differ */
    TM_E_MALFORMED = 2,    /* a message that breaks the grammar */
    TM_E_UNKNOWN_PEER = 3, /* no HELLO or REGISTER on this connection yet: say it (again) */
    TM_E_UNEXPECTED = 4,   /* a well-formed message that this state does not allow */
    TM_E_TOO_LARGE = 5,    /* payload beyond the receiver's limit */
    TM_E_MODEL_HASH = 6,   /* same model name and version, other weights: REGISTER refused */
    /* scheduling: the request was understood but not run to its end */
    TM_E_BUSY = 10,      /* queue or window full; retry_after_ms says when to come again */
    TM_E_DRAINING = 11,  /* the broker is shutting down: try the next one */
    TM_E_DEADLINE = 12,  /* the request's time ran out */
    TM_E_CANCELLED = 13, /* cancelled by the client */
    TM_E_ATTEMPTS = 14,  /* workers died or hung on it too often */
    TM_E_NO_MODEL = 15,  /* the deadline passed and no worker serves the model */
    /* the back end's answer to the request itself */
    TM_E_BAD_EVENT = 20,      /* NaN or infinite values, unequal lengths, impossible sizes */
    TM_E_MISSING_COLUMN = 21, /* the model needs a column that the event lacks */
    TM_E_BACKEND = 22,        /* the back end failed: another worker may succeed */
    TM_E_NO_MEMORY = 23,      /* not enough memory for this event there */
    /* local */
    TM_E_ARGUMENT = 100, /* the caller's arguments are off */
    TM_E_SYSTEM = 101,   /* a system or library call failed */
    TM_E_FILE = 102,     /* a file cannot be read or written, or its format is wrong */
    TM_E_MODEL_FILE = 103,
    TM_E_NO_BROKER = 104, /* no broker of the list answered in time */
    TM_E_CLOSED = 105,    /* the handle is shutting down */
    TM_E_NOT_FOUND = 106,
    TM_E_INTERRUPTED = 107, /* stopped by a signal */
} tm_status_t;

#define TM_ERROR_TEXT_BYTES 512

typedef struct {
    tm_status_t code;
    char text
        [TM_ERROR_TEXT_BYTES]; /* one line, NUL-terminated, no newline; control bytes become '?' */
} tm_error_t;

/* Sets *err (which may be NULL) and returns `code`, so that callers can `return tm_error_set(…)`. */
tm_status_t tm_error_set(tm_error_t *err, tm_status_t code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a formatted prefix ("file.npz: ") before the text already in *err. */
void tm_error_prefix(tm_error_t *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A short lower-case name for the code ("deadline", "no_broker"); "unknown" for any other number. */
const char *tm_status_name(tm_status_t code);

/* Whether the same request may succeed when sent again, to this broker or another one. */
bool tm_status_retryable(tm_status_t code);

#ifdef __cplusplus
}
#endif
#endif
