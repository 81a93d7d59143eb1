/*
 * A block device whose image fails: reported to the driver, or kept while the device is halted and
 * carried out again; and what resets, pauses and other queues do meanwhile.
 */
#include "disk.h"
#include "tests/unit/blockdev/trace.h"

#include <semaphore.h>

enum { FAILS_FOR_EVER = 1 << 30 };

static struct trace trace;

static struct blk *open_through_trace(const char *path)
{
    return trace_open(&trace, path, 0);
}

/* From now on every change of the file fails so; 0: none does. */
static void fail_writes(int code)
{
    pthread_mutex_lock(&trace.lock);
    trace.fail_from = trace.operations + 1;
    trace.fail_count = code ? FAILS_FOR_EVER : 0;
    trace.fail_code = code;
    pthread_mutex_unlock(&trace.lock);
}

static void fail_reads(int code)
{
    pthread_mutex_lock(&trace.lock);
    trace.read_fail_code = code;
    pthread_mutex_unlock(&trace.lock);
}

/* What the device said. */
static struct {
    sem_t said;
    const char *request;
    int error;
} halt;

static void on_halt(void *opaque, const char *request, int error)
{
    (void)opaque;
    halt.request = request;
    halt.error = error;
    sem_post(&halt.said);
}

static void wait_for_halt(const char *request, int error)
{
    struct timespec limit;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += HARNESS_TIMEOUT_MS / 1000;
    if (sem_timedwait(&halt.said, &limit) != 0)
        fail_msg("the device does not halt");
    assert_string_equal(halt.request, request);
    assert_int_equal(halt.error, error);
}

static void assert_never_halted_again(void)
{
    int count;

    sem_getvalue(&halt.said, &count);
    assert_int_equal(count, 0);
}

static void start_disk(struct disk *disk, enum virtio_blk_on_error read,
                       enum virtio_blk_on_error write, unsigned queues)
{
    trace = (struct trace){0};
    sem_init(&halt.said, 0, 0);
    disk_open(disk, &(struct disk_setup){
                        .queues = queues,
                        .overlay = true,
                        .open = open_through_trace,
                        .on_read_error = read,
                        .on_write_error = write,
                        .halted = on_halt,
                    });
}

static void open_disk(struct disk *disk, enum virtio_blk_on_error read,
                      enum virtio_blk_on_error write)
{
    start_disk(disk, read, write, 1);
    disk_run(disk, COMMON | RANGES);
}

static void close_disk(struct disk *disk)
{
    assert_never_halted_again();
    disk_close(disk);
    trace_free(&trace);
    sem_destroy(&halt.said);
}

/* Offers a request in descriptors 3n to 3n+2, with 4 KiB of data and a status byte for the n-th, and
 * returns; n < 16, the room in front of the data. */
static void offer(struct disk *disk, struct ring *ring, unsigned n, uint32_t type, uint64_t sector)
{
    uint64_t header = guest_alloc(&disk->guest, 16, 16);
    struct virtio_blk_outhdr value = {.type = htole32(type), .sector = htole64(sector)};
    uint16_t first = (uint16_t)(3 * n);

    memcpy(guest_ptr(&disk->guest, header), &value, sizeof(value));
    ring_desc(ring, first, header, 16, NEXT, (uint16_t)(first + 1));
    ring_desc(ring, first + 1U, disk->data + 4096ULL * n, 4096,
              NEXT | (type == VIRTIO_BLK_T_IN ? WRITE : 0), (uint16_t)(first + 2));
    ring_desc(ring, first + 2U, disk->status + n, 1, WRITE, 0);
    ring_add(ring, first);
    ring_kick(&disk->guest, ring);
}

static void fill(struct disk *disk, unsigned n, uint8_t byte)
{
    memset(guest_ptr(&disk->guest, disk->data + 4096ULL * n), byte, 4096);
}

/* Waits for as many chains to come back. */
static void wait_for_used(struct ring *ring, unsigned count)
{
    uint32_t id, len;

    while (count-- > 0)
        ring_wait_used(ring, &id, &len);
}

/* The queues' threads have seen all there is to see, and have given nothing back. */
static void assert_nothing_used(struct disk *disk, struct ring *ring)
{
    uint32_t id, len;

    disk->device->ops->pause(disk->device);
    assert_false(ring_get_used(ring, &id, &len));
    disk->device->ops->resume(disk->device);
    assert_false(ring_get_used(ring, &id, &len));
}

