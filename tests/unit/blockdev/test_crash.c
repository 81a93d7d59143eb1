/*
 * A crash at any point loses nothing that was flushed and corrupts nothing.
 *
 * A seeded workload runs over a layer that records every change to the file. Then many crashes are
 * played: up to the last sync everything is there; of what came after it, up to the crash, each sector
 * is there or not, at random. The check must find no corruption (leaks are allowed), and every
 * sector must hold what the last completed flush promised or something written later.
 */
#include "trace.h"

enum { SECTOR = 512, UNIT = 2048, MAX_VALUES = 64 };

static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* What the guest did, in terms of the recorded events: at event number `from` the change began. */
struct step {
    size_t from;
    bool is_flush;
    size_t until; /* flush: the event number when it had completed */
    uint64_t unit, units;
    uint8_t value;
    bool is_discard; /* the old value is fine too */
};

struct story {
    struct trace trace;
    struct step *steps;
    size_t count;
    uint64_t size;
};

static void tell(struct story *story, const char *path, unsigned steps, uint64_t cache)
{
    struct blk *blk = trace_open(&story->trace, path, cache);
    uint64_t units;

    story->trace.records = true;
    story->size = blk_length(blk);
    story->steps = calloc(steps, sizeof(story->steps[0]));
    units = story->size / UNIT;
    for (story->count = 0; story->count < steps; story->count++) {
        struct step *step = &story->steps[story->count];
        uint8_t buffer[8 * UNIT];

        step->from = story->trace.count;
        step->unit = rng() % units;
        step->units = min_u64(1 + rng() % 8, units - step->unit);
        step->value = (uint8_t)(1 + rng() % 250);
        memset(buffer, step->value, sizeof(buffer));
        switch (rng() % 8) {
        case 0:
            step->is_flush = true;
            assert_int_equal(blk_flush(blk), 0);
            break;
        case 1:
        case 2:
            step->value = 0;
            assert_int_equal(blk_pwrite_zeroes(blk, step->unit * UNIT, step->units * UNIT,
                                               rng() % 2 ? BLK_REQ_MAY_UNMAP : 0),
                             0);
            break;
        case 3:
            step->value = 0;
            step->is_discard = true;
            assert_int_equal(blk_pdiscard(blk, step->unit * UNIT, step->units * UNIT), 0);
            break;
        default:
            assert_int_equal(blk_pwrite(blk, step->unit * UNIT, buffer, step->units * UNIT), 0);
            break;
        }
        step->until = story->trace.count;
    }
    close_image(blk);
}

enum { MAX_FILE = 20 << 20 };

/* The file as it was in the beginning, and as a crash leaves it. */
static uint8_t start_file[MAX_FILE], crashed_file[MAX_FILE];
static size_t start_length;

static void apply_some(const struct trace_event *event, bool all)
{
    assert_true(range_within(event->offset, event->length, MAX_FILE));
    for (uint64_t at = 0; at < event->length; at += SECTOR) {
        uint64_t n = min_u64(SECTOR, event->length - at);

        if (!all && rng() % 2 == 0) {
            continue;
        }
        if (event->data != NULL) {
            memcpy(crashed_file + event->offset + at, event->data + at, n);
        } else {
            memset(crashed_file + event->offset + at, 0, n);
        }
    }
}

/* Makes crash.qcow2 as a crash right before event `end` may leave it. */
static void play(const struct story *story, size_t end)
{
    size_t synced = 0, length = start_length;
    FILE *f;

    memcpy(crashed_file, start_file, start_length);
    memset(crashed_file + start_length, 0, MAX_FILE - start_length);
    for (size_t i = 0; i < end; i++) {
        synced = story->trace.events[i].kind == TRACE_SYNC ? i : synced;
    }
    for (size_t i = 0; i < end; i++) {
        const struct trace_event *event = &story->trace.events[i];

        if (event->kind == TRACE_TRUNCATE) {
            assert_true(event->offset <= MAX_FILE);
            length = event->offset;
            memset(crashed_file + length, 0, MAX_FILE - length);
        } else if (event->kind != TRACE_SYNC) {
            apply_some(event, i < synced);
        }
    }
    f = fopen("crash.qcow2", "w");
    assert_non_null(f);
    assert_int_equal(fwrite(crashed_file, 1, length, f), length);
    assert_int_equal(fclose(f), 0);
}

