/*
 * test_encrypted.c - encrypted images: nothing of the guest's data is in the file as it is, whichever way
 * it was written; keys of chains; what is refused; and qemu-img on the same files.
 */
#include "fixture.h"

#include <pthread.h>

enum { CLUSTER = 65536, SIZE = 4 << 20 };

static const struct blk_key first_key = {"first key", 9}, second_key = {"2nd", 3};
static const struct blk_key wrong_key = {"First key", 9};

#define SECRET "--object secret,id=s,file=key "
#define OPTS   "--image-opts driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s"

static void create(const struct blk_create_options *asked, const struct blk_key *key)
{
    const struct blk_luks_options luks = {.key = *key, .iter_time = 1};
    struct blk_create_options options = *asked;
    struct err err = {""};

    options.format = "qcow2";
    options.luks = &luks;
    options.size = options.size != 0 ? options.size : SIZE;
    if (blk_create(&options, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static struct blk *open_keyed(const char *path, bool writable, const struct blk_key *keys,
                              unsigned count)
{
    const struct blk_open_options options = {
        .path = path,
        .format = "qcow2",
        .writable = writable,
        .discard = true,
        .keys = keys,
        .key_count = count,
    };

    return open_with(&options);
}

/* How often the text is in the file. */
static unsigned occurrences(const char *path, const char *text)
{
    FILE *f = fopen(path, "r");
    uint8_t *bytes;
    unsigned n = 0;
    long length;

    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    length = ftell(f);
    rewind(f);
    bytes = malloc((size_t)length);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, (size_t)length, f), length);
    for (long i = 0; i + (long)strlen(text) <= length; i++) {
        n += memcmp(bytes + i, text, strlen(text)) == 0;
    }
    free(bytes);
    fclose(f);
    return n;
}

/* ---- no way around the cipher ---- */

#define MARKER "plaintext must not be here"

static void write_marked(struct blk *blk, uint64_t offset, size_t length)
{
    char *buffer = malloc(length);

    assert_non_null(buffer);
    for (size_t i = 0; i < length; i++) {
        buffer[i] = MARKER "........"[i % strlen(MARKER "........")];
    }
    assert_int_equal(blk_pwrite(blk, offset, buffer, length), 0);
    free(buffer);
}

static void assert_marked(struct blk *blk, uint64_t offset, size_t length)
{
    char *buffer = malloc(length);

    assert_non_null(buffer);
    assert_int_equal(blk_pread(blk, offset, buffer, length), 0);
    for (size_t i = 0; i < length; i++) {
        assert_int_equal(buffer[i], MARKER "........"[i % strlen(MARKER "........")]);
    }
    free(buffer);
}

/* Copy-on-write of a plain base, overwrites of parts of sectors, zeros, long vectors of small pieces,
 * preallocated clusters, growth: what guests and tools do. */
static void no_guest_data_is_in_the_file_as_it_is(void **state)
{
    static const int modes[] = {BLK_PREALLOC_OFF, BLK_PREALLOC_METADATA, BLK_PREALLOC_FALLOC,
                                BLK_PREALLOC_FULL};
    struct iovec iov[200];
    char pieces[] = MARKER "........";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(iov); i++) {
        iov[i] = (struct iovec){.iov_base = pieces, .iov_len = strlen(pieces)};
    }
    for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
        bool has_base = modes[m] == BLK_PREALLOC_OFF;
        const struct blk_create_options options = {
            .path = "x.qcow2",
            .prealloc = modes[m],
            .backing_name = has_base ? "base" : NULL,
            .backing_format = has_base ? "raw" : NULL,
        };
        struct err err;
        struct blk *blk;

        shell("yes '" MARKER "' | head -c %d > base", SIZE);
        create(&options, &first_key);
        blk = open_keyed("x.qcow2", true, &first_key, 1);
        if (!has_base) {
            assert_bytes(blk, 0, SIZE, 0);
        }
        write_marked(blk, 5000, 100);           /* edges of a new cluster */
        write_marked(blk, 5050, 3000);          /* parts of sectors */
        write_marked(blk, 3 * CLUSTER - 7, 20); /* across clusters */
        write_marked(blk, 8 * CLUSTER, 3 * CLUSTER);
        assert_int_equal(blk_pwritev(blk, 20 * CLUSTER + 3, iov, ARRAY_LEN(iov)), 0);
        assert_int_equal(blk_pwritev(blk, 20 * CLUSTER + 3, iov, ARRAY_LEN(iov)), 0);
        assert_int_equal(blk_pwrite_zeroes(blk, 9 * CLUSTER + 100, CLUSTER, 0), 0);
        assert_int_equal(blk_pwrite_zeroes(blk, 8 * CLUSTER, CLUSTER, 0), 0);
        write_marked(blk, 8 * CLUSTER + 512, 1024);
        assert_int_equal(blk_pdiscard(blk, 10 * CLUSTER, CLUSTER), 0);
        assert_int_equal(blk_resize(blk, SIZE + CLUSTER + 512, &err), 0);
        write_marked(blk, SIZE + CLUSTER + 100, 412);
        close_image(blk);
        assert_int_equal(occurrences("x.qcow2", "plaintext"), 0);

        blk = open_keyed("x.qcow2", false, &first_key, 1);
        assert_marked(blk, 5050, 3000);
        assert_marked(blk, 3 * CLUSTER - 7, 20);
        assert_marked(blk, 8 * CLUSTER + 512, 1024);
        assert_bytes(blk, 8 * CLUSTER, 512, 0);
        assert_bytes(blk, 8 * CLUSTER + 1536, CLUSTER - 1536, 0);
        assert_bytes(blk, 9 * CLUSTER + 100, CLUSTER, 0);
        assert_marked(blk, 20 * CLUSTER + 3, ARRAY_LEN(iov) * strlen(pieces));
        assert_bytes(blk, SIZE, CLUSTER, 0);
        assert_marked(blk, SIZE + CLUSTER + 100, 412);
        close_image(blk);
    }
}

