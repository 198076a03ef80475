/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Capturing and restoring a vCPU, see cpu_state.h.
 *
 * The order of restoring is KVM's: the multiprocessing state and the local APIC depend on the
 * special registers (APIC base), and pending events come last. The model-specific registers are
 * those that a Linux guest changes and that matter for a fresh start; above all the paravirtual
 * ones, which tell KVM to write into guest memory: if they stayed, the old guest's clock would be
 * written into the new guest's memory.
 */
#include "kvm/cpu_state.h"

#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "kvm/vcpu.h"

#define CR0_PE	     (1U << 0)
#define CR0_ET	     (1U << 4)
#define CR0_PG	     (1U << 31)
#define CR4_PAE	     (1U << 5)
#define EFER_LME     (1U << 8)
#define EFER_LMA     (1U << 10)
#define RFLAGS_FIXED (1U << 1)

/*
 * Memory types by address (Intel SDM volume 3A section 12.11): all of it cached, as firmware would
 * leave it. With the processor's own "disabled" KVM would make guest memory uncached where a
 * passed-through device is not coherent.
 */
#define MSR_MTRR_DEFAULT_TYPE	0x2ff
#define MTRR_ENABLED_WRITE_BACK 0x806

/* Selectors of the boot descriptor table (Linux's __BOOT_CS and __BOOT_DS). */
#define SELECTOR_CODE 0x10
#define SELECTOR_DATA 0x18
#define SELECTOR_TASK 0x20

/* Intel SDM volume 4 and Linux's Documentation/virt/kvm/x86/msr.rst. */
static const uint32_t msr_indices[] = {
    0x4b564d00,					    /* wall clock */
    0x4b564d01,					    /* system time */
    0x4b564d02,					    /* asynchronous page faults */
    0x4b564d03,					    /* steal time */
    0x4b564d04,					    /* end of interrupt */
    0x4b564d05,					    /* poll control */
    0x4b564d06,					    /* asynchronous page fault vector */
    0x00000011, 0x00000012,			    /* the older wall clock and system time */
    0x00000174, 0x00000175, 0x00000176,		    /* SYSENTER */
    0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, /* SYSCALL */
    0xc0000102,					    /* kernel GS base */
    0xc0000103,					    /* TSC_AUX */
    0x00000277,					    /* page attribute table */
    0x000001a0,					    /* miscellaneous enables */
    0x0000003b,					    /* TSC adjust */
    0x00000048,					    /* speculation control */
    0x000006e0,					    /* TSC deadline */
    0x000002ff,					    /* MTRR default type */
};

struct cpu_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	bool has_xcrs;
	struct kvm_xsave xsave;
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entries[ARRAY_SIZE(msr_indices)];
	} msrs;
};

/* Adds the registers of msr_indices that this vCPU has; KVM stops a list at the first it does not
 * know. */
static void capture_msrs(int vcpu_fd, struct cpu_state *state)
{
	for (size_t i = 0; i < ARRAY_SIZE(msr_indices); i++) {
		struct {
			struct kvm_msrs header;
			struct kvm_msr_entry entry;
		} one = {.header.nmsrs = 1, .entry.index = msr_indices[i]};

		if (ioctl(vcpu_fd, KVM_GET_MSRS, &one) != 1)
			continue;
		if (one.entry.index == MSR_MTRR_DEFAULT_TYPE)
			one.entry.data = MTRR_ENABLED_WRITE_BACK;
		if (ioctl(vcpu_fd, KVM_SET_MSRS, &one) == 1)
			state->msrs.entries[state->msrs.header.nmsrs++] = one.entry;
	}
}

struct error *cpu_state_capture(int kvm_fd, int vcpu_fd, struct cpu_state **result)
{
	AUTO_FREE struct cpu_state *state = calloc(1, sizeof(*state));

