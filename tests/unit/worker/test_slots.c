// SPDX-License-Identifier: Apache-2.0
/* The slots with a back end that this test holds by the hand: it waits at a gate until let go. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>

#include "worker/clock.h"
#include "worker/slots.h"

#define PATIENCE_MS 20000u
#define RECORDS_MAX 128
#define SMALL_ROWS 4 /* what the back end runs together */
#define ALL_ROWS 70

/* ---- the back end ---- */

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t moved;
    uint32_t passes; /* runs that may return; a batch is one */
    uint32_t runs;
    uint32_t size[RECORDS_MAX]; /* events in each run, in the order in which they began */
    float bad;                  /* an event of this number fails in a batch */
    uint32_t opened, closed;
    bool fail_open;
    tm_status_t outcome;
} gate_t;

static tm_status_t gate_open(void *state, void **slot, tm_error_t *err) {
    gate_t *gate = state;
    pthread_mutex_lock(&gate->mutex);
    bool fail = gate->fail_open && gate->opened == 1;
    gate->opened++;
    pthread_mutex_unlock(&gate->mutex);
    *slot = gate;
    return fail ? tm_error_set(err, TM_E_NO_MEMORY, "gate does not open") : TM_OK;
}

/* Waits for a pass, or until it is cancelled. */
static tm_status_t go_through(gate_t *gate, uint32_t size, const volatile int *cancelled) {
    tm_status_t status;
    pthread_mutex_lock(&gate->mutex);
    gate->size[gate->runs++ % RECORDS_MAX] = size;
    while (gate->passes == 0 && __atomic_load_n(cancelled, __ATOMIC_RELAXED) == 0) {
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 2000000;
        if (soon.tv_nsec >= 1000000000) {
            soon.tv_sec++;
            soon.tv_nsec -= 1000000000;
        }
        pthread_cond_timedwait(&gate->moved, &gate->mutex, &soon);
    }
    if (gate->passes > 0) {
        gate->passes--;
        status = gate->outcome;
    } else {
        status = TM_E_CANCELLED;
    }
    pthread_mutex_unlock(&gate->mutex);
    return status;
}

static tm_status_t gate_run(void *slot, uint32_t model, const tm_columns_t *in,
                            const volatile int *cancelled, tm_backend_result_t *out,
                            tm_error_t *err) {
    (void)model;
    tm_status_t status = go_through(slot, 1, cancelled);
    if (status != TM_OK) {
        return tm_error_set(err, status, "as told");
    }
    out->columns = *in; /* echo */
    return TM_OK;
}

static void gate_run_batch(void *slot, uint32_t model, tm_backend_item_t *items, uint32_t n) {
    (void)model;
    gate_t *gate = slot;
    static const volatile int never = 0;
    go_through(gate, n, &never);
    for (uint32_t i = 0; i < n; i++) {
        tm_backend_item_t *item = &items[i];
        if (*(const float *)item->in->column[0].data == gate->bad) {
            item->status = tm_error_set(&item->err, TM_E_BAD_EVENT, "as told");
        } else {
            item->status = TM_OK;
            item->out.columns = *item->in;
            tm_timings_add(&item->out.timings, "gate", i + 1);
        }
    }
}

static void gate_close(void **slot) {
    gate_t *gate = *slot;
    pthread_mutex_lock(&gate->mutex);
    gate->closed++;
    pthread_mutex_unlock(&gate->mutex);
    *slot = NULL;
}

static const tm_backend_t gate_backend = {
    .name = "gate",
    .open = gate_open,
    .run = gate_run,
    .run_batch = gate_run_batch,
    .batch_rows = SMALL_ROWS,
    .batch_rows_all = ALL_ROWS,
    .close = gate_close,
};

/* ---- what the slots report ---- */

typedef struct {
    uint64_t started[RECORDS_MAX];
    struct {
        uint64_t serial;
        tm_status_t code;
        bool started, revoked;
        float echo;
        uint32_t n_times;
        tm_error_t error;
    } ended[RECORDS_MAX];
    int n_started, n_ended;
} record_t;

static void on_starting(void *user, const tm_attempt_t *attempt) {
    record_t *record = user;
    record->started[record->n_started++] = attempt->id.serial;
}

