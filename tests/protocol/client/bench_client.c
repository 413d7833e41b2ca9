// SPDX-License-Identifier: Apache-2.0
/*
 * What the client library costs the job that uses it: memory, bytes on the wire, processor time, and
 * how late the answer to a hopeless request is. Prints CSV; tests/bench/study makes it part of its own.
 *
 * Broker and workers are real and run as processes of their own; the back end is the mock, so that
 * nothing but the way there and back is measured.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "client/client_clock.h"
#include "service.h"

#define POINTS 30000
#define PATIENCE_MS 60000
#define EVENTS 300
#define HOPELESS 50
#define HOPELESS_TTL_MS 200

typedef struct {
    tm_columns_t columns;
    void *memory[TM_COLUMNS_MAX];
} event_t;

typedef struct {
    const char *name;
    tm_type_t type;
} layout_t;

static void die(const char *what, const tm_error_t *error) {
    fprintf(stderr, "%s: %s\n", what, error->text);
    tm_procs_kill_all();
    exit(1);
}

static void event_make(event_t *event, uint32_t n, const layout_t *layout, int columns) {
    tm_error_t error;
    memset(event, 0, sizeof *event);
    for (int i = 0; i < columns; i++) {
        event->memory[i] = calloc(n, tm_type_bytes(layout[i].type));
        if (!event->memory[i])
            abort();
        if (tm_columns_add(&event->columns, layout[i].name, layout[i].type, n, event->memory[i],
                           &error))
            die("columns", &error);
    }
}

static void event_free(event_t *event) {
    for (uint32_t i = 0; i < event->columns.count; i++)
        free(event->memory[i]);
}

static uint64_t submit(tm_client_t *client, const event_t *event, uint32_t ttl_ms) {
    tm_error_t error;
    uint64_t id;
    tm_request_options_t options = {.ttl_ms = ttl_ms, .priority = TM_PRIORITY_DEFAULT};
    if (tm_client_submit(client, &event->columns, &options, &id, &error))
        die("submit", &error);
    return id;
}

/* The answer may be an error only if that is what is measured. */
static tm_answer_t *take(tm_client_t *client, uint64_t id, bool want_tracks) {
    tm_answer_t *answer = NULL;
    tm_error_t error = {.text = "no answer"};
    if (tm_client_wait(client, id, PATIENCE_MS, &answer, &error) || !answer)
        die("wait", &error);
    if (want_tracks && answer->status)
        die("answer", &answer->error);
    return answer;
}

static double resident_mib(void) {
    long total, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2)
        resident = 0;
    if (file)
        fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE) / 0x1p20;
}

static double processor_ms(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e3 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e3;
}

static const layout_t positions[] = {{"x", TM_F32}, {"y", TM_F32}, {"z", TM_F32}};
static const layout_t compact[] = {{"x", TM_F32},        {"y", TM_F32},        {"z", TM_F32},
                                   {"size_loc0", TM_U8}, {"size_loc1", TM_U8}, {"charge", TM_F16}};
static const layout_t wide[] = {{"x", TM_F32},         {"y", TM_F32},         {"z", TM_F32},
                                {"size_loc0", TM_F32}, {"size_loc1", TM_F32}, {"charge", TM_F32}};
static const layout_t full[] = {{"x", TM_F32},        {"y", TM_F32},        {"z", TM_F32},
                                {"size_loc0", TM_U8}, {"size_loc1", TM_U8}, {"charge", TM_F16},
                                {"module_id", TM_U64}};
#define LAYOUT(name) name, (int)(sizeof name / sizeof *name)

static void measure_bytes(tm_client_t *client, const char *what, uint32_t n, const layout_t *layout,
                          int columns) {
    event_t event;
    event_make(&event, n, layout, columns);
    tm_answer_t *answer = take(client, submit(client, &event, 0), true);
    printf("request bytes per space point,%s,%u,1,%.4f,byte\n", what, n,
           (double)answer->sent_bytes / n);
    printf("answer bytes per space point,%s,%u,1,%.4f,byte\n", what, n,
           (double)answer->received_bytes / n);
    printf("request bytes beside the payload,%s,%u,1,%zu,byte\n", what, n,
           (size_t)answer->sent_bytes - tm_payload_bytes(&event.columns));
    tm_answer_destroy(&answer);
    event_free(&event);
}

