/*
 * cmd_info.c - `info`: what an image is.
 *
 * The header alone is read. Backing files are opened with --backing-chain only, one image at a time:
 * a name in a hostile image must not make this command open it.
 */
#include "block_limits.h"
#include "image_opts.h"
#include "img.h"
#include "info.h"
#include "json.h"
#include "log.h"
#include "size.h"
#include "snapshot_list.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CHAIN = 4096, OPT_LIMITS = 0x200 };

struct info_args {
    const char *path;
    const char *format;
    bool json, chain, limits, force_share;
};

static bool parse_args(int argc, char **argv, struct info_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"format", required_argument, NULL, 'f'},
        {"output", required_argument, NULL, IMG_OPT_OUTPUT},
        {"backing-chain", no_argument, NULL, IMG_OPT_BACKING_CHAIN},
        {"limits", no_argument, NULL, OPT_LIMITS},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:U", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->format = optarg;
            break;
        case 'U':
            args->force_share = true;
            break;
        case IMG_OPT_OUTPUT:
            if (!img_parse_output(optarg, &args->json))
                return false;
            break;
        case IMG_OPT_BACKING_CHAIN:
            args->chain = true;
            break;
        case OPT_LIMITS:
            args->limits = true;
            break;
        default:
            return false;
        }
    }
    return img_take_image(argc, argv, &args->path, status);
}

static const char *yes_no(bool value)
{
    return value ? "true" : "false";
}

static const char *compat_text(unsigned compat)
{
    return compat >= 3 ? "1.1" : "0.10";
}

/* As qemu-img prints the flags; NULL behind the last. */
static const char *bitmap_flag(const struct blk_bitmap_info *bitmap, unsigned index)
{
    unsigned auto_at = bitmap->is_in_use ? 1 : 0;

    if (index < auto_at)
        return "in-use";
    return index == auto_at && bitmap->is_enabled ? "auto" : NULL;
}

static void print_bitmaps(struct blk *blk)
{
    struct blk_bitmap_info bitmap;

    for (unsigned i = 0; blk_bitmap_get(blk, i, &bitmap); i++) {
        if (i == 0)
            printf("    bitmaps:\n");
        printf("        [%u]:\n            flags:\n", i);
        for (unsigned f = 0; bitmap_flag(&bitmap, f) != NULL; f++)
            printf("                [%u]: %s\n", f, bitmap_flag(&bitmap, f));
        printf("            name: %s\n            granularity: %llu\n", bitmap.name,
               (unsigned long long)bitmap.granularity);
    }
}

static json_t *bitmaps_to_json(struct blk *blk)
{
    json_t *list = json_array();
    struct blk_bitmap_info bitmap;

    for (unsigned i = 0; blk_bitmap_get(blk, i, &bitmap); i++) {
        json_t *object = json_object(), *flags = json_array();

        for (unsigned f = 0; bitmap_flag(&bitmap, f) != NULL; f++)
            (void)json_array_append_new(flags, json_text(bitmap_flag(&bitmap, f)));
        (void)json_object_set_new(object, "flags", flags);
        json_add_text(object, "name", bitmap.name);
        json_add_number(object, "granularity", bitmap.granularity);
        (void)json_array_append_new(list, object);
    }
    return list;
}

static void print_encryption(struct blk *blk)
{
    struct blk_encryption e;

    if (!blk_get_encryption(blk, &e))
        return;
    printf("    encrypt:\n        ivgen alg: %s\n        hash alg: %s\n        cipher alg: %s\n"
           "        uuid: %s\n",
           e.ivgen_alg, e.hash_alg, e.cipher_alg, e.uuid);
    if (e.ivgen_hash_alg[0] != '\0')
        printf("        ivgen hash alg: %s\n", e.ivgen_hash_alg);
    printf("        format: luks\n        cipher mode: %s\n        slots:\n", e.cipher_mode);
    for (unsigned i = 0; i < BLK_KEY_SLOTS; i++) {
        printf("            [%u]:\n                active: %s\n", i, yes_no(e.slots[i].is_active));
        if (e.slots[i].is_active)
            printf("                iters: %u\n", e.slots[i].iterations);
        printf("                key offset: %llu\n", (unsigned long long)e.slots[i].key_offset);
        if (e.slots[i].is_active)
            printf("                stripes: %u\n", e.stripes);
    }
    printf("        payload offset: %llu\n        master key iters: %u\n",
           (unsigned long long)e.payload_offset, e.master_key_iterations);
}

