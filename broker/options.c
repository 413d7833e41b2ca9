// SPDX-License-Identifier: Apache-2.0
#include "broker/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IO_THREADS_MAX = 64, IO_THREADS_DEFAULT_MAX = 8, QUEUE_REQUESTS_MAX = 1000000 };

static const char usage[] =
    "trackmill-broker: takes events from clients and hands them to workers\n"
    "\n"
    "usage: trackmill-broker [options]\n"
    "\n"
    "  --client-endpoint ENDPOINT  where clients connect; may be repeated\n"
    "                              (" TM_DEFAULT_CLIENT_ENDPOINT ")\n"
    "  --worker-endpoint ENDPOINT  where workers connect; may be repeated\n"
    "                              (" TM_DEFAULT_WORKER_ENDPOINT ")\n"
    "  --http ADDR:PORT            health, metrics and statistics; \"off\" for none\n"
    "                              (" TM_DEFAULT_HTTP_ADDRESS ")\n"
    "  --io-threads N              threads that move bytes (half the cores, 1 to 8)\n"
    "  --queue-requests N          requests that may wait for a worker (4096)\n"
    "  --queue-bytes SIZE          events held in memory at most (4G)\n"
    "  --max-payload SIZE          largest event taken (256M)\n"
    "  --attempt-timeout TIME      how long one worker may compute on one event (120s)\n"
    "  --heartbeat TIME            how often peers must be heard of (1s); 5 missed: gone\n"
    "  --drain-timeout TIME        how long SIGTERM waits for requests in flight (30s)\n"
    "  --log-level LEVEL           error, warn, info or debug (info)\n"
    "  --help, --version\n"
    "\n"
    "ENDPOINT is one of libzmq: tcp://HOST:PORT, tcp://*:PORT, ipc://PATH; port 0 or * takes a "
    "free\n"
    "one. SIZE: bytes, or with K, M, G. TIME: seconds, or with ms, s, m, h.\n"
    "\n"
    "When all sockets are bound, one line on stdout says where:\n"
    "  ready clients=tcp://127.0.0.1:5570 workers=tcp://127.0.0.1:5571 http=127.0.0.1:5572\n"
    "The log goes to stderr. SIGTERM or SIGINT: take nothing new, finish what is in flight, "
    "leave;\n"
    "a second one: leave at once.\n"
    "\n"
    "examples:\n"
    "  trackmill-broker\n"
    "  trackmill-broker --client-endpoint tcp://10.0.0.1:5570 --worker-endpoint "
    "tcp://10.0.0.1:5571\n"
    "  trackmill-broker --client-endpoint ipc:///run/trackmill/clients --http off\n"
    "  trackmill-broker --client-endpoint 'tcp://127.0.0.1:*' --worker-endpoint "
    "'tcp://127.0.0.1:*' "
    "\\\n"
    "      --http 127.0.0.1:0\n";

/* A number with a unit of the table; the result is in the unit of factor 1. */
typedef struct {
    const char *name;
    double factor;
} unit_t;

static const unit_t size_units[] = {{"", 1}, {"K", 1024}, {"M", 1048576}, {"G", 1073741824}, {0}};
static const unit_t time_units[] = {{"", 1000},   {"ms", 1},        {"s", 1000},
                                    {"m", 60000}, {"h", 3600000.0}, {0}};
static const unit_t no_units[] = {{"", 1}, {0}};

static tm_status_t parse_number(const char *option, const char *text, const unit_t *units,
                                double least, double most, uint64_t *out, tm_error_t *err) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    const unit_t *unit = units;
    while (unit->name && strcmp(unit->name, end))
        unit++;
    if (end == text || errno || !unit->name || !isfinite(value))
        return tm_error_set(err, TM_E_ARGUMENT, "--%s: \"%s\" is not a number%s", option, text,
                            units == time_units   ? " or a time like 500ms, 30s, 2m"
                            : units == size_units ? " or a size like 512K, 64M, 4G"
                                                  : "");
    value *= unit->factor;
    if (value < least || value > most)
        return tm_error_set(err, TM_E_ARGUMENT, "--%s: \"%s\" is out of range: %.0f to %.0f%s",
                            option, text, least, most, units == time_units ? " ms" : "");
    *out = (uint64_t)value;
    return TM_OK;
}

