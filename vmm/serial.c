/*
 * serial.c - see serial.h. Source: National Semiconductor PC16550D data sheet.
 *
 *   port   read                      write                    with LCR.DLAB
 *   0      RBR  received byte        THR  byte to send        DLL  divisor, low
 *   1      IER  interrupt enable     IER                      DLM  divisor, high
 *   2      IIR  interrupt cause      FCR  FIFO control
 *   3      LCR  line control         LCR
 *   4      MCR  modem control        MCR
 *   5      LSR  line status          -
 *   6      MSR  modem status         -
 *   7      SCR  scratch              SCR
 *
 * The line has no speed: a byte written to THR has left the transmitter when the write is over, so
 * THRE and TEMT always read 1. The divisor and the frame format are stored and mean nothing. The
 * character timeout of the receive FIFO strikes at once: bytes below the trigger level are reported
 * as timed out.
 *
 * 1. An interrupt is the highest of: line status, received data (or timeout), transmitter empty,
 * modem status. IIR shows it; only "transmitter empty" is cleared by reading IIR.
 * 2. "Transmitter empty" becomes pending when a byte was sent and when IER enables it. Sending
 * clears it first, so that an edge-triggered controller sees an edge for every byte, as on
 * hardware.
 * 3. The interrupt line follows IIR while MCR.OUT2 is set and the loopback is off, as PCs wire it.
 * 4. Nothing from outside is lost. The host's side is held up, as by flow control, while the FIFO is
 *    full and while the guest does not listen: a driver that opens or closes the port empties the
 *    FIFO, reads the data register to throw away what is in it, and changes the FIFO's mode, which
 *    empties it again. The guest listens when it
 *      - enabled the receive interrupt and the FIFO, or
 *      - enabled the receive interrupt and OUT2, and has never used the FIFO. (Linux probes with OUT2
 *        off, and then with the FIFO on; it opens the port with the FIFO off, then turns it on.) Or it
 *      - polls: reads LSR several times in a row. A driver that is about to send reads it once, because
 *        it always finds the transmitter empty (Linux twice, when it opens the port).
 * 5. `refused` is set when the host's side was turned away, and cleared together with the signal
 * that it may come again. Both happen under the lock, so no wake-up is lost.
 */
#include "serial.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum {
    IER_RECEIVED = 0x01,
    IER_SENT = 0x02,
    IER_LINE = 0x04,
    IER_MODEM = 0x08,
    IER_ALL = 0x0f,

    IIR_MODEM = 0x00,
    IIR_NONE = 0x01,
    IIR_SENT = 0x02,
    IIR_RECEIVED = 0x04,
    IIR_LINE = 0x06,
    IIR_TIMEOUT = 0x0c,
    IIR_FIFO = 0xc0,

    FCR_ENABLE = 0x01,
    FCR_CLEAR_RECEIVE = 0x02,
    FCR_TRIGGER_SHIFT = 6,

    LCR_DLAB = 0x80,

    MCR_DTR = 0x01,
    MCR_RTS = 0x02,
    MCR_OUT1 = 0x04,
    MCR_OUT2 = 0x08,
    MCR_LOOP = 0x10,
    MCR_ALL = 0x1f,

    LSR_READY = 0x01,
    LSR_OVERRUN = 0x02,
    LSR_THR_EMPTY = 0x20,
    LSR_IDLE = 0x40,

    MSR_CTS_CHANGED = 0x01,
    MSR_DSR_CHANGED = 0x02,
    MSR_RI_ENDED = 0x04,
    MSR_DCD_CHANGED = 0x08,
    MSR_CHANGES = 0x0f,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80,
    MSR_LINES = 0xf0,

    FIFO_SIZE = 16,
    POLLING = 8, /* reads of LSR in a row */
};

struct serial {
    pthread_mutex_t lock; /* everything below but what set-up fixed */
    uint8_t ier, fcr, lcr, mcr, msr, scratch, divisor_low, divisor_high;
    bool overrun;
    bool sent_pending;
    bool line_level;
    uint8_t fifo[FIFO_SIZE];
    unsigned fifo_start, fifo_count;
    unsigned lsr_reads; /* in a row */
    bool fifo_used;     /* the FIFO was on at some time */
    bool refused;

    /* fixed before the machine runs */
    struct irq_line irq;
    void (*output)(void *opaque, uint8_t byte);
    void *output_opaque;
    int room_fd;
};

struct serial *serial_create(const struct irq_line *irq)
{
    struct serial *serial = calloc(1, sizeof(*serial));

    if (serial == NULL)
        return NULL;
    serial->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (serial->room_fd < 0 || pthread_mutex_init(&serial->lock, NULL) != 0) {
        if (serial->room_fd >= 0)
            close(serial->room_fd);
        free(serial);
        return NULL;
    }
    serial->irq = *irq;
    serial->divisor_low = 12; /* 9600 */
    serial->msr = MSR_DCD | MSR_DSR | MSR_CTS;
    return serial;
}

