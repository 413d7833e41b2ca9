// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/ref/ref.h"

typedef struct {
    double d2;
    uint32_t row;
} neighbour_t;

static int nearer(const void *a, const void *b) {
    const neighbour_t *x = a;
    const neighbour_t *y = b;
    if (x->d2 != y->d2) {
        return x->d2 < y->d2 ? -1 : 1;
    }
    return (x->row > y->row) - (x->row < y->row);
}

static int lower(const void *a, const void *b) {
    const neighbour_t *x = a;
    const neighbour_t *y = b;
    return (x->row > y->row) - (x->row < y->row);
}

double tm_ref_wrap_phi(double dphi) {
    const double pi = acos(-1);
    while (dphi > pi) {
        dphi -= 2 * pi;
    }
    while (dphi <= -pi) {
        dphi += 2 * pi;
    }
    return dphi;
}

static bool accept(const tm_pipeline_t *p, const tm_points_t *pt, uint32_t a, uint32_t b) {
    if (a == b) {
        return false;
    }
    if (p->radius.direction == TM_DIRECTION_INDEX && b > a) {
        return false;
    }
    if (p->radius.direction == TM_DIRECTION_OUTWARD &&
        (pt->rho[b] < pt->rho[a] || (pt->rho[b] == pt->rho[a] && b < a))) {
        return false;
    }
    double dphi = tm_ref_wrap_phi((double)pt->phi[b] - (double)pt->phi[a]);
    if (p->radius.dphi_max > 0 && !(fabs(dphi) < (double)p->radius.dphi_max)) {
        return false;
    }
    double dr = (double)pt->r[b] - (double)pt->r[a];
    double dz = (double)pt->z[b] - (double)pt->z[a];
    double z0 = (double)pt->z[a] - (double)pt->r[a] * dz / fmax(dr, 1e-3);
    return !(p->radius.z0_max > 0) || dr < (double)p->radius.z0_min_dr ||
           fabs(z0) < (double)p->radius.z0_max;
}

tm_status_t tm_ref_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err) {
    tm_ref_t *ref = (tm_ref_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    uint32_t n = points->n;
    uint32_t dim = p->embed.mlp.out;
    double r2 = (double)p->radius.r * (double)p->radius.r;
    uint32_t count = 0;
    uint32_t room = 0;
    neighbour_t *found = malloc((n > 0 ? n : 1) * sizeof *found);
    tm_status_t status = tm_ref_renew(&ref->src, 0, sizeof(uint32_t), err);
    if (status == TM_OK) {
        status = tm_ref_renew(&ref->dst, 0, sizeof(uint32_t), err);
    }
    if (!found) {
        status = tm_error_set(err, TM_E_NO_MEMORY, "no memory for neighbours");
    }
    for (uint32_t a = 0; a < n && status == TM_OK; a++) {
        uint32_t n_found = 0;
        for (uint32_t b = 0; b < n; b++) {
            double d2 = 0;
            for (uint32_t d = 0; d < dim; d++) {
                double u =
                    (double)embedding[(size_t)a * dim + d] - (double)embedding[(size_t)b * dim + d];
                d2 += u * u;
            }
            if (d2 <= r2) {
                found[n_found++] = (neighbour_t){.d2 = d2, .row = b};
            }
        }
        if (p->radius.k > 0 && n_found > p->radius.k) {
            qsort(found, n_found, sizeof *found, nearer);
            n_found = p->radius.k;
            qsort(found, n_found, sizeof *found, lower);
        }
        if (count + n_found > room) {
            room = 2 * (count + n_found);
            uint32_t *src = realloc(ref->src, room * sizeof *src);
            ref->src = src ? src : ref->src;
            uint32_t *dst = realloc(ref->dst, room * sizeof *dst);
            ref->dst = dst ? dst : ref->dst;
            if (!src || !dst) {
                status = tm_error_set(err, TM_E_NO_MEMORY, "no memory for %u edges", room);
                break;
            }
        }
        for (uint32_t k = 0; k < n_found; k++) {
            if (accept(p, points, a, found[k].row)) {
                ref->src[count] = a;
                ref->dst[count++] = found[k].row;
            }
        }
    }
    free(found);
    *edges = (tm_edges_t){.n = count, .src = ref->src, .dst = ref->dst};
    return status;
}
