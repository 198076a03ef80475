/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Queue pairs of the RDMA device: made, changed and looked at by commands. What the engine asks for with a
 * change of state is the table of verbs, as is what the driver gives; here one becomes the other.
 *
 * Runs on the device's loop. The guest controls the commands, which are checked here, and by the engine.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define TYPE_GENERAL	  1U
#define FLAG_SIGNAL_ALL	  1U
#define SEND_DATA	  208U
#define SOURCE_PORT_FIRST 0xc000U
#define SOURCE_PORT_MASK  0x3fffU
#define STATE_OFFSET	  16U
#define ENDS_OFFSET	  44U
#define ENDS_END	  80U
#define QUEUE_PAIR_ERROR  6U
#define MTU_CODES	  5U

/* Bits of verbs' attribute mask. */
#define MASK_STATE (1U << 0)
#define MASK_ENDS  (1U << 7)
#define MASK_MTU   (1U << 8)
/* CUR_STATE, EN_SQD_ASYNC_NOTIFY, PKEY_INDEX, PORT, PATH_MIG_STATE: taken, and without effect. */
#define MASK_IGNORED (1U << 1 | 1U << 2 | 1U << 4 | 1U << 5 | 1U << 18)

static const struct {
	uint32_t mask, set;
	uint8_t offset, size; /* in the command */
} attributes[] = {
    {1U << 3, GODWIT_RDMA_SET_ACCESS, 24, 4},
    {1U << 6, GODWIT_RDMA_SET_QUEUE_KEY, 28, 4},
    {MASK_ENDS, GODWIT_RDMA_SET_ENDS, ENDS_OFFSET, ENDS_END - ENDS_OFFSET},
    {MASK_MTU, GODWIT_RDMA_SET_MTU, 17, 1},
    {1U << 9, GODWIT_RDMA_SET_TIMEOUT, 18, 1},
    {1U << 10, GODWIT_RDMA_SET_RETRIES, 19, 1},
    {1U << 11, GODWIT_RDMA_SET_NOT_READY_RETRIES, 20, 1},
    {1U << 12, GODWIT_RDMA_SET_RECEIVE_PSN, 32, 4},
    {1U << 13, GODWIT_RDMA_SET_READS_OUT, 22, 1},
    {1U << 15, GODWIT_RDMA_SET_NOT_READY_TIMER, 21, 1},
    {1U << 16, GODWIT_RDMA_SET_SEND_PSN, 36, 4},
    {1U << 17, GODWIT_RDMA_SET_READS_IN, 23, 1},
    {1U << 20, GODWIT_RDMA_SET_PEER, 40, 4},
};

/* By the state of the command. */
static const enum godwit_rdma_state states[] = {
    GODWIT_RDMA_RESET, GODWIT_RDMA_INIT, GODWIT_RDMA_RTR, GODWIT_RDMA_RTS, GODWIT_RDMA_SQD,
};

/* --- Making ------------------------------------------------------------------------------------ */

struct adapter_pair *adapter_pair_find(const struct virtio_rdma *rdma, uint32_t number)
{
	struct adapter_object *object;

	if (number == GENERAL_NUMBER)
		return rdma->general;
	object = adapter_numbers_find(&rdma->pairs, number);
	return object ? CONTAINER_OF(object, struct adapter_pair, object) : NULL;
}

static struct adapter_completions *find_completions(const struct virtio_rdma *rdma, uint32_t number)
{
	struct adapter_object *object = adapter_numbers_find(&rdma->completions, number);

	return object ? CONTAINER_OF(object, struct adapter_completions, object) : NULL;
}

/* A work request is complete. Inside the engine. */
static void sent(void *context)
{
	struct adapter_pair *pair = context;

	pair->in_engine--;
	pair->done = adapter_ring_next(&pair->sends, pair->done);
	adapter_ring_store(pair->rdma, &pair->sends, RING_CONSUMER, pair->done);
	adapter_pair_will_feed(pair);
}

