// SPDX-License-Identifier: Apache-2.0
#include "worker/link.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/clock.h"
#include "worker/log.h"

#define RECEIVE_BURST 100 /* messages read before timers get their turn again */

typedef struct outgoing {
    zmq_msg_t frame[TM_FRAMES_MAX];
    int n_frames;
    struct outgoing *next;
} outgoing_t;

struct tm_link {
    void *context;
    uint32_t index;
    const char *endpoint;
    const tm_link_identity_t *identity;
    const tm_link_handler_t *handler;

    tm_link_state_t state;
    void *socket;
    outgoing_t *out, **out_end;
    bool broken; /* libzmq dropped a message half way: this socket is of no use any more */
    bool told;   /* the log knows that this broker is away */

    uint64_t session, epoch;
    uint64_t heartbeat_ms, silence_ms, max_payload; /* the broker's orders */
    uint64_t heard_ms, next_heartbeat_ms, registered_ms;
    uint64_t retry_ms, backoff_ms;
    uint64_t random;
    tm_error_t refusal;
};

/* ---- socket and outbox ---- */

static tm_status_t set_option(void *socket, int option, int value, tm_error_t *err) {
    if (zmq_setsockopt(socket, option, &value, sizeof value) != 0) {
        return tm_error_set(err, TM_E_SYSTEM, "cannot set socket option %d: %s", option,
                            zmq_strerror(errno));
    }
    return TM_OK;
}

static tm_status_t open_socket(tm_link_t *link, tm_error_t *err) {
    void *socket = zmq_socket(link->context, ZMQ_DEALER);
    if (socket == NULL) {
        return tm_error_set(err, TM_E_SYSTEM, "cannot make a socket: %s", zmq_strerror(errno));
    }
    /* IMMEDIATE: nothing is queued for a connection that is not there, so that a message given to
     * libzmq belongs to the registration that it was meant for */
    const int options[][2] = {
        {ZMQ_IMMEDIATE, 1},
        {ZMQ_LINGER, 0},
        {ZMQ_RECONNECT_IVL, TM_RECONNECT_MIN_MS},
        {ZMQ_RECONNECT_IVL_MAX, TM_RECONNECT_MAX_MS},
    };
    tm_status_t status = TM_OK;
    for (size_t i = 0; i < sizeof options / sizeof options[0] && status == TM_OK; i++) {
        status = set_option(socket, options[i][0], options[i][1], err);
    }
    int64_t max_bytes = TM_PAYLOAD_MAX_BYTES;
    if (status == TM_OK &&
        zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes) != 0) {
        status = tm_error_set(err, TM_E_SYSTEM, "cannot limit the message size: %s",
                              zmq_strerror(errno));
    }
    if (status == TM_OK && zmq_connect(socket, link->endpoint) != 0) {
        status = tm_error_set(err, errno == EMFILE ? TM_E_SYSTEM : TM_E_ARGUMENT,
                              "cannot connect to '%s': %s (expected tcp://HOST:PORT)",
                              link->endpoint, zmq_strerror(errno));
    }
    if (status != TM_OK) {
        zmq_close(socket);
        return status;
    }
    link->socket = socket;
    return TM_OK;
}

static void destroy_outgoing(outgoing_t *message) {
    for (int i = 0; i < message->n_frames; i++) {
        zmq_msg_close(&message->frame[i]);
    }
    free(message);
}

