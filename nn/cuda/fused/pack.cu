// SPDX-License-Identifier: Apache-2.0
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "nn/cuda/fused/group.cuh"
#include "nn/cuda/fused/layers.cuh"

#define IMAGE_ALIGNMENT 256
#define EMBED_OUT 16 /* the last layer of the embedding, padded */
/* Of shared memory, for a node MLP and tables together. */
#define TOGETHER_BYTES_MAX 160000u

/* ---- layers ---- */

/* What the layer multiplies and adds, with centring, batch norm and halving worked in. */
typedef struct {
    uint32_t in, out;
    double *w; /* [out, in] */
    double *bias, *gain, *shift;
} effective_t;

static void effective_clear(effective_t *e) {
    free(e->w);
    free(e->bias);
    free(e->gain);
    free(e->shift);
    *e = (effective_t){};
}

static void scale_row(effective_t *e, uint32_t row, double factor) {
    for (uint32_t j = 0; j < e->in; j++) {
        e->w[(size_t)row * e->in + j] *= factor;
    }
    e->bias[row] *= factor;
}

/* Takes the mean over the outputs away: of every column of the weight, and of the bias. */
static void centre(effective_t *e) {
    for (uint32_t j = 0; j <= e->in; j++) {
        double *first = j < e->in ? e->w + j : e->bias;
        size_t stride = j < e->in ? e->in : 1;
        double sum = 0;
        for (uint32_t i = 0; i < e->out; i++) {
            sum += first[i * stride];
        }
        for (uint32_t i = 0; i < e->out; i++) {
            first[i * stride] -= sum / e->out;
        }
    }
}

static bool effective_of(const tm_fused_unit_t *unit, effective_t *e) {
    const tm_op_t *linear = unit->linear;
    const tm_op_t *norm = unit->norm;
    *e = (effective_t){};
    e->in = linear->in;
    e->out = linear->out;
    e->w = (double *)calloc((size_t)e->in * e->out, sizeof(double));
    e->bias = (double *)calloc(e->out, sizeof(double));
    e->gain = (double *)calloc(e->out, sizeof(double));
    e->shift = (double *)calloc(e->out, sizeof(double));
    if (!e->w || !e->bias || !e->gain || !e->shift) {
        effective_clear(e);
        return false;
    }
    for (size_t i = 0; i < (size_t)e->in * e->out; i++) {
        e->w[i] = linear->weight[i];
    }
    bool halved = unit->act == TM_FUSED_SILU || unit->act == TM_FUSED_SIGMOID;
    for (uint32_t i = 0; i < e->out; i++) {
        e->bias[i] = linear->bias ? linear->bias[i] : 0;
        if (norm && norm->kind == TM_OP_BATCH_NORM) {
            double gain = norm->weight[i] / sqrt((double)norm->var[i] + (double)norm->eps);
            scale_row(e, i, gain);
            e->bias[i] += norm->bias[i] - norm->mean[i] * gain;
        }
        if (norm && norm->kind == TM_OP_LAYER_NORM) {
            e->gain[i] = norm->weight[i] * (halved ? 0.5 : 1.0);
            e->shift[i] = norm->bias[i] * (halved ? 0.5 : 1.0);
        } else if (halved) {
            scale_row(e, i, 0.5);
        }
    }
    if (norm && norm->kind == TM_OP_LAYER_NORM) {
        centre(e);
    }
    return true;
}

/* ---- images ---- */

typedef struct {
    const char *device;
    char *host; /* NULL: only adds up */
    size_t used;
    bool no_memory;
} writer_t;

/* Which input a place of an operand holds: a column of the weight, BIAS (it holds 1), or none. */
typedef struct {
    int column;
    bool low; /* what fp16 leaves of the weight */
    float scale;
} source_t;

#define BIAS (-2)
#define NO_SOURCE ((source_t){-1, false, 0})

static __half packed_value(const effective_t *e, uint32_t row, source_t from) {
    if ((from.column < 0 && from.column != BIAS) || row >= e->out) {
        return __float2half_rn(0);
    }
    double w =
        (from.column == BIAS ? e->bias[row] : e->w[(size_t)row * e->in + (uint32_t)from.column]) *
        (double)from.scale;
    __half high = __float2half_rn((float)w);
    return from.low ? __float2half_rn((float)(w - (double)__half2float(high))) : high;
}

