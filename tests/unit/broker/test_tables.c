// SPDX-License-Identifier: Apache-2.0
/*
 * The scheduler's tables: slab, index, list, histogram.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/core/index.h"
#include "broker/core/list.h"
#include "broker/core/slab.h"
#include "broker/core/stats.h"

enum { ITEMS = 1000, ROUNDS = 20000 };

static void test_slab(void **state) {
    (void)state;
    tm_slab_t slab;
    tm_slab_init(&slab, sizeof(uint64_t));
    uint64_t *items[ITEMS];
    uint32_t slots[ITEMS];
    for (uint64_t i = 0; i < ITEMS; i++) {
        assert_int_equal(tm_slab_reserve(&slab), TM_OK);
        items[i] = tm_slab_take(&slab, &slots[i]);
        assert_int_equal(*items[i], 0);
        *items[i] = i;
    }
    for (uint64_t i = 0; i < ITEMS; i++) {
        assert_int_equal(*items[i], i); // nothing moved, nothing overlaps
        assert_ptr_equal(tm_slab_get(&slab, slots[i]), items[i]);
    }
    uint32_t capacity = slab.capacity;
    for (int i = 0; i < ITEMS; i += 2)
        tm_slab_put(&slab, slots[i]);
    for (int i = 0; i < ITEMS; i += 2) {
        assert_int_equal(tm_slab_reserve(&slab), TM_OK);
        assert_int_equal(*(uint64_t *)tm_slab_take(&slab, &slots[i]), 0);
    }
    assert_int_equal(slab.capacity, capacity);
    assert_null(tm_slab_get(&slab, capacity));
    tm_slab_clear(&slab);
}

/* Against a plain array, with keys that collide often. */
static void test_index(void **state) {
    (void)state;
    enum { KEYS = 300 };
    tm_index_t index;
    tm_index_init(&index, 42);
    assert_null(tm_index_find(&index, 1, 1));
    tm_index_remove(&index, 1, 1);
    char values[KEYS];
    bool there[KEYS] = {false};
    uint32_t count = 0;
    srand(7);
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t key = (uint32_t)rand() % KEYS;
        if (there[key]) {
            tm_index_remove(&index, key / 10, key % 10);
            count--;
        } else {
            assert_int_equal(tm_index_reserve(&index, count + 1), TM_OK);
            tm_index_insert(&index, key / 10, key % 10, &values[key]);
            count++;
        }
        there[key] = !there[key];
        assert_int_equal(index.count, count);
        if (round % 100 == 0)
            for (uint32_t k = 0; k < KEYS; k++)
                assert_ptr_equal(tm_index_find(&index, k / 10, k % 10),
                                 there[k] ? &values[k] : NULL);
    }
    tm_index_clear(&index);
}

static void test_list(void **state) {
    (void)state;
    struct item {
        int number;
        tm_link_t link;
    } items[4] = {{.number = 0}, {.number = 1}, {.number = 2}, {.number = 3}};
    tm_link_t head;
    tm_list_init(&head);
    assert_true(tm_list_empty(&head));
    for (int i = 0; i < 3; i++)
        tm_list_push_back(&head, &items[i].link);
    tm_list_push_front(&head, &items[3].link);
    tm_list_remove(&items[1].link);
    tm_list_remove(&items[1].link);
    const int expected[] = {3, 0, 2};
    int n = 0;
    TM_LIST_EACH(&head, it, after) {
        struct item *item = TM_LIST_ITEM(it, struct item, link);
        assert_int_equal(item->number, expected[n++]);
        tm_list_remove(it);
    }
    assert_int_equal(n, 3);
    assert_true(tm_list_empty(&head));
}

static void test_histogram(void **state) {
    (void)state;
    tm_histogram_t histogram = {0};
    tm_histogram_add(&histogram, 0);
    tm_histogram_add(&histogram, 500);
    tm_histogram_add(&histogram, 501);
    tm_histogram_add(&histogram, UINT32_MAX);
    assert_int_equal(histogram.count, 4);
    assert_int_equal(histogram.sum_us, 1001 + (uint64_t)UINT32_MAX);
    assert_int_equal(histogram.bucket[0], 2);
    assert_int_equal(histogram.bucket[1], 1);
    assert_int_equal(histogram.bucket[TM_HISTOGRAM_BOUNDS], 1);
    for (uint32_t i = 1; i < TM_HISTOGRAM_BOUNDS; i++)
        assert_true(tm_histogram_bound_us(i) > tm_histogram_bound_us(i - 1));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slab),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_histogram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
