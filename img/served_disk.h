/*
 * served_disk.h - an image that is served as a vhost-user-blk device at a socket.
 */
#ifndef IMG_SERVED_DISK_H
#define IMG_SERVED_DISK_H

#include "optstr.h"
#include "serve_socket.h"

#include <stdatomic.h>
#include <stdbool.h>

struct blk;
struct vhost_user;

struct served_disk {
    const char *name; /* of the socket, for messages; borrowed */
    struct serve_socket socket;
    struct optstr options;
    struct blk *blk;
    struct vhost_user *back_end;
    bool connected;
    atomic_bool told; /* what is wrong with the image */
};

/* Opens the image that `text` says (PATH[,KEY=VALUE...]) and makes a disk of it; not yet the socket.
 * False after a message. The disk stays where it is until it is closed, also after a failure. */
bool served_disk_open(struct served_disk *disk, const char *text, unsigned queues);

/* What polls readable when served_disk_serve() has something to do. */
int served_disk_fd(const struct served_disk *disk);
void served_disk_serve(struct served_disk *disk);

/* Ends the connection and closes the image; false after a message, when something could not be written
 * back. Harmless for a disk that is all zeros but for its socket's descriptor of -1. */
bool served_disk_close(struct served_disk *disk);

#endif
