// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/tracks_chains.h"

#define PARTNERS_MAX 8u /* continuations that each chain keeps */
#define ENDS_MAX 64     /* points of a joint fit */
#define BLOCK 64        /* chains that a thread takes at a time */
#define PHI_CELLS 64
#define ETA_CELLS 64
#define ETA_MAX 5.0

/* Where the logarithms of the joint's score are cut off. */
#define CHI2_FLOOR 0.1
#define PT_TOP_GEV 3.0
#define CURVATURE_FLOOR 1e-4 /* 1/mm */
#define CURVATURES_FLOOR 0.02
#define DIRECTIONS_FLOOR 0.001

/* What a chain looks like from both its ends. */
typedef struct {
    bool fitted;
    tm_fit_t fit;
    double phi_start, phi_end;
    float rho_start, rho_end;
} shape_t;

/* A continuation: chain `to` behind chain `from`. */
typedef struct {
    double score;
    uint32_t from, to;
} joint_t;

typedef struct {
    tm_chains_t *chains;
    shape_t *shape;           /* [chains->n] */
    joint_t *joint;           /* [chains->n, PARTNERS_MAX] */
    uint32_t *n_joints;       /* [chains->n] */
    uint32_t *cell, *members; /* [PHI_CELLS * ETA_CELLS + 1]; [chains->n]: chains by their start */
    uint8_t *used;            /* [chains->n]: 1: has a continuation, 2: is one */
} work_t;

static double wrap(double dphi) {
    return remainder(dphi, 2 * M_PI);
}

static int clamp_cell(double cell, int cells) {
    return cell < 0 ? 0 : cell >= cells ? cells - 1 : (int)cell;
}

static int phi_cell(double phi) {
    return clamp_cell((phi + M_PI) / (2 * M_PI) * PHI_CELLS, PHI_CELLS);
}

static int eta_cell(double cot_theta) {
    return clamp_cell((asinh(cot_theta) + ETA_MAX) / (2 * ETA_MAX) * ETA_CELLS, ETA_CELLS);
}

static void describe(const work_t *w, uint32_t c) {
    const tm_chains_t *chains = w->chains;
    const uint32_t *row = chains->rows + chains->offsets[c];
    uint32_t n = chains->offsets[c + 1] - chains->offsets[c];
    shape_t *s = &w->shape[c];
    s->fitted = tm_fit_helix(chains->pipeline, chains->fit_point, row, n, INFINITY, &s->fit);
    s->phi_start = (double)chains->points->phi[row[0]];
    s->phi_end = (double)chains->points->phi[row[n - 1]];
    s->rho_start = chains->points->rho[row[0]];
    s->rho_end = chains->points->rho[row[n - 1]];
}

/* Chains by the cell of phi and cot θ that they start in: a counting sort. */
static void sort_starts(const work_t *w) {
    memset(w->cell, 0, (PHI_CELLS * ETA_CELLS + 1) * sizeof *w->cell);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t c = w->chains->n; c-- > 0;) { /* downwards: members ascend */
            const shape_t *s = &w->shape[c];
            if (s->fitted) {
                int k = phi_cell(s->phi_start) * ETA_CELLS + eta_cell(s->fit.cot_theta);
                if (pass == 0) {
                    w->cell[k]++;
                } else {
                    w->members[--w->cell[k]] = c;
                }
            }
        }
        for (int k = 1; pass == 0 && k <= PHI_CELLS * ETA_CELLS; k++) {
            w->cell[k] += w->cell[k - 1];
        }
    }
}

/* The score of the joint as a logit; −infinity: they do not fit. */
static double score_of(const work_t *w, uint32_t a, uint32_t b) {
    const tm_chains_t *chains = w->chains;
    const tm_pipeline_t *p = chains->pipeline;
    uint32_t ends = p->tracks.fit.ends;
    uint32_t n_a = chains->offsets[a + 1] - chains->offsets[a];
    uint32_t n_b = chains->offsets[b + 1] - chains->offsets[b];
    n_a = n_a < ends ? n_a : ends;
    n_b = n_b < ends ? n_b : ends;
    uint32_t row[ENDS_MAX];
    memcpy(row, chains->rows + chains->offsets[a + 1] - n_a, n_a * sizeof *row);
    memcpy(row + n_a, chains->rows + chains->offsets[b], n_b * sizeof *row);
    tm_fit_t fit;
    if (!tm_fit_helix(p, chains->fit_point, row, n_a + n_b, (double)p->tracks.join.chi2, &fit)) {
        return -INFINITY;
    }
    double circle = fit.chi2_circle / (n_a + n_b - 3);
    double line = fit.chi2_line / (n_a + n_b - 2);
    const tm_fit_t *fit_a = &w->shape[a].fit;
    const tm_fit_t *fit_b = &w->shape[b].fit;
    double pt = tm_fit_pt(p, &fit);
    pt = pt < PT_TOP_GEV ? pt : PT_TOP_GEV;
    double per_sin2 = 1 + fit.cot_theta * fit.cot_theta;
    double curvatures = fabs(fit_a->curvature - fit_b->curvature) /
                        sqrt(fit.curvature * fit.curvature + CURVATURE_FLOOR * CURVATURE_FLOOR);
    double directions = fabs(fit_a->cot_theta - fit_b->cot_theta) / sqrt(per_sin2) * pt;
    const double value[TM_JOIN_WEIGHTS] = {1,
                                           log(circle + CHI2_FLOOR),
                                           log(line + CHI2_FLOOR),
                                           log(pt),
                                           log(curvatures + CURVATURES_FLOOR),
                                           log(directions + DIRECTIONS_FLOOR),
                                           log(per_sin2)};
    double score = 0;
    for (int k = 0; k < TM_JOIN_WEIGHTS; k++) {
        score += (double)p->tracks.join.weight[k] * value[k];
    }
    return score;
}

