// SPDX-License-Identifier: Apache-2.0
/* Brokers that are busy, drain, die, forget, lie, speak another version or are not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_clock.h"
#include "fake_broker.h"
#include "sample_event.h"

/* How much later than its deadline an answer may come here; a loaded machine with sanitizers is
 * slow, the promise itself (200 ms) is measured elsewhere. */
#define LATENESS_MS 3000

typedef struct {
    fake_broker_t a, b;
    tm_client_t *client;
} fixture_t;

static tm_client_t *new_client(const char *brokers, uint32_t hello_ms) {
    tm_client_t *client;
    tm_error_t error;
    if (tm_client_new(brokers, &(tm_client_options_t){.hello_ms = hello_ms}, &client, &error))
        fail_msg("%s", error.text);
    return client;
}

static int setup(void **state) {
    static fixture_t f;
    char brokers[160];
    f = (fixture_t){0};
    fake_open(&f.a);
    fake_open(&f.b);
    snprintf(brokers, sizeof brokers, "%s, %s", f.a.endpoint, f.b.endpoint);
    f.client = new_client(brokers, 0);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture_t *f = *state;
    tm_client_destroy(&f->client);
    fake_close(&f->a);
    fake_close(&f->b);
    return 0;
}

/* Expects the request of that id, answers it. */
static void serve(fake_broker_t *broker, uint64_t id) {
    fake_message_t request;
    fake_expect(broker, TM_CMD_REQUEST, &request);
    assert_int_equal(request.m.id.serial, id);
    fake_answer(broker, &request);
    fake_clear(&request);
}

static void test_busy_broker_is_asked_again(void **state) {
    fixture_t *f = *state;
    fake_message_t first, second;
    uint64_t id = sample_submit(f->client, 20000);
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &first);
    uint64_t before = tm_client_now_us();
    fake_error(&f->a, &first, true, TM_E_BUSY, "queue full", 150);
    fake_expect(&f->a, TM_CMD_REQUEST, &second);
    assert_true(tm_client_now_us() - before >= 150 * TM_US_PER_MS);
    assert_int_equal(second.m.id.serial, id);
    assert_int_equal(second.m.id.origin, first.m.id.origin);
    assert_true(second.m.ttl_ms <= first.m.ttl_ms - 150); /* what is left */
    fake_answer(&f->a, &second);
    sample_expect(f->client, id, TM_OK);
    fake_clear(&first);
    fake_clear(&second);
}

static void test_busy_beyond_the_deadline_is_the_answer(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint64_t id = sample_submit(f->client, 5000);
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &request);
    uint64_t before = tm_client_now_us();
    fake_error(&f->a, &request, true, TM_E_BUSY, "queue full", 6000);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_BUSY);
    assert_non_null(strstr(answer->error.text, "queue full"));
    assert_true(tm_client_now_us() - before < 4000 * TM_US_PER_MS); /* at once */
    tm_answer_destroy(&answer);
    fake_clear(&request);
}

static void test_ever_busy_broker_ends_with_the_deadline(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint64_t id = sample_submit(f->client, 600);
    fake_welcome(&f->a, NULL, NULL);
    uint64_t before = tm_client_now_us();
    tm_answer_t *answer = NULL;
    while (!answer) {
        if (fake_receive(&f->a, 20, &request)) {
            if (request.m.command == TM_CMD_REQUEST)
                fake_error(&f->a, &request, true, TM_E_BUSY, "queue full", 50);
            fake_clear(&request);
        }
        assert_int_equal(tm_client_poll(f->client, 0, &answer, NULL), TM_OK);
    }
    assert_int_equal(answer->id, id);
    assert_int_equal(answer->status, TM_E_BUSY);
    assert_true(tm_client_now_us() - before < (600 + LATENESS_MS) * TM_US_PER_MS);
    tm_answer_destroy(&answer);
}