static void on_ended(void *user, tm_attempt_t *attempt) {
    record_t *record = user;
    int i = record->n_ended++;
    record->ended[i].serial = attempt->id.serial;
    record->ended[i].code = attempt->error.code;
    record->ended[i].started = attempt->started;
    record->ended[i].revoked = attempt->revoked;
    if (attempt->error.code == TM_OK) {
        tm_timings_t times;
        tm_error_t err;
        memcpy(&record->ended[i].echo, zmq_msg_data(&attempt->answer), sizeof(float));
        assert_int_equal(tm_times_decode(attempt->times, &times, &err), TM_OK);
        record->ended[i].n_times = times.count;
    } else {
        record->ended[i].error = attempt->error;
    }
    tm_attempt_destroy(&attempt);
}

/* ---- one test's ---- */

static gate_t gate;
static record_t record;
static tm_slots_t *slots;

static int prepare(void **unused) {
    (void)unused;
    memset(&gate, 0, sizeof gate);
    memset(&record, 0, sizeof record);
    pthread_mutex_init(&gate.mutex, NULL);
    pthread_cond_init(&gate.moved, NULL);
    return 0;
}

static void let_go(uint32_t n) {
    pthread_mutex_lock(&gate.mutex);
    gate.passes += n;
    pthread_cond_broadcast(&gate.moved);
    pthread_mutex_unlock(&gate.mutex);
}

/* Also where a test failed halfway, with work in the slots. */
static int clean_up(void **unused) {
    (void)unused;
    let_go(RECORDS_MAX);
    tm_slots_destroy(&slots);
    pthread_cond_destroy(&gate.moved);
    pthread_mutex_destroy(&gate.mutex);
    return 0;
}

static void pump_until(int n_ended) {
    const tm_slots_handler_t handler = {&record, on_starting, on_ended};
    uint64_t limit_ms = tm_clock_ms() + PATIENCE_MS;
    tm_slots_pump(slots, tm_clock_ms(), &handler);
    while (record.n_ended < n_ended) {
        assert_true(tm_clock_ms() < limit_ms);
        struct pollfd fd = {.fd = tm_slots_fd(slots), .events = POLLIN};
        poll(&fd, 1, 1000);
        tm_slots_pump(slots, tm_clock_ms(), &handler);
    }
}

/* An attempt whose event is so many numbers, the first of them its serial. */
static tm_attempt_t *make_attempt_of(uint64_t rows, uint32_t link, uint64_t serial) {
    float x[2 * SMALL_ROWS] = {(float)serial};
    tm_columns_t event = {0};
    tm_error_t err;
    tm_slice_t field;
    uint8_t bytes[TM_COLUMNS_FIELD_MAX];
    zmq_msg_t payload;
    tm_attempt_t *attempt;
    assert_int_equal(tm_columns_add(&event, "x", TM_F32, rows, x, &err), TM_OK);
    assert_int_equal(zmq_msg_init_size(&payload, tm_payload_bytes(&event)), 0);
    assert_int_equal(tm_payload_encode(&event, zmq_msg_data(&payload), bytes, &field, &err), TM_OK);
    assert_int_equal(tm_attempt_new(field, &payload, &attempt, &err), TM_OK);
    zmq_msg_close(&payload);
    attempt->id = (tm_id_t){7, serial};
    attempt->link = link;
    return attempt;
}

static tm_attempt_t *make_attempt(uint32_t link, uint64_t serial) {
    return make_attempt_of(1, link, serial);
}

static void start(uint32_t n, uint32_t batch) {
    tm_error_t err;
    assert_int_equal(tm_slots_new(&gate_backend, &gate, n, batch, &slots, &err), TM_OK);
    tm_attempt_t *least = make_attempt(0, 0);
    assert_int_equal(tm_slots_together(slots, least), batch);
    tm_attempt_destroy(&least);
}

static void submit(uint32_t link, uint64_t serial) {
    tm_slots_submit(slots, make_attempt(link, serial));
}

/* An attempt whose payload is too short for what its field says. */
static tm_attempt_t *make_cut_attempt(uint32_t link, uint64_t serial) {
    tm_attempt_t *cut = make_attempt(link, serial);
    zmq_msg_close(&cut->payload);
    zmq_msg_init_size(&cut->payload, 3);
    return cut;
}

/* ---- one at a time ---- */

