/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of I/O ranges: sorted by address, of fixed capacity, under a sequence lock.
 *
 * Lookups happen on every exit of every vCPU, changes only when a driver moves a BAR. So readers
 * take no lock and write nothing shared: they search, then check that the sequence number is still
 * the even one they began with, and search again if not. Writers are serialised by a mutex and make
 * the number odd while they shift entries. A reader may see a half-shifted table before it notices;
 * every field is an atomic of its own and the index stays below the capacity, so it reads a wrong
 * entry at worst and throws it away.
 *
 * A guest controls addresses and sizes of accesses, and where its BARs are.
 */
#include "kvm/io_bus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

/* 240 PCI functions with two BARs each and the platform's own; the memory is only touched as far as
 * it is used. */
#define IO_BUS_CAPACITY 640

struct io_range {
	_Atomic uint64_t address;
	_Atomic uint64_t size;
	_Atomic(const struct io_handler *) handler;
	_Atomic(void *) context;
	_Atomic(const char *) name;
};

struct io_bus {
	pthread_mutex_t lock;	   /* writers */
	_Atomic uint32_t sequence; /* odd while the table changes */
	_Atomic uint32_t count;
	_Atomic uint64_t unclaimed; /* accesses that nobody answered */
	struct io_range ranges[IO_BUS_CAPACITY];
};

#define LOAD(field)	    atomic_load_explicit(&(field), memory_order_relaxed)
#define STORE(field, value) atomic_store_explicit(&(field), value, memory_order_relaxed)

struct error *io_bus_create(struct io_bus **bus)
{
	*bus = calloc(1, sizeof(**bus));
	if (!*bus)
		return error_system(ENOMEM, "cannot create an I/O bus");
	pthread_mutex_init(&(*bus)->lock, NULL);
	return NULL;
}

void io_bus_destroy(struct io_bus *bus)
{
	if (!bus)
		return;
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* The index of the first range that starts above @address. Under the lock, or checked by the
 * sequence number. */
static uint32_t io_bus_upper_bound(struct io_bus *bus, uint64_t address)
{
	uint32_t low = 0;
	uint32_t high = LOAD(bus->count);

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (LOAD(bus->ranges[middle].address) <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void io_range_copy(struct io_range *to, struct io_range *from)
{
	STORE(to->address, LOAD(from->address));
	STORE(to->size, LOAD(from->size));
	STORE(to->handler, LOAD(from->handler));
	STORE(to->context, LOAD(from->context));
	STORE(to->name, LOAD(from->name));
}

static void io_bus_change_begin(struct io_bus *bus)
{
	STORE(bus->sequence, LOAD(bus->sequence) + 1);
	/* The odd number is visible before any change, */
	atomic_thread_fence(memory_order_release);
}

static void io_bus_change_end(struct io_bus *bus)
{
	/* and every change before the even one. */
	atomic_store_explicit(&bus->sequence, LOAD(bus->sequence) + 1, memory_order_release);
}

struct error *io_bus_add(struct io_bus *bus, uint64_t address, uint64_t size,
			 const struct io_handler *handler, void *context, const char *name)
{
	struct error *error = NULL;
	struct io_range *other;
	uint32_t count, at;
	uint64_t last;

	if (!size || !checked_add(address, size - 1, &last))
		return error_new(EINVAL, "%s at 0x%llx: the range is empty or wraps", name,
				 (unsigned long long)address);
	pthread_mutex_lock(&bus->lock);
	count = LOAD(bus->count);
	at = io_bus_upper_bound(bus, address);
	other = at > 0 ? &bus->ranges[at - 1] : NULL;
	if (!other || address - LOAD(other->address) >= LOAD(other->size))
		other =
		    at < count && LOAD(bus->ranges[at].address) <= last ? &bus->ranges[at] : NULL;
	if (other) {
		error = error_new(EEXIST, "%s at 0x%llx overlaps %s at 0x%llx", name,
				  (unsigned long long)address, LOAD(other->name),
				  (unsigned long long)LOAD(other->address));
	} else if (count == IO_BUS_CAPACITY) {
		error = error_new(ENOSPC, "%s: more than %d I/O ranges", name, IO_BUS_CAPACITY);
	} else {
		io_bus_change_begin(bus);
		for (uint32_t i = count; i > at; i--)
			io_range_copy(&bus->ranges[i], &bus->ranges[i - 1]);
		STORE(bus->ranges[at].address, address);
		STORE(bus->ranges[at].size, size);
		STORE(bus->ranges[at].handler, handler);
		STORE(bus->ranges[at].context, context);
		STORE(bus->ranges[at].name, name);
		STORE(bus->count, count + 1);
		io_bus_change_end(bus);
	}
	pthread_mutex_unlock(&bus->lock);
	return error;
}

void io_bus_remove(struct io_bus *bus, uint64_t address)
{
	uint32_t count, at;

	pthread_mutex_lock(&bus->lock);
	count = LOAD(bus->count);
	at = io_bus_upper_bound(bus, address);
	if (at > 0 && LOAD(bus->ranges[at - 1].address) == address) {
		io_bus_change_begin(bus);
		for (uint32_t i = at; i < count; i++)
			io_range_copy(&bus->ranges[i - 1], &bus->ranges[i]);
		STORE(bus->count, count - 1);
		io_bus_change_end(bus);
	}
	pthread_mutex_unlock(&bus->lock);
}

/* What answers at [address, address + size), wholly inside its range; NULL if nothing does. */
static const struct io_handler *io_bus_find(struct io_bus *bus, uint64_t address, uint32_t size,
					    void **context, uint64_t *offset)
{
	const struct io_handler *handler;
	uint32_t sequence, at;

	do {
		handler = NULL;
		sequence = atomic_load_explicit(&bus->sequence, memory_order_acquire);
		if (sequence & 1) {
			__builtin_ia32_pause();
			continue;
		}
		at = io_bus_upper_bound(bus, address);
		if (at > 0) {
			struct io_range *range = &bus->ranges[at - 1];
			uint64_t start = LOAD(range->address);

			if (range_contains(start, LOAD(range->size), address, size)) {
				handler = LOAD(range->handler);
				*context = LOAD(range->context);
				*offset = address - start;
			}
		}
		atomic_thread_fence(memory_order_acquire);
	} while ((sequence & 1) || LOAD(bus->sequence) != sequence);
	return handler;
}

static bool io_size_valid(uint32_t size)
{
	return size <= 8 && is_power_of_two(size);
}

bool io_bus_read(struct io_bus *bus, uint64_t address, void *data, uint32_t size)
{
	const struct io_handler *handler = NULL;
	uint64_t offset = 0;
	void *context = NULL;

	if (io_size_valid(size))
		handler = io_bus_find(bus, address, size, &context, &offset);
	if (handler && handler->read) {
		handler->read(context, offset, data, size);
		return true;
	}
	memset(data, 0xff, size);
	if (!handler)
		atomic_fetch_add_explicit(&bus->unclaimed, 1, memory_order_relaxed);
	return handler;
}

bool io_bus_write(struct io_bus *bus, uint64_t address, const void *data, uint32_t size)
{
	const struct io_handler *handler = NULL;
	uint64_t offset = 0;
	void *context = NULL;

	if (io_size_valid(size))
		handler = io_bus_find(bus, address, size, &context, &offset);
	if (handler && handler->write)
		handler->write(context, offset, data, size);
	else if (!handler)
		atomic_fetch_add_explicit(&bus->unclaimed, 1, memory_order_relaxed);
	return handler;
}