	if (!state)
		return error_system(ENOMEM, "vCPU state");
	if (ioctl(vcpu_fd, KVM_GET_REGS, &state->regs) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_SREGS, &state->sregs) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_LAPIC, &state->lapic) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_MP_STATE, &state->mp_state) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &state->events) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_DEBUGREGS, &state->debugregs) < 0 ||
	    ioctl(vcpu_fd, KVM_GET_XSAVE, &state->xsave) < 0)
		return error_system(errno, "cannot read the state of a vCPU");
	state->has_xcrs = ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0 &&
			  ioctl(vcpu_fd, KVM_GET_XCRS, &state->xcrs) == 0;
	capture_msrs(vcpu_fd, state);
	*result = TAKE_PTR(state);
	return NULL;
}

void cpu_state_free(struct cpu_state *state)
{
	free(state);
}

struct error *cpu_state_restore(int vcpu_fd, const struct cpu_state *state)
{
	if (ioctl(vcpu_fd, KVM_SET_REGS, &state->regs) < 0)
		return error_system(errno, "cannot reset the registers");
	if (ioctl(vcpu_fd, KVM_SET_XSAVE, &state->xsave) < 0)
		return error_system(errno, "cannot reset the vector registers");
	if (state->has_xcrs && ioctl(vcpu_fd, KVM_SET_XCRS, &state->xcrs) < 0)
		return error_system(errno, "cannot reset the extended control registers");
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &state->sregs) < 0)
		return error_system(errno, "cannot reset the segments and control registers");
	if (ioctl(vcpu_fd, KVM_SET_MSRS, &state->msrs) != (int)state->msrs.header.nmsrs)
		return error_new(EIO, "cannot reset the model-specific registers");
	if (ioctl(vcpu_fd, KVM_SET_MP_STATE, &state->mp_state) < 0)
		return error_system(errno, "cannot reset the run state");
	if (ioctl(vcpu_fd, KVM_SET_LAPIC, &state->lapic) < 0)
		return error_system(errno, "cannot reset the local interrupt controller");
	if (ioctl(vcpu_fd, KVM_SET_DEBUGREGS, &state->debugregs) < 0)
		return error_system(errno, "cannot reset the debug registers");
	if (ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &state->events) < 0)
		return error_system(errno, "cannot reset pending events");
	return NULL;
}

/* A flat segment that covers everything: code (executable, readable) or data (writable). */
static struct kvm_segment flat_segment(uint16_t selector, bool code, bool long_mode)
{
	return (struct kvm_segment){.base = 0,
				    .limit = 0xffffffff,
				    .selector = selector,
				    .type = code ? 0xb : 0x3,
				    .present = 1,
				    .db = !(code && long_mode),
				    .s = 1,
				    .l = code && long_mode,
				    .g = 1};
}

struct error *cpu_state_boot(int vcpu_fd, const struct kvm_boot_state *boot)
{
	struct kvm_regs regs = {.rip = boot->entry,
				.rsi = boot->rsi,
				.rbx = boot->rbx,
				.rsp = boot->stack,
				.rflags = RFLAGS_FIXED};
	struct kvm_sregs sregs;

	if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0)
		return error_system(errno, "cannot read the segments of the boot processor");
	sregs.cs = flat_segment(SELECTOR_CODE, true, boot->long_mode);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
	    flat_segment(SELECTOR_DATA, false, boot->long_mode);
	sregs.tr = (struct kvm_segment){
	    .limit = 0x67, .selector = SELECTOR_TASK, .type = 0xb, .present = 1};
	sregs.gdt = (struct kvm_dtable){.base = boot->gdt, .limit = boot->gdt_limit};
	sregs.idt = (struct kvm_dtable){0};
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr4 = 0;
	sregs.efer = 0;
	if (boot->long_mode) {
		sregs.cr0 |= CR0_PG;
		sregs.cr3 = boot->cr3;
		sregs.cr4 = CR4_PAE;
		sregs.efer = EFER_LME | EFER_LMA;
	}
	if (ioctl(vcpu_fd, KVM_SET_SREGS, &sregs) < 0)
		return error_system(errno, "cannot set the segments of the boot processor");
	if (ioctl(vcpu_fd, KVM_SET_REGS, &regs) < 0)
		return error_system(errno, "cannot set the registers of the boot processor");
	return NULL;
}