static void test_draining_broker_keeps_what_it_holds(void **state) {
    fixture_t *f = *state;
    fake_message_t held, refused;
    uint64_t id[2] = {sample_submit(f->client, 0), sample_submit(f->client, 0)};
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &held);
    fake_expect(&f->a, TM_CMD_REQUEST, &refused);
    fake_error(&f->a, &refused, true, TM_E_DRAINING, "shutting down", -1);
    /* what was refused goes to the next broker, what is held does not */
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id[1]);
    sample_expect(f->client, id[1], TM_OK);
    fake_expect_nothing(&f->b, 100);
    fake_answer(&f->a, &held);
    sample_expect(f->client, id[0], TM_OK);
    fake_expect_only(&f->a, TM_CMD_BYE);
    fake_clear(&held);
    fake_clear(&refused);
}

static void test_draining_broker_that_dies_loses_nothing(void **state) {
    fixture_t *f = *state;
    fake_message_t held, refused;
    uint64_t id[2] = {sample_submit(f->client, 0), sample_submit(f->client, 0)};
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &held);
    fake_expect(&f->a, TM_CMD_REQUEST, &refused);
    fake_error(&f->a, &refused, true, TM_E_DRAINING, "shutting down", -1);
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id[1]);
    fake_clear(&held);
    fake_clear(&refused);
    fake_close(&f->a);
    serve(&f->b, id[0]);
    sample_expect(f->client, id[0], TM_OK);
    sample_expect(f->client, id[1], TM_OK);
}

static void test_two_draining_brokers_keep_what_they_hold(void **state) {
    fixture_t *f = *state;
    fake_message_t at_a, at_b, refused;
    uint64_t id[4];
    for (int i = 0; i < 2; i++)
        id[i] = sample_submit(f->client, 0);
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &at_a);
    fake_expect(&f->a, TM_CMD_REQUEST, &refused);
    fake_error(&f->a, &refused, true, TM_E_DRAINING, "shutting down", -1);
    fake_clear(&refused);
    fake_welcome(&f->b, NULL, NULL);
    fake_expect(&f->b, TM_CMD_REQUEST, &at_b);
    assert_int_equal(at_b.m.id.serial, id[1]);
    id[2] = sample_submit(f->client, 0);
    fake_expect(&f->b, TM_CMD_REQUEST, &refused);
    fake_error(&f->b, &refused, true, TM_E_DRAINING, "shutting down", -1);
    fake_clear(&refused);
    id[3] = sample_submit(f->client, 0);
    while (fake_receive(&f->b, 100, &refused)) { /* unless the refusal came first */
        assert_int_equal(refused.m.id.serial, id[3]);
        fake_error(&f->b, &refused, true, TM_E_DRAINING, "shutting down", -1);
        fake_clear(&refused);
    }
    fake_answer(&f->a, &at_a);
    sample_expect(f->client, id[0], TM_OK);
    fake_answer(&f->b, &at_b);
    sample_expect(f->client, id[1], TM_OK);
    /* nobody else is left: it comes back to see whether a has started anew */
    fake_expect_only(&f->a, TM_CMD_BYE);
    fake_welcome(&f->a, NULL, NULL);
    serve(&f->a, id[2]);
    serve(&f->a, id[3]);
    sample_expect(f->client, id[2], TM_OK);
    sample_expect(f->client, id[3], TM_OK);
    fake_clear(&at_a);
    fake_clear(&at_b);
}

static void test_broker_that_drains_at_hello_is_passed_over(void **state) {
    fixture_t *f = *state;
    fake_message_t hello;
    uint64_t id = sample_submit(f->client, 0);
    fake_expect(&f->a, TM_CMD_HELLO, &hello);
    fake_error(&f->a, &hello, false, TM_E_DRAINING, "shutting down", -1);
    fake_clear(&hello);
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id);
    sample_expect(f->client, id, TM_OK);
}

