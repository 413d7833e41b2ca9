// SPDX-License-Identifier: Apache-2.0
/* Compiled several times with different -march; TM_KERNELS_TABLE and TM_KERNELS_NAME tell apart. */
#include "nn/cpu/kernels.h"

#include <math.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* ---- vectors of 8 floats ----
 * The compiler's vector types: one register with AVX, two with SSE. The loops that matter are written
 * with them, because auto-vectorisation of the same code depends on the compiler's mood. */

#define LANES 8
typedef float vf_t __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t vi_t __attribute__((vector_size(LANES * sizeof(int32_t))));

ALWAYS_INLINE vf_t load(const float *p) {
    vf_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE void store(float *p, vf_t v) {
    memcpy(p, &v, sizeof v);
}

ALWAYS_INLINE vf_t spread(float x) {
    return (vf_t){x, x, x, x, x, x, x, x};
}

ALWAYS_INLINE float total(vf_t v) {
    float low = (v[0] + v[4]) + (v[2] + v[6]);
    float high = (v[1] + v[5]) + (v[3] + v[7]);
    return low + high;
}

ALWAYS_INLINE vf_t choose(vi_t mask, vf_t yes, vf_t no) {
    return (vf_t)((mask & (vi_t)yes) | (~mask & (vi_t)no));
}

/* Where x is no number, so is the result. */
ALWAYS_INLINE vf_t at_least(vf_t x, float low) {
#ifdef __AVX__
    return (vf_t)_mm256_max_ps((__m256)spread(low), (__m256)x);
#else
    return choose(x < spread(low), spread(low), x);
#endif
}

ALWAYS_INLINE vf_t larger(vf_t a, vf_t b) {
#ifdef __AVX__
    return (vf_t)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return choose(a > b, a, b);
#endif
}

ALWAYS_INLINE vf_t at_most(vf_t x, float high) {
#ifdef __AVX__
    return (vf_t)_mm256_min_ps((__m256)spread(high), (__m256)x);
#else
    return choose(x > spread(high), spread(high), x);
#endif
}

/* a · b + c; asked for by name, as compilers avoid it in chains when tuning for some processors. */
ALWAYS_INLINE vf_t fused(vf_t a, vf_t b, vf_t c) {
#ifdef __FMA__
    return (vf_t)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

/* One bit per lane that is true. */
ALWAYS_INLINE uint32_t mask_bits(vi_t mask) {
#ifdef __AVX__
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
#else
    uint32_t bits = 0;
    for (int j = 0; j < LANES; j++) {
        bits |= (uint32_t)(mask[j] & 1) << j;
    }
    return bits;
#endif
}

/* ---- elementary functions ---- */

/* exp to 2 units in the last place for x in [-87, 88], saturating outside (Cephes' polynomial). */
ALWAYS_INLINE vf_t v_exp(vf_t x) {
    x = at_most(at_least(x, -87.0f), 88.0f);
    /* adding 1.5·2^23 leaves the rounded integer in the low bits of the sum */
    const float magic = 12582912.0f;
    vf_t shifted = fused(x, spread(1.44269504088896341f), spread(magic));
    vf_t n = shifted - magic;
    vf_t r = fused(n, spread(-0.693359375f), x);
    r = fused(n, spread(2.12194440e-4f), r);
    vf_t p = fused(r, spread(1.9875691500e-4f), spread(1.3981999507e-3f));
    p = fused(p, r, spread(8.3334519073e-3f));
    p = fused(p, r, spread(4.1665795894e-2f));
    p = fused(p, r, spread(1.6666665459e-1f));
    p = fused(p, r, spread(5.0000001201e-1f));
    p = fused(p, r * r, r + 1.0f);
    vi_t exponent = ((vi_t)shifted - 0x4B400000 + 127) << 23;
    return p * (vf_t)exponent;
}

ALWAYS_INLINE vf_t v_sigmoid(vf_t x) {
    return 1.0f / (1.0f + v_exp(-x));
}

/* Cephes' polynomial near 0, where 1 − 2/(1 + e^2x) would cancel. */
ALWAYS_INLINE vf_t v_tanh(vf_t x) {
    vf_t z = x * x;
    vf_t p = fused(z, spread(-5.70498872745e-3f), spread(2.06390887954e-2f));
    p = fused(p, z, spread(-5.37397155531e-2f));
    p = fused(p, z, spread(1.33314422036e-1f));
    p = fused(p, z, spread(-3.33332819422e-1f));
    vf_t near = fused(p * z, x, x);
    vf_t far = 1.0f - 2.0f / (1.0f + v_exp(2.0f * x));
    return choose(z < spread(0.390625f), near, far);
}

/* erf to 2e-7 (Abramowitz and Stegun, 7.1.26). */
ALWAYS_INLINE vf_t v_erf(vf_t x) {
    vi_t sign = (vi_t)x & INT32_MIN;
    vf_t a = (vf_t)((vi_t)x ^ sign);
    vf_t t = 1.0f / (1.0f + 0.3275911f * a);
    vf_t p = t * 1.061405429f + -1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t + -0.284496736f;
    p = p * t + 0.254829592f;
    vf_t erf_a = 1.0f - p * t * v_exp(-(a * a));
    return (vf_t)((vi_t)erf_a | sign);
}

ALWAYS_INLINE vf_t activate(vf_t x, tm_act_t act) {
    switch (act) {
    case TM_ACT_RELU:
        return at_least(x, 0);
    case TM_ACT_SILU:
        /* the sigmoid does not get below 1e-38, x does: without this, silu(−1e38) would not be 0 */
        return at_least(x, -88.0f) * v_sigmoid(x);
    case TM_ACT_TANH:
        return v_tanh(x);
    case TM_ACT_SIGMOID:
        return v_sigmoid(x);
    case TM_ACT_GELU:
        return 0.5f * x * (1.0f + v_erf(x * 0.70710678118654752f));
    case TM_ACT_NONE:
        break;
    }
    return x;
}

/* ---- dense layers ---- */

/* Rows whose means are taken before any is normalised: enough to keep the processor busy while
 * sums and square roots finish, few enough to stay in the first level cache. */
#define STATISTICS_ROWS 8

/* The first `n` < LANES floats at p, and 0 behind them. */
ALWAYS_INLINE vf_t load_some(const float *p, size_t n) {
    float padded[LANES] = {0};
    memcpy(padded, p, n * sizeof *p);
    return load(padded);
}

ALWAYS_INLINE void store_some(float *p, vf_t v, size_t n) {
    float padded[LANES];
    store(padded, v);
    memcpy(p, padded, n * sizeof *p);
}

/* Adds the bias to a row and returns its mean; *inverse: one over its standard deviation. */
ALWAYS_INLINE float row_statistics(float *x, size_t width, const float *bias, float eps,
                                   float *inverse) {
    size_t whole = width / LANES * LANES;
    size_t rest = width - whole;
    vf_t sum = {0};
    for (size_t k = 0; k < whole; k += LANES) {
        vf_t v = load(x + k);
        if (bias) {
            v += load(bias + k);
            store(x + k, v);
        }
        sum += v;
    }
    if (rest) {
        vf_t v = load_some(x + whole, rest);
        if (bias) {
            v += load_some(bias + whole, rest);
            store_some(x + whole, v, rest);
        }
        sum += v;
    }
    float mean = total(sum) / (float)width;
    /* a second pass, as E[x²] − E[x]² would cancel */
    vf_t squares = {0};
    for (size_t k = 0; k < whole; k += LANES) {
        vf_t d = load(x + k) - mean;
        squares = fused(d, d, squares);
    }
    float square = total(squares);
    for (size_t k = whole; k < width; k++) {
        square += (x[k] - mean) * (x[k] - mean);
    }
    *inverse = 1.0f / sqrtf(square / (float)width + eps);
    return mean;
}

ALWAYS_INLINE void norm_rows(float *block, size_t rows, size_t width, const float *bias,
                             const float *gain, const float *shift, float eps, tm_act_t act) {
    size_t whole = width / LANES * LANES;
    size_t rest = width - whole;
    for (size_t start = 0; start < rows; start += STATISTICS_ROWS) {
        size_t n = rows - start < STATISTICS_ROWS ? rows - start : STATISTICS_ROWS;
        float mean[STATISTICS_ROWS], inverse[STATISTICS_ROWS];
        for (size_t i = 0; i < n; i++) {
            mean[i] = row_statistics(block + (start + i) * width, width, bias, eps, &inverse[i]);
        }
        for (size_t i = 0; i < n; i++) {
            float *x = block + (start + i) * width;
            for (size_t k = 0; k < whole; k += LANES) {
                vf_t v = (load(x + k) - mean[i]) * inverse[i];
                store(x + k, activate(fused(v, load(gain + k), load(shift + k)), act));
            }
            if (rest) {
                vf_t v = (load_some(x + whole, rest) - mean[i]) * inverse[i];
                v = v * load_some(gain + whole, rest) + load_some(shift + whole, rest);
                store_some(x + whole, activate(v, act), rest);
            }
        }
    }
}

ALWAYS_INLINE void plain_rows(float *block, size_t rows, size_t width, const float *bias,
                              tm_act_t act) {
    size_t whole = width / LANES * LANES;
    size_t rest = width - whole;
    for (size_t i = 0; i < rows; i++) {
        float *x = block + i * width;
        for (size_t k = 0; k < whole; k += LANES) {
            vf_t v = load(x + k);
            store(x + k, activate(bias ? v + load(bias + k) : v, act));
        }
        if (rest) {
            vf_t v = load_some(x + whole, rest);
            v = bias ? v + load_some(bias + whole, rest) : v;
            store_some(x + whole, activate(v, act), rest);
        }
    }
}

ALWAYS_INLINE void epilogue_for(float *block, size_t rows, size_t width, const float *bias,
                                const float *gain, const float *shift, float eps, tm_act_t act) {
    if (gain) {
        norm_rows(block, rows, width, bias, gain, shift, eps, act);
    } else {
        plain_rows(block, rows, width, bias, act);
    }
}

static void epilogue(float *block, size_t rows, size_t width, const float *bias, const float *gain,
                     const float *shift, float eps, tm_act_t act) {
    /* one copy of the loops for each activation, so that none is chosen inside them */
    switch (act) {
    case TM_ACT_RELU:
        epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_RELU);
        break;
    case TM_ACT_SILU:
        epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_SILU);
        break;
    case TM_ACT_TANH:
        epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_TANH);
        break;
    case TM_ACT_SIGMOID:
        epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_SIGMOID);
        break;
    case TM_ACT_GELU:
        epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_GELU);
        break;
    case TM_ACT_NONE:
        if (bias || gain) {
            epilogue_for(block, rows, width, bias, gain, shift, eps, TM_ACT_NONE);
        }
        break;
    }
}

