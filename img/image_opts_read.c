#include "image_opts_read.h"

#include "image_opts_known.h"
#include "img.h"
#include "json.h"
#include "keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *image_get(struct named_image *image, const char *prefix, const char *key)
{
    char full[IMAGE_MAX_PREFIX + 32];

    (void)snprintf(full, sizeof(full), "%s%s", prefix, key);
    return optstr_get(&image->options, full);
}

bool image_is_set(struct named_image *image, const char *prefix, const char *key, const char *value)
{
    const char *found = image_get(image, prefix, key);

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

void image_append(char *prefix, const char *key)
{
    size_t length = strlen(prefix);

    (void)snprintf(prefix + length, IMAGE_MAX_PREFIX - length, "%s", key);
}

/* ---- the file of a layer ---- */

/* What the driver "raw" shows of the file below it. */
static int read_part(struct named_image *image, const char *prefix, struct blk_part *part,
                     struct err *err)
{
    int rc = image_opts_get_size(&image->options, prefix, "offset", &part->offset, err);

    rc = rc == 0 ? image_opts_get_size(&image->options, prefix, "size", &part->size, err) : rc;
    part->has_size = image_get(image, prefix, "size") != NULL;
    return rc;
}

/* Follows drivers "raw" from the layer's file down: `node` becomes the prefix of the file itself. */
static int read_parts(struct named_image *image, unsigned depth, char *node,
                      struct blk_place *place, struct err *err)
{
    struct blk_part *parts = image->parts[depth];
    unsigned first = IMAGE_MAX_PARTS;
    int rc = 0;

    for (image_append(node, "file."); image_is_set(image, node, "driver", "raw");
         image_append(node, "file.")) {
        if (first == 0)
            return err_set(err, -EINVAL, "More than %d drivers 'raw' below each other",
                           IMAGE_MAX_PARTS);
        rc = read_part(image, node, &parts[--first], err);
        if (rc < 0)
            return rc;
    }
    place->parts = &parts[first];
    place->part_count = IMAGE_MAX_PARTS - first;
    return 0;
}

/* A driver other than "file". */
static int refuse_driver(const char *driver, struct err *err)
{
    return strcmp(driver, "qcow2") == 0
               ? err_set(err, -EINVAL,
                         "Driver 'qcow2' can be below driver 'raw' of the top layer alone")
               : err_set(err, -EINVAL, "Unknown driver '%s'", driver);
}

static int read_key(struct named_image *image, const char *prefix, unsigned depth, struct err *err)
{
    const char *id = image_get(image, prefix, "encrypt.key-secret");
    const char *format = image_get(image, prefix, "encrypt.format");

    if (format != NULL && strcmp(format, "luks") != 0)
        return err_set(err, -EINVAL, "encrypt.format is luks alone");
    if (image->keys[depth].bytes == NULL && !keys_find(NULL, &image->keys[depth]))
        image->keys[depth] = (struct blk_key){0};
    if (id == NULL)
        return 0;
    if (!keys_find(id, &image->keys[depth]))
        return err_set(err, -EINVAL, "No secret with id '%s'", id);
    image->key_count = depth + 1;
    return 0;
}

/* `backing=`: nothing below; a name of a node there is none of. */
static int read_end(struct named_image *image, const char *prefix, unsigned depth, struct err *err)
{
    const char *backing = image_get(image, prefix, "backing");

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

/* An image whose disk the raw image at the top is. */
static int read_shown(struct named_image *image, char *node, struct blk_place *place,
                      struct err *err)
{
    int rc = read_key(image, node, 0, err);

    place->image_format = "qcow2";
    rc = rc == 0 ? read_end(image, node, 0, err) : rc;
    return rc == 0 ? read_parts(image, 0, node, place, err) : rc;
}

/* The path of a layer, and where in that file it is; NULL with *err set where none is given. */
static const char *find_file(struct named_image *image, const char *prefix, unsigned depth,
                             struct blk_place *place, struct err *err)
{
    char node[IMAGE_MAX_PREFIX], parent[IMAGE_MAX_PREFIX];
    const char *path, *driver, *reference;

    (void)snprintf(node, sizeof(node), "%s", prefix);
    if (read_parts(image, depth, node, place, err) < 0)
        return NULL;
    if (depth == 0 && place->part_count == 0 && image_is_set(image, prefix, "driver", "raw") &&
        image_is_set(image, node, "driver", "qcow2") && read_shown(image, node, place, err) < 0)
        return NULL;
    (void)snprintf(parent, sizeof(parent), "%.*s", (int)(strlen(node) - strlen("file.")), node);
    path = image_get(image, node, "filename");
    driver = image_get(image, node, "driver");
    reference = image_get(image, parent, "file");
    if (path == NULL && place->part_count == 0)
        path = image_get(image, prefix, "filename");
    image->no_lock = image->no_lock || (depth == 0 && image_is_set(image, node, "locking", "off"));
    if (reference != NULL)
        (void)err_set(err, -EINVAL, "Cannot find device='%s' nor node-name='%s'", reference,
                      reference);
    else if (driver != NULL && strcmp(driver, "file") != 0 && strcmp(driver, "host_device") != 0)
        (void)refuse_driver(driver, err);
    else if (path != NULL)
        return path;
    else if (image_get(image, parent, "driver") != NULL && !has_layer(image, node))
        (void)err_set(err, -EINVAL, "A block device must be specified for \"file\"");
    else
        (void)err_set(err, -EINVAL, "Must specify either driver or file");
    return NULL;
}

/* The part of its file that a raw layer was said to be. */
static int read_own_part(struct named_image *image, const char *prefix, unsigned depth,
                         struct blk_place *place, struct err *err)
{
    struct blk_part *part = &image->parts[depth][IMAGE_MAX_PARTS];

    if (image_get(image, prefix, "offset") == NULL && image_get(image, prefix, "size") == NULL)
        return 0;
    place->raw_part = part;
    return read_part(image, prefix, part, err);
}

/* ---- layers ---- */

/* The file of the top layer, and of one below it where it has one: else that is what the layer above names.
 * *path is NULL then. */
static int read_layer(struct named_image *image, const char *prefix, unsigned depth,
                      struct blk_place *place, const char **path, struct err *err)
{
    char file[IMAGE_MAX_PREFIX + 8];
    int rc = read_own_part(image, prefix, depth, place, err);

    *path = NULL;
    (void)snprintf(file, sizeof(file), "%sfile.", prefix);
    if (rc == 0 && (depth == 0 || has_layer(image, file) || image_get(image, prefix, "file") ||
                    image_get(image, prefix, "filename"))) {
        *path = find_file(image, prefix, depth, place, err);
        rc = *path != NULL ? 0 : -EINVAL;
    }
    return rc;
}

/* One layer below the top. It may say no more than its key. */
static int read_below(struct named_image *image, const char *prefix, unsigned depth,
                      const char **path, struct err *err)
{
    struct blk_backing_choice *choice = &image->backings[depth - 1];
    int rc;

    *choice = (struct blk_backing_choice){.format = image_get(image, prefix, "driver")};
    rc = read_layer(image, prefix, depth, &choice->place, &choice->path, err);
    if (choice->path != NULL || choice->format != NULL)
        image->backing_count = depth;
    *path = choice->path;
    return rc;
}

/* Which options a layer has is its driver's; one that is found later says no more. */
static const char *guess_driver(const char *path, const struct blk_place *place)
{
    const char *driver;

    return path != NULL && blk_probe_place(path, place, &driver, NULL) == 0 ? driver : "qcow2";
}

/* What is said of the top layer besides its file. */
static int read_top(struct named_image *image, struct err *err)
{
    struct optstr *o = &image->options;

    (void)optstr_get_bool(o, "read-only", &image->read_only, NULL);
    (void)optstr_get_bool(o, "force-share", &image->force_share, NULL);
    (void)optstr_get_bool(o, "cache.direct", &image->direct, NULL);
    (void)optstr_get_bool(o, "cache.no-flush", &image->no_flush, NULL);
    image->discard =
        image_is_set(image, "", "discard", "unmap") || image_is_set(image, "", "discard", "on");
    if (image_is_set(image, "", "detect-zeroes", "unmap") && !image->discard)
        return err_set(err, -EINVAL,
                       "setting detect-zeroes to unmap is not allowed without setting discard "
                       "operation to unmap");
    return 0;
}

static int read_layers(struct named_image *image, struct err *err)
{
    char prefix[IMAGE_MAX_PREFIX] = "";
    int rc = 0;

    for (unsigned depth = 0; rc == 0 && depth < IMAGE_MAX_DEPTH && has_layer(image, prefix);
         depth++) {
        struct blk_place *place = depth == 0 ? &image->place : &image->backings[depth - 1].place;
        const char *driver = image_get(image, prefix, "driver"), *path = NULL;

        if (driver != NULL && !img_known_format(driver))
            rc = err_set(err, -EINVAL, "Unknown driver '%s'", driver);
        if (rc == 0 && depth == 0) {
            image->format = driver;
            rc = read_layer(image, prefix, 0, place, &image->path, err);
            path = image->path;
        } else if (rc == 0) {
            rc = read_below(image, prefix, depth, &path, err);
        }
        if (rc == 0 && driver == NULL)
            driver = guess_driver(path, place);
        rc = rc == 0 ? image_opts_check_layer(&image->options, prefix, driver, err) : rc;
        rc = rc == 0 ? read_key(image, prefix, depth, err) : rc;
        if (rc < 0 && depth > 0)
            rc = err_prefix(err, rc, "Could not open backing file");
        rc = rc == 0 ? read_end(image, prefix, depth, err) : rc;
        image_append(prefix, "backing.");
    }
    return rc;
}

static int read_options(struct named_image *image, struct err *err)
{
    int rc = read_layers(image, err);

    /* Deeper layers: the key for everything, or none. */
    if (rc == 0 && image->key_count < IMAGE_MAX_DEPTH &&
        keys_find(NULL, &image->keys[image->key_count]))
        image->key_count++;
    else if (rc == 0 && image->key_count < IMAGE_MAX_DEPTH)
        image->keys[image->key_count++] = (struct blk_key){0};
    return rc == 0 ? read_top(image, err) : rc;
}

int image_read(struct named_image *image, const char *text, struct err *err)
{
    int rc = strchr(text, '=') != NULL
                 ? optstr_parse(&image->options, text, NULL, err)
                 : err_set(err, -EINVAL, "Cannot find device='%s' nor node-name='%s'", text, text);

    if (rc < 0)
        return rc;
    image->said = json_object();
    for (unsigned i = 0; i < image->options.count; i++)
        json_add_text(image->said, image->options.items[i].key, image->options.items[i].value);
    return read_options(image, err);
}

/* ---- json: ---- */

static bool is_backing(const char *key)
{
    const char *last = strrchr(key, '.');

    return strcmp(last != NULL ? last + 1 : key, "backing") == 0;
}

static int write_scalar(FILE *out, const char *key, const json_t *value, struct err *err)
{
    if (json_is_null(value) && !is_backing(key))
        return 0; /* as if it were not said */
    fprintf(out, "%s=", key);
    if (json_is_integer(value)) {
        fprintf(out, "%lld", (long long)json_integer_value(value));
    } else if (json_is_boolean(value)) {
        fputs(json_is_true(value) ? "on" : "off", out);
    } else if (json_is_string(value)) {
        for (const char *text = json_string_value(value); *text != '\0'; text++)
            fprintf(out, *text == ',' ? ",," : "%c", *text);
    } else if (!json_is_null(value)) {
        return err_set(err, -EINVAL, "Invalid parameter type for '%s'", key);
    }
    fputc(',', out);
    return 0;
}

/* Writes "key=value," for each member, a member of an object as "key.member", and keeps the values in `said`. */
static int flatten(FILE *out, json_t *said, const char *key, const json_t *value, struct err *err)
{
    const char *name;
    const json_t *member;
    char path[IMAGE_MAX_PREFIX + 32];

    if (!json_is_object(value)) {
        (void)json_object_set(said, key, (json_t *)(uintptr_t)value);
        return write_scalar(out, key, value, err);
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        int n = snprintf(path, sizeof(path), "%s%s%s", key, key[0] != '\0' ? "." : "", name);
        int rc = n >= 0 && (size_t)n < sizeof(path)
                     ? flatten(out, said, path, member, err)
                     : err_set(err, -EINVAL, "The JSON options are nested too deeply");

        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The options that the JSON says, to be freed; NULL with *err set. */
static char *options_of_json(const char *json, json_t *said, struct err *err)
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
        rc = out != NULL ? flatten(out, said, "", value, err)
                         : err_set(err, -ENOMEM, "out of memory");
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

int image_read_json(struct named_image *image, const char *json, struct err *err)
{
    char *text;
    int rc = -EINVAL;

    image->said = json_object();
    text = options_of_json(json, image->said, err);
    if (text != NULL)
        rc = optstr_parse(&image->options, text, NULL, err);
    free(text);
    return rc == 0 ? read_options(image, err) : rc;
}

void image_free(struct named_image *image)
{
    optstr_free(&image->options);
    json_decref(image->said);
    free(image->name);
    free(image);
}
