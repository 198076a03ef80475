/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Post-copy, the destination's side: the guest runs here while pages are still at the source. Who
 * touches one that is lacking waits until it has come; it is asked for at once, once. Pages are put in
 * place whole, so that nobody sees half of one, and never over one that is there.
 *
 *	postcopy_destination_create	before ACCEPT: all memory for it exists from here on
 *	postcopy_destination_pending	the source's PENDINGs, each after the round that had ended before
 *					it was applied: what will be lacking
 *	postcopy_destination_begin	in the receiver's round_ended, of the round that ends behind
 *					them, once what is plugged is as at the source, and after
 *					migration_receiver_set_placing. Faults wait from here on
 *	postcopy_destination_attach	requests go over this link
 *	postcopy_destination_place	the receiver's `place`
 *
 * The connection breaks: migration_link_cancel, migration_receiver_destroy, then
 *	postcopy_destination_detach	faults wait, nothing else
 *	postcopy_destination_resume	with another link, whose receiver places from its start on: says
 *					what has come (RECEIVED), and asks for what is waited for
 *
 * Memory that is given back to the host while it is lacking (balloon, unplug, reset) becomes zeros, and
 * what comes for it later is dropped; what is plugged anew is zeros.
 *
 * A page that comes twice, or that was never pending, or a part of a page of the host behind a part of
 * another: place fails, which ends the connection, and nothing was overwritten. So it is when the host
 * has no memory for a page: it is lacking still.
 *
 * Nobody else may watch missing pages meanwhile (live snapshots): what is lacking would be zeros for
 * them. Threads: begin, attach, detach, resume, destroy from one at a time; pending before begin, from
 * any one; place from the receiver's; faults and discards from any.
 */
#ifndef GODWIT_MIGRATION_POSTCOPY_DESTINATION_H
#define GODWIT_MIGRATION_POSTCOPY_DESTINATION_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "memory/userfault.h"
#include "migration/link.h"

struct postcopy_destination;

struct postcopy_destination_ops {
	/* Nothing is lacking any more; once, on any thread, with locks held: pass it on and return. */
	void (*completed)(void *context);
	/* Requests cannot be sent: @error, borrowed. Nothing more is sent before resume. Likewise. */
	void (*lost)(void *context, const struct error *error);
};

struct postcopy_destination_options {
	uint32_t connections; /* that pages come over: all of a receiver's */
	/* Bytes of a page of each block at the source, of which no page here may be larger. NULL: as
	 * here. */
	const uint64_t *page_sizes;
};

/*
 * Refuses memory that cannot be watched. @map, @userfault and @ops outlive it. Blocks that commit were
 * made only to reserve (ram_block_set_reserving): there may be no room to bring a page otherwise.
 */
struct error *postcopy_destination_create(struct memory_map *map, struct userfault *userfault,
					  const struct postcopy_destination_options *options,
					  const struct postcopy_destination_ops *ops, void *context,
					  struct postcopy_destination **destination) MUST_CHECK;
/*
 * Before it has completed, what is lacking reads as zeros from here on. Commits are no longer
 * reservations; the caller may want ram_rest_take. Detached, the receiver is gone. Accepts NULL.
 */
void postcopy_destination_destroy(struct postcopy_destination *destination);
DEFINE_CLEANUP(postcopy_destination, struct postcopy_destination *, postcopy_destination_destroy)
#define AUTO_POSTCOPY_DESTINATION AUTO(cleanup_postcopy_destination)

struct error *postcopy_destination_pending(struct postcopy_destination *destination,
					   const struct migration_message *message) MUST_CHECK;
/* Whether a PENDING has come: the round that ends next is the last one. Any thread. */
bool postcopy_destination_is_pending(const struct postcopy_destination *destination);
/*
 * Drops what is here of pages that are pending, which is old, and watches. Nobody has used the memory
 * so far. Refuses pages that are not plugged, and parts of a page of the host.
 */
struct error *postcopy_destination_begin(struct postcopy_destination *destination) MUST_CHECK;

void postcopy_destination_attach(struct postcopy_destination *destination,
				 struct migration_link *link);
void postcopy_destination_detach(struct postcopy_destination *destination);
struct error *postcopy_destination_resume(struct postcopy_destination *destination,
					  struct migration_link *link) MUST_CHECK;

/*
 * Nobody needs the memory any more, and nobody shall wait for it: what is lacking reads as zeros from
 * here on, and nothing can be put in place. To be destroyed next. Any thread.
 */
void postcopy_destination_release(struct postcopy_destination *destination);

/* migration_receiver_ops.place; the context is the struct postcopy_destination. */
struct error *postcopy_destination_place(void *destination, uint32_t connection, uint32_t block,
					 uint64_t first, uint64_t count,
					 const void *bytes) MUST_CHECK;

/*
 * When the receiver has ended without an error: one that names a page which has not come and will not
 * come any more. Nothing is lost, the source still has it: as if the connection had broken.
 */
struct error *postcopy_destination_check(const struct postcopy_destination *destination) MUST_CHECK;

struct postcopy_destination_progress {
	uint64_t total, lacking; /* pages that were lacking at begin, and are now */
	uint64_t dropped;	 /* of total: given back before they came */
	uint64_t asked;		 /* pages of the host that somebody waited for */
	uint64_t requests;	 /* messages that it took */
};
/* Any thread. */
void postcopy_destination_progress(const struct postcopy_destination *destination,
				   struct postcopy_destination_progress *progress);

#endif
