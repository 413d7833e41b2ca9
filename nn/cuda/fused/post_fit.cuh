// SPDX-License-Identifier: Apache-2.0
/*
 * nn/tracks_fit.c on the GPU: the same arithmetic in the same order, where the comments are. A
 * thread per fit, or eight lanes. Internal to post.cu and post_join.cu.
 */
#ifndef TM_NN_CUDA_FUSED_POST_FIT_CUH
#define TM_NN_CUDA_FUSED_POST_FIT_CUH

#include "nn/cuda/fused/post.cuh"

#define TM_FUSED_PI 3.14159265358979323846

/* The tracks section of a pipeline: what a kernel is told. */
typedef decltype(tm_pipeline_t::tracks) tm_fused_rules_t;

/* Points in outward order: n_head rows, then those of tail. */
typedef struct {
    const tm_fit_point_t *place;
    const uint32_t *head, *tail;
    uint32_t n_head, n;
} tm_fused_run_t;

static __device__ inline const tm_fit_point_t &tm_fused_run_at(const tm_fused_run_t &t,
                                                               uint32_t k) {
    return t.place[k < t.n_head ? t.head[k] : t.tail[k - t.n_head]];
}

namespace tm_fused_fit {

constexpr double CHORD_MIN_MM = 1.0;
constexpr double PIVOT_MIN = 1e-12;
constexpr double PT_MIN_GEV = 0.1;
constexpr double PT_MAX_GEV = 10.0;
constexpr double CURVATURE_MIN = 1e-9;
constexpr double GEV_PER_T_MM = 0.299792458e-3;
constexpr double VARIANCE_MIN = 1e-12;
constexpr double STRAIGHT = 1e-6;

static __device__ inline tm_fit_point_t place_of(const tm_fused_rules_t &rules, float4 at) {
    const double r = (double)at.x;
    const double phi = (double)at.y;
    const double z = (double)at.z;
    uint32_t k = 0;
    while (k + 1 < rules.fit.n_zones &&
           !(r < (double)rules.fit.zone[k].r_max && fabs(z) < (double)rules.fit.zone[k].z_max)) {
        k++;
    }
    const double phi_error = (double)rules.fit.zone[k].sigma_phi;
    const double r_error = (double)rules.fit.zone[k].sigma_r;
    const double z_error = (double)rules.fit.zone[k].sigma_z;
    return {r * cos(phi),          r * sin(phi),      z,
            phi_error * phi_error, r_error * r_error, z_error * z_error};
}

static __device__ inline double pt_of(const tm_fused_rules_t &rules, double curvature) {
    const double bent = fabs(curvature);
    return GEV_PER_T_MM * fabs((double)rules.fit.field_tesla) /
           (bent > CURVATURE_MIN ? bent : CURVATURE_MIN);
}

typedef struct {
    double constant, kinks;
} noise_t;

static __device__ inline double noise_at(const noise_t &noise, const tm_fit_point_t &first,
                                         const tm_fit_point_t &p, uint32_t k) {
    const double dx = p.x - first.x, dy = p.y - first.y;
    return noise.constant + noise.kinks * k * (dx * dx + dy * dy);
}

static __device__ inline double clamp_pt(double pt) {
    return pt < PT_MIN_GEV ? PT_MIN_GEV : pt > PT_MAX_GEV ? PT_MAX_GEV : pt;
}

static __device__ inline noise_t scattering_of(const tm_fused_rules_t &rules,
                                               const tm_fit_point_t &a, const tm_fit_point_t &b,
                                               const tm_fit_point_t &c) {
    const double abx = b.x - a.x, aby = b.y - a.y;
    const double acx = c.x - a.x, acy = c.y - a.y;
    const double bcx = c.x - b.x, bcy = c.y - b.y;
    const double sides =
        sqrt((abx * abx + aby * aby) * (acx * acx + acy * acy) * (bcx * bcx + bcy * bcy));
    const double curvature = sides > 0 ? 2 * (abx * acy - aby * acx) / sides : 0;
    const double sigma = (double)rules.fit.scattering / clamp_pt(pt_of(rules, curvature));
    return {sigma * sigma, 0};
}

static __device__ inline double arc_of(double curvature, double chord) {
    const double h = fabs(curvature) * chord / 2;
    return h < STRAIGHT ? chord : h < 1 ? chord * asin(h) / h : chord * TM_FUSED_PI / 2;
}

static __device__ inline bool solve(const double (&m)[6], const double (&right)[3],
                                    double (&v)[3]) {
    const double d0 = m[0];
    if (!(d0 > 0)) {
        return false;
    }
    const double l10 = m[1] / d0, l20 = m[2] / d0;
    const double d1 = m[3] - l10 * m[1];
    if (!(d1 > PIVOT_MIN * m[3])) {
        return false;
    }
    const double l21 = (m[4] - l20 * m[1]) / d1;
    const double d2 = m[5] - l20 * m[2] - l21 * l21 * d1;
    if (!(d2 > PIVOT_MIN * m[5])) {
        return false;
    }
    const double w1 = right[1] - l10 * right[0];
    const double w2 = right[2] - l20 * right[0] - l21 * w1;
    v[2] = w2 / d2;
    v[1] = w1 / d1 - l21 * v[2];
    v[0] = right[0] / d0 - l10 * v[1] - l20 * v[2];
    return true;
}

/* What a point adds to the sums of the circle's equations: those of the matrix, of the right side, of y². */
#define TM_FUSED_FIT_CIRCLE 10
/* … and of the line's: w, w·s, w·z, w·s², w·s·z, w·z² */
#define TM_FUSED_FIT_LINE 6

static __device__ inline void circle_terms(const tm_fit_t &fit, double scale,
                                           const tm_fit_point_t &p, double noise, double *terms) {
    const double dx = (p.x - fit.x0) * scale, dy = (p.y - fit.y0) * scale;
    const double x = dx * fit.cos_t + dy * fit.sin_t;
    const double y = dy * fit.cos_t - dx * fit.sin_t;
    const double q = x * x + y * y;
    const double w = 1 / (p.var_phi + noise);
    terms[0] = w;
    terms[1] = w * x;
    terms[2] = w * q;
    terms[3] = w * x * x;
    terms[4] = w * x * q;
    terms[5] = w * q * q;
    terms[6] = w * y;
    terms[7] = w * x * y;
    terms[8] = w * q * y;
    terms[9] = w * y * y;
}

static __device__ inline bool circle_of(const double (&sums)[TM_FUSED_FIT_CIRCLE], double chord,
                                        tm_fit_t *fit) {
    const double m[6] = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
    const double right[3] = {sums[6], sums[7], sums[8]};
    double v[3];
    if (!solve(m, right, v)) {
        return false;
    }
    const double norm2 = 1 + v[1] * v[1] - 4 * v[0] * v[2];
    if (!(norm2 > 0)) {
        return false;
    }
    fit->a = v[0] * chord;
    fit->b = v[1];
    fit->c = v[2] * (1 / chord);
    fit->curvature = 2 * fit->c / sqrt(norm2);
    const double sum = sums[9] - v[0] * right[0] - v[1] * right[1] - v[2] * right[2];
    fit->chi2_circle = sum > 0 ? sum * chord * chord / norm2 : 0;
    return true;
}

/* From the point before, or from itself, to a point. */
static __device__ inline double arc_between(double curvature, const tm_fit_point_t &before,
                                            const tm_fit_point_t &p) {
    return arc_of(curvature,
                  sqrt((p.x - before.x) * (p.x - before.x) + (p.y - before.y) * (p.y - before.y)));
}

static __device__ inline void line_terms(double slope, const tm_fit_point_t &first,
                                         const tm_fit_point_t &p, double noise, double s,
                                         double *terms) {
    const double along = slope * slope;
    const double z = p.z - first.z - slope * s;
    const double w = 1 / (p.var_z + along * p.var_r + noise * (1 + along) + VARIANCE_MIN);
    terms[0] = w;
    terms[1] = w * s;
    terms[2] = w * z;
    terms[3] = w * s * s;
    terms[4] = w * s * z;
    terms[5] = w * z * z;
}

static __device__ inline bool line_of(const double (&sums)[TM_FUSED_FIT_LINE], double slope,
                                      const tm_fit_point_t &first, tm_fit_t *fit) {
    const double det = sums[0] * sums[3] - sums[1] * sums[1];
    if (!(det > PIVOT_MIN * sums[0] * sums[3])) {
        return false;
    }
    const double turn = (sums[0] * sums[4] - sums[1] * sums[2]) / det;
    const double start = (sums[2] - turn * sums[1]) / sums[0];
    fit->cot_theta = slope + turn;
    fit->z_first = first.z + start;
    const double chi2 = sums[5] - start * sums[2] - turn * sums[4];
    fit->chi2_line = chi2 > 0 ? chi2 : 0;
    return true;
}

/* What is known before the sums. */
typedef struct {
    tm_fit_point_t first;
    noise_t noise;
    double chord, slope;
} frame_t;

static __device__ inline bool frame_of(const tm_fused_rules_t &rules, const tm_fused_run_t &t,
                                       const noise_t *kinks, frame_t *f, tm_fit_t *fit) {
    if (t.n < TM_FIT_POINTS_MIN) {
        return false;
    }
    const tm_fit_point_t first = tm_fused_run_at(t, 0);
    const tm_fit_point_t middle = tm_fused_run_at(t, t.n / 2);
    const tm_fit_point_t last = tm_fused_run_at(t, t.n - 1);
    const double dx = last.x - first.x, dy = last.y - first.y;
    const double chord = sqrt(dx * dx + dy * dy);
    if (!(chord >= CHORD_MIN_MM)) {
        return false;
    }
    fit->n = t.n;
    fit->x0 = middle.x;
    fit->y0 = middle.y;
    fit->cos_t = dx / chord;
    fit->sin_t = dy / chord;
    fit->x_first = first.x;
    fit->y_first = first.y;
    f->first = first;
    f->noise = kinks ? *kinks : scattering_of(rules, first, middle, last);
    f->chord = chord;
    f->slope = (last.z - first.z) / chord;
    return true;
}

static __device__ inline bool circle_fits(const tm_fit_t &fit, double chi2_max) {
    return !(fit.chi2_circle > chi2_max * (fit.n - 3));
}

static __device__ inline bool line_fits(const tm_fit_t &fit, double chi2_max) {
    return !(fit.chi2_line > chi2_max * (fit.n - 2));
}

/* By one thread: where there are fits for all of them. */
static __device__ inline bool helix(const tm_fused_rules_t &rules, const tm_fused_run_t &t,
                                    double chi2_max, tm_fit_t *fit) {
    frame_t f;
    if (!frame_of(rules, t, NULL, &f, fit)) {
        return false;
    }
    double sums[TM_FUSED_FIT_CIRCLE] = {};
    const double scale = 1 / f.chord;
    tm_fit_point_t next = f.first;
    for (uint32_t k = 0; k < t.n; k++) {
        const tm_fit_point_t p = next; /* the next one is on its way */
        next = tm_fused_run_at(t, min(k + 1, t.n - 1));
        double terms[TM_FUSED_FIT_CIRCLE];
        circle_terms(*fit, scale, p, noise_at(f.noise, f.first, p, k), terms);
        for (int c = 0; c < TM_FUSED_FIT_CIRCLE; c++) {
            sums[c] += terms[c];
        }
    }
    if (!circle_of(sums, f.chord, fit) || !circle_fits(*fit, chi2_max)) {
        return false;
    }
    double line_sums[TM_FUSED_FIT_LINE] = {};
    double s = 0;
    tm_fit_point_t before = f.first;
    for (uint32_t k = 0; k < t.n; k++) {
        const tm_fit_point_t p = tm_fused_run_at(t, k);
        double terms[TM_FUSED_FIT_LINE];
        s += k > 0 ? arc_between(fit->curvature, before, p) : 0;
        before = p;
        line_terms(f.slope, f.first, p, noise_at(f.noise, f.first, p, k), s, terms);
        for (int c = 0; c < TM_FUSED_FIT_LINE; c++) {
            line_sums[c] += terms[c];
        }
    }
    return line_of(line_sums, f.slope, f.first, fit) && line_fits(*fit, chi2_max);
}

/* ---- by groups of lanes, a point each: the same sums in the same order, sooner ---- */

#define TM_FUSED_FIT_LANES 8
#define TM_FUSED_FIT_GROUPS (TM_GPU_WARP / TM_FUSED_FIT_LANES) /* of a warp */

/* What the lanes of a block's groups show each other; two columns of the sums are a lane's. */
typedef struct {
    double terms[TM_FUSED_FIT_LANES][2 * TM_FUSED_FIT_LANES + 1]; /* one more: for the banks */
} exchange_t;

/* Adds the terms of `count` lanes to the lane's columns. */
static __device__ inline void add_columns(const exchange_t &x, uint32_t count, uint32_t lane,
                                          double (&mine)[2]) {
#pragma unroll
    for (uint32_t k = 0; k < TM_FUSED_FIT_LANES; k++) {
        if (k < count) {
            mine[0] += x.terms[k][lane];
            mine[1] += x.terms[k][lane + TM_FUSED_FIT_LANES];
        }
    }
}

/* All columns, to all lanes. */
template <int N>
static __device__ inline void show_columns(exchange_t *x, const double (&mine)[2], uint32_t lane,
                                           double (&sums)[N]) {
    x->terms[0][lane] = mine[0];
    x->terms[0][lane + TM_FUSED_FIT_LANES] = mine[1];
    __syncwarp();
#pragma unroll
    for (int c = 0; c < N; c++) {
        sums[c] = x->terms[0][c];
    }
    __syncwarp();
}

/* As helix, each group of a warp a run of its own; all lanes get the answer. n = 0: none for the group.
 * All lanes of the warp call it together. kinks: NULL, or the noise instead of that of scattering. */
static __device__ inline bool group_helix(const tm_fused_rules_t &rules, const tm_fused_run_t &t,
                                          const noise_t *kinks, double chi2_max, exchange_t *x,
                                          tm_fit_t *fit) {
    const uint32_t lane = threadIdx.x % TM_FUSED_FIT_LANES;
    frame_t f = {};
    bool good = frame_of(rules, t, kinks, &f, fit);
    const uint32_t n = good ? t.n : 0;
    const uint32_t most = __reduce_max_sync(TM_GPU_WARP_MASK, n);
    double mine[2] = {};
    double sums[TM_FUSED_FIT_CIRCLE];
    const double scale = 1 / f.chord;
    for (uint32_t begin = 0; begin < most; begin += TM_FUSED_FIT_LANES) {
        const uint32_t k = begin + lane;
        if (k < n) {
            const tm_fit_point_t &p = tm_fused_run_at(t, k);
            circle_terms(*fit, scale, p, noise_at(f.noise, f.first, p, k), x->terms[lane]);
        }
        __syncwarp();
        add_columns(*x, n > begin ? n - begin : 0, lane, mine);
        __syncwarp();
    }
    show_columns(x, mine, lane, sums);
    good = good && circle_of(sums, f.chord, fit) && circle_fits(*fit, chi2_max);
    if (!__any_sync(TM_GPU_WARP_MASK, good)) {
        return false;
    }
    double line_sums[TM_FUSED_FIT_LINE];
    double s = 0; /* to the last point of the lanes before */
    mine[0] = mine[1] = 0;
    for (uint32_t begin = 0; begin < most; begin += TM_FUSED_FIT_LANES) {
        const uint32_t k = begin + lane;
        const bool has_point = good && k < n;
        tm_fit_point_t p = {};
        double arc = 0;
        if (has_point) {
            p = tm_fused_run_at(t, k);
            arc = k > 0 ? arc_between(fit->curvature, tm_fused_run_at(t, k - 1), p) : 0;
        }
        x->terms[lane][0] = arc;
        __syncwarp();
        double upto = s;
#pragma unroll
        for (uint32_t j = 0; j < TM_FUSED_FIT_LANES; j++) {
            s += x->terms[j][0];
            upto = j <= lane ? s : upto;
        }
        __syncwarp();
        if (has_point) {
            line_terms(f.slope, f.first, p, noise_at(f.noise, f.first, p, k), upto, x->terms[lane]);
        }
        __syncwarp();
        add_columns(*x, n > begin ? n - begin : 0, lane, mine);
        __syncwarp();
    }
    show_columns(x, mine, lane, line_sums);
    return good && line_of(line_sums, f.slope, f.first, fit) && line_fits(*fit, chi2_max);
}

static __device__ inline void extrapolate(const tm_fit_t &fit, tm_fit_start_t *start) {
    const double px = -fit.x0 * fit.cos_t - fit.y0 * fit.sin_t;
    const double py = fit.x0 * fit.sin_t - fit.y0 * fit.cos_t;
    const double d = fit.a + fit.b * px - py + fit.c * (px * px + py * py);
    const double gx = fit.b + 2 * fit.c * px;
    const double gy = -1 + 2 * fit.c * py;
    const double g = sqrt(gx * gx + gy * gy);
    const double norm = sqrt(1 + fit.b * fit.b - 4 * fit.a * fit.c);
    const double away = -2 * d / (norm + g);
    const double ux = g > 0 ? gx / g : 0, uy = g > 0 ? gy / g : -1;
    const double dir_x = -uy * fit.cos_t - ux * fit.sin_t;
    const double dir_y = -uy * fit.sin_t + ux * fit.cos_t;
    const double to_x = fit.x_first - away * dir_y, to_y = fit.y_first + away * dir_x;
    const double s = arc_of(fit.curvature, sqrt(to_x * to_x + to_y * to_y));
    const bool ahead = to_x * dir_x + to_y * dir_y >= 0;
    start->phi = atan2(dir_y, dir_x);
    start->d0 = -away;
    start->z0 = fit.z_first - fit.cot_theta * (ahead ? s : -s);
    start->eta = asinh(fit.cot_theta);
}

/* Start values, with the warp as group_helix. */
static __device__ inline bool group_start(const tm_fused_rules_t &rules, const tm_fused_run_t &t,
                                          exchange_t *x, tm_fit_start_t *start) {
    tm_fit_t fit = {};
    tm_fit_t near = {};
    const bool good = group_helix(rules, t, NULL, INFINITY, x, &fit);
    start->pt = pt_of(rules, fit.curvature);
    const bool left = fit.curvature > 0;
    start->charge = left == ((double)rules.fit.field_tesla > 0) ? -1 : 1;
    const double angle = (double)rules.fit.kink / clamp_pt(start->pt);
    const noise_t noise = {0, angle * angle / 3};
    if (group_helix(rules, t, &noise, INFINITY, x, &near)) {
        fit = near;
    }
    if (good) {
        extrapolate(fit, start);
    }
    return good;
}

} // namespace tm_fused_fit

#endif
