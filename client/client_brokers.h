// SPDX-License-Identifier: Apache-2.0
/*
 * The list of brokers: which one to try next, when, and what each said last.
 *
 * The client uses one broker at a time, the current one. When it fails, the next of the list is
 * tried at once; when a whole round of the list has failed, the next round waits, longer each time
 * (from TM_RECONNECT_MIN_MS doubling to TM_RECONNECT_MAX_MS, half of it random, so that the clients
 * of a restarted broker do not come back in step). A WELCOME alone does not end the waiting game, an
 * answered request does: a broker that welcomes everybody and then falls over is not hammered.
 *
 * Threads: none; the owner calls.
 */
#ifndef TM_CLIENT_BROKERS_H
#define TM_CLIENT_BROKERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/error.h"

typedef struct tm_brokers tm_brokers_t;

/* list: endpoints separated by commas, spaces around them ignored; "tcp://host:port" or
 * "ipc://path". TM_E_ARGUMENT names the first one that is neither. seed: of the random part. */
tm_status_t tm_brokers_new(const char *list, uint64_t seed, tm_brokers_t **out, tm_error_t *err);
void tm_brokers_destroy(tm_brokers_t **p);

/* Checks one endpoint's form, without resolving or connecting. */
tm_status_t tm_brokers_check_endpoint(const char *endpoint, tm_error_t *err);

size_t tm_brokers_count(const tm_brokers_t *brokers);
size_t tm_brokers_current(const tm_brokers_t *brokers);
/* Borrowed, lives as long as the list. index < count. */
const char *tm_brokers_endpoint(const tm_brokers_t *brokers, size_t index);

/* The current broker asks not to be tried again for so long: the next round waits at least that. */
void tm_brokers_hint(tm_brokers_t *brokers, uint32_t retry_after_ms);
/* How the attempt at the current broker stands, in words that follow its name ("refuses …"). */
void tm_brokers_note(tm_brokers_t *brokers, const char *words);
/* The current broker is being connected to. What it said at an earlier try stays its last word. */
void tm_brokers_connecting(tm_brokers_t *brokers);
/* The current broker failed for `code`. Moves on to the next one of the list and returns how long
 * to wait before trying it, ms. The format makes words that follow the broker's name. */
uint32_t tm_brokers_fail(tm_brokers_t *brokers, tm_status_t code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The current broker said WELCOME. */
void tm_brokers_welcome(tm_brokers_t *brokers);
/* The current broker answered a request: failures before this count no more. */
void tm_brokers_proved(tm_brokers_t *brokers);

/* Whether every broker's last word is that it does not speak our protocol version. */
bool tm_brokers_none_speaks_our_version(const tm_brokers_t *brokers);
/* "tcp://a:1 refuses connections; tcp://b:1 …". Cut to `bytes`, always NUL-terminated. */
void tm_brokers_describe(const tm_brokers_t *brokers, char *text, size_t bytes);

/* Uniform in [0, below]; *state is any number, changed by each call (splitmix64). */
uint32_t tm_random_upto(uint64_t *state, uint32_t below);

#endif
