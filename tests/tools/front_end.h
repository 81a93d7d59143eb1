/*
 * front_end.h - the front end of a vhost-user-blk device, for tests and measurements: memory in a memfd,
 * messages, and rings with one request a slot.
 *
 * Functions that return bool say whether the back end did what it should; nothing waits longer than
 * FRONT_END_TIMEOUT_MS.
 */
#ifndef TESTS_TOOLS_FRONT_END_H
#define TESTS_TOOLS_FRONT_END_H

#include "vhost_user_protocol.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    FRONT_END_TIMEOUT_MS = 20000,
    FRONT_END_GPA = 0x10000,
    FRONT_END_RAM = 16 << 20,
    FRONT_END_RINGS = 4,
    FRONT_END_RING_SIZE = 128,
    FRONT_END_SLOTS = 32,   /* requests at once in a ring */
    FRONT_END_DATA = 65536, /* bytes of a slot's buffer */
};

struct front_end_ring {
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t last_used;
    int kick, call;
};

struct front_end {
    int socket;
    int ram_fd;
    uint8_t *ram;
    struct front_end_ring rings[FRONT_END_RINGS];
};

/* Memory and rings; no message yet. The socket belongs to the front end from now on. */
bool front_end_open(struct front_end *fe, int socket);
void front_end_close(struct front_end *fe);
/* Connects to a listening socket; -1. */
int front_end_connect(const char *path);

/* A message as it is. */
bool front_end_send(struct front_end *fe, uint32_t request, uint32_t flags, const void *payload,
                    uint32_t size, const int *fds, unsigned fd_count);
/* An answer: its payload, and its descriptor (-1: none) unless `fd` is NULL. False when the connection
 * ends instead, or it is not what was asked. */
bool front_end_receive(struct front_end *fe, uint32_t request, void *payload, uint32_t size,
                       int *fd);
/* A message that is acknowledged: true when the back end says that it went well. */
bool front_end_tell(struct front_end *fe, uint32_t request, const void *payload, uint32_t size,
                    const int *fds, unsigned fd_count);
bool front_end_tell_u64(struct front_end *fe, uint32_t request, uint64_t value);
bool front_end_tell_ring(struct front_end *fe, uint32_t request, uint32_t index, uint32_t number);
/* A message with an answer of the same size in its place. */
bool front_end_ask(struct front_end *fe, uint32_t request, void *payload, uint32_t size, int *fd);
uint64_t front_end_ask_u64(struct front_end *fe, uint32_t request);
/* Waits until the back end has closed the connection; false when it says something or waits. */
bool front_end_was_closed(struct front_end *fe);

/* Negotiates what the back end offers, and `features` on top of VERSION_1. */
bool front_end_negotiate(struct front_end *fe, uint64_t features);
/* All of RAM as one region. */
bool front_end_share_memory(struct front_end *fe);
struct vu_region front_end_region(const struct front_end *fe);
/* Size, base, addresses, descriptors; enabled. */
bool front_end_start_ring(struct front_end *fe, unsigned index, uint16_t base);
struct vu_ring_address front_end_ring_address(const struct front_end *fe, unsigned index);

/* The buffer of a slot. */
uint8_t *front_end_data(struct front_end *fe, unsigned ring, unsigned slot);
uint8_t *front_end_status(struct front_end *fe, unsigned ring, unsigned slot);
/* Writes the slot's chain; its head is 3 * slot. */
void front_end_prepare(struct front_end *fe, unsigned ring, unsigned slot, uint32_t type,
                       uint64_t sector, uint32_t bytes);
/* Makes the slot's chain available; front_end_kick() tells. */
void front_end_offer(struct front_end *fe, unsigned ring, unsigned slot);
void front_end_kick(struct front_end *fe, unsigned ring);
/* Waits for the next used element; the slot, or -1. */
int front_end_wait(struct front_end *fe, unsigned ring);
/* One request alone, in slot 0: its status, or -1. */
int front_end_request(struct front_end *fe, unsigned ring, uint32_t type, uint64_t sector,
                      uint32_t bytes);

#endif
