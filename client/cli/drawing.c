// SPDX-License-Identifier: Apache-2.0
#include "client/cli/drawing.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/svg.h"

/* ---- layout, pixels ---- */
#define WIDTH 1600
#define HEIGHT 900
#define LEFT 76
#define TOP 112
#define BOTTOM 842
#define XY_SIZE (BOTTOM - TOP)
#define RZ_LEFT (LEFT + XY_SIZE + 74)
#define RZ_RIGHT (WIDTH - 24)

#define INK "#1f2933"
#define FAINT "#6b7785"
#define HIT_COLOUR "#8b97a6"
#define FAKE_COLOUR "#f08c00"
#define MISSED_COLOUR "#e03131"
#define OTHER_COLOUR "#9db4cc"

#define UNITS_MAX 1e8

#define DOTS_MAX 30000         /* space points drawn in a panel */
#define FEW_POINTS 3000        /* up to here each space point is drawn, larger */
#define DOTS_PER_PATH 50       /* renderers choke on a stroke of thousands of pieces */
#define PANEL_BYTES (2u << 20) /* of lines, about; huge events are thinned out to fit */
#define POINT_BYTES 7
#define LINE_BYTES 28
#define STRIDE_MAX 3
#define TOOLTIPS_MAX 400 /* lines; more would make the file heavy */

/* Found tracks: told apart from one another, and from red (missed) and orange (fake). */
static const char *const palette[] = {"#1c7ed6", "#2f9e44", "#7048e8", "#0c8599",
                                      "#5c940d", "#9c36b5", "#364fc7", "#087f5b"};
#define N_COLOURS (sizeof palette / sizeof palette[0])

typedef enum { KIND_OTHER, KIND_FOUND, KIND_MISSED, KIND_FAKE, KIND_HIDDEN, N_KINDS } kind_t;

/* One line to draw: points, from the inside out. */
typedef struct {
    kind_t kind;
    uint32_t n;
    const uint32_t *point; /* into the scene's pool */
    char tooltip[96];
} line_t;

typedef struct {
    const tm_event_file_t *event;
    const float *x, *y, *z;
    line_t *line;
    uint32_t n_lines;
    uint32_t *pool; /* points of all lines */
    uint32_t n_pool;
    uint64_t count[N_KINDS];
    bool with_tracks;
    uint32_t stride; /* every so many points of a line are drawn, and its last */
    uint32_t every;  /* every so many found and other tracks are drawn */
    const tm_drawing_options_t *options;
} scene_t;

/* A view from mm to units of the page. */
typedef struct {
    bool rz;
    double left, top, width, height; /* pixels */
    double h_min, h_max, v_min, v_max;
} panel_t;

/* ---- what is drawn ---- */

typedef struct {
    double distance;
    uint32_t point;
} ordered_t;

static int by_distance(const void *a, const void *b) {
    const ordered_t *p = a, *q = b;
    if (p->distance != q->distance) {
        return p->distance < q->distance ? -1 : 1;
    }
    return p->point < q->point ? -1 : p->point > q->point;
}

/* Adds a line through the points, sorted by their distance from (x0, y0, z0). */
static void add_line(scene_t *s, kind_t kind, const uint32_t *point, uint32_t n, const float *start,
                     ordered_t *scratch) {
    line_t *line = &s->line[s->n_lines++];
    *line = (line_t){.kind = kind, .n = n, .point = s->pool + s->n_pool};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t p = point[i];
        double dx = (double)(s->x[p] - start[0]), dy = (double)(s->y[p] - start[1]);
        double dz = (double)(s->z[p] - start[2]);
        scratch[i] = (ordered_t){dx * dx + dy * dy + dz * dz, p};
    }
    qsort(scratch, n, sizeof *scratch, by_distance);
    for (uint32_t i = 0; i < n; i++) {
        s->pool[s->n_pool++] = scratch[i].point;
    }
    s->count[kind]++;
}

