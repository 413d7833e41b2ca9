// SPDX-License-Identifier: Apache-2.0
/*
 * What all files of this folder share: the context, its buffers, checked calls, and the sorts and
 * sums of whole arrays. Internal; cuda.h is the way in.
 *
 * Every kernel goes into the context's stream. Nothing adds floats with atomics, so results are the
 * same from run to run; integer atomics are used where the order does not matter.
 */
#ifndef TM_NN_CUDA_GPU_CUH
#define TM_NN_CUDA_GPU_CUH

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include "nn/cuda/cuda.h"
#include "nn/tracks_post.h"
#include "wire/limits.h"
}

/* Leaves the calling function with the status of a call that failed. */
#define TM_TRY(call) \
    do { \
        tm_status_t status_ = (call); \
        if (status_ != TM_OK) { \
            return status_; \
        } \
    } while (0)

#define TM_GPU_WARP 32
#define TM_GPU_WARP_MASK 0xffffffffu
#define TM_GPU_THREADS 256 /* of a block, where nothing else decides */

/* ---- buffers ---- */

/* Every buffer of a context, with what it is called in errors. */
#define TM_GPU_BUFFERS(X) \
    X(WEIGHTS, "weights") \
    X(BLAS, "cuBLAS") \
    X(CUB, "sorting") \
    X(FUSED_WEIGHTS, "weights") \
    X(FUSED_ARENA, "an event") \
    X(SCALARS, "counters") \
    X(COLUMNS, "columns") \
    X(POINTS, "coordinates") \
    X(FEATURES, "features") \
    X(SELECTED, "features of a stage") \
    X(EMBEDDING, "embedding") \
    X(GATHERED, "inputs of a layer") \
    X(PRODUCTS, "a layer") \
    X(ACTIVATIONS, "a layer") \
    X(TABLE_SRC, "products per node") \
    X(TABLE_DST, "products per node") \
    X(ORDER, "order of points") \
    X(ORDER_NEXT, "order of points") \
    X(ORDER_KEYS, "order of points") \
    X(ORDER_KEYS_NEXT, "order of points") \
    X(BOXES, "boxes") \
    X(TILES, "tiles") \
    X(TILE_BOXES, "tiles") \
    X(COUNTS, "neighbours") \
    X(OFFSETS, "neighbours") \
    X(SLOTS, "neighbours") \
    X(SLOT_OFFSETS, "neighbours") \
    X(TILE_OFFSETS, "neighbours") \
    X(NEAR_KEYS, "neighbours") \
    X(NEAR_KEYS_NEXT, "neighbours") \
    X(NEAR_PLACES, "neighbours") \
    X(NEAR_PLACES_NEXT, "neighbours") \
    X(EDGE_KEYS, "the radius graph") \
    X(EDGE_KEYS_NEXT, "the radius graph") \
    X(SRC, "the radius graph") \
    X(DST, "the radius graph") \
    X(FILTER_LOGITS, "logits") \
    X(KEPT_FLAGS, "edges") \
    X(KEPT_PLACES, "edges") \
    X(KEPT_SRC, "edges") \
    X(KEPT_DST, "edges") \
    X(KEPT_LOGITS, "logits") \
    X(SRC_OFFSETS, "edge index") \
    X(DST_OFFSETS, "edge index") \
    X(SORTED_DST, "edge index") \
    X(EDGE_NUMBERS, "edge index") \
    X(BY_DST, "edge index") \
    X(X, "node states") \
    X(X_NEXT, "node states") \
    X(X0, "node states") \
    X(M, "node states") \
    X(AGGREGATES, "node states") \
    X(E, "edge states") \
    X(E0, "edge states") \
    X(EDGE_WEIGHTS, "edge weights") \
    X(LOGITS, "logits") \
    X(TRACK_EDGES, "track edges") \
    X(BEST, "track edges") \
    X(PARENT, "components") \
    X(SIZES, "components") \
    X(SCORES, "components") \
    X(TRACK_FLAGS, "components") \
    X(TRACK_NUMBERS, "components") \
    X(TRACK_SIZES, "components") \
    X(TRACK_OFFSETS, "components") \
    X(TRACK_KEYS, "tracks") \
    X(TRACK_KEYS_NEXT, "tracks") \
    X(TRACK_POINTS, "tracks") \
    X(TRACK_POINTS_NEXT, "tracks") \
    X(TRACK_RESULT, "tracks")

typedef enum {
#define X(name, what) TM_GPU_##name,
    TM_GPU_BUFFERS(X)
#undef X
        TM_GPU_BUFFER_COUNT
} tm_gpu_buffer_id_t;

typedef struct {
    void *data;
    size_t bytes;
} tm_gpu_buffer_t;

/* ---- MLPs: mlp.cu ---- */

typedef enum { TM_GPU_F32, TM_GPU_F16 } tm_gpu_type_t;

static inline size_t tm_gpu_type_bytes(tm_gpu_type_t type) {
    return type == TM_GPU_F32 ? sizeof(float) : sizeof(__half);
}

#define TM_GPU_EPILOGUE_OPS 8
#define TM_GPU_NOWHERE SIZE_MAX

