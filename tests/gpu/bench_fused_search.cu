// SPDX-License-Identifier: Apache-2.0
/*
 * Milliseconds of the fused search, part by part.
 *
 *   bench_fused_search [FILE...]   FILE: n points as raw floats, an embedding [n, 8], then r, phi, z, eta
 *                                  and rho [n] each; several joined by "+" are one event; FILE@N: N of
 *                                  its points. Without: events at random
 *
 * Exits with 77 and says why where there is no GPU. TM_SEED repeats a run.
 */
#include "search_rig.cuh"

#define BENCH_RUNS 20

static cloud_t read_cloud(const char *names) {
    cloud_t all = cloud_of(0, 8);
    char *copy = strdup(names);
    for (char *name = strtok(copy, "+"); name; name = strtok(NULL, "+")) {
        FILE *f = fopen(name, "rb");
        if (!f) {
            printf("%s: cannot be read\n", name);
            exit(1);
        }
        fseek(f, 0, SEEK_END);
        cloud_t c = cloud_of((uint32_t)((size_t)ftell(f) / (13 * sizeof(float))), 8);
        rewind(f);
        std::vector<float> v((size_t)c.n * 13);
        if (fread(v.data(), sizeof(float), v.size(), f) != v.size()) {
            printf("%s: ends early\n", name);
            exit(1);
        }
        fclose(f);
        c.embedding.assign(v.begin(), v.begin() + (ptrdiff_t)c.n * 8);
        const float *columns = v.data() + (size_t)c.n * 8;
        for (uint32_t i = 0; i < c.n; i++) {
            c.place.push_back(make_float4(columns[i], columns[c.n + i], columns[2 * c.n + i],
                                          columns[3 * c.n + i]));
            c.rho.push_back(columns[4 * c.n + i]);
        }
        append(&all, &c);
    }
    free(copy);
    return all;
}

static cloud_t part_of(const cloud_t &c, uint32_t n) {
    cloud_t part = cloud_of(0, c.dim);
    double left = n;
    for (uint32_t i = 0; i < c.n; i++) {
        if (uniform() * (c.n - i) < left) {
            left--;
            part.n++;
            part.embedding.insert(part.embedding.end(), c.embedding.begin() + (ptrdiff_t)i * c.dim,
                                  c.embedding.begin() + (ptrdiff_t)(i + 1) * c.dim);
            part.place.push_back(c.place[i]);
            part.rho.push_back(c.rho[i]);
        }
    }
    return part;
}

static void bench(const std::vector<cloud_t> &events, float r, const char *name) {
    enum { ORDER, PLACE, FIND, COLLECT, ALL, PARTS };
    const tm_pipeline_t *p = pipeline_for(events[0].dim, r, TM_DIRECTION_OUTWARD, true, true);
    const bool ordered = is_ordered(events);
    std::vector<float> times[PARTS];
    cudaEvent_t mark[PARTS + 1];
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    rig_t rig = rig_open(p, points_of(events), tiles_of(events), 160u << 20);
    upload(&rig, events);
    launch(&rig, ordered);
    result_t first = fetch(&rig);
    for (cudaEvent_t &m : mark) {
        CUDA(cudaEventCreate(&m));
    }
    CUDA(cudaStreamBeginCapture(rig.stream, cudaStreamCaptureModeThreadLocal));
    launch(&rig, ordered);
    CUDA(cudaStreamEndCapture(rig.stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    for (int run = -3; run < BENCH_RUNS; run++) {
        const tm_fused_search_t *s = &rig.search;
        reset_counts(&rig, events);
        CUDA(cudaEventRecord(mark[ORDER], rig.stream));
        CUDA(tm_fused_order(s, &rig.in, ordered, rig.order, rig.stream));
        CUDA(cudaEventRecord(mark[PLACE], rig.stream));
        CUDA(tm_fused_search_place(s, &rig.in, rig.order, rig.stream));
        CUDA(cudaEventRecord(mark[FIND], rig.stream));
        CUDA(tm_fused_search_find(s, &rig.in, rig.stream));
        CUDA(cudaEventRecord(mark[COLLECT], rig.stream));
        CUDA(tm_fused_search_collect(s, &rig.in, &rig.edges, rig.stream));
        CUDA(cudaEventRecord(mark[ALL], rig.stream));
        CUDA(cudaStreamSynchronize(rig.stream));
        float ms;
        for (int k = 0; k < ALL && run >= 0; k++) {
            CUDA(cudaEventElapsedTime(&ms, mark[k], mark[k + 1]));
            times[k].push_back(ms);
        }
        reset_counts(&rig, events);
        CUDA(cudaEventRecord(mark[0], rig.stream));
        CUDA(cudaGraphLaunch(exec, rig.stream));
        CUDA(cudaEventRecord(mark[1], rig.stream));
        CUDA(cudaStreamSynchronize(rig.stream));
        CUDA(cudaEventElapsedTime(&ms, mark[0], mark[1]));
        if (run >= 0) {
            times[ALL].push_back(ms);
        }
    }
    if (!same_bytes(first, fetch(&rig))) {
        FAIL("bench: two runs of %s differ", name);
    }
    uint32_t degree = 0;
    for (size_t i = 0; i + 1 < first.offsets.size(); i++) {
        degree = std::max(degree, first.offsets[i + 1] - first.offsets[i]);
    }
    for (std::vector<float> &t : times) {
        std::sort(t.begin(), t.end());
    }
    unsigned long long counters[2];
    CUDA(cudaMemcpy(counters, rig.search.counters, sizeof counters, cudaMemcpyDeviceToHost));
    printf(
        "%s: %u points, %u edges (flags %u), most per node %u, %llu items; ms: order %.3f, place "
        "%.3f, find %.3f, collect %.3f; in a graph %.3f\n",
        name, points_of(events), first.counts.n_edges, first.counts.flags, degree, counters[1],
        (double)times[ORDER][BENCH_RUNS / 2], (double)times[PLACE][BENCH_RUNS / 2],
        (double)times[FIND][BENCH_RUNS / 2], (double)times[COLLECT][BENCH_RUNS / 2],
        (double)times[ALL][BENCH_RUNS / 2]);
    fflush(stdout);
    for (cudaEvent_t &m : mark) {
        CUDA(cudaEventDestroy(m));
    }
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    rig_close(&rig);
}

static void bench_all(int n_files, char **files) {
    for (int i = 0; i < n_files; i++) {
        /* NAME@N: N of its points */
        char *at = strchr(files[i], '@');
        uint32_t n = at ? (uint32_t)strtoul(at + 1, NULL, 10) : 0;
        if (at) {
            *at = 0;
        }
        cloud_t c = read_cloud(files[i]);
        bench(only(n ? part_of(c, n) : c), 0.5f, files[i]);
    }
    for (uint32_t n : {20000u, 36000u, 100000u, 157000u, 300000u, 500000u}) {
        if (n_files == 0) {
            cloud_t c = detector_cloud(n, 8);
            /* directions and the cuts leave about an eighth */
            bench(only(c), radius_for(&c, 8 * 25), "detector");
        }
    }
    for (int count : {1, 16}) {
        std::vector<cloud_t> events;
        for (int i = 0; i < count; i++) {
            events.push_back(detector_cloud(1300, 8));
        }
        bench(events, 0.4f, count > 1 ? "16 small events" : "a small event");
    }
}

int main(int argc, char **argv) {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("skipped: no GPU\n");
        return SKIPPED;
    }
    seed_random();
    bench_all(argc - 1, argv + 1);
    return failures > 0;
}
