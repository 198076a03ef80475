/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The KVM virtual machine, see vm.h. Made on the main thread; interrupts and doorbells come from
 * any thread. The guest controls MSI addresses and data, which KVM checks.
 */
#include "kvm/vm.h"

#include <cpuid.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/log.h"

#define KVM_API		     12
#define IOAPIC_PINS	     24
#define PIC_PINS	     16
#define IRQCHIP_COUNT	     3		/* two PICs and the I/O APIC */
#define TSS_ADDRESS	     0xfffbd000 /* three pages below 4 GiB that Intel hosts need */
#define IDENTITY_MAP_ADDRESS 0xfffbc000
#define QUIRK_SLOT_ZAP_ALL   (1 << 7) /* KVM_X86_QUIRK_SLOT_ZAP_ALL, Linux 6.12 */

/* The MSI half of KVM's interrupt routing table; KVM only takes the table as a whole. */
struct kvm_msi_routes {
	uint64_t used[KVM_VM_MSI_ROUTES_MAX / 64];
	struct kvm_irq_routing_entry entries[KVM_VM_MSI_ROUTES_MAX];
};

struct kvm_irqchip_state {
	struct kvm_irqchip chips[IRQCHIP_COUNT];
};

static struct error *open_kvm(struct kvm_vm *vm)
{
	static const struct {
		int capability;
		const char *what;
	} needed[] = {
	    {KVM_CAP_IRQCHIP, "in-kernel interrupt controllers"},
	    {KVM_CAP_USER_MEMORY, "memory slots"},
	    {KVM_CAP_READONLY_MEM, "read-only memory slots"},
	    {KVM_CAP_IOEVENTFD, "doorbells (ioeventfd)"},
	    {KVM_CAP_IRQFD, "interrupt descriptors (irqfd)"},
	    {KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"},
	    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit"},
	    {KVM_CAP_SREGS2, "control registers with page table pointers (Linux 5.14)"},
	};

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0 && errno == ENOENT)
		return error_new(ENOENT,
				 "this host has no /dev/kvm: load the module kvm_intel or kvm_amd");
	if (vm->kvm_fd < 0)
		return error_system(errno,
				    "cannot open /dev/kvm (is the user in the group 'kvm'?)");
	if (ioctl(vm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API)
		return error_new(ENOTSUP, "/dev/kvm does not speak KVM's API version %d", KVM_API);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0)
			return error_new(ENOTSUP, "this host's KVM has no %s", needed[i].what);
	return NULL;
}

/* Asks for behaviour that is better than KVM's default; every one of these may be absent. */
static void enable_improvements(struct kvm_vm *vm)
{
	struct kvm_enable_cap emulation = {.cap = KVM_CAP_EXIT_ON_EMULATION_FAILURE, .args = {1}};
	struct kvm_enable_cap quirks = {.cap = KVM_CAP_DISABLE_QUIRKS2,
					.args = {QUIRK_SLOT_ZAP_ALL}};
	struct kvm_enable_cap payload = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_enable_cap triple_fault = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};
	int known = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);

	/* An exception or triple fault that is on its way is then seen as such when saved. */
	ioctl(vm->vm_fd, KVM_ENABLE_CAP, &payload);
	ioctl(vm->vm_fd, KVM_ENABLE_CAP, &triple_fault);
	vm->exits_on_emulation_failure = ioctl(vm->vm_fd, KVM_ENABLE_CAP, &emulation) == 0;
	vm->slot_zap_partial = known > 0 && (known & QUIRK_SLOT_ZAP_ALL) &&
			       ioctl(vm->vm_fd, KVM_ENABLE_CAP, &quirks) == 0;
}

static int write_routes(struct kvm_vm *vm);

