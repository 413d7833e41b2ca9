// SPDX-License-Identifier: Apache-2.0
/* What the tests of the GPU's general path share: both precisions, how far each may lie from the
 * reference, and the largest difference of a run. For one thread. */
#ifndef TM_TESTS_GPU_COMPARE_H
#define TM_TESTS_GPU_COMPARE_H

#include "tests/unit/nn/sample.h"

/* Precisions: fp32, where what is wrong shows at once, and fp16, as users have it. */
enum { TM_COMPARE_SINGLE, TM_COMPARE_HALF, TM_COMPARE_PRECISIONS };

/* The stages of each, with arrays on the host. */
extern const tm_stages_t *const tm_compare_stages[TM_COMPARE_PRECISIONS];

/* ‖a − b‖ / ‖b‖ of n values must be within the limit of the precision; `what` is for the message. */
void tm_compare(int precision, const float *a, const float *b, size_t n, const char *what);

/* The same of logits, which count as around 1 at least: those of random weights may all lie close to
 * 0, and mean no more then. */
void tm_compare_logits(int precision, const float *a, const float *b, size_t n, const char *what);

/* Prints the largest difference of each precision that was compared. */
void tm_compare_report(void);

/* Exits with 77 and says why where there is no GPU. */
void tm_compare_need_gpu(void);

/* Fails by what `call` says in a tm_error_t err. */
#define TM_MUST(call) \
    do { \
        tm_status_t status_ = (call); \
        if (status_ != TM_OK) { \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, tm_status_name(status_), err.text); \
        } \
    } while (0)

#endif
