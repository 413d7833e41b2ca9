// SPDX-License-Identifier: Apache-2.0
/*
 * Points in up to 16 dimensions, ordered by a kd tree into tiles of TM_TILE with bounding boxes, for
 * searches that want all pairs within a radius.
 *
 * The tree is balanced and split at the median of the widest dimension, so a search visits the
 * boxes near its own. Each point also has a key (the radius search uses it to look outward only);
 * a box knows the largest key inside it.
 */
#ifndef TM_NN_CPU_KD_TILES_H
#define TM_NN_CPU_KD_TILES_H

#include "nn/cpu/kernels.h"
#include "nn/cpu/memory.h"

typedef struct {
    float low[TM_EMBED_DIM_MAX], high[TM_EMBED_DIM_MAX]; /* 0 beyond the points' dimensions */
    float key_max;
    uint32_t first_tile, n_tiles;
    uint32_t left, right; /* children; 0, 0: a tile (node 0 is the root) */
} tm_kd_node_t;

/* Zeroed by its owner before first use; buffers are kept from build to build. */
typedef struct {
    uint32_t n, n_tiles, n_nodes;
    uint32_t dims; /* of the points, rounded up to a multiple of 4 */
    tm_buffer_t nodes_buffer, tiles_buffer, keys_buffer, order_buffer, tile_node_buffer;
    tm_kd_node_t *nodes;
    float *tiles;    /* [n_tiles, dims, TM_TILE]; places beyond n are far from everything */
    float *keys;     /* [n_tiles, TM_TILE]; −infinity beyond n */
    uint32_t *order; /* [n]: the row of the point at each place; tile t starts at t · TM_TILE */
    uint32_t *tile_node; /* [n_tiles]: the node of each tile */
} tm_kd_tiles_t;

/* points [n, dim], dim <= TM_EMBED_DIM_MAX, all finite; keys [n]. n may be 0: no tiles. */
tm_status_t tm_kd_tiles_build(tm_kd_tiles_t *kd, uint32_t n, uint32_t dim, const float *points,
                              const float *keys, int threads, tm_error_t *err);
void tm_kd_tiles_free(tm_kd_tiles_t *kd);

/* The tiles, ascending, whose boxes come within r2 (squared) of the box of tile `tile` and hold a
 * key of at least least_key. out has room for n_tiles. Returns their number. */
uint32_t tm_kd_tiles_near(const tm_kd_tiles_t *kd, uint32_t tile, float r2, float least_key,
                          uint32_t *out);

#endif
