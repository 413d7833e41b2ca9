// SPDX-License-Identifier: Apache-2.0
/*
 * Milliseconds from edges to track candidates by connected components: the cut, union-find, labels and
 * scores, and the candidates' points in order, in one launch (nn/cuda/fused/tracks.cu). Labels and
 * candidates are checked against a union-find on the host.
 *
 *   bench_components [POINTS EDGES]   (100000 and 500000)
 *
 * Three graphs: tracks of ten points whose edges stay inside the track; the same with one edge in a
 * hundred between any two points, which makes nearly everything one component; a path through all
 * points in random order, every edge five times. The last two have a component that is too large for
 * candidates, so there it is labels alone. CSV. Exits with 77 and says why where there is no GPU.
 * TM_SEED repeats a run.
 */
#include <algorithm>
#include <numeric>
#include <vector>

#include "nn/cuda/fused/stages.cuh"
#include "plain.cuh"

extern "C" {
#include "nn/pipeline.h"
}

#define TRACK_POINTS 10
#define MIN_POINTS 3
#define RUNS 50
#define WARM_UP 5

struct graph_t {
    const char *name;
    uint32_t n;
    std::vector<uint32_t> src, dst, order; /* nodes; row of a node */
};

static graph_t empty_graph(const char *name, uint32_t n) {
    graph_t g;
    g.name = name;
    g.n = n;
    g.order = shuffled(n);
    return g;
}

static graph_t tracks_graph(const char *name, uint32_t n, uint32_t m, double wrong) {
    graph_t g = empty_graph(name, n);
    std::vector<std::pair<uint32_t, uint32_t>> edges(m);
    for (auto &[from, to] : edges) {
        uint32_t a = below(n);
        uint32_t b = a / TRACK_POINTS * TRACK_POINTS + below(TRACK_POINTS);
        b = uniform() < wrong || b >= n ? below(n) : b;
        from = std::min(a, b);
        to = std::max(a, b);
    }
    std::sort(edges.begin(), edges.end()); /* as the search leaves them */
    for (const auto &[from, to] : edges) {
        g.src.push_back(from);
        g.dst.push_back(to);
    }
    return g;
}

static graph_t path_graph(const char *name, uint32_t n, uint32_t m) {
    graph_t g = empty_graph(name, n);
    for (uint32_t i = 0; i < m; i++) {
        g.src.push_back(i % (n - 1));
        g.dst.push_back(i % (n - 1) + 1);
    }
    return g;
}

/* What must come out: the least row of each row's component, and the candidates by it, their points by
 * (rho, row); here rho is the row. */
struct answer_t {
    std::vector<uint32_t> labels, offsets, indices;
    bool too_large; /* a candidate has more points than are put in order */
};

static answer_t answer_of(const graph_t &g) {
    answer_t a;
    a.labels.resize(g.n);
    a.offsets.push_back(0);
    a.too_large = false;
    std::vector<uint32_t> &parent = a.labels;
    std::iota(parent.begin(), parent.end(), 0);
    auto root = [&](uint32_t i) {
        while (parent[i] != i) {
            i = parent[i] = parent[parent[i]];
        }
        return i;
    };
    for (size_t i = 0; i < g.src.size(); i++) {
        const uint32_t from = root(g.order[g.src[i]]);
        const uint32_t to = root(g.order[g.dst[i]]);
        parent[std::max(from, to)] = std::min(from, to);
    }
    std::vector<std::vector<uint32_t>> members(g.n);
    for (uint32_t i = 0; i < g.n; i++) {
        parent[i] = root(i);
        members[parent[i]].push_back(i);
    }
    for (const std::vector<uint32_t> &points : members) {
        if (points.size() >= MIN_POINTS) {
            a.indices.insert(a.indices.end(), points.begin(), points.end());
            a.offsets.push_back((uint32_t)a.indices.size());
            a.too_large |= points.size() > TM_FUSED_TRACK_POINTS_MAX;
        }
    }
    return a;
}

template <typename T> static T *device_array(size_t count) {
    T *at = NULL;
    CUDA(cudaMalloc((void **)&at, count * sizeof(T)));
    CUDA(cudaMemset(at, 0, count * sizeof(T)));
    return at;
}

