// SPDX-License-Identifier: Apache-2.0
#include <nvtx3/nvToolsExt.h>
#include <stdlib.h>
#include <time.h>

#include "nn/cuda/fused/engine.cuh"
#include "nn/cuda/fused/transfer.cuh"

/* Buckets: capacities in points, each a quarter above the one before. */
#define BUCKETS 36
#define BUCKET_POINTS_MIN 2048u
#define POINTS_STEP 1024u
/* Edges that a bucket has room for at first; it grows when an event has more. */
#define EDGES_PER_POINT 32u
#define KEPT_PER_POINT 6u
#define EDGES_STEP 65536u
#define SPARE_DIVISOR 4 /* of what an event that did not fit needed */
#define ATTEMPTS_MAX 8

/* Marks on the stream: where the first stage begins, and where each ends. */
enum {
    MARK_BEGIN,
    MARK_FEATURES,
    MARK_EMBED,
    MARK_RADIUS,
    MARK_FILTER,
    MARK_GNN,
    MARK_TRACKS,
    MARKS
};

typedef struct {
    tm_fused_capacity_t capacity;
    tm_fused_plan_t plan;
    tm_fused_post_t post;  /* empty where the model has no steps behind the track builder */
    cudaGraphExec_t graph; /* NULL: to be captured */
} bucket_t;

struct tm_fused {
    tm_fused_model_t model;
    tm_fused_context_t context;
    bool steps;                  /* the model has some behind the track builder */
    bucket_t bucket[2][BUCKETS]; /* small events, events that are put in order */
    cudaEvent_t mark[MARKS];
    const bucket_t *last; /* for tests */
    tm_fused_counts_t last_counts;
    tm_fused_wanted_t wanted;
};

/* ---- memory ---- */

static uint32_t round_up(uint64_t n, uint32_t step) {
    uint64_t rounded = (n + step - 1) / step * step;
    return rounded > UINT32_MAX - step ? UINT32_MAX - step : (uint32_t)rounded;
}

static uint32_t bucket_points(uint32_t number) {
    double points = BUCKET_POINTS_MIN;
    for (uint32_t k = 0; k < number; k++) {
        points *= 1 + 1.0 / SPARE_DIVISOR;
    }
    return round_up((uint64_t)points, POINTS_STEP);
}

