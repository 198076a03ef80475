/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writes to a file of a shared folder and reads it back, round after round. The file is looked up and opened
 * once, at the beginning: what the folder's server knows of that is needed to the end.
 *
 * rounds=N kept=N (what is read in a round stays in one of so many pages until its turn comes again, and is looked
 * at then) ballast=N (pages that are written to once and never looked at).
 */
#include "mini.h"

#define PAGE	4096ULL
#define PLACES	16
#define KEPT	256
#define BALLAST 0x2000000ULL

/* Linux's <linux/fuse.h>, protocol 7.31. */
enum { FUSE_LOOKUP = 1, FUSE_OPEN = 14, FUSE_READ = 15, FUSE_WRITE = 16, FUSE_INIT = 26 };
#define ROOT	   1
#define READ_WRITE 2

static struct queue queues[2]; /* the first is for what is urgent */
static struct virtio folder;

static struct {
	uint32_t length, opcode;
	uint64_t unique, node;
	uint32_t user, group, process, padding;
	uint64_t body[8];
} request;
static volatile struct {
	uint32_t length;
	int32_t error;
	uint64_t unique;
	uint64_t body[16];
} answer;

static uint8_t page[PAGE] __attribute__((aligned(4096)));
static uint8_t kept[KEPT][PAGE] __attribute__((aligned(4096)));

static void describe(int index, const volatile void *address, uint32_t length, uint16_t flags)
{
	queues[1].descriptors[index].address = (uintptr_t)address;
	queues[1].descriptors[index].length = length;
	queues[1].descriptors[index].flags = flags;
	queues[1].descriptors[index].next = (uint16_t)(index + 1);
}

/* Asks for @opcode with @length bytes of the request's body; a page of data goes along to or from @data, unless that is NULL. */
static bool ask(uint32_t opcode, uint64_t node, uint32_t length, uint32_t answered, uint8_t *data)
{
	uint16_t used = queues[1].used.index;
	bool write = opcode == FUSE_WRITE;

	length += offsetof(__typeof__(request), body);
	request.length = length + (write ? (uint32_t)PAGE : 0);
	request.opcode = opcode;
	request.unique++;
	request.node = node;
	answer.error = -1;
	describe(0, &request, length, DESCRIPTOR_NEXT);
	if (write)
		describe(1, data, PAGE, DESCRIPTOR_NEXT);
	describe(write ? 2 : 1, &answer, 16 + answered,
		 DESCRIPTOR_WRITE | (data && !write ? DESCRIPTOR_NEXT : 0));
	if (data && !write)
		describe(2, data, PAGE, DESCRIPTOR_WRITE);
	queue_submit(&queues[1], 0);
	return queue_wait(&folder, &queues[1], used) && !answer.error &&
	       answer.unique == request.unique;
}

static bool transfer(bool write, uint64_t node, uint64_t handle, uint64_t offset, uint8_t *data)
{
	memset(request.body, 0, sizeof(request.body));
	request.body[0] = handle;
	request.body[1] = offset;
	request.body[2] = PAGE;
	return ask(write ? FUSE_WRITE : FUSE_READ, node, 40, write ? 8 : 0, data);
}

static uint64_t pattern(uint64_t round, uint64_t word)
{
	return (round << 32 | word) * 6364136223846793005ULL;
}

static bool is_of(const uint8_t *data, uint64_t round)
{
	bool same = true;

	for (uint64_t word = 0; word < PAGE / 8; word++)
		same = same && MMIO(uint64_t, (uintptr_t)data + word * 8) == pattern(round, word);
	return same;
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 100), keep = argument(cmdline, "kept", 1);
	uint64_t node, handle;

	if (!virtio_find(26, 0, &folder) || !virtio_start(&folder, 0, queues, 2)) {
		check(false, "the folder is there");
		return;
	}
	for (uint64_t ballast = 0; ballast < argument(cmdline, "ballast", 0); ballast++)
		MMIO(uint64_t, BALLAST + ballast * PAGE) = ballast + 1;
	request.body[0] = 31ULL << 32 | 7;
	check(ask(FUSE_INIT, 0, 16, 64, NULL), "says which protocol it speaks");
	memcpy(request.body, "file", 5);
	check(ask(FUSE_LOOKUP, ROOT, 5, 128, NULL), "has the file");
	node = answer.body[0];
	request.body[0] = READ_WRITE;
	check(ask(FUSE_OPEN, node, 8, 16, NULL), "opens it");
	handle = answer.body[0];
	if (keep > KEPT)
		keep = KEPT;
	for (uint64_t round = 1; round <= rounds; round++) {
		uint64_t offset = round * 7 % PLACES * PAGE;
		uint8_t *to = kept[round % keep];

		if (round > keep && !is_of(to, round - keep))
			check(false, "what was read is there still");
		for (uint64_t word = 0; word < PAGE / 8; word++)
			MMIO(uint64_t, (uintptr_t)page + word * 8) = pattern(round, word);
		if (!transfer(true, node, handle, offset, page))
			check(false, "writes");
		memset(to, 0, PAGE);
		if (!transfer(false, node, handle, offset, to) || !is_of(to, round))
			check(false, "what was written is read");
		print_number("round", round);
	}
}
