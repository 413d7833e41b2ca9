// SPDX-License-Identifier: Apache-2.0
#include <math.h>

#include "nn/ref/ref.h"

static double raw_value(tm_edge_feature_kind_t kind, const tm_points_t *p, uint32_t a, uint32_t b) {
    double ra = (double)p->r[a];
    double rb = (double)p->r[b];
    double dr = rb - ra;
    double dz = (double)p->z[b] - (double)p->z[a];
    double dphi = tm_ref_wrap_phi((double)p->phi[b] - (double)p->phi[a]);
    double s = (dr < 0 ? -1 : 1) * fmax(fabs(dr), 2);
    double phi_slope = dr == 0 ? 0 : dphi / dr;
    switch (kind) {
    case TM_EF_DR:
        return dr;
    case TM_EF_DPHI:
        return dphi;
    case TM_EF_DZ:
        return dz;
    case TM_EF_DETA:
        return (double)p->eta[b] - (double)p->eta[a];
    case TM_EF_Z0:
        return (double)p->z[a] - ra * dz / s;
    case TM_EF_CURVATURE:
        return dphi / s;
    case TM_EF_PHI_SLOPE:
        return phi_slope;
    case TM_EF_RPHI_SLOPE:
        return phi_slope * (ra + rb) / 2;
    }
    return NAN;
}

void tm_ref_edge_features(const tm_pipeline_t *pipeline, const tm_points_t *points, uint32_t a,
                          uint32_t b, double *out) {
    for (uint32_t k = 0; k < pipeline->n_edge_features; k++) {
        const tm_edge_feature_t *f = &pipeline->edge_feature[k];
        double value = raw_value(f->kind, points, a, b) / (double)f->scale;
        out[k] = f->clamp > 0 ? fmin(fmax(value, -(double)f->clamp), (double)f->clamp) : value;
    }
}

tm_status_t tm_ref_filter(tm_device_t *device, const tm_points_t *points, const float *features,
                          const tm_edges_t *edges, tm_edges_t *kept, const float **logits,
                          tm_error_t *err) {
    tm_ref_t *ref = (tm_ref_t *)device;
    const tm_pipeline_t *p = device->pipeline;
    uint32_t count = 0;
    tm_status_t status = tm_ref_renew(&ref->kept_src, edges->n, sizeof(uint32_t), err);
    if (status == TM_OK) {
        status = tm_ref_renew(&ref->kept_dst, edges->n, sizeof(uint32_t), err);
    }
    if (status == TM_OK) {
        status = tm_ref_renew(&ref->filter_logits, edges->n, sizeof(float), err);
    }
    for (uint32_t e = 0; e < edges->n && status == TM_OK; e++) {
        double in[2 * TM_FEATURES_MAX + TM_EDGE_FEATURES_MAX];
        uint32_t at = 0;
        for (uint32_t part = 0; part < p->filter.inputs.n; part++) {
            tm_input_kind_t kind = p->filter.inputs.part[part];
            if (kind == TM_IN_EDGE_FEATURES) {
                tm_ref_edge_features(p, points, edges->src[e], edges->dst[e], in + at);
                at += p->n_edge_features;
                continue;
            }
            uint32_t row = kind == TM_IN_X_SRC ? edges->src[e] : edges->dst[e];
            for (uint32_t k = 0; k < p->filter.features.n; k++) {
                in[at++] =
                    (double)features[(size_t)row * p->n_features + p->filter.features.index[k]];
            }
        }
        double logit = 0;
        status = tm_ref_mlp(&p->filter.mlp, in, &logit, err);
        if (status == TM_OK && tm_ref_sigmoid(logit) > (double)p->filter.cut) {
            ref->kept_src[count] = edges->src[e];
            ref->kept_dst[count] = edges->dst[e];
            ref->filter_logits[count++] = (float)logit;
        }
    }
    *kept = (tm_edges_t){.n = count, .src = ref->kept_src, .dst = ref->kept_dst};
    *logits = ref->filter_logits;
    return status;
}
