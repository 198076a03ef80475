/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of messages and the codec of their payloads.
 *
 * Runs on any thread: there is no state. The peer controls every byte that is decoded. Payloads
 * must have exactly the length of their form; what is in them beyond its form (an index that is too
 * large, an address) is for the end that knows to check.
 */
#include "vhost_user/message.h"

#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

/* The protocol is in the machine's order, which here is always little-endian. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "payloads are in the machine's order");

#define MAIN(name_, payload_, ...)                                                                 \
	{                                                                                          \
		.name = "VHOST_USER_" #name_, .request = VHOST_USER_##name_,                       \
		.channel = VHOST_USER_MAIN, .payload = VHOST_USER_##payload_,                      \
		.reply = VHOST_USER_NO_REPLY, __VA_ARGS__                                          \
	}
#define BACKEND(name_, payload_, ...)                                                              \
	{                                                                                          \
		.name = "VHOST_USER_BACKEND_" #name_, .request = VHOST_USER_BACKEND_##name_,       \
		.channel = VHOST_USER_BACKEND, .payload = VHOST_USER_##payload_,                   \
		.reply = VHOST_USER_NO_REPLY, .protocol_features = true, __VA_ARGS__               \
	}
#define NEEDS(feature) .protocol_features = true, .protocol = VHOST_USER_PROTOCOL_##feature
/* The designators that MAIN sets are meant to be overridden. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Winitializer-overrides"
#endif
#define REPLIES(form) .reply = VHOST_USER_##form

static const struct vhost_user_message_type types[] = {
    MAIN(GET_FEATURES, EMPTY, REPLIES(U64)),
    MAIN(SET_FEATURES, U64),
    MAIN(SET_OWNER, EMPTY),
    MAIN(RESET_OWNER, EMPTY),
    MAIN(SET_MEM_TABLE, REGIONS, .fds = VHOST_USER_FDS_PER_REGION),
    /* What is in the reply is not said, and differs: nothing, 0, or what was asked. */
    MAIN(SET_LOG_BASE, LOG, REPLIES(U64), .reply_may_be_empty = true, .reply_may_repeat = true,
	 .fds = VHOST_USER_FDS_ONE, NEEDS(LOG_SHMFD)),
    MAIN(SET_LOG_FD, EMPTY, .fds = VHOST_USER_FDS_ONE),
    MAIN(SET_VRING_NUM, RING_STATE),
    MAIN(SET_VRING_ADDR, RING_ADDRESS),
    MAIN(SET_VRING_BASE, RING_STATE),
    MAIN(GET_VRING_BASE, RING_STATE, REPLIES(RING_STATE)),
    MAIN(SET_VRING_KICK, U64, .fds = VHOST_USER_FDS_BY_FLAG),
    MAIN(SET_VRING_CALL, U64, .fds = VHOST_USER_FDS_BY_FLAG),
    MAIN(SET_VRING_ERR, U64, .fds = VHOST_USER_FDS_BY_FLAG),
    MAIN(GET_PROTOCOL_FEATURES, EMPTY, REPLIES(U64), .protocol_features = true),
    MAIN(SET_PROTOCOL_FEATURES, U64, .protocol_features = true),
    MAIN(GET_QUEUE_NUM, EMPTY, REPLIES(U64), NEEDS(MQ)),
    MAIN(SET_VRING_ENABLE, RING_STATE, .protocol_features = true),
    MAIN(SEND_RARP, U64, NEEDS(RARP)),
    MAIN(NET_SET_MTU, U64, NEEDS(MTU)),
    MAIN(SET_BACKEND_REQ_FD, EMPTY, .fds = VHOST_USER_FDS_ONE, NEEDS(BACKEND_REQ)),
    MAIN(GET_CONFIG, CONFIG, REPLIES(CONFIG), .reply_may_be_empty = true, NEEDS(CONFIG)),
    MAIN(SET_CONFIG, CONFIG, NEEDS(CONFIG)),
    MAIN(POSTCOPY_ADVISE, EMPTY, REPLIES(EMPTY), .reply_fds = VHOST_USER_FDS_ONE, NEEDS(PAGEFAULT)),
    MAIN(POSTCOPY_LISTEN, EMPTY, REPLIES(U64), NEEDS(PAGEFAULT)),
    MAIN(POSTCOPY_END, EMPTY, REPLIES(U64), NEEDS(PAGEFAULT)),
    MAIN(GET_INFLIGHT_FD, INFLIGHT, REPLIES(INFLIGHT), .reply_fds = VHOST_USER_FDS_ONE,
	 NEEDS(INFLIGHT_SHMFD)),
    MAIN(SET_INFLIGHT_FD, INFLIGHT, .fds = VHOST_USER_FDS_ONE, NEEDS(INFLIGHT_SHMFD)),
    MAIN(RESET_DEVICE, EMPTY, NEEDS(RESET_DEVICE)),
    MAIN(VRING_KICK, RING_STATE, NEEDS(INBAND_NOTIFICATIONS)),
    MAIN(GET_MAX_MEM_SLOTS, EMPTY, REPLIES(U64), NEEDS(CONFIGURE_MEM_SLOTS)),
    MAIN(ADD_MEM_REG, REGION, .fds = VHOST_USER_FDS_ONE, NEEDS(CONFIGURE_MEM_SLOTS)),
    /* No descriptor should come, and QEMU before 8 sends one. */
    MAIN(REM_MEM_REG, REGION, .fds = VHOST_USER_FDS_MAYBE, NEEDS(CONFIGURE_MEM_SLOTS)),
    MAIN(SET_STATUS, U64, NEEDS(STATUS)),
    MAIN(GET_STATUS, EMPTY, REPLIES(U64), NEEDS(STATUS)),
    MAIN(SET_DEVICE_STATE_FD, TRANSFER, REPLIES(U64), .fds = VHOST_USER_FDS_ONE,
	 .reply_fds = VHOST_USER_FDS_BY_FLAG, NEEDS(DEVICE_STATE)),
    MAIN(CHECK_DEVICE_STATE, EMPTY, REPLIES(U64), NEEDS(DEVICE_STATE)),
    BACKEND(CONFIG_CHANGE, EMPTY,
	    .protocol = VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_CONFIG),
    BACKEND(VRING_CALL, RING_STATE,
	    .protocol = VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS),
    BACKEND(VRING_ERR, RING_STATE,
	    .protocol = VHOST_USER_PROTOCOL_BACKEND_REQ | VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS),
};
#pragma GCC diagnostic pop

