/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Peers that lie, break off, hang or send too much: each is refused with words that name what was
 * wrong, nobody waits for ever, and no descriptor stays open.
 */
#include "cmocka_prelude.h"

#include <fcntl.h>

#include "base/bytes.h"
#include "vhost_user/socket.h"
#include "vhost_user_pair.h"

#define HEADER VHOST_USER_HEADER_SIZE

/* Sends bytes with @fds copies of the descriptor of /dev/null. */
static bool send_bytes(int socket, const void *bytes, size_t size, unsigned int fds)
{
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * 32)];
	} control = {0};
	struct iovec part = {(void *)bytes, size};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	bool sent;

	if (fds) {
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int) * fds);
		for (unsigned int i = 0; i < fds; i++)
			memcpy(CMSG_DATA(&control.header) + sizeof(int) * i, &null, sizeof(int));
		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * fds);
	}
	sent = sendmsg(socket, &header, MSG_NOSIGNAL) == (ssize_t)size;
	close(null);
	return sent;
}

static size_t put_message(uint8_t *bytes, uint32_t request, uint32_t flags, const void *payload,
			  uint32_t size)
{
	put_le32(bytes, request);
	put_le32(bytes + 4, flags);
	put_le32(bytes + 8, size);
	if (payload)
		memcpy(bytes + HEADER, payload, size);
	return HEADER + size;
}

/* --- A back-end that lies ---------------------------------------------------------------------- */

/* The answer to one request, instead of what would be right. */
struct lie {
	uint32_t request; /* that is answered so */
	const char *expected;
	uint32_t answer, flags; /* of the answer's header; 0: as it should be */
	uint32_t size;
	uint64_t payload[6];
	unsigned int fds;
	uint32_t said_size; /* in the header; 0: the size */
	bool silent, hangs_up;
};

struct liar {
	int socket;
	struct lie lie;
	unsigned int channel_messages; /* that it sends on its own channel before it is silent */
	int channel;
	pthread_t thread;
};

/* An honest answer; false: this request has none. */
static bool right_answer(uint32_t request, uint32_t flags, uint8_t *payload, uint32_t *size)
{
	const struct vhost_user_message_type *type =
	    vhost_user_message_type(VHOST_USER_MAIN, request);

	switch (request) {
	case VHOST_USER_GET_FEATURES:
		put_le64(payload, 1ULL << 32 | VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES);
		break;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		put_le64(payload, VHOST_USER_PROTOCOL_KNOWN);
		break;
	case VHOST_USER_GET_QUEUE_NUM:
	case VHOST_USER_GET_MAX_MEM_SLOTS:
		put_le64(payload, 16);
		break;
	default:
		if (type->reply == VHOST_USER_NO_REPLY && !(flags & VHOST_USER_NEED_REPLY))
			return false;
		/* What was asked about, of the same size; an acknowledgement is 0. */
		if (type->reply == VHOST_USER_NO_REPLY || type->reply == VHOST_USER_U64) {
			put_le64(payload, 0);
			break;
		}
		return true;
	}
	*size = 8;
	return true;
}

static bool tell_lie(struct liar *liar, const uint8_t *asked)
{
	const struct lie *lie = &liar->lie;
	uint8_t bytes[HEADER + sizeof(lie->payload)];
	size_t size = put_message(bytes, lie->answer ? lie->answer : lie->request,
				  lie->flags ? lie->flags : VHOST_USER_VERSION | VHOST_USER_REPLY,
				  lie->payload, lie->size);

	if (lie->said_size)
		put_le32(bytes + 8, lie->said_size);
	if (lie->silent) {
		uint8_t rest;

		for (unsigned int i = 0; i < liar->channel_messages; i++) {
			put_message(bytes, VHOST_USER_BACKEND_CONFIG_CHANGE, VHOST_USER_VERSION,
				    NULL, 0);
			send_bytes(liar->channel, bytes, HEADER, 0);
		}
		while (recv(liar->socket, &rest, 1, 0) > 0)
			;
		return false;
	}
	if (lie->hangs_up)
		return send_bytes(liar->socket, bytes, HEADER / 2, 0) && false;
	return send_bytes(liar->socket, bytes, size, lie->fds);
}

