// SPDX-License-Identifier: Apache-2.0
#include <cooperative_groups.h>
#include <cub/block/block_scan.cuh>
#include <cub/device/device_scan.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

#include "nn/cuda/fused/post_fit.cuh"

namespace cg = cooperative_groups;

#define THREADS 256
#define BLOCKS_PER_PROCESSOR 2 /* of kernels whose blocks wait for each other */
#define WARPS (THREADS / TM_GPU_WARP)
#define NONE TM_FUSED_POST_NONE
#define PARTNERS TM_FUSED_POST_PARTNERS

/* As in nn/tracks_chains.c, tracks_join.c and tracks_post.c. */
#define SPLIT_ROUNDS_MAX 8
#define SPLIT_POINTS_MIN 4
#define PHI_CELLS 64
#define ETA_CELLS 64
#define ETA_MAX 5.0
#define CHI2_FLOOR 0.1
#define PT_TOP_GEV 3.0
#define CURVATURE_FLOOR 1e-4
#define CURVATURES_FLOOR 0.02
#define DIRECTIONS_FLOOR 0.001
#define START_MAX_MM 1e6

#define CELL_ROW (ETA_CELLS + 1) /* one more: where the last one ends */
#define EVENT_CELLS (PHI_CELLS * CELL_ROW)

typedef unsigned long long u64_t;

/* What the kernels are told. */
typedef struct {
    tm_fused_post_t b;
    tm_fused_rules_t rules;
    tm_fused_counts_t *counts;
    const tm_fused_tile_t *tiles;
    const float4 *row_place;
    const float *rho;
    const uint32_t *link_src, *link_dst;
    const float *link_logits;
    uint32_t points, links; /* capacities */
    uint32_t around;        /* cells of phi on each side that a continuation may start in */
    float sure;             /* links from this logit on are not split */
    uint32_t *offsets, *indices;
    float *track_scores;
} post_t;

#define FOR_ALL(i, n) \
    for (uint32_t i = blockIdx.x * THREADS + threadIdx.x; i < (n); i += gridDim.x * THREADS)

/* ---- what kernels share ---- */

/* A place for each thread's items behind *counter. All threads of a block call it together. */
static __device__ uint32_t place_block(uint32_t mine, uint32_t *counter) {
    typedef cub::BlockScan<uint32_t, THREADS> scan_t;
    __shared__ typename scan_t::TempStorage memory;
    __shared__ uint32_t base;
    const auto add = [](uint32_t a, uint32_t b) { return a + b; };
    uint32_t before = 0;
    uint32_t total = 0;
    scan_t(memory).ExclusiveScan(mine, before, 0u, add, total);
    if (threadIdx.x == 0) {
        base = total > 0 ? atomicAdd(counter, total) : 0;
    }
    __syncthreads();
    before += base;
    __syncthreads();
    return before;
}

static __device__ double sigmoid(float logit) {
    return 1 / (1 + exp(-(double)logit));
}

static __device__ tm_fused_run_t run_of(const post_t &p, const uint32_t *rows, uint32_t n) {
    return {p.b.place, rows, NULL, n, n};
}

/* ---- links and chains ---- */

static __global__ void __launch_bounds__(THREADS) clear(const post_t p) {
    FOR_ALL(i, p.counts->n_points) {
        p.b.next[i] = p.b.prev[i] = NONE;
        p.b.sizes[i] = 0;
        p.b.worst[i] = ~0ull;
    }
    if (p.b.chain) {
        FOR_ALL(i, p.counts->n_events * EVENT_CELLS) {
            p.b.cells[i] = 0;
        }
        FOR_ALL(i, p.counts->n_tiles) {
            if (p.tiles[i].event_first == i) {
                p.b.event_numbers[i] = atomicAdd(&p.b.counts->n_events, 1u);
            }
        }
        FOR_ALL(i, p.b.chains) {
            p.b.has_next[i] = p.b.has_prev[i] = 0;
            p.b.best_score[i] = 0;
            p.b.best_from[i] = NONE;
        }
    }
}

