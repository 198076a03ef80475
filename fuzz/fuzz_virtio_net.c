/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queues of virtio-net with two pairs, over sockets in the place of a tap. The first byte of
 * the input says which frames wait on the line, and whether it is cut; the rest is the driver's.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "base/checked.h"
#include "virtio/net.h"
#include "virtio_fuzz.h"

#define PAIRS 2

/* Frames behind their headers, small and large: a large one takes several of most drivers' buffers.
 */
static void send_frames(int wire, uint8_t which)
{
	static const uint32_t sizes[] = {0, 5, 12, 13, 100, 1526, 9000, 65000};
	static uint8_t packet[65000];

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		if (which >> i & 1 && sizes[i])
			(void)!send(wire, packet, sizes[i], MSG_DONTWAIT | MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct virtio_net_options options = {
	    .id = "net", .mac = {2, 0, 0, 0, 0, 1}, .mtu = 1500, .on_device_loop = true};
	struct virtio_device *device;
	struct virtio_fuzz fuzz;
	int ends[2], wires[PAIRS], fds[PAIRS];
	struct tap tap;

	if (!size)
		return 0;
	for (int i = 0; i < PAIRS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
			return 0;
		fds[i] = ends[0];
		wires[i] = ends[1];
		send_frames(wires[i], data[0]);
	}
	if (data[0] & 1)
		close(wires[0]);
	virtio_fuzz_setup(&fuzz);
	tap_from_sockets(&tap, fds, PAIRS);
	virtio_fuzz_check(virtio_net_create_on_tap(&options, &tap, &device));
	virtio_fuzz_run(&fuzz, device, data + 1, size - 1);
	virtio_fuzz_teardown(&fuzz);
	for (int i = data[0] & 1; i < PAIRS; i++)
		close(wires[i]);
	return 0;
}
