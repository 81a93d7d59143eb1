/* Requests that were in flight when a back end ended without notice: the next one carries them out, and
 * only them, in the order in which they were taken. */
#include "back_end.h"

#include "blockdev.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ENTRIES = 16, ENTRY = 16 }; /* where descriptors stand in a ring's part, and how far apart */

/* The memory in the front end. */
struct record {
    struct vu_inflight inflight;
    int fd;
    uint8_t *bytes;
};

static void get_record(struct front_end *fe, struct record *record)
{
    record->inflight = (struct vu_inflight){.queues = 1, .queue_size = FRONT_END_RING_SIZE};
    assert_true(
        front_end_ask(fe, VU_GET_INFLIGHT_FD, &record->inflight, VU_INFLIGHT_SIZE, &record->fd));
    assert_true(record->fd >= 0);
    record->bytes = mmap(NULL, record->inflight.size, PROT_READ | PROT_WRITE, MAP_SHARED,
                         record->fd, (off_t)record->inflight.offset);
    assert_true(record->bytes != MAP_FAILED);
}

static void free_record(struct record *record)
{
    munmap(record->bytes, record->inflight.size);
    close(record->fd);
}

/* Negotiation, memory and ring 0, with the record. */
static void run(struct front_end *fe, struct record *record, uint16_t base)
{
    assert_true(front_end_negotiate(fe, 1ULL << VIRTIO_BLK_F_FLUSH));
    if (!record->bytes)
        get_record(fe, record);
    assert_true(front_end_tell(fe, VU_SET_INFLIGHT_FD, &record->inflight, VU_INFLIGHT_SIZE,
                               &record->fd, 1));
    assert_true(front_end_share_memory(fe));
    assert_true(front_end_start_ring(fe, 0, base));
}

static void mark(const struct record *record, unsigned slot, uint64_t counter)
{
    uint8_t *entry = record->bytes + ENTRIES + (size_t)slot * 3 * ENTRY;

    entry[0] = 1;
    memcpy(entry + 8, &counter, sizeof(counter));
}

static unsigned marks(const struct record *record)
{
    unsigned count = 0;

    for (unsigned i = 0; i < FRONT_END_RING_SIZE; i++)
        count += record->bytes[ENTRIES + i * ENTRY];
    return count;
}

static void test_requests_are_written_down(void **state)
{
    struct front_end *fe = &((struct back_end *)*state)->fe;
    struct vu_ring_state base = {0, 0};
    struct record record = {0};
    uint16_t version, size, used;

    run(fe, &record, 0);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, i, 512), VIRTIO_BLK_S_OK);
    assert_true(front_end_ask(fe, VU_GET_VRING_BASE, &base, sizeof(base), NULL));
    memcpy(&version, record.bytes + 8, sizeof(version));
    memcpy(&size, record.bytes + 10, sizeof(size));
    memcpy(&used, record.bytes + 14, sizeof(used));
    assert_int_equal(version, 1);
    assert_int_equal(size, FRONT_END_RING_SIZE);
    assert_int_equal(used, 5);
    assert_int_equal(marks(&record), 0);
    free_record(&record);
}

/*
 * As a crash leaves it: of six chains that were made available, 0 and 3 are on the used ring, 1, 2 and
 * 4 were taken, in the order 4, 1, 2, and 5 was not. 3 still has its mark: it came too late for that.
 */
static void test_what_was_in_flight_is_carried_out(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct record record = {0};
    const uint16_t first_batch = 1, last_batch_head = 3 * 3;

    run(fe, &record, 0);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
    back_end_reconnect_guest(back_end);

    for (unsigned slot = 1; slot < 6; slot++) {
        front_end_prepare(fe, 0, slot, VIRTIO_BLK_T_IN, 50 + slot, 512);
        front_end_offer(fe, 0, slot);
    }
    fe->rings[0].used->ring[1].id = 3 * 3;
    fe->rings[0].used->idx = 2;
    memcpy(record.bytes + 14, &first_batch, sizeof(first_batch));
    memcpy(record.bytes + 12, &last_batch_head, sizeof(last_batch_head));
    mark(&record, 3, 1);
    mark(&record, 4, 2);
    mark(&record, 1, 3);
    mark(&record, 2, 4);
    /* The avail ring has what came later in the places of what was taken: it must not be looked at. */
    for (unsigned i = 1; i < 5; i++)
        fe->rings[0].avail->ring[i] = 0xffff;

    run(fe, &record, 2);
    assert_int_equal(front_end_wait(fe, 0), 3);
    assert_int_equal(*front_end_status(fe, 0, 3), 0xee);
    for (unsigned i = 0; i < 4; i++) {
        static const int order[] = {4, 1, 2, 5};
        int slot = front_end_wait(fe, 0);

        assert_int_equal(slot, order[i]);
        assert_int_equal(*front_end_status(fe, 0, (unsigned)slot), VIRTIO_BLK_S_OK);
        assert_int_equal(*front_end_data(fe, 0, (unsigned)slot), 50 + slot);
    }
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_IN, 9, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(back_end->line_count, 0);
    back_end_reconnect(back_end);
    assert_int_equal(marks(&record), 0);
    free_record(&record);
}