static __global__ void __launch_bounds__(THREADS) link(const post_t p) {
    const tm_fused_counts_t *c = p.counts;
    const bool usable = c->flags == 0 && c->bad_feature == 0 && c->bad_row == 0;
    FOR_ALL(k, usable ? min(c->n_links, p.links) : 0) {
        const uint32_t from = p.link_src[k];
        const uint32_t to = p.link_dst[k];
        p.b.next[from] = to;
        p.b.prev[to] = from;
        p.b.logit[from] = p.link_logits[k];
    }
}

static __device__ bool is_head(const post_t &p, uint32_t row) {
    return p.b.next[row] != NONE && p.b.prev[row] == NONE;
}

/* Places of the linked points, and chains one behind the other. */
static __global__ void __launch_bounds__(THREADS) list_chains(const post_t p) {
    const uint32_t n = p.counts->n_points;
    for (uint32_t base = blockIdx.x * THREADS; base < n; base += gridDim.x * THREADS) {
        const uint32_t i = base + threadIdx.x;
        uint32_t length = 0;
        uint32_t n_doubtful = 0;
        if (i < n && p.rules.fit.present &&
            (p.b.next[i] != NONE || p.b.prev[i] != NONE)) {
            p.b.place[i] = tm_fused_fit::place_of(p.rules, p.row_place[i]);
        }
        if (i < n && is_head(p, i)) {
            for (uint32_t row = i; row != NONE; row = p.b.next[row]) {
                length++;
                n_doubtful += p.b.next[row] != NONE && p.b.logit[row] < p.sure;
            }
        }
        uint32_t at = place_block(length, &p.b.counts->n_rows);
        uint32_t doubtful = place_block(n_doubtful, &p.b.counts->n_doubtful);
        if (length > 0) {
            for (uint32_t row = i; row != NONE; at++) {
                const uint32_t next = p.b.next[row];
                p.b.rows[at] = row;
                p.b.last[at] = next == NONE;
                if (next != NONE && p.b.logit[row] < p.sure) {
                    p.b.doubtful[doubtful] = at;
                    p.b.window[doubtful++] = make_uint2(0, 0);
                }
                row = next;
            }
        }
    }
}

/* ---- split ---- */

/* Whether the places hold points of one helix. */
static __device__ bool fits(const post_t &p, uint2 window) {
    const uint32_t n = window.y - window.x;
    tm_fit_t fit;
    return n < SPLIT_POINTS_MIN ||
           tm_fused_fit::helix(p.rules, run_of(p, p.b.rows + window.x, n), NULL,
                               (double)p.rules.split.chi2, &fit);
}

/* The places around the link behind place `at` that tell whether it fits. */
static __device__ uint2 window_of(const post_t &p, uint32_t at) {
    const uint32_t ends = p.rules.fit.ends;
    uint2 window = make_uint2(at, at + 1);
    while (at + 1 - window.x < ends && window.x > 0 && !p.b.last[window.x - 1]) {
        window.x--;
    }
    while (window.y - (at + 1) < ends && !p.b.last[window.y - 1]) {
        window.y++;
    }
    return window;
}

/* Earlier rounds are higher, so that the worst of a round is below all of those before it and nothing
 * has to be cleared; then lower logits, then inner links. A place has TM_FUSED_ROW_BITS. */
static __device__ u64_t split_key(uint32_t round, float logit, uint32_t at) {
    return (u64_t)(SPLIT_ROUNDS_MAX - 1 - round) << (32 + TM_FUSED_ROW_BITS) |
           (u64_t)tm_gpu_ordered(logit + 0.0f) << TM_FUSED_ROW_BITS | at;
}

