/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of one vCPU as fields of a stream. cpu_registers.c reads the same fields without a KVM.
 *
 * What must come before what (Linux's Documentation/virt/kvm/api.rst, and what QEMU and Firecracker
 * learned):
 *
 *   reading  the run state first, because asking for it makes KVM act on a pending INIT or SIPI and
 *            change everything else; pending events last, because reading others may queue one.
 *   writing  CPUID and the clock rate before anything is checked against them; VMX's feature control
 *            and the control registers before nested state; the APIC base, a special register, before
 *            the local APIC; the local APIC before the TSC deadline, which is dropped unless the
 *            timer's mode is set; the TSC before the deadline, which counts in it; events last,
 *            because setting registers drops some.
 *
 * Bytes from a file reach KVM only through ioctls that check them: what KVM does not accept makes
 * the load fail. KVM reads and writes no guest memory meanwhile, so that memory may come after: the
 * two registers that would make it do so, the wall clock's, are not carried along. A guest that
 * wants to know the time writes them anew.
 *
 * Runs on the machine's main thread while the vCPU is parked.
 */
#include <inttypes.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/checked.h"
#include "kvm/cpu_registers.h"
#include "kvm/cpu_state.h"
#include "kvm/state_kernel.h"

#define XSAVE_SIZE_MIN 4096 /* of KVM_GET_XSAVE */
#define TSC_TOLERANCE  250  /* parts per million that guests' clocks put up with */
#define VMXON_NONE     UINT64_MAX

#define MSR_TSC			0x10
#define MSR_KVM_WALL_CLOCK_OLD	0x11
#define MSR_FEATURE_CONTROL	0x3a
#define MSR_MCG_CAP		0x179
#define MSR_MC0_CTL		0x400
#define MSR_TSC_DEADLINE	0x6e0
#define MSR_KVM_WALL_CLOCK	0x4b564d00
#define MSR_KVM_ASYNC_PF_ENABLE 0x4b564d02
#define MCE_BANKS_MAX		32

/* What KVM's own list of registers to save leaves out: the memory types by address (MTRRs). */
static const uint32_t unlisted_msrs[] = {
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209,
    0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268,
    0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x2ff,
};

struct msr_table {
	uint32_t count;
	struct kvm_msr_entry entries[CPU_MSRS_MAX];
};

/* Calls @request; a failure becomes the state's. */
static bool call(struct state *state, int fd, unsigned long request, void *argument,
		 const char *what)
{
	if (state_failed(state))
		return false;
	if (ioctl(fd, request, argument) >= 0)
		return true;
	state_fail(state, error_system(errno, "KVM refuses to %s the %s",
				       state_loading(state) ? "set" : "read", what));
	return false;
}

/* --- Registers --------------------------------------------------------------------------------- */

static void visit_sregs(const struct cpu_access *cpu, struct state *state)
{
	struct kvm_sregs2 sregs = {0};

	if (!state_loading(state) &&
	    !call(state, cpu->vcpu_fd, KVM_GET_SREGS2, &sregs, "control registers"))
		return;
	cpu_system_state(&sregs, state);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_SREGS2, &sregs, "control registers");
}

static void visit_regs(const struct cpu_access *cpu, struct state *state)
{
	struct kvm_regs regs = {0};

	if (!state_loading(state) &&
	    !call(state, cpu->vcpu_fd, KVM_GET_REGS, &regs, "general registers"))
		return;
	cpu_general_state(&regs, state);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_REGS, &regs, "general registers");
}

static void visit_xcrs(const struct cpu_access *cpu, struct state *state)
{
	bool there = ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
	struct kvm_xcrs xcrs = {0};

	if (!state_loading(state) && there &&
	    !call(state, cpu->vcpu_fd, KVM_GET_XCRS, &xcrs, "extended control registers"))
		return;
	xcrs.nr_xcrs = state_count(state, "xcrs", xcrs.nr_xcrs, there ? KVM_MAX_XCRS : 0);
	for (uint32_t i = 0; i < xcrs.nr_xcrs; i++) {
		state_u32(state, "xcr", &xcrs.xcrs[i].xcr);
		state_kernel_u64(state, "xcr value", &xcrs.xcrs[i].value);
	}
	if (state_loading(state) && xcrs.nr_xcrs)
		call(state, cpu->vcpu_fd, KVM_SET_XCRS, &xcrs, "extended control registers");
}