static void test_dead_brokers_requests_go_to_the_next_under_the_same_id(void **state) {
    fixture_t *f = *state;
    fake_message_t first, again;
    uint64_t id[3];
    for (int i = 0; i < 3; i++)
        id[i] = sample_submit(f->client, 0);
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &first);
    fake_answer(&f->a, &first);
    sample_expect(f->client, id[0], TM_OK);
    fake_expect_only(&f->a, TM_CMD_REQUEST);
    fake_expect_only(&f->a, TM_CMD_REQUEST);
    fake_close(&f->a);
    fake_welcome(&f->b, NULL, NULL);
    for (int i = 1; i < 3; i++) { /* in their order, and not the one that is answered */
        fake_expect(&f->b, TM_CMD_REQUEST, &again);
        assert_int_equal(again.m.id.serial, id[i]);
        assert_int_equal(again.m.id.origin, first.m.id.origin);
        fake_answer(&f->b, &again);
        fake_answer(&f->b, &again); /* a second one must not be seen */
        fake_clear(&again);
        sample_expect(f->client, id[i], TM_OK);
    }
    fake_expect_nothing(&f->b, 50);
    assert_int_equal(tm_client_in_flight(f->client), 0);
    fake_clear(&first);
}

static void test_silent_broker_is_left(void **state) {
    fixture_t *f = *state;
    uint64_t id = sample_submit(f->client, 0);
    fake_welcome(&f->a, &(fake_welcome_t){.heartbeat_ms = 30, .liveness = 4}, NULL);
    /* a says nothing more, its connection stays */
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id);
    sample_expect(f->client, id, TM_OK);
}

static void test_upload_longer_than_the_heartbeats_is_no_silence(void **state) {
    (void)state;
    enum { EVENTS = 4, POINTS = 1000000, STALL_MS = 2500 }; /* 12 MB each */
    fake_broker_t a = {.narrow = true};
    fake_message_t request[EVENTS], message;
    sample_event_t event;
    uint64_t id[EVENTS];
    fake_open(&a);
    tm_client_t *client = new_client(a.endpoint, 0);
    fake_welcome(&a, &(fake_welcome_t){.heartbeat_ms = 200, .liveness = 5}, NULL);
    sample_event_make(&event, POINTS);
    for (int i = 0; i < EVENTS; i++)
        assert_int_equal(tm_client_submit(client, &event.columns, NULL, &id[i], NULL), TM_OK);
    sample_event_free(&event);
    /* the bytes are under way, no PONG can be: longer than the second that silence is borne */
    zmq_poll(NULL, 0, STALL_MS);
    for (int i = 0; i < EVENTS; i++) {
        fake_expect(&a, TM_CMD_REQUEST, &request[i]); /* a HELLO would mean that it gave up */
        assert_int_equal(request[i].m.id.serial, id[i]);
        fake_answer(&a, &request[i]);
        fake_clear(&request[i]);
    }
    /* keep talking until it has all answers */
    while (tm_client_in_flight(client) > 0) {
        tm_answer_t *answer;
        assert_int_equal(tm_client_poll(client, 5, &answer, NULL), TM_OK);
        if (answer)
            assert_int_equal(answer->status, TM_OK);
        tm_answer_destroy(&answer);
        if (fake_receive(&a, 0, &message))
            fail_msg("%s came, nothing was due", tm_command_name(message.m.command));
    }
    tm_client_destroy(&client);
    fake_close(&a);
}

static void test_broker_without_welcome_is_passed_over(void **state) {
    (void)state;
    fake_broker_t a = {0}, b = {0};
    char brokers[160];
    fake_open(&a);
    fake_open(&b);
    snprintf(brokers, sizeof brokers, "%s,%s", a.endpoint, b.endpoint);
    tm_client_t *client = new_client(brokers, 100);
    uint64_t id = sample_submit(client, 0);
    fake_welcome(&b, NULL, NULL);
    serve(&b, id);
    sample_expect(client, id, TM_OK);
    tm_client_destroy(&client);
    fake_close(&a);
    fake_close(&b);
}

