/*
 * io_commands.c - the table of commands, from a line of text to one of them, and the help.
 */
#include "checked.h"
#include "io.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 4096 };

/* ---- commands about the process ---- */

static int run_abort(struct io *io, int argc, char **argv)
{
    (void)io;
    (void)argc;
    (void)argv;
    abort();
}

static int run_sigraise(struct io *io, int argc, char **argv)
{
    int64_t number;
    int rc = io_parse_number(argv[1], &number);

    (void)io;
    (void)argc;
    if (rc < 0)
        return rc;
    if (number > NSIG) {
        printf("signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -EINVAL;
    }
    /* Whoever dies of a signal writes nothing more. */
    fflush(stdout);
    (void)raise((int)number);
    return 0;
}

static int run_sleep(struct io *io, int argc, char **argv)
{
    char *end;
    long milliseconds = strtol(argv[1], &end, 0);
    struct timespec left;

    (void)io;
    (void)argc;
    if (milliseconds < 0 || *end != '\0' || end == argv[1]) {
        printf("%s is not a valid number\n", argv[1]);
        return -EINVAL;
    }
    left = (struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
    return 0;
}

static int run_quit(struct io *io, int argc, char **argv)
{
    (void)argc;
    (void)argv;
    io->is_over = true;
    return 0;
}

static int run_help(struct io *io, int argc, char **argv);

/* ---- the table ---- */

#define REPORT_DETAILS                                                                             \
    " -C  one line of numbers: bytes, requests, time, bytes and requests a second\n"               \
    " -q  no report\n"
#define READ_DETAILS                                                                               \
    " -P  every byte must be this one; if not, the exit status is 1 in the end\n"                  \
    " -v  the bytes are shown\n" REPORT_DETAILS
#define WRITE_DETAILS                                                                              \
    " -P  every byte is this one (default: 0xcd)\n"                                                \
    " -f  durable before it is reported\n" REPORT_DETAILS
#define AIO_DETAILS                                                                                \
    " Returns once the request has been handed over; aio_flush waits for all of them. What "       \
    "becomes\n"                                                                                    \
    " of it does not change the exit status.\n"                                                    \
    " -i  only says that an invalid request was made\n"

/* In alphabetical order, which is that of the help. */
static const struct io_command commands[] = {
    {"abort", NULL, run_abort, 0, 0, IO_ANY_FILE, NULL, "ends the program by abort(3)", NULL},
    {"aio_flush", NULL, io_aio_flush_command, 0, 0, 0, NULL, "waits for all asynchronous requests",
     NULL},
    {"aio_read", NULL, io_aio_read_command, 2, -1, 0, "[-Ciqv] [-P pattern] off len [len..]",
     "reads without waiting", AIO_DETAILS READ_DETAILS},
    {"aio_write", NULL, io_aio_write_command, 2, -1, IO_WRITES,
     "[-Cfiquz] [-P pattern] off len [len..]", "writes without waiting",
     AIO_DETAILS " -z  zeros, with one length; -u: which may give up their place\n" WRITE_DETAILS},
    {"alloc", "a", io_alloc_command, 1, 2, 0, "offset [count]",
     "counts the bytes that the image itself holds", NULL},
    {"close", "c", io_close_command, 0, 0, 0, NULL, "closes the file", NULL},
    {"discard", "d", io_discard_command, 2, -1, IO_WRITES, "[-Cq] off len", "discards a range",
     REPORT_DETAILS},
    {"flush", "f", io_flush_command, 0, 0, 0, NULL, "makes what was written durable", NULL},
    {"help", "?", run_help, 0, 1, IO_ANY_FILE, "[command]", "says what commands do", NULL},
    {"info", "i", io_info_command, 0, 0, 0, NULL, "says what the image is", NULL},
    {"length", "l", io_length_command, 0, 0, 0, NULL, "says how long the device is", NULL},
    {"map", NULL, io_map_command, 0, 0, 0, "", "says which ranges the image itself holds", NULL},
    {"open", "o", io_open_command, 1, -1, IO_ANY_FILE,
     "[-rsCnkU] [-t cache] [-d discard] [-i aio] [-o options] [path]", "opens a file",
     " -r  read-only\n"
     " -s  what is written goes into a throwaway file\n"
     " -C  what is read from below the image is written into it\n"
     " -n  as -t none\n"
     " -U  with other programs writing to it; with -r alone\n"
     " -t  none, writeback, writethrough (default), directsync or unsafe\n"
     " -d  what discards do: unmap (default) or ignore\n"
     " -o  driver=FORMAT,file.filename=PATH and so on, as with --image-opts\n"
     " -i  what carries out requests: threads, native or io_uring\n"
     " -k  is taken, and changes nothing\n"},
    {"quit", "q", run_quit, 0, -1, IO_ANY_FILE, NULL, "ends the program", NULL},
    {"read", "r", io_read_command, 2, -1, 0, "[-bCqv] [-P pattern [-s off] [-l len]] off len",
     "reads a range",
     " -b  reads VM state, which lies behind the disk; whole sectors\n"
     " -s, -l  where -P begins to look, and for how many bytes\n" READ_DETAILS},
    {"readv", NULL, io_readv_command, 2, -1, 0, "[-Cqv] [-P pattern] off len [len..]",
     "reads a range into several buffers", READ_DETAILS},
    {"reopen", NULL, io_reopen_command, 0, -1, 0, "[(-r|-w)] [-c cache] [-o options]",
     "opens the file once more with other options",
     " -r, -w  read-only, or for writing\n"
     " -c      cache mode\n"
     " -o      cache.direct, cache.no-flush, discard\n"},
    {"sigraise", NULL, run_sigraise, 1, 1, IO_ANY_FILE, "signal", "raises a signal in the program",
     NULL},
    {"sleep", NULL, run_sleep, 1, 1, IO_ANY_FILE, NULL, "waits for so many milliseconds", NULL},
    {"truncate", "t", io_truncate_command, 1, 3, IO_WRITES, "[-m prealloc_mode] off",
     "makes the device that long", NULL},
    {"write", "w", io_write_command, 2, -1, IO_WRITES,
     "[-bcCfnquz] [-P pattern | -s source_file] off len", "writes a range",
     " -b  writes VM state, which lies behind the disk; whole sectors\n"
     " -c  compressed; whole clusters\n"
     " -s  what a file holds, again and again\n"
     " -z  zeros; -u: which may give up their place; -n: of any length\n" WRITE_DETAILS},
    {"writev", NULL, io_writev_command, 2, -1, IO_WRITES, "[-Cfq] [-P pattern] off len [len..]",
     "writes a range from several buffers", WRITE_DETAILS},
};

static const struct io_command *find_command(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        const struct io_command *c = &commands[i];

        if (strcmp(c->name, name) == 0 ||
            (c->short_name != NULL && strcmp(c->short_name, name) == 0))
            return c;
    }
    return NULL;
}

/* ---- help ---- */

static void print_syntax(const char *name, const struct io_command *c)
{
    printf("%s %s%s-- %s\n", name, c->syntax != NULL ? c->syntax : "", c->syntax != NULL ? " " : "",
           c->summary);
}

int io_usage(const char *command)
{
    const struct io_command *c = find_command(command);

    print_syntax(c->name, c);
    return -EINVAL;
}

static int run_help(struct io *io, int argc, char **argv)
{
    const struct io_command *c;

    (void)io;
    if (argc == 1) {
        for (size_t i = 0; i < ARRAY_LEN(commands); i++)
            print_syntax(commands[i].name, &commands[i]);
        printf("\nUse 'help commandname' for extended help.\n");
        return 0;
    }
    c = find_command(argv[1]);
    if (c == NULL) {
        printf("command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_syntax(argv[1], c);
    if (c->details != NULL)
        printf("\n%s\n", c->details);
    return 0;
}

/* ---- lines ---- */

/* Splits at spaces, in place. How many words there are, or negative after a message. */
static int split(char *line, char **words)
{
    int count = 0;
    char *rest;

    for (char *word = strtok_r(line, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        if (count == MAX_WORDS) {
            log_error("a command of more than %d words", MAX_WORDS);
            return -E2BIG;
        }
        words[count++] = word;
    }
    words[count] = NULL;
    return count;
}

static int check_count(const struct io_command *c, const char *name, int count)
{
    if (count >= c->min && (c->max < 0 || count <= c->max))
        return 0;
    if (c->max < 0)
        fprintf(stderr, "bad argument count %d to %s, expected at least %d arguments\n", count,
                name, c->min);
    else if (c->max == c->min)
        fprintf(stderr, "bad argument count %d to %s, expected %d arguments\n", count, name,
                c->min);
    else
        fprintf(stderr, "bad argument count %d to %s, expected between %d and %d arguments\n",
                count, name, c->min, c->max);
    return -EINVAL;
}

static int run(struct io *io, int argc, char **argv)
{
    const struct io_command *c = find_command(argv[0]);
    int rc;

    if (c == NULL) {
        fprintf(stderr, "command \"%s\" not found\n", argv[0]);
        return -EINVAL;
    }
    if ((c->flags & IO_ANY_FILE) == 0 && io->blk == NULL) {
        fprintf(stderr, "no file open, try 'help open'\n");
        return -EINVAL;
    }
    rc = check_count(c, argv[0], argc - 1);
    if (rc < 0)
        return rc;
    if ((c->flags & IO_WRITES) != 0 && !blk_writable(io->blk)) {
        log_error("Block node is read-only");
        return -EPERM;
    }
    optind = 0; /* getopt() begins anew */
    opterr = 1;
    return c->run(io, argc, argv);
}

int io_run_line(struct io *io, const char *line)
{
    char *copy = strdup(line);
    char **words = calloc(MAX_WORDS + 1, sizeof(*words));
    int count, rc = -ENOMEM;

    if (copy == NULL || words == NULL) {
        log_error("out of memory");
    } else {
        count = split(copy, words);
        rc = count > 0 ? run(io, count, words) : count;
    }
    free(words);
    free(copy);
    return rc;
}
