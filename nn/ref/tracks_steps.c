// SPDX-License-Identifier: Apache-2.0
#include "nn/ref/tracks_steps.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/ref/ref.h"

#define SPLIT_ROUNDS 8
#define PARTNERS 8
#define POINTS_MAX 64 /* of a fit around a link */

/* ---- the fit ---- */

typedef struct {
    double x, y, z, var_phi, var_r, var_z;
} place_t;

static place_t place_of(const tm_pipeline_t *p, const tm_points_t *points, uint32_t i) {
    double r = (double)points->r[i], phi = (double)points->phi[i], z = (double)points->z[i];
    const tm_zone_t *zone = &p->tracks.fit.zone[p->tracks.fit.n_zones - 1];
    for (uint32_t k = p->tracks.fit.n_zones; k-- > 0;) {
        const tm_zone_t *candidate = &p->tracks.fit.zone[k];
        if (r < (double)candidate->r_max && fabs(z) < (double)candidate->z_max) {
            zone = candidate;
        }
    }
    return (place_t){r * cos(phi),
                     r * sin(phi),
                     z,
                     pow((double)zone->sigma_phi, 2),
                     pow((double)zone->sigma_r, 2),
                     pow((double)zone->sigma_z, 2)};
}

static double pt_of(const tm_pipeline_t *p, double curvature) {
    return 0.299792458e-3 * fabs((double)p->tracks.fit.field_tesla) / fmax(fabs(curvature), 1e-9);
}

static double arc(double curvature, double chord) {
    double h = fabs(curvature) * chord / 2;
    return h < 1e-6 ? chord : h < 1 ? chord * asin(h) / h : chord * M_PI / 2;
}

/* Gauss, without pivoting: the equations are positive definite, or refused. */
static bool solve(double m[3][4], double v[3]) {
    for (int i = 0; i < 3; i++) {
        double before = m[i][i];
        for (int j = 0; j < i; j++) {
            double f = m[i][j] / m[j][j];
            for (int k = 0; k < 4; k++) {
                m[i][k] -= f * m[j][k];
            }
        }
        if (!(m[i][i] > (i == 0 ? 0 : 1e-12 * before))) {
            return false;
        }
    }
    for (int i = 3; i-- > 0;) {
        v[i] = m[i][3];
        for (int k = i + 1; k < 3; k++) {
            v[i] -= m[i][k] * v[k];
        }
        v[i] /= m[i][i];
    }
    return true;
}

/* The errors that scattering adds: constant, and what grows with the distance from the first. */
typedef struct {
    double constant, kinks;
} noise_t;

static double noise_at(noise_t noise, const place_t *a, const place_t *p, uint32_t k) {
    double l = hypot(p->x - a->x, p->y - a->y);
    return noise.constant + noise.kinks * k * l * l;
}