/* The B operand of mma.m16n8k16 (mma.cuh): place k of step s holds input from[16·s + k]. */
static uint32_t write_weights(writer_t *w, size_t image, const effective_t *e, uint32_t out,
                              const source_t *from, uint32_t k_steps) {
    uint32_t offset = (uint32_t)(w->used - image);
    size_t bytes = (size_t)k_steps * out * TM_MMA_K * sizeof(__half);
    if (w->host) {
        __half *to = (__half *)(w->host + w->used);
        for (uint32_t s = 0; s < k_steps; s++) {
            for (uint32_t p = 0; p < out / 16; p++) {
                for (uint32_t lane = 0; lane < TM_GPU_WARP; lane++) {
                    for (uint32_t i = 0; i < 8; i++) {
                        uint32_t row = 16 * p + 8 * (i / 4) + lane / 4;
                        uint32_t k = 2 * (lane % 4) + i % 2 + 8 * (i / 2 % 2);
                        *to++ = packed_value(e, row, from[TM_MMA_K * s + k]);
                    }
                }
            }
        }
    }
    w->used += bytes;
    return offset;
}

/* The same for groups (group.cuh): matrices of 8 outputs times 8 places. */
static uint32_t write_cores(writer_t *w, size_t image, const effective_t *e, uint32_t out,
                            const source_t *from, uint32_t k_steps) {
    uint32_t offset = (uint32_t)(w->used - image);
    if (w->host) {
        __half *to = (__half *)(w->host + w->used);
        for (uint32_t s = 0; s < k_steps; s++) {
            for (uint32_t first = 0; first < out; first += 8) {
                for (uint32_t i = 0; i < 8 * TM_MMA_K; i++) {
                    uint32_t row = first + i / 8 % 8;
                    uint32_t k = i / 64 * 8 + i % 8;
                    *to++ = packed_value(e, row, from[TM_MMA_K * s + k]);
                }
            }
        }
    }
    w->used += (size_t)k_steps * out * TM_MMA_K * sizeof(__half);
    return offset;
}

static uint32_t write_floats(writer_t *w, size_t image, const double *a, const double *b,
                             uint32_t n, uint32_t out) {
    uint32_t offset = (uint32_t)(w->used - image);
    for (uint32_t i = 0; i < out; i++) {
        for (int k = 0; k < (b ? 2 : 1); k++) {
            if (w->host) {
                const double *from = k == 0 ? a : b;
                *(float *)(w->host + w->used) = i < n ? (float)from[i] : 0;
            }
            w->used += sizeof(float);
        }
    }
    return offset;
}

static void write_layer(writer_t *w, size_t image, const tm_fused_unit_t *unit,
                        const effective_t *e, uint32_t out, const source_t *from, uint32_t k_steps,
                        tm_fused_layer_t *layer) {
    layer->k_steps = k_steps;
    layer->w = write_weights(w, image, e, out, from, k_steps);
    layer->bias = write_floats(w, image, e->bias, NULL, e->out, out);
    layer->norm = 0;
    layer->eps = 0;
    layer->act = unit->act;
    if (unit->norm && unit->norm->kind == TM_OP_LAYER_NORM) {
        layer->norm = write_floats(w, image, e->gain, e->shift, e->out, out);
        layer->eps = unit->norm->eps;
    }
}

static size_t begin_image(writer_t *w, tm_fused_mlp_t *mlp) {
    w->used = (w->used + IMAGE_ALIGNMENT - 1) / IMAGE_ALIGNMENT * IMAGE_ALIGNMENT;
    *mlp = (tm_fused_mlp_t){};
    mlp->image = (const uint4 *)(w->device + w->used);
    return w->used;
}

static void end_image(const writer_t *w, size_t image, tm_fused_mlp_t *mlp) {
    mlp->bytes = (uint32_t)(w->used - image);
    assert(mlp->bytes % sizeof(uint4) == 0);
}

/* `width` inputs in their order, from column `first` of the weight. */
static void identity(source_t *from, uint32_t first, uint32_t width, float scale) {
    for (uint32_t k = 0; k < width; k++) {
        from[k] = (source_t){(int)(first + k), false, scale};
    }
}

/* A step whose operand is read from memory four values at a time: place p = 4·q + j of the memory is
 * place 2·q + j % 2 + 8·(j / 2) of the operand. */
