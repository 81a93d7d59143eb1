/*
 * io.h - what the commands of minivmm-io share.
 *
 * minivmm-io exercises the block engine: it opens an image and carries out the commands that stand on
 * its command line (-c) or come in on standard input, in the language of qemu-io 7.2. Output has
 * qemu-io's form, so that scripts that read it keep working; what differs is listed in docs/testing.md.
 *
 * A command prints its own errors, and returns 0 or a negative errno value; after one that failed the
 * next one runs all the same, and the exit status is 1 in the end.
 *
 * Everything runs in the main thread.
 */
#ifndef IMG_IO_H
#define IMG_IO_H

#include "img.h"

#include <time.h>

/* How an image is opened. */
struct io_settings {
    struct blk_open_options open; /* path and format are borrowed */
    bool writethrough;            /* every write is durable before it is reported */
    bool copy_on_read;            /* see io_copy_on_read() */
};

struct io {
    struct io_settings settings; /* of the open file */
    struct blk *blk;             /* NULL: no file is open */
    struct blk_queue *queue;     /* of `blk` */
    bool misalign;               /* buffers begin in the middle of a block */
    bool is_over;                /* `quit` was read */
};

/* ---- commands (io_commands.c) ---- */

enum {
    IO_ANY_FILE = 1, /* wants no file to be open */
    IO_WRITES = 2    /* wants one that is open for writing */
};

struct io_command {
    const char *name, *short_name; /* short_name: NULL: it has none */
    int (*run)(struct io *io, int argc, char **argv);
    int min, max; /* arguments; max -1: any number */
    unsigned flags;
    const char *syntax, *summary;
    const char *details; /* for `help NAME`, or NULL */
};

/* Carries out one line. */
int io_run_line(struct io *io, const char *line);

/* Prints a command's syntax because the arguments are not right; returns -EINVAL. */
int io_usage(const char *command);

/* What runs them, by file. */
int io_open_command(struct io *io, int argc, char **argv); /* io_open.c */
int io_close_command(struct io *io, int argc, char **argv);
int io_reopen_command(struct io *io, int argc, char **argv);
int io_read_command(struct io *io, int argc, char **argv); /* io_read.c */
int io_readv_command(struct io *io, int argc, char **argv);
int io_aio_read_command(struct io *io, int argc, char **argv);
int io_write_command(struct io *io, int argc, char **argv); /* io_write.c */
int io_writev_command(struct io *io, int argc, char **argv);
int io_aio_write_command(struct io *io, int argc, char **argv);
int io_discard_command(struct io *io, int argc, char **argv); /* io_image.c */
int io_flush_command(struct io *io, int argc, char **argv);
int io_aio_flush_command(struct io *io, int argc, char **argv);
int io_truncate_command(struct io *io, int argc, char **argv);
int io_length_command(struct io *io, int argc, char **argv);
int io_map_command(struct io *io, int argc, char **argv);
int io_alloc_command(struct io *io, int argc, char **argv);
int io_info_command(struct io *io, int argc, char **argv);

/* ---- opening (io_open.c) ---- */

/* What an image is opened with where nothing else is said: as qemu-io does. */
struct io_settings io_default_settings(void);
/* Cache mode, discard mode and engine, as options name them; negative after a message. */
int io_set_cache(struct io_settings *settings, const char *mode);
int io_set_discard(struct io_settings *settings, const char *mode);
int io_set_engine(struct io_settings *settings, const char *mode);
/* Opens settings->open.path. Negative after a message. */
int io_open(struct io *io, const struct io_settings *settings);
/* Waits for what is in flight and closes; nothing when no file is open. Negative after a message. */
int io_close(struct io *io);

/* ---- requests (io_request.c) ---- */

struct io_report {
    bool quiet, for_machines; /* -q, -C */
};

/* What is done, to be filled in by the command, and how it is reported. */
struct io_job {
    struct blk_request request;
    struct io_buffer *buffer; /* NULL: none. Of an asynchronous one: the job's */
    struct io_report report;
    const char *failed; /* before ": REASON" ("write failed") */
    const char *verb;   /* in the report ("wrote") */
    bool verify, dump;  /* a read: -P, -v */
    unsigned char pattern;
    uint64_t verify_from, verify_length; /* within the buffer */
    int status;                          /* of the verification */
    bool is_done;
    struct timespec begun;
};

/* Carries out a request and waits for it; returns its result, and sets job->begun. */
int io_run(struct io *io, struct io_job *job);
/* The same for a copy of `job`, which reports and frees itself when it is done. Negative after a
 * message; then the buffer stays the caller's. */
int io_start(struct io *io, const struct io_job *job);
/* Waits until nothing is in flight. */
void io_drain(struct io *io);
/* Writes what lies below the image in the clusters of a range, which is within the device, into the
 * image. 0, or a negative errno value (io_copy_on_read.c). */
int io_copy_on_read(struct io *io, uint64_t offset, uint64_t length);
/* Prints what came of a job that has ended with `result`: the error, the verification, the dump, the
 * report. 0, or negative for the exit status. */
int io_finish(struct io_job *job, int result);

/* ---- buffers (io_buffer.c) ---- */

struct io_buffer {
    unsigned char *data;
    uint64_t length;
    struct iovec *iov; /* over all of it */
    int count;
    void *memory;
};

/* Filled with `pattern`. NULL after a message. */
struct io_buffer *io_buffer_new(const struct io *io, uint64_t length, unsigned char pattern);
/* The same with a vector entry for each of the lengths that are written in `lengths`. */
struct io_buffer *io_buffer_new_vector(const struct io *io, char **lengths, int count,
                                       unsigned char pattern);
/* Fills it with the start of a file, again and again. Negative after a message. */
int io_buffer_fill_from(struct io_buffer *buffer, const char *path);
void io_buffer_free(struct io_buffer *buffer);

/* ---- numbers and text (io_text.c) ---- */

enum { IO_MAX_BYTES = INT32_MAX & ~511 }; /* of one request */

/* Each reads an argument; negative after a message. */
int io_parse_number(const char *text, int64_t *number);
/* The pair "OFFSET LENGTH" at argv[0]; `limit` 0: any length; `without`: what the message says after
 * the limit ("" or " without -n"). */
int io_parse_range(char **argv, uint64_t limit, const char *without, uint64_t *offset,
                   uint64_t *length);
/* Whether both are whole sectors; negative after a message. */
int io_check_sectors(uint64_t offset, uint64_t length);
int io_parse_pattern(const char *text, unsigned char *pattern);

enum { IO_SIZE_TEXT_MAX = 64 };
/* "4 KiB", "1.500 MiB", "17 bytes". */
const char *io_size_text(double bytes, char *out);
void io_dump(const unsigned char *data, uint64_t offset, uint64_t length);
/* "wrote 512/512 bytes at offset 0" and the line about the time it took, from `begun` until now. */
void io_print_report(const struct io_report *report, const char *verb, const struct timespec *begun,
                     uint64_t offset, uint64_t length);

#endif
