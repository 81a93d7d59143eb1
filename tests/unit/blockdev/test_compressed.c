/*
 * Compressed clusters that are read: what their entries say at every cluster size, data that is cut,
 * damaged, too long or too short, and who pays for it.
 */
#include "fixture.h"

#include <pthread.h>
#include <zlib.h>
#include <zstd.h>

enum { CLUSTER = 65536, CLUSTERS = 8 };

/* ---- entries ---- */

static void descriptors_split_at_every_cluster_size(void **state)
{
    (void)state;
    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
        struct qcow2 q = {.cluster_bits = bits, .cluster_size = UINT64_C(1) << bits};
        unsigned x = 62 - (bits - 8);
        uint64_t most = (UINT64_C(1) << (bits - 8)) - 1, offset, length;
        struct qcow2_cluster cluster = {.is_compressed = true};

        qcow2_packed_decode(&q, QCOW2_L2_COMPRESSED | 0x12345, &offset, &length);
        assert_int_equal(offset, 0x12345);
        assert_int_equal(length, 512 - 0x145);
        qcow2_packed_decode(&q, QCOW2_L2_COMPRESSED | most << x | 511, &offset, &length);
        assert_int_equal(offset, 511);
        assert_int_equal(length, (most + 1) * 512 - 511);
        assert_true(length <= 2 * q.cluster_size);
        qcow2_packed_decode(&q, UINT64_MAX, &offset, &length);
        assert_true(offset == (UINT64_C(1) << x) - 1);
        assert_int_equal(length, (most + 1) * 512 - 511);

        /* From the last byte of a cluster over one whole cluster into a third. */
        cluster.packed_offset = 5 * q.cluster_size - 1;
        cluster.packed_length = q.cluster_size + 2;
        assert_int_equal(qcow2_cluster_references(&q, &cluster, &offset), 3);
        assert_int_equal(offset, 4 * q.cluster_size);
        cluster.packed_length = 1;
        assert_int_equal(qcow2_cluster_references(&q, &cluster, &offset), 1);
    }
}

/* ---- images ---- */

/* Eight clusters, the first ones compressed by QEMU from digits, which become about half as long. */
static void make_image(const char *type)
{
    shell("rm -f digits c.qcow2");
    shell("python3 -c \"import random; random.seed(7); open('digits', 'w').write("
          "''.join(random.choice('0123456789abcdef') for i in range(%d)))\"",
          4 * CLUSTER + 1);
    shell("truncate -s %d digits", CLUSTERS * CLUSTER);
    shell("qemu-img convert -c -f raw -O qcow2 -o cluster_size=%d,compression_type=%s digits "
          "c.qcow2",
          CLUSTER, type);
}

static uint64_t l2_entry_at(const char *path, unsigned index)
{
    uint64_t l1 = peek_be64(path, 40);

    return (peek_be64(path, l1) & QCOW2_OFFSET_MASK) + index * 8;
}

static void packed_place(unsigned index, uint64_t *offset, uint64_t *length)
{
    const struct qcow2 q = {.cluster_bits = 16, .cluster_size = CLUSTER};

    qcow2_packed_decode(&q, peek_be64("c.qcow2", l2_entry_at("c.qcow2", index)), offset, length);
}

/* Puts other bytes where cluster 0 is compressed. */
static void replace_packed(const uint8_t *bytes, size_t length)
{
    uint64_t offset, room;

    packed_place(0, &offset, &room);
    assert_true(length <= room);
    poke("c.qcow2", offset, bytes, length);
}

static size_t deflate_bytes(const uint8_t *data, size_t length, uint8_t *out, size_t room)
{
    z_stream stream = {
        .next_in = (z_const Bytef *)(uintptr_t)data,
        .avail_in = (uInt)length,
        .next_out = out,
        .avail_out = (uInt)room,
    };

    assert_int_equal(deflateInit2(&stream, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&stream, Z_FINISH), Z_STREAM_END);
    deflateEnd(&stream);
    return room - stream.avail_out;
}

