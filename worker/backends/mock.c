// SPDX-License-Identifier: Apache-2.0
#include "worker/backends/mock.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "worker/clock.h"

#define TIME_MAX_MS 86400000u
#define BATCH_ROWS 8192u      /* larger events run alone, as those of the engine */
#define NAP_MS 2u             /* how often a pretended computation looks at `cancelled` */
#define SETTING_MAX_BYTES 256 /* one --model argument */

typedef struct {
    uint64_t time_min_ms, time_max_ms;
    uint64_t bytes;
    double fail_rate, crash_rate, hang_rate;
    char fail_on[TM_COLUMN_NAME_MAX + 1];
    char crash_on[TM_COLUMN_NAME_MAX + 1];
    char hang_on[TM_COLUMN_NAME_MAX + 1];
    bool checksum;
    char name[TM_NAME_MAX + 1], version[TM_NAME_MAX + 1];
    uint64_t hash_seed;
} mock_t;

typedef struct {
    const mock_t *mock;
    uint64_t random;
    tm_tracks_t tracks[TM_BACKEND_BATCH_MAX]; /* the first: of what ran alone, too */
    uint8_t *padding;
} mock_slot_t;

/* splitmix64: any seed will do, 0 included */
static uint64_t next_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static bool by_chance(mock_slot_t *slot, double rate) {
    return (double)(next_random(&slot->random) >> 11) * 0x1p-53 < rate;
}

/* ---- settings ---- */

static bool parse_uint(const char *text, char end, uint64_t most, uint64_t *out,
                       const char **rest) {
    char *stop;
    if (*text < '0' || *text > '9') {
        return false;
    }
    errno = 0;
    unsigned long long value = strtoull(text, &stop, 10);
    if (errno != 0 || value > most || (*stop != '\0' && *stop != end)) {
        return false;
    }
    *out = value;
    *rest = stop;
    return true;
}

static bool parse_whole_uint(const char *text, uint64_t most, uint64_t *out) {
    const char *rest;
    return parse_uint(text, '\0', most, out, &rest);
}

static bool parse_range(const char *text, uint64_t *low, uint64_t *high) {
    const char *rest;
    if (!parse_uint(text, '-', TIME_MAX_MS, low, &rest)) {
        return false;
    }
    *high = *low;
    return *rest == '\0' || (parse_whole_uint(rest + 1, TIME_MAX_MS, high) && *high >= *low);
}

static bool parse_rate(const char *text, double *out) {
    char *stop;
    *out = strtod(text, &stop);
    return stop != text && *stop == '\0' && *out >= 0 && *out <= 1;
}

static bool parse_string(const char *text, char *out, size_t room) {
    size_t bytes = strlen(text);
    if (bytes == 0 || bytes >= room) {
        return false;
    }
    memcpy(out, text, bytes + 1);
    return true;
}

static bool parse_yes_no(const char *text, bool *out) {
    *out = strcmp(text, "yes") == 0;
    return *out || strcmp(text, "no") == 0;
}

static tm_status_t parse_setting(mock_t *mock, const char *key, const char *value,
                                 tm_error_t *err) {
    bool good;
    if (strcmp(key, "time_ms") == 0) {
        good = parse_range(value, &mock->time_min_ms, &mock->time_max_ms);
    } else if (strcmp(key, "bytes") == 0) {
        good = parse_whole_uint(value, TM_PAYLOAD_MAX_BYTES, &mock->bytes);
    } else if (strcmp(key, "fail_rate") == 0) {
        good = parse_rate(value, &mock->fail_rate);
    } else if (strcmp(key, "crash_rate") == 0) {
        good = parse_rate(value, &mock->crash_rate);
    } else if (strcmp(key, "hang_rate") == 0) {
        good = parse_rate(value, &mock->hang_rate);
    } else if (strcmp(key, "fail_on") == 0) {
        good = parse_string(value, mock->fail_on, sizeof mock->fail_on);
    } else if (strcmp(key, "crash_on") == 0) {
        good = parse_string(value, mock->crash_on, sizeof mock->crash_on);
    } else if (strcmp(key, "hang_on") == 0) {
        good = parse_string(value, mock->hang_on, sizeof mock->hang_on);
    } else if (strcmp(key, "checksum") == 0) {
        good = parse_yes_no(value, &mock->checksum);
    } else if (strcmp(key, "name") == 0) {
        good = parse_string(value, mock->name, sizeof mock->name);
    } else if (strcmp(key, "version") == 0) {
        good = parse_string(value, mock->version, sizeof mock->version);
    } else if (strcmp(key, "hash") == 0) {
        good = parse_whole_uint(value, UINT64_MAX, &mock->hash_seed);
    } else {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "mock has no setting '%s' (there are time_ms, bytes, fail_rate, "
                            "crash_rate, hang_rate, fail_on, crash_on, hang_on, checksum, name, "
                            "version, hash)",
                            key);
    }
    return good ? TM_OK
                : tm_error_set(err, TM_E_ARGUMENT, "mock setting %s: '%s' is no possible value",
                               key, value);
}

