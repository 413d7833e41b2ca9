// SPDX-License-Identifier: Apache-2.0
// Events of every format, with their truth; damaged and contradictory files.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "client/event_file.h"
#include "tests/unit/cli/scratch.h"
#include "wire/limits.h"

#define FORMATS "tests/data/formats/"

static void read_good(const char *path, tm_event_file_t *event) {
    tm_error_t err = {0};
    if (tm_event_file_read(path, event, &err) != TM_OK) {
        fail_msg("%s", err.text);
    }
    uint32_t n;
    assert_int_equal(tm_event_check(&event->columns, &n, &err), TM_OK);
    assert_int_equal(n, event->n_points);
}

static void read_bad(const char *path, const char *why) {
    tm_event_file_t event;
    tm_error_t err = {0};
    tm_status_t status = tm_event_file_read(path, &event, &err);
    assert_int_equal(status, TM_E_FILE);
    if (!strstr(err.text, why)) {
        fail_msg("'%s' lacks '%s'", err.text, why);
    }
    assert_null(event.memory); /* nothing to free */
}

static double get(const tm_event_file_t *event, const char *column, uint32_t row) {
    const tm_column_t *c = tm_columns_find(&event->columns, column);
    assert_non_null(c);
    return tm_column_get(c, row);
}

static tm_type_t type_of(const tm_event_file_t *event, const char *column) {
    const tm_column_t *c = tm_columns_find(&event->columns, column);
    assert_non_null(c);
    return c->type;
}

static uint64_t module_of(const tm_event_file_t *event, uint32_t row) {
    const tm_column_t *c = tm_columns_find(&event->columns, "module_id");
    assert_non_null(c);
    assert_int_equal(c->type, TM_U64);
    return ((const uint64_t *)c->data)[row];
}

/* The particles of a point, by id, as "a b". */
static void links_are(const tm_event_file_t *event, uint32_t point, const char *wanted) {
    char text[256] = "";
    for (uint32_t l = event->link_offset[point]; l < event->link_offset[point + 1]; l++) {
        assert_true(event->link_particle[l] < event->n_particles);
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%llu", *text ? " " : "",
                 (unsigned long long)event->particles[event->link_particle[l]].id);
    }
    assert_string_equal(text, wanted);
}

static void check_trackml(const char *path) {
    tm_event_file_t e;
    read_good(path, &e);
    assert_string_equal(e.name, "event000000007");
    assert_int_equal(e.n_points, 7);
    assert_int_equal(e.hit_id[0], 10);
    assert_int_equal(e.hit_id[6], 1);
    assert_int_equal(type_of(&e, "x"), TM_F32);
    assert_true(get(&e, "x", 6) == 50 && get(&e, "y", 6) == -60 && get(&e, "z", 6) == 1500.125);
    assert_true(module_of(&e, 1) == ((uint64_t)8 << 56 | (uint64_t)4 << 36 | 17 << 8));
    assert_int_equal(type_of(&e, "n_cells"), TM_U8);
    assert_true(get(&e, "n_cells", 0) == 3 && get(&e, "size_loc0", 0) == 2 &&
                get(&e, "size_loc1", 0) == 2 && get(&e, "charge", 0) == 0.875);
    assert_true(get(&e, "n_cells", 1) == 2 && get(&e, "size_loc0", 1) == 4 &&
                get(&e, "size_loc1", 1) == 1 && get(&e, "charge", 1) == 0.75);
    assert_true(get(&e, "n_cells", 2) == 0 && get(&e, "size_loc0", 2) == 0); /* no cells */
    assert_int_equal(type_of(&e, "charge"), TM_F16);
    assert_true(e.has_truth);
    assert_int_equal(e.n_particles, 3);
    links_are(&e, 0, "900719925474099300");
    links_are(&e, 3, "4503668346847232");
    links_are(&e, 6, "");
    assert_int_equal(e.particles[0].n_hits, 3);
    assert_int_equal(e.particles[1].n_hits, 3);
    assert_int_equal(e.particles[2].n_hits, 0);
    assert_int_equal(e.particles[1].pdg, -11);
    assert_true(e.particles[1].charge == -1 && e.particles[1].vx == 0.5f &&
                e.particles[0].pz == -4.5f && e.particles[0].generated);
    assert_true(e.hit_weight[0] == 0.25f && e.hit_weight[3] == 0.25f && e.hit_weight[6] == 0);
    tm_event_file_clear(&e);
}

