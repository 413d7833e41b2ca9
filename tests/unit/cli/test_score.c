// SPDX-License-Identifier: Apache-2.0
// Scores: cases small enough to count by hand, and a slow second implementation on random events.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/score.h"
#include "tests/unit/cli/scratch.h"

#define NONE UINT32_MAX
#define MAX_POINTS 200
#define MAX_PARTICLES 20

/* An event whose point i belongs to owner[i][0], and to owner[i][1] if that is not NONE. */
typedef struct {
    tm_event_file_t event;
    tm_particle_t particle[MAX_PARTICLES];
    uint32_t offset[MAX_POINTS + 1], link[2 * MAX_POINTS];
    float weight[MAX_POINTS];
} world_t;

static void build(world_t *w, uint32_t n_points, uint32_t owner[][2], uint32_t n_particles) {
    memset(w, 0, sizeof *w);
    uint32_t n = 0;
    for (uint32_t p = 0; p < n_particles; p++) {
        w->particle[p] =
            (tm_particle_t){.id = p + 1, .charge = 1, .px = 2, .pz = 1, .generated = 1};
    }
    for (uint32_t i = 0; i < n_points; i++) {
        for (int k = 0; k < 2; k++) {
            if (owner[i][k] != NONE) {
                w->link[n++] = owner[i][k];
                w->particle[owner[i][k]].n_hits++;
            }
        }
        w->offset[i + 1] = n;
    }
    w->event = (tm_event_file_t){.n_points = n_points,
                                 .has_truth = true,
                                 .n_particles = n_particles,
                                 .particles = w->particle,
                                 .link_offset = w->offset,
                                 .link_particle = w->link};
}

static void one_owner(world_t *w, const char *owners, uint32_t n_particles) {
    uint32_t owner[MAX_POINTS][2];
    for (size_t i = 0; owners[i]; i++) {
        owner[i][0] = owners[i] == '.' ? NONE : (uint32_t)(owners[i] - 'a');
        owner[i][1] = NONE;
    }
    build(w, (uint32_t)strlen(owners), owner, n_particles);
}

/* Tracks from digits: point i is in track labels[i]. */
static void label(tm_tracks_t *t, const char *labels) {
    static uint32_t offsets[32], indices[MAX_POINTS];
    uint32_t n = 0, k = 0;
    for (char c = '0'; c <= '9'; c++) {
        if (strchr(labels, c)) {
            offsets[n++] = k;
            for (uint32_t i = 0; labels[i]; i++) {
                if (labels[i] == c) {
                    indices[k++] = i;
                }
            }
        }
    }
    offsets[n] = k;
    *t = (tm_tracks_t){.n_points = (uint32_t)strlen(labels),
                       .n_tracks = n,
                       .offsets = offsets,
                       .indices = indices};
}

static tm_score_t score(const world_t *w, const tm_tracks_t *t, const tm_score_options_t *options,
                        const tm_score_detail_t *detail) {
    static const tm_score_options_t defaults = TM_SCORE_DEFAULTS;
    tm_score_t s;
    tm_error_t err = {0};
    assert_int_equal(tm_score_event(&w->event, t, options ? options : &defaults, &s, detail, &err),
                     TM_OK);
    return s;
}

static void test_perfect(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaabbbb", 2);
    label(&t, "0001111");
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_true(s.wanted == 2 && s.found == 2 && s.tracks == 2 && s.matched == 2 && s.hard == 2);
    assert_true(tm_score_efficiency(&s) == 1 && tm_score_fakes(&s) == 0 &&
                tm_score_purity(&s) == 1 && tm_score_completeness(&s) == 1 &&
                tm_score_trackml(&s) == 1 && tm_score_hard_trackml(&s) == 1);
}

