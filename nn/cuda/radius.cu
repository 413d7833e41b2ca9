// SPDX-License-Identifier: Apache-2.0
/*
 * All pairs within the radius. Points are put in an order in which tiles of 128 are compact; a block
 * takes the points of one tile, finds the tiles whose boxes are near its own, and goes through their
 * points in shared memory, once to count and once to write. The columns of tiles are cut into slices,
 * so that small events fill the GPU too. Edges are then sorted by source and target.
 *
 * With a cap on neighbours, all neighbours of a batch of tiles are written with their distances and
 * sorted by point, distance and row; the first k of each stay.
 */
#include <math.h>

#include "nn/cuda/edge_features.cuh"

#define TILE TM_GPU_TILE
#define WARPS (TILE / TM_GPU_WARP)
/* Boxes are tested in the same precision as points: a little slack keeps the search exact. */
#define BOX_SLACK 1.0001f
#define CUT_LEAST_DR_MM 1e-3f
/* Blocks that fill a large GPU. */
#define BLOCKS_WANTED 4096u
#define SLICES_MAX 16u
/* Neighbours that are sorted at a time where there is a cap. */
#define BATCH_PAIRS ((uint64_t)32 << 20)
#define NO_EDGE UINT64_MAX

typedef struct {
    float low[TM_EMBED_DIM_MAX], high[TM_EMBED_DIM_MAX]; /* 0 beyond the points' dimensions */
    float key_min, key_max;
} box_t;

/* Which of the pairs within the radius are edges. */
typedef struct {
    tm_direction_t direction;
    float dphi_max, z0_max, z0_min_dr;
} cuts_t;

typedef struct {
    uint32_t n, n_tiles, slices;
    const float4 *points; /* [n_tiles · TILE, QUADS] in order; 0 beyond n */
    const uint32_t *order;
    const box_t *boxes; /* [n_tiles] */
    float r2;
    cuts_t cuts;
    tm_points_t raw;
    bool all;            /* every neighbour counts, whatever direction and cuts say */
    uint32_t first_tile; /* of the batch */
    int bits;            /* of a row in an edge key */
} search_t;

/* Whether the edge a → b has the direction and the geometry that the model asks for. */
static __device__ bool accept(const cuts_t *cuts, const tm_points_t *p, uint32_t a, uint32_t b) {
    if (cuts->direction == TM_DIRECTION_INDEX) {
        if (b >= a) {
            return false;
        }
    } else if (p->rho[b] < p->rho[a] || (p->rho[b] == p->rho[a] && b <= a)) {
        return false;
    }
    if (cuts->dphi_max > 0 && !(fabsf(tm_gpu_dphi(p, a, b)) < cuts->dphi_max)) {
        return false;
    }
    if (cuts->z0_max > 0) {
        float dr = p->r[b] - p->r[a];
        if (!(dr < cuts->z0_min_dr)) {
            float dz = p->z[b] - p->z[a];
            float z0 = p->z[a] - p->r[a] * dz / (dr > CUT_LEAST_DR_MM ? dr : CUT_LEAST_DR_MM);
            return fabsf(z0) < cuts->z0_max;
        }
    }
    return true;
}

/* ---- tiles ---- */

template <int QUADS>
static __global__ void place_points(const float *embedding, const uint32_t *order, uint32_t n,
                                    uint32_t dim, uint32_t places, float4 *points) {
    uint64_t place = tm_gpu_thread();
    if (place >= places) {
        return;
    }
    for (int q = 0; q < QUADS; q++) {
        float v[4];
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t d = 4 * q + i;
            v[i] = place < n && d < dim ? embedding[(uint64_t)order[place] * dim + d] : 0;
        }
        points[place * QUADS + q] = make_float4(v[0], v[1], v[2], v[3]);
    }
}

