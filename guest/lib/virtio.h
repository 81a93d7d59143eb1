/*
 * virtio.h - a driver for modern virtio PCI devices with split rings (VIRTIO 1.2,
 * sections 2.7, 4.1).
 *
 * A test builds descriptors itself, sound or not: the ring functions do what they are told. One CPU
 * at a time uses a queue; different CPUs may use different queues.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

enum { VIRTIO_BLOCK = 2, VIRTIO_ENTROPY = 4 };

/* device status */
enum {
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_FAILED = 128,
};

#define FEATURE_RING_INDIRECT (1ULL << 28)
#define FEATURE_RING_EVENT    (1ULL << 29)
#define FEATURE_VERSION_1     (1ULL << 32)

/* registers of the common configuration */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_SIZE = 0x38,
};

enum { NO_VECTOR = 0xffff };

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct avail_ring {
    uint16_t flags;
    volatile uint16_t index;
    uint16_t ring[];
};

struct used_element {
    uint32_t id, length;
};

struct used_ring {
    volatile uint16_t flags;
    volatile uint16_t index;
    struct used_element ring[];
};

struct queue {
    uint16_t size;
    uint16_t offered; /* the next avail index */
    uint16_t taken;   /* used elements seen */
    bool event_index;
    struct descriptor *table;
    struct avail_ring *avail;
    struct used_ring *used;
    uint64_t doorbell;
    uint16_t index;
};

enum { MAX_QUEUES = 8, QUEUE_SIZE = 64, CONFIG_REGIONS = 5 };

struct virtio {
    unsigned device;                            /* PCI device number */
    uint64_t common, notify, isr, config;       /* addresses */
    uint32_t region_length[CONFIG_REGIONS + 1]; /* by the type of the capability */
    uint32_t notify_multiplier;
    unsigned pci_access; /* register of the PCI configuration access capability, or 0 */
    uint64_t msix_table;
    uint64_t features; /* negotiated */
    struct queue queues[MAX_QUEUES];
};

/* Finds the n-th device of a type and its regions; false (with a failed check) when something that
 * a modern device must have is missing, or, silently, when there is no such device. */
bool virtio_find(unsigned type, unsigned n, struct virtio *v);

uint8_t virtio_status(const struct virtio *v);
void virtio_set_status(const struct virtio *v, uint8_t status);
/* Resets and waits until the device says that it is done. */
bool virtio_reset(struct virtio *v);
uint64_t virtio_device_features(const struct virtio *v);
/* Reset, ACKNOWLEDGE, DRIVER, the offered ones of `wanted` (VERSION_1 always), FEATURES_OK. */
bool virtio_negotiate(struct virtio *v, uint64_t wanted);
/* Gives queue `index` fresh rings of QUEUE_SIZE or fewer entries, a vector or NO_VECTOR; enables
 * it. */
bool virtio_setup_queue(struct virtio *v, unsigned index, uint16_t vector);
void virtio_driver_ok(struct virtio *v);
/* All of the above: `queues` queues without vectors. */
bool virtio_start(struct virtio *v, uint64_t wanted, unsigned queues);
unsigned virtio_queue_count(const struct virtio *v);

/* Switches MSI-X on or off; gives table entry `entry` an interrupt vector of this CPU; masks it. */
void virtio_enable_msix(const struct virtio *v, bool on);
void virtio_set_message(const struct virtio *v, unsigned entry, unsigned vector);
void virtio_mask_message(const struct virtio *v, unsigned entry, bool masked);

void queue_set(struct queue *q, unsigned slot, const volatile void *data, uint32_t length,
               uint16_t flags, uint16_t next);
/* Puts a chain into the available ring; the device may not have been told yet. */
void queue_offer(struct queue *q, uint16_t head);
/* Whether the device asked to be told about what was offered since avail index `before`. */
bool queue_wants_notify(const struct queue *q, uint16_t before);
void queue_notify(struct queue *q);
/* Waits for the next used element. */
bool queue_wait(struct queue *q, struct used_element *out);
/* With the event index: interrupt when the used index passes `index`. */
void queue_set_used_event(struct queue *q, uint16_t index);

#endif
