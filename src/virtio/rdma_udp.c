/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device's port over an UDP socket of the host (godwit/rdma.h): packets leave and come with the
 * one address that the socket has, which the guest's interface must have too.
 *
 * Runs on the device's loop. Anyone can send to the socket; the library checks what comes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "virtio/rdma.h"

struct udp_port {
	struct godwit_rdma_udp *udp;
	uint8_t address[16];
};

static uint32_t receive(void *context, struct godwit_rdma *engine, int64_t now)
{
	return godwit_rdma_udp_receive(((struct udp_port *)context)->udp, engine, now);
}

static bool waits(void *context)
{
	return godwit_rdma_udp_waits(((struct udp_port *)context)->udp);
}

static bool sends_from(void *context, const uint8_t address[16])
{
	return !memcmp(address, ((struct udp_port *)context)->address, 16);
}

static void close_port(void *context)
{
	struct udp_port *port = context;

	godwit_rdma_udp_close(port->udp);
	free(port);
}

struct error *virtio_rdma_udp_port_open(const char *address, struct virtio_rdma_port *result)
{
	struct udp_port *port = calloc(1, sizeof(*port));
	struct in_addr v4;
	int status;

	if (!port)
		return error_system(ENOMEM, "port udp");
	if (inet_pton(AF_INET, address, &v4) == 1) {
		memset(port->address + 10, 0xff, 2);
		memcpy(port->address + 12, &v4, 4);
	} else if (inet_pton(AF_INET6, address, port->address) != 1) {
		free(port);
		return error_usage("'%s' is not an IP address", address);
	}
	status = godwit_rdma_udp_open(port->address, &port->udp);
	if (status < 0) {
		free(port);
		return error_system(-status, "UDP port %u of %s", GODWIT_RDMA_UDP_PORT, address);
	}
	*result = (struct virtio_rdma_port){.name = "udp",
					    .packets = godwit_rdma_udp_port(port->udp),
					    .fd = godwit_rdma_udp_fd(port->udp),
					    .receive = receive,
					    .waits = waits,
					    .sends_from = sends_from,
					    .close = close_port,
					    .context = port};
	return NULL;
}
