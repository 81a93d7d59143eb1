/*
 * io_write.c - write, writev and aio_write.
 */
#include "checked.h"
#include "extent.h"
#include "io.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

enum { DEFAULT_PATTERN = 0xcd, SUBCLUSTERS = 32 };

struct write_args {
    struct io_job job;
    bool vm_state, compress, fua, no_fallback, unmap, zeroes, has_pattern, is_invalid;
    const char *file; /* that the data comes from, or NULL */
};

static int parse_options(const char *command, const char *letters, int argc, char **argv,
                         struct write_args *args)
{
    int c, rc = 0;

    args->job.pattern = DEFAULT_PATTERN;
    while ((c = getopt(argc, argv, letters)) != -1 && rc == 0) {
        switch (c) {
        case 'b':
            args->vm_state = true;
            break;
        case 'c':
            args->compress = true;
            break;
        case 'C':
            args->job.report.for_machines = true;
            break;
        case 'f':
            args->fua = true;
            break;
        case 'i':
            args->is_invalid = true;
            break;
        case 'n':
            args->no_fallback = true;
            break;
        case 'p': /* how writes once were told apart */
            break;
        case 'P':
            args->has_pattern = true;
            rc = io_parse_pattern(optarg, &args->job.pattern);
            break;
        case 'q':
            args->job.report.quiet = true;
            break;
        case 's':
            args->file = optarg;
            break;
        case 'u':
            args->unmap = true;
            break;
        case 'z':
            args->zeroes = true;
            break;
        default:
            return io_usage(command);
        }
    }
    return rc;
}

/* Which options go together; negative after a message. */
static int check_options(const struct write_args *args)
{
    const char *wrong = NULL;

    if (args->vm_state && args->zeroes)
        wrong = "-b and -z cannot be specified at the same time";
    else if (args->fua && (args->vm_state || args->compress))
        wrong = "-f and -b or -c cannot be specified at the same time";
    else if (args->no_fallback && !args->zeroes)
        wrong = "-n requires -z to be specified";
    else if (args->unmap && !args->zeroes)
        wrong = "-u requires -z to be specified";
    else if (args->zeroes + args->has_pattern + (args->file != NULL) > 1)
        wrong = "Only one of -z, -P, and -s can be specified at the same time";
    if (wrong == NULL)
        return 0;
    printf("%s\n", wrong);
    return -EINVAL;
}

/* Sets what kind of request it is. Zeros without a buffer. */
static void set_request(struct write_args *args)
{
    struct blk_request *request = &args->job.request;

    request->op = args->zeroes ? BLK_WRITE_ZEROES : BLK_WRITE;
    request->flags |= args->fua ? BLK_REQ_FUA : 0;
    request->flags |= args->unmap ? BLK_REQ_MAY_UNMAP : 0;
}

/* Whether zeros can be had there without a write of them: of whole clusters or subclusters (the device's
 * last one may be short), or where there are zeros already. */
static bool is_cheap_zero(struct io *io, uint64_t offset, uint64_t length)
{
    uint64_t size = blk_length(io->blk), unit, end;
    struct blk_extent extent = {.length = 0};
    struct blk_info info;

    if (blk_get_info(io->blk, &info, NULL) < 0 || info.cluster_size == 0 ||
        !range_within(offset, length, size))
        return true;
    unit = info.cluster_size / (info.extended_l2 ? SUBCLUSTERS : 1);
    end = offset + length;
    if (offset % unit == 0 && (end % unit == 0 || end == size))
        return true;
    end = min_u64(align_up(end, unit), size);
    for (offset = align_down(offset, unit); offset < end; offset += extent.length) {
        if (blk_map(io->blk, offset, end - offset, 0, &extent) < 0 || !extent_is_zero(&extent))
            return false;
    }
    return true;
}

/* Both leave out the queue: the engine has nothing but blocking calls for them. */
static int write_compressed(struct io *io, struct io_job *job)
{
    const struct io_buffer *buffer = job->buffer;
    int rc;

    clock_gettime(CLOCK_MONOTONIC, &job->begun);
    if (job->request.offset > blk_length(io->blk) ||
        buffer->length > blk_length(io->blk) - job->request.offset)
        return -EIO;
    rc = blk_pwrite_compressed(io->blk, job->request.offset, buffer->data, buffer->length);
    return rc == 0 && io->settings.writethrough ? blk_flush(io->blk) : rc;
}

