// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/cuda/edge_features.cuh"
#include "nn/cuda/fused/grid.cuh"
#include "nn/cuda/fused/ptx.cuh"
#include "nn/cuda/fused/search_parts.cuh"

#define THREADS (TM_SEARCH_WARPS * TM_GPU_WARP)
#define BLOCKS_WANTED 6 /* per multiprocessor: what registers are cut to */
#define STACK (2 * TM_GPU_WARP)
#define EVERY_FOURTH 0x11111111u
static_assert(TM_SEARCH_WARPS == 4, "the warps of a block share groups by EVERY_FOURTH");
#define ITEMS_MAX (8u << 20)
#define PHI_SLACK 1e-4f
#define PHI_REACH_MAX 1.5f /* beyond, strips in phi do not pay */
#define CUT_LEAST_DR_MM 1e-3f

/* ---- the search ---- */

/* c = a b */
static __device__ void multiply(float (&c)[4], const uint4 &a, uint32_t b0, uint32_t b1) {
    tm_ptx_mma_first(c, a.x, a.y, a.z, a.w, b0, b1);
}

/* c += a b */
static __device__ void multiply_add(float (&c)[4], const uint4 &a, uint32_t b0, uint32_t b1) {
    tm_ptx_mma(c, a.x, a.y, a.z, a.w, b0, b1);
}

/* What a warp has gathered, two stacks: lanes' signs of products with the groups and lanes they belong
 * to, and the pairs of slots that these say. */
typedef struct {
    uint32_t signs[STACK], columns[STACK], row_sets[STACK]; /* columns: group * 32 + lane */
    uint2 pairs[STACK];
} stage_t;

/* Of a warp, uniform. */
typedef struct {
    uint32_t signs, pairs; /* on its stacks */
    uint32_t edges;        /* found so far */
} state_t;

/* Whether a -> b goes the right way and passes the cuts, as `accept` of the general path has it;
 * places are (r, phi, z, rho). */
static __device__ bool passes_cuts(const tm_fused_search_t &s, const float4 &a, const float4 &b) {
    if (s.dphi_max > 0 && !(fabsf(tm_gpu_wrap(b.y - a.y)) < s.dphi_max)) {
        return false;
    }
    if (s.z0_max > 0) {
        float dr = b.x - a.x;
        if (!(dr < s.z0_min_dr)) {
            float dz = b.z - a.z;
            float z0 = a.z - a.x * dz / (dr > CUT_LEAST_DR_MM ? dr : CUT_LEAST_DR_MM);
            return fabsf(z0) < s.z0_max;
        }
    }
    return true;
}

/* Puts a target beside its source. */
static __device__ void keep_edge(const tm_fused_search_t &s, uint32_t source, uint32_t target) {
    const uint32_t rank = atomicAdd(&s.degrees[source], 1u);
    if (rank < TM_SEARCH_SLOTS) {
        s.targets[(size_t)source * TM_SEARCH_SLOTS + rank] = target;
        return;
    }
    if (rank >= TM_FUSED_DEGREE_MAX) {
        s.counters[TM_SEARCH_TOO_MANY] = 1;
        return;
    }
    const unsigned long long at = atomicAdd(&s.counters[TM_SEARCH_LISTED], 1ull);
    if (at < s.capacity.edges) {
        s.list[at] = ((uint64_t)source << TM_FUSED_ROW_BITS | target) << TM_SEARCH_RANK_BITS | rank;
    }
}