static void from_memory(source_t *from, uint32_t first, uint32_t n, bool low) {
    for (uint32_t p = 0; p < TM_MMA_K; p++) {
        uint32_t q = p / 4;
        uint32_t j = p % 4;
        from[2 * q + j % 2 + 8 * (j / 2)] =
            p < n ? (source_t){(int)(first + p), low, 1} : NO_SOURCE;
    }
}

/* A step of nothing but the bias. */
static void bias_step(source_t *from) {
    for (uint32_t k = 0; k < TM_MMA_K; k++) {
        from[k] = NO_SOURCE;
    }
    from[TM_GROUP_BIAS_PLACE] = (source_t){BIAS, false, 1};
    from[TM_GROUP_BIAS_PLACE + 1] = (source_t){BIAS, true, 1};
}

/* hi, lo and hi of the features times hi, hi and lo of the weights */
static void split_features(source_t *from, uint32_t first, uint32_t n) {
    from_memory(from, first, n, false);
    from_memory(from + TM_MMA_K, first, n, false);
    from_memory(from + 2 * TM_MMA_K, first, n, true);
}

/* All layers of an MLP; those behind the first are square. A last layer to one value becomes the dot
 * product. */
static void write_mlp(writer_t *w, size_t image, const tm_mlp_t *from, const source_t *sources,
                      uint32_t k_steps, uint32_t last_out, tm_fused_mlp_t *mlp) {
    tm_fused_units_t units;
    bool ok = tm_fused_units_of(from, &units);
    assert(ok);
    for (uint32_t k = 0; k < units.n && !w->no_memory; k++) {
        const tm_fused_unit_t *unit = &units.unit[k];
        effective_t e;
        if (!effective_of(unit, &e)) {
            w->no_memory = true;
            return;
        }
        if (e.out == 1) {
            mlp->dot = write_floats(w, image, e.w, NULL, e.in, e.in);
            mlp->dot_bias = (float)e.bias[0];
        } else {
            source_t *square = (source_t *)malloc(e.in * sizeof *square);
            if (!square) {
                w->no_memory = true;
            } else {
                uint32_t out = last_out > 0 && k + 1 == units.n ? last_out : e.out;
                identity(square, 0, e.in, 1);
                write_layer(w, image, unit, &e, out, k == 0 ? sources : square,
                            k == 0 ? k_steps : e.in / TM_MMA_K, &mlp->layer[mlp->n_layers++]);
            }
            free(square);
        }
        effective_clear(&e);
    }
    (void)ok;
}

/* A second output: what fp16 leaves of the first one's weights. */
static bool split_output(effective_t *e) {
    double *both = (double *)calloc(2 * (size_t)e->in, sizeof(double));
    if (!both) {
        return false;
    }
    for (uint32_t i = 0; i < e->in; i++) {
        both[i] = e->w[i];
        both[e->in + i] = e->w[i] - (double)__half2float(__float2half_rn((float)e->w[i]));
    }
    free(e->w);
    e->w = both;
    e->out = 2;
    return true;
}

/* An MLP for groups, its last layer to one value. The sources of the first layer hold its bias. */
static void write_group_mlp(writer_t *w, size_t image, const tm_mlp_t *from,
                            const source_t *sources, uint32_t k_steps, tm_fused_mlp_t *mlp) {
    source_t square[TM_FUSED_NARROW_MAX + TM_MMA_K];
    tm_fused_units_t units;
    bool ok = tm_fused_units_of(from, &units);
    assert(ok);
    for (uint32_t k = 0; k < units.n && !w->no_memory; k++) {
        const tm_fused_unit_t *unit = &units.unit[k];
        effective_t e;
        if (!effective_of(unit, &e)) {
            w->no_memory = true;
            return;
        }
        identity(square, 0, e.in, 1);
        if (e.out == 1) {
            mlp->dot_bias = (float)e.bias[0];
            w->no_memory = !split_output(&e);
            mlp->dot = write_cores(w, image, &e, TM_GROUP_DOT_COLUMNS, square, e.in / TM_MMA_K);
        } else {
            bias_step(square + e.in);
            tm_fused_layer_t *layer = &mlp->layer[mlp->n_layers++];
            *layer = (tm_fused_layer_t){.k_steps = k == 0 ? k_steps : e.in / TM_MMA_K + 1,
                                        .act = unit->act};
            layer->w = write_cores(w, image, &e, e.out, k == 0 ? sources : square, layer->k_steps);
            if (unit->norm && unit->norm->kind == TM_OP_LAYER_NORM) {
                layer->norm = write_floats(w, image, e.gain, e.shift, e.out, e.out);
                layer->eps = unit->norm->eps;
            }
        }
        effective_clear(&e);
    }
    (void)ok;
}