static tm_status_t parse_argument(mock_t *mock, const char *argument, tm_error_t *err) {
    char copy[SETTING_MAX_BYTES];
    if (strlen(argument) >= sizeof copy) {
        return tm_error_set(err, TM_E_ARGUMENT, "a mock setting of more than %d bytes",
                            SETTING_MAX_BYTES - 1);
    }
    memcpy(copy, argument, strlen(argument) + 1);
    char *save = NULL;
    for (char *item = strtok_r(copy, ",", &save); item != NULL; item = strtok_r(NULL, ",", &save)) {
        char *equals = strchr(item, '=');
        if (equals == NULL) {
            return tm_error_set(err, TM_E_ARGUMENT, "mock setting '%s': write it as key=value",
                                item);
        }
        *equals = '\0';
        tm_status_t status = parse_setting(mock, item, equals + 1, err);
        if (status != TM_OK) {
            return status;
        }
    }
    return TM_OK;
}

/* ---- the back end ---- */

static tm_status_t mock_load(const char *const *arguments, int n_arguments, int threads_per_slot,
                             const char *device, void **state, tm_model_id_t *models,
                             uint32_t *n_models, tm_error_t *err) {
    (void)threads_per_slot;
    (void)device;
    mock_t *mock = calloc(1, sizeof *mock);
    if (mock == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for the mock back end");
    }
    mock->checksum = true;
    memcpy(mock->name, "mock", sizeof "mock");
    memcpy(mock->version, "1", sizeof "1");
    for (int i = 0; i < n_arguments; i++) {
        tm_status_t status = parse_argument(mock, arguments[i], err);
        if (status != TM_OK) {
            free(mock);
            return status;
        }
    }
    memset(models, 0, sizeof *models);
    memcpy(models->name, mock->name, sizeof models->name);
    memcpy(models->version, mock->version, sizeof models->version);
    uint64_t seed = mock->hash_seed;
    for (size_t i = 0; i < TM_HASH_BYTES; i++) {
        models->hash[i] = (uint8_t)(next_random(&seed) >> 56);
    }
    *n_models = 1;
    *state = mock;
    return TM_OK;
}

static const char *mock_device(void *state) {
    (void)state;
    return "mock";
}

static tm_status_t mock_open(void *state, void **slot, tm_error_t *err) {
    mock_slot_t *made = calloc(1, sizeof *made);
    const mock_t *mock = state;
    if (made != NULL && mock->bytes > 0) {
        made->padding = calloc(mock->bytes, 1);
    }
    if (made == NULL || (mock->bytes > 0 && made->padding == NULL)) {
        free(made);
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a slot of the mock back end");
    }
    made->mock = mock;
    /* workers of one test must not crash in step */
    made->random = tm_clock_us() ^ ((uint64_t)getpid() << 32) ^ (uint64_t)(uintptr_t)made;
    *slot = made;
    return TM_OK;
}

uint32_t tm_mock_checksum(const tm_columns_t *event) {
    uLong crc = crc32(0, Z_NULL, 0);
    for (uint32_t i = 0; i < event->count; i++) {
        const tm_column_t *column = &event->column[i];
        crc = crc32_z(crc, column->data, column->n * tm_type_bytes(column->type));
    }
    return (uint32_t)crc;
}

float tm_mock_score(uint32_t checksum) {
    return (float)(checksum & 0xffffffu) / 0x1p24f;
}

/* True: it was cancelled on the way. */
static bool pass_time(uint64_t us, const volatile int *cancelled) {
    uint64_t end = tm_clock_us() + us;
    for (uint64_t now = tm_clock_us(); now < end; now = tm_clock_us()) {
        if (__atomic_load_n(cancelled, __ATOMIC_RELAXED) != 0) {
            return true;
        }
        uint64_t left = end - now < NAP_MS * 1000u ? end - now : NAP_MS * 1000u;
        nanosleep(&(struct timespec){0, (long)left * 1000}, NULL);
    }
    return __atomic_load_n(cancelled, __ATOMIC_RELAXED) != 0;
}

static bool has_column(const tm_columns_t *event, const char *name) {
    return name[0] != '\0' && tm_columns_find(event, name) != NULL;
}

static tm_status_t make_tracks(const mock_slot_t *slot, const tm_columns_t *event,
                               tm_tracks_t *tracks, tm_error_t *err) {
    uint64_t n = event->count > 0 ? event->column[0].n : 0;
    if (n > TM_POINTS_MAX) {
        return tm_error_set(err, TM_E_BAD_EVENT, "%" PRIu64 " points: the limit is %u", n,
                            TM_POINTS_MAX);
    }
    uint32_t n_points = (uint32_t)n;
    uint32_t n_tracks = (n_points + TM_MOCK_TRACK_POINTS - 1) / TM_MOCK_TRACK_POINTS;
    float score = slot->mock->checksum ? tm_mock_score(tm_mock_checksum(event)) : 0;
    tm_tracks_clear(tracks);
    tm_status_t status = tm_tracks_alloc(tracks, n_points, n_tracks, n_points, err);
    if (status != TM_OK) {
        return status;
    }
    for (uint32_t t = 0; t < n_tracks; t++) {
        tracks->offsets[t] = t * TM_MOCK_TRACK_POINTS;
        tracks->scores[t] = score;
    }
    tracks->offsets[n_tracks] = n_points;
    for (uint32_t i = 0; i < n_points; i++) {
        tracks->indices[i] = i;
    }
    return TM_OK;
}

