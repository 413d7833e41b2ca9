// SPDX-License-Identifier: Apache-2.0
/* What the search works with, by slot: points in fp32 and as operands in fp16, boxes, work items. */
#include <math.h>

#include "nn/cuda/fused/search_parts.cuh"

/* Up to so many tiles of the batch, a work item has one or two tiles of columns. */
#define ONE_TILE_MAX 64u
#define TWO_TILES_MAX 192u
static_assert(TWO_TILES_MAX <= TM_SEARCH_FINE_TILES, "only fine items are so small");

/* ---- operands, records and boxes ---- */

#define CONSTANT_MARGIN (1.0f / 4096)
/* Points so far from the origin, in r^2, that fp16 could not hold them: all others are candidates. */
#define NORM_MAX 28000.0f
#define CERTAIN (-60000.0f)

static __device__ uint32_t pack(__half a, __half b) {
    return (uint32_t)__half_as_ushort(a) | (uint32_t)__half_as_ushort(b) << 16;
}

/* Terms 4 i .. 4 i + 3 of a row (A) or column (B): x in units of r, `norm` as it enters the product. */
template <int DIMS, bool SPLIT>
static __device__ uint2 operand(const float *x, float norm, int first, bool column) {
    const __half norm_high = __float2half_rn(norm);
    const __half norm_low = __float2half_rn(norm - __half2float(norm_high));
    const __half one = __float2half_rn(1);
    __half h[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int term = first + i;
        constexpr int PER_DIM = SPLIT ? 3 : 1;
        __half v = __float2half_rn(0);
#pragma unroll
        for (int d = 0; d < DIMS; d++) {
            if (term / PER_DIM == d) {
                const float c = column ? x[d] : -2 * x[d];
                const __half high = __float2half_rn(c);
                const __half low = __float2half_rn(c - __half2float(high));
                /* (high, high), (high, low), (low, high) */
                const int part = term % PER_DIM;
                v = part == (column ? 1 : 2) ? low : high;
            }
        }
        const int extra = term - DIMS * PER_DIM;
        if (extra >= 0 && extra < 2) {
            v = column ? one : extra == 0 ? norm_high : norm_low;
        } else if (extra >= 2 && extra < 4) {
            v = !column ? one : extra == 2 ? norm_high : norm_low;
        }
        h[i] = v;
    }
    return make_uint2(pack(h[0], h[1]), pack(h[2], h[3]));
}

/* What the other of slots g and g + 8 has. */
static __device__ uint2 swap(uint2 v) {
    const int step = TM_SEARCH_GROUP / 2;
    return make_uint2(__shfl_xor_sync(TM_GPU_WARP_MASK, v.x, step),
                      __shfl_xor_sync(TM_GPU_WARP_MASK, v.y, step));
}