/* Reads a request; its descriptors are closed, but for that of the channel. */
static bool take_request(struct liar *liar, uint8_t *header, uint8_t *payload)
{
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * 8)];
	} control;
	struct iovec part = {header, HEADER};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control)};

	if (recvmsg(liar->socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) != (ssize_t)HEADER)
		return false;
	for (struct cmsghdr *item = CMSG_FIRSTHDR(&message); item;
	     item = CMSG_NXTHDR(&message, item)) {
		for (size_t i = 0; i < (item->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(item) + i * sizeof(int), sizeof(fd));
			if (get_le32(header) == VHOST_USER_SET_BACKEND_REQ_FD)
				liar->channel = fd;
			else
				close(fd);
		}
	}
	return !get_le32(header + 8) || recv(liar->socket, payload, get_le32(header + 8),
					     MSG_WAITALL) == (ssize_t)get_le32(header + 8);
}

static void *lie_on(void *context)
{
	struct liar *liar = context;
	uint8_t header[HEADER], payload[VHOST_USER_PAYLOAD_MAX],
	    answer[HEADER + VHOST_USER_PAYLOAD_MAX];

	while (take_request(liar, header, payload)) {
		uint32_t request = get_le32(header), size = get_le32(header + 8);

		if (request == liar->lie.request) {
			if (!tell_lie(liar, header))
				break;
			continue;
		}
		if (!right_answer(request, get_le32(header + 4), payload, &size))
			continue;
		send_bytes(liar->socket, answer,
			   put_message(answer, request, VHOST_USER_VERSION | VHOST_USER_REPLY,
				       payload, size),
			   0);
	}
	close(liar->socket);
	if (liar->channel >= 0)
		close(liar->channel);
	return NULL;
}

/* Everything that a front-end asks, up to the first error. */
static struct error *ask_everything(struct vhost_user_front_end *front,
				    struct vhost_user_memory *memory, int file)
{
	struct vhost_user_ring_setup setup = {256, 0, 4096, 8192, 12288, -1, -1, -1};
	struct vhost_user_inflight inflight;
	uint8_t bytes[4];
	AUTO_CLOSE int fd = -1;

	TRY(vhost_user_front_end_set_features(front, 1ULL << 32));
	TRY(vhost_user_front_end_get_config(front, 8, 4, bytes));
	TRY(vhost_user_front_end_begin_memory(front, memory));
	TRY(vhost_user_front_end_start_log(front, file, 0, 4096));
	TRY(vhost_user_front_end_start_ring(front, 0, &setup));
	TRY(vhost_user_front_end_stop_ring(front, 0, NULL));
	TRY(vhost_user_front_end_begin_state(front, VHOST_USER_SAVE, file, &fd));
	TRY(vhost_user_front_end_check_state(front));
	return vhost_user_front_end_get_inflight(front, 1, 256, &inflight, &fd);
}

static struct error *ask_for_postcopy(struct vhost_user_front_end *front)
{
	AUTO_CLOSE int fd = -1;

	return vhost_user_front_end_advise_postcopy(front, &fd);
}

static void check_lie(const struct lie *lie, bool broken)
{
	struct vhost_user_front_end_options options = front_options();
	struct vhost_user_front_end *front = NULL;
	unsigned int before = open_descriptors();
	int ends[2], file = memory_file(RAM_SIZE), hot = memory_file(HOT_SIZE);
	struct vhost_user_memory *memory = machine_memory(file, hot);
	struct liar liar = {.lie = *lie, .channel = -1};
	struct error *error;

	options.time_limit_ns = lie->silent ? 50 * NS_PER_MS : 10 * NS_PER_SECOND;
	liar.channel_messages = lie->silent ? 100 : 0;
	make_pair(ends);
	liar.socket = ends[1];
	assert_int_equal(pthread_create(&liar.thread, NULL, lie_on, &liar), 0);
	error = vhost_user_front_end_open(ends[0], &options, &front);
	if (!error)
		error = lie->request == VHOST_USER_POSTCOPY_ADVISE
			    ? ask_for_postcopy(front)
			    : ask_everything(front, memory, file);
	assert_non_null(error);
	if (!strstr(error_message(error), lie->expected))
		fail_msg("'%s' does not say '%s'", error_message(error), lie->expected);
	error_free(error);
	if (front) {
		assert_int_equal(!!vhost_user_front_end_broken(front), broken);
		if (broken)
			assert_error_with(vhost_user_front_end_set_features(front, 0),
					  "was given up");
	}
	vhost_user_front_end_close(front);
	pthread_join(liar.thread, NULL);
	vhost_user_memory_destroy(memory);
	close(file);
	close(hot);
	assert_int_equal(open_descriptors(), before);
}

#define REPLY (VHOST_USER_VERSION | VHOST_USER_REPLY)

