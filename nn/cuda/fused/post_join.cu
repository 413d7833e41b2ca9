// SPDX-License-Identifier: Apache-2.0
/* The step "join" of the fused path: nn/tracks_join.c on the GPU. */
#include <cooperative_groups.h>

#include "nn/cuda/fused/post_parts.cuh"

namespace cg = cooperative_groups;

#define WARPS TM_FUSED_POST_WARPS
#define NONE TM_FUSED_POST_NONE
#define PARTNERS TM_FUSED_POST_PARTNERS
#define FEW (2 * TM_FUSED_FIT_GROUPS) /* fits that groups do sooner than lanes */
#define PHI_CELLS TM_FUSED_POST_PHI_CELLS
#define ETA_CELLS TM_FUSED_POST_ETA_CELLS

/* As in nn/tracks_join.c. */
#define ETA_MAX 5.0
#define CHI2_FLOOR 0.1
#define PT_TOP_GEV 3.0
#define CURVATURE_FLOOR 1e-4
#define CURVATURES_FLOOR 0.02
#define DIRECTIONS_FLOOR 0.001

typedef unsigned long long u64_t;

/* ---- what chains look like, and by cells where they start ---- */

static __device__ uint32_t clamp_cell(double cell, uint32_t cells) {
    return !(cell > 0) ? 0 : cell >= cells ? cells - 1 : (uint32_t)cell;
}

static __device__ uint32_t phi_cell(double phi) {
    return clamp_cell((phi + TM_FUSED_PI) / (2 * TM_FUSED_PI) * PHI_CELLS, PHI_CELLS);
}

static __device__ uint32_t eta_cell(double cot_theta) {
    return clamp_cell((asinh(cot_theta) + ETA_MAX) / (2 * ETA_MAX) * ETA_CELLS, ETA_CELLS);
}

static __device__ void describe_one(const tm_fused_post_work_t &p, uint32_t c,
                                    const tm_fit_t *fit) {
    const uint2 chain = p.b.chain[c];
    const uint32_t first = p.b.rows[chain.x];
    const uint32_t last = p.b.rows[chain.y - 1];
    tm_fused_shape_t s = {};
    s.first = first;
    s.cell = NONE;
    if (fit) {
        s.curvature = fit->curvature;
        s.cot_theta = fit->cot_theta;
        s.phi_start = (double)p.row_place[first].y;
        s.phi_end = (double)p.row_place[last].y;
        s.rho_start = p.rho[first];
        s.rho_end = p.rho[last];
        const uint32_t event = tm_fused_event_of(p.counts, p.event_rows, first);
        s.cell = event * TM_FUSED_POST_EVENT_CELLS +
                 phi_cell(s.phi_start) * TM_FUSED_POST_CELL_ROW + eta_cell(s.cot_theta);
        atomicAdd(&p.b.cells[s.cell], 1u);
    }
    p.b.shape[c] = s;
}

static __device__ void describe(const tm_fused_post_work_t &p, tm_fused_post_exchange_t *exchange) {
    const uint32_t n = p.b.counts->n_chains;
    for (uint32_t base = tm_fused_post_warp() * TM_FUSED_FIT_GROUPS; base < n;
         base += tm_fused_post_warps() * TM_FUSED_FIT_GROUPS) {
        const uint32_t c = base + tm_fused_post_lane() / TM_FUSED_FIT_LANES;
        const uint2 chain = c < n ? p.b.chain[c] : make_uint2(0, 0);
        tm_fit_t fit = {};
        const bool good = tm_fused_fit::group_helix(
            p.rules, tm_fused_post_run(p, p.b.rows + chain.x, chain.y - chain.x), NULL, INFINITY,
            exchange, &fit);
        if (c < n && threadIdx.x % TM_FUSED_FIT_LANES == 0) {
            describe_one(p, c, good ? &fit : NULL);
        }
    }
}

/* The sum over the lanes up to this one. */
static __device__ uint32_t add_up_to(uint32_t mine) {
    const uint32_t lane = tm_fused_post_lane();
    for (uint32_t step = 1; step < TM_GPU_WARP; step *= 2) {
        const uint32_t other =
            __shfl_sync(TM_GPU_WARP_MASK, mine, (int)(lane >= step ? lane - step : 0));
        mine += lane >= step ? other : 0;
    }
    return mine;
}

