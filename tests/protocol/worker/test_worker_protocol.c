// SPDX-License-Identifier: Apache-2.0
/* trackmill-worker, the real program with the mock back end, against a broker played by the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/chaos/proc.h"
#include "tests/protocol/worker/fake_broker.h"
#include "worker/backends/mock.h"

#define PATIENCE_MS 20000u
#define QUIET_MS 400u /* how long to listen before believing that nothing comes */

/* What every test starts from; static, so that a failed test can be cleaned up after. */
static tm_fake_broker_t broker, other;
static tm_proc_t worker;

static int setup(void **unused) {
    (void)unused;
    memset(&worker, 0, sizeof worker);
    memset(&other, 0, sizeof other);
    tm_fake_start(&broker, NULL);
    return 0;
}

static int teardown(void **unused) {
    (void)unused;
    tm_proc_clear(&worker, false);
    tm_procs_kill_all();
    tm_fake_stop(&broker);
    tm_fake_stop(&other);
    return 0;
}

static void start_worker(const char *settings, const char *option, const char *value) {
    const char *argv[] = {
        TM_WORKER_PROGRAM, "--broker", broker.endpoint, "--backend", "mock", "--model", settings,
        "--name",          "w1",       option,          value,       NULL};
    tm_proc_start(&worker, argv);
}

static void start_registered(const char *settings, const char *option, const char *value) {
    start_worker(settings, option, value);
    tm_fake_welcome(&broker);
}

static void expect(tm_command_t command, uint64_t serial, uint64_t code) {
    tm_fake_message_t message;
    tm_fake_expect(&broker, command, &message);
    assert_int_equal(message.m.id.origin, serial > 0 ? broker.epoch : 0);
    assert_int_equal(message.m.id.serial, serial);
    assert_int_equal(message.m.code, code);
    tm_fake_clear(&message);
}

static void expect_result(uint64_t serial, float value) {
    tm_fake_message_t message;
    tm_fake_expect(&broker, TM_CMD_RESULT, &message);
    assert_int_equal(message.m.id.origin, broker.epoch);
    assert_int_equal(message.m.id.serial, serial);
    tm_columns_t answer;
    tm_tracks_t tracks;
    tm_error_t error = {0};
    /* an aligned copy: the frame may lie anywhere */
    size_t bytes = zmq_msg_size(&message.frame[2]);
    void *payload = malloc(bytes);
    assert_non_null(payload);
    memcpy(payload, zmq_msg_data(&message.frame[2]), bytes);
    assert_int_equal(tm_payload_decode(message.m.columns, payload, bytes, &answer, &error), TM_OK);
    assert_int_equal(tm_tracks_from_columns(&answer, 1, &tracks, &error), TM_OK);
    assert_int_equal(tracks.n_tracks, 1);

    float zero = 0;
    tm_columns_t event = {0};
    tm_columns_add(&event, "x", TM_F32, 1, &value, &error);
    tm_columns_add(&event, "y", TM_F32, 1, &zero, &error);
    tm_columns_add(&event, "z", TM_F32, 1, &zero, &error);
    assert_true(tracks.scores[0] == tm_mock_score(tm_mock_checksum(&event)));
    tm_timings_t times;
    assert_int_equal(tm_times_decode(message.m.times, &times, &error), TM_OK);
    assert_int_equal(times.count, 1);
    tm_tracks_clear(&tracks);
    free(payload);
    tm_fake_clear(&message);
}

static void expect_quiet(uint64_t ms) {
    tm_fake_message_t message;
    if (tm_fake_receive(&broker, &message, ms)) {
        fail_msg("expected nothing, got %s", tm_command_name(message.m.command));
    }
}

static void expect_exit(int code) {
    if (!tm_proc_wait(&worker, PATIENCE_MS)) {
        fail_msg("the worker does not leave");
    }
    if (worker.code != code) {
        tm_proc_clear(&worker, true);
        fail_msg("expected exit code %d", code);
    }
}

static void send_id(tm_command_t command, uint64_t serial) {
    tm_fake_send(&broker, &(tm_message_t){.command = command, .id = {broker.epoch, serial}}, NULL,
                 0);
}

/* ---- registration ---- */

