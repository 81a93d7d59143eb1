/*
 * Parts of files: what is done to one is done there, and nowhere else, whatever it is.
 */
#include "fixture.h"

#include "file_part.h"

#include <poll.h>

enum { SECTOR = 512, FILE_BYTES = 64 << 10, MAX_BYTES = 3 * FILE_BYTES, OPERATIONS = 4000 };

/* A file of known bytes, and what it must hold. */
static uint8_t model[MAX_BYTES];
static size_t model_size;

static void make_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    for (size_t i = 0; i < sizeof(model); i++)
        model[i] = (uint8_t)(i < size ? rand() % 255 + 1 : 0);
    model_size = size;
    assert_int_equal(fwrite(model, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static void assert_file_is_model(const char *path)
{
    static uint8_t bytes[MAX_BYTES + 1];
    FILE *f = fopen(path, "r");

    assert_non_null(f);
    assert_int_equal(fread(bytes, 1, sizeof(bytes), f), model_size);
    assert_int_equal(fclose(f), 0);
    assert_memory_equal(bytes, model, model_size);
}

static struct file *open_part(const char *path, bool direct, const struct blk_part *parts,
                              unsigned count)
{
    const struct file_open_options options = {.writable = true, .direct = direct};
    struct file *file;
    struct err err = {""};

    assert_int_equal(file_open_posix(path, &options, &file, &err), 0);
    if (file_part_wrap_all(&file, parts, count, &err) != 0)
        fail_msg("%s", err.text);
    return file;
}

/* A vector of several pieces over `buffer`. */
static int cut(struct iovec *iov, uint8_t *buffer, size_t length)
{
    int count = 0;

    while (length > 0) {
        size_t n = count == 7 ? length : min_u64(length, (uint64_t)rand() % 5000 + 1);

        iov[count++] = (struct iovec){.iov_base = buffer, .iov_len = n};
        buffer += n;
        length -= n;
    }
    return count;
}

/* A part of the file, and where it is: fixed at [start, start + length), or from `start` to the end. */
struct part {
    struct file *file;
    size_t start, length;
    bool is_fixed;
};

static size_t room_of(const struct part *part)
{
    return part->is_fixed ? part->length : align_up(model_size, SECTOR) - part->start;
}

/* How much of a range lies in the part. */
static size_t inside(const struct part *part, size_t at, size_t length)
{
    size_t end = part->is_fixed ? part->length : MAX_BYTES - part->start;

    return at < end ? min_u64(length, end - at) : 0;
}

static void do_read(const struct part *part, size_t at, size_t length)
{
    static uint8_t buffer[MAX_BYTES];
    struct iovec iov[8];
    size_t in = inside(part, at, length);

    memset(buffer, 0xee, length);
    assert_int_equal(file_preadv(part->file, at, iov, cut(iov, buffer, length)), 0);
    assert_memory_equal(buffer, model + part->start + at, in);
    for (size_t i = in; i < length; i++)
        assert_int_equal(buffer[i], 0);
}

static void do_write(const struct part *part, size_t at, size_t length)
{
    static uint8_t buffer[MAX_BYTES];
    struct iovec iov[8];
    bool fits = inside(part, at, length) == length;

    memset(buffer, rand() % 255 + 1, length);
    assert_int_equal(file_pwritev(part->file, at, iov, cut(iov, buffer, length)),
                     fits ? 0 : -ENOSPC);
    if (fits && length > 0) {
        memcpy(model + part->start + at, buffer, length);
        model_size = max_u64(model_size, part->start + at + length);
    }
}

static void do_zero(const struct part *part, size_t at, size_t length)
{
    int r = part->file->ops->zero(part->file, at, length, rand() % 2);
    size_t from = part->start + at, n = inside(part, at, length);

    assert_true(r == 0 || r == -ENOTSUP);
    if (r == 0)
        memset(model + from, 0, n);
}

static void do_truncate(const struct part *part, size_t bytes)
{
    int r = part->file->ops->truncate(part->file, bytes);
    size_t end = part->start + bytes;

    if (part->is_fixed) {
        assert_int_equal(r, bytes == part->length ? 0 : bytes > part->length ? -ENOSPC : -ENOTSUP);
        return;
    }
    assert_int_equal(r, 0);
    if (end < model_size)
        memset(model + end, 0, model_size - end);
    model_size = end;
}

static void do_allocate(const struct part *part, size_t at, size_t length)
{
    bool fits = inside(part, at, length) == length;
    int r = part->file->ops->allocate(part->file, at, length);

    assert_true(fits ? r == 0 || r == -ENOTSUP : r == -ENOSPC);
    if (r == 0 && length > 0)
        model_size = max_u64(model_size, part->start + at + length);
}

static void do_look(const struct part *part, size_t at)
{
    bool is_data = true;
    uint64_t size = 0, end = 0;

    assert_int_equal(part->file->ops->size(part->file, &size), 0);
    assert_int_equal(size, room_of(part));
    assert_int_equal(part->file->ops->extent(part->file, at, &is_data, &end), 0);
    assert_true(end >= at && end <= max_u64(at, size));
    if (!is_data)
        for (size_t i = at; i < end; i++)
            assert_int_equal(model[part->start + i], 0);
}

static void do_anything(const struct part *part, const char *path)
{
    for (unsigned i = 0; i < OPERATIONS; i++) {
        size_t at = (size_t)rand() % (room_of(part) + 2000), length = (size_t)rand() % 20000;

        if (!part->is_fixed)
            length = inside(part, at, length);
        switch (rand() % 6) {
        case 0:
            do_read(part, at, length);
            break;
        case 1:
            do_write(part, at, length);
            break;
        case 2:
            do_zero(part, at, length);
            break;
        case 3:
            do_truncate(part, rand() % 4 == 0 ? room_of(part) : at);
            break;
        case 4:
            do_allocate(part, at, length);
            break;
        default:
            do_look(part, at);
            break;
        }
        if (i % 100 == 0)
            assert_file_is_model(path);
    }
    assert_file_is_model(path);
    assert_int_equal(part->file->ops->sync(part->file), 0);
    file_close(part->file);
}

static void a_fixed_part(void **state)
{
    const struct blk_part parts[] = {{.offset = 1000, .has_size = true, .size = 40 * SECTOR}};

    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        make_file("f", FILE_BYTES);
        do_anything(&(struct part){open_part("f", direct, parts, 1), 1000, 40 * SECTOR, true}, "f");
    }
}

static void a_fixed_part_at_the_end(void **state)
{
    const struct blk_part parts[] = {{.offset = 1024, .has_size = true, .size = 40 * SECTOR}};

    (void)state;
    make_file("e", 1024 + 40 * SECTOR - 300); /* its last sector is not whole */
    do_anything(&(struct part){open_part("e", false, parts, 1), 1024, 40 * SECTOR, true}, "e");
}

static void a_part_to_the_end(void **state)
{
    const struct blk_part parts[] = {{.offset = 1001}};

    (void)state;
    for (int direct = 0; direct < 2; direct++) {
        make_file("g", FILE_BYTES);
        do_anything(&(struct part){open_part("g", direct, parts, 1), 1001, 0, false}, "g");
    }
}

static void parts_of_parts(void **state)
{
    const struct blk_part parts[] = {
        {.offset = 700}, {.offset = 300, .has_size = true, .size = 50 * SECTOR}, {.offset = 24}};
    const struct blk_part open[] = {{.offset = 512}, {.offset = 0}, {.offset = 489}};

    (void)state;
    make_file("p", FILE_BYTES);
    do_anything(&(struct part){open_part("p", false, parts, 3), 1024, 50 * SECTOR - 24, true}, "p");
    make_file("p", FILE_BYTES);
    do_anything(&(struct part){open_part("p", false, open, 3), 1001, 0, false}, "p");
}

static void numbers_do_not_wrap(void **state)
{
    static const uint64_t far[] = {UINT64_MAX,          UINT64_MAX - 999, UINT64_MAX - 1000,
                                   (uint64_t)INT64_MAX, INT64_MAX - 1000, INT64_MAX - 999};
    const struct blk_part fixed = {.offset = 1000, .has_size = true, .size = SECTOR};
    const struct blk_part open = {.offset = 1000};
    uint8_t bytes[16] = {1};

    (void)state;
    make_file("w", FILE_BYTES);
    for (size_t i = 0; i < ARRAY_LEN(far); i++) {
        struct file *file = open_part("w", false, &fixed, 1);
        bool is_data;
        uint64_t end;

        assert_int_equal(file_pread(file, far[i], bytes, sizeof(bytes)), 0);
        assert_int_equal(file_pwrite(file, far[i], bytes, sizeof(bytes)), -ENOSPC);
        assert_int_equal(file->ops->zero(file, far[i], UINT64_MAX, true), 0);
        assert_int_equal(file->ops->zero(file, SECTOR, far[i], true), 0);
        assert_int_equal(file->ops->allocate(file, 0, far[i]), -ENOSPC);
        assert_int_equal(file->ops->truncate(file, far[i]), -ENOSPC);
        assert_int_equal(file->ops->extent(file, far[i], &is_data, &end), 0);
        assert_int_equal(
            file->ops->plain_fd(file, far[i], &(struct iovec){.iov_base = bytes, .iov_len = 16}, 1),
            -1);
        file_close(file);
        file = open_part("w", false, &open, 1);
        assert_int_equal(file_pread(file, far[i], bytes, sizeof(bytes)), -EINVAL);
        assert_int_equal(file_pwrite(file, far[i], bytes, sizeof(bytes)), -EFBIG);
        assert_int_equal(file->ops->zero(file, far[i], UINT64_MAX, true), -EFBIG);
        assert_int_equal(file->ops->allocate(file, 1, far[i]), -EFBIG);
        assert_int_equal(file->ops->truncate(file, far[i] + (far[i] < UINT64_MAX)), -EFBIG);
        file_close(file);
    }
    assert_file_is_model("w");
}

static void what_is_no_part_is_refused(void **state)
{
    static const struct {
        struct blk_part part;
        const char *words;
    } cases[] = {
        {{.offset = 1025}, "Offset (1025) cannot be greater"},
        {{.offset = UINT64_MAX}, "Offset (18446744073709551615) cannot"},
        {{.offset = 512, .has_size = true, .size = 1024},
         "The sum of offset (512) and size (1024)"},
        {{.offset = 512, .has_size = true, .size = UINT64_MAX - 511}, "The sum of offset (512)"},
        {{.offset = 0, .has_size = true, .size = UINT64_C(1) << 63}, "The sum of offset (0)"},
        {{.offset = 0, .has_size = true, .size = 511}, "not multiple of 512"},
    };
    const struct blk_part last = {.offset = 512, .has_size = true, .size = 512};

    (void)state;
    make_file("r", 1000);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct blk_open_options options = {.path = "r", .format = "raw"};
        struct err err;

        options.place = (struct blk_place){.parts = &cases[i].part, .part_count = 1};
        err = refuse_with(&options, -EINVAL);
        assert_says(&err, cases[i].words);
        options.place = (struct blk_place){.raw_part = &cases[i].part};
        err = refuse_with(&options, -EINVAL);
        assert_says(&err, cases[i].words);
    }
    file_close(open_part("r", false, &last, 1));
}

