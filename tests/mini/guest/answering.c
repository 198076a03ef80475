/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Answers calls to its sockets: takes those at port 1024, but for the first refuse=N of them, and
 * refuses all others. Says what comes ("call PORT", "end PORT"), and nothing by itself.
 */
#include "mini.h"

#define VIRTIO_ID_VSOCK 19
#define QUEUES		3 /* receive, transmit, events */
#define RECEIVE		0
#define TRANSMIT	1
#define PORT		1024

enum { REQUEST = 1, RESPONSE = 2, RST = 3, SHUTDOWN = 4 };

/* virtio 1.2, 5.10.6 */
struct packet {
	uint64_t source_cid, destination_cid;
	uint32_t source_port, destination_port;
	uint32_t length;
	uint16_t type, operation;
	uint32_t flags, buffer_size, forwarded;
} __attribute__((packed));

static struct queue queues[QUEUES];
static struct virtio vsock;
static union {
	struct packet packet;
	uint8_t bytes[4096 + sizeof(struct packet)];
} received;
static struct packet sent;

static void offer_buffer(void)
{
	struct queue *queue = &queues[RECEIVE];

	queue->descriptors[0].address = (uintptr_t)&received;
	queue->descriptors[0].length = sizeof(received);
	queue->descriptors[0].flags = DESCRIPTOR_WRITE;
	queue_submit(queue, 0);
}

static void reply(uint16_t operation)
{
	const struct packet *packet = &received.packet;
	struct queue *queue = &queues[TRANSMIT];
	uint16_t before = queue->used.index;

	sent = (struct packet){.source_cid = packet->destination_cid,
			       .destination_cid = packet->source_cid,
			       .source_port = packet->destination_port,
			       .destination_port = packet->source_port,
			       .type = packet->type,
			       .operation = operation,
			       .buffer_size = 4096};
	queue->descriptors[0].address = (uintptr_t)&sent;
	queue->descriptors[0].length = sizeof(sent);
	queue->descriptors[0].flags = 0;
	queue_submit(queue, 0);
	if (!queue_wait(&vsock, queue, before))
		check(false, "a packet is sent");
}

void guest_main(const char *cmdline)
{
	uint64_t refuse = argument(cmdline, "refuse", 0);

	if (!virtio_find(VIRTIO_ID_VSOCK, 0, &vsock) || !virtio_start(&vsock, 0, queues, QUEUES)) {
		check(false, "the socket device is there");
		power_off();
	}
	print("ready\n");
	for (uint16_t seen = 0;; seen++) {
		offer_buffer();
		while (queues[RECEIVE].used.index == seen)
			;
		if (received.packet.operation == REQUEST) {
			bool taken = received.packet.destination_port == PORT && !refuse;

			print_number("call", received.packet.destination_port);
			if (refuse)
				refuse--;
			reply(taken ? RESPONSE : RST);
		} else if (received.packet.operation == SHUTDOWN) {
			print_number("end", received.packet.destination_port);
			reply(RST);
		}
	}
}
