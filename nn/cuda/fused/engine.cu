// SPDX-License-Identifier: Apache-2.0
#include <nvtx3/nvToolsExt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "nn/cuda/fused/engine.cuh"
#include "nn/cuda/fused/stages.cuh"

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
#define COLUMN_ALIGNMENT 16

/* Marks on the stream: ends of stages. */
enum { MARK_FEATURES, MARK_EMBED, MARK_RADIUS, MARK_FILTER, MARK_GNN, MARK_TRACKS, MARKS };

typedef struct {
    tm_fused_capacity_t capacity;
    tm_fused_plan_t plan;
    cudaGraphExec_t graph; /* NULL: to be captured */
} bucket_t;

/* The columns that a model asks for: x, y, z, then those of its features. */
typedef struct {
    uint32_t n_columns;
    const char *name[TM_FUSED_COLUMNS_MAX];
} wanted_t;

struct tm_fused {
    tm_fused_model_t model;
    tm_fused_context_t context;
    bool links;                  /* the host makes the tracks */
    bucket_t bucket[2][BUCKETS]; /* small events, one large event */
    cudaEvent_t mark[MARKS];
    char *pinned;
    const bucket_t *last; /* for tests */
    tm_fused_counts_t last_counts;
    wanted_t wanted;
    size_t column_bytes; /* of one point, all columns, at most */
};

/* ---- memory ---- */

