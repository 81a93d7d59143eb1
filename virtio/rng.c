/*
 * The entropy device: each buffer is filled from the kernel's generator, up to a bound, so that one
 * request can not keep the queue's thread from stopping.
 */
#include "virtio_rng.h"

#include "checked.h"
#include "queue_thread.h"
#include "random.h"
#include "virtio_device.h"
#include "virtqueue.h"

#include <errno.h>
#include <stdlib.h>

enum { DEVICE_TYPE_ENTROPY = 4, CLASS_UNCLASSIFIED = 0x00ff00, QUEUE_SIZE = 64, BYTES_MAX = 65536 };

struct rng_device {
    struct virtio_device dev; /* first: cast back */
    struct queue_thread thread;
    struct virtqueue queue;
    struct iovec iov[QUEUE_SIZE];
};

static struct rng_device *from_device(struct virtio_device *dev)
{
    return (struct rng_device *)dev;
}

/* Bytes put into the buffers, in order; fewer than asked for at the bound. */
static uint32_t fill(const struct virtqueue_chain *chain)
{
    uint32_t written = 0;

    for (unsigned i = 0; i < chain->writable; i++) {
        size_t bytes = (size_t)min_u64(chain->iov[i].iov_len, BYTES_MAX - written);

        if (random_bytes(chain->iov[i].iov_base, bytes) != 0)
            break;
        written += (uint32_t)bytes;
    }
    return written;
}

static int serve(struct queue_thread *qt, bool drain)
{
    struct virtqueue_chain chain = {.iov = from_device(qt->dev)->iov};
    uint16_t head;
    int ret;

    if (drain)
        return 0;
    ret = virtqueue_take(qt->vq, &head);
    if (ret > 0) {
        ret = virtqueue_read_chain(qt->vq, head, &chain);
        if (ret == 0 && chain.readable > 0) /* section 5.4.6.1 */
            ret = virtqueue_fail(qt->vq);
        if (ret < 0)
            return ret;
        virtqueue_push(qt->vq, head, fill(&chain));
        queue_thread_publish(qt);
        return 1;
    }
    return ret;
}

static bool busy(const struct queue_thread *qt)
{
    (void)qt;
    return false;
}

static int event_fd(const struct queue_thread *qt)
{
    (void)qt;
    return -1;
}

static const struct queue_thread_ops thread_ops = {
    .serve = serve,
    .busy = busy,
    .event_fd = event_fd,
};

static int start(struct virtio_device *dev)
{
    return dev->queues[0].ready ? queue_thread_start(&from_device(dev)->thread) : 0;
}

static void stop(struct virtio_device *dev)
{
    queue_thread_stop(&from_device(dev)->thread);
}

static void resume(struct virtio_device *dev)
{
    if (start(dev) < 0)
        virtio_device_fail(dev);
}

static void destroy(struct virtio_device *dev)
{
    struct rng_device *rng = from_device(dev);

    stop(dev);
    queue_thread_destroy(&rng->thread);
    virtqueue_destroy(&rng->queue);
    free(rng);
}

static const struct virtio_device_ops device_ops = {
    .activate = start,
    .reset = stop,
    .pause = stop,
    .resume = resume,
    .destroy = destroy,
};

int virtio_rng_create(struct virtio_device **out, struct err *err)
{
    struct rng_device *rng = calloc(1, sizeof(*rng));
    int ret;

    if (!rng)
        return err_set_errno(err, -ENOMEM, "cannot create the entropy device");
    rng->dev = (struct virtio_device){
        .ops = &device_ops,
        .name = "virtio-rng",
        .type = DEVICE_TYPE_ENTROPY,
        .pci_class = CLASS_UNCLASSIFIED,
        .queue_count = 1,
        .queues = &rng->queue,
    };
    ret = virtqueue_init(&rng->queue, QUEUE_SIZE);
    if (ret == 0)
        ret = queue_thread_init(&rng->thread, &thread_ops, &rng->dev, 0, 0);
    if (ret < 0) {
        virtqueue_destroy(&rng->queue);
        free(rng);
        return err_set_errno(err, ret, "cannot create the entropy device");
    }
    *out = &rng->dev;
    return 0;
}
