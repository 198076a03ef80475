/* SPDX-License-Identifier: BSD-2-Clause */
/* What a source says of the machine that it sends: read, and its configuration taken out of it. */
#include <stddef.h>
#include <stdint.h>

#include "machine/machine_description.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO_MACHINE_DESCRIPTION struct machine_description *description = NULL;
	struct machine_config config;
	struct error *error;

	error = machine_description_read((const char *)data, size, &description);
	if (!error) {
		error = machine_description_config(description, &config);
		machine_config_clear(&config);
	}
	error_free(error);
	return 0;
}
