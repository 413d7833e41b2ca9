// SPDX-License-Identifier: Apache-2.0
/*
 * The filter: a warp takes 32 edges through all layers in registers, 16 at a time and in step with the
 * other warps of its group (group.cuh), and writes one bit for each.
 */
#include "nn/cuda/fused/edges.cuh"
#include "nn/cuda/fused/group.cuh"

#define EDGES_PER_WARP 32
#define TILES (EDGES_PER_WARP / TM_MMA_ROWS)
#define GROUPS 4
#define WARPS (GROUPS * TM_GROUP_WARPS)
#define THREADS (WARPS * TM_GPU_WARP)
#define KINDS (TM_EF_RPHI_SLOPE + 1)
#define HALF_MAX 65504.0f

/* Features are computed by kind, each at a place of its own, so that there is no choice per edge. */
typedef struct {
    float factor[KINDS]; /* 1 / scale; 0: not of this model */
    float limit[KINDS];
} kinds_t;

typedef struct {
    __half x[EDGES_PER_WARP][KINDS];
    uint32_t node[2][EDGES_PER_WARP];
} staged_t;

typedef struct {
    tm_fused_mlp_t mlp;
    const tm_fused_counts_t *counts;
    uint32_t capacity;
    kinds_t kinds;
    const float4 *place;
    const __half *x;
    const uint32_t *src, *dst;
    double least;
    uint16_t *bits; /* of 16 edges each */
} filter_t;

static void kinds_of(const tm_pipeline_t *pipeline, kinds_t *kinds) {
    *kinds = (kinds_t){};
    for (uint32_t k = 0; k < pipeline->n_edge_features; k++) {
        const tm_edge_feature_t *feature = &pipeline->edge_feature[k];
        kinds->factor[feature->kind] = 1 / feature->scale;
        kinds->limit[feature->kind] = feature->clamp > 0 ? feature->clamp : HALF_MAX;
    }
}

