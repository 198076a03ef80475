/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The serial port's connection to a character device: output goes straight there from the vCPU's
 * thread, which is never held up; input comes on the main loop, and waits while the guest does not
 * take it.
 */
#include "base/chardev.h"
#include "machine/machine_private.h"
#include "machine/serial.h"
#include "virtio/handed.h"

/* --- On a vCPU's thread, under the serial port's lock --- */

static void port_output(void *context, uint8_t byte)
{
	struct machine *machine = context;

	chardev_write(machine->serial_chardev, &byte, 1);
}

static void port_input_wanted(void *context)
{
	machine_attract(context, ATTENTION_SERIAL);
}

static void port_interrupt(void *context, bool level)
{
	struct machine *machine = context;

	kvm_vm_set_irq(machine->vm, PLATFORM_SERIAL_GSI, level);
}

static const struct serial_ops port_ops = {
    .output = port_output,
    .input_wanted = port_input_wanted,
    .interrupt = port_interrupt,
};

/* --- On the main loop --- */

static size_t receive(void *context, const uint8_t *data, size_t size)
{
	struct machine *machine = context;

	return serial_input(machine->serial, data, size);
}

static const struct chardev_handlers chardev_handlers = {.receive = receive};

static void escape(void *context)
{
	machine_shutdown(context, false, "host-ui");
}

void machine_serial_receive(struct machine *machine)
{
	chardev_set_receiving(machine->serial_chardev, true);
}

void machine_serial_state(void *context, struct state *state)
{
	struct machine *machine = context;

	/* The port first: while it is full the input behind it waits. */
	serial_state(machine->serial, state);
	chardev_state(machine->serial_chardev, state);
}

struct error *machine_serial_create(struct machine *machine)
{
	const char *text = machine->config.serial ?: "null";
	json_t *handed = json_object_get(machine->config.handed, "serial");

	TRY(error_prefix(handed ? handed_take_chardev(handed, text, &machine->serial_chardev)
				: chardev_create(text, &machine->serial_chardev),
			 "serial port"));
	chardev_set_escape_handler(machine->serial_chardev, escape, machine);
	TRY(serial_create(machine->vm->pio, &port_ops, machine, &machine->serial));
	return chardev_attach(machine->serial_chardev, machine->loop, &chardev_handlers, machine);
}

void machine_serial_destroy(struct machine *machine)
{
	chardev_destroy(TAKE_PTR(machine->serial_chardev));
	serial_destroy(TAKE_PTR(machine->serial));
}
