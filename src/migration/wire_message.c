/* SPDX-License-Identifier: BSD-2-Clause */
/* Codecs of the frames of the main connection, wire.h. Little-endian. */
#include <string.h>

#include "base/bytes.h"
#include "migration/wire.h"

enum form { FORM_EMPTY, FORM_TEXT, FORM_NUMBER, FORM_CREDIT, FORM_REQUEST, FORM_BITMAP, FORM_DONE };

#define CREDIT_SIZE  16
#define REQUEST_SIZE 16
#define BITMAP_SIZE  16 /* words follow */
#define DONE_SIZE    48

_Static_assert(DONE_SIZE <= WIRE_PAYLOAD_MAX, "room for a payload");
_Static_assert(BITMAP_SIZE + 8 * WIRE_BITMAP_WORDS <= WIRE_SMALL_MAX, "room for a bitmap");
_Static_assert(WIRE_TEXT_MAX <= WIRE_SMALL_MAX, "room for a text");

struct message_kind {
	const char *name;
	enum form form;
	bool from_source, from_destination;
};

static const struct message_kind kinds[MIGRATION_MESSAGE_TYPES] = {
    [MIGRATION_CONFIG] = {"CONFIG", FORM_TEXT, true, false},
    [MIGRATION_ACCEPT] = {"ACCEPT", FORM_EMPTY, false, true},
    [MIGRATION_REFUSE] = {"REFUSE", FORM_TEXT, false, true},
    [MIGRATION_ROUND_END] = {"ROUND_END", FORM_NUMBER, true, false},
    [MIGRATION_STATE_CREDIT] = {"STATE_CREDIT", FORM_CREDIT, false, true},
    [MIGRATION_SWITCH_BEGIN] = {"SWITCH_BEGIN", FORM_EMPTY, true, false},
    [MIGRATION_LOADED] = {"LOADED", FORM_EMPTY, false, true},
    [MIGRATION_GO] = {"GO", FORM_EMPTY, true, false},
    [MIGRATION_RUNNING] = {"RUNNING", FORM_EMPTY, false, true},
    [MIGRATION_RUNNING_LACKING] = {"RUNNING_LACKING", FORM_EMPTY, false, true},
    [MIGRATION_REJECTED] = {"REJECTED", FORM_EMPTY, false, true},
    [MIGRATION_PAGE_REQUEST] = {"PAGE_REQUEST", FORM_REQUEST, false, true},
    [MIGRATION_RECEIVED] = {"RECEIVED", FORM_BITMAP, false, true},
    [MIGRATION_PENDING] = {"PENDING", FORM_BITMAP, true, false},
    [MIGRATION_PLUGGED] = {"PLUGGED", FORM_BITMAP, true, false},
    [MIGRATION_PING] = {"PING", FORM_NUMBER, true, true},
    [MIGRATION_PONG] = {"PONG", FORM_NUMBER, true, true},
    [MIGRATION_ABORT] = {"ABORT", FORM_TEXT, true, true},
    [MIGRATION_DONE] = {"DONE", FORM_DONE, false, true},
};

const char *migration_message_name(enum migration_message_type type)
{
	return kinds[type].name;
}

bool migration_message_is_from(enum migration_message_type type, bool source)
{
	return source ? kinds[type].from_source : kinds[type].from_destination;
}

uint64_t wire_bitmap_word(const struct migration_message *message, uint32_t index)
{
	return get_le64(message->bitmap.bytes + 8 * (size_t)index);
}

void wire_put_bitmap(uint8_t *bytes, const uint64_t *words, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		put_le64(bytes + 8 * (size_t)i, words[i]);
}

static void put_done(uint8_t *payload, const struct migration_done *done)
{
	put_le64(payload, done->pages);
	put_le64(payload + 8, done->zero_pages);
	put_le64(payload + 16, done->bytes);
	put_le64(payload + 24, done->state_bytes);
	put_le64(payload + 32, done->load_ns);
	put_le64(payload + 40, done->resume_ns);
}

size_t wire_put_message(uint8_t bytes[WIRE_FRAME_SIZE + WIRE_PAYLOAD_MAX],
			const struct migration_message *message)
{
	uint8_t *payload = bytes + WIRE_FRAME_SIZE;
	size_t size = 0, follows = 0;

	memset(bytes, 0, WIRE_FRAME_SIZE + WIRE_PAYLOAD_MAX);
	switch (kinds[message->type].form) {
	case FORM_EMPTY:
		break;
	case FORM_TEXT:
		follows = message->size;
		break;
	case FORM_NUMBER:
		put_le64(payload, message->value);
		size = 8;
		break;
	case FORM_CREDIT:
		put_le32(payload, message->credit.device);
		put_le32(payload + 4, message->credit.indexes);
		put_le64(payload + 8, message->credit.bytes);
		size = CREDIT_SIZE;
		break;
	case FORM_REQUEST:
		put_le16(payload, message->request.block);
		put_le32(payload + 4, message->request.count);
		put_le64(payload + 8, message->request.first);
		size = REQUEST_SIZE;
		break;
	case FORM_BITMAP:
		put_le16(payload, message->bitmap.block);
		put_le32(payload + 4, message->bitmap.words);
		put_le64(payload + 8, message->bitmap.first);
		size = BITMAP_SIZE;
		follows = 8 * (size_t)message->bitmap.words;
		break;
	case FORM_DONE:
		put_done(payload, &message->done);
		size = DONE_SIZE;
		break;
	}
	put_le16(bytes, (uint16_t)message->type);
	put_le32(bytes + 4, (uint32_t)(size + follows));
	return WIRE_FRAME_SIZE + size;
}