/* Cuts the arena up for a bucket; with base NULL only says how large it has to be. */
static cudaError_t lay_out(const tm_fused_t *fused, bucket_t *bucket, bool ordered, char *base,
                           size_t *bytes) {
    const tm_fused_context_t *c = &fused->context;
    const tm_pipeline_t *p = c->pipeline;
    const tm_fused_capacity_t *capacity = &bucket->capacity;
    tm_fused_plan_t *plan = &bucket->plan;
    const size_t n = capacity->points;
    const size_t kept = capacity->kept;
    const size_t width = c->model->gnn_width;
    tm_fused_arena_t arena = {base, 0};
    tm_fused_arena_t *a = &arena;
    *plan = (tm_fused_plan_t){};
    plan->capacity = *capacity;
    plan->ordered = ordered;
    plan->header = tm_fused_take<tm_fused_header_t>(a, 1);
    plan->tiles = tm_fused_take<tm_fused_tile_t>(a, capacity->tiles);
    plan->columns = tm_fused_take<char>(a, tm_fused_columns_bytes(&fused->wanted, n));
    plan->row_place = tm_fused_take<float4>(a, n);
    plan->row_rho = tm_fused_take<float>(a, n);
    plan->row_features = tm_fused_take<float>(a, n * p->n_features);
    plan->embedding = tm_fused_take<float>(a, n * p->embed.mlp.out);
    plan->order = tm_fused_take<uint32_t>(a, n);
    plan->node_place = tm_fused_take<float4>(a, n);
    plan->filter_x = tm_fused_take<__half>(a, n * TM_FUSED_FEATURES_MAX);
    plan->gnn_features = tm_fused_take<float>(a, n * TM_FUSED_FEATURES_MAX);
    cudaError_t error = tm_fused_search_plan(p, capacity, c->processors, a, &plan->search);
    plan->edges.src = tm_fused_take<uint32_t>(a, capacity->edges);
    plan->edges.dst = tm_fused_take<uint32_t>(a, capacity->edges);
    plan->edges.offsets = tm_fused_take<uint32_t>(a, n + 1);
    plan->keep_words = tm_fused_take<uint32_t>(a, capacity->edges / 32 + 2);
    plan->keep_places = tm_fused_take<uint32_t>(a, capacity->edges / 32 + 2);
    plan->kept.src = tm_fused_take<uint32_t>(a, kept);
    plan->kept.dst = tm_fused_take<uint32_t>(a, kept);
    plan->kept.offsets = tm_fused_take<uint32_t>(a, n + 1);
    plan->dst_counts = tm_fused_take<uint32_t>(a, n + 1);
    plan->dst_offsets = tm_fused_take<uint32_t>(a, n + 1);
    plan->dst_unsorted = tm_fused_take<uint32_t>(a, kept);
    plan->by_dst = tm_fused_take<uint32_t>(a, kept);
    plan->x = tm_fused_take<float>(a, n * width);
    plan->x_half = tm_fused_take<__half>(a, n * width);
    plan->x0 = c->model->with_x0 ? tm_fused_take<__half>(a, n * width) : NULL;
    plan->sums = tm_fused_take<__half>(a, n * c->model->n_sums * width);
    plan->tables = tm_fused_take<__half>(a, n * TM_FUSED_TABLES_MAX * width);
    plan->e = tm_fused_take<__half>(a, kept * width);
    plan->e0 = c->model->with_e0 ? tm_fused_take<__half>(a, kept * width) : NULL;
    plan->logits = tm_fused_take<float>(a, kept);
    plan->best = tm_fused_take<unsigned long long>(a, 4 * n);
    plan->has_edge = tm_fused_take<uint8_t>(a, 2 * n);
    plan->edge_states = tm_fused_take<uint8_t>(a, kept);
    plan->parent = tm_fused_take<uint32_t>(a, n);
    plan->labels = tm_fused_take<uint32_t>(a, n);
    plan->sizes = tm_fused_take<uint32_t>(a, n);
    plan->edge_counts = tm_fused_take<uint32_t>(a, n);
    plan->score_sums = tm_fused_take<unsigned long long>(a, n);
    plan->track_numbers = tm_fused_take<uint32_t>(a, n);
    plan->track_places = tm_fused_take<uint32_t>(a, n);
    plan->block_sums = tm_fused_take<uint32_t>(a, 2 * tm_fused_tracks_blocks(c->processors));
    plan->members = tm_fused_take<uint32_t>(a, n);
    plan->result = tm_fused_take<uint32_t>(a, 3 * n + 1);
    bucket->post = (tm_fused_post_t){};
    if (fused->steps) {
        plan->link_src = tm_fused_take<uint32_t>(a, kept);
        plan->link_dst = tm_fused_take<uint32_t>(a, kept);
        plan->link_logits = tm_fused_take<float>(a, kept);
        error = error == cudaSuccess ? tm_fused_post_plan(p, capacity, a, &bucket->post) : error;
    }
    *bytes = arena.used;
    return error;
}

static void forget_graphs(tm_fused_t *fused) {
    for (int k = 0; k < 2; k++) {
        for (bucket_t &bucket : fused->bucket[k]) {
            if (bucket.graph) {
                (void)cudaGraphExecDestroy(bucket.graph);
                bucket.graph = NULL;
            }
        }
    }
}

/* ---- one batch as a graph ---- */

static cudaError_t mark(const tm_fused_t *fused, int k) {
    return cudaEventRecordWithFlags(fused->mark[k], fused->context.stream, cudaEventRecordExternal);
}

