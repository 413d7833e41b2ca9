// SPDX-License-Identifier: Apache-2.0
#include "client/event_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client/event/build.h"

/* What the names of event files end with; the rest is the prefix that an event's files share. */
static const char *const endings[] = {"-spacepoints.csv", "-spacepoint.csv", "-hits.csv", ".npz"};
static const char *const packings[] = {"", ".gz", ".xz"};
#define COUNT_OF(array) (sizeof(array) / sizeof(array)[0])

/* Length of the path without what the format adds to an event's name; *known: there was such. */
static size_t prefix_length(const char *path, bool *known) {
    size_t n = strlen(path);
    for (size_t i = 0; i < COUNT_OF(endings); i++) {
        for (size_t k = 0; k < COUNT_OF(packings); k++) {
            char ending[64];
            size_t e = (size_t)snprintf(ending, sizeof ending, "%s%s", endings[i], packings[k]);
            if (n > e && strcmp(path + n - e, ending) == 0) {
                *known = true;
                return n - e;
            }
        }
    }
    *known = false;
    return n;
}

void tm_event_file_name(const char *path, char name[TM_EVENT_NAME_BYTES]) {
    bool known;
    size_t n = prefix_length(path, &known);
    size_t start = n;
    while (start > 0 && path[start - 1] != '/') {
        start--;
    }
    if (!known) { /* "x.csv" → "x" */
        const char *dot = memchr(path + start, '.', n - start);
        n = dot && dot > path + start ? (size_t)(dot - path) : n;
    }
    if (n - start >= TM_EVENT_NAME_BYTES) {
        n = start + TM_EVENT_NAME_BYTES - 1;
    }
    memcpy(name, path + start, n - start);
    name[n - start] = '\0';
}

/* The event file that `path` means: itself, or a file of which it is the prefix. Allocated. */
static char *locate(const char *path, tm_error_t *err) {
    static const char *const names[] = {"-spacepoint.csv", "-spacepoints.csv", "-hits.csv", ".npz",
                                        NULL};
    struct stat info;
    if (stat(path, &info) == 0) {
        if (S_ISDIR(info.st_mode)) {
            tm_error_set(err, TM_E_FILE, "%s: a folder; name the events in it", path);
            return NULL;
        }
        char *copy = strdup(path);
        if (!copy) {
            tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
        }
        return copy;
    }
    int reason = errno;
    char *found = tm_build_sibling(path, names);
    if (!found) {
        tm_error_set(err, TM_E_FILE,
                     "%s: %s (nor is it the common start of …-hits.csv, …-spacepoint.csv or ….npz)",
                     path, strerror(reason));
    }
    return found;
}

/* By the column names of the first line. */
static tm_status_t read_csv(tm_csv_t *csv, const char *prefix, tm_event_file_t *out,
                            tm_error_t *err) {
    if (tm_csv_has(csv, "hit_id") && !tm_csv_has(csv, "tx")) {
        return tm_event_read_trackml(csv, prefix, out, err);
    }
    if (tm_csv_has(csv, "sp_x") || tm_csv_has(csv, "measurement_id_1")) {
        return tm_event_read_acts(csv, prefix, out, err);
    }
    if (tm_csv_has(csv, "tx")) {
        return tm_error_set(err, TM_E_FILE,
                            "%s: simulated hits, not measured ones: name the …-spacepoint.csv file",
                            csv->path);
    }
    return tm_error_set(err, TM_E_FILE,
                        "%s: line 1: neither TrackML hits (hit_id,x,y,z,…) nor ACTS space points "
                        "(measurement_id,sp_x,… or measurement_id_1,…,x,y,z,…)",
                        csv->path);
}

tm_status_t tm_event_file_read(const char *path, tm_event_file_t *out, tm_error_t *err) {
    static const char zip[] = "PK";
    tm_blob_t blob = {0};
    tm_csv_t csv = {0};
    char *prefix = NULL;
    *out = (tm_event_file_t){0};
    char *file = locate(path, err);
    if (!file) {
        return err ? err->code : TM_E_FILE;
    }
    tm_status_t status = tm_blob_read(file, &blob, err);
    if (status != TM_OK) {
        goto end;
    }
    bool known;
    size_t n = prefix_length(file, &known);
    prefix = known ? strndup(file, n) : NULL;
    out->memory = tm_arena_new();
    if (!out->memory || (known && !prefix)) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", file);
        goto end;
    }
    tm_event_file_name(file, out->name);
    if (blob.bytes >= sizeof zip - 1 && memcmp(blob.data, zip, sizeof zip - 1) == 0) {
        status = tm_event_read_npz(file, &blob, out, err);
    } else if (blob.bytes == 0) {
        status = tm_error_set(err, TM_E_FILE, "%s: empty", file);
    } else {
        status = tm_csv_open_blob(file, &blob, &csv, err);
        if (status == TM_OK) {
            status = read_csv(&csv, prefix, out, err);
        }
    }
end:
    tm_csv_close(&csv);
    tm_blob_clear(&blob);
    free(prefix);
    free(file);
    if (status != TM_OK) {
        tm_event_file_clear(out);
    }
    return status;
}

void tm_event_file_clear(tm_event_file_t *event) {
    tm_arena_t *arena = event->memory;
    tm_arena_destroy(&arena);
    *event = (tm_event_file_t){0};
}
