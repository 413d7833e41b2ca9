// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/nn/sample.h"

static double exact(tm_act_t act, double x) {
    switch (act) {
    case TM_ACT_RELU:
        return x > 0 ? x : 0;
    case TM_ACT_SILU:
        return x / (1 + exp(-x));
    case TM_ACT_TANH:
        return tanh(x);
    case TM_ACT_SIGMOID:
        return 1 / (1 + exp(-x));
    case TM_ACT_GELU:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case TM_ACT_NONE:
        break;
    }
    return x;
}

/* Every activation, from very small to beyond saturation, to 1e-6 of its value. */
static void activations_are_accurate(void **state) {
    (void)state;
    enum { N = 20011 };
    static float x[N], y[N];
    for (int act = TM_ACT_NONE; act <= TM_ACT_GELU; act++) {
        for (int i = 0; i < N; i++) {
            double u = (i - N / 2) / (double)(N / 2);
            x[i] = (float)(i % 2 ? 80 * u : 1e-3 * u + 2 * u * u * u);
        }
        memcpy(y, x, sizeof y);
        tm_cpu_kernels()->epilogue(y, 1, N, NULL, NULL, NULL, 0, (tm_act_t)act);
        for (int i = 0; i < N; i++) {
            double want = exact((tm_act_t)act, (double)x[i]);
            /* exact gelu cancels in its lower tail: there it is accurate to 1e-6 of x */
            double scale = act == TM_ACT_GELU ? fabs((double)x[i]) : fabs(want);
            if (!(fabs((double)y[i] - want) <= 1e-6 * scale + 1e-36)) {
                fail_msg("activation %d of %g: %g, not %g", act, (double)x[i], (double)y[i], want);
            }
        }
    }
}

static void activations_saturate(void **state) {
    (void)state;
    const float big[4] = {1e4f, -1e4f, 3e38f, -3e38f};
    for (int act = TM_ACT_NONE; act <= TM_ACT_GELU; act++) {
        float y[4];
        memcpy(y, big, sizeof y);
        tm_cpu_kernels()->epilogue(y, 4, 1, NULL, NULL, NULL, 0, (tm_act_t)act);
        for (int i = 0; i < 4; i++) {
            double want = exact((tm_act_t)act, (double)big[i]);
            assert_true(fabs((double)y[i] - want) <= 1e-6 * fabs(want) + 1e-32);
        }
    }
}

/* Bias, norm and activation in one pass give what they give one after the other. */
static void epilogue_fuses(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (size_t width = 1; width < 70; width += 1 + width / 4) {
        enum { ROWS = 3, WIDTH = 80 };
        float block[ROWS * WIDTH], bias[WIDTH], gain[WIDTH], shift[WIDTH], want[ROWS * WIDTH];
        for (size_t k = 0; k < width; k++) {
            bias[k] = (float)(0.2 * tm_sample_normal(&random));
            gain[k] = (float)tm_sample_normal(&random);
            shift[k] = (float)tm_sample_normal(&random);
        }
        for (size_t i = 0; i < ROWS; i++) {
            double mean = 0;
            double variance = 0;
            for (size_t k = 0; k < width; k++) {
                /* apart from each other: a row of equal values has no accurate norm */
                block[i * width + k] = (float)(3.0 * (double)k + 0.2 * tm_sample_normal(&random));
                mean += ((double)block[i * width + k] + (double)bias[k]) / (double)width;
            }
            for (size_t k = 0; k < width; k++) {
                double d = (double)block[i * width + k] + (double)bias[k] - mean;
                variance += d * d / (double)width;
            }
            for (size_t k = 0; k < width; k++) {
                double d = (double)block[i * width + k] + (double)bias[k] - mean;
                want[i * width + k] = (float)exact(
                    TM_ACT_SILU, d / sqrt(variance + 1e-5) * (double)gain[k] + (double)shift[k]);
            }
        }
        tm_cpu_kernels()->epilogue(block, ROWS, width, bias, gain, shift, 1e-5f, TM_ACT_SILU);
        tm_sample_assert_close(block, want, ROWS * width, 1e-5, "epilogue");
    }
}

