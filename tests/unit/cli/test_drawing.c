// SPDX-License-Identifier: Apache-2.0
// The event display: what it counts, that it stays small, and that odd events do not break it.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/cli/drawing.h"
#include "tests/unit/cli/scratch.h"

#define SIZE_MAX_BYTES (5u << 20)

static char *draw(const tm_event_file_t *event, const tm_tracks_t *tracks, size_t *n) {
    tm_drawing_options_t options = {.selection = TM_SCORE_DEFAULTS};
    tm_error_t err = {0};
    const char *path = scratch_path("drawing.svg");
    if (tm_drawing_write(path, event, tracks, &options, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
    char *svg = scratch_read(path, n);
    assert_true(*n < SIZE_MAX_BYTES);
    assert_memory_equal(svg, "<svg ", 5);
    assert_string_equal(svg + *n - 7, "</svg>\n");
    assert_null(strstr(svg, "nan"));
    assert_null(strstr(svg, "inf"));
    return svg;
}

static void test_truth(void **state) {
    (void)state;
    tm_event_file_t event;
    tm_tracks_t tracks;
    tm_error_t err = {0};
    size_t n;
    assert_int_equal(tm_event_file_read("tests/data/formats/trackml/event000000007", &event, &err),
                     TM_OK);
    event.particles[1].px = -2; /* both are wanted now */
    char *svg = draw(&event, NULL, &n);
    assert_non_null(strstr(svg, "2 particles with pT &gt; 0.9 GeV"));
    assert_non_null(strstr(svg, "7 space points"));
    free(svg);
    /* one found; the other's points make no track; one fake */
    assert_int_equal(
        tm_tracks_read_csv(
            scratch_text("t.csv", "hit_id,track_id\n10,0\n4,0\n7,0\n1,1\n2,1\n3,2\n9,2\n"), &event,
            &tracks, &err),
        TM_OK);
    tm_drawing_options_t options = {.selection = TM_SCORE_DEFAULTS};
    options.selection.track_hits_min = 2;
    options.selection.hits_min = 4; /* nothing wanted: every matched track is of another particle */
    assert_int_equal(tm_drawing_write(scratch_path("d.svg"), &event, &tracks, &options, &err),
                     TM_OK);
    svg = scratch_read(scratch_path("d.svg"), &n);
    assert_non_null(strstr(svg, "0 particles found"));
    assert_non_null(strstr(svg, "2 tracks of other particles"));
    assert_non_null(strstr(svg, "1 fake tracks"));
    assert_non_null(strstr(svg, "0 missed"));
    free(svg);
    svg = draw(&event, &tracks, &n);
    assert_non_null(strstr(svg, "1 particles found"));
    assert_non_null(strstr(svg, "1 missed"));
    assert_non_null(strstr(svg, "stroke-dasharray"));
    free(svg);
    tm_tracks_clear(&tracks);
    tm_event_file_clear(&event);
    scratch_empty();
}

/* An event without truth of n points on helix-like rays, in tracks of ten. */
static void big(uint32_t n) {
    float *x = malloc((n + 1) * sizeof *x), *y = malloc((n + 1) * sizeof *y);
    float *z = malloc((n + 1) * sizeof *z);
    tm_event_file_t event = {.name = "big <&\">", .n_points = n};
    tm_tracks_t tracks;
    tm_error_t err = {0};
    uint64_t seed = 5;
    assert_true(x && y && z);
    assert_int_equal(tm_tracks_alloc(&tracks, n, n / 10, n / 10 * 10, &err), TM_OK);
    for (uint32_t i = 0; i < n; i++) {
        double r = 30 + 100.0 * (i % 10), phi = i / 10 * 0.7 + r * 1e-4;
        x[i] = (float)(r * cos(phi));
        y[i] = (float)(r * sin(phi));
        z[i] = (float)(r * ((double)(scratch_random(&seed) % 600) - 300) / 100);
    }
    for (uint32_t i = 0; i < n / 10 * 10; i++) {
        tracks.indices[i] = i;
        tracks.offsets[i / 10 + 1] = i + 1;
    }
    assert_int_equal(tm_columns_add(&event.columns, "x", TM_F32, n, x, &err), TM_OK);
    assert_int_equal(tm_columns_add(&event.columns, "y", TM_F32, n, y, &err), TM_OK);
    assert_int_equal(tm_columns_add(&event.columns, "z", TM_F32, n, z, &err), TM_OK);
    size_t bytes;
    char *svg = draw(&event, &tracks, &bytes);
    assert_non_null(strstr(svg, "big &lt;&amp;&quot;&gt;"));
    free(svg);
    free(draw(&event, NULL, &bytes));
    tm_tracks_clear(&tracks);
    free(x);
    free(y);
    free(z);
}

static void test_sizes(void **state) {
    (void)state;
    big(0);
    big(1);
    big(2);
    big(3000);
    big(150000);
}

static void test_cannot_write(void **state) {
    (void)state;
    tm_event_file_t event;
    tm_error_t err = {0};
    tm_drawing_options_t options = {.selection = TM_SCORE_DEFAULTS};
    assert_int_equal(tm_event_file_read("tests/data/formats/trackml/event000000007", &event, &err),
                     TM_OK);
    assert_int_equal(
        tm_drawing_write(scratch_path("no/folder/d.svg"), &event, NULL, &options, &err), TM_E_FILE);
    assert_non_null(strstr(err.text, "d.svg: cannot be written"));
    tm_event_file_clear(&event);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truth),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_cannot_write),
    };
    return cmocka_run_group_tests(tests, scratch_start, scratch_stop);
}