static void test_order(void **unused) {
    (void)unused;
    start(2, 1);
    for (uint64_t i = 1; i <= 5; i++) {
        submit(0, i);
    }
    assert_int_equal(tm_slots_waiting(slots, 0), 5);
    pump_until(0);
    assert_int_equal(record.n_started, 2); /* never more than slots */
    assert_int_equal(tm_slots_running(slots, 0), 2);
    assert_int_equal(tm_slots_waiting(slots, 0), 3);
    assert_int_equal(tm_slots_running(slots, 1), 0);
    uint64_t since_ms;
    assert_int_equal(tm_slots_oldest(slots, &since_ms)->id.serial, 1);
    let_go(5);
    pump_until(5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(record.started[i], i + 1);
        assert_int_equal(record.ended[i].code, TM_OK);
        assert_true(record.ended[i].echo == (float)record.ended[i].serial);
    }
    assert_null(tm_slots_oldest(slots, &since_ms));
    tm_slots_destroy(&slots);
    assert_null(slots);
    assert_int_equal(gate.closed, 2);
}

static void test_take_and_cancel(void **unused) {
    (void)unused;
    start(1, 1);
    submit(0, 1);
    pump_until(0);
    submit(1, 2);
    submit(0, 3);
    submit(1, 4);

    assert_null(tm_slots_take(slots, 0, &(tm_id_t){7, 2})); /* that one is link 1's */
    tm_attempt_t *attempt = tm_slots_take(slots, 1, &(tm_id_t){7, 4});
    assert_int_equal(attempt->id.serial, 4);
    tm_attempt_destroy(&attempt);
    submit(0, 5); /* the end of the queue is still sound */

    assert_int_equal(tm_slots_cancel(slots, 1, NULL), 0);
    assert_int_equal(tm_slots_cancel_old(slots, 0, 7), 0);
    assert_int_equal(tm_slots_cancel_old(slots, 0, 8), 1);
    pump_until(1);
    assert_int_equal(record.ended[0].code, TM_E_CANCELLED);
    assert_true(record.ended[0].revoked);
    let_go(3);
    pump_until(4);
    assert_int_equal(record.ended[1].serial, 2);
    assert_int_equal(record.ended[2].serial, 3);
    assert_int_equal(record.ended[3].serial, 5);
}

static void test_deadline(void **unused) {
    (void)unused;
    start(1, 1);
    tm_attempt_t *late = make_attempt(0, 1);
    late->deadline_ms = tm_clock_ms();
    tm_slots_submit(slots, late);
    submit(0, 2);
    let_go(1);
    pump_until(2);
    assert_int_equal(record.ended[0].serial, 1);
    assert_int_equal(record.ended[0].code, TM_E_DEADLINE);
    assert_false(record.ended[0].started);
    assert_int_equal(record.ended[1].code, TM_OK);
    assert_int_equal(record.n_started, 1);
}

/* Bad payloads and odd codes end the attempt, not the slot. */
static void test_errors(void **unused) {
    (void)unused;
    start(1, 1);
    tm_attempt_t *cut = make_cut_attempt(0, 1);
    tm_slots_submit(slots, cut);
    gate.outcome = TM_E_FILE; /* must not leave the process */
    submit(0, 2);
    let_go(1);
    pump_until(2);
    assert_int_equal(record.ended[0].code, TM_E_MALFORMED);
    assert_true(record.ended[0].started);
    assert_int_equal(record.ended[1].code, TM_E_BACKEND);
}

/* libzmq gives small frames at any address. */
static void test_unaligned(void **unused) {
    (void)unused;
    start(1, 1);
    for (size_t shift = 1; shift < 8; shift++) {
        static _Alignas(8) uint8_t room[7][16 + 8];
        tm_attempt_t *attempt = make_attempt(0, shift);
        uint8_t *at = room[shift - 1] + shift;
        size_t bytes = zmq_msg_size(&attempt->payload);
        assert_true(bytes <= 16);
        memcpy(at, zmq_msg_data(&attempt->payload), bytes);
        zmq_msg_close(&attempt->payload);
        assert_int_equal(zmq_msg_init_data(&attempt->payload, at, bytes, NULL, NULL), 0);
        tm_slots_submit(slots, attempt);
    }
    let_go(7);
    pump_until(7);
    for (int i = 0; i < 7; i++) {
        assert_int_equal(record.ended[i].code, TM_OK);
        assert_true(record.ended[i].echo == (float)(i + 1));
    }
}