/* A thread per slot; boxes from warps. Zeroes the counters of the search and the nodes' degrees. */
template <int QUADS, bool SPLIT, int STEPS>
static __global__ void __launch_bounds__(TM_GPU_TILE)
    place_points(const tm_fused_search_t s, const tm_fused_search_input_t in,
                 const uint32_t *order) {
    constexpr int DIMS = 4 * QUADS;
    /* with fewer terms than DIMS would give, the last dimensions are zero and may be dropped */
    constexpr int KEPT =
        (STEPS * (int)TM_SEARCH_TERMS - (int)TM_SEARCH_EXTRA_TERMS) / (SPLIT ? 3 : 1) < DIMS
            ? (STEPS * (int)TM_SEARCH_TERMS - (int)TM_SEARCH_EXTRA_TERMS) / (SPLIT ? 3 : 1)
            : DIMS;
    constexpr int BOX_DIMS = DIMS + 1;
    __shared__ float low[TM_SEARCH_GROUPS][BOX_DIMS];
    __shared__ float high[TM_SEARCH_GROUPS][BOX_DIMS];
    if (blockIdx.x == 0 && threadIdx.x < TM_SEARCH_COUNTERS) {
        s.counters[threadIdx.x] = 0;
    }
    const uint32_t n_tiles = in.counts->n_tiles;
    for (uint32_t tile = blockIdx.x; tile < n_tiles; tile += gridDim.x) {
        const tm_fused_tile_t t = in.tiles[tile];
        const size_t slot = (size_t)tile * TM_GPU_TILE + threadIdx.x;
        const bool valid = threadIdx.x < t.count;
        const uint32_t node = t.first + threadIdx.x;
        const uint32_t row = valid ? order[node] : 0;
        if (valid) {
            s.degrees[node] = 0;
        }
        float x[BOX_DIMS];
#pragma unroll
        for (int d = 0; d < DIMS; d++) {
            x[d] = valid && d < (int)s.dim ? in.embedding[(size_t)row * s.dim + d] : 0;
        }
        const float4 place = valid ? in.place[row] : make_float4(0, 0, 0, 0);
        float4 *record = s.records + slot * (QUADS + 2);
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            record[q] = make_float4(x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]);
        }
        record[QUADS] = make_float4(place.x, place.y, place.z, valid ? in.rho[row] : 0);
        record[QUADS + 1] = make_float4(__uint_as_float(row),
                                        __uint_as_float(valid ? node : TM_SEARCH_NOBODY), 0, 0);
        x[DIMS] = place.y;

        /* boxes: of 16 slots, of 64, of the tile */
        __syncthreads();
#pragma unroll
        for (int d = 0; d < BOX_DIMS; d++) {
            float least = valid ? x[d] : INFINITY;
            float most = valid ? x[d] : -INFINITY;
#pragma unroll
            for (int step = TM_SEARCH_GROUP / 2; step > 0; step /= 2) {
                least = fminf(least, __shfl_xor_sync(TM_GPU_WARP_MASK, least, step));
                most = fmaxf(most, __shfl_xor_sync(TM_GPU_WARP_MASK, most, step));
            }
            if (threadIdx.x % TM_SEARCH_GROUP == 0) {
                low[threadIdx.x / TM_SEARCH_GROUP][d] = least;
                high[threadIdx.x / TM_SEARCH_GROUP][d] = most;
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < TM_SEARCH_GROUPS * BOX_DIMS; i += TM_GPU_TILE) {
            const uint32_t group = i % TM_SEARCH_GROUPS;
            const uint32_t d = i / TM_SEARCH_GROUPS;
            const size_t at = ((size_t)d * s.capacity.tiles + tile) * TM_SEARCH_GROUPS + group;
            s.group_low[at] = low[group][d];
            s.group_high[at] = high[group][d];
        }
        if (threadIdx.x < BOX_DIMS) {
            const uint32_t d = threadIdx.x;
            float least[TM_SEARCH_ROW_SETS];
            float most[TM_SEARCH_ROW_SETS];
            for (uint32_t set = 0; set < TM_SEARCH_ROW_SETS; set++) {
                least[set] = low[set * TM_SEARCH_ROW_GROUPS][d];
                most[set] = high[set * TM_SEARCH_ROW_GROUPS][d];
                for (uint32_t g = 1; g < TM_SEARCH_ROW_GROUPS; g++) {
                    least[set] = fminf(least[set], low[set * TM_SEARCH_ROW_GROUPS + g][d]);
                    most[set] = fmaxf(most[set], high[set * TM_SEARCH_ROW_GROUPS + g][d]);
                }
                float *box = s.row_boxes + ((size_t)tile * TM_SEARCH_ROW_SETS + set) * 2 * BOX_DIMS;
                box[2 * d] = least[set];
                box[2 * d + 1] = most[set];
            }
            s.tile_low[(size_t)d * s.capacity.tiles + tile] = fminf(least[0], least[1]);
            s.tile_high[(size_t)d * s.capacity.tiles + tile] = fmaxf(most[0], most[1]);
        }

        /* operands: 16 slots are 32 lanes of 16 bytes per step, as they go into registers: a lane
         * holds 4 terms of slots g and g + 8, of columns 4 of each, of rows 2 of each in turn */
        float norm = 0;
#pragma unroll
        for (int d = 0; d < DIMS; d++) {
            x[d] *= s.inverse_r;
            norm = fmaf(x[d], x[d], norm);
        }
        const bool far = !(norm < NORM_MAX);
        if (far) {
#pragma unroll
            for (int d = 0; d < DIMS; d++) {
                x[d] = 0;
            }
        }
        norm = far ? CERTAIN
                   : fmaf(norm, -(SPLIT ? TM_SEARCH_SPLIT_SHARE : TM_SEARCH_PLAIN_SHARE), norm) -
                         0.5f * (1 + CONSTANT_MARGIN);
        norm = valid ? norm : -CERTAIN;
        const uint32_t g = threadIdx.x % TM_SEARCH_GROUP % 8;
        const uint32_t upper = threadIdx.x % TM_SEARCH_GROUP / 8;
        const size_t group = slot / TM_SEARCH_GROUP;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint2 r[4];
            uint2 c[4];
#pragma unroll
            for (int q = 0; q < 4; q++) {
                const int first = step * (int)TM_SEARCH_TERMS + 4 * q;
                r[q] = operand<KEPT, SPLIT>(x, norm, first, false);
                c[q] = operand<KEPT, SPLIT>(x, norm, first, true);
            }
            /* slot g writes what both hold of lanes 0 and 1 of their four, g + 8 that of 2 and 3 */
#pragma unroll
            for (int q = 0; q < 2; q++) {
                const uint2 own_r = upper ? r[q + 2] : r[q];
                const uint2 own_c = upper ? c[q + 2] : c[q];
                const uint2 other_r = swap(upper ? r[q] : r[q + 2]);
                const uint2 other_c = swap(upper ? c[q] : c[q + 2]);
                const uint2 r0 = upper ? other_r : own_r;
                const uint2 r8 = upper ? own_r : other_r;
                const uint2 c0 = upper ? other_c : own_c;
                const uint2 c8 = upper ? own_c : other_c;
                const size_t at =
                    (group * STEPS + step) * TM_GPU_WARP + g * 4 + 2 * upper + (uint32_t)q;
                s.rows_half[at] = make_uint4(r0.x, r8.x, r0.y, r8.y);
                s.columns_half[at] = make_uint4(c0.x, c0.y, c8.x, c8.y);
            }
        }
    }
}

