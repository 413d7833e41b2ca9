// SPDX-License-Identifier: Apache-2.0
#include "broker/port.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/index.h"
#include "broker/core/list.h"

/* The HWM counts messages per connection: enough for a window of small ones, a bound for big ones. */
#define SEND_HWM 256
#define RECEIVE_HWM 128
#define BACKLOG 1024
/* What CURVE adds to a frame, and some. */
#define ENCRYPTION_MAX_BYTES 64
/* What a peer may leave unread beyond its pipe. One message always fits. */
#define OUTBOX_MAX_BYTES (256u << 20)
#define OUTBOX_MAX_MESSAGES 1024u

/* Routing ids that libzmq makes: a zero byte and a counter. */
#define ROUTING_ID_BYTES 5
#define PEER_MARK (1ull << 40) /* no peer is 0 */
#define PEER_WORKER (1ull << 32)

typedef struct {
    tm_link_t link;
    size_t bytes;
    uint32_t n_frames;
    zmq_msg_t frame[TM_FRAMES_MAX];
} parcel_out_t;

typedef struct {
    tm_link_t all, messages;
    tm_peer_t peer;
    size_t bytes;
    uint32_t count;
} outbox_t;

struct tm_port {
    void *socket;
    uint64_t mark;
    char *endpoints;
    tm_link_t outboxes;
    tm_index_t outbox_of;
};

/* ---- life ---- */

static tm_status_t set_option(void *socket, int option, int value, tm_error_t *err) {
    if (zmq_setsockopt(socket, option, &value, sizeof value))
        return tm_error_set(err, TM_E_SYSTEM, "socket option %d: %s", option,
                            zmq_strerror(zmq_errno()));
    return TM_OK;
}

static tm_status_t set_options(void *socket, uint64_t max_payload, int linger_ms, tm_error_t *err) {
    const struct {
        int option, value;
    } options[] = {
        {ZMQ_ROUTER_MANDATORY, 1}, {ZMQ_ROUTER_HANDOVER, 0},  {ZMQ_IPV6, 1},
        {ZMQ_SNDHWM, SEND_HWM},    {ZMQ_RCVHWM, RECEIVE_HWM}, {ZMQ_LINGER, linger_ms},
        {ZMQ_BACKLOG, BACKLOG},    {ZMQ_HEARTBEAT_IVL, 0},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        tm_status_t status = set_option(socket, options[i].option, options[i].value, err);
        if (status)
            return status;
    }
    uint64_t largest = max_payload > TM_MAP_MAX_BYTES ? max_payload : TM_MAP_MAX_BYTES;
    int64_t max_bytes = (int64_t)(largest + ENCRYPTION_MAX_BYTES);
    if (zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes))
        return tm_error_set(err, TM_E_SYSTEM, "ZMQ_MAXMSGSIZE: %s", zmq_strerror(zmq_errno()));
    return TM_OK;
}

/* "[::ffff:127.0.0.1]" is what an IPv6 socket calls an IPv4 address; peers without IPv6 cannot. */
static void unmap_ipv4(char *endpoint) {
    static const char mapped[] = "[::ffff:";
    char *open = strstr(endpoint, mapped), *close = open ? strchr(open, ']') : NULL;
    if (!close || !memchr(open, '.', (size_t)(close - open)))
        return;
    memmove(close, close + 1, strlen(close));
    memmove(open, open + sizeof mapped - 1, strlen(open + sizeof mapped - 1) + 1);
}

static tm_status_t bind_to(tm_port_t *port, const char *endpoint, tm_error_t *err) {
    if (zmq_bind(port->socket, endpoint))
        return tm_error_set(err, TM_E_SYSTEM, "cannot bind to %s: %s%s", endpoint,
                            zmq_strerror(zmq_errno()),
                            zmq_errno() == EADDRINUSE ? " (is another broker running?)" : "");
    char bound[256];
    size_t bytes = sizeof bound;
    if (zmq_getsockopt(port->socket, ZMQ_LAST_ENDPOINT, bound, &bytes))
        return tm_error_set(err, TM_E_SYSTEM, "%s: %s", endpoint, zmq_strerror(zmq_errno()));
    unmap_ipv4(bound);
    char *joined;
    if (asprintf(&joined, "%s%s%s", port->endpoints ? port->endpoints : "",
                 port->endpoints ? "," : "", bound) < 0)
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    free(port->endpoints);
    port->endpoints = joined;
    return TM_OK;
}

