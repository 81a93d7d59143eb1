/*
 * image_opts.c - see image_opts.h.
 */
#include "image_opts.h"
#include "image_opts_known.h"
#include "img.h"
#include "keys.h"
#include "log.h"
#include "optstr.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64, MAX_PREFIX = MAX_DEPTH * 8 + 1, SECTOR = 512 };

/* An image that was named by options. */
struct named_image {
    struct optstr options;
    char *name;
    const char *path, *format;
    bool is_exclusive; /* of --image-opts: goes with no other format */
    bool read_only, force_share, no_lock, direct, no_flush, discard;
    uint64_t raw_offset, raw_length;
    struct blk_key keys[MAX_DEPTH];
    unsigned key_count;
    struct blk_backing_choice backings[MAX_DEPTH];
    unsigned backing_count;
};

/* Each stays where it is: what is opened points into it. */
static struct {
    struct named_image **images;
    unsigned image_count;
    bool enabled, target_enabled;
} known;

void image_opts_enable(bool is_target)
{
    *(is_target ? &known.target_enabled : &known.enabled) = true;
}

bool image_opts_enabled(bool is_target)
{
    return is_target ? known.target_enabled : known.enabled;
}

/* ---- one layer of a name ---- */

static const char *get(struct named_image *image, const char *prefix, const char *key)
{
    char full[MAX_PREFIX + 32];

    (void)snprintf(full, sizeof(full), "%s%s", prefix, key);
    return optstr_get(&image->options, full);
}

static bool is_set(struct named_image *image, const char *prefix, const char *key,
                   const char *value)
{
    const char *found = get(image, prefix, key);

    return found != NULL && strcmp(found, value) == 0;
}

/* Whether any option begins with `prefix`. */
static bool has_layer(const struct named_image *image, const char *prefix)
{
    for (unsigned i = 0; i < image->options.count; i++) {
        if (strncmp(image->options.items[i].key, prefix, strlen(prefix)) == 0)
            return true;
    }
    return false;
}

/* The path of a layer; NULL with *err set where none is given. A layer below the top may say no more
 * than its key. */
static const char *find_file(struct named_image *image, const char *prefix, struct err *err)
{
    const char *path = get(image, prefix, "file.filename");
    const char *driver = get(image, prefix, "file.driver"), *node = get(image, prefix, "file");

    if (path == NULL)
        path = get(image, prefix, "filename");
    if (node != NULL)
        (void)err_set(err, -EINVAL, "Cannot find device='%s' nor node-name='%s'", node, node);
    else if (driver != NULL && strcmp(driver, "file") != 0 && strcmp(driver, "host_device") != 0)
        (void)err_set(err, -EINVAL, "Unknown driver '%s'", driver);
    else if (path != NULL)
        return path;
    else if (get(image, prefix, "driver") != NULL)
        (void)err_set(err, -EINVAL, "A block device must be specified for \"file\"");
    else
        (void)err_set(err, -EINVAL, "Must specify either driver or file");
    return NULL;
}

static int read_key(struct named_image *image, const char *prefix, unsigned depth, struct err *err)
{
    const char *id = get(image, prefix, "encrypt.key-secret");
    const char *format = get(image, prefix, "encrypt.format");

    if (format != NULL && strcmp(format, "luks") != 0)
        return err_set(err, -EINVAL, "encrypt.format is luks alone");
    if (!keys_find(NULL, &image->keys[depth]))
        image->keys[depth] = (struct blk_key){0};
    if (id == NULL)
        return 0;
    if (!keys_find(id, &image->keys[depth]))
        return err_set(err, -EINVAL, "No secret with id '%s'", id);
    image->key_count = depth + 1;
    return 0;
}

/* One layer below the top. */
static int read_below(struct named_image *image, const char *prefix, unsigned depth,
                      struct err *err)
{
    struct blk_backing_choice *choice = &image->backings[depth - 1];
    bool is_named;

    *choice = (struct blk_backing_choice){.format = get(image, prefix, "driver")};
    is_named = choice->format != NULL || get(image, prefix, "file.filename") != NULL;
    if (is_named) {
        choice->path = find_file(image, prefix, err);
        if (choice->path == NULL)
            return -EINVAL;
        image->backing_count = depth;
    }
    return 0;
}

/* `backing=`: nothing below; a name of a node there is none of. */
static int read_end(struct named_image *image, const char *prefix, unsigned depth, struct err *err)
{
    const char *backing = get(image, prefix, "backing");

    if (backing != NULL && backing[0] != '\0')
        return err_set(err, -EINVAL,
                       "Could not open backing file: Cannot find device='%s' nor node-name='%s'",
                       backing, backing);
    if (backing != NULL) {
        image->backings[depth] = (struct blk_backing_choice){.path = ""};
        image->backing_count = depth + 1;
    }
    return 0;
}

