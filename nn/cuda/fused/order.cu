// SPDX-License-Identifier: Apache-2.0
/*
 * The order of a large event. A radix sort by phi (or by the widest dimension of the embedding where
 * no cut on dphi is asked for) cuts it into strips of equal numbers of points; a block puts each strip
 * in the order of a kd tree: it sorts a segment by the dimension in which it is widest, then either
 * half of it in turn, down to 16 points, the columns of one product of the search.
 *
 * Both sorts are stable or break ties by position, so the order depends on the event alone.
 */
#include <cub/device/device_radix_sort.cuh>

#include "nn/cuda/fused/search_parts.cuh"

#define STRIP 1024u /* points of a block */
#define STRIP_THREADS (STRIP / 2)
#define PER_WARP 64u /* positions of a warp: two per lane */
#define BOX_WORDS (STRIP / PER_WARP * TM_EMBED_DIM_MAX)
/* Smaller events have wider strips in phi: they are sorted within half a strip only. */
#define HALF_STRIP_POINTS 49152u
#define INDEX_BITS 10
static_assert(STRIP == 1024, "order_strips splits that often");
static_assert(1u << INDEX_BITS == STRIP, "a key holds the index of a point of the strip");
#define KEY_MOST ((float)((1u << (32 - INDEX_BITS)) - 2))
#define PAD_KEY UINT32_MAX
#define COARSE_MOST 65534.0f /* 65535: behind all points */
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

/* Keys of all `capacity` places; those behind the points come last. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    make_keys(const tm_fused_counts_t *counts, const float4 *place, const float *embedding,
              uint32_t dim, bool by_phi, const uint32_t *bounds, uint32_t capacity, uint16_t *keys,
              uint32_t *rows) {
    uint64_t i = tm_gpu_thread();
    if (i >= capacity) {
        return;
    }
    uint16_t key = UINT16_MAX;
    if (i < counts->n_points) {
        float share;
        if (by_phi) {
            share = (place[i].y - PHI_MIN) / PHI_RANGE;
        } else {
            uint32_t widest = 0;
            float from = 0;
            float width = -1;
            for (uint32_t d = 0; d < dim; d++) {
                float low = tm_gpu_from_ordered(bounds[d]);
                float w = tm_gpu_from_ordered(bounds[TM_EMBED_DIM_MAX + d]) - low;
                if (w > width) {
                    widest = d;
                    from = low;
                    width = w;
                }
            }
            share = width > 0 ? (embedding[i * dim + widest] - from) / width : 0;
        }
        key = (uint16_t)(fminf(fmaxf(share, 0), 1) * COARSE_MOST);
    }
    keys[i] = key;
    rows[i] = (uint32_t)i;
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

/* Sorts the keys of a strip by segment: lane l of warp w holds positions 64 w + l and 64 w + 32 + l.
 * Bitonic; steps between warps go through shared memory. */
template <uint32_t SEGMENT>
static __device__ void sort_segments(uint32_t (&key)[2], uint32_t *shared) {
    const uint32_t first = threadIdx.x / TM_GPU_WARP * PER_WARP + threadIdx.x % TM_GPU_WARP;
    key[0] = sort_lanes(key[0], true);
    key[1] = sort_lanes(key[1], SEGMENT == TM_GPU_WARP);
#pragma unroll
    for (uint32_t k = PER_WARP; k <= SEGMENT; k *= 2) {
        const bool up = (first & k) == 0 || k == SEGMENT;
        for (uint32_t j = k / 2; j >= PER_WARP; j /= 2) {
            __syncthreads();
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

typedef struct {
    uint32_t row[STRIP];
    uint32_t exchange[STRIP];
    uint32_t low[BOX_WORDS], high[BOX_WORDS]; /* of segments of more than a warp */
} strip_t;

/* The widest dimension of a segment, where it begins and how wide it is there. */
typedef struct {
    uint32_t dim;
    float from, width;
} widest_t;

static __device__ void widen(widest_t *w, uint32_t dim, uint32_t least, uint32_t most) {
    if (least <= most) { /* there are points */
        const float from = tm_gpu_from_ordered(least);
        const float width = tm_gpu_from_ordered(most) - from;
        if (width > w->width) {
            *w = (widest_t){dim, from, width};
        }
    }
}

/* The widest dimensions of the segments of the thread's two points; index STRIP: no point. */
template <uint32_t SEGMENT>
static __device__ void find_widest(strip_t &strip, const uint32_t *coordinates, uint32_t dim,
                                   const uint32_t (&index)[2], widest_t (&w)[2]) {
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t box = threadIdx.x / TM_GPU_WARP * PER_WARP / SEGMENT * TM_EMBED_DIM_MAX;
    w[0] = w[1] = (widest_t){0, 0, -1};
    if (SEGMENT > PER_WARP) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < BOX_WORDS; i += STRIP_THREADS) {
            strip.low[i] = UINT32_MAX;
            strip.high[i] = 0;
        }
        __syncthreads();
    }
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t least[2];
        uint32_t most[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const bool valid = index[e] < STRIP;
            const uint32_t v = valid ? coordinates[d * STRIP + index[e]] : 0;
            least[e] = valid ? v : UINT32_MAX;
            most[e] = v;
        }
        if (SEGMENT >= PER_WARP) {
            const uint32_t low = __reduce_min_sync(TM_GPU_WARP_MASK, min(least[0], least[1]));
            const uint32_t high = __reduce_max_sync(TM_GPU_WARP_MASK, max(most[0], most[1]));
            if (SEGMENT == PER_WARP) {
                widen(&w[0], d, low, high);
            } else if (lane == 0) {
                atomicMin(&strip.low[box + d], low);
                atomicMax(&strip.high[box + d], high);
            }
        } else {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const uint32_t low = __reduce_min_sync(TM_GPU_WARP_MASK, least[e]);
                const uint32_t high = __reduce_max_sync(TM_GPU_WARP_MASK, most[e]);
                widen(&w[e], d, low, high);
            }
        }
    }
    if (SEGMENT > PER_WARP) {
        __syncthreads();
        for (uint32_t d = 0; d < dim; d++) {
            widen(&w[0], d, strip.low[box + d], strip.high[box + d]);
        }
    }
    if (SEGMENT >= PER_WARP) {
        w[1] = w[0];
    }
}

