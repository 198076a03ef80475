/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI configuration space of one function (PCI Local Bus 3.0 chapter 6): header, BARs,
 * capabilities. MSI-X is in pci_msix.c.
 *
 * Runs on vCPU threads, under the host bridge's lock. The guest controls every offset and value
 * written; what a write may change is only what `writable` allows. After construction only loading
 * fails: a file's bytes are those of a driver and may change no more than one.
 */
#include "pci/pci_function.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "pci/pci_msix.h"
#include "pci/pci_registers.h"

void pci_function_init(struct pci_function *function, const struct pci_function_ops *ops,
		       const char *name, uint16_t vendor, uint16_t device, uint8_t revision,
		       uint32_t class_code, uint16_t subsystem_vendor, uint16_t subsystem)
{
	uint8_t *config = function->config;

	*function = (struct pci_function){.ops = ops, .msix_bar = -1};
	snprintf(function->name, sizeof(function->name), "%s", name);
	put_le16(config + PCI_VENDOR_ID, vendor);
	put_le16(config + PCI_DEVICE_ID, device);
	put_le32(config + PCI_REVISION_ID, class_code << 8 | revision);
	put_le16(config + PCI_SUBSYSTEM_VENDOR_ID, subsystem_vendor);
	put_le16(config + PCI_SUBSYSTEM_ID, subsystem);
	put_le16(function->writable + PCI_COMMAND,
		 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	function->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	function->writable[PCI_INTERRUPT_LINE] = 0xff;
	function->next_capability = PCI_CAPABILITIES_START;
}

void pci_function_cleanup(struct pci_function *function)
{
	pci_msix_cleanup(function);
}

static uint32_t bar_register(int bar)
{
	return PCI_BAR_0 + (uint32_t)bar * 4;
}

void pci_function_add_bar(struct pci_function *function, int bar, uint64_t size, bool wide,
			  bool prefetchable)
{
	uint32_t offset = bar_register(bar);
	uint64_t mask = ~(size - 1);

	assert(is_power_of_two(size) && size >= 16 && bar + wide < PCI_BAR_COUNT);
	function->bars[bar] =
	    (struct pci_bar){.size = size, .wide = wide, .prefetchable = prefetchable};
	put_le32(function->config + offset,
		 (wide ? PCI_BAR_WIDE : 0) | (prefetchable ? PCI_BAR_PREFETCHABLE : 0));
	put_le32(function->writable + offset, (uint32_t)mask & PCI_BAR_ADDRESS_MASK);
	if (wide)
		put_le32(function->writable + offset + 4, (uint32_t)(mask >> 32));
}

uint8_t pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
				    uint8_t size)
{
	uint32_t length = (size + 2u + 3) & ~3u; /* capabilities are dword aligned */
	uint8_t offset = function->next_capability;
	uint8_t *config = function->config;

	if (!offset || offset + length > PCI_CONFIG_SIZE)
		return 0;
	config[offset] = id;
	config[offset + 1] = 0;
	memcpy(config + offset + 2, body, size);
	if (function->last_capability)
		config[function->last_capability + 1] = offset;
	else
		config[PCI_CAPABILITY_POINTER] = offset;
	config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	function->last_capability = offset;
	/* 256 becomes 0: full. */
	function->next_capability = (uint8_t)(offset + length);
	return offset;
}

static uint64_t bar_configured_address(const struct pci_function *function, int bar)
{
	const uint8_t *config = function->config + bar_register(bar);
	uint64_t address = get_le32(config) & PCI_BAR_ADDRESS_MASK;

	return function->bars[bar].wide ? address | (uint64_t)get_le32(config + 4) << 32 : address;
}

/*
 * Whether a BAR can answer at @address: not at 0, which means that nobody assigned it, and not at
 * the very top, which is what writing all ones to learn the size gives.
 */
static bool bar_address_valid(const struct pci_bar *bar, uint64_t address)
{
	uint64_t top = bar->wide ? UINT64_MAX : UINT32_MAX;

	return address && address < top - (bar->size - 1);
}

/* Makes what the BARs and the command register say true. */
static void update_bars(struct pci_function *function)
{
	bool decode = get_le16(function->config + PCI_COMMAND) & PCI_COMMAND_MEMORY;
	const struct pci_host_ops *host = function->host_ops;

	for (int i = 0; i < PCI_BAR_COUNT; i++) {
		struct pci_bar *bar = &function->bars[i];
		uint64_t address = bar->size ? bar_configured_address(function, i) : 0;
		bool enabled = bar->size && decode && bar_address_valid(bar, address);

		if (bar->address == address && bar->enabled == enabled)
			continue;
		if (bar->enabled && host)
			host->bar_changed(function->host, function, i, bar->address, bar->size,
					  false);
		bar->address = address;
		bar->enabled = enabled;
		if (enabled && host)
			host->bar_changed(function->host, function, i, address, bar->size, true);
		if (function->ops->bar_moved)
			function->ops->bar_moved(function, i);
	}
}