/* Looks at the `count` uppermost pairs, one per lane. */
template <int QUADS>
static __device__ void look_at(const tm_fused_search_t &s, const stage_t &stage, state_t &state,
                               uint32_t count) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    bool edge = false;
    uint32_t source = 0;
    uint32_t target = 0;
    state.pairs -= count;
    __syncwarp();
    const uint2 pair = stage.pairs[state.pairs + lane];
    __syncwarp();
    if (lane < count) {
        const float4 *ra = s.records + (size_t)pair.x * (QUADS + 2);
        const float4 *rb = s.records + (size_t)pair.y * (QUADS + 2);
        float4 a = ra[QUADS];
        float4 b = rb[QUADS];
        const float2 id_a = *(const float2 *)&ra[QUADS + 1];
        const float2 id_b = *(const float2 *)&rb[QUADS + 1];
        float d2 = 0;
#pragma unroll
        for (int q = 0; q < QUADS; q++) {
            const float4 u = ra[q];
            const float4 v = rb[q];
            float x = u.x - v.x;
            float y = u.y - v.y;
            float z = u.z - v.z;
            float w = u.w - v.w;
            d2 = fmaf(x, x, d2);
            d2 = fmaf(y, y, d2);
            d2 = fmaf(z, z, d2);
            d2 = fmaf(w, w, d2);
        }
        const uint32_t row_a = __float_as_uint(id_a.x);
        const uint32_t row_b = __float_as_uint(id_b.x);
        source = __float_as_uint(id_a.y);
        target = __float_as_uint(id_b.y);
        const bool forward = s.direction == TM_DIRECTION_INDEX
                                 ? row_b < row_a
                                 : a.w < b.w || (a.w == b.w && row_a < row_b);
        if (!forward) {
            const float4 t = a;
            a = b;
            b = t;
            const uint32_t u = source;
            source = target;
            target = u;
        }
        edge = d2 <= s.r2 && source != TM_SEARCH_NOBODY && target != TM_SEARCH_NOBODY &&
               passes_cuts(s, a, b);
    }
    if (edge) {
        keep_edge(s, source, target);
    }
    state.edges += __popc(__ballot_sync(TM_GPU_WARP_MASK, edge));
}

/* Turns the `count` uppermost signs into pairs, and looks at these. */
template <int QUADS>
static __device__ void expand(const tm_fused_search_t &s, stage_t &stage, state_t &state,
                              uint32_t count) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    uint32_t signs = 0;
    uint32_t first_row = 0;
    uint32_t first_column = 0;
    state.signs -= count;
    __syncwarp();
    if (lane < count) {
        const uint32_t at = state.signs + lane;
        const uint32_t columns = stage.columns[at];
        const uint32_t from = columns % TM_GPU_WARP; /* lane */
        signs = stage.signs[at];
        first_row = stage.row_sets[at] * TM_SEARCH_ROWS + from / 4;
        first_column = columns / TM_GPU_WARP * TM_SEARCH_GROUP + from % 4 * 2;
    }
    __syncwarp();
    while (__any_sync(TM_GPU_WARP_MASK, signs != 0)) {
        /* as signs_of has them */
        const uint32_t leading = __clz((int)signs);
        const uint32_t row = first_row + leading / 8 * TM_SEARCH_GROUP + (leading & 2) * 4;
        const uint32_t column = first_column + (leading & 4) * 2 + (leading & 1);
        const bool pair = signs != 0 && row < column;
        const uint32_t pairs = __ballot_sync(TM_GPU_WARP_MASK, pair);
        if (pair) {
            stage.pairs[state.pairs + __popc(pairs & ((1u << lane) - 1))] = make_uint2(row, column);
        }
        signs &= ~(0x80000000u >> (leading & 31));
        state.pairs += __popc(pairs);
        if (state.pairs >= TM_GPU_WARP) {
            look_at<QUADS>(s, stage, state, TM_GPU_WARP);
        }
    }
}

/* Which groups of the item's columns the warp's rows must be multiplied with: bit 8 t + g is group g of
 * tile t. */
static __device__ void near_groups(const tm_fused_search_t &s, const tm_fused_tile_t &row_tile,
                                   uint32_t row_set, uint32_t chunk, uint32_t mask,
                                   uint32_t (&near)[2]) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const size_t stride = (size_t)s.capacity.tiles * TM_SEARCH_GROUPS;
    const uint32_t dims = 4 * s.quads;
    const float *own = s.row_boxes + (size_t)row_set * 2 * (dims + 1);
    const float box_r2 = s.r2 * TM_SEARCH_BOX_SLACK;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t bit = half * TM_GPU_WARP + lane;
        const uint32_t tile = chunk * TM_SEARCH_ITEM_TILES + bit / TM_SEARCH_GROUPS;
        const uint32_t group = tile * TM_SEARCH_GROUPS + bit % TM_SEARCH_GROUPS;
        bool hit = (mask >> (bit / TM_SEARCH_GROUPS) & 1) && tile < row_tile.event_end &&
                   group >= row_set * TM_SEARCH_ROW_GROUPS;
        if (hit) {
            const size_t p = dims * stride + group;
            hit = tm_search_phi_gap(own[2 * dims], own[2 * dims + 1], s.group_low[p],
                                    s.group_high[p]) <= s.phi_reach;
        }
        if (hit) {
            float d2 = 0;
            for (uint32_t d = 0; d < s.dim; d++) {
                const size_t o = d * stride + group;
                d2 = tm_search_add_gap(d2, own[2 * d], own[2 * d + 1], s.group_low[o],
                                       s.group_high[o]);
            }
            hit = d2 <= box_r2;
        }
        near[half] = __ballot_sync(TM_GPU_WARP_MASK, hit);
    }
}

