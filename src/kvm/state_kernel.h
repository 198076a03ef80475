/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to src/kvm: a field of a kernel structure, whose 64-bit type is not C's. */
#ifndef GODWIT_KVM_STATE_KERNEL_H
#define GODWIT_KVM_STATE_KERNEL_H

#include <linux/types.h>

#include "base/state.h"

static inline void state_kernel_u64(struct state *state, const char *name, __u64 *value)
{
	uint64_t copy = *value;

	state_u64(state, name, &copy);
	*value = copy;
}

#endif