/* One block of one warp per tile. */
static __global__ void find_tile_boxes(const float *embedding, const uint32_t *order, uint32_t n,
                                       uint32_t dim, const float *rho, bool by_index,
                                       box_t *boxes) {
    uint64_t begin = (uint64_t)blockIdx.x * TILE;
    uint64_t end = begin + TILE < n ? begin + TILE : n;
    box_t *box = &boxes[blockIdx.x];
    for (uint32_t d = 0; d < TM_EMBED_DIM_MAX + 1; d++) {
        uint32_t least = UINT32_MAX;
        uint32_t most = 0;
        for (uint64_t place = begin + threadIdx.x; place < end; place += TM_GPU_WARP) {
            uint32_t row = order[place];
            /* edges go to larger rho, or to lower rows: whole numbers up to TM_POINTS_MAX are
             * exact in float */
            float key = by_index ? -(float)row : rho[row];
            float value = d == TM_EMBED_DIM_MAX ? key
                          : d < dim             ? embedding[(uint64_t)row * dim + d]
                                                : 0;
            uint32_t v = tm_gpu_ordered(value);
            least = v < least ? v : least;
            most = v > most ? v : most;
        }
        least = __reduce_min_sync(TM_GPU_WARP_MASK, least);
        most = __reduce_max_sync(TM_GPU_WARP_MASK, most);
        if (threadIdx.x == 0) {
            if (d == TM_EMBED_DIM_MAX) {
                box->key_min = tm_gpu_from_ordered(least);
                box->key_max = tm_gpu_from_ordered(most);
            } else {
                box->low[d] = tm_gpu_from_ordered(least);
                box->high[d] = tm_gpu_from_ordered(most);
            }
        }
    }
}

template <int QUADS> static __device__ float box_distance2(const box_t *a, const box_t *b) {
    float d2 = 0;
    for (int d = 0; d < 4 * QUADS; d++) {
        float gap = fmaxf(fmaxf(b->low[d] - a->high[d], a->low[d] - b->high[d]), 0);
        d2 = fmaf(gap, gap, d2);
    }
    return d2;
}

template <int QUADS> static __device__ float point_distance2(const float4 *a, const float4 *b) {
    float d2 = 0;
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        float x = a[q].x - b[q].x;
        float y = a[q].y - b[q].y;
        float z = a[q].z - b[q].z;
        float w = a[q].w - b[q].w;
        d2 = fmaf(x, x, d2);
        d2 = fmaf(y, y, d2);
        d2 = fmaf(z, z, d2);
        d2 = fmaf(w, w, d2);
    }
    return d2;
}

template <int QUADS>
static __device__ float point_box_distance2(const float4 *point, const box_t *box) {
    const float *p = (const float *)point;
    float d2 = 0;
#pragma unroll
    for (int d = 0; d < 4 * QUADS; d++) {
        float gap = fmaxf(fmaxf(box->low[d] - p[d], p[d] - box->high[d]), 0);
        d2 = fmaf(gap, gap, d2);
    }
    return d2;
}

/* Goes through all neighbours of the block's points and tells `visit` (place, row, row of the
 * neighbour, d2) of those that count. Block (x, y): tile first_tile + x, slice y of the columns;
 * thread t: the tile's point t. */
template <int QUADS, typename Visit> static __device__ void search(const search_t &s, Visit visit) {
    __shared__ float4 tile[TILE * QUADS];
    __shared__ uint32_t near[TILE];
    __shared__ uint32_t warp_near[WARPS];
    const uint32_t own = s.first_tile + blockIdx.x;
    const uint64_t place = (uint64_t)own * TILE + threadIdx.x;
    const bool valid = place < s.n;
    const uint32_t row = valid ? s.order[place] : 0;
    const uint32_t warp = threadIdx.x / TM_GPU_WARP;
    const uint32_t lower_lanes = (1u << threadIdx.x % TM_GPU_WARP) - 1;
    const float box_r2 = s.r2 * BOX_SLACK;
    const uint32_t begin = (uint32_t)((uint64_t)s.n_tiles * blockIdx.y / s.slices);
    const uint32_t end = (uint32_t)((uint64_t)s.n_tiles * (blockIdx.y + 1) / s.slices);
    float4 query[QUADS];
#pragma unroll
    for (int q = 0; q < QUADS; q++) {
        query[q] = s.points[place * QUADS + q]; /* the last tile is filled up */
    }
    for (uint32_t base = begin; base < end; base += TILE) {
        uint32_t candidate = base + threadIdx.x;
        bool hit = candidate < end &&
                   (s.all || s.boxes[candidate].key_max >= s.boxes[own].key_min) &&
                   box_distance2<QUADS>(&s.boxes[own], &s.boxes[candidate]) <= box_r2;
        uint32_t hits = __ballot_sync(TM_GPU_WARP_MASK, hit);
        if (threadIdx.x % TM_GPU_WARP == 0) {
            warp_near[warp] = __popc(hits);
        }
        __syncthreads();
        uint32_t before = 0;
        uint32_t n_near = 0;
        for (uint32_t w = 0; w < WARPS; w++) {
            before += w < warp ? warp_near[w] : 0;
            n_near += warp_near[w];
        }
        if (hit) {
            near[before + __popc(hits & lower_lanes)] = candidate;
        }
        __syncthreads();
        for (uint32_t k = 0; k < n_near; k++) {
            uint32_t other = near[k];
            uint64_t first = (uint64_t)other * TILE;
            for (uint32_t i = threadIdx.x; i < TILE * QUADS; i += TILE) {
                tile[i] = s.points[first * QUADS + i];
            }
            __syncthreads();
            bool reached = valid && point_box_distance2<QUADS>(query, &s.boxes[other]) <= box_r2;
            if (__any_sync(TM_GPU_WARP_MASK, reached)) {
                uint32_t count = s.n - first < TILE ? (uint32_t)(s.n - first) : TILE;
                for (uint32_t j = 0; j < count; j++) {
                    float d2 = point_distance2<QUADS>(query, tile + j * QUADS);
                    if (reached && d2 <= s.r2) {
                        uint32_t to = s.order[first + j];
                        if (s.all || accept(&s.cuts, &s.raw, row, to)) {
                            visit(place, row, to, d2);
                        }
                    }
                }
            }
            __syncthreads();
        }
    }
}

