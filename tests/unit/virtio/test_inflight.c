/* What is written down about chains in flight, after a crash between any two stores that the device makes. */
#include "inflight.h"

#include "harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 16, BYTES = 16 + SIZE * 16, BATCH = 4 };

/* What must be found: heads in the order in which they were taken. */
struct model {
    uint16_t heads[SIZE];
    unsigned count;
    uint16_t used_idx; /* of the ring */
};

static void model_remove(struct model *model, uint16_t head)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < model->count; i++) {
        if (model->heads[i] != head)
            model->heads[kept++] = model->heads[i];
    }
    model->count = kept;
}

/* The next back end begins with a copy of the memory and of the used ring's index. */
static void crash(const uint8_t *memory, const struct model *model)
{
    _Alignas(64) uint8_t copy[BYTES];
    struct inflight inflight;
    uint16_t head;

    memcpy(copy, memory, sizeof(copy));
    assert_int_equal(inflight_attach(&inflight, copy, SIZE, SIZE, model->used_idx), 0);
    assert_int_equal(inflight.resubmit_count, model->count);
    for (unsigned i = 0; i < model->count; i++) {
        assert_true(inflight_resubmit(&inflight, &head));
        assert_int_equal(head, model->heads[i]);
    }
    assert_false(inflight_resubmit(&inflight, &head));
    inflight_detach(&inflight);
}

static void test_a_crash_at_any_moment(void **state)
{
    _Alignas(64) uint8_t memory[BYTES] = {0};
    struct model model = {.used_idx = 65530}; /* it wraps on the way */
    struct inflight inflight;
    uint64_t seed = test_seed();

    (void)state;
    assert_int_equal(inflight_region_size(SIZE), (BYTES + 63) / 64 * 64);
    assert_int_equal(inflight_attach(&inflight, memory, SIZE, SIZE, model.used_idx), 0);
    for (unsigned round = 0; round < 2000; round++) {
        struct model visible;
        unsigned batch = 0, take = (unsigned)(test_random(&seed) % BATCH);

        for (; take > 0 && model.count < SIZE; take--) {
            uint16_t head = (uint16_t)(test_random(&seed) % SIZE);
            unsigned i = 0;

            while (i < model.count && model.heads[i] != head)
                i++;
            if (i < model.count)
                continue; /* in flight already */
            inflight_taken(&inflight, head);
            model.heads[model.count++] = head;
            crash(memory, &model);
        }
        visible = model;
        while (batch < BATCH && visible.count > 0 && test_random(&seed) % 4 != 0) {
            uint16_t head = visible.heads[test_random(&seed) % visible.count];

            inflight_pushed(&inflight, head);
            crash(memory, &model); /* nobody has seen it yet */
            model_remove(&visible, head);
            batch++;
        }
        if (batch == 0)
            continue;
        visible.used_idx = (uint16_t)(model.used_idx + batch);
        model = visible;
        crash(memory, &model); /* the ring's index is stored, the marks are still there */
        inflight_published(&inflight, (uint16_t)batch, model.used_idx);
        crash(memory, &model);
    }
    inflight_detach(&inflight);
}

static void test_a_ring_that_was_set_up_anew(void **state)
{
    _Alignas(64) uint8_t memory[BYTES] = {0};
    struct model model = {.used_idx = 40};
    struct inflight inflight;

    (void)state;
    assert_int_equal(inflight_attach(&inflight, memory, SIZE, SIZE, 100), 0);
    inflight_taken(&inflight, 3);
    inflight_detach(&inflight);
    crash(memory, &model); /* its used ring is not where it was: nothing is in flight */
}

static void test_hostile_memory(void **state)
{
    _Alignas(64) uint8_t memory[BYTES];
    struct inflight inflight;
    uint64_t seed = test_seed();

    (void)state;
    for (unsigned round = 0; round < 20000; round++) {
        int ret;
        uint16_t head;

        for (unsigned i = 0; i < sizeof(memory); i++)
            memory[i] = (uint8_t)test_random(&seed);
        if (test_random(&seed) % 4 != 0) {
            const uint16_t version_and_size[] = {(uint16_t)(test_random(&seed) % 3), SIZE};

            memcpy(memory + 8, version_and_size, sizeof(version_and_size));
        }
        ret = inflight_attach(&inflight, memory, SIZE, SIZE, (uint16_t)test_random(&seed));
        if (ret < 0) {
            assert_int_equal(ret, -EPROTO);
            continue;
        }
        assert_true(inflight.resubmit_count <= SIZE);
        while (inflight_resubmit(&inflight, &head))
            assert_true(head < SIZE);
        memset(memory, 0xff, sizeof(memory)); /* while it is in use */
        inflight_taken(&inflight, 1);
        inflight_pushed(&inflight, 1);
        inflight_published(&inflight, SIZE, 7);
        inflight_detach(&inflight);
    }
    assert_int_equal(inflight_attach(&inflight, memory, SIZE, SIZE * 2, 0), -EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_crash_at_any_moment),
        cmocka_unit_test(test_a_ring_that_was_set_up_anew),
        cmocka_unit_test(test_hostile_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