/* ---- work items ---- */

static __device__ bool tiles_near(const tm_fused_search_t &s, uint32_t a, uint32_t b,
                                  float box_r2) {
    const size_t stride = s.capacity.tiles;
    const float *low = s.tile_low;
    const float *high = s.tile_high;
    const size_t p = 4 * s.quads * stride;
    if (tm_search_phi_gap(low[p + a], high[p + a], low[p + b], high[p + b]) > s.phi_reach) {
        return false;
    }
    float d2 = 0;
    for (uint32_t d = 0; d < s.dim; d++) {
        const size_t o = d * stride;
        d2 = tm_search_add_gap(d2, low[o + a], high[o + a], low[o + b], high[o + b]);
    }
    return d2 <= box_r2;
}

/* A warp tests 32 tiles against the row tiles of an item. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    list_items(const tm_fused_search_t s, const tm_fused_search_input_t in) {
    const uint32_t n_tiles = in.counts->n_tiles;
    const uint32_t n_pairs = (n_tiles + TM_SEARCH_ITEM_ROW_TILES - 1) / TM_SEARCH_ITEM_ROW_TILES;
    const uint32_t n_steps = (n_tiles + TM_GPU_WARP - 1) / TM_GPU_WARP;
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const float box_r2 = s.r2 * TM_SEARCH_BOX_SLACK;
    /* the fewer tiles, the finer the items, so that they fill the GPU */
    const bool fine = n_tiles <= TM_SEARCH_FINE_TILES;
    const uint32_t row_sets = fine ? TM_SEARCH_ITEM_ROW_TILES * TM_SEARCH_ROW_SETS : 1;
    const uint32_t per_item = n_tiles <= ONE_TILE_MAX    ? 1
                              : n_tiles <= TWO_TILES_MAX ? 2
                                                         : TM_SEARCH_ITEM_TILES;
    const uint64_t warps = (uint64_t)gridDim.x * (TM_GPU_THREADS / TM_GPU_WARP);
    for (uint64_t at = tm_gpu_thread() / TM_GPU_WARP; at < (uint64_t)n_pairs * n_steps;
         at += warps) {
        const uint32_t pair = (uint32_t)(at / n_steps);
        const uint32_t step = (uint32_t)(at % n_steps);
        const uint32_t column = step * TM_GPU_WARP + lane;
        if (step * TM_GPU_WARP + TM_GPU_WARP <= pair * TM_SEARCH_ITEM_ROW_TILES) {
            continue; /* the other half of the matrix */
        }
        bool hit = false;
        for (uint32_t i = 0; i < TM_SEARCH_ITEM_ROW_TILES; i++) {
            const uint32_t row = pair * TM_SEARCH_ITEM_ROW_TILES + i;
            hit = hit || (row < n_tiles && column >= row && column < in.tiles[row].event_end &&
                          tiles_near(s, row, column, box_r2));
        }
        const uint32_t hits = __ballot_sync(TM_GPU_WARP_MASK, hit);
        const uint32_t tile = lane * per_item; /* of the 32: the lane's first */
        const uint32_t own = tile < TM_GPU_WARP ? hits >> tile & ((1u << per_item) - 1) : 0;
        const uint32_t writers = __ballot_sync(TM_GPU_WARP_MASK, own != 0);
        unsigned long long first = 0;
        if (lane == 0 && writers) {
            first = atomicAdd(&s.counters[TM_SEARCH_ITEMS],
                              (unsigned long long)(__popc(writers) * row_sets));
        }
        first = __shfl_sync(TM_GPU_WARP_MASK, first, 0) +
                __popc(writers & ((1u << lane) - 1)) * row_sets;
        for (uint32_t i = 0; i < row_sets && own; i++) {
            if (first + i < s.items_max) {
                const uint64_t chunk = (step * TM_GPU_WARP + tile) / TM_SEARCH_ITEM_TILES;
                const uint64_t rows = (uint64_t)pair * row_sets + i;
                s.items[first + i] = (rows << TM_SEARCH_CHUNK_BITS | chunk)
                                         << TM_SEARCH_ITEM_TILES |
                                     own << tile % TM_SEARCH_ITEM_TILES;
            }
        }
    }
}

