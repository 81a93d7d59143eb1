/*
 * A message is read in two steps, the header and what its size says: never a byte of the next one, so
 * that descriptors, which come with a message's first byte, cannot be taken for those of another.
 */
#include "vhost_user_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void take_descriptors(struct vhost_user_message *message, struct msghdr *msg, bool *too_many)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (message->fd_count < VU_MAX_FDS) {
                message->fds[message->fd_count++] = fd;
            } else {
                close(fd);
                *too_many = true;
            }
        }
    }
}

/* Where the next bytes go, and how many are wanted; 0: the message is complete. */
static size_t wanted(struct vhost_user_message *message, uint8_t **to)
{
    size_t header = sizeof(message->header);

    if (message->received < header) {
        *to = (uint8_t *)&message->header + message->received;
        return header - message->received;
    }
    *to = (uint8_t *)&message->payload + (message->received - header);
    return header + message->header.size - message->received;
}

static int check_header(const struct vhost_user_message *message, struct err *err)
{
    const struct vu_header *header = &message->header;

    if ((header->flags & VU_VERSION_MASK) != VU_VERSION || (header->flags & VU_FLAG_REPLY))
        return err_set(err, -EPROTO, "message %u has the flags 0x%x, which are none of a request",
                       header->request, header->flags);
    if (header->size > sizeof(message->payload))
        return err_set(err, -EPROTO, "message %u is too long (%u bytes)", header->request,
                       header->size);
    return 0;
}

int vhost_user_receive(int socket, struct vhost_user_message *message, struct err *err)
{
    for (;;) {
        union {
            char bytes[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
            struct cmsghdr align;
        } control;
        struct iovec iov;
        struct msghdr msg = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
        bool begun = message->received > 0, too_many = false;
        uint8_t *to;
        ssize_t n;

        iov.iov_len = wanted(message, &to);
        if (iov.iov_len == 0)
            return 1;
        iov.iov_base = to;
        n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n < 0 && errno != ECONNRESET)
            return err_set_errno(err, -errno, "cannot read from the socket");
        if (n <= 0 && !begun)
            return -ENOTCONN;
        if (n <= 0)
            return err_set(err, -EPROTO, "the connection ended within a message");
        take_descriptors(message, &msg, &too_many);
        if (too_many || (msg.msg_flags & MSG_CTRUNC))
            return err_set(err, -EPROTO, "a message has more than %d descriptors", VU_MAX_FDS);
        if (begun && msg.msg_controllen > 0)
            return err_set(err, -EPROTO, "descriptors came in the middle of a message");
        message->received += (size_t)n;
        if (message->received == sizeof(message->header)) {
            int ret = check_header(message, err);

            if (ret < 0)
                return ret;
        }
    }
}

int vhost_user_send(int socket, const struct vhost_user_message *message, int fd, struct err *err)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec iov[] = {
        {(void *)(uintptr_t)&message->header, sizeof(message->header)},
        {(void *)(uintptr_t)&message->payload, message->header.size},
    };
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    size_t length = sizeof(message->header) + message->header.size;
    ssize_t n;

    if (fd >= 0) {
        control.align = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(fd)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.align), &fd, sizeof(fd));
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
    }
    do
        n = sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return err_set_errno(err, -errno, "cannot answer");
    if ((size_t)n < length)
        return err_set(err, -EAGAIN, "cannot answer: the front end does not read");
    return 0;
}

void vhost_user_message_clear(struct vhost_user_message *message)
{
    for (unsigned i = 0; i < message->fd_count; i++) {
        if (message->fds[i] >= 0)
            close(message->fds[i]);
    }
    message->received = 0;
    message->fd_count = 0;
}

int vhost_user_message_take_fd(struct vhost_user_message *message, unsigned i)
{
    int fd = message->fds[i];

    message->fds[i] = -1;
    return fd;
}
