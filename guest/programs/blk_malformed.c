/*
 * blk_malformed - descriptor chains that no driver should make. For each: the device says that it needs
 * a reset, or ends the request with an error status; then it is reset and works again. It never writes
 * where it must not, and the machine lives on.
 */
#include "blk.h"
#include "lib.h"

enum { HEADER, DATA, STATUS, REQUEST_SLOTS };
/* Nobody's: in the device hole, and above what any test has. */
#define HOLE     0xd0000000ULL
#define FAR_AWAY 0x00fffffffff00000ULL

static struct virtio v;
static struct queue *q;
static struct blk_header header;
static volatile uint8_t status;
static uint8_t *data;
static struct descriptor *indirect;
/* What goes into the available ring when the case has spoilt the table. */
static uint16_t head, avail_index;

/* A sound read of sector 0 in slots 0 to 2, for the case to spoil. */
static void sound_read(void)
{
    header = (struct blk_header){BLK_READ, 0, 0};
    queue_set(q, HEADER, &header, sizeof(header), DESC_NEXT, DATA);
    queue_set(q, DATA, data, SECTOR, DESC_NEXT | DESC_WRITE, STATUS);
    queue_set(q, STATUS, &status, 1, DESC_WRITE, 0);
}

/* The same in an indirect table of `entries` descriptors, which slot 0 names. */
static void sound_indirect(unsigned entries)
{
    sound_read();
    for (unsigned i = 0; i < REQUEST_SLOTS; i++)
        indirect[i] = q->table[i];
    queue_set(q, 0, indirect, entries * (uint32_t)sizeof(struct descriptor), DESC_INDIRECT, 0);
}

/* Where RAM ends below the device hole. */
static uint64_t memory_end(void)
{
    const struct memory_map_entry *map = at(boot_start_info->memory_map);
    uint64_t end = 0;

    for (uint32_t i = 0; i < boot_start_info->memory_map_entries; i++)
        if (map[i].type == MEMORY_RAM && map[i].address < HOLE)
            end = map[i].address + map[i].size;
    return end;
}

static void loop(void)
{
    q->table[DATA].next = DATA;
}

static void loop_of_two(void)
{
    q->table[STATUS].flags |= DESC_NEXT;
    q->table[STATUS].next = DATA;
}

static void next_out_of_range(void)
{
    q->table[DATA].next = q->size;
}

static void next_far_out_of_range(void)
{
    q->table[DATA].next = 0xffff;
}

static void header_outside_memory(void)
{
    q->table[HEADER].address = HOLE;
}

static void data_outside_memory(void)
{
    q->table[DATA].address = FAR_AWAY;
}

static void status_outside_memory(void)
{
    q->table[STATUS].address = HOLE;
}

static void data_across_the_end_of_memory(void)
{
    q->table[DATA].address = memory_end() - SECTOR / 2;
}

static void address_that_wraps(void)
{
    q->table[DATA].address = ~0ULL - 16;
}

static void length_of_4_gib(void)
{
    q->table[DATA].length = 0xffffffff;
}

static void zero_length_data(void)
{
    q->table[DATA].length = 0;
}

static void zero_length_header(void)
{
    q->table[HEADER].length = 0;
}

static void zero_length_status(void)
{
    q->table[STATUS].length = 0;
}

static void short_header(void)
{
    q->table[HEADER].length = 8;
}

static void header_alone(void)
{
    q->table[HEADER].flags = 0;
}

static void no_room_for_a_status(void)
{
    q->table[HEADER].next = STATUS;
    q->table[STATUS].flags = 0;
}

static void header_that_the_device_writes(void)
{
    q->table[HEADER].flags |= DESC_WRITE;
}

static void data_that_the_device_reads(void)
{
    q->table[DATA].flags &= (uint16_t)~DESC_WRITE;
}

static void readable_behind_writable(void)
{
    q->table[STATUS].flags = DESC_NEXT | DESC_WRITE;
    q->table[STATUS].next = 5;
    queue_set(q, 5, &header, sizeof(header), 0, 0);
}

static void part_of_a_sector(void)
{
    q->table[DATA].length = SECTOR - 1;
}

static void indirect_in_indirect(void)
{
    sound_indirect(REQUEST_SLOTS);
    indirect[DATA].flags = DESC_INDIRECT;
    indirect[DATA].address = address_of(indirect);
    indirect[DATA].length = 48;
}

static void indirect_and_next(void)
{
    sound_indirect(REQUEST_SLOTS);
    q->table[0].flags = DESC_INDIRECT | DESC_NEXT;
    q->table[0].next = STATUS;
}

static void indirect_of_odd_length(void)
{
    sound_indirect(REQUEST_SLOTS);
    q->table[0].length = 3 * sizeof(struct descriptor) - 1;
}

static void indirect_of_no_length(void)
{
    sound_indirect(REQUEST_SLOTS);
    q->table[0].length = 0;
}

