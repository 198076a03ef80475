/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The in-flight buffer, byte exact as the specification's C structures lie on 64-bit machines.
 *
 * Runs on the queue's thread. What a killed process has stored is all there for the next one, in the
 * order of its instructions; so the compiler alone must be kept from changing that order (STEP). The
 * front-end can write into the buffer at any time: every index is read once and checked.
 */
#include "vhost_user/inflight.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"

#define STEP() atomic_signal_fence(memory_order_seq_cst)

#define VERSION	  8
#define ENTRIES	  10
#define ALIGNMENT 64 /* of the parts, as other back-ends have it */

/* Split: the queue's and each descriptor's fields. */
#define SPLIT_LAST_BATCH 12
#define SPLIT_USED_INDEX 14
#define SPLIT_HEADER	 16
#define SPLIT_ENTRY	 16
#define SPLIT_NEXT	 6

/* Packed. */
#define PACKED_FREE	12
#define PACKED_OLD_FREE 14
#define PACKED_USED	16
#define PACKED_OLD_USED 18
#define PACKED_WRAP	20
#define PACKED_OLD_WRAP 21
#define PACKED_HEADER	32
#define PACKED_ENTRY	32
#define PACKED_NEXT	2
#define PACKED_LAST	4
#define PACKED_COUNT	6
#define PACKED_ID	16
#define PACKED_FLAGS	18
#define PACKED_LENGTH	20
#define PACKED_ADDRESS	24

/* Both. */
#define ENTRY_INFLIGHT 0
#define ENTRY_COUNTER  8

#define FLAG_AVAILABLE (1U << 7)
#define FLAG_USED      (1U << 15)

