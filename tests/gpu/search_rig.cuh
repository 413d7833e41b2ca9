// SPDX-License-Identifier: Apache-2.0
/* What the test and the benchmark of the fused search share: events at random, and one search with its
 * memory. */
#ifndef TM_TESTS_GPU_SEARCH_RIG_CUH
#define TM_TESTS_GPU_SEARCH_RIG_CUH

#include <algorithm>
#include <string.h>
#include <vector>

#include "nn/cuda/fused/search.cuh"
#include "plain.cuh"

#define PI 3.14159265f

/* ---- events ---- */

struct cloud_t {
    uint32_t n = 0, dim = 8;
    std::vector<float> embedding; /* [n, dim] */
    std::vector<float4> place;    /* r, phi, z, eta */
    std::vector<float> rho;
};

static inline cloud_t cloud_of(uint32_t n, uint32_t dim) {
    cloud_t c;
    c.n = n;
    c.dim = dim;
    return c;
}

static inline void add_place(cloud_t *c, float r, float phi, float z) {
    c->place.push_back(make_float4(r, phi, z, asinhf(z / fmaxf(r, 1e-3f))));
    c->rho.push_back(sqrtf(r * r + z * z));
}

static inline std::vector<cloud_t> only(const cloud_t &c) {
    return std::vector<cloud_t>(1, c);
}

/* Anywhere: an embedding that is normally distributed around `centre`, places at random. */
static inline cloud_t random_cloud(uint32_t n, uint32_t dim, double centre) {
    cloud_t c = cloud_of(n, dim);
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t d = 0; d < dim; d++) {
            c.embedding.push_back((float)(centre + normal()));
        }
        add_place(&c, (float)(30 + 970 * uniform()), (float)((2 * uniform() - 1) * PI),
                  (float)(6000 * (uniform() - 0.5)));
    }
    return c;
}

/* As a model leaves a collision: points along particles, in a smooth map of phi, slope and radius onto
 * the unit sphere. */
static inline cloud_t detector_cloud(uint32_t n, uint32_t dim) {
    enum { LATENT = 6 };
    std::vector<double> map((size_t)dim * LATENT);
    cloud_t c = cloud_of(n, dim);
    for (double &m : map) {
        m = normal();
    }
    double phi0 = 0;
    double slope = 0;
    double curve = 0;
    uint32_t left = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (left == 0) {
            left = 1 + (uint32_t)(20 * uniform());
            phi0 = 2 * PI * uniform();
            slope = 3 * (2 * uniform() - 1);
            curve = 5e-4 * normal();
        }
        double r = 30 + 970 * uniform();
        double phi = remainder(phi0 + curve * r, 2 * acos(-1));
        double eta = slope + 0.02 * normal();
        double latent[LATENT] = {cos(phi),       sin(phi),     eta,
                                 1.5 * r / 1000, sin(3 * eta), curve * 500};
        std::vector<double> e(dim);
        double norm = 0;
        for (uint32_t d = 0; d < dim; d++) {
            for (int k = 0; k < LATENT; k++) {
                e[d] += map[d * LATENT + k] * latent[k];
            }
            e[d] += 0.1 * normal();
            norm += e[d] * e[d];
        }
        for (uint32_t d = 0; d < dim; d++) {
            c.embedding.push_back((float)(e[d] / sqrt(norm)));
        }
        add_place(&c, (float)r, (float)phi, (float)(r * sinh(eta)));
        left--;
    }
    return c;
}

static inline void append(cloud_t *c, const cloud_t *more) {
    c->n += more->n;
    c->embedding.insert(c->embedding.end(), more->embedding.begin(), more->embedding.end());
    c->place.insert(c->place.end(), more->place.begin(), more->place.end());
    c->rho.insert(c->rho.end(), more->rho.begin(), more->rho.end());
}