template <typename T> static T *on_device(const std::vector<T> &values) {
    T *at = device_array<T>(values.size());
    CUDA(cudaMemcpy(at, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return at;
}

static bool same(const std::vector<uint32_t> &right, const uint32_t *on_device) {
    std::vector<uint32_t> got(right.size());
    CUDA(cudaMemcpy(got.data(), on_device, got.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost));
    return got == right;
}

static void bench(const graph_t &g) {
    const uint32_t n = g.n;
    const uint32_t m = (uint32_t)g.src.size();
    cudaDeviceProp device;
    CUDA(cudaGetDeviceProperties(&device, 0));
    tm_pipeline_t pipeline = {};
    pipeline.tracks.builder = TM_BUILDER_COMPONENTS;
    pipeline.tracks.cut = 0.5;
    pipeline.tracks.min_points = MIN_POINTS;
    tm_fused_context_t c = {};
    c.pipeline = &pipeline;
    c.processors = device.multiProcessorCount;
    CUDA(cudaStreamCreate(&c.stream));

    std::vector<float> rho(n);
    std::iota(rho.begin(), rho.end(), 0.0f);
    tm_fused_header_t header = {};
    header.counts.n_points = n;
    header.counts.n_events = 1;
    header.counts.n_kept = m;
    tm_fused_plan_t plan = {};
    plan.capacity.points = n;
    plan.capacity.kept = m;
    plan.header = device_array<tm_fused_header_t>(1);
    tm_fused_header_t *fresh = device_array<tm_fused_header_t>(1);
    CUDA(cudaMemcpy(fresh, &header, sizeof header, cudaMemcpyHostToDevice));
    plan.kept.src = on_device(g.src);
    plan.kept.dst = on_device(g.dst);
    plan.order = on_device(g.order);
    plan.logits = on_device(std::vector<float>(m, 1.0f));
    plan.row_rho = on_device(rho);
    plan.best = device_array<unsigned long long>(4 * (size_t)n);
    plan.edge_states = device_array<uint8_t>(m);
    plan.has_edge = device_array<uint8_t>(2 * (size_t)n);
    plan.parent = device_array<uint32_t>(n);
    plan.labels = device_array<uint32_t>(n);
    plan.sizes = device_array<uint32_t>(n);
    plan.edge_counts = device_array<uint32_t>(n);
    plan.score_sums = device_array<unsigned long long>(n);
    plan.track_numbers = device_array<uint32_t>(n);
    plan.track_places = device_array<uint32_t>(n);
    plan.block_sums = device_array<uint32_t>(2 * (size_t)tm_fused_tracks_blocks(c.processors));
    plan.members = device_array<uint32_t>(n);
    plan.result = device_array<uint32_t>(3 * (size_t)n + 1);

    cudaEvent_t begin;
    cudaEvent_t end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    std::vector<float> times;
    const answer_t right = answer_of(g);
    for (int run = -WARM_UP; run < RUNS; run++) {
        CUDA(
            cudaMemcpyAsync(plan.header, fresh, sizeof header, cudaMemcpyDeviceToDevice, c.stream));
        CUDA(cudaEventRecord(begin, c.stream));
        CUDA(tm_fused_tracks(&c, &plan));
        CUDA(cudaEventRecord(end, c.stream));
        CUDA(cudaStreamSynchronize(c.stream));
        float ms = 0;
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        if (run >= 0) {
            times.push_back(ms);
        }
        CUDA(cudaMemcpy(&header, plan.header, sizeof header, cudaMemcpyDeviceToHost));
        const bool too_large = header.counts.flags & TM_FUSED_TRACK_FULL;
        if (too_large != right.too_large || !same(right.labels, plan.labels) ||
            header.counts.n_tracks + 1 != right.offsets.size() ||
            (!too_large && (!same(right.offsets, plan.result) ||
                            !same(right.indices, plan.result + 2 * (size_t)n + 1)))) {
            FAIL("%s: labels or candidates are not those of the host", g.name);
            break;
        }
    }
    std::sort(times.begin(), times.end());
    if (!times.empty()) {
        printf("%s,%u,%u,%zu,%s,%.4f\n", g.name, n, m, right.offsets.size() - 1,
               right.too_large ? "no" : "yes", (double)times[times.size() / 2]);
    }
    for (void *at : {(void *)plan.header,       (void *)fresh,
                     (void *)plan.kept.src,     (void *)plan.kept.dst,
                     (void *)plan.order,        (void *)plan.logits,
                     (void *)plan.row_rho,      (void *)plan.best,
                     (void *)plan.edge_states,  (void *)plan.has_edge,
                     (void *)plan.parent,       (void *)plan.labels,
                     (void *)plan.sizes,        (void *)plan.edge_counts,
                     (void *)plan.score_sums,   (void *)plan.track_numbers,
                     (void *)plan.track_places, (void *)plan.block_sums,
                     (void *)plan.members,      (void *)plan.result}) {
        CUDA(cudaFree(at));
    }
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaStreamDestroy(c.stream));
}

int main(int argc, char **argv) {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no GPU\n");
        return SKIPPED;
    }
    const uint32_t n = argc > 2 ? (uint32_t)strtoul(argv[1], NULL, 10) : 100000;
    const uint32_t m = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 500000;
    if (n < TRACK_POINTS || n > TM_POINTS_MAX || m == 0) {
        fprintf(stderr, "bench_components: POINTS: %d to %d; EDGES: 1 or more\n", TRACK_POINTS,
                TM_POINTS_MAX);
        return 2;
    }
    seed_random();
    printf("graph,points,edges,components,points_in_order,median_ms\n");
    bench(tracks_graph("tracks", n, m, 0));
    bench(tracks_graph("tracks and 1 % others", n, m, 0.01));
    bench(path_graph("one path", n, m));
    return failures > 0;
}