/* Everything between upload and download. */
static cudaError_t launch_all(const tm_fused_t *fused, const bucket_t *bucket) {
    const tm_fused_context_t *c = &fused->context;
    const tm_fused_plan_t *plan = &bucket->plan;
    const tm_fused_search_input_t in = {&plan->header->counts, plan->header->event_rows,
                                        plan->tiles,           plan->embedding,
                                        plan->row_place,       plan->row_rho};
    cudaError_t error = mark(fused, MARK_BEGIN);
    error = error == cudaSuccess ? tm_fused_features(c, plan) : error;
    error = error == cudaSuccess ? mark(fused, MARK_FEATURES) : error;
    error = error == cudaSuccess ? tm_fused_embed(c, plan) : error;
    error = error == cudaSuccess ? mark(fused, MARK_EMBED) : error;
    error = error == cudaSuccess
                ? tm_fused_order(&plan->search, &in, plan->ordered, plan->order, c->stream)
                : error;
    error = error == cudaSuccess
                ? tm_fused_search(&plan->search, &in, plan->order, &plan->edges, c->stream)
                : error;
    error = error == cudaSuccess ? mark(fused, MARK_RADIUS) : error;
    error = error == cudaSuccess ? tm_fused_to_nodes(c, plan) : error;
    error = error == cudaSuccess ? tm_fused_filter(c, plan) : error;
    error = error == cudaSuccess ? tm_fused_keep(c, plan) : error;
    error = error == cudaSuccess ? mark(fused, MARK_FILTER) : error;
    error = error == cudaSuccess ? tm_fused_gnn(c, plan) : error;
    error = error == cudaSuccess ? mark(fused, MARK_GNN) : error;
    error = error == cudaSuccess ? tm_fused_tracks(c, plan) : error;
    if (error == cudaSuccess && fused->steps) {
        error = tm_fused_post(c, plan, &bucket->post);
    }
    return error == cudaSuccess ? mark(fused, MARK_TRACKS) : error;
}

static cudaError_t capture(tm_fused_t *fused, bucket_t *bucket) {
    cudaStream_t stream = fused->context.stream;
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (error == cudaSuccess) {
        error = launch_all(fused, bucket);
        cudaError_t ended = cudaStreamEndCapture(stream, &graph);
        error = error == cudaSuccess ? ended : error;
    }
    if (error == cudaSuccess) {
        error = cudaGraphInstantiate(&bucket->graph, graph, 0);
    }
    if (graph) {
        (void)cudaGraphDestroy(graph);
    }
    return error;
}

/* Makes the bucket ready: memory, layout, graph. */
static tm_status_t prepare_bucket(tm_gpu_t *gpu, tm_fused_t *fused, bucket_t *bucket, bool ordered,
                                  tm_error_t *err) {
    size_t bytes = 0;
    char *arena = NULL;
    if (bucket->graph) {
        return TM_OK;
    }
    TM_TRY(
        tm_gpu_check(gpu, lay_out(fused, bucket, ordered, NULL, &bytes), "laying out memory", err));
    if (bytes > gpu->buffer[TM_GPU_FUSED_ARENA].bytes) {
        forget_graphs(fused);
    }
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_FUSED_ARENA, bytes, &arena, err));
    TM_TRY(tm_gpu_check(gpu, lay_out(fused, bucket, ordered, arena, &bytes), "laying out memory",
                        err));
    TM_TRY(tm_fused_clear_answer(gpu, &bucket->plan, &bucket->post, err));
    return tm_gpu_check(gpu, capture(fused, bucket), "recording the pipeline", err);
}