static void test_lies_of_a_back_end_end_the_session(void **unused)
{
	static const struct lie lies[] = {
	    {VHOST_USER_GET_FEATURES, "answered with VHOST_USER_SET_FEATURES", 2, .size = 8},
	    {VHOST_USER_GET_FEATURES, "request 99 is not known", 99, .size = 8},
	    {VHOST_USER_GET_FEATURES, "is not a reply", .flags = VHOST_USER_VERSION, .size = 8},
	    {VHOST_USER_GET_FEATURES, "has version 2", .flags = 2 | VHOST_USER_REPLY, .size = 8},
	    {VHOST_USER_GET_FEATURES, "4 bytes, not 8", .size = 4},
	    {VHOST_USER_GET_FEATURES, "268 are the most", .size = 8, .said_size = 269},
	    {VHOST_USER_GET_FEATURES, "4294967295 bytes", .size = 8, .said_size = UINT32_MAX},
	    {VHOST_USER_GET_FEATURES, "comes with 1 descriptors, not 0", .size = 8, .fds = 1},
	    {VHOST_USER_GET_FEATURES, "more than 8 descriptors", .size = 8, .fds = 9},
	    {VHOST_USER_GET_FEATURES, "more than 8 descriptors", .size = 8, .fds = 30},
	    {VHOST_USER_GET_FEATURES, "ends within a message", .hangs_up = true},
	    {VHOST_USER_GET_QUEUE_NUM, "GET_QUEUE_NUM is 0", .size = 8},
	    {VHOST_USER_GET_MAX_MEM_SLOTS, "GET_MAX_MEM_SLOTS is 0", .size = 8},
	    {VHOST_USER_SET_FEATURES, "16 bytes, not 8", .size = 16},
	    {VHOST_USER_SET_LOG_BASE, "12 bytes, not 16", .size = 12},
	    {VHOST_USER_SET_LOG_BASE, "4 bytes, not 8", .size = 4},
	    {VHOST_USER_GET_CONFIG, "has 3 bytes at 8, not 4 at 8", .size = 15,
	     .payload = {8 | 3ULL << 32}},
	    {VHOST_USER_GET_CONFIG, "has 4 bytes at 7", .size = 16, .payload = {7 | 4ULL << 32}},
	    {VHOST_USER_GET_CONFIG, "256 are the most", .size = 16, .payload = {8 | 400ULL << 32}},
	    {VHOST_USER_GET_VRING_BASE, "is about ring 1, not 0", .size = 8, .payload = {1}},
	    {VHOST_USER_GET_VRING_BASE, "of a split ring is 0x10000", .size = 8,
	     .payload = {0x10000ULL << 32}},
	    {VHOST_USER_SET_DEVICE_STATE_FD, "comes with 0 descriptors, not 1", .size = 8},
	    {VHOST_USER_SET_DEVICE_STATE_FD, "is refused, with a descriptor", .size = 8,
	     .payload = {5}, .fds = 1},
	    {VHOST_USER_SET_DEVICE_STATE_FD, "comes with 2 descriptors, not 1", .size = 8,
	     .fds = 2},
	    {VHOST_USER_POSTCOPY_ADVISE, "no userfaultfd", .fds = 1},
	    {VHOST_USER_POSTCOPY_ADVISE, "comes with 0 descriptors, not 1"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		check_lie(&lies[i], true);
}

static void test_buffers_that_are_none_end_the_session(void **unused)
{
	/* After the state was transferred: the descriptor of that is let through. */
	static const struct lie lies[] = {
	    {VHOST_USER_GET_INFLIGHT_FD, "a buffer of 0 bytes", .size = 24, .fds = 1},
	    {VHOST_USER_GET_INFLIGHT_FD, "a buffer of 1099511627776 bytes", .size = 24, .fds = 1,
	     .payload = {1ULL << 40}},
	    {VHOST_USER_GET_INFLIGHT_FD, "a buffer of 4096 bytes at 18446744073709551615",
	     .size = 24, .fds = 1, .payload = {4096, UINT64_MAX}},
	    {VHOST_USER_GET_INFLIGHT_FD, "about 2 queues of 256, not 1 of 256", .size = 24,
	     .fds = 1, .payload = {4096, 0, 2 | 256 << 16}},
	    {VHOST_USER_GET_INFLIGHT_FD, "is no file", .size = 24, .fds = 1,
	     .payload = {4096, 0, 1 | 256 << 16}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct vhost_user_front_end_options options = front_options();
		struct vhost_user_front_end *front;
		unsigned int before = open_descriptors();
		struct vhost_user_inflight inflight;
		struct liar liar = {.lie = lies[i], .channel = -1};
		int ends[2], fd;

		make_pair(ends);
		liar.socket = ends[1];
		assert_int_equal(pthread_create(&liar.thread, NULL, lie_on, &liar), 0);
		assert_no_error(vhost_user_front_end_open(ends[0], &options, &front));
		assert_error_with(vhost_user_front_end_get_inflight(front, 1, 256, &inflight, &fd),
				  lies[i].expected);
		assert_int_equal(fd, -1);
		assert_non_null(vhost_user_front_end_broken(front));
		vhost_user_front_end_close(front);
		pthread_join(liar.thread, NULL);
		assert_int_equal(open_descriptors(), before);
	}
}

static void test_refusals_of_a_back_end_do_not_end_the_session(void **unused)
{
	static const struct lie lies[] = {
	    {VHOST_USER_SET_FEATURES, "refuses VHOST_USER_SET_FEATURES (0x7)", .size = 8,
	     .payload = {7}},
	    {VHOST_USER_GET_CONFIG, "refuses to tell 4 bytes"},
	    {VHOST_USER_ADD_MEM_REG,
	     "memory at 0x0: back-end it: it refuses VHOST_USER_ADD_MEM_REG", .size = 8,
	     .payload = {UINT64_MAX}},
	    {VHOST_USER_SET_VRING_NUM, "refuses VHOST_USER_SET_VRING_NUM", .size = 8,
	     .payload = {1}},
	    {VHOST_USER_SET_DEVICE_STATE_FD, "refuses to save its state", .size = 8,
	     .payload = {0x101}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		check_lie(&lies[i], false);
}

static void test_a_back_end_that_hangs_is_given_up(void **unused)
{
	static const struct lie lies[] = {
	    {VHOST_USER_GET_FEATURES, "is not answered within 50 ms", .silent = true},
	    {VHOST_USER_GET_VRING_BASE, "VHOST_USER_GET_VRING_BASE is not answered",
	     .silent = true},
	    {VHOST_USER_ADD_MEM_REG, "VHOST_USER_ADD_MEM_REG is not answered", .silent = true},
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		check_lie(&lies[i], true);
}

/* Addresses of post-copy that are wrong, from a back-end that is otherwise right. */
static void check_address(uint64_t guest, uint64_t size, uint64_t user, const char *expected)
{
	struct vhost_user_front_end_options options = front_options();
	unsigned int before = open_descriptors();
	struct liar liar = {.channel = -1};
	struct vhost_user_front_end *front;
	int ends[2], file = memory_file(RAM_SIZE), hot = memory_file(HOT_SIZE);
	struct vhost_user_memory *memory = machine_memory(file, hot);

	liar.lie = (struct lie){
	    .request = VHOST_USER_ADD_MEM_REG, .size = 40, .payload = {0, guest, size, user, 0}};
	make_pair(ends);
	liar.socket = ends[1];
	assert_int_equal(pthread_create(&liar.thread, NULL, lie_on, &liar), 0);
	assert_no_error(vhost_user_front_end_open(ends[0], &options, &front));
	assert_no_error(vhost_user_front_end_listen_postcopy(front, VHOST_USER_POSTCOPY_SLOTS));
	assert_error_with(vhost_user_front_end_begin_memory(front, memory), expected);
	assert_non_null(vhost_user_front_end_broken(front));
	vhost_user_front_end_close(front);
	pthread_join(liar.thread, NULL);
	vhost_user_memory_destroy(memory);
	close(file);
	close(hot);
	assert_int_equal(open_descriptors(), before);
}

static void test_wrong_addresses_of_postcopy_are_refused(void **unused)
{
	check_address(4096, RAM_SIZE, GIB(1), "answered for memory at 0x1000");
	check_address(0, RAM_SIZE - 1, GIB(1), "of 0x3fffff bytes");
	check_address(0, RAM_SIZE, GIB(1) + 1, "answered with address 0x40000001");
	check_address(0, RAM_SIZE, UINT64_MAX & ~4095ULL, "answered with address");
	check_address(0, RAM_SIZE, RAM_USER, "does not say where it has mapped memory");
}

static void send_on_channel(uint32_t request, uint32_t flags, uint32_t ring, const char *expected)
{
	struct vhost_user_front_end_options options = front_options();
	const uint64_t payload = ring;
	struct vhost_user_front_end *front;
	unsigned int before = open_descriptors();
	struct liar liar = {.channel = -1};
	uint8_t bytes[HEADER + 8];
	int ends[2];

	options.protocol = VHOST_USER_PROTOCOL_KNOWN;
	make_pair(ends);
	liar.socket = ends[1];
	assert_int_equal(pthread_create(&liar.thread, NULL, lie_on, &liar), 0);
	assert_no_error(vhost_user_front_end_open(ends[0], &options, &front));
	send_bytes(liar.channel, bytes,
		   put_message(bytes, request, flags, &payload, request == 2 ? 0 : 8),
		   request == 5);
	assert_error_with(vhost_user_front_end_serve(front), expected);
	assert_non_null(vhost_user_front_end_broken(front));
	vhost_user_front_end_close(front);
	pthread_join(liar.thread, NULL);
	assert_int_equal(open_descriptors(), before);
}

static void test_wrong_requests_of_a_back_end_end_the_session(void **unused)
{
	send_on_channel(3, 1, 0, "request 3 is not known");
	send_on_channel(2, REPLY, 0, "a reply that nobody waits for");
	send_on_channel(4, 1, 256, "names ring 256");
	send_on_channel(5, 1, 0, "comes with 1 descriptors, not 0");
}

/* --- A front-end that lies --------------------------------------------------------------------- */

struct request {
	uint32_t request, flags;
	const char *expected;
	uint32_t size;
	uint64_t payload[34];
	unsigned int fds;
	uint32_t said_size;
};

/* A back-end with everything negotiated; @protocol: what of it. */
static struct vhost_user_back_end *lone_back_end(struct device *device, int *peer,
						 uint64_t protocol)
{
	struct vhost_user_back_end_options options = device_options(device);
	struct vhost_user_back_end *back;
	uint8_t bytes[HEADER + 8];
	uint8_t answer[HEADER + 8];
	int ends[2];

	options.time_limit_ns = 50 * NS_PER_MS;
	make_pair(ends);
	*peer = ends[0];
	assert_no_error(vhost_user_back_end_open(ends[1], &options, &back));
	send_bytes(*peer, bytes,
		   put_message(bytes, VHOST_USER_SET_PROTOCOL_FEATURES, 1, &protocol, 8), 0);
	send_bytes(*peer, bytes, put_message(bytes, VHOST_USER_GET_QUEUE_NUM, 1, NULL, 0), 0);
	assert_no_error(vhost_user_back_end_process(back));
	assert_int_equal(recv(*peer, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
	return back;
}

static void check_request(const struct request *request)
{
	const uint64_t protocol =
	    VHOST_USER_PROTOCOL_KNOWN & ~(VHOST_USER_PROTOCOL_RARP | VHOST_USER_PROTOCOL_MTU);
	unsigned int before = open_descriptors();
	struct device device = {0};
	struct vhost_user_back_end *back;
	uint8_t bytes[HEADER + sizeof(request->payload)];
	struct error *error;
	size_t size;
	int peer;

	back = lone_back_end(&device, &peer, protocol);
	size = put_message(bytes, request->request, request->flags ? request->flags : 1,
			   request->payload, request->size);
	if (request->said_size)
		put_le32(bytes + 8, request->said_size);
	assert_true(send_bytes(peer, bytes, size, request->fds));
	error = vhost_user_back_end_process(back);
	if (!error || !strstr(error_message(error), request->expected))
		fail_msg("request %u: '%s' does not say '%s'", request->request,
			 error ? error_message(error) : "nothing", request->expected);
	error_free(error);
	vhost_user_back_end_close(back);
	close(peer);
	assert_int_equal(open_descriptors(), before);
}

static void test_lies_of_a_front_end_end_the_session(void **unused)
{
	static const struct request requests[] = {
	    {0, 1, "request 0 is not known"},
	    {UINT32_MAX, 1, "request 4294967295 is not known"},
	    {1, 0x4, "has version 0"},
	    {1, REPLY, "a reply that nobody waits for"},
	    {1, 1, "4294967295 bytes", .said_size = UINT32_MAX},
	    {1, 1, "comes with 3 descriptors, not 0", .fds = 3},
	    {1, 1, "more than 8 descriptors", .fds = 12},
	    {1, 1, "more than 8 descriptors", .fds = 32},
	    {VHOST_USER_SET_FEATURES, 1, "has 0x2, which was not offered", 8, {2}},
	    {VHOST_USER_SET_PROTOCOL_FEATURES, 1, "has 0x40, which", 8, {1 << 6}},
	    {VHOST_USER_SET_PROTOCOL_FEATURES, 1, "INBAND_NOTIFICATIONS without", 8, {1 << 14}},
	    {VHOST_USER_SEND_RARP, 1, "F_RARP, which was not negotiated", 8},
	    {VHOST_USER_SET_VRING_NUM, 1, "is about ring 0x4: there are 4", 8, {4 | 256ULL << 32}},
	    {VHOST_USER_SET_VRING_NUM, 1, "is about ring 0xffffffff", 8, {UINT64_MAX}},
	    {VHOST_USER_SET_VRING_NUM, 1, "is 0 for ring 0", 8, {0}},
	    {VHOST_USER_SET_VRING_NUM, 1, "is 3 for ring 0", 8, {3ULL << 32}},
	    {VHOST_USER_SET_VRING_NUM, 1, "is 2048 for ring 0", 8, {2048ULL << 32}},
	    {VHOST_USER_SET_VRING_BASE, 1, "of a split ring is 0x10000", 8, {1ULL << 48}},
	    {VHOST_USER_SET_VRING_ADDR, 1, "has flags 0x2", 40, {2ULL << 32}},
	    {VHOST_USER_SET_VRING_KICK, 1, "is about ring 0x200", 8, {0x300}},
	    {VHOST_USER_SET_VRING_KICK, 1, "starts without a size", 8, {0x100}},
	    {VHOST_USER_SET_VRING_CALL, 1, "comes with 1 descriptors, not 0", 8, {0x100}, 1},
	    {VHOST_USER_SET_VRING_CALL, 1, "comes with 0 descriptors, not 1", 8, {0}},
	    {VHOST_USER_SET_VRING_ENABLE, 1, "is 2", 8, {2ULL << 32}},
	    {VHOST_USER_SET_CONFIG, 1, "256 are the most", 12, {257ULL << 32}},
	    {VHOST_USER_SET_CONFIG, 1, "has flags 0x2", 16, {4ULL << 32, 2}},
	    {VHOST_USER_SET_MEM_TABLE, 1, "9 regions", 8, {9}},
	    {VHOST_USER_SET_MEM_TABLE, 1, "comes with 0 descriptors, not 1", 40, {1, 0, 4096}},
	    {VHOST_USER_SET_MEM_TABLE, 1, "is no file", 40, {1, 0, 4096}, 1},
	    {VHOST_USER_ADD_MEM_REG, 1, "comes with 0 descriptors", 40, {0, 0, 4096, 0, 0}},
	    {VHOST_USER_ADD_MEM_REG, 1, "is no file", 40, {0, 0, 4096, 0, 0}, 1},
	    {VHOST_USER_ADD_MEM_REG, 1, "is no range", 40, {0, 4096, 0, 0, 0}, 1},
	    {VHOST_USER_ADD_MEM_REG, 1, "is no range", 40, {0, 4096, UINT64_MAX, 0, 0}, 1},
	    {VHOST_USER_ADD_MEM_REG, 1, "8 bytes, not 40", 8, {0}},
	    {VHOST_USER_REM_MEM_REG, 1, "was not added so", 40, {0, 0, 4096, 0, 0}},
	    {VHOST_USER_REM_MEM_REG, 1, "was not added so", 40, {0, 0, 4096, 0, 0}, 1},
	    {VHOST_USER_SET_LOG_BASE, 1, "the log: a descriptor is no file", 16, {4096, 0}, 1},
	    {VHOST_USER_GET_INFLIGHT_FD, 1, "is for 0 queues of 0", 24},
	    {VHOST_USER_GET_INFLIGHT_FD, 1, "is for 5 queues of 1", 24, {0, 0, 5 | 1 << 16}},
	    {VHOST_USER_SET_INFLIGHT_FD, 1, "is a buffer of 1 bytes", 24, {1, 0, 1 | 1 << 16}, 1},
	    {VHOST_USER_SET_INFLIGHT_FD,
	     1,
	     "in-flight buffer: a descriptor is no file",
	     24,
	     {4096, 0, 1 | 1 << 16},
	     1},
	    {VHOST_USER_SET_DEVICE_STATE_FD, 1, "has direction 2 and phase 0", 8, {2}, 1},
	    {VHOST_USER_SET_DEVICE_STATE_FD, 1, "and phase 1", 8, {1ULL << 32}, 1},
	    {VHOST_USER_POSTCOPY_LISTEN, 1, "is not at its place"},
	    {VHOST_USER_SET_STATUS, 1, "is 0x100", 8, {256}},
	    {VHOST_USER_SET_BACKEND_REQ_FD, 1, "is no UNIX stream socket", 0, {0}, 1},
	};

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		check_request(&requests[i]);
}

static void test_signals_go_to_nothing_that_could_block_or_kill(void **unused)
{
	unsigned int before = open_descriptors();
	int pipes[2], sockets[2];

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	make_pair(sockets);
	for (unsigned int i = 0; i < 2; i++) {
		struct device device = {0};
		struct vhost_user_socket peer;
		struct vhost_user_message message = {
		    .type = vhost_user_message_type(VHOST_USER_MAIN, VHOST_USER_SET_VRING_CALL),
		    .payload = VHOST_USER_U64,
		    .fds = {i ? sockets[0] : pipes[1]},
		    .fd_count = 1};
		int end;
		struct vhost_user_back_end *back = lone_back_end(&device, &end, 1);

		assert_no_error(vhost_user_socket_init(&peer, end, VHOST_USER_MAIN, true));
		assert_no_error(vhost_user_socket_send(&peer, &message, 0));
		assert_error_with(vhost_user_back_end_process(back), "is no eventfd");
		vhost_user_back_end_close(back);
		vhost_user_socket_close(&peer);
	}
	close(pipes[0]);
	close(pipes[1]);
	close(sockets[0]);
	close(sockets[1]);
	assert_int_equal(open_descriptors(), before);
}

static void test_messages_arrive_in_pieces(void **unused)
{
	struct device device = {0};
	uint8_t bytes[HEADER + 8], answer[HEADER + 8];
	struct vhost_user_back_end *back;
	size_t size;
	int peer;

	back = lone_back_end(&device, &peer, VHOST_USER_PROTOCOL_KNOWN & 0xffff & ~0x14ULL);
	size = put_message(bytes, VHOST_USER_SET_FEATURES, 9, &(uint64_t){1ULL << 32}, 8);
	for (size_t i = 0; i < size; i++) {
		assert_int_equal(device.features, 0);
		assert_true(send_bytes(peer, bytes + i, 1, 0));
		assert_no_error(vhost_user_back_end_process(back));
	}
	assert_int_equal(device.features, 1ULL << 32);
	assert_int_equal(recv(peer, answer, sizeof(answer), MSG_WAITALL), sizeof(answer));
	assert_int_equal(get_le64(answer + HEADER), 0);
	vhost_user_back_end_close(back);
	close(peer);
}

static void test_descriptors_in_the_middle_are_refused(void **unused)
{
	unsigned int before = open_descriptors();
	struct device device = {0};
	uint8_t bytes[HEADER + 8];
	struct vhost_user_back_end *back;
	int peer;

	back = lone_back_end(&device, &peer, VHOST_USER_PROTOCOL_MQ);
	put_message(bytes, VHOST_USER_SET_VRING_CALL, 1, &(uint64_t){0}, 8);
	assert_true(send_bytes(peer, bytes, 4, 0));
	assert_no_error(vhost_user_back_end_process(back));
	assert_true(send_bytes(peer, bytes + 4, sizeof(bytes) - 4, 2));
	assert_error_with(vhost_user_back_end_process(back), "in the middle of a message");
	vhost_user_back_end_close(back);
	close(peer);
	assert_int_equal(open_descriptors(), before);
}

static void test_a_message_that_breaks_off_leaves_no_descriptor(void **unused)
{
	unsigned int before = open_descriptors();
	struct device device = {0};
	uint8_t bytes[HEADER + 8];
	struct vhost_user_back_end *back;
	int peer;

	back = lone_back_end(&device, &peer, VHOST_USER_PROTOCOL_MQ);
	put_message(bytes, VHOST_USER_SET_VRING_CALL, 1, &(uint64_t){0}, 8);
	assert_true(send_bytes(peer, bytes, 5, 8));
	assert_no_error(vhost_user_back_end_process(back));
	close(peer);
	assert_error_with(vhost_user_back_end_process(back), "ends within a message");
	vhost_user_back_end_close(back);
	assert_int_equal(open_descriptors(), before);
}

static void test_a_front_end_that_reads_no_answers_is_given_up(void **unused)
{
	struct device device = {0};
	uint8_t bytes[HEADER];
	struct vhost_user_back_end *back;
	struct error *error = NULL;
	int peer, small = 1;

	back = lone_back_end(&device, &peer, VHOST_USER_PROTOCOL_MQ);
	assert_int_equal(
	    setsockopt(vhost_user_back_end_fd(back), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
	    0);
	put_message(bytes, VHOST_USER_GET_FEATURES, 1, NULL, 0);
	for (unsigned int i = 0; i < 100000 && !error; i++) {
		assert_true(send_bytes(peer, bytes, HEADER, 0));
		error = vhost_user_back_end_process(back);
	}
	assert_error_with(error, "the peer does not take it in time");
	vhost_user_back_end_close(back);
	close(peer);
}

/* --- Memory ------------------------------------------------------------------------------------ */

/* With a session of the real front-end; what it sends past its own checks. */
static void test_regions_over_the_limit_or_each_other_are_refused(void **unused)
{
	struct device device = {0};
	struct vhost_user_back_end_options options = device_options(&device);
	struct vhost_user_message message = {
	    .type = vhost_user_message_type(VHOST_USER_MAIN, VHOST_USER_ADD_MEM_REG),
	    .flags = VHOST_USER_NEED_REPLY,
	    .payload = VHOST_USER_REGION,
	    .fd_count = 1};
	static const struct {
		struct vhost_user_region region;
		uint64_t answer;
	} steps[] = {
	    {{0, 8192, GIB(1), 0}, 0},
	    {{4096, 8192, GIB(2), 0}, 1},		    /* the guest's addresses overlap */
	    {{MIB(1), 8192, GIB(1) + 4096, 0}, 1},	    /* the user's */
	    {{MIB(1), 8192, GIB(1) + 8192, MIB(1)}, 1},	    /* past the file's end */
	    {{MIB(1), 8192, GIB(1) + 8192, UINT64_MAX}, 1}, /* its end wraps */
	    {{MIB(1), 8192, GIB(1) + 8192, 512}, 0},	    /* in the middle of a page */
	    {{MIB(2), 8192, GIB(3), 0}, 1},		    /* the third of two */
	};
	struct vhost_user_socket peer;
	struct vhost_user_message answer;
	int ends[2], fd = memory_file(MIB(1));
	bool got;

	options.slots = 2;
	make_pair(ends);
	assert_no_error(vhost_user_back_end_open(ends[1], &options, &device.back));
	assert_no_error(vhost_user_socket_init(&peer, ends[0], VHOST_USER_MAIN, true));
	assert_no_error(vhost_user_socket_send(
	    &peer,
	    &(struct vhost_user_message){
		.type = vhost_user_message_type(VHOST_USER_MAIN, VHOST_USER_SET_PROTOCOL_FEATURES),
		.payload = VHOST_USER_U64,
		.u64 = VHOST_USER_PROTOCOL_REPLY_ACK | VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS},
	    0));
	message.fds[0] = fd;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		message.region = steps[i].region;
		assert_no_error(vhost_user_socket_send(&peer, &message, 0));
		assert_no_error(vhost_user_back_end_process(device.back));
		assert_no_error(vhost_user_socket_receive(&peer, &answer, 0, &got));
		assert_true(got);
		assert_no_error(
		    vhost_user_message_decode(&answer, VHOST_USER_U64, VHOST_USER_FDS_NONE));
		assert_int_equal(answer.u64, steps[i].answer);
	}
	assert_int_equal(vhost_user_back_end_regions(device.back), 2);
	vhost_user_back_end_close(device.back);
	vhost_user_socket_close(&peer);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lies_of_a_back_end_end_the_session),
	    cmocka_unit_test(test_buffers_that_are_none_end_the_session),
	    cmocka_unit_test(test_refusals_of_a_back_end_do_not_end_the_session),
	    cmocka_unit_test(test_a_back_end_that_hangs_is_given_up),
	    cmocka_unit_test(test_wrong_addresses_of_postcopy_are_refused),
	    cmocka_unit_test(test_wrong_requests_of_a_back_end_end_the_session),
	    cmocka_unit_test(test_lies_of_a_front_end_end_the_session),
	    cmocka_unit_test(test_signals_go_to_nothing_that_could_block_or_kill),
	    cmocka_unit_test(test_messages_arrive_in_pieces),
	    cmocka_unit_test(test_descriptors_in_the_middle_are_refused),
	    cmocka_unit_test(test_a_message_that_breaks_off_leaves_no_descriptor),
	    cmocka_unit_test(test_a_front_end_that_reads_no_answers_is_given_up),
	    cmocka_unit_test(test_regions_over_the_limit_or_each_other_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
