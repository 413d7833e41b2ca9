// SPDX-License-Identifier: Apache-2.0
#include "nn/tracks_chains.h"

#include <math.h>

#define SPLIT_ROUNDS_MAX 8
#define SPLIT_POINTS_MIN 4 /* a circle goes through any three */
#define BLOCK 64           /* chains that a thread takes at a time */

void tm_chains_list(tm_chains_t *chains, uint32_t least) {
    const uint32_t *next = chains->next;
    uint32_t n_rows = 0;
    chains->n = 0;
    chains->offsets[0] = 0;
    for (uint32_t i = 0; i < chains->points->n; i++) {
        if (next[i] == TM_NO_POINT || chains->prev[i] != TM_NO_POINT) {
            continue;
        }
        uint32_t begin = n_rows;
        for (uint32_t row = i; row != TM_NO_POINT; row = next[row]) {
            chains->rows[n_rows++] = row;
        }
        if (n_rows - begin < least) {
            n_rows = begin;
        } else {
            chains->offsets[++chains->n] = n_rows;
        }
    }
}

void tm_chains_link(tm_chains_t *chains, uint32_t from, uint32_t to, float logit) {
    chains->next[from] = to;
    chains->prev[to] = from;
    chains->logit[from] = logit;
}

void tm_chains_break(tm_chains_t *chains, uint32_t from) {
    chains->prev[chains->next[from]] = TM_NO_POINT;
    chains->next[from] = TM_NO_POINT;
}

/* ---- split ---- */

/* A stretch of rows that is a chain. */
typedef struct {
    uint32_t begin, end;
} stretch_t;

static float logit_of(float score) {
    double p = (double)score;
    return p <= 0 ? -INFINITY : p >= 1 ? INFINITY : (float)log(p / (1 - p));
}

/* Whether the points around the link from rows[at] to rows[at + 1] are of one helix. */
static bool fits(const tm_chains_t *chains, stretch_t s, uint32_t at) {
    uint32_t ends = chains->pipeline->tracks.fit.ends;
    uint32_t begin = at + 1 - s.begin > ends ? at + 1 - ends : s.begin;
    uint32_t end = s.end - (at + 1) > ends ? at + 1 + ends : s.end;
    uint32_t n = end - begin;
    if (n < SPLIT_POINTS_MIN) {
        return true;
    }
    tm_fit_t fit;
    return tm_fit_helix(chains->pipeline, chains->fit_point, chains->rows + begin, n,
                        (double)chains->pipeline->tracks.split.chi2, &fit);
}

/* Where the stretch is broken: behind the row at this place; s.end: nowhere. */
static uint32_t find_break(const tm_chains_t *chains, stretch_t s, float sure) {
    uint32_t worst = s.end;
    for (uint32_t at = s.begin; at + 1 < s.end; at++) {
        float logit = chains->logit[chains->rows[at]];
        bool worse = worst == s.end || logit < chains->logit[chains->rows[worst]];
        if (logit < sure && worse && !fits(chains, s, at)) {
            worst = at;
        }
    }
    return worst;
}

tm_status_t tm_chains_split(tm_chains_t *chains, tm_error_t *err) {
    /* every break makes two stretches of at least one point out of one */
    uint32_t n_rows = chains->offsets[chains->n];
    tm_status_t status = tm_buffer_reserve(chains->scratch, 2 * (size_t)n_rows,
                                           sizeof(stretch_t) + sizeof(uint32_t), "chains", err);
    if (status != TM_OK) {
        return status;
    }
    stretch_t *now = chains->scratch->data;
    stretch_t *then = now + n_rows;
    uint32_t *at = (uint32_t *)(then + n_rows);
    float sure = logit_of(chains->pipeline->tracks.split.score);
    uint32_t n = chains->n;
    for (uint32_t c = 0; c < n; c++) {
        now[c] = (stretch_t){chains->offsets[c], chains->offsets[c + 1]};
    }
    for (int round = 0; round < SPLIT_ROUNDS_MAX && n > 0; round++) {
#pragma omp parallel for schedule(dynamic, BLOCK) num_threads(chains->threads)
        for (uint32_t c = 0; c < n; c++) {
            at[c] = find_break(chains, now[c], sure);
        }
        uint32_t m = 0;
        for (uint32_t c = 0; c < n; c++) {
            if (at[c] != now[c].end) {
                tm_chains_break(chains, chains->rows[at[c]]);
                then[m++] = (stretch_t){now[c].begin, at[c] + 1};
                then[m++] = (stretch_t){at[c] + 1, now[c].end};
            }
        }
        stretch_t *swap = now;
        now = then;
        then = swap;
        n = m;
    }
    return TM_OK;
}

/* ---- select ---- */

void tm_chains_select(tm_chains_t *chains) {
    for (uint32_t c = 0; c < chains->n; c++) {
        const uint32_t *row = chains->rows + chains->offsets[c];
        uint32_t n = chains->offsets[c + 1] - chains->offsets[c];
        if (n > chains->pipeline->tracks.select.points) {
            continue;
        }
        double sum = 0;
        for (uint32_t k = 0; k + 1 < n; k++) {
            sum += 1 / (1 + exp(-(double)chains->logit[row[k]]));
        }
        if (sum / (n - 1) < (double)chains->pipeline->tracks.select.score) {
            for (uint32_t k = 0; k + 1 < n; k++) {
                tm_chains_break(chains, row[k]);
            }
        }
    }
}
