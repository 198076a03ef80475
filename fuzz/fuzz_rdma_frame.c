/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames that may carry RoCE: what was understood lies in the frame, and its headers can be made again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "rdma/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t mac[6] = {2};
	struct rdma_frame frame, again;
	uint32_t headers;
	uint8_t *bytes;

	if (!rdma_frame_decode(data, size, &frame))
		return 0;
	assert(frame.datagram >= data && frame.datagram + frame.size <= data + size);
	assert(rdma_address_is_v4(frame.ends.source) == rdma_address_is_v4(frame.ends.destination));
	headers = rdma_frame_headers_size(&frame.ends);
	bytes = malloc(headers + frame.size);
	if (!bytes)
		return 0;
	rdma_frame_encode_headers(&frame.ends, mac, frame.size, bytes);
	memcpy(bytes + headers, frame.datagram, frame.size);
	if (rdma_frame_decode(bytes, headers + frame.size, &again)) {
		assert(again.size == frame.size);
		assert(!memcmp(&again.ends, &frame.ends, sizeof(again.ends)));
		assert(!memcmp(again.datagram, frame.datagram, frame.size));
	} else {
		assert(frame.size > UINT16_MAX - RDMA_FRAME_HEADERS_MAX);
	}
	free(bytes);
	return 0;
}
