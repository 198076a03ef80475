/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fields of a processor's registers, and reading them out of a section on any host.
 *
 * The order of the fields is that of cpu_state_visit; what a debugger does not want is skipped.
 * Runs on the caller's thread; only a section that is not as it must be can make it fail.
 */
#include "kvm/cpu_registers.h"

#include <string.h>

#include "base/checked.h"
#include "kvm/cpuid.h"
#include "kvm/state_kernel.h"

#define MSR_KERNEL_GS_BASE 0xc0000102

static void visit_segment(struct state *state, const char *name, struct kvm_segment *segment)
{
	state_kernel_u64(state, name, &segment->base);
	state_u32(state, "limit", &segment->limit);
	state_u16(state, "selector", &segment->selector);
	state_u8(state, "type", &segment->type);
	state_u8(state, "present", &segment->present);
	state_u8(state, "dpl", &segment->dpl);
	state_u8(state, "db", &segment->db);
	state_u8(state, "s", &segment->s);
	state_u8(state, "l", &segment->l);
	state_u8(state, "g", &segment->g);
	state_u8(state, "avl", &segment->avl);
	state_u8(state, "unusable", &segment->unusable);
}

static void visit_table(struct state *state, const char *name, struct kvm_dtable *table)
{
	state_kernel_u64(state, name, &table->base);
	state_u16(state, "limit", &table->limit);
}

void cpu_system_state(struct kvm_sregs2 *registers, struct state *state)
{
	visit_segment(state, "cs", &registers->cs);
	visit_segment(state, "ds", &registers->ds);
	visit_segment(state, "es", &registers->es);
	visit_segment(state, "fs", &registers->fs);
	visit_segment(state, "gs", &registers->gs);
	visit_segment(state, "ss", &registers->ss);
	visit_segment(state, "tr", &registers->tr);
	visit_segment(state, "ldt", &registers->ldt);
	visit_table(state, "gdt", &registers->gdt);
	visit_table(state, "idt", &registers->idt);
	state_kernel_u64(state, "cr0", &registers->cr0);
	state_kernel_u64(state, "cr2", &registers->cr2);
	state_kernel_u64(state, "cr3", &registers->cr3);
	state_kernel_u64(state, "cr4", &registers->cr4);
	state_kernel_u64(state, "cr8", &registers->cr8);
	state_kernel_u64(state, "efer", &registers->efer);
	state_kernel_u64(state, "apic base", &registers->apic_base);
	state_kernel_u64(state, "sregs flags", &registers->flags);
	for (size_t i = 0; i < ARRAY_SIZE(registers->pdptrs); i++)
		state_kernel_u64(state, "pdptr", &registers->pdptrs[i]);
}

void cpu_general_state(struct kvm_regs *registers, struct state *state)
{
	static const char *const names[] = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi",
					    "rsp", "rbp", "r8",	 "r9",	"r10", "r11",
					    "r12", "r13", "r14", "r15", "rip", "rflags"};
	__u64 *const fields[] = {
	    &registers->rax, &registers->rbx, &registers->rcx,	 &registers->rdx, &registers->rsi,
	    &registers->rdi, &registers->rsp, &registers->rbp,	 &registers->r8,  &registers->r9,
	    &registers->r10, &registers->r11, &registers->r12,	 &registers->r13, &registers->r14,
	    &registers->r15, &registers->rip, &registers->rflags};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		state_kernel_u64(state, names[i], fields[i]);
}

/* --- A section --------------------------------------------------------------------------------- */

static void skip(struct state *state, const char *name, size_t size)
{
	uint8_t bytes[256];

	while (size && !state_failed(state)) {
		size_t part = MIN(size, sizeof(bytes));

		state_buffer(state, name, bytes, part);
		size -= part;
	}
}

static void skip_counted(struct state *state, const char *name, uint32_t maximum, size_t size)
{
	skip(state, name, state_count(state, name, 0, maximum) * size);
}

static uint64_t find_kernel_gs(struct state *state)
{
	uint32_t count = state_count(state, "msrs", 0, CPU_MSRS_MAX), index = 0;
	uint64_t value = 0, found = 0;

	for (uint32_t i = 0; i < count; i++) {
		state_u32(state, "msr", &index);
		state_u64(state, "msr value", &value);
		if (index == MSR_KERNEL_GS_BASE)
			found = value;
	}
	return found;
}

static void visit(void *context, struct state *state)
{
	struct cpu_registers *registers = context;
	uint32_t nested;

	skip(state, "stopped for good", 1);
	skip(state, "run state", 4);
	skip_counted(state, "leaves", KVM_CPUID_ENTRIES_MAX, 7 * sizeof(uint32_t));
	skip(state, "tsc khz", 4);
	skip(state, "feature control", 8);
	cpu_system_state(&registers->system, state);
	nested = state_count(state, "nested size", 0, CPU_NESTED_SIZE_MAX);
	if (nested)
		skip(state, "nested", nested + 2 * sizeof(uint16_t)); /* flags and format first */
	cpu_general_state(&registers->general, state);
	skip_counted(state, "xcrs", KVM_MAX_XCRS, sizeof(uint32_t) + sizeof(uint64_t));
	skip_counted(state, "xsave size", CPU_XSAVE_SIZE_MAX, 1);
	skip(state, "debug registers", CPU_DEBUG_REGISTERS * sizeof(uint64_t));
	skip(state, "lapic", CPU_LAPIC_STATE_SIZE);
	registers->kernel_gs_base = find_kernel_gs(state);
	skip(state, "events", CPU_EVENTS_SIZE);
}

struct error *cpu_registers_read(const void *bytes, size_t size, uint32_t version,
				 struct cpu_registers *registers)
{
	const struct state_part part = {.name = CPU_SECTION,
					.version = CPU_SECTION_VERSION,
					.visit = visit,
					.context = registers};
	AUTO_STATE struct state *state = state_load_begin(bytes, size, version);

	memset(registers, 0, sizeof(*registers));
	return state_visit(state, &part);
}