template <int STEPS>
static __device__ void load_columns(const uint4 *columns, uint32_t group, uint4 (&b)[STEPS]) {
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        b[k] = columns[(group * STEPS + k) * TM_GPU_WARP];
    }
}

/* The signs of the lane's 32 products, the first in the highest bit: by row group, 8 columns, row (g,
 * g + 8), column. */
template <int STEPS>
static __device__ uint32_t signs_of(const uint4 (&a)[TM_SEARCH_ROW_GROUPS][STEPS],
                                    const uint4 (&b)[STEPS]) {
    uint32_t signs = 0;
#pragma unroll
    for (uint32_t m = 0; m < TM_SEARCH_ROW_GROUPS; m++) {
        float c[2][4];
        multiply(c[0], a[m][0], b[0].x, b[0].y);
        multiply(c[1], a[m][0], b[0].z, b[0].w);
#pragma unroll
        for (int k = 1; k < STEPS; k++) {
            multiply_add(c[0], a[m][k], b[k].x, b[k].y);
            multiply_add(c[1], a[m][k], b[k].z, b[k].w);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            signs = __funnelshift_l(__float_as_uint(c[i / 4][i % 4]), signs, 1);
        }
    }
    return signs;
}

template <int QUADS, int STEPS>
static __global__ void __launch_bounds__(THREADS, BLOCKS_WANTED)
    find_pairs(const tm_fused_search_t s, const tm_fused_search_input_t in) {
    __shared__ stage_t stages[TM_SEARCH_WARPS];
    __shared__ uint32_t shared_next;
    const uint32_t warp = threadIdx.x / TM_GPU_WARP;
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t n_tiles = in.counts->n_tiles;
    const bool fine = n_tiles <= TM_SEARCH_FINE_TILES;
    const unsigned long long listed = s.counters[TM_SEARCH_ITEMS];
    const uint32_t n_items = listed < s.items_max ? (uint32_t)listed : s.items_max;
    stage_t &stage = stages[warp];
    state_t state = {};
    for (uint32_t number = blockIdx.x; number < n_items;) {
        uint32_t next = 0;
        if (threadIdx.x == 0) {
            /* the next item: its number arrives while this one is worked on */
            next = gridDim.x + (uint32_t)atomicAdd(&s.counters[TM_SEARCH_NEXT_ITEM], 1ull);
        }
        const uint64_t item = s.items[number];
        const uint32_t rows = (uint32_t)(item >> (TM_SEARCH_CHUNK_BITS + TM_SEARCH_ITEM_TILES));
        const uint32_t row_set = fine ? rows : rows * TM_SEARCH_WARPS + warp;
        const uint32_t chunk =
            (uint32_t)(item >> TM_SEARCH_ITEM_TILES) & ((1u << TM_SEARCH_CHUNK_BITS) - 1);
        uint32_t near[2] = {0, 0};
        if (row_set / TM_SEARCH_ROW_SETS < n_tiles) {
            const uint32_t mask = (uint32_t)item & ((1u << TM_SEARCH_ITEM_TILES) - 1);
            near_groups(s, in.tiles[row_set / TM_SEARCH_ROW_SETS], row_set, chunk, mask, near);
        }
        if (fine) {
            near[0] &= EVERY_FOURTH << warp;
            near[1] &= EVERY_FOURTH << warp;
        }
        if (near[0] | near[1]) {
            uint4 a[TM_SEARCH_ROW_GROUPS][STEPS];
#pragma unroll
            for (uint32_t m = 0; m < TM_SEARCH_ROW_GROUPS; m++) {
#pragma unroll
                for (int k = 0; k < STEPS; k++) {
                    const size_t group = (size_t)row_set * TM_SEARCH_ROW_GROUPS + m;
                    a[m][k] = s.rows_half[(group * STEPS + k) * TM_GPU_WARP + lane];
                }
            }
            for (uint32_t half = 0; half < 2; half++) {
                const uint32_t first_group =
                    chunk * TM_SEARCH_ITEM_TILES * TM_SEARCH_GROUPS + half * TM_GPU_WARP;
                const uint4 *columns =
                    s.columns_half + (size_t)first_group * STEPS * TM_GPU_WARP + lane;
                uint32_t todo = half ? near[1] : near[0];
                uint4 b[STEPS];
                uint32_t group = 0;
                if (todo) {
                    group = __ffs((int)todo) - 1;
                    load_columns<STEPS>(columns, group, b);
                }
                while (todo) {
                    todo &= todo - 1;
                    const uint32_t next_group = todo ? __ffs((int)todo) - 1 : group;
                    uint4 b_next[STEPS];
                    load_columns<STEPS>(columns, next_group, b_next);
                    const uint32_t signs = signs_of<STEPS>(a, b);
                    const uint32_t lanes = __ballot_sync(TM_GPU_WARP_MASK, signs != 0);
                    if (signs) {
                        const uint32_t at = state.signs + __popc(lanes & ((1u << lane) - 1));
                        stage.signs[at] = signs;
                        stage.columns[at] = (first_group + group) * TM_GPU_WARP + lane;
                        stage.row_sets[at] = row_set;
                    }
                    state.signs += __popc(lanes);
                    if (state.signs >= TM_GPU_WARP) {
                        expand<QUADS>(s, stage, state, TM_GPU_WARP);
                    }
                    group = next_group;
#pragma unroll
                    for (int k = 0; k < STEPS; k++) {
                        b[k] = b_next[k];
                    }
                }
            }
        }
        if (threadIdx.x == 0) {
            shared_next = next;
        }
        __syncthreads();
        number = shared_next;
        __syncthreads();
    }
    expand<QUADS>(s, stage, state, state.signs);
    look_at<QUADS>(s, stage, state, state.pairs);
    if (lane == 0 && state.edges > 0) {
        atomicAdd(&s.counters[TM_SEARCH_FOUND], (unsigned long long)state.edges);
    }
}