static tm_status_t parse_endpoint(const char *option, const char *text, const char **list,
                                  uint32_t *count, tm_error_t *err) {
    if (strncmp(text, "tcp://", 6) && strncmp(text, "ipc://", 6))
        return tm_error_set(err, TM_E_ARGUMENT,
                            "--%s: \"%s\" must begin with tcp:// or ipc://, as in "
                            "tcp://127.0.0.1:5570",
                            option, text);
    if (*count == TM_ENDPOINTS_MAX)
        return tm_error_set(err, TM_E_ARGUMENT, "--%s: at most %d endpoints", option,
                            TM_ENDPOINTS_MAX);
    list[(*count)++] = text;
    return TM_OK;
}

static tm_status_t parse_http(const char *text, tm_options_t *options, tm_error_t *err) {
    options->http_host[0] = 0;
    if (!strcmp(text, "off"))
        return TM_OK;
    const char *colon = strrchr(text, ':');
    const char *host = text;
    size_t bytes = colon ? (size_t)(colon - text) : 0;
    if (bytes >= 2 && host[0] == '[' && host[bytes - 1] == ']') {
        host++;
        bytes -= 2;
    }
    if (!bytes || bytes >= sizeof options->http_host || !colon[1] ||
        strlen(colon + 1) >= sizeof options->http_port ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > UINT16_MAX)
        return tm_error_set(err, TM_E_ARGUMENT,
                            "--http: \"%s\" is not ADDR:PORT, as in 127.0.0.1:5572, or \"off\"",
                            text);
    memcpy(options->http_host, host, bytes);
    options->http_host[bytes] = 0;
    strcpy(options->http_port, colon + 1);
    return TM_OK;
}

/* One carries about 2.4 GB/s: eight are what 5000 events of 100,000 points a second need, as eight
 * GPUs would answer them (docs/benchmarks.md). */
static int default_io_threads(void) {
    long half = sysconf(_SC_NPROCESSORS_ONLN) / 2;
    return half > IO_THREADS_DEFAULT_MAX ? IO_THREADS_DEFAULT_MAX : half > 1 ? (int)half : 1;
}

enum {
    OPT_CLIENT = 256,
    OPT_WORKER,
    OPT_HTTP,
    OPT_IO_THREADS,
    OPT_QUEUE_REQUESTS,
    OPT_QUEUE_BYTES,
    OPT_MAX_PAYLOAD,
    OPT_ATTEMPT_TIMEOUT,
    OPT_HEARTBEAT,
    OPT_DRAIN_TIMEOUT,
    OPT_LOG_LEVEL,
    OPT_HELP,
    OPT_VERSION,
};

static const struct option long_options[] = {
    {"client-endpoint", required_argument, NULL, OPT_CLIENT},
    {"worker-endpoint", required_argument, NULL, OPT_WORKER},
    {"http", required_argument, NULL, OPT_HTTP},
    {"io-threads", required_argument, NULL, OPT_IO_THREADS},
    {"queue-requests", required_argument, NULL, OPT_QUEUE_REQUESTS},
    {"queue-bytes", required_argument, NULL, OPT_QUEUE_BYTES},
    {"max-payload", required_argument, NULL, OPT_MAX_PAYLOAD},
    {"attempt-timeout", required_argument, NULL, OPT_ATTEMPT_TIMEOUT},
    {"heartbeat", required_argument, NULL, OPT_HEARTBEAT},
    {"drain-timeout", required_argument, NULL, OPT_DRAIN_TIMEOUT},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {0},
};

