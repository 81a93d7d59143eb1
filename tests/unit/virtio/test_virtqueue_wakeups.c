/*
 * Suppression of notifications and interrupts loses no wake-up: a driver and a device in two threads,
 * racing each other's stores and sleeping on each other.
 */
#include "harness.h"

#include "virtqueue.h"

#include <linux/virtio_config.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENT_IDX (1ULL << VIRTIO_RING_F_EVENT_IDX)

enum { SIZE = 8 };

#define BUFFER ((uint64_t)HARNESS_RAM_GPA)

/* ---- two threads, sleeping on each other ---- */

enum { EXCHANGES = 150000 };

struct exchange {
    struct guest guest;
    struct ring ring;
    struct virtqueue vq;
    int doorbell, interrupt;
    unsigned kicks, interrupts;
};

static void signal_fd(int fd)
{
    uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

static void wait_fd(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLIN};
    uint64_t count;

    if (poll(&pfd, 1, HARNESS_TIMEOUT_MS) != 1) {
        print_error("a wake-up was lost\n");
        abort();
    }
    if (read(fd, &count, sizeof(count)) != sizeof(count))
        abort();
}

static void *exchange_device(void *arg)
{
    struct exchange *x = arg;
    unsigned done = 0;

    while (done < EXCHANGES) {
        uint16_t head;
        int ret;

        virtqueue_notify_disable(&x->vq);
        while ((ret = virtqueue_take(&x->vq, &head)) > 0) {
            virtqueue_push(&x->vq, head, done++);
            if (done % 3 == 0 && virtqueue_publish(&x->vq)) {
                x->interrupts++;
                signal_fd(x->interrupt);
            }
        }
        if (ret < 0)
            abort();
        if (virtqueue_publish(&x->vq)) {
            x->interrupts++;
            signal_fd(x->interrupt);
        }
        if (done < EXCHANGES && !virtqueue_notify_enable(&x->vq))
            wait_fd(x->doorbell);
    }
    return NULL;
}

static void run_exchange(uint64_t features)
{
    struct exchange x = {0};
    struct ring *ring = &x.ring;
    uint64_t seed = test_seed();
    unsigned sent = 0, got = 0;
    pthread_t device;

    guest_init(&x.guest);
    ring_layout(&x.guest, ring, SIZE, features & EVENT_IDX);
    ring_attach(&x.guest, ring, &x.vq, features);
    x.doorbell = eventfd(0, 0);
    x.interrupt = eventfd(0, 0);
    for (unsigned i = 0; i < SIZE; i++)
        ring_desc(ring, i, BUFFER, 1, 0, 0);
    if (ring->event_idx)
        ring_set_used_event(ring, 0);
    assert_int_equal(pthread_create(&device, NULL, exchange_device, &x), 0);
    while (got < EXCHANGES) {
        uint32_t id, len;
        unsigned burst = 1 + (unsigned)(test_random(&seed) % SIZE);

        while (sent < EXCHANGES && sent - got < SIZE && burst-- > 0)
            ring_add(ring, (uint16_t)(sent++ % SIZE));
        if (ring->kicked != ring->avail_idx && ring_publish(ring)) {
            x.kicks++;
            signal_fd(x.doorbell);
        }
        while (ring_get_used(ring, &id, &len)) {
            assert_int_equal(len, got);
            assert_int_equal(id, got % SIZE);
            got++;
        }
        if (got == EXCHANGES || (sent - got < SIZE && sent < EXCHANGES))
            continue;
        /* Full: ask for an interrupt, look again, sleep. */
        if (ring->event_idx)
            ring_set_used_event(ring, ring->last_used);
        else
            ring_set_no_interrupt(ring, false);
        if (__atomic_load_n(&ring->used->idx, __ATOMIC_SEQ_CST) == ring->last_used)
            wait_fd(x.interrupt);
        if (!ring->event_idx)
            ring_set_no_interrupt(ring, true);
    }
    pthread_join(device, NULL);
    print_message("%u exchanges, %u kicks, %u interrupts\n", EXCHANGES, x.kicks, x.interrupts);
    close(x.doorbell);
    close(x.interrupt);
    virtqueue_destroy(&x.vq);
    guest_destroy(&x.guest);
}

static void test_no_wakeup_is_lost_with_flags(void **state)
{
    (void)state;
    run_exchange(0);
}

static void test_no_wakeup_is_lost_with_event_indices(void **state)
{
    (void)state;
    run_exchange(EVENT_IDX);
}

/* ---- two threads, store and load at the same moment ---- */

/* Both threads run through an array of queues and do their half of pair C or D of virtqueue.c on each,
 * with no rendezvous but one for each pass, so that they meet on some queue in most passes. Then no
 * queue may be found on which neither saw the other's store. */
enum { RACE_QUEUES = 256, RACE_PASSES = 1500 };

struct race {
    struct guest guest;
    struct ring rings[RACE_QUEUES];
    struct virtqueue vqs[RACE_QUEUES];
    bool device_saw[RACE_QUEUES];
    bool notifications; /* pair D, else pair C */
    atomic_uint go, done;
};

