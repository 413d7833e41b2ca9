// SPDX-License-Identifier: Apache-2.0
#include <string.h>

#include "nn/cuda/fused/transfer.cuh"

#define ALIGNMENT 16

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- up ---- */

void tm_fused_wanted_columns(const tm_pipeline_t *p, tm_fused_wanted_t *wanted) {
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

tm_status_t tm_fused_check_columns(const tm_fused_wanted_t *wanted, const tm_columns_t *event,
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

size_t tm_fused_columns_bytes(const tm_fused_wanted_t *wanted, size_t n) {
    return wanted->n_columns * aligned(n * sizeof(float));
}

static bool uploaded_as_is(tm_type_t type) {
    return type == TM_U8 || type == TM_I8 || type == TM_U16 || type == TM_I16 || type == TM_F16 ||
           type == TM_F32;
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
        header->event_rows[i] = first;
        uint32_t event_first = n_tiles;
        uint32_t event_end = n_tiles + tm_gpu_blocks(items[i].n_points, TM_GPU_TILE);
        for (uint32_t at = 0; at < items[i].n_points; at += TM_GPU_TILE) {
            uint32_t left = items[i].n_points - at;
            tiles[n_tiles++] = (tm_fused_tile_t){
                first + at, left < TM_GPU_TILE ? left : TM_GPU_TILE, event_first, event_end};
        }
        first += items[i].n_points;
    }
    header->event_rows[n] = first;
    header->counts.n_points = first;
    header->counts.n_events = n;
    header->counts.n_tiles = n_tiles;
}

/* Columns go up one by one: the next is copied to pinned memory while one is on its way. */
tm_status_t tm_fused_upload(tm_gpu_t *gpu, const tm_fused_wanted_t *wanted,
                            const tm_fused_plan_t *plan, const tm_engine_item_t *items, uint32_t n,
                            char *pinned, tm_error_t *err) {
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

/* ---- down ---- */

#define STARTS 5

/* Arrays of the answer: `rows` of them `pitch` bytes apart on the GPU. */
typedef struct {
    const void *from;
    size_t bytes, pitch, rows;
} piece_t;

enum { COUNTS, OFFSETS, SCORES, INDICES, START_VALUES, CHARGES, PIECES };

/* How many tracks there are is not known before they are here: all that there can be come down. */
static void pieces_of(const tm_fused_plan_t *plan, const tm_fused_post_t *post,
                      const tm_pipeline_t *p, size_t n, piece_t *pieces) {
    const size_t points = plan->capacity.points;
    const size_t most_tracks = n / (p->tracks.min_points > 0 ? p->tracks.min_points : 1);
    const bool starts = post->pt != NULL;
    const piece_t all[PIECES] = {
        {&plan->header->counts, sizeof(tm_fused_counts_t), sizeof(tm_fused_counts_t), 1},
        {plan->result, (most_tracks + 1) * sizeof(uint32_t), (points + 1) * sizeof(uint32_t), 1},
        {plan->result + points + 1, most_tracks * sizeof(float), points * sizeof(float), 1},
        {plan->result + 2 * points + 1, n * sizeof(uint32_t), points * sizeof(uint32_t), 1},
        {post->pt, starts ? most_tracks * sizeof(float) : 0,
         starts ? (size_t)((char *)post->phi - (char *)post->pt) : 0, STARTS},
        {post->charge, starts ? most_tracks : 0, points, 1}};
    memcpy(pieces, all, sizeof all);
}

size_t tm_fused_transfer_bytes(const tm_fused_wanted_t *wanted, const tm_fused_plan_t *plan,
                               const tm_fused_post_t *post, const tm_pipeline_t *p) {
    const size_t up = (size_t)(plan->columns - (char *)plan->header) +
                      tm_fused_columns_bytes(wanted, plan->capacity.points);
    piece_t pieces[PIECES];
    size_t down = 0;
    pieces_of(plan, post, p, plan->capacity.points, pieces);
    for (const piece_t &piece : pieces) {
        down += piece.rows * aligned(piece.bytes);
    }
    return up > down ? up : down;
}

tm_status_t tm_fused_download(tm_gpu_t *gpu, const tm_fused_plan_t *plan,
                              const tm_fused_post_t *post, uint32_t n_points, char *pinned,
                              tm_fused_result_t *result, tm_error_t *err) {
    piece_t pieces[PIECES];
    const char *at[PIECES];
    pieces_of(plan, post, gpu->device.pipeline, n_points, pieces);
    for (int k = 0; k < PIECES; k++) {
        const piece_t &piece = pieces[k];
        at[k] = pinned;
        if (piece.bytes > 0) {
            TM_TRY(tm_gpu_check(gpu,
                                piece.rows == 1
                                    ? cudaMemcpyAsync(pinned, piece.from, piece.bytes,
                                                      cudaMemcpyDeviceToHost, gpu->stream)
                                    : cudaMemcpy2DAsync(pinned, aligned(piece.bytes), piece.from,
                                                        piece.pitch, piece.bytes, piece.rows,
                                                        cudaMemcpyDeviceToHost, gpu->stream),
                                "tracks", err));
        }
        pinned += piece.rows * aligned(piece.bytes);
    }
    *result = (tm_fused_result_t){.counts = (const tm_fused_counts_t *)at[COUNTS],
                                  .offsets = (const uint32_t *)at[OFFSETS],
                                  .indices = (const uint32_t *)at[INDICES],
                                  .scores = (const float *)at[SCORES]};
    if (post->pt) {
        for (int k = 0; k < STARTS; k++) {
            result->starts[k] =
                (const float *)(at[START_VALUES] + k * aligned(pieces[START_VALUES].bytes));
        }
        result->charge = (const int8_t *)at[CHARGES];
    }
    return tm_gpu_wait(gpu, "finding tracks", err);
}

tm_status_t tm_fused_clear_answer(tm_gpu_t *gpu, const tm_fused_plan_t *plan,
                                  const tm_fused_post_t *post, tm_error_t *err) {
    piece_t pieces[PIECES];
    pieces_of(plan, post, gpu->device.pipeline, plan->capacity.points, pieces);
    for (const piece_t &piece : pieces) {
        if (piece.bytes > 0) {
            TM_TRY(tm_gpu_check(gpu,
                                cudaMemset2DAsync((void *)piece.from, piece.pitch, 0, piece.bytes,
                                                  piece.rows, gpu->stream),
                                "preparing memory", err));
        }
    }
    return TM_OK;
}

static tm_status_t hand_out_starts(const tm_fused_result_t *r, uint32_t first, tm_tracks_t *tracks,
                                   tm_error_t *err) {
    TM_TRY(tm_tracks_add_starts(tracks, err));
    float *const to[STARTS] = {tracks->starts.pt, tracks->starts.phi, tracks->starts.eta,
                               tracks->starts.d0, tracks->starts.z0};
    for (int k = 0; k < STARTS; k++) {
        memcpy(to[k], r->starts[k] + first, tracks->n_tracks * sizeof(float));
    }
    memcpy(tracks->starts.charge, r->charge + first, tracks->n_tracks);
    return TM_OK;
}

/* Tracks lie in the order of their least rows: those of an event are in one piece. */
tm_status_t tm_fused_hand_out(const tm_fused_result_t *r, tm_engine_item_t *items, uint32_t n,
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
        if (r->charge) {
            TM_TRY(hand_out_starts(r, track, tracks, err));
        }
        track = end;
        first_row = end_row;
    }
    return TM_OK;
}