static tm_status_t parse_one(int option, const char *name, const char *text, tm_options_t *o,
                             tm_error_t *err) {
    uint64_t number = 0;
    tm_status_t status = TM_OK;
    switch (option) {
    case OPT_CLIENT:
        return parse_endpoint(name, text, o->client_endpoints, &o->n_client_endpoints, err);
    case OPT_WORKER:
        return parse_endpoint(name, text, o->worker_endpoints, &o->n_worker_endpoints, err);
    case OPT_HTTP:
        return parse_http(text, o, err);
    case OPT_IO_THREADS:
        status = parse_number(name, text, no_units, 1, IO_THREADS_MAX, &number, err);
        o->io_threads = (int)number;
        return status;
    case OPT_QUEUE_REQUESTS:
        status = parse_number(name, text, no_units, 1, QUEUE_REQUESTS_MAX, &number, err);
        o->sched.queue_max_requests = (uint32_t)number;
        return status;
    case OPT_QUEUE_BYTES:
        return parse_number(name, text, size_units, 1, 0x1p50, &o->sched.queue_max_bytes, err);
    case OPT_MAX_PAYLOAD:
        return parse_number(name, text, size_units, 1, TM_PAYLOAD_MAX_BYTES,
                            &o->sched.payload_max_bytes, err);
    case OPT_ATTEMPT_TIMEOUT:
        return parse_number(name, text, time_units, 1, TM_TTL_MAX_MS, &o->sched.attempt_timeout_ms,
                            err);
    case OPT_HEARTBEAT:
        return parse_number(name, text, time_units, TM_HEARTBEAT_MIN_MS, TM_HEARTBEAT_MAX_MS,
                            &o->sched.heartbeat_ms, err);
    case OPT_DRAIN_TIMEOUT:
        return parse_number(name, text, time_units, 0, TM_TTL_MAX_MS, &o->drain_timeout_ms, err);
    case OPT_LOG_LEVEL:
        if (!tm_log_level_parse(text, &o->log_level))
            return tm_error_set(err, TM_E_ARGUMENT,
                                "--log-level: \"%s\" is not error, warn, info or debug", text);
        return TM_OK;
    default:
        return TM_OK; // --help and --version are the caller's
    }
}

tm_status_t tm_options_parse(int argc, char **argv, tm_options_t *options, tm_options_next_t *next,
                             tm_error_t *err) {
    *options = (tm_options_t){
        .io_threads = default_io_threads(),
        .drain_timeout_ms = TM_DRAIN_TIMEOUT_MS,
        .log_level = TM_LOG_INFO,
    };
    *next = TM_OPTIONS_RUN;
    tm_sched_config_default(&options->sched);
    tm_status_t status = parse_http(TM_DEFAULT_HTTP_ADDRESS, options, err);

    optind = 0; // glibc: begin anew, so that tests may call this more than once
    opterr = 0;
    for (int option, index = 0;
         !status && (option = getopt_long(argc, argv, "", long_options, &index)) != -1;) {
        if (option == OPT_HELP || option == OPT_VERSION) {
            fputs(option == OPT_HELP ? usage : "trackmill-broker " TM_VERSION "\n", stdout);
            *next = TM_OPTIONS_EXIT;
            return TM_OK;
        }
        if (option == '?')
            return tm_error_set(err, TM_E_ARGUMENT,
                                "\"%s\": unknown option, or its value is missing: see "
                                "trackmill-broker --help",
                                argv[optind - 1]);
        status = parse_one(option, long_options[index].name, optarg, options, err);
    }
    if (status)
        return status;
    if (optind < argc)
        return tm_error_set(err, TM_E_ARGUMENT,
                            "\"%s\": unexpected argument: see trackmill-broker --help",
                            argv[optind]);
    if (!options->n_client_endpoints)
        options->client_endpoints[options->n_client_endpoints++] = TM_DEFAULT_CLIENT_ENDPOINT;
    if (!options->n_worker_endpoints)
        options->worker_endpoints[options->n_worker_endpoints++] = TM_DEFAULT_WORKER_ENDPOINT;
    return TM_OK;
}
