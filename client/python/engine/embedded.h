// SPDX-License-Identifier: Apache-2.0
/*
 * libtrackmill-engine: the engine for programs in other languages, first of all Python's ctypes.
 *
 * nn/engine.h through numbers, strings and arrays alone, so that a caller need not know the layout of
 * any struct. One handle is one model and one engine. Calls on one handle must not overlap; different
 * handles are independent. Every function that can fail returns a tm_status_t (0: success) and then
 * writes one line into `text`, which the caller owns (TM_ERROR_TEXT_BYTES are enough for any).
 */
#ifndef TM_EMBEDDED_H
#define TM_EMBEDDED_H

#include <stddef.h>
#include <stdint.h>

/* Grows with every change that an older caller would not survive. */
#define TM_EMBEDDED_ABI 2

typedef struct tm_embedded tm_embedded_t;

int tm_embedded_abi(void);

/* Loads the model file. device: as in nn/engine.h, NULL chooses. threads: 0 takes all there are. */
int tm_embedded_open(const char *path, const char *device, int threads, tm_embedded_t **out,
                     char *text, size_t text_bytes);
void tm_embedded_close(tm_embedded_t **p);

/* Of the model: "standard@1"; SHA-256 of the file in hexadecimal; the columns it needs beyond x y z,
 * separated by spaces. Of the engine: its device in words. Borrowed from the handle. */
const char *tm_embedded_model(const tm_embedded_t *e);
const char *tm_embedded_hash(const tm_embedded_t *e);
const char *tm_embedded_columns(const tm_embedded_t *e);
const char *tm_embedded_device(const tm_embedded_t *e);

/* Finds the tracks of one event of n_points space points: n_columns arrays of that many elements, by
 * name and type (the numbers of wire/columns.h). The arrays are only read. */
int tm_embedded_find(tm_embedded_t *e, uint64_t n_points, uint32_t n_columns,
                     const char *const *names, const uint32_t *types, const void *const *data,
                     char *text, size_t text_bytes);

/* What the last successful find found, as tm_tracks_t; borrowed until the next find or close. */
uint32_t tm_embedded_tracks(const tm_embedded_t *e, const uint32_t **offsets,
                            const uint32_t **indices, const float **scores);

/* Their start values, as tm_starts_t; borrowed likewise. 0: the model has none, the pointers are NULL. */
int tm_embedded_starts(const tm_embedded_t *e, const float **pt, const float **phi,
                       const float **eta, const float **d0, const float **z0,
                       const int8_t **charge);

/* Stage number `i` of the last find: its name, or NULL beyond the last. */
const char *tm_embedded_stage(const tm_embedded_t *e, uint32_t i, uint32_t *us);

#endif