static void test_register(void **unused) {
    (void)unused;
    start_worker("name=alpha,version=2,hash=5", "--slots", "3");
    tm_fake_message_t message;
    tm_fake_expect(&broker, TM_CMD_REGISTER, &message);
    const tm_message_t *m = &message.m;
    char text[TM_SOFTWARE_MAX + 1];
    tm_slice_copy(text, sizeof text, m->software);
    assert_string_equal(text, "trackmill/" TM_VERSION);
    tm_slice_copy(text, sizeof text, m->name);
    assert_string_equal(text, "w1");
    tm_slice_copy(text, sizeof text, m->backend);
    assert_string_equal(text, "mock");
    assert_int_equal(m->slots, 3);
    assert_int_equal(m->max_payload, TM_PAYLOAD_MAX_BYTES);
    tm_model_id_t models[TM_MODELS_MAX];
    uint32_t n;
    tm_error_t error;
    assert_int_equal(tm_models_decode(m->models, models, &n, &error), TM_OK);
    assert_int_equal(n, 1);
    assert_string_equal(models[0].name, "alpha");
    assert_string_equal(models[0].version, "2");
    tm_fake_clear(&message);
    expect_quiet(QUIET_MS); /* no credit before WELCOME */
    assert_int_equal(tm_proc_count(&worker, "ready models=alpha@2 slots=3 device=mock\n"), 1);
    assert_int_equal(tm_proc_count(&worker, "registered"), 0);
}

static void test_welcome(void **unused) {
    (void)unused;
    start_registered("time_ms=0", "--slots", "3");
    assert_int_equal(tm_fake_expect_credit(&broker), 4);
    char line[256];
    snprintf(line, sizeof line, "registered broker=%s\n", broker.endpoint);
    assert_true(tm_proc_wait_for(&worker, line, 1, PATIENCE_MS));
    expect_quiet(QUIET_MS);
    assert_true(broker.heartbeats >= 1);
}

static void refuse_with(tm_status_t code, const char *text) {
    start_worker("time_ms=0", NULL, NULL);
    tm_fake_expect_register(&broker);
    tm_fake_error(&broker, code, text);
    expect_exit(1);
    char expected[256];
    snprintf(expected, sizeof expected,
             "trackmill-worker: broker %s refused this worker: ", broker.endpoint);
    assert_int_equal(tm_proc_count_err(&worker, expected), 1);
    assert_int_equal(tm_proc_count_err(&worker, text), 1);
}

static void test_version_refused(void **unused) {
    (void)unused;
    refuse_with(TM_E_VERSION, "this broker speaks version 9");
}

static void test_hash_refused(void **unused) {
    (void)unused;
    refuse_with(TM_E_MODEL_HASH, "mock@1 has other weights here");
}

/* A broker that speaks another version says so in a header that we cannot read further. */
static void test_other_header_version(void **unused) {
    (void)unused;
    start_worker("time_ms=0", NULL, NULL);
    tm_fake_message_t message;
    tm_fake_expect(&broker, TM_CMD_REGISTER, &message);
    memcpy(broker.worker, message.peer, message.peer_bytes);
    broker.worker_bytes = message.peer_bytes;
    uint8_t header[TM_HEADER_BYTES];
    memcpy(header, zmq_msg_data(&message.frame[0]), sizeof header);
    tm_fake_clear(&message);
    header[4] = TM_PROTOCOL_VERSION + 1; /* the version byte, behind the magic */
    header[5] = TM_CMD_ERROR;
    const uint8_t empty_map[] = {0x80};
    const void *frame[] = {header, empty_map};
    const size_t bytes[] = {sizeof header, sizeof empty_map};
    tm_fake_send_raw(&broker, frame, bytes, 2);
    expect_exit(1);
    assert_true(tm_proc_count_err(&worker, "refused this worker: version") >= 1);
}

