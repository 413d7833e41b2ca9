// SPDX-License-Identifier: Apache-2.0
/*
 * The GPU's steps behind the track builder against nn/tracks_post.h on the same links: the same
 * candidates, start values to START_LIMIT.
 *
 *   test_fused_post                 random tracks, and events of tests/data with the standard model
 *   test_fused_post bench [TRACKS]  ms per batch of one event of so many random tracks (12000)
 *
 * Exits with 77 and says why where there is no GPU. TM_SEED repeats a run. TM_DATA names the folder of
 * the events and TM_MODEL the model file, if not tests/data and weights/standard.safetensors.
 */
#include <algorithm>
#include <math.h>
#include <numeric>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <vector>

#include "nn/cuda/fused/post.cuh"
#include "plain.cuh"

extern "C" {
#include "client/event_file.h"
#include "nn/pipeline.h"
}

#define PI 3.14159265358979
#define SCORE_LIMIT 1e-6
#define START_LIMIT 1e-5 /* relative */
#define START_FLOOR 0.1  /* of what: values are not compared to less than this times START_LIMIT */
#define SPARE 1000       /* room that a batch does not need */
#define LAYERS 12
#define BENCH_RUNS 50

#define MUST(call) \
    do { \
        tm_status_t status_ = (call); \
        if (status_ != TM_OK) { \
            printf("%s:%d: %s\n", __FILE__, __LINE__, err.text); \
            exit(1); \
        } \
    } while (0)

/* ---- events ---- */

struct event_t {
    std::vector<float> r, phi, z, rho;
    std::vector<uint32_t> src, dst;
    std::vector<float> logits;
};

static bool outward(const event_t &e, uint32_t a, uint32_t b) {
    return e.rho[a] < e.rho[b] || (e.rho[a] == e.rho[b] && a < b);
}

static void link(event_t *e, uint32_t a, uint32_t b, double logit) {
    if (outward(*e, a, b)) {
        e->src.push_back(a);
        e->dst.push_back(b);
        e->logits.push_back((float)logit);
    }
}

/* What makes an event hard. */
struct style_t {
    double gaps;  /* share of links that are missing */
    double wrong; /* … that lead to another track */
    double twins; /* share of tracks that lie where another one does: equal scores */
    bool rounded; /* logits of few values: ties */
};

static const double layer_r[LAYERS] = {34, 70, 116, 172, 260, 320, 360, 500, 580, 660, 820, 1020};

/* Tracks from near the origin through layers, their points in any order. */
static event_t random_event(uint32_t n_tracks, const style_t &style) {
    const uint32_t n = n_tracks * LAYERS;
    event_t e;
    const std::vector<uint32_t> row = shuffled(n);
    for (std::vector<float> *column : {&e.r, &e.phi, &e.z, &e.rho}) {
        column->resize(n);
    }
    for (uint32_t t = 0; t < n_tracks; t++) {
        const bool twin = t > 0 && uniform() < style.twins;
        const double radius = 1e3 * exp(4 * uniform()) * (uniform() < 0.5 ? -1 : 1);
        const double phi = 2 * PI * uniform();
        const double slope = sinh(4 * uniform() - 2);
        const double z0 = 40 * normal();
        for (uint32_t k = 0; k < LAYERS; k++) {
            const uint32_t i = row[t * LAYERS + k];
            const uint32_t other = row[(t > 0 ? t - 1 : 0) * LAYERS + k];
            const double half = asin(layer_r[k] / (2 * radius));
            const double noise = k < 4 ? 0.02 : 0.05;
            e.r[i] = (float)layer_r[k];
            e.phi[i] = (float)remainder(phi + half + noise * normal() / layer_r[k], 2 * PI);
            e.z[i] = (float)(z0 + 2 * radius * half * slope + 5 * noise * normal());
            if (twin) {
                e.phi[i] = e.phi[other];
                e.z[i] = e.z[other];
            }
            e.rho[i] = sqrtf(e.r[i] * e.r[i] + e.z[i] * e.z[i]);
        }
    }
    std::vector<uint32_t> to(n_tracks);
    for (uint32_t k = 0; k + 1 < LAYERS; k++) {
        std::iota(to.begin(), to.end(), 0);
        for (uint32_t t = 0; t < n_tracks; t++) {
            if (uniform() < style.wrong) {
                std::swap(to[t], to[below(n_tracks)]);
            }
        }
        for (uint32_t t = 0; t < n_tracks; t++) {
            double logit = to[t] == t ? 3 + 1.5 * normal() : 1.5 * normal();
            logit = style.rounded ? rint(logit) : logit;
            if (uniform() >= style.gaps) {
                link(&e, row[t * LAYERS + k], row[to[t] * LAYERS + k + 1], logit);
            }
        }
    }
    return e;
}

