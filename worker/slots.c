// SPDX-License-Identifier: Apache-2.0
#include "worker/slots.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef enum { SLOT_OPENING, SLOT_OPEN, SLOT_BROKEN } slot_state_t;

typedef struct {
    tm_slots_t *owner;
    pthread_t thread;
    bool has_thread; /* session's side only */
    tm_attempt_t *running;
    uint64_t since_ms;
    /* under the mutex */
    pthread_cond_t wake;
    slot_state_t state;
    tm_error_t open_error;
    tm_attempt_t *job;
    bool stop;
} slot_t;

struct tm_slots {
    const tm_backend_t *backend;
    void *backend_state;
    uint32_t n;
    slot_t *slot;
    int wake_fd;

    /* session's side only */
    tm_attempt_t *waiting, **waiting_end;

    pthread_mutex_t mutex;
    pthread_cond_t opened;
    tm_attempt_t *ended, **ended_end; /* under the mutex */
};

/* ---- the slot's thread ---- */

static void report_end(tm_slots_t *slots, tm_attempt_t *attempt) {
    pthread_mutex_lock(&slots->mutex);
    attempt->next = NULL;
    *slots->ended_end = attempt;
    slots->ended_end = &attempt->next;
    pthread_mutex_unlock(&slots->mutex);
    uint64_t one = 1;
    /* cannot fail but by overflow, and then the descriptor is readable anyway */
    ssize_t written = write(slots->wake_fd, &one, sizeof one);
    (void)written;
}

static void *slot_main(void *argument) {
    slot_t *slot = argument;
    tm_slots_t *slots = slot->owner;
    void *handle = NULL;
    tm_error_t error = {0};
    tm_status_t status = slots->backend->open(slots->backend_state, &handle, &error);

    pthread_mutex_lock(&slots->mutex);
    slot->state = status == TM_OK ? SLOT_OPEN : SLOT_BROKEN;
    slot->open_error = error;
    slot->open_error.code = status;
    pthread_cond_signal(&slots->opened);
    while (status == TM_OK) {
        while (slot->job == NULL && !slot->stop) {
            pthread_cond_wait(&slot->wake, &slots->mutex);
        }
        tm_attempt_t *attempt = slot->job;
        slot->job = NULL;
        if (attempt == NULL) {
            break;
        }
        pthread_mutex_unlock(&slots->mutex);
        tm_attempt_run(attempt, slots->backend, handle);
        report_end(slots, attempt);
        pthread_mutex_lock(&slots->mutex);
    }
    pthread_mutex_unlock(&slots->mutex);
    if (status == TM_OK) {
        slots->backend->close(&handle);
    }
    return NULL;
}

/* ---- life ---- */

static tm_status_t start_threads(tm_slots_t *slots, tm_error_t *err) {
    /* signals wake the session, not the slots: their threads inherit a mask that blocks them all */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0;
    for (uint32_t i = 0; i < slots->n && rc == 0; i++) {
        slot_t *slot = &slots->slot[i];
        rc = pthread_create(&slot->thread, NULL, slot_main, slot);
        slot->has_thread = rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        return tm_error_set(err, TM_E_SYSTEM, "cannot start a slot's thread: %s", strerror(rc));
    }
    tm_status_t status = TM_OK;
    pthread_mutex_lock(&slots->mutex);
    for (uint32_t i = 0; i < slots->n; i++) {
        slot_t *slot = &slots->slot[i];
        while (slot->state == SLOT_OPENING) {
            pthread_cond_wait(&slots->opened, &slots->mutex);
        }
        if (slot->state == SLOT_BROKEN && status == TM_OK) {
            status =
                tm_error_set(err, slot->open_error.code, "slot %u: %s", i, slot->open_error.text);
        }
    }
    pthread_mutex_unlock(&slots->mutex);
    return status;
}

