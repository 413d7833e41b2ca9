// SPDX-License-Identifier: Apache-2.0
/*
 * What the parts of the client share. client.c is the callers' side (any thread, under the lock),
 * client_thread.c the client's own thread (queues, deadlines, loop), client_session.c its
 * conversation with one broker.
 */
#ifndef TM_CLIENT_INTERNAL_H
#define TM_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "client/client_brokers.h"
#include "client/client_link.h"
#include "client/client_request.h"
#include "client/trackmill.h"

/* How long BYE may wait for its turn on the connection. */
#define TM_CLIENT_LINGER_MS 200
/* How long past a request's deadline the broker's own verdict is waited for: it knows more. */
#define TM_CLIENT_GRACE_MS 100
/* Silence that is borne while a large event is still leaving: no PONG can overtake it. */
#define TM_CLIENT_STALL_MAX_MS 60000

typedef enum {
    TM_SESSION_NONE,    /* no connection, none wanted */
    TM_SESSION_DELAY,   /* connects at timer_us */
    TM_SESSION_HELLO,   /* HELLO said, waits for WELCOME until timer_us */
    TM_SESSION_UP,      /* takes requests */
    TM_SESSION_LEAVING, /* the broker drains: waits for what it holds, sends it nothing new */
} tm_session_state_t;

typedef struct tm_session {
    tm_session_state_t state;
    tm_link_t link;
    const char *endpoint; /* borrowed from the list of brokers */
    bool accepted;        /* the connection stands, or stood */
    bool lost;            /* it does not any more */
    uint64_t timer_us;
    uint64_t heard_us, spoke_us, pinged_us;
    uint64_t loaned_us;              /* when libzmq last held payloads of ours */
    uint32_t heartbeat_ms, liveness; /* from WELCOME, as the next two */
    uint32_t window;                 /* requests in flight */
    uint64_t max_payload;            /* bytes */
    uint32_t allowed; /* 1 … window: shrinks with BUSY, grows with answers; 0: drains */
    uint32_t busy_in_a_row, unknowns; /* BUSY and unknown_peer since the last answer */
    uint64_t pause_us;                /* nothing is sent before: the broker said BUSY */
    tm_request_list_t sent;
    uint32_t n_sent;
} tm_session_t;

struct tm_client {
    /* fixed from the start */
    uint64_t origin;
    char name[TM_NAME_MAX + 1];
    uint32_t hello_ms;
    uint64_t max_bytes;
    void *context;
    pthread_t thread;
    int wake_fd, done_fd; /* eventfds: to the client's thread, to the caller's poll() */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t changed; /* an answer came or was taken, or the client stops */
    tm_request_table_t table;
    uint64_t next_serial, held_bytes;
    tm_request_list_t inbox, cancels; /* to the client's thread */
    tm_request_list_t done;           /* answered, not taken */
    uint32_t waiters;                 /* callers inside poll or wait */
    bool stop, woken;

    /* of the client's thread */
    tm_brokers_t *brokers;
    tm_request_list_t pending[TM_PRIORITIES]; /* not at any broker, oldest first */
    tm_session_t sessions[2];
    unsigned active;           /* the one that takes requests; the other one is NONE or LEAVING */
    uint64_t next_deadline_us; /* no request's deadline is earlier */
    uint64_t random;
    atomic_uint loans; /* payloads that libzmq holds */
};

/* ---- client.c ---- */

/* The HELLO of this client; borrows its name. */
tm_message_t tm_client_hello(const tm_client_t *client);

/* ---- client_thread.c ---- */

void *tm_client_thread(void *client);

/* The request at an end: its answer, filled but for status TM_OK's total_us, goes to the caller. */
void tm_client_complete(tm_client_t *client, tm_request_t *request);
void tm_client_fail(tm_client_t *client, tm_request_t *request, tm_status_t code,
                    const char *format, ...) __attribute__((format(printf, 4, 5)));
/* The unanswered request of that serial, or NULL. */
tm_request_t *tm_client_find(tm_client_t *client, uint64_t serial);
/* Back to its queue, to its old place there. */
void tm_client_requeue(tm_client_t *client, tm_request_t *request);

/* ---- client_session.c ---- */

/* Begins to look for a broker, the current one of the list, at that time. */
void tm_session_start(tm_client_t *client, tm_session_t *session, uint64_t at_us);
/* Timers: connects, gives up, pings. */
void tm_session_step(tm_client_t *client, tm_session_t *session, uint64_t now_us);
/* When step has something to do again. */
uint64_t tm_session_next_us(const tm_client_t *client, const tm_session_t *session,
                            uint64_t now_us);
/* Takes in what has arrived. */
void tm_session_receive(tm_client_t *client, tm_session_t *session, uint64_t now_us);
/* Whether a request may be sent now. */
bool tm_session_ready(const tm_session_t *session, uint64_t now_us);
/* Sends a pending request, or ends it when it cannot be sent. */
void tm_session_send(tm_client_t *client, tm_session_t *session, tm_request_t *request,
                     uint64_t now_us);
/* Tells the broker that the request is not wanted any more. */
void tm_session_cancel(tm_client_t *client, tm_session_t *session, const tm_request_t *request);
/* Says BYE, closes, requeues what was sent. */
void tm_session_end(tm_client_t *client, tm_session_t *session);

#endif
