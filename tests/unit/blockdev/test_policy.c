/*
 * Where names in images may lead, what probing trusts, and who may open what at the same time.
 */
#include "fixture.h"

static void backing_names_are_paths(void **state)
{
    static const struct {
        const char *image, *name, *path; /* NULL: refused */
    } cases[] = {
        {"/a/b/top.qcow2", "base.raw", "/a/b/base.raw"},
        {"/a/b/top.qcow2", "../base.raw", "/a/b/../base.raw"},
        {"/a/b/top.qcow2", "/c/base.raw", "/c/base.raw"},
        {"top.qcow2", "base.raw", "base.raw"},
        {"d/top.qcow2", "./a:b", "d/./a:b"},
        {"d/top.qcow2", "sub/a:b", "d/sub/a:b"},
        {"top.qcow2", "json:{\"driver\":\"raw\"}", NULL},
        {"top.qcow2", "nbd:localhost:10809", NULL},
        {"top.qcow2", "https://host/image", NULL},
        {"top.qcow2", "file:base.raw", NULL},
        {"top.qcow2", "fd+x-1.0:rest", NULL},
        {"top.qcow2", "", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = {""};
        char *path = NULL;
        int r = blk_backing_path(cases[i].image, cases[i].name, &path, &err);

        if (cases[i].path == NULL) {
            assert_int_equal(r, -EINVAL);
            assert_true(err.text[0] != '\0');
        } else {
            assert_int_equal(r, 0);
            assert_string_equal(path, cases[i].path);
            free(path);
        }
    }
}

static void backing_root_holds_after_links(void **state)
{
    struct blk_open_options options = {
        .path = "root/top.qcow2", .format = "qcow2", .backing_root = "root"};
    struct err err;

    (void)state;
    shell("mkdir -p root/sub rootless; truncate -s 1M root/sub/in.raw rootless/out.raw");
    shell("ln -sf ../rootless/out.raw root/link.raw; ln -sfn ../rootless root/dir");
    shell("qemu-img create -q -f qcow2 -b sub/in.raw -F raw root/top.qcow2");
    close_image(open_with(&options));
    shell("qemu-img rebase -q -u -b link.raw -F raw root/top.qcow2");
    err = refuse_with(&options, -EACCES);
    assert_says(&err, "backing root");
    shell("qemu-img rebase -q -u -b dir/out.raw -F raw root/top.qcow2");
    refuse_with(&options, -EACCES);
    shell("qemu-img rebase -q -u -b ../rootless/out.raw -F raw root/top.qcow2");
    refuse_with(&options, -EACCES);
    options.backing_root = NULL;
    close_image(open_with(&options));
}

static void backing_root_holds_for_data_files(void **state)
{
    struct blk_open_options options = {
        .path = "droot/top.qcow2", .format = "qcow2", .writable = true, .backing_root = "droot"};
    struct err err;

    (void)state;
    shell("mkdir -p droot; cd droot; qemu-img create -q -f qcow2 -o data_file=d.raw top.qcow2 1M");
    close_image(open_with(&options));
    shell("mv droot/d.raw out.raw; ln -s ../out.raw droot/d.raw");
    err = refuse_with(&options, -EACCES);
    assert_says(&err, "backing root");
    options.no_data_file = true;
    close_image(open_with(&options));
    options.no_data_file = false;
    options.backing_root = "missing";
    refuse_with(&options, -ENOENT);
    options.backing_root = NULL;
    close_image(open_with(&options));
}

static void probed_qcow2_may_not_name_a_data_file(void **state)
{
    struct blk_open_options options = {.path = "pd.qcow2"};
    struct err err;

    (void)state;
    shell("qemu-img create -q -f qcow2 -o data_file=pd.raw pd.qcow2 1M");
    err = refuse_with(&options, -EPERM);
    assert_says(&err, "data file");
    options.trust_probe = true;
    close_image(open_with(&options));
    options.trust_probe = false;
    options.format = "qcow2";
    close_image(open_with(&options));
}

/* Makes an image that names `name`, of at most 16 bytes, as its data file. */
static void name_data_file(const char *name)
{
    char text[16] = {0};

    shell("rm -f n.qcow2; qemu-img create -q -f qcow2 -o data_file=0123456789abcdef n.qcow2 1M");
    memcpy(text, name, strlen(name));
    poke_be32("n.qcow2", 116, (uint32_t)strlen(name));
    poke("n.qcow2", 120, text, sizeof(text));
}

static void data_files_are_files_with_paths(void **state)
{
    const struct blk_open_options options = {
        .path = "n.qcow2", .format = "qcow2", .writable = true};
    static const struct {
        const char *name;
        int code;
    } cases[] = {
        {"json:{}", -EINVAL},   {"nbd:host:1", -EINVAL}, {"n.qcow2", -ELOOP},
        {"./n.qcow2", -ELOOP},  {"dfifo", -EINVAL},      {"dfolder", -EISDIR},
        {"/dev/null", -EINVAL}, {"gone", -ENOENT},
    };

    (void)state;
    shell("mkfifo dfifo; mkdir dfolder");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err;

        name_data_file(cases[i].name);
        err = refuse_with(&options, cases[i].code);
        assert_says(&err, "data file");
    }
    shell("rm dfifo");
}

