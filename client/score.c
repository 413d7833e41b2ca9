// SPDX-License-Identifier: Apache-2.0
#include "client/score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NO_PARTICLE UINT32_MAX

const double tm_score_pt_edges[TM_SCORE_BINS + 1] = {0, 1.2, 2, 5, INFINITY};
const double tm_score_eta_edges[TM_SCORE_BINS + 1] = {0, 1, 2, 3, INFINITY};
const double tm_score_radius_edges[TM_SCORE_BINS + 1] = {0, 1, 10, 30, INFINITY};
const double tm_curve_pt_edges[TM_CURVE_BINS + 1] = {0, 0.2, 0.3, 0.5, 0.7, 0.9, 1.2, 1.5,     2,
                                                     3, 4,   5,   7,   10,  20,  50,  INFINITY};
const double tm_curve_eta_edges[TM_CURVE_BINS + 1] = {
    -INFINITY, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, INFINITY};

double tm_particle_pt(const tm_particle_t *particle) {
    return hypot((double)particle->px, (double)particle->py);
}

double tm_particle_eta(const tm_particle_t *particle) {
    return asinh((double)particle->pz / tm_particle_pt(particle));
}

bool tm_particle_wanted(const tm_particle_t *particle, uint32_t n_hits,
                        const tm_score_options_t *options) {
    return tm_particle_pt(particle) > options->pt_min_gev &&
           fabs(tm_particle_eta(particle)) < options->eta_max &&
           hypot((double)particle->vx, (double)particle->vy) < options->radius_max_mm &&
           n_hits >= options->hits_min && (options->neutral_too || particle->charge != 0) &&
           (options->secondaries_too || particle->generated);
}

/* Particles of a point, as the options see them. */
static uint32_t links_end(const tm_event_file_t *event, uint32_t point,
                          const tm_score_options_t *options) {
    uint32_t begin = event->link_offset[point], end = event->link_offset[point + 1];
    return options->first_only && end > begin ? begin + 1 : end;
}

static tm_status_t check(const tm_event_file_t *event, const tm_tracks_t *tracks, tm_error_t *err) {
    if (!event->has_truth) {
        return tm_error_set(err, TM_E_ARGUMENT,
                            "%s: no truth: without particles there is nothing to compare with",
                            event->name);
    }
    if (tracks->n_points != event->n_points) {
        return tm_error_set(err, TM_E_ARGUMENT, "%s: %u points, but the tracks are of %u",
                            event->name, event->n_points, tracks->n_points);
    }
    return TM_OK;
}

typedef struct {
    const tm_event_file_t *event;
    const tm_score_options_t *options;
    uint32_t *hits;    /* per particle: its points in the event */
    uint32_t *count;   /* per particle: its points in this track; 0 between tracks */
    uint32_t *touched; /* particles of this track */
    uint32_t *matches; /* per particle: tracks that match it, */
    uint32_t *lhc;     /*   and by the other definitions */
    uint32_t *perfect;
    uint8_t *wanted; /* per particle */
    float *rho2;     /* per point: squared distance from the origin */
    uint64_t *edges; /* true ones of wanted particles, sorted: lower row of the two « 32 | higher */
    size_t n_edges;
    uint8_t *edge_found; /* per edge */
    uint32_t *sorted;    /* rows of one track or particle, outward */
} state_t;

static double weight_of(const tm_event_file_t *event, uint32_t point) {
    if (event->hit_weight) {
        return (double)event->hit_weight[point];
    }
    return event->link_offset[point + 1] > event->link_offset[point] ? 1 : 0;
}

static bool is_hard(const state_t *s, uint32_t particle) {
    return tm_particle_pt(&s->event->particles[particle]) > s->options->pt_min_gev;
}

/* The point's weight, to the sums of all points and of those of hard particles. */
static void add_total_weight(const state_t *s, uint32_t point, tm_score_t *score) {
    bool hard = false;
    uint32_t end = links_end(s->event, point, s->options);
    for (uint32_t l = s->event->link_offset[point]; l < end && !hard; l++) {
        hard = is_hard(s, s->event->link_particle[l]);
    }
    score->total_weight += weight_of(s->event, point);
    score->total_hard_weight += hard ? weight_of(s->event, point) : 0;
}

/* TrackML's score knows no least length and one particle per point: the majority particle's points
 * count when it owns more than half of the track, which holds more than half of it. */
