/*
 * cmd_check.c - `check`: consistency of an image, and repair.
 *
 * Exit status: 0 consistent (now), 1 the check could not be done, 2 corruptions, 3 leaks alone, 63 the
 * format has no check. After a repair the image is checked once more, and that result counts.
 */
#include "image_opts.h"
#include "img.h"
#include "json.h"
#include "log.h"

#include <errno.h>
#include <string.h>

enum { STATUS_FAILED = 1, STATUS_CORRUPT = 2, STATUS_LEAKS = 3, STATUS_UNSUPPORTED = 63 };

struct check_args {
    const char *path;
    const char *format;
    unsigned fix;
    bool quiet, json, force_share;
};

static bool parse_args(int argc, char **argv, struct check_args *args, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"format", required_argument, NULL, 'f'},
        {"repair", required_argument, NULL, 'r'},
        {"output", required_argument, NULL, IMG_OPT_OUTPUT},
        {"force-share", no_argument, NULL, 'U'},
        {NULL, 0, NULL, 0},
    };
    enum blk_cache ignored;
    int c;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":hf:r:T:qU", longopts, status)) != -1) {
        switch (c) {
        case 'f':
            args->format = optarg;
            break;
        case 'r':
            if (strcmp(optarg, "leaks") == 0) {
                args->fix = BLK_FIX_LEAKS;
            } else if (strcmp(optarg, "all") == 0) {
                args->fix = BLK_FIX_LEAKS | BLK_FIX_ERRORS;
            } else {
                *status = img_usage_error(
                    "Unknown option value for -r (expecting 'leaks' or 'all'): %s", optarg);
                return false;
            }
            break;
        case 'T':
            if (!img_parse_cache(optarg, "source cache", &ignored))
                return false;
            break;
        case 'q':
            args->quiet = true;
            break;
        case 'U':
            args->force_share = true;
            break;
        case IMG_OPT_OUTPUT:
            if (!img_parse_output(optarg, &args->json))
                return false;
            break;
        default:
            return false;
        }
    }
    return img_take_image(argc, argv, &args->path, status);
}

static void report_line(void *opaque, const char *line)
{
    (void)opaque;
    fprintf(stderr, "%s\n", line);
}

static void print_human(const struct blk_check_result *r)
{
    if (r->corruptions == 0 && r->leaks == 0 && r->check_errors == 0) {
        printf("No errors were found on the image.\n");
    } else {
        if (r->corruptions > 0)
            printf("\n%llu errors were found on the image.\n"
                   "Data may be corrupted, or further writes to the image may corrupt it.\n",
                   (unsigned long long)r->corruptions);
        if (r->leaks > 0)
            printf("\n%llu leaked clusters were found on the image.\n"
                   "This means waste of disk space, but no harm to data.\n",
                   (unsigned long long)r->leaks);
        if (r->check_errors > 0)
            printf("\n%llu internal errors have occurred during the check.\n",
                   (unsigned long long)r->check_errors);
    }
    if (r->total_clusters != 0 && r->allocated_clusters != 0) {
        double allocated = (double)r->allocated_clusters;

        printf("%llu/%llu = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               (unsigned long long)r->allocated_clusters, (unsigned long long)r->total_clusters,
               allocated * 100 / (double)r->total_clusters,
               (double)r->fragmented_clusters * 100 / allocated,
               (double)r->compressed_clusters * 100 / allocated);
    }
    if (r->image_end_offset != 0)
        printf("Image end offset: %llu\n", (unsigned long long)r->image_end_offset);
}

/* The order of the keys is qemu-img's. */
static int print_json(const struct blk_check_result *r, const char *path, const char *format)
{
    json_t *object = json_object();

    json_add_nonzero(object, "image-end-offset", r->image_end_offset);
    json_add_nonzero(object, "compressed-clusters", r->compressed_clusters);
    json_add_nonzero(object, "total-clusters", r->total_clusters);
    json_add_nonzero(object, "corruptions", r->corruptions);
    json_add_nonzero(object, "corruptions-fixed", r->corruptions_fixed);
    json_add_number(object, "check-errors", r->check_errors);
    json_add_nonzero(object, "leaks", r->leaks);
    json_add_nonzero(object, "leaks-fixed", r->leaks_fixed);
    json_add_nonzero(object, "allocated-clusters", r->allocated_clusters);
    json_add_text(object, "filename", image_opts_name(path));
    json_add_text(object, "format", format);
    json_add_nonzero(object, "fragmented-clusters", r->fragmented_clusters);
    return json_print(object);
}

static int exit_status(const struct blk_check_result *r)
{
    if (r->check_errors > 0)
        return STATUS_FAILED;
    if (r->corruptions > 0)
        return STATUS_CORRUPT;
    return r->leaks > 0 ? STATUS_LEAKS : 0;
}

static int check(const struct check_args *args, struct blk *blk)
{
    struct blk_check_result result;
    uint64_t leaks_fixed, corruptions_fixed;
    struct err err;
    int rc = blk_check(blk, args->fix, report_line, NULL, &result, &err);

    if (rc == -ENOTSUP) {
        log_error("This image format does not support checks");
        return STATUS_UNSUPPORTED;
    }
    if (rc == 0 && (result.leaks_fixed > 0 || result.corruptions_fixed > 0)) {
        leaks_fixed = result.leaks_fixed;
        corruptions_fixed = result.corruptions_fixed;
        if (!args->json && !args->quiet)
            printf("The following inconsistencies were found and repaired:\n\n"
                   "    %llu leaked clusters\n    %llu corruptions\n\n"
                   "Double checking the fixed image now...\n",
                   (unsigned long long)leaks_fixed, (unsigned long long)corruptions_fixed);
        fflush(stdout);
        rc = blk_check(blk, 0, report_line, NULL, &result, &err);
        result.leaks_fixed = leaks_fixed;
        result.corruptions_fixed = corruptions_fixed;
    }
    if (rc < 0) {
        log_error("Check failed: %s", err.text);
        return STATUS_FAILED;
    }
    if (!args->quiet) {
        if (args->json && print_json(&result, args->path, blk_format(blk)) < 0)
            return STATUS_FAILED;
        if (!args->json)
            print_human(&result);
    }
    return exit_status(&result);
}

int cmd_check(int argc, char **argv)
{
    struct check_args args = {0};
    struct blk *blk;
    int status;

    if (!parse_args(argc, argv, &args, &status))
        return status;
    blk = img_open(&(struct blk_open_options){
        .path = args.path,
        .format = args.format,
        .writable = args.fix != 0,
        .no_backing = true,
        .no_data_file = true,
        .force_share = args.force_share,
        .for_check = true,
    });
    if (blk == NULL)
        return STATUS_FAILED;
    status = check(&args, blk);
    img_close(blk, &status);
    return status;
}
