// SPDX-License-Identifier: Apache-2.0
/*
 * Every limit and timing constant of the protocol, under the names that wire/SPEC.md uses.
 * Settings of a program (queue lengths, ports) have their defaults here too, so that one page
 * shows what a peer can make us hold.
 */
#ifndef TM_WIRE_LIMITS_H
#define TM_WIRE_LIMITS_H

#include <stdint.h>

#define TM_PROTOCOL_VERSION 1

/* ---- frames ---- */
#define TM_HEADER_BYTES 24    /* frame 0 */
#define TM_MAP_MAX_BYTES 4096 /* frame 1 */
#define TM_MAP_MAX_DEPTH 4    /* nesting of msgpack containers, the map itself included */
#define TM_PAYLOAD_MAX_BYTES (256u << 20) /* frame 2; ZMQ_MAXMSGSIZE of every socket */
#define TM_PAYLOAD_ALIGN 8                /* arrays in frame 2 start at multiples of this */
#define TM_FRAMES_MAX 3

/* ---- strings in maps (bytes) ---- */
#define TM_NAME_MAX 63     /* model names, worker names, versions */
#define TM_SOFTWARE_MAX 63 /* "trackmill/0.1.0" */
#define TM_CODE_MAX 99     /* greatest error code on the wire */
#define TM_HASH_BYTES 32   /* SHA-256 of a model file */
#define TM_TEXT_MAX 480    /* error text */
#define TM_COLUMN_NAME_MAX 31
#define TM_STAGE_NAME_MAX 15
#define TM_MODEL_REF_MAX (2 * TM_NAME_MAX + 1) /* "name@version" */

/* ---- raw values in maps (bytes): so that any of them fits beside the other fields ---- */
#define TM_COLUMNS_FIELD_MAX 2048
#define TM_TIMES_FIELD_MAX 1024
#define TM_MODELS_FIELD_MAX 3072

/* ---- counts ---- */
#define TM_COLUMNS_MAX 32
#define TM_STAGES_MAX 16
#define TM_MODELS_MAX 16       /* models of one worker */
#define TM_SLOTS_MAX 64        /* slots of one worker */
#define TM_CREDIT_MAX 256      /* of one CREDIT message */
#define TM_WINDOW_MAX 65536    /* of a WELCOME */
#define TM_COUNT_MAX INT64_MAX /* counters and times: fit any language's integers */
#define TM_POINTS_MAX 4000000u /* space points of one event */
#define TM_POSITION_MAX_MM 100000.0

/* ---- timing (ms) ---- */
#define TM_HEARTBEAT_MIN_MS 10 /* what a WELCOME may ask for */
#define TM_HEARTBEAT_MAX_MS 60000
#define TM_LIVENESS_MAX 100
#define TM_HEARTBEAT_MS 1000     /* a silent peer sends PING or HEARTBEAT this often */
#define TM_LIVENESS 5            /* missed heartbeats after which a peer is gone */
#define TM_HELLO_TIMEOUT_MS 3000 /* how long a client or worker waits for WELCOME */
#define TM_RECONNECT_MIN_MS 200
#define TM_RECONNECT_MAX_MS 5000
#define TM_TTL_DEFAULT_MS 60000
#define TM_TTL_MAX_MS 86400000u
#define TM_ATTEMPT_TIMEOUT_MS 120000 /* one attempt on one worker */
#define TM_DRAIN_TIMEOUT_MS 30000
#define TM_RETRY_AFTER_MS 500 /* least hint of a BUSY answer */

/* ---- scheduling ---- */
#define TM_ATTEMPTS_MAX 3 /* started attempts of one request */
#define TM_WORKER_FAILURES_MAX \
    5 /* consecutive failures after which a worker gets no work for a while */
#define TM_WORKER_PAUSE_MS 10000
#define TM_PRIORITIES 3 /* 0 is served first */
#define TM_PRIORITY_DEFAULT 1
#define TM_QUEUE_MAX_REQUESTS 4096 /* queued in one broker */
#define TM_QUEUE_MAX_BYTES (4ull << 30)
#define TM_CLIENT_WINDOW 256 /* requests in flight of one client */
#define TM_CLIENTS_MAX 4096
#define TM_WORKERS_MAX 1024

/* ---- default endpoints ---- */
#define TM_DEFAULT_CLIENT_ENDPOINT "tcp://127.0.0.1:5570"
#define TM_DEFAULT_WORKER_ENDPOINT "tcp://127.0.0.1:5571"
#define TM_DEFAULT_HTTP_ADDRESS "127.0.0.1:5572"

#endif
