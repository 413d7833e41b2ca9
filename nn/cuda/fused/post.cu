// SPDX-License-Identifier: Apache-2.0
#include <cooperative_groups.h>
#include <cub/block/block_scan.cuh>

#include "nn/cuda/fused/post_parts.cuh"

namespace cg = cooperative_groups;

#define NONE TM_FUSED_POST_NONE

/* As in nn/tracks_chains.c, tracks_post.c and tracks_join.c. */
#define SPLIT_ROUNDS_MAX 8
#define SPLIT_POINTS_MIN 4
#define START_MAX_MM 1e6

typedef unsigned long long u64_t;

static __device__ double sigmoid(float logit) {
    return 1 / (1 + exp(-(double)logit));
}

typedef cub::BlockScan<u64_t, TM_FUSED_POST_THREADS> scan_t;

static __device__ u64_t add(u64_t a, u64_t b) {
    return a + b;
}

/* ---- links and chains ---- */

static __device__ void clear(const tm_fused_post_work_t &p) {
    TM_FUSED_POST_ALL(i, p.counts->n_points) {
        p.b.next[i] = p.b.prev[i] = NONE;
        p.b.logit[i] = 0;
        p.b.sizes[i] = 0;
        p.b.worst[i] = ~0ull;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *p.b.counts = {};
    }
    if (!p.rules.join.present) {
        return;
    }
    TM_FUSED_POST_ALL(i, p.counts->n_events * TM_FUSED_POST_EVENT_CELLS) {
        p.b.cells[i] = 0;
    }
    TM_FUSED_POST_ALL(i, p.counts->n_points / TM_FIT_POINTS_MIN + 1) {
        p.b.has_next[i] = p.b.has_prev[i] = 0;
        p.b.best_score[i] = 0;
        p.b.best_from[i] = NONE;
    }
}

static __device__ void take_links(const tm_fused_post_work_t &p) {
    const tm_fused_counts_t *c = p.counts;
    const bool usable = c->flags == 0 && c->bad_feature == 0 && c->bad_row == 0;
    TM_FUSED_POST_ALL(k, usable ? min(c->n_links, p.links) : 0) {
        const uint32_t from = p.link_src[k];
        const uint32_t to = p.link_dst[k];
        p.b.next[from] = to;
        p.b.prev[to] = from;
        p.b.logit[from] = p.link_logits[k];
    }
}

static __device__ bool is_head(const tm_fused_post_work_t &p, uint32_t row) {
    return p.b.next[row] != NONE && p.b.prev[row] == NONE;
}

/* Places of the linked points, and chains one behind the other. */
static __device__ void list_chains(const tm_fused_post_work_t &p) {
    __shared__ typename scan_t::TempStorage memory;
    __shared__ u64_t base;
    const uint32_t n = p.counts->n_points;
    for (uint32_t first = blockIdx.x * TM_FUSED_POST_THREADS; first < n;
         first += gridDim.x * TM_FUSED_POST_THREADS) {
        const uint32_t i = first + threadIdx.x;
        uint32_t length = 0;
        if (i < n && p.rules.fit.present && (p.b.next[i] != NONE || p.b.prev[i] != NONE)) {
            p.b.place[i] = tm_fused_fit::place_of(p.rules, p.row_place[i]);
        }
        if (i < n && is_head(p, i)) {
            for (uint32_t row = i; row != NONE; row = p.b.next[row]) {
                length++;
            }
        }
        u64_t before = 0;
        u64_t total = 0;
        scan_t(memory).ExclusiveScan(length > 0 ? 1ull << 32 | length : 0ull, before, (u64_t)0, add,
                                     total);
        if (threadIdx.x == 0) {
            base = total > 0 ? atomicAdd(&p.b.counts->listed, total) : 0;
        }
        __syncthreads();
        before += base;
        __syncthreads();
        if (length > 0) {
            uint32_t at = (uint32_t)before;
            p.b.listed[before >> 32] = make_uint2(at, at + length);
            for (uint32_t row = i; row != NONE; at++) {
                const uint32_t next = p.b.next[row];
                p.b.rows[at] = row;
                p.b.last[at] = next == NONE;
                row = next;
            }
        }
    }
}

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS, TM_FUSED_POST_BLOCKS)
    find_chains(const tm_fused_post_work_t p) {
    cg::grid_group grid = cg::this_grid();
    clear(p);
    grid.sync();
    take_links(p);
    grid.sync();
    list_chains(p);
}

