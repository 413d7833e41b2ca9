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
    bool has_thread; /* session's side only, with the next three */
    tm_attempt_t *running[TM_BACKEND_BATCH_MAX];
    uint32_t n_running;
    uint64_t since_ms;
    /* under the mutex */
    pthread_cond_t wake;
    slot_state_t state;
    tm_error_t open_error;
    tm_attempt_t *job[TM_BACKEND_BATCH_MAX];
    uint32_t n_jobs;
    bool stop;
} slot_t;

struct tm_slots {
    const tm_backend_t *backend;
    void *backend_state;
    uint32_t n, batch;
    slot_t *slot;
    int wake_fd;

    /* session's side only */
    tm_attempt_t *waiting, **waiting_end;

    pthread_mutex_t mutex;
    pthread_cond_t opened;
    tm_attempt_t *ended, **ended_end; /* under the mutex */
};

/* ---- the slot's thread ---- */

static void report_end(tm_slots_t *slots, tm_attempt_t *const *attempts, uint32_t n) {
    pthread_mutex_lock(&slots->mutex);
    for (uint32_t i = 0; i < n; i++) {
        attempts[i]->next = NULL;
        *slots->ended_end = attempts[i];
        slots->ended_end = &attempts[i]->next;
    }
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
    tm_attempt_room_t *room = NULL;
    tm_attempt_t *job[TM_BACKEND_BATCH_MAX];
    tm_status_t status = slots->backend->open(slots->backend_state, &handle, &error);
    if (status == TM_OK && slots->batch > 1 && (room = tm_attempt_room_new(slots->batch)) == NULL) {
        slots->backend->close(&handle);
        status = tm_error_set(&error, TM_E_NO_MEMORY, "no memory for %u events", slots->batch);
    }

    pthread_mutex_lock(&slots->mutex);
    slot->state = status == TM_OK ? SLOT_OPEN : SLOT_BROKEN;
    slot->open_error = error;
    slot->open_error.code = status;
    pthread_cond_signal(&slots->opened);
    while (status == TM_OK) {
        while (slot->n_jobs == 0 && !slot->stop) {
            pthread_cond_wait(&slot->wake, &slots->mutex);
        }
        uint32_t n = slot->n_jobs;
        memcpy(job, slot->job, n * sizeof job[0]);
        slot->n_jobs = 0;
        if (n == 0) {
            break;
        }
        pthread_mutex_unlock(&slots->mutex);
        if (n == 1) {
            tm_attempt_run(job[0], slots->backend, handle);
        } else {
            tm_attempt_run_batch(job, n, slots->backend, handle, room);
        }
        report_end(slots, job, n);
        pthread_mutex_lock(&slots->mutex);
    }
    pthread_mutex_unlock(&slots->mutex);
    if (status == TM_OK) {
        slots->backend->close(&handle);
    }
    tm_attempt_room_destroy(&room);
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

tm_status_t tm_slots_new(const tm_backend_t *backend, void *state, uint32_t n, uint32_t batch,
                         tm_slots_t **out, tm_error_t *err) {
    *out = NULL;
    if (n < 1 || n > TM_SLOTS_MAX) {
        return tm_error_set(err, TM_E_ARGUMENT, "%u slots: 1 to %d are possible", n, TM_SLOTS_MAX);
    }
    if (batch < 1 || batch > TM_BACKEND_BATCH_MAX || (batch > 1 && backend->run_batch == NULL)) {
        return tm_error_set(err, TM_E_ARGUMENT, "%u events together: %s takes 1 to %u", batch,
                            backend->name, backend->run_batch ? TM_BACKEND_BATCH_MAX : 1);
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
    slots->batch = batch;
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

uint32_t tm_slots_together(const tm_slots_t *slots, const tm_attempt_t *attempt) {
    const tm_backend_t *backend = slots->backend;
    if (slots->batch == 1 || attempt->rows > backend->batch_rows) {
        return 1;
    }
    uint64_t most = attempt->rows > 0 ? backend->batch_rows_all / attempt->rows : slots->batch;
    return most < 1 ? 1 : most < slots->batch ? (uint32_t)most : slots->batch;
}

void tm_slots_submit(tm_slots_t *slots, tm_attempt_t *attempt) {
    attempt->next = NULL;
    *slots->waiting_end = attempt;
    slots->waiting_end = &attempt->next;
}

static tm_attempt_t *unlink_waiting(tm_slots_t *slots, tm_attempt_t **at) {
    tm_attempt_t *attempt = *at;
    *at = attempt->next;
    if (slots->waiting_end == &attempt->next) {
        slots->waiting_end = at;
    }
    attempt->next = NULL;
    return attempt;
}

tm_attempt_t *tm_slots_take(tm_slots_t *slots, uint32_t link, const tm_id_t *id) {
    for (tm_attempt_t **at = &slots->waiting; *at != NULL; at = &(*at)->next) {
        if (matches(*at, link, id)) {
            return unlink_waiting(slots, at);
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
        slot_t *slot = &slots->slot[i];
        for (uint32_t k = 0; k < slot->n_running; k++) {
            if (matches(slot->running[k], link, id)) {
                cancel(slot->running[k]);
                count++;
            }
        }
    }
    return count;
}

uint32_t tm_slots_cancel_old(tm_slots_t *slots, uint32_t link, uint64_t epoch) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < slots->n; i++) {
        slot_t *slot = &slots->slot[i];
        for (uint32_t k = 0; k < slot->n_running; k++) {
            tm_attempt_t *attempt = slot->running[k];
            if (attempt->link == link && attempt->id.origin != epoch) {
                cancel(attempt);
                count++;
            }
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
        const slot_t *slot = &slots->slot[i];
        for (uint32_t k = 0; k < slot->n_running; k++) {
            count += matches(slot->running[k], link, NULL) ? 1 : 0;
        }
    }
    return count;
}

const tm_attempt_t *tm_slots_oldest(const tm_slots_t *slots, uint64_t *since_ms) {
    const tm_attempt_t *oldest = NULL;
    for (uint32_t i = 0; i < slots->n; i++) {
        const slot_t *slot = &slots->slot[i];
        if (slot->n_running > 0 && (oldest == NULL || slot->since_ms < *since_ms)) {
            oldest = slot->running[0];
            *since_ms = slot->since_ms;
        }
    }
    return oldest;
}

/* ---- pump ---- */

static void forget_running(tm_slots_t *slots, const tm_attempt_t *attempt) {
    for (uint32_t i = 0; i < slots->n; i++) {
        slot_t *slot = &slots->slot[i];
        for (uint32_t k = 0; k < slot->n_running; k++) {
            if (slot->running[k] == attempt) {
                slot->n_running--;
                memmove(&slot->running[k], &slot->running[k + 1],
                        (slot->n_running - k) * sizeof slot->running[0]);
                return;
            }
        }
    }
}

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
        forget_running(slots, attempt);
        handler->ended(handler->user, attempt);
    }
}

static slot_t *free_slot(tm_slots_t *slots, uint32_t *n_free) {
    slot_t *first = NULL;
    *n_free = 0;
    for (uint32_t i = 0; i < slots->n; i++) {
        if (slots->slot[i].n_running == 0) {
            first = first != NULL ? first : &slots->slot[i];
            (*n_free)++;
        }
    }
    return first;
}

static bool fits_batch(const tm_slots_t *slots, const tm_attempt_t *first,
                       const tm_attempt_t *attempt) {
    return attempt->model == first->model && !attempt->alone &&
           tm_slots_together(slots, attempt) > 1;
}

/* The oldest waiting attempt, and with it the slot's share of those that can go with it. */
static void fill(tm_slots_t *slots, slot_t *slot, uint32_t n_free) {
    tm_attempt_t *first = tm_slots_take(slots, TM_ANY_LINK, NULL);
    slot->running[slot->n_running++] = first;
    if (!fits_batch(slots, first, first)) {
        return;
    }
    uint32_t n = 1;
    for (const tm_attempt_t *at = slots->waiting; at != NULL; at = at->next) {
        n += fits_batch(slots, first, at) ? 1 : 0;
    }
    uint32_t share = (n + n_free - 1) / n_free;
    share = share < slots->batch ? share : slots->batch;
    uint64_t rows = first->rows;
    for (tm_attempt_t **at = &slots->waiting; slot->n_running < share && *at != NULL;) {
        if (fits_batch(slots, first, *at) && rows + (*at)->rows <= slots->backend->batch_rows_all) {
            rows += (*at)->rows;
            slot->running[slot->n_running++] = unlink_waiting(slots, at);
        } else {
            at = &(*at)->next;
        }
    }
}

static void start(tm_slots_t *slots, slot_t *slot, uint64_t now_ms,
                  const tm_slots_handler_t *handler) {
    slot->since_ms = now_ms;
    for (uint32_t k = 0; k < slot->n_running; k++) {
        slot->running[k]->started = true;
        handler->starting(handler->user, slot->running[k]);
    }
    pthread_mutex_lock(&slots->mutex);
    assert(slot->n_jobs == 0);
    slot->n_jobs = slot->n_running;
    memcpy(slot->job, slot->running, slot->n_running * sizeof slot->job[0]);
    pthread_cond_signal(&slot->wake);
    pthread_mutex_unlock(&slots->mutex);
}

/* Ends all whose time has run out, so that none of them takes a place in a batch. */
static void drop_late(tm_slots_t *slots, uint64_t now_ms, const tm_slots_handler_t *handler) {
    tm_attempt_t *late = NULL, **late_end = &late;
    for (tm_attempt_t **at = &slots->waiting; *at != NULL;) {
        if (now_ms >= (*at)->deadline_ms) {
            *late_end = unlink_waiting(slots, at);
            late_end = &(*late_end)->next;
        } else {
            at = &(*at)->next;
        }
    }
    while (late != NULL) {
        tm_attempt_t *attempt = late;
        late = attempt->next;
        attempt->next = NULL;
        tm_error_set(&attempt->error, TM_E_DEADLINE,
                     "the request's time ran out before a slot was free");
        handler->ended(handler->user, attempt);
    }
}

void tm_slots_pump(tm_slots_t *slots, uint64_t now_ms, const tm_slots_handler_t *handler) {
    collect_ended(slots, handler);
    uint32_t n_free;
    slot_t *slot = free_slot(slots, &n_free);
    if (slot != NULL) {
        drop_late(slots, now_ms, handler);
    }
    for (; slots->waiting != NULL && slot != NULL; slot = free_slot(slots, &n_free)) {
        fill(slots, slot, n_free);
        start(slots, slot, now_ms, handler);
    }
}
