/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Codecs of what begins a connection and of records, wire.h. Little-endian. Bytes without a meaning
 * are zero, and refused when they are not, so that they can get one.
 */
#include "migration/wire.h"

#include <string.h>

#include "base/bytes.h"

#define MAGIC	   "GODWMIGR"
#define MAGIC_SIZE 8

/* Offsets, wire.h's sizes include all. */
#define HELLO_VERSION	8
#define HELLO_CHANNEL	10
#define HELLO_FLAGS	12
#define HELLO_SESSION	16
#define HELLO_INDEX	32
#define HELLO_COUNT	34
#define HELLO_RESERVED	36
#define ANSWER_VERSION	8
#define ANSWER_STATUS	10
#define ANSWER_RESERVED 12
#define RECORD_KIND	0
#define RECORD_FLAGS	1
#define RECORD_BLOCK	2
#define RECORD_LENGTH	4
#define RECORD_PAGE	8 /* or device 4, index 4; or round 8 */
#define RECORD_INDEX	12
#define RECORD_CONTENT	16
#define RECORD_ZERO	48

_Static_assert(RECORD_ZERO + 8 * WIRE_WINDOW_WORDS == WIRE_RECORD_SIZE, "size of a record");
_Static_assert(RECORD_CONTENT + 8 * WIRE_WINDOW_WORDS == RECORD_ZERO, "place of the masks");
_Static_assert(HELLO_SESSION + WIRE_SESSION_SIZE == HELLO_INDEX, "size of a session's id");

/* --- Hello ------------------------------------------------------------------------------------- */

void wire_put_hello(uint8_t bytes[WIRE_HELLO_SIZE], const struct wire_hello *hello)
{
	memset(bytes, 0, WIRE_HELLO_SIZE);
	memcpy(bytes, MAGIC, MAGIC_SIZE);
	put_le16(bytes + HELLO_VERSION, WIRE_VERSION);
	put_le16(bytes + HELLO_CHANNEL, (uint16_t)hello->channel);
	put_le32(bytes + HELLO_FLAGS, hello->flags);
	memcpy(bytes + HELLO_SESSION, hello->session, WIRE_SESSION_SIZE);
	put_le16(bytes + HELLO_INDEX, hello->index);
	put_le16(bytes + HELLO_COUNT, hello->count);
}

struct error *wire_get_hello(const uint8_t bytes[WIRE_HELLO_SIZE], struct wire_hello *hello,
			     enum wire_status *status)
{
	uint16_t version = get_le16(bytes + HELLO_VERSION);
	uint16_t channel = get_le16(bytes + HELLO_CHANNEL);
	uint32_t flags = get_le32(bytes + HELLO_FLAGS);
	uint16_t index = get_le16(bytes + HELLO_INDEX), count = get_le16(bytes + HELLO_COUNT);

	*status = WIRE_STATUS_MALFORMED;
	if (memcmp(bytes, MAGIC, MAGIC_SIZE) != 0)
		return error_new(EBADMSG, "this is not a migration of godwit");
	if (version != WIRE_VERSION) {
		*status = WIRE_STATUS_VERSION;
		return error_new(EPROTONOSUPPORT,
				 "the source speaks version %u of the protocol, this is version %d",
				 version, WIRE_VERSION);
	}
	if (channel > WIRE_CHANNEL_POSTCOPY)
		return error_new(EBADMSG, "the kind of connection, %u, is unknown", channel);
	if (flags & ~(WIRE_HELLO_POSTCOPY | WIRE_HELLO_RESUME))
		return error_new(EBADMSG, "flags %#x are not all known", flags);
	if (count < 1 || count > WIRE_CHANNELS_MAX)
		return error_new(EBADMSG, "%u data connections: they must be 1 to %d", count,
				 WIRE_CHANNELS_MAX);
	if (channel == WIRE_CHANNEL_DATA ? index >= count : index)
		return error_new(EBADMSG, "index %u of %u data connections", index, count);
	if (channel == WIRE_CHANNEL_POSTCOPY && !(flags & WIRE_HELLO_POSTCOPY))
		return error_new(EBADMSG, "a connection for requested pages that flags %#x deny",
				 flags);
	if (get_le32(bytes + HELLO_RESERVED))
		return error_new(EBADMSG, "reserved bytes are %#x",
				 get_le32(bytes + HELLO_RESERVED));
	*hello = (struct wire_hello){
	    .channel = (enum wire_channel)channel, .flags = flags, .index = index, .count = count};
	memcpy(hello->session, bytes + HELLO_SESSION, WIRE_SESSION_SIZE);
	*status = WIRE_STATUS_OK;
	return NULL;
}

