/* The UART at register level: what the 8250 driver of Linux and careful other drivers rely on. */
#include "serial.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct wire {
    struct serial *serial;
    bool irq;
    unsigned edges; /* rising */
    uint8_t sent[64];
    unsigned sent_count;
};

static void set_irq(void *controller, unsigned gsi, bool level)
{
    struct wire *wire = controller;

    assert_int_equal(gsi, 4);
    if (level && !wire->irq)
        wire->edges++;
    wire->irq = level;
}

static void take_output(void *opaque, uint8_t byte)
{
    struct wire *wire = opaque;

    assert_true(wire->sent_count < sizeof(wire->sent));
    wire->sent[wire->sent_count++] = byte;
}

static int setup(void **state)
{
    static struct wire wire;
    const struct irq_line irq = {.set = set_irq, .controller = &wire, .gsi = 4};

    wire = (struct wire){0};
    wire.serial = serial_create(&irq);
    assert_non_null(wire.serial);
    serial_set_output(wire.serial, take_output, &wire);
    *state = &wire;
    return 0;
}

static int teardown(void **state)
{
    struct wire *wire = *state;

    serial_destroy(wire->serial);
    return 0;
}

static uint8_t in(struct wire *wire, unsigned reg)
{
    uint8_t value = 0xee;

    serial_bus_ops.read(wire->serial, reg, &value, 1);
    return value;
}

static void out(struct wire *wire, unsigned reg, unsigned value)
{
    uint8_t byte = (uint8_t)value;

    serial_bus_ops.write(wire->serial, reg, &byte, 1);
}

static size_t input(struct wire *wire, const char *text)
{
    return serial_input(wire->serial, (const uint8_t *)text, strlen(text));
}

/* Whether the host's side was called back since the last time it asked. */
static bool room_signalled(struct wire *wire)
{
    struct pollfd pfd = {.fd = serial_room_fd(wire->serial), .events = POLLIN};
    uint64_t count;

    if (poll(&pfd, 1, 0) != 1)
        return false;
    assert_int_equal(read(pfd.fd, &count, sizeof(count)), sizeof(count));
    return true;
}

/* A driver that has opened the port: 8n1, FIFO with trigger 8, DTR, RTS and OUT2. */
static void open_port(struct wire *wire)
{
    out(wire, LCR, 0x03);
    out(wire, FCR, 0x81);
    out(wire, MCR, 0x0b);
}

static void registers_keep_what_they_should(void **state)
{
    static const struct {
        unsigned reg, written, read;
    } rows[] = {
        {IER, 0xff, 0x0f}, {LCR, 0x7f, 0x7f}, {MCR, 0xff, 0x1f}, {SCR, 0xa5, 0xa5},
        {SCR, 0x5a, 0x5a}, {LSR, 0xff, 0x60}, {IER, 0x00, 0x00},
    };
    struct wire *wire = *state;

    assert_int_equal(in(wire, MSR), 0xb0); /* a terminal is there, nothing has changed */
    assert_int_equal(in(wire, IIR), 0x01);
    assert_int_equal(in(wire, LSR), 0x60);
    assert_int_equal(in(wire, DATA), 0x00);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        out(wire, rows[i].reg, rows[i].written);
        assert_int_equal(in(wire, rows[i].reg), rows[i].read);
    }
}

static void divisor_hides_behind_dlab(void **state)
{
    struct wire *wire = *state;

    out(wire, IER, 0x05);
    out(wire, LCR, 0x83);
    out(wire, DATA, 0x01);
    out(wire, IER, 0x02);
    assert_int_equal(in(wire, DATA), 0x01);
    assert_int_equal(in(wire, IER), 0x02);
    assert_int_equal(wire->sent_count, 0);
    out(wire, LCR, 0x03);
    assert_int_equal(in(wire, IER), 0x05);
    out(wire, DATA, 'x');
    assert_int_equal(wire->sent_count, 1);
    out(wire, LCR, 0x83);
    assert_int_equal(in(wire, DATA), 0x01);
}

