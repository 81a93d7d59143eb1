#include "harness.h"

#include "bytes.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- the host ---- */

static int host_doorbell_assign(struct pci_host *base, uint64_t gpa, int fd)
{
    struct fake_host *host = (struct fake_host *)base;

    if (host->refuse_doorbells)
        return -ENOSYS;
    for (unsigned i = 0; i < HARNESS_MAX_DOORBELLS; i++) {
        assert_false(host->doorbells[i].used && host->doorbells[i].gpa == gpa);
        if (!host->doorbells[i].used) {
            host->doorbells[i] = (struct fake_doorbell){.gpa = gpa, .fd = fd, .used = true};
            return 0;
        }
    }
    return -ENOSPC;
}

static void host_doorbell_deassign(struct pci_host *base, uint64_t gpa, int fd)
{
    struct fake_host *host = (struct fake_host *)base;

    for (unsigned i = 0; i < HARNESS_MAX_DOORBELLS; i++) {
        if (host->doorbells[i].used && host->doorbells[i].gpa == gpa &&
            host->doorbells[i].fd == fd) {
            host->doorbells[i].used = false;
            return;
        }
    }
    fail_msg("no doorbell at %llx", (unsigned long long)gpa);
}

static int host_msi_create(struct pci_host *base)
{
    struct fake_host *host = (struct fake_host *)base;

    if (host->refuse_msi)
        return -ENOSPC;
    for (int i = 0; i < HARNESS_MAX_MSIS; i++) {
        if (!host->msis[i].used) {
            host->msis[i] = (struct fake_msi){.used = true, .fd = -1};
            return i;
        }
    }
    return -ENOSPC;
}

static struct fake_msi *host_msi(struct pci_host *base, int msi)
{
    struct fake_host *host = (struct fake_host *)base;

    assert_in_range(msi, 0, HARNESS_MAX_MSIS - 1);
    assert_true(host->msis[msi].used);
    return &host->msis[msi];
}

static int host_msi_route(struct pci_host *base, int msi, uint64_t address, uint32_t data)
{
    struct fake_msi *m = host_msi(base, msi);

    m->address = address;
    m->data = data;
    m->routed++;
    return 0;
}

static int host_msi_connect(struct pci_host *base, int msi, int fd)
{
    struct fake_msi *m = host_msi(base, msi);

    assert_int_equal(m->fd, -1);
    assert_true(m->routed > 0);
    m->fd = fd;
    m->connected++;
    return 0;
}

static void host_msi_disconnect(struct pci_host *base, int msi, int fd)
{
    struct fake_msi *m = host_msi(base, msi);

    assert_int_equal(m->fd, fd);
    m->fd = -1;
}

static void host_msi_destroy(struct pci_host *base, int msi)
{
    struct fake_msi *m = host_msi(base, msi);

    assert_int_equal(m->fd, -1);
    m->used = false;
}

static const struct pci_host_ops host_ops = {
    .doorbell_assign = host_doorbell_assign,
    .doorbell_deassign = host_doorbell_deassign,
    .msi_create = host_msi_create,
    .msi_route = host_msi_route,
    .msi_connect = host_msi_connect,
    .msi_disconnect = host_msi_disconnect,
    .msi_destroy = host_msi_destroy,
};

void fake_host_init(struct fake_host *host)
{
    *host = (struct fake_host){.host.ops = &host_ops};
}

unsigned fake_host_doorbells(const struct fake_host *host)
{
    unsigned n = 0;

    for (unsigned i = 0; i < HARNESS_MAX_DOORBELLS; i++)
        n += host->doorbells[i].used;
    return n;
}

unsigned fake_host_msis(const struct fake_host *host)
{
    unsigned n = 0;

    for (unsigned i = 0; i < HARNESS_MAX_MSIS; i++)
        n += host->msis[i].used;
    return n;
}

unsigned fake_host_connected(const struct fake_host *host)
{
    unsigned n = 0;

    for (unsigned i = 0; i < HARNESS_MAX_MSIS; i++)
        n += host->msis[i].used && host->msis[i].fd >= 0;
    return n;
}

