/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The front-end: what a VMM does with a device whose work another process does.
 *
 * A session begins with an open connection (socket.h has connect, listen and accept) and ends with
 * vhost_user_front_end_close, or when the back-end has broken the protocol, hung up, or not answered
 * within the time limit: then the connection is closed at once, every later call fails with the
 * first reason and code ECONNRESET, and the VMM begins a new session with a new connection. What has to
 * survive (the memory, ring positions, the in-flight buffer) is the caller's and is given again.
 *
 * A back-end that refuses a request (a non-zero acknowledgement) does not end the session: the call
 * fails with code EREMOTEIO and names the request.
 *
 * No message is sent that was not negotiated: code EOPNOTSUPP, and nothing has changed.
 *
 * Trust. The back-end controls every reply, its descriptors and its requests. Lengths, indices,
 * flags and numbers of descriptors are checked, and what does not fit is refused by name. What a
 * back-end can do to the guest is another matter: it has the guest's memory.
 *
 * Threads: one session, one thread. Calls block, each request for time_limit_ns at most.
 */
#ifndef GODWIT_VHOST_USER_FRONT_END_H
#define GODWIT_VHOST_USER_FRONT_END_H

#include "vhost_user/memory.h"
#include "vhost_user/message.h"

/* What a front-end usually wants: everything, but for what needs the caller to do more. */
#define VHOST_USER_PROTOCOL_USUAL                                                                  \
	(VHOST_USER_PROTOCOL_KNOWN &                                                               \
	 ~(VHOST_USER_PROTOCOL_STATUS | VHOST_USER_PROTOCOL_INBAND_NOTIFICATIONS))

/*
 * What the back-end tells on its own. Called from vhost_user_front_end_serve, and from any call that
 * waits for a reply; they must not call the session. Any may be NULL.
 */
struct vhost_user_front_end_events {
	void (*config_changed)(void *context);
	void (*ring_called)(void *context, uint32_t ring); /* INBAND_NOTIFICATIONS only */
	void (*ring_failed)(void *context, uint32_t ring); /* INBAND_NOTIFICATIONS only */
};

struct vhost_user_front_end_options {
	const char *name;      /* of the back-end, for messages: its socket; copied */
	uint64_t protocol;     /* protocol features that are wanted */
	int64_t time_limit_ns; /* for each request */
	const struct vhost_user_front_end_events *events; /* NULL: none; borrowed */
	void *context;					  /* for them */
};

struct vhost_user_front_end;

/*
 * Begins a session over @fd, which is taken over, also on error: features, protocol features, owner,
 * the number of queues and of memory slots, and the back-end's own channel.
 */
struct error *vhost_user_front_end_open(int fd, const struct vhost_user_front_end_options *options,
					struct vhost_user_front_end **front) MUST_CHECK;
/* Hangs up. Accepts NULL. */
void vhost_user_front_end_close(struct vhost_user_front_end *front);
DEFINE_CLEANUP(vhost_user_front_end, struct vhost_user_front_end *, vhost_user_front_end_close)
#define AUTO_VHOST_USER_FRONT_END AUTO(cleanup_vhost_user_front_end)

/* For requests from now on: GET_VRING_BASE, say, lasts as long as requests are under way. */
void vhost_user_front_end_limit(struct vhost_user_front_end *front, int64_t time_limit_ns);
/* Virtio features that are offered, without VHOST_USER_F_PROTOCOL_FEATURES. */
uint64_t vhost_user_front_end_features(const struct vhost_user_front_end *front);
/* Protocol features that have been negotiated. */
uint64_t vhost_user_front_end_protocol(const struct vhost_user_front_end *front);
/* How many queues the back-end has, at most 256; 0: it does not say. */
uint32_t vhost_user_front_end_queues(const struct vhost_user_front_end *front);
/* How many pieces of memory the back-end takes. */
uint32_t vhost_user_front_end_slots(const struct vhost_user_front_end *front);
/* Why the session has ended, or NULL. */
const char *vhost_user_front_end_broken(const struct vhost_user_front_end *front);
/* Messages sent so far. */
uint64_t vhost_user_front_end_sent(const struct vhost_user_front_end *front);

/*
 * Descriptors to watch. The main one becomes readable only when the back-end hangs up or breaks the
 * protocol; the other has its requests (-1: there is none), for vhost_user_front_end_serve.
 */
