/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages that come, and where they go, postcopy_private.h: small ones at once, as many as lie together; of
 * larger ones the parts are gathered in a buffer of their connection until there is nothing missing.
 * On the receiver's threads; a page is fetched from the buffer by the kernel, so nobody here can wait
 * for a fault of its own.
 *
 * The source controls which pages come. The receiver has checked that they lie in their block.
 */
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "migration/postcopy_private.h"

void postcopy_settle(struct postcopy_destination *destination, uint64_t count)
{
	if (count && !__atomic_sub_fetch(&destination->lacking, count, __ATOMIC_ACQ_REL))
		destination->ops->completed(destination->context);
}

/* Makes sure that all of the pages are expected, once. */
static struct error *take_expected(struct postcopy_block *block, uint64_t first, uint64_t count)
{
	for (uint64_t word = first / 64; word <= (first + count - 1) / 64; word++) {
		uint64_t mask = postcopy_mask(word, first, count);
		uint64_t other =
		    mask & ~__atomic_fetch_and(&block->expected[word], ~mask, __ATOMIC_ACQ_REL);

		if (other)
			return error_new(
			    EBADMSG,
			    "page %llu of block '%s' has come already, or was never to "
			    "come",
			    (unsigned long long)word * 64 + (unsigned)__builtin_ctzll(other),
			    block->ram->name);
	}
	return NULL;
}

static struct error *fill(struct postcopy_block *block, uint64_t first, uint64_t count,
			  const void *bytes)
{
	int result = userfault_fill(block->destination->userfault, block->ram, first * WIRE_PAGE,
				    bytes, count * WIRE_PAGE);

	if (result == -EEXIST)
		return error_new(EIO,
				 "a page of block '%s', of %llu from %llu on, is there although it "
				 "had not come: its content is not the guest's",
				 block->ram->name, (unsigned long long)count,
				 (unsigned long long)first);
	if (result < 0)
		return error_system(-result,
				    "cannot put %llu pages from %llu on of block '%s' in "
				    "place",
				    (unsigned long long)count, (unsigned long long)first,
				    block->ram->name);
	return NULL;
}

/* Returns how many they were. */
static uint64_t clear_lacking(struct postcopy_block *block, uint64_t first, uint64_t count)
{
	uint64_t cleared = 0;

	for (uint64_t word = first / 64; word <= (first + count - 1) / 64; word++) {
		uint64_t mask = postcopy_mask(word, first, count);

		cleared += (uint64_t)__builtin_popcountll(
		    mask & __atomic_fetch_and(&block->lacking[word], ~mask, __ATOMIC_ACQ_REL));
	}
	return cleared;
}

/* The next page from @page on and before @end that is lacking (or is not), or @end. */
static uint64_t next_lacking(const struct postcopy_block *block, uint64_t page, uint64_t end,
			     bool lacking)
{
	while (page < end) {
		uint64_t word = __atomic_load_n(&block->lacking[page / 64], __ATOMIC_ACQUIRE);

		word = (lacking ? word : ~word) & (UINT64_MAX << (page % 64));
		if (word)
			return MIN(align_down(page, 64) + (unsigned)__builtin_ctzll(word), end);
		page = align_down(page, 64) + 64;
	}
	return end;
}

/* What of the range is lacking still; the rest was given back. */
static struct error *place_lacking(struct postcopy_block *block, uint64_t first, uint64_t count,
				   const uint8_t *bytes)
{
	uint64_t end = first + count, placed = 0;
	struct error *error = NULL;

	pthread_rwlock_rdlock(&block->lock);
	for (uint64_t page = first, stop; !error; page = stop) {
		page = next_lacking(block, page, end, true);
		stop = next_lacking(block, page, end, false);
		if (page == end)
			break;
		error = fill(block, page, stop - page,
			     bytes ? bytes + (page - first) * WIRE_PAGE : NULL);
		if (!error)
			placed += clear_lacking(block, page, stop - page);
	}
	pthread_rwlock_unlock(&block->lock);
	postcopy_settle(block->destination, placed);
	return error;
}

static struct error *place_part(struct postcopy_assembly *assembly, struct postcopy_block *block,
				uint64_t first, uint64_t count, const void *bytes)
{
	uint64_t page = align_down(first, block->whole);
	uint8_t *to = assembly->bytes + (first - page) * WIRE_PAGE;

	if (assembly->left && (assembly->block != block->index || assembly->first != page))
		return error_new(EBADMSG,
				 "page %llu of block '%s' comes while %llu pages are to come that "
				 "belong to another large one",
				 (unsigned long long)first, block->ram->name,
				 (unsigned long long)assembly->left);
	TRY(take_expected(block, first, count));
	if (!assembly->left) {
		assembly->block = block->index;
		assembly->first = page;
		assembly->left = block->whole;
		assembly->content = false;
	}
	assembly->content |= bytes != NULL;
	if (bytes)
		memcpy(to, bytes, count * WIRE_PAGE);
	else
		memset(to, 0, count * WIRE_PAGE);
	assembly->left -= count;
	if (assembly->left)
		return NULL;
	return place_lacking(block, page, block->whole, assembly->content ? assembly->bytes : NULL);
}

struct error *postcopy_destination_place(void *context, uint32_t connection, uint32_t index,
					 uint64_t first, uint64_t count, const void *bytes)
{
	struct postcopy_destination *destination = context;
	struct postcopy_block *block = &destination->blocks[index];

	if (connection >= destination->connections)
		return error_new(EINVAL, "connection %u of %u", connection,
				 destination->connections);
	if (block->whole > 1)
		return place_part(&destination->assemblies[connection], block, first, count, bytes);
	TRY(take_expected(block, first, count));
	return place_lacking(block, first, count, bytes);
}