static void load_start(const char *path)
{
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    start_length = fread(start_file, 1, MAX_FILE, f);
    assert_true(start_length < MAX_FILE);
    fclose(f);
}

static char findings[4096];

static void keep_finding(void *opaque, const char *line)
{
    (void)opaque;
    if (strlen(findings) + strlen(line) + 2 < sizeof(findings)) {
        strcat(strcat(findings, line), "\n");
    }
}

/* Which values a unit may hold after a crash before event `end`. */
static unsigned allowed(const struct story *story, const uint8_t *start, uint64_t unit, size_t end,
                        uint8_t values[MAX_VALUES])
{
    unsigned count = 1;
    size_t first = 0;

    values[0] = start[unit];
    for (size_t i = 0; i < story->count && story->steps[i].until <= end; i++) {
        first = story->steps[i].is_flush ? i + 1 : first;
    }
    for (size_t i = 0; i < story->count && story->steps[i].from <= end; i++) {
        const struct step *step = &story->steps[i];

        if (step->is_flush || unit < step->unit || unit >= step->unit + step->units) {
            continue;
        }
        if (i < first && !step->is_discard) {
            count = 0;
        }
        assert_true(count < MAX_VALUES);
        values[count++] = step->value;
    }
    return count;
}

static void verify(const struct story *story, const uint8_t *start, size_t end)
{
    const struct blk_open_options options = {.path = "crash.qcow2", .format = "qcow2"};
    struct blk_check_result result;
    struct blk *blk = open_with(&options);
    struct err err = {""};
    uint8_t buffer[UNIT];

    findings[0] = '\0';
    assert_int_equal(blk_check(blk, 0, keep_finding, NULL, &result, &err), 0);
    if (result.corruptions != 0 || result.check_errors != 0) {
        fail_msg("after a crash before event %zu:\n%s", end, findings);
    }
    for (uint64_t unit = 0; unit < story->size / UNIT; unit++) {
        uint8_t values[MAX_VALUES];
        unsigned count = allowed(story, start, unit, end, values);

        assert_int_equal(blk_pread(blk, unit * UNIT, buffer, UNIT), 0);
        for (unsigned i = 0; i < UNIT; i++) {
            if (memchr(values, buffer[i], count) == NULL) {
                fail_msg("after a crash before event %zu unit %ju holds %#x, not %#x or later", end,
                         (uintmax_t)unit, buffer[i], values[0]);
            }
        }
    }
    close_image(blk);
}

static void crash_at(const struct story *story, const uint8_t *start, size_t end)
{
    play(story, end);
    verify(story, start, end);
}

static void crash_test(const char *create, unsigned steps, unsigned repeats, uint64_t cache)
{
    struct story story = {0};
    uint8_t *start;
    struct blk *blk;

    shell("rm -f top.qcow2 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P 251 0 512k' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 %s", create);
    load_start("top.qcow2");
    blk = open_image("top.qcow2", false);
    start = malloc(blk_length(blk) / UNIT);
    for (uint64_t u = 0; u < blk_length(blk) / UNIT; u++) {
        assert_int_equal(blk_pread(blk, u * UNIT, start + u, 1), 0);
    }
    close_image(blk);
    tell(&story, "top.qcow2", steps, cache);
    for (unsigned i = 0; i < 15; i++) {
        crash_at(&story, start, rng() % (story.trace.count + 1));
    }
    /* Right before a sync most is open. */
    for (size_t end = 0; end < story.trace.count; end++) {
        for (unsigned i = 0; i < repeats && story.trace.events[end].kind == TRACE_SYNC; i++) {
            crash_at(&story, start, end);
        }
    }
    crash_at(&story, start, story.trace.count);
    trace_free(&story.trace);
    free(story.steps);
    free(start);
}

static void crashes_lose_nothing_flushed_and_corrupt_nothing(void **state)
{
    static const char *const images[] = {
        "-o cluster_size=512 -b base.raw -F raw top.qcow2",
        "-o cluster_size=4k -b base.raw -F raw top.qcow2",
        "-o cluster_size=4k,compat=0.10 top.qcow2 1M",
        "-o cluster_size=64k -b base.raw -F raw top.qcow2",
    };
    uint64_t seed = UINT64_C(0xc0ffee) + (uint64_t)getpid();

    (void)state;
    print_message("seed %ju\n", (uintmax_t)seed);
    rng_state = seed;
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        crash_test(images[i], 60, i == 0 ? 6 : 1, 0);
        crash_test(images[i], 60, i == 0 ? 6 : 1, 1);
    }
}