static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_PROCESSOR) split(const post_t p) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = p.b.counts->n_doubtful;
    for (uint32_t round = 0; round < SPLIT_ROUNDS_MAX; round++) {
        FOR_ALL(k, n) {
            const uint32_t at = p.b.doubtful[k];
            if (p.b.last[at]) {
                p.b.stretch[k] = NONE;
                continue;
            }
            const uint2 window = window_of(p, at);
            const uint2 judged = p.b.window[k];
            if (window.x != judged.x || window.y != judged.y) {
                p.b.window[k] = window;
                p.b.stretch[k] = fits(p, window) ? NONE : window.x;
            }
            if (p.b.stretch[k] != NONE) {
                uint32_t begin = window.x;
                while (begin > 0 && !p.b.last[begin - 1]) {
                    begin--;
                }
                p.b.stretch[k] = begin;
                atomicMin(&p.b.worst[begin], split_key(round, p.b.logit[p.b.rows[at]], at));
            }
        }
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            p.b.counts->changed[(round + 1) % 3] = 0;
        }
        grid.sync();
        bool broke = false;
        FOR_ALL(k, n) {
            const uint32_t at = p.b.doubtful[k];
            const uint32_t begin = p.b.stretch[k];
            if (begin == NONE) {
                continue;
            }
            const uint32_t row = p.b.rows[at];
            if (p.b.worst[begin] == split_key(round, p.b.logit[row], at)) {
                p.b.last[at] = 1;
                p.b.prev[p.b.next[row]] = NONE;
                p.b.next[row] = NONE;
                broke = true;
            }
        }
        if (__syncthreads_or(broke) && threadIdx.x == 0) {
            atomicOr(&p.b.counts->changed[round % 3], 1u);
        }
        grid.sync();
        if (*(volatile uint32_t *)&p.b.counts->changed[round % 3] == 0) {
            break;
        }
    }
}

/* ---- join: what chains look like, and by cells where they start ---- */

static __global__ void __launch_bounds__(THREADS) list_joinable(const post_t p) {
    const uint32_t n = p.b.counts->n_rows;
    for (uint32_t base = blockIdx.x * THREADS; base < n; base += gridDim.x * THREADS) {
        const uint32_t i = base + threadIdx.x;
        uint32_t end = i;
        if (i < n && (i == 0 || p.b.last[i - 1])) {
            while (!p.b.last[end++]) {
            }
        }
        const bool joinable = end - i >= TM_FIT_POINTS_MIN;
        const uint32_t at = place_block(joinable, &p.b.counts->n_chains);
        if (joinable) {
            p.b.chain[at] = make_uint2(i, end);
        }
    }
}

static __device__ uint32_t clamp_cell(double cell, uint32_t cells) {
    return !(cell > 0) ? 0 : cell >= cells ? cells - 1 : (uint32_t)cell;
}

static __device__ uint32_t phi_cell(double phi) {
    return clamp_cell((phi + TM_FUSED_PI) / (2 * TM_FUSED_PI) * PHI_CELLS, PHI_CELLS);
}

static __device__ uint32_t eta_cell(double cot_theta) {
    return clamp_cell((asinh(cot_theta) + ETA_MAX) / (2 * ETA_MAX) * ETA_CELLS, ETA_CELLS);
}