static void describe(line_t *line, const char *what, const tm_particle_t *particle) {
    if (particle) {
        snprintf(line->tooltip, sizeof line->tooltip, "%s, %u points, pT %.2f GeV, eta %.2f", what,
                 line->n, tm_particle_pt(particle), tm_particle_eta(particle));
    } else {
        snprintf(line->tooltip, sizeof line->tooltip, "%s, %u points", what, line->n);
    }
}

static void add_tracks(scene_t *s, const tm_tracks_t *tracks, const uint8_t *track_kind,
                       const uint32_t *majority, const uint8_t *fate, ordered_t *scratch) {
    static const float origin[3] = {0, 0, 0};
    const tm_event_file_t *event = s->event;
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        uint32_t begin = tracks->offsets[t], n = tracks->offsets[t + 1] - begin;
        kind_t kind = KIND_FOUND;
        const tm_particle_t *particle = NULL;
        if (event->has_truth) {
            particle = majority[t] == UINT32_MAX ? NULL : &event->particles[majority[t]];
            bool hard = particle && tm_particle_pt(particle) > s->options->selection.pt_min_gev;
            kind = track_kind[t] == TM_TRACK_SHORT          ? KIND_HIDDEN
                   : track_kind[t] != TM_TRACK_MATCHED      ? (hard ? KIND_FAKE : KIND_OTHER)
                   : fate[majority[t]] == TM_PARTICLE_OTHER ? KIND_OTHER
                                                            : KIND_FOUND;
        }
        add_line(s, kind, tracks->indices + begin, n, origin, scratch);
        describe(&s->line[s->n_lines - 1], kind == KIND_FAKE ? "fake" : "track", particle);
    }
}

/* Points of each particle, as compressed sparse rows. */
static bool particle_points(const tm_event_file_t *event, uint32_t **offset, uint32_t **point) {
    uint32_t n_links = event->link_offset[event->n_points];
    uint32_t *first = calloc((size_t)event->n_particles + 2, sizeof *first);
    uint32_t *list = malloc(((size_t)n_links + 1) * sizeof *list);
    *offset = first;
    *point = list;
    if (!first || !list) {
        return false;
    }
    for (uint32_t l = 0; l < n_links; l++) {
        first[event->link_particle[l] + 2]++;
    }
    for (uint32_t p = 0; p < event->n_particles; p++) {
        first[p + 2] += first[p + 1];
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        for (uint32_t l = event->link_offset[i]; l < event->link_offset[i + 1]; l++) {
            list[first[event->link_particle[l] + 1]++] = i;
        }
    }
    return true;
}

/* Keeps the drawing small: first by fewer points on each line, then by fewer lines. */
static void thin_out(scene_t *s) {
    s->stride = s->every = 1;
    for (;;) {
        uint64_t bytes = (uint64_t)s->n_lines * LINE_BYTES / s->every +
                         (uint64_t)s->n_pool * POINT_BYTES / s->stride / s->every;
        if (bytes <= PANEL_BYTES) {
            return;
        }
        if (s->stride < STRIDE_MAX) {
            s->stride++;
        } else {
            s->every++;
        }
    }
}

