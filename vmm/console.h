/*
 * console.h - the other end of COM1: the terminal (stdio), nothing, a file or a pseudo-terminal.
 *
 * Life: console_open -> console_start -> console_release -> console_stop -> console_close. start to
 * stop may happen once.
 *
 * Threads: all calls from the main thread. One console thread moves bytes in both directions; vCPU
 * threads put output into a ring, and wait when it is full, so that a slow reader slows the guest
 * down and loses nothing.
 */
#ifndef VMM_CONSOLE_H
#define VMM_CONSOLE_H

#include "config.h"
#include "err.h"
#include "life.h"

#include <stdbool.h>

struct console;
struct halt;
struct serial;

/* Opens the backend that `config` names; creates or empties the file, says the pty's path on
 * standard error. The terminal is not touched yet. `life` is borrowed: Ctrl-A x posts LIFE_SIGNAL
 * with SIGINT to the life, Ctrl-A c HALT_OVER to the halt that console_start() is given. */
int console_open(const struct vm_config *config, struct console **out, struct err *err);

/* Connects the UART, puts the terminal into raw mode and starts the thread. `serial`, `life` and
 * `halt` are borrowed until console_stop. */
int console_start(struct console *console, struct serial *serial, struct life *life,
                  struct halt *halt, struct err *err);

/* Whether Ctrl-A and a key mean something. */
bool console_has_keys(const struct console *console);

/* After SIGCONT: the shell may have given the terminal back, or taken it away. */
void console_resume(struct console *console);

/* From now on no vCPU waits for the console: what does not fit into the ring is lost. Before
 * machine_stop(), which waits for the vCPUs. */
void console_release(struct console *console);

/* No vCPU runs any more. Writes what the ring holds, for as long as somebody takes it (a reader
 * that has stalled for some seconds is given up, with a warning), stops the thread and restores the
 * terminal. Harmless when not started. */
void console_stop(struct console *console);

/* NULL is allowed. */
void console_close(struct console *console);

#endif