/* autoconfig() and autoconfig_16550a() of Linux's 8250_port.c, access by access. */
static void linux_autoconfig_finds_a_16550a(void **state)
{
    struct wire *wire = *state;
    uint8_t status, mcr;

    in(wire, IER);
    out(wire, IER, 0);
    assert_int_equal(in(wire, IER) & 0x0f, 0);
    out(wire, IER, 0x0f);
    assert_int_equal(in(wire, IER) & 0x0f, 0x0f);
    out(wire, IER, 0);

    out(wire, MCR, 0x10 | 0x0a);
    assert_int_equal(in(wire, MSR) & 0xf0, 0x90);
    out(wire, MCR, 0);

    out(wire, LCR, 0xbf);
    out(wire, FCR, 0);
    out(wire, LCR, 0);
    out(wire, FCR, 0x01);
    assert_int_equal(in(wire, IIR) >> 6, 3);

    out(wire, LCR, 0x80); /* a 16650 would show its EFR as 0 */
    assert_int_not_equal(in(wire, FCR), 0);
    out(wire, LCR, 0xbf);
    assert_int_not_equal(in(wire, FCR), 0);

    /* an NS16550A "Super I/O" shows MCR.LOOP in its EXCR1 */
    out(wire, LCR, 0);
    mcr = in(wire, MCR);
    out(wire, LCR, 0xe0);
    status = in(wire, FCR);
    assert_int_equal((status ^ mcr) & 0x10, 0);
    out(wire, LCR, 0);
    out(wire, MCR, mcr ^ 0x10u);
    out(wire, LCR, 0xe0);
    status = in(wire, FCR);
    out(wire, LCR, 0);
    out(wire, MCR, mcr);
    assert_int_equal((status ^ mcr) & 0x10, 0);

    /* a 16750 has a 64-byte FIFO */
    out(wire, LCR, 0);
    out(wire, FCR, 0x01);
    assert_int_equal(in(wire, IIR) >> 5, 6);
    out(wire, FCR, 0x21);
    assert_int_equal(in(wire, IIR) >> 5, 6);
    out(wire, FCR, 0x01);
    out(wire, LCR, 0x80);
    out(wire, FCR, 0x21);
    assert_int_equal(in(wire, IIR) >> 5, 6);
    out(wire, LCR, 0);

    /* an XScale has a unit enable bit in IER */
    out(wire, IER, 0x40);
    assert_int_equal(in(wire, IER) & 0x40, 0);
    assert_int_equal(wire->sent_count, 0);
    assert_int_equal(wire->edges, 0);
}

/* serial8250_do_startup() looks for UARTs that forget the "transmitter empty" interrupt. */
static void linux_startup_finds_no_transmitter_bugs(void **state)
{
    struct wire *wire = *state;

    out(wire, MCR, 0x08);
    for (int i = 0; i < 2; i++) {
        out(wire, IER, 0x02);
        assert_int_equal(in(wire, IIR) & 0x0f, 0x02);
        out(wire, IER, 0);
        assert_int_equal(in(wire, IIR) & 0x0f, 0x01);
    }
    out(wire, IER, 0x02);
    assert_int_equal(in(wire, LSR) & 0x40, 0x40);
    assert_int_equal(in(wire, IIR) & 0x01, 0);
}

static void transmitter_interrupt(void **state)
{
    struct wire *wire = *state;

    open_port(wire);
    out(wire, IER, 0x02);
    assert_true(wire->irq);
    assert_int_equal(in(wire, IIR), 0xc2);
    assert_false(wire->irq); /* reading IIR cleared it */
    assert_int_equal(in(wire, IIR), 0xc1);
    out(wire, IER, 0x02); /* enabled already: nothing new */
    assert_int_equal(in(wire, IIR), 0xc1);
    for (unsigned i = 0; i < 16; i++) {
        unsigned before = wire->edges;

        out(wire, DATA, 'a' + i);
        assert_int_equal(wire->edges, before + 1); /* an edge for each byte */
        assert_int_equal(in(wire, LSR), 0x60);
    }
    assert_memory_equal(wire->sent, "abcdefghijklmnop", 16);
    assert_int_equal(in(wire, IIR), 0xc2);
    out(wire, IER, 0);
    out(wire, DATA, 'q');
    assert_false(wire->irq);
    assert_int_equal(wire->sent_count, 17);
}