static void measure_memory(const service_t *service, int in_flight) {
    event_t event;
    uint64_t id[128];
    event_make(&event, POINTS, LAYOUT(compact));
    tm_client_t *client = service_client(service);
    tm_answer_t *answer = take(client, submit(client, &event, 0), true); /* all is warm */
    tm_answer_destroy(&answer);
    malloc_trim(0);
    double before = resident_mib();
    for (int i = 0; i < in_flight; i++)
        id[i] = submit(client, &event, 0);
    tm_test_sleep_ms(300); /* all are sent, none is back */
    printf("memory held by events in flight,x y z f32 + u8 u8 f16,%d,%d,%.2f,MiB\n", POINTS,
           in_flight, resident_mib() - before);
    for (int i = 0; i < in_flight; i++) {
        answer = take(client, id[i], true);
        tm_answer_destroy(&answer);
    }
    malloc_trim(0);
    printf("memory left after their answers,x y z f32 + u8 u8 f16,%d,%d,%.2f,MiB\n", POINTS,
           in_flight, resident_mib() - before);
    tm_client_destroy(&client);
    event_free(&event);
}

static void measure_time(const service_t *service) {
    enum { UNDER_WAY = 8 };
    event_t event;
    event_make(&event, POINTS, LAYOUT(compact));
    tm_client_t *client = service_client(service);
    tm_answer_t *answer = take(client, submit(client, &event, 0), true);
    tm_answer_destroy(&answer);
    double cpu_ms = processor_ms(), submit_us = 0;
    uint64_t start_us = tm_client_now_us();
    tm_error_t error;
    int sent = 0, done = 0;
    while (done < EVENTS) {
        while (sent < EVENTS && tm_client_in_flight(client) < UNDER_WAY) {
            uint64_t at_us = tm_client_now_us();
            submit(client, &event, 0);
            submit_us += (double)(tm_client_now_us() - at_us);
            sent++;
        }
        if (tm_client_poll(client, -1, &answer, &error) || !answer)
            die("poll", &error);
        if (answer->status)
            die("answer", &answer->error);
        tm_answer_destroy(&answer);
        done++;
    }
    double wall_s = (double)(tm_client_now_us() - start_us) / 1e6;
    const char *what = "x y z f32 + u8 u8 f16";
    printf("events per second,%s,%d,%d,%.0f,1/s\n", what, POINTS, UNDER_WAY, EVENTS / wall_s);
    printf("submit,%s,%d,%d,%.3f,ms\n", what, POINTS, UNDER_WAY, submit_us / EVENTS / 1e3);
    printf("processor time of the client per event,%s,%d,%d,%.3f,ms\n", what, POINTS, UNDER_WAY,
           (processor_ms() - cpu_ms) / EVENTS);
    tm_client_destroy(&client);
    event_free(&event);
}

static int ascending(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return difference < 0 ? -1 : difference > 0;
}

static void measure_lateness(tm_client_t *client, const char *what) {
    event_t event;
    double late_ms[HOPELESS];
    event_make(&event, 100, LAYOUT(positions));
    for (int i = 0; i < HOPELESS; i++) {
        tm_answer_t *answer = take(client, submit(client, &event, HOPELESS_TTL_MS), false);
        late_ms[i] = (double)answer->total_us / 1e3 - HOPELESS_TTL_MS;
        tm_answer_destroy(&answer);
    }
    qsort(late_ms, HOPELESS, sizeof *late_ms, ascending);
    printf("lateness of an error after the deadline (median),%s,100,1,%.2f,ms\n", what,
           late_ms[HOPELESS / 2]);
    printf("lateness of an error after the deadline (greatest of %d),%s,100,1,%.2f,ms\n", HOPELESS,
           what, late_ms[HOPELESS - 1]);
    event_free(&event);
}

int main(void) {
    service_t service;
    tm_error_t error;
    tm_client_t *client;
    printf("measure,event,points,in_flight,value,unit\n");

    service_start(&service, 1, 1, "time_ms=0");
    client = service_client(&service);
    static const uint32_t sizes[] = {1000, POINTS, 300000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        measure_bytes(client, "x y z f32", sizes[i], LAYOUT(positions));
        measure_bytes(client, "x y z f32 + u8 u8 f16", sizes[i], LAYOUT(compact));
        measure_bytes(client, "6 times f32", sizes[i], LAYOUT(wide));
        measure_bytes(client, "x y z f32 + u8 u8 f16 + module_id u64", sizes[i], LAYOUT(full));
    }
    tm_client_destroy(&client);
    measure_time(&service);
    service_stop(&service, false);

    service_start(&service, 1, 1, "time_ms=600");
    measure_memory(&service, 1);
    service_stop(&service, false);
    service_start(&service, 1, 4, "time_ms=600"); /* 8 slots: 100 events take 8 s */
    measure_memory(&service, 100);
    service_stop(&service, false);

    service_start(&service, 1, 0, "");
    client = service_client(&service);
    measure_lateness(client, "broker without workers");
    tm_client_destroy(&client);
    service_stop(&service, false);
    if (tm_client_new("tcp://127.0.0.1:1", NULL, &client, &error))
        die("client", &error);
    measure_lateness(client, "no broker");
    tm_client_destroy(&client);
    return 0;
}