/* ---- split: a warp per chain ---- */

/* The places around the link behind place `at` that tell whether it fits. */
static __device__ uint2 window_of(const tm_fused_post_work_t &p, uint32_t at) {
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

/* Whether the windows of the lanes that ask hold no points of one helix; a group per window. */
static __device__ bool is_misfit(const tm_fused_post_work_t &p, bool asks, uint2 window,
                                 tm_fused_post_exchange_t *exchange) {
    const uint32_t lane = tm_fused_post_lane();
    const uint32_t group = lane / TM_FUSED_FIT_LANES;
    bool misfit = false;
    uint32_t asking = __ballot_sync(TM_GPU_WARP_MASK, asks);
    while (asking != 0) {
        const uint32_t before = (uint32_t)__popc(asking & ((1u << lane) - 1));
        uint32_t its = 0; /* whom the group serves */
        uint32_t rest = asking;
        for (uint32_t k = 0; k < TM_FUSED_FIT_GROUPS; k++, rest &= rest - 1) {
            its = k == group ? rest : its;
        }
        const int from = its != 0 ? __ffs((int)its) - 1 : 0;
        const uint32_t begin = __shfl_sync(TM_GPU_WARP_MASK, window.x, from);
        const uint32_t end = __shfl_sync(TM_GPU_WARP_MASK, window.y, from);
        const bool judged = its != 0 && end - begin >= SPLIT_POINTS_MIN;
        tm_fit_t fit = {};
        const bool fits = tm_fused_fit::group_helix(
            p.rules, tm_fused_post_run(p, p.b.rows + begin, judged ? end - begin : 0), NULL,
            (double)p.rules.split.chi2, exchange, &fit);
        const uint32_t misfits = __ballot_sync(TM_GPU_WARP_MASK, judged && !fits);
        if ((asking >> lane & 1) != 0 && before < TM_FUSED_FIT_GROUPS) {
            misfit = (misfits >> before * TM_FUSED_FIT_LANES & 1) != 0;
        }
        asking = rest;
    }
    return misfit;
}

static __device__ bool is_doubtful(const tm_fused_post_work_t &p, uint2 chain, uint32_t at) {
    return at + 1 < chain.y && !p.b.last[at] && p.b.logit[p.b.rows[at]] < p.sure;
}

/* Breaks the worst link of each stretch of the chain that does not fit; whether there was one. */
static __device__ bool split_once(const tm_fused_post_work_t &p, uint2 chain, uint32_t round,
                                  tm_fused_post_exchange_t *exchange) {
    bool misfits = false;
    for (uint32_t base = chain.x; base + 1 < chain.y; base += TM_GPU_WARP) {
        const uint32_t at = base + tm_fused_post_lane();
        const bool doubtful = is_doubtful(p, chain, at);
        uint2 window = make_uint2(0, 0);
        bool asks = false;
        if (doubtful) {
            window = window_of(p, at);
            const uint2 judged = round > 0 ? p.b.window[at] : make_uint2(0, 0);
            asks = window.x != judged.x || window.y != judged.y;
        }
        const bool misfit = is_misfit(p, asks, window, exchange);
        if (asks) {
            p.b.window[at] = window;
            p.b.stretch[at] = misfit ? window.x : NONE;
        }
        if (doubtful && p.b.stretch[at] != NONE) {
            misfits = true;
            uint32_t begin = window.x;
            while (begin > chain.x && !p.b.last[begin - 1]) {
                begin--;
            }
            p.b.stretch[at] = begin;
            atomicMin(&p.b.worst[begin], split_key(round, p.b.logit[p.b.rows[at]], at));
        }
    }
    if (!__any_sync(TM_GPU_WARP_MASK, misfits)) {
        return false;
    }
    __syncwarp();
    for (uint32_t base = chain.x; base + 1 < chain.y; base += TM_GPU_WARP) {
        const uint32_t at = base + tm_fused_post_lane();
        if (!is_doubtful(p, chain, at) || p.b.stretch[at] == NONE) {
            continue;
        }
        const uint32_t row = p.b.rows[at];
        if (p.b.worst[p.b.stretch[at]] == split_key(round, p.b.logit[row], at)) {
            p.b.last[at] = 1;
            p.b.prev[p.b.next[row]] = NONE;
            p.b.next[row] = NONE;
        }
    }
    __syncwarp();
    return true;
}

/* What is left of the chain, for join. */
static __device__ void list_joinable(const tm_fused_post_work_t &p, uint2 chain) {
    const uint32_t lane = tm_fused_post_lane();
    for (uint32_t base = chain.x; base < chain.y; base += TM_GPU_WARP) {
        const uint32_t at = base + lane;
        uint32_t end = at;
        if (at < chain.y && (at == chain.x || p.b.last[at - 1])) {
            while (!p.b.last[end++]) {
            }
        }
        const bool joinable = end - at >= TM_FIT_POINTS_MIN;
        const uint32_t all = __ballot_sync(TM_GPU_WARP_MASK, joinable);
        uint32_t to = 0;
        if (lane == 0 && all != 0) {
            to = atomicAdd(&p.b.counts->n_chains, (uint32_t)__popc(all));
        }
        to = __shfl_sync(TM_GPU_WARP_MASK, to, 0);
        if (joinable) {
            p.b.chain[to + __popc(all & ((1u << lane) - 1))] = make_uint2(at, end);
        }
    }
}

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS, TM_FUSED_POST_BLOCKS)
    split(const tm_fused_post_work_t p) {
    __shared__ tm_fused_post_exchange_t exchange[TM_FUSED_POST_GROUPS];
    const uint32_t n = (uint32_t)(p.b.counts->listed >> 32);
    for (uint32_t k = tm_fused_post_warp(); k < n; k += tm_fused_post_warps()) {
        const uint2 chain = p.b.listed[k];
        for (uint32_t round = 0; p.rules.split.present && round < SPLIT_ROUNDS_MAX; round++) {
            if (!split_once(p, chain, round, &exchange[threadIdx.x / TM_FUSED_FIT_LANES])) {
                break;
            }
        }
        if (p.rules.join.present) {
            list_joinable(p, chain);
        }
    }
}