/* ---- images in parts ---- */

static void run_request(struct blk_queue *queue, struct blk_request *request)
{
    blk_submit(queue, request);
    while (blk_queue_in_flight(queue) > 0) {
        if (blk_queue_complete(queue) == 0) {
            struct pollfd poller = {.fd = blk_queue_fd(queue), .events = POLLIN};

            assert_true(poll(&poller, 1, 10000) >= 0);
        }
    }
}

static void note_result(struct blk_request *request, int result)
{
    *(int *)request->opaque = result;
}

/* What the kernel reads and writes by itself (O_DIRECT has nothing in memory) is in the part too. */
static void queues_reach_their_part(void **state)
{
    const struct blk_part part = {.offset = 4096, .has_size = true, .size = 32 << 10};
    struct blk_open_options options = {.path = "q",
                                       .format = "raw",
                                       .writable = true,
                                       .cache = BLK_CACHE_DIRECT,
                                       .place = {.parts = &part, .part_count = 1}};
    uint8_t *buffer = aligned_alloc(4096, 4096);
    struct blk_queue *queue;
    struct err err;
    struct blk *blk;

    (void)state;
    make_file("q", FILE_BYTES);
    blk = open_with(&options);
    assert_int_equal(blk_queue_create(blk, &queue, &err), 0);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t at = (uint64_t)rand() % 8 * 4096;
        struct iovec iov = {.iov_base = buffer, .iov_len = 4096};
        int result = 1;
        struct blk_request request = {.op = rand() % 2 ? BLK_READ : BLK_WRITE,
                                      .offset = at,
                                      .length = 4096,
                                      .iov = &iov,
                                      .iovcnt = 1,
                                      .done = note_result,
                                      .opaque = &result};

        memset(buffer, (int)i + 1, 4096);
        if (request.op == BLK_WRITE)
            memcpy(model + 4096 + at, buffer, 4096);
        run_request(queue, &request);
        assert_int_equal(result, 0);
        assert_memory_equal(buffer, model + 4096 + at, 4096);
    }
    blk_queue_destroy(queue);
    close_image(blk);
    assert_file_is_model("q");
    free(buffer);
}

