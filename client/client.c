// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "client/client_clock.h"
#include "client/client_internal.h"
#include "wire/schema.h"

#define MAX_BYTES_DEFAULT (1ull << 30)

/* ---- making and ending ---- */

static tm_status_t set_name(tm_client_t *client, const char *name, tm_error_t *err) {
    if (name) {
        if (strlen(name) > TM_NAME_MAX)
            return tm_error_set(err, TM_E_ARGUMENT, "the client's name is longer than %d bytes",
                                TM_NAME_MAX);
        snprintf(client->name, sizeof client->name, "%s", name);
        return TM_OK;
    }
    char host[TM_NAME_MAX - 10] = "unknown"; /* leaves room for ":" and the pid */
    if (gethostname(host, sizeof host - 1))
        snprintf(host, sizeof host, "unknown");
    host[sizeof host - 1] = '\0';
    snprintf(client->name, sizeof client->name, "%s:%d", host, (int)getpid());
    return TM_OK;
}

static tm_status_t fill_random(void *out, size_t bytes, tm_error_t *err) {
    ssize_t got;
    do
        got = getrandom(out, bytes, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)bytes)
        return tm_error_set(err, TM_E_SYSTEM, "no random numbers from the system: %s",
                            strerror(errno));
    return TM_OK;
}

tm_message_t tm_client_hello(const tm_client_t *client) {
    tm_message_t m = {.command = TM_CMD_HELLO};
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("libtrackmill/" TM_VERSION));
    TM_SET_SLICE(&m, NAME, name, tm_slice(client->name));
    return m;
}

/* Whether HELLO can be encoded with the caller's name in it: no surprise in the thread. */
static tm_status_t check_hello(const tm_client_t *client, tm_error_t *err) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_message_t m = tm_client_hello(client);
    return tm_message_encode(&m, header, map, &map_bytes, err);
}

static tm_status_t start_thread(tm_client_t *client, tm_error_t *err) {
    /* the host program's signals are for its own threads */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&client->thread, NULL, tm_client_thread, client);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc)
        return tm_error_set(err, TM_E_SYSTEM, "cannot start the client's thread: %s", strerror(rc));
    return TM_OK;
}

/* All but the thread, which has ended or never begun. */
static void free_client(tm_client_t *client) {
    while (client->context && zmq_ctx_term(client->context) && zmq_errno() == EINTR) {
    }
    tm_request_table_clear(&client->table);
    tm_brokers_destroy(&client->brokers);
    if (client->wake_fd >= 0)
        close(client->wake_fd);
    if (client->done_fd >= 0)
        close(client->done_fd);
    pthread_cond_destroy(&client->changed);
    pthread_mutex_destroy(&client->lock);
    free(client);
}

tm_status_t tm_client_new(const char *brokers, const tm_client_options_t *options,
                          tm_client_t **out, tm_error_t *err) {
    if (!brokers || !out)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_client_new needs a list of brokers and an out");
    *out = NULL;
    tm_client_t *client = calloc(1, sizeof *client);
    if (!client)
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a client");
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&client->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&client->lock, NULL);
    TAILQ_INIT(&client->inbox);
    TAILQ_INIT(&client->cancels);
    TAILQ_INIT(&client->done);
    client->next_serial = 1;
    client->hello_ms = options && options->hello_ms ? options->hello_ms : TM_HELLO_TIMEOUT_MS;
    client->max_bytes = options && options->max_bytes ? options->max_bytes : MAX_BYTES_DEFAULT;
    client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    client->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    tm_status_t status = TM_OK;
    if (client->wake_fd < 0 || client->done_fd < 0)
        status = tm_error_set(err, TM_E_SYSTEM, "cannot make an eventfd: %s", strerror(errno));
    while (!status && client->origin == 0) /* 0 would mean no request */
        status = fill_random(&client->origin, sizeof client->origin, err);
    if (!status)
        status = fill_random(&client->random, sizeof client->random, err);
    if (!status)
        status = set_name(client, options ? options->name : NULL, err);
    if (!status)
        status = check_hello(client, err);
    if (!status)
        status = tm_brokers_new(brokers, client->random, &client->brokers, err);
    if (!status && !(client->context = zmq_ctx_new()))
        status = tm_error_set(err, TM_E_SYSTEM, "cannot start libzmq: %s", strerror(errno));
    if (!status)
        status = start_thread(client, err);
    if (status) {
        free_client(client);
        return status;
    }
    *out = client;
    return TM_OK;
}