/* The vector registers, in the layout that CPUID leaf 0xD describes. */
static void visit_xsave(const struct cpu_access *cpu, struct state *state)
{
	int extended = ioctl(cpu->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	uint32_t here = extended > XSAVE_SIZE_MIN ? MIN((uint32_t)extended, CPU_XSAVE_SIZE_MAX)
						  : XSAVE_SIZE_MIN;
	AUTO_FREE uint8_t *area = calloc(1, here);
	uint32_t size;

	if (!area) {
		state_fail(state, error_system(ENOMEM, "vector registers"));
		return;
	}
	if (!state_loading(state) &&
	    !call(state, cpu->vcpu_fd, extended > 0 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, area,
		  "vector registers"))
		return;
	size = state_count(state, "xsave size", here, here);
	state_check(state, size >= XSAVE_SIZE_MIN, "xsave size", "is smaller than any");
	if (!state_failed(state))
		state_buffer(state, "xsave", area, size);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_XSAVE, area, "vector registers");
}

static void visit_debugregs(const struct cpu_access *cpu, struct state *state)
{
	struct kvm_debugregs debugregs = {0};

	if (!state_loading(state) &&
	    !call(state, cpu->vcpu_fd, KVM_GET_DEBUGREGS, &debugregs, "debug registers"))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(debugregs.db); i++)
		state_kernel_u64(state, "db", &debugregs.db[i]);
	state_kernel_u64(state, "dr6", &debugregs.dr6);
	state_kernel_u64(state, "dr7", &debugregs.dr7);
	state_kernel_u64(state, "debug flags", &debugregs.flags);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_DEBUGREGS, &debugregs, "debug registers");
}

static void visit_lapic(const struct cpu_access *cpu, struct state *state)
{
	struct kvm_lapic_state lapic = {0};

	if (!state_loading(state) &&
	    !call(state, cpu->vcpu_fd, KVM_GET_LAPIC, &lapic, "local APIC"))
		return;
	state_buffer(state, "lapic", lapic.regs, sizeof(lapic.regs));
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_LAPIC, &lapic, "local APIC");
}

/* --- Run state and events ---------------------------------------------------------------------- */

static void visit_events(const struct cpu_access *cpu, struct state *state)
{
	struct kvm_vcpu_events events = {0}, here;
	uint32_t missing;

	if (!call(state, cpu->vcpu_fd, KVM_GET_VCPU_EVENTS, &here, "pending events"))
		return;
	if (!state_loading(state))
		events = here;
	state_u8(state, "exception injected", &events.exception.injected);
	state_u8(state, "exception nr", &events.exception.nr);
	state_u8(state, "exception has error code", &events.exception.has_error_code);
	state_u8(state, "exception pending", &events.exception.pending);
	state_u32(state, "exception error code", &events.exception.error_code);
	state_u8(state, "exception has payload", &events.exception_has_payload);
	state_kernel_u64(state, "exception payload", &events.exception_payload);
	state_u8(state, "interrupt injected", &events.interrupt.injected);
	state_u8(state, "interrupt nr", &events.interrupt.nr);
	state_u8(state, "interrupt soft", &events.interrupt.soft);
	state_u8(state, "interrupt shadow", &events.interrupt.shadow);
	state_u8(state, "nmi injected", &events.nmi.injected);
	state_u8(state, "nmi pending", &events.nmi.pending);
	state_u8(state, "nmi masked", &events.nmi.masked);
	state_u32(state, "sipi vector", &events.sipi_vector);
	state_u8(state, "smm", &events.smi.smm);
	state_u8(state, "smi pending", &events.smi.pending);
	state_u8(state, "smm inside nmi", &events.smi.smm_inside_nmi);
	state_u8(state, "latched init", &events.smi.latched_init);
	state_u8(state, "triple fault pending", &events.triple_fault.pending);
	state_u32(state, "event flags", &events.flags);
	if (!state_loading(state) || state_failed(state))
		return;
	/* An older KVM knows fewer kinds, which is well while none of these is pending. */
	missing = events.flags & ~here.flags;
	state_check(state,
		    !(missing & KVM_VCPUEVENT_VALID_PAYLOAD) ||
			(!events.exception.pending && !events.exception_has_payload),
		    "exception pending", "is more than this host's KVM can express");
	state_check(state,
		    !(missing & KVM_VCPUEVENT_VALID_TRIPLE_FAULT) || !events.triple_fault.pending,
		    "triple fault pending", "is more than this host's KVM can express");
	events.flags &=
	    ~(missing & (KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT));
	call(state, cpu->vcpu_fd, KVM_SET_VCPU_EVENTS, &events, "pending events");
}

/* --- Model-specific registers ------------------------------------------------------------------ */

static void add_msr(struct msr_table *table, uint32_t index)
{
	if (index != MSR_KVM_WALL_CLOCK && index != MSR_KVM_WALL_CLOCK_OLD &&
	    table->count < CPU_MSRS_MAX)
		table->entries[table->count++].index = index;
}

static bool get_msr(const struct cpu_access *cpu, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {.header.nmsrs = 1, .entry.index = index};
	bool there = ioctl(cpu->vcpu_fd, KVM_GET_MSRS, &one) == 1;

	*value = there ? one.entry.data : 0;
	return there;
}

