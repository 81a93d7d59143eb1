/*
 * console_backend.h - descriptors of a console that never block.
 *
 * Standard input and output belong to other processes too (the shell, the rest of a pipeline), so
 * their O_NONBLOCK flag must not be touched. Terminals and pipes are opened a second time, which
 * gives an open file description of our own; sockets have a flag for each call; what is left (a
 * terminal of another user) is written in pieces that poll(2) promises room for.
 *
 * Threads: open and close from the main thread, read and write from the console thread.
 */
#ifndef VMM_CONSOLE_BACKEND_H
#define VMM_CONSOLE_BACKEND_H

#include "config.h"
#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct console_backend {
    int in_fd;         /* -1: no input */
    int out_fd;        /* -1: no output */
    bool terminal;     /* input is the user's terminal */
    bool pty;          /* in_fd and out_fd are one descriptor, the master's */
    bool socket;       /* output is a socket */
    size_t write_size; /* at most this much in one write */
};

int console_backend_open(const struct vm_config *config, struct console_backend *backend,
                         struct err *err);
void console_backend_close(struct console_backend *backend);

/* Bytes read; 0 at the end of the input; -EAGAIN when there is nothing now. */
ssize_t console_backend_read(const struct console_backend *backend, uint8_t *bytes, size_t length);

/* Bytes written; -EAGAIN when there is no room now; another errno value when output is over. */
ssize_t console_backend_write(const struct console_backend *backend, const uint8_t *bytes,
                              size_t length);

#endif
