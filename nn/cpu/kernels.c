// SPDX-License-Identifier: Apache-2.0
/* Compiled several times with different -march; TM_KERNELS_TABLE and TM_KERNELS_NAME tell apart. */
#include "nn/cpu/kernels.h"

#include <math.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* ---- elementary functions: straight-line code, so that the loops around them vectorise ---- */

/* exp to 2 units in the last place for x in [-87, 88], saturating outside (Cephes' polynomial). */
ALWAYS_INLINE float fast_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    /* adding 1.5·2^23 leaves the rounded integer in the low bits of the sum */
    const float magic = 12582912.0f;
    float shifted = x * 1.44269504088896341f + magic;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    float n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t exponent = (int32_t)((uint32_t)(bits - 0x4B400000 + 127) << 23);
    float scale;
    memcpy(&scale, &exponent, sizeof scale);
    return p * scale;
}

ALWAYS_INLINE float fast_sigmoid(float x) {
    return 1.0f / (1.0f + fast_exp(-x));
}

ALWAYS_INLINE float fast_tanh(float x) {
    float z = x * x;
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z + -5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z + -3.33332819422e-1f;
    float near = p * z * x + x;
    float far = 1.0f - 2.0f / (1.0f + fast_exp(2.0f * x));
    return z < 0.390625f ? near : far;
}

ALWAYS_INLINE float activate(float x, tm_act_t act) {
    switch (act) {
    case TM_ACT_RELU:
        return x < 0.0f ? 0.0f : x; /* NaN stays NaN */
    case TM_ACT_SILU:
        /* the sigmoid does not get below 1e-38, x does: without this, silu(−1e38) would not be 0 */
        return (x < -88.0f ? -88.0f : x) * fast_sigmoid(x);
    case TM_ACT_TANH:
        return fast_tanh(x);
    case TM_ACT_SIGMOID:
        return fast_sigmoid(x);
    case TM_ACT_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case TM_ACT_NONE:
        break;
    }
    return x;
}

/* ---- dense layers ---- */

ALWAYS_INLINE void epilogue_rows(float *block, size_t rows, size_t width, const float *bias,
                                 const float *gain, const float *shift, float eps, tm_act_t act) {
    for (size_t i = 0; i < rows; i++) {
        float *x = block + i * width;
        if (!gain) {
            if (bias) {
#pragma omp simd
                for (size_t k = 0; k < width; k++) {
                    x[k] = activate(x[k] + bias[k], act);
                }
            } else {
#pragma omp simd
                for (size_t k = 0; k < width; k++) {
                    x[k] = activate(x[k], act);
                }
            }
            continue;
        }
        float sum = 0;
        if (bias) {
#pragma omp simd reduction(+ : sum)
            for (size_t k = 0; k < width; k++) {
                x[k] += bias[k];
                sum += x[k];
            }
        } else {
#pragma omp simd reduction(+ : sum)
            for (size_t k = 0; k < width; k++) {
                sum += x[k];
            }
        }
        /* two passes: the row is in the first level cache, and E[x²] − E[x]² would cancel */
        float mean = sum / (float)width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (size_t k = 0; k < width; k++) {
            float d = x[k] - mean;
            squares += d * d;
        }
        float inverse = 1.0f / sqrtf(squares / (float)width + eps);
#pragma omp simd
        for (size_t k = 0; k < width; k++) {
            x[k] = activate((x[k] - mean) * inverse * gain[k] + shift[k], act);
        }
    }
}

static void epilogue(float *block, size_t rows, size_t width, const float *bias, const float *gain,
                     const float *shift, float eps, tm_act_t act) {
    /* one copy of the loops for each activation, so that none is chosen inside them */
    switch (act) {
    case TM_ACT_RELU:
        epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_RELU);
        break;
    case TM_ACT_SILU:
        epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_SILU);
        break;
    case TM_ACT_TANH:
        epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_TANH);
        break;
    case TM_ACT_SIGMOID:
        epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_SIGMOID);
        break;
    case TM_ACT_GELU:
        epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_GELU);
        break;
    case TM_ACT_NONE:
        if (bias || gain) {
            epilogue_rows(block, rows, width, bias, gain, shift, eps, TM_ACT_NONE);
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
#pragma omp simd
    for (size_t j = 0; j < TM_TILE; j++) {
        float sum = 0;
        for (size_t d = 0; d < dims; d++) {
            float u = query[d] - tile[d * TM_TILE + j];
            sum += u * u;
        }
        d2[j] = sum;
    }
    uint32_t mask[2] = {0, 0};
    for (size_t half = 0; half < 2; half++) {
        uint32_t m = 0;
#pragma omp simd reduction(| : m)
        for (uint32_t j = 0; j < TM_TILE / 2; j++) {
            uint32_t in = d2[half * (TM_TILE / 2) + j] <= r2;
            uint32_t beyond = key[half * (TM_TILE / 2) + j] >= least_key;
            m |= (in & beyond) << j;
        }
        mask[half] = m;
    }
    return mask[0] | (uint64_t)mask[1] << 32;
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
    .edge_features = edge_features,
};