static const struct {
	uint64_t mask;
	const char *name;
} features[] = {
    {VHOST_USER_PROTOCOL_MQ, "MQ"},
    {VHOST_USER_PROTOCOL_LOG_SHMFD, "LOG_SHMFD"},
    {VHOST_USER_PROTOCOL_RARP, "RARP"},
    {VHOST_USER_PROTOCOL_REPLY_ACK, "REPLY_ACK"},
    {VHOST_USER_PROTOCOL_MTU, "MTU"},
    {VHOST_USER_PROTOCOL_BACKEND_REQ, "BACKEND_REQ"},
    {VHOST_USER_PROTOCOL_PAGEFAULT, "PAGEFAULT"},
    {VHOST_USER_PROTOCOL_CONFIG, "CONFIG"},
    {VHOST_USER_PROTOCOL_INFLIGHT_SHMFD, "INFLIGHT_SHMFD"},
    {VHOST_USER_PROTOCOL_RESET_DEVICE, "RESET_DEVICE"},
    {VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"},
    {VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"},
    {VHOST_USER_PROTOCOL_STATUS, "STATUS"},
    {VHOST_USER_PROTOCOL_DEVICE_STATE, "DEVICE_STATE"},
};

const struct vhost_user_message_type *vhost_user_message_types(size_t *count)
{
	*count = ARRAY_SIZE(types);
	return types;
}

const struct vhost_user_message_type *vhost_user_message_type(enum vhost_user_channel channel,
							      uint32_t request)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (types[i].channel == channel && types[i].request == request)
			return &types[i];
	}
	return NULL;
}

struct error *vhost_user_message_allowed(const struct vhost_user_message_type *type,
					 uint64_t offered, uint64_t protocol)
{
	if (type->protocol_features && !(offered & VHOST_USER_F_PROTOCOL_FEATURES))
		return error_new(EOPNOTSUPP, "%s without VHOST_USER_F_PROTOCOL_FEATURES",
				 type->name);
	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		if (features[i].mask & type->protocol & ~protocol)
			return error_new(
			    EOPNOTSUPP,
			    "%s without VHOST_USER_PROTOCOL_F_%s, which was not negotiated",
			    type->name, features[i].name);
	}
	return NULL;
}

/* --- Descriptors ------------------------------------------------------------------------------- */

void vhost_user_message_close(struct vhost_user_message *message)
{
	for (unsigned int i = 0; i < message->fd_count; i++)
		close_fd(&message->fds[i]);
	message->fd_count = 0;
}

