/*
 * vhost_user_socket.h - messages and descriptors through a socket that does not block.
 */
#ifndef VIRTIO_VHOST_USER_SOCKET_H
#define VIRTIO_VHOST_USER_SOCKET_H

#include "err.h"
#include "vhost_user_protocol.h"

#include <stdbool.h>
#include <stddef.h>

struct vhost_user_message {
    size_t received; /* bytes of header and payload that are here */
    struct vu_header header;
    union vu_payload payload;
    int fds[VU_MAX_FDS]; /* -1: taken by who carries the message out */
    unsigned fd_count;
};

/* Reads on. 1: the message is complete; 0: not yet; -ENOTCONN: the front end has closed the
 * connection between two messages; other errors with a line. */
int vhost_user_receive(int socket, struct vhost_user_message *message, struct err *err);

/* Sends header and payload, and the descriptor `fd` unless it is -1. -EAGAIN: the front end does not
 * read what it gets. */
int vhost_user_send(int socket, const struct vhost_user_message *message, int fd, struct err *err);

/* Closes the descriptors that nobody has taken, and makes room for the next message. */
void vhost_user_message_clear(struct vhost_user_message *message);

/* Takes descriptor `i` out of the message. */
int vhost_user_message_take_fd(struct vhost_user_message *message, unsigned i);

#endif
