/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Kernel files: whatever is in one, loading it either fails with a message or leaves an entry point inside what was
 * loaded, and never touches memory that is not the guest's.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "machine/boot.h"

#define LOW_END	 MIB(64)
#define FILE_MAX KIB(64)

/* Made once: what a file does to guest memory has no bearing on the next. */
struct world {
	struct ram_block *block;
	struct memory_map *map;
	struct layout layout;
	struct boot_options options;
};

static struct world *world_create(void)
{
	const struct ram_backing_options backing = {.backing = RAM_BACKING_ANON, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));
	struct memory_region *region;

	if (!world || ram_block_create("ram", &backing, LOW_END, &world->block) ||
	    memory_map_create(&world->map) ||
	    memory_map_add(world->map, 0, MIB(20), world->block, 0, 0, &region) ||
	    memory_map_add(world->map, MIB(20), LOW_END - MIB(20), world->block, MIB(20), 0,
			   &region))
		abort();
	world->layout.low_end = LOW_END;
	world->layout.high_end = LAYOUT_4G;
	world->options = (struct boot_options){
	    .kernel = {.fd = memfd_create("kernel", 0), .path = "kernel"},
	    .initrd = {.fd = memfd_create("initrd", 0), .path = "initrd"},
	    .cmdline = "quiet",
	    .layout = &world->layout,
	    .rsdp = LAYOUT_ACPI_START,
	};
	if (ftruncate(world->options.initrd.fd, 10000) < 0)
		abort();
	return world;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct world *world;
	struct kvm_boot_state state;
	struct error *error;

	if (!world)
		world = world_create();
	if (size > FILE_MAX || ftruncate(world->options.kernel.fd, (off_t)size) < 0 ||
	    pwrite(world->options.kernel.fd, data, size, 0) != (ssize_t)size)
		return -1;
	error = boot_load(world->map, &world->options, &state);
	if (!error)
		assert(state.entry >= LAYOUT_HIGH_START && state.entry < LOW_END);
	else
		assert(error_message(error)[0]);
	error_free(error);
	return 0;
}