static tm_status_t build_scene(scene_t *s, const tm_tracks_t *tracks, tm_error_t *err) {
    const tm_event_file_t *event = s->event;
    static const tm_tracks_t nothing = {0};
    uint32_t none = 0, *offset = NULL, *point = NULL;
    tm_status_t status = TM_OK;
    tm_score_t score;
    tm_tracks_t empty = {.n_points = event->n_points, .offsets = &none};
    const tm_tracks_t *list = tracks ? tracks : &empty;
    uint32_t n_links = event->has_truth ? event->link_offset[event->n_points] : nothing.n_points;
    size_t n_lines = (size_t)list->n_tracks + event->n_particles + 1;
    size_t n_pool = (size_t)list->offsets[list->n_tracks] + n_links + 1;
    tm_score_detail_t detail = {.track = malloc((size_t)list->n_tracks + 1),
                                .particle = malloc((size_t)event->n_particles + 1),
                                .majority =
                                    malloc(((size_t)list->n_tracks + 1) * sizeof *detail.majority)};
    ordered_t *scratch = malloc((n_pool + 1) * sizeof *scratch);
    s->line = calloc(n_lines, sizeof *s->line);
    s->pool = malloc(n_pool * sizeof *s->pool);
    if (!detail.track || !detail.particle || !detail.majority || !scratch || !s->line || !s->pool ||
        (event->has_truth && !particle_points(event, &offset, &point))) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory to draw it", event->name);
        goto end;
    }
    if (event->has_truth) {
        status = tm_score_event(event, list, &s->options->selection, &score, &detail, err);
        if (status != TM_OK) {
            goto end;
        }
    }
    add_tracks(s, list, detail.track, detail.majority, detail.particle, scratch);
    for (uint32_t p = 0; p < event->n_particles && event->has_truth; p++) {
        if (detail.particle[p] == TM_PARTICLE_MISSED) {
            const tm_particle_t *particle = &event->particles[p];
            const float start[3] = {particle->vx, particle->vy, particle->vz};
            add_line(s, tracks ? KIND_MISSED : KIND_FOUND, point + offset[p],
                     offset[p + 1] - offset[p], start, scratch);
            describe(&s->line[s->n_lines - 1], tracks ? "missed particle" : "particle", particle);
        }
    }
    thin_out(s);
end:
    free(detail.track);
    free(detail.particle);
    free(detail.majority);
    free(scratch);
    free(offset);
    free(point);
    return status;
}

/* ---- panels ---- */

static double h_of(const scene_t *s, const panel_t *p, uint32_t i) {
    return (double)(p->rz ? s->z[i] : s->x[i]);
}

static double v_of(const scene_t *s, const panel_t *p, uint32_t i) {
    return p->rz ? hypot((double)s->x[i], (double)s->y[i]) : (double)s->y[i];
}

/* Pixels to units; points far outside a cropped view stay in range. */
static int32_t units(double pixels) {
    double value = round(pixels * TM_SVG_UNITS);
    return (int32_t)fmin(fmax(value, -UNITS_MAX), UNITS_MAX);
}

static int32_t h_units(const panel_t *p, double h) {
    return units(p->left + (h - p->h_min) / (p->h_max - p->h_min) * p->width);
}

static int32_t v_units(const panel_t *p, double v) {
    return units(p->top + (p->v_max - v) / (p->v_max - p->v_min) * p->height);
}

/* 1, 2 or 5 times a power of ten: about `n` steps in the range. */
static double tick_step(double range, int n) {
    double step = pow(10, floor(log10(range / n)));
    double ratio = range / n / step;
    return step * (ratio < 1.5 ? 1 : ratio < 3.5 ? 2 : ratio < 7.5 ? 5 : 10);
}

static void tick_text(double value, char *out, size_t bytes) {
    value = fabs(value) < 1e-9 ? 0 : value;
    snprintf(out, bytes, "%s%g", value < 0 ? "\u2212" : "", fabs(value));
}

