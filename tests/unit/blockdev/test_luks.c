/*
 * test_luks.c - the LUKS1 header, its key slots and the anti-forensic splitter, against qemu-img, against
 * vectors that were computed independently, and against headers that lie.
 */
#include "fixture.h"

#include "crypto/luks.h"
#include "crypto/sector_cipher.h"
#include "iov.h"

enum { AREA_AT = 0x40000, CLUSTER = 65536 }; /* as qemu-img lays a new image out */

static const char key[] = "open sesame";

/* An image of qemu-img with the given options, and the header area's bytes. */
struct image {
    char options[256];
    FILE *file;
    struct luks_header header;
};

static int read_area(void *opaque, uint64_t offset, void *buf, size_t length)
{
    struct image *image = opaque;

    return fseek(image->file, (long)(AREA_AT + offset), SEEK_SET) == 0 &&
                   fread(buf, 1, length, image->file) == length
               ? 0
               : -EIO;
}

static void write_key(void)
{
    FILE *f = fopen("key", "w");

    assert_non_null(f);
    fputs(key, f);
    assert_int_equal(fclose(f), 0);
}

#define SECRET "--object secret,id=s,file=key "
#define OPTS   "--image-opts driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s"

static void load_image(struct image *image)
{
    uint8_t raw[LUKS_HEADER_BYTES];
    struct err err = {""};

    image->file = fopen("x.qcow2", "r");
    assert_non_null(image->file);
    assert_int_equal(read_area(image, 0, raw, sizeof(raw)), 0);
    if (luks_header_parse(&image->header, raw, 4 << 20, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

/* qemu-img measures how fast the processor is, which takes it seconds and may fail. */
static void open_image_of(struct image *image, const char *options)
{
    write_key();
    shell("for i in 1 2 3 4 5; do qemu-img create -q -f qcow2 " SECRET
          "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10%s x.qcow2 1M "
          "2> errors && exit; done; cat errors >&2; false",
          options);
    load_image(image);
}

/* One with the default options, made once. */
static void open_default_image(struct image *image)
{
    if (access("default.qcow2", F_OK) != 0) {
        open_image_of(image, "");
        fclose(image->file);
        shell("cp x.qcow2 default.qcow2");
    }
    shell("cp default.qcow2 x.qcow2");
    load_image(image);
}

static struct luks_passphrase phrase(const char *text)
{
    return (struct luks_passphrase){text, strlen(text)};
}

static int unlock(struct image *image, const char *passphrase, struct sector_cipher **out)
{
    const struct luks_area area = {.read = read_area, .opaque = image};
    const struct luks_passphrase given = phrase(passphrase);
    struct err err = {""};

    return luks_unlock(&image->header, &area, &given, out, &err);
}

static void opens_what_qemu_makes(void **state)
{
    static const char *const options[] = {
        NULL,
        ",encrypt.cipher-alg=aes-192,encrypt.ivgen-alg=plain,encrypt.hash-alg=sha512",
        ",encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,"
        "encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=ripemd160",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct sector_cipher *cipher = NULL;
        static uint8_t raw[CLUSTER], plain[CLUSTER], expected[CLUSTER];
        struct iovec iov = {.iov_base = plain, .iov_len = CLUSTER};
        struct image image;
        uint64_t l1, l2, host;

        if (options[i] != NULL) {
            open_image_of(&image, options[i]);
        } else {
            open_default_image(&image);
        }
        assert_int_equal(unlock(&image, "Open sesame", &cipher), -EKEYREJECTED);
        assert_null(cipher);
        assert_int_equal(unlock(&image, key, &cipher), 0);

        /* Guest data: the IV is made of the sector's place in the file. */
        shell("qemu-io " SECRET "-c 'write -P 0x5a 64k 64k' " OPTS " > /dev/null");
        assert_int_equal(fseek(image.file, 40, SEEK_SET), 0);
        assert_int_equal(fread(raw, 1, 8, image.file), 8);
        l1 = load_be64(raw);
        assert_int_equal(fseek(image.file, (long)l1, SEEK_SET), 0);
        assert_int_equal(fread(raw, 1, 8, image.file), 8);
        l2 = load_be64(raw) & QCOW2_OFFSET_MASK;
        assert_int_equal(fseek(image.file, (long)l2 + 8, SEEK_SET), 0);
        assert_int_equal(fread(raw, 1, 8, image.file), 8);
        host = load_be64(raw) & QCOW2_OFFSET_MASK;
        assert_int_equal(fseek(image.file, (long)host, SEEK_SET), 0);
        assert_int_equal(fread(raw, 1, CLUSTER, image.file), CLUSTER);
        assert_int_equal(sector_cipher_decrypt(cipher, host / 512, raw, &iov, 1, 0, CLUSTER), 0);
        memset(expected, 0x5a, CLUSTER);
        assert_memory_equal(plain, expected, CLUSTER);
        sector_cipher_destroy(cipher);
        fclose(image.file);
    }
}

static void makes_what_it_opens(void **state)
{
    static const struct luks_format_options options[] = {
        {.iter_time = 1},
        {.iter_time = 1, .cipher_alg = "aes-192", .hash_alg = "sha512"},
        {.iter_time = 1, .cipher_alg = "aes-128", .cipher_mode = "cbc", .ivgen_alg = "essiv"},
        {.iter_time = 1, .ivgen_alg = "plain", .hash_alg = "sha1"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(options); i++) {
        struct luks_header header, again;
        struct sector_cipher *cipher = NULL, *same = NULL;
        uint8_t raw[LUKS_HEADER_BYTES], plain[1024], packed[1024], *material;
        struct iovec iov = {.iov_base = plain, .iov_len = sizeof(plain)};
        const struct luks_passphrase given = phrase(key);
        struct image image = {.file = tmpfile()};
        struct err err = {""};

        assert_int_equal(luks_format_plan(&options[i], &header, &err), 0);
        material = calloc(1, luks_material_bytes(&header));
        assert_non_null(material);
        if (luks_format(&options[i], &header, &given, material, &cipher, &err) != 0) {
            fail_msg("%s", err.text);
        }
        luks_header_encode(&header, raw);
        assert_int_equal(luks_header_parse(&again, raw, header.payload_offset, &err), 0);
        assert_memory_equal(&again, &header, sizeof(header));
        assert_int_equal(strlen(header.uuid), 36);
        image.header = again;
        fseek(image.file, (long)(AREA_AT + header.slots[0].key_offset), SEEK_SET);
        fwrite(material, 1, luks_material_bytes(&header), image.file);
        assert_int_equal(unlock(&image, "no", &same), -EKEYREJECTED);
        assert_int_equal(unlock(&image, key, &same), 0);

        memset(plain, 0x77, sizeof(plain));
        assert_int_equal(sector_cipher_encrypt(cipher, 9, &iov, 1, 0, packed, sizeof(packed)), 0);
        assert_memory_not_equal(packed, plain, sizeof(plain));
        /* Same bytes, another IV. */
        assert_memory_not_equal(packed, packed + 512, 512);
        memset(plain, 0, sizeof(plain));
        assert_int_equal(sector_cipher_decrypt(same, 9, packed, &iov, 1, 0, sizeof(packed)), 0);
        for (size_t b = 0; b < sizeof(plain); b++) {
            assert_int_equal(plain[b], 0x77);
        }
        sector_cipher_destroy(cipher);
        sector_cipher_destroy(same);
        fclose(image.file);
        free(material);
    }
}

static void formats_of_which_nobody_knows_are_refused_by_name(void **state)
{
    static const struct {
        struct luks_format_options options;
        const char *text;
    } bad[] = {
        {{.cipher_alg = "serpent-256"}, "serpent-256"},
        {{.cipher_alg = "aes"}, "aes"},
        {{.cipher_mode = "ctr"}, "ctr"},
        {{.ivgen_alg = "plain32"}, "plain32"},
        {{.ivgen_alg = "essiv", .ivgen_hash_alg = "sha1"}, "essiv:sha1"},
        {{.ivgen_alg = "plain64", .ivgen_hash_alg = "sha256"}, "no hash"},
        {{.hash_alg = "whirlpool"}, "whirlpool"},
        {{.cipher_alg = "aes-192", .cipher_mode = "cbc"}, "aes-192"},
        {{.iter_time = 1000000}, "iter-time"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct luks_header header;
        struct err err = {""};

        assert_true(luks_format_plan(&bad[i].options, &header, &err) < 0);
        assert_non_null(strstr(err.text, bad[i].text));
    }
}

/* ---- the splitter ---- */

static void merges_to_the_known_keys(void **state)
{
    /* split[i] = 7 * i + 3, five stripes; computed by another program. */
    static const struct {
        const char *digest;
        size_t key_bytes;
        const char *hex;
    } known[] = {
        {"sha1", 32, "940172d68ed8b5f266b370c897cf2eb23a6a02320a724776ab881de4043b9ab9"},
        {"sha256", 64,
         "73912f5a0b968c8f185248e9a37f54a83c5a6d23e94ffba3b5847d91ce2e36349c71dcb8aa9b8a0393f7c696c"
         "c8bdf07399b193ee0b2f26ab21341a425615eed"},
        {"sha512", 24, "73c384f5f96842fb06395cbf7bbbe682ad4c2dc77465b1ae"},
    };

    (void)state;
    for (size_t v = 0; v < ARRAY_LEN(known); v++) {
        uint8_t split[64 * 5], merged[64];
        char hex[130] = "";

        for (size_t i = 0; i < sizeof(split); i++) {
            split[i] = (uint8_t)(7 * i + 3);
        }
        assert_int_equal(luks_af_merge(known[v].digest, split, known[v].key_bytes, 5, merged), 0);
        for (size_t i = 0; i < known[v].key_bytes; i++) {
            sprintf(hex + 2 * i, "%02x", merged[i]);
        }
        assert_string_equal(hex, known[v].hex);
    }
}

static void merging_undoes_splitting(void **state)
{
    static const size_t sizes[] = {16, 24, 32, 48, 64};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        static uint8_t split[64 * LUKS_STRIPES];
        uint8_t whole[64], merged[64];

        memset(whole, 0xc3, sizeof(whole));
        assert_int_equal(luks_af_split("sha256", whole, sizes[i], LUKS_STRIPES, split), 0);
        assert_int_equal(luks_af_merge("sha256", split, sizes[i], LUKS_STRIPES, merged), 0);
        assert_memory_equal(merged, whole, sizes[i]);
        split[17] ^= 1;
        assert_int_equal(luks_af_merge("sha256", split, sizes[i], LUKS_STRIPES, merged), 0);
        assert_memory_not_equal(merged, whole, sizes[i]);
    }
    assert_int_equal(luks_af_merge("none", (const uint8_t[32]){0}, 16, 2, (uint8_t[16]){0}),
                     -ENOTSUP);
}

/* ---- headers that lie ---- */

static void hostile_headers_are_refused(void **state)
{
    static const struct {
        unsigned at;
        uint32_t value;
        const char *text;
    } damage[] = {
        {0, 0x4c554b54, "not a LUKS header"},
        {4, 0xbabe0002, "version 2"},
        {8, 0x61657300 | 0x07, "text"}, /* a control character */
        {108, 0, "key length"},
        {108, 65, "key length"},
        {108, 0xffffffff, "key length"},
        {164, 0, "no iterations"},
        {208, 1, "neither active"},
        {212, 0, "no iterations"},
        {208 + 44, 3999, "stripes"},
        {208 + 44, 0xffffffff, "stripes"},
        {208 + 48 + 44, 0, "stripes"}, /* inactive slots too */
        {208 + 40, 0, "outside"},
        {208 + 40, 1, "outside"}, /* inside the header */
        {208 + 40, 0xffffffff, "outside"},
        {208 + 40, 4040 - 499, "outside"}, /* one sector too far */
        {208 + 48 + 40, 8 + 499, "overlap"},
    };
    uint8_t good[LUKS_HEADER_BYTES], raw[LUKS_HEADER_BYTES];
    struct luks_header header;
    struct image image;

    (void)state;
    open_default_image(&image);
    assert_int_equal(read_area(&image, 0, good, sizeof(good)), 0);
    assert_int_equal(image.header.payload_offset, 4040 * 512);
    assert_int_equal(luks_header_parse(&header, good, 4040 * 512, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(damage); i++) {
        struct err err = {""};

        memcpy(raw, good, sizeof(raw));
        store_be32(raw + damage[i].at, damage[i].value);
        if (luks_header_parse(&header, raw, 4040 * 512, &err) >= 0 ||
            strstr(err.text, damage[i].text) == NULL) {
            fail_msg("damage %zu: '%s'", i, err.text);
        }
    }
    /* A text without an end. */
    memcpy(raw, good, sizeof(raw));
    memset(raw + 72, 'x', 32);
    assert_int_equal(luks_header_parse(&header, raw, 4040 * 512, NULL), -EINVAL);
    fclose(image.file);
}

static int fail_to_read(void *opaque, uint64_t offset, void *buf, size_t length)
{
    (void)opaque;
    (void)offset;
    (void)buf;
    (void)length;
    return -EIO;
}

static void what_a_header_asks_for_is_bounded(void **state)
{
    struct sector_cipher *cipher = NULL;
    struct luks_header header;
    struct err err = {""};
    struct image image;
    struct luks_area area = {.read = read_area, .opaque = &image};
    const struct luks_passphrase given = phrase(key);

    (void)state;
    open_default_image(&image);
    header = image.header;
    header.slots[0].iterations = LUKS_MAX_ITERATIONS + 1;
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -EINVAL);
    assert_non_null(strstr(err.text, "iterations"));
    header = image.header;
    header.digest_iterations = UINT32_MAX;
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -EINVAL);
    header = image.header;
    area.max_iterations = 10;
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -EINVAL);
    area = (struct luks_area){.read = fail_to_read};
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -EIO);
    area = (struct luks_area){.read = read_area, .opaque = &image};
    header.slots[0].is_active = false;
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -EKEYREJECTED);
    strcpy(header.cipher, "serpent");
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "serpent"));
    header = image.header;
    strcpy(header.hash, "md5");
    assert_int_equal(luks_unlock(&header, &area, &given, &cipher, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "md5"));
    assert_null(cipher);
    fclose(image.file);
}

