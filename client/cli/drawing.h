// SPDX-License-Identifier: Apache-2.0
/*
 * The event display: space points and tracks of one event in the x-y and r-z planes.
 */
#ifndef TM_CLI_DRAWING_H
#define TM_CLI_DRAWING_H

#include "client/score.h"

typedef struct {
    tm_score_options_t selection;
    double r_max_mm, z_max_mm; /* the part that is shown; 0: all */
} tm_drawing_options_t;

/* Draws `event` into an SVG file. With tracks: the found ones, and with truth also the missed
 * particles and the fakes; with truth alone: the wanted particles. tracks may be NULL. */
tm_status_t tm_drawing_write(const char *path, const tm_event_file_t *event,
                             const tm_tracks_t *tracks, const tm_drawing_options_t *options,
                             tm_error_t *err);

#endif