bool fake_host_write(struct fake_host *host, uint64_t gpa)
{
    uint64_t one = 1;

    for (unsigned i = 0; i < HARNESS_MAX_DOORBELLS; i++) {
        if (host->doorbells[i].used && host->doorbells[i].gpa == gpa) {
            assert_int_equal(write(host->doorbells[i].fd, &one, sizeof(one)), sizeof(one));
            return true;
        }
    }
    return false;
}

struct fake_msi *fake_host_find_msi(struct fake_host *host, uint32_t data)
{
    for (unsigned i = 0; i < HARNESS_MAX_MSIS; i++) {
        if (host->msis[i].used && host->msis[i].routed > 0 && host->msis[i].data == data)
            return &host->msis[i];
    }
    return NULL;
}

static bool take_signal(struct fake_host *host, uint32_t data, int timeout_ms)
{
    struct fake_msi *m = fake_host_find_msi(host, data);
    struct pollfd pfd;
    uint64_t count;

    if (!m || m->fd < 0)
        return false;
    pfd = (struct pollfd){.fd = m->fd, .events = POLLIN};
    return poll(&pfd, 1, timeout_ms) == 1 && read(m->fd, &count, sizeof(count)) == sizeof(count);
}

void fake_host_wait_interrupt(struct fake_host *host, uint32_t data)
{
    assert_true(take_signal(host, data, HARNESS_TIMEOUT_MS));
}

bool fake_host_take_interrupt(struct fake_host *host, uint32_t data)
{
    return take_signal(host, data, 0);
}

/* ---- the guest ---- */

void guest_init(struct guest *guest)
{
    *guest = (struct guest){.next_free = HARNESS_RAM_GPA};
    fake_host_init(&guest->host);
    pthread_mutex_init(&guest->pci_lock, NULL);
    guest->ram =
        mmap(NULL, HARNESS_RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(guest->ram, MAP_FAILED);
    assert_int_equal(guestmem_add(&guest->mem, HARNESS_RAM_GPA, HARNESS_RAM_SIZE, guest->ram), 0);
}

void guest_plug(struct guest *guest, struct pci_function *fn)
{
    guest->fn = fn;
    fn->host = &guest->host.host;
    pci_function_place_bar(fn, 0, HARNESS_BAR_GPA);
}

void guest_destroy(struct guest *guest)
{
    if (guest->fn)
        guest->fn->ops->destroy(guest->fn);
    assert_int_equal(fake_host_doorbells(&guest->host), 0);
    assert_int_equal(fake_host_msis(&guest->host), 0);
    munmap(guest->ram, HARNESS_RAM_SIZE);
    pthread_mutex_destroy(&guest->pci_lock);
}

uint64_t guest_alloc(struct guest *guest, uint64_t size, uint64_t align)
{
    uint64_t gpa = (guest->next_free + align - 1) & ~(align - 1);

    guest->next_free = gpa + size;
    assert_true(guest->next_free <= HARNESS_RAM_GPA + HARNESS_RAM_SIZE);
    return gpa;
}

void *guest_ptr(struct guest *guest, uint64_t gpa)
{
    return guest->ram + (gpa - HARNESS_RAM_GPA);
}

unsigned guest_find_capability(struct guest *guest, uint8_t type)
{
    unsigned at = pci_function_config_read(guest->fn, PCI_CAPABILITY_LIST, 1), hops = 0;

    for (; at; at = pci_function_config_read(guest->fn, at + 1, 1)) {
        assert_true(++hops < 20);
        if (pci_function_config_read(guest->fn, at, 1) == PCI_CAP_ID_VNDR &&
            pci_function_config_read(guest->fn, at + VIRTIO_PCI_CAP_CFG_TYPE, 1) == type)
            return at;
    }
    return 0;
}

uint64_t bar_get(struct guest *guest, uint64_t offset, unsigned len)
{
    uint64_t value = 0;

    pthread_mutex_lock(&guest->pci_lock);
    guest->fn->ops->bar_read(guest->fn, 0, offset, &value, len);
    pthread_mutex_unlock(&guest->pci_lock);
    return value;
}

void bar_set(struct guest *guest, uint64_t offset, uint64_t value, unsigned len)
{
    pthread_mutex_lock(&guest->pci_lock);
    guest->fn->ops->bar_write(guest->fn, 0, offset, &value, len);
    pthread_mutex_unlock(&guest->pci_lock);
}

uint32_t common_get(struct guest *guest, unsigned offset, unsigned len)
{
    return (uint32_t)bar_get(guest, VIRTIO_PCI_COMMON_OFFSET + offset, len);
}

void common_set(struct guest *guest, unsigned offset, uint32_t value, unsigned len)
{
    bar_set(guest, VIRTIO_PCI_COMMON_OFFSET + offset, value, len);
}

uint8_t guest_status(struct guest *guest)
{
    return (uint8_t)common_get(guest, VIRTIO_PCI_COMMON_STATUS, 1);
}

uint64_t guest_features(struct guest *guest)
{
    uint64_t features;

    common_set(guest, VIRTIO_PCI_COMMON_DFSELECT, 0, 4);
    features = common_get(guest, VIRTIO_PCI_COMMON_DF, 4);
    common_set(guest, VIRTIO_PCI_COMMON_DFSELECT, 1, 4);
    return features | (uint64_t)common_get(guest, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

bool guest_negotiate(struct guest *guest, uint64_t features)
{
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;

    common_set(guest, VIRTIO_PCI_COMMON_STATUS, status, 1);
    status |= VIRTIO_CONFIG_S_DRIVER;
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, status, 1);
    common_set(guest, VIRTIO_PCI_COMMON_GFSELECT, 0, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GF, (uint32_t)features, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
    common_set(guest, VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> 32), 4);
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, status, 1);
    return guest_status(guest) & VIRTIO_CONFIG_S_FEATURES_OK;
}

void guest_driver_ok(struct guest *guest)
{
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, guest_status(guest) | VIRTIO_CONFIG_S_DRIVER_OK, 1);
}

