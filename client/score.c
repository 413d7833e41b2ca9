// SPDX-License-Identifier: Apache-2.0
#include "client/score.h"

#include <math.h>
#include <stdlib.h>

#define NO_PARTICLE UINT32_MAX

const double tm_score_pt_edges[TM_SCORE_BINS + 1] = {0, 1.2, 2, 5, INFINITY};
const double tm_score_eta_edges[TM_SCORE_BINS + 1] = {0, 1, 2, 3, INFINITY};
const double tm_score_radius_edges[TM_SCORE_BINS + 1] = {0, 1, 10, 30, INFINITY};

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
    uint32_t *matches; /* per particle: tracks that match it */
    uint8_t *wanted;   /* per particle */
} state_t;

static double weight_of(const tm_event_file_t *event, uint32_t point) {
    if (event->hit_weight) {
        return (double)event->hit_weight[point];
    }
    return event->link_offset[point + 1] > event->link_offset[point] ? 1 : 0;
}

/* TrackML's score knows no least length and one particle per point: the majority particle's points
 * count when it owns more than half of the track, which holds more than half of it. */
static void add_weight(const state_t *s, const uint32_t *point, uint32_t n, uint32_t majority,
                       tm_score_t *score) {
    uint64_t k = majority == NO_PARTICLE ? 0 : s->count[majority];
    if (2 * k <= n || 2 * k <= s->hits[majority]) {
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = links_end(s->event, point[i], s->options);
        for (uint32_t l = s->event->link_offset[point[i]]; l < end; l++) {
            if (s->event->link_particle[l] == majority) {
                score->good_weight += weight_of(s->event, point[i]);
            }
        }
    }
}

/* Judges one track. Leaves s->count zeroed. */
static tm_track_kind_t judge(state_t *s, const uint32_t *point, uint32_t n, uint32_t *majority,
                             tm_score_t *score) {
    uint32_t n_touched = 0;
    bool matched = false;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end = links_end(s->event, point[i], s->options);
        for (uint32_t l = s->event->link_offset[point[i]]; l < end; l++) {
            uint32_t particle = s->event->link_particle[l];
            if (s->count[particle]++ == 0) {
                s->touched[n_touched++] = particle;
            }
        }
    }
    *majority = NO_PARTICLE;
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
        if (n < s->options->track_hits_min || 2 * k <= n || 2 * k <= s->hits[p]) {
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
    return n < s->options->track_hits_min ? TM_TRACK_SHORT
           : matched                      ? TM_TRACK_MATCHED
           : 2 * best > n                 ? TM_TRACK_FRAGMENT
                                          : TM_TRACK_IMPURE;
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
                 .wanted = calloc(n, sizeof *s.wanted)};
    if (!s.hits || !s.count || !s.touched || !s.matches || !s.wanted) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "%s: no memory for its score", event->name);
        goto end;
    }
    for (uint32_t i = 0; i < event->n_points; i++) {
        score->total_weight += weight_of(event, i);
        for (uint32_t l = event->link_offset[i]; l < links_end(event, i, options); l++) {
            s.hits[event->link_particle[l]]++;
        }
    }
    for (uint32_t p = 0; p < event->n_particles; p++) {
        s.wanted[p] = tm_particle_wanted(&event->particles[p], s.hits[p], options);
    }
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        uint32_t majority, begin = tracks->offsets[t];
        tm_track_kind_t kind =
            judge(&s, tracks->indices + begin, tracks->offsets[t + 1] - begin, &majority, score);
        if (detail && detail->track) {
            detail->track[t] = (uint8_t)kind;
        }
        if (detail && detail->majority) {
            detail->majority[t] = majority;
        }
        if (kind == TM_TRACK_SHORT) {
            continue;
        }
        bool hard = majority != NO_PARTICLE &&
                    tm_particle_pt(&event->particles[majority]) > options->pt_min_gev;
        score->tracks++;
        score->matched += kind == TM_TRACK_MATCHED;
        score->impure += kind == TM_TRACK_IMPURE;
        score->hard += hard;
        score->hard_matched += hard && kind == TM_TRACK_MATCHED;
    }
    count_particles(&s, score, detail);
end:
    free(s.hits);
    free(s.count);
    free(s.touched);
    free(s.matches);
    free(s.wanted);
    return status;
}

static void add_bins(tm_score_bin_t *sum, const tm_score_bin_t *one) {
    for (int b = 0; b < TM_SCORE_BINS; b++) {
        sum[b].wanted += one[b].wanted;
        sum[b].found += one[b].found;
    }
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
    sum->good_hits += one->good_hits;
    sum->track_hits += one->track_hits;
    sum->particle_hits += one->particle_hits;
    sum->good_weight += one->good_weight;
    sum->total_weight += one->total_weight;
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
