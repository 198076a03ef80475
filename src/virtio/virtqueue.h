/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A virtqueue from the device's side, split or packed (virtio 1.2 sections 2.7 and 2.8).
 *
 * The guest controls every byte of the rings. Whatever is malformed (an address outside plugged
 * memory, an index out of range, a loop, a chain longer than the queue, a readable buffer behind a
 * writable one) makes the queue broken: virtqueue_pop returns -EINVAL, and the device has been
 * marked "needs reset" with the rule that was broken. In-flight chains stay good and are still to
 * be pushed or discarded.
 *
 * What a device may rely on: never more chains in flight than the queue has entries; every iovec is
 * plugged memory; no empty buffers; at most 4 GiB in a chain. What it may not rely on: that ids
 * differ, or that bytes read twice are the same.
 *
 * A queue belongs to one thread (its loop, see virtio_device.h). Nothing here allocates after
 * start.
 */
#ifndef GODWIT_VIRTIO_VIRTQUEUE_H
#define GODWIT_VIRTIO_VIRTQUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory/memory_map.h"

#define VIRTQUEUE_SIZE_MAX 1024

struct state;
struct virtio_device;

/* What the driver set up; written by the transport before the queue is enabled. */
struct virtqueue_layout {
	uint16_t size;	      /* entries, at most size_max; a power of two for split rings */
	uint64_t descriptors; /* guest physical: descriptor table, or packed descriptor ring */
	uint64_t driver;      /* available ring, or driver event suppression */
	uint64_t device;      /* used ring, or device event suppression */
};

struct virtqueue {
	struct virtio_device *owner;
	uint16_t index;
	uint16_t size_max; /* what the device offers; a power of two, at most VIRTQUEUE_SIZE_MAX */
	bool enabled;
	bool broken;
	struct virtqueue_layout layout;
	struct memory_map *map;
	bool packed;	/* VIRTIO_F_RING_PACKED negotiated */
	bool event_idx; /* VIRTIO_F_EVENT_IDX negotiated */
	bool indirect;	/* VIRTIO_F_INDIRECT_DESC negotiated */
	bool in_order;	/* reserved: not offered */

	/* Positions; private to virtqueue.c and to save/load. */
	uint16_t next_avail; /* split: index into avail; packed: ring position */
	uint16_t next_used;
	bool avail_wrap, used_wrap; /* packed wrap counters, 1 at start */
	uint16_t signalled_used;    /* position at the last interrupt */
	bool signalled_valid;
	uint16_t in_flight; /* chains popped and not yet pushed */
	uint64_t chains;    /* popped since start, a counter for reports */
};

/*
 * A chain of buffers popped from the queue. The caller provides the iovec array (once, on start).
 * Readable (driver to device) entries come first. The memory may be used until virtqueue_push or
 * virtqueue_discard, on any thread: the chain holds a read section of the memory map open.
 * Unplugging memory waits for it, so a device must not unplug while it holds a chain: copy the
 * request, virtqueue_unpop, unplug, pop again to answer.
 *
 * A buffer that crosses from one memory region into the next takes an iovec for each.
 *
 * What was written to the chain is marked for the log of writes (memory/dirty_log.h) when it is
 * pushed, put back or discarded, before the driver can see it: what virtqueue_push is told, and
 * beyond that up to `reached`, which virtqueue_chain_write and virtqueue_chain_in raise.
 */
struct virtqueue_chain {
	struct iovec *iov;    /* provided by the caller */
	uint16_t iov_max;     /* its capacity; a chain with more buffers breaks the queue */
	uint16_t out_count;   /* readable entries: iov[0 .. out_count) */
	uint16_t in_count;    /* writable entries: iov[out_count .. out_count + in_count) */
	uint64_t out_size;    /* bytes */
	uint64_t in_size;     /* bytes */
	uint64_t reached;     /* bytes of the writable part that may have been written */
	uint16_t id;	      /* head descriptor or buffer id */
	uint16_t descriptors; /* ring descriptors used (packed) */
	int section;	      /* token of the read section */
};

