/*
 * Order of stores. Only a crash of this process matters, not of the machine: what a thread has stored
 * is there for whoever maps the memory next, so the order of the program is all that is needed. The
 * stores are written as releases, to keep the compiler to it.
 */
#include "inflight.h"

#include "checked.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum { VERSION = 1 };

/* In the machine's byte order. */
struct descriptor_state {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next; /* within the last batch */
    uint64_t counter;
};

struct inflight_region {
    uint64_t features; /* 0 */
    uint16_t version;  /* 0: not used yet */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct descriptor_state desc[];
};

static_assert(sizeof(struct descriptor_state) == 16, "as specified");
static_assert(sizeof(struct inflight_region) == 16, "as specified");

size_t inflight_region_size(uint16_t queue_size)
{
    return (size_t)align_up(sizeof(struct inflight_region) +
                                (uint64_t)queue_size * sizeof(struct descriptor_state),
                            INFLIGHT_ALIGN);
}

static uint16_t load(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static void store(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

static void mark(struct inflight *inflight, uint16_t head, uint8_t value)
{
    __atomic_store_n(&inflight->region->desc[head].inflight, value, __ATOMIC_RELEASE);
}

/* Takes the marks off the chains that were put on the used ring last. */
static void clear_batch(struct inflight *inflight, uint16_t count)
{
    uint16_t head = load(&inflight->region->last_batch_head);

    for (; count > 0 && head < inflight->size; count--) {
        mark(inflight, head, 0);
        head = load(&inflight->region->desc[head].next);
    }
}

struct entry {
    uint64_t counter;
    uint16_t head;
};

static int by_counter(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* Finds what is marked, in the order of the counters. */
static int collect(struct inflight *inflight)
{
    struct entry *found = calloc(inflight->size, sizeof(*found));
    uint16_t count = 0;

    inflight->resubmit = calloc(inflight->size, sizeof(*inflight->resubmit));
    if (!found || !inflight->resubmit) {
        free(found);
        inflight_detach(inflight);
        return -ENOMEM;
    }
    for (uint16_t head = 0; head < inflight->size; head++) {
        const struct descriptor_state *state = &inflight->region->desc[head];

        if (__atomic_load_n(&state->inflight, __ATOMIC_RELAXED) != 1)
            continue;
        found[count].counter = __atomic_load_n(&state->counter, __ATOMIC_RELAXED);
        found[count++].head = head;
    }
    qsort(found, count, sizeof(*found), by_counter);
    for (uint16_t i = 0; i < count; i++)
        inflight->resubmit[i] = found[i].head;
    if (count > 0)
        inflight->counter = found[count - 1].counter + 1;
    inflight->resubmit_count = count;
    free(found);
    return 0;
}

int inflight_attach(struct inflight *inflight, void *memory, uint16_t region_size, uint16_t size,
                    uint16_t used_idx)
{
    struct inflight_region *region = memory;
    uint16_t version = load(&region->version), batch;

    *inflight = (struct inflight){.region = region, .size = size};
    if (size > region_size || version > VERSION ||
        (version == VERSION && load(&region->desc_num) != region_size)) {
        inflight->region = NULL;
        return -EPROTO;
    }
    batch = (uint16_t)(used_idx - load(&region->used_idx));
    if (version == VERSION && batch <= size) {
        clear_batch(inflight, batch);
    } else {
        /* New, or of a ring that has been set up anew since. */
        for (uint16_t head = 0; head < size; head++)
            mark(inflight, head, 0);
        store(&region->desc_num, region_size);
        store(&region->last_batch_head, 0);
    }
    store(&region->used_idx, used_idx);
    store(&region->version, VERSION);
    return collect(inflight);
}

void inflight_detach(struct inflight *inflight)
{
    free(inflight->resubmit);
    *inflight = (struct inflight){0};
}

bool inflight_resubmit(struct inflight *inflight, uint16_t *head)
{
    if (inflight->resubmit_next == inflight->resubmit_count)
        return false;
    *head = inflight->resubmit[inflight->resubmit_next++];
    return true;
}

void inflight_taken(struct inflight *inflight, uint16_t head)
{
    __atomic_store_n(&inflight->region->desc[head].counter, inflight->counter++, __ATOMIC_RELEASE);
    mark(inflight, head, 1);
}

void inflight_pushed(struct inflight *inflight, uint16_t head)
{
    store(&inflight->region->desc[head].next, load(&inflight->region->last_batch_head));
    store(&inflight->region->last_batch_head, head);
}

void inflight_published(struct inflight *inflight, uint16_t count, uint16_t used_idx)
{
    clear_batch(inflight, count);
    store(&inflight->region->used_idx, used_idx);
}
