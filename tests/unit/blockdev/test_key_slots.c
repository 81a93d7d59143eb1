/*
 * test_key_slots.c - changes of the key slots of an encrypted image: which slot is taken, what is left of
 * an erased one, what is refused, and that nothing is written over what is something else.
 */
#include "fixture.h"

static const struct blk_key first = {"first", 5}, second = {"second", 6};

enum {
    SIZE = 1 << 20,
    MATERIAL = 32 * LUKS_STRIPES,
    /* In the LUKS header: */
    AT_SLOTS = 208,
    SLOT_RECORD = 48,
};

/* An image with the first key in slot 0, in which a byte is written. */
static void create(const char *path)
{
    const struct blk_luks_options luks = {.key = first, .iter_time = 1, .cipher_alg = "aes-128"};
    const struct blk_create_options options = {
        .path = path, .format = "qcow2", .size = SIZE, .luks = &luks, .cluster_size = 4096};
    struct err err = {""};
    struct blk *blk;

    if (blk_create(&options, &err) != 0) {
        fail_msg("%s", err.text);
    }
    blk = open_with(&(struct blk_open_options){
        .path = path, .format = "qcow2", .writable = true, .keys = &first, .key_count = 1});
    write_bytes(blk, 70000, 1, 0x5a);
    close_image(blk);
}

static struct blk *open_keyed(const char *path, const struct blk_key *key)
{
    return open_with(&(struct blk_open_options){
        .path = path, .format = "qcow2", .writable = true, .keys = key, .key_count = 1});
}

/* Opens with `key`, which derives the new one as well. */
static int change(const char *path, const struct blk_key *key, struct blk_key_change keys,
                  struct err *err)
{
    struct blk *blk = open_keyed(path, key);
    int r;

    keys.opens = *key;
    keys.set_iter_time = true;
    r = blk_amend(blk, &(struct blk_amend_options){.keys = &keys}, err);
    blk_close(blk, NULL);
    return r;
}