/* Exactly half is not a majority, on either side. */
static void test_halves(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaaaaabbb...", 2);
    label(&t, "000...111111"); /* 0: 3 of a's 6; 1: 3 of its 6 are b */
    uint8_t kind[2], fate[2];
    uint32_t majority[2];
    tm_score_t s = score(&w, &t, NULL, &(tm_score_detail_t){kind, fate, majority});
    assert_true(s.found == 0 && s.matched == 0 && s.impure == 1 && s.hard == 2);
    assert_true(kind[0] == TM_TRACK_FRAGMENT && kind[1] == TM_TRACK_IMPURE);
    assert_true(fate[0] == TM_PARTICLE_MISSED && majority[1] == 1);
    assert_true(tm_score_hard_fakes(&s) == 1 && tm_score_impure(&s) == 0.5);
    label(&t, "0000..11111."); /* one more each: 4 of 6; 3 of 5 */
    s = score(&w, &t, NULL, NULL);
    assert_true(s.found == 2 && s.matched == 2 && s.impure == 0);
    assert_true(s.good_hits == 7 && s.track_hits == 9 && s.particle_hits == 9);
}

static void test_short_tracks(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaa", 1);
    label(&t, "00.");
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_true(s.tracks == 0 && s.found == 0 && isnan(tm_score_fakes(&s)));
    assert_true(tm_score_efficiency(&s) == 0);
    assert_true(s.good_weight == 2); /* TrackML's score knows no least length */
    tm_score_options_t two = TM_SCORE_DEFAULTS;
    two.track_hits_min = 2;
    s = score(&w, &t, &two, NULL);
    assert_true(s.tracks == 1 && s.found == 1);
}

/* Three quarters and exactly: 4 of 5 are more than 75 %, 3 of 4 are not; nothing missing, nothing else. */
static void test_other_definitions(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaaaaaaaaabbbbccc.", 3);
    label(
        &t,
        "0000....1113144422"); /* 0: pure piece; 1: b's four and one of a's; 4: c's two and one of b */
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_true(s.tracks == 3 && s.wanted == 3);
    assert_true(s.lhc.matched == 1 && s.lhc.found == 1 && s.lhc.duplicates == 0);
    assert_true(s.perfect.matched == 0 && s.perfect.found == 0);
    assert_true(tm_match_fakes(&s, &s.lhc) > 0.66 && tm_match_fakes(&s, &s.lhc) < 0.67);
    label(&t, "0000111144442223..");
    s = score(&w, &t, NULL, NULL);
    /* 0 and 1 are pieces of a, 4 has two of a and two of b, 2 has two of b and one of c */
    assert_true(s.lhc.matched == 2 && s.lhc.found == 1 && s.lhc.duplicates == 1);
    label(&t, "000000000011112223");
    s = score(&w, &t, NULL, NULL);
    assert_true(s.perfect.matched == 3 && s.perfect.found == 3 && s.lhc.found == 3);
    assert_true(s.long_hard == 1 && s.long_hard_matched == 1 && tm_score_long_fakes(&s) == 0);
    assert_true(tm_match_duplicates(&s, &s.perfect) == 0);
}

/* Without positions, neighbours are neighbours by row. */
static void test_edges(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaabbb", 2);
    label(&t, "0.0111");
    tm_score_t s = score(&w, &t, NULL, NULL); /* 0 is too short to count */
    assert_true(s.true_edges == 4 && s.found_edges == 2 && s.track_edges == 2 && s.pure_edges == 2);
    label(&t, "00100.");
    tm_score_options_t one = TM_SCORE_DEFAULTS;
    one.track_hits_min = 1;
    s = score(&w, &t, &one, NULL); /* 0-1, 1-3, 3-4: one wrong, two found */
    assert_true(s.true_edges == 4 && s.found_edges == 2 && s.track_edges == 3 && s.pure_edges == 2);
    assert_true(tm_score_edge_efficiency(&s) == 0.5);
}

