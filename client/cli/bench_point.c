// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_point.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_ROOM 1024

static tm_status_t reserve(tm_bench_point_t *point, size_t wanted, tm_error_t *err) {
    size_t room = point->room ? point->room : FIRST_ROOM;
    while (room < wanted) {
        room *= 2;
    }
    if (room > point->room) {
        tm_bench_sample_t *grown = realloc(point->sample, room * sizeof *grown);
        if (!grown) {
            return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %zu samples", room);
        }
        point->sample = grown;
        point->room = room;
    }
    return TM_OK;
}

tm_status_t tm_bench_point_sample(tm_bench_point_t *point, const tm_bench_sample_t *sample,
                                  tm_error_t *err) {
    tm_status_t status = reserve(point, point->n + 1, err);
    if (status == TM_OK) {
        point->sample[point->n++] = *sample;
    }
    return status;
}

void tm_bench_point_fail(tm_bench_point_t *point, tm_status_t status, const tm_error_t *error) {
    if (point->n_failed++ == 0) {
        point->failure = *error;
    }
    if ((unsigned)status < TM_BENCH_CODES) {
        point->failed[status]++;
    }
}

static double greater(double a, double b) {
    return a > b ? a : b;
}

void tm_bench_point_agree(tm_bench_point_t *point, const tm_bench_agreement_t *agreement) {
    point->compared++;
    point->differing_sum += agreement->differing;
    point->differing_max = greater(point->differing_max, agreement->differing);
    point->score_difference = greater(point->score_difference, agreement->score_difference);
}

tm_status_t tm_bench_point_merge(tm_bench_point_t *point, const tm_bench_point_t *other,
                                 tm_error_t *err) {
    tm_status_t status = reserve(point, point->n + other->n, err);
    if (status != TM_OK) {
        return status;
    }
    if (other->n) {
        memcpy(point->sample + point->n, other->sample, other->n * sizeof *other->sample);
        point->n += other->n;
    }
    point->answered += other->answered;
    point->points += other->points;
    point->sent_bytes += other->sent_bytes;
    point->received_bytes += other->received_bytes;
    point->retried += other->retried;
    point->offered += other->offered;
    point->late += other->late;
    point->unsent += other->unsent;
    if (other->late_max_us > point->late_max_us) {
        point->late_max_us = other->late_max_us;
    }
    for (int code = 0; code < TM_BENCH_CODES; code++) {
        point->failed[code] += other->failed[code];
    }
    if (point->n_failed == 0) {
        point->failure = other->failure;
    }
    point->n_failed += other->n_failed;
    point->compared += other->compared;
    point->differing_sum += other->differing_sum;
    point->differing_max = greater(point->differing_max, other->differing_max);
    point->score_difference = greater(point->score_difference, other->score_difference);
    if (point->mismatches == 0) {
        point->mismatch = other->mismatch;
    }
    point->mismatches += other->mismatches;
    if (other->model[0]) {
        memcpy(point->model, other->model, sizeof point->model);
    }
    return TM_OK;
}

void tm_bench_point_clear(tm_bench_point_t *point) {
    free(point->sample);
    *point = (tm_bench_point_t){0};
}

static bool write_all(int fd, const void *bytes, size_t n) {
    const char *p = bytes;
    while (n > 0) {
        ssize_t written = write(fd, p, n);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        if (written > 0) {
            p += written;
            n -= (size_t)written;
        }
    }
    return true;
}

tm_status_t tm_bench_point_write(const tm_bench_point_t *point, int fd, tm_error_t *err) {
    if (!write_all(fd, point, sizeof *point) ||
        !write_all(fd, point->sample, point->n * sizeof *point->sample)) {
        return tm_error_set(err, TM_E_SYSTEM, "a load process cannot report: %s", strerror(errno));
    }
    return TM_OK;
}

bool tm_bench_point_read(tm_bench_point_t *point, const void *bytes, size_t n) {
    tm_bench_point_t head;
    tm_error_t unused;
    *point = (tm_bench_point_t){0};
    if (n < sizeof head) {
        return false;
    }
    memcpy(&head, bytes, sizeof head);
    if ((n - sizeof head) / sizeof *head.sample != head.n) {
        return false;
    }
    size_t samples = head.n;
    head.sample = NULL;
    head.n = head.room = 0;
    *point = head;
    if (reserve(point, samples, &unused) != TM_OK) {
        return false;
    }
    memcpy(point->sample, (const char *)bytes + sizeof head, samples * sizeof *point->sample);
    point->n = samples;
    return true;
}
