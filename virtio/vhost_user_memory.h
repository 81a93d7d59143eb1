/*
 * vhost_user_memory.h - a guest's memory as a front end shares it: parts of files, mapped and guarded
 * (mapguard.h), each known by a guest-physical and by a user address.
 *
 * Threads: changed only while no queue's thread runs.
 */
#ifndef VIRTIO_VHOST_USER_MEMORY_H
#define VIRTIO_VHOST_USER_MEMORY_H

#include "err.h"
#include "guestmem.h"
#include "vhost_user_protocol.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* A part of a file, mapped. */
struct shared_map {
    void *base; /* NULL: nothing is mapped */
    size_t length;
    uint8_t *data; /* where the part that was asked for begins */
};

/* Maps [offset, offset + size) of the file and guards it. The file stays the caller's. */
int shared_map_open(struct shared_map *map, int fd, uint64_t offset, uint64_t size,
                    atomic_bool *lost, int event, struct err *err);
/* Harmless when nothing is mapped. */
void shared_map_close(struct shared_map *map);

struct vhost_user_memory {
    struct guestmem guest; /* the regions as the device sees them */
    unsigned count;
    struct {
        struct vu_region region;
        struct shared_map map;
    } regions[GUESTMEM_MAX_REGIONS];
    /* Of mapguard.h: part of a region is gone. */
    atomic_bool *lost;
    int event;
};

/* Adds a region; on failure nothing has changed. */
int vhost_user_memory_add(struct vhost_user_memory *memory, const struct vu_region *region, int fd,
                          struct err *err);
/* Removes the region with these addresses and this size. */
int vhost_user_memory_remove(struct vhost_user_memory *memory, const struct vu_region *region,
                             struct err *err);
void vhost_user_memory_clear(struct vhost_user_memory *memory);

/* The guest-physical address of a user address; false when it lies in no region. */
bool vhost_user_memory_find(const struct vhost_user_memory *memory, uint64_t user, uint64_t *gpa);

#endif