/* ---- operations that need the image to themselves ---- */

struct maintenance {
    const char *create;
    uint8_t below; /* what the backing file holds */
    void (*prepare)(struct blk *blk);
    void (*run)(struct blk *blk);
};

static void write_some(struct blk *blk)
{
    for (uint64_t at = 0; at + 3000 < blk_length(blk); at += 50000) {
        write_bytes(blk, at, 3000, 7);
    }
}

static void write_all(struct blk *blk)
{
    write_bytes(blk, 0, blk_length(blk), 7);
    assert_int_equal(blk_flush(blk), 0);
}

static void grow_a_lot(struct blk *blk)
{
    assert_int_equal(blk_resize(blk, blk_length(blk) * 40, NULL), 0);
}

static void empty(struct blk *blk)
{
    assert_int_equal(blk_make_empty(blk, NULL), 0);
}

/* Every byte below `size` is 7 or what the backing file holds; what was gained is zero. */
static void verify_maintenance(const struct maintenance *m, uint64_t size)
{
    const struct blk_open_options options = {.path = "crash.qcow2", .format = "qcow2"};
    struct blk_check_result result;
    struct blk *blk = open_with(&options);
    struct err err = {""};
    uint8_t *buffer = malloc(blk_length(blk));

    findings[0] = '\0';
    assert_int_equal(blk_check(blk, 0, keep_finding, NULL, &result, &err), 0);
    if (result.corruptions != 0 || result.check_errors != 0) {
        fail_msg("%s", findings);
    }
    assert_int_equal(blk_pread(blk, 0, buffer, blk_length(blk)), 0);
    for (uint64_t i = 0; i < blk_length(blk); i++) {
        if (i >= size ? buffer[i] != 0 : buffer[i] != 7 && buffer[i] != m->below) {
            fail_msg("byte %#jx is %#x", (uintmax_t)i, buffer[i]);
        }
    }
    free(buffer);
    close_image(blk);
}

static void crash_in_maintenance(const struct maintenance *m)
{
    struct story story = {0};
    struct blk *blk;

    shell("rm -f top.qcow2 base.raw; truncate -s 1M base.raw");
    shell("qemu-io -f raw -c 'write -P 9 0 1M' base.raw > /dev/null");
    shell("qemu-img create -q -f qcow2 %s", m->create);
    blk = open_image("top.qcow2", true);
    story.size = blk_length(blk);
    m->prepare(blk);
    close_image(blk);
    load_start("top.qcow2");
    blk = trace_open(&story.trace, "top.qcow2", 0);
    story.trace.records = true;
    m->run(blk);
    close_image(blk);
    for (size_t end = 0; end <= story.trace.count; end++) {
        bool is_last = end == story.trace.count;

        for (unsigned i = 0; i < 3; i++) {
            if (is_last || story.trace.events[end].kind == TRACE_SYNC || rng() % 64 == 0) {
                play(&story, end);
                verify_maintenance(m, story.size);
            }
        }
    }
    trace_free(&story.trace);
}

static void nothing(struct blk *blk)
{
    (void)blk;
}

static void crashes_in_maintenance_corrupt_nothing(void **state)
{
    static const struct maintenance list[] = {
        /* Grows the refcount table. */
        {"-o cluster_size=512 top.qcow2 9M", 0, nothing, write_all},
        /* Grows the L1 table; a larger backing file must not show. */
        {"-o cluster_size=512 -b base.raw -F raw top.qcow2 100001", 9, write_some, grow_a_lot},
        {"-o cluster_size=4k,compat=0.10 -b base.raw -F raw top.qcow2 100001", 9, write_some,
         grow_a_lot},
        {"-o cluster_size=512 -b base.raw -F raw top.qcow2", 9, write_some, empty},
        {"-o cluster_size=4k -b base.raw -F raw top.qcow2", 9, write_some, empty},
    };

    (void)state;
    rng_state = UINT64_C(0xdecade);
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        crash_in_maintenance(&list[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crashes_lose_nothing_flushed_and_corrupt_nothing),
        cmocka_unit_test(crashes_in_maintenance_corrupt_nothing),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
