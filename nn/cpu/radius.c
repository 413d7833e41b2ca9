// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "nn/cpu/cpu.h"
#include "nn/cpu/kd_tiles.h"

/* Targets of edges are stored in pieces of at least this many, so that nothing is ever copied to
 * grow and the memory left is looked at each time. */
#define PIECE_EDGES (1u << 20)
/* What an edge needs in all: in its piece, and as source and target of the result. */
#define EDGE_BYTES (3 * sizeof(uint32_t))
/* Boxes are tested in the same precision as points: a little slack keeps the search exact. */
#define BOX_SLACK 1.0001f
/* Coordinate of boxes that nothing reaches: its square is still finite. */
#define FAR_AWAY 1e18f
#define PI_F 3.14159265358979f
#define LEAST_DR_MM 1e-3f
/* Rows up to this long are sorted by insertion. */
#define INSERTION_MAX 24u
#define COPY_ROWS 1024

typedef struct piece {
    struct piece *next;
    size_t used, capacity;
    uint32_t data[];
} piece_t;

/* A neighbour of a point and its squared distance. */
typedef struct {
    float d2;
    uint32_t row;
} neighbour_t;

/* What one thread writes. */
typedef struct {
    piece_t *first, *current; /* all pieces; those after current are empty */
    tm_buffer_t near;         /* [n_tiles]: tiles near the tile at hand */
    tm_buffer_t reached;      /* [n_tiles]: those of them near the point at hand */
    tm_buffer_t boxes;        /* of the near tiles, as boxes_reached wants them */
    tm_buffer_t box_keys;     /* the largest key of each */
    tm_buffer_t found;        /* [n]: neighbours of the point at hand */
} worker_t;

/* Where the targets of one row are. */
typedef struct {
    uint32_t *dst;
    uint32_t count;
} row_t;

struct tm_radius {
    int threads;
    worker_t *workers;
    tm_kd_tiles_t kd;
    tm_buffer_t rows;    /* row_t [n] */
    tm_buffer_t offsets; /* uint32_t [n + 1] */
    tm_buffer_t keys;    /* float [n] */
};

/* One event's search. */
typedef struct {
    tm_cpu_t *cpu;
    tm_radius_t *own;
    const tm_points_t *points;
    row_t *rows;
    float r2;
    uint64_t n_edges;   /* atomic */
    tm_status_t status; /* atomic; the first failure, with its text in error */
    tm_error_t error;
} search_t;

tm_radius_t *tm_radius_new(int threads) {
    tm_radius_t *radius = calloc(1, sizeof *radius);
    if (!radius) {
        return NULL;
    }
    radius->threads = threads;
    radius->workers = calloc((size_t)threads, sizeof *radius->workers);
    if (!radius->workers) {
        free(radius);
        return NULL;
    }
    return radius;
}

void tm_radius_destroy(tm_radius_t **p) {
    tm_radius_t *radius = *p;
    if (!radius) {
        return;
    }
    for (int t = 0; t < radius->threads; t++) {
        worker_t *w = &radius->workers[t];
        while (w->first) {
            piece_t *next = w->first->next;
            free(w->first);
            w->first = next;
        }
        tm_buffer_free(&w->near);
        tm_buffer_free(&w->reached);
        tm_buffer_free(&w->boxes);
        tm_buffer_free(&w->box_keys);
        tm_buffer_free(&w->found);
    }
    tm_kd_tiles_free(&radius->kd);
    tm_buffer_free(&radius->rows);
    tm_buffer_free(&radius->offsets);
    tm_buffer_free(&radius->keys);
    free(radius->workers);
    free(radius);
    *p = NULL;
}

/* ---- storing ---- */

static void fail(search_t *s, const tm_error_t *err) {
#pragma omp critical(tm_radius_fail)
    if (s->status == TM_OK) {
        s->error = *err;
        __atomic_store_n(&s->status, err->code, __ATOMIC_RELEASE);
    }
}

static bool failed(const search_t *s) {
    return __atomic_load_n(&s->status, __ATOMIC_ACQUIRE) != TM_OK;
}