/* A merged point counts for both of its particles. */
static void test_merged(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    uint32_t owner[4][2] = {{0, 1}, {0, 1}, {0, 1}, {1, NONE}};
    build(&w, 4, owner, 2);
    label(&t, "000.");
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_true(s.wanted == 2 && s.found == 2 && s.matched == 1 && s.tracks == 1);
    tm_score_options_t first = TM_SCORE_DEFAULTS;
    first.first_only = true; /* then particle b has one point and is not wanted */
    s = score(&w, &t, &first, NULL);
    assert_true(s.wanted == 1 && s.found == 1);
    w.particle[0].px =
        0.5f; /* of a soft and a hard particle: hard; but the track is the soft one's */
    s = score(&w, &t, NULL, NULL);
    assert_true(s.total_hard_weight == 4 && s.good_hard_weight == 0 && s.good_weight == 3);
}

static void test_duplicates(void **state) {
    (void)state;
    world_t w;
    static uint32_t offsets[] = {0, 3, 6}, indices[] = {0, 1, 2, 1, 2, 3};
    tm_tracks_t t = {.n_points = 4, .n_tracks = 2, .offsets = offsets, .indices = indices};
    one_owner(&w, "aaaa", 1);
    tm_score_t s = score(&w, &t, NULL, NULL); /* tracks that share points, as other finders have */
    assert_true(s.found == 1 && s.matched == 2 && s.duplicates == 1);
    assert_true(tm_score_duplicates(&s) == 0.5);
}

static void test_selection(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaabbbcccdddeeefffgghhh", 8);
    w.particle[1].px = 0.9f; /* pT 0.9f is below 0.9 … */
    w.particle[1].py = 0;
    w.particle[2].pz = 100;      /* |eta| = 4.6 */
    w.particle[3].charge = 0;    /* neutral */
    w.particle[4].generated = 0; /* made in the detector */
    w.particle[5].vx = 40;       /* displaced: wanted by default */
    w.particle[7].px = 0;        /* (g has two points); h goes along the beam */
    label(&t, "000111222333444555.....");
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_int_equal(s.wanted, 2);
    assert_int_equal(s.found, 2);
    assert_int_equal(s.matched, 6);
    tm_score_options_t options = TM_SCORE_DEFAULTS;
    options.radius_max_mm = 30;
    assert_int_equal(score(&w, &t, &options, NULL).wanted, 1);
    options = (tm_score_options_t)TM_SCORE_DEFAULTS;
    options.neutral_too = options.secondaries_too = true;
    assert_int_equal(score(&w, &t, &options, NULL).wanted, 4);
    options.eta_max = 5;
    assert_int_equal(score(&w, &t, &options, NULL).wanted, 5);
    options.hits_min = 2;
    assert_int_equal(score(&w, &t, &options, NULL).wanted, 6);
    options.pt_min_gev = 0.5;
    assert_int_equal(score(&w, &t, &options, NULL).wanted, 7);
    s = score(&w, &t, &options, NULL);
    uint64_t sums[3] = {0};
    for (int b = 0; b < TM_SCORE_BINS; b++) {
        sums[0] += s.pt[b].wanted;
        sums[1] += s.eta[b].wanted;
        sums[2] += s.radius[b].wanted;
    }
    assert_true(sums[0] == 7 && sums[1] == 7 && sums[2] == 7);
    assert_true(s.radius[3].wanted == 1 && s.eta[3].wanted == 1 && s.pt[0].wanted == 1);
}

