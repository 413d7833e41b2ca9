// SPDX-License-Identifier: Apache-2.0
#include "tests/gpu/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/gpu/host_stages.h"

#define SKIPPED 77
#define SINGLE_LIMIT 3e-5 /* relative: what fp32 loses */
#define HALF_LIMIT 3e-3   /* what fp16 may lose */

const tm_stages_t *const tm_compare_stages[] = {
    [TM_COMPARE_SINGLE] = &tm_host_stages_single, [TM_COMPARE_HALF] = &tm_host_stages_half};
static const double limits[] = {[TM_COMPARE_SINGLE] = SINGLE_LIMIT, [TM_COMPARE_HALF] = HALF_LIMIT};
static double worst[TM_COMPARE_PRECISIONS]; /* of all comparisons */
static char worst_what[TM_COMPARE_PRECISIONS][160];

/* `least`: the size that values have at least */
static void compare_from(double least, int precision, const float *a, const float *b, size_t n,
                         const char *what) {
    double difference = 0;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        norm += (double)b[i] * (double)b[i];
    }
    double scale = fmax(sqrt(norm), least * sqrt((double)n));
    double relative = n > 0 ? sqrt(difference) / (scale + 1e-30) : 0;
    if (relative > worst[precision]) {
        worst[precision] = relative;
        snprintf(worst_what[precision], sizeof worst_what[precision], "%s", what);
    }
    if (!(relative < limits[precision])) {
        fail_msg("%s, %s: relative difference %g of %zu values, limit %g",
                 tm_compare_stages[precision]->name, what, relative, n, limits[precision]);
    }
}

void tm_compare(int precision, const float *a, const float *b, size_t n, const char *what) {
    compare_from(0, precision, a, b, n, what);
}

void tm_compare_logits(int precision, const float *a, const float *b, size_t n, const char *what) {
    compare_from(1, precision, a, b, n, what);
}

void tm_compare_report(void) {
    static const char *const names[] = {[TM_COMPARE_SINGLE] = "fp32", [TM_COMPARE_HALF] = "fp16"};
    for (int k = 0; k < TM_COMPARE_PRECISIONS; k++) {
        if (worst_what[k][0] != '\0') {
            printf("largest difference, %s: %.2g (%s)\n", names[k], worst[k], worst_what[k]);
        }
    }
}

void tm_compare_need_gpu(void) {
    tm_error_t err = {0};
    if (tm_cuda_count(&err) == 0) {
        printf("skipped: %s\n", err.text);
        exit(SKIPPED);
    }
}