/* Room for `count` more targets, next to each other; NULL: failed. */
static uint32_t *store(search_t *s, worker_t *w, uint32_t count) {
    while (w->current && w->current->capacity - w->current->used < count) {
        w->current = w->current->next;
    }
    if (!w->current) {
        size_t capacity = count > PIECE_EDGES ? count : PIECE_EDGES;
        tm_error_t err = {0};
        tm_status_t status = tm_memory_check(capacity * EDGE_BYTES, "the radius graph", &err);
        piece_t *piece = NULL;
        if (status == TM_OK) {
            piece = malloc(sizeof *piece + capacity * sizeof piece->data[0]);
            if (!piece) {
                tm_error_set(&err, TM_E_NO_MEMORY, "no memory for the radius graph");
            }
        }
        if (!piece) {
            fail(s, &err);
            return NULL;
        }
        piece->next = NULL;
        piece->used = 0;
        piece->capacity = capacity;
        piece_t **end = &w->first;
        while (*end) {
            end = &(*end)->next;
        }
        *end = piece;
        w->current = piece;
    }
    uint32_t *room = w->current->data + w->current->used;
    w->current->used += count;
    return room;
}

/* ---- one point ---- */

static bool before(const neighbour_t *a, const neighbour_t *b) {
    return a->d2 < b->d2 || (a->d2 == b->d2 && a->row < b->row);
}

/* Brings the k least of list [n] to its front, in any order. */
static void select_nearest(neighbour_t *list, uint32_t n, uint32_t k) {
    uint32_t begin = 0;
    uint32_t end = n;
    while (end - begin > 1) {
        /* all elements differ by row, so a plain partition cannot stall on equal ones */
        neighbour_t pivot = list[begin + (end - begin) / 2];
        list[begin + (end - begin) / 2] = list[end - 1];
        uint32_t at = begin;
        for (uint32_t i = begin; i + 1 < end; i++) {
            neighbour_t x = list[i];
            if (before(&x, &pivot)) {
                list[i] = list[at];
                list[at++] = x;
            }
        }
        list[end - 1] = list[at];
        list[at] = pivot;
        if (k == at || k == at + 1) {
            return;
        }
        if (k < at) {
            end = at;
        } else {
            begin = at + 1;
        }
    }
}

/* Whether the edge a → b has the direction and the geometry that the model asks for. */
static bool accept(const search_t *s, uint32_t a, uint32_t b) {
    const tm_pipeline_t *p = s->cpu->device.pipeline;
    const tm_points_t *pt = s->points;
    if (p->radius.direction == TM_DIRECTION_INDEX) {
        if (b >= a) {
            return false;
        }
    } else if (pt->rho[b] < pt->rho[a] || (pt->rho[b] == pt->rho[a] && b <= a)) {
        return false;
    }
    if (p->radius.dphi_max > 0) {
        float dphi = pt->phi[b] - pt->phi[a];
        dphi = dphi > PI_F ? dphi - 2 * PI_F : dphi;
        dphi = dphi <= -PI_F ? dphi + 2 * PI_F : dphi;
        if (!(fabsf(dphi) < p->radius.dphi_max)) {
            return false;
        }
    }
    if (p->radius.z0_max > 0) {
        float dr = pt->r[b] - pt->r[a];
        if (!(dr < p->radius.z0_min_dr)) {
            float dz = pt->z[b] - pt->z[a];
            float z0 = pt->z[a] - pt->r[a] * dz / (dr > LEAST_DR_MM ? dr : LEAST_DR_MM);
            return fabsf(z0) < p->radius.z0_max;
        }
    }
    return true;
}