static void assert_like_file(struct blk *blk, const char *path, uint64_t offset, size_t length)
{
    uint8_t *seen = malloc(length), *wanted = calloc(1, length);
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
    assert_true(fread(wanted, 1, length, f) <= length);
    fclose(f);
    assert_int_equal(blk_pread(blk, offset, seen, length), 0);
    assert_memory_equal(seen, wanted, length);
    free(seen);
    free(wanted);
}

/* Cluster 0 fails, with a line about it; everything else works, and cluster 0 does again once it is
 * written as a whole. */
static void assert_only_cluster_0_is_lost(void)
{
    struct blk *blk = open_image("c.qcow2", true);
    uint8_t buffer[512];
    struct err err;

    assert_like_file(blk, "digits", CLUSTER, (CLUSTERS - 1) * CLUSTER);
    assert_false(blk_problem(blk, &err));
    assert_int_equal(blk_pread(blk, 4096, buffer, 512), -EIO);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "compressed cluster at guest offset 0x0");
    assert_int_equal(blk_pread(blk, 0, buffer, 512), -EIO);
    assert_int_equal(blk_pwrite(blk, 0, buffer, 512), -EIO); /* the rest of it is not known */
    assert_like_file(blk, "digits", CLUSTER, CLUSTER);
    write_bytes(blk, 0, CLUSTER, 9);
    assert_bytes(blk, 0, CLUSTER, 9);
    assert_like_file(blk, "digits", CLUSTER, (CLUSTERS - 1) * CLUSTER);
    close_image(blk);
    shell("qemu-img check -q c.qcow2");
}

static const char *const types[] = {"zlib", "zstd"};

static void the_last_sector_may_be_cut_off(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct blk *blk;

        make_image(types[i]);
        /* QEMU ends the file with a sector; the data ends before. */
        shell("python3 -c \"b = open('c.qcow2', 'rb').read().rstrip(bytes(1)); "
              "open('c.qcow2', 'wb').write(b + bytes(1))\"");
        blk = open_image("c.qcow2", true);
        assert_like_file(blk, "digits", 0, CLUSTERS * CLUSTER);
        write_bytes(blk, 3 * CLUSTER + 5, 100, 4);
        close_image(blk);
        shell("qemu-img check -q c.qcow2");
    }
}

static void damaged_data_fails_the_read_alone(void **state)
{
    static uint8_t noise[4096];

    (void)state;
    memset(noise, 0xff, sizeof(noise));
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        make_image(types[i]);
        replace_packed(noise, sizeof(noise));
        assert_only_cluster_0_is_lost();
    }
}

static void a_short_stream_is_damaged(void **state)
{
    static uint8_t data[CLUSTER], packed[CLUSTER];
    size_t n;

    (void)state;
    make_image("zlib");
    n = deflate_bytes(data, CLUSTER - 1, packed, sizeof(packed));
    replace_packed(packed, n);
    assert_only_cluster_0_is_lost();
    make_image("zstd");
    n = ZSTD_compress(packed, sizeof(packed), data, CLUSTER - 1, 3);
    assert_false(ZSTD_isError(n));
    replace_packed(packed, n);
    assert_only_cluster_0_is_lost();
}

/* What would become 16 MiB becomes one cluster. */
static void a_long_stream_gives_a_cluster(void **state)
{
    enum { LONG = 16 << 20 };
    static uint8_t packed[CLUSTER];
    uint8_t *data = malloc(LONG);
    struct blk *blk;
    size_t n;

    (void)state;
    memset(data, 0x5a, LONG);
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        make_image(types[i]);
        n = i == 0 ? deflate_bytes(data, LONG, packed, sizeof(packed))
                   : ZSTD_compress(packed, sizeof(packed), data, 4 << 20, 3);
        replace_packed(packed, n);
        blk = open_image("c.qcow2", true);
        assert_bytes(blk, 0, CLUSTER, 0x5a);
        assert_like_file(blk, "digits", CLUSTER, CLUSTER);
        close_image(blk);
    }
    free(data);
}