/* The radius within which a point has about `wanted` others, by a sample. */
static inline float radius_for(const cloud_t *c, double wanted) {
    std::vector<double> d2;
    if (c->n < 2) {
        return 1;
    }
    for (int k = 0; k < 20000; k++) {
        size_t a = (size_t)(uniform() * c->n);
        size_t b = (size_t)(uniform() * c->n);
        double sum = 0;
        for (uint32_t d = 0; d < c->dim; d++) {
            double x = (double)c->embedding[a * c->dim + d] - (double)c->embedding[b * c->dim + d];
            sum += x * x;
        }
        if (a != b) {
            d2.push_back(sum);
        }
    }
    std::sort(d2.begin(), d2.end());
    double share = wanted / c->n;
    return (float)sqrt(d2[(size_t)((share < 1 ? share : 1) * (double)(d2.size() - 1))] + 1e-9);
}

static inline tm_pipeline_t *pipeline_for(uint32_t dim, float r, tm_direction_t direction,
                                          bool normal_, bool cuts) {
    static tm_pipeline_t p;
    memset(&p, 0, sizeof p);
    p.embed.mlp.out = dim;
    p.embed.normalize = normal_;
    p.radius.r = r;
    p.radius.direction = direction;
    if (cuts) {
        p.radius.dphi_max = 0.5f;
        p.radius.z0_max = 500;
        p.radius.z0_min_dr = 20;
    }
    return &p;
}

/* ---- the fused search ---- */

typedef struct {
    tm_fused_capacity_t capacity;
    tm_fused_search_t search;
    tm_fused_search_input_t in;
    tm_fused_edges_t edges;
    uint32_t *order;
    uint32_t *event_rows;
    tm_fused_tile_t *tiles;
    float *embedding;
    float4 *place;
    float *rho;
    void *memory;
    cudaStream_t stream;
} rig_t;

static inline int processors(void) {
    int n = 0;
    CUDA(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0));
    return n;
}

static inline void cut(rig_t *rig, const tm_pipeline_t *p, tm_fused_arena_t *arena) {
    const tm_fused_capacity_t *c = &rig->capacity;
    CUDA(tm_fused_search_plan(p, c, processors(), arena, &rig->search));
    rig->in.counts = tm_fused_take<tm_fused_counts_t>(arena, 1);
    rig->event_rows = tm_fused_take<uint32_t>(arena, c->events + 1);
    rig->tiles = tm_fused_take<tm_fused_tile_t>(arena, c->tiles);
    rig->embedding = tm_fused_take<float>(arena, (size_t)c->points * p->embed.mlp.out);
    rig->place = tm_fused_take<float4>(arena, c->points);
    rig->rho = tm_fused_take<float>(arena, c->points);
    rig->order = tm_fused_take<uint32_t>(arena, c->points);
    rig->edges.src = tm_fused_take<uint32_t>(arena, c->edges);
    rig->edges.dst = tm_fused_take<uint32_t>(arena, c->edges);
    rig->edges.offsets = tm_fused_take<uint32_t>(arena, (size_t)c->points + 1);
}

static inline rig_t rig_open(const tm_pipeline_t *p, uint32_t points, uint32_t tiles,
                             uint32_t edges) {
    rig_t rig = {
        .capacity = {
            .points = points, .events = TM_FUSED_EVENTS_MAX, .tiles = tiles, .edges = edges}};
    tm_fused_arena_t arena = {};
    cut(&rig, p, &arena);
    CUDA(cudaMalloc(&rig.memory, arena.used));
    CUDA(cudaMemset(rig.memory, 0xa5, arena.used)); /* whatever was there before */
    arena = (tm_fused_arena_t){.base = (char *)rig.memory};
    cut(&rig, p, &arena);
    rig.in.event_rows = rig.event_rows;
    rig.in.tiles = rig.tiles;
    rig.in.embedding = rig.embedding;
    rig.in.place = rig.place;
    rig.in.rho = rig.rho;
    CUDA(cudaStreamCreate(&rig.stream));
    CUDA(tm_fused_search_prepare());
    return rig;
}

static inline void rig_close(rig_t *rig) {
    CUDA(cudaStreamDestroy(rig->stream));
    CUDA(cudaFree(rig->memory));
}

static inline uint32_t tiles_of(const std::vector<cloud_t> &events) {
    uint32_t n = 0;
    for (const cloud_t &c : events) {
        n += tm_gpu_blocks(c.n, TM_GPU_TILE);
    }
    return n;
}