/* The number of a row's event. Tiles lie in the order of rows. */
static __device__ uint32_t event_of(const post_t &p, uint32_t row) {
    uint32_t low = 0;
    uint32_t high = p.counts->n_tiles;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (p.tiles[middle].first <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return p.b.event_numbers[p.tiles[low].event_first];
}

static __global__ void __launch_bounds__(THREADS) describe(const post_t p) {
    FOR_ALL(c, p.b.counts->n_chains) {
        const uint2 chain = p.b.chain[c];
        const uint32_t first = p.b.rows[chain.x];
        const uint32_t last = p.b.rows[chain.y - 1];
        tm_fused_shape_t s = {};
        tm_fit_t fit;
        s.first = first;
        s.cell = NONE;
        if (tm_fused_fit::helix(p.rules, run_of(p, p.b.rows + chain.x, chain.y - chain.x), NULL,
                                INFINITY, &fit)) {
            s.curvature = fit.curvature;
            s.cot_theta = fit.cot_theta;
            s.phi_start = (double)p.row_place[first].y;
            s.phi_end = (double)p.row_place[last].y;
            s.rho_start = p.rho[first];
            s.rho_end = p.rho[last];
            const uint32_t event = p.counts->n_events > 1 ? event_of(p, first) : 0;
            s.cell =
                event * EVENT_CELLS + phi_cell(s.phi_start) * CELL_ROW + eta_cell(s.cot_theta);
            atomicAdd(&p.b.cells[s.cell], 1u);
        }
        p.b.shape[c] = s;
    }
}

/* From how many are in a cell to where they end, with the cells of a phi in one piece, anywhere. */
static __global__ void __launch_bounds__(THREADS) place_cells(const post_t p) {
    FOR_ALL(row, p.counts->n_events * PHI_CELLS) {
        uint32_t *cell = p.b.cells + (size_t)row * CELL_ROW;
        uint32_t total = 0;
        for (uint32_t k = 0; k < ETA_CELLS; k++) {
            total += cell[k];
        }
        uint32_t at = total > 0 ? atomicAdd(&p.b.counts->n_members, total) : 0;
        for (uint32_t k = 0; k < ETA_CELLS; k++) {
            at += cell[k];
            cell[k] = at;
        }
        cell[ETA_CELLS] = at;
    }
}

static __global__ void __launch_bounds__(THREADS) fill_cells(const post_t p) {
    FOR_ALL(c, p.b.counts->n_chains) {
        const uint32_t cell = p.b.shape[c].cell;
        if (cell != NONE) {
            p.b.members[atomicSub(&p.b.cells[cell], 1u) - 1] = c;
        }
    }
}

/* ---- join: continuations, a warp per chain ---- */

static __device__ double score_of(const post_t &p, uint32_t a, uint32_t b) {
    const tm_fused_rules_t &rules = p.rules;
    const uint2 chain_a = p.b.chain[a];
    const uint2 chain_b = p.b.chain[b];
    const uint32_t n_a = min(chain_a.y - chain_a.x, rules.fit.ends);
    const uint32_t n_b = min(chain_b.y - chain_b.x, rules.fit.ends);
    const tm_fused_run_t run = {p.b.place, p.b.rows + chain_a.y - n_a, p.b.rows + chain_b.x, n_a,
                                n_a + n_b};
    tm_fit_t fit;
    if (!tm_fused_fit::helix(rules, run, NULL, (double)rules.join.chi2, &fit)) {
        return -INFINITY;
    }
    const double circle = fit.chi2_circle / (n_a + n_b - 3);
    const double line = fit.chi2_line / (n_a + n_b - 2);
    double pt = tm_fused_fit::pt_of(rules, fit.curvature);
    pt = pt < PT_TOP_GEV ? pt : PT_TOP_GEV;
    const double per_sin2 = 1 + fit.cot_theta * fit.cot_theta;
    const double curvatures =
        fabs(p.b.shape[a].curvature - p.b.shape[b].curvature) /
        sqrt(fit.curvature * fit.curvature + CURVATURE_FLOOR * CURVATURE_FLOOR);
    const double directions =
        fabs(p.b.shape[a].cot_theta - p.b.shape[b].cot_theta) / sqrt(per_sin2) * pt;
    const double value[TM_JOIN_WEIGHTS] = {1,
                                           log(circle + CHI2_FLOOR),
                                           log(line + CHI2_FLOOR),
                                           log(pt),
                                           log(curvatures + CURVATURES_FLOOR),
                                           log(directions + DIRECTIONS_FLOOR),
                                           log(per_sin2)};
    double score = 0;
    for (int k = 0; k < TM_JOIN_WEIGHTS; k++) {
        score += (double)rules.join.weight[k] * value[k];
    }
    return score;
}

static __device__ bool near(const post_t &p, const tm_fused_shape_t &a,
                            const tm_fused_shape_t &b) {
    return b.rho_start > a.rho_end &&
           fabs(a.cot_theta - b.cot_theta) <
               (double)p.rules.join.dcot * (1 + fabs(a.cot_theta)) &&
           fabs(remainder(b.phi_start - a.phi_end, 2 * TM_FUSED_PI)) < (double)p.rules.join.dphi;
}

/* The best continuations of a chain so far, sorted. */
typedef struct {
    double score[PARTNERS];
    uint32_t to[PARTNERS], first[PARTNERS]; /* ties: the lower first row */
    uint32_t n;
} best_t;

static __device__ void keep(best_t *best, double score, uint32_t to, uint32_t first) {
    uint32_t k = best->n;
    for (; k > 0 && (score > best->score[k - 1] ||
                     (score == best->score[k - 1] && first < best->first[k - 1]));
         k--) {
        if (k < PARTNERS) {
            best->score[k] = best->score[k - 1];
            best->to[k] = best->to[k - 1];
            best->first[k] = best->first[k - 1];
        }
    }
    if (k < PARTNERS) {
        best->score[k] = score;
        best->to[k] = to;
        best->first[k] = first;
        best->n += best->n < PARTNERS;
    }
}

/* Each lane with a chain, not NONE, tries it as the continuation of a. */
static __device__ void try_partners(const post_t &p, uint32_t a, uint32_t to, best_t *best) {
    const double score = to != NONE ? score_of(p, a, to) : -INFINITY;
    uint32_t found = __ballot_sync(TM_GPU_WARP_MASK, score > 0);
    for (; found != 0; found &= found - 1) {
        const int lane = __ffs((int)found) - 1;
        const double its_score = __shfl_sync(TM_GPU_WARP_MASK, score, lane);
        const uint32_t its_to = __shfl_sync(TM_GPU_WARP_MASK, to, lane);
        if (threadIdx.x % TM_GPU_WARP == 0) {
            keep(best, its_score, its_to, p.b.shape[its_to].first);
        }
    }
    __syncwarp();
}

static __global__ void __launch_bounds__(THREADS) find_partners(const post_t p) {
    __shared__ best_t bests[WARPS];
    __shared__ uint32_t queues[WARPS][2 * TM_GPU_WARP]; /* chains to try, so that all lanes do */
    const uint32_t lane = threadIdx.x % TM_GPU_WARP;
    const uint32_t below = (1u << lane) - 1;
    best_t *best = &bests[threadIdx.x / TM_GPU_WARP];
    uint32_t *queue = queues[threadIdx.x / TM_GPU_WARP];
    const uint32_t n = p.b.counts->n_chains;
    const uint32_t n_phi = min(2 * p.around + 1, (uint32_t)PHI_CELLS);
    for (uint32_t a = blockIdx.x * WARPS + threadIdx.x / TM_GPU_WARP; a < n;
         a += gridDim.x * WARPS) {
        const tm_fused_shape_t s = p.b.shape[a];
        if (s.cell == NONE) {
            if (lane == 0) {
                p.b.n_partners[a] = 0;
            }
            continue;
        }
        if (lane == 0) {
            best->n = 0;
        }
        __syncwarp();
        const double reach = (double)p.rules.join.dcot * (1 + fabs(s.cot_theta));
        const uint32_t eta_low = eta_cell(s.cot_theta - reach);
        const uint32_t eta_high = eta_cell(s.cot_theta + reach);
        const uint32_t middle = phi_cell(s.phi_end);
        const uint32_t *cells = p.b.cells + s.cell / EVENT_CELLS * EVENT_CELLS;
        uint32_t waiting = 0;
        for (uint32_t i = 0; i < n_phi; i++) {
            const uint32_t *row =
                cells + (middle + PHI_CELLS - p.around + i) % PHI_CELLS * CELL_ROW;
            const uint32_t end = row[eta_high + 1];
            for (uint32_t base = row[eta_low]; base < end; base += TM_GPU_WARP) {
                const uint32_t b = base + lane < end ? p.b.members[base + lane] : NONE;
                const bool take = b != NONE && b != a && near(p, s, p.b.shape[b]);
                const uint32_t takers = __ballot_sync(TM_GPU_WARP_MASK, take);
                if (take) {
                    queue[waiting + __popc(takers & below)] = b;
                }
                waiting += __popc(takers);
                __syncwarp();
                if (waiting >= TM_GPU_WARP) {
                    waiting -= TM_GPU_WARP;
                    try_partners(p, a, queue[waiting + lane], best);
                }
            }
        }
        try_partners(p, a, lane < waiting ? queue[lane] : NONE, best);
        if (lane < best->n) {
            p.b.scores[(size_t)a * PARTNERS + lane] = best->score[lane];
            p.b.partners[(size_t)a * PARTNERS + lane] = best->to[lane];
        }
        if (lane == 0) {
            p.b.n_partners[a] = best->n;
        }
        __syncwarp();
    }
}

/* ---- join: rounds of mutually best pairs ---- */

static __device__ u64_t score_bits(double score) {
    return (u64_t)__double_as_longlong(score); /* positive: of the same order */
}

/* What the CPU takes from the best pair down: by score, then first rows. */
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_PROCESSOR) match(const post_t p) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = p.b.counts->n_chains;
    for (uint32_t round = 0;; round++) {
        u64_t *best = p.b.best_score + (size_t)(round % 2) * p.b.chains;
        uint32_t *from = p.b.best_from + (size_t)(round % 2) * p.b.chains;
        u64_t *next_best = p.b.best_score + (size_t)((round + 1) % 2) * p.b.chains;
        uint32_t *next_from = p.b.best_from + (size_t)((round + 1) % 2) * p.b.chains;
        FOR_ALL(a, n) {
            const uint32_t n_to = p.b.has_next[a] ? 0 : p.b.n_partners[a];
            uint32_t choice = NONE;
            for (uint32_t k = n_to; k-- > 0;) {
                const uint32_t to = p.b.partners[(size_t)a * PARTNERS + k];
                if (!p.b.has_prev[to]) {
                    choice = k;
                    atomicMax(&best[to], score_bits(p.b.scores[(size_t)a * PARTNERS + k]));
                }
            }
            p.b.choice[a] = choice;
            next_best[a] = 0;
            next_from[a] = NONE;
        }
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            p.b.counts->changed[(round + 1) % 3] = 0;
        }
        grid.sync();
        FOR_ALL(a, n) { /* of equal scores the one that begins first */
            const uint32_t n_to = p.b.choice[a] != NONE ? p.b.n_partners[a] : 0;
            for (uint32_t k = 0; k < n_to; k++) {
                const uint32_t to = p.b.partners[(size_t)a * PARTNERS + k];
                if (!p.b.has_prev[to] &&
                    best[to] == score_bits(p.b.scores[(size_t)a * PARTNERS + k])) {
                    atomicMin(&from[to], p.b.shape[a].first);
                }
            }
        }
        grid.sync();
        bool took = false;
        FOR_ALL(a, n) {
            const uint32_t k = p.b.choice[a];
            if (k == NONE) {
                continue;
            }
            const uint32_t to = p.b.partners[(size_t)a * PARTNERS + k];
            const double score = p.b.scores[(size_t)a * PARTNERS + k];
            if (best[to] == score_bits(score) && from[to] == p.b.shape[a].first) {
                const uint32_t end = p.b.rows[p.b.chain[a].y - 1];
                const uint32_t start = p.b.shape[to].first;
                p.b.has_next[a] = 1;
                p.b.has_prev[to] = 1;
                p.b.next[end] = start;
                p.b.prev[start] = end;
                p.b.logit[end] = (float)score;
                took = true;
            }
        }
        if (__syncthreads_or(took) && threadIdx.x == 0) {
            atomicOr(&p.b.counts->changed[round % 3], 1u);
        }
        grid.sync();
        if (*(volatile uint32_t *)&p.b.counts->changed[round % 3] == 0) {
            break;
        }
    }
}

