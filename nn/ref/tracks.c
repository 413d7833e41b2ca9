// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>

#include "nn/ref/ref.h"
#include "nn/ref/tracks_steps.h"

/* Working arrays of one event. */
typedef struct {
    uint32_t n;
    const tm_edges_t *edges;
    const float *logits;
    bool *candidate, *taken;      /* [edges->n] */
    bool *outgoing, *incoming;    /* [n] */
    uint32_t *best_out, *best_in; /* [n]: edge, or UINT32_MAX */
    uint32_t *label;              /* [n]: least row of the component */
    uint32_t *size, *n_edges;     /* [n], by label */
    double *score;                /* [n], by label */
    uint32_t *next, *prev;        /* [n]: chains, for the steps behind the builder */
    float *link_logit;            /* [n] */
    uint32_t *src, *dst;          /* [n]: the links that the steps leave */
    tm_edges_t links;
} work_t;

/* Whether edge e is better than edge `than`, which may be none. */
static bool better(const work_t *w, uint32_t e, uint32_t than) {
    return than == UINT32_MAX || w->logits[e] > w->logits[than];
}

/* One round of the best_edges builder; false: nothing was taken. */
static bool take_round(work_t *w) {
    bool any = false;
    for (uint32_t i = 0; i < w->n; i++) {
        w->best_out[i] = w->best_in[i] = UINT32_MAX;
    }
    for (uint32_t e = 0; e < w->edges->n; e++) {
        uint32_t a = w->edges->src[e];
        uint32_t b = w->edges->dst[e];
        if (!w->candidate[e] || w->outgoing[a] || w->incoming[b]) {
            continue;
        }
        /* edges come in ascending order, so the lower one stays the best of two equals */
        w->best_out[a] = better(w, e, w->best_out[a]) ? e : w->best_out[a];
        w->best_in[b] = better(w, e, w->best_in[b]) ? e : w->best_in[b];
    }
    for (uint32_t e = 0; e < w->edges->n; e++) {
        uint32_t a = w->edges->src[e];
        uint32_t b = w->edges->dst[e];
        if (w->best_out[a] == e && w->best_in[b] == e) {
            w->taken[e] = w->outgoing[a] = w->incoming[b] = any = true;
        }
    }
    return any;
}

/* Spreads the least row along the edges taken until nothing changes. */
static void label_components(work_t *w) {
    for (uint32_t i = 0; i < w->n; i++) {
        w->label[i] = i;
    }
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t e = 0; e < w->edges->n; e++) {
            uint32_t *a = &w->label[w->edges->src[e]];
            uint32_t *b = &w->label[w->edges->dst[e]];
            if (w->taken[e] && *a != *b) {
                *a = *b = *a < *b ? *a : *b;
                changed = true;
            }
        }
    }
}

/* Places each track's points one by one where their rho belongs. */
static void place_points(const work_t *w, const float *rho, uint32_t min_points,
                         tm_tracks_t *tracks) {
    uint32_t t = 0;
    uint32_t at = 0;
    for (uint32_t root = 0; root < w->n; root++) {
        if (w->label[root] != root || w->size[root] < min_points) {
            continue;
        }
        tracks->offsets[t] = at;
        tracks->scores[t] = w->n_edges[root] > 0 ? (float)(w->score[root] / w->n_edges[root]) : 0;
        for (uint32_t i = root; i < w->n; i++) {
            if (w->label[i] != root) {
                continue;
            }
            uint32_t j = at++;
            for (; j > tracks->offsets[t] && rho[tracks->indices[j - 1]] > rho[i]; j--) {
                tracks->indices[j] = tracks->indices[j - 1];
            }
            tracks->indices[j] = i;
        }
        t++;
    }
    tracks->offsets[t] = at;
}