/* counts [n · slices + 1], the last of which is 0 already */
template <int QUADS>
static __global__ void __launch_bounds__(TILE) count(const search_t s, uint64_t *counts) {
    uint64_t found = 0;
    search<QUADS>(s, [&](uint64_t, uint32_t, uint32_t, float) { found++; });
    uint64_t place = (uint64_t)(s.first_tile + blockIdx.x) * TILE + threadIdx.x;
    if (place < s.n) {
        counts[place * s.slices + blockIdx.y] = found;
    }
}

template <int QUADS>
static __global__ void __launch_bounds__(TILE)
    write_edges(const search_t s, const uint64_t *offsets, uint64_t *keys) {
    uint64_t own = (uint64_t)(s.first_tile + blockIdx.x) * TILE + threadIdx.x;
    uint64_t cell = own * s.slices + blockIdx.y;
    uint64_t at = own < s.n ? offsets[cell] : 0;
    uint64_t end = own < s.n ? offsets[cell + 1] : 0;
    search<QUADS>(s, [&](uint64_t, uint32_t a, uint32_t b, float) {
        if (at < end) {
            keys[at++] = (uint64_t)a << s.bits | b;
        }
    });
}

/* Distances are not negative, so their bits are in their order. */
template <int QUADS>
static __global__ void __launch_bounds__(TILE)
    write_neighbours(const search_t s, const uint64_t *offsets, uint64_t base, uint64_t *keys,
                     uint32_t *places) {
    uint64_t own = (uint64_t)(s.first_tile + blockIdx.x) * TILE + threadIdx.x;
    uint64_t cell = own * s.slices + blockIdx.y;
    uint64_t at = own < s.n ? offsets[cell] : 0;
    uint64_t end = own < s.n ? offsets[cell + 1] : 0;
    search<QUADS>(s, [&](uint64_t place, uint32_t, uint32_t b, float d2) {
        if (at < end) {
            keys[at - base] = (uint64_t)__float_as_uint(d2) << 32 | b;
            places[at - base] = (uint32_t)place;
            at++;
        }
    });
}

/* ---- the cap ---- */

/* slots [n + 1] */
static __global__ void count_slots(const uint64_t *offsets, uint32_t n, uint32_t slices, uint32_t k,
                                   uint64_t *slots) {
    uint64_t place = tm_gpu_thread();
    if (place <= n) {
        uint64_t found = place < n ? offsets[(place + 1) * slices] - offsets[place * slices] : 0;
        slots[place] = found < k ? found : k;
    }
}

/* Where the neighbours of each tile begin; [n_tiles + 1] */
static __global__ void find_tile_offsets(const uint64_t *offsets, uint32_t n, uint32_t n_tiles,
                                         uint32_t slices, uint64_t *tile_offsets) {
    uint64_t tile = tm_gpu_thread();
    if (tile <= n_tiles) {
        uint64_t place = tile * TILE < n ? tile * TILE : n;
        tile_offsets[tile] = offsets[place * slices];
    }
}