/* The frame's header asks for a window of 1 GiB. */
static void a_huge_zstd_window_is_damaged(void **state)
{
    static const uint8_t frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 1, 0, 0};

    (void)state;
    make_image("zstd");
    replace_packed(frame, sizeof(frame));
    assert_only_cluster_0_is_lost();
}

static void the_wrong_type_is_damage(void **state)
{
    uint8_t buffer[512];
    struct blk *blk;
    struct err err;

    (void)state;
    make_image("zstd");
    poke_be64("c.qcow2", 72, 0);
    poke("c.qcow2", 104, "", 1);
    blk = open_image("c.qcow2", false);
    assert_int_equal(blk_pread(blk, 0, buffer, 512), -EIO);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "damaged");
    assert_bytes(blk, 6 * CLUSTER, CLUSTER, 0);
    close_image(blk);
}

static void entries_that_lead_astray_are_corrupt(void **state)
{
    const struct {
        const char *what;
        uint64_t entry;
    } cases[] = {
        {"the header", QCOW2_L2_COMPRESSED | 200},
        {"an L2 table", QCOW2_L2_COMPRESSED | 4 * CLUSTER},
        {"from data into nothing", QCOW2_L2_COMPRESSED | UINT64_C(255) << 54 | 7 * CLUSTER},
        {"behind the file", QCOW2_L2_COMPRESSED | UINT64_C(1) << 40},
        {"the largest", QCOW2_L2_COMPRESSED | (QCOW2_L2_COMPRESSED - 1)},
        {"the copied flag", QCOW2_ENTRY_COPIED},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint8_t buffer[512];
        uint64_t at, good;
        struct blk *blk;
        struct err err;

        make_image("zlib");
        at = l2_entry_at("c.qcow2", 0);
        assert_int_equal(at, 4 * CLUSTER);
        good = peek_be64("c.qcow2", at);
        poke_be64("c.qcow2", at,
                  cases[i].entry & QCOW2_L2_COMPRESSED ? cases[i].entry : good | cases[i].entry);
        blk = open_image("c.qcow2", true);
        assert_like_file(blk, "digits", CLUSTER, CLUSTER);
        assert_int_equal(blk_pread(blk, 0, buffer, 512), -EIO);
        if (!blk_problem(blk, &err)) {
            fail_msg("%s goes without a word", cases[i].what);
        }
        assert_says(&err, "corrupt");
        assert_int_equal(blk_pwrite(blk, CLUSTER, buffer, 512), -EIO);
        blk_close(blk, NULL);
    }
}

/* ---- the map ---- */