/* ---- inputs ---- */

static uint32_t part_width(const tm_pipeline_t *p, tm_input_kind_t part, uint32_t x_width) {
    return part == TM_IN_EDGE_FEATURES ? p->n_edge_features : x_width;
}

/* Where a part begins among the columns of the first weight, or −1. */
static int column_of(const tm_pipeline_t *p, const tm_inputs_t *inputs, tm_input_kind_t part,
                     uint32_t x_width) {
    uint32_t column = 0;
    for (uint32_t k = 0; k < inputs->n; k++) {
        if (inputs->part[k] == part) {
            return (int)column;
        }
        column += part_width(p, inputs->part[k], x_width);
    }
    return -1;
}

/* Products of an edge MLP's first layer with the node states. */
static void write_tables(writer_t *w, size_t image, const tm_pipeline_t *p, const tm_mlp_t *mlp,
                         const tm_inputs_t *inputs, uint32_t width, tm_fused_tables_t *tables) {
    tables->with_x0 =
        tm_fused_has_input(inputs, TM_IN_X0_SRC) || tm_fused_has_input(inputs, TM_IN_X0_DST);
    static const tm_input_kind_t parts[2][2] = {{TM_IN_X_SRC, TM_IN_X0_SRC},
                                                {TM_IN_X_DST, TM_IN_X0_DST}};
    tm_fused_units_t units;
    effective_t e;
    source_t *from = (source_t *)malloc(2 * width * sizeof *from);
    tm_fused_units_of(mlp, &units);
    if (!from || !effective_of(&units.unit[0], &e)) {
        w->no_memory = true;
        free(from);
        return;
    }
    for (int end = 0; end < 2; end++) {
        for (uint32_t k = 0; k < 2; k++) {
            int column = column_of(p, inputs, parts[end][k], width);
            for (uint32_t i = 0; i < width; i++) {
                from[k * width + i] =
                    column < 0 ? NO_SOURCE : (source_t){column + (int)i, false, 1};
            }
        }
        /* the bias goes in once, with the sources */
        for (uint32_t i = 0; i < e.out && end == 1; i++) {
            e.bias[i] = 0;
        }
        tm_fused_unit_t plain = {units.unit[0].linear, NULL, TM_FUSED_NONE};
        write_layer(w, image, &plain, &e, width, from, (tables->with_x0 ? 2 : 1) * width / TM_MMA_K,
                    &tables->table[tables->n++]);
    }
    effective_clear(&e);
    free(from);
}

static tm_fused_node_part_t node_part(tm_input_kind_t input) {
    switch (input) {
    case TM_IN_X:
        return {TM_FUSED_X, false};
    case TM_IN_X0:
        return {TM_FUSED_X0, false};
    case TM_IN_SUM_SRC:
        return {TM_FUSED_SUM, true};
    case TM_IN_MAX_DST:
        return {TM_FUSED_MAX, false};
    case TM_IN_MAX_SRC:
        return {TM_FUSED_MAX, true};
    case TM_IN_MEAN_DST:
        return {TM_FUSED_MEAN, false};
    case TM_IN_MEAN_SRC:
        return {TM_FUSED_MEAN, true};
    default:
        return {TM_FUSED_SUM, false};
    }
}

/* The node MLP of a step. tables: of which edge MLP the tables follow; NULL: none do. */
static void write_node_mlp(writer_t *w, const tm_pipeline_t *p, uint32_t step, uint32_t width,
                           const tm_mlp_t *tables, const tm_inputs_t *table_inputs,
                           tm_fused_node_mlp_t *out) {
    source_t from[TM_INPUTS_MAX * TM_FUSED_NARROW_MAX];
    const tm_inputs_t *inputs = &p->gnn.node_inputs;
    size_t image = begin_image(w, &out->mlp);
    out->n_parts = inputs->n;
    for (uint32_t k = 0; k < inputs->n; k++) {
        out->part[k] = node_part(inputs->part[k]);
        bool sum = out->part[k].kind == TM_FUSED_SUM;
        identity(from + k * width, k * width, width, sum ? 1 / TM_FUSED_SUM_SCALE : 1);
    }
    write_mlp(w, image, &p->gnn.node_mlp[tm_gnn_weights_of(p, step)], from,
              inputs->n * width / TM_MMA_K, 0, &out->mlp);
    if (tables) {
        write_tables(w, image, p, tables, table_inputs, width, &out->tables);
    }
    end_image(w, image, &out->mlp);
}