tm_status_t tm_port_new(void *context, bool workers, const char *const *endpoints,
                        uint32_t n_endpoints, uint64_t max_payload, int linger_ms, tm_port_t **out,
                        tm_error_t *err) {
    tm_status_t status;
    tm_port_t *port = calloc(1, sizeof *port);
    *out = NULL;
    if (!port)
        return tm_error_set(err, TM_E_NO_MEMORY, "out of memory");
    port->mark = PEER_MARK | (workers ? PEER_WORKER : 0);
    tm_list_init(&port->outboxes);
    tm_index_init(&port->outbox_of, 0);
    port->socket = zmq_socket(context, ZMQ_ROUTER);
    if (!port->socket) {
        status = tm_error_set(err, TM_E_SYSTEM, "socket: %s", zmq_strerror(zmq_errno()));
        goto done;
    }
    status = set_options(port->socket, max_payload, linger_ms, err);
    for (uint32_t i = 0; i < n_endpoints && !status; i++)
        status = bind_to(port, endpoints[i], err);
done:
    if (status)
        tm_port_destroy(&port);
    *out = port;
    return status;
}

bool tm_port_is_worker(tm_peer_t peer) {
    return peer & PEER_WORKER;
}

void *tm_port_socket(const tm_port_t *port) {
    return port->socket;
}

const char *tm_port_endpoints(const tm_port_t *port) {
    return port->endpoints;
}

/* ---- receiving ---- */

/* 0: not an id that libzmq made. */
static tm_peer_t peer_of(const tm_port_t *port, zmq_msg_t *id) {
    const uint8_t *bytes = zmq_msg_data(id);
    uint32_t number;
    if (zmq_msg_size(id) != ROUTING_ID_BYTES || bytes[0])
        return 0;
    memcpy(&number, bytes + 1, sizeof number);
    return port->mark | number;
}

bool tm_port_receive(tm_port_t *port, tm_inbound_t *in) {
    zmq_msg_t id, extra;
    for (;;) {
        zmq_msg_init(&id);
        if (zmq_msg_recv(&id, port->socket, ZMQ_DONTWAIT) < 0)
            return false; // nothing there (or a signal: the poll wakes us again)
        in->peer = peer_of(port, &id);
        in->n_frames = 0;
        bool more = zmq_msg_more(&id);
        zmq_msg_close(&id);
        // once its first frame is there, a message is there as a whole
        while (more) {
            zmq_msg_t *frame = in->n_frames < TM_FRAMES_MAX ? &in->frame[in->n_frames] : &extra;
            zmq_msg_init(frame);
            if (zmq_msg_recv(frame, port->socket, ZMQ_DONTWAIT) < 0)
                break;
            more = zmq_msg_more(frame);
            if (frame == &extra)
                zmq_msg_close(&extra);
            in->n_frames++;
        }
        if (in->peer)
            return true;
        tm_inbound_close(in);
    }
}

void tm_inbound_close(tm_inbound_t *in) {
    for (uint32_t i = 0; i < in->n_frames && i < TM_FRAMES_MAX; i++)
        zmq_msg_close(&in->frame[i]);
    in->n_frames = 0;
}

/* ---- sending ---- */

typedef enum { SENT, FULL, GONE } sent_t;

