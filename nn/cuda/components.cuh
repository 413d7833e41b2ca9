// SPDX-License-Identifier: Apache-2.0
/* What both ways of building tracks on a GPU agree on: the order of edges, components, scores. */
#ifndef TM_NN_CUDA_COMPONENTS_CUH
#define TM_NN_CUDA_COMPONENTS_CUH

#include "nn/cuda/gpu.cuh"

/* Scores are added up as whole numbers of this part of 1, so that their order does not matter; the sum
 * over TM_RADIUS_EDGES_MAX = 2^28 edges stays below 2^64. */
#define TM_GPU_SCORE_UNIT 34359738368.0 /* 2^35 */

typedef enum { TM_GPU_EDGE_DROPPED, TM_GPU_EDGE_CANDIDATE, TM_GPU_EDGE_TAKEN } tm_gpu_edge_state_t;

/* Higher logits are better, then lower edges; never 0. */
static __device__ inline unsigned long long tm_gpu_edge_key(float logit, uint32_t edge) {
    /* adding 0 makes −0 the 0 that it equals */
    return (unsigned long long)tm_gpu_ordered(logit + 0.0f) << 32 | (uint32_t)~edge;
}

/* Roots are the least rows of their components, whatever the order of the threads: a root is only
 * ever put under a lower one. */
static __device__ inline uint32_t tm_gpu_find_root(uint32_t *parent, uint32_t i) {
    volatile uint32_t *p = parent;
    uint32_t up = p[i];
    while (up != i) {
        uint32_t above = p[up];
        if (above != up) {
            p[i] = above; /* still an ancestor of i */
        }
        i = up;
        up = above;
    }
    return i;
}

/* Puts i and j into one component. */
static __device__ inline void tm_gpu_join(uint32_t *parent, uint32_t i, uint32_t j) {
    uint32_t a = tm_gpu_find_root(parent, i);
    uint32_t b = tm_gpu_find_root(parent, j);
    while (a != b) {
        uint32_t high = a > b ? a : b;
        uint32_t low = a > b ? b : a;
        uint32_t old = atomicCAS(&parent[high], high, low);
        if (old == high) {
            break;
        }
        a = tm_gpu_find_root(parent, old); /* high was no root any more */
        b = tm_gpu_find_root(parent, low);
    }
}

#endif
