// SPDX-License-Identifier: Apache-2.0
#include "worker/options.h"

#include <errno.h>
#include <getopt.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/log.h"

#define SECONDS_MAX 86400u
#define THREADS_MAX 1024

const char tm_options_help[] =
    "trackmill-worker: finds track candidates for one or more trackmill brokers\n"
    "\n"
    "Usage: trackmill-worker --model FILE [options]\n"
    "\n"
    "  --broker ENDPOINT        a broker's worker port; repeat or separate by commas for several,\n"
    "                           the worker serves them all (default " TM_DEFAULT_WORKER_ENDPOINT
    ")\n"
    "  --backend gnn|mock       what computes (default gnn)\n"
    "  --model FILE             gnn: a model file, repeatable\n"
    "  --model KEY=VALUE        mock: time_ms=20 or 10-50, bytes, fail_rate, crash_rate, "
    "hang_rate,\n"
    "                           fail_on, crash_on, hang_on (COLUMN), checksum=yes|no, name,\n"
    "                           version, hash\n"
    "  --slots N                events computed at once (default 1)\n"
    "  --batch N                events that wait are computed together, so many at most:\n"
    "                           1 to 64 (default 16 on a GPU, else 1)\n"
    "  --threads N              threads of each slot (default: processors / slots)\n"
    "  --device DEVICE          gnn: cpu, cuda or cuda:N (default auto: a GPU where there is one)\n"
    "  --name NAME              for people, in logs and answers (default HOST:PID)\n"
    "  --attempt-timeout S      an event that takes longer means a hang: exit (default 120)\n"
    "  --connect-timeout S      give up if no broker answers for so long (default 0: never)\n"
    "  --exit-when-idle S       leave after so long without work (default 0: never)\n"
    "  --log-level LEVEL        error, warn, info or debug (default info), on stderr\n"
    "  --help, --version\n"
    "\n"
    "On stdout: \"ready models=… slots=… device=…\" when the models are loaded, and\n"
    "\"registered broker=ENDPOINT\" each time a broker has accepted the worker.\n"
    "\n"
    "Signals: SIGTERM, SIGINT and SIGUSR1 drain: running events are finished, others are handed\n"
    "back, then exit 0. A second SIGTERM or SIGINT leaves at once.\n"
    "Exit codes: 0 drained, 1 could not start or refused by the brokers, 2 usage, 3 an event "
    "hung,\n"
    "4 left at once.\n"
    "\n"
    "Examples:\n"
    "  trackmill-worker --model standard.safetensors\n"
    "  trackmill-worker --broker tcp://a:5571,tcp://b:5571 --model standard.safetensors --slots 2\n"
    "  trackmill-worker --backend mock --model time_ms=20-40 --slots 4\n";

static tm_status_t parse_number(const char *option, const char *text, uint64_t least, uint64_t most,
                                uint64_t *out, tm_error_t *err) {
    char *stop;
    errno = 0;
    unsigned long long value = strtoull(text, &stop, 10);
    if (*text < '0' || *text > '9' || *stop != '\0' || errno != 0 || value < least ||
        value > most) {
        return tm_error_set(err, TM_E_ARGUMENT, "--%s '%s': expected a number from %llu to %llu",
                            option, text, (unsigned long long)least, (unsigned long long)most);
    }
    *out = value;
    return TM_OK;
}

static tm_status_t add_brokers(tm_options_t *options, const char *list, tm_error_t *err) {
    tm_session_options_t *session = &options->session;
    size_t used = 0;
    if (session->n_brokers > 0) {
        const char *last = session->broker[session->n_brokers - 1];
        used = (size_t)(last - options->brokers) + strlen(last) + 1;
    }
    size_t bytes = strlen(list) + 1;
    if (bytes > sizeof options->brokers - used) {
        return tm_error_set(err, TM_E_ARGUMENT, "--broker: the list is too long");
    }
    memcpy(options->brokers + used, list, bytes);
    char *save = NULL;
    for (char *item = strtok_r(options->brokers + used, ", ", &save); item != NULL;
         item = strtok_r(NULL, ", ", &save)) {
        if (session->n_brokers == TM_SESSION_BROKERS_MAX) {
            return tm_error_set(err, TM_E_ARGUMENT, "--broker: more than %d brokers",
                                TM_SESSION_BROKERS_MAX);
        }
        for (uint32_t i = 0; i < session->n_brokers; i++) {
            if (strcmp(session->broker[i], item) == 0) {
                return tm_error_set(err, TM_E_ARGUMENT, "--broker %s is given twice", item);
            }
        }
        session->broker[session->n_brokers++] = item;
    }
    return session->n_brokers > 0
               ? TM_OK
               : tm_error_set(err, TM_E_ARGUMENT, "--broker: expected tcp://HOST:PORT");
}

static tm_status_t find_backend(const char *name, const tm_backend_t **out, tm_error_t *err) {
    static const tm_backend_t *const backends[] = {&tm_backend_gnn, &tm_backend_mock};
    if (name == NULL) {
        *out = backends[0];
        return TM_OK;
    }
    for (size_t i = 0; i < sizeof backends / sizeof backends[0]; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            *out = backends[i];
            return TM_OK;
        }
    }
    return tm_error_set(err, TM_E_ARGUMENT, "--backend '%s': there are gnn and mock", name);
}

static int threads_per_slot(uint32_t slots) {
    cpu_set_t set;
    CPU_ZERO(&set);
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    n /= (int)slots;
    return n > 0 ? n : 1;
}

