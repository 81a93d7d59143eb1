#include "console_backend.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { WRITE_SIZE_MAX = 65536 };

/* A non-blocking descriptor of our own for a terminal or pipe that we were started with, or -1. */
static int reopen(int fd, int flags)
{
    char path[32];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/* A descriptor for `fd` that lives as long as the console, non-blocking where that can be had. */
static int adopt(int fd, int flags, bool *nonblocking, struct stat *status)
{
    int own = -1;

    *nonblocking = false;
    if (fstat(fd, status) < 0)
        return -errno;
    if (S_ISCHR(status->st_mode) || S_ISFIFO(status->st_mode))
        own = reopen(fd, flags);
    *nonblocking = own >= 0;
    if (own < 0)
        own = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return own >= 0 ? own : -errno;
}

static int open_stdio(struct console_backend *backend, struct err *err)
{
    struct stat status;
    bool nonblocking;

    backend->out_fd = adopt(STDOUT_FILENO, O_WRONLY, &nonblocking, &status);
    if (backend->out_fd < 0)
        return err_set_errno(err, backend->out_fd, "cannot use standard output as the console");
    backend->socket = S_ISSOCK(status.st_mode);
    if (!nonblocking && S_ISFIFO(status.st_mode))
        backend->write_size = PIPE_BUF;
    else if (!nonblocking && S_ISCHR(status.st_mode))
        backend->write_size = 1;

    backend->in_fd = adopt(STDIN_FILENO, O_RDONLY, &nonblocking, &status);
    if (backend->in_fd < 0)
        return err_set_errno(err, backend->in_fd, "cannot use standard input as the console");
    backend->terminal = isatty(backend->in_fd) == 1;
    return 0;
}

/* O_NONBLOCK: a named pipe without a reader is an error and not a wait. */
static int open_file(struct console_backend *backend, const char *path, struct err *err)
{
    backend->out_fd =
        open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0666);
    if (backend->out_fd < 0)
        return err_set_errno(err, -errno, "--console: cannot open %s", path);
    return 0;
}

/* The slave is opened once, for its modes, and closed again: while nobody has it open the master
 * polls as hung up, which is how the console knows that nobody reads. */
static int open_pty(struct console_backend *backend, struct err *err)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct termios modes;
    char path[64];
    int slave;

    if (master < 0)
        return err_set_errno(err, -errno, "--console pty: cannot open a pseudo-terminal");
    backend->in_fd = backend->out_fd = master;
    backend->pty = true;
    if (grantpt(master) < 0 || unlockpt(master) < 0)
        return err_set_errno(err, -errno, "--console pty: cannot set up a pseudo-terminal");
    errno = ptsname_r(master, path, sizeof(path));
    if (errno != 0)
        return err_set_errno(err, -errno, "--console pty: cannot find the pseudo-terminal's path");
    slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return err_set_errno(err, -errno, "--console pty: cannot open %s", path);
    if (tcgetattr(slave, &modes) == 0) {
        cfmakeraw(&modes);
        (void)tcsetattr(slave, TCSANOW, &modes);
    }
    close(slave);
    dprintf(STDERR_FILENO, "%s: the console is %s\n", log_program_name(), path);
    return 0;
}

int console_backend_open(const struct vm_config *config, struct console_backend *backend,
                         struct err *err)
{
    int rc = 0;

    *backend = (struct console_backend){.in_fd = -1, .out_fd = -1, .write_size = WRITE_SIZE_MAX};
    switch (config->console) {
    case CONSOLE_STDIO:
        rc = open_stdio(backend, err);
        break;
    case CONSOLE_NULL:
        break;
    case CONSOLE_FILE:
        rc = open_file(backend, config->console_path, err);
        break;
    case CONSOLE_PTY:
        rc = open_pty(backend, err);
        break;
    }
    if (rc < 0)
        console_backend_close(backend);
    return rc;
}

void console_backend_close(struct console_backend *backend)
{
    if (backend->in_fd >= 0)
        close(backend->in_fd);
    if (backend->out_fd >= 0 && backend->out_fd != backend->in_fd)
        close(backend->out_fd);
    backend->in_fd = backend->out_fd = -1;
}

ssize_t console_backend_read(const struct console_backend *backend, uint8_t *bytes, size_t length)
{
    ssize_t n = read(backend->in_fd, bytes, length);

    if (n < 0)
        return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
    /* A raw terminal reads nothing as 0 (terminal.h). */
    return n == 0 && backend->terminal ? -EAGAIN : n;
}

ssize_t console_backend_write(const struct console_backend *backend, const uint8_t *bytes,
                              size_t length)
{
    ssize_t n;

    if (length > backend->write_size)
        length = backend->write_size;
    if (backend->socket)
        n = send(backend->out_fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    else
        n = write(backend->out_fd, bytes, length);
    if (n < 0)
        return errno == EINTR || errno == EWOULDBLOCK ? -EAGAIN : -errno;
    return n;
}
