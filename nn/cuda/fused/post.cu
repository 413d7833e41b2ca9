// SPDX-License-Identifier: Apache-2.0
#include <cooperative_groups.h>
#include <cub/device/device_scan.cuh>
#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>

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

/* ---- links and chains ---- */

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    clear(const tm_fused_post_work_t p) {
    TM_FUSED_POST_ALL(i, p.counts->n_points) {
        p.b.next[i] = p.b.prev[i] = NONE;
        p.b.sizes[i] = 0;
        p.b.worst[i] = ~0ull;
    }
}

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    take_links(const tm_fused_post_work_t p) {
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
static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    list_chains(const tm_fused_post_work_t p) {
    const uint32_t n = p.counts->n_points;
    for (uint32_t base = blockIdx.x * TM_FUSED_POST_THREADS; base < n;
         base += gridDim.x * TM_FUSED_POST_THREADS) {
        const uint32_t i = base + threadIdx.x;
        uint32_t length = 0;
        uint32_t n_doubtful = 0;
        if (i < n && p.rules.fit.present && (p.b.next[i] != NONE || p.b.prev[i] != NONE)) {
            p.b.place[i] = tm_fused_fit::place_of(p.rules, p.row_place[i]);
        }
        if (i < n && is_head(p, i)) {
            for (uint32_t row = i; row != NONE; row = p.b.next[row]) {
                length++;
                n_doubtful += p.b.next[row] != NONE && p.b.logit[row] < p.sure;
            }
        }
        uint32_t at = tm_fused_post_place(length, &p.b.counts->n_rows);
        uint32_t doubtful = tm_fused_post_place(n_doubtful, &p.b.counts->n_doubtful);
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
static __device__ bool fits(const tm_fused_post_work_t &p, uint2 window) {
    const uint32_t n = window.y - window.x;
    tm_fit_t fit;
    return n < SPLIT_POINTS_MIN ||
           tm_fused_fit::helix(p.rules, tm_fused_post_run(p, p.b.rows + window.x, n), NULL,
                               (double)p.rules.split.chi2, &fit);
}

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

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS, TM_FUSED_POST_COOPERATIVE_BLOCKS)
    split(const tm_fused_post_work_t p) {
    cg::grid_group grid = cg::this_grid();
    const uint32_t n = p.b.counts->n_doubtful;
    for (uint32_t round = 0; round < SPLIT_ROUNDS_MAX; round++) {
        TM_FUSED_POST_ALL(k, n) {
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
            p.b.counts->broken[(round + 1) % 3] = 0;
        }
        grid.sync();
        bool broke = false;
        TM_FUSED_POST_ALL(k, n) {
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
            atomicOr(&p.b.counts->broken[round % 3], 1u);
        }
        grid.sync();
        if (*(volatile uint32_t *)&p.b.counts->broken[round % 3] == 0) {
            break;
        }
    }
}

/* ---- candidates ---- */

/* Chains that are left and long enough, at their least rows. */
static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    measure(const tm_fused_post_work_t p) {
    uint32_t n_links = 0;
    TM_FUSED_POST_ALL(i, p.counts->n_points) {
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

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    write_tracks(const tm_fused_post_work_t p) {
    const uint32_t n = p.counts->n_points;
    TM_FUSED_POST_ALL(i, n + 1) {
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

static __global__ void __launch_bounds__(TM_FUSED_POST_THREADS)
    find_starts(const tm_fused_post_work_t p) {
    TM_FUSED_POST_ALL(t, p.counts->n_tracks) {
        const uint32_t begin = p.offsets[t];
        tm_fit_start_t s;
        if (!tm_fused_fit::start(
                p.rules, tm_fused_post_run(p, p.indices + begin, p.offsets[t + 1] - begin), &s) ||
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
        b->cells = tm_fused_take<uint32_t>(a, (size_t)capacity->events * TM_FUSED_POST_EVENT_CELLS);
        b->members = tm_fused_take<uint32_t>(a, chains);
        b->event_numbers = tm_fused_take<uint32_t>(a, capacity->tiles);
        b->scores = tm_fused_take<double>(a, chains * TM_FUSED_POST_PARTNERS);
        b->partners = tm_fused_take<uint32_t>(a, chains * TM_FUSED_POST_PARTNERS);
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

cudaError_t tm_fused_post(const tm_fused_context_t *c, const tm_fused_plan_t *plan,
                          const tm_fused_post_t *post) {
    const tm_pipeline_t *pipeline = c->pipeline;
    const size_t points = plan->capacity.points;
    const int blocks = TM_FUSED_POST_BLOCKS * c->processors;
    /* one cell more on each side than asked for, as on the CPU */
    const uint32_t around = (uint32_t)ceil((double)pipeline->tracks.join.dphi / (2 * TM_FUSED_PI) *
                                           TM_FUSED_POST_PHI_CELLS) +
                            1;
    tm_fused_post_work_t p = {};
    p.b = *post;
    p.rules = pipeline->tracks;
    p.counts = &plan->header->counts;
    p.tiles = plan->tiles;
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
    cudaError_t error = cudaMemsetAsync(post->counts, 0, sizeof *post->counts, c->stream);
    clear<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
    take_links<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
    list_chains<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
    error = launched(error);
    if (error == cudaSuccess && pipeline->tracks.split.present) {
        error = cudaLaunchCooperativeKernel((const void *)split,
                                            dim3(TM_FUSED_POST_COOPERATIVE_BLOCKS * c->processors),
                                            dim3(TM_FUSED_POST_THREADS), arguments, 0, c->stream);
    }
    if (error == cudaSuccess && pipeline->tracks.join.present) {
        error = tm_fused_post_join(c, &p);
    }
    if (error == cudaSuccess) {
        measure<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
        error = cudaGetLastError();
    }
    if (error == cudaSuccess) {
        size_t bytes = post->cub_bytes;
        error = add_up(post->cub, bytes, candidate_t{p.counts, post->sizes}, post->places,
                       plan->capacity.points + 1, c->stream);
    }
    if (error == cudaSuccess) {
        write_tracks<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
        if (pipeline->tracks.fit.present) {
            find_starts<<<blocks, TM_FUSED_POST_THREADS, 0, c->stream>>>(p);
        }
        error = cudaGetLastError();
    }
    return error;
}
