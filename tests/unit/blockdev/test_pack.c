/*
 * Compressed writes: what they accept, where data goes and whose references it holds, and the moments at
 * which somebody else is at the same host cluster.
 */
#include "trace.h"

enum { CLUSTER = 65536 };

static void create(const char *options)
{
    shell("rm -f p.qcow2; qemu-img create -q -f qcow2 -o %s p.qcow2 1M", options);
}

static int try_compressed(struct blk *blk, uint64_t offset, size_t length, uint8_t byte)
{
    uint8_t *buffer = malloc(length);
    int r;

    memset(buffer, byte, length);
    r = blk_pwrite_compressed(blk, offset, buffer, length);
    free(buffer);
    return r;
}

static void write_compressed(struct blk *blk, uint64_t offset, size_t length, uint8_t byte)
{
    assert_int_equal(try_compressed(blk, offset, length, byte), 0);
}

/* Where a cluster's compressed data lies. */
static void packed_place(struct blk *blk, uint64_t offset, uint64_t *host, uint64_t *length)
{
    struct layer_extent extent;

    assert_int_equal(blk->format->map(blk, offset, 1, LAYER_MAP_HOLD, &extent), 0);
    assert_int_equal(extent.kind, BLK_EXTENT_COMPRESSED);
    *host = extent.packed_offset;
    *length = extent.packed_length;
    blk->format->unhold(blk, extent.hold);
}

static uint64_t host_cluster(struct blk *blk, uint64_t offset)
{
    uint64_t host, length;

    packed_place(blk, offset, &host, &length);
    return host / blk_cluster_size(blk);
}

static uint64_t refcount(struct blk *blk, uint64_t host_cluster_index)
{
    struct qcow2 *q = qcow2_of(blk);
    uint64_t count = 0;

    pthread_mutex_lock(&q->lock);
    assert_int_equal(qcow2_refcount_get(q, host_cluster_index << q->cluster_bits, &count), 0);
    pthread_mutex_unlock(&q->lock);
    return count;
}

static void entries_say_what_was_written(void **state)
{
    static const uint64_t offsets[] = {512, 513, 1023, 65535, 123456789, UINT64_C(1) << 48};

    (void)state;
    for (unsigned bits = QCOW2_MIN_CLUSTER_BITS; bits <= QCOW2_MAX_CLUSTER_BITS; bits++) {
        struct qcow2 q = {.cluster_bits = bits, .cluster_size = UINT64_C(1) << bits};
        const uint64_t lengths[] = {1, 2, 511, q.cluster_size - 1};
        uint64_t limit = UINT64_C(1) << (62 - (bits - 8) < 56 ? 62 - (bits - 8) : 56);

        for (size_t i = 0; i < ARRAY_LEN(offsets) * ARRAY_LEN(lengths); i++) {
            uint64_t at = offsets[i / ARRAY_LEN(lengths)], n = lengths[i % ARRAY_LEN(lengths)];
            uint64_t entry = qcow2_packed_encode(&q, at, n), offset, length;

            assert_true(entry >> 62 == 1);
            qcow2_packed_decode(&q, entry, &offset, &length);
            assert_int_equal(offset, at);
            assert_true(length >= n && length < n + 512 && (offset + length) % 512 == 0);
        }
        assert_true(qcow2_packed_encode(&q, limit - 100, 100) != 0);
        assert_true(qcow2_packed_encode(&q, limit - 100, 101) == 0);
        assert_true(qcow2_packed_encode(&q, limit, 1) == 0);
    }
}

static void only_whole_clusters_are_written(void **state)
{
    static uint8_t packed[CLUSTER], data[CLUSTER];
    struct blk *blk;
    size_t n;

    (void)state;
    shell("rm -f p.qcow2; qemu-img create -q -f qcow2 p.qcow2 1000448");
    blk = open_image("p.qcow2", true);
    assert_true(blk_can_compress(blk));
    assert_int_equal(try_compressed(blk, 512, CLUSTER, 1), -EINVAL);
    assert_int_equal(try_compressed(blk, 0, CLUSTER - 512, 1), -EINVAL);
    assert_int_equal(try_compressed(blk, 15 * CLUSTER, CLUSTER, 1), -EINVAL);
    assert_int_equal(try_compressed(blk, UINT64_MAX - CLUSTER + 1, CLUSTER, 1), -EINVAL);
    write_compressed(blk, 14 * CLUSTER, blk_length(blk) - 14 * CLUSTER, 3);
    assert_int_equal(blk_compress(blk, data, CLUSTER + 1, packed, &n), -EINVAL);
    assert_int_equal(blk_compress(blk, data, 0, packed, &n), -EINVAL);
    assert_int_equal(blk_compress(blk, data, CLUSTER, packed, &n), 0);
    assert_true(n > 0 && n < 1000);
    assert_int_equal(blk_pwrite_packed(blk, 0, data, 2 * CLUSTER, packed, n), -EINVAL);
    assert_int_equal(blk_pwrite_packed(blk, 0, data, CLUSTER, packed, CLUSTER), -EINVAL);
    assert_int_equal(blk_pwrite_packed(blk, 0, data, CLUSTER, packed, n), 0);
    assert_bytes(blk, 14 * CLUSTER, blk_length(blk) - 14 * CLUSTER, 3);
    close_image(blk);
    shell("qemu-img check -q p.qcow2");
    blk = open_image("p.qcow2", false);
    assert_int_equal(try_compressed(blk, 0, CLUSTER, 1), -EROFS);
    close_image(blk);
    shell("truncate -s 1M p.raw");
    blk = open_with(&(struct blk_open_options){.path = "p.raw", .format = "raw", .writable = true});
    assert_false(blk_can_compress(blk));
    assert_int_equal(try_compressed(blk, 0, CLUSTER, 1), -ENOTSUP);
    close_image(blk);
}

