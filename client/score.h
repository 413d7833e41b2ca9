// SPDX-License-Identifier: Apache-2.0
/*
 * How good the found tracks are: matching to the truth by double majority, and beside it by the other
 * definitions that people publish (docs/metrics.md has them in full).
 *
 * A track with n points matches a particle with m points, of which k are in the track, when
 * 2k > n and 2k > m. A point of a merged cluster belongs to each of its particles. Only tracks with
 * at least `track_hits_min` points count. A score holds sums, so that events add up; rates are taken
 * from the sums.
 *
 * Threads: pure functions of their arguments.
 */
#ifndef TM_CLIENT_SCORE_H
#define TM_CLIENT_SCORE_H

#include "client/event_file.h"

/* Which particles are wanted, and which tracks count. */
typedef struct {
    double pt_min_gev;       /* wanted: pT > this */
    double eta_max;          /* wanted: |eta| < this */
    double radius_max_mm;    /* wanted: produced at r < this */
    uint32_t hits_min;       /* wanted: at least this many space points */
    uint32_t track_hits_min; /* a track counts from this many points on; at least 1 */
    bool neutral_too;        /* wanted: neutral particles as well */
    bool secondaries_too;    /* wanted: particles made in the detector as well */
    bool first_only;         /* a merged point belongs to its first particle alone */
} tm_score_options_t;

/* pT > 0.9 GeV, |eta| < 4, any radius, ≥ 3 points, charged, generated; tracks of ≥ 3 points. */
#define TM_SCORE_DEFAULTS \
    { .pt_min_gev = 0.9, .eta_max = 4, .radius_max_mm = 1e30, .hits_min = 3, .track_hits_min = 3 }

/* What became of a particle. */
typedef enum { TM_PARTICLE_OTHER, TM_PARTICLE_FOUND, TM_PARTICLE_MISSED } tm_particle_fate_t;

/* What a track is. Fragments and impure tracks are the fakes. */
typedef enum {
    TM_TRACK_SHORT,    /* fewer points than count */
    TM_TRACK_MATCHED,  /* matches a particle */
    TM_TRACK_FRAGMENT, /* more than half of its points are of one particle, but not half of those of
                          the particle */
    TM_TRACK_IMPURE,   /* no particle owns more than half of its points */
} tm_track_kind_t;

/* Bins of the wanted particles. */
#define TM_SCORE_BINS 4
extern const double tm_score_pt_edges[TM_SCORE_BINS + 1];     /* GeV; the last is infinite */
extern const double tm_score_eta_edges[TM_SCORE_BINS + 1];    /* |eta| */
extern const double tm_score_radius_edges[TM_SCORE_BINS + 1]; /* of production, mm; last infinite */

typedef struct {
    uint64_t wanted, found;
} tm_score_bin_t;

/* Finer bins, for plots: wanted particles and how many are found; tracks by their majority particle and
 * how many match none. */
#define TM_CURVE_BINS 16
extern const double tm_curve_pt_edges[TM_CURVE_BINS + 1];  /* GeV; the last is infinite */
extern const double tm_curve_eta_edges[TM_CURVE_BINS + 1]; /* eta; the ends are infinite */

typedef struct {
    uint64_t wanted, found, tracks, fakes;
} tm_curve_bin_t;

/* Another way to match: what it finds and what it leaves. */
typedef struct {
    uint64_t found;        /* wanted particles that some track matches */
    uint64_t matched;      /* tracks that match some particle */
    uint64_t hard_matched; /* the same among hard tracks */
    uint64_t duplicates;   /* matched tracks beyond the first of their particle */
} tm_match_t;

/* Tracks of at least so many points, for fakes beside those of all that count. */
#define TM_SCORE_LONG 5

