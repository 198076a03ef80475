/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sends packets and waits for what becomes of them, round after round: with echo=1 each comes back as it was sent, otherwise
 * somebody answers the question for an address in it (ARP). A network may lose packets: they are sent again then.
 *
 * rounds=N echo=0|1 ballast=N (pages that are written to once and never looked at).
 */
#include "mini.h"

#define PAGE	 4096ULL
#define BALLAST	 0x2000000ULL
#define BUFFERS	 8
#define PATIENCE 300000 /* looks, until a packet is taken for lost */

#define HEADER 12 /* of virtio */
#define TYPE   12 /* in a packet */
#define BODY   14
#define LENGTH 1024

static struct queue queues[2]; /* from and to the network */
static struct virtio net;
/* What was sent is compared with a copy: passt writes its answer there, too. */
static uint8_t received[BUFFERS][2048], sent[HEADER + LENGTH], packet[LENGTH];

static void offer(uint16_t buffer)
{
	queues[0].descriptors[buffer].address = (uintptr_t)received[buffer];
	queues[0].descriptors[buffer].length = sizeof(received[buffer]);
	queues[0].descriptors[buffer].flags = DESCRIPTOR_WRITE;
	queue_submit(&queues[0], buffer);
}

static void make_echo(uint64_t round)
{
	packet[TYPE] = 0x88; /* for experiments */
	packet[TYPE + 1] = 0xb5;
	for (uint64_t byte = BODY; byte < LENGTH; byte++)
		packet[byte] = (uint8_t)(round >> byte % 8 * 8 ^ byte);
}

static const uint8_t question[] = {8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 2, 15};

static void make_question(uint64_t round)
{
	memcpy(packet + TYPE, question, sizeof(question));
	packet[38] = 10;
	packet[39] = 1;
	packet[40] = (uint8_t)(round >> 8);
	packet[41] = (uint8_t)round;
}

static bool same(const uint8_t *a, const uint8_t *b, uint64_t size)
{
	for (uint64_t byte = 0; byte < size; byte++)
		if (MMIO(uint8_t, a + byte) != b[byte])
			return false;
	return true;
}

/* An answer says who has the address that was asked for. */
static bool is_expected(const uint8_t *answer, bool echo)
{
	if (echo)
		return same(answer, packet, LENGTH);
	return same(answer + TYPE, question, 9) && answer[21] == 2 &&
	       same(answer + 28, packet + 38, 4);
}

static bool receive(uint16_t *seen, bool echo)
{
	for (uint64_t look = 0; look < PATIENCE; look++) {
		uint32_t buffer;
		bool expected;

		if (queues[0].used.index == *seen)
			continue;
		buffer = MMIO(uint32_t, &queues[0].used.ring[*seen % QUEUE_SIZE].id) % BUFFERS;
		expected = is_expected(received[buffer] + HEADER, echo);
		(*seen)++;
		offer((uint16_t)buffer);
		if (expected)
			return true;
	}
	return false;
}

void guest_main(const char *cmdline)
{
	uint64_t rounds = argument(cmdline, "rounds", 100), again = 0;
	bool echo = argument(cmdline, "echo", 0);
	uint16_t seen = 0;

	if (!virtio_find(1, 0, &net) || !virtio_start(&net, 0, queues, 2)) {
		check(false, "the network is there");
		return;
	}
	for (uint64_t ballast = 0; ballast < argument(cmdline, "ballast", 0); ballast++)
		MMIO(uint64_t, BALLAST + ballast * PAGE) = ballast + 1;
	for (uint16_t buffer = 0; buffer < BUFFERS; buffer++)
		offer(buffer);
	memset(packet, 0xff, 6);
	packet[6] = 2;
	packet[11] = 1;
	queues[1].descriptors[0].address = (uintptr_t)sent;
	queues[1].descriptors[0].length = HEADER + (echo ? LENGTH : 60);
	for (uint64_t round = 1; round <= rounds; round++) {
		(echo ? make_echo : make_question)(round);
		for (bool arrived = false; !arrived; again += !arrived) {
			uint16_t used = queues[1].used.index;

			memcpy(sent + HEADER, packet, LENGTH);
			queue_submit(&queues[1], 0);
			if (!queue_wait(&net, &queues[1], used)) {
				check(false, "sends");
				return;
			}
			arrived = receive(&seen, echo);
		}
		print_number("round", round);
	}
	print_number("again", again);
}