static void a_failure_is_reported_unless_asked_otherwise(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_REPORT);
    fail_writes(-ENOSPC);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_IOERR);
    fail_writes(0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
    fail_reads(-EIO);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_IOERR);
    fail_reads(0);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_OK);
    close_disk(&disk);
}

static void a_kept_write_is_carried_out_again(void **state)
{
    struct disk disk;
    uint8_t found[4096];

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT_NO_SPACE);
    fill(&disk, 0, 0x51);
    fail_writes(-ENOSPC);
    *disk_status(&disk) = 0xee;
    offer(&disk, &disk.ring, 0, VIRTIO_BLK_T_OUT, 8);
    wait_for_halt("write", -ENOSPC);
    /* Offered meanwhile: stays in the ring. */
    offer(&disk, &disk.ring, 1, VIRTIO_BLK_T_IN, 16);
    assert_nothing_used(&disk, &disk.ring);
    assert_int_equal(*disk_status(&disk), 0xee);
    /* Still no room: it halts again, and says so. */
    virtio_blk_retry(disk.device);
    wait_for_halt("write", -ENOSPC);
    fail_writes(0);
    virtio_blk_retry(disk.device);
    wait_for_used(&disk.ring, 2);
    assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_pread(disk.blk, 4096, found, sizeof(found)), 0);
    for (unsigned i = 0; i < sizeof(found); i++)
        assert_int_equal(found[i], 0x51);
    disk_assert_filled(&disk, 4096, SECTOR, 16);
    close_disk(&disk);
}

static void only_a_full_host_halts_where_only_that_shall(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT_NO_SPACE);
    fail_writes(-EIO);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_IOERR);
    fail_writes(0);
    close_disk(&disk);
}

static void what_is_refused_is_never_kept(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_HALT, VIRTIO_BLK_HALT);
    fail_writes(-EPERM);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_IOERR);
    fail_writes(0);
    /* Nor is what the driver asked for wrongly. */
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, DISK_SECTORS, 4096), VIRTIO_BLK_S_IOERR);
    close_disk(&disk);
}

static void a_kept_read_is_carried_out_again(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_HALT, VIRTIO_BLK_REPORT);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
    fill(&disk, 0, 0xa5);
    fail_reads(-EIO);
    offer(&disk, &disk.ring, 0, VIRTIO_BLK_T_IN, 8);
    wait_for_halt("read", -EIO);
    fail_reads(0);
    virtio_blk_retry(disk.device);
    wait_for_used(&disk.ring, 1);
    assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
    disk_assert_filled(&disk, 0, 4096, 0);
    close_disk(&disk);
}

static void ranges_begin_anew(void **state)
{
    struct disk disk;
    uint8_t found[4096];

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT);
    /* The first of these has nothing to write to the file but metadata, later; the second changes a
     * part of a cluster. */
    disk_set_range(&disk, 0, 0, 8, 0);
    disk_set_range(&disk, 1, 17, 2, 0);
    fail_writes(-ENOSPC);
    disk_set_header(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0);
    ring_desc(&disk.ring, 0, disk.header, 16, NEXT, 1);
    ring_desc(&disk.ring, 1, disk.data, 32, NEXT, 2);
    ring_desc(&disk.ring, 2, disk.status, 1, WRITE, 0);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    wait_for_halt("write-zeroes", -ENOSPC);
    fail_writes(0);
    /* Somebody else writes where the first range was. */
    memset(found, 0x77, sizeof(found));
    assert_int_equal(blk_pwrite(disk.blk, 0, found, sizeof(found)), 0);
    virtio_blk_retry(disk.device);
    wait_for_used(&disk.ring, 1);
    assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
    assert_int_equal(blk_pread(disk.blk, 0, found, sizeof(found)), 0);
    for (unsigned i = 0; i < sizeof(found); i++)
        assert_int_equal(found[i], 0);
    assert_int_equal(blk_pread(disk.blk, 16 * SECTOR, found, sizeof(found)), 0);
    for (unsigned i = 0; i < sizeof(found); i++)
        assert_int_equal(found[i], i / SECTOR == 1 || i / SECTOR == 2 ? 0 : 16 + i / SECTOR);
    close_disk(&disk);
}