size_t vhost_user_inflight_size(bool packed, uint32_t entries)
{
	size_t size = packed ? PACKED_HEADER + (size_t)PACKED_ENTRY * entries
			     : SPLIT_HEADER + (size_t)SPLIT_ENTRY * entries;

	return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static uint8_t *split_entry(const struct vhost_user_inflight_queue *queue, uint16_t index)
{
	return queue->bytes + SPLIT_HEADER + (size_t)SPLIT_ENTRY * index;
}

static uint8_t *packed_entry(const struct vhost_user_inflight_queue *queue, uint16_t index)
{
	return queue->bytes + PACKED_HEADER + (size_t)PACKED_ENTRY * index;
}

bool vhost_user_inflight_is_new(const void *bytes)
{
	return !get_le16((const uint8_t *)bytes + VERSION);
}

void vhost_user_inflight_end(struct vhost_user_inflight_queue *queue)
{
	STEP();
	put_le16(queue->bytes + VERSION, 0);
	STEP();
}

/* Whether the part is new; an error if it is neither new nor this ring's. */
static struct error *check_part(struct vhost_user_inflight_queue *queue, void *bytes,
				uint16_t entries, bool *new)
{
	uint16_t version = get_le16((uint8_t *)bytes + VERSION);
	uint16_t there = get_le16((uint8_t *)bytes + ENTRIES);

	*queue = (struct vhost_user_inflight_queue){.bytes = bytes, .entries = entries};
	*new = !version;
	if (version > 1 || (version && there != entries))
		return error_new(EINVAL,
				 "the in-flight buffer has version %u and %u entries, not 1 and %u",
				 version, there, entries);
	return NULL;
}

/* Sorts by counter: the order in which requests were taken. Chains are few, or sorted nearly. */
struct ordered {
	uint64_t counter;
	uint16_t index, count;
};

static int compare(const void *a, const void *b)
{
	const struct ordered *left = a, *right = b;

	return left->counter < right->counter ? -1 : left->counter > right->counter;
}

/* Those in flight, in order, in *@list, which the caller frees. */
static struct error *collect(struct vhost_user_inflight_queue *queue, bool packed,
			     struct ordered **list, uint16_t *count)
{
	struct ordered *found = calloc(queue->entries, sizeof(*found));

	if (!found)
		return error_system(ENOMEM, "cannot look through the in-flight buffer");
	*count = 0;
	for (uint16_t i = 0; i < queue->entries; i++) {
		const uint8_t *entry = packed ? packed_entry(queue, i) : split_entry(queue, i);
		uint64_t counter = get_le64(entry + ENTRY_COUNTER);

		if (!entry[ENTRY_INFLIGHT])
			continue;
		found[(*count)++] = (struct ordered){
		    counter, i, packed ? get_le16(entry + PACKED_COUNT) : (uint16_t)1};
		queue->counter = MAX(queue->counter, counter + 1);
	}
	qsort(found, *count, sizeof(*found), compare);
	*list = found;
	return NULL;
}

/* --- Split rings ------------------------------------------------------------------------------- */

/* The last batch reached the used ring, or did not: what did is not in flight any more. */
static struct error *settle_batch(struct vhost_user_inflight_queue *queue, uint16_t used_index)
{
	uint16_t batch = (uint16_t)(used_index - get_le16(queue->bytes + SPLIT_USED_INDEX));
	uint16_t head = get_le16(queue->bytes + SPLIT_LAST_BATCH);

	if (batch > queue->entries)
		return error_new(EINVAL, "the in-flight buffer is %u requests behind its ring",
				 batch);
	for (uint16_t i = 0; i < batch; i++) {
		if (head >= queue->entries)
			return error_new(EINVAL, "the in-flight buffer names descriptor %u of %u",
					 head, queue->entries);
		split_entry(queue, head)[ENTRY_INFLIGHT] = 0;
		head = get_le16(split_entry(queue, head) + SPLIT_NEXT);
	}
	STEP();
	put_le16(queue->bytes + SPLIT_USED_INDEX, used_index);
	return NULL;
}

struct error *vhost_user_inflight_begin_split(struct vhost_user_inflight_queue *queue, void *bytes,
					      uint16_t entries, uint16_t used_index,
					      uint16_t *heads, uint16_t *count)
{
	AUTO_FREE struct ordered *list = NULL;
	bool new;

	*count = 0;
	TRY(check_part(queue, bytes, entries, &new));
	if (new) {
		memset(bytes, 0, vhost_user_inflight_size(false, entries));
		put_le16(queue->bytes + ENTRIES, entries);
		put_le16(queue->bytes + SPLIT_USED_INDEX, used_index);
		STEP();
		put_le16(queue->bytes + VERSION, 1);
		return NULL;
	}
	TRY(settle_batch(queue, used_index));
	TRY(collect(queue, false, &list, count));
	for (uint16_t i = 0; i < *count; i++)
		heads[i] = list[i].index;
	return NULL;
}

void vhost_user_inflight_take_split(struct vhost_user_inflight_queue *queue, uint16_t head)
{
	put_le64(split_entry(queue, head) + ENTRY_COUNTER, queue->counter++);
	STEP();
	split_entry(queue, head)[ENTRY_INFLIGHT] = 1;
	STEP();
}

void vhost_user_inflight_give_split(struct vhost_user_inflight_queue *queue, uint16_t head)
{
	put_le16(split_entry(queue, head) + SPLIT_NEXT, get_le16(queue->bytes + SPLIT_LAST_BATCH));
	STEP();
	put_le16(queue->bytes + SPLIT_LAST_BATCH, head);
	STEP();
}

void vhost_user_inflight_gave_split(struct vhost_user_inflight_queue *queue, const uint16_t *heads,
				    uint16_t count, uint16_t used_index)
{
	STEP();
	for (uint16_t i = 0; i < count; i++)
		split_entry(queue, heads[i])[ENTRY_INFLIGHT] = 0;
	STEP();
	put_le16(queue->bytes + SPLIT_USED_INDEX, used_index);
	STEP();
}

/* --- Packed rings ------------------------------------------------------------------------------ */

static void init_packed(struct vhost_user_inflight_queue *queue, uint16_t used_index, bool wrap)
{
	memset(queue->bytes, 0, vhost_user_inflight_size(true, queue->entries));
	put_le16(queue->bytes + ENTRIES, queue->entries);
	for (uint16_t i = 0; i < queue->entries; i++)
		put_le16(packed_entry(queue, i) + PACKED_NEXT, (uint16_t)(i + 1));
	put_le16(queue->bytes + PACKED_USED, used_index);
	put_le16(queue->bytes + PACKED_OLD_USED, used_index);
	queue->bytes[PACKED_WRAP] = wrap;
	queue->bytes[PACKED_OLD_WRAP] = wrap;
	STEP();
	put_le16(queue->bytes + VERSION, 1);
}

/* The batch counts from here on. */
static void commit_batch(struct vhost_user_inflight_queue *queue)
{
	put_le16(queue->bytes + PACKED_OLD_FREE, get_le16(queue->bytes + PACKED_FREE));
	put_le16(queue->bytes + PACKED_OLD_USED, get_le16(queue->bytes + PACKED_USED));
	queue->bytes[PACKED_OLD_WRAP] = queue->bytes[PACKED_WRAP];
	STEP();
}

static void roll_back(struct vhost_user_inflight_queue *queue)
{
	put_le16(queue->bytes + PACKED_FREE, get_le16(queue->bytes + PACKED_OLD_FREE));
	put_le16(queue->bytes + PACKED_USED, get_le16(queue->bytes + PACKED_OLD_USED));
	queue->bytes[PACKED_WRAP] = queue->bytes[PACKED_OLD_WRAP];
	STEP();
}

/* Whether the batch that begins at the old used index was seen by the driver. */
static bool batch_was_given(const struct vhost_user_inflight_queue *queue, const uint8_t *ring,
			    uint16_t old_used)
{
	uint16_t flags = get_le16(ring + 16 * (size_t)old_used + 14);
	bool wrap = queue->bytes[PACKED_OLD_WRAP];
	bool available = !!(flags & FLAG_AVAILABLE) == wrap && !!(flags & FLAG_USED) != wrap;

	return !available;
}

static struct error *settle_packed(struct vhost_user_inflight_queue *queue, const uint8_t *ring)
{
	uint16_t used = get_le16(queue->bytes + PACKED_USED);
	uint16_t old_used = get_le16(queue->bytes + PACKED_OLD_USED), at;

	if (used >= queue->entries || old_used >= queue->entries)
		return error_new(EINVAL, "the in-flight buffer is at entry %u of %u",
				 MAX(used, old_used), queue->entries);
	if (used != old_used && batch_was_given(queue, ring, old_used))
		commit_batch(queue);
	roll_back(queue);
	at = get_le16(queue->bytes + PACKED_FREE);
	/* What is free is not in flight. The list ends outside of the ring. */
	for (uint16_t i = 0; i < queue->entries && at < queue->entries; i++) {
		packed_entry(queue, at)[ENTRY_INFLIGHT] = 0;
		at = get_le16(packed_entry(queue, at) + PACKED_NEXT);
	}
	return NULL;
}

struct error *vhost_user_inflight_begin_packed(struct vhost_user_inflight_queue *queue, void *bytes,
					       uint16_t entries, const void *ring,
					       uint16_t *used_index, bool *used_wrap,
					       struct vhost_user_inflight_request *requests,
					       uint16_t *count)
{
	AUTO_FREE struct ordered *list = NULL;
	bool new;

	*count = 0;
	TRY(check_part(queue, bytes, entries, &new));
	if (new) {
		init_packed(queue, *used_index, *used_wrap);
		return NULL;
	}
	TRY(settle_packed(queue, ring));
	*used_index = get_le16(queue->bytes + PACKED_USED);
	*used_wrap = queue->bytes[PACKED_WRAP];
	TRY(collect(queue, true, &list, count));
	for (uint16_t i = 0; i < *count; i++) {
		if (!list[i].count || list[i].count > entries)
			return error_new(EINVAL, "the in-flight buffer has a chain of %u",
					 list[i].count);
		requests[i] = (struct vhost_user_inflight_request){list[i].index, list[i].count};
	}
	return NULL;
}

bool vhost_user_inflight_take_packed(struct vhost_user_inflight_queue *queue,
				     const struct vhost_user_inflight_descriptor *chain,
				     uint16_t count, uint16_t *entry)
{
	uint16_t head = get_le16(queue->bytes + PACKED_OLD_FREE), at = head, last = head;

	for (uint16_t i = 0; i < count; i++) {
		uint8_t *bytes;

		if (at >= queue->entries)
			return false;
		last = at;
		bytes = packed_entry(queue, at);
		put_le64(bytes + PACKED_ADDRESS, chain[i].address);
		put_le32(bytes + PACKED_LENGTH, chain[i].length);
		put_le16(bytes + PACKED_ID, chain[i].id);
		put_le16(bytes + PACKED_FLAGS, chain[i].flags);
		at = get_le16(bytes + PACKED_NEXT);
	}
	put_le16(packed_entry(queue, head) + PACKED_LAST, last);
	put_le16(packed_entry(queue, head) + PACKED_COUNT, count);
	put_le64(packed_entry(queue, head) + ENTRY_COUNTER, queue->counter++);
	STEP();
	/* Killed here it is in flight and in the free list, that is, not taken. */
	packed_entry(queue, head)[ENTRY_INFLIGHT] = 1;
	STEP();
	put_le16(queue->bytes + PACKED_FREE, at);
	STEP();
	put_le16(queue->bytes + PACKED_OLD_FREE, at);
	STEP();
	*entry = head;
	return true;
}

bool vhost_user_inflight_next(const struct vhost_user_inflight_queue *queue, uint16_t *entry,
			      struct vhost_user_inflight_descriptor *descriptor)
{
	const uint8_t *bytes;

	if (*entry >= queue->entries)
		return false;
	bytes = packed_entry(queue, *entry);
	*descriptor = (struct vhost_user_inflight_descriptor){
	    get_le64(bytes + PACKED_ADDRESS), get_le32(bytes + PACKED_LENGTH),
	    get_le16(bytes + PACKED_ID), get_le16(bytes + PACKED_FLAGS)};
	*entry = get_le16(bytes + PACKED_NEXT);
	return true;
}

void vhost_user_inflight_give_packed(struct vhost_user_inflight_queue *queue, uint16_t entry)
{
	uint16_t last = get_le16(packed_entry(queue, entry) + PACKED_LAST);
	uint32_t used = get_le16(queue->bytes + PACKED_USED) +
			(uint32_t)get_le16(packed_entry(queue, entry) + PACKED_COUNT);

	if (last < queue->entries)
		put_le16(packed_entry(queue, last) + PACKED_NEXT,
			 get_le16(queue->bytes + PACKED_FREE));
	STEP();
	put_le16(queue->bytes + PACKED_FREE, entry);
	if (used >= queue->entries) {
		used -= queue->entries;
		queue->bytes[PACKED_WRAP] = !queue->bytes[PACKED_WRAP];
	}
	STEP();
	put_le16(queue->bytes + PACKED_USED, (uint16_t)used);
	STEP();
}

void vhost_user_inflight_gave_packed(struct vhost_user_inflight_queue *queue,
				     const uint16_t *entries, uint16_t count)
{
	STEP();
	for (uint16_t i = 0; i < count; i++)
		packed_entry(queue, entries[i])[ENTRY_INFLIGHT] = 0;
	STEP();
	commit_batch(queue);
}