void serial_destroy(struct serial *serial)
{
    if (serial == NULL)
        return;
    pthread_mutex_destroy(&serial->lock);
    close(serial->room_fd);
    free(serial);
}

void serial_set_output(struct serial *serial, void (*output)(void *opaque, uint8_t byte),
                       void *opaque)
{
    serial->output = output;
    serial->output_opaque = opaque;
}

int serial_room_fd(const struct serial *serial)
{
    return serial->room_fd;
}

/* ---- receiver ---- */

static unsigned fifo_capacity(const struct serial *serial)
{
    return serial->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

static unsigned fifo_trigger(const struct serial *serial)
{
    static const uint8_t level[] = {1, 4, 8, 14};

    return serial->fcr & FCR_ENABLE ? level[serial->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

static void fifo_clear(struct serial *serial)
{
    serial->fifo_start = 0;
    serial->fifo_count = 0;
}

static void fifo_push(struct serial *serial, uint8_t byte)
{
    serial->fifo[(serial->fifo_start + serial->fifo_count) % FIFO_SIZE] = byte;
    serial->fifo_count++;
}

static uint8_t fifo_pop(struct serial *serial)
{
    uint8_t byte;

    if (serial->fifo_count == 0)
        return 0;
    byte = serial->fifo[serial->fifo_start];
    serial->fifo_start = (serial->fifo_start + 1) % FIFO_SIZE;
    serial->fifo_count--;
    return byte;
}

/* A byte that the guest sent to itself: with no room the FIFO keeps what it has, the single receive
 * register is overwritten. */
static void loop_back(struct serial *serial, uint8_t byte)
{
    if (serial->fifo_count == fifo_capacity(serial)) {
        serial->overrun = true;
        if (serial->fcr & FCR_ENABLE)
            return;
        fifo_clear(serial);
    }
    fifo_push(serial, byte);
}

static bool listening(const struct serial *serial)
{
    if (serial->mcr & MCR_LOOP)
        return false;
    if (serial->lsr_reads >= POLLING)
        return true;
    if ((serial->ier & IER_RECEIVED) == 0)
        return false;
    return (serial->fcr & FCR_ENABLE) != 0 || (!serial->fifo_used && (serial->mcr & MCR_OUT2) != 0);
}

/* ---- interrupts ---- */

static uint8_t interrupt_cause(const struct serial *serial)
{
    if ((serial->ier & IER_LINE) != 0 && serial->overrun)
        return IIR_LINE;
    if ((serial->ier & IER_RECEIVED) != 0 && serial->fifo_count > 0)
        return serial->fifo_count >= fifo_trigger(serial) ? IIR_RECEIVED : IIR_TIMEOUT;
    if ((serial->ier & IER_SENT) != 0 && serial->sent_pending)
        return IIR_SENT;
    if ((serial->ier & IER_MODEM) != 0 && (serial->msr & MSR_CHANGES) != 0)
        return IIR_MODEM;
    return IIR_NONE;
}

/* After any change: drives the interrupt line, and calls the host's side back when it was turned
 * away and the guest has emptied the FIFO. */
static void update(struct serial *serial)
{
    bool level = interrupt_cause(serial) != IIR_NONE && (serial->mcr & MCR_OUT2) != 0 &&
                 (serial->mcr & MCR_LOOP) == 0;

    if (level != serial->line_level) {
        serial->line_level = level;
        irq_set(&serial->irq, level);
    }
    if (serial->refused && serial->fifo_count == 0 && listening(serial)) {
        static const uint64_t one = 1;

        serial->refused = false;
        /* Fails only when 2^64 - 2 signals are unread: then it is readable anyway. */
        if (write(serial->room_fd, &one, sizeof(one)) < 0)
            return;
    }
}

size_t serial_input(struct serial *serial, const uint8_t *bytes, size_t length)
{
    size_t taken = 0;

    pthread_mutex_lock(&serial->lock);
    if (listening(serial)) {
        while (taken < length && serial->fifo_count < fifo_capacity(serial))
            fifo_push(serial, bytes[taken++]);
    }
    serial->refused = taken < length;
    update(serial);
    pthread_mutex_unlock(&serial->lock);
    return taken;
}

/* ---- registers ---- */

/* The modem lines as the guest sees them: a terminal that is always there, or its own outputs. */
static void update_modem_lines(struct serial *serial)
{
    uint8_t lines = MSR_DCD | MSR_DSR | MSR_CTS;
    uint8_t old = serial->msr;

    if (serial->mcr & MCR_LOOP) {
        lines = 0;
        if (serial->mcr & MCR_RTS)
            lines |= MSR_CTS;
        if (serial->mcr & MCR_DTR)
            lines |= MSR_DSR;
        if (serial->mcr & MCR_OUT1)
            lines |= MSR_RI;
        if (serial->mcr & MCR_OUT2)
            lines |= MSR_DCD;
    }
    serial->msr = (uint8_t)(lines | (old & MSR_CHANGES));
    if ((lines ^ old) & MSR_CTS)
        serial->msr |= MSR_CTS_CHANGED;
    if ((lines ^ old) & MSR_DSR)
        serial->msr |= MSR_DSR_CHANGED;
    if ((old & MSR_RI) != 0 && (lines & MSR_RI) == 0)
        serial->msr |= MSR_RI_ENDED;
    if ((lines ^ old) & MSR_DCD)
        serial->msr |= MSR_DCD_CHANGED;
}

static void write_fifo_control(struct serial *serial, uint8_t value)
{
    /* Without the enable bit the others are not programmed. */
    uint8_t fcr = value & FCR_ENABLE ? value : 0;

    if (((fcr ^ serial->fcr) & FCR_ENABLE) != 0 || (fcr & FCR_CLEAR_RECEIVE) != 0)
        fifo_clear(serial);
    serial->fcr = fcr;
    if (fcr & FCR_ENABLE)
        serial->fifo_used = true;
}

static void send(struct serial *serial, uint8_t byte)
{
    serial->sent_pending = false;
    update(serial);
    if (serial->mcr & MCR_LOOP) {
        loop_back(serial, byte);
    } else if (serial->output != NULL) {
        pthread_mutex_unlock(&serial->lock);
        serial->output(serial->output_opaque, byte);
        pthread_mutex_lock(&serial->lock);
    }
    serial->sent_pending = true;
}

static void write_register(struct serial *serial, unsigned reg, uint8_t value)
{
    bool dlab = (serial->lcr & LCR_DLAB) != 0;

    serial->lsr_reads = 0;
    switch (reg) {
    case REG_DATA:
        if (dlab)
            serial->divisor_low = value;
        else
            send(serial, value);
        break;
    case REG_IER:
        if (dlab) {
            serial->divisor_high = value;
            break;
        }
        if ((value & ~serial->ier & IER_SENT) != 0)
            serial->sent_pending = true;
        serial->ier = value & IER_ALL;
        break;
    case REG_IIR_FCR:
        write_fifo_control(serial, value);
        break;
    case REG_LCR:
        serial->lcr = value;
        break;
    case REG_MCR:
        serial->mcr = value & MCR_ALL;
        update_modem_lines(serial);
        break;
    case REG_SCR:
        serial->scratch = value;
        break;
    default: /* LSR and MSR are read-only */
        break;
    }
    update(serial);
}

static uint8_t read_line_status(struct serial *serial)
{
    uint8_t value = LSR_THR_EMPTY | LSR_IDLE;

    if (serial->fifo_count > 0)
        value |= LSR_READY;
    if (serial->overrun)
        value |= LSR_OVERRUN;
    serial->overrun = false;
    if (serial->lsr_reads < POLLING)
        serial->lsr_reads++;
    return value;
}

static uint8_t read_register(struct serial *serial, unsigned reg)
{
    bool dlab = (serial->lcr & LCR_DLAB) != 0;
    uint8_t value = 0;

    if (reg != REG_LSR && reg != REG_DATA)
        serial->lsr_reads = 0;
    switch (reg) {
    case REG_DATA:
        value = dlab ? serial->divisor_low : fifo_pop(serial);
        break;
    case REG_IER:
        value = dlab ? serial->divisor_high : serial->ier;
        break;
    case REG_IIR_FCR:
        value = interrupt_cause(serial);
        if (value == IIR_SENT)
            serial->sent_pending = false;
        if (serial->fcr & FCR_ENABLE)
            value |= IIR_FIFO;
        break;
    case REG_LCR:
        value = serial->lcr;
        break;
    case REG_MCR:
        value = serial->mcr;
        break;
    case REG_LSR:
        value = read_line_status(serial);
        break;
    case REG_MSR:
        value = serial->msr;
        serial->msr &= MSR_LINES;
        break;
    default:
        value = serial->scratch;
        break;
    }
    update(serial);
    return value;
}

/* An 8-bit device: wider accesses touch one register after the other. */
static void bus_read_registers(void *device, uint64_t offset, void *data, unsigned len)
{
    struct serial *serial = device;
    uint8_t *bytes = data;

    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < len; i++)
        bytes[i] = read_register(serial, (unsigned)offset + i);
    pthread_mutex_unlock(&serial->lock);
}

static void bus_write_registers(void *device, uint64_t offset, const void *data, unsigned len)
{
    struct serial *serial = device;
    const uint8_t *bytes = data;

    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < len; i++)
        write_register(serial, (unsigned)offset + i, bytes[i]);
    pthread_mutex_unlock(&serial->lock);
}

const struct bus_ops serial_bus_ops = {
    .read = bus_read_registers,
    .write = bus_write_registers,
};