static bool fit_places(const place_t *a, uint32_t n, noise_t noise, tm_ref_fit_t *fit) {
    const place_t *b = &a[n - 1], *o = &a[n / 2];
    double chord = hypot(b->x - a->x, b->y - a->y);
    double cx = (b->x - a->x) / chord, cy = (b->y - a->y) / chord;
    double m[3][4] = {{0}};
    double v[3];
    for (uint32_t k = 0; k < n; k++) {
        double dx = (a[k].x - o->x) / chord, dy = (a[k].y - o->y) / chord;
        double x = dx * cx + dy * cy, y = dy * cx - dx * cy;
        const double value[4] = {1, x, x * x + y * y, y};
        double w = 1 / (a[k].var_phi + noise_at(noise, a, &a[k], k));
        for (int i = 0; i < 3; i++) {
            for (int j = 0; j < 4; j++) {
                m[i][j] += w * value[i] * value[j];
            }
        }
    }
    if (!solve(m, v)) {
        return false;
    }
    double norm2 = 1 + v[1] * v[1] - 4 * v[0] * v[2];
    if (!(norm2 > 0)) {
        return false;
    }
    fit->curvature = 2 * v[2] / chord / sqrt(norm2);
    double chi2 = 0;
    for (uint32_t k = 0; k < n; k++) {
        double dx = (a[k].x - o->x) / chord, dy = (a[k].y - o->y) / chord;
        double x = dx * cx + dy * cy, y = dy * cx - dx * cy;
        double miss = (v[0] + v[1] * x + v[2] * (x * x + y * y) - y) * chord;
        chi2 += miss * miss / norm2 / (a[k].var_phi + noise_at(noise, a, &a[k], k));
    }
    fit->chi2_circle = n > 3 ? chi2 / (n - 3) : 0;

    /* the line, relative to the one along the chord */
    double slope = (b->z - a->z) / chord;
    double s[5] = {0};
    for (int pass = 0; pass < 2; pass++) {
        double path = 0;
        double det = s[0] * s[3] - s[1] * s[1];
        double turn = 0, start = 0;
        if (pass == 1) {
            if (!(det > 1e-12 * s[0] * s[3])) {
                return false;
            }
            turn = (s[0] * s[4] - s[1] * s[2]) / det;
            start = (s[2] - turn * s[1]) / s[0];
            chi2 = 0;
        }
        for (uint32_t k = 0; k < n; k++) {
            if (k > 0) {
                path += arc(fit->curvature, hypot(a[k].x - a[k - 1].x, a[k].y - a[k - 1].y));
            }
            double z = a[k].z - a->z - slope * path;
            double w = 1 / (a[k].var_z + slope * slope * a[k].var_r +
                            noise_at(noise, a, &a[k], k) * (1 + slope * slope) + 1e-12);
            const double term[5] = {w, w * path, w * z, w * path * path, w * path * z};
            for (int i = 0; i < 5 && pass == 0; i++) {
                s[i] += term[i];
            }
            chi2 += w * pow(z - start - turn * path, 2);
        }
        if (pass == 1) {
            fit->cot_theta = slope + turn;
            fit->z0 = a->z + start; /* at the first point, so far */
            fit->chi2_line = n > 2 ? chi2 / (n - 2) : 0;
        }
    }

    /* the circle's centre, and from there the point nearest to the z axis: v[2] is not 0 where
     * tracks bend; a straight one is taken as a circle of 10⁹ mm */
    double c = fabs(v[2]) > 1e-9 ? v[2] : copysign(1e-9, v[2]);
    double fx = -v[1] / (2 * c) * chord, fy = 1 / (2 * c) * chord;
    double mx = o->x + fx * cx - fy * cy, my = o->y + fx * cy + fy * cx;
    double centre = hypot(mx, my), radius = sqrt(norm2) / (2 * fabs(c)) * chord;
    double turns = c > 0 ? 1 : -1; /* left: the centre is to the left */
    double px = mx * (1 - radius / centre), py = my * (1 - radius / centre);
    double tx = turns * (my - py) / radius, ty = -turns * (mx - px) / radius;
    fit->phi = atan2(ty, tx);
    fit->d0 = -px * ty + py * tx;
    double to_x = a->x - px, to_y = a->y - py;
    double path = arc(fit->curvature, hypot(to_x, to_y));
    fit->z0 -= fit->cot_theta * (to_x * tx + to_y * ty >= 0 ? path : -path);
    return true;
}

bool tm_ref_fit(const tm_pipeline_t *pipeline, const tm_points_t *points, const uint32_t *row,
                uint32_t n, bool kinks, tm_ref_fit_t *fit) {
    if (n < 3) {
        return false;
    }
    place_t *a = calloc(n, sizeof *a);
    if (!a) {
        return false;
    }
    for (uint32_t k = 0; k < n; k++) {
        a[k] = place_of(pipeline, points, row[k]);
    }
    const place_t *b = &a[n / 2], *c = &a[n - 1];
    bool done = false;
    if (hypot(c->x - a->x, c->y - a->y) >= 1) {
        double sides = hypot(b->x - a->x, b->y - a->y) * hypot(c->x - a->x, c->y - a->y) *
                       hypot(c->x - b->x, c->y - b->y);
        double area = (b->x - a->x) * (c->y - a->y) - (b->y - a->y) * (c->x - a->x);
        double pt = fmin(fmax(pt_of(pipeline, sides > 0 ? 2 * area / sides : 0), 0.1), 10);
        noise_t noise = {.constant = pow((double)pipeline->tracks.fit.scattering / pt, 2)};
        done = fit_places(a, n, noise, fit);
        if (done && kinks) {
            pt = fmin(fmax(pt_of(pipeline, fit->curvature), 0.1), 10);
            noise = (noise_t){.kinks = pow((double)pipeline->tracks.fit.kink / pt, 2) / 3};
            done = fit_places(a, n, noise, fit);
        }
    }
    free(a);
    return done;
}

/* ---- the steps ---- */

static void link(tm_ref_links_t *l, uint32_t a, uint32_t b, float logit) {
    l->next[a] = b;
    l->prev[b] = a;
    l->logit[a] = logit;
}