static void test_open_fails(void **unused) {
    (void)unused;
    gate.fail_open = true;
    tm_error_t err = {0};
    assert_int_equal(tm_slots_new(&gate_backend, &gate, 3, 1, &slots, &err), TM_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "gate does not open"));
    assert_null(slots);
    assert_int_equal(gate.opened, 3);
    assert_int_equal(gate.closed, 2);
    assert_int_equal(tm_slots_new(&gate_backend, &gate, 0, 1, &slots, &err), TM_E_ARGUMENT);
    assert_int_equal(tm_slots_new(&gate_backend, &gate, TM_SLOTS_MAX + 1, 1, &slots, &err),
                     TM_E_ARGUMENT);
    assert_int_equal(tm_slots_new(&gate_backend, &gate, 1, 0, &slots, &err), TM_E_ARGUMENT);
    assert_int_equal(tm_slots_new(&gate_backend, &gate, 1, TM_BACKEND_BATCH_MAX + 1, &slots, &err),
                     TM_E_ARGUMENT);
    tm_backend_t lone = gate_backend;
    lone.run_batch = NULL;
    assert_int_equal(tm_slots_new(&lone, &gate, 1, 2, &slots, &err), TM_E_ARGUMENT);
    assert_non_null(strstr(err.text, "gate takes 1 to 1"));
}

/* Leaving with work in every place: nothing leaks (run under a sanitizer), nothing hangs. */
static void test_destroy_busy(void **unused) {
    (void)unused;
    start(2, 1);
    for (uint64_t i = 1; i <= 4; i++) {
        submit(0, i);
    }
    pump_until(0);
    tm_slots_destroy(&slots);
    assert_int_equal(record.n_ended, 0);
}

/* ---- batches ---- */

/* One slot, kept busy by attempt 100, so that what is submitted next waits for it. */
static void start_busy(uint32_t batch) {
    start(1, batch);
    submit(0, 100);
    pump_until(0);
    assert_int_equal(record.n_started, 1); /* alone, at once: nobody waits for a batch to fill */
}

static void assert_sizes(const uint32_t *size, uint32_t n) {
    assert_int_equal(gate.runs, n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(gate.size[i], size[i]);
    }
}

static void test_batch_order(void **unused) {
    (void)unused;
    start_busy(4);
    for (uint64_t i = 1; i <= 6; i++) {
        submit(i % 2 == 0 ? 1 : 0, i);
    }
    let_go(3);
    pump_until(7);
    assert_sizes((uint32_t[]){1, 4, 2}, 3);
    for (int i = 0; i < 7; i++) {
        uint64_t serial = i == 0 ? 100 : (uint64_t)i;
        assert_int_equal(record.started[i], serial);
        assert_int_equal(record.ended[i].serial, serial);
        assert_int_equal(record.ended[i].code, TM_OK);
        assert_true(record.ended[i].echo == (float)serial);
        assert_int_equal(record.ended[i].n_times, i == 0 ? 0 : 1);
    }
    assert_int_equal(tm_slots_running(slots, TM_ANY_LINK), 0);
}

/* Large events, those of other models and those that failed before have a run for themselves. */
static void test_batch_choice(void **unused) {
    (void)unused;
    start_busy(8);
    tm_attempt_t *large = make_attempt_of(SMALL_ROWS + 1, 0, 2);
    tm_attempt_t *other = make_attempt(0, 3);
    tm_attempt_t *again = make_attempt(0, 4);
    other->model = 1;
    again->alone = true;
    assert_int_equal(tm_slots_together(slots, large), 1);
    assert_int_equal(tm_slots_together(slots, other), 8);
    tm_slots_submit(slots, make_attempt_of(SMALL_ROWS, 0, 1));
    tm_slots_submit(slots, large);
    tm_slots_submit(slots, other);
    tm_slots_submit(slots, again);
    submit(0, 5);
    let_go(5);
    pump_until(6);
    assert_sizes((uint32_t[]){1, 2, 1, 1, 1}, 5);
    const uint64_t order[] = {100, 1, 5, 2, 3, 4};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(record.started[i], order[i]);
        assert_int_equal(record.ended[i].code, TM_OK);
    }
}

/* Not more rows than the back end takes; a smaller event behind may still fit. */
static void test_batch_rows(void **unused) {
    (void)unused;
    start_busy(TM_BACKEND_BATCH_MAX);
    tm_attempt_t *four = make_attempt_of(SMALL_ROWS, 0, 1);
    assert_int_equal(tm_slots_together(slots, four), ALL_ROWS / SMALL_ROWS);
    tm_slots_submit(slots, four);
    for (uint64_t i = 2; i <= ALL_ROWS / SMALL_ROWS + 1; i++) {
        tm_slots_submit(slots, make_attempt_of(SMALL_ROWS, 0, i));
    }
    submit(0, 99); /* fits into what is left */
    let_go(3);
    pump_until(1 + ALL_ROWS / SMALL_ROWS + 2);
    assert_sizes((uint32_t[]){1, ALL_ROWS / SMALL_ROWS + 1, 1}, 3);
}