/* Tables in an image of their own. */
static void write_own_tables(writer_t *w, const tm_pipeline_t *p, const tm_mlp_t *mlp,
                             const tm_inputs_t *inputs, uint32_t width, tm_fused_node_mlp_t *out) {
    size_t image = begin_image(w, &out->mlp);
    write_tables(w, image, p, mlp, inputs, width, &out->tables);
    end_image(w, image, &out->mlp);
}

/* Everything that happens to nodes. */
static void write_nodes(writer_t *w, const tm_pipeline_t *p, uint32_t width,
                        tm_fused_model_t *model) {
    source_t from[TM_FUSED_SPLIT_STEPS * TM_MMA_K];
    const tm_inputs_t *edge_inputs = &p->gnn.edge_inputs;
    const tm_inputs_t *output_inputs = &p->gnn.output_inputs;
    size_t image = begin_image(w, &model->node_encoder.mlp);
    split_features(from, 0, p->gnn.features.n);
    write_mlp(w, image, &p->gnn.node_encoder, from, TM_FUSED_SPLIT_STEPS, 0,
              &model->node_encoder.mlp);
    const size_t encoder_blocks = p->gnn.node_encoder.n_ops + 4;
    model->encoder_together =
        encoder_blocks * width * width * sizeof(__half) <= TOGETHER_BYTES_MAX &&
        !tm_fused_has_input(edge_inputs, TM_IN_X0_SRC) &&
        !tm_fused_has_input(edge_inputs, TM_IN_X0_DST);
    if (model->encoder_together) {
        tm_fused_tables_t *tables = &model->node_encoder.tables;
        write_tables(w, image, p, &p->gnn.edge_encoder, &p->gnn.edge_encoder_inputs, width, tables);
        write_tables(w, image, p, &p->gnn.edge_mlp[0], edge_inputs, width, tables);
    }
    end_image(w, image, &model->node_encoder.mlp);
    write_own_tables(w, p, &p->gnn.edge_encoder, &p->gnn.edge_encoder_inputs, width,
                     &model->encoder_tables);
    write_own_tables(w, p, &p->gnn.output, output_inputs, width, &model->output_tables);
    for (uint32_t k = 0; k < p->gnn.node_inputs.n; k++) {
        const tm_fused_node_kind_t kind = node_part(p->gnn.node_inputs.part[k]).kind;
        model->n_sums += kind != TM_FUSED_X && kind != TM_FUSED_X0;
    }
    size_t blocks = p->gnn.node_inputs.n + p->gnn.node_mlp[0].n_ops + 4;
    model->tables_apart = blocks * width * width * sizeof(__half) > TOGETHER_BYTES_MAX;
    bool apart = model->tables_apart;
    const uint32_t last = p->gnn.steps - 1;
    for (uint32_t step = 0; step < p->gnn.n_weights; step++) {
        tm_fused_step_t *out = &model->step[step];
        if (apart || (step == 0 && !model->encoder_together)) {
            write_own_tables(w, p, &p->gnn.edge_mlp[step], edge_inputs, width, &out->edge_tables);
        }
        if (step < last || p->gnn.n_weights == 1) {
            const tm_mlp_t *next = &p->gnn.edge_mlp[tm_gnn_weights_of(p, step + 1)];
            write_node_mlp(w, p, step, width, apart ? NULL : next, edge_inputs, &out->node_mlp);
        }
    }
    write_node_mlp(w, p, last, width, apart ? NULL : &p->gnn.output, output_inputs,
                   &model->last_node_mlp);
}

