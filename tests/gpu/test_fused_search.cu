// SPDX-License-Identifier: Apache-2.0
/*
 * The radius search of the fused path against a plain search of all pairs, which uses the same
 * arithmetic: the edges must be the same, none decided by rounding.
 *
 *   test_fused_search [quick]   quick: small inputs only, for a memory checker or the emulator
 *
 * Exits with 77 and says why where there is no GPU. TM_SEED repeats a run.
 */
#include "search_rig.cuh"

/* Of all pairs of a detector's points, at most this share are edges within 0.5 (about 0.02 for most
 * seeds, 0.031 the most of 100). */
#define SHARE_MOST 0.05
#define RADIUS 0.5f

static bool is_quick;

/* ---- all pairs ---- */

typedef struct {
    uint32_t n, dim;
    float r2, dphi_max, z0_max, z0_min_dr;
    bool by_index;
    const float *embedding;
    const float4 *place;
    const float *rho;
} pairs_t;

/* A thread per source; the arithmetic is that of nn/cuda/radius.cu. offsets NULL: only counts. */
static __global__ void search_all(const pairs_t s, uint32_t *counts, const uint64_t *offsets,
                                  uint64_t *edges) {
    uint32_t a = blockIdx.x * blockDim.x + threadIdx.x;
    if (a >= s.n) {
        return;
    }
    float4 p = s.place[a];
    float rho = s.rho[a];
    uint32_t found = 0;
    for (uint32_t b = 0; b < s.n; b++) {
        if (s.by_index ? b >= a : s.rho[b] < rho || (s.rho[b] == rho && b <= a)) {
            continue;
        }
        float d2 = 0;
        for (uint32_t d = 0; d < s.dim; d++) {
            float x = s.embedding[(size_t)a * s.dim + d] - s.embedding[(size_t)b * s.dim + d];
            d2 = fmaf(x, x, d2);
        }
        float4 q = s.place[b];
        float dphi = q.y - p.y;
        dphi = dphi > 3.14159265358979f ? dphi - 2 * 3.14159265358979f : dphi;
        dphi = dphi <= -3.14159265358979f ? dphi + 2 * 3.14159265358979f : dphi;
        float dr = q.x - p.x;
        float z0 = p.z - p.x * (q.z - p.z) / (dr > 1e-3f ? dr : 1e-3f);
        if (d2 <= s.r2 && (s.dphi_max == 0 || fabsf(dphi) < s.dphi_max) &&
            (s.z0_max == 0 || dr < s.z0_min_dr || fabsf(z0) < s.z0_max)) {
            if (offsets) {
                edges[offsets[a] + found] = (uint64_t)a << 32 | b;
            }
            found++;
        }
    }
    counts[a] = found;
}

/* Edges between the rows of one event, which begin at `first` in the rig's columns; sorted. */
static std::vector<uint64_t> all_pairs(const rig_t *rig, const tm_pipeline_t *p, uint32_t first,
                                       uint32_t n) {
    std::vector<uint64_t> edges;
    if (n == 0) {
        return edges;
    }
    pairs_t s = {.n = n,
                 .dim = p->embed.mlp.out,
                 .r2 = p->radius.r * p->radius.r,
                 .dphi_max = p->radius.dphi_max,
                 .z0_max = p->radius.z0_max,
                 .z0_min_dr = p->radius.z0_min_dr,
                 .by_index = p->radius.direction == TM_DIRECTION_INDEX,
                 .embedding = rig->embedding + (size_t)first * p->embed.mlp.out,
                 .place = rig->place + first,
                 .rho = rig->rho + first};
    uint32_t *counts;
    uint64_t *offsets = NULL;
    uint64_t *found = NULL;
    CUDA(cudaMalloc(&counts, n * sizeof *counts));
    search_all<<<tm_gpu_blocks(n, 64), 64>>>(s, counts, offsets, found);
    std::vector<uint32_t> per_row = download(counts, n);
    std::vector<uint64_t> begins(n);
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++) {
        begins[i] = total;
        total += per_row[i];
    }
    CUDA(cudaMalloc(&offsets, n * sizeof *offsets));
    CUDA(cudaMalloc(&found, (total + 1) * sizeof *found));
    CUDA(cudaMemcpy(offsets, begins.data(), n * sizeof *offsets, cudaMemcpyHostToDevice));
    search_all<<<tm_gpu_blocks(n, 64), 64>>>(s, counts, offsets, found);
    edges.resize(total);
    CUDA(cudaMemcpy(edges.data(), found, total * sizeof *found, cudaMemcpyDeviceToHost));
    CUDA(cudaFree(counts));
    CUDA(cudaFree(offsets));
    CUDA(cudaFree(found));
    return edges;
}

