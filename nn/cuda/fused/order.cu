// SPDX-License-Identifier: Apache-2.0
/*
 * The order of an event's points. They are sorted by phi (or by the widest dimension of the embedding
 * where no cut on dphi is asked for) in steps of a 65536th, which cuts the event into strips of equal
 * numbers of points; a block puts each strip in the order of a kd tree: it sorts a segment by the
 * dimension in which it is widest, then either half of it in turn, down to 16 points, the columns of
 * one product of the search.
 *
 * Ties are broken by row or position, so the order depends on the event alone. Events of a batch have
 * steps and strips of their own.
 */
#include "nn/cuda/fused/grid.cuh"
#include "nn/cuda/fused/search_parts.cuh"

namespace cg = cooperative_groups;

#define STRIP 1024u  /* points of a block */
#define PER_WARP 64u /* positions of a warp: two per lane */
/* Smaller events have wider strips in phi: they are sorted within half a strip only. */
#define HALF_STRIP_POINTS 49152u
#define INDEX_BITS 10
static_assert(STRIP == 1024, "order_strips splits that often");
static_assert(1u << INDEX_BITS == STRIP, "a key holds the index of a point of the strip");
#define KEY_MOST ((float)((1u << (32 - INDEX_BITS)) - 2))
#define PAD_KEY UINT32_MAX
#define STEP_MOST ((float)(TM_SEARCH_STEPS - 2))
#define PHI_MIN (-3.14159274f)
#define PHI_RANGE 6.28318548f

/* ---- by rows ---- */

static __global__ void number_rows(const tm_fused_counts_t *counts, uint32_t *order) {
    uint64_t i = tm_gpu_thread();
    if (i < counts->n_points) {
        order[i] = (uint32_t)i;
    }
}

/* ---- strips ---- */

/* bounds [2, TM_EMBED_DIM_MAX]: all ones and zeros before */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    find_bounds(const tm_fused_counts_t *counts, const float *embedding, uint32_t dim,
                uint32_t *bounds) {
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t least = UINT32_MAX;
        uint32_t most = 0;
        for (uint64_t i = tm_gpu_thread(); i < counts->n_points;
             i += (uint64_t)gridDim.x * blockDim.x) {
            uint32_t v = tm_gpu_ordered(embedding[i * dim + d]);
            least = v < least ? v : least;
            most = v > most ? v : most;
        }
        least = __reduce_min_sync(TM_GPU_WARP_MASK, least);
        most = __reduce_max_sync(TM_GPU_WARP_MASK, most);
        if (threadIdx.x % TM_GPU_WARP == 0) {
            atomicMin(&bounds[d], least);
            atomicMax(&bounds[TM_EMBED_DIM_MAX + d], most);
        }
    }
}

typedef struct {
    const tm_fused_counts_t *counts;
    const uint32_t *event_rows;
    const float4 *place;
    const float *embedding;
    uint32_t dim;
    bool by_phi;
    const uint32_t *bounds;
    uint32_t *keys;      /* step of a row: those of the first event, of the second, … */
    uint32_t *steps;     /* points of a step, then those not yet placed */
    uint32_t *begins;    /* [steps + 1] */
    uint32_t *crowded;   /* steps of more than CROWD points */
    uint32_t *n_crowded; /* their number */
    uint32_t *block_sums;
    uint32_t *unsorted, *rows; /* by step; then by row within it */
} coarse_t;

static __device__ uint32_t key_of(const coarse_t &t, uint32_t row) {
    float share;
    if (t.by_phi) {
        share = (t.place[row].y - PHI_MIN) / PHI_RANGE;
    } else {
        uint32_t widest = 0;
        float from = 0;
        float width = -1;
        for (uint32_t d = 0; d < t.dim; d++) {
            float low = tm_gpu_from_ordered(t.bounds[d]);
            float w = tm_gpu_from_ordered(t.bounds[TM_EMBED_DIM_MAX + d]) - low;
            if (w > width) {
                widest = d;
                from = low;
                width = w;
            }
        }
        share = width > 0 ? (t.embedding[(uint64_t)row * t.dim + widest] - from) / width : 0;
    }
    return tm_fused_event_of(t.counts, t.event_rows, row) * TM_SEARCH_STEPS +
           (uint32_t)(fminf(fmaxf(share, 0), 1) * STEP_MOST);
}

