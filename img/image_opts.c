/*
 * image_opts.c - see image_opts.h.
 */
#include "image_opts.h"

#include "image_opts_read.h"
#include "img.h"
#include "json.h"
#include "keys.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON "json:"

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

/* ---- names ---- */

/* NULL with *err set. */
static const char *take_image(const char *name, bool is_json, bool is_exclusive, struct err *err)
{
    struct named_image *image = calloc(1, sizeof(*image));
    struct named_image **images =
        realloc(known.images, (known.image_count + 1) * sizeof(struct named_image *));
    int rc = 0;

    if (images != NULL)
        known.images = images;
    if (image != NULL)
        image->name = strdup(name);
    if (images == NULL || image == NULL || image->name == NULL)
        rc = err_set(err, -ENOMEM, "out of memory");
    else
        rc = is_json ? image_read_json(image, name + strlen(JSON), err)
                     : image_read(image, name, err);
    if (rc < 0) {
        if (image != NULL)
            image_free(image);
        return NULL;
    }
    image->is_exclusive = is_exclusive;
    images[known.image_count++] = image;
    return image->path;
}

const char *image_opts_named(const char *name, struct err *err)
{
    return take_image(name, false, false, err);
}

const char *image_opts_path(const char *name, bool is_target)
{
    struct err err;
    const char *path;

    if (image_opts_enabled(is_target))
        path = take_image(name, false, true, &err);
    else if (strncmp(name, JSON, strlen(JSON)) == 0)
        path = take_image(name, true, false, &err);
    else /* QEMU's way to say that what follows is a path, whatever is in it. */
        path = strncmp(name, "file:", 5) == 0 ? name + 5 : name;
    if (path == NULL)
        log_error("Could not open '%s': %s", name, err.text);
    return path;
}

static struct named_image *find_image(const char *path)
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
    options->place = image->place;
    if (image->no_flush)
        options->cache = BLK_CACHE_UNSAFE;
    else if (image->direct)
        options->cache = BLK_CACHE_DIRECT;
}

const struct blk_backing_choice *image_opts_below(const char *path, unsigned depth)
{
    const struct named_image *image = find_image(path);
    return image != NULL && depth < image->backing_count ? &image->backings[depth] : NULL;
}

/* ---- what QEMU calls an image ---- */

/* Adds a value as it was said, if it was. */
static void add_said(json_t *object, const struct named_image *image, const char *prefix,
                     const char *key)
{
    char full[IMAGE_MAX_PREFIX + 32];

    (void)snprintf(full, sizeof(full), "%s%s", prefix, key);
    if (json_object_get(image->said, full) != NULL)
        (void)json_object_set(object, key, json_object_get(image->said, full));
}

/* What lies below a layer, or a driver "raw", in the order of QEMU's dictionaries. */
static json_t *file_to_json(struct named_image *image, const char *parent)
{
    json_t *object = json_object();
    char node[IMAGE_MAX_PREFIX];
    const char *driver;

    (void)snprintf(node, sizeof(node), "%s", parent);
    image_append(node, "file.");
    driver = image_get(image, node, "driver");
    if (driver != NULL && img_known_format(driver)) {
        add_said(object, image, node, "encrypt.key-secret");
        if (image_get(image, node, "backing") != NULL)
            (void)json_object_set_new(object, "backing", json_null());
        add_said(object, image, node, "offset");
        json_add_text(object, "driver", driver);
        add_said(object, image, node, "size");
        (void)json_object_set_new(object, "file", file_to_json(image, node));
    } else {
        json_add_text(object, "driver", driver != NULL ? driver : "file");
        add_said(object, image, image_get(image, node, "filename") != NULL ? node : parent,
                 "filename");
    }
    return object;
}

/* The value, which is freed, as a name. NULL: there is no memory. */
static char *name_of_json(json_t *value)
{
    char *text = json_dumps(value, JSON_ENSURE_ASCII), *name = NULL;

    if (text != NULL && asprintf(&name, JSON "%s", text) < 0)
        name = NULL;
    free(text);
    json_decref(value);
    return name;
}

char *image_opts_shown(const char *path, const char *format)
{
    struct named_image *image = find_image(path);
    json_t *object;

    if (image == NULL ||
        (image->place.part_count == 0 && image->place.image_format == NULL &&
         image->place.raw_part == NULL && image_get(image, "", "encrypt.key-secret") == NULL))
        return strdup(path);
    object = json_object();
    add_said(object, image, "", "encrypt.key-secret");
    add_said(object, image, "", "offset");
    json_add_text(object, "driver", format);
    add_said(object, image, "", "size");
    (void)json_object_set_new(object, "file", file_to_json(image, ""));
    return name_of_json(object);
}

/* Whether the file of a layer is not the whole of one. */
static bool is_part(const struct named_image *image, const char *prefix,
                    const struct blk_place *place)
{
    json_t *said = json_object();
    char node[IMAGE_MAX_PREFIX];
    bool has_options;

    (void)snprintf(node, sizeof(node), "%s", prefix);
    image_append(node, "file.");
    add_said(said, image, node, "offset");
    add_said(said, image, node, "size");
    has_options = json_object_size(said) > 0;
    json_decref(said);
    return place->part_count > 1 || (place->part_count == 1 && has_options);
}

char *image_opts_shown_file(const char *top, unsigned depth, const char *path, const char *format)
{
    struct named_image *image = find_image(top);
    const struct blk_place *place = NULL;
    char prefix[IMAGE_MAX_PREFIX] = "";

    if (image != NULL && depth == 0)
        place = &image->place;
    else if (image != NULL && depth <= image->backing_count)
        place = &image->backings[depth - 1].place;
    for (unsigned i = 0; place != NULL && i < depth; i++)
        image_append(prefix, "backing.");
    if (place != NULL && place->image_format != NULL) {
        image_append(prefix, "file.");
        format = place->image_format;
    }
    /* A raw image's bytes are looked for in the whole file. */
    if (place == NULL || !is_part(image, prefix, place) || strcmp(format, "raw") == 0)
        return strdup(path);
    return name_of_json(file_to_json(image, prefix));
}

void image_opts_free(void)
{
    for (unsigned i = 0; i < known.image_count; i++)
        image_free(known.images[i]);
    free(known.images);
    memset(&known, 0, sizeof(known));
}
