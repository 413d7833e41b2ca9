// SPDX-License-Identifier: Apache-2.0
/*
 * Orders points as a kd tree would. All segments of a level are split at once: each is sorted by the
 * coordinate in which it is widest, in one radix sort of (segment, coordinate in some 16 bits), and
 * its front and back are the segments of the next level. Segments are powers of two tiles long and lie
 * at multiples of their length, so that the number of a place, shifted, is the number of its segment.
 */
#include "nn/cuda/gpu.cuh"

#define COORDINATE_BITS 16
#define KEY_BITS 32
/* Places of one block when boxes are made: a segment holds a whole number of them. */
#define PIECE 1024u
#define PIECE_THREADS 128u
#define TILE_SHIFT 7
static_assert(1 << TILE_SHIFT == TM_GPU_TILE, "tiles are that long");

/* low, high [segments, TM_EMBED_DIM_MAX]: ordered bits, all ones and zeros at the start. Minima and
 * maxima do not depend on the order in which they are taken. */
static __global__ void find_boxes(const float *embedding, const uint32_t *order, uint32_t n,
                                  uint32_t dim, uint32_t piece, int shift, uint32_t *low,
                                  uint32_t *high) {
    uint64_t begin = (uint64_t)blockIdx.x * piece;
    uint64_t end = begin + piece < n ? begin + piece : n;
    uint64_t segment = begin >> shift;
    for (uint32_t d = 0; d < dim; d++) {
        uint32_t least = UINT32_MAX;
        uint32_t most = 0;
        for (uint64_t place = begin + threadIdx.x; place < end; place += PIECE_THREADS) {
            uint32_t v = tm_gpu_ordered(embedding[(uint64_t)order[place] * dim + d]);
            least = v < least ? v : least;
            most = v > most ? v : most;
        }
        least = __reduce_min_sync(TM_GPU_WARP_MASK, least);
        most = __reduce_max_sync(TM_GPU_WARP_MASK, most);
        if (threadIdx.x % TM_GPU_WARP == 0) {
            atomicMin(&low[segment * TM_EMBED_DIM_MAX + d], least);
            atomicMax(&high[segment * TM_EMBED_DIM_MAX + d], most);
        }
    }
}

static __global__ void make_keys(const float *embedding, const uint32_t *order, uint32_t n,
                                 uint32_t dim, int shift, int coordinate_bits, const uint32_t *low,
                                 const uint32_t *high, uint32_t *keys) {
    uint64_t place = tm_gpu_thread();
    if (place >= n) {
        return;
    }
    uint32_t segment = (uint32_t)(place >> shift);
    uint32_t widest = 0;
    float width = -1;
    for (uint32_t d = 0; d < dim; d++) {
        float w = tm_gpu_from_ordered(high[segment * TM_EMBED_DIM_MAX + d]) -
                  tm_gpu_from_ordered(low[segment * TM_EMBED_DIM_MAX + d]);
        if (w > width) {
            width = w;
            widest = d;
        }
    }
    float from = tm_gpu_from_ordered(low[segment * TM_EMBED_DIM_MAX + widest]);
    float share = width > 0 ? (embedding[(uint64_t)order[place] * dim + widest] - from) / width : 0;
    uint32_t most = (1u << coordinate_bits) - 1;
    float scaled = share * (float)most;
    uint32_t coordinate = scaled > 0 ? (scaled < (float)most ? (uint32_t)scaled : most) : 0;
    keys[place] = segment << coordinate_bits | coordinate;
}

tm_status_t tm_gpu_kd_order(tm_gpu_t *gpu, uint32_t n, uint32_t dim, const float *embedding,
                            const uint32_t **order, tm_error_t *err) {
    uint32_t *current = NULL;
    uint32_t *next = NULL;
    uint32_t *keys = NULL;
    uint32_t *keys_out = NULL;
    uint32_t *boxes = NULL;
    uint32_t n_tiles = tm_gpu_blocks(n, TM_GPU_TILE);
    int levels = 0;
    while ((1u << levels) < n_tiles) {
        levels++;
    }
    size_t box_words = ((size_t)1 << levels) * TM_EMBED_DIM_MAX;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_ORDER, n, &current, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_ORDER_NEXT, n, &next, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_ORDER_KEYS, n, &keys, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_ORDER_KEYS_NEXT, n, &keys_out, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_BOXES, 2 * box_words, &boxes, err));
    uint32_t *low = boxes;
    uint32_t *high = boxes + box_words;
    TM_TRY(tm_gpu_count_up(gpu, current, n, err));
    for (int level = 0; level < levels; level++) {
        int shift = TILE_SHIFT + levels - level;
        uint32_t length = 1u << shift;
        uint32_t piece = length < PIECE ? length : PIECE;
        int coordinate_bits =
            KEY_BITS - level < COORDINATE_BITS ? KEY_BITS - level : COORDINATE_BITS;
        size_t bytes = ((size_t)1 << level) * TM_EMBED_DIM_MAX * sizeof *low;
        TM_TRY(tm_gpu_check(gpu, cudaMemsetAsync(low, 0xff, bytes, gpu->stream), "boxes", err));
        TM_TRY(tm_gpu_check(gpu, cudaMemsetAsync(high, 0, bytes, gpu->stream), "boxes", err));
        find_boxes<<<tm_gpu_blocks(n, piece), PIECE_THREADS, 0, gpu->stream>>>(
            embedding, current, n, dim, piece, shift, low, high);
        TM_TRY(tm_gpu_launched(gpu, "boxes", err));
        make_keys<<<tm_gpu_blocks(n, TM_GPU_THREADS), TM_GPU_THREADS, 0, gpu->stream>>>(
            embedding, current, n, dim, shift, coordinate_bits, low, high, keys);
        TM_TRY(tm_gpu_launched(gpu, "order of points", err));
        TM_TRY(
            tm_gpu_sort_u32(gpu, keys, keys_out, current, next, n, coordinate_bits + level, err));
        uint32_t *swap = current;
        current = next;
        next = swap;
    }
    *order = current;
    return TM_OK;
}
