// SPDX-License-Identifier: Apache-2.0
/*
 * The processes of bench_relay: a bare relay, echo workers for both relays, and the clients that
 * measure. Each runs in a process of its own.
 */
#ifndef TM_BENCH_RELAY_PEERS_H
#define TM_BENCH_RELAY_PEERS_H

#include <stddef.h>
#include <stdint.h>

/* Two ROUTER sockets, one thread, one I/O thread, bursts of 100 messages, no protocol: the first
 * worker to speak gets all. Writes "CLIENTS WORKERS\n" to `ready_fd`. Runs until killed. */
void bare_relay(int ready_fd);

/* Answer whatever comes with 64 bytes. Run until killed. `window`: credit (trackmill only). */
void bare_worker(const char *endpoint);
void trackmill_worker(const char *endpoint, uint32_t window);

/* Requests of `bytes` bytes, `window` of them in flight, for `seconds`; returns answers/second. */
double bare_client(const char *endpoint, size_t bytes, uint32_t window, double seconds);
double trackmill_client(const char *endpoint, size_t bytes, uint32_t window, double seconds);

#endif
