/*
 * minivmm-io - reads and writes disk images by commands, to exercise the block engine. For tests: it is
 * built, but not installed.
 */
#include "image_opts.h"
#include "io.h"
#include "keys.h"
#include "log.h"
#include "process.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_COMMANDS = 4096 };

static void print_help(void)
{
    static const char text[] =
        "  -c, --cmd COMMAND    carry out a command; may be repeated. Without: what stands on\n"
        "                       standard input\n"
        "  -f, --format FMT     format of the image: raw or qcow2\n"
        "  -r, --read-only      open it read-only\n"
        "  -s, --snapshot       what is written goes into a throwaway file\n"
        "  -n, --nocache        as -t none\n"
        "  -C, --copy-on-read   what is read from below the image is written into it\n"
        "  -m, --misalign       buffers that are not aligned\n"
        "  -t, --cache=MODE     none, writeback, writethrough (default), directsync or unsafe\n"
        "  -d, --discard=MODE   what discards do: unmap (default) or ignore\n"
        "  -i, --aio=MODE       what carries out requests: threads, native or io_uring\n"
        "  -k, --native-aio     is taken, and changes nothing\n"
        "  -T, --trace OPTIONS  [enable=]PATTERN,events=FILE,file=FILE: is taken; there are no\n"
        "                       trace events\n"
        "  -U, --force-share    with other programs writing to it; with -r alone\n"
        "      --image-opts     the image is named by options\n"
        "      --object OBJECT, --key-file PATH, --key-fd N\n"
        "                       keys of encrypted images, as for minivmm-img\n"
        "  -h, --help           display this help and exit\n"
        "  -V, --version        output version information and exit\n";

    printf("Usage: %s [OPTIONS]... [-c COMMAND]... [image]\n"
           "Reads and writes a disk image by commands\n"
           "\n%s"
           "\n"
           "'%s -c help' lists the commands.\n",
           log_program_name(), text, log_program_name());
}

struct command_line {
    struct io_settings settings;
    const char *commands[MAX_COMMANDS];
    unsigned command_count;
};

enum { GO_ON = -1 }; /* of parse(): else an exit status */

/* One option; GO_ON, or the exit status. */
static int parse_option(int c, struct io *io, struct command_line *line)
{
    switch (c) {
    case 'c':
        if (line->command_count == MAX_COMMANDS) {
            log_error("more than %d commands", MAX_COMMANDS);
            return 1;
        }
        line->commands[line->command_count++] = optarg;
        return GO_ON;
    case 'f':
        line->settings.open.format = optarg;
        return GO_ON;
    case 'r':
        line->settings.open.writable = false;
        return GO_ON;
    case 's':
        line->settings.open.ephemeral = BLK_EPHEMERAL_FILE;
        return GO_ON;
    case 'n':
        return io_set_cache(&line->settings, "none") < 0 ? 1 : GO_ON;
    case 't':
        return io_set_cache(&line->settings, optarg) < 0 ? 1 : GO_ON;
    case 'd':
        return io_set_discard(&line->settings, optarg) < 0 ? 1 : GO_ON;
    case 'i':
        return io_set_engine(&line->settings, optarg) < 0 ? 1 : GO_ON;
    case 'k':
        return GO_ON;
    case 'C':
        line->settings.copy_on_read = true;
        return GO_ON;
    case 'm':
        io->misalign = true;
        return GO_ON;
    case 'U':
        line->settings.open.force_share = true;
        return GO_ON;
    case 'T': {
        bool is_help;

        if (!img_take_trace(optarg, &is_help))
            return 1;
        return is_help ? 0 : GO_ON;
    }
    case 'V':
        img_print_version();
        return 0;
    default:
        print_help();
        return c == 'h' ? 0 : 1;
    }
}

static int parse(int argc, char **argv, struct io *io, struct command_line *line)
{
    static const struct option longopts[] = {
        {"cmd", required_argument, NULL, 'c'},    {"format", required_argument, NULL, 'f'},
        {"read-only", no_argument, NULL, 'r'},    {"snapshot", no_argument, NULL, 's'},
        {"nocache", no_argument, NULL, 'n'},      {"misalign", no_argument, NULL, 'm'},
        {"cache", required_argument, NULL, 't'},  {"discard", required_argument, NULL, 'd'},
        {"native-aio", no_argument, NULL, 'k'},   {"aio", required_argument, NULL, 'i'},
        {"force-share", no_argument, NULL, 'U'},  {"trace", required_argument, NULL, 'T'},
        {"help", no_argument, NULL, 'h'},         {"version", no_argument, NULL, 'V'},
        {"copy-on-read", no_argument, NULL, 'C'}, {NULL, 0, NULL, 0},
    };
    bool has_image_opts = false;
    int c, status = GO_ON;

    for (int i = 1; i < argc; i++)
        has_image_opts = has_image_opts || strcmp(argv[i], "--image-opts") == 0;
    if (!keys_take_options(&argc, argv))
        return 1;
    while (status == GO_ON &&
           (c = getopt_long(argc, argv, "c:f:rsnCmt:d:ki:T:UhV", longopts, NULL)) != -1)
        status = parse_option(c, io, line);
    if (status != GO_ON)
        return status;
    if (argc - optind > 1) {
        print_help();
        return 1;
    }
    if (has_image_opts && line->settings.open.format != NULL) {
        log_error("--image-opts and -f are mutually exclusive");
        return 1;
    }
    if (optind < argc) {
        line->settings.open.path = image_opts_path(argv[optind], false);
        return line->settings.open.path != NULL ? GO_ON : 1;
    }
    return GO_ON;
}

/* Commands from standard input; the exit status. */
static int run_input(struct io *io)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length = 0;
    int status = 0;

    while (!io->is_over) {
        printf("%s> ", log_program_name());
        fflush(stdout);
        length = getline(&line, &room, stdin);
        if (length < 0)
            break;
        if (length > 0 && line[length - 1] == '\n')
            line[length - 1] = '\0';
        if (io_run_line(io, line) < 0)
            status = 1;
    }
    free(line);
    return status;
}

int main(int argc, char **argv)
{
    static struct command_line line; /* its commands are many */
    struct io io = {0};
    int status;

    process_prepare();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGUSR1, SIG_IGN); /* QEMU's own: `sigraise 10` is survived */
    log_init(argc > 0 ? argv[0] : NULL);
    if (argc > 0)
        argv[0] = (char *)(uintptr_t)log_program_name(); /* for getopt()'s messages */
    line.settings = io_default_settings();
    status = parse(argc, argv, &io, &line);
    if (status == GO_ON && line.settings.open.path != NULL && io_open(&io, &line.settings) < 0)
        status = 1;
    if (status == GO_ON) {
        status = line.command_count == 0 ? run_input(&io) : 0;
        for (unsigned i = 0; i < line.command_count && !io.is_over; i++) {
            if (io_run_line(&io, line.commands[i]) < 0)
                status = 1;
        }
    }
    if (io_close(&io) < 0)
        status = 1;
    keys_free();
    return status;
}
