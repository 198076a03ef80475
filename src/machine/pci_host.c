/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI host bridge, see pci_host.h. The guest controls every configuration access and where BARs
 * are: what is absent reads as ones, and a BAR that a guest puts on top of something else answers
 * nowhere.
 *
 * Both ways to configuration space exist because Linux uses the ports until ACPI has told it of
 * ECAM, and for good on the first 256 bytes: two port exits together cost no more than one emulated
 * memory access does.
 */
#include "machine/pci_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/log.h"
#include "machine/layout.h"

#define SLOTS		      32
#define FUNCTIONS_PER_SLOT    8
#define FUNCTIONS	      (SLOTS * FUNCTIONS_PER_SLOT)
#define CONFIG_HEADER_TYPE    0x0e
#define HEADER_MULTIFUNCTION  0x80
#define CONFIG_ADDRESS_ENABLE 0x80000000U

/* "QEMU PCIe Host bridge": a plain bridge that every operating system knows and has no driver for.
 */
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define BRIDGE_CLASS  0x060000

struct pci_host_bar {
	struct pci_function *function;
	int index;
	bool registered;
	uint64_t address;
};

struct pci_host_function {
	struct pci_function *function;
	struct pci_host_bar bars[PCI_BAR_COUNT];
	uint64_t first_address[PCI_BAR_COUNT]; /* where firmware would put them */
};

struct pci_host {
	struct pci_host_options options;
	pthread_mutex_t lock;	   /* configuration space of all functions */
	uint32_t config_address;   /* last write to port 0xCF8; atomic */
	uint64_t next_64, next_32; /* unused window space */
	uint32_t count;
	struct pci_function bridge;
	struct pci_host_function *functions[FUNCTIONS]; /* by device and function number */
	struct rate_limit overlap_limit;
};

static uint32_t all_ones(uint32_t size)
{
	return size == 4 ? UINT32_MAX : (1U << 8 * size) - 1;
}

static uint32_t pci_host_config_read(struct pci_host *host, uint32_t devfn, uint32_t offset,
				     uint32_t size)
{
	uint32_t value;

	/* An absent device is seen without the lock: functions do not come and go while the guest
	 * runs. */
	if (!host->functions[devfn] || size > 4 || !is_aligned(offset, size))
		return all_ones(MIN(size, 4U));
	pthread_mutex_lock(&host->lock);
	value = pci_function_config_read(host->functions[devfn]->function, offset, size);
	pthread_mutex_unlock(&host->lock);
	return value;
}

static void pci_host_config_write(struct pci_host *host, uint32_t devfn, uint32_t offset,
				  uint32_t size, uint32_t value)
{
	if (!host->functions[devfn] || size > 4 || !is_aligned(offset, size))
		return;
	pthread_mutex_lock(&host->lock);
	pci_function_config_write(host->functions[devfn]->function, offset, size, value);
	pthread_mutex_unlock(&host->lock);
}

/* Little-endian integers of 1, 2 or 4 bytes. */
static void put_value(void *data, uint32_t size, uint32_t value)
{
	uint8_t bytes[4];

	put_le32(bytes, value);
	memcpy(data, bytes, MIN(size, 4U));
}

static uint32_t get_value(const void *data, uint32_t size)
{
	uint8_t bytes[4] = {0};

	memcpy(bytes, data, MIN(size, 4U));
	return get_le32(bytes);
}

static void ecam_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	memset(data, 0xff, size);
	if (size <= 4)
		put_value(data, size,
			  pci_host_config_read(context, offset >> 12 & 0xff, offset & 0xfff, size));
}

static void ecam_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	if (size <= 4)
		pci_host_config_write(context, offset >> 12 & 0xff, offset & 0xfff, size,
				      get_value(data, size));
}

static const struct io_handler ecam_io = {.read = ecam_read, .write = ecam_write};

/* Where the ports point now; false if configuration space is switched off or the bus is not there.
 */
static bool pci_host_port_target(struct pci_host *host, uint64_t offset, uint32_t *devfn,
				 uint32_t *reg)
{
	uint32_t address = __atomic_load_n(&host->config_address, __ATOMIC_RELAXED);

	*devfn = address >> 8 & 0xff;
	*reg = (address & 0xfc) | (offset & 3);
	return (address & CONFIG_ADDRESS_ENABLE) && !(address >> 16 & 0xff);
}

static void ports_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct pci_host *host = context;
	uint32_t devfn, reg;

	memset(data, 0xff, size);
	if (offset == 0 && size == 4)
		put_value(data, size, __atomic_load_n(&host->config_address, __ATOMIC_RELAXED));
	else if (offset >= 4 && size <= 4 && pci_host_port_target(host, offset, &devfn, &reg))
		put_value(data, size, pci_host_config_read(host, devfn, reg, size));
}

