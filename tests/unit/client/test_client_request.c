// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "client/client_request.h"

#define MANY 1000

static void test_table_finds_what_is_there(void **state) {
    (void)state;
    tm_request_table_t table = {0};
    assert_null(tm_request_table_find(&table, 1));
    for (uint64_t serial = 1; serial <= MANY; serial++) {
        tm_request_t *request = calloc(1, sizeof *request);
        assert_non_null(request);
        request->serial = serial;
        assert_int_equal(tm_request_table_add(&table, request, NULL), TM_OK);
    }
    assert_int_equal(table.count, MANY);
    for (uint64_t serial = 1; serial <= MANY; serial += 3) {
        tm_request_t *request = tm_request_table_find(&table, serial);
        assert_non_null(request);
        assert_int_equal(request->serial, serial);
        tm_request_table_remove(&table, request);
        tm_request_destroy(&request);
    }
    for (uint64_t serial = 0; serial <= MANY + 1; serial++) {
        bool there = serial >= 1 && serial <= MANY && serial % 3 != 1;
        assert_int_equal(tm_request_table_find(&table, serial) != NULL, there);
    }
    tm_request_table_clear(&table); /* a leak would be the sanitizer's to find */
    assert_int_equal(table.count, 0);
    assert_null(tm_request_table_find(&table, 2));
}

static void test_blob_lives_as_long_as_its_last_message(void **state) {
    (void)state;
    float x[] = {1, 2}, y[] = {3, 4}, z[] = {5, 6};
    tm_columns_t event = {0};
    tm_columns_add(&event, "x", TM_F32, 2, x, NULL);
    tm_columns_add(&event, "y", TM_F32, 2, y, NULL);
    tm_columns_add(&event, "z", TM_F32, 2, z, NULL);
    tm_request_t *request;
    assert_int_equal(tm_request_new(&event, 2, &request, NULL), TM_OK);
    assert_int_equal(request->payload->bytes, 24);
    assert_non_null(request->answer);
    atomic_uint held = 0;
    zmq_msg_t first, second;
    assert_int_equal(tm_blob_message(request->payload, &held, &first, NULL), TM_OK);
    assert_int_equal(tm_blob_message(request->payload, &held, &second, NULL), TM_OK);
    assert_int_equal(held, 2);
    zmq_msg_close(&first);
    assert_int_equal(held, 1);
    tm_request_destroy(&request);
    assert_null(request);
    /* the request is gone, the bytes are not */
    assert_memory_equal(zmq_msg_data(&second), x, sizeof x);
    zmq_msg_close(&second);
    assert_int_equal(held, 0);
}

static void test_event_that_cannot_travel_is_refused(void **state) {
    (void)state;
    static const float x = 0;
    tm_columns_t event = {0};
    tm_request_t *request;
    tm_error_t error;
    for (int i = 0; i < TM_COLUMNS_MAX; i++) {
        char name[] = {'c', (char)('a' + i / 10), (char)('a' + i % 10), '\0'};
        /* far more than the array holds; the sizes are summed before anything is read */
        assert_int_equal(tm_columns_add(&event, name, TM_F64, TM_POINTS_MAX, &x, NULL), TM_OK);
    }
    assert_int_equal(tm_request_new(&event, TM_POINTS_MAX, &request, &error), TM_E_TOO_LARGE);
    assert_null(request);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_finds_what_is_there),
        cmocka_unit_test(test_blob_lives_as_long_as_its_last_message),
        cmocka_unit_test(test_event_that_cannot_travel_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