int vhost_user_message_take_fd(struct vhost_user_message *message, unsigned int index)
{
	return index < message->fd_count ? TAKE_FD(message->fds[index]) : -1;
}

static struct error *check_fds(const struct vhost_user_message *message, enum vhost_user_fds fds)
{
	unsigned int least = 0, most = 0;

	switch (fds) {
	case VHOST_USER_FDS_NONE:
		break;
	case VHOST_USER_FDS_ONE:
		least = most = 1;
		break;
	case VHOST_USER_FDS_MAYBE:
		most = 1;
		break;
	case VHOST_USER_FDS_BY_FLAG:
		least = most = !(message->u64 & VHOST_USER_NO_FD);
		break;
	case VHOST_USER_FDS_PER_REGION:
		least = most = message->regions.count;
		break;
	}
	if (message->fd_count < least || message->fd_count > most)
		return error_new(EPROTO, "%s comes with %u descriptors, not %u",
				 message->type->name, message->fd_count, least);
	return NULL;
}

/* --- Payloads ---------------------------------------------------------------------------------- */

static void put_region(uint8_t *bytes, const struct vhost_user_region *region)
{
	put_le64(bytes, region->guest_address);
	put_le64(bytes + 8, region->size);
	put_le64(bytes + 16, region->user_address);
	put_le64(bytes + 24, region->offset);
}

static void get_region(const uint8_t *bytes, struct vhost_user_region *region)
{
	region->guest_address = get_le64(bytes);
	region->size = get_le64(bytes + 8);
	region->user_address = get_le64(bytes + 16);
	region->offset = get_le64(bytes + 24);
}

static uint32_t encode_payload(const struct vhost_user_message *message, uint8_t *bytes)
{
	switch (message->payload) {
	case VHOST_USER_EMPTY:
	case VHOST_USER_NO_REPLY:
		return 0;
	case VHOST_USER_U64:
		put_le64(bytes, message->u64);
		return 8;
	case VHOST_USER_RING_STATE:
		put_le32(bytes, message->state.index);
		put_le32(bytes + 4, message->state.num);
		return 8;
	case VHOST_USER_RING_ADDRESS:
		put_le32(bytes, message->address.index);
		put_le32(bytes + 4, message->address.flags);
		put_le64(bytes + 8, message->address.descriptor);
		put_le64(bytes + 16, message->address.used);
		put_le64(bytes + 24, message->address.available);
		put_le64(bytes + 32, message->address.log);
		return 40;
	case VHOST_USER_REGIONS:
		put_le32(bytes, message->regions.count);
		put_le32(bytes + 4, 0);
		for (uint32_t i = 0; i < message->regions.count; i++)
			put_region(bytes + 8 + 32 * i, &message->regions.list[i]);
		return 8 + 32 * message->regions.count;
	case VHOST_USER_REGION:
		put_le64(bytes, 0);
		put_region(bytes + 8, &message->region);
		return 40;
	case VHOST_USER_LOG:
		put_le64(bytes, message->log.size);
		put_le64(bytes + 8, message->log.offset);
		return 16;
	case VHOST_USER_CONFIG:
		put_le32(bytes, message->config.offset);
		put_le32(bytes + 4, message->config.size);
		put_le32(bytes + 8, message->config.flags);
		memcpy(bytes + 12, message->config.bytes, message->config.size);
		return 12 + message->config.size;
	case VHOST_USER_INFLIGHT:
		put_le64(bytes, message->inflight.size);
		put_le64(bytes + 8, message->inflight.offset);
		put_le16(bytes + 16, message->inflight.queues);
		put_le16(bytes + 18, message->inflight.queue_size);
		put_le32(bytes + 20, 0); /* the C structure's end, which others send */
		return 24;
	case VHOST_USER_TRANSFER:
		put_le32(bytes, message->transfer.direction);
		put_le32(bytes + 4, message->transfer.phase);
		return 8;
	}
	return 0;
}

size_t vhost_user_message_encode(const struct vhost_user_message *message,
				 uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX])
{
	uint32_t size = encode_payload(message, bytes + VHOST_USER_HEADER_SIZE);

	put_le32(bytes, message->type->request);
	put_le32(bytes + 4, message->flags | VHOST_USER_VERSION);
	put_le32(bytes + 8, size);
	return VHOST_USER_HEADER_SIZE + size;
}

