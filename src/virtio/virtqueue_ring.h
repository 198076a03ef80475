/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to virtqueue*.c: what the two ring formats share, and what each offers to virtqueue.c.
 *
 * The rings are in guest memory and the guest may write them at any moment. A field is therefore
 * loaded exactly once, with one of the helpers below, and only the loaded value is checked and
 * used.
 *
 * Functions that find a rule broken return its description, a static string, and NULL otherwise.
 */
#ifndef GODWIT_VIRTIO_VIRTQUEUE_RING_H
#define GODWIT_VIRTIO_VIRTQUEUE_RING_H

#include <endian.h>
#include <stddef.h>

#include "virtio/virtqueue.h"

#define DESCRIPTOR_SIZE	    16 /* bytes, in both formats */
#define DESCRIPTOR_NEXT	    1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

/* A descriptor as loaded; @link is `next` in a split ring and the buffer id in a packed one. */
struct descriptor {
	uint64_t address;
	uint32_t size;
	uint16_t flags;
	uint16_t link;
};

/* Aligned 16-bit fields: indexes and flags, with the ordering that publishes or hides what they
 * cover. */
static inline uint16_t ring_load16(const uint8_t *host)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)host, __ATOMIC_ACQUIRE));
}

static inline void ring_store16(uint8_t *host, uint16_t value)
{
	__atomic_store_n((uint16_t *)(void *)host, htole16(value), __ATOMIC_RELEASE);
}

/* One load of 64 bits; an indirect table may lie at any address. */
static inline uint64_t ring_load64(const uint8_t *host)
{
	struct unaligned64 {
		uint64_t value;
	} __attribute__((packed));

	return le64toh(((const volatile struct unaligned64 *)(const void *)host)->value);
}

/* Virtio 1.2 section 2.7.10: whether moving from @previous to @now passes @event. */
static inline bool ring_event_passed(uint16_t event, uint16_t now, uint16_t previous)
{
	return (uint16_t)(now - event - 1) < (uint16_t)(now - previous);
}

/* Resolves a ring; false when it is no longer plugged memory. Inside a read section. */
bool ring_access(const struct virtqueue *queue, uint64_t address, uint64_t size,
		 enum memory_access_mode mode, uint8_t **host);
/* A field of a ring was written. */
static inline void ring_written(const struct virtqueue *queue, const uint8_t *host, uint64_t size)
{
	memory_written(queue->map, host, size);
}
/* Adds the buffer of @descriptor to @chain, checking all that can be said of it alone. */
const char *chain_add_buffer(const struct virtqueue *queue, struct virtqueue_chain *chain,
			     const struct descriptor *descriptor);
/* Checks that @descriptor may refer to an indirect table and gives its entries. */
const char *chain_indirect_table(const struct virtqueue *queue, const struct descriptor *descriptor,
				 const uint8_t **table, uint32_t *entries);
/* Marks @queue broken and its device in need of a reset. */
void virtqueue_break(struct virtqueue *queue, const char *reason);

/*
 * What a ring format implements; called inside a read section on a queue that is enabled and not
 * broken. Sizes are of the three areas for a queue of @size entries, in bytes.
 */
struct ring_format {
	uint64_t (*descriptors_size)(uint16_t size);
	uint64_t (*driver_size)(uint16_t size);
	uint64_t (*device_size)(uint16_t size);
	uint8_t driver_alignment, device_alignment;
	/* Whether a chain is available. */
	const char *(*available)(const struct virtqueue *queue, bool *available);
	/* Reads the chain that is available at the current position; moves the position past it. */
	const char *(*pop)(struct virtqueue *queue, struct virtqueue_chain *chain);
	void (*unpop)(struct virtqueue *queue, const struct virtqueue_chain *chain);
	/* Marks @count chains used; the driver sees all of them at once. */
	const char *(*push)(struct virtqueue *queue, const struct virtqueue_chain *chains,
			    const uint32_t *written, uint16_t count);
	/* Whether the driver wants an interrupt for what was pushed since signalled_used; moves
	 * that. */
	const char *(*interrupt_wanted)(struct virtqueue *queue, bool *wanted);
	const char *(*set_notifications)(struct virtqueue *queue, bool enable);
};

extern const struct ring_format ring_split, ring_packed;

#endif
