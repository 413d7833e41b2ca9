// SPDX-License-Identifier: Apache-2.0
/* The radius search of the CPU against all pairs in double precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/nn/sample.h"

/* Single and double precision may differ about a pair this close to a limit. */
#define D2_SLACK 1e-6
#define CUT_SLACK 1e-4

static tm_pipeline_t pipeline_of(uint32_t dim, float r, uint32_t k, tm_direction_t direction) {
    tm_pipeline_t p = {0};
    p.embed.mlp.out = dim;
    p.radius.r = r;
    p.radius.k = k;
    p.radius.direction = direction;
    return p;
}

static double distance2(const float *e, uint32_t dim, uint32_t a, uint32_t b) {
    double sum = 0;
    for (uint32_t d = 0; d < dim; d++) {
        double u = (double)e[(size_t)a * dim + d] - (double)e[(size_t)b * dim + d];
        sum += u * u;
    }
    return sum;
}

/* Whether b is as far from a as a's k-th nearest, but for what fp32 rounds. */
static bool on_the_last_rank(const tm_pipeline_t *p, const float *e, uint32_t n, uint32_t a,
                             uint32_t b) {
    double mine = distance2(e, p->embed.mlp.out, a, b);
    double slack = D2_SLACK * (1 + mine);
    uint32_t nearer = 0, within = 0;
    for (uint32_t i = 0; i < n; i++) {
        double other = distance2(e, p->embed.mlp.out, a, i);
        nearer += other < mine - slack;
        within += other <= mine + slack;
    }
    return p->radius.k > 0 && nearer < p->radius.k && within > p->radius.k;
}

/* Whether the pair is so close to the radius, a cut or the last rank that rounding decides. */
static bool on_the_edge(const tm_pipeline_t *p, const tm_points_t *pt, const float *e, uint32_t a,
                        uint32_t b) {
    double r2 = (double)p->radius.r * (double)p->radius.r;
    if (fabs(distance2(e, p->embed.mlp.out, a, b) - r2) < D2_SLACK * (1 + r2)) {
        return true;
    }
    if (on_the_last_rank(p, e, pt->n, a, b)) {
        return true;
    }
    double dphi = fabs((double)pt->phi[b] - (double)pt->phi[a]);
    dphi = dphi > acos(-1) ? 2 * acos(-1) - dphi : dphi;
    double dr = (double)pt->r[b] - (double)pt->r[a];
    double z0 = (double)pt->z[a] -
                (double)pt->r[a] * ((double)pt->z[b] - (double)pt->z[a]) / fmax(dr, 1e-3);
    return fabs(dphi - (double)p->radius.dphi_max) < CUT_SLACK ||
           fabs(dr - (double)p->radius.z0_min_dr) < CUT_SLACK ||
           fabs(fabs(z0) - (double)p->radius.z0_max) < CUT_SLACK * (1 + fabs(z0));
}

/* Runs both; `exact`: no pair may be decided by rounding. Returns the number of edges. */
static uint32_t compare(const tm_pipeline_t *p, const tm_points_t *points, const float *e,
                        int threads, bool exact) {
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, p, threads);
    tm_device_t *ref = tm_sample_open(&tm_stages_ref, p, 1);
    tm_error_t err = {0};
    tm_edges_t a, b;
    assert_int_equal(cpu->stages->radius(cpu, points, e, &a, &err), TM_OK);
    assert_int_equal(ref->stages->radius(ref, points, e, &b, &err), TM_OK);
    uint32_t i = 0;
    uint32_t j = 0;
    while (i < a.n || j < b.n) {
        uint64_t x = i < a.n ? (uint64_t)a.src[i] << 32 | a.dst[i] : UINT64_MAX;
        uint64_t y = j < b.n ? (uint64_t)b.src[j] << 32 | b.dst[j] : UINT64_MAX;
        uint64_t least = x < y ? x : y;
        if (i > 0 && i < a.n) { /* sorted, none twice */
            assert_true(((uint64_t)a.src[i - 1] << 32 | a.dst[i - 1]) < x);
        }
        if (x != y &&
            (exact || !on_the_edge(p, points, e, (uint32_t)(least >> 32), (uint32_t)least))) {
            fail_msg("edge %u-%u is in %s alone (dim %u, %u points, k %u)", (uint32_t)(least >> 32),
                     (uint32_t)least, x < y ? "cpu" : "ref", p->embed.mlp.out, points->n,
                     p->radius.k);
        }
        i += x == least;
        j += y == least;
    }
    uint32_t count = a.n;
    tm_stages_cpu.close(&cpu);
    tm_stages_ref.close(&ref);
    return count;
}

static void finds_all_pairs(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    static const uint32_t sizes[] = {0, 1, 2, 3, 63, 64, 65, 128, 700};
    uint32_t total = 0;
    for (uint32_t dim = 1; dim <= TM_EMBED_DIM_MAX; dim++) {
        uint32_t n = sizes[(dim * 5) % 9];
        for (int variant = 0; variant < 2; variant++, n = 700 - n) {
            tm_points_t points = tm_sample_points(n, &random);
            float *e = tm_sample_cloud(n, dim, &random);
            tm_pipeline_t p = pipeline_of(dim, 0.55f * sqrtf((float)dim), 0,
                                          variant ? TM_DIRECTION_INDEX : TM_DIRECTION_OUTWARD);
            total += compare(&p, &points, e, 1 + (int)(dim % 3), false);
            free(e);
            free((void *)points.r);
        }
    }
    assert_true(total > 1000);
}

