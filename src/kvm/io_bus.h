/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who answers at which I/O port and which memory-mapped address. vCPU threads look ranges up on
 * every exit without locks; adding and removing (a BAR that moves) is serialised and may be done by
 * a handler. Handlers run on the vCPU's thread, several at a time; one that was looked up just
 * before its range was removed may still run after, so contexts live as long as the bus.
 */
#ifndef GODWIT_KVM_IO_BUS_H
#define GODWIT_KVM_IO_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct io_bus;

struct io_handler {
	/* @offset is relative to the range; @size is 1, 2, 4 or 8, inside the range. NULL: all ones, dropped. */
	void (*read)(void *context, uint64_t offset, void *data, uint32_t size);
	void (*write)(void *context, uint64_t offset, const void *data, uint32_t size);
};

struct error *io_bus_create(struct io_bus **bus) MUST_CHECK;
void io_bus_destroy(struct io_bus *bus);
/* Overlap with another range is an error. @handler and @name are not copied. */
struct error *io_bus_add(struct io_bus *bus, uint64_t address, uint64_t size,
			 const struct io_handler *handler, void *context,
			 const char *name) MUST_CHECK;
/* Removes the range that starts at @address, if it is there. */
void io_bus_remove(struct io_bus *bus, uint64_t address);
/* Dispatches; false if nobody answers (reads then give all ones, writes are dropped, and it is counted). */
bool io_bus_read(struct io_bus *bus, uint64_t address, void *data, uint32_t size);
bool io_bus_write(struct io_bus *bus, uint64_t address, const void *data, uint32_t size);

#endif
