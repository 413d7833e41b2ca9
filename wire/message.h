// SPDX-License-Identifier: Apache-2.0
/*
 * Messages: the fixed header (frame 0) and the msgpack map (frame 1) of every command.
 *
 * One table in message.c says which command may carry which field, and which it must carry;
 * wire/SPEC.md prints the same table. Decoding never allocates and never trusts a length: strings
 * and raw values of a decoded message point into the frames it was decoded from. A field that the
 * command does not know is skipped if it is well-formed msgpack (room for later versions); a known
 * field of the wrong type, out of range, or twice, makes the message malformed.
 *
 * Threads: pure functions.
 */
#ifndef TM_WIRE_MESSAGE_H
#define TM_WIRE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "wire/columns.h"
#include "wire/error.h"
#include "wire/limits.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Commands. C client, B broker, W worker. A payload (frame 2) goes with those marked *. */
typedef enum {
    TM_CMD_HELLO = 0x01,   /* C→B: first message of a connection */
    TM_CMD_WELCOME = 0x02, /* B→C, B→W: answer to HELLO and REGISTER */
    TM_CMD_PING = 0x03,    /* any: are you there */
    TM_CMD_PONG = 0x04,    /* any: I am */
    TM_CMD_BYE = 0x05,     /* any: I leave; no answer */
    TM_CMD_ERROR =
        0x06, /* B→C, B→W; with a request's id: its terminal answer; id 0: about the session */

    TM_CMD_REQUEST = 0x10, /* C→B *: find tracks */
    TM_CMD_ANSWER = 0x11,  /* B→C *: terminal: the tracks */
    TM_CMD_CANCEL =
        0x12, /* C→B: drop the request; answered by ERROR cancelled (or the ANSWER under way) */
    TM_CMD_STATUS = 0x13, /* C→B: how are you; allowed without HELLO */
    TM_CMD_REPORT = 0x14, /* B→C: answer to STATUS */

    TM_CMD_REGISTER = 0x20,  /* W→B: first message of a connection */
    TM_CMD_HEARTBEAT = 0x21, /* W→B: every heartbeat_ms, from a thread that never computes */
    TM_CMD_CREDIT = 0x22,    /* W→B: so many more DISPATCHes I can take now */
    TM_CMD_DISPATCH = 0x23,  /* B→W *: one attempt of one request; the id is the attempt's own */
    TM_CMD_STARTED = 0x24,   /* W→B: a slot begins to compute this attempt */
    TM_CMD_RESULT = 0x25,    /* W→B *: the attempt's tracks */
    TM_CMD_FAILED = 0x26,    /* W→B: the attempt failed; code says whether for good */
    TM_CMD_REVOKE = 0x27, /* B→W: this attempt is not wanted any more; best effort, no answer */
    TM_CMD_DRAIN = 0x28,  /* W→B: send me nothing more; what I hold I finish, then BYE */
} tm_command_t;

/* A request is named by the client instance that made it (64 random bits, not 0) and its serial
 * there (from 1). An attempt is named by the broker's epoch and a serial there. 0/0: no request. */
typedef struct {
    uint64_t origin;
    uint64_t serial;
} tm_id_t;

/* Borrowed bytes, not NUL-terminated. */
typedef struct {
    const char *data;
    uint32_t bytes;
} tm_slice_t;