void guest_reset(struct guest *guest)
{
    common_set(guest, VIRTIO_PCI_COMMON_STATUS, 0, 1);
    assert_int_equal(guest_status(guest), 0);
}

void ring_layout(struct guest *guest, struct ring *ring, uint16_t size, bool event_idx)
{
    *ring = (struct ring){.size = size, .event_idx = event_idx};
    /* One more than the table has: where an index that is out of range by one leads. */
    ring->desc_gpa = guest_alloc(guest, (size + 1ULL) * sizeof(struct vring_desc), 16);
    /* A cache line each, where reordered accesses show. */
    ring->avail_gpa = guest_alloc(guest, 6 + 2 * (uint64_t)size, 64);
    ring->used_gpa = guest_alloc(guest, 6 + 8 * (uint64_t)size, 64);
    ring->desc = guest_ptr(guest, ring->desc_gpa);
    ring->avail = guest_ptr(guest, ring->avail_gpa);
    ring->used = guest_ptr(guest, ring->used_gpa);
    memset(ring->desc, 0, size * sizeof(struct vring_desc));
    memset(ring->avail, 0, 6 + 2 * (size_t)size);
    memset(ring->used, 0, 6 + 8 * (size_t)size);
}

void ring_attach(struct guest *guest, const struct ring *ring, struct virtqueue *vq,
                 uint64_t features)
{
    assert_int_equal(virtqueue_init(vq, ring->size), 0);
    vq->desc_gpa = ring->desc_gpa;
    vq->avail_gpa = ring->avail_gpa;
    vq->used_gpa = ring->used_gpa;
    assert_int_equal(virtqueue_start(vq, &guest->mem, features), 0);
}

