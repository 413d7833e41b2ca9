// SPDX-License-Identifier: Apache-2.0
/* One broker, played by hand, that behaves: what callers see of their requests. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_clock.h"
#include "fake_broker.h"
#include "sample_event.h"

typedef struct {
    fake_broker_t broker;
    tm_client_t *client;
} fixture_t;

static int setup(void **state) {
    static fixture_t f;
    f = (fixture_t){0};
    fake_open(&f.broker);
    tm_error_t error;
    if (tm_client_new(f.broker.endpoint, NULL, &f.client, &error))
        fail_msg("%s", error.text);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture_t *f = *state;
    tm_client_destroy(&f->client);
    assert_null(f->client);
    fake_close(&f->broker);
    return 0;
}

static bool readable(const tm_client_t *client) {
    struct pollfd fd = {.fd = tm_client_fd(client), .events = POLLIN};
    return poll(&fd, 1, 0) == 1;
}

static void test_request_carries_the_event_and_answer_the_tracks(void **state) {
    fixture_t *f = *state;
    fake_message_t hello, request;
    sample_event_t event;
    sample_event_make(&event, 1000);
    tm_request_options_t options = {.model = "metric@3", .ttl_ms = 5000, .priority = 2};
    uint64_t id;
    assert_int_equal(tm_client_submit(f->client, &event.columns, &options, &id, NULL), TM_OK);
    fake_welcome(&f->broker, NULL, &hello);
    assert_memory_equal(hello.m.software.data, "libtrackmill/", 13);
    assert_true(hello.m.set & TM_FIELD(NAME));
    fake_clear(&hello);

    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    assert_int_not_equal(request.m.id.origin, 0);
    assert_int_equal(request.m.id.serial, id);
    assert_int_equal(request.m.priority, 2);
    assert_in_range(request.m.ttl_ms, 1, 5000);
    assert_memory_equal(request.m.model.data, "metric@3", request.m.model.bytes);
    tm_columns_t columns;
    assert_int_equal(tm_payload_decode(request.m.columns, request.frames.columns,
                                       request.frames.columns_bytes, &columns, NULL),
                     TM_OK);
    assert_int_equal(columns.count, 3);
    assert_memory_equal(tm_columns_find(&columns, "y")->data, event.y, 1000 * sizeof(float));
    sample_event_free(&event);

    fake_answer(&f->broker, &request);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_OK);
    assert_int_equal(answer->tracks.n_points, 1000);
    assert_int_equal(answer->tracks.n_tracks, 1);
    assert_int_equal(answer->tracks.indices[2], 2);
    assert_string_equal(answer->model, "fake@1");
    assert_string_equal(answer->worker, "worker-1");
    assert_int_equal(answer->hash[31], 0xab);
    assert_int_equal(answer->attempt, 2);
    assert_int_equal(answer->queue_us, 10);
    assert_int_equal(answer->service_us, 20);
    assert_int_equal(answer->timings.count, 1);
    assert_string_equal(answer->timings.stage[0].name, "gnn");
    assert_int_equal(answer->sent_bytes, request.frames.bytes);
    assert_true(answer->received_bytes > 0 && answer->total_us > 0);
    tm_answer_destroy(&answer);
    assert_null(answer);
    fake_clear(&request);
}

static void test_request_without_options_takes_the_usual_values(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    sample_event_t event;
    sample_event_make(&event, SAMPLE_POINTS);
    uint64_t id;
    assert_int_equal(tm_client_submit(f->client, &event.columns, NULL, &id, NULL), TM_OK);
    sample_event_free(&event);
    fake_welcome(&f->broker, NULL, NULL);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    assert_int_equal(request.m.priority, TM_PRIORITY_DEFAULT);
    assert_in_range(request.m.ttl_ms, TM_TTL_DEFAULT_MS / 2, TM_TTL_DEFAULT_MS);
    assert_int_equal(request.m.set & TM_FIELD(MODEL), 0);
    fake_clear(&request);
}

static void test_error_of_the_back_end_is_the_answer(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint64_t id = sample_submit(f->client, 0);
    fake_welcome(&f->broker, NULL, NULL);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    fake_error(&f->broker, &request, true, TM_E_MISSING_COLUMN, "the model reads n_cells", -1);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_MISSING_COLUMN);
    assert_int_equal(answer->error.code, TM_E_MISSING_COLUMN);
    assert_string_equal(answer->error.text, "the model reads n_cells");
    assert_null(answer->tracks.offsets);
    tm_answer_destroy(&answer);
    fake_clear(&request);
}

static void test_poll_gives_answers_in_order_of_arrival(void **state) {
    fixture_t *f = *state;
    fake_message_t request[3];
    tm_answer_t *answer = NULL;
    assert_int_equal(tm_client_poll(f->client, -1, &answer, NULL), TM_E_NOT_FOUND);
    uint64_t id[3];
    for (int i = 0; i < 3; i++)
        id[i] = sample_submit(f->client, 0);
    assert_int_equal(tm_client_in_flight(f->client), 3);
    assert_int_equal(tm_client_poll(f->client, 0, &answer, NULL), TM_OK);
    assert_null(answer);
    assert_int_equal(tm_client_poll(f->client, 20, &answer, NULL), TM_OK);
    assert_null(answer);
    fake_welcome(&f->broker, NULL, NULL);
    for (int i = 0; i < 3; i++) {
        fake_expect(&f->broker, TM_CMD_REQUEST, &request[i]);
        assert_int_equal(request[i].m.id.serial, id[i]);
    }
    for (int i = 2; i >= 0; i--) {
        fake_answer(&f->broker, &request[i]);
        fake_clear(&request[i]);
    }
    for (int i = 2; i >= 0; i--) {
        assert_int_equal(tm_client_poll(f->client, PATIENCE_MS, &answer, NULL), TM_OK);
        assert_non_null(answer);
        assert_int_equal(answer->id, id[i]);
        tm_answer_destroy(&answer);
    }
    assert_int_equal(tm_client_poll(f->client, -1, &answer, NULL), TM_E_NOT_FOUND);
    assert_int_equal(tm_client_wait(f->client, id[0], -1, &answer, NULL), TM_E_NOT_FOUND);
    assert_int_equal(tm_client_in_flight(f->client), 0);
}

static void test_fd_is_readable_while_answers_wait(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    tm_answer_t *answer;
    uint64_t id[2];
    assert_false(readable(f->client));
    for (int i = 0; i < 2; i++)
        id[i] = sample_submit(f->client, 0);
    assert_false(readable(f->client));
    fake_welcome(&f->broker, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        fake_expect(&f->broker, TM_CMD_REQUEST, &request);
        fake_answer(&f->broker, &request);
        fake_clear(&request);
    }
    struct pollfd fd = {.fd = tm_client_fd(f->client), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
    sample_expect(f->client, id[1], TM_OK);
    assert_true(readable(f->client)); /* that of id[0] came before */
    assert_int_equal(tm_client_poll(f->client, 0, &answer, NULL), TM_OK);
    assert_non_null(answer);
    assert_int_equal(answer->id, id[0]);
    tm_answer_destroy(&answer);
    assert_false(readable(f->client));
}