static void ports_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct pci_host *host = context;
	uint32_t devfn, reg;

	if (offset == 0 && size == 4)
		__atomic_store_n(&host->config_address, get_value(data, size), __ATOMIC_RELAXED);
	else if (offset >= 4 && size <= 4 && pci_host_port_target(host, offset, &devfn, &reg))
		pci_host_config_write(host, devfn, reg, size, get_value(data, size));
}

static const struct io_handler ports_io = {.read = ports_read, .write = ports_write};

static void bar_read(void *context, uint64_t offset, void *data, uint32_t size)
{
	struct pci_host_bar *bar = context;

	pci_function_bar_read(bar->function, bar->index, offset, data, size);
}

static void bar_write(void *context, uint64_t offset, const void *data, uint32_t size)
{
	struct pci_host_bar *bar = context;

	pci_function_bar_write(bar->function, bar->index, offset, data, size);
}

static const struct io_handler bar_io = {.read = bar_read, .write = bar_write};

/* pci_host_ops; under the configuration lock, or while no vCPU runs. */
static void host_bar_changed(void *context, struct pci_function *function, int index,
			     uint64_t address, uint64_t size, bool enabled)
{
	struct pci_host *host = context;
	struct pci_host_bar *bar = &host->functions[function->devfn]->bars[index];
	struct error *error;

	if (bar->registered)
		io_bus_remove(host->options.mmio, bar->address);
	bar->registered = false;
	if (!enabled)
		return;
	error = io_bus_add(host->options.mmio, address, size, &bar_io, bar, function->name);
	if (error) {
		if (rate_limit_pass(&host->overlap_limit))
			log_warning("the guest misplaced a BAR: %s", error_message(error));
		error_free(error);
		return;
	}
	bar->address = address;
	bar->registered = true;
}

static bool host_add_doorbell(void *context, uint64_t address, int fd)
{
	struct pci_host *host = context;

	return host->options.vm && kvm_vm_add_doorbell(host->options.vm, address, false, fd) == 0;
}

static void host_remove_doorbell(void *context, uint64_t address, int fd)
{
	struct pci_host *host = context;

	if (host->options.vm)
		kvm_vm_remove_doorbell(host->options.vm, address, false, fd);
}

static void host_send_msi(void *context, uint64_t address, uint32_t data)
{
	struct pci_host *host = context;

	if (host->options.vm)
		kvm_vm_send_msi(host->options.vm, address, data);
}

static int host_bind_msi_fd(void *context, int fd, uint64_t address, uint32_t data, int *route)
{
	struct pci_host *host = context;

	return host->options.vm ? kvm_vm_bind_msi_fd(host->options.vm, fd, address, data, route)
				: -ENOTSUP;
}

static void host_unbind_msi_fd(void *context, int fd, int route)
{
	struct pci_host *host = context;

	if (host->options.vm)
		kvm_vm_unbind_msi_fd(host->options.vm, fd, route);
}

static const struct pci_host_ops host_ops = {
    .bar_changed = host_bar_changed,
    .add_doorbell = host_add_doorbell,
    .remove_doorbell = host_remove_doorbell,
    .send_msi = host_send_msi,
    .bind_msi_fd = host_bind_msi_fd,
    .unbind_msi_fd = host_unbind_msi_fd,
};

/* Takes @size bytes, aligned to it, from the window that fits the BAR. */
static struct error *pci_host_place_bar(struct pci_host *host, const struct pci_function *function,
					const struct pci_bar *bar, uint64_t *address)
{
	uint64_t *next = bar->wide ? &host->next_64 : &host->next_32;
	uint64_t start = bar->wide ? host->options.window_start : LAYOUT_PCI32_START;
	uint64_t size = bar->wide ? host->options.window_size : LAYOUT_PCI32_SIZE;

	if (!checked_align_up(*next, bar->size, address) ||
	    !range_contains(start, size, *address, bar->size))
		return error_new(ENOSPC, "%s: no room for a BAR of %llu bytes in the PCI window",
				 function->name, (unsigned long long)bar->size);
	*next = *address + bar->size;
	return NULL;
}

static void pci_host_place_function(struct pci_host_function *entry)
{
	for (int i = 0; i < PCI_BAR_COUNT; i++)
		if (entry->function->bars[i].size)
			pci_function_set_bar_address(entry->function, i, entry->first_address[i]);
}

static void pci_host_mark_multifunction(struct pci_host *host, uint32_t devfn)
{
	uint32_t first = devfn / FUNCTIONS_PER_SLOT * FUNCTIONS_PER_SLOT;

	if (devfn != first && host->functions[first])
		host->functions[first]->function->config[CONFIG_HEADER_TYPE] |=
		    HEADER_MULTIFUNCTION;
}

