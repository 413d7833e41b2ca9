// SPDX-License-Identifier: Apache-2.0
/* The fit of candidates and the steps behind the track builder: against the reference on random
 * tracks with breaks and wrong edges, on an event with its model, and by hand. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "client/event_file.h"
#include "nn/ref/tracks_steps.h"
#include "nn/tracks_fit.h"
#include "nn/tracks_post.h"
#include "tests/unit/nn/sample.h"

#define LAYERS 10
#define FIELD 2.0

static const double layer_r[LAYERS] = {32, 72, 116, 172, 260, 360, 500, 660, 820, 1020};

static void assert_near(double a, double b, double most) {
    if (!(fabs(a - b) <= most)) {
        fail_msg("%.12g is not %.12g within %g", a, b, most);
    }
}

/* The barrel of a small detector, and steps as a model might ask for them. */
static tm_pipeline_t pipeline_of(bool split, bool join, bool select) {
    tm_pipeline_t p = {0};
    p.tracks.cut = 0.3f;
    p.tracks.builder = TM_BUILDER_BEST_EDGES;
    p.tracks.min_points = 3;
    p.tracks.fit.present = true;
    p.tracks.fit.field_tesla = (float)FIELD;
    p.tracks.fit.scattering = 0.08f;
    p.tracks.fit.kink = 0.0025f;
    p.tracks.fit.ends = 5;
    p.tracks.fit.n_zones = 2;
    p.tracks.fit.zone[0] =
        (tm_zone_t){.r_max = 200, .z_max = 1e6f, .sigma_phi = 0.015f, .sigma_z = 0.03f};
    p.tracks.fit.zone[1] =
        (tm_zone_t){.r_max = 1e6f, .z_max = 1e6f, .sigma_phi = 0.03f, .sigma_z = 0.5f};
    p.tracks.split.present = split;
    p.tracks.split.score = 0.95f;
    p.tracks.split.chi2 = 8;
    p.tracks.select.points = select ? 4 : 0;
    p.tracks.select.score = 0.85f;
    p.tracks.join.present = join;
    p.tracks.join.dphi = 0.2f;
    p.tracks.join.dcot = 0.1f;
    p.tracks.join.chi2 = 200;
    const float weight[TM_JOIN_WEIGHTS] = {1.5f, -0.96f, -0.91f, 2.56f, -0.92f, -0.77f, -0.75f};
    memcpy(p.tracks.join.weight, weight, sizeof weight);
    return p;
}

/* A track that starts at (0, 0, z0) or a little beside it. */
typedef struct {
    double pt, phi, eta, d0, z0;
    int charge;
} truth_t;

/* Where it crosses the cylinder of radius r; false: it turns round before. */
static bool cross(const truth_t *t, double r, double *phi, double *z) {
    double radius = t->pt / (0.299792458e-3 * FIELD);
    double turn = -t->charge; /* +1: to the left */
    /* the point of closest approach, and the circle's centre to the left or the right of it */
    double px = -t->d0 * sin(t->phi), py = t->d0 * cos(t->phi);
    double cx = px - turn * radius * sin(t->phi), cy = py + turn * radius * cos(t->phi);
    double centre = hypot(cx, cy);
    double cosine = (radius * radius - centre * centre - r * r) / (2 * centre * r);
    if (fabs(cosine) > 1) {
        return false;
    }
    /* of the two crossings the one that comes first along the track */
    double along = atan2(cy, cx) + M_PI;
    double best = INFINITY;
    for (int side = -1; side <= 1; side += 2) {
        double angle = along + side * acos(cosine);
        double x = r * cos(angle), y = r * sin(angle);
        double start = atan2(py - cy, px - cx), now = atan2(y - cy, x - cx);
        double swept = fmod(turn * (now - start) + 4 * M_PI, 2 * M_PI);
        if (swept < best) {
            best = swept;
            *phi = atan2(y, x);
        }
    }
    *z = t->z0 + sinh(t->eta) * best * radius;
    return true;
}

static truth_t random_truth(uint64_t *random) {
    return (truth_t){.pt = 0.5 * exp(3 * tm_sample_uniform(random)),
                     .phi = M_PI * (2 * tm_sample_uniform(random) - 1),
                     .eta = 2 * tm_sample_uniform(random) - 1,
                     .d0 = 0.1 * tm_sample_normal(random),
                     .z0 = 50 * tm_sample_normal(random),
                     .charge = tm_sample_below(random, 2) ? 1 : -1};
}

