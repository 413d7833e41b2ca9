// SPDX-License-Identifier: Apache-2.0
#include "nn/tracks_fit.h"

#include <math.h>

#define CHORD_MIN_MM 1.0
#define PIVOT_MIN 1e-12 /* of the scaled normal equations: below, the points are no circle's */
#define PT_MIN_GEV 0.1  /* between which the scattering depends on pT */
#define PT_MAX_GEV 10.0
#define CURVATURE_MIN 1e-9          /* 1/mm: 600 TeV in 2 T; keeps pT finite */
#define GEV_PER_T_MM 0.299792458e-3 /* pT = this · field · radius */
#define VARIANCE_MIN 1e-12 /* mm², of z: a disc's point on a track without slope has none */
#define STRAIGHT 1e-6      /* half the angle of an arc below which it is its chord */

tm_fit_point_t tm_fit_point(const tm_pipeline_t *pipeline, const tm_points_t *points, uint32_t i) {
    double r = (double)points->r[i];
    double phi = (double)points->phi[i];
    double z = (double)points->z[i];
    uint32_t k = 0;
    const tm_zone_t *zone = pipeline->tracks.fit.zone;
    while (k + 1 < pipeline->tracks.fit.n_zones &&
           !(r < (double)zone[k].r_max && fabs(z) < (double)zone[k].z_max)) {
        k++;
    }
    double phi_error = (double)zone[k].sigma_phi;
    double r_error = (double)zone[k].sigma_r;
    double z_error = (double)zone[k].sigma_z;
    return (tm_fit_point_t){.x = r * cos(phi),
                            .y = r * sin(phi),
                            .z = z,
                            .var_phi = phi_error * phi_error,
                            .var_r = r_error * r_error,
                            .var_z = z_error * z_error};
}

static double pt_of(const tm_pipeline_t *pipeline, double curvature) {
    double bent = fabs(curvature);
    return GEV_PER_T_MM * fabs((double)pipeline->tracks.fit.field_tesla) /
           (bent > CURVATURE_MIN ? bent : CURVATURE_MIN);
}

double tm_fit_pt(const tm_pipeline_t *pipeline, const tm_fit_t *fit) {
    return pt_of(pipeline, fit->curvature);
}

/* What scattering adds to the variance of the k-th point, at a distance of √l2 from the first one:
 * the same everywhere, or what independent kinks at each point before it add up to. */
typedef struct {
    double constant; /* mm² */
    double kinks;    /* square of the angle of a kink, over 3 */
} noise_t;

static double noise_at(const noise_t *noise, const tm_fit_point_t *first, const tm_fit_point_t *p,
                       uint32_t k) {
    double dx = p->x - first->x, dy = p->y - first->y;
    return noise->constant + noise->kinks * k * (dx * dx + dy * dy);
}

/* The pT that scattering is reckoned with. */
static double clamp_pt(double pt) {
    return pt < PT_MIN_GEV ? PT_MIN_GEV : pt > PT_MAX_GEV ? PT_MAX_GEV : pt;
}

/* The constant noise, with the pT of the circle through three of the points. */
static noise_t scattering_of(const tm_pipeline_t *pipeline, const tm_fit_point_t *a,
                             const tm_fit_point_t *b, const tm_fit_point_t *c) {
    double abx = b->x - a->x, aby = b->y - a->y;
    double acx = c->x - a->x, acy = c->y - a->y;
    double bcx = c->x - b->x, bcy = c->y - b->y;
    double sides =
        sqrt((abx * abx + aby * aby) * (acx * acx + acy * acy) * (bcx * bcx + bcy * bcy));
    double curvature = sides > 0 ? 2 * (abx * acy - aby * acx) / sides : 0;
    double sigma = (double)pipeline->tracks.fit.scattering / clamp_pt(pt_of(pipeline, curvature));
    return (noise_t){.constant = sigma * sigma};
}

/* The arc over a chord; beyond half a turn it stays at that. */
static double arc_of(double curvature, double chord) {
    double h = fabs(curvature) * chord / 2;
    return h < STRAIGHT ? chord : h < 1 ? chord * asin(h) / h : chord * M_PI / 2;
}