static bool set_msr(const struct cpu_access *cpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} one = {.header.nmsrs = 1, .entry = {.index = index, .data = value}};

	return ioctl(cpu->vcpu_fd, KVM_SET_MSRS, &one) == 1;
}

static void list_msrs(const struct cpu_access *cpu, struct state *state, struct msr_table *table)
{
	AUTO_FREE struct kvm_msr_list *list =
	    calloc(1, sizeof(*list) + CPU_MSRS_MAX * sizeof(list->indices[0]));
	uint64_t capabilities;

	if (!list) {
		state_fail(state, error_system(ENOMEM, "list of model-specific registers"));
		return;
	}
	list->nmsrs = CPU_MSRS_MAX;
	if (!call(state, cpu->kvm_fd, KVM_GET_MSR_INDEX_LIST, list, "list of registers"))
		return;
	for (uint32_t i = 0; i < list->nmsrs; i++)
		add_msr(table, list->indices[i]);
	for (size_t i = 0; i < ARRAY_SIZE(unlisted_msrs); i++)
		add_msr(table, unlisted_msrs[i]);
	if (get_msr(cpu, MSR_MCG_CAP, &capabilities))
		for (uint32_t i = 0; i < MIN(capabilities & 0xff, MCE_BANKS_MAX); i++)
			add_msr(table, MSR_MC0_CTL + 4 * i);
}

/* Reads all of @table, and drops what this vCPU does not have. */
static void read_msrs(const struct cpu_access *cpu, struct state *state, struct msr_table *table)
{
	AUTO_FREE struct kvm_msrs *batch =
	    calloc(1, sizeof(*batch) + table->count * sizeof(batch->entries[0]));
	uint32_t next = 0, kept = 0;

	if (!batch) {
		state_fail(state, error_system(ENOMEM, "model-specific registers"));
		return;
	}
	while (next < table->count) {
		int done;

		batch->nmsrs = table->count - next;
		memcpy(batch->entries, table->entries + next,
		       batch->nmsrs * sizeof(batch->entries[0]));
		done = ioctl(cpu->vcpu_fd, KVM_GET_MSRS, batch);
		if (done < 0) {
			state_fail(state, error_system(errno, "cannot read the model-specific "
							      "registers"));
			return;
		}
		/* KVM stops in front of the first that there is not. */
		memmove(table->entries + kept, batch->entries,
			(size_t)done * sizeof(batch->entries[0]));
		kept += (uint32_t)done;
		next += (uint32_t)done + 1;
	}
	table->count = kept;
}

/* The order of writing. */
static uint32_t msr_rank(uint32_t index)
{
	switch (index) {
	case MSR_TSC:
		return 0;
	case MSR_KVM_ASYNC_PF_ENABLE: /* after its interrupt vector, by which it wakes all that waits */
		return 2;
	case MSR_TSC_DEADLINE:
		return 3;
	default:
		return 1;
	}
}

/*
 * Registers that have their value already are left alone: among them are some that can be read but
 * not written, and writing others does more than storing the value.
 */
static void write_msr(const struct cpu_access *cpu, struct state *state,
		      const struct kvm_msr_entry *entry)
{
	uint64_t now;
	bool there = get_msr(cpu, entry->index, &now);

	if (now == entry->data || state_failed(state) ||
	    (there && set_msr(cpu, entry->index, entry->data)))
		return;
	state_fail(state, error_new(ENOTSUP,
				    "this host's KVM %s the model-specific register 0x%" PRIx32
				    " (the guest's value is 0x%" PRIx64 ")",
				    there ? "refuses the value of" : "does not have", entry->index,
				    (uint64_t)entry->data));
}

static void visit_msrs(const struct cpu_access *cpu, struct state *state)
{
	AUTO_FREE struct msr_table *table = calloc(1, sizeof(*table));

	if (!table) {
		state_fail(state, error_system(ENOMEM, "model-specific registers"));
		return;
	}
	if (!state_loading(state)) {
		list_msrs(cpu, state, table);
		read_msrs(cpu, state, table);
	}
	table->count = state_count(state, "msrs", table->count, CPU_MSRS_MAX);
	for (uint32_t i = 0; i < table->count; i++) {
		state_u32(state, "msr", &table->entries[i].index);
		state_check(state,
			    table->entries[i].index != MSR_KVM_WALL_CLOCK &&
				table->entries[i].index != MSR_KVM_WALL_CLOCK_OLD,
			    "msr", "is a wall clock, which does not travel");
		state_kernel_u64(state, "msr value", &table->entries[i].data);
	}
	if (!state_loading(state))
		return;
	for (uint32_t rank = 0; rank <= 3; rank++)
		for (uint32_t i = 0; i < table->count; i++)
			if (msr_rank(table->entries[i].index) == rank)
				write_msr(cpu, state, &table->entries[i]);
}