/* The rows of a step, found again in their order by a whole block. */
static __device__ void place_crowd(const coarse_t &t, uint32_t n, uint32_t step) {
    typedef cub::BlockScan<uint32_t, TM_GRID_THREADS> scan_t;
    __shared__ typename scan_t::TempStorage memory;
    const auto add = [](uint32_t a, uint32_t b) { return a + b; };
    uint32_t at = t.begins[step];
    for (uint32_t first = 0; first < n; first += TM_GRID_THREADS) {
        const uint32_t row = first + threadIdx.x;
        const bool own = row < n && t.keys[row] == step;
        uint32_t before;
        uint32_t sum;
        scan_t(memory).ExclusiveScan(own ? 1u : 0u, before, 0u, add, sum);
        if (own) {
            t.rows[at + before] = row;
        }
        at += sum;
        __syncthreads();
    }
}

/* Rows by step: counts the points of each, puts rows there in any order, then each in its place by the
 * number of lower ones. Where that takes long the rows are found again. */
static __global__ void __launch_bounds__(TM_GRID_THREADS, TM_GRID_BLOCKS_PER_PROCESSOR)
    sort_coarsely(const coarse_t t) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = t.counts->n_points;
    const uint32_t n_steps = t.counts->n_events * TM_SEARCH_STEPS;
    const uint32_t first = blockIdx.x * TM_GRID_THREADS + threadIdx.x;
    const uint32_t stride = gridDim.x * TM_GRID_THREADS;
    const auto points = [&t](uint32_t step) { return t.steps[step]; };
    for (uint32_t i = first; i < n_steps; i += stride) {
        t.steps[i] = 0;
    }
    if (first == 0) {
        *t.n_crowded = 0;
    }
    grid.sync();
    for (uint32_t row = first; row < n; row += stride) {
        const uint32_t key = key_of(t, row);
        t.keys[row] = key;
        atomicAdd(&t.steps[key], 1u);
    }
    grid.sync();
    tm_grid_add_up(n_steps, t.block_sums, points);
    grid.sync();
    tm_grid_prefix(n_steps, t.block_sums, points, [&t](uint32_t step, uint32_t before) {
        t.begins[step] = before;
        if (t.steps[step] > TM_SEARCH_CROWD) {
            t.crowded[atomicAdd(t.n_crowded, 1u)] = step;
        }
    });
    if (first == 0) {
        t.begins[n_steps] = n;
    }
    grid.sync();
    for (uint32_t row = first; row < n; row += stride) {
        const uint32_t key = t.keys[row];
        t.unsorted[t.begins[key] + atomicSub(&t.steps[key], 1u) - 1] = row;
    }
    grid.sync();
    for (uint32_t i = first; i < n; i += stride) {
        const uint32_t row = t.unsorted[i];
        const uint32_t key = t.keys[row];
        const uint32_t begin = t.begins[key];
        const uint32_t end = t.begins[key + 1];
        if (end - begin <= TM_SEARCH_CROWD) {
            uint32_t lower = 0;
            for (uint32_t k = begin; k < end; k++) {
                lower += t.unsorted[k] < row;
            }
            t.rows[begin + lower] = row;
        }
    }
    const uint32_t n_crowded = *t.n_crowded;
    for (uint32_t i = blockIdx.x; i < n_crowded; i += gridDim.x) {
        place_crowd(t, n, t.crowded[i]);
    }
}

/* ---- within a strip ---- */

/* A step of a bitonic sort between lanes J apart; up: whether keys ascend. */
template <uint32_t J> static __device__ uint32_t exchange_lanes(uint32_t key, bool up) {
    const uint32_t other = __shfl_xor_sync(TM_GPU_WARP_MASK, key, J);
    const bool least = ((threadIdx.x & J) == 0) == up;
    return least ? min(key, other) : max(key, other);
}

static __device__ void exchange_own(uint32_t (&key)[2], bool up) {
    const uint32_t least = min(key[0], key[1]);
    const uint32_t most = max(key[0], key[1]);
    key[0] = up ? least : most;
    key[1] = up ? most : least;
}

/* Merges 32 keys, lane by lane. */
static __device__ uint32_t merge_lanes(uint32_t key, bool up) {
    key = exchange_lanes<16>(key, up);
    key = exchange_lanes<8>(key, up);
    key = exchange_lanes<4>(key, up);
    key = exchange_lanes<2>(key, up);
    return exchange_lanes<1>(key, up);
}