/* What is said of the top layer besides its file. */
static int read_top(struct named_image *image, struct err *err)
{
    struct optstr *o = &image->options;

    (void)optstr_get_bool(o, "read-only", &image->read_only, NULL);
    (void)optstr_get_bool(o, "force-share", &image->force_share, NULL);
    (void)optstr_get_bool(o, "cache.direct", &image->direct, NULL);
    (void)optstr_get_bool(o, "cache.no-flush", &image->no_flush, NULL);
    (void)optstr_get_size(o, "offset", &image->raw_offset, NULL);
    (void)optstr_get_size(o, "size", &image->raw_length, NULL);
    image->no_lock = is_set(image, "", "file.locking", "off");
    image->discard = is_set(image, "", "discard", "unmap") || is_set(image, "", "discard", "on");
    if (is_set(image, "", "detect-zeroes", "unmap") && !image->discard)
        return err_set(err, -EINVAL,
                       "setting detect-zeroes to unmap is not allowed without setting discard "
                       "operation to unmap");
    if (image->raw_length % SECTOR != 0)
        return err_set(err, -EINVAL, "Specified size is not multiple of 512");
    return 0;
}

static int read_image(struct named_image *image, const char *text, struct err *err)
{
    char prefix[MAX_PREFIX] = "";
    size_t length;
    int rc = strchr(text, '=') != NULL
                 ? optstr_parse(&image->options, text, NULL, err)
                 : err_set(err, -EINVAL, "Cannot find device='%s' nor node-name='%s'", text, text);

    for (unsigned depth = 0; rc == 0 && depth < MAX_DEPTH && has_layer(image, prefix); depth++) {
        const char *driver = get(image, prefix, "driver");

        if (driver != NULL && !img_known_format(driver))
            rc = err_set(err, -EINVAL, "Unknown driver '%s'", driver);
        if (rc == 0 && depth == 0) {
            image->format = driver;
            image->path = find_file(image, prefix, err);
            rc = image->path != NULL ? 0 : -EINVAL;
        } else if (rc == 0) {
            rc = read_below(image, prefix, depth, err);
        }
        /* Which options a layer has is its driver's; one that is found later says no more. */
        if (rc == 0 && driver == NULL && (depth > 0 || blk_probe(image->path, &driver, NULL) < 0))
            driver = "qcow2";
        rc = rc == 0 ? image_opts_check_layer(&image->options, prefix, driver, err) : rc;
        rc = rc == 0 ? read_key(image, prefix, depth, err) : rc;
        rc = rc == 0 ? read_end(image, prefix, depth, err) : rc;
        length = strlen(prefix);
        (void)snprintf(prefix + length, sizeof(prefix) - length, "backing.");
    }
    /* Deeper layers: the key for everything, or none. */
    if (rc == 0 && image->key_count < MAX_DEPTH && keys_find(NULL, &image->keys[image->key_count]))
        image->key_count++;
    else if (rc == 0 && image->key_count < MAX_DEPTH)
        image->keys[image->key_count++] = (struct blk_key){0};
    return rc == 0 ? read_top(image, err) : rc;
}

/* ---- json: ---- */

/* Writes "key=value," for each member, a member of an object as "key.member". */
static int flatten(FILE *out, const char *key, const json_t *value, struct err *err)
{
    const char *name, *text;
    const json_t *member;
    char path[MAX_PREFIX + 32];

    if (json_is_object(value)) {
        json_object_foreach((json_t *)(uintptr_t)value, name, member)
        {
            int n = snprintf(path, sizeof(path), "%s%s%s", key, key[0] != '\0' ? "." : "", name);
            int rc = n >= 0 && (size_t)n < sizeof(path)
                         ? flatten(out, path, member, err)
                         : err_set(err, -EINVAL, "The JSON options are nested too deeply");

            if (rc < 0)
                return rc;
        }
        return 0;
    }
    fprintf(out, "%s=", key);
    if (json_is_integer(value)) {
        fprintf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_boolean(value)) {
        fputs(json_is_true(value) ? "on" : "off", out);
    } else if (json_is_string(value)) {
        for (text = json_string_value(value); *text != '\0'; text++)
            fprintf(out, *text == ',' ? ",," : "%c", *text);
    } else if (!json_is_null(value)) {
        return err_set(err, -EINVAL, "Invalid parameter type for '%s'", key);
    }
    fputc(',', out);
    return 0;
}

