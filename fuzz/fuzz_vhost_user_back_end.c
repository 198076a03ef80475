/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end of vhost-user with a front-end that sends anything: the session ends with a message
 * or goes on, no descriptor stays open, and what is translated is memory.
 *
 * The input is a row of messages: request (1 byte), flags (1), descriptors (1: how many, and what:
 * files, an eventfd, a socket), how long its payload is (2), the payload.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "fuzz_input.h"
#include "vhost_user/back_end.h"

#define FILE_SIZE 65536

static struct error *start_ring(void *context, uint32_t ring)
{
	return NULL;
}

static struct error *stop_ring(void *context, uint32_t ring, uint32_t *base)
{
	return NULL;
}

static struct error *get_config(void *context, uint32_t offset, uint32_t size, uint8_t *bytes)
{
	memset(bytes, 1, size);
	return NULL;
}

static struct error *set_config(void *context, uint32_t offset, uint32_t size, const uint8_t *bytes,
				bool migration)
{
	return offset ? error_new(EACCES, "no") : NULL;
}

static struct error *transfer(void *context, bool save, int fd)
{
	close(fd);
	return NULL;
}

static void kicked(void *context, uint32_t ring)
{
}

static const struct vhost_user_back_end_ops ops = {.start_ring = start_ring,
						   .stop_ring = stop_ring,
						   .get_config = get_config,
						   .set_config = set_config,
						   .transfer_state = transfer,
						   .ring_kicked = kicked};

/* Returns the request. */
static uint8_t send_message(int socket, struct fuzz_input *input, int file, int event)
{
	uint8_t bytes[12 + 300];
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * 15)];
	} control = {0};
	struct iovec part = {bytes, 0};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	uint8_t request = fuzz_take8(input), flags = fuzz_take8(input), fds = fuzz_take8(input);
	uint16_t size = fuzz_take16(input) % 300;

	put_le32(bytes, request);
	put_le32(bytes + 4, flags);
	put_le32(bytes + 8, size);
	fuzz_take(input, bytes + 12, size);
	part.iov_len = 12 + size;
	if (fds & 15) {
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int) * (fds & 15));
		for (int i = 0; i < (fds & 15); i++) {
			int fd = fds & 16 ? event : fds & 32 ? socket : file;

			memcpy(CMSG_DATA(&control.header) + sizeof(int) * i, &fd, sizeof(fd));
		}
		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * (fds & 15));
	}
	return sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? 0 : request;
}

/* Answers are not looked at. */
static void drop_answers(int socket)
{
	uint8_t bytes[4096];

	while (recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

/* What the back-end takes for memory can be touched; rings that run are wholly in it. */
static void touch(struct vhost_user_back_end *back)
{
	for (uint32_t i = 0; i < 2; i++) {
		const struct vhost_user_back_end_ring *ring = vhost_user_back_end_ring(back, i);
		size_t size;
		volatile uint8_t *part = vhost_user_back_end_inflight(back, i, &size);

		if (part)
			part[size - 1] = 1;
		if (!ring->started)
			continue;
		((volatile uint8_t *)ring->descriptor)[ring->size * 16 - 1] = 1;
		*(volatile uint8_t *)ring->available = 1;
		*(volatile uint8_t *)ring->used = 1;
		vhost_user_back_end_wrote_used(back, i, 0, 4096);
		vhost_user_back_end_call(back, i);
	}
	for (uint64_t address = 0; address < FILE_SIZE; address += 4096) {
		uint64_t size = 8192;
		volatile uint8_t *there = vhost_user_back_end_guest_part(back, address, &size);

		if (there)
			there[size - 1] = 1;
	}
	vhost_user_back_end_wrote(back, 0, UINT64_MAX);
}

/* Descriptors that are open, of the first 64: more are never needed. */
static uint64_t open_descriptors(void)
{
	uint64_t open = 0;

	for (int fd = 0; fd < 64; fd++) {
		if (fcntl(fd, F_GETFD) >= 0)
			open |= 1ULL << fd;
	}
	return open;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct vhost_user_back_end_options options = {.features = 1ULL << 32 | 1ULL << 34,
							    .protocol = VHOST_USER_PROTOCOL_KNOWN,
							    .queues = 2,
							    .queue_size = 256,
							    .slots = 4,
							    .time_limit_ns = NS_PER_MS,
							    .ops = &ops};
	struct fuzz_input input = {data, size};
	struct vhost_user_back_end *back;
	struct error *error;
	bool postcopy = false;
	uint64_t before = open_descriptors();
	int ends[2], file = memfd_create("file", MFD_CLOEXEC);
	int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (file < 0 || ftruncate(file, FILE_SIZE) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	error = vhost_user_back_end_open(ends[1], &options, &back);
	if (error)
		abort();
	while (input.left && !error) {
		/* Memory of post-copy is missing, and nobody brings it. */
		postcopy |=
		    send_message(ends[0], &input, file, event) == VHOST_USER_POSTCOPY_ADVISE;
		error = vhost_user_back_end_process(back);
		if (!error && !postcopy)
			touch(back);
		drop_answers(ends[0]);
	}
	assert(!error || error_message(error)[0]);
	error_free(error);
	close(ends[0]);
	vhost_user_back_end_close(back);
	close(event);
	close(file);
	assert(open_descriptors() == before);
	return 0;
}
