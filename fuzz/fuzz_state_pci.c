/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * State of a PCI function from a file: any bytes are refused, or leave a function that a driver can
 * go on with and that saves the same bytes again.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/state.h"
#include "fuzz_input.h"
#include "pci/pci_function.h"

#define VECTORS 4

struct host {
	bool enabled[PCI_BAR_COUNT];
	unsigned int bound;
};

static void bar_changed(void *context, struct pci_function *function, int bar, uint64_t address,
			uint64_t size, bool enabled)
{
	struct host *host = context;

	assert(enabled != host->enabled[bar]);
	assert(address && address + size > address);
	host->enabled[bar] = enabled;
}

static void send_msi(void *context, uint64_t address, uint32_t data)
{
}

static int bind_msi_fd(void *context, int fd, uint64_t address, uint32_t data, int *route)
{
	((struct host *)context)->bound += *route < 0;
	*route = 1;
	return 0;
}

static void unbind_msi_fd(void *context, int fd, int route)
{
	struct host *host = context;

	assert(host->bound-- && route == 1);
}

static const struct pci_host_ops host_ops = {.bar_changed = bar_changed,
					     .send_msi = send_msi,
					     .bind_msi_fd = bind_msi_fd,
					     .unbind_msi_fd = unbind_msi_fd};
static const struct pci_function_ops function_ops = {0};

static void create(struct pci_function *function, struct host *host)
{
	struct error *error;

	pci_function_init(function, &function_ops, "fuzz", 0x1af4, 0x1044, 1, 0xff0000, 0x1af4, 1);
	pci_function_add_bar(function, 0, 0x4000, true, true);
	pci_function_add_bar(function, 2, 0x1000, false, false);
	error = pci_function_add_msix(function, VECTORS, 0, 0x1000, 0x2000);
	assert(!error);
	function->host_ops = &host_ops;
	function->host = host;
}

static void part_of(struct pci_function *function, struct state_part *part)
{
	*part = (struct state_part){
	    .name = "pci", .version = 1, .visit = pci_function_state, .context = function};
}

/*
 * The input is what differs from the state of a new function, so that most of it gets past the
 * read-only bytes; or with an odd first byte, the state itself.
 */
static uint8_t *make_state(struct pci_function *function, struct fuzz_input *input, size_t *size)
{
	uint8_t kind = fuzz_take8(input);
	struct state *state = state_save_begin(false);
	struct state_part part;
	struct error *error;
	uint8_t *bytes;

	part_of(function, &part);
	error = state_visit(state, &part);
	assert(!error);
	if (kind & 1) {
		*size = input->left;
		bytes = malloc(*size + 1);
		fuzz_take(input, bytes, *size);
	} else {
		const void *saved = state_bytes(state, size);

		bytes = malloc(*size);
		memcpy(bytes, saved, *size);
		for (uint8_t changes = kind >> 4; changes; changes--) {
			size_t offset = fuzz_take16(input) % *size;

			bytes[offset] ^= fuzz_take8(input);
		}
	}
	state_free(state);
	return bytes;
}

static void drive(struct pci_function *function, struct fuzz_input *input)
{
	uint8_t bytes[8];

	while (input->left) {
		uint8_t what = fuzz_take8(input);

		fuzz_take(input, bytes, sizeof(bytes));
		if (what & 1)
			pci_function_config_write(function, bytes[0] & ~3u, 4, fuzz_take32(input));
		else if (what & 2)
			pci_function_bar_write(function, 0, 0x1000 + (bytes[0] & 0x3cu), bytes + 4,
					       4);
		else
			pci_function_msix_notify(function, bytes[0]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data, .left = size};
	struct pci_function function;
	struct host host = {0};
	struct state_part part;
	struct state *state;
	struct error *error;
	uint8_t *bytes;
	size_t length;

	create(&function, &host);
	bytes = make_state(&function, &input, &length);
	part_of(&function, &part);
	state = state_load_begin(bytes, length, 1);
	error = state_visit(state, &part);
	state_free(state);
	if (!error) {
		size_t again;
		const void *saved;

		assert(!host.bound); /* nothing interrupts while it loads */
		state = state_save_begin(false);
		error = state_visit(state, &part);
		assert(!error);
		saved = state_bytes(state, &again);
		assert(again == length && !memcmp(saved, bytes, length));
		state_free(state);
		drive(&function, &input);
	}
	error_free(error);
	free(bytes);
	pci_function_cleanup(&function);
	assert(!host.bound);
	return 0;
}
