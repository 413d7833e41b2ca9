// SPDX-License-Identifier: Apache-2.0
/*
 * The mock back end: answers without computing, for tests and for measuring the service itself.
 *
 * Settings, each as --model KEY=VALUE, several separated by commas:
 *
 *   time_ms=N or N-M   how long an attempt takes (uniform between N and M), default 0
 *   bytes=N            pads the answer with a column "padding" of N bytes, default 0
 *   fail_rate=P        answers TM_E_BACKEND with probability P (0 … 1)
 *   crash_rate=P       kills the process (SIGKILL) half way through the attempt
 *   hang_rate=P        never comes back, whatever is cancelled
 *   fail_on=COLUMN     fails, crashes or hangs if the event has a column of that name
 *   crash_on=COLUMN
 *   hang_on=COLUMN
 *   checksum=yes|no    whether to read the event at all, default yes
 *   name=S version=S   of the model it pretends to be, default mock, 1
 *   hash=N             seed of the pretended weights hash, default 0
 *
 * With --batch, events of at most 8192 rows run together; a batch takes the time of one event, and
 * each event in it fails, crashes or hangs as it would alone.
 *
 * The answer is a valid set of track candidates that tells which event it belongs to: the points in
 * runs of TM_MOCK_TRACK_POINTS, each candidate with the score tm_mock_score(checksum).
 */
#ifndef TM_WORKER_BACKENDS_MOCK_H
#define TM_WORKER_BACKENDS_MOCK_H

#include "worker/backend.h"

#define TM_MOCK_TRACK_POINTS 10u

/* CRC-32 (zlib's) over the data of all columns, in their order. */
uint32_t tm_mock_checksum(const tm_columns_t *event);

/* Its low 24 bits as a fraction in [0, 1): exact in a float. */
float tm_mock_score(uint32_t checksum);

#endif
