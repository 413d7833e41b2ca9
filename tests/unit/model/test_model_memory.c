// SPDX-License-Identifier: Apache-2.0
/*
 * Memory that runs out while a model is loaded: each of the loader's own allocations fails once, and
 * each time the answer is TM_E_NO_MEMORY with a text, and nothing leaks (which a sanitizer sees).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nn/model.h"
#include "tests/support/model_zoo.h"

/* The linker sends every call of these in the loader here (--wrap). */
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);

static long countdown = -1; /* the allocation after so many fails; negative: none */

static bool fails(void) {
    return countdown >= 0 && countdown-- == 0;
}

void *__wrap_malloc(size_t bytes) {
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes) {
    return fails() ? NULL : __real_calloc(count, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

/* Returns how many allocations a load takes. */
static long run(const char *entry, tm_type_t type) {
    const tm_zoo_entry_t *zoo = tm_zoo;
    while (strcmp(zoo->name, entry) != 0) {
        zoo++;
        assert_non_null(zoo->name);
    }
    tm_model_writer_t *w = tm_model_writer_new(1);
    const char *json = zoo->build(w);
    uint64_t width = 8;
    tm_model_writer_tensor(w, "input_network.0.bias", type, 1, &width, NULL, 1);
    size_t bytes = 0;
    uint8_t *data = tm_model_writer_bytes(w, json, &bytes);
    tm_model_t *model = NULL;
    long allowed = -1;
    bool failed = true;
    while (failed) {
        tm_error_t err = {0};
        countdown = ++allowed;
        tm_status_t status = tm_model_from_memory(data, bytes, "m", &model, &err);
        failed = countdown < 0; /* one did, so the load must have failed */
        countdown = -1;
        if (failed ? status != TM_E_NO_MEMORY || model != NULL ||
                         strncmp(err.text, "m: out of memory", 16) != 0
                   : status != TM_OK) {
            fail_msg("allocation %ld: status %d \"%s\"", allowed, status, err.text);
        }
    }
    tm_model_destroy(&model);
    free(data);
    tm_model_writer_destroy(&w);
    return allowed;
}

static void test_every_allocation(void **state) {
    (void)state;
    long own = run("resagnn_small", TM_F32);
    assert_in_range(own, 5, 20);
    /* one more, to convert half precision */
    assert_int_equal(run("resagnn_small", TM_F16), own + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
