// SPDX-License-Identifier: Apache-2.0
/*
 * The pipeline of a model, as read from its file and checked: what every stage, on any device,
 * works from. docs/model-file.md says what each value means. All arrays are owned by the tm_model_t
 * and live as long as it. Everything is float32, row-major; a linear weight is [out, in].
 */
#ifndef TM_NN_PIPELINE_H
#define TM_NN_PIPELINE_H

#include <stdbool.h>
#include <stdint.h>

#include "nn/engine.h"

#define TM_FEATURES_MAX 64      /* node features of a model */
#define TM_EDGE_FEATURES_MAX 16 /* edge features of a model */
#define TM_OPS_MAX 64           /* operations of one MLP */
#define TM_WIDTH_MAX 8192       /* neurons of a layer */
#define TM_INPUTS_MAX 8         /* parts concatenated before an MLP */
#define TM_EMBED_DIM_MAX 16
#define TM_GNN_STEPS_MAX 64
#define TM_ZONES_MAX 16   /* regions of a detector, for the fit of tracks */
#define TM_JOIN_WEIGHTS 7 /* of the function that scores the joint of two candidates */

typedef enum {
    TM_OP_LINEAR,
    TM_OP_LAYER_NORM,
    TM_OP_BATCH_NORM,
    TM_OP_RELU,
    TM_OP_SILU,
    TM_OP_TANH,
    TM_OP_SIGMOID,
    TM_OP_GELU
} tm_op_kind_t;

typedef struct {
    tm_op_kind_t kind;
    uint32_t in, out;        /* widths; equal for everything but LINEAR */
    const float *weight;     /* LINEAR [out, in]; norms [out] (gain) */
    const float *bias;       /* LINEAR [out] or NULL; norms [out] */
    const float *mean, *var; /* BATCH_NORM [out] */
    float eps;               /* norms */
} tm_op_t;

typedef struct {
    uint32_t n_ops;
    uint32_t in, out;   /* widths of input and output */
    uint32_t max_width; /* widest of input, output and everything between */
    tm_op_t op[TM_OPS_MAX];
} tm_mlp_t;

typedef enum {
    TM_F_X,
    TM_F_Y,
    TM_F_Z,
    TM_F_R,
    TM_F_PHI,
    TM_F_ETA,
    TM_F_THETA,
    TM_F_RHO,
    TM_F_COS_PHI,
    TM_F_SIN_PHI,
    TM_F_COLUMN,
    TM_F_LOG_COLUMN
} tm_feature_kind_t;

typedef struct {
    tm_feature_kind_t kind;
    char column[TM_COLUMN_NAME_MAX + 1]; /* COLUMN, LOG_COLUMN: the input column */
    float scale;                         /* value = raw / scale */
    float clamp;                         /* then into ±clamp; 0: no clamp */
} tm_feature_t;

typedef enum {
    TM_EF_DR,
    TM_EF_DPHI,
    TM_EF_DZ,
    TM_EF_DETA,
    TM_EF_Z0,
    TM_EF_CURVATURE,
    TM_EF_PHI_SLOPE,
    TM_EF_RPHI_SLOPE
} tm_edge_feature_kind_t;

typedef struct {
    tm_edge_feature_kind_t kind;
    float scale, clamp;
} tm_edge_feature_t;

/* A sub-list of the model's features for one stage. */
typedef struct {
    uint32_t n;
    uint8_t index[TM_FEATURES_MAX];
} tm_feature_list_t;

/* Parts that are concatenated into the input of an MLP. */
typedef enum {
    TM_IN_X_SRC,
    TM_IN_X_DST,
    TM_IN_X0_SRC,
    TM_IN_X0_DST,
    TM_IN_EDGE_FEATURES,
    TM_IN_E,
    TM_IN_E0,
    TM_IN_X,
    TM_IN_X0,
    TM_IN_SUM_DST,
    TM_IN_SUM_SRC,
    TM_IN_MAX_DST,
    TM_IN_MAX_SRC,
    TM_IN_MEAN_DST,
    TM_IN_MEAN_SRC,
    TM_IN_H,
    TM_IN_M
} tm_input_kind_t;

typedef struct {
    uint32_t n;
    tm_input_kind_t part[TM_INPUTS_MAX];
} tm_inputs_t;

typedef enum { TM_DIRECTION_OUTWARD, TM_DIRECTION_INDEX } tm_direction_t;
typedef enum { TM_GNN_NONE, TM_GNN_INTERACTION, TM_GNN_RESAGNN } tm_gnn_kind_t;
typedef enum { TM_ORDER_NODE_FIRST, TM_ORDER_EDGE_FIRST } tm_order_t;
typedef enum { TM_BUILDER_COMPONENTS, TM_BUILDER_BEST_EDGES } tm_builder_t;

/* Errors of space points where r < r_max and |z| < z_max; mm. */
typedef struct {
    float r_max, z_max;
    float sigma_phi, sigma_r, sigma_z;
} tm_zone_t;

typedef struct {
    uint32_t n_features;
    tm_feature_t feature[TM_FEATURES_MAX];
    uint32_t n_edge_features;
    tm_edge_feature_t edge_feature[TM_EDGE_FEATURES_MAX];

    struct {
        tm_feature_list_t features;
        tm_mlp_t mlp;
        bool normalize;
    } embed;

    struct {
        float r;
        uint32_t k; /* 0: no cap */
        tm_direction_t direction;
        float dphi_max; /* 0: no such cut */
        float z0_max;   /* 0: no such cut */
        float z0_min_dr;
    } radius;

    struct {
        bool present;
        tm_feature_list_t features;
        tm_inputs_t inputs;
        tm_mlp_t mlp;
        float cut;
    } filter;

    struct {
        tm_gnn_kind_t kind;
        tm_feature_list_t features;
        uint32_t steps;
        tm_order_t order;
        tm_mlp_t node_encoder, edge_encoder, output;
        uint32_t n_weights;            /* of the next two: 1, shared by all steps, or steps */
        tm_mlp_t *node_mlp, *edge_mlp; /* [n_weights]; NULL without gnn */
        tm_inputs_t edge_encoder_inputs, node_inputs, edge_inputs, output_inputs;
        bool node_residual, edge_residual;
    } gnn;

    struct {
        float cut;
        tm_builder_t builder;
        uint32_t min_points;

        struct {
            bool present;
            float field_tesla; /* along z; not 0 */
            float scattering;  /* mm · GeV */
            float kink;        /* rad · GeV, at each point; 0: none */
            uint32_t ends;     /* points on each side that tell whether a link fits */
            uint32_t n_zones;
            tm_zone_t zone[TM_ZONES_MAX]; /* the first that a point is in; else the last */
        } fit;
        struct {
            bool present;
            float score; /* links below */
            float chi2;  /* … that fit worse are broken */
        } split;
        struct {
            uint32_t points; /* candidates of no more; 0: no such step */
            float score;     /* … are dropped when their score is below */
        } select;
        struct {
            bool present;
            float dphi, dcot; /* how far a start may be from an end */
            float chi2;       /* of a joint worth a score */
            float weight[TM_JOIN_WEIGHTS];
        } join;
    } tracks;
} tm_pipeline_t;

/* Which of the gnn's n_weights MLPs a step uses. */
static inline uint32_t tm_gnn_weights_of(const tm_pipeline_t *pipeline, uint32_t step) {
    return pipeline->gnn.n_weights > 1 ? step : 0;
}

/* Borrowed from the model. */
const tm_pipeline_t *tm_model_pipeline(const tm_model_t *model);

#endif