/* A name may not lead to what this process has open, nor to what the kernel makes up. */
static void names_in_images_keep_out_of_proc(void **state)
{
    static const char *const names[] = {"/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"};
    struct blk_open_options options = {.path = "k.qcow2", .format = "qcow2"};
    FILE *secret;

    (void)state;
    shell("truncate -s 1M secret");
    secret = fopen("secret", "r");
    assert_non_null(secret);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        shell("rm -f k.qcow2; qemu-img create -q -u -f qcow2 -b %s%d -F raw k.qcow2 1M", names[i],
              fileno(secret));
        refuse_with(&options, -ELOOP);
    }
    shell("rm -f k.qcow2; qemu-img create -q -u -f qcow2 -b /proc/self/maps -F raw k.qcow2 1M");
    refuse_with(&options, -EINVAL);
    shell("ln -s /proc/version v; rm -f k.qcow2; qemu-img create -q -u -f qcow2 -b v -F raw "
          "k.qcow2 1M");
    refuse_with(&options, -EINVAL);
    fclose(secret);
}

/* A tool that goes on with a name that it has read in an image: as if the engine had. */
static void a_named_path_is_judged_like_a_backing_file(void **state)
{
    struct blk_open_options options = {.path = "nroot/../named.raw",
                                       .format = "raw",
                                       .path_is_named = true,
                                       .backing_root = "nroot"};

    (void)state;
    shell("mkdir nroot; truncate -s 1M named.raw nroot/in.raw");
    refuse_with(&options, -EACCES);
    options.path = "nroot/in.raw";
    close_image(open_with(&options));
    options.path = "/proc/version";
    options.backing_root = NULL;
    refuse_with(&options, -EINVAL);
}

static void probed_qcow2_may_not_name_a_backing_file(void **state)
{
    struct blk_open_options options = {.path = "p.qcow2"};
    struct err err;

    (void)state;
    shell("truncate -s 1M p.raw; qemu-img create -q -f qcow2 -b p.raw -F raw p.qcow2");
    err = refuse_with(&options, -EPERM);
    assert_says(&err, "guessed");
    options.no_backing = true;
    close_image(open_with(&options));
    options.no_backing = false;
    options.trust_probe = true;
    close_image(open_with(&options));
    options.trust_probe = false;
    options.format = "qcow2";
    close_image(open_with(&options));
}

static void probed_backing_file_may_not_name_another(void **state)
{
    struct blk_open_options options = {.path = "q2.qcow2", .format = "qcow2"};

    (void)state;
    shell("truncate -s 1M q0.raw; qemu-img create -q -f qcow2 -b q0.raw -F raw q1.qcow2");
    shell("qemu-img create -q -u -f qcow2 -b q1.qcow2 q2.qcow2 1M >/dev/null 2>&1 || "
          "qemu-img create -q -u -f qcow2 -b q1.qcow2 -F qcow2 q2.qcow2 1M");
    /* Without the backing format: its extension becomes an unknown one. */
    if (peek_be64("q2.qcow2", 112) >> 32 == QCOW2_EXT_BACKING_FORMAT) {
        poke_be32("q2.qcow2", 112, 0x12345678);
    }
    refuse_with(&options, -EPERM);
    options.trust_probe = true;
    close_image(open_with(&options));
}

static void guest_cannot_turn_a_probed_raw_disk_into_qcow2(void **state)
{
    struct blk_open_options options = {.path = "g.raw", .writable = true};
    struct blk *blk;
    struct err err;

    (void)state;
    shell("rm -f g.raw; truncate -s 1M g.raw");
    blk = open_with(&options);
    assert_string_equal(blk_format(blk), "raw");
    assert_int_equal(blk_pwrite(blk, 0, "QFI\xfb\0\0\0\3", 8), -EPERM);
    assert_int_equal(blk_pwrite(blk, 0, "QF", 2), 0);
    assert_int_equal(blk_pwrite(blk, 3, "\xfbxyz", 4), 0);
    assert_int_equal(blk_pwrite(blk, 2, "Ixyz", 2), 0);
    assert_int_equal(blk_pwrite(blk, 2, "I\xfb", 2), -EPERM);
    assert_int_equal(blk_pwrite(blk, 0, "QFJ", 3), 0);
    assert_int_equal(blk_pwrite(blk, 100, "QFI\xfb", 4), 0);
    assert_true(blk_problem(blk, &err));
    assert_says(&err, "g.raw");
    close_image(blk);
    options.format = "raw";
    blk = open_with(&options);
    assert_int_equal(blk_pwrite(blk, 0, "QFI\xfb", 4), 0);
    close_image(blk);
}