static size_t aligned(size_t bytes) {
    return (bytes + COLUMN_ALIGNMENT - 1) / COLUMN_ALIGNMENT * COLUMN_ALIGNMENT;
}

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
static cudaError_t lay_out(const tm_fused_t *fused, const tm_fused_capacity_t *capacity, bool large,
                           char *base, tm_fused_plan_t *plan, size_t *bytes) {
    const tm_fused_context_t *c = &fused->context;
    const tm_pipeline_t *p = c->pipeline;
    const size_t n = capacity->points;
    const size_t kept = capacity->kept;
    const size_t width = c->model->gnn_width;
    tm_fused_arena_t arena = {base, 0};
    tm_fused_arena_t *a = &arena;
    *plan = (tm_fused_plan_t){};
    plan->capacity = *capacity;
    plan->large = large;
    plan->header = tm_fused_take<tm_fused_header_t>(a, 1);
    plan->tiles = tm_fused_take<tm_fused_tile_t>(a, capacity->tiles);
    plan->columns =
        tm_fused_take<char>(a, n * fused->column_bytes + TM_FUSED_COLUMNS_MAX * COLUMN_ALIGNMENT);
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
    plan->x0 = c->model->with_x0 ? tm_fused_take<float>(a, n * width) : NULL;
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
    if (fused->links) {
        plan->link_src = tm_fused_take<uint32_t>(a, kept);
        plan->link_dst = tm_fused_take<uint32_t>(a, kept);
        plan->link_logits = tm_fused_take<float>(a, kept);
    }
    plan->cub_bytes = tm_fused_keep_cub_bytes(capacity);
    plan->cub = tm_fused_take<char>(a, plan->cub_bytes);
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
static cudaError_t launch_all(const tm_fused_t *fused, const tm_fused_plan_t *plan) {
    const tm_fused_context_t *c = &fused->context;
    const tm_fused_search_input_t in = {&plan->header->counts, plan->tiles, plan->embedding,
                                        plan->row_place, plan->row_rho};
    cudaError_t error = tm_fused_features(c, plan);
    error = error == cudaSuccess ? mark(fused, MARK_FEATURES) : error;
    error = error == cudaSuccess ? tm_fused_embed(c, plan) : error;
    error = error == cudaSuccess ? mark(fused, MARK_EMBED) : error;
    error = error == cudaSuccess
                ? tm_fused_order(&plan->search, &in, plan->large, plan->order, c->stream)
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
    return error == cudaSuccess ? mark(fused, MARK_TRACKS) : error;
}

static cudaError_t capture(tm_fused_t *fused, bucket_t *bucket) {
    cudaStream_t stream = fused->context.stream;
    cudaGraph_t graph = NULL;
    cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (error == cudaSuccess) {
        error = launch_all(fused, &bucket->plan);
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
static tm_status_t prepare_bucket(tm_gpu_t *gpu, tm_fused_t *fused, bucket_t *bucket, bool large,
                                  tm_error_t *err) {
    size_t bytes = 0;
    char *arena = NULL;
    if (bucket->graph) {
        return TM_OK;
    }
    TM_TRY(tm_gpu_check(gpu, lay_out(fused, &bucket->capacity, large, NULL, &bucket->plan, &bytes),
                        "laying out memory", err));
    if (bytes > gpu->buffer[TM_GPU_FUSED_ARENA].bytes) {
        forget_graphs(fused);
    }
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_FUSED_ARENA, bytes, &arena, err));
    TM_TRY(tm_gpu_check(gpu, lay_out(fused, &bucket->capacity, large, arena, &bucket->plan, &bytes),
                        "laying out memory", err));
    return tm_gpu_check(gpu, capture(fused, bucket), "recording the pipeline", err);
}

static bucket_t *find_bucket(tm_fused_t *fused, uint32_t n_points, bool large) {
    uint32_t number = 0;
    while (number + 1 < BUCKETS && bucket_points(number) < n_points) {
        number++;
    }
    bucket_t *bucket = &fused->bucket[large][number];
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

/* ---- upload ---- */

static void wanted_columns(const tm_pipeline_t *p, wanted_t *wanted) {
    static const char *const places[] = {"x", "y", "z"};
    wanted->n_columns = 0;
    for (const char *name : places) {
        wanted->name[wanted->n_columns++] = name;
    }
    for (uint32_t k = 0; k < p->n_features; k++) {
        const tm_feature_t *f = &p->feature[k];
        if (f->kind == TM_F_COLUMN || f->kind == TM_F_LOG_COLUMN) {
            wanted->name[wanted->n_columns++] = f->column;
        }
    }
}

static bool uploaded_as_is(tm_type_t type) {
    return type == TM_U8 || type == TM_I8 || type == TM_U16 || type == TM_I16 || type == TM_F16 ||
           type == TM_F32;
}

static tm_status_t check_columns(const wanted_t *wanted, const tm_columns_t *event,
                                 tm_error_t *err) {
    for (uint32_t k = 0; k < wanted->n_columns; k++) {
        if (!tm_columns_find(event, wanted->name[k])) {
            return tm_error_set(err, TM_E_MISSING_COLUMN,
                                k < 3 ? "the event has no column '%s'"
                                      : "the model needs column '%s', which the event lacks",
                                wanted->name[k]);
        }
    }
    return TM_OK;
}

/* The type in which a column of all events goes up. */
static tm_type_t common_type(const tm_engine_item_t *items, uint32_t n, const char *name) {
    tm_type_t type = tm_columns_find(items[0].event, name)->type;
    for (uint32_t i = 1; i < n; i++) {
        type = tm_columns_find(items[i].event, name)->type == type ? type : TM_F32;
    }
    return uploaded_as_is(type) ? type : TM_F32;
}

/* Header and tiles into pinned memory. */
static void write_header(const tm_fused_plan_t *plan, const tm_engine_item_t *items, uint32_t n,
                         char *pinned) {
    tm_fused_header_t *header = (tm_fused_header_t *)pinned;
    tm_fused_tile_t *tiles =
        (tm_fused_tile_t *)(pinned + ((char *)plan->tiles - (char *)plan->header));
    uint32_t n_tiles = 0;
    uint32_t first = 0;
    *header = (tm_fused_header_t){};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t event_first = n_tiles;
        uint32_t event_end = n_tiles + tm_gpu_blocks(items[i].n_points, TM_GPU_TILE);
        for (uint32_t at = 0; at < items[i].n_points; at += TM_GPU_TILE) {
            uint32_t left = items[i].n_points - at;
            tiles[n_tiles++] = (tm_fused_tile_t){
                first + at, left < TM_GPU_TILE ? left : TM_GPU_TILE, event_first, event_end};
        }
        first += items[i].n_points;
    }
    header->counts.n_points = first;
    header->counts.n_events = n;
    header->counts.n_tiles = n_tiles;
}

/* Columns go up one by one: the next is copied to pinned memory while one is on its way. */
static tm_status_t upload(tm_gpu_t *gpu, const tm_fused_t *fused, const tm_fused_plan_t *plan,
                          const tm_engine_item_t *items, uint32_t n, tm_error_t *err) {
    const wanted_t *wanted = &fused->wanted;
    char *pinned = fused->pinned;
    const size_t columns_at = plan->columns - (char *)plan->header;
    write_header(plan, items, n, pinned);
    tm_fused_header_t *header = (tm_fused_header_t *)pinned;
    const uint64_t n_points = header->counts.n_points;
    size_t offset = 0;
    for (uint32_t k = 0; k < wanted->n_columns; k++) {
        tm_type_t type = common_type(items, n, wanted->name[k]);
        size_t element = tm_type_bytes(type);
        char *to = pinned + columns_at + offset;
        header->column[k] = (tm_fused_column_t){type, offset};
        for (uint32_t i = 0; i < n; i++) {
            const tm_column_t *column = tm_columns_find(items[i].event, wanted->name[k]);
            if (column->type == type) {
                memcpy(to, column->data, items[i].n_points * element);
            } else {
                tm_column_to_f32(column, (float *)to);
            }
            to += items[i].n_points * element;
        }
        TM_TRY(
            tm_gpu_check(gpu,
                         cudaMemcpyAsync(plan->columns + offset, pinned + columns_at + offset,
                                         n_points * element, cudaMemcpyHostToDevice, gpu->stream),
                         "columns", err));
        offset += aligned(n_points * element);
    }
    size_t head = (char *)(plan->tiles + header->counts.n_tiles) - (char *)plan->header;
    return tm_gpu_check(
        gpu, cudaMemcpyAsync(plan->header, pinned, head, cudaMemcpyHostToDevice, gpu->stream),
        "columns", err);
}

/* ---- download ---- */

typedef struct {
    const tm_fused_counts_t *counts;
    /* tracks … */
    const uint32_t *offsets, *indices;
    const float *scores;
    /* … or what the host makes them of */
    tm_gpu_host_points_t points;
    uint32_t *link_src, *link_dst;
    float *link_logits;
} result_t;

#define DOWNLOADS 6

typedef struct {
    const void *from;
    size_t bytes;
} piece_t;

/* Pieces of the answer for n points: the counts, then what there can be at most. With the builder
 * best_edges no point is twice a source. */
static void pieces_of(const tm_fused_t *fused, const tm_fused_plan_t *plan, size_t n,
                      piece_t *pieces) {
    const tm_pipeline_t *p = fused->context.pipeline;
    const size_t points = plan->capacity.points;
    const size_t most_tracks = n / (p->tracks.min_points > 0 ? p->tracks.min_points : 1);
    const size_t most_links = p->tracks.builder == TM_BUILDER_BEST_EDGES && n < plan->capacity.kept
                                  ? n
                                  : plan->capacity.kept;
    const piece_t tracks[DOWNLOADS] = {{&plan->header->counts, sizeof(tm_fused_counts_t)},
                                       {plan->result, (most_tracks + 1) * sizeof(uint32_t)},
                                       {plan->result + points + 1, most_tracks * sizeof(float)},
                                       {plan->result + 2 * points + 1, n * sizeof(uint32_t)}};
    const piece_t links[DOWNLOADS] = {tracks[0],
                                      {plan->row_place, n * sizeof(float4)},
                                      {plan->row_rho, n * sizeof(float)},
                                      {plan->link_src, most_links * sizeof(uint32_t)},
                                      {plan->link_dst, most_links * sizeof(uint32_t)},
                                      {plan->link_logits, most_links * sizeof(float)}};
    for (int k = 0; k < DOWNLOADS; k++) {
        pieces[k] = fused->links ? links[k] : tracks[k];
    }
}

static size_t download_bytes(const tm_fused_t *fused, const tm_fused_plan_t *plan) {
    piece_t pieces[DOWNLOADS];
    size_t bytes = 0;
    pieces_of(fused, plan, plan->capacity.points, pieces);
    for (const piece_t &piece : pieces) {
        bytes += aligned(piece.bytes);
    }
    return bytes;
}

/* The pinned memory is that of the upload, which is over by then. */
static tm_status_t download(tm_gpu_t *gpu, const tm_fused_t *fused, const tm_fused_plan_t *plan,
                            uint32_t n_points, result_t *result, tm_error_t *err) {
    piece_t pieces[DOWNLOADS];
    char *at = fused->pinned;
    char *to[DOWNLOADS];
    pieces_of(fused, plan, n_points, pieces);
    for (int k = 0; k < DOWNLOADS; k++) {
        to[k] = at;
        if (pieces[k].bytes > 0) {
            TM_TRY(tm_gpu_check(gpu,
                                cudaMemcpyAsync(at, pieces[k].from, pieces[k].bytes,
                                                cudaMemcpyDeviceToHost, gpu->stream),
                                "tracks", err));
        }
        at += aligned(pieces[k].bytes);
    }
    *result = (result_t){.counts = (const tm_fused_counts_t *)to[0]};
    if (fused->links) {
        result->points = (tm_gpu_host_points_t){(const float4 *)to[1], (const float *)to[2]};
        result->link_src = (uint32_t *)to[3];
        result->link_dst = (uint32_t *)to[4];
        result->link_logits = (float *)to[5];
    } else {
        result->offsets = (const uint32_t *)to[1];
        result->scores = (const float *)to[2];
        result->indices = (const uint32_t *)to[3];
    }
    return tm_gpu_wait(gpu, "finding tracks", err);
}

/* Moves the links of an event, which ends before `end_row`, in front of the others; returns their
 * number. Their order does not matter. */
static uint32_t gather_links(result_t *r, uint32_t begin, uint32_t n_links, uint32_t end_row) {
    uint32_t own = begin;
    for (uint32_t k = begin; k < n_links; k++) {
        if (r->link_src[k] < end_row) {
            const uint32_t src = r->link_src[own];
            const uint32_t dst = r->link_dst[own];
            const float logit = r->link_logits[own];
            r->link_src[own] = r->link_src[k];
            r->link_dst[own] = r->link_dst[k];
            r->link_logits[own++] = r->link_logits[k];
            r->link_src[k] = src;
            r->link_dst[k] = dst;
            r->link_logits[k] = logit;
        }
    }
    return own - begin;
}

static tm_status_t make_tracks(tm_gpu_t *gpu, result_t *r, tm_engine_item_t *items, uint32_t n,
                               uint64_t *track_edges, tm_error_t *err) {
    uint32_t first_row = 0;
    uint32_t begin = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end_row = first_row + items[i].n_points;
        uint32_t own = gather_links(r, begin, r->counts->n_links, end_row);
        tm_links_t links = {own, r->link_src + begin, r->link_dst + begin, r->link_logits + begin};
        TM_TRY(tm_gpu_post(gpu, &r->points, first_row, items[i].n_points, &links, items[i].tracks,
                           track_edges, err));
        begin += own;
        first_row = end_row;
    }
    return TM_OK;
}