static void test_trackml(void **state) {
    (void)state;
    check_trackml(FORMATS "trackml/event000000007-hits.csv");
    check_trackml(FORMATS "trackml/event000000007"); /* the common prefix */
}

static void test_trackml_gzip(void **state) {
    (void)state;
    static const char *const parts[] = {"hits", "cells", "truth", "particles"};
    for (int i = 0; i < 4; i++) {
        char path[256], name[64];
        size_t n;
        snprintf(path, sizeof path, FORMATS "trackml/event000000007-%s.csv", parts[i]);
        snprintf(name, sizeof name, "event000000007-%s.csv.gz", parts[i]);
        char *text = scratch_read(path, &n);
        scratch_gzip(name, text, n);
        free(text);
    }
    check_trackml(scratch_path("event000000007-hits.csv.gz"));
    check_trackml(scratch_path("event000000007"));
    scratch_empty();
}

static void test_acts(void **state) {
    (void)state;
    tm_event_file_t e;
    read_good(FORMATS "acts/event000000003-spacepoint.csv", &e);
    assert_int_equal(e.n_points, 5);
    assert_true(e.hit_id[2] == 2 && e.hit_id[4] == 3);
    assert_true(get(&e, "x", 4) == 501 && get(&e, "z", 1) == 22);
    assert_true(module_of(&e, 0) == 576460889742377216u && module_of(&e, 4) == 936748722493063424u);
    assert_true(get(&e, "n_cells", 0) == 2 && get(&e, "size_loc0", 0) == 2);
    assert_true(fabs(get(&e, "charge", 0) - 0.5) < 0.5 / 2048);
    /* both space points of measurement 3 have its cluster */
    assert_true(get(&e, "n_cells", 3) == 1 && get(&e, "n_cells", 4) == 1);
    assert_true(get(&e, "size_loc1", 2) == 3);
    assert_int_equal(e.n_particles, 3);
    links_are(&e, 0, "4503599744811008");
    links_are(&e, 1, "4503599744811008 4503599744876546"); /* a merged measurement */
    links_are(&e, 3, "4503599744811008");                  /* once, though both strips saw it */
    links_are(&e, 4, "4503599744811008 9010497806401536"); /* a ghost of two strips */
    assert_int_equal(e.particles[0].n_hits, 5);
    assert_true(e.particles[0].generated && !e.particles[1].generated && e.particles[2].generated);
    assert_null(e.hit_weight);
    tm_event_file_clear(&e);
}

static void test_acts_old(void **state) {
    (void)state;
    tm_event_file_t e;
    read_good(FORMATS "acts-old/event000000004", &e);
    assert_int_equal(e.n_points, 3);
    assert_int_equal(e.hit_id[0], 11);
    assert_true(get(&e, "x", 2) == -40);
    assert_true(module_of(&e, 2) == 576460889742377984u); /* from the cells */
    assert_int_equal(type_of(&e, "charge"), TM_F32);      /* 2e-5 is no normal f16 */
    assert_int_equal(e.n_particles, 2);                   /* one that the particle table lacks */
    links_are(&e, 0, "4503599744811008");
    links_are(&e, 2, "4503599744876545");
    assert_true(e.particles[0].generated && e.particles[0].n_hits == 2);
    assert_true(!e.particles[1].generated && e.particles[1].px == 0 && e.particles[1].n_hits == 1);
    tm_event_file_clear(&e);
}

/* ---- npz ---- */

static const int32_t x_um[] = {32500, -1, 1500125}, y_um[] = {1250, 2, -3},
                     z_um[] = {-100000, 7, 8};
