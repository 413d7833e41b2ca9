// SPDX-License-Identifier: Apache-2.0
#include "client/cli/svg.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAR_AWAY INT32_MIN /* the pen is nowhere yet */

static void put_escaped(FILE *file, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '&':
            fputs("&amp;", file);
            break;
        case '<':
            fputs("&lt;", file);
            break;
        case '>':
            fputs("&gt;", file);
            break;
        case '"':
            fputs("&quot;", file);
            break;
        default:
            fputc((unsigned char)*text < ' ' ? '?' : *text, file);
        }
    }
}

tm_status_t tm_svg_open(const char *path, int width, int height, const char *title, tm_svg_t *svg,
                        tm_error_t *err) {
    *svg = (tm_svg_t){.path = strdup(path)};
    if (!svg->path || asprintf(&svg->temporary, "%s.XXXXXX", path) < 0) {
        free(svg->path);
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory", path);
    }
    int fd = mkstemp(svg->temporary);
    mode_t mask = umask(0); /* mkstemp makes files that only we can read */
    umask(mask);
    svg->file = fd >= 0 && fchmod(fd, 0666 & ~mask) == 0 ? fdopen(fd, "w") : NULL;
    if (!svg->file) {
        tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
            unlink(svg->temporary);
        }
        free(svg->path);
        free(svg->temporary);
        return TM_E_FILE;
    }
    fprintf(svg->file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\" font-family=\"'Helvetica Neue',Helvetica,Arial,sans-serif\">\n"
            "<title>",
            width, height, width, height);
    put_escaped(svg->file, title);
    fprintf(svg->file, "</title>\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n", width,
            height);
    return TM_OK;
}

tm_status_t tm_svg_close(tm_svg_t *svg, bool discard, tm_error_t *err) {
    tm_status_t status = TM_OK;
    fputs("</svg>\n", svg->file);
    bool failed = ferror(svg->file) != 0;
    failed = fclose(svg->file) != 0 || failed;
    if (discard || failed || rename(svg->temporary, svg->path) != 0) {
        if (!discard) {
            status = tm_error_set(err, TM_E_FILE, "%s: cannot be written: %s", svg->path,
                                  strerror(errno));
        }
        unlink(svg->temporary);
    }
    free(svg->path);
    free(svg->temporary);
    *svg = (tm_svg_t){0};
    return status;
}

void tm_svg_text(tm_svg_t *svg, double x, double y, const char *attributes, const char *text) {
    fprintf(svg->file, "<text x=\"%g\" y=\"%g\" %s>", x, y, attributes);
    put_escaped(svg->file, text);
    fputs("</text>\n", svg->file);
}

void tm_svg_raw(tm_svg_t *svg, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(svg->file, format, arguments);
    va_end(arguments);
}

void tm_svg_begin(tm_svg_t *svg, const char *attributes) {
    fprintf(svg->file, "<g transform=\"scale(%g)\" %s>\n", 1.0 / TM_SVG_UNITS, attributes);
}

void tm_svg_end(tm_svg_t *svg) {
    fputs("</g>\n", svg->file);
}

void tm_svg_path_begin(tm_svg_t *svg) {
    fputs("<path d=\"", svg->file);
    svg->x = svg->y = FAR_AWAY;
}

/* "dx dy" without a space where the minus sign separates. */
static void put_step(tm_svg_t *svg, char command, int32_t x, int32_t y) {
    int32_t dx = x - svg->x, dy = y - svg->y;
    fprintf(svg->file, dy < 0 ? "%c%d%d" : "%c%d %d", command, dx, dy);
    svg->x = x;
    svg->y = y;
}

void tm_svg_move(tm_svg_t *svg, int32_t x, int32_t y) {
    if (svg->x == FAR_AWAY) {
        svg->x = svg->y = 0;
    }
    put_step(svg, 'm', x, y);
}

void tm_svg_line(tm_svg_t *svg, int32_t x, int32_t y) {
    put_step(svg, 'l', x, y);
}

void tm_svg_dot(tm_svg_t *svg, int32_t x, int32_t y) {
    tm_svg_move(svg, x, y);
    fputs("h0", svg->file);
}

void tm_svg_path_end(tm_svg_t *svg, const char *tooltip) {
    if (!tooltip) {
        fputs("\"/>\n", svg->file);
        return;
    }
    fputs("\"><title>", svg->file);
    put_escaped(svg->file, tooltip);
    fputs("</title></path>\n", svg->file);
}
