/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * An RDMA engine with a peer that sends anything and a user that posts anything: memory is touched only
 * inside what is registered, packets are never longer than their room, and all that was posted
 * completes when the queue pair fails.
 *
 * The input: the service (1 byte), then a row of steps: a packet (its length, its bytes, with the
 * queue pair's number and a sequence number near the expected ones), work, a receive, time, memory that
 * comes and goes.
 */
#include <assert.h>
#include <errno.h>
#include <godwit/rdma.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "fuzz_input.h"
#include "rdma/packet.h"

#define MEMORY	 16384U
#define NUMBER	 0x123U
#define FIRST	 0xfffffcU
#define CAPACITY 16U

#define TO_RTR	 (GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU)
#define TO_RTR_C (TO_RTR | GODWIT_RDMA_SET_PEER | GODWIT_RDMA_SET_RECEIVE_PSN)
#define TO_RTS	 (GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_SEND_PSN)

/* What brings a queue pair of each service up. */
static const uint32_t masks[][3] = {
    [GODWIT_RDMA_RELIABLE] = {GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ACCESS,
			      TO_RTR_C | GODWIT_RDMA_SET_READS_IN | GODWIT_RDMA_SET_NOT_READY_TIMER,
			      TO_RTS | GODWIT_RDMA_SET_TIMEOUT | GODWIT_RDMA_SET_RETRIES |
				  GODWIT_RDMA_SET_NOT_READY_RETRIES | GODWIT_RDMA_SET_READS_OUT},
    [GODWIT_RDMA_UNRELIABLE] = {GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_ACCESS, TO_RTR_C, TO_RTS},
    [GODWIT_RDMA_DATAGRAM] = {GODWIT_RDMA_SET_STATE | GODWIT_RDMA_SET_QUEUE_KEY, TO_RTR, TO_RTS},
};

struct fuzz {
	uint8_t memory[MEMORY], packet[GODWIT_RDMA_PACKET_MAX];
	uint32_t size;
	bool absent, full;
};

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct fuzz *fuzz = context;

	assert(size >= RDMA_BTH_SIZE && size <= sizeof(fuzz->packet));
	fuzz->size = size;
	return fuzz->full ? NULL : fuzz->packet;
}

static void commit(void *context)
{
	struct fuzz *fuzz = context;
	struct rdma_packet packet;
	bool decoded = rdma_packet_decode(fuzz->packet, fuzz->size, &packet);

	assert(decoded);
	(void)decoded;
}

static int span(void *context, uint64_t offset, bool write, uint8_t **bytes, uint64_t *there)
{
	struct fuzz *fuzz = context;

	assert(*there && range_contains(0, MEMORY, offset, *there));
	if (fuzz->absent)
		return -EAGAIN;
	*bytes = fuzz->memory + offset;
	*there = MIN(*there, 1000 - offset % 1000);
	return 0;
}

static struct godwit_rdma_segment take_segment(struct fuzz_input *input, uint32_t key)
{
	return (struct godwit_rdma_segment){fuzz_take16(input), fuzz_take16(input),
					    fuzz_take8(input) ? key : fuzz_take32(input)};
}

static bool post(struct fuzz_input *input, struct godwit_rdma_pair *pair, uint32_t key,
		 struct godwit_rdma_window *window, struct godwit_rdma_region *region)
{
	struct godwit_rdma_segment segment = take_segment(input, key);
	struct godwit_rdma_work work = {.operation = fuzz_take8(input) % 9,
					.flags = fuzz_take16(input),
					.segments = &segment,
					.segment_count = fuzz_take8(input) & 1,
					.remote_key = key,
					.invalidate = fuzz_take32(input),
					.window = godwit_rdma_window_key(window),
					.region = godwit_rdma_region_key(region),
					.bind_address = fuzz_take16(input),
					.bind_size = fuzz_take16(input),
					.bind_access = fuzz_take8(input),
					.bind_key =
					    godwit_rdma_window_key(window) ^ fuzz_take8(input)};

	return !godwit_rdma_pair_send(pair, &work);
}

