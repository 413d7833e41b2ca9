// SPDX-License-Identifier: Apache-2.0
/*
 * The weights of a pipeline as the fused kernels want them, and whether they can run it at all.
 */
#ifndef TM_NN_CUDA_FUSED_MODEL_CUH
#define TM_NN_CUDA_FUSED_MODEL_CUH

#include "nn/cuda/fused/mma.cuh"

/* Features of a space point, or of an edge, that fit the first layer of the fused kernels. */
#define TM_FUSED_FEATURES_MAX 16
/* Features go in as hi + lo halves where a point's place matters to the last bits: x ≈ hi + lo,
 * w·x ≈ w_hi·hi + w_hi·lo + w_lo·hi. */
#define TM_FUSED_SPLIT_STEPS 3
#define TM_FUSED_TABLES_MAX 4 /* two generations of two */
/* Sums over the edges of a node are kept in fp16 as this part of their value. */
#define TM_FUSED_SUM_SCALE (1.0f / 64)

typedef enum {
    TM_FUSED_X,
    TM_FUSED_X0,
    TM_FUSED_SUM, /* over edges, scaled; the others are not */
    TM_FUSED_MAX,
    TM_FUSED_MEAN
} tm_fused_node_kind_t;

typedef struct {
    tm_fused_node_kind_t kind;
    bool at_src; /* over the edges that start at the node, not those that end there */
} tm_fused_node_part_t;

/* Products per node, [H, parts · H] each: what an edge's first layer looks up. */
typedef struct {
    uint32_t n;
    bool with_x0;
    /* of sources and of targets, in the image of the MLP before them; behind the encoder of two MLPs */
    tm_fused_layer_t table[TM_FUSED_TABLES_MAX];
} tm_fused_tables_t;

/* A node MLP and the tables to be made of its result; or tables alone (mlp.n_layers 0), where all
 * together do not fit into shared memory. */
typedef struct {
    tm_fused_mlp_t mlp;
    uint32_t n_parts;
    tm_fused_node_part_t part[TM_INPUTS_MAX];
    tm_fused_tables_t tables;
} tm_fused_node_mlp_t;

/* The weights of a step. */
typedef struct {
    tm_fused_node_mlp_t node_mlp;    /* with the tables of the next step's edge MLP, if they fit */
    tm_fused_node_mlp_t edge_tables; /* those of this step's edge MLP, alone, where needed */
    tm_fused_mlp_t edge_mlp;         /* k steps: e, and e0 if with_e0 */
} tm_fused_step_t;

typedef struct {
    uint32_t embed_width;  /* 128, 256 or 512 */
    uint32_t filter_width; /* 64 or 128, like the next; 0: there is no filter */
    uint32_t gnn_width;
    tm_fused_mlp_t embed;  /* the last layer is among the layers, padded to 16 outputs */
    tm_fused_mlp_t filter; /* k steps: source, target, edge features */
    tm_fused_node_mlp_t node_encoder;
    uint32_t n_steps; /* whose weights differ; 1: all steps share them */
    tm_fused_step_t step[TM_GNN_STEPS_MAX];
    tm_fused_node_mlp_t last_node_mlp; /* with the tables of the output, if they fit */
    tm_fused_node_mlp_t encoder_tables, output_tables;
    bool tables_apart;           /* they did not fit */
    bool encoder_together;       /* the encoder has those of edge encoder and first edge MLP */
    uint32_t n_sums;             /* inputs of the node MLP that are over edges */
    tm_fused_mlp_t edge_encoder; /* k steps: edge features, hi and lo */
    tm_fused_mlp_t output;       /* k steps: e */
    bool with_x0, with_e0;       /* the encoders' results are wanted again */
    bool edge_first; /* edges are updated before nodes, so that these add up new states */
    size_t bytes;    /* of all images */
} tm_fused_model_t;

/* Whether the fused path runs the pipeline; if not, *why (may be NULL) says what it does not know. */
bool tm_fused_can_run(const tm_pipeline_t *pipeline, const char **why);

/* The most shared memory that a block of any kernel takes for this model. */
size_t tm_fused_shared_bytes(const tm_fused_model_t *model);

/* Bytes of GPU memory for the images; then the images into host memory of that size, with the image
 * pointers of *model set as if it lay at `device`. TM_E_NO_MEMORY. */
tm_status_t tm_fused_pack(const tm_pipeline_t *pipeline, const char *device, char *host,
                          tm_fused_model_t *model, tm_error_t *err);

#endif