static void test_cancel_ends_queued_and_sent_requests(void **state) {
    fixture_t *f = *state;
    fake_message_t request, cancel;
    uint64_t queued = sample_submit(f->client, 0);
    assert_int_equal(tm_client_cancel(f->client, queued, NULL), TM_OK);
    sample_expect(f->client, queued, TM_E_CANCELLED);
    assert_int_equal(tm_client_cancel(f->client, queued, NULL), TM_E_NOT_FOUND);

    uint64_t sent = sample_submit(f->client, 0);
    fake_welcome(&f->broker, NULL, NULL);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    assert_int_equal(request.m.id.serial, sent);
    assert_int_equal(tm_client_cancel(f->client, sent, NULL), TM_OK);
    fake_expect(&f->broker, TM_CMD_CANCEL, &cancel);
    assert_int_equal(cancel.m.id.serial, sent);
    fake_clear(&cancel);
    sample_expect(f->client, sent, TM_E_CANCELLED);
    fake_answer(&f->broker, &request); /* too late: nobody sees it */
    fake_clear(&request);

    uint64_t answered = sample_submit(f->client, 0);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    fake_answer(&f->broker, &request);
    fake_clear(&request);
    struct pollfd fd = {.fd = tm_client_fd(f->client), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
    assert_int_equal(tm_client_cancel(f->client, answered, NULL), TM_OK);
    sample_expect(f->client, answered, TM_OK); /* it was there already */
}

static void test_window_of_the_broker_is_kept(void **state) {
    fixture_t *f = *state;
    fake_message_t request[2], next;
    uint64_t id[4];
    for (int i = 0; i < 4; i++)
        id[i] = sample_submit(f->client, 0);
    fake_welcome(&f->broker, &(fake_welcome_t){.window = 2}, NULL);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request[0]);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request[1]);
    fake_expect_nothing(&f->broker, 100);
    fake_answer(&f->broker, &request[0]);
    fake_expect(&f->broker, TM_CMD_REQUEST, &next);
    assert_int_equal(next.m.id.serial, id[2]);
    fake_clear(&next);
    fake_expect_nothing(&f->broker, 100);
    fake_clear(&request[0]);
    fake_clear(&request[1]);
}

