/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * 16550A UART (National Semiconductor PC16550D data sheet), as far as drivers look: FIFOs, loopback
 * for probing, scratch register, interrupts by priority. The line is infinitely fast, so the
 * transmitter is always empty, and the baud-rate divisor is remembered and ignored. The guest
 * controls every register access; nothing it writes can fail.
 */
#include "machine/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "machine/platform.h"

/* Registers by offset; 0 and 1 are the divisor while LCR_DIVISOR is set. */
enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCRATCH };

#define IER_RECEIVED	0x01
#define IER_TRANSMITTER 0x02
#define IER_LINE	0x04
#define IER_MODEM	0x08
#define IER_MASK	0x0f
#define IIR_NONE	0x01
#define IIR_MODEM	0x00
#define IIR_TRANSMITTER 0x02
#define IIR_RECEIVED	0x04
#define IIR_LINE	0x06
#define IIR_TIMEOUT	0x0c
#define IIR_FIFO	0xc0
#define FCR_ENABLE	0x01
#define FCR_CLEAR_INPUT 0x02
#define LCR_DIVISOR	0x80
#define MCR_DTR		0x01
#define MCR_RTS		0x02
#define MCR_OUT1	0x04
#define MCR_OUT2	0x08
#define MCR_LOOP	0x10
#define MCR_MASK	0x1f
#define LSR_DATA	0x01
#define LSR_OVERRUN	0x02
#define LSR_EMPTY	0x60 /* transmitter holding register and shift register */
#define MSR_DELTAS	0x0f
#define MSR_CTS		0x10
#define MSR_DSR		0x20
#define MSR_RING	0x40
#define MSR_CARRIER	0x80

#define FIFO_SIZE 16

struct serial {
	struct io_bus *bus;
	const struct serial_ops *ops;
	void *context;

	pthread_mutex_t lock; /* guards all below */
	uint8_t ier, fcr, lcr, mcr, msr, scratch;
	uint8_t divisor[2];
	uint8_t fifo[FIFO_SIZE];
	uint32_t fifo_first, fifo_count;
	bool overrun;
	bool transmitter_pending; /* "transmitter empty" has not been told yet */
	bool line;		  /* level of the interrupt line */
	bool input_awaited;	  /* input_wanted is owed */
};

static uint32_t serial_fifo_size(const struct serial *serial)
{
	return serial->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
}

/* The reason for an interrupt with the highest priority. */
static uint8_t serial_interrupt_reason(const struct serial *serial)
{
	static const uint8_t triggers[4] = {1, 4, 8, 14};

	if ((serial->ier & IER_LINE) && serial->overrun)
		return IIR_LINE;
	if ((serial->ier & IER_RECEIVED) && serial->fifo_count)
		/* Below the trigger level it is as if the time-out had already passed. */
		return !(serial->fcr & FCR_ENABLE) ||
			       serial->fifo_count >= triggers[serial->fcr >> 6]
			   ? IIR_RECEIVED
			   : IIR_TIMEOUT;
	if ((serial->ier & IER_TRANSMITTER) && serial->transmitter_pending)
		return IIR_TRANSMITTER;
	if ((serial->ier & IER_MODEM) && (serial->msr & MSR_DELTAS))
		return IIR_MODEM;
	return IIR_NONE;
}

static void serial_update_line(struct serial *serial)
{
	bool line = serial_interrupt_reason(serial) != IIR_NONE;

	if (line == serial->line)
		return;
	serial->line = line;
	serial->ops->interrupt(serial->context, line);
}

/* Modem status: a cable that is always connected, or in loopback the modem control outputs. */
static void serial_update_modem(struct serial *serial)
{
	uint8_t now = MSR_CTS | MSR_DSR | MSR_CARRIER;
	uint8_t changed;

	if (serial->mcr & MCR_LOOP)
		now = (serial->mcr & MCR_RTS ? MSR_CTS : 0) |
		      (serial->mcr & MCR_DTR ? MSR_DSR : 0) |
		      (serial->mcr & MCR_OUT1 ? MSR_RING : 0) |
		      (serial->mcr & MCR_OUT2 ? MSR_CARRIER : 0);
	changed = (now ^ serial->msr) & 0xf0;
	if (now & MSR_RING) /* its delta bit is set by the trailing edge only */
		changed &= (uint8_t)~MSR_RING;
	serial->msr = now | (serial->msr & MSR_DELTAS) | changed >> 4;
}