/* ---- comparisons ---- */

static uint64_t total_edges;

/* Whether `r` is well formed, and what it says of the rows [first, first + n): (source, target). */
static std::vector<uint64_t> edges_by_row(const result_t &r, const char *what, uint32_t first,
                                          uint32_t n) {
    std::vector<uint64_t> edges;
    uint32_t n_edges = r.counts.n_edges;
    if (r.offsets[r.counts.n_points] != n_edges || r.offsets[0] != 0) {
        FAIL("%s: offsets end at %u of %u edges", what, r.offsets[r.counts.n_points], n_edges);
        return edges;
    }
    for (uint32_t node = 0; node < r.counts.n_points; node++) {
        for (uint32_t k = r.offsets[node]; k < r.offsets[node + 1]; k++) {
            if (r.src[k] != node || r.dst[k] >= r.counts.n_points ||
                (k > r.offsets[node] && r.dst[k - 1] >= r.dst[k])) {
                FAIL("%s: edge %u, %u to %u, is out of order", what, k, r.src[k], r.dst[k]);
                return edges;
            }
            uint32_t a = r.order[node];
            uint32_t b = r.order[r.dst[k]];
            if (a >= first && a < first + n) {
                edges.push_back((uint64_t)(a - first) << 32 | (uint32_t)(b - first));
            }
        }
    }
    std::sort(edges.begin(), edges.end());
    return edges;
}

static bool is_permutation_of_rows(const result_t &r) {
    std::vector<uint32_t> rows = r.order;
    std::sort(rows.begin(), rows.end());
    for (uint32_t i = 0; i < rows.size(); i++) {
        if (rows[i] != i) {
            return false;
        }
    }
    return true;
}

static void compare(const std::vector<uint64_t> &got, const std::vector<uint64_t> &want,
                    const char *what) {
    if (got == want) {
        total_edges += got.size();
        return;
    }
    size_t i = 0;
    while (i < got.size() && i < want.size() && got[i] == want[i]) {
        i++;
    }
    uint64_t x = i < got.size() ? got[i] : UINT64_MAX;
    uint64_t y = i < want.size() ? want[i] : UINT64_MAX;
    uint64_t e = std::min(x, y);
    FAIL("%s: %zu edges, %zu wanted; %u to %u is in %s alone", what, got.size(), want.size(),
         (uint32_t)(e >> 32), (uint32_t)e, x < y ? "the fused search" : "the search of all pairs");
}