static void test_restarted_broker_is_found_again(void **state) {
    (void)state;
    fake_broker_t a = {0};
    fake_open(&a);
    char endpoint[sizeof a.endpoint];
    strcpy(endpoint, a.endpoint);
    tm_client_t *client = new_client(endpoint, 0);
    uint64_t id = sample_submit(client, 0);
    fake_welcome(&a, NULL, NULL);
    fake_expect_only(&a, TM_CMD_REQUEST);
    fake_close(&a);
    fake_open_at(&a, endpoint);
    fake_welcome(&a, NULL, NULL);
    serve(&a, id);
    sample_expect(client, id, TM_OK);
    tm_client_destroy(&client);
    fake_close(&a);
}

static void test_forgetful_broker_gets_hello_and_requests_again(void **state) {
    fixture_t *f = *state;
    fake_message_t request[2], hello;
    uint64_t id[2] = {sample_submit(f->client, 0), sample_submit(f->client, 0)};
    fake_welcome(&f->a, NULL, NULL);
    for (int i = 0; i < 2; i++)
        fake_expect(&f->a, TM_CMD_REQUEST, &request[i]);
    for (int i = 0; i < 2; i++)
        fake_error(&f->a, &request[i], i == 0, TM_E_UNKNOWN_PEER, "say HELLO", -1);
    fake_welcome(&f->a, NULL, &hello);
    fake_clear(&hello);
    for (int i = 0; i < 2; i++) {
        serve(&f->a, id[i]);
        sample_expect(f->client, id[i], TM_OK);
        fake_clear(&request[i]);
    }
}

static void test_ever_forgetful_broker_is_left(void **state) {
    fixture_t *f = *state;
    fake_message_t message;
    uint64_t id = sample_submit(f->client, 0);
    int hellos = 0;
    while (fake_receive(&f->a, 1000, &message)) {
        if (message.m.command == TM_CMD_HELLO) {
            tm_message_t m = {.command = TM_CMD_WELCOME};
            TM_SET_SLICE(&m, SOFTWARE, software, tm_slice("fake/1"));
            TM_SET_UINT(&m, EPOCH, epoch, 7);
            TM_SET_UINT(&m, HEARTBEAT_MS, heartbeat_ms, TM_HEARTBEAT_MS);
            TM_SET_UINT(&m, LIVENESS, liveness, TM_LIVENESS);
            TM_SET_UINT(&m, MAX_PAYLOAD, max_payload, TM_PAYLOAD_MAX_BYTES);
            fake_send(&f->a, &message, &m, NULL, 0);
            hellos++;
        } else {
            fake_error(&f->a, &message, false, TM_E_UNKNOWN_PEER, "say HELLO", -1);
        }
        fake_clear(&message);
    }
    assert_in_range(hellos, 2, 10);
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id);
    sample_expect(f->client, id, TM_OK);
}

static void test_no_common_version_fails_at_once_and_names_both(void **state) {
    fixture_t *f = *state;
    fake_message_t hello;
    uint64_t before = tm_client_now_us();
    uint64_t id = sample_submit(f->client, 0);
    /* a answers in its own version's header, which is all that versions have in common */
    fake_expect(&f->a, TM_CMD_HELLO, &hello);
    uint8_t header[TM_HEADER_BYTES];
    memcpy(header, zmq_msg_data(&hello.frames.header), sizeof header);
    header[4] = 9; /* SPEC.md, "Header": the version */
    header[5] = TM_CMD_ERROR;
    fake_send_raw(&f->a, &hello, 2, (const void *const[]){header, "\x80"},
                  (const size_t[]){sizeof header, 1});
    fake_clear(&hello);
    /* b answers in ours */
    fake_expect(&f->b, TM_CMD_HELLO, &hello);
    tm_message_t m = {.command = TM_CMD_ERROR};
    TM_SET_UINT(&m, CODE, code, TM_E_VERSION);
    TM_SET_SLICE(&m, TEXT, text, tm_slice("no"));
    TM_SET_UINT(&m, PROTOCOL, protocol, 8);
    fake_send(&f->b, &hello, &m, NULL, 0);
    fake_clear(&hello);

    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_VERSION);
    assert_non_null(strstr(answer->error.text, f->a.endpoint));
    assert_non_null(strstr(answer->error.text, f->b.endpoint));
    assert_non_null(strstr(answer->error.text, "version 9"));
    assert_non_null(strstr(answer->error.text, "version 8"));
    assert_non_null(strstr(answer->error.text, "version 1"));
    assert_true(tm_client_now_us() - before < PATIENCE_MS * TM_US_PER_MS);
    tm_answer_destroy(&answer);
    sample_expect(f->client, sample_submit(f->client, 0), TM_E_VERSION);
}

