/*
 * options.c - the parts of command lines that all commands have.
 */
#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "optstr.h"
#include "size.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

enum { MAX_OPTIONS = 32 };

int img_usage_error(const char *fmt, ...)
{
    char text[1024];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    log_error("%s", text);
    fprintf(stderr, "Try '%s --help' for more information\n", log_program_name());
    return 1;
}

/* The long option nearest to `word` (which begins with "--"), or NULL. */
static const char *nearest_option(const char *word, const struct option *longopts)
{
    const char *names[MAX_OPTIONS + 1];
    char name[64];
    size_t n = 0;

    (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="), word + 2);
    for (; n < MAX_OPTIONS && longopts[n].name != NULL; n++)
        names[n] = longopts[n].name;
    names[n] = NULL;
    return optstr_nearest(name, names);
}

static int unknown_option(const char *word, const struct option *longopts)
{
    const char *nearest = nearest_option(word, longopts);

    if (nearest != NULL)
        return img_usage_error("unrecognized option '%s' (did you mean '--%s'?)", word, nearest);
    return img_usage_error("unrecognized option '%s'", word);
}

int img_getopt(int argc, char **argv, const char *shortopts, const struct option *longopts,
               int *status)
{
    int before = optind;
    int c;

    opterr = 0;
    c = getopt_long(argc, argv, shortopts, longopts, NULL);
    switch (c) {
    case 'h':
        img_print_help();
        *status = 0;
        return IMG_OPT_STOP;
    case ':':
        *status = img_usage_error("missing argument for option '%s'", argv[optind - 1]);
        return IMG_OPT_STOP;
    case '?':
        if (optopt > 0 && optopt < 0x100 && strncmp(argv[before], "--", 2) != 0)
            *status = img_usage_error("unrecognized option '-%c'", optopt);
        else
            *status = unknown_option(argv[optind - 1], longopts);
        return IMG_OPT_STOP;
    default:
        return c;
    }
}

bool img_take_image(int argc, char **argv, const char **path, int *status)
{
    if (optind + 1 != argc) {
        *status = img_usage_error("Expecting one image file name");
        return false;
    }
    *path = image_opts_path(argv[optind], false);
    *status = 1;
    return *path != NULL;
}

bool img_parse_output(const char *text, bool *json)
{
    *json = strcmp(text, "json") == 0;
    if (*json || strcmp(text, "human") == 0)
        return true;
    log_error("--output must be used with human or json as argument.");
    return false;
}

bool img_find_cache(const char *text, enum blk_cache *cache)
{
    static const struct {
        const char *name;
        enum blk_cache cache;
    } modes[] = {
        {"none", BLK_CACHE_DIRECT},         {"off", BLK_CACHE_DIRECT},
        {"writeback", BLK_CACHE_WRITEBACK}, {"writethrough", BLK_CACHE_WRITEBACK},
        {"directsync", BLK_CACHE_DIRECT},   {"unsafe", BLK_CACHE_UNSAFE},
    };

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(modes[i].name, text) == 0) {
            *cache = modes[i].cache;
            return true;
        }
    }
    return false;
}

bool img_parse_cache(const char *text, const char *what, enum blk_cache *cache)
{
    if (img_find_cache(text, cache))
        return true;
    log_error("Invalid %s option: %s", what, text);
    return false;
}

bool img_parse_size(const char *text, const char *what, uint64_t *size)
{
    return img_parse_size_within(text, what, 0, INT64_MAX, size);
}

bool img_parse_size_within(const char *text, const char *what, uint64_t min, uint64_t max,
                           uint64_t *size)
{
    int rc = size_parse(text, 'B', size);

    if (rc == 0 && (*size < min || *size > max))
        rc = -ERANGE;
    /* To qemu-img what begins with a minus is no number. */
    if (rc == -ERANGE && strchr(text, '-') == NULL) {
        log_error("Invalid %s specified. Must be between %llu and %llu.", what,
                  (unsigned long long)min, (unsigned long long)max);
    } else if (rc < 0) {
        log_error("Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        log_error("kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
    }
    return rc == 0;
}

bool img_known_format(const char *format)
{
    return strcmp(format, "raw") == 0 || strcmp(format, "qcow2") == 0;
}