/* The key is in the last slot. */
static void every_slot_is_tried(void **state)
{
    struct sector_cipher *cipher = NULL;
    struct image made, image;

    (void)state;
    open_default_image(&made);
    fclose(made.file);
    shell("printf second > second");
    shell("for i in 1 2 3 4 5; do qemu-img amend " SECRET "--object secret,id=n,file=second -o "
          "encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=7,encrypt.iter-time=10 " OPTS
          " 2> errors && exit; done; cat errors >&2; false");
    load_image(&image);
    assert_true(image.header.slots[7].is_active);
    assert_int_equal(unlock(&image, "second", &cipher), 0);
    sector_cipher_destroy(cipher);
    assert_int_equal(unlock(&image, key, &cipher), 0);
    sector_cipher_destroy(cipher);
    assert_int_equal(unlock(&image, "third", &cipher), -EKEYREJECTED);
    fclose(image.file);
}

/* ---- another passphrase ---- */

/* Into the slot, as the header's fields and the file's bytes. */
static int add_key(struct image *image, unsigned number, const char *opens, const char *added,
                   struct err *err)
{
    const struct luks_area area = {.read = read_area, .opaque = image};
    const struct luks_passphrase old = phrase(opens), new = phrase(added);
    struct luks_slot *slot = &image->header.slots[number];
    size_t bytes = luks_material_bytes(&image->header);
    uint8_t *material = malloc(bytes);
    int r;

