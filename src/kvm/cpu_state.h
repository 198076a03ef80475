/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of one vCPU: captured once after creation as its power-on state, put back at a reset,
 * changed into what a boot protocol asks for, and read or written whole when a machine is saved or
 * loaded. Only while the vCPU does not run.
 */
#ifndef GODWIT_KVM_CPU_STATE_H
#define GODWIT_KVM_CPU_STATE_H

#include "base/error.h"
#include "base/state.h"
#include "kvm/cpuid.h"

struct cpu_state;
struct kvm_boot_state;

/* Reads the state of @vcpu_fd; free with cpu_state_free. */
struct error *cpu_state_capture(int kvm_fd, int vcpu_fd, struct cpu_state **state) MUST_CHECK;
void cpu_state_free(struct cpu_state *state);
struct error *cpu_state_restore(int vcpu_fd, const struct cpu_state *state) MUST_CHECK;
/* Sets registers and segments for @boot; see struct kvm_boot_state. */
struct error *cpu_state_boot(int vcpu_fd, const struct kvm_boot_state *boot) MUST_CHECK;

/* Where KVM is asked about a vCPU. */
struct cpu_access {
	int kvm_fd, vm_fd, vcpu_fd;
};
/*
 * Visits all that a guest can see of a processor (cpu_visit.c says in which order). *@cpuid is the
 * table that the vCPU has; loading replaces it. A vCPU that is loaded has never run.
 */
void cpu_state_visit(const struct cpu_access *cpu, struct kvm_cpuid2 **cpuid, struct state *state);

#endif
