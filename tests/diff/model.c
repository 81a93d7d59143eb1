#include "model.h"

#include "checked.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int model_init(struct model *model, uint64_t length)
{
    *model = (struct model){.length = length};
    model->bytes = calloc(length ? length : 1, 1);
    return model->bytes ? 0 : -ENOMEM;
}

void model_free(struct model *model)
{
    free(model->bytes);
    model->bytes = NULL;
}

int model_resize(struct model *model, uint64_t length)
{
    /* The pages of a large fresh model are there once they are touched. */
    bool is_fresh = model->length == 0;
    uint8_t *bytes =
        is_fresh ? calloc(length ? length : 1, 1) : realloc(model->bytes, length ? length : 1);

    if (!bytes) {
        return -ENOMEM;
    }
    if (is_fresh) {
        free(model->bytes);
    } else if (length > model->length) {
        memset(bytes + model->length, 0, length - model->length);
    }
    model->bytes = bytes;
    model->length = length;
    return 0;
}

bool model_discard(struct model *model, uint64_t offset, uint64_t length, uint64_t *from,
                   uint64_t *to)
{
    uint64_t end = offset + length, first, last;

    if (!model->discard_on || length == 0) {
        return false;
    }
    *from = offset;
    *to = end;
    if (!model->discard_is_zero) {
        return true;
    }
    first = align_up(offset, model->cluster);
    last = align_down(end, model->cluster);
    if (first < last) {
        memset(model->bytes + first, 0, last - first);
    }
    if (model->discard_reaches_parts) {
        return first != offset || last != end;
    }
    *from = max_u64(last, first);
    return end == model->length && *from < end;
}

int64_t model_settle(struct model *model, uint64_t offset, const uint8_t *seen, uint64_t length)
{
    uint8_t *bytes = model->bytes + offset;

    for (uint64_t i = 0; i < length; i++) {
        if (seen[i] != 0 && seen[i] != bytes[i]) {
            return (int64_t)i;
        }
    }
    memcpy(bytes, seen, length);
    return -1;
}

int64_t model_compare(const struct model *model, uint64_t offset, const uint8_t *seen,
                      uint64_t length)
{
    const uint8_t *bytes = model->bytes + offset;

    if (memcmp(bytes, seen, length) == 0) {
        return -1;
    }
    for (uint64_t i = 0; i < length; i++) {
        if (seen[i] != bytes[i]) {
            return (int64_t)i;
        }
    }
    return -1;
}
