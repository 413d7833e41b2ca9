// SPDX-License-Identifier: Apache-2.0
#include "nn/ref/ref.h"

#include <stdlib.h>
#include <string.h>

tm_status_t tm_ref_renew(void *array, size_t count, size_t element_bytes, tm_error_t *err) {
    void *old;
    memcpy(&old, array, sizeof old);
    free(old);
    void *fresh = calloc(count > 0 ? count : 1, element_bytes);
    memcpy(array, &fresh, sizeof fresh);
    return fresh ? TM_OK : tm_error_set(err, TM_E_NO_MEMORY, "no memory for %zu elements", count);
}

static tm_status_t ref_open(const tm_pipeline_t *pipeline, int threads, tm_device_t **out,
                            tm_error_t *err) {
    (void)threads; /* one, always */
    tm_ref_t *ref = calloc(1, sizeof *ref);
    if (!ref) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for an engine");
    }
    ref->device.stages = &tm_stages_ref;
    ref->device.pipeline = pipeline;
    *out = &ref->device;
    return TM_OK;
}

static void ref_close(tm_device_t **p) {
    tm_ref_t *ref = (tm_ref_t *)*p;
    if (!ref) {
        return;
    }
    free(ref->coordinates);
    free(ref->features);
    free(ref->embedding);
    free(ref->src);
    free(ref->dst);
    free(ref->kept_src);
    free(ref->kept_dst);
    free(ref->filter_logits);
    free(ref->gnn_logits);
    free(ref);
    *p = NULL;
}

const tm_stages_t tm_stages_ref = {
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .features = tm_ref_features,
    .embed = tm_ref_embed,
    .radius = tm_ref_radius,
    .filter = tm_ref_filter,
    .gnn = tm_ref_gnn,
    .tracks = tm_ref_tracks,
};