/* The options that the JSON says, to be freed; NULL with *err set. */
static char *options_of_json(const char *json, struct err *err)
{
    json_error_t problem;
    json_t *value = json_loads(json, JSON_REJECT_DUPLICATES, &problem);
    char *text = NULL;
    size_t size = 0;
    FILE *out = NULL;
    int rc;

    if (!json_is_object(value)) {
        rc = err_set(err, -EINVAL, "Could not parse the JSON options: %s",
                     value == NULL ? problem.text : "Invalid JSON object given");
    } else {
        out = open_memstream(&text, &size);
        rc = out != NULL ? flatten(out, "", value, err) : err_set(err, -ENOMEM, "out of memory");
    }
    if (out != NULL && fclose(out) != 0)
        rc = err_set(err, -ENOMEM, "out of memory");
    json_decref(value);
    if (rc == 0 && size > 0)
        text[size - 1] = '\0';
    if (rc < 0) {
        free(text);
        text = NULL;
    }
    return text;
}

/* ---- names ---- */

static void free_image(struct named_image *image)
{
    optstr_free(&image->options);
    free(image->name);
    free(image);
}

/* `options`: what the name says, as options; it is given up. NULL with *err set. */
static const char *take_image(const char *name, char *options, bool is_exclusive, struct err *err)
{
    struct named_image *image = calloc(1, sizeof(*image));
    struct named_image **images =
        realloc(known.images, (known.image_count + 1) * sizeof(struct named_image *));
    int rc = options != NULL ? 0 : -EINVAL;

    if (images != NULL)
        known.images = images;
    if (image != NULL)
        image->name = strdup(name);
    if (images == NULL || image == NULL || image->name == NULL)
        rc = err_set(err, -ENOMEM, "out of memory");
    rc = rc == 0 ? read_image(image, options, err) : rc;
    free(options);
    if (rc < 0) {
        if (image != NULL)
            free_image(image);
        return NULL;
    }
    image->is_exclusive = is_exclusive;
    images[known.image_count++] = image;
    return image->path;
}

const char *image_opts_named(const char *name, struct err *err)
{
    char *options = strdup(name);

    (void)err_set(err, -ENOMEM, "out of memory");
    return take_image(name, options, false, err);
}

const char *image_opts_path(const char *name, bool is_target)
{
    struct err err = {.text = "out of memory"};
    const char *path;

    if (image_opts_enabled(is_target))
        path = take_image(name, strdup(name), true, &err);
    else if (strncmp(name, "json:", 5) == 0)
        path = take_image(name, options_of_json(name + 5, &err), false, &err);
    else /* QEMU's way to say that what follows is a path, whatever is in it. */
        path = strncmp(name, "file:", 5) == 0 ? name + 5 : name;
    if (path == NULL)
        log_error("Could not open '%s': %s", name, err.text);
    return path;
}

static const struct named_image *find_image(const char *path)
{
    for (unsigned i = 0; i < known.image_count; i++) {
        if (known.images[i]->path == path)
            return known.images[i];
    }
    return NULL;
}

const char *image_opts_name(const char *path)
{
    const struct named_image *image = find_image(path);

    return image != NULL ? image->name : path;
}

int image_opts_check(const struct blk_open_options *options, struct err *err)
{
    const struct named_image *image = find_image(options->path);

    if (image == NULL)
        return 0;
    if (options->writable && image->read_only)
        return err_set(err, -EINVAL, "Block node is read-only");
    if (options->writable && image->force_share)
        return err_set(err, -EINVAL, "force-share=on can only be used with read-only images");
    return 0;
}

bool image_opts_conflict(const struct blk_open_options *options)
{
    const struct named_image *image = find_image(options->path);

    return image != NULL && image->is_exclusive && options->format != NULL;
}

void image_opts_apply(struct blk_open_options *options, const char *path, unsigned depth)
{
    static struct blk_key everywhere;
    const struct named_image *image = find_image(path);

    options->keys = &everywhere;
    options->key_count = keys_find(NULL, &everywhere);
    if (image == NULL)
        return;
    if (depth < image->key_count) {
        options->keys = &image->keys[depth];
        options->key_count = image->key_count - depth;
    }
    if (depth < image->backing_count) {
        options->backings = &image->backings[depth];
        options->backing_count = image->backing_count - depth;
    }
    if (depth > 0)
        return;
    if (options->format == NULL)
        options->format = image->format;
    options->force_share = options->force_share || image->force_share;
    options->no_lock = image->no_lock;
    options->discard = options->discard || image->discard;
    options->raw_offset = image->raw_offset;
    options->raw_length = image->raw_length;
    if (image->no_flush)
        options->cache = BLK_CACHE_UNSAFE;
    else if (image->direct)
        options->cache = BLK_CACHE_DIRECT;
}

const struct blk_backing_choice *image_opts_below(const char *path, unsigned depth)
{
    const struct named_image *image = find_image(path);
    bool is_there =
        image != NULL && depth < image->backing_count && image->backings[depth].path != NULL;

    return is_there ? &image->backings[depth] : NULL;
}

void image_opts_free(void)
{
    for (unsigned i = 0; i < known.image_count; i++)
        free_image(known.images[i]);
    free(known.images);
    memset(&known, 0, sizeof(known));
}
