/* SPDX-License-Identifier: BSD-2-Clause */
/* The sender of snapshot_send.h. What it sends is ours; the peer controls only how fast it goes. */
#include "snapshot/snapshot_send.h"

#include <inttypes.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "snapshot/snapshot_file_section.h"

#define PARTS_MAX (1 + SNAPSHOT_CHUNK_PAGES / 2) /* of a record: its head, every other page */

struct snapshot_sender {
	struct channel *channel;
	struct snapshot_head head;
	struct snapshot_file_section identity;
	struct snapshot_block_plan *blocks;
	uint32_t block_count;
	uint32_t ram_id;
	XXH3_state_t *hash; /* over everything but pages */
	uint64_t records, pages, sent;
};

/* --- Life -------------------------------------------------------------------------------------- */

void snapshot_sender_destroy(struct snapshot_sender *sender)
{
	if (!sender)
		return;
	channel_close(sender->channel);
	snapshot_head_clear(&sender->head);
	XXH3_freeState(sender->hash);
	free(sender->blocks);
	free(sender);
}

static struct error *initialize(struct snapshot_sender *sender,
				const struct snapshot_block_plan *blocks, uint32_t count)
{
	const char *capability = SNAPSHOT_CAPABILITY_STREAM;

	TRY(snapshot_plan_check(blocks, count));
	sender->hash = XXH3_createState();
	sender->blocks = calloc(MAX(count, 1U), sizeof(*blocks));
	if (!sender->hash || !sender->blocks)
		return error_new(ENOMEM, "no memory to send a snapshot");
	XXH3_64bits_reset(sender->hash);
	memcpy(sender->blocks, blocks, count * sizeof(*blocks));
	sender->block_count = count;
	if (getrandom(sender->identity.id, SNAPSHOT_ID_SIZE, 0) != SNAPSHOT_ID_SIZE)
		return error_system(errno, "no random numbers for the snapshot's id");
	return snapshot_head_begin(&sender->head, &capability, 1, &sender->identity);
}

struct error *snapshot_sender_create(struct channel *channel,
				     const struct snapshot_block_plan *blocks, uint32_t block_count,
				     struct snapshot_sender **result)
{
	AUTO_SNAPSHOT_SENDER struct snapshot_sender *sender = calloc(1, sizeof(*sender));

	if (!sender) {
		channel_close(channel);
		return error_new(ENOMEM, "no memory to send a snapshot");
	}
	sender->channel = channel;
	TRY(initialize(sender, blocks, block_count));
	*result = TAKE_PTR(sender);
	return NULL;
}

struct snapshot_head *snapshot_sender_head(struct snapshot_sender *sender)
{
	return &sender->head;
}

void snapshot_sender_cancel(struct snapshot_sender *sender)
{
	channel_cancel(sender->channel);
}

uint64_t snapshot_sender_size(const struct snapshot_sender *sender)
{
	return __atomic_load_n(&sender->sent, __ATOMIC_RELAXED);
}

/* --- Sending ----------------------------------------------------------------------------------- */

static struct error *send_parts(struct snapshot_sender *sender, struct iovec *parts, size_t count)
{
	uint64_t size = 0;

	for (size_t i = 0; i < count; i++)
		size += parts[i].iov_len;
	TRY(channel_write(sender->channel, parts, count));
	__atomic_fetch_add(&sender->sent, size, __ATOMIC_RELAXED);
	return NULL;
}

static struct error *send_buffer(struct snapshot_sender *sender, struct snapshot_buffer *buffer)
{
	struct iovec part = {buffer->bytes, buffer->size};

	if (buffer->failed)
		return error_new(ENOMEM, "no memory to send a snapshot");
	return send_parts(sender, &part, 1);
}

/* Closes the front with its checksum, and begins RAM. */
struct error *snapshot_sender_begin(struct snapshot_sender *sender)
{
	struct snapshot_head *head = &sender->head;
	struct snapshot_buffer *bytes = &head->bytes;
	uint64_t total = 0;
	size_t hashed;
	uint32_t id;

