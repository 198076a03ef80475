/* SPDX-License-Identifier: BSD-2-Clause */
/* vhost-user messages: the table, the bytes of each payload, and what is refused of them. */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "vhost_user/message.h"

static struct vhost_user_message filled(const struct vhost_user_message_type *type,
					enum vhost_user_payload payload)
{
	struct vhost_user_message message = {.type = type, .payload = payload};

	switch (payload) {
	case VHOST_USER_U64:
		message.u64 = 0x1122334455667788;
		break;
	case VHOST_USER_RING_STATE:
		message.state = (struct vhost_user_ring_state){3, 0x80010002};
		break;
	case VHOST_USER_RING_ADDRESS:
		message.address = (struct vhost_user_ring_address){2, 1, 10, 20, 30, 40};
		break;
	case VHOST_USER_REGIONS:
		message.regions.count = 8;
		for (uint64_t i = 0; i < 8; i++)
			message.regions.list[i] =
			    (struct vhost_user_region){i << 20, 4096, i << 30, i << 12};
		break;
	case VHOST_USER_REGION:
		message.region = (struct vhost_user_region){1, 2, 3, 4};
		break;
	case VHOST_USER_LOG:
		message.log.size = 5;
		message.log.offset = 6;
		break;
	case VHOST_USER_CONFIG:
		message.config = (struct vhost_user_config){7, 3, 1, {9, 8, 7}};
		break;
	case VHOST_USER_INFLIGHT:
		message.inflight = (struct vhost_user_inflight){11, 12, 13, 14};
		break;
	case VHOST_USER_TRANSFER:
		message.transfer.direction = 1;
		message.transfer.phase = 2;
		break;
	default:
		break;
	}
	return message;
}

/* What @type's request is without descriptors, decoded again from its bytes. */
static struct error *decode_again(const struct vhost_user_message *message, const uint8_t *bytes,
				  size_t size, struct vhost_user_message *decoded)
{
	*decoded =
	    (struct vhost_user_message){.type = message->type,
					.raw = bytes + VHOST_USER_HEADER_SIZE,
					.raw_size = (uint32_t)(size - VHOST_USER_HEADER_SIZE)};
	if (message->type->fds == VHOST_USER_FDS_ONE)
		decoded->fd_count = 1;
	if (message->type->fds == VHOST_USER_FDS_PER_REGION)
		decoded->fd_count = message->regions.count;
	if (message->type->fds == VHOST_USER_FDS_BY_FLAG)
		decoded->fd_count = !(message->u64 & VHOST_USER_NO_FD);
	return vhost_user_message_decode(decoded, message->payload, message->type->fds);
}

static void test_each_message_survives_its_bytes(void **unused)
{
	size_t count;
	const struct vhost_user_message_type *types = vhost_user_message_types(&count);

	for (size_t i = 0; i < count; i++) {
		struct vhost_user_message message = filled(&types[i], types[i].payload), decoded;
		uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX] = {0};
		uint8_t again[sizeof(bytes)] = {0};
		size_t size = vhost_user_message_encode(&message, bytes);

		assert_int_equal(get_le32(bytes), types[i].request);
		assert_int_equal(get_le32(bytes + 4), VHOST_USER_VERSION);
		assert_int_equal(get_le32(bytes + 8), size - VHOST_USER_HEADER_SIZE);
		assert_no_error(decode_again(&message, bytes, size, &decoded));
		assert_int_equal(vhost_user_message_encode(&decoded, again), size);
		assert_memory_equal(bytes, again, size);
	}
}

static void test_another_length_is_refused(void **unused)
{
	size_t count;
	const struct vhost_user_message_type *types = vhost_user_message_types(&count);

	for (size_t i = 0; i < count; i++) {
		struct vhost_user_message message = filled(&types[i], types[i].payload), decoded;
		uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX + 8] = {0};
		size_t size = vhost_user_message_encode(&message, bytes);

		assert_error_with(decode_again(&message, bytes, size + 1, &decoded), types[i].name);
		if (size > VHOST_USER_HEADER_SIZE)
			assert_error_with(decode_again(&message, bytes, size - 1, &decoded),
					  types[i].name);
	}
}