static void close_socket(tm_link_t *link, int linger_ms) {
    if (link->socket != NULL) {
        zmq_setsockopt(link->socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
        zmq_close(link->socket);
        link->socket = NULL;
    }
    while (link->out != NULL) {
        outgoing_t *next = link->out->next;
        destroy_outgoing(link->out);
        link->out = next;
    }
    link->out_end = &link->out;
    link->broken = false;
}

static void flush(tm_link_t *link) {
    while (link->out != NULL && link->socket != NULL && !link->broken) {
        outgoing_t *message = link->out;
        for (int i = 0; i < message->n_frames; i++) {
            int more = i + 1 < message->n_frames ? ZMQ_SNDMORE : 0;
            if (zmq_msg_send(&message->frame[i], link->socket, ZMQ_DONTWAIT | more) < 0) {
                /* libzmq takes a message as a whole, unless the connection goes away between two
                 * frames: then the rest would be lost, and with it the registration */
                link->broken = i > 0 || (errno != EAGAIN && errno != EINTR);
                return;
            }
        }
        link->out = message->next;
        if (link->out == NULL) {
            link->out_end = &link->out;
        }
        destroy_outgoing(message);
    }
}

static void queue(tm_link_t *link, const tm_message_t *m, zmq_msg_t *payload) {
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes = 0;
    tm_error_t error;
    if (tm_message_encode(m, header, map, &map_bytes, &error) != TM_OK) {
        tm_log(TM_LOG_ERROR, "broker %s: %s not sent: %s", link->endpoint,
               tm_command_name(m->command), error.text);
        return;
    }
    outgoing_t *message = calloc(1, sizeof *message);
    if (message == NULL) {
        goto no_memory;
    }
    if (zmq_msg_init_size(&message->frame[0], sizeof header) != 0) {
        goto no_memory;
    }
    message->n_frames = 1;
    if (zmq_msg_init_size(&message->frame[1], map_bytes) != 0) {
        goto no_memory;
    }
    message->n_frames = 2;
    memcpy(zmq_msg_data(&message->frame[0]), header, sizeof header);
    memcpy(zmq_msg_data(&message->frame[1]), map, map_bytes);
    if (payload != NULL) {
        zmq_msg_init(&message->frame[2]);
        zmq_msg_move(&message->frame[2], payload);
        message->n_frames = 3;
    }
    *link->out_end = message;
    link->out_end = &message->next;
    flush(link);
    return;

no_memory:
    tm_log(TM_LOG_ERROR, "broker %s: no memory to send %s", link->endpoint,
           tm_command_name(m->command));
    if (message != NULL) {
        destroy_outgoing(message);
    }
    /* the broker waits for this message: a new registration tells it that the attempt is gone */
    link->broken = true;
}

/* ---- registration ---- */

static void queue_register(tm_link_t *link) {
    const tm_link_identity_t *identity = link->identity;
    uint8_t models[TM_MAP_MAX_BYTES];
    tm_message_t m = {.command = TM_CMD_REGISTER};
    tm_error_t error;
    if (tm_models_encode(identity->models, identity->n_models, models, &m.models, &error) !=
        TM_OK) {
        tm_log(TM_LOG_ERROR, "REGISTER not sent: %s", error.text);
        return;
    }
    m.set |= TM_FIELD(MODELS);
    TM_SET_UINT(&m, MAX_PAYLOAD, max_payload, TM_PAYLOAD_MAX_BYTES);
    TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("trackmill/" TM_VERSION));
    TM_SET_SLICE(&m, NAME, name, tm_slice(identity->name));
    TM_SET_SLICE(&m, BACKEND, backend, tm_slice(identity->backend));
    TM_SET_SLICE(&m, DEVICE, device, tm_slice(identity->device));
    TM_SET_UINT(&m, SLOTS, slots, identity->slots);
    queue(link, &m, NULL);
}

static uint64_t next_random(tm_link_t *link) {
    link->random ^= link->random << 13;
    link->random ^= link->random >> 7;
    link->random ^= link->random << 17;
    return link->random;
}

/* Leaves this registration, if there is one, and tries again later. */
static void reset(tm_link_t *link, uint64_t now_ms, const char *why) {
    bool was_ready = link->state == TM_LINK_READY;
    close_socket(link, 0);
    link->state = TM_LINK_WAITING;
    /* from half to the whole of the back-off, so that the workers of a pool do not come at once */
    link->retry_ms = now_ms + link->backoff_ms / 2 + next_random(link) % (link->backoff_ms / 2 + 1);
    link->backoff_ms *= 2;
    if (link->backoff_ms > TM_RECONNECT_MAX_MS) {
        link->backoff_ms = TM_RECONNECT_MAX_MS;
    }
    if (was_ready || !link->told) {
        tm_log(TM_LOG_WARN, "broker %s: %s; trying again until it answers", link->endpoint, why);
        link->told = true;
    }
    if (was_ready) {
        link->handler->lost(link->handler->user, link->index);
    }
}

