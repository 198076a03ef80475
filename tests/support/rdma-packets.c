/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Prints packets of RoCE with their invariant CRC, a line each, for another implementation to judge:
 * port of the source, identification, don't-fragment, whether vectors were used, the packet. They go
 * from 10.1.2.3 to 10.4.5.6. Each operation comes with payloads of several lengths.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "rdma/icrc.h"
#include "rdma/packet.h"

static void print_packet(const struct rdma_crc *crc, uint8_t opcode, uint32_t size)
{
	struct godwit_rdma_ends ends = {
	    {[10] = 0xff, 0xff, 10, 1, 2, 3}, {[10] = 0xff, 0xff, 10, 4, 5, 6}, (uint16_t)random()};
	struct rdma_fragment fragment = {(uint16_t)random(), random() & 1};
	struct rdma_packet packet = {.opcode = opcode,
				     .solicited = random() & 1,
				     .ack_request = random() & 1,
				     .pkey = RDMA_PKEY_DEFAULT,
				     .queue_pair = (uint32_t)random(),
				     .psn = (uint32_t)random(),
				     .address = (uint64_t)random() << 32 | (uint64_t)random(),
				     .key = (uint32_t)random(),
				     .length = (uint32_t)random(),
				     .payload_size = size};
	uint8_t bytes[RDMA_PACKET_MAX + RDMA_ICRC_SIZE];
	uint8_t *payload = rdma_packet_encode(&packet, bytes);
	uint32_t whole = rdma_packet_size(opcode, size);

	for (uint32_t i = 0; i < size; i++)
		payload[i] = (uint8_t)random();
	put_le32(bytes + whole, rdma_icrc(crc, &ends, fragment, bytes, whole));
	printf("%u %u %d %d ", ends.source_port, fragment.id, fragment.dont_fragment, crc->vector);
	for (uint32_t i = 0; i < whole + RDMA_ICRC_SIZE; i++)
		printf("%02x", bytes[i]);
	printf("\n");
}

int main(void)
{
	static const uint32_t sizes[] = {0, 1, 2, 3, 4, 63, 64, 255, 1024, 4095, 4096};
	struct rdma_crc crc;

	srandom(6);
	for (int vector = 0; vector < 2; vector++) {
		rdma_crc_init(&crc, vector);
		for (unsigned int opcode = 0; opcode < 256; opcode++) {
			uint32_t flags = rdma_opcode_flags((uint8_t)opcode);

			for (size_t i = 0; flags && i < sizeof(sizes) / sizeof(*sizes); i++) {
				if (flags & RDMA_HAS_PAYLOAD || !sizes[i])
					print_packet(&crc, (uint8_t)opcode, sizes[i]);
			}
		}
	}
	return 0;
}