static struct error *create_interrupt_controllers(struct kvm_vm *vm, bool pit)
{
	struct kvm_pit_config pit_config = {.flags = KVM_PIT_SPEAKER_DUMMY};
	uint64_t identity_map = IDENTITY_MAP_ADDRESS;

	ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
	if (ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return error_system(errno, "cannot create the interrupt controllers");
	if (pit && ioctl(vm->vm_fd, KVM_CREATE_PIT2, &pit_config) < 0)
		return error_system(errno, "cannot create the interval timer");
	vm->power_on = calloc(1, sizeof(*vm->power_on));
	vm->routes = calloc(1, sizeof(*vm->routes));
	if (!vm->power_on || !vm->routes)
		return error_system(ENOMEM, "interrupt controllers");
	for (uint32_t i = 0; i < IRQCHIP_COUNT; i++) {
		vm->power_on->chips[i].chip_id = i;
		if (ioctl(vm->vm_fd, KVM_GET_IRQCHIP, &vm->power_on->chips[i]) < 0)
			return error_system(errno, "cannot read interrupt controller %u", i);
	}
	vm->has_pics = pit;
	return write_routes(vm) < 0 ? error_system(errno, "cannot route interrupts") : NULL;
}

/* The width of this processor's physical addresses; a guest's can be no wider. */
static uint32_t host_physical_bits(void)
{
	unsigned int eax, ebx, ecx, edx;

	return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) ? eax & 0xff : 36;
}

struct error *kvm_vm_create(bool pit, struct kvm_vm **result)
{
	struct kvm_vm *vm = calloc(1, sizeof(*vm));
	struct error *error;

	if (!vm)
		return error_system(ENOMEM, "virtual machine");
	vm->kvm_fd = vm->vm_fd = -1;
	pthread_mutex_init(&vm->routing_lock, NULL);
	error = open_kvm(vm);
	if (!error) {
		vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
		if (vm->vm_fd < 0)
			error = error_system(errno, "KVM cannot create a virtual machine");
	}
	if (!error) {
		enable_improvements(vm);
		vm->slots_max = ioctl(vm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
		vm->run_size = (size_t)ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
		vm->physical_bits = host_physical_bits();
		error = create_interrupt_controllers(vm, pit);
	}
	if (!error)
		error = io_bus_create(&vm->pio);
	if (!error)
		error = io_bus_create(&vm->mmio);
	if (error) {
		kvm_vm_destroy(vm);
		return error;
	}
	*result = vm;
	return NULL;
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
	if (!vm)
		return;
	io_bus_destroy(vm->pio);
	io_bus_destroy(vm->mmio);
	close_fd(&vm->vm_fd);
	close_fd(&vm->kvm_fd);
	pthread_mutex_destroy(&vm->routing_lock);
	free(vm->routes);
	free(vm->power_on);
	free(vm);
}

void kvm_vm_reset_interrupts(struct kvm_vm *vm)
{
	for (int i = 0; i < IRQCHIP_COUNT; i++)
		if (ioctl(vm->vm_fd, KVM_SET_IRQCHIP, &vm->power_on->chips[i]) < 0)
			log_error("cannot reset interrupt controller %d: %m", i);
}

void kvm_vm_set_irq(struct kvm_vm *vm, uint32_t gsi, bool level)
{
	struct kvm_irq_level line = {.irq = gsi, .level = level};

	if (ioctl(vm->vm_fd, KVM_IRQ_LINE, &line) < 0)
		log_error("cannot set interrupt line %u: %m", gsi);
}

void kvm_vm_pulse_irq(struct kvm_vm *vm, uint32_t gsi)
{
	kvm_vm_set_irq(vm, gsi, true);
	kvm_vm_set_irq(vm, gsi, false);
}

void kvm_vm_send_msi(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	struct kvm_msi msi = {
	    .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};

	/* A negative answer is an address that names no processor: the guest's own affair. */
	ioctl(vm->vm_fd, KVM_SIGNAL_MSI, &msi);
}

/*
 * Adds the pins of the I/O APIC, and those of the PICs for a guest that knows them. To one of hardware-
 * reduced ACPI, which never masks them, they must not even exist: after a reset a PIC's request, or
 * what is left of it, would be the first interrupt it takes, with the vector of an exception.
 */
static uint32_t add_pin_routes(const struct kvm_vm *vm, struct kvm_irq_routing_entry *entries)
{
	uint32_t count = 0;

	for (uint32_t pin = 0; pin < IOAPIC_PINS; pin++)
		entries[count++] = (struct kvm_irq_routing_entry){
		    .gsi = pin,
		    .type = KVM_IRQ_ROUTING_IRQCHIP,
		    .u.irqchip = {.irqchip = KVM_IRQCHIP_IOAPIC, .pin = pin}};
	for (uint32_t pin = 0; vm->has_pics && pin < PIC_PINS; pin++)
		entries[count++] = (struct kvm_irq_routing_entry){
		    .gsi = pin,
		    .type = KVM_IRQ_ROUTING_IRQCHIP,
		    .u.irqchip = {.irqchip =
				      pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				  .pin = pin % 8}};
	return count;
}

/* Hands the whole table to KVM. Called with routing_lock held. */
static int write_routes(struct kvm_vm *vm)
{
	size_t count = bitmap_count_range(vm->routes->used, 0, KVM_VM_MSI_ROUTES_MAX);
	AUTO_FREE struct kvm_irq_routing *table = calloc(
	    1, sizeof(*table) + (count + IOAPIC_PINS + PIC_PINS) * sizeof(table->entries[0]));

	if (!table)
		return -ENOMEM;
	table->nr = add_pin_routes(vm, table->entries);
	for (size_t i = bitmap_next_set(vm->routes->used, 0, KVM_VM_MSI_ROUTES_MAX);
	     i < KVM_VM_MSI_ROUTES_MAX;
	     i = bitmap_next_set(vm->routes->used, i + 1, KVM_VM_MSI_ROUTES_MAX))
		table->entries[table->nr++] = vm->routes->entries[i];
	return ioctl(vm->vm_fd, KVM_SET_GSI_ROUTING, table) < 0 ? -errno : 0;
}

static int assign_irqfd(struct kvm_vm *vm, int fd, int route, bool assign)
{
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd,
				  .gsi = (uint32_t)(IOAPIC_PINS + route),
				  .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN};