static void add_weight(const state_t *s, const uint32_t *point, uint32_t n, uint32_t majority,
                       tm_score_t *score) {
    uint64_t k = majority == NO_PARTICLE ? 0 : s->count[majority];
    if (2 * k <= n || 2 * k <= s->hits[majority]) {
        return;
    }
    double weight = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = links_end(s->event, point[i], s->options);
        for (uint32_t l = s->event->link_offset[point[i]]; l < end; l++) {
            if (s->event->link_particle[l] == majority) {
                weight += weight_of(s->event, point[i]);
            }
        }
    }
    score->good_weight += weight;
    score->good_hard_weight += is_hard(s, majority) ? weight : 0;
}

/* What a track is by the three definitions. */
typedef struct {
    tm_track_kind_t kind;
    uint32_t majority;
    bool lhc, perfect;
} verdict_t;

/* Judges one track. Leaves s->count zeroed. */
static verdict_t judge(state_t *s, const uint32_t *point, uint32_t n, tm_score_t *score) {
    uint32_t n_touched = 0;
    bool matched = false;
    verdict_t verdict = {.majority = NO_PARTICLE};
    uint32_t *majority = &verdict.majority;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = links_end(s->event, point[i], s->options);
        for (uint32_t l = s->event->link_offset[point[i]]; l < end; l++) {
            uint32_t particle = s->event->link_particle[l];
            if (s->count[particle]++ == 0) {
                s->touched[n_touched++] = particle;
            }
        }
    }
    for (uint32_t i = 0; i < n_touched; i++) {
        uint32_t p = s->touched[i];
        if (*majority == NO_PARTICLE || s->count[p] > s->count[*majority] ||
            (s->count[p] == s->count[*majority] && p < *majority)) {
            *majority = p;
        }
    }
    add_weight(s, point, n, *majority, score);
    uint64_t best = *majority == NO_PARTICLE ? 0 : s->count[*majority];
    for (uint32_t i = 0; i < n_touched; i++) {
        uint32_t p = s->touched[i];
        uint64_t k = s->count[p];
        s->count[p] = 0;
        if (n < s->options->track_hits_min || 2 * k <= n) {
            continue;
        }
        if (4 * k > 3 * (uint64_t)n) {
            verdict.lhc = true;
            s->lhc[p]++;
        }
        if (k == n && k == s->hits[p]) {
            verdict.perfect = true;
            s->perfect[p]++;
        }
        if (2 * k <= s->hits[p]) {
            continue;
        }
        matched = true;
        s->matches[p]++;
        if (s->wanted[p]) {
            score->good_hits += k;
            score->track_hits += n;
            score->particle_hits += s->hits[p];
        }
    }
    verdict.kind = n < s->options->track_hits_min ? TM_TRACK_SHORT
                   : matched                      ? TM_TRACK_MATCHED
                   : 2 * best > n                 ? TM_TRACK_FRAGMENT
                                                  : TM_TRACK_IMPURE;
    return verdict;
}

/* ---- edges: neighbours, outward ---- */

static int outward(const void *a, const void *b, void *state) {
    const float *rho2 = ((const state_t *)state)->rho2;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (rho2[x] != rho2[y]) {
        return rho2[x] < rho2[y] ? -1 : 1;
    }
    return (x > y) - (x < y);
}

/* Copies n rows, by distance from the origin, then row. */
static void sort_outward(state_t *s, const uint32_t *row, uint32_t n) {
    memcpy(s->sorted, row, n * sizeof *row);
    qsort_r(s->sorted, n, sizeof *row, outward, s);
}

static uint64_t edge_of(uint32_t a, uint32_t b) {
    return a < b ? (uint64_t)a << 32 | b : (uint64_t)b << 32 | a;
}