/* The pipeline's own links: best edges, taken from the best down. */
static event_t event_of_model(const tm_pipeline_t *pipeline, const tm_event_file_t *file) {
    tm_error_t err = {};
    tm_device_t *cpu = NULL;
    tm_points_t points = {};
    tm_edges_t edges = {};
    tm_edges_t kept = {};
    const float *features = NULL;
    const float *embedding = NULL;
    const float *ignored = NULL;
    const float *logits = NULL;
    event_t e;
    MUST(tm_stages_cpu.open(pipeline, 0, &cpu, &err));
    const tm_stages_t *s = cpu->stages;
    MUST(s->features(cpu, &file->columns, file->n_points, &points, &features, &err));
    MUST(s->embed(cpu, file->n_points, features, &embedding, &err));
    MUST(s->radius(cpu, &points, embedding, &edges, &err));
    MUST(s->filter(cpu, &points, features, &edges, &kept, &ignored, &err));
    MUST(s->gnn(cpu, &points, features, &kept, &logits, &err));
    e.r.assign(points.r, points.r + points.n);
    e.phi.assign(points.phi, points.phi + points.n);
    e.z.assign(points.z, points.z + points.n);
    e.rho.assign(points.rho, points.rho + points.n);
    std::vector<uint32_t> order(kept.n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [=](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    std::vector<bool> is_source(points.n);
    std::vector<bool> is_target(points.n);
    for (uint32_t i : order) {
        const uint32_t a = kept.src[i];
        const uint32_t b = kept.dst[i];
        if ((double)logits[i] > tm_gpu_least_logit(pipeline->tracks.cut) && !is_source[a] &&
            !is_target[b]) {
            is_source[a] = is_target[b] = true;
            link(&e, a, b, logits[i]);
        }
    }
    cpu->stages->close(&cpu);
    return e;
}

/* ---- a batch on the GPU ---- */

struct answer_t {
    tm_fused_counts_t counts;
    std::vector<uint32_t> offsets, indices;
    std::vector<float> scores, start[5]; /* pt, phi, eta, d0, z0 */
    std::vector<int8_t> charge;
};

/* A vector's own type must have a name. */
struct tile_t {
    tm_fused_tile_t tile;
};

template <typename T> static void upload(const void *to, const std::vector<T> &from) {
    if (!from.empty()) {
        CUDA(cudaMemcpy((void *)to, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice));
    }
}

template <typename T> static std::vector<T> download(const T *from, size_t n) {
    std::vector<T> to(n);
    if (n > 0) {
        CUDA(cudaMemcpy(to.data(), from, n * sizeof(T), cudaMemcpyDeviceToHost));
    }
    return to;
}

class batch_t {
  public:
    batch_t(const tm_pipeline_t *pipeline, const std::vector<event_t> &events, uint32_t flags) {
        int processors = 0;
        CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
        CUDA(cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking));
        context.pipeline = pipeline;
        context.processors = processors;
        uint32_t *event_row = header.event_rows;
        for (const event_t &e : events) {
            const uint32_t first = (uint32_t)place.size();
            *event_row++ = first;
            const uint32_t n = (uint32_t)e.r.size();
            for (uint32_t i = 0; i < n; i++) {
                place.push_back(make_float4(e.r[i], e.phi[i], e.z[i], 0));
                rho.push_back(e.rho[i]);
            }
            for (size_t k = 0; k < e.src.size(); k++) {
                src.push_back(first + e.src[k]);
                dst.push_back(first + e.dst[k]);
                logits.push_back(e.logits[k]);
            }
        }
        *event_row = (uint32_t)place.size();
        header.counts.n_points = (uint32_t)place.size();
        header.counts.n_events = (uint32_t)events.size();
        header.counts.n_links = (uint32_t)src.size();
        header.counts.flags = flags;
        tm_fused_arena_t arena = {};
        lay_out(&arena);
        bytes = arena.used;
        CUDA(cudaMalloc(&arena.base, bytes));
        base = arena.base;
        arena.used = 0;
        lay_out(&arena);
        capture();
    }
    ~batch_t() {
        (void)cudaGraphExecDestroy(graph);
        (void)cudaFree(base);
        (void)cudaStreamDestroy(context.stream);
    }
    batch_t(const batch_t &) = delete;
    batch_t &operator=(const batch_t &) = delete;

    /* Links in another order. */
    void shuffle() {
        for (uint32_t k = (uint32_t)src.size(); k-- > 1;) {
            const uint32_t other = below(k + 1);
            std::swap(src[k], src[other]);
            std::swap(dst[k], dst[other]);
            std::swap(logits[k], logits[other]);
        }
    }
    /* Memory holds what fill says before the upload. */
    void prepare(int fill) {
        CUDA(cudaMemsetAsync(base, fill, bytes, context.stream));
        CUDA(cudaStreamSynchronize(context.stream));
        CUDA(cudaMemcpy(plan.header, &header, sizeof header, cudaMemcpyHostToDevice));
        upload(plan.row_place, place);
        upload(plan.row_rho, rho);
        upload(plan.link_src, src);
        upload(plan.link_dst, dst);
        upload(plan.link_logits, logits);
    }
    void run() {
        CUDA(cudaGraphLaunch(graph, context.stream));
        CUDA(cudaStreamSynchronize(context.stream));
    }
    answer_t answer() const {
        answer_t a;
        const size_t points = plan.capacity.points;
        CUDA(cudaMemcpy(&a.counts, &plan.header->counts, sizeof a.counts, cudaMemcpyDeviceToHost));
        if (a.counts.n_tracks > points || a.counts.n_indices > points) {
            FAIL("%u candidates of %u points", a.counts.n_tracks, a.counts.n_indices);
            exit(1);
        }
        a.offsets = download(plan.result, a.counts.n_tracks + 1);
        a.scores = download((const float *)(plan.result + points + 1), a.counts.n_tracks);
        a.indices = download(plan.result + 2 * points + 1, a.counts.n_indices);
        const float *const starts[] = {post.pt, post.phi, post.eta, post.d0, post.z0};
        for (int k = 0; k < 5 && post.pt; k++) {
            a.start[k] = download(starts[k], a.counts.n_tracks);
        }
        if (post.pt) {
            a.charge = download(post.charge, a.counts.n_tracks);
        }
        return a;
    }

  private:
    void lay_out(tm_fused_arena_t *a) {
        plan = {};
        plan.capacity.points = (uint32_t)place.size() + SPARE;
        plan.capacity.events = header.counts.n_events;
        plan.capacity.kept = (uint32_t)src.size() + SPARE;
        plan.header = tm_fused_take<tm_fused_header_t>(a, 1);
        plan.row_place = tm_fused_take<float4>(a, plan.capacity.points);
        plan.row_rho = tm_fused_take<float>(a, plan.capacity.points);
        plan.link_src = tm_fused_take<uint32_t>(a, plan.capacity.kept);
        plan.link_dst = tm_fused_take<uint32_t>(a, plan.capacity.kept);
        plan.link_logits = tm_fused_take<float>(a, plan.capacity.kept);
        plan.result = tm_fused_take<uint32_t>(a, 3 * (size_t)plan.capacity.points + 1);
        CUDA(tm_fused_post_plan(context.pipeline, &plan.capacity, a, &post));
    }
    void capture() {
        cudaGraph_t captured = NULL;
        CUDA(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeThreadLocal));
        CUDA(tm_fused_post(&context, &plan, &post));
        CUDA(cudaStreamEndCapture(context.stream, &captured));
        CUDA(cudaGraphInstantiate(&graph, captured, 0));
        CUDA(cudaGraphDestroy(captured));
    }

    tm_fused_context_t context = {};
    tm_fused_plan_t plan = {};
    tm_fused_post_t post = {};
    tm_fused_header_t header = {};
    std::vector<float4> place;
    std::vector<float> rho, logits;
    std::vector<uint32_t> src, dst;
    cudaGraphExec_t graph = NULL;
    char *base = NULL;
    size_t bytes = 0;
};

