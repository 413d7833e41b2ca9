// SPDX-License-Identifier: Apache-2.0
#include "broker/exchange.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

struct tm_exchange {
    int fd;
    pthread_mutex_t mutex;
    pthread_cond_t served;
    bool wanted, ready;     /* guarded by the mutex, as is `shared` */
    tm_snapshot_t shared;   /* filled by the broker's thread */
    tm_snapshot_t borrowed; /* the asker's copy */
};

tm_status_t tm_exchange_new(tm_exchange_t **out, tm_error_t *err) {
    tm_exchange_t *x = calloc(1, sizeof *x);
    *out = NULL;
    if (!x)
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    x->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (x->fd < 0) {
        free(x);
        return tm_error_set(err, TM_E_SYSTEM, "eventfd: %s", strerror(errno));
    }
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&x->served, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&x->mutex, NULL);
    *out = x;
    return TM_OK;
}

void tm_exchange_destroy(tm_exchange_t **p) {
    tm_exchange_t *x = *p;
    if (!x)
        return;
    close(x->fd);
    pthread_cond_destroy(&x->served);
    pthread_mutex_destroy(&x->mutex);
    free(x);
    *p = NULL;
}

const tm_snapshot_t *tm_exchange_ask(tm_exchange_t *x, uint32_t timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&x->mutex);
    x->wanted = true;
    x->ready = false;
    uint64_t one = 1;
    ssize_t written = write(x->fd, &one, sizeof one); // full only if it is readable already
    (void)written;
    while (!x->ready && !pthread_cond_timedwait(&x->served, &x->mutex, &until))
        ;
    bool ready = x->ready;
    if (ready)
        memcpy(&x->borrowed, &x->shared, sizeof x->borrowed);
    pthread_mutex_unlock(&x->mutex);
    return ready ? &x->borrowed : NULL;
}

int tm_exchange_fd(const tm_exchange_t *x) {
    return x->fd;
}

tm_snapshot_t *tm_exchange_serve(tm_exchange_t *x) {
    uint64_t count;
    if (read(x->fd, &count, sizeof count) < 0)
        return NULL;
    pthread_mutex_lock(&x->mutex);
    if (x->wanted)
        return &x->shared;
    pthread_mutex_unlock(&x->mutex);
    return NULL;
}

void tm_exchange_serve_end(tm_exchange_t *x) {
    x->wanted = false;
    x->ready = true;
    pthread_cond_signal(&x->served);
    pthread_mutex_unlock(&x->mutex);
}