/* Two threads on one CPU never meet. */
static void pin_to_nth_cpu(unsigned n)
{
    cpu_set_t all, one;

    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) < 0)
        return;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && n-- == 0) {
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof(one), &one);
            return;
        }
    }
}

static void await(atomic_uint *counter, unsigned pass)
{
    for (unsigned tries = 0; atomic_load_explicit(counter, memory_order_acquire) != pass; tries++) {
        if (tries > 1000)
            sched_yield();
    }
}

static void *race_device(void *arg)
{
    struct race *race = arg;

    pin_to_nth_cpu(1);
    for (unsigned pass = 1; pass <= RACE_PASSES; pass++) {
        await(&race->go, pass);
        for (unsigned i = 0; i < RACE_QUEUES; i++) {
            if (race->notifications) {
                race->device_saw[i] = virtqueue_notify_enable(&race->vqs[i]);
            } else {
                virtqueue_push(&race->vqs[i], 0, 0);
                race->device_saw[i] = virtqueue_publish(&race->vqs[i]);
            }
        }
        atomic_store_explicit(&race->done, pass, memory_order_release);
    }
    return NULL;
}

/* Both sides at rest: the driver about to offer a chain or to ask for an interrupt. */
static void race_prepare(struct race *race, unsigned i, unsigned pass)
{
    struct ring *ring = &race->rings[i];
    uint16_t head;

    if (race->notifications) {
        if (pass > 1)
            assert_int_equal(virtqueue_take(&race->vqs[i], &head), 1);
        virtqueue_notify_disable(&race->vqs[i]);
        ring_add(ring, 0);
    } else if (ring->event_idx) {
        ring_set_used_event(ring, (uint16_t)(pass + 1000)); /* not interested yet */
    } else {
        ring_set_no_interrupt(ring, true);
    }
}

static bool race_driver(struct race *race, unsigned i, unsigned pass)
{
    struct ring *ring = &race->rings[i];

    if (race->notifications)
        return ring_publish(ring);
    if (ring->event_idx)
        ring_set_used_event(ring, (uint16_t)(pass - 1));
    else
        ring_set_no_interrupt(ring, false);
    return __atomic_load_n(&ring->used->idx, __ATOMIC_SEQ_CST) == (uint16_t)pass;
}

static void run_race(uint64_t features, bool notifications)
{
    static struct race race;
    bool driver_saw[RACE_QUEUES];
    uint64_t seed = test_seed();
    pthread_t device;
    cpu_set_t cpus;
    unsigned both = 0;

    sched_getaffinity(0, sizeof(cpus), &cpus);
    memset(&race, 0, sizeof(race));
    race.notifications = notifications;
    guest_init(&race.guest);
    for (unsigned i = 0; i < RACE_QUEUES; i++) {
        ring_layout(&race.guest, &race.rings[i], SIZE, features & EVENT_IDX);
        ring_desc(&race.rings[i], 0, BUFFER, 1, 0, 0);
        ring_attach(&race.guest, &race.rings[i], &race.vqs[i], features);
    }
    assert_int_equal(pthread_create(&device, NULL, race_device, &race), 0);
    pin_to_nth_cpu(0);
    for (unsigned pass = 1; pass <= RACE_PASSES; pass++) {
        for (unsigned i = 0; i < RACE_QUEUES; i++)
            race_prepare(&race, i, pass);
        atomic_store_explicit(&race.go, pass, memory_order_release);
        for (uint64_t n = test_random(&seed) % 4096; n > 0; n--)
            __asm__ volatile("" ::: "memory");
        for (unsigned i = 0; i < RACE_QUEUES; i++)
            driver_saw[i] = race_driver(&race, i, pass);
        await(&race.done, pass);
        for (unsigned i = 0; i < RACE_QUEUES; i++) {
            if (!driver_saw[i] && !race.device_saw[i])
                fail_msg("pass %u, queue %u: neither side saw the other", pass, i);
            both += driver_saw[i] && race.device_saw[i];
        }
    }
    pthread_join(device, NULL);
    sched_setaffinity(0, sizeof(cpus), &cpus);
    print_message("met on %u queues in %u passes\n", both, RACE_PASSES);
    for (unsigned i = 0; i < RACE_QUEUES; i++)
        virtqueue_destroy(&race.vqs[i]);
    guest_destroy(&race.guest);
}

static void test_interrupt_or_used_element_is_seen(void **state)
{
    (void)state;
    run_race(0, false);
    run_race(EVENT_IDX, false);
}

static void test_doorbell_or_available_chain_is_seen(void **state)
{
    (void)state;
    run_race(0, true);
    run_race(EVENT_IDX, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_wakeup_is_lost_with_flags),
        cmocka_unit_test(test_no_wakeup_is_lost_with_event_indices),
        cmocka_unit_test(test_interrupt_or_used_element_is_seen),
        cmocka_unit_test(test_doorbell_or_available_chain_is_seen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