/* Tracks lie in the order of their least rows: those of an event are in one piece. */
static tm_status_t hand_out(const result_t *r, tm_engine_item_t *items, uint32_t n,
                            tm_error_t *err) {
    uint32_t track = 0;
    uint32_t first_row = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t end_row = first_row + items[i].n_points;
        uint32_t end = track;
        while (end < r->counts->n_tracks && r->indices[r->offsets[end]] < end_row) {
            end++;
        }
        uint32_t begin_index = track < r->counts->n_tracks ? r->offsets[track] : 0;
        uint32_t n_indices = end > track ? r->offsets[end] - begin_index : 0;
        tm_tracks_t *tracks = items[i].tracks;
        TM_TRY(tm_tracks_alloc(tracks, items[i].n_points, end - track, n_indices, err));
        for (uint32_t t = track; t <= end && end > track; t++) {
            tracks->offsets[t - track] = r->offsets[t] - begin_index;
        }
        for (uint32_t k = 0; k < n_indices; k++) {
            tracks->indices[k] = r->indices[begin_index + k] - first_row;
        }
        if (end > track) {
            memcpy(tracks->scores, r->scores + track, (end - track) * sizeof(float));
        }
        track = end;
        first_row = end_row;
    }
    return TM_OK;
}

/* ---- timings ---- */

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* Times between the marks on the GPU; what is before the first counts as features, what is behind the
 * last but one as tracks. */
