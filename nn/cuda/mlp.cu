// SPDX-License-Identifier: Apache-2.0
#include "nn/cuda/mlp.cuh"

#include <assert.h>

#include "nn/cuda/edge_features.cuh"

/* The products of a chunk: a good part of a large GPU's L2. */
#define CHUNK_BYTES ((size_t)64 << 20)
#define CHUNK_ROWS_MIN 4096u
#define CHUNK_ROWS_STEP 128u
/* Parts narrower than this are gathered, not looked up as products. */
#define SPLIT_WIDTH_MIN 16u
#define WARPS_PER_BLOCK (TM_GPU_THREADS / TM_GPU_WARP)
#define HALF_MAX 65504.0f
/* Values per lane that are held in registers; more of them, or rare types, go to local memory. */
#define UNROLLED_MAX 32
#define VALUES_MAX 256
#define SQRT_HALF 0.70710678118654752f

/* ---- kernels ---- */

static __device__ inline float load(const float *p) {
    return *p;
}

static __device__ inline float load(const __half *p) {
    return __half2float(*p);
}

static __device__ inline void store(float *p, float v) {
    *p = v;
}

static __device__ inline void store(__half *p, float v) {
    v = v > HALF_MAX ? HALF_MAX : v; /* what is no number stays so */
    *p = __float2half_rn(v < -HALF_MAX ? -HALF_MAX : v);
}

static __device__ inline float warp_sum(float v) {
    for (int step = TM_GPU_WARP / 2; step > 0; step /= 2) {
        v += __shfl_xor_sync(TM_GPU_WARP_MASK, v, step);
    }
    return v;
}

/* out of line: repeated for each of a lane's values they would fill kernels, and compile for minutes */
static __device__ __noinline__ float call_tanh(float x) {
    return tanhf(x);
}

static __device__ __noinline__ float call_gelu(float x) {
    return x * 0.5f * (1 + erff(x * SQRT_HALF));
}

static __device__ inline float activate(tm_op_kind_t kind, float x) {
    switch (kind) {
    case TM_OP_RELU:
        return x > 0 ? x : 0;
    case TM_OP_SILU:
        return x / (1 + expf(-x));
    case TM_OP_TANH:
        return call_tanh(x);
    case TM_OP_SIGMOID:
        return 1 / (1 + expf(-x));
    case TM_OP_GELU:
        return call_gelu(x);
    default:
        return x;
    }
}

typedef struct {
    tm_op_kind_t kind;
    float eps;
    const float *gain, *shift;
} op_t;

typedef struct {
    const void *in; /* NULL: zeros */
    void *out;
    const void *residual;               /* NULL: none */
    const float *bias;                  /* NULL: none */
    const float *table_src, *table_dst; /* NULL: none */
    const uint32_t *src, *dst;          /* rows of them */
    uint32_t rows, width;
    uint32_t n_ops;
    op_t op[TM_GPU_EPILOGUE_OPS];
} epilogue_t;

/* One warp per row; lane l holds the columns l, l + 32, … A row is read in full before any of it is
 * written, and by nobody else: out may be in or residual. */