void adapter_pair_free(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_pair *pair = CONTAINER_OF(object, struct adapter_pair, object);

	godwit_rdma_pair_destroy(pair->pair);
	if (object->number == GENERAL_NUMBER)
		rdma->general = NULL;
	else
		adapter_numbers_remove(&rdma->pairs, object);
	adapter_object_forget_events(rdma, object);
	adapter_pair_will_not_feed(pair);
	adapter_ring_free(rdma, &pair->sends);
	adapter_ring_free(rdma, &pair->receives.ring);
	free(pair);
}

static bool sends_fit(uint32_t slots, uint32_t stride, uint32_t segments, uint32_t inline_size)
{
	return is_power_of_two(slots) && slots >= 2 && slots <= QUEUE_SLOTS_MAX &&
	       is_power_of_two(stride) && stride <= STRIDE_MAX && segments &&
	       segments <= SEGMENTS_MAX && inline_size <= INLINE_MAX &&
	       stride >= SEND_DATA + MAX(16 * segments, inline_size);
}

/* The queues of the request, in guest memory. 0 or the status. */
static uint32_t make_queues(struct virtio_rdma *rdma, struct adapter_pair *pair,
			    const uint8_t *request, uint32_t size, bool shared)
{
	uint32_t slots = get_le32(request + 28), stride = get_le32(request + 32),
		 receive_slots = get_le32(request + 44), receive_stride = get_le32(request + 48),
		 runs = get_le32(request + 56), receive_runs = get_le32(request + 60),
		 room = (size - 64) / 16, status;

	pair->send_segments = get_le32(request + 36);
	pair->send_inline = get_le32(request + 40);
	pair->receives.rdma = rdma;
	pair->receives.segments = get_le32(request + 52);
	if (!sends_fit(slots, stride, pair->send_segments, pair->send_inline) || runs > room ||
	    receive_runs > room - runs)
		return EINVAL;
	if (shared ? receive_slots || receive_stride || pair->receives.segments || receive_runs
		   : !adapter_receives_fit(receive_slots, receive_stride, pair->receives.segments))
		return EINVAL;
	status = adapter_ring_create(rdma, &pair->sends, slots, stride, request + 64, runs);
	if (status || shared)
		return status;
	return adapter_ring_create(rdma, &pair->receives.ring, receive_slots, receive_stride,
				   request + 64 + (size_t)runs * 16, receive_runs);
}

/* The engine's half, with what the request names. 0 or the status. */
static uint32_t make_engines(struct virtio_rdma *rdma, struct adapter_pair *pair,
			     const uint8_t *request)
{
	struct adapter_object *domain = adapter_numbers_find(&rdma->domains, get_le32(request + 8));
	struct adapter_completions *send = find_completions(rdma, get_le32(request + 16)),
				   *receive = find_completions(rdma, get_le32(request + 20));
	uint32_t shared_number = get_le32(request + 24);
	struct adapter_object *shared = adapter_numbers_find(&rdma->shared, shared_number);
	struct godwit_rdma_pair_options options = {
	    .service = pair->service,
	    .send_capacity = MIN(pair->sends.slots, IN_ENGINE_MAX),
	    .send_segments = MAX(pair->send_segments, (pair->send_inline + 15) / 16),
	    .receives = {adapter_receives_take, &pair->receives},
	    .signal_all = request[13] & FLAG_SIGNAL_ALL,
	    .number = pair->object.number,
	    .sent = sent,
	    .context = pair};

	if (!domain || !send || !receive || (shared_number && !shared))
		return ENOENT;
	options.send = send->completions;
	options.receive = receive->completions;
	if (shared)
		options.shared = CONTAINER_OF(shared, struct adapter_shared, object)->shared;
	return (uint32_t)-godwit_rdma_pair_create(
	    CONTAINER_OF(domain, struct adapter_domain, object)->domain, &options, &pair->pair);
}

/* Gives @pair its number. 0 or the status. */
static uint32_t number_pair(struct virtio_rdma *rdma, struct adapter_pair *pair, bool general)
{
	if (!general)
		return adapter_numbers_add(&rdma->pairs, &pair->object) ? 0 : ENOMEM;
	if (rdma->general)
		return EEXIST;
	pair->object.number = GENERAL_NUMBER;
	rdma->general = pair;
	return 0;
}