static void draw_frame(tm_svg_t *svg, const panel_t *p, const char *title, const char *h_title,
                       const char *v_title) {
    char text[32];
    double right = p->left + p->width, bottom = p->top + p->height;
    double step = tick_step(p->h_max - p->h_min, 8);
    tm_svg_raw(svg, "<g stroke=\"#e9ecef\" stroke-width=\"1\">\n");
    for (double h = ceil(p->h_min / step) * step; h <= p->h_max + 1e-9; h += step) {
        double x = h_units(p, h) / (double)TM_SVG_UNITS;
        tm_svg_raw(svg, "<path d=\"M%g %gV%g\"/>", x, p->top, bottom);
    }
    double v_step = tick_step(p->v_max - p->v_min, 8);
    for (double v = ceil(p->v_min / v_step) * v_step; v <= p->v_max + 1e-9; v += v_step) {
        double y = v_units(p, v) / (double)TM_SVG_UNITS;
        tm_svg_raw(svg, "<path d=\"M%g %gH%g\"/>", p->left, y, right);
    }
    tm_svg_raw(svg, "</g>\n<g font-size=\"12\" fill=\"" FAINT "\" text-anchor=\"middle\">\n");
    for (double h = ceil(p->h_min / step) * step; h <= p->h_max + 1e-9; h += step) {
        tick_text(h, text, sizeof text);
        tm_svg_text(svg, h_units(p, h) / (double)TM_SVG_UNITS, bottom + 18, "", text);
    }
    tm_svg_raw(svg, "</g>\n<g font-size=\"12\" fill=\"" FAINT "\" text-anchor=\"end\">\n");
    for (double v = ceil(p->v_min / v_step) * v_step; v <= p->v_max + 1e-9; v += v_step) {
        tick_text(v, text, sizeof text);
        tm_svg_text(svg, p->left - 8, v_units(p, v) / (double)TM_SVG_UNITS + 4, "", text);
    }
    tm_svg_raw(svg, "</g>\n<g font-size=\"13\" fill=\"" INK "\">\n");
    tm_svg_text(svg, p->left + p->width / 2, bottom + 38, "text-anchor=\"middle\"", h_title);
    tm_svg_raw(svg, "<g transform=\"translate(%g %g) rotate(-90)\">", p->left - 52,
               p->top + p->height / 2);
    tm_svg_text(svg, 0, 0, "text-anchor=\"middle\"", v_title);
    tm_svg_raw(svg, "</g>\n");
    tm_svg_text(svg, p->left, p->top - 10, "font-weight=\"600\"", title);
    tm_svg_raw(svg, "</g>\n");
}

/* Space points, at most one per cell of a grid that is as coarse as their number demands: where
 * points lie on one another, the eye loses nothing. */
static tm_status_t draw_points(tm_svg_t *svg, const scene_t *s, const panel_t *p, tm_error_t *err) {
    uint32_t n = s->event->n_points;
    int32_t width = (int32_t)(p->width * TM_SVG_UNITS),
            height = (int32_t)(p->height * TM_SVG_UNITS);
    uint8_t *taken = malloc((size_t)(width + 1) * (size_t)(height + 1) / 8 + 1);
    uint32_t *kept = malloc(((size_t)n + 1) * sizeof *kept), n_kept = 0;
    if (!taken || !kept) {
        free(taken);
        free(kept);
        return tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory to draw it", s->event->name);
    }
    for (int32_t cell = 1;; cell *= 2) {
        memset(taken, 0, (size_t)(width + 1) * (size_t)(height + 1) / 8 + 1);
        n_kept = 0;
        for (uint32_t i = 0; i < n; i++) {
            double h = h_of(s, p, i), v = v_of(s, p, i);
            if (h < p->h_min || h > p->h_max || v < p->v_min || v > p->v_max) {
                continue;
            }
            int32_t column = (h_units(p, h) - (int32_t)(p->left * TM_SVG_UNITS)) / cell;
            int32_t row = (v_units(p, v) - (int32_t)(p->top * TM_SVG_UNITS)) / cell;
            size_t bit = (size_t)row * (size_t)(width / cell + 1) + (size_t)column;
            if (!(taken[bit / 8] >> (bit % 8) & 1)) {
                taken[bit / 8] = (uint8_t)(taken[bit / 8] | 1u << (bit % 8));
                kept[n_kept++] = i;
            }
        }
        if (n_kept <= DOTS_MAX) {
            break;
        }
    }
    bool few = n <= FEW_POINTS;
    tm_svg_raw(svg,
               "<g fill=\"none\" stroke=\"" HIT_COLOUR "\" stroke-linecap=\"round\" "
               "stroke-width=\"%d\" stroke-opacity=\"%g\" transform=\"scale(.1)\">\n",
               few ? 32 : 11, few ? 0.8 : 0.5);
    for (uint32_t k = 0; k < n_kept; k++) {
        if (k % DOTS_PER_PATH == 0) {
            tm_svg_path_begin(svg);
        }
        tm_svg_dot(svg, h_units(p, h_of(s, p, kept[k])), v_units(p, v_of(s, p, kept[k])));
        if (k % DOTS_PER_PATH == DOTS_PER_PATH - 1 || k + 1 == n_kept) {
            tm_svg_path_end(svg, NULL);
        }
    }
    tm_svg_end(svg);
    free(taken);
    free(kept);
    return TM_OK;
}

