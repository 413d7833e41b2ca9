// SPDX-License-Identifier: Apache-2.0
/*
 * trackmill-broker: options, signals, and the life of its two threads.
 */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "broker/http.h"
#include "broker/relay.h"

enum {
    MMAP_BYTES = 32 << 20, // the most that glibc takes; still larger messages are mapped one by one
    KEPT_BYTES = 64 << 20
};

/* At the limit of descriptors, accept() fails for ever and an I/O thread spins on it. */
static void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        tm_log(TM_LOG_WARN, "cannot raise the limit of descriptors: %s", strerror(errno));
    rlim_t wanted = TM_CLIENTS_MAX + TM_WORKERS_MAX;
    if (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < wanted)
        tm_log(TM_LOG_WARN, "only %llu descriptors are allowed: raise \"ulimit -n\" to %llu",
               (unsigned long long)limit.rlim_cur, (unsigned long long)wanted);
}

/* Events are large and come and go: as glibc has it, each would be new memory from the kernel, page
 * by page, which costs up to a fifth of the broker's time (docs/benchmarks.md). Threads keep up to
 * KEPT_BYTES each instead. Other C libraries do as they like. */
static void keep_memory(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
#endif
}

/* Blocks the signals in this thread and all that it will start. */
static int open_signals(tm_error_t *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        tm_error_set(err, TM_E_SYSTEM, "signalfd: %s", strerror(errno));
    return fd;
}

static bool is_local(const char *endpoint) {
    static const char *const local[] = {"ipc://", "tcp://127.", "tcp://[::1]:", "tcp://localhost:"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++)
        if (!strncmp(endpoint, local[i], strlen(local[i])))
            return true;
    return false;
}

static void warn_if_open(const char *const *endpoints, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if (!is_local(endpoints[i]))
            tm_log(TM_LOG_WARN,
                   "%s can be reached from other machines, and there is no authentication or "
                   "encryption yet: let a firewall guard it",
                   endpoints[i]);
}

int main(int argc, char **argv) {
    tm_options_t options;
    tm_options_next_t next;
    tm_error_t error = {0};
    if (tm_options_parse(argc, argv, &options, &next, &error)) {
        fprintf(stderr, "trackmill-broker: %s\n", error.text);
        return EXIT_FAILURE;
    }
    if (next == TM_OPTIONS_EXIT)
        return EXIT_SUCCESS;
    tm_log_set_level(options.log_level);
    keep_memory(); // before there are threads
    raise_descriptor_limit();

    tm_relay_t *relay = NULL;
    tm_exchange_t *exchange = NULL;
    tm_http_t *http = NULL;
    bool with_http = options.http_host[0];
    tm_status_t status = TM_OK;
    int signals = open_signals(&error);
    if (signals < 0)
        status = error.code;
    if (!status && with_http)
        status = tm_exchange_new(&exchange, &error);
    if (!status)
        status = tm_relay_new(&options, exchange, &relay, &error);
    if (!status && with_http)
        status = tm_http_new(options.http_host, options.http_port, exchange, &http, &error);
    if (!status) {
        warn_if_open(options.client_endpoints, options.n_client_endpoints);
        warn_if_open(options.worker_endpoints, options.n_worker_endpoints);
        tm_log(TM_LOG_INFO, "trackmill-broker " TM_VERSION ", %d I/O threads", options.io_threads);
        printf("ready clients=%s workers=%s http=%s\n", tm_relay_client_endpoints(relay),
               tm_relay_worker_endpoints(relay), http ? tm_http_address(http) : "off");
        fflush(stdout);
        status = tm_relay_run(relay, signals, &error);
        tm_log(TM_LOG_INFO, "leaving");
    }
    tm_http_destroy(&http);
    tm_relay_destroy(&relay);
    tm_exchange_destroy(&exchange);
    if (signals >= 0)
        close(signals);
    if (status)
        fprintf(stderr, "trackmill-broker: %s\n", error.text);
    return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