uint32_t adapter_pair_create(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			     uint8_t *answer)
{
	static const enum godwit_rdma_service services[] = {[TYPE_GENERAL] = GODWIT_RDMA_DATAGRAM,
							    [2] = GODWIT_RDMA_RELIABLE,
							    [3] = GODWIT_RDMA_UNRELIABLE,
							    [4] = GODWIT_RDMA_DATAGRAM};
	uint8_t type = request[12];
	struct adapter_pair *pair;
	uint32_t status;

	if (type >= ARRAY_SIZE(services) || !services[type])
		return EOPNOTSUPP;
	pair = calloc(1, sizeof(*pair));
	if (!pair)
		return ENOMEM;
	pair->rdma = rdma;
	pair->service = services[type];
	memcpy(pair->object.made, request, 64);
	status = make_queues(rdma, pair, request, size, get_le32(request + 24));
	if (!status)
		status = number_pair(rdma, pair, type == TYPE_GENERAL);
	if (!status)
		status = make_engines(rdma, pair, request);
	if (status) {
		adapter_pair_free(rdma, &pair->object);
		return status;
	}
	put_le32(answer + 8, pair->object.number);
	return 0;
}

uint32_t adapter_pair_destroy(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			      uint8_t *answer)
{
	struct adapter_pair *pair = adapter_pair_find(rdma, get_le32(request + 8));

	if (!pair)
		return ENOENT;
	adapter_pair_free(rdma, &pair->object);
	return 0;
}

/* --- Changing ---------------------------------------------------------------------------------- */

/* The ends of the request's address vector. 0 or the status. */
static uint32_t take_ends(const struct virtio_rdma *rdma, const struct adapter_pair *pair,
			  const uint8_t *request, struct godwit_rdma_ends *ends)
{
	uint8_t index = request[70];

	if (index >= GIDS_MAX || !virtio_rdma_may_send_from(rdma, rdma->gids[index]))
		return EADDRNOTAVAIL;
	memcpy(ends->source, rdma->gids[index], sizeof(ends->source));
	memcpy(ends->destination, request + 48, sizeof(ends->destination));
	memcpy(ends->next_hop, request + 64, sizeof(ends->next_hop));
	ends->source_port = get_le16(request + 74);
	if (!ends->source_port)
		ends->source_port = SOURCE_PORT_FIRST | (pair->object.number & SOURCE_PORT_MASK);
	return 0;
}

/* What the engine is to be told. 0 or the status. */
static uint32_t translate(const struct virtio_rdma *rdma, const struct adapter_pair *pair,
			  const uint8_t *request, uint32_t mask, struct godwit_rdma_attributes *new,
			  uint32_t *set)
{
	uint8_t code = request[17];

	*new = (struct godwit_rdma_attributes){
	    .access = get_le32(request + 24) & (GODWIT_RDMA_REMOTE_WRITE | GODWIT_RDMA_REMOTE_READ |
						GODWIT_RDMA_REMOTE_ATOMIC),
	    .peer = get_le32(request + 40),
	    .receive_psn = get_le32(request + 32),
	    .send_psn = get_le32(request + 36),
	    .timeout = request[18],
	    .retries = request[19],
	    .not_ready_retries = request[20],
	    .not_ready_timer = request[21],
	    .reads_out = request[22],
	    .reads_in = request[23],
	    .queue_key = get_le32(request + 28),
	    .mtu = code >= 1 && code <= MTU_CODES ? 128U << code : 0};
	*set = 0;
	for (size_t i = 0; i < ARRAY_SIZE(attributes); i++) {
		if (mask & attributes[i].mask)
			*set |= attributes[i].set;
		mask &= ~attributes[i].mask;
	}
	if (mask & ~(MASK_IGNORED | MASK_STATE))
		return EINVAL;
	if (*set & GODWIT_RDMA_SET_ENDS)
		return take_ends(rdma, pair, request, &new->ends);
	return 0;
}

/* After a reset: what was posted is forgotten. */
static void empty_queues(struct virtio_rdma *rdma, struct adapter_pair *pair)
{
	uint32_t producer;

	if (adapter_ring_load(rdma, &pair->sends, RING_PRODUCER, &producer))
		pair->sends.own = producer;
	pair->done = pair->sends.own;
	pair->in_engine = 0;
	adapter_ring_store(rdma, &pair->sends, RING_CONSUMER, pair->done);
	if (!pair->receives.ring.slots)
		return;
	if (adapter_ring_load(rdma, &pair->receives.ring, RING_PRODUCER, &producer))
		pair->receives.ring.own = producer;
	adapter_ring_store(rdma, &pair->receives.ring, RING_CONSUMER, pair->receives.ring.own);
}