static void test_lower_priority_number_leaves_first(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint64_t id[3];
    sample_event_t event;
    sample_event_make(&event, SAMPLE_POINTS);
    for (uint32_t i = 0; i < 3; i++) {
        tm_request_options_t options = {.priority = 2 - i};
        assert_int_equal(tm_client_submit(f->client, &event.columns, &options, &id[i], NULL),
                         TM_OK);
    }
    sample_event_free(&event);
    fake_welcome(&f->broker, NULL, NULL);
    for (int i = 2; i >= 0; i--) {
        fake_expect(&f->broker, TM_CMD_REQUEST, &request);
        assert_int_equal(request.m.id.serial, id[i]);
        fake_clear(&request);
    }
}

static void test_event_beyond_the_brokers_limit_is_refused_here(void **state) {
    fixture_t *f = *state;
    uint64_t id = sample_submit(f->client, 0);
    fake_welcome(&f->broker, &(fake_welcome_t){.max_payload = 40}, NULL);
    tm_answer_t *answer = sample_wait(f->client, id);
    assert_int_equal(answer->status, TM_E_TOO_LARGE);
    assert_non_null(strstr(answer->error.text, f->broker.endpoint));
    tm_answer_destroy(&answer);
    fake_expect_nothing(&f->broker, 50);
}

static void test_late_and_foreign_answers_are_dropped(void **state) {
    fixture_t *f = *state;
    fake_message_t request;
    uint64_t id = sample_submit(f->client, 0);
    fake_welcome(&f->broker, NULL, NULL);
    fake_expect(&f->broker, TM_CMD_REQUEST, &request);
    uint64_t origin = request.m.id.origin;
    request.m.id.origin = origin + 1;
    fake_answer(&f->broker, &request);
    fake_error(&f->broker, &request, true, TM_E_BACKEND, "not yours", -1);
    request.m.id = (tm_id_t){origin, id + 1};
    fake_answer(&f->broker, &request);
    request.m.id.serial = id;
    fake_answer(&f->broker, &request);
    fake_answer(&f->broker, &request); /* twice */
    sample_expect(f->client, id, TM_OK);
    assert_int_equal(tm_client_in_flight(f->client), 0);
    fake_expect_nothing(&f->broker, 50);
    assert_false(readable(f->client));
    fake_clear(&request);
}

static void test_bytes_held_are_bounded(void **state) {
    (void)state;
    fake_broker_t broker = {0};
    fake_open(&broker);
    tm_client_t *client;
    sample_event_t event;
    uint64_t id;
    tm_error_t error;
    sample_event_make(&event, 100); /* 1200 bytes as x, y, z f32, and padding */
    tm_client_options_t options = {.name = "test", .max_bytes = 3000};
    assert_int_equal(tm_client_new(broker.endpoint, &options, &client, NULL), TM_OK);
    assert_int_equal(tm_client_submit(client, &event.columns, NULL, &id, NULL), TM_OK);
    assert_int_equal(tm_client_submit(client, &event.columns, NULL, &id, NULL), TM_OK);
    assert_int_equal(tm_client_submit(client, &event.columns, NULL, &id, &error), TM_E_BUSY);
    sample_event_free(&event);
    fake_message_t hello, request;
    fake_welcome(&broker, NULL, &hello);
    assert_memory_equal(hello.m.name.data, "test", 4);
    fake_clear(&hello);
    fake_expect(&broker, TM_CMD_REQUEST, &request);
    fake_answer(&broker, &request);
    sample_expect(client, request.m.id.serial, TM_OK);
    fake_clear(&request);
    sample_submit(client, 0); /* there is room again */
    sample_event_make(&event, 1000);
    assert_int_equal(tm_client_submit(client, &event.columns, NULL, &id, &error), TM_E_TOO_LARGE);
    sample_event_free(&event);
    tm_client_destroy(&client);
    fake_close(&broker);
}