static const uint8_t volume[] = {8, 9, 17}, layer[] = {2, 4, 6}, cells[] = {1, 2, 255};
static const uint16_t module[] = {1, 2, 1116}, charge_e3[] = {500, 157, 65535};
static const int16_t particle[] = {1, -1, 0};
static const int32_t extra_hit[] = {2, 2}, extra_particle[] = {1, 1};
static const uint8_t p_process[] = {0, 7};
static const int8_t p_q[] = {-1, 1};
static const float p_px[] = {1, 0.5f}, p_py[] = {0, 2}, p_pz[] = {3, -4}, p_vx[] = {0, 60};
static const int32_t p_pdg[] = {13, -11};

#define BASIC \
    NPY("x_um", "<i4", x_um), NPY("y_um", "<i4", y_um), NPY("z_um", "<i4", z_um), \
        NPY("volume", "|u1", volume), NPY("layer", "|u1", layer), NPY("module", "<u2", module), \
        NPY("n_cells", "|u1", cells), NPY("size_loc0", "|u1", cells), \
        NPY("charge_e3", "<u2", charge_e3)
#define TRUTH \
    NPY("particle", "<i2", particle), NPY("extra_hit", "<i4", extra_hit), \
        NPY("extra_particle", "<i4", extra_particle), NPY("p_process", "|u1", p_process), \
        NPY("p_q", "|i1", p_q), NPY("p_px", "<f4", p_px), NPY("p_py", "<f4", p_py), \
        NPY("p_pz", "<f4", p_pz), NPY("p_vx", "<f4", p_vx), NPY("p_pdg", "<i4", p_pdg)

static void check_npz(const char *path) {
    tm_event_file_t e;
    read_good(path, &e);
    assert_string_equal(e.name, "event5");
    assert_int_equal(e.n_points, 3);
    assert_true(e.hit_id[0] == 0 && e.hit_id[2] == 2);
    assert_true(get(&e, "x", 0) == 32.5 && get(&e, "z", 0) == -100);
    assert_true(get(&e, "x", 1) == (double)-0.001f && get(&e, "x", 2) == 1500.125);
    assert_int_equal(type_of(&e, "size_loc0"), TM_U8);
    assert_true(get(&e, "n_cells", 2) == 255);
    assert_int_equal(type_of(&e, "charge"), TM_F16);
    assert_true(get(&e, "charge", 0) == 0.5 && fabs(get(&e, "charge", 1) - 0.157) < 0.157 / 2048);
    assert_true(module_of(&e, 2) == ((uint64_t)17 << 56 | (uint64_t)6 << 36 | 1116 << 8));
    assert_int_equal(e.n_particles, 2);
    links_are(&e, 0, "2");
    links_are(&e, 1, "");
    links_are(&e, 2, "1 2");
    assert_true(e.particles[0].n_hits == 1 && e.particles[1].n_hits == 2);
    assert_true(e.particles[0].generated && !e.particles[1].generated);
    assert_true(e.particles[1].vx == 60 && e.particles[1].vy == 0 && e.particles[1].pdg == -11);
    tm_event_file_clear(&e);
}

static void test_npz(void **state) {
    (void)state;
    size_t n;
    const npy_t arrays[] = {BASIC, TRUTH};
    check_npz(scratch_npz("event5.npz", arrays, sizeof arrays / sizeof arrays[0], false));
    char *bytes = scratch_read(scratch_path("event5.npz"), &n);
    check_npz(scratch_xz("event5.npz.xz", bytes, n));
    scratch_empty();
    check_npz(scratch_xz("event5", bytes, n)); /* content counts, not the name */
    scratch_write("event5.npz", bytes, n);
    unlink(scratch_path("event5"));
    check_npz(scratch_path("event5")); /* the prefix alone */
    check_npz(scratch_npz("event5.npz", arrays, sizeof arrays / sizeof arrays[0], true));
    free(bytes);
    scratch_empty();
}

static void test_npz_plain(void **state) {
    (void)state;
    tm_event_file_t e;
    static const float x[] = {1.5f, -2}, y[] = {0, 3};
    static const double z[] = {1e4, 0.1};
    static const float charge[] = {0.1f, 7};
    static const uint64_t id[] = {7, UINT64_MAX};
    const npy_t arrays[] = {NPY("x", "<f4", x), NPY("y", "<f4", y), NPY("z", "<f8", z),
                            NPY("charge", "<f4", charge), NPY("module_id", "<u8", id)};
    read_good(scratch_npz("plain.npz", arrays, 5, false), &e);
    assert_true(get(&e, "z", 1) == (double)0.1f && get(&e, "x", 0) == 1.5);
    assert_int_equal(type_of(&e, "charge"), TM_F32);
    assert_true(module_of(&e, 1) == UINT64_MAX);
    assert_false(e.has_truth);
    assert_null(e.link_offset);
    tm_event_file_clear(&e);
}

