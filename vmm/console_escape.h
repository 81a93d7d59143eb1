/*
 * console_escape.h - the keys that are for minivmm and not for the guest: Ctrl-A and one more.
 *
 *   Ctrl-A x               ends the machine
 *   Ctrl-A c               lets a paused machine go on
 *   Ctrl-A a, Ctrl-A Ctrl-A   sends one Ctrl-A
 *   Ctrl-A h, Ctrl-A ?     lists these keys
 *
 * Any other key behind Ctrl-A is swallowed. State: one bit, so that a key may come in a later read.
 */
#ifndef VMM_CONSOLE_ESCAPE_H
#define VMM_CONSOLE_ESCAPE_H

#include <stdbool.h>
#include <stdint.h>

enum console_key {
    CONSOLE_KEY_NONE, /* swallowed */
    CONSOLE_KEY_BYTE, /* for the guest: *byte */
    CONSOLE_KEY_QUIT,
    CONSOLE_KEY_CONTINUE,
    CONSOLE_KEY_HELP,
};

struct console_escape {
    bool enabled;
    bool pending; /* the last byte was Ctrl-A */
};

/* Takes one typed byte. */
enum console_key console_escape_feed(struct console_escape *escape, uint8_t *byte);

#endif
