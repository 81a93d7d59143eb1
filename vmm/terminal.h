/*
 * terminal.h - the user's terminal in raw mode, and back again on every way out.
 *
 * The state is one for the process, because signal handlers must find it. After terminal_set_raw()
 * the old modes come back on terminal_restore(), on exit(), and on the signals that end a program
 * by a fault or an abort; only SIGKILL leaves a raw terminal behind (and not even that with
 * --on-reboot restart, where a parent process remembers the modes).
 */
#ifndef VMM_TERMINAL_H
#define VMM_TERMINAL_H

#include <stdbool.h>

/* Whether this process may use the terminal `fd`: no other job is in its foreground. */
bool terminal_is_foreground(int fd);

/* Notes the modes of the terminal `fd` for terminal_restore(), unless some are noted already; `fd`
 * stays open until then. 0 or a negative errno value (-ENOTTY). A child process inherits the note. */
int terminal_remember(int fd);

/* Puts the terminal `fd` into raw mode: no echo, no line editing, no signals from keys; a read
 * returns at once when nothing was typed. Output processing stays, so that messages beside the
 * guest's output keep their line ends. `fd` stays open until terminal_restore(). 0 or a negative
 * errno value; again on a raw terminal sets the modes again. */
int terminal_set_raw(int fd);

/* Puts the noted modes back and forgets them. Harmless when nothing was noted; a terminal that is
 * another job's by now is left alone. Callable from signal handlers. */
void terminal_restore(void);

#endif