/* An operation on rows; gain and shift are offsets into the weights, or TM_GPU_NOWHERE. */
typedef struct {
    tm_op_kind_t kind; /* BATCH_NORM: x · gain + shift */
    size_t gain, shift;
    float eps;
} tm_gpu_op_t;

/* A linear operation (or none) and what follows it until the next. */
typedef struct {
    bool linear;
    uint32_t in, out;
    size_t w32, w16, bias; /* offsets; [out, in] in fp32 and fp16; bias may be TM_GPU_NOWHERE */
    uint32_t n_ops;
    tm_gpu_op_t op[TM_GPU_EPILOGUE_OPS];
} tm_gpu_layer_t;

typedef struct {
    uint32_t n_layers; /* 0: the pipeline has no such MLP */
    uint32_t in, out, max_width;
    tm_gpu_layer_t layer[TM_OPS_MAX + 1];
} tm_gpu_mlp_t;

/* ---- the context ---- */

typedef struct tm_gpu_blas tm_gpu_blas_t; /* blas.cu */
typedef struct tm_fused tm_fused_t;       /* fused/engine.cu */

typedef struct {
    tm_device_t device; /* must come first: stages get a tm_device_t and cast */
    int ordinal;
    char name[TM_NAME_MAX + 1]; /* "cuda:0" */
    bool dead;                  /* met an error that the driver does not recover from */
    tm_gpu_type_t type;         /* of activations and edge states */
    size_t memory_max, memory_used;
    cudaStream_t stream;
    tm_gpu_blas_t *blas;
    tm_fused_t *fused; /* NULL: stages go one by one */
    tm_post_t *post;   /* NULL: the model has no steps behind the track builder */
    void *staging;     /* pinned */
    size_t staging_bytes;
    uint64_t *host_scalars; /* pinned, [TM_GPU_SCALAR_COUNT] */
    tm_gpu_buffer_t buffer[TM_GPU_BUFFER_COUNT];
    tm_gpu_mlp_t embed, filter, node_encoder, edge_encoder, output;
    tm_gpu_mlp_t *node_mlp, *edge_mlp; /* [n_weights of the pipeline's gnn]; owned; NULL without */
} tm_gpu_t;

#define TM_GPU_SCALAR_COUNT 8

/* Makes the context's GPU the thread's, after asking whether the context still works and the event is
 * still wanted. Every stage begins with it. */
tm_status_t tm_gpu_enter(tm_gpu_t *gpu, tm_error_t *err);
/* Waits until the stage is done. */
tm_status_t tm_gpu_wait(tm_gpu_t *gpu, const char *stage, tm_error_t *err);

/* TM_OK, or the error in the engine's terms; `what` says what was being done. */
tm_status_t tm_gpu_check(tm_gpu_t *gpu, cudaError_t error, const char *what, tm_error_t *err);
/* For right after a kernel launch. */
static inline tm_status_t tm_gpu_launched(tm_gpu_t *gpu, const char *what, tm_error_t *err) {
    return tm_gpu_check(gpu, cudaGetLastError(), what, err);
}
/* TM_E_CANCELLED where the caller wants the event no more. */
tm_status_t tm_gpu_cancelled(const tm_gpu_t *gpu, tm_error_t *err);

/* Room for count elements; what was there is lost when the buffer has to grow. Never NULL. */
tm_status_t tm_gpu_reserve_bytes(tm_gpu_t *gpu, tm_gpu_buffer_id_t id, size_t count,
                                 size_t element_bytes, void **out, tm_error_t *err);
template <typename T>
tm_status_t tm_gpu_reserve(tm_gpu_t *gpu, tm_gpu_buffer_id_t id, size_t count, T **out,
                           tm_error_t *err) {
    void *data = NULL;
    tm_status_t status = tm_gpu_reserve_bytes(gpu, id, count, sizeof(T), &data, err);
    *out = (T *)data;
    return status;
}

/* Pinned host memory of at least that size; valid until the next call. */
tm_status_t tm_gpu_staging(tm_gpu_t *gpu, size_t bytes, void **out, tm_error_t *err);

/* Zeroed counters in GPU memory, [TM_GPU_SCALAR_COUNT]; and their values, after waiting. */
tm_status_t tm_gpu_scalars_reset(tm_gpu_t *gpu, uint64_t **scalars, tm_error_t *err);
tm_status_t tm_gpu_scalars_read(tm_gpu_t *gpu, const char *what, tm_error_t *err);
/* One value of GPU memory, after waiting. */
tm_status_t tm_gpu_read_u64(tm_gpu_t *gpu, const uint64_t *from, uint64_t *value, const char *what,
                            tm_error_t *err);

static inline unsigned tm_gpu_blocks(uint64_t items, unsigned per_block) {
    return (unsigned)((items + per_block - 1) / per_block);
}