/* Under the lock. */
static void wake_thread(tm_client_t *client) {
    uint64_t one = 1;
    if (!client->woken && write(client->wake_fd, &one, sizeof one) == (ssize_t)sizeof one)
        client->woken = true;
}

void tm_client_destroy(tm_client_t **p) {
    if (!p || !*p)
        return;
    tm_client_t *client = *p;
    pthread_mutex_lock(&client->lock);
    client->stop = true;
    wake_thread(client);
    pthread_cond_broadcast(&client->changed);
    while (client->waiters > 0)
        pthread_cond_wait(&client->changed, &client->lock);
    pthread_mutex_unlock(&client->lock);
    pthread_join(client->thread, NULL);
    free_client(client);
    *p = NULL;
}

/* ---- submitting ---- */

static tm_status_t check_options(const tm_request_options_t *options, tm_error_t *err) {
    if (options->ttl_ms > TM_TTL_MAX_MS)
        return tm_error_set(err, TM_E_ARGUMENT, "a ttl of %u ms is beyond the greatest, %u ms",
                            options->ttl_ms, TM_TTL_MAX_MS);
    if (options->priority >= TM_PRIORITIES)
        return tm_error_set(err, TM_E_ARGUMENT, "priority %u is beyond the last one, %d",
                            options->priority, TM_PRIORITIES - 1);
    const char *model = options->model ? options->model : "";
    if (model[0] && !tm_model_ref_valid(model, strlen(model), false))
        return tm_error_set(err, TM_E_ARGUMENT,
                            "'%.140s' is not a model: want name or name@version, each of at most "
                            "%d letters, digits and . _ -",
                            model, TM_NAME_MAX);
    return TM_OK;
}

/* Counts the request's bytes and queues it, all or nothing. */
static tm_status_t queue_request(tm_client_t *client, tm_request_t *request, tm_error_t *err) {
    tm_status_t status = TM_OK;
    pthread_mutex_lock(&client->lock);
    if (client->held_bytes + request->held_bytes > client->max_bytes) {
        status = tm_error_set(err, TM_E_BUSY,
                              "%u requests hold %llu bytes of the %llu allowed: take answers first",
                              client->table.count, (unsigned long long)client->held_bytes,
                              (unsigned long long)client->max_bytes);
    } else {
        request->serial = client->next_serial;
        status = tm_request_table_add(&client->table, request, err);
    }
    if (!status) {
        client->next_serial++;
        client->held_bytes += request->held_bytes;
        TAILQ_INSERT_TAIL(&client->inbox, request, link);
        wake_thread(client);
    }
    pthread_mutex_unlock(&client->lock);
    return status;
}

tm_status_t tm_client_submit(tm_client_t *client, const tm_columns_t *event,
                             const tm_request_options_t *options, uint64_t *id, tm_error_t *err) {
    static const tm_request_options_t defaults = {.priority = TM_PRIORITY_DEFAULT};
    if (!client || !event || !id)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_client_submit needs a client, an event, an id");
    if (!options)
        options = &defaults;
    uint64_t now_us = tm_client_now_us();
    uint32_t n_points;
    tm_request_t *request = NULL;
    tm_status_t status = check_options(options, err);
    if (!status)
        status = tm_event_check(event, &n_points, err);
    if (!status && tm_payload_bytes(event) > client->max_bytes)
        status = tm_error_set(err, TM_E_TOO_LARGE,
                              "the event is %zu bytes, this client may hold %llu: raise max_bytes",
                              tm_payload_bytes(event), (unsigned long long)client->max_bytes);
    if (!status)
        status = tm_request_new(event, n_points, &request, err);
    if (status)
        return status;
    request->ttl_ms = options->ttl_ms ? options->ttl_ms : TM_TTL_DEFAULT_MS;
    request->priority = options->priority;
    request->submit_us = now_us;
    request->deadline_us = now_us + (uint64_t)request->ttl_ms * TM_US_PER_MS;
    request->held_bytes = request->payload->bytes;
    snprintf(request->model, sizeof request->model, "%s", options->model ? options->model : "");
    status = queue_request(client, request, err);
    if (status)
        tm_request_destroy(&request);
    else
        *id = request->serial;
    return status;
}

