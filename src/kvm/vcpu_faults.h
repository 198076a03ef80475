/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How many page faults of one processor KVM has mended, from its binary statistics (Linux 5.14,
 * Documentation/virt/kvm/api.rst 4.133; these counts from 5.19 on). While writes are logged by write
 * protection, a processor's first write to a page in each period is one of them, and in a guest that has
 * touched its memory nearly all are. Where processors note writes themselves (Intel's page modification
 * log) there are none.
 *
 * Who never asks pays for a descriptor: where the counts are is found out with the first question.
 *
 * Threads: one at a time; asking does not wait for the processor. Nothing fails: what is not known is 0.
 */
#ifndef GODWIT_KVM_VCPU_FAULTS_H
#define GODWIT_KVM_VCPU_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#define VCPU_FAULTS_COUNTS 2 /* mended under KVM's lock, and without it */

struct vcpu_faults {
	int fd;		/* -1: there are no statistics */
	bool looked;	/* for the offsets */
	uint32_t count; /* of them */
	uint64_t offset[VCPU_FAULTS_COUNTS];
};

/* While the processor does not run. */
void vcpu_faults_open(struct vcpu_faults *faults, int vcpu_fd);
void vcpu_faults_close(struct vcpu_faults *faults);
uint64_t vcpu_faults_mended(struct vcpu_faults *faults);

#endif