/* The kernel's copies are between the parts. */
static void copies_reach_their_part(void **state)
{
    const struct blk_part from_part = {.offset = 1536, .has_size = true, .size = 8192};
    const struct blk_part to_part = {.offset = 512, .has_size = true, .size = 8192};
    struct blk *from, *to;
    uint8_t bytes[8192];
    int r;

    (void)state;
    make_file("from", FILE_BYTES);
    from = open_with(&(struct blk_open_options){
        .path = "from", .format = "raw", .place = {.raw_part = &from_part}});
    assert_int_equal(blk_pread(from, 0, bytes, sizeof(bytes)), 0);
    assert_memory_equal(bytes, model + 1536, sizeof(bytes));
    make_file("to", FILE_BYTES);
    to = open_with(&(struct blk_open_options){.path = "to",
                                              .format = "raw",
                                              .writable = true,
                                              .place = {.parts = &to_part, .part_count = 1}});
    assert_int_equal(blk_copy_range(from, 0, to, 4096, 8192), -EINVAL);
    r = blk_copy_range(from, 1024, to, 2048, 4096);
    assert_true(r == 0 || r == -ENOTSUP);
    if (r == 0)
        memcpy(model + 512 + 2048, bytes + 1024, 4096);
    close_image(to);
    close_image(from);
    assert_file_is_model("to");
}