static int by_edge(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool share_particle(const state_t *s, uint32_t a, uint32_t b) {
    const uint32_t *offset = s->event->link_offset, *particle = s->event->link_particle;
    for (uint32_t i = offset[a]; i < links_end(s->event, a, s->options); i++) {
        for (uint32_t j = offset[b]; j < links_end(s->event, b, s->options); j++) {
            if (particle[i] == particle[j]) {
                return true;
            }
        }
    }
    return false;
}

/* Fills s->edges; rows_of: per particle the end of its rows in `rows`. Edges that two particles share are
 * one. */
static void list_true_edges(state_t *s, const uint32_t *rows, const uint32_t *rows_end) {
    for (uint32_t p = 0; p < s->event->n_particles; p++) {
        if (!s->wanted[p]) {
            continue;
        }
        uint32_t n = s->hits[p];
        sort_outward(s, rows + rows_end[p] - n, n);
        for (uint32_t i = 0; i + 1 < n; i++) {
            s->edges[s->n_edges++] = edge_of(s->sorted[i], s->sorted[i + 1]);
        }
    }
    qsort(s->edges, s->n_edges, sizeof *s->edges, by_edge);
    size_t kept = 0;
    for (size_t i = 0; i < s->n_edges; i++) {
        if (kept == 0 || s->edges[i] != s->edges[kept - 1]) {
            s->edges[kept++] = s->edges[i];
        }
    }
    s->n_edges = kept;
}

/* Rows of each particle, and the true edges. */
static tm_status_t find_true_edges(state_t *s, tm_error_t *err) {
    const tm_event_file_t *event = s->event;
    const tm_column_t *column[3] = {tm_columns_find(&event->columns, "x"),
                                    tm_columns_find(&event->columns, "y"),
                                    tm_columns_find(&event->columns, "z")};
    size_t n_links = event->link_offset[event->n_points];
    uint32_t *rows = calloc(n_links + 1, sizeof *rows);
    uint32_t *rows_end = calloc((size_t)event->n_particles + 1, sizeof *rows_end);
    s->edges = calloc(n_links + 1, sizeof *s->edges);
    s->edge_found = calloc(n_links + 1, sizeof *s->edge_found);
    tm_status_t status = TM_OK;
    if (!rows || !rows_end || !s->edges || !s->edge_found) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for its score", event->name);
        goto end;
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        double sum = 0;
        for (int k = 0; k < 3 && column[k]; k++) {
            double value = tm_column_get(column[k], i);
            sum += value * value;
        }
        s->rho2[i] = (float)sum;
    }
    for (uint32_t p = 0; p + 1 < event->n_particles; p++) {
        rows_end[p + 1] = rows_end[p] + s->hits[p];
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        for (uint32_t l = event->link_offset[i]; l < links_end(event, i, s->options); l++) {
            rows[rows_end[event->link_particle[l]]++] = i;
        }
    }
    list_true_edges(s, rows, rows_end);
end:
    free(rows);
    free(rows_end);
    return status;
}

static void judge_edges(state_t *s, const uint32_t *point, uint32_t n, tm_score_t *score) {
    sort_outward(s, point, n);
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint64_t edge = edge_of(s->sorted[i], s->sorted[i + 1]);
        const uint64_t *found =
            s->n_edges ? bsearch(&edge, s->edges, s->n_edges, sizeof edge, by_edge) : NULL;
        if (found) {
            s->edge_found[found - s->edges] = 1; /* tracks may share points: once */
        }
        score->track_edges++;
        score->pure_edges += share_particle(s, s->sorted[i], s->sorted[i + 1]);
    }
}

/* ---- particles ---- */

static tm_curve_bin_t *curve_bin(tm_curve_bin_t *bins, const double *edges, double value) {
    int b = 0;
    while (b < TM_CURVE_BINS - 1 && !(value < edges[b + 1])) {
        b++;
    }
    return &bins[b];
}

static void add_to_curves(tm_score_t *score, const tm_particle_t *particle, uint64_t wanted,
                          uint64_t found) {
    tm_curve_bin_t *bins[] = {
        curve_bin(score->pt_curve, tm_curve_pt_edges, tm_particle_pt(particle)),
        curve_bin(score->eta_curve, tm_curve_eta_edges, tm_particle_eta(particle))};
    for (int k = 0; k < 2; k++) {
        bins[k]->wanted += wanted;
        bins[k]->found += found;
    }
}

static void add_bin(tm_score_bin_t *bins, const double *edges, double value, bool found) {
    int b = 0;
    while (b < TM_SCORE_BINS - 1 && !(value < edges[b + 1])) {
        b++;
    }
    bins[b].wanted++;
    bins[b].found += found;
}

static void count_particles(const state_t *s, tm_score_t *score, const tm_score_detail_t *detail) {
    for (uint32_t p = 0; p < s->event->n_particles; p++) {
        const tm_particle_t *particle = &s->event->particles[p];
        bool found = s->matches[p] > 0;
        score->duplicates += found ? s->matches[p] - 1 : 0;
        score->lhc.duplicates += s->lhc[p] > 0 ? s->lhc[p] - 1 : 0;
        score->perfect.duplicates += s->perfect[p] > 0 ? s->perfect[p] - 1 : 0;
        if (detail && detail->particle) {
            detail->particle[p] = !s->wanted[p] ? TM_PARTICLE_OTHER
                                  : found       ? TM_PARTICLE_FOUND
                                                : TM_PARTICLE_MISSED;
        }
        if (!s->wanted[p]) {
            continue;
        }
        score->wanted++;
        score->found += found;
        score->lhc.found += s->lhc[p] > 0;
        score->perfect.found += s->perfect[p] > 0;
        add_to_curves(score, particle, 1, found);
        add_bin(score->pt, tm_score_pt_edges, tm_particle_pt(particle), found);
        add_bin(score->eta, tm_score_eta_edges, fabs(tm_particle_eta(particle)), found);
        add_bin(score->radius, tm_score_radius_edges,
                hypot((double)particle->vx, (double)particle->vy), found);
    }
}

