/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * MSI-X (PCI Local Bus 3.0 section 6.8.2): the vector table and pending bits in a BAR, masking,
 * delivery.
 *
 * vCPU threads write the table while the threads of devices interrupt: each entry has a lock. The
 * gate (enable, function mask, bus master) is changed first and the entries are looked through
 * afterwards, so an interrupt that still saw the gate closed is pending by the time its entry is
 * looked at.
 *
 * An irqfd is bound when a vector is first used, since changing KVM's interrupt routes is slow and
 * most vectors of most devices never fire. The guest controls the table; a message is only ever
 * handed to the host. An eventfd that another process writes to is bound only while its vector is
 * open: KVM takes up what was written before, and leaves to us what is written after it.
 */
#include "pci/pci_msix.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "pci/pci_registers.h"

#define ENTRY_MASKED 1 /* in vector control */

static enum pci_msix_gate get_gate(const struct pci_function *function)
{
	return __atomic_load_n(&function->msix_gate, __ATOMIC_ACQUIRE);
}

struct error *pci_function_add_msix(struct pci_function *function, uint16_t vectors, int bar,
				    uint32_t table_offset, uint32_t pba_offset)
{
	uint64_t table_size = (uint64_t)vectors * PCI_MSIX_ENTRY_SIZE;
	uint64_t pba_size = (vectors + 63u) / 64 * 8;
	uint8_t body[10];

	if (!vectors || vectors > PCI_MSIX_VECTORS_MAX || bar < 0 || bar >= PCI_BAR_COUNT ||
	    !is_aligned(table_offset, 8) || !is_aligned(pba_offset, 8) ||
	    !range_contains(0, function->bars[bar].size, table_offset, table_size) ||
	    !range_contains(0, function->bars[bar].size, pba_offset, pba_size) ||
	    ranges_overlap(table_offset, table_size, pba_offset, pba_size))
		return error_new(EINVAL, "%s: MSI-X with %u vectors does not fit BAR %d",
				 function->name, vectors, bar);
	put_le16(body, vectors - 1);
	put_le32(body + 2, table_offset | (uint32_t)bar);
	put_le32(body + 6, pba_offset | (uint32_t)bar);
	function->msix_capability =
	    pci_function_add_capability(function, PCI_CAPABILITY_MSIX, body, sizeof(body));
	if (!function->msix_capability)
		return error_new(ENOSPC, "%s: no room for the MSI-X capability", function->name);
	function->msix = calloc(vectors, sizeof(*function->msix));
	if (!function->msix)
		return error_system(ENOMEM, "%s: MSI-X table", function->name);
	for (uint16_t i = 0; i < vectors; i++) {
		function->msix[i].fd = -1;
		function->msix[i].route = -1;
		function->msix[i].source = -1;
		function->msix[i].source_route = -1;
		function->msix[i].masked = true;
		pthread_mutex_init(&function->msix[i].lock, NULL);
	}
	put_le16(function->writable + function->msix_capability + PCI_MSIX_CONTROL,
		 PCI_MSIX_CONTROL_ON | PCI_MSIX_CONTROL_MASK);
	function->msix_vectors = vectors;
	function->msix_bar = bar;
	function->msix_table_offset = table_offset;
	function->msix_pba_offset = pba_offset;
	return NULL;
}

/* All of the following that take an entry: with its lock held. */
static void entry_unbind(struct pci_function *function, struct pci_msix_entry *entry)
{
	if (entry->fd >= 0)
		function->host_ops->unbind_msi_fd(function->host, entry->fd, entry->route);
	close_fd(&entry->fd);
	entry->route = -1;
	entry->moved = false;
}

/* Makes the irqfd of @entry, if there can be one, carry its message. */
static void entry_bind(struct pci_function *function, struct pci_msix_entry *entry)
{
	const struct pci_host_ops *host = function->host_ops;
	AUTO_CLOSE int fd = -1;

	if (entry->fd >= 0) {
		if (entry->moved && host->bind_msi_fd(function->host, entry->fd, entry->address,
						      entry->data, &entry->route)) {
			entry_unbind(function, entry);
			entry->direct = true;
		}
		entry->moved = false;
		return;
	}
	if (entry->direct || !host->bind_msi_fd)
		return;
	entry->direct = true;
	entry->route = -1;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0 ||
	    host->bind_msi_fd(function->host, fd, entry->address, entry->data, &entry->route))
		return;
	entry->direct = false;
	entry->moved = false;
	entry->fd = TAKE_FD(fd);
}

static void entry_deliver(struct pci_function *function, struct pci_msix_entry *entry)
{
	uint64_t one = 1;

	entry->pending = false;
	if (!function->host_ops)
		return;
	entry_bind(function, entry);
	if (entry->fd < 0)
		function->host_ops->send_msi(function->host, entry->address, entry->data);
	else if (write(entry->fd, &one, sizeof(one)) < 0)
		assert(errno == EAGAIN); /* already signalled 2^64 - 2 times */
}

