/*
 * ring.c - an io_uring for one queue's reads and writes.
 *
 * A slot for each entry of the submission queue says whose it is; a transfer is submitted only with a
 * free one, so neither queue overflows.
 *
 * Registered memory consists of buffers of at most 1 GiB, the kernel's limit. What lies in one of them in one piece
 * needs no looking up of its pages; all else is an ordinary transfer. A registered file has the number of the
 * descriptor that it stands for.
 *
 * Few of a batch are kept back for one system call: with all of them the disk would idle until the last one is
 * prepared, and the processor until the last one is read.
 */
#include "ring.h"
#include "checked.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ENTRIES = 128, AT_ONCE = 8, RETRY_MS = 1, BUFFER_BITS = 30 };

static const uint64_t buffer_bytes = UINT64_C(1) << BUFFER_BITS;

struct region {
    uintptr_t start;
    uint64_t length;
    unsigned first; /* its buffers */
};

struct ring {
    struct io_uring uring;
    struct ring_ended slots[ENTRIES];
    unsigned free[ENTRIES], free_count; /* indices of slots */
    unsigned prepared;                  /* and not submitted */
    struct region regions[RING_REGIONS];
    unsigned region_count;
    bool *has_file; /* of each descriptor below file_count */
    unsigned file_count;
};

/* By system call: the shared library of liburing 2.3 does not export its functions for these two. */
static int register_with(struct io_uring *uring, unsigned what, void *arg, unsigned count)
{
    return syscall(SYS_io_uring_register, uring->ring_fd, what, arg, count) < 0 ? -errno : 0;
}

int ring_create(struct ring **out)
{
    struct ring *ring = calloc(1, sizeof(*ring));
    int r;

    if (ring == NULL)
        return -ENOMEM;
    r = io_uring_queue_init(ENTRIES, &ring->uring, IORING_SETUP_R_DISABLED);
    if (r != 0) {
        free(ring);
        return r;
    }
    for (unsigned i = 0; i < ENTRIES; i++)
        ring->free[i] = i;
    ring->free_count = ENTRIES;
    *out = ring;
    return 0;
}

int ring_register_memory(struct ring *ring, const struct iovec *regions, unsigned count)
{
    struct iovec *buffers;
    unsigned n = 0;
    int r;

    for (unsigned i = 0; i < count; i++)
        n += (unsigned)div_round_up(regions[i].iov_len, buffer_bytes);
    if (n == 0)
        return 0;
    buffers = calloc(n, sizeof(*buffers));
    if (buffers == NULL)
        return -ENOMEM;
    n = 0;
    for (unsigned i = 0; i < count; i++) {
        ring->regions[i] = (struct region){
            .start = (uintptr_t)regions[i].iov_base,
            .length = regions[i].iov_len,
            .first = n,
        };
        for (uint64_t at = 0; at < regions[i].iov_len; at += buffer_bytes) {
            buffers[n].iov_base = (char *)regions[i].iov_base + at;
            buffers[n++].iov_len = (size_t)min_u64(buffer_bytes, regions[i].iov_len - at);
        }
    }
    r = io_uring_register_buffers(&ring->uring, buffers, n);
    if (r == 0)
        ring->region_count = count;
    free(buffers);
    return r;
}

int ring_reserve_files(struct ring *ring, unsigned count)
{
    int *none = malloc(count * sizeof(*none)), r = -ENOMEM;

    ring->has_file = calloc(count, sizeof(*ring->has_file));
    for (unsigned i = 0; i < count && none != NULL; i++)
        none[i] = -1;
    if (none != NULL && ring->has_file != NULL)
        r = io_uring_register_files(&ring->uring, none, count);
    if (r == 0)
        ring->file_count = count;
    free(none);
    return r;
}

int ring_register_file(struct ring *ring, int fd, int file)
{
    int r = io_uring_register_files_update(&ring->uring, (unsigned)fd, &file, 1);

    ring->has_file[fd] = r == 1;
    return r == 1 ? 0 : r < 0 ? r : -EIO;
}