/* Searches the batch twice and compares each event with the search of all its pairs. */
static result_t check(const tm_pipeline_t *p, const std::vector<cloud_t> &events, uint32_t edges,
                      const char *what) {
    char text[200];
    rig_t rig = rig_open(p, points_of(events) + 77, tiles_of(events) + 3, edges);
    upload(&rig, events);
    launch(&rig, is_ordered(events));
    result_t r = fetch(&rig);
    reset_counts(&rig, events);
    launch(&rig, is_ordered(events));
    result_t again = fetch(&rig);
    snprintf(text, sizeof text, "%s (%u points, dim %u, r %g)", what, points_of(events),
             p->embed.mlp.out, (double)p->radius.r);
    if (!same_bytes(r, again)) {
        FAIL("%s: two runs differ: %u and %u edges, flags %u and %u", text, r.counts.n_edges,
             again.counts.n_edges, r.counts.flags, again.counts.flags);
    }
    if (r.counts.flags != 0) {
        FAIL("%s: flags %u, %u edges, room for %u", text, r.counts.flags, r.counts.n_edges, edges);
    } else if (!is_permutation_of_rows(r)) {
        FAIL("%s: the order of %zu nodes has not every row once", text, r.order.size());
    } else {
        uint32_t first = 0;
        for (const cloud_t &c : events) {
            compare(edges_by_row(r, text, first, c.n), all_pairs(&rig, p, first, c.n), text);
            first += c.n;
        }
    }
    rig_close(&rig);
    return r;
}

static result_t search_once(const tm_pipeline_t *p, const std::vector<cloud_t> &events,
                            uint32_t edges) {
    rig_t rig = rig_open(p, points_of(events) + 77, tiles_of(events) + 3, edges);
    upload(&rig, events);
    launch(&rig, is_ordered(events));
    result_t r = fetch(&rig);
    if (r.counts.flags != 0) {
        FAIL("%u points: flags %u, %u edges, room for %u", points_of(events), r.counts.flags,
             r.counts.n_edges, edges);
    }
    rig_close(&rig);
    return r;
}

/* ---- tests ---- */

static void every_size(void) {
    static const uint32_t sizes[] = {0,   1,   2,    3,    63,   64,   65,   127,
                                     128, 129, 1000, 5000, 8192, 8193, 12345};
    static const uint32_t dims[] = {1, 2, 3, 4, 5, 8, 9, 10, 12, 13, 16};
    uint32_t at = 0;
    for (uint32_t n : sizes) {
        if (is_quick && n > 1000 && n != 8193) {
            continue;
        }
        for (int k = 0; k < (is_quick && n > 8000 ? 1 : is_quick || n > 8000 ? 2 : 4); k++) {
            uint32_t dim = dims[at++ % 11];
            cloud_t c = random_cloud(n, dim, k % 2 ? 0 : 3);
            float r = radius_for(&c, 20);
            check(pipeline_for(dim, r, k % 3 ? TM_DIRECTION_OUTWARD : TM_DIRECTION_INDEX, false,
                               k % 2),
                  only(c), 1u << 20, "random cloud");
            c = detector_cloud(n, dim > 1 ? dim : 2);
            r = radius_for(&c, 60);
            check(pipeline_for(c.dim, r, TM_DIRECTION_OUTWARD, true, k % 2), only(c), 1u << 20,
                  "detector");
        }
    }
}

static void large(void) {
    for (uint32_t dim : {3u, 8u, 12u}) {
        cloud_t c = detector_cloud(100000, dim);
        check(pipeline_for(dim, radius_for(&c, 150), TM_DIRECTION_OUTWARD, true, true), only(c),
              16u << 20, "large detector");
    }
    cloud_t c = random_cloud(60000, 3, 0);
    check(pipeline_for(3, radius_for(&c, 30), TM_DIRECTION_INDEX, false, false), only(c), 8u << 20,
          "large cloud");
}