/* A broker that is full now may have room later. */
static void test_busy_then_welcome(void **unused) {
    (void)unused;
    start_worker("time_ms=0", NULL, NULL);
    tm_fake_expect_register(&broker);
    tm_message_t m = {.command = TM_CMD_ERROR};
    TM_SET_UINT(&m, CODE, code, TM_E_BUSY);
    TM_SET_SLICE(&m, TEXT, text, tm_slice("too many workers"));
    TM_SET_UINT(&m, RETRY_AFTER_MS, retry_after_ms, 1000);
    tm_fake_send(&broker, &m, NULL, 0);
    uint64_t begin_ms = tm_test_now_ms();
    tm_fake_welcome(&broker);
    assert_true(tm_test_now_ms() - begin_ms >= 950);
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
}

static void test_no_welcome(void **unused) {
    (void)unused;
    start_worker("time_ms=0", NULL, NULL);
    tm_fake_expect_register(&broker); /* and no answer */
    tm_fake_welcome(&broker);
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
}

static void test_connect_timeout(void **unused) {
    (void)unused;
    tm_fake_stop(&broker);
    start_worker("time_ms=0", "--connect-timeout", "1");
    expect_exit(1);
    assert_int_equal(tm_proc_count_err(&worker, "no broker answered within 1 s"), 1);
}

/* ---- attempts ---- */

static void test_result(void **unused) {
    (void)unused;
    start_registered("time_ms=20", NULL, NULL);
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
    tm_fake_dispatch(&broker, 1, 11.0f, 60000);
    tm_fake_dispatch(&broker, 2, 12.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 11.0f);
    expect(TM_CMD_STARTED, 2, 0); /* one slot: not before the first has ended */
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    expect_result(2, 12.0f);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    expect_quiet(QUIET_MS);
}

static void test_slots_run_together(void **unused) {
    (void)unused;
    start_registered("time_ms=300", "--slots", "3");
    assert_int_equal(tm_fake_expect_credit(&broker), 4);
    for (uint64_t i = 1; i <= 4; i++) {
        tm_fake_dispatch(&broker, i, (float)i, 60000);
    }
    for (uint64_t i = 1; i <= 3; i++) {
        expect(TM_CMD_STARTED, i, 0);
    }
    tm_fake_message_t message;
    tm_fake_expect(&broker, TM_CMD_RESULT, &message); /* whichever slot is first */
    tm_fake_clear(&message);
    int results = 1, started = 0;
    while (results < 4 || started < 1) {
        assert_true(tm_fake_receive(&broker, &message, PATIENCE_MS));
        results += message.m.command == TM_CMD_RESULT ? 1 : 0;
        started += message.m.command == TM_CMD_STARTED ? 1 : 0;
        tm_fake_clear(&message);
    }
}

static void test_heartbeat_while_computing(void **unused) {
    (void)unused;
    start_registered("time_ms=3000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    broker.heartbeats = 0;
    expect_result(1, 1.0f);
    assert_true(broker.heartbeats >= 15); /* of 30; a loaded machine may be late for some */
}

static void test_failed(void **unused) {
    (void)unused;
    start_registered("fail_on=y", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect(TM_CMD_FAILED, 1, TM_E_BACKEND);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
}

/* A DISPATCH by hand: model, payload of `bytes` zeros, claimed to be one column of `n` floats. */
static void dispatch_odd(uint64_t serial, const char *model, uint64_t n, size_t bytes) {
    static const float zeros[64];
    uint8_t payload[64 * sizeof(float)], field[TM_COLUMNS_FIELD_MAX];
    tm_columns_t event = {0};
    tm_error_t error;
    tm_message_t m = {.command = TM_CMD_DISPATCH, .id = {broker.epoch, serial}};
    assert_int_equal(tm_columns_add(&event, "x", TM_F32, n, zeros, &error), TM_OK);
    assert_int_equal(tm_payload_encode(&event, payload, field, &m.columns, &error), TM_OK);
    m.set |= TM_FIELD(COLUMNS);
    TM_SET_SLICE(&m, MODEL, model, tm_slice(model));
    TM_SET_UINT(&m, TTL_MS, ttl_ms, 60000);
    TM_SET_UINT(&m, ATTEMPT, attempt, 1);
    tm_fake_send(&broker, &m, payload, bytes);
}

static void test_bad_payload(void **unused) {
    (void)unused;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    dispatch_odd(1, "mock@1", 64, 100); /* fewer bytes than the descriptor says */
    expect(TM_CMD_STARTED, 1, 0);
    expect(TM_CMD_FAILED, 1, TM_E_MALFORMED);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    dispatch_odd(2, "other@1", 4, 16);
    expect(TM_CMD_FAILED, 2, TM_E_NO_MODEL);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);

    /* a map that cannot be read, behind a sound header */
    uint8_t header[TM_HEADER_BYTES], map[TM_MAP_MAX_BYTES];
    size_t map_bytes;
    tm_error_t error;
    tm_message_t m = {.command = TM_CMD_REVOKE, .id = {broker.epoch, 3}};
    assert_int_equal(tm_message_encode(&m, header, map, &map_bytes, &error), TM_OK);
    header[5] = TM_CMD_DISPATCH;
    const uint8_t garbage[] = {0xc1, 0xff, 0x00};
    const void *frame[] = {header, garbage, garbage};
    const size_t bytes[] = {sizeof header, sizeof garbage, sizeof garbage};
    tm_fake_send_raw(&broker, frame, bytes, 3);
    expect(TM_CMD_FAILED, 3, TM_E_MALFORMED);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);

    tm_fake_dispatch(&broker, 4, 4.0f, 60000); /* and the worker is as good as before */
    expect(TM_CMD_STARTED, 4, 0);
    expect_result(4, 4.0f);
}

