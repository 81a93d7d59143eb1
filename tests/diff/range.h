/*
 * range.h - random offsets and lengths with a taste for trouble: sub-cluster, exactly clusters,
 * across a boundary, many clusters, up to the end, next to the last one.
 */
#ifndef DIFF_RANGE_H
#define DIFF_RANGE_H

#include "checked.h"
#include "rng.h"

struct range {
    uint64_t offset, length;
};

/* A range within [from, to), at most `longest` bytes; `unit` is the cluster size. */
static inline struct range range_pick(struct rng *rng, uint64_t from, uint64_t to, unsigned unit,
                                      uint64_t longest, uint64_t near)
{
    uint64_t room = to - from, length, offset;
    struct range range;

    switch (rng_below(rng, 8)) {
    case 0:
        length = rng_between(rng, 1, 511);
        break;
    case 1:
        length = 512 * rng_between(rng, 1, 16);
        break;
    case 2:
        length = 4096;
        break;
    case 3:
        length = rng_between(rng, 1, unit);
        break;
    case 4:
    case 5: /* whole clusters */
        length = unit * rng_between(rng, 1, 4);
        break;
    case 6:
        length = rng_between(rng, 1, 8 * (uint64_t)unit);
        break;
    default:
        length = rng_between(rng, 1, UINT64_C(1) << rng_between(rng, 0, 17));
    }
    length = min_u64(length, min_u64(room, longest));
    switch (rng_below(rng, 8)) {
    case 0: /* up to the end */
        offset = to - length;
        break;
    case 1: /* next to the last range */
        offset = near + rng_below(rng, 2 * (uint64_t)unit);
        break;
    case 2:
    case 3: /* on a cluster */
        offset = align_down(from + rng_below(rng, room), unit);
        break;
    case 4: /* on a sector */
        offset = align_down(from + rng_below(rng, room), 512);
        break;
    case 5: /* across a cluster boundary, just so */
        offset = align_down(from + rng_below(rng, room), unit);
        offset -= min_u64(offset, rng_between(rng, 1, min_u64(length, 600)));
        break;
    default:
        offset = from + rng_below(rng, room);
    }
    offset = max_u64(from, min_u64(offset, to - length));
    range = (struct range){.offset = offset, .length = length};
    return range;
}

/* The clusters that the range covers whole; the device's last one may be short. Empty: none. */
static inline struct range range_whole_clusters(struct range range, uint64_t cluster,
                                                uint64_t device_length)
{
    uint64_t from = align_up(range.offset, cluster), to = range.offset + range.length;

    to = to == device_length ? to : align_down(to, cluster);
    return (struct range){.offset = from, .length = to > from ? to - from : 0};
}

#endif