void guest_setup_ring(struct guest *guest, struct ring *ring, unsigned index, uint16_t size,
                      uint64_t features)
{
    ring_layout(guest, ring, size, features & (1ULL << VIRTIO_RING_F_EVENT_IDX));
    ring->index = index;
    common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, index, 2);
    common_set(guest, VIRTIO_PCI_COMMON_Q_SIZE, size, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_SIZE, 2), size);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_DESCLO, ring->desc_gpa, 8);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_AVAILLO, ring->avail_gpa, 8);
    bar_set(guest, VIRTIO_PCI_COMMON_Q_USEDLO, ring->used_gpa, 8);
    common_set(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
    assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

void guest_enable_msix(struct guest *guest, unsigned queues)
{
    unsigned cap = guest->fn->config[PCI_CAPABILITY_LIST];

    while (guest->fn->config[cap] != PCI_CAP_ID_MSIX)
        cap = guest->fn->config[cap + PCI_CAP_LIST_NEXT];
    pci_function_config_write(guest->fn, cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
    for (unsigned v = 0; v <= queues; v++) {
        uint64_t entry = VIRTIO_PCI_MSIX_TABLE_OFFSET + (uint64_t)v * PCI_MSIX_ENTRY_SIZE;

        bar_set(guest, entry + PCI_MSIX_ENTRY_LOWER_ADDR, 0xfee00000, 4);
        bar_set(guest, entry + PCI_MSIX_ENTRY_UPPER_ADDR, 0, 4);
        bar_set(guest, entry + PCI_MSIX_ENTRY_DATA, HARNESS_MSI_DATA + v, 4);
        bar_set(guest, entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0, 4);
    }
    common_set(guest, VIRTIO_PCI_COMMON_MSIX, 0, 2);
    for (unsigned q = 0; q < queues; q++) {
        common_set(guest, VIRTIO_PCI_COMMON_Q_SELECT, q, 2);
        common_set(guest, VIRTIO_PCI_COMMON_Q_MSIX, q + 1, 2);
        assert_int_equal(common_get(guest, VIRTIO_PCI_COMMON_Q_MSIX, 2), q + 1);
    }
}

/* ---- the driver's side of a ring ---- */

void ring_desc(struct ring *ring, unsigned i, uint64_t gpa, uint32_t len, uint16_t flags,
               uint16_t next)
{
    ring->desc[i] = (struct vring_desc){.addr = gpa, .len = len, .flags = flags, .next = next};
}

void ring_add(struct ring *ring, uint16_t head)
{
    __atomic_store_n(&ring->avail->ring[ring->avail_idx % ring->size], head, __ATOMIC_RELAXED);
    ring->avail_idx++;
}

bool ring_publish(struct ring *ring)
{
    const uint16_t *avail_event = (const uint16_t *)(const void *)&ring->used->ring[ring->size];
    uint16_t old = ring->kicked;

    __atomic_store_n(&ring->avail->idx, ring->avail_idx, __ATOMIC_SEQ_CST);
    ring->kicked = ring->avail_idx;
    if (ring->event_idx) {
        uint16_t event = __atomic_load_n(avail_event, __ATOMIC_SEQ_CST);

        return vring_need_event(event, ring->avail_idx, old);
    }
    return !(__atomic_load_n(&ring->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY);
}

void ring_kick(struct guest *guest, struct ring *ring)
{
    uint64_t at = VIRTIO_PCI_NOTIFY_OFFSET + (uint64_t)ring->index * VIRTIO_PCI_NOTIFY_MULTIPLIER;

    if (ring_publish(ring) && !fake_host_write(&guest->host, HARNESS_BAR_GPA + at))
        bar_set(guest, at, ring->index, 2);
}

bool ring_get_used(struct ring *ring, uint32_t *id, uint32_t *len)
{
    uint16_t idx = __atomic_load_n(&ring->used->idx, __ATOMIC_SEQ_CST);

    if (idx == ring->last_used)
        return false;
    *id = ring->used->ring[ring->last_used % ring->size].id;
    *len = ring->used->ring[ring->last_used % ring->size].len;
    ring->last_used++;
    return true;
}

void ring_wait_used(struct ring *ring, uint32_t *id, uint32_t *len)
{
    uint64_t until = test_now_ms() + HARNESS_TIMEOUT_MS;

    while (!ring_get_used(ring, id, len)) {
        assert_true(test_now_ms() < until);
        sched_yield();
    }
}

void ring_set_used_event(struct ring *ring, uint16_t event)
{
    __atomic_store_n(&ring->avail->ring[ring->size], event, __ATOMIC_SEQ_CST);
}

void ring_set_no_interrupt(struct ring *ring, bool on)
{
    __atomic_store_n(&ring->avail->flags, on ? VRING_AVAIL_F_NO_INTERRUPT : 0, __ATOMIC_SEQ_CST);
}

/* ---- odds and ends ---- */

uint64_t test_seed(void)
{
    const char *given = getenv("TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);

    print_message("seed %llu\n", (unsigned long long)seed);
    return seed * 2 + 1;
}

uint64_t test_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

uint64_t test_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}