/* ---- the stage ---- */

bool tm_fused_search_can_run(const tm_pipeline_t *pipeline) {
    const uint32_t dim = pipeline->embed.mlp.out;
    return pipeline->radius.k == 0 && dim >= 1 && dim <= TM_EMBED_DIM_MAX;
}

/* Of two points of an edge in phi; INFINITY: no cut, or none that helps. */
static float phi_reach(const tm_pipeline_t *pipeline) {
    const float most = pipeline->radius.dphi_max;
    return most > 0 && most <= PHI_REACH_MAX ? most + PHI_SLACK : INFINITY;
}

/* Without a cut on phi it takes the widest dimension, which is that of one event. */
bool tm_fused_orders_many(const tm_pipeline_t *pipeline) {
    return isfinite(phi_reach(pipeline));
}

/* fp16 alone is enough where it adds at most this much to r^2. */
#define PLAIN_SURPLUS_MAX 0.3f
#define SPLIT_DIM_MAX 9u /* 3 terms each and the extra ones fill two steps */

cudaError_t tm_fused_search_plan(const tm_pipeline_t *pipeline, const tm_fused_capacity_t *capacity,
                                 int processors, tm_fused_arena_t *arena, tm_fused_search_t *out) {
    tm_fused_search_t s = {};
    const float r = pipeline->radius.r;
    s.capacity = *capacity;
    s.processors = processors;
    s.dim = pipeline->embed.mlp.out;
    s.quads = (s.dim + 3) / 4;
    s.r2 = r * r;
    s.inverse_r = 1 / r;
    s.direction = pipeline->radius.direction;
    s.dphi_max = pipeline->radius.dphi_max;
    s.z0_max = pipeline->radius.z0_max;
    s.z0_min_dr = pipeline->radius.z0_min_dr;
    s.phi_reach = phi_reach(pipeline);
    const bool plain =
        pipeline->embed.normalize && 2 * TM_SEARCH_PLAIN_SHARE / s.r2 < PLAIN_SURPLUS_MAX;
    s.split = !plain && s.dim <= SPLIT_DIM_MAX;
    s.k_steps =
        (s.dim * (s.split ? 3 : 1) + TM_SEARCH_EXTRA_TERMS + TM_SEARCH_TERMS - 1) / TM_SEARCH_TERMS;
    const size_t points = capacity->points;
    const size_t tiles = capacity->tiles;
    const size_t groups = tiles * TM_SEARCH_GROUPS;
    const size_t box_dims = 4 * s.quads + 1;
    const size_t pairs = (tiles + TM_SEARCH_ITEM_ROW_TILES - 1) / TM_SEARCH_ITEM_ROW_TILES;
    const size_t chunks =
        (tiles + TM_GPU_WARP - 1) / TM_GPU_WARP * (TM_GPU_WARP / TM_SEARCH_ITEM_TILES);
    const size_t fine_tiles = tiles < TM_SEARCH_FINE_TILES ? tiles : TM_SEARCH_FINE_TILES;
    const size_t fine_items = (fine_tiles * TM_SEARCH_ROW_SETS + TM_SEARCH_WARPS) * fine_tiles;
    const size_t items = pairs * chunks > fine_items ? pairs * chunks : fine_items;
    s.items_max = items < ITEMS_MAX ? (uint32_t)items : ITEMS_MAX;
    s.events_max = points / TM_FUSED_SMALL_POINTS < TM_FUSED_ORDERED_MAX
                       ? (uint32_t)points / TM_FUSED_SMALL_POINTS + 1
                       : TM_FUSED_ORDERED_MAX;
    const size_t steps = (size_t)s.events_max * TM_SEARCH_STEPS;
    s.keys = tm_fused_take<uint32_t>(arena, points);
    s.rows_unsorted = tm_fused_take<uint32_t>(arena, points);
    s.rows = tm_fused_take<uint32_t>(arena, points);
    s.steps = tm_fused_take<uint32_t>(arena, steps);
    s.step_begins = tm_fused_take<uint32_t>(arena, steps + 1);
    s.crowded = tm_fused_take<uint32_t>(arena, points / TM_SEARCH_CROWD + 1);
    s.bounds = tm_fused_take<uint32_t>(arena, 2 * TM_EMBED_DIM_MAX);
    s.records = tm_fused_take<float4>(arena, tiles * TM_GPU_TILE * (s.quads + 2));
    s.rows_half = tm_fused_take<uint4>(arena, groups * s.k_steps * TM_GPU_WARP);
    s.columns_half = tm_fused_take<uint4>(arena, groups * s.k_steps * TM_GPU_WARP);
    s.row_boxes = tm_fused_take<float>(arena, tiles * TM_SEARCH_ROW_SETS * 2 * box_dims);
    s.group_low = tm_fused_take<float>(arena, groups * box_dims);
    s.group_high = tm_fused_take<float>(arena, groups * box_dims);
    s.tile_low = tm_fused_take<float>(arena, tiles * box_dims);
    s.tile_high = tm_fused_take<float>(arena, tiles * box_dims);
    s.items = tm_fused_take<uint64_t>(arena, s.items_max);
    s.counters = tm_fused_take<unsigned long long>(arena, TM_SEARCH_COUNTERS);
    s.block_sums = tm_fused_take<uint32_t>(arena, tm_grid_blocks(processors));
    s.degrees = tm_fused_take<uint32_t>(arena, points);
    s.targets = tm_fused_take<uint32_t>(arena, points * TM_SEARCH_SLOTS);
    s.list = tm_fused_take<uint64_t>(arena, capacity->edges);
    s.more_targets = tm_fused_take<uint32_t>(arena, capacity->edges);
    s.large_nodes = tm_fused_take<uint32_t>(arena, points);
    *out = s;
    return cudaSuccess;
}

