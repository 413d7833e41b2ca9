// SPDX-License-Identifier: Apache-2.0
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/cpu/cpu.h"

#define HAS_OUTGOING 1u
#define HAS_INCOMING 2u
#define SIGN 0x80000000u
#define RADIX_BITS 8 /* four passes: an even number, so that the result is in place */
#define RADIX (1u << RADIX_BITS)

/* An edge that may be taken. */
typedef struct {
    float logit;
    uint32_t edge;
} candidate_t;

/* The higher the logit, the lower its key. */
static uint32_t key_of(float logit) {
    uint32_t bits;
    memcpy(&bits, &logit, sizeof bits);
    /* floats order as integers once the negative ones are turned over; −0 is 0 */
    bits = logit == 0 ? 0 : bits;
    return bits & SIGN ? bits : ~SIGN & ~bits;
}

/* Sorts from the best down, ties by edge, which they come sorted by: stable, byte by byte. */
static void sort_by_logit(candidate_t *list, candidate_t *other, uint32_t n) {
    for (unsigned shift = 0; shift < 32; shift += RADIX_BITS) {
        uint32_t place[RADIX] = {0};
        for (uint32_t i = 0; i < n; i++) {
            place[key_of(list[i].logit) >> shift & (RADIX - 1)]++;
        }
        uint32_t sum = 0;
        for (uint32_t k = 0; k < RADIX; k++) {
            uint32_t count = place[k];
            place[k] = sum;
            sum += count;
        }
        for (uint32_t i = 0; i < n; i++) {
            other[place[key_of(list[i].logit) >> shift & (RADIX - 1)]++] = list[i];
        }
        candidate_t *swap = list;
        list = other;
        other = swap;
    }
}

/* Leaves in list the edges that the builder takes and returns their number. Taking edges from the
 * best down wherever both ends are free gives the same set as taking, in rounds, all that are the
 * best of both their ends: the best edge left is always one of those. other: as large, to work in. */
static uint32_t take_best_edges(candidate_t *list, candidate_t *other, uint32_t n_list,
                                const tm_edges_t *edges, uint8_t *used) {
    sort_by_logit(list, other, n_list);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < n_list; i++) {
        uint32_t src = edges->src[list[i].edge];
        uint32_t dst = edges->dst[list[i].edge];
        if (!(used[src] & HAS_OUTGOING) && !(used[dst] & HAS_INCOMING)) {
            used[src] |= HAS_OUTGOING;
            used[dst] |= HAS_INCOMING;
            list[taken++] = list[i];
        }
    }
    return taken;
}

tm_status_t tm_cpu_tracks(tm_device_t *device, const tm_points_t *points, const tm_edges_t *edges,
                          const float *logits, tm_tracks_t *tracks, uint64_t *track_edges,
                          tm_error_t *err) {
    tm_cpu_t *cpu = (tm_cpu_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    const struct {
        tm_buffer_t *buffer;
        size_t count, bytes;
    } arrays[] = {{&cpu->order, 2 * (size_t)edges->n, sizeof(candidate_t)},
                  {&cpu->used, points->n, sizeof(uint8_t)},
                  {&cpu->link_src, edges->n, sizeof(uint32_t)},
                  {&cpu->link_dst, edges->n, sizeof(uint32_t)},
                  {&cpu->link_logits, edges->n, sizeof(float)}};
    for (size_t k = 0; k < sizeof arrays / sizeof arrays[0]; k++) {
        tm_status_t status = tm_buffer_reserve(arrays[k].buffer, arrays[k].count, arrays[k].bytes,
                                               "track edges", err);
        if (status != TM_OK) {
            return status;
        }
    }
    double cut = (double)p->tracks.cut;
    double least = cut <= 0 ? -INFINITY : cut >= 1 ? INFINITY : log(cut / (1 - cut));
    candidate_t *list = cpu->order.data;
    uint32_t n_list = 0;
    for (uint32_t k = 0; k < edges->n; k++) {
        if ((double)logits[k] > least) {
            list[n_list++] = (candidate_t){.logit = logits[k], .edge = k};
        }
    }
    if (p->tracks.builder == TM_BUILDER_BEST_EDGES) {
        memset(cpu->used.data, 0, points->n);
        n_list = take_best_edges(list, list + edges->n, n_list, edges, cpu->used.data);
    }
    uint32_t *src = cpu->link_src.data;
    uint32_t *dst = cpu->link_dst.data;
    float *link_logits = cpu->link_logits.data;
    for (uint32_t k = 0; k < n_list; k++) {
        src[k] = edges->src[list[k].edge];
        dst[k] = edges->dst[list[k].edge];
        link_logits[k] = list[k].logit;
    }
    const tm_links_t links = {.n = n_list, .src = src, .dst = dst, .logits = link_logits};
    return tm_post_run(cpu->post, p, points, &links, cpu->threads, device->cancelled, tracks,
                       track_edges, err);
}
