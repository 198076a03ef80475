/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the back-end share. */
#ifndef GODWIT_VHOST_USER_BACK_END_PRIVATE_H
#define GODWIT_VHOST_USER_BACK_END_PRIVATE_H

#include <sys/types.h>

#include "vhost_user/back_end.h"
#include "vhost_user/memory.h"
#include "vhost_user/socket.h"

#define RING_PACKED (1ULL << 34) /* VIRTIO_F_RING_PACKED */

/* A file that is mapped, or a part of one. */
struct back_file {
	uint8_t *bytes; /* what was asked for; NULL: nothing */
	uint64_t size;
	void *map; /* what is mapped for it */
	size_t map_size;
};

struct back_region {
	struct vhost_user_region region;
	struct back_file file;
	dev_t device;
	ino_t inode;
	bool faults; /* registered with the userfaultfd */
	bool kept;   /* was in the table before the one that is being made */
};

/* Regions, sorted in two ways. */
struct back_table {
	struct back_region **by_guest, **by_user;
	uint32_t count, capacity;
};

struct back_ring {
	struct vhost_user_back_end_ring is;
	struct vhost_user_ring_address address;
	bool has_address;
	uint64_t descriptor_address; /* in the guest, while it is started */
};

enum back_postcopy { BACK_POSTCOPY_OFF, BACK_POSTCOPY_ADVISED, BACK_POSTCOPY_LISTENS };

struct vhost_user_back_end {
	struct vhost_user_socket socket, backend;
	struct vhost_user_back_end_options options;
	uint64_t offered, offered_protocol;
	uint64_t features, protocol;
	struct back_ring rings[VHOST_USER_RINGS_MAX];
	struct back_table table;
	struct back_file log, inflight;
	uint16_t inflight_queues, inflight_queue_size;
	uint8_t status;
	enum back_postcopy postcopy;
	int userfault;
	bool gated; /* post-copy: addresses were told, and the memory may not be touched yet */
};

/* Maps @size bytes at @offset of the file @fd, which stays open; checks that it has so many. */
struct error *back_map(int fd, uint64_t offset, uint64_t size, struct back_file *file) MUST_CHECK;
void back_unmap(struct back_file *file);

/* --- Memory (back_end_memory.c) ---------------------------------------------------------------- */

/* Handlers of requests. Those with an answer of their own put it into @reply and set its type. */
struct error *back_set_table(struct vhost_user_back_end *back, struct vhost_user_message *message,
			     struct vhost_user_message *reply) MUST_CHECK;
struct error *back_add_region(struct vhost_user_back_end *back, struct vhost_user_message *message,
			      struct vhost_user_message *reply) MUST_CHECK;
struct error *back_remove_region(struct vhost_user_back_end *back,
				 struct vhost_user_message *message,
				 struct vhost_user_message *reply) MUST_CHECK;
void back_free_table(struct vhost_user_back_end *back, struct back_table *table);
/* The user range in this process; NULL: it is not wholly in one region. */
void *back_user(const struct back_table *table, uint64_t user_address, uint64_t size);
/* The guest address of a user address that is in @table. */
uint64_t back_guest_address(const struct back_table *table, uint64_t user_address);

/* --- Rings (back_end_rings.c) ------------------------------------------------------------------ */

struct error *back_ring_request(struct vhost_user_back_end *back,
				struct vhost_user_message *message,
				struct vhost_user_message *reply) MUST_CHECK;
/* Finds the rings that run in @table. With @commit their pointers change, otherwise it is a test. */
struct error *back_resolve_rings(struct vhost_user_back_end *back, const struct back_table *table,
				 bool commit) MUST_CHECK;
/* Whether a ring that runs has a part in this user range. */
bool back_ring_uses(const struct vhost_user_back_end *back, const struct vhost_user_region *region);
bool back_any_runs(const struct vhost_user_back_end *back);
void back_stop_rings(struct vhost_user_back_end *back);
void back_enable_all(struct vhost_user_back_end *back);
void back_close_rings(struct vhost_user_back_end *back);

/* --- State (back_end_state.c) ------------------------------------------------------------------ */

struct error *back_state_request(struct vhost_user_back_end *back,
				 struct vhost_user_message *message,
				 struct vhost_user_message *reply) MUST_CHECK;
/* Registers @region with the userfaultfd. */
struct error *back_watch_faults(struct vhost_user_back_end *back,
				struct back_region *region) MUST_CHECK;

#endif
