// SPDX-License-Identifier: Apache-2.0
#include "service.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "worker/backends/mock.h"

#define READY_MS 20000

void service_start_broker(service_t *service, int i) {
    tm_proc_clear(&service->broker[i], false);
    tm_proc_start(&service->broker[i],
                  (const char *const[]){TM_BROKER_PROGRAM, "--client-endpoint", service->clients[i],
                                        "--worker-endpoint", service->workers[i], "--http", "off",
                                        "--heartbeat", "200ms", "--drain-timeout", "5s",
                                        "--queue-requests", service->queue, NULL});
}

void service_start_worker(service_t *service, int i) {
    char brokers[256] = "", name[16];
    for (int k = 0; k < service->n_brokers; k++)
        snprintf(brokers + strlen(brokers), sizeof brokers - strlen(brokers), "%s%s", k ? "," : "",
                 service->workers[k]);
    snprintf(name, sizeof name, "worker-%d", i);
    tm_proc_clear(&service->worker[i], false);
    tm_proc_start(&service->worker[i],
                  (const char *const[]){TM_WORKER_PROGRAM, "--backend", "mock", "--broker", brokers,
                                        "--model", service->mock, "--slots", "2", "--name", name,
                                        NULL});
}

void service_start(service_t *service, int n_brokers, int n_workers, const char *mock) {
    memset(service, 0, sizeof *service);
    service->n_brokers = n_brokers;
    service->n_workers = n_workers;
    service->mock = mock;
    service->queue = "4096";
    for (int i = 0; i < n_brokers; i++) {
        snprintf(service->clients[i], sizeof service->clients[i], "tcp://127.0.0.1:%d",
                 tm_test_free_port());
        snprintf(service->workers[i], sizeof service->workers[i], "tcp://127.0.0.1:%d",
                 tm_test_free_port());
        snprintf(service->list + strlen(service->list),
                 sizeof service->list - strlen(service->list), "%s%s", i ? "," : "",
                 service->clients[i]);
        service_start_broker(service, i);
    }
    for (int i = 0; i < n_workers; i++)
        service_start_worker(service, i);
    for (int i = 0; i < n_brokers; i++)
        assert_true(tm_proc_wait_for(&service->broker[i], "ready", 1, READY_MS));
    for (int i = 0; i < n_workers; i++)
        assert_true(tm_proc_wait_for(&service->worker[i], "registered", n_brokers, READY_MS));
}

void service_stop(service_t *service, bool show) {
    for (int i = 0; i < service->n_workers; i++)
        tm_proc_clear(&service->worker[i], show);
    for (int i = 0; i < service->n_brokers; i++)
        tm_proc_clear(&service->broker[i], show);
}

tm_client_t *service_client(const service_t *service) {
    tm_client_t *client;
    tm_error_t error;
    if (tm_client_new(service->list, NULL, &client, &error))
        fail_msg("%s", error.text);
    return client;
}

bool service_event_make(service_event_t *event, uint32_t n_points, uint32_t seed) {
    *event = (service_event_t){.n_points = n_points};
    event->memory = malloc(3 * (size_t)n_points * sizeof(float) + 1);
    if (!event->memory)
        return false;
    for (uint32_t i = 0; i < 3 * n_points; i++) {
        seed = seed * 1664525u + 1013904223u;
        event->memory[i] = (float)(seed >> 8) * (1000.0f / 0x1p24f);
    }
    const char *const names[] = {"x", "y", "z"};
    for (int i = 0; i < 3; i++)
        tm_columns_add(&event->columns, names[i], TM_F32, n_points,
                       event->memory + (size_t)i * n_points, NULL);
    event->checksum = tm_mock_checksum(&event->columns);
    return true;
}

void service_event_free(service_event_t *event) {
    free(event->memory);
    event->memory = NULL;
}

bool service_tracks_fit(const tm_tracks_t *tracks, uint32_t n_points, uint32_t checksum) {
    uint32_t n_tracks = (n_points + TM_MOCK_TRACK_POINTS - 1) / TM_MOCK_TRACK_POINTS;
    if (tracks->n_points != n_points || tracks->n_tracks != n_tracks)
        return false;
    for (uint32_t i = 0; i < n_tracks; i++) {
        float difference = tracks->scores[i] - tm_mock_score(checksum);
        if (difference < 0 || difference > 0)
            return false;
    }
    return true;
}