/* Sorts each segment by its widest dimension. */
template <uint32_t SEGMENT>
static __device__ void split(strip_t &strip, const uint32_t *coordinates, uint32_t dim,
                             uint32_t (&index)[2]) {
    widest_t w[2];
    uint32_t key[2];
    find_widest<SEGMENT>(strip, coordinates, dim, index, w);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        key[e] = PAD_KEY;
        if (index[e] < STRIP) {
            const float v = tm_gpu_from_ordered(coordinates[w[e].dim * STRIP + index[e]]);
            const float share = w[e].width > 0 ? (v - w[e].from) / w[e].width : 0;
            const uint32_t scaled = (uint32_t)(fminf(fmaxf(share, 0), 1) * KEY_MOST);
            key[e] = scaled << INDEX_BITS | index[e];
        }
    }
    sort_segments<SEGMENT>(key, strip.exchange);
    index[0] = key[0] == PAD_KEY ? STRIP : key[0] % STRIP;
    index[1] = key[1] == PAD_KEY ? STRIP : key[1] % STRIP;
}

/* One block per strip at a time. Dynamic shared memory: [dim, STRIP] coordinates, ordered. */
static __global__ void __launch_bounds__(STRIP_THREADS)
    order_strips(const tm_fused_counts_t *counts, const float *embedding, uint32_t dim,
                 const uint32_t *rows, uint32_t *order) {
    extern __shared__ uint32_t coordinates[];
    __shared__ strip_t strip;
    const uint32_t first = threadIdx.x / TM_GPU_WARP * PER_WARP + threadIdx.x % TM_GPU_WARP;
    const uint32_t n = counts->n_points;
    for (uint64_t base = (uint64_t)blockIdx.x * STRIP; base < n;
         base += (uint64_t)gridDim.x * STRIP) {
        const uint32_t count = n - base < STRIP ? (uint32_t)(n - base) : STRIP;
        __syncthreads(); /* the strip before is written */
        for (uint32_t i = threadIdx.x; i < count; i += STRIP_THREADS) {
            const uint32_t row = rows[base + i];
            strip.row[i] = row;
            for (uint32_t d = 0; d < dim; d++) {
                coordinates[d * STRIP + i] = tm_gpu_ordered(embedding[(uint64_t)row * dim + d]);
            }
        }
        __syncthreads();
        uint32_t index[2];
        index[0] = first < count ? first : STRIP;
        index[1] = first + TM_GPU_WARP < count ? first + TM_GPU_WARP : STRIP;
        if (n > HALF_STRIP_POINTS) {
            split<1024>(strip, coordinates, dim, index);
        }
        split<512>(strip, coordinates, dim, index);
        split<256>(strip, coordinates, dim, index);
        split<128>(strip, coordinates, dim, index);
        split<64>(strip, coordinates, dim, index);
        split<32>(strip, coordinates, dim, index);
        for (uint32_t e = 0; e < 2; e++) {
            const uint32_t at = first + e * TM_GPU_WARP;
            if (at < count) {
                order[base + at] = strip.row[index[e]];
            }
        }
    }
}

/* ---- the stage ---- */

cudaError_t tm_fused_order_cub_bytes(uint32_t capacity, size_t *bytes) {
    *bytes = 0;
    return cub::DeviceRadixSort::SortPairs(NULL, *bytes, (const uint16_t *)NULL, (uint16_t *)NULL,
                                           (const uint32_t *)NULL, (uint32_t *)NULL,
                                           (int64_t)capacity);
}

static size_t strip_bytes(uint32_t dim) {
    return (size_t)dim * STRIP * sizeof(uint32_t);
}

cudaError_t tm_fused_order_prepare(void) {
    return cudaFuncSetAttribute(order_strips, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)strip_bytes(TM_EMBED_DIM_MAX));
}

cudaError_t tm_fused_order(const tm_fused_search_t *s, const tm_fused_search_input_t *in,
                           bool large, uint32_t *order, cudaStream_t stream) {
    const uint32_t capacity = s->capacity.points;
    const unsigned blocks = tm_gpu_blocks(capacity, TM_GPU_THREADS);
    const bool by_phi = isfinite(s->phi_reach);
    cudaError_t error;
    if (capacity == 0) {
        return cudaSuccess;
    }
    if (!large) {
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
    make_keys<<<blocks, TM_GPU_THREADS, 0, stream>>>(in->counts, in->place, in->embedding, s->dim,
                                                     by_phi, s->bounds, capacity, s->phi_keys,
                                                     s->rows);
    size_t bytes = s->cub_bytes;
    error = cub::DeviceRadixSort::SortPairs(s->cub, bytes, s->phi_keys, s->phi_keys_out, s->rows,
                                            s->rows_sorted, (int64_t)capacity, 0, 16, stream);
    if (error != cudaSuccess) {
        return error;
    }
    order_strips<<<tm_gpu_blocks(capacity, STRIP), STRIP_THREADS, strip_bytes(s->dim), stream>>>(
        in->counts, in->embedding, s->dim, s->rows_sorted, order);
    return cudaGetLastError();
}