static bucket_t *find_bucket(tm_fused_t *fused, uint32_t n_points, bool ordered) {
    uint32_t number = 0;
    while (number + 1 < BUCKETS && bucket_points(number) < n_points) {
        number++;
    }
    bucket_t *bucket = &fused->bucket[ordered][number];
    if (bucket->capacity.points == 0) {
        uint32_t points = bucket_points(number);
        bucket->capacity.points = points;
        bucket->capacity.events = TM_FUSED_EVENTS_MAX;
        bucket->capacity.tiles = points / TM_GPU_TILE + TM_FUSED_EVENTS_MAX;
        bucket->capacity.edges = round_up((uint64_t)points * EDGES_PER_POINT, EDGES_STEP);
        bucket->capacity.kept = round_up((uint64_t)points * KEPT_PER_POINT, EDGES_STEP);
    }
    return bucket;
}

/* ---- timings ---- */

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Times between the marks on the GPU; what the batch took beside them is "transfer": the events on
 * their way up, the answer on its way down and into the callers' memory. */
static void add_timings(const tm_fused_t *fused, uint64_t started_us, uint64_t finished_us,
                        uint32_t n, tm_engine_item_t *items) {
    static const char *const names[MARKS] = {"transfer", "features", "embed", "radius",
                                             "filter",   "gnn",      "tracks"};
    double us[MARKS] = {(double)(finished_us - started_us)};
    for (int k = MARK_FEATURES; k < MARKS; k++) {
        float ms = 0;
        (void)cudaEventElapsedTime(&ms, fused->mark[k - 1], fused->mark[k]);
        us[k] = 1e3 * ms;
        us[0] -= us[k];
    }
    us[0] = us[0] > 0 ? us[0] : 0;
    for (uint32_t i = 0; i < n; i++) {
        for (int k = 0; k < MARKS && items[i].timings; k++) {
            tm_timings_add(items[i].timings, names[k], (uint64_t)(us[k] + 0.5));
        }
    }
}

/* ---- a batch ---- */

static tm_status_t check_values(const tm_pipeline_t *p, const tm_fused_counts_t *counts,
                                tm_error_t *err) {
    if (counts->bad_feature != 0) {
        uint32_t bad = ~counts->bad_feature;
        const tm_feature_t *feature = &p->feature[bad >> TM_FUSED_ROW_BITS];
        bool column = feature->kind == TM_F_COLUMN || feature->kind == TM_F_LOG_COLUMN;
        return tm_error_set(err, TM_E_BAD_EVENT,
                            "column '%s', row %u: the feature made of it is not a finite number",
                            column ? feature->column : "x, y, z",
                            bad & ((1u << TM_FUSED_ROW_BITS) - 1));
    }
    if (counts->bad_row != 0) {
        return tm_error_set(err, TM_E_BAD_EVENT,
                            "space point %u has no finite embedding: its values are far from "
                            "what the model knows",
                            ~counts->bad_row);
    }
    return TM_OK;
}

/* Room for edges that did not fit. False: there is none for so many. */
static bool enlarge(bucket_t *bucket, const tm_fused_counts_t *counts) {
    uint64_t edges = bucket->capacity.edges;
    uint64_t kept = bucket->capacity.kept;
    if (counts->flags & TM_FUSED_EDGES_FULL) {
        edges = (uint64_t)counts->n_edges + counts->n_edges / SPARE_DIVISOR;
    }
    if (counts->flags & TM_FUSED_KEPT_FULL) {
        kept = (uint64_t)counts->n_kept + counts->n_kept / SPARE_DIVISOR;
    }
    if (counts->flags & (TM_FUSED_DEGREE_FULL | TM_FUSED_TRACK_FULL) ||
        edges > TM_RADIUS_EDGES_MAX) {
        return false;
    }
    bucket->capacity.edges = round_up(edges, EDGES_STEP);
    bucket->capacity.kept = round_up(kept, EDGES_STEP);
    (void)cudaGraphExecDestroy(bucket->graph);
    bucket->graph = NULL;
    return true;
}

