/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The data connections of a migration, at the destination: whatever comes, nothing is touched but
 * plugged guest memory, and everything ends. The input's first byte says whether pages are placed by
 * somebody else; then, again and again, a connection (1 byte), a length (2 bytes) and what it carries.
 */
#include <assert.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "fuzz_input.h"
#include "migration/receiver.h"

#define CHANNELS    3 /* the last one is for requested pages */
#define DEVICES	    3
#define INPUT_MAX   (64 << 10) /* fits a socket's buffer */
#define BLOCK_SIZE  (MIB(1) + KIB(12))
#define ELASTIC	    MIB(8)
#define BLOCK_PAGES (BLOCK_SIZE / WIRE_PAGE)

static struct memory_map *map;
static struct ram_block *blocks[2];

static struct error *round_ended(void *context, uint64_t round)
{
	return NULL;
}

static struct error *load(void *context, uint32_t device, const void *bytes, size_t size, bool last)
{
	const uint8_t *byte = bytes;
	uint32_t sum = 0;

	assert(device < DEVICES && size <= WIRE_CHUNK_MAX);
	for (size_t i = 0; i < size; i++)
		sum += byte[i];
	return sum == 0xbad ? error_new(EINVAL, "this state is bad") : NULL;
}

static struct error *place(void *context, uint32_t connection, uint32_t block, uint64_t first,
			   uint64_t count, const void *bytes)
{
	assert(block < 2 && count);
	assert(first + count <= (block ? ELASTIC / WIRE_PAGE : BLOCK_PAGES));
	return NULL;
}

static void ended(void *context, const struct error *error)
{
	assert(!error || error_message(error)[0]);
}

static const struct migration_receiver_ops ops = {
    .round_ended = round_ended, .load = load, .place = place, .ended = ended};

static void create_memory(void)
{
	struct ram_backing_options options = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct memory_region *region;

	if (memory_map_create(&map) || ram_block_create("boot", &options, BLOCK_SIZE, &blocks[0]) ||
	    ram_block_create("elastic", &options, ELASTIC, &blocks[1]) ||
	    memory_map_add(map, 0, BLOCK_SIZE, blocks[0], 0, 0, &region) ||
	    memory_map_add(map, GIB(1), ELASTIC, blocks[1], 0, MIB(2), &region) ||
	    memory_region_plug(map, region, MIB(2), MIB(2)) < 0)
		abort();
}

static struct migration_link *open_link(int ends[CHANNELS + 1])
{
	struct transport *transports[CHANNELS + 1];
	struct migration_link *link;

	for (int i = 0; i <= CHANNELS; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0 ||
		    transport_adopt(pair[0], "peer", &transports[i]))
			abort();
		ends[i] = pair[1];
	}
	if (migration_link_assemble(MIGRATION_DESTINATION, transports[0], transports + 1,
				    CHANNELS - 1, true, &link))
		abort();
	return link;
}

static void say(struct fuzz_input *input, const int ends[CHANNELS + 1])
{
	static uint8_t bytes[UINT16_MAX];

	while (input->left) {
		int channel = 1 + fuzz_take8(input) % CHANNELS;
		size_t size = MIN((size_t)fuzz_take16(input), input->left);

		fuzz_take(input, bytes, size);
		/* It may have hung up already. */
		if (size && send(ends[channel], bytes, size, MSG_NOSIGNAL) < 0)
			break;
	}
	for (int i = 1; i <= CHANNELS; i++)
		shutdown(ends[i], SHUT_WR);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct migration_receiver_options options = {
	    .workers = 1, .devices = DEVICES, .pool_size = (DEVICES + 1) * WIRE_CHUNK_MAX};
	struct fuzz_input input = {data, MIN(size, (size_t)INPUT_MAX)};
	struct migration_receiver *receiver;
	struct migration_received received;
	struct migration_link *link;
	int ends[CHANNELS + 1];

	if (!map)
		create_memory();
	link = open_link(ends);
	if (migration_receiver_create(link, map, &options, &ops, NULL, &receiver))
		abort();
	migration_receiver_set_placing(receiver, fuzz_take8(&input) & 1);
	error_free(migration_receiver_start(receiver));
	say(&input, ends);
	error_free(migration_receiver_wait(receiver));
	migration_receiver_progress(receiver, &received);
	assert(received.pool_peak <= options.pool_size);
	migration_receiver_destroy(receiver);
	migration_link_close(link);
	for (int i = 0; i <= CHANNELS; i++)
		close(ends[i]);
	return 0;
}
