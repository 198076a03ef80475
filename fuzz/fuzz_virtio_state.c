/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of every kind of virtio device, from bytes that nobody vouches for: what is refused
 * must leave a device that can be reset, and what is taken one that a driver can use in any way,
 * and that can be saved again.
 *
 * An input is a byte that chooses the kind, one of flags (1: behind the PCI transport), the size of
 * the state as le16, the state, and moves of virtio_fuzz.c. The mutator makes inputs out of real
 * devices, half used, now and then: their states are not found by chance.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mem.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/virtio_pci.h"
#include "virtio/vsock.h"
#include "virtio_fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

#define REGION	  MIB(32) /* of elastic memory */
#define BLOCK	  KIB(4)
#define BLOCKS	  64
#define HEAD_SIZE 4
#define FLAG_PCI  1

enum kind {
	KIND_RNG,
	KIND_CONSOLE,
	KIND_BALLOON,
	KIND_BLK,
	KIND_NET,
	KIND_VSOCK,
	KIND_MEM,
	KINDS,
};

struct machine {
	struct virtio_fuzz fuzz;
	enum kind kind;
	struct virtio_device *device;
	struct pci_function *function; /* NULL: no PCI transport */
	struct ram_block *elastic;
	int files[4]; /* to close; -1: none */
};

static void create_console(struct machine *machine)
{
	struct chardev *backend;

	virtio_fuzz_check(chardev_create("null", &backend));
	virtio_fuzz_check(virtio_console_create("console", backend, &machine->device));
}

static void create_blk(struct machine *machine)
{
	char text[64];

	machine->files[0] = memfd_create("disk", MFD_CLOEXEC);
	if (machine->files[0] < 0 || ftruncate(machine->files[0], MIB(1)) < 0)
		abort();
	snprintf(text, sizeof(text), "/proc/self/fd/%d", machine->files[0]);
	virtio_fuzz_check(virtio_blk_create(text, &machine->device));
}

static void create_net(struct machine *machine)
{
	struct virtio_net_options options = {
	    .id = "net", .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .on_device_loop = true};
	int fds[2], ends[2];
	struct tap tap;

	for (int i = 0; i < 2; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
			abort();
		fds[i] = ends[0];
		machine->files[i] = ends[1];
	}
	tap_from_sockets(&tap, fds, 2);
	virtio_fuzz_check(virtio_net_create_on_tap(&options, &tap, &machine->device));
}

static void create_vsock(struct machine *machine)
{
	char text[64];

	snprintf(text, sizeof(text), "cid=3,path=/tmp/fuzz-state-%d", getpid());
	virtio_fuzz_check(virtio_vsock_create(text, &machine->device));
}

static void create_mem(struct machine *machine)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_mem_options options = {.id = "mem0", .requested = 48 * BLOCK};

	virtio_fuzz_check(ram_block_create("mem0", &backing, BLOCKS * BLOCK, &machine->elastic));
	virtio_fuzz_check(memory_map_add(machine->fuzz.map, REGION, BLOCKS * BLOCK,
					 machine->elastic, 0, BLOCK, &options.region));
	virtio_fuzz_check(virtio_mem_create(&options, machine->fuzz.map, &machine->device));
}

static void create_device(struct machine *machine)
{
	switch (machine->kind) {
	case KIND_RNG:
		virtio_fuzz_check(virtio_rng_create("rng", &machine->device));
		break;
	case KIND_CONSOLE:
		create_console(machine);
		break;
	case KIND_BALLOON:
		virtio_fuzz_check(virtio_balloon_create("statistics=1", &machine->device));
		break;
	case KIND_BLK:
		create_blk(machine);
		break;
	case KIND_NET:
		create_net(machine);
		break;
	case KIND_VSOCK:
		create_vsock(machine);
		break;
	default:
		create_mem(machine);
	}
}

static void setup(struct machine *machine, uint8_t kind, uint8_t flags)
{
	*machine = (struct machine){.kind = kind % KINDS, .files = {-1, -1, -1, -1}};
	virtio_fuzz_setup(&machine->fuzz);
	create_device(machine);
	machine->device->map = machine->fuzz.map;
	if (flags & FLAG_PCI) {
		virtio_fuzz_check(virtio_pci_create(machine->device, &machine->function));
		virtio_device_set_bus_master(machine->device, true);
	}
	virtio_fuzz_attach(&machine->fuzz, machine->device);
}

