/*
 * Seeded random operations on a chain and on a flat array give the same bytes, over cluster sizes,
 * versions and backing files; and qemu-img finds nothing wrong with the result.
 */
#include "fixture.h"

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static void random_range(uint64_t size, uint64_t longest, uint64_t *offset, uint64_t *length)
{
    *length = 1 + rng() % longest;
    *offset = rng() % size;
    if (rng() % 3 == 0) {
        *offset = align_down(*offset, 4096);
        *length = align_up(*length, 4096);
    }
    *length = min_u64(*length, size - *offset);
}

/* Discarded bytes may keep their value or read as zeros, a cluster at a time: taken over from the
 * image, after a look that they are one or the other. */
static void adopt_discard(struct blk *blk, uint8_t *flat, uint64_t offset, uint64_t length)
{
    uint8_t *now = malloc(length);

    assert_int_equal(blk_pread(blk, offset, now, length), 0);
    for (uint64_t i = 0; i < length; i++) {
        if (now[i] != 0 && now[i] != flat[offset + i]) {
            fail_msg("after a discard byte %#jx is neither zero nor what it was",
                     (uintmax_t)(offset + i));
        }
    }
    memcpy(flat + offset, now, length);
    free(now);
}

static void one_operation(struct blk *blk, uint8_t *flat, uint64_t size, uint64_t longest)
{
    uint64_t offset, length;
    uint8_t *buffer;

    random_range(size, longest, &offset, &length);
    buffer = malloc(length);
    switch (rng() % 16) {
    case 0:
        assert_int_equal(blk_flush(blk), 0);
        break;
    case 1:
        assert_int_equal(blk_pdiscard(blk, offset, length), 0);
        adopt_discard(blk, flat, offset, length);
        break;
    case 2:
    case 3:
        assert_int_equal(blk_pwrite_zeroes(blk, offset, length, rng() % 2 ? BLK_REQ_MAY_UNMAP : 0),
                         0);
        memset(flat + offset, 0, length);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
        assert_int_equal(blk_pread(blk, offset, buffer, length), 0);
        if (memcmp(buffer, flat + offset, length) != 0) {
            fail_msg("read of %#jx+%#jx differs", (uintmax_t)offset, (uintmax_t)length);
        }
        break;
    default:
        memset(buffer, (int)rng(), length);
        buffer[0] = (uint8_t)rng();
        buffer[length - 1] = (uint8_t)rng();
        assert_int_equal(blk_pwrite(blk, offset, buffer, length), 0);
        memcpy(flat + offset, buffer, length);
        break;
    }
    free(buffer);
}

static void run_oracle(const char *path, uint64_t seed, unsigned operations, uint64_t cache)
{
    struct blk_open_options options = {
        .path = path,
        .format = "qcow2",
        .writable = true,
        .discard = true,
        .metadata_cache = cache,
    };
    struct blk *blk = open_with(&options);
    uint64_t size = blk_length(blk);
    uint64_t longest = min_u64(size, 3 * (uint64_t)blk_cluster_size(blk) + 5000);
    uint8_t *flat = malloc(size), *now = malloc(size);

    rng_state = seed;
    assert_int_equal(blk_pread(blk, 0, flat, size), 0);
    for (unsigned i = 0; i < operations; i++) {
        one_operation(blk, flat, size, longest);
        if (i % 1000 == 999) {
            close_image(blk);
            blk = open_with(&options);
        }
    }
    close_image(blk);
    shell("qemu-img check -q -f qcow2 %s", path);
    blk = open_with(&options);
    assert_int_equal(blk_pread(blk, 0, now, size), 0);
    assert_memory_equal(now, flat, size);
    close_image(blk);
    shell("qemu-img convert -f qcow2 -O raw %s flat.raw", path);
    FILE *f = fopen("flat.raw", "r");
    assert_non_null(f);
    assert_int_equal(fread(now, 1, size, f), size);
    fclose(f);
    assert_memory_equal(now, flat, size);
    free(flat);
    free(now);
}

struct shape {
    const char *options;
    const char *size;
    bool has_backing;
    uint64_t cache;
};

static void random_operations_match_a_flat_array(void **state)
{
    static const struct shape shapes[] = {
        {"cluster_size=64k", "5000000", true, 0},
        {"cluster_size=64k", "5000000", false, 0},
        {"cluster_size=512", "3000001", true, 0},
        {"cluster_size=512", "9000000", false, 1},
        {"cluster_size=4k", "6M", true, 1},
        {"cluster_size=4k,compat=0.10", "5000000", true, 0},
        {"cluster_size=64k,compat=0.10", "5000000", false, 0},
        {"cluster_size=2M", "9000000", true, 0},
        {"cluster_size=64k,preallocation=metadata", "4M", false, 0},
    };
    uint64_t seed = 0x5eed + (uint64_t)getpid();

    (void)state;
    print_message("seed %ju\n", (uintmax_t)seed);
    shell("qemu-img create -q -f qcow2 -o cluster_size=4k base.qcow2 4M");
    shell("qemu-io -f qcow2 -c 'write -P 17 0 1M' -c 'write -P 34 2500k 1500k' base.qcow2 "
          ">/dev/null");
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        const struct shape *shape = &shapes[i];

        shell("rm -f top.qcow2; qemu-img create -q -f qcow2 -o %s %s top.qcow2 %s", shape->options,
              shape->has_backing ? "-b base.qcow2 -F qcow2" : "", shape->size);
        run_oracle("top.qcow2", seed + i, 3000, shape->cache);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_a_flat_array),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
