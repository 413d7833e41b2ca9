// SPDX-License-Identifier: Apache-2.0
/*
 * Text that comes from outside and goes to logs, terminals and other languages' strings: UTF-8
 * without control characters (C0, DEL and C1), so that no peer can forge a log line or move a cursor.
 *
 * Threads: pure functions.
 */
#ifndef TM_WIRE_TEXT_H
#define TM_WIRE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Whether the bytes are well-formed UTF-8 (RFC 3629) and hold no control character. */
bool tm_text_valid(const char *data, size_t bytes);

/* Mends in place what tm_text_valid refuses: control characters become '?', and so does every byte
 * beyond ASCII if the UTF-8 is broken. Returns the new length, which is at most `max`: longer text is
 * cut between two characters. Needs no NUL and writes none. */
size_t tm_text_mend(char *data, size_t bytes, size_t max);

#endif