/* ---- comparison ---- */

static bool same_start(double a, double b) {
    return fabs(a - b) <= START_LIMIT * std::max(fabs(b), START_FLOOR);
}

static void compare_event(const char *what, const answer_t &gpu, uint32_t first_track,
                          uint32_t first_row, const tm_tracks_t *want) {
    for (uint32_t t = 0; t < want->n_tracks; t++) {
        const uint32_t at = gpu.offsets[first_track + t];
        const uint32_t n = gpu.offsets[first_track + t + 1] - at;
        bool same = n == want->offsets[t + 1] - want->offsets[t];
        for (uint32_t k = 0; k < n && same; k++) {
            same = gpu.indices[at + k] == first_row + want->indices[want->offsets[t] + k];
        }
        if (!same) {
            FAIL("%s: candidate %u has other points", what, t);
            return;
        }
        if (fabs((double)gpu.scores[first_track + t] - (double)want->scores[t]) > SCORE_LIMIT) {
            FAIL("%s: candidate %u: score %g, not %g", what, t, (double)gpu.scores[first_track + t],
                 (double)want->scores[t]);
        }
        if (!want->starts.charge) {
            continue;
        }
        const float *const starts[] = {want->starts.pt, want->starts.phi, want->starts.eta,
                                       want->starts.d0, want->starts.z0};
        if (gpu.charge[first_track + t] != want->starts.charge[t]) {
            FAIL("%s: candidate %u: charge %d, not %d", what, t, gpu.charge[first_track + t],
                 want->starts.charge[t]);
        }
        for (int k = 0; k < 5; k++) {
            if (!same_start((double)gpu.start[k][first_track + t], (double)starts[k][t])) {
                FAIL("%s: candidate %u: start value %d is %.9g, not %.9g", what, t, k,
                     (double)gpu.start[k][first_track + t], (double)starts[k][t]);
            }
        }
    }
}