template <int VALUES, typename In, typename Out>
static __global__ void __launch_bounds__(TM_GPU_THREADS) epilogue(const epilogue_t a) {
    constexpr int UNROLL = VALUES <= UNROLLED_MAX ? VALUES : 1;
    uint64_t row = tm_gpu_thread() / TM_GPU_WARP;
    uint32_t lane = threadIdx.x % TM_GPU_WARP;
    if (row >= a.rows) {
        return; /* the whole warp */
    }
    const In *in = a.in ? (const In *)a.in + row * a.width : NULL;
    const float *from_src = a.table_src ? a.table_src + (size_t)a.src[row] * a.width : NULL;
    const float *from_dst = a.table_dst ? a.table_dst + (size_t)a.dst[row] * a.width : NULL;
    float v[VALUES];
#pragma unroll UNROLL
    for (int i = 0; i < VALUES; i++) {
        uint32_t c = lane + i * TM_GPU_WARP;
        v[i] = 0;
        if (c < a.width) {
            v[i] = in ? load(in + c) : 0;
            v[i] += from_src ? from_src[c] : 0;
            v[i] += from_dst ? from_dst[c] : 0;
            v[i] += a.bias ? a.bias[c] : 0;
        }
    }
    for (uint32_t k = 0; k < a.n_ops; k++) {
        const op_t op = a.op[k];
        if (op.kind == TM_OP_LAYER_NORM) {
            float sum = 0;
#pragma unroll UNROLL
            for (int i = 0; i < VALUES; i++) {
                sum += lane + i * TM_GPU_WARP < a.width ? v[i] : 0;
            }
            float mean = warp_sum(sum) / a.width;
            float squares = 0;
#pragma unroll UNROLL
            for (int i = 0; i < VALUES; i++) {
                float d = v[i] - mean;
                squares += lane + i * TM_GPU_WARP < a.width ? d * d : 0;
            }
            float factor = 1 / sqrtf(warp_sum(squares) / a.width + op.eps);
#pragma unroll UNROLL
            for (int i = 0; i < VALUES; i++) {
                uint32_t c = lane + i * TM_GPU_WARP;
                if (c < a.width) {
                    v[i] = (v[i] - mean) * factor * op.gain[c] + op.shift[c];
                }
            }
        } else if (op.kind == TM_OP_BATCH_NORM) {
#pragma unroll UNROLL
            for (int i = 0; i < VALUES; i++) {
                uint32_t c = lane + i * TM_GPU_WARP;
                if (c < a.width) {
                    v[i] = v[i] * op.gain[c] + op.shift[c];
                }
            }
        } else {
#pragma unroll UNROLL
            for (int i = 0; i < VALUES; i++) {
                v[i] = activate(op.kind, v[i]);
            }
        }
    }
    Out *out = (Out *)a.out + row * a.width;
    const Out *residual = a.residual ? (const Out *)a.residual + row * a.width : NULL;
#pragma unroll UNROLL
    for (int i = 0; i < VALUES; i++) {
        uint32_t c = lane + i * TM_GPU_WARP;
        if (c < a.width) {
            store(out + c, v[i] + (residual ? load(residual + c) : 0));
        }
    }
}

/* A linear layer with one output: a warp per row. */
template <typename In>
static __global__ void __launch_bounds__(TM_GPU_THREADS)
    dot(const In *in, const float *w, uint32_t rows, uint32_t width, float *out) {
    uint64_t row = tm_gpu_thread() / TM_GPU_WARP;
    uint32_t lane = threadIdx.x % TM_GPU_WARP;
    if (row >= rows) {
        return;
    }
    float sum = 0;
    for (uint32_t c = lane; c < width; c += TM_GPU_WARP) {
        sum += load(in + row * width + c) * w[c];
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        out[row] = sum;
    }
}

/* out[row * stride + c] = data[index ? index[row] : row][c] */
template <typename In>
static __global__ void gather(const In *data, const uint32_t *index, uint32_t rows, uint32_t width,
                              float *out, uint32_t stride) {
    uint64_t i = tm_gpu_thread();
    if (i >= (uint64_t)rows * width) {
        return;
    }
    uint64_t row = i / width;
    uint64_t c = i % width;
    uint64_t from = index ? index[row] : row;
    out[row * stride + c] = load(data + from * width + c);
}

static __global__ void edge_features(tm_gpu_edge_features_t list, tm_points_t points,
                                     const uint32_t *src, const uint32_t *dst, uint32_t rows,
                                     float *out, uint32_t stride) {
    uint64_t row = tm_gpu_thread();
    if (row < rows) {
        tm_gpu_edge_features(&list, &points, src[row], dst[row], out + row * stride);
    }
}

/* ---- one call ---- */

typedef struct {
    tm_gpu_t *gpu;
    const tm_gpu_mlp_call_t *call;
    tm_error_t *err;
    const char *weights;
    bool direct[TM_INPUTS_MAX]; /* multiplied where they are */
    bool split[TM_INPUTS_MAX];  /* looked up as products */
    uint32_t gathered_width;    /* of all the others */
    float *table_src, *table_dst;
    float *gathered;    /* [chunk, gathered_width] */
    float *products;    /* [chunk, max_width] */
    void *activations;  /* [chunk, max_width] of gpu->type */
    uint32_t first_row; /* of the chunk */
    uint32_t rows;      /* of the chunk */
} run_t;

static const float *weight_f32(const run_t *run, size_t offset) {
    return offset == TM_GPU_NOWHERE ? NULL : (const float *)(run->weights + offset);
}

