// SPDX-License-Identifier: Apache-2.0
/*
 * What the kernel of the interaction network (gnn.cu) does one after the other: phases, between which
 * its blocks wait for each other. A phase is something for all nodes, for all edges, or both side by
 * side; the steps but the last are the same phases again and again.
 */
#ifndef TM_NN_CUDA_FUSED_GNN_PHASES_CUH
#define TM_NN_CUDA_FUSED_GNN_PHASES_CUH

#include "nn/cuda/fused/stages.cuh"

#define TM_GNN_NONE (-1)

/* MLPs, and tables that have an image of their own. The first ones are of nodes. */
enum {
    TM_GNN_NODE_ENCODER,
    TM_GNN_NODE_MLP,
    TM_GNN_LAST_NODE_MLP,
    TM_GNN_ENCODER_TABLES,
    TM_GNN_EDGE_TABLES,
    TM_GNN_OUTPUT_TABLES,
    TM_GNN_NODE_NETS,
    TM_GNN_EDGE_ENCODER = TM_GNN_NODE_NETS,
    TM_GNN_EDGE_MLP,
    TM_GNN_OUTPUT,
    TM_GNN_NETS
};

/* What goes in before a node MLP, and the tables behind it. */
typedef struct {
    uint32_t n_parts;
    tm_fused_node_part_t part[TM_INPUTS_MAX];
    tm_fused_tables_t tables;
} tm_gnn_node_net_t;

/* An MLP's image in shared memory. */
typedef struct {
    int net; /* TM_GNN_NONE: none */
    uint32_t at;
} tm_gnn_image_t;

#define TM_GNN_EXTRA_TABLES_MAX 2

/* What all blocks do between two waits for each other. Slots and generations are those of even steps;
 * in odd ones they are exchanged. */
typedef struct {
    tm_gnn_image_t nodes, edges, output;
    tm_gnn_image_t extra[TM_GNN_EXTRA_TABLES_MAX]; /* more tables of the nodes' new states */
    uint32_t extra_slot[TM_GNN_EXTRA_TABLES_MAX];
    bool encode;       /* from features, not from states */
    bool lists[2];     /* node inputs over the edges that end there, that start there */
    bool update_edges; /* else their states are only looked at */
    uint32_t node_slot, edge_slot, output_slot; /* where tables are */
    uint32_t e_from, e_to;                      /* generations */
} tm_gnn_phase_t;

#define TM_GNN_PHASE_BYTES 128u /* of shared memory */
static_assert(sizeof(tm_gnn_phase_t) <= TM_GNN_PHASE_BYTES, "room");

/* Encoders, a step (all but the last), the last step and the output: each in up to three. */
#define TM_GNN_PHASES_MAX 12

/* What the kernel gets. */
typedef struct {
    const tm_fused_counts_t *counts;
    uint32_t capacity;     /* of edges */
    const float *features; /* [n, 16] */
    float *x, *x0;         /* x0 NULL: nobody wants it */
    const uint32_t *src_offsets, *dst_offsets, *by_dst;
    tm_gpu_edge_features_t edge_features;
    const float4 *place;
    const uint32_t *src, *dst;
    __half *tables;
    __half *e[2], *e0;
    float *logits;
    bool with_e0;
    bool node_residual, edge_residual;
    bool two_generations;

    tm_fused_mlp_t mlp[TM_GNN_NETS];
    tm_gnn_node_net_t node[TM_GNN_NODE_NETS];
    tm_gnn_phase_t phase[TM_GNN_PHASES_MAX];
    uint32_t n_first, n_repeated, n_last; /* phases: encoders, each step but the last, the rest */
    uint32_t steps;
    uint32_t stage_at, stage_rows; /* in shared memory; rows of each warp */
} tm_gnn_network_t;

/* Nets and phases of a model into *a, with places for the images and stage_at behind them. Images of up
 * to `roomy` bytes are put beside each other where that makes fewer phases. */
void tm_gnn_add_phases(const tm_fused_model_t *model, size_t roomy, tm_gnn_network_t *a);

#endif
