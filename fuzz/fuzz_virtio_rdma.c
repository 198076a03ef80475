/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The commands, kicks and queues of the RDMA device, whose packets come back to itself.
 *
 * The first byte chooses how the rest is read: as the moves of virtio_fuzz.h, or as commands and work
 * requests that are mostly right, for objects that are there, which are turned into such moves.
 */
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "fuzz_input.h"
#include "fuzz_moves.h"
#include "virtio/rdma.h"
#include "virtio_fuzz.h"

/* Of objects that are made first; the device counts so. */
#define DOMAIN	    256U
#define COMPLETIONS 1024U
#define PAIR	    1024U
#define KEY	    (32768U << 8)

/* Queues, in the guest's memory behind the rings. */
#define CQ    0x18000U
#define SENDS 0x1a000U
#define TAKES 0x1d000U
#define SLOTS 16U

static const uint8_t own[16] = {[10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1};

/* --- A port to itself -------------------------------------------------------------------------- */

#define PACKETS_MAX 64U

struct loop {
	uint32_t first, count;
	struct {
		struct godwit_rdma_ends ends;
		uint32_t size;
		uint8_t bytes[GODWIT_RDMA_PACKET_MAX];
	} packets[PACKETS_MAX];
};

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct loop *loop = context;
	uint32_t slot = (loop->first + loop->count) % PACKETS_MAX;

	if (loop->count == PACKETS_MAX)
		return NULL;
	loop->packets[slot].ends = *ends;
	loop->packets[slot].size = size;
	return loop->packets[slot].bytes;
}

static void commit(void *context)
{
	((struct loop *)context)->count++;
}

static uint32_t receive(void *context, struct godwit_rdma *engine, int64_t now)
{
	struct loop *loop = context;
	uint32_t count = loop->count;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t slot = loop->first;

		loop->first = (slot + 1) % PACKETS_MAX;
		loop->count--;
		godwit_rdma_receive(engine, &loop->packets[slot].ends, loop->packets[slot].bytes,
				    loop->packets[slot].size, now);
	}
	return count;
}

static bool waits(void *context)
{
	return false;
}

static bool sends_from(void *context, const uint8_t address[16])
{
	return !memcmp(address, own, sizeof(own));
}

static void close_loop(void *context)
{
}

/* --- Moves ------------------------------------------------------------------------------------- */

/* Writes to the guest's memory, at most 255 bytes. */
static void put_write(struct moves *moves, uint32_t address, const uint8_t *bytes, uint8_t size)
{
	uint8_t raw[2];

	put_le16(raw, (uint16_t)(address / 8));
	put8(moves, 6);
	put(moves, raw, 2);
	put8(moves, size);
	put(moves, bytes, size);
}

/* A command of @size bytes, with room for an answer. */
static void put_command(struct moves *moves, const uint8_t *bytes, uint8_t size)
{
	put8(moves, 0); /* a chain, and the doorbell of queue 0 */
	put8(moves, 1); /* of two buffers */
	put8(moves, 2); /* readable, contents follow */
	put8(moves, size);
	put(moves, bytes, size);
	put8(moves, 1); /* writable */
	put8(moves, 80);
}

static void put_kick(struct moves *moves, uint8_t kind, uint32_t number)
{
	uint8_t entry[8] = {kind};

	put_le32(entry + 4, number);
	put8(moves, 0x20);
	put8(moves, 0);
	put8(moves, 2);
	put8(moves, sizeof(entry));
	put(moves, entry, sizeof(entry));
}