/* The CPU's answer event by event; returns the links that are left. */
static uint64_t compare(const char *what, const tm_pipeline_t *pipeline,
                        const std::vector<event_t> &events, const answer_t &gpu) {
    tm_error_t err = {};
    tm_post_t *post = tm_post_new();
    uint32_t track = 0;
    uint32_t row = 0;
    uint64_t all_links = 0;
    for (const event_t &e : events) {
        tm_tracks_t want = {};
        uint64_t n_links = 0;
        const tm_points_t points = {(uint32_t)e.r.size(), e.r.data(), e.phi.data(),
                                    e.z.data(),           NULL,       e.rho.data()};
        const tm_links_t links = {(uint32_t)e.src.size(), e.src.data(), e.dst.data(),
                                  e.logits.data()};
        MUST(tm_post_run(post, pipeline, &points, &links, 1, NULL, &want, &n_links, &err));
        if (track + want.n_tracks > gpu.counts.n_tracks) {
            FAIL("%s: %u candidates are too few", what, gpu.counts.n_tracks);
        } else {
            compare_event(what, gpu, track, row, &want);
        }
        all_links += n_links;
        track += want.n_tracks;
        row += points.n;
        tm_tracks_clear(&want);
    }
    if (track != gpu.counts.n_tracks) {
        FAIL("%s: %u candidates, not %u", what, gpu.counts.n_tracks, track);
    }
    if (all_links != gpu.counts.n_track_edges) {
        FAIL("%s: %u links, not %llu", what, gpu.counts.n_track_edges,
             (unsigned long long)all_links);
    }
    tm_post_destroy(&post);
    return all_links;
}

static bool same_bytes(const answer_t &a, const answer_t &b) {
    bool same = a.offsets == b.offsets && a.indices == b.indices && a.charge == b.charge &&
                a.scores.size() == b.scores.size() &&
                memcmp(a.scores.data(), b.scores.data(), a.scores.size() * sizeof(float)) == 0;
    for (int k = 0; k < 5 && same; k++) {
        same = memcmp(a.start[k].data(), b.start[k].data(), a.start[k].size() * sizeof(float)) == 0;
    }
    return same;
}