/* Points that lie at one place in the embedding, and far out. */
static void odd_places(void) {
    cloud_t c = random_cloud(is_quick ? 500 : 3000, 8, 0);
    for (uint32_t i = 0; i < c.n; i++) {
        if (i % 3 == 0) { /* duplicates, with equal rho */
            memcpy(&c.embedding[i * 8], &c.embedding[i / 6 * 8], 8 * sizeof(float));
            c.rho[i] = c.rho[i / 6];
        } else if (i % 17 == 0) {
            c.embedding[i * 8] = 1e20f;
        } else if (i % 19 == 0) {
            for (uint32_t d = 0; d < 8; d++) {
                c.embedding[i * 8 + d] += 5000;
            }
        }
    }
    for (float r : {0.01f, 0.7f, 3.0f}) {
        check(pipeline_for(8, r, TM_DIRECTION_OUTWARD, false, false), only(c), 8u << 20,
              "odd places");
        check(pipeline_for(8, r, TM_DIRECTION_INDEX, false, true), only(c), 8u << 20, "odd places");
    }
    check(pipeline_for(8, 0.7f, TM_DIRECTION_OUTWARD, true, false), only(c), 8u << 20,
          "odd places");
    /* a clump that is more than a block's share: sources of more than 256 edges */
    for (uint32_t n : {1500u, 9000u}) {
        if (is_quick && n > 1500) {
            continue;
        }
        c = random_cloud(n, 8, 0);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t d = 0; d < 8 && i % 2; d++) {
                c.embedding[i * 8 + d] = 1 + 1e-3f * (float)uniform();
            }
        }
        check(pipeline_for(8, 0.05f, TM_DIRECTION_OUTWARD, false, false), only(c), 16u << 20,
              "clump");
    }
    c = random_cloud(9000, 4, 0);
    std::fill(c.embedding.begin(), c.embedding.end(), 0.5f);
    result_t r;
    rig_t rig = rig_open(pipeline_for(4, 0.1f, TM_DIRECTION_INDEX, false, false), 9000,
                         tiles_of(only(c)), 64u << 20);
    upload(&rig, only(c));
    launch(&rig, true);
    r = fetch(&rig);
    if (r.counts.n_edges != 0 || r.counts.flags != TM_FUSED_DEGREE_FULL || r.offsets[9000] != 0) {
        FAIL("one place: %u edges, flags %u (%d wanted), offsets end at %u", r.counts.n_edges,
             r.counts.flags, TM_FUSED_DEGREE_FULL, r.offsets[9000]);
    }
    rig_close(&rig);
}

/* Points of a large event at few values of phi: more at a step of the coarse order than it compares. */
static void crowds(void) {
    for (uint32_t values : {1u, 40u}) {
        cloud_t c = random_cloud(TM_FUSED_SMALL_POINTS + 100, 3, 0);
        for (uint32_t i = 0; i < c.n; i++) {
            if (i % 4) { /* the others are anywhere */
                c.place[i].y = (float)(i % values) * 0.1f - 2;
            }
        }
        check(pipeline_for(3, radius_for(&c, 30), TM_DIRECTION_OUTWARD, false, true), only(c),
              4u << 20, "crowds in phi");
    }
}

/* Each event has the edges and the order that it has alone; on request all are the edges that there
 * are. */
static void check_batch(const std::vector<cloud_t> &events, uint32_t room, bool against_all_pairs) {
    const tm_pipeline_t *p = pipeline_for(8, RADIUS, TM_DIRECTION_OUTWARD, true, true);
    result_t all =
        against_all_pairs ? check(p, events, room, "batch") : search_once(p, events, room);
    uint32_t node = 0;
    for (const cloud_t &c : events) {
        result_t alone = search_once(p, only(c), room);
        uint32_t base = all.offsets[node];
        for (uint32_t i = 0; i < c.n; i++) {
            if (all.order[node + i] != alone.order[i] + node ||
                all.offsets[node + i] != alone.offsets[i] + base) {
                FAIL("batch: node %u has row %u and edges from %u, alone row %u and edges from %u",
                     node + i, all.order[node + i] - node, all.offsets[node + i] - base,
                     alone.order[i], alone.offsets[i]);
                return;
            }
        }
        for (uint32_t k = 0; k < alone.dst.size(); k++) {
            if (all.dst[base + k] != alone.dst[k] + node) {
                FAIL("batch: edge %u goes to %u, alone to %u", base + k, all.dst[base + k] - node,
                     alone.dst[k]);
                return;
            }
        }
        node += c.n;
    }
}