static void tile_hits_are_exact(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (size_t dims = 4; dims <= TM_EMBED_DIM_MAX; dims += 4) {
        float query[TM_EMBED_DIM_MAX], tile[TM_EMBED_DIM_MAX * TM_TILE];
        float key[TM_TILE], d2[TM_TILE];
        for (size_t d = 0; d < dims; d++) {
            query[d] = (float)tm_sample_below(&random, 4);
            for (size_t j = 0; j < TM_TILE; j++) {
                tile[d * TM_TILE + j] = (float)tm_sample_below(&random, 4);
                key[j] = (float)j;
            }
        }
        float r2 = (float)(dims * 2);
        uint64_t hits = tm_cpu_kernels()->tile_hits(query, tile, dims, r2, key, 5, d2);
        for (size_t j = 0; j < TM_TILE; j++) {
            float want = 0; /* small whole numbers: exact in float */
            for (size_t d = 0; d < dims; d++) {
                float u = query[d] - tile[d * TM_TILE + j];
                want += u * u;
            }
            assert_true(d2[j] == want);
            assert_int_equal(hits >> j & 1, want <= r2 && j >= 5);
        }
    }
}

/* Boxes around points of a lattice: what is reached can be told exactly. */
static void boxes_reached_are_exact(void **state) {
    (void)state;
    uint64_t random = tm_sample_seed();
    for (uint32_t n = 0; n < 40; n += 1 + n / 3) {
        enum { BOXES = 48, DIMS = 8 };
        static float boxes[BOXES * 2 * DIMS], low[BOXES][DIMS], high[BOXES][DIMS];
        float key[BOXES], query[DIMS];
        uint32_t names[BOXES], out[BOXES];
        for (uint32_t i = 0; i < BOXES; i++) {
            key[i] = i < n ? (float)(i % 5) : -INFINITY;
            names[i] = 1000 + 3 * i;
            for (uint32_t d = 0; d < DIMS; d++) {
                low[i][d] = (float)tm_sample_below(&random, 4);
                high[i][d] = low[i][d] + (float)tm_sample_below(&random, 2);
                float *group = boxes + (i - i % TM_BOX_GROUP) * 2 * DIMS;
                group[2 * d * TM_BOX_GROUP + i % TM_BOX_GROUP] = low[i][d];
                group[(2 * d + 1) * TM_BOX_GROUP + i % TM_BOX_GROUP] = high[i][d];
                query[d] = (float)tm_sample_below(&random, 4);
            }
        }
        uint32_t found =
            tm_cpu_kernels()->boxes_reached(query, boxes, n, DIMS, 8, key, 2, names, out);
        uint32_t at = 0;
        for (uint32_t i = 0; i < n; i++) {
            float sum = 0;
            for (uint32_t d = 0; d < DIMS; d++) {
                float gap = fmaxf(fmaxf(low[i][d] - query[d], query[d] - high[i][d]), 0);
                sum += gap * gap;
            }
            if (sum <= 8 && key[i] >= 2) {
                assert_true(at < found);
                assert_int_equal(out[at++], names[i]);
            }
        }
        assert_int_equal(at, found);
    }
}

static void normalize_finds_bad_rows(void **state) {
    (void)state;
    float block[] = {3, 4, 0, 0, 1, NAN, INFINITY, 1};
    assert_int_equal(tm_cpu_kernels()->normalize(block, 4, 2, 1), 2);
    assert_true(fabsf(block[0] - 0.6f) < 1e-6f && fabsf(block[1] - 0.8f) < 1e-6f);
    assert_true(block[2] == 0 && block[3] == 0);
    float good[] = {3, 4};
    assert_int_equal(tm_cpu_kernels()->normalize(good, 1, 2, 0), 1);
    assert_true(good[0] == 3 && good[1] == 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_are_accurate), cmocka_unit_test(activations_saturate),
        cmocka_unit_test(epilogue_fuses),           cmocka_unit_test(tile_hits_are_exact),
        cmocka_unit_test(boxes_reached_are_exact),  cmocka_unit_test(normalize_finds_bad_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
