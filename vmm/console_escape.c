#include "console_escape.h"

enum { CTRL_A = 1 };

enum console_key console_escape_feed(struct console_escape *escape, uint8_t *byte)
{
    if (!escape->enabled)
        return CONSOLE_KEY_BYTE;
    if (!escape->pending) {
        escape->pending = *byte == CTRL_A;
        return escape->pending ? CONSOLE_KEY_NONE : CONSOLE_KEY_BYTE;
    }
    escape->pending = false;
    switch (*byte) {
    case 'x':
        return CONSOLE_KEY_QUIT;
    case 'c':
        return CONSOLE_KEY_CONTINUE;
    case 'h':
    case '?':
        return CONSOLE_KEY_HELP;
    case 'a':
    case CTRL_A:
        *byte = CTRL_A;
        return CONSOLE_KEY_BYTE;
    default:
        return CONSOLE_KEY_NONE;
    }
}