/* --- Rate of the time-stamp counter ------------------------------------------------------------ */

static void visit_tsc_rate(const struct cpu_access *cpu, struct state *state)
{
	int here = ioctl(cpu->vcpu_fd, KVM_GET_TSC_KHZ, 0);
	uint32_t khz = here > 0 ? (uint32_t)here : 0; /* 0: this host cannot tell */
	uint64_t difference;

	state_u32(state, "tsc khz", &khz);
	if (!state_loading(state) || state_failed(state) || !khz || here <= 0 ||
	    khz == (uint32_t)here)
		return;
	if (ioctl(cpu->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0 &&
	    ioctl(cpu->vcpu_fd, KVM_SET_TSC_KHZ, khz) == 0)
		return;
	difference = khz > (uint32_t)here ? khz - (uint32_t)here : (uint32_t)here - khz;
	if (difference * 1000000 > (uint64_t)here * TSC_TOLERANCE)
		state_fail(state, error_new(ENOTSUP,
					    "the guest's time-stamp counter runs at %" PRIu32
					    " kHz, this host's at %d kHz, and it cannot scale",
					    khz, here));
}

/* --- Nested virtualisation --------------------------------------------------------------------- */

static bool nested_used(const struct kvm_nested_state *nested)
{
	if (nested->format == KVM_STATE_NESTED_FORMAT_VMX)
		return nested->hdr.vmx.vmxon_pa != VMXON_NONE;
	return nested->flags != KVM_STATE_NESTED_GIF_SET;
}

/* A guest hypervisor's state, in KVM's own format, which is fixed; nothing while there is none. */
static void visit_nested(const struct cpu_access *cpu, struct state *state)
{
	const size_t header = offsetof(struct kvm_nested_state, hdr);
	int limit = ioctl(cpu->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
	uint32_t room = limit > 0 ? MIN((uint32_t)limit, CPU_NESTED_SIZE_MAX) : 0;
	AUTO_FREE struct kvm_nested_state *nested =
	    calloc(1, room + sizeof(struct kvm_nested_state));
	uint32_t size = 0;

	if (!nested) {
		state_fail(state, error_system(ENOMEM, "nested virtualisation"));
		return;
	}
	if (!state_loading(state) && room) {
		nested->size = room;
		if (!call(state, cpu->vcpu_fd, KVM_GET_NESTED_STATE, nested,
			  "nested virtualisation"))
			return;
		if (nested_used(nested) && nested->size >= header)
			size = nested->size - (uint32_t)header;
	}
	size = state_count(state, "nested size", size, room > header ? room - (uint32_t)header : 0);
	if (!size)
		return;
	state_check(state, size >= sizeof(*nested) - header, "nested size", "is too small");
	state_u16(state, "nested flags", &nested->flags);
	state_u16(state, "nested format", &nested->format);
	nested->size = size + (uint32_t)header;
	if (!state_failed(state))
		state_buffer(state, "nested", (uint8_t *)nested + header, size);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_NESTED_STATE, nested, "nested virtualisation");
}

/* VMX must be on in the feature control register before nested state says that it is in use. */
static void visit_feature_control(const struct cpu_access *cpu, struct state *state)
{
	uint64_t value;

	get_msr(cpu, MSR_FEATURE_CONTROL, &value);
	state_u64(state, "feature control", &value);
	if (state_loading(state))
		write_msr(cpu, state,
			  &(struct kvm_msr_entry){.index = MSR_FEATURE_CONTROL, .data = value});
}

/* ----------------------------------------------------------------------------------------------- */

void cpu_state_visit(const struct cpu_access *cpu, struct kvm_cpuid2 **cpuid, struct state *state)
{
	struct kvm_mp_state mp_state = {0};

	if (!state_loading(state))
		call(state, cpu->vcpu_fd, KVM_GET_MP_STATE, &mp_state, "run state");
	state_u32(state, "run state", &mp_state.mp_state);
	state_check(state, mp_state.mp_state <= KVM_MP_STATE_SIPI_RECEIVED, "run state",
		    "is not one of a processor");
	kvm_cpuid_state(cpuid, state);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_CPUID2, *cpuid, "CPUID table");
	visit_tsc_rate(cpu, state);
	visit_feature_control(cpu, state);
	visit_sregs(cpu, state);
	visit_nested(cpu, state);
	visit_regs(cpu, state);
	visit_xcrs(cpu, state);
	visit_xsave(cpu, state);
	visit_debugregs(cpu, state);
	visit_lapic(cpu, state);
	visit_msrs(cpu, state);
	if (state_loading(state))
		call(state, cpu->vcpu_fd, KVM_SET_MP_STATE, &mp_state, "run state");
	visit_events(cpu, state);
}