/* ---- candidates ---- */

/* Chains that are left and long enough, at their least rows. */
static __global__ void __launch_bounds__(THREADS) measure(const post_t p) {
    uint32_t n_links = 0;
    FOR_ALL(i, p.counts->n_points) {
        if (!is_head(p, i)) {
            continue;
        }
        uint32_t length = 1;
        uint32_t least = i;
        double sum = 0;
        for (uint32_t row = i; p.b.next[row] != NONE; length++) {
            sum += sigmoid(p.b.logit[row]);
            row = p.b.next[row];
            least = min(least, row);
        }
        const double mean = sum / (length - 1);
        if (length <= p.rules.select.points && mean < (double)p.rules.select.score) {
            continue;
        }
        n_links += length - 1;
        if (length >= p.rules.min_points) {
            p.b.sizes[least] = length;
            p.b.heads[least] = i;
            p.b.means[least] = (float)mean;
        }
    }
    if (n_links > 0) {
        atomicAdd(&p.counts->n_track_edges, n_links);
    }
}

/* A candidate and its points, for adding up over the rows. */
typedef struct {
    const tm_fused_counts_t *counts;
    const uint32_t *sizes;
    __device__ u64_t operator()(uint32_t row) const {
        const uint32_t size = row < counts->n_points ? sizes[row] : 0;
        return size > 0 ? 1ull << 32 | size : 0;
    }
} candidate_t;