/* The weight of the layer from column `column` on, in that type. */
static const void *weight_from(const run_t *run, const tm_gpu_layer_t *layer, tm_gpu_type_t type,
                               uint32_t column) {
    size_t offset = type == TM_GPU_F16 ? layer->w16 : layer->w32;
    assert(offset != TM_GPU_NOWHERE);
    return run->weights + offset + column * tm_gpu_type_bytes(type);
}

/* From products, which are fp32. */
template <int VALUES>
static void launch_products(cudaStream_t stream, const epilogue_t *a, tm_gpu_type_t out) {
    unsigned blocks = tm_gpu_blocks(a->rows, WARPS_PER_BLOCK);
    if (out == TM_GPU_F32) {
        epilogue<VALUES, float, float><<<blocks, TM_GPU_THREADS, 0, stream>>>(*a);
    } else {
        epilogue<VALUES, float, __half><<<blocks, TM_GPU_THREADS, 0, stream>>>(*a);
    }
}

/* From activations, where a layer has no linear operation: rare. */
static void launch_activations(cudaStream_t stream, const epilogue_t *a, tm_gpu_type_t out) {
    unsigned blocks = tm_gpu_blocks(a->rows, WARPS_PER_BLOCK);
    if (out == TM_GPU_F32) {
        epilogue<VALUES_MAX, __half, float><<<blocks, TM_GPU_THREADS, 0, stream>>>(*a);
    } else {
        epilogue<VALUES_MAX, __half, __half><<<blocks, TM_GPU_THREADS, 0, stream>>>(*a);
    }
}

/* The fewest values per lane that hold a row. */
static void launch_epilogue(cudaStream_t stream, const epilogue_t *a, tm_gpu_type_t in,
                            tm_gpu_type_t out) {
    static_assert(TM_WIDTH_MAX <= VALUES_MAX * TM_GPU_WARP, "rows fit the widest kernel");
    uint32_t values = (a->width + TM_GPU_WARP - 1) / TM_GPU_WARP;
    if (in == TM_GPU_F16) {
        launch_activations(stream, a, out);
    } else if (values <= 2) {
        launch_products<2>(stream, a, out);
    } else if (values <= 4) {
        launch_products<4>(stream, a, out);
    } else if (values <= 8) {
        launch_products<8>(stream, a, out);
    } else if (values <= 16) {
        launch_products<16>(stream, a, out);
    } else if (values <= UNROLLED_MAX) {
        launch_products<UNROLLED_MAX>(stream, a, out);
    } else {
        launch_products<VALUES_MAX>(stream, a, out);
    }
}

/* Decides, by the model alone, how each part gets in. */
static void classify(run_t *run) {
    const tm_gpu_mlp_call_t *call = run->call;
    bool linear = call->mlp->layer[0].linear;
    for (uint32_t k = 0; k < call->n_parts; k++) {
        const tm_gpu_part_t *part = &call->part[k];
        bool looked_up = part->kind == TM_GPU_PART_SRC || part->kind == TM_GPU_PART_DST;
        run->direct[k] = linear && part->kind == TM_GPU_PART_ROWS;
        run->split[k] = linear && looked_up && part->width >= SPLIT_WIDTH_MIN;
        run->gathered_width += run->direct[k] || run->split[k] ? 0 : part->width;
    }
}

/* The products per node of all split parts. */
static tm_status_t fill_tables(run_t *run) {
    const tm_gpu_mlp_call_t *call = run->call;
    const tm_gpu_layer_t *layer = &call->mlp->layer[0];
    uint32_t column = 0;
    for (uint32_t k = 0; k < call->n_parts; column += call->part[k].width, k++) {
        const tm_gpu_part_t *part = &call->part[k];
        if (!run->split[k]) {
            continue;
        }
        bool at_src = part->kind == TM_GPU_PART_SRC;
        float **table = at_src ? &run->table_src : &run->table_dst;
        bool accumulate = *table != NULL;
        if (!accumulate) {
            TM_TRY(tm_gpu_reserve(run->gpu, at_src ? TM_GPU_TABLE_SRC : TM_GPU_TABLE_DST,
                                  (size_t)call->points->n * layer->out, table, run->err));
        }
        TM_TRY(tm_gpu_multiply(run->gpu, TM_GPU_F32, part->data, part->width, call->points->n,
                               part->width, weight_from(run, layer, TM_GPU_F32, column), layer->in,
                               layer->out, accumulate, *table, run->err));
    }
    return TM_OK;
}

