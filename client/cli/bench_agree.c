// SPDX-License-Identifier: Apache-2.0
#include "client/cli/bench_agree.h"

#include <math.h>

void tm_bench_agree_owners(const tm_tracks_t *tracks, uint32_t *owner) {
    for (uint32_t i = 0; i < tracks->n_points; i++) {
        owner[i] = TM_BENCH_NOBODY;
    }
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        for (uint32_t i = tracks->offsets[t]; i < tracks->offsets[t + 1]; i++) {
            owner[tracks->indices[i]] = t;
        }
    }
}

/* The twin of candidate t, or TM_BENCH_NOBODY. No point comes twice in a candidate, so that equal
 * length and one owner for all make equal sets. */
static uint32_t find_twin(const tm_tracks_t *tracks, uint32_t t, const tm_tracks_t *reference,
                          const uint32_t *owner) {
    uint32_t begin = tracks->offsets[t], end = tracks->offsets[t + 1];
    uint32_t twin = begin < end ? owner[tracks->indices[begin]] : TM_BENCH_NOBODY;
    if (twin == TM_BENCH_NOBODY ||
        reference->offsets[twin + 1] - reference->offsets[twin] != end - begin) {
        return TM_BENCH_NOBODY;
    }
    for (uint32_t i = begin; i < end; i++) {
        if (owner[tracks->indices[i]] != twin) {
            return TM_BENCH_NOBODY;
        }
    }
    return twin;
}

void tm_bench_agree(const tm_tracks_t *tracks, const tm_tracks_t *reference, const uint32_t *owner,
                    tm_bench_agreement_t *out) {
    uint64_t twins = 0;
    *out = (tm_bench_agreement_t){.all = (uint64_t)tracks->n_tracks + reference->n_tracks};
    for (uint32_t t = 0; t < tracks->n_tracks; t++) {
        uint32_t twin = find_twin(tracks, t, reference, owner);
        if (twin == TM_BENCH_NOBODY) {
            continue;
        }
        twins++;
        double difference = fabs((double)tracks->scores[t] - (double)reference->scores[twin]);
        if (!(difference <= out->score_difference)) {
            out->score_difference = difference;
        }
    }
    out->lone = out->all - 2 * twins;
    out->differing = out->all ? (double)out->lone / (double)out->all : 0;
}