static void compressed_writes_are_refused(void **state)
{
    static uint8_t data[CLUSTER], packed[CLUSTER];
    size_t length;
    struct blk *blk;

    (void)state;
    create(&(struct blk_create_options){.path = "x.qcow2"}, &first_key);
    blk = open_keyed("x.qcow2", true, &first_key, 1);
    assert_false(blk_can_compress(blk));
    assert_int_equal(blk_pwrite_compressed(blk, 0, data, CLUSTER), -ENOTSUP);
    assert_int_equal(blk_compress(blk, data, CLUSTER, packed, &length), -ENOTSUP);
    assert_int_equal(blk_pwrite_packed(blk, 0, data, CLUSTER, packed, 100), -ENOTSUP);
    close_image(blk);
    shell("qemu-img check -q --object secret,id=s,data='first key' " OPTS);
}

/* ---- keys ---- */

static void nothing_happens_without_the_key(void **state)
{
    struct blk_open_options options = {.path = "x.qcow2", .format = "qcow2", .writable = true};
    struct blk_encryption encryption;
    struct blk_check_result result;
    struct err err = {""};
    struct blk *blk;
    uint8_t byte = 0;

    (void)state;
    create(&(struct blk_create_options){.path = "x.qcow2"}, &first_key);
    shell("cp x.qcow2 before");
    err = refuse_with(&options, -ENOKEY);
    assert_says(&err, "no key");
    options.keys = &wrong_key;
    options.key_count = 1;
    err = refuse_with(&options, -EKEYREJECTED);
    assert_says(&err, "cannot unlock");
    options.keys = &(struct blk_key){NULL, 0};
    (void)refuse_with(&options, -ENOKEY);

    options = (struct blk_open_options){.path = "x.qcow2", .metadata_only = true};
    blk = open_with(&options);
    assert_true(blk_get_encryption(blk, &encryption));
    assert_string_equal(encryption.cipher_alg, "aes-256");
    assert_string_equal(encryption.cipher_mode, "xts");
    assert_string_equal(encryption.ivgen_alg, "plain64");
    assert_string_equal(encryption.ivgen_hash_alg, "");
    assert_true(encryption.slots[0].is_active);
    assert_false(encryption.slots[1].is_active);
    close_image(blk);

    options = (struct blk_open_options){.path = "x.qcow2", .for_check = true};
    blk = open_with(&options);
    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions + result.leaks + result.check_errors, 0);
    close_image(blk);
    shell("cmp x.qcow2 before");

    /* With data in it, and still without a key. */
    blk = open_keyed("x.qcow2", true, &first_key, 1);
    write_bytes(blk, 0, 512, 1);
    close_image(blk);
    options = (struct blk_open_options){.path = "x.qcow2", .writable = true, .metadata_only = true};
    blk = open_with(&options);
    assert_int_equal(blk_pread(blk, 0, &byte, 1), -ENOKEY);
    assert_int_equal(blk_pwrite(blk, 0, &byte, 1), -ENOKEY);
    assert_int_equal(blk_pwrite(blk, CLUSTER, &byte, 1), -ENOKEY);
    close_image(blk);
}