int vhost_user_front_end_fd(const struct vhost_user_front_end *front);
int vhost_user_front_end_backend_fd(const struct vhost_user_front_end *front);
/* Handles what the back-end has asked, without waiting. */
struct error *vhost_user_front_end_serve(struct vhost_user_front_end *front) MUST_CHECK;

/* Those of the offered @features that the driver wants. */
struct error *vhost_user_front_end_set_features(struct vhost_user_front_end *front,
						uint64_t features) MUST_CHECK;
/* The device's status, where STATUS was negotiated. */
struct error *vhost_user_front_end_set_status(struct vhost_user_front_end *front,
					      uint8_t status) MUST_CHECK;
struct error *vhost_user_front_end_get_status(struct vhost_user_front_end *front,
					      uint8_t *status) MUST_CHECK;
/* Rings must have been stopped before. */
struct error *vhost_user_front_end_reset(struct vhost_user_front_end *front) MUST_CHECK;
struct error *vhost_user_front_end_set_mtu(struct vhost_user_front_end *front,
					   uint16_t mtu) MUST_CHECK;
/* Announces the guest's new place on the network. */
struct error *vhost_user_front_end_send_rarp(struct vhost_user_front_end *front,
					     const uint8_t mac[6]) MUST_CHECK;

/* @size: 1 to VHOST_USER_CONFIG_MAX bytes of configuration space at @offset. */
struct error *vhost_user_front_end_get_config(struct vhost_user_front_end *front, uint32_t offset,
					      uint32_t size, void *bytes) MUST_CHECK;
/* @migration: also fields that a driver may not write. */
struct error *vhost_user_front_end_set_config(struct vhost_user_front_end *front, uint32_t offset,
					      uint32_t size, const void *bytes,
					      bool migration) MUST_CHECK;

/* --- Memory ------------------------------------------------------------------------------------ */

/*
 * Gives the back-end what is plugged of @memory, which stays the caller's and must live as long as the
 * session. After a session it is given to the next one: what the old back-end held is forgotten then.
 */
struct error *vhost_user_front_end_begin_memory(struct vhost_user_front_end *front,
						struct vhost_user_memory *memory) MUST_CHECK;
/*
 * Unplugs and plugs (vhost_user_memory_change). Returns when the back-end has done all of it: what it
 * no longer holds it does not touch any more. Several messages are under way at once. When the back-end
 * refuses an addition (code EREMOTEIO), everything else has been done, the refused range is not
 * covered, and the caller unplugs it again.
 */
struct error *vhost_user_front_end_change_memory(struct vhost_user_front_end *front,
						 const struct vhost_user_range *gone,
						 size_t gone_count,
						 const struct vhost_user_range *come,
						 size_t come_count) MUST_CHECK;
/* vhost_user_memory_tidy; mappings are replaced when no ring has been started. */
struct error *vhost_user_front_end_tidy_memory(struct vhost_user_front_end *front) MUST_CHECK;

/* --- Rings ------------------------------------------------------------------------------------- */

struct vhost_user_ring_setup {
	uint16_t size; /* entries */
	uint32_t base; /* where it goes on (vhost_user_front_end_stop_ring) */
	uint64_t descriptor, available, used; /* guest addresses */
	/* eventfds, borrowed; -1: none (polled, not told). Back-ends make them non-blocking. */
	int kick, call, error;
};

/*
 * Starts ring @index, stopped until now. Its memory must be plugged; it stays with the back-end until the
 * ring is stopped, whatever is unplugged. It is enabled with vhost_user_front_end_enable_ring, where
 * the back-end has protocol features; others enable it here.
 */
struct error *vhost_user_front_end_start_ring(struct vhost_user_front_end *front, uint32_t index,
					      const struct vhost_user_ring_setup *setup) MUST_CHECK;
struct error *vhost_user_front_end_enable_ring(struct vhost_user_front_end *front, uint32_t index,
					       bool enable) MUST_CHECK;
/* Another descriptor for the back-end's interrupts; -1: none. */
struct error *vhost_user_front_end_set_call(struct vhost_user_front_end *front, uint32_t index,
					    int call) MUST_CHECK;
/* Without kick descriptors (INBAND_NOTIFICATIONS). */
struct error *vhost_user_front_end_kick(struct vhost_user_front_end *front,
					uint32_t index) MUST_CHECK;