static void receive_interrupt_follows_the_trigger_level(void **state)
{
    static const unsigned level[] = {1, 4, 8, 14};
    struct wire *wire = *state;

    for (unsigned t = 0; t < 4; t++) {
        open_port(wire);
        out(wire, FCR, t << 6 | 0x03);
        out(wire, IER, 0x01);
        assert_false(wire->irq);
        for (unsigned n = 1; n <= 16; n++) {
            assert_int_equal(input(wire, "x"), 1);
            assert_true(wire->irq);
            assert_int_equal(in(wire, IIR), n >= level[t] ? 0xc4 : 0xcc);
        }
        assert_int_equal(input(wire, "x"), 0); /* full */
        for (unsigned n = 16; n > 0; n--) {
            assert_true(wire->irq);
            assert_int_equal(in(wire, IIR), n >= level[t] ? 0xc4 : 0xcc);
            assert_int_equal(in(wire, LSR), 0x61);
            assert_int_equal(in(wire, DATA), 'x');
        }
        assert_false(wire->irq);
        assert_int_equal(in(wire, LSR), 0x60);
        out(wire, IER, 0);
    }
}

static void interrupt_priorities(void **state)
{
    struct wire *wire = *state;

    out(wire, LCR, 0x03);
    out(wire, IER, 0x0f);
    out(wire, MCR, 0x1b); /* loopback: OUT1 is off, so RI falls ... */
    out(wire, MCR, 0x1f);
    out(wire, MCR, 0x1b);
    assert_int_equal(in(wire, IIR), 0x02);
    out(wire, DATA, '1');
    out(wire, DATA, '2');    /* no FIFO: overruns the first */
    assert_false(wire->irq); /* the loopback cuts the interrupt line off */
    out(wire, MCR, 0x0b);
    assert_true(wire->irq);
    assert_int_equal(in(wire, IIR), 0x06);
    assert_int_equal(in(wire, LSR), 0x63);
    assert_int_equal(in(wire, LSR), 0x61); /* reading cleared the error */
    assert_int_equal(in(wire, IIR), 0x04);
    assert_int_equal(in(wire, DATA), '2');
    assert_int_equal(in(wire, IIR), 0x02);
    assert_int_equal(in(wire, IIR), 0x00);
    assert_true(wire->irq);
    assert_int_equal(in(wire, MSR) & 0x04, 0x04);
    assert_int_equal(in(wire, MSR) & 0x0f, 0);
    assert_int_equal(in(wire, IIR), 0x01);
    assert_false(wire->irq);
    assert_int_equal(wire->sent_count, 0);
}

static void out2_gates_the_interrupt_line(void **state)
{
    struct wire *wire = *state;

    open_port(wire);
    out(wire, MCR, 0x03);
    out(wire, IER, 0x02);
    assert_false(wire->irq);
    out(wire, MCR, 0x0b);
    assert_true(wire->irq);
    out(wire, MCR, 0x03);
    assert_false(wire->irq);
    assert_int_equal(in(wire, IIR), 0xc2);
}

static void loopback_connects_the_modem_lines(void **state)
{
    static const struct {
        unsigned mcr, msr;
    } rows[] = {
        /* from a terminal that is there: everything falls but what MCR holds up */
        {0x10, 0x0b}, {0x11, 0x22}, {0x13, 0x11}, {0x17, 0x40}, {0x1f, 0x88},
        {0x1b, 0x04}, {0x10, 0x0b}, {0x10, 0x00}, {0x00, 0x0b},
    };
    static const unsigned lines[] = {0x00, 0x20, 0x30, 0x70, 0xf0, 0xb0, 0x00, 0x00, 0xb0};
    struct wire *wire = *state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        out(wire, MCR, rows[i].mcr);
        assert_int_equal(in(wire, MSR), (rows[i].msr & 0x0f) | lines[i]);
        assert_int_equal(in(wire, MSR), lines[i]);
    }
}

static void loopback_overruns_the_fifo(void **state)
{
    struct wire *wire = *state;

    out(wire, FCR, 0x01);
    out(wire, MCR, 0x10);
    for (unsigned i = 0; i < 17; i++)
        out(wire, DATA, i);
    assert_int_equal(in(wire, LSR), 0x63);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in(wire, DATA), i);
    assert_int_equal(in(wire, LSR), 0x60);
    assert_int_equal(wire->sent_count, 0);
    assert_int_equal(input(wire, "x"), 0); /* the outside is disconnected */
    out(wire, IER, 0x01);
    assert_false(room_signalled(wire));
    out(wire, MCR, 0x02);
    assert_true(room_signalled(wire));
    assert_int_equal(input(wire, "x"), 1);
}