/* Against the CPU, then once more with other memory and links in another order. */
static uint64_t check(const char *what, const tm_pipeline_t *pipeline,
                      const std::vector<event_t> &events) {
    batch_t batch(pipeline, events, 0);
    batch.prepare(0xff);
    batch.run();
    const answer_t once = batch.answer();
    const uint64_t n_links = compare(what, pipeline, events, once);
    batch.shuffle();
    batch.prepare(0x5a);
    batch.run();
    if (!same_bytes(once, batch.answer())) {
        FAIL("%s: not the same bytes again", what);
    }
    return n_links;
}

/* ---- tests ---- */

enum { SPLIT = 1, JOIN = 2, SELECT = 4, FIT = 8 };

static tm_pipeline_t with_steps(const tm_pipeline_t *pipeline, int steps) {
    tm_pipeline_t p = *pipeline;
    p.tracks.split.present = p.tracks.split.present && steps & SPLIT;
    p.tracks.join.present = p.tracks.join.present && steps & JOIN;
    p.tracks.select.points = steps & SELECT ? p.tracks.select.points : 0;
    p.tracks.fit.present = p.tracks.fit.present && steps & FIT;
    return p;
}

static const style_t STYLES[] = {{0.1, 0.1, 0, false},
                                 {0.3, 0.02, 0, true},
                                 {0.2, 0.2, 0.5, true},
                                 {0, 0, 0, false},
                                 {0.02, 0.6, 0.1, false}};

/* Each step on its own, and all together. */
static void test_steps(const tm_pipeline_t *pipeline) {
    const tm_pipeline_t none = with_steps(pipeline, FIT);
    const tm_pipeline_t split = with_steps(pipeline, FIT | SPLIT);
    const tm_pipeline_t join = with_steps(pipeline, FIT | JOIN);
    const tm_pipeline_t select = with_steps(pipeline, SELECT);
    uint64_t n_split = 0;
    uint64_t n_joined = 0;
    uint64_t n_dropped = 0;
    for (const style_t &style : STYLES) {
        const std::vector<event_t> events = {random_event(60, style)};
        const uint64_t links = events[0].src.size();
        if (check("no steps", &none, events) != links) {
            FAIL("links changed without a step");
        }
        n_split += links - check("split", &split, events);
        n_joined += check("join", &join, events) - links;
        n_dropped += links - check("select", &select, events);
        check("all steps", pipeline, events);
    }
    printf("links: %llu broken, %llu made, %llu dropped\n", (unsigned long long)n_split,
           (unsigned long long)n_joined, (unsigned long long)n_dropped);
    if (n_split == 0 || n_joined == 0 || n_dropped == 0) {
        FAIL("a step did nothing: these events show nothing");
    }
}

/* Wide limits, where all cells are looked through and rounds go on for long. */
static void test_limits(const tm_pipeline_t *pipeline) {
    tm_pipeline_t p = *pipeline;
    p.tracks.join.dphi = (float)PI;
    p.tracks.join.dcot = 100;
    p.tracks.join.weight[0] = 50;
    p.tracks.fit.ends = 32;
    p.tracks.split.score = 1;
    p.tracks.split.chi2 = 0.1f;
    p.tracks.min_points = 5;
    check("wide limits", &p, {random_event(40, STYLES[0])});
    check("wide limits, twins", &p, {random_event(40, STYLES[2])});
    p.tracks.fit.ends = 2;
    p.tracks.join.dphi = 0;
    check("narrow limits", &p, {random_event(40, STYLES[0])});
}

/* The points of an event within a radius, or those beyond it. */
static event_t half_of(const event_t &e, bool inner) {
    const float middle_r = 300;
    event_t half;
    std::vector<uint32_t> row(e.r.size(), UINT32_MAX);
    for (uint32_t i = 0; i < e.r.size(); i++) {
        if ((e.r[i] < middle_r) == inner) {
            row[i] = (uint32_t)half.r.size();
            half.r.push_back(e.r[i]);
            half.phi.push_back(e.phi[i]);
            half.z.push_back(e.z[i]);
            half.rho.push_back(e.rho[i]);
        }
    }
    for (size_t k = 0; k < e.src.size(); k++) {
        if (row[e.src[k]] != UINT32_MAX && row[e.dst[k]] != UINT32_MAX) {
            link(&half, row[e.src[k]], row[e.dst[k]], (double)e.logits[k]);
        }
    }
    return half;
}

