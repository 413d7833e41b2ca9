// SPDX-License-Identifier: Apache-2.0
/*
 * How far two sets of track candidates of one event agree, as partitions of its space points.
 *
 * A candidate has a twin when the other set has one of exactly the same space points, in whatever
 * order. The share that differs is candidates without a twin over all candidates, of both sets: 0
 * when the partitions are the same, 1 when no candidate is found again. Two empty sets agree.
 */
#ifndef TM_CLI_BENCH_AGREE_H
#define TM_CLI_BENCH_AGREE_H

#include "wire/columns.h"

typedef struct {
    double differing;        /* the share, 0 … 1 */
    double score_difference; /* the greatest between twins */
    uint64_t lone, all;      /* candidates without a twin, candidates of both sets */
} tm_bench_agreement_t;

/* Which candidate of *tracks owns each space point: owner[n_points], TM_BENCH_NOBODY for none.
 * Points are in one candidate at most (tm_tracks_t). */
#define TM_BENCH_NOBODY UINT32_MAX
void tm_bench_agree_owners(const tm_tracks_t *tracks, uint32_t *owner);

/* owner: of the reference. Both sets are of the same event. Time: linear in the points of *tracks. */
void tm_bench_agree(const tm_tracks_t *tracks, const tm_tracks_t *reference, const uint32_t *owner,
                    tm_bench_agreement_t *out);

#endif
