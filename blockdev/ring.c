/*
 * ring.c - an io_uring for one queue's reads and writes.
 *
 * A slot for each entry of the submission queue says whose it is; a transfer is submitted only with a
 * free one, so neither queue overflows.
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

enum { ENTRIES = 128, AT_ONCE = 8, RETRY_MS = 1 };

struct ring {
    struct io_uring uring;
    struct ring_ended slots[ENTRIES];
    unsigned free[ENTRIES], free_count; /* indices of slots */
    unsigned prepared;                  /* and not submitted */
};

/* By system call: the shared library of liburing 2.3 does not export its functions for these two. */
static int register_with(struct io_uring *uring, unsigned what, void *arg, unsigned count)
{
    return syscall(SYS_io_uring_register, uring->ring_fd, what, arg, count) < 0 ? -errno : 0;
}

/* Nothing else from now on. */
static int restrict_to_transfers(struct io_uring *uring)
{
    struct io_uring_restriction only[] = {
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_READV},
        {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV},
    };
    int r = register_with(uring, IORING_REGISTER_RESTRICTIONS, only, ARRAY_LEN(only));

    return r != 0 ? r : register_with(uring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
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
    r = restrict_to_transfers(&ring->uring);
    if (r != 0) {
        ring_destroy(ring);
        return r;
    }
    for (unsigned i = 0; i < ENTRIES; i++)
        ring->free[i] = i;
    ring->free_count = ENTRIES;
    *out = ring;
    return 0;
}

void ring_destroy(struct ring *ring)
{
    if (ring == NULL)
        return;
    io_uring_queue_exit(&ring->uring);
    free(ring);
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
    if (request->op == BLK_WRITE)
        io_uring_prep_writev(sqe, fd, request->iov, (unsigned)request->iovcnt, offset);
    else
        io_uring_prep_readv(sqe, fd, request->iov, (unsigned)request->iovcnt, offset);
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