    assert_non_null(material);
    r = luks_add_key(&image->header, &area, &old, &new, 0, slot, material, err);
    if (r == 0) {
        assert_false(slot->is_active);
        slot->is_active = true;
        assert_int_equal(fseek(image->file, (long)(AREA_AT + slot->key_offset), SEEK_SET), 0);
        assert_int_equal(fwrite(material, 1, bytes, image->file), bytes);
    }
    free(material);
    return r;
}

static unsigned slots_of(struct image *image, const char *passphrase, unsigned among)
{
    const struct luks_area area = {.read = read_area, .opaque = image};
    const struct luks_passphrase given = phrase(passphrase);
    struct err err = {""};

    assert_int_equal(luks_find_slots(&image->header, &area, &given, &among, &err), 0);
    return among;
}

static void a_key_that_was_added_opens_its_slot_alone(void **state)
{
    struct sector_cipher *cipher = NULL;
    struct err err = {""};
    struct image image;

    (void)state;
    open_default_image(&image);
    fclose(image.file);
    image.file = fopen("x.qcow2", "r+");
    assert_non_null(image.file);
    assert_int_equal(slots_of(&image, key, 0xff), 0x01);
    assert_int_equal(add_key(&image, 6, "no", "second", &err), -EKEYREJECTED);
    assert_false(image.header.slots[6].is_active);
    assert_int_equal(add_key(&image, 6, key, "second", &err), 0);
    assert_int_equal(image.header.slots[6].iterations, LUKS_MIN_ITERATIONS);
    assert_int_equal(add_key(&image, 3, "second", "second", &err), 0);
    assert_memory_not_equal(image.header.slots[3].salt, image.header.slots[6].salt, LUKS_SALT);

    assert_int_equal(slots_of(&image, "second", 0xff), 0x48);
    assert_int_equal(slots_of(&image, "second", 0x41), 0x40);
    assert_int_equal(slots_of(&image, key, 0xff), 0x01);
    assert_int_equal(slots_of(&image, "third", 0xff), 0);
    image.header.slots[0].is_active = false;
    assert_int_equal(unlock(&image, key, &cipher), -EKEYREJECTED);
    assert_int_equal(unlock(&image, "second", &cipher), 0);
    sector_cipher_destroy(cipher);
    fclose(image.file);
}

