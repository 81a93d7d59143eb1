/*
 * The guest that uses a served disk is not trusted, and nobody looks at what the command does once it
 * runs. So the image policy is minivmm's and not that of the other commands: a format is given, said
 * by the file's name, or probed without trust.
 */
#include "served_disk.h"

#include "image_opts.h"
#include "img.h"
#include "log.h"
#include "vhost_user.h"
#include "virtio_blk.h"

#include <errno.h>
#include <string.h>

enum { SERIAL_MAX = 20 };

static const char *const known[] = {"path",    "format",  "readonly",    "serial",
                                    "discard", "cache",   "ephemeral",   "inflight",
                                    "aio",     "poll-us", "fixed-files", NULL};
static const char *const formats[] = {"qcow2", "raw", NULL};
static const char *const caches[] = {"writeback", "direct", "unsafe", NULL}; /* blk_cache */
static const char *const aios[] = {"auto", "io_uring", "threads", NULL};     /* blk_aio */
static const char *const ephemerals[] = {"off", "on", "ram", NULL};          /* blk_ephemeral */

static void warn(const char *line)
{
    log_warn("%s", line);
}

static void report(void *opaque, const char *line)
{
    const struct served_disk *disk = opaque;

    log_error("%s: %s", disk->name, line);
}

/* Says what is wrong with the image, once: the guest has only its I/O errors. */
static void failed(void *opaque)
{
    struct served_disk *disk = opaque;
    struct err problem;

    if (!atomic_load(&disk->told) && blk_problem(disk->blk, &problem) &&
        !atomic_exchange(&disk->told, true))
        log_error("%s", problem.text);
}

static int read_options(struct optstr *opts, const char *text, struct blk_open_options *image,
                        struct virtio_blk_options *device, bool *inflight, struct err *err)
{
    int format = -1, cache = BLK_CACHE_WRITEBACK, ephemeral = BLK_EPHEMERAL_OFF, aio = BLK_AIO_AUTO;
    uint64_t poll_us = device->poll_us;
    int ret;

    if ((ret = optstr_parse(opts, text, "path", err)) < 0 ||
        (ret = optstr_get_word(opts, "format", formats, &format, err)) < 0 ||
        (ret = optstr_get_word(opts, "cache", caches, &cache, err)) < 0 ||
        (ret = optstr_get_word(opts, "aio", aios, &aio, err)) < 0 ||
        (ret = optstr_get_word(opts, "ephemeral", ephemerals, &ephemeral, err)) < 0 ||
        (ret = optstr_get_number(opts, "poll-us", 0, VIRTIO_BLK_POLL_US_MAX, &poll_us, err)) < 0 ||
        (ret = optstr_get_bool(opts, "readonly", &device->read_only, err)) < 0 ||
        (ret = optstr_get_bool(opts, "discard", &device->discard, err)) < 0 ||
        (ret = optstr_get_bool(opts, "fixed-files", &device->fixed_files, err)) < 0)
        return ret;
    *inflight = ephemeral == BLK_EPHEMERAL_OFF; /* else the next server lacks what was written */
    ret = optstr_get_bool(opts, "inflight", inflight, err);
    if (ret < 0)
        return ret;
    device->poll_us = (unsigned)poll_us;
    image->path = optstr_get(opts, "path");
    device->serial = optstr_get(opts, "serial");
    ret = optstr_reject_unused(opts, known, err);
    if (ret < 0)
        return ret;
    if (!image->path || image->path[0] == '\0')
        return err_set(err, -EINVAL, "expected the path of a disk image");
    if (device->serial && strlen(device->serial) > SERIAL_MAX)
        return err_set(err, -EINVAL, "serial=%s: longer than %d bytes", device->serial, SERIAL_MAX);
    if (ephemeral != BLK_EPHEMERAL_OFF && *inflight)
        return err_set(err, -EINVAL, "inflight=on and ephemeral exclude each other");
    if (ephemeral != BLK_EPHEMERAL_OFF && device->read_only)
        return err_set(err, -EINVAL, "readonly=on and ephemeral exclude each other");
    if (device->fixed_files && aio == BLK_AIO_THREADS)
        return err_set(err, -EINVAL, "fixed-files=on and aio=threads exclude each other");
    image->format = format >= 0 ? formats[format] : blk_format_by_name(image->path);
    image->cache = (enum blk_cache)cache;
    image->aio = (enum blk_aio)aio;
    image->ephemeral = (enum blk_ephemeral)ephemeral;
    image->writable = !device->read_only;
    image->discard = device->discard;
    return 0;
}

