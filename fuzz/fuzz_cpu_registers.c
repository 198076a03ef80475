/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A processor's section of a snapshot: any bytes are refused, or are registers, always the same
 * ones.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/cpu_registers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cpu_registers registers, again;
	struct error *error = cpu_registers_read(data, size, CPU_SECTION_VERSION, &registers);

	if (!error) {
		assert(size);
		error = cpu_registers_read(data, size, CPU_SECTION_VERSION, &again);
		assert(!error && memcmp(&registers, &again, sizeof(again)) == 0);
		/* One byte less is not a section any more. */
		error = cpu_registers_read(data, size - 1, CPU_SECTION_VERSION, &again);
		assert(error);
	}
	error_free(error);
	return 0;
}