static void test_one_broker_of_our_version_is_enough(void **state) {
    fixture_t *f = *state;
    fake_message_t hello;
    uint64_t id = sample_submit(f->client, 0);
    fake_expect(&f->a, TM_CMD_HELLO, &hello);
    fake_error(&f->a, &hello, false, TM_E_VERSION, "no", -1);
    fake_clear(&hello);
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id);
    sample_expect(f->client, id, TM_OK);
}

static void answer_with(fixture_t *f, fake_message_t *request, const uint32_t offsets[2],
                        const uint32_t indices[3], uint64_t n_offsets, uint64_t n_scores) {
    float scores[2] = {0.5f, 0.5f};
    tm_columns_t columns = {0};
    tm_columns_add(&columns, "offsets", TM_U32, n_offsets, offsets, NULL);
    tm_columns_add(&columns, "indices", TM_U32, 3, indices, NULL);
    tm_columns_add(&columns, "scores", TM_F32, n_scores, scores, NULL);
    fake_answer_columns(&f->a, request, &columns);
}

static void test_malformed_answer_is_an_error_answer(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    const uint32_t good_offsets[] = {0, 3}, beyond[] = {0, 4}, backwards[] = {3, 0};
    const uint32_t good[] = {0, 1, 2}, outside[] = {0, 1, SAMPLE_POINTS}, twice[] = {0, 1, 1};
    const struct {
        const uint32_t *offsets, *indices;
        uint64_t n_offsets, n_scores;
    } bad[] = {{beyond, good, 2, 1},          {backwards, good, 2, 1},
               {good_offsets, outside, 2, 1}, {good_offsets, twice, 2, 1},
               {good_offsets, good, 1, 1},    {good_offsets, good, 2, 2},
               {good_offsets, good, 0, 0}};
    fake_welcome(&f->a, NULL, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t id = sample_submit(f->client, 0);
        fake_expect(&f->a, TM_CMD_REQUEST, &request);
        answer_with(f, &request, bad[i].offsets, bad[i].indices, bad[i].n_offsets, bad[i].n_scores);
        fake_clear(&request);
        tm_answer_t *answer = sample_wait(f->client, id);
        assert_int_equal(answer->status, TM_E_MALFORMED);
        assert_non_null(strstr(answer->error.text, f->a.endpoint));
        assert_null(answer->tracks.offsets);
        tm_answer_destroy(&answer);
    }
    /* and a payload shorter than its description */
    uint64_t id = sample_submit(f->client, 0);
    fake_expect(&f->a, TM_CMD_REQUEST, &request);
    tm_message_t m = {.command = TM_CMD_ANSWER, .id = request.m.id};
    uint8_t hash[TM_HASH_BYTES] = {0};
    TM_SET_SLICE(&m, COLUMNS, columns, request.m.columns);
    TM_SET_SLICE(&m, TIMES, times, ((tm_slice_t){"\x90", 1}));
    TM_SET_SLICE(&m, MODEL, model, tm_slice("fake@1"));
    TM_SET_SLICE(&m, HASH, hash, ((tm_slice_t){(const char *)hash, sizeof hash}));
    TM_SET_SLICE(&m, WORKER, worker, tm_slice("w"));
    TM_SET_UINT(&m, ATTEMPT, attempt, 1);
    TM_SET_UINT(&m, QUEUE_US, queue_us, 0);
    TM_SET_UINT(&m, SERVICE_US, service_us, 0);
    fake_send(&f->a, &request, &m, "12345678", 8);
    fake_clear(&request);
    sample_expect(f->client, id, TM_E_MALFORMED);
    /* the broker itself is still good for the next one */
    id = sample_submit(f->client, 0);
    serve(&f->a, id);
    sample_expect(f->client, id, TM_OK);
}