/* Sorts 32 keys. */
static __device__ uint32_t sort_lanes(uint32_t key, bool up) {
    const uint32_t lane = threadIdx.x;
    key = exchange_lanes<1>(key, (lane & 2) == 0);
    key = exchange_lanes<2>(key, (lane & 4) == 0);
    key = exchange_lanes<1>(key, (lane & 4) == 0);
    key = exchange_lanes<4>(key, (lane & 8) == 0);
    key = exchange_lanes<2>(key, (lane & 8) == 0);
    key = exchange_lanes<1>(key, (lane & 8) == 0);
    key = exchange_lanes<8>(key, (lane & 16) == 0);
    key = exchange_lanes<4>(key, (lane & 16) == 0);
    key = exchange_lanes<2>(key, (lane & 16) == 0);
    key = exchange_lanes<1>(key, (lane & 16) == 0);
    return merge_lanes(key, up);
}

/* `POINTS` of a strip, as a block has them. */
template <uint32_t POINTS> struct strip_t {
    uint32_t row[POINTS];
    uint32_t exchange[2][POINTS]; /* keys of other warps: one is read while the other is written */
    uint32_t low[POINTS / PER_WARP][TM_GPU_WARP],
        high[POINTS / PER_WARP][TM_GPU_WARP]; /* of warps */
};

/* Sorts the keys of a strip by segment: lane l of warp w holds positions 64 w + l and 64 w + 32 + l.
 * Bitonic; steps between warps go through shared memory. turn: of the exchange, the same in all threads. */
template <uint32_t SEGMENT, uint32_t POINTS>
static __device__ void sort_segments(strip_t<POINTS> &strip, uint32_t &turn, uint32_t (&key)[2]) {
    const uint32_t first = threadIdx.x / TM_GPU_WARP * PER_WARP + threadIdx.x % TM_GPU_WARP;
    key[0] = sort_lanes(key[0], true);
    key[1] = sort_lanes(key[1], SEGMENT == TM_GPU_WARP);
#pragma unroll
    for (uint32_t k = PER_WARP; k <= SEGMENT; k *= 2) {
        const bool up = (first & k) == 0 || k == SEGMENT;
        for (uint32_t j = k / 2; j >= PER_WARP; j /= 2) {
            uint32_t *shared = strip.exchange[turn];
            turn ^= 1;
            shared[first] = key[0];
            shared[first + TM_GPU_WARP] = key[1];
            __syncthreads();
            const bool least = ((first & j) == 0) == up;
#pragma unroll
            for (uint32_t e = 0; e < 2; e++) {
                const uint32_t other = shared[(first + e * TM_GPU_WARP) ^ j];
                key[e] = least ? min(key[e], other) : max(key[e], other);
            }
        }
        exchange_own(key, up);
        key[0] = merge_lanes(key[0], up);
        key[1] = merge_lanes(key[1], up);
    }
}

/* The widest dimension of a segment, where it begins and how wide it is there. */
typedef struct {
    uint32_t dim;
    float from, width;
} widest_t;

/* Lane d of the warp has least and most of dimension d, as ordered integers; least above most: no
 * points, or no such dimension. */
static __device__ widest_t widest_of(uint32_t least, uint32_t most) {
    float from = 0;
    float width = -1;
    if (least <= most) {
        const float low = tm_gpu_from_ordered(least);
        const float w = tm_gpu_from_ordered(most) - low;
        if (w >= 0) { /* a number */
            from = low;
            width = w;
        }
    }
    const uint32_t own = tm_gpu_ordered(width);
    const uint32_t best = __reduce_max_sync(TM_GPU_WARP_MASK, own);
    const uint32_t dim = __ffs((int)__ballot_sync(TM_GPU_WARP_MASK, own == best)) - 1;
    return (widest_t){dim, __shfl_sync(TM_GPU_WARP_MASK, from, (int)dim),
                      tm_gpu_from_ordered(best)};
}

/* The widest dimensions of the segments of the thread's two points; index STRIP: no point. */
template <uint32_t SEGMENT, uint32_t POINTS>
static __device__ void find_widest(strip_t<POINTS> &strip, const uint32_t *coordinates,
                                   uint32_t dim, const uint32_t (&index)[2], widest_t (&w)[2]) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t warp = threadIdx.x / TM_GPU_WARP;
    uint32_t low[2] = {UINT32_MAX, UINT32_MAX}; /* of dimension `lane` */
    uint32_t high[2] = {0, 0};
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t least[2];
        uint32_t most[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const bool valid = index[e] < STRIP;
            const uint32_t v = valid ? coordinates[d * POINTS + index[e]] : 0;
            least[e] = valid ? v : UINT32_MAX;
            most[e] = v;
        }
        if (SEGMENT >= PER_WARP) {
            least[0] = min(least[0], least[1]);
            most[0] = max(most[0], most[1]);
        }