/* Points of tracks on the layers, track by track; free .r. */
static tm_points_t points_of(const truth_t *truth, uint32_t n_truth, double noise, bool exact,
                             uint64_t *random) {
    uint32_t n = n_truth * LAYERS;
    float *m = calloc(5 * (size_t)n + 1, sizeof *m);
    assert_non_null(m);
    for (uint32_t i = 0; i < n; i++) {
        double r = layer_r[i % LAYERS], phi = 0, z = 0;
        assert_true(cross(&truth[i / LAYERS], r, &phi, &z));
        if (!exact) {
            phi = remainder(phi + noise * tm_sample_normal(random) / r, 2 * M_PI);
            z += (r < 200 ? 1 : 10) * noise * tm_sample_normal(random);
        }
        m[i] = (float)r;
        m[n + i] = (float)phi;
        m[2 * (size_t)n + i] = (float)z;
        m[3 * (size_t)n + i] = (float)asinh(z / r);
        m[4 * (size_t)n + i] = (float)sqrt(r * r + z * z);
    }
    return (tm_points_t){.n = n,
                         .r = m,
                         .phi = m + n,
                         .z = m + 2 * (size_t)n,
                         .eta = m + 3 * (size_t)n,
                         .rho = m + 4 * (size_t)n};
}

static void run(const tm_pipeline_t *p, const tm_stages_t *stages, int threads,
                const tm_points_t *points, const tm_edges_t *edges, const float *logits,
                tm_tracks_t *tracks) {
    tm_device_t *device = tm_sample_open(stages, p, threads);
    tm_error_t err = {0};
    uint64_t n_links = 0;
    assert_int_equal(stages->tracks(device, points, edges, logits, tracks, &n_links, &err), TM_OK);
    stages->close(&device);
}

/* Reference, and one to three threads: all the same. */
static void compare(const tm_pipeline_t *p, const tm_points_t *points, const tm_edges_t *edges,
                    const float *logits, tm_tracks_t *tracks) {
    tm_tracks_t want = {0};
    run(p, &tm_stages_ref, 1, points, edges, logits, &want);
    run(p, &tm_stages_cpu, 1, points, edges, logits, tracks);
    tm_sample_assert_same_tracks(tracks, &want);
    for (int threads = 2; threads <= 3; threads++) {
        tm_tracks_t other = {0};
        run(p, &tm_stages_cpu, threads, points, edges, logits, &other);
        tm_sample_assert_same_tracks(&other, tracks);
        assert_memory_equal(other.scores, tracks->scores, other.n_tracks * sizeof(float));
        tm_tracks_clear(&other);
    }
    tm_tracks_clear(&want);
}

/* Edges of a graph under construction. */
typedef struct {
    uint32_t n, room;
    uint32_t *src, *dst;
    float *logits;
} graph_t;

static graph_t graph_new(uint32_t room) {
    graph_t g = {.room = room};
    g.src = calloc(room + 1, sizeof *g.src);
    g.dst = calloc(room + 1, sizeof *g.dst);
    g.logits = calloc(room + 1, sizeof *g.logits);
    assert_true(g.src && g.dst && g.logits);
    return g;
}

static void graph_add(graph_t *g, uint32_t src, uint32_t dst, double logit) {
    assert_true(g->n < g->room);
    g->src[g->n] = src;
    g->dst[g->n] = dst;
    g->logits[g->n++] = (float)logit;
}

static tm_edges_t graph_edges(const graph_t *g) {
    return (tm_edges_t){.n = g->n, .src = g->src, .dst = g->dst};
}

static void graph_free(graph_t *g) {
    free(g->src);
    free(g->dst);
    free(g->logits);
}

