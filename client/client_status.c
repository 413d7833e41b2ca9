// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "client/client_answer.h"
#include "client/client_brokers.h"
#include "client/client_clock.h"
#include "client/client_link.h"
#include "client/trackmill.h"

#define STATUS_TIMEOUT_DEFAULT_MS TM_HELLO_TIMEOUT_MS

static tm_status_t read_report(const tm_message_t *m, tm_broker_report_t *report, tm_error_t *err) {
    if (m->command == TM_CMD_ERROR)
        return tm_error_set(err, tm_answer_error_code(m), "said %s: %.*s",
                            tm_status_name(tm_answer_error_code(m)), (int)m->text.bytes,
                            m->text.bytes ? m->text.data : "");
    tm_slice_copy(report->software, sizeof report->software, m->software);
    report->uptime_ms = m->uptime_ms;
    report->queued = m->queued;
    report->running = m->running;
    report->workers = m->workers;
    report->clients = m->clients;
    report->answered = m->answered;
    if (!(m->set & TM_FIELD(MODELS)))
        return TM_OK;
    return tm_models_decode(m->models, report->models, &report->n_models, err);
}

/* Waits for the REPORT until the time is up. */
static tm_status_t wait_report(tm_link_t *link, uint64_t until_us, uint32_t timeout_ms,
                               tm_broker_report_t *report, tm_error_t *err) {
    bool accepted = false, lost = false;
    for (;;) {
        unsigned events = tm_link_events(link);
        accepted |= (events & TM_LINK_ACCEPTED) != 0;
        lost |= (events & TM_LINK_LOST) != 0;
        tm_received_t received;
        while (tm_link_receive(link, &received)) {
            tm_message_t m;
            tm_status_t status = tm_received_decode(&received, &m, err);
            bool done = status || m.command == TM_CMD_REPORT || m.command == TM_CMD_ERROR;
            if (!status && done)
                status = read_report(&m, report, err);
            tm_received_clear(&received);
            if (done)
                return status;
        }
        if (lost)
            return tm_error_set(err, TM_E_NO_BROKER,
                                accepted ? "closed the connection" : "refuses connections");
        uint64_t now_us = tm_client_now_us();
        if (now_us >= until_us)
            return tm_error_set(err, TM_E_NO_BROKER, "%s within %u ms",
                                accepted ? "accepted the connection but sent no REPORT"
                                         : "accepted no connection",
                                timeout_ms);
        zmq_pollitem_t items[] = {{.socket = link->socket, .events = ZMQ_POLLIN},
                                  {.socket = link->monitor, .events = ZMQ_POLLIN}};
        long left_ms = (long)((until_us - now_us + TM_US_PER_MS - 1) / TM_US_PER_MS);
        if (zmq_poll(items, 2, left_ms) < 0 && zmq_errno() != EINTR)
            return tm_error_set(err, TM_E_SYSTEM, "cannot be polled: %s",
                                zmq_strerror(zmq_errno()));
    }
}

tm_status_t tm_broker_status(const char *broker, uint32_t timeout_ms, tm_broker_report_t *report,
                             tm_error_t *err) {
    if (!broker || !report)
        return tm_error_set(err, TM_E_ARGUMENT, "tm_broker_status needs a broker and a report");
    tm_status_t status = tm_brokers_check_endpoint(broker, err);
    if (status)
        return status;
    if (timeout_ms == 0)
        timeout_ms = STATUS_TIMEOUT_DEFAULT_MS;
    uint64_t until_us = tm_client_now_us() + (uint64_t)timeout_ms * TM_US_PER_MS;
    memset(report, 0, sizeof *report);
    snprintf(report->broker, sizeof report->broker, "%s", broker);
    void *context = zmq_ctx_new();
    if (!context)
        return tm_error_set(err, TM_E_SYSTEM, "cannot start libzmq: %s", strerror(errno));
    tm_link_t link;
    tm_message_t question = {.command = TM_CMD_STATUS};
    status = tm_link_open(&link, context, broker, err);
    if (!status)
        status = tm_link_send(&link, &question, NULL, NULL, err);
    if (!status)
        status = wait_report(&link, until_us, timeout_ms, report, err);
    tm_link_close(&link, 0);
    while (zmq_ctx_term(context) && zmq_errno() == EINTR) {
    }
    if (status)
        tm_error_prefix(err, "%s ", broker);
    return status;
}