static void each_layer_has_its_own_key(void **state)
{
    const struct blk_key keys[] = {second_key, {NULL, 0}, first_key}, same[] = {first_key};
    struct blk *blk;
    struct err err;

    (void)state;
    create(&(struct blk_create_options){.path = "bottom"}, &first_key);
    blk = open_keyed("bottom", true, &first_key, 1);
    write_bytes(blk, 0, 3 * CLUSTER, 0x11);
    close_image(blk);
    shell("qemu-img create -q -f qcow2 -b bottom -F qcow2 middle 2> errors || "
          "qemu-img create -q -u -f qcow2 -b bottom -F qcow2 middle %d",
          SIZE);
    create(&(struct blk_create_options){.path = "top",
                                        .backing_name = "middle",
                                        .backing_format = "qcow2"},
           &second_key);
    blk = open_keyed("top", true, keys, 3);
    assert_bytes(blk, 0, 3 * CLUSTER, 0x11);
    write_bytes(blk, 1000, 10, 0x22);
    assert_bytes(blk, 0, 1000, 0x11);
    assert_bytes(blk, 1000, 10, 0x22);
    assert_bytes(blk, 1010, CLUSTER, 0x11);
    close_image(blk);

    /* One key is tried on all layers. */
    err = refuse_with(
        &(struct blk_open_options){
            .path = "top", .format = "qcow2", .keys = &second_key, .key_count = 1},
        -EKEYREJECTED);
    assert_says(&err, "bottom");
    blk = open_keyed("middle", true, same, 1);
    assert_bytes(blk, CLUSTER, 512, 0x11);
    write_bytes(blk, CLUSTER, 1, 0x33);
    close_image(blk);
}

/* ---- the same files in QEMU ---- */

static void qemu_reads_and_writes_what_we_make(void **state)
{
    static const struct {
        struct blk_luks_options luks;
        struct blk_create_options create;
    } kinds[] = {
        {.luks = {.hash_alg = "sha1"}},
        {.luks = {.cipher_alg = "aes-192", .hash_alg = "sha512"}, .create = {.cluster_size = 512}},
        {.luks = {.cipher_alg = "aes-128", .ivgen_alg = "plain"}, .create = {.compat = 2}},
        {.luks = {.cipher_mode = "cbc", .ivgen_alg = "essiv"},
         .create = {.cluster_size = 2 << 20, .prealloc = BLK_PREALLOC_METADATA}},
    };

    (void)state;
    shell("printf 'first key' > key");
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct blk_luks_options luks = kinds[i].luks;
        struct blk_create_options options = kinds[i].create;
        struct err err = {""};
        struct blk *blk;

        luks.key = first_key;
        luks.iter_time = 1;
        options.path = "x.qcow2";
        options.format = "qcow2";
        options.size = SIZE;
        options.luks = &luks;
        if (blk_create(&options, &err) != 0) {
            fail_msg("%s", err.text);
        }
        blk = open_keyed("x.qcow2", true, &first_key, 1);
        write_bytes(blk, 100, 70000, 0x5a);
        close_image(blk);
        shell("qemu-io " SECRET OPTS " -c 'read -P 0x5a 100 70000' -c 'read -P 0 0 100' "
              "-c 'read -P 0 71000 1M' -c 'write -P 0x77 65k 100k' > out && ! grep -q ailed out");
        blk = open_keyed("x.qcow2", true, &first_key, 1);
        assert_bytes(blk, 100, (65 << 10) - 100, 0x5a);
        assert_bytes(blk, 65 << 10, 100 << 10, 0x77);
        assert_bytes(blk, 165 << 10, 1 << 20, 0);
        close_image(blk);
        shell("qemu-img check -q " SECRET OPTS);
    }
}

/* ---- images that lie ---- */

