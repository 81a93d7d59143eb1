/*
 * Who does the work of a queue: its own thread what does not wait, and others what pays.
 */
#include "queue_helpers.h"

#include <sched.h>

enum { LARGE = 256 << 10, READS = 24, WRITES = 12, PATIENCE = 60 };

/* Data that is in memory: large reads are copies. */
struct copies {
    struct slow_file slow;
    pthread_t owner;
    bool owner_waits;      /* for somebody else, before it copies */
    unsigned own, foreign; /* large reads begun by the owner, by others */
    bool nobody_came;
};

static int copy_at_once(struct file *file, uint64_t offset, const struct iovec *iov, int count)
{
    return trace_ops.preadv(file, offset, iov, count);
}

static void count_copy(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    struct copies *copies = trace->opaque;
    struct slow_file *slow = &copies->slow;
    struct timespec until;

    (void)offset;
    if (kind != TRACE_READ || length != LARGE)
        return;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE;
    pthread_mutex_lock(&slow->lock);
    if (pthread_equal(pthread_self(), copies->owner)) {
        copies->own++;
        while (copies->owner_waits && copies->foreign == 0 && !copies->nobody_came)
            copies->nobody_came = pthread_cond_timedwait(&slow->changed, &slow->lock, &until) != 0;
    } else {
        copies->foreign++;
        pthread_cond_broadcast(&slow->changed);
    }
    pthread_mutex_unlock(&slow->lock);
}

static struct blk *open_copies(struct copies *copies, struct blk_queue **queue)
{
    struct blk *blk = open_slow(&copies->slow);

    copies->owner = pthread_self();
    copies->owner_waits = false;
    copies->own = copies->foreign = 0;
    copies->nobody_came = false;
    copies->slow.ops.try_preadv = copy_at_once;
    copies->slow.trace.opaque = copies;
    copies->slow.trace.before = count_copy;
    assert_bytes(blk, 2 << 20, 512, 3); /* tables are in memory */
    assert_int_equal(blk_queue_create(blk, queue, NULL), 0);
    return blk;
}

static bool has_other_processors(void)
{
    cpu_set_t usable;

    return sched_getaffinity(0, sizeof(usable), &usable) == 0 && CPU_COUNT(&usable) > 1;
}

static void read_large(struct blk_queue *queue, unsigned count)
{
    static struct asked asked[READS];
    static uint8_t memory[READS][LARGE];

    memset(memory, 0xff, sizeof(memory));
    for (unsigned i = 0; i < count; i++)
        ask_for(queue, &asked[i], BLK_READ, (2 << 20) + i * LARGE, memory[i], LARGE);
    complete_all(queue);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(asked[i].result, 0);
        assert_int_equal(memory[i][0], 3);
        assert_memory_equal(memory[i], memory[i] + 1, LARGE - 1);
    }
}

static void a_copy_alone_stays_here(void **state)
{
    struct blk_queue *queue;
    struct copies copies;
    struct blk *blk = open_copies(&copies, &queue);

    (void)state;
    for (unsigned i = 0; i < 8; i++)
        read_large(queue, 1);
    assert_int_equal(copies.foreign, 0);
    assert_int_equal(copies.own, 8);
    finish(&copies.slow, blk, queue);
}

static void copies_in_company_are_shared(void **state)
{
    struct blk_queue *queue;
    struct copies copies;
    struct blk *blk = open_copies(&copies, &queue);
    bool can_share = has_other_processors();

    (void)state;
    read_large(queue, 1); /* which shows that they are copies */
    copies.owner_waits = can_share;
    for (unsigned i = 0; i < 8; i++)
        read_large(queue, READS);
    assert_false(copies.nobody_came);
    assert_int_equal(copies.own + copies.foreign, 1 + 8 * READS);
    finish(&copies.slow, blk, queue);
    if (!can_share)
        skip();
}

