#include "serve_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* One connection is served at a time, others wait. */
enum { BACKLOG = 16 };

static int open_unix(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    return fd < 0 ? -errno : fd;
}

/* Whether the name is a socket that its owner has left behind. */
static bool is_stale(const struct sockaddr_un *address)
{
    struct stat st;
    bool stale;
    int fd;

    if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = open_unix();
    if (fd < 0)
        return false;
    stale = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 &&
            errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int bind_name(int fd, const struct sockaddr_un *address)
{
    if (bind(fd, (const struct sockaddr *)address, sizeof(*address)) == 0)
        return 0;
    if (errno != EADDRINUSE || !is_stale(address))
        return -errno;
    if (unlink(address->sun_path) < 0 ||
        bind(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return -errno;
    return 0;
}

int serve_socket_listen(struct serve_socket *socket, const char *path, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat st;
    int fd, ret;

    if (path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
        return err_set(err, -EINVAL, "cannot listen at '%s': a socket's path has 1 to %zu bytes",
                       path, sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path));
    fd = open_unix();
    ret = fd < 0 ? fd : bind_name(fd, &address);
    if (ret == 0 && listen(fd, BACKLOG) < 0)
        ret = -errno;
    if (ret < 0) {
        if (fd >= 0)
            close(fd);
        return err_set_errno(err, ret, "cannot listen at '%s'", path);
    }
    *socket = (struct serve_socket){.fd = fd, .path = path};
    if (lstat(path, &st) == 0) {
        socket->device = st.st_dev;
        socket->inode = st.st_ino;
    }
    return 0;
}

int serve_socket_take(struct serve_socket *socket, int fd, struct err *err)
{
    int listens = 0, family = 0;
    socklen_t a = sizeof(listens), b = sizeof(family);

    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &a) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &b) < 0)
        return err_set_errno(err, -errno, "descriptor %d", fd);
    if (!listens || family != AF_UNIX)
        return err_set(err, -EINVAL, "descriptor %d is no listening Unix socket", fd);
    *socket = (struct serve_socket){.fd = fd};
    return 0;
}

int serve_socket_accept(const struct serve_socket *socket)
{
    int fd = accept4(socket->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

void serve_socket_close(struct serve_socket *socket)
{
    struct stat st;

    if (socket->fd < 0)
        return;
    if (socket->path && lstat(socket->path, &st) == 0 && st.st_dev == socket->device &&
        st.st_ino == socket->inode)
        unlink(socket->path);
    close(socket->fd);
    socket->fd = -1;
}
