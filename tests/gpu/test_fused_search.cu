// SPDX-License-Identifier: Apache-2.0
/*
 * The radius search of the fused path against a plain search of all pairs, which uses the same
 * arithmetic: the edges must be the same, none decided by rounding.
 *
 *   test_fused_search [quick]           quick: small inputs only, for running under a memory checker
 *   test_fused_search bench [FILE...]   milliseconds per part; FILE: n points as raw floats, an
 *                                       embedding [n, 8], then r, phi, z, eta and rho [n] each;
 *                                       several joined by "+" are one event
 *
 * Exits with 77 and says why where there is no GPU. TM_SEED repeats a run.
 */
#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vector>

#include "nn/cuda/fused/search.cuh"

#define SKIPPED 77
#define PI 3.14159265f
#define BENCH_RUNS 20

static int failures;
static bool is_quick;

#define FAIL(...) \
    do { \
        printf("FAILED: " __VA_ARGS__); \
        printf("\n"); \
        failures++; \
    } while (0)

#define CUDA(call) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) { \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(error_)); \
            exit(1); \
        } \
    } while (0)

/* ---- events ---- */

static uint64_t random_state;

static double uniform(void) {
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static double normal(void) {
    return sqrt(-2 * log(1 - uniform())) * cos(2 * acos(-1) * uniform());
}

struct cloud_t {
    uint32_t n = 0, dim = 8;
    std::vector<float> embedding; /* [n, dim] */
    std::vector<float4> place;    /* r, phi, z, eta */
    std::vector<float> rho;
};

static cloud_t cloud_of(uint32_t n, uint32_t dim) {
    cloud_t c;
    c.n = n;
    c.dim = dim;
    return c;
}

static void add_place(cloud_t *c, float r, float phi, float z) {
    c->place.push_back(make_float4(r, phi, z, asinhf(z / fmaxf(r, 1e-3f))));
    c->rho.push_back(sqrtf(r * r + z * z));
}

static std::vector<cloud_t> only(const cloud_t &c) {
    return std::vector<cloud_t>(1, c);
}

/* Anywhere: an embedding that is normally distributed around `centre`, places at random. */
static cloud_t random_cloud(uint32_t n, uint32_t dim, double centre) {
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
static cloud_t detector_cloud(uint32_t n, uint32_t dim) {
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

static void append(cloud_t *c, const cloud_t *more) {
    c->n += more->n;
    c->embedding.insert(c->embedding.end(), more->embedding.begin(), more->embedding.end());
    c->place.insert(c->place.end(), more->place.begin(), more->place.end());
    c->rho.insert(c->rho.end(), more->rho.begin(), more->rho.end());
}

/* The radius within which a point has about `wanted` others, by a sample. */
static float radius_for(const cloud_t *c, double wanted) {
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

static tm_pipeline_t *pipeline_for(uint32_t dim, float r, tm_direction_t direction, bool normal_,
                                   bool cuts) {
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
    tm_fused_tile_t *tiles;
    float *embedding;
    float4 *place;
    float *rho;
    void *memory;
    cudaStream_t stream;
} rig_t;

static int processors(void) {
    int n = 0;
    CUDA(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0));
    return n;
}

static void cut(rig_t *rig, const tm_pipeline_t *p, tm_fused_arena_t *arena) {
    const tm_fused_capacity_t *c = &rig->capacity;
    CUDA(tm_fused_search_plan(p, c, processors(), arena, &rig->search));
    rig->in.counts = tm_fused_take<tm_fused_counts_t>(arena, 1);
    rig->tiles = tm_fused_take<tm_fused_tile_t>(arena, c->tiles);
    rig->embedding = tm_fused_take<float>(arena, (size_t)c->points * p->embed.mlp.out);
    rig->place = tm_fused_take<float4>(arena, c->points);
    rig->rho = tm_fused_take<float>(arena, c->points);
    rig->order = tm_fused_take<uint32_t>(arena, c->points);
    rig->edges.src = tm_fused_take<uint32_t>(arena, c->edges);
    rig->edges.dst = tm_fused_take<uint32_t>(arena, c->edges);
    rig->edges.offsets = tm_fused_take<uint32_t>(arena, (size_t)c->points + 1);
}

static rig_t rig_open(const tm_pipeline_t *p, uint32_t points, uint32_t tiles, uint32_t edges) {
    rig_t rig = {
        .capacity = {
            .points = points, .events = TM_FUSED_EVENTS_MAX, .tiles = tiles, .edges = edges}};
    tm_fused_arena_t arena = {};
    cut(&rig, p, &arena);
    CUDA(cudaMalloc(&rig.memory, arena.used));
    CUDA(cudaMemset(rig.memory, 0xa5, arena.used)); /* whatever was there before */
    arena = (tm_fused_arena_t){.base = (char *)rig.memory};
    cut(&rig, p, &arena);
    rig.in.tiles = rig.tiles;
    rig.in.embedding = rig.embedding;
    rig.in.place = rig.place;
    rig.in.rho = rig.rho;
    CUDA(cudaStreamCreate(&rig.stream));
    CUDA(tm_fused_search_prepare());
    return rig;
}

static void rig_close(rig_t *rig) {
    CUDA(cudaStreamDestroy(rig->stream));
    CUDA(cudaFree(rig->memory));
}

static uint32_t tiles_of(const std::vector<cloud_t> &events) {
    uint32_t n = 0;
    for (const cloud_t &c : events) {
        n += tm_gpu_blocks(c.n, TM_GPU_TILE);
    }
    return n;
}

static uint32_t points_of(const std::vector<cloud_t> &events) {
    uint32_t n = 0;
    for (const cloud_t &c : events) {
        n += c.n;
    }
    return n;
}

static bool is_large(const std::vector<cloud_t> &events) {
    return events.size() == 1 && events[0].n > TM_FUSED_SMALL_POINTS;
}

static void reset_counts(rig_t *rig, const std::vector<cloud_t> &events) {
    tm_fused_counts_t counts = {.n_points = points_of(events),
                                .n_events = (uint32_t)events.size(),
                                .n_tiles = tiles_of(events)};
    CUDA(cudaMemcpy(rig->in.counts, &counts, sizeof counts, cudaMemcpyHostToDevice));
}

static void upload(rig_t *rig, const std::vector<cloud_t> &events) {
    /* not a vector: nvcc 13.0 trips over vectors of a C struct without a tag */
    tm_fused_tile_t *tiles = (tm_fused_tile_t *)calloc(tiles_of(events) + 1, sizeof *tiles);
    uint32_t n_tiles = 0;
    size_t at = 0;
    for (const cloud_t &c : events) {
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
    CUDA(cudaMemcpy(rig->tiles, tiles, n_tiles * sizeof *tiles, cudaMemcpyHostToDevice));
    free(tiles);
    reset_counts(rig, events);
}

static void launch(rig_t *rig, bool large) {
    CUDA(tm_fused_order(&rig->search, &rig->in, large, rig->order, rig->stream));
    CUDA(tm_fused_search(&rig->search, &rig->in, rig->order, &rig->edges, rig->stream));
}

struct result_t {
    tm_fused_counts_t counts;
    std::vector<uint32_t> order, src, dst, offsets;
};

static std::vector<uint32_t> download(const uint32_t *from, size_t n) {
    std::vector<uint32_t> to(n);
    CUDA(cudaMemcpy(to.data(), from, n * sizeof(uint32_t), cudaMemcpyDeviceToHost));
    return to;
}

static result_t fetch(rig_t *rig) {
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

static bool same_bytes(const result_t &a, const result_t &b) {
    return a.counts.n_edges == b.counts.n_edges && a.counts.flags == b.counts.flags &&
           a.order == b.order && a.src == b.src && a.dst == b.dst && a.offsets == b.offsets;
}

/* ---- all pairs ---- */

typedef struct {
    uint32_t n, dim;
    float r2, dphi_max, z0_max, z0_min_dr;
    bool by_index;
    const float *embedding;
    const float4 *place;
    const float *rho;
} pairs_t;

/* A thread per source; the arithmetic is that of nn/cuda/radius.cu. offsets NULL: only counts. */
static __global__ void search_all(const pairs_t s, uint32_t *counts, const uint64_t *offsets,
                                  uint64_t *edges) {
    uint32_t a = blockIdx.x * blockDim.x + threadIdx.x;
    if (a >= s.n) {
        return;
    }
    float4 p = s.place[a];
    float rho = s.rho[a];
    uint32_t found = 0;
    for (uint32_t b = 0; b < s.n; b++) {
        if (s.by_index ? b >= a : s.rho[b] < rho || (s.rho[b] == rho && b <= a)) {
            continue;
        }
        float d2 = 0;
        for (uint32_t d = 0; d < s.dim; d++) {
            float x = s.embedding[(size_t)a * s.dim + d] - s.embedding[(size_t)b * s.dim + d];
            d2 = fmaf(x, x, d2);
        }
        float4 q = s.place[b];
        float dphi = q.y - p.y;
        dphi = dphi > 3.14159265358979f ? dphi - 2 * 3.14159265358979f : dphi;
        dphi = dphi <= -3.14159265358979f ? dphi + 2 * 3.14159265358979f : dphi;
        float dr = q.x - p.x;
        float z0 = p.z - p.x * (q.z - p.z) / (dr > 1e-3f ? dr : 1e-3f);
        if (d2 <= s.r2 && (s.dphi_max == 0 || fabsf(dphi) < s.dphi_max) &&
            (s.z0_max == 0 || dr < s.z0_min_dr || fabsf(z0) < s.z0_max)) {
            if (offsets) {
                edges[offsets[a] + found] = (uint64_t)a << 32 | b;
            }
            found++;
        }
    }
    counts[a] = found;
}

/* Edges between the rows of one event, which begin at `first` in the rig's columns; sorted. */
static std::vector<uint64_t> all_pairs(const rig_t *rig, const tm_pipeline_t *p, uint32_t first,
                                       uint32_t n) {
    std::vector<uint64_t> edges;
    if (n == 0) {
        return edges;
    }
    pairs_t s = {.n = n,
                 .dim = p->embed.mlp.out,
                 .r2 = p->radius.r * p->radius.r,
                 .dphi_max = p->radius.dphi_max,
                 .z0_max = p->radius.z0_max,
                 .z0_min_dr = p->radius.z0_min_dr,
                 .by_index = p->radius.direction == TM_DIRECTION_INDEX,
                 .embedding = rig->embedding + (size_t)first * p->embed.mlp.out,
                 .place = rig->place + first,
                 .rho = rig->rho + first};
    uint32_t *counts;
    uint64_t *offsets;
    uint64_t *found;
    CUDA(cudaMalloc(&counts, n * sizeof *counts));
    CUDA(cudaMalloc(&offsets, n * sizeof *offsets));
    search_all<<<tm_gpu_blocks(n, 64), 64>>>(s, counts, NULL, NULL);
    std::vector<uint32_t> per_row = download(counts, n);
    std::vector<uint64_t> begins(n);
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        begins[i] = total;
        total += per_row[i];
    }
    CUDA(cudaMalloc(&found, (total + 1) * sizeof *found));
    CUDA(cudaMemcpy(offsets, begins.data(), n * sizeof *offsets, cudaMemcpyHostToDevice));
    search_all<<<tm_gpu_blocks(n, 64), 64>>>(s, counts, offsets, found);
    edges.resize(total);
    CUDA(cudaMemcpy(edges.data(), found, total * sizeof *found, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(counts));
    CUDA(cudaFree(offsets));
    CUDA(cudaFree(found));
    return edges;
}

/* ---- comparisons ---- */

static uint64_t total_edges;

/* Whether `r` is well formed, and what it says of the rows [first, first + n): (source, target). */
static std::vector<uint64_t> edges_by_row(const result_t &r, const char *what, uint32_t first,
                                          uint32_t n) {
    std::vector<uint64_t> edges;
    uint32_t n_edges = r.counts.n_edges;
    if (r.offsets[r.counts.n_points] != n_edges || r.offsets[0] != 0) {
        FAIL("%s: offsets end at %u of %u edges", what, r.offsets[r.counts.n_points], n_edges);
        return edges;
    }
    for (uint32_t node = 0; node < r.counts.n_points; node++) {
        for (uint32_t k = r.offsets[node]; k < r.offsets[node + 1]; k++) {
            if (r.src[k] != node || r.dst[k] >= r.counts.n_points ||
                (k > r.offsets[node] && r.dst[k - 1] >= r.dst[k])) {
                FAIL("%s: edge %u, %u to %u, is out of order", what, k, r.src[k], r.dst[k]);
                return edges;
            }
            uint32_t a = r.order[node];
            uint32_t b = r.order[r.dst[k]];
            if (a >= first && a < first + n) {
                edges.push_back((uint64_t)(a - first) << 32 | (uint32_t)(b - first));
            }
        }
    }
    std::sort(edges.begin(), edges.end());
    return edges;
}

static bool is_permutation_of_rows(const result_t &r) {
    std::vector<uint32_t> rows = r.order;
    std::sort(rows.begin(), rows.end());
    for (uint32_t i = 0; i < rows.size(); i++) {
        if (rows[i] != i) {
            return false;
        }
    }
    return true;
}

static void compare(const std::vector<uint64_t> &got, const std::vector<uint64_t> &want,
                    const char *what) {
    if (got == want) {
        total_edges += got.size();
        return;
    }
    size_t i = 0;
    while (i < got.size() && i < want.size() && got[i] == want[i]) {
        i++;
    }
    uint64_t x = i < got.size() ? got[i] : UINT64_MAX;
    uint64_t y = i < want.size() ? want[i] : UINT64_MAX;
    uint64_t e = std::min(x, y);
    FAIL("%s: %zu edges, %zu wanted; %u to %u is in %s alone", what, got.size(), want.size(),
         (uint32_t)(e >> 32), (uint32_t)e, x < y ? "the fused search" : "the search of all pairs");
}

/* Searches the batch twice and compares each event with the search of all its pairs. */
static result_t check(const tm_pipeline_t *p, const std::vector<cloud_t> &events, uint32_t edges,
                      const char *what) {
    char text[200];
    rig_t rig = rig_open(p, points_of(events) + 77, tiles_of(events) + 3, edges);
    upload(&rig, events);
    launch(&rig, is_large(events));
    result_t r = fetch(&rig);
    reset_counts(&rig, events);
    launch(&rig, is_large(events));
    result_t again = fetch(&rig);
    snprintf(text, sizeof text, "%s (%u points, dim %u, r %g)", what, points_of(events),
             p->embed.mlp.out, (double)p->radius.r);
    if (!same_bytes(r, again)) {
        FAIL("%s: two runs differ", text);
    }
    if (r.counts.flags != 0) {
        FAIL("%s: flags %u, %u edges", text, r.counts.flags, r.counts.n_edges);
    } else if (!is_permutation_of_rows(r)) {
        FAIL("%s: the order has not every row once", text);
    } else {
        uint32_t first = 0;
        for (const cloud_t &c : events) {
            compare(edges_by_row(r, text, first, c.n), all_pairs(&rig, p, first, c.n), text);
            first += c.n;
        }
    }
    rig_close(&rig);
    return r;
}

/* ---- tests ---- */

static void every_size(void) {
    static const uint32_t sizes[] = {0,   1,   2,    3,    63,   64,   65,   127,
                                     128, 129, 1000, 5000, 8192, 8193, 12345};
    static const uint32_t dims[] = {1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 16};
    uint32_t at = 0;
    for (uint32_t n : sizes) {
        if (is_quick && n > 1000 && n != 8193) {
            continue;
        }
        for (int k = 0; k < (is_quick || n > 8000 ? 2 : 4); k++) {
            uint32_t dim = dims[at++ % 11];
            cloud_t c = random_cloud(n, dim, k % 2 ? 0 : 3);
            float r = radius_for(&c, 20);
            check(pipeline_for(dim, r, k % 3 ? TM_DIRECTION_OUTWARD : TM_DIRECTION_INDEX, false,
                               k % 2),
                  only(c), 1u << 20, "random cloud");
            c = detector_cloud(n, dim > 1 ? dim : 2);
            r = radius_for(&c, 60);
            check(pipeline_for(c.dim, r, TM_DIRECTION_OUTWARD, true, k % 2), only(c), 1u << 20,
                  "detector");
        }
    }
}

static void large(void) {
    for (uint32_t dim : {3u, 8u, 12u}) {
        cloud_t c = detector_cloud(100000, dim);
        check(pipeline_for(dim, radius_for(&c, 150), TM_DIRECTION_OUTWARD, true, true), only(c),
              16u << 20, "large detector");
    }
    cloud_t c = random_cloud(60000, 3, 0);
    check(pipeline_for(3, radius_for(&c, 30), TM_DIRECTION_INDEX, false, false), only(c), 8u << 20,
          "large cloud");
}

/* Points that lie at one place in the embedding, and far out. */
static void odd_places(void) {
    cloud_t c = random_cloud(is_quick ? 500 : 3000, 8, 0);
    for (uint32_t i = 0; i < c.n; i++) {
        if (i % 3 == 0) { /* duplicates, with equal rho */
            memcpy(&c.embedding[i * 8], &c.embedding[i / 6 * 8], 8 * sizeof(float));
            c.rho[i] = c.rho[i / 6];
        } else if (i % 17 == 0) {
            c.embedding[i * 8] = 1e20f;
        } else if (i % 19 == 0) {
            for (uint32_t d = 0; d < 8; d++) {
                c.embedding[i * 8 + d] += 5000;
            }
        }
    }
    for (float r : {0.01f, 0.7f, 3.0f}) {
        check(pipeline_for(8, r, TM_DIRECTION_OUTWARD, false, false), only(c), 8u << 20,
              "odd places");
        check(pipeline_for(8, r, TM_DIRECTION_INDEX, false, true), only(c), 8u << 20, "odd places");
    }
    check(pipeline_for(8, 0.7f, TM_DIRECTION_OUTWARD, true, false), only(c), 8u << 20,
          "odd places");
    /* a clump that is more than a block's share: sources of more than 256 edges */
    for (uint32_t n : {1500u, 9000u}) {
        if (is_quick && n > 1500) {
            continue;
        }
        c = random_cloud(n, 8, 0);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t d = 0; d < 8 && i % 2; d++) {
                c.embedding[i * 8 + d] = 1 + 1e-3f * (float)uniform();
            }
        }
        check(pipeline_for(8, 0.05f, TM_DIRECTION_OUTWARD, false, false), only(c), 16u << 20,
              "clump");
    }
    c = random_cloud(9000, 4, 0);
    std::fill(c.embedding.begin(), c.embedding.end(), 0.5f);
    result_t r;
    rig_t rig = rig_open(pipeline_for(4, 0.1f, TM_DIRECTION_INDEX, false, false), 9000,
                         tiles_of(only(c)), 64u << 20);
    upload(&rig, only(c));
    launch(&rig, true);
    r = fetch(&rig);
    if (r.counts.n_edges != 0 || r.counts.flags != TM_FUSED_DEGREE_FULL || r.offsets[9000] != 0) {
        FAIL("one place: %u edges, flags %u", r.counts.n_edges, r.counts.flags);
    }
    rig_close(&rig);
}

static void batches(void) {
    std::vector<cloud_t> events;
    for (int i = 0; i < (is_quick ? 5 : 40); i++) {
        static const uint32_t sizes[] = {1300, 0, 1, 128, 700, 129, 2000, 64};
        events.push_back(detector_cloud(sizes[i % 8], 8));
    }
    const tm_pipeline_t *p = pipeline_for(8, 0.5f, TM_DIRECTION_OUTWARD, true, true);
    result_t all = check(p, events, 4u << 20, "batch");
    uint32_t node = 0;
    for (const cloud_t &c : events) {
        result_t alone = check(p, only(c), 1u << 20, "alone");
        uint32_t base = all.offsets[node];
        for (uint32_t i = 0; i < c.n; i++) {
            if (all.order[node + i] != alone.order[i] + node ||
                all.offsets[node + i] != alone.offsets[i] + base) {
                FAIL("batch: node %u is not as in its event alone", node + i);
                return;
            }
        }
        for (uint32_t k = 0; k < alone.dst.size(); k++) {
            if (all.dst[base + k] != alone.dst[k] + node) {
                FAIL("batch: edge %u is not as in its event alone", base + k);
                return;
            }
        }
        node += c.n;
    }
}

static void too_small(void) {
    std::vector<cloud_t> events = only(detector_cloud(is_quick ? 1000 : 12000, 8));
    tm_pipeline_t *p = pipeline_for(8, 0.5f, TM_DIRECTION_OUTWARD, true, true);
    result_t want = check(p, events, 4u << 20, "room enough");
    rig_t rig = rig_open(p, points_of(events), tiles_of(events), want.counts.n_edges - 1);
    upload(&rig, events);
    launch(&rig, is_large(events));
    result_t r = fetch(&rig);
    if (r.counts.flags != TM_FUSED_EDGES_FULL || r.counts.n_edges != want.counts.n_edges) {
        FAIL("too small: flags %u, %u edges, %u wanted", r.counts.flags, r.counts.n_edges,
             want.counts.n_edges);
    }
    rig_close(&rig);
    rig = rig_open(p, points_of(events), tiles_of(events), want.counts.n_edges);
    upload(&rig, events);
    launch(&rig, is_large(events));
    if (!same_bytes(fetch(&rig), want)) {
        FAIL("just large enough: the result differs");
    }
    rig_close(&rig);
}

/* One graph, replayed for events of different sizes. */
static void replay(void) {
    tm_pipeline_t *p = pipeline_for(8, 0.5f, TM_DIRECTION_OUTWARD, true, true);
    const uint32_t most = is_quick ? 9000 : 40000;
    rig_t rig = rig_open(p, most, most / TM_GPU_TILE + 64, 8u << 20);
    for (bool large_ : {true, false}) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CUDA(cudaStreamBeginCapture(rig.stream, cudaStreamCaptureModeThreadLocal));
        launch(&rig, large_);
        CUDA(cudaStreamEndCapture(rig.stream, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        for (int i = 0; i < (is_quick ? 2 : 5); i++) {
            uint32_t n = large_ ? most - (uint32_t)((most - TM_FUSED_SMALL_POINTS - 1) *
                                                    (i % 2 ? uniform() : 1))
                                : (uint32_t)(3000 * uniform());
            std::vector<cloud_t> events = only(detector_cloud(n, 8));
            if (!large_) {
                events.push_back(detector_cloud(i % 2 ? 0 : n / 2, 8));
            }
            upload(&rig, events);
            CUDA(cudaGraphLaunch(exec, rig.stream));
            result_t r = fetch(&rig);
            reset_counts(&rig, events);
            CUDA(cudaGraphLaunch(exec, rig.stream));
            if (!same_bytes(r, fetch(&rig))) {
                FAIL("replay: two runs of %u points differ", n);
            }
            if (r.counts.flags != 0) {
                FAIL("replay: flags %u", r.counts.flags);
                continue;
            }
            uint32_t first = 0;
            for (const cloud_t &c : events) {
                compare(edges_by_row(r, "replay", first, c.n), all_pairs(&rig, p, first, c.n),
                        "replay");
                first += c.n;
            }
        }
        CUDA(cudaGraphExecDestroy(exec));
        CUDA(cudaGraphDestroy(graph));
    }
    rig_close(&rig);
}

/* The stage of the general path finds the same edges, in the order of the rows. */
static void general_path(void) {
    tm_error_t err = {};
    tm_device_t *device = NULL;
    cloud_t c = detector_cloud(20000, 8);
    tm_pipeline_t *p = pipeline_for(8, 0.5f, TM_DIRECTION_OUTWARD, true, true);
    if (tm_stages_cuda.open(p, 1, &device, &err) != TM_OK) {
        printf("general path: left out: %s\n", err.text);
        return;
    }
    rig_t rig = rig_open(p, c.n, tiles_of(only(c)), 8u << 20);
    upload(&rig, only(c));
    launch(&rig, true);
    result_t r = fetch(&rig);
    std::vector<float> columns[3];
    float *up[4];
    for (uint32_t i = 0; i < c.n; i++) {
        columns[0].push_back(c.place[i].x);
        columns[1].push_back(c.place[i].y);
        columns[2].push_back(c.place[i].z);
    }
    for (int i = 0; i < 3; i++) {
        CUDA(cudaMalloc(&up[i], c.n * sizeof(float)));
        CUDA(cudaMemcpy(up[i], columns[i].data(), c.n * sizeof(float), cudaMemcpyHostToDevice));
    }
    tm_points_t points = {
        .n = c.n, .r = up[0], .phi = up[1], .z = up[2], .eta = up[2], .rho = rig.rho};
    tm_edges_t edges = {};
    if (device->stages->radius(device, &points, rig.embedding, &edges, &err) != TM_OK) {
        FAIL("general path: %s", err.text);
    } else {
        std::vector<uint32_t> src = download(edges.src, edges.n);
        std::vector<uint32_t> dst = download(edges.dst, edges.n);
        std::vector<uint64_t> want;
        for (uint32_t i = 0; i < edges.n; i++) {
            want.push_back((uint64_t)src[i] << 32 | dst[i]);
        }
        compare(edges_by_row(r, "general path", 0, c.n), want, "general path");
    }
    for (int i = 0; i < 3; i++) {
        CUDA(cudaFree(up[i]));
    }
    rig_close(&rig);
    device->stages->close(&device);
}

static void can_run(void) {
    tm_pipeline_t *p = pipeline_for(8, 0.5f, TM_DIRECTION_OUTWARD, true, true);
    if (!tm_fused_search_can_run(p)) {
        FAIL("can_run: no, for the standard model's search");
    }
    p->radius.k = 100;
    if (tm_fused_search_can_run(p)) {
        FAIL("can_run: yes, for a search with a cap");
    }
}

/* ---- timing ---- */

static cloud_t read_cloud(const char *names) {
    cloud_t all = cloud_of(0, 8);
    char *copy = strdup(names);
    for (char *name = strtok(copy, "+"); name; name = strtok(NULL, "+")) {
        FILE *f = fopen(name, "rb");
        if (!f) {
            printf("%s: cannot be read\n", name);
            exit(1);
        }
        fseek(f, 0, SEEK_END);
        cloud_t c = cloud_of((uint32_t)((size_t)ftell(f) / (13 * sizeof(float))), 8);
        rewind(f);
        std::vector<float> v((size_t)c.n * 13);
        if (fread(v.data(), sizeof(float), v.size(), f) != v.size()) {
            printf("%s: ends early\n", name);
            exit(1);
        }
        fclose(f);
        c.embedding.assign(v.begin(), v.begin() + (ptrdiff_t)c.n * 8);
        const float *columns = v.data() + (size_t)c.n * 8;
        for (uint32_t i = 0; i < c.n; i++) {
            c.place.push_back(make_float4(columns[i], columns[c.n + i], columns[2 * c.n + i],
                                          columns[3 * c.n + i]));
            c.rho.push_back(columns[4 * c.n + i]);
        }
        append(&all, &c);
    }
    free(copy);
    return all;
}

static cloud_t part_of(const cloud_t &c, uint32_t n) {
    cloud_t part = cloud_of(0, c.dim);
    double left = n;
    for (uint32_t i = 0; i < c.n; i++) {
        if (uniform() * (c.n - i) < left) {
            left--;
            part.n++;
            part.embedding.insert(part.embedding.end(), c.embedding.begin() + (ptrdiff_t)i * c.dim,
                                  c.embedding.begin() + (ptrdiff_t)(i + 1) * c.dim);
            part.place.push_back(c.place[i]);
            part.rho.push_back(c.rho[i]);
        }
    }
    return part;
}

static void bench(const std::vector<cloud_t> &events, float r, const char *name) {
    enum { ORDER, PLACE, FIND, COLLECT, ALL, PARTS };
    const tm_pipeline_t *p = pipeline_for(events[0].dim, r, TM_DIRECTION_OUTWARD, true, true);
    const bool large_ = is_large(events);
    std::vector<float> times[PARTS];
    cudaEvent_t mark[PARTS + 1];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    rig_t rig = rig_open(p, points_of(events), tiles_of(events), 160u << 20);
    upload(&rig, events);
    launch(&rig, large_);
    result_t first = fetch(&rig);
    for (cudaEvent_t &m : mark) {
        CUDA(cudaEventCreate(&m));
    }
    CUDA(cudaStreamBeginCapture(rig.stream, cudaStreamCaptureModeThreadLocal));
    launch(&rig, large_);
    CUDA(cudaStreamEndCapture(rig.stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int run = -3; run < BENCH_RUNS; run++) {
        const tm_fused_search_t *s = &rig.search;
        reset_counts(&rig, events);
        CUDA(cudaEventRecord(mark[ORDER], rig.stream));
        CUDA(tm_fused_order(s, &rig.in, large_, rig.order, rig.stream));
        CUDA(cudaEventRecord(mark[PLACE], rig.stream));
        CUDA(tm_fused_search_place(s, &rig.in, rig.order, rig.stream));
        CUDA(cudaEventRecord(mark[FIND], rig.stream));
        CUDA(tm_fused_search_find(s, &rig.in, rig.stream));
        CUDA(cudaEventRecord(mark[COLLECT], rig.stream));
        CUDA(tm_fused_search_collect(s, &rig.in, &rig.edges, rig.stream));
        CUDA(cudaEventRecord(mark[ALL], rig.stream));
        CUDA(cudaStreamSynchronize(rig.stream));
        float ms;
        for (int k = 0; k < ALL && run >= 0; k++) {
            CUDA(cudaEventElapsedTime(&ms, mark[k], mark[k + 1]));
            times[k].push_back(ms);
        }
        reset_counts(&rig, events);
        CUDA(cudaEventRecord(mark[0], rig.stream));
        CUDA(cudaGraphLaunch(exec, rig.stream));
        CUDA(cudaEventRecord(mark[1], rig.stream));
        CUDA(cudaStreamSynchronize(rig.stream));
        CUDA(cudaEventElapsedTime(&ms, mark[0], mark[1]));
        if (run >= 0) {
            times[ALL].push_back(ms);
        }
    }
    if (!same_bytes(first, fetch(&rig))) {
        FAIL("bench: two runs of %s differ", name);
    }
    uint32_t degree = 0;
    for (size_t i = 0; i + 1 < first.offsets.size(); i++) {
        degree = std::max(degree, first.offsets[i + 1] - first.offsets[i]);
    }
    for (std::vector<float> &t : times) {
        std::sort(t.begin(), t.end());
    }
    unsigned long long counters[2];
    CUDA(cudaMemcpy(counters, rig.search.counters, sizeof counters, cudaMemcpyDeviceToHost));
    printf(
        "%s: %u points, %u edges (flags %u), most per node %u, %llu items; ms: order %.3f, place "
        "%.3f, find %.3f, collect %.3f; in a graph %.3f\n",
        name, points_of(events), first.counts.n_edges, first.counts.flags, degree, counters[1],
        (double)times[ORDER][BENCH_RUNS / 2], (double)times[PLACE][BENCH_RUNS / 2],
        (double)times[FIND][BENCH_RUNS / 2], (double)times[COLLECT][BENCH_RUNS / 2],
        (double)times[ALL][BENCH_RUNS / 2]);
    fflush(stdout);
    for (cudaEvent_t &m : mark) {
        CUDA(cudaEventDestroy(m));
    }
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    rig_close(&rig);
}

static void bench_all(int n_files, char **files) {
    for (int i = 0; i < n_files; i++) {
        /* NAME@N: N of its points */
        char *at = strchr(files[i], '@');
        uint32_t n = at ? (uint32_t)strtoul(at + 1, NULL, 10) : 0;
        if (at) {
            *at = 0;
        }
        cloud_t c = read_cloud(files[i]);
        bench(only(n ? part_of(c, n) : c), 0.5f, files[i]);
    }
    for (uint32_t n : {20000u, 36000u, 100000u, 157000u, 300000u, 500000u}) {
        if (n_files == 0) {
            cloud_t c = detector_cloud(n, 8);
            /* directions and the cuts leave about an eighth */
            bench(only(c), radius_for(&c, 8 * 25), "detector");
        }
    }
    for (int count : {1, 16}) {
        std::vector<cloud_t> events;
        for (int i = 0; i < count; i++) {
            events.push_back(detector_cloud(1300, 8));
        }
        bench(events, 0.4f, count > 1 ? "16 small events" : "a small event");
    }
}

int main(int argc, char **argv) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: no GPU\n");
        return SKIPPED;
    }
    const char *seed = getenv("TM_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : (uint64_t)time(NULL);
    printf("TM_SEED=%llu\n", (unsigned long long)random_state);
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench_all(argc - 2, argv + 2);
        return failures > 0;
    }
    is_quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    static const struct {
        const char *name;
        void (*run)(void);
        bool slow;
    } tests[] = {{"can_run", can_run, false},
                 {"every_size", every_size, false},
                 {"odd_places", odd_places, false},
                 {"batches", batches, false},
                 {"too_small", too_small, false},
                 {"replay", replay, false},
                 {"large", large, true},
                 {"general_path", general_path, true}};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        int before = failures;
        if (tests[i].slow && is_quick) {
            continue;
        }
        uint64_t edges = total_edges;
        tests[i].run();
        printf("%s: %s, %llu edges compared\n", tests[i].name,
               failures > before ? "FAILED" : "passed", (unsigned long long)(total_edges - edges));
        fflush(stdout);
    }
    return failures > 0;
}