typedef struct {
    uint64_t events;
    uint64_t wanted;     /* particles that the selection takes */
    uint64_t found;      /* … of which a track matches */
    uint64_t tracks;     /* that count */
    uint64_t matched;    /* … to any particle, wanted or not */
    uint64_t impure;     /* … in which no particle owns more than half */
    uint64_t duplicates; /* matched tracks beyond the first of their particle */
    uint64_t hard;       /* tracks whose majority particle has pT > pt_min_gev */
    uint64_t hard_matched;
    uint64_t long_hard, long_hard_matched; /* of these: with at least TM_SCORE_LONG points */
    tm_match_t lhc;     /* more than three quarters of the track's points are the particle's */
    tm_match_t perfect; /* exactly the particle's points */
    uint64_t true_edges, found_edges; /* of wanted particles: neighbours, and found as such */
    uint64_t track_edges, pure_edges; /* of tracks: neighbours, and of one particle both */
    uint64_t good_hits;       /* of tracks that match a wanted particle: points of that particle, */
    uint64_t track_hits;      /*   all points of the track, */
    uint64_t particle_hits;   /*   all points of the particle */
    double good_weight;       /* TrackML: weight of the majority points of good tracks, */
    double total_weight;      /*   and of all points */
    double good_hard_weight;  /* the same of tracks whose majority particle has pT > pt_min_gev, */
    double total_hard_weight; /*   and of all points of such particles */
    bool weighted;            /* every event brought weights of its own */
    tm_score_bin_t pt[TM_SCORE_BINS], eta[TM_SCORE_BINS], radius[TM_SCORE_BINS];
    tm_curve_bin_t pt_curve[TM_CURVE_BINS];  /* tracks: all that count */
    tm_curve_bin_t eta_curve[TM_CURVE_BINS]; /* tracks: hard ones */
} tm_score_t;

/* Optional results per track and particle; either may be NULL. */
typedef struct {
    uint8_t *track;     /* out, tracks->n_tracks of tm_track_kind_t */
    uint8_t *particle;  /* out, event->n_particles of tm_particle_fate_t */
    uint32_t *majority; /* out, tracks->n_tracks: majority particle, or UINT32_MAX */
} tm_score_detail_t;

/* Scores one event. TM_E_ARGUMENT: the event has no truth, or the tracks are not its own. */
tm_status_t tm_score_event(const tm_event_file_t *event, const tm_tracks_t *tracks,
                           const tm_score_options_t *options, tm_score_t *score,
                           const tm_score_detail_t *detail, tm_error_t *err);

/* *sum += *one; a zeroed sum is the neutral element. */
void tm_score_add(tm_score_t *sum, const tm_score_t *one);

/* Rates; NaN where there is nothing to divide by. */
double tm_score_efficiency(const tm_score_t *s); /* found / wanted */
double tm_score_fakes(const tm_score_t *s);      /* unmatched / tracks */
double tm_score_hard_fakes(const tm_score_t *s); /* the same among hard tracks */
double tm_score_long_fakes(const tm_score_t *s); /* among hard tracks of ≥ TM_SCORE_LONG points */
double tm_score_impure(const tm_score_t *s);     /* impure / tracks */
double tm_score_duplicates(const tm_score_t *s); /* duplicates / tracks */
double tm_score_purity(const tm_score_t *s);     /* good_hits / track_hits */
double tm_score_completeness(const tm_score_t *s); /* good_hits / particle_hits */
double tm_score_trackml(const tm_score_t *s);      /* good_weight / total_weight */
double tm_score_hard_trackml(const tm_score_t *s); /* good_hard_weight / total_hard_weight */

double tm_score_edge_efficiency(const tm_score_t *s); /* found_edges / true_edges */
double tm_score_edge_purity(const tm_score_t *s);     /* pure_edges / track_edges */
/* Of another way to match: found / wanted; among hard tracks, those that match none; duplicates / tracks. */
double tm_match_efficiency(const tm_score_t *s, const tm_match_t *match);
double tm_match_fakes(const tm_score_t *s, const tm_match_t *match);
double tm_match_duplicates(const tm_score_t *s, const tm_match_t *match);

/* pT in GeV and pseudorapidity of a particle at its production; eta is ±infinity without pT. */
double tm_particle_pt(const tm_particle_t *particle);
double tm_particle_eta(const tm_particle_t *particle);
/* Whether the selection takes it, counting n_hits points. */
bool tm_particle_wanted(const tm_particle_t *particle, uint32_t n_hits,
                        const tm_score_options_t *options);

#endif
