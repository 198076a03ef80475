/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two machines' memories and the link between them, for tests: connections are pairs of sockets; one
 * end may be a test's own, which then says whatever it wants.
 */
#ifndef GODWIT_TESTS_MIGRATION_PAIR_H
#define GODWIT_TESTS_MIGRATION_PAIR_H

#include "cmocka_prelude.h"

#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/receiver.h"
#include "migration/sender.h"

#define PAIR_PAGE    KIB(4)
#define PAIR_BLOCKS  3
#define PAIR_SIZE    (MIB(8) + KIB(12)) /* the last window and the last word are short */
#define PAIR_ELASTIC MIB(8)
#define PAIR_UNIT    MIB(2)

/* Boot memory with a descriptor, boot memory without, elastic memory of which [2, 4) MiB is plugged. */
struct pair_memory {
	struct memory_map *map;
	struct ram_block *blocks[PAIR_BLOCKS];
	struct memory_region *elastic;
	uint64_t *pending[PAIR_BLOCKS];
};

static inline void pair_memory_create(struct pair_memory *memory)
{
	static const char *const names[] = {"memory0", "memory1", "mem0"};

	memset(memory, 0, sizeof(*memory));
	assert_no_error(memory_map_create(&memory->map));
	for (int i = 0; i < PAIR_BLOCKS; i++) {
		struct ram_backing_options options = {
		    .backing = i == 1 ? RAM_BACKING_ANON : RAM_BACKING_MEMFD, .host_node = -1};
		uint64_t size = i == 2 ? PAIR_ELASTIC : PAIR_SIZE;

		assert_no_error(ram_block_create(names[i], &options, size, &memory->blocks[i]));
		assert_no_error(memory_map_add(memory->map, GIB(i), size, memory->blocks[i], 0,
					       i == 2 ? PAIR_UNIT : 0, &memory->elastic));
		memory->pending[i] = bitmap_create(size / PAIR_PAGE);
	}
	assert_int_equal(memory_region_plug(memory->map, memory->elastic, MIB(2), PAIR_UNIT), 0);
}

static inline void pair_memory_destroy(struct pair_memory *memory)
{
	memory_map_destroy(memory->map);
	for (int i = 0; i < PAIR_BLOCKS; i++) {
		ram_block_destroy(memory->blocks[i]);
		free(memory->pending[i]);
	}
}

static inline uint8_t *pair_page(const struct pair_memory *memory, int block, uint64_t page)
{
	return memory->blocks[block]->host + page * PAIR_PAGE;
}

/* Content that tells which page it is, and which @version of it; noise does not compress. */
static inline void pair_fill(const struct pair_memory *memory, int block, uint64_t page,
			     uint8_t version, bool noise)
{
	uint8_t *bytes = pair_page(memory, block, page);
	uint64_t state = page * 0x9e3779b97f4a7c15 + (uint64_t)block * 77 + version;

	for (size_t i = 0; i < PAIR_PAGE; i += 8) {
		state = state * 6364136223846793005 + 1442695040888963407;
		memcpy(bytes + i, noise || !i ? &state : &(uint64_t){page}, 8);
	}
}

static inline void pair_mark(struct pair_memory *memory, int block, uint64_t first, uint64_t count)
{
	bitmap_set_range(memory->pending[block], first, count);
}

static inline void pair_mark_all(struct pair_memory *memory)
{
	for (int i = 0; i < PAIR_BLOCKS; i++)
		pair_mark(memory, i, 0, memory->blocks[i]->size / PAIR_PAGE);
}

/* Both have the same in what is plugged. */
static inline void pair_assert_same(const struct pair_memory *a, const struct pair_memory *b)
{
	for (int i = 0; i < 2; i++)
		assert_memory_equal(a->blocks[i]->host, b->blocks[i]->host, PAIR_SIZE);
	assert_memory_equal(a->blocks[2]->host + MIB(2), b->blocks[2]->host + MIB(2), PAIR_UNIT);
}

/* A transport over one end of a pair of sockets, whose other end is *@other. */
static inline struct transport *pair_transport(const char *name, int *other)
{
	struct transport *transport;
	int ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	assert_no_error(transport_adopt(ends[0], name, &transport));
	*other = ends[1];
	return transport;
}

/* Ends of a link that a test speaks for itself: [0] is the main connection's. */
struct pair_ends {
	int fds[WIRE_CHANNELS_MAX + 2];
	uint32_t count;
};

static inline struct migration_link *pair_link(enum migration_side side, uint32_t channels,
					       bool postcopy, struct pair_ends *ends)
{
	struct transport *main = pair_transport("main", &ends->fds[0]);
	struct transport *data[WIRE_CHANNELS_MAX + 1];
	struct migration_link *link;

	ends->count = 1 + channels + postcopy;
	for (uint32_t i = 0; i < channels + postcopy; i++) {
		char name[32];

		snprintf(name, sizeof(name), "data %u", i);
		data[i] = pair_transport(name, &ends->fds[1 + i]);
	}
	assert_no_error(migration_link_assemble(side, main, data, channels, postcopy, &link));
	return link;
}

static inline void pair_ends_close(struct pair_ends *ends)
{
	for (uint32_t i = 0; i < ends->count; i++)
		close(ends->fds[i]);
}

static inline void pair_links(uint32_t channels, bool postcopy, struct migration_link **source,
			      struct migration_link **destination)
{
	struct pair_ends ends;
	struct transport *transports[WIRE_CHANNELS_MAX + 2];

	*source = pair_link(MIGRATION_SOURCE, channels, postcopy, &ends);
	for (uint32_t i = 0; i < ends.count; i++)
		assert_no_error(transport_adopt(ends.fds[i], "destination", &transports[i]));
	assert_no_error(migration_link_assemble(MIGRATION_DESTINATION, transports[0],
						transports + 1, channels, postcopy, destination));
}

#endif