/* Commands that are right, with the objects above. Returns the size. */
static uint8_t make_command(uint8_t number, uint8_t state, uint8_t bytes[128])
{
	static const uint32_t masks[] = {1, 0x39, 0x12a181 & ~0x2000U, 0x12e01 & ~0x8000U, 1, 1, 1};

	memset(bytes, 0, 128);
	put_le32(bytes, number);
	put_le32(bytes + 8, DOMAIN);
	switch (number) {
	case 3: /* CREATE_CQ */
		put_le32(bytes + 8, 64);
		put_le32(bytes + 12, 1);
		put_le64(bytes + 16, CQ);
		put_le64(bytes + 24, 384 + 64 * 64);
		return 32;
	case 4:
		put_le32(bytes + 8, COMPLETIONS);
		return 12;
	case 5: /* CREATE_SRQ */
		put_le32(bytes + 12, SLOTS);
		put_le32(bytes + 16, 128);
		put_le32(bytes + 20, 4);
		put_le32(bytes + 24, 3);
		put_le32(bytes + 28, 1);
		put_le64(bytes + 32, TAKES);
		put_le64(bytes + 40, 384 + SLOTS * 128);
		return 48;
	case 9: /* CREATE_QP */
		bytes[12] = state % 5;
		put_le32(bytes + 16, COMPLETIONS);
		put_le32(bytes + 20, COMPLETIONS);
		put_le32(bytes + 28, SLOTS);
		put_le32(bytes + 32, 512);
		put_le32(bytes + 36, 4);
		put_le32(bytes + 40, 256);
		put_le32(bytes + 44, SLOTS);
		put_le32(bytes + 48, 128);
		put_le32(bytes + 52, 4);
		put_le32(bytes + 56, 1);
		put_le32(bytes + 60, 1);
		put_le64(bytes + 64, SENDS);
		put_le64(bytes + 72, 384 + SLOTS * 512);
		put_le64(bytes + 80, TAKES);
		put_le64(bytes + 88, 384 + SLOTS * 128);
		return 96;
	case 10: /* MODIFY_QP, to the next state, with itself as its peer */
		put_le32(bytes + 8, PAIR);
		put_le32(bytes + 12, masks[state % ARRAY_SIZE(masks)]);
		if (state == 2)
			put_le32(bytes + 12, 1U | 1U << 7 | 1U << 8 | 1U << 12 | 1U << 15 |
						 1U << 17 | 1U << 20);
		if (state == 3)
			put_le32(bytes + 12,
				 1U | 1U << 9 | 1U << 10 | 1U << 11 | 1U << 13 | 1U << 16);
		bytes[16] = state;
		bytes[17] = 1;
		bytes[18] = 14;
		bytes[19] = bytes[20] = 7;
		bytes[22] = bytes[23] = 4;
		put_le32(bytes + 24, 0xf);
		put_le32(bytes + 40, PAIR);
		memcpy(bytes + 48, own, sizeof(own));
		return 80;
	case 11:
	case 12:
		put_le32(bytes + 8, PAIR);
		return 12;
	case 13: /* CREATE_MR */
		put_le32(bytes + 12, 0x1f);
		put_le32(bytes + 16, 1 + state % 3);
		if (bytes[16] == 3) {
			put_le32(bytes + 12, 0);
			put_le32(bytes + 40, 8);
		} else if (bytes[16] == 1) {
			put_le32(bytes + 20, 1);
			put_le64(bytes + 32, 65536);
			put_le64(bytes + 48, VIRTIO_FUZZ_ELASTIC);
			put_le64(bytes + 56, 65536);
		}
		return 64;
	case 16: /* CREATE_MW */
		put_le32(bytes + 12, 1 + state % 2);
		return 16;
	case 18: /* SET_GID */
		put_le32(bytes + 8, 0);
		memcpy(bytes + 16, own, sizeof(own));
		return 32;
	default:
		return 48;
	}
}

/* The objects above. */
static void put_objects(struct moves *moves, uint8_t service)
{
	static const uint8_t first[][2] = {{1, 0},  {18, 0}, {3, 0},  {9, 0}, {13, 1},
					   {16, 1}, {10, 1}, {10, 2}, {10, 3}};
	uint8_t bytes[128];

	for (size_t i = 0; i < ARRAY_SIZE(first); i++) {
		uint8_t number = first[i][0],
			size = make_command(number, number == 9 ? service : first[i][1], bytes);

		put_command(moves, bytes, size);
	}
}