static void only_files_and_block_devices_open(void **state)
{
    struct blk_open_options options = {.path = "fifo"};

    (void)state;
    shell("mkfifo fifo; mkdir folder");
    refuse_with(&options, -EINVAL);
    options.writable = true;
    refuse_with(&options, -EINVAL);
    options = (struct blk_open_options){.path = "folder"};
    refuse_with(&options, -EISDIR);
    options.path = "missing";
    refuse_with(&options, -ENOENT);
    options.path = "/dev/null";
    refuse_with(&options, -EINVAL);
    options = (struct blk_open_options){.path = "fifo", .format = "vmdk"};
    refuse_with(&options, -EINVAL);
}

/* ---- locks ---- */

static void second_writer_is_refused_and_named(void **state)
{
    const struct blk_open_options reader = {.path = "l.qcow2"};
    const struct blk_open_options writer = {.path = "l.qcow2", .writable = true};
    const struct blk_open_options shared = {.path = "l.qcow2", .force_share = true};
    struct blk *first, *second;
    struct err err;

    (void)state;
    shell("rm -f l.qcow2; qemu-img create -q -f qcow2 l.qcow2 1M");
    first = open_with(&writer);
    err = refuse_with(&writer, -EAGAIN);
    assert_says(&err, "\"write\" lock");
    assert_says(&err, "l.qcow2");
    refuse_with(&reader, -EAGAIN);
    close_image(open_with(&shared));
    close_image(first);

    first = open_with(&reader);
    second = open_with(&reader);
    refuse_with(&writer, -EAGAIN);
    close_image(first);
    close_image(second);
    close_image(open_with(&writer));
}

static void locks_are_respected_in_both_directions(void **state)
{
    const struct blk_open_options writer = {.path = "i.qcow2", .writable = true};
    const struct blk_open_options over = {.path = "o.qcow2", .writable = true, .trust_probe = true};
    struct blk *blk;
    FILE *qemu;
    char line[256];

    (void)state;
    shell("qemu-img create -q -f qcow2 i.qcow2 1M");
    shell("qemu-img create -q -f qcow2 -b i.qcow2 -F qcow2 o.qcow2");
    blk = open_with(&writer);
    assert_int_not_equal(try_shell("qemu-io -c 'read 0 512' i.qcow2 >/dev/null 2>&1"), 0);
    assert_int_not_equal(try_shell("qemu-io -r -c 'read 0 512' i.qcow2 >/dev/null 2>&1"), 0);
    shell("qemu-io -r -U -c 'read 0 512' i.qcow2 >/dev/null");
    close_image(blk);

    /* A base in use: readable for everybody, writable for nobody. */
    blk = open_with(&over);
    shell("qemu-io -r -c 'read 0 512' i.qcow2 >/dev/null");
    assert_int_not_equal(try_shell("qemu-io -c 'write 0 512' i.qcow2 >/dev/null 2>&1"), 0);
    refuse_with(&writer, -EAGAIN);
    close_image(blk);

    shell("rm -f go; mkfifo go");
    qemu = popen("(echo 'read 0 512'; read x < go) | qemu-io i.qcow2 2>&1", "r");
    assert_non_null(qemu);
    assert_non_null(fgets(line, sizeof(line), qemu));
    refuse_with(&writer, -EAGAIN);
    refuse_with(&over, -EAGAIN);
    shell("echo > go");
    while (fgets(line, sizeof(line), qemu) != NULL) {
    }
    pclose(qemu);
    close_image(open_with(&writer));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backing_names_are_paths),
        cmocka_unit_test(backing_root_holds_after_links),
        cmocka_unit_test(backing_root_holds_for_data_files),
        cmocka_unit_test(probed_qcow2_may_not_name_a_backing_file),
        cmocka_unit_test(probed_qcow2_may_not_name_a_data_file),
        cmocka_unit_test(data_files_are_files_with_paths),
        cmocka_unit_test(names_in_images_keep_out_of_proc),
        cmocka_unit_test(a_named_path_is_judged_like_a_backing_file),
        cmocka_unit_test(probed_backing_file_may_not_name_another),
        cmocka_unit_test(guest_cannot_turn_a_probed_raw_disk_into_qcow2),
        cmocka_unit_test(only_files_and_block_devices_open),
        cmocka_unit_test(second_writer_is_refused_and_named),
        cmocka_unit_test(locks_are_respected_in_both_directions),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