static void the_map_names_compressed_ranges(void **state)
{
    struct blk_extent extent;
    struct blk *blk;

    (void)state;
    make_image("zlib");
    blk = open_image("c.qcow2", true);
    assert_int_equal(blk_map(blk, 1000, blk_length(blk) - 1000, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_COMPRESSED);
    assert_false(extent.has_host_offset);
    assert_int_equal(extent.length, 5 * CLUSTER - 1000); /* one byte in the fifth */
    write_bytes(blk, 2 * CLUSTER, 1, 1);
    assert_int_equal(blk_map(blk, 0, blk_length(blk), 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_COMPRESSED);
    assert_int_equal(extent.length, 2 * CLUSTER);
    assert_int_equal(blk_map(blk, 2 * CLUSTER, CLUSTER, 0, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_DATA);
    close_image(blk);
}

/* ---- giving compressed clusters up ---- */

static void change_all(struct blk *blk, unsigned how)
{
    for (unsigned i = 0; i < 5; i++) {
        uint64_t at = (uint64_t)i * CLUSTER;

        switch ((i + how) % 4) {
        case 0:
            write_bytes(blk, at + 100, 1000, 3);
            break;
        case 1:
            assert_int_equal(blk_pdiscard(blk, at, CLUSTER), 0);
            break;
        case 2:
            assert_int_equal(blk_pwrite_zeroes(blk, at, CLUSTER, 0), 0);
            break;
        default:
            assert_int_equal(blk_pwrite_zeroes(blk, at, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
            break;
        }
    }
}

static void shared_host_clusters_are_given_back_once_a_reference(void **state)
{
    (void)state;
    for (unsigned how = 0; how < 8; how++) {
        struct blk *blk;

        make_image(types[how % 2]);
        blk = open_image("c.qcow2", true);
        change_all(blk, how);
        if (how >= 4) {
            assert_int_equal(blk_flush(blk), 0);
            change_all(blk, how + 1);
        }
        close_image(blk);
        shell("qemu-img check -q c.qcow2");
        blk = open_image("c.qcow2", true);
        assert_int_equal(blk_make_empty(blk, NULL), 0);
        assert_bytes(blk, 0, blk_length(blk), 0);
        close_image(blk);
        shell("qemu-img check -q c.qcow2");
    }
}

/* Each shares a host cluster with at least one that is given up. */
static void neighbours_of_what_is_given_up_keep_their_data(void **state)
{
    (void)state;
    for (unsigned gone = 0; gone < 5; gone++) {
        struct blk *blk;

        make_image(types[gone % 2]);
        blk = open_image("c.qcow2", true);
        assert_int_equal(blk_pwrite_zeroes(blk, gone * CLUSTER, CLUSTER, BLK_REQ_MAY_UNMAP), 0);
        assert_int_equal(blk_flush(blk), 0);
        close_image(blk);
        blk = open_image("c.qcow2", true);
        for (unsigned i = 0; i < 5; i++) {
            if (i == gone) {
                assert_bytes(blk, i * CLUSTER, CLUSTER, 0);
            } else {
                assert_like_file(blk, "digits", i * CLUSTER, CLUSTER);
            }
        }
        close_image(blk);
        shell("qemu-img check -q c.qcow2");
    }
}

/* ---- many readers ---- */

struct reader {
    struct blk *blk;
    const uint8_t *wanted;
    uint64_t seed;
    pthread_t thread;
    int result;
};

static void *read_at_random(void *opaque)
{
    struct reader *reader = opaque;
    uint8_t buffer[4096];

    for (unsigned i = 0; i < 3000 && reader->result == 0; i++) {
        uint64_t at;

        reader->seed = reader->seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
        at = (reader->seed >> 33) % (CLUSTERS * CLUSTER - sizeof(buffer));
        reader->result = blk_pread(reader->blk, at, buffer, sizeof(buffer));
        if (reader->result == 0 && memcmp(buffer, reader->wanted + at, sizeof(buffer)) != 0) {
            reader->result = -EILSEQ;
        }
    }
    return NULL;
}

static void threads_read_the_same_clusters(void **state)
{
    static uint8_t wanted[CLUSTERS * CLUSTER];
    struct reader readers[4];
    struct blk *blk;

    (void)state;
    make_image("zstd");
    blk = open_image("c.qcow2", false);
    assert_int_equal(blk_pread(blk, 0, wanted, sizeof(wanted)), 0);
    for (unsigned i = 0; i < ARRAY_LEN(readers); i++) {
        readers[i] = (struct reader){.blk = blk, .wanted = wanted, .seed = i};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
    for (unsigned i = 0; i < ARRAY_LEN(readers); i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].result, 0);
    }
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors_split_at_every_cluster_size),
        cmocka_unit_test(the_last_sector_may_be_cut_off),
        cmocka_unit_test(damaged_data_fails_the_read_alone),
        cmocka_unit_test(a_short_stream_is_damaged),
        cmocka_unit_test(a_long_stream_gives_a_cluster),
        cmocka_unit_test(a_huge_zstd_window_is_damaged),
        cmocka_unit_test(the_wrong_type_is_damage),
        cmocka_unit_test(entries_that_lead_astray_are_corrupt),
        cmocka_unit_test(the_map_names_compressed_ranges),
        cmocka_unit_test(shared_host_clusters_are_given_back_once_a_reference),
        cmocka_unit_test(neighbours_of_what_is_given_up_keep_their_data),
        cmocka_unit_test(threads_read_the_same_clusters),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