/* The number of the calling thread in a grid of one dimension. */
static __device__ inline uint64_t tm_gpu_thread(void) {
    return (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* Floats as integers of the same order. −0 comes before +0. */
static __host__ __device__ inline uint32_t tm_gpu_ordered(float x) {
    union {
        float f;
        uint32_t u;
    } bits;
    bits.f = x;
    return bits.u & 0x80000000u ? ~bits.u : bits.u | 0x80000000u;
}

static __device__ inline float tm_gpu_from_ordered(uint32_t u) {
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

/* Bits that hold every number below n. */
static inline int tm_gpu_bits(uint64_t n) {
    int bits = 1;
    while (bits < 63 && (1ull << bits) < n) {
        bits++;
    }
    return bits;
}

/* The logit whose sigmoid is `cut`. */
static inline double tm_gpu_least_logit(float cut) {
    double c = cut;
    return c <= 0 ? -INFINITY : c >= 1 ? INFINITY : log(c / (1 - c));
}

/* ---- whole arrays: primitives.cu. Sorts are stable and look at bits [0, bits) ---- */

tm_status_t tm_gpu_sort_u32(tm_gpu_t *gpu, const uint32_t *keys, uint32_t *keys_out,
                            const uint32_t *values, uint32_t *values_out, size_t n, int bits,
                            tm_error_t *err);
tm_status_t tm_gpu_sort_u32_u64(tm_gpu_t *gpu, const uint32_t *keys, uint32_t *keys_out,
                                const uint64_t *values, uint64_t *values_out, size_t n, int bits,
                                tm_error_t *err);
tm_status_t tm_gpu_sort_u64_u32(tm_gpu_t *gpu, const uint64_t *keys, uint64_t *keys_out,
                                const uint32_t *values, uint32_t *values_out, size_t n, int bits,
                                tm_error_t *err);
tm_status_t tm_gpu_sort_u64(tm_gpu_t *gpu, const uint64_t *keys, uint64_t *keys_out, size_t n,
                            int bits, tm_error_t *err);
/* out[i] = in[0] + … + in[i − 1] */
tm_status_t tm_gpu_scan_u32(tm_gpu_t *gpu, const uint32_t *in, uint32_t *out, size_t n,
                            tm_error_t *err);
tm_status_t tm_gpu_scan_u64(tm_gpu_t *gpu, const uint64_t *in, uint64_t *out, size_t n,
                            tm_error_t *err);
/* numbers[i] = i */
tm_status_t tm_gpu_count_up(tm_gpu_t *gpu, uint32_t *numbers, uint32_t n, tm_error_t *err);

/* ---- cuBLAS: blas.cu ---- */

/* Loads and starts it, once. tm_gpu_multiply does so where nobody did. */
tm_status_t tm_gpu_blas_open(tm_gpu_t *gpu, tm_error_t *err);
void tm_gpu_blas_close(tm_gpu_t *gpu);

/* c [rows, out] (fp32) = a [rows, k] · wᵀ (+ c), where row i of a is a[i · lda …] and w [out, k] has
 * rows ldw apart; a and w are of `type`. rows, out and k are not 0. */
tm_status_t tm_gpu_multiply(tm_gpu_t *gpu, tm_gpu_type_t type, const void *a, uint32_t lda,
                            uint32_t rows, uint32_t k, const void *w, uint32_t ldw, uint32_t out,
                            bool accumulate, float *c, tm_error_t *err);

/* ---- order: kd_order.cu ---- */

#define TM_GPU_TILE 128 /* points of a tile of the radius search */

/* *order [n]: the rows of embedding [n, dim] (finite), so that every TM_GPU_TILE of them in turn are
 * close to each other. */
tm_status_t tm_gpu_kd_order(tm_gpu_t *gpu, uint32_t n, uint32_t dim, const float *embedding,
                            const uint32_t **order, tm_error_t *err);

/* ---- what follows the track builder, on the host: post.cu ---- */

/* tm_post_run from what lies on the GPU: states [edges->n] are `taken` where the builder took an edge. */
tm_status_t tm_gpu_post_edges(tm_gpu_t *gpu, const tm_points_t *points, const tm_edges_t *edges,
                              const float *logits, const uint8_t *states, uint8_t taken,
                              tm_tracks_t *tracks, uint64_t *track_edges, tm_error_t *err);

/* ---- stages ---- */

/* The features that a stage asks for, [n, list->n], in a buffer or `features` itself. */
tm_status_t tm_gpu_select_features(tm_gpu_t *gpu, const tm_feature_list_t *list, uint32_t n,
                                   const float *features, const float **out, tm_error_t *err);

tm_status_t tm_gpu_features(tm_device_t *device, const tm_columns_t *event, uint32_t n,
                            tm_points_t *points, const float **features, tm_error_t *err);
tm_status_t tm_gpu_embed(tm_device_t *device, uint32_t n, const float *features,
                         const float **embedding, tm_error_t *err);
tm_status_t tm_gpu_radius(tm_device_t *device, const tm_points_t *points, const float *embedding,
                          tm_edges_t *edges, tm_error_t *err);
tm_status_t tm_gpu_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err);
tm_status_t tm_gpu_gnn(tm_device_t *device, const tm_points_t *points, const float *features,
                       const tm_edges_t *edges, const float **logits, tm_error_t *err);
tm_status_t tm_gpu_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err);

#endif