/* ---- candidates ---- */

/* Chains that are left and long enough, at their least rows. */
static __device__ void measure(const tm_fused_post_work_t &p) {
    uint32_t n_links = 0;
    TM_FUSED_POST_ALL(i, p.counts->n_points) {
        if (!is_head(p, i)) {
            continue;
        }
        uint32_t length = 1;
        uint32_t least = i;
        double sum = 0;
        float logit = p.b.logit[i];
        for (uint32_t row = p.b.next[i]; row != NONE; length++) {
            const float next_logit = p.b.logit[row]; /* the last one's is not used */
            const uint32_t next = p.b.next[row];
            sum += sigmoid(logit); /* while they are on their way */
            least = min(least, row);
            logit = next_logit;
            row = next;
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
static __device__ u64_t candidate_at(const tm_fused_post_work_t &p, uint32_t row, uint32_t end) {
    const uint32_t size = row < end ? p.b.sizes[row] : 0;
    return size > 0 ? 1ull << 32 | size : 0;
}

/* The block's part of n rows. */
static __device__ uint2 piece_of(uint32_t n) {
    const uint32_t length = (n + gridDim.x - 1) / gridDim.x;
    const uint32_t begin = min(blockIdx.x * length, n);
    return make_uint2(begin, min(begin + length, n));
}

static __device__ void write_track(const tm_fused_post_work_t &p, uint32_t least, u64_t before) {
    const uint32_t track = (uint32_t)(before >> 32);
    uint32_t at = (uint32_t)before;
    p.offsets[track] = at;
    p.track_scores[track] = p.b.means[least];
    for (uint32_t row = p.b.heads[least]; row != NONE; row = p.b.next[row]) {
        p.indices[at++] = row;
    }
}

/* In the order of their least rows. */
static __device__ void write_tracks(const tm_fused_post_work_t &p, const cg::grid_group &grid) {
    __shared__ typename scan_t::TempStorage memory;
    const uint2 piece = piece_of(p.counts->n_points);
    u64_t mine = 0;
    u64_t before = 0;
    u64_t total = 0;
    for (uint32_t i = piece.x + threadIdx.x; i < piece.y; i += TM_FUSED_POST_THREADS) {
        mine += candidate_at(p, i, piece.y);
    }
    scan_t(memory).ExclusiveScan(mine, before, (u64_t)0, add, total);
    if (threadIdx.x == 0) {
        p.b.block_sums[blockIdx.x] = total;
    }
    grid.sync();
    mine = 0;
    for (uint32_t b = threadIdx.x; b < blockIdx.x; b += TM_FUSED_POST_THREADS) {
        mine += p.b.block_sums[b];
    }
    u64_t base = 0;
    scan_t(memory).ExclusiveScan(mine, before, (u64_t)0, add, base);
    __syncthreads();
    for (uint32_t first = piece.x; first < piece.y; first += TM_FUSED_POST_THREADS) {
        const uint32_t i = first + threadIdx.x;
        const u64_t candidate = candidate_at(p, i, piece.y);
        scan_t(memory).ExclusiveScan(candidate, before, (u64_t)0, add, total);
        if (candidate != 0) {
            write_track(p, i, base + before);
        }
        base += total;
        __syncthreads();
    }
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
        p.offsets[base >> 32] = (uint32_t)base;
        p.counts->n_tracks = (uint32_t)(base >> 32);
        p.counts->n_indices = (uint32_t)base;
    }
}

static __device__ void find_starts(const tm_fused_post_work_t &p) {
    __shared__ tm_fused_post_exchange_t exchange[TM_FUSED_POST_GROUPS];
    const uint32_t n = p.counts->n_tracks;
    for (uint32_t first = tm_fused_post_warp() * TM_FUSED_FIT_GROUPS; first < n;
         first += tm_fused_post_warps() * TM_FUSED_FIT_GROUPS) {
        const uint32_t t = first + tm_fused_post_lane() / TM_FUSED_FIT_LANES;
        const uint32_t begin = t < n ? p.offsets[t] : 0;
        const uint32_t end = t < n ? p.offsets[t + 1] : 0;
        tm_fit_start_t s = {};
        if (!tm_fused_fit::group_start(p.rules,
                                       tm_fused_post_run(p, p.indices + begin, end - begin),
                                       &exchange[threadIdx.x / TM_FUSED_FIT_LANES], &s) ||
            !(fabs(s.d0) < START_MAX_MM && fabs(s.z0) < START_MAX_MM)) {
            s = {};
        }
        if (t < n && threadIdx.x % TM_FUSED_FIT_LANES == 0) {
            p.b.pt[t] = (float)s.pt;
            p.b.phi[t] = (float)s.phi;
            p.b.eta[t] = (float)s.eta;
            p.b.d0[t] = (float)s.d0;
            p.b.z0[t] = (float)s.z0;
            p.b.charge[t] = (int8_t)s.charge;
        }
    }
}

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS, TM_FUSED_POST_BLOCKS)
    find_candidates(const tm_fused_post_work_t p) {
    cg::grid_group grid = cg::this_grid();
    measure(p);
    grid.sync();
    write_tracks(p, grid);
    if (p.rules.fit.present) {
        grid.sync();
        find_starts(p);
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
    b->listed = tm_fused_take<uint2>(a, n / 2 + 1);
    b->rows = tm_fused_take<uint32_t>(a, n);
    b->last = tm_fused_take<uint8_t>(a, n);
    b->window = tm_fused_take<uint2>(a, n);
    b->stretch = tm_fused_take<uint32_t>(a, n);
    b->worst = tm_fused_take<u64_t>(a, n);
    if (pipeline->tracks.join.present) {
        b->chains = (uint32_t)chains;
        b->chain = tm_fused_take<uint2>(a, chains);
        b->shape = tm_fused_take<tm_fused_shape_t>(a, chains);
        b->cells = tm_fused_take<uint32_t>(a, (size_t)capacity->events * TM_FUSED_POST_EVENT_CELLS);
        b->members = tm_fused_take<uint32_t>(a, chains);
        b->scores = tm_fused_take<double>(a, chains * TM_FUSED_POST_PARTNERS);
        b->partners = tm_fused_take<uint32_t>(a, chains * TM_FUSED_POST_PARTNERS);
        b->active = tm_fused_take<uint32_t>(a, chains);
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
    b->block_sums = tm_fused_take<u64_t>(a, TM_FUSED_POST_BLOCKS_MAX);
    if (pipeline->tracks.fit.present) {
        b->place = tm_fused_take<tm_fit_point_t>(a, n);
        b->pt = tm_fused_take<float>(a, n);
        b->phi = tm_fused_take<float>(a, n);
        b->eta = tm_fused_take<float>(a, n);
        b->d0 = tm_fused_take<float>(a, n);
        b->z0 = tm_fused_take<float>(a, n);
        b->charge = tm_fused_take<int8_t>(a, n);
    }
    return cudaSuccess;
}

cudaError_t tm_fused_post(const tm_fused_context_t *c, const tm_fused_plan_t *plan,
                          const tm_fused_post_t *post) {
    const tm_pipeline_t *pipeline = c->pipeline;
    const size_t points = plan->capacity.points;
    const uint32_t blocks = tm_fused_post_blocks(c->processors);
    /* one cell more on each side than asked for, as on the CPU */
    const uint32_t around = (uint32_t)ceil((double)pipeline->tracks.join.dphi / (2 * TM_FUSED_PI) *
                                           TM_FUSED_POST_PHI_CELLS) +
                            1;
    tm_fused_post_work_t p = {};
    p.b = *post;
    p.rules = pipeline->tracks;
    p.counts = &plan->header->counts;
    p.event_rows = plan->header->event_rows;
    p.row_place = plan->row_place;
    p.rho = plan->row_rho;
    p.link_src = plan->link_src;
    p.link_dst = plan->link_dst;
    p.link_logits = plan->link_logits;
    p.links = plan->capacity.kept;
    p.around = around < TM_FUSED_POST_PHI_CELLS / 2 ? around : TM_FUSED_POST_PHI_CELLS / 2;
    p.sure = pipeline->tracks.split.present
                 ? (float)tm_gpu_least_logit(pipeline->tracks.split.score)
                 : -INFINITY;
    p.offsets = plan->result;
    p.track_scores = (float *)(plan->result + points + 1);
    p.indices = plan->result + 2 * points + 1;
    void *arguments[] = {&p};
    cudaError_t error =
        cudaLaunchCooperativeKernel((const void *)find_chains, dim3(blocks),
                                    dim3(TM_FUSED_POST_THREADS), arguments, 0, c->stream);
    if (error == cudaSuccess && (pipeline->tracks.split.present || pipeline->tracks.join.present)) {
        split<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess && pipeline->tracks.join.present) {
        error = tm_fused_post_join(c, &p);
    }
    if (error == cudaSuccess) {
        error = cudaLaunchCooperativeKernel((const void *)find_candidates, dim3(blocks),
                                            dim3(TM_FUSED_POST_THREADS), arguments, 0, c->stream);
    }
    return error;
}