tm_status_t tm_score_event(const tm_event_file_t *event, const tm_tracks_t *tracks,
                           const tm_score_options_t *options, tm_score_t *score,
                           const tm_score_detail_t *detail, tm_error_t *err) {
    *score = (tm_score_t){.events = 1, .weighted = event->hit_weight != NULL};
    tm_status_t status = check(event, tracks, err);
    if (status != TM_OK) {
        return status;
    }
    size_t n = (size_t)event->n_particles + 1;
    state_t s = {.event = event,
                 .options = options,
                 .hits = calloc(n, sizeof *s.hits),
                 .count = calloc(n, sizeof *s.count),
                 .touched = calloc(n, sizeof *s.touched),
                 .matches = calloc(n, sizeof *s.matches),
                 .lhc = calloc(n, sizeof *s.lhc),
                 .perfect = calloc(n, sizeof *s.perfect),
                 .wanted = calloc(n, sizeof *s.wanted),
                 .rho2 = calloc((size_t)event->n_points + 1, sizeof *s.rho2),
                 .sorted = calloc((size_t)event->n_points + 1, sizeof *s.sorted)};
    if (!s.hits || !s.count || !s.touched || !s.matches || !s.lhc || !s.perfect || !s.wanted ||
        !s.rho2 || !s.sorted) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for its score", event->name);
        goto end;
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        add_total_weight(&s, i, score);
        for (uint32_t l = event->link_offset[i]; l < links_end(event, i, options); l++) {
            s.hits[event->link_particle[l]]++;
        }
    }
    for (uint32_t p = 0; p < event->n_particles; p++) {
        s.wanted[p] = tm_particle_wanted(&event->particles[p], s.hits[p], options);
    }
    status = find_true_edges(&s, err);
    if (status != TM_OK) {
        goto end;
    }
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        const uint32_t *point = tracks->indices + tracks->offsets[t];
        uint32_t n_hits = tracks->offsets[t + 1] - tracks->offsets[t];
        verdict_t verdict = judge(&s, point, n_hits, score);
        tm_track_kind_t kind = verdict.kind;
        uint32_t majority = verdict.majority;
        if (detail && detail->track) {
            detail->track[t] = (uint8_t)kind;
        }
        if (detail && detail->majority) {
            detail->majority[t] = majority;
        }
        if (kind == TM_TRACK_SHORT) {
            continue;
        }
        bool hard = majority != NO_PARTICLE && is_hard(&s, majority);
        bool good = kind == TM_TRACK_MATCHED;
        score->tracks++;
        score->matched += good;
        score->impure += kind == TM_TRACK_IMPURE;
        score->hard += hard;
        score->hard_matched += hard && good;
        score->long_hard += hard && n_hits >= TM_SCORE_LONG;
        score->long_hard_matched += hard && good && n_hits >= TM_SCORE_LONG;
        score->lhc.matched += verdict.lhc;
        score->lhc.hard_matched += hard && verdict.lhc;
        score->perfect.matched += verdict.perfect;
        score->perfect.hard_matched += hard && verdict.perfect;
        if (majority != NO_PARTICLE) {
            const tm_particle_t *p = &event->particles[majority];
            tm_curve_bin_t *pt = curve_bin(score->pt_curve, tm_curve_pt_edges, tm_particle_pt(p));
            tm_curve_bin_t *eta =
                curve_bin(score->eta_curve, tm_curve_eta_edges, tm_particle_eta(p));
            pt->tracks++;
            pt->fakes += !good;
            eta->tracks += hard;
            eta->fakes += hard && !good;
        }
        judge_edges(&s, point, n_hits, score);
    }
    count_particles(&s, score, detail);
    score->true_edges = s.n_edges;
    for (size_t i = 0; i < s.n_edges; i++) {
        score->found_edges += s.edge_found[i];
    }
