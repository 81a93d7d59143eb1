/*
 * The bits of dirty bitmaps in memory, against a flat array.
 */
#include "bitmap_helpers.h"

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static void check_bits(const struct bitmap *b, const uint8_t *flat, uint64_t bits)
{
    uint64_t bytes = align_up(div_round_up(bits, 8), 8);
    uint8_t *buf = calloc(1, bytes);

    bitmap_bits_merge(b, 0, buf, bytes);
    for (uint64_t i = 0; i < bytes * 8; i++) {
        if ((buf[i / 8] >> i % 8 & 1) != (i < bits ? flat[i] : 0)) {
            fail_msg("bit %ju of %ju", (uintmax_t)i, (uintmax_t)bits);
        }
    }
    for (uint64_t at = 0; at < bytes; at += 8) {
        bool any = false;

        for (uint64_t i = at * 8; i < at * 8 + 64 && i < bits; i++) {
            any = any || flat[i];
        }
        assert_int_equal(bitmap_bits_touch(b, at, 8), any);
    }
    free(buf);
}

static void bits_in_memory_are_those_of_a_flat_array(void **state)
{
    enum { MAX_BITS = 200000 };
    static uint8_t flat[MAX_BITS];
    uint64_t seed = UINT64_C(0xb175) + (uint64_t)getpid();

    (void)state;
    print_message("seed %ju\n", (uintmax_t)seed);
    rng_state = seed;
    for (unsigned round = 0; round < 20; round++) {
        uint64_t bits = 1 + rng() % MAX_BITS, cut;
        struct qcow2_bitmaps set = {.count = 0};
        struct bitmap b = {.now.bits = bits};

        memset(flat, 0, sizeof(flat));
        bitmap_bits_prepare(&set, &b, bits);
        for (unsigned i = 0; i < 30; i++) {
            uint64_t first = rng() % bits;
            uint64_t last = first + rng() % min_u64(bits - first, i % 3 == 0 ? 70000 : 70);

            bitmap_bits_set(&set, &b, first, last);
            memset(flat + first, 1, last - first + 1);
        }
        check_bits(&b, flat, bits);
        cut = rng() % bits;
        bitmap_bits_cut(&b, cut);
        memset(flat + cut, 0, sizeof(flat) - cut);
        check_bits(&b, flat, bits);
        assert_false(atomic_load(&b.is_lost));
        bitmap_bits_drop(&set, &b);
        assert_int_equal(atomic_load(&set.memory), 0);
    }
}

static void masking_leaves_the_first_bits_alone(void **state)
{
    (void)state;
    for (uint64_t bits = 990; bits < 1200; bits++) {
        uint8_t buf[16];

        memset(buf, 0xff, sizeof(buf));
        bitmap_bits_mask(buf, sizeof(buf), 1000, bits);
        for (uint64_t i = 0; i < 128; i++) {
            assert_int_equal(buf[i / 8] >> i % 8 & 1, 1000 + i < bits);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_in_memory_are_those_of_a_flat_array),
        cmocka_unit_test(masking_leaves_the_first_bits_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