/* Writes a part of the chunk at `column` of the gathered input. */
static tm_status_t gather_part(const run_t *run, const tm_gpu_part_t *part, uint32_t column) {
    const tm_gpu_mlp_call_t *call = run->call;
    cudaStream_t stream = run->gpu->stream;
    float *out = run->gathered + column;
    uint32_t first = run->first_row;
    const uint32_t *src = call->edges ? call->edges->src + first : NULL;
    const uint32_t *dst = call->edges ? call->edges->dst + first : NULL;
    unsigned blocks = tm_gpu_blocks((uint64_t)run->rows * part->width, TM_GPU_THREADS);
    const uint32_t *index = part->kind == TM_GPU_PART_SRC   ? src
                            : part->kind == TM_GPU_PART_DST ? dst
                                                            : NULL;
    size_t skip = part->kind == TM_GPU_PART_ROWS ? (size_t)first * part->width : 0;
    if (part->width == 0) {
        return TM_OK;
    }
    if (part->kind == TM_GPU_PART_EDGE_FEATURES) {
        tm_gpu_edge_features_t list;
        tm_gpu_edge_features_of(run->gpu->device.pipeline, &list);
        blocks = tm_gpu_blocks(run->rows, TM_GPU_THREADS);
        edge_features<<<blocks, TM_GPU_THREADS, 0, stream>>>(list, *call->points, src, dst,
                                                             run->rows, out, run->gathered_width);
    } else if (part->kind == TM_GPU_PART_ROWS && part->type == TM_GPU_F16) {
        gather<<<blocks, TM_GPU_THREADS, 0, stream>>>((const __half *)part->data + skip, index,
                                                      run->rows, part->width, out,
                                                      run->gathered_width);
    } else {
        gather<<<blocks, TM_GPU_THREADS, 0, stream>>>((const float *)part->data + skip, index,
                                                      run->rows, part->width, out,
                                                      run->gathered_width);
    }
    return tm_gpu_launched(run->gpu, "gathering", run->err);
}

static tm_status_t gather_parts(const run_t *run) {
    uint32_t column = 0;
    for (uint32_t k = 0; k < run->call->n_parts; k++) {
        if (!run->direct[k] && !run->split[k]) {
            TM_TRY(gather_part(run, &run->call->part[k], column));
            column += run->call->part[k].width;
        }
    }
    return TM_OK;
}

/* Multiplies all parts of the chunk that are not split; *any: there were some. */
static tm_status_t multiply_parts(const run_t *run, bool *any) {
    const tm_gpu_mlp_call_t *call = run->call;
    const tm_gpu_layer_t *layer = &call->mlp->layer[0];
    uint32_t column = 0;
    uint32_t gathered_at = 0;
    *any = false;
    for (uint32_t k = 0; k < call->n_parts; k++) {
        const tm_gpu_part_t *part = &call->part[k];
        tm_gpu_type_t type = TM_GPU_F32;
        const void *data = NULL;
        uint32_t stride = part->width;
        uint32_t width = part->width; /* of this and the gathered parts right behind it */
        if (run->direct[k]) {
            type = part->type;
            data = (const char *)part->data +
                   (size_t)run->first_row * part->width * tm_gpu_type_bytes(type);
        } else if (!run->split[k]) {
            while (k + 1 < call->n_parts && !run->direct[k + 1] && !run->split[k + 1]) {
                width += call->part[++k].width;
            }
            data = run->gathered + gathered_at;
            stride = run->gathered_width;
            gathered_at += width;
        }
        if (data && width > 0) {
            TM_TRY(tm_gpu_multiply(run->gpu, type, data, stride, run->rows, width,
                                   weight_from(run, layer, type, column), layer->in, layer->out,
                                   *any, run->products, run->err));
            *any = true;
        }
        column += width;
    }
    return TM_OK;
}

/* The linear operation of a layer behind the first, into the products. */
static tm_status_t multiply_layer(const run_t *run, const tm_gpu_layer_t *layer) {
    tm_gpu_type_t type = run->gpu->type;
    if (layer->out > 1) {
        return tm_gpu_multiply(run->gpu, type, run->activations, layer->in, run->rows, layer->in,
                               weight_from(run, layer, type, 0), layer->in, layer->out, false,
                               run->products, run->err);
    }
    unsigned blocks = tm_gpu_blocks(run->rows, WARPS_PER_BLOCK);
    const float *w = weight_f32(run, layer->w32);
    if (type == TM_GPU_F16) {
        dot<<<blocks, TM_GPU_THREADS, 0, run->gpu->stream>>>((const __half *)run->activations, w,
                                                             run->rows, layer->in, run->products);
    } else {
        dot<<<blocks, TM_GPU_THREADS, 0, run->gpu->stream>>>((const float *)run->activations, w,
                                                             run->rows, layer->in, run->products);
    }
    return tm_gpu_launched(run->gpu, "a layer", run->err);
}

