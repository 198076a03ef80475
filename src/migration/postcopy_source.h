/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Post-copy, the source's side: the guest has stopped here and is about to run at the destination,
 * which lacks pages. It is told which; then they follow, each once: those it asks for over their own
 * connection at once, all others in order over the data connections.
 *
 *	postcopy_source_create	before the guest is stopped: memory and the thread exist from here on
 *	postcopy_source_begin	the guest is stopped: what is pending is lacking there. Then
 *				migration_sender_end_round
 *	postcopy_source_request	the destination's PAGE_REQUESTs, from here on
 *	postcopy_source_stream	after the states of devices: all the rest, and the end
 *
 * The connection breaks: migration_sender_cancel, no more calls with what was received, then
 *	postcopy_source_detach	and the sender may be destroyed. All pages are still here
 *	postcopy_source_resume	with another link and sender; what the destination has it says itself:
 *	postcopy_source_received  its RECEIVEDs, after which the rest is streamed once more
 *
 * Where the host's pages are larger than 4 KiB, they are sent whole.
 *
 * Threads: request and received from who receives messages; the rest from one. The guest's memory, and
 * what of it is plugged, stays as it is from begin on.
 */
#ifndef GODWIT_MIGRATION_POSTCOPY_SOURCE_H
#define GODWIT_MIGRATION_POSTCOPY_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/memory_map.h"
#include "migration/link.h"
#include "migration/sender.h"

struct postcopy_source;

struct postcopy_source_ops {
	/*
	 * Once for each stream and each completed RECEIVED: the kernel has everything, the end of the
	 * data connections included; or @error, borrowed: the connection broke. On a thread of its own,
	 * which must not detach or destroy.
	 */
	void (*streamed)(void *context, const struct error *error);
};

/* @map and @ops outlive it. */
struct error *postcopy_source_create(struct memory_map *map, const struct postcopy_source_ops *ops,
				     void *context, struct postcopy_source **source) MUST_CHECK;
/* As detach. Accepts NULL. */
void postcopy_source_destroy(struct postcopy_source *source);
DEFINE_CLEANUP(postcopy_source, struct postcopy_source *, postcopy_source_destroy)
#define AUTO_POSTCOPY_SOURCE AUTO(cleanup_postcopy_source)

/*
 * Takes out of @pending (a bitmap for each block, as migration_sender_round's) what need not be sent
 * because it is not there: of the pages in @fresh, which are zeros at the destination, those that the
 * host has not made. Best before the guest is stopped, while writes are logged and before they are
 * collected for the last time: it looks at all of memory's page tables.
 */
struct error *postcopy_source_drop_absent(struct postcopy_source *source, uint64_t *const *pending,
					  uint64_t *const *fresh) MUST_CHECK;

/*
 * What is set in @pending (all that the destination does not have as it is now), and is plugged, is
 * still to come; tells the destination so. Nothing has been sent since the last round ended.
 */
struct error *postcopy_source_begin(struct postcopy_source *source, struct migration_link *link,
				    struct migration_sender *sender,
				    uint64_t *const *pending) MUST_CHECK;
/* All states of devices are sent. Begins to send what is pending; returns at once. */
void postcopy_source_stream(struct postcopy_source *source);
/* A PAGE_REQUEST. Sends what of it was not sent before, and waits for the connection meanwhile. */
struct error *postcopy_source_request(struct postcopy_source *source,
				      const struct migration_message *message) MUST_CHECK;

void postcopy_source_detach(struct postcopy_source *source);
void postcopy_source_resume(struct postcopy_source *source, struct migration_sender *sender);
/* A RECEIVED: of each block all words, in their order. After the last one it streams. */
struct error *postcopy_source_received(struct postcopy_source *source,
				       const struct migration_message *message) MUST_CHECK;

struct postcopy_source_progress {
	uint64_t total, left; /* pages that were pending at begin; not yet sent. Slow: counts */
	uint64_t requests;    /* messages */
};
void postcopy_source_progress(const struct postcopy_source *source,
			      struct postcopy_source_progress *progress);

#endif