static void entry_deliver_pending(struct pci_function *function, struct pci_msix_entry *entry)
{
	if (entry->pending && !entry->masked && get_gate(function) == PCI_MSIX_OPEN)
		entry_deliver(function, entry);
}

/* --- What others write to ---------------------------------------------------------------------- */

static void source_unbind(struct pci_function *function, struct pci_msix_entry *entry)
{
	if (entry->source_route >= 0)
		function->host_ops->unbind_msi_fd(function->host, entry->source,
						  entry->source_route);
	entry->source_route = -1;
}

/* Makes the source of @entry an irqfd with the entry's message if that is right now, else none. */
static void source_update(struct pci_function *function, struct pci_msix_entry *entry)
{
	const struct pci_host_ops *host = function->host_ops;

	if (entry->source < 0 || entry->masked || get_gate(function) != PCI_MSIX_OPEN) {
		source_unbind(function, entry);
		return;
	}
	if (!host || !host->bind_msi_fd)
		return;
	if (host->bind_msi_fd(function->host, entry->source, entry->address, entry->data,
			      &entry->source_route))
		source_unbind(function, entry);
}

void pci_function_msix_connect(struct pci_function *function, uint16_t vector, int fd)
{
	struct pci_msix_entry *entry;

	if (vector >= function->msix_vectors)
		return;
	entry = &function->msix[vector];
	pthread_mutex_lock(&entry->lock);
	if (entry->source < 0) {
		entry->source = fd;
		source_update(function, entry);
	}
	pthread_mutex_unlock(&entry->lock);
}

void pci_function_msix_disconnect(struct pci_function *function, uint16_t vector, int fd)
{
	struct pci_msix_entry *entry;

	if (vector >= function->msix_vectors)
		return;
	entry = &function->msix[vector];
	pthread_mutex_lock(&entry->lock);
	if (entry->source == fd) {
		source_unbind(function, entry);
		entry->source = -1;
	}
	pthread_mutex_unlock(&entry->lock);
}

/* ----------------------------------------------------------------------------------------------- */

void pci_function_msix_notify(struct pci_function *function, uint16_t vector)
{
	struct pci_msix_entry *entry;

	if (vector >= function->msix_vectors)
		return;
	entry = &function->msix[vector];
	pthread_mutex_lock(&entry->lock);
	if (get_gate(function) != PCI_MSIX_OFF) {
		entry->pending = true;
		entry_deliver_pending(function, entry);
	}
	pthread_mutex_unlock(&entry->lock);
}

static enum pci_msix_gate configured_gate(const struct pci_function *function,
					  const uint8_t *config)
{
	uint16_t control = get_le16(config + function->msix_capability + PCI_MSIX_CONTROL);
	bool bus_master = get_le16(config + PCI_COMMAND) & PCI_COMMAND_MASTER;

	if (!(control & PCI_MSIX_CONTROL_ON))
		return PCI_MSIX_OFF;
	return control & PCI_MSIX_CONTROL_MASK || !bus_master ? PCI_MSIX_HELD : PCI_MSIX_OPEN;
}

void pci_msix_update_gate(struct pci_function *function)
{
	enum pci_msix_gate gate;

	if (function->msix_bar < 0)
		return;
	gate = configured_gate(function, function->config);
	if (gate == get_gate(function))
		return;
	__atomic_store_n(&function->msix_gate, gate, __ATOMIC_RELEASE);
	for (uint16_t i = 0; i < function->msix_vectors; i++) {
		struct pci_msix_entry *entry = &function->msix[i];

		pthread_mutex_lock(&entry->lock);
		if (gate == PCI_MSIX_OFF) {
			entry->pending = false;
			entry_unbind(function, entry);
		} else {
			entry_deliver_pending(function, entry);
		}
		source_update(function, entry);
		pthread_mutex_unlock(&entry->lock);
	}
}

/* A dword of the table; zero past its end. @offset is relative to the table and a multiple of 4. */
static uint32_t table_read(struct pci_function *function, uint64_t offset)
{
	struct pci_msix_entry *entry;
	uint32_t value;

	if (offset / PCI_MSIX_ENTRY_SIZE >= function->msix_vectors)
		return 0;
	entry = &function->msix[offset / PCI_MSIX_ENTRY_SIZE];
	pthread_mutex_lock(&entry->lock);
	switch (offset % PCI_MSIX_ENTRY_SIZE) {
	case 0:
		value = (uint32_t)entry->address;
		break;
	case 4:
		value = (uint32_t)(entry->address >> 32);
		break;
	case 8:
		value = entry->data;
		break;
	default:
		value = entry->masked ? ENTRY_MASKED : 0;
	}
	pthread_mutex_unlock(&entry->lock);
	return value;
}

