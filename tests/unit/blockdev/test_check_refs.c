/*
 * test_check_refs.c - the counters of `check` beside a plain array: counts beyond a byte and beyond 32
 * bits, counters that lie far apart, the walk over them in order.
 */
#include "fixture.h"

#include "qcow2/check.h"

enum { CLUSTERS = 1 << 20, PLACES = 5000, ROUNDS = 40000 };

/* Repeatable and spread over all of the file. */
static uint64_t place(unsigned number)
{
    return number % 2 == 0 ? number : (uint64_t)number * 7919 % CLUSTERS;
}

static void counts_are_those_of_an_array(void **state)
{
    static const uint32_t steps[] = {1, 1, 1, 3, 200, 255, 256, 70000, UINT32_MAX};
    uint32_t *model = calloc(CLUSTERS, sizeof(*model));
    struct check_refs refs;
    uint64_t at = 0;

    (void)state;
    assert_non_null(model);
    check_refs_init(&refs, CLUSTERS);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t cluster = place(i * 31 % PLACES);
        uint32_t times = steps[i / 7 % ARRAY_LEN(steps)];

        if (i % 11 == 10) {
            assert_int_equal(check_refs_take(&refs, cluster), model[cluster]);
            model[cluster] = 0;
        } else {
            assert_int_equal(check_refs_add(&refs, cluster, times), 0);
            model[cluster] =
                model[cluster] > UINT32_MAX - times ? UINT32_MAX : model[cluster] + times;
        }
        assert_int_equal(check_refs_get(&refs, cluster), model[cluster]);
    }
    for (uint64_t cluster = 0; cluster < CLUSTERS; cluster++) {
        assert_int_equal(check_refs_get(&refs, cluster), model[cluster]);
        if (model[cluster] != 0) {
            assert_true(check_refs_next(&refs, &at, CLUSTERS));
            assert_int_equal(at, cluster);
            at++;
        }
    }
    assert_false(check_refs_next(&refs, &at, CLUSTERS));
    check_refs_clear(&refs);
    assert_false(check_refs_touched(&refs, 0, CLUSTERS));
    check_refs_free(&refs);
    free(model);
}

static void nothing_beyond_the_file_is_counted(void **state)
{
    struct check_refs refs;

    (void)state;
    check_refs_init(&refs, 100);
    assert_int_equal(check_refs_add(&refs, 100, 1), 0);
    assert_int_equal(check_refs_get(&refs, 100), 0);
    check_refs_grow(&refs, 101);
    assert_int_equal(check_refs_add(&refs, 100, 1), 0);
    assert_true(check_refs_touched(&refs, 64, 64));
    assert_false(check_refs_touched(&refs, 0, 100));
    check_refs_free(&refs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_those_of_an_array),
        cmocka_unit_test(nothing_beyond_the_file_is_counted),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
