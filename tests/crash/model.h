/*
 * model.h - what a device may hold, sector by sector, now and after a power cut.
 *
 * Every request writes a value of its own, so that each sector says whose it is: value v in sector s
 * is a pattern of v and s (stamp.c). A request is a change with a beginning, an end, and a time from
 * which it is durable. A sector may hold the value of a change W that had begun, unless a change that
 * began after W's end counts: for a reader, one that has ended; after a power cut, one that was
 * durable. So requests that overlap in time may win in any order, and what was not flushed may be
 * there or not, but nothing else ever is.
 *
 * The size of the device is a value like the others, in sectors.
 *
 * Threads: any, but for init, free and what looks at the whole.
 */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    VALUE_ZERO = 0,
    VALUE_BASE = 1,     /* what backing files hold in the beginning, */
    VALUE_NEW_BASE = 2, /* and others */
    VALUE_FIRST = 16,   /* requests' */
};
/* Whatever it is: the part of a device that shrinks, meanwhile. */
#define VALUE_ANY UINT32_MAX

struct change {
    uint64_t start, end, durable; /* by the disk's clock; DISK_NEVER */
    bool is_weak; /* failed, or may have done nothing: what was before stays possible */
};

struct version {
    uint32_t change, value;
};

struct history {
    struct version *versions;
    unsigned count, room;
};

struct model {
    struct history *sectors;
    uint64_t sector_count; /* as many as there ever were */
    struct history size;
    struct change *changes;
    uint32_t change_count, change_room;
    uint32_t next_value;
    pthread_mutex_t lock;
};

void model_init(struct model *model);
void model_free(struct model *model);
/* A deep copy, into nothing. */
void model_copy(struct model *to, const struct model *from);
uint32_t model_new_value(struct model *model);

/* Begins a change at time `start`; it is nowhere yet. */
uint32_t model_begin(struct model *model, uint64_t start);
/* The change puts `value` into the sectors; with is_sized, it gives the device its size. */
void model_put(struct model *model, uint32_t change, uint64_t sector, uint64_t count,
               uint32_t value);
void model_put_size(struct model *model, uint32_t change, uint64_t sectors);
void model_end(struct model *model, uint32_t change, uint64_t end, bool is_weak, bool is_durable);
/* A flush from `start` to `end` has succeeded. */
void model_flush(struct model *model, uint64_t start, uint64_t end);

enum { MODEL_VALUES = 96 };

struct allowed {
    uint32_t values[MODEL_VALUES];
    unsigned count;
};

/* When: what a reader may see at `time`, or what may be there after a power cut at `time`. */
enum model_view { MODEL_LIVE, MODEL_AFTER_CUT };

void model_allowed(const struct model *model, uint64_t sector, enum model_view view, uint64_t time,
                   struct allowed *out);
void model_allowed_sizes(const struct model *model, enum model_view view, uint64_t time,
                         struct allowed *out);
bool allowed_has(const struct allowed *allowed, uint32_t value);

/* stamp.c */
void stamp_fill(uint8_t *bytes, uint64_t sector, uint64_t count, uint32_t value);
/* False when the sector holds no stamp of its own: another sector's, or parts of several. */
bool stamp_read(const uint8_t *bytes, uint64_t sector, uint32_t *value);
/* Says what is there, for a message. */
void stamp_describe(const uint8_t *bytes, uint64_t sector, char *text, size_t size);

#endif