static bool serial_fifo_put(struct serial *serial, uint8_t byte)
{
	if (serial->fifo_count >= serial_fifo_size(serial))
		return false;
	serial->fifo[(serial->fifo_first + serial->fifo_count++) % FIFO_SIZE] = byte;
	return true;
}

static void serial_want_input(struct serial *serial)
{
	if (!serial->input_awaited || (serial->mcr & MCR_LOOP))
		return;
	serial->input_awaited = false;
	serial->ops->input_wanted(serial->context);
}

static uint8_t serial_fifo_get(struct serial *serial)
{
	uint8_t byte;

	if (!serial->fifo_count)
		return 0;
	byte = serial->fifo[serial->fifo_first];
	serial->fifo_first = (serial->fifo_first + 1) % FIFO_SIZE;
	serial->fifo_count--;
	/* Not at the first free byte, so that input comes in pieces worth waking the owner for. */
	if (!serial->fifo_count)
		serial_want_input(serial);
	return byte;
}

static void serial_transmit(struct serial *serial, uint8_t byte)
{
	if (serial->mcr & MCR_LOOP) {
		if (!serial_fifo_put(serial, byte))
			serial->overrun = true;
	} else {
		serial->ops->output(serial->context, byte);
	}
	serial->transmitter_pending = true;
}

static uint8_t serial_read_register(struct serial *serial, uint64_t offset)
{
	uint8_t value;

	switch (offset) {
	case REG_DATA:
		return serial->lcr & LCR_DIVISOR ? serial->divisor[0] : serial_fifo_get(serial);
	case REG_IER:
		return serial->lcr & LCR_DIVISOR ? serial->divisor[1] : serial->ier;
	case REG_IIR_FCR:
		value = serial_interrupt_reason(serial);
		if (value == IIR_TRANSMITTER)
			serial->transmitter_pending = false;
		return value | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
	case REG_LCR:
		return serial->lcr;
	case REG_MCR:
		return serial->mcr;
	case REG_LSR:
		value = LSR_EMPTY | (serial->fifo_count ? LSR_DATA : 0) |
			(serial->overrun ? LSR_OVERRUN : 0);
		serial->overrun = false;
		return value;
	case REG_MSR:
		value = serial->msr;
		serial->msr &= (uint8_t)~MSR_DELTAS;
		return value;
	default:
		return serial->scratch;
	}
}

static void serial_write_register(struct serial *serial, uint64_t offset, uint8_t value)
{
	switch (offset) {
	case REG_DATA:
		if (serial->lcr & LCR_DIVISOR)
			serial->divisor[0] = value;
		else
			serial_transmit(serial, value);
		break;
	case REG_IER:
		if (serial->lcr & LCR_DIVISOR) {
			serial->divisor[1] = value;
			break;
		}
		/* Enabling the transmitter interrupt reports the empty transmitter at once. */
		if (value & ~serial->ier & IER_TRANSMITTER)
			serial->transmitter_pending = true;
		serial->ier = value & IER_MASK;
		break;
	case REG_IIR_FCR:
		if ((value & FCR_CLEAR_INPUT) || ((value ^ serial->fcr) & FCR_ENABLE)) {
			serial->fifo_count = 0;
			serial_want_input(serial);
		}
		serial->fcr = value;
		break;
	case REG_LCR:
		serial->lcr = value;
		break;
	case REG_MCR:
		serial->mcr = value & MCR_MASK;
		serial_update_modem(serial);
		serial_want_input(serial);
		break;
	case REG_SCRATCH:
		serial->scratch = value;
		break;
	default: /* the status registers are read-only */
		break;
	}
}

static void serial_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct serial *serial = context;
	uint8_t *bytes = data;

	pthread_mutex_lock(&serial->lock);
	for (uint32_t i = 0; i < size; i++)
		bytes[i] = serial_read_register(serial, offset + i);
	serial_update_line(serial);
	pthread_mutex_unlock(&serial->lock);
}

