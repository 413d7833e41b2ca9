// SPDX-License-Identifier: Apache-2.0
// Found tracks in files: three formats out and back, and files that do not fit their event.
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "client/event_file.h"
#include "tests/unit/cli/scratch.h"

static tm_event_file_t event;

static int start(void **state) {
    tm_error_t err;
    if (scratch_start(state) != 0) {
        return -1;
    }
    return (int)tm_event_file_read("tests/data/formats/trackml/event000000007", &event, &err);
}

static int stop(void **state) {
    tm_event_file_clear(&event);
    return scratch_stop(state);
}

/* Two tracks: rows 0 2 1 and 3 5. */
static void make(tm_tracks_t *tracks) {
    static const uint32_t offsets[] = {0, 3, 5}, indices[] = {0, 2, 1, 3, 5};
    tm_error_t err;
    assert_int_equal(tm_tracks_alloc(tracks, 7, 2, 5, &err), TM_OK);
    memcpy(tracks->offsets, offsets, sizeof offsets);
    memcpy(tracks->indices, indices, sizeof indices);
}

static void text_is(const char *path, const char *wanted) {
    size_t n;
    char *text = scratch_read(path, &n);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_written(void **state) {
    (void)state;
    tm_tracks_t tracks;
    tm_error_t err = {0};
    make(&tracks);
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path("t.csv"));
    assert_int_equal(tm_tracks_write_csv(path, &event, &tracks, &err), TM_OK);
    text_is(path, "hit_id,track_id\n10,0\n7,0\n4,0\n2,1\n9,1\n");
    assert_int_equal(tm_tracks_write_trackml(path, &event, &tracks, &err), TM_OK);
    text_is(path, "event_id,hit_id,track_id\n7,10,0\n7,4,0\n7,7,0\n7,2,1\n7,3,-1\n7,9,1\n7,1,-1\n");
    assert_int_equal(tm_tracks_write_acts(path, &event, &tracks, &err), TM_OK);
    text_is(path, "trackId,measurementId,x,y,z\n0,10,32.5,1.25,-100\n0,7,115.25,4.125,-310\n"
                  "0,4,71,2.5,-201.5\n1,2,-30,-5.5,50\n1,9,-113,-20.0625,190\n");
    struct stat info;
    mode_t mask = umask(0);
    umask(mask);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0666 & ~mask);
    tm_tracks_clear(&tracks);
    /* nothing but the file itself is left behind */
    scratch_empty();
}

static void test_round_trip(void **state) {
    (void)state;
    tm_status_t (*const write[])(const char *, const tm_event_file_t *, const tm_tracks_t *,
                                 tm_error_t *) = {tm_tracks_write_csv, tm_tracks_write_trackml,
                                                  tm_tracks_write_acts};
    static const uint32_t ordered[] = {0, 1, 2, 3, 5};
    for (int i = 0; i < 3; i++) {
        tm_tracks_t tracks, back;
        tm_error_t err = {0};
        make(&tracks);
        const char *path = scratch_path("t.csv");
        assert_int_equal(write[i](path, &event, &tracks, &err), TM_OK);
        assert_int_equal(tm_tracks_read_csv(path, &event, &back, &err), TM_OK);
        assert_int_equal(back.n_points, 7);
        assert_int_equal(back.n_tracks, 2);
        assert_memory_equal(back.offsets, tracks.offsets, 3 * sizeof *tracks.offsets);
        /* TrackML submissions are in the order of the hits */
        assert_memory_equal(back.indices, i == 1 ? ordered : tracks.indices, sizeof ordered);
        tm_tracks_clear(&tracks);
        tm_tracks_clear(&back);
    }
}

static void test_order(void **state) {
    (void)state;
    tm_tracks_t back;
    tm_error_t err = {0};
    /* numbers with gaps, rows mixed; tracks come out by their least point; hit 1 in two tracks */
    const char *path = scratch_text(
        "t.csv",
        "track_id,hit_id,extra\n900,1,x\n900,3,x\n7,9,x\n-1,2,x\n900,4,x\n7,1,x\n8,10,x\n");
    assert_int_equal(tm_tracks_read_csv(path, &event, &back, &err), TM_OK);
    static const uint32_t offsets[] = {0, 1, 4, 6}, indices[] = {0, 6, 4, 1, 5, 6};
    assert_int_equal(back.n_tracks, 3);
    assert_memory_equal(back.offsets, offsets, sizeof offsets);
    assert_memory_equal(back.indices, indices, sizeof indices);
    tm_tracks_clear(&back);
    assert_int_equal(
        tm_tracks_read_csv(scratch_text("t.csv", "hit_id,track_id\n"), &event, &back, &err), TM_OK);
    assert_int_equal(back.n_tracks, 0);
    tm_tracks_clear(&back);
}

