// SPDX-License-Identifier: Apache-2.0
/*
 * The pairs of chains that the step `join` of a model scores, for join.py to fit the weights by.
 *
 *   join_pairs MODEL EVENT… > pairs.csv
 *
 * It is the engine on the CPU; only its step join is the one of this file, which writes a row for every
 * pair within reach that has a joint fit, before it joins as ever:
 *
 *   event       number of the file on the command line
 *   true        1: more than half of the points of both chains are one particle's
 *   pt          of that particle, GeV; 0 where not true
 *   term1 …     what the weights w1 … w6 of docs/model-file.md are multiplied by
 *
 * A point of a merged cluster counts for each of its particles. The model's own weights play no part.
 */
#include <stdio.h>

#include "client/event_file.h"
#include "nn/tracks_chains.h"

/* The step as it is, with what is static in it, under another name. */
#define tm_chains_join join_as_ever
#include "nn/tracks_join.c"
#undef tm_chains_join

#define NO_PARTICLE UINT32_MAX

/* For the step, which the engine calls with nothing but its chains. */
static const tm_event_file_t *event;
static int event_number;

static void die(const char *what) {
    fprintf(stderr, "join_pairs: %s\n", what);
    exit(EXIT_FAILURE);
}

static void check(tm_status_t status, const tm_error_t *err) {
    if (status != TM_OK) {
        die(err->text);
    }
}

/* How many of the chain's points are this particle's. */
static uint32_t points_of(const tm_chains_t *chains, uint32_t chain, uint32_t particle) {
    uint32_t count = 0;
    for (uint32_t i = chains->offsets[chain]; i < chains->offsets[chain + 1]; i++) {
        uint32_t row = chains->rows[i];
        for (uint32_t k = event->link_offset[row]; k < event->link_offset[row + 1]; k++) {
            count += event->link_particle[k] == particle;
        }
    }
    return count;
}

/* The particle that more than half of a chain's points belong to; of two the one met first. */
static uint32_t owner_of(const tm_chains_t *chains, uint32_t chain) {
    uint32_t begin = chains->offsets[chain];
    uint32_t n = chains->offsets[chain + 1] - begin;
    for (uint32_t i = 0; i <= n / 2; i++) { /* it owns one of these */
        uint32_t row = chains->rows[begin + i];
        for (uint32_t k = event->link_offset[row]; k < event->link_offset[row + 1]; k++) {
            uint32_t particle = event->link_particle[k];
            if (2 * points_of(chains, chain, particle) > n) {
                return particle;
            }
        }
    }
    return NO_PARTICLE;
}

/* A row, unless the pair has no fit. Term k is the score where weight k is 1 and the others are 0. */
static void write_pair(const work_t *w, uint32_t a, uint32_t b, const uint32_t *owner) {
    tm_pipeline_t pipeline = *w->chains->pipeline;
    tm_chains_t chains = *w->chains;
    work_t unit = *w;
    double term[TM_JOIN_WEIGHTS];
    chains.pipeline = &pipeline;
    unit.chains = &chains;
    for (int k = 0; k < TM_JOIN_WEIGHTS; k++) {
        for (int j = 0; j < TM_JOIN_WEIGHTS; j++) {
            pipeline.tracks.join.weight[j] = j == k ? 1.0f : 0.0f;
        }
        term[k] = score_of(&unit, a, b);
        if (!isfinite(term[k])) {
            return;
        }
    }
    bool same = owner[a] != NO_PARTICLE && owner[a] == owner[b];
    const tm_particle_t *particle = same ? &event->particles[owner[a]] : NULL;
    printf("%d,%d,%.6g", event_number, same, same ? hypot(particle->px, particle->py) : 0.0);
    for (int k = 1; k < TM_JOIN_WEIGHTS; k++) {
        printf(",%.9g", term[k]);
    }
    printf("\n");
}

tm_status_t tm_chains_join(tm_chains_t *chains, tm_error_t *err) {
    shape_t *shape = calloc((size_t)chains->n + 1, sizeof *shape);
    uint32_t *owner = calloc((size_t)chains->n + 1, sizeof *owner);
    if (!shape || !owner) {
        die("no memory");
    }
    work_t w = {.chains = chains, .shape = shape};
    for (uint32_t c = 0; c < chains->n; c++) {
        describe(&w, c);
        owner[c] = owner_of(chains, c);
    }
    for (uint32_t a = 0; a < chains->n; a++) {
        for (uint32_t b = 0; b < chains->n; b++) {
            if (a != b && shape[a].fitted && shape[b].fitted &&
                near(chains->pipeline, &shape[a], &shape[b])) {
                write_pair(&w, a, b, owner);
            }
        }
    }
    free(shape);
    free(owner);
    return join_as_ever(chains, err);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        die("usage: join_pairs MODEL EVENT…");
    }
    tm_error_t err = {0};
    tm_model_t *model = NULL;
    tm_engine_t *engine = NULL;
    check(tm_model_load(argv[1], &model, &err), &err);
    if (!tm_model_pipeline(model)->tracks.join.present) {
        die("the model has no tracks.join, which says how far apart two chains may be");
    }
    check(tm_engine_new(model, &(tm_engine_options_t){.device = "cpu"}, &engine, &err), &err);
    printf("event,true,pt,term1,term2,term3,term4,term5,term6\n");
    for (int i = 2; i < argc; i++) {
        tm_event_file_t file = {0};
        tm_tracks_t tracks = {0};
        check(tm_event_file_read(argv[i], &file, &err), &err);
        if (!file.has_truth) {
            die("an event without truth");
        }
        event = &file;
        event_number = i - 2;
        check(tm_engine_find(engine, &file.columns, NULL, &tracks, NULL, NULL, &err), &err);
        tm_tracks_clear(&tracks);
        tm_event_file_clear(&file);
    }
    tm_engine_destroy(&engine);
    tm_model_destroy(&model);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