static void refuse(tm_link_t *link, tm_status_t code, const char *text, int bytes) {
    bool was_ready = link->state == TM_LINK_READY;
    tm_error_set(&link->refusal, code, "broker %s refused this worker: %s: %.*s", link->endpoint,
                 tm_status_name(code), bytes, text);
    close_socket(link, 0);
    link->state = TM_LINK_REFUSED;
    if (was_ready) {
        link->handler->lost(link->handler->user, link->index);
    }
}

static void begin(tm_link_t *link, uint64_t now_ms) {
    tm_error_t error;
    if (open_socket(link, &error) != TM_OK) {
        reset(link, now_ms, error.text);
        return;
    }
    link->state = TM_LINK_CONNECTING;
    link->registered_ms = UINT64_MAX;
    queue_register(link);
}

/* ---- messages from the broker ---- */

static void on_welcome(tm_link_t *link, const tm_message_t *m, uint64_t now_ms) {
    if (link->state != TM_LINK_CONNECTING) {
        tm_log(TM_LOG_WARN, "broker %s: a second WELCOME, ignored", link->endpoint);
        return;
    }
    link->heartbeat_ms = m->heartbeat_ms; /* both are there, and bounded: the decoder saw to it */
    link->silence_ms = m->heartbeat_ms * m->liveness;
    link->max_payload = m->max_payload;
    link->epoch = m->epoch;
    link->state = TM_LINK_READY;
    link->session++;
    link->told = false;
    link->backoff_ms = TM_RECONNECT_MIN_MS;
    link->next_heartbeat_ms = now_ms + link->heartbeat_ms;
    tm_log(TM_LOG_INFO, "broker %s: registered, heartbeat every %" PRIu64 " ms", link->endpoint,
           link->heartbeat_ms);
    link->handler->registered(link->handler->user, link->index);
}

static void on_error(tm_link_t *link, const tm_message_t *m, uint64_t now_ms) {
    tm_status_t code = (tm_status_t)m->code;
    if (m->id.origin != 0 || m->id.serial != 0) {
        tm_log(TM_LOG_DEBUG, "broker %s: about attempt %" PRIx64 "/%" PRIu64 ": %s: %.*s",
               link->endpoint, m->id.origin, m->id.serial, tm_status_name(code), (int)m->text.bytes,
               m->text.data);
        return;
    }
    bool registering = link->state == TM_LINK_CONNECTING;
    if (code == TM_E_VERSION ||
        (registering && (code == TM_E_MODEL_HASH || code == TM_E_MALFORMED))) {
        refuse(link, code, m->text.data, (int)m->text.bytes);
    } else if (registering || code == TM_E_UNKNOWN_PEER) {
        /* unknown_peer: the broker started anew; draining, busy: it may have room later */
        tm_error_t why;
        tm_error_set(&why, code, "it says %s: %.*s", tm_status_name(code), (int)m->text.bytes,
                     m->text.data);
        uint64_t least_ms = 0;
        if (code == TM_E_BUSY || code == TM_E_DRAINING) {
            least_ms = m->set & TM_FIELD(RETRY_AFTER_MS) ? m->retry_after_ms : TM_RECONNECT_MAX_MS;
        }
        reset(link, now_ms, why.text);
        if (link->retry_ms < now_ms + least_ms) {
            link->retry_ms = now_ms + least_ms;
        }
    } else {
        tm_log(TM_LOG_WARN, "broker %s complains: %s: %.*s", link->endpoint, tm_status_name(code),
               (int)m->text.bytes, m->text.data);
    }
}