static void bad(const char *text, const char *why) {
    tm_tracks_t back;
    tm_error_t err = {0};
    assert_int_equal(tm_tracks_read_csv(scratch_text("bad.csv", text), &event, &back, &err),
                     TM_E_FILE);
    assert_null(back.offsets);
    if (!strstr(err.text, why)) {
        fail_msg("'%s' lacks '%s'", err.text, why);
    }
}

static void test_bad(void **state) {
    (void)state;
    bad("hit_id,track_id\n10,0\n55,0\n", "line 3: hit 55 is not in event event000000007");
    bad("hit_id,track_id\n10,0\n10,0\n", "line 3: hit 10 is twice in track 0");
    bad("hit_id,track\n10,0\n", "column track_id is missing");
    bad("hit_id,track_id\n10,x\n", "line 2, column track_id");
    bad("event_id,hit_id,track_id\n8,10,1\n", "no row of event_id 7");
    bad("", "line 1");
    tm_tracks_t tracks;
    tm_error_t err = {0};
    make(&tracks);
    assert_int_equal(tm_tracks_write_csv(scratch_path("no/such/folder.csv"), &event, &tracks, &err),
                     TM_E_FILE);
    assert_non_null(strstr(err.text, "No such file"));
    tm_tracks_clear(&tracks);
}

static void test_many_events_in_a_submission(void **state) {
    (void)state;
    tm_tracks_t back;
    tm_error_t err = {0};
    const char *path =
        scratch_text("t.csv", "event_id,hit_id,track_id\n6,99,1\n7,10,1\n7,4,1\n8,77,1\n");
    assert_int_equal(tm_tracks_read_csv(path, &event, &back, &err), TM_OK);
    assert_true(back.n_tracks == 1 && back.offsets[1] == 2);
    tm_tracks_clear(&back);
}

/* ACTS events may have several space points of one measurement: refused rather than guessed. */
static void test_ambiguous(void **state) {
    (void)state;
    tm_event_file_t strips;
    tm_tracks_t back;
    tm_error_t err = {0};
    assert_int_equal(tm_event_file_read("tests/data/formats/acts/event000000003", &strips, &err),
                     TM_OK);
    assert_int_equal(tm_tracks_read_csv(scratch_text("t.csv", "trackId,measurementId\n0,3\n"),
                                        &strips, &back, &err),
                     TM_E_FILE);
    assert_non_null(strstr(err.text, "several space points"));
    tm_event_file_clear(&strips);
}

/* A row for each candidate; one without start values leaves them out. */
static void test_candidates(void **state) {
    (void)state;
    tm_tracks_t tracks;
    tm_error_t err = {0};
    make(&tracks);
    tracks.scores[0] = 0.5f;
    const char *path = scratch_path("candidates.csv");
    char got[256] = "";
    for (int with = 0; with < 2; with++) {
        if (with) {
            assert_int_equal(tm_tracks_add_starts(&tracks, &err), TM_OK);
            tracks.starts.pt[1] = 1.5f;
            tracks.starts.z0[1] = -30;
            tracks.starts.charge[1] = -1;
        }
        assert_int_equal(tm_tracks_write_candidates(path, &tracks, &err), TM_OK);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        got[fread(got, 1, sizeof got - 1, file)] = '\0';
        fclose(file);
        char want[256];
        snprintf(want, sizeof want,
                 "track_id,points,score,pt,charge,phi,eta,d0,z0\n0,%u,0.5,,,,,,\n1,%u,%g,%s\n",
                 tracks.offsets[1], tracks.offsets[2] - tracks.offsets[1], (double)tracks.scores[1],
                 with ? "1.5,-1,0,0,0,-30" : ",,,,,");
        assert_string_equal(got, want);
    }
    tm_tracks_clear(&tracks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_many_events_in_a_submission),
        cmocka_unit_test(test_ambiguous),
        cmocka_unit_test(test_candidates),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