/* Nothing else than that from now on. */
int ring_enable(struct ring *ring)
{
    const bool memory = ring->region_count > 0, files = ring->file_count > 0;
    const struct {
        bool is_wanted;
        struct io_uring_restriction what;
    } rows[] = {
        {true, {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV}},
        {true, {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV}},
        {memory, {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READ_FIXED}},
        {memory, {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITE_FIXED}},
        {files, {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = IOSQE_FIXED_FILE}},
        {files, {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_FILES}},
    };
    struct io_uring_restriction only[ARRAY_LEN(rows)];
    unsigned count = 0;
    int r;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].is_wanted)
            only[count++] = rows[i].what;
    r = register_with(&ring->uring, IORING_REGISTER_RESTRICTIONS, only, count);
    return r != 0 ? r : register_with(&ring->uring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* Files are given up here and now: the kernel would do it some time after this. */
void ring_destroy(struct ring *ring)
{
    if (ring == NULL)
        return;
    if (ring->file_count > 0)
        (void)register_with(&ring->uring, IORING_UNREGISTER_FILES, NULL, 0);
    io_uring_queue_exit(&ring->uring);
    free(ring->has_file);
    free(ring);
}

/* The registered buffer that the request's memory lies in, or -1. */
static int buffer_of(const struct ring *ring, const struct blk_request *request)
{
    uintptr_t start = (uintptr_t)request->iov[0].iov_base;
    size_t length = request->iov[0].iov_len;

    for (unsigned i = 0; i < ring->region_count && request->iovcnt == 1 && length > 0; i++) {
        const struct region *region = &ring->regions[i];
        uint64_t at = start - region->start; /* wraps when it lies in front */

        if (range_within(at, length, region->length) &&
            at >> BUFFER_BITS == (at + length - 1) >> BUFFER_BITS)
            return (int)(region->first + (at >> BUFFER_BITS));
    }
    return -1;
}

static void prepare(const struct ring *ring, struct io_uring_sqe *sqe, int fd, uint64_t offset,
                    const struct blk_request *request)
{
    unsigned count = (unsigned)request->iovcnt, length = (unsigned)request->iov[0].iov_len;
    void *memory = request->iov[0].iov_base;
    int buffer = buffer_of(ring, request);

    if (request->op == BLK_WRITE && buffer >= 0)
        io_uring_prep_write_fixed(sqe, fd, memory, length, offset, buffer);
    else if (request->op == BLK_WRITE)
        io_uring_prep_writev(sqe, fd, request->iov, count, offset);
    else if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, fd, memory, length, offset, buffer);
    else
        io_uring_prep_readv(sqe, fd, request->iov, count, offset);
    if (request->op == BLK_READ && (unsigned)fd < ring->file_count && ring->has_file[fd])
        sqe->flags |= IOSQE_FIXED_FILE;
}

bool ring_transfer(struct ring *ring, int fd, uint64_t offset, struct blk_request *request,
                   struct blk *layer, int hold)
{
    struct io_uring_sqe *sqe;
    struct ring_ended *slot;

    if (ring->free_count == 0)
        return false;
    sqe = io_uring_get_sqe(&ring->uring);
    if (sqe == NULL)
        return false;
    slot = &ring->slots[ring->free[--ring->free_count]];
    *slot = (struct ring_ended){.request = request, .layer = layer, .hold = hold};
    prepare(ring, sqe, fd, offset, request);
    io_uring_sqe_set_data(sqe, slot);
    if (++ring->prepared >= AT_ONCE)
        ring_start(ring);
    return true;
}

void ring_start(struct ring *ring)
{
    while (ring->prepared > 0) {
        /* Failing, the kernel is short of memory, or was interrupted: nobody else would try again. */
        if (io_uring_submit(&ring->uring) < 0)
            (void)poll(NULL, 0, RETRY_MS);
        ring->prepared = io_uring_sq_ready(&ring->uring);
    }
}

int ring_fd(const struct ring *ring)
{
    return ring->uring.ring_fd;
}

unsigned ring_count(const struct ring *ring)
{
    return ENTRIES - ring->free_count;
}

bool ring_take_back(struct ring *ring, struct ring_ended *ended)
{
    struct io_uring_cqe *cqe;
    struct ring_ended *slot;

    if (io_uring_peek_cqe(&ring->uring, &cqe) != 0)
        return false;
    slot = io_uring_cqe_get_data(cqe);
    *ended = *slot;
    ended->result = cqe->res;
    io_uring_cqe_seen(&ring->uring, cqe);
    ring->free[ring->free_count++] = (unsigned)(slot - ring->slots);
    return true;
}