/* ---- launches ---- */

template <int QUADS, bool SPLIT, int STEPS>
static void place(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                  const uint32_t *order, cudaStream_t stream) {
    const unsigned most = (unsigned)s->processors * TM_SEARCH_BLOCKS_PER_PROCESSOR;
    const unsigned blocks = s->capacity.tiles < most ? s->capacity.tiles : most;
    place_points<QUADS, SPLIT, STEPS><<<blocks, TM_GPU_TILE, 0, stream>>>(*s, *in, order);
}

cudaError_t tm_fused_search_place(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                  const uint32_t *order, cudaStream_t stream) {
    const unsigned blocks = (unsigned)s->processors * TM_SEARCH_BLOCKS_PER_PROCESSOR;
    if (s->capacity.tiles == 0) {
        return cudaSuccess;
    }
    if (s->split) {
        (s->quads == 1   ? place<1, true, 1>
         : s->quads == 2 ? place<2, true, 2>
                         : place<3, true, 2>)(s, in, order, stream);
    } else {
        (s->quads == 1   ? place<1, false, 1>
         : s->quads == 2 ? place<2, false, 1>
         : s->quads == 3 ? place<3, false, 1>
                         : place<4, false, 2>)(s, in, order, stream);
    }
    list_items<<<blocks, TM_GPU_THREADS, 0, stream>>>(*s, *in);
    return cudaGetLastError();
}