static void hostile_images_are_refused(void **state)
{
    enum { EXTENSION = 112 }; /* the first one */
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        int code;
        const char *text;
    } damage[] = {
        {32, 4, 1, -ENOTSUP, "AES"},
        {32, 4, 3, -ENOTSUP, "method 3"},
        {32, 4, 0, -EINVAL, "no LUKS"},
        {EXTENSION, 4, 0x12345678, -EINVAL, "no encryption header"},
        {EXTENSION + 4, 4, 8, -EINVAL, "length"},
        {EXTENSION + 8, 8, 0, -EINVAL, "offset"},
        {EXTENSION + 8, 8, 512, -EINVAL, "offset"},
        {EXTENSION + 8, 8, UINT64_MAX - 65535, -EINVAL, "beyond"},
        {EXTENSION + 8, 8, 65536, -EINVAL, "overlaps"},  /* the refcount table */
        {EXTENSION + 8, 8, 196608, -EINVAL, "overlaps"}, /* the L1 table */
        {EXTENSION + 16, 8, 0, -EINVAL, "length"},
        {EXTENSION + 16, 8, UINT64_MAX, -EINVAL, "beyond"},
        {EXTENSION + 16, 8, 592, -EINVAL, "outside the encryption header"},
    };

    (void)state;
    create(&(struct blk_create_options){.path = "good"}, &first_key);
    assert_int_equal(peek_be64("good", EXTENSION) >> 32, QCOW2_EXT_LUKS);
    for (size_t i = 0; i < ARRAY_LEN(damage); i++) {
        struct err err;

        shell("cp good x.qcow2");
        if (damage[i].bytes == 4) {
            poke_be32("x.qcow2", damage[i].at, (uint32_t)damage[i].value);
        } else {
            poke_be64("x.qcow2", damage[i].at, damage[i].value);
        }
        err = refuse_with(&(struct blk_open_options){.path = "x.qcow2",
                                                     .format = "qcow2",
                                                     .writable = true,
                                                     .keys = &first_key,
                                                     .key_count = 1},
                          damage[i].code);
        assert_says(&err, damage[i].text);
    }
}

/* An L2 entry that leads into the encryption header gives no way to write there. */
static void the_encryption_header_is_no_guest_data(void **state)
{
    struct blk_check_result result;
    uint64_t luks, l2;
    struct blk *blk;
    struct err err;

    (void)state;
    create(&(struct blk_create_options){.path = "x.qcow2"}, &first_key);
    luks = peek_be64("x.qcow2", 120);
    blk = open_keyed("x.qcow2", true, &first_key, 1);
    write_bytes(blk, 0, 512, 1);
    close_image(blk);
    l2 = peek_be64("x.qcow2", peek_be64("x.qcow2", 40)) & QCOW2_OFFSET_MASK;
    poke_be64("x.qcow2", l2, luks | QCOW2_ENTRY_COPIED);
    shell("cp x.qcow2 before");
    blk = open_with(&(struct blk_open_options){.path = "x.qcow2", .for_check = true});
    assert_int_equal(blk_check(blk, 0, NULL, NULL, &result, &err), 0);
    assert_int_equal(result.corruptions, 1);
    assert_int_equal(result.leaks, 1);
    close_image(blk);
    blk = open_keyed("x.qcow2", true, &first_key, 1);
    assert_int_equal(blk_pwrite(blk, 0, "x", 1), -EIO);
    (void)blk_close(blk, &err);
    shell("cmp --ignore-initial=%ju:%ju --bytes=592 x.qcow2 before", (uintmax_t)luks,
          (uintmax_t)luks);
}

/* ---- parts of sectors at the same time ---- */

enum { THREADS = 4, ROUNDS = 300, PIECE = 128 };

struct writer {
    struct blk *blk;
    unsigned number;
};

/* Each thread owns one piece of each sector, reads it back, and reads the whole sector besides. */
static void *write_pieces(void *opaque)
{
    struct writer *writer = opaque;
    uint8_t piece[PIECE], back[PIECE], sector[512];

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t sector_at = (i % 8) * 512, at = sector_at + writer->number * PIECE;

        memset(piece, (int)(i + writer->number), PIECE);
        if (blk_pwrite(writer->blk, at, piece, PIECE) != 0 ||
            blk_pread(writer->blk, at, back, PIECE) != 0 || memcmp(piece, back, PIECE) != 0 ||
            blk_pread(writer->blk, sector_at, sector, sizeof(sector)) != 0 ||
            memcmp(sector + writer->number * PIECE, piece, PIECE) != 0) {
            return writer;
        }
    }
    return NULL;
}

static void parts_of_a_sector_do_not_harm_each_other(void **state)
{
    struct writer writers[THREADS];
    pthread_t threads[THREADS];
    struct blk *blk;

    (void)state;
    create(&(struct blk_create_options){.path = "x.qcow2"}, &first_key);
    blk = open_keyed("x.qcow2", true, &first_key, 1);
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){.blk = blk, .number = i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_pieces, &writers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    close_image(blk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_guest_data_is_in_the_file_as_it_is),
        cmocka_unit_test(compressed_writes_are_refused),
        cmocka_unit_test(nothing_happens_without_the_key),
        cmocka_unit_test(each_layer_has_its_own_key),
        cmocka_unit_test(qemu_reads_and_writes_what_we_make),
        cmocka_unit_test(hostile_images_are_refused),
        cmocka_unit_test(the_encryption_header_is_no_guest_data),
        cmocka_unit_test(parts_of_a_sector_do_not_harm_each_other),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