/* Makes what the configuration space says true. */
static void update_all(struct pci_function *function)
{
	bool bus_master = get_le16(function->config + PCI_COMMAND) & PCI_COMMAND_MASTER;
	bool changed = function->bus_master != bus_master;

	update_bars(function);
	function->bus_master = bus_master;
	/* Interrupts come back before the device may need them and go after its last one. */
	if (bus_master)
		pci_msix_update_gate(function);
	if (changed && function->ops->bus_master_changed)
		function->ops->bus_master_changed(function, bus_master);
	if (!bus_master)
		pci_msix_update_gate(function);
}

void pci_function_set_bar_address(struct pci_function *function, int bar, uint64_t address)
{
	uint8_t *config = function->config + bar_register(bar);

	put_le32(config, (get_le32(config) & ~PCI_BAR_ADDRESS_MASK) |
			     ((uint32_t)address & PCI_BAR_ADDRESS_MASK));
	if (function->bars[bar].wide)
		put_le32(config + 4, (uint32_t)(address >> 32));
	update_bars(function);
}

uint32_t pci_function_config_read(struct pci_function *function, uint32_t offset, uint32_t size)
{
	uint32_t value = 0;

	if (!range_contains(0, PCI_CONFIG_SIZE, offset, size))
		return 0;
	if (offset >= PCI_CAPABILITIES_START && function->ops->config_read &&
	    function->ops->config_read(function, offset, size, &value))
		return value;
	for (uint32_t i = 0; i < size; i++)
		value |= (uint32_t)function->config[offset + i] << (8 * i);
	return value;
}

void pci_function_config_write(struct pci_function *function, uint32_t offset, uint32_t size,
			       uint32_t value)
{
	if (!range_contains(0, PCI_CONFIG_SIZE, offset, size))
		return;
	if (offset >= PCI_CAPABILITIES_START && function->ops->config_write &&
	    function->ops->config_write(function, offset, size, value))
		return;
	for (uint32_t i = 0; i < size; i++) {
		uint8_t mask = function->writable[offset + i];
		uint8_t *byte = &function->config[offset + i];

		*byte = (uint8_t)((*byte & ~mask) | ((uint8_t)(value >> (8 * i)) & mask));
	}
	update_all(function);
}

void pci_function_bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
			   uint32_t size)
{
	memset(data, 0xff, size);
	if (bar < 0 || bar >= PCI_BAR_COUNT ||
	    !range_contains(0, function->bars[bar].size, offset, size))
		return;
	if (!pci_msix_bar_read(function, bar, offset, data, size))
		function->ops->bar_read(function, bar, offset, data, size);
}

void pci_function_bar_write(struct pci_function *function, int bar, uint64_t offset,
			    const void *data, uint32_t size)
{
	if (bar < 0 || bar >= PCI_BAR_COUNT ||
	    !range_contains(0, function->bars[bar].size, offset, size))
		return;
	if (!pci_msix_bar_write(function, bar, offset, data, size))
		function->ops->bar_write(function, bar, offset, data, size);
}

void pci_function_reset(struct pci_function *function)
{
	for (uint32_t i = 0; i < PCI_CONFIG_SIZE; i++) {
		bool is_bar = i >= PCI_BAR_0 && i < bar_register(PCI_BAR_COUNT);

		if (!is_bar)
			function->config[i] &= ~function->writable[i];
	}
	update_all(function);
	pci_msix_reset(function);
	if (function->ops->reset)
		function->ops->reset(function);
}

static void check_read_only(const struct pci_function *function, const uint8_t *config,
			    struct state *state)
{
	for (uint32_t i = 0; i < PCI_CONFIG_SIZE; i++)
		if (((config[i] ^ function->config[i]) & ~function->writable[i]) != 0) {
			state_fail(
			    state,
			    error_new(0,
				      "byte 0x%02x of the configuration space is 0x%02x, and "
				      "here it is 0x%02x: the device is another one",
				      i, config[i], function->config[i]));
			return;
		}
}

void pci_function_state(void *context, struct state *state)
{
	struct pci_function *function = context;
	uint8_t config[PCI_CONFIG_SIZE];

	memcpy(config, function->config, sizeof(config));
	state_buffer(state, "config", config, sizeof(config));
	if (state_loading(state) && !state_failed(state))
		check_read_only(function, config, state);
	pci_msix_state(function, config, state);
	if (!state_loading(state) || state_failed(state))
		return;
	memcpy(function->config, config, sizeof(config));
	update_all(function);
}