tm_status_t tm_slots_new(const tm_backend_t *backend, void *state, uint32_t n, tm_slots_t **out,
                         tm_error_t *err) {
    *out = NULL;
    if (n < 1 || n > TM_SLOTS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "%u slots: 1 to %d are possible", n, TM_SLOTS_MAX);
    }
    tm_slots_t *slots = calloc(1, sizeof *slots);
    slot_t *slot = calloc(n, sizeof *slot);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (slots == NULL || slot == NULL || fd < 0) {
        tm_status_t status =
            fd < 0 ? tm_error_set(err, TM_E_SYSTEM, "cannot make an eventfd: %s", strerror(errno))
                   : tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u slots", n);
        if (fd >= 0) {
            close(fd);
        }
        free(slot);
        free(slots);
        return status;
    }
    slots->backend = backend;
    slots->backend_state = state;
    slots->n = n;
    slots->slot = slot;
    slots->wake_fd = fd;
    slots->waiting_end = &slots->waiting;
    slots->ended_end = &slots->ended;
    pthread_mutex_init(&slots->mutex, NULL);
    pthread_cond_init(&slots->opened, NULL);
    for (uint32_t i = 0; i < n; i++) {
        slot[i].owner = slots;
        pthread_cond_init(&slot[i].wake, NULL);
    }
    tm_status_t status = start_threads(slots, err);
    if (status != TM_OK) {
        tm_slots_destroy(&slots);
        return status;
    }
    *out = slots;
    return TM_OK;
}

static void free_list(tm_attempt_t *list) {
    while (list != NULL) {
        tm_attempt_t *next = list->next;
        tm_attempt_destroy(&list);
        list = next;
    }
}

void tm_slots_destroy(tm_slots_t **p) {
    tm_slots_t *slots = *p;
    if (slots == NULL) {
        return;
    }
    tm_slots_cancel(slots, TM_ANY_LINK, NULL);
    pthread_mutex_lock(&slots->mutex);
    for (uint32_t i = 0; i < slots->n; i++) {
        slots->slot[i].stop = true;
        pthread_cond_signal(&slots->slot[i].wake);
    }
    pthread_mutex_unlock(&slots->mutex);
    for (uint32_t i = 0; i < slots->n; i++) {
        if (slots->slot[i].has_thread) {
            pthread_join(slots->slot[i].thread, NULL);
        }
        pthread_cond_destroy(&slots->slot[i].wake);
    }
    free_list(slots->ended);
    free_list(slots->waiting);
    pthread_cond_destroy(&slots->opened);
    pthread_mutex_destroy(&slots->mutex);
    close(slots->wake_fd);
    free(slots->slot);
    free(slots);
    *p = NULL;
}

int tm_slots_fd(const tm_slots_t *slots) {
    return slots->wake_fd;
}

/* ---- the queue ---- */

static bool matches(const tm_attempt_t *attempt, uint32_t link, const tm_id_t *id) {
    return (link == TM_ANY_LINK || attempt->link == link) &&
           (id == NULL || (attempt->id.origin == id->origin && attempt->id.serial == id->serial));
}

void tm_slots_submit(tm_slots_t *slots, tm_attempt_t *attempt) {
    attempt->next = NULL;
    *slots->waiting_end = attempt;
    slots->waiting_end = &attempt->next;
}

tm_attempt_t *tm_slots_take(tm_slots_t *slots, uint32_t link, const tm_id_t *id) {
    for (tm_attempt_t **at = &slots->waiting; *at != NULL; at = &(*at)->next) {
        tm_attempt_t *attempt = *at;
        if (matches(attempt, link, id)) {
            *at = attempt->next;
            if (slots->waiting_end == &attempt->next) {
                slots->waiting_end = at;
            }
            attempt->next = NULL;
            return attempt;
        }
    }
    return NULL;
}

static void cancel(tm_attempt_t *attempt) {
    attempt->revoked = true;
    tm_attempt_cancel(attempt);
}