static int remember(void *opaque, void *memory, size_t bytes, struct err *err)
{
    struct served_disk *disk = opaque;

    return blk_redo_log(disk->blk, memory, bytes, err);
}

bool served_disk_open(struct served_disk *disk, const char *text, unsigned queues)
{
    struct blk_open_options image = {.backing_root = img_backing_root(), .warn = warn};
    struct virtio_blk_options device = {.queues = queues,
                                        .fixed_cache = true,
                                        .poll_us = VIRTIO_BLK_POLL_US_DEFAULT,
                                        .failed = failed,
                                        .opaque = disk};
    struct vhost_user_options back_end = {.report = report, .opaque = disk};
    struct err err;

    if (read_options(&disk->options, text, &image, &device, &back_end.inflight, &err) < 0) {
        log_error("%s: %s", text, err.text);
        return false;
    }
    image_opts_apply(&image, image.path, 0);
    if (image.ephemeral == BLK_EPHEMERAL_FILE && image.key_count > 0) {
        log_error("%s: ephemeral=on would leave data of an encrypted image in the clear on a disk; "
                  "ephemeral=ram does not",
                  text);
        return false;
    }
    if (blk_open(&image, &disk->blk, &err) < 0) {
        log_error("Could not open '%s': %s", image.path, err.text);
        return false;
    }
    device.blk = disk->blk;
    back_end.log_bytes = blk_redo_log_size(disk->blk);
    back_end.remember = back_end.log_bytes > 0 ? remember : NULL;
    if (virtio_blk_create(&device, &back_end.device, &err) < 0 ||
        vhost_user_create(&back_end, &disk->back_end, &err) < 0) {
        log_error("%s: %s", image.path, err.text);
        return false;
    }
    return true;
}

int served_disk_fd(const struct served_disk *disk)
{
    return disk->connected ? vhost_user_fd(disk->back_end) : disk->socket.fd;
}

static bool flush(const struct served_disk *disk)
{
    int ret = blk_writable(disk->blk) ? blk_flush(disk->blk) : 0;

    if (ret < 0)
        log_error("cannot write '%s' back: %s", blk_path(disk->blk), strerror(-ret));
    return ret == 0;
}

static void accept_connection(struct served_disk *disk)
{
    int fd = serve_socket_accept(&disk->socket), ret;

    if (fd < 0) /* whoever knocked has gone again */
        return;
    ret = vhost_user_attach(disk->back_end, fd);
    if (ret < 0)
        log_error("%s: cannot serve a connection: %s", disk->name, strerror(-ret));
    disk->connected = ret == 0;
}

void served_disk_serve(struct served_disk *disk)
{
    if (!disk->connected) {
        accept_connection(disk);
    } else if (!vhost_user_serve(disk->back_end)) {
        disk->connected = false;
        /* The guest may have been switched off, and this program may run on until it is killed. */
        (void)flush(disk);
    }
}

bool served_disk_close(struct served_disk *disk)
{
    int status = 0;

    serve_socket_close(&disk->socket);
    vhost_user_destroy(disk->back_end);
    if (disk->blk && !flush(disk))
        status = 1;
    img_close(disk->blk, &status);
    optstr_free(&disk->options);
    return status == 0;
}
