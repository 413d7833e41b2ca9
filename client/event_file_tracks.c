// SPDX-License-Identifier: Apache-2.0
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/event/build.h"
#include "client/event_file.h"

#define NO_TRACK UINT32_MAX

/* ---- writing ---- */

typedef struct {
    FILE *file;
    char *temporary;
} writer_t;

/* Opens a file beside `path` that takes its place when all is well. */
static tm_status_t start(const char *path, writer_t *w, tm_error_t *err) {
    *w = (writer_t){0};
    if (asprintf(&w->temporary, "%s.XXXXXX", path) < 0) {
        w->temporary = NULL;
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    }
    int fd = mkstemp(w->temporary);
    if (fd < 0) {
        tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
        free(w->temporary);
        return TM_E_FILE;
    }
    mode_t mask = umask(0); /* mkstemp makes files that only we can read */
    umask(mask);
    w->file = fchmod(fd, 0666 & ~mask) == 0 ? fdopen(fd, "w") : NULL;
    if (!w->file) {
        tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
        close(fd);
        unlink(w->temporary);
        free(w->temporary);
        return TM_E_FILE;
    }
    return TM_OK;
}

static tm_status_t finish(const char *path, writer_t *w, tm_error_t *err) {
    tm_status_t status = TM_OK;
    bool failed = ferror(w->file) != 0;
    failed = fclose(w->file) != 0 || failed;
    if (failed || rename(w->temporary, path) != 0) {
        status = tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
        unlink(w->temporary);
    }
    free(w->temporary);
    return status;
}

tm_status_t tm_tracks_write_csv(const char *path, const tm_event_file_t *event,
                                const tm_tracks_t *tracks, tm_error_t *err) {
    writer_t w;
    tm_status_t status = start(path, &w, err);
    if (status != TM_OK) {
        return status;
    }
    fputs("hit_id,track_id\n", w.file);
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        for (uint32_t i = tracks->offsets[t]; i < tracks->offsets[t + 1]; i++) {
            fprintf(w.file, "%llu,%u\n", (unsigned long long)event->hit_id[tracks->indices[i]], t);
        }
    }
    return finish(path, &w, err);
}

/* The number at the end of an event's name; *there: it has one. */
static uint64_t event_number(const char *name, bool *there) {
    size_t n = strlen(name), start_at = n;
    while (start_at > 0 && isdigit((unsigned char)name[start_at - 1])) {
        start_at--;
    }
    *there = start_at < n;
    return *there ? strtoull(name + start_at, NULL, 10) : 0;
}

tm_status_t tm_tracks_write_trackml(const char *path, const tm_event_file_t *event,
                                    const tm_tracks_t *tracks, tm_error_t *err) {
    writer_t w;
    bool numbered;
    unsigned long long number = event_number(event->name, &numbered);
    int64_t *track = malloc(((size_t)event->n_points + 1) * sizeof *track);
    tm_status_t status =
        track ? start(path, &w, err) : tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    if (status != TM_OK) {
        free(track);
        return status;
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        track[i] = -1;
    }
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        for (uint32_t i = tracks->offsets[t]; i < tracks->offsets[t + 1]; i++) {
            track[tracks->indices[i]] = t;
        }
    }
    fputs("event_id,hit_id,track_id\n", w.file);
    for (uint32_t i = 0; i < event->n_points; i++) {
        fprintf(w.file, "%llu,%llu,%lld\n", number, (unsigned long long)event->hit_id[i],
                (long long)track[i]);
    }
    free(track);
    return finish(path, &w, err);
}