static void test_npz_empty(void **state) {
    (void)state;
    tm_event_file_t e;
    const npy_t arrays[] = {
        {.name = "x_um", .descr = "<i4"},     {.name = "y_um", .descr = "<i4"},
        {.name = "z_um", .descr = "<i4"},     {.name = "charge_e3", .descr = "<u2"},
        {.name = "particle", .descr = "<i4"}, {.name = "p_px", .descr = "<f4"},
        {.name = "p_py", .descr = "<f4"},     {.name = "p_pz", .descr = "<f4"},
        {.name = "p_q", .descr = "|i1"}};
    read_good(scratch_npz("empty.npz", arrays, sizeof arrays / sizeof arrays[0], false), &e);
    assert_int_equal(e.n_points, 0);
    assert_true(e.has_truth && e.n_particles == 0 && e.link_offset[0] == 0);
    tm_event_file_clear(&e);
}

static void npz_bad(const npy_t *arrays, size_t n, const char *why) {
    read_bad(scratch_npz("bad.npz", arrays, n, false), why);
}
#define NPZ_BAD(why, ...) \
    do { \
        const npy_t list_[] = {__VA_ARGS__}; \
        npz_bad(list_, sizeof list_ / sizeof list_[0], why); \
    } while (0)

static void test_npz_bad(void **state) {
    (void)state;
    static const int32_t two[] = {1, 2}, nine[] = {0, 1, 9}, minus[] = {-1, 0, 2};
    static const float nan_x[] = {1, NAN, 3}, far_x[] = {1, 2, 1e7f}, one[] = {1, 1, 1};
    static const uint32_t wide[] = {1, 2, 1u << 20};
    NPZ_BAD("neither array x_um nor x", NPY("y_um", "<i4", y_um));
    NPZ_BAD("array z_um is missing", NPY("x_um", "<i4", x_um), NPY("y_um", "<i4", y_um));
    NPZ_BAD("array y_um has 2 elements, array x_um has 3", NPY("x_um", "<i4", x_um),
            NPY("y_um", "<i4", two), NPY("z_um", "<i4", z_um));
    NPZ_BAD("array charge_e3 has 2 elements, array x_um has 3", NPY("x_um", "<i4", x_um),
            NPY("y_um", "<i4", y_um), NPY("z_um", "<i4", z_um), NPY("charge_e3", "<i4", two));
    NPZ_BAD("array x_um: whole numbers", NPY("x_um", "<f4", one), NPY("y_um", "<i4", y_um),
            NPY("z_um", "<i4", z_um));
    NPZ_BAD("row 1, column x: nan", NPY("x", "<f4", nan_x), NPY("y", "<f4", one),
            NPY("z", "<f4", one));
    NPZ_BAD("row 2, column y: 1e+07", NPY("x", "<f4", one), NPY("y", "<f4", far_x),
            NPY("z", "<f4", one));
    NPZ_BAD("array charge, row 1: not finite", NPY("x", "<f4", one), NPY("y", "<f4", one),
            NPY("z", "<f4", one), NPY("charge", "<f4", nan_x));
    NPZ_BAD("array module, row 2: 1048576", NPY("x_um", "<i4", x_um), NPY("y_um", "<i4", y_um),
            NPY("z_um", "<i4", z_um), NPY("volume", "|u1", volume), NPY("layer", "|u1", layer),
            NPY("module", "<u4", wide));
    NPZ_BAD("array p_px is missing", BASIC, NPY("particle", "<i2", particle));
    NPZ_BAD("array p_pz has 3 elements, array p_px has 2", BASIC, NPY("particle", "<i2", particle),
            NPY("p_px", "<f4", p_px), NPY("p_py", "<f4", p_py), NPY("p_pz", "<f4", one),
            NPY("p_q", "|i1", p_q));
    NPZ_BAD("array particle, row 2: 9, but there are 2 particles", BASIC, NPY("p_px", "<f4", p_px),
            NPY("p_py", "<f4", p_py), NPY("p_pz", "<f4", p_pz), NPY("p_q", "|i1", p_q),
            NPY("particle", "<i4", nine));
    NPZ_BAD("array extra_hit, row 2: 9, but there are 3 space points", BASIC,
            NPY("p_px", "<f4", p_px), NPY("p_py", "<f4", p_py), NPY("p_pz", "<f4", p_pz),
            NPY("p_q", "|i1", p_q), NPY("particle", "<i2", particle), NPY("extra_hit", "<i4", nine),
            NPY("extra_particle", "<i4", minus));
    NPZ_BAD("extra_hit has 3 elements, array extra_particle has 2", BASIC, NPY("p_px", "<f4", p_px),
            NPY("p_py", "<f4", p_py), NPY("p_pz", "<f4", p_pz), NPY("p_q", "|i1", p_q),
            NPY("particle", "<i2", particle), NPY("extra_hit", "<i4", nine),
            NPY("extra_particle", "<i4", two));
}

