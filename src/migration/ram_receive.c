/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Receiving guest memory, see ram_receive.h. The receiver has checked where a chunk belongs in its
 * block; here it is whether the machine has memory there. Pages are read straight to their places.
 */
#include "migration/ram_receive.h"

#include <string.h>

#include "base/checked.h"
#include "migration/ram_blocks.h"
#include "snapshot/snapshot_receive.h"

#define PAGE SNAPSHOT_PAGE_SIZE

struct ram_receive {
	const struct memory_map *map;
	const struct snapshot_file *stream;
	struct ram_block *blocks[SNAPSHOT_BLOCKS_MAX]; /* by their index in the stream */
	uint8_t *scratch;			       /* a chunk */
	uint64_t total;				       /* bytes of memory */
	uint64_t done;				       /* bytes of pages; atomic */
	bool over;				       /* atomic */
};

/* The checksum is over the whole chunk; pages that did not come must not be touched. */
static bool is_intact(struct ram_receive *receive, const struct snapshot_record *record,
		      const uint8_t *content)
{
	uint64_t size = snapshot_chunk_size(&receive->stream->blocks[record->block], record->chunk);

	if (record->stored != ram_page_mask(size)) {
		memset(receive->scratch, 0, size);
		FOR_EACH_PAGE_RUN(run, record->stored)
		memcpy(receive->scratch + run.first * PAGE, content + run.first * PAGE,
		       run.count * PAGE);
		content = receive->scratch;
	}
	return snapshot_checksum_equal(snapshot_checksum(content, size), record->checksum);
}

static struct error *take_chunk(struct ram_receive *receive, const struct snapshot_record *record)
{
	struct snapshot_receiver *receiver = receive->stream->receiver;
	uint8_t *place = receive->blocks[record->block]->host + record->chunk * SNAPSHOT_CHUNK_SIZE;

	TRY(ram_load_check_chunk(receive->map, &receive->stream->blocks[record->block],
				 record->chunk, record->stored));
	TRY(snapshot_receiver_pages(receiver, record, place));
	if (!is_intact(receive, record, place))
		return snapshot_receiver_bad_chunk(receiver, record);
	__atomic_fetch_add(&receive->done, (uint64_t)__builtin_popcountll(record->stored) * PAGE,
			   __ATOMIC_RELAXED);
	return NULL;
}

static struct error *take_all(struct ram_receive *receive)
{
	struct snapshot_receiver *receiver = receive->stream->receiver;
	struct snapshot_record record;
	bool more;

	for (;;) {
		TRY(snapshot_receiver_next(receiver, &record, &more));
		if (!more)
			return snapshot_receiver_finish(receiver);
		TRY(take_chunk(receive, &record));
	}
}

struct error *ram_receive_run(struct ram_receive *receive)
{
	struct error *error = take_all(receive);

	__atomic_store_n(&receive->over, true, __ATOMIC_RELAXED);
	return snapshot_receiver_explain(receive->stream->receiver, error);
}

void ram_receive_cancel(struct ram_receive *receive)
{
	snapshot_receiver_cancel(receive->stream->receiver);
}

void ram_receive_progress(const struct ram_receive *receive, struct ram_load_progress *progress)
{
	progress->done = __atomic_load_n(&receive->done, __ATOMIC_RELAXED);
	progress->total =
	    __atomic_load_n(&receive->over, __ATOMIC_RELAXED) ? progress->done : receive->total;
}

struct error *ram_receive_create(const struct memory_map *map, const struct snapshot_file *stream,
				 struct ram_receive **result)
{
	AUTO_RAM_RECEIVE struct ram_receive *receive = calloc(1, sizeof(*receive));
	struct ram_block *block;

	TRY(ram_load_check_blocks(map, stream));
	if (receive)
		receive->scratch = malloc(SNAPSHOT_CHUNK_SIZE);
	if (!receive || !receive->scratch)
		return error_system(ENOMEM, "a restore");
	receive->map = map;
	receive->stream = stream;
	/* Each block of one is a block of the other: they are as many, and the names are unique. */
	for (uint32_t i = 0; (block = ram_blocks_at(map, i)); i++) {
		const struct snapshot_block *source = snapshot_file_block(stream, block->name);

		receive->blocks[source - stream->blocks] = block;
		receive->total += block->size;
	}
	*result = TAKE_PTR(receive);
	return NULL;
}

void ram_receive_destroy(struct ram_receive *receive)
{
	if (!receive)
		return;
	free(receive->scratch);
	free(receive);
}
