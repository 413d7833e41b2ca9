// SPDX-License-Identifier: Apache-2.0
/* The tracks section of a model file: the builder, and the steps behind it. */
#include "nn/model_pipeline.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

#define FIELD_MAX_TESLA 100.0
#define ERROR_MIN_MM 1e-6
#define ERROR_MAX_MM 1e4
#define FIT_KINK_MAX 1.0
#define FIT_ENDS_MIN 2
#define FIT_ENDS_MAX 32
#define CHI2_MIN 1e-6
#define CHI2_MAX 1e9
#define JOIN_DPHI_MAX 3.14159274
#define JOIN_DCOT_MAX 1e3
#define JOIN_WEIGHT_MAX 1e3

typedef struct {
    const tm_node_t *tracks;
    tm_pipeline_t *p;
    tm_error_t *err;
} reader_t;

/* A number that may be left out; *out has the default. */
static tm_status_t read_optional(const reader_t *r, const tm_node_t *node, const char *key,
                                 double min, double max, float *out) {
    return tm_node_has(node, key) ? tm_node_get_float(node, key, min, max, out, r->err) : TM_OK;
}

static tm_status_t read_zone(const reader_t *r, const tm_node_t *node, tm_zone_t *zone) {
    static const char *const keys[] = {"r_max", "z_max", "sigma_phi", "sigma_r", "sigma_z"};
    *zone = (tm_zone_t){.r_max = (float)TM_LENGTH_CUT_MAX_MM, .z_max = (float)TM_LENGTH_CUT_MAX_MM};
    tm_status_t status = tm_node_check_object(node, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status = read_optional(r, node, "r_max", 0, TM_LENGTH_CUT_MAX_MM, &zone->r_max);
    }
    if (status == TM_OK) {
        status = read_optional(r, node, "z_max", 0, TM_LENGTH_CUT_MAX_MM, &zone->z_max);
    }
    if (status == TM_OK) {
        status = tm_node_get_float(node, "sigma_phi", ERROR_MIN_MM, ERROR_MAX_MM, &zone->sigma_phi,
                                   r->err);
    }
    if (status == TM_OK) {
        status = read_optional(r, node, "sigma_r", 0, ERROR_MAX_MM, &zone->sigma_r);
    }
    if (status == TM_OK) {
        status = read_optional(r, node, "sigma_z", 0, ERROR_MAX_MM, &zone->sigma_z);
    }
    if (status == TM_OK && zone->sigma_r == 0 && zone->sigma_z == 0) {
        return tm_node_fail(node, r->err, "sigma_r and sigma_z are both 0: one of them is not");
    }
    return status;
}

static tm_status_t read_zones(const reader_t *r, const tm_node_t *fit) {
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(fit, "zones", &list, r->err);
    if (status == TM_OK) {
        status = tm_node_list(&list, 1, TM_ZONES_MAX, &count, r->err);
    }
    for (size_t k = 0; k < count && status == TM_OK; k++) {
        tm_node_t node = tm_node_item(&list, k);
        status = read_zone(r, &node, &r->p->tracks.fit.zone[k]);
    }
    r->p->tracks.fit.n_zones = (uint32_t)count;
    return status;
}

static tm_status_t read_fit(const reader_t *r) {
    static const char *const keys[] = {"field_tesla", "scattering", "kink", "ends", "zones"};
    tm_node_t node;
    r->p->tracks.fit.present = tm_node_has(r->tracks, "fit");
    r->p->tracks.fit.ends = 5;
    if (!r->p->tracks.fit.present) {
        return TM_OK;
    }
    tm_status_t status = tm_node_get(r->tracks, "fit", &node, r->err);
    if (status == TM_OK) {
        status = tm_node_check_object(&node, keys, COUNT(keys), r->err);
    }
    if (status == TM_OK) {
        status = tm_node_get_float(&node, "field_tesla", -FIELD_MAX_TESLA, FIELD_MAX_TESLA,
                                   &r->p->tracks.fit.field_tesla, r->err);
    }
    if (status == TM_OK && r->p->tracks.fit.field_tesla == 0) {
        return tm_node_fail(&node, r->err, "field_tesla is 0: tracks are fitted in a field only");
    }
    if (status == TM_OK) {
        status = tm_node_get_float(&node, "scattering", ERROR_MIN_MM, ERROR_MAX_MM,
                                   &r->p->tracks.fit.scattering, r->err);
    }
    if (status == TM_OK) {
        status = read_optional(r, &node, "kink", 0, FIT_KINK_MAX, &r->p->tracks.fit.kink);
    }
    if (status == TM_OK && tm_node_has(&node, "ends")) {
        status = tm_node_get_uint(&node, "ends", FIT_ENDS_MIN, FIT_ENDS_MAX, &r->p->tracks.fit.ends,
                                  r->err);
    }
    return status == TM_OK ? read_zones(r, &node) : status;
}

/* A step that works on chains, and perhaps on fits of them. *present: whether it is there. */
static tm_status_t find_step(const reader_t *r, const char *name, bool fitted, tm_node_t *node,
                             bool *present) {
    *present = tm_node_has(r->tracks, name);
    if (!*present) {
        return TM_OK;
    }
    tm_status_t status = tm_node_get(r->tracks, name, node, r->err);
    if (status != TM_OK) {
        return status;
    }
    if (r->p->tracks.builder != TM_BUILDER_BEST_EDGES) {
        return tm_node_fail(node, r->err, "works on what the builder best_edges makes, no other");
    }
    if (r->p->radius.direction != TM_DIRECTION_OUTWARD) {
        return tm_node_fail(node, r->err, "works on edges whose radius.direction is outward");
    }
    if (fitted && !r->p->tracks.fit.present) {
        return tm_node_fail(node, r->err, "needs tracks.fit");
    }
    return TM_OK;
}