static void affine(float *block, size_t rows, size_t width, const float *scale,
                   const float *shift) {
    for (size_t i = 0; i < rows; i++) {
        float *x = block + i * width;
#pragma omp simd
        for (size_t k = 0; k < width; k++) {
            x[k] = x[k] * scale[k] + shift[k];
        }
    }
}

static void matvec(const float *a, size_t rows, size_t width, const float *w, float bias,
                   float *out) {
    for (size_t i = 0; i < rows; i++) {
        const float *x = a + i * width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t k = 0; k < width; k++) {
            sum += x[k] * w[k];
        }
        out[i] = sum + bias;
    }
}

static void gather(float *block, size_t rows, size_t width, const float *table_a,
                   const uint32_t *index_a, const float *table_b, const uint32_t *index_b) {
    for (size_t i = 0; i < rows; i++) {
        const float *a = table_a + (size_t)index_a[i] * width;
        float *x = block + i * width;
        if (!table_b) {
            memcpy(x, a, width * sizeof *x);
            continue;
        }
        const float *b = table_b + (size_t)index_b[i] * width;
#pragma omp simd
        for (size_t k = 0; k < width; k++) {
            x[k] = a[k] + b[k];
        }
    }
}

static void add(float *out, const float *x, size_t n) {
#pragma omp simd
    for (size_t k = 0; k < n; k++) {
        out[k] += x[k];
    }
}

