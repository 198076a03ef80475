/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a debugger wants of a processor, out of the state that was saved of it (cpu_visit.c). Needs
 * no KVM: whoever looks into a snapshot may be on another host.
 *
 * Threads: any. Whoever made the section controls every byte of it.
 */
#ifndef GODWIT_KVM_CPU_REGISTERS_H
#define GODWIT_KVM_CPU_REGISTERS_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"

/* Of the section of a processor (kvm_vcpus_state_part). */
#define CPU_SECTION	     "cpu"
#define CPU_SECTION_VERSION  1
#define CPU_XSAVE_SIZE_MAX   (1U << 20)
#define CPU_NESTED_SIZE_MAX  (1U << 16)
#define CPU_MSRS_MAX	     1024
#define CPU_DEBUG_REGISTERS  7 /* four addresses, DR6, DR7, flags */
#define CPU_LAPIC_STATE_SIZE 1024
#define CPU_EVENTS_SIZE	     37

struct cpu_registers {
	struct kvm_regs general;
	struct kvm_sregs2 system;
	uint64_t kernel_gs_base; /* 0: not saved */
};

/*
 * Takes the registers from a processor's section of @size bytes; @version is what the stream says.
 * The error names the field that is not there or cannot be; *@registers is then not to be used.
 */
struct error *cpu_registers_read(const void *bytes, size_t size, uint32_t version,
				 struct cpu_registers *registers) MUST_CHECK;

/* Visit the fields alone, without asking KVM; for cpu_visit.c too. */
void cpu_general_state(struct kvm_regs *registers, struct state *state);
void cpu_system_state(struct kvm_sregs2 *registers, struct state *state);

#endif
