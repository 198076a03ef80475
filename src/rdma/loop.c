/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The port between engines of one process: each member has a ring of packets, into which the others
 * write.
 *
 * Runs on the one thread of all its engines. Members may belong to users who do not trust each other:
 * what one sends has its own address, and who does not take its packets loses them without holding up
 * anybody else.
 */
#include <errno.h>
#include <godwit/rdma.h>
#include <stdlib.h>
#include <string.h>

struct slot {
	struct godwit_rdma_ends ends;
	uint32_t size;
	uint8_t bytes[GODWIT_RDMA_PACKET_MAX];
};

struct godwit_rdma_member {
	struct godwit_rdma_loop *loop;
	struct godwit_rdma_member *next;
	uint8_t address[16];
	uint32_t capacity, head, count; /* of the ring */
	struct slot *ring;
	uint64_t lost;
	/* What is reserved: for whom (NULL: nobody), where. */
	struct godwit_rdma_member *target;
	struct slot *reserved;
	struct slot scratch;
};

struct godwit_rdma_loop {
	struct godwit_rdma_member *members;
};

int godwit_rdma_loop_create(struct godwit_rdma_loop **loop)
{
	*loop = calloc(1, sizeof(**loop));
	return *loop ? 0 : -ENOMEM;
}

int godwit_rdma_loop_destroy(struct godwit_rdma_loop *loop)
{
	if (loop && loop->members)
		return -EBUSY;
	free(loop);
	return 0;
}

static struct godwit_rdma_member *find(const struct godwit_rdma_loop *loop,
				       const uint8_t address[16])
{
	struct godwit_rdma_member *member = loop->members;

	while (member && memcmp(member->address, address, 16) != 0)
		member = member->next;
	return member;
}

int godwit_rdma_loop_join(struct godwit_rdma_loop *loop, const uint8_t address[16],
			  uint32_t capacity, struct godwit_rdma_member **result)
{
	struct godwit_rdma_member *member;

	*result = NULL;
	if (!capacity || capacity > GODWIT_RDMA_QUEUE_MAX)
		return -EINVAL;
	if (find(loop, address))
		return -EEXIST;
	member = calloc(1, sizeof(*member));
	if (!member)
		return -ENOMEM;
	member->ring = calloc(capacity, sizeof(*member->ring));
	if (!member->ring) {
		free(member);
		return -ENOMEM;
	}
	member->loop = loop;
	member->capacity = capacity;
	memcpy(member->address, address, 16);
	member->next = loop->members;
	loop->members = member;
	*result = member;
	return 0;
}

void godwit_rdma_loop_leave(struct godwit_rdma_member *member)
{
	struct godwit_rdma_member **link;

	if (!member)
		return;
	for (link = &member->loop->members; *link != member; link = &(*link)->next)
		;
	*link = member->next;
	free(member->ring);
	free(member);
}

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct godwit_rdma_member *member = context,
				  *target = find(member->loop, ends->destination);

	member->reserved = &member->scratch;
	member->target = NULL;
	if (target && !memcmp(ends->source, member->address, 16)) {
		if (target->count < target->capacity) {
			uint32_t at = (target->head + target->count) % target->capacity;

			member->reserved = &target->ring[at];
			member->target = target;
		} else {
			target->lost++;
		}
	}
	member->reserved->ends = *ends;
	member->reserved->size = size;
	return member->reserved->bytes;
}

static void commit(void *context)
{
	struct godwit_rdma_member *member = context;

	if (member->target)
		member->target->count++;
	member->target = NULL;
}

struct godwit_rdma_port godwit_rdma_loop_port(struct godwit_rdma_member *member)
{
	return (struct godwit_rdma_port){.reserve = reserve, .commit = commit, .context = member};
}

uint32_t godwit_rdma_loop_receive(struct godwit_rdma_member *member, struct godwit_rdma *engine,
				  int64_t now)
{
	uint32_t taken = 0;

	for (; member->count; taken++) {
		const struct slot *slot = &member->ring[member->head];

		godwit_rdma_receive(engine, &slot->ends, slot->bytes, slot->size, now);
		member->head = (member->head + 1) % member->capacity;
		member->count--;
	}
	return taken;
}

uint64_t godwit_rdma_loop_lost(const struct godwit_rdma_member *member)
{
	return member->lost;
}