static __global__ void keep_nearest(const search_t s, uint32_t k, const uint64_t *offsets,
                                    uint64_t base, uint64_t n_pairs, const uint64_t *near_keys,
                                    const uint32_t *places, const uint64_t *slot_offsets,
                                    uint64_t *keys, unsigned long long *n_edges) {
    uint64_t i = tm_gpu_thread();
    if (i >= n_pairs) {
        return;
    }
    uint64_t place = places[i];
    uint64_t rank = base + i - offsets[place * s.slices];
    if (rank >= k) {
        return;
    }
    uint32_t a = s.order[place];
    uint32_t b = (uint32_t)near_keys[i];
    bool edge = accept(&s.cuts, &s.raw, a, b);
    keys[slot_offsets[place] + rank] = edge ? (uint64_t)a << s.bits | b : NO_EDGE;
    if (edge) {
        atomicAdd(n_edges, 1ull);
    }
}

static __global__ void unpack(const uint64_t *keys, uint64_t n, int bits, uint32_t *src,
                              uint32_t *dst) {
    uint64_t i = tm_gpu_thread();
    if (i < n) {
        src[i] = (uint32_t)(keys[i] >> bits);
        dst[i] = (uint32_t)(keys[i] & ((1ull << bits) - 1));
    }
}

/* ---- the stage ---- */

static tm_status_t too_many(tm_error_t *err) {
    return tm_error_set(
        err, TM_E_NO_MEMORY,
        "the radius graph has more than %u edges: the model does not fit this event",
        TM_RADIUS_EDGES_MAX);
}

/* The kernels for one number of dimensions. */
template <int QUADS> struct kernels {
    static tm_status_t place(tm_gpu_t *gpu, const search_t *s, const float *embedding, uint32_t dim,
                             float4 *points, tm_error_t *err) {
        uint32_t places = s->n_tiles * TILE;
        place_points<QUADS>
            <<<tm_gpu_blocks(places, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
                embedding, s->order, s->n, dim, places, points);
        return tm_gpu_launched(gpu, "tiles", err);
    }
    static tm_status_t count_all(tm_gpu_t *gpu, const search_t *s, uint64_t *counts,
                                 tm_error_t *err) {
        count<QUADS><<<dim3(s->n_tiles, s->slices), TILE, 0, gpu->stream>>>(*s, counts);
        return tm_gpu_launched(gpu, "the radius search", err);
    }
    static tm_status_t write(tm_gpu_t *gpu, const search_t *s, const uint64_t *offsets,
                             uint64_t *keys, tm_error_t *err) {
        write_edges<QUADS>
            <<<dim3(s->n_tiles, s->slices), TILE, 0, gpu->stream>>>(*s, offsets, keys);
        return tm_gpu_launched(gpu, "the radius search", err);
    }
    static tm_status_t write_near(tm_gpu_t *gpu, const search_t *s, uint32_t n_tiles,
                                  const uint64_t *offsets, uint64_t base, uint64_t *keys,
                                  uint32_t *places, tm_error_t *err) {
        write_neighbours<QUADS>
            <<<dim3(n_tiles, s->slices), TILE, 0, gpu->stream>>>(*s, offsets, base, keys, places);
        return tm_gpu_launched(gpu, "the radius search", err);
    }
};

/* The neighbours of tiles [first, end), sorted by place, distance and row; the nearest k of each go to
 * their slots in keys. */
template <int QUADS>
static tm_status_t cap_batch(tm_gpu_t *gpu, const search_t *s, uint32_t first, uint32_t end,
                             uint64_t base, uint64_t n_pairs, const uint64_t *offsets,
                             const uint64_t *slot_offsets, uint64_t *keys, uint64_t *n_edges,
                             tm_error_t *err) {
    uint64_t *near = NULL;
    uint64_t *near_out = NULL;
    uint32_t *places = NULL;
    uint32_t *places_out = NULL;
    search_t batch = *s;
    batch.first_tile = first;
    if (n_pairs == 0) {
        return TM_OK;
    }
    TM_TRY(tm_gpu_cancelled(gpu, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_NEAR_KEYS, n_pairs, &near, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_NEAR_KEYS_NEXT, n_pairs, &near_out, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_NEAR_PLACES, n_pairs, &places, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_NEAR_PLACES_NEXT, n_pairs, &places_out, err));
    TM_TRY(kernels<QUADS>::write_near(gpu, &batch, end - first, offsets, base, near, places, err));
    TM_TRY(tm_gpu_sort_u64_u32(gpu, near, near_out, places, places_out, n_pairs, 64, err));
    TM_TRY(tm_gpu_sort_u32_u64(gpu, places_out, places, near_out, near, n_pairs, tm_gpu_bits(s->n),
                               err));
    keep_nearest<<<tm_gpu_blocks(n_pairs, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
        batch, gpu->device.pipeline->radius.k, offsets, base, n_pairs, near, places, slot_offsets,
        keys, (unsigned long long *)n_edges);
    return tm_gpu_launched(gpu, "the nearest neighbours", err);
}