/* k steps: source, target, and the edge features by kind with the bias */
static void write_filter(writer_t *w, const tm_pipeline_t *p, tm_fused_mlp_t *filter) {
    static const tm_input_kind_t ends[] = {TM_IN_X_SRC, TM_IN_X_DST};
    source_t from[3 * TM_MMA_K];
    size_t image = begin_image(w, filter);
    for (uint32_t k = 0; k < 2; k++) {
        int column = column_of(p, &p->filter.inputs, ends[k], p->filter.features.n);
        from_memory(from + k * TM_MMA_K, (uint32_t)column, column < 0 ? 0 : p->filter.features.n,
                    false);
    }
    source_t *of_edges = from + 2 * TM_MMA_K;
    bias_step(of_edges);
    int column = column_of(p, &p->filter.inputs, TM_IN_EDGE_FEATURES, p->filter.features.n);
    for (uint32_t k = 0; k < p->n_edge_features && column >= 0; k++) {
        of_edges[p->edge_feature[k].kind] = (source_t){column + (int)k, false, 1};
    }
    write_group_mlp(w, image, &p->filter.mlp, from, 3, filter);
    end_image(w, image, filter);
}

static void write_all(writer_t *w, const tm_pipeline_t *p, tm_fused_model_t *model) {
    source_t from[2 * TM_FUSED_NARROW_MAX];
    uint32_t width = p->gnn.node_encoder.out;
    *model = (tm_fused_model_t){};
    model->embed_width = p->embed.mlp.op[0].out;
    model->filter_width = p->filter.present ? p->filter.mlp.op[0].out : 0;
    model->edge_first = p->gnn.order == TM_ORDER_EDGE_FIRST;
    model->with_x0 = tm_fused_has_input(&p->gnn.node_inputs, TM_IN_X0) ||
                     tm_fused_has_input(&p->gnn.edge_inputs, TM_IN_X0_SRC) ||
                     tm_fused_has_input(&p->gnn.edge_inputs, TM_IN_X0_DST) ||
                     tm_fused_has_input(&p->gnn.output_inputs, TM_IN_X0_SRC) ||
                     tm_fused_has_input(&p->gnn.output_inputs, TM_IN_X0_DST);
    model->gnn_width = width;
    model->n_steps = p->gnn.n_weights;

    size_t image = begin_image(w, &model->embed);
    split_features(from, 0, p->embed.features.n);
    write_mlp(w, image, &p->embed.mlp, from, TM_FUSED_SPLIT_STEPS, EMBED_OUT, &model->embed);
    end_image(w, image, &model->embed);

    if (p->filter.present) {
        write_filter(w, p, &model->filter);
    }
    write_nodes(w, p, width, model);

    image = begin_image(w, &model->edge_encoder);
    int column = column_of(p, &p->gnn.edge_encoder_inputs, TM_IN_EDGE_FEATURES, width);
    split_features(from, (uint32_t)column, column < 0 ? 0 : p->n_edge_features);
    write_mlp(w, image, &p->gnn.edge_encoder, from, TM_FUSED_SPLIT_STEPS, 0, &model->edge_encoder);
    end_image(w, image, &model->edge_encoder);

    model->with_e0 = tm_fused_has_input(&p->gnn.edge_inputs, TM_IN_E0);
    identity(from, (uint32_t)column_of(p, &p->gnn.edge_inputs, TM_IN_E, width), width, 1);
    if (model->with_e0) {
        identity(from + width, (uint32_t)column_of(p, &p->gnn.edge_inputs, TM_IN_E0, width), width,
                 1);
    }
    for (uint32_t step = 0; step < p->gnn.n_weights; step++) {
        tm_fused_mlp_t *edge_mlp = &model->step[step].edge_mlp;
        image = begin_image(w, edge_mlp);
        write_mlp(w, image, &p->gnn.edge_mlp[step], from,
                  (model->with_e0 ? 2 : 1) * width / TM_MMA_K, 0, edge_mlp);
        end_image(w, image, edge_mlp);
    }

    image = begin_image(w, &model->output);
    identity(from, (uint32_t)column_of(p, &p->gnn.output_inputs, TM_IN_E, width), width, 1);
    write_mlp(w, image, &p->gnn.output, from, width / TM_MMA_K, 0, &model->output);
    end_image(w, image, &model->output);
    model->bytes = w->used;
}

tm_status_t tm_fused_pack(const tm_pipeline_t *pipeline, const char *device, char *host,
                          tm_fused_model_t *model, tm_error_t *err) {
    writer_t w = {.device = device, .host = host};
    write_all(&w, pipeline, model);
    return w.no_memory ? tm_error_set(err, TM_E_NO_MEMORY, "no memory for weights") : TM_OK;
}
