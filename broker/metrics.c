// SPDX-License-Identifier: Apache-2.0
#include "broker/metrics.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- Prometheus ---- */

static void family(FILE *out, const char *name, const char *type, const char *help) {
    fprintf(out, "# HELP trackmill_%s %s\n# TYPE trackmill_%s %s\n", name, help, name, type);
}

static void number(FILE *out, const char *name, const char *type, const char *help,
                   uint64_t value) {
    family(out, name, type, help);
    fprintf(out, "trackmill_%s %" PRIu64 "\n", name, value);
}

/* A label's value, with what would end it escaped. */
static void label(FILE *out, const char *name, const char *value) {
    fprintf(out, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            fputc('\\', out);
        fputc(*value == '\n' ? ' ' : *value, out);
    }
    fputc('"', out);
}

/* labels: "" or as in model="gnn",version="1". */
static void histogram(FILE *out, const char *name, const char *labels, const tm_histogram_t *h) {
    uint64_t cumulated = 0;
    const char *comma = labels[0] ? "," : "";
    for (uint32_t i = 0; i < TM_HISTOGRAM_BOUNDS; i++) {
        cumulated += h->bucket[i];
        fprintf(out, "trackmill_%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, labels, comma,
                (double)tm_histogram_bound_us(i) / 1e6, cumulated);
    }
    fprintf(out, "trackmill_%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma,
            h->count);
    const char *open = labels[0] ? "{" : "", *close = labels[0] ? "}" : "";
    fprintf(out, "trackmill_%s_sum%s%s%s %.6f\n", name, open, labels, close,
            (double)h->sum_us / 1e6);
    fprintf(out, "trackmill_%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close, h->count);
}

static void by_code(FILE *out, const char *name, const char *help, const uint64_t *counts) {
    family(out, name, "counter", help);
    for (int code = 1; code < TM_STATS_CODES; code++)
        if (counts[code])
            fprintf(out, "trackmill_%s{code=\"%s\"} %" PRIu64 "\n", name,
                    tm_status_name((tm_status_t)code), counts[code]);
}

static void write_requests(FILE *out, const tm_snapshot_t *snapshot) {
    const tm_stats_t *s = &snapshot->stats;
    number(out, "requests_received_total", "counter", "REQUEST messages", s->received);
    number(out, "requests_accepted_total", "counter", "Requests queued", s->accepted);
    number(out, "requests_duplicate_total", "counter", "Requests joined to one in flight",
           s->duplicates);
    number(out, "requests_answered_total", "counter", "Requests answered with tracks", s->answered);
    number(out, "requests_dropped_total", "counter", "Accepted requests whose client went",
           s->dropped);
    by_code(out, "requests_refused_total", "Requests not accepted, by error code", s->refused);
    by_code(out, "requests_failed_total", "Accepted requests that ended in an error, by code",
            s->failed);
    number(out, "payload_received_bytes_total", "counter", "Event bytes accepted", s->bytes_in);
    number(out, "payload_sent_bytes_total", "counter", "Answer bytes", s->bytes_out);
    number(out, "requests_in_flight", "gauge", "Accepted requests without an answer", s->in_flight);
    number(out, "requests_queued", "gauge", "Requests that wait for a worker", s->queued);
    number(out, "queue_limit_requests", "gauge", "Requests that may wait",
           snapshot->queue_max_requests);
    number(out, "held_bytes", "gauge", "Event bytes in memory", s->held_bytes);
    number(out, "held_limit_bytes", "gauge", "Event bytes that may be in memory",
           snapshot->queue_max_bytes);
    family(out, "queue_wait_seconds", "histogram", "Arrival to the dispatch that was answered");
    histogram(out, "queue_wait_seconds", "", &s->queue_wait);
    family(out, "service_seconds", "histogram", "Dispatch to result");
    histogram(out, "service_seconds", "", &s->service);
}

static void write_attempts(FILE *out, const tm_stats_t *s) {
    number(out, "attempts_dispatched_total", "counter", "DISPATCH messages", s->dispatched);
    number(out, "attempts_started_total", "counter", "Attempts that a worker started", s->started);
    number(out, "attempts_failed_total", "counter", "Attempts that a worker reported failed",
           s->attempts_failed);
    number(out, "attempts_timed_out_total", "counter", "Attempts that ran too long", s->timed_out);
    number(out, "attempts_requeued_total", "counter",
           "Attempts lost with their worker or handed back", s->requeued);
    number(out, "attempts_revoked_total", "counter", "Attempts no longer wanted", s->revoked);
    number(out, "attempts_late_total", "counter", "Messages about attempts that are no more",
           s->late);
    number(out, "attempts_outstanding", "gauge", "Attempts at workers now", s->running);
}

static void write_peers(FILE *out, const tm_snapshot_t *snapshot) {
    const tm_stats_t *s = &snapshot->stats;
    number(out, "clients", "gauge", "Clients connected", s->clients);
    number(out, "workers", "gauge", "Workers connected", s->workers);
    number(out, "slots", "gauge", "Slots of workers that are not draining", s->slots);
    number(out, "clients_lost_total", "counter", "Clients gone without BYE", s->clients_lost);
    number(out, "workers_lost_total", "counter", "Workers gone without BYE", s->workers_lost);
    number(out, "workers_paused_total", "counter", "Times a failing or hung worker was paused",
           s->workers_paused);
    number(out, "registers_refused_total", "counter", "REGISTER messages refused",
           s->registers_refused);
    number(out, "unknown_peers_total", "counter", "Messages from peers without a session",
           s->unknown_peers);
    number(out, "malformed_total", "counter", "Messages that broke the grammar",
           snapshot->malformed);
    family(out, "messages_total", "counter", "Messages received");
    fprintf(out,
            "trackmill_messages_total{from=\"clients\"} %" PRIu64
            "\ntrackmill_messages_total{from=\"workers\"} %" PRIu64 "\n",
            snapshot->messages[0], snapshot->messages[1]);
    number(out, "uptime_seconds", "gauge", "Seconds since start", snapshot->uptime_ms / 1000);
    number(out, "draining", "gauge", "1 while the broker takes no new requests",
           snapshot->draining);
}

static void write_models(FILE *out, const tm_snapshot_t *snapshot) {
    const struct {
        const char *name, *type, *help;
    } families[] = {
        {"model_workers", "gauge", "Workers that serve the model and are not draining"},
        {"model_queued", "gauge", "Requests queued for the model"},
        {"model_answered_total", "counter", "Results of the model"},
        {"model_failed_total", "counter", "Failed attempts of the model"},
        {"model_queue_wait_seconds", "histogram", "Arrival to the dispatch that was answered"},
        {"model_service_seconds", "histogram", "Dispatch to result"},
    };
    for (int f = 0; f < 6; f++) {
        family(out, families[f].name, families[f].type, families[f].help);
        for (uint32_t i = 0; i < snapshot->n_models; i++) {
            const tm_model_view_t *m = &snapshot->model[i];
            // names and versions are [A-Za-z0-9._-]: nothing to escape
            char labels[2 * TM_NAME_MAX + 32];
            snprintf(labels, sizeof labels, "model=\"%s\",version=\"%s\"", m->id.name,
                     m->id.version);
            const uint64_t values[] = {m->workers, m->queued, m->answered, m->failed};
            if (f < 4)
                fprintf(out, "trackmill_%s{%s} %" PRIu64 "\n", families[f].name, labels, values[f]);
            else
                histogram(out, families[f].name, labels, f == 4 ? &m->queue_wait : &m->service);
        }
    }
}

static void write_workers(FILE *out, const tm_snapshot_t *snapshot) {
    const struct {
        const char *name, *type, *help;
    } families[] = {
        {"worker_slots", "gauge", "Attempts that the worker runs at once"},
        {"worker_outstanding", "gauge", "Attempts at the worker"},
        {"worker_credit", "gauge", "Attempts that it could take now"},
        {"worker_paused", "gauge", "1 while it gets no work because it failed or hung"},
        {"worker_answered_total", "counter", "Results"},
        {"worker_failed_total", "counter", "Failed attempts"},
        {"worker_timed_out_total", "counter", "Attempts that ran too long"},
    };
    for (int f = 0; f < 7; f++) {
        family(out, families[f].name, families[f].type, families[f].help);
        for (uint32_t i = 0; i < snapshot->n_workers; i++) {
            const tm_worker_view_t *w = &snapshot->worker[i];
            const uint64_t values[] = {w->slots,    w->outstanding, w->credit,   w->paused,
                                       w->answered, w->failed,      w->timed_out};
            // two workers may bear one name: the peer number tells them apart
            fprintf(out, "trackmill_%s{", families[f].name);
            label(out, "worker", w->name);
            fprintf(out, ",peer=\"%" PRIx64 "\"} %" PRIu64 "\n", w->peer, values[f]);
        }
    }
}

char *tm_metrics_text(const tm_snapshot_t *snapshot) {
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    if (!out)
        return NULL;
    write_requests(out, snapshot);
    write_attempts(out, &snapshot->stats);
    write_peers(out, snapshot);
    write_models(out, snapshot);
    write_workers(out, snapshot);
    bool bad = ferror(out);
    if (fclose(out) || bad) {
        free(text);
        return NULL;
    }
    return text;
}

/* ---- JSON ---- */

static json_t *whole(uint64_t value) {
    return json_integer(value <= INT64_MAX ? (json_int_t)value : INT64_MAX);
}

static json_t *json_of_models(const tm_snapshot_t *snapshot) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < snapshot->n_models; i++) {
        const tm_model_view_t *m = &snapshot->model[i];
        char hash[2 * TM_HASH_BYTES + 1];
        for (int b = 0; b < TM_HASH_BYTES; b++)
            snprintf(hash + 2 * b, 3, "%02x", m->id.hash[b]);
        double count = m->service.count ? (double)m->service.count : 1;
        json_array_append_new(
            list, json_pack("{ss ss ss so so so so so sf sf}", "name", m->id.name, "version",
                            m->id.version, "hash", hash, "workers", whole(m->workers), "paused",
                            whole(m->paused), "queued", whole(m->queued), "answered",
                            whole(m->answered), "failed", whole(m->failed), "mean_queue_ms",
                            (double)m->queue_wait.sum_us / count / 1e3, "mean_service_ms",
                            (double)m->service.sum_us / count / 1e3));
    }
    return list;
}