static int compare_rows(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void sort_rows(uint32_t *rows, uint32_t n) {
    if (n > INSERTION_MAX) {
        qsort(rows, n, sizeof *rows, compare_rows);
        return;
    }
    for (uint32_t i = 1; i < n; i++) {
        uint32_t x = rows[i];
        uint32_t j = i;
        for (; j > 0 && rows[j - 1] > x; j--) {
            rows[j] = rows[j - 1];
        }
        rows[j] = x;
    }
}

/* Finds and stores the edges that start at the point at `place` of the kd order. */
static void search_point(search_t *s, worker_t *w, uint32_t place, uint32_t n_near) {
    const tm_kd_tiles_t *kd = &s->own->kd;
    const tm_kernels_t *kernels = s->cpu->kernels;
    uint32_t k = s->cpu->device.pipeline->radius.k;
    uint32_t row = kd->order[place];
    uint32_t lane = place % TM_TILE;
    const float *own_tile = kd->tiles + (size_t)(place / TM_TILE) * kd->dims * TM_TILE;
    float query[TM_EMBED_DIM_MAX] = {0};
    for (uint32_t d = 0; d < kd->dims; d++) {
        query[d] = own_tile[d * TM_TILE + lane];
    }
    /* with a cap every neighbour counts, whatever its direction */
    float least_key = k > 0 ? -INFINITY : kd->keys[place];
    float d2[TM_TILE];
    neighbour_t *found = w->found.data;
    uint32_t n_found = 0;
    uint32_t *reached = w->reached.data;
    uint32_t n_reached =
        kernels->boxes_reached(query, w->boxes.data, n_near, kd->dims, s->r2 * BOX_SLACK,
                               w->box_keys.data, least_key, w->near.data, reached);
    for (uint32_t t = 0; t < n_reached; t++) {
        uint32_t tile = reached[t];
        uint64_t hits =
            kernels->tile_hits(query, kd->tiles + (size_t)tile * kd->dims * TM_TILE, kd->dims,
                               s->r2, kd->keys + (size_t)tile * TM_TILE, least_key, d2);
        for (; hits; hits &= hits - 1) {
            uint32_t j = (uint32_t)__builtin_ctzll(hits);
            uint32_t b = kd->order[tile * TM_TILE + j];
            if (k > 0 || accept(s, row, b)) {
                found[n_found++] = (neighbour_t){.d2 = d2[j], .row = b};
            }
        }
    }
    if (k > 0) {
        if (n_found > k) {
            select_nearest(found, n_found, k);
            n_found = k;
        }
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n_found; i++) {
            if (accept(s, row, found[i].row)) {
                found[kept++] = found[i];
            }
        }
        n_found = kept;
    }
    s->rows[row] = (row_t){.dst = NULL, .count = n_found};
    if (n_found == 0) {
        return;
    }
    uint32_t *dst = store(s, w, n_found);
    if (!dst) {
        return;
    }
    for (uint32_t i = 0; i < n_found; i++) {
        dst[i] = found[i].row;
    }
    sort_rows(dst, n_found);
    s->rows[row].dst = dst;
}

/* Copies the boxes of the near tiles to where the points of one tile can test them fast. */
static void pack_boxes(const tm_kd_tiles_t *kd, worker_t *w, uint32_t n_near) {
    const uint32_t *near = w->near.data;
    float *boxes = w->boxes.data;
    float *keys = w->box_keys.data;
    uint32_t n_packed = (n_near + TM_BOX_GROUP - 1) / TM_BOX_GROUP * TM_BOX_GROUP;
    tm_kd_node_t nowhere = {.key_max = -INFINITY}; /* fills the last group */
    for (uint32_t d = 0; d < kd->dims; d++) {
        nowhere.low[d] = nowhere.high[d] = FAR_AWAY;
    }
    for (uint32_t i = 0; i < n_packed; i++) {
        const tm_kd_node_t *node = i < n_near ? &kd->nodes[kd->tile_node[near[i]]] : &nowhere;
        uint32_t lane = i % TM_BOX_GROUP;
        float *group = boxes + (size_t)(i - lane) * kd->dims * 2;
        keys[i] = node->key_max;
        for (uint32_t d = 0; d < kd->dims; d++) {
            group[2 * d * TM_BOX_GROUP + lane] = node->low[d];
            group[(2 * d + 1) * TM_BOX_GROUP + lane] = node->high[d];
        }
    }
}

static void search_tile(search_t *s, uint32_t tile) {
    const tm_kd_tiles_t *kd = &s->own->kd;
    worker_t *w = &s->own->workers[omp_get_thread_num()];
    uint32_t begin = tile * TM_TILE;
    uint32_t end = begin + TM_TILE < kd->n ? begin + TM_TILE : kd->n;
    float least_key = -INFINITY;
    if (s->cpu->device.pipeline->radius.k == 0) {
        least_key = INFINITY;
        for (uint32_t i = begin; i < end; i++) {
            least_key = kd->keys[i] < least_key ? kd->keys[i] : least_key;
        }
    }
    uint32_t n_near = tm_kd_tiles_near(kd, tile, s->r2, least_key, w->near.data);
    pack_boxes(kd, w, n_near);
    uint64_t edges = 0;
    for (uint32_t i = begin; i < end && !failed(s) && !tm_cpu_cancelled(s->cpu); i++) {
        search_point(s, w, i, n_near);
        edges += s->rows[kd->order[i]].count;
    }
    uint64_t before_us = __atomic_fetch_add(&s->n_edges, edges, __ATOMIC_RELAXED);
    if (before_us + edges > TM_RADIUS_EDGES_MAX) {
        tm_error_t err = {0};
        tm_error_set(&err, TM_E_NO_MEMORY,
                     "the radius graph has more than %u edges: the model does not fit this event",
                     TM_RADIUS_EDGES_MAX);
        fail(s, &err);
    }
}

