// SPDX-License-Identifier: Apache-2.0
/* The track builders of the CPU against the rounds and labels of the reference, and by hand. */
#include <stdlib.h>
#include <string.h>

#include "tests/unit/nn/sample.h"

static tm_pipeline_t pipeline_of(tm_builder_t builder, float cut, uint32_t min_points) {
    tm_pipeline_t p = {0};
    p.tracks.builder = builder;
    p.tracks.cut = cut;
    p.tracks.min_points = min_points;
    return p;
}

static void compare(const tm_pipeline_t *p, const tm_points_t *points, const tm_edges_t *edges,
                    const float *logits, tm_tracks_t *out) {
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, p, 2);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, p, 1);
    tm_tracks_t want = {0};
    tm_error_t err = {0};
    uint64_t a = 0;
    uint64_t b = 0;
    assert_int_equal(tm_stages_cpu.tracks(cpu, points, edges, logits, out, &a, &err), TM_OK);
    assert_int_equal(tm_stages_ref.tracks(ref, points, edges, logits, &want, &b, &err), TM_OK);
    assert_int_equal(a, b);
    tm_sample_assert_same_tracks(out, &want);
    tm_tracks_clear(&want);
    tm_stages_cpu.close(&cpu);
    tm_stages_ref.close(&ref);
}

static void random_graphs(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    uint32_t n_tracks = 0;
    for (uint32_t n = 0; n < 400; n += 1 + n) {
        for (uint32_t variant = 0; variant < 8; variant++) {
            tm_points_t points = tm_sample_points(n, &random);
            tm_edges_t edges = tm_sample_edges(n, n * (1 + variant / 2), &random);
            float *logits = calloc(edges.n + 1, sizeof *logits);
            assert_non_null(logits);
            for (uint32_t k = 0; k < edges.n; k++) {
                logits[k] = (float)(3 * tm_sample_normal(&random));
                if (variant % 2) { /* many ties */
                    logits[k] = (float)(int)logits[k];
                }
            }
            for (int builder = TM_BUILDER_COMPONENTS; builder <= TM_BUILDER_BEST_EDGES; builder++) {
                tm_pipeline_t p = pipeline_of((tm_builder_t)builder, 0.15f * (float)(variant % 4),
                                              1 + variant % 4);
                tm_tracks_t tracks = {0};
                compare(&p, &points, &edges, logits, &tracks);
                n_tracks += tracks.n_tracks;
                tm_tracks_clear(&tracks);
            }
            free(logits);
            free((void *)edges.src);
            free((void *)edges.dst);
            free((void *)points.r);
        }
    }
    assert_true(n_tracks > 100);
}

/* A ladder where two tracks share a point, by hand: 0-1-2-3 and 4-2. */
static void best_edges_do_not_merge(void **state) {
    (void)state;
    const float rho[] = {1, 2, 3, 4, 1.5f};
    const tm_points_t points = {.n = 5, .rho = rho};
    const uint32_t src[] = {0, 1, 2, 4};
    const uint32_t dst[] = {1, 2, 3, 2};
    const tm_edges_t edges = {.n = 4, .src = src, .dst = dst};
    const float logits[] = {2, 2, 2, 1};
    tm_tracks_t tracks = {0};
    tm_pipeline_t p = pipeline_of(TM_BUILDER_BEST_EDGES, 0.5f, 2);
    compare(&p, &points, &edges, logits, &tracks);
    assert_int_equal(tracks.n_tracks, 1);
    assert_int_equal(tracks.offsets[1], 4);
    assert_true(tracks.scores[0] > 0.88f && tracks.scores[0] < 0.8809f);
    tm_tracks_clear(&tracks);
    p.tracks.builder = TM_BUILDER_COMPONENTS;
    compare(&p, &points, &edges, logits, &tracks);
    assert_int_equal(tracks.n_tracks, 1);
    const uint32_t order[] = {0, 4, 1, 2, 3}; /* by rho */
    assert_int_equal(tracks.offsets[1], 5);
    assert_memory_equal(tracks.indices, order, sizeof order);
    tm_tracks_clear(&tracks);
}

/* One candidate of thousands of points, in falling order of rho, joined from its far end. */
static void long_chain(void **state) {
    (void)state;
    enum { N = 5000 };
    static float rho[N], logits[N];
    static uint32_t src[N], dst[N];
    for (uint32_t i = 0; i < N; i++) {
        rho[i] = (float)(N - i);
        src[i] = i + 1;
        dst[i] = i;
        logits[i] = 1;
    }
    const tm_points_t points = {.n = N, .rho = rho};
    const tm_edges_t edges = {.n = N - 1, .src = src, .dst = dst};
    for (int builder = TM_BUILDER_COMPONENTS; builder <= TM_BUILDER_BEST_EDGES; builder++) {
        tm_pipeline_t p = pipeline_of((tm_builder_t)builder, 0.5f, 3);
        tm_tracks_t tracks = {0};
        compare(&p, &points, &edges, logits, &tracks);
        assert_int_equal(tracks.n_tracks, 1);
        assert_int_equal(tracks.offsets[1], N);
        assert_int_equal(tracks.indices[0], N - 1);
        tm_tracks_clear(&tracks);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_graphs),
        cmocka_unit_test(best_edges_do_not_merge),
        cmocka_unit_test(long_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
