// SPDX-License-Identifier: Apache-2.0
/* The stages of the GPU with arrays on the host, so that tests can treat all devices alike. Arrays
 * that a stage hands out are valid until the context is closed. */
#ifndef TM_TESTS_GPU_HOST_STAGES_H
#define TM_TESTS_GPU_HOST_STAGES_H

#include "nn/cuda/cuda.h"

extern const tm_stages_t tm_host_stages_half;   /* as users have it */
extern const tm_stages_t tm_host_stages_single; /* fp32 throughout: shows wrong indices at once */

#endif