static void serial_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct serial *serial = context;
	const uint8_t *bytes = data;

	pthread_mutex_lock(&serial->lock);
	for (uint32_t i = 0; i < size; i++)
		serial_write_register(serial, offset + i, bytes[i]);
	serial_update_line(serial);
	pthread_mutex_unlock(&serial->lock);
}

static const struct io_handler serial_io = {.read = serial_read, .write = serial_write};

static void serial_power_on(struct serial *serial)
{
	serial->ier = serial->fcr = serial->lcr = serial->mcr = serial->scratch = 0;
	serial->divisor[0] = 12; /* 9600 baud */
	serial->divisor[1] = 0;
	serial->fifo_first = serial->fifo_count = 0;
	serial->overrun = serial->transmitter_pending = false;
	serial->msr = 0;
	serial_update_modem(serial);
	serial->msr &= (uint8_t)~MSR_DELTAS;
}

struct error *serial_create(struct io_bus *bus, const struct serial_ops *ops, void *context,
			    struct serial **result)
{
	struct serial *serial = calloc(1, sizeof(*serial));
	struct error *error;

	if (!serial)
		return error_system(ENOMEM, "serial port");
	serial->bus = bus;
	serial->ops = ops;
	serial->context = context;
	pthread_mutex_init(&serial->lock, NULL);
	serial_power_on(serial);
	error = io_bus_add(bus, PLATFORM_SERIAL_PORT, PLATFORM_SERIAL_SIZE, &serial_io, serial,
			   "serial port");
	if (error) {
		pthread_mutex_destroy(&serial->lock);
		free(serial);
		return error;
	}
	*result = serial;
	return NULL;
}

void serial_destroy(struct serial *serial)
{
	if (!serial)
		return;
	io_bus_remove(serial->bus, PLATFORM_SERIAL_PORT);
	pthread_mutex_destroy(&serial->lock);
	free(serial);
}

void serial_reset(struct serial *serial)
{
	pthread_mutex_lock(&serial->lock);
	serial_power_on(serial);
	serial_update_line(serial);
	serial_want_input(serial);
	pthread_mutex_unlock(&serial->lock);
}

size_t serial_input(struct serial *serial, const uint8_t *data, size_t size)
{
	size_t taken = 0;

	pthread_mutex_lock(&serial->lock);
	/* In loopback the receiver is not connected to the line. */
	if (!(serial->mcr & MCR_LOOP))
		while (taken < size && serial_fifo_put(serial, data[taken]))
			taken++;
	serial->input_awaited = taken < size;
	serial_update_line(serial);
	pthread_mutex_unlock(&serial->lock);
	return taken;
}

/* The registers that the guest writes, as it left them; the interrupt line follows from all. */
void serial_state(void *context, struct state *state)
{
	struct serial *serial = context;
	uint32_t count;

	pthread_mutex_lock(&serial->lock);
	state_u8(state, "ier", &serial->ier);
	state_check(state, !(serial->ier & ~IER_MASK), "ier", "has bits that no register has");
	state_u8(state, "fcr", &serial->fcr);
	state_u8(state, "lcr", &serial->lcr);
	state_u8(state, "mcr", &serial->mcr);
	state_check(state, !(serial->mcr & ~MCR_MASK), "mcr", "has bits that no register has");
	state_u8(state, "msr", &serial->msr);
	state_u8(state, "scratch", &serial->scratch);
	state_buffer(state, "divisor", serial->divisor, sizeof(serial->divisor));
	state_bool(state, "overrun", &serial->overrun);
	state_bool(state, "transmitter pending", &serial->transmitter_pending);
	count = state_count(state, "fifo", serial->fifo_count, serial_fifo_size(serial));
	if (state_loading(state)) {
		serial->fifo_first = 0;
		serial->fifo_count = count;
	}
	for (uint32_t i = 0; i < count; i++)
		state_u8(state, "byte", &serial->fifo[(serial->fifo_first + i) % FIFO_SIZE]);
	if (state_loading(state)) {
		serial_update_line(serial);
		/* There may be room now for input that came before the load. */
		if (serial->fifo_count < serial_fifo_size(serial))
			serial_want_input(serial);
	}
	pthread_mutex_unlock(&serial->lock);
}
