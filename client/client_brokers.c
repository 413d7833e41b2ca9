// SPDX-License-Identifier: Apache-2.0
#include "client/client_brokers.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/limits.h"

#define WORDS_BYTES 200
#define PORT_MAX 65535

typedef struct {
    char *endpoint;
    tm_status_t code; /* of its last failure; TM_OK: none yet, or it welcomed us since */
    char words[WORDS_BYTES];
} entry_t;

struct tm_brokers {
    size_t count, current;
    uint32_t failures; /* in a row, without an answered request */
    uint32_t hint_ms;  /* before the next round */
    uint64_t random;
    entry_t *entries;
};

uint32_t tm_random_upto(uint64_t *state, uint32_t below) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (uint32_t)(((z >> 32) * ((uint64_t)below + 1)) >> 32);
}

tm_status_t tm_brokers_check_endpoint(const char *endpoint, tm_error_t *err) {
    static const char tcp[] = "tcp://", ipc[] = "ipc://";
    if (strncmp(endpoint, ipc, sizeof ipc - 1) == 0 && endpoint[sizeof ipc - 1] != '\0')
        return TM_OK;
    if (strncmp(endpoint, tcp, sizeof tcp - 1) == 0) {
        const char *host = endpoint + sizeof tcp - 1;
        const char *colon = strrchr(host, ':');
        if (colon && colon != host && isdigit((unsigned char)colon[1])) {
            char *end;
            unsigned long port = strtoul(colon + 1, &end, 10);
            if (*end == '\0' && port >= 1 && port <= PORT_MAX)
                return TM_OK;
        }
    }
    return tm_error_set(err, TM_E_ARGUMENT,
                        "'%s' is not a broker's address; want tcp://host:port, as in %s", endpoint,
                        TM_DEFAULT_CLIENT_ENDPOINT);
}

/* Appends list[0 … length) without the blanks around it. */
static tm_status_t add(tm_brokers_t *brokers, const char *list, size_t length, tm_error_t *err) {
    while (length > 0 && isspace((unsigned char)list[0]))
        list++, length--;
    while (length > 0 && isspace((unsigned char)list[length - 1]))
        length--;
    entry_t *grown = realloc(brokers->entries, (brokers->count + 1) * sizeof *grown);
    if (!grown)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the list of brokers");
    brokers->entries = grown;
    entry_t *entry = &grown[brokers->count];
    *entry = (entry_t){.endpoint = strndup(list, length)};
    if (!entry->endpoint)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the list of brokers");
    brokers->count++;
    return tm_brokers_check_endpoint(entry->endpoint, err);
}

tm_status_t tm_brokers_new(const char *list, uint64_t seed, tm_brokers_t **out, tm_error_t *err) {
    *out = NULL;
    tm_brokers_t *brokers = calloc(1, sizeof *brokers);
    if (!brokers)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the list of brokers");
    brokers->random = seed;
    tm_status_t status = TM_OK;
    while (!status) {
        size_t length = strcspn(list, ",");
        status = add(brokers, list, length, err);
        if (list[length] == '\0')
            break;
        list += length + 1;
    }
    if (status) {
        tm_brokers_destroy(&brokers);
        return status;
    }
    *out = brokers;
    return TM_OK;
}

void tm_brokers_destroy(tm_brokers_t **p) {
    if (!p || !*p)
        return;
    for (size_t i = 0; i < (*p)->count; i++)
        free((*p)->entries[i].endpoint);
    free((*p)->entries);
    free(*p);
    *p = NULL;
}

size_t tm_brokers_count(const tm_brokers_t *brokers) {
    return brokers->count;
}

size_t tm_brokers_current(const tm_brokers_t *brokers) {
    return brokers->current;
}

const char *tm_brokers_endpoint(const tm_brokers_t *brokers, size_t index) {
    return brokers->entries[index].endpoint;
}

void tm_brokers_hint(tm_brokers_t *brokers, uint32_t retry_after_ms) {
    if (retry_after_ms > brokers->hint_ms)
        brokers->hint_ms = retry_after_ms;
}

void tm_brokers_note(tm_brokers_t *brokers, const char *words) {
    entry_t *entry = &brokers->entries[brokers->current];
    snprintf(entry->words, sizeof entry->words, "%s", words);
}

void tm_brokers_connecting(tm_brokers_t *brokers) {
    if (!brokers->entries[brokers->current].words[0])
        tm_brokers_note(brokers, "has not accepted a connection yet");
}

uint32_t tm_brokers_fail(tm_brokers_t *brokers, tm_status_t code, const char *format, ...) {
    entry_t *entry = &brokers->entries[brokers->current];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(entry->words, sizeof entry->words, format, arguments);
    va_end(arguments);
    entry->code = code;
    brokers->current = (brokers->current + 1) % brokers->count;
    brokers->failures++;
    if (brokers->failures % brokers->count != 0)
        return 0; /* this round still has brokers to try */
    uint64_t wait_ms = TM_RECONNECT_MIN_MS;
    for (size_t round = brokers->failures / brokers->count; round > 1; round--) {
        wait_ms *= 2;
        if (wait_ms >= TM_RECONNECT_MAX_MS) {
            wait_ms = TM_RECONNECT_MAX_MS;
            break;
        }
    }
    uint32_t half = (uint32_t)(wait_ms / 2);
    uint32_t least = brokers->hint_ms > half ? brokers->hint_ms : half;
    brokers->hint_ms = 0;
    return least + tm_random_upto(&brokers->random, half);
}

void tm_brokers_welcome(tm_brokers_t *brokers) {
    brokers->entries[brokers->current].code = TM_OK;
    brokers->hint_ms = 0;
    tm_brokers_note(brokers, "said WELCOME");
}

void tm_brokers_proved(tm_brokers_t *brokers) {
    brokers->failures = 0;
}

bool tm_brokers_none_speaks_our_version(const tm_brokers_t *brokers) {
    for (size_t i = 0; i < brokers->count; i++) {
        if (brokers->entries[i].code != TM_E_VERSION)
            return false;
    }
    return true;
}

void tm_brokers_describe(const tm_brokers_t *brokers, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < brokers->count && used < bytes; i++) {
        const entry_t *entry = &brokers->entries[i];
        int n = snprintf(text + used, bytes - used, "%s%s %s", i ? "; " : "", entry->endpoint,
                         entry->words[0] ? entry->words : "has not been tried yet");
        if (n < 0)
            return;
        used += (size_t)n;
    }
}
