#include "back_end.h"

#include "blockdev.h"
#include "vhost_user.h"
#include "virtio_blk.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static void report(void *opaque, const char *line)
{
    struct back_end *back_end = opaque;

    pthread_mutex_lock(&back_end->lock);
    if (back_end->line_count < BACK_END_LINES)
        snprintf(back_end->lines[back_end->line_count], sizeof(back_end->lines[0]), "%s", line);
    back_end->line_count++;
    pthread_mutex_unlock(&back_end->lock);
}

/* One connection. */
static void *serve(void *opaque)
{
    struct back_end *back_end = opaque;
    struct pollfd fds[] = {{.fd = vhost_user_fd(back_end->vu), .events = POLLIN},
                           {.fd = back_end->stop, .events = POLLIN}};

    for (;;) {
        (void)poll(fds, 2, -1);
        if (fds[0].revents && !vhost_user_serve(back_end->vu))
            return NULL;
        if (fds[1].revents) {
            vhost_user_detach(back_end->vu);
            return NULL;
        }
    }
}

static int begin(struct back_end *back_end)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    assert_int_equal(fcntl(pair[0], F_SETFL, 0), 0);
    assert_int_equal(vhost_user_attach(back_end->vu, pair[1]), 0);
    assert_int_equal(pthread_create(&back_end->thread, NULL, serve, back_end), 0);
    return pair[0];
}

static void make_image(const char *path)
{
    uint8_t sector[512];
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    for (unsigned i = 0; i < BACK_END_SECTORS; i++) {
        memset(sector, (uint8_t)i, sizeof(sector));
        assert_int_equal(write(fd, sector, sizeof(sector)), sizeof(sector));
    }
    close(fd);
}

static void make_overlay(const char *path, const char *base)
{
    const struct blk_create_options options = {.path = path,
                                               .format = "qcow2",
                                               .size = BACK_END_SECTORS * 512ULL,
                                               .backing_name = base,
                                               .backing_format = "raw"};
    struct err err;

    if (blk_create(&options, &err) < 0)
        fail_msg("%s", err.text);
}

static int start(void **state, bool overlay)
{
    struct back_end *back_end = calloc(1, sizeof(*back_end));
    struct blk_open_options image = {.format = overlay ? "qcow2" : "raw", .writable = true};
    struct virtio_blk_options device = {
        .queues = BACK_END_QUEUES, .fixed_cache = true, .poll_us = VIRTIO_BLK_POLL_US_DEFAULT};
    struct vhost_user_options options = {.inflight = true, .report = report, .opaque = back_end};
    struct err err;

    assert_non_null(back_end);
    (void)signal(SIGPIPE, SIG_IGN);
    snprintf(back_end->directory, sizeof(back_end->directory), "/tmp/minivmm-vhost-user.XXXXXX");
    assert_non_null(mkdtemp(back_end->directory));
    snprintf(back_end->base, sizeof(back_end->base), "%s/base.raw", back_end->directory);
    snprintf(back_end->image, sizeof(back_end->image), "%s/%s", back_end->directory,
             overlay ? "top.qcow2" : "base.raw");
    make_image(back_end->base);
    if (overlay)
        make_overlay(back_end->image, back_end->base);
    pthread_mutex_init(&back_end->lock, NULL);
    image.path = back_end->image;
    if (blk_open(&image, &back_end->blk, &err) < 0)
        fail_msg("%s", err.text);
    device.blk = back_end->blk;
    assert_int_equal(virtio_blk_create(&device, &options.device, &err), 0);
    assert_int_equal(vhost_user_create(&options, &back_end->vu, &err), 0);
    back_end->stop = eventfd(0, EFD_CLOEXEC);
    assert_true(back_end->stop >= 0);
    assert_true(front_end_open(&back_end->fe, begin(back_end)));
    *state = back_end;
    return 0;
}

int back_end_start(void **state)
{
    return start(state, false);
}

int back_end_start_overlay(void **state)
{
    return start(state, true);
}

int back_end_stop(void **state)
{
    struct back_end *back_end = *state;
    const uint64_t one = 1;
    struct err err;

    assert_int_equal(write(back_end->stop, &one, sizeof(one)), sizeof(one));
    pthread_join(back_end->thread, NULL);
    vhost_user_destroy(back_end->vu);
    front_end_close(&back_end->fe);
    assert_int_equal(blk_close(back_end->blk, &err), 0);
    pthread_mutex_destroy(&back_end->lock);
    close(back_end->stop);
    unlink(back_end->image);
    unlink(back_end->base);
    rmdir(back_end->directory);
    free(back_end);
    return 0;
}

void back_end_reconnect_guest(struct back_end *back_end)
{
    close(back_end->fe.socket);
    pthread_join(back_end->thread, NULL);
    back_end->fe.socket = begin(back_end);
}

void back_end_reconnect(struct back_end *back_end)
{
    int socket;

    back_end_reconnect_guest(back_end);
    socket = back_end->fe.socket;
    back_end->fe.socket = -1;
    front_end_close(&back_end->fe);
    assert_true(front_end_open(&back_end->fe, socket));
}

void back_end_run(struct back_end *back_end, uint16_t base)
{
    assert_true(front_end_negotiate(&back_end->fe, 1ULL << VIRTIO_BLK_F_FLUSH));
    assert_true(front_end_share_memory(&back_end->fe));
    assert_true(front_end_start_ring(&back_end->fe, 0, base));
}

void back_end_assert_line(struct back_end *back_end, const char *text)
{
    pthread_mutex_lock(&back_end->lock);
    if (back_end->line_count != 1 || !strstr(back_end->lines[0], text))
        fail_msg("%u lines, the first of them '%s', instead of '%s'", back_end->line_count,
                 back_end->lines[0], text);
    back_end->line_count = 0;
    back_end->lines[0][0] = '\0';
    pthread_mutex_unlock(&back_end->lock);
}

void back_end_assert_refused(struct back_end *back_end, const char *text)
{
    if (!front_end_was_closed(&back_end->fe))
        fail_msg("the connection lives on where it should end with '%s'", text);
    back_end_assert_line(back_end, text);
}