static void add_timings(const tm_fused_t *fused, uint64_t started_us, uint64_t finished_us,
                        uint32_t n, tm_engine_item_t *items) {
    static const char *const names[] = {"features", "embed", "radius", "filter", "gnn", "tracks"};
    double us[MARKS] = {};
    double total = (double)(finished_us - started_us);
    double behind = 0;
    for (int k = MARK_EMBED; k <= MARK_GNN; k++) {
        float ms = 0;
        (void)cudaEventElapsedTime(&ms, fused->mark[k - 1], fused->mark[k]);
        us[k] = 1e3 * ms;
        behind += us[k];
    }
    float ms = 0;
    (void)cudaEventElapsedTime(&ms, fused->mark[MARK_GNN], fused->mark[MARK_TRACKS]);
    us[MARK_TRACKS] = 1e3 * ms;
    behind += us[MARK_TRACKS];
    us[MARK_FEATURES] = total > behind ? total - behind : 0;
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

/* Room for edges that did not fit. */
static bool enlarge(bucket_t *bucket, const tm_fused_counts_t *counts) {
    if (counts->flags & TM_FUSED_DEGREE_FULL) {
        return false;
    }
    if (bucket->graph) {
        (void)cudaGraphExecDestroy(bucket->graph);
        bucket->graph = NULL;
    }
    if (counts->flags & TM_FUSED_EDGES_FULL) {
        uint64_t wanted = (uint64_t)counts->n_edges + counts->n_edges / SPARE_DIVISOR;
        bucket->capacity.edges = round_up(wanted, EDGES_STEP);
    }
    if (counts->flags & TM_FUSED_KEPT_FULL) {
        uint64_t wanted = (uint64_t)counts->n_kept + counts->n_kept / SPARE_DIVISOR;
        bucket->capacity.kept = round_up(wanted, EDGES_STEP);
    }
    return bucket->capacity.edges <= TM_RADIUS_EDGES_MAX;
}

static tm_status_t run_batch(tm_gpu_t *gpu, tm_fused_t *fused, tm_engine_item_t *items, uint32_t n,
                             uint32_t n_points, bool large, bool *ran, tm_error_t *err) {
    const uint64_t started_us = now_us();
    result_t result = {};
    bucket_t *bucket = find_bucket(fused, n_points, large);
    for (uint32_t i = 0; i < n; i++) {
        TM_TRY(check_columns(&fused->wanted, items[i].event, err));
    }
    for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        TM_TRY(prepare_bucket(gpu, fused, bucket, large, err));
        const tm_fused_plan_t *plan = &bucket->plan;
        size_t pinned = (size_t)(plan->columns - (char *)plan->header) +
                        plan->capacity.points * fused->column_bytes +
                        TM_FUSED_COLUMNS_MAX * COLUMN_ALIGNMENT;
        size_t down = download_bytes(fused, plan);
        void *staging = NULL;
        TM_TRY(tm_gpu_staging(gpu, pinned > down ? pinned : down, &staging, err));
        fused->pinned = (char *)staging;
        TM_TRY(upload(gpu, fused, plan, items, n, err));
        TM_TRY(
            tm_gpu_check(gpu, cudaGraphLaunch(bucket->graph, gpu->stream), "finding tracks", err));
        TM_TRY(download(gpu, fused, plan, n_points, &result, err));
        fused->last = bucket;
        fused->last_counts = *result.counts;
        TM_TRY(check_values(gpu->device.pipeline, result.counts, err));
        if (result.counts->flags == 0) {
            uint64_t track_edges = result.counts->n_track_edges;
            TM_TRY(fused->links ? make_tracks(gpu, &result, items, n, &track_edges, err)
                                : hand_out(&result, items, n, err));
            if (n == 1) {
                items[0].counts = (tm_engine_counts_t){.radius_edges = result.counts->n_edges,
                                                       .filter_edges = result.counts->n_kept,
                                                       .track_edges = track_edges};
            }
            add_timings(fused, started_us, now_us(), n, items);
            *ran = true;
            return TM_OK;
        }
        tm_fused_counts_t counts = *result.counts;
        if (!enlarge(bucket, &counts)) {
            bucket->capacity.points = 0;
            return TM_OK; /* the general path knows what to do */
        }
    }
    return TM_OK;
}