static void teardown(struct machine *machine)
{
	if (machine->function)
		virtio_pci_destroy(machine->function);
	virtio_device_destroy(machine->device);
	machine->fuzz.device = NULL;
	virtio_fuzz_teardown(&machine->fuzz);
	ram_block_destroy(machine->elastic);
	for (size_t i = 0; i < ARRAY_SIZE(machine->files); i++)
		close_fd(&machine->files[i]);
}

/* The state of the quiesced device: its size, and the bytes as far as @room goes. */
static size_t save(struct virtio_device *device, uint8_t *bytes, size_t room)
{
	AUTO_STATE struct state *state = state_save_begin(false);
	struct state_part part;
	const void *saved;
	size_t size;

	virtio_device_state_part(device, &part);
	virtio_fuzz_check(state_visit(state, &part));
	saved = state_bytes(state, &size);
	if (size <= room)
		memcpy(bytes, saved, size);
	return size;
}

static bool load(struct virtio_device *device, const uint8_t *bytes, size_t size)
{
	AUTO_STATE struct state *state = state_load_begin(bytes, size, 1);
	AUTO_ERROR struct error *error = NULL;
	struct state_part part;

	virtio_device_state_part(device, &part);
	error = state_visit(state, &part);
	return !error;
}

/* A real state: that of a device with a driver, mostly. */
static size_t make_input(uint8_t *data, size_t max_size, unsigned int seed)
{
	uint32_t random = seed * 2654435761U;
	uint64_t features = VIRTIO_FEATURE(VIRTIO_F_VERSION_1);
	struct machine machine;
	uint8_t chosen[2] = {(uint8_t)(random >> 8), (uint8_t)(random >> 16 & FLAG_PCI)};
	size_t size;

	setup(&machine, chosen[0], chosen[1]);
	features |= machine.device->features;
	if (random >> 17 & 1)
		features &= ~VIRTIO_FEATURE(VIRTIO_F_RING_PACKED);
	if (random >> 18 & 7)
		virtio_fuzz_start(&machine.fuzz, features, random >> 21 & 1 ? 8 : 0);
	virtio_device_quiesce(machine.device);
	size = save(machine.device, data + HEAD_SIZE, max_size - HEAD_SIZE);
	teardown(&machine);
	if (size > max_size - HEAD_SIZE)
		return 0;
	memcpy(data, chosen, sizeof(chosen));
	put_le16(data + 2, (uint16_t)size);
	return HEAD_SIZE + size;
}

/* Changes a single byte often, so that most of a state stays good. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	size_t made;

	if (seed % 16 == 0 && max_size > KIB(1)) {
		made = make_input(data, max_size, seed);
		if (made)
			return made;
	}
	if (seed % 2 && size > HEAD_SIZE) {
		data[HEAD_SIZE + (seed >> 8) % (size - HEAD_SIZE)] ^= (uint8_t)(seed >> 1);
		return size;
	}
	return LLVMFuzzerMutate(data, size, max_size);
}

/* What was taken is what is given; of most kinds something follows the host: a size, an age. */
static void check_saved(struct machine *machine, const uint8_t *bytes, size_t size)
{
	bool alike = machine->kind == KIND_RNG || machine->kind == KIND_VSOCK;
	AUTO_FREE uint8_t *again = malloc(size);

	if (!again || save(machine->device, again, size) != size ||
	    (alike && memcmp(again, bytes, size) != 0))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine machine;
	size_t state_size;

	if (size < HEAD_SIZE)
		return 0;
	state_size = MIN(get_le16(data + 2), size - HEAD_SIZE);
	setup(&machine, data[0], data[1]);
	virtio_device_quiesce(machine.device);
	if (load(machine.device, data + HEAD_SIZE, state_size)) {
		check_saved(&machine, data + HEAD_SIZE, state_size);
		virtio_fuzz_adopt(&machine.fuzz);
		virtio_device_resume(machine.device);
	} else {
		/* With bytes left over all of it was loaded. */
		virtio_device_set_status(machine.device, 0);
		virtio_device_resume(machine.device);
		virtio_fuzz_start(&machine.fuzz, VIRTIO_FEATURE(VIRTIO_F_VERSION_1), 0);
	}
	virtio_fuzz_play(&machine.fuzz, data + HEAD_SIZE + state_size,
			 size - HEAD_SIZE - state_size);
	teardown(&machine);
	return 0;
}