static void data_shares_host_clusters(void **state)
{
    struct blk *blk;
    uint64_t shared, other;

    (void)state;
    create("cluster_size=64k");
    blk = open_image("p.qcow2", true);
    for (unsigned i = 0; i < 8; i++) {
        write_compressed(blk, i * CLUSTER, CLUSTER, (uint8_t)(i + 1));
    }
    shared = host_cluster(blk, 0);
    assert_int_equal(host_cluster(blk, 7 * CLUSTER), shared);
    assert_int_equal(refcount(blk, shared), 8);
    write_compressed(blk, 0, CLUSTER, 77); /* a reference is freed: data goes elsewhere now */
    assert_int_equal(host_cluster(blk, 0), shared);
    assert_int_equal(refcount(blk, shared), 9);
    write_compressed(blk, 8 * CLUSTER, CLUSTER, 9);
    other = host_cluster(blk, 8 * CLUSTER);
    assert_true(other != shared);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(blk_flush(blk), 0);
    assert_int_equal(refcount(blk, shared), 8);
    assert_int_equal(refcount(blk, other), 1);
    close_image(blk);
    shell("qemu-img check -q p.qcow2");
    blk = open_image("p.qcow2", true);
    assert_bytes(blk, 0, CLUSTER, 77);
    assert_bytes(blk, 7 * CLUSTER, CLUSTER, 8);
    /* Nobody remembers the room in the last one. */
    write_compressed(blk, 9 * CLUSTER, CLUSTER, 5);
    assert_true(host_cluster(blk, 9 * CLUSTER) != other);
    close_image(blk);
    shell("qemu-img check -q p.qcow2");
}

static void narrow_refcounts_begin_new_clusters(void **state)
{
    (void)state;
    for (unsigned bits = 1; bits <= 4; bits *= 2) {
        unsigned most = (1U << bits) - 1;
        struct blk *blk;

        shell("rm -f p.qcow2; qemu-img create -q -f qcow2 -o refcount_bits=%u p.qcow2 4M", bits);
        blk = open_image("p.qcow2", true);
        for (unsigned i = 0; i < 40; i++) {
            write_compressed(blk, i * CLUSTER, CLUSTER, (uint8_t)i);
            assert_int_equal(refcount(blk, host_cluster(blk, i * CLUSTER)), i % most + 1);
        }
        close_image(blk);
        shell("qemu-img check -q p.qcow2");
    }
}

static void noise_is_written_as_it_is(void **state)
{
    static uint8_t noise[CLUSTER], back[CLUSTER];
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(noise); i++) {
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407U;
        noise[i] = (uint8_t)(seed >> 56);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct blk_extent extent;
        struct blk *blk;

        create(i == 0 ? "compression_type=zlib" : "compression_type=zstd");
        blk = open_image("p.qcow2", true);
        write_compressed(blk, 0, 2 * CLUSTER, 1);
        assert_int_equal(blk_pwrite_compressed(blk, CLUSTER, noise, CLUSTER), 0);
        assert_int_equal(blk_map(blk, CLUSTER, CLUSTER, 0, &extent), 0);
        assert_int_equal(extent.kind, BLK_EXTENT_DATA);
        assert_int_equal(blk_pread(blk, CLUSTER, back, CLUSTER), 0);
        assert_memory_equal(back, noise, CLUSTER);
        assert_bytes(blk, 0, CLUSTER, 1);
        close_image(blk);
        shell("qemu-img check -q p.qcow2");
    }
}

/* ---- at the same moment ---- */

static struct blk *traced;
static uint64_t watched; /* the host offset of interest */
static unsigned interfered;

static void append_while_a_hole_is_punched(struct trace *trace, enum trace_kind kind,
                                           uint64_t offset, uint64_t length)
{
    (void)trace;
    if (kind == TRACE_ZERO && interfered == 0 &&
        ranges_overlap(offset, length, watched * CLUSTER, CLUSTER)) {
        interfered++;
        write_compressed(traced, 5 * CLUSTER, CLUSTER, 5);
    }
}