static void on_message(tm_link_t *link, zmq_msg_t frame[TM_FRAMES_MAX], int n_frames,
                       uint64_t now_ms) {
    tm_message_t m;
    tm_error_t error;
    tm_frame_t frames[TM_FRAMES_MAX];
    for (int i = 0; i < n_frames && i < TM_FRAMES_MAX; i++) {
        frames[i] = (tm_frame_t){zmq_msg_data(&frame[i]), zmq_msg_size(&frame[i])};
    }
    tm_status_t status = tm_message_decode_frames(frames, (size_t)n_frames, &m, &error);
    if (status == TM_E_VERSION) {
        refuse(link, status, error.text, (int)strlen(error.text));
        return;
    }
    if (status != TM_OK) {
        tm_log(TM_LOG_WARN, "broker %s: message ignored: %s", link->endpoint, error.text);
        if (link->state == TM_LINK_READY && m.command == TM_CMD_DISPATCH) {
            link->handler->undecodable(link->handler->user, link->index, &m.id, &error);
        }
        return;
    }
    if (m.command == TM_CMD_WELCOME) {
        on_welcome(link, &m, now_ms);
        return;
    }
    if (m.command == TM_CMD_ERROR) {
        on_error(link, &m, now_ms);
        return;
    }
    if (link->state != TM_LINK_READY) {
        tm_log(TM_LOG_WARN, "broker %s: %s before WELCOME, ignored", link->endpoint,
               tm_command_name(m.command));
        return;
    }
    switch (m.command) {
    case TM_CMD_PING: {
        tm_message_t pong = {.command = TM_CMD_PONG};
        queue(link, &pong, NULL);
        return;
    }
    case TM_CMD_PONG:
        return;
    case TM_CMD_BYE:
        reset(link, now_ms, "it said BYE");
        return;
    case TM_CMD_DISPATCH:
        link->handler->dispatch(link->handler->user, link->index, &m, &frame[2]);
        return;
    case TM_CMD_REVOKE:
        link->handler->revoke(link->handler->user, link->index, &m.id);
        return;
    default:
        tm_log(TM_LOG_WARN, "broker %s: %s is not for workers, ignored", link->endpoint,
               tm_command_name(m.command));
    }
}

/* Reads one whole message; frames beyond the grammar's are read and dropped. False: nothing there. */
static bool receive_one(tm_link_t *link, zmq_msg_t frame[TM_FRAMES_MAX], int *n_frames) {
    *n_frames = 0;
    for (bool more = true; more;) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, link->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return false;
        }
        more = zmq_msg_more(&part) != 0;
        if (*n_frames < TM_FRAMES_MAX) {
            zmq_msg_init(&frame[*n_frames]);
            zmq_msg_move(&frame[*n_frames], &part);
        }
        zmq_msg_close(&part);
        (*n_frames)++;
    }
    return true;
}

void tm_link_receive(tm_link_t *link, uint64_t now_ms) {
    for (int i = 0; i < RECEIVE_BURST && link->socket != NULL; i++) {
        zmq_msg_t frame[TM_FRAMES_MAX];
        int n_frames;
        bool got = receive_one(link, frame, &n_frames);
        if (got) {
            link->heard_ms = now_ms; /* whatever it says, it lives */
            on_message(link, frame, n_frames, now_ms);
        }
        for (int f = 0; f < n_frames && f < TM_FRAMES_MAX; f++) {
            zmq_msg_close(&frame[f]);
        }
        if (!got) {
            return;
        }
    }
}

/* ---- timers ---- */

static void heartbeat(tm_link_t *link, uint64_t now_ms) {
    link->next_heartbeat_ms = now_ms + link->heartbeat_ms;
    if (link->out != NULL) {
        return; /* libzmq takes nothing now: a heap of heartbeats would help nobody */
    }
    tm_message_t m = {.command = TM_CMD_HEARTBEAT};
    TM_SET_UINT(&m, RUNNING, running, link->handler->running(link->handler->user, link->index));
    queue(link, &m, NULL);
}

