/*
 * io_read.c - read, readv and aio_read.
 */
#include "io.h"

#include <errno.h>
#include <stdlib.h>

struct read_args {
    struct io_job job;
    bool vm_state, is_invalid, has_from, has_length;
    int64_t from, length; /* of the verification */
};

/* The options in `letters`; those of one command may not be those of another. */
static int parse_options(const char *command, const char *letters, int argc, char **argv,
                         struct read_args *args)
{
    int c, rc = 0;

    while ((c = getopt(argc, argv, letters)) != -1 && rc == 0) {
        switch (c) {
        case 'b':
            args->vm_state = true;
            break;
        case 'C':
            args->job.report.for_machines = true;
            break;
        case 'i':
            args->is_invalid = true;
            break;
        case 'l':
            args->has_length = true;
            rc = io_parse_number(optarg, &args->length);
            break;
        case 'p': /* how reads once were told apart */
            break;
        case 'P':
            args->job.verify = true;
            rc = io_parse_pattern(optarg, &args->job.pattern);
            break;
        case 'q':
            args->job.report.quiet = true;
            break;
        case 's':
            args->has_from = true;
            rc = io_parse_number(optarg, &args->from);
            break;
        case 'v':
            args->job.dump = true;
            break;
        default:
            return io_usage(command);
        }
    }
    return rc;
}

static int read_vm_state(struct io *io, struct io_job *job)
{
    io_drain(io); /* the engine wants to be alone */
    clock_gettime(CLOCK_MONOTONIC, &job->begun);
    return blk_vm_state_pread(io->blk, job->request.offset, job->buffer->data, job->buffer->length);
}

int io_read_command(struct io *io, int argc, char **argv)
{
    struct read_args args = {
        .job = {.request.op = BLK_READ, .failed = "read failed", .verb = "read"}};
    struct io_job *job = &args.job;
    uint64_t length;
    int rc = parse_options(argv[0], "bCl:pP:qs:v", argc, argv, &args);

    if (rc < 0)
        return rc;
    if (optind != argc - 2)
        return io_usage(argv[0]);
    rc = io_parse_range(argv + optind, IO_MAX_BYTES, "", &job->request.offset, &length);
    if (rc < 0)
        return rc;
    if (!job->verify && (args.has_length || args.has_from))
        return io_usage(argv[0]);
    if (!args.has_length)
        args.length = (int64_t)length - args.from;
    if (args.length < 0 || args.from > (int64_t)length - args.length) {
        printf("pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    if (args.vm_state) {
        rc = io_check_sectors(job->request.offset, length);
        if (rc < 0)
            return rc;
    }
    job->verify_from = (uint64_t)args.from;
    job->verify_length = (uint64_t)args.length;
    job->buffer = io_buffer_new(io, length, 0xab);
    if (job->buffer == NULL)
        return -ENOMEM;
    rc = io_finish(job, args.vm_state ? read_vm_state(io, job) : io_run(io, job));
    io_buffer_free(job->buffer);
    return rc;
}

/* What readv and aio_read have in common: "OFFSET LENGTH..." behind the options. */
static int prepare_vector(struct io *io, const char *letters, int argc, char **argv,
                          struct read_args *args)
{
    struct io_job *job = &args->job;
    int64_t offset;
    int rc = parse_options(argv[0], letters, argc, argv, args);

    if (rc < 0)
        return rc;
    if (optind > argc - 2)
        return io_usage(argv[0]);
    rc = io_parse_number(argv[optind], &offset);
    if (rc < 0)
        return rc;
    job->request.offset = (uint64_t)offset;
    job->buffer = io_buffer_new_vector(io, argv + optind + 1, argc - optind - 1, 0xab);
    if (job->buffer == NULL)
        return -EINVAL;
    job->verify_length = job->buffer->length;
    return 0;
}

int io_readv_command(struct io *io, int argc, char **argv)
{
    struct read_args args = {
        .job = {.request.op = BLK_READ, .failed = "readv failed", .verb = "read"}};
    int rc = prepare_vector(io, "CP:qv", argc, argv, &args);

    if (rc == 0)
        rc = io_finish(&args.job, io_run(io, &args.job));
    io_buffer_free(args.job.buffer);
    return rc;
}

int io_aio_read_command(struct io *io, int argc, char **argv)
{
    struct read_args args = {
        .job = {.request.op = BLK_READ, .failed = "readv failed", .verb = "read"}};
    int rc = prepare_vector(io, "CP:iqv", argc, argv, &args);

    if (rc == 0 && args.is_invalid) {
        /* qemu-io counts these in statistics, which there are none of here. */
        printf("injecting invalid read request\n");
    } else if (rc == 0) {
        rc = io_start(io, &args.job);
        if (rc == 0)
            return 0;
    }
    io_buffer_free(args.job.buffer);
    return rc;
}