static void test_nonsense_is_ignored_and_an_unreadable_answer_ends_its_request(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint8_t header[TM_HEADER_BYTES];
    fake_welcome(&f->a, NULL, NULL);
    for (int frames = 1; frames <= 5; frames++) {
        uint64_t id = sample_submit(f->client, 0);
        fake_expect(&f->a, TM_CMD_REQUEST, &request);
        fake_send_raw(&f->a, &request, frames, (const void *const[]){"a", "b", "c", "d", "e"},
                      (const size_t[]){1, 1, 1, 1, 1});
        memcpy(header, zmq_msg_data(&request.frames.header), sizeof header);
        /* a command of the other side, then an answer that is cut */
        header[5] = TM_CMD_DISPATCH;
        fake_send_raw(&f->a, &request, 2, (const void *const[]){header, "\x80"},
                      (const size_t[]){sizeof header, 1});
        header[5] = TM_CMD_ANSWER;
        fake_send_raw(&f->a, &request, 2, (const void *const[]){header, "\x80"},
                      (const size_t[]){sizeof header, 1});
        fake_clear(&request);
        sample_expect(f->client, id, TM_E_MALFORMED);
    }
    uint64_t id = sample_submit(f->client, 0);
    serve(&f->a, id); /* still on a */
    sample_expect(f->client, id, TM_OK);
}

static void test_full_broker_is_passed_over(void **state) {
    fixture_t *f = *state;
    fake_message_t hello;
    uint64_t id = sample_submit(f->client, 0);
    fake_expect(&f->a, TM_CMD_HELLO, &hello);
    fake_error(&f->a, &hello, false, TM_E_BUSY, "too many clients", 500);
    fake_clear(&hello);
    fake_welcome(&f->b, NULL, NULL);
    serve(&f->b, id);
    sample_expect(f->client, id, TM_OK);
}

static void test_no_broker_at_all_names_them_in_time(void **state) {
    (void)state;
    tm_client_t *client = new_client("tcp://127.0.0.1:1,tcp://127.0.0.1:2", 0);
    uint64_t before = tm_client_now_us();
    uint64_t id = sample_submit(client, 400);
    tm_answer_t *answer = sample_wait(client, id);
    uint64_t took = tm_client_now_us() - before;
    assert_int_equal(answer->status, TM_E_NO_BROKER);
    assert_non_null(strstr(answer->error.text, "tcp://127.0.0.1:1 refuses connections"));
    assert_non_null(strstr(answer->error.text, "tcp://127.0.0.1:2 refuses connections"));
    assert_true(took >= 400 * TM_US_PER_MS && took < (400 + LATENESS_MS) * TM_US_PER_MS);
    tm_answer_destroy(&answer);
    tm_client_destroy(&client);
}

static void test_mute_broker_is_described(void **state) {
    fixture_t *f = *state;
    uint64_t id = sample_submit(f->client, 300);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_NO_BROKER);
    assert_non_null(strstr(answer->error.text, "accepted the connection"));
    assert_non_null(strstr(answer->error.text, "has not been tried yet"));
    tm_answer_destroy(&answer);
}