/* A header that promises more than there is must not cost the memory that it promises. */
static void test_npz_huge_counts(void **state) {
    (void)state;
    char header[128], why[64];
    snprintf(header, sizeof header, "{'descr': '<i4', 'fortran_order': False, 'shape': (%u,), }",
             TM_POINTS_MAX + 1);
    snprintf(why, sizeof why, "%u elements", TM_POINTS_MAX + 1);
    const npy_t array = {.name = "x_um", .header = header, .data = x_um, .bytes = sizeof x_um};
    npz_bad(&array, 1, why);
}

/* ---- csv faults ---- */

static void test_csv_bad(void **state) {
    (void)state;
    static const char hits[] = "hit_id,x,y,z\n";
    char text[256];
#define HITS(rows, why) \
    do { \
        snprintf(text, sizeof text, "%s%s", hits, rows); \
        read_bad(scratch_text("event1-hits.csv", text), why); \
    } while (0)
    HITS("1,2,3,nan\n", "event1-hits.csv: line 2, column z: 'nan'");
    HITS("1,2,3,4\n1,2,3,5\n", "line 3: hit_id 1 is there twice");
    HITS("1,2,3,4\n2,2,3\n", "line 3: fewer");
    HITS("1,2,3,4\n2,2e5,3,4\n", "line 3, column x: 200000");
    HITS("x,2,3,4\n", "line 2, column hit_id");
    read_bad(scratch_text("event1-hits.csv", "hit_id,x,y\n1,2,3\n"), "column z is missing");
    read_bad(scratch_text("event1-hits.csv", "a,b\n1,2\n"), "neither TrackML");
    read_bad(scratch_text("event1-hits.csv", ""), "empty");
    read_bad(scratch_text("event1-hits.csv", "particle_id,tx,ty,tz,index\n"), "simulated hits");
    read_bad(scratch_path("nothing"), "No such file");
    read_bad(scratch_path("."), "a folder");
    scratch_empty();
}