/* From how many are in a cell to where they end, with the cells of a phi in one piece, anywhere. A warp
 * per phi. */
static __device__ void place_cells(const tm_fused_post_work_t &p) {
    const uint32_t lane = tm_fused_post_lane();
    for (uint32_t row = tm_fused_post_warp(); row < p.counts->n_events * PHI_CELLS;
         row += tm_fused_post_warps()) {
        uint32_t *cell = p.b.cells + (size_t)row * TM_FUSED_POST_CELL_ROW;
        const uint32_t low = cell[2 * lane];
        const uint32_t high = cell[2 * lane + 1];
        const uint32_t upto = add_up_to(low + high);
        const uint32_t total = __shfl_sync(TM_GPU_WARP_MASK, upto, TM_GPU_WARP - 1);
        uint32_t at = 0;
        if (lane == 0 && total > 0) {
            at = atomicAdd(&p.b.counts->n_members, total);
        }
        at = __shfl_sync(TM_GPU_WARP_MASK, at, 0);
        cell[2 * lane] = at + upto - high;
        cell[2 * lane + 1] = at + upto;
        if (lane == 0) {
            cell[ETA_CELLS] = at + total;
        }
    }
}
static_assert(ETA_CELLS == 2 * TM_GPU_WARP, "a lane has two cells");

static __device__ void fill_cells(const tm_fused_post_work_t &p) {
    TM_FUSED_POST_ALL(c, p.b.counts->n_chains) {
        const uint32_t cell = p.b.shape[c].cell;
        if (cell != NONE) {
            p.b.members[atomicSub(&p.b.cells[cell], 1u) - 1] = c;
        }
    }
}

/* ---- continuations, a warp per chain ---- */

/* The end of chain a and the beginning of chain b. */
static __device__ tm_fused_run_t joint_of(const tm_fused_post_work_t &p, uint32_t a, uint32_t b) {
    const uint2 chain_a = p.b.chain[a];
    const uint2 chain_b = p.b.chain[b];
    const uint32_t n_a = min(chain_a.y - chain_a.x, p.rules.fit.ends);
    const uint32_t n_b = min(chain_b.y - chain_b.x, p.rules.fit.ends);
    return {p.b.place, p.b.rows + chain_a.y - n_a, p.b.rows + chain_b.x, n_a, n_a + n_b};
}