tm_status_t tm_tracks_write_acts(const char *path, const tm_event_file_t *event,
                                 const tm_tracks_t *tracks, tm_error_t *err) {
    writer_t w;
    const float *position[3];
    static const char *const names[] = {"x", "y", "z"};
    for (int c = 0; c < 3; c++) {
        const tm_column_t *column = tm_columns_find(&event->columns, names[c]);
        if (!column || column->type != TM_F32) {
            return tm_error_set(err, TM_E_ARGUMENT, "%s: the event has no positions", path);
        }
        position[c] = column->data;
    }
    tm_status_t status = start(path, &w, err);
    if (status != TM_OK) {
        return status;
    }
    fputs("trackId,measurementId,x,y,z\n", w.file);
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        for (uint32_t i = tracks->offsets[t]; i < tracks->offsets[t + 1]; i++) {
            uint32_t row = tracks->indices[i];
            fprintf(w.file, "%u,%llu,%.9g,%.9g,%.9g\n", t, (unsigned long long)event->hit_id[row],
                    (double)position[0][row], (double)position[1][row], (double)position[2][row]);
        }
    }
    return finish(path, &w, err);
}

tm_status_t tm_tracks_write_candidates(const char *path, const tm_tracks_t *tracks,
                                       tm_error_t *err) {
    writer_t w;
    tm_status_t status = start(path, &w, err);
    if (status != TM_OK) {
        return status;
    }
    const tm_starts_t *s = &tracks->starts;
    fputs("track_id,points,score,pt,charge,phi,eta,d0,z0\n", w.file);
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        fprintf(w.file, "%u,%u,%.6g,", t, tracks->offsets[t + 1] - tracks->offsets[t],
                (double)tracks->scores[t]);
        if (s->charge && s->charge[t] != 0) {
            fprintf(w.file, "%.6g,%d,%.6g,%.6g,%.6g,%.6g\n", (double)s->pt[t], s->charge[t],
                    (double)s->phi[t], (double)s->eta[t], (double)s->d0[t], (double)s->z0[t]);
        } else {
            fputs(",,,,,\n", w.file);
        }
    }
    return finish(path, &w, err);
}

/* ---- reading ---- */

typedef struct {
    uint64_t track; /* number in the file */
    uint32_t row;   /* of the file */
    uint32_t point;
} member_t;

static int by_track(const void *a, const void *b) {
    const member_t *m = a, *n = b;
    if (m->track != n->track) {
        return m->track < n->track ? -1 : 1;
    }
    return m->row < n->row ? -1 : m->row > n->row;
}

typedef struct {
    uint32_t least, begin, end; /* least point; members [begin, end) */
} span_t;

static int by_least_point(const void *a, const void *b) {
    const span_t *s = a, *t = b;
    if (s->least != t->least) {
        return s->least < t->least ? -1 : 1;
    }
    return s->begin < t->begin ? -1 : s->begin > t->begin;
}

/* Members, sorted by track and row, to tracks ordered by their least point. */
static tm_status_t gather(const member_t *member, uint32_t n, uint32_t n_points,
                          tm_tracks_t *tracks, tm_error_t *err) {
    uint32_t n_tracks = 0;
    span_t *span = malloc(((size_t)n + 1) * sizeof *span);
    if (!span) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u tracks", n);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || member[i].track != member[i - 1].track) {
            span[n_tracks++] = (span_t){member[i].point, i, i};
        }
        span_t *s = &span[n_tracks - 1];
        s->end = i + 1;
        s->least = member[i].point < s->least ? member[i].point : s->least;
    }
    qsort(span, n_tracks, sizeof *span, by_least_point);
    tm_status_t status = tm_tracks_alloc(tracks, n_points, n_tracks, n, err);
    for (uint32_t t = 0, k = 0; status == TM_OK && t < n_tracks; t++) {
        for (uint32_t i = span[t].begin; i < span[t].end; i++) {
            tracks->indices[k++] = member[i].point;
        }
        tracks->offsets[t + 1] = k;
        tracks->scores[t] = 0; /* not in the file */
    }
    free(span);
    return status;
}