static void add_scaled(float *out, const float *x, float w, size_t n) {
#pragma omp simd
    for (size_t k = 0; k < n; k++) {
        out[k] += w * x[k];
    }
}

static void maximum(float *out, const float *x, size_t n) {
#pragma omp simd
    for (size_t k = 0; k < n; k++) {
        out[k] = x[k] > out[k] ? x[k] : out[k];
    }
}

static size_t normalize(float *block, size_t rows, size_t width, int divide) {
    size_t bad = rows;
    for (size_t i = 0; i < rows; i++) {
        float *x = block + i * width;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t k = 0; k < width; k++) {
            sum += x[k] * x[k];
        }
        if (!(sum <= 3.0e38f)) {
            bad = i < bad ? i : bad;
            continue;
        }
        float norm = sqrtf(sum);
        float inverse = divide ? 1.0f / (norm > 1e-12f ? norm : 1e-12f) : 1.0f;
#pragma omp simd
        for (size_t k = 0; k < width; k++) {
            x[k] *= inverse;
        }
    }
    return bad;
}

/* ---- radius search ---- */

ALWAYS_INLINE uint64_t tile_hits_fixed(const float *query, const float *tile, size_t dims, float r2,
                                       const float *key, float least_key, float *d2) {
    uint64_t hits = 0;
    for (size_t j = 0; j < TM_TILE; j += LANES) {
        vf_t sum = {0};
        for (size_t d = 0; d < dims; d++) {
            vf_t u = query[d] - load(tile + d * TM_TILE + j);
            sum = fused(u, u, sum);
        }
        store(d2 + j, sum);
        vi_t in = (sum <= spread(r2)) & (load(key + j) >= spread(least_key));
        hits |= (uint64_t)mask_bits(in) << j;
    }
    return hits;
}