	return ioctl(vm->vm_fd, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int kvm_vm_bind_msi_fd(struct kvm_vm *vm, int fd, uint64_t address, uint32_t data, int *route)
{
	bool fresh = *route < 0;
	int failure = 0;
	size_t index;

	pthread_mutex_lock(&vm->routing_lock);
	index =
	    fresh ? bitmap_next_clear(vm->routes->used, 0, KVM_VM_MSI_ROUTES_MAX) : (size_t)*route;
	if (index == KVM_VM_MSI_ROUTES_MAX)
		failure = -ENOSPC;
	if (!failure) {
		bitmap_set_range(vm->routes->used, index, 1);
		vm->routes->entries[index] = (struct kvm_irq_routing_entry){
		    .gsi = (uint32_t)(IOAPIC_PINS + index),
		    .type = KVM_IRQ_ROUTING_MSI,
		    .u.msi = {.address_lo = (uint32_t)address,
			      .address_hi = (uint32_t)(address >> 32),
			      .data = data}};
		failure = write_routes(vm);
	}
	if (!failure && fresh)
		failure = assign_irqfd(vm, fd, (int)index, true);
	if (!failure)
		*route = (int)index;
	else if (fresh && index < KVM_VM_MSI_ROUTES_MAX)
		bitmap_clear_range(vm->routes->used, index, 1);
	pthread_mutex_unlock(&vm->routing_lock);
	return failure;
}

void kvm_vm_unbind_msi_fd(struct kvm_vm *vm, int fd, int route)
{
	if (route < 0)
		return;
	pthread_mutex_lock(&vm->routing_lock);
	assign_irqfd(vm, fd, route, false);
	/* The entry goes out with the next table; nothing refers to it meanwhile. */
	bitmap_clear_range(vm->routes->used, (size_t)route, 1);
	pthread_mutex_unlock(&vm->routing_lock);
}

static int change_doorbell(struct kvm_vm *vm, uint64_t address, bool pio, int fd, bool add)
{
	/* Length 0 matches a write of any size to a memory address; ports need one, ours are 16
	 * bits wide. */
	struct kvm_ioeventfd doorbell = {.addr = address,
					 .len = pio ? 2 : 0,
					 .fd = fd,
					 .flags = (pio ? KVM_IOEVENTFD_FLAG_PIO : 0) |
						  (add ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN)};

	return ioctl(vm->vm_fd, KVM_IOEVENTFD, &doorbell) < 0 ? -errno : 0;
}

int kvm_vm_add_doorbell(struct kvm_vm *vm, uint64_t address, bool pio, int fd)
{
	return change_doorbell(vm, address, pio, fd, true);
}

void kvm_vm_remove_doorbell(struct kvm_vm *vm, uint64_t address, bool pio, int fd)
{
	change_doorbell(vm, address, pio, fd, false);
}
