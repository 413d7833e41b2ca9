// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/mlp.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

/* A block's activations, in floats: two such buffers of one thread should stay in its caches. */
#define BLOCK_FLOATS (192u << 10)
#define BLOCK_ROWS_MIN 32u
#define BLOCK_ROWS_MAX 512u
#define BLOCK_ROWS_STEP 16u
/* Parts narrower than this, or than half the layer's output, are cheaper to multiply again for every
 * row than to look up as products. */
#define SPLIT_WIDTH_MIN 16u

/* Where the products of a split first layer come from. */
typedef struct {
    const float *table;
    const uint32_t *index;
} tm_products_t;

/* How one MLP is run, the same for all blocks. */
typedef struct {
    tm_cpu_t *cpu;
    const tm_mlp_t *mlp;
    const tm_part_t *parts;
    uint32_t n_parts;
    tm_products_t products[2];
    uint32_t n_products;
    bool split[TM_INPUTS_MAX]; /* parts that are in the products */
    uint32_t block_rows;
} tm_run_t;

static uint32_t block_rows(const tm_mlp_t *mlp) {
    uint32_t rows = BLOCK_FLOATS / mlp->max_width / BLOCK_ROWS_STEP * BLOCK_ROWS_STEP;
    rows = rows < BLOCK_ROWS_MIN ? BLOCK_ROWS_MIN : rows;
    return rows > BLOCK_ROWS_MAX ? BLOCK_ROWS_MAX : rows;
}

/* c [rows, op->out] += a [rows, width] · columns [first, first + width) of the weight, transposed.
 * Always added to what is there: BLAS would take a pass of its own to clear it, and a slow one. */
static void multiply(const tm_op_t *op, uint32_t first, uint32_t width, const float *a, size_t rows,
                     float *c) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)op->out,
                (blasint)width, 1.0f, a, (blasint)width, op->weight + first, (blasint)op->in, 1.0f,
                c, (blasint)op->out);
}

/* Every row of block [rows, width] = bias, or 0 where it is NULL. */
static void start_rows(float *block, size_t rows, size_t width, const float *bias) {
    if (!bias) {
        memset(block, 0, rows * width * sizeof *block);
        return;
    }
    for (size_t i = 0; i < rows; i++) {
        memcpy(block + i * width, bias, width * sizeof *block);
    }
}

/* ---- inputs ---- */

static void aggregate(const tm_kernels_t *kernels, const tm_part_t *part, uint32_t row,
                      float *out) {
    uint32_t width = part->width;
    uint32_t begin = part->offsets[row];
    uint32_t end = part->offsets[row + 1];
    memset(out, 0, width * sizeof *out);
    for (uint32_t k = begin; k < end; k++) {
        const float *x = part->data + (size_t)(part->order ? part->order[k] : k) * width;
        if (part->kind != TM_PART_MAX) {
            kernels->add(out, x, width);
        } else if (k == begin) {
            memcpy(out, x, width * sizeof *out);
        } else {
            kernels->maximum(out, x, width);
        }
    }
    if (part->kind == TM_PART_MEAN && end > begin) {
        for (uint32_t k = 0; k < width; k++) {
            out[k] /= (float)(end - begin);
        }
    }
}

/* Rows [first, first + rows) of a part into out, whose rows are stride floats apart. */
static void fill(const tm_cpu_t *cpu, const tm_part_t *part, uint32_t first, uint32_t rows,
                 float *out, size_t stride) {
    size_t width = part->width;
    switch (part->kind) {
    case TM_PART_ROWS:
        for (size_t i = 0; i < rows; i++) {
            memcpy(out + i * stride, part->data + (first + i) * width, width * sizeof *out);
        }
        break;
    case TM_PART_INDEXED:
        for (size_t i = 0; i < rows; i++) {
            memcpy(out + i * stride, part->data + part->index[first + i] * width,
                   width * sizeof *out);
        }
        break;
    case TM_PART_EDGE_FEATURES:
        cpu->kernels->edge_features(cpu->device.pipeline, part->points, part->src + first,
                                    part->dst + first, rows, out, stride);
        break;
    case TM_PART_SUM:
    case TM_PART_MAX:
    case TM_PART_MEAN:
        for (uint32_t i = 0; i < rows; i++) {
            aggregate(cpu->kernels, part, first + i, out + i * stride);
        }
        break;
    }
}

/* ---- layers ---- */

