// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/cpu/cpu.h"

#define NO_TRACK UINT32_MAX
#define HAS_OUTGOING 1u
#define HAS_INCOMING 2u

/* An edge that may be taken. */
typedef struct {
    float logit;
    uint32_t edge;
} candidate_t;

static int by_logit(const void *a, const void *b) {
    const candidate_t *x = a;
    const candidate_t *y = b;
    if (x->logit != y->logit) {
        return x->logit > y->logit ? -1 : 1;
    }
    return (x->edge > y->edge) - (x->edge < y->edge);
}

/* Leaves in list the edges that the builder takes and returns their number. Taking edges from the
 * best down wherever both ends are free gives the same set as taking, in rounds, all that are the
 * best of both their ends: the best edge left is always one of those. */
static uint32_t take_best_edges(candidate_t *list, uint32_t n_list, const tm_edges_t *edges,
                                uint8_t *used) {
    qsort(list, n_list, sizeof *list, by_logit);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n_list; i++) {
        uint32_t src = edges->src[list[i].edge];
        uint32_t dst = edges->dst[list[i].edge];
        if (!(used[src] & HAS_OUTGOING) && !(used[dst] & HAS_INCOMING)) {
            used[src] |= HAS_OUTGOING;
            used[dst] |= HAS_INCOMING;
            list[taken++] = list[i];
        }
    }
    return taken;
}

/* The least row of i's component, shortening the way there. */
static uint32_t find_root(uint32_t *parent, uint32_t i) {
    while (parent[i] != i) {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    return i;
}

static void join(uint32_t *parent, uint32_t a, uint32_t b) {
    a = find_root(parent, a);
    b = find_root(parent, b);
    if (a < b) {
        parent[b] = a;
    } else {
        parent[a] = b;
    }
}

/* Sorts rows by rho, then row: short lists nearly always, so insertion unless they are long. */
#define INSERTION_MAX 32u

static bool outward(const float *rho, uint32_t a, uint32_t b) {
    return rho[a] < rho[b] || (rho[a] == rho[b] && a < b);
}

/* Heap sort, for the one component of thousands that a bad cut can make. */
static void sift_down(uint32_t *rows, uint32_t n, uint32_t i, const float *rho) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) {
            return;
        }
        if (child + 1 < n && outward(rho, rows[child], rows[child + 1])) {
            child++;
        }
        if (!outward(rho, rows[i], rows[child])) {
            return;
        }
        uint32_t swap = rows[i];
        rows[i] = rows[child];
        rows[child] = swap;
        i = child;
    }
}

static void sort_outward(uint32_t *rows, uint32_t n, const float *rho) {
    if (n > INSERTION_MAX) {
        for (uint32_t i = n / 2; i-- > 0;) {
            sift_down(rows, n, i, rho);
        }
        for (uint32_t end = n; end-- > 1;) {
            uint32_t swap = rows[0];
            rows[0] = rows[end];
            rows[end] = swap;
            sift_down(rows, end, 0, rho);
        }
        return;
    }
    for (uint32_t i = 1; i < n; i++) {
        uint32_t x = rows[i];
        uint32_t j = i;
        for (; j > 0 && outward(rho, x, rows[j - 1]); j--) {
            rows[j] = rows[j - 1];
        }
        rows[j] = x;
    }
}

/* What is known of a component, at its root. */
typedef struct {
    uint32_t points, edges;
    uint32_t track; /* its number, NO_TRACK: too few points */
    double score_sum;
} component_t;

static tm_status_t write_tracks(const tm_points_t *points, uint32_t *parent,
                                component_t *components, uint32_t min_points, tm_tracks_t *tracks,
                                tm_error_t *err) {
    uint32_t n = points->n;
    uint32_t n_tracks = 0;
    uint32_t n_indices = 0;
    for (uint32_t i = 0; i < n; i++) {
        component_t *c = &components[i];
        c->track = NO_TRACK;
        if (c->points >= min_points && c->points > 0) { /* roots come in order: they are least */
            c->track = n_tracks++;
            n_indices += c->points;
        }
    }
    tm_status_t status = tm_tracks_alloc(tracks, n, n_tracks, n_indices, err);
    if (status != TM_OK) {
        return status;
    }
    uint32_t offset = 0;
    for (uint32_t i = 0; i < n; i++) {
        const component_t *c = &components[i];
        if (c->track != NO_TRACK) {
            tracks->offsets[c->track] = offset;
            tracks->scores[c->track] = c->edges > 0 ? (float)(c->score_sum / c->edges) : 0;
            offset += c->points;
        }
    }
    tracks->offsets[n_tracks] = offset;
    for (uint32_t i = 0; i < n; i++) {
        component_t *c = &components[find_root(parent, i)];
        if (c->track != NO_TRACK) {
            /* counting the points down again gives each its place */
            tracks->indices[tracks->offsets[c->track + 1] - c->points--] = i;
        }
    }
    for (uint32_t t = 0; t < n_tracks; t++) {
        sort_outward(tracks->indices + tracks->offsets[t],
                     tracks->offsets[t + 1] - tracks->offsets[t], points->rho);
    }
    return TM_OK;
}

tm_status_t tm_cpu_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    uint32_t n = points->n;
    tm_status_t status =
        tm_buffer_reserve(&cpu->order, edges->n, sizeof(candidate_t), "track edges", err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->parent, n, sizeof(uint32_t), "components", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&cpu->used, n, sizeof(component_t), "components", err);
    }
    if (status != TM_OK) {
        return status;
    }
    double cut = p->tracks.cut;
    double least = cut <= 0 ? -INFINITY : cut >= 1 ? INFINITY : log(cut / (1 - cut));
    candidate_t *list = cpu->order.data;
    uint32_t n_list = 0;
    for (uint32_t k = 0; k < edges->n; k++) {
        if ((double)logits[k] > least) {
            list[n_list++] = (candidate_t){.logit = logits[k], .edge = k};
        }
    }
    if (p->tracks.builder == TM_BUILDER_BEST_EDGES) {
        memset(cpu->used.data, 0, n);
        n_list = take_best_edges(list, n_list, edges, cpu->used.data);
    }
    uint32_t *parent = cpu->parent.data;
    for (uint32_t i = 0; i < n; i++) {
        parent[i] = i;
    }
    for (uint32_t k = 0; k < n_list; k++) {
        join(parent, edges->src[list[k].edge], edges->dst[list[k].edge]);
    }
    component_t *components = cpu->used.data;
    memset(components, 0, n * sizeof *components);
    for (uint32_t i = 0; i < n; i++) {
        components[find_root(parent, i)].points++;
    }
    for (uint32_t k = 0; k < n_list; k++) {
        component_t *c = &components[find_root(parent, edges->src[list[k].edge])];
        c->edges++;
        c->score_sum += 1 / (1 + exp(-(double)list[k].logit));
    }
    *track_edges = n_list;
    return write_tracks(points, parent, components, p->tracks.min_points, tracks, err);
}