void tm_link_tick(tm_link_t *link, uint64_t now_ms) {
    if (link->state == TM_LINK_WAITING && now_ms >= link->retry_ms) {
        begin(link, now_ms);
    }
    if (link->state == TM_LINK_READY && now_ms >= link->next_heartbeat_ms) {
        heartbeat(link, now_ms);
    }
    flush(link);
    if (link->broken) {
        reset(link, now_ms, "the connection broke");
        return;
    }
    if (link->state == TM_LINK_CONNECTING) {
        if (link->registered_ms == UINT64_MAX && link->out == NULL) {
            link->registered_ms = now_ms; /* libzmq has a connection and took REGISTER */
        } else if (link->registered_ms != UINT64_MAX &&
                   now_ms - link->registered_ms >= TM_HELLO_TIMEOUT_MS) {
            reset(link, now_ms, "no answer to REGISTER");
        }
    } else if (link->state == TM_LINK_READY && now_ms - link->heard_ms >= link->silence_ms) {
        char why[64];
        snprintf(why, sizeof why, "silent for %" PRIu64 " ms", now_ms - link->heard_ms);
        reset(link, now_ms, why);
    }
}

uint64_t tm_link_due_ms(const tm_link_t *link) {
    switch (link->state) {
    case TM_LINK_WAITING:
        return link->retry_ms;
    case TM_LINK_CONNECTING:
        return link->registered_ms == UINT64_MAX ? UINT64_MAX
                                                 : link->registered_ms + TM_HELLO_TIMEOUT_MS;
    case TM_LINK_READY: {
        uint64_t silent = link->heard_ms + link->silence_ms;
        return silent < link->next_heartbeat_ms ? silent : link->next_heartbeat_ms;
    }
    default:
        return UINT64_MAX;
    }
}

/* ---- life and small questions ---- */

tm_status_t tm_link_new(void *zmq_context, uint32_t index, const char *endpoint,
                        const tm_link_identity_t *identity, const tm_link_handler_t *handler,
                        tm_link_t **out, tm_error_t *err) {
    *out = NULL;
    tm_link_t *link = calloc(1, sizeof *link);
    if (link == NULL) {
        return tm_error_set(err, TM_E_NO_MEMORY, "no memory for a broker connection");
    }
    link->context = zmq_context;
    link->index = index;
    link->endpoint = endpoint;
    link->identity = identity;
    link->handler = handler;
    link->out_end = &link->out;
    link->backoff_ms = TM_RECONNECT_MIN_MS;
    /* jitter only: any number that differs between the workers of a pool, and is not 0 */
    link->random = (tm_clock_us() ^ ((uint64_t)getpid() << 32) ^ index) | 1u;
    tm_status_t status = open_socket(link, err);
    if (status != TM_OK) {
        free(link);
        return status;
    }
    link->state = TM_LINK_CONNECTING;
    link->registered_ms = UINT64_MAX;
    queue_register(link);
    *out = link;
    return TM_OK;
}

void tm_link_destroy(tm_link_t **p) {
    if (*p == NULL) {
        return;
    }
    close_socket(*p, 0);
    free(*p);
    *p = NULL;
}

tm_link_state_t tm_link_state(const tm_link_t *link) {
    return link->state;
}

const char *tm_link_endpoint(const tm_link_t *link) {
    return link->endpoint;
}

uint64_t tm_link_session(const tm_link_t *link) {
    return link->session;
}

uint64_t tm_link_epoch(const tm_link_t *link) {
    return link->epoch;
}

uint64_t tm_link_max_payload(const tm_link_t *link) {
    return link->max_payload;
}

const char *tm_link_refusal(const tm_link_t *link) {
    return link->refusal.text;
}

void *tm_link_socket(const tm_link_t *link) {
    return link->socket;
}

short tm_link_events(const tm_link_t *link) {
    return (short)(ZMQ_POLLIN | (link->out != NULL ? ZMQ_POLLOUT : 0));
}

void tm_link_send(tm_link_t *link, const tm_message_t *m, zmq_msg_t *payload) {
    if (link->state == TM_LINK_READY) {
        queue(link, m, payload);
    }
}

bool tm_link_flushed(const tm_link_t *link) {
    return link->out == NULL;
}

void tm_link_close(tm_link_t *link, int linger_ms) {
    close_socket(link, linger_ms);
    link->state = TM_LINK_CLOSED;
}