static int by_score(const void *a, const void *b) {
    const joint_t *x = a;
    const joint_t *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    if (x->from != y->from) {
        return x->from < y->from ? -1 : 1;
    }
    return (x->to > y->to) - (x->to < y->to);
}

/* Keeps the joint if it is among the best of its chain so far, which stay sorted. */
static void keep(const work_t *w, const joint_t *joint) {
    joint_t *list = w->joint + (size_t)joint->from * PARTNERS_MAX;
    uint32_t *n = &w->n_joints[joint->from];
    uint32_t k = *n;
    for (; k > 0 && by_score(joint, &list[k - 1]) < 0; k--) {
        if (k < PARTNERS_MAX) {
            list[k] = list[k - 1];
        }
    }
    if (k < PARTNERS_MAX) {
        list[k] = *joint;
        *n += *n < PARTNERS_MAX;
    }
}

static bool near(const tm_pipeline_t *p, const shape_t *a, const shape_t *b) {
    return b->rho_start > a->rho_end &&
           fabs(a->fit.cot_theta - b->fit.cot_theta) <
               (double)p->tracks.join.dcot * (1 + fabs(a->fit.cot_theta)) &&
           fabs(wrap(b->phi_start - a->phi_end)) < (double)p->tracks.join.dphi;
}

static void find_joints(const work_t *w, uint32_t a) {
    const tm_pipeline_t *p = w->chains->pipeline;
    const shape_t *s = &w->shape[a];
    w->n_joints[a] = 0;
    if (!s->fitted) {
        return;
    }
    double reach = (double)p->tracks.join.dcot * (1 + fabs(s->fit.cot_theta));
    int eta_low = eta_cell(s->fit.cot_theta - reach);
    int eta_high = eta_cell(s->fit.cot_theta + reach);
    /* one cell more on each side than asked for: rounding cannot leave out a start on an edge */
    int around = (int)ceil((double)p->tracks.join.dphi / (2 * M_PI) * PHI_CELLS) + 1;
    around = around < PHI_CELLS / 2 ? around : PHI_CELLS / 2;
    int middle = phi_cell(s->phi_end);
    int n_phi = 2 * around + 1 < PHI_CELLS ? 2 * around + 1 : PHI_CELLS;
    for (int i = 0; i < n_phi; i++) {
        int phi = (middle - around + i + PHI_CELLS) % PHI_CELLS;
        uint32_t end = w->cell[phi * ETA_CELLS + eta_high + 1];
        for (uint32_t m = w->cell[phi * ETA_CELLS + eta_low]; m < end; m++) {
            uint32_t b = w->members[m];
            if (a == b || !near(p, s, &w->shape[b])) {
                continue;
            }
            joint_t joint = {.score = score_of(w, a, b), .from = a, .to = b};
            if (joint.score > 0) {
                keep(w, &joint);
            }
        }
    }
}

/* From the best down wherever both ends are free: what rounds of mutually best joints give. */
static void take(const work_t *w) {
    tm_chains_t *chains = w->chains;
    size_t n = 0;
    for (uint32_t c = 0; c < chains->n; c++) { /* closing ranks */
        for (uint32_t k = 0; k < w->n_joints[c]; k++) {
            w->joint[n++] = w->joint[(size_t)c * PARTNERS_MAX + k];
        }
    }
    qsort(w->joint, n, sizeof *w->joint, by_score);
    memset(w->used, 0, chains->n);
    for (size_t k = 0; k < n; k++) {
        const joint_t *j = &w->joint[k];
        if (!(w->used[j->from] & 1u) && !(w->used[j->to] & 2u)) {
            w->used[j->from] |= 1u;
            w->used[j->to] |= 2u;
            tm_chains_link(chains, chains->rows[chains->offsets[j->from + 1] - 1],
                           chains->rows[chains->offsets[j->to]], (float)j->score);
        }
    }
}

tm_status_t tm_chains_join(tm_chains_t *chains, tm_error_t *err) {
    size_t n = chains->n;
    size_t n_cells = PHI_CELLS * ETA_CELLS + 1;
    tm_status_t status = tm_buffer_reserve(chains->scratch, 1,
                                           n * (sizeof(shape_t) + PARTNERS_MAX * sizeof(joint_t) +
                                                2 * sizeof(uint32_t) + sizeof(uint8_t)) +
                                               n_cells * sizeof(uint32_t),
                                           "joints", err);
    if (status != TM_OK) {
        return status;
    }
    work_t w = {.chains = chains, .shape = chains->scratch->data};
    w.joint = (joint_t *)(w.shape + n);
    w.n_joints = (uint32_t *)(w.joint + n * PARTNERS_MAX);
    w.members = w.n_joints + n;
    w.cell = w.members + n;
    w.used = (uint8_t *)(w.cell + n_cells);
#pragma omp parallel for schedule(dynamic, BLOCK) num_threads(chains->threads)
    for (uint32_t c = 0; c < chains->n; c++) {
        describe(&w, c);
    }
    sort_starts(&w);
#pragma omp parallel for schedule(dynamic, BLOCK) num_threads(chains->threads)
    for (uint32_t c = 0; c < chains->n; c++) {
        if (chains->cancelled && *chains->cancelled) {
            w.n_joints[c] = 0;
        } else {
            find_joints(&w, c);
        }
    }
    take(&w);
    return TM_OK;
}
