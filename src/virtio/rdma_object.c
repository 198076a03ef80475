/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers of the RDMA device's objects, and events of theirs that wait until the driver gives buffers.
 *
 * A number is an index and a generation, so that one that the driver should not use any more mostly names
 * nothing. Runs on the device's loop; only making a table allocates.
 */
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define TOLD_COMPLETION 0x100U

bool adapter_numbers_init(struct adapter_numbers *numbers, uint32_t capacity, uint32_t last)
{
	numbers->objects = calloc(capacity, sizeof(struct adapter_object *));
	numbers->capacity = capacity;
	numbers->last = last;
	/* The lowest numbers have meanings, or are 0. */
	numbers->next = capacity;
	return numbers->objects;
}

void adapter_numbers_free(struct adapter_numbers *numbers)
{
	free(numbers->objects);
}

static struct adapter_object **slot_of(const struct adapter_numbers *numbers, uint32_t number)
{
	return &numbers->objects[number & (numbers->capacity - 1)];
}

bool adapter_numbers_add(struct adapter_numbers *numbers, struct adapter_object *object)
{
	for (uint32_t tries = 0; tries < numbers->capacity; tries++) {
		uint32_t number = numbers->next;

		numbers->next = number == numbers->last ? numbers->capacity : number + 1;
		if (*slot_of(numbers, number))
			continue;
		object->number = number;
		*slot_of(numbers, number) = object;
		return true;
	}
	return false;
}

void adapter_numbers_remove(struct adapter_numbers *numbers, const struct adapter_object *object)
{
	if (object->number)
		*slot_of(numbers, object->number) = NULL;
}

bool adapter_numbers_taken(const struct adapter_numbers *numbers, uint32_t number)
{
	return *slot_of(numbers, number);
}

void adapter_numbers_each(struct adapter_numbers *numbers, struct virtio_rdma *rdma,
			  void (*visit)(struct virtio_rdma *rdma, struct adapter_object *object))
{
	for (uint32_t i = 0; i < numbers->capacity; i++)
		if (numbers->objects[i])
			visit(rdma, numbers->objects[i]);
}

struct adapter_object *adapter_numbers_find(const struct adapter_numbers *numbers, uint32_t number)
{
	struct adapter_object *object = *slot_of(numbers, number);

	return object && object->number == number ? object : NULL;
}

/* --- Events ------------------------------------------------------------------------------------ */

void adapter_object_event(struct virtio_rdma *rdma, struct adapter_object *object, unsigned int bit)
{
	object->events |= UINT32_C(1) << bit;
	if (object->event_listed)
		return;
	object->event_listed = true;
	object->event_next = NULL;
	if (rdma->events)
		rdma->events_last->event_next = object;
	else
		rdma->events = object;
	rdma->events_last = object;
}

void adapter_object_forget_events(struct virtio_rdma *rdma, struct adapter_object *object)
{
	struct adapter_object *before = NULL;

	if (!object->event_listed)
		return;
	for (struct adapter_object *at = rdma->events; at != object; at = at->event_next)
		before = at;
	if (before)
		before->event_next = object->event_next;
	else
		rdma->events = object->event_next;
	if (rdma->events_last == object)
		rdma->events_last = before;
	object->event_listed = false;
	object->events = 0;
}

bool adapter_object_next_event(struct virtio_rdma *rdma, uint32_t *type, uint32_t *number)
{
	struct adapter_object *object = rdma->events;
	unsigned int bit;

	if (!object)
		return false;
	bit = (unsigned int)__builtin_ctz(object->events);
	*type = bit == EVENT_COMPLETION ? TOLD_COMPLETION : bit;
	*number = object->number;
	object->events &= object->events - 1;
	if (!object->events) {
		rdma->events = object->event_next;
		object->event_listed = false;
	}
	return true;
}
