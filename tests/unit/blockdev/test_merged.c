/*
 * What is remembered of the layers below the top is what those layers hold: for every offset, however answers
 * displace each other, from several threads at once.
 */
#include "block.h"
#include "checked.h"
#include "fixture.h"
#include "merged.h"

#include <pthread.h>

enum {
    MIB = 1 << 20,
    DEVICE = 64 * MIB, /* four times what the table holds in the smallest pieces */
    THREADS = 4,
    READS = 300000,
    PIECE = 512,
};

static uint8_t *model;

struct reader {
    struct blk *blk;
    uint64_t random;
    bool is_wrong;
};

static uint64_t next(uint64_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    return *random;
}

/* Random pieces of data and zeros in one layer, and in the model. */
static void fill(const char *path, uint64_t *random, unsigned writes, uint64_t longest)
{
    struct blk *blk = open_image(path, true);
    uint8_t *bytes = malloc(longest);

    assert_non_null(bytes);
    for (unsigned i = 0; i < writes; i++) {
        uint64_t length = (1 + next(random) % (longest / PIECE)) * PIECE;
        uint64_t offset = next(random) % ((DEVICE - length) / PIECE) * PIECE;
        bool is_zero = next(random) % 8 == 0;

        for (uint64_t at = 0; at < length; at += 8) {
            uint64_t value = is_zero ? 0 : next(random);

            memcpy(bytes + at, &value, 8);
        }
        if (is_zero)
            assert_int_equal(blk_pwrite_zeroes(blk, offset, length, 0), 0);
        else
            assert_int_equal(blk_pwrite(blk, offset, bytes, length), 0);
        memcpy(model + offset, bytes, length);
    }
    free(bytes);
    close_image(blk);
}

static void make_chain(uint64_t *random)
{
    shell("truncate -s 64M l0.raw");
    shell("qemu-img create -q -f qcow2 -o cluster_size=512 -b l0.raw -F raw l1.qcow2");
    shell("qemu-img create -q -f qcow2 -o cluster_size=64k,extended_l2=on -b l1.qcow2 -F qcow2 "
          "l2.qcow2");
    shell("qemu-img create -q -f qcow2 -o cluster_size=2M -b l2.qcow2 -F qcow2 l3.qcow2 60M");
    shell("qemu-img create -q -f qcow2 -b l3.qcow2 -F qcow2 l4.qcow2 64M");
    shell("qemu-img create -q -f qcow2 -b l4.qcow2 -F qcow2 l5.qcow2");
    model = calloc(1, DEVICE);
    assert_non_null(model);
    fill("l0.raw", random, 400, 200000);
    fill("l1.qcow2", random, 3000, 4096);
    fill("l2.qcow2", random, 600, 20000);
    memset(model + 60 * MIB, 0, 4 * MIB); /* the next layer is shorter */
    {
        struct blk *blk = open_image("l3.qcow2", true);

        write_bytes(blk, 8 * MIB, 4 * MIB, 0x33);
        memset(model + 8 * MIB, 0x33, 4 * MIB);
        close_image(blk);
    }
    fill("l5.qcow2", random, 50, 100000);
}

static void *read_at_random(void *opaque)
{
    struct reader *reader = opaque;
    uint8_t bytes[64 * PIECE];

    for (unsigned i = 0; i < READS && !reader->is_wrong; i++) {
        uint64_t length = next(&reader->random) % 8 == 0 ? sizeof(bytes) : PIECE;
        uint64_t offset = next(&reader->random) % (DEVICE - length);

        if (blk_pread(reader->blk, offset, bytes, length) != 0 ||
            memcmp(bytes, model + offset, length) != 0)
            reader->is_wrong = true;
    }
    return NULL;
}

static void every_reader_sees_what_the_layers_hold(void **state)
{
    const char *given = getenv("SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : 1, random = seed * 2654435761 + 1;
    struct reader readers[THREADS];
    pthread_t threads[THREADS];
    struct blk *blk;

    (void)state;
    print_message("# SEED=%llu\n", (unsigned long long)seed);
    make_chain(&random);
    blk = open_image("l5.qcow2", false);
    for (unsigned i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){.blk = blk, .random = next(&random)};
        assert_int_equal(pthread_create(&threads[i], NULL, read_at_random, &readers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_false(readers[i].is_wrong);
    }
    close_image(blk);
    free(model);
}

/* One look through a deep chain answers for the pieces around as well; through a shallow one it does not,
 * where asking costs no more than remembering. */
static void an_answer_of_a_deep_chain_serves_its_neighbours(void **state)
{
    enum { LAYERS = 20, SLOTS = 1 + LAYERS / 4, GRANULE = 64 << 10, FIRST = 8 * MIB };
    struct layer_extent extent;
    struct blk *blk, *layer;
    char bytes[512];
    unsigned depth;

    (void)state;
    shell("head -c 16M /dev/urandom >base.raw");
    shell("qemu-img create -q -f qcow2 -b base.raw -F raw d1.qcow2");
    for (unsigned i = 2; i <= LAYERS; i++) {
        shell("qemu-img create -q -f qcow2 -b d%u.qcow2 -F qcow2 d%u.qcow2", i - 1, i);
    }
    blk = open_image("d20.qcow2", false);
    assert_int_equal(blk_pread(blk, FIRST + 5 * 512, bytes, sizeof(bytes)), 0);
    for (unsigned i = 0; i < SLOTS; i++) {
        uint64_t offset = FIRST + i * (uint64_t)GRANULE + 512;

        assert_true(merged_find(blk->merged, offset, MIB, &layer, &depth, &extent));
        assert_int_equal(depth, LAYERS);
        assert_int_equal(extent.kind, BLK_EXTENT_DATA);
        assert_int_equal(extent.host_offset, offset);
        /* The look was for a MiB from the byte that was read on. */
        assert_int_equal(extent.length, min_u64(MIB, FIRST + 5 * 512 + MIB - offset));
    }
    assert_false(
        merged_find(blk->merged, FIRST + SLOTS * (uint64_t)GRANULE, MIB, &layer, &depth, &extent));
    close_image(blk);

    blk = open_image("d2.qcow2", false);
    assert_int_equal(blk_pread(blk, FIRST, bytes, sizeof(bytes)), 0);
    assert_true(merged_find(blk->merged, FIRST, MIB, &layer, &depth, &extent));
    assert_false(merged_find(blk->merged, FIRST + GRANULE, MIB, &layer, &depth, &extent));
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_of_a_deep_chain_serves_its_neighbours),
        cmocka_unit_test(every_reader_sees_what_the_layers_hold),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
