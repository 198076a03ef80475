/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Post-copy at the destination: a source says what is pending, in whatever words, and then sends whatever
 * pages, while memory is given back. Small pages are compared with a model: each comes once, stays as
 * it came, and what was given back is zeros. Where userfaultfd is not allowed, nothing is tried.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "fuzz_input.h"
#include "migration/postcopy_destination.h"

#define INPUT_MAX   4096
#define SMALL_PAGES 192	 /* of block 0 */
#define LARGE_PAGES 1024 /* of block 1, which has pages of 2 MiB */
#define CONNECTIONS 2

static struct memory_map *map;
static struct userfault *userfault;
static struct ram_block *blocks[2];

struct model {
	bool expected[SMALL_PAGES], lacking[SMALL_PAGES];
	uint8_t content[SMALL_PAGES];
	bool large; /* something of block 1 is pending */
	bool completed;
};

static void completed(void *context)
{
	struct model *model = context;

	assert(!model->completed);
	model->completed = true;
}

static void lost(void *context, const struct error *error)
{
}

static const struct postcopy_destination_ops ops = {.completed = completed, .lost = lost};

static bool create_memory(void)
{
	static const uint64_t sizes[2] = {SMALL_PAGES * WIRE_PAGE, LARGE_PAGES * WIRE_PAGE};
	struct ram_backing_options options = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct error *error = userfault_create(1, &userfault);
	struct memory_region *region;

	if (error) {
		error_free(error);
		return false;
	}
	if (memory_map_create(&map))
		abort();
	for (int i = 0; i < 2; i++) {
		if (ram_block_create("memory", &options, sizes[i], &blocks[i]) ||
		    memory_map_add(map, GIB((uint64_t)i), sizes[i], blocks[i], 0, 0, &region))
			abort();
	}
	blocks[1]->page_size = MIB(2); /* small ones that are taken for large ones */
	return true;
}

static void say_pending(struct postcopy_destination *to, struct fuzz_input *input,
			struct model *model)
{
	struct migration_message message = {.type = MIGRATION_PENDING};
	uint8_t bytes[8 * 16];
	struct error *error;

	message.bitmap.block = fuzz_take8(input) % 3;
	message.bitmap.words = 1 + fuzz_take8(input) % 16;
	message.bitmap.first = fuzz_take8(input) & 0x1f;
	message.bitmap.bytes = bytes;
	if (fuzz_take8(input) & 1)
		memset(bytes, 0xff, sizeof(bytes));
	else
		fuzz_take(input, bytes, message.bitmap.words * 8);
	error = postcopy_destination_pending(to, &message);
	if (!error && message.bitmap.block == 1)
		model->large = true;
	for (uint32_t i = 0; !error && !message.bitmap.block && i < message.bitmap.words * 64; i++)
		if (wire_bitmap_word(&message, i / 64) >> (i % 64) & 1) {
			assert(message.bitmap.first * 64 + i < SMALL_PAGES);
			model->expected[message.bitmap.first * 64 + i] = true;
			model->lacking[message.bitmap.first * 64 + i] = true;
		}
	error_free(error);
}

/* False: the connection is over. */
static bool say_pages(struct postcopy_destination *to, struct fuzz_input *input,
		      struct model *model)
{
	static uint8_t content[WIRE_WINDOW_SIZE];
	uint32_t block = fuzz_take8(input) & 1, connection = fuzz_take8(input) % CONNECTIONS;
	uint64_t pages = block ? LARGE_PAGES : SMALL_PAGES, first = fuzz_take16(input) % pages;
	uint64_t room =
	    MIN(pages, align_down(first, WIRE_WINDOW_PAGES) + WIRE_WINDOW_PAGES) - first;
	uint64_t count = 1 + fuzz_take8(input) % room;
	uint8_t fill = fuzz_take8(input);
	bool right = true;
	struct error *error;

	memset(content, fill, count * WIRE_PAGE);
	error =
	    postcopy_destination_place(to, connection, block, first, count, fill ? content : NULL);
	for (uint64_t page = first; !block && page < first + count; page++) {
		right &= model->expected[page];
		model->expected[page] = false;
	}
	assert(block || right == !error);
	for (uint64_t page = first; !block && !error && page < first + count; page++)
		if (model->lacking[page]) {
			model->lacking[page] = false;
			model->content[page] = fill;
		}
	right = !error;
	error_free(error);
	return right;
}

static void give_back(struct fuzz_input *input, struct model *model)
{
	uint64_t first, count;

	if (fuzz_take8(input) & 1) {
		first = fuzz_take8(input) & 1;
		if (ram_block_discard(blocks[1], first * MIB(2), MIB(2)))
			abort();
		return;
	}
	first = fuzz_take8(input) % SMALL_PAGES;
	count = 1 + fuzz_take8(input) % (SMALL_PAGES - first);
	if (ram_block_discard(blocks[0], first * WIRE_PAGE, count * WIRE_PAGE))
		abort();
	for (uint64_t page = first; page < first + count; page++) {
		model->lacking[page] = false;
		model->content[page] = 0;
	}
}

/* Without the mapping, where pages that are lacking would be waited for. */
static void check(const struct postcopy_destination *to, const struct model *model)
{
	struct postcopy_destination_progress progress;
	uint64_t lacking = 0;
	uint8_t byte[2];

	for (uint64_t page = 0; page < SMALL_PAGES; page++) {
		lacking += model->lacking[page];
		if (pread(blocks[0]->fd, &byte[0], 1, (off_t)(page * WIRE_PAGE)) != 1 ||
		    pread(blocks[0]->fd, &byte[1], 1, (off_t)((page + 1) * WIRE_PAGE - 1)) != 1)
			abort();
		assert(byte[0] == model->content[page] && byte[1] == model->content[page]);
	}
	postcopy_destination_progress(to, &progress);
	assert(model->large ? progress.lacking >= lacking : progress.lacking == lacking);
	assert(model->completed == !progress.lacking);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct postcopy_destination_options options = {.connections = CONNECTIONS};
	struct fuzz_input input = {data, MIN(size, (size_t)INPUT_MAX)};
	struct postcopy_destination *to;
	struct model model = {};
	struct error *error;

	if (!map && !create_memory())
		return 0;
	if (postcopy_destination_create(map, userfault, &options, &ops, &model, &to))
		abort();
	for (int i = 1 + fuzz_take8(&input) % 4; i; i--)
		say_pending(to, &input, &model);
	error = postcopy_destination_begin(to);
	if (!error) {
		bool going = true;

		while (input.left && going) {
			if (fuzz_take8(&input) % 4)
				going = say_pages(to, &input, &model);
			else
				give_back(&input, &model);
		}
		/* An error may have left some pages of a run in place. */
		if (going)
			check(to, &model);
	}
	error_free(error);
	postcopy_destination_destroy(to);
	for (int i = 0; i < 2; i++)
		if (ram_block_discard(blocks[i], 0, blocks[i]->size))
			abort();
	return 0;
}