static void default_name(char *out, size_t room) {
    char host[TM_NAME_MAX + 1] = "localhost";
    gethostname(host, sizeof host);
    host[sizeof host - 1] = '\0';
    char tail[16];
    int bytes = snprintf(tail, sizeof tail, ":%d", (int)getpid());
    /* a long host name gives way, for the number tells the workers of a host apart */
    snprintf(out, room, "%.*s%s", (int)room - 1 - bytes, host, tail);
}

enum {
    OPT_BROKER = 1,
    OPT_BACKEND,
    OPT_MODEL,
    OPT_SLOTS,
    OPT_BATCH,
    OPT_THREADS,
    OPT_DEVICE,
    OPT_NAME,
    OPT_ATTEMPT_TIMEOUT,
    OPT_CONNECT_TIMEOUT,
    OPT_EXIT_WHEN_IDLE,
    OPT_LOG_LEVEL,
    OPT_HELP,
    OPT_VERSION
};

static const struct option long_options[] = {
    {"broker", required_argument, NULL, OPT_BROKER},
    {"backend", required_argument, NULL, OPT_BACKEND},
    {"model", required_argument, NULL, OPT_MODEL},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"name", required_argument, NULL, OPT_NAME},
    {"attempt-timeout", required_argument, NULL, OPT_ATTEMPT_TIMEOUT},
    {"connect-timeout", required_argument, NULL, OPT_CONNECT_TIMEOUT},
    {"exit-when-idle", required_argument, NULL, OPT_EXIT_WHEN_IDLE},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

static tm_status_t set_seconds(const char *option, const char *text, uint64_t least, uint64_t *ms,
                               tm_error_t *err) {
    uint64_t seconds;
    tm_status_t status = parse_number(option, text, least, SECONDS_MAX, &seconds, err);
    if (status == TM_OK) {
        *ms = seconds * 1000u;
    }
    return status;
}

typedef struct {
    const char *backend;
    uint64_t slots, batch, threads;
} raw_t;

static tm_status_t set_option(tm_options_t *options, raw_t *raw, int option, char *argument,
                              tm_error_t *err) {
    tm_session_options_t *session = &options->session;
    switch (option) {
    case OPT_BROKER:
        return add_brokers(options, argument, err);
    case OPT_BACKEND:
        raw->backend = argument;
        return TM_OK;
    case OPT_MODEL:
        if (options->n_models == TM_OPTIONS_ARGUMENTS_MAX) {
            return tm_error_set(err, TM_E_ARGUMENT, "--model: more than %d of them",
                                TM_OPTIONS_ARGUMENTS_MAX);
        }
        options->model[options->n_models++] = argument;
        return TM_OK;
    case OPT_SLOTS:
        return parse_number("slots", argument, 1, TM_SLOTS_MAX, &raw->slots, err);
    case OPT_BATCH:
        return parse_number("batch", argument, 1, TM_BACKEND_BATCH_MAX, &raw->batch, err);
    case OPT_THREADS:
        return parse_number("threads", argument, 1, THREADS_MAX, &raw->threads, err);
    case OPT_DEVICE:
        options->device = argument;
        return TM_OK;
    case OPT_NAME:
        if (strlen(argument) == 0 || strlen(argument) > TM_NAME_MAX) {
            return tm_error_set(err, TM_E_ARGUMENT, "--name: expected 1 to %d bytes", TM_NAME_MAX);
        }
        memcpy(options->name, argument, strlen(argument) + 1);
        return TM_OK;
    case OPT_ATTEMPT_TIMEOUT:
        return set_seconds("attempt-timeout", argument, 1, &session->attempt_timeout_ms, err);
    case OPT_CONNECT_TIMEOUT:
        return set_seconds("connect-timeout", argument, 0, &session->connect_timeout_ms, err);
    case OPT_EXIT_WHEN_IDLE:
        return set_seconds("exit-when-idle", argument, 0, &session->exit_when_idle_ms, err);
    case OPT_LOG_LEVEL:
        return tm_log_set_level(argument)
                   ? TM_OK
                   : tm_error_set(err, TM_E_ARGUMENT,
                                  "--log-level '%s': expected error, warn, info or debug",
                                  argument);
    case OPT_HELP:
        options->help = true;
        return TM_OK;
    case OPT_VERSION:
        options->version = true;
        return TM_OK;
    default:
        return tm_error_set(err, TM_E_ARGUMENT, "see --help"); /* getopt has said what is wrong */
    }
}

tm_status_t tm_options_parse(int argc, char *argv[], tm_options_t *options, tm_error_t *err) {
    memset(options, 0, sizeof *options);
    options->session.attempt_timeout_ms = TM_ATTEMPT_TIMEOUT_MS;
    default_name(options->name, sizeof options->name);
    raw_t raw = {.slots = 1};
    int option;
    optind = 1;
    while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        tm_status_t status = set_option(options, &raw, option, optarg, err);
        if (status != TM_OK) {
            return status;
        }
    }
    if (optind < argc) {
        return tm_error_set(err, TM_E_ARGUMENT, "'%s' is no option (see --help)", argv[optind]);
    }
    if (options->session.n_brokers == 0) {
        tm_status_t status = add_brokers(options, TM_DEFAULT_WORKER_ENDPOINT, err);
        if (status != TM_OK) {
            return status;
        }
    }
    options->session.identity.name = options->name;
    options->session.identity.slots = (uint32_t)raw.slots;
    options->batch = (uint32_t)raw.batch;
    options->threads = raw.threads > 0 ? (int)raw.threads : threads_per_slot((uint32_t)raw.slots);
    return find_backend(raw.backend, &options->backend, err);
}