/* Bits of tm_message_t.set, one per field. The order is that of the table in SPEC.md. */
#define TM_FIELDS(X) \
    X(SOFTWARE, software)             /* str: name/version of the peer's program */ \
    X(NAME, name)                     /* str: the peer's name for people (host:pid) */ \
    X(CODE, code)                     /* uint: tm_status_t */ \
    X(TEXT, text)                     /* str: one line for people */ \
    X(RETRY_AFTER_MS, retry_after_ms) /* uint */ \
    X(PROTOCOL, protocol)             /* uint: protocol version spoken by the sender */ \
    X(EPOCH, epoch)                   /* uint: random number of this run of the broker */ \
    X(HEARTBEAT_MS, heartbeat_ms)     /* uint */ \
    X(LIVENESS, liveness)             /* uint */ \
    X(WINDOW, window)                 /* uint: requests a client may have in flight */ \
    X(MAX_PAYLOAD, max_payload)       /* uint: bytes */ \
    X(MODEL, model)           /* str: "name" or "name@version"; empty: any single one there is */ \
    X(HASH, hash)             /* bin, 32 bytes: SHA-256 of the model file */ \
    X(TTL_MS, ttl_ms)         /* uint: time left, counted from arrival */ \
    X(PRIORITY, priority)     /* uint: 0, 1, 2 */ \
    X(ATTEMPT, attempt)       /* uint: from 1 */ \
    X(COLUMNS, columns)       /* raw array: the payload's columns, tm_payload_* */ \
    X(TIMES, times)           /* raw array: stage timings, tm_times_* */ \
    X(QUEUE_US, queue_us)     /* uint: time queued in the broker */ \
    X(SERVICE_US, service_us) /* uint: from dispatch to result, seen by the broker */ \
    X(WORKER, worker)         /* str: name of the worker that answered */ \
    X(DEVICE, device)         /* str: "cpu", "cuda:0 NVIDIA H200" */ \
    X(BACKEND, backend)       /* str: "gnn", "mock" */ \
    X(SLOTS, slots)           /* uint: attempts a worker runs at once */ \
    X(MODELS, models)         /* raw array: models served, tm_models_* */ \
    X(CREDIT, credit)         /* uint */ \
    X(RUNNING, running)       /* uint: attempts running */ \
    X(QUEUED, queued)         /* uint: requests queued */ \
    X(WORKERS, workers)       /* uint */ \
    X(CLIENTS, clients)       /* uint */ \
    X(ANSWERED, answered)     /* uint: requests answered since start */ \
    X(UPTIME_MS, uptime_ms)   /* uint */

enum {
#define X(upper, lower) TM_FIELD_INDEX_##upper,
    TM_FIELDS(X)
#undef X
        TM_FIELD_COUNT
};
#define TM_FIELD(upper) (1ull << TM_FIELD_INDEX_##upper)

typedef struct {
    tm_command_t command;
    tm_id_t id;
    uint64_t set; /* TM_FIELD(…) of the fields that are there */

    tm_slice_t software, name, text, model, hash, worker, device, backend;
    tm_slice_t columns, times, models; /* raw msgpack values */
    uint64_t code, retry_after_ms, protocol, epoch, heartbeat_ms, liveness, window, max_payload;
    uint64_t ttl_ms, priority, attempt, queue_us, service_us, slots, credit, running, queued;
    uint64_t workers, clients, answered, uptime_ms;
} tm_message_t;

/* Whether a frame 2 goes with the command. */
bool tm_command_has_payload(tm_command_t command);
/* "REQUEST"; NULL for a number that is no command. */
const char *tm_command_name(tm_command_t command);

/* ---- decoding ---- */

/* Decodes frames 0 and 1. On TM_E_VERSION the header was sound but of another protocol version
 * (*m has command and id, so that the sender can be told). On TM_E_MALFORMED *m has command and id
 * if the header at least was sound (so that a request can be ended), else both are 0. */
tm_status_t tm_message_decode(const void *header, size_t header_bytes, const void *map,
                              size_t map_bytes, tm_message_t *m, tm_error_t *err);

typedef struct {
    const void *data;
    size_t bytes;
} tm_frame_t;

/* The same for all frames of a message as they came off the socket (without any routing id): checks
 * also that there are 2 of them, or 3 if the command has a payload. TM_E_TOO_LARGE: the payload
 * exceeds TM_PAYLOAD_MAX_BYTES; *m is complete then. */
