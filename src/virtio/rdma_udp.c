/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device's port over an UDP socket of the host (godwit/rdma.h): packets leave and come with the
 * one address that the socket has, which the guest's interface must have too. One process has the socket
 * at a time: it is closed where the machine was, and opened where it goes on.
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

static void release(void *context)
{
	struct udp_port *port = context;

	godwit_rdma_udp_close(TAKE_PTR(port->udp));
}

static struct error *take_over(void *context, struct virtio_rdma_port *result)
{
	struct udp_port *port = context;
	int status = godwit_rdma_udp_open_ahead(port->address, &port->udp);

	if (status < 0)
		return error_system(-status, "UDP port %u", GODWIT_RDMA_UDP_PORT);
	result->packets = godwit_rdma_udp_port(port->udp);
	result->fd = godwit_rdma_udp_fd(port->udp);
	return NULL;
}

static void close_port(void *context)
{
	struct udp_port *port = context;

	godwit_rdma_udp_close(port->udp);
	free(port);
}

struct error *virtio_rdma_udp_port_open(const char *address, bool later,
					struct virtio_rdma_port *result)
{
	struct udp_port *port = calloc(1, sizeof(*port));
	struct in_addr v4;
	int status = 0;

	if (!port)
		return error_system(ENOMEM, "port udp");
	if (inet_pton(AF_INET, address, &v4) == 1) {
		memset(port->address + 10, 0xff, 2);
		memcpy(port->address + 12, &v4, 4);
	} else if (inet_pton(AF_INET6, address, port->address) != 1) {
		free(port);
		return error_usage("'%s' is not an IP address", address);
	}
	if (!later)
		status = godwit_rdma_udp_open(port->address, &port->udp);
	if (status < 0) {
		free(port);
		return error_system(-status, "UDP port %u of %s", GODWIT_RDMA_UDP_PORT, address);
	}
	*result = (struct virtio_rdma_port){.name = "udp",
					    .fd = -1,
					    .receive = receive,
					    .waits = waits,
					    .sends_from = sends_from,
					    .release = release,
					    .take_over = take_over,
					    .close = close_port,
					    .context = port};
	if (!later) {
		result->packets = godwit_rdma_udp_port(port->udp);
		result->fd = godwit_rdma_udp_fd(port->udp);
	}
	return NULL;
}