static void receive(struct fuzz_input *input, struct godwit_rdma *engine,
		    const struct godwit_rdma_ends *ends, int64_t now)
{
	uint8_t bytes[GODWIT_RDMA_PACKET_MAX];
	size_t size = fuzz_take16(input) % (sizeof(bytes) + 1);

	fuzz_take(input, bytes, size);
	if (size >= RDMA_BTH_SIZE) {
		bytes[1] &= 0xf0;
		put_be16(bytes + 2, 0xffff);
		put_be32(bytes + 4, NUMBER);
		put_be32(bytes + 8, (uint32_t)(bytes[8] & 0x80) << 24 |
					rdma_psn_add(FIRST - 2, bytes[11] & 0x3f));
	}
	godwit_rdma_receive(engine, ends, bytes, size, now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input input = {data, size};
	struct fuzz *fuzz = calloc(1, sizeof(*fuzz));
	const struct godwit_rdma_options options = {.port = {reserve, commit, NULL, fuzz},
						    .window = 8};
	const struct godwit_rdma_completions_options completions_options = {.capacity = 64};
	const struct godwit_rdma_region_options region_options = {.memory = {span, NULL, fuzz},
								  .address = 0x1000,
								  .size = MEMORY,
								  .access = 31,
								  .key = 0x501};
	struct godwit_rdma_pair_options pair_options = {.service = 1 + fuzz_take8(&input) % 3,
							.send_capacity = CAPACITY,
							.receive_capacity = CAPACITY,
							.send_segments = 1,
							.receive_segments = 1,
							.signal_all = true,
							.number = NUMBER};
	struct godwit_rdma_attributes attributes = {.access = 14,
						    .ends = {{1}, {2}, 0xc000},
						    .mtu = 256,
						    .peer = 7,
						    .receive_psn = FIRST,
						    .send_psn = FIRST,
						    .timeout = 1,
						    .retries = 3,
						    .not_ready_retries = 3,
						    .reads_in = 2,
						    .reads_out = 2};
	const struct godwit_rdma_ends ends = {{2}, {1}, 0xc000};
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_completion list[64];
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_region *region;
	struct godwit_rdma_window *window;
	struct godwit_rdma_pair *pair;
	struct godwit_rdma *engine;
	uint64_t posted = 0, completed = 0;
	int64_t now = 0;
	int failed;

	failed = godwit_rdma_create(&options, &engine);
	failed |= godwit_rdma_domain_create(engine, &domain);
	failed |= godwit_rdma_completions_create(engine, &completions_options, &completions);
	failed |= godwit_rdma_region_create(domain, &region_options, &region);
	failed |= godwit_rdma_window_create(domain, 2, 0x600, &window);
	pair_options.send = pair_options.receive = completions;
	failed |= godwit_rdma_pair_create(domain, &pair_options, &pair);
	for (int i = 0; i < 3 && !failed; i++) {
		attributes.state = GODWIT_RDMA_INIT + i;
		failed |=
		    godwit_rdma_pair_modify(pair, &attributes, masks[pair_options.service][i]);
	}
	if (failed)
		abort();
	while (input.left) {
		struct godwit_rdma_segment segment;

		switch (fuzz_take8(&input) % 8) {
		case 0:
			posted += post(&input, pair, region_options.key, window, region);
			break;
		case 1:
			segment = take_segment(&input, region_options.key);
			posted += !godwit_rdma_pair_receive(
			    pair, &(struct godwit_rdma_receive_work){1, &segment, 1});
			break;
		case 2:
			fuzz->absent = !fuzz->absent;
			break;
		case 3:
			fuzz->full = !fuzz->full;
			break;
		case 4:
			now += fuzz_take32(&input);
			/* fall through */
		case 5:
			godwit_rdma_poll(engine, now);
			break;
		default:
			receive(&input, engine, &ends, now);
			break;
		}
		completed += godwit_rdma_completions_poll(completions, list, ARRAY_SIZE(list));
	}
	/* Nothing is left when it has failed. */
	attributes.state = GODWIT_RDMA_ERROR;
	if (godwit_rdma_pair_modify(pair, &attributes, GODWIT_RDMA_SET_STATE))
		abort();
	fuzz->full = false;
	godwit_rdma_poll(engine, now);
	while (godwit_rdma_completions_poll(completions, list, 1))
		completed++;
	assert(completed == posted);
	if (godwit_rdma_pair_destroy(pair) || godwit_rdma_window_destroy(window) ||
	    godwit_rdma_region_destroy(region) || godwit_rdma_completions_destroy(completions) ||
	    godwit_rdma_domain_destroy(domain) || godwit_rdma_destroy(engine))
		abort();
	free(fuzz);
	return 0;
}