static tm_status_t run_batch(tm_gpu_t *gpu, tm_fused_t *fused, tm_engine_item_t *items, uint32_t n,
                             uint32_t n_points, bool ordered, bool *ran, tm_error_t *err) {
    const uint64_t started_us = now_us();
    tm_fused_result_t result = {};
    bucket_t *bucket = find_bucket(fused, n_points, ordered);
    for (uint32_t i = 0; i < n; i++) {
        TM_TRY(tm_fused_check_columns(&fused->wanted, items[i].event, err));
    }
    for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        TM_TRY(prepare_bucket(gpu, fused, bucket, ordered, err));
        const tm_fused_plan_t *plan = &bucket->plan;
        void *staging = NULL;
        TM_TRY(tm_gpu_staging(
            gpu, tm_fused_transfer_bytes(&fused->wanted, plan, &bucket->post, gpu->device.pipeline),
            &staging, err));
        char *pinned = (char *)staging;
        TM_TRY(tm_fused_upload(gpu, &fused->wanted, plan, items, n, pinned, err));
        TM_TRY(
            tm_gpu_check(gpu, cudaGraphLaunch(bucket->graph, gpu->stream), "finding tracks", err));
        TM_TRY(tm_fused_download(gpu, plan, &bucket->post, n_points, pinned, &result, err));
        fused->last = bucket;
        fused->last_counts = *result.counts;
        TM_TRY(check_values(gpu->device.pipeline, result.counts, err));
        if (result.counts->flags == 0) {
            TM_TRY(tm_fused_hand_out(&result, items, n, err));
            if (n == 1) {
                items[0].counts = (tm_engine_counts_t){.radius_edges = result.counts->n_edges,
                                                       .filter_edges = result.counts->n_kept,
                                                       .track_edges = result.counts->n_track_edges};
            }
            add_timings(fused, started_us, now_us(), n, items);
            *ran = true;
            return TM_OK;
        }
        if (!enlarge(bucket, &fused->last_counts)) {
            return TM_OK; /* the general path knows what to do */
        }
    }
    return TM_OK;
}

/* Whether these events can be one batch. */
static bool go_together(const tm_fused_t *fused, const tm_engine_item_t *items, uint32_t n,
                        uint64_t n_points, bool ordered) {
    if (n == 1) {
        return true;
    }
    for (uint32_t i = 0; i < n; i++) {
        if ((items[i].n_points > TM_FUSED_SMALL_POINTS) != ordered) {
            return false;
        }
    }
    return n_points <= TM_ENGINE_BATCH_POINTS && n <= TM_FUSED_EVENTS_MAX &&
           (!ordered || tm_fused_orders_many(fused->context.pipeline));
}

tm_status_t tm_fused_find(tm_gpu_t *gpu, tm_fused_t *fused, tm_engine_item_t *items, uint32_t n,
                          bool *ran, tm_error_t *err) {
    uint64_t n_points = 0;
    *ran = false;
    for (uint32_t i = 0; i < n; i++) {
        n_points += items[i].n_points;
    }
    const bool ordered = n > 0 && items[0].n_points > TM_FUSED_SMALL_POINTS;
    if (n_points == 0 || !go_together(fused, items, n, n_points, ordered)) {
        return TM_OK;
    }
    TM_TRY(tm_gpu_enter(gpu, err));
    (void)nvtxRangePushA("trackmill batch");
    tm_status_t status = run_batch(gpu, fused, items, n, (uint32_t)n_points, ordered, ran, err);
    (void)nvtxRangePop();
    return status;
}

bool tm_fused_view(const tm_fused_t *fused, tm_cuda_view_t *view) {
    if (!fused->last) {
        return false;
    }
    const tm_fused_plan_t *plan = &fused->last->plan;
    *view = (tm_cuda_view_t){.n_points = fused->last_counts.n_points,
                             .n_edges = fused->last_counts.n_edges,
                             .n_kept = fused->last_counts.n_kept,
                             .embedding = plan->embedding,
                             .order = plan->order,
                             .src = plan->edges.src,
                             .dst = plan->edges.dst,
                             .kept_src = plan->kept.src,
                             .kept_dst = plan->kept.dst,
                             .logits = plan->logits};
    return true;
}

