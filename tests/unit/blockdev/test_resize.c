/*
 * Smaller devices, and space that is kept for larger ones: what is left, what is given back, and that
 * QEMU makes the same of it.
 */
#include "fixture.h"

#include <sys/stat.h>

static void resize(const char *path, uint64_t size)
{
    struct err err = {""};
    struct blk *blk = open_image(path, true);

    if (blk_resize(blk, size, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(blk_length(blk), size);
    close_image(blk);
}

static uint64_t file_blocks(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static uint64_t file_bytes(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

/* Both programs shrink an image of 6 MiB with 4 MiB of data. Ours grows it again: what QEMU shows in
 * the rest of the last cluster then is what was there before. */
static void shrink_like_qemu(const char *make)
{
    shell("rm -f a.qcow2 b.qcow2 base.raw; truncate -s 6M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 6M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 -o %s a.qcow2 6M", make);
    shell(
        "qemu-io -c 'write -P 1 0 3M' -c 'write -P 2 4M 1M' -c 'write -z 3M 64k' a.qcow2 > o.txt");
    shell("cp a.qcow2 b.qcow2");
    resize("a.qcow2", 1000448);
    shell("qemu-img resize -q --shrink b.qcow2 1000448");
    shell("qemu-img check -q a.qcow2");
    shell("qemu-img compare -q a.qcow2 b.qcow2");
    /* Refcount blocks go too. */
    assert_true(file_bytes("a.qcow2") <= file_bytes("b.qcow2"));
    resize("a.qcow2", 6 << 20);
    shell("qemu-img check -q a.qcow2");
    shell("qemu-io -r -c 'read -P 0 1000448 5291008' a.qcow2 > o.txt; ! grep -q failed o.txt");
}

static void a_smaller_device_gives_its_clusters_back(void **state)
{
    (void)state;
    shrink_like_qemu("cluster_size=64k");
    assert_true(file_bytes("a.qcow2") < 2 << 20);
    shrink_like_qemu("cluster_size=512");
    shrink_like_qemu("cluster_size=2M");
    shrink_like_qemu("cluster_size=64k,compat=0.10");
    shrink_like_qemu("cluster_size=16k,extended_l2=on");
    shrink_like_qemu("cluster_size=4k,lazy_refcounts=on,refcount_bits=1");
    shrink_like_qemu("cluster_size=4k,backing_file=base.raw,backing_fmt=raw");
    shrink_like_qemu("cluster_size=64k,backing_file=base.raw,backing_fmt=raw,compat=0.10");
    shrink_like_qemu("cluster_size=32k,backing_file=base.raw,backing_fmt=raw,extended_l2=on");
}

static void shrinking_gives_compressed_clusters_back(void **state)
{
    (void)state;
    shell("rm -f a.qcow2 base.raw; truncate -s 2M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 2M' base.raw > /dev/null");
    shell("qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k base.raw a.qcow2");
    resize("a.qcow2", 512 << 10);
    shell("qemu-img check -q a.qcow2");
    shell("qemu-io -r -c 'read -P 9 0 512k' a.qcow2 > o.txt; ! grep -q failed o.txt");
}

static void bitmaps_follow_a_smaller_device(void **state)
{
    (void)state;
    shell("rm -f a.qcow2 b.qcow2");
    shell("qemu-img create -q -f qcow2 a.qcow2 6M; qemu-img bitmap --add -g 4k a.qcow2 on");
    shell("qemu-io -c 'write 512k 1M' -c 'write 5M 64k' a.qcow2 > o.txt");
    shell("cp a.qcow2 b.qcow2");
    resize("a.qcow2", 1000448);
    shell("qemu-img resize -q --shrink b.qcow2 1000448");
    shell("qemu-img check -q a.qcow2");
    shell("qemu-img info a.qcow2 | sed -n '/bitmaps/,/granularity/p' > a.txt");
    shell("qemu-img info b.qcow2 | sed -n '/bitmaps/,/granularity/p' > b.txt");
    shell("cmp a.txt b.txt");
    shell("qemu-img resize -q a.qcow2 6M; qemu-img check -q a.qcow2");
}

/* What `qemu-img map` says but for places, which are each program's own. */
#define MAP(name)                                                                                  \
    "qemu-img map --output=json " name " | sed 's/, \"offset\": [0-9]*//' > " name ".map"

static void preallocate_like_qemu(const char *make, const char *mode_name, enum blk_prealloc mode,
                                  bool in_one_run)
{
    struct err err = {""};
    struct blk *blk;

    shell("rm -f a.qcow2 b.qcow2 base.raw; truncate -s 3M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 3M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 -o %s a.qcow2 1M", make);
    shell("qemu-io -c 'write -P 1 0 300k' a.qcow2 > o.txt; cp a.qcow2 b.qcow2");
    blk = open_image("a.qcow2", true);
    assert_int_equal(blk_resize(blk, 5 << 20, &err), 0);
    if (blk_preallocate(blk, 1 << 20, 4 << 20, mode, &err) != 0) {
        fail_msg("%s", err.text);
    }
    close_image(blk);
    shell("qemu-img resize -q --preallocation=%s b.qcow2 5M", mode_name);
    shell("qemu-img check -q a.qcow2");
    shell("qemu-img compare -q a.qcow2 b.qcow2");
    if (mode != BLK_PREALLOC_METADATA) {
        assert_true(file_blocks("a.qcow2") >= 4 << 20);
    } else {
        assert_true(file_blocks("a.qcow2") <= file_blocks("b.qcow2") + (1 << 20));
    }
    if (in_one_run) {
        shell(MAP("a.qcow2") "; " MAP("b.qcow2") "; diff a.qcow2.map b.qcow2.map");
    }
}

static void preallocated_growth_is_like_qemus(void **state)
{
    static const struct {
        const char *name;
        enum blk_prealloc mode;
    } modes[] = {
        {"metadata", BLK_PREALLOC_METADATA},
        {"falloc", BLK_PREALLOC_FALLOC},
        {"full", BLK_PREALLOC_FULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        preallocate_like_qemu("cluster_size=64k", modes[i].name, modes[i].mode, true);
        preallocate_like_qemu("cluster_size=64k,extended_l2=on", modes[i].name, modes[i].mode,
                              true);
        preallocate_like_qemu("cluster_size=4k,refcount_bits=64,lazy_refcounts=on", modes[i].name,
                              modes[i].mode, false);
    }
}

/* A larger backing file must not show through what was preallocated. */
static void preallocation_hides_a_larger_backing_file(void **state)
{
    static const char *const makes[] = {"cluster_size=64k", "cluster_size=64k,extended_l2=on",
                                        "cluster_size=64k,compat=0.10"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(makes); i++) {
        struct err err = {""};
        struct blk *blk;

        shell("rm -f a.qcow2 base.raw; truncate -s 3M base.raw");
        shell("qemu-io -f raw -c 'write -P 9 0 3M' base.raw > /dev/null");
        shell("qemu-img create -q -f qcow2 -o %s -b base.raw -F raw a.qcow2 1M", makes[i]);
        blk = open_image("a.qcow2", true);
        assert_int_equal(blk_resize(blk, 4 << 20, &err), 0);
        assert_int_equal(blk_preallocate(blk, 1 << 20, 3 << 20, BLK_PREALLOC_METADATA, &err), 0);
        assert_bytes(blk, 0, 1 << 20, 9);
        assert_bytes(blk, 1 << 20, 3 << 20, 0);
        write_bytes(blk, (1 << 20) + 4096, 512, 5);
        close_image(blk);
        shell("qemu-img check -q a.qcow2");
        shell("qemu-io -r -c 'read -P 9 0 1M' -c 'read -P 0 1M 4k' -c 'read -P 5 1052672 512' "
              "-c 'read -P 0 1053184 3000k' a.qcow2 > o.txt; ! grep -q failed o.txt");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_smaller_device_gives_its_clusters_back),
        cmocka_unit_test(shrinking_gives_compressed_clusters_back),
        cmocka_unit_test(bitmaps_follow_a_smaller_device),
        cmocka_unit_test(preallocated_growth_is_like_qemus),
        cmocka_unit_test(preallocation_hides_a_larger_backing_file),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