static inline uint32_t points_of(const std::vector<cloud_t> &events) {
    uint32_t n = 0;
    for (const cloud_t &c : events) {
        n += c.n;
    }
    return n;
}

static inline bool is_ordered(const std::vector<cloud_t> &events) {
    return !events.empty() && events[0].n > TM_FUSED_SMALL_POINTS;
}

static inline void reset_counts(rig_t *rig, const std::vector<cloud_t> &events) {
    tm_fused_counts_t counts = {.n_points = points_of(events),
                                .n_events = (uint32_t)events.size(),
                                .n_tiles = tiles_of(events)};
    CUDA(cudaMemcpy(rig->in.counts, &counts, sizeof counts, cudaMemcpyHostToDevice));
}

static inline void upload(rig_t *rig, const std::vector<cloud_t> &events) {
    /* not a vector: nvcc 13.0 trips over vectors of a C struct without a tag */
    tm_fused_tile_t *tiles = (tm_fused_tile_t *)calloc(tiles_of(events) + 1, sizeof *tiles);
    uint32_t event_rows[TM_FUSED_EVENTS_MAX + 1];
    uint32_t n_events = 0;
    uint32_t n_tiles = 0;
    size_t at = 0;
    for (const cloud_t &c : events) {
        event_rows[n_events++] = (uint32_t)at;
        uint32_t first = n_tiles;
        uint32_t end = first + tm_gpu_blocks(c.n, TM_GPU_TILE);
        for (uint32_t i = 0; i < c.n; i += TM_GPU_TILE) {
            uint32_t count = c.n - i < TM_GPU_TILE ? c.n - i : TM_GPU_TILE;
            tiles[n_tiles++] = (tm_fused_tile_t){(uint32_t)at + i, count, first, end};
        }
        CUDA(cudaMemcpy(rig->embedding + at * c.dim, c.embedding.data(),
                        c.embedding.size() * sizeof(float), cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(rig->place + at, c.place.data(), c.n * sizeof(float4),
                        cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(rig->rho + at, c.rho.data(), c.n * sizeof(float), cudaMemcpyHostToDevice));
        at += c.n;
    }
    event_rows[n_events] = (uint32_t)at;
    CUDA(cudaMemcpy(rig->event_rows, event_rows, (n_events + 1) * sizeof *event_rows,
                    cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(rig->tiles, tiles, n_tiles * sizeof *tiles, cudaMemcpyHostToDevice));
    free(tiles);
    reset_counts(rig, events);
}

static inline void launch(rig_t *rig, bool ordered) {
    CUDA(tm_fused_order(&rig->search, &rig->in, ordered, rig->order, rig->stream));
    CUDA(tm_fused_search(&rig->search, &rig->in, rig->order, &rig->edges, rig->stream));
}

struct result_t {
    tm_fused_counts_t counts;
    std::vector<uint32_t> order, src, dst, offsets;
};

static inline std::vector<uint32_t> download(const uint32_t *from, size_t n) {
    std::vector<uint32_t> to(n);
    CUDA(cudaMemcpy(to.data(), from, n * sizeof(uint32_t), cudaMemcpyDeviceToHost));
    return to;
}

static inline result_t fetch(rig_t *rig) {
    result_t r;
    CUDA(cudaStreamSynchronize(rig->stream));
    CUDA(cudaMemcpy(&r.counts, rig->in.counts, sizeof r.counts, cudaMemcpyDeviceToHost));
    uint32_t n_edges = std::min(r.counts.n_edges, rig->capacity.edges);
    r.order = download(rig->order, r.counts.n_points);
    r.src = download(rig->edges.src, n_edges);
    r.dst = download(rig->edges.dst, n_edges);
    r.offsets = download(rig->edges.offsets, (size_t)r.counts.n_points + 1);
    return r;
}

static inline bool same_bytes(const result_t &a, const result_t &b) {
    return a.counts.n_edges == b.counts.n_edges && a.counts.flags == b.counts.flags &&
           a.order == b.order && a.src == b.src && a.dst == b.dst && a.offsets == b.offsets;
}

#endif