/* Refuses a point that is twice in one track. */
static tm_status_t check_members(const char *path, const member_t *member, uint32_t n,
                                 const tm_event_file_t *event, tm_error_t *err) {
    uint64_t *last = malloc(((size_t)event->n_points + 1) * sizeof *last);
    tm_status_t status = TM_OK;
    if (!last) {
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    }
    memset(last, 0xFF, ((size_t)event->n_points + 1) * sizeof *last); /* no track has that number */
    for (uint32_t i = 0; i < n && status == TM_OK; i++) {
        if (last[member[i].point] == member[i].track) {
            status = tm_error_set(err, TM_E_FILE, "%s: line %u: hit %llu is twice in track %llu",
                                  path, tm_csv_line(member[i].row),
                                  (unsigned long long)event->hit_id[member[i].point],
                                  (unsigned long long)member[i].track);
        }
        last[member[i].point] = member[i].track;
    }
    free(last);
    return status;
}

tm_status_t tm_tracks_read_csv(const char *path, const tm_event_file_t *event, tm_tracks_t *tracks,
                               tm_error_t *err) {
    enum { HIT, TRACK, EVENT, COUNT };
    member_t *member = NULL;
    tm_idmap_t map = {0};
    uint32_t n_rows = 0, n = 0, n_ours = 0, twice;
    bool numbered;
    uint64_t number = event_number(event->name, &numbered);
    tm_csv_t csv;
    *tracks = (tm_tracks_t){0};
    tm_status_t status = tm_csv_open(path, &csv, err);
    if (status != TM_OK) {
        return status;
    }
    bool acts = tm_csv_has(&csv, "measurementId");
    tm_csv_field_t fields[COUNT] = {
        [HIT] = {acts ? "measurementId" : "hit_id", TM_CSV_ID, true, NULL},
        [TRACK] = {acts ? "trackId" : "track_id", TM_CSV_I64, true, NULL},
        [EVENT] = {"event_id", TM_CSV_ID, false, NULL},
    };
    status = tm_csv_read(&csv, fields, COUNT, TM_CELLS_MAX, &n_rows, err);
    if (status == TM_OK) {
        status = tm_build_idmap(event->hit_id, event->n_points, &map, &twice, err);
    }
    if (status == TM_OK && twice != TM_IDMAP_NONE) {
        status =
            tm_error_set(err, TM_E_FILE,
                         "%s: several space points of event %s have the id %llu: tracks cannot "
                         "be told from it",
                         path, event->name, (unsigned long long)event->hit_id[twice]);
    }
    if (status != TM_OK) {
        goto end;
    }
    member = malloc(((size_t)n_rows + 1) * sizeof *member);
    if (!member) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for %u rows", path, n_rows);
        goto end;
    }
    for (uint32_t i = 0; i < n_rows; i++) {
        uint64_t hit = ((const uint64_t *)fields[HIT].data)[i];
        int64_t track = ((const int64_t *)fields[TRACK].data)[i];
        /* a submission may hold many events */
        if (numbered && fields[EVENT].data && ((const uint64_t *)fields[EVENT].data)[i] != number) {
            continue;
        }
        n_ours++;
        uint32_t point = tm_idmap_find(&map, hit);
        if (point == TM_IDMAP_NONE) {
            status = tm_error_set(err, TM_E_FILE,
                                  "%s: line %u: hit %llu is not in event %s: do the files belong "
                                  "together?",
                                  path, tm_csv_line(i), (unsigned long long)hit, event->name);
            goto end;
        }
        if (track >= 0) {
            member[n++] = (member_t){(uint64_t)track, i, point};
        }
    }
    if (n_ours == 0 && n_rows > 0) {
        status = tm_error_set(err, TM_E_FILE, "%s: no row of event_id %llu", path,
                              (unsigned long long)number);
        goto end;
    }
    qsort(member, n, sizeof *member, by_track);
    status = check_members(path, member, n, event, err);
    if (status == TM_OK) {
        status = gather(member, n, event->n_points, tracks, err);
    }
end:
    free(member);
    tm_idmap_clear(&map);
    tm_csv_close(&csv);
    if (status != TM_OK) {
        tm_tracks_clear(tracks);
    }
    return status;
}