static uint64_t tile_hits(const float *query, const float *tile, size_t dims, float r2,
                          const float *key, float least_key, float *d2) {
    switch (dims) {
    case 4:
        return tile_hits_fixed(query, tile, 4, r2, key, least_key, d2);
    case 8:
        return tile_hits_fixed(query, tile, 8, r2, key, least_key, d2);
    case 12:
        return tile_hits_fixed(query, tile, 12, r2, key, least_key, d2);
    default:
        return tile_hits_fixed(query, tile, dims, r2, key, least_key, d2);
    }
}

static uint32_t boxes_reached(const float *query, const float *boxes, uint32_t n, size_t dims,
                              float r2, const float *key, float least_key, const uint32_t *names,
                              uint32_t *out) {
    uint32_t found = 0;
    for (uint32_t group = 0; group < n; group += LANES) {
        const float *low = boxes + (size_t)group * 2 * dims;
        vf_t sum = {0};
        for (size_t d = 0; d < dims; d++) {
            vf_t below = load(low + 2 * d * LANES) - query[d];
            vf_t above = query[d] - load(low + (2 * d + 1) * LANES);
            vf_t gap = at_least(larger(below, above), 0);
            sum = fused(gap, gap, sum);
        }
        uint32_t bits = mask_bits((sum <= spread(r2)) & (load(key + group) >= spread(least_key)));
        for (; bits; bits &= bits - 1) {
            out[found++] = names[group + (uint32_t)__builtin_ctz(bits)];
        }
    }
    return found;
}

/* ---- edge features ---- */

#define PI_F 3.14159265358979f
#define LEAST_DR_MM 2.0f

