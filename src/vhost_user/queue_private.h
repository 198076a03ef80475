/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the two ring formats of queue.h share. A field that the guest may change at any moment is loaded
 * once, with one of the helpers below. Functions that find a rule broken return its description, a
 * static string, and NULL otherwise.
 */
#ifndef GODWIT_VHOST_USER_QUEUE_PRIVATE_H
#define GODWIT_VHOST_USER_QUEUE_PRIVATE_H

#include <endian.h>

#include "vhost_user/queue.h"

#define DESCRIPTOR_SIZE	    16 /* bytes, in both formats */
#define DESCRIPTOR_NEXT	    1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

static inline uint16_t queue_load16(const uint8_t *host)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_ACQUIRE));
}

static inline void queue_store16(uint8_t *host, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)host, htole16(value), __ATOMIC_RELEASE);
}

/* One load; an indirect table may lie at any address. */
static inline uint64_t queue_load64(const uint8_t *host)
{
	struct unaligned64 {
		uint64_t value;
	} __attribute__((packed));

	return le64toh(((const volatile struct unaligned64 *)(const void *)host)->value);
}

/* Virtio 1.2 section 2.7.10: whether moving from @previous to @now passes @event. */
static inline bool queue_event_passed(uint16_t event, uint16_t now, uint16_t previous)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - previous);
}

/* Adds the buffer that is described to @chain. */
const char *queue_add_buffer(const struct vhost_user_queue *queue, struct vhost_user_chain *chain,
			     uint64_t address, uint32_t size, uint16_t flags);
/* An indirect table of @size bytes at @address. */
const char *queue_indirect_table(const struct vhost_user_queue *queue, uint64_t address,
				 uint32_t size, const uint8_t **table, uint32_t *entries);

/* What a ring format implements, on a queue that is not broken. */
struct vhost_user_queue_format {
	/* From where the front-end says, and from the in-flight buffer if there is one. */
	struct error *(*begin)(struct vhost_user_queue *queue, uint32_t base, void *inflight);
	uint32_t (*base)(const struct vhost_user_queue *queue);
	const char *(*available)(const struct vhost_user_queue *queue, bool *available);
	const char *(*pop)(struct vhost_user_queue *queue, struct vhost_user_chain *chain);
	/* A chain that is in flight since a predecessor's time. */
	const char *(*pop_again)(struct vhost_user_queue *queue, struct vhost_user_chain *chain,
				 const struct vhost_user_inflight_request *request);
	void (*push)(struct vhost_user_queue *queue, const struct vhost_user_chain *chain,
		     uint32_t written);
	bool (*interrupt_wanted)(struct vhost_user_queue *queue);
	void (*set_notifications)(struct vhost_user_queue *queue, bool enable);
};

extern const struct vhost_user_queue_format vhost_user_queue_split, vhost_user_queue_packed;

#endif