static void batches(void) {
    std::vector<cloud_t> events;
    for (int i = 0; i < (is_quick ? 5 : 40); i++) {
        static const uint32_t sizes[] = {1300, 0, 1, 128, 700, 129, 2000, 64};
        events.push_back(detector_cloud(sizes[i % 8], 8));
    }
    check_batch(events, 4u << 20, true);
    events = only(detector_cloud(TM_FUSED_SMALL_POINTS + 1, 8));
    events.push_back(detector_cloud(TM_FUSED_SMALL_POINTS + 200, 8));
    for (uint32_t i = 0; i < events[1].n; i += 2) {
        events[1].place[i].y = 0.5f; /* a crowd at a step */
    }
    if (!is_quick) {
        events.push_back(detector_cloud(20000, 8));
        events.push_back(detector_cloud(40000, 8));
    }
    check_batch(events, (is_quick ? 4u : 32u) << 20, !is_quick);
}

static void too_small(void) {
    std::vector<cloud_t> events = only(detector_cloud(is_quick ? 1000 : 12000, 8));
    tm_pipeline_t *p = pipeline_for(8, RADIUS, TM_DIRECTION_OUTWARD, true, true);
    result_t want = check(p, events, 4u << 20, "room enough");
    rig_t rig = rig_open(p, points_of(events), tiles_of(events), want.counts.n_edges - 1);
    upload(&rig, events);
    launch(&rig, is_ordered(events));
    result_t r = fetch(&rig);
    if (r.counts.flags != TM_FUSED_EDGES_FULL || r.counts.n_edges != want.counts.n_edges) {
        FAIL("too small: flags %u, %u edges, %u wanted", r.counts.flags, r.counts.n_edges,
             want.counts.n_edges);
    }
    rig_close(&rig);
    rig = rig_open(p, points_of(events), tiles_of(events), want.counts.n_edges);
    upload(&rig, events);
    launch(&rig, is_ordered(events));
    r = fetch(&rig);
    if (!same_bytes(r, want)) {
        FAIL("just large enough: %u edges, flags %u; with more room %u edges, flags %u",
             r.counts.n_edges, r.counts.flags, want.counts.n_edges, want.counts.flags);
    }
    rig_close(&rig);
}

