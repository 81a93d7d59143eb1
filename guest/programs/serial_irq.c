/*
 * serial_irq - COM1 by interrupts: the transmitter's, and received bytes that come back in loopback
 * mode and, with `echo` on the command line, from outside: a line is read and sent back.
 */
#include "interrupt.h"
#include "lib.h"

enum {
    DATA = PORT_COM1,
    INTERRUPT_ENABLE = PORT_COM1 + 1,
    INTERRUPT_ID = PORT_COM1 + 2,
    FIFO_CONTROL = PORT_COM1 + 2,
    MODEM_CONTROL = PORT_COM1 + 4,
    LINE_STATUS = PORT_COM1 + 5,

    ENABLE_RECEIVED = 1,
    ENABLE_TRANSMITTER = 2,
    ID_NONE = 1,
    ID_MASK = 0x0f,
    ID_TRANSMITTER = 2,
    ID_RECEIVED = 4,
    ID_TIMEOUT = 12,
    MODEM_OUT2 = 8,
    MODEM_LOOP = 0x10,
    STATUS_DATA_READY = 1,

    GSI = 4,
    VECTOR = 36,
};

static char line[256];
static volatile size_t line_length;
static volatile unsigned transmitter_events;

static void on_interrupt(unsigned vector)
{
    uint8_t id;

    (void)vector;
    while (!((id = in8(INTERRUPT_ID) & ID_MASK) & ID_NONE)) {
        if (id == ID_TRANSMITTER) {
            transmitter_events++;
        } else if (id == ID_RECEIVED || id == ID_TIMEOUT) {
            while (in8(LINE_STATUS) & STATUS_DATA_READY) {
                char c = (char)in8(DATA);

                if (line_length < sizeof(line) - 1)
                    line[line_length++] = c;
            }
        } else {
            return;
        }
    }
}

int main(void)
{
    interrupt_set_handler(VECTOR, on_interrupt);
    ioapic_route(GSI, VECTOR);
    interrupt_enable();
    out8(FIFO_CONTROL, 0x07);
    out8(MODEM_CONTROL, MODEM_OUT2 | 3);

    check(interrupt_count(VECTOR) == 0, "no interrupt before one was enabled");
    out8(INTERRUPT_ENABLE, ENABLE_TRANSMITTER);
    check(WAIT_FOR(transmitter_events > 0, LONG_WAIT), "an idle transmitter interrupts when asked");
    transmitter_events = 0;
    out8(DATA, '#');
    check(WAIT_FOR(transmitter_events > 0, LONG_WAIT), "and again when it has sent a byte");

    out8(INTERRUPT_ENABLE, ENABLE_RECEIVED);
    out8(MODEM_CONTROL, MODEM_LOOP | MODEM_OUT2 | 3);
    out8(DATA, 'x');
    if (WAIT_FOR(in8(LINE_STATUS) & STATUS_DATA_READY || line_length, LONG_WAIT)) {
        out8(MODEM_CONTROL, MODEM_OUT2 | 3);
        check(WAIT_FOR(line_length == 1, LONG_WAIT) && line[0] == 'x',
              "a byte in loopback comes back with an interrupt");
    } else {
        out8(MODEM_CONTROL, MODEM_OUT2 | 3);
        check(false, "loopback returns a byte");
    }

    if (has_argument("echo")) {
        line_length = 0;
        say("ready\n");
        check(WAIT_FOR(line_length > 0 && line[line_length - 1] == '\n', LONG_WAIT),
              "a line arrives from outside");
        out8(INTERRUPT_ENABLE, 0);
        line[line_length] = '\0';
        say("echo: %s", line);
    }
    out8(INTERRUPT_ENABLE, 0);
    return 0;
}