static uint64_t choose_time_us(mock_slot_t *slot) {
    const mock_t *mock = slot->mock;
    uint64_t span_us = (mock->time_max_ms - mock->time_min_ms) * 1000u;
    return mock->time_min_ms * 1000u + next_random(&slot->random) % (span_us + 1);
}

/* Crashes, hangs or fails where the settings say so; else makes the tracks. */
static tm_status_t compute(mock_slot_t *slot, const tm_columns_t *in, tm_tracks_t *tracks,
                           tm_error_t *err) {
    const mock_t *mock = slot->mock;
    if (has_column(in, mock->crash_on) || by_chance(slot, mock->crash_rate)) {
        kill(getpid(), SIGKILL);
    }
    if (has_column(in, mock->hang_on) || by_chance(slot, mock->hang_rate)) {
        for (;;) {
            pause();
        }
    }
    if (has_column(in, mock->fail_on) || by_chance(slot, mock->fail_rate)) {
        return tm_error_set(err, TM_E_BACKEND, "mock failure, as it was set to");
    }
    return make_tracks(slot, in, tracks, err);
}

static tm_status_t fill_result(const mock_slot_t *slot, const tm_tracks_t *tracks,
                               uint64_t begin_us, tm_backend_result_t *out, tm_error_t *err) {
    uint64_t padding = slot->mock->bytes;
    out->columns.count = 0;
    tm_status_t status = tm_tracks_to_columns(tracks, &out->columns, err);
    if (status == TM_OK && padding > 0) {
        status = tm_columns_add(&out->columns, "padding", TM_U8, padding, slot->padding, err);
    }
    out->timings.count = 0;
    tm_timings_add(&out->timings, "mock", tm_clock_us() - begin_us);
    return status;
}

static tm_status_t mock_run(void *handle, uint32_t model, const tm_columns_t *in,
                            const volatile int *cancelled, tm_backend_result_t *out,
                            tm_error_t *err) {
    (void)model;
    mock_slot_t *slot = handle;
    uint64_t begin_us = tm_clock_us();
    uint64_t time_us = choose_time_us(slot);

    if (pass_time(time_us / 2, cancelled)) {
        return tm_error_set(err, TM_E_CANCELLED, "cancelled");
    }
    tm_status_t status = compute(slot, in, &slot->tracks[0], err);
    if (status != TM_OK) {
        return status;
    }
    uint64_t spent_us = tm_clock_us() - begin_us;
    if (spent_us < time_us && pass_time(time_us - spent_us, cancelled)) {
        return tm_error_set(err, TM_E_CANCELLED, "cancelled");
    }
    return fill_result(slot, &slot->tracks[0], begin_us, out, err);
}

/* Takes the time of one, as a GPU would, and like that is not stopped half way. */
static void mock_run_batch(void *handle, uint32_t model, tm_backend_item_t *items, uint32_t n) {
    (void)model;
    static const volatile int never = 0;
    mock_slot_t *slot = handle;
    uint64_t begin_us = tm_clock_us();
    uint64_t time_us = choose_time_us(slot);

    pass_time(time_us / 2, &never);
    for (uint32_t i = 0; i < n; i++) {
        items[i].status = compute(slot, items[i].in, &slot->tracks[i], &items[i].err);
    }
    uint64_t spent_us = tm_clock_us() - begin_us;
    if (spent_us < time_us) {
        pass_time(time_us - spent_us, &never);
    }
    for (uint32_t i = 0; i < n; i++) {
        tm_backend_item_t *item = &items[i];
        if (item->status == TM_OK) {
            item->status = fill_result(slot, &slot->tracks[i], begin_us, &item->out, &item->err);
        }
    }
}

static void mock_close(void **handle) {
    mock_slot_t *slot = *handle;
    for (uint32_t i = 0; i < TM_BACKEND_BATCH_MAX; i++) {
        tm_tracks_clear(&slot->tracks[i]);
    }
    free(slot->padding);
    free(slot);
    *handle = NULL;
}

static void mock_unload(void **state) {
    free(*state);
    *state = NULL;
}

const tm_backend_t tm_backend_mock = {
    .name = "mock",
    .load = mock_load,
    .device = mock_device,
    .open = mock_open,
    .run = mock_run,
    .run_batch = mock_run_batch,
    .batch_rows = BATCH_ROWS,
    .batch_rows_all = BATCH_ROWS * TM_BACKEND_BATCH_MAX,
    .close = mock_close,
    .unload = mock_unload,
};
