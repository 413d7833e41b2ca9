// SPDX-License-Identifier: Apache-2.0
/*
 * A small SVG writer: a page, text, and paths whose coordinates are whole tenths of a pixel written
 * as differences, which keeps big drawings small.
 *
 * Text is escaped. Errors are found at the end: tm_svg_close tells.
 */
#ifndef TM_CLI_SVG_H
#define TM_CLI_SVG_H

#include <stdint.h>
#include <stdio.h>

#include "wire/error.h"

#define TM_SVG_UNITS 10 /* per pixel, inside groups begun by tm_svg_begin */

typedef struct {
    char *path, *temporary;
    FILE *file;
    int32_t x, y; /* the pen, in units */
} tm_svg_t;

/* Writes beside `path`; tm_svg_close puts the drawing in its place. */
tm_status_t tm_svg_open(const char *path, int width, int height, const char *title, tm_svg_t *svg,
                        tm_error_t *err);
/* Frees everything. discard: throws the drawing away. */
tm_status_t tm_svg_close(tm_svg_t *svg, bool discard, tm_error_t *err);

/* Text at (x, y) in pixels; attributes as in SVG, may be "". */
void tm_svg_text(tm_svg_t *svg, double x, double y, const char *attributes, const char *text);
/* Verbatim markup. */
void tm_svg_raw(tm_svg_t *svg, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A group whose coordinates are units. */
void tm_svg_begin(tm_svg_t *svg, const char *attributes);
void tm_svg_end(tm_svg_t *svg);

/* One path element: begin, then moves, lines and dots, then end (with a tooltip, or NULL). */
void tm_svg_path_begin(tm_svg_t *svg);
void tm_svg_move(tm_svg_t *svg, int32_t x, int32_t y);
void tm_svg_line(tm_svg_t *svg, int32_t x, int32_t y);
void tm_svg_dot(tm_svg_t *svg, int32_t x, int32_t y); /* as wide as the stroke, with round caps */
void tm_svg_path_end(tm_svg_t *svg, const char *tooltip);

#endif