static void do_change(const char *path, const struct blk_key *key, struct blk_key_change keys)
{
    struct err err = {""};

    if (change(path, key, keys, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static unsigned active_slots(const char *path)
{
    const struct blk_open_options options = {
        .path = path, .format = "qcow2", .metadata_only = true};
    struct blk *blk = open_with(&options);
    struct blk_encryption encryption;
    unsigned active = 0;

    assert_true(blk_get_encryption(blk, &encryption));
    for (unsigned i = 0; i < BLK_KEY_SLOTS; i++) {
        active |= encryption.slots[i].is_active ? 1U << i : 0;
    }
    close_image(blk);
    return active;
}

static void assert_opens(const char *path, const struct blk_key *key)
{
    struct blk *blk = open_keyed(path, key);

    assert_bytes(blk, 70000, 1, 0x5a);
    close_image(blk);
}

static void assert_does_not_open(const char *path, const struct blk_key *key)
{
    refuse_with(
        &(struct blk_open_options){.path = path, .format = "qcow2", .keys = key, .key_count = 1},
        -EKEYREJECTED);
}

static void keys_come_and_go(void **state)
{
    (void)state;
    create("x.qcow2");
    do_change("x.qcow2", &first, (struct blk_key_change){.activate = true, .key = second});
    assert_int_equal(active_slots("x.qcow2"), 0x03);
    do_change(
        "x.qcow2", &second,
        (struct blk_key_change){.activate = true, .key = second, .set_slot = true, .slot = 6});
    assert_int_equal(active_slots("x.qcow2"), 0x43);
    assert_opens("x.qcow2", &first);
    assert_opens("x.qcow2", &second);

    do_change("x.qcow2", &first, (struct blk_key_change){.key = second});
    assert_int_equal(active_slots("x.qcow2"), 0x01);
    assert_does_not_open("x.qcow2", &second);
    do_change("x.qcow2", &first,
              (struct blk_key_change){
                  .activate = true, .key = second, .set_slot = true, .slot = 0, .force = true});
    assert_int_equal(active_slots("x.qcow2"), 0x01);
    assert_does_not_open("x.qcow2", &first);
    assert_opens("x.qcow2", &second);
    do_change("x.qcow2", &second, (struct blk_key_change){.key = second, .force = true});
    assert_int_equal(active_slots("x.qcow2"), 0);
    assert_does_not_open("x.qcow2", &second);
}

/* ---- what is left ---- */

struct slot_bytes {
    uint8_t record[SLOT_RECORD], material[MATERIAL];
};

static void read_slot(const char *path, unsigned number, struct slot_bytes *bytes)
{
    struct blk *blk = open_with(
        &(struct blk_open_options){.path = path, .format = "qcow2", .metadata_only = true});
    const struct qcow2 *q = qcow2_of(blk);
    uint64_t at = q->header.luks_offset;

    assert_int_equal(file_pread(q->file, at + AT_SLOTS + (uint64_t)number * SLOT_RECORD,
                                bytes->record, SLOT_RECORD),
                     0);
    assert_int_equal(file_pread(q->file, at + q->crypto->luks.slots[number].key_offset,
                                bytes->material, MATERIAL),
                     0);
    close_image(blk);
}

/* Inactive, no iterations, no salt; and random bytes where the key was. */
static void assert_wiped(const struct slot_bytes *now, const struct slot_bytes *before)
{
    static const uint8_t record[40] = {0x00, 0x00, 0xde, 0xad};
    size_t same = 0, zeros = 0;

    assert_memory_equal(now->record, record, sizeof(record));
    for (size_t i = 0; i < MATERIAL; i++) {
        same += now->material[i] == before->material[i];
        zeros += now->material[i] == 0;
    }
    assert_in_range(same, 0, MATERIAL / 128); /* by chance: one of 256 */
    assert_in_range(zeros, 0, MATERIAL / 128);
}

static void nothing_is_left_of_a_slot_that_was_erased(void **state)
{
    static struct slot_bytes old, new, spare, spare_before;

    (void)state;
    create("x.qcow2");
    do_change("x.qcow2", &first, (struct blk_key_change){.activate = true, .key = second});
    read_slot("x.qcow2", 1, &old);
    do_change("x.qcow2", &first, (struct blk_key_change){.set_slot = true, .slot = 1});
    read_slot("x.qcow2", 1, &new);
    assert_wiped(&new, &old);

    /* An overwritten one has a spare meanwhile. */
    read_slot("x.qcow2", 0, &old);
    spare_before = new;
    do_change(
        "x.qcow2", &first,
        (struct blk_key_change){.activate = true, .key = second, .set_slot = true, .force = true});
    read_slot("x.qcow2", 1, &spare);
    assert_wiped(&spare, &spare_before);
    read_slot("x.qcow2", 0, &new);
    assert_memory_not_equal(new.record + 8, old.record + 8, LUKS_SALT);
    assert_memory_not_equal(new.material, old.material, MATERIAL);
    assert_memory_not_equal(spare.material, new.material, MATERIAL);
}

/* ---- what is refused ---- */

static void what_would_lose_the_data_is_refused(void **state)
{
    static const struct {
        struct blk_key_change change;
        const char *words;
    } bad[] = {
        {{.activate = true, .key = {"x", 1}, .set_slot = true}, "overwrite active keyslot 0"},
        {{.activate = true, .key = {"x", 1}, .set_slot = true, .slot = 8}, "Invalid keyslot 8"},
        {{.activate = true, .key = {"x", 1}, .iter_time = 1 << 30}, "iter-time"},
        {{.set_slot = true, .slot = UINT32_MAX, .force = true}, "Invalid keyslot 4294967295"},
        {{.set_slot = true, .slot = 7}, "already erased"},
        {{.key = {"x", 1}}, "No keyslots match"},
        {{.key = {"x", 1}, .force = true}, "No keyslots match"},
        {{.key = {"first", 5}}, "All the active keyslots match"},
        {{.key = {"x", 1}, .set_slot = true, .force = true}, "keyslot 0 doesn't contain"},
        {{.set_slot = true}, "the only active keyslot 0"},
        {{.force = true}, "must be given"},
    };
    struct err err = {""};
    struct blk *blk;

    (void)state;
    create("x.qcow2");
    shell("cp x.qcow2 before.qcow2");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(change("x.qcow2", &first, bad[i].change, &err), -EINVAL);
        assert_says(&err, bad[i].words);
        shell("cmp x.qcow2 before.qcow2");
    }
    shell("qemu-img create -q -f qcow2 plain.qcow2 1M");
    blk = open_image("plain.qcow2", true);
    assert_int_equal(blk_amend(blk, &(struct blk_amend_options){.keys = &bad[5].change}, &err),
                     -EINVAL);
    assert_says(&err, "encryption not present");
    close_image(blk);
}

static void nine_keys_are_one_too_many(void **state)
{
    struct err err = {""};

    (void)state;
    create("x.qcow2");
    for (unsigned i = 1; i < BLK_KEY_SLOTS; i++) {
        do_change("x.qcow2", &first, (struct blk_key_change){.activate = true, .key = second});
    }
    assert_int_equal(active_slots("x.qcow2"), 0xff);
    assert_int_equal(change("x.qcow2", &first,
                            (struct blk_key_change){.activate = true, .key = second, .force = true},
                            &err),
                     -EINVAL);
    assert_says(&err, "all keyslots are in use");
    /* Without a free slot for the meantime. */
    do_change("x.qcow2", &second,
              (struct blk_key_change){
                  .activate = true, .key = second, .set_slot = true, .slot = 0, .force = true});
    assert_does_not_open("x.qcow2", &first);
    assert_opens("x.qcow2", &second);
}

/* Nothing of a request is done when a part of it is refused; else all of it is. */
static void other_changes_go_along(void **state)
{
    const struct blk_key_change keys = {
        .activate = true, .opens = first, .key = second, .set_iter_time = true};
    struct blk_amend_options options = {.keys = &keys, .compat = 2, .refcount_bits = 8};
    struct err err = {""};
    struct blk *blk;

    (void)state;
    create("x.qcow2");
    blk = open_keyed("x.qcow2", &first);
    assert_int_equal(blk_amend(blk, &options, &err), -EINVAL);
    close_image(blk);
    assert_int_equal(active_slots("x.qcow2"), 0x01);
    options.compat = 0;
    blk = open_keyed("x.qcow2", &first);
    assert_int_equal(blk_amend(blk, &options, &err), 0);
    close_image(blk);
    assert_int_equal(active_slots("x.qcow2"), 0x03);
    assert_opens("x.qcow2", &second);
    shell("printf second > key; qemu-img check -q --object secret,id=s,file=key --image-opts "
          "driver=qcow2,file.filename=x.qcow2,encrypt.key-secret=s");
    shell("qemu-img info x.qcow2 | grep -q 'refcount bits: 8'");
}

/* Slot 7's material is an L2 table as well. */
static void a_slot_that_is_something_else_is_not_written(void **state)
{
    struct err err = {""};
    uint64_t luks, l1;
    struct blk *blk;

    (void)state;
    create("x.qcow2");
    blk = open_keyed("x.qcow2", &first);
    luks = qcow2_of(blk)->header.luks_offset + qcow2_of(blk)->crypto->luks.slots[7].key_offset;
    l1 = qcow2_of(blk)->l1.offset;
    close_image(blk);
    poke_be64("x.qcow2", l1, luks | QCOW2_ENTRY_COPIED);
    shell("dd if=x.qcow2 of=before bs=1 skip=%ju count=%d status=none", (uintmax_t)luks, MATERIAL);
    assert_int_equal(change("x.qcow2", &first,
                            (struct blk_key_change){
                                .activate = true, .key = second, .set_slot = true, .slot = 7},
                            &err),
                     -EIO);
    assert_int_equal(active_slots("x.qcow2"), 0x01);
    shell("qemu-img info x.qcow2 | grep -q 'corrupt: true'");
    shell("dd if=x.qcow2 of=after bs=1 skip=%ju count=%d status=none", (uintmax_t)luks, MATERIAL);
    shell("cmp before after");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_come_and_go),
        cmocka_unit_test(nothing_is_left_of_a_slot_that_was_erased),
        cmocka_unit_test(what_would_lose_the_data_is_refused),
        cmocka_unit_test(nine_keys_are_one_too_many),
        cmocka_unit_test(other_changes_go_along),
        cmocka_unit_test(a_slot_that_is_something_else_is_not_written),
    };

    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
