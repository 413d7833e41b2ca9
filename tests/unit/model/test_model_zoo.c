// SPDX-License-Identifier: Apache-2.0
/* Every public architecture can be said in a model file, and is read back as it was said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nn/model.h"
#include "nn/pipeline.h"
#include "tests/support/model_zoo.h"

#define SEED 20

/* Parameters of the embedding that the zoo puts before a graph network: 3 → 32 → 8. */
#define EMBED_PARAMETERS (3 * 32 + 32 + 32 * 8 + 8)

static void check_mlp(const tm_mlp_t *mlp) {
    assert_in_range(mlp->n_ops, 1, TM_OPS_MAX);
    uint32_t width = mlp->in;
    uint32_t widest = width;
    for (uint32_t i = 0; i < mlp->n_ops; i++) {
        const tm_op_t *op = &mlp->op[i];
        assert_int_equal(op->in, width);
        assert_true(op->kind == TM_OP_LINEAR || op->out == op->in);
        bool norm = op->kind == TM_OP_LAYER_NORM || op->kind == TM_OP_BATCH_NORM;
        assert_int_equal(op->weight != NULL, norm || op->kind == TM_OP_LINEAR);
        assert_int_equal(op->mean != NULL && op->var != NULL, op->kind == TM_OP_BATCH_NORM);
        assert_true(!norm || (op->bias != NULL && op->eps > 0));
        width = op->out;
        widest = width > widest ? width : widest;
    }
    assert_int_equal(mlp->out, width);
    assert_int_equal(mlp->max_width, widest);
}

static void test_all_load(void **state) {
    (void)state;
    for (const tm_zoo_entry_t *entry = tm_zoo; entry->name != NULL; entry++) {
        tm_model_t *model = tm_zoo_load(entry->name, SEED);
        const tm_pipeline_t *p = tm_model_pipeline(model);
        assert_string_equal(tm_model_info(model)->name, entry->name);
        assert_string_equal(tm_model_info(model)->version, "1");
        check_mlp(&p->embed.mlp);
        if (p->filter.present) {
            check_mlp(&p->filter.mlp);
        }
        if (p->gnn.kind != TM_GNN_NONE) {
            check_mlp(&p->gnn.node_encoder);
            assert_true(p->gnn.n_weights == 1 || p->gnn.n_weights == p->gnn.steps);
            for (uint32_t step = 0; step < p->gnn.n_weights; step++) {
                check_mlp(&p->gnn.node_mlp[step]);
                check_mlp(&p->gnn.edge_mlp[step]);
            }
        }
        if (p->gnn.kind == TM_GNN_INTERACTION) {
            check_mlp(&p->gnn.edge_encoder);
            check_mlp(&p->gnn.output);
        }
        assert_true(p->filter.present || p->gnn.kind != TM_GNN_NONE);
        tm_model_destroy(&model);
        assert_null(model);
    }
}