/* A line inside the panel's neighbourhood: far outside, units would not fit. */
static bool visible(const scene_t *s, const panel_t *p, const line_t *line) {
    for (uint32_t i = 0; i < line->n; i++) {
        double h = h_of(s, p, line->point[i]), v = v_of(s, p, line->point[i]);
        if (h >= p->h_min && h <= p->h_max && v >= p->v_min && v <= p->v_max) {
            return true;
        }
    }
    return false;
}

/* Lines of one kind and, if colour < N_COLOURS, of every N_COLOURS-th of them. */
static void draw_lines(tm_svg_t *svg, const scene_t *s, const panel_t *p, kind_t kind,
                       size_t colour, const char *attributes) {
    bool tips = s->n_lines - s->count[KIND_OTHER] <= TOOLTIPS_MAX && kind != KIND_OTHER;
    size_t nth = 0;
    tm_svg_begin(svg, attributes);
    for (uint32_t k = 0; k < s->n_lines; k++) {
        const line_t *line = &s->line[k];
        if (line->kind != kind) {
            continue;
        }
        size_t number = nth++;
        if ((number % N_COLOURS != colour && colour < N_COLOURS) || !visible(s, p, line) ||
            (number / N_COLOURS % s->every != 0 && (kind == KIND_FOUND || kind == KIND_OTHER))) {
            continue;
        }
        tm_svg_path_begin(svg);
        for (uint32_t i = 0; i < line->n; i++) {
            if (i % s->stride != 0 && i + 1 != line->n) {
                continue;
            }
            int32_t h = h_units(p, h_of(s, p, line->point[i]));
            int32_t v = v_units(p, v_of(s, p, line->point[i]));
            if (i == 0) {
                tm_svg_move(svg, h, v);
            } else {
                tm_svg_line(svg, h, v);
            }
        }
        tm_svg_path_end(svg, tips ? line->tooltip : NULL);
    }
    tm_svg_end(svg);
}

/* Thinner the more there are. */
static double line_width(uint64_t n) {
    double width = 2.2 - 0.5 * log10((double)n + 1);
    return width < 0.6 ? 0.6 : width;
}