static void cuts_by_geometry(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(900, &random);
    float *e = tm_sample_cloud(900, 3, &random);
    tm_pipeline_t p = pipeline_of(3, 0.9f, 0, TM_DIRECTION_OUTWARD);
    uint32_t all = compare(&p, &points, e, 2, false);
    p.radius.dphi_max = 0.7f;
    uint32_t with_phi = compare(&p, &points, e, 2, false);
    p.radius.z0_max = 300;
    p.radius.z0_min_dr = 50;
    uint32_t with_both = compare(&p, &points, e, 2, false);
    p.radius.dphi_max = 0;
    p.radius.z0_min_dr = 0;
    uint32_t with_z0 = compare(&p, &points, e, 2, false);
    assert_true(all > with_phi && with_phi > with_both && all > with_z0 && with_both > 0);
    free(e);
    free((void *)points.r);
}

/* Points on a lattice: distances are exact, so many pairs are exactly at the radius and many are
 * exactly as near as each other. Both must be settled as documented. */
static void settles_ties(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (uint32_t dim = 1; dim <= 6; dim++) {
        enum { N = 500 };
        tm_points_t points = tm_sample_points(N, &random);
        float *rho = (float *)(uintptr_t)points.rho;
        float e[N * 6];
        for (uint32_t i = 0; i < N; i++) {
            rho[i] = (float)tm_sample_below(&random, 5);
            for (uint32_t d = 0; d < dim; d++) {
                e[i * dim + d] = (float)tm_sample_below(&random, 1 + 12 / dim);
            }
        }
        for (uint32_t k = 0; k < 40; k += 1 + k / 2) {
            tm_pipeline_t p =
                pipeline_of(dim, 2, k, k % 2 ? TM_DIRECTION_INDEX : TM_DIRECTION_OUTWARD);
            uint32_t count = compare(&p, &points, e, 2, true);
            assert_true(k == 1 ? count < N : count > 0);
        }
        free((void *)points.r);
    }
}

static void keeps_the_nearest(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(600, &random);
    float *e = tm_sample_cloud(600, 8, &random);
    for (uint32_t k = 2; k < 300; k *= 3) {
        tm_pipeline_t p = pipeline_of(8, 4, k, TM_DIRECTION_OUTWARD);
        assert_true(compare(&p, &points, e, 2, false) > 0);
    }
    free(e);
    free((void *)points.r);
}

/* One clump: every point is every other's neighbour, and the degree is in the thousands. */
static void takes_equal_points(void **state) {
    (void)state;
    enum { N = 1500 };
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(N, &random);
    static float e[N * 8];
    for (size_t i = 0; i < N * 8; i++) {
        e[i] = 0.25f;
    }
    tm_pipeline_t p = pipeline_of(8, 0.1f, 0, TM_DIRECTION_OUTWARD);
    assert_int_equal(compare(&p, &points, e, 2, true), N * (N - 1) / 2);
    p.radius.k = 4; /* ties: everyone keeps rows 0 to 3 */
    p.radius.direction = TM_DIRECTION_INDEX;
    assert_int_equal(compare(&p, &points, e, 2, true), 0 + 1 + 2 + 3 + (N - 4) * 4);
    free((void *)points.r);
}

/* More points than one task or piece takes, the same bytes for any number of threads. */
static void does_not_depend_on_threads(void **state) {
    (void)state;
    enum { N = 30000 };
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(N, &random);
    float *e = tm_sample_cloud(N, 3, &random);
    tm_pipeline_t p = pipeline_of(3, 0.2f, 0, TM_DIRECTION_OUTWARD);
    tm_device_t *one = tm_sample_open(&tm_stages_cpu, &p, 1);
    tm_error_t err = {0};
    tm_edges_t want, got;
    assert_int_equal(tm_stages_cpu.radius(one, &points, e, &want, &err), TM_OK);
    assert_true(want.n > 10 * N);
    for (int threads = 2; threads <= 4; threads++) {
        tm_device_t *many = tm_sample_open(&tm_stages_cpu, &p, threads);
        for (int run = 0; run < 2; run++) {
            assert_int_equal(tm_stages_cpu.radius(many, &points, e, &got, &err), TM_OK);
            tm_sample_assert_same_edges(&got, &want);
        }
        tm_stages_cpu.close(&many);
    }
    tm_stages_cpu.close(&one);
    free(e);
    free((void *)points.r);
}

/* Twenty thousand equal points would be 200 million edges and more: refused or found, but at once
 * stopped when the caller wants no more. */
static void stops_when_cancelled(void **state) {
    (void)state;
    enum { N = 20000 };
    uint64_t random = tm_sample_seed();
    tm_points_t points = tm_sample_points(N, &random);
    float *e = calloc((size_t)N * 4, sizeof *e);
    assert_non_null(e);
    tm_pipeline_t p = pipeline_of(4, 1, 0, TM_DIRECTION_INDEX);
    tm_device_t *cpu = tm_sample_open(&tm_stages_cpu, &p, 2);
    const volatile int yes = 1;
    cpu->cancelled = &yes;
    tm_error_t err = {0};
    tm_edges_t edges;
    assert_int_equal(tm_stages_cpu.radius(cpu, &points, e, &edges, &err), TM_E_CANCELLED);
    tm_stages_cpu.close(&cpu);
    free(e);
    free((void *)points.r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_all_pairs),      cmocka_unit_test(cuts_by_geometry),
        cmocka_unit_test(settles_ties),         cmocka_unit_test(keeps_the_nearest),
        cmocka_unit_test(takes_equal_points),   cmocka_unit_test(does_not_depend_on_threads),
        cmocka_unit_test(stops_when_cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
