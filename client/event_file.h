// SPDX-License-Identifier: Apache-2.0
/*
 * Reading events, with their truth where the files have it, and writing tracks.
 *
 * Formats, told apart by name and content, never by an option:
 *   *.npz, *.npz.xz             numpy archive (stored or deflated) with the arrays of
 *                               docs/formats.md: x_um y_um z_um (i4, µm) or x y z (mm) …
 *   *-hits.csv[.gz]             TrackML: hits, and beside it -cells, -truth, -particles
 *   *-spacepoint(s).csv[.gz]    ACTS, both layouts; beside it -cells,
 *                               -measurement-simhit-map, -simhits/-hits, -particles*
 * or the common prefix ("dir/event000000001") of the CSV files. Columns are looked up by name.
 * Errors: TM_E_FILE with a text that names file, line (or row) and column; TM_E_NO_MEMORY.
 *
 * Ownership: a tm_event_file_t owns all its arrays; event.columns borrow from it.
 * Threads: none shared; one event per call.
 */
#ifndef TM_CLIENT_EVENT_FILE_H
#define TM_CLIENT_EVENT_FILE_H

#include "wire/columns.h"

#define TM_EVENT_NAME_BYTES 128

/* One particle of the truth. */
typedef struct {
    uint64_t id;       /* as in the file (ACTS: packed barcode); npz: index + 1. Never 0 */
    int32_t pdg;       /* 0: unknown */
    float charge;      /* e */
    float vx, vy, vz;  /* production vertex, mm */
    float px, py, pz;  /* momentum there, GeV */
    uint8_t generated; /* 1: from the generator, 0: made in the detector */
    uint32_t n_hits;   /* space points of this particle in this event */
} tm_particle_t;

typedef struct {
    char name[TM_EVENT_NAME_BYTES]; /* "event000000001" */
    uint32_t n_points;
    tm_columns_t columns; /* x y z and whatever cluster columns there are; module_id */
    uint64_t *hit_id;     /* n_points: the id of each row in the input (npz: row number from 0) */

    bool has_truth;
    uint32_t n_particles;
    tm_particle_t *particles;
    /* Truth links as compressed sparse rows: particles (indices) of point i are
     * link_particle[link_offset[i] … link_offset[i+1]); the first is the main one. */
    uint32_t *link_offset; /* n_points + 1 */
    uint32_t *link_particle;
    float *hit_weight; /* n_points: TrackML weight, or NULL */

    void *memory; /* the reader's own */
} tm_event_file_t;

tm_status_t tm_event_file_read(const char *path, tm_event_file_t *out, tm_error_t *err);
/* Safe on a zeroed struct. */
void tm_event_file_clear(tm_event_file_t *event);

/* The name of the event at `path`: the file's name without folder and ending. Reads nothing. */
void tm_event_file_name(const char *path, char name[TM_EVENT_NAME_BYTES]);

/* Writers; `path` is replaced atomically. Rows: every point of a track candidate, by track. */
/* hit_id,track_id — track numbers from 0. */
tm_status_t tm_tracks_write_csv(const char *path, const tm_event_file_t *event,
                                const tm_tracks_t *tracks, tm_error_t *err);
/* TrackML submission: event_id,hit_id,track_id with a row for every hit; hits without track: -1. */
tm_status_t tm_tracks_write_trackml(const char *path, const tm_event_file_t *event,
                                    const tm_tracks_t *tracks, tm_error_t *err);
/* ACTS prototracks: trackId,measurementId,x,y,z */
tm_status_t tm_tracks_write_acts(const char *path, const tm_event_file_t *event,
                                 const tm_tracks_t *tracks, tm_error_t *err);
/* Candidates, a row each: track_id,points,score,pt,charge,phi,eta,d0,z0 — units as in tm_starts_t; the
 * last six empty where a candidate has no start values. */
tm_status_t tm_tracks_write_candidates(const char *path, const tm_tracks_t *tracks,
                                       tm_error_t *err);
/* Reads any of the three formats of points back, for `score` and `display`; scores become 0. Track numbers below 0 mean
 * no track. Other finders share hits between tracks, so here a point may be in several tracks; twice
 * in the same track is refused, as is a hit that the event does not have. */
tm_status_t tm_tracks_read_csv(const char *path, const tm_event_file_t *event, tm_tracks_t *tracks,
                               tm_error_t *err);

#endif