static void test_bad_arguments_are_named(void **state) {
    fixture_t *f = *state;
    tm_error_t error;
    tm_client_t *client = NULL;
    const char *const bad[] = {"",
                               "tcp://",
                               "tcp://host",
                               "tcp://host:",
                               "tcp://host:0",
                               "tcp://host:65536",
                               "tcp://:5570",
                               "http://host:80",
                               "host:5570",
                               "tcp://a:1,,tcp://b:2",
                               "ipc://"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(tm_client_new(bad[i], NULL, &client, &error), TM_E_ARGUMENT);
        assert_null(client);
    }
    assert_int_equal(tm_client_new(NULL, NULL, &client, &error), TM_E_ARGUMENT);
    char long_name[TM_NAME_MAX + 2];
    memset(long_name, 'n', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    assert_int_equal(tm_client_new(f->broker.endpoint, &(tm_client_options_t){.name = long_name},
                                   &client, &error),
                     TM_E_ARGUMENT);
    assert_int_equal(
        tm_client_new(f->broker.endpoint, &(tm_client_options_t){.name = "a\nb"}, &client, &error),
        TM_E_ARGUMENT);

    sample_event_t event;
    uint64_t id;
    sample_event_make(&event, SAMPLE_POINTS);
    const tm_request_options_t options[] = {{.priority = TM_PRIORITIES},
                                            {.ttl_ms = TM_TTL_MAX_MS + 1},
                                            {.model = "a@"},
                                            {.model = "@1"},
                                            {.model = "a b"},
                                            {.model = "a@1@2"}};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        assert_int_equal(tm_client_submit(f->client, &event.columns, &options[i], &id, &error),
                         TM_E_ARGUMENT);
    event.y[3] = __builtin_nanf("");
    assert_int_equal(tm_client_submit(f->client, &event.columns, NULL, &id, &error),
                     TM_E_BAD_EVENT);
    event.columns.count = 2;
    assert_int_equal(tm_client_submit(f->client, &event.columns, NULL, &id, &error),
                     TM_E_MISSING_COLUMN);
    sample_event_free(&event);
    assert_int_equal(tm_client_in_flight(f->client), 0);
    tm_answer_t *answer;
    assert_int_equal(tm_client_wait(f->client, 1, 0, &answer, &error), TM_E_NOT_FOUND);
    assert_int_equal(tm_client_wait(f->client, 0, 0, &answer, &error), TM_E_NOT_FOUND);
    assert_int_equal(tm_client_cancel(f->client, 1, &error), TM_E_NOT_FOUND);
}

static void test_silent_client_pings_and_answers_pings(void **state) {
    fixture_t *f = *state;
    fake_message_t hello, message;
    tm_message_t ping = {.command = TM_CMD_PING}, pong = {.command = TM_CMD_PONG};
    fake_welcome(&f->broker, &(fake_welcome_t){.heartbeat_ms = 50, .liveness = 40}, &hello);
    fake_send(&f->broker, &hello, &ping, NULL, 0);
    bool pinged = false, ponged = false;
    while (!pinged || !ponged) {
        assert_true(fake_receive_any(&f->broker, PATIENCE_MS, &message));
        if (message.m.command == TM_CMD_PING) {
            pinged = true;
            fake_send(&f->broker, &message, &pong, NULL, 0);
        } else {
            assert_int_equal(message.m.command, TM_CMD_PONG);
            ponged = true;
        }
        fake_clear(&message);
    }
    fake_clear(&hello);
}

static void test_destroy_says_bye(void **state) {
    fixture_t *f = *state;
    sample_submit(f->client, 0);
    fake_welcome(&f->broker, NULL, NULL);
    fake_expect_only(&f->broker, TM_CMD_REQUEST);
    tm_client_destroy(&f->client);
    fake_expect_only(&f->broker, TM_CMD_BYE);
}

static void test_destroy_without_a_broker_is_quick(void **state) {
    (void)state;
    tm_client_t *client;
    assert_int_equal(tm_client_new("tcp://127.0.0.1:1", NULL, &client, NULL), TM_OK);
    for (int i = 0; i < 10; i++)
        sample_submit(client, 0);
    uint64_t before = tm_client_now_us();
    tm_client_destroy(&client);
    assert_true(tm_client_now_us() - before < 3000000);
    tm_client_destroy(&client);
    tm_client_destroy(NULL);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_request_carries_the_event_and_answer_the_tracks),
        TEST(test_request_without_options_takes_the_usual_values),
        TEST(test_error_of_the_back_end_is_the_answer),
        TEST(test_poll_gives_answers_in_order_of_arrival),
        TEST(test_fd_is_readable_while_answers_wait),
        TEST(test_cancel_ends_queued_and_sent_requests),
        TEST(test_window_of_the_broker_is_kept),
        TEST(test_lower_priority_number_leaves_first),
        TEST(test_event_beyond_the_brokers_limit_is_refused_here),
        TEST(test_late_and_foreign_answers_are_dropped),
        cmocka_unit_test(test_bytes_held_are_bounded),
        TEST(test_bad_arguments_are_named),
        TEST(test_silent_client_pings_and_answers_pings),
        TEST(test_destroy_says_bye),
        cmocka_unit_test(test_destroy_without_a_broker_is_quick),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