/* ---- life ---- */

cudaError_t tm_fused_prepare(const tm_fused_model_t *model) {
    cudaError_t error = tm_fused_prepare_embed(model);
    error = error == cudaSuccess ? tm_fused_prepare_filter(model) : error;
    error = error == cudaSuccess ? tm_fused_prepare_gnn(model) : error;
    return error == cudaSuccess ? tm_fused_search_prepare() : error;
}

size_t tm_fused_shared_bytes(const tm_fused_model_t *model) {
    const size_t bytes[] = {tm_fused_embed_bytes(model), tm_fused_filter_bytes(model),
                            tm_fused_gnn_bytes(model)};
    size_t most = 0;
    for (size_t b : bytes) {
        most = b > most ? b : most;
    }
    return most;
}

static tm_status_t load_weights(tm_gpu_t *gpu, tm_fused_t *fused, size_t bytes, tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    char *device = NULL;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_FUSED_WEIGHTS, bytes, &device, err));
    char *host = (char *)calloc(bytes, 1);
    if (!host) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for weights");
    }
    tm_status_t status = tm_fused_pack(p, device, host, &fused->model, err);
    if (status == TM_OK) {
        status = tm_gpu_check(
            gpu, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, gpu->stream),
            "the weights", err);
    }
    if (status == TM_OK) {
        status = tm_gpu_wait(gpu, "the weights", err);
    }
    free(host);
    return status;
}

tm_status_t tm_fused_open(tm_gpu_t *gpu, tm_fused_t **out, tm_error_t *err) {
    const tm_pipeline_t *p = gpu->device.pipeline;
    int cooperative = 0;
    int shared_bytes = 0;
    tm_fused_model_t sizes;
    *out = NULL;
    if (gpu->type != TM_GPU_F16 || !tm_fused_can_run(p, NULL)) {
        return TM_OK;
    }
    TM_TRY(tm_gpu_check(
        gpu, cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, gpu->ordinal),
        "asking the GPU", err));
    TM_TRY(tm_gpu_check(gpu,
                        cudaDeviceGetAttribute(
                            &shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu->ordinal),
                        "asking the GPU", err));
    TM_TRY(tm_fused_pack(p, NULL, NULL, &sizes, err));
    if (!cooperative || tm_fused_shared_bytes(&sizes) > (size_t)shared_bytes) {
        return TM_OK;
    }
    tm_fused_t *fused = (tm_fused_t *)calloc(1, sizeof *fused);
    if (!fused) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    *out = fused;
    tm_fused_wanted_columns(p, &fused->wanted);
    fused->steps = gpu->post != NULL;
    fused->context.pipeline = p;
    fused->context.model = &fused->model;
    fused->context.stream = gpu->stream;
    TM_TRY(tm_gpu_check(gpu,
                        cudaDeviceGetAttribute(&fused->context.processors,
                                               cudaDevAttrMultiProcessorCount, gpu->ordinal),
                        "asking the GPU", err));
    int major = 0;
    TM_TRY(tm_gpu_check(
        gpu, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, gpu->ordinal),
        "asking the GPU", err));
    fused->context.launch_early = major >= 9;
    for (int k = 0; k < MARKS; k++) {
        TM_TRY(tm_gpu_check(gpu, cudaEventCreate(&fused->mark[k]), "an event", err));
    }
    TM_TRY(load_weights(gpu, fused, sizes.bytes, err));
    return tm_gpu_check(gpu, tm_fused_prepare(&fused->model), "preparing kernels", err);
}

void tm_fused_close(tm_gpu_t *gpu, tm_fused_t **p) {
    (void)gpu;
    if (!*p) {
        return;
    }
    forget_graphs(*p);
    for (int k = 0; k < MARKS; k++) {
        if ((*p)->mark[k]) {
            (void)cudaEventDestroy((*p)->mark[k]);
        }
    }
    free(*p);
    *p = NULL;
}