static tm_status_t read_split(const reader_t *r) {
    static const char *const keys[] = {"score", "chi2"};
    tm_node_t node;
    tm_status_t status = find_step(r, "split", true, &node, &r->p->tracks.split.present);
    if (status != TM_OK || !r->p->tracks.split.present) {
        return status;
    }
    status = tm_node_check_object(&node, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status = tm_node_get_float(&node, "score", 0, 1, &r->p->tracks.split.score, r->err);
    }
    if (status == TM_OK) {
        status =
            tm_node_get_float(&node, "chi2", CHI2_MIN, CHI2_MAX, &r->p->tracks.split.chi2, r->err);
    }
    return status;
}

static tm_status_t read_select(const reader_t *r) {
    static const char *const keys[] = {"points", "score"};
    tm_node_t node;
    bool present = false;
    tm_status_t status = find_step(r, "select", false, &node, &present);
    if (status != TM_OK || !present) {
        return status;
    }
    status = tm_node_check_object(&node, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status = tm_node_get_uint(&node, "points", TM_MIN_POINTS_MIN, TM_MIN_POINTS_MAX,
                                  &r->p->tracks.select.points, r->err);
    }
    if (status == TM_OK) {
        status = tm_node_get_float(&node, "score", 0, 1, &r->p->tracks.select.score, r->err);
    }
    return status;
}

static tm_status_t read_weights(const reader_t *r, const tm_node_t *join) {
    tm_node_t list;
    size_t count = 0;
    tm_status_t status = tm_node_get(join, "weights", &list, r->err);
    if (status == TM_OK) {
        status = tm_node_list(&list, TM_JOIN_WEIGHTS, TM_JOIN_WEIGHTS, &count, r->err);
    }
    for (size_t k = 0; k < count && status == TM_OK; k++) {
        tm_node_t node = tm_node_item(&list, k);
        double value = json_number_value(node.value);
        if (!json_is_number(node.value)) {
            return tm_node_fail(&node, r->err, "a number is expected");
        }
        if (!(value >= -JOIN_WEIGHT_MAX && value <= JOIN_WEIGHT_MAX)) {
            return tm_node_fail(&node, r->err, "%g is outside %g to %g", value, -JOIN_WEIGHT_MAX,
                                JOIN_WEIGHT_MAX);
        }
        r->p->tracks.join.weight[k] = (float)value;
    }
    return status;
}

static tm_status_t read_join(const reader_t *r) {
    static const char *const keys[] = {"dphi", "dcot", "chi2", "weights"};
    tm_node_t node;
    tm_status_t status = find_step(r, "join", true, &node, &r->p->tracks.join.present);
    if (status != TM_OK || !r->p->tracks.join.present) {
        return status;
    }
    status = tm_node_check_object(&node, keys, COUNT(keys), r->err);
    if (status == TM_OK) {
        status =
            tm_node_get_float(&node, "dphi", 0, JOIN_DPHI_MAX, &r->p->tracks.join.dphi, r->err);
    }
    if (status == TM_OK) {
        status =
            tm_node_get_float(&node, "dcot", 0, JOIN_DCOT_MAX, &r->p->tracks.join.dcot, r->err);
    }
    if (status == TM_OK) {
        status =
            tm_node_get_float(&node, "chi2", CHI2_MIN, CHI2_MAX, &r->p->tracks.join.chi2, r->err);
    }
    return status == TM_OK ? read_weights(r, &node) : status;
}

tm_status_t tm_tracks_read(const tm_node_t *root, tm_pipeline_t *pipeline, tm_error_t *err) {
    static const char *const keys[] = {"cut",   "builder", "min_points", "fit",
                                       "split", "select",  "join"};
    static const char *const builders[] = {"components", "best_edges"}; /* as tm_builder_t */
    tm_node_t stage;
    size_t builder = 0;
    tm_status_t status = tm_node_get(root, "tracks", &stage, err);
    if (status == TM_OK) {
        status = tm_node_check_object(&stage, keys, COUNT(keys), err);
    }
    if (status == TM_OK) {
        status = tm_node_get_float(&stage, "cut", 0, TM_SCORE_CUT_MAX, &pipeline->tracks.cut, err);
    }
    if (status == TM_OK) {
        status = tm_node_get_word(&stage, "builder", builders, COUNT(builders), &builder, err);
    }
    pipeline->tracks.builder = (tm_builder_t)builder;
    if (status == TM_OK) {
        status = tm_node_get_uint(&stage, "min_points", TM_MIN_POINTS_MIN, TM_MIN_POINTS_MAX,
                                  &pipeline->tracks.min_points, err);
    }
    const reader_t reader = {.tracks = &stage, .p = pipeline, .err = err};
    if (status == TM_OK) {
        status = read_fit(&reader);
    }
    if (status == TM_OK) {
        status = read_split(&reader);
    }
    if (status == TM_OK) {
        status = read_select(&reader);
    }
    return status == TM_OK ? read_join(&reader) : status;
}