cudaError_t tm_fused_search_prepare(void) {
    return tm_fused_order_prepare();
}

template <int QUADS, int STEPS>
static cudaError_t find(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                        cudaStream_t stream) {
    int per_processor = 0;
    cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        &per_processor, find_pairs<QUADS, STEPS>, THREADS, 0);
    if (error != cudaSuccess) {
        return error;
    }
    const unsigned blocks = (unsigned)(s->processors * per_processor);
    find_pairs<QUADS, STEPS><<<blocks, THREADS, 0, stream>>>(*s, *in);
    return cudaGetLastError();
}

cudaError_t tm_fused_search_find(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                                 cudaStream_t stream) {
    if (s->capacity.tiles == 0) {
        return cudaSuccess;
    }
    if (s->k_steps == 1) {
        return s->quads == 1   ? find<1, 1>(s, in, stream)
               : s->quads == 2 ? find<2, 1>(s, in, stream)
                               : find<3, 1>(s, in, stream);
    }
    return s->quads == 2   ? find<2, 2>(s, in, stream)
           : s->quads == 3 ? find<3, 2>(s, in, stream)
                           : find<4, 2>(s, in, stream);
}

cudaError_t tm_fused_search(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                            const uint32_t *order, const tm_fused_edges_t *edges,
                            cudaStream_t stream) {
    cudaError_t error = tm_fused_search_place(s, in, order, stream);
    if (error == cudaSuccess) {
        error = tm_fused_search_find(s, in, stream);
    }
    return error == cudaSuccess ? tm_fused_search_collect(s, in, edges, stream) : error;
}