static __device__ double score_of(const tm_fused_post_work_t &p, uint32_t a, uint32_t b,
                                  const tm_fit_t &fit) {
    const tm_fused_rules_t &rules = p.rules;
    const double circle = fit.chi2_circle / (fit.n - 3);
    const double line = fit.chi2_line / (fit.n - 2);
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

static __device__ bool near(const tm_fused_post_work_t &p, const tm_fused_shape_t &a,
                            const tm_fused_shape_t &b) {
    return b.rho_start > a.rho_end &&
           fabs(a.cot_theta - b.cot_theta) < (double)p.rules.join.dcot * (1 + fabs(a.cot_theta)) &&
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

/* Each lane with a score above 0 offers its chain. */
static __device__ void offer(const tm_fused_post_work_t &p, double score, uint32_t to,
                             best_t *best) {
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

/* The chains of a queue, at most one per lane, as continuations of a: by lanes if there are many, by
 * groups of lanes if that is sooner done. */
static __device__ void try_partners(const tm_fused_post_work_t &p, uint32_t a,
                                    const uint32_t *queue, uint32_t n,
                                    tm_fused_post_exchange_t *exchange, best_t *best) {
    const uint32_t lane = tm_fused_post_lane();
    const double limit = (double)p.rules.join.chi2;
    if (n > FEW) {
        const uint32_t to = lane < n ? queue[lane] : NONE;
        tm_fit_t fit;
        const bool good =
            to != NONE && tm_fused_fit::helix(p.rules, joint_of(p, a, to), limit, &fit);
        offer(p, good ? score_of(p, a, to, fit) : -INFINITY, to, best);
        return;
    }
    for (uint32_t base = 0; base < n; base += TM_FUSED_FIT_GROUPS) {
        const uint32_t k = base + lane / TM_FUSED_FIT_LANES;
        const uint32_t to = k < n ? queue[k] : NONE;
        tm_fused_run_t run = {};
        if (to != NONE) {
            run = joint_of(p, a, to);
        }
        tm_fit_t fit = {};
        const bool good = tm_fused_fit::group_helix(p.rules, run, NULL, limit, exchange, &fit);
        const double score = good ? score_of(p, a, to, fit) : -INFINITY;
        offer(p, lane % TM_FUSED_FIT_LANES == 0 ? score : -INFINITY, to, best);
    }
}

static __device__ void find_partners(const tm_fused_post_work_t &p,
                                     tm_fused_post_exchange_t *exchange) {
    __shared__ best_t bests[WARPS];
    __shared__ uint32_t queues[WARPS][2 * TM_GPU_WARP]; /* chains to try, so that all lanes do */
    const uint32_t lane = tm_fused_post_lane();
    const uint32_t below = (1u << lane) - 1;
    best_t *best = &bests[threadIdx.x / TM_GPU_WARP];
    uint32_t *queue = queues[threadIdx.x / TM_GPU_WARP];
    const uint32_t n = p.b.counts->n_chains;
    const uint32_t n_phi = min(2 * p.around + 1, (uint32_t)PHI_CELLS);
    for (uint32_t a = tm_fused_post_warp(); a < n; a += tm_fused_post_warps()) {
        const tm_fused_shape_t s = p.b.shape[a];
        if (s.cell == NONE) {
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
        const uint32_t *cells =
            p.b.cells + s.cell / TM_FUSED_POST_EVENT_CELLS * TM_FUSED_POST_EVENT_CELLS;
        uint32_t waiting = 0;
        for (uint32_t first = 0; first < n_phi; first += TM_GPU_WARP) { /* a lane per phi */
            uint32_t begin = 0;
            uint32_t count = 0;
            if (first + lane < n_phi) {
                const uint32_t phi = (middle + PHI_CELLS - p.around + first + lane) % PHI_CELLS;
                const uint32_t *row = cells + phi * TM_FUSED_POST_CELL_ROW;
                begin = row[eta_low];
                count = row[eta_high + 1] - begin;
            }
            const uint32_t upto = add_up_to(count);
            const uint32_t total = __shfl_sync(TM_GPU_WARP_MASK, upto, TM_GPU_WARP - 1);
            for (uint32_t base = 0; base < total; base += TM_GPU_WARP) {
                const uint32_t k = base + lane;
                uint32_t from = 0; /* the lane that has the k-th */
                for (uint32_t step = TM_GPU_WARP / 2; step > 0; step /= 2) {
                    from +=
                        __shfl_sync(TM_GPU_WARP_MASK, upto, (int)(from + step - 1)) <= k ? step : 0;
                }
                const uint32_t its_end = __shfl_sync(TM_GPU_WARP_MASK, begin + count, (int)from);
                const uint32_t its_upto = __shfl_sync(TM_GPU_WARP_MASK, upto, (int)from);
                const uint32_t b = k < total ? p.b.members[its_end - its_upto + k] : NONE;
                const bool take = b != NONE && b != a && near(p, s, p.b.shape[b]);
                const uint32_t takers = __ballot_sync(TM_GPU_WARP_MASK, take);
                if (take) {
                    queue[waiting + __popc(takers & below)] = b;
                }
                waiting += __popc(takers);
                __syncwarp();
                if (waiting >= TM_GPU_WARP) {
                    waiting -= TM_GPU_WARP;
                    try_partners(p, a, queue + waiting, TM_GPU_WARP, exchange, best);
                }
            }
        }
        try_partners(p, a, queue, waiting, exchange, best);
        if (lane < best->n) {
            p.b.scores[(size_t)a * PARTNERS + lane] = best->score[lane];
            p.b.partners[(size_t)a * PARTNERS + lane] = best->to[lane];
        }
        if (lane == 0 && best->n > 0) {
            p.b.n_partners[a] = best->n;
            p.b.active[atomicAdd(&p.b.counts->n_active, 1u)] = a;
        }
        __syncwarp();
    }
}

/* ---- rounds of mutually best pairs ---- */

/* Positive doubles as integers of the same order. */
static __device__ u64_t score_bits(double score) {
    union {
        double f;
        u64_t u;
    } bits;
    bits.f = score;
    return bits.u;
}

/* What the CPU takes from the best pair down: by score, then first rows. A round ends with a wait for
 * the grid, with one more where a chain was offered equal scores. */
static __device__ void match(const tm_fused_post_work_t &p, const cg::grid_group &grid) {
    const uint32_t n = p.b.counts->n_active;
    for (uint32_t round = 0;; round++) {
        u64_t *best = p.b.best_score + (size_t)(round % 2) * p.b.chains;
        u64_t *next_best = p.b.best_score + (size_t)((round + 1) % 2) * p.b.chains;
        uint32_t *from = p.b.best_from + (size_t)(round % 2) * p.b.chains;
        uint32_t *next_from = p.b.best_from + (size_t)((round + 1) % 2) * p.b.chains;
        bool chose = false;
        bool tied = false;
        TM_FUSED_POST_ALL(i, n) {
            const uint32_t a = p.b.active[i];
            const uint32_t n_to = p.b.has_next[a] ? 0 : p.b.n_partners[a];
            uint32_t choice = NONE;
            for (uint32_t k = n_to; k-- > 0;) {
                const uint32_t to = p.b.partners[(size_t)a * PARTNERS + k];
                const u64_t score = score_bits(p.b.scores[(size_t)a * PARTNERS + k]);
                if (!p.b.has_prev[to]) {
                    choice = k;
                    chose = true;
                    tied |= atomicMax(&best[to], score) == score;
                }
            }
            p.b.choice[a] = choice;
        }
        TM_FUSED_POST_ALL(a, p.b.counts->n_chains) {
            next_best[a] = 0;
            next_from[a] = NONE;
        }
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            p.b.counts->chosen[(round + 1) % 3] = p.b.counts->tied[(round + 1) % 3] = 0;
        }
        if (__syncthreads_or(chose) && threadIdx.x == 0) {
            atomicOr(&p.b.counts->chosen[round % 3], 1u);
        }
        if (__syncthreads_or(tied) && threadIdx.x == 0) {
            atomicOr(&p.b.counts->tied[round % 3], 1u);
        }
        grid.sync();
        if (*(volatile uint32_t *)&p.b.counts->chosen[round % 3] == 0) {
            break;
        }
        const bool ties = *(volatile uint32_t *)&p.b.counts->tied[round % 3] != 0;
        if (ties) { /* of equal scores the one that begins first */
            TM_FUSED_POST_ALL(i, n) {
                const uint32_t a = p.b.active[i];
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
        }
        TM_FUSED_POST_ALL(i, n) {
            const uint32_t a = p.b.active[i];
            const uint32_t k = p.b.choice[a];
            if (k == NONE) {
                continue;
            }
            const uint32_t to = p.b.partners[(size_t)a * PARTNERS + k];
            const double score = p.b.scores[(size_t)a * PARTNERS + k];
            if (best[to] == score_bits(score) && (!ties || from[to] == p.b.shape[a].first)) {
                const uint32_t end = p.b.rows[p.b.chain[a].y - 1];
                const uint32_t start = p.b.shape[to].first;
                p.b.has_next[a] = 1;
                p.b.has_prev[to] = 1;
                p.b.next[end] = start;
                p.b.prev[start] = end;
                p.b.logit[end] = (float)score;
            }
        }
        grid.sync();
    }
}

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS, TM_FUSED_POST_BLOCKS)
    join(const tm_fused_post_work_t p) {
    __shared__ tm_fused_post_exchange_t exchanges[TM_FUSED_POST_GROUPS];
    tm_fused_post_exchange_t *exchange = &exchanges[threadIdx.x / TM_FUSED_FIT_LANES];
    cg::grid_group grid = cg::this_grid();
    describe(p, exchange);
    grid.sync();
    place_cells(p);
    grid.sync();
    fill_cells(p);
    grid.sync();
    find_partners(p, exchange);
    grid.sync();
    match(p, grid);
}

/* ---- the host's part ---- */

cudaError_t tm_fused_post_join(const tm_fused_context_t *c, const tm_fused_post_work_t *work) {
    tm_fused_post_work_t p = *work;
    void *arguments[] = {&p};
    return cudaLaunchCooperativeKernel((const void *)join,
                                       dim3(tm_fused_post_blocks(c->processors)),
                                       dim3(TM_FUSED_POST_THREADS), arguments, 0, c->stream);
}