static void unlink(tm_ref_links_t *l, uint32_t a) {
    l->prev[l->next[a]] = TM_REF_NONE;
    l->next[a] = TM_REF_NONE;
}

/* The last `most` points up to a, and the first `most` from b on. */
static uint32_t around(const tm_ref_links_t *l, uint32_t a, uint32_t b, uint32_t most,
                       uint32_t *row, uint32_t *n_before) {
    uint32_t n = 1;
    uint32_t first = a;
    for (; n < most && l->prev[first] != TM_REF_NONE; n++) {
        first = l->prev[first];
    }
    *n_before = n;
    for (uint32_t k = 0; k < n; k++, first = l->next[first]) {
        row[k] = first;
    }
    for (uint32_t k = 0; k < most && b != TM_REF_NONE; k++, b = l->next[b]) {
        row[n++] = b;
    }
    return n;
}

static bool is_bad(const tm_ref_links_t *l, uint32_t a) {
    double logit = (double)l->logit[a];
    uint32_t row[POINTS_MAX];
    uint32_t before = 0;
    double score = (double)l->pipeline->tracks.split.score;
    /* compared as logits of single precision: scores near 1 are too close to each other */
    if (!(logit < (double)(float)log(score / (1 - score)))) {
        return false;
    }
    uint32_t n = around(l, a, l->next[a], l->pipeline->tracks.fit.ends, row, &before);
    if (n < 4) {
        return false;
    }
    tm_ref_fit_t fit;
    double most = (double)l->pipeline->tracks.split.chi2;
    return !tm_ref_fit(l->pipeline, l->points, row, n, false, &fit) || fit.chi2_circle > most ||
           fit.chi2_line > most;
}

static void split(tm_ref_links_t *l) {
    uint32_t n = l->points->n;
    bool broken = true;
    for (int round = 0; round < SPLIT_ROUNDS && broken; round++) {
        broken = false;
        for (uint32_t i = 0; i < n; i++) {
            if (l->prev[i] != TM_REF_NONE) {
                continue;
            }
            uint32_t worst = TM_REF_NONE;
            for (uint32_t a = i; l->next[a] != TM_REF_NONE; a = l->next[a]) {
                if (is_bad(l, a) && (worst == TM_REF_NONE || l->logit[a] < l->logit[worst])) {
                    worst = a;
                }
            }
            if (worst != TM_REF_NONE) {
                l->logit[worst] = NAN; /* to be broken at the end of the round */
                broken = true;
            }
        }
        for (uint32_t i = 0; i < n; i++) {
            if (l->next[i] != TM_REF_NONE && isnan(l->logit[i])) {
                unlink(l, i);
            }
        }
    }
}

static uint32_t points_of(const tm_ref_links_t *l, uint32_t head) {
    uint32_t n = 0;
    for (; head != TM_REF_NONE; head = l->next[head]) {
        n++;
    }
    return n;
}

static void select_chains(tm_ref_links_t *l) {
    for (uint32_t i = 0; i < l->points->n; i++) {
        uint32_t n = points_of(l, i);
        if (l->prev[i] != TM_REF_NONE || n < 2 || n > l->pipeline->tracks.select.points) {
            continue;
        }
        double sum = 0;
        for (uint32_t a = i; l->next[a] != TM_REF_NONE; a = l->next[a]) {
            sum += tm_ref_sigmoid((double)l->logit[a]);
        }
        if (sum / (n - 1) < (double)l->pipeline->tracks.select.score) {
            for (uint32_t a = i; a != TM_REF_NONE;) {
                uint32_t next = l->next[a];
                if (next != TM_REF_NONE) {
                    unlink(l, a);
                }
                a = next;
            }
        }
    }
}

/* A chain, with its fit. */
typedef struct {
    uint32_t head, tail;
    bool fitted;
    tm_ref_fit_t fit;
    uint32_t partner[PARTNERS];
    double score[PARTNERS]; /* falling */
    uint32_t n_partners;
    bool has_next, has_prev;
} chain_t;

