// SPDX-License-Identifier: Apache-2.0
#include "nn/tracks_post.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/tracks_chains.h"

#define NO_TRACK UINT32_MAX
#define START_MAX_MM 1e6 /* beyond, a fit says nothing */
#define BLOCK 64         /* candidates or points that a thread takes at a time */

struct tm_post {
    tm_buffer_t next, prev, logit, fit_point; /* per point */
    tm_buffer_t offsets, rows, scratch;       /* chains */
    tm_buffer_t src, dst, link_logits;        /* links that the steps leave */
    tm_buffer_t parent, components;           /* candidates */
};

tm_post_t *tm_post_new(void) {
    return calloc(1, sizeof(tm_post_t));
}

void tm_post_destroy(tm_post_t **p) {
    if (!*p) {
        return;
    }
    tm_post_t *post = *p;
    tm_buffer_t *buffers[] = {&post->next,        &post->prev,    &post->logit,
                              &post->fit_point,   &post->offsets, &post->rows,
                              &post->scratch,     &post->src,     &post->dst,
                              &post->link_logits, &post->parent,  &post->components};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) {
        tm_buffer_free(buffers[i]);
    }
    free(post);
    *p = NULL;
}

static bool has_steps(const tm_pipeline_t *p) {
    return p->tracks.split.present || p->tracks.select.points > 0 || p->tracks.join.present;
}

bool tm_post_wanted(const tm_pipeline_t *pipeline) {
    return has_steps(pipeline);
}

/* ---- the steps ---- */

static tm_status_t reserve_chains(tm_post_t *post, const tm_pipeline_t *pipeline, uint32_t n,
                                  tm_chains_t *chains, tm_error_t *err) {
    const struct {
        tm_buffer_t *buffer;
        void *array;
        size_t bytes;
    } arrays[] = {{&post->next, &chains->next, sizeof *chains->next},
                  {&post->prev, &chains->prev, sizeof *chains->prev},
                  {&post->logit, &chains->logit, sizeof *chains->logit},
                  {&post->rows, &chains->rows, sizeof *chains->rows},
                  {&post->offsets, &chains->offsets, sizeof *chains->offsets},
                  {&post->fit_point, &chains->fit_point,
                   pipeline->tracks.fit.present ? sizeof *chains->fit_point : 0}};
    for (size_t k = 0; k < sizeof arrays / sizeof arrays[0]; k++) {
        tm_status_t status =
            tm_buffer_reserve(arrays[k].buffer, (size_t)n + 1, arrays[k].bytes, "chains", err);
        if (status != TM_OK) {
            return status;
        }
        memcpy(arrays[k].array, &arrays[k].buffer->data, sizeof(void *));
    }
    chains->scratch = &post->scratch;
    return TM_OK;
}

static void find_fit_points(tm_chains_t *chains) {
    const uint32_t *next = chains->next;
    const uint32_t *prev = chains->prev;
#pragma omp parallel for schedule(dynamic, BLOCK) num_threads(chains->threads)
    for (uint32_t i = 0; i < chains->points->n; i++) {
        if (next[i] != TM_NO_POINT || prev[i] != TM_NO_POINT) {
            chains->fit_point[i] = tm_fit_point(chains->pipeline, chains->points, i);
        }
    }
}

/* Links → chains → steps → links, in buffers of post. */
static tm_status_t run_steps(tm_post_t *post, tm_chains_t *chains, tm_links_t *links,
                             tm_error_t *err) {
    const tm_pipeline_t *p = chains->pipeline;
    uint32_t n = chains->points->n;
    memset(chains->next, 0xff, n * sizeof *chains->next);
    memset(chains->prev, 0xff, n * sizeof *chains->prev);
    for (uint32_t k = 0; k < links->n; k++) {
        tm_chains_link(chains, links->src[k], links->dst[k], links->logits[k]);
    }
    if (p->tracks.fit.present) {
        find_fit_points(chains);
    }
    tm_status_t status = TM_OK;
    if (p->tracks.split.present) {
        tm_chains_list(chains, 2);
        status = tm_chains_split(chains, err);
    }
    if (status == TM_OK && p->tracks.join.present) {
        tm_chains_list(chains, TM_FIT_POINTS_MIN);
        status = tm_chains_join(chains, err);
    }
    if (status == TM_OK && p->tracks.select.points > 0) {
        tm_chains_list(chains, 2);
        tm_chains_select(chains);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&post->src, n, sizeof(uint32_t), "links", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&post->dst, n, sizeof(uint32_t), "links", err);
    }
    if (status == TM_OK) {
        status = tm_buffer_reserve(&post->link_logits, n, sizeof(float), "links", err);
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t *src = post->src.data;
    uint32_t *dst = post->dst.data;
    float *logits = post->link_logits.data;
    *links = (tm_links_t){.src = src, .dst = dst, .logits = logits};
    for (uint32_t i = 0; i < n; i++) {
        if (chains->next[i] != TM_NO_POINT) {
            src[links->n] = i;
            dst[links->n] = chains->next[i];
            logits[links->n++] = chains->logit[i];
        }
    }
    return TM_OK;
}