static cudaError_t add_up(void *memory, size_t &bytes, candidate_t f, u64_t *out, uint32_t n,
                          cudaStream_t stream) {
    auto in = thrust::make_transform_iterator(thrust::make_counting_iterator(0u), f);
    return cub::DeviceScan::ExclusiveSum(memory, bytes, in, out, n, stream);
}

static __global__ void __launch_bounds__(THREADS) write(const post_t p) {
    const uint32_t n = p.counts->n_points;
    FOR_ALL(i, n + 1) {
        const uint32_t track = (uint32_t)(p.b.places[i] >> 32);
        uint32_t at = (uint32_t)p.b.places[i];
        if (i == n) {
            p.offsets[track] = at;
            p.counts->n_tracks = track;
            p.counts->n_indices = at;
        } else if (p.b.sizes[i] > 0) {
            p.offsets[track] = at;
            p.track_scores[track] = p.b.means[i];
            for (uint32_t row = p.b.heads[i]; row != NONE; row = p.b.next[row]) {
                p.indices[at++] = row;
            }
        }
    }
}

static __global__ void __launch_bounds__(THREADS) find_starts(const post_t p) {
    FOR_ALL(t, p.counts->n_tracks) {
        const uint32_t begin = p.offsets[t];
        tm_fit_start_t s;
        if (!tm_fused_fit::start(p.rules, run_of(p, p.indices + begin, p.offsets[t + 1] - begin),
                                 &s) ||
            !(fabs(s.d0) < START_MAX_MM && fabs(s.z0) < START_MAX_MM)) {
            s = {};
        }
        p.b.pt[t] = (float)s.pt;
        p.b.phi[t] = (float)s.phi;
        p.b.eta[t] = (float)s.eta;
        p.b.d0[t] = (float)s.d0;
        p.b.z0[t] = (float)s.z0;
        p.b.charge[t] = (int8_t)s.charge;
    }
}