static json_t *encryption_to_json(const struct blk_encryption *e)
{
    json_t *object = json_object(), *slots = json_array();

    json_add_text(object, "ivgen-alg", e->ivgen_alg);
    json_add_text(object, "hash-alg", e->hash_alg);
    json_add_text(object, "cipher-alg", e->cipher_alg);
    json_add_text(object, "uuid", e->uuid);
    if (e->ivgen_hash_alg[0] != '\0')
        json_add_text(object, "ivgen-hash-alg", e->ivgen_hash_alg);
    json_add_text(object, "format", "luks");
    json_add_text(object, "cipher-mode", e->cipher_mode);
    for (unsigned i = 0; i < BLK_KEY_SLOTS; i++) {
        json_t *slot = json_object();

        json_add_bool(slot, "active", e->slots[i].is_active);
        if (e->slots[i].is_active)
            json_add_number(slot, "iters", e->slots[i].iterations);
        json_add_number(slot, "key-offset", e->slots[i].key_offset);
        if (e->slots[i].is_active)
            json_add_number(slot, "stripes", e->stripes);
        (void)json_array_append_new(slots, slot);
    }
    (void)json_object_set_new(object, "slots", slots);
    json_add_number(object, "payload-offset", e->payload_offset);
    json_add_number(object, "master-key-iters", e->master_key_iterations);
    return object;
}

void info_print_specific(struct blk *blk, const struct blk_info *info)
{
    if (info->compat == 0)
        return;
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
           compat_text(info->compat), info->compression_type);
    if (info->compat >= 3)
        printf("    lazy refcounts: %s\n", yes_no(info->lazy_refcounts));
    print_bitmaps(blk);
    printf("    refcount bits: %u\n", info->refcount_bits);
    print_encryption(blk);
    if (info->data_name != NULL)
        printf("    data file: %s\n", info->data_name);
    if (info->has_data_file)
        printf("    data file raw: %s\n", yes_no(info->data_file_raw));
    if (info->compat >= 3)
        printf("    corrupt: %s\n    extended l2: %s\n", yes_no(info->is_corrupt),
               yes_no(info->extended_l2));
}

static void print_human(struct blk *blk, const char *name, const struct blk_info *info, bool limits)
{
    char virtual_size[SIZE_TEXT_MAX], disk_size[SIZE_TEXT_MAX];

    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n", name,
           blk_format(blk), size_format(info->virtual_size, virtual_size),
           (unsigned long long)info->virtual_size, size_format(info->disk_size, disk_size));
    if (info->is_encrypted)
        printf("encrypted: yes\n");
    if (info->cluster_size != 0)
        printf("cluster_size: %u\n", info->cluster_size);
    if (info->is_dirty)
        printf("cleanly shut down: no\n");
    if (info->backing_name != NULL) {
        printf("backing file: %s", info->backing_name);
        if (info->backing_path == NULL)
            printf(" (cannot determine actual path)");
        else if (strcmp(info->backing_path, info->backing_name) != 0)
            printf(" (actual path: %s)", info->backing_path);
        printf("\n");
        if (info->backing_format != NULL)
            printf("backing file format: %s\n", info->backing_format);
    }
    if (limits)
        limits_print(info);
    (void)snapshot_list_print(blk, NULL);
    info_print_specific(blk, info);
}

static json_t *qcow2_to_json(struct blk *blk, const struct blk_info *info)
{
    json_t *specific = json_object(), *data = json_object();
    struct blk_encryption encryption;
    struct blk_bitmap_info first;

    json_add_text(data, "compat", compat_text(info->compat));
    json_add_text(data, "compression-type", info->compression_type);
    if (info->compat >= 3)
        json_add_bool(data, "lazy-refcounts", info->lazy_refcounts);
    if (blk_bitmap_get(blk, 0, &first))
        (void)json_object_set_new(data, "bitmaps", bitmaps_to_json(blk));
    json_add_number(data, "refcount-bits", info->refcount_bits);
    if (blk_get_encryption(blk, &encryption))
        (void)json_object_set_new(data, "encrypt", encryption_to_json(&encryption));
    if (info->data_name != NULL)
        json_add_text(data, "data-file", info->data_name);
    if (info->has_data_file)
        json_add_bool(data, "data-file-raw", info->data_file_raw);
    if (info->compat >= 3) {
        json_add_bool(data, "corrupt", info->is_corrupt);
        json_add_bool(data, "extended-l2", info->extended_l2);
    }
    json_add_text(specific, "type", "qcow2");
    (void)json_object_set_new(specific, "data", data);
    return specific;
}