static void test_interaction_acts(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("interaction_acts", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    /* the number of weights of the public model */
    assert_int_equal(tm_model_info(model)->parameters, 516993 + EMBED_PARAMETERS);
    assert_int_equal(p->gnn.kind, TM_GNN_INTERACTION);
    assert_int_equal(p->gnn.order, TM_ORDER_NODE_FIRST);
    assert_int_equal(p->gnn.steps, 8);
    assert_true(p->gnn.node_residual && p->gnn.edge_residual);
    assert_int_equal(p->gnn.node_inputs.n, 3);
    assert_int_equal(p->gnn.node_inputs.part[0], TM_IN_X);
    assert_int_equal(p->gnn.node_inputs.part[1], TM_IN_MAX_DST);
    assert_int_equal(p->gnn.node_inputs.part[2], TM_IN_SUM_DST);
    assert_int_equal(p->gnn.edge_encoder.in, 256);
    assert_int_equal(p->gnn.node_mlp[0].in, 384);
    assert_int_equal(p->gnn.output.in, 384);
    assert_false(p->filter.present);
    assert_int_equal(tm_model_info(model)->n_columns, 0);
    tm_model_destroy(&model);
}

static void test_acorn_recurrent(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("acorn_recurrent", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    static const tm_input_kind_t edge[] = {TM_IN_E,      TM_IN_E0,    TM_IN_X_SRC,
                                           TM_IN_X0_SRC, TM_IN_X_DST, TM_IN_X0_DST};
    assert_int_equal(p->gnn.edge_inputs.n, 6);
    assert_memory_equal(p->gnn.edge_inputs.part, edge, sizeof edge);
    assert_int_equal(p->gnn.edge_mlp[0].in, 6 * 64);
    assert_int_equal(p->gnn.node_mlp[0].in, 4 * 64);
    assert_int_equal(p->gnn.edge_encoder.in, 6);
    assert_int_equal(p->gnn.order, TM_ORDER_EDGE_FIRST);
    assert_false(p->gnn.node_residual || p->gnn.edge_residual);
    assert_int_equal(p->gnn.node_mlp[0].op[1].kind, TM_OP_BATCH_NORM);
    assert_int_equal(p->gnn.node_mlp[0].op[2].kind, TM_OP_SILU);
    assert_int_equal(p->n_edge_features, 6);
    assert_int_equal(p->edge_feature[5].kind, TM_EF_RPHI_SLOPE);
    assert_false(p->embed.normalize);
    assert_int_equal(p->gnn.output_inputs.n, 1);
    assert_int_equal(p->gnn.output_inputs.part[0], TM_IN_E);
    /* running means and variances are not learned, so they do not count */
    uint64_t h = 64, layers = 3 * (h + 2 * h) + 2 * h * h;
    uint64_t networks = 4 * layers + (3 + 6 + 4 * h + 6 * h) * h;
    uint64_t output = 4 * (h * h + h + 2 * h) + (h + 1);
    uint64_t embed = (3 * 32 + 32) + (32 * 12 + 12);
    assert_int_equal(tm_model_info(model)->parameters, networks + output + embed);
    tm_model_destroy(&model);
}

/* Each step its own tensors, under the names that the file says for all of them. */
static void test_steps(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("fused_chained", SEED);
    tm_model_t *shared = tm_zoo_load("fused_concat", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    const tm_pipeline_t *q = tm_model_pipeline(shared);
    assert_int_equal(p->gnn.n_weights, 3);
    assert_int_equal(q->gnn.n_weights, 1);
    for (uint32_t step = 0; step < 3; step++) {
        assert_int_equal(tm_gnn_weights_of(p, step), step);
        assert_int_equal(tm_gnn_weights_of(q, step), 0);
        for (uint32_t other = 0; other < step; other++) {
            assert_memory_not_equal(p->gnn.node_mlp[step].op[0].weight,
                                    p->gnn.node_mlp[other].op[0].weight, 64 * sizeof(float));
            assert_memory_not_equal(p->gnn.edge_mlp[step].op[3].weight,
                                    p->gnn.edge_mlp[other].op[3].weight, 64 * sizeof(float));
        }
    }
    uint64_t h = 64, behind = 3 * (h + 2 * h) + 2 * h * h, of_a_step = 2 * behind + 10 * h * h;
    assert_int_equal(tm_model_info(model)->parameters,
                     tm_model_info(shared)->parameters + 2 * of_a_step);
    tm_model_destroy(&model);
    tm_model_destroy(&shared);
}

static void test_resagnn(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("resagnn", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    assert_int_equal(tm_model_info(model)->parameters, 44803 + EMBED_PARAMETERS);
    assert_int_equal(p->gnn.kind, TM_GNN_RESAGNN);
    assert_int_equal(p->gnn.node_encoder.out, 64);
    assert_int_equal(p->gnn.edge_mlp[0].in, 134);
    assert_int_equal(p->gnn.edge_mlp[0].out, 1);
    assert_int_equal(p->gnn.node_inputs.part[0], TM_IN_M);
    assert_int_equal(p->gnn.node_inputs.part[1], TM_IN_H);
    tm_model_destroy(&model);

    model = tm_zoo_load("resagnn_small", SEED);
    p = tm_model_pipeline(model);
    assert_int_equal(p->gnn.node_inputs.part[0], TM_IN_H);
    assert_int_equal(p->gnn.node_inputs.part[1], TM_IN_M);
    tm_model_destroy(&model);
}

static void test_vanilla_filter(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("vanilla_filter", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    const tm_mlp_t *mlp = &p->filter.mlp;
    assert_int_equal(p->gnn.kind, TM_GNN_NONE);
    assert_int_equal(mlp->n_ops, 1 + 3 * 3 + 1);
    assert_int_equal(mlp->op[0].kind, TM_OP_LINEAR);
    assert_int_equal(mlp->op[1].kind, TM_OP_LINEAR);
    assert_int_equal(mlp->op[2].kind, TM_OP_TANH);
    assert_int_equal(mlp->op[3].kind, TM_OP_LAYER_NORM);
    /* one LayerNorm for all layers: the same tensor, counted once */
    assert_ptr_equal(mlp->op[3].weight, mlp->op[6].weight);
    assert_ptr_equal(mlp->op[3].bias, mlp->op[9].bias);
    assert_ptr_not_equal(mlp->op[1].weight, mlp->op[4].weight);
    uint64_t filter = (6 * 96 + 96) + 3 * (96 * 96 + 96) + 2 * 96 + (96 + 1);
    assert_int_equal(tm_model_info(model)->parameters, filter + EMBED_PARAMETERS);
    tm_model_destroy(&model);
}

static void test_embedding_wide(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("embedding_wide", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    const tm_model_info_t *info = tm_model_info(model);
    assert_int_equal(p->n_features, 44);
    assert_int_equal(p->embed.mlp.in, 44);
    assert_int_equal(p->embed.mlp.max_width, 512);
    assert_int_equal(p->embed.mlp.out, 14);
    /* c<i> and log_c<i> need the same column */
    assert_int_equal(info->n_columns, 17);
    assert_string_equal(info->columns[0], "c0");
    assert_string_equal(info->columns[16], "c16");
    assert_int_equal(p->feature[9].kind, TM_F_SIN_PHI);
    assert_int_equal(p->feature[10].kind, TM_F_COLUMN);
    assert_int_equal(p->feature[11].kind, TM_F_LOG_COLUMN);
    assert_string_equal(p->feature[11].column, "c0");
    /* "features": ["r", "phi", "z"] of the filter */
    assert_int_equal(p->filter.features.n, 3);
    assert_int_equal(p->feature[p->filter.features.index[0]].kind, TM_F_R);
    assert_int_equal(p->feature[p->filter.features.index[1]].kind, TM_F_PHI);
    assert_int_equal(p->feature[p->filter.features.index[2]].kind, TM_F_Z);
    assert_int_equal(p->filter.inputs.part[0], TM_IN_X_DST);
    assert_int_equal(p->radius.direction, TM_DIRECTION_INDEX);
    assert_int_equal(p->tracks.builder, TM_BUILDER_COMPONENTS);
    tm_model_destroy(&model);
}

static void test_standard(void **state) {
    (void)state;
    tm_model_t *model = tm_zoo_load("standard", SEED);
    const tm_pipeline_t *p = tm_model_pipeline(model);
    const tm_model_info_t *info = tm_model_info(model);
    assert_int_equal(info->n_columns, 2);
    assert_string_equal(info->columns[0], "size_loc0");
    assert_string_equal(info->columns[1], "charge");
    assert_float_equal(p->feature[5].scale, 5, 0);
    assert_float_equal(p->feature[5].clamp, 3, 0);
    assert_float_equal(p->feature[0].clamp, 0, 0);
    assert_float_equal(p->edge_feature[5].scale, 0.000333333333f, 0);
    assert_float_equal(p->radius.r, 0.2f, 0);
    assert_float_equal(p->radius.dphi_max, 0.5f, 0);
    assert_float_equal(p->radius.z0_max, 500, 0);
    assert_float_equal(p->radius.z0_min_dr, 20, 0);
    assert_int_equal(p->radius.k, 0);
    assert_float_equal(p->filter.cut, 0.3f, 0);
    assert_float_equal(p->tracks.cut, 0.2f, 0);
    assert_int_equal(p->tracks.min_points, 3);
    assert_int_equal(p->tracks.builder, TM_BUILDER_BEST_EDGES);
    assert_int_equal(p->filter.mlp.in, 18);
    tm_model_destroy(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_load),
        cmocka_unit_test(test_standard),
        cmocka_unit_test(test_interaction_acts),
        cmocka_unit_test(test_acorn_recurrent),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_resagnn),
        cmocka_unit_test(test_vanilla_filter),
        cmocka_unit_test(test_embedding_wide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