static void indirect_of_4_gib(void)
{
    sound_indirect(REQUEST_SLOTS);
    q->table[0].length = 0xfffffff0;
}

static void indirect_outside_memory(void)
{
    sound_indirect(REQUEST_SLOTS);
    q->table[0].address = FAR_AWAY;
}

static void indirect_next_out_of_range(void)
{
    sound_indirect(REQUEST_SLOTS);
    indirect[DATA].next = REQUEST_SLOTS;
}

static void indirect_loop(void)
{
    sound_indirect(REQUEST_SLOTS);
    indirect[DATA].next = HEADER;
}

static void indirect_too_long(void)
{
    enum { ENTRIES = 2048 };

    sound_indirect(ENTRIES);
    for (unsigned i = 1; i < ENTRIES - 1; i++)
        indirect[i] = (struct descriptor){address_of(data), SECTOR, DESC_NEXT | DESC_WRITE,
                                          (uint16_t)(i + 1)};
    indirect[ENTRIES - 1] = (struct descriptor){address_of(&status), 1, DESC_WRITE, 0};
}

static void head_out_of_range(void)
{
    head = q->size;
}

static void avail_index_that_jumps(void)
{
    avail_index = (uint16_t)(q->size + 1);
}

static void avail_index_that_goes_back(void)
{
    avail_index = 0xffff;
}

static const struct {
    const char *name;
    void (*spoil)(void);
} cases[] = {
    {"a descriptor that follows itself", loop},
    {"a loop of two", loop_of_two},
    {"a next index of the queue size", next_out_of_range},
    {"a next index of 65535", next_far_out_of_range},
    {"a header outside memory", header_outside_memory},
    {"data outside memory", data_outside_memory},
    {"a status byte outside memory", status_outside_memory},
    {"data across the end of memory", data_across_the_end_of_memory},
    {"an address that wraps", address_that_wraps},
    {"a length of 4 GiB", length_of_4_gib},
    {"data of length 0", zero_length_data},
    {"a header of length 0", zero_length_header},
    {"a status of length 0", zero_length_status},
    {"a short header", short_header},
    {"a header alone", header_alone},
    {"no room for a status", no_room_for_a_status},
    {"a header that the device writes", header_that_the_device_writes},
    {"a read into what the device reads", data_that_the_device_reads},
    {"a readable descriptor behind a writable one", readable_behind_writable},
    {"a part of a sector", part_of_a_sector},
    {"an indirect table in an indirect table", indirect_in_indirect},
    {"an indirect descriptor with a next one", indirect_and_next},
    {"an indirect table of odd length", indirect_of_odd_length},
    {"an indirect table of length 0", indirect_of_no_length},
    {"an indirect table of 4 GiB", indirect_of_4_gib},
    {"an indirect table outside memory", indirect_outside_memory},
    {"a next index behind an indirect table", indirect_next_out_of_range},
    {"a loop in an indirect table", indirect_loop},
    {"an indirect table longer than the queue", indirect_too_long},
    {"a head of the queue size", head_out_of_range},
    {"an avail index that jumps", avail_index_that_jumps},
    {"an avail index that goes back", avail_index_that_goes_back},
};

static bool ended(void)
{
    return (virtio_status(&v) & STATUS_NEEDS_RESET) || q->used->index != q->taken;
}

/* What the device may answer: it needs a reset, or the request failed, or it wrote nothing at all into
 * a status that it could not reach. A sound result is none of these. */
static bool refused(void)
{
    return (virtio_status(&v) & STATUS_NEEDS_RESET) || status != BLK_OK;
}

int main(void)
{
    uint64_t wanted = FEATURES_BLK_ALL | FEATURE_RING_INDIRECT;
    bool held;

    data = allocate(4096, 4096);
    indirect = allocate(2048 * sizeof(struct descriptor), 4096);
    q = &v.queues[0];
    if (!check(virtio_find(VIRTIO_BLOCK, 0, &v), "a block device") || !virtio_start(&v, wanted, 1))
        return 0;
    check(blk_fill(&v, 0, 0, 1, 0x21) && blk_verify(&v, 0, 0, 1, 0x21), "a sound request");

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        if (!virtio_start(&v, wanted, 1))
            return 0;
        status = BLK_PENDING;
        head = 0;
        avail_index = 1;
        sound_read();
        cases[i].spoil();
        q->avail->ring[0] = head;
        fence();
        q->avail->index = avail_index;
        queue_notify(q);
        held = WAIT_FOR(ended(), LONG_WAIT) && refused();
        check(held, "%s: device status %u, request %u", cases[i].name, virtio_status(&v), status);
        if (!check(virtio_start(&v, wanted, 1) && blk_verify(&v, 0, 0, 1, 0x21), "works again"))
            return 0;
    }
    return 0;
}
