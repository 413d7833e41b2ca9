// SPDX-License-Identifier: Apache-2.0
#include "client/cli/plot.h"

#include <math.h>
#include <stdio.h>

#include "client/cli/svg.h"

/* Pixels. Bins are drawn equally wide, whatever they span: the ends of most are infinite. */
#define PAGE_WIDTH 900
#define PAGE_HEIGHT 640
#define PANEL_WIDTH 370
#define PANEL_HEIGHT 200
#define TEXT_BYTES 96
#define INK "#24292f"
#define GRID "#d8dee4"
#define MARK "#0969da"
#define LABEL "font-size=\"11\" fill=\"" INK "\""

typedef struct {
    double x, y; /* of the upper left corner of the frame */
    const char *title, *unit;
    const double *edges;
    uint64_t part[TM_CURVE_BINS], whole[TM_CURVE_BINS];
    double low, high; /* of the scale, as rates */
} panel_t;

/* The scale: as narrow as holds all values. */
static void choose_scale(panel_t *p, bool from_top) {
    static const double span[] = {0.02, 0.05, 0.1, 0.2, 0.5, 1};
    double most = 0;
    for (int b = 0; b < TM_CURVE_BINS; b++) {
        if (p->whole[b] > 0) {
            double rate = (double)p->part[b] / (double)p->whole[b];
            most = fmax(most, from_top ? 1 - rate : rate);
        }
    }
    int k = 0;
    while (span[k] < most) {
        k++; /* the last holds any rate */
    }
    p->low = from_top ? 1 - span[k] : 0;
    p->high = from_top ? 1 : span[k];
}

static double y_of(const panel_t *p, double rate) {
    double part = (rate - p->low) / (p->high - p->low);
    return p->y + PANEL_HEIGHT * (1 - fmin(fmax(part, 0), 1));
}

static double x_of(const panel_t *p, double bin) {
    return p->x + PANEL_WIDTH * bin / TM_CURVE_BINS;
}

static void draw_frame(tm_svg_t *svg, const panel_t *p) {
    enum { STEPS = 4, TICKS = 2 };
    char text[TEXT_BYTES];
    for (int k = 0; k <= STEPS; k++) {
        double rate = p->low + (p->high - p->low) * k / STEPS, y = y_of(p, rate);
        tm_svg_raw(svg, "<path d=\"M%.1f %.1fh%d\" stroke=\"" GRID "\"/>\n", p->x, y, PANEL_WIDTH);
        snprintf(text, sizeof text, "%g %%", 100 * rate);
        tm_svg_text(svg, p->x - 6, y + 4, LABEL " text-anchor=\"end\"", text);
    }
    for (int b = 0; b <= TM_CURVE_BINS; b += TICKS) {
        if (isinf(p->edges[b])) {
            continue;
        }
        snprintf(text, sizeof text, "%g", p->edges[b]);
        tm_svg_text(svg, x_of(p, b), p->y + PANEL_HEIGHT + 16, LABEL " text-anchor=\"middle\"",
                    text);
    }
    tm_svg_text(svg, p->x, p->y - 12, "font-size=\"13\" fill=\"" INK "\"", p->title);
    tm_svg_text(svg, p->x + PANEL_WIDTH, p->y + PANEL_HEIGHT + 32, LABEL " text-anchor=\"end\"",
                p->unit);
}

static void draw_panel(tm_svg_t *svg, const panel_t *p) {
    draw_frame(svg, p);
    for (int b = 0; b < TM_CURVE_BINS; b++) {
        if (p->whole[b] == 0) {
            continue;
        }
        double n = (double)p->whole[b], rate = (double)p->part[b] / n;
        double error = sqrt(rate * (1 - rate) / n);
        double x = x_of(p, b + 0.5), top = y_of(p, rate + error), bottom = y_of(p, rate - error);
        tm_svg_raw(svg,
                   "<path d=\"M%.1f %.1fV%.1fM%.1f %.1fH%.1f\" stroke=\"" MARK
                   "\" stroke-width=\"1.5\"/><circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"" MARK
                   "\"><title>%llu of %llu</title></circle>\n",
                   x, top, bottom, x_of(p, b), y_of(p, rate), x_of(p, b + 1), x, y_of(p, rate),
                   (unsigned long long)p->part[b], (unsigned long long)p->whole[b]);
    }
}

tm_status_t tm_plot_score(const char *path, const tm_score_t *score,
                          const tm_score_options_t *options, tm_error_t *err) {
    tm_svg_t svg;
    char title[TEXT_BYTES], hard[TEXT_BYTES];
    snprintf(title, sizeof title, "Fakes among tracks of ≥ %u points, by the majority particle",
             options->track_hits_min);
    snprintf(hard, sizeof hard, "The same, where that has pT > %g GeV", options->pt_min_gev);
    panel_t panels[] = {
        {.x = 60, .y = 60, .title = "Efficiency (double majority)", .unit = "pT (GeV)"},
        {.x = 510, .y = 60, .title = "Efficiency (double majority)", .unit = "eta"},
        {.x = 60, .y = 370, .title = title, .unit = "pT (GeV)"},
        {.x = 510, .y = 370, .title = hard, .unit = "eta"},
    };
    tm_status_t status = tm_svg_open(path, PAGE_WIDTH, PAGE_HEIGHT, "Track finding", &svg, err);
    if (status != TM_OK) {
        return status;
    }
    for (int k = 0; k < 4; k++) {
        panel_t *p = &panels[k];
        const tm_curve_bin_t *curve = k % 2 == 0 ? score->pt_curve : score->eta_curve;
        p->edges = k % 2 == 0 ? tm_curve_pt_edges : tm_curve_eta_edges;
        for (int b = 0; b < TM_CURVE_BINS; b++) {
            p->part[b] = k < 2 ? curve[b].found : curve[b].fakes;
            p->whole[b] = k < 2 ? curve[b].wanted : curve[b].tracks;
        }
        choose_scale(p, k < 2);
        draw_panel(&svg, p);
    }
    return tm_svg_close(&svg, false, err);
}