/*
 * Stops the ring, after which the back-end touches nothing for it; *@base (may be NULL) is where it
 * goes on, here or elsewhere. Waits until requests under way are done. A ring that is stopped
 * already is an error. Memory that was kept for it alone goes with vhost_user_front_end_tidy_memory.
 */
struct error *vhost_user_front_end_stop_ring(struct vhost_user_front_end *front, uint32_t index,
					     uint32_t *base) MUST_CHECK;

/* --- What moves -------------------------------------------------------------------------------- */

/*
 * The back-end marks what it writes in the bitmap at @offset of @fd, a bit for each 4096 bytes of guest
 * memory from address 0 on. Rings that run are told; those that start later begin so.
 */
struct error *vhost_user_front_end_start_log(struct vhost_user_front_end *front, int fd,
					     uint64_t offset, uint64_t size) MUST_CHECK;
struct error *vhost_user_front_end_stop_log(struct vhost_user_front_end *front) MUST_CHECK;

/*
 * A buffer in which the back-end notes what is under way, made by it: *@fd is the caller's. To be
 * given back (vhost_user_front_end_set_inflight) to it, and to its successor.
 */
struct error *vhost_user_front_end_get_inflight(struct vhost_user_front_end *front, uint16_t queues,
						uint16_t queue_size,
						struct vhost_user_inflight *inflight,
						int *fd) MUST_CHECK;
struct error *vhost_user_front_end_set_inflight(struct vhost_user_front_end *front,
						const struct vhost_user_inflight *inflight,
						int fd) MUST_CHECK;

enum vhost_user_direction { VHOST_USER_SAVE, VHOST_USER_LOAD };

/*
 * Begins the transfer of the device's state, all rings stopped. @fd is the back-end's end of a pipe or the
 * like, which stays the caller's (to be closed, or the end is never seen). *@other: -1, or a descriptor
 * that the back-end prefers, which is the caller's; then the caller's own channel is not used.
 */
struct error *vhost_user_front_end_begin_state(struct vhost_user_front_end *front,
					       enum vhost_user_direction direction, int fd,
					       int *other) MUST_CHECK;
/* Whether it worked; after the channel was at its end. Never idly: that is an error with some. */
struct error *vhost_user_front_end_check_state(struct vhost_user_front_end *front) MUST_CHECK;

/*
 * Post-copy. Two dialects are in the field. With TABLE all memory goes in one SET_MEM_TABLE, whose reply
 * has the addresses; all back-ends with PAGEFAULT speak it, up to 8 pieces. With SLOTS each
 * ADD_MEM_REG is answered so, and one with the number 0 ends the list: QEMU sends it, and
 * libvhost-user ends the connection over it, as the specification forbids the pair. godwit's own
 * back-end speaks both.
 */
enum vhost_user_postcopy {
	VHOST_USER_POSTCOPY_OFF,
	VHOST_USER_POSTCOPY_TABLE,
	VHOST_USER_POSTCOPY_SLOTS,
};

/* The back-end opens a userfaultfd, which is the caller's. */
struct error *vhost_user_front_end_advise_postcopy(struct vhost_user_front_end *front,
						   int *userfault) MUST_CHECK;
/*
 * Post-copy begins, before vhost_user_front_end_begin_memory: that and every later change of memory
 * is answered with addresses. Code ENOSPC from begin_memory: more than 8 pieces with TABLE.
 */
struct error *vhost_user_front_end_listen_postcopy(struct vhost_user_front_end *front,
						   enum vhost_user_postcopy dialect) MUST_CHECK;
/* All pages are there. */
struct error *vhost_user_front_end_end_postcopy(struct vhost_user_front_end *front) MUST_CHECK;

/* Where the back-end has mapped memory, for its userfaultfd. */
struct vhost_user_client_range {
	uint64_t guest_address, size, address;
};
/* The @index-th of them; false: there are no more. They are known when begin_memory returns. */
bool vhost_user_front_end_client_range(const struct vhost_user_front_end *front, size_t index,
				       struct vhost_user_client_range *range);
/*
 * Called before the back-end may touch the memory of a change: the caller registers the ranges with who
 * serves faults. NULL: nobody. May not call the session but vhost_user_front_end_client_range.
 */
void vhost_user_front_end_on_ranges(struct vhost_user_front_end *front,
				    struct error *(*ready)(void *context), void *context);

#endif