static tm_status_t draw_panel(tm_svg_t *svg, const scene_t *s, const panel_t *p, tm_error_t *err) {
    char attributes[256];
    double width = line_width(s->count[KIND_FOUND]);
    tm_svg_raw(
        svg,
        "<clipPath id=\"%s\"><rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\"/></clipPath>\n"
        "<g clip-path=\"url(#%s)\">\n",
        p->rz ? "rz" : "xy", p->left, p->top, p->width, p->height, p->rz ? "rz" : "xy");
    tm_status_t status = draw_points(svg, s, p, err);
    tm_svg_raw(svg, "<g fill=\"none\" stroke-linejoin=\"round\" stroke-linecap=\"round\">\n");
    snprintf(attributes, sizeof attributes,
             "stroke=\"" OTHER_COLOUR "\" stroke-width=\"%g\" stroke-opacity=\"%g\"", 4.0,
             s->count[KIND_OTHER] > 500 ? 0.35 : 0.8);
    draw_lines(svg, s, p, KIND_OTHER, N_COLOURS, attributes);
    for (size_t c = 0; c < N_COLOURS; c++) {
        snprintf(attributes, sizeof attributes,
                 "stroke=\"%s\" stroke-width=\"%.1f\" stroke-opacity=\".85\"", palette[c],
                 width * TM_SVG_UNITS);
        draw_lines(svg, s, p, KIND_FOUND, c, attributes);
    }
    snprintf(attributes, sizeof attributes, "stroke=\"" FAKE_COLOUR "\" stroke-width=\"%.1f\"",
             1.3 * line_width(s->count[KIND_FAKE]) * TM_SVG_UNITS);
    draw_lines(svg, s, p, KIND_FAKE, N_COLOURS, attributes);
    snprintf(attributes, sizeof attributes,
             "stroke=\"" MISSED_COLOUR "\" stroke-width=\"%.1f\" stroke-dasharray=\"60 40\"",
             1.2 * line_width(s->count[KIND_MISSED]) * TM_SVG_UNITS);
    draw_lines(svg, s, p, KIND_MISSED, N_COLOURS, attributes);
    tm_svg_raw(svg,
               "</g>\n</g>\n<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"none\" "
               "stroke=\"#adb5bd\"/>\n",
               p->left, p->top, p->width, p->height);
    return status;
}

/* ---- the page ---- */

/* A sample line and its words; returns where the next entry starts. */
static double legend_entry(tm_svg_t *svg, double x, const char *stroke, const char *text) {
    const double y = 64;
    tm_svg_raw(svg, "<path d=\"M%g %gh30\" fill=\"none\" stroke-linecap=\"round\" %s/>\n", x,
               y - 4.5, stroke);
    tm_svg_text(svg, x + 40, y, "font-size=\"14\" fill=\"" INK "\"", text);
    return x + 40 + 7.4 * (double)strlen(text) + 26;
}

static void draw_legend(tm_svg_t *svg, const scene_t *s) {
    char number[TM_CLI_NUMBER_BYTES], text[128];
    const tm_score_options_t *cut = &s->options->selection;
    double x = LEFT;
    tm_svg_raw(svg,
               "<path d=\"M%g 59.5h0m9 -4h0m8 5h0\" fill=\"none\" stroke=\"" HIT_COLOUR
               "\" stroke-width=\"4\" stroke-linecap=\"round\"/>\n",
               x + 3);
    snprintf(text, sizeof text, "%s space points", tm_cli_thousands(s->event->n_points, number));
    tm_svg_text(svg, x + 30, 64, "font-size=\"14\" fill=\"" INK "\"", text);
    x += 30 + 7.4 * (double)strlen(text) + 26;
    tm_cli_thousands(s->count[KIND_FOUND], number);
    if (!s->with_tracks && !s->event->has_truth) {
        return;
    }
    if (!s->event->has_truth) {
        snprintf(text, sizeof text, "%s track candidates", number);
    } else {
        snprintf(text, sizeof text, "%s %s with pT > %g GeV", number,
                 s->with_tracks ? "particles found" : "particles", cut->pt_min_gev);
    }
    /* three colours say "any colour" */
    tm_svg_raw(svg,
               "<g fill=\"none\" stroke-width=\"2.4\" stroke-linecap=\"round\">"
               "<path d=\"M%g 54.5h30\" stroke=\"%s\"/><path d=\"M%g 59.5h30\" stroke=\"%s\"/>"
               "<path d=\"M%g 64.5h30\" stroke=\"%s\"/></g>\n",
               x, palette[0], x, palette[1], x, palette[2]);
    tm_svg_text(svg, x + 40, 64, "font-size=\"14\" fill=\"" INK "\"", text);
    x += 40 + 7.4 * (double)strlen(text) + 26;
    if (!s->with_tracks || !s->event->has_truth) {
        return;
    }
    snprintf(text, sizeof text, "%s missed", tm_cli_thousands(s->count[KIND_MISSED], number));
    x = legend_entry(
        svg, x, "stroke=\"" MISSED_COLOUR "\" stroke-width=\"2.4\" stroke-dasharray=\"6 4\"", text);
    snprintf(text, sizeof text, "%s fake tracks", tm_cli_thousands(s->count[KIND_FAKE], number));
    x = legend_entry(svg, x, "stroke=\"" FAKE_COLOUR "\" stroke-width=\"3\"", text);
    snprintf(text, sizeof text, "%s tracks of other particles",
             tm_cli_thousands(s->count[KIND_OTHER], number));
    legend_entry(svg, x, "stroke=\"" OTHER_COLOUR "\" stroke-width=\"1.4\"", text);
}

