/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queues of virtio-vsock, with a program of the host that listens at port 1 and takes nothing,
 * and two that have connected and asked for port 5.
 *
 * The first byte chooses how the rest is read: as the moves of virtio_fuzz.h, or as packets whose
 * fields are mostly plausible, which are turned into such moves. Without that few inputs would get
 * past the source address.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/checked.h"
#include "fuzz_input.h"
#include "fuzz_moves.h"
#include "virtio/vsock.h"
#include "virtio/vsock_packet.h"
#include "virtio_fuzz.h"

#define CID 3

static char path[64];

static int unix_socket(const char *name, bool server)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int result;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", name);
	if (server) {
		unlink(name);
		result = bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, 8);
	} else {
		result = connect(fd, (struct sockaddr *)&address, sizeof(address));
	}
	if (!result)
		return fd;
	close(fd);
	return -1;
}

static uint32_t choose_port(struct fuzz_input *input)
{
	static const uint32_t ports[] = {1, 2, 5, 0x40000000, 0x40000001, 0x40000002};
	uint8_t choice = fuzz_take8(input);

	return choice < 250 ? ports[choice % ARRAY_SIZE(ports)] : fuzz_take32(input);
}

/* A chain on the transmit queue: a header, and a payload of up to 255 bytes. */
static void put_packet(struct moves *moves, struct fuzz_input *input)
{
	uint8_t wire[VSOCK_HEADER_SIZE], payload[255], control = fuzz_take8(input);
	struct vsock_header header = {.src_cid = CID, .dst_cid = VSOCK_HOST_CID};

	header.op = fuzz_take8(input) % 9;
	header.type = VSOCK_TYPE_STREAM;
	header.src_port = choose_port(input);
	header.dst_port = choose_port(input);
	header.size = fuzz_take8(input);
	header.flags = control & 3;
	header.buf_alloc = control & 4 ? 65536 : fuzz_take8(input);
	header.fwd_cnt = control & 8 ? fuzz_take32(input) : 0;
	if (control & 16)
		header.size = fuzz_take32(input);
	if ((control & 0xe0) == 0xe0) {
		header.src_cid = fuzz_take8(input);
		header.dst_cid = fuzz_take8(input);
		header.type = fuzz_take8(input);
	}
	vsock_header_encode(&header, wire);
	put8(moves, 0x10); /* a chain, and the doorbell of queue 1 */
	put8(moves, 1);	   /* of two buffers */
	put8(moves, 2);	   /* readable, contents follow */
	put8(moves, sizeof(wire));
	put(moves, wire, sizeof(wire));
	put8(moves, 2);
	put8(moves, sizeof(payload));
	memset(payload, control, sizeof(payload));
	put(moves, payload, sizeof(payload));
}

static void put_receive_buffer(struct moves *moves, struct fuzz_input *input)
{
	uint16_t size = fuzz_take16(input) % 2048 + 40;

	put8(moves, 0);
	put8(moves, 0);
	put8(moves, 1 | 4);
	put(moves, &size, sizeof(size));
}

static void translate(struct moves *moves, struct fuzz_input *input)
{
	static const uint8_t no_features[8 + 2]; /* and queues as long as they may be */

	put(moves, no_features, sizeof(no_features));
	while (input->left && moves->used < FUZZ_MOVES_MAX - 512) {
		uint8_t what = fuzz_take8(input) % 16;

		if (what < 8)
			put_packet(moves, input);
		else if (what < 11)
			put_receive_buffer(moves, input);
		else if (what < 14)
			put8(moves, 15); /* a turn of the loop */
		else
			put8(moves, fuzz_take8(input));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {.data = data + 1, .left = size - 1};
	char text[128], port_path[80];
	struct virtio_device *device;
	static struct moves moves;
	struct virtio_fuzz fuzz;
	int server, programs[2];

	if (!size)
		return 0;
	snprintf(path, sizeof(path), "/tmp/godwit-fuzz-vsock-%d", (int)getpid());
	snprintf(port_path, sizeof(port_path), "%s_1", path);
	snprintf(text, sizeof(text), "cid=%d,path=%s", CID, path);
	server = unix_socket(port_path, true);
	virtio_fuzz_setup(&fuzz);
	virtio_fuzz_check(virtio_vsock_create(text, &device));
	for (int i = 0; i < 2; i++) {
		programs[i] = unix_socket(path, false);
		(void)!send(programs[i], "CONNECT 5\nhello", 15, MSG_NOSIGNAL);
	}
	if (data[0] & 1)
		close(programs[1]); /* it hangs up early */
	if (data[0] & 2) {
		moves.used = 0;
		translate(&moves, &input);
		virtio_fuzz_run(&fuzz, device, moves.bytes, moves.used);
	} else {
		virtio_fuzz_run(&fuzz, device, data + 1, size - 1);
	}
	virtio_fuzz_teardown(&fuzz);
	close(programs[0]);
	if (!(data[0] & 1))
		close(programs[1]);
	close(server);
	unlink(port_path);
	return 0;
}