end:
    free(s.hits);
    free(s.count);
    free(s.touched);
    free(s.matches);
    free(s.lhc);
    free(s.perfect);
    free(s.wanted);
    free(s.rho2);
    free(s.edges);
    free(s.edge_found);
    free(s.sorted);
    return status;
}

static void add_bins(tm_score_bin_t *sum, const tm_score_bin_t *one) {
    for (int b = 0; b < TM_SCORE_BINS; b++) {
        sum[b].wanted += one[b].wanted;
        sum[b].found += one[b].found;
    }
}

static void add_curve(tm_curve_bin_t *sum, const tm_curve_bin_t *one) {
    for (int b = 0; b < TM_CURVE_BINS; b++) {
        sum[b].wanted += one[b].wanted;
        sum[b].found += one[b].found;
        sum[b].tracks += one[b].tracks;
        sum[b].fakes += one[b].fakes;
    }
}

static void add_match(tm_match_t *sum, const tm_match_t *one) {
    sum->found += one->found;
    sum->matched += one->matched;
    sum->hard_matched += one->hard_matched;
    sum->duplicates += one->duplicates;
}

void tm_score_add(tm_score_t *sum, const tm_score_t *one) {
    sum->weighted = one->weighted && (sum->events == 0 || sum->weighted);
    sum->events += one->events;
    sum->wanted += one->wanted;
    sum->found += one->found;
    sum->tracks += one->tracks;
    sum->matched += one->matched;
    sum->impure += one->impure;
    sum->duplicates += one->duplicates;
    sum->hard += one->hard;
    sum->hard_matched += one->hard_matched;
    sum->long_hard += one->long_hard;
    sum->long_hard_matched += one->long_hard_matched;
    sum->true_edges += one->true_edges;
    sum->found_edges += one->found_edges;
    sum->track_edges += one->track_edges;
    sum->pure_edges += one->pure_edges;
    add_match(&sum->lhc, &one->lhc);
    add_match(&sum->perfect, &one->perfect);
    add_curve(sum->pt_curve, one->pt_curve);
    add_curve(sum->eta_curve, one->eta_curve);
    sum->good_hits += one->good_hits;
    sum->track_hits += one->track_hits;
    sum->particle_hits += one->particle_hits;
    sum->good_weight += one->good_weight;
    sum->total_weight += one->total_weight;
    sum->good_hard_weight += one->good_hard_weight;
    sum->total_hard_weight += one->total_hard_weight;
    add_bins(sum->pt, one->pt);
    add_bins(sum->eta, one->eta);
    add_bins(sum->radius, one->radius);
}

static double rate(double part, double whole) {
    return whole > 0 ? part / whole : NAN;
}

double tm_score_efficiency(const tm_score_t *s) {
    return rate((double)s->found, (double)s->wanted);
}
double tm_score_fakes(const tm_score_t *s) {
    return rate((double)(s->tracks - s->matched), (double)s->tracks);
}
double tm_score_hard_fakes(const tm_score_t *s) {
    return rate((double)(s->hard - s->hard_matched), (double)s->hard);
}
double tm_score_long_fakes(const tm_score_t *s) {
    return rate((double)(s->long_hard - s->long_hard_matched), (double)s->long_hard);
}
double tm_score_edge_efficiency(const tm_score_t *s) {
    return rate((double)s->found_edges, (double)s->true_edges);
}
double tm_score_edge_purity(const tm_score_t *s) {
    return rate((double)s->pure_edges, (double)s->track_edges);
}
double tm_match_efficiency(const tm_score_t *s, const tm_match_t *match) {
    return rate((double)match->found, (double)s->wanted);
}
double tm_match_fakes(const tm_score_t *s, const tm_match_t *match) {
    return rate((double)(s->hard - match->hard_matched), (double)s->hard);
}
double tm_match_duplicates(const tm_score_t *s, const tm_match_t *match) {
    return rate((double)match->duplicates, (double)s->tracks);
}
double tm_score_impure(const tm_score_t *s) {
    return rate((double)s->impure, (double)s->tracks);
}
double tm_score_duplicates(const tm_score_t *s) {
    return rate((double)s->duplicates, (double)s->tracks);
}
double tm_score_purity(const tm_score_t *s) {
    return rate((double)s->good_hits, (double)s->track_hits);
}
double tm_score_completeness(const tm_score_t *s) {
    return rate((double)s->good_hits, (double)s->particle_hits);
}
double tm_score_trackml(const tm_score_t *s) {
    return rate(s->good_weight, s->total_weight);
}
double tm_score_hard_trackml(const tm_score_t *s) {
    return rate(s->good_hard_weight, s->total_hard_weight);
}