static void table_write(struct pci_function *function, uint64_t offset, uint32_t value)
{
	struct pci_msix_entry *entry;

	if (offset / PCI_MSIX_ENTRY_SIZE >= function->msix_vectors)
		return;
	entry = &function->msix[offset / PCI_MSIX_ENTRY_SIZE];
	pthread_mutex_lock(&entry->lock);
	switch (offset % PCI_MSIX_ENTRY_SIZE) {
	case 0:
		entry->address = (entry->address & ~(uint64_t)UINT32_MAX) | (value & ~3u);
		entry->moved = true;
		break;
	case 4:
		entry->address = (uint32_t)entry->address | (uint64_t)value << 32;
		entry->moved = true;
		break;
	case 8:
		entry->data = value;
		entry->moved = true;
		break;
	default:
		entry->masked = value & ENTRY_MASKED;
		entry_deliver_pending(function, entry);
	}
	if (entry->source >= 0)
		source_update(function, entry);
	pthread_mutex_unlock(&entry->lock);
}

static uint8_t pba_read(struct pci_function *function, uint64_t offset)
{
	uint8_t bits = 0;

	for (uint32_t i = 0; i < 8; i++) {
		uint64_t vector = offset * 8 + i;

		if (vector >= function->msix_vectors)
			break;
		pthread_mutex_lock(&function->msix[vector].lock);
		if (function->msix[vector].pending)
			bits |= 1u << i;
		pthread_mutex_unlock(&function->msix[vector].lock);
	}
	return bits;
}

static bool in_table(const struct pci_function *function, int bar, uint64_t offset)
{
	return bar == function->msix_bar &&
	       range_contains(function->msix_table_offset,
			      (uint64_t)function->msix_vectors * PCI_MSIX_ENTRY_SIZE, offset, 1);
}

static bool in_pba(const struct pci_function *function, int bar, uint64_t offset)
{
	return bar == function->msix_bar &&
	       range_contains(function->msix_pba_offset, (function->msix_vectors + 63u) / 64 * 8,
			      offset, 1);
}

bool pci_msix_bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
		       uint32_t size)
{
	uint8_t *bytes = data;

	if (in_table(function, bar, offset)) {
		offset -= function->msix_table_offset;
		for (uint32_t i = 0; i < size; i++)
			bytes[i] = (uint8_t)(table_read(function, (offset + i) & ~3ULL) >>
					     (8 * ((offset + i) & 3)));
		return true;
	}
	if (in_pba(function, bar, offset)) {
		for (uint32_t i = 0; i < size; i++)
			bytes[i] = pba_read(function, offset - function->msix_pba_offset + i);
		return true;
	}
	return false;
}

bool pci_msix_bar_write(struct pci_function *function, int bar, uint64_t offset, const void *data,
			uint32_t size)
{
	const uint8_t *bytes = data;

	if (in_pba(function, bar, offset))
		return true; /* read-only */
	if (!in_table(function, bar, offset))
		return false;
	/* Only whole dwords and qwords are defined; other writes change nothing. */
	offset -= function->msix_table_offset;
	if (size % 4 || !is_aligned(offset, 4))
		return true;
	for (uint32_t i = 0; i < size; i += 4)
		table_write(function, offset + i, get_le32(bytes + i));
	return true;
}

void pci_msix_reset(struct pci_function *function)
{
	for (uint16_t i = 0; i < function->msix_vectors; i++) {
		struct pci_msix_entry *entry = &function->msix[i];

		pthread_mutex_lock(&entry->lock);
		entry_unbind(function, entry);
		entry->address = 0;
		entry->data = 0;
		entry->masked = true;
		entry->pending = false;
		entry->direct = false;
		source_update(function, entry);
		pthread_mutex_unlock(&entry->lock);
	}
}

void pci_msix_state(struct pci_function *function, const uint8_t *config, struct state *state)
{
	enum pci_msix_gate gate =
	    function->msix_vectors ? configured_gate(function, config) : PCI_MSIX_OFF;

	state_same(state, "msix vectors", function->msix_vectors);
	for (uint16_t i = 0; i < function->msix_vectors; i++) {
		struct pci_msix_entry *entry = &function->msix[i];

		pthread_mutex_lock(&entry->lock);
		if (state_loading(state)) {
			entry_unbind(function, entry);
			entry->direct = false;
		}
		state_u64(state, "msix address", &entry->address);
		state_check(state, !(entry->address & 3), "msix address", "is not aligned");
		state_u32(state, "msix data", &entry->data);
		state_bool(state, "msix masked", &entry->masked);
		state_bool(state, "msix pending", &entry->pending);
		/* It would interrupt while loading, when there are no processors yet to hear it. */
		state_check(state,
			    !entry->pending || gate == PCI_MSIX_HELD ||
				(gate == PCI_MSIX_OPEN && entry->masked),
			    "msix pending", "is set for a vector that nothing holds back");
		pthread_mutex_unlock(&entry->lock);
	}
}

void pci_msix_cleanup(struct pci_function *function)
{
	for (uint16_t i = 0; i < function->msix_vectors; i++) {
		source_unbind(function, &function->msix[i]);
		entry_unbind(function, &function->msix[i]);
		pthread_mutex_destroy(&function->msix[i].lock);
	}
	function->msix_vectors = 0;
	free(TAKE_PTR(function->msix));
}