/* ---- the host's part ---- */

bool tm_fused_post_can_run(const tm_pipeline_t *pipeline) {
    return pipeline->tracks.builder == TM_BUILDER_BEST_EDGES &&
           pipeline->radius.direction == TM_DIRECTION_OUTWARD;
}

cudaError_t tm_fused_post_plan(const tm_pipeline_t *pipeline, const tm_fused_capacity_t *capacity,
                               tm_fused_arena_t *a, tm_fused_post_t *b) {
    const size_t n = capacity->points;
    const size_t chains = n / TM_FIT_POINTS_MIN + 1;
    *b = (tm_fused_post_t){};
    b->counts = tm_fused_take<tm_fused_post_counts_t>(a, 1);
    b->next = tm_fused_take<uint32_t>(a, n);
    b->prev = tm_fused_take<uint32_t>(a, n);
    b->logit = tm_fused_take<float>(a, n);
    b->rows = tm_fused_take<uint32_t>(a, n);
    b->last = tm_fused_take<uint8_t>(a, n);
    b->doubtful = tm_fused_take<uint32_t>(a, n);
    b->window = tm_fused_take<uint2>(a, n);
    b->stretch = tm_fused_take<uint32_t>(a, n);
    b->worst = tm_fused_take<u64_t>(a, n);
    if (pipeline->tracks.join.present) {
        b->chains = (uint32_t)chains;
        b->chain = tm_fused_take<uint2>(a, chains);
        b->shape = tm_fused_take<tm_fused_shape_t>(a, chains);
        b->cells = tm_fused_take<uint32_t>(a, (size_t)capacity->events * EVENT_CELLS);
        b->members = tm_fused_take<uint32_t>(a, chains);
        b->event_numbers = tm_fused_take<uint32_t>(a, capacity->tiles);
        b->scores = tm_fused_take<double>(a, chains * PARTNERS);
        b->partners = tm_fused_take<uint32_t>(a, chains * PARTNERS);
        b->n_partners = tm_fused_take<uint32_t>(a, chains);
        b->choice = tm_fused_take<uint32_t>(a, chains);
        b->best_score = tm_fused_take<u64_t>(a, 2 * chains);
        b->best_from = tm_fused_take<uint32_t>(a, 2 * chains);
        b->has_next = tm_fused_take<uint8_t>(a, chains);
        b->has_prev = tm_fused_take<uint8_t>(a, chains);
    }
    b->sizes = tm_fused_take<uint32_t>(a, n);
    b->heads = tm_fused_take<uint32_t>(a, n);
    b->means = tm_fused_take<float>(a, n);
    b->places = tm_fused_take<u64_t>(a, n + 1);
    if (pipeline->tracks.fit.present) {
        b->place = tm_fused_take<tm_fit_point_t>(a, n);
        b->pt = tm_fused_take<float>(a, n);
        b->phi = tm_fused_take<float>(a, n);
        b->eta = tm_fused_take<float>(a, n);
        b->d0 = tm_fused_take<float>(a, n);
        b->z0 = tm_fused_take<float>(a, n);
        b->charge = tm_fused_take<int8_t>(a, n);
    }
    const cudaError_t error =
        add_up(NULL, b->cub_bytes, candidate_t{}, NULL, capacity->points + 1, NULL);
    b->cub = tm_fused_take<char>(a, b->cub_bytes);
    return error;
}