/* One graph, replayed for events of different sizes. */
static void replay(void) {
    tm_pipeline_t *p = pipeline_for(8, RADIUS, TM_DIRECTION_OUTWARD, true, true);
    const uint32_t most = is_quick ? 9000 : 40000;
    const uint32_t room = (uint32_t)(SHARE_MOST * most * most / 2);
    rig_t rig = rig_open(p, most, most / TM_GPU_TILE + 64, room);
    for (bool ordered : {true, false}) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        CUDA(cudaStreamBeginCapture(rig.stream, cudaStreamCaptureModeThreadLocal));
        launch(&rig, ordered);
        CUDA(cudaStreamEndCapture(rig.stream, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        for (int i = 0; i < (is_quick ? 2 - ordered : 5); i++) {
            uint32_t n = ordered ? most - (uint32_t)((most - TM_FUSED_SMALL_POINTS - 1) *
                                                     (i % 2 ? uniform() : 1))
                                 : (uint32_t)(3000 * uniform());
            std::vector<cloud_t> events = only(detector_cloud(n, 8));
            if (!ordered) {
                events.push_back(detector_cloud(i % 2 ? 0 : n / 2, 8));
            }
            upload(&rig, events);
            CUDA(cudaGraphLaunch(exec, rig.stream));
            result_t r = fetch(&rig);
            reset_counts(&rig, events);
            CUDA(cudaGraphLaunch(exec, rig.stream));
            if (!same_bytes(r, fetch(&rig))) {
                FAIL("replay: two runs of %u points differ, %u edges in the first", n,
                     r.counts.n_edges);
            }
            if (r.counts.flags != 0) {
                FAIL("replay: %u points: flags %u, %u edges, room for %u", n, r.counts.flags,
                     r.counts.n_edges, room);
                continue;
            }
            uint32_t first = 0;
            for (const cloud_t &c : events) {
                compare(edges_by_row(r, "replay", first, c.n), all_pairs(&rig, p, first, c.n),
                        "replay");
                first += c.n;
            }
        }
        CUDA(cudaGraphExecDestroy(exec));
        CUDA(cudaGraphDestroy(graph));
    }
    rig_close(&rig);
}

/* The stage of the general path finds the same edges. */
static void general_path(void) {
    tm_error_t err = {};
    tm_device_t *device = NULL;
    cloud_t c = detector_cloud(is_quick ? 1500 : 20000, 8);
    tm_pipeline_t *p = pipeline_for(8, RADIUS, TM_DIRECTION_OUTWARD, true, true);
    if (tm_stages_cuda.open(p, 1, &device, &err) != TM_OK) {
        printf("general path: left out: %s\n", err.text);
        return;
    }
    rig_t rig = rig_open(p, c.n, tiles_of(only(c)), (uint32_t)(SHARE_MOST * c.n * c.n / 2));
    upload(&rig, only(c));
    launch(&rig, is_ordered(only(c)));
    result_t r = fetch(&rig);
    std::vector<float> columns[3];
    float *up[4];
    for (uint32_t i = 0; i < c.n; i++) {
        columns[0].push_back(c.place[i].x);
        columns[1].push_back(c.place[i].y);
        columns[2].push_back(c.place[i].z);
    }
    for (int i = 0; i < 3; i++) {
        CUDA(cudaMalloc(&up[i], c.n * sizeof(float)));
        CUDA(cudaMemcpy(up[i], columns[i].data(), c.n * sizeof(float), cudaMemcpyHostToDevice));
    }
    tm_points_t points = {
        .n = c.n, .r = up[0], .phi = up[1], .z = up[2], .eta = up[2], .rho = rig.rho};
    tm_edges_t edges = {};
    if (device->stages->radius(device, &points, rig.embedding, &edges, &err) != TM_OK) {
        FAIL("general path: %s", err.text);
    } else {
        std::vector<uint32_t> src = download(edges.src, edges.n);
        std::vector<uint32_t> dst = download(edges.dst, edges.n);
        std::vector<uint64_t> want;
        for (uint32_t i = 0; i < edges.n; i++) {
            want.push_back((uint64_t)src[i] << 32 | dst[i]);
        }
        std::sort(want.begin(), want.end());
        compare(edges_by_row(r, "general path", 0, c.n), want, "general path");
    }
    for (int i = 0; i < 3; i++) {
        CUDA(cudaFree(up[i]));
    }
    rig_close(&rig);
    device->stages->close(&device);
}

static void can_run(void) {
    tm_pipeline_t *p = pipeline_for(8, RADIUS, TM_DIRECTION_OUTWARD, true, true);
    if (!tm_fused_search_can_run(p)) {
        FAIL("can_run: no, for the standard model's search");
    }
    p->radius.k = 100;
    if (tm_fused_search_can_run(p)) {
        FAIL("can_run: yes, for a search with a cap");
    }
}

int main(int argc, char **argv) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: no GPU\n");
        return SKIPPED;
    }
    seed_random();
    is_quick = argc > 1 && strcmp(argv[1], "quick") == 0;
    static const struct {
        const char *name;
        void (*run)(void);
        bool slow;
    } tests[] = {{"can_run", can_run, false},
                 {"every_size", every_size, false},
                 {"odd_places", odd_places, false},
                 {"crowds", crowds, false},
                 {"batches", batches, false},
                 {"too_small", too_small, false},
                 {"replay", replay, false},
                 {"large", large, true},
                 {"general_path", general_path, false}};
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        int before = failures;
        if (tests[i].slow && is_quick) {
            continue;
        }
        uint64_t edges = total_edges;
        tests[i].run();
        printf("%s: %s, %llu edges compared\n", tests[i].name,
               failures > before ? "FAILED" : "passed", (unsigned long long)(total_edges - edges));
        fflush(stdout);
    }
    return failures > 0;
}