tm_status_t tm_client_cancel(tm_client_t *client, uint64_t id, tm_error_t *err) {
    if (!client)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_client_cancel needs a client");
    tm_status_t status = TM_OK;
    pthread_mutex_lock(&client->lock);
    tm_request_t *request = tm_request_table_find(&client->table, id);
    if (!request) {
        status = tm_error_set(err, TM_E_NOT_FOUND, "no request %llu, or its answer was taken",
                              (unsigned long long)id);
    } else if (!request->answered && !request->cancelled) {
        request->cancelled = true;
        TAILQ_INSERT_TAIL(&client->cancels, request, cancel_link);
        wake_thread(client);
    }
    pthread_mutex_unlock(&client->lock);
    return status;
}

/* ---- taking answers ---- */

/* Under the lock. The request is answered: its answer goes to the caller, it to the dust. */
static tm_answer_t *take(tm_client_t *client, tm_request_t *request) {
    uint64_t drained;
    tm_answer_t *answer = request->answer;
    request->answer = NULL;
    TAILQ_REMOVE(&client->done, request, done_link);
    if (TAILQ_EMPTY(&client->done)) {
        ssize_t got = read(client->done_fd, &drained, sizeof drained);
        (void)got;
    }
    client->held_bytes -= request->held_bytes;
    tm_request_table_remove(&client->table, request);
    tm_request_destroy(&request);
    /* others may wait for what is gone now */
    if (client->waiters > 1)
        pthread_cond_broadcast(&client->changed);
    return answer;
}

/* id 0: any answer. */
static tm_status_t wait_for_answer(tm_client_t *client, uint64_t id, int timeout_ms,
                                   tm_answer_t **out, tm_error_t *err) {
    uint64_t until_us = tm_client_now_us() + (uint64_t)(timeout_ms > 0 ? timeout_ms : 0) * 1000u;
    struct timespec until = {.tv_sec = (time_t)(until_us / 1000000u),
                             .tv_nsec = (long)(until_us % 1000000u) * 1000};
    tm_status_t status = TM_OK;
    bool over = timeout_ms == 0;
    *out = NULL;
    pthread_mutex_lock(&client->lock);
    client->waiters++;
    for (;;) {
        tm_request_t *request =
            id ? tm_request_table_find(&client->table, id) : TAILQ_FIRST(&client->done);
        if (request && request->answered) {
            *out = take(client, request);
            break;
        }
        if (id ? !request : client->table.count == 0) {
            status =
                id ? tm_error_set(err, TM_E_NOT_FOUND, "no request %llu, or its answer was taken",
                                  (unsigned long long)id)
                   : tm_error_set(err, TM_E_NOT_FOUND, "nothing is in flight");
            break;
        }
        if (client->stop) {
            status = tm_error_set(err, TM_E_CLOSED, "the client is being destroyed");
            break;
        }
        if (over)
            break;
        if (timeout_ms < 0)
            pthread_cond_wait(&client->changed, &client->lock);
        else
            over = pthread_cond_timedwait(&client->changed, &client->lock, &until) == ETIMEDOUT;
    }
    client->waiters--;
    if (client->stop)
        pthread_cond_broadcast(&client->changed);
    pthread_mutex_unlock(&client->lock);
    return status;
}

tm_status_t tm_client_poll(tm_client_t *client, int timeout_ms, tm_answer_t **out,
                           tm_error_t *err) {
    if (!client || !out)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_client_poll needs a client and an out");
    return wait_for_answer(client, 0, timeout_ms, out, err);
}

tm_status_t tm_client_wait(tm_client_t *client, uint64_t id, int timeout_ms, tm_answer_t **out,
                           tm_error_t *err) {
    if (!client || !out)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_client_wait needs a client and an out");
    *out = NULL;
    if (id == 0)
        return tm_error_set(err, TM_E_NOT_FOUND, "no request has the id 0");
    return wait_for_answer(client, id, timeout_ms, out, err);
}

int tm_client_fd(const tm_client_t *client) {
    return client->done_fd;
}

uint32_t tm_client_in_flight(const tm_client_t *client) {
    tm_client_t *open = (tm_client_t *)client; /* only the lock is touched */
    pthread_mutex_lock(&open->lock);
    uint32_t count = open->table.count;
    pthread_mutex_unlock(&open->lock);
    return count;
}
