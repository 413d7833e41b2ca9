// SPDX-License-Identifier: Apache-2.0
/*
 * A fast helix fit of a few ordered points: a circle in the transverse plane, a line of z against the
 * arc's length. Good enough to tell whether two pieces are of one track, and as start values of a
 * real fit; no covariance, no material, one field along z. docs/model-file.md, "fit", has the
 * arithmetic step by step.
 *
 * The circle is the linear least squares of y = a + b·x + c·(x² + y²) in a frame along the chord
 * (an algebraic fit, exact for points on a circle; compare V. Karimäki, NIM A 305 (1991) 187).
 *
 * All in double precision. Pure functions: any thread.
 */
#ifndef TM_NN_TRACKS_FIT_H
#define TM_NN_TRACKS_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "nn/stages.h"

#define TM_FIT_POINTS_MIN 3

/* A point as the fit takes it: mm; squares of the errors across the track in the transverse plane,
 * along r, and along z. */
typedef struct {
    double x, y, z;
    double var_phi, var_r, var_z;
} tm_fit_point_t;

typedef struct {
    uint32_t n;                  /* points */
    double chi2_circle;          /* of n − 3 degrees of freedom */
    double chi2_line;            /* of n − 2 */
    double curvature;            /* 1/mm; positive: turns left (counter-clockwise) going outward */
    double cot_theta;            /* dz/ds */
    double a, b, c;              /* the circle in its frame, mm, 1, 1/mm */
    double x0, y0, cos_t, sin_t; /* the frame: origin, mm, and direction of its x axis */
    double z_first;              /* the line at the first point, mm */
    double x_first, y_first;     /* that point */
} tm_fit_t;

/* The point of row i. points->r, phi, z are in host memory. */
tm_fit_point_t tm_fit_point(const tm_pipeline_t *pipeline, const tm_points_t *points, uint32_t i);

/* Fits point[row[0]], … point[row[n − 1]], which go outward. false: fewer than three, first and last
 * closer than 1 mm, not on anything like a circle, or a χ² above chi2_max per degree of freedom
 * (INFINITY: not asked). */
bool tm_fit_helix(const tm_pipeline_t *pipeline, const tm_fit_point_t *point, const uint32_t *row,
                  uint32_t n, double chi2_max, tm_fit_t *fit);

/* GeV; finite (a straight line has a large one). */
double tm_fit_pt(const tm_pipeline_t *pipeline, const tm_fit_t *fit);

/* A candidate at its point of closest approach to the z axis. */
typedef struct {
    double pt;  /* GeV */
    double phi; /* of the momentum, (−π, π] */
    double eta;
    double d0;  /* mm: −x·sin φ + y·cos φ of that point */
    double z0;  /* mm */
    int charge; /* e, ±1 */
} tm_fit_start_t;

/* Start values of the points in row, as for tm_fit_helix: pT and charge from that fit, the others
 * from one that trusts points less the further out they are. false: there is no fit. */
bool tm_fit_start(const tm_pipeline_t *pipeline, const tm_fit_point_t *point, const uint32_t *row,
                  uint32_t n, tm_fit_start_t *start);

#endif