static void test_deadline_passes_at_a_broker_that_holds_the_request(void **state) {
    fixture_t *f = *state;
    fake_message_t request, cancel;
    uint64_t before = tm_client_now_us();
    uint64_t id = sample_submit(f->client, 300);
    fake_welcome(&f->a, NULL, NULL);
    fake_expect(&f->a, TM_CMD_REQUEST, &request);
    tm_answer_t *answer = sample_wait(f->client, id);
    uint64_t took = tm_client_now_us() - before;
    assert_int_equal(answer->status, TM_E_DEADLINE);
    assert_non_null(strstr(answer->error.text, f->a.endpoint));
    assert_true(took >= 300 * TM_US_PER_MS && took < (300 + LATENESS_MS) * TM_US_PER_MS);
    tm_answer_destroy(&answer);
    fake_expect(&f->a, TM_CMD_CANCEL, &cancel);
    assert_int_equal(cancel.m.id.serial, id);
    fake_clear(&cancel);
    fake_answer(&f->a, &request); /* late */
    fake_clear(&request);
    id = sample_submit(f->client, 0);
    serve(&f->a, id);
    sample_expect(f->client, id, TM_OK);
    assert_int_equal(tm_client_in_flight(f->client), 0);
}

static void test_brokers_own_verdict_at_the_deadline_is_kept(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    fake_welcome(&f->a, NULL, NULL);
    uint64_t id = sample_submit(f->client, 2000);
    fake_expect(&f->a, TM_CMD_REQUEST, &request);
    fake_error(&f->a, &request, true, TM_E_NO_MODEL, "no worker serves it", -1);
    fake_clear(&request);
    sample_expect(f->client, id, TM_E_NO_MODEL);
}

static void test_deadline_passes_in_the_clients_own_queue(void **state) {
    fixture_t *f = *state;
    uint64_t first = sample_submit(f->client, 0);
    fake_welcome(&f->a, &(fake_welcome_t){.window = 1}, NULL);
    fake_expect_only(&f->a, TM_CMD_REQUEST);
    uint64_t id = sample_submit(f->client, 200);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_DEADLINE);
    assert_non_null(strstr(answer->error.text, "window of 1"));
    tm_answer_destroy(&answer);
    assert_int_equal(tm_client_poll(f->client, 0, &answer, NULL), TM_OK);
    assert_null(answer); /* the first one is still on its way */
    (void)first;
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_busy_broker_is_asked_again),
        TEST(test_busy_beyond_the_deadline_is_the_answer),
        TEST(test_ever_busy_broker_ends_with_the_deadline),
        TEST(test_draining_broker_keeps_what_it_holds),
        TEST(test_draining_broker_that_dies_loses_nothing),
        TEST(test_two_draining_brokers_keep_what_they_hold),
        TEST(test_broker_that_drains_at_hello_is_passed_over),
        TEST(test_dead_brokers_requests_go_to_the_next_under_the_same_id),
        TEST(test_silent_broker_is_left),
        cmocka_unit_test(test_upload_longer_than_the_heartbeats_is_no_silence),
        cmocka_unit_test(test_broker_without_welcome_is_passed_over),
        cmocka_unit_test(test_restarted_broker_is_found_again),
        TEST(test_forgetful_broker_gets_hello_and_requests_again),
        TEST(test_ever_forgetful_broker_is_left),
        TEST(test_no_common_version_fails_at_once_and_names_both),
        TEST(test_one_broker_of_our_version_is_enough),
        TEST(test_malformed_answer_is_an_error_answer),
        TEST(test_nonsense_is_ignored_and_an_unreadable_answer_ends_its_request),
        TEST(test_full_broker_is_passed_over),
        cmocka_unit_test(test_no_broker_at_all_names_them_in_time),
        TEST(test_mute_broker_is_described),
        TEST(test_deadline_passes_at_a_broker_that_holds_the_request),
        TEST(test_brokers_own_verdict_at_the_deadline_is_kept),
        TEST(test_deadline_passes_in_the_clients_own_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
