// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/kd_tiles.h"

#include <math.h>
#include <string.h>

/* Coordinate of the places of the last tile that hold no point: its square is still finite. */
#define FAR_AWAY 1e18f
/* Below this many points a subtree is not worth a task of its own. */
#define TASK_POINTS 8192u
/* Boxes are tested in the same precision as points: a little slack keeps the search exact. */
#define BOX_SLACK 1.0001f
/* Depth of a balanced tree over 2^32 points, and one pushed sibling per level. */
#define STACK_MAX 64

typedef struct {
    tm_kd_tiles_t *kd;
    const float *points;
    const float *keys;
    uint32_t dim;
} build_t;

/* ---- building ---- */

/* Reorders [begin, end) of order so that the places before `middle` hold points whose coordinate is
 * not above that of any at or after it (Hoare's selection). The pivots come from a fixed
 * pseudo-random sequence: no arrangement of points is quadratic by itself, and runs are alike. */
static void select_median(const build_t *b, uint32_t *order, uint32_t begin, uint32_t end,
                          uint32_t middle, uint32_t d) {
    uint32_t random = 2463534242u;
    while (end - begin > 1) {
        random = random * 1664525u + 1013904223u;
        uint32_t at = begin + (uint32_t)(((uint64_t)random * (end - begin)) >> 32);
        float pivot = b->points[(size_t)order[at] * b->dim + d];
        int64_t i = (int64_t)begin - 1;
        int64_t j = end;
        /* on equal coordinates both sides stop and swap, which keeps the halves balanced */
        for (;;) {
            do {
                i++;
            } while (b->points[(size_t)order[i] * b->dim + d] < pivot);
            do {
                j--;
            } while (b->points[(size_t)order[j] * b->dim + d] > pivot);
            if (i >= j) {
                break;
            }
            uint32_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        /* [begin, j] <= pivot <= [j + 1, end) */
        uint32_t cut = (uint32_t)j + 1;
        if (cut == end) { /* the pivot was the largest and last: leave it where it is */
            cut = end - 1;
        }
        if (middle < cut) {
            end = cut;
        } else {
            begin = cut;
        }
    }
}

static void bound(const build_t *b, uint32_t begin, uint32_t end, tm_kd_node_t *node) {
    const uint32_t *order = b->kd->order;
    memset(node->low, 0, sizeof node->low);
    memset(node->high, 0, sizeof node->high);
    node->key_max = -INFINITY;
    for (uint32_t d = 0; d < b->dim; d++) {
        node->low[d] = INFINITY;
        node->high[d] = -INFINITY;
    }
    for (uint32_t i = begin; i < end; i++) {
        const float *p = b->points + (size_t)order[i] * b->dim;
        for (uint32_t d = 0; d < b->dim; d++) {
            node->low[d] = p[d] < node->low[d] ? p[d] : node->low[d];
            node->high[d] = p[d] > node->high[d] ? p[d] : node->high[d];
        }
        float key = b->keys[order[i]];
        node->key_max = key > node->key_max ? key : node->key_max;
    }
}

static void fill_tile(const build_t *b, uint32_t tile, uint32_t begin, uint32_t end) {
    tm_kd_tiles_t *kd = b->kd;
    float *coordinates = kd->tiles + (size_t)tile * kd->dims * TM_TILE;
    float *keys = kd->keys + (size_t)tile * TM_TILE;
    for (uint32_t j = 0; j < TM_TILE; j++) {
        bool used = begin + j < end;
        const float *p = used ? b->points + (size_t)kd->order[begin + j] * b->dim : NULL;
        for (uint32_t d = 0; d < kd->dims; d++) {
            coordinates[d * TM_TILE + j] = !used ? FAR_AWAY : d < b->dim ? p[d] : 0;
        }
        keys[j] = used ? b->keys[kd->order[begin + j]] : -INFINITY;
    }
}

/* Node `at` over tiles [first, first + count). A subtree over c tiles has 2c − 1 nodes, so the places
 * of all nodes are known beforehand and subtrees can be built side by side. */
static void build_node(const build_t *b, uint32_t at, uint32_t first, uint32_t count) {
    tm_kd_tiles_t *kd = b->kd;
    tm_kd_node_t *node = &kd->nodes[at];
    uint32_t begin = first * TM_TILE;
    uint32_t end = (first + count) * TM_TILE;
    end = end < kd->n ? end : kd->n;
    bound(b, begin, end, node);
    node->first_tile = first;
    node->n_tiles = count;
    if (count == 1) {
        node->left = node->right = 0;
        kd->tile_node[first] = at;
        fill_tile(b, first, begin, end);
        return;
    }
    uint32_t widest = 0;
    for (uint32_t d = 1; d < b->dim; d++) {
        if (node->high[d] - node->low[d] > node->high[widest] - node->low[widest]) {
            widest = d;
        }
    }
    uint32_t half = count / 2;
    if (node->high[widest] > node->low[widest]) {
        select_median(b, kd->order, begin, end, (first + half) * TM_TILE, widest);
    }
    node->left = at + 1;
    node->right = at + 2 * half;
#pragma omp task default(none) firstprivate(b, at, first, half) if (end - begin > TASK_POINTS)
    build_node(b, at + 1, first, half);
    build_node(b, at + 2 * half, first + half, count - half);
#pragma omp taskwait
}

tm_status_t tm_kd_tiles_build(tm_kd_tiles_t *kd, uint32_t n, uint32_t dim, const float *points,
                              const float *keys, int threads, tm_error_t *err) {
    build_t build = {.kd = kd, .points = points, .keys = keys, .dim = dim};
    kd->n = n;
    kd->dims = (dim + 3) / 4 * 4;
    kd->n_tiles = (n + TM_TILE - 1) / TM_TILE;
    kd->n_nodes = kd->n_tiles > 0 ? 2 * kd->n_tiles - 1 : 0;
    const struct {
        tm_buffer_t *buffer;
        size_t count, bytes;
    } wanted[] = {
        {&kd->nodes_buffer, kd->n_nodes, sizeof(tm_kd_node_t)},
        {&kd->tiles_buffer, (size_t)kd->n_tiles * kd->dims * TM_TILE, sizeof(float)},
        {&kd->keys_buffer, (size_t)kd->n_tiles * TM_TILE, sizeof(float)},
        {&kd->order_buffer, n, sizeof(uint32_t)},
        {&kd->tile_node_buffer, kd->n_tiles, sizeof(uint32_t)},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        tm_status_t status = tm_buffer_reserve(wanted[i].buffer, wanted[i].count, wanted[i].bytes,
                                               "radius search", err);
        if (status != TM_OK) {
            return status;
        }
    }
    kd->nodes = kd->nodes_buffer.data;
    kd->tiles = kd->tiles_buffer.data;
    kd->keys = kd->keys_buffer.data;
    kd->order = kd->order_buffer.data;
    kd->tile_node = kd->tile_node_buffer.data;
    if (n == 0) {
        return TM_OK;
    }
    for (uint32_t i = 0; i < n; i++) {
        kd->order[i] = i;
    }
#pragma omp parallel num_threads(threads)
#pragma omp single
    build_node(&build, 0, 0, kd->n_tiles);
    return TM_OK;
}

void tm_kd_tiles_free(tm_kd_tiles_t *kd) {
    tm_buffer_free(&kd->nodes_buffer);
    tm_buffer_free(&kd->tiles_buffer);
    tm_buffer_free(&kd->keys_buffer);
    tm_buffer_free(&kd->order_buffer);
    tm_buffer_free(&kd->tile_node_buffer);
}

/* ---- searching ---- */

static float box_distance2(const tm_kd_node_t *a, const tm_kd_node_t *b) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (uint32_t d = 0; d < TM_EMBED_DIM_MAX; d++) {
        float below = a->low[d] - b->high[d];
        float above = b->low[d] - a->high[d];
        float gap = below > above ? below : above;
        gap = gap > 0 ? gap : 0;
        sum += gap * gap;
    }
    return sum;
}

uint32_t tm_kd_tiles_near(const tm_kd_tiles_t *kd, uint32_t tile, float r2, float least_key,
                          uint32_t *out) {
    const tm_kd_node_t *own = &kd->nodes[kd->tile_node[tile]];
    float limit = r2 * BOX_SLACK;
    uint32_t stack[STACK_MAX];
    uint32_t depth = 0;
    uint32_t found = 0;
    stack[depth++] = 0;
    while (depth > 0) {
        const tm_kd_node_t *node = &kd->nodes[stack[--depth]];
        if (node->key_max < least_key || box_distance2(own, node) > limit) {
            continue;
        }
        if (node->n_tiles == 1) {
            out[found++] = node->first_tile;
        } else {
            stack[depth++] = node->right; /* the left one is taken first: ascending tiles */
            stack[depth++] = node->left;
        }
    }
    return found;
}
