// SPDX-License-Identifier: Apache-2.0
#include "client/client_link.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libzmq's own reconnecting is put off beyond any time that we would wait for it */
#define NO_RECONNECT_MS 600000
#define MONITOR_NAME_BYTES 48

static int set_int(void *socket, int option, int value) {
    return zmq_setsockopt(socket, option, &value, sizeof value);
}

tm_status_t tm_link_open(tm_link_t *link, void *context, const char *endpoint, tm_error_t *err) {
    *link = (tm_link_t){0};
    link->socket = zmq_socket(context, ZMQ_DEALER);
    link->monitor = zmq_socket(context, ZMQ_PAIR);
    if (!link->socket || !link->monitor)
        goto failed;
    char name[MONITOR_NAME_BYTES];
    snprintf(name, sizeof name, "inproc://events-%p", link->socket);
    int64_t largest = TM_PAYLOAD_MAX_BYTES;
    /* The window limits what is queued, not a high water mark. TCP_MAXRT: while bytes are under way
     * the kernel judges whether the broker's machine is there, heartbeats cannot. */
    if (set_int(link->socket, ZMQ_LINGER, 0) || set_int(link->monitor, ZMQ_LINGER, 0) ||
        set_int(link->socket, ZMQ_SNDHWM, 0) ||
        set_int(link->socket, ZMQ_RECONNECT_IVL, NO_RECONNECT_MS) ||
        set_int(link->socket, ZMQ_TCP_MAXRT, TM_HEARTBEAT_MS * TM_LIVENESS) ||
        set_int(link->socket, ZMQ_IPV6, 1) ||
        zmq_setsockopt(link->socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest) ||
        zmq_socket_monitor(link->socket, name,
                           ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED |
                               ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                               ZMQ_EVENT_HANDSHAKE_FAILED_AUTH) ||
        zmq_connect(link->monitor, name) || zmq_connect(link->socket, endpoint))
        goto failed;
    return TM_OK;
failed:
    tm_error_set(err, TM_E_SYSTEM, "cannot be connected to: %s", zmq_strerror(zmq_errno()));
    tm_link_close(link, 0);
    return TM_E_SYSTEM;
}

void tm_link_close(tm_link_t *link, int linger_ms) {
    if (link->socket) {
        set_int(link->socket, ZMQ_LINGER, linger_ms);
        zmq_socket_monitor(link->socket, NULL, 0);
        zmq_close(link->socket);
    }
    if (link->monitor)
        zmq_close(link->monitor);
    *link = (tm_link_t){0};
}

unsigned tm_link_events(tm_link_t *link) {
    unsigned seen = 0;
    zmq_msg_t frame;
    zmq_msg_init(&frame);
    while (zmq_msg_recv(&frame, link->monitor, ZMQ_DONTWAIT) >= 0) {
        uint16_t event = 0;
        /* frame 1 of 2: event number and a value; the address in frame 2 we know */
        if (zmq_msg_more(&frame) && zmq_msg_size(&frame) >= sizeof event) {
            memcpy(&event, zmq_msg_data(&frame), sizeof event);
            seen |= event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED ? TM_LINK_ACCEPTED : TM_LINK_LOST;
        }
    }
    zmq_msg_close(&frame);
    return seen;
}

tm_status_t tm_link_send(tm_link_t *link, const tm_message_t *message, zmq_msg_t *payload,
                         size_t *bytes, tm_error_t *err) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes, payload_bytes = payload ? zmq_msg_size(payload) : 0;
    tm_status_t status = tm_message_encode(message, header, map, &map_bytes, err);
    if (!status &&
        (zmq_send(link->socket, header, sizeof header, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0 ||
         zmq_send(link->socket, map, map_bytes, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0)) < 0 ||
         (payload && zmq_msg_send(payload, link->socket, ZMQ_DONTWAIT) < 0)))
        status = tm_error_set(err, TM_E_SYSTEM, "takes no message: %s", zmq_strerror(zmq_errno()));
    if (payload)
        zmq_msg_close(payload); /* empty after a send that worked */
    if (!status && bytes)
        *bytes = sizeof header + map_bytes + payload_bytes;
    return status;
}

bool tm_link_receive(tm_link_t *link, tm_received_t *received) {
    *received = (tm_received_t){0};
    zmq_msg_init(&received->header);
    zmq_msg_init(&received->map);
    zmq_msg_init(&received->payload);
    zmq_msg_t extra, *into[] = {&received->header, &received->map, &received->payload};
    zmq_msg_init(&extra);
    bool more = true;
    while (more) {
        zmq_msg_t *frame = received->frames < TM_FRAMES_MAX ? into[received->frames] : &extra;
        /* the frames of a message arrive together: only the first can be missing */
        if (zmq_msg_recv(frame, link->socket, ZMQ_DONTWAIT) < 0)
            break;
        more = zmq_msg_more(frame) != 0;
        received->bytes += zmq_msg_size(frame);
        if (received->frames <= TM_FRAMES_MAX)
            received->frames++;
    }
    zmq_msg_close(&extra);
    if (received->frames == 0) {
        tm_received_clear(received);
        return false;
    }
    if (received->frames == TM_FRAMES_MAX) {
        /* libzmq's zero-copy receive leaves a small frame wherever it lay in the stream */
        received->columns_bytes = zmq_msg_size(&received->payload);
        received->columns = tm_payload_aligned(zmq_msg_data(&received->payload),
                                               received->columns_bytes, &received->aligned, NULL);
    }
    return true;
}

void tm_received_clear(tm_received_t *received) {
    zmq_msg_close(&received->header);
    zmq_msg_close(&received->map);
    zmq_msg_close(&received->payload);
    free(received->aligned);
    received->aligned = NULL;
}

tm_status_t tm_received_decode(tm_received_t *received, tm_message_t *message, tm_error_t *err) {
    /* of frames too many only their number matters */
    tm_frame_t frames[TM_FRAMES_MAX + 1] = {
        {zmq_msg_data(&received->header), zmq_msg_size(&received->header)},
        {zmq_msg_data(&received->map), zmq_msg_size(&received->map)},
        {received->columns, received->columns_bytes}};
    return tm_message_decode_frames(frames, received->frames, message, err);
}