/* Leaves others the time to begin what is not theirs. */
static int would_wait_after_a_while(struct file *file, uint64_t offset, const struct iovec *iov,
                                    int count)
{
    const struct timespec some = {.tv_nsec = 10 * 1000 * 1000};

    (void)nanosleep(&some, NULL);
    return would_wait(file, offset, iov, count);
}

/* Those that wait for a disk are no copies: they are tried here, one after the other. */
static void reads_that_wait_are_not_shared(void **state)
{
    struct blk_queue *queue;
    struct copies copies;
    struct blk *blk = open_copies(&copies, &queue);
    bool has_ring = strcmp(blk_queue_engine(queue), "io_uring") == 0;

    (void)state;
    read_large(queue, 1);
    copies.slow.ops.try_preadv = would_wait_after_a_while;
    copies.slow.plain_fd = copies.slow.trace.below->fd;
    read_large(queue, 1);
    read_large(queue, READS);
    assert_int_equal(copies.foreign, has_ring ? 0 : READS + 1);
    finish(&copies.slow, blk, queue);
    if (!has_ring)
        skip();
}

/* ---- several queues that write to one image ---- */

struct crowd {
    struct slow_file slow;
    pthread_t owners[2];
    pthread_barrier_t inside;
    atomic_uint by_workers;
};

struct member {
    struct crowd *crowd;
    struct blk_queue *queue;
    unsigned index, failures;
    pthread_t thread;
};

/* Both are inside at once, and it takes longer than memory would. */
static void meet_inside(struct trace *trace, enum trace_kind kind, uint64_t offset, uint64_t length)
{
    const struct timespec some = {.tv_nsec = 2 * 1000 * 1000};
    struct crowd *crowd = trace->opaque;

    (void)offset;
    if (kind != TRACE_WRITE || length != 512)
        return;
    if (!pthread_equal(pthread_self(), crowd->owners[0]) &&
        !pthread_equal(pthread_self(), crowd->owners[1]))
        atomic_fetch_add(&crowd->by_workers, 1);
    pthread_barrier_wait(&crowd->inside);
    (void)nanosleep(&some, NULL);
    pthread_barrier_wait(&crowd->inside);
}

static void *write_along(void *opaque)
{
    struct member *member = opaque;
    struct blk_queue *queue = member->queue;
    struct asked asked = {.result = 0};

    member->crowd->owners[member->index] = pthread_self();
    pthread_barrier_wait(&member->crowd->inside);
    for (unsigned i = 0; i < WRITES; i++) {
        ask(queue, &asked, BLK_WRITE, (2 << 20) + (uint64_t)member->index * 65536);
        complete_all(queue);
        member->failures += asked.result != 0;
    }
    return NULL;
}

static void writes_in_company_are_not_slow(void **state)
{
    struct crowd crowd = {.by_workers = 0};
    struct blk *blk = open_slow(&crowd.slow);
    struct member members[2];

    (void)state;
    pthread_barrier_init(&crowd.inside, NULL, 2);
    crowd.slow.trace.opaque = &crowd;
    crowd.slow.trace.before = meet_inside;
    for (unsigned i = 0; i < 2; i++) {
        members[i] = (struct member){.crowd = &crowd, .index = i};
        assert_int_equal(blk_queue_create(blk, &members[i].queue, NULL), 0);
        assert_int_equal(pthread_create(&members[i].thread, NULL, write_along, &members[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(members[i].thread, NULL);
        blk_queue_destroy(members[i].queue);
        assert_int_equal(members[i].failures, 0);
    }
    assert_int_equal(atomic_load(&crowd.by_workers), 0);
    pthread_barrier_destroy(&crowd.inside);
    crowd.slow.trace.before = NULL;
    assert_int_equal(blk_close(blk, NULL), 0);
    trace_free(&crowd.slow.trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_copy_alone_stays_here),
        cmocka_unit_test(copies_in_company_are_shared),
        cmocka_unit_test(reads_that_wait_are_not_shared),
        cmocka_unit_test(writes_in_company_are_not_slow),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