/* Solves the symmetric equations m·v = right of three unknowns. */
static bool solve(const double m[6], const double right[3], double v[3]) {
    /* LDLᵀ; m holds 00 01 02 11 12 22 */
    double d0 = m[0];
    if (!(d0 > 0)) {
        return false;
    }
    double l10 = m[1] / d0, l20 = m[2] / d0;
    double d1 = m[3] - l10 * m[1];
    if (!(d1 > PIVOT_MIN * m[3])) {
        return false;
    }
    double l21 = (m[4] - l20 * m[1]) / d1;
    double d2 = m[5] - l20 * m[2] - l21 * l21 * d1;
    if (!(d2 > PIVOT_MIN * m[5])) {
        return false;
    }
    double w1 = right[1] - l10 * right[0];
    double w2 = right[2] - l20 * right[0] - l21 * w1;
    v[2] = w2 / d2;
    v[1] = w1 / d1 - l21 * v[2];
    v[0] = right[0] / d0 - l10 * v[1] - l20 * v[2];
    return true;
}

static bool fit_circle(const tm_fit_point_t *point, const uint32_t *row, uint32_t n, double chord,
                       const noise_t *noise, tm_fit_t *fit) {
    double m[6] = {0};
    double right[3] = {0};
    double y2 = 0;
    double scale = 1 / chord;
    const tm_fit_point_t *first = &point[row[0]];
    for (uint32_t k = 0; k < n; k++) {
        const tm_fit_point_t *p = &point[row[k]];
        double dx = (p->x - fit->x0) * scale, dy = (p->y - fit->y0) * scale;
        double x = dx * fit->cos_t + dy * fit->sin_t;
        double y = dy * fit->cos_t - dx * fit->sin_t;
        double q = x * x + y * y;
        double w = 1 / (p->var_phi + noise_at(noise, first, p, k));
        m[0] += w;
        m[1] += w * x;
        m[2] += w * q;
        m[3] += w * x * x;
        m[4] += w * x * q;
        m[5] += w * q * q;
        right[0] += w * y;
        right[1] += w * x * y;
        right[2] += w * q * y;
        y2 += w * y * y;
    }
    double v[3];
    if (!solve(m, right, v)) {
        return false;
    }
    double norm2 = 1 + v[1] * v[1] - 4 * v[0] * v[2];
    if (!(norm2 > 0)) {
        return false;
    }
    fit->a = v[0] * chord;
    fit->b = v[1];
    fit->c = v[2] * scale;
    fit->curvature = 2 * fit->c / sqrt(norm2);
    double sum = y2 - v[0] * right[0] - v[1] * right[1] - v[2] * right[2];
    fit->chi2_circle = sum > 0 ? sum * chord * chord / norm2 : 0;
    return true;
}

static bool fit_line(const tm_fit_point_t *point, const uint32_t *row, uint32_t n, double chord,
                     const noise_t *noise, tm_fit_t *fit) {
    const tm_fit_point_t *first = &point[row[0]];
    double slope = (point[row[n - 1]].z - first->z) / chord;
    double along = slope * slope;
    double sums[5] = {0}; /* w, w·s, w·z, w·s², w·s·z; z from the line along the chord */
    double z2 = 0;
    double s = 0;
    for (uint32_t k = 0; k < n; k++) {
        const tm_fit_point_t *p = &point[row[k]];
        if (k > 0) {
            const tm_fit_point_t *last = &point[row[k - 1]];
            s += arc_of(fit->curvature, sqrt((p->x - last->x) * (p->x - last->x) +
                                             (p->y - last->y) * (p->y - last->y)));
        }
        double z = p->z - first->z - slope * s;
        double w = 1 / (p->var_z + along * p->var_r + noise_at(noise, first, p, k) * (1 + along) +
                        VARIANCE_MIN);
        sums[0] += w;
        sums[1] += w * s;
        sums[2] += w * z;
        sums[3] += w * s * s;
        sums[4] += w * s * z;
        z2 += w * z * z;
    }
    double det = sums[0] * sums[3] - sums[1] * sums[1];
    if (!(det > PIVOT_MIN * sums[0] * sums[3])) {
        return false;
    }
    double turn = (sums[0] * sums[4] - sums[1] * sums[2]) / det;
    double start = (sums[2] - turn * sums[1]) / sums[0];
    fit->cot_theta = slope + turn;
    fit->z_first = first->z + start;
    double chi2 = z2 - start * sums[2] - turn * sums[4];
    fit->chi2_line = chi2 > 0 ? chi2 : 0;
    return true;
}