	head->closed = true;
	for (uint32_t i = 0; i < sender->block_count; i++)
		total += sender->blocks[i].size;
	id = snapshot_head_section_begin(head, bytes, SNAPSHOT_SECTION_FRONT, 0, 1, 8);
	if (bytes->failed)
		return error_new(ENOMEM, "no memory to send a snapshot");
	hashed = bytes->size;
	XXH3_64bits_update(sender->hash, bytes->bytes, hashed);
	snapshot_buffer_put64(bytes, XXH3_64bits_digest(sender->hash));
	snapshot_head_section_end(bytes, id);
	sender->ram_id = snapshot_head_ram_begin(head, bytes, total);
	for (uint32_t i = 0; i < sender->block_count; i++) {
		snapshot_buffer_put_name(bytes, sender->blocks[i].name);
		snapshot_buffer_put64(bytes, sender->blocks[i].size);
	}
	snapshot_buffer_put64(bytes, RAM_FLAG_EOS);
	snapshot_head_section_end(bytes, sender->ram_id);
	snapshot_buffer_put8(bytes, QEVM_SECTION_END);
	snapshot_buffer_put32(bytes, sender->ram_id);
	if (!bytes->failed)
		XXH3_64bits_update(sender->hash, bytes->bytes + hashed, bytes->size - hashed);
	return send_buffer(sender, bytes);
}

struct error *snapshot_sender_chunk(struct snapshot_sender *sender, uint32_t block, uint64_t chunk,
				    uint64_t stored, struct snapshot_checksum checksum,
				    const uint8_t *bytes)
{
	uint8_t record[SNAPSHOT_RECORD_SIZE];
	struct iovec parts[PARTS_MAX] = {{record, sizeof(record)}};
	size_t count = 1;

	put_be64(record, chunk * SNAPSHOT_CHUNK_SIZE | RAM_FLAG_CHUNK);
	put_be32(record + 8, block);
	put_be64(record + 12, stored);
	put_be64(record + 20, checksum.high);
	put_be64(record + 28, checksum.low);
	for (unsigned int page = 0; page < SNAPSHOT_CHUNK_PAGES; page++) {
		if (!(stored >> page & 1))
			continue;
		if (!page || !(stored >> (page - 1) & 1))
			parts[count++].iov_base =
			    (uint8_t *)bytes + (size_t)page * SNAPSHOT_PAGE_SIZE;
		parts[count - 1].iov_len += SNAPSHOT_PAGE_SIZE;
		sender->pages++;
	}
	sender->records++;
	XXH3_64bits_update(sender->hash, record, sizeof(record));
	return send_parts(sender, parts, count);
}

struct error *snapshot_sender_finish(struct snapshot_sender *sender)
{
	/* Checksum, footer and end of the stream are to come when the size is written. */
	const size_t rest = 8 + 5 + 1;
	struct snapshot_buffer buffer = {};
	struct error *error;
	uint32_t id;

	snapshot_buffer_put64(&buffer, RAM_FLAG_EOS);
	snapshot_head_section_end(&buffer, sender->ram_id);
	id = snapshot_head_section_begin(&sender->head, &buffer, SNAPSHOT_SECTION_STREAM, 0, 1,
					 SNAPSHOT_STREAM_SIZE);
	snapshot_buffer_put64(&buffer, SNAPSHOT_STREAM_MAGIC);
	snapshot_buffer_put(&buffer, sender->identity.id, SNAPSHOT_ID_SIZE);
	snapshot_buffer_put64(&buffer, sender->records);
	snapshot_buffer_put64(&buffer, sender->pages);
	snapshot_buffer_put64(&buffer, sender->sent + buffer.size + 8 + rest);
	if (!buffer.failed)
		XXH3_64bits_update(sender->hash, buffer.bytes, buffer.size);
	snapshot_buffer_put64(&buffer, XXH3_64bits_digest(sender->hash));
	snapshot_head_section_end(&buffer, id);
	snapshot_buffer_put8(&buffer, QEVM_EOF);
	error = send_buffer(sender, &buffer);
	free(buffer.bytes);
	return error ?: channel_finish(sender->channel);
}