static void nothing_is_appended_to_what_is_being_freed(void **state)
{
    struct trace trace = {0};

    (void)state;
    create("cluster_size=64k");
    traced = trace_open(&trace, "p.qcow2", 0);
    write_compressed(traced, 0, CLUSTER, 1);
    assert_int_equal(blk_flush(traced), 0);
    watched = host_cluster(traced, 0);
    interfered = 0;
    trace.before = append_while_a_hole_is_punched;
    assert_int_equal(blk_pdiscard(traced, 0, CLUSTER), 0);
    assert_int_equal(blk_flush(traced), 0);
    assert_int_equal(blk_flush(traced), 0);
    assert_int_equal(interfered, 1);
    assert_bytes(traced, 5 * CLUSTER, CLUSTER, 5);
    close_image(traced);
    trace_free(&trace);
    shell("qemu-img check -q p.qcow2");
}

/* The reader is on its way to the compressed bytes: they are unlinked, everybody tries to have their
 * place, and it must find them all the same. */
static void rewrite_while_it_is_read(struct trace *trace, enum trace_kind kind, uint64_t offset,
                                     uint64_t length)
{
    (void)trace;
    (void)length;
    if (kind == TRACE_READ && interfered == 0 && offset == watched) {
        interfered++;
        write_compressed(traced, 0, CLUSTER, 2);
        for (unsigned i = 0; i < 3; i++) {
            assert_int_equal(blk_flush(traced), 0);
            write_compressed(traced, (i + 2) * CLUSTER, CLUSTER, (uint8_t)(i + 10));
            write_bytes(traced, (i + 8) * CLUSTER, CLUSTER, (uint8_t)(i + 20));
        }
    }
}

static void what_is_being_read_is_not_reused(void **state)
{
    struct trace trace = {0};
    uint64_t length;

    (void)state;
    create("cluster_size=64k");
    traced = trace_open(&trace, "p.qcow2", 0);
    write_compressed(traced, 0, CLUSTER, 1);
    packed_place(traced, 0, &watched, &length);
    interfered = 0;
    trace.before = rewrite_while_it_is_read;
    assert_bytes(traced, 0, CLUSTER, 1);
    assert_int_equal(interfered, 1);
    assert_bytes(traced, 0, CLUSTER, 2);
    for (unsigned i = 0; i < 3; i++) {
        assert_bytes(traced, (i + 2) * CLUSTER, CLUSTER, (uint8_t)(i + 10));
        assert_bytes(traced, (i + 8) * CLUSTER, CLUSTER, (uint8_t)(i + 20));
    }
    close_image(traced);
    trace_free(&trace);
    shell("qemu-img check -q p.qcow2");
}

static void count_reads(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    (void)trace;
    (void)length;
    interfered += kind == TRACE_READ && offset == watched;
}

static void small_reads_decompress_a_cluster_once(void **state)
{
    struct trace trace = {0};
    uint64_t length;

    (void)state;
    create("cluster_size=64k");
    traced = trace_open(&trace, "p.qcow2", 0);
    write_compressed(traced, 0, 2 * CLUSTER, 1);
    packed_place(traced, 0, &watched, &length);
    interfered = 0;
    trace.before = count_reads;
    for (unsigned i = 0; i < 32; i++) {
        assert_bytes(traced, i * 4096, 4096, 1);
    }
    assert_int_equal(interfered, 1);
    close_image(traced);
    trace_free(&trace);
}

/* A place that is used again, with data of the same length, does not show what was there before. */
static void a_reused_place_shows_the_new_data(void **state)
{
    struct blk *blk;
    uint64_t first, host, length;

    (void)state;
    create("cluster_size=64k");
    blk = open_image("p.qcow2", true);
    write_compressed(blk, 0, CLUSTER, 1);
    packed_place(blk, 0, &first, &length);
    assert_bytes(blk, 0, CLUSTER, 1);
    assert_int_equal(blk_pdiscard(blk, 0, CLUSTER), 0);
    assert_int_equal(blk_flush(blk), 0);
    write_compressed(blk, CLUSTER, CLUSTER, 2);
    packed_place(blk, CLUSTER, &host, &length);
    assert_int_equal(host, first);
    assert_bytes(blk, CLUSTER, CLUSTER, 2);
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_say_what_was_written),
        cmocka_unit_test(only_whole_clusters_are_written),
        cmocka_unit_test(data_shares_host_clusters),
        cmocka_unit_test(narrow_refcounts_begin_new_clusters),
        cmocka_unit_test(noise_is_written_as_it_is),
        cmocka_unit_test(nothing_is_appended_to_what_is_being_freed),
        cmocka_unit_test(what_is_being_read_is_not_reused),
        cmocka_unit_test(small_reads_decompress_a_cluster_once),
        cmocka_unit_test(a_reused_place_shows_the_new_data),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
