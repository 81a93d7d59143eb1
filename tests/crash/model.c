#include "model.h"
#include "disk.h"

#include <stdlib.h>
#include <string.h>

static void *grown(void *memory, size_t bytes)
{
    memory = realloc(memory, bytes);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

static void *copied(const void *memory, size_t bytes)
{
    return bytes == 0 ? NULL : memcpy(grown(NULL, bytes), memory, bytes);
}

void model_init(struct model *model)
{
    *model = (struct model){.next_value = VALUE_FIRST};
    pthread_mutex_init(&model->lock, NULL);
}

void model_free(struct model *model)
{
    for (uint64_t i = 0; i < model->sector_count; i++) {
        free(model->sectors[i].versions);
    }
    free(model->sectors);
    free(model->size.versions);
    free(model->changes);
    pthread_mutex_destroy(&model->lock);
}

static void copy_history(struct history *to, const struct history *from)
{
    *to = *from;
    to->room = from->count;
    to->versions = copied(from->versions, from->count * sizeof(from->versions[0]));
}

void model_copy(struct model *to, const struct model *from)
{
    *to = *from;
    pthread_mutex_init(&to->lock, NULL);
    to->sectors = copied(from->sectors, from->sector_count * sizeof(from->sectors[0]));
    for (uint64_t i = 0; i < from->sector_count; i++) {
        copy_history(&to->sectors[i], &from->sectors[i]);
    }
    copy_history(&to->size, &from->size);
    to->changes = copied(from->changes, from->change_count * sizeof(from->changes[0]));
    to->change_room = from->change_count;
}

uint32_t model_new_value(struct model *model)
{
    uint32_t value;

    pthread_mutex_lock(&model->lock);
    value = model->next_value++;
    pthread_mutex_unlock(&model->lock);
    return value;
}

uint32_t model_begin(struct model *model, uint64_t start)
{
    uint32_t change;

    pthread_mutex_lock(&model->lock);
    if (model->change_count == model->change_room) {
        model->change_room = model->change_room * 2 + 64;
        model->changes = grown(model->changes, model->change_room * sizeof(model->changes[0]));
    }
    change = model->change_count++;
    model->changes[change] =
        (struct change){.start = start, .end = DISK_NEVER, .durable = DISK_NEVER};
    pthread_mutex_unlock(&model->lock);
    return change;
}

static void put(struct history *history, uint32_t change, uint32_t value)
{
    if (history->count == history->room) {
        history->room = history->room * 2 + 4;
        history->versions = grown(history->versions, history->room * sizeof(history->versions[0]));
    }
    history->versions[history->count++] = (struct version){change, value};
}

void model_put(struct model *model, uint32_t change, uint64_t sector, uint64_t count,
               uint32_t value)
{
    pthread_mutex_lock(&model->lock);
    if (sector + count > model->sector_count) {
        model->sectors = grown(model->sectors, (sector + count) * sizeof(model->sectors[0]));
        memset(model->sectors + model->sector_count, 0,
               (sector + count - model->sector_count) * sizeof(model->sectors[0]));
        model->sector_count = sector + count;
    }
    for (uint64_t s = sector; s < sector + count; s++) {
        put(&model->sectors[s], change, value);
    }
    pthread_mutex_unlock(&model->lock);
}

void model_put_size(struct model *model, uint32_t change, uint64_t sectors)
{
    pthread_mutex_lock(&model->lock);
    put(&model->size, change, (uint32_t)sectors);
    pthread_mutex_unlock(&model->lock);
}

void model_end(struct model *model, uint32_t change, uint64_t end, bool is_weak, bool is_durable)
{
    pthread_mutex_lock(&model->lock);
    model->changes[change].end = end;
    model->changes[change].is_weak = is_weak;
    model->changes[change].durable = is_durable ? end : DISK_NEVER;
    pthread_mutex_unlock(&model->lock);
}

void model_flush(struct model *model, uint64_t start, uint64_t end)
{
    pthread_mutex_lock(&model->lock);
    for (uint32_t i = 0; i < model->change_count; i++) {
        struct change *c = &model->changes[i];

        if (c->end <= start && c->durable > end) {
            c->durable = end;
        }
    }
    pthread_mutex_unlock(&model->lock);
}

static uint64_t counts_from(const struct change *c, enum model_view view)
{
    return c->is_weak ? DISK_NEVER : view == MODEL_LIVE ? c->end : c->durable;
}

static void list_allowed(const struct model *model, const struct history *history,
                         enum model_view view, uint64_t time, struct allowed *out)
{
    uint64_t newest = 0; /* start of the last change that counts */

    for (unsigned i = 0; i < history->count; i++) {
        const struct change *c = &model->changes[history->versions[i].change];

        if (counts_from(c, view) <= time && c->start > newest) {
            newest = c->start;
        }
    }
    out->count = 0;
    for (unsigned i = 0; i < history->count; i++) {
        const struct version *v = &history->versions[i];
        const struct change *c = &model->changes[v->change];

        if (c->start < time && c->end >= newest && !allowed_has(out, v->value)) {
            if (out->count == MODEL_VALUES) {
                abort();
            }
            out->values[out->count++] = v->value;
        }
    }
}

void model_allowed(const struct model *model, uint64_t sector, enum model_view view, uint64_t time,
                   struct allowed *out)
{
    list_allowed(model, &model->sectors[sector], view, time, out);
}

void model_allowed_sizes(const struct model *model, enum model_view view, uint64_t time,
                         struct allowed *out)
{
    list_allowed(model, &model->size, view, time, out);
}

bool allowed_has(const struct allowed *allowed, uint32_t value)
{
    for (unsigned i = 0; i < allowed->count; i++) {
        if (allowed->values[i] == value || allowed->values[i] == VALUE_ANY) {
            return true;
        }
    }
    return false;
}