/* ---- candidates ---- */

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
    uint32_t points, links;
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
            tracks->scores[c->track] = c->links > 0 ? (float)(c->score_sum / c->links) : 0;
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

static tm_status_t assemble(tm_post_t *post, const tm_pipeline_t *pipeline,
                            const tm_points_t *points, const tm_links_t *links, tm_tracks_t *tracks,
                            tm_error_t *err) {
    uint32_t n = points->n;
    tm_status_t status = tm_buffer_reserve(&post->parent, n, sizeof(uint32_t), "components", err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&post->components, n, sizeof(component_t), "components", err);
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t *parent = post->parent.data;
    for (uint32_t i = 0; i < n; i++) {
        parent[i] = i;
    }
    for (uint32_t k = 0; k < links->n; k++) {
        join(parent, links->src[k], links->dst[k]);
    }
    component_t *components = post->components.data;
    memset(components, 0, n * sizeof *components);
    for (uint32_t i = 0; i < n; i++) {
        components[find_root(parent, i)].points++;
    }
    for (uint32_t k = 0; k < links->n; k++) {
        component_t *c = &components[find_root(parent, links->src[k])];
        c->links++;
        c->score_sum += 1 / (1 + exp(-(double)links->logits[k]));
    }
    return write_tracks(points, parent, components, pipeline->tracks.min_points, tracks, err);
}

/* The steps, where there are any, have the places of all linked points already. */
static tm_status_t find_starts(tm_post_t *post, const tm_chains_t *chains, tm_tracks_t *tracks,
                               tm_error_t *err) {
    tm_status_t status = tm_tracks_add_starts(tracks, err);
    if (status == TM_OK) {
        status = tm_buffer_reserve(&post->fit_point, chains->points->n, sizeof(tm_fit_point_t),
                                   "start values", err);
    }
    if (status != TM_OK) {
        return status;
    }
    tm_fit_point_t *place = post->fit_point.data;
    bool known = has_steps(chains->pipeline);
#pragma omp parallel for schedule(dynamic, BLOCK) num_threads(chains->threads)
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        const uint32_t *row = tracks->indices + tracks->offsets[t];
        uint32_t n = tracks->offsets[t + 1] - tracks->offsets[t];
        tm_fit_start_t start;
        for (uint32_t k = 0; k < n && !known; k++) {
            place[row[k]] = tm_fit_point(chains->pipeline, chains->points, row[k]);
        }
        if (tm_fit_start(chains->pipeline, place, row, n, &start) &&
            fabs(start.d0) < START_MAX_MM && fabs(start.z0) < START_MAX_MM) {
            tracks->starts.pt[t] = (float)start.pt;
            tracks->starts.phi[t] = (float)start.phi;
            tracks->starts.eta[t] = (float)start.eta;
            tracks->starts.d0[t] = (float)start.d0;
            tracks->starts.z0[t] = (float)start.z0;
            tracks->starts.charge[t] = (int8_t)start.charge;
        }
    }
    return TM_OK;
}

tm_status_t tm_post_run(tm_post_t *post, const tm_pipeline_t *pipeline, const tm_points_t *points,
                        const tm_links_t *links, int threads, const volatile int *cancelled,
                        tm_tracks_t *tracks, uint64_t *n_links, tm_error_t *err) {
    tm_chains_t chains = {
        .pipeline = pipeline, .points = points, .cancelled = cancelled, .threads = threads};
    tm_links_t left = *links;
    tm_status_t status = TM_OK;
    if (has_steps(pipeline) && points->n > 0) {
        status = reserve_chains(post, pipeline, points->n, &chains, err);
        if (status == TM_OK) {
            status = run_steps(post, &chains, &left, err);
        }
    }
    if (status == TM_OK && cancelled && *cancelled) {
        status = tm_error_set(err, TM_E_CANCELLED, "cancelled");
    }
    if (status == TM_OK) {
        *n_links = left.n;
        status = assemble(post, pipeline, points, &left, tracks, err);
    }
    if (status == TM_OK && pipeline->tracks.fit.present) {
        status = find_starts(post, &chains, tracks, err);
        if (status != TM_OK) {
            tm_tracks_clear(tracks);
        }
    }
    return status;
}
