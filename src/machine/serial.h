/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A 16550A serial port at the I/O ports of COM1. Where its bytes go is its owner's affair.
 *
 * Threads: registers are accessed by vCPU threads, input comes from the owner's; one lock orders
 * them, and is held during the callbacks, which must not call back.
 */
#ifndef GODWIT_MACHINE_SERIAL_H
#define GODWIT_MACHINE_SERIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "kvm/io_bus.h"

struct serial;

struct serial_ops {
	/* The guest sent a byte; must not block. */
	void (*output)(void *context, uint8_t byte);
	/* There is room for input again after serial_input took less than was offered. */
	void (*input_wanted)(void *context);
	/* The interrupt line changed. */
	void (*interrupt)(void *context, bool level);
};

/* Registers it at its ports of @bus. */
struct error *serial_create(struct io_bus *bus, const struct serial_ops *ops, void *context,
			    struct serial **serial) MUST_CHECK;
/* No vCPU runs any more. Accepts NULL. */
void serial_destroy(struct serial *serial);
/* The state after power-on; input that the guest has not read is dropped. */
void serial_reset(struct serial *serial);
/* Gives the guest bytes to receive; returns how many it had room for. Any thread. */
size_t serial_input(struct serial *serial, const uint8_t *data, size_t size);
/*
 * Visits the registers and the input that the guest has not read. Loading raises the interrupt line
 * anew where it was raised.
 */
void serial_state(void *serial, struct state *state);

#endif
