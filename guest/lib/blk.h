/*
 * blk.h - requests to a virtio block device (VIRTIO 1.2, section 5.2).
 */
#ifndef GUEST_BLK_H
#define GUEST_BLK_H

#include "virtio.h"

enum {
    BLK_READ = 0,
    BLK_WRITE = 1,
    BLK_FLUSH = 4,
    BLK_GET_ID = 8,
    BLK_DISCARD = 11,
    BLK_WRITE_ZEROES = 13,
};

enum { BLK_OK = 0, BLK_IO_ERROR = 1, BLK_UNSUPPORTED = 2, BLK_PENDING = 0xaa };

#define FEATURE_BLK_SEG_MAX      (1ULL << 2)
#define FEATURE_BLK_READ_ONLY    (1ULL << 5)
#define FEATURE_BLK_SIZE         (1ULL << 6)
#define FEATURE_BLK_FLUSH        (1ULL << 9)
#define FEATURE_BLK_TOPOLOGY     (1ULL << 10)
#define FEATURE_BLK_CONFIG_WCE   (1ULL << 11)
#define FEATURE_BLK_MULTI_QUEUE  (1ULL << 12)
#define FEATURE_BLK_DISCARD      (1ULL << 13)
#define FEATURE_BLK_WRITE_ZEROES (1ULL << 14)
#define FEATURES_BLK_ALL         0x7e64ULL

/* offsets in the device's configuration space */
enum { BLK_CAPACITY = 0, BLK_SEG_MAX = 12, BLK_BLOCK_SIZE = 20, BLK_WCE = 32, BLK_NUM_QUEUES = 34 };

enum { SECTOR = 512 };

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};

/* A request: three descriptors (header, data, status) from slot `slot` * 3 on, or one that points
 * to an indirect table. */
struct blk_request {
    struct blk_header header;
    uint8_t status;
    struct descriptor indirect[3];
};

uint64_t blk_capacity(const struct virtio *v);

/* Puts a request into the ring without telling the device. `slot` < QUEUE_SIZE / 3. */
void blk_offer(struct virtio *v, unsigned queue, unsigned slot, struct blk_request *request,
               uint32_t type, uint64_t sector, void *data, uint32_t size, bool indirect);

/* Carries out one request on an otherwise idle queue and returns its status; BLK_PENDING when it
 * does not complete. Indirect when that was negotiated. Notifies only when the device wants that.
 */
uint8_t blk_request(struct virtio *v, unsigned queue, uint32_t type, uint64_t sector, void *data,
                    uint32_t size);

/* Whether every byte equals `byte`. */
bool filled_with(const void *data, uint8_t byte, uint32_t size);
/* Writes, or reads and compares, sectors full of `byte`; at most 64 KiB. Return whether it held. */
bool blk_fill(struct virtio *v, unsigned queue, uint64_t sector, uint32_t sectors, uint8_t byte);
bool blk_verify(struct virtio *v, unsigned queue, uint64_t sector, uint32_t sectors, uint8_t byte);

#endif
