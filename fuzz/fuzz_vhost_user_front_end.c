/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end of vhost-user with a back-end that answers anything: each call works or fails with a
 * message, and no descriptor stays open.
 *
 * The input: what is done (1 byte a call, up to a zero), then answers: request (1 byte; 0: what is
 * wanted next), descriptors (1), length (2), payload. They are all sent before the first call.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "fuzz_input.h"
#include "vhost_user/front_end.h"

static void send_answer(int socket, struct fuzz_input *input, int file)
{
	uint8_t bytes[12 + 300];
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * 15)];
	} control = {0};
	struct iovec part = {bytes, 0};
	struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
	uint8_t request = fuzz_take8(input), fds = fuzz_take8(input);
	uint16_t size = fuzz_take16(input) % 300;

	put_le32(bytes, request & 127);
	put_le32(bytes + 4, request & 128 ? 1 : 5);
	put_le32(bytes + 8, size);
	fuzz_take(input, bytes + 12, size);
	part.iov_len = 12 + size;
	if (fds & 15) {
		control.header.cmsg_level = SOL_SOCKET;
		control.header.cmsg_type = SCM_RIGHTS;
		control.header.cmsg_len = CMSG_LEN(sizeof(int) * (fds & 15));
		for (int i = 0; i < (fds & 15); i++)
			memcpy(CMSG_DATA(&control.header) + sizeof(int) * i, &file, sizeof(file));
		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(sizeof(int) * (fds & 15));
	}
	if (sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

static struct error *do_call(struct vhost_user_front_end *front, struct vhost_user_memory *memory,
			     uint8_t call, int file, int *fd)
{
	const struct vhost_user_range range = {MIB(1) + (call / 16) * 4096ULL, 4096};
	const struct vhost_user_ring_setup setup = {256, 0, 0, 8192, 16384, file, file, -1};
	struct vhost_user_inflight inflight;
	uint8_t bytes[64];
	uint32_t base;

	switch (call % 16) {
	case 1:
		return vhost_user_front_end_set_features(front, 0);
	case 2:
		return vhost_user_front_end_get_config(front, 0, sizeof(bytes), bytes);
	case 3:
		return vhost_user_front_end_begin_memory(front, memory);
	case 4:
		return vhost_user_front_end_change_memory(front, NULL, 0, &range, 1);
	case 5:
		return vhost_user_front_end_change_memory(front, &range, 1, NULL, 0);
	case 6:
		return vhost_user_front_end_start_ring(front, 0, &setup);
	case 7:
		return vhost_user_front_end_stop_ring(front, 0, &base);
	case 8:
		return vhost_user_front_end_start_log(front, file, 0, 4096);
	case 9:
		return vhost_user_front_end_get_inflight(front, 1, 64, &inflight, fd);
	case 10:
		return vhost_user_front_end_begin_state(front, VHOST_USER_SAVE, file, fd);
	case 11:
		return vhost_user_front_end_check_state(front);
	case 12:
		return vhost_user_front_end_advise_postcopy(front, fd);
	case 13:
		return vhost_user_front_end_listen_postcopy(
		    front, call & 16 ? VHOST_USER_POSTCOPY_TABLE : VHOST_USER_POSTCOPY_SLOTS);
	case 14:
		return vhost_user_front_end_end_postcopy(front);
	default:
		return vhost_user_front_end_tidy_memory(front);
	}
}

static void do_calls(struct vhost_user_front_end *front, struct vhost_user_memory *memory,
		     const uint8_t *calls, int file)
{
	for (; *calls; calls++) {
		int fd = -1;
		struct error *error = do_call(front, memory, *calls, file, &fd);

		assert(!error || error_message(error)[0]);
		error_free(error);
		if (fd >= 0)
			close(fd);
	}
}

static struct vhost_user_memory *make_memory(int file)
{
	struct vhost_user_memory *memory = vhost_user_memory_create();
	const struct vhost_user_block blocks[] = {{{0, MIB(1), MIB(16), 0}, file, 0},
						  {{MIB(1), 65536, MIB(32), 0}, file, 4096}};

	for (unsigned int i = 0; i < 2; i++) {
		struct error *error = vhost_user_memory_add_block(memory, &blocks[i]);

		if (error)
			abort();
	}
	return memory;
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
	const struct vhost_user_front_end_options options = {
	    .name = "it", .protocol = VHOST_USER_PROTOCOL_KNOWN, .time_limit_ns = 10 * NS_PER_MS};
	struct fuzz_input input = {data, size};
	struct vhost_user_front_end *front = NULL;
	struct vhost_user_memory *memory;
	struct error *error;
	uint8_t calls[32] = {0};
	uint64_t before = open_descriptors();
	int ends[2], file = memfd_create("file", MFD_CLOEXEC);

	if (file < 0 || ftruncate(file, MIB(1)) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		abort();
	memory = make_memory(file);
	for (unsigned int i = 0; i < sizeof(calls) - 1; i++) {
		calls[i] = fuzz_take8(&input);
		if (!calls[i])
			break;
	}
	while (input.left)
		send_answer(ends[1], &input, file);
	shutdown(ends[1], SHUT_WR); /* nothing more comes: nobody waits for it */
	error = vhost_user_front_end_open(ends[0], &options, &front);
	assert(!error == !!front);
	error_free(error);
	if (front)
		do_calls(front, memory, calls, file);
	vhost_user_front_end_close(front);
	vhost_user_memory_destroy(memory);
	close(ends[1]);
	close(file);
	assert(open_descriptors() == before);
	return 0;
}