static void fifo_control_clears(void **state)
{
    static const struct {
        unsigned fcr, left;
    } rows[] = {
        {0x01, 3}, /* the same again */
        {0x05, 3}, /* the transmitter's */
        {0x03, 0}, /* the receiver's */
        {0x00, 0}, /* changing the mode */
    };
    struct wire *wire = *state;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        out(wire, FCR, 0x03);
        out(wire, IER, 0x01);
        assert_int_equal(input(wire, "abc"), 3);
        out(wire, FCR, rows[i].fcr);
        for (unsigned n = 0; n < rows[i].left; n++) {
            assert_int_equal(in(wire, LSR) & 0x01, 1);
            in(wire, DATA);
        }
        assert_int_equal(in(wire, LSR) & 0x01, 0);
    }
    out(wire, FCR, 0xc6); /* without the enable bit nothing else counts */
    assert_int_equal(in(wire, IIR), 0x01);
}

static void without_a_fifo_one_byte_fits(void **state)
{
    struct wire *wire = *state;

    out(wire, MCR, 0x0b);
    out(wire, IER, 0x01);
    assert_int_equal(input(wire, "ab"), 1);
    assert_int_equal(in(wire, IIR), 0x04);
    assert_int_equal(in(wire, DATA), 'a');
    assert_true(room_signalled(wire));
    assert_int_equal(input(wire, "b"), 1);
    assert_int_equal(in(wire, DATA), 'b');
    assert_false(room_signalled(wire));
}

static void room_is_signalled_once_when_the_fifo_is_empty(void **state)
{
    struct wire *wire = *state;

    open_port(wire);
    out(wire, IER, 0x01);
    assert_int_equal(input(wire, "0123456789abcdefXYZ"), 16);
    for (unsigned i = 0; i < 16; i++) {
        assert_false(room_signalled(wire));
        in(wire, DATA);
    }
    assert_true(room_signalled(wire));
    assert_int_equal(in(wire, DATA), 0);
    assert_false(room_signalled(wire));
    assert_int_equal(input(wire, "XYZ"), 3);
    in(wire, DATA);
    in(wire, DATA);
    in(wire, DATA);
    assert_false(room_signalled(wire)); /* nobody was turned away */
}

enum { READ = 256 };

static void run_script(struct wire *wire, const unsigned (*script)[2], size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (script[i][1] == READ)
            in(wire, script[i][0]);
        else
            out(wire, script[i][0], script[i][1]);
        assert_int_equal(input(wire, "hello"), 0);
        assert_false(room_signalled(wire));
    }
}

/* What waits outside survives the start-up and the end of a driver: serial8250_do_startup, set_termios
 * and serial8250_do_shutdown of Linux, which throw away what they find. */
static void input_waits_for_the_driver_to_open_the_port(void **state)
{
    static const unsigned probe[][2] = {
        {IER, 0x0f}, {IER, 0x00}, {MCR, 0x1a}, {MCR, 0x00}, {FCR, 0x01},
        {IIR, READ}, {FCR, 0x00}, {MCR, 0x01}, /* a console has DTR before anybody opens it */
    };
    static const unsigned open[][2] = {
        {FCR, 0x01},  {FCR, 0x07},  {FCR, 0x00}, {LSR, READ}, {DATA, READ}, {IIR, READ},
        {MSR, READ},  {LSR, READ},  {LSR, READ}, {LCR, 0x03}, {MCR, 0x09},  {IER, 0x02},
        {IIR, READ},  {IER, 0x00},  {IER, 0x02}, {LSR, READ}, {IIR, READ},  {IER, 0x00},
        {LSR, READ},  {DATA, READ}, {IIR, READ}, {MSR, READ}, {IER, 0x05},  {LCR, 0x83},
        {DATA, 0x01}, {IER, 0x00},  {LCR, 0x03},
    };
    static const unsigned shut[][2] = {
        {IER, 0x00}, {LCR, 0x03}, {FCR, 0x01}, {FCR, 0x07}, {FCR, 0x00}, {DATA, READ},
    };
    struct wire *wire = *state;

    assert_int_equal(input(wire, "hello"), 0);
    run_script(wire, probe, sizeof(probe) / sizeof(probe[0]));
    for (unsigned lives = 0; lives < 2; lives++) {
        run_script(wire, open, sizeof(open) / sizeof(open[0]));
        out(wire, FCR, 0x81);
        assert_true(room_signalled(wire));
        assert_int_equal(input(wire, "hello"), 5);
        out(wire, FCR, 0x81);
        out(wire, MCR, 0x0b);
        for (const char *p = "hello"; *p != '\0'; p++)
            assert_int_equal(in(wire, DATA), *p);
        run_script(wire, shut, sizeof(shut) / sizeof(shut[0]));
    }
}