/* What waits is for all free slots, not for the first of them. */
static void test_batch_shares(void **unused) {
    (void)unused;
    start(3, 8);
    for (uint64_t i = 1; i <= 7; i++) {
        submit(0, i);
    }
    let_go(3);
    pump_until(7);
    assert_int_equal(gate.runs, 3);
    for (int i = 0; i < 3; i++) {
        assert_in_range(gate.size[i], 2, 3);
    }
}

/* Each attempt of a batch has an outcome of its own. */
static void test_batch_outcomes(void **unused) {
    (void)unused;
    start_busy(8);
    gate.bad = 2.0f;
    tm_attempt_t *cut = make_cut_attempt(0, 3);
    tm_attempt_t *late = make_attempt(0, 4);
    late->deadline_ms = tm_clock_ms();
    submit(0, 1);
    submit(0, 2);
    tm_slots_submit(slots, cut);
    tm_slots_submit(slots, late);
    submit(0, 5);
    let_go(2);
    pump_until(6);
    assert_sizes((uint32_t[]){1, 3}, 2); /* 1, 2 and 5 */
    const struct {
        uint64_t serial;
        tm_status_t code;
    } ended[] = {{100, TM_OK},        {4, TM_E_DEADLINE},  {1, TM_OK},
                 {2, TM_E_BAD_EVENT}, {3, TM_E_MALFORMED}, {5, TM_OK}};
    int seen = 0;
    for (int i = 0; i < 6; i++) {
        for (int k = 0; k < 6; k++) {
            if (record.ended[i].serial == ended[k].serial) {
                assert_int_equal(record.ended[i].code, ended[k].code);
                assert_int_equal(record.ended[i].started, ended[k].code != TM_E_DEADLINE);
                seen++;
            }
        }
        if (record.ended[i].serial == 2) {
            assert_string_equal(record.ended[i].error.text, "as told");
        }
    }
    assert_int_equal(seen, 6);
}

static void test_batch_cancel(void **unused) {
    (void)unused;
    start_busy(8);
    for (uint64_t i = 1; i <= 3; i++) {
        submit(1, i);
    }
    tm_attempt_t *dropped = make_attempt(1, 4);
    tm_attempt_cancel(dropped); /* as if the word came between its start and its thread */
    tm_slots_submit(slots, dropped);
    let_go(1);
    pump_until(1);
    assert_int_equal(tm_slots_running(slots, 1), 4);
    assert_int_equal(tm_slots_running(slots, 0), 0);
    assert_int_equal(tm_slots_cancel(slots, 1, &(tm_id_t){7, 2}), 1);
    assert_int_equal(tm_slots_cancel(slots, 0, &(tm_id_t){7, 3}), 0);
    let_go(1);
    pump_until(5);
    assert_int_equal(gate.runs, 2);
    assert_in_range(gate.size[1], 2, 3); /* without 4, and 2 if its thread was late */
    for (int i = 1; i < 5; i++) {
        uint64_t serial = record.ended[i].serial;
        assert_int_equal(record.ended[i].revoked, serial == 2);
        if (serial != 2) {
            assert_int_equal(record.ended[i].code, serial == 4 ? TM_E_CANCELLED : TM_OK);
        }
    }
    assert_int_equal(tm_slots_cancel_old(slots, 1, 8), 0);
}

/* Batches of the greatest size, twice over, and leaving while one runs. */
static void test_batch_full(void **unused) {
    (void)unused;
    start(1, TM_BACKEND_BATCH_MAX);
    for (uint64_t i = 1; i <= TM_BACKEND_BATCH_MAX; i++) {
        submit(0, i);
    }
    let_go(1);
    pump_until((int)TM_BACKEND_BATCH_MAX);
    assert_sizes((uint32_t[]){TM_BACKEND_BATCH_MAX}, 1);
    for (uint64_t i = 1; i <= 2; i++) {
        submit(0, i);
    }
    let_go(1); /* a batch that hangs would hold tm_slots_destroy for ever */
    record.n_started = 0;
    pump_until(0);
    submit(0, 3);
    tm_slots_destroy(&slots);
    assert_int_equal(gate.closed, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, clean_up)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_order),        TEST(test_take_and_cancel), TEST(test_deadline),
        TEST(test_errors),       TEST(test_unaligned),       TEST(test_open_fails),
        TEST(test_destroy_busy), TEST(test_batch_order),     TEST(test_batch_choice),
        TEST(test_batch_shares), TEST(test_batch_outcomes),  TEST(test_batch_cancel),
        TEST(test_batch_full),   TEST(test_batch_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
