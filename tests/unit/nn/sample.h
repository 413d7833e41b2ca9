// SPDX-License-Identifier: Apache-2.0
/* What the tests of the engine share: random numbers, events, graphs and comparisons. */
#ifndef TM_TESTS_NN_SAMPLE_H
#define TM_TESTS_NN_SAMPLE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* needs the headers above */
#include <cmocka.h>

#include "nn/stages.h"

/* A new seed for this run, printed; TM_SEED in the environment repeats an old one. */
uint64_t tm_sample_seed(void);

double tm_sample_uniform(uint64_t *state); /* [0, 1) */
uint32_t tm_sample_below(uint64_t *state, uint32_t n);
double tm_sample_normal(uint64_t *state);

/* An event along helices with every column that any model of the zoo needs. */
typedef struct {
    tm_columns_t columns;
    float *memory;
} tm_sample_event_t;
void tm_sample_event(tm_sample_event_t *event, uint32_t n, uint64_t *state);
void tm_sample_event_clear(tm_sample_event_t *event);

/* Points of a detector, without an event around them; free .r. */
tm_points_t tm_sample_points(uint32_t n, uint64_t *state);

/* [n, dim] normally distributed coordinates, as an embedding; free it. */
float *tm_sample_cloud(uint32_t n, uint32_t dim, uint64_t *state);

/* About n_edges random edges between n points, sorted, none twice; free .src and .dst. */
tm_edges_t tm_sample_edges(uint32_t n, uint32_t n_edges, uint64_t *state);

/* A node with more edges than any block of rows: all start at 0 or end at n − 1; free as above. */
tm_edges_t tm_sample_hubs(uint32_t n);

/* All aggregations, orders and residuals: the inputs of the zoo's "standard", exchanged for others as
 * wide. option < TM_SAMPLE_OPTIONS. */
#define TM_SAMPLE_OPTIONS 24
void tm_sample_option(uint32_t option, tm_pipeline_t *pipeline);

/* An embedding of layers in any order, also those that no model of the zoo has, from at most 20
 * features, which it takes backwards, to TM_SAMPLE_LAYERS_OUT values. The pipeline borrows the weights. */
#define TM_SAMPLE_LAYERS_OUT 5
#define TM_SAMPLE_LAYERS_WIDTH 48
typedef struct {
    float weight[TM_SAMPLE_LAYERS_WIDTH * TM_SAMPLE_LAYERS_WIDTH];
    float gain[TM_SAMPLE_LAYERS_WIDTH], bias[TM_SAMPLE_LAYERS_WIDTH];
    float mean[TM_SAMPLE_LAYERS_WIDTH], var[TM_SAMPLE_LAYERS_WIDTH];
} tm_sample_weights_t;
void tm_sample_layers(tm_pipeline_t *pipeline, tm_sample_weights_t *weights, uint64_t *state);

/* ‖a − b‖ / ‖b‖ must be below `limit` (of less than 64 values: ‖b‖ counts as at least 1); `what` is
 * for the message. */
void tm_sample_assert_close(const float *a, const float *b, size_t n, double limit,
                            const char *what);
void tm_sample_assert_same_edges(const tm_edges_t *a, const tm_edges_t *b);
/* Candidates, points and their order alike, scores to 1e-6. */
void tm_sample_assert_same_tracks(const tm_tracks_t *a, const tm_tracks_t *b);

/* A device context on these stages; asserts success. */
tm_device_t *tm_sample_open(const tm_stages_t *stages, const tm_pipeline_t *pipeline, int threads);

#endif