static void test_no_credit(void **unused) {
    (void)unused;
    start_registered("time_ms=60000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    for (uint64_t i = 1; i <= 3; i++) {
        tm_fake_dispatch(&broker, i, 1.0f, 60000);
    }
    /* the third is beyond the credit of two; it is refused while reading, before a slot is filled */
    tm_fake_message_t message;
    int started = 0, refused = 0;
    while (started < 1 || refused < 1) {
        assert_true(tm_fake_receive(&broker, &message, PATIENCE_MS));
        if (message.m.command == TM_CMD_STARTED) {
            assert_int_equal(message.m.id.serial, 1);
            started++;
        } else {
            assert_int_equal(message.m.command, TM_CMD_FAILED);
            assert_int_equal(message.m.id.serial, 3);
            assert_int_equal(message.m.code, TM_E_BUSY);
            refused++;
        }
        tm_fake_clear(&message);
    }
}

static void test_deadline(void **unused) {
    (void)unused;
    start_registered("time_ms=300", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    tm_fake_dispatch(&broker, 2, 2.0f, 1);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
    expect(TM_CMD_FAILED, 2, TM_E_DEADLINE); /* without STARTED */
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
}

static void test_revoke(void **unused) {
    (void)unused;
    start_registered("time_ms=60000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 600000);
    tm_fake_dispatch(&broker, 2, 2.0f, 600000);
    expect(TM_CMD_STARTED, 1, 0);
    send_id(TM_CMD_REVOKE, 99); /* unknown: no word */
    send_id(TM_CMD_REVOKE, 2);  /* waiting: dropped, and room for another one */
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    send_id(TM_CMD_REVOKE, 1); /* running: cancelled, long before its minute is over */
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    expect_quiet(QUIET_MS);
}

/* ---- leaving ---- */

static void test_drain(void **unused) {
    (void)unused;
    start_registered("time_ms=1000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    tm_fake_dispatch(&broker, 2, 2.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    tm_proc_signal(&worker, SIGTERM);
    expect(TM_CMD_DRAIN, 0, 0);
    expect(TM_CMD_FAILED, 2, TM_E_DRAINING);
    tm_fake_dispatch(&broker, 3, 3.0f, 60000); /* was on its way */
    expect(TM_CMD_FAILED, 3, TM_E_DRAINING);
    expect_result(1, 1.0f);
    expect(TM_CMD_BYE, 0, 0);
    expect_exit(0);
}

static void test_drain_idle(void **unused) {
    (void)unused;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_proc_signal(&worker, SIGUSR1);
    expect(TM_CMD_DRAIN, 0, 0);
    expect(TM_CMD_BYE, 0, 0);
    expect_exit(0);
}

static void test_drain_without_broker(void **unused) {
    (void)unused;
    tm_fake_stop(&broker);
    start_worker("time_ms=0", NULL, NULL);
    assert_true(tm_proc_wait_for(&worker, "ready ", 1, PATIENCE_MS));
    tm_proc_signal(&worker, SIGINT);
    expect_exit(0);
}

static void test_second_signal(void **unused) {
    (void)unused;
    start_registered("time_ms=60000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 600000);
    expect(TM_CMD_STARTED, 1, 0);
    tm_proc_signal(&worker, SIGTERM);
    expect(TM_CMD_DRAIN, 0, 0);
    tm_proc_signal(&worker, SIGUSR1); /* asks for what is under way already */
    tm_proc_signal(&worker, SIGUSR1);
    expect_quiet(QUIET_MS);
    tm_proc_signal(&worker, SIGTERM);
    expect_exit(4);
}

static void test_exit_when_idle(void **unused) {
    (void)unused;
    start_registered("time_ms=0", "--exit-when-idle", "1");
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
    tm_fake_expect_credit(&broker);
    expect(TM_CMD_DRAIN, 0, 0);
    expect(TM_CMD_BYE, 0, 0);
    expect_exit(0);
}

static void test_watchdog(void **unused) {
    (void)unused;
    start_registered("hang_on=y", "--attempt-timeout", "1");
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_exit(3);
    assert_int_equal(tm_proc_count_err(&worker, "the back end hangs"), 1);
}

/* ---- brokers that come and go ---- */

static void test_unknown_peer(void **unused) {
    (void)unused;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    uint8_t before[TM_FAKE_PEER_MAX];
    memcpy(before, broker.worker, broker.worker_bytes);
    tm_fake_error(&broker, TM_E_UNKNOWN_PEER, "who are you");
    tm_fake_welcome(&broker);
    assert_memory_not_equal(before, broker.worker, broker.worker_bytes); /* a fresh socket */
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
    assert_true(tm_proc_wait_for(&worker, "registered broker=", 2, PATIENCE_MS));
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
}

static void test_complaint(void **unused) {
    (void)unused;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_error(&broker, TM_E_UNEXPECTED, "not now");
    tm_fake_dispatch(&broker, 1, 1.0f, 60000); /* the session goes on */
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
}

static void test_silence(void **unused) {
    (void)unused;
    broker.liveness = 5;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    broker.mute = true;
    tm_fake_welcome(&broker); /* 500 ms of silence: it registers again */
    assert_int_equal(tm_fake_expect_credit(&broker), 2);
    broker.mute = false;
    expect_quiet(1000); /* and stays, now that the broker speaks */
    assert_int_equal(broker.registers, 2);
}

/* The same run of the broker: a late result is worth sending, the waiting attempt is not kept. */
static void test_late_result(void **unused) {
    (void)unused;
    start_registered("time_ms=1500", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    tm_fake_dispatch(&broker, 2, 2.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    tm_fake_error(&broker, TM_E_UNKNOWN_PEER, "who are you");
    tm_fake_welcome(&broker);
    assert_int_equal(tm_fake_expect_credit(&broker), 1); /* the slot is still taken */
    expect_result(1, 1.0f);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
    expect_quiet(QUIET_MS);
}

/* Another run of the broker: it knows nothing of the attempt. */
static void test_new_epoch(void **unused) {
    (void)unused;
    start_registered("time_ms=60000", NULL, NULL);
    tm_fake_expect_credit(&broker);
    tm_fake_dispatch(&broker, 1, 1.0f, 600000);
    expect(TM_CMD_STARTED, 1, 0);
    char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "%s", broker.endpoint);
    tm_fake_stop(&broker);
    tm_test_sleep_ms(300);
    tm_fake_start(&broker, endpoint);
    broker.epoch = 0x5678;
    broker.forgetful = true; /* says unknown_peer to whoever has not registered */
    tm_fake_welcome(&broker);
    /* credit in one or two parts, as the cancelled attempt ends; no word of the attempt itself */
    uint64_t credit = 0;
    while (credit < 2) {
        credit += tm_fake_expect_credit(&broker);
    }
    assert_int_equal(credit, 2);
    expect_quiet(QUIET_MS);
}

static void test_two_brokers(void **unused) {
    (void)unused;
    tm_fake_start(&other, NULL);
    char both[300];
    snprintf(both, sizeof both, "%s,%s", broker.endpoint, other.endpoint);
    other.liveness = broker.liveness = 5;
    const char *argv[] = {TM_WORKER_PROGRAM, "--broker", both, "--backend", "mock",
                          "--slots",         "2",        NULL};
    tm_proc_start(&worker, argv);
    tm_fake_welcome(&broker);
    assert_int_equal(tm_fake_expect_credit(&broker), 3); /* alone: all of it */
    tm_fake_welcome(&other);
    assert_int_equal(tm_fake_expect_credit(&other),
                     1); /* a third of it, rounded up for the first */
    other.mute = true;
    /* the second is silent now: its share goes to the first, which has all of its own already */
    uint64_t limit_ms = tm_test_now_ms() + PATIENCE_MS;
    while (tm_proc_count_err(&worker, "silent for") == 0) {
        assert_true(tm_test_now_ms() < limit_ms);
        expect_quiet(50);
    }
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
}

static void test_one_of_two_refuses(void **unused) {
    (void)unused;
    tm_fake_start(&other, NULL);
    const char *argv[] = {TM_WORKER_PROGRAM, "--broker",  broker.endpoint, "--broker",
                          other.endpoint,    "--backend", "mock",          NULL};
    tm_proc_start(&worker, argv);
    tm_fake_expect_register(&other);
    tm_fake_error(&other, TM_E_MODEL_HASH, "other weights");
    tm_fake_welcome(&broker);
    tm_fake_expect_credit(&broker);
    expect_quiet(QUIET_MS);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
}

/* ---- nonsense ---- */

static void test_nonsense(void **unused) {
    (void)unused;
    start_registered("time_ms=0", NULL, NULL);
    tm_fake_expect_credit(&broker);
    uint8_t noise[600];
    uint32_t random = 12345;
    for (int round = 0; round < 500; round++) {
        const void *frame[10];
        size_t bytes[10];
        random = random * 1664525u + 1013904223u;
        int n = 1 + (int)(random >> 28) % 10;
        for (int i = 0; i < n; i++) {
            random = random * 1664525u + 1013904223u;
            bytes[i] = (random >> 20) % sizeof noise;
            frame[i] = noise;
        }
        for (size_t i = 0; i < sizeof noise; i++) {
            random = random * 1664525u + 1013904223u;
            noise[i] = (uint8_t)(random >> 24);
        }
        tm_fake_send_raw(&broker, frame, bytes, n);
    }
    /* well-formed, but not for a worker, or not now */
    tm_fake_send(&broker, &(tm_message_t){.command = TM_CMD_STATUS}, NULL, 0);
    send_id(TM_CMD_STARTED, 5);
    tm_fake_dispatch(&broker, 1, 1.0f, 60000);
    expect(TM_CMD_STARTED, 1, 0);
    expect_result(1, 1.0f);
    assert_int_equal(tm_fake_expect_credit(&broker), 1);
}

#define WITH_WORKER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_WORKER(test_register),
        WITH_WORKER(test_welcome),
        WITH_WORKER(test_version_refused),
        WITH_WORKER(test_hash_refused),
        WITH_WORKER(test_other_header_version),
        WITH_WORKER(test_busy_then_welcome),
        WITH_WORKER(test_no_welcome),
        WITH_WORKER(test_connect_timeout),
        WITH_WORKER(test_result),
        WITH_WORKER(test_slots_run_together),
        WITH_WORKER(test_heartbeat_while_computing),
        WITH_WORKER(test_failed),
        WITH_WORKER(test_bad_payload),
        WITH_WORKER(test_no_credit),
        WITH_WORKER(test_deadline),
        WITH_WORKER(test_revoke),
        WITH_WORKER(test_drain),
        WITH_WORKER(test_drain_idle),
        WITH_WORKER(test_drain_without_broker),
        WITH_WORKER(test_second_signal),
        WITH_WORKER(test_exit_when_idle),
        WITH_WORKER(test_watchdog),
        WITH_WORKER(test_unknown_peer),
        WITH_WORKER(test_complaint),
        WITH_WORKER(test_silence),
        WITH_WORKER(test_late_result),
        WITH_WORKER(test_new_epoch),
        WITH_WORKER(test_two_brokers),
        WITH_WORKER(test_one_of_two_refuses),
        WITH_WORKER(test_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