static void a_failing_sync_halts_at_the_flush(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT);
    assert_int_equal(disk_request(&disk, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
    fail_writes(-ENOSPC);
    disk_set_header(&disk, VIRTIO_BLK_T_FLUSH, 0);
    ring_desc(&disk.ring, 0, disk.header, 16, NEXT, 2);
    ring_desc(&disk.ring, 2, disk.status, 1, WRITE, 0);
    ring_add(&disk.ring, 0);
    ring_kick(&disk.guest, &disk.ring);
    wait_for_halt("flush", -ENOSPC);
    fail_writes(0);
    virtio_blk_retry(disk.device);
    wait_for_used(&disk.ring, 1);
    assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
    close_disk(&disk);
}

static void a_reset_drops_what_is_kept(void **state)
{
    struct disk disk;
    struct ring old;
    uint8_t found[4096];

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT);
    fill(&disk, 0, 0x51);
    fail_writes(-ENOSPC);
    for (unsigned n = 0; n < 4; n++)
        offer(&disk, &disk.ring, n, VIRTIO_BLK_T_OUT, 8 * (n + 1));
    wait_for_halt("write", -ENOSPC);
    old = disk.ring;
    guest_reset(&disk.guest);
    fail_writes(0);
    /* The memory is the driver's again. */
    *disk_status(&disk) = 0xee;
    memset(old.used, 0x5a, 6 + 8 * 64);
    virtio_blk_retry(disk.device); /* comes too late to mean anything */
    disk_run(&disk, COMMON);
    assert_int_equal(blk_pread(disk.blk, 4096, found, sizeof(found)), 0);
    assert_int_equal(found[0], 8);
    assert_int_equal(*disk_status(&disk), 0xee);
    for (unsigned i = 0; i < 6 + 8 * 64; i++)
        assert_int_equal(((uint8_t *)old.used)[i], 0x5a);
    /* As good as new, with the same heads. */
    for (unsigned n = 0; n < 4; n++)
        offer(&disk, &disk.ring, n, VIRTIO_BLK_T_OUT, 8 * (n + 1));
    wait_for_used(&disk.ring, 4);
    assert_int_equal(*disk_status(&disk), VIRTIO_BLK_S_OK);
    close_disk(&disk);
}

static void a_halt_stops_every_queue_of_the_disk(void **state)
{
    struct disk disk;
    struct ring other;

    (void)state;
    start_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT, 2);
    assert_true(guest_negotiate(&disk.guest, COMMON | BIT(VIRTIO_BLK_F_MQ)));
    guest_setup_ring(&disk.guest, &disk.ring, 0, 64, COMMON);
    guest_setup_ring(&disk.guest, &other, 1, 64, COMMON);
    guest_enable_msix(&disk.guest, 2);
    guest_driver_ok(&disk.guest);
    fail_writes(-EIO);
    offer(&disk, &disk.ring, 0, VIRTIO_BLK_T_OUT, 8);
    wait_for_halt("write", -EIO);
    offer(&disk, &other, 1, VIRTIO_BLK_T_IN, 16);
    assert_nothing_used(&disk, &other);
    fail_writes(0);
    virtio_blk_retry(disk.device);
    wait_for_used(&disk.ring, 1);
    wait_for_used(&other, 1);
    disk_assert_filled(&disk, 4096, SECTOR, 16);
    close_disk(&disk);
}

static void a_halted_disk_can_go(void **state)
{
    struct disk disk;

    (void)state;
    open_disk(&disk, VIRTIO_BLK_REPORT, VIRTIO_BLK_HALT);
    fail_writes(-ENOSPC);
    offer(&disk, &disk.ring, 0, VIRTIO_BLK_T_OUT, 8);
    wait_for_halt("write", -ENOSPC);
    fail_writes(0);
    close_disk(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_is_reported_unless_asked_otherwise),
        cmocka_unit_test(a_kept_write_is_carried_out_again),
        cmocka_unit_test(only_a_full_host_halts_where_only_that_shall),
        cmocka_unit_test(what_is_refused_is_never_kept),
        cmocka_unit_test(a_kept_read_is_carried_out_again),
        cmocka_unit_test(ranges_begin_anew),
        cmocka_unit_test(a_failing_sync_halts_at_the_flush),
        cmocka_unit_test(a_reset_drops_what_is_kept),
        cmocka_unit_test(a_halt_stops_every_queue_of_the_disk),
        cmocka_unit_test(a_halted_disk_can_go),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
