// SPDX-License-Identifier: Apache-2.0
/*
 * Frame 2 and the field "columns". Input: length of the field (2 bytes, little-endian), the field, the
 * payload.
 *
 * What is accepted must be encoded to the same payload; an event or tracks that pass their checks must
 * hold what those promise.
 */
#include <math.h>
#include <string.h>

#include "fuzz.h"

enum { N_POINTS = 100 };

static void check_columns(const tm_columns_t *columns, const void *payload, size_t bytes) {
    static uint8_t again[FUZZ_BYTES_MAX], field[TM_COLUMNS_FIELD_MAX];
    tm_slice_t slice;
    tm_error_t err;
    double sum = 0;
    for (uint32_t i = 0; i < columns->count; i++) {
        for (uint64_t row = 0; row < columns->column[i].n; row++) {
            sum += tm_column_get(&columns->column[i], row);
        }
    }
    (void)sum;
    FUZZ_CHECK(tm_payload_bytes(columns) == bytes);
    FUZZ_CHECK(bytes <= sizeof again);
    FUZZ_CHECK(tm_payload_encode(columns, again, field, &slice, &err) == TM_OK);
    FUZZ_CHECK(bytes == 0 || memcmp(again, payload, bytes) == 0);
}

static void check_event(const tm_columns_t *columns) {
    tm_error_t err;
    uint32_t n = 0;
    if (tm_event_check(columns, &n, &err) != TM_OK) {
        return;
    }
    const tm_column_t *z = tm_columns_find(columns, "z");
    FUZZ_CHECK(z && z->n == n);
    for (uint32_t i = 0; i < n; i++) {
        FUZZ_CHECK(fabs(tm_column_get(z, i)) <= TM_POSITION_MAX_MM);
    }
}

static void check_tracks(const tm_columns_t *columns) {
    tm_error_t err;
    tm_tracks_t tracks;
    if (tm_tracks_from_columns(columns, N_POINTS, &tracks, &err) != TM_OK) {
        FUZZ_CHECK(!tracks.offsets && !tracks.indices && !tracks.scores && !tracks.starts.charge);
        return;
    }
    uint8_t used[N_POINTS] = {0};
    for (uint32_t t = 0; t < tracks.n_tracks; t++) {
        for (uint32_t i = tracks.offsets[t]; i < tracks.offsets[t + 1]; i++) {
            FUZZ_CHECK(tracks.indices[i] < N_POINTS && !used[tracks.indices[i]]++);
        }
        FUZZ_CHECK(tracks.scores[t] >= 0 && tracks.scores[t] <= 1);
        if (tracks.starts.charge) {
            const tm_starts_t *s = &tracks.starts;
            FUZZ_CHECK(isfinite(s->pt[t] + s->phi[t] + s->eta[t]) && isfinite(s->d0[t] + s->z0[t]));
            FUZZ_CHECK(s->charge[t] >= -1 && s->charge[t] <= 1);
        }
    }
    tm_columns_t back;
    FUZZ_CHECK(tm_tracks_to_columns(&tracks, &back, &err) == TM_OK);
    tm_tracks_clear(&tracks);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes < 2 || bytes > FUZZ_BYTES_MAX) {
        return 0;
    }
    size_t field_bytes = (size_t)(data[0] | data[1] << 8);
    data += 2;
    bytes -= 2;
    if (field_bytes > bytes) {
        field_bytes = bytes;
    }
    tm_slice_t field = {(const char *)data, (uint32_t)field_bytes};
    const uint8_t *raw = data + field_bytes;
    size_t payload_bytes = bytes - field_bytes;
    void *copy = NULL;
    tm_columns_t columns;
    tm_error_t err = {0};
    const void *payload = tm_payload_aligned(raw, payload_bytes, &copy, &err);
    if (!payload) {
        return 0;
    }
    tm_status_t status = tm_payload_decode(field, payload, payload_bytes, &columns, &err);
    if (status == TM_OK) {
        check_columns(&columns, payload, payload_bytes);
        check_event(&columns);
        check_tracks(&columns);
    } else {
        FUZZ_CHECK(status == TM_E_MALFORMED && err.text[0] && columns.count == 0);
    }
    free(copy);
    return 0;
}

/* Columns of an event or of tracks, mostly right. */
static void seed_columns(sample_rng_t *rng, tm_columns_t *columns) {
    static float real[3][N_POINTS];
    static uint32_t offsets[N_POINTS + 1], indices[N_POINTS];
    tm_error_t err;
    uint64_t n = sample_below(rng, 12);
    for (uint64_t i = 0; i < n; i++) {
        for (int k = 0; k < 3; k++) {
            real[k][i] = (float)sample_below(rng, 1000) / 999;
        }
        offsets[i + 1] = (uint32_t)(2 * i + 2);
        indices[2 * i] = (uint32_t)(N_POINTS - 1 - i);
        indices[2 * i + 1] = (uint32_t)i;
    }
    columns->count = 0;
    if (sample_below(rng, 2) == 0) {
        static const char *const names[] = {"x", "y", "z"};
        for (int k = 0; k < 3; k++) {
            FUZZ_CHECK(tm_columns_add(columns, names[k], TM_F32, n, real[k], &err) == TM_OK);
        }
    } else {
        FUZZ_CHECK(tm_columns_add(columns, "offsets", TM_U32, n + 1, offsets, &err) == TM_OK);
        FUZZ_CHECK(tm_columns_add(columns, "indices", TM_U32, 2 * n, indices, &err) == TM_OK);
        FUZZ_CHECK(tm_columns_add(columns, "scores", TM_F32, n, real[0], &err) == TM_OK);
        if (sample_below(rng, 2) == 0) {
            static const char *const names[] = {"pt", "phi", "eta", "d0", "z0"};
            static const int8_t charge[N_POINTS];
            for (int k = 0; k < 5; k++) {
                FUZZ_CHECK(tm_columns_add(columns, names[k], TM_F32, n, real[k % 3], &err) ==
                           TM_OK);
            }
            FUZZ_CHECK(tm_columns_add(columns, "charge", TM_I8, n, charge, &err) == TM_OK);
        }
    }
}

size_t fuzz_seed(sample_rng_t *rng, uint8_t *out) {
    static sample_t sample;
    static _Alignas(8) uint8_t payload[FUZZ_BYTES_MAX];
    static uint8_t field_bytes[TM_COLUMNS_FIELD_MAX];
    tm_columns_t columns;
    tm_slice_t field;
    tm_error_t err;
    if (sample_below(rng, 3) == 0) {
        sample_message(rng, tm_schema_command(TM_CMD_RESULT), false, &sample);
        columns = sample.columns;
    } else {
        seed_columns(rng, &columns);
    }
    size_t bytes = tm_payload_bytes(&columns);
    FUZZ_CHECK(tm_payload_encode(&columns, payload, field_bytes, &field, &err) == TM_OK);
    FUZZ_CHECK(2 + field.bytes + bytes <= FUZZ_BYTES_MAX);
    out[0] = (uint8_t)field.bytes;
    out[1] = (uint8_t)(field.bytes >> 8);
    memcpy(out + 2, field.data, field.bytes);
    memcpy(out + 2 + field.bytes, payload, bytes);
    return 2 + field.bytes + bytes;
}