/* Sets what the device offers; once, when the device is created. */
void virtqueue_init(struct virtqueue *queue, struct virtio_device *owner, uint16_t index,
		    uint16_t size_max);
/* Back to the state after virtqueue_init; no chain may be in flight. */
void virtqueue_reset(struct virtqueue *queue);
/*
 * Called when the driver enables the queue: checks alignment, size and that all rings are plugged
 * memory. 0 or -EINVAL (the queue is then broken).
 */
int virtqueue_enable(struct virtqueue *queue, struct memory_map *map, uint64_t features) MUST_CHECK;

/*
 * The ring's place and positions (base/state.h), on a queue without a chain in flight; what is
 * loaded is checked by the rules of virtqueue_enable, but for the memory at the addresses, which is
 * looked at when the queue is used. @map and @features are for a load.
 */
void virtqueue_state(struct virtqueue *queue, struct memory_map *map, uint64_t features,
		     struct state *state);

/* Takes the next chain. 1: *chain is filled; 0: nothing available; -EINVAL: broken. */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain) MUST_CHECK;
/* Puts the last popped chain back as if it had not been popped; closes its read section. */
void virtqueue_unpop(struct virtqueue *queue, struct virtqueue_chain *chain);
/*
 * Completes @chain with @written bytes written to its writable part (from its start); closes its
 * read section. Chains may complete in any order. The guest sees it at once, but is interrupted
 * only by virtqueue_notify.
 */
void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written);
/*
 * Completes @count > 0 chains in their order, chains[i] with written[i] bytes, so that the driver
 * sees either all or none of them: the parts of a packet in merged receive buffers (section
 * 5.1.6.4).
 */
void virtqueue_push_many(struct virtqueue *queue, struct virtqueue_chain *chains,
			 const uint32_t *written, uint16_t count);
/* Drops a chain without completing it (device reset): closes its read section. */
void virtqueue_discard(struct virtqueue *queue, struct virtqueue_chain *chain);
/* Interrupts the driver if it asked for it since the last time. Call once per batch of pushes. */
void virtqueue_notify(struct virtqueue *queue);

/*
 * Asks the driver to notify (or not to notify) of new chains: of any beyond those it has made
 * available, even if some of these were put back by virtqueue_unpop. After enabling, returns true
 * if a chain is available, and the caller pops again. The usual loop:
 *     do { virtqueue_notifications(q, false); while (pop) …; } while (virtqueue_notifications(q,
 *     true));
 */
bool virtqueue_notifications(struct virtqueue *queue, bool enable);
/* Whether a chain is available. */
bool virtqueue_has_chain(struct virtqueue *queue);

/* Copies @size bytes from the readable part at @offset; false if it is shorter. */
bool virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset, void *buffer,
			  size_t size) MUST_CHECK;
/* Copies @size bytes to the writable part at @offset; false if it is shorter. */
bool virtqueue_chain_write(struct virtqueue_chain *chain, uint64_t offset, const void *buffer,
			   size_t size) MUST_CHECK;
/* The writable part for who writes to it directly: all of it counts as written from now on. */
static inline struct iovec *virtqueue_chain_in(struct virtqueue_chain *chain)
{
	chain->reached = chain->in_size;
	return chain->iov + chain->out_count;
}
/* For who knows afterwards that through virtqueue_chain_in only the first @size bytes at most were
 * written, and all of it nowhere else. */
static inline void virtqueue_chain_wrote(struct virtqueue_chain *chain, uint64_t size)
{
	chain->reached = size;
}
/* The writable part for who only looks at it. */
static inline const struct iovec *virtqueue_chain_in_place(const struct virtqueue_chain *chain)
{
	return chain->iov + chain->out_count;
}

#endif
