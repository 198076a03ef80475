/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loading the state of an RDMA engine: whatever is not refused can be polled, spoken to, saved again and
 * destroyed, and touches memory only inside what is registered.
 */
#include <assert.h>
#include <errno.h>
#include <godwit/rdma.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "rdma/packet.h"

#define MEMORY 16384U
#define KEY    0x10000U
#define WINDOW 0x10100U
#define FAST   0x10200U
#define NUMBER 0x123U
#define EVERYTHING                                                                                 \
	(GODWIT_RDMA_LOCAL_WRITE | GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ |            \
	 GODWIT_RDMA_REMOTE_ATOMIC | GODWIT_RDMA_BIND_WINDOW)

struct fuzz {
	uint8_t memory[MEMORY], packet[GODWIT_RDMA_PACKET_MAX];
	struct godwit_rdma *engine;
	struct godwit_rdma_domain *domain;
	struct godwit_rdma_completions *completions;
	struct godwit_rdma_shared *shared;
	struct godwit_rdma_region *regions[2];
	struct godwit_rdma_window *window;
	struct godwit_rdma_pair *pairs[3]; /* of each service */
};

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct fuzz *fuzz = context;

	assert(size >= RDMA_BTH_SIZE && size <= sizeof(fuzz->packet));
	return fuzz->packet;
}

static void commit(void *context)
{
}

static int span(void *context, uint64_t offset, bool write, uint8_t **bytes, uint64_t *size)
{
	struct fuzz *fuzz = context;

	/* A region by work may be of any size. */
	if (offset >= MEMORY)
		return -EFAULT;
	*size = MIN(*size, MEMORY - offset);
	*bytes = fuzz->memory + offset;
	return 0;
}

static int registered(void *context, const struct godwit_rdma_work *work)
{
	return 0;
}

static void make(struct fuzz *fuzz)
{
	const struct godwit_rdma_options options = {
	    .port = {.reserve = reserve, .commit = commit, .context = fuzz}};
	const struct godwit_rdma_completions_options completions = {.capacity = 64};
	const struct godwit_rdma_shared_options shared = {.capacity = 4, .segments = 2};
	const struct godwit_rdma_region_options regions[2] = {
	    {.memory = {.span = span, .context = fuzz},
	     .address = 4096,
	     .size = MEMORY,
	     .access = EVERYTHING,
	     .key = KEY},
	    {.memory = {.span = span, .context = fuzz, .registered = registered},
	     .by_work = true,
	     .key = FAST}};

	assert(!godwit_rdma_create(&options, &fuzz->engine));
	assert(!godwit_rdma_domain_create(fuzz->engine, &fuzz->domain));
	assert(!godwit_rdma_completions_create(fuzz->engine, &completions, &fuzz->completions));
	assert(!godwit_rdma_shared_create(fuzz->domain, &shared, &fuzz->shared));
	for (int i = 0; i < 2; i++)
		assert(!godwit_rdma_region_create(fuzz->domain, &regions[i], &fuzz->regions[i]));
	assert(!godwit_rdma_window_create(fuzz->domain, 2, WINDOW, &fuzz->window));
	for (uint32_t i = 0; i < 3; i++) {
		const struct godwit_rdma_pair_options pair = {.service = GODWIT_RDMA_RELIABLE + i,
							      .send = fuzz->completions,
							      .receive = fuzz->completions,
							      .shared =
								  i == 1 ? fuzz->shared : NULL,
							      .send_capacity = 8,
							      .receive_capacity = 4,
							      .send_segments = 2,
							      .receive_segments = 2,
							      .number = NUMBER + i};

		assert(!godwit_rdma_pair_create(fuzz->domain, &pair, &fuzz->pairs[i]));
	}
}

static void destroy(struct fuzz *fuzz)
{
	for (int i = 0; i < 3; i++)
		assert(!godwit_rdma_pair_destroy(fuzz->pairs[i]));
	assert(!godwit_rdma_shared_destroy(fuzz->shared));
	assert(!godwit_rdma_window_destroy(fuzz->window));
	for (int i = 0; i < 2; i++)
		assert(!godwit_rdma_region_destroy(fuzz->regions[i]));
	assert(!godwit_rdma_completions_destroy(fuzz->completions));
	assert(!godwit_rdma_domain_destroy(fuzz->domain));
	assert(!godwit_rdma_destroy(fuzz->engine));
}

/* Answers and requests, from the address that all zeros are too. */
static void speak(struct fuzz *fuzz)
{
	static const uint8_t opcodes[] = {RDMA_ACKNOWLEDGE,	   RDMA_READ_RESPONSE_ONLY,
					  RDMA_ATOMIC_ACKNOWLEDGE, RDMA_SEND_LAST,
					  RDMA_WRITE_LAST,	   RDMA_READ_REQUEST};
	const struct godwit_rdma_ends ends = {0};

	for (uint32_t i = 0; i < ARRAY_SIZE(opcodes); i++) {
		struct rdma_packet packet = {.opcode = opcodes[i],
					     .pkey = RDMA_PKEY_DEFAULT,
					     .queue_pair = NUMBER,
					     .psn = i,
					     .address = 4096,
					     .key = KEY,
					     .length = 1000};
		uint8_t bytes[64];

		rdma_packet_encode(&packet, bytes);
		godwit_rdma_receive(fuzz->engine, &ends, bytes, rdma_packet_size(packet.opcode, 0),
				    0);
	}
}

static void use(struct fuzz *fuzz)
{
	struct godwit_rdma_completion list[64];
	void *bytes;
	size_t size;

	if (!godwit_rdma_save(fuzz->engine, &bytes, &size))
		free(bytes);
	speak(fuzz);
	for (int64_t now = 0; now < 20; now++)
		godwit_rdma_poll(fuzz->engine, now * 1000000000);
	while (godwit_rdma_completions_poll(fuzz->completions, list, ARRAY_SIZE(list)))
		;
	for (int i = 0; i < 3; i++)
		godwit_rdma_pair_modify(
		    fuzz->pairs[i], &(struct godwit_rdma_attributes){.state = GODWIT_RDMA_ERROR},
		    GODWIT_RDMA_SET_STATE);
	godwit_rdma_poll(fuzz->engine, INT64_C(20000000000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz *fuzz = calloc(1, sizeof(*fuzz));
	char reason[GODWIT_RDMA_REASON_MAX] = "";

	assert(fuzz);
	make(fuzz);
	if (godwit_rdma_load(fuzz->engine, data, size, reason))
		assert(*reason);
	else
		use(fuzz);
	destroy(fuzz);
	free(fuzz);
	return 0;
}