/* A work request, in any slot, and the index that makes it one. */
static void put_work(struct moves *moves, struct fuzz_input *input)
{
	uint8_t bytes[255] = {0}, index[8] = {0}, slot = fuzz_take8(input) % SLOTS,
		patch = fuzz_take8(input), opcode = fuzz_take8(input);

	put_le64(bytes, slot);
	bytes[12] = opcode % 12 == 11 ? 32 : opcode % 12;
	bytes[16] = fuzz_take8(input);
	put_le64(bytes + 24, fuzz_take32(input));
	put_le32(bytes + 32, KEY);
	put_le32(bytes + 184, fuzz_take16(input));
	bytes[196] = fuzz_take8(input) % 6;
	put_le64(bytes + 208, fuzz_take32(input));
	put_le32(bytes + 216, fuzz_take16(input));
	put_le32(bytes + 220, KEY);
	if (patch < 252)
		put_le32(bytes + patch, fuzz_take32(input));
	put_write(moves, SENDS + 384 + slot * 512, bytes, 248);
	put_le32(index, patch == 255 ? fuzz_take32(input) : (slot + 1) % SLOTS);
	put_write(moves, SENDS + 128, index, 8);
	put_kick(moves, 1, PAIR);
}

static void put_receives(struct moves *moves, struct fuzz_input *input)
{
	uint8_t bytes[128] = {0}, index[8] = {0}, slot = fuzz_take8(input) % SLOTS;

	bytes[28] = fuzz_take8(input) % 6;
	put_le64(bytes + 40, fuzz_take32(input));
	put_le32(bytes + 48, fuzz_take16(input));
	put_le32(bytes + 52, KEY);
	put_write(moves, TAKES + 384 + slot * 128, bytes, sizeof(bytes));
	put_le32(index, fuzz_take8(input));
	put_write(moves, TAKES + 128, index, 8);
	put_kick(moves, 2, PAIR);
}

static void translate(struct moves *moves, struct fuzz_input *input)
{
	uint8_t bytes[128], size;

	put(moves, (const uint8_t[10]){0}, 10); /* features, queue size */
	moves->bytes[0] = 1;
	put_objects(moves, fuzz_take8(input));
	while (input->left && moves->used < FUZZ_MOVES_MAX - 1024) {
		uint8_t what = fuzz_take8(input) % 16;

		if (what < 6) {
			put_work(moves, input);
		} else if (what < 8) {
			put_receives(moves, input);
		} else if (what < 12) {
			uint8_t number = fuzz_take8(input) % 21, state = fuzz_take8(input) % 8,
				patch = fuzz_take8(input);

			size = make_command(number, state, bytes);
			if (patch < 124)
				put_le32(bytes + patch, fuzz_take32(input));
			put_command(moves, bytes, size);
		} else if (what < 13) {
			/* What the driver has taken of completions, and a buffer for events. */
			put_le64(bytes, fuzz_take8(input) % 64);
			put_write(moves, CQ + 256, bytes, 8);
			put_le64(bytes, fuzz_take8(input) % 3);
			put_write(moves, CQ + 8, bytes, 8);
			put(moves, (const uint8_t[]){0x10, 0, 1, 16}, 4);
		} else if (what < 15) {
			put8(moves, 15); /* a turn of the loop */
		} else {
			put8(moves, fuzz_take8(input));
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0, 0, 0, 1};
	struct fuzz_input input = {.data = data + 1, .left = size - 1};
	static struct moves moves;
	static struct loop loop;
	struct virtio_rdma_port port = {
	    .name = "loop",
	    .packets = {.reserve = reserve, .commit = commit, .context = &loop},
	    .receive = receive,
	    .waits = waits,
	    .sends_from = sends_from,
	    .close = close_loop,
	    .context = &loop};
	struct virtio_device *device;
	struct virtio_fuzz fuzz;

	if (!size)
		return 0;
	port.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loop.first = loop.count = 0;
	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_rdma_create("rdma", mac, &port, &device));
	if (data[0] & 1) {
		moves.used = 0;
		translate(&moves, &input);
		virtio_fuzz_run(&fuzz, device, moves.bytes, moves.used);
	} else {
		virtio_fuzz_run(&fuzz, device, data + 1, size - 1);
	}
	virtio_fuzz_teardown(&fuzz);
	close(port.fd);
	return 0;
}