static __device__ inline uint4 edge_features(const kinds_t &kinds, float4 a, float4 b) {
    uint32_t word[KINDS / 2];
    float v[KINDS];
#pragma unroll
    for (int k = 0; k < KINDS; k++) {
        v[k] = tm_fused_edge_feature((tm_edge_feature_kind_t)k, a, b) * kinds.factor[k];
        v[k] = fminf(fmaxf(v[k], -kinds.limit[k]), kinds.limit[k]);
    }
#pragma unroll
    for (int k = 0; k < KINDS / 2; k++) {
        word[k] = tm_mma_pack(v[2 * k], v[2 * k + 1]);
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

template <int H> static __global__ void __launch_bounds__(THREADS, 1) filter(const filter_t f) {
    extern __shared__ __align__(16) char memory[];
    const char *image = memory;
    const int warp = threadIdx.x / TM_GPU_WARP;
    const int lane = threadIdx.x % TM_GPU_WARP;
    const int g = lane / 4;
    const int q = lane % 4;
    staged_t *staged = (staged_t *)(memory + f.mlp.bytes) + warp;
    tm_group_load_image((uint4 *)memory, f.mlp);
    const uint32_t n = tm_fused_edge_count(f.counts, f.capacity);
    const uint32_t of_block = WARPS * EDGES_PER_WARP;
    tm_fused_rows<H, 1> rows;
    /* all warps of a group go round as often, those without edges too */
    for (uint64_t block = (uint64_t)blockIdx.x * of_block; block < n;
         block += (uint64_t)gridDim.x * of_block) {
        const uint64_t first = block + warp * EDGES_PER_WARP;
        const uint64_t edge = first + lane < n ? first + lane : n - 1;
        const uint32_t a = staged->node[0][lane] = f.src[edge];
        const uint32_t b = staged->node[1][lane] = f.dst[edge];
        *(uint4 *)staged->x[lane] = edge_features(f.kinds, f.place[a], f.place[b]);
        __syncwarp();
#pragma unroll 1
        for (int t = 0; t < TILES; t++) {
            /* one copy of what follows a product: two would not fit the instruction cache */
#pragma unroll 1
            for (uint32_t l = 0; l < f.mlp.n_layers; l++) {
                const __half *w = (const __half *)(image + f.mlp.layer[l].w);
                if (l == 0) {
                    uint32_t x[3][4];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const int row = t * TM_MMA_ROWS + h * 8 + g;
#pragma unroll
                        for (int end = 0; end < 2; end++) {
                            const size_t node = staged->node[end][row];
                            const uint2 v =
                                ((const uint2 *)(f.x + node * TM_FUSED_FEATURES_MAX))[q];
                            x[end][h] = v.x;
                            x[end][2 + h] = v.y;
                        }
                        x[2][h] = ((const uint32_t *)staged->x[row])[q];
                        x[2][2 + h] = tm_group_ones();
                    }
                    tm_group_multiply(rows.c[0], x, w);
                } else {
                    tm_group_multiply_rows(rows, w);
                }
                rows.finish(image, f.mlp.layer[l]);
                rows.pack();
            }
            float dots[2];
            tm_group_dot(rows, image, f.mlp, dots);
            /* lane i gets row i % 16 */
            const float low = __shfl_sync(TM_GPU_WARP_MASK, dots[0], lane % 8 * 4);
            const float high = __shfl_sync(TM_GPU_WARP_MASK, dots[1], lane % 8 * 4);
            const bool is_high = lane % TM_MMA_ROWS >= TM_MMA_ROWS / 2;
            const uint64_t tile = first / TM_MMA_ROWS + t;
            const bool keep = tile * TM_MMA_ROWS + lane % TM_MMA_ROWS < n &&
                              (double)(is_high ? high : low) > f.least;
            const uint32_t bits = __ballot_sync(TM_GPU_WARP_MASK, keep);
            if (lane == 0 && first < n) {
                f.bits[tile] = (uint16_t)bits;
            }
        }
        __syncwarp(); /* the next edges overwrite what was staged */
    }
}

size_t tm_fused_filter_bytes(const tm_fused_model_t *model) {
    return model->filter.bytes + WARPS * sizeof(staged_t);
}

template <int H>
static cudaError_t launch(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    filter_t f = {.mlp = c->model->filter,
                  .counts = &plan->header->counts,
                  .capacity = plan->capacity.edges,
                  .kinds = {},
                  .place = plan->node_place,
                  .x = plan->filter_x,
                  .src = plan->edges.src,
                  .dst = plan->edges.dst,
                  .least = tm_gpu_least_logit(c->pipeline->filter.cut),
                  .bits = (uint16_t *)plan->keep_words};
    kinds_of(c->pipeline, &f.kinds);
    filter<H><<<c->processors, THREADS, tm_fused_filter_bytes(c->model), c->stream>>>(f);
    return cudaGetLastError();
}

/* Without a filter all edges stay. */
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    keep_all(const tm_fused_counts_t *counts, uint32_t capacity, uint32_t *words) {
    const uint32_t n = tm_fused_edge_count(counts, capacity);
    for (uint64_t i = tm_gpu_thread() * EDGES_PER_WARP; i < n;
         i += (uint64_t)gridDim.x * blockDim.x * EDGES_PER_WARP) {
        words[i / EDGES_PER_WARP] = n - i < EDGES_PER_WARP ? (1u << (n - i)) - 1 : TM_GPU_WARP_MASK;
    }
}

cudaError_t tm_fused_filter(const tm_fused_context_t *c, const tm_fused_plan_t *plan) {
    if (c->model->filter_width == 0) {
        keep_all<<<c->processors, TM_GPU_THREADS, 0, c->stream>>>(
            &plan->header->counts, plan->capacity.edges, plan->keep_words);
        return cudaGetLastError();
    }
    return c->model->filter_width == 64 ? launch<64>(c, plan) : launch<128>(c, plan);
}

cudaError_t tm_fused_prepare_filter(const tm_fused_model_t *model) {
    if (model->filter_width == 0) {
        return cudaSuccess;
    }
    return model->filter_width == 64
               ? cudaFuncSetAttribute(filter<64>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)tm_fused_filter_bytes(model))
               : cudaFuncSetAttribute(filter<128>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)tm_fused_filter_bytes(model));
}
