/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of what all processors share in KVM: interrupt controllers and the paravirtual clock.
 *
 * A pin's level is not part of KVM's state of the I/O APIC, only whether an interrupt is requested;
 * the device that drives the line raises it again. Main thread, vCPUs paused. Values from a file
 * reach KVM only through ioctls that take any.
 */
#include <inttypes.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "base/log.h"
#include "kvm/state_kernel.h"
#include "kvm/vm.h"

#define IOAPIC_ADDRESS 0xfec00000

static void visit_pic(struct state *state, struct kvm_pic_state *pic)
{
	state_u8(state, "last irr", &pic->last_irr);
	state_u8(state, "irr", &pic->irr);
	state_u8(state, "imr", &pic->imr);
	state_u8(state, "isr", &pic->isr);
	state_u8(state, "priority add", &pic->priority_add);
	state_check(state, pic->priority_add < 8, "priority add", "is not a pin");
	state_u8(state, "irq base", &pic->irq_base);
	state_u8(state, "read register select", &pic->read_reg_select);
	state_u8(state, "poll", &pic->poll);
	state_u8(state, "special mask", &pic->special_mask);
	state_u8(state, "init state", &pic->init_state);
	state_check(state, pic->init_state < 4, "init state", "is not one of a PIC");
	state_u8(state, "auto eoi", &pic->auto_eoi);
	state_u8(state, "rotate on auto eoi", &pic->rotate_on_auto_eoi);
	state_u8(state, "special fully nested mode", &pic->special_fully_nested_mode);
	state_u8(state, "init4", &pic->init4);
	state_u8(state, "elcr", &pic->elcr);
	state_u8(state, "elcr mask", &pic->elcr_mask);
}

static void visit_ioapic(struct state *state, struct kvm_ioapic_state *ioapic)
{
	uint64_t address = ioapic->base_address;

	state_u64(state, "ioapic address", &address);
	state_check(state, address == IOAPIC_ADDRESS, "ioapic address",
		    "is not where it always is");
	ioapic->base_address = address;
	state_u32(state, "ioapic register select", &ioapic->ioregsel);
	state_u32(state, "ioapic id", &ioapic->id);
	state_u32(state, "ioapic irr", &ioapic->irr);
	for (size_t i = 0; i < ARRAY_SIZE(ioapic->redirtbl); i++)
		state_kernel_u64(state, "redirection", &ioapic->redirtbl[i].bits);
}

static void irqchip_state(void *context, struct state *state)
{
	static const uint32_t ids[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
				       KVM_IRQCHIP_IOAPIC};
	struct kvm_irqchip chips[ARRAY_SIZE(ids)] = {0};
	struct kvm_vm *vm = context;

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		chips[i].chip_id = ids[i];
		if (!state_loading(state) && ioctl(vm->vm_fd, KVM_GET_IRQCHIP, &chips[i]) < 0)
			state_fail(state, error_system(errno, "cannot read interrupt controller %u",
						       ids[i]));
		if (ids[i] == KVM_IRQCHIP_IOAPIC)
			visit_ioapic(state, &chips[i].chip.ioapic);
		else
			visit_pic(state, &chips[i].chip.pic);
	}
	for (size_t i = 0; i < ARRAY_SIZE(ids) && state_loading(state) && !state_failed(state); i++)
		if (ioctl(vm->vm_fd, KVM_SET_IRQCHIP, &chips[i]) < 0)
			state_fail(state, error_system(errno, "cannot set interrupt controller %u",
						       ids[i]));
}

void kvm_vm_irqchip_part(struct kvm_vm *vm, struct state_part *part)
{
	*part = (struct state_part){
	    .name = "irqchip", .version = 1, .visit = irqchip_state, .context = vm};
}

/* --- Clock ------------------------------------------------------------------------------------- */

void kvm_vm_stop_clock(struct kvm_vm *vm)
{
	struct kvm_clock_data data = {0};

	if (vm->clock_stopped)
		return;
	if (ioctl(vm->vm_fd, KVM_GET_CLOCK, &data) < 0) {
		log_error("cannot stop the guest's clock: %m");
		return;
	}
	vm->clock_ns = data.clock;
	vm->clock_stopped = true;
}

void kvm_vm_start_clock(struct kvm_vm *vm)
{
	/* Without KVM_CLOCK_REALTIME, which would add the time that went by. */
	struct kvm_clock_data data = {.clock = vm->clock_ns};

	if (!vm->clock_stopped)
		return;
	if (ioctl(vm->vm_fd, KVM_SET_CLOCK, &data) < 0)
		log_error("cannot start the guest's clock at %" PRIu64 " ns: %m", vm->clock_ns);
	vm->clock_stopped = false;
}

static void clock_state(void *context, struct state *state)
{
	struct kvm_vm *vm = context;

	if (state_loading(state))
		vm->clock_stopped = true;
	else
		kvm_vm_stop_clock(vm);
	state_u64(state, "clock ns", &vm->clock_ns);
	state_check(state, vm->clock_ns <= INT64_MAX, "clock ns", "is later than any clock goes");
}

void kvm_vm_clock_part(struct kvm_vm *vm, struct state_part *part)
{
	*part =
	    (struct state_part){.name = "clock", .version = 1, .visit = clock_state, .context = vm};
}