static void test_weights_and_sum(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    one_owner(&w, "aaabbb.", 2);
    static const float weights[] = {0.1f, 0.2f, 0.3f, 0.1f, 0.1f, 0.2f, 0};
    memcpy(w.weight, weights, sizeof weights);
    w.event.hit_weight = w.weight;
    label(&t, "00.1110");
    tm_score_t one = score(&w, &t, NULL, NULL), sum = {0};
    /* 0: two of its three points are a's, two of a's three are in it */
    assert_true(fabs(tm_score_trackml(&one) - 0.7) < 1e-6 && one.weighted);
    assert_true(fabs(tm_score_hard_trackml(&one) - 0.7) < 1e-6);
    w.particle[1].px = 0.5f; /* soft: what counts are a's points alone, of which one is missing */
    tm_score_t hard = score(&w, &t, NULL, NULL);
    assert_true(fabs(tm_score_trackml(&hard) - 0.7) < 1e-6);
    assert_true(fabs(tm_score_hard_trackml(&hard) - 0.5) < 1e-6);
    w.particle[1].px = 2;
    tm_score_add(&sum, &one);
    assert_true(sum.weighted);
    w.event.hit_weight = NULL;
    tm_score_t two = score(&w, &t, NULL, NULL);
    assert_true(fabs(tm_score_trackml(&two) - 5.0 / 6) < 1e-12 && !two.weighted);
    tm_score_add(&sum, &two);
    assert_true(fabs(tm_score_hard_trackml(&sum) - 5.7 / 7) < 1e-6);
    assert_true(!sum.weighted && sum.events == 2 && sum.wanted == 4 && sum.found == 4);
    assert_true(sum.eta[0].wanted == 4 && sum.pt[2].found == 4);
}

static void test_refused(void **state) {
    (void)state;
    world_t w;
    tm_tracks_t t;
    tm_score_t s;
    tm_error_t err = {0};
    tm_score_options_t options = TM_SCORE_DEFAULTS;
    one_owner(&w, "aaa", 1);
    label(&t, "0000");
    assert_int_equal(tm_score_event(&w.event, &t, &options, &s, NULL, &err), TM_E_ARGUMENT);
    label(&t, "000");
    w.event.has_truth = false;
    assert_int_equal(tm_score_event(&w.event, &t, &options, &s, NULL, &err), TM_E_ARGUMENT);
    assert_non_null(strstr(err.text, "no truth"));
}

static void test_empty(void **state) {
    (void)state;
    world_t w;
    static uint32_t zero;
    tm_tracks_t t = {.offsets = &zero};
    one_owner(&w, "", 0);
    tm_score_t s = score(&w, &t, NULL, NULL);
    assert_true(s.events == 1 && s.wanted == 0 && isnan(tm_score_efficiency(&s)) &&
                isnan(tm_score_trackml(&s)) && isnan(tm_score_hard_trackml(&s)));
}

/* ---- the second implementation: for every pair of track and particle, count points ---- */

static bool owns(const tm_event_file_t *e, uint32_t point, uint32_t particle, bool first_only) {
    for (uint32_t l = e->link_offset[point]; l < e->link_offset[point + 1]; l++) {
        if (e->link_particle[l] == particle) {
            return !first_only || l == e->link_offset[point];
        }
    }
    return false;
}

