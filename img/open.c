#include "img.h"
#include "log.h"

#include <string.h>
#include <sys/stat.h>

struct blk *img_open(const struct blk_open_options *options)
{
    struct blk_open_options o = *options;
    struct blk *blk;
    struct err err;

    if (o.format != NULL && !img_known_format(o.format)) {
        log_error("Could not open '%s': Unknown driver '%s'", o.path, o.format);
        return NULL;
    }
    o.trust_probe = true;
    if (blk_open(&o, &blk, &err) < 0) {
        log_error("Could not open '%s': %s", o.path, err.text);
        return NULL;
    }
    return blk;
}

void img_close(struct blk *blk, int *status)
{
    struct err err;

    if (blk_close(blk, &err) < 0 && status != NULL) {
        log_error("%s", err.text);
        *status = 1;
    }
}

bool img_same_file(const char *a, const char *b)
{
    struct stat sa, sb;

    return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
           sa.st_ino == sb.st_ino;
}

const char *img_find_backing_format(const char *image, const char *backing_path)
{
    const char *format;
    struct err err;

    if (blk_probe(backing_path, &format, &err) < 0) {
        log_error("%s: Could not open '%s': %s", image, backing_path, err.text);
        return NULL;
    }
    log_warn("%s: no format (-F) was given for backing file '%s': found and recorded %s", image,
             backing_path, format);
    return format;
}