/* Tracks that lack some edges and have some to points of others. */
static void random_tracks(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    uint32_t n_joined = 0, n_split = 0, n_dropped = 0;
    for (uint32_t n_truth = 1; n_truth < 200; n_truth = 2 * n_truth + 1) {
        truth_t *truth = calloc(n_truth, sizeof *truth);
        assert_non_null(truth);
        for (uint32_t t = 0; t < n_truth; t++) {
            truth[t] = random_truth(&random);
        }
        tm_points_t points = points_of(truth, n_truth, 0.03, false, &random);
        graph_t g = graph_new(2 * points.n);
        for (uint32_t i = 0; i < points.n; i++) {
            if (i % LAYERS + 1 == LAYERS) {
                continue;
            }
            if (tm_sample_uniform(&random) < 0.85) {
                graph_add(&g, i, i + 1, 3 + 2 * tm_sample_normal(&random));
            }
            uint32_t other = tm_sample_below(&random, n_truth) * LAYERS + i % LAYERS + 1;
            if (other != i + 1 && points.rho[other] > points.rho[i] &&
                tm_sample_uniform(&random) < 0.2) {
                graph_add(&g, i, other, 1 + 2 * tm_sample_normal(&random));
            }
        }
        tm_edges_t edges = graph_edges(&g);
        uint32_t n_tracks[4];
        for (int steps = 0; steps < 4; steps++) { /* none, split, split and join, all */
            tm_pipeline_t p = pipeline_of(steps > 0, steps > 1, steps > 2);
            tm_tracks_t tracks = {0};
            compare(&p, &points, &edges, g.logits, &tracks);
            n_tracks[steps] = tracks.offsets[tracks.n_tracks];
            n_joined += steps == 2 ? tracks.n_tracks < n_tracks[1] : 0;
            tm_tracks_clear(&tracks);
        }
        n_split += n_tracks[1] != n_tracks[0];
        n_dropped += n_tracks[3] < n_tracks[2];
        graph_free(&g);
        free((void *)points.r);
        free(truth);
    }
    /* the small ones may have nothing to do; of 127 tracks some always have */
    assert_true(n_joined > 0 && n_split > 0 && n_dropped > 0);
}

/* A track in two pieces becomes one; through φ = ±π too; not where it would go inward. */
static void pieces_are_joined(void **state) {
    (void)state;
    uint64_t random = 1;
    for (int k = 0; k < 2; k++) {
        const truth_t truth[] = {{.pt = 1, .phi = k ? 3.1 : 0.5, .eta = 0.3, .charge = -1},
                                 {.pt = 5, .phi = 1.5, .eta = -0.5, .z0 = 30, .charge = 1}};
        tm_points_t points = points_of(truth, 2, 0.01, false, &random);
        graph_t g = graph_new(points.n);
        for (uint32_t i = 0; i < points.n; i++) {
            if (i % LAYERS + 1 < LAYERS && i % LAYERS != 4) {
                graph_add(&g, i, i + 1, 5);
            }
        }
        tm_edges_t edges = graph_edges(&g);
        tm_pipeline_t p = pipeline_of(false, false, false);
        tm_tracks_t tracks = {0};
        compare(&p, &points, &edges, g.logits, &tracks);
        assert_int_equal(tracks.n_tracks, 4);
        tm_tracks_clear(&tracks);
        p = pipeline_of(true, true, true);
        compare(&p, &points, &edges, g.logits, &tracks);
        assert_int_equal(tracks.n_tracks, 2);
        for (uint32_t i = 0; i < points.n; i++) {
            assert_int_equal(tracks.indices[i], i);
        }
        assert_true(tracks.scores[0] > 0.9f && tracks.scores[0] < 1);
        tm_tracks_clear(&tracks);
        graph_free(&g);
        free((void *)points.r);
    }
}

/* A chain that changes from one track to another is broken there, and only there; not when its edge is
 * sure. */
static void wrong_links_are_broken(void **state) {
    (void)state;
    uint64_t random = 1;
    const truth_t truth[] = {{.pt = 2, .phi = 0.5, .eta = 0.3, .charge = -1},
                             {.pt = 2, .phi = 0.56, .eta = 0.32, .charge = 1}};
    tm_points_t points = points_of(truth, 2, 0.01, false, &random);
    for (int sure = 0; sure < 2; sure++) {
        graph_t g = graph_new(points.n);
        for (uint32_t i = 0; i < points.n; i++) {
            if (i == 4) {
                graph_add(&g, 4, LAYERS + 5, sure ? 5 : 1);
            } else if (i != LAYERS + 4 && i % LAYERS + 1 < LAYERS) {
                graph_add(&g, i, i + 1, sure ? 5 : 2);
            }
        }
        tm_edges_t edges = graph_edges(&g);
        tm_pipeline_t p = pipeline_of(true, false, false);
        tm_tracks_t tracks = {0};
        compare(&p, &points, &edges, g.logits, &tracks);
        assert_int_equal(tracks.n_tracks, sure ? 3 : 4);
        bool together = false;
        for (uint32_t t = 0; t < tracks.n_tracks; t++) {
            uint32_t had = 0;
            for (uint32_t k = tracks.offsets[t]; k < tracks.offsets[t + 1]; k++) {
                had |= tracks.indices[k] == 4 ? 1u : tracks.indices[k] == LAYERS + 5 ? 2u : 0;
            }
            together |= had == 3;
        }
        assert_int_equal(together, sure);
        tm_tracks_clear(&tracks);
        graph_free(&g);
    }
    free((void *)points.r);
}