/* Leaves *n_keys keys, unsorted, of which n_edges are edges and the others NO_EDGE. */
template <int QUADS>
static tm_status_t capped_edges(tm_gpu_t *gpu, const search_t *s, const uint64_t *offsets,
                                uint64_t **keys, uint64_t *n_keys, uint64_t *n_edges,
                                tm_error_t *err) {
    uint64_t *slots = NULL;
    uint64_t *slot_offsets = NULL;
    uint64_t *tile_offsets = NULL;
    uint64_t *counter = NULL;
    void *staging = NULL;
    size_t tile_bytes = ((size_t)s->n_tiles + 1) * sizeof(uint64_t);
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SLOTS, (size_t)s->n + 1, &slots, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SLOT_OFFSETS, (size_t)s->n + 1, &slot_offsets, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TILE_OFFSETS, (size_t)s->n_tiles + 1, &tile_offsets, err));
    TM_TRY(tm_gpu_staging(gpu, tile_bytes, &staging, err));
    count_slots<<<tm_gpu_blocks((uint64_t)s->n + 1, TM_GPU_THREADS), TM_GPU_THREADS, 0,
                  gpu->stream>>>(offsets, s->n, s->slices, gpu->device.pipeline->radius.k, slots);
    TM_TRY(tm_gpu_launched(gpu, "neighbours", err));
    TM_TRY(tm_gpu_scan_u64(gpu, slots, slot_offsets, (size_t)s->n + 1, err));
    find_tile_offsets<<<tm_gpu_blocks((uint64_t)s->n_tiles + 1, TM_GPU_THREADS), TM_GPU_THREADS, 0,
                        gpu->stream>>>(offsets, s->n, s->n_tiles, s->slices, tile_offsets);
    TM_TRY(tm_gpu_launched(gpu, "neighbours", err));
    TM_TRY(tm_gpu_check(
        gpu,
        cudaMemcpyAsync(staging, tile_offsets, tile_bytes, cudaMemcpyDeviceToHost, gpu->stream),
        "neighbours", err));
    TM_TRY(tm_gpu_read_u64(gpu, slot_offsets + s->n, n_keys, "neighbours", err));
    TM_TRY(tm_gpu_scalars_reset(gpu, &counter, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EDGE_KEYS, *n_keys, keys, err));
    const uint64_t *begins = (const uint64_t *)staging;
    for (uint32_t first = 0; first < s->n_tiles;) {
        uint32_t end = first + 1;
        while (end < s->n_tiles && begins[end + 1] - begins[first] <= BATCH_PAIRS) {
            end++;
        }
        TM_TRY(cap_batch<QUADS>(gpu, s, first, end, begins[first], begins[end] - begins[first],
                                offsets, slot_offsets, *keys, counter, err));
        first = end;
    }
    TM_TRY(tm_gpu_scalars_read(gpu, "the nearest neighbours", err));
    *n_edges = gpu->host_scalars[0];
    return TM_OK;
}

template <int QUADS>
static tm_status_t find_edges(tm_gpu_t *gpu, search_t *s, const float *embedding, uint32_t dim,
                              uint64_t **keys, uint64_t *n_keys, uint64_t *n_edges,
                              tm_error_t *err) {
    float4 *points = NULL;
    uint64_t *counts = NULL;
    uint64_t *offsets = NULL;
    size_t cells = (size_t)s->n * s->slices;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TILES, (size_t)s->n_tiles * TILE * QUADS, &points, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_COUNTS, cells + 1, &counts, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_OFFSETS, cells + 1, &offsets, err));
    TM_TRY(kernels<QUADS>::place(gpu, s, embedding, dim, points, err));
    s->points = points;
    TM_TRY(tm_gpu_check(gpu, cudaMemsetAsync(counts + cells, 0, sizeof *counts, gpu->stream),
                        "neighbours", err));
    TM_TRY(kernels<QUADS>::count_all(gpu, s, counts, err));
    TM_TRY(tm_gpu_scan_u64(gpu, counts, offsets, cells + 1, err));
    if (s->all) {
        return capped_edges<QUADS>(gpu, s, offsets, keys, n_keys, n_edges, err);
    }
    TM_TRY(tm_gpu_read_u64(gpu, offsets + cells, n_edges, "the radius search", err));
    if (*n_edges > TM_RADIUS_EDGES_MAX) {
        return too_many(err);
    }
    *n_keys = *n_edges;
    TM_TRY(tm_gpu_cancelled(gpu, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EDGE_KEYS, *n_keys, keys, err));
    return kernels<QUADS>::write(gpu, s, offsets, *keys, err);
}