static void test_siblings_bad(void **state) {
    (void)state;
    const char *hits = scratch_text("event1-hits.csv", "hit_id,x,y,z\n1,2,3,4\n2,3,4,5\n");
    char path[1024];
    snprintf(path, sizeof path, "%s", hits);
    scratch_text("event1-cells.csv", "hit_id,ch0,ch1,value\n8,1,1,1\n9,1,1,1\n");
    read_bad(path, "event1-cells.csv: none of its 2 rows");
    scratch_text("event1-cells.csv", "hit_id,ch0,ch1,value\n1,1,1,inf\n");
    read_bad(path, "event1-cells.csv: line 2, column value");
    scratch_text("event1-cells.csv", "hit_id,ch0,value\n1,1,1\n");
    read_bad(path, "event1-cells.csv: line 1: column ch1 is missing");
    scratch_text("event1-cells.csv", "hit_id,ch0,ch1,value\n1,1,1,1\n7,1,1,1\n"); /* 7: cut away */
    scratch_text("event1-truth.csv", "hit_id,particle_id,weight\n1,5,0.5\n2,6,0.5\n");
    scratch_text("event1-particles.csv", "particle_id,px,py,pz,q\n8,1,1,1,1\n");
    read_bad(path, "event1-truth.csv: none of its particles");
    scratch_text("event1-particles.csv", "particle_id,px,py,pz,q\n5,1,1,1,1\n5,1,1,1,1\n");
    read_bad(path, "event1-particles.csv: line 3: particle 5 is there twice");
    scratch_text("event1-particles.csv", "particle_id,px,py,pz\n5,1,1,1\n");
    read_bad(path, "column q is missing");
    scratch_text("event1-particles.csv", "particle_id,px,py,pz,q\n5,1,1,1,1\n");
    tm_event_file_t e;
    read_good(path, &e);
    assert_int_equal(e.n_particles, 2);
    links_are(&e, 1, "6");
    tm_event_file_clear(&e);
    scratch_empty();

    snprintf(path, sizeof path, "%s",
             scratch_text("e-spacepoint.csv", "measurement_id,sp_x,sp_y,sp_z\n0,1,2,3\n"));
    scratch_text("e-measurement-simhit-map.csv", "measurement_id,hit_id\n0,1\n");
    scratch_text("e-simhits.csv", "particle_id\n5\n");
    scratch_text("e-particles.csv", "particle_id,px,py,pz,q\n5,1,1,1,1\n");
    read_bad(path, "line 2, column hit_id: 1, but");
    scratch_text("e-simhits.csv", "particle\n5\n");
    read_bad(path, "no column particle_id");
    scratch_text("e-simhits.csv", "particle_id_pv,particle_id_sv,particle_id_part,particle_id_gen,"
                                  "particle_id_subpart\n1,1,1,1,1\n4096,0,0,0,0\n");
    read_bad(path, "line 3, column particle_id_pv: 4096 does not fit 12 bits");
    scratch_empty();
}

static void test_names(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"a/b/event000000001.npz.xz", "event000000001"},
        {"event1.npz", "event1"},
        {"/x/e-hits.csv.gz", "e"},
        {"e-spacepoints.csv", "e"},
        {"e-spacepoint.csv", "e"},
        {"dir.d/event7", "event7"},
        {"points.csv", "points"},
        {".npz", ".npz"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char name[TM_EVENT_NAME_BYTES];
        tm_event_file_name(pairs[i][0], name);
        assert_string_equal(name, pairs[i][1]);
    }
}

/* ---- damage ---- */

#define CASES 120 /* of each kind and file, spread evenly */

/* Each file of an event cut at many lengths, with many bytes changed, or full of noise: an event or
 * an error that names a file. */
static void damage(const char *const *names, const char *const *texts, const size_t *bytes, int n,
                   const char *event) {
    uint64_t seed = 7;
    for (int f = 0; f < n; f++) {
        char *copy = malloc(bytes[f] + 1);
        assert_non_null(copy);
        for (size_t i = 0; i < 3 * bytes[f]; i += bytes[f] / CASES + 1) {
            size_t at = i % bytes[f], length = i < bytes[f] ? at : bytes[f];
            memcpy(copy, texts[f], bytes[f]);
            if (i >= bytes[f]) {
                copy[at] = (char)(i < 2 * bytes[f] ? copy[at] ^ (1 << (i % 8))
                                                   : (int)(scratch_random(&seed) & 0xFF));
            }
            scratch_write(names[f], copy, length);
            tm_event_file_t e;
            tm_error_t err = {0};
            tm_status_t status = tm_event_file_read(scratch_path(event), &e, &err);
            if (status == TM_OK) {
                uint32_t points;
                assert_int_equal(tm_event_check(&e.columns, &points, &err), TM_OK);
                tm_event_file_clear(&e);
            } else {
                assert_true(status == TM_E_FILE);
                assert_true(strlen(err.text) > 10);
            }
        }
        for (int round = 0; round < 50; round++) {
            for (size_t k = 0; k < bytes[f]; k++) {
                copy[k] = (char)(scratch_random(&seed) & 0xFF);
            }
            scratch_write(names[f], copy, bytes[f]);
            tm_event_file_t e;
            tm_error_t err = {0};
            assert_int_equal(tm_event_file_read(scratch_path(event), &e, &err), TM_E_FILE);
        }
        scratch_write(names[f], texts[f], bytes[f]);
        free(copy);
    }
}

