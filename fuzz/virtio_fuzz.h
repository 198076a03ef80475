/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzzing a virtio device: guest memory, a transport that does nothing, and a driver whose every
 * move comes from the input. A target is:
 *
 *	int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
 *	{
 *		struct virtio_device *device;
 *		struct virtio_fuzz fuzz;
 *
 *		virtio_fuzz_setup(&fuzz);
 *		virtio_fuzz_check(virtio_rng_create("rng", &device));
 *		virtio_fuzz_run(&fuzz, device, data, size);
 *		virtio_fuzz_teardown(&fuzz);
 *		return 0;
 *	}
 *
 * Guest memory: 512 KiB at 0 and 512 KiB right behind it, two regions; at VIRTIO_FUZZ_ELASTIC 64
 * units of 4 KiB, every other one plugged. Rings are below 256 KiB.
 */
#ifndef GODWIT_FUZZ_VIRTIO_FUZZ_H
#define GODWIT_FUZZ_VIRTIO_FUZZ_H

#include "memory/memory_map.h"
#include "virtio/virtio_device.h"

#define VIRTIO_FUZZ_RAM_SIZE	 MIB(1)
#define VIRTIO_FUZZ_ELASTIC	 MIB(16) /* address */
#define VIRTIO_FUZZ_ELASTIC_SIZE KIB(256)
#define VIRTIO_FUZZ_UNIT	 KIB(4)
#define VIRTIO_FUZZ_QUEUES_MAX	 8

struct virtio_fuzz_queue {
	uint64_t descriptors, driver, device; /* ring addresses */
	uint16_t size;
	uint16_t next;	    /* where the driver puts its next descriptor */
	uint16_t available; /* split: available index */
	bool wrap;	    /* packed: the driver's wrap counter */
};

struct virtio_fuzz {
	struct memory_map *map;
	struct ram_block *ram, *more_ram, *elastic_ram;
	struct memory_region *elastic;
	struct virtio_device *device;
	struct virtio_fuzz_queue queues[VIRTIO_FUZZ_QUEUES_MAX];
	uint64_t features; /* that the driver asks for */
	uint64_t interrupts;
};

/* Aborts with the message of @error if there is one. */
void virtio_fuzz_check(struct error *error);
/* Makes the memory; a device may be constructed on fuzz->map afterwards. */
void virtio_fuzz_setup(struct virtio_fuzz *fuzz);
/*
 * Starts @device and plays @data against it: chains well-formed and not, raw writes into memory and
 * rings, notifications, configuration accesses, status writes, pauses, (un)plugging, turns of its
 * loop. Then resets and destroys it. Its loop must not run on a thread.
 */
void virtio_fuzz_run(struct virtio_fuzz *fuzz, struct virtio_device *device, const uint8_t *data,
		     size_t size);
/* The parts of a run, for a target that does something else in between. */
void virtio_fuzz_attach(struct virtio_fuzz *fuzz, struct virtio_device *device);
/* Does what a driver with @features does up to DRIVER_OK; queues of @size entries, 0: the most. */
void virtio_fuzz_start(struct virtio_fuzz *fuzz, uint64_t features, uint16_t size);
/* Takes the driver's side of the queues from those of the device, whose state was loaded. */
void virtio_fuzz_adopt(struct virtio_fuzz *fuzz);
void virtio_fuzz_play(struct virtio_fuzz *fuzz, const uint8_t *data, size_t size);
void virtio_fuzz_teardown(struct virtio_fuzz *fuzz);

#endif