static int write_vm_state(struct io *io, struct io_job *job)
{
    const struct io_buffer *buffer = job->buffer;
    int rc;

    io_drain(io); /* the engine wants to be alone */
    clock_gettime(CLOCK_MONOTONIC, &job->begun);
    rc = blk_vm_state_pwrite(io->blk, job->request.offset, buffer->data, buffer->length);
    return rc == 0 && io->settings.writethrough ? blk_flush(io->blk) : rc;
}

int io_write_command(struct io *io, int argc, char **argv)
{
    struct write_args args = {.job = {.failed = "write failed", .verb = "wrote"}};
    struct io_job *job = &args.job;
    int rc = parse_options(argv[0], "bcCfnpP:qs:uz", argc, argv, &args);
    uint64_t length;

    if (rc < 0)
        return rc;
    if (optind != argc - 2)
        return io_usage(argv[0]);
    rc = check_options(&args);
    if (rc == 0) {
        rc = io_parse_range(argv + optind, args.no_fallback ? 0 : IO_MAX_BYTES, " without -n",
                            &job->request.offset, &length);
    }
    if (rc == 0 && (args.vm_state || args.compress))
        rc = io_check_sectors(job->request.offset, length);
    if (rc < 0)
        return rc;
    set_request(&args);
    job->request.length = length;
    if (!args.zeroes) {
        job->buffer = io_buffer_new(io, length, job->pattern);
        if (job->buffer == NULL)
            return -ENOMEM;
        rc = args.file != NULL ? io_buffer_fill_from(job->buffer, args.file) : 0;
    }
    if (rc == 0 && args.vm_state)
        rc = io_finish(job, write_vm_state(io, job));
    else if (rc == 0 && args.compress && !args.zeroes)
        rc = io_finish(job, write_compressed(io, job));
    else if (rc == 0 && args.no_fallback && !is_cheap_zero(io, job->request.offset, length))
        rc = io_finish(job, -ENOTSUP);
    else if (rc == 0)
        rc = io_finish(job, io_run(io, job));
    io_buffer_free(job->buffer);
    return rc;
}

int io_writev_command(struct io *io, int argc, char **argv)
{
    struct write_args args = {.job = {.failed = "writev failed", .verb = "wrote"}};
    struct io_job *job = &args.job;
    int rc = parse_options(argv[0], "CfP:q", argc, argv, &args);
    int64_t offset;

    if (rc < 0)
        return rc;
    if (optind > argc - 2)
        return io_usage(argv[0]);
    rc = io_parse_number(argv[optind], &offset);
    if (rc < 0)
        return rc;
    set_request(&args);
    job->request.offset = (uint64_t)offset;
    job->buffer = io_buffer_new_vector(io, argv + optind + 1, argc - optind - 1, job->pattern);
    if (job->buffer == NULL)
        return -EINVAL;
    rc = io_finish(job, io_run(io, job));
    io_buffer_free(job->buffer);
    return rc;
}

/* Reads "OFFSET LENGTH..."; zeros have one length and no buffer. */
static int prepare_aio_write(struct io *io, int argc, char **argv, struct write_args *args)
{
    struct io_job *job = &args->job;
    int64_t number;
    int rc;

    if (optind > argc - 2)
        return io_usage(argv[0]);
    if (args->zeroes && optind != argc - 2) {
        printf("-z supports only a single length parameter\n");
        return -EINVAL;
    }
    if (args->unmap && !args->zeroes) {
        printf("-u requires -z to be specified\n");
        return -EINVAL;
    }
    rc = io_parse_number(argv[optind], &number);
    if (rc < 0)
        return rc;
    job->request.offset = (uint64_t)number;
    if (args->zeroes) {
        rc = io_parse_number(argv[optind + 1], &number);
        job->request.length = (uint64_t)number;
        return rc;
    }
    job->buffer = io_buffer_new_vector(io, argv + optind + 1, argc - optind - 1, job->pattern);
    return job->buffer != NULL ? 0 : -EINVAL;
}

int io_aio_write_command(struct io *io, int argc, char **argv)
{
    struct write_args args = {.job = {.failed = "aio_write failed", .verb = "wrote"}};
    int rc = parse_options(argv[0], "CfiP:quz", argc, argv, &args);

    if (rc < 0)
        return rc;
    rc = prepare_aio_write(io, argc, argv, &args);
    set_request(&args);
    if (rc == 0 && args.is_invalid) {
        printf("injecting invalid write request\n");
    } else if (rc == 0) {
        rc = io_start(io, &args.job);
        if (rc == 0)
            return 0;
    }
    io_buffer_free(args.job.buffer);
    return rc;
}
