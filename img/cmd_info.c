/*
 * cmd_info.c - `info`: what an image is.
 *
 * The header alone is read. Backing files are opened with --backing-chain only, one image at a time:
 * a name in a hostile image must not make this command open it.
 */
#include "img.h"
#include "json.h"
#include "log.h"
#include "size.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_CHAIN = 4096 };

struct info_args {
    const char *path;
    const char *format;
    bool json, chain, force_share;
};

static bool parse_args(int argc, char **argv, struct info_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"format", required_argument, NULL, 'f'},
        {"output", required_argument, NULL, IMG_OPT_OUTPUT},
        {"backing-chain", no_argument, NULL, IMG_OPT_BACKING_CHAIN},
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

static void print_human(const struct blk *blk, const struct blk_info *info)
{
    char virtual_size[SIZE_TEXT_MAX], disk_size[SIZE_TEXT_MAX];

    printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
           blk_path(blk), blk_format(blk), size_format(info->virtual_size, virtual_size),
           (unsigned long long)info->virtual_size, size_format(info->disk_size, disk_size));
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
    if (info->compat == 0)
        return;
    printf("Format specific information:\n    compat: %s\n    compression type: %s\n",
           compat_text(info->compat), info->compression_type);
    if (info->compat >= 3)
        printf("    lazy refcounts: %s\n", yes_no(info->lazy_refcounts));
    printf("    refcount bits: %u\n", info->refcount_bits);
    if (info->compat >= 3)
        printf("    corrupt: %s\n    extended l2: %s\n", yes_no(info->is_corrupt),
               yes_no(info->extended_l2));
}

static json_t *qcow2_to_json(const struct blk_info *info)
{
    json_t *specific = json_object(), *data = json_object();

    json_add_text(data, "compat", compat_text(info->compat));
    json_add_text(data, "compression-type", info->compression_type);
    if (info->compat >= 3)
        json_add_bool(data, "lazy-refcounts", info->lazy_refcounts);
    json_add_number(data, "refcount-bits", info->refcount_bits);
    if (info->compat >= 3) {
        json_add_bool(data, "corrupt", info->is_corrupt);
        json_add_bool(data, "extended-l2", info->extended_l2);
    }
    json_add_text(specific, "type", "qcow2");
    (void)json_object_set_new(specific, "data", data);
    return specific;
}

/* The order of the keys is qemu-img's. */
static json_t *to_json(const struct blk *blk, const struct blk_info *info)
{
    json_t *object = json_object();

    if (info->backing_format != NULL)
        json_add_text(object, "backing-filename-format", info->backing_format);
    json_add_number(object, "virtual-size", info->virtual_size);
    json_add_text(object, "filename", blk_path(blk));
    json_add_nonzero(object, "cluster-size", info->cluster_size);
    json_add_text(object, "format", blk_format(blk));
    json_add_number(object, "actual-size", info->disk_size);
    if (info->compat != 0)
        (void)json_object_set_new(object, "format-specific", qcow2_to_json(info));
    if (info->backing_path != NULL)
        json_add_text(object, "full-backing-filename", info->backing_path);
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
    struct blk_info info;
    struct err err;
    int status = 0;
    struct blk *blk = img_open(&(struct blk_open_options){
        .path = path,
        .format = format,
        .no_backing = true,
        .force_share = args->force_share,
        .for_check = true,
    });

    *next = *next_format = NULL;
    if (blk == NULL)
        return 1;
    if (blk_get_info(blk, &info, &err) < 0) {
        log_error("%s", err.text);
        status = 1;
    } else {
        if (list != NULL)
            (void)json_array_append_new(list, to_json(blk, &info));
        else
            print_human(blk, &info);
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