static void edge_features(const tm_pipeline_t *pipeline, const tm_points_t *points,
                          const uint32_t *src, const uint32_t *dst, size_t rows, float *out,
                          size_t stride) {
    float ra[TM_EDGE_BLOCK], rb[TM_EDGE_BLOCK], za[TM_EDGE_BLOCK], dr[TM_EDGE_BLOCK];
    float dphi[TM_EDGE_BLOCK], dz[TM_EDGE_BLOCK], deta[TM_EDGE_BLOCK], value[TM_EDGE_BLOCK];
    for (size_t start = 0; start < rows; start += TM_EDGE_BLOCK) {
        size_t m = rows - start < TM_EDGE_BLOCK ? rows - start : TM_EDGE_BLOCK;
        for (size_t i = 0; i < m; i++) {
            uint32_t a = src[start + i];
            uint32_t b = dst[start + i];
            ra[i] = points->r[a];
            rb[i] = points->r[b];
            za[i] = points->z[a];
            dr[i] = points->r[b] - points->r[a];
            dz[i] = points->z[b] - points->z[a];
            deta[i] = points->eta[b] - points->eta[a];
            float d = points->phi[b] - points->phi[a];
            d = d > PI_F ? d - 2 * PI_F : d;
            dphi[i] = d <= -PI_F ? d + 2 * PI_F : d;
        }
        for (uint32_t f = 0; f < pipeline->n_edge_features; f++) {
            const tm_edge_feature_t *feature = &pipeline->edge_feature[f];
            switch (feature->kind) {
            case TM_EF_DR:
                memcpy(value, dr, m * sizeof *value);
                break;
            case TM_EF_DPHI:
                memcpy(value, dphi, m * sizeof *value);
                break;
            case TM_EF_DZ:
                memcpy(value, dz, m * sizeof *value);
                break;
            case TM_EF_DETA:
                memcpy(value, deta, m * sizeof *value);
                break;
            case TM_EF_Z0:
#pragma omp simd
                for (size_t i = 0; i < m; i++) {
                    float s = fabsf(dr[i]) < LEAST_DR_MM ? LEAST_DR_MM : fabsf(dr[i]);
                    s = dr[i] < 0 ? -s : s;
                    value[i] = za[i] - ra[i] * dz[i] / s;
                }
                break;
            case TM_EF_CURVATURE:
#pragma omp simd
                for (size_t i = 0; i < m; i++) {
                    float s = fabsf(dr[i]) < LEAST_DR_MM ? LEAST_DR_MM : fabsf(dr[i]);
                    s = dr[i] < 0 ? -s : s;
                    value[i] = dphi[i] / s;
                }
                break;
            case TM_EF_PHI_SLOPE:
#pragma omp simd
                for (size_t i = 0; i < m; i++) {
                    value[i] = dr[i] == 0 ? 0 : dphi[i] / dr[i];
                }
                break;
            case TM_EF_RPHI_SLOPE:
#pragma omp simd
                for (size_t i = 0; i < m; i++) {
                    value[i] = dr[i] == 0 ? 0 : dphi[i] / dr[i] * (ra[i] + rb[i]) * 0.5f;
                }
                break;
            }
            float scale = 1.0f / feature->scale;
            float limit = feature->clamp > 0 ? feature->clamp : HUGE_VALF;
            float *o = out + start * stride + f;
            for (size_t i = 0; i < m; i++) {
                float v = value[i] * scale;
                v = v > limit ? limit : v;
                o[i * stride] = v < -limit ? -limit : v;
            }
        }
    }
}

const tm_kernels_t TM_KERNELS_TABLE = {
    .name = TM_KERNELS_NAME,
    .epilogue = epilogue,
    .affine = affine,
    .matvec = matvec,
    .gather = gather,
    .add = add,
    .add_scaled = add_scaled,
    .maximum = maximum,
    .normalize = normalize,
    .tile_hits = tile_hits,
    .boxes_reached = boxes_reached,
    .edge_features = edge_features,
};
