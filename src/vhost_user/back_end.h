/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The back-end: what a process does that works for the virtio device of somebody else's machine.
 *
 * The library keeps the session: it answers the front-end, maps its memory, knows its rings. The
 * device (struct vhost_user_back_end_ops) is told when a ring runs and when it must stop; it reads
 * and writes rings and buffers through vhost_user_back_end_guest, marks what it writes, and signals.
 *
 * Trust. The front-end, and the guest behind it, control everything that arrives: requests and
 * descriptors are checked, every address is translated, and what does not fit ends the session with a
 * message that names it. What cannot be checked: a front-end that truncates a file which it has
 * shared makes any access to that part end the process with SIGBUS. Sealed memfds rule it out.
 *
 * Threads: one session, one thread. A device that works on rings with threads of its own stops them in
 * the callbacks that say so.
 */
#ifndef GODWIT_VHOST_USER_BACK_END_H
#define GODWIT_VHOST_USER_BACK_END_H

#include "vhost_user/message.h"

struct vhost_user_back_end;

/*
 * The device. Called from vhost_user_back_end_process; none may close the session. Those that
 * return an error refuse the request: it is not done, and the front-end is told, or, where it did
 * not ask to be, hung up on. All but start_ring and stop_ring may be NULL.
 */
struct vhost_user_back_end_ops {
	struct error *(*set_features)(void *context, uint64_t features);
	/* NULL: there is no configuration space. Bytes past its end read as the device likes. */
	struct error *(*get_config)(void *context, uint32_t offset, uint32_t size, uint8_t *bytes);
	/* @migration: also what drivers may not write. */
	struct error *(*set_config)(void *context, uint32_t offset, uint32_t size,
				    const uint8_t *bytes, bool migration);
	/* The ring has size, addresses, descriptors: vhost_user_back_end_ring. */
	struct error *(*start_ring)(void *context, uint32_t ring);
	void (*enable_ring)(void *context, uint32_t ring, bool enabled);
	/* Returns when nothing of the ring is under way; *@base is where it goes on. */
	struct error *(*stop_ring)(void *context, uint32_t ring, uint32_t *base);
	/* INBAND_NOTIFICATIONS only. */
	void (*ring_kicked)(void *context, uint32_t ring);
	/*
	 * This memory is about to be unmapped, or (@size 0) pointers or descriptors of rings and
	 * buffers are about to change: returns when nothing uses what it had of them. They are asked
	 * for again before they are used again.
	 */
	void (*memory_goes)(void *context, uint64_t guest_address, uint64_t size);
	/* Takes over @fd, in error too, and saves into it or loads from it up to its end. */
	struct error *(*transfer_state)(void *context, bool save, int fd);
	/* How the last transfer ended. */
	struct error *(*check_state)(void *context);
	void (*set_status)(void *context, uint8_t status);
	/* All rings have been stopped. */
	void (*reset)(void *context);
};

struct vhost_user_back_end_options {
	uint64_t features; /* of virtio; what belongs to the protocol is added */
	uint64_t protocol; /* protocol features to offer; those that need a callback only with it */
	uint32_t queues;   /* 1 to 256 */
	uint32_t queue_size; /* entries of the largest ring, a power of two, at most 32768 */
	uint32_t slots; /* pieces of memory, 1 to VHOST_USER_SLOTS_MAX; 0: 509, as others have */
	int64_t time_limit_ns;			   /* for a front-end to take an answer */
	const struct vhost_user_back_end_ops *ops; /* borrowed */
	void *context;				   /* for them */
};

/* Begins a session over @fd, which is taken over, also on error. */
struct error *vhost_user_back_end_open(int fd, const struct vhost_user_back_end_options *options,
				       struct vhost_user_back_end **back) MUST_CHECK;
/* Stops the rings, unmaps everything, hangs up. Accepts NULL. */
void vhost_user_back_end_close(struct vhost_user_back_end *back);
DEFINE_CLEANUP(vhost_user_back_end, struct vhost_user_back_end *, vhost_user_back_end_close)
#define AUTO_VHOST_USER_BACK_END AUTO(cleanup_vhost_user_back_end)

/* To watch for input: then vhost_user_back_end_process. */
int vhost_user_back_end_fd(const struct vhost_user_back_end *back);
/*
 * Handles the requests that have come, without waiting for more. An error ends the session: the
 * caller closes it. Code ECONNRESET: the front-end has hung up.
 */
struct error *vhost_user_back_end_process(struct vhost_user_back_end *back) MUST_CHECK;

/* What the driver has accepted, and what has been negotiated. */
uint64_t vhost_user_back_end_features(const struct vhost_user_back_end *back);
uint64_t vhost_user_back_end_protocol(const struct vhost_user_back_end *back);

struct vhost_user_back_end_ring {
	bool started, enabled;
	uint32_t size, base;
	/* In this process; NULL until the ring was started. */
	void *descriptor, *available, *used;
	int kick, call, error; /* eventfds; -1: none */
};

/* Ring @index, below the number of queues. Borrowed, changed by vhost_user_back_end_process. */
const struct vhost_user_back_end_ring *
vhost_user_back_end_ring(const struct vhost_user_back_end *back, uint32_t index);
/* Where in the guest the descriptors of a ring that was started are, for the log: packed rings are written. */
uint64_t vhost_user_back_end_descriptor_address(const struct vhost_user_back_end *back,
						uint32_t index);

/*
 * The guest's memory at @guest_address, @size bytes in one mapping; NULL: not all of it is there. The
 * pointer is good until memory_goes says otherwise. May be asked from any thread while no request
 * is processed.
 */
void *vhost_user_back_end_guest(const struct vhost_user_back_end *back, uint64_t guest_address,
				uint64_t size);
/* As above, from what there is at the address: *@size is lowered to it. For buffers over two mappings. */
void *vhost_user_back_end_guest_part(const struct vhost_user_back_end *back, uint64_t guest_address,
				     uint64_t *size);
/* Whether memory may be missing that only the front-end can bring (post-copy). */
bool vhost_user_back_end_in_postcopy(const struct vhost_user_back_end *back);
/* How many pieces of memory are mapped. */
uint32_t vhost_user_back_end_regions(const struct vhost_user_back_end *back);

/* Marks guest memory that was written, if that is being logged; after the write. Any thread. */
void vhost_user_back_end_wrote(struct vhost_user_back_end *back, uint64_t guest_address,
			       uint64_t size);
/* Marks bytes of a used ring that were written. */
void vhost_user_back_end_wrote_used(struct vhost_user_back_end *back, uint32_t ring,
				    uint64_t offset, uint64_t size);

/* Interrupts the driver for @ring, if it can be. Any thread. */
void vhost_user_back_end_call(struct vhost_user_back_end *back, uint32_t ring);
/* Tells the front-end that the configuration space has changed, if it listens. */
struct error *vhost_user_back_end_config_changed(struct vhost_user_back_end *back) MUST_CHECK;

/*
 * Where ring @index notes what is in flight (inflight.h), and how long that is; NULL: the front-end
 * keeps no such buffer.
 */
void *vhost_user_back_end_inflight(const struct vhost_user_back_end *back, uint32_t index,
				   size_t *size);

#endif
