// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that runs out: with a seed other than 0, one calloc or realloc of sixteen fails. Works by
 * the linker's --wrap, on the code that is linked statically.
 */
#ifndef TM_SIM_FAILING_MALLOC_H
#define TM_SIM_FAILING_MALLOC_H

#include <stdint.h>

void failing_malloc_set(uint64_t seed);
uint64_t failing_malloc_count(void); /* failures so far */

#endif