tm_status_t tm_fused_find(tm_gpu_t *gpu, tm_fused_t *fused, tm_engine_item_t *items, uint32_t n,
                          bool *ran, tm_error_t *err) {
    uint32_t n_points = 0;
    bool large = false;
    *ran = false;
    for (uint32_t i = 0; i < n; i++) {
        n_points += items[i].n_points;
        large = large || items[i].n_points > TM_FUSED_SMALL_POINTS;
    }
    if (n == 0 || n > TM_FUSED_EVENTS_MAX || (large && n > 1) || n_points == 0) {
        return TM_OK;
    }
    TM_TRY(tm_gpu_enter(gpu, err));
    (void)nvtxRangePushA("trackmill batch");
    tm_status_t status = run_batch(gpu, fused, items, n, n_points, large, ran, err);
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
    wanted_columns(p, &fused->wanted);
    fused->column_bytes = fused->wanted.n_columns * sizeof(float);
    fused->links = gpu->post != NULL;
    fused->context.pipeline = p;
    fused->context.model = &fused->model;
    fused->context.stream = gpu->stream;
    TM_TRY(tm_gpu_check(gpu,
                        cudaDeviceGetAttribute(&fused->context.processors,
                                               cudaDevAttrMultiProcessorCount, gpu->ordinal),
                        "asking the GPU", err));
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