static void weak_short_ones_are_dropped(void **state) {
    (void)state;
    uint64_t random = 1;
    const truth_t truth[] = {{.pt = 1, .phi = 0.5, .charge = 1},
                             {.pt = 1, .phi = -2, .charge = 1},
                             {.pt = 1, .phi = 2, .charge = 1}};
    tm_points_t points = points_of(truth, 3, 0.01, false, &random);
    graph_t g = graph_new(points.n);
    for (uint32_t i = 0; i < 3; i++) {
        graph_add(&g, i, i + 1, 1); /* four points: weak */
    }
    for (uint32_t i = LAYERS; i < LAYERS + 4; i++) {
        graph_add(&g, i, i + 1, 1); /* five: long enough */
    }
    for (uint32_t i = 2 * LAYERS; i < 2 * LAYERS + 3; i++) {
        graph_add(&g, i, i + 1, 3); /* four: good enough */
    }
    tm_edges_t edges = graph_edges(&g);
    tm_pipeline_t p = pipeline_of(false, false, true);
    tm_tracks_t tracks = {0};
    compare(&p, &points, &edges, g.logits, &tracks);
    assert_int_equal(tracks.n_tracks, 2);
    assert_int_equal(tracks.indices[0], LAYERS);
    assert_int_equal(tracks.indices[5], 2 * LAYERS);
    tm_tracks_clear(&tracks);
    graph_free(&g);
    free((void *)points.r);
}

/* Candidates bring their start values, with and without steps, whatever the number of threads. */
static void candidates_have_start_values(void **state) {
    (void)state;
    uint64_t random = 1;
    const truth_t truth[] = {{.pt = 1, .phi = 3.1, .eta = 0.3, .z0 = 20, .charge = -1},
                             {.pt = 5, .phi = 1.5, .eta = -0.5, .d0 = 1, .charge = 1}};
    tm_points_t points = points_of(truth, 2, 0.01, false, &random);
    graph_t g = graph_new(points.n);
    for (uint32_t i = 0; i < points.n; i++) {
        if (i % LAYERS + 1 < LAYERS) {
            graph_add(&g, i, i + 1, 5);
        }
    }
    tm_edges_t edges = graph_edges(&g);
    for (int k = 0; k < 4; k++) {
        tm_pipeline_t p = pipeline_of(k > 1, k > 1, k > 1);
        tm_tracks_t tracks = {0};
        run(&p, &tm_stages_cpu, 1 + k % 2, &points, &edges, g.logits, &tracks);
        assert_int_equal(tracks.n_tracks, 2);
        for (uint32_t t = 0; t < 2; t++) {
            assert_int_equal(tracks.starts.charge[t], truth[t].charge);
            assert_near((double)tracks.starts.pt[t] / truth[t].pt, 1, 0.02);
            assert_near((double)tracks.starts.phi[t], truth[t].phi, 0.002);
            assert_near((double)tracks.starts.eta[t], truth[t].eta, 0.005);
            assert_near((double)tracks.starts.d0[t], truth[t].d0, 0.1);
            assert_near((double)tracks.starts.z0[t], truth[t].z0, 0.5);
        }
        tm_tracks_clear(&tracks);
        p.tracks.fit.present = p.tracks.split.present = p.tracks.join.present = false;
        run(&p, &tm_stages_cpu, 1, &points, &edges, g.logits, &tracks);
        assert_null(tracks.starts.charge);
        tm_tracks_clear(&tracks);
    }
    graph_free(&g);
    free((void *)points.r);
}