static void keys_that_cannot_be_added_are_refused(void **state)
{
    struct image image;
    const struct luks_area area = {.read = read_area, .opaque = &image};
    const struct luks_passphrase given = phrase(key), long_one = {key, LUKS_MAX_PASSPHRASE + 1};
    struct luks_slot slot = {0};
    struct err err = {""};
    uint8_t none;

    (void)state;
    open_default_image(&image);
    assert_int_equal(luks_add_key(&image.header, &area, &given, &given, 60001, &slot, &none, &err),
                     -EINVAL);
    assert_says(&err, "iter-time");
    assert_int_equal(luks_add_key(&image.header, &area, &given, &long_one, 0, &slot, &none, &err),
                     -EINVAL);
    assert_says(&err, "65536 bytes");
    image.header.slots[0].iterations = LUKS_MAX_ITERATIONS + 1;
    assert_int_equal(luks_add_key(&image.header, &area, &given, &given, 0, &slot, &none, &err),
                     -EINVAL);
    assert_says(&err, "iterations");
    fclose(image.file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_to_the_known_keys),
        cmocka_unit_test(merging_undoes_splitting),
        cmocka_unit_test(makes_what_it_opens),
        cmocka_unit_test(formats_of_which_nobody_knows_are_refused_by_name),
        cmocka_unit_test(opens_what_qemu_makes),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(what_a_header_asks_for_is_bounded),
        cmocka_unit_test(every_slot_is_tried),
        cmocka_unit_test(a_key_that_was_added_opens_its_slot_alone),
        cmocka_unit_test(keys_that_cannot_be_added_are_refused),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