/* What the image holds for somebody who opens it now: as after a kill of this process. */
static uint8_t first_byte(const struct back_end *back_end, uint64_t sector)
{
    const struct blk_open_options options = {
        .path = back_end->image, .format = "qcow2", .force_share = true};
    struct blk *blk;
    struct err err;
    uint8_t byte;

    if (blk_open(&options, &blk, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(blk_pread(blk, sector * 512, &byte, 1), 0);
    assert_int_equal(blk_close(blk, &err), 0);
    return byte;
}

/* A driver that outlives the back end has been told that its writes are done. */
static void test_what_is_done_does_not_end_with_the_process(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct record record = {0};

    run(fe, &record, 0);
    for (unsigned slot = 0; slot < FRONT_END_SLOTS; slot++) {
        front_end_prepare(fe, 0, slot, VIRTIO_BLK_T_OUT, 128ULL * slot, 512);
        memset(front_end_data(fe, 0, slot), 0xc0, 512);
        front_end_offer(fe, 0, slot);
    }
    front_end_kick(fe, 0);
    for (unsigned i = 0; i < FRONT_END_SLOTS; i++) {
        int slot = front_end_wait(fe, 0);

        assert_true(slot >= 0);
        assert_int_equal(*front_end_status(fe, 0, (unsigned)slot), VIRTIO_BLK_S_OK);
        assert_int_equal(first_byte(back_end, 128ULL * (unsigned)slot), 0xc0);
    }
    free_record(&record);
}

/* Without a record the driver does not outlive the process: nothing waits for a flush. */
static void test_without_a_record_nothing_waits(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;

    back_end_run(back_end, 0);
    memset(front_end_data(fe, 0, 0), 0xc0, 512);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_OUT, 128, 512), VIRTIO_BLK_S_OK);
    assert_int_equal(first_byte(back_end, 128), 128);
    assert_int_equal(front_end_request(fe, 0, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(first_byte(back_end, 128), 0xc0);
}

/* A record that was made for other rings is no reason to lose the requests of this one silently. */
static void test_a_foreign_record_is_refused(void **state)
{
    struct back_end *back_end = *state;
    struct front_end *fe = &back_end->fe;
    struct vu_ring_address address = front_end_ring_address(fe, 0);
    struct record record = {0};
    const uint16_t version_and_size[] = {1, 64};
    const uint64_t ring = 0;

    assert_true(front_end_negotiate(fe, 1ULL << VIRTIO_BLK_F_FLUSH));
    get_record(fe, &record);
    memcpy(record.bytes + 8, version_and_size, sizeof(version_and_size));
    assert_true(
        front_end_tell(fe, VU_SET_INFLIGHT_FD, &record.inflight, VU_INFLIGHT_SIZE, &record.fd, 1));
    assert_true(front_end_share_memory(fe));
    assert_true(front_end_tell_ring(fe, VU_SET_VRING_NUM, 0, FRONT_END_RING_SIZE));
    assert_true(front_end_tell(fe, VU_SET_VRING_ADDR, &address, sizeof(address), NULL, 0));
    assert_true(front_end_tell_ring(fe, VU_SET_VRING_ENABLE, 0, 1));
    assert_false(front_end_tell(fe, VU_SET_VRING_KICK, &ring, sizeof(ring), &fe->rings[0].kick, 1));
    back_end_assert_line(back_end, "what was in flight cannot be used");
    free_record(&record);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, back_end_start, back_end_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_requests_are_written_down),
        TEST(test_what_was_in_flight_is_carried_out),
        cmocka_unit_test_setup_teardown(test_what_is_done_does_not_end_with_the_process,
                                        back_end_start_overlay, back_end_stop),
        cmocka_unit_test_setup_teardown(test_without_a_record_nothing_waits, back_end_start_overlay,
                                        back_end_stop),
        TEST(test_a_foreign_record_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