/* Points on a helix give the helix back, both charges, all around; both implementations agree. */
static void the_fit_finds_the_helix(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    uint32_t row[LAYERS];
    for (uint32_t k = 0; k < LAYERS; k++) {
        row[k] = k;
    }
    tm_pipeline_t p = pipeline_of(false, false, false);
    for (int k = 0; k < 300; k++) {
        truth_t truth = random_truth(&random);
        tm_points_t points = points_of(&truth, 1, 0.02, k % 2 == 0, &random);
        tm_fit_point_t place[LAYERS];
        for (uint32_t i = 0; i < LAYERS; i++) {
            place[i] = tm_fit_point(&p, &points, i);
        }
        tm_fit_t fit;
        tm_fit_start_t start;
        tm_ref_fit_t plain, near;
        assert_true(tm_fit_helix(&p, place, row, LAYERS, INFINITY, &fit));
        assert_true(tm_fit_start(&p, place, row, LAYERS, &start));
        assert_true(tm_ref_fit(&p, &points, row, LAYERS, false, &plain));
        assert_true(tm_ref_fit(&p, &points, row, LAYERS, true, &near));
        assert_near(fit.chi2_circle / (LAYERS - 3), plain.chi2_circle, 1e-5);
        assert_near(fit.chi2_line / (LAYERS - 2), plain.chi2_line, 1e-5);
        assert_near(fit.curvature * 1e3, plain.curvature * 1e3, 1e-8);
        assert_near(fit.cot_theta, plain.cot_theta, 1e-9);
        assert_near(start.d0, near.d0, 1e-6);
        assert_near(start.z0, near.z0, 1e-6);
        assert_near(remainder(start.phi - near.phi, 2 * M_PI), 0, 1e-9);
        bool exact = k % 2 == 0;
        /* coordinates are of single precision */
        assert_near(start.pt / truth.pt, 1, exact ? 1e-4 * truth.pt : 0.1);
        assert_int_equal(start.charge, truth.charge);
        assert_near(remainder(start.phi - truth.phi, 2 * M_PI), 0, exact ? 1e-5 : 0.01);
        assert_near(start.eta, truth.eta, exact ? 1e-4 : 0.01);
        assert_near(start.d0, truth.d0, exact ? 2e-3 : 0.5);
        assert_near(start.z0, truth.z0, exact ? 2e-3 : 0.5);
        assert_true(!exact || fit.chi2_circle < 1e-3);
        free((void *)points.r);
    }
}

static void what_is_no_helix_has_no_fit(void **state) {
    (void)state;
    const float r[] = {30, 30, 30, 60}, phi[] = {0, 0, 0, 0}, z[] = {0, 1, 2, 3};
    const tm_points_t points = {.n = 4, .r = r, .phi = phi, .z = z};
    tm_pipeline_t p = pipeline_of(false, false, false);
    tm_fit_point_t place[4];
    const uint32_t row[] = {0, 1, 2, 3};
    for (uint32_t i = 0; i < 4; i++) {
        place[i] = tm_fit_point(&p, &points, i);
    }
    tm_fit_t fit;
    tm_ref_fit_t plain;
    assert_false(tm_fit_helix(&p, place, row, 2, INFINITY, &fit)); /* too few */
    assert_false(tm_fit_helix(&p, place, row, 3, INFINITY, &fit)); /* in one place */
    assert_false(tm_fit_helix(&p, place, row, 4, INFINITY, &fit)); /* of two places */
    assert_false(tm_ref_fit(&p, &points, row, 2, false, &plain));
    assert_false(tm_ref_fit(&p, &points, row, 3, false, &plain));
    assert_false(tm_ref_fit(&p, &points, row, 4, false, &plain));
}

/* A model and an event of the project: the same candidates from both, with all its steps. */
static void an_event_with_its_model(void **state) {
    (void)state;
    tm_error_t err = {0};
    tm_model_t *model = NULL;
    tm_event_file_t event = {0};
    if (tm_model_load("weights/standard.safetensors", &model, &err) != TM_OK ||
        tm_event_file_read("tests/data/event000000020.npz.xz", &event, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
    const tm_pipeline_t *p = tm_model_pipeline(model);
    assert_true(tm_post_wanted(p));
    tm_device_t *device = tm_sample_open(&tm_stages_cpu, p, 2);
    const tm_stages_t *s = device->stages;
    tm_points_t points;
    tm_edges_t edges, kept;
    const float *features, *embedding, *logits;
    assert_int_equal(s->features(device, &event.columns, event.n_points, &points, &features, &err),
                     TM_OK);
    assert_int_equal(s->embed(device, event.n_points, features, &embedding, &err), TM_OK);
    assert_int_equal(s->radius(device, &points, embedding, &edges, &err), TM_OK);
    assert_int_equal(s->filter(device, &points, features, &edges, &kept, &logits, &err), TM_OK);
    assert_int_equal(s->gnn(device, &points, features, &kept, &logits, &err), TM_OK);
    tm_tracks_t tracks = {0};
    compare(p, &points, &kept, logits, &tracks);
    assert_true(tracks.n_tracks > 5);
    tm_tracks_clear(&tracks);
    s->close(&device);
    tm_event_file_clear(&event);
    tm_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_fit_finds_the_helix),
        cmocka_unit_test(what_is_no_helix_has_no_fit),
        cmocka_unit_test(candidates_have_start_values),
        cmocka_unit_test(pieces_are_joined),
        cmocka_unit_test(wrong_links_are_broken),
        cmocka_unit_test(weak_short_ones_are_dropped),
        cmocka_unit_test(random_tracks),
        cmocka_unit_test(an_event_with_its_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