/* ---- the stage ---- */

static tm_status_t reserve(tm_radius_t *own, uint32_t n, tm_error_t *err) {
    uint32_t n_tiles = own->kd.n_tiles;
    uint32_t dims = own->kd.dims;
    tm_status_t status = tm_buffer_reserve(&own->rows, n, sizeof(row_t), "radius search", err);
    if (status == TM_OK) {
        status =
            tm_buffer_reserve(&own->offsets, (size_t)n + 1, sizeof(uint32_t), "radius search", err);
    }
    for (int t = 0; t < own->threads && status == TM_OK; t++) {
        worker_t *w = &own->workers[t];
        const struct {
            tm_buffer_t *buffer;
            size_t count;
        } wanted[] = {{&w->near, n_tiles},
                      {&w->reached, n_tiles},
                      {&w->boxes, ((size_t)n_tiles + TM_BOX_GROUP) * 2 * dims},
                      {&w->box_keys, (size_t)n_tiles + TM_BOX_GROUP}};
        for (size_t k = 0; k < sizeof wanted / sizeof wanted[0] && status == TM_OK; k++) {
            status = tm_buffer_reserve(wanted[k].buffer, wanted[k].count, sizeof(float),
                                       "radius search", err);
        }
        if (status == TM_OK) {
            status = tm_buffer_reserve(&w->found, n, sizeof(neighbour_t), "radius search", err);
        }
        for (piece_t *piece = w->first; piece; piece = piece->next) {
            piece->used = 0;
        }
        w->current = w->first;
    }
    return status;
}

/* Puts the rows' targets together in the order of the rows. */
static tm_status_t assemble(const search_t *s, tm_edges_t *edges, tm_error_t *err) {
    tm_cpu_t *cpu = s->cpu;
    uint32_t n = s->points->n;
    tm_status_t status =
        tm_buffer_reserve(&cpu->src, s->n_edges, sizeof(uint32_t), "the radius graph", err);
    if (status == TM_OK) {
        status =
            tm_buffer_reserve(&cpu->dst, s->n_edges, sizeof(uint32_t), "the radius graph", err);
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t *offsets = s->own->offsets.data;
    offsets[0] = 0;
    for (uint32_t i = 0; i < n; i++) {
        offsets[i + 1] = offsets[i] + s->rows[i].count;
    }
    uint32_t *src = cpu->src.data;
    uint32_t *dst = cpu->dst.data;
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic, COPY_ROWS)
    for (uint32_t i = 0; i < n; i++) {
        const row_t *row = &s->rows[i];
        for (uint32_t k = 0; k < row->count; k++) {
            src[offsets[i] + k] = i;
            dst[offsets[i] + k] = row->dst[k];
        }
    }
    *edges = (tm_edges_t){.n = (uint32_t)s->n_edges, .src = src, .dst = dst};
    return TM_OK;
}

tm_status_t tm_cpu_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    tm_radius_t *own = cpu->radius;
    uint32_t n = points->n;
    const float *keys = points->rho;
    tm_status_t status;
    if (p->radius.direction == TM_DIRECTION_INDEX) {
        /* edges go to lower rows; whole numbers up to TM_POINTS_MAX are exact in float */
        status = tm_buffer_reserve(&own->keys, n, sizeof(float), "radius search", err);
        if (status != TM_OK) {
            return status;
        }
        float *rows = own->keys.data;
        for (uint32_t i = 0; i < n; i++) {
            rows[i] = -(float)i;
        }
        keys = rows;
    }
    status = tm_kd_tiles_build(&own->kd, n, p->embed.mlp.out, embedding, keys, cpu->threads, err);
    if (status == TM_OK) {
        status = reserve(own, n, err);
    }
    if (status == TM_OK) {
        status = tm_cpu_check_cancelled(cpu, err);
    }
    if (status != TM_OK) {
        return status;
    }
    search_t search = {.cpu = cpu,
                       .own = own,
                       .points = points,
                       .rows = own->rows.data,
                       .r2 = p->radius.r * p->radius.r};
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
    for (uint32_t tile = 0; tile < own->kd.n_tiles; tile++) {
        if (!failed(&search) && !tm_cpu_cancelled(cpu)) {
            search_tile(&search, tile);
        }
    }
    if (search.status != TM_OK) {
        return tm_error_set(err, search.status, "%s", search.error.text);
    }
    status = tm_cpu_check_cancelled(cpu, err);
    return status == TM_OK ? assemble(&search, edges, err) : status;
}
