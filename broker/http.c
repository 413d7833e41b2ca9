// SPDX-License-Identifier: Apache-2.0
#include "broker/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/metrics.h"

enum { ASK_TIMEOUT_MS = 2000, IDLE_TIMEOUT_S = 10, CONNECTIONS_MAX = 64, BACKLOG = 64 };

struct tm_http {
    struct MHD_Daemon *daemon;
    tm_exchange_t *exchange;
    char address[INET6_ADDRSTRLEN + 16];
};

/* body: malloc'd (then `owned`) or static. */
static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *type,
                             const char *body, bool owned) {
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(body), (void *)(uintptr_t)body,
                                        owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response) {
        if (owned)
            free((void *)(uintptr_t)body);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result handle(void *closure, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **request) {
    static const char plain[] = "text/plain; charset=utf-8";
    tm_http_t *http = closure;
    (void)version, (void)upload, (void)upload_bytes, (void)request;
    if (strcmp(method, "GET") && strcmp(method, "HEAD"))
        return reply(connection, MHD_HTTP_METHOD_NOT_ALLOWED, plain, "only GET\n", false);
    bool live = !strcmp(path, "/livez"), ready = !strcmp(path, "/readyz");
    bool metrics = !strcmp(path, "/metrics"), stats = !strcmp(path, "/stats");
    if (!live && !ready && !metrics && !stats)
        return reply(connection, MHD_HTTP_NOT_FOUND, plain,
                     "try /livez, /readyz, /metrics or /stats\n", false);

    const tm_snapshot_t *snapshot = tm_exchange_ask(http->exchange, ASK_TIMEOUT_MS);
    if (!snapshot)
        return reply(connection, MHD_HTTP_SERVICE_UNAVAILABLE, plain,
                     "the broker's thread does not answer\n", false);
    if (live)
        return reply(connection, MHD_HTTP_OK, plain, "alive\n", false);
    if (ready)
        return snapshot->draining
                   ? reply(connection, MHD_HTTP_SERVICE_UNAVAILABLE, plain, "draining\n", false)
                   : reply(connection, MHD_HTTP_OK, plain, "ready\n", false);
    char *body = metrics ? tm_metrics_text(snapshot) : tm_metrics_json(snapshot);
    if (!body)
        return reply(connection, MHD_HTTP_SERVICE_UNAVAILABLE, plain, "out of memory\n", false);
    return reply(connection, MHD_HTTP_OK,
                 metrics ? "text/plain; version=0.0.4; charset=utf-8" : "application/json", body,
                 true);
}

/* Our own listening socket, so that a failure can be told in our own words. -1: *err is set. */
static int listen_on(const char *host, const char *port, char *address, size_t room,
                     tm_error_t *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    int fd = -1, on = 1;
    int failure = getaddrinfo(strcmp(host, "*") ? host : NULL, port, &hints, &found);
    if (failure) {
        tm_error_set(err, TM_E_SYSTEM, "--http: cannot resolve \"%s\": %s", host,
                     gai_strerror(failure));
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, BACKLOG)) {
        tm_error_set(err, TM_E_SYSTEM, "cannot bind HTTP to %s:%s: %s%s", host, port,
                     strerror(errno),
                     errno == EADDRINUSE ? " (choose another --http ADDR:PORT, or \"off\")" : "");
        if (fd >= 0)
            close(fd);
        fd = -1;
        goto done;
    }
    struct sockaddr_storage bound;
    socklen_t bytes = sizeof bound;
    char name[INET6_ADDRSTRLEN] = "?", service[8] = "?";
    getsockname(fd, (struct sockaddr *)&bound, &bytes);
    getnameinfo((struct sockaddr *)&bound, bytes, name, sizeof name, service, sizeof service,
                NI_NUMERICHOST | NI_NUMERICSERV);
    bool v6 = found->ai_family == AF_INET6;
    snprintf(address, room, "%s%s%s:%s", v6 ? "[" : "", name, v6 ? "]" : "", service);
done:
    freeaddrinfo(found);
    return fd;
}

tm_status_t tm_http_new(const char *host, const char *port, tm_exchange_t *exchange,
                        tm_http_t **out, tm_error_t *err) {
    *out = NULL;
    tm_http_t *http = calloc(1, sizeof *http);
    if (!http)
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    http->exchange = exchange;
    int fd = listen_on(host, port, http->address, sizeof http->address, err);
    if (fd < 0) {
        free(http);
        return TM_E_SYSTEM;
    }
    http->daemon = MHD_start_daemon(
        MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, handle, http,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_TIMEOUT_S,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_END);
    if (!http->daemon) {
        close(fd);
        free(http);
        return tm_error_set(err, TM_E_SYSTEM, "cannot start the HTTP thread");
    }
    *out = http;
    return TM_OK;
}

void tm_http_destroy(tm_http_t **p) {
    if (!*p)
        return;
    MHD_stop_daemon((*p)->daemon);
    free(*p);
    *p = NULL;
}

const char *tm_http_address(const tm_http_t *http) {
    return http->address;
}