void wire_put_answer(uint8_t bytes[WIRE_ANSWER_SIZE], enum wire_status status)
{
	memset(bytes, 0, WIRE_ANSWER_SIZE);
	memcpy(bytes, MAGIC, MAGIC_SIZE);
	put_le16(bytes + ANSWER_VERSION, WIRE_VERSION);
	put_le16(bytes + ANSWER_STATUS, (uint16_t)status);
}

struct error *wire_get_answer(const uint8_t bytes[WIRE_ANSWER_SIZE])
{
	uint16_t version = get_le16(bytes + ANSWER_VERSION);
	uint16_t status = get_le16(bytes + ANSWER_STATUS);

	if (memcmp(bytes, MAGIC, MAGIC_SIZE) != 0)
		return error_new(EBADMSG, "nobody there expects a migration of godwit");
	if (status == WIRE_STATUS_VERSION)
		return error_new(
		    EPROTONOSUPPORT,
		    "the destination speaks version %u of the protocol, this is version %d",
		    version, WIRE_VERSION);
	if (status == WIRE_STATUS_SESSION)
		return error_new(EBUSY, "the destination takes part in another migration");
	if (status == WIRE_STATUS_CHANNEL)
		return error_new(EBADMSG, "the destination does not expect this connection");
	if (status != WIRE_STATUS_OK)
		return error_new(EBADMSG, "the destination refused the connection (status %u)",
				 status);
	if (version != WIRE_VERSION || get_le32(bytes + ANSWER_RESERVED))
		return error_new(EBADMSG, "the answer (version %u, reserved bytes %#x) is unknown",
				 version, get_le32(bytes + ANSWER_RESERVED));
	return NULL;
}

/* --- Records ----------------------------------------------------------------------------------- */

void wire_put_record(uint8_t bytes[WIRE_RECORD_SIZE], const struct wire_record *record)
{
	memset(bytes, 0, WIRE_RECORD_SIZE);
	bytes[RECORD_KIND] = (uint8_t)record->kind;
	bytes[RECORD_FLAGS] = record->flags;
	put_le32(bytes + RECORD_LENGTH, record->length);
	switch (record->kind) {
	case WIRE_RECORD_RAM:
		put_le16(bytes + RECORD_BLOCK, record->ram.block);
		put_le64(bytes + RECORD_PAGE, record->ram.first_page);
		for (int i = 0; i < WIRE_WINDOW_WORDS; i++) {
			put_le64(bytes + RECORD_CONTENT + 8 * i, record->ram.content[i]);
			put_le64(bytes + RECORD_ZERO + 8 * i, record->ram.zero[i]);
		}
		break;
	case WIRE_RECORD_DEVICE:
		put_le32(bytes + RECORD_PAGE, record->device.device);
		put_le32(bytes + RECORD_INDEX, record->device.index);
		break;
	case WIRE_RECORD_BARRIER:
		put_le64(bytes + RECORD_PAGE, record->round);
		break;
	case WIRE_RECORD_END:
		break;
	}
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (bytes[i])
			return false;
	return true;
}

static struct error *get_ram(const uint8_t *bytes, struct wire_record *record)
{
	uint32_t zeros = 0;