#pragma unroll
        for (int e = 0; e < (SEGMENT >= PER_WARP ? 1 : 2); e++) {
            least[e] = __reduce_min_sync(TM_GPU_WARP_MASK, least[e]);
            most[e] = __reduce_max_sync(TM_GPU_WARP_MASK, most[e]);
            low[e] = lane == d ? least[e] : low[e];
            high[e] = lane == d ? most[e] : high[e];
        }
    }
    if constexpr (SEGMENT > PER_WARP) {
        strip.low[warp][lane] = low[0];
        strip.high[warp][lane] = high[0];
        __syncthreads();
        const uint32_t first = warp * PER_WARP / SEGMENT * (SEGMENT / PER_WARP);
#pragma unroll
        for (uint32_t k = 0; k < SEGMENT / PER_WARP; k++) {
            low[0] = min(low[0], strip.low[first + k][lane]);
            high[0] = max(high[0], strip.high[first + k][lane]);
        }
    }
    w[0] = widest_of(low[0], high[0]);
    w[1] = SEGMENT >= PER_WARP ? w[0] : widest_of(low[1], high[1]);
}

/* Sorts each segment by its widest dimension. */
template <uint32_t SEGMENT, uint32_t POINTS>
static __device__ void split(strip_t<POINTS> &strip, uint32_t &turn, const uint32_t *coordinates,
                             uint32_t dim, uint32_t (&index)[2]) {
    widest_t w[2];
    uint32_t key[2];
    find_widest<SEGMENT>(strip, coordinates, dim, index, w);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        key[e] = PAD_KEY;
        if (index[e] < STRIP) {
            const float v = tm_gpu_from_ordered(coordinates[w[e].dim * POINTS + index[e]]);
            const float share = w[e].width > 0 ? (v - w[e].from) / w[e].width : 0;
            const uint32_t scaled = (uint32_t)(fminf(fmaxf(share, 0), 1) * KEY_MOST);
            key[e] = scaled << INDEX_BITS | index[e];
        }
    }
    sort_segments<SEGMENT>(strip, turn, key);
    index[0] = key[0] == PAD_KEY ? STRIP : key[0] % STRIP;
    index[1] = key[1] == PAD_KEY ? STRIP : key[1] % STRIP;
}

/* A strip, of at most `points`, of an event of event_points; none: count 0. */
typedef struct {
    uint32_t base, count;
    uint32_t event_points;
} piece_t;

/* Strips of the first event come first, then those of the second, … */
static __device__ piece_t find_strip(const tm_fused_counts_t *counts, const uint32_t *event_rows,
                                     uint32_t points, uint32_t number) {
    for (uint32_t e = 0; e < counts->n_events; e++) {
        const uint32_t n = event_rows[e + 1] - event_rows[e];
        const uint32_t strips = (n + points - 1) / points;
        if (number < strips) {
            const uint32_t at = number * points;
            return (piece_t){event_rows[e] + at, min(n - at, points), n};
        }
        number -= strips;
    }
    return (piece_t){};
}

/* One block per strip, or per half of one where POINTS are as many, at a time. Dynamic shared memory:
 * [dim, POINTS] coordinates, ordered. */