/* Edges taken → chains → steps → the links left, which take the place of the edges. */
static tm_status_t run_steps(work_t *w, const tm_pipeline_t *p, const tm_points_t *points,
                             tm_error_t *err) {
    for (uint32_t i = 0; i < w->n; i++) {
        w->next[i] = w->prev[i] = TM_REF_NONE;
    }
    for (uint32_t e = 0; e < w->edges->n; e++) {
        if (w->taken[e]) {
            w->next[w->edges->src[e]] = w->edges->dst[e];
            w->prev[w->edges->dst[e]] = w->edges->src[e];
            w->link_logit[w->edges->src[e]] = w->logits[e];
        }
    }
    tm_ref_links_t chains = {
        .pipeline = p, .points = points, .next = w->next, .prev = w->prev, .logit = w->link_logit};
    tm_status_t status = tm_ref_track_steps(&chains, err);
    if (status != TM_OK) {
        return status;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->next[i] != TM_REF_NONE) {
            w->src[w->links.n] = i;
            w->dst[w->links.n] = w->next[i];
            w->link_logit[w->links.n++] = w->link_logit[i];
        }
    }
    w->links.src = w->src;
    w->links.dst = w->dst;
    w->edges = &w->links;
    w->logits = w->link_logit;
    status = tm_ref_renew(&w->taken, w->links.n, sizeof *w->taken, err);
    for (uint32_t e = 0; e < w->links.n && status == TM_OK; e++) {
        w->taken[e] = true;
    }
    return status;
}

static tm_status_t find(work_t *w, const tm_pipeline_t *p, const tm_points_t *points,
                        tm_tracks_t *tracks, uint64_t *track_edges, tm_error_t *err) {
    for (uint32_t e = 0; e < w->edges->n; e++) {
        w->candidate[e] = tm_ref_sigmoid((double)w->logits[e]) > (double)p->tracks.cut;
        w->taken[e] = w->candidate[e] && p->tracks.builder == TM_BUILDER_COMPONENTS;
    }
    while (p->tracks.builder == TM_BUILDER_BEST_EDGES && take_round(w)) {
    }
    if (p->tracks.split.present || p->tracks.join.present || p->tracks.select.points > 0) {
        tm_status_t status = run_steps(w, p, points, err);
        if (status != TM_OK) {
            return status;
        }
    }
    label_components(w);
    *track_edges = 0;
    for (uint32_t e = 0; e < w->edges->n; e++) {
        if (w->taken[e]) {
            uint32_t root = w->label[w->edges->src[e]];
            w->n_edges[root]++;
            w->score[root] += tm_ref_sigmoid((double)w->logits[e]);
            (*track_edges)++;
        }
    }
    uint32_t n_tracks = 0;
    uint32_t n_indices = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        w->size[w->label[i]]++;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->label[i] == i && w->size[i] >= p->tracks.min_points) {
            n_tracks++;
            n_indices += w->size[i];
        }
    }
    tm_status_t status = tm_tracks_alloc(tracks, w->n, n_tracks, n_indices, err);
    if (status == TM_OK) {
        place_points(w, points->rho, p->tracks.min_points, tracks);
    }
    return status;
}

tm_status_t tm_ref_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err) {
    work_t w = {.n = points->n, .edges = edges, .logits = logits};
    const struct {
        void *array;
        size_t count, bytes;
    } arrays[] = {
        {&w.candidate, edges->n, sizeof(bool)}, {&w.taken, edges->n, sizeof(bool)},
        {&w.outgoing, w.n, sizeof(bool)},       {&w.incoming, w.n, sizeof(bool)},
        {&w.best_out, w.n, sizeof(uint32_t)},   {&w.best_in, w.n, sizeof(uint32_t)},
        {&w.label, w.n, sizeof(uint32_t)},      {&w.size, w.n, sizeof(uint32_t)},
        {&w.n_edges, w.n, sizeof(uint32_t)},    {&w.score, w.n, sizeof(double)},
        {&w.next, w.n, sizeof(uint32_t)},       {&w.prev, w.n, sizeof(uint32_t)},
        {&w.link_logit, w.n, sizeof(float)},    {&w.src, w.n, sizeof(uint32_t)},
        {&w.dst, w.n, sizeof(uint32_t)},
    };
    tm_status_t status = TM_OK;
    for (size_t k = 0; k < sizeof arrays / sizeof arrays[0] && status == TM_OK; k++) {
        status = tm_ref_renew(arrays[k].array, arrays[k].count, arrays[k].bytes, err);
    }
    if (status == TM_OK) {
        status = find(&w, device->pipeline, points, tracks, track_edges, err);
    }
    free(w.candidate);
    free(w.taken);
    free(w.outgoing);
    free(w.incoming);
    free(w.best_out);
    free(w.best_in);
    free(w.label);
    free(w.size);
    free(w.n_edges);
    free(w.score);
    free(w.next);
    free(w.prev);
    free(w.link_logit);
    free(w.src);
    free(w.dst);
    return status;
}