static tm_status_t search_all(tm_gpu_t *gpu, const tm_points_t *points, const float *embedding,
                              uint64_t **keys, uint64_t *n_keys, uint64_t *n_edges, int *bits,
                              tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    uint32_t dim = p->embed.mlp.out;
    uint32_t n_tiles = tm_gpu_blocks(points->n, TILE);
    uint32_t slices = BLOCKS_WANTED / n_tiles;
    slices = slices < 1 ? 1 : slices > SLICES_MAX ? SLICES_MAX : slices;
    box_t *boxes = NULL;
    search_t s = {};
    s.n = points->n;
    s.n_tiles = n_tiles;
    s.slices = slices < n_tiles ? slices : n_tiles;
    s.r2 = p->radius.r * p->radius.r;
    s.cuts = (cuts_t){.direction = p->radius.direction,
                      .dphi_max = p->radius.dphi_max,
                      .z0_max = p->radius.z0_max,
                      .z0_min_dr = p->radius.z0_min_dr};
    s.raw = *points;
    s.all = p->radius.k > 0;
    s.bits = *bits = tm_gpu_bits(points->n);
    TM_TRY(tm_gpu_kd_order(gpu, s.n, dim, embedding, &s.order, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_TILE_BOXES, n_tiles, &boxes, err));
    find_tile_boxes<<<n_tiles, TM_GPU_WARP, 0, gpu->stream>>>(
        embedding, s.order, s.n, dim, points->rho, p->radius.direction == TM_DIRECTION_INDEX,
        boxes);
    TM_TRY(tm_gpu_launched(gpu, "tiles", err));
    s.boxes = boxes;
    if (dim <= 4) {
        return find_edges<1>(gpu, &s, embedding, dim, keys, n_keys, n_edges, err);
    }
    if (dim <= 8) {
        return find_edges<2>(gpu, &s, embedding, dim, keys, n_keys, n_edges, err);
    }
    if (dim <= 12) {
        return find_edges<3>(gpu, &s, embedding, dim, keys, n_keys, n_edges, err);
    }
    return find_edges<4>(gpu, &s, embedding, dim, keys, n_keys, n_edges, err);
}

tm_status_t tm_gpu_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err) {
    tm_gpu_t *gpu = (tm_gpu_t *)device;
    uint64_t *keys = NULL;
    uint64_t *sorted = NULL;
    uint32_t *src = NULL;
    uint32_t *dst = NULL;
    uint64_t n_keys = 0;
    uint64_t n_edges = 0;
    int bits = 1;
    TM_TRY(tm_gpu_enter(gpu, err));
    if (points->n > 0) {
        TM_TRY(search_all(gpu, points, embedding, &keys, &n_keys, &n_edges, &bits, err));
    }
    if (n_edges > TM_RADIUS_EDGES_MAX) {
        return too_many(err);
    }
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_SRC, n_edges, &src, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_DST, n_edges, &dst, err));
    if (n_edges > 0) {
        /* one bit more than keys have, so that NO_EDGE comes behind all of them */
        TM_TRY(tm_gpu_reserve(gpu, TM_GPU_EDGE_KEYS_NEXT, n_keys, &sorted, err));
        TM_TRY(tm_gpu_sort_u64(gpu, keys, sorted, n_keys, 2 * bits + 1, err));
        unpack<<<tm_gpu_blocks(n_edges, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
            sorted, n_edges, bits, src, dst);
        TM_TRY(tm_gpu_launched(gpu, "the radius graph", err));
        TM_TRY(tm_gpu_wait(gpu, "the radius graph", err));
    }
    *edges = (tm_edges_t){.n = (uint32_t)n_edges, .src = src, .dst = dst};
    return TM_OK;
}
