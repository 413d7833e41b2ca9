// SPDX-License-Identifier: Apache-2.0
#include "nn/cpu/memory.h"

#include <stdint.h>
#include <string.h>

#include "tests/unit/nn/sample.h"

static void buffers_grow_and_stay(void **state) {
    (void)state;
    tm_buffer_t buffer = {0};
    tm_error_t err = {0};
    assert_int_equal(tm_buffer_reserve(&buffer, 0, 4, "nothing", &err), TM_OK);
    assert_non_null(buffer.data);
    assert_int_equal(tm_buffer_reserve(&buffer, 1000, 4, "test", &err), TM_OK);
    assert_true(buffer.bytes >= 4000);
    assert_int_equal((uintptr_t)buffer.data % 64, 0);
    memset(buffer.data, 1, 4000);
    void *before = buffer.data;
    assert_int_equal(tm_buffer_reserve(&buffer, 10, 4, "test", &err), TM_OK);
    assert_ptr_equal(buffer.data, before);
    tm_buffer_free(&buffer);
    assert_null(buffer.data);
    assert_int_equal(buffer.bytes, 0);
}

static void too_much_is_refused(void **state) {
    (void)state;
    tm_buffer_t buffer = {0};
    tm_error_t err = {0};
    assert_int_equal(tm_buffer_reserve(&buffer, SIZE_MAX / 2, 4, "too much", &err), TM_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "too much"));
    assert_int_equal(tm_buffer_reserve(&buffer, (size_t)1 << 46, 4, "64 TiB and more", &err),
                     TM_E_NO_MEMORY);
    assert_non_null(strstr(err.text, "MiB"));
    assert_null(buffer.data);
    assert_int_equal(tm_buffer_reserve(&buffer, 16, 4, "little", &err), TM_OK);
    tm_buffer_free(&buffer);
}

static void available_memory_is_known(void **state) {
    (void)state;
    size_t available = tm_memory_available();
    assert_true(available > (size_t)1 << 20);
    tm_error_t err = {0};
    assert_int_equal(tm_memory_check(1, "a byte", &err), TM_OK);
    if (available != SIZE_MAX) {
        assert_int_equal(tm_memory_check(available * 2, "all of it", &err), TM_E_NO_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_grow_and_stay),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(available_memory_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
