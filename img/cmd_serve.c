/*
 * cmd_serve.c - minivmm-img serve: images as vhost-user-blk devices, until SIGTERM, SIGINT or SIGHUP.
 *
 * One thread waits for connections, messages and signals; a disk's queues have threads of their own.
 * A socket appears once every image is open.
 */
#include "checked.h"
#include "img.h"
#include "log.h"
#include "served_disk.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { MAX_DISKS = 64, MAX_QUEUES = 64, MAX_DEFAULT_QUEUES = 8 };

struct serve {
    unsigned socket_count, disk_count;
    unsigned queues;
    int signals; /* -1: not yet */
    /* Where disk n is served: the path of a socket, or a descriptor. */
    struct {
        const char *path;
        int fd;
    } sockets[MAX_DISKS];
    struct served_disk disks[MAX_DISKS];
};

enum { OPT_SOCKET = 0x200, OPT_FD, OPT_QUEUES };

static bool parse_number(const char *text, const char *what, int min, int max, int *number)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < min || value > max) {
        log_error("Invalid %s specified. Must be between %d and %d.", what, min, max);
        return false;
    }
    *number = (int)value;
    return true;
}

static bool add_socket(struct serve *serve, const char *path, int fd)
{
    if (serve->socket_count == MAX_DISKS) {
        log_error("more than %d sockets", MAX_DISKS);
        return false;
    }
    serve->sockets[serve->socket_count].path = path;
    serve->sockets[serve->socket_count++].fd = fd;
    return true;
}

/* False when the command is over, with *status. */
static bool parse_options(struct serve *serve, int argc, char **argv, int *status)
{
    static const struct option longopts[] = {
        {"help", no_argument, NULL, 'h'},
        {"vhost-user-blk", required_argument, NULL, OPT_SOCKET},
        {"fd", required_argument, NULL, OPT_FD},
        {"queues", required_argument, NULL, OPT_QUEUES},
        {NULL, 0, NULL, 0}};
    int c, number = (int)min_u64(img_processors(), MAX_DEFAULT_QUEUES), fd;

    *status = 1;
    while ((c = img_getopt(argc, argv, ":h", longopts, status)) != -1) {
        switch (c) {
        case OPT_SOCKET:
            if (!add_socket(serve, optarg, -1))
                return false;
            break;
        case OPT_FD:
            if (!parse_number(optarg, "descriptor", 0, INT_MAX, &fd) ||
                !add_socket(serve, NULL, fd))
                return false;
            break;
        case OPT_QUEUES:
            if (!parse_number(optarg, "number of queues", 1, MAX_QUEUES, &number))
                return false;
            break;
        default:
            return false;
        }
    }
    serve->queues = (unsigned)number;
    if (serve->socket_count == 0) {
        *status = img_usage_error("Expecting --vhost-user-blk or --fd");
        return false;
    }
    if ((unsigned)(argc - optind) != serve->socket_count) {
        *status = img_usage_error("Expecting one image file name for each socket");
        return false;
    }
    return true;
}

static bool open_signals(struct serve *serve)
{
    sigset_t set;

    /* A front end that has gone is an error of the write. */
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);
    serve->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (serve->signals < 0)
        log_error("cannot wait for signals: %s", strerror(errno));
    return serve->signals >= 0;
}

static bool open_disks(struct serve *serve, char **images)
{
    struct err err;

    while (serve->disk_count < serve->socket_count) {
        struct served_disk *disk = &serve->disks[serve->disk_count];

        disk->socket.fd = -1;
        disk->name = serve->sockets[serve->disk_count].path;
        if (!disk->name)
            disk->name = images[serve->disk_count];
        serve->disk_count++;
        if (!served_disk_open(disk, images[serve->disk_count - 1], serve->queues))
            return false;
    }
    for (unsigned i = 0; i < serve->socket_count; i++) {
        struct serve_socket *socket = &serve->disks[i].socket;
        int ret = serve->sockets[i].path ? serve_socket_listen(socket, serve->sockets[i].path, &err)
                                         : serve_socket_take(socket, serve->sockets[i].fd, &err);

        if (ret < 0) {
            log_error("%s", err.text);
            return false;
        }
    }
    return true;
}

/* Until a signal ends it. */
static void run(struct serve *serve)
{
    struct pollfd fds[MAX_DISKS + 1];

    for (;;) {
        for (unsigned i = 0; i < serve->disk_count; i++)
            fds[i] = (struct pollfd){.fd = served_disk_fd(&serve->disks[i]), .events = POLLIN};
        fds[serve->disk_count] = (struct pollfd){.fd = serve->signals, .events = POLLIN};
        if (poll(fds, serve->disk_count + 1, -1) <= 0)
            continue;
        if (fds[serve->disk_count].revents)
            return;
        for (unsigned i = 0; i < serve->disk_count; i++) {
            if (fds[i].revents)
                served_disk_serve(&serve->disks[i]);
        }
    }
}

int cmd_serve(int argc, char **argv)
{
    struct serve *serve = calloc(1, sizeof(*serve));
    int status = 1;

    if (serve == NULL) {
        log_error("out of memory");
        return 1;
    }
    serve->signals = -1;
    if (parse_options(serve, argc, argv, &status)) {
        status = 1;
        if (open_signals(serve) && open_disks(serve, argv + optind)) {
            run(serve);
            status = 0;
        }
    }
    for (unsigned i = 0; i < serve->disk_count; i++) {
        if (!served_disk_close(&serve->disks[i]))
            status = 1;
    }
    if (serve->signals >= 0)
        close(serve->signals);
    free(serve);
    return status;
}
