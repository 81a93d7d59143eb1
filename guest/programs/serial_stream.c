/*
 * serial_stream - many bytes through COM1, polling. `send=N` sends N bytes: the alphabet over and over,
 * a line feed as every 64th. `echo=N` sends N bytes back as they come. First send, then echo.
 */
#include "lib.h"

enum {
    DATA = PORT_COM1,
    FIFO_CONTROL = PORT_COM1 + 2,
    MODEM_CONTROL = PORT_COM1 + 4,
    LINE_STATUS = PORT_COM1 + 5,
    FIFO_ENABLE = 1,
    MODEM_READY = 3,
    STATUS_DATA_READY = 1,
};

int main(void)
{
    uint64_t send = argument("send", 0);

    /* Without `early`, as a driver does; with it the port is as the reset left it. */
    if (!has_argument("early")) {
        out8(FIFO_CONTROL, FIFO_ENABLE);
        out8(MODEM_CONTROL, MODEM_READY);
    }
    for (uint64_t i = 0; i < send; i++)
        out8(DATA, i % 64 == 63 ? '\n' : (uint8_t)('A' + i % 26));
    for (uint64_t left = argument("echo", 0); left > 0; left--) {
        while (!(in8(LINE_STATUS) & STATUS_DATA_READY))
            __asm__ volatile("pause");
        out8(DATA, in8(DATA));
    }
    return EXIT_PASS;
}
