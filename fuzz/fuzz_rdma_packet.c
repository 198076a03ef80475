/* SPDX-License-Identifier: BSD-2-Clause */
/* Packets of RoCE: nothing past the end is read, and what was understood has the same bytes again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/packet.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rdma_packet packet, again;
	uint8_t *bytes, *other, *payload;
	uint32_t whole;

	if (!rdma_packet_decode(data, size, &packet))
		return 0;
	assert(packet.payload >= data && packet.payload + packet.payload_size <= data + size);
	whole = rdma_packet_size(packet.opcode, packet.payload_size);
	bytes = malloc(whole);
	if (!bytes)
		return 0;
	payload = rdma_packet_encode(&packet, bytes);
	memcpy(payload, packet.payload, packet.payload_size);
	assert(rdma_packet_decode(bytes, whole, &again));
	assert(again.payload_size == packet.payload_size);
	assert(!memcmp(again.payload, packet.payload, packet.payload_size));
	assert(rdma_packet_size(again.opcode, again.payload_size) == whole);
	other = malloc(whole);
	if (other) {
		payload = rdma_packet_encode(&again, other);
		memcpy(payload, again.payload, again.payload_size);
		assert(!memcmp(bytes, other, whole));
	}
	free(other);
	free(bytes);
	return 0;
}