static void remember(struct adapter_pair *pair, const uint8_t *request, uint32_t mask)
{
	for (size_t i = 0; i < ARRAY_SIZE(attributes); i++)
		if (mask & attributes[i].mask)
			memcpy(pair->attributes + attributes[i].offset,
			       request + attributes[i].offset, attributes[i].size);
}

uint32_t adapter_pair_modify(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			     uint8_t *answer)
{
	struct adapter_pair *pair = adapter_pair_find(rdma, get_le32(request + 8));
	uint32_t mask = get_le32(request + 12), set, status;
	uint8_t state = request[STATE_OFFSET];
	struct godwit_rdma_attributes new;
	int result;

	if (!pair)
		return ENOENT;
	status = translate(rdma, pair, request, mask, &new, &set);
	if (status)
		return status;
	if (mask & MASK_STATE) {
		if (state >= ARRAY_SIZE(states) && state != QUEUE_PAIR_ERROR)
			return EINVAL;
		set |= GODWIT_RDMA_SET_STATE;
		new.state = state == QUEUE_PAIR_ERROR ? GODWIT_RDMA_ERROR : states[state];
	}
	/* A datagram says itself where it goes, from which address, and is one packet. */
	if (pair->service == GODWIT_RDMA_DATAGRAM && set & GODWIT_RDMA_SET_STATE &&
	    new.state == GODWIT_RDMA_RTR) {
		set |= GODWIT_RDMA_SET_ENDS | GODWIT_RDMA_SET_MTU;
		new.ends = (struct godwit_rdma_ends){
		    .source_port =
			(uint16_t)(SOURCE_PORT_FIRST | (pair->object.number & SOURCE_PORT_MASK))};
		new.mtu = 4096;
	}
	result = godwit_rdma_pair_modify(pair->pair, &new, set);
	if (result)
		return (uint32_t)-result;
	if (mask & MASK_STATE && new.state == GODWIT_RDMA_RESET) {
		empty_queues(rdma, pair);
		memset(pair->attributes, 0, sizeof(pair->attributes));
		return 0;
	}
	remember(pair, request, mask);
	adapter_pair_will_feed(pair);
	return 0;
}

static void disconnect(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_pair *pair = CONTAINER_OF(object, struct adapter_pair, object);
	const struct godwit_rdma_attributes failed = {.state = GODWIT_RDMA_ERROR};
	enum godwit_rdma_state state = godwit_rdma_pair_state(pair->pair);

	if (pair->service == GODWIT_RDMA_DATAGRAM || state < GODWIT_RDMA_RTR)
		return;
	/* One that has failed may owe its peer that it says so. */
	godwit_rdma_pair_modify(pair->pair, &failed, GODWIT_RDMA_SET_STATE);
	if (state == GODWIT_RDMA_ERROR)
		return;
	adapter_object_event(rdma, object, EVENT_QP_FATAL);
	adapter_pair_will_feed(pair);
}

void adapter_pairs_disconnect(struct virtio_rdma *rdma)
{
	adapter_numbers_each(&rdma->pairs, rdma, disconnect);
}

uint32_t adapter_pair_query(struct virtio_rdma *rdma, const uint8_t *request, uint32_t size,
			    uint8_t *answer)
{
	const struct adapter_pair *pair = adapter_pair_find(rdma, get_le32(request + 8));
	enum godwit_rdma_state state;

	if (!pair)
		return ENOENT;
	memcpy(answer, pair->attributes, sizeof(pair->attributes));
	state = godwit_rdma_pair_state(pair->pair);
	put_le32(answer + 8, pair->object.number);
	answer[STATE_OFFSET] = QUEUE_PAIR_ERROR;
	for (uint8_t i = 0; i < ARRAY_SIZE(states); i++)
		if (states[i] == state)
			answer[STATE_OFFSET] = i;
	return 0;
}