uint32_t tm_slots_cancel(tm_slots_t *slots, uint32_t link, const tm_id_t *id) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < slots->n; i++) {
        tm_attempt_t *attempt = slots->slot[i].running;
        if (attempt != NULL && matches(attempt, link, id)) {
            cancel(attempt);
            count++;
        }
    }
    return count;
}

uint32_t tm_slots_cancel_old(tm_slots_t *slots, uint32_t link, uint64_t epoch) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < slots->n; i++) {
        tm_attempt_t *attempt = slots->slot[i].running;
        if (attempt != NULL && attempt->link == link && attempt->id.origin != epoch) {
            cancel(attempt);
            count++;
        }
    }
    return count;
}

uint32_t tm_slots_waiting(const tm_slots_t *slots, uint32_t link) {
    uint32_t count = 0;
    for (const tm_attempt_t *attempt = slots->waiting; attempt != NULL; attempt = attempt->next) {
        count += matches(attempt, link, NULL) ? 1 : 0;
    }
    return count;
}

uint32_t tm_slots_running(const tm_slots_t *slots, uint32_t link) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < slots->n; i++) {
        const tm_attempt_t *attempt = slots->slot[i].running;
        count += attempt != NULL && matches(attempt, link, NULL) ? 1 : 0;
    }
    return count;
}

const tm_attempt_t *tm_slots_oldest(const tm_slots_t *slots, uint64_t *since_ms) {
    const tm_attempt_t *oldest = NULL;
    for (uint32_t i = 0; i < slots->n; i++) {
        const slot_t *slot = &slots->slot[i];
        if (slot->running != NULL && (oldest == NULL || slot->since_ms < *since_ms)) {
            oldest = slot->running;
            *since_ms = slot->since_ms;
        }
    }
    return oldest;
}

/* ---- pump ---- */

static void collect_ended(tm_slots_t *slots, const tm_slots_handler_t *handler) {
    uint64_t count;
    ssize_t got = read(slots->wake_fd, &count, sizeof count); /* EAGAIN: nothing, as good */
    (void)got;
    pthread_mutex_lock(&slots->mutex);
    tm_attempt_t *list = slots->ended;
    slots->ended = NULL;
    slots->ended_end = &slots->ended;
    pthread_mutex_unlock(&slots->mutex);
    while (list != NULL) {
        tm_attempt_t *attempt = list;
        list = attempt->next;
        attempt->next = NULL;
        for (uint32_t i = 0; i < slots->n; i++) {
            if (slots->slot[i].running == attempt) {
                slots->slot[i].running = NULL;
            }
        }
        handler->ended(handler->user, attempt);
    }
}

static slot_t *free_slot(tm_slots_t *slots) {
    for (uint32_t i = 0; i < slots->n; i++) {
        if (slots->slot[i].running == NULL) {
            return &slots->slot[i];
        }
    }
    return NULL;
}

void tm_slots_pump(tm_slots_t *slots, uint64_t now_ms, const tm_slots_handler_t *handler) {
    collect_ended(slots, handler);
    slot_t *slot;
    while (slots->waiting != NULL && (slot = free_slot(slots)) != NULL) {
        tm_attempt_t *attempt = tm_slots_take(slots, TM_ANY_LINK, NULL);
        if (now_ms >= attempt->deadline_ms) {
            tm_error_set(&attempt->error, TM_E_DEADLINE,
                         "the request's time ran out before a slot was free");
            handler->ended(handler->user, attempt);
            continue;
        }
        attempt->started = true;
        slot->running = attempt;
        slot->since_ms = now_ms;
        handler->starting(handler->user, attempt);
        pthread_mutex_lock(&slots->mutex);
        assert(slot->job == NULL);
        slot->job = attempt;
        pthread_cond_signal(&slot->wake);
        pthread_mutex_unlock(&slots->mutex);
    }
}
