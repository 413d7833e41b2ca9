// SPDX-License-Identifier: Apache-2.0
/*
 * Ctrl-C, SIGTERM and deadlines of the embedded engine, all seen through one flag that the engine
 * polls. The flag is process-wide because signals are: this module's only state.
 */
#ifndef TM_CLI_INTERRUPT_H
#define TM_CLI_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

/* From now on SIGINT and SIGTERM set the flag; a second one ends the process at once. */
void tm_interrupt_install(void);

/* Non-zero when interrupted or when the armed deadline has passed. */
const volatile int *tm_interrupt_flag(void);

/* The signal that interrupted us, or 0. */
int tm_interrupt_signal(void);

/* Sets the flag when `ms` milliseconds have passed. */
void tm_interrupt_arm(uint32_t ms);
/* Stops the clock; returns whether the deadline had passed. The flag keeps signals alone. */
bool tm_interrupt_disarm(void);

#endif