static tm_status_t run_layer(const run_t *run, uint32_t number) {
    const tm_gpu_mlp_call_t *call = run->call;
    const tm_gpu_layer_t *layer = &call->mlp->layer[number];
    bool last = number + 1 == call->mlp->n_layers;
    epilogue_t a = {.in = run->products,
                    .out = run->activations,
                    .bias = weight_f32(run, layer->bias),
                    .rows = run->rows,
                    .width = layer->out,
                    .n_ops = layer->n_ops};
    tm_gpu_type_t in_type = TM_GPU_F32;
    tm_gpu_type_t out_type = last ? call->out_type : run->gpu->type;
    if (number == 0) {
        TM_TRY(gather_parts(run));
        if (layer->linear) {
            bool any = false;
            TM_TRY(multiply_parts(run, &any));
            a.in = any ? run->products : NULL;
            a.table_src = run->table_src;
            a.table_dst = run->table_dst;
            a.src = call->edges ? call->edges->src + run->first_row : NULL;
            a.dst = call->edges ? call->edges->dst + run->first_row : NULL;
        } else {
            a.in = run->gathered;
        }
    } else if (layer->linear) {
        TM_TRY(multiply_layer(run, layer));
    } else {
        a.in = run->activations;
        in_type = run->gpu->type;
    }
    for (uint32_t k = 0; k < layer->n_ops; k++) {
        a.op[k] = (op_t){.kind = layer->op[k].kind,
                         .eps = layer->op[k].eps,
                         .gain = weight_f32(run, layer->op[k].gain),
                         .shift = weight_f32(run, layer->op[k].shift)};
    }
    if (last) {
        size_t skip = (size_t)run->first_row * layer->out * tm_gpu_type_bytes(out_type);
        a.out = (char *)call->out + skip;
        a.residual = call->residual ? (const char *)call->residual + skip : NULL;
    }
    launch_epilogue(run->gpu->stream, &a, in_type, out_type);
    return tm_gpu_launched(run->gpu, "a layer", run->err);
}

static uint32_t chunk_rows(const tm_gpu_mlp_t *mlp) {
    size_t rows =
        CHUNK_BYTES / (mlp->max_width * sizeof(float)) / CHUNK_ROWS_STEP * CHUNK_ROWS_STEP;
    return rows < CHUNK_ROWS_MIN ? CHUNK_ROWS_MIN : (uint32_t)rows;
}

tm_status_t tm_gpu_mlp_run(tm_gpu_t *gpu, const tm_gpu_mlp_call_t *call, tm_error_t *err) {
    const tm_gpu_mlp_t *mlp = call->mlp;
    if (call->rows == 0) {
        return TM_OK;
    }
    assert(mlp->n_layers > 0 && call->n_parts <= TM_INPUTS_MAX);
    run_t run = {.gpu = gpu,
                 .call = call,
                 .err = err,
                 .weights = (const char *)gpu->buffer[TM_GPU_WEIGHTS].data};
    classify(&run);
    uint32_t chunk = chunk_rows(mlp);
    chunk = call->rows < chunk ? call->rows : chunk;
    size_t elements = (size_t)chunk * mlp->max_width;
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_PRODUCTS, elements, &run.products, err));
    TM_TRY(tm_gpu_reserve_bytes(gpu, TM_GPU_ACTIVATIONS, elements, tm_gpu_type_bytes(gpu->type),
                                &run.activations, err));
    TM_TRY(tm_gpu_reserve(gpu, TM_GPU_GATHERED, (size_t)chunk * run.gathered_width, &run.gathered,
                          err));
    TM_TRY(fill_tables(&run));
    for (uint64_t row = 0; row < call->rows; row += chunk) {
        run.first_row = (uint32_t)row;
        run.rows = call->rows - row < chunk ? (uint32_t)(call->rows - row) : chunk;
        TM_TRY(tm_gpu_cancelled(gpu, err));
        for (uint32_t k = 0; k < mlp->n_layers; k++) {
            TM_TRY(run_layer(&run, k));
        }
    }
    return TM_OK;
}