static json_t *json_of_workers(const tm_snapshot_t *snapshot) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < snapshot->n_workers; i++) {
        const tm_worker_view_t *w = &snapshot->worker[i];
        json_array_append_new(
            list, json_pack("{ss ss ss ss ss so so so so so so so so sb sb}", "name", w->name,
                            "model", w->model, "device", w->device, "backend", w->backend,
                            "software", w->software, "slots", whole(w->slots), "credit",
                            whole(w->credit), "outstanding", whole(w->outstanding), "running",
                            whole(w->running), "answered", whole(w->answered), "failed",
                            whole(w->failed), "timed_out", whole(w->timed_out), "silent_ms",
                            whole(w->silent_ms), "draining", w->draining, "paused", w->paused));
    }
    return list;
}

char *tm_metrics_json(const tm_snapshot_t *snapshot) {
    const tm_stats_t *s = &snapshot->stats;
    uint64_t failed = 0, refused = 0;
    for (int i = 0; i < TM_STATS_CODES; i++) {
        failed += s->failed[i];
        refused += s->refused[i];
    }
    json_t *root = json_pack(
        "{ss so sb s{so so so so so so so so} s{so so so so} so so so}", "software",
        "trackmill/" TM_VERSION, "uptime_ms", whole(snapshot->uptime_ms), "draining",
        snapshot->draining, "requests", "received", whole(s->received), "accepted",
        whole(s->accepted), "duplicates", whole(s->duplicates), "answered", whole(s->answered),
        "failed", whole(failed), "refused", whole(refused), "dropped", whole(s->dropped),
        "in_flight", whole(s->in_flight), "queue", "queued", whole(s->queued), "limit",
        whole(snapshot->queue_max_requests), "held_bytes", whole(s->held_bytes), "limit_bytes",
        whole(snapshot->queue_max_bytes), "clients", whole(s->clients), "models",
        json_of_models(snapshot), "workers", json_of_workers(snapshot));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    return text;
}