static cudaError_t launched(cudaError_t before) {
    return before == cudaSuccess ? cudaGetLastError() : before;
}

static cudaError_t join(const tm_fused_context_t *c, post_t *p) {
    const int blocks = 4 * c->processors;
    void *arguments[] = {p};
    list_joinable<<<blocks, THREADS, 0, c->stream>>>(*p);
    describe<<<blocks, THREADS, 0, c->stream>>>(*p);
    place_cells<<<blocks, THREADS, 0, c->stream>>>(*p);
    fill_cells<<<blocks, THREADS, 0, c->stream>>>(*p);
    find_partners<<<blocks, THREADS, 0, c->stream>>>(*p);
    const cudaError_t error = cudaGetLastError();
    return error != cudaSuccess
               ? error
               : cudaLaunchCooperativeKernel((const void *)match,
                                             dim3(BLOCKS_PER_PROCESSOR * c->processors),
                                             dim3(THREADS), arguments, 0, c->stream);
}

cudaError_t tm_fused_post(const tm_fused_context_t *c, const tm_fused_plan_t *plan,
                          const tm_fused_post_t *post) {
    const tm_pipeline_t *pipeline = c->pipeline;
    const size_t points = plan->capacity.points;
    const int blocks = 4 * c->processors;
    /* one cell more on each side than asked for, as on the CPU */
    const uint32_t around =
        (uint32_t)ceil((double)pipeline->tracks.join.dphi / (2 * TM_FUSED_PI) * PHI_CELLS) + 1;
    post_t p = {};
    p.b = *post;
    p.rules = pipeline->tracks;
    p.counts = &plan->header->counts;
    p.tiles = plan->tiles;
    p.row_place = plan->row_place;
    p.rho = plan->row_rho;
    p.link_src = plan->link_src;
    p.link_dst = plan->link_dst;
    p.link_logits = plan->link_logits;
    p.points = plan->capacity.points;
    p.links = plan->capacity.kept;
    p.around = around < PHI_CELLS / 2 ? around : PHI_CELLS / 2;
    p.sure = pipeline->tracks.split.present
                 ? (float)tm_gpu_least_logit(pipeline->tracks.split.score)
                 : -INFINITY;
    p.offsets = plan->result;
    p.track_scores = (float *)(plan->result + points + 1);
    p.indices = plan->result + 2 * points + 1;
    void *arguments[] = {&p};
    cudaError_t error = cudaMemsetAsync(post->counts, 0, sizeof *post->counts, c->stream);
    clear<<<blocks, THREADS, 0, c->stream>>>(p);
    link<<<blocks, THREADS, 0, c->stream>>>(p);
    list_chains<<<blocks, THREADS, 0, c->stream>>>(p);
    error = launched(error);
    if (error == cudaSuccess && pipeline->tracks.split.present) {
        error = cudaLaunchCooperativeKernel((const void *)split,
                                            dim3(BLOCKS_PER_PROCESSOR * c->processors),
                                            dim3(THREADS), arguments, 0, c->stream);
    }
    if (error == cudaSuccess && pipeline->tracks.join.present) {
        error = join(c, &p);
    }
    if (error == cudaSuccess) {
        measure<<<blocks, THREADS, 0, c->stream>>>(p);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess) {
        size_t bytes = post->cub_bytes;
        error = add_up(post->cub, bytes, candidate_t{p.counts, post->sizes}, post->places,
                       plan->capacity.points + 1, c->stream);
    }
    if (error == cudaSuccess) {
        write<<<blocks, THREADS, 0, c->stream>>>(p);
        if (pipeline->tracks.fit.present) {
            find_starts<<<blocks, THREADS, 0, c->stream>>>(p);
        }
        error = cudaGetLastError();
    }
    return error;
}
