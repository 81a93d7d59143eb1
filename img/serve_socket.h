/*
 * serve_socket.h - Unix sockets that programs connect to.
 */
#ifndef IMG_SERVE_SOCKET_H
#define IMG_SERVE_SOCKET_H

#include "err.h"

#include <sys/types.h>

struct serve_socket {
    int fd;           /* -1: there is none */
    const char *path; /* borrowed; NULL: made by somebody else, who looks after its name */
    dev_t device;     /* of the name, so that another program's is not removed */
    ino_t inode;
};

/* Listens at `path`. A socket there that nobody listens at is replaced; -EADDRINUSE: somebody does, or
 * the name belongs to something else. */
int serve_socket_listen(struct serve_socket *socket, const char *path, struct err *err);
/* Takes a listening socket that the parent process has opened. */
int serve_socket_take(struct serve_socket *socket, int fd, struct err *err);
/* The next connection, which does not block, or a negative errno value. */
int serve_socket_accept(const struct serve_socket *socket);
/* Removes the name, too, if it is still its own. Harmless when there is none. */
void serve_socket_close(struct serve_socket *socket);

#endif