/* Probing looks into the part, but for what a raw image is said to be of it. */
static void probing_goes_by_the_part(void **state)
{
    const struct blk_part part = {.offset = 1000};
    struct blk *blk;

    (void)state;
    shell("qemu-img create -q -f qcow2 in.qcow2 1M");
    shell("(head -c 1000 /dev/zero; cat in.qcow2) > in.tar");
    blk = open_with(
        &(struct blk_open_options){.path = "in.tar", .place = {.parts = &part, .part_count = 1}});
    assert_string_equal(blk_format(blk), "qcow2");
    close_image(blk);
    blk = open_with(&(struct blk_open_options){.path = "in.tar", .place = {.raw_part = &part}});
    assert_string_equal(blk_format(blk), "raw");
    close_image(blk);
}

/* The look at the first sector of what was guessed to be raw, and the write behind it. */
static void a_guessed_raw_part_stays_raw(void **state)
{
    const struct blk_part part = {.offset = 5000};
    struct blk *blk;

    (void)state;
    make_file("guess", FILE_BYTES);
    for (int own = 0; own < 2; own++) {
        struct blk_open_options options = {.path = "guess", .writable = true};

        if (own)
            options.place.raw_part = &part;
        else
            options.place = (struct blk_place){.parts = &part, .part_count = 1};
        blk = open_with(&options);
        assert_int_equal(blk_pwrite(blk, 0, "QFI\xfb", 4), -EPERM);
        assert_int_equal(blk_pwrite(blk, 1, "raw", 3), 0);
        memcpy(model + 5001, "raw", 3);
        close_image(blk);
        assert_file_is_model("guess");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fixed_part),
        cmocka_unit_test(a_fixed_part_at_the_end),
        cmocka_unit_test(a_part_to_the_end),
        cmocka_unit_test(parts_of_parts),
        cmocka_unit_test(numbers_do_not_wrap),
        cmocka_unit_test(what_is_no_part_is_refused),
        cmocka_unit_test(queues_reach_their_part),
        cmocka_unit_test(copies_reach_their_part),
        cmocka_unit_test(probing_goes_by_the_part),
        cmocka_unit_test(a_guessed_raw_part_stays_raw),
    };

    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