static void slow(const tm_event_file_t *e, const tm_tracks_t *t, const tm_score_options_t *o,
                 tm_score_t *s) {
    uint32_t matches[MAX_PARTICLES] = {0}, size[MAX_PARTICLES] = {0};
    *s = (tm_score_t){0};
    for (uint32_t p = 0; p < e->n_particles; p++) {
        for (uint32_t i = 0; i < e->n_points; i++) {
            size[p] += owns(e, i, p, o->first_only);
        }
    }
    for (uint32_t k = 0; k < t->n_tracks; k++) {
        uint32_t n = t->offsets[k + 1] - t->offsets[k], best = NONE, best_points = 0;
        bool matched = false;
        for (uint32_t p = 0; p < e->n_particles; p++) {
            uint32_t points = 0;
            for (uint32_t i = t->offsets[k]; i < t->offsets[k + 1]; i++) {
                points += owns(e, t->indices[i], p, o->first_only);
            }
            if (points > best_points) {
                best = p;
                best_points = points;
            }
            bool match = points > n / 2.0 && points > size[p] / 2.0 && n >= o->track_hits_min;
            matched = matched || match;
            matches[p] += match;
        }
        if (n >= o->track_hits_min) {
            bool hard = best != NONE && hypot((double)e->particles[best].px,
                                              (double)e->particles[best].py) > o->pt_min_gev;
            s->tracks++;
            s->matched += matched;
            s->impure += !(best_points > n / 2.0) && !matched;
            s->hard += hard;
            s->hard_matched += hard && matched;
        }
    }
    for (uint32_t p = 0; p < e->n_particles; p++) {
        const tm_particle_t *q = &e->particles[p];
        double pt = sqrt((double)q->px * (double)q->px + (double)q->py * (double)q->py);
        double eta = -log(tan(0.5 * atan2(pt, (double)q->pz)));
        bool wanted = pt > o->pt_min_gev && fabs(eta) < o->eta_max && size[p] >= o->hits_min &&
                      (q->charge != 0 || o->neutral_too) && (q->generated || o->secondaries_too);
        s->wanted += wanted;
        s->found += wanted && matches[p];
        s->duplicates += matches[p] > 1 ? matches[p] - 1 : 0;
    }
}

static void test_random(void **state) {
    (void)state;
    uint64_t seed = 99;
    uint64_t found = 0, fakes = 0;
    for (int round = 0; round < 2000; round++) {
        world_t w;
        uint32_t owner[MAX_POINTS][2];
        char labels[MAX_POINTS + 1] = "";
        uint32_t n = 1 + scratch_random(&seed) % (MAX_POINTS - 1);
        uint32_t particles = 1 + scratch_random(&seed) % 9;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t p = scratch_random(&seed) % (particles + 1);
            owner[i][0] = p == particles ? NONE : p;
            owner[i][1] = NONE;
            if (scratch_random(&seed) % 5 == 0 && owner[i][0] != NONE && particles > 1) {
                owner[i][1] = (p + 1 + scratch_random(&seed) % (particles - 1)) % particles;
            }
            /* tracks follow the particles, more or less */
            labels[i] = (char)('0' + (scratch_random(&seed) % 4 ? p : scratch_random(&seed) % 10));
        }
        build(&w, n, owner, particles);
        for (uint32_t p = 0; p < particles; p++) {
            w.particle[p].px = (float)(scratch_random(&seed) % 100) / 50;
            w.particle[p].py = 0.01f;
            w.particle[p].pz = (float)(scratch_random(&seed) % 100) - 50;
            w.particle[p].charge = (float)(scratch_random(&seed) % 3);
            w.particle[p].generated = scratch_random(&seed) % 4 > 0;
        }
        tm_tracks_t t;
        label(&t, labels);
        tm_score_options_t o = TM_SCORE_DEFAULTS;
        o.first_only = round % 2;
        o.track_hits_min = 1 + scratch_random(&seed) % 5;
        o.secondaries_too = round % 3 == 0;
        tm_score_t fast = score(&w, &t, &o, NULL), wanted;
        slow(&w.event, &t, &o, &wanted);
        assert_int_equal(fast.wanted, wanted.wanted);
        assert_int_equal(fast.found, wanted.found);
        assert_int_equal(fast.tracks, wanted.tracks);
        assert_int_equal(fast.matched, wanted.matched);
        assert_int_equal(fast.impure, wanted.impure);
        assert_int_equal(fast.duplicates, wanted.duplicates);
        assert_int_equal(fast.hard, wanted.hard);
        assert_int_equal(fast.hard_matched, wanted.hard_matched);
        found += fast.found;
        fakes += fast.hard - fast.hard_matched;
    }
    assert_true(found > 500 && fakes > 500); /* the cases are neither too easy nor too hard */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perfect),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_other_definitions),
        cmocka_unit_test(test_edges),
        cmocka_unit_test(test_short_tracks),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_selection),
        cmocka_unit_test(test_weights_and_sum),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