/* Rounds a range up so that the points do not touch the frame. */
static double padded(double most) {
    return most > 0 ? most * 1.04 : 1;
}

tm_status_t tm_drawing_write(const char *path, const tm_event_file_t *event,
                             const tm_tracks_t *tracks, const tm_drawing_options_t *options,
                             tm_error_t *err) {
    scene_t s = {.event = event, .with_tracks = tracks != NULL, .options = options};
    const tm_column_t *x = tm_columns_find(&event->columns, "x");
    const tm_column_t *y = tm_columns_find(&event->columns, "y");
    const tm_column_t *z = tm_columns_find(&event->columns, "z");
    if (!x || !y || !z) {
        return tm_error_set(err, TM_E_ARGUMENT, "%s: no positions", event->name);
    }
    s.x = x->data;
    s.y = y->data;
    s.z = z->data;
    double r_max = options->r_max_mm, z_max = options->z_max_mm;
    for (uint32_t i = 0; i < event->n_points; i++) {
        double r = hypot((double)s.x[i], (double)s.y[i]), size = fabs((double)s.z[i]);
        r_max = options->r_max_mm == 0 && padded(r) > r_max ? padded(r) : r_max;
        z_max = options->z_max_mm == 0 && padded(size) > z_max ? padded(size) : z_max;
    }
    r_max = r_max > 0 ? r_max : 1;
    z_max = z_max > 0 ? z_max : 1;
    const panel_t xy = {.left = LEFT,
                        .top = TOP,
                        .width = XY_SIZE,
                        .height = XY_SIZE,
                        .h_min = -r_max,
                        .h_max = r_max,
                        .v_min = -r_max,
                        .v_max = r_max};
    const panel_t rz = {.rz = true,
                        .left = RZ_LEFT,
                        .top = TOP,
                        .width = RZ_RIGHT - RZ_LEFT,
                        .height = XY_SIZE,
                        .h_min = -z_max,
                        .h_max = z_max,
                        .v_min = 0,
                        .v_max = r_max};
    tm_svg_t svg;
    tm_status_t status = build_scene(&s, tracks, err);
    if (status == TM_OK) {
        status = tm_svg_open(path, WIDTH, HEIGHT, event->name, &svg, err);
    }
    if (status == TM_OK) {
        tm_svg_text(&svg, LEFT, 36, "font-size=\"22\" font-weight=\"600\" fill=\"" INK "\"",
                    event->name);
        draw_legend(&svg, &s);
        if (s.every > 1) {
            char text[64];
            snprintf(text, sizeof text, "one track in %u is drawn", s.every);
            tm_svg_text(&svg, RZ_RIGHT, 36,
                        "font-size=\"13\" text-anchor=\"end\" fill=\"" FAINT "\"", text);
        }
        draw_frame(&svg, &xy, "Across the beam", "x (mm)", "y (mm)");
        draw_frame(&svg, &rz, "Along the beam", "z (mm)", "r (mm)");
        status = draw_panel(&svg, &s, &xy, err);
        if (status == TM_OK) {
            status = draw_panel(&svg, &s, &rz, err);
        }
        tm_status_t closed = tm_svg_close(&svg, status != TM_OK, status == TM_OK ? err : NULL);
        status = status == TM_OK ? closed : status;
    }
    free(s.line);
    free(s.pool);
    return status;
}