/* The order of the keys is qemu-img's. */
static json_t *to_json(struct blk *blk, const char *name, const struct blk_info *info, bool limits)
{
    json_t *object = json_object(), *snapshots;

    if (info->backing_format != NULL)
        json_add_text(object, "backing-filename-format", info->backing_format);
    if (snapshot_list_to_json(blk, &snapshots, NULL) == 0 && snapshots != NULL)
        (void)json_object_set_new(object, "snapshots", snapshots);
    json_add_number(object, "virtual-size", info->virtual_size);
    json_add_text(object, "filename", name);
    json_add_nonzero(object, "cluster-size", info->cluster_size);
    json_add_text(object, "format", blk_format(blk));
    json_add_number(object, "actual-size", info->disk_size);
    if (limits)
        (void)json_object_set_new(object, "limits", limits_to_json(info));
    if (info->compat != 0)
        (void)json_object_set_new(object, "format-specific", qcow2_to_json(blk, info));
    if (info->backing_path != NULL)
        json_add_text(object, "full-backing-filename", info->backing_path);
    if (info->is_encrypted)
        json_add_bool(object, "encrypted", true);
    if (info->backing_name != NULL)
        json_add_text(object, "backing-filename", info->backing_name);
    json_add_bool(object, "dirty-flag", info->is_dirty);
    return object;
}

/* Shows one image: printed, or appended to `list`. With *next not NULL on return the chain goes on
 * there; *next and *next_format are the caller's to free. */
static int show(const struct info_args *args, const char *path, const char *format, json_t *list,
                char **next, char **next_format)
{
    struct blk_snapshot_info first;
    struct blk_info info;
    struct err err;
    int status = 0;
    char *name;
    struct blk *blk = img_open(&(struct blk_open_options){
        .path = path,
        .path_is_named = path != args->path,
        .format = format,
        .no_backing = true,
        .no_data_file = true,
        .force_share = args->force_share,
        .for_check = true,
    });

    *next = *next_format = NULL;
    if (blk == NULL)
        return 1;
    name = image_opts_shown(path, blk_format(blk));
    /* The snapshots are read with the first one: what comes later does not fail. */
    if (blk_get_info(blk, &info, &err) < 0 || blk_snapshot_get(blk, 0, &first, &err) < 0) {
        log_error("%s", err.text);
        status = 1;
    } else if (name == NULL) {
        log_error("out of memory");
        status = 1;
    } else {
        if (list != NULL)
            (void)json_array_append_new(list, to_json(blk, name, &info, args->limits));
        else
            print_human(blk, name, &info, args->limits);
        if (args->chain && info.backing_path != NULL) {
            *next = strdup(info.backing_path);
            *next_format = info.backing_format != NULL ? strdup(info.backing_format) : NULL;
        } else if (args->chain && info.backing_name != NULL) {
            /* A name that is no path: the same words as when opening the chain. */
            char *unused = NULL;

            if (blk_backing_path(path, info.backing_name, &unused, &err) < 0) {
                log_error("Could not open '%s': %s", path, err.text);
                status = 1;
            }
            free(unused);
        }
    }
    free(name);
    img_close(blk, &status);
    return status;
}

int cmd_info(int argc, char **argv)
{
    struct info_args args = {0};
    char *path, *format;
    json_t *list = NULL;
    int status, depth = 0;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    if (args.json)
        list = json_array();
    status = show(&args, args.path, args.format, list, &path, &format);
    while (status == 0 && path != NULL) {
        char *this_path = path, *this_format = format;

        if (list == NULL)
            printf("\n");
        if (++depth > MAX_CHAIN) {
            log_error("Backing file chain of '%s' has a loop or is too deep", args.path);
            status = 1;
            path = format = NULL;
        } else {
            status = show(&args, this_path, this_format, list, &path, &format);
        }
        free(this_path);
        free(this_format);
    }
    free(path);
    free(format);
    if (status == 0 && list != NULL)
        status = json_print(args.chain ? json_incref(list) : json_incref(json_array_get(list, 0)))
                     ? 1
                     : 0;
    json_decref(list);
    return status;
}