static void damage_folder(const char *folder, const char *event, const char *const *parts, int n) {
    char names[8][128];
    const char *name[8];
    char *text[8];
    size_t bytes[8];
    for (int i = 0; i < n; i++) {
        char path[256];
        snprintf(names[i], sizeof names[i], "%s-%s.csv", event, parts[i]);
        snprintf(path, sizeof path, FORMATS "%s/%s", folder, names[i]);
        name[i] = names[i];
        text[i] = scratch_read(path, &bytes[i]);
        scratch_write(name[i], text[i], bytes[i]);
    }
    damage(name, (const char *const *)text, bytes, n, name[0]);
    for (int i = 0; i < n; i++) {
        free(text[i]);
    }
    scratch_empty();
}

static void test_damage_csv(void **state) {
    (void)state;
    static const char *const trackml[] = {"hits", "cells", "truth", "particles"};
    static const char *const acts[] = {"spacepoint", "cells", "measurement-simhit-map", "simhits",
                                       "particles_simulated"};
    damage_folder("trackml", "event000000007", trackml, 4);
    damage_folder("acts", "event000000003", acts, 5);
}

static void test_damage_npz(void **state) {
    (void)state;
    const npy_t arrays[] = {BASIC, TRUTH};
    static const char *const name[] = {"e.npz"}, *const name_xz[] = {"e.npz.xz"};
    size_t n, n_xz;
    char *bytes =
        scratch_read(scratch_npz("e.npz", arrays, sizeof arrays / sizeof arrays[0], true), &n);
    damage(name, (const char *const *)&bytes, &n, 1, "e.npz");
    scratch_empty();
    char *xz = scratch_read(scratch_xz("e.npz.xz", bytes, n), &n_xz);
    damage(name_xz, (const char *const *)&xz, &n_xz, 1, "e.npz.xz");
    free(bytes);
    free(xz);
    scratch_empty();
}

/* ---- the shared data, where it is at hand ---- */

static void test_shared(void **state) {
    (void)state;
    tm_event_file_t e;
    const char *path = scratch_shared("data/muon1/event000000200.npz.xz");
    if (!path) {
        print_message("skipped: no shared data (TM_SHARED)\n");
        skip();
    }
    read_good(path, &e);
    assert_true(e.n_points == 12 && e.n_particles == 1 && e.particles[0].n_hits == 12);
    tm_event_file_clear(&e);
    read_good(scratch_shared("data/pu200/event000000000.npz.xz"), &e);
    assert_int_equal(e.n_points, 156654);
    assert_int_equal(e.link_offset[e.n_points], 156654 + 358);
    tm_event_file_clear(&e);
    read_good(scratch_shared("golden/events/gnn_tracking_trackml/event000000001-hits.csv.gz"), &e);
    assert_true(e.n_points == 5527 && e.n_particles == 548 && e.hit_weight);
    uint64_t cells_read = 0;
    for (uint32_t i = 0; i < e.n_points; i++) {
        cells_read += (uint64_t)get(&e, "n_cells", i);
    }
    assert_int_equal(cells_read, 18564); /* rows of the cells file */
    tm_event_file_clear(&e);
    /* this public event has NaN among its positions */
    read_bad(scratch_shared("golden/events/phoenix_acts_small/event000000000-hits.csv"),
             "line 96, column x: 'nan'");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trackml),
        cmocka_unit_test(test_trackml_gzip),
        cmocka_unit_test(test_acts),
        cmocka_unit_test(test_acts_old),
        cmocka_unit_test(test_npz),
        cmocka_unit_test(test_npz_plain),
        cmocka_unit_test(test_npz_empty),
        cmocka_unit_test(test_npz_bad),
        cmocka_unit_test(test_npz_huge_counts),
        cmocka_unit_test(test_csv_bad),
        cmocka_unit_test(test_siblings_bad),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_damage_csv),
        cmocka_unit_test(test_damage_npz),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, scratch_start, scratch_stop);
}