static void a_polling_guest_listens(void **state)
{
    struct wire *wire = *state;

    for (unsigned i = 0; i < 4; i++) { /* sending with a look at LSR is not polling */
        assert_int_equal(in(wire, LSR), 0x60);
        assert_int_equal(input(wire, "k"), 0);
        out(wire, DATA, 'x');
    }
    for (unsigned i = 0; i < 8; i++) {
        assert_false(room_signalled(wire));
        assert_int_equal(in(wire, LSR), 0x60);
    }
    assert_true(room_signalled(wire));
    assert_int_equal(input(wire, "k"), 1);
    assert_int_equal(in(wire, LSR), 0x61);
    assert_int_equal(in(wire, DATA), 'k');
}

static void wide_accesses_touch_register_after_register(void **state)
{
    struct wire *wire = *state;
    uint8_t bytes[4] = {'z', 0x05, 0x01, 0x03};

    serial_bus_ops.write(wire->serial, DATA, bytes, 4);
    assert_int_equal(wire->sent_count, 1);
    assert_int_equal(wire->sent[0], 'z');
    serial_bus_ops.read(wire->serial, DATA, bytes, 4);
    assert_int_equal(bytes[1], 0x05);
    assert_int_equal(bytes[2], 0xc1);
    assert_int_equal(bytes[3], 0x03);
}

static void output_may_be_missing(void **state)
{
    struct wire *wire = *state;

    serial_set_output(wire->serial, NULL, NULL);
    out(wire, DATA, 'x');
    assert_int_equal(wire->sent_count, 0);
    assert_int_equal(in(wire, LSR), 0x60);
}

/* Any access of any length with any value, from seeds that are printed: no state can be wedged. */
static void random_accesses_leave_a_working_uart(void **state)
{
    struct wire *wire = *state;
    uint64_t seed = 0x5eed16550aULL;

    print_message("seed %#llx\n", (unsigned long long)seed);
    serial_set_output(wire->serial, NULL, NULL);
    for (unsigned i = 0; i < 200000; i++) {
        uint8_t data[8];
        unsigned len = 1u << (seed >> 60 & 3);
        unsigned reg = (unsigned)(seed >> 33) % (9 - len);

        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        memcpy(data, &seed, sizeof(data));
        if (seed >> 63)
            serial_bus_ops.write(wire->serial, reg, data, len);
        else if (seed >> 62 & 1)
            serial_bus_ops.read(wire->serial, reg, data, len);
        else
            assert_true(serial_input(wire->serial, data, len) <= len);
    }
    serial_set_output(wire->serial, take_output, wire);
    out(wire, IER, 0);
    out(wire, LCR, 0x03);
    out(wire, FCR, 0x00);
    open_port(wire);
    in(wire, LSR);
    in(wire, MSR);
    out(wire, IER, 0x01);
    assert_false(wire->irq);
    assert_int_equal(input(wire, "ok"), 2);
    assert_true(wire->irq);
    assert_int_equal(in(wire, DATA), 'o');
    assert_int_equal(in(wire, DATA), 'k');
    assert_false(wire->irq);
    out(wire, DATA, '!');
    assert_int_equal(wire->sent[0], '!');
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(registers_keep_what_they_should),
        TEST(divisor_hides_behind_dlab),
        TEST(linux_autoconfig_finds_a_16550a),
        TEST(linux_startup_finds_no_transmitter_bugs),
        TEST(transmitter_interrupt),
        TEST(receive_interrupt_follows_the_trigger_level),
        TEST(interrupt_priorities),
        TEST(out2_gates_the_interrupt_line),
        TEST(loopback_connects_the_modem_lines),
        TEST(loopback_overruns_the_fifo),
        TEST(fifo_control_clears),
        TEST(without_a_fifo_one_byte_fits),
        TEST(room_is_signalled_once_when_the_fifo_is_empty),
        TEST(input_waits_for_the_driver_to_open_the_port),
        TEST(a_polling_guest_listens),
        TEST(wide_accesses_touch_register_after_register),
        TEST(output_may_be_missing),
        TEST(random_accesses_leave_a_working_uart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