tm_status_t tm_message_decode_frames(const tm_frame_t *frames, size_t count, tm_message_t *m,
                                     tm_error_t *err);

/* Copies a field into a C string; one that does not fit is cut. bytes: room, > 0. */
void tm_slice_copy(char *out, size_t bytes, tm_slice_t slice);

/* ---- encoding ---- */

/* Sets a field from C values; the string is borrowed until the message is encoded. */
#define TM_SET_UINT(m, upper, lower, value) \
    ((m)->lower = (uint64_t)(value), (m)->set |= TM_FIELD(upper))
tm_slice_t tm_slice(const char *string); /* of a NUL-terminated string; NULL gives an empty slice */
#define TM_SET_SLICE(m, upper, lower, value) ((m)->lower = (value), (m)->set |= TM_FIELD(upper))

/* Writes frames 0 and 1. `map` has room for TM_MAP_MAX_BYTES. Strings longer than their limit, not
 * UTF-8 or with control characters are mended (text) or refused (all others): TM_E_ARGUMENT, as is a
 * field that the command does not have, a value out of range or a required field that is not set —
 * our own bug, not the peer's. What this writes, tm_message_decode takes. */
tm_status_t tm_message_encode(const tm_message_t *m, uint8_t header[TM_HEADER_BYTES],
                              uint8_t map[TM_MAP_MAX_BYTES], size_t *map_bytes, tm_error_t *err);

/* ---- values inside raw fields ---- */

/* "columns" + payload. tm_payload_bytes says how large frame 2 becomes; tm_payload_encode writes it
 * (out: that many bytes) and the descriptor (columns_field: room for TM_COLUMNS_FIELD_MAX, the slice
 * *field points into it). tm_payload_decode checks every length and leaves columns that borrow from
 * `payload`, which must be aligned to TM_PAYLOAD_ALIGN bytes, else TM_E_ARGUMENT: a malloc'd buffer
 * is, but libzmq hands out frames of up to 8 KiB at odd addresses inside its receive buffer, so send
 * received payloads through tm_payload_aligned first. */
size_t tm_payload_bytes(const tm_columns_t *columns);
tm_status_t tm_payload_encode(const tm_columns_t *columns, void *out, uint8_t *columns_field,
                              tm_slice_t *field, tm_error_t *err);
tm_status_t tm_payload_decode(tm_slice_t field, const void *payload, size_t payload_bytes,
                              tm_columns_t *columns, tm_error_t *err);

/* `payload` itself if it is aligned (*copy = NULL), else a copy that the caller frees after the last
 * use of the columns (*copy = the return value). NULL and TM_E_NO_MEMORY in *err: no memory. */
const void *tm_payload_aligned(const void *payload, size_t payload_bytes, void **copy,
                               tm_error_t *err);

/* "times": stage names and microseconds. out: room for TM_TIMES_FIELD_MAX. */
tm_status_t tm_times_encode(const tm_timings_t *timings, uint8_t *out, tm_slice_t *field,
                            tm_error_t *err);
tm_status_t tm_times_decode(tm_slice_t field, tm_timings_t *timings, tm_error_t *err);

/* "models": what a worker serves. Name and version: 1 to TM_NAME_MAX of [A-Za-z0-9._-]. */
typedef struct {
    char name[TM_NAME_MAX + 1];
    char version[TM_NAME_MAX + 1];
    uint8_t hash[TM_HASH_BYTES];
} tm_model_id_t;

/* out: room for TM_MODELS_FIELD_MAX. */
tm_status_t tm_models_encode(const tm_model_id_t *models, uint32_t count, uint8_t *out,
                             tm_slice_t *field, tm_error_t *err);
/* models: room for TM_MODELS_MAX. */
tm_status_t tm_models_decode(tm_slice_t field, tm_model_id_t *models, uint32_t *count,
                             tm_error_t *err);

#ifdef __cplusplus
}
#endif
#endif
