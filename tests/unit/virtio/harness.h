/*
 * harness.h - the other side of a virtio device, for unit tests: guest RAM in a buffer, a PCI host
 * of plain eventfds, and a driver that speaks to the device through BAR accesses and rings alone.
 *
 * A wait that would take longer than HARNESS_TIMEOUT_MS fails the test.
 */
#ifndef TESTS_VIRTIO_HARNESS_H
#define TESTS_VIRTIO_HARNESS_H

#include "guestmem.h"
#include "pci_function.h"
#include "virtio_pci_state.h"

#include <linux/virtio_ring.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the headers that it needs */
#include <cmocka.h>

#define HARNESS_BAR_GPA 0xc0000000ULL

enum {
    HARNESS_TIMEOUT_MS = 20000,
    HARNESS_RAM_GPA = 0x10000,
    HARNESS_RAM_SIZE = 16 << 20,
    HARNESS_MAX_DOORBELLS = 64,
    HARNESS_MAX_MSIS = 128,
};

struct fake_doorbell {
    uint64_t gpa;
    int fd;
    bool used;
};

struct fake_msi {
    bool used;
    int fd; /* connected, or -1 */
    uint64_t address;
    uint32_t data;
    unsigned routed, connected; /* how often */
};

struct fake_host {
    struct pci_host host; /* first */
    bool refuse_doorbells, refuse_msi;
    struct fake_doorbell doorbells[HARNESS_MAX_DOORBELLS];
    struct fake_msi msis[HARNESS_MAX_MSIS];
};

void fake_host_init(struct fake_host *host);
/* How many are in use. */
unsigned fake_host_doorbells(const struct fake_host *host);
unsigned fake_host_msis(const struct fake_host *host);
unsigned fake_host_connected(const struct fake_host *host);
/* A guest write to memory outside RAM: true when a doorbell took it. */
bool fake_host_write(struct fake_host *host, uint64_t gpa);
/* The message with this data, connected or not; NULL when none is routed so. */
struct fake_msi *fake_host_find_msi(struct fake_host *host, uint32_t data);
/* Waits for an interrupt with this data and takes it. */
void fake_host_wait_interrupt(struct fake_host *host, uint32_t data);
/* Takes an interrupt that is there already; false when there is none. */
bool fake_host_take_interrupt(struct fake_host *host, uint32_t data);

/* Vector v is programmed with the data HARNESS_MSI_DATA + v. */
enum { HARNESS_MSI_DATA = 0x4000 };

/* One queue as its driver sees it. */
struct ring {
    unsigned index;
    uint16_t size;
    bool event_idx;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t avail_idx, last_used, kicked;
};

struct guest {
    struct fake_host host;
    struct guestmem mem;
    uint8_t *ram;
    uint64_t next_free; /* gpa for guest_alloc */
    struct pci_function *fn;
    pthread_mutex_t pci_lock;
};

void guest_init(struct guest *guest);
/* Plugs a function in and gives its BAR an address. */
void guest_plug(struct guest *guest, struct pci_function *fn);
/* Destroys the function, checks that it gave everything back, and frees RAM. */
void guest_destroy(struct guest *guest);

uint64_t guest_alloc(struct guest *guest, uint64_t size, uint64_t align);
void *guest_ptr(struct guest *guest, uint64_t gpa);

/* Where the virtio capability of this type (VIRTIO_PCI_CAP_*) stands; 0 when there is none. */
unsigned guest_find_capability(struct guest *guest, uint8_t type);

/* BAR 0 accesses, under the PCI lock. */
uint64_t bar_get(struct guest *guest, uint64_t offset, unsigned len);
void bar_set(struct guest *guest, uint64_t offset, uint64_t value, unsigned len);
/* Common configuration registers by their offset. */
uint32_t common_get(struct guest *guest, unsigned offset, unsigned len);
void common_set(struct guest *guest, unsigned offset, uint32_t value, unsigned len);
uint8_t guest_status(struct guest *guest);

/* Offers of the device; negotiation up to FEATURES_OK (returns whether it stuck), then DRIVER_OK.
 */
uint64_t guest_features(struct guest *guest);
bool guest_negotiate(struct guest *guest, uint64_t features);
void guest_driver_ok(struct guest *guest);
void guest_reset(struct guest *guest);

/* Lays out a ring in RAM and enables queue `index` with it. */
void guest_setup_ring(struct guest *guest, struct ring *ring, unsigned index, uint16_t size,
                      uint64_t features);
/* The rings' memory alone, for tests of struct virtqueue. */
void ring_layout(struct guest *guest, struct ring *ring, uint16_t size, bool event_idx);
/* The device's side of such a ring, started. */
void ring_attach(struct guest *guest, const struct ring *ring, struct virtqueue *vq,
                 uint64_t features);
/* Turns MSI-X on, programs and unmasks every vector, queue n on vector n + 1, changes on vector 0.
 */
void guest_enable_msix(struct guest *guest, unsigned queues);

/* Descriptor `i` of the ring's table. */
void ring_desc(struct ring *ring, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags,
               uint16_t next);
/* Makes a chain available; the device sees it at ring_publish(). */
void ring_add(struct ring *ring, uint16_t head);
/* Publishes; true when the device wants a notification. */
bool ring_publish(struct ring *ring);
/* Publishes and rings the doorbell if asked to. */
void ring_kick(struct guest *guest, struct ring *ring);
/* Takes the next used element; false when there is none. */
bool ring_get_used(struct ring *ring, uint32_t *id, uint32_t *len);
/* Waits for one by polling the ring. */
void ring_wait_used(struct ring *ring, uint32_t *id, uint32_t *len);
/* Where to get an interrupt: `event` for event indices, else flags. */
void ring_set_used_event(struct ring *ring, uint16_t event);
void ring_set_no_interrupt(struct ring *ring, bool on);

/* xorshift, and a seed that is printed so that a failure can be repeated (TEST_SEED=n). */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state);
/* Milliseconds, monotonic. */
uint64_t test_now_ms(void);

#endif