static struct error *pci_host_plug(struct pci_host *host, struct pci_function *function,
				   uint32_t devfn)
{
	AUTO_FREE struct pci_host_function *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return error_system(ENOMEM, "%s", function->name);
	entry->function = function;
	for (int i = 0; i < PCI_BAR_COUNT; i++) {
		entry->bars[i].function = function;
		entry->bars[i].index = i;
		if (function->bars[i].size)
			TRY(pci_host_place_bar(host, function, &function->bars[i],
					       &entry->first_address[i]));
	}
	function->devfn = (uint8_t)devfn;
	function->host_ops = &host_ops;
	function->host = host;
	pci_host_place_function(entry);
	host->functions[devfn] = TAKE_PTR(entry);
	pci_host_mark_multifunction(host, devfn);
	return NULL;
}

struct error *pci_host_add(struct pci_host *host, struct pci_function *function)
{
	/* All slots get their function 0 before any gets a second: a guest looks for others only
	 * behind a 0. */
	uint32_t slot = 1 + host->count % (SLOTS - 1);
	uint32_t number = host->count / (SLOTS - 1);

	if (number >= FUNCTIONS_PER_SLOT)
		return error_usage("%s: a machine has room for %d devices", function->name,
				   PCI_HOST_FUNCTIONS_MAX);
	TRY(pci_host_plug(host, function, slot * FUNCTIONS_PER_SLOT + number));
	host->count++;
	return NULL;
}

void pci_host_remove(struct pci_host *host, struct pci_function *function)
{
	struct pci_host_function *entry = host->functions[function->devfn];

	if (!entry || entry->function != function)
		return;
	for (int i = 0; i < PCI_BAR_COUNT; i++)
		if (entry->bars[i].registered)
			io_bus_remove(host->options.mmio, entry->bars[i].address);
	host->functions[function->devfn] = NULL;
	free(entry);
}

void pci_host_reset(struct pci_host *host)
{
	__atomic_store_n(&host->config_address, 0, __ATOMIC_RELAXED);
	for (uint32_t devfn = 0; devfn < FUNCTIONS; devfn++) {
		if (!host->functions[devfn])
			continue;
		pci_function_reset(host->functions[devfn]->function);
		pci_host_place_function(host->functions[devfn]);
	}
	for (uint32_t devfn = 0; devfn < FUNCTIONS; devfn++)
		if (host->functions[devfn])
			pci_host_mark_multifunction(host, devfn);
}

struct pci_function *pci_host_function(struct pci_host *host, uint8_t devfn)
{
	return host->functions[devfn] ? host->functions[devfn]->function : NULL;
}

void pci_host_state(void *context, struct state *state)
{
	struct pci_host *host = context;
	uint32_t address = __atomic_load_n(&host->config_address, __ATOMIC_RELAXED);

	state_u32(state, "config address", &address); /* any: looked at when it is used */
	__atomic_store_n(&host->config_address, address, __ATOMIC_RELAXED);
}

struct error *pci_host_create(const struct pci_host_options *options, struct pci_host **result)
{
	static const struct pci_function_ops bridge_ops = {0};
	struct pci_host *host = calloc(1, sizeof(*host));
	struct error *error;

	if (!host)
		return error_system(ENOMEM, "PCI host");
	host->options = *options;
	host->next_64 = options->window_start;
	host->next_32 = LAYOUT_PCI32_START;
	pthread_mutex_init(&host->lock, NULL);
	pci_function_init(&host->bridge, &bridge_ops, "host bridge", BRIDGE_VENDOR, BRIDGE_DEVICE,
			  0, BRIDGE_CLASS, BRIDGE_VENDOR, BRIDGE_DEVICE);
	error = pci_host_plug(host, &host->bridge, 0);
	if (!error)
		error = io_bus_add(options->pio, PLATFORM_PCI_PORT, PLATFORM_PCI_PORT_SIZE,
				   &ports_io, host, "PCI configuration ports");
	if (!error)
		error = io_bus_add(options->mmio, LAYOUT_ECAM_START, LAYOUT_ECAM_SIZE, &ecam_io,
				   host, "PCI configuration space");
	if (error) {
		pci_host_destroy(host);
		return error;
	}
	*result = host;
	return NULL;
}

void pci_host_destroy(struct pci_host *host)
{
	if (!host)
		return;
	io_bus_remove(host->options.pio, PLATFORM_PCI_PORT);
	io_bus_remove(host->options.mmio, LAYOUT_ECAM_START);
	pci_host_remove(host, &host->bridge);
	pci_function_cleanup(&host->bridge);
	pthread_mutex_destroy(&host->lock);
	free(host);
}