	record->ram.block = get_le16(bytes + RECORD_BLOCK);
	record->ram.first_page = get_le64(bytes + RECORD_PAGE);
	record->ram.pages = 0;
	if (record->flags & ~WIRE_RAM_ZSTD)
		return error_new(EBADMSG, "flags %#x of memory are not all known", record->flags);
	if (record->ram.first_page % WIRE_WINDOW_PAGES)
		return error_new(EBADMSG, "memory from page %llu on: it must be a multiple of %d",
				 (unsigned long long)record->ram.first_page, WIRE_WINDOW_PAGES);
	for (int i = 0; i < WIRE_WINDOW_WORDS; i++) {
		record->ram.content[i] = get_le64(bytes + RECORD_CONTENT + 8 * i);
		record->ram.zero[i] = get_le64(bytes + RECORD_ZERO + 8 * i);
		record->ram.pages += (uint32_t)__builtin_popcountll(record->ram.content[i]);
		zeros += (uint32_t)__builtin_popcountll(record->ram.zero[i]);
		if (record->ram.content[i] & record->ram.zero[i])
			return error_new(EBADMSG, "a page of memory is content and zeros");
	}
	if (!record->ram.pages && (!zeros || record->flags))
		return error_new(EBADMSG, "memory without a page");
	if (record->flags & WIRE_RAM_ZSTD
		? !record->length || record->length >= record->ram.pages * WIRE_PAGE
		: record->length != record->ram.pages * WIRE_PAGE)
		return error_new(EBADMSG, "%u pages of memory have %u bytes", record->ram.pages,
				 record->length);
	return NULL;
}

static struct error *get_device(const uint8_t *bytes, struct wire_record *record)
{
	record->device.device = get_le32(bytes + RECORD_PAGE);
	record->device.index = get_le32(bytes + RECORD_INDEX);
	if (record->flags & ~WIRE_DEVICE_LAST)
		return error_new(EBADMSG, "flags %#x of device %u are not all known", record->flags,
				 record->device.device);
	if (record->length > WIRE_CHUNK_MAX)
		return error_new(
		    EBADMSG, "chunk %u of device %u has %u bytes, of which %d are allowed",
		    record->device.index, record->device.device, record->length, WIRE_CHUNK_MAX);
	if (!record->length && !(record->flags & WIRE_DEVICE_LAST))
		return error_new(EBADMSG, "chunk %u of device %u is empty", record->device.index,
				 record->device.device);
	if (get_le16(bytes + RECORD_BLOCK) ||
	    !is_zero(bytes + RECORD_CONTENT, WIRE_RECORD_SIZE - RECORD_CONTENT))
		return error_new(EBADMSG, "reserved bytes of device %u are not zero",
				 record->device.device);
	return NULL;
}

struct error *wire_get_record(const uint8_t bytes[WIRE_RECORD_SIZE], struct wire_record *record)
{
	uint8_t kind = bytes[RECORD_KIND];

	record->flags = bytes[RECORD_FLAGS];
	record->length = get_le32(bytes + RECORD_LENGTH);
	record->kind = (enum wire_record_kind)kind;
	switch (kind) {
	case WIRE_RECORD_RAM:
		return get_ram(bytes, record);
	case WIRE_RECORD_DEVICE:
		return get_device(bytes, record);
	case WIRE_RECORD_BARRIER:
		record->round = get_le64(bytes + RECORD_PAGE);
		if (!is_zero(bytes + RECORD_FLAGS, RECORD_PAGE - RECORD_FLAGS) ||
		    !is_zero(bytes + RECORD_CONTENT, WIRE_RECORD_SIZE - RECORD_CONTENT))
			return error_new(EBADMSG, "reserved bytes of a barrier are not zero");
		return NULL;
	case WIRE_RECORD_END:
		if (!is_zero(bytes + RECORD_FLAGS, WIRE_RECORD_SIZE - RECORD_FLAGS))
			return error_new(EBADMSG, "reserved bytes of the end are not zero");
		return NULL;
	default:
		return error_new(EBADMSG, "record kind %u is unknown", kind);
	}
}
