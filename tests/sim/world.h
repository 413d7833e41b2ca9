// SPDX-License-Identifier: Apache-2.0
/*
 * The world around a scheduler: clients and workers that behave well, badly or not at all, over
 * connections that delay, lose and break. Everything follows from the seed.
 */
#ifndef TM_SIM_WORLD_H
#define TM_SIM_WORLD_H

#include "tests/sim/oracle.h"

/* Runs one schedule to its end; stops the program when a promise is broken. */
void world_run(uint64_t seed, oracle_totals_t *totals);

#endif