static double score_joint(const tm_ref_links_t *l, const chain_t *a, const chain_t *b) {
    const tm_pipeline_t *p = l->pipeline;
    if (!(l->points->rho[b->head] > l->points->rho[a->tail]) ||
        !(fabs(a->fit.cot_theta - b->fit.cot_theta) <
          (double)p->tracks.join.dcot * (1 + fabs(a->fit.cot_theta))) ||
        !(fabs(remainder((double)l->points->phi[b->head] - (double)l->points->phi[a->tail],
                         2 * M_PI)) < (double)p->tracks.join.dphi)) {
        return -INFINITY;
    }
    uint32_t row[POINTS_MAX];
    uint32_t before = 0;
    tm_ref_fit_t fit;
    uint32_t n = around(l, a->tail, b->head, p->tracks.fit.ends, row, &before);
    if (!tm_ref_fit(p, l->points, row, n, false, &fit) ||
        fit.chi2_circle > (double)p->tracks.join.chi2 ||
        fit.chi2_line > (double)p->tracks.join.chi2) {
        return -INFINITY;
    }
    double pt = fmin(pt_of(p, fit.curvature), 3);
    double per_sin2 = 1 + fit.cot_theta * fit.cot_theta;
    const float *w = p->tracks.join.weight;
    return (double)w[0] + (double)w[1] * log(fit.chi2_circle + 0.1) +
           (double)w[2] * log(fit.chi2_line + 0.1) + (double)w[3] * log(pt) +
           (double)w[4] *
               log(fabs(a->fit.curvature - b->fit.curvature) / hypot(fit.curvature, 1e-4) + 0.02) +
           (double)w[5] *
               log(fabs(a->fit.cot_theta - b->fit.cot_theta) / sqrt(per_sin2) * pt + 0.001) +
           (double)w[6] * log(per_sin2);
}

/* Puts b among the best partners of a. */
static void offer(chain_t *a, uint32_t b, double score) {
    uint32_t k = a->n_partners;
    while (k > 0 && score > a->score[k - 1]) {
        k--;
    }
    if (k == PARTNERS) {
        return;
    }
    a->n_partners += a->n_partners < PARTNERS;
    for (uint32_t i = a->n_partners - 1; i > k; i--) {
        a->partner[i] = a->partner[i - 1];
        a->score[i] = a->score[i - 1];
    }
    a->partner[k] = b;
    a->score[k] = score;
}

/* Joins, of the pairs whose ends are free, the one with the highest score; false: there is none. */
static bool join_best(tm_ref_links_t *l, chain_t *chain, uint32_t n) {
    uint32_t best = TM_REF_NONE;
    uint32_t best_k = 0;
    for (uint32_t a = 0; a < n; a++) {
        for (uint32_t k = 0; k < chain[a].n_partners && !chain[a].has_next; k++) {
            if (!chain[chain[a].partner[k]].has_prev &&
                (best == TM_REF_NONE || chain[a].score[k] > chain[best].score[best_k])) {
                best = a;
                best_k = k;
            }
        }
    }
    if (best == TM_REF_NONE) {
        return false;
    }
    chain_t *b = &chain[chain[best].partner[best_k]];
    chain[best].has_next = b->has_prev = true;
    link(l, chain[best].tail, b->head, (float)chain[best].score[best_k]);
    return true;
}

static tm_status_t join(tm_ref_links_t *l, tm_error_t *err) {
    uint32_t n = 0;
    chain_t *chain = NULL;
    uint32_t *row = NULL;
    tm_status_t status = tm_ref_renew(&chain, l->points->n, sizeof *chain, err);
    if (status == TM_OK) {
        status = tm_ref_renew(&row, l->points->n, sizeof *row, err);
    }
    for (uint32_t i = 0; i < l->points->n && status == TM_OK; i++) {
        if (l->prev[i] != TM_REF_NONE || points_of(l, i) < 3) {
            continue;
        }
        uint32_t m = 0;
        for (uint32_t a = i; a != TM_REF_NONE; a = l->next[a]) {
            row[m++] = a;
        }
        chain[n] = (chain_t){.head = i, .tail = row[m - 1]};
        chain[n].fitted = tm_ref_fit(l->pipeline, l->points, row, m, false, &chain[n].fit);
        n++;
    }
    for (uint32_t a = 0; a < n; a++) {
        for (uint32_t b = 0; b < n; b++) {
            if (a != b && chain[a].fitted && chain[b].fitted) {
                double score = score_joint(l, &chain[a], &chain[b]);
                if (score > 0) {
                    offer(&chain[a], b, score);
                }
            }
        }
    }
    while (n > 0 && join_best(l, chain, n)) {
    }
    free(chain);
    free(row);
    return status;
}

tm_status_t tm_ref_track_steps(tm_ref_links_t *links, tm_error_t *err) {
    const tm_pipeline_t *p = links->pipeline;
    tm_status_t status = TM_OK;
    if (p->tracks.split.present) {
        split(links);
    }
    if (p->tracks.join.present) {
        status = join(links, err);
    }
    if (status == TM_OK && p->tracks.select.points > 0) {
        select_chains(links);
    }
    return status;
}