static struct error *wrong_length(enum migration_message_type type, uint32_t length)
{
	return error_new(EBADMSG, "%s has %u bytes", kinds[type].name, length);
}

struct error *wire_get_frame(const uint8_t bytes[WIRE_FRAME_SIZE],
			     enum migration_message_type *result, uint32_t *length)
{
	uint16_t type = get_le16(bytes), flags = get_le16(bytes + 2);
	uint32_t minimum = 0, maximum = 0;

	*length = get_le32(bytes + 4);
	if (!type || type >= MIGRATION_MESSAGE_TYPES)
		return error_new(EBADMSG, "message type %u is unknown", type);
	*result = (enum migration_message_type)type;
	if (flags)
		return error_new(EBADMSG, "flags %#x of %s are unknown", flags, kinds[type].name);
	switch (kinds[type].form) {
	case FORM_EMPTY:
		break;
	case FORM_TEXT:
		maximum = type == MIGRATION_CONFIG ? WIRE_CONFIG_MAX : WIRE_TEXT_MAX;
		break;
	case FORM_NUMBER:
		minimum = maximum = 8;
		break;
	case FORM_CREDIT:
		minimum = maximum = CREDIT_SIZE;
		break;
	case FORM_REQUEST:
		minimum = maximum = REQUEST_SIZE;
		break;
	case FORM_BITMAP:
		minimum = BITMAP_SIZE + 8;
		maximum = BITMAP_SIZE + 8 * WIRE_BITMAP_WORDS;
		break;
	case FORM_DONE:
		minimum = maximum = DONE_SIZE;
		break;
	}
	return *length < minimum || *length > maximum ? wrong_length(*result, *length) : NULL;
}

/* A text that a terminal or a log shows must not be more than that. */
static struct error *get_text(const uint8_t *payload, uint32_t length,
			      struct migration_message *message)
{
	message->text = (const char *)payload;
	message->size = length;
	for (uint32_t i = 0; i < length; i++)
		if ((payload[i] < 0x20 && payload[i] != '\n' && payload[i] != '\t') ||
		    payload[i] == 0x7f)
			return error_new(EBADMSG, "the text of %s has the byte %#x",
					 kinds[message->type].name, payload[i]);
	return NULL;
}

static struct error *get_bitmap(const uint8_t *payload, uint32_t length,
				struct migration_message *message)
{
	message->bitmap.block = get_le16(payload);
	message->bitmap.words = get_le32(payload + 4);
	message->bitmap.first = get_le64(payload + 8);
	message->bitmap.bytes = payload + BITMAP_SIZE;
	if (get_le16(payload + 2))
		return error_new(EBADMSG, "reserved bytes of %s are not zero",
				 kinds[message->type].name);
	if (message->bitmap.words != (length - BITMAP_SIZE) / 8 || length % 8)
		return error_new(EBADMSG, "%s of %u words has %u bytes", kinds[message->type].name,
				 message->bitmap.words, length);
	return NULL;
}

static struct error *get_request(const uint8_t *payload, struct migration_message *message)
{
	message->request.block = get_le16(payload);
	message->request.count = get_le32(payload + 4);
	message->request.first = get_le64(payload + 8);
	if (get_le16(payload + 2))
		return error_new(EBADMSG, "reserved bytes of PAGE_REQUEST are not zero");
	return message->request.count ? NULL : error_new(EBADMSG, "PAGE_REQUEST of no page");
}

struct error *wire_get_message(enum migration_message_type type, const uint8_t *payload,
			       uint32_t length, struct migration_message *message)
{
	*message = (struct migration_message){.type = type};
	switch (kinds[type].form) {
	case FORM_EMPTY:
		break;
	case FORM_TEXT:
		return get_text(payload, length, message);
	case FORM_NUMBER:
		message->value = get_le64(payload);
		break;
	case FORM_CREDIT:
		message->credit.device = get_le32(payload);
		message->credit.indexes = get_le32(payload + 4);
		message->credit.bytes = get_le64(payload + 8);
		break;
	case FORM_REQUEST:
		return get_request(payload, message);
	case FORM_BITMAP:
		return get_bitmap(payload, length, message);
	case FORM_DONE:
		message->done = (struct migration_done){
		    .pages = get_le64(payload),
		    .zero_pages = get_le64(payload + 8),
		    .bytes = get_le64(payload + 16),
		    .state_bytes = get_le64(payload + 24),
		    .load_ns = get_le64(payload + 32),
		    .resume_ns = get_le64(payload + 40),
		};
		break;
	}
	return NULL;
}