/* Events beside each other, none of them changed by that. */
static void test_batches(const tm_pipeline_t *pipeline) {
    std::vector<event_t> events;
    for (uint32_t k = 0; k < TM_FUSED_EVENTS_MAX; k++) {
        events.push_back(k % 5 == 4 ? event_t() : random_event(1 + below(25), STYLES[k % 5]));
    }
    /* the same again: nothing joins across */
    events[1] = events[2] = events[0];
    check("a batch", pipeline, events);
    const event_t whole = random_event(40, STYLES[3]);
    check("halves of tracks", pipeline, {half_of(whole, true), half_of(whole, false)});
    check("three events", pipeline, {events[0], events[1], events[3]});
    check("no points", pipeline, {event_t()});
    check("one track", pipeline, {random_event(1, STYLES[0])});
    check("many tracks", pipeline, {random_event(700, STYLES[0])});
}

/* A batch that has to be done again has no candidates, whatever its links say. */
static void test_flags(const tm_pipeline_t *pipeline) {
    batch_t batch(pipeline, {random_event(20, STYLES[0])}, TM_FUSED_KEPT_FULL);
    batch.prepare(0xff);
    batch.run();
    const answer_t a = batch.answer();
    if (a.counts.n_tracks != 0 || a.counts.n_track_edges != 0 || a.offsets[0] != 0) {
        FAIL("%u candidates of a batch that did not fit", a.counts.n_tracks);
    }
}

static void test_data(const tm_pipeline_t *pipeline) {
    static const char *const names[] = {"event000000001", "event000000010", "event000000020"};
    const char *folder = getenv("TM_DATA") ? getenv("TM_DATA") : "tests/data";
    std::vector<event_t> events;
    for (const char *name : names) {
        tm_error_t err = {};
        char path[4096];
        tm_event_file_t file = {};
        snprintf(path, sizeof path, "%s/%s.npz.xz", folder, name);
        MUST(tm_event_file_read(path, &file, &err));
        events.push_back(event_of_model(pipeline, &file));
        tm_event_file_clear(&file);
        check(name, pipeline, {events.back()});
        printf("%s: %zu points, %zu links\n", name, events.back().r.size(),
               events.back().src.size());
    }
    check("events of tests/data in one batch", pipeline, events);
}

static void bench(const tm_pipeline_t *pipeline, uint32_t n_tracks) {
    batch_t batch(pipeline, {random_event(n_tracks, STYLES[0])}, 0);
    double ms = 0;
    for (int run = 0; run <= BENCH_RUNS; run++) {
        struct timespec from, to;
        batch.prepare(0);
        clock_gettime(CLOCK_MONOTONIC, &from);
        batch.run();
        clock_gettime(CLOCK_MONOTONIC, &to);
        if (run > 0) { /* the first one warms up */
            ms += ((double)(to.tv_sec - from.tv_sec) * 1e3 +
                   (double)(to.tv_nsec - from.tv_nsec) / 1e6) /
                  BENCH_RUNS;
        }
    }
    printf("%u tracks: %.3f ms from launch to end, mean of %d\n", n_tracks, ms, BENCH_RUNS);
}

int main(int argc, char **argv) {
    const char *file = getenv("TM_MODEL") ? getenv("TM_MODEL") : "weights/standard.safetensors";
    tm_error_t err = {};
    tm_model_t *model = NULL;
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU here\n");
        return SKIPPED;
    }
    seed_random();
    MUST(tm_model_load(file, &model, &err));
    const tm_pipeline_t *pipeline = tm_model_pipeline(model);
    if (!tm_fused_post_can_run(pipeline) || !tm_post_wanted(pipeline) ||
        !pipeline->tracks.fit.present) {
        FAIL("%s has not all that is tested here", file);
    } else if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        bench(pipeline, argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 0) : 12000);
    } else {
        test_steps(pipeline);
        test_limits(pipeline);
        test_batches(pipeline);
        test_flags(pipeline);
        test_data(pipeline);
        printf(failures ? "%d FAILED\n" : "PASSED\n", failures);
    }
    tm_model_destroy(&model);
    return failures > 0;
}