static struct error *bad_size(const struct vhost_user_message *message, uint32_t expected)
{
	return error_new(EPROTO, "%s has a payload of %" PRIu32 " bytes, not %" PRIu32,
			 message->type->name, message->raw_size, expected);
}

static struct error *decode_regions(struct vhost_user_message *message)
{
	const uint8_t *bytes = message->raw;

	/* The specification calls the acknowledgement of postcopy empty. */
	message->regions.count = 0;
	if (!message->raw_size)
		return NULL;
	if (message->raw_size < 8)
		return bad_size(message, 8);
	message->regions.count = get_le32(bytes);
	if (message->regions.count > VHOST_USER_REGIONS_MAX)
		return error_new(EPROTO, "%s has %" PRIu32 " regions: 8 are the most",
				 message->type->name, message->regions.count);
	if (message->raw_size != 8 + 32 * message->regions.count)
		return bad_size(message, 8 + 32 * message->regions.count);
	for (uint32_t i = 0; i < message->regions.count; i++)
		get_region(bytes + 8 + 32 * i, &message->regions.list[i]);
	return NULL;
}

static struct error *decode_config(struct vhost_user_message *message)
{
	const uint8_t *bytes = message->raw;

	if (message->raw_size < 12)
		return bad_size(message, 12);
	message->config.offset = get_le32(bytes);
	message->config.size = get_le32(bytes + 4);
	message->config.flags = get_le32(bytes + 8);
	if (message->config.size > VHOST_USER_CONFIG_MAX)
		return error_new(EPROTO, "%s is about %" PRIu32 " bytes: 256 are the most",
				 message->type->name, message->config.size);
	if (message->raw_size != 12 + message->config.size)
		return bad_size(message, 12 + message->config.size);
	memcpy(message->config.bytes, bytes + 12, message->config.size);
	return NULL;
}

static struct error *decode_payload(struct vhost_user_message *message)
{
	static const uint8_t sizes[] = {
	    [VHOST_USER_U64] = 8,     [VHOST_USER_RING_STATE] = 8, [VHOST_USER_RING_ADDRESS] = 40,
	    [VHOST_USER_REGION] = 40, [VHOST_USER_LOG] = 16,	   [VHOST_USER_INFLIGHT] = 24,
	    [VHOST_USER_TRANSFER] = 8};
	const uint8_t *bytes = message->raw;

	if (message->payload == VHOST_USER_REGIONS)
		return decode_regions(message);
	if (message->payload == VHOST_USER_CONFIG)
		return decode_config(message);
	/* Without the padding at its end it says the same. */
	if (message->payload == VHOST_USER_INFLIGHT && message->raw_size == 20)
		message->raw_size = 24;
	else if (message->payload >= ARRAY_SIZE(sizes) ||
		 message->raw_size != sizes[message->payload])
		return bad_size(message,
				message->payload < ARRAY_SIZE(sizes) ? sizes[message->payload] : 0);
	switch (message->payload) {
	case VHOST_USER_U64:
		message->u64 = get_le64(bytes);
		break;
	case VHOST_USER_RING_STATE:
		message->state.index = get_le32(bytes);
		message->state.num = get_le32(bytes + 4);
		break;
	case VHOST_USER_RING_ADDRESS:
		message->address.index = get_le32(bytes);
		message->address.flags = get_le32(bytes + 4);
		message->address.descriptor = get_le64(bytes + 8);
		message->address.used = get_le64(bytes + 16);
		message->address.available = get_le64(bytes + 24);
		message->address.log = get_le64(bytes + 32);
		break;
	case VHOST_USER_REGION:
		get_region(bytes + 8, &message->region);
		break;
	case VHOST_USER_LOG:
		message->log.size = get_le64(bytes);
		message->log.offset = get_le64(bytes + 8);
		break;
	case VHOST_USER_INFLIGHT:
		message->inflight.size = get_le64(bytes);
		message->inflight.offset = get_le64(bytes + 8);
		message->inflight.queues = get_le16(bytes + 16);
		message->inflight.queue_size = get_le16(bytes + 18);
		break;
	case VHOST_USER_TRANSFER:
		message->transfer.direction = get_le32(bytes);
		message->transfer.phase = get_le32(bytes + 4);
		break;
	default:
		break;
	}
	return NULL;
}

struct error *vhost_user_message_decode(struct vhost_user_message *message,
					enum vhost_user_payload payload, enum vhost_user_fds fds)
{
	message->payload = payload;
	TRY(decode_payload(message));
	return check_fds(message, fds);
}