static tm_act_t activation(tm_op_kind_t kind) {
    switch (kind) {
    case TM_OP_RELU:
        return TM_ACT_RELU;
    case TM_OP_SILU:
        return TM_ACT_SILU;
    case TM_OP_TANH:
        return TM_ACT_TANH;
    case TM_OP_SIGMOID:
        return TM_ACT_SIGMOID;
    case TM_OP_GELU:
        return TM_ACT_GELU;
    case TM_OP_LINEAR:
    case TM_OP_LAYER_NORM:
    case TM_OP_BATCH_NORM:
        break;
    }
    return TM_ACT_NONE;
}

static void batch_norm(const tm_kernels_t *kernels, const tm_op_t *op, float *block, size_t rows,
                       float *constants) {
    float *scale = constants;
    float *shift = constants + op->out;
    for (uint32_t k = 0; k < op->out; k++) {
        scale[k] = op->weight[k] / sqrtf(op->var[k] + op->eps);
        shift[k] = op->bias[k] - op->mean[k] * scale[k];
    }
    kernels->affine(block, rows, op->out, scale, shift);
}

/* Takes a block from operation `first` to the end. `bias` belongs to a product that is already in
 * the block and is not yet added. Returns the buffer (block or other) that holds the result. */
static float *run_layers(const tm_run_t *run, uint32_t first, const float *bias, size_t rows,
                         float *block, float *other, float *constants) {
    const tm_kernels_t *kernels = run->cpu->kernels;
    const tm_mlp_t *mlp = run->mlp;
    uint32_t i = first;
    while (i < mlp->n_ops || bias) {
        uint32_t width = i < mlp->n_ops ? mlp->op[i].in : mlp->out;
        if (i < mlp->n_ops && mlp->op[i].kind == TM_OP_LINEAR && !bias) {
            const tm_op_t *op = &mlp->op[i++];
            if (op->out == 1) {
                kernels->matvec(block, rows, op->in, op->weight, op->bias ? op->bias[0] : 0, other);
            } else {
                start_rows(other, rows, op->out, op->bias);
                multiply(op, 0, op->in, block, rows, other);
            }
            float *swap = block;
            block = other;
            other = swap;
            continue;
        }
        /* bias, layer norm and activation in one pass over the block, as far as they follow */
        const tm_op_t *norm = NULL;
        tm_act_t act = TM_ACT_NONE;
        if (i < mlp->n_ops && mlp->op[i].kind == TM_OP_LAYER_NORM) {
            norm = &mlp->op[i++];
        }
        if (i < mlp->n_ops) {
            act = activation(mlp->op[i].kind);
            i += act != TM_ACT_NONE;
        }
        if (bias || norm || act != TM_ACT_NONE) {
            kernels->epilogue(block, rows, width, bias, norm ? norm->weight : NULL,
                              norm ? norm->bias : NULL, norm ? norm->eps : 0, act);
            bias = NULL;
        }
        if (i < mlp->n_ops && mlp->op[i].kind == TM_OP_BATCH_NORM) {
            batch_norm(kernels, &mlp->op[i++], block, rows, constants);
        }
    }
    return block;
}

/* The sum over all parts of the first layer's products, in block. */
static void first_layer(const tm_run_t *run, uint32_t row, uint32_t rows, float *block,
                        float *other) {
    const tm_op_t *op = &run->mlp->op[0];
    const tm_products_t *p = run->products;
    run->cpu->kernels->gather(block, rows, op->out, p[0].table, p[0].index + row,
                              run->n_products > 1 ? p[1].table : NULL,
                              run->n_products > 1 ? p[1].index + row : NULL);
    uint32_t column = 0;
    for (uint32_t k = 0; k < run->n_parts; k++) {
        const tm_part_t *part = &run->parts[k];
        if (!run->split[k]) {
            const float *a = other;
            if (part->kind == TM_PART_ROWS) {
                a = part->data + (size_t)row * part->width;
            } else {
                fill(run->cpu, part, row, rows, other, part->width);
            }
            multiply(op, column, part->width, a, rows, block);
        }
        column += part->width;
    }
}