/* Consumes the frames when SENT; leaves them otherwise. */
static sent_t send_now(tm_port_t *port, tm_peer_t peer, zmq_msg_t *frame, uint32_t n_frames) {
    uint8_t id[ROUTING_ID_BYTES] = {0};
    uint32_t number = (uint32_t)peer;
    memcpy(id + 1, &number, sizeof number);
    while (zmq_send(port->socket, id, sizeof id, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        if (zmq_errno() != EINTR)
            return zmq_errno() == EAGAIN ? FULL : GONE;
    // room was checked with the routing id: only a dying pipe can lose the rest, silently
    for (uint32_t i = 0; i < n_frames; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < n_frames ? ZMQ_SNDMORE : 0);
        while (zmq_msg_send(&frame[i], port->socket, flags) < 0)
            if (zmq_errno() != EINTR)
                return GONE;
    }
    return SENT;
}

static void close_frames(zmq_msg_t *frame, uint32_t n_frames) {
    for (uint32_t i = 0; i < n_frames; i++)
        zmq_msg_close(&frame[i]);
}

static void outbox_drop(tm_port_t *port, outbox_t *box) {
    TM_LIST_EACH(&box->messages, it, after) {
        parcel_out_t *out = TM_LIST_ITEM(it, parcel_out_t, link);
        close_frames(out->frame, out->n_frames);
        free(out);
    }
    tm_list_remove(&box->all);
    tm_index_remove(&port->outbox_of, box->peer, 0);
    free(box);
}

/* Takes the frames. False: overflow or no memory, the frames are closed. */
static bool outbox_put(tm_port_t *port, tm_peer_t peer, zmq_msg_t *frame, uint32_t n_frames) {
    outbox_t *box = tm_index_find(&port->outbox_of, peer, 0);
    if (!box) {
        if (tm_index_reserve(&port->outbox_of, port->outbox_of.count + 1) ||
            !(box = calloc(1, sizeof *box))) {
            close_frames(frame, n_frames);
            return false;
        }
        box->peer = peer;
        tm_list_init(&box->messages);
        tm_list_push_back(&port->outboxes, &box->all);
        tm_index_insert(&port->outbox_of, peer, 0, box);
    }
    size_t bytes = 0;
    for (uint32_t i = 0; i < n_frames; i++)
        bytes += zmq_msg_size(&frame[i]);
    bool fits =
        !box->count || (box->bytes + bytes <= OUTBOX_MAX_BYTES && box->count < OUTBOX_MAX_MESSAGES);
    parcel_out_t *out = fits ? malloc(sizeof *out) : NULL;
    if (!out) {
        close_frames(frame, n_frames);
        return false;
    }
    out->bytes = bytes;
    out->n_frames = n_frames;
    for (uint32_t i = 0; i < n_frames; i++) {
        zmq_msg_init(&out->frame[i]);
        zmq_msg_move(&out->frame[i], &frame[i]);
        zmq_msg_close(&frame[i]);
    }
    tm_list_push_back(&box->messages, &out->link);
    box->bytes += bytes;
    box->count++;
    return true;
}

bool tm_port_send(tm_port_t *port, tm_peer_t peer, const tm_message_t *m, zmq_msg_t *payload) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error;
    tm_status_t status = tm_message_encode(m, header, map, &map_bytes, &error);
    assert(!status);
    zmq_msg_t frame[TM_FRAMES_MAX];
    if (status || zmq_msg_init_size(&frame[0], sizeof header))
        return false;
    if (zmq_msg_init_size(&frame[1], map_bytes)) {
        zmq_msg_close(&frame[0]);
        return false;
    }
    memcpy(zmq_msg_data(&frame[0]), header, sizeof header);
    memcpy(zmq_msg_data(&frame[1]), map, map_bytes);
    uint32_t n_frames = 2;
    if (payload) {
        zmq_msg_init(&frame[2]);
        zmq_msg_copy(&frame[2], payload);
        n_frames = 3;
    }
    // behind what waits already, so that the order stays
    bool waits = tm_index_find(&port->outbox_of, peer, 0) != NULL;
    sent_t sent = waits ? FULL : send_now(port, peer, frame, n_frames);
    if (sent == FULL)
        return outbox_put(port, peer, frame, n_frames);
    if (sent == GONE)
        close_frames(frame, n_frames);
    return sent == SENT;
}

bool tm_port_pending(const tm_port_t *port) {
    return !tm_list_empty(&port->outboxes);
}

tm_peer_t tm_port_flush(tm_port_t *port) {
    TM_LIST_EACH(&port->outboxes, it, after) {
        outbox_t *box = TM_LIST_ITEM(it, outbox_t, all);
        sent_t sent = SENT;
        while (sent == SENT && !tm_list_empty(&box->messages)) {
            parcel_out_t *out = TM_LIST_ITEM(box->messages.next, parcel_out_t, link);
            sent = send_now(port, box->peer, out->frame, out->n_frames);
            if (sent != SENT)
                break;
            box->bytes -= out->bytes;
            box->count--;
            tm_list_remove(&out->link);
            free(out);
        }
        tm_peer_t peer = box->peer;
        if (sent != FULL)
            outbox_drop(port, box);
        if (sent == GONE)
            return peer;
    }
    return 0;
}

void tm_port_forget(tm_port_t *port, tm_peer_t peer) {
    outbox_t *box = tm_index_find(&port->outbox_of, peer, 0);
    if (box)
        outbox_drop(port, box);
}

void tm_port_destroy(tm_port_t **p) {
    tm_port_t *port = *p;
    if (!port)
        return;
    while (!tm_list_empty(&port->outboxes))
        outbox_drop(port, TM_LIST_ITEM(port->outboxes.next, outbox_t, all));
    tm_index_clear(&port->outbox_of);
    if (port->socket)
        zmq_close(port->socket);
    free(port->endpoints);
    free(port);
    *p = NULL;
}
