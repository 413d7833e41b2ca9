// SPDX-License-Identifier: Apache-2.0
/*
 * The real thing for tests: broker and worker programs of this build on ports of the loopback, the
 * workers with the mock back end, which answers each event with tracks that name it.
 *
 * Threads: the main thread only.
 */
#ifndef TM_TESTS_SERVICE_H
#define TM_TESTS_SERVICE_H

#include "client/trackmill.h"
#include "tests/chaos/proc.h"

#define SERVICE_BROKERS_MAX 3
#define SERVICE_WORKERS_MAX 4

typedef struct {
    int n_brokers, n_workers;
    const char *mock;  /* settings of the back end */
    const char *queue; /* requests that a broker queues; may be changed before a broker starts */
    tm_proc_t broker[SERVICE_BROKERS_MAX], worker[SERVICE_WORKERS_MAX];
    char clients[SERVICE_BROKERS_MAX][64], workers[SERVICE_BROKERS_MAX][64];
    char list[256]; /* of all brokers, for tm_client_new */
} service_t;

/* Starts n brokers and n workers, each of which serves all brokers with two slots; waits until they
 * are ready. mock: "key=value,…". */
void service_start(service_t *service, int n_brokers, int n_workers, const char *mock);
/* show: print what they wrote. */
void service_stop(service_t *service, bool show);

void service_start_broker(service_t *service, int i);
void service_start_worker(service_t *service, int i);

/* A client of all brokers. */
tm_client_t *service_client(const service_t *service);

/* An event of n points that differs from any other by its seed. Borrowed arrays: free `memory`. */
typedef struct {
    tm_columns_t columns;
    float *memory;
    uint32_t n_points, checksum;
} service_event_t;
/* false: no memory. */
bool service_event_make(service_event_t *event, uint32_t n_points, uint32_t seed);
void service_event_free(service_event_t *event);
/* Whether the tracks are the mock's answer to the event of that size and checksum. */
bool service_tracks_fit(const tm_tracks_t *tracks, uint32_t n_points, uint32_t checksum);

#endif
