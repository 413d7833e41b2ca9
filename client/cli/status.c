// SPDX-License-Identifier: Apache-2.0
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/cli.h"
#include "client/cli/options.h"
#include "client/trackmill.h"

#define MS_PER_S 1000.0
#define HEX_SHOWN 6 /* bytes of a hash */

static const tm_usage_t usage = {
    .usage = "status [options]",
    .about = "Asks each broker of the list what it is doing. Fails if one does not answer.",
    .examples = "  trackmill status\n"
                "  trackmill status --broker tcp://a:5570,tcp://b:5570 --json\n",
};

static void hash_text(const tm_model_id_t *model, int bytes, char *out) {
    for (int i = 0; i < bytes; i++) {
        snprintf(out + 2 * i, 3, "%02x", model->hash[i]);
    }
}

static void print_uptime(uint64_t ms) {
    uint64_t s = ms / 1000;
    if (s >= 86400) {
        printf("%llu d %llu h", (unsigned long long)(s / 86400),
               (unsigned long long)(s / 3600 % 24));
    } else if (s >= 3600) {
        printf("%llu h %llu min", (unsigned long long)(s / 3600),
               (unsigned long long)(s / 60 % 60));
    } else if (s >= 60) {
        printf("%llu min %llu s", (unsigned long long)(s / 60), (unsigned long long)(s % 60));
    } else {
        printf("%llu s", (unsigned long long)s);
    }
}

static void print_report(const tm_broker_report_t *r) {
    char text[TM_CLI_NUMBER_BYTES];
    printf("%s  %s, up ", r->broker, r->software);
    print_uptime(r->uptime_ms);
    printf("\n  workers   %8s\n", tm_cli_thousands(r->workers, text));
    printf("  clients   %8s\n", tm_cli_thousands(r->clients, text));
    printf("  queued    %8s\n", tm_cli_thousands(r->queued, text));
    printf("  running   %8s\n", tm_cli_thousands(r->running, text));
    printf("  answered  %8s\n", tm_cli_thousands(r->answered, text));
    printf("  models    %8u\n", r->n_models);
    for (uint32_t i = 0; i < r->n_models; i++) {
        char hash[2 * TM_HASH_BYTES + 1];
        hash_text(&r->models[i], HEX_SHOWN, hash);
        printf("    %s@%s  sha256 %s…\n", r->models[i].name, r->models[i].version, hash);
    }
}

static json_t *report_json(const tm_broker_report_t *r) {
    json_t *models = json_array();
    for (uint32_t i = 0; i < r->n_models; i++) {
        char hash[2 * TM_HASH_BYTES + 1];
        hash_text(&r->models[i], TM_HASH_BYTES, hash);
        json_array_append_new(models, json_pack("{ss ss ss}", "name", r->models[i].name, "version",
                                                r->models[i].version, "sha256", hash));
    }
    return json_pack("{ss ss ss sI sI sI sI sI sI so}", "broker", r->broker, "status", "ok",
                     "software", r->software, "uptime_ms", (json_int_t)r->uptime_ms, "workers",
                     (json_int_t)r->workers, "clients", (json_int_t)r->clients, "queued",
                     (json_int_t)r->queued, "running", (json_int_t)r->running, "answered",
                     (json_int_t)r->answered, "models", models);
}

int tm_cmd_status(int argc, char **argv) {
    const char *brokers = TM_DEFAULT_CLIENT_ENDPOINT;
    double deadline_s = TM_HELLO_TIMEOUT_MS / MS_PER_S;
    bool json = false;
    const tm_option_t table[] = {
        {"broker", "LIST", "endpoints separated by commas (" TM_DEFAULT_CLIENT_ENDPOINT ")",
         TM_OPTION_TEXT, &brokers, 0, 0},
        {"deadline", "SECONDS", "for each broker (3)", TM_OPTION_NUMBER, &deadline_s, 0.001, 3600},
        {"json", NULL, "print one JSON document", TM_OPTION_FLAG, &json, 0, 0},
    };
    int first, code;
    if (!tm_options_parse(argc, argv, table, sizeof table / sizeof table[0], &usage, &first,
                          &code)) {
        return code;
    }
    if (first < argc) {
        tm_cli_complain("status: %s: no operands; name brokers with --broker", argv[first]);
        return TM_EXIT_USAGE;
    }
    char *list = strdup(brokers), *rest = list;
    json_t *document = json_array();
    code = TM_EXIT_OK;
    for (char *broker = strtok_r(list, ", ", &rest); broker; broker = strtok_r(NULL, ", ", &rest)) {
        tm_broker_report_t report = {0};
        tm_error_t error = {0};
        if (tm_broker_status(broker, (uint32_t)(deadline_s * MS_PER_S), &report, &error) == TM_OK) {
            if (json) {
                json_array_append_new(document, report_json(&report));
            } else {
                print_report(&report);
            }
            continue;
        }
        code = TM_EXIT_FAILED;
        if (json) {
            json_array_append_new(document,
                                  json_pack("{ss ss ss}", "broker", broker, "status",
                                            tm_status_name(error.code), "error", error.text));
        }
        tm_cli_complain("%s", error.text);
    }
    if (json) {
        json_dumpf(document, stdout, JSON_INDENT(1));
        putchar('\n');
    }
    json_decref(document);
    free(list);
    return code;
}