template <uint32_t POINTS>
static __global__ void __launch_bounds__(POINTS / 2)
    order_strips(const tm_fused_counts_t *counts, const uint32_t *event_rows,
                 const float *embedding, uint32_t dim, const uint32_t *rows, uint32_t *order) {
    extern __shared__ uint32_t coordinates[];
    __shared__ strip_t<POINTS> strip;
    const uint32_t first = threadIdx.x / TM_GPU_WARP * PER_WARP + threadIdx.x % TM_GPU_WARP;
    uint32_t turn = 0;
    for (uint32_t number = blockIdx.x;; number += gridDim.x) {
        const piece_t piece = find_strip(counts, event_rows, POINTS, number);
        const uint32_t base = piece.base;
        const uint32_t count = piece.count;
        if (count == 0) {
            break;
        }
        __syncthreads(); /* the strip before is written */
        for (uint32_t i = threadIdx.x; i < count; i += POINTS / 2) {
            const uint32_t row = rows[base + i];
            strip.row[i] = row;
            for (uint32_t d = 0; d < dim; d++) {
                coordinates[d * POINTS + i] = tm_gpu_ordered(embedding[(uint64_t)row * dim + d]);
            }
        }
        __syncthreads();
        uint32_t index[2];
        index[0] = first < count ? first : STRIP;
        index[1] = first + TM_GPU_WARP < count ? first + TM_GPU_WARP : STRIP;
        if (POINTS == STRIP && piece.event_points > HALF_STRIP_POINTS) {
            split<POINTS>(strip, turn, coordinates, dim, index);
        }
        split<512>(strip, turn, coordinates, dim, index);
        split<256>(strip, turn, coordinates, dim, index);
        split<128>(strip, turn, coordinates, dim, index);
        split<64>(strip, turn, coordinates, dim, index);
        split<32>(strip, turn, coordinates, dim, index);
        for (uint32_t e = 0; e < 2; e++) {
            const uint32_t at = first + e * TM_GPU_WARP;
            if (at < count) {
                order[base + at] = strip.row[index[e]];
            }
        }
    }
}

/* ---- the stage ---- */

static size_t strip_bytes(uint32_t dim, uint32_t points) {
    return (size_t)dim * points * sizeof(uint32_t);
}

cudaError_t tm_fused_order_prepare(void) {
    return cudaFuncSetAttribute(order_strips<STRIP>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)strip_bytes(TM_EMBED_DIM_MAX, STRIP));
}

template <uint32_t POINTS>
static void launch_strips(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                          uint32_t *order, cudaStream_t stream) {
    const unsigned strips = tm_gpu_blocks(s->capacity.points, POINTS) + s->events_max - 1;
    order_strips<POINTS><<<strips, POINTS / 2, strip_bytes(s->dim, POINTS), stream>>>(
        in->counts, in->event_rows, in->embedding, s->dim, s->rows, order);
}

cudaError_t tm_fused_order(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                           bool ordered, uint32_t *order, cudaStream_t stream) {
    const uint32_t capacity = s->capacity.points;
    const unsigned blocks = tm_gpu_blocks(capacity, TM_GPU_THREADS);
    const bool by_phi = isfinite(s->phi_reach);
    cudaError_t error;
    if (capacity == 0) {
        return cudaSuccess;
    }
    if (!ordered) {
        number_rows<<<blocks, TM_GPU_THREADS, 0, stream>>>(in->counts, order);
        return cudaGetLastError();
    }
    if (!by_phi) {
        const size_t half = TM_EMBED_DIM_MAX * sizeof *s->bounds;
        error = cudaMemsetAsync(s->bounds, 0xff, half, stream);
        if (error == cudaSuccess) {
            error = cudaMemsetAsync(s->bounds + TM_EMBED_DIM_MAX, 0, half, stream);
        }
        if (error != cudaSuccess) {
            return error;
        }
        find_bounds<<<(unsigned)s->processors, TM_GPU_THREADS, 0, stream>>>(
            in->counts, in->embedding, s->dim, s->bounds);
    }
    coarse_t t = {.counts = in->counts,
                  .event_rows = in->event_rows,
                  .place = in->place,
                  .embedding = in->embedding,
                  .dim = s->dim,
                  .by_phi = by_phi,
                  .bounds = s->bounds,
                  .keys = s->keys,
                  .steps = s->steps,
                  .begins = s->step_begins,
                  .crowded = s->crowded + 1,
                  .n_crowded = s->crowded,
                  .block_sums = s->block_sums,
                  .unsorted = s->rows_unsorted,
                  .rows = s->rows};
    void *arguments[] = {&t};
    error = cudaLaunchCooperativeKernel((const void *)sort_coarsely,
                                        dim3(tm_grid_blocks(s->processors)), dim3(TM_GRID_THREADS),
                                        arguments, 0, stream);
    if (error != cudaSuccess) {
        return error;
    }
    if (capacity <= HALF_STRIP_POINTS) {
        launch_strips<STRIP / 2>(s, in, order, stream); /* more blocks */
    } else {
        launch_strips<STRIP>(s, in, order, stream);
    }
    return cudaGetLastError();
}