static void run_block(const tm_run_t *run, uint32_t row, uint32_t rows, const float *residual,
                      float *out) {
    const tm_mlp_t *mlp = run->mlp;
    size_t buffer_floats = (size_t)run->block_rows * mlp->max_width;
    float *block = tm_cpu_scratch(run->cpu);
    float *other = block + buffer_floats;
    float *constants = other + buffer_floats;
    float *result;
    if (run->n_products > 0) {
        first_layer(run, row, rows, block, other);
        result = run_layers(run, 1, mlp->op[0].bias, rows, block, other, constants);
    } else {
        size_t column = 0;
        for (uint32_t k = 0; k < run->n_parts; k++) {
            fill(run->cpu, &run->parts[k], row, rows, block + column, mlp->in);
            column += run->parts[k].width;
        }
        result = run_layers(run, 0, NULL, rows, block, other, constants);
    }
    size_t floats = (size_t)rows * mlp->out;
    if (residual) {
        run->cpu->kernels->add(result, residual + (size_t)row * mlp->out, floats);
    }
    memcpy(out + (size_t)row * mlp->out, result, floats * sizeof *out);
}

/* ---- the split first layer ---- */

/* table [data_rows, out] (+)= part · its columns of the first weight */
static void multiply_table(const tm_run_t *run, const tm_part_t *part, uint32_t column,
                           bool accumulate, float *table) {
    const tm_op_t *op = &run->mlp->op[0];
    uint32_t step = BLOCK_ROWS_MAX;
    uint32_t blocks = (part->data_rows + step - 1) / step;
#pragma omp parallel for num_threads(run->cpu->threads) schedule(dynamic)
    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t row = b * step;
        uint32_t rows = part->data_rows - row < step ? part->data_rows - row : step;
        if (!accumulate) {
            start_rows(table + (size_t)row * op->out, rows, op->out, NULL);
        }
        multiply(op, column, part->width, part->data + (size_t)row * part->width, rows,
                 table + (size_t)row * op->out);
    }
}

/* Decides, by sizes alone, which parts go through tables, and fills those. */
static tm_status_t split_first_layer(tm_run_t *run, uint32_t rows, tm_error_t *err) {
    const tm_op_t *op = &run->mlp->op[0];
    tm_buffer_t *buffers[2] = {&run->cpu->table_a, &run->cpu->table_b};
    if (run->mlp->n_ops == 0 || op->kind != TM_OP_LINEAR) {
        return TM_OK;
    }
    uint32_t column = 0;
    for (uint32_t k = 0; k < run->n_parts; column += run->parts[k].width, k++) {
        const tm_part_t *part = &run->parts[k];
        if (part->kind != TM_PART_INDEXED || part->width < SPLIT_WIDTH_MIN ||
            part->width < op->out / 2 || part->data_rows >= rows) {
            continue;
        }
        uint32_t t = 0;
        while (t < run->n_products && run->products[t].index != part->index) {
            t++;
        }
        if (t == 2) {
            continue;
        }
        bool accumulate = t < run->n_products;
        if (!accumulate) {
            tm_status_t status = tm_buffer_reserve(buffers[t], (size_t)part->data_rows * op->out,
                                                   sizeof(float), "products per node", err);
            if (status != TM_OK) {
                return status;
            }
            run->products[t] = (tm_products_t){.table = buffers[t]->data, .index = part->index};
            run->n_products++;
        }
        multiply_table(run, part, column, accumulate, buffers[t]->data);
        run->split[k] = true;
    }
    return TM_OK;
}

tm_status_t tm_cpu_mlp(tm_cpu_t *cpu, const tm_mlp_t *mlp, const tm_part_t *parts, uint32_t n_parts,
                       uint32_t rows, const float *residual, float *out, tm_error_t *err) {
    tm_run_t run = {.cpu = cpu, .mlp = mlp, .parts = parts, .n_parts = n_parts};
    assert(n_parts <= TM_INPUTS_MAX);
    run.block_rows = block_rows(mlp);
    size_t floats = 2 * (size_t)mlp->max_width * (run.block_rows + 1);
    tm_status_t status = tm_cpu_scratch_reserve(cpu, floats * sizeof(float), err);
    if (status == TM_OK) {
        status = split_first_layer(&run, rows, err);
    }
    if (status != TM_OK) {
        return status;
    }
    uint32_t blocks = (uint32_t)(((uint64_t)rows + run.block_rows - 1) / run.block_rows);
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
    for (uint32_t b = 0; b < blocks; b++) {
        if (!tm_cpu_cancelled(cpu)) {
            uint32_t row = b * run.block_rows;
            uint32_t left = rows - row;
            run_block(&run, row, left < run.block_rows ? left : run.block_rows, residual, out);
        }
    }
    return tm_cpu_check_cancelled(cpu, err);
}