/* noise NULL: scattering, the same for all. */
static bool fit_helix(const tm_pipeline_t *pipeline, const tm_fit_point_t *point,
                      const uint32_t *row, uint32_t n, const noise_t *noise, double chi2_max,
                      tm_fit_t *fit) {
    if (n < TM_FIT_POINTS_MIN) {
        return false;
    }
    const tm_fit_point_t *first = &point[row[0]];
    const tm_fit_point_t *middle = &point[row[n / 2]];
    const tm_fit_point_t *last = &point[row[n - 1]];
    double dx = last->x - first->x, dy = last->y - first->y;
    double chord = sqrt(dx * dx + dy * dy);
    if (!(chord >= CHORD_MIN_MM)) {
        return false;
    }
    fit->n = n;
    fit->x0 = middle->x;
    fit->y0 = middle->y;
    fit->cos_t = dx / chord;
    fit->sin_t = dy / chord;
    fit->x_first = first->x;
    fit->y_first = first->y;
    noise_t scattering = {0};
    if (!noise) {
        scattering = scattering_of(pipeline, first, middle, last);
        noise = &scattering;
    }
    /* infinity times no degree of freedom is no number, which no χ² is above */
    return fit_circle(point, row, n, chord, noise, fit) &&
           !(fit->chi2_circle > chi2_max * (n - 3)) && fit_line(point, row, n, chord, noise, fit) &&
           !(fit->chi2_line > chi2_max * (n - 2));
}

bool tm_fit_helix(const tm_pipeline_t *pipeline, const tm_fit_point_t *point, const uint32_t *row,
                  uint32_t n, double chi2_max, tm_fit_t *fit) {
    return fit_helix(pipeline, point, row, n, NULL, chi2_max, fit);
}

/* phi, d0 and z0 of the fit's point of closest approach to the z axis, and eta. */
static void extrapolate(const tm_fit_t *fit, tm_fit_start_t *start) {
    /* the z axis in the frame, and the circle's equation with that as origin */
    double px = -fit->x0 * fit->cos_t - fit->y0 * fit->sin_t;
    double py = fit->x0 * fit->sin_t - fit->y0 * fit->cos_t;
    double d = fit->a + fit->b * px - py + fit->c * (px * px + py * py);
    double gx = fit->b + 2 * fit->c * px;
    double gy = -1 + 2 * fit->c * py;
    double g = sqrt(gx * gx + gy * gy);
    double norm = sqrt(1 + fit->b * fit->b - 4 * fit->a * fit->c);
    /* along the gradient to the circle; of the two ways to write the root, the stable one */
    double away = -2 * d / (norm + g);
    /* the momentum is the gradient turned by a quarter to the left; in x and y again */
    double ux = g > 0 ? gx / g : 0, uy = g > 0 ? gy / g : -1;
    double dir_x = -uy * fit->cos_t - ux * fit->sin_t;
    double dir_y = -uy * fit->sin_t + ux * fit->cos_t;
    double to_x = fit->x_first - away * dir_y, to_y = fit->y_first + away * dir_x;
    double s = arc_of(fit->curvature, sqrt(to_x * to_x + to_y * to_y));
    bool ahead = to_x * dir_x + to_y * dir_y >= 0;
    start->phi = atan2(dir_y, dir_x);
    start->d0 = -away;
    start->z0 = fit->z_first - fit->cot_theta * (ahead ? s : -s);
    start->eta = asinh(fit->cot_theta);
}

bool tm_fit_start(const tm_pipeline_t *pipeline, const tm_fit_point_t *point, const uint32_t *row,
                  uint32_t n, tm_fit_start_t *start) {
    tm_fit_t fit;
    if (!tm_fit_helix(pipeline, point, row, n, INFINITY, &fit)) {
        return false;
    }
    start->pt = tm_fit_pt(pipeline, &fit);
    bool left = fit.curvature > 0;
    start->charge = left == ((double)pipeline->tracks.fit.field_tesla > 0) ? -1 : 1;
    double angle = (double)pipeline->tracks.fit.kink / clamp_pt(start->pt);
    const noise_t noise = {.kinks = angle * angle / 3};
    tm_fit_t near;
    extrapolate(fit_helix(pipeline, point, row, n, &noise, INFINITY, &near) ? &near : &fit, start);
    return true;
}