static void test_another_number_of_descriptors_is_refused(void **unused)
{
	size_t count;
	const struct vhost_user_message_type *types = vhost_user_message_types(&count);

	for (size_t i = 0; i < count; i++) {
		struct vhost_user_message message = filled(&types[i], types[i].payload), decoded;
		uint8_t bytes[VHOST_USER_HEADER_SIZE + VHOST_USER_PAYLOAD_MAX] = {0};
		size_t size = vhost_user_message_encode(&message, bytes);
		unsigned int right;

		assert_no_error(decode_again(&message, bytes, size, &decoded));
		right = decoded.fd_count;
		for (unsigned int fds = 0; fds <= VHOST_USER_FDS_MAX; fds++) {
			decoded.fd_count = fds;
			if (fds == right || (fds == 1 && types[i].fds == VHOST_USER_FDS_MAYBE))
				continue;
			assert_error_with(
			    vhost_user_message_decode(&decoded, types[i].payload, types[i].fds),
			    "descriptors");
		}
	}
}

static void test_requests_are_found_by_channel_and_number(void **unused)
{
	size_t count;
	const struct vhost_user_message_type *types = vhost_user_message_types(&count);

	for (size_t i = 0; i < count; i++)
		assert_ptr_equal(vhost_user_message_type(types[i].channel, types[i].request),
				 &types[i]);
	assert_null(vhost_user_message_type(VHOST_USER_MAIN, 0));
	assert_null(vhost_user_message_type(VHOST_USER_MAIN, 22));
	assert_null(vhost_user_message_type(VHOST_USER_BACKEND, VHOST_USER_GET_CONFIG));
}

static void test_what_was_not_negotiated_is_not_allowed(void **unused)
{
	size_t count;
	const struct vhost_user_message_type *types = vhost_user_message_types(&count);

	for (size_t i = 0; i < count; i++) {
		assert_no_error(vhost_user_message_allowed(
		    &types[i], VHOST_USER_F_PROTOCOL_FEATURES, VHOST_USER_PROTOCOL_KNOWN));
		for (uint64_t bit = 1; bit && types[i].protocol; bit <<= 1) {
			if (types[i].protocol & bit)
				assert_error_with(vhost_user_message_allowed(
						      &types[i], VHOST_USER_F_PROTOCOL_FEATURES,
						      VHOST_USER_PROTOCOL_KNOWN & ~bit),
						  types[i].name);
		}
		if (types[i].protocol_features)
			assert_error_with(
			    vhost_user_message_allowed(&types[i], 0, VHOST_USER_PROTOCOL_KNOWN),
			    "VHOST_USER_F_PROTOCOL_FEATURES");
	}
}

static void test_too_many_regions_and_too_large_a_config_are_refused(void **unused)
{
	uint8_t bytes[VHOST_USER_PAYLOAD_MAX] = {0};
	struct vhost_user_message message = {
	    .type = vhost_user_message_type(VHOST_USER_MAIN, VHOST_USER_SET_MEM_TABLE),
	    .raw = bytes,
	    .raw_size = 8};

	for (uint32_t regions = 9; regions; regions <<= 1) {
		put_le32(bytes, regions);
		assert_error_with(
		    vhost_user_message_decode(&message, VHOST_USER_REGIONS, VHOST_USER_FDS_NONE),
		    "regions: 8 are the most");
	}
	put_le32(bytes, 0);
	message.type = vhost_user_message_type(VHOST_USER_MAIN, VHOST_USER_GET_CONFIG);
	message.raw_size = 12;
	put_le32(bytes + 4, 257);
	assert_error_with(
	    vhost_user_message_decode(&message, VHOST_USER_CONFIG, VHOST_USER_FDS_NONE),
	    "about 257 bytes");
	put_le32(bytes + 4, UINT32_MAX);
	assert_error_with(
	    vhost_user_message_decode(&message, VHOST_USER_CONFIG, VHOST_USER_FDS_NONE), "256");
}

static void test_descriptors_are_closed_unless_taken(void **unused)
{
	struct vhost_user_message message = {.fd_count = 2};
	int taken;

	message.fds[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	message.fds[1] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	taken = vhost_user_message_take_fd(&message, 1);
	assert_int_equal(vhost_user_message_take_fd(&message, 2), -1);
	vhost_user_message_close(&message);
	assert_true(fcntl(taken, F_GETFD) >= 0);
	close(taken);
	assert_int_equal(message.fd_count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_each_message_survives_its_bytes),
	    cmocka_unit_test(test_another_length_is_refused),
	    cmocka_unit_test(test_another_number_of_descriptors_is_refused),
	    cmocka_unit_test(test_requests_are_found_by_channel_and_number),
	    cmocka_unit_test(test_what_was_not_negotiated_is_not_allowed),
	    cmocka_unit_test(test_too_many_regions_and_too_large_a_config_are_refused),
	    cmocka_unit_test(test_descriptors_are_closed_unless_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
