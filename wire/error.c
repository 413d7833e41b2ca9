// SPDX-License-Identifier: Apache-2.0
#include "wire/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "wire/text.h"

/* Formats into text[0 … TM_ERROR_TEXT_BYTES) and makes it one clean line. */
static void text_format(char *text, const char *format, va_list args) {
    /* Room for one more character than fits, so that mending sees where to cut. */
    char line[TM_ERROR_TEXT_BYTES + 4];
    if (vsnprintf(line, sizeof line, format, args) < 0) {
        snprintf(line, sizeof line, "(unprintable error)");
    }
    size_t bytes = tm_text_mend(line, strlen(line), TM_ERROR_TEXT_BYTES - 1);
    memcpy(text, line, bytes);
    text[bytes] = '\0';
}

tm_status_t tm_error_set(tm_error_t *err, tm_status_t code, const char *format, ...) {
    if (err) {
        err->code = code;
        va_list args;
        va_start(args, format);
        text_format(err->text, format, args);
        va_end(args);
    }
    return code;
}

void tm_error_prefix(tm_error_t *err, const char *format, ...) {
    if (!err) {
        return;
    }
    char prefix[TM_ERROR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    text_format(prefix, format, args);
    va_end(args);

    char joined[2 * TM_ERROR_TEXT_BYTES];
    snprintf(joined, sizeof joined, "%s%s", prefix, err->text);
    size_t bytes = tm_text_mend(joined, strlen(joined), TM_ERROR_TEXT_BYTES - 1);
    memcpy(err->text, joined, bytes);
    err->text[bytes] = '\0';
}

const char *tm_status_name(tm_status_t code) {
    switch (code) {
    case TM_OK:
        return "ok";
    case TM_E_VERSION:
        return "version";
    case TM_E_MALFORMED:
        return "malformed";
    case TM_E_UNKNOWN_PEER:
        return "unknown_peer";
    case TM_E_UNEXPECTED:
        return "unexpected";
    case TM_E_TOO_LARGE:
        return "too_large";
    case TM_E_MODEL_HASH:
        return "model_hash";
    case TM_E_BUSY:
        return "busy";
    case TM_E_DRAINING:
        return "draining";
    case TM_E_DEADLINE:
        return "deadline";
    case TM_E_CANCELLED:
        return "cancelled";
    case TM_E_ATTEMPTS:
        return "attempts";
    case TM_E_NO_MODEL:
        return "no_model";
    case TM_E_BAD_EVENT:
        return "bad_event";
    case TM_E_MISSING_COLUMN:
        return "missing_column";
    case TM_E_BACKEND:
        return "backend";
    case TM_E_NO_MEMORY:
        return "no_memory";
    case TM_E_ARGUMENT:
        return "argument";
    case TM_E_SYSTEM:
        return "system";
    case TM_E_FILE:
        return "file";
    case TM_E_MODEL_FILE:
        return "model_file";
    case TM_E_NO_BROKER:
        return "no_broker";
    case TM_E_CLOSED:
        return "closed";
    case TM_E_NOT_FOUND:
        return "not_found";
    case TM_E_INTERRUPTED:
        return "interrupted";
    }
    return "unknown";
}

bool tm_status_retryable(tm_status_t code) {
    switch (code) {
    case TM_E_UNKNOWN_PEER:
    case TM_E_BUSY:
    case TM_E_DRAINING:
    case TM_E_DEADLINE:
    case TM_E_NO_MODEL:
    case TM_E_BACKEND:
    case TM_E_NO_MEMORY:
    case TM_E_NO_BROKER:
        return true;
    default:
        /* ATTEMPTS is not: what killed that many workers would kill the next one too */
        return false;
    }
}
